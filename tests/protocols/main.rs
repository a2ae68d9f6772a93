//! WebSockets and event streams on one hub: the same publication in the bytes of each, and a read that ends whatever
//! a client sends.

mod event_stream;
mod progress;
mod room;

use room::{Room, Say};
use weirgate_core::{CloseReason, Limits, SessionKey};

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

fn no_pings() -> Limits {
    Limits {
        ping_interval_us: 0,
        ..Limits::default()
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
fn the_same_publication_goes_out_in_three_encodings_at_once() {
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
        room.connect(inflates.as_bytes()),
        room.connect(stream),
    ];
    // Too small to deflate: a stored block.
    let stored = b"\xc1\x11\x00\x0b\x00\xf4\xffone for all\x00";
    let whole: [&[u8]; 3] = [b"\x81\x0bone for all", stored, b"data: one for all\n\n"];
    // Each client has a part when the others' encodings are made, and gets the rest of its own.
    for key in clients {
        let socket = room.socket(key);
        (socket.bytes, socket.room) = (Vec::new(), 5);
    }
    room.say(say("one for all"));
    let payload = "one for all".len() as u64;
    assert!(room.frame_bytes.alive() >= 3 * payload, "three encodings");
    for (key, whole) in clients.into_iter().zip(whole) {
        assert_eq!(room.socket(key).bytes, whole[..5]);
        room.open_window(key, usize::MAX);
        assert_eq!(room.socket(key).bytes, whole);
    }
    assert_eq!(room.frame_bytes.alive(), 0, "all encodings are given back");
}
