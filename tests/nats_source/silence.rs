//! A link that is well, and JetStream that says nothing of one consumer, or delivers nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use weirgate_runtime::Stall;

use super::*;

/// A request that is muted, and what takes its place: of the same length, and no service.
pub(super) type Mute = (&'static [u8], &'static [u8]);

const OF_CONSUMERS: Mute = (
    b"$JS.API.CONSUMER.INFO.LEVEL_SIGNALS.",
    b"$JS.MUTE.CONSUMER.INF.LEVEL_SIGNALS.",
);
pub(super) const OF_THE_STREAM: Mute = (
    b"$JS.API.STREAM.INFO.LEVEL_SIGNALS",
    b"$JS.MUTE.STREAM.INF.LEVEL_SIGNALS",
);

/// Listens where muted questions arrive, so that no server answers "no responders".
pub(super) fn deaf(server: &NatsServer) -> (nats::Connection, nats::Subscription) {
    let connection = nats::connect(server.url()).expect("a connection");
    let subscription = connection.subscribe("$JS.MUTE.>").expect("subscribed");
    // The client writes on a thread of its own: a question that comes before the subscription has no responder.
    connection.flush().expect("the server knows it");
    (connection, subscription)
}

/// A way to the server that can make JetStream deaf for questions about one stream. Returns its
/// URL and the switch.
pub(super) fn muting(server: &NatsServer, what: Mute) -> (String, Arc<AtomicBool>) {
    let mute = Arc::new(AtomicBool::new(false));
    let is_mute = Arc::clone(&mute);
    let (asked, muted) = what;
    let mute_up = move |bytes: &mut Vec<u8>| {
        for at in 0..bytes.len().saturating_sub(asked.len()) {
            if is_mute.load(SeqCst) && bytes[at..].starts_with(asked) {
                bytes[at..at + muted.len()].copy_from_slice(muted);
            }
        }
    };
    (through(server, mute_up, |_| {}), mute)
}

/// A way to the server on which `up` may change what clients write, and `down` what the server writes.
/// Returns its URL.
pub(super) fn through(
    server: &NatsServer,
    up: impl Fn(&mut Vec<u8>) + Clone + Send + 'static,
    down: impl Fn(&mut Vec<u8>) + Clone + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    let address = server.address();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(address) else {
                continue;
            };
            let copy = |stream: &TcpStream| stream.try_clone().expect("another handle");
            let (back, there) = (copy(&far), copy(&client));
            let (up, down) = (up.clone(), down.clone());
            thread::spawn(move || forward(client, far, up));
            thread::spawn(move || forward(back, there, down));
        }
    });
    url
}

fn forward(mut from: TcpStream, mut to: TcpStream, change: impl Fn(&mut Vec<u8>)) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut bytes = buffer[..n].to_vec();
        change(&mut bytes);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn a_consumer_that_nobody_answers_about_touches_no_other_subject() {
    let server = NatsServer::start();
    let (url, mute) = muting(&server, OF_CONSUMERS);
    let _deaf = deaf(&server);
    let source = run(settings(&url));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    mute.store(true, SeqCst);
    let muted = Instant::now();
    let (mut n, mut was_told) = (0, false);
    let of_levels = &source.status.consumers()[0];
    // Long enough for another consumer to be made, and, on a busy machine, until the silence is told.
    let is_long = |seconds| muted.elapsed() >= Duration::from_secs(seconds);
    while !is_long(8) || !was_told && !is_long(60) {
        publish(&js, FLOW, n..n + 1);
        publish(&js, LEVELS, n..n + 1);
        let mut seen = [source.next(), source.next()].map(|event| short(&event));
        seen.sort();
        assert_eq!(seen, [format!("flow {n}"), format!("levels {n}")]);
        n += 1;
        was_told |= of_levels.is_silent() && of_levels.lag().is_none();
        thread::sleep(Duration::from_millis(50));
    }
    assert!(was_told && source.status.connected());
    assert_eq!(source.status.reconnects(), 0);
    let consumers = || {
        js.stream_info("LEVEL_SIGNALS")
            .map(|s| s.state.consumer_count)
    };
    assert!(consumers().is_ok_and(|count| count > 1));
    mute.store(false, SeqCst);
    eventually("the durable is taken over again", || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        !of_levels.is_silent() && info.is_ok_and(|i| i.push_bound && i.num_ack_pending == 0)
    });
    publish(&js, LEVELS, n..n + 1);
    assert_eq!(
        source.until(&format!("levels {n}")),
        [format!("levels {n}")]
    );
}

