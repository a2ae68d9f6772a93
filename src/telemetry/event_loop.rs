//! What the event loop tells of itself.
//!
//! The loop counts in plain numbers. At the end of every turn the loop copies all of them, about
//! 1.5 KiB, into a [`Slot`]. The copy costs less than an atomic store for each number would, so the
//! loop does not ask whether anybody reads. A page therefore never waits for a turn: the page shows
//! the end of the last turn, and answers at once while the loop hangs. All numbers of a page belong
//! to the same turn.
//!
//! A page holds the slot for the microsecond that its own copy takes. If a turn ends in that
//! microsecond, the loop goes on without its copy, and turns again a millisecond later to make it.
//!
//! Readiness and the watchdog must not depend on that copy. What they read is atomic: when the last
//! turn ended, draining, caught up.

use std::iter::zip;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, TryLockError};

use super::samples::DurationCounts;
use crate::base::SpinCounts;
use crate::hub::{CloseReason, FeedStats, HubStats, Now, SendError};

/// A value that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Slot<T>(Mutex<T>);

impl<T> Slot<T> {
    /// Holds `value` until the first write.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Lets `fill` change the value. Never waits: returns `false`, and changes nothing, while
    /// a reader holds the value.
    pub fn try_write(&self, fill: impl FnOnce(&mut T)) -> bool {
        match self.0.try_lock() {
            Ok(mut value) => fill(&mut value),
            Err(TryLockError::Poisoned(value)) => fill(&mut value.into_inner()),
            Err(TryLockError::WouldBlock) => return false,
        }
        true
    }

    /// Reads the value in place. It cannot be written meanwhile, so `read` should be short.
    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A stage on the way of one bus message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the message's arrival until the feed takes it.
    BusToFeed,
    /// In the feed: parse, normalise, encode.
    Feed,
    /// From the feed's end until the frame is in every send queue.
    Queue,
    /// From the message's arrival until the first client was written to.
    FirstWrite,
    /// From the message's arrival until every client that takes bytes was written to.
    LastWrite,
}

impl Stage {
    /// Metric labels, in the order of the numbers.
    pub const LABELS: [&'static str; 5] =
        ["bus_to_feed", "feed", "queue", "first_write", "last_write"];
}

/// What one turn of the loop may use up; the rest has the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Connections accepted, or given back by HTTP.
    Accepts,
    /// Time for reading clients and accepting.
    Reads,
    /// Message bytes of all clients.
    Messages,
    /// Bytes of the bus's messages.
    Publications,
    /// Time of one flush.
    Flush,
    /// Sockets closed, or handed to HTTP.
    Closes,
}

impl Budget {
    /// Metric labels, in the order of the numbers.
    pub const LABELS: [&'static str; 6] = [
        "accepts",
        "reads",
        "messages",
        "publications",
        "flush",
        "closes",
    ];
}

/// How long turns and messages take. Counts only grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopTimes {
    /// Turns, each without its wait for events.
    pub turns: DurationCounts,
    /// Polling without sleeping.
    pub spin: SpinCounts,
    stages: [DurationCounts; Stage::LABELS.len()],
    spent: [u64; Budget::LABELS.len()],
}

impl LoopTimes {
    /// Records how long one bus message took in a stage: once per message, not per client.
    pub fn observe_stage_us(&mut self, stage: Stage, us: u64) {
        self.stages[stage as usize].observe_us(us);
    }

    /// Counts a budget that was used up.
    pub fn count_spent(&mut self, budget: Budget) {
        self.spent[budget as usize] += 1;
    }

    /// How often each budget was used up.
    pub fn spent(&self) -> impl Iterator<Item = (&'static str, u64)> {
        zip(Budget::LABELS, self.spent)
    }

    /// The stages with their labels.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, DurationCounts)> {
        zip(Stage::LABELS, self.stages)
    }
}

/// What the loop knows besides its hub, its feed and its times. Counters only grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShellStats {
    /// Gauge: connections handed to the HTTP thread and not ended yet.
    pub http_connections: u64,
    /// Connections allowed at once; `None`: no limit.
    pub connections_max: Option<u64>,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Gauge: addresses known to the limits by address.
    pub addresses: u64,
    /// Gauge: entries in the heap of deadlines.
    pub deadlines: u64,
    /// Gauge: messages between the bus and the loop.
    pub bus_queue_messages: u64,
    /// Room for them.
    pub bus_queue_messages_max: u64,
    /// Gauge: bytes of these messages.
    pub bus_queue_bytes: u64,
    /// Room for them.
    pub bus_queue_bytes_max: u64,
    /// Gauge: bytes of all frames alive, each counted once.
    pub frame_bytes_alive: u64,
    /// Bytes that all frames may have.
    pub frame_bytes_max: u64,
    /// Gauge: bytes kept for compressed messages of clients to refer to.
    pub inflate_window_bytes: u64,
    /// Gauge: bytes that these may become.
    pub inflate_window_bytes_granted: u64,
    /// Bytes that these may become at most.
    pub inflate_window_bytes_max: u64,
    /// Clients that got no window.
    pub inflate_windows_refused: u64,
}

