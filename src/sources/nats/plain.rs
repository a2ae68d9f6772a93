//! Plain subjects, without JetStream: a message is delivered to the subscribers of the moment, and
//! kept nowhere. [`NatsPlainSource`] is for gateways that speak to each other, [`NatsSender`] for a
//! command in a terminal.
//!
//! The caller of a source publishes at least once a second on a subject that is subscribed here. A
//! link without a message for three seconds is dead, and is left. Messages that the loop does not
//! take in time are dropped and reported as [`BusEvent::Gap`]: the crate keeps any number of
//! messages, and a core subscription cannot make the server wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, bounded, select};
use nats::Connection;

use super::api::ApiError;
use super::connection::Link;
use super::error::{NatsError, Stop};
use super::refusals::Refusal;
use super::servers::Servers;
use super::settings::NatsSettings;
use super::{connect, redacted};
use crate::base::detached;
use crate::feeds::{BusEvent, BusMessage};
use crate::sources::LoopGone;
use crate::sources::publisher::{self, Outbox, Publisher};
use crate::sources::relay::{Bus, LinkTimes, Relay};
use crate::telemetry::BusStatus;

/// The longest time without a message before the connection is left.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Relays and publishes on plain subjects, for ever.
pub struct NatsPlainSource {
    settings: NatsSettings,
    status: Arc<BusStatus>,
    subjects: Vec<Arc<str>>,
    /// The largest message; the server has to take messages of this size.
    payload_bytes_max: usize,
    outbox: Outbox,
    servers: Servers,
}

impl NatsPlainSource {
    /// Makes a source of these subjects, and a handle that publishes messages of up to
    /// `payload_bytes_max` bytes. Streams and consumers in `settings` are not used.
    pub fn new(
        settings: NatsSettings,
        subjects: Vec<Arc<str>>,
        payload_bytes_max: usize,
        status: Arc<BusStatus>,
    ) -> (Self, Publisher) {
        let (handle, outbox) = publisher::publisher(None);
        let source = Self {
            settings,
            status,
            subjects,
            payload_bytes_max,
            outbox,
            servers: Servers::default(),
        };
        (source, handle)
    }

    fn use_connection(
        &self,
        bus: &Link,
        subscriptions: &mut Vec<nats::Subscription>,
        relay: &mut Relay<NatsError>,
    ) -> Result<Stop, Stop> {
        let connection = &bus.api.connection;
        let payload_bytes = connection.max_payload();
        if payload_bytes < self.payload_bytes_max {
            let (url, needed) = (redacted(&self.settings.urls), self.payload_bytes_max);
            let reason = format!(
                "max_payload of the server is {payload_bytes}, and messages have up to {needed} bytes"
            );
            return Err(NatsError::Refused { url, reason }.into());
        }
        for subject in &self.subjects {
            let subscription = bus.subscribe(subject, None);
            subscriptions.push(subscription.map_err(|_| NatsError::Lost)?);
        }
        self.outbox.discard();
        let _publishing = publish(connection.clone(), self.outbox.clone())?;
        let away_ms = relay.stands()?;
        let url = redacted(&self.settings.urls);
        tracing::info!(url, away_ms, "subscribed on NATS");
        let mut session = Session {
            bus,
            relay,
            subscriptions,
            heard: Instant::now(),
            dropped: 0,
        };
        let stop = loop {
            if let Err(stop) = session.turn() {
                break stop;
            }
        };
        Ok(stop)
    }
}

impl Bus for NatsPlainSource {
    type Error = NatsError;
    const NAME: &'static str = "NATS";
    const OUTAGE_LOSES_MESSAGES: bool = true;

    fn status(&self) -> &Arc<BusStatus> {
        &self.status
    }

    fn times(&self) -> &LinkTimes {
        &self.settings.times
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<NatsError>) -> Stop {
        let bus = match connect(&mut self.servers, &self.settings) {
            Ok((bus, _)) => bus,
            Err(error) => return Stop::Bus(error),
        };
        let mut subscriptions = Vec::new();
        let stop = self.use_connection(&bus, &mut subscriptions, relay);
        bus.abandon(subscriptions);
        stop.unwrap_or_else(|stop| stop)
    }
}

/// A connection from its first message to its loss.
struct Session<'a> {
    bus: &'a Link,
    relay: &'a mut Relay<NatsError>,
    subscriptions: &'a [nats::Subscription],
    /// When the last message arrived.
    heard: Instant,
    /// Messages dropped because the loop had no room, and not reported yet.
    dropped: u64,
}

