//! Last values: behind `subscribed`, never behind a newer message, and as the client takes them.

use super::*;

/// Bytes that a client has at most, but for one value.
pub(super) const SHARE: usize = 512 * 1024;

impl Bench {
    /// A bus with last values, which is there.
    pub(super) fn retaining() -> Self {
        Self::retaining_with(settings(), 1 << 26)
    }

    /// The same; so many bytes of values may wait for all clients.
    pub(super) fn retaining_with(settings: ChannelsGatewaySettings, bytes_max: usize) -> Self {
        let mut bench = Self::made(settings, |gateway| gateway.with_retained(bytes_max));
        bench.bus(BusEvent::Up);
        bench
    }

    /// A value that a stream holds, for the newest question about this name or pattern.
    pub(super) fn value(&mut self, subject: &str, pattern: Option<&str>, value: &str) {
        let number = self.newest_question(pattern.unwrap_or(subject));
        self.numbered_value(subject, pattern, value, number);
    }

    /// The same, for the question of this number.
    pub(super) fn numbered_value(
        &mut self,
        subject: &str,
        pattern: Option<&str>,
        value: &str,
        number: u64,
    ) {
        let message = BusMessage {
            pattern: pattern.map(Into::into),
            quiet: true,
            ..BusMessage::new(subject, value.as_bytes().to_vec(), self.world.now)
        };
        self.bus(BusEvent::LastValue {
            is_deletion: message.payload.is_empty(),
            message,
            number,
        });
    }

    pub(super) fn newest_question(&self, name: &str) -> u64 {
        let asked = &mut self.world.outputs.retained.iter().rev();
        let found = asked.find(|(asked, _)| asked == name);
        found.expect("a question").1
    }

    /// The end of the answer to the newest question about this name or pattern.
    pub(super) fn end(&mut self, name: &str) {
        self.end_of(name, self.newest_question(name));
    }

    pub(super) fn end_of(&mut self, name: &str, number: u64) {
        let subscription = match name.contains('*') {
            true => Subscription::pattern(name),
            false => Subscription::channel(name),
        };
        self.bus(BusEvent::RetainedEnd {
            subscription,
            number,
            cut: None,
        });
    }

    /// The bus does not answer the questions after the first ones, but has read up to this message. Returns how many.
    pub(super) fn no_answers(&mut self, first: usize, sequence: u64) -> usize {
        let asked = self.world.outputs.retained.clone().split_off(first);
        for (_, number) in &asked {
            self.bus(BusEvent::RetainedUnanswered {
                number: *number,
                cursor: match sequence {
                    0 => Arc::default(),
                    sequence => read_to(sequence),
                },
            });
        }
        asked.len()
    }

    /// The end of a page of this question, up to the message of this number; `is_open`: the question goes on.
    pub(super) fn page_of(&mut self, number: u64, sequence: u64, is_open: bool) {
        self.bus(BusEvent::RetainedPage {
            number,
            cursor: read_to(sequence),
            is_open,
        });
    }

    /// The number up to which was read before this question.
    pub(super) fn read_before(&self, number: u64) -> u64 {
        let after = &self.world.outputs.after[&number];
        after.parts.first().map_or(0, |part| part.sequence)
    }

    /// The whole answer to the newest question about an exact name.
    fn last_value(&mut self, name: &str, value: Option<&str>) {
        let number = self.newest_question(name);
        if let Some(value) = value {
            self.value(name, None, value);
        }
        self.end_of(name, number);
    }

    pub(super) fn questions(&self) -> usize {
        self.world.outputs.retained.len()
    }

    /// The names of the questions from the `n`-th on.
    pub(super) fn questions_from(&self, n: usize) -> Vec<&str> {
        let asked = self.world.outputs.retained[n..].iter();
        asked.map(|(name, _)| name.as_str()).collect()
    }

    /// A client that holds these names, and whose kernel takes nothing from here on.
    pub(super) fn stopped_client(&mut self, address: [u8; 4], names: &[&str]) -> SessionKey {
        let key = self.client_from(address);
        self.subscribe(key, names);
        names.iter().for_each(|name| self.confirm(name));
        assert_eq!(self.kinds(key), kinds(&[("subscribed", 2)]));
        self.stop(key);
        key
    }

