//! The connections of the bus between instances, to Redis or to NATS, each with a thread.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use crate::gateways::events::bus::thread::{Threads, subject_of};
use crate::gateways::events::bus::{Exchange, ExchangeSettings, InstanceId, LINE_BYTES_MAX};
use crate::gateways::shared::bus::{Bus, nats_error, nats_question, redis_error, redis_question};
use weirgate_bus::nats::{
    NatsNeeds, NatsSettings, NatsSubjectsSettings, NatsSubjectsSource, Settle,
};
use weirgate_bus::redis::{RedisNeeds, RedisPublisher, RedisSettings, RedisSource};
use weirgate_bus::{BusInterest, Publisher};
use weirgate_core::{BusEvent, Subscription};
use weirgate_runtime::{BusStatus, Clock, QueueBytes, Source, SourceLink, TakenBytes};
use weirgate_server::run::{RunError, StartQuestion};

/// The most events between a connection and the bus thread.
const EVENTS_MAX: usize = 1_024;
/// The most bytes of these events; less if two pushes have less. If none waits, one of any size is accepted.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The ends of the channels to the connection threads.
pub(in crate::gateways::events) struct BusConnection {
    pub(in crate::gateways::events) publisher: Publisher,
    /// The events of the subscribed connection.
    pub(in crate::gateways::events) events: Receiver<BusEvent>,
    /// Gives the room of processed events back.
    pub(in crate::gateways::events) taken: TakenBytes,
    /// The events of the publishing connection; `None` if the subscribed connection publishes too.
    pub(in crate::gateways::events) publishing: Option<Receiver<BusEvent>>,
}

/// Makes the connections, and the check of the bus for `--check --connect`. Adds a thread for each connection to
/// `threads`, without starting it.
///
/// # Errors
/// The settings are not valid, or no file descriptor is left.
pub(super) fn connect(
    bus: Bus,
    name: &str,
    me: &InstanceId,
    exchange: &ExchangeSettings,
    clock: Clock,
    threads: &mut Threads,
) -> Result<(BusConnection, StartQuestion), RunError> {
    let subjects = Subjects {
        shared: Arc::from(name),
        own: subject_of(name, me),
    };
    let sent_bytes_max = exchange.message_bytes_max + LINE_BYTES_MAX;
    let room = QueueBytes::new(EVENT_BYTES_MAX.min(2 * exchange.push_bytes_max));
    match bus {
        Bus::Redis(settings) => redis(settings, &subjects, room, clock, threads),
        Bus::Nats(settings) => nats(settings, &subjects, sent_bytes_max, room, clock, threads),
    }
}

/// The subjects of an instance.
struct Subjects {
    /// To which all instances subscribe.
    shared: Arc<str>,
    /// To which this instance alone subscribes. The check publishes to it.
    own: Arc<str>,
}

impl Subjects {
    fn all(&self) -> [&str; 2] {
        [&self.shared, &self.own]
    }

    fn subscribe(&self, interest: &BusInterest) {
        for subject in self.all() {
            interest.subscribe(Subscription::channel(subject));
        }
    }
}

/// Room for the bytes of the events between a connection and the bus thread: both sides.
type EventRoom = (Arc<QueueBytes>, TakenBytes);

/// Adds a thread for a connection. Returns the events of the connection, and what gives their room back.
fn add_thread(
    name: &'static str,
    source: impl Source + 'static,
    (bytes, taken): EventRoom,
    clock: Clock,
    threads: &mut Threads,
) -> (Receiver<BusEvent>, TakenBytes) {
    let (sender, events) = bounded(EVENTS_MAX);
    // No waker is needed, because the bus thread waits on the channel.
    let link = SourceLink::new(sender, Box::new(|| {}), clock).bounded(bytes);
    threads.add(name, move || Box::new(source).run(link));
    (events, taken)
}

/// On Redis: a connection that subscribes, and one that publishes.
fn redis(
    mut settings: RedisSettings,
    subjects: &Subjects,
    room: EventRoom,
    clock: Clock,
    threads: &mut Threads,
) -> Result<(BusConnection, StartQuestion), RunError> {
    // A push comes in parts, and other instances may send longer ones (`message_bytes_max`).
    settings.payload_bytes_max = Exchange::MESSAGE_BYTES_MAX;
    settings.needs_all_names = true;
    // Without consumers to show: only levels has some.
    let status = || Arc::new(BusStatus::new(&[], clock.mono_us()));
    let channels = subjects.all().map(Subscription::channel);
    let needs = RedisNeeds {
        subscriptions: channels.into(),
        published: vec![subjects.own.to_string()],
        ..RedisNeeds::default()
    };
    let question = redis_question(&settings, needs);
    let (source, interest) = RedisSource::new(settings.clone(), status()).map_err(redis_error)?;
    subjects.subscribe(&interest);
    let (publishing, publisher) = RedisPublisher::new(settings, status()).map_err(redis_error)?;
    let (events, taken) = add_thread("bus-subscribe", source, room, clock, threads);
    // The publisher's events are short: `Up` and `Down`.
    let (sender, received) = bounded(EVENTS_MAX);
    let link = SourceLink::new(sender, Box::new(|| {}), clock);
    threads.add("bus-publish", move || Box::new(publishing).run(link));
    let connection = BusConnection {
        publisher,
        events,
        taken,
        publishing: Some(received),
    };
    Ok((connection, question))
}

/// On NATS: one connection for both.
fn nats(
    settings: NatsSettings,
    subjects: &Subjects,
    sent_bytes_max: usize,
    room: EventRoom,
    clock: Clock,
    threads: &mut Threads,
) -> Result<(BusConnection, StartQuestion), RunError> {
    let needs = NatsNeeds {
        subscriptions: subjects.all().map(str::to_owned).into(),
        published: vec![subjects.own.to_string()],
        payload_bytes_max: sent_bytes_max,
        ..NatsNeeds::default()
    };
    let question = nats_question(&settings, needs);
    let settings = NatsSubjectsSettings {
        nats: settings,
        // A push comes in parts, and other instances may send longer ones (`message_bytes_max`).
        payload_bytes_max: Exchange::MESSAGE_BYTES_MAX,
        // Live messages only, and a subject counts as confirmed as soon as the server confirms it.
        is_retained: false,
        stream: None,
        settle: Settle::NEVER,
    };
    let status = Arc::new(BusStatus::new(&[], clock.mono_us()));
    let (source, interest, publisher) =
        NatsSubjectsSource::publishing(settings, sent_bytes_max, status).map_err(nats_error)?;
    subjects.subscribe(&interest);
    let (events, taken) = add_thread("bus", source, room, clock, threads);
    let connection = BusConnection {
        publisher,
        events,
        taken,
        publishing: None,
    };
    Ok((connection, question))
}
