//! `last` of names of a stream: what the history has not comes from the stream, and the answer waits for it.

use weirgate_core::{FeedNotice, RetainedCut, StoredId};

use super::resume::limits;
use super::*;

/// The number of the newest message of the stream at the start. [`Bench::stores`] numbers the next ones from here, and
/// answers to questions have numbers from before.
const HEAD: u64 = 1_000_000;

/// A gateway on a stream that holds `a:*`, and answers questions.
fn on_a_stream() -> Bench {
    let mut bench = before_the_stream();
    bench.begins_at(stored(HEAD));
    bench
}

/// The position of a message of the stream.
fn stored(sequence: u64) -> Position {
    let id = StoredId {
        major: sequence,
        minor: sequence,
    };
    Position::stored(2, id)
}

/// The same, while the bus has not been there yet.
fn before_the_stream() -> Bench {
    before_the_stream_with(settings(), limits())
}

fn before_the_stream_with(settings: ChannelsGatewaySettings, history: HistoryLimits) -> Bench {
    changed_before_the_stream(settings, |limits| limits.history = history)
}

fn changed_before_the_stream(
    settings: ChannelsGatewaySettings,
    change: impl FnOnce(&mut Limits),
) -> Bench {
    let settings = ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, br#"{"user": ["*"]}"#).expect("a table"),
        ..settings
    };
    Bench::changed(settings, change, |gateway| {
        let gateway = gateway.with_kept_stream(vec!["a:*".to_owned()]);
        gateway.expect("names").with_past()
    })
}

/// As [`on_a_stream`], with time for so many steps in a turn.
fn on_a_stream_in_steps(steps: u64) -> Bench {
    let mut bench = changed_before_the_stream(settings(), |changed| {
        // Room for the newest messages of some hundred names.
        changed.history = HistoryLimits {
            bytes_max: 1 << 21,
            ..limits()
        };
        changed.work_us = steps;
    });
    bench.begins_at(stored(HEAD));
    bench
}

impl Bench {
    /// The bus is there, and this was the newest message of the stream.
    fn begins_at(&mut self, head: Position) {
        self.bus(BusEvent::Feed(FeedNotice::Head(head)));
        self.bus(BusEvent::Up);
        self.world.advance(1);
    }

    fn message_of(&self, name: &str, text: u64, position: Position) -> BusMessage {
        BusMessage {
            place: Place::Kept(Some(position)),
            ..BusMessage::new(name, text.to_string().into_bytes(), self.world.now)
        }
    }

    /// The reader of the stream has a new message.
    fn stores(&mut self, name: &str, number: u64) {
        self.reads(name, number, stored(HEAD + number));
    }

    fn reads(&mut self, name: &str, text: u64, position: Position) {
        let message = self.message_of(name, text, position);
        self.bus(BusEvent::Message(message));
    }

    /// A message of the answer to a question.
    fn brings_past(&mut self, number: u64, name: &str, text: u64, position: Position) {
        let message = BusMessage {
            quiet: true,
            ..self.message_of(name, text, position)
        };
        self.bus(BusEvent::LastValue {
            is_deletion: message.payload.is_empty(),
            message,
            number,
        });
    }

    /// The stream has a new message that is over the limit.
    fn stores_too_much(&mut self, name: &str, sequence: u64) {
        let mut message = self.message_of(name, sequence, stored(HEAD + sequence));
        message.payload = vec![b'x'; (1 << 20) + 1];
        self.bus(BusEvent::Message(message));
    }

    /// The answer to a question: the newest messages.
    fn has(&mut self, number: u64, rows: &[(&str, u64)]) {
        for (name, sequence) in rows {
            self.brings_past(number, name, *sequence, stored(*sequence));
        }
        self.ends_with(number, None);
    }

    /// The end of a question.
    fn ends_with(&mut self, number: u64, cut: Option<RetainedCut>) {
        self.bus(BusEvent::RetainedEnd {
            subscription: Subscription::pattern("a:*"),
            number,
            cut,
        });
        self.world.advance(1);
    }

    /// The `why` of the answer, if one has come, and the numbers of the data.
    fn answer(&mut self, key: SessionKey) -> Option<(Value, Vec<Value>)> {
        let got = self.got(key);
        let answer = got.iter().find(|one| one["type"] == "subscribed")?;
        let data = got.iter().filter(|one| one["type"] == "data");
        let data = data.map(|one| one["data"].clone());
        Some((answer["why"].clone(), data.collect()))
    }

    fn asks_newest(&mut self, key: SessionKey, name: &str) {
        self.say(
            key,
            &json!({"action": "subscribe", "channels": [name], "last": 1}),
        );
    }

    /// The types of what came, and the numbers of data.
    fn came(&mut self, key: SessionKey) -> Vec<String> {
        let short = |message: &Value| match message["type"].as_str() {
            Some("data") => message["data"].to_string(),
            kind => kind.unwrap_or_default().to_owned(),
        };
        self.got(key).iter().map(short).collect()
    }

    fn newest_asked(&self) -> Vec<(&str, u64)> {
        let asked = self.world.outputs.newest.iter();
        asked
            .map(|(name, number)| (name.as_str(), *number))
            .collect()
    }
}

#[test]
fn what_the_history_has_not_comes_from_the_stream_once_for_all_who_ask() {
    let mut bench = on_a_stream();
    bench.stores("a:3", 90);
    let keys = [(); 3].map(|()| bench.client());
    for key in keys {
        bench.asks_newest(key, "a:*");
    }
    assert_eq!(bench.newest_asked(), [("a:*", 1)]);
    assert_eq!(bench.came(keys[0]), [""; 0], "the answer waits");
    bench.has(1, &[("a:1", 5), ("a:2", 7), ("a:3", 60)]);
    bench.stores("a:1", 91);
    for key in keys {
        let want = ["subscribed", "5", "7", "90", "status", "91"];
        assert_eq!(bench.came(key), want);
    }
    // Of an exact name nothing is asked if the history has it.
    let key = bench.client();
    bench.asks_newest(key, "a:2");
    assert_eq!(bench.came(key), ["subscribed", "7", "status"]);
    bench.asks_newest(key, "a:none");
    assert_eq!(bench.newest_asked()[1..], [("a:none", 2)]);
    bench.has(2, &[]);
    assert_eq!(bench.came(key), ["subscribed"]);
}

#[test]
fn a_name_is_asked_for_once_until_something_is_forgotten() {
    let mut bench = on_a_stream();
    bench.stores("a:9", 100);
    let asks = |bench: &mut Bench, questions| {
        let key = bench.client();
        bench.asks_newest(key, "a:*");
        assert_eq!(bench.newest_asked().len(), questions);
        let newest = bench.newest_asked().last().map(|(_, number)| *number);
        bench.has(newest.expect("a question"), &[("a:1", 5)]);
        let came = bench.came(key);
        bench.world.end(key, true);
        came
    };
    for _ in 0..3 {
        assert_eq!(asks(&mut bench, 1), ["subscribed", "5", "100", "status"]);
    }
    bench.world.advance(61 * SECOND);
    assert_eq!(
        asks(&mut bench, 2),
        ["subscribed", "5", "status"],
        "too old"
    );
    bench.bus(BusEvent::Gap { lost: None });
    bench.begins_at(stored(HEAD));
    assert_eq!(asks(&mut bench, 3)[0], "subscribed", "the stream lost some");
}

