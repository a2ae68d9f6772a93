//! The Redis pub/sub source: relays channels and patterns that may change while it runs.
//!
//! Others say what they want through [`RedisInterest`], which never waits. The source owns the set
//! of wanted names and keeps Redis at it:
//!
//! - Events come in the order in which Redis sends, over all channels and patterns, and
//!   [`BusEvent::Subscribed`] stands among them: what is published after Redis confirmed comes
//!   behind it.
//! - While Redis is there, each [`RedisInterest::subscribe`] is answered by `Subscribed`, by
//!   [`BusEvent::Refused`] (Redis's rules forbid it; asked again every 30 s and after each
//!   reconnection, told once), or, if the link is lost first, by [`BusEvent::Down`]. One whose name
//!   stands already is answered at once; several wishes for one name have one answer.
//! - While Redis is away a wish only changes the set. [`BusEvent::Up`] comes when everything that
//!   was wanted at that moment is confirmed or refused, with `CaughtUp` right behind it (there is
//!   no backlog); each confirmation before it is told as `Subscribed` too.
//! - Quick changes of mind end in the last one: each name has one command on its way at most.
//!   Commands carry up to 256 names and are sent without waiting for answers; up to 8,192 names are
//!   on their way.
//! - A lost link is one [`BusEvent::Gap`], if it ever stood, and one [`BusEvent::Down`], however
//!   many attempts follow. They go on for ever, after 100 ms doubling to 2 s.
//! - A server that was silent for a second is pinged; one that stays silent for two more is given
//!   up. Any byte counts as a sign of life.
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
//! | `mod` | the thread: connect, run a session, back off, for ever |
//! | `session` | one connection: pushes, confirmations, pings |
//! | `connection`, `stream` | the socket: bytes, TLS, questions with answers |
//! | `handshake`, `sentinel` | logging in; where the master is |
//! | `interest` | the handle |
//! | `ledger`, `resp`, `settings`, `error` | pure: what is wanted and what stands; the protocol; URLs; words |

mod connection;
mod error;
mod handshake;
mod interest;
mod ledger;
mod resp;
mod sentinel;
mod session;
mod settings;
mod stream;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use self::connection::{Connection, Waiter};
use self::error::Stop;
use self::interest::Wishes;
use self::ledger::Ledger;
use self::sentinel::Watch;
use self::session::{Session, State};
use super::backoff::Backoff;
use super::{Source, SourceLink};
use crate::feeds::{BusEvent, Fault};
use crate::log_budget::LogBudget;
use crate::telemetry::BusStatus;
use crate::trust;

pub use self::error::RedisError;
pub use self::interest::RedisInterest;
pub use self::settings::{Endpoint, REDIS_PORT, RedisSettings, SENTINEL_PORT};

/// How long TLS, log-in and the question for the role may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that stood for this long ends the outage for good: the next attempt after its loss
/// is soon again. One that is lost at once does not, or attempts would follow one another closely.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// Lines about names, a second.
const LINES_PER_SECOND: u32 = 5;

/// Relays publications, for ever.
pub struct RedisSource {
    settings: RedisSettings,
    status: Arc<BusStatus>,
    tls: Option<Arc<ClientConfig>>,
    waiter: Waiter,
    wishes: Wishes,
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
    ) -> Result<(Self, RedisInterest), RedisError> {
        let with_tls = |endpoint: &Endpoint| endpoint.tls;
        let tls = match with_tls(&settings.server) || settings.sentinels.iter().any(with_tls) {
            true => {
                let trusting = trust::client_config(settings.tls_ca_file.as_deref())?;
                Some(Arc::new(trusting.with_no_client_auth()))
            }
            false => None,
        };
        let (waiter, waker) = Waiter::new().map_err(|source| RedisError::System { source })?;
        let (handle, wishes) = interest::interest(waker);
        let source = Self {
            settings,
            status,
            tls,
            waiter,
            wishes,
        };
        Ok((source, handle))
    }
}

impl Source for RedisSource {
    fn run(self: Box<Self>, link: SourceLink) {
        let backoff = Backoff::new(
            self.settings.reconnect_delay_min_ms,
            self.settings.reconnect_delay_max_ms,
            link.seed(),
        );
        let relay = Relay {
            settings: self.settings,
            status: self.status,
            tls: self.tls,
            wishes: self.wishes,
            link,
            ledger: Ledger::default(),
            lines: LogBudget::new(LINES_PER_SECOND),
            backoff,
            first_sentinel: 0,
            outage: None,
            has_stood: false,
        };
        relay.run(self.waiter);
    }
}

