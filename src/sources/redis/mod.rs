//! The Redis pub/sub source: relays channels and patterns that may change while the source runs.
//!
//! Gateways request names through a [`BusInterest`], which never waits. The source owns the set
//! of wanted names and keeps the subscriptions on Redis equal to this set:
//!
//! - Events come in the order in which Redis sends, over all channels and patterns, with
//!   [`BusEvent::Subscribed`] among them: messages published after the confirmation of Redis come
//!   behind `Subscribed`.
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
//! | `mod` | the choice of the server, and a session there; `super::relay` has the thread |
//! | `session` | a connection: pushes, confirmations, pings |
//! | `connection` | bytes and values, questions with answers; `super::socket` has the socket |
//! | `handshake` | logging in, and the second connection beside a silent one; `super::probe` has the rule |
//! | `sentinel` | where the master is |
//! | `ask` | the checks before a start |
//! | `feed` | the kept feed on a connection: positions, and marks that come |
//! | `marks` | the thread that publishes marks, which make positions valid on other instances |
//! | `stream` | the source that reads a stream in place of channels |
//! | `publish` | connections that publish: for gateways that speak to each other, and for a command |
//! | `resp`, `settings`, `error` | pure: the protocol; URLs; error texts |

mod ask;
mod connection;
mod error;
mod feed;
mod handshake;
mod marks;
mod publish;
pub mod resp;
mod sentinel;
mod session;
mod settings;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use self::connection::Connection;
use self::error::Stop;
use self::handshake::Second;
use self::marks::MarkPublisher;
use self::sentinel::Watch;
use self::session::{Session, State};
use super::interest::{self, BusInterest, Wishes};
use super::kept::KeptFeed;
use super::ledger::Ledger;
use super::probe::Probe;
use super::relay::{Bus, LinkTimes, Relay};
use super::socket::Waiter;
use crate::base::{LogBudget, tls_roots};
use crate::feeds::BusEvent;
use crate::telemetry::BusStatus;

pub use self::ask::{RedisNeeds, ask};
pub use self::error::RedisError;
pub use self::marks::says_lone_master;
pub use self::publish::{RedisPublisher, RedisSender, RedisSenders};
pub use self::settings::{REDIS_PORT, RedisEndpoint, RedisSettings, SENTINEL_PORT};
pub use self::stream::{RedisStreamSource, StreamReader, Trouble};

/// The time that TLS, log-in and the question for the role may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most log lines about names, a second.
const LINES_PER_SECOND: u32 = 5;

/// Relays publications, for ever.
pub struct RedisSource {
    settings: RedisSettings,
    status: Arc<BusStatus>,
    tls: Option<Arc<ClientConfig>>,
    waiter: Waiter,
    /// For the second connection beside a silent connection.
    second_waiter: Waiter,
    wishes: Wishes,
    ledger: Ledger,
    lines: LogBudget,
    /// Whether all wanted names were confirmed on the current connection.
    has_stood: bool,
    /// The sentinel that answered last.
    first_sentinel: usize,
    kept: Option<Kept>,
}