#[test]
fn an_answer_waits_for_so_long_and_says_why_the_newest_messages_are_missing() {
    for (is_away, why) in [(true, "away"), (false, "limit")] {
        let mut bench = on_a_stream();
        let key = bench.client();
        bench.asks_newest(key, "a:*");
        if is_away {
            bench.down();
        }
        bench.world.advance(5 * SECOND);
        assert_eq!(bench.answer(key), None, "{why}");
        bench.world.advance(SECOND);
        let want = (json!({"a:*": why}), vec![]);
        assert_eq!(bench.answer(key), Some(want));
    }
    // Without room in the history the rest is not asked for, and the next client asks again.
    let mut bench = on_a_stream();
    let key = bench.client();
    bench.asks_newest(key, "a:*");
    for n in 0..10_000 {
        if bench.world.outputs.forgotten.is_empty() {
            bench.brings_past(1, &format!("a:{n}"), n + 1, stored(n + 1));
        }
    }
    assert_eq!(bench.world.outputs.forgotten, [("a:*".to_owned(), 1)]);
    bench.world.advance(1);
    let (why, data) = bench.answer(key).expect("an answer");
    assert_eq!(why, json!({"a:*": "limit"}));
    assert!(data.len() > 10, "{}", data.len());
    let key = bench.client();
    bench.asks_newest(key, "a:*");
    assert_eq!(bench.newest_asked().len(), 2);
}

#[test]
fn a_question_that_the_stream_does_not_answer_is_asked_again_for_the_next_client() {
    let mut bench = on_a_stream();
    let key = bench.client();
    bench.asks_newest(key, "a:1");
    bench.ends_with(1, Some(RetainedCut::Refused));
    assert_eq!(bench.answer(key), Some((json!({"a:1": "refused"}), vec![])));
    let key = bench.client();
    bench.asks_newest(key, "a:1");
    bench.has(2, &[("a:1", 5)]);
    assert_eq!(bench.answer(key), Some((Value::Null, vec![json!(5)])));
    // What stays missing is not asked for again.
    for _ in 0..2 {
        let key = bench.client();
        bench.asks_newest(key, "a:*");
        if bench.newest_asked().len() == 3 {
            bench.ends_with(3, Some(RetainedCut::Unnamed));
        }
        let want = (json!({"a:*": "unnamed"}), vec![json!(5)]);
        assert_eq!(bench.answer(key), Some(want));
    }
    assert_eq!(bench.newest_asked().len(), 3);
}

#[test]
fn so_many_questions_are_on_their_way_and_others_wait_for_their_turn() {
    let mut bench = on_a_stream();
    // They come from one address, which gets as many places as are free then.
    let keys: Vec<SessionKey> = (0..70).map(|_| bench.client()).collect();
    for (n, key) in keys.iter().enumerate() {
        bench.asks_newest(*key, &format!("a:{n}"));
    }
    bench.world.advance(1);
    assert_eq!(bench.newest_asked().len(), 64);
    // Who gives up the name, or goes, is not asked for.
    bench.say(
        keys[68],
        &json!({"action": "unsubscribe", "channels": ["a:68"]}),
    );
    bench.world.end(keys[69], true);
    for n in 0..68 {
        bench.has(n + 1, &[(&format!("a:{n}"), n + 1)]);
    }
    assert_eq!(bench.newest_asked().len(), 68);
    for (n, key) in keys[..68].iter().enumerate() {
        let want = (Value::Null, vec![json!(n + 1)]);
        assert_eq!(bench.answer(*key), Some(want), "{n}");
    }
}

#[test]
fn who_asks_while_the_bus_is_away_gets_the_newest_messages_when_it_is_back() {
    for is_start in [true, false] {
        let mut bench = match is_start {
            true => before_the_stream(),
            false => on_a_stream(),
        };
        let (early, late) = (bench.client(), bench.client());
        bench.asks_newest(early, "a:1");
        bench.down();
        bench.asks_newest(late, "a:1");
        bench.world.advance(2 * SECOND);
        assert_eq!((bench.answer(early), bench.answer(late)), (None, None));
        let asked = bench.newest_asked().len() as u64;
        assert_eq!(asked, u64::from(!is_start));
        bench.begins_at(stored(HEAD));
        bench.has(asked + 1, &[("a:1", 5)]);
        for key in [early, late] {
            let want = (Value::Null, vec![json!(5)]);
            assert_eq!(bench.answer(key), Some(want), "{is_start}");
        }
        // A connection that ends while the bus stays ends its questions.
        let key = bench.client();
        bench.asks_newest(key, "a:2");
        bench.page_of(asked + 2, 0, false);
        bench.has(asked + 3, &[("a:2", 6)]);
        assert_eq!(bench.answer(key), Some((Value::Null, vec![json!(6)])));
    }
}

#[test]
fn an_answer_that_has_waited_for_long_enough_leaves_later_ones_waiting() {
    let mut bench = on_a_stream();
    let key = bench.client();
    bench.asks_newest(key, "a:*");
    bench.world.advance(4 * SECOND);
    bench.asks_newest(key, "a:*");
    bench.world.advance(3 * SECOND);
    let limit = (json!({"a:*": "limit"}), vec![]);
    assert_eq!(bench.answer(key), Some(limit));
    bench.has(1, &[("a:1", 5)]);
    assert_eq!(bench.came(key), ["subscribed", "5", "status"]);
}

/// Redis: the stream is read into the history, and answers no questions.
#[test]
fn a_stream_without_questions_is_waited_for_until_it_has_been_read() {
    for comes in [true, false] {
        let mut bench = Bench::limited(settings(), limits(), |gateway| {
            let gateway = gateway.with_kept_stream(vec!["market:*".to_owned()]);
            gateway.expect("names")
        });
        let key = bench.client();
        bench.asks_newest(key, "market:tick");
        bench.world.advance(SECOND);
        if comes {
            bench.reads("market:tick", 5, stored(5));
            bench.bus(BusEvent::Up);
        } else {
            bench.world.advance(6 * SECOND);
        }
        bench.world.advance(1);
        let want = match comes {
            true => (Value::Null, vec![json!(5)]),
            false => (json!({"market:tick": "away"}), vec![]),
        };
        assert_eq!(bench.answer(key), Some(want));
    }
}