#[test]
fn a_subject_that_nobody_answers_about_at_the_start_stops_no_other() {
    let server = NatsServer::start();
    let (url, mute) = muting(&server, OF_CONSUMERS);
    mute.store(true, SeqCst);
    let _deaf = deaf(&server);
    let source = run(settings(&url));
    // On a busy machine the others have no answer in the first attempt either.
    let seen = source.until("CaughtUp");
    assert!(
        seen.ends_with(&["Up".into(), "CaughtUp".into()]),
        "{seen:?}"
    );
    let js = jetstream(&server.url());
    let of_levels = &source.status.consumers()[0];
    assert!(of_levels.is_away() && source.status.connected() && !source.status.subscribed());
    let failed = || {
        source
            .status
            .of_consumers(|c| Some(c.setups_failed()))
            .map(|(_, n)| n)
            .sum::<u64>()
    };
    // It is tried again, further and further apart, and the other subject waits for a moment.
    let begun = Instant::now();
    let mut n = 0;
    while begun.elapsed() < Duration::from_secs(6) || failed() < 2 {
        assert!(begun.elapsed() < patient(Duration::from_secs(12)));
        publish(&js, FLOW, n..n + 1);
        assert_eq!(short(&source.next()), format!("flow {n}"));
        n += 1;
        thread::sleep(Duration::from_millis(20));
    }
    assert!((2..=5).contains(&failed()), "{} attempts", failed());
    assert!(!source.status.consumers()[1].is_away());
    publish(&js, LEVELS, 0..2);
    mute.store(false, SeqCst);
    assert_eq!(
        source.until("CaughtUp"),
        ["levels 1 quiet", "WarmedUp", "CaughtUp"]
    );
    eventually("all is well", || source.status.subscribed());
    publish(&js, LEVELS, 2..3);
    assert_eq!(source.until("levels 2"), ["levels 2"]);
    assert_eq!(source.status.reconnects(), 0);
}

#[test]
fn a_stream_that_nobody_answers_about_is_asked_for_again_and_again() {
    let server = NatsServer::start();
    make_streams(&jetstream(&server.url()));
    let (url, mute) = muting(&server, OF_THE_STREAM);
    mute.store(true, SeqCst);
    let _deaf = deaf(&server);
    let source = run(settings(&url));
    // On a busy machine the others have no answer in the first attempt either.
    let seen = source.until("CaughtUp");
    assert!(
        seen.ends_with(&["Up".into(), "CaughtUp".into()]),
        "{seen:?}"
    );
    let failed = || {
        source
            .status
            .of_consumers(|c| Some(c.setups_failed()))
            .map(|(_, n)| n)
            .sum::<u64>()
    };
    eventually("the silence counts as another failure", || failed() > 1);
    assert!(source.status.consumers()[0].is_away() && !source.status.consumers()[1].is_away());
    mute.store(false, SeqCst);
    eventually_within(
        patient(Duration::from_secs(3)),
        "it is tried at once",
        || source.status.subscribed(),
    );
    publish(&jetstream(&server.url()), LEVELS, 0..1);
    source.until("levels 0");
}

