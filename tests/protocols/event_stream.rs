//! Event streams (Server-Sent Events) on a hub beside WebSockets, to the byte.

use std::io::ErrorKind;

use weirgate_core::{
    AddressLimits, CloseReason, DrainPlan, Frame, Limits, PhaseKind, SessionKey, SocketEnd,
};
use weirgate_wire::admission::TrustedProxies;

use super::room::{Room, Say};
use super::{UPGRADE, keyed, reason, say};

fn allowed() -> Limits {
    Limits {
        event_stream: true,
        ping_interval_us: 0,
        ..Limits::default()
    }
}

fn ask(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
}

/// The time of the line that says when an `EventSource` comes back, and the text behind the line.
fn retry_ms(text: &str) -> (u64, &str) {
    let retry = text.strip_prefix("retry: ").expect("a time");
    let (ms, rest) = retry.split_once('\n').expect("a line");
    (ms.parse().expect("a number"), rest)
}

/// Asserts that the client got a whole stream that only says when to come back.
fn assert_refused_for_now(room: &mut Room, key: SessionKey, why: CloseReason) {
    let answer = room.take(key);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert_eq!(
        head,
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\n\
             X-Accel-Buffering: no\r\nConnection: close\r\nContent-Length: {}",
            body.len()
        )
    );
    let (ms, rest) = retry_ms(body);
    assert!((1_000..5_000).contains(&ms) && rest == "\n", "{answer}");
    assert!(room.socket(key).half_closed);
    assert_eq!(room.hub.stats().closes_for(why), 1, "{why:?}");
    assert_eq!(room.hub.stats().opened, room.hub.stats().open);
}

/// A client that has read the answer to its request.
fn stream(room: &mut Room, target: &str) -> SessionKey {
    let key = room.connect(ask(target).as_bytes());
    let answer = room.take(key);
    let (head, events) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (ms, events) = retry_ms(events);
    assert!((1_000..5_000).contains(&ms));
    room.socket(key).bytes = events.strip_prefix('\n').expect("a blank line").into();
    key
}

#[test]
fn a_stream_and_a_websocket_get_the_same_publication() {
    let mut room = Room::new(allowed());
    let (first, second) = (stream(&mut room, "/ws"), stream(&mut room, "/ws"));
    let browser = room.connect(UPGRADE);
    assert!(room.take(browser).starts_with("HTTP/1.1 101 "));
    room.say(say("one\r\nfor\nall"));
    assert_eq!(room.take(second), "data: one\ndata: for\ndata: all\n\n");
    assert_eq!(room.socket(browser).bytes, b"\x81\x0cone\r\nfor\nall");
    assert_eq!(room.take(first), "data: one\ndata: for\ndata: all\n\n");
    assert_eq!(room.frame_bytes.alive(), 0, "all encodings are given back");
    assert_eq!(room.hub.stats().open, 3);
    assert_eq!(room.hub.stats().open_other, 2);
    room.fail(first);
    assert_eq!(room.hub.stats().open_other, 1);
}

/// Memory of one frame that so many blocked streams wait for, and a blocked WebSocket.
fn held_bytes(streams: usize) -> u64 {
    let mut room = Room::new(allowed());
    let browser = room.connect(UPGRADE);
    room.socket(browser).room = 0;
    for _ in 0..streams {
        let key = stream(&mut room, "/ws");
        room.socket(key).room = 0;
    }
    room.say(say("waits for everyone"));
    room.frame_bytes.alive()
}

#[test]
fn an_event_is_made_by_the_first_stream_and_shared_by_the_others() {
    let (none, one, many) = (held_bytes(0), held_bytes(1), held_bytes(9));
    assert!(0 < none && none < one, "{none} {one}");
    assert_eq!(one, many);
}

#[test]
fn a_number_of_the_client_stands_in_the_event() {
    let mut room = Room::new(allowed());
    let key = stream(&mut room, "/ws");
    for body in [" a", " b"] {
        room.say(Say {
            numbered: true,
            ..say(body)
        });
    }
    assert_eq!(room.take(key), "data: n=1 a\n\ndata: n=2 b\n\n");
}

#[test]
fn bytes_are_base64_in_events_of_their_own_type() {
    let mut room = Room::new(allowed());
    let key = stream(&mut room, "/ws");
    let frame = Frame::binary(&room.frame_bytes)
        .body(&[0, 10, 255])
        .finish();
    room.publish(frame);
    assert_eq!(room.take(key), "event: binary\ndata: AAr/\n\n");
}

/// What is before the bytes of a frame stays text, whatever is in it.
#[test]
fn the_text_before_the_bytes_of_a_message_stays_text() {
    let mut room = Room::new(allowed());
    let key = stream(&mut room, "/ws");
    let frame = Frame::binary(&room.frame_bytes)
        .body(b"{\n}")
        .bytes(&[0, 10, 255])
        .finish();
    room.publish(frame);
    assert_eq!(room.take(key), "event: binary\ndata: {\ndata: }AAr/\n\n");
}

