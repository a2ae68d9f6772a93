//! What a user may not do, and what that stops.

use weirgate_runtime::Stall;
use weirgate_test_support::LinkProxy;

use super::*;

/// A server with a user `gw` of these permissions, and a user `feed` of all.
fn server(permissions: &str) -> NatsServer {
    NatsServer::start_with(&users(permissions))
}

fn users(permissions: &str) -> String {
    format!(
        "authorization {{ users: [
            {{ user: gw, password: p, permissions: {{ {permissions} }} }}
            {{ user: feed, password: f }}
        ] }}"
    )
}

/// The permissions for a durable consumer that an administrator has made (nats.md, "Permissions").
const ENOUGH: &str = r#"publish: [
    "$JS.API.STREAM.INFO.LEVEL_SIGNALS", "$JS.API.STREAM.MSG.GET.LEVEL_SIGNALS",
    "$JS.API.CONSUMER.INFO.LEVEL_SIGNALS.*", "$JS.ACK.>"
], subscribe: "#;

/// Makes the durable consumer of levels, as an administrator does.
fn administer(js: &JetStream) {
    make_streams(js);
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
}

/// Settings of levels as a relay alone, whose stream somebody else makes.
fn relay_alone(url: &str) -> NatsSettings {
    let mut settings = settings(url);
    settings.streams.clear();
    settings.subscriptions.truncate(1);
    settings
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
    administer(&js);
    let source = run(settings(&server.url_as("gw:p")));
    source.until("CaughtUp");
    publish(&js, LEVELS, 0..2);
    assert_eq!(source.until("levels 1"), ["levels 0", "levels 1"]);
    assert!(source.status.refused() > 0 && source.status.subscribed());
    assert!(!source.status.is_subscription_refused());
    // The durable is free all the time, and is tried again, with pauses that grow from half a second to two.
    thread::sleep(Duration::from_secs(2));
    assert!((1..=4).contains(&source.status.refused()));
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

/// Messages that the consumer has delivered into a connection that died come from the stream, without another consumer.
#[test]
fn what_was_on_its_way_needs_no_more_than_the_permissions_for_a_durable() {
    let server = server(&format!("{ENOUGH} [\"_INBOX.>\", \"chosen.levels\"]"));
    let js = jetstream(&server.url_as("feed:f"));
    administer(&js);
    let link = LinkProxy::to(server.address());
    let source = run(relay_alone(&link.url().replace("//", "//gw:p@")));
    source.until("CaughtUp");
    publish(&js, LEVELS, 0..1);
    source.until("levels 0");
    for (on_their_way, want) in [
        (1..4, &["Down", "levels 1", "levels 2", "levels 3"][..]),
        (4..24, &["Down", "levels 23 quiet", "WarmedUp"]),
    ] {
        link.black_hole();
        publish(&js, LEVELS, on_their_way);
        link.end_dead_ones();
        link.let_new_ones_through();
        assert_eq!(source.until_but_up(want[want.len() - 1]), want);
        source.until("Up");
    }
    publish(&js, LEVELS, 24..25);
    source.until("levels 24 quiet");
}

#[test]
fn a_deliver_subject_that_is_permitted_again_is_read_again() {
    const CREATE: &str = r#""$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DELETE.>", "#;
    for more in ["", CREATE] {
        let publish_to = ENOUGH.replace("\"$JS.ACK.>\"", &format!("{more}\"$JS.ACK.>\""));
        let [with, without] = ["\"chosen.levels\"", ""]
            .map(|subject| users(&format!("{publish_to} [\"_INBOX.>\", {subject}]")));
        let mut server = NatsServer::start_with(&with);
        let js = jetstream(&server.url_as("feed:f"));
        administer(&js);
        let source = run(relay_alone(&server.url_as("gw:p")));
        source.until("CaughtUp");
        server.reload_with(&without);
        eventually("it is refused", || source.status.refused() > 0);
        // The server may still be busy with the reload.
        eventually("it is stored", || js.publish(LEVELS, "0").is_ok());
        server.reload_with(&with);
        source.until("levels 0");
        eventually("the durable is read", || {
            let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
            info.is_ok_and(|info| info.push_bound && info.num_pending == 0)
        });
        publish(&js, LEVELS, 1..2);
        assert_eq!(source.until_but_up("levels 1"), ["levels 1"]);
    }
}
