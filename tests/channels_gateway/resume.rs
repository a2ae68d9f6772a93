//! A client that comes back gets what it missed, or is told that it does not.

use super::*;

const TICK: &str = "market:tick";

pub(super) fn limits() -> HistoryLimits {
    HistoryLimits {
        messages: 100,
        bytes_max: 1 << 20,
        names_max: 10,
        keep_us: 60 * SECOND,
    }
}

impl Bench {
    /// A gateway with history, and Redis there.
    pub(super) fn remembering(settings: ChannelsGatewaySettings, limits: HistoryLimits) -> Self {
        let mut bench = Self::made(settings, |gateway| gateway.with_history(limits));
        bench.bus(BusEvent::Up);
        bench
    }

    /// A client that holds a name which stands, and where the name was then.
    pub(super) fn member(&mut self, name: &str) -> (SessionKey, Value) {
        let key = self.client();
        self.subscribe(key, &[name]);
        if self.got_nothing(key) {
            self.confirm(name);
        }
        let [answer] = &self.got(key)[..] else {
            panic!("one answer");
        };
        (key, answer["positions"][name].clone())
    }

    pub(super) fn got_nothing(&self, key: SessionKey) -> bool {
        self.world.net.sockets[&key].client.texts.is_empty()
    }

    pub(super) fn resume(&mut self, key: SessionKey, names: &[&str], since: &Value) {
        let request = json!({"action": "subscribe", "channels": names, "since": since});
        self.say(key, &request);
    }

    /// What a client gets that comes back for one name.
    pub(super) fn comes_back(&mut self, name: &str, position: &Value) -> (Value, Vec<Value>) {
        let key = self.client();
        self.resume(key, &[name], &json!({ name: position }));
        let mut got = self.got(key);
        assert!(!got.is_empty(), "no answer");
        let answer = got.remove(0);
        assert_eq!(answer["type"], "subscribed");
        (answer["recovered"][name].clone(), got)
    }

    pub(super) fn numbers(&self) -> Vec<(&'static str, u64)> {
        self.stats.resumes().filter(|(_, n)| *n > 0).collect()
    }
}

pub(super) fn at(position: &Value, offset: u64) -> Value {
    json!({"epoch": position["epoch"], "offset": offset})
}

pub(super) fn offsets(messages: &[Value]) -> Vec<u64> {
    let of = |message: &Value| message["offset"].as_u64().expect("an offset");
    messages.iter().map(of).collect()
}

pub(super) fn data(messages: &[Value]) -> Vec<Value> {
    messages.iter().map(|m| m["data"].clone()).collect()
}

#[test]
fn who_comes_back_gets_what_was_missed_behind_the_answer_and_in_order() {
    let mut bench = Bench::remembering(settings(), limits());
    let (key, position) = bench.member(TICK);
    assert_eq!(position["offset"], 0);
    bench.publish(TICK, &[], "1");
    bench.publish(TICK, &[], "2");
    let got = bench.got(key);
    assert_eq!(offsets(&got), [1, 2]);
    assert_eq!(
        got[0]["epoch"], position["epoch"],
        "the first has the epoch"
    );
    assert_eq!(got[1].get("epoch"), None);
    bench.world.end(key, true);
    for n in 3..=7 {
        bench.publish(TICK, &[], &n.to_string());
    }
    assert!(bench.world.outputs.wanted[TICK], "it stays subscribed");
    let back = bench.client();
    bench.resume(back, &[TICK], &json!({ TICK: at(&position, 2) }));
    bench.publish(TICK, &[], "8");
    let got = bench.got(back);
    assert_eq!(got[0]["recovered"], json!({ TICK: true }));
    assert_eq!(got[0]["positions"], json!({ TICK: at(&position, 7) }));
    assert_eq!(offsets(&got[1..]), [3, 4, 5, 6, 7, 8]);
    assert_eq!(data(&got[1..]), [3, 4, 5, 6, 7, 8].map(|n| json!(n)));
    let seqs: Vec<_> = got.iter().map(|m| m["seq"].clone()).collect();
    assert_eq!(seqs, [2, 3, 4, 5, 6, 7, 8].map(|n| json!(n)), "no gap");
    assert_eq!(bench.numbers(), [("recovered", 1)]);
    // One that missed nothing.
    assert_eq!(
        bench.comes_back(TICK, &at(&position, 8)),
        (json!(true), vec![])
    );
}

