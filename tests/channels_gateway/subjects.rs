//! The same gateway with the names of NATS.

use weirgate_wire::auth::NameSyntax;

use super::*;

fn on_nats() -> ChannelsGatewaySettings {
    ChannelsGatewaySettings {
        acl: Acl::built_in(NameSyntax::Nats),
        ..settings()
    }
}

#[test]
fn subjects_are_granted_and_counted_as_patterns_of_nats() {
    let mut bench = Bench::new(on_nats());
    let key = bench.client();
    let names = [
        "market.tick",
        "market.tick.*",
        "indicators.>",
        "market.tick.a?b",
    ];
    bench.subscribe(key, &names);
    let answer = bench.got(key).pop().expect("an answer");
    assert_eq!(
        (&answer["channels"], &answer["errors"]),
        (&json!(names), &json!([]))
    );
    assert_eq!(bench.counts(), (4, 2, 2));
    bench.unsubscribe(key, &["indicators.>"]);
    assert_eq!(bench.counts(), (3, 2, 1));
}

/// Whoever could write a line of the protocol could subscribe to anything.
#[test]
fn what_is_no_subject_never_reaches_the_bus() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        default_role: "internal".to_owned(),
        ..on_nats()
    });
    let key = bench.client();
    let wrong = [
        "",
        "a..b",
        "a b",
        "a*",
        ">.a",
        "a\r\nPUB b 0\r\n",
        "a\tb",
        "a\u{2028}b",
    ];
    bench.subscribe(key, &wrong);
    let answer = bench.got(key).pop().expect("an answer");
    let errors: Vec<String> = wrong
        .iter()
        .map(|name| format!("Invalid subject: {name}"))
        .collect();
    assert_eq!(
        (&answer["channels"], &answer["errors"]),
        (&json!([]), &json!(errors))
    );
    assert!(bench.world.outputs.wanted.is_empty());
}
