//! The Redis pub/sub source: relays channels and patterns that may change while it runs.
//!
//! Others say what they want through a [`BusInterest`], which never waits. The source owns the set
//! of wanted names and keeps Redis at it:
//!
//! - Events come in the order in which Redis sends, over all channels and patterns, and
//!   [`BusEvent::Subscribed`] stands among them: what is published after Redis confirmed comes
//!   behind it.
//! - While Redis is there, each [`BusInterest::subscribe`] is answered by `Subscribed`, by
//!   [`BusEvent::Refused`] (Redis's rules forbid it; asked again every 30 s and after each
//!   reconnection, told once), or, if the link is lost first, by [`BusEvent::Down`]. One whose name
//!   stands already is answered at once; several wishes for one name have one answer.
//! - While Redis is away a wish only changes the set. [`BusEvent::Up`] comes when everything that
//!   was wanted at that moment is confirmed or refused, with `CaughtUp` right behind it (there is
//!   no backlog); each confirmation before it is told as `Subscribed` too.
//! - Wishes have numbers ([`BusInterest::subscribe_numbered`]). `Subscribed` and `Refused` bring the
//!   number of the newest wish for the name that the source had taken, so who has wished anew since
//!   can tell that the answer is not for the newer wish.
//! - Quick changes of mind end in the last one: each name has one command on its way at most.
//!   Commands carry up to 256 names and are sent without waiting for answers. Up to 32 KiB of them are
//!   on their way: a busy server reads none, and they must not fill the link. While names are restored
//!   on a new connection it is 1 MiB, up to 8,192 names. Wishes that the source has not taken are kept once for each name.
//! - A lost link is one [`BusEvent::Gap`], if it ever stood, and one [`BusEvent::Down`], however
//!   many attempts follow. They go on for ever, after 100 ms doubling to 2 s. A link that is lost
//!   while the names are restored is one more `Gap`, if one of them stood on it.
//! - A server that was silent for a second is pinged. After two more seconds the status says that
//!   the bus is away, but the connection is kept: a busy server delivers everything once it is
//!   done. A second connection, which subscribes to nothing, shows what is wrong. If the server
//!   accepts no connection, or answers there and says nothing on the first one for another second,
//!   or nothing answers for 30 s, the first connection is given up. Any byte counts as a sign of
//!   life.
//!
//! One thread does all of it. It waits for the socket and for wishes in one poll, so it neither
//! blocks in a read nor in a write, and TLS goes the same way. When the loop's channel is full it
//! waits there, reads nothing, and Redis keeps what comes up to its limit for us
//! (`client-output-buffer-limit pubsub`); beyond it Redis ends the connection, which is a gap.
//! With sentinels, a second thread asks them once a second whether the master has moved; a server
//! that is no longer the master is left.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | which server, and one session on it; `super::relay` has the thread |
//! | `session` | one connection: pushes, confirmations, pings |
//! | `connection` | bytes and values, questions with answers; `super::socket` has the socket |
//! | `handshake` | logging in, and the second connection beside a silent one; `super::probe` has the rule |
//! | `sentinel` | where the master is |
//! | `ask` | what is asked before a start, for a check |
//! | `publish` | connections that publish: for gateways that speak to each other, and for a command |
//! | `resp`, `settings`, `error` | pure: the protocol; URLs; words |

mod ask;
mod connection;
mod error;
mod handshake;
mod publish;
pub mod resp;
mod sentinel;
mod session;
mod settings;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use self::connection::Connection;
use self::error::Stop;
use self::handshake::Second;
use self::sentinel::Watch;
use self::session::{Session, State};
use super::interest::{self, BusInterest, Wishes};
use super::ledger::Ledger;
use super::probe::Probe;
use super::relay::{Bus, LinkTimes, Relay};
use super::socket::Waiter;
use crate::base::{LogBudget, tls_roots};
use crate::feeds::BusEvent;
use crate::telemetry::BusStatus;

pub use self::ask::{RedisNeeds, ask};
pub use self::error::RedisError;
pub use self::publish::{RedisPublisher, RedisSender};
pub use self::settings::{Endpoint, REDIS_PORT, RedisSettings, SENTINEL_PORT};

/// How long TLS, log-in and the question for the role may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines about names, a second.
const LINES_PER_SECOND: u32 = 5;

/// Relays publications, for ever.
pub struct RedisSource {
    settings: RedisSettings,
    status: Arc<BusStatus>,
    tls: Option<Arc<ClientConfig>>,
    waiter: Waiter,
    /// For the second connection beside one that is silent.
    second_waiter: Waiter,
    wishes: Wishes,
    ledger: Ledger,
    lines: LogBudget,
    /// Everything wanted stood on the connection in use.
    has_stood: bool,
    /// The sentinel that answered last.
    first_sentinel: usize,
}

impl RedisSource {
    /// A source and the handle for its wishes, which may be used before the source runs. `status`
    /// is kept true from here on.
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
        };
        Ok((source, handle))
    }

    fn use_connection(&mut self, relay: &mut Relay<RedisError>) -> Result<Stop, Stop> {
        let (connection, endpoint, master) = connect(
            &mut self.waiter,
            &self.settings,
            self.tls.as_ref(),
            &mut self.first_sentinel,
        )?;
        self.wishes.take_into(&mut self.ledger);
        let server = connection.server().to_owned();
        relay.status.set_up(false);
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
        };
        session.restore()?;
        let away_ms = session.relay.stands()?;
        session.has_stood = true;
        self.has_stood = true;
        session.show_refusals();
        session.relay.link.send(BusEvent::CaughtUp)?;
        tracing::info!(server, away_ms, "subscribed on Redis");
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

/// What TLS connections trust, where there is one.
///
/// # Errors
/// The certificates cannot be read, or it is not certain which name the master's must have.
fn tls_config(settings: &RedisSettings) -> Result<Option<Arc<ClientConfig>>, RedisError> {
    let with_tls = |endpoint: &Endpoint| endpoint.tls;
    if !with_tls(&settings.server) && !settings.sentinels.iter().any(with_tls) {
        return Ok(None);
    }
    settings.check_tls_name()?;
    let trusting = tls_roots::client_config(settings.tls_ca_file.as_deref())?;
    Ok(Some(Arc::new(trusting.with_no_client_auth())))
}

/// A connection to the server, or to the master that the sentinels name, with a watch over them.
fn connect<'w>(
    waiter: &'w mut Waiter,
    settings: &RedisSettings,
    tls: Option<&Arc<ClientConfig>>,
    first_sentinel: &mut usize,
) -> Result<(Connection<'w>, Endpoint, Option<Watch>), RedisError> {
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
