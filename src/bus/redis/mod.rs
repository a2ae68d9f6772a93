//! The Redis pub/sub source: relays channels and patterns. The names may change while the source runs.
//!
//! Gateways request names through a [`BusInterest`], which never waits. The source keeps the set of wanted names, and
//! makes the subscriptions on Redis equal to it:
//!
//! - Events come in the order in which Redis sends them, over all channels and patterns. [`BusEvent::Subscribed`] is in
//!   its place among them: messages that Redis sends after its confirmation come after `Subscribed`.
//! - While Redis is there, the answer to each [`BusInterest::subscribe`] is `Subscribed`, or [`BusEvent::Refused`] if
//!   the ACL of Redis forbids the name, or [`BusEvent::Down`] if the link is lost first. A refusal is reported once;
//!   the source requests the name again every 30 s and after each reconnection. A request for a confirmed name has its
//!   answer at once. Several requests for the same name have a single answer.
//! - While Redis is away, a request only changes the set. On a new connection the source restores the wanted names, and
//!   reports each confirmation as `Subscribed`. [`BusEvent::Up`] comes when every name that was wanted at the connect
//!   is confirmed or refused; `CaughtUp` follows at once, because there is no backlog.
//! - Requests have numbers ([`BusInterest::subscribe_numbered`]). `Subscribed` and `Refused` return the number of the
//!   newest request for the name that the source had taken. By this number a caller recognises an answer to an older
//!   request than its newest.
//! - Of several quick changes the last counts, because each name has at most one command on its way. Commands carry up
//!   to 256 names, and are sent without waiting for answers. At most 32 KiB of commands are on their way, because a
//!   busy server reads none, and they must not fill the link; while names are restored on a new connection, at most 1
//!   MiB. At most 8,192 names are on their way. Of the requests that the source has not taken, one is kept for each
//!   name.
//! - A lost link causes a single [`BusEvent::Gap`], if all names were confirmed once, and a single [`BusEvent::Down`],
//!   however many attempts to connect follow. They continue for ever, with delays that double from 100 ms to 2 s. If a
//!   link is lost while the names are restored, and a wanted name was subscribed there, another `Gap` follows.
//! - The source pings a server that was silent for a second. After two more seconds the bus counts as away (`Down`, and
//!   `Up` at the next byte), but the source keeps the connection, because a server that is only busy delivers
//!   everything afterwards. A second connection, without subscriptions, shows which it is. The source gives the first
//!   connection up if the server refuses the second connection; if the server answers on the second one and says
//!   nothing on the first for another second; or after 30 s without an answer on either. Any byte counts as an answer.
//!
//! A single thread does all this. It waits for the socket and for requests in the same poll, and never blocks in a read
//! or a write, with TLS too. While the loop's channel is full, the thread waits for room and reads nothing. Redis
//! meanwhile buffers the messages up to its limit (`client-output-buffer-limit pubsub`); over the limit Redis ends the
//! connection, which is a gap. With sentinels, a second thread asks one of them every second whether the master has moved, and
//! the source then leaves its server.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the source, and the session on a connection; `super::relay` has the thread |
//! | `session` | a connection: pushes, confirmations, pings |
//! | `connection` | logging in, bytes and values, questions with answers; `super::socket` has the socket |
//! | `sentinels` | where the master is, and whether it has moved |
//! | `servers` | connecting to the server; the second connection beside a silent connection; `super::probe` has the rule |
//! | `check` | the check before a start |
//! | `marks` | the kept feed on a connection: positions, and the marks that make them valid on other instances |
//! | `role` | what a server says of itself: whether it is a lone master, and its links |
//! | `stream` | the source that reads a stream in place of channels |
//! | `publish` | connections that publish: for gateways that speak to each other, and for a command |
//! | `resp`, `settings`, `error` | pure: the protocol; URLs; error texts |

mod check;
mod connection;
mod error;
mod marks;
mod publish;
pub mod resp;
mod role;
mod sentinels;
mod servers;
mod session;
mod settings;
mod stream;

use crate::ledger::WantedNames;
use std::collections::VecDeque;
use std::sync::Arc;

use self::error::Stop;
use self::marks::MarkedFeed;
use self::servers::RedisServers;
use self::session::PubSubSession;
use super::LinkTimes;
use super::kept::CountedFeed;
use super::probe::Probe;
use super::relay::{self, Bus, Relay};
use super::requests::{self, BusInterest, Names};
use super::socket::Waiter;
use weirgate_core::BusEvent;
use weirgate_runtime::{BusStatus, Source, SourceLink};

