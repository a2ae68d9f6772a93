//! A consumer of the stream on a connection, and its acknowledgements. Pure.

use std::time::{Duration, Instant};

use super::super::super::super::protocol;
use crate::feeds::StoredId;

/// The heartbeats without a delivery in between after which a message that is waited for counts as deleted.
const IDLE_BEATS_MAX: u32 = 3;
/// The interval of the questions about the stream while a consumer is read.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// The heartbeats within five seconds, the time for an answer.
const UNANSWERED_BEATS_MAX: u32 = 10;
/// Messages are acknowledged together: this share of the messages that a consumer may have without acknowledgement,
/// or after the longest wait.
pub(super) const ACKED_SHARE: u64 = 4;
pub(super) const ACK_WAIT: Duration = Duration::from_millis(100);
/// A consumer on a connection.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) sid: u64,
    /// The number of messages that waited when the consumer was made, once the server has answered.
    pub(super) waiting: Option<u64>,
    /// The consumer is known to be one of the stream of the last look.
    pub(super) is_made: bool,
    pub(super) is_listened_to: bool,
    /// The first delivery has to be this message, which was handed over before.
    pub(super) expects: Option<StoredId>,
    /// The number of the last delivery.
    pub(super) sequence: u64,
    /// The number of heartbeats since the last delivery.
    pub(super) idle_beats: u32,
    /// When this reader last asked for the state of the stream.
    checked: Instant,
    /// Heartbeats since the server has taken that question; `None` once it is answered.
    unanswered: Option<u32>,
    /// The reply subject of the newest message without an acknowledgement.
    pub(super) ack: Option<String>,
    /// The number of messages without an acknowledgement.
    pub(super) unacked: u64,
    /// When these messages have to be acknowledged.
    pub(super) ack_due: Option<Instant>,
}

impl Consumer {
    /// A consumer that was asked for, with the number of its subscription.
    pub(super) fn new(sid: u64, expects: Option<StoredId>, now: Instant) -> Self {
        Self {
            sid,
            waiting: None,
            is_made: false,
            is_listened_to: false,
            expects,
            sequence: 0,
            idle_beats: 0,
            checked: now,
            unanswered: None,
            ack: None,
            unacked: 0,
            ack_due: None,
        }
    }

    /// When the next question about the stream is due. On a server that is cut off from its cluster a consumer beats,
    /// and gets nothing.
    pub(super) fn check_due(&self) -> Instant {
        self.checked + CHECK_INTERVAL
    }

    /// Notes a question about the stream, unless the last one is not answered.
    pub(super) fn checks(&mut self, now: Instant) -> bool {
        self.checked = now;
        let is_answered = self.is_made && self.unanswered.is_none();
        if is_answered {
            self.unanswered = Some(0);
        }
        is_answered
    }

    /// Notes that the server has taken the question: what was on its way before has come.
    pub(super) fn is_asked(&mut self) {
        self.unanswered = self.unanswered.map(|_| 0);
    }

    /// Whether an answer about the stream is waited for.
    pub(super) fn is_checking(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Notes the answer.
    pub(super) fn is_checked(&mut self) {
        self.unanswered = None;
    }

    /// Whether the stream has no leader: the consumer beats, and nobody answers.
    pub(super) fn is_cut_off(&self) -> bool {
        self.unanswered
            .is_some_and(|beats| beats >= UNANSWERED_BEATS_MAX)
    }

    /// Takes a heartbeat with the number of the last delivery. Returns true if a delivery is missing, or the answer
    /// that the consumer was made. `waits`: the reader waits for a delivery.
    pub(super) fn misses(&mut self, last: Option<u64>, waits: bool) -> bool {
        self.idle_beats += 1;
        self.unanswered = self.unanswered.map(|beats| beats + 1);
        let waits = waits || self.expects.is_some() || !self.is_made;
        last.is_some_and(|last| last > self.sequence) || waits && self.idle_beats >= IDLE_BEATS_MAX
    }

    /// Notes a message to acknowledge; acknowledging the newest acknowledges all before it. The server stops at
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
