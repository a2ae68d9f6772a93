//! What compressed messages of clients may refer to (RFC 7692 §7.1.1.2).

use weirgate_core::{CloseReason, Limits, SessionKey};

use weirgate_test_support::empty_blocks;

use super::symbols;
use crate::world::World;
use crate::world::client::{frame, request_with};
use crate::world::toys::{In, Symbols};

/// What browsers offer.
const OFFER: &str = "permessage-deflate; client_max_window_bits";

impl World<Symbols> {
    fn offer(&mut self, offer: &str) -> SessionKey {
        let key = self.accept(usize::MAX);
        self.send(key, &request_with("/ws", Some(offer)));
        key
    }

    fn answer(&self, key: SessionKey) -> &str {
        let head = self.client(key).head().expect("an answer");
        let name = "Sec-WebSocket-Extensions: ";
        let line = head.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
    }

    /// A message that is compressed as the client's answer allows.
    fn compressed(&mut self, key: SessionKey, text: &str) -> Vec<u8> {
        let socket = self.net.sockets.get_mut(&key).expect("a socket");
        frame(0xc1, &socket.client.compress(text.as_bytes()))
    }

    /// The client joins topics, in a compressed message.
    fn say_compressed(&mut self, key: SessionKey, text: &str) {
        let message = self.compressed(key, text);
        self.send(key, &message);
    }

    fn publish_small(&mut self, topic: &str) {
        let input = In::Publish(topic.to_owned(), format!("to {topic}"));
        self.hub.handle_input(self.now, input);
        self.settle();
    }
}

fn limits(windows: u64) -> Limits {
    Limits {
        inflate_windows_bytes_max: windows << 15,
        ..Limits::default()
    }
}

#[test]
fn the_answer_has_nothing_that_was_not_offered() {
    let mut world = symbols(limits(10));
    for (offer, answer) in [
        (OFFER, "permessage-deflate"),
        ("permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "permessage-deflate; client_max_window_bits=9",
            "permessage-deflate; client_max_window_bits=9",
        ),
    ] {
        let key = world.offer(offer);
        assert_eq!(world.answer(key), answer, "{offer}");
    }
    let windows = world.hub.core().inflate_windows();
    assert_eq!(windows.granted_bytes(), (2 << 15) + 512);
    assert_eq!((windows.kept_bytes(), windows.refused()), (0, 0));
}

#[test]
fn messages_that_refer_to_earlier_ones_are_read() {
    let mut world = symbols(limits(2));
    let keys = [world.offer(OFFER), world.offer(OFFER)];
    let topics: Vec<_> = (0..40).map(|n| format!("market-tick-{n}")).collect();
    for topic in &topics {
        for key in keys {
            world.say_compressed(key, &format!("sub {topic}"));
            world.text(key, "sub market-tick-0");
        }
    }
    for topic in &topics {
        world.publish_small(topic);
    }
    let wanted: Vec<_> = topics.iter().map(|topic| format!("to {topic}")).collect();
    for key in keys {
        assert_eq!(world.texts(key), wanted);
    }
    let kept = world.hub.core().inflate_windows().kept_bytes();
    assert!(kept > 0 && kept < 2_000, "{kept}");
    for key in keys {
        world.end(key, false);
    }
    let windows = world.hub.core().inflate_windows();
    assert_eq!((windows.kept_bytes(), windows.granted_bytes()), (0, 0));
}

#[test]
fn over_the_limit_of_all_clients_the_answer_changes_and_nobody_is_closed() {
    let mut world = symbols(limits(2));
    let keys: Vec<_> = (0..4).map(|_| world.offer(OFFER)).collect();
    let told = "permessage-deflate; client_no_context_takeover";
    let answers = ["permessage-deflate", "permessage-deflate", told, told];
    let got: Vec<_> = keys.iter().map(|key| world.answer(*key)).collect();
    assert_eq!(got, answers);
    // Text of 40 KB each, so that each window is full.
    for n in 0..400 {
        for key in &keys {
            world.say_compressed(
                *key,
                &format!("sub {}", format!("{:05}", n * n % 99_991).repeat(20)),
            );
        }
    }
    for key in &keys {
        world.say_compressed(*key, "sub A");
    }
    world.publish_small("A");
    for key in &keys {
        assert_eq!(world.reason(*key), None);
        assert_eq!(world.texts(*key), ["to A"]);
    }
    let windows = world.hub.core().inflate_windows();
    assert_eq!((windows.granted_bytes(), windows.refused()), (2 << 15, 2));
    assert_eq!(windows.kept_bytes(), 2 << 15, "never more than was granted");
    world.end(keys[0], false);
    let next = world.offer(OFFER);
    assert_eq!(
        world.answer(next),
        "permessage-deflate",
        "there is room again"
    );
}

#[test]
fn a_client_that_refers_to_more_than_it_may_is_closed_with_1007() {
    let mut world = symbols(limits(0));
    let key = world.offer(OFFER);
    let mut client = crate::world::client::Compressor::default();
    client.stays = true;
    for n in 0..2 {
        assert_eq!(world.reason(key), None, "the first stands alone");
        let message = client.message(format!("sub market-tick-{n}").as_bytes());
        world.send(key, &frame(0xc1, &message));
    }
    assert_eq!(world.reason(key), Some(CloseReason::ProtocolError));
    assert_eq!(world.client(key).close, Some((1007, String::new())));
}

/// Such a message takes 0.1 s of an inflater. Meanwhile others have their turns.
#[test]
fn a_compressed_message_that_takes_long_is_inflated_in_shares() {
    let mut world = symbols(Limits {
        share_us: 0,
        ..Limits::default()
    });
    let keys = [world.offer(OFFER), world.offer(OFFER)];
    let bytes = 500_000;
    for name in ["A", "B"] {
        let message = empty_blocks(bytes, format!("sub {name}").as_bytes());
        let both = [frame(0xc1, &message), frame(0x81, b"sub C")].concat();
        world.hub.handle_bytes(world.now, keys[0], &both);
        let mut shares = 0;
        while world.hub.waiting_shares() > 0 {
            let held = world.hub.core().received().held();
            assert!(
                shares > bytes / (16 * 1024) || held > bytes as u64,
                "{held} bytes count"
            );
            let beside = world.compressed(keys[1], "sub D");
            world.hub.handle_bytes(world.now, keys[1], &beside);
            assert_eq!(world.hub.core().joined_count(keys[1]), 1);
            world.hub.handle_next_share(world.now);
            shares += 1;
        }
        world.settle();
        assert!(shares > bytes / (16 * 1024), "{shares} shares");
    }
    assert_eq!(world.hub.core().joined_count(keys[0]), 3);
    assert_eq!(world.hub.core().received().held(), 0);
}
