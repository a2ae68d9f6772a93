//! The messages that the caller publishes, and the rules for gateways that speak to each other.
//!
//! All names are needed. Messages that the loop does not take in time are dropped and reported as
//! [`BusEvent::Gap`]: a source that waits would make the server cut the connection. The caller
//! publishes on its own subjects at least once a second, and a connection without a message for three
//! seconds is left. Messages that wait for a lost connection are dropped.

use std::time::{Duration, Instant};

use super::super::error::{NatsError, Stop};
use super::super::protocol;
use super::super::wire::Wire;
use super::session::Session;
use crate::feeds::BusEvent;
use crate::sources::publisher::Outbox;

/// Commands and messages wait while more bytes than this are not written.
pub(super) const QUEUED_BYTES_MAX: usize = 64 * 1024;
/// The longest time without a message on a connection that publishes.
const MESSAGE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// The messages of the caller.
pub(super) struct Publishing {
    pub(super) outbox: Outbox,
    /// The largest message, bytes; the server has to take messages of this size.
    pub(super) bytes_max: usize,
}

impl Publishing {
    /// # Errors
    /// The server takes only smaller messages.
    pub(super) fn check(&self, wire: &Wire) -> Result<(), NatsError> {
        let (bytes, needed) = (wire.info.max_payload(), self.bytes_max);
        let reason =
            format!("max_payload of the server is {bytes}, and messages have up to {needed} bytes");
        match bytes < needed {
            true => Err(wire.refused(reason)),
            false => Ok(()),
        }
    }
}

impl Session<'_> {
    /// Queues messages to publish, up to a limit.
    pub(super) fn publish(&mut self) {
        let Some(publishing) = &self.source.publishing else {
            return;
        };
        while self.wire.queued_bytes() < QUEUED_BYTES_MAX
            && let Ok(message) = publishing.outbox.messages.try_recv()
        {
            protocol::publish(self.wire.out(), &message.subject, "", &message.payload);
        }
    }

    /// Whether messages wait to be published, and the socket has taken all before.
    pub(super) fn can_publish(&self) -> bool {
        let waiting = |publishing: &Publishing| !publishing.outbox.messages.is_empty();
        self.wire.queued_bytes() == 0 && self.source.publishing.as_ref().is_some_and(waiting)
    }

    /// The time until which a message must arrive on a connection that publishes.
    ///
    /// # Errors
    /// No message arrived in time.
    pub(super) fn message_due(&self) -> Result<Option<Instant>, NatsError> {
        if self.source.publishing.is_none() {
            return Ok(None);
        }
        let due = self.state.relayed + MESSAGE_SILENCE_MAX;
        match &self.state.not_published {
            _ if Instant::now() < due => Ok(Some(due)),
            Some(subject) => Err(NatsError::not_permitted("publish", subject)),
            None => Err(NatsError::Silent {
                silent_ms: MESSAGE_SILENCE_MAX.as_millis() as u64,
            }),
        }
    }

    /// Hands a message over. If the loop has no room, a source that publishes drops and counts the message;
    /// others wait.
    pub(super) fn hand_over(&mut self, event: BusEvent) -> Result<(), Stop> {
        let (state, link) = (&mut self.state, &self.relay.link);
        if self.source.publishing.is_none() {
            return Ok(link.send(event)?);
        }
        state.relayed = Instant::now();
        let lost = Some(state.dropped).filter(|&dropped| dropped > 0);
        if lost.is_some() && link.try_send(BusEvent::Gap { lost })? {
            state.dropped = 0;
        }
        if !link.try_send(event)? {
            state.dropped += 1;
        }
        Ok(())
    }
}
