//! Plain subjects and patterns of subjects, without JetStream, chosen by clients while the source runs, or for gateways
//! that speak to each other.
//!
//! Callers request subjects through a [`BusInterest`], without waiting. The events are the same as from the Redis
//! source ([`crate::requests`], [`crate::ledger`]), in the order in which the server sends, over all
//! subjects: [`BusEvent::Subscribed`] once the server has answered a PING after the SUB; [`BusEvent::Refused`] if the
//! server's permissions forbid a subject (asked again every 30 s and after each reconnection, reported once); for a
//! lost connection a [`BusEvent::Gap`], if any subscription was confirmed, and a [`BusEvent::Down`].
//!
//! Each requested subject or pattern is a subscription on the server, so a message that matches several of them arrives
//! once for each.
//!
//! One thread waits for the socket and for changes of interest in the same poll. When the loop's channel is full, the
//! thread waits there and reads nothing. The server keeps messages up to its limit for a connection (`max_pending`).
//! Over the limit, the server ends the connection, and the loss is reported as a gap.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the choice of the server, and a session; the messages of a publishing caller; the numbers of the subscriptions on a connection |
//! | `session` | messages, confirmations, refusals, pings; the kept feed among the names |
//! | `questions` | the same session: questions for last values from the loop, and the values back to it |
//! | `retained` | last values, from JetStream, of subjects and of patterns; pure |

mod questions;
mod retained;
mod session;

use crate::kept::LossSigns;
use crate::ledger::WantedNames;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

pub(super) use self::retained::{Retained, StreamOfName, stored_subjects, streams_taking};
use self::session::SubjectsSession;
use super::connection::Connection;
use super::error::{NatsError, Stop};
use super::needs::{JetStreamNeeds, NatsNeeds};
use super::protocol;
use super::server_search::ServerSearch;
use super::servers::{NatsServers, waiter};
use super::settings::NatsSettings;
use crate::publisher::{Outgoing, Publisher};
use crate::relay::{Bus, Relay};
use crate::requests::{BusInterest, Names};
use crate::socket::Waiter;
use crate::status::BusStatus;
use crate::{CountedFeed, LinkTimes, SourceLink, requests};
use weirgate_core::{BusEvent, Subscription};

/// Commands and messages wait while more bytes than this are not written.
const QUEUED_BYTES_MAX: usize = 64 * 1024;
/// The longest time without a message on a connection that publishes.
const MESSAGE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// Settings of a [`NatsSubjectsSource`].
#[derive(Clone)]
pub struct NatsSubjectsSettings {
    /// Servers, log-in and TLS; streams and consumers are not used.
    pub nats: NatsSettings,
    /// The payload limit, bytes. A larger payload is cut to one byte more than the limit.
    pub payload_bytes_max: usize,
    /// Whether there are questions for last values.
    pub is_retained: bool,
    /// The stream that is the kept feed, beside which the source reads; it is asked for the newest messages of its names.
    pub stream: Option<String>,
    /// When a subscription counts as confirmed.
    pub settle: Settle,
}

/// How long interest may travel from the server of a connection to the other servers. The server confirms a
/// subscription before the other servers know it, and messages published there until then do not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The time between the server's confirmation and weirgate's.
    pub time: Duration,
    /// Whether the operator has set the time: it counts on every server. `false`: only on a server with a cluster name.
    pub always: bool,
}

impl Settle {
    /// Confirmed as soon as the server confirms.
    pub const NEVER: Self = Self {
        time: Duration::ZERO,
        always: false,
    };

    /// Whether the operator says that interest does not travel: all publishers are at the server of the connection, and
    /// in its account. Only then is nothing lost on the way to that server. Links to other servers (leaf nodes) and other
    /// accounts (imports) can break without a sign, and a server does not tell its clients of either.
    pub const fn is_whole(self) -> bool {
        self.always && self.time.is_zero()
    }

    /// The time to wait on a server with or without a cluster name.
    fn after(self, is_clustered: bool) -> Duration {
        match self.always || is_clustered {
            true => self.time,
            false => Duration::ZERO,
        }
    }
}

/// The messages of the caller, the state of the connection, and the rules between gateways.
///
/// All names are needed. Messages that the loop does not take in time are dropped and reported as [`BusEvent::Gap`]: a
/// source that waits would make the server cut the connection. The caller publishes on its own subjects at least once a
/// second, and a connection without a message for three seconds is left. Messages that wait for a lost connection are
/// dropped.
struct Publishing {
    outbox: Receiver<Outgoing>,
    /// The largest message, bytes; the server has to take messages of this size.
    bytes_max: usize,
    /// When the last message arrived.
    relayed: Instant,
    /// Messages that the loop had no room for, and not reported yet.
    dropped: u64,
    /// The last subject on which the server permits no publishing.
    not_permitted: Option<String>,
}

