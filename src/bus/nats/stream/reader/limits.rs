//! The limits of the consumers of a stream: how much the server permits, and how the sizes of the messages bound it. Pure.

use std::time::{Duration, Instant};

use crate::nats::api::ApiError;
use crate::nats::consumer::{AckPolicy, Plan, Start};
use crate::nats::consumer_limits::ConsumerLimits;
use crate::nats::in_flight::MessageBytes;

/// After a message that was too large for the limit, a consumer does not get a higher limit for so long.
const NARROW_FOR: Duration = Duration::from_secs(60);
/// A consumer is made again for a limit that is so many times as high.
const WIDENED_BY: u64 = 4;
/// A consumer is made again if messages are so many times as large as its limit allows.
const TOO_LARGE_BY: u64 = 2;

/// The largest limits of a consumer.
pub(super) const LIMITS: ConsumerLimits = ConsumerLimits {
    pending_max: 2_048,
    idle_max_ms: 5_000,
};

/// Limits of the consumers of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReaderLimits {
    /// The most that the server permits.
    permitted: ConsumerLimits,
    /// The limit on messages without acknowledgement of the consumer that was asked for last.
    pub(super) pending_max: u64,
    /// Whether the server bounds the bytes on their way, too.
    has_flow_control: bool,
    pub(super) acks: AckPolicy,
    /// The expected size of a message, by which the messages on their way are bounded without flow control.
    message_bytes: MessageBytes,
    /// When a message was last too large for the limit; `None`: never.
    narrowed: Option<Instant>,
}

/// The largest limits.
impl Default for ReaderLimits {
    fn default() -> Self {
        Self {
            permitted: LIMITS,
            pending_max: LIMITS.pending_max,
            has_flow_control: true,
            acks: AckPolicy::All,
            message_bytes: MessageBytes::default(),
            narrowed: None,
        }
    }
}

impl ReaderLimits {
    /// The most messages on their way without flow control.
    const PENDING_WITHOUT_FLOW_CONTROL: usize = 64;

    /// A consumer of all messages from `start` on.
    pub(super) fn plan(&mut self, start: Start) -> Plan<'static> {
        self.pending_max = self.pending_now();
        Plan {
            start,
            filter: None,
            durable: None,
            acks: self.acks,
            limits: self.asked(),
            deliveries_max: None,
            beats: true,
            has_flow_control: self.has_flow_control,
            is_in_memory: true,
        }
    }

    /// The limit on messages without acknowledgement for a consumer that is made now.
    fn pending_now(self) -> u64 {
        if self.has_flow_control {
            return self.permitted.pending_max;
        }
        let most = Self::PENDING_WITHOUT_FLOW_CONTROL;
        self.permitted
            .pending_max
            .min(self.message_bytes.waiting_max(most) as u64)
    }

    /// The limits of the consumer that was asked for last.
    const fn asked(self) -> ConsumerLimits {
        ConsumerLimits {
            pending_max: self.pending_max,
            ..self.permitted
        }
    }

    /// As [`ConsumerLimits::shrink`], of the consumer that was asked for last.
    pub(super) fn shrink(&mut self, error: &ApiError) -> bool {
        self.permitted.shrink(self.asked(), error)
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

    fn pending_max(limits: &mut ReaderLimits) -> u64 {
        limits.plan(Start::Sequence(1)).limits.pending_max
    }

    #[test]
    fn without_flow_control_sizes_bound_the_messages_on_their_way() {
        let (mut limits, now) = (ReaderLimits::default(), Instant::now());
        assert_eq!(pending_max(&mut limits), 2_048);
        assert!(
            !limits.note_message(8 * MIB, now),
            "flow control bounds them"
        );
        limits = ReaderLimits::default();
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