/// After an outage the reader of the stream is behind the stream, which is asked on another connection.
#[test]
fn a_message_that_the_stream_has_and_its_reader_has_not_reached_comes_in_its_order() {
    let mut bench = on_a_stream();
    bench.stores("a:old", 1);
    let (keys, other) = ([(); 2].map(|()| bench.client()), bench.client());
    bench.asks_newest(keys[0], "a:*");
    bench.asks_newest(keys[1], "a:x");
    bench.brings_past(1, "a:quiet", 7, stored(7));
    bench.brings_past(1, "a:x", 24, stored(HEAD + 24));
    bench.ends_with(1, None);
    bench.brings_past(2, "a:x", 24, stored(HEAD + 24));
    bench.ends_with(2, Some(RetainedCut::Large));
    for number in 20..24 {
        bench.stores("a:x", number);
        bench.world.advance(1);
    }
    for key in keys {
        assert_eq!(bench.came(key), [""; 0], "the answer waits");
    }
    // Who asks meanwhile gets what has been read.
    bench.asks_newest(other, "a:x");
    assert_eq!(bench.came(other), ["subscribed", "23", "status"]);
    bench.stores("a:x", 24);
    bench.world.advance(1);
    bench.stores("a:x", 25);
    let want = ["subscribed", "7", "1", "24", "status", "25"];
    assert_eq!(bench.came(keys[0]), want);
    let want = (json!({"a:x": "large"}), vec![json!(24), json!(25)]);
    assert_eq!(bench.answer(keys[1]), Some(want));
    assert_eq!(bench.came(other), ["24", "25"]);
    assert_eq!(bench.newest_asked().len(), 2);
}

#[test]
fn an_answer_waits_for_the_reader_of_the_stream_no_longer_than_for_the_stream() {
    let mut bench = on_a_stream();
    bench.stores("a:old", 1);
    let (key, leaves) = (bench.client(), bench.client());
    bench.asks_newest(key, "a:*");
    bench.asks_newest(leaves, "a:x");
    for number in [1, 2] {
        bench.brings_past(number, "a:x", 24, stored(HEAD + 24));
        bench.ends_with(number, None);
    }
    bench.world.end(leaves, true);
    bench.stores("a:y", 2);
    bench.world.advance(5 * SECOND);
    assert_eq!(bench.answer(key), None);
    bench.world.advance(SECOND);
    let want = (json!({"a:*": "limit"}), vec![json!(1), json!(2)]);
    assert_eq!(bench.answer(key), Some(want));
    bench.stores("a:x", 24);
    assert_eq!(bench.came(key), ["24"]);
    // Nobody waits for the other name any more, so it was not found out that the history has it.
    let key = bench.client();
    bench.asks_newest(key, "a:*");
    assert_eq!(bench.newest_asked().len(), 3);
}

#[test]
fn a_stream_that_was_made_anew_is_asked_again_when_its_reader_knows() {
    let mut bench = on_a_stream();
    // The reader has read a million messages, and the new stream has five, with later times.
    let anew = |sequence| {
        let (major, minor) = (sequence, 2 * HEAD + sequence);
        Position::stored(2, StoredId { major, minor })
    };
    let keys = [(); 2].map(|()| bench.client());
    bench.asks_newest(keys[0], "a:x");
    bench.brings_past(1, "a:x", 5, anew(5));
    bench.ends_with(1, None);
    let limit = (json!({"a:x": "limit"}), vec![]);
    assert_eq!(bench.answer(keys[0]), Some(limit));
    bench.asks_newest(keys[1], "a:y");
    bench.brings_past(2, "a:y", HEAD + 5, stored(HEAD + 5));
    bench.ends_with(2, None);
    bench.bus(BusEvent::Gap { lost: None });
    assert_eq!(bench.newest_asked()[2..], [("a:y", 3)]);
    bench.brings_past(3, "a:y", 3, anew(3));
    bench.ends_with(3, None);
    for (number, name) in [(1, "a:x"), (2, "a:x"), (3, "a:y")] {
        assert_eq!(bench.answer(keys[1]), None, "not read yet");
        bench.reads(name, number, anew(number));
        bench.world.advance(1);
    }
    assert_eq!(bench.answer(keys[1]), Some((Value::Null, vec![json!(3)])));
}

#[test]
fn nothing_is_asked_for_a_client_whose_missed_messages_are_in_the_history() {
    let mut bench = on_a_stream();
    let key = bench.client();
    bench.say(key, &json!({"action": "subscribe", "channels": ["a:1"]}));
    bench.stores("a:1", 90);
    let position = bench.got(key).pop().expect("a message")["pos"].clone();
    bench.stores("a:1", 91);
    let ask = |since: &Value| json!({"action": "subscribe", "channels": ["a:*"], "since": since, "last": 1});
    let key = bench.client();
    bench.say(key, &ask(&position));
    assert_eq!(bench.answer(key), Some((Value::Null, vec![json!(91)])));
    assert_eq!(bench.newest_asked(), []);
    // A position of which the history knows nothing.
    let key = bench.client();
    bench.say(key, &ask(&json!("nonsense")));
    assert_eq!(bench.newest_asked(), [("a:*", 1)]);
    bench.ends_with(1, Some(RetainedCut::Refused));
    let want = (json!({"a:*": "refused"}), vec![json!(91)]);
    assert_eq!(bench.answer(key), Some(want));
}

/// The stream of a gateway gets other subjects while clients hold names of it, and names beside it.
#[test]
fn a_name_that_leaves_the_stream_has_a_loss_and_one_that_joins_it_comes_once() {
    let mut bench = on_a_stream();
    let (key, other) = (bench.client(), bench.client());
    bench.say(
        key,
        &json!({"action": "subscribe", "channels": ["a:1", "b:1"], "status": true}),
    );
    bench.subscribe(other, &["c:1"]);
    bench.confirm("b:1");
    bench.confirm("c:1");
    for key in [key, other] {
        assert_eq!(bench.came(key), ["subscribed"]);
    }
    // The stream has b:* from here on, of which the gateway has not heard: the bus still sends the message too.
    bench.stores("b:1", 1);
    bench.publish("b:1", &[], "1");
    assert_eq!(bench.came(key), ["1"], "once");
    bench.bus(BusEvent::Subjects(vec!["b:*".to_owned()].into()));
    assert_eq!(bench.came(key), [""; 0], "nothing is known to come yet");
    bench.confirm("a:1");
    let [status] = &bench.got(key)[..] else {
        panic!("one status");
    };
    assert_eq!(
        (&status["type"], &status["bus"], &status["lost"]),
        (&json!("status"), &json!("up"), &json!(true))
    );
    let before = status["seq"].as_u64();
    bench.stores("b:1", 2);
    let [data] = &bench.got(key)[..] else {
        panic!("one message");
    };
    assert_eq!(data["seq"].as_u64(), before.map(|seq| seq + 2), "a gap");
    bench.publish("b:1", &[], "2");
    assert_eq!(bench.came(key), [""; 0], "it is in the stream");
    bench.publish("a:1", &[], "3");
    assert_eq!(bench.came(key), ["3"]);
    assert_eq!(bench.came(other), [""; 0], "it has lost nothing");
    bench.confirm("a:1");
    assert_eq!(bench.came(key), [""; 0], "told once");
}