/// A source that resumes a durable consumer which a rate limit stops, and that reads from another one after so long.
fn run_with_a_slow_consumer(server: &NatsServer, replaced_after: Duration) -> Running {
    make_streams(&jetstream(&server.url()));
    // Bits a second: a message takes minutes. The crate does not know the field.
    let config = r#"{"stream_name":"LEVEL_SIGNALS","config":{"durable_name":"gateway_levels",
        "deliver_subject":"_INBOX.of_others","filter_subject":"levels.signals",
        "ack_policy":"explicit","deliver_policy":"all","rate_limit_bps":8}}"#;
    let made = nats::connect(server.url())
        .and_then(|c| {
            let subject = "$JS.API.CONSUMER.DURABLE.CREATE.LEVEL_SIGNALS.gateway_levels";
            c.request(subject, config)
        })
        .expect("an answer");
    assert!(
        !String::from_utf8_lossy(&made.data).contains("error"),
        "{made:?}"
    );
    let source = run(NatsSettings {
        consumer_silence_max_ms: replaced_after.as_millis() as u64,
        ..settings(&server.url())
    });
    source.until("CaughtUp");
    source
}

/// Publishes more than such a consumer delivers.
fn publish_too_much(js: &JetStream) {
    // The server lets about a MiB through before the limit counts.
    for _ in 0..20 {
        js.publish(LEVELS, "x".repeat(200_000)).expect("published");
    }
}

#[test]
fn messages_that_the_server_holds_and_does_not_deliver_are_told() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    // Longer than the 5 s after which a stall is told. Otherwise another consumer takes the place of this one in the
    // look that tells the stall, which is over some milliseconds later.
    let source = run_with_a_slow_consumer(&server, Duration::from_secs(30));
    publish_too_much(&js);
    let of_levels = &source.status.consumers()[0];
    eventually("the stall is told", || {
        of_levels.stall() == Some(Stall::NothingDelivered)
    });
    assert!(of_levels.lag().is_some_and(|lag| lag > 0));
    publish(&js, FLOW, 0..1);
    eventually("the other subject goes on", || {
        source
            .events
            .try_iter()
            .any(|event| short(&event) == "flow 0")
    });
}

#[test]
fn a_consumer_that_delivers_nothing_is_replaced() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    let source = run_with_a_slow_consumer(&server, Duration::from_secs(2));
    publish_too_much(&js);
    publish(&js, LEVELS, 0..1);
    // As the state at the end of the backlog.
    source.until("levels 0 quiet");
    let of_levels = &source.status.consumers()[0];
    eventually("nothing waits", || {
        of_levels.stall().is_none() && of_levels.lag() == Some(0)
    });
    publish(&js, LEVELS, 1..2);
    source.until("levels 1");
}

#[test]
fn acknowledgements_that_are_refused_are_told() {
    let server = NatsServer::start_with(
        "authorization { users: [
            { user: gw, password: p, permissions: { publish: { deny: \"$JS.ACK.>\" } } }
            { user: feed, password: f }
        ] }",
    );
    let source = run(settings(&server.url_as("gw:p")));
    source.until("CaughtUp");
    let js = jetstream(&server.url_as("feed:f"));
    publish(&js, LEVELS, 0..700);
    source.until("levels 500");
    eventually("the stall is told", || {
        source.status.consumers()[0].stall() == Some(Stall::AcksRefused)
    });
    assert!(source.status.has_stall(Stall::AcksRefused));
    assert_eq!(source.status.consumers()[1].stall(), None);
}

/// Puts an error of JetStream in place of the answers to its requests, of the same length.
fn unavailable(bytes: &mut [u8]) {
    let error = br#"{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}"#;
    let mut at = 0;
    while let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
        let (head, payload) = bytes[at..].split_at_mut(line + 2);
        let size = String::from_utf8_lossy(head);
        let size = size
            .starts_with("MSG ")
            .then(|| size.trim().rsplit(' ').next());
        let size = size.flatten().and_then(|size| size.parse().ok());
        if let Some(payload) = size.and_then(|size: usize| payload.get_mut(..size))
            && payload.starts_with(b"{")
        {
            payload.fill(b' ');
            payload[..error.len()].copy_from_slice(error);
        }
        at += line + 2 + size.unwrap_or(0);
    }
}

