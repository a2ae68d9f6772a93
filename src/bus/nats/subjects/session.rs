//! A connection from its log-in to its loss: messages and confirmations out, requests in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::connection::Connection;
use super::super::error::{NatsError, Stop};
use super::super::protocol::{Delivery, INBOX_PREFIX, Op};
use super::super::server_search::ServerSearch;
use super::NatsSubjectsSource;
use super::changes::PendingChanges;
use super::publishing::Publishing;
use super::retained::{FIRST_SID, QuestionSettings, Retained};
use super::sids::Sids;
use crate::relay::Relay;
use weirgate_core::{BusEvent, BusMessage, Place, SkippedMessage, Subscription};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::Now;

/// A session: the source, a connection, and its state.
pub(super) struct SubjectsSession<'a> {
    pub(super) source: &'a mut NatsSubjectsSource,
    pub(super) connection: &'a mut Connection,
    /// Decides whether this connection is kept during a silence.
    search: &'a mut ServerSearch,
    pub(super) relay: &'a mut Relay<NatsError>,
    /// How long interest travels to the other servers after the confirmation of this server.
    pub(super) settle: Duration,
    pub(super) sids: Sids,
    pub(super) changes: PendingChanges,
    pub(super) retained: Retained,
    /// When the server was last found alive while it made a consumer and answered nothing else on this connection.
    found_alive: Option<Instant>,
}

/// How often a server is looked at that makes a consumer and answers nothing else on the connection.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

impl<'a> SubjectsSession<'a> {
    /// A session on a new connection, without subscriptions.
    pub(super) fn new(
        source: &'a mut NatsSubjectsSource,
        connection: &'a mut Connection,
        search: &'a mut ServerSearch,
        relay: &'a mut Relay<NatsError>,
    ) -> Self {
        Self {
            settle: source.settings.settle.after(connection.info.is_clustered()),
            retained: Retained::new(
                QuestionSettings {
                    has_last_values: source.settings.is_retained,
                    stream: source.settings.stream.clone(),
                    payload_bytes_max: source.settings.payload_bytes_max,
                },
                source.progress.clone(),
                source.answer_bytes,
            ),
            source,
            connection,
            search,
            relay,
            sids: Sids::default(),
            changes: PendingChanges::default(),
            found_alive: None,
        }
    }

    /// Takes turns until all names wanted at the start of the connection are subscribed; relays messages meanwhile.
    pub(super) fn restore(&mut self) -> Result<(), Stop> {
        self.source.names.begin_connection();
        while !self.source.names.ledger.is_restored() {
            self.turn()?;
        }
        Ok(())
    }

    /// Relays until the connection is lost or silent, or the loop is gone. Then all questions end: the gateway asks
    /// again for clients that still wait.
    pub(super) fn run(&mut self) -> Stop {
        let stop = loop {
            if let Err(stop) = self.turn_with_questions() {
                break stop;
            }
        };
        self.retained.close(self.connection.out());
        self.source.answer_bytes = self.retained.answer_bytes;
        match self.send_retained() {
            Err(gone @ Stop::LoopGone) => gone,
            _ => stop,
        }
    }

    /// Takes a turn after all names are restored, with questions for last values.
    fn turn_with_questions(&mut self) -> Result<(), Stop> {
        self.work_on_questions()?;
        self.turn()
    }

    /// Reads at most once, then handles the bytes and the requests. Waits if there was nothing to read.
    fn turn(&mut self) -> Result<(), Stop> {
        self.source.names.take_and_answer(&self.relay.link)?;
        // If this read fails, no message is lost: the messages of earlier reads were handed over.
        let has_read = self.connection.read(&mut self.source.waiter)?;
        if has_read {
            let is_restored = self.source.names.ledger.is_restored();
            self.search.end_silence(self.relay, is_restored)?;
            self.relay_all()?;
        }
        let until = self.watch(!has_read)?;
        self.report_settled()?;
        self.log_lateness();
        let publishing = self.source.publishing.as_ref();
        let dues = [
            self.retained.due(),
            self.source.names.ledger.settle_due(),
            self.changes.due(),
            publishing.map(Publishing::due).transpose()?,
        ];
        let until = dues.into_iter().flatten().fold(until, Instant::min);
        self.send_changes();
        if let Some(publishing) = &mut self.source.publishing {
            publishing.publish(self.connection);
        }
        self.source.names.show();
        self.connection.flush(&mut self.source.waiter)?;
        if has_read {
            self.relay.note_work();
        } else if self.connection.queued_bytes() > 0
            || !(self.source.publishing.as_ref()).is_some_and(Publishing::has_waiting)
        {
            // Not while messages wait to be published, unless the socket takes nothing.
            self.connection
                .wait(&mut self.source.waiter, self.relay, until)?;
        }
        Ok(())
    }

    /// Pings a silent server, and looks elsewhere if the silence goes on. Gives the connection up if a subscription is not
    /// confirmed for too long. Returns the time of the next look.
    fn watch(&mut self, is_silent: bool) -> Result<Instant, Stop> {
        self.source.names.retry_refused();
        let nats = &self.source.settings.nats;
        let oldest_sent = self.changes.oldest_sent().filter(|_| is_silent);
        if let Some(ms) = nats.times.unanswered_ms(oldest_sent) {
            return Err(NatsError::Unconfirmed(ms).into());
        }
        // No stream is read here, so the other server has to answer about none.
        if self.source.is_restored && self.search.find_successor(&[], nats, self.connection) {
            return Err(NatsError::LameDuck.into());
        }
        match self
            .connection
            .watch(&self.source.settings.nats.times, is_silent)
        {
            Some(next) => Ok(next),
            None => self.check_other_server(),
        }
    }