impl Session<'_> {
    /// Waits for messages, and hands over all waiting messages of a subject.
    fn turn(&mut self) -> Result<(), Stop> {
        let silence = SILENCE_MAX.saturating_sub(self.heard.elapsed());
        let mut select = Select::new();
        select.recv(&self.bus.api.lost);
        for subscription in self.subscriptions {
            select.recv(subscription.receiver());
        }
        match select.ready_timeout(silence) {
            Ok(0) => Err(NatsError::Lost.into()),
            Ok(n) => {
                let subscriptions = self.subscriptions;
                let ready = subscriptions.get(n - 1).into_iter();
                for message in ready.flat_map(|one| one.receiver().try_iter()) {
                    self.relay(message)?;
                }
                Ok(())
            }
            Err(_) => Err(self.silent().into()),
        }
    }

    fn relay(&mut self, message: nats::Message) -> Result<(), LoopGone> {
        self.heard = Instant::now();
        let link = &self.relay.link;
        if self.dropped > 0 {
            let lost = Some(self.dropped);
            if link.try_send(BusEvent::Gap { lost })? {
                self.dropped = 0;
            }
        }
        let event = BusEvent::Message(BusMessage {
            subject: message.subject.into(),
            pattern: None,
            payload: message.data,
            position: None,
            received: link.now(),
            quiet: false,
        });
        if !link.try_send(event)? {
            self.dropped += 1;
        }
        Ok(())
    }

    /// The reason for the silence.
    fn silent(&self) -> NatsError {
        let refused = self.bus.api.refusals.take_news().into_iter().next();
        let what = match refused {
            Some(Refusal::Subscription(subject)) => format!("subscribe to {subject}"),
            Some(Refusal::Request(subject)) => format!("publish to {subject}"),
            _ => {
                let silent_ms = SILENCE_MAX.as_millis() as u64;
                return NatsError::Silent { silent_ms };
            }
        };
        NatsError::NotPermitted {
            what,
            is_of_all: true,
        }
    }
}

/// Publishes the messages of the outbox until the returned sender is dropped. On a separate thread:
/// a server that reads nothing blocks the thread, and the listening thread has to notice.
fn publish(connection: Connection, outbox: Outbox) -> Result<Sender<Infallible>, NatsError> {
    let (end, ended): (Sender<Infallible>, Receiver<Infallible>) = bounded(0);
    let work = move || {
        loop {
            let message = select! {
                recv(ended) -> _ => return,
                recv(outbox.messages) -> message => message,
            };
            let Ok(message) = message else {
                return;
            };
            // An error means a lost connection; the other thread notices the loss.
            let _ = connection.publish(&message.subject, &message.payload);
        }
    };
    detached("nats-publish", work).map_err(|source| NatsError::NoThread { source })?;
    Ok(end)
}

/// How long the server may take to take everything.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit on messages in flight before waiting for the server to confirm them.
const UNCONFIRMED_MAX: u32 = 1_000;

/// Publishes on NATS for a command, with or without the acknowledgement of a stream, and waits: every fault
/// is an error, and nothing is tried again.
pub struct NatsSender {
    link: Link,
    url: String,
    jetstream: bool,
    unconfirmed: u32,
}

impl NatsSender {
    /// Connects to the first server that accepts. With `jetstream`, each message has to be stored
    /// by a stream.
    ///
    /// # Errors
    /// No server is reached, or none accepts.
    pub fn connect(settings: &NatsSettings, jetstream: bool) -> Result<Self, NatsError> {
        let (link, _) = connect(&mut Servers::default(), settings)?;
        Ok(Self {
            link,
            url: redacted(&settings.urls),
            jetstream,
            unconfirmed: 0,
        })
    }

    /// Publishes a message. With JetStream, returns the name of the stream and the message's
    /// sequence there.
    ///
    /// # Errors
    /// The connection is lost, the message is too large or not permitted, or no stream stores it.
    pub fn publish(
        &mut self,
        subject: &str,
        message: &[u8],
    ) -> Result<Option<(String, u64)>, NatsError> {
        let largest = self.link.api.connection.max_payload();
        if message.len() > largest {
            let bytes = message.len();
            let reason =
                format!("max_payload of the server is {largest}, the message has {bytes} bytes");
            let url = self.url.clone();
            return Err(NatsError::Refused { url, reason });
        }
        if self.jetstream {
            return self.store(subject, message).map(Some);
        }
        let published = self.link.api.connection.publish(subject, message);
        published.map_err(|_| NatsError::Lost)?;
        self.unconfirmed += 1;
        if self.link.api.is_lost() {
            return Err(NatsError::Lost);
        }
        if self.unconfirmed >= UNCONFIRMED_MAX {
            self.settle(subject)?;
        }
        Ok(None)
    }

    /// Waits until the server has taken everything.
    ///
    /// # Errors
    /// The connection is lost, or this user may not publish on the subject.
    pub fn settle(&mut self, subject: &str) -> Result<(), NatsError> {
        self.unconfirmed = 0;
        // The crate would wait for the return of a lost connection.
        if self.link.api.is_lost() {
            return Err(NatsError::Lost);
        }
        let flushed = self.link.api.connection.flush_timeout(FLUSH_TIMEOUT);
        // A refusal comes before the answer to the flush.
        if self
            .link
            .api
            .refusals
            .has(&Refusal::Request(subject.to_owned()))
        {
            return Err(not_permitted(subject));
        }
        flushed.map_err(|_| NatsError::Lost)
    }

    fn store(&self, subject: &str, message: &[u8]) -> Result<(String, u64), NatsError> {
        let stored = self.link.api.store(subject, message);
        stored.map_err(|error| match error {
            ApiError::NotPermitted(_) => not_permitted(subject),
            ApiError::Lost | ApiError::Connection(_) => NatsError::Lost,
            error => NatsError::JetStream {
                action: format!("store the message on {subject}"),
                reason: match error {
                    ApiError::NoJetStream => "no stream has this subject".to_owned(),
                    // With other subscribers to the subject, the server does not report a missing
                    // stream.
                    ApiError::NoAnswer(_) => "no stream with this subject answers".to_owned(),
                    error => error.to_string(),
                },
                is_of_all: true,
            },
        })
    }
}

fn not_permitted(subject: &str) -> NatsError {
    NatsError::NotPermitted {
        what: format!("publish to {subject}"),
        is_of_all: true,
    }
}