impl Publishing {
    fn new(outbox: Receiver<Outgoing>, bytes_max: usize) -> Self {
        Self {
            outbox,
            bytes_max,
            relayed: Instant::now(),
            dropped: 0,
            not_permitted: None,
        }
    }

    /// Begins on a new connection.
    ///
    /// # Errors
    /// The server takes only smaller messages.
    fn begin(&mut self, connection: &Connection) -> Result<(), NatsError> {
        let bytes_max = connection.info.max_payload();
        if bytes_max < self.bytes_max {
            return Err(NatsError::TooLarge {
                url: connection.endpoint.url(),
                bytes_max,
                what: "messages between instances have up to",
                bytes: self.bytes_max,
            });
        }
        // Messages for the connection before would be late.
        self.outbox.try_iter().for_each(drop);
        (self.relayed, self.dropped, self.not_permitted) = (Instant::now(), 0, None);
        Ok(())
    }

    /// Queues messages to publish, up to a limit.
    fn publish(&self, connection: &mut Connection) {
        while connection.queued_bytes() < QUEUED_BYTES_MAX
            && let Ok(message) = self.outbox.try_recv()
        {
            protocol::publish(connection.out(), &message.subject, "", &message.payload);
        }
    }

    /// Whether messages wait to be published.
    fn has_waiting(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// When the connection is given up if no message arrives before.
    ///
    /// # Errors
    /// No message arrived in time.
    fn due(&self) -> Result<Instant, NatsError> {
        let due = self.relayed + MESSAGE_SILENCE_MAX;
        match &self.not_permitted {
            _ if Instant::now() < due => Ok(due),
            Some(subject) => Err(NatsError::not_permitted("publish", subject)),
            None => Err(NatsError::Silent(MESSAGE_SILENCE_MAX.as_millis() as u64)),
        }
    }

    /// Hands a message over. If the loop has no room, drops and counts the message.
    fn hand_over(&mut self, event: BusEvent, link: &SourceLink) -> Result<(), Stop> {
        self.relayed = Instant::now();
        let lost = Some(self.dropped).filter(|&dropped| dropped > 0);
        if lost.is_some() && link.try_send(BusEvent::Gap { lost })? {
            self.dropped = 0;
        }
        if !link.try_send(event)? {
            self.dropped += 1;
        }
        Ok(())
    }
}

/// Relays the requested subjects and patterns, for ever.
pub struct NatsSubjectsSource {
    settings: NatsSubjectsSettings,
    status: Arc<BusStatus>,
    waiter: Waiter,
    names: Names,
    /// All names requested at the start of the connection in use were answered.
    is_restored: bool,
    servers: NatsServers,
    publishing: Option<Publishing>,
    kept: Option<CountedFeed>,
}

impl NatsSubjectsSource {
    /// What a source with these settings needs whose clients may request these names. `keeps`: the source numbers the
    /// messages of kept names.
    pub fn needs(settings: &NatsSubjectsSettings, requests: Vec<String>, keeps: bool) -> NatsNeeds {
        let has_last_values = settings.is_retained;
        let bytes_max = has_last_values.then(Retained::request_bytes_max);
        NatsNeeds {
            requests,
            payload_bytes_max: bytes_max.unwrap_or_default(),
            has_positions: keeps && settings.settle.is_whole(),
            jetstream: JetStreamNeeds {
                last_values: has_last_values.then(Retained::needs).unwrap_or_default(),
                ..JetStreamNeeds::default()
            },
            ..NatsNeeds::default()
        }
    }

    /// Makes a source, and the handle to request subjects; the handle may be used before the source runs. The source
    /// keeps `status` up to date from here on.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(
        settings: NatsSubjectsSettings,
        status: Arc<BusStatus>,
    ) -> Result<(Self, BusInterest), NatsError> {
        let (waiter, wake) = waiter("the NATS source")?;
        let (handle, names) = requests::interest(wake);
        let source = Self {
            settings,
            status,
            waiter,
            names,
            is_restored: false,
            servers: NatsServers::default(),
            publishing: None,
            kept: None,
        };
        Ok((source, handle))
    }

