//! The limits of the consumers of a stream: how they shrink when the server refuses them, and how the sizes of the messages
//! bound them. Pure.

use std::time::{Duration, Instant};

use crate::nats::api::ApiError;
use crate::nats::consumer::{AckPolicy, Plan, Start};
use crate::nats::in_flight::MessageBytes;

/// After a message that was too large for the limit, a consumer does not get a higher limit for so long.
const NARROW_FOR: Duration = Duration::from_secs(60);
/// A consumer is made again for a limit that is so many times as high.
const WIDENED_BY: u64 = 4;
/// A consumer is made again if messages are so many times as large as its limit allows.
const TOO_LARGE_BY: u64 = 2;

/// Limits of a consumer. Servers, accounts and streams can have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConsumerLimits {
    /// Messages without acknowledgement at which the server stops: the most that it permits.
    permitted: u64,
    /// The same of the consumer that was asked for last.
    pub(super) pending_max: u64,
    /// Milliseconds without a listener after which the server deletes the consumer.
    idle_max_ms: u64,
    /// Whether the server bounds the bytes on their way, too.
    has_flow_control: bool,
    pub(super) acks: AckPolicy,
    /// The expected size of a message, by which the messages on their way are bounded without flow control.
    message_bytes: MessageBytes,
    /// When a message was too large for the limit.
    narrowed: Option<Instant>,
}

/// The largest limits.
impl Default for ConsumerLimits {
    fn default() -> Self {
        Self {
            permitted: 2_048,
            pending_max: 2_048,
            idle_max_ms: 5_000,
            has_flow_control: true,
            acks: AckPolicy::All,
            message_bytes: MessageBytes::default(),
            narrowed: None,
        }
    }
}

impl ConsumerLimits {
    /// The most messages on their way without flow control.
    const PENDING_WITHOUT_FLOW_CONTROL: usize = 64;
    const PENDING_TOO_MANY: u64 = 10_121;
    const IDLE_TOO_LONG: u64 = 10_153;

    /// A consumer of all messages from `start` on.
    pub(super) fn plan(&mut self, start: Start) -> Plan<'static> {
        self.pending_max = self.pending_now();
        Plan {
            start,
            filter: None,
            durable: None,
            acks: self.acks,
            pending_max: self.pending_max,
            deliveries_max: None,
            idle_max_ms: self.idle_max_ms,
            beats: true,
            has_flow_control: self.has_flow_control,
            is_in_memory: true,
        }
    }

    /// The limit on messages without acknowledgement for a consumer that is made now.
    fn pending_now(self) -> u64 {
        if self.has_flow_control {
            return self.permitted;
        }
        let most = Self::PENDING_WITHOUT_FLOW_CONTROL;
        self.permitted
            .min(self.message_bytes.waiting_max(most) as u64)
    }

    /// Halves the limit that the server refuses. Returns false if the error is another one, or nothing is left.
    pub(super) fn shrink(&mut self, error: &ApiError) -> bool {
        let limit = match error.code() {
            Some(Self::PENDING_TOO_MANY) => {
                self.permitted = self.permitted.min(self.pending_max);
                &mut self.permitted
            }
            Some(Self::IDLE_TOO_LONG) => &mut self.idle_max_ms,
            _ => return false,
        };
        *limit /= 2;
        *limit > 0
    }

    /// Turns flow control off, for a user that may not answer it. Returns whether it was on.
    pub(super) fn without_flow_control(&mut self) -> bool {
        std::mem::replace(&mut self.has_flow_control, false)
    }

    /// Counts a message. Returns whether it is too large for the consumer, which has to be made again with a lower limit.
    pub(super) fn note_message(&mut self, bytes: usize, now: Instant) -> bool {
        self.message_bytes.note(bytes);
        let is_too_large = self.pending_now() * TOO_LARGE_BY < self.pending_max;
        if is_too_large {
            self.narrowed = Some(now);
        }
        is_too_large
    }

    /// Counts a connection that has ended while messages were on their way.
    pub(super) fn note_end(&mut self) {
        if !self.has_flow_control {
            self.message_bytes.note_end();
        }
    }

    /// Whether a consumer that is made again now has a much higher limit. Not shortly after a large message, because a
    /// consumer that is made again and again costs more than a low limit.
    pub(super) fn may_widen(&self, now: Instant) -> bool {
        let is_narrow = self.narrowed.is_some_and(|at| now < at + NARROW_FOR);
        !is_narrow && self.pending_now() >= self.pending_max.saturating_mul(WIDENED_BY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn pending_max(limits: &mut ConsumerLimits) -> u64 {
        limits.plan(Start::Sequence(1)).pending_max
    }

    #[test]
    fn without_flow_control_sizes_bound_the_messages_on_their_way() {
        let (mut limits, now) = (ConsumerLimits::default(), Instant::now());
        assert_eq!(pending_max(&mut limits), 2_048);
        assert!(
            !limits.note_message(8 * MIB, now),
            "flow control bounds them"
        );
        limits = ConsumerLimits::default();
        assert!(limits.without_flow_control());
        assert_eq!(pending_max(&mut limits), 4, "nothing is known");
        assert!(!limits.note_message(5 * MIB, now), "a little larger");
        (0..200).for_each(|_| assert!(!limits.note_message(100, now)));
        assert!(limits.may_widen(now));
        assert_eq!(pending_max(&mut limits), 64);
        assert!(limits.note_message(4 * MIB, now), "64 may be as large");
        assert_eq!(pending_max(&mut limits), 4);
        (0..200).for_each(|_| assert!(!limits.note_message(100, now)));
        assert!(!limits.may_widen(now), "another large one may come soon");
        assert!(limits.may_widen(now + NARROW_FOR));
        limits.note_end();
        assert_eq!(pending_max(&mut limits), 1, "perhaps they were the cause");
    }
}
