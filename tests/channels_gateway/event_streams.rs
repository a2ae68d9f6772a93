//! The position of an event stream is its last `id`. Wherever the stream is cut, nothing before the `id` is
//! missing.

use std::iter::once;

use weirgate_core::DrainPlan;

use super::resume::{Kept, TICK, at, limits};
use super::*;

const OTHER: &str = "market:other";
/// A name outside of the kept feed.
const ASKED: &str = "news";

fn subscribe(names: &[&str]) -> Value {
    json!({"action": "subscribe", "channels": names})
}

/// A kept feed of four messages, two of each name, and an event stream that comes back with the position
/// before the first.
fn stream(sends: &[Value]) -> (Kept, SessionKey) {
    stream_with(sends, &format!("Last-Event-ID: {}\r\n", at(0)))
}

fn stream_with(sends: &[Value], header: &str) -> (Kept, SessionKey) {
    let mut kept = Kept::with(settings(), limits());
    for n in 1..=4 {
        kept.publish([OTHER, TICK][n % 2], n.to_string());
    }
    let key = comes(&mut kept, sends, header);
    (kept, key)
}

/// An event stream with these messages in the query.
fn comes(kept: &mut Kept, sends: &[Value], header: &str) -> SessionKey {
    comes_to(kept, "", sends, header)
}

/// The same with more parameters before them.
fn comes_to(kept: &mut Kept, query: &str, sends: &[Value], header: &str) -> SessionKey {
    let sends = sends.iter().map(|send| {
        let send = send.to_string().replace('"', "%22");
        format!("send={send}")
    });
    let query = once(query.to_owned())
        .chain(sends)
        .collect::<Vec<_>>()
        .join("&");
    let request =
        format!("GET /ws?{query} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n{header}\r\n");
    let key = kept.bench.world.accept(usize::MAX);
    kept.bench.world.send(key, request.as_bytes());
    key
}

/// What came since the last call: the kinds of messages, each with the `id`.
fn events(kept: &mut Kept, key: SessionKey) -> Vec<(String, Option<String>)> {
    let sent = kept.bench.world.sent(key);
    let events = sent.split("\n\n");
    let event = |event: &str| {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let data: Value = serde_json::from_str(field("data: ")?).ok()?;
        let kind = data["type"].as_str()?.to_owned();
        Some((kind, field("id: ").map(str::to_owned)))
    };
    events.filter_map(event).collect()
}

fn of(kinds: &[(&str, Option<u64>)]) -> Vec<(String, Option<String>)> {
    let event = |(kind, id): &(&str, Option<u64>)| ((*kind).to_owned(), id.map(at));
    kinds.iter().map(event).collect()
}

#[test]
fn an_answer_has_no_id_while_missed_messages_wait() {
    for (second, answer, missed) in [
        (json!({"action": "ping"}), "pong", &[1, 3][..]),
        (
            json!({"action": "unsubscribe", "channels": [OTHER]}),
            "unsubscribed",
            &[1, 3],
        ),
        (
            json!({"action": "subscribe", "channels": [OTHER], "since": null}),
            "subscribed",
            &[1, 3],
        ),
        (subscribe(&[OTHER]), "subscribed", &[1, 2, 3, 4]),
        (json!({"action": "what"}), "error", &[1, 3]),
    ] {
        let (mut kept, key) = stream(&[subscribe(&[TICK]), second]);
        let mut want = of(&[("connected", None), ("subscribed", None), (answer, None)]);
        want.extend(
            missed
                .iter()
                .flat_map(|&count| of(&[("data", Some(count))])),
        );
        assert_eq!(events(&mut kept, key), want, "{answer}");
        kept.publish(TICK, "5");
        assert_eq!(events(&mut kept, key), of(&[("data", Some(5))]), "live");
        kept.bench.world.hub.check_invariants();
    }
}

#[test]
fn the_last_answer_of_a_new_stream_has_the_position() {
    let sends = [subscribe(&[TICK]), subscribe(&[OTHER])];
    let (mut kept, key) = stream_with(&sends, "");
    let want = [
        ("connected", None),
        ("subscribed", None),
        ("subscribed", Some(4)),
    ];
    assert_eq!(events(&mut kept, key), of(&want));
}

/// The second answer waits for the bus, and with it the first, the messages of both and every `id`.
#[test]
fn an_answer_that_waits_for_the_bus_holds_every_id() {
    let new = json!({"action": "subscribe", "channels": [TICK], "since": null});
    for (first, missed) in [(subscribe(&[TICK]), &[1, 2, 3, 4, 5][..]), (new, &[2, 4])] {
        let sends = [first, subscribe(&[OTHER, ASKED])];
        let (mut kept, key) = stream(&sends);
        kept.publish(TICK, "5");
        let held = |kept: &Kept| kept.bench.world.hub.core().resumed_messages().held();
        assert_eq!(events(&mut kept, key), of(&[("connected", None)]));
        kept.bench.confirm(ASKED);
        let mut want = of(&[("subscribed", None), ("subscribed", None)]);
        want.extend(
            missed
                .iter()
                .flat_map(|&count| of(&[("data", Some(count))])),
        );
        assert_eq!(events(&mut kept, key), want);
        assert_eq!(held(&kept), 0, "all have left");
        kept.bench.world.hub.check_invariants();
    }
}

