//! What a client leaves behind in memory. A program of its own: its allocations are counted.

#![allow(clippy::disallowed_types, reason = "an allocator that counts")]

mod world;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use weirgate::hub::Limits;
use world::World;
use world::toys::Symbols;

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn bytes_in_use() -> usize {
    let stats = MEMORY.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Thousands of clients that each sent one large message would else hold its memory for hours.
#[test]
fn a_large_message_leaves_no_memory_with_its_client() {
    let mut world = World::new(Limits::default(), Symbols::default(), 1);
    let large = "x".repeat(60_000);
    let keys: Vec<_> = (0..10).map(|_| world.connect("/ws", None)).collect();
    // What all clients share has its size after the first.
    world.text(keys[0], &large);
    let before = bytes_in_use();
    for key in &keys[1..] {
        world.text(*key, &large);
        let socket = world.net.sockets.get_mut(key).expect("a socket");
        socket.unread.shrink_to_fit();
    }
    let kept = bytes_in_use().saturating_sub(before) / (keys.len() - 1);
    assert!(kept < 1_000, "{kept} bytes for each client");
}
