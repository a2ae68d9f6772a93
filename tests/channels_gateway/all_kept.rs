//! `"last":"all"`: every message that the stream keeps of a name, from the stream and from the history, each once, and
//! what is missing is said. The names of an event stream come together, on a WebSocket each comes by itself.

mod anew;
mod lost;

use weirgate_core::{Gateway as _, Point, RetainedCut, StoredId};
use weirgate_wire::admission::Quota;

use super::resume::{Kept, limits};
use super::*;

/// The hash of the stream.
const STREAM: u32 = 2;

/// A message on a WebSocket: a name with the payload, an end, or the type.
fn said(message: &Value) -> String {
    let name = message["channel"].as_str().unwrap_or_default();
    match message["type"].as_str() {
        Some("data") => format!("{name} {}", message["data"]),
        Some("last") => format!("last {name} {} {}", message["count"], message["cut"]),
        Some("subscribed") => format!("subscribed {} {}", message["recovered"], message["why"]),
        kind => kind.unwrap_or_default().to_owned(),
    }
}

/// A gateway on a stream of Redis with `a:*`, whose history begins empty.
fn on_a_stream() -> Bench {
    of_a_stream(NameSyntax::Redis, settings())
}

/// On a stream of JetStream with `a.*`.
fn on_jetstream() -> Bench {
    of_a_stream(NameSyntax::Nats, settings())
}

/// As [`on_a_stream`], with this history.
fn on_a_stream_with(history: HistoryLimits) -> Bench {
    with_history(NameSyntax::Redis, settings(), history)
}

fn of_a_stream(syntax: NameSyntax, settings: ChannelsGatewaySettings) -> Bench {
    with_history(syntax, settings, limits())
}

