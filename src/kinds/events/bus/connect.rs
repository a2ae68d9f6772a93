//! The connection to the bus between instances: Redis or NATS, depending on the URL.

use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::thread::{Threads, subject_of};
use crate::base::{Clock, QueueBytes, TakenBytes};
use crate::feeds::{BusEvent, Subscription};
use crate::gateways::events::bus::{
    ExchangeSettings, InstanceId, LINE_BYTES_MAX, MESSAGE_BYTES_MAX,
};
use crate::kinds::bus::{Bus, nats_error, nats_question, redis_error, redis_question};
use crate::run::{Question, RunError};
use crate::sources::nats::{
    NatsNeeds, NatsSettings, NatsSubjectsSettings, NatsSubjectsSource, Settle,
};
use crate::sources::redis::{RedisNeeds, RedisPublisher, RedisSettings, RedisSource};
use crate::sources::{BusInterest, Publisher, Source, SourceLink};
use crate::telemetry::BusStatus;

/// Events between a connection and the thread of the bus.
const EVENTS_MAX: usize = 1_024;
/// The bytes of these events. One message of any size has room.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The ends of the channels to the connection threads.
pub(super) struct Connection {
    pub(super) publisher: Publisher,
    /// The events of the subscribed connection.
    pub(super) events: Receiver<BusEvent>,
    /// Gives the room of processed events back.
    pub(super) taken: TakenBytes,
    /// The events of the publishing connection, if publishing has a connection of its own.
    pub(super) publishing: Option<Receiver<BusEvent>>,
}

/// Makes the connections, and the check of the bus for `--check --connect`. Each connection has a thread in
/// `threads`, not started yet.
///
/// # Errors
/// The settings are not valid, or no file descriptor is left.
pub(super) fn connect(
    bus: Bus,
    name: &str,
    me: &InstanceId,
    settings: &ExchangeSettings,
    clock: Clock,
    threads: &mut Threads,
) -> Result<(Connection, Question), RunError> {
    let subjects = [Arc::from(name), subject_of(name, me)];
    let sent_bytes_max = settings.message_bytes_max + LINE_BYTES_MAX;
    match bus {
        Bus::Redis(settings) => redis(settings, &subjects, clock, threads),
        Bus::Nats(settings) => nats(settings, &subjects, sent_bytes_max, clock, threads),
    }
}

/// Adds a thread for a connection.
fn run(
    name: &'static str,
    source: impl Source + 'static,
    clock: Clock,
    threads: &mut Threads,
) -> (Receiver<BusEvent>, TakenBytes) {
    let (sender, events) = bounded(EVENTS_MAX);
    let (bytes, taken) = QueueBytes::new(EVENT_BYTES_MAX);
    // No waker: the thread of the bus waits for the channel.
    let link = SourceLink::new(sender, Box::new(|| {}), clock).bounded(bytes);
    threads.add(name, move || Box::new(source).run(link));
    (events, taken)
}

fn subscribe(interest: &BusInterest, subjects: &[Arc<str>]) {
    for subject in subjects {
        interest.subscribe(Subscription::channel(&**subject));
    }
}

/// The subject that the check publishes to: the subject of this instance, without subscribers.
fn published(subjects: &[Arc<str>]) -> Vec<String> {
    subjects.last().iter().map(|one| one.to_string()).collect()
}

fn redis(
    mut settings: RedisSettings,
    subjects: &[Arc<str>],
    clock: Clock,
    threads: &mut Threads,
) -> Result<(Connection, Question), RunError> {
    // Other instances may be set to longer parts.
    settings.payload_bytes_max = MESSAGE_BYTES_MAX;
    settings.needs_all_names = true;
    let status = || Arc::new(BusStatus::new(&[], clock.mono_us()));
    let channels = subjects.iter().map(|one| Subscription::channel(&**one));
    let needs = RedisNeeds {
        subscriptions: channels.collect(),
        published: published(subjects),
        ..RedisNeeds::default()
    };
    let question = redis_question(&settings, needs);
    let (source, interest) = RedisSource::new(settings.clone(), status()).map_err(redis_error)?;
    subscribe(&interest, subjects);
    let (publishing, publisher) = RedisPublisher::new(settings, status()).map_err(redis_error)?;
    let (events, taken) = run("bus-subscribe", source, clock, threads);
    // The publisher's events are short: `Up` and `Down`.
    let (sender, received) = bounded(EVENTS_MAX);
    let link = SourceLink::new(sender, Box::new(|| {}), clock);
    threads.add("bus-publish", move || Box::new(publishing).run(link));
    let connection = Connection {
        publisher,
        events,
        taken,
        publishing: Some(received),
    };
    Ok((connection, question))
}

fn nats(
    settings: NatsSettings,
    subjects: &[Arc<str>],
    sent_bytes_max: usize,
    clock: Clock,
    threads: &mut Threads,
) -> Result<(Connection, Question), RunError> {
    let needs = NatsNeeds {
        subscriptions: subjects.iter().map(|one| one.to_string()).collect(),
        published: published(subjects),
        payload_bytes_max: sent_bytes_max,
        ..NatsNeeds::default()
    };
    let question = nats_question(&settings, needs);
    let settings = NatsSubjectsSettings {
        nats: settings,
        // Other instances may be set to longer parts.
        payload_bytes_max: MESSAGE_BYTES_MAX,
        retained_subjects_max: 0,
        settle: Settle::NEVER,
    };
    let status = Arc::new(BusStatus::new(&[], clock.mono_us()));
    let (source, interest, publisher) =
        NatsSubjectsSource::publishing(settings, sent_bytes_max, status).map_err(nats_error)?;
    subscribe(&interest, subjects);
    let (events, taken) = run("bus", source, clock, threads);
    let connection = Connection {
        publisher,
        events,
        taken,
        publishing: None,
    };
    Ok((connection, question))
}