/// An outage, from the first failure to the next moment at which all subscriptions stand.
struct Outage {
    since: Instant,
    /// What was logged last.
    logged: RedisError,
}

struct Relay {
    settings: RedisSettings,
    status: Arc<BusStatus>,
    tls: Option<Arc<ClientConfig>>,
    wishes: Wishes,
    link: SourceLink,
    ledger: Ledger,
    lines: LogBudget,
    backoff: Backoff,
    first_sentinel: usize,
    outage: Option<Outage>,
    /// Redis was reached once.
    has_stood: bool,
}

impl Relay {
    fn run(mut self, mut waiter: Waiter) {
        loop {
            let stop = self.connect_and_relay(&mut waiter);
            self.ledger.lost();
            let Stop::Bus(error) = stop else {
                return;
            };
            if self.away(error).is_err() {
                return;
            }
            thread::sleep(self.backoff.next_delay());
            self.take_wishes();
        }
    }

    fn connect_and_relay(&mut self, waiter: &mut Waiter) -> Stop {
        let (connection, watch) = match self.connect(waiter) {
            Ok(connected) => connected,
            Err(error) => return Stop::Bus(error),
        };
        self.take_wishes();
        let stop = self.use_connection(connection, watch);
        stop.unwrap_or_else(|stop| stop)
    }

    fn connect<'w>(
        &mut self,
        waiter: &'w mut Waiter,
    ) -> Result<(Connection<'w>, Option<Watch>), RedisError> {
        let settings = &self.settings;
        let tls = self.tls.as_ref();
        let has_sentinels = !settings.sentinels.is_empty();
        let endpoint = match has_sentinels {
            true => sentinel::find_master(waiter, settings, tls, &mut self.first_sentinel)?,
            false => settings.server.clone(),
        };
        let timeout = Duration::from_millis(settings.connect_timeout_ms);
        let mut connection = Connection::open(waiter, &endpoint, tls, timeout)?;
        let until = Instant::now() + HANDSHAKE_TIMEOUT;
        handshake::log_in(&mut connection, &endpoint, until)?;
        if !has_sentinels {
            return Ok((connection, None));
        }
        handshake::check_role(&mut connection, until)?;
        let tls = self.tls.clone();
        let watch = Watch::start(settings.clone(), tls, endpoint, self.first_sentinel)?;
        Ok((connection, Some(watch)))
    }

    /// Wishes that come while there is no connection.
    fn take_wishes(&mut self) {
        for wish in self.wishes.take() {
            match wish.wanted {
                true => drop(self.ledger.want(&wish.subscription)),
                false => self.ledger.unwant(&wish.subscription),
            }
        }
    }

    fn use_connection(
        &mut self,
        connection: Connection<'_>,
        master: Option<Watch>,
    ) -> Result<Stop, Stop> {
        let server = connection.server().to_owned();
        self.status.set_up(false);
        let mut session = Session {
            connection,
            master,
            settings: &self.settings,
            link: &self.link,
            status: &self.status,
            wishes: &self.wishes,
            ledger: &mut self.ledger,
            lines: &mut self.lines,
            state: State::new(),
        };
        session.restore()?;
        self.status.set_up(true);
        self.link.send(BusEvent::Up)?;
        self.link.send(BusEvent::CaughtUp)?;
        if self.has_stood {
            self.status.count_reconnect();
        }
        self.has_stood = true;
        let outage = self.outage.take();
        let away_ms = outage.map(|outage| outage.since.elapsed().as_millis() as u64);
        tracing::info!(server, away_ms, "subscribed on Redis");
        let since = Instant::now();
        let stop = session.run();
        if since.elapsed() >= STEADY_AFTER {
            self.backoff.reset();
        }
        Ok(stop)
    }

    /// Tells of an outage once, and logs each kind of trouble once.
    fn away(&mut self, error: RedisError) -> Result<(), Stop> {
        self.status.set_down(self.link.now().unix_ms);
        match &mut self.outage {
            Some(outage) if outage.logged.same_class(&error) => {
                tracing::debug!(%error, "Redis is still away");
            }
            Some(outage) => {
                tracing::warn!(%error, "Redis is still away; trying again");
                outage.logged = error;
            }
            None => {
                tracing::warn!(
                    %error,
                    messages_lost = self.has_stood,
                    "Redis is away; trying again until it is back"
                );
                let fault = Fault(error.to_string());
                self.outage = Some(Outage {
                    since: Instant::now(),
                    logged: error,
                });
                if self.has_stood {
                    self.link.send(BusEvent::Gap { lost: None })?;
                }
                self.link.send(BusEvent::Down(fault))?;
            }
        }
        Ok(())
    }
}
