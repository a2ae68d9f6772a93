//! A client that comes back gets what it missed, or is told that it does not: names of the kept feed.

use weirgate_core::{CopyRank, FeedNotice, Frame, FrameBytes, SkippedMessage};

use super::*;

const KEPT: [&str; 2] = ["market:*", "indicators:a"];
pub(super) const TICK: &str = "market:tick";
pub(super) const MARK: Mark = Mark {
    nonce: 0x7f3a_09c2_b11e,
    counter: 1,
};

pub(super) fn limits() -> HistoryLimits {
    HistoryLimits {
        keep_us: 60 * SECOND,
        bytes_max: 1 << 20,
    }
}

/// A gateway with a kept feed, and the count of its messages.
pub(super) struct Kept {
    pub(super) bench: Bench,
    count: u64,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self::with(settings(), limits())
    }

    pub(super) fn with(settings: ChannelsGatewaySettings, limits: HistoryLimits) -> Self {
        Self::made(settings, limits, |gateway| gateway)
    }

    pub(super) fn of(
        settings: ChannelsGatewaySettings,
        limits: HistoryLimits,
        (names, is_stream): (Vec<String>, bool),
    ) -> Self {
        Self::limited(settings, limits, |gateway| {
            match is_stream {
                true => gateway.with_kept_stream(names),
                false => gateway.with_kept(names),
            }
            .expect("names")
        })
    }

    /// With another gateway made of the usual one.
    pub(super) fn made(
        settings: ChannelsGatewaySettings,
        limits: HistoryLimits,
        make: impl FnOnce(ChannelsGateway) -> ChannelsGateway,
    ) -> Self {
        let names = KEPT.map(str::to_owned).to_vec();
        Self::limited(settings, limits, |gateway| {
            make(gateway.with_kept(names).expect("names"))
        })
    }

    /// In which a client has time for so many steps in a turn.
    pub(super) fn in_steps(settings: ChannelsGatewaySettings, steps: u64) -> Self {
        let names = KEPT.map(str::to_owned).to_vec();
        let history = HistoryLimits {
            bytes_max: 1 << 26,
            ..limits()
        };
        let make = |gateway: ChannelsGateway| gateway.with_kept(names).expect("names");
        Self::changed(
            settings,
            |limits| {
                limits.history = history;
                limits.share_us = steps;
                limits.work_us = steps;
            },
            make,
        )
    }

    fn limited(
        settings: ChannelsGatewaySettings,
        limits: HistoryLimits,
        make: impl FnOnce(ChannelsGateway) -> ChannelsGateway,
    ) -> Self {
        Self::changed(settings, |all| all.history = limits, make)
    }

    pub(super) fn changed(
        settings: ChannelsGatewaySettings,
        change: impl FnOnce(&mut Limits),
        make: impl FnOnce(ChannelsGateway) -> ChannelsGateway,
    ) -> Self {
        let settings = ChannelsGatewaySettings {
            acl: Acl::from_json(NameSyntax::Redis, br#"{"user": ["*"]}"#).expect("a table"),
            ..settings
        };
        let bench = Bench::changed(settings, change, make);
        let mut kept = Self { bench, count: 0 };
        kept.begin(MARK);
        kept
    }

    /// The feed stands, from this mark on.
    pub(super) fn begin(&mut self, mark: Mark) {
        self.mark(mark);
        self.bench.bus(BusEvent::Up);
        self.bench.world.advance(1);
    }

    fn mark(&mut self, mark: Mark) {
        let count = std::mem::take(&mut self.count);
        self.bench.bus(BusEvent::Feed(FeedNotice::Mark {
            feed_hash: 5,
            mark,
            count,
        }));
    }

    fn doubt(&mut self, is_in_doubt: bool) {
        let notice = FeedNotice::InDoubt(is_in_doubt);
        self.bench.bus(BusEvent::Feed(notice));
    }

    pub(super) fn position(count: u64) -> Position {
        Position::counted(5, MARK, count)
    }

    fn message(&mut self, subject: &str, payload: impl AsRef<[u8]>) -> BusMessage {
        self.count += 1;
        BusMessage {
            pattern: Some(KEPT[0].into()),
            place: Place::Kept(Some(Self::position(self.count))),
            ..BusMessage::new(subject, payload.as_ref().to_vec(), self.bench.world.now)
        }
    }

    pub(super) fn publish(&mut self, subject: &str, payload: impl AsRef<[u8]>) {
        let message = self.message(subject, payload);
        self.bench.bus(BusEvent::Message(message));
    }

    /// A client, and the answer to its `subscribe`.
    pub(super) fn member(&mut self, names: &[&str]) -> (SessionKey, Value) {
        let key = self.bench.client();
        self.bench.subscribe(key, names);
        let [answer] = &self.bench.got(key)[..] else {
            panic!("one answer");
        };
        (key, answer.clone())
    }

    /// What a client gets that comes back: the answer, and what follows.
    pub(super) fn comes_back(
        &mut self,
        names: &[&str],
        since: &str,
    ) -> (SessionKey, Value, Vec<Value>) {
        let answered =
            self.asks(&json!({"action": "subscribe", "channels": names, "since": since}));
        assert_eq!(answered.1["type"], "subscribed");
        answered
    }

    pub(super) fn asks(&mut self, request: &Value) -> (SessionKey, Value, Vec<Value>) {
        let key = self.bench.client();
        self.bench.say(key, request);
        let mut got = self.bench.got(key);
        assert!(!got.is_empty(), "no answer");
        let answer = got.remove(0);
        (key, answer, got)
    }

    fn why(&mut self, name: &str, since: &str) -> Value {
        let (_, answer, got) = self.comes_back(&[name], since);
        assert_eq!(answer["recovered"][name], false, "{answer}");
        assert_eq!(got, [json!(null); 0], "nothing of what was missed");
        answer["why"][name].clone()
    }

    fn resumes(&self) -> Vec<(&'static str, u64)> {
        let stats = self.bench.world.hub.stats();
        let refused = weirgate_core::NotRecovered::ALL.map(|why| why.label());
        let refused = refused.into_iter().zip(stats.resumes_refused);
        let all = std::iter::once(("recovered", stats.resumes_recovered)).chain(refused);
        all.filter(|(_, count)| *count > 0).collect()
    }
}