    /// Makes a source that also publishes messages of up to `bytes_max` bytes, with the rules for gateways that speak
    /// to each other. The caller publishes on a subscribed subject at least once a second.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn publishing(
        settings: NatsSubjectsSettings,
        bytes_max: usize,
        status: Arc<BusStatus>,
    ) -> Result<(Self, BusInterest, Publisher), NatsError> {
        let (mut source, handle) = Self::new(settings, status)?;
        let (publisher, outbox) = Publisher::new(source.names.wake.clone());
        source.publishing = Some(Publishing::new(outbox, bytes_max));
        Ok((source, handle, publisher))
    }

    /// Makes the source number the messages of the kept feed. Two connections to NATS may get the messages of two publishers
    /// in another order, so the positions are valid on one connection. The caller subscribes to the names of the feed.
    #[must_use]
    pub fn with_kept(mut self, feed: CountedFeed) -> Self {
        self.kept = Some(feed);
        self
    }

    /// Subscribes to all names on a new connection, and relays until the connection is left.
    fn use_connection(
        &mut self,
        (connection, sids): (&mut Connection, &mut Sids),
        search: &mut ServerSearch,
        relay: &mut Relay<NatsError>,
    ) -> Result<Stop, Stop> {
        if let Some(publishing) = &mut self.publishing {
            publishing.begin(connection)?;
        }
        // A route between the servers of a cluster can be down for a moment: messages published at another server
        // meanwhile never arrive here, and no server reports the loss.
        let is_whole = self.settings.settle.is_whole();
        let losses = match is_whole && !connection.info.is_clustered() {
            true => LossSigns::Noticed,
            false => LossSigns::Silent,
        };
        if let Some(kept) = &mut self.kept
            && kept.connected(losses)
            && is_whole
        {
            tracing::warn!(
                url = connection.endpoint.url(),
                "NATS has several servers, whatever --bus-settle-ms 0 says, so messages of subjects can be lost unseen: \
                 messages have no position, and nobody resumes (`off`). Let a JetStream stream store the subjects, and read it with --stream"
            );
        }
        self.names.take_all();
        relay.status.set_up(false);
        let mut session = SubjectsSession::new(self, connection, sids, search, relay);
        session.restore()?;
        session.source.is_restored = true;
        session.begin_feed()?;
        let away_ms = session.relay.report_up()?;
        session.relay.link.send(BusEvent::CaughtUp)?;
        let url = session.connection.endpoint.url();
        match session.source.names.ledger.wanted_names() {
            WantedNames { refused: 0, .. } => tracing::info!(url, away_ms, "subscribed on NATS"),
            WantedNames { refused, all: of } => tracing::warn!(
                url,
                away_ms,
                refused,
                of,
                "subscribed on NATS, without the refused names"
            ),
        }
        // Questions for last values end with the connection; the gateway asks again for clients still waiting.
        Ok(session.run())
    }
}

impl Bus for NatsSubjectsSource {
    type Error = NatsError;
    const NAME: &'static str = "NATS";
    const OUTAGE_LOSES_MESSAGES: bool = true;

    fn status_and_times(&self) -> (&Arc<BusStatus>, &LinkTimes) {
        (&self.status, &self.settings.nats.times)
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<NatsError>) -> Stop {
        self.names.take_all();
        self.is_restored = false;
        let limits = Retained::payload_limits(self.settings.payload_bytes_max);
        let nats = &self.settings.nats;
        let stop = match self.servers.connection(&mut self.waiter, nats, limits) {
            Ok(mut connection) => {
                let (mut search, mut sids) = (self.servers.search(nats), Sids::default());
                let used = (&mut connection, &mut sids);
                let stop = self.use_connection(used, &mut search, relay);
                let stop = stop.unwrap_or_else(|stop| stop);
                let nats = &self.settings.nats;
                self.servers
                    .note_end(nats, &connection, search.into_next(), &stop);
                connection.close(&self.waiter);
                stop
            }
            Err(error) => error.into(),
        };
        let reported = self.names.lost(self.is_restored, &relay.link);
        reported.map_or(Stop::LoopGone, |()| stop)
    }
}

/// The numbers of the subscriptions on a connection.
#[derive(Debug, Default)]
struct Sids {
    by_sid: HashMap<u64, Subscription>,
    by_name: HashMap<Arc<str>, u64>,
    last: u64,
}

impl Sids {
    /// Gives a new number to a subscription without one.
    fn add(&mut self, subscription: Subscription) -> u64 {
        self.last += 1;
        let name = Arc::clone(&subscription.name);
        if let Some(before) = self.by_name.insert(name, self.last) {
            debug_assert!(false, "a second number for a subscription");
            self.by_sid.remove(&before);
        }
        self.by_sid.insert(self.last, subscription);
        self.last
    }

    /// The number of a subscription, if any.
    fn sid_of(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).copied()
    }

    /// The subscription of this number.
    fn get(&self, sid: u64) -> Option<&Subscription> {
        self.by_sid.get(&sid)
    }

    /// The subscription of this name.
    fn named(&self, name: &str) -> Option<&Subscription> {
        self.get(self.sid_of(name)?)
    }

    /// Forgets a subscription. Messages still coming for the number are ignored.
    fn remove(&mut self, name: &str) -> Option<u64> {
        let sid = self.by_name.remove(name)?;
        self.by_sid.remove(&sid);
        Some(sid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_once() {
        let mut sids = Sids::default();
        let name = Subscription::channel("a");
        let first = sids.add(name.clone());
        assert_eq!(sids.get(first), Some(&name));
        assert_eq!(sids.named("a"), Some(&name));
        assert_eq!(sids.remove("a"), Some(first));
        assert_eq!((sids.get(first), sids.sid_of("a")), (None, None));
        assert_ne!(sids.add(name), first);
    }
}
