//! One large message: it is in memory once for all names and patterns, whole for each client, and what takes too much memory
//! is one missing message, of which the client is told.

use super::resume::{Kept, TICK, limits};
use super::*;

const MIB: u64 = 1024 * 1024;

/// Patterns that match [`TICK`].
const PATTERNS: [&str; 10] = [
    "market:*",
    "market:t*",
    "market:ti*",
    "market:tic*",
    "market:tick*",
    "market:?*",
    "market:t?*",
    "market:ti?*",
    "market:?i*",
    "market:??*",
];

/// A JSON text of a megabyte, not the same anywhere.
fn large() -> String {
    let numbers: Vec<String> = (0..150_000).map(|n| n.to_string()).collect();
    format!("[{}]", numbers.join(","))
}

/// A kept feed, and queues for many large messages.
fn roomy() -> Kept {
    let change = |all: &mut Limits| {
        all.history = HistoryLimits {
            bytes_max: 1 << 26,
            ..limits()
        };
        all.send_queue.soft_bytes = 1 << 30;
        all.send_queue.hard_bytes = 1 << 30;
    };
    let names = vec!["market:*".to_owned()];
    Kept::changed(settings(), change, |gateway| {
        gateway.with_kept(names).expect("names")
    })
}

/// The kernel takes nothing more for the client.
fn reads_nothing(bench: &mut Bench, key: SessionKey) {
    let socket = bench.world.net.sockets.get_mut(&key);
    socket.expect("a socket").room = 0;
}

/// Two clients with five patterns each, which read nothing.
fn holders(kept: &mut Kept, path: &str, deflate: Option<u8>) -> Vec<SessionKey> {
    let halves = PATTERNS.chunks(5);
    halves
        .map(|names| {
            let key = kept.bench.world.connect(path, deflate);
            kept.bench.subscribe(key, names);
            drop(kept.bench.world.texts(key));
            reads_nothing(&mut kept.bench, key);
            key
        })
        .collect()
}

#[test]
fn a_large_message_to_many_patterns_is_in_memory_once() {
    for (path, payload) in [
        ("/ws", large().into_bytes()),
        ("/ws?payload=binary", vec![b'\xa5'; MIB as usize]),
    ] {
        let mut kept = roomy();
        holders(&mut kept, path, None);
        let alive = kept.bench.world.frame_bytes.clone();
        let before = alive.alive();
        kept.publish(TICK, &payload);
        let made = alive.alive() - before;
        assert!(made < 5 * MIB / 4, "{path}: {made} bytes for ten patterns");
        assert_eq!(kept.bench.world.hub.stats().messages_waiting, 10, "{path}");
    }
}

/// Wherever the kernel stops taking bytes, and whatever else waits.
#[test]
fn each_client_gets_a_shared_payload_whole() {
    let text = large();
    for (path, deflate) in [
        ("/ws", None),
        ("/ws", Some(15)),
        ("/ws?payload=binary", None),
    ] {
        let mut kept = roomy();
        let keys = holders(&mut kept, path, deflate);
        kept.publish(TICK, &text);
        kept.publish(TICK, "1");
        for key in keys {
            for room in (1..40).map(|n| n * 7_919).chain([usize::MAX]) {
                kept.bench.world.open_window(key, room);
                kept.bench.world.settle();
            }
            let got: Vec<(Value, String)> = match path {
                "/ws" => {
                    let got = kept.bench.got(key).into_iter();
                    got.map(|message| (message.clone(), message["data"].to_string()))
                        .collect()
                }
                _ => {
                    let got = kept.bench.world.binaries(key).into_iter();
                    let parts = got.map(|message| {
                        let at = message.iter().position(|&byte| byte == b'\n');
                        let (head, payload) = message.split_at(at.expect("a line"));
                        let payload = String::from_utf8_lossy(&payload[1..]).into_owned();
                        (serde_json::from_slice(head).expect("an object"), payload)
                    });
                    parts.collect()
                }
            };
            let closes = &kept.bench.world.hub.stats().closes;
            assert_eq!(got.len(), 10, "{path} {closes:?}");
            for (n, (message, data)) in got.iter().enumerate() {
                assert!(*data == if n < 5 { &*text } else { "1" }, "{path} {n}");
                assert_eq!(message["seq"], json!(n + 3));
                assert!(message["pos"].is_string(), "a position");
            }
        }
        kept.bench.world.hub.check_invariants();
    }
}

