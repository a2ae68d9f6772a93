//! Bus threads: each source blocks on its broker, stamps what comes and hands it over.
//!
//! A source owns its connection and its retries; it never parses a payload and never touches a
//! client. The channel is bounded: a full one makes the source wait, and what that means for the
//! bus is said in each source.
//!
//! A bus is one folder. It supplies its settings, its errors, and [`relay::Bus`]: one connection,
//! from the attempt to make it to its loss. The rest is here:
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | [`Source`], and [`SourceLink`], the way into the loop |
//! | `relay` | the thread: connection after connection, what an outage tells the loop, status and log |
//! | `queue_bytes` | how many bytes may wait on that way |
//! | `outage` | since when the bus is away, and when to try again; pure |
//! | `socket` | one socket and one waker in one poll; TCP, TLS |
//! | `tls_stream` | TLS on a socket that never blocks |

#[cfg(feature = "nats")]
pub mod nats;
#[cfg(any(feature = "nats", feature = "redis"))]
mod outage;
mod queue_bytes;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "nats", feature = "redis"))]
mod relay;
pub mod simulated;
#[cfg(feature = "redis")]
mod socket;
#[cfg(any(feature = "nats", feature = "redis"))]
mod tls_stream;

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::clock::Clock;
use crate::feeds::BusEvent;
use crate::hub::Now;

pub use self::queue_bytes::{QueueBytes, TakenBytes};

/// A blocking connection to a bus, run on a thread of its own until the process ends.
pub trait Source: Send {
    /// Connects, subscribes and hands over events until the other end of `link` is gone.
    fn run(self: Box<Self>, link: SourceLink);
}

/// The way from a source thread into the loop: a channel that is bounded in messages and bytes, and a call that wakes the loop
/// (once, however many events wait).
pub struct SourceLink {
    events: Sender<BusEvent>,
    /// `None`: the events are bounded by number alone.
    bytes: Option<Arc<QueueBytes>>,
    wake: Box<dyn Fn() + Send>,
    clock: Clock,
}

/// The loop that takes the events has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the loop that takes the events has ended")]
pub struct LoopGone;

impl SourceLink {
    /// `wake` is called after each event that was put in the channel.
    pub fn new(events: Sender<BusEvent>, wake: Box<dyn Fn() + Send>, clock: Clock) -> Self {
        Self {
            events,
            bytes: None,
            wake,
            clock,
        }
    }

    /// Bounds the events that were not taken by their bytes, too.
    #[must_use]
    pub fn bounded(mut self, bytes: Arc<QueueBytes>) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Puts an event in the channel, waiting while it is full, and wakes the loop.
    ///
    /// # Errors
    /// The loop is gone, before or during the wait: the source ends.
    pub fn send(&self, event: BusEvent) -> Result<(), LoopGone> {
        if let Some(bytes) = &self.bytes {
            bytes.take(event.queue_bytes())?;
        }
        self.events.send(event).map_err(|_| LoopGone)?;
        (self.wake)();
        Ok(())
    }

    /// The instant now, on the clocks that the loop uses.
    pub fn now(&self) -> Now {
        self.clock.now()
    }
}