pub(super) fn positions(messages: &[Value]) -> Vec<String> {
    let of = |message: &Value| message["pos"].as_str().expect("a position").to_owned();
    messages.iter().map(of).collect()
}

pub(super) fn at(count: u64) -> String {
    Kept::position(count).to_string()
}

pub(super) fn data(messages: &[Value]) -> Vec<Value> {
    messages.iter().map(|m| m["data"].clone()).collect()
}

#[test]
fn who_comes_back_gets_what_was_missed_behind_the_answer_and_in_order() {
    let mut kept = Kept::new();
    let (key, answer) = kept.member(&[TICK]);
    assert_eq!(answer["pos"], at(0), "without since: where the feed is");
    assert_eq!(answer.get("recovered"), None);
    kept.publish(TICK, "1");
    kept.publish("market:other", "7");
    kept.publish(TICK, "2");
    let got = kept.bench.got(key);
    assert_eq!(
        (data(&got), positions(&got)),
        (vec![json!(1), json!(2)], vec![at(1), at(3)])
    );
    kept.bench.world.end(key, true);
    for n in 3..=5 {
        kept.publish(TICK, n.to_string());
    }
    let (back, answer, got) = kept.comes_back(&[TICK], &at(3));
    assert_eq!(answer["recovered"], json!({ TICK: true }));
    assert_eq!(
        (answer.get("why"), answer.get("pos")),
        (None, None),
        "told with the messages"
    );
    assert_eq!(
        (data(&got), positions(&got)),
        (
            vec![json!(3), json!(4), json!(5)],
            vec![at(4), at(5), at(6)]
        )
    );
    kept.publish(TICK, "8");
    let live = kept.bench.got(back);
    assert_eq!(positions(&live), [at(7)]);
    let seqs: Vec<_> = got.iter().chain(&live).map(|m| m["seq"].clone()).collect();
    assert_eq!(seqs, [3, 4, 5, 6].map(|n| json!(n)), "no gap");
    let (_, answer, got) = kept.comes_back(&[TICK], &at(7));
    assert_eq!(
        (answer["recovered"][TICK].clone(), got),
        (json!(true), vec![])
    );
    assert_eq!(kept.resumes(), [("recovered", 2)]);
    assert!(
        kept.bench.world.outputs.wanted.is_empty(),
        "nothing was asked of the bus"
    );
}

