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

    /// The bus answers the newest question, which is for this name.
    fn last_value(&mut self, name: &str, value: Option<&str>) {
        let (asked, number) = self
            .world
            .outputs
            .retained
            .last()
            .expect("a question")
            .clone();
        assert_eq!(asked, name);
        if let Some(value) = value {
            self.bus(BusEvent::Message(BusMessage {
                subject: name.into(),
                pattern: None,
                payload: value.as_bytes().to_vec(),
                position: None,
                received: self.world.now,
                quiet: true,
            }));
        }
        self.bus(BusEvent::RetainedEnd {
            subscription: Subscription::channel(name),
            number,
        });
    }

    fn questions(&self) -> usize {
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
    assert_eq!(bench.questions(), 1, "patterns have none");
    bench.subscribe(second, &["market:tick"]);
    assert_eq!(bench.questions(), 1, "one question at a time");
    bench.last_value("market:tick", Some("7"));
    assert_eq!(bench.questions(), 2);
    bench.last_value("market:tick", Some("8"));
    assert_eq!(bench.questions(), 2);
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
    let asked: Vec<_> = bench.world.outputs.retained[2..]
        .iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(asked, ["market:tick:B"]);
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
