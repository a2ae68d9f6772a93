//! The numbers of the event loop.
//!
//! The loop counts in plain numbers. At the end of every turn it copies all of them into a [`Slot`], whether a page is
//! read or not: that costs less than an atomic store for each number. So a page never waits for a turn. It shows the
//! end of the last turn, even while the loop hangs, and all its numbers belong to the same turn.
//!
//! A page locks the slot for about a microsecond, to copy it. If a turn ends just then, the loop goes on without its
//! own copy, and makes another turn a millisecond later.
//!
//! A distribution of durations has many cells, of which a turn changes a few. So each cell is atomic and none is copied
//! ([`LoopDurations`]); a page reads them as they are.
//!
//! Readiness and the watchdog must not depend on the copy, so their values are atomic too: the end of the last turn,
//! the phase, draining, caught up.

use std::iter::{once, zip};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::last_minute::RecentLatency;
use weirgate_core::{CloseReason, FeedStats, HubStats, NotRecovered};
use weirgate_runtime::{DurationCounts, Durations, SpinCounts};
use weirgate_wire::base::Now;

/// A value that a single thread writes and any thread reads.
#[derive(Debug, Default)]
pub(crate) struct Slot<T>(Mutex<T>);

impl<T> Slot<T> {
    /// Creates a slot; readers get `value` until the first write.
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Changes the value with `fill`. Never waits: while a reader holds the value, returns false and changes nothing.
    pub(crate) fn try_write(&self, fill: impl FnOnce(&mut T)) -> bool {
        match self.0.try_lock() {
            Ok(mut value) => fill(&mut value),
            Err(TryLockError::Poisoned(value)) => fill(&mut value.into_inner()),
            Err(TryLockError::WouldBlock) => return false,
        }
        true
    }

    /// Calls `read` with the value. Writes fail meanwhile, so `read` should be short.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A stage on the way of a bus message to the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// From the message's arrival until the feed takes it.
    BusToFeed,
    /// In the feed: parse, normalise, encode.
    Feed,
    /// From the feed's end until the frame is in every send queue.
    Queue,
    /// From the message's arrival until the first write to a client.
    FirstWrite,
    /// From the message's arrival until it is written to all clients that accept bytes at that time.
    LastWrite,
}

impl Stage {
    /// Metric labels, in the order of the numbers.
    pub(crate) const LABELS: [&'static str; 5] =
        ["bus_to_feed", "feed", "queue", "first_write", "last_write"];
}

/// What a turn of the loop limits; what is over the budget waits for the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// Accepting connections, and taking those that come back from other threads.
    Accepts,
    /// Reading clients.
    Reads,
    /// The messages of one client: its share of the turn.
    Messages,
    /// Messages of the bus, and inputs of the gateway.
    Publications,
    /// One flush.
    Flush,
    /// Closing sockets, and handing them to HTTP.
    Closes,
}

impl Budget {
    /// Metric labels, in the order of the numbers.
    pub(crate) const LABELS: [&'static str; 6] = [
        "accepts",
        "reads",
        "messages",
        "publications",
        "flush",
        "closes",
    ];
}

/// Other times of the loop than [`LoopDurations`]. The counts only grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopTimes {
    /// Polling without sleeping.
    pub spin: SpinCounts,
    /// The lateness of the loop since the start, microseconds ([`MetricName::LATE_SECONDS`]).
    pub late_us: u64,
    /// The lateness of the loop in the last second, microseconds.
    pub late_last_second_us: u64,
    /// From the arrival of messages until their write to the last client, in the last minute.
    pub last_minute: RecentLatency,
    spent: [u64; Budget::LABELS.len()],
}

impl LoopTimes {
    /// Counts that a turn has used a budget up.
    pub(crate) fn count_spent(&mut self, budget: Budget) {
        self.spent[budget as usize] += 1;
    }

    /// Returns how often each budget was used up.
    pub fn spent(&self) -> impl Iterator<Item = (&'static str, u64)> {
        zip(Budget::LABELS, self.spent)
    }
}

