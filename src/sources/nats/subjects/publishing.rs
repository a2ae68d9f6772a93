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
use crate::feeds::BusEvent;
use crate::sources::SourceLink;
use crate::sources::publisher::Outbox;

/// Commands and messages wait while more bytes than this are not written.
pub(super) const QUEUED_BYTES_MAX: usize = 64 * 1024;
/// The longest time without a message on a connection that publishes.
const MESSAGE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// The messages of the caller, and what came back on this connection.
pub(super) struct Publishing {
    outbox: Outbox,
    /// The largest message, bytes; the server has to take messages of this size.
    bytes_max: usize,
    /// When the last message arrived.
    relayed: Instant,
    /// Messages that the loop had no room for, and not reported yet.
    dropped: u64,
    /// The last subject on which the server permits no publishing.
    pub(super) not_permitted: Option<String>,
}

impl Publishing {
    pub(super) fn new(outbox: Outbox, bytes_max: usize) -> Self {
        Self {
            outbox,
            bytes_max,
            relayed: Instant::now(),
            dropped: 0,
            not_permitted: None,
        }
    }

    /// Begins on a new connection.
    ///
    /// # Errors
    /// The server takes only smaller messages.
    pub(super) fn begin(&mut self, wire: &Wire) -> Result<(), NatsError> {
        let (bytes, needed) = (wire.info.max_payload(), self.bytes_max);
        if bytes < needed {
            let reason = format!(
                "max_payload of the server is {bytes}, and messages have up to {needed} bytes"
            );
            return Err(wire.refused(reason));
        }
        self.outbox.discard();
        (self.relayed, self.dropped, self.not_permitted) = (Instant::now(), 0, None);
        Ok(())
    }

    /// Queues messages to publish, up to a limit.
    pub(super) fn publish(&self, wire: &mut Wire) {
        while wire.queued_bytes() < QUEUED_BYTES_MAX
            && let Ok(message) = self.outbox.messages.try_recv()
        {
            protocol::publish(wire.out(), &message.subject, "", &message.payload);
        }
    }

    /// Whether messages wait to be published.
    pub(super) fn has_waiting(&self) -> bool {
        !self.outbox.messages.is_empty()
    }

    /// The time until which a message must arrive.
    ///
    /// # Errors
    /// No message arrived in time.
    pub(super) fn due(&self) -> Result<Instant, NatsError> {
        let due = self.relayed + MESSAGE_SILENCE_MAX;
        match &self.not_permitted {
            _ if Instant::now() < due => Ok(due),
            Some(subject) => Err(NatsError::not_permitted("publish", subject)),
            None => Err(NatsError::Silent {
                silent_ms: MESSAGE_SILENCE_MAX.as_millis() as u64,
            }),
        }
    }

    /// Hands a message over. If the loop has no room, drops and counts the message.
    pub(super) fn hand_over(&mut self, event: BusEvent, link: &SourceLink) -> Result<(), Stop> {
        self.relayed = Instant::now();
        let lost = Some(self.dropped).filter(|&dropped| dropped > 0);
        if lost.is_some() && link.try_send(BusEvent::Gap { lost })? {
            self.dropped = 0;
        }
        if !link.try_send(event)? {
            self.dropped += 1;
        }
        Ok(())
    }
}
