//! Clients that ask for binary messages get each payload byte for byte; the other clients of the same names get what they
//! get without them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, SecondsFormat};

use super::resume::{Kept, TICK, at, data, limits};
use super::*;

const PATH: &str = "/ws?payload=binary";

/// No two payloads are alike, and the first are no JSON.
const PAYLOADS: [&[u8]; 6] = [
    b"\x82\xa3bid\xcb@Y\xa0\0\0\0\0\0\xa3ask\xc0",
    b"\x08\x96\x01\x12\x07testing",
    b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\x03\0\0\0\0\0\0\0\0\0",
    b"\0\0\n\0}\n\xff\xfe",
    b"text, and no JSON\n",
    br#"{"n":1.50}"#,
];

/// A binary message: the object, and the payload.
fn parts(message: &[u8]) -> (Value, Vec<u8>) {
    let mut parts = message.splitn(2, |&byte| byte == b'\n');
    let object = parts.next().expect("a line");
    let object = serde_json::from_slice(object).expect("an object");
    (object, parts.next().expect("a payload").to_vec())
}

/// What came as binary messages since the last call.
fn binaries(bench: &mut Bench, key: SessionKey) -> Vec<(Value, Vec<u8>)> {
    let got = bench.world.binaries(key);
    got.iter().map(|message| parts(message)).collect()
}

fn payloads(bench: &mut Bench, key: SessionKey) -> Vec<Vec<u8>> {
    let got = binaries(bench, key);
    got.into_iter().map(|(_, payload)| payload).collect()
}

/// A client that gets binary messages, behind its welcome.
fn client(bench: &mut Bench, deflate: Option<u8>) -> SessionKey {
    let key = bench.world.connect(PATH, deflate);
    assert_eq!(bench.kinds(key), kinds(&[("connected", 1)]));
    key
}

#[test]
fn a_message_is_a_line_with_an_object_and_then_the_payload() {
    let mut bench = Bench::new(settings());
    let key = client(&mut bench, None);
    bench.subscribe(key, &["market:tick"]);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2)]));
    let now = bench.world.now.unix_ms();
    let time = DateTime::from_timestamp_millis(now).expect("a time");
    let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
    bench.publish("market:tick", &[], b"\0\xff\n}");
    let want = format!(
        "{{\"type\":\"data\",\"seq\":3,\"channel\":\"market:tick\",\"pattern\":null,\"timestamp\":\"{time}\"}}\n"
    );
    let got = bench.world.binaries(key);
    assert_eq!(got, [[want.as_bytes(), b"\0\xff\n}"].concat()]);
}

#[test]
fn payloads_are_whole_and_the_other_clients_get_what_they_would_get() {
    let names = ["market:tick:*", "market:tick:OV"];
    let told = |with_binary: bool| {
        let mut bench = Bench::new(settings());
        let text = bench.client();
        let others = match with_binary {
            true => [None, Some(15), Some(9)]
                .map(|deflate| client(&mut bench, deflate))
                .to_vec(),
            false => Vec::new(),
        };
        bench.subscribe(text, &names);
        for &key in &others {
            bench.subscribe(key, &names);
        }
        let large = vec![b'\xa5'; 100_000];
        for payload in PAYLOADS.into_iter().chain([&large[..]]) {
            bench.publish("market:tick:OV", &["market:tick:*"], payload);
        }
        bench.ping(text);
        for key in others {
            bench.ping(key);
            let answers = kinds(&[("subscribed", 2), ("pong", 17)]);
            assert_eq!(bench.kinds(key), answers, "answers are text");
            let got = binaries(&mut bench, key);
            assert_eq!(got.len(), 14);
            for (n, (object, payload)) in got.iter().enumerate() {
                assert_eq!(payload, PAYLOADS.get(n / 2).unwrap_or(&&large[..]));
                let pattern = [json!(null), json!(names[0])][n % 2].clone();
                assert_eq!(object["pattern"], pattern);
                let (channel, seq) = (json!("market:tick:OV"), json!(n + 3));
                assert_eq!((&object["channel"], &object["seq"]), (&channel, &seq));
                assert_eq!(object.as_object().map(serde_json::Map::len), Some(5));
            }
        }
        bench.world.hub.check_invariants();
        let mut texts = bench.world.texts(text);
        texts.retain(|text| !text.contains("subscribed"));
        texts
    };
    let texts = told(true);
    assert!(texts == told(false));
    assert!(
        texts[6].contains("\"data\":{\"raw\":\"\\u0000\\u0000\\n\\u0000}\\n\u{fffd}\u{fffd}\"}")
    );
}

