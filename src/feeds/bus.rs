//! What a source tells a feed.

use std::sync::Arc;

use crate::hub::Now;

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
    /// The payload, any bytes.
    pub payload: Vec<u8>,
    /// Where it stands in its stream, where the bus has streams.
    pub position: Option<StreamPosition>,
    /// When it reached this process.
    pub received: Now,
    /// Part of a warm-up or backlog: the cache takes it, clients get no broadcast of its own.
    pub quiet: bool,
}

/// A message's place in its stream. Within one stream a higher sequence is newer; a stream that
/// was created anew starts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// When the stream was created, Unix nanoseconds.
    pub stream_created_unix_ns: i64,
    /// Sequence number within the stream, from 1.
    pub sequence: u64,
}
