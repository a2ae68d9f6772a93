//! `"last":"all"` on an event stream: every message that the stream keeps of a name, from the stream and from the history, each once, and
//! what is missing is said.

use weirgate_core::{RetainedCut, StoredId};

use super::resume::limits;
use super::*;

/// A gateway on a stream with `a:*`, whose history begins empty.
fn on_a_stream() -> Bench {
    let settings = ChannelsGatewaySettings {
        acl: Acl::from_json(br#"{"user": ["a:*"]}"#).expect("a table"),
        ..settings()
    };
    let mut bench = Bench::limited(settings, limits(), |gateway| {
        let gateway = gateway.with_kept(vec!["*".to_owned()], true);
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
    Position::stored(2, id)
}

impl Bench {
    fn entry(&self, name: &str, sequence: u64, payload: &str) -> BusMessage {
        BusMessage {
            subject: name.into(),
            pattern: None,
            payload: payload.as_bytes().to_vec(),
            position: None,
            place: Place::Kept(Some(position(sequence))),
            received: self.world.now,
            quiet: false,
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
        let send = json!({"action": "subscribe", "channels": names, "last": "all"}).to_string();
        let since = since.map_or_else(String::new, |since| {
            format!("Last-Event-ID: {}\r\n", position(since))
        });
        let request = format!(
            "GET /ws?payload=raw&send={} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n{since}\r\n",
            send.replace('"', "%22")
        );
        let key = self.world.accept(usize::MAX);
        self.world.send(key, request.as_bytes());
        self.world.advance(1);
        key
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

#[test]
fn what_is_missing_is_said() {
    for (cut, said) in [
        (Some(RetainedCut::Window), "last 2 \"window\""),
        (Some(RetainedCut::Refused), "last 2 \"refused\""),
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
fn a_name_that_is_refused_brings_nothing_and_a_websocket_has_no_all() {
    let mut bench = on_a_stream();
    bench.stream(&["b"], None);
    assert_eq!(bench.world.outputs.all.len(), 0);
    let key = bench.client();
    bench.say(
        key,
        &json!({"action": "subscribe", "channels": ["a:1"], "last": "all"}),
    );
    assert_eq!(bench.got(key)[0]["type"], "error");
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