#[test]
fn a_name_that_leaves_the_stream_while_its_answer_waits_gets_its_last_value() {
    let settings = ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, br#"{"user": ["*"]}"#).expect("a table"),
        ..settings()
    };
    let mut bench = Bench::limited(settings, limits(), |gateway| {
        let gateway = gateway.with_kept_stream(vec!["b:*".to_owned()]);
        gateway.expect("names").with_past().with_retained(1 << 20)
    });
    let key = bench.client();
    let request = json!({"action": "subscribe", "channels": ["b:1"], "last": 1, "status": true});
    bench.say(key, &request);
    assert_eq!(
        bench.came(key),
        ["status"],
        "the answer waits for the stream"
    );
    bench.bus(BusEvent::Subjects(vec!["a:*".to_owned()].into()));
    bench.bus(BusEvent::Up);
    bench.world.advance(6 * SECOND);
    bench.world.advance(1);
    bench.confirm("b:1");
    bench.value("b:1", None, "7");
    bench.end("b:1");
    bench.world.advance(1);
    let came = bench.got(key);
    let of = |kind: &str| {
        came.iter()
            .filter(|message| message["type"] == kind)
            .count()
    };
    assert_eq!(
        (of("subscribed"), of("data"), of("retained")),
        (1, 1, 1),
        "{came:?}"
    );
}

#[test]
fn a_client_asks_again_for_the_newest_messages_of_a_name_that_it_holds() {
    let mut bench = on_a_stream();
    let key = bench.client();
    bench.asks_newest(key, "a:*");
    bench.ends_with(1, Some(RetainedCut::Refused));
    let refused = json!({"a:*": "refused"});
    assert_eq!(bench.answer(key), Some((refused, vec![])));
    bench.stores("a:1", 91);
    bench.asks_newest(key, "a:*");
    // It holds the name, so live messages do not wait for the answer.
    bench.stores("a:2", 92);
    assert_eq!(bench.came(key), ["91", "92"]);
    bench.has(2, &[("a:2", 7), ("a:3", 60)]);
    bench.stores("a:3", 93);
    let want = ["subscribed", "60", "91", "92", "status", "93"];
    assert_eq!(bench.came(key), want);
    // Without `last`, and with a position, nothing comes again.
    for request in [
        json!({"action": "subscribe", "channels": ["a:*"]}),
        json!({"action": "subscribe", "channels": ["a:*"], "since": "x", "last": 1}),
    ] {
        bench.say(key, &request);
        assert_eq!(bench.came(key), ["subscribed"], "{request}");
    }
}

#[test]
fn a_name_that_is_given_up_while_its_newest_messages_are_asked_for_again_stays_given_up() {
    let mut bench = on_a_stream();
    let key = bench.client();
    bench.asks_newest(key, "a:*");
    bench.ends_with(1, Some(RetainedCut::Refused));
    bench.asks_newest(key, "a:*");
    bench.say(key, &json!({"action": "unsubscribe", "channels": ["a:*"]}));
    bench.has(2, &[("a:1", 5)]);
    bench.stores("a:1", 91);
    assert_eq!(bench.came(key)[1..], ["subscribed", "unsubscribed"]);
    assert!(bench.newest_asked().len() == 2);
}

/// The name may be in several answers that wait: it leaves all of them.
#[test]
fn a_name_that_is_given_up_leaves_every_answer_that_waits() {
    let mut bench = on_a_stream();
    bench.stores("a:1", 5);
    let key = bench.client();
    bench.asks_newest(key, "a:1");
    assert_eq!(bench.came(key)[1..], ["5", "status"]);
    let asks = |names: &[&str]| json!({"action": "subscribe", "channels": names, "last": 1});
    let leaves = json!({"action": "unsubscribe", "channels": ["a:1"]});
    // The first one waits for the stream, and the others for the first.
    bench.say(key, &asks(&["a:1", "a:2"]));
    bench.say(key, &asks(&["a:1"]));
    bench.say(key, &leaves);
    bench.say(key, &asks(&["a:1"]));
    bench.say(key, &leaves);
    bench.has(1, &[]);
    bench.stores("a:1", 91);
    let came = bench.came(key);
    let data = came.iter().filter(|one| one.parse::<u64>().is_ok());
    assert_eq!(data.count(), 0, "{came:?}");
}

/// A client puts what follows the answer aside until it ends. If nothing follows, the answer has the position, or there
/// is none.
#[test]
fn what_is_asked_for_again_ends_also_without_a_position() {
    let mut bench = on_a_stream();
    let key = bench.client();
    bench.asks_newest(key, "a:1");
    bench.ends_with(1, Some(RetainedCut::Refused));
    bench.bus(BusEvent::Gap { lost: None });
    bench.world.advance(SECOND);
    bench.got(key);
    bench.asks_newest(key, "a:1");
    bench.has(2, &[]);
    let got = bench.got(key);
    let kinds: Vec<&Value> = got.iter().map(|one| &one["type"]).collect();
    assert_eq!(kinds, ["subscribed", "status"]);
    for one in &got {
        assert_eq!((one.get("pos"), one.get("lost")), (None, None));
    }
    bench.stores("a:1", 91);
    assert_eq!(bench.came(key), ["91"]);
}

#[test]
fn a_name_that_leaves_an_answer_that_waits_takes_nothing_from_the_others() {
    for (names, others) in [
        (["a:1*", "a:2*"], vec!["6", "status"]),
        // Beside a new name, one that is held gets nothing, also when the new one has left.
        (["a:3*", "a:2*"], vec![]),
    ] {
        let mut bench = on_a_stream();
        let key = bench.client();
        for (number, name) in [(1, "a:1*"), (2, "a:2*")] {
            bench.asks_newest(key, name);
            bench.ends_with(number, Some(RetainedCut::Refused));
        }
        bench.got(key);
        bench.say(
            key,
            &json!({"action": "subscribe", "channels": names, "last": 1}),
        );
        bench.say(
            key,
            &json!({"action": "unsubscribe", "channels": [names[0]]}),
        );
        bench.has(3, &[]);
        bench.has(4, &[("a:2", 6)]);
        let want = [vec!["subscribed"], others, vec!["unsubscribed"]].concat();
        assert_eq!(bench.came(key), want, "{names:?}");
    }
}

