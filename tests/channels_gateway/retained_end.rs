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
