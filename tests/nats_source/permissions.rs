//! What a user may not do, and what that stops.

use weirgate_runtime::Stall;

use super::*;

/// A server with a user `gw` of these permissions, and a user `feed` of all.
fn server(permissions: &str) -> NatsServer {
    NatsServer::start_with(&format!(
        "authorization {{ users: [
            {{ user: gw, password: p, permissions: {{ {permissions} }} }}
            {{ user: feed, password: f }}
        ] }}"
    ))
}

#[test]
fn a_user_without_inboxes_is_told_which_permission_is_missing() {
    let server = server("subscribe: { deny: \"_INBOX.>\" }");
    let source = run(settings(&server.url_as("gw:p")));
    let fault = match source.next() {
        BusEvent::Down(fault) => fault,
        other => panic!("{other:?}"),
    };
    assert!(fault.contains("subscribe to _INBOX.>"), "{fault}");
    eventually("it is counted", || source.status.refused() > 0);
    assert!(!source.status.subscribed());
    assert!(source.status.is_subscription_refused());
    source.nothing_comes_for(Duration::from_secs(1));
}

#[test]
fn a_durable_whose_deliver_subject_is_refused_is_left_for_another_consumer() {
    let server = server("subscribe: { deny: \"chosen.>\" }");
    let js = jetstream(&server.url_as("feed:f"));
    make_streams(&js);
    js.add_consumer(
        "LEVEL_SIGNALS",
        nats::jetstream::ConsumerConfig {
            durable_name: Some("gateway_levels".into()),
            deliver_subject: Some("chosen.levels".into()),
            filter_subject: LEVELS.into(),
            ack_policy: nats::jetstream::AckPolicy::Explicit,
            ..Default::default()
        },
    )
    .expect("a consumer");
    let source = run(settings(&server.url_as("gw:p")));
    source.until("CaughtUp");
    publish(&js, LEVELS, 0..2);
    assert_eq!(source.until("levels 1"), ["levels 0", "levels 1"]);
    assert!(source.status.refused() > 0 && source.status.subscribed());
    assert!(!source.status.is_subscription_refused());
    // The durable is free all the time, and not tried again and again.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(source.status.refused(), 1);
    publish(&js, LEVELS, 2..3);
    assert_eq!(source.until("levels 2"), ["levels 2"]);
}

#[test]
fn acknowledgements_that_are_refused_are_told_with_the_first() {
    let server = server("publish: { deny: \"$JS.ACK.>\" }");
    let source = run(settings(&server.url_as("gw:p")));
    source.until("CaughtUp");
    publish(&jetstream(&server.url_as("feed:f")), LEVELS, 0..1);
    source.until("levels 0");
    eventually_within(patient(Duration::from_secs(3)), "the stall is told", || {
        source.status.consumers()[0].stall() == Some(Stall::AcksRefused)
    });
    assert_eq!(source.status.consumers()[1].stall(), None);
}
