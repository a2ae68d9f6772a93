//! Errors of the server: which request each is about, and what follows.

use std::sync::Arc;

use super::changes::has_too_many_subscriptions;
use super::session::SubjectsSession;
use crate::nats::error::{NatsError, Stop, log_error};
use crate::nats::refusals::{PermissionsViolation, violation_in};
use crate::server_words::shown;
use weirgate_core::{BusEvent, Subscription};

impl SubjectsSession<'_> {
    /// Handles an error of the server: it is about a request of a question, about a subject, or about the oldest change.
    pub(super) fn handle_server_error(&mut self, words: String) -> Result<(), Stop> {
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
                if let Some(asked) = self.changes.oldest_wanted() {
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
        let oldest = self.changes.oldest_ping();
        self.retained.lacks_room(words, oldest, now, out)
    }

    /// Handles the refusal of a subscription: of a name of the change that the next PONG confirms, or of a name that was
    /// confirmed before, if the permissions have changed since.
    fn subscription_refused(&mut self, subject: &str, words: &str) -> Result<(), Stop> {
        if let Some(asked) = self.changes.oldest_wanted()
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
            let reason = "the permission was taken away";
            return self.report_refused(subscription, number, reason, true);
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
    /// Handles a subscription that the server has refused, or taken away (`is_loss`). With publishing, the connection ends.
    /// If this ends the kept feed, the loop gets a gap, and all confirmed names again. `number` is that of the request for
    /// the name.
    pub(super) fn report_refused(
        &mut self,
        subscription: Subscription,
        number: u64,
        reason: &str,
        mut is_loss: bool,
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
            is_loss = false;
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
        let reason = reason.to_owned();
        Ok(names.report_refused("NATS", link, subscription, number, reason, is_loss)?)
    }
}