#[test]
fn a_server_on_which_jetstream_works_no_more_is_left_whatever_it_answers() {
    for (what, is_deaf, up, down) in [
        ("nothing", true, true, false),
        ("that nobody is there", false, true, false),
        ("that it is unavailable", false, false, true),
    ] {
        let (one, other) = (NatsServer::start(), NatsServer::start());
        make_streams(&jetstream(&other.url()));
        let _deaf = is_deaf.then(|| {
            let connection = nats::connect(one.url()).expect("a connection");
            let subscription = connection.subscribe("$JS.NON.>").expect("subscribed");
            (connection, subscription)
        });
        let is_stuck = Arc::new(AtomicBool::new(false));
        let [asked, answered] = [up, down].map(|is| (is, Arc::clone(&is_stuck)));
        let ask = move |bytes: &mut Vec<u8>| {
            for at in 0..bytes.len().saturating_sub(8) {
                if asked.0 && asked.1.load(SeqCst) && bytes[at..].starts_with(b"$JS.API.") {
                    bytes[at..at + 8].copy_from_slice(b"$JS.NON.");
                }
            }
        };
        let answer = move |bytes: &mut Vec<u8>| {
            if answered.0 && answered.1.load(SeqCst) {
                unavailable(bytes);
            }
        };
        let stuck = through(&one, ask, answer);
        let source = run(settings(&format!("{stuck},{}", other.url())));
        source.until("CaughtUp");
        is_stuck.store(true, SeqCst);
        eventually_within(Duration::from_secs(30), what, || {
            source.status.reconnects() == 1 && source.status.subscribed()
        });
        publish(&jetstream(&other.url()), LEVELS, 0..1);
        assert!(
            source.until("levels 0").contains(&"Down".to_owned()),
            "{what}"
        );
    }
}

/// Subjects whose streams nobody answers about, such as those of a server that is dead, cost a subject that is well one
/// short wait in all.
#[test]
fn silent_streams_are_waited_for_together() {
    let server = NatsServer::start();
    let (url, mute) = muting(&server, OF_THE_STREAM);
    let _deaf = deaf(&server);
    let mut many = settings(&url);
    let [levels, flow] = [0, 1].map(|index| many.subscriptions[index].clone());
    let silent = (0..6).map(|n| SubscriptionSpec {
        subject: format!("levels.{n}"),
        durable: format!("gateway_{n}"),
        ..levels.clone()
    });
    many.subscriptions = silent.chain([flow]).collect();
    let js = jetstream(&server.url());
    make_streams(&js);
    publish(&js, FLOW, 0..1);
    mute.store(true, SeqCst);
    let started = Instant::now();
    let source = run(many);
    assert_eq!(
        source.until("Up"),
        ["flow 0 quiet", "WarmedUp", "Up"],
        "the subject that is well"
    );
    // One after the other, they are waited for 3 + 5 s.
    assert!(started.elapsed() < patient(Duration::from_secs(3)));
}

/// Many subjects need the round trips of one: their requests are on their way together.
#[test]
fn many_subjects_are_looked_at_together() {
    const SUBJECTS: usize = 12;
    let server = NatsServer::start();
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    let count = move |bytes: &mut Vec<u8>| {
        let asks = bytes.windows(8).any(|some| some == b"$JS.API.");
        counted.fetch_add(usize::from(asks), SeqCst);
        // So that what is written meanwhile comes in one piece.
        thread::sleep(Duration::from_millis(5));
    };
    let mut many = settings(&through(&server, count, |_| {}));
    let levels = many.subscriptions[0].clone();
    let subjects = (0..SUBJECTS).map(|n| SubscriptionSpec {
        subject: format!("levels.{n}"),
        durable: format!("gateway_{n}"),
        ..levels.clone()
    });
    many.subscriptions = subjects.collect();
    many.ephemeral = true;
    let js = jetstream(&server.url());
    make_streams(&js);
    for n in 0..SUBJECTS {
        publish(&js, &format!("levels.{n}"), 0..3);
    }
    let source = run(many);
    let seen = source.until("WarmedUp");
    assert_eq!(seen.len(), SUBJECTS + 1, "{seen:?}");
    // The two streams of the settings, the streams of the subjects, their newest messages.
    let writes = writes.load(SeqCst);
    assert!(writes <= SUBJECTS / 2, "{writes} pieces of requests");
}
