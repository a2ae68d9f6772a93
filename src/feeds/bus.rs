//! What a source tells a feed, whichever bus it comes from, and the feed of a gateway without a bus.

use std::sync::Arc;

use thiserror::Error;

use crate::hub::{Feed, FeedStats, Now, Publication};

/// One thing that happened on the bus, in the order in which it happened.
#[derive(Debug)]
pub enum BusEvent {
    /// The bus was reached and everything asked for is subscribed.
    Up,
    /// The bus is out of reach; the source tries again by itself.
    Down(Fault),
    /// What was waiting when the subscriptions stood (warm-up, backlog) has been handed over.
    CaughtUp,
    /// Messages were lost; how many, where the bus tells.
    Gap {
        /// Number of messages lost, if known.
        lost: Option<u64>,
    },
    /// A message.
    Message(BusMessage),
    /// A message came for this subscription, and is not handed over; the source has counted or logged
    /// it.
    Skipped(Subscription),
    /// A subscription stands: whatever is published from here on comes, behind this event.
    Subscribed {
        /// What stands.
        subscription: Subscription,
        /// The number of the newest request for the subscription that the source knew of.
        number: u64,
    },
    /// The bus does not let us have a subscription; the source asks again now and then.
    Refused {
        /// What the bus refused.
        subscription: Subscription,
        /// As in [`Self::Subscribed`].
        number: u64,
        /// The words of the bus.
        fault: Fault,
    },
    /// A last value of a subscription, a quiet message.
    LastValue {
        /// The value.
        message: BusMessage,
        /// The number of the question that the value answers.
        number: u64,
    },
    /// The question for the last values of a subscription is answered: with values before this, or with
    /// none.
    RetainedEnd {
        /// What was asked for.
        subscription: Subscription,
        /// The number of the question.
        number: u64,
    },
}

impl BusEvent {
    /// Bytes of a message's payload; 0 for the other events.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Message(message) | Self::LastValue { message, .. } => message.payload.len(),
            _ => 0,
        }
    }
}

/// What a source can be asked to subscribe to while it runs: one channel, or every channel that a
/// pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// The channel's name or the pattern.
    pub name: Arc<str>,
    /// It is a pattern.
    pub is_pattern: bool,
}

impl Subscription {
    /// One channel, by its exact name.
    pub fn channel(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            is_pattern: false,
        }
    }

    /// Every channel that the pattern matches, as the bus matches patterns.
    pub fn pattern(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            is_pattern: true,
        }
    }
}

/// Why the bus is away, in words for a log line; never holds a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

/// One message as it came.
#[derive(Clone, Debug)]
pub struct BusMessage {
    /// NATS subject or Redis channel.
    pub subject: Arc<str>,
    /// The pattern that matched, for a Redis pattern subscription.
    pub pattern: Option<Arc<str>>,
    /// The payload, any bytes. A source that has a limit hands over one byte more than the limit
    /// of a payload that is larger, so that the feed sees it and skips it.
    pub payload: Vec<u8>,
    /// Where it stands in its stream, where the bus has streams.
    pub position: Option<StreamPosition>,
    /// Position in the stream; `None` if the bus has no streams.
    pub received: Now,
    /// Part of a warm-up or backlog: the cache takes it, clients get no broadcast of its own.
    pub quiet: bool,
}

/// A message's place in what the bus keeps: one that compares greater is newer.
///
/// Each source says what its bus has for it. Positions of one subject can be compared, those of
/// different subjects need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamPosition {
    /// Which life of the stream: greater for a stream that was made anew or went back in time, so
    /// that its messages are newer than all from before, wherever its sequence starts.
    pub epoch: i64,
    /// Number of the message within that life.
    pub sequence: u64,
}

/// The newest place in a stream that was seen of one subject.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastSeen(Option<StreamPosition>);

impl LastSeen {
    /// Remembers `position`; `false` when it is not newer than what was seen before: a redelivery,
    /// a replay, or a stream that is gone. A message without a position always counts as newer.
    pub(super) fn advance(&mut self, position: Option<StreamPosition>) -> bool {
        let Some(position) = position else {
            return true;
        };
        if self.0.is_some_and(|last| position <= last) {
            return false;
        }
        self.0 = Some(position);
        true
    }
}

/// A message over the limit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{bytes} bytes are more than the allowed {bytes_max}")]
pub struct TooLarge {
    bytes: usize,
    bytes_max: usize,
}

/// Compares the size of a bus message with the limit, which is the same for every feed.
///
/// # Errors
/// The payload has more bytes than are allowed.
pub(super) fn check_size(payload: &[u8], bytes_max: usize) -> Result<(), TooLarge> {
    let bytes = payload.len();
    if bytes > bytes_max {
        return Err(TooLarge { bytes, bytes_max });
    }
    Ok(())
}

/// Makes nothing, and is caught up from the start.
#[derive(Debug)]
pub struct NoFeed {
    stats: FeedStats,
}

impl Default for NoFeed {
    fn default() -> Self {
        Self {
            stats: FeedStats {
                caught_up: true,
                ..FeedStats::default()
            },
        }
    }
}

impl Feed for NoFeed {
    type Event = BusEvent;

    fn event(&mut self, _: Now, _: BusEvent, _: &mut Vec<Publication>) {}

    fn stats(&self) -> &FeedStats {
        &self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: i64, sequence: u64) -> Option<StreamPosition> {
        Some(StreamPosition { epoch, sequence })
    }

    #[test]
    fn sequence_decides_within_an_epoch_and_epochs_before_it() {
        let mut last = LastSeen::default();
        assert!(last.advance(at(10, 5)));
        assert!(!last.advance(at(10, 5)), "redelivered");
        assert!(!last.advance(at(10, 4)), "replayed");
        assert!(last.advance(None), "no position");
        assert!(last.advance(at(10, 7)));
        assert!(last.advance(at(11, 1)), "a new stream starts over");
        assert!(!last.advance(at(10, 100)), "the old stream is over");
        assert!(last.advance(at(11, 2)));
    }
}
