//! Subjects and patterns that change while the source runs, without JetStream.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use weirgate_bus::BusInterest;
use weirgate_bus::nats::{NatsSubjectsSettings, NatsSubjectsSource, Settle};
use weirgate_core::{Subscription, TopicName};
use weirgate_test_support::LinkProxy;
use weirgate_wire::admission::ClientAddr;

use super::silence::through;
use super::*;

/// A source on its thread, its handle, and what it hands over.
pub(super) struct Subjects {
    pub(super) interest: BusInterest,
    pub(super) events: Receiver<BusEvent>,
    status: Arc<BusStatus>,
    thread: thread::JoinHandle<()>,
}

pub(super) fn run_subjects(settings: NatsSettings, room: usize) -> Subjects {
    // As long as this only in a cluster.
    let settle = Settle {
        time: Duration::from_millis(100),
        always: false,
    };
    run_settling(settings, room, settle)
}

fn run_settling(settings: NatsSettings, room: usize, settle: Settle) -> Subjects {
    let status = Arc::new(BusStatus::new(&[], 1));
    let (sender, events) = bounded(room);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    let settings = NatsSubjectsSettings {
        nats: settings,
        payload_bytes_max: 1 << 20,
        is_retained: true,
        stream: None,
        settle,
    };
    let source = NatsSubjectsSource::new(settings, Arc::clone(&status));
    let (source, interest) = source.expect("a source");
    let thread = thread::spawn(move || Box::new(source).run(link));
    Subjects {
        interest,
        events,
        status,
        thread,
    }
}

fn plain(url: &str) -> NatsSettings {
    NatsSettings::plain(url, Credentials::None, Tls::default())
}

/// A source that is up, with these subscribed.
pub(super) fn run_with(url: &str, names: &[&str]) -> Subjects {
    let source = run_subjects(plain(url), 4_096);
    source.until("CaughtUp");
    for name in names {
        source.interest.subscribe(subscription(name));
        source.until(&format!("+{name}"));
    }
    source
}

pub(super) fn subscription(name: &str) -> Subscription {
    match name.contains(['*', '>']) {
        true => Subscription::pattern(name),
        false => Subscription::channel(name),
    }
}

/// `a: text`, `a (a.*): text`, `+a` (subscribed), `!a` (refused), `Up`, `CaughtUp`, `Gap`, `Down`.
fn said(event: &BusEvent) -> String {
    match event {
        BusEvent::Message(m) | BusEvent::LastValue { message: m, .. } => {
            let text = String::from_utf8_lossy(&m.payload);
            match &m.pattern {
                Some(pattern) => format!("{} ({pattern}): {text}", m.subject),
                None => format!("{}: {text}", m.subject),
            }
        }
        BusEvent::Subscribed { subscription, .. } => format!("+{}", subscription.name),
        BusEvent::Refused { subscription, .. } => format!("!{}", subscription.name),
        BusEvent::Down(_) => "Down".into(),
        BusEvent::Gap { .. } => "Gap".into(),
        BusEvent::RetainedEnd { subscription, .. } => format!("end of {}", subscription.name),
        other => format!("{other:?}"),
    }
}

/// The stream `KEPT` with these subjects.
fn kept(subjects: &[&str]) -> StreamConfig {
    StreamConfig {
        name: "KEPT".into(),
        subjects: subjects.iter().map(|&subject| subject.into()).collect(),
        ..Default::default()
    }
}

impl Subjects {
    pub(super) fn next(&self) -> String {
        said(&self.events.recv_timeout(PATIENCE).expect("an event"))
    }

    pub(super) fn until(&self, last: &str) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        while seen.last().is_none_or(|s| s != last) {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => seen.push(said(&event)),
                Err(_) => panic!("no {last} after {seen:?}"),
            }
        }
        seen
    }

    pub(super) fn nothing_comes_for(&self, time: Duration) {
        if let Ok(event) = self.events.recv_timeout(time) {
            panic!("{event:?}");
        }
    }
}