#[test]
fn a_window_that_does_not_reach_back_gives_nothing() {
    let small = HistoryLimits {
        messages: 3,
        ..limits()
    };
    let mut bench = Bench::remembering(settings(), small);
    let (_, position) = bench.member(TICK);
    for n in 1..=5 {
        bench.publish(TICK, &[], &n.to_string());
    }
    assert_eq!(
        bench.comes_back(TICK, &at(&position, 1)),
        (json!(false), vec![])
    );
    let (recovered, missed) = bench.comes_back(TICK, &at(&position, 2));
    assert_eq!((recovered, offsets(&missed)), (json!(true), vec![3, 4, 5]));
    for foreign in [
        at(&position, 6),
        json!({"epoch": "0", "offset": 4}),
        json!({"epoch": "0123456789abcdef", "offset": 4}),
    ] {
        assert_eq!(bench.comes_back(TICK, &foreign), (json!(false), vec![]));
    }
    let counts = [("recovered", 1), ("epoch", 3), ("window", 1)];
    assert_eq!(bench.numbers(), counts);
}

#[test]
fn a_name_without_members_stays_for_its_time_and_so_do_messages() {
    let mut bench = Bench::remembering(settings(), limits());
    let (key, position) = bench.member(TICK);
    bench.publish(TICK, &[], "1");
    bench.world.end(key, true);
    bench.world.advance(60 * SECOND - 1);
    assert!(bench.world.outputs.wanted[TICK]);
    assert_eq!(bench.comes_back(TICK, &position).0, json!(true));
    bench.world.advance(SECOND);
    assert!(bench.world.outputs.wanted[TICK], "somebody came");
    assert_eq!(bench.stats.history_messages(), 0, "they are too old");
    assert_eq!(bench.comes_back(TICK, &position).0, json!(false));
    for key in bench.open() {
        bench.unsubscribe(key, &[TICK]);
    }
    bench.world.advance(60 * SECOND);
    assert!(!bench.world.outputs.wanted[TICK]);
    assert_eq!(bench.counts(), (0, 0, 0));
    assert_eq!(bench.stats.history_names(), 0);
    // Subscribed anew, it is another time.
    let back = bench.client();
    bench.resume(back, &[TICK], &json!({ TICK: at(&position, 1) }));
    assert!(bench.got_nothing(back), "the bus has not confirmed");
    bench.confirm(TICK);
    let got = bench.got(back);
    assert_eq!(got[0]["recovered"], json!({ TICK: false }));
    assert_ne!(got[0]["positions"][TICK]["epoch"], position["epoch"]);
}

impl Bench {
    pub(super) fn open(&self) -> Vec<SessionKey> {
        let sockets = self.world.net.sockets.iter();
        let open = sockets.filter(|(_, socket)| socket.released.is_none());
        open.map(|(key, _)| *key).collect()
    }
}

/// Whatever makes a hole possible begins another epoch, and those who stay learn it.
#[test]
fn after_a_loss_nothing_is_recovered_and_members_learn_the_new_epoch() {
    let mut bench = Bench::remembering(settings(), limits());
    let (key, position) = bench.member(TICK);
    let (gone, _) = bench.member("market:tick:B");
    bench.world.end(gone, true);
    bench.publish(TICK, &[], "1");
    bench.bus(BusEvent::Gap { lost: None });
    bench.down();
    assert!(
        !bench.world.outputs.wanted["market:tick:B"],
        "nobody can resume it"
    );
    let early = bench.comes_back(TICK, &at(&position, 1));
    assert_eq!(early, (json!(false), vec![]));
    bench.confirm(TICK);
    bench.bus(BusEvent::Up);
    bench.publish(TICK, &[], "2");
    bench.publish(TICK, &[], "3");
    let got = bench.got(key);
    assert_eq!(offsets(&got), [1, 1, 2]);
    let (before, after) = (&got[0]["epoch"], &got[1]["epoch"]);
    assert_eq!(before, &position["epoch"]);
    assert!(after.is_string() && before != after);
    assert_eq!(bench.comes_back(TICK, &at(&position, 1)).0, json!(false));
    let learnt = json!({"epoch": after, "offset": 1});
    let (recovered, missed) = bench.comes_back(TICK, &learnt);
    assert_eq!((recovered, data(&missed)), (json!(true), vec![json!(3)]));
    // A message that is skipped is a hole too.
    bench.bus(BusEvent::Skipped(Subscription::channel(TICK)));
    assert_eq!(bench.comes_back(TICK, &learnt).0, json!(false));
}

