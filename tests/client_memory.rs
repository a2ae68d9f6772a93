//! What a client leaves behind in memory. A program of its own: its allocations are counted.

#![allow(clippy::disallowed_types, reason = "an allocator that counts")]

mod world;

use std::alloc::System;
use std::sync::{Mutex, PoisonError};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use weirgate::auth::{Acl, Identity, NameSyntax, Rights, RightsCheck, TokenNameLimits};
use weirgate::hub::{Limits, SessionKey};
use world::World;
use world::client::{Compressor, frame, request_with};
use world::toys::Symbols;

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time counts.
static TURN: Mutex<()> = Mutex::new(());

fn bytes_in_use() -> usize {
    let stats = MEMORY.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Thousands of clients that each sent one large message would else hold its memory for hours.
#[test]
fn a_large_message_leaves_no_memory_with_its_client() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Bytes for each client of `clients` more that 64 compressed messages leave behind.
fn left_by_requests(offer: &str, clients: usize) -> usize {
    let mut world = World::new(Limits::default(), Symbols::default(), 1);
    let mut compressor = Compressor::default();
    compressor.stays = !offer.contains("client_no_context_takeover");
    // The toy takes no notice of these.
    let messages: Vec<_> = (0..64)
        .map(|n| {
            format!(
                r#"{{"action":"subscribe","channels":["market:tick:S{:03}"]}}"#,
                n * 7_919 % 1_000
            )
        })
        .map(|text| frame(0xc1, &compressor.message(text.as_bytes())))
        .collect();
    let keys: Vec<_> = (0..=clients)
        .map(|_| {
            let key = world.accept(usize::MAX);
            world.send(key, &request_with("/ws", Some(offer)));
            key
        })
        .collect();
    let mut send = |key: SessionKey| {
        for message in &messages {
            world.send(key, message);
        }
        assert!(world.client(key).close.is_none(), "closed");
        let socket = world.net.sockets.get_mut(&key).expect("a socket");
        socket.unread.shrink_to_fit();
    };
    // What all clients share has its size after the first.
    send(keys[0]);
    let before = bytes_in_use();
    keys[1..].iter().copied().for_each(send);
    bytes_in_use().saturating_sub(before) / clients
}

#[test]
fn short_compressed_requests_leave_less_than_a_kilobyte_with_their_client() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
    ] {
        let kept = left_by_requests(offer, 300);
        println!("{offer}: {kept} bytes for each client");
        assert!(kept > 100 && kept < 1_000, "{kept} bytes for each client");
    }
    let none = left_by_requests("permessage-deflate; client_no_context_takeover", 30);
    assert!(none < 50, "{none} bytes for each client");
}

/// Clients whose token has many names, and clients of a table with names for each user.
#[test]
fn names_of_a_client_take_no_more_than_their_text() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = TokenNameLimits {
        names_max: 50,
        name_bytes_max: 512,
    };
    for syntax in [NameSyntax::Redis, NameSyntax::Nats] {
        let (of_user, dot) = match syntax {
            NameSyntax::Redis => ("t:{sub}:*", ":"),
            NameSyntax::Nats => ("t.{sub}.>", "."),
        };
        let table = format!(r#"{{"user": ["{of_user}"]}}"#);
        let mut acl = Acl::read(syntax, table.as_bytes()).expect("a table");
        for end in ["x", "*"] {
            let name = |n: usize| ["t", &"x".repeat(90), &n.to_string(), end].join(dot);
            let names: Vec<String> = (0..limits.names_max).map(name).collect();
            let text: usize = names.iter().map(String::len).sum();
            let mut client = || {
                let identity = Identity {
                    user: Some("ann".to_owned()),
                    names: Ok(names.clone()),
                    ..Identity::default()
                };
                let rights = acl.admit(&identity, "user", limits).expect("admitted");
                for (asked, granted) in [(&names[7], true), (&"t*".to_owned(), false)] {
                    let mut check = RightsCheck::new(&rights, 100_000);
                    assert_eq!(acl.grants(&mut check, asked), Ok(granted), "{asked}");
                }
                rights
            };
            // What all clients share has its size after the first.
            let first = client();
            let before = bytes_in_use();
            let clients: Vec<Rights> = (0..200).map(|_| client()).collect();
            let kept = (bytes_in_use() - before) / clients.len();
            println!("{syntax:?} {end}: {kept} bytes for {text} of text");
            assert!(kept < text + 48 * limits.names_max, "{kept} for {text}");
            drop(first);
        }
    }
}