/// The source finds out in some milliseconds whether what is missing was lost: until then, who comes back waits.
#[test]
fn nobody_resumes_while_messages_may_be_lost() {
    let mut kept = Kept::new();
    kept.publish(TICK, "1");
    let word = Kept::doubt;
    // Under load, there is always another doubt.
    for (is_lost, answers) in [(false, 0), (true, 0), (false, 1), (true, 1), (false, 2)] {
        let position = at(kept.count);
        word(&mut kept, true);
        kept.publish(TICK, "2");
        let key = kept.bench.client();
        let request = json!({"action": "subscribe", "channels": [TICK], "since": position});
        kept.bench.say(key, &request);
        for _ in 0..answers {
            assert_eq!(kept.bench.got(key), [json!(null); 0]);
            word(&mut kept, true);
        }
        if is_lost {
            assert_eq!(kept.bench.got(key), [json!(null); 0]);
            kept.bench.bus(BusEvent::Gap { lost: None });
        }
        if answers < 2 {
            word(&mut kept, false);
        }
        let got = kept.bench.got(key);
        let answer = got.iter().find(|one| one["type"] == "subscribed");
        let answer = answer.expect("an answer");
        assert_eq!(answer["recovered"][TICK], !is_lost, "{answers}");
        match is_lost {
            true => assert_eq!(answer["why"][TICK], "gap"),
            false => assert_eq!(got.iter().filter(|one| one["type"] == "data").count(), 1),
        }
        if is_lost {
            kept.begin(MARK);
        }
        word(&mut kept, false);
    }
}

/// The positions that these messages have, in their order.
fn given(messages: &[Value]) -> Vec<&str> {
    let of = |message: &'_ Value| message.get("pos").is_some();
    let with = messages.iter().filter(|message| of(message));
    with.map(|message| message["pos"].as_str().expect("a text"))
        .collect()
}

/// One instance has not read all that another one has, and does not know yet whether that was lost.
#[test]
fn from_what_a_client_got_in_doubt_it_lacks_nothing_on_another_instance() {
    for is_lost in [false, true] {
        let (mut here, mut there) = (Kept::new(), Kept::new());
        let (key, _) = here.member(&["market:*"]);
        for kept in [&mut here, &mut there] {
            kept.publish(TICK, "1");
        }
        there.publish(TICK, "2");
        here.count += 1;
        here.doubt(true);
        for kept in [&mut here, &mut there] {
            kept.publish(TICK, "3");
        }
        let got = here.bench.got(key);
        assert_eq!(data(&got), [json!(1), json!(3)]);
        let since = given(&got).pop().expect("a position").to_owned();
        if is_lost {
            here.bench.bus(BusEvent::Gap { lost: None });
        }
        // From the same instance, the next position is from behind the word of the loss.
        here.doubt(false);
        let (_, answer, got) = there.comes_back(&["market:*"], &since);
        assert_eq!(answer["recovered"], json!({"market:*": true}));
        assert_eq!(data(&got), [json!(2), json!(3)]);
    }
}

/// Everybody: clients of the name and of a pattern, new ones, those that come back and those that wait for statuses.
#[test]
fn nobody_is_given_a_position_in_doubt() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&[TICK, "market:*"]);
    kept.publish(TICK, "1");
    let (copy, whole) = match &given(&kept.bench.got(key))[..] {
        [copy, whole] => (copy.to_string(), whole.to_string()),
        other => panic!("{other:?}"),
    };
    assert!(copy.starts_with(&at(1)) && whole == at(1));
    kept.doubt(true);
    kept.publish(TICK, "2");
    let got = kept.bench.got(key);
    assert_eq!((data(&got).len(), given(&got)), (2, vec![]));
    let (_, answer) = kept.member(&[TICK]);
    assert_eq!(answer["pos"], at(1));
    kept.bench.world.advance(10 * SECOND);
    let status = kept.bench.got(key).pop().expect("a status");
    assert_eq!(
        (&status["type"], &status["pos"]),
        (&json!("status"), &json!(at(1)))
    );
    let asks = json!({"action": "subscribe", "channels": [TICK], "last": 2});
    let asker = kept.bench.client();
    kept.bench.say(asker, &asks);

    // The first answer may be about an earlier question, the second one is about what was read at the first.
    kept.doubt(true);
    kept.publish(TICK, "3");
    let (_, answer) = kept.member(&[TICK]);
    assert_eq!(answer["pos"], at(1));
    kept.doubt(true);
    let (_, answer) = kept.member(&[TICK]);
    assert_eq!(answer["pos"], at(2));
    let got = kept.bench.got(asker);
    assert_eq!(got[0]["type"], "subscribed");
    assert_eq!(data(&got[1..3]), [json!(2), json!(3)]);
    assert_eq!(
        given(&got),
        [at(2), at(2)],
        "a message, and the status at the end"
    );
    kept.bench.got(key);

    // Nothing was lost: the copies that were made meanwhile are nobody's any more.
    kept.doubt(false);
    kept.publish(TICK, "4");
    let (_, answer, got) = kept.comes_back(&[TICK, "market:*"], &copy);
    assert_eq!(answer["recovered"], json!({TICK: true, "market:*": true}));
    assert_eq!(got.len(), 7);
    assert_eq!(positions(&got).last(), Some(&at(4)));
    let live = kept.bench.got(key);
    assert_eq!(positions(&live)[1], at(4));
}