#[test]
fn two_requests_for_a_name_that_waits_both_get_its_newest_messages() {
    let mut bench = on_a_stream();
    bench.stores("a:9", 1);
    let key = bench.client();
    bench.asks_newest(key, "a:1");
    bench.asks_newest(key, "a:1");
    bench.has(1, &[("a:1", 5)]);
    let once = ["subscribed", "5", "status"];
    assert_eq!(bench.came(key), [once, once].concat());
    bench.stores("a:1", 91);
    assert_eq!(bench.came(key), ["91"]);
    // Twice in a request it is one name.
    let twice = json!({"action": "subscribe", "channels": ["a:3", "a:3"], "last": 1});
    bench.say(key, &twice);
    bench.has(2, &[("a:3", 6)]);
    bench.stores("a:3", 92);
    assert_eq!(bench.came(key), ["subscribed", "6", "status", "92"]);
}

#[test]
fn beside_new_names_a_name_that_is_held_gets_nothing_again() {
    let mut bench = on_a_stream();
    bench.stores("a:1", 5);
    bench.stores("a:2", 6);
    let key = bench.client();
    bench.asks_newest(key, "a:1");
    assert_eq!(bench.came(key)[1..], ["5", "status"]);
    let both = json!({"action": "subscribe", "channels": ["a:1", "a:2"], "last": 1});
    bench.say(key, &both);
    assert_eq!(bench.came(key), ["subscribed", "6", "status"]);
    bench.stores("a:1", 91);
    bench.stores("a:2", 92);
    assert_eq!(bench.came(key), ["91", "92"]);
}

/// What an answer says of its names is of all of them, however many steps it takes to find their messages.
#[test]
fn newest_messages_that_do_not_fit_together_do_not_come_and_are_said_to_be_missing() {
    let settings = ChannelsGatewaySettings {
        channels_max: 350,
        ..settings()
    };
    let limits = HistoryLimits {
        bytes_max: 1 << 25,
        ..limits()
    };
    let mut bench = before_the_stream_with(settings, limits);
    bench.begins_at(stored(HEAD));
    let names: Vec<String> = (0..350).map(|n| format!("a:{n}")).collect();
    for (number, name) in (1..).zip(&names) {
        let message = bench.message_of(name, 0, stored(HEAD + number));
        let payload = json!("x".repeat(13_000)).to_string().into_bytes();
        bench.bus(BusEvent::Message(BusMessage { payload, ..message }));
    }
    for (count, fits) in [(300, true), (350, false)] {
        let key = bench.client();
        let request = json!({"action": "subscribe", "channels": names[..count], "last": 1});
        bench.say(key, &request);
        let (why, data) = bench.answer(key).expect("an answer");
        let missing = why.as_object().map_or(0, |why| why.len());
        let want = if fits { (0, count) } else { (count, 0) };
        assert_eq!((missing, data.len()), want);
    }
}

#[test]
fn a_client_with_as_many_names_as_it_may_have_asks_again_for_those() {
    let mut bench = on_a_stream();
    let key = bench.client();
    for n in 0..5 {
        bench.stores(&format!("a:{n}"), n + 1);
        bench.asks_newest(key, &format!("a:{n}*"));
        bench.ends_with(n + 1, Some(RetainedCut::Refused));
    }
    bench.got(key);
    bench.asks_newest(key, "a:0*");
    bench.ends_with(6, None);
    assert_eq!(bench.came(key), ["subscribed", "1", "status"]);
    // Nothing follows, and that is said too.
    bench.world.advance(61 * SECOND);
    bench.got(key);
    bench.asks_newest(key, "a:0*");
    bench.ends_with(7, None);
    let answer = bench.got(key);
    assert!(answer[0]["pos"].is_string(), "{answer:?}");
}

#[test]
fn an_address_that_asks_for_very_many_names_leaves_others_their_turn() {
    let mut bench = on_a_stream();
    bench.stores("a:9", 100);
    let many = [(); 40].map(|()| bench.client_from([192, 0, 2, 1]));
    for (client, key) in many.into_iter().enumerate() {
        for n in 0..40 {
            bench.asks_newest(key, &format!("a:{client}-{n}"));
        }
    }
    let open = bench.newest_asked().len();
    assert!(open < 200, "{open} on their way");
    let other = bench.client_from([192, 0, 2, 2]);
    bench.asks_newest(other, "a:other");
    // It wants a name that the many want too.
    bench.asks_newest(other, "a:39-39");
    (1..=4).for_each(|number| bench.has(number, &[]));
    let next: Vec<_> = bench.newest_asked()[open..]
        .iter()
        .map(|(name, _)| *name)
        .collect();
    assert!(
        next.contains(&"a:other") && next.contains(&"a:39-39"),
        "{next:?}"
    );
    // Whoever leaves takes nobody's turn along.
    many.into_iter().for_each(|key| bench.world.end(key, true));
    bench.world.advance(1);
    (5..=u64::try_from(open).expect("few") + 4).for_each(|number| bench.has(number, &[]));
    assert_eq!(bench.came(other), ["subscribed", "subscribed"]);
}

/// The messages that the history keeps for the questions of an address.
#[test]
fn an_address_that_fills_the_history_leaves_room_for_the_newest_messages_of_others() {
    let mut bench = on_a_stream();
    bench.stores("a:9", 100);
    let [one, two] = [[192, 0, 2, 1], [192, 0, 2, 2]];
    // The clients of an address share its room.
    let many = [(); 100].map(|()| bench.client_from(one));
    for (n, key) in many.into_iter().enumerate() {
        bench.asks_newest(key, &format!("a:{n}-*"));
        let number = bench.newest_asked().len() as u64;
        let rows: Vec<_> = (0..40)
            .map(|m| (format!("a:{n}-{m}"), 1 + n as u64 * 40 + m))
            .collect();
        let rows: Vec<_> = rows.iter().map(|(name, id)| (name.as_str(), *id)).collect();
        bench.has(number, &rows);
    }
    let answers = many.map(|key| bench.answer(key).expect("an answer"));
    let whole = answers
        .iter()
        .filter(|(why, _)| *why == Value::Null)
        .count();
    assert!((5..60).contains(&whole), "{whole}");
    assert_eq!(answers[99], (json!({"a:99-*": "limit"}), vec![]));
    // Others have room, also if they want what the address wants too: whose turn is first does not matter.
    let other = bench.client_from(two);
    bench.asks_newest(other, "a:x*");
    let number = bench.newest_asked().len() as u64;
    bench.has(number, &[("a:x1", 5_000)]);
    assert_eq!(bench.answer(other), Some((Value::Null, vec![json!(5_000)])));
    many.into_iter()
        .take(3)
        .for_each(|key| bench.asks_newest(key, "a:y*"));
    bench.asks_newest(other, "a:y*");
    bench.has(number + 1, &[("a:y1", 5_001), ("a:y2", 5_002)]);
    let both = Some((Value::Null, vec![json!(5_001), json!(5_002)]));
    for key in [other, many[0], many[2]] {
        assert_eq!(bench.answer(key), both);
    }
    // So it is when the clients of the address have gone, until its messages are too old.
    many.into_iter().for_each(|key| bench.world.end(key, true));
    bench.asks_newest(other, "a:z*");
    bench.has(number + 2, &[("a:z1", 5_003)]);
    assert_eq!(bench.answer(other), Some((Value::Null, vec![json!(5_003)])));
    let again = bench.client_from(one);
    bench.asks_newest(again, "a:v*");
    bench.has(number + 3, &[("a:v1", 5_004)]);
    assert_eq!(
        bench.answer(again),
        Some((json!({"a:v*": "limit"}), vec![]))
    );
    bench.world.advance(61 * SECOND);
    bench.asks_newest(again, "a:v*");
    bench.has(number + 4, &[("a:v1", 5_004)]);
    assert_eq!(bench.answer(again), Some((Value::Null, vec![json!(5_004)])));
}