pub(super) fn client(url: &str) -> nats::Connection {
    nats::connect(url).expect("a connection")
}

pub(super) fn say(client: &nats::Connection, subject: &str, payload: impl AsRef<[u8]>) {
    client.publish(subject, payload).expect("published");
    client.flush().expect("flushed");
}

#[test]
fn names_and_patterns_come_once_for_each_subscription() {
    let server = NatsServer::start_without_jetstream("");
    let source = run_with(&server.url(), &["a.b", "a.*", "a.>"]);
    let client = client(&server.url());
    say(&client, "a.b", "1");
    let mut copies: Vec<String> = (0..3).map(|_| source.next()).collect();
    copies.sort();
    assert_eq!(copies, ["a.b (a.*): 1", "a.b (a.>): 1", "a.b: 1"]);
    say(&client, "a.b.c", "2");
    say(&client, "b", "3");
    say(&client, "a.x", "");
    let mut rest: Vec<String> = (0..3).map(|_| source.next()).collect();
    rest[1..].sort();
    assert_eq!(rest, ["a.b.c (a.>): 2", "a.x (a.*): ", "a.x (a.>): "]);
    source.interest.unsubscribe(subscription("a.>"));
    source.interest.unsubscribe(subscription("a.*"));
    source.interest.subscribe(subscription("end"));
    source.until("+end");
    eventually("the answers", || source.interest.unanswered().asked == 0);
    say(&client, "a.b", "4");
    say(&client, "a.c", "5");
    say(&client, "end", "6");
    assert_eq!(source.until("end: 6"), ["a.b: 4", "end: 6"]);
    drop(source.events);
    say(&client, "end", "7");
    assert!(source.thread.join().is_ok(), "it ends with the loop");
}

/// The order is the server's, over all subjects, and headers are no part of a payload.
#[test]
fn a_thousand_subjects_keep_their_order() {
    let server = NatsServer::start();
    let source = run_subjects(plain(&server.url()), 4_096);
    let names: Vec<String> = (0..1_000).map(|n| format!("s.{n}")).collect();
    for (number, name) in names.iter().enumerate() {
        let number = number as u64;
        source
            .interest
            .subscribe_numbered(subscription(name), number);
    }
    let mut confirmed = 0;
    while confirmed < 1_000 {
        confirmed += usize::from(source.next().starts_with('+'));
    }
    let client = client(&server.url());
    for name in names.iter().rev().chain(&names) {
        client.publish(name, name).expect("published");
    }
    client.flush().expect("flushed");
    for name in names.iter().rev().chain(&names) {
        let mut next = source.next();
        while ["Up", "CaughtUp"].contains(&next.as_str()) {
            next = source.next();
        }
        assert_eq!(next, format!("{name}: {name}"));
    }
    let headers: nats::HeaderMap = [("A", "b")].into_iter().collect();
    let message = nats::Message::new("s.1", None, "text", Some(headers));
    client
        .publish_with_reply_or_headers("s.1", None, message.headers.as_ref(), "text")
        .expect("published");
    client.flush().expect("flushed");
    assert_eq!(source.next(), "s.1: text");
    let large = vec![b'x'; (1 << 20) - 1_000];
    say(&client, "s.2", &large);
    assert_eq!(source.next().len(), "s.2: ".len() + large.len());
}

