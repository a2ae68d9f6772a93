//! A consumer of the stream on a connection, and its acknowledgements. Pure.

use std::time::{Duration, Instant};

use super::super::super::super::protocol;
use crate::feeds::StoredId;

/// The heartbeats without a delivery in between after which a message that is waited for counts as deleted.
const IDLE_BEATS_MAX: u32 = 3;
/// The share of a consumer's messages without acknowledgement that are acknowledged together, and the longest
/// wait for so many.
pub(super) const ACKED_SHARE: u64 = 4;
pub(super) const ACK_WAIT: Duration = Duration::from_millis(100);
/// A consumer on a connection.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) sid: u64,
    /// The server has answered that the consumer was made.
    pub(super) is_made: bool,
    /// The first delivery has to be this message, which was handed over before.
    pub(super) expects: Option<StoredId>,
    /// The number of the last delivery.
    pub(super) sequence: u64,
    /// The number of heartbeats since the last delivery.
    pub(super) idle_beats: u32,
    /// The newest message without an acknowledgement, the number of such messages, and the time of the
    /// acknowledgement.
    pub(super) ack: Option<String>,
    pub(super) unacked: u64,
    pub(super) ack_due: Option<Instant>,
}

impl Consumer {
    /// A consumer that was asked for, with the number of its subscription.
    pub(super) fn new(sid: u64, expects: Option<StoredId>) -> Self {
        Self {
            sid,
            is_made: false,
            expects,
            sequence: 0,
            idle_beats: 0,
            ack: None,
            unacked: 0,
            ack_due: None,
        }
    }

    /// Takes a heartbeat with the number of the last delivery. Returns whether a delivery is missing; `waits`: one is
    /// waited for.
    pub(super) fn misses(&mut self, last: Option<u64>, waits: bool) -> bool {
        self.idle_beats += 1;
        let waits = waits || self.expects.is_some();
        last.is_some_and(|last| last > self.sequence) || waits && self.idle_beats >= IDLE_BEATS_MAX
    }

    /// Notes a message to acknowledge; the acknowledgement of the newest is one of all. The server stops at
    /// `pending_max` messages.
    pub(super) fn owe(&mut self, reply: String, pending_max: u64, now: Instant, out: &mut Vec<u8>) {
        self.ack = Some(reply);
        self.unacked += 1;
        self.ack_due.get_or_insert(now + ACK_WAIT);
        if self.unacked >= pending_max / ACKED_SHARE {
            self.acknowledge(out);
        }
    }

    pub(super) fn acknowledge(&mut self, out: &mut Vec<u8>) {
        if let Some(subject) = self.ack.take() {
            protocol::publish(out, &subject, "", b"");
        }
        (self.unacked, self.ack_due) = (0, None);
    }
}