pub use self::check::RedisNeeds;
pub use self::error::RedisError;
pub use self::publish::{RedisPublisher, RedisSender, RedisSenders};
pub use self::settings::{RedisEndpoint, RedisSettings};
pub use self::stream::{RedisStreamReader, RedisStreamSource, StreamReadError};

/// Relays publications, for ever.
pub struct RedisSource {
    servers: RedisServers,
    status: Arc<BusStatus>,
    waiter: Waiter,
    /// For the second connection, while the first is silent.
    second_waiter: Waiter,
    names: Names,
    marks_channel: Option<String>,
    kept: Option<MarkedFeed>,
}

impl RedisSource {
    /// Creates a source and the handle for requests, which may be used before the source runs. The source
    /// keeps `status` up to date.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or the system has no descriptor left.
    pub fn new(
        settings: RedisSettings,
        status: Arc<BusStatus>,
    ) -> Result<(Self, BusInterest), RedisError> {
        let servers = RedisServers::new(settings)?;
        let (waiter, wake) = servers::waiter("the Redis source")?;
        let (second_waiter, _) = servers::waiter("the second connection to Redis")?;
        let (handle, names) = requests::interest(wake);
        let source = Self {
            servers,
            status,
            waiter,
            second_waiter,
            names,
            marks_channel: None,
            kept: None,
        };
        Ok((source, handle))
    }

    /// Makes the source relay no message of `channel`: instances publish marks there. If there is a kept feed, the source
    /// gives its messages their positions, and publishes marks too, so that the positions are valid on all instances. The
    /// caller subscribes to the names of the feed.
    ///
    /// # Errors
    /// The system has no descriptor or thread left.
    pub fn with_marks(
        mut self,
        channel: String,
        feed: Option<CountedFeed>,
    ) -> Result<Self, RedisError> {
        if let Some(feed) = feed {
            self.kept = Some(MarkedFeed::start(feed, self.servers.clone(), &channel)?);
        }
        self.marks_channel = Some(channel);
        Ok(self)
    }

    /// Connects and subscribes to all names, then relays messages until the connection is lost.
    /// Never returns `Ok`.
    fn use_connection(&mut self, relay: &mut Relay<RedisError>) -> Result<Stop, Stop> {
        let mut connection = self.servers.connect_and_watch(&mut self.waiter)?;
        self.names.take_all();
        let server = connection.server();
        // `false`: the bus answers, but not all names are subscribed yet.
        relay.status.set_up(false);
        if let Some(kept) = &mut self.kept {
            kept.connected(&mut connection, &relay.status)?;
        }
        let mut session = PubSubSession {
            connection,
            servers: &self.servers,
            probe: Probe::new(Self::NAME, &self.servers.settings.times),
            second_waiter: &mut self.second_waiter,
            relay,
            names: &mut self.names,
            marks_channel: self.marks_channel.as_deref(),
            kept: self.kept.as_mut(),
            expected: VecDeque::new(),
        };
        session.restore()?;
        session.begin_feed()?;
        let away_ms = session.relay.report_up()?;
        session.show_refusals();
        session.relay.link.send(BusEvent::CaughtUp)?;
        match session.names.ledger.wanted_names() {
            WantedNames { refused: 0, .. } => {
                tracing::info!(server, away_ms, "subscribed on Redis")
            }
            WantedNames { refused, all: of } => tracing::warn!(
                server,
                away_ms,
                refused,
                of,
                "subscribed on Redis, without the refused names"
            ),
        }
        loop {
            session.turn()?;
        }
    }
}

impl Source for RedisSource {
    fn run(mut self: Box<Self>, link: SourceLink) {
        relay::run(&mut *self, link);
    }
}

impl Bus for RedisSource {
    type Error = RedisError;
    const NAME: &'static str = "Redis";
    const OUTAGE_LOSES_MESSAGES: bool = true;

    fn status_and_times(&self) -> (&Arc<BusStatus>, &LinkTimes) {
        (&self.status, &self.servers.settings.times)
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<RedisError>) -> Stop {
        self.names.take_all();
        let stop = self.use_connection(relay).unwrap_or_else(|stop| stop);
        self.servers.note_end(&stop);
        let was_up = relay.is_up_now();
        let reported = self.names.lost(was_up, &relay.link);
        reported.map_or(Stop::LoopGone, |()| stop)
    }
}