/// A payload that is no JSON is quoted once, for the name and all patterns.
#[test]
fn the_text_of_a_payload_is_made_once() {
    let alive = weirgate_core::FrameBytes::default();
    let now = weirgate_wire::base::Now::default();
    let message = weirgate_core::Message::new(b"\xff".to_vec(), now, &alive);
    let before = alive.alive();
    let quoted = |payload: &[u8]| [b"\"", payload, b"\""].concat();
    assert_eq!(message.text_with(quoted), b"\"\xff\"");
    let after = alive.alive();
    assert!((before + 3..before + 64).contains(&after), "{after}");
    assert_eq!(
        message.text_with(|_| unreachable!("made already")),
        b"\"\xff\""
    );
    assert_eq!(alive.alive(), after);
    drop(message);
    assert_eq!(alive.alive(), 0);
}

/// However many clients of both kinds, names and resumes: a message is rendered once for each kind of client of each name.
#[test]
fn the_second_kind_of_client_costs_a_frame_of_a_message_and_name() {
    const BYTES: u64 = 50_000;
    let frames = |texts: usize, binaries: usize| {
        let mut kept = Kept::with(
            settings(),
            HistoryLimits {
                bytes_max: 1 << 24,
                ..limits()
            },
        );
        let names = [TICK, "market:*"];
        let mut join = |path: &str, count: usize| {
            for _ in 0..count {
                let key = kept.bench.world.connect(path, None);
                kept.bench.subscribe(key, &names);
            }
        };
        join("/ws", texts);
        join(PATH, binaries);
        kept.publish(TICK, vec![b'7'; BYTES as usize]);
        for (path, count) in [("/ws", texts), (PATH, binaries)] {
            for _ in 0..count {
                let key = kept.bench.world.connect(path, None);
                let request = json!({"action": "subscribe", "channels": names, "since": at(0)});
                kept.bench.say(key, &request);
            }
        }
        let alive = kept.bench.world.frame_bytes.alive();
        assert!(alive % BYTES < 5_000, "{alive}");
        alive / BYTES
    };
    // The message itself, and a frame for the name and one for the pattern.
    assert_eq!(frames(0, 0), 1);
    assert_eq!(
        [frames(1, 0), frames(5, 0), frames(0, 1), frames(0, 5)],
        [3; 4]
    );
    assert_eq!([frames(1, 1), frames(5, 7)], [5; 2]);
}

