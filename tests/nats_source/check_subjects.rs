//! What is asked before a start, of plain subjects and of a server without JetStream.

use weirgate_bus::StreamSettings;
use weirgate_bus::nats::{
    NatsNeeds, NatsStreamSource, NatsSubjectsSettings, NatsSubjectsSource, Settle,
};
use weirgate_wire::base::Finding;

use super::*;

fn plain(url: &str, needs: &NatsNeeds) -> Vec<Finding> {
    let plain = NatsSettings::plain(url, Credentials::None, Tls::default());
    needs.check(&plain)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn subjects_that_are_needed_are_errors_and_wishes_are_warnings() {
    let server = NatsServer::start_without_jetstream(
        "authorization { users: [ { user: gw, password: p, permissions: {
            publish: \"out\", subscribe: [\"market.>\", \"_INBOX.>\"] } } ] }",
    );
    let url = server.url_as("gw:p");
    let needs = NatsNeeds {
        subscriptions: names(&["market.a", "news"]),
        requests: names(&["market.*", "market.b", "orders.*", "orders.a"]),
        published: names(&["out", "other"]),
        payload_bytes_max: 2_000_000,
        ..NatsNeeds::default()
    };
    let found = plain(&url, &needs);
    let lines: Vec<_> = found.iter().map(|one| (one.label(), one.text())).collect();
    let refused = "NATS does not let this user";
    for (label, begins) in [
        ("ok", "NATS 2.".to_owned()),
        ("error", "NATS takes messages of 1048576 bytes".to_owned()),
        ("ok", "may publish to out".to_owned()),
        ("error", format!("{refused} publish to other")),
        (
            "error",
            "may not subscribe to news: NATS does not permit it".to_owned(),
        ),
        (
            "warning",
            "may not subscribe to orders.*, orders.a: NATS".to_owned(),
        ),
        (
            "ok",
            "may subscribe to market.a, market.*, market.b".to_owned(),
        ),
    ] {
        let is_it = |line: &&(&str, &str)| line.0 == label && line.1.starts_with(&begins);
        assert_eq!(lines.iter().filter(is_it).count(), 1, "{begins}: {lines:?}");
    }
    assert_eq!(lines.len(), 7, "{lines:?}");
    let needs = NatsNeeds {
        requests: names(&["orders.a"]),
        ..NatsNeeds::default()
    };
    let found = plain(&url, &needs);
    let none = "NATS lets this user subscribe to nothing that clients may ask for";
    assert_eq!(found.last(), Some(&Finding::Error(none.to_owned())));
}

#[test]
fn names_that_a_stream_brings_need_no_subscription() {
    let server = NatsServer::start_with(
        "accounts { A { jetstream: enabled, users: [ { user: gw, password: p, permissions: {
            publish: \">\", subscribe: \"_INBOX.>\" } } ] } }",
    );
    let url = server.url_as("gw:p");
    make_streams(&jetstream(&url));
    let mut needs = NatsNeeds::default();
    needs.merge_stream_source(NatsStreamSource::needs(&StreamSettings {
        name: "LEVEL_SIGNALS".into(),
        history_ms: 0,
        history_bytes_max: 0,
        answer_bytes_max: 0,
        only: None,
    }));
    let errors = |requests: &[&str]| {
        let found = plain(
            &url,
            &NatsNeeds {
                requests: names(requests),
                ..needs.clone()
            },
        );
        let (warnings, errors): (Vec<_>, Vec<_>) = found
            .iter()
            .filter(|one| one.label() != "ok")
            .partition(|one| !one.is_error());
        (warnings.len(), errors.len())
    };
    assert_eq!(errors(&["levels.a", "levels.*"]), (0, 0));
    assert_eq!(errors(&[">"]), (1, 0), "in part from the stream");
    assert_eq!(errors(&["orders.a"]), (1, 1), "none from the stream");
}

/// Each of several processes has a consumer of its own, and a roll starts as many again.
#[test]
fn a_stream_needs_room_for_a_consumer_of_each_process() {
    let server = NatsServer::start();
    let url = server.url();
    jetstream(&url)
        .add_stream(StreamConfig {
            name: "TICKS".to_owned(),
            subjects: names(&["t.*"]),
            max_consumers: 5,
            ..StreamConfig::default()
        })
        .expect("a stream");
    let mut needs = NatsNeeds::default();
    needs.merge_stream_source(NatsStreamSource::needs(&StreamSettings {
        name: "TICKS".into(),
        history_ms: 0,
        history_bytes_max: 0,
        answer_bytes_max: 0,
        only: None,
    }));
    for (processes, label) in [
        (1, None),
        (2, None),
        (3, Some("warning")),
        (5, Some("warning")),
        (6, Some("error")),
    ] {
        let mut settings = NatsSettings::plain(&url, Credentials::None, Tls::default());
        settings.processes = processes;
        let found = needs.check(&settings);
        let about = found
            .iter()
            .find(|one| one.text().contains("max_consumers"));
        assert_eq!(about.map(Finding::label), label, "{processes}: {found:?}");
    }
}

#[test]
fn many_requests_are_bounded() {
    let server = NatsServer::start_without_jetstream("");
    let needs = NatsNeeds {
        requests: (0..1_100).map(|n| format!("a.{n}")).collect(),
        ..NatsNeeds::default()
    };
    let found = plain(&server.url(), &needs);
    let texts: Vec<_> = found.iter().map(Finding::text).skip(1).collect();
    let want = [
        "may subscribe to 1000 names",
        "100 more names were not asked for",
    ];
    assert_eq!(texts, want);
}

#[test]
fn the_streams_and_names_that_were_not_asked_about_are_told() {
    let server = NatsServer::start();
    let url = server.url();
    let streams = jetstream(&url);
    for n in 0..17 {
        let stream = StreamConfig {
            name: format!("S{n}"),
            subjects: vec![format!("s.{n}")],
            ..StreamConfig::default()
        };
        streams.add_stream(stream).expect("a stream");
    }
    let texts = |requests: Vec<String>| {
        let settings = NatsSubjectsSettings {
            nats: NatsSettings::plain(&url, Credentials::None, Tls::default()),
            payload_bytes_max: 1_000,
            is_retained: true,
            stream: None,
            settle: Settle::NEVER,
        };
        let needs = NatsSubjectsSource::needs(&settings, requests, false);
        let found = plain(&url, &needs);
        let texts: Vec<_> = found.iter().map(|one| one.text().to_owned()).collect();
        texts[2..].to_vec()
    };
    let want = [
        "may ask for the last values of 16 streams",
        "1 more streams were not asked for",
    ];
    assert_eq!(texts(names(&["s.*"])), want);
    let mut requests: Vec<String> = (0..100).map(|n| format!("other.{n}")).collect();
    requests.push("s.*".to_owned());
    let want = [
        "no stream holds any of the first 100 subjects that clients may ask for",
        "1 more names were not looked up: they may be of other streams",
    ];
    assert_eq!(texts(requests), want);
}

/// Without the right to delete consumers, last values work, so the check still says at how many streams.
#[test]
fn a_right_that_is_only_good_to_have_is_one_warning_for_all_streams() {
    let server = NatsServer::start_with(
        "accounts { A { jetstream: enabled, users: [
            { user: feed, password: p },
            { user: gw, password: p, permissions: {
                publish: { deny: \"$JS.API.CONSUMER.DELETE.>\" }, subscribe: \">\" } } ] } }",
    );
    let streams = jetstream(&server.url_as("feed:p"));
    let texts = |requests: &[&str]| {
        let settings = NatsSubjectsSettings {
            nats: NatsSettings::plain(&server.url_as("gw:p"), Credentials::None, Tls::default()),
            payload_bytes_max: 1_000,
            is_retained: true,
            stream: None,
            settle: Settle::NEVER,
        };
        let needs = NatsSubjectsSource::needs(&settings, names(requests), false);
        let found = needs.check(&settings.nats);
        let texts: Vec<_> = found.iter().map(|one| one.text().to_owned()).collect();
        texts[2..].to_vec()
    };
    let found = texts(&["s.*"]);
    let none = "no stream holds a subject that clients may ask for: there are no last values";
    assert_eq!(found, [none]);
    for n in 0..3 {
        let stream = StreamConfig {
            name: format!("S{n}"),
            subjects: vec![format!("s.{n}")],
            ..StreamConfig::default()
        };
        streams.add_stream(stream).expect("a stream");
    }
    let found = texts(&["s.*"]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0], "may ask for the last values of 3 streams");
    let refused = "NATS does not let this user publish to $JS.API.CONSUMER.DELETE.S0.* and 2 more such subjects";
    assert!(found[1].starts_with(refused), "{found:?}");
}

#[test]
fn a_server_without_jetstream_is_an_error_told_once() {
    let server = NatsServer::start_without_jetstream("");
    let found = settings(&server.url()).check();
    let errors: Vec<_> = found.iter().filter(|one| one.is_error()).collect();
    assert_eq!(errors.len(), 1, "{found:?}");
    assert!(
        errors[0].text().contains("JetStream is not there"),
        "{errors:?}"
    );
}
