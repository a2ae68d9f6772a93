//! A connection from its log-in to its loss: messages and confirmations out, requests in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::connection::Connection;
use super::super::error::{NatsError, Stop, log_error};
use super::super::protocol::{self, Delivery, INBOX_PREFIX, Op};
use super::super::refusals::{PermissionsViolation, violation_in};
use super::super::server_search::ServerSearch;
use super::publishing::Publishing;
use super::retained::{FIRST_SID, QuestionSettings, Retained};
use super::sids::Sids;
use super::{NatsSubjectsSource, QUEUED_BYTES_MAX};
use crate::ledger::SubscriptionChange;
use crate::relay::Relay;
use crate::server_words::shown;
use weirgate_core::{BusEvent, BusMessage, Place, SkippedMessage, Subscription};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::Now;

/// After so long without an answer, a change of subscriptions counts as late.
const LATE: Duration = Duration::from_secs(2);
/// The shortest time between two log lines about late changes.
const LATE_LINES: Duration = Duration::from_secs(30);

/// The limit on names reported as settled between two reads.
const SETTLED_PER_TURN: usize = 1_024;

/// A session: the source, a connection, and its state.
pub(super) struct SubjectsSession<'a> {
    pub(super) source: &'a mut NatsSubjectsSource,
    pub(super) connection: &'a mut Connection,
    /// Decides whether this connection is kept during a silence.
    search: &'a mut ServerSearch,
    pub(super) relay: &'a mut Relay<NatsError>,
    /// How long interest travels to the other servers after the confirmation of this server.
    settle: Duration,
    pub(super) sids: Sids,
    /// The changes without an answer, in order.
    asked: VecDeque<PendingChange>,
    lateness: Lateness,
    pub(super) retained: Retained,
}

/// A change requested from the server.
struct PendingChange {
    change: SubscriptionChange,
    sent: Instant,
    /// The number of the PING after the change. Its PONG confirms what no error has refused.
    ping: u64,
    /// Names refused by the server.
    refused: Vec<Arc<str>>,
    /// The text of an error that names no subject.
    words: Option<String>,
}

/// Which late changes the log has a line for.
#[derive(Debug, Default)]
struct Lateness {
    logged: Option<Instant>,
}

impl Lateness {
    /// Whether to log a line now; `sent` is when the oldest change without an answer was sent.
    fn is_to_be_logged(&mut self, sent: Instant, now: Instant) -> bool {
        let is_logged = self.logged.is_some_and(|logged| now < logged + LATE_LINES);
        let is_due = now >= sent + LATE && !is_logged;
        if is_due {
            self.logged = Some(now);
        }
        is_due
    }

    /// When [`Self::is_to_be_logged`] is true next.
    fn due(&self, sent: Instant) -> Instant {
        let next_line = self.logged.map(|logged| logged + LATE_LINES);
        (sent + LATE).max(next_line.unwrap_or(sent))
    }
}

impl PendingChange {
    /// Whether the server refuses it because the connection has too many subscriptions.
    fn lacks_room(&self) -> bool {
        self.words
            .as_deref()
            .is_some_and(has_too_many_subscriptions)
    }
}