/// The kept feed, and the way to publish its marks.
struct Kept {
    feed: KeptFeed,
    marks: MarkPublisher,
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
        let tls = tls_config(&settings)?;
        let waiter = Waiter::new("the Redis source");
        let (waiter, wake) = waiter.map_err(|source| RedisError::System { source })?;
        let second_waiter = Waiter::new("the second connection to Redis");
        let (second_waiter, _) = second_waiter.map_err(|source| RedisError::System { source })?;
        let (handle, wishes) = interest::interest(wake);
        let source = Self {
            settings,
            status,
            tls,
            waiter,
            second_waiter,
            wishes,
            ledger: Ledger::default(),
            lines: LogBudget::new(LINES_PER_SECOND),
            has_stood: false,
            first_sentinel: 0,
            kept: None,
        };
        Ok((source, handle))
    }

    /// Gives the messages of the feed their positions, and publishes marks on the channel, so that the
    /// positions are valid on all instances. The caller subscribes to the names of the feed.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or the system has no thread left.
    pub fn with_kept(mut self, feed: KeptFeed, channel: &str) -> Result<Self, RedisError> {
        let marks = MarkPublisher::start(self.settings.clone(), channel.into())?;
        self.kept = Some(Kept { feed, marks });
        Ok(self)
    }

    fn use_connection(&mut self, relay: &mut Relay<RedisError>) -> Result<Stop, Stop> {
        let (mut connection, endpoint, master) = connect(
            &mut self.waiter,
            &self.settings,
            self.tls.as_ref(),
            &mut self.first_sentinel,
        )?;
        self.wishes.take_into(&mut self.ledger);
        let server = connection.server().to_owned();
        relay.status.set_up(false);
        let mut kept = self.kept.as_mut();
        let may_share = match &mut kept {
            Some(kept) => kept.connected(&mut connection, &relay.status)?,
            None => false,
        };
        let silence_max = Duration::from_millis(self.settings.times.silence_max_ms);
        let mut session = Session {
            connection,
            master,
            probe: Probe::new(Self::NAME, silence_max),
            second: Second {
                waiter: &mut self.second_waiter,
                tls: self.tls.as_ref(),
                endpoint,
            },
            settings: &self.settings,
            relay,
            wishes: &self.wishes,
            ledger: &mut self.ledger,
            lines: &mut self.lines,
            state: State::new(),
            has_stood: false,
            kept,
            may_share,
        };
        session.restore()?;
        session.begin_feed()?;
        let away_ms = session.relay.stands()?;
        session.has_stood = true;
        self.has_stood = true;
        session.show_refusals();
        session.relay.link.send(BusEvent::CaughtUp)?;
        match session.ledger.refused_of_wanted() {
            (0, _) => tracing::info!(server, away_ms, "subscribed on Redis"),
            (refused, of) => tracing::warn!(
                server,
                away_ms,
                refused,
                of,
                "subscribed on Redis, without the refused names"
            ),
        }
        Ok(session.run())
    }
}

impl Bus for RedisSource {
    type Error = RedisError;
    const NAME: &'static str = "Redis";
    const OUTAGE_LOSES_MESSAGES: bool = true;

    fn status(&self) -> &Arc<BusStatus> {
        &self.status
    }

    fn times(&self) -> &LinkTimes {
        &self.settings.times
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<RedisError>) -> Stop {
        self.wishes.take_into(&mut self.ledger);
        self.has_stood = false;
        let stop = self.use_connection(relay).unwrap_or_else(|stop| stop);
        let told = self
            .wishes
            .lost(&mut self.ledger, self.has_stood, &relay.link);
        told.map_or(Stop::LoopGone, |()| stop)
    }
}

/// The TLS configuration, if the server or a sentinel has TLS.
///
/// # Errors
/// The certificates cannot be read, or the name in the master's certificate is not certain.
fn tls_config(settings: &RedisSettings) -> Result<Option<Arc<ClientConfig>>, RedisError> {
    let with_tls = |endpoint: &RedisEndpoint| endpoint.tls;
    if !with_tls(&settings.server) && !settings.sentinels.iter().any(with_tls) {
        return Ok(None);
    }
    settings.check_tls_name()?;
    let trusting = tls_roots::client_config(settings.tls_ca_file.as_deref())?;
    Ok(Some(Arc::new(trusting.with_no_client_auth())))
}

/// Connects to the server, or to the master that the sentinels name, with a watch over them.
fn connect<'w>(
    waiter: &'w mut Waiter,
    settings: &RedisSettings,
    tls: Option<&Arc<ClientConfig>>,
    first_sentinel: &mut usize,
) -> Result<(Connection<'w>, RedisEndpoint, Option<Watch>), RedisError> {
    let has_sentinels = !settings.sentinels.is_empty();
    let endpoint = match has_sentinels {
        true => sentinel::find_master(waiter, settings, tls, first_sentinel)?,
        false => settings.server.clone(),
    };
    let timeout = Duration::from_millis(settings.connect_timeout_ms);
    let mut connection = Connection::open(waiter, &endpoint, tls, timeout)?;
    let until = Instant::now() + HANDSHAKE_TIMEOUT;
    handshake::log_in(&mut connection, &endpoint, until)?;
    if !has_sentinels {
        return Ok((connection, endpoint, None));
    }
    handshake::check_role(&mut connection, until)?;
    let master = endpoint.clone();
    let watch = Watch::start(settings.clone(), tls.cloned(), master, *first_sentinel)?;
    Ok((connection, endpoint, Some(watch)))
}