/// Distributions of durations. Only the loop adds to them.
#[derive(Debug, Default)]
pub struct LoopDurations {
    /// The durations of turns, without the wait for events.
    pub turns: Durations,
    /// From the write of a ping until its pong.
    pub pongs: Durations,
    stages: [Durations; Stage::LABELS.len()],
}

impl LoopDurations {
    /// Records the time that a bus message spent in a stage: once for each message, not for each client.
    pub(crate) fn observe_stage_us(&self, stage: Stage, us: u64) {
        self.stages[stage as usize].observe_us(us);
    }

    /// Returns the durations of a stage.
    pub(crate) fn stage(&self, stage: Stage) -> &Durations {
        &self.stages[stage as usize]
    }

    /// Returns the stages with their labels.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, DurationCounts)> {
        zip(Stage::LABELS, self.stages.iter().map(Durations::counts))
    }
}

/// The numbers of the loop other than those of the hub and the feed, and other than times. Counters only grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShellStats {
    /// Gauge: connections that were handed to the HTTP thread and have not ended yet.
    pub http_connections: u64,
    /// Connections allowed at once; `None`: no limit.
    pub connections_max: Option<u64>,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Gauge: addresses that the limits by address know.
    pub addresses: u64,
    /// Gauge: messages between the bus and the loop.
    pub bus_queue_messages: u64,
    /// Limit of these messages.
    pub bus_queue_messages_max: u64,
    /// Gauge: bytes of these messages.
    pub bus_queue_bytes: u64,
    /// Limit of these bytes.
    pub bus_queue_bytes_max: u64,
    /// Gauge: bytes of all frames alive, each counted once.
    pub frame_bytes_alive: u64,
    /// Limit of the bytes of all frames.
    pub frame_bytes_max: u64,
    /// Gauge: bytes of earlier text to which the compressed messages of clients may refer.
    pub inflate_window_bytes: u64,
    /// Gauge: the granted size of that text.
    pub inflate_window_bytes_granted: u64,
    /// Clients that got no window, because of the limit.
    pub inflate_windows_refused: u64,
}

/// The numbers of the loop at the end of a turn.
#[derive(Clone, Debug, Default)]
pub struct LoopNumbers {
    /// The numbers of the hub; `send_queue_peak_bytes` is for the last 10 to 20 seconds.
    pub hub: HubStats,
    /// The numbers of the feed.
    pub feed: FeedStats,
    /// Other numbers of the loop.
    pub shell: ShellStats,
    /// Durations.
    pub times: LoopTimes,
    /// End of the turn, Unix milliseconds.
    pub turn_ended_unix_ms: i64,
}

impl LoopNumbers {
    /// Returns the connections by phase.
    pub fn connections(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let hub = &self.hub;
        [
            ("head", hub.heads),
            ("open", hub.open),
            ("closing", hub.closing),
            ("http", self.shell.http_connections),
        ]
        .into_iter()
    }

    /// Returns the connections of all phases.
    pub(crate) fn all_connections(&self) -> u64 {
        self.connections().map(|(_, count)| count).sum()
    }

    /// Returns the request heads by outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let hub = &self.hub;
        [
            ("opened", hub.opened),
            ("http", hub.to_http),
            ("refused", hub.refused),
        ]
        .into_iter()
    }

    /// Returns the ended connections by reason.
    pub fn closes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        zip(CloseReason::ALL.map(CloseReason::label), self.hub.closes)
    }

    /// Returns the encodings for clients with compression, by kind.
    pub(crate) fn deflate_encodings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let hub = &self.hub;
        [
            ("chained", hub.encodings_chained),
            ("alone", hub.encodings_alone),
            ("stored", hub.encodings_stored),
        ]
        .into_iter()
    }

    /// Returns how many names clients asked to resume, by outcome; nothing without a history.
    pub fn resumes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let refused = NotRecovered::ALL.map(NotRecovered::label);
        let recovered = ("recovered", self.hub.resumes_recovered);
        let all = once(recovered).chain(zip(refused, self.hub.resumes_refused));
        all.filter(|_| self.hub.history.is_some())
    }

    /// Returns the failed writes, by kind.
    pub fn send_errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.hub.send_errors()
    }
}