/// No position is good from before the loss, and none behind it while more may be lost.
#[test]
fn after_a_loss_in_doubt_there_is_no_position_before_the_doubt_has_ended() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&[TICK]);
    kept.publish(TICK, "1");
    kept.doubt(true);
    kept.publish(TICK, "2");
    kept.bench.bus(BusEvent::Gap { lost: None });
    kept.begin(MARK);
    kept.bench.got(key);
    kept.publish(TICK, "3");
    let (_, answer) = kept.member(&[TICK]);
    assert_eq!(answer.get("pos"), None);
    kept.bench.world.advance(10 * SECOND);
    assert_eq!(given(&kept.bench.got(key)), [""; 0]);
    kept.doubt(false);
    kept.publish(TICK, "4");
    assert_eq!(positions(&kept.bench.got(key)), [at(2)]);
}

/// Its source has no answer.
#[test]
fn who_waits_too_long_for_a_word_about_losses_is_not_recovered() {
    let mut kept = Kept::new();
    kept.publish(TICK, "1");
    let position = at(kept.count);
    kept.bench.bus(BusEvent::Feed(FeedNotice::InDoubt(true)));
    let request = json!({"action": "subscribe", "channels": [TICK], "since": position});
    for _ in 0..2 {
        let key = kept.bench.client();
        kept.bench.say(key, &request);
        kept.bench.world.advance(SECOND - 1);
        assert_eq!(kept.bench.got(key), [json!(null); 0]);
        kept.bench.world.advance(1);
        let got = kept.bench.got(key);
        assert_eq!(got[0]["why"][TICK], "gap", "{got:?}");
        // Each request waits by itself.
        kept.bench
            .say(key, &json!({"action": "unsubscribe", "channels": [TICK]}));
        kept.bench.got(key);
        kept.bench.say(key, &request);
        assert_eq!(kept.bench.got(key), [json!(null); 0]);
        kept.bench.world.end(key, true);
        kept.bench.world.advance(2 * SECOND);
    }
    kept.bench.world.hub.check_invariants();
}