#[test]
fn several_names_are_resumed_at_once_in_the_order_of_the_bus() {
    let mut bench = Bench::remembering(settings(), limits());
    let (gone, at_exact) = bench.member(TICK);
    bench.subscribe(gone, &["market:tick:*"]);
    bench.confirm("market:tick:*");
    let at_pattern = bench.got(gone)[0]["positions"]["market:tick:*"].clone();
    bench.world.end(gone, true);
    for n in 1..=3 {
        bench.publish(TICK, &[], &format!("{n}"));
        let copy = BusMessage {
            subject: "market:tick:x".into(),
            pattern: Some("market:tick:*".into()),
            payload: format!("{n}0").into_bytes(),
            position: None,
            received: bench.world.now,
            quiet: false,
        };
        bench.bus(BusEvent::Message(copy));
    }
    let key = bench.client();
    let since = json!({TICK: at_exact, "market:tick:*": at_pattern, "other": at_exact});
    let names = [TICK, "engine:signal", "market:tick:*", TICK];
    bench.resume(key, &names, &since);
    let got = bench.got(key);
    assert_eq!(
        got[0]["recovered"],
        json!({TICK: true, "market:tick:*": true})
    );
    assert_eq!(got[0]["channels"], json!([TICK, "market:tick:*", TICK]));
    assert_eq!(
        got[0]["errors"],
        json!(["Access denied to channel: engine:signal"])
    );
    assert_eq!(data(&got[1..]), [1, 10, 2, 20, 3, 30].map(|n| json!(n)));
    assert_eq!(bench.counts(), (2, 1, 1));
}

/// The answer waits for another name: what comes meanwhile is behind it, and comes once.
#[test]
fn nothing_newer_comes_before_an_answer_that_waits() {
    let mut bench = Bench::remembering(settings(), limits());
    let (_, position) = bench.member(TICK);
    bench.publish(TICK, &[], "1");
    let back = bench.client();
    bench.resume(back, &[TICK, "indicators:a"], &json!({ TICK: position }));
    bench.publish(TICK, &[], "2");
    bench.ping(back);
    // Asked again, and asked to resume again: it is on its way already.
    bench.subscribe(back, &[TICK]);
    bench.resume(back, &[TICK], &json!({ TICK: position }));
    assert!(bench.got_nothing(back));
    bench.confirm("indicators:a");
    bench.publish(TICK, &[], "3");
    let got = bench.got(back);
    let kinds: Vec<_> = got
        .iter()
        .map(|m| m["type"].as_str().expect("a type"))
        .collect();
    let want = [
        "subscribed",
        "data",
        "data",
        "pong",
        "subscribed",
        "subscribed",
        "data",
    ];
    assert_eq!(kinds, want);
    assert_eq!(got[0]["recovered"], json!({ TICK: true }));
    assert_eq!(
        got[5]["recovered"],
        json!({ TICK: false }),
        "not by this request"
    );
    assert_eq!(bench.counts().0, 3);
    // One that lets go, and one that ends, while they wait.
    for ends in [false, true] {
        let other = bench.client();
        let new = format!("indicators:{ends}");
        bench.resume(other, &[TICK, &new], &json!({ TICK: position }));
        match ends {
            true => bench.world.end(other, true),
            false => bench.unsubscribe(other, &[TICK]),
        }
        bench.publish(TICK, &[], "4");
        if !ends {
            bench.confirm(&new);
            assert_eq!(
                bench.kinds(other),
                kinds_of(&["subscribed", "unsubscribed"])
            );
        }
    }
}

fn kinds_of(names: &[&str]) -> Vec<(String, u64)> {
    let numbered = names.iter().zip(2..);
    numbered
        .map(|(name, seq)| ((*name).to_owned(), seq))
        .collect()
}

