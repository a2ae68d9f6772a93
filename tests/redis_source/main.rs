//! The Redis source against a real redis-server: what comes, in which order, and what outages do.

mod access;
mod behind;
mod failovers;
mod outages;
mod relaying;
mod sentinels;
mod stream;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use weirgate_bus::redis::{RedisEndpoint, RedisSettings, RedisSource};
use weirgate_bus::{BusInterest, CountedFeed};
use weirgate_core::{BusEvent, BusMessage, PageCursor, RetainedCut, Subscription};
use weirgate_runtime::{BusStatus, Clock, Source, SourceLink};
use weirgate_test_support::{RedisServer, free_port, patient};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::Now;

const PATIENCE: Duration = Duration::from_secs(30);

fn settings(url: &str) -> RedisSettings {
    RedisSettings::new(RedisEndpoint::parse(url).expect("a Redis URL"))
}

/// A source on its thread, its handle, and what it hands over.
struct Running {
    interest: BusInterest,
    events: Receiver<BusEvent>,
    status: Arc<BusStatus>,
    thread: thread::JoinHandle<()>,
}

fn run(settings: RedisSettings) -> Running {
    run_with_room(settings, 4_096)
}

fn run_with_room(settings: RedisSettings, room: usize) -> Running {
    run_made(settings, room, |source| source)
}

/// A source whose messages of `market:*` have positions, which instances share by this channel.
fn run_with_marks(settings: RedisSettings, channel: &str) -> Running {
    let names = Subscription::pattern("market:*");
    let feed = CountedFeed::new(NameSyntax::Redis, vec![names.clone()]).expect("a pattern");
    let source = run_made(settings, 4_096, |source| {
        (source.with_marks(channel.to_owned(), Some(feed))).expect("a thread")
    });
    source.interest.subscribe(names);
    source
}

fn run_made(
    settings: RedisSettings,
    room: usize,
    make: impl FnOnce(RedisSource) -> RedisSource,
) -> Running {
    let status = Arc::new(BusStatus::new(&[], 1));
    let (sender, events) = bounded(room);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    let (source, interest) = RedisSource::new(settings, Arc::clone(&status)).expect("a source");
    let source = make(source);
    let thread = thread::spawn(move || Box::new(source).run(link));
    Running {
        interest,
        events,
        status,
        thread,
    }
}

/// A source that is up, with these subscribed.
fn run_with(url: &str, subscriptions: &[Subscription]) -> Running {
    let source = run(settings(url));
    source.until("CaughtUp");
    for subscription in subscriptions {
        source.interest.subscribe(subscription.clone());
        let last = format!("+{}", subscription.name);
        source.until(&last);
    }
    source
}

/// What the tests look at, in short: `a: text`, `a (a*): text`, `+a` (subscribed), `!a` (refused),
/// `Up`, `CaughtUp`, `Gap`, `Down`.
fn short(event: &BusEvent) -> String {
    match event {
        BusEvent::Message(m) => {
            let text = String::from_utf8_lossy(&m.payload);
            match &m.pattern {
                Some(pattern) => format!("{} ({pattern}): {text}", m.subject),
                None => format!("{}: {text}", m.subject),
            }
        }
        BusEvent::Subscribed { subscription, .. } => format!("+{}", subscription.name),
        BusEvent::Refused { subscription, .. } => format!("!{}", subscription.name),
        BusEvent::Skipped(skipped) => format!("-{}", skipped.subscription.name),
        BusEvent::Down(_) => "Down".into(),
        BusEvent::Gap { lost: None } => "Gap".into(),
        other => format!("{other:?}"),
    }
}

/// The next event, but for how far the stream is read, which tests of trades are about.
fn next_of(events: &Receiver<BusEvent>, until: Instant) -> Option<BusEvent> {
    loop {
        match events.recv_deadline(until) {
            Ok(BusEvent::ReadTo(_)) => {}
            event => return event.ok(),
        }
    }
}

/// As [`next_of`], within [`PATIENCE`].
fn soon(events: &Receiver<BusEvent>) -> Option<BusEvent> {
    next_of(events, Instant::now() + PATIENCE)
}

impl Running {
    fn next(&self) -> BusEvent {
        soon(&self.events).expect("an event")
    }

    fn next_short(&self) -> String {
        short(&self.next())
    }

    fn next_message(&self) -> BusMessage {
        match self.next() {
            BusEvent::Message(message) => message,
            other => panic!("{other:?} instead of a message"),
        }
    }

    /// Everything up to and with the first event of that short form.
    fn until(&self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|s| s != last) {
            match soon(&self.events) {
                Some(event) => seen.push(short(&event)),
                None => panic!("no {last} after {seen:?}"),
            }
        }
        seen
    }

    /// The words of the next outage.
    fn fault(&self) -> String {
        loop {
            if let BusEvent::Down(fault) = self.next() {
                return fault;
            }
        }
    }

    fn nothing_comes_for(&self, time: Duration) {
        if let Some(event) = next_of(&self.events, Instant::now() + time) {
            panic!("{event:?}");
        }
    }
}

fn publish(client: &mut redis::Connection, channel: &str, payload: impl AsRef<[u8]>) -> usize {
    let mut command = redis::cmd("PUBLISH");
    command.arg(channel).arg(payload.as_ref());
    command.query(client).expect("published")
}

/// How many subscribers a channel has, by its exact name.
fn subscribers(client: &mut redis::Connection, channel: &str) -> usize {
    let mut command = redis::cmd("PUBSUB");
    command.arg("NUMSUB").arg(channel);
    let answer: (String, usize) = command.query(client).expect("an answer");
    answer.1
}

/// The exact names that are subscribed to.
fn channels(client: &mut redis::Connection) -> usize {
    let mut command = redis::cmd("PUBSUB");
    let names: Vec<String> = command.arg("CHANNELS").query(client).expect("an answer");
    names.len()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
