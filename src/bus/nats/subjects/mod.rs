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
//! | `mod` | the source: the choice of the server, a session for each connection |
//! | `settle` | how long interest travels between servers |
//! | `sids` | the numbers of the subscriptions on a connection |
//! | `publishing` | the messages of a publishing caller |
//! | `session` | the turns of a connection: reads, messages, pings; the kept feed among the names |
//! | `changes` | the same session: changes of subscriptions, and their confirmations |
//! | `server_errors` | the same session: errors of the server, and refused names |
//! | `questions` | the same session: questions for last values from the loop, and the values back to it |
//! | `retained` | last values, from JetStream, of subjects and of patterns; pure |

mod changes;
mod publishing;
mod questions;
mod retained;
mod server_errors;
mod session;
mod settle;
mod sids;

use crate::kept::SourceProgress;
use crate::ledger::WantedNames;
use std::sync::Arc;

use self::publishing::Publishing;
pub(super) use self::retained::{Retained, StreamOfName, stored_subjects, streams_taking};
use self::session::SubjectsSession;
pub use self::settle::Settle;
use super::connection::Connection;
use super::error::{NatsError, Stop};
use super::in_flight::MessageBytes;
use super::needs::{JetStreamNeeds, NatsNeeds};
use super::server_search::ServerSearch;
use super::servers::{NatsServers, waiter};
use super::settings::NatsSettings;
use super::stream::NatsStreamSource;
use crate::publisher::Publisher;
use crate::relay::{self, Bus, Relay};
use crate::requests::{BusInterest, Names};
use crate::socket::Waiter;
use crate::{CountedFeed, LinkTimes, requests};
use weirgate_core::BusEvent;
use weirgate_runtime::{BusStatus, Source, SourceLink};

/// Commands and messages wait while more bytes than this are not written.
const QUEUED_BYTES_MAX: usize = 64 * 1024;

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
    /// How far the source of the stream has read beside which this source reads.
    progress: SourceProgress,
    /// The size of answers to questions that is expected by those so far, over all connections.
    answer_bytes: MessageBytes,
}

impl NatsSubjectsSource {
    /// What a source with these settings needs if clients may request these names. `keeps`: the source numbers the
    /// messages of kept names.
    pub fn needs(settings: &NatsSubjectsSettings, requests: Vec<String>, keeps: bool) -> NatsNeeds {
        let has_last_values = settings.is_retained;
        let bytes_max = has_last_values.then(Retained::request_bytes_max);
        NatsNeeds {
            requests,
            payload_bytes_max: bytes_max.unwrap_or_default(),
            // Counted messages need a single server, which the operator states with --bus-settle-ms 0.
            has_positions: keeps && settings.settle.says_one_server(),
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
            progress: SourceProgress::default(),
            answer_bytes: MessageBytes::default(),
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

    /// Reads beside this source of a stream: answers to questions about the stream bring at least what it has read.
    #[must_use]
    pub fn beside(mut self, stream: &NatsStreamSource) -> Self {
        self.progress = stream.progress.clone();
        self
    }

    /// Subscribes to all names on a new connection, and relays until the connection is left.
    fn use_connection(
        &mut self,
        connection: &mut Connection,
        search: &mut ServerSearch,
        relay: &mut Relay<NatsError>,
    ) -> Result<Stop, Stop> {
        if let Some(publishing) = &mut self.publishing {
            publishing.begin(connection)?;
        }
        self.begin_kept(connection);
        self.names.take_all();
        // `false`: the bus answers, but not all names are subscribed yet.
        relay.status.set_up(false);
        let mut session = SubjectsSession::new(self, connection, search, relay);
        session.restore()?;
        session.source.is_restored = true;
        session.begin_feed()?;
        let away_ms = session.relay.report_up()?;
        session.relay.link.send(BusEvent::CaughtUp)?;
        let url = session.connection.endpoint.url();
        log_subscribed(&url, session.source.names.ledger.wanted_names(), away_ms);
        Ok(session.run())
    }

    /// Tells the kept feed whether losses show on this connection. Warns if nobody can resume although the operator says
    /// that there is one server.
    fn begin_kept(&mut self, connection: &Connection) {
        // A route between the servers of a cluster can be down for a moment: messages published at another server
        // meanwhile never arrive here, and no server reports the loss.
        let says_one_server = self.settings.settle.says_one_server();
        let notices_losses = says_one_server && !connection.info.is_clustered();
        if let Some(kept) = &mut self.kept
            && kept.connected(notices_losses)
            && says_one_server
        {
            tracing::warn!(
                url = connection.endpoint.url(),
                "NATS has several servers, whatever --bus-settle-ms 0 says, so messages of subjects can be lost unseen: \
                 messages have no position, and nobody resumes (`off`). Let a JetStream stream store the subjects, and read it with --stream"
            );
        }
    }
}

/// Logs that the names are subscribed after an outage of `away_ms`; `None`: after the first attempt.
fn log_subscribed(url: &str, names: WantedNames, away_ms: Option<u64>) {
    match names {
        WantedNames { refused: 0, .. } => tracing::info!(url, away_ms, "subscribed on NATS"),
        WantedNames { refused, all: of } => tracing::warn!(
            url,
            away_ms,
            refused,
            of,
            "subscribed on NATS, without the refused names"
        ),
    }
}

impl Source for NatsSubjectsSource {
    fn run(mut self: Box<Self>, link: SourceLink) {
        relay::run(&mut *self, link);
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
        // Names were requested while there was no connection.
        self.names.take_all();
        self.is_restored = false;
        let limits = Retained::payload_limits(self.settings.payload_bytes_max);
        let nats = &self.settings.nats;
        let stop = match self.servers.connection(&mut self.waiter, nats, limits) {
            Ok(mut connection) => {
                let mut search = self.servers.search(nats);
                let stop = self.use_connection(&mut connection, &mut search, relay);
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