/// Only the end of all clients that hold frames of the message frees its payload.
#[test]
fn a_shared_payload_counts_for_those_who_hold_it() {
    let mut bench = with_little_memory();
    let keys = [(); 2].map(|()| bench.client());
    for (key, name) in keys.into_iter().zip(["news", "n*"]) {
        bench.subscribe(key, &[name]);
        reads_nothing(&mut bench, key);
    }
    for _ in 0..6 {
        bench.publish("news", &["n*"], large());
        bench.world.advance(300_000);
    }
    let stats = bench.world.hub.stats();
    assert_eq!(stats.closes[CloseReason::FrameMemory as usize], 2);
    assert!(bench.world.frame_bytes.alive() < 4 * MIB);
}

/// A bench in which frames may take four megabytes.
fn with_little_memory() -> Bench {
    let little = |limits: &mut Limits| {
        limits.frame_bytes_max = 4 * MIB;
        limits.send_queue.soft_bytes = 1 << 30;
        limits.send_queue.hard_bytes = 1 << 30;
    };
    let settings = ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, br#"{"user": ["*"]}"#).expect("a table"),
        ..settings()
    };
    let mut bench = Bench::changed(settings, little, |gateway| gateway);
    bench.bus(BusEvent::Up);
    bench
}

/// The text of bytes is up to six times as long: over the limit, clients of texts miss a number, and are told why their
/// resume is not whole. Clients of binary messages get it.
#[test]
fn a_text_over_the_limit_is_missing_for_clients_of_texts_alone() {
    let mut kept = roomy();
    let text = kept.bench.client();
    let binary = kept.bench.world.connect("/ws?payload=binary", None);
    for key in [text, binary] {
        kept.bench.subscribe(key, &[TICK, "market:*"]);
    }
    let zeros = vec![0; 200_000];
    kept.publish(TICK, &zeros);
    for key in [text, binary] {
        kept.bench.ping(key);
    }
    assert_eq!(
        kept.bench.kinds(text),
        kinds(&[("subscribed", 2), ("pong", 5)])
    );
    let got = kept.bench.world.binaries(binary);
    assert_eq!(got.len(), 2);
    assert!(got.iter().all(|message| message.ends_with(&zeros)));
    assert_eq!(kept.bench.stats.gaps_notified.get(), 2);
    assert_eq!(kept.bench.feed.stats().subjects[0].messages_bad, 1);

    let since = Kept::position(0).to_string();
    let again = kept.bench.client();
    let request = json!({"action": "subscribe", "channels": [TICK], "since": since});
    kept.bench.say(again, &request);
    let answer = &kept.bench.got(again)[0];
    assert_eq!(answer["recovered"][TICK], json!(false));
    assert_eq!(answer["why"][TICK], json!("window"));
    let newest = kept.bench.client();
    let request = json!({"action": "subscribe", "channels": [TICK], "last": 1});
    kept.bench.say(newest, &request);
    let answer = &kept.bench.got(newest)[0];
    assert_eq!(answer["why"][TICK], json!("large"), "{answer}");
}

/// Each line of a payload has a field in an event stream, so an event may be seven times as long.
#[test]
fn an_event_without_memory_is_one_missing_message() {
    let mut bench = with_little_memory();
    let send = json!({"action": "subscribe", "channels": ["news"]}).to_string();
    let send = send.replace('"', "%22");
    let request = format!(
        "GET /ws?payload=raw&send={send} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
    );
    let key = bench.world.accept(usize::MAX);
    bench.world.send(key, request.as_bytes());
    bench.confirm("news");
    drop(bench.world.sent(key));
    bench.publish("news", &[], vec![b'\n'; MIB as usize]);
    bench.publish("news", &[], "small");
    let sent = bench.world.sent(key);
    assert_eq!(sent, "data: small\n\n");
    assert_eq!(bench.world.hub.stats().messages_shed, 1);
    bench.publish("news", &[], vec![b'\n'; MIB as usize / 4]);
    assert!(bench.world.sent(key).len() > 7 * MIB as usize / 4);
    bench.world.hub.check_invariants();
}
