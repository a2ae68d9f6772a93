//! Event streams with `?payload=raw`: the data of an event is the payload as published, its `id` the position, and
//! everything else has a type of its own.

use super::resume::{Kept, TICK, at};
use super::*;

/// Texts, of which the lines end in each way that there is.
const PAYLOADS: [&str; 6] = [
    r#"{"n":1.50}"#,
    "two\nlines",
    "\n\n",
    " a space, a colon: and data: x",
    "",
    "Grüße \u{1f44b}",
];

/// An event as an `EventSource` reads it: type, data, id.
type Event = (String, String, Option<String>);

fn events(sent: &str) -> Vec<Event> {
    let body = sent.split_once("\r\n\r\n").map_or(sent, |(_, body)| body);
    let event = |lines: &str| -> Option<Event> {
        let of = |name: &str| -> Vec<&str> {
            lines
                .split('\n')
                .filter_map(|line| line.strip_prefix(name))
                .collect()
        };
        let data = of("data: ");
        let kind = of("event: ").first().map_or("message", |kind| *kind);
        let id = of("id: ").first().map(|id| (*id).to_owned());
        (!data.is_empty()).then(|| (kind.to_owned(), data.join("\n"), id))
    };
    body.split("\n\n").filter_map(event).collect()
}

fn request(query: &str, since: &str) -> String {
    let send = json!({"action": "subscribe", "channels": [TICK], "status": true}).to_string();
    let send = send.replace('"', "%22");
    format!(
        "GET /ws?{query}&send={send} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nLast-Event-ID: {since}\r\n\r\n"
    )
}

fn comes(kept: &mut Kept, query: &str, since: &str, room: usize) -> SessionKey {
    let key = kept.bench.world.accept(room);
    kept.bench.world.send(key, request(query, since).as_bytes());
    key
}

#[test]
fn the_data_is_the_payload_and_the_id_its_position() {
    let mut kept = Kept::new();
    for payload in &PAYLOADS[..3] {
        kept.publish(TICK, payload);
    }
    let key = comes(&mut kept, "payload=raw", &at(0), usize::MAX);
    for payload in &PAYLOADS[3..] {
        kept.publish(TICK, payload);
    }
    let got = events(&kept.bench.world.sent(key));
    let (control, messages): (Vec<_>, Vec<_>) =
        got.into_iter().partition(|(kind, ..)| kind == "control");
    let kinds: Vec<Value> = control
        .iter()
        .map(|(_, data, _)| serde_json::from_str::<Value>(data).expect("an object")["type"].clone())
        .collect();
    assert_eq!(kinds, ["connected", "subscribed"]);
    let wanted = (1..)
        .zip(PAYLOADS)
        .map(|(count, payload)| ("message".to_owned(), payload.to_owned(), Some(at(count))));
    assert_eq!(messages, wanted.collect::<Vec<_>>());
}

/// Wherever the kernel takes how few bytes, and wherever the stream is cut: with the last `id` the rest follows, each
/// message once.
#[test]
fn a_stream_cut_anywhere_goes_on_from_its_last_id() {
    let mut kept = Kept::new();
    for payload in PAYLOADS {
        kept.publish(TICK, payload);
    }
    let whole = comes(&mut kept, "payload=raw", &at(0), usize::MAX);
    let whole = kept.bench.world.sent(whole);
    for room in 1..whole.len() {
        let first = comes(&mut kept, "payload=raw", &at(0), room);
        let sent = kept.bench.world.sent(first);
        // What no empty line ends is no event yet.
        let ended = sent.rfind("\n\n").map_or("", |end| &sent[..end]);
        let got = events(ended);
        let last = got.iter().rev().find_map(|(.., id)| id.clone());
        kept.bench.world.end(first, true);
        let second = comes(
            &mut kept,
            "payload=raw",
            &last.unwrap_or_else(|| at(0)),
            usize::MAX,
        );
        let rest = events(&kept.bench.world.sent(second));
        let data = got
            .into_iter()
            .chain(rest)
            .filter(|(kind, ..)| kind == "message");
        let data: Vec<String> = data.map(|(_, data, _)| data).collect();
        assert_eq!(data, PAYLOADS, "cut after {room} bytes");
        kept.bench.world.end(second, true);
    }
}

#[test]
fn others_of_the_name_get_what_they_get_without_it() {
    let told = |with_raw: bool| {
        let mut kept = Kept::new();
        let streams: Vec<_> = ["payload=binary", "payload=json"]
            .map(|query| comes(&mut kept, query, &at(0), usize::MAX))
            .to_vec();
        if with_raw {
            comes(&mut kept, "payload=raw", &at(0), usize::MAX);
        }
        for payload in PAYLOADS {
            kept.publish(TICK, payload);
        }
        let sent = |key| {
            let sent = kept.bench.world.sent(key);
            let events = sent.split_once("retry: ").expect("a stream").1.to_owned();
            // The time to come back is random, and so is the name of the client.
            events
                .split_once("\"subscribed\"")
                .expect("an answer")
                .1
                .to_owned()
        };
        streams.into_iter().map(sent).collect::<Vec<_>>()
    };
    assert_eq!(told(true), told(false));
}

#[test]
fn a_websocket_is_told_that_there_is_no_such_thing() {
    for (path, status) in [
        ("/ws?payload=raw", 400),
        ("/ws?payload=raw&payload=binary", 400),
        ("/ws?payload=binary&payload=raw", 101),
        ("/ws?payload=Raw", 101),
    ] {
        let mut bench = Bench::new(settings());
        let key = bench.world.accept(usize::MAX);
        bench.world.send(key, &world::client::request(path, None));
        let got = bench.world.net.sockets[&key].client.status();
        assert_eq!(got, Some(status), "{path}");
        let body = bench.world.sent(key);
        let wanted = "payload=raw is for event streams of weirgate channels only";
        assert_eq!(body.contains(wanted), status == 400, "{body}");
    }
}
