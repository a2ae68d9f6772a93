//! The changes of subscriptions on a connection: asked for with a PING behind them, and confirmed or refused by the time of
//! the PONG.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::QUEUED_BYTES_MAX;
use super::session::SubjectsSession;
use crate::ledger::SubscriptionChange;
use crate::nats::error::Stop;
use crate::nats::protocol;
use crate::server_words::shown;
use weirgate_core::{BusEvent, Subscription};

/// After so long without an answer, a change of subscriptions counts as late.
const LATE: Duration = Duration::from_secs(2);
/// The shortest time between two log lines about late changes.
const LATE_LINES: Duration = Duration::from_secs(30);
/// The limit on names reported as settled between two reads.
const SETTLED_PER_TURN: usize = 1_024;

/// The changes without an answer.
#[derive(Debug, Default)]
pub(super) struct PendingChanges {
    /// In the order in which they were sent.
    asked: VecDeque<PendingChange>,
    lateness: Lateness,
}

/// A change requested from the server.
#[derive(Debug)]
pub(super) struct PendingChange {
    pub(super) change: SubscriptionChange,
    sent: Instant,
    /// The number of the PING after the change. Its PONG confirms what no error has refused.
    ping: u64,
    /// Names refused by the server.
    pub(super) refused: Vec<Arc<str>>,
    /// The text of an error that names no subject.
    pub(super) words: Option<String>,
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
pub(super) fn has_too_many_subscriptions(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("maximum subscriptions exceeded")
}

impl PendingChanges {
    /// When the oldest change was sent.
    pub(super) fn oldest_sent(&self) -> Option<Instant> {
        self.asked.front().map(|oldest| oldest.sent)
    }

    /// The number of the ping after the oldest change.
    pub(super) fn oldest_ping(&self) -> Option<u64> {
        self.asked.front().map(|oldest| oldest.ping)
    }

    /// The oldest change, if it asks for subscriptions. The server's errors belong to it.
    pub(super) fn oldest_wanted(&mut self) -> Option<&mut PendingChange> {
        let oldest = self.asked.front_mut();
        oldest.filter(|oldest| oldest.change.wanted)
    }

    /// Takes the oldest change out if its ping was answered.
    fn pop_answered(&mut self, is_answered: impl Fn(u64) -> bool) -> Option<PendingChange> {
        match self.oldest_ping().is_some_and(is_answered) {
            true => self.asked.pop_front(),
            false => None,
        }
    }

    /// The oldest change, if a log line is due because it is late.
    fn late(&mut self, now: Instant) -> Option<&PendingChange> {
        let oldest = self.asked.front()?;
        let is_due = self.lateness.is_to_be_logged(oldest.sent, now);
        is_due.then_some(oldest)
    }

    /// When [`SubjectsSession::log_lateness`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.oldest_sent().map(|sent| self.lateness.due(sent))
    }
}

impl SubjectsSession<'_> {
    /// Queues commands for the changes that are due, each change with a PING after it.
    pub(super) fn send_changes(&mut self) {
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
            self.changes.asked.push_back(PendingChange {
                change,
                sent: Instant::now(),
                ping: self.connection.ping(),
                refused: Vec::new(),
                words: None,
            });
        }
    }
    /// Handles a PONG: everything before the PING was accepted or refused.
    pub(super) fn ponged(&mut self) -> Result<(), Stop> {
        let connection = &*self.connection;
        self.retained
            .note_pongs(|ping| connection.is_answered(ping));
        match self
            .changes
            .pop_answered(|ping| connection.is_answered(ping))
        {
            Some(asked) => self.answered(asked),
            None => Ok(()),
        }
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
            self.report_refused(subscription.clone(), number, reason, false)?;
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

    /// Logs subscriptions that the server does not confirm in time: their clients have their answer by
    /// then, and get no messages.
    pub(super) fn log_lateness(&mut self) {
        let now = Instant::now();
        let changes = self.changes.asked.len();
        let Some(oldest) = self.changes.late(now) else {
            return;
        };
        let name = oldest.change.names.front();
        tracing::warn!(
            name = name.map(|name| shown(name)).unwrap_or_default(),
            late_ms = now.duration_since(oldest.sent).as_millis() as u64,
            changes,
            questions = self.retained.asked(),
            "NATS has not confirmed subscriptions: clients get no messages of these names until it does"
        );
    }

    /// Reports the names known to the other servers by now.
    pub(super) fn report_settled(&mut self) -> Result<(), Stop> {
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
