//! The limits of a consumer, which shrink to what the server, the account and the stream permit. Pure.

use super::account::limit;
use super::api::ApiError;
use super::stream_info::Retention;

const MS_NS: u64 = 1_000_000;

/// Limits of a consumer, as weirgate asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConsumerLimits {
    /// Messages without acknowledgement at which the server stops; of no effect without acknowledgements.
    pub(super) pending_max: u64,
    /// Milliseconds without a listener and without requests after which the server deletes the consumer.
    pub(super) idle_max_ms: u64,
}

impl ConsumerLimits {
    const PENDING_TOO_MANY: u64 = 10_121;
    const IDLE_TOO_LONG: u64 = 10_153;

    /// Halves the limit that the server refuses to a consumer with the limits of `asked`, which may be lower than
    /// these. Returns false if the error is another one, or nothing is left.
    pub(super) fn shrink(&mut self, asked: Self, error: &ApiError) -> bool {
        let (limit, asked) = match error.code() {
            Some(Self::PENDING_TOO_MANY) => (&mut self.pending_max, asked.pending_max),
            Some(Self::IDLE_TOO_LONG) => (&mut self.idle_max_ms, asked.idle_max_ms),
            _ => return false,
        };
        *limit = asked.min(*limit) / 2;
        *limit > 0
    }

    /// These limits, as far as they are permitted.
    pub(super) fn within(self, permitted: PermittedLimits) -> Self {
        let idle_max_ms = permitted.idle_max_ms().unwrap_or(self.idle_max_ms);
        let pending_max = limit(permitted.max_ack_pending).unwrap_or(self.pending_max);
        Self {
            pending_max: self.pending_max.min(pending_max),
            idle_max_ms: self.idle_max_ms.min(idle_max_ms),
        }
    }
}

/// What a stream permits its consumers (`consumer_limits`, nats-server 2.10); 0 or less: anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub(super) struct PermittedLimits {
    pub(super) max_ack_pending: i64,
    /// Nanoseconds.
    pub(super) inactive_threshold: i64,
}

impl PermittedLimits {
    /// The time after which the server deletes an idle consumer, at least a millisecond; `None`: any.
    pub(super) fn idle_max_ms(self) -> Option<u64> {
        limit(self.inactive_threshold).map(|ns| (ns / MS_NS).max(1))
    }
}

/// What an answer about a stream says of the room for consumers.
#[derive(Debug, serde::Deserialize)]
pub(super) struct StreamRoom {
    pub(super) config: StreamRoomConfig,
    pub(super) state: StreamCounts,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct StreamRoomConfig {
    pub(super) retention: Retention,
    pub(super) max_consumers: i64,
    consumer_limits: Option<PermittedLimits>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct StreamCounts {
    pub(super) consumer_count: u64,
    pub(super) last_seq: u64,
}

impl StreamRoom {
    /// What the stream permits its consumers.
    pub(super) fn permitted(&self) -> PermittedLimits {
        self.config.consumer_limits.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: ConsumerLimits = ConsumerLimits {
        pending_max: 512,
        idle_max_ms: 10_000,
    };

    #[test]
    fn limits_are_within_those_of_the_stream() {
        for (max_ack_pending, inactive_threshold, pending_max, idle_max_ms) in [
            (0, 0, 512, 10_000),
            (-1, -1, 512, 10_000),
            (100, 5_000_000_000, 100, 5_000),
            (1_000, 60_000_000_000, 512, 10_000),
            (1, 1, 1, 1),
        ] {
            let permitted = PermittedLimits {
                max_ack_pending,
                inactive_threshold,
            };
            let want = ConsumerLimits {
                pending_max,
                idle_max_ms,
            };
            assert_eq!(WANTED.within(permitted), want);
        }
    }

    #[test]
    fn a_limit_shrinks_from_what_was_asked_until_nothing_is_left() {
        let refused = |code| ApiError::Refused {
            code,
            description: String::new(),
        };
        let (mut limits, asked) = (
            WANTED,
            ConsumerLimits {
                pending_max: 64,
                ..WANTED
            },
        );
        assert!(!limits.shrink(asked, &refused(10_026)) && limits == WANTED);
        assert!(limits.shrink(asked, &refused(10_153)));
        assert_eq!((limits.pending_max, limits.idle_max_ms), (512, 5_000));
        assert!(limits.shrink(asked, &refused(10_121)));
        assert_eq!((limits.pending_max, limits.idle_max_ms), (32, 5_000));
        let shrinks = std::iter::from_fn(|| limits.shrink(limits, &refused(10_121)).then_some(()));
        assert_eq!(shrinks.count(), 5, "down to one message");
    }
}