    pub(super) fn stop(&mut self, key: SessionKey) {
        let socket = self.world.net.sockets.get_mut(&key);
        socket.expect("a socket").room = 0;
    }

    pub(super) fn unsent(&self, key: SessionKey) -> usize {
        self.world.hub.core().unsent_bytes(key)
    }

    /// What came since the last call: the data, and whether it was a last value.
    pub(super) fn values(&mut self, key: SessionKey) -> Vec<(Value, bool)> {
        let got = self.got(key).into_iter();
        let data = got.filter(|message| message["type"] == "data");
        data.map(|message| (message["data"].clone(), message["retained"] == true))
            .collect()
    }
}

fn read_to(sequence: u64) -> Arc<PageCursor> {
    let [stream, filter, made] = ["S", "", ""].map(str::to_owned);
    let part = ReadPart {
        stream,
        filter,
        made,
        sequence,
    };
    Arc::new(PageCursor::of(vec![part]))
}

pub(super) const HERE: [u8; 4] = [127, 0, 0, 1];

/// A JSON text of so many bytes.
pub(super) fn large(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

#[test]
fn the_last_value_comes_behind_subscribed_to_who_waits_for_it() {
    let mut bench = Bench::retaining();
    let [first, second, third] = [(); 3].map(|()| bench.client());
    bench.subscribe(first, &["market:tick", "market:tick:*"]);
    bench.confirm("market:tick");
    assert_eq!(bench.questions(), 0, "nothing is asked before the answer");
    bench.confirm("market:tick:*");
    assert_eq!(bench.questions_from(0), ["market:tick"]);
    bench.subscribe(second, &["market:tick"]);
    assert_eq!(bench.questions(), 1, "one at a time");
    bench.last_value("market:tick", Some("7"));
    let asked = bench.questions_from(1);
    assert_eq!(asked, ["market:tick", "market:tick:*"], "a pattern alone");
    bench.last_value("market:tick", Some("8"));
    assert_eq!(bench.questions(), 3);
    let got = bench.got(first);
    assert_eq!(
        (&got[0]["type"], &got[1]["data"]),
        (&json!("subscribed"), &json!(7))
    );
    assert_eq!(
        (&got[1]["retained"], &got[1]["seq"]),
        (&json!(true), &json!(3))
    );
    assert_eq!(got.len(), 2);
    assert_eq!(bench.got(second)[1]["data"], json!(8));
    bench.subscribe(third, &["market:tick"]);
    bench.last_value("market:tick", None);
    assert_eq!(bench.kinds(third), kinds(&[("subscribed", 2)]));
    bench.subscribe(third, &["market:tick"]);
    bench.last_value("market:tick", Some("9"));
    assert_eq!(
        bench.kinds(third),
        kinds(&[("subscribed", 3), ("data", 4)]),
        "who asks again gets the value again"
    );
}

#[test]
fn a_message_that_came_live_is_newer() {
    let mut bench = Bench::retaining();
    let [early, late] = [(); 2].map(|()| bench.client());
    bench.subscribe(early, &["market:tick"]);
    bench.confirm("market:tick");
    bench.publish("market:tick", &[], "2");
    bench.subscribe(late, &["market:tick"]);
    bench.numbered_value("market:tick", None, "1", 1);
    assert_eq!(bench.kinds(early), kinds(&[("subscribed", 2), ("data", 3)]));
    bench.last_value("market:tick", Some("2"));
    let values = |got: Vec<Value>| {
        got[1..]
            .iter()
            .map(|m| m["data"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(bench.got(late)), [json!(2)]);
    // Before the answer, too.
    let third = bench.client();
    bench.subscribe(third, &["market:tick", "market:tick:B"]);
    bench.publish("market:tick", &[], "3");
    bench.confirm("market:tick:B");
    bench.last_value("market:tick", Some("2"));
    bench.last_value("market:tick:B", Some("9"));
    let got = bench.got(third);
    let got: Vec<_> = got.iter().map(|m| (&m["type"], &m["data"])).collect();
    let (data, subscribed) = (json!("data"), json!("subscribed"));
    assert_eq!(
        got,
        [
            (&data, &json!(3)),
            (&subscribed, &Value::Null),
            (&data, &json!(9))
        ]
    );
}

#[test]
fn a_pattern_has_a_value_for_each_subject_that_did_not_come_live() {
    let mut bench = Bench::retaining();
    let [early, late] = [(); 2].map(|()| bench.client());
    let pattern = "indicators:*";
    bench.subscribe(early, &[pattern]);
    bench.confirm(pattern);
    bench.publish("indicators:a", &[pattern], "5");
    bench.subscribe(late, &[pattern]);
    for (subject, value) in [("indicators:a", "4"), ("indicators:b", "1")] {
        bench.value(subject, Some(pattern), value);
    }
    bench.end(pattern);
    bench.value("indicators:a", Some(pattern), "5");
    bench.end(pattern);
    let values = |got: Vec<Value>| {
        let data = got.into_iter().filter(|m| m["type"] == "data");
        data.map(|m| (m["channel"].clone(), m["data"].clone()))
            .collect::<Vec<_>>()
    };
    let pair = |channel: &str, value: u32| (json!(channel), json!(value));
    let want = [pair("indicators:a", 5), pair("indicators:b", 1)];
    assert_eq!(values(bench.got(early)), want);
    assert_eq!(values(bench.got(late)), [pair("indicators:a", 5)]);
}

#[test]
fn who_has_left_gets_no_value_and_nothing_is_kept() {
    let mut bench = Bench::retaining();
    let [first, second, third] = [(); 3].map(|()| bench.client());
    for key in [first, second] {
        bench.subscribe(key, &["market:tick"]);
    }
    bench.confirm("market:tick");
    bench.unsubscribe(first, &["market:tick"]);
    bench.world.end(second, true);
    bench.last_value("market:tick", Some("1"));
    assert_eq!(
        bench.kinds(first),
        kinds(&[("subscribed", 2), ("unsubscribed", 3)])
    );
    // One that ends while its answer waits.
    bench.subscribe(third, &["market:tick:C"]);
    bench.world.end(third, true);
    assert_eq!(bench.questions(), 2, "of the first name");
    assert_eq!(bench.world.outputs.forgotten.len(), 2, "nobody waited");
    assert_eq!(bench.stats.retained_waiting.get(), 0);
}

#[test]
fn a_refused_name_has_no_value_until_the_bus_accepts_it() {
    let mut bench = Bench::retaining();
    let [early, late] = [(); 2].map(|()| bench.client());
    bench.subscribe(early, &["market:tick:A", "market:tick:B"]);
    bench.refuse("market:tick:A");
    bench.confirm("market:tick:B");
    assert_eq!(bench.questions_from(0), ["market:tick:B"]);
    bench.last_value("market:tick:B", Some("1"));
    let told = kinds(&[("subscribed", 2), ("error", 3), ("data", 4)]);
    assert_eq!(bench.kinds(early), told);
    bench.subscribe(late, &["market:tick:A"]);
    assert_eq!(bench.kinds(late), kinds(&[("subscribed", 2), ("error", 3)]));
    bench.bus(BusEvent::Gap { lost: None });
    bench.down();
    bench.bus(BusEvent::Up);
    bench.world.advance(2 * SECOND);
    assert_eq!(bench.questions(), 1, "nor on the next connection");
    bench.confirm("market:tick:A");
    bench.world.advance(1);
    assert_eq!(bench.questions_from(1), ["market:tick:A"]);
    for _ in [early, late] {
        bench.last_value("market:tick:A", Some("2"));
    }
    for key in [early, late] {
        assert_eq!(bench.values(key), [(json!(2), true)]);
    }
}

#[test]
fn a_refusal_ends_the_question() {
    let mut bench = Bench::retaining();
    let key = bench.client();
    bench.subscribe(key, &["market:tick:A"]);
    // The answer waits no longer, so the question comes before the bus has confirmed.
    bench.world.advance(2 * SECOND);
    assert_eq!(bench.questions_from(0), ["market:tick:A"]);
    bench.refuse("market:tick:A");
    assert_eq!(bench.world.outputs.forgotten, [("market:tick:A".into(), 1)]);
    bench.last_value("market:tick:A", Some("1"));
    assert!(bench.values(key).is_empty());
    bench.confirm("market:tick:A");
    bench.world.advance(1);
    bench.last_value("market:tick:A", Some("1"));
    assert_eq!(bench.values(key), [(json!(1), true)]);
    assert_eq!(bench.stats.retained_waiting.get(), 0);
}

#[test]
fn without_the_setting_nothing_is_asked() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    bench.confirm("market:tick");
    assert_eq!(bench.questions(), 0);
}

#[test]
fn a_client_gets_all_values_however_slowly_it_takes_them() {
    let mut bench = Bench::retaining();
    let names: Vec<String> = (0..40).map(|n| format!("market:tick:{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let key = bench.stopped_client(HERE, &names);
    let (mut answered, mut came, value) = (0, 0, large(40_000));
    while came < names.len() {
        while let Some(name) = bench.questions_from(answered).first() {
            let name = (*name).to_owned();
            answered += 1;
            bench.last_value(&name, Some(&value));
            assert!(bench.unsent(key) <= SHARE, "{}", bench.unsent(key));
        }
        assert!(bench.stats.retained_bytes.get() as usize >= bench.unsent(key));
        // 8 KB a second, and far more than the soft limit's time.
        bench.world.advance(5 * SECOND);
        bench.world.open_window(key, 40_000);
        came += bench.values(key).len();
        bench.stop(key);
    }
    assert!(bench.world.hub.core().is_open(key));
    assert!(answered < 60, "{answered} questions for 40 names");
    bench.world.open_window(key, 1_000);
    let waiting = (
        bench.stats.retained_waiting.get(),
        bench.stats.retained_bytes.get(),
    );
    assert_eq!((waiting, bench.unsent(key)), ((0, 0), 0));
}

#[test]
fn a_value_of_any_size_is_sent_alone() {
    let mut bench = Bench::retaining();
    let key = bench.stopped_client(HERE, &["market:tick:A", "market:tick:B"]);
    let value = large(1_000_000);
    for name in ["market:tick:A", "market:tick:B"] {
        bench.last_value(name, Some(&value));
    }
    assert!(
        bench.unsent(key) < 1_001_000,
        "the second is asked for again"
    );
    assert_eq!(bench.questions(), 2);
    bench.world.open_window(key, usize::MAX);
    assert_eq!(bench.questions_from(2), ["market:tick:B"]);
    bench.last_value("market:tick:B", Some(&value));
    assert_eq!(bench.values(key).len(), 2);
}

#[test]
fn newer_messages_stand_behind_a_value_that_waits() {
    let mut bench = Bench::retaining();
    let key = bench.stopped_client(HERE, &["market:tick:A", "market:tick:B"]);
    bench.last_value("market:tick:A", Some("1"));
    bench.publish("market:tick:A", &[], "2");
    bench.publish("market:tick:B", &[], "4");
    assert_eq!(
        bench.world.outputs.forgotten.len(),
        1,
        "nobody waits for B, which came live"
    );
    bench.last_value("market:tick:B", Some("3"));
    bench.world.open_window(key, usize::MAX);
    let want = [(json!(1), true), (json!(2), false), (json!(4), false)];
    assert_eq!(bench.values(key), want);
}

#[test]
fn messages_behind_values_have_the_limits_of_the_queue_and_a_stalled_client_its_own() {
    let stopped = || {
        let mut bench = Bench::retaining();
        let key = bench.stopped_client(HERE, &["market:tick:A", "market:tick:*"]);
        bench.value("market:tick:B", Some("market:tick:*"), &large(500_000));
        (bench, key)
    };
    let (mut bench, key) = stopped();
    bench.world.advance(29 * SECOND);
    assert!(bench.world.hub.core().is_open(key), "no soft limit");
    bench.world.advance(2 * SECOND);
    let ended = |bench: &Bench, reason| bench.world.hub.stats().closes_for(reason);
    assert_eq!(ended(&bench, CloseReason::SendStalled), 1);
    assert_eq!(bench.stats.retained_bytes.get(), 0);

    let (mut bench, key) = stopped();
    for _ in 0..11 {
        bench.publish("market:tick:A", &[], large(100_000));
    }
    assert!(bench.world.hub.core().is_open(key), "1 MiB of them");
    for _ in 0..2 {
        bench.publish("market:tick:A", &[], large(100_000));
    }
    assert_eq!(ended(&bench, CloseReason::SendQueueHard), 1);

    let (mut bench, _) = stopped();
    for _ in 0..5 {
        bench.publish("market:tick:A", &[], large(100_000));
    }
    bench.world.advance(11 * SECOND);
    assert_eq!(ended(&bench, CloseReason::SendQueueSoft), 1);
}

#[test]
fn values_take_no_token_of_the_rate_and_stay_when_newer_messages_are_conflated() {
    let rate = ChannelsGatewaySettings {
        outbound_per_second: Some(1),
        ..settings()
    };
    let mut bench = Bench::retaining_with(rate, 1 << 26);
    let key = bench.client();
    let names = ["market:tick:A", "market:tick:B", "market:tick:C"];
    bench.subscribe(key, &names);
    names.iter().for_each(|name| bench.confirm(name));
    for name in names {
        bench.last_value(name, Some("1"));
    }
    assert_eq!(bench.values(key).len(), 3);

    let mut bench = Bench::retaining();
    let conflated = NamePatterns::new(NameSyntax::Redis, &["market:tick:*".to_owned()]);
    let conflated = conflated.expect("patterns");
    bench.feed = bench.feed.conflating(move |name| conflated.matches(name));
    let key = bench.stopped_client(HERE, &["market:tick:A"]);
    bench.last_value("market:tick:A", Some("0"));
    for n in 1..100 {
        bench.publish("market:tick:A", &[], format!("[{n},{}]", large(10_000)));
    }
    // Its queue never becomes empty: values of other names come all the same.
    bench.subscribe(key, &["market:tick:B"]);
    bench.confirm("market:tick:B");
    bench.world.open_window(key, 1_000);
    assert_eq!(bench.questions_from(1), ["market:tick:B"]);
    assert!(bench.unsent(key) > 0);
    bench.last_value("market:tick:B", Some("7"));
    bench.world.open_window(key, usize::MAX);
    let got = bench.values(key);
    let first = (json!(0), true);
    assert_eq!((&got[0], &got[2]), (&first, &(json!(7), true)));
    assert_eq!((got[1].0[0].clone(), got.len()), (json!(99), 3));
}

#[test]
fn while_the_bus_is_away_nothing_is_asked_and_then_for_those_who_still_wait() {
    let mut bench = Bench::retaining();
    let (stays, changes) = (bench.client(), bench.client());
    bench.subscribe(stays, &["market:tick:A"]);
    bench.confirm("market:tick:A");
    assert_eq!(bench.questions(), 1);
    bench.down();
    assert_eq!(bench.world.outputs.forgotten, [("market:tick:A".into(), 1)]);
    for n in 0..1_000 {
        let name = format!("market:tick:{n}");
        bench.subscribe(changes, &[&name, "market:tick:*"]);
        bench.unsubscribe(changes, &[&name]);
    }
    bench.kinds(changes);
    assert_eq!(bench.stats.retained_waiting.get(), 2);
    assert_eq!(bench.questions(), 1);
    bench.bus(BusEvent::Up);
    let mut asked = bench.questions_from(1);
    asked.sort_unstable();
    assert_eq!(asked, ["market:tick:*", "market:tick:A"]);
    bench.kinds(stays);
    bench.numbered_value("market:tick:A", None, "1", 1);
    assert_eq!(bench.values(stays), [], "the answer to the old question");
    bench.last_value("market:tick:A", Some("2"));
    assert_eq!(bench.values(stays), [(json!(2), true)]);
}

/// The name is held by another client, so `subscribed` comes at once.
#[test]
fn who_comes_back_to_a_name_gets_the_answer_to_the_new_question() {
    let mut bench = Bench::retaining();
    let (other, key) = (bench.client(), bench.client());
    bench.subscribe(other, &["market:tick:A"]);
    bench.confirm("market:tick:A");
    bench.last_value("market:tick:A", None);
    bench.subscribe(key, &["market:tick:A"]);
    bench.unsubscribe(key, &["market:tick:A"]);
    bench.publish("market:tick:A", &[], "2");
    bench.subscribe(key, &["market:tick:A"]);
    assert_eq!(bench.questions(), 3);
    bench.numbered_value("market:tick:A", None, "1", 2);
    bench.last_value("market:tick:A", Some("2"));
    assert_eq!(bench.values(key), [(json!(2), true)]);
}

/// However many clients of one address read nothing, others get their values.
#[test]
fn values_of_all_clients_together_are_bounded_and_an_address_leaves_room_for_others() {
    let patterns: Vec<String> = (0..8).map(|n| format!("indicators:{n}*")).collect();
    let table = json!({ "user": patterns }).to_string();
    let acl = Acl::from_json(NameSyntax::Redis, table.as_bytes()).expect("a table");
    let settings = ChannelsGatewaySettings { acl, ..settings() };
    let mut bench = Bench::retaining_with(settings, 4 * SHARE);
    let one: Vec<SessionKey> = (0..5)
        .map(|n| bench.stopped_client([10, 0, 0, 1], &[&patterns[n]]))
        .collect();
    bench.stopped_client([10, 0, 0, 2], &[&patterns[5]]);
    let asked = [&patterns[0], &patterns[1], &patterns[5]];
    assert_eq!(bench.questions_from(0), asked, "half, and a quarter");
    assert_eq!(bench.stats.retained_bytes.get() as usize, 3 * SHARE);
    bench.stopped_client([10, 0, 0, 2], &[&patterns[6]]);
    assert_eq!(bench.questions(), 3, "as much as is left free");
    let third = bench.stopped_client([10, 0, 0, 3], &[&patterns[7]]);
    assert_eq!(bench.questions_from(3), [&patterns[7]]);
    bench.value("indicators:7", Some(&patterns[7]), "1");
    bench.end(&patterns[7]);
    bench.world.open_window(third, usize::MAX);
    // Values count once they have come, and no longer when they are taken or the client ends.
    bench.value("indicators:0", Some(&patterns[0]), &large(400_000));
    bench.end(&patterns[0]);
    assert_eq!(bench.questions_from(4), [&patterns[6]], "more is free");
    bench.world.open_window(one[0], usize::MAX);
    assert_eq!(bench.questions(), 5, "each has as much as is left free");
    bench.world.end(one[1], true);
    assert_eq!(bench.questions_from(5), [&patterns[2]]);
    // One that ends while it waits leaves nothing.
    bench.world.end(one[3], true);
    bench.world.end(one[2], true);
    assert_eq!(bench.questions_from(6), [&patterns[4]]);
}

/// A client that takes a byte now and then keeps others waiting for a time.
#[test]
fn a_client_that_takes_next_to_nothing_counts_for_two_seconds() {
    let mut bench = Bench::retaining_with(settings(), SHARE);
    let key = bench.stopped_client([10, 0, 0, 1], &["indicators:1*"]);
    bench.value("indicators:1", Some("indicators:1*"), &large(400_000));
    let last = bench.stopped_client([10, 0, 0, 3], &["indicators:2*"]);
    for _ in 0..4 {
        assert_eq!(bench.questions(), 1);
        bench.world.open_window(key, 1);
        bench.world.advance(SECOND / 2);
    }
    assert_eq!(bench.questions_from(1), ["indicators:2*"]);
    for key in [key, last] {
        bench.world.end(key, true);
    }
    assert_eq!(bench.stats.retained_waiting.get(), 0);
    assert_eq!(bench.stats.retained_bytes.get(), 0);
}
