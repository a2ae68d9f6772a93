//! The newest messages are bad: the last good one comes before them, as far back as it may be.

use weirgate_test_support::LinkProxy;

use super::*;

fn publish_bad(js: &JetStream, n: usize) {
    for n in 0..n {
        js.publish(LEVELS, format!("bad {n}")).expect("published");
    }
}

fn others(js: &JetStream, n: usize) {
    for _ in 0..n {
        js.publish("levels.other", "x").expect("published");
    }
}

#[test]
fn a_start_brings_the_last_good_message_and_then_the_newest() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    publish(&js, LEVELS, 6..8);
    others(&js, 300);
    publish_bad(&js, 1);
    others(&js, 5);
    publish_bad(&js, 2);
    let source = run(settings(&server.url()));
    assert_eq!(
        source.until("CaughtUp"),
        [
            "levels 7 quiet",
            "levels bad 1 quiet",
            "WarmedUp",
            "Up",
            "CaughtUp"
        ]
    );
    assert_eq!(source.status.look_backs_limited(), 0);
}

#[test]
fn a_limit_of_fetched_messages_ends_the_search() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    publish(&js, LEVELS, 0..1);
    publish_bad(&js, 25);
    let source = run(settings(&server.url()));
    assert_eq!(
        source.until("CaughtUp"),
        ["levels bad 24 quiet", "WarmedUp", "Up", "CaughtUp"]
    );
    assert_eq!(source.status.look_backs_limited(), 1);
}

#[test]
fn a_backlog_is_looked_through_and_what_came_before_it_is_not() {
    let server = NatsServer::start();
    let link = LinkProxy::to(server.address());
    let source = run(settings(&link.url()));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    let outage = |good: std::ops::Range<usize>, bad| {
        link.black_hole();
        publish(&js, LEVELS, good);
        publish_bad(&js, bad);
        source.until("Down");
        link.let_new_ones_through();
        let mut seen = source.until("CaughtUp");
        seen.truncate(2);
        seen
    };
    publish(&js, LEVELS, 0..1);
    source.until("levels 0");
    let seen = outage(1..9, 2);
    assert_eq!(seen, ["levels 8 quiet", "levels bad 1 quiet"]);
    // Nothing good came: what clients have is the last good state.
    let seen = outage(0..0, 7);
    assert_eq!(seen[0], "levels bad 6 quiet");
    assert_eq!(seen[1], "WarmedUp");
}