    /// Handles a silent server or a dead link. Returns the time of the next look.
    fn check_other_server(&mut self) -> Result<Instant, Stop> {
        let now = Instant::now();
        if self.retained.holds_connection(now) && self.is_alive(now) {
            return Ok(now + ALIVE_INTERVAL);
        }
        let nats = &self.source.settings.nats;
        let next = self.search.probe_if_due(
            self.connection.last_received(),
            self.relay,
            nats,
            self.connection,
        )?;
        // Bytes that arrived during the second connection end the silence.
        if next.is_none() && self.connection.has_news(&mut self.source.waiter)? {
            return Ok(Instant::now());
        }
        next.ok_or_else(|| self.connection.silent().into())
    }

    /// Whether the server answers on a second connection, now or a moment ago. Logs the first time of a silence.
    fn is_alive(&mut self, now: Instant) -> bool {
        let last_received = self.connection.last_received();
        let found = self.found_alive.filter(|found| *found >= last_received);
        if found.is_some_and(|found| now < found + ALIVE_INTERVAL) {
            return true;
        }
        if !ServerSearch::is_alive(&self.source.settings.nats, self.connection) {
            return false;
        }
        if found.is_none() {
            tracing::warn!(
                silent_ms = last_received.elapsed().as_millis() as u64,
                "NATS takes long to find last values, and answers nothing else on this connection \
                 meanwhile; newer versions of nats-server are faster"
            );
        }
        self.found_alive = Some(Instant::now());
        true
    }

    /// Handles all operations that were read.
    fn relay_all(&mut self) -> Result<(), Stop> {
        let received = self.relay.link.now();
        while let Some(op) = self.connection.next_op()? {
            match op {
                Op::Message(delivery) => self.message(delivery, received)?,
                Op::Pong => self.ponged()?,
                Op::Error(words) => self.handle_server_error(words)?,
                Op::Info(_) | Op::Ok | Op::Ping => {}
            }
        }
        Ok(())
    }

    /// Handles a delivery. From [`FIRST_SID`] on, its `sid` is that of a question about stored messages, otherwise that
    /// of a requested name. Drops messages of names that are not requested any more or are still to be restored, and
    /// those that a pattern has had before.
    fn message(&mut self, delivery: Delivery, received: Now) -> Result<(), Stop> {
        if delivery.sid >= FIRST_SID {
            let last_received = self.connection.last_received();
            self.retained
                .take(delivery, last_received, self.connection.out());
            return self.send_retained();
        }
        let Some(subscription) = self.sids.get(delivery.sid).cloned() else {
            return Ok(());
        };
        if came_by_inbox(&subscription, &delivery) {
            return Ok(());
        }
        // Until a name is restored after an outage, its messages are part of the gap that was reported.
        let is_restoring = || self.source.names.ledger.is_restoring(&subscription);
        if !self.settle.is_zero() && is_restoring() {
            return Ok(());
        }
        // A pattern of all subjects brings weirgate's own requests and their answers too; no stream stores those.
        let mut own = [INBOX_PREFIX, "$JS."].into_iter();
        if !own.any(|own| delivery.subject.starts_with(own.as_bytes())) {
            self.retained
                .note_live(&delivery, self.connection.last_received());
        }
        self.hand_over(&subscription, delivery, received)
    }

    /// Hands a message of a subscription over to the loop.
    fn hand_over(
        &mut self,
        subscription: &Subscription,
        delivery: Delivery,
        received: Now,
    ) -> Result<(), Stop> {
        let Some(place) = self.place(subscription, &delivery.subject) else {
            return Ok(());
        };
        let name = Arc::clone(&subscription.name);
        let (subject, pattern) = match (subscription.is_pattern, delivery.name()) {
            (false, _) => (name, None),
            (true, Ok(subject)) => (subject.into(), Some(name)),
            (true, Err(why)) => {
                return Ok(self.relay.link.send(BusEvent::Skipped(SkippedMessage {
                    subscription: subscription.clone(),
                    place,
                    id: None,
                    why,
                }))?);
            }
        };
        let message = BusMessage {
            pattern,
            place,
            ..BusMessage::new(subject, delivery.payload, received)
        };
        let event = BusEvent::of(message, delivery.is_deletion);
        match &mut self.source.publishing {
            Some(publishing) => publishing.hand_over(event, &self.relay.link),
            None => Ok(self.relay.link.send(event)?),
        }
    }

    /// Once all names of the kept feed are subscribed: begins to count its messages, or reports that they get no
    /// positions. Does nothing if the feed has begun.
    pub(super) fn begin_feed(&mut self) -> Result<(), Stop> {
        if let Some(kept) = self.source.kept.as_mut().filter(|kept| kept.may_begin()) {
            self.relay.link.send(kept.begin())?;
        }
        Ok(())
    }

    /// The place of a message in the kept feed; `None` for a copy of a message that has a place already.
    fn place(&mut self, by: &Subscription, subject: &[u8]) -> Option<Place> {
        let Some(kept) = &mut self.source.kept else {
            return Some(Place::Outside);
        };
        kept.place(by, subject)
    }
}

/// Whether a pattern gets this message only because it also matches the subject of a consumer, as `>` matches the inbox of
/// each: the message may be old, and the pattern has got it when it was published.
fn came_by_inbox(by: &Subscription, delivery: &Delivery) -> bool {
    let matches = |subject: &str| NameSyntax::Nats.contains(&by.name, subject);
    by.is_pattern && delivery.is_of_a_consumer() && delivery.name().is_ok_and(matches)
}
