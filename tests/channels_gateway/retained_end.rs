//! The end of last values, for clients that ask for the status: how many came, and why not all.

use weirgate_core::RetainedCut;

use super::*;

const PATTERN: &str = "indicators:*";

impl Bench {
    /// Subscribes to names whose ends the client is told.
    fn subscribe_to_ends(&mut self, key: SessionKey, names: &[&str]) {
        let request = json!({"action": "subscribe", "channels": names, "status": true});
        self.say(key, &request);
    }

    fn cut(&mut self, name: &str, cut: RetainedCut) {
        let subscription = match name.contains('*') {
            true => Subscription::pattern(name),
            false => Subscription::channel(name),
        };
        self.bus(BusEvent::RetainedEnd {
            subscription,
            number: self.newest_question(name),
            cut: Some(cut),
        });
    }

    /// What came since the last call, in short: the type, or the name, count and cut of an end.
    fn in_short(&mut self, key: SessionKey) -> Vec<String> {
        let short = |message: &Value| match message["type"].as_str().expect("a type") {
            "retained" => {
                assert!(message["timestamp"].is_string());
                let cut = message
                    .get("cut")
                    .map_or(String::new(), |cut| format!(" {cut}"));
                let (channel, count) = (&message["channel"], &message["count"]);
                format!("end of {channel}: {count}{cut}").replace('"', "")
            }
            kind => kind.to_owned(),
        };
        self.got(key).iter().map(short).collect()
    }
}

#[test]
fn the_end_comes_behind_the_last_value_to_who_asked_for_the_status() {
    let mut bench = Bench::retaining();
    let [plain, asks] = [(); 2].map(|()| bench.client());
    bench.subscribe(plain, &[PATTERN]);
    bench.subscribe_to_ends(asks, &[PATTERN, "market:tick", "market:tick:none"]);
    for name in [PATTERN, "market:tick", "market:tick:none"] {
        bench.confirm(name);
    }
    assert_eq!(bench.in_short(asks), ["subscribed"]);
    for _ in 0..2 {
        for subject in ["indicators:a", "indicators:b"] {
            bench.value(subject, Some(PATTERN), "1");
        }
        bench.end(PATTERN);
    }
    bench.value("market:tick", None, "2");
    bench.end("market:tick:none");
    let want = [
        "data",
        "data",
        "end of indicators:*: 2",
        "data",
        "end of market:tick: 1",
        "end of market:tick:none: 0",
    ];
    assert_eq!(bench.in_short(asks), want);
    assert_eq!(bench.in_short(plain), ["subscribed", "data", "data"]);
    bench.subscribe_to_ends(asks, &["market:tick"]);
    bench.end("market:tick");
    let want = ["subscribed", "end of market:tick: 0"];
    assert_eq!(bench.in_short(asks), want, "who asks again is told again");
    bench.subscribe(asks, &["market:tick"]);
    bench.end("market:tick");
    assert_eq!(bench.in_short(asks), ["subscribed"], "by each request");
    assert_eq!(bench.stats.retained_waiting.get(), 0);
}

#[test]
fn an_end_comes_behind_its_answer_and_a_live_message_is_as_good_as_the_value() {
    let mut bench = Bench::retaining();
    let key = bench.client();
    bench.subscribe_to_ends(key, &["market:tick", "market:tick:slow", PATTERN]);
    bench.confirm("market:tick");
    bench.publish("market:tick", &[], "1");
    bench.publish("indicators:a", &[PATTERN], "1");
    assert_eq!(bench.in_short(key), ["data", "data"]);
    bench.confirm("market:tick:slow");
    bench.confirm(PATTERN);
    bench.publish("market:tick:slow", &[], "1");
    let want = [
        "subscribed",
        "end of market:tick: 0",
        "data",
        "end of market:tick:slow: 0",
    ];
    let mut got = bench.in_short(key);
    got[2..].sort_unstable();
    assert_eq!(got, want);
    for subject in ["indicators:a", "indicators:b"] {
        bench.value(subject, Some(PATTERN), "0");
    }
    bench.end(PATTERN);
    assert_eq!(bench.in_short(key), ["data", "end of indicators:*: 1"]);
}

#[test]
fn an_end_says_why_values_are_missing() {
    let mut bench = Bench::retaining();
    let key = bench.client();
    for (cut, word) in [
        (RetainedCut::Limit, "limit"),
        (RetainedCut::Unnamed, "unnamed"),
        (RetainedCut::Unreadable, "unreadable"),
        (RetainedCut::Refused, "refused"),
    ] {
        bench.subscribe_to_ends(key, &[PATTERN]);
        bench.confirm(PATTERN);
        bench.value("indicators:a", Some(PATTERN), "1");
        bench.cut(PATTERN, cut);
        let end = format!("end of indicators:*: 1 {word}");
        assert_eq!(bench.in_short(key)[..3], ["subscribed", "data", &end]);
    }
    let mut bench = Bench::retaining_with(settings(), 1 << 16);
    let key = bench.client();
    bench.subscribe_to_ends(key, &[PATTERN]);
    bench.confirm(PATTERN);
    for n in 0..1_000 {
        bench.publish(&format!("indicators:{n}"), &[PATTERN], "1");
    }
    let got = bench.in_short(key);
    let ends: Vec<_> = got.iter().filter(|text| text.contains("end")).collect();
    assert_eq!(ends, ["end of indicators:*: 0 live"]);
}