/// The addresses come and go.
#[test]
fn what_was_kept_for_clients_that_have_left_makes_room_for_others() {
    let mut bench = on_a_stream();
    bench.stores("a:9", 5_000);
    let stays = bench.client_from([192, 0, 2, 1]);
    bench.asks_newest(stays, "a:s*");
    bench.has(1, &[("a:s1", 1), ("a:s2", 2)]);
    bench.answer(stays).expect("an answer");
    let (mut many, mut id) = (Vec::new(), 10);
    for address in 2..20 {
        let mut is_whole = true;
        for n in 0.. {
            if !is_whole {
                break;
            }
            let key = bench.client_from([192, 0, 2, address]);
            many.push(key);
            bench.asks_newest(key, &format!("a:{address}-{n}-*"));
            let number = bench.newest_asked().len() as u64;
            let rows: Vec<_> = (0..40)
                .map(|m| (format!("a:{address}-{n}-{m}"), id + m))
                .collect();
            id += 40;
            let rows: Vec<_> = rows.iter().map(|(name, id)| (name.as_str(), *id)).collect();
            bench.has(number, &rows);
            is_whole = bench.answer(key).expect("an answer").0 == Value::Null;
        }
    }
    let other = bench.client_from([192, 0, 2, 100]);
    let asks = |bench: &mut Bench, name: &str, id| {
        bench.asks_newest(other, name);
        let number = bench.newest_asked().len() as u64;
        bench.has(number, &[(name, id)]);
        bench.answer(other)
    };
    let limit = Some((json!({"a:o1": "limit"}), vec![]));
    assert_eq!(asks(&mut bench, "a:o1", id), limit);
    many.into_iter().for_each(|key| bench.world.end(key, true));
    bench.world.advance(1);
    for n in 0..40 {
        let whole = Some((Value::Null, vec![json!(id + n)]));
        assert_eq!(asks(&mut bench, &format!("a:n{n}"), id + n), whole);
    }
    // Those of clients that are there have not gone.
    let asked = bench.newest_asked().len();
    for (name, number) in [("a:s1", 1), ("a:s2", 2)] {
        bench.asks_newest(other, name);
        assert_eq!(
            bench.answer(other),
            Some((Value::Null, vec![json!(number)]))
        );
    }
    assert_eq!(bench.newest_asked().len(), asked);
    bench.world.hub.check_invariants();
}

/// A name that two addresses want, one of them with very many others, waits for those no longer after an outage than before.
#[test]
fn after_an_outage_everybody_who_waits_for_a_name_has_a_turn_for_it() {
    let mut bench = on_a_stream();
    let many = [(); 6].map(|()| bench.client_from([192, 0, 2, 1]));
    let other = bench.client_from([192, 0, 2, 2]);
    for key in [many[0], other] {
        bench.asks_newest(key, "a:wanted");
    }
    assert_eq!(bench.newest_asked(), [("a:wanted", 1)]);
    for (client, key) in many.into_iter().enumerate() {
        let names: Vec<String> = (0..40).map(|n| format!("a:{client}-{n}")).collect();
        let request = json!({"action": "subscribe", "channels": names, "last": 1});
        bench.say(key, &request);
    }
    bench.down();
    bench.world.advance(SECOND);
    let before = bench.newest_asked().len();
    bench.begins_at(stored(HEAD));
    let asked = &bench.newest_asked()[before..];
    assert_eq!(
        asked.len(),
        65,
        "as many as are free, and that of the other"
    );
    let wanted = asked[..2].iter().find(|(name, _)| *name == "a:wanted");
    let number = wanted.expect("the address has its turn").1;
    bench.has(number, &[("a:wanted", 5)]);
    for key in [many[0], other] {
        let want = (Value::Null, vec![json!(5)]);
        assert_eq!(bench.answer(key), Some(want));
    }
}

/// The stream has brought messages of very many names that its reader has not reached, and then it has lost some.
#[test]
fn very_many_names_wait_again_over_several_turns_after_a_loss() {
    const STEPS: usize = 10;
    let mut bench = on_a_stream_in_steps(STEPS as u64);
    let keys = [(); 10].map(|()| bench.client());
    for (client, key) in keys.into_iter().enumerate() {
        let names: Vec<String> = (0..30).map(|n| format!("a:{client}-{n}")).collect();
        let request = json!({"action": "subscribe", "channels": names, "last": 1});
        bench.say(key, &request);
    }
    let names = 300;
    for at in 0..names {
        let (name, number) = bench.world.outputs.newest[at].clone();
        bench.brings_past(number, &name, 1, stored(HEAD + 1_000));
        bench.ends_with(number, None);
    }
    assert_eq!(bench.newest_asked().len(), names);
    bench.world.held = true;
    bench.world.time.end_part();
    bench.bus(BusEvent::Gap { lost: None });
    let mut turns = 0;
    loop {
        bench.world.keep_outputs();
        if bench.newest_asked().len() > names {
            break;
        }
        assert_eq!(
            bench.world.hub.poll_timeout(),
            Some(0),
            "there is more to do"
        );
        bench.world.hub.handle_timeout(bench.world.now);
        turns += 1;
    }
    // A step for each name, one for its client, and one for there being no other.
    assert!(turns >= 3 * names / STEPS, "{turns} turns");
    bench.world.catch_up();
    bench.begins_at(stored(HEAD));
    for at in names..2 * names {
        let (name, number) = bench.world.outputs.newest[at].clone();
        bench.has(number, &[(&name, at as u64)]);
    }
    for key in keys {
        let (why, data) = bench.answer(key).expect("an answer");
        assert_eq!((why, data.len()), (Value::Null, 30));
    }
}

