//! The limits of the consumers of a stream, and how they shrink when the server refuses them. Pure.

use crate::nats::api::ApiError;
use crate::nats::consumer::{AckPolicy, Plan, Start};

/// Limits of a consumer. Servers, accounts and streams can have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConsumerLimits {
    /// Messages without acknowledgement at which the server stops.
    pub(super) pending_max: u64,
    /// Milliseconds without a listener after which the server deletes the consumer.
    idle_max_ms: u64,
    /// Whether the server bounds the bytes on their way, too.
    has_flow_control: bool,
    pub(super) acks: AckPolicy,
}

/// The largest limits.
impl Default for ConsumerLimits {
    fn default() -> Self {
        Self {
            pending_max: 2_048,
            idle_max_ms: 5_000,
            has_flow_control: true,
            acks: AckPolicy::All,
        }
    }
}

impl ConsumerLimits {
    /// Few enough messages of usual size to fit the server's output buffer for weirgate.
    const PENDING_WITHOUT_FLOW_CONTROL: u64 = 64;
    const PENDING_TOO_MANY: u64 = 10_121;
    const IDLE_TOO_LONG: u64 = 10_153;

    /// A consumer of all messages from `start` on.
    pub(super) const fn plan(self, start: Start) -> Plan<'static> {
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

    /// Halves the limit that the server refuses. Returns false if the error is another one, or nothing is left.
    pub(super) fn shrink(&mut self, error: &ApiError) -> bool {
        let limit = match error.code() {
            Some(Self::PENDING_TOO_MANY) => &mut self.pending_max,
            Some(Self::IDLE_TOO_LONG) => &mut self.idle_max_ms,
            _ => return false,
        };
        *limit /= 2;
        *limit > 0
    }

    /// Turns flow control off, for a user that may not answer it, and lowers the limit on messages. Returns whether it
    /// was on.
    pub(super) fn without_flow_control(&mut self) -> bool {
        self.pending_max = self.pending_max.min(Self::PENDING_WITHOUT_FLOW_CONTROL);
        std::mem::replace(&mut self.has_flow_control, false)
    }
}