#[test]
fn who_comes_back_gets_the_missed_payloads() {
    let mut kept = Kept::new();
    let live = client(&mut kept.bench, None);
    kept.bench.subscribe(live, &[TICK]);
    for payload in PAYLOADS {
        kept.publish(TICK, payload);
    }
    assert_eq!(payloads(&mut kept.bench, live), PAYLOADS);
    let (_, _, texts) = kept.comes_back(&[TICK], &at(0));
    assert_eq!(texts.len(), 6);
    assert_eq!(texts[5]["data"], json!({"n": 1.5}));
    for (more, want) in [
        (json!({"since": at(2)}), &PAYLOADS[2..]),
        (json!({"since": at(6)}), &[]),
        (json!({"last": 2}), &PAYLOADS[4..]),
    ] {
        let key = client(&mut kept.bench, Some(15));
        let mut request = json!({"action": "subscribe", "channels": [TICK, "market:*"]});
        let request_members = request.as_object_mut().expect("an object");
        request_members.extend(more.as_object().expect("an object").clone());
        kept.bench.say(key, &request);
        let got = binaries(&mut kept.bench, key);
        // Of the kept feed, the copy for the name comes last.
        let want: Vec<_> = want.iter().flat_map(|payload| [payload, payload]).collect();
        assert_eq!(
            got.iter().map(|(_, payload)| payload).collect::<Vec<_>>(),
            want,
            "{more}"
        );
        let last = got
            .last()
            .map_or_else(|| at(6), |(object, _)| text_of(&object["pos"]));
        assert_eq!(last, at(6));
        assert_eq!(kept.bench.got(key)[0]["type"], "subscribed");
    }
    kept.bench.world.hub.check_invariants();
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// A payload without bytes is a message for those that get bytes alone: of protobuf, it is one with every default.
#[test]
fn an_empty_payload_comes_to_binary_clients_alone() {
    let mut kept = Kept::new();
    let binary = client(&mut kept.bench, None);
    kept.bench.subscribe(binary, &[TICK]);
    let (text, _) = kept.member(&[TICK]);
    for payload in ["1", "", "3", "", ""] {
        kept.publish(TICK, payload);
        kept.bench.publish("elsewhere", &[], payload);
    }
    assert_eq!(
        payloads(&mut kept.bench, binary),
        [&b"1"[..], b"", b"3", b"", b""]
    );
    let got = kept.bench.got(text);
    assert_eq!(data(&got), [json!(1), json!(3)]);
    assert_eq!(got[1]["seq"], 4, "no number is missing");
    let (_, answer, got) = kept.comes_back(&[TICK], &at(1));
    assert_eq!(
        (&answer["recovered"][TICK], data(&got)),
        (&json!(true), vec![json!(3)])
    );
    let request = json!({"action": "subscribe", "channels": [TICK], "last": 2});
    let (_, _, got) = kept.asks(&request);
    assert_eq!(
        data(&got)[..2],
        [json!(1), json!(3)],
        "as if there were no others"
    );
    let key = client(&mut kept.bench, None);
    kept.bench.say(key, &request);
    assert_eq!(payloads(&mut kept.bench, key), [b""; 2]);
}

/// A client of each kind that waits for the last values of these names. The bus is asked for one client after the other.
fn retaining(names: &[&str]) -> (Bench, SessionKey, SessionKey) {
    let mut bench = Bench::made(settings(), |gateway| gateway.with_retained(1 << 26));
    let (text, binary) = (bench.client(), client(&mut bench, None));
    for key in [text, binary] {
        bench.subscribe(key, names);
    }
    for key in [text, binary] {
        assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2)]));
    }
    bench.bus(BusEvent::Up);
    bench.world.advance(1);
    (bench, text, binary)
}