/// The loop's numbers at the end of one turn.
#[derive(Clone, Debug, Default)]
pub struct LoopNumbers {
    /// What the hub counts; its `send_queue_peak_bytes` is that of the last 10 to 20 seconds.
    pub hub: HubStats,
    /// What the feed counts.
    pub feed: FeedStats,
    /// What the loop knows besides.
    pub shell: ShellStats,
    /// How long things take.
    pub times: LoopTimes,
    /// When the turn ended, Unix milliseconds.
    pub turn_ended_unix_ms: i64,
}

impl LoopNumbers {
    /// Connections by phase.
    pub fn connections(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let HubStats {
            heads,
            open,
            closing,
            ..
        } = self.hub;
        let http = self.shell.http_connections;
        [
            ("head", heads),
            ("open", open),
            ("closing", closing),
            ("http", http),
        ]
        .into_iter()
    }

    /// Request heads by what they led to.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let HubStats {
            opened,
            to_http,
            refused,
            ..
        } = self.hub;
        [("opened", opened), ("http", to_http), ("refused", refused)].into_iter()
    }

    /// Ends of connections by reason.
    pub fn closes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        zip(CloseReason::ALL.map(CloseReason::label), self.hub.closes)
    }

    /// Encodings made for clients with compression, by kind.
    pub fn deflate_encodings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let HubStats {
            encodings_chained: chained,
            encodings_alone: alone,
            encodings_stored: stored,
            ..
        } = self.hub;
        [("chained", chained), ("alone", alone), ("stored", stored)].into_iter()
    }

    /// Writes that failed for good, by kind.
    pub fn send_errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        zip(SendError::LABELS, self.hub.send_errors)
    }
}

/// What the loop tells of itself.
#[derive(Debug)]
pub struct EventLoop {
    numbers: Slot<LoopNumbers>,
    last_turn_mono_us: AtomicU64,
    draining: AtomicBool,
    caught_up: AtomicBool,
}

impl EventLoop {
    /// All at 0 but what `feed` holds. The age of the last turn counts from `now` until the first
    /// turn.
    pub fn new(feed: FeedStats, now: Now) -> Self {
        let numbers = LoopNumbers {
            feed,
            turn_ended_unix_ms: now.unix_ms,
            ..LoopNumbers::default()
        };
        Self {
            numbers: Slot::new(numbers),
            last_turn_mono_us: AtomicU64::new(now.mono_us),
            draining: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
        }
    }

    /// Ends a turn: call it last in every turn, at least every 500 ms. `fill` changes the numbers to
    /// those of this turn. Never waits: returns `false`, and does not call `fill`, while a page
    /// reads the numbers.
    #[must_use]
    pub fn turn_ended(&self, now: Now, fill: impl FnOnce(&mut LoopNumbers)) -> bool {
        self.last_turn_mono_us.store(now.mono_us, Relaxed);
        self.numbers.try_write(|numbers| {
            fill(numbers);
            numbers.turn_ended_unix_ms = now.unix_ms;
        })
    }

    /// A copy of the numbers of the last turn.
    pub fn numbers(&self) -> LoopNumbers {
        self.read(LoopNumbers::clone)
    }

    /// Reads some numbers of the last turn in place, for a page that shows few of them.
    pub fn read<R>(&self, read: impl FnOnce(&LoopNumbers) -> R) -> R {
        self.numbers.read(read)
    }

    /// Open WebSockets at the end of the last turn.
    pub fn clients(&self) -> u64 {
        self.read(|numbers| numbers.hub.open)
    }

    /// How long ago the last turn ended, in milliseconds.
    pub fn last_turn_age_ms(&self, now: Now) -> u64 {
        now.mono_us
            .saturating_sub(self.last_turn_mono_us.load(Relaxed))
            / 1_000
    }

    /// Says that the process drains: from the first stop signal on.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// The process drains.
    pub fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Says that the backlog at start is in the cache (or that there is none to wait for). It
    /// stays so.
    pub fn set_caught_up(&self) {
        self.caught_up.store(true, Relaxed);
    }

    /// The backlog at start is in the cache.
    pub fn caught_up(&self) -> bool {
        self.caught_up.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_does_not_wait_for_a_reader() {
        let slot = Slot::new(1);
        slot.read(|_| assert!(!slot.try_write(|value| *value = 2)));
        assert_eq!(slot.read(|value| *value), 1);
        assert!(slot.try_write(|value| *value = 3));
        assert_eq!(slot.read(|value| *value), 3);
    }

    #[test]
    fn what_a_turn_wrote_is_read_until_the_next() {
        let start = Now::default();
        let event_loop = EventLoop::new(FeedStats::default(), start);
        for sent in [5, 9] {
            assert!(event_loop.turn_ended(start, |n| n.hub.messages_sent = sent));
            assert_eq!(event_loop.numbers().hub.messages_sent, sent);
        }
    }
}