#[test]
fn names_and_patterns_within_the_feed_get_their_copies_in_one_order() {
    let mut kept = Kept::new();
    let names = [TICK, "market:t*", "market:*"];
    let (key, _) = kept.member(&names);
    kept.publish(TICK, "1");
    kept.publish("market:x", "2");
    let live = kept.bench.got(key);
    let pattern = |message: &Value| (message["pattern"].clone(), message["channel"].clone());
    assert_eq!(
        live.iter().map(pattern).collect::<Vec<_>>(),
        [
            (json!("market:*"), json!(TICK)),
            (json!("market:t*"), json!(TICK)),
            (json!(null), json!(TICK)),
            (json!("market:*"), json!("market:x")),
        ]
    );
    let copy = |n, pattern| {
        let mut text = Frame::text(&FrameBytes::default());
        text.position(Kept::position(n), CopyRank::of_pattern(pattern));
        String::from_utf8(text.finish().body().to_vec()).expect("text")
    };
    assert_eq!(
        positions(&live),
        [
            copy(1, "market:*"),
            copy(1, "market:t*"),
            at(1),
            copy(2, "market:*")
        ]
    );
    // A client that was cut between two copies gets the others, and no copy twice.
    for got in 0..live.len() {
        let since = got
            .checked_sub(1)
            .map_or_else(|| at(0), |last| positions(&live)[last].clone());
        let (_, _, rest) = kept.comes_back(&names, &since);
        let parts = |messages: &[Value]| messages.iter().map(pattern).collect::<Vec<_>>();
        assert_eq!(parts(&rest), parts(&live[got..]), "behind {since}");
        assert_eq!(positions(&rest), positions(&live[got..]));
    }
    // The same messages with another number, byte for byte.
    let (_, answer, got) = kept.comes_back(&names, &at(0));
    assert_eq!(
        answer["recovered"],
        json!({TICK: true, "market:t*": true, "market:*": true})
    );
    let without_seq = |messages: &[Value]| -> Vec<Value> {
        let mut messages = messages.to_vec();
        messages.iter_mut().for_each(|m| m["seq"] = json!(0));
        messages
    };
    assert_eq!(without_seq(&got), without_seq(&live));
    // Patterns that nobody held when the messages came, and one that may match more than the feed.
    let (_, _, got) = kept.comes_back(&["market:*ick"], &at(0));
    assert_eq!(
        (data(&got), got[0]["pattern"].clone()),
        (vec![json!(1)], json!("market:*ick"))
    );
    let key = kept.bench.client();
    kept.bench.say(
        key,
        &json!({"action": "subscribe", "channels": ["mark*"], "since": at(0)}),
    );
    kept.bench.confirm("mark*");
    assert_eq!(kept.bench.got(key)[0]["why"], json!({"mark*": "off"}));
    let (_, _, got) = kept.comes_back(&["market:?*"], &at(0));
    assert_eq!(
        (got.len(), got[0]["pattern"].clone()),
        (2, json!("market:?*"))
    );
}

#[test]
fn names_outside_of_the_feed_are_asked_of_the_bus_and_say_so() {
    let mut kept = Kept::new();
    let key = kept.bench.client();
    let request =
        json!({"action": "subscribe", "channels": [TICK, "indicators:b"], "since": at(0)});
    kept.publish(TICK, "1");
    kept.bench.say(key, &request);
    assert_eq!(
        kept.bench.got(key),
        [Value::Null; 0],
        "it waits for the bus, with what was missed"
    );
    kept.publish(TICK, "2");
    kept.bench.confirm("indicators:b");
    let got = kept.bench.got(key);
    assert_eq!(
        got[0]["recovered"],
        json!({TICK: true, "indicators:b": false})
    );
    assert_eq!(got[0]["why"], json!({"indicators:b": "off"}));
    assert_eq!(
        data(&got[1..]),
        [json!(1), json!(2)],
        "nothing came before the answer"
    );
    kept.bench.publish("indicators:b", &[], "3");
    let got = kept.bench.got(key);
    assert_eq!((data(&got), got[0].get("pos")), (vec![json!(3)], None));
    assert_eq!(kept.resumes(), [("recovered", 1), ("off", 1)]);
    kept.bench.unsubscribe(key, &["indicators:b", TICK]);
    assert_eq!(kept.bench.counts(), (0, 0, 0));
    assert_eq!(kept.bench.world.outputs.wanted.get(TICK), None);
}

#[test]
fn a_name_that_is_given_up_while_its_answer_waits_is_not_resumed() {
    let mut kept = Kept::new();
    let key = kept.bench.client();
    kept.publish(TICK, "1");
    let names = ["indicators:b", TICK, TICK];
    kept.bench.say(
        key,
        &json!({"action": "subscribe", "channels": names, "since": at(0)}),
    );
    kept.bench.unsubscribe(key, &[TICK]);
    kept.bench.confirm("indicators:b");
    let got = kept.bench.got(key);
    assert_eq!(got[0]["recovered"], json!({"indicators:b": false}));
    assert_eq!(got[1]["type"], "unsubscribed");
    kept.publish(TICK, "2");
    assert!(kept.bench.got(key).is_empty());
    assert_eq!(kept.bench.counts(), (1, 1, 0));
    kept.bench.world.end(key, true);
    assert_eq!(kept.bench.counts(), (0, 0, 0));
}