/// A part of a turn, for the log line about a loop that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for the next turn.
    Wait,
    /// Events of the kernel, new connections, and input of clients that send little.
    Read,
    /// Inputs of other threads.
    Inputs,
    /// Messages of the bus.
    Bus,
    /// Writes.
    Flush,
    /// Input of clients whose messages cost much.
    Costly,
    /// Deadlines of clients.
    Deadlines,
    /// Sockets that end, and numbers for the pages.
    Effects,
    /// The loop has ended.
    Ended,
}

impl Phase {
    const ALL: [Self; 9] = [
        Self::Wait,
        Self::Read,
        Self::Inputs,
        Self::Bus,
        Self::Flush,
        Self::Costly,
        Self::Deadlines,
        Self::Effects,
        Self::Ended,
    ];
}

/// The state of the event loop for other threads.
#[derive(Debug)]
pub struct EventLoop {
    /// Distributions of durations.
    pub durations: Arc<LoopDurations>,
    numbers: Slot<LoopNumbers>,
    last_turn_mono_us: AtomicU64,
    phase: AtomicU8,
    draining: AtomicBool,
    caught_up: AtomicBool,
}

impl EventLoop {
    /// Starts with all numbers at 0 except those of `feed`. Until the first turn, the age of the last turn counts from
    /// `now`.
    pub fn new(feed: FeedStats, now: Now) -> Self {
        let numbers = LoopNumbers {
            feed,
            turn_ended_unix_ms: now.unix_ms(),
            ..LoopNumbers::default()
        };
        Self {
            durations: Arc::default(),
            numbers: Slot::new(numbers),
            last_turn_mono_us: AtomicU64::new(now.mono_us),
            phase: AtomicU8::new(Phase::Wait as u8),
            draining: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
        }
    }

    /// Records the end of a turn; the loop calls it last in every turn, at least every 500 ms. `fill` sets the numbers
    /// of this turn. Never waits: while a page reads the numbers, returns false and does not call `fill`.
    #[must_use]
    pub fn turn_ended(&self, now: Now, fill: impl FnOnce(&mut LoopNumbers)) -> bool {
        self.last_turn_mono_us.store(now.mono_us, Relaxed);
        self.numbers.try_write(|numbers| {
            fill(numbers);
            numbers.turn_ended_unix_ms = now.unix_ms();
        })
    }

    /// Records the part of the turn that begins now.
    pub(crate) fn begin(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Returns the part of the turn that began last.
    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Relaxed))]
    }

    /// Returns the end of the last turn, microseconds of the monotonic clock.
    pub(crate) fn last_turn_us(&self) -> u64 {
        self.last_turn_mono_us.load(Relaxed)
    }

    /// Returns a copy of the numbers of the last turn.
    pub fn numbers(&self) -> LoopNumbers {
        self.read(LoopNumbers::clone)
    }

    /// Calls `read` with the numbers of the last turn, for a page that shows few of them.
    pub fn read<R>(&self, read: impl FnOnce(&LoopNumbers) -> R) -> R {
        self.numbers.read(read)
    }

    /// Returns the number of clients at the end of the last turn: open WebSockets and event streams.
    pub fn clients(&self) -> u64 {
        self.read(|numbers| numbers.hub.open)
    }

    /// Returns the time since the end of the last turn, in milliseconds.
    pub fn last_turn_age_ms(&self, now: Now) -> u64 {
        now.mono_us.saturating_sub(self.last_turn_us()) / 1_000
    }

    /// Records that the process drains: from the first stop signal on.
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether the process drains.
    pub fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Records that the wait for the backlog at the start is over: the cache has the backlog, or there is none.
    pub fn set_caught_up(&self) {
        self.caught_up.store(true, Relaxed);
    }

    /// Whether the wait for the backlog at the start is over.
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