/// Whether an error of the server says that the connection has as many subscriptions as it may have.
fn has_too_many_subscriptions(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("maximum subscriptions exceeded")
}

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
            asked: VecDeque::new(),
            lateness: Lateness::default(),
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
        self.tell_lateness();
        let publishing = self.source.publishing.as_ref();
        let dues = [
            self.retained.due(),
            self.source.names.ledger.settle_due(),
            self.asked
                .front()
                .map(|oldest| self.lateness.due(oldest.sent)),
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

    /// Queues commands for the changes that are due, each change with a PING after it.
    fn send_changes(&mut self) {
        while self.connection.queued_bytes() < QUEUED_BYTES_MAX {
            let Some(change) = self.source.names.ledger.next_change() else {
                return;
            };
            let sids = &mut self.sids;
            let out = self.connection.out();
            for name in &change.names {
                if change.wanted {
                    let subscription = Subscription {
                        name: Arc::clone(name),
                        is_pattern: change.patterns,
                    };
                    // `None`: no queue group, so this connection gets every message.
                    protocol::subscribe(out, name, None, sids.add(subscription));
                } else if let Some(sid) = sids.sid_of(name) {
                    protocol::unsubscribe(out, sid);
                }
            }
            self.asked.push_back(PendingChange {
                change,
                sent: Instant::now(),
                ping: self.connection.ping(),
                refused: Vec::new(),
                words: None,
            });
        }
    }

    /// Pings a silent server, and looks elsewhere if the silence goes on. Gives the connection up if a subscription is not
    /// confirmed for too long. Returns the time of the next look.
    fn watch(&mut self, is_silent: bool) -> Result<Instant, Stop> {
        self.source.names.retry_refused();
        let nats = &self.source.settings.nats;
        let oldest = self.asked.front().filter(|_| is_silent);
        if let Some(ms) = nats.times.unanswered_ms(oldest.map(|oldest| oldest.sent)) {
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

    /// Handles a PONG: everything before the PING was accepted or refused.
    fn ponged(&mut self) -> Result<(), Stop> {
        let connection = &*self.connection;
        self.retained
            .note_pongs(|ping| connection.is_answered(ping));
        if let Some(first) = self.asked.front()
            && self.connection.is_answered(first.ping)
            && let Some(asked) = self.asked.pop_front()
        {
            return self.answered(asked);
        }
        Ok(())
    }

    /// Records for each name of a change what the server has said of it.
    fn answered(&mut self, asked: PendingChange) -> Result<(), Stop> {
        for name in &asked.change.names {
            let subscription = Subscription {
                name: Arc::clone(name),
                is_pattern: asked.change.patterns,
            };
            if !asked.change.wanted {
                self.unsubscribed(&subscription);
            } else if asked.refused.contains(name) || asked.words.is_some() {
                self.not_subscribed(subscription, &asked)?;
            } else {
                self.subscribed(subscription)?;
            }
        }
        Ok(())
    }

    fn unsubscribed(&mut self, subscription: &Subscription) {
        self.sids.remove(&subscription.name);
        self.source.names.ledger.unsubscribed(subscription);
        self.source.names.ledger.retry_without_room();
    }

    /// Handles a name of a change with an error, which may be about another name.
    fn not_subscribed(
        &mut self,
        subscription: Subscription,
        asked: &PendingChange,
    ) -> Result<(), Stop> {
        // The server may have accepted this name.
        if let Some(sid) = self.sids.remove(&subscription.name) {
            protocol::unsubscribe(self.connection.out(), sid);
        }
        let was_alone = asked.change.names.len() == 1;
        let is_about_it = was_alone || asked.refused.contains(&subscription.name);
        let ledger = &mut self.source.names.ledger;
        if !is_about_it {
            ledger.refused_with_others(&subscription);
        } else if let Some(number) = ledger.refused(&subscription) {
            let reason = asked.words.as_deref();
            let reason = reason.unwrap_or("no permission to subscribe");
            self.report_refused(subscription.clone(), number, reason)?;
        }
        if asked.lacks_room() {
            self.source.names.ledger.refused_for_room(subscription);
        }
        Ok(())
    }

    /// Handles a subscription that this server has accepted. In a cluster it counts once the others know of it.
    fn subscribed(&mut self, subscription: Subscription) -> Result<(), Stop> {
        let ledger = &mut self.source.names.ledger;
        if !self.settle.is_zero() {
            ledger.subscribed_from(&subscription, Instant::now() + self.settle);
        } else if let Some(number) = ledger.subscribed(&subscription) {
            self.report_subscribed(subscription, number)?;
        }
        Ok(())
    }

    /// Tells the operator of subscriptions that the server does not confirm in time: their clients have their answer by
    /// then, and get no messages.
    fn tell_lateness(&mut self) {
        let Some(oldest) = self.asked.front() else {
            return;
        };
        let now = Instant::now();
        if !self.lateness.is_to_be_logged(oldest.sent, now) {
            return;
        }
        let name = oldest.change.names.front();
        tracing::warn!(
            name = name.map(|name| shown(name)).unwrap_or_default(),
            late_ms = now.duration_since(oldest.sent).as_millis() as u64,
            changes = self.asked.len(),
            questions = self.retained.asked(),
            "NATS has not confirmed subscriptions: clients get no messages of these names until it does"
        );
    }

    /// The first change without an answer. The server's errors belong to this change.
    fn first_asked(&mut self) -> Option<&mut PendingChange> {
        self.asked.front_mut()
    }

    /// Handles an error of the server.
    fn handle_server_error(&mut self, words: String) -> Result<(), Stop> {
        let violation = violation_in(&words);
        let now = self.connection.last_received();
        if let Some(violation) = &violation
            && self
                .retained
                .not_permitted(violation, now, self.connection.out())
        {
            // Its questions end by themselves, with the reason.
            return self.send_retained();
        }
        match violation {
            Some(PermissionsViolation::Subscribe(subject)) => {
                self.subscription_refused(&subject, &words)
            }
            Some(PermissionsViolation::Publish(subject)) => {
                if !self.publication_refused(&subject) {
                    self.log_error(&words);
                }
                Ok(())
            }
            None if has_too_many_subscriptions(&words) && self.answers_lack_room(&words) => {
                self.send_retained()
            }
            None => {
                // An error without a subject belongs to the change that the next PONG confirms.
                if let Some(asked) = self.first_asked()
                    && asked.change.wanted
                {
                    asked.words = Some(shown(&words));
                }
                self.log_error(&words);
                Ok(())
            }
        }
    }

    /// Handles the error that the connection has too many subscriptions, if the subscription for answers is the oldest request
    /// without an answer. Returns whether that is so.
    fn answers_lack_room(&mut self, words: &str) -> bool {
        let (now, out) = (self.connection.last_received(), self.connection.out());
        let oldest = self.asked.front().map(|asked| asked.ping);
        self.retained.lacks_room(words, oldest, now, out)
    }

    /// Handles the refusal of a subscription: of a name of the change that the next PONG confirms, or of a name that was
    /// confirmed before, if the permissions have changed since.
    fn subscription_refused(&mut self, subject: &str, words: &str) -> Result<(), Stop> {
        if let Some(asked) = self.first_asked()
            && asked.change.wanted
            && let Some(name) = asked.change.names.iter().find(|name| ***name == *subject)
        {
            let name = Arc::clone(name);
            asked.refused.push(name);
            return Ok(());
        }
        if let Some(subscription) = self.sids.named(subject).cloned()
            && let Some(number) = self.source.names.ledger.revoked(&subscription)
        {
            self.sids.remove(&subscription.name);
            return self.report_refused(subscription, number, "the permission was taken away");
        }
        self.log_error(words);
        Ok(())
    }

    /// Handles the refusal of a message of this instance; logs the first in a row. Returns false if this source does not
    /// publish.
    fn publication_refused(&mut self, subject: &str) -> bool {
        let Some(publishing) = &mut self.source.publishing else {
            return false;
        };
        let error = NatsError::not_permitted("publish", &shown(subject));
        if publishing.not_permitted.replace(shown(subject)).is_none() {
            tracing::warn!(%error, "NATS takes no message of this instance");
        }
        true
    }

    fn log_error(&mut self, words: &str) {
        log_error(&mut self.source.names.lines, self.relay.link.now(), words);
    }

    /// Handles a subscription that the server has refused or taken away. With publishing, the connection ends. If this
    /// ends the kept feed, the loop gets a gap, and all confirmed names again. `number` is that of the request for the
    /// name.
    fn report_refused(
        &mut self,
        subscription: Subscription,
        number: u64,
        reason: &str,
    ) -> Result<(), Stop> {
        self.relay.status.count_refused();
        if self.source.publishing.is_some() {
            // Gateways that speak to each other need all names: the connection ends, with the reason.
            let subject = shown(&subscription.name);
            return Err(NatsError::not_permitted("subscribe", &subject).into());
        }
        let kept = self.source.kept.as_mut();
        if kept.is_some_and(|kept| kept.unsubscribed(&subscription)) {
            self.relay.link.send(BusEvent::Gap { lost: None })?;
            // The gateway takes a gap as the end of all confirmations, so the names still subscribed are confirmed
            // again.
            for (subscription, number) in self.source.names.ledger.confirmed_names() {
                self.relay.link.send(BusEvent::Subscribed {
                    subscription,
                    number,
                })?;
            }
        }
        let (names, link) = (&mut self.source.names, &self.relay.link);
        Ok(names.report_refused("NATS", link, subscription, number, reason.to_owned())?)
    }

    /// Reports the names known to the other servers by now.
    fn report_settled(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
        for _ in 0..SETTLED_PER_TURN {
            let Some((subscription, number)) = self.source.names.ledger.next_settled(now) else {
                break;
            };
            self.report_subscribed(subscription, number)?;
        }
        Ok(())
    }

    /// Reports that the server has confirmed a subscription. Begins the kept feed if this was the last of its names.
    fn report_subscribed(&mut self, subscription: Subscription, number: u64) -> Result<(), Stop> {
        if let Some(kept) = &mut self.source.kept {
            kept.subscribed(&subscription);
        }
        self.relay.link.send(BusEvent::Subscribed {
            subscription,
            number,
        })?;
        match self.source.is_restored {
            true => self.begin_feed(),
            false => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_change_is_logged_once_in_a_while() {
        let (mut lateness, sent) = (Lateness::default(), Instant::now());
        let mut logged = Vec::new();
        for second in 0..70 {
            let now = sent + Duration::from_secs(second);
            let due = lateness.due(sent);
            if lateness.is_to_be_logged(sent, now) {
                assert!(due <= now);
                logged.push(second);
            } else {
                assert!(due > now);
            }
        }
        assert_eq!(logged, [2, 32, 62]);
    }
}