#[test]
fn what_the_server_refuses_is_told_and_the_rest_stands() {
    let server = NatsServer::start_with(
        "authorization { users: [
            { user: gw, password: p, permissions: { subscribe: { deny: [\"secret.>\", \"x.y\"] } } }
            { user: feed, password: f }
        ] }",
    );
    let source = run_subjects(plain(&server.url_as("gw:p")), 4_096);
    source.until("CaughtUp");
    for name in ["a", "secret.b", "x.y", "b.*", "secret.>"] {
        source.interest.subscribe(subscription(name));
    }
    let mut answers: Vec<String> = (0..5).map(|_| source.next()).collect();
    answers.sort();
    let want = ["!secret.>", "!secret.b", "!x.y", "+a", "+b.*"];
    assert_eq!(answers, want);
    assert_eq!(source.status.refused(), 3);
    let client = client(&server.url_as("feed:f"));
    say(&client, "secret.b", "no");
    say(&client, "b.1", "yes");
    assert_eq!(source.next(), "b.1 (b.*): yes");
    assert!(source.status.subscribed());
    let wrong = run_subjects(plain(&server.url_as("gw:wrong")), 16);
    let BusEvent::Down(fault) = wrong.events.recv_timeout(PATIENCE).expect("an event") else {
        panic!("no fault");
    };
    assert!(fault.contains("Authorization Violation"), "{fault:?}");
    assert!(!fault.contains("wrong"), "{fault:?}");
}

#[test]
fn a_server_that_comes_back_has_every_subject_again() {
    let mut server = NatsServer::start_without_jetstream("");
    let source = run_with(&server.url(), &["a", "b.>"]);
    server.kill();
    assert_eq!([source.next(), source.next()], ["Gap", "Down"]);
    assert!(!source.status.connected());
    source.interest.unsubscribe(subscription("a"));
    source.interest.subscribe(subscription("c"));
    server.restart();
    let mut back = source.until("CaughtUp");
    back.sort();
    assert_eq!(back, ["+b.>", "+c", "CaughtUp", "Up"]);
    let client = client(&server.url());
    for subject in ["a", "b.1", "c"] {
        say(&client, subject, "x");
    }
    assert_eq!([source.next(), source.next()], ["b.1 (b.>): x", "c: x"]);
    assert_eq!(source.status.reconnects(), 1);
}

/// A server that has a silence of seconds is left where that is set.
fn impatient(url: &str) -> NatsSettings {
    let mut settings = plain(url);
    settings.times.silence_max_ms = 4_000;
    settings
}

#[test]
fn a_server_that_is_silent_for_too_long_is_left() {
    let server = NatsServer::start_without_jetstream("");
    let source = run_subjects(impatient(&server.url()), 4_096);
    source.until("CaughtUp");
    source.interest.subscribe(subscription("a"));
    source.until("+a");
    source.nothing_comes_for(Duration::from_secs(5));
    server.freeze();
    assert_eq!([source.next(), source.next()], ["Down", "Gap"]);
    server.thaw();
    source.until("CaughtUp");
    say(&client(&server.url()), "a", "1");
    assert_eq!(source.next(), "a: 1");
}

/// Messages that come do not show that the requests of this side arrive.
#[test]
fn a_link_that_carries_messages_and_no_requests_is_left() {
    let server = NatsServer::start_without_jetstream("");
    let link = LinkProxy::to(server.address());
    let source = run_subjects(impatient(&link.url()), 4_096);
    source.until("CaughtUp");
    source.interest.subscribe(subscription("a"));
    source.until("+a");
    link.make_one_way();
    source.interest.subscribe(subscription("b"));
    let client = client(&server.url());
    let told = loop {
        say(&client, "a", "1");
        match source.next() {
            message if message == "a: 1" => thread::sleep(Duration::from_millis(100)),
            other => break other,
        }
    };
    assert_eq!([told, source.next()], ["Gap", "Down"]);
    let mut back = source.until("CaughtUp");
    back.sort();
    assert_eq!(back, ["+a", "+b", "CaughtUp", "Up"]);
}

/// What is published meanwhile waits in the sockets, and in the server once it goes on.
#[test]
fn a_server_that_stands_still_for_seconds_loses_nothing() {
    const MESSAGES: usize = 100;
    for seconds in [4, 10] {
        let server = NatsServer::start_without_jetstream("");
        let source = run_with(&server.url(), &["a", "a.*"]);
        let client = client(&server.url());
        client.flush().expect("flushed");
        server.freeze();
        let frozen = Instant::now();
        for n in 0..MESSAGES {
            client.publish("a", n.to_string()).expect("published");
        }
        assert_eq!(source.next(), "Down");
        assert!(!source.status.connected());
        thread::sleep(Duration::from_secs(seconds).saturating_sub(frozen.elapsed()));
        server.thaw();
        assert_eq!(source.next(), "Up");
        for n in 0..MESSAGES {
            assert_eq!(source.next(), format!("a: {n}"), "{seconds} s");
        }
        eventually("all is well", || source.status.subscribed());
        assert_eq!(source.status.reconnects(), 0);
    }
}

/// The link is dead and the server is not: another connection to the same server does better.
#[test]
fn a_dead_link_is_left_when_a_second_one_is_answered() {
    let server = NatsServer::start_without_jetstream("");
    let link = LinkProxy::to(server.address());
    let source = run_with(&link.url(), &["a"]);
    link.black_hole();
    link.let_new_ones_through();
    assert_eq!(
        source.until("CaughtUp"),
        ["Down", "Gap", "+a", "Up", "CaughtUp"]
    );
    say(&client(&server.url()), "a", "1");
    assert_eq!(source.next(), "a: 1");
}

#[test]
fn a_single_server_confirms_at_once() {
    let server = NatsServer::start_without_jetstream("");
    let settle = Settle {
        time: Duration::from_secs(3_600),
        always: false,
    };
    let source = run_settling(plain(&server.url()), 4_096, settle);
    source.until("CaughtUp");
    source.interest.subscribe(subscription("a"));
    assert_eq!(source.next(), "+a");
}

/// Until a name has settled, messages may be missing: a new name gets what comes, and one that is
/// restored gets nothing, so that the gap of the outage ends before the first message.
#[test]
fn a_name_that_is_restored_is_whole_from_its_first_message_on() {
    let mut server = NatsServer::start_without_jetstream("");
    let settle = Settle {
        time: Duration::from_secs(4),
        always: true,
    };
    let source = run_settling(plain(&server.url()), 4_096, settle);
    source.until("CaughtUp");
    source.interest.subscribe(subscription("a"));
    let publisher = client(&server.url());
    eventually("the server has the name", || {
        say(&publisher, "a", "early");
        source.events.try_iter().any(|e| said(&e) == "a: early")
    });
    source.until("+a");
    server.kill();
    assert_eq!(source.until("Down"), ["Gap", "Down"]);
    server.restart();
    let publisher = client(&server.url());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        say(&publisher, "a", "early");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(source.until("CaughtUp"), ["+a", "Up", "CaughtUp"]);
    say(&publisher, "a", "whole");
    assert_eq!(source.next(), "a: whole");
}

/// Nobody takes the events: the server keeps what comes, and ends the connection beyond its limit.
#[test]
fn a_loop_that_is_too_slow_is_cut_off_and_told() {
    let server = NatsServer::start_without_jetstream("max_pending: 1MB\nwrite_deadline: \"1s\"");
    let source = run_subjects(plain(&server.url()), 4);
    source.until("CaughtUp");
    source.interest.subscribe(subscription("a"));
    source.until("+a");
    let client = client(&server.url());
    let payload = vec![b'x'; 100_000];
    for _ in 0..400 {
        say(&client, "a", &payload);
    }
    let seen = source.until("Down");
    assert_eq!(seen.iter().filter(|s| *s == "Gap").count(), 1);
    assert!(seen.len() < 400, "{} events", seen.len());
    source.until("CaughtUp");
    say(&client, "a", "1");
    source.until("a: 1");
}

/// A refused name is asked for again on a connection to a server that has other permissions.
#[test]
fn a_limit_on_subscriptions_refuses_what_is_beyond() {
    let server = NatsServer::start_without_jetstream("max_subscriptions: 3");
    let source = run_subjects(plain(&server.url()), 4_096);
    source.until("CaughtUp");
    for n in 0..5 {
        source.interest.subscribe(subscription(&format!("a.{n}")));
    }
    let answers: Vec<String> = (0..5).map(|_| source.next()).collect();
    let stand = answers.iter().filter(|s| s.starts_with('+')).count();
    assert_eq!(stand, 3, "{answers:?}");
    let client = client(&server.url());
    for n in 0..5 {
        say(&client, &format!("a.{n}"), "x");
    }
    for _ in 0..3 {
        assert!(source.next().ends_with(": x"));
    }
    source.nothing_comes_for(Duration::from_millis(300));
}

/// A question that is on its way when the server goes has no answer: who still waits asks again when the server is
/// back. The wider pattern has brought a message that no stream has, until a stream gets its subject. It has also
/// brought others, of which no stream has any: these do not count.
#[test]
fn last_values_of_a_pattern_within_a_wider_one_are_asked_for_until_the_newest_message_is_stored() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    js.add_stream(kept(&["kept.a.*"])).expect("a stream");
    let source = run_with(&server.url(), &["kept.>"]);
    js.publish("kept.a.1", "1").expect("stored");
    let connection = nats::connect(server.url()).expect("a connection");
    for subject in ["kept.b.2", "kept.b.1"] {
        connection.publish(subject, "2").expect("published");
    }
    source.until("kept.b.1 (kept.>): 2");
    let ask = |name: &str, number| {
        let (cover, none) = (Some(TopicName::fixed("kept.>")), Arc::default());
        let client = (number, ClientAddr::Unix);
        source
            .interest
            .ask_retained(subscription(name), cover, client, none);
    };
    ask("kept.a.*", 1);
    assert_eq!(source.next(), "kept.a.1 (kept.a.*): 1");
    assert_eq!(source.next(), "end of kept.a.*");
    ask("kept.*.1", 2);
    assert_eq!(source.next(), "kept.a.1 (kept.*.1): 1");
    source.nothing_comes_for(Duration::from_millis(500));
    js.update_stream(&kept(&["kept.a.*", "kept.b.*"]))
        .expect("changed");
    js.publish("kept.b.1", "2").expect("stored");
    let values = source.until("end of kept.*.1");
    // Delivered after the question was last asked, the message is left out of the answer: the client has it.
    let from_stream = values.contains(&"kept.b.1 (kept.*.1): 2".to_owned());
    let is_live = values.contains(&"kept.b.1 (kept.>): 2".to_owned());
    assert!(from_stream || is_live, "{values:?}");
}

#[test]
fn last_values_come_over_an_outage() {
    let mut server = NatsServer::start();
    let js = jetstream(&server.url());
    js.add_stream(kept(&["kept.>"])).expect("a stream");
    for n in 0..5 {
        js.publish(&format!("kept.{n}"), format!("{n}"))
            .expect("stored");
    }
    let source = run_with(&server.url(), &["kept.1", "kept.*", "loose"]);
    let ask = |name: &str, number| {
        let none = Arc::default();
        source
            .interest
            .ask_retained(subscription(name), None, (number, ClientAddr::Unix), none);
    };
    ask("kept.1", 1);
    assert_eq!(
        source.until("end of kept.1"),
        ["kept.1: 1", "end of kept.1"]
    );
    ask("loose", 2);
    assert_eq!(source.next(), "end of loose");
    ask("kept.*", 3);
    let values = source.until("end of kept.*");
    assert_eq!(values.len(), 6, "five and the end: {values:?}");
    assert_eq!(source.status.retained_limited(), 0);
    // A server that stands still is not asked until it goes on.
    server.freeze();
    assert_eq!(source.next(), "Down");
    ask("kept.1", 4);
    source.nothing_comes_for(Duration::from_secs(6));
    server.thaw();
    assert_eq!(
        source.until("end of kept.1"),
        ["Up", "kept.1: 1", "end of kept.1"]
    );
    server.freeze();
    ask("kept.1", 5);
    assert_eq!(source.next(), "Down");
    server.kill();
    source.until("Gap");
    server.restart();
    source.until("CaughtUp");
    ask("kept.1", 5);
    let back = source.until("end of kept.1");
    assert_eq!(back, ["kept.1: 1", "end of kept.1"]);
}

/// nats-server 2.9 takes 10 s for the consumer of a million subjects, and reads nothing else of the connection meanwhile.
#[test]
fn a_server_that_makes_a_consumer_for_long_is_waited_for() {
    const READS_NOTHING_FOR: Duration = Duration::from_secs(9);
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    js.add_stream(kept(&["kept.>"])).expect("a stream");
    for subject in ["kept.a.1", "kept.a.2", "kept.b"] {
        js.publish(subject, "1").expect("stored");
    }
    let is_slow = Arc::new(AtomicBool::new(true));
    let read_slowly = move |bytes: &mut Vec<u8>| {
        let asked = b"$JS.API.CONSUMER.CREATE.KEPT";
        let is_asked = bytes.windows(asked.len()).any(|part| part == asked);
        if is_asked && is_slow.swap(false, SeqCst) {
            thread::sleep(READS_NOTHING_FOR);
        }
    };
    let source = run_with(&through(&server, read_slowly, |_| {}), &["kept.>"]);
    let ask = |name: &str, number| {
        let asked = (number, ClientAddr::Unix);
        let nothing = Arc::default();
        (source.interest).ask_retained(subscription(name), None, asked, nothing);
    };
    ask("kept.a.*", 1);
    thread::sleep(Duration::from_secs(1));
    // These are behind the request.
    ask("kept.b", 2);
    source.interest.subscribe(subscription("other"));
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.push(source.next());
    }
    seen.sort();
    let wanted = [
        "+other",
        "end of kept.a.*",
        "end of kept.b",
        "kept.a.1 (kept.a.*): 1",
        "kept.a.2 (kept.a.*): 1",
        "kept.b: 1",
    ];
    assert_eq!(seen, wanted);
    assert!(source.status.connected() && source.status.reconnects() == 0);
}

