//! The acknowledgements of the messages of a stream. Pure.

use std::time::{Duration, Instant};

use crate::nats::protocol;

/// Messages are acknowledged together: when a fourth of the consumer's limit on unacknowledged messages is reached, or
/// after [`ACK_WAIT`].
pub(super) const ACKED_SHARE: u64 = 4;
pub(super) const ACK_WAIT: Duration = Duration::from_millis(100);

/// The acknowledgements of a consumer that wait; acknowledging the newest message acknowledges all before it.
#[derive(Debug, Default)]
pub(super) struct CumulativeAcks {
    /// The reply subject of the newest message without an acknowledgement.
    newest: Option<String>,
    /// The number of messages without an acknowledgement.
    count: u64,
    /// When these messages have to be acknowledged.
    pub(super) due: Option<Instant>,
}

impl CumulativeAcks {
    /// Notes a message to acknowledge. The server stops at `pending_max` messages.
    pub(super) fn owe(&mut self, reply: String, pending_max: u64, now: Instant, out: &mut Vec<u8>) {
        self.newest = Some(reply);
        self.count += 1;
        self.due.get_or_insert(now + ACK_WAIT);
        if self.count >= pending_max / ACKED_SHARE {
            self.send(out);
        }
    }

    /// Sends the acknowledgement, if due.
    pub(super) fn send_due(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.due.is_some_and(|due| now >= due) {
            self.send(out);
        }
    }

    fn send(&mut self, out: &mut Vec<u8>) {
        if let Some(subject) = self.newest.take() {
            protocol::publish(out, &subject, "", b"");
        }
        *self = Self::default();
    }
}
