//! Subjects and patterns of subjects that may change while the source runs, without JetStream: for
//! clients that choose what they want.
//!
//! Others say what they want through a [`BusInterest`], which never waits. What comes back is told as
//! the Redis source tells it ([`crate::sources::interest`], [`crate::sources::ledger`]): events come in
//! the order in which the server sends, over all subjects; [`BusEvent::Subscribed`] stands among them
//! once the server has answered a PING behind the SUB; [`BusEvent::Refused`] where the server's
//! permissions forbid a subject (asked again every 30 s and after each reconnection, told once); a lost
//! connection is one [`BusEvent::Gap`], if anything stood, and one [`BusEvent::Down`].
//!
//! Each wanted subject or pattern is one subscription on the server, so a message that several of them
//! match comes once for each.
//!
//! This does not use the `nats` crate. The crate gives each subscription a channel of its own, which
//! loses the order between subjects, keeps any number of messages in memory, and has to be waited for
//! with a look at each of them. Here one thread waits for the socket and for changes of interest in one
//! poll. When the loop's channel is full it waits there and reads nothing, and the server keeps what
//! comes up to its limit for a connection (`max_pending`); beyond it the server ends the connection,
//! which is a gap.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | which server, and one session on it |
//! | `session` | messages, confirmations, refusals, pings |
//! | `retained`, `last_values` | last values, from JetStream, of subjects and of patterns; pure |
//! | `wire` | connecting, TLS, logging in, bytes in and out |
//! | `protocol` | the client protocol of NATS, and the numbers of subscriptions; pure |

mod last_values;
pub(super) mod protocol;
mod retained;
mod session;
pub(super) mod wire;

use std::sync::Arc;
use std::time::Duration;

use self::session::{Session, State};
use self::wire::{Patience, Wire};
use super::error::{NatsError, Stop};
use super::servers::{Second, Servers};
use super::settings::NatsSettings;
use crate::base::LogBudget;
use crate::feeds::BusEvent;
use crate::sources::interest::{self, BusInterest, Wishes};
use crate::sources::ledger::Ledger;
use crate::sources::relay::{Bus, LinkTimes, Relay};
use crate::sources::socket::Waiter;
use crate::telemetry::BusStatus;

/// Lines about subjects, a second.
const LINES_PER_SECOND: u32 = 5;

/// Settings of a [`NatsSubjectsSource`].
#[derive(Clone)]
pub struct NatsSubjectsSettings {
    /// Servers, log-in and TLS; streams and consumers are not used.
    pub nats: NatsSettings,
    /// A payload with more bytes than this is not kept whole: of it, one byte more is handed over.
    pub payload_bytes_max: usize,
    /// Last values of one pattern that are sent.
    pub retained_subjects_max: usize,
    /// When a subscription counts as confirmed.
    pub settle: Settle,
}

/// How long interest may travel from the server of a connection to the others. The server confirms a
/// subscription before the others know of it, and what is published there until then does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Between the server's confirmation and ours.
    pub time: Duration,
    /// Of every server; `false`: only of one that names a cluster.
    pub always: bool,
}

impl Settle {
    /// On a server that names a cluster or does not.
    fn after(self, is_clustered: bool) -> Duration {
        match self.always || is_clustered {
            true => self.time,
            false => Duration::ZERO,
        }
    }
}

/// Relays the subjects and patterns that somebody wants, for ever.
pub struct NatsSubjectsSource {
    settings: NatsSubjectsSettings,
    status: Arc<BusStatus>,
    waiter: Waiter,
    wishes: Wishes,
    ledger: Ledger,
    lines: LogBudget,
    /// Everything wanted stood on the connection in use.
    has_stood: bool,
    servers: Servers,
}

impl NatsSubjectsSource {
    /// A source and the handle for its wishes, which may be used before the source runs. `status`
    /// is kept true from here on.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(
        settings: NatsSubjectsSettings,
        status: Arc<BusStatus>,
    ) -> Result<(Self, BusInterest), NatsError> {
        let waiter = Waiter::new("the NATS source");
        let (waiter, wake) = waiter.map_err(|source| NatsError::NoPoll { source })?;
        let (handle, wishes) = interest::interest(wake);
        let source = Self {
            settings,
            status,
            waiter,
            wishes,
            ledger: Ledger::default(),
            lines: LogBudget::new(LINES_PER_SECOND),
            has_stood: false,
            servers: Servers::default(),
        };
        Ok((source, handle))
    }

    fn use_connection(
        &mut self,
        wire: &mut Wire,
        second: &mut Second,
        relay: &mut Relay<NatsError>,
    ) -> Result<Stop, Stop> {
        self.wishes.take_into(&mut self.ledger);
        relay.status.set_up(false);
        let settle = self.settings.settle.after(wire.is_clustered);
        let mut session = Session {
            waiter: &mut self.waiter,
            wire,
            second,
            settings: &self.settings.nats,
            settle,
            relay,
            wishes: &self.wishes,
            ledger: &mut self.ledger,
            lines: &mut self.lines,
            state: State::new(self.settings.retained_subjects_max),
        };
        session.restore()?;
        let away_ms = session.relay.stands()?;
        self.has_stood = true;
        session.relay.link.send(BusEvent::CaughtUp)?;
        let url = session.wire.url.clone();
        tracing::info!(url, away_ms, "subscribed on NATS");
        // Questions for last values go with the connection: who still waits asks again.
        Ok(session.run())
    }
}

impl Bus for NatsSubjectsSource {
    type Error = NatsError;
    const NAME: &'static str = "NATS";
    const OUTAGE_LOSES_MESSAGES: bool = true;

    fn status(&self) -> &Arc<BusStatus> {
        &self.status
    }

    fn times(&self) -> &LinkTimes {
        &self.settings.nats.times
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<NatsError>) -> Stop {
        self.wishes.take_into(&mut self.ledger);
        self.has_stood = false;
        let (settings, waiter) = (&self.settings, &mut self.waiter);
        let nats = &settings.nats;
        let connected = self.servers.connect(nats, |endpoint| {
            let bytes_max = settings.payload_bytes_max;
            let mut wire = Wire::open(waiter, endpoint, nats, bytes_max, Patience::USUAL)?;
            let told = std::mem::take(&mut wire.neighbours);
            Ok((wire, told))
        });
        let stop = match connected {
            Ok((mut wire, used)) => {
                let others = self.servers.others(nats, &used);
                let mut second = Second::new(nats, used, others);
                let stop = self.use_connection(&mut wire, &mut second, relay);
                wire.leave(&self.waiter);
                self.servers.prefer(second.better());
                stop.unwrap_or_else(|stop| stop)
            }
            Err(error) => error.into(),
        };
        let told = self
            .wishes
            .lost(&mut self.ledger, self.has_stood, &relay.link);
        told.map_or(Stop::LoopGone, |()| stop)
    }
}