/// The first request for a pattern is made before the sizes of its values are known. The loop takes each value late, so the
/// answers wait at the server.
#[test]
fn large_last_values_of_many_patterns_do_not_cut_the_connection() {
    const PATTERNS: u64 = 8;
    const VALUES: usize = 6;
    let server = NatsServer::start_with("max_payload: 8MB");
    let js = nats::jetstream::new(client(&server.url()));
    let config = StreamConfig {
        name: "KEPT".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        storage: nats::jetstream::StorageType::Memory,
        ..StreamConfig::default()
    };
    js.add_stream(config).expect("a stream");
    for pattern in 1..=PATTERNS {
        for value in 0..VALUES {
            let subject = format!("kept.{pattern}.{value}");
            js.publish(&subject, vec![b'1'; 4 << 20]).expect("stored");
        }
    }
    let source = run_subjects(plain(&server.url()), 1);
    source.until("CaughtUp");
    // In the second round the size is known. It is over the limit on payloads, so the values are cut.
    for round in 0..2 {
        let mut open = PATTERNS;
        for pattern in 1..=PATTERNS {
            let name = subscription(&format!("kept.{pattern}.*"));
            let asked = (round * PATTERNS + pattern, ClientAddr::Unix);
            source
                .interest
                .ask_retained(name, None, asked, Arc::default());
        }
        let mut values = 0;
        while open > 0 {
            match source.events.recv_timeout(PATIENCE).expect("an event") {
                BusEvent::LastValue { .. } => values += 1,
                BusEvent::RetainedPage {
                    number, is_open, ..
                } => {
                    assert!(is_open, "the connection was cut after {values} values");
                    source.interest.ask_more_retained(number);
                }
                BusEvent::RetainedEnd { cut, .. } => {
                    assert_eq!(cut, None);
                    open -= 1;
                }
                other => panic!("{other:?} after {values} values"),
            }
            thread::sleep(Duration::from_millis(30));
        }
        assert_eq!(values, PATTERNS as usize * VALUES);
    }
    assert_eq!(source.status.reconnects(), 0);
}