#[test]
fn messages_of_the_query_are_handled_in_order_behind_the_opening() {
    let mut room = Room::new(allowed());
    let key = stream(&mut room, "/ws?send=a&token=t&send=%7Bb+c%7D");
    assert_eq!(room.take(key), "data: a\n\ndata: {b c}\n\n");
    assert_eq!(room.hub.stats().received_messages, 2);
}

#[test]
fn messages_over_a_limit_are_refused() {
    let limits = Limits {
        event_stream_sends_max: 2,
        message_bytes_max: 3,
        ..allowed()
    };
    for (target, wrong) in [
        ("/ws?send=1&send=2&send=3", "too many parameters send"),
        ("/ws?send=1234", "--message-bytes-max"),
        ("/ws?send=%ff", "not UTF-8"),
    ] {
        let mut room = Room::new(limits.clone());
        let key = room.connect(ask(target).as_bytes());
        let answer = room.take(key);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains(wrong), "{answer}");
        assert_eq!(room.hub.stats().opened, 0);
    }
    let mut room = Room::new(limits);
    let key = stream(&mut room, "/ws?send=123&send=");
    assert_eq!(room.take(key), "data: 123\n\ndata: \n\n");
}

#[test]
fn without_the_setting_the_request_is_one_for_http() {
    let mut room = Room::new(Limits::default());
    room.connect(ask("/ws").as_bytes());
    assert_eq!((room.hub.stats().to_http, room.hub.stats().opened), (1, 0));
    let mut room = Room::new(allowed());
    room.connect(b"GET /ws HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    assert_eq!((room.hub.stats().to_http, room.hub.stats().opened), (1, 0));
}

#[test]
fn a_slow_stream_skips_to_the_newest_and_a_stalled_one_is_dropped() {
    let mut limits = allowed();
    limits.send_queue.soft_bytes = 8;
    let mut room = Room::new(limits.clone());
    let key = stream(&mut room, "/ws");
    room.socket(key).room = 7;
    for body in ["begun", "old", "older", "newest"] {
        room.say(keyed(1, body));
    }
    assert_eq!(room.take(key), "data: b");
    room.open_window(key, 100);
    assert_eq!(room.take(key), "egun\n\ndata: newest\n\n");
    assert_eq!(room.hub.stats().messages_conflated, 2);

    room.socket(key).room = 0;
    room.say(keyed(1, "never read"));
    room.pass(limits.send_queue.stall_us);
    assert_eq!(reason(&room, key), Some(CloseReason::SendStalled));
    assert_eq!(
        room.socket(key).released,
        Some(SocketEnd::Reset),
        "with a reset"
    );
    assert_eq!(room.hub.stats().open_other, 0);
}

#[test]
fn a_comment_keeps_a_quiet_stream_alive_and_no_pong_is_awaited() {
    let limits = Limits {
        event_stream: true,
        ..Limits::default()
    };
    let mut room = Room::new(limits.clone());
    let key = stream(&mut room, "/ws");
    room.pass(limits.ping_interval_us);
    assert_eq!(room.take(key), ":\n\n");
    room.pass(limits.pong_timeout_us);
    assert_eq!(room.take(key), ":\n\n");
    assert_eq!(room.hub.core().phase(key), Some(PhaseKind::Open));
}

#[test]
fn a_drain_sends_what_waits_and_then_the_close_as_an_event() {
    let mut room = Room::new(allowed());
    let key = stream(&mut room, "/ws");
    room.socket(key).room = 0;
    room.say(say("last"));
    room.hub.drain(room.now, DrainPlan::default());
    room.settle();
    let late = room.connect(ask("/ws").as_bytes());
    assert_refused_for_now(&mut room, late, CloseReason::ShuttingDown);
    room.end(late);
    let browser = room.connect(UPGRADE);
    assert_eq!(
        room.take(browser),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\
         Connection: close\r\nRetry-After: 1\r\n\r\n{\"detail\":\"Shutting down\"}"
    );
    room.end(browser);
    room.open_window(key, usize::MAX);
    let close = "event: close\ndata: {\"code\":1012,\"reason\":\"\"}\n\n";
    assert_eq!(room.take(key), format!("data: last\n\n{close}"));
    assert!(room.socket(key).half_closed && !room.hub.is_drained());
    room.end(key);
    assert_eq!(room.socket(key).released, Some(SocketEnd::Close));
    assert!(room.hub.is_drained());
}

/// Limits by address for the clients of a trusted proxy.
fn behind_a_proxy(per_ip: AddressLimits) -> Room {
    Room::new(Limits {
        per_ip,
        trusted_proxies: TrustedProxies::Networks(vec!["127.0.0.0/8".parse().expect("a network")]),
        ..allowed()
    })
}

#[test]
fn an_address_over_its_limit_gets_a_stream_that_ends_and_others_the_status() {
    for (per_ip, reason, status) in [
        (
            AddressLimits {
                connections_max: Some(1),
                ..AddressLimits::default()
            },
            CloseReason::ConnectionsPerIp,
            "HTTP/1.1 503 Service Unavailable\r\n",
        ),
        (
            AddressLimits {
                connections_per_second: Some(1),
                burst: 1,
                ..AddressLimits::default()
            },
            CloseReason::ConnectionRatePerIp,
            "HTTP/1.1 429 Too Many Requests\r\n",
        ),
    ] {
        let mut room = behind_a_proxy(per_ip);
        stream(&mut room, "/ws");
        let again = room.connect(ask("/ws").as_bytes());
        assert_refused_for_now(&mut room, again, reason);
        let page = b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n".as_slice();
        let post = ask("/ws").replace("GET", "POST");
        for other in [UPGRADE, page, post.as_bytes()] {
            let key = room.connect(other);
            let answer = room.take(key);
            assert!(answer.starts_with(status), "{answer}");
            assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
            assert!(room.hub.stats().open == 1 && room.hub.stats().to_http == 0);
        }
    }
}

#[test]
fn what_is_wrong_for_ever_keeps_its_status_over_a_limit() {
    let mut room = behind_a_proxy(AddressLimits {
        connections_max: Some(1),
        ..AddressLimits::default()
    });
    let wrong = ask("/ws").replace("Host: a", "Content-Length: 1\r\nHost: a");
    let key = room.connect(wrong.as_bytes());
    assert!(room.take(key).starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_close_that_asks_for_a_wait_says_so_to_an_event_source_too() {
    let mut room = Room::new(Limits {
        close_retry_after_ms: 60_000,
        ..allowed()
    });
    let keys = [stream(&mut room, "/ws"), stream(&mut room, "/ws")];
    room.hub.drain(room.now, DrainPlan::default());
    room.settle();
    let waits = keys.map(|key| {
        let text = room.take(key);
        let (ms, event) = retry_ms(&text);
        let close = "event: close\ndata: {\"code\":1012,\"reason\":\"retry_after_ms=60000\"}\n\n";
        assert_eq!(event, close);
        assert!((60_000..64_000).contains(&ms), "{ms}");
        ms
    });
    assert_ne!(waits[0], waits[1], "not all at the same moment");
}

#[test]
fn the_close_event_has_the_code_of_the_settings() {
    let mut room = Room::new(Limits {
        stop_code: 1001,
        ..allowed()
    });
    let key = stream(&mut room, "/ws");
    room.hub.drain(room.now, DrainPlan::default());
    room.settle();
    let close = "event: close\ndata: {\"code\":1001,\"reason\":\"\"}\n\n";
    assert_eq!(room.take(key), close);
}

#[test]
fn a_client_that_has_ended_its_side_reads_on() {
    let mut room = Room::new(allowed());
    let key = stream(&mut room, "/ws");
    room.end(key);
    room.end(key);
    assert_eq!(room.take(key), ":\n\n", "one look for the client");
    room.say(say("still here"));
    assert_eq!(room.take(key), "data: still here\n\n");
    assert_eq!(room.hub.core().phase(key), Some(PhaseKind::Open));
    room.hub.drain(room.now, DrainPlan::default());
    room.settle();
    assert!(room.take(key).starts_with("event: close\n"));
    assert_eq!(
        room.socket(key).released,
        Some(SocketEnd::Close),
        "nothing to wait for"
    );
}

#[test]
fn a_client_that_is_gone_is_found_by_the_comment() {
    let mut room = Room::new(allowed());
    let key = stream(&mut room, "/ws");
    room.socket(key).error = Some(ErrorKind::BrokenPipe);
    room.end(key);
    assert_eq!(reason(&room, key), Some(CloseReason::PeerGone));
    assert_eq!(room.hub.stats().open_other, 0);
}

#[test]
fn a_little_input_is_ignored_and_much_ends_the_stream() {
    let mut room = Room::new(allowed());
    let key = stream(&mut room, "/ws");
    room.send(key, &[b'x'; 16 * 1024]);
    room.say(say("a"));
    assert_eq!(room.take(key), "data: a\n\n");
    room.send(key, b"x");
    let close =
        "event: close\ndata: {\"code\":1002,\"reason\":\"an event stream takes no input\"}\n\n";
    assert_eq!(room.take(key), close);
    assert_eq!(reason(&room, key), Some(CloseReason::ProtocolError));
}

#[test]
fn much_input_with_the_request_ends_the_stream_behind_what_is_queued() {
    let mut room = Room::new(allowed());
    let request = ask("/ws?send=hello");
    let key = room.connect(&[request.as_bytes(), &[b'x'; 20_000]].concat());
    let answer = room.take(key);
    let queued = answer.find("data: hello");
    let close = answer.find("event: close\ndata: {\"code\":1002,");
    assert!(queued.is_some() && queued < close, "{answer}");
    assert_eq!(reason(&room, key), Some(CloseReason::ProtocolError));
}

#[test]
fn a_page_of_the_origin_may_read_the_stream() {
    let mut room = Room::new(allowed());
    let request = ask("/ws").replace("Host: a", "Host: a\r\nOrigin: https://page.example");
    let key = room.connect(request.as_bytes());
    let answer = room.take(key);
    let cors = "\r\nAccess-Control-Allow-Origin: https://page.example\r\n";
    assert!(answer.contains(cors), "{answer}");
}
