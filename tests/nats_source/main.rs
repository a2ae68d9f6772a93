//! The NATS source against a real nats-server: what comes, in which order, and what outages do.
#![allow(deprecated)] // the nats crate is, as a whole

mod access;
mod announcements;
mod check_subjects;
mod cluster;
mod lame_duck;
mod links;
mod look_back;
mod optional;
mod outages;
mod permissions;
mod publishing;
mod relaying;
mod silence;
mod stream;
mod subjects;
mod waiting;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use nats::jetstream::{JetStream, StreamConfig};
use weirgate_bus::nats::{
    Credentials, LookBack, NatsSettings, NatsSource, StreamSpec, SubscriptionSpec, Tls,
};
use weirgate_core::{BusEvent, BusMessage};
use weirgate_runtime::{BusStatus, Clock, Source, SourceLink, Stopping};
use weirgate_test_support::{NatsServer, patient};
use weirgate_wire::base::Now;

const LEVELS: &str = "levels.signals";
const FLOW: &str = "market.flow";
const PATIENCE: Duration = Duration::from_secs(30);

fn settings(url: &str) -> NatsSettings {
    let stream = |name: &str, subjects: &[&str]| StreamSpec {
        name: name.into(),
        subjects: subjects.iter().map(|&s| s.into()).collect(),
        max_age_s: 86_400,
    };
    let subscription = |stream: &str, subject: &str, durable: &str| SubscriptionSpec {
        stream: Some(stream.into()),
        subject: subject.into(),
        durable: durable.into(),
    };
    let mut settings = NatsSettings {
        urls_from: "--nats-url".to_owned(),
        streams: vec![
            stream("LEVEL_SIGNALS", &["levels.*"]),
            stream("MARKET_DATA", &["market.*", "market.*.*"]),
        ],
        streams_optional: false,
        subscriptions: vec![
            subscription("LEVEL_SIGNALS", LEVELS, "gateway_levels"),
            subscription("MARKET_DATA", FLOW, "gateway_flow"),
        ],
        ephemeral: false,
        consumer_silence_max_ms: 2_000,
        backlog_quiet_min: 4,
        look_back: LookBack {
            messages_max: 20,
            is_good: Arc::new(|_, payload| !payload.starts_with(b"bad")),
        },
        ..NatsSettings::plain(url, Credentials::None, Tls::default())
    };
    settings.times.ping_interval_ms = 500;
    settings.times.ping_timeout_ms = 1_000;
    settings.times.silence_max_ms = 4_000;
    settings
}

/// A source on its thread, and what it hands over.
struct Running {
    events: Receiver<BusEvent>,
    status: Arc<BusStatus>,
    stopping: Stopping,
    thread: thread::JoinHandle<()>,
}

fn run(settings: NatsSettings) -> Running {
    run_with_room(settings, 4_096)
}

fn run_with_room(settings: NatsSettings, room: usize) -> Running {
    let specs = settings.subscriptions.iter();
    let names: Vec<_> = specs
        .map(|s| (s.durable.as_str(), s.subject.as_str()))
        .collect();
    let status = Arc::new(BusStatus::new(&names, 1));
    let (sender, events) = bounded(room);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    let stopping = link.stopping();
    let source = Box::new(NatsSource::new(settings, Arc::clone(&status)));
    let thread = thread::spawn(move || source.run(link));
    Running {
        events,
        status,
        stopping,
        thread,
    }
}

/// What the tests look at, in short: `levels 7`, `flow 3 quiet`, `Up`, `CaughtUp`, `Down`.
fn short(event: &BusEvent) -> String {
    match event {
        BusEvent::Message(m) => {
            let name = match &*m.subject {
                LEVELS => "levels",
                FLOW => "flow",
                other => other,
            };
            let quiet = if m.quiet { " quiet" } else { "" };
            format!("{name} {}{quiet}", String::from_utf8_lossy(&m.payload))
        }
        BusEvent::Down(_) => "Down".into(),
        other => format!("{other:?}"),
    }
}

impl Running {
    fn next(&self) -> BusEvent {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    /// Everything up to and with the first event of that short form.
    fn until(&self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|s| s != last) {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => seen.push(short(&event)),
                Err(_) => panic!("no {last} after {seen:?}"),
            }
        }
        seen
    }

    /// The same without `Up` and `CaughtUp`, which come before or after a backlog of a few messages,
    /// whichever way they were fetched.
    fn until_but_up(&self, last: &str) -> Vec<String> {
        let mut seen = self.until(last);
        seen.retain(|s| s != "Up" && s != "CaughtUp");
        seen
    }

    fn next_message(&self) -> BusMessage {
        match self.next() {
            BusEvent::Message(message) => message,
            other => panic!("{other:?} instead of a message"),
        }
    }

    fn nothing_comes_for(&self, time: Duration) {
        if let Ok(event) = self.events.recv_timeout(time) {
            panic!("{event:?}");
        }
    }

    /// Ends the source as a stop does: it acknowledges what it handed over.
    fn end(self, server: &mut NatsServer) {
        self.stopping.stop_and_wait(PATIENCE);
        self.thread.join().expect("the source ends");
        server.shut_down();
    }
}

fn jetstream(url: &str) -> JetStream {
    nats::jetstream::new(nats::connect(url).expect("a connection"))
}

fn publish(js: &JetStream, subject: &str, texts: impl IntoIterator<Item = usize>) {
    for text in texts {
        js.publish(subject, text.to_string()).expect("published");
    }
}

fn make_streams(js: &JetStream) {
    for spec in settings("").streams {
        js.add_stream(StreamConfig {
            name: spec.name,
            subjects: spec.subjects,
            ..StreamConfig::default()
        })
        .expect("a stream");
    }
}

fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, is_so);
}

fn eventually_within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