#[test]
fn a_stop_tells_no_position_beyond_missed_messages() {
    let new = json!({"action": "subscribe", "channels": [TICK], "since": null});
    let (mut kept, key) = stream(&[new, subscribe(&[OTHER, ASKED])]);
    events(&mut kept, key);
    let now = kept.bench.world.now;
    kept.bench.world.hub.drain(now, DrainPlan::default());
    kept.bench.world.settle();
    assert_eq!(events(&mut kept, key), of(&[("status", None)]));
}

/// Polyfills of `EventSource`, and programs that set no headers, name the position in the query.
#[test]
fn the_position_may_be_in_the_query_and_the_header_is_newer() {
    let (first, second, last) = (at(0), at(2), at(3));
    for (query, header, missed) in [
        (format!("lastEventId={first}"), String::new(), 4),
        (format!("Last-Event-ID={first}"), String::new(), 4),
        (format!("lastEventID={second}"), String::new(), 2),
        (format!("last-event-id={second}"), String::new(), 2),
        (format!("last_event_id={second}"), String::new(), 2),
        // A polyfill adds the newest to the address that it got.
        (
            format!("lastEventId={first}&lastEventId={last}"),
            String::new(),
            1,
        ),
        (
            format!("lastEventId={second}&lastEventId="),
            String::new(),
            2,
        ),
        (
            format!("lastEventId={first}"),
            format!("Last-Event-ID: {last}\r\n"),
            1,
        ),
        (
            format!("lastEventId={second}"),
            "Last-Event-ID: \r\n".to_owned(),
            2,
        ),
        (format!("lastEvent={first}&last={first}"), String::new(), 0),
    ] {
        let (mut kept, _) = stream(&[]);
        let key = comes_to(&mut kept, &query, &[subscribe(&[OTHER, TICK])], &header);
        let sent = kept.bench.world.sent(key);
        assert_eq!(
            sent.matches(r#""type":"data""#).count(),
            missed,
            "{query} {header}: {sent}"
        );
        assert_eq!(
            sent.contains(r#""recovered":{"#),
            missed > 0,
            "{query} {header}: {sent}"
        );
        kept.bench.world.hub.check_invariants();
    }
}

/// A junk position in the query says that nothing can be followed up; a WebSocket has its `since` in the messages.
#[test]
fn a_junk_position_in_the_query_recovers_nothing() {
    let (mut kept, _) = stream(&[]);
    let long = "9".repeat(5_000);
    for id in ["junk", "%00", &long] {
        let query = format!("lastEventId={id}");
        let key = comes_to(&mut kept, &query, &[subscribe(&[TICK])], "");
        let sent = kept.bench.world.sent(key);
        assert!(
            sent.contains(r#""recovered":{"market:tick":false}"#),
            "{id}: {sent}"
        );
    }
}

/// Newest messages may be older than what the stream has: the status with the position of now follows, whichever
/// request is the last, and the next return brings nothing twice.
#[test]
fn the_position_of_now_follows_newest_messages_of_any_request() {
    let newest = json!({"action": "subscribe", "channels": [OTHER], "since": null, "last": 1});
    for (last, answer) in [
        (subscribe(&[TICK]), "subscribed"),
        (json!({"action": "ping"}), "pong"),
        (
            json!({"action": "subscribe", "channels": [TICK, ASKED]}),
            "",
        ),
    ] {
        let header = format!("Last-Event-ID: {}\r\n", at(5));
        let mut kept = Kept::with(settings(), limits());
        for (n, name) in [OTHER, TICK, TICK, TICK, TICK].iter().enumerate() {
            kept.publish(name, n.to_string());
        }
        let key = comes(&mut kept, &[newest.clone(), last], &header);
        let mut want = of(&[("connected", None), ("subscribed", None)]);
        if answer.is_empty() {
            kept.publish(OTHER, "5");
            kept.bench.confirm(ASKED);
            want.extend(of(&[("subscribed", None), ("data", Some(6))]));
            want.extend(of(&[("status", Some(6))]));
        } else {
            want.extend(of(&[(answer, None), ("data", Some(1))]));
            want.extend(of(&[("status", Some(5))]));
        }
        assert_eq!(events(&mut kept, key), want, "{answer}");
        kept.bench.world.hub.check_invariants();
    }
    // The client has let the name go before the answers.
    let gone = json!({"action": "unsubscribe", "channels": [OTHER]});
    let (mut kept, key) = stream_with(&[newest, gone], "");
    let want = [
        ("connected", None),
        ("subscribed", None),
        ("unsubscribed", None),
    ];
    assert_eq!(events(&mut kept, key), of(&want));
}
