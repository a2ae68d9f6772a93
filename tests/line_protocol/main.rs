//! Protocols beside WebSocket: event streams, and lines of text instead of WebSocket frames, written on the public traits alone:
//! its clients have the same send queue, conflation, limits and drain as WebSocket clients.

mod event_stream;
mod lines;
mod progress;
mod room;

use lines::{LINE_BYTES_MAX, encoded};
use room::{Room, Say};
use weirgate::hub::{CloseReason, DrainPlan, Limits, PhaseKind, SendQueueLimits, SessionKey};

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

fn no_pings() -> Limits {
    Limits {
        ping_interval_us: 0,
        ..Limits::default()
    }
}

/// Keyed queues conflate past this many bytes.
fn small_queue() -> Limits {
    Limits {
        send_queue: SendQueueLimits {
            soft_bytes: 8,
            ..SendQueueLimits::default()
        },
        ..no_pings()
    }
}

fn say(body: &'static str) -> Say {
    Say {
        body,
        ..Say::default()
    }
}

fn keyed(key: u64, body: &'static str) -> Say {
    Say {
        key: Some(key),
        ..say(body)
    }
}

fn reason(room: &Room, key: SessionKey) -> Option<CloseReason> {
    let closed = &room.hub.gateway().closed;
    closed.iter().find(|(k, _)| *k == key).map(|(_, why)| *why)
}

#[test]
fn line_and_websocket_clients_get_the_same_publication() {
    let mut room = Room::new(no_pings());
    let (first, second) = (room.lines(), room.lines());
    let browser = room.connect(UPGRADE);
    assert!(room.take(browser).starts_with("HTTP/1.1 101 "));
    room.say(say("one for all"));
    assert_eq!(room.take(first), "> one for all\n");
    assert_eq!(room.take(second), "> one for all\n");
    assert_eq!(room.socket(browser).bytes, b"\x81\x0bone for all");
    assert_eq!(encoded(), 1, "once for all clients of lines");
    assert_eq!(room.frame_bytes.alive(), 0, "all encodings are given back");
}

#[test]
fn the_same_publication_goes_out_in_four_encodings_at_once() {
    let mut room = Room::new(Limits {
        event_stream: true,
        ..no_pings()
    });
    let inflates = String::from_utf8_lossy(UPGRADE).replacen(
        "Host: a\r\n",
        "Host: a\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
        1,
    );
    let stream = b"GET /ws HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
    let clients = [
        room.connect(UPGRADE),
        room.lines(),
        room.connect(inflates.as_bytes()),
        room.connect(stream),
    ];
    // Too small to deflate: a stored block.
    let stored = b"\xc1\x11\x00\x0b\x00\xf4\xffone for all\x00";
    let whole: [&[u8]; 4] = [
        b"\x81\x0bone for all",
        b"> one for all\n",
        stored,
        b"data: one for all\n\n",
    ];
    // Each client has a part when the others' encodings are made, and gets the rest of its own.
    for key in clients {
        let socket = room.socket(key);
        (socket.bytes, socket.room) = (Vec::new(), 5);
    }
    room.say(say("one for all"));
    let payload = "one for all".len() as u64;
    assert!(room.frame_bytes.alive() >= 4 * payload, "four encodings");
    for (key, whole) in clients.into_iter().zip(whole) {
        assert_eq!(room.socket(key).bytes, whole[..5]);
        room.open_window(key, usize::MAX);
        assert_eq!(room.socket(key).bytes, whole);
    }
    assert_eq!(room.frame_bytes.alive(), 0, "all encodings are given back");
}

#[test]
fn a_number_of_the_client_stands_before_the_shared_body() {
    let mut room = Room::new(no_pings());
    let first = room.lines();
    let numbered = |body| Say {
        numbered: true,
        ..say(body)
    };
    room.say(numbered(" a"));
    let second = room.lines();
    room.say(numbered(" b"));
    assert_eq!(room.take(first), "> n=1 a\n> n=2 b\n");
    assert_eq!(room.take(second), "> n=1 b\n");
}