#[test]
fn no_end_without_the_name_and_one_over_an_outage() {
    let mut bench = Bench::retaining();
    let key = bench.client();
    bench.subscribe_to_ends(key, &["market:tick:a", "market:tick:b"]);
    bench.confirm("market:tick:a");
    bench.publish("market:tick:a", &[], "1");
    bench.unsubscribe(key, &["market:tick:a"]);
    bench.confirm("market:tick:b");
    let want = ["data", "subscribed", "unsubscribed"];
    assert_eq!(bench.in_short(key), want);
    bench.down();
    bench.bus(BusEvent::Up);
    bench.confirm("market:tick:b");
    bench.end("market:tick:b");
    let got = bench.in_short(key);
    let ends: Vec<_> = got.iter().filter(|text| text.contains("end")).collect();
    assert_eq!(ends, ["end of market:tick:b: 0"]);
    // One that leaves while an end waits for its answer.
    let key = bench.client();
    bench.subscribe_to_ends(key, &["market:tick:c", "market:tick:d"]);
    bench.confirm("market:tick:c");
    bench.publish("market:tick:c", &[], "1");
    bench.world.end(key, true);
    assert_eq!(bench.stats.retained_waiting.get(), 0);
}

/// They know what is missing, and get it once the bus gives it: what they have does not come again.
#[test]
fn values_that_the_bus_does_not_give_in_time_come_later() {
    let mut bench = Bench::retaining();
    let [key, plain, late] = [(); 3].map(|()| bench.client());
    bench.subscribe_to_ends(key, &[PATTERN]);
    bench.subscribe(plain, &[PATTERN]);
    bench.confirm(PATTERN);
    for first in [0, 1] {
        bench.value("indicators:a", Some(PATTERN), "1");
        assert_eq!(bench.no_answers(first, 7), 1);
    }
    let error = "No last values from the bus: indicators:*";
    let got = bench.got(plain);
    assert_eq!(got[2]["error"], error);
    assert_eq!(got.len(), 3, "subscribed, a value, the error");
    let mut got = bench.in_short(key);
    got[2..].sort_unstable();
    let end = "end of indicators:*: 1 refused";
    assert_eq!(got, ["subscribed", "data", end, "error"]);
    // Asked again from there, after pauses that grow. Nobody is told twice.
    let mut asked = bench.questions();
    for pause in [5, 10, 20, 40, 60, 60] {
        bench.world.advance(pause * SECOND - 1);
        assert_eq!(bench.questions(), asked, "{pause}");
        bench.world.advance(1);
        assert_eq!(bench.read_before(bench.newest_question(PATTERN)), 7);
        assert_eq!(bench.no_answers(asked, 7), 2, "two readings");
        asked += 2;
        assert_eq!(bench.in_short(key), [] as [&str; 0]);
    }
    // A client that does not know asks at once. With an answer, the others go on at once too.
    bench.subscribe_to_ends(late, &[PATTERN]);
    assert_eq!(bench.questions(), asked + 1);
    bench.value("indicators:a", Some(PATTERN), "1");
    bench.value("indicators:b", Some(PATTERN), "2");
    bench.end(PATTERN);
    assert_eq!(bench.in_short(late)[3..], ["end of indicators:*: 2"]);
    let others = bench.world.outputs.retained.clone().split_off(asked + 1);
    for (_, number) in others {
        bench.numbered_value("indicators:b", Some(PATTERN), "2", number);
        bench.end_of(PATTERN, number);
    }
    assert_eq!(bench.in_short(key), ["data", "end of indicators:*: 2"]);
    assert_eq!(bench.values(plain), [(json!(2), true)]);
}

/// So a stream that is away for long does not take the questions of others. Clients of which none has got a value share a
/// question.
#[test]
fn few_names_without_an_answer_are_asked_for_again_at_a_time() {
    let mut bench = Bench::retaining();
    let keys = [(); 3].map(|()| bench.client());
    let names: Vec<String> = (0..40).map(|n| format!("market:tick:{n}")).collect();
    for name in &names {
        keys.iter().for_each(|key| bench.subscribe(*key, &[name]));
        bench.confirm(name);
    }
    let mut asked = 0;
    loop {
        match bench.no_answers(asked, 0) {
            0 => break,
            more => asked += more,
        }
    }
    let first = asked;
    for _ in 0..30 {
        bench.world.advance(5 * SECOND);
        let more = bench.no_answers(asked, 0);
        // The clients that come up after the first one of a name share the next question.
        assert!(more <= 2 * 16, "{more}");
        asked += more;
    }
    assert!(
        (160..480).contains(&(asked - first)),
        "{asked} after {first}"
    );
    keys.iter().for_each(|key| bench.world.end(*key, true));
    bench.world.advance(60 * SECOND);
    assert_eq!(bench.questions(), asked, "nobody waits");
}
