//! The messages of a subject on their way to the loop: from the consumer and, with `--core-first`, from core
//! NATS.

use std::sync::Arc;
use std::time::Instant;

use super::super::api::Api;
use super::super::consumers::Standing;
use super::super::core_first::Stored;
use super::super::data::Data;
use super::super::error::Stop;
use super::super::position::AckSubject;
use super::super::protocol::Delivery;
use super::Subscription;
use crate::feeds::{BusEvent, BusMessage, Place, StreamPosition};
use crate::sources::SourceLink;

impl Subscription {
    /// Hands a message over, then queues the acknowledgement: without room in the loop, the message
    /// stays with the server. Messages of any size are acknowledged; the feed refuses and counts
    /// messages over a limit.
    pub(in super::super) fn relay(
        &mut self,
        message: Delivery,
        data: &mut Data,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        if self.core.as_ref().is_some_and(|core| core.has(&message)) {
            return self.relay_core(message, link);
        }
        if message.status == Some(100) {
            answer_control(message, data);
            return Ok(());
        }
        let Some(reply) = message.reply else {
            return Ok(());
        };
        let Some(ack) = AckSubject::parse(&reply) else {
            return Ok(());
        };
        // Not news: delivered again, or known from the previous consumer.
        let news = self
            .cursor
            .reached()
            .is_none_or(|r| ack.stream_sequence > r);
        let now = Instant::now();
        if news {
            if self.is_to_be_shown(&message.payload, now) {
                if !link.has_room(message.payload.len()) {
                    // The wait may be long, and the server would redeliver messages handed over.
                    self.send_acks(data);
                    data.flush()?;
                }
                let position = self.cursor.position(ack.stream_sequence);
                let quiet = self.quiet_until.is_some();
                self.hand_over(message.payload, Some(position), quiet, link)?;
            }
            self.cursor.reach(ack.stream_sequence);
            self.health.handed(now);
        }
        let ends = |until: u64| ack.stream_sequence >= until;
        if self.quiet_until.is_some_and(ends) {
            self.quiet_until = None;
        }
        let owe = |standing: &mut Standing| standing.acks.owe(reply, now);
        if self.standing.as_mut().is_some_and(owe) {
            self.send_acks(data);
        }
        Ok(())
    }

    /// Hands over a message of core NATS that the consumer has not brought. While a backlog is read, or without
    /// room in the loop, the message is left to the consumer.
    fn relay_core(&mut self, message: Delivery, link: &SourceLink) -> Result<(), Stop> {
        let is_live = self.standing.is_some() && self.quiet_until.is_none();
        let takes = is_live && message.status.is_none() && link.has_room(message.payload.len());
        if !takes || !self.copies.core(&message.payload, Instant::now()) {
            return Ok(());
        }
        self.hand_over(message.payload, None, false, link)
    }

    /// Whether clients have not seen this new message of the consumer as a message of core NATS.
    fn is_to_be_shown(&mut self, payload: &[u8], now: Instant) -> bool {
        if self.core.is_none() || self.quiet_until.is_some() {
            return true;
        }
        let stored = self.copies.stored(payload, now);
        let counts = self.status.core_first();
        match stored {
            Stored::Confirms { passed } => {
                counts.count_confirmed();
                counts.count_unconfirmed(passed);
                return false;
            }
            Stored::Missed => counts.count_missed(),
            Stored::Again { passed } => {
                counts.count_repeated();
                counts.count_unconfirmed(passed);
            }
        }
        true
    }

    /// Sends the queued acknowledgements. The server redelivers messages whose acknowledgements are
    /// lost.
    pub(in super::super) fn send_acks(&mut self, data: &mut Data) {
        let acks = self.standing.iter_mut().flat_map(|s| s.acks.take());
        acks.for_each(|subject| data.answer(&subject));
    }

    /// The time to send the queued acknowledgements.
    pub(in super::super) fn acks_due(&self) -> Option<Instant> {
        self.standing.as_ref().and_then(|s| s.acks.due())
    }

    pub(super) fn hand_over(
        &self,
        payload: Vec<u8>,
        position: Option<StreamPosition>,
        quiet: bool,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        let message = BusMessage {
            subject: Arc::clone(&self.subject),
            pattern: None,
            payload,
            position,
            place: Place::Outside,
            received: link.now(),
            quiet,
        };
        Ok(link.send(BusEvent::Message(message))?)
    }

    /// Handles the server's report that nothing is pending, and nothing delivered is without its
    /// acknowledgement. If nothing waits here either, the end of the backlog was deleted from the
    /// stream meanwhile, and the backlog is over; and core copies from before the report before are not in the
    /// stream.
    pub(in super::super) fn nothing_pending(
        &mut self,
        api: &Api,
        data: &Data,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        let waits = |s: &Standing| data.has_waiting(&s.inbox);
        if self.standing.as_ref().is_some_and(waits) {
            return Ok(());
        }
        self.quiet_until = None;
        let never = self.copies.at_rest();
        self.status.core_first().count_unconfirmed(never);
        self.owes_newest |= never > 0;
        match self.owes_newest {
            true => self.show_newest(api, link),
            false => Ok(()),
        }
    }

    /// Hands over the newest message of the stream once more.
    fn show_newest(&mut self, api: &Api, link: &SourceLink) -> Result<(), Stop> {
        match api.last_message(&self.target) {
            Ok(newest) => {
                self.owes_newest = false;
                // Without its position: the feed knows the message.
                let newest = newest.map(|newest| self.hand_over(newest.payload, None, false, link));
                newest.unwrap_or(Ok(()))
            }
            Err(error) if error.is_of_all() => Err(error.into()),
            Err(error) => {
                let subject = &self.spec.subject;
                tracing::debug!(%error, subject, "the newest message is asked for later");
                Ok(())
            }
        }
    }
}

/// Answers flow control on the reply subject, and the heartbeat of a consumer that waits for an answer on the
/// subject in the heartbeat. Consumers made by weirgate send neither; consumers of other clients may.
fn answer_control(message: Delivery, data: &mut Data) {
    if let Some(subject) = message.reply.or(message.stalled) {
        data.answer(&subject);
    }
}
