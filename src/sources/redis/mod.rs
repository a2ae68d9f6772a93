//! The Redis pub/sub source: relays channels and patterns that may change while the source runs.
//!
//! Gateways request names through a [`BusInterest`], which never waits. The source owns the set
//! of wanted names and keeps the subscriptions on Redis equal to this set:
//!
//! - Events come in the order in which Redis sends, over all channels and patterns, with
//!   [`BusEvent::Subscribed`] among them: messages published after the confirmation of Redis come
//!   after `Subscribed`.
//! - While Redis is there, each [`BusInterest::subscribe`] is answered by `Subscribed`, by
//!   [`BusEvent::Refused`] (Redis's rules forbid the name; asked again every 30 s and after each
//!   reconnection, reported once), or, if the link is lost first, by [`BusEvent::Down`]. A request for
//!   a confirmed name is answered at once; several requests for the same name have a single answer.
//! - While Redis is away a request only changes the set. [`BusEvent::Up`] comes when every name that
//!   was wanted at that moment is confirmed or refused, directly followed by `CaughtUp` (there is
//!   no backlog); each earlier confirmation is reported as `Subscribed` too.
//! - Requests have numbers ([`BusInterest::subscribe_numbered`]). `Subscribed` and `Refused` return the
//!   number of the newest request for the name that the source had taken. A caller with a newer request
//!   recognises by the number that the answer belongs to an older request.
//! - Of quick changes the last counts: each name has at most a single command on its way.
//!   Commands carry up to 256 names and are sent without waiting for answers. Up to 32 KiB of commands
//!   are on their way: a busy server reads none, and they must not fill the link. While names are restored
//!   on a new connection the limit is 1 MiB, up to 8,192 names. Requests that the source has not taken are
//!   kept once for each name.
//! - A lost link causes a single [`BusEvent::Gap`], if all names were ever confirmed, and a single
//!   [`BusEvent::Down`], however many attempts follow. The attempts continue for ever, after 100 ms
//!   doubling to 2 s. A link that is lost while the names are restored causes another `Gap`, if a wanted
//!   name was subscribed there.
//! - A server that was silent for a second is pinged. After two more seconds the status says that
//!   the bus is away, but the connection is kept: a busy server delivers everything afterwards. A second
//!   connection, without subscriptions, shows the cause. The first connection is given up if the server
//!   accepts no connection; if the server answers on the second connection and says nothing on the first
//!   for another second; or if nothing answers for 30 s. Any byte counts as a sign of life.
//!
//! A single thread does all this. The thread waits for the socket and for requests in the same poll and
//! never blocks in a read or a write, with TLS too. If the loop's channel is full, the thread waits for
//! room and reads nothing. Redis meanwhile keeps the messages up to its limit
//! (`client-output-buffer-limit pubsub`); over the limit Redis ends the connection, which is a gap.
//! With sentinels, a second thread asks every second whether the master has moved. The source leaves a
//! server that is no longer the master.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the source, and the session on a connection; `super::relay` has the thread |
//! | `session` | a connection: pushes, confirmations, pings |
//! | `connection` | logging in, bytes and values, questions with answers; `super::socket` has the socket |
//! | `servers` | where the master is; the second connection beside a silent connection; `super::relay` has the rule |
//! | `ask` | the checks before a start |
//! | `marks` | the kept feed on a connection: positions, the marks to make positions valid on other instances, and what a server says of itself |
//! | `stream` | the source that reads a stream in place of channels |
//! | `publish` | connections that publish: for gateways that speak to each other, and for a command |
//! | `resp`, `settings` | pure: the protocol; URLs and error texts |

mod ask;
mod connection;
mod marks;
mod publish;
pub mod resp;
mod servers;
mod session;
mod settings;
mod stream;

use std::collections::VecDeque;
use std::sync::Arc;

use self::marks::Kept;
use self::servers::Servers;
use self::session::Session;
use self::settings::Stop;
use super::LinkTimes;
use super::kept::KeptFeed;
use super::relay::{Bus, Probe, Relay};
use super::requests::{self, BusInterest, Names};
use super::socket::Waiter;
use crate::feeds::BusEvent;
use crate::telemetry::BusStatus;

pub use self::ask::{RedisNeeds, ask};
pub use self::marks::says_lone_master;
pub use self::publish::{RedisPublisher, RedisSender, RedisSenders};
pub use self::settings::{REDIS_PORT, RedisEndpoint, RedisError, RedisSettings, SENTINEL_PORT};
pub use self::stream::{RedisStreamSource, StreamReader, Trouble};

/// Relays publications, for ever.
pub struct RedisSource {
    servers: Servers,
    status: Arc<BusStatus>,
    waiter: Waiter,
    /// For the second connection beside a silent connection.
    second_waiter: Waiter,
    names: Names,
    kept: Option<Kept>,
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
        let servers = Servers::new(settings)?;
        let (waiter, wake) = servers::waiter("the Redis source")?;
        let (second_waiter, _) = servers::waiter("the second connection to Redis")?;
        let (handle, names) = requests::interest(wake);
        let source = Self {
            servers,
            status,
            waiter,
            second_waiter,
            names,
            kept: None,
        };
        Ok((source, handle))
    }

    /// Gives the messages of the feed their positions, and publishes marks on the channel, so that the
    /// positions are valid on all instances. The caller subscribes to the names of the feed.
    ///
    /// # Errors
    /// The system has no descriptor or thread left.
    pub fn with_kept(mut self, feed: KeptFeed, channel: &str) -> Result<Self, RedisError> {
        self.kept = Some(Kept::start(feed, self.servers.clone(), channel)?);
        Ok(self)
    }

    fn use_connection(&mut self, relay: &mut Relay<RedisError>) -> Result<Stop, Stop> {
        let mut connection = self.servers.connect_and_watch(&mut self.waiter)?;
        self.names.take_all();
        let server = connection.server();
        relay.status.set_up(false);
        if let Some(kept) = &mut self.kept {
            kept.connected(&mut connection, &relay.status)?;
        }
        let mut session = Session {
            connection,
            servers: &self.servers,
            probe: Probe::new(Self::NAME, &self.servers.settings.times),
            second_waiter: &mut self.second_waiter,
            relay,
            names: &mut self.names,
            kept: self.kept.as_mut(),
            expected: VecDeque::new(),
        };
        session.restore()?;
        session.begin_feed()?;
        let away_ms = session.relay.report_up()?;
        session.show_refusals();
        session.relay.link.send(BusEvent::CaughtUp)?;
        match session.names.ledger.refused_of_wanted() {
            (0, _) => tracing::info!(server, away_ms, "subscribed on Redis"),
            (refused, of) => tracing::warn!(
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

impl Bus for RedisSource {
    type Error = RedisError;
    const NAME: &'static str = "Redis";
    const OUTAGE_LOSES_MESSAGES: bool = true;

    fn shared(&self) -> (&Arc<BusStatus>, &LinkTimes) {
        (&self.status, &self.servers.settings.times)
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<RedisError>) -> Stop {
        self.names.take_all();
        let stop = self.use_connection(relay).unwrap_or_else(|stop| stop);
        self.servers.ended(&stop);
        let has_stood = relay.stands_now();
        let told = self.names.lost(has_stood, &relay.link);
        told.map_or(Stop::LoopGone, |()| stop)
    }
}