/// The bus goes and comes back while the answer waits.
#[test]
fn a_loss_while_the_answer_waits_is_told() {
    let mut bench = Bench::remembering(settings(), limits());
    let (_, position) = bench.member(TICK);
    bench.publish(TICK, &[], "1");
    let back = bench.client();
    bench.resume(back, &[TICK, "indicators:a"], &json!({ TICK: position }));
    bench.bus(BusEvent::Gap { lost: None });
    assert!(bench.got_nothing(back));
    bench.down();
    let got = bench.got(back);
    assert_eq!(
        (got.len(), &got[0]["recovered"]),
        (1, &json!({ TICK: false }))
    );
    bench.confirm(TICK);
    bench.publish(TICK, &[], "2");
    assert_eq!(data(&bench.got(back)), [json!(2)]);
}

#[test]
fn a_held_name_cannot_be_resumed_and_a_wrong_position_is_an_error() {
    let mut bench = Bench::remembering(settings(), limits());
    let (key, position) = bench.member(TICK);
    bench.publish(TICK, &[], "1");
    bench.got(key);
    bench.resume(key, &[TICK], &json!({ TICK: position }));
    let got = bench.got(key);
    assert_eq!(
        (got.len(), &got[0]["recovered"]),
        (1, &json!({ TICK: false }))
    );
    bench.resume(key, &[TICK], &json!({ TICK: 5 }));
    let error = &bench.got(key)[0];
    assert_eq!(
        error["error"],
        "since must be an object of {epoch, offset} by name"
    );
}

#[test]
fn a_role_that_has_lost_the_right_is_refused() {
    let mut bench = Bench::remembering(settings(), limits());
    let (key, position) = bench.member(TICK);
    bench.world.end(key, true);
    bench.publish(TICK, &[], "1");
    let none = Acl::from_json(br#"{"user": ["indicators:*"]}"#);
    let now = bench.world.now;
    bench.world.hub.handle_input(now, none.expect("a table"));
    let back = bench.client();
    bench.resume(back, &[TICK], &json!({ TICK: position }));
    let got = bench.got(back);
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(
        got[0]["errors"],
        json!(["Access denied to channel: market:tick"])
    );
    assert_eq!(got[0]["recovered"], json!({}));
}

#[test]
fn without_the_setting_the_position_is_an_unknown_member() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.resume(key, &[TICK], &json!(5));
    bench.confirm(TICK);
    bench.publish(TICK, &[], "1");
    let got = bench.got(key);
    assert_eq!(got[0].get("positions"), None);
    assert_eq!(got[0].get("recovered"), None);
    assert_eq!(got[1].get("offset"), None);
    bench.world.end(key, true);
    assert!(!bench.world.outputs.wanted[TICK]);
}

/// With last values too: what was missed is newer than any last value, and only who gets nothing of it
/// gets one.
#[test]
fn a_last_value_is_for_those_who_recover_nothing() {
    let mut bench = Bench::made(settings(), |gateway| {
        gateway.with_retained(1 << 26).with_history(limits())
    });
    bench.feed = bench.feed.with_retained();
    bench.bus(BusEvent::Up);
    let (gone, position) = bench.member(TICK);
    assert_eq!(bench.questions(), 1);
    bench.end(TICK);
    bench.world.end(gone, true);
    bench.publish(TICK, &[], "1");
    let (recovered, missed) = bench.comes_back(TICK, &position);
    assert_eq!((recovered, data(&missed)), (json!(true), vec![json!(1)]));
    assert_eq!(bench.questions(), 1, "nobody waits for a last value");
    assert_eq!(bench.comes_back(TICK, &at(&position, 9)).0, json!(false));
    assert_eq!(bench.questions(), 2);
    bench.end(TICK);
    // One whose name lost its history while the answer waited.
    let back = bench.client();
    bench.resume(back, &[TICK, "indicators:a"], &json!({ TICK: position }));
    bench.bus(BusEvent::Gap { lost: None });
    bench.down();
    assert_eq!(bench.got(back)[0]["recovered"], json!({ TICK: false }));
    assert_eq!(bench.questions(), 2);
    bench.bus(BusEvent::Up);
    assert_eq!(bench.questions(), 4, "for both names");
}
