//! The NATS JetStream source: relays subjects of streams through push consumers.
//!
//! Every message is acknowledged after it was handed over, several at a time, so when the loop's channel is full this
//! thread waits, the server stops sending at the consumer's limit of unacknowledged messages, and
//! the stream keeps the rest. Nothing is lost by being slow.
//!
//! The order of events: for each subscription the last message of its subject, quiet
//! (warm-up); `BusEvent::Up` once all subscriptions stand; the backlog, quiet if it is more than
//! a few messages; `BusEvent::CaughtUp`; from then on messages as they come. After a loss one
//! `BusEvent::Down`, however many attempts it takes, and then the same again, but the warm-up
//! only where there is a long backlog. A message that was handed over is not handed over again,
//! whichever consumer or connection brings it (warm-up and backlog may both bring the last one,
//! both times quiet).
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | which server, and one session on it; `super::relay` has the thread |
//! | `session` | one connection: the turn of messages and reports |
//! | `attach` | the same: subjects attached to consumers, at first and again |
//! | `subscription` | one subject: consumer, cursor, backlog |
//! | `consumers` | making and finding streams and consumers, and what is logged of them |
//! | `look_back` | the last good message of a subject, when the newest are bad |
//! | `api` | requests to JetStream, which end with the connection |
//! | `ask` | what is read and asked before a start, for a check |
//! | `watchdog` | asking the server whether the link and the consumers are well |
//! | `servers` | which servers are tried, in which order, and the second connection beside a silent one; `super::probe` has the rule |
//! | `connection` | making and leaving connections |
//! | `access` | credentials, and which certificates count |
//! | `tls` | TLS to the server, plain to the crate |
//! | `loopback` | the connection between the two, which is closed to other processes |
//! | `health` | whether JetStream answers about a consumer, whether messages come, and when to attach again; pure |
//! | `refusals` | what the server does not permit this user, and its words |
//! | `plain` | plain subjects, without JetStream: for gateways that speak to each other, and for a command that publishes |
//! | `subjects/` | plain subjects and patterns that clients choose, while the source runs |
//! | `position`, `settings`, `error` | pure: sequences and what is still to acknowledge, URLs, words |

// The whole crate is marked deprecated in favour of an async one, which would put a runtime into
// the data path.
#![allow(deprecated)]

mod access;
mod api;
mod ask;
mod attach;
mod connection;
mod consumers;
mod error;
mod health;
mod look_back;
mod loopback;
mod plain;
mod position;
mod refusals;
mod servers;
mod session;
mod settings;
mod subjects;
mod subscription;
mod tls;
mod watchdog;

use std::sync::Arc;

use self::connection::Link;
use self::error::Stop;
use self::refusals::Refusal;
use self::servers::{Second, Servers};
use self::session::{Session, forget};
use self::subscription::Subscription;
use super::relay::{Bus, LinkTimes, Relay};
use crate::telemetry::BusStatus;

use self::settings::Endpoint;

pub use self::access::{Credentials, Tls};
pub use self::ask::{NatsNeeds, ask, ask_plain};
pub use self::error::NatsError;
pub use self::plain::{NatsPlainSource, NatsSender};
pub use self::settings::{Judge, LookBack, NatsSettings, StreamSpec, SubscriptionSpec, redacted};
pub use self::subjects::{NatsSubjectsSettings, NatsSubjectsSource, Settle};

/// Relays JetStream messages, for ever.
pub struct NatsSource {
    settings: NatsSettings,
    status: Arc<BusStatus>,
    subscriptions: Vec<Subscription>,
    servers: Servers,
}

impl NatsSource {
    /// `status` should name the subscriptions' durables and subjects; it is kept true from here on.
    pub fn new(settings: NatsSettings, status: Arc<BusStatus>) -> Self {
        let specs = settings.subscriptions.iter().cloned();
        let subscriptions = specs.map(|spec| Subscription::new(spec, &settings));
        Self {
            subscriptions: subscriptions.collect(),
            settings,
            status,
            servers: Servers::default(),
        }
    }

    fn use_connection(
        &mut self,
        bus: &Link,
        second: &mut Second,
        relay: &mut Relay<NatsError>,
    ) -> Result<Stop, Stop> {
        let mut session = Session {
            settings: &self.settings,
            relay,
            subscriptions: &mut self.subscriptions,
            bus,
            second,
        };
        let watchdog = session.set_up()?;
        let away_ms = session.relay.stands()?;
        session.relay.status.set_subscription_refused(false);
        let url = redacted(&self.settings.urls);
        tracing::info!(url, away_ms, "subscribed on NATS");
        Ok(session.run(&watchdog))
    }
}

/// Tries every server once.
fn connect(servers: &mut Servers, settings: &NatsSettings) -> Result<(Link, Endpoint), NatsError> {
    servers.connect(settings, |endpoint| {
        let mut bus = Link::open(endpoint, settings)?;
        let told = std::mem::take(&mut bus.neighbours);
        Ok((bus, told))
    })
}

impl Bus for NatsSource {
    type Error = NatsError;
    const NAME: &'static str = "NATS";
    /// The streams keep them.
    const OUTAGE_LOSES_MESSAGES: bool = false;

    fn status(&self) -> &Arc<BusStatus> {
        &self.status
    }

    fn times(&self) -> &LinkTimes {
        &self.settings.times
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<NatsError>) -> Stop {
        let (bus, used) = match connect(&mut self.servers, &self.settings) {
            Ok(connected) => connected,
            Err(error) => return Stop::Bus(error),
        };
        let others = self.servers.others(&self.settings, &used);
        let mut second = Second::new(&self.settings, used, others);
        let stop = self.use_connection(&bus, &mut second, relay);
        self.servers.prefer(second.better());
        for refusal in bus.api.refusals.take_news() {
            if let Refusal::Subscription(_) = refusal {
                self.status.count_refused();
            }
        }
        if let Err(Stop::Bus(NatsError::NotPermitted { .. })) = &stop {
            self.status.set_subscription_refused(true);
        }
        for subscription in &self.subscriptions {
            forget(&self.status, subscription);
        }
        let subscriptions = self.subscriptions.iter_mut();
        bus.abandon(subscriptions.filter_map(Subscription::detach).collect());
        stop.unwrap_or_else(|stop| stop)
    }
}
