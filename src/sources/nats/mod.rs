//! The NATS JetStream source: relays subjects of streams through push consumers.
//!
//! Every message is acknowledged after it was handed over, so when the loop's channel is full this
//! thread waits, the server stops sending at the consumer's limit of unacknowledged messages, and
//! the stream keeps the rest. Nothing is lost by being slow.
//!
//! The order of events: for each subscription the last message of its subject, quiet
//! (warm-up); [`BusEvent::Up`] once all subscriptions stand; the backlog, quiet if it is more than
//! a few messages; [`BusEvent::CaughtUp`]; from then on messages as they come. After a loss one
//! [`BusEvent::Down`], however many attempts it takes, and then the same again, but the warm-up
//! only where there is a long backlog. A message that was handed over is not handed over again,
//! whichever consumer or connection brings it (warm-up and backlog may both bring the last one,
//! both times quiet).
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the thread: connect, run a session, back off, for ever |
//! | `session` | one connection: the turn of messages and reports |
//! | `subscription` | one subject: consumer, cursor, backlog |
//! | `consumers` | making and finding streams and consumers |
//! | `api` | requests to JetStream, which end with the connection |
//! | `watchdog` | asking the server whether it and the consumers are still there |
//! | `connection` | making and leaving connections |
//! | `position`, `settings`, `error` | pure: sequences, URLs, words |

// The whole crate is marked deprecated in favour of an async one, which would put a runtime into
// the data path.
#![allow(deprecated)]

mod api;
mod connection;
mod consumers;
mod error;
mod position;
mod session;
mod settings;
mod subscription;
mod watchdog;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use self::connection::Link;
use self::error::Stop;
use self::session::{Session, set_lag};
use self::subscription::Subscription;
use super::backoff::Backoff;
use super::{Source, SourceLink};
use crate::feeds::{BusEvent, Fault};
use crate::telemetry::BusStatus;

pub use self::error::NatsError;
pub use self::settings::{NatsSettings, StreamSpec, SubscriptionSpec, redacted};

/// The name that the server's connection list shows.
const CLIENT_NAME: &str = "weirgate";
/// A connection that stood for this long ends the outage for good: the next attempt after its loss
/// is soon again. One that is lost at once does not, or attempts would follow one another closely.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// Relays JetStream messages, for ever.
pub struct NatsSource {
    settings: NatsSettings,
    status: Arc<BusStatus>,
}

impl NatsSource {
    /// `status` should name the subscriptions' durables and subjects; it is kept true from here on.
    pub fn new(settings: NatsSettings, status: Arc<BusStatus>) -> Self {
        Self { settings, status }
    }
}

impl Source for NatsSource {
    fn run(self: Box<Self>, link: SourceLink) {
        let specs = self.settings.subscriptions.iter().cloned();
        let subscriptions = specs.map(|spec| Subscription::new(spec, &self.settings));
        let mut relay = Relay {
            subscriptions: subscriptions.collect(),
            backoff: Backoff::new(
                self.settings.reconnect_delay_min_ms,
                self.settings.reconnect_delay_max_ms,
                link.seed(),
            ),
            settings: self.settings,
            status: self.status,
            link,
            outage: None,
            connected_before: false,
        };
        relay.run();
    }
}

/// An outage, from the first failure to the next set-up that succeeds.
struct Outage {
    since: Instant,
    /// What was logged last.
    logged: NatsError,
}

struct Relay {
    settings: NatsSettings,
    status: Arc<BusStatus>,
    link: SourceLink,
    subscriptions: Vec<Subscription>,
    backoff: Backoff,
    outage: Option<Outage>,
    connected_before: bool,
}

impl Relay {
    fn run(&mut self) {
        loop {
            match self.connect_and_relay() {
                Stop::LoopGone => return,
                Stop::Bus(error) => {
                    if self.away(error).is_err() {
                        return;
                    }
                }
            }
            thread::sleep(self.backoff.next_delay());
        }
    }

    fn connect_and_relay(&mut self) -> Stop {
        let bus = match self.connect() {
            Ok(bus) => bus,
            Err(error) => return Stop::Bus(error),
        };
        let stop = self.use_connection(&bus);
        let left = self
            .subscriptions
            .iter_mut()
            .filter_map(Subscription::detach);
        bus.abandon(left.collect());
        stop
    }

    /// Tries every server once; the error is the last one's.
    fn connect(&self) -> Result<Link, NatsError> {
        let mut last = NatsError::Lost;
        for endpoint in self.settings.endpoints() {
            match endpoint.and_then(|endpoint| Link::open(&endpoint, CLIENT_NAME)) {
                Ok(bus) => return Ok(bus),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn use_connection(&mut self, bus: &Link) -> Stop {
        let mut session = Session {
            settings: &self.settings,
            status: &self.status,
            link: &self.link,
            subscriptions: &mut self.subscriptions,
            bus,
        };
        let watchdog = match session.set_up() {
            Ok(watchdog) => watchdog,
            Err(stop) => return stop,
        };
        self.status.set_up(true);
        if self.link.send(BusEvent::Up).is_err() {
            return Stop::LoopGone;
        }
        if self.connected_before {
            self.status.count_reconnect();
        }
        self.connected_before = true;
        let away_ms = self
            .outage
            .take()
            .map(|o| o.since.elapsed().as_millis() as u64);
        let url = redacted(&self.settings.urls);
        tracing::info!(url, away_ms, "subscribed on NATS");
        let since = Instant::now();
        let stop = session.run(&watchdog);
        if since.elapsed() >= STEADY_AFTER {
            self.backoff.reset();
        }
        stop
    }

    /// Tells of an outage once, and logs each kind of trouble once.
    fn away(&mut self, error: NatsError) -> Result<(), Stop> {
        self.status.set_down(self.link.now().unix_ms);
        for subscription in &self.subscriptions {
            set_lag(&self.status, subscription, None);
        }
        match &mut self.outage {
            Some(outage) if outage.logged.same_class(&error) => {
                tracing::debug!(%error, "NATS is still away");
            }
            Some(outage) => {
                tracing::warn!(%error, "NATS is still away; trying again");
                outage.logged = error;
            }
            None => {
                tracing::warn!(%error, "NATS is away; trying again until it is back");
                let fault = Fault(error.to_string());
                self.outage = Some(Outage {
                    since: Instant::now(),
                    logged: error,
                });
                let told = self.link.send(BusEvent::Down(fault));
                return told.map_err(|_| Stop::LoopGone);
            }
        }
        Ok(())
    }
}
