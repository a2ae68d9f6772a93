//! Bus threads: each source blocks on its broker, stamps what comes and hands it over.
//!
//! A source owns its connection and its retries; it never parses a payload and never touches a
//! client. The channel is bounded: a full one makes the source wait, and what that means for the
//! bus is said in each source.

#[cfg(any(feature = "nats", feature = "redis"))]
mod backoff;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "redis")]
pub mod redis;
pub mod simulated;

use crossbeam_channel::{SendError, Sender};

use crate::clock::Clock;
use crate::feeds::BusEvent;
use crate::hub::Now;

/// A blocking connection to a bus, run on a thread of its own until the process ends.
pub trait Source: Send {
    /// Connects, subscribes and hands over events until the other end of `link` is gone.
    fn run(self: Box<Self>, link: SourceLink);
}

/// The way from a source thread into the loop: a bounded channel, and a call that wakes the loop
/// (once, however many events wait).
pub struct SourceLink {
    events: Sender<BusEvent>,
    wake: Box<dyn Fn() + Send>,
    clock: Clock,
}

impl SourceLink {
    /// `wake` is called after each event that was put in the channel.
    pub fn new(events: Sender<BusEvent>, wake: Box<dyn Fn() + Send>, clock: Clock) -> Self {
        Self {
            events,
            wake,
            clock,
        }
    }

    /// Puts an event in the channel, waiting while it is full, and wakes the loop.
    ///
    /// # Errors
    /// The loop is gone: the source ends.
    pub fn send(&self, event: BusEvent) -> Result<(), SendError<BusEvent>> {
        self.events.send(event)?;
        (self.wake)();
        Ok(())
    }

    /// The instant now, on the clocks that the loop uses.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// A seed for jitter. Two processes that start in the same millisecond have different ids.
    #[cfg(any(feature = "nats", feature = "redis"))]
    fn seed(&self) -> u64 {
        let now = self.now();
        let process = u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (now.unix_ms as u64) ^ now.mono_us.rotate_left(32) ^ process
    }
}
