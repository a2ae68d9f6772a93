//! The messages of a gateway that speaks to its other instances, on the connection that also receives theirs.

use std::time::{Duration, Instant};

use super::QUEUED_BYTES_MAX;
use crate::nats::connection::Connection;
use crate::nats::error::{NatsError, Stop};
use crate::nats::protocol;
use crate::publisher::Outbox;
use weirgate_core::BusEvent;
use weirgate_runtime::SourceLink;

/// The longest time without a message on a connection that publishes.
const MESSAGE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// The messages of the caller, the state of the connection, and the rules between gateways.
///
/// All requested names are needed: if the server refuses one, the connection ends. Messages that the loop does not take in
/// time are dropped and reported as [`BusEvent::Gap`]: a source that waits would make the server cut the connection. The
/// caller publishes at least once a second on a subject that it also subscribes to, so its own messages come back: a
/// connection without a message for three seconds is left. Messages that wait for a lost connection are dropped.
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
    /// Publishes what comes from `outbox`, in messages of up to `bytes_max` bytes.
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
    pub(super) fn begin(&mut self, connection: &Connection) -> Result<(), NatsError> {
        let bytes_max = connection.info.max_payload();
        if bytes_max < self.bytes_max {
            return Err(NatsError::TooLarge {
                url: connection.endpoint.url(),
                bytes_max,
                what: "messages between instances have up to",
                bytes: self.bytes_max,
            });
        }
        // Messages for the connection before would be late.
        self.outbox.clear();
        (self.relayed, self.dropped, self.not_permitted) = (Instant::now(), 0, None);
        Ok(())
    }

    /// Queues messages to publish, up to a limit.
    pub(super) fn publish(&mut self, connection: &mut Connection) {
        while connection.queued_bytes() < QUEUED_BYTES_MAX
            && let Ok(message) = self.outbox.take()
        {
            protocol::publish(connection.out(), &message.subject, "", &message.payload);
        }
    }

    /// Whether messages wait to be published.
    pub(super) fn has_waiting(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// When the connection is given up if no message arrives before.
    ///
    /// # Errors
    /// No message arrived in time.
    pub(super) fn due(&self) -> Result<Instant, NatsError> {
        let due = self.relayed + MESSAGE_SILENCE_MAX;
        match &self.not_permitted {
            _ if Instant::now() < due => Ok(due),
            Some(subject) => Err(NatsError::not_permitted("publish", subject)),
            None => Err(NatsError::Silent(MESSAGE_SILENCE_MAX.as_millis() as u64)),
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
