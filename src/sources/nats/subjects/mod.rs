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
//! | `sids` | the numbers of subscriptions; pure |
//! | `protocol`, `words` | the client protocol of NATS, and the words of its errors; pure |

mod last_values;
mod protocol;
mod retained;
mod session;
mod sids;
mod wire;
mod words;

use std::sync::Arc;

use self::session::{Session, State};
use self::wire::Wire;
use super::error::{NatsError, Stop};
use super::settings::{Endpoint, NatsSettings, learn};
use crate::feeds::BusEvent;
use crate::log_budget::LogBudget;
use crate::sources::interest::{self, BusInterest, Wishes};
use crate::sources::ledger::Ledger;
use crate::sources::relay::{Bus, Relay};
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
    /// Servers of the cluster that the URL does not name, tried after those.
    learned: Vec<Endpoint>,
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
            learned: Vec::new(),
        };
        Ok((source, handle))
    }

    /// Tries every server once; the error is the last one's. What the server says of its cluster is
    /// learned.
    fn connect(&mut self) -> Result<Wire, NatsError> {
        let mut last = NatsError::Lost;
        let known = self.learned.clone().into_iter().map(Ok);
        let payload_bytes_max = self.settings.payload_bytes_max;
        let settings = &self.settings.nats;
        for endpoint in settings.endpoints().chain(known) {
            let opened = endpoint.and_then(|endpoint| {
                Wire::open(&mut self.waiter, &endpoint, settings, payload_bytes_max)
            });
            match opened {
                Ok(mut wire) => {
                    let configured: Vec<_> = settings.endpoints().flatten().collect();
                    let told = std::mem::take(&mut wire.neighbours);
                    learn(&mut self.learned, told, &configured);
                    return Ok(wire);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn use_connection(
        &mut self,
        wire: &mut Wire,
        relay: &mut Relay<NatsError>,
    ) -> Result<Stop, Stop> {
        self.wishes.take_into(&mut self.ledger);
        relay.status.set_up(false);
        let mut session = Session {
            waiter: &mut self.waiter,
            wire,
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

    fn reconnect_delays_ms(&self) -> (u64, u64) {
        let settings = &self.settings.nats;
        (
            settings.reconnect_delay_min_ms,
            settings.reconnect_delay_max_ms,
        )
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<NatsError>) -> Stop {
        self.wishes.take_into(&mut self.ledger);
        self.has_stood = false;
        let stop = match self.connect() {
            Ok(mut wire) => {
                let stop = self.use_connection(&mut wire, relay);
                wire.leave(&self.waiter);
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
