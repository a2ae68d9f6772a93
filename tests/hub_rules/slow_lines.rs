//! A pong behind bytes, in either direction: a client on a slow line is not silent.

use weirgate_core::{CloseReason, SessionKey};
use weirgate_wire::admission::TrustedProxies;

use super::deadlines::pinged;
use super::{SECOND, symbols};
use crate::world::World;
use crate::world::client::frame;
use crate::world::toys::Symbols;

impl World<Symbols> {
    fn await_ping(&mut self, key: SessionKey) {
        while self.client(key).pings == 0 {
            self.advance(SECOND / 10);
        }
    }
}

/// A line of 20 kB/s, behind which nobody sees the bytes that are under way.
#[test]
fn a_pong_has_time_for_the_bytes_before_its_ping() {
    let mut world = symbols(pinged());
    let key = world.reader(None, usize::MAX);
    world.publish(200_000);
    world.await_ping(key);
    world.advance(15 * SECOND - SECOND / 5);
    assert_eq!(
        world.reason(key),
        None,
        "10 s for the bytes, 5 s for the pong"
    );
    world.send(key, &frame(0x8a, b""));
    // What was answered for is no excuse for the next pong.
    let pings = world.client(key).pings;
    while world.client(key).pings == pings {
        world.advance(SECOND / 10);
    }
    world.advance(5 * SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::PongTimeout));
}

#[test]
fn the_time_for_bytes_before_a_ping_is_bounded() {
    let mut limits = pinged();
    limits.send_queue.stall_us = 30 * SECOND;
    let mut world = symbols(limits);
    let key = world.reader(None, usize::MAX);
    (0..10).for_each(|_| drop(world.publish(1_000_000)));
    world.await_ping(key);
    world.advance(34 * SECOND);
    assert_eq!(world.reason(key), None);
    world.advance(SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::PongTimeout));
}

#[test]
fn a_client_that_reads_slowly_is_not_silent() {
    let mut limits = pinged();
    limits.pong_timeout_us = 20 * SECOND;
    let mut world = symbols(limits);
    let key = world.reader(None, 1_000);
    world.await_ping(key);
    // Behind the ping: nothing of it counts for the time of the pong.
    (0..20).for_each(|_| drop(world.publish(1_000)));
    for _ in 0..15 {
        world.advance(29 * SECOND);
        world.open_window(key, 1_000);
        assert_eq!(world.reason(key), None, "a kilobyte within the stall limit");
    }
    world.advance(30 * SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::SendStalled));
}

/// The kernel took a megabyte, then nothing: a proxy passes it on.
#[test]
fn a_proxy_with_full_buffers_has_time_for_what_it_holds() {
    let stalled_after = |proxy: &str, bytes| {
        let mut limits = pinged();
        limits.send_queue.stall_us = 30 * SECOND;
        limits.pong_timeout_us = 300 * SECOND;
        limits.trusted_proxies = TrustedProxies::Networks(vec![proxy.parse().unwrap()]);
        let mut world = symbols(limits);
        // And the first ping.
        let key = world.reader(None, bytes + 2_usize);
        (0..10).for_each(|_| drop(world.publish(bytes / 8)));
        let begin_us = world.now.mono_us;
        while world.reason(key).is_none() {
            world.advance(SECOND);
        }
        assert_eq!(world.reason(key), Some(CloseReason::SendStalled));
        (world.now.mono_us - begin_us) / SECOND
    };
    assert_eq!(stalled_after("192.0.2.1", 1_000_000), 30);
    assert_eq!(stalled_after("127.0.0.1", 10_000), 30);
    assert_eq!(stalled_after("127.0.0.1", 1_000_000), 80);
    assert_eq!(stalled_after("127.0.0.1", 10_000_000), 120);
}

#[test]
fn a_client_in_the_middle_of_a_message_is_not_silent() {
    let mut world = symbols(pinged());
    let key = world.reader(None, usize::MAX);
    world.await_ping(key);
    let message = frame(0x82, &[7; 60_000]);
    for part in message[..50_000].chunks(1_500) {
        world.send(key, part);
        world.advance(SECOND);
        assert_eq!(
            world.reason(key),
            None,
            "its pong stands behind the message"
        );
    }
    world.advance(4 * SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::PongTimeout));
}