#[test]
fn messages_come_in_and_answers_go_out() {
    let mut room = Room::new(no_pings());
    let key = room.lines();
    room.send(key, b"hel");
    room.send(key, b"lo\nagain\nqu");
    assert_eq!(room.take(key), "> hello\n> again\n");
    room.send(key, b"it\nnot heard\n");
    assert_eq!(room.take(key), "bye\n");
    assert_eq!(reason(&room, key), Some(CloseReason::PeerClosed));
    room.end(key);
    assert_eq!(room.socket(key).released, Some(false));
}

#[test]
fn a_request_that_is_none_of_the_protocol_is_refused() {
    let mut room = Room::new(no_pings());
    let key = room.connect(b"POST /lines HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let answer = room.take(key);
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("\r\nAllow: GET\r\n"), "{answer}");
}

#[test]
fn a_slow_client_skips_to_the_newest_of_each_key_and_a_begun_line_is_finished() {
    let mut room = Room::new(small_queue());
    let key = room.lines();
    // A part of the first line is out when the others come.
    room.socket(key).room = 3;
    room.say(keyed(1, "begun"));
    for body in ["old", "older", "newest"] {
        room.say(keyed(1, body));
    }
    room.say(keyed(2, "other"));
    assert_eq!(room.take(key), "> b");
    room.open_window(key, 2);
    assert_eq!(room.take(key), "eg");
    room.open_window(key, usize::MAX);
    assert_eq!(room.take(key), "un\n> newest\n> other\n");
    assert_eq!(room.hub.stats().messages_conflated, 2);
}

#[test]
fn control_goes_before_waiting_lines_and_never_inside_one() {
    let mut room = Room::new(Limits::default());
    let key = room.lines();
    room.socket(key).room = 4;
    room.say(say("first"));
    room.say(say("second"));
    room.pass(Limits::default().ping_interval_us);
    room.open_window(key, usize::MAX / 2);
    assert_eq!(room.take(key), "> first\n?\n> second\n");
}

#[test]
fn a_client_that_answers_no_sign_of_life_is_closed() {
    let limits = Limits::default();
    let mut room = Room::new(limits.clone());
    let (silent, alive) = (room.lines(), room.lines());
    room.pass(limits.ping_interval_us);
    assert_eq!(room.take(silent), "?\n");
    room.send(alive, b"!\n");
    assert_eq!(room.take(alive), "?\n");
    room.pass(limits.pong_timeout_us);
    assert_eq!(room.take(silent), "close 1011\n");
    assert_eq!(reason(&room, silent), Some(CloseReason::PongTimeout));
    assert_eq!(room.hub.core().phase(alive), Some(PhaseKind::Open));
}

#[test]
fn a_stalled_client_is_dropped() {
    let limits = no_pings();
    let mut room = Room::new(limits.clone());
    let key = room.lines();
    room.socket(key).room = 2;
    room.say(keyed(1, "a"));
    room.pass(limits.send_queue.stall_us - 1);
    assert_eq!(room.hub.core().phase(key), Some(PhaseKind::Open));
    room.pass(1);
    assert_eq!(reason(&room, key), Some(CloseReason::SendStalled));
    assert_eq!(room.socket(key).released, Some(true), "with a reset");
}

#[test]
fn a_line_that_is_too_long_is_a_violation() {
    let mut room = Room::new(no_pings());
    let key = room.lines();
    room.send(key, &[b'x'; LINE_BYTES_MAX + 1]);
    assert_eq!(room.take(key), "close 1009\n");
    assert_eq!(reason(&room, key), Some(CloseReason::MessageTooBig));
}

#[test]
fn a_drain_sends_what_waits_and_then_the_last_words() {
    let mut room = Room::new(no_pings());
    let key = room.lines();
    room.socket(key).room = 0;
    room.say(say("last"));
    room.hub.drain(room.now, DrainPlan::default());
    room.settle();
    room.say(say("too late"));
    let late = room.connect(b"GET /lines HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(room.take(late).starts_with("HTTP/1.1 503 "));
    room.end(late);
    room.open_window(key, usize::MAX);
    assert_eq!(room.take(key), "> last\nclose 1012\n");
    assert!(room.socket(key).half_closed && !room.hub.is_drained());
    room.end(key);
    assert_eq!(room.socket(key).released, Some(false));
    assert!(room.hub.is_drained());
    assert_eq!(room.frame_bytes.alive(), 0);
}