/// In a turn with little time, a client asks for a name anew before it is told the end of its first question.
#[test]
fn the_end_of_a_question_is_told_to_who_waited_for_it_alone() {
    let mut bench = on_a_stream();
    let (key, other) = (bench.client(), bench.client());
    for key in [key, other] {
        bench.asks_newest(key, "a:1");
    }
    bench.world.held = true;
    bench.bus(BusEvent::RetainedEnd {
        subscription: Subscription::channel("a:1"),
        number: 1,
        cut: Some(RetainedCut::Refused),
    });
    bench.asks_newest(key, "a:1");
    bench.world.catch_up();
    let refused = (json!({"a:1": "refused"}), vec![]);
    for key in [key, other] {
        assert_eq!(bench.answer(key), Some(refused.clone()));
    }
    bench.has(2, &[("a:1", 5)]);
    assert_eq!(bench.answer(key), Some((Value::Null, vec![json!(5)])));
    // Its turn for the new question is not that of the first one.
    bench.down();
    bench.asks_newest(other, "a:2");
    bench.world.held = true;
    bench.begins_at(stored(HEAD));
    bench.bus(BusEvent::RetainedEnd {
        subscription: Subscription::channel("a:2"),
        number: 3,
        cut: Some(RetainedCut::Refused),
    });
    bench.bus(BusEvent::Down("gone".to_owned()));
    bench.asks_newest(other, "a:2");
    bench.world.catch_up();
    bench.begins_at(stored(HEAD));
    bench.has(4, &[("a:2", 6)]);
    let answers: Vec<_> = bench.got(other);
    let why = answers.iter().filter(|one| one["type"] == "subscribed");
    let why: Vec<&Value> = why.map(|one| &one["why"]).collect();
    assert_eq!(why, [&json!({"a:2": "refused"}), &Value::Null]);
}

/// The server reads all of the stream for each pattern.
#[test]
fn patterns_of_an_address_leave_room_for_those_of_others_and_for_exact_names() {
    let mut bench = on_a_stream();
    bench.stores("a:9", 100);
    for n in 0..40 {
        let key = bench.client_from([192, 0, 2, 1]);
        bench.asks_newest(key, &format!("a:{n}-*"));
    }
    assert_eq!(bench.newest_asked().len(), 4);
    for (client, name) in [([192, 0, 2, 1], "a:1"), ([192, 0, 2, 2], "a:5-*")] {
        let key = bench.client_from(client);
        bench.asks_newest(key, name);
        assert_eq!(
            bench.newest_asked().last().map(|(name, _)| *name),
            Some(name)
        );
    }
    assert_eq!(bench.newest_asked().len(), 6);
    // A place that is free goes to the next, and a question without an answer has none.
    (1..=6).for_each(|number| bench.has(number, &[]));
    let asked = bench.newest_asked().len();
    assert!((10..=11).contains(&asked), "{asked}");
    bench.down();
    bench.begins_at(stored(HEAD + 100));
    assert_eq!(bench.newest_asked().len(), asked + 4);
}

/// The history has the message before it, or no other one, or a newer one.
#[test]
fn a_newest_message_that_is_too_large_is_missing_with_a_reason() {
    let mut bench = on_a_stream();
    bench.stores("a:1", 1);
    bench.stores_too_much("a:1", 2);
    bench.stores_too_much("a:2", 3);
    bench.stores_too_much("a:3", 4);
    bench.stores("a:3", 5);
    bench.stores("a:4", 6);
    let large = json!("large");
    for (name, last, why, data) in [
        ("a:1", 5, &large, vec![1]),
        ("a:1", 1, &large, vec![]),
        ("a:2", 5, &large, vec![]),
        ("a:3", 5, &large, vec![5]),
        ("a:3", 1, &Value::Null, vec![5]),
        ("a:4", 5, &Value::Null, vec![6]),
        ("a:*", 5, &large, vec![1, 5, 6]),
    ] {
        let key = bench.client();
        bench.say(
            key,
            &json!({"action": "subscribe", "channels": [name], "last": last}),
        );
        if let Some((_, number)) = bench.newest_asked().pop() {
            bench.ends_with(number, None);
        }
        let (said, sent) = bench.answer(key).expect("an answer");
        assert_eq!(
            (&said[name], sent),
            (why, data.into_iter().map(Value::from).collect())
        );
    }
    // Once the history has forgotten it, the stream is asked.
    bench.world.advance(61 * SECOND);
    let key = bench.client();
    bench.asks_newest(key, "a:*");
    assert_eq!(
        bench.newest_asked().len(),
        2,
        "what was known of it is from before"
    );
}

/// The messages of some names leave the history while the answer waits for another name.
#[test]
fn what_the_history_forgets_while_an_answer_waits_is_said_to_be_missing() {
    let mut bench = on_a_stream();
    let (key, other) = (bench.client(), bench.client());
    for (name, number) in [("a:1", 1), ("a:2", 2), ("a:3", 3)] {
        bench.stores(name, number);
    }
    bench.asks_newest(other, "a:*");
    bench.has(1, &[]);
    bench.asks_newest(other, "a:x*");
    bench.has(2, &[]);
    bench.world.advance(57 * SECOND);
    bench.stores("a:2", 5);
    let names = ["a:*", "a:1", "a:2", "a:none", "a:old", "a:x*"];
    let request = json!({"action": "subscribe", "channels": names, "last": 1});
    bench.say(key, &request);
    assert_eq!(bench.newest_asked()[2..], [("a:none", 3), ("a:old", 4)]);
    bench.has(3, &[]);
    bench.world.advance(5 * SECOND);
    bench.stores("a:3", 6);
    bench.has(4, &[("a:old", 4)]);
    let why = json!({"a:*": "limit", "a:1": "limit"});
    // Of a pattern and of the names.
    let data = [4, 4, 5, 5, 6].map(|number| json!(number)).to_vec();
    assert_eq!(bench.answer(key), Some((why, data)));
    // It asks again.
    bench.asks_newest(key, "a:1");
    bench.has(5, &[("a:1", 1)]);
    assert_eq!(bench.answer(key), Some((Value::Null, vec![json!(1)])));
}

/// A name may wait for its turn, or be asked for again, while the history forgets what the stream still has.
#[test]
fn what_is_forgotten_before_the_stream_is_asked_is_not_said_to_be_missing() {
    let mut bench = on_a_stream();
    let key = bench.client();
    bench.asks_newest(key, "a:1");
    bench.bus(BusEvent::Gap { lost: None });
    assert_eq!(bench.newest_asked(), [("a:1", 1), ("a:1", 2)]);
    bench.has(2, &[]);
    assert_eq!(bench.answer(key), Some((Value::Null, vec![])));
    // So many that it is not known which.
    (0..1_100).for_each(|n| bench.stores(&format!("a:{n}"), 1 + n));
    bench.world.advance(58 * SECOND);
    let key = bench.client();
    let names = ["a:v*", "a:w*", "a:x*", "a:y*", "a:z*"];
    let request = json!({"action": "subscribe", "channels": names, "last": 1});
    bench.say(key, &request);
    assert_eq!(bench.newest_asked()[2..].len(), 4, "one waits for its turn");
    bench.world.advance(3 * SECOND);
    (3..=6).for_each(|number| bench.has(number, &[]));
    assert_eq!(bench.newest_asked()[6..], [("a:z*", 7)]);
    bench.has(7, &[]);
    let why = json!({"a:v*": "limit", "a:w*": "limit", "a:x*": "limit", "a:y*": "limit"});
    assert_eq!(bench.answer(key), Some((why, vec![])));
}