#[test]
fn a_doubt_is_told_with_its_reason_and_nothing_of_what_was_missed_follows() {
    let mut kept = Kept::new();
    kept.publish(TICK, "1");
    let other = Mark { counter: 2, ..MARK };
    let unknown = Position::counted(5, other, 0);
    let of_another_list = Position {
        feed_hash: 6,
        ..Kept::position(0)
    };
    for (since, why) in [
        ("", "bad"),
        ("junk", "bad"),
        (&at(0)[1..], "bad"),
        (&of_another_list.to_string(), "bad"),
        (&unknown.to_string(), "epoch"),
        (&at(2), "ahead"),
    ] {
        assert_eq!(kept.why(TICK, since), why, "{since}");
    }
    let long = "m".repeat(100_000);
    assert_eq!(kept.why(TICK, &long), "bad");
    for since in [
        json!(5),
        json!([]),
        json!({"epoch": "", "offset": 1}),
        json!(true),
    ] {
        let key = kept.bench.client();
        kept.bench.say(
            key,
            &json!({"action": "subscribe", "channels": [TICK], "since": since}),
        );
        assert_eq!(
            kept.bench.got(key)[0]["why"],
            json!({ TICK: "bad" }),
            "{since}"
        );
    }
    // A loss: every position before it is of no use, and new ones are.
    kept.bench.bus(BusEvent::Gap { lost: None });
    kept.bench.down();
    assert_eq!(kept.why(TICK, &at(1)), "gap");
    kept.count = 0;
    kept.mark(other);
    kept.bench.bus(BusEvent::Up);
    assert_eq!(kept.why(TICK, &at(1)), "gap");
    let (_, answer, _) = kept.comes_back(&[TICK], &unknown.to_string());
    assert_eq!(answer["recovered"][TICK], true, "the mark is known by now");
}

/// A client has a position from before the loss: another instance would send these messages again.
#[test]
fn messages_before_the_feed_stands_are_part_of_the_loss() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&[TICK]);
    kept.bench.bus(BusEvent::Gap { lost: None });
    kept.bench.down();
    let next = Mark { counter: 2, ..MARK };
    let places = [None, Some(Position::counted(5, next, 1))];
    let [early, late] = places.map(|position| BusMessage {
        place: Place::Kept(position),
        ..kept.message(TICK, if position.is_none() { "1" } else { "2" })
    });
    kept.bench.bus(BusEvent::Message(early));
    kept.count = 0;
    kept.begin(next);
    kept.bench.bus(BusEvent::Message(late));
    let mut got = kept.bench.got(key);
    got.retain(|message| message["type"] == "data");
    assert_eq!(data(&got), [json!(2)]);
}

#[test]
fn a_mark_names_the_same_messages_as_the_count_before_it() {
    let mut kept = Kept::new();
    kept.publish(TICK, "1");
    // Copies of the message for other names of the feed: counted, and not relayed again.
    kept.count += 2;
    let next = Mark { counter: 2, ..MARK };
    kept.mark(next);
    // Another instance counted from the mark before, up to the newest message.
    let position = |mark, count| Position::counted(5, mark, count);
    let place = Place::Kept(Some(position(next, 1)));
    let message = BusMessage {
        place,
        ..kept.message(TICK, "2")
    };
    kept.bench.bus(BusEvent::Message(message));
    for (since, missed) in [
        (position(MARK, 0), vec![json!(1), json!(2)]),
        (position(MARK, 1), vec![json!(2)]),
        (position(MARK, 3), vec![json!(2)]),
        (position(next, 0), vec![json!(2)]),
        (position(MARK, 4), vec![]),
        (position(next, 1), vec![]),
    ] {
        let (_, answer, got) = kept.comes_back(&[TICK], &since.to_string());
        assert_eq!(
            (answer["recovered"][TICK].clone(), data(&got)),
            (json!(true), missed),
            "{since}"
        );
    }
}