#[test]
fn a_deletion_and_last_values_say_what_they_are() {
    let name = "market:tick";
    let (mut bench, text, binary) = retaining(&[name]);
    (0..2).for_each(|_| bench.value(name, None, "7"));
    let of = |object: &Value, member: &str| object.get(member).cloned();
    let [(object, payload)] = &binaries(&mut bench, binary)[..] else {
        panic!("one value");
    };
    assert_eq!(
        (of(object, "retained"), &payload[..]),
        (Some(json!(true)), &b"7"[..])
    );
    let got = bench.got(text);
    assert_eq!(
        (&got[0]["data"], &got[0]["retained"]),
        (&json!(7), &json!(true))
    );
    bench.bus(BusEvent::Deleted(BusMessage::new(
        name,
        Vec::new(),
        bench.world.now,
    )));
    let [(object, payload)] = &binaries(&mut bench, binary)[..] else {
        panic!("one deletion");
    };
    assert_eq!(
        (of(object, "deleted"), payload.len()),
        (Some(json!(true)), 0)
    );
    assert_eq!(of(object, "data"), None);
    let got = bench.world.texts(text);
    assert!(
        got[0].contains(r#""pattern":null,"data":null,"deleted":true,"timestamp":"#),
        "{got:?}"
    );
}

/// Last values have a share of bytes for each client: those of the client's own frames.
#[test]
fn the_share_of_last_values_counts_the_frames_of_the_client() {
    let names = ["indicators:a", "indicators:b"];
    let (mut bench, text, binary) = retaining(&names);
    for key in [text, binary] {
        bench.stop(key);
    }
    // As text in JSON a NUL has six bytes.
    let value = "\0".repeat(170_000);
    for name in names.iter().cycle().take(4) {
        bench.value(name, None, &value);
    }
    let waiting = |key| bench.world.hub.core().unsent_bytes(key) / 170_000;
    assert_eq!((waiting(text), waiting(binary)), (6, 2));
}

#[test]
fn slow_clients_of_both_kinds_get_the_newest_message_of_a_conflated_name() {
    let mut bench = Bench::new(settings());
    bench.feed = bench.feed.conflating(|name| name == "market:tick");
    let binary = bench.world.connect(&format!("{PATH}&max_hz=1"), None);
    let text = bench.world.connect("/ws?max_hz=1", None);
    for key in [binary, text] {
        bench.subscribe(key, &["market:tick"]);
    }
    for payload in ["1", "2", "\u{fffd}", "4"] {
        bench.publish("market:tick", &[], payload);
    }
    bench.world.advance(SECOND);
    assert_eq!(payloads(&mut bench, binary), [b"1", b"4"]);
    let texts = bench.got(text);
    assert_eq!(data(&texts[2..]), [json!(1), json!(4)]);
    assert_eq!(bench.world.hub.stats().messages_conflated, 4);
    bench.world.hub.check_invariants();
}

#[test]
fn an_event_stream_gets_the_payload_in_base64_behind_the_line() {
    let mut kept = Kept::new();
    for payload in PAYLOADS {
        kept.publish(TICK, payload);
    }
    let send = json!({"action": "subscribe", "channels": [TICK]}).to_string();
    let request = format!(
        "GET {PATH}&send={} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nLast-Event-ID: {}\r\n\r\n",
        send.replace('"', "%22"),
        at(0)
    );
    let key = kept.bench.world.accept(usize::MAX);
    kept.bench.world.send(key, request.as_bytes());
    let sent = kept.bench.world.sent(key);
    let events = sent
        .split("\n\n")
        .filter(|event| event.contains("event: binary"));
    let mut count = 0;
    for (event, payload) in events.zip(PAYLOADS) {
        count += 1;
        let lines: Vec<&str> = event.lines().collect();
        let [kind, object, bytes, id] = lines[..] else {
            panic!("{event}");
        };
        assert_eq!(
            (kind, id),
            ("event: binary", &*format!("id: {}", at(count)))
        );
        let object = object.strip_prefix("data: ").expect("data");
        let object: Value = serde_json::from_str(object).expect("an object");
        assert_eq!(
            (&object["seq"], &object["pos"]),
            (&json!(count + 2), &json!(at(count)))
        );
        let bytes = bytes.strip_prefix("data: ").expect("data");
        assert_eq!(BASE64_STANDARD.decode(bytes).expect("base64"), payload);
    }
    assert_eq!(count, 6);
    assert!(
        sent.contains("data: {\"type\":\"subscribed\""),
        "answers are no bytes"
    );
}

#[test]
fn another_payload_than_binary_means_nothing() {
    for (path, is_binary) in [
        (PATH, true),
        ("/ws?payload=binary&payload=x", true),
        ("/ws?payload=x&payload=binary", false),
        ("/ws?payload=Binary", false),
        ("/ws?payload=", false),
        ("/ws?payload=json", false),
        ("/ws?PAYLOAD=binary", false),
    ] {
        let mut bench = Bench::new(settings());
        let key = bench.world.connect(path, None);
        bench.subscribe(key, &["market:tick"]);
        bench.publish("market:tick", &[], "1");
        let got = (
            bench.world.texts(key).len(),
            bench.world.binaries(key).len(),
        );
        assert_eq!(got, if is_binary { (2, 1) } else { (3, 0) }, "{path}");
    }
}

/// A message for both kinds of clients counts once for its name on the operator's page.
#[test]
fn a_message_for_both_kinds_counts_once_for_its_name() {
    let mut bench = Bench::new(settings());
    let (text, binary) = (bench.client(), client(&mut bench, None));
    for key in [text, binary] {
        bench.subscribe(key, &["market:tick"]);
    }
    bench.publish("market:tick", &[], "1");
    bench.unsubscribe(text, &["market:tick"]);
    bench.publish("market:tick", &[], "2");
    assert_eq!(payloads(&mut bench, binary), [b"1", b"2"]);
    let now = bench.world.now;
    let survey = bench.world.hub.survey(now).expect("a whole survey");
    let looks = survey.busiest_topics.iter();
    let counts: Vec<_> = looks
        .map(|look| (look.members, look.recent_messages))
        .collect();
    assert_eq!(counts, [(1, 2)]);
}