fn with_history(
    syntax: NameSyntax,
    settings: ChannelsGatewaySettings,
    history: HistoryLimits,
) -> Bench {
    let (table, all): (&[u8], _) = match syntax {
        NameSyntax::Redis => (br#"{"user": ["a:*"]}"#, "*"),
        NameSyntax::Nats => (br#"{"user": ["a.*"]}"#, ">"),
    };
    let settings = ChannelsGatewaySettings {
        acl: Acl::from_json(syntax, table).expect("a table"),
        ..settings
    };
    let change = |limits: &mut Limits| {
        limits.history = history;
        limits.kept_stream = Some(STREAM);
    };
    let mut bench = Bench::changed(settings, change, |gateway| {
        let gateway = gateway.with_kept_stream(vec![all.to_owned()]);
        gateway.expect("names").with_pages(1 << 24)
    });
    bench.bus(BusEvent::Up);
    bench.world.advance(1);
    bench
}

fn position(sequence: u64) -> Position {
    let id = StoredId {
        major: sequence,
        minor: sequence,
    };
    Position::stored(STREAM, id)
}

impl Bench {
    fn entry(&self, name: &str, sequence: u64, payload: &str) -> BusMessage {
        BusMessage {
            place: Place::Kept(Some(position(sequence))),
            ..BusMessage::new(name, payload.as_bytes().to_vec(), self.world.now)
        }
    }

    /// A live message of the stream.
    fn comes(&mut self, name: &str, sequence: u64) {
        let message = self.entry(name, sequence, &sequence.to_string());
        self.bus(BusEvent::Message(message));
    }

    /// A message that the newest question brings.
    fn finds(&mut self, name: &str, sequence: u64, payload: &str) {
        let mut message = self.entry(name, sequence, payload);
        message.quiet = true;
        let number = self.question();
        self.bus(BusEvent::LastValue {
            message,
            is_deletion: false,
            number,
        });
    }

    fn question(&self) -> u64 {
        self.world.outputs.all.last().expect("a question").1
    }

    /// Where the newest question begins.
    fn asked_after(&self) -> Option<u64> {
        let after = self.world.outputs.after[&self.question()].after;
        after.map(|id| id.major)
    }

    /// Whether the newest question brings the message after which it begins once more.
    fn asks_for_last(&self) -> bool {
        self.world.outputs.after[&self.question()].repeats
    }

    /// The names that clients wait for with the newest question.
    fn sought(&self) -> Vec<&str> {
        let names = &self.world.outputs.sought[&self.question()];
        names.iter().map(String::as_str).collect()
    }

    /// The newest question has a page up to this message, and goes on or has to be asked again.
    fn pages(&mut self, sequence: u64, is_open: bool) {
        let number = self.question();
        let cursor = PageCursor::at(position(sequence));
        self.bus(BusEvent::RetainedPage {
            number,
            cursor: Arc::new(cursor),
            is_open,
        });
        self.world.advance(1);
    }

    /// Memory charged for the names of clients.
    fn name_bytes(&self) -> u64 {
        let held = self.world.hub.gateway().holdings();
        let held = held.iter().map(Quota::counts);
        let held = held.filter(|of| of.name == "name_bytes");
        held.map(|of| of.held).sum()
    }

    fn ends(&mut self, cut: Option<RetainedCut>) {
        let number = self.question();
        self.bus(BusEvent::RetainedEnd {
            subscription: Subscription::channel("a:1"),
            number,
            cut,
        });
        self.world.advance(1);
    }

    /// An event stream of payloads.
    fn stream(&mut self, names: &[&str], since: Option<u64>) -> SessionKey {
        self.stream_of(
            &[json!({"action": "subscribe", "channels": names, "last": "all"})],
            since,
        )
    }

    /// An event stream of payloads, with these requests in its URL.
    fn stream_of(&mut self, requests: &[Value], since: Option<u64>) -> SessionKey {
        let since = since.map(|since| position(since).to_string());
        self.stream_from(requests, since.as_deref())
    }

    /// As [`Self::stream_of`], after a position in its own words.
    fn stream_from(&mut self, requests: &[Value], since: Option<&str>) -> SessionKey {
        let since = since.map_or_else(String::new, |since| format!("Last-Event-ID: {since}\r\n"));
        let sends = requests
            .iter()
            .map(|one| format!("&send={}", one.to_string().replace('"', "%22")));
        let request = format!(
            "GET /ws?payload=raw{} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n{since}\r\n",
            sends.collect::<String>()
        );
        let key = self.world.accept(usize::MAX);
        self.world.send(key, request.as_bytes());
        self.world.advance(1);
        key
    }

    /// A WebSocket asks for all messages of names.
    fn ask_all(&mut self, key: SessionKey, names: &[&str], since: Option<u64>) {
        let since = since.map(|since| position(since).to_string());
        let mut request = json!({"action": "subscribe", "channels": names, "last": "all"});
        if let Some(since) = since {
            request["since"] = json!(since);
        }
        self.say(key, &request);
        self.world.advance(1);
    }

    /// What came on a WebSocket: names with payloads, and the ends.
    fn brought(&mut self, key: SessionKey) -> Vec<String> {
        let mut came: Vec<String> = self.got(key).iter().map(said).collect();
        came.retain(|one| one != "status");
        came
    }

    /// Payloads, and what else came, as its type with what it says.
    fn got_all(&mut self, key: SessionKey) -> Vec<String> {
        let sent = self.world.sent(key);
        let data = sent.split("\n\n").filter_map(|event| {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "))?;
            let Ok(answer) = serde_json::from_str::<Value>(data) else {
                return Some(data.to_owned());
            };
            Some(match answer["type"].as_str() {
                Some("last") => format!("last {} {}", answer["count"], answer["cut"]),
                Some("subscribed") => format!("subscribed {}", answer["recovered"]),
                Some(kind) => kind.to_owned(),
                None => data.to_owned(),
            })
        });
        data.collect()
    }
}

fn with_head(more: &[&str]) -> Vec<String> {
    let head = ["connected", "subscribed null"];
    head.iter()
        .chain(more)
        .map(|one| (*one).to_owned())
        .collect()
}

#[test]
fn all_come_from_the_stream_and_the_history_and_then_live() {
    let mut bench = on_a_stream();
    bench.comes("a:1", 8);
    let key = bench.stream(&["a:1"], None);
    assert_eq!(
        (bench.world.outputs.all.len(), bench.asked_after()),
        (1, None)
    );
    // What comes meanwhile is in the history, and after what the stream has.
    bench.finds("a:1", 3, "3");
    bench.comes("a:1", 9);
    bench.finds("a:1", 8, "8");
    assert_eq!(bench.got_all(key), with_head(&["3", "8"]));
    bench.ends(None);
    assert_eq!(bench.got_all(key), ["9", "last 3 null"]);
    bench.comes("a:1", 10);
    bench.comes("a:2", 11);
    assert_eq!(bench.got_all(key), ["10"]);
    bench.world.hub.check_invariants();
}

#[test]
fn a_client_goes_on_from_its_position_in_the_history_or_in_the_stream() {
    let mut bench = on_a_stream();
    for sequence in 8..12 {
        bench.comes("a:1", sequence);
    }
    let key = bench.stream(&["a:1"], Some(9));
    assert_eq!(bench.world.outputs.all.len(), 0, "the history has the rest");
    let got = bench.got_all(key);
    assert_eq!(got[1], r#"subscribed {"a:1":true}"#);
    assert_eq!(got[2..], ["10", "11", "last 2 null"]);
    let key = bench.stream(&["a:1"], Some(3));
    assert_eq!(bench.asked_after(), Some(3));
    bench.finds("a:1", 5, "5");
    bench.finds("a:1", 8, "8");
    bench.ends(None);
    let got = bench.got_all(key);
    assert_eq!(got[got.len() - 2..], ["8", "last 2 null"]);
}

/// The stream has `a.1` and `a.2`; `a.9` is a subject beside it.
#[test]
fn all_in_one_request_of_an_event_stream_is_all_in_each() {
    let settings = ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Nats, br#"{"user": ["a.*"]}"#).expect("a table"),
        ..settings()
    };
    let mut bench = Bench::limited(settings, limits(), |gateway| {
        let names = ["a.1", "a.2"].map(str::to_owned).to_vec();
        let gateway = gateway.with_kept_stream(names).expect("names");
        gateway.with_past().with_pages(1 << 24)
    });
    bench.bus(BusEvent::Up);
    bench.world.advance(1);
    bench.comes("a.2", 8);
    let request = |name: &str| json!({"action": "subscribe", "channels": [name]});
    let (mut newest, mut all) = (request("a.1"), request("a.2"));
    newest["last"] = json!(10);
    all["last"] = json!("all");
    let key = bench.stream_of(&[request("a.9"), newest, all], None);
    bench.confirm("a.9");
    bench.world.advance(1);
    assert_eq!(bench.world.outputs.all.len(), 1, "one question for both");
    assert_eq!(bench.world.outputs.newest.len(), 0);
    bench.finds("a.1", 3, "3");
    bench.finds("a.2", 8, "8");
    bench.ends(None);
    let got = bench.got_all(key);
    let ends: Vec<_> = got.iter().filter(|one| one.starts_with("last")).collect();
    assert_eq!(
        ends,
        ["last 0 \"off\"", "last 1 null", "last 1 null"],
        "{got:?}"
    );
}

#[test]
fn what_is_missing_is_said() {
    for (cut, said) in [
        (Some(RetainedCut::Window), "last 2 \"window\""),
        // All are there.
        (Some(RetainedCut::Refused), "last 2 null"),
        (None, "last 2 null"),
    ] {
        let mut bench = on_a_stream();
        bench.comes("a:1", 8);
        let key = bench.stream(&["a:1"], None);
        bench.finds("a:1", 3, "3");
        bench.finds("a:1", 8, "8");
        bench.ends(cut);
        assert_eq!(bench.got_all(key), with_head(&["3", "8", said]));
    }
    // The stream gives the name up: the history still has a message.
    let mut bench = on_jetstream();
    bench.comes("a.1", 8);
    let key = bench.stream(&["a.1"], None);
    bench.finds("a.1", 3, "3");
    bench.ends(Some(RetainedCut::Off));
    assert_eq!(bench.got_all(key), with_head(&["3", "8", "last 2 \"off\""]));
    // A message that is too large, with what was said of an earlier page.
    let mut bench = on_a_stream();
    bench.comes("a:3", 4);
    let key = bench.stream(&["a:1", "a:2"], None);
    let large = "x".repeat((1 << 20) + 1);
    bench.finds("a:3", 2, &large);
    bench.finds("a:1", 3, "3");
    bench.finds("a:2", 4, &large);
    let number = bench.question();
    bench.bus(BusEvent::RetainedPage {
        number,
        cursor: Arc::new(PageCursor::after(None)),
        is_open: false,
    });
    bench.world.advance(1);
    assert_eq!(bench.world.outputs.all.len(), 2, "another question goes on");
    bench.ends(None);
    let last = ["3", "last 1 \"large\"", "last 0 \"large\""];
    assert_eq!(bench.got_all(key), with_head(&last));
}

#[test]
fn the_bus_goes_away_and_the_client_gets_each_message_once() {
    let mut bench = on_a_stream();
    bench.comes("a:1", 4);
    let key = bench.stream(&["a:1"], None);
    bench.finds("a:1", 3, "3");
    bench.down();
    bench.world.advance(1);
    bench.bus(BusEvent::Up);
    bench.world.advance(SECOND);
    assert_eq!(bench.world.outputs.all.len(), 2);
    bench.finds("a:1", 3, "3");
    bench.finds("a:1", 4, "4");
    bench.ends(None);
    let mut got = bench.got_all(key);
    got.retain(|one| one != "status");
    assert_eq!(got, with_head(&["3", "4", "last 2 null"]));
    assert_eq!(bench.stats.retained_waiting.get(), 0);
}

#[test]
fn a_name_that_is_refused_brings_nothing() {
    let mut bench = on_a_stream();
    bench.stream(&["b"], None);
    let key = bench.client();
    bench.ask_all(key, &["b"], None);
    assert_eq!(bench.brought(key), ["subscribed null null"]);
    assert_eq!(bench.world.outputs.all.len(), 0);
}

/// A client that waits for the end has to get it. Without a history, and with one that is no stream.
#[test]
fn without_a_stream_nothing_is_kept_and_the_end_says_so() {
    let settings = || ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, br#"{"user": ["a:*"]}"#).expect("a table"),
        ..settings()
    };
    let kept = |names: &str| {
        Bench::limited(settings(), limits(), |gateway| {
            gateway.with_kept(vec![names.to_owned()]).expect("names")
        })
    };
    for mut bench in [Bench::new(settings()), kept("a:*"), kept("b:*")] {
        bench.bus(BusEvent::Up);
        bench.world.advance(1);
        let without = bench.client();
        bench.ask_all(without, &["a:1"], None);
        if bench.world.outputs.wanted.contains_key("a:1") {
            bench.confirm("a:1");
        }
        let with = bench.client();
        bench.ask_all(with, &["a:1"], Some(3));
        let end = r#"last a:1 0 "off""#;
        let answer = r#"subscribed null {"a:1":"off"}"#;
        assert_eq!(bench.brought(without), [answer, end]);
        let answer = r#"subscribed {"a:1":false} {"a:1":"off"}"#;
        assert_eq!(bench.brought(with), [answer, end]);
        let live = BusMessage::new("a:1", b"5".to_vec(), bench.world.now);
        bench.bus(BusEvent::Message(live));
        bench.world.advance(1);
        for key in [without, with] {
            assert_eq!(bench.brought(key), ["a:1 5"]);
        }
        bench.world.hub.check_invariants();
    }
}

/// Its names have one position: no live message of one comes before the missed ones of another.
#[test]
fn without_a_stream_other_requests_of_an_event_stream_resume() {
    let mut kept = Kept::new();
    kept.publish("market:a", "1");
    kept.publish("market:a", "2");
    let request = |name: &str| json!({"action": "subscribe", "channels": [name]});
    let mut all = request("market:b");
    all["last"] = json!("all");
    let requests = [all, request("market:a"), request("outside")];
    let since = Kept::position(1).to_string();
    let key = kept.bench.stream_from(&requests, Some(&since));
    kept.publish("market:b", "3");
    kept.publish("market:a", "4");
    assert_eq!(kept.bench.got_all(key), ["connected"]);
    kept.bench.confirm("outside");
    kept.bench.world.advance(1);
    kept.publish("market:b", "5");
    let got = kept.bench.got_all(key);
    assert_eq!(
        got,
        [
            r#"subscribed {"market:b":false}"#,
            r#"subscribed {"market:a":true}"#,
            r#"subscribed {"outside":false}"#,
            "2",
            "4",
            r#"last 0 "off""#,
            "5"
        ]
    );
}

#[test]
fn on_a_websocket_each_name_comes_from_its_own_position_between_the_others() {
    let mut bench = on_jetstream();
    for sequence in 8..11 {
        bench.comes("a.1", sequence);
    }
    let key = bench.client();
    bench.subscribe(key, &["a.3"]);
    bench.ask_all(key, &["a.1"], Some(9));
    bench.ask_all(key, &["a.2", "a.4"], None);
    let begin = [
        "subscribed null null",
        r#"subscribed {"a.1":true} null"#,
        "a.1 10",
        "last a.1 1 null",
        "subscribed null null",
    ];
    assert_eq!(bench.brought(key), begin);
    assert_eq!(bench.asked_after(), None);
    // One question at a time, and live messages meanwhile.
    assert_eq!(bench.world.outputs.all.len(), 1);
    bench.finds("a.2", 3, "3");
    bench.comes("a.3", 11);
    bench.comes("a.2", 12);
    bench.comes("a.1", 13);
    bench.finds("a.2", 7, "7");
    assert_eq!(bench.brought(key), ["a.2 3", "a.3 11", "a.1 13", "a.2 7"]);
    bench.ends(None);
    assert_eq!(bench.brought(key), ["a.2 12", "last a.2 3 null"]);
    assert_eq!(bench.world.outputs.all.len(), 2);
    bench.comes("a.2", 14);
    bench.comes("a.4", 15);
    bench.finds("a.4", 5, "5");
    bench.ends(None);
    assert_eq!(
        bench.brought(key),
        ["a.2 14", "a.4 5", "a.4 15", "last a.4 2 null"]
    );
    assert_eq!(bench.stats.retained_waiting.get(), 0);
    bench.world.hub.check_invariants();
}

/// On Redis a question reads the whole stream, whatever its names.
#[test]
fn names_of_several_clients_share_a_reading_of_the_stream() {
    let mut bench = on_a_stream();
    bench.comes("a:9", 8);
    let (one, other) = (bench.client(), bench.client());
    bench.ask_all(one, &["a:1"], None);
    assert_eq!(bench.sought(), ["a:1"]);
    // Names that come meanwhile wait: those of other clients for the next reading, those of this one for the end.
    bench.ask_all(one, &["a:2", "a:3"], None);
    bench.ask_all(one, &["a:*"], None);
    bench.ask_all(other, &["a:4"], None);
    let stream = bench.stream(&["a:2", "a:5"], None);
    assert_eq!(bench.world.outputs.all.len(), 1);
    bench.finds("a:1", 3, "3");
    bench.ends(None);
    let came = bench.brought(one);
    assert_eq!(came[came.len() - 2..], ["a:1 3", "last a:1 1 null"]);
    assert_eq!(bench.world.outputs.all.len(), 2);
    assert_eq!(bench.sought(), ["a:2", "a:4", "a:5"]);
    bench.brought(other);
    for (name, sequence) in [("a:2", 4), ("a:4", 5), ("a:9", 6), ("a:5", 7)] {
        bench.finds(name, sequence, &sequence.to_string());
    }
    assert_eq!(bench.brought(other), ["a:4 5"]);
    assert_eq!(bench.got_all(stream), with_head(&["4", "7"]));
    bench.ends(None);
    assert_eq!(bench.brought(other), ["last a:4 1 null"]);
    assert_eq!(bench.got_all(stream), ["last 1 null", "last 1 null"]);
    assert_eq!(bench.sought(), ["a:*", "a:2", "a:3"]);
    for (name, sequence) in [("a:2", 4), ("b", 5), ("a:9", 6)] {
        bench.finds(name, sequence, &sequence.to_string());
    }
    // A message comes once for a name, and once for a pattern.
    assert_eq!(bench.brought(one), ["a:2 4", "a:2 4", "a:9 6"]);
    bench.comes("a:3", 9);
    bench.ends(None);
    let ends = ["last a:* 3 null", "last a:2 1 null", "last a:3 1 null"];
    let came = bench.brought(one);
    assert_eq!(came, ["a:3 9", ends[0], ends[1], "a:3 9", ends[2]]);
    assert_eq!(bench.world.outputs.all.len(), 3);
    assert_eq!(bench.stats.retained_waiting.get(), 0);
    bench.world.hub.check_invariants();
}

#[test]
fn a_reading_for_many_names_goes_on_where_it_was_for_those_that_are_left() {
    let mut bench = on_a_stream();
    bench.comes("a:9", 20);
    let key = bench.client();
    bench.ask_all(key, &["a:1", "a:2", "a:3"], None);
    bench.finds("a:1", 3, "3");
    bench.finds("a:2", 4, "4");
    // The bus loses its connection.
    bench.ask_all(key, &["a:4"], None);
    bench.pages(5, false);
    assert_eq!(
        (bench.asked_after(), bench.sought()),
        (Some(5), vec!["a:1", "a:2", "a:3"])
    );
    bench.unsubscribe(key, &["a:2"]);
    bench.finds("a:2", 6, "6");
    bench.finds("a:3", 7, "7");
    bench.pages(7, true);
    assert_eq!(bench.world.outputs.more.len(), 1);
    bench.finds("a:1", 8, "8");
    bench.ends(None);
    let came = bench.brought(key);
    let came: Vec<&String> = came
        .iter()
        .filter(|one| !one.contains("subscribed"))
        .collect();
    assert_eq!(
        came,
        [
            "a:1 3",
            "a:2 4",
            "a:3 7",
            "a:1 8",
            "last a:1 2 null",
            "last a:3 1 null"
        ]
    );
    assert_eq!((bench.asked_after(), bench.sought()), (None, vec!["a:4"]));
    bench.unsubscribe(key, &["a:4"]);
    bench.world.advance(1);
    assert_eq!(bench.world.outputs.forgotten.len(), 1);
    assert_eq!(bench.stats.retained_waiting.get(), 0);
    bench.world.hub.check_invariants();
}

#[test]
fn what_is_missing_is_said_of_its_name_alone() {
    let mut bench = on_a_stream();
    bench.comes("a:9", 8);
    let key = bench.client();
    bench.ask_all(key, &["a:1", "a:2"], None);
    bench.finds("a:1", 3, "3");
    bench.finds("a:2", 4, &"x".repeat((1 << 20) + 1));
    bench.ends(None);
    let came = bench.brought(key);
    assert_eq!(
        came[1..],
        ["a:1 3", "last a:1 1 null", "last a:2 0 \"large\""]
    );
}

/// A reading that begins before a name's position could say that messages are missing that the name does not lack.
#[test]
fn names_with_other_positions_are_read_by_themselves() {
    let mut bench = on_a_stream();
    bench.comes("a:9", 20);
    let key = bench.client();
    bench.ask_all(key, &["a:1", "a:3"], Some(3));
    bench.ask_all(key, &["a:2"], Some(5));
    assert_eq!(
        (bench.asked_after(), bench.sought()),
        (Some(3), vec!["a:1", "a:3"])
    );
    bench.finds("a:1", 6, "6");
    bench.ends(Some(RetainedCut::Window));
    assert_eq!(
        (bench.asked_after(), bench.sought()),
        (Some(5), vec!["a:2"])
    );
    bench.finds("a:2", 7, "7");
    bench.ends(None);
    let came = bench.brought(key);
    let came: Vec<&String> = came
        .iter()
        .filter(|one| !one.contains("subscribed"))
        .collect();
    let ends = ["last a:1 1 \"window\"", "last a:3 0 \"window\""];
    assert_eq!(
        came,
        ["a:1 6", ends[0], ends[1], "a:2 7", "last a:2 1 null"]
    );
}

/// What clients wait for is charged with their names, until its end, whatever ends it.
#[test]
fn what_clients_wait_for_is_charged_and_given_back() {
    for how in ["end", "leave", "rights", "closed"] {
        let mut bench = on_a_stream();
        bench.comes("a:9", 8);
        let key = bench.client();
        bench.subscribe(key, &["a:1", "a:2", "a:*"]);
        let of_names = bench.name_bytes();
        bench.unsubscribe(key, &["a:1", "a:2", "a:*"]);
        assert_eq!(bench.name_bytes(), 0);
        bench.ask_all(key, &["a:1", "a:2", "a:*"], None);
        let charged = bench.name_bytes() - of_names;
        let least = 3 * AllClientsLimits::REPLAYED_NAME_BYTES;
        assert!((least + 1..2 * least).contains(&charged), "{charged}");
        let stream = bench.stream(&["a:1", "a:2"], None);
        let of_stream = bench.name_bytes() - charged - of_names;
        match how {
            "end" => {
                bench.ends(None);
                bench.ends(None);
                assert!(
                    bench.name_bytes()
                        < of_names + of_stream - 2 * AllClientsLimits::REPLAYED_NAME_BYTES + 1
                );
            }
            "leave" => {
                bench.unsubscribe(key, &["a:1"]);
                let left = bench.name_bytes();
                assert!(
                    left <= of_names + charged + of_stream - AllClientsLimits::REPLAYED_NAME_BYTES
                );
                bench.unsubscribe(key, &["a:2", "a:*"]);
                assert_eq!(
                    bench.name_bytes(),
                    of_stream + 2 * AllClientsLimits::NAME_BYTES + 6
                );
            }
            "rights" => {
                let table =
                    Acl::from_json(NameSyntax::Redis, br#"{"user": ["a:2"]}"#).expect("a table");
                bench.world.hub.handle_input(bench.world.now, table);
                bench.subscribe(key, &["a:1", "a:*"]);
                bench.world.advance(1);
                let left = bench.name_bytes();
                assert!(
                    left < of_names + charged + of_stream
                        - 2 * AllClientsLimits::REPLAYED_NAME_BYTES
                );
            }
            _ => {}
        }
        bench.world.end(key, true);
        bench.world.end(stream, true);
        bench.world.advance(1);
        assert_eq!(bench.name_bytes(), 0, "{how}");
        assert_eq!(bench.stats.retained_waiting.get(), 0, "{how}");
    }
}

/// An address with very many clients leaves room for others, and who has no room goes on live.
#[test]
fn without_room_clients_get_no_kept_messages_and_are_told() {
    let mut settings = settings();
    let all = 1_000_000;
    settings.all_clients.name_bytes_max = all;
    let mut bench = of_a_stream(NameSyntax::Redis, settings);
    bench.comes("a:9", 8);
    let names: Vec<String> = (0..10).map(|n| format!("a:{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let keys: Vec<SessionKey> = (0..100).map(|_| bench.client()).collect();
    for key in &keys {
        bench.ask_all(*key, &names, None);
    }
    let held = bench.name_bytes();
    assert!(held <= all as u64 / 2, "{held}");
    let last = keys[80];
    let came = bench.brought(last);
    let cut = |name: &&str| format!("last {name} 0 \"limit\"");
    assert_eq!(came[1..], names.iter().map(cut).collect::<Vec<_>>());
    assert!(bench.stats.retained_given_up.get() > 500);
    bench.comes("a:3", 9);
    assert_eq!(bench.brought(last), ["a:3 9"]);
    let other = bench.client_from([127, 0, 0, 2]);
    bench.ask_all(other, &["a:3"], None);
    assert_eq!(bench.brought(other), ["subscribed null null"]);
    bench.finds("a:3", 8, "8");
    bench.ends(None);
    bench.ends(None);
    for key in keys {
        bench.world.end(key, true);
    }
    bench.world.advance(1);
    assert_eq!(
        bench.name_bytes(),
        AllClientsLimits::NAME_BYTES + AllClientsLimits::NAME_OF_CLIENT_BYTES + 3
    );
    bench.world.hub.check_invariants();
}

#[test]
fn a_name_that_comes_already_is_off_and_ends_once() {
    let mut bench = on_a_stream();
    bench.comes("a:1", 8);
    let key = bench.client();
    bench.ask_all(key, &["a:1"], None);
    bench.finds("a:1", 3, "3");
    bench.ask_all(key, &["a:1"], Some(3));
    let off = r#"subscribed {"a:1":false} {"a:1":"off"}"#;
    assert_eq!(bench.brought(key), ["subscribed null null", "a:1 3", off]);
    bench.finds("a:1", 8, "8");
    bench.ends(None);
    assert_eq!(bench.brought(key), ["a:1 8", "last a:1 2 null"]);
    // The client has all of it.
    bench.ask_all(key, &["a:1"], Some(3));
    assert_eq!(bench.brought(key), [off, r#"last a:1 0 "off""#]);
    bench.comes("a:1", 9);
    assert_eq!(bench.brought(key), ["a:1 9"]);
    // Given up and asked for again: all of it.
    bench.unsubscribe(key, &["a:1"]);
    bench.ask_all(key, &["a:1"], None);
    for sequence in [3, 8, 9] {
        bench.finds("a:1", sequence, &sequence.to_string());
    }
    bench.ends(None);
    let came = bench.brought(key);
    assert_eq!(came[..2], ["unsubscribed", "subscribed null null"]);
    assert_eq!(came[2..], ["a:1 3", "a:1 8", "a:1 9", "last a:1 3 null"]);
}

#[test]
fn a_name_that_is_given_up_or_taken_away_in_the_middle_brings_nothing_more() {
    let mut bench = on_a_stream();
    bench.comes("a:2", 8);
    let key = bench.client();
    bench.ask_all(key, &["a:1"], None);
    bench.finds("a:1", 3, "3");
    bench.unsubscribe(key, &["a:1"]);
    bench.world.advance(1);
    assert_eq!(bench.world.outputs.forgotten.len(), 1);
    bench.finds("a:1", 4, "4");
    bench.comes("a:1", 9);
    assert_eq!(
        bench.brought(key),
        ["subscribed null null", "a:1 3", "unsubscribed"]
    );
    bench.ask_all(key, &["a:1", "a:2"], None);
    bench.finds("a:1", 3, "3");
    let table = Acl::from_json(NameSyntax::Redis, br#"{"user": ["a:2"]}"#).expect("a table");
    bench.world.hub.handle_input(bench.world.now, table);
    bench.subscribe(key, &["a:1"]);
    bench.world.advance(1);
    assert_eq!(bench.brought(key)[..2], ["subscribed null null", "a:1 3"]);
    bench.finds("a:2", 7, "7");
    bench.finds("a:2", 8, "8");
    bench.ends(None);
    bench.comes("a:1", 10);
    assert_eq!(bench.brought(key), ["a:2 7", "a:2 8", "last a:2 2 null"]);
    assert_eq!(bench.stats.retained_waiting.get(), 0);
    bench.world.hub.check_invariants();
}

#[test]
fn a_history_that_is_short_after_each_question_is_not_asked_for_ever() {
    let mut bench = on_a_stream_with(HistoryLimits {
        bytes_max: 1 << 14,
        ..limits()
    });
    bench.comes("a:1", 8);
    let key = bench.client();
    bench.ask_all(key, &["a:1"], None);
    let mut sequence = 8;
    let mut outrun = |bench: &mut Bench| {
        // More than the history holds comes while the stream is read.
        for _ in 0..4 {
            sequence += 1;
            let mut message = bench.entry("a:1", sequence, "");
            message.payload = format!("\"{}\"", "x".repeat(6_000)).into_bytes();
            bench.bus(BusEvent::Message(message));
        }
        sequence - 4
    };
    // As long as a question brings pages, another one follows.
    for asked in 1..=150 {
        assert_eq!(bench.world.outputs.all.len(), asked);
        let read = outrun(&mut bench);
        bench.pages(read, true);
        assert_eq!(bench.world.outputs.more.len(), asked);
        bench.ends(None);
    }
    for asked in 151..=250 {
        assert_eq!(bench.world.outputs.all.len(), asked);
        outrun(&mut bench);
        bench.ends(None);
    }
    assert_eq!(bench.world.outputs.all.len(), 250);
    let came = bench.brought(key);
    let ends: Vec<&String> = came.iter().filter(|one| one.starts_with("last")).collect();
    assert!(
        (2..6).contains(&(came.len() - 1)),
        "what the history has follows"
    );
    assert_eq!(ends, [&format!("last a:1 {} \"limit\"", came.len() - 2)]);
    bench.comes("a:1", 10_000);
    assert_eq!(bench.brought(key), ["a:1 10000"]);
}

#[test]
fn a_question_that_gets_no_answer_is_asked_again_once() {
    for is_answered in [true, false] {
        let mut bench = on_a_stream();
        bench.comes("a:1", 8);
        let key = bench.client();
        bench.ask_all(key, &["a:1"], None);
        bench.finds("a:1", 3, "3");
        bench.ends(Some(RetainedCut::Refused));
        assert_eq!(bench.world.outputs.all.len(), 2);
        assert_eq!(bench.asked_after(), Some(3));
        let cut = match is_answered {
            true => None,
            false => Some(RetainedCut::Refused),
        };
        if is_answered {
            bench.finds("a:1", 7, "7");
            bench.finds("a:1", 8, "8");
        }
        bench.ends(cut);
        let rest: &[&str] = match is_answered {
            true => &["a:1 7", "a:1 8", "last a:1 3 null"],
            false => &["a:1 8", "last a:1 2 \"refused\""],
        };
        let came = bench.brought(key);
        assert_eq!(came[..2], ["subscribed null null", "a:1 3"]);
        assert_eq!(came[2..], *rest);
        assert_eq!(bench.world.outputs.all.len(), 2);
    }
}

#[test]
fn many_names_of_a_client_come_from_the_history() {
    let names: Vec<String> = (0..50).map(|n| format!("a:{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bench = on_a_stream();
    for sequence in 8..108 {
        bench.comes(names[sequence as usize % 50], sequence);
    }
    let key = bench.client();
    bench.ask_all(key, &names, Some(8));
    let came = bench.brought(key);
    let ends = came.iter().filter(|one| one.starts_with("last ")).count();
    assert_eq!((ends, came.len()), (50, 1 + 99 + 50), "{came:?}");
    assert_eq!(
        bench.world.outputs.all.len(),
        0,
        "all of it is in the history"
    );
    bench.world.hub.check_invariants();
}

/// The names of a request are found in several steps; what is wrong with its position is wrong for all of them.
#[test]
fn a_position_that_is_none_is_bad_for_every_name() {
    let settings = ChannelsGatewaySettings {
        channels_max: 1_000,
        ..settings()
    };
    let mut bench = of_a_stream(NameSyntax::Redis, settings);
    bench.comes("a:1", 8);
    let key = bench.client();
    let names: Vec<String> = (0..700).map(|n| format!("a:{n}")).collect();
    bench.say(
        key,
        &json!({"action": "subscribe", "channels": names, "last": "all", "since": "garbage"}),
    );
    bench.world.advance(SECOND);
    let got = bench.got(key);
    let answer = got.iter().find(|one| one["type"] == "subscribed");
    let recovered = answer.expect("an answer")["recovered"]
        .as_object()
        .expect("names");
    let not = recovered.values().filter(|said| **said == json!(false));
    assert_eq!((recovered.len(), not.count()), (700, 700));
}

/// Before this instance has read anything, and after it has lost everything.
#[test]
fn a_position_of_another_feed_is_bad_whatever_was_read() {
    let mark = Mark {
        nonce: 7,
        counter: 1,
    };
    let Point::Stored { id, .. } = position(5).point else {
        panic!("an id");
    };
    let foreign = [
        Position::stored(STREAM + 1, id),
        Position::counted(STREAM + 1, mark, 0),
        Position::counted(STREAM, mark, 0),
    ];
    let of_bus = [(NameSyntax::Redis, "a:1"), (NameSyntax::Nats, "a.1")];
    for ((syntax, name), has_lost) in of_bus.into_iter().zip([false, true]) {
        for since in foreign.map(|since| since.to_string()) {
            let bench = || {
                let mut bench = of_a_stream(syntax, settings());
                if has_lost {
                    bench.comes(name, 1);
                    bench.bus(BusEvent::Gap { lost: None });
                }
                bench
            };
            let all = json!({"action": "subscribe", "channels": [name], "last": "all"});
            let brings_all = |bench: &mut Bench| {
                assert_eq!(bench.asked_after(), None, "{since}");
                bench.finds(name, 3, "3");
                bench.ends(None);
                bench.comes(name, 3);
                bench.world.advance(SECOND);
            };

            let mut on_websocket = bench();
            let key = on_websocket.client();
            let mut request = all.clone();
            request["since"] = json!(since);
            on_websocket.say(key, &request);
            on_websocket.world.advance(1);
            brings_all(&mut on_websocket);
            let answer = format!(r#"subscribed {{"{name}":false}} {{"{name}":"bad"}}"#);
            let end = format!("last {name} 1 null");
            let brought = on_websocket.brought(key);
            assert_eq!(brought, [answer, format!("{name} 3"), end]);

            let mut on_stream = bench();
            let key = on_stream.stream_from(&[all], Some(&since));
            brings_all(&mut on_stream);
            let answer = format!(r#"subscribed {{"{name}":false}}"#);
            let mut got = on_stream.got_all(key);
            got.retain(|one| one != "status");
            assert_eq!(got[1..], [&answer, "3", "last 1 null"]);
        }
    }
}

/// What the history has of other names is passed over in steps, between which the loop serves others.
#[test]
fn a_long_look_at_the_history_goes_on_in_later_turns() {
    let mut bench = on_a_stream_with(HistoryLimits {
        bytes_max: 1 << 24,
        ..limits()
    });
    for sequence in 1..6_000 {
        bench.comes(&format!("a:{sequence}"), sequence);
    }
    bench.comes("a:x1", 6_000);
    let key = bench.client();
    bench.world.held = true;
    bench.ask_all(key, &["a:x*"], Some(1));
    let mut came = Vec::new();
    while came.is_empty() {
        let World { hub, net, now, .. } = &mut bench.world;
        hub.begin_part(2);
        assert!(hub.flush(*now, net) || !hub.has_time());
        came = bench.brought(key);
    }
    assert_eq!(came, [r#"subscribed {"a:x*":true} null"#]);
    bench.world.catch_up();
    bench.comes("a:x2", 6_001);
    bench.world.advance(SECOND);
    let rest = ["a:x1 6000", "a:x2 6001", "last a:x* 2 null"];
    assert_eq!(bench.brought(key), rest);
    bench.world.hub.check_invariants();
}

#[test]
fn a_client_that_is_ahead_of_this_instance_waits_for_it() {
    let mut bench = on_a_stream();
    bench.comes("a:1", 8);
    let key = bench.stream(&["a:1"], Some(12));
    assert_eq!(bench.asked_after(), Some(12));
    bench.ends(None);
    for sequence in 9..12 {
        bench.world.advance(SECOND / 10);
        bench.comes("a:1", sequence);
    }
    bench.world.advance(SECOND);
    let got = bench.got_all(key);
    assert_eq!(got[1..], [r#"subscribed {"a:1":true}"#]);
    assert_eq!(bench.world.outputs.all.len(), 1, "asked once");
    bench.comes("a:1", 12);
    bench.comes("a:1", 13);
    bench.world.advance(SECOND);
    assert_eq!(bench.got_all(key), ["13", "last 1 null"]);
    bench.comes("a:1", 14);
    assert_eq!(bench.got_all(key), ["14"]);
}

#[test]
fn a_client_that_stays_ahead_of_this_instance_is_told_and_gets_what_comes() {
    let mut bench = on_a_stream();
    bench.comes("a:1", 8);
    let key = bench.stream(&["a:1"], Some(12));
    bench.ends(None);
    let mut got = Vec::new();
    for _ in 0..2_000 {
        bench.world.advance(SECOND / 50);
        got.append(&mut bench.got_all(key));
    }
    got.retain(|one| one != "status");
    assert_eq!(got[2..], ["last 0 \"limit\""]);
    bench.comes("a:1", 9);
    assert_eq!(bench.got_all(key), ["9"]);
    assert_eq!(bench.world.outputs.all.len(), 1, "asked once");
}

#[test]
fn a_client_that_leaves_ends_its_question() {
    let mut bench = on_a_stream();
    let key = bench.stream(&["a:1"], None);
    bench.finds("a:1", 3, "3");
    bench.world.end(key, true);
    bench.world.advance(1);
    assert_eq!(bench.world.outputs.forgotten.len(), 1);
    bench.world.hub.check_invariants();
}