#[test]
fn a_message_that_is_left_out_is_a_hole_for_its_name_and_for_patterns() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&[TICK, "market:*"]);
    let mut large = kept.message(TICK, "");
    large.payload = vec![b'1'; (1 << 20) + 1];
    kept.bench.bus(BusEvent::Message(large));
    kept.publish("market:x", "2");
    let got = kept.bench.got(key);
    assert_eq!(
        got[0]["seq"], 5,
        "two numbers are missing, one for each name"
    );
    assert_eq!(kept.why(TICK, &at(0)), "window");
    assert_eq!(kept.why("market:*", &at(0)), "window");
    let (_, answer, _) = kept.comes_back(&["market:x"], &at(0));
    assert_eq!(answer["recovered"]["market:x"], true);
    let (_, answer, _) = kept.comes_back(&[TICK, "market:*"], &at(1));
    assert_eq!(answer["recovered"], json!({TICK: true, "market:*": true}));
}

/// Its name is too long, or no text: nobody knows which narrower patterns match it.
#[test]
fn a_message_without_a_name_is_a_hole_for_each_pattern_that_may_match_it() {
    let mut kept = Kept::new();
    let names = [KEPT[0], "market:t*", TICK, KEPT[1]];
    let members = names.map(|name| kept.member(&[name]).0);
    let place = kept.message(TICK, "").place;
    kept.bench.bus(BusEvent::Skipped(SkippedMessage {
        subscription: Subscription::pattern(KEPT[0]),
        place,
        id: None,
        why: "a name of over 4,096 bytes",
    }));
    for (key, missing) in members.into_iter().zip([1, 1, 0, 0]) {
        kept.bench.ping(key);
        assert_eq!(kept.bench.got(key)[0]["seq"], 3 + missing);
    }
    for name in &names[..2] {
        assert_eq!(kept.why(name, &at(0)), "window");
    }
    let (_, answer, _) = kept.comes_back(&[TICK], &at(0));
    assert_eq!(answer["recovered"][TICK], true);
}

/// A large message needs the memory of thousands of small ones, which are forgotten over several turns; the bus waits
/// for that.
#[test]
fn the_bus_waits_while_the_history_forgets_for_a_large_message() {
    const LIMIT: u64 = 1 << 22;
    let make = |gateway: ChannelsGateway| {
        let names = KEPT.map(str::to_owned).to_vec();
        gateway.with_kept(names).expect("names")
    };
    let change = |all: &mut Limits| {
        all.history = HistoryLimits {
            bytes_max: LIMIT as usize,
            ..limits()
        };
        all.work_us = 100;
    };
    let mut kept = Kept::changed(settings(), change, make);
    for n in 0..12_000 {
        kept.publish("market:quiet", "1");
        assert!(kept.bench.world.hub.takes_publications(), "{n}");
    }
    let bytes = |kept: &Kept| kept.bench.world.hub.stats().history.expect("one").bytes;
    assert!(bytes(&kept) > LIMIT - 2_000, "{}", bytes(&kept));
    kept.bench.world.held = true;
    kept.publish(TICK, format!("\"{}\"", "x".repeat(500_000)));
    let excess = bytes(&kept) as i64 - LIMIT as i64;
    assert!((1..LIMIT as i64 / 4).contains(&excess), "{excess}");
    let mut turns = 0;
    while !kept.bench.world.hub.takes_publications() {
        let now = kept.bench.world.now;
        let due = kept.bench.world.hub.poll_timeout();
        assert!(due.is_some_and(|due| due <= now.mono_us), "{due:?}");
        kept.bench.world.hub.handle_timeout(now);
        turns += 1;
    }
    assert!(turns >= 3, "{turns}");
    assert!(bytes(&kept) <= LIMIT);
    kept.bench.world.catch_up();
    kept.publish(TICK, "2");
    // What a client that comes back has missed is what is left, or the reason.
    let newest_small = at(12_000);
    let (_, answer, got) = kept.comes_back(&[TICK], &newest_small);
    assert_eq!((&answer["recovered"][TICK], got.len()), (&json!(true), 2));
    assert_eq!(kept.why("market:quiet", &at(1)), "window");
}

#[test]
fn a_name_that_is_held_already_cannot_be_resumed() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&[TICK]);
    kept.publish(TICK, "1");
    kept.bench.got(key);
    kept.bench.say(
        key,
        &json!({"action": "subscribe", "channels": [TICK, "market:x"], "since": at(0)}),
    );
    let got = kept.bench.got(key);
    assert_eq!(got[0]["recovered"], json!({TICK: false, "market:x": true}));
    assert_eq!(
        (got.len(), got[0]["why"].clone()),
        (1, json!({TICK: "off"}))
    );
}
