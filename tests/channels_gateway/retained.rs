//! Last values: behind `subscribed`, and never behind a newer message.

use super::*;

impl Bench {
    /// A bus with last values, which is there.
    fn retaining() -> Self {
        let mut bench = Self::made(settings(), ChannelsGateway::with_retained);
        bench.feed = bench.feed.with_retained();
        bench.bus(BusEvent::Up);
        bench
    }

    /// A value that a stream holds, for the newest question about this name or pattern.
    fn value(&mut self, subject: &str, pattern: Option<&str>, value: &str) {
        self.bus(BusEvent::Message(BusMessage {
            subject: subject.into(),
            pattern: pattern.map(Into::into),
            payload: value.as_bytes().to_vec(),
            position: None,
            received: self.world.now,
            quiet: true,
        }));
    }

    /// The end of the answer to the newest question about this name or pattern.
    pub(super) fn end(&mut self, name: &str) {
        let asked = self.world.outputs.retained.iter().rev();
        let number = asked
            .filter(|(asked, _)| asked == name)
            .map(|(_, number)| *number)
            .next();
        let subscription = match name.contains('*') {
            true => Subscription::pattern(name),
            false => Subscription::channel(name),
        };
        self.bus(BusEvent::RetainedEnd {
            subscription,
            number: number.expect("a question"),
        });
    }

    /// The whole answer to the newest question about an exact name.
    fn last_value(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.value(name, None, value);
        }
        self.end(name);
    }

    pub(super) fn questions(&self) -> usize {
        self.world.outputs.retained.len()
    }
}

#[test]
fn the_last_value_comes_behind_subscribed_to_who_waits_for_it() {
    let mut bench = Bench::retaining();
    let [first, second, third] = [(); 3].map(|()| bench.client());
    bench.subscribe(first, &["market:tick", "market:tick:*"]);
    bench.confirm("market:tick");
    assert_eq!(bench.questions(), 0, "nothing is asked before the answer");
    bench.confirm("market:tick:*");
    assert_eq!(bench.questions(), 2, "one for each name");
    bench.subscribe(second, &["market:tick"]);
    assert_eq!(bench.questions(), 2, "one at a time");
    bench.last_value("market:tick", Some("7"));
    assert_eq!(bench.questions(), 3);
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
    bench.last_value("market:tick", Some("1"));
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
    assert_eq!(bench.questions(), 2, "both questions for the first name");
}

#[test]
fn without_the_setting_nothing_is_asked() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    bench.confirm("market:tick");
    assert_eq!(bench.questions(), 0);
}