/// The question of another client was asked before the history forgot a message that the stream had no reason to bring.
#[test]
fn what_is_forgotten_after_a_question_that_clients_share_is_said_to_be_missing() {
    let mut bench = on_a_stream();
    bench.stores("a:1", 1);
    bench.world.advance(58 * SECOND);
    let keys = [(); 2].map(|()| bench.client());
    bench.asks_newest(keys[0], "a:*");
    bench.brings_past(1, "a:1", 1, stored(HEAD + 1));
    bench.brings_past(1, "a:2", 2, stored(2));
    bench.world.advance(3 * SECOND);
    bench.asks_newest(keys[1], "a:*");
    bench.ends_with(1, None);
    let want = (json!({"a:*": "limit"}), vec![json!(2)]);
    for key in keys {
        assert_eq!(bench.answer(key), Some(want.clone()));
    }
}

/// Messages that were found before a loss, for clients whose requests take several turns: one that joins the names, and one
/// that asks for those that it holds.
#[test]
fn what_was_found_before_a_loss_is_not_sent_after_it() {
    let names: Vec<String> = (0..700).map(|n| format!("a:{n}")).collect();
    for holds in [false, true] {
        let settings = ChannelsGatewaySettings {
            channels_max: 3_000,
            ..settings()
        };
        let mut bench = changed_before_the_stream(settings, |changed| {
            changed.history = HistoryLimits {
                bytes_max: 1 << 24,
                ..limits()
            };
            (changed.share_us, changed.work_us) = (50, 50);
        });
        bench.begins_at(stored(HEAD));
        for (number, name) in (1..).zip(&names) {
            bench.stores(name, number);
        }
        let key = bench.client();
        if holds {
            for names in names.chunks(100) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                bench.subscribe(key, &names);
            }
            bench.got(key);
        }
        let request = json!({"action": "subscribe", "channels": names, "last": 1});
        bench.world.held = true;
        bench.say(key, &request);
        // In the middle of its search, after the grants.
        for _ in 0..20 {
            assert_eq!(bench.world.hub.waiting_shares(), 1, "{holds}");
            bench.world.hub.begin_part(crate::world::PART_US);
            bench.world.hub.handle_next_share(bench.world.now);
        }
        assert_eq!(bench.world.hub.core().postpones(key), !holds);
        bench.bus(BusEvent::Gap { lost: None });
        bench.world.held = false;
        bench.begins_at(stored(1));
        bench.world.advance(SECOND);
        let got = bench.got(key);
        let kinds: Vec<&Value> = got.iter().map(|one| &one["type"]).collect();
        let [status, answer, rest @ ..] = &got[..] else {
            panic!("{holds}: {kinds:?}");
        };
        assert_eq!(status["lost"], true, "{holds}");
        assert!(rest.iter().all(|one| one["type"] == "status"), "{kinds:?}");
        let why = answer["why"].as_object().expect("reasons");
        assert!(why.len() == 700 && why.values().all(|why| why == "limit"));
        bench.reads("a:7", 7, stored(2));
        assert_eq!(bench.came(key), ["7"]);
        bench.world.hub.check_invariants();
    }
}

/// However many of its names leave the stream, and whenever the bus confirms each.
#[test]
fn a_client_is_told_once_a_second_that_names_have_left_the_stream() {
    let mut bench = on_a_stream();
    let names: Vec<String> = (0..40).map(|n| format!("b:{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let subjects = |subjects: &[&str]| {
        let subjects: Vec<String> = subjects.iter().map(|name| (*name).to_owned()).collect();
        BusEvent::Subjects(subjects.into())
    };
    bench.bus(subjects(&["a:*", "b:*"]));
    let keys = [(); 2].map(|()| bench.client());
    for key in keys {
        bench.subscribe(key, &names);
        bench.got(key);
    }
    bench.bus(subjects(&["a:*"]));
    bench.world.catch_up();
    let told = |bench: &Bench| bench.stats.gaps_notified.get();
    let before = told(&bench);
    for (at, name) in names.iter().enumerate() {
        bench.confirm(name);
        bench.world.advance(if at == 20 { SECOND } else { 1 });
    }
    bench.world.advance(SECOND);
    for key in keys {
        let got = bench.got(key);
        let lost = got.iter().filter(|one| one["lost"] == true).count();
        assert!((2..=4).contains(&lost), "{lost}: {got:?}");
    }
    assert!((4..=8).contains(&(told(&bench) - before)));
}

/// The stream gets the subject of very many names, and loses it.
#[test]
fn very_many_names_move_to_and_from_the_feed_over_several_turns() {
    const STEPS: usize = 20;
    let mut bench = on_a_stream_in_steps(STEPS as u64);
    let keys = [(); 10].map(|()| bench.client());
    for (client, &key) in keys.iter().enumerate() {
        let names: Vec<String> = (0..40).map(|n| format!("b:{client}-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        bench.subscribe(key, &names);
        names.iter().for_each(|name| bench.confirm(name));
        assert_eq!(bench.came(key), ["subscribed"]);
    }
    let other = bench.client();
    for (subjects, from) in [(&["a:*", "b:*"][..], "live"), (&["a:*"], "stream")] {
        let subjects: Vec<String> = subjects.iter().map(|name| (*name).to_owned()).collect();
        bench.world.held = true;
        bench.world.time.end_part();
        bench.bus(BusEvent::Subjects(subjects.into()));
        let mut turns = 0;
        while bench.world.hub.poll_timeout() == Some(0) {
            // A name that has not moved comes from where it came before.
            if turns == 5 {
                bench.unsubscribe(keys[9], &["b:9-39"]);
                bench.subscribe(keys[9], &["b:9-39"]);
                bench.unsubscribe(keys[0], &["b:0-0"]);
                bench.subscribe(keys[0], &["b:0-0"]);
                bench.unsubscribe(other, &["b:9-38"]);
                let request =
                    json!({"action": "subscribe", "channels": ["b:9-38"], "status": true});
                bench.say(other, &request);
            }
            bench.world.hub.handle_timeout(bench.world.now);
            turns += 1;
        }
        assert!(turns >= 400 / STEPS, "{turns} turns");
        bench.world.catch_up();
        bench.world.hub.check_invariants();
        let got = bench.got(other);
        let answer = got.iter().find(|one| one["type"] == "subscribed");
        let answer = answer.expect("an answer");
        assert_eq!(answer["brings"]["b:9-38"]["from"], from, "{answer}");
    }
    for key in keys {
        bench.world.end(key, true);
    }
}
