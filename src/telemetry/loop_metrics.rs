//! What the event loop tells of itself: it stores its own counters here once a turn, and never
//! waits for whoever reads them.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use super::names;
use super::values::{Durations, Stored, StoredByLabel, Writer};
use crate::hub::{FeedStats, Now};

/// The phase of a connection, as `weirgate_connections` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its request head is being read.
    Head,
    /// An open WebSocket.
    Open,
    /// A WebSocket that is being closed.
    Closing,
    /// Handed to the HTTP thread and not ended yet.
    Http,
}

impl Phase {
    /// Metric labels, in the order of the numbers.
    pub const LABELS: [&'static str; 4] = ["head", "open", "closing", "http"];
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

/// The label values that are fixed at the start, in the order of the indices that are stored.
#[derive(Clone, Debug, Default)]
pub struct LoopLabels {
    /// What a request can lead to, for `weirgate_client_connections_total`.
    pub connection_outcomes: &'static [&'static str],
    /// Why a WebSocket can end, for `weirgate_client_closes_total`.
    pub close_reasons: &'static [&'static str],
    /// How a write can fail, for `weirgate_send_errors_total`.
    pub send_errors: &'static [&'static str],
    /// The feed's subjects, or families of subjects, in the feed's own order.
    pub subjects: Vec<String>,
}

/// The loop's counters and gauges, stored absolute. Counters only grow.
#[derive(Debug)]
pub struct LoopMetrics {
    /// Open WebSockets.
    pub clients: Stored,
    connections: StoredByLabel,
    /// Connections allowed at once; the largest number stands for no limit.
    pub connections_max: Stored,
    /// Connections accepted.
    pub connections_accepted: Stored,
    /// Connections that came back from plain HTTP.
    pub connections_returned: Stored,
    /// By index into [`LoopLabels::connection_outcomes`].
    pub client_connections: StoredByLabel,
    /// By index into [`LoopLabels::close_reasons`].
    pub client_closes: StoredByLabel,
    /// Addresses known to the limits by address.
    pub addresses: Stored,
    /// Messages between the bus and the loop.
    pub bus_queue_messages: Stored,
    /// Room for them.
    pub bus_queue_messages_max: Stored,
    /// Publications of the feed.
    pub publications: Stored,
    /// Frames that the kernel took whole.
    pub frames_sent: Stored,
    /// Bytes that the kernel took for WebSocket clients.
    pub bytes_sent: Stored,
    /// Messages for a client, counted once per client.
    pub messages_queued: Stored,
    /// Messages replaced by a newer one.
    pub messages_conflated: Stored,
    /// Messages kept back by a rate.
    pub messages_shed: Stored,
    /// Messages lost with their connection.
    pub messages_dropped: Stored,
    /// Messages in all send queues now.
    pub messages_waiting: Stored,
    /// Bytes in all send queues now.
    pub send_queue_bytes: Stored,
    /// Bytes of the largest send queue lately.
    pub send_queue_peak_bytes: Stored,
    /// Bytes of all frames alive, each counted once.
    pub frame_bytes_alive: Stored,
    /// Bytes that they may have.
    pub frame_bytes_max: Stored,
    /// Writes.
    pub writes: Stored,
    /// Writes of which the kernel took a part or nothing.
    pub writes_short: Stored,
    /// Writes that failed for good, by index into [`LoopLabels::send_errors`].
    pub send_errors: StoredByLabel,
    /// Accepts that failed.
    pub accept_errors: Stored,
    /// Frames deflated.
    pub deflated_frames: Stored,
    /// Messages from clients.
    pub received_messages: Stored,
    /// Bytes from clients.
    pub received_bytes: Stored,
    turns: AtomicU64,
    last_turn_mono_us: AtomicU64,
    last_turn_unix_ms: AtomicI64,
    draining: AtomicBool,
    caught_up: AtomicBool,
    bus_messages: StoredByLabel,
    bus_messages_bad: StoredByLabel,
    bus_messages_old: StoredByLabel,
    bus_messages_ignored: Stored,
    bus_gaps: Stored,
    /// Unix milliseconds; the smallest number while there is none.
    last_message_unix_ms: AtomicI64,
    turn_durations: Durations,
    stages: [Durations; Stage::LABELS.len()],
}

impl LoopMetrics {
    /// All at 0. The age of the last turn counts from `now` until the first turn.
    pub fn new(labels: &LoopLabels, now: Now) -> Self {
        Self {
            clients: Stored::default(),
            connections: StoredByLabel::new(&Phase::LABELS),
            connections_max: Stored::default(),
            connections_accepted: Stored::default(),
            connections_returned: Stored::default(),
            client_connections: StoredByLabel::new(labels.connection_outcomes),
            client_closes: StoredByLabel::new(labels.close_reasons),
            addresses: Stored::default(),
            bus_queue_messages: Stored::default(),
            bus_queue_messages_max: Stored::default(),
            publications: Stored::default(),
            frames_sent: Stored::default(),
            bytes_sent: Stored::default(),
            messages_queued: Stored::default(),
            messages_conflated: Stored::default(),
            messages_shed: Stored::default(),
            messages_dropped: Stored::default(),
            messages_waiting: Stored::default(),
            send_queue_bytes: Stored::default(),
            send_queue_peak_bytes: Stored::default(),
            frame_bytes_alive: Stored::default(),
            frame_bytes_max: Stored::default(),
            writes: Stored::default(),
            writes_short: Stored::default(),
            send_errors: StoredByLabel::new(labels.send_errors),
            accept_errors: Stored::default(),
            deflated_frames: Stored::default(),
            received_messages: Stored::default(),
            received_bytes: Stored::default(),
            turns: AtomicU64::new(0),
            last_turn_mono_us: AtomicU64::new(now.mono_us),
            last_turn_unix_ms: AtomicI64::new(now.unix_ms),
            draining: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            bus_messages: StoredByLabel::new(&labels.subjects),
            bus_messages_bad: StoredByLabel::new(&labels.subjects),
            bus_messages_old: StoredByLabel::new(&labels.subjects),
            bus_messages_ignored: Stored::default(),
            bus_gaps: Stored::default(),
            last_message_unix_ms: AtomicI64::new(i64::MIN),
            turn_durations: Durations::default(),
            stages: Default::default(),
        }
    }

    /// Stores how many connections are in a phase.
    pub fn store_connections(&self, phase: Phase, connections: u64) {
        self.connections.store(phase as usize, connections);
    }

    /// Ends a turn that began at `began`: call it last in every turn, at least every 500 ms.
    pub fn turn_ended(&self, began: Now, now: Now) {
        let took_us = now.mono_us.saturating_sub(began.mono_us);
        self.turn_durations.observe_us(took_us);
        self.turns.store(self.turns.load(Relaxed) + 1, Relaxed);
        self.last_turn_mono_us.store(now.mono_us, Relaxed);
        self.last_turn_unix_ms.store(now.unix_ms, Relaxed);
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

    /// Stores what the feed has seen; its subjects are those of [`LoopLabels::subjects`].
    pub fn store_feed(&self, feed: &FeedStats) {
        for (index, subject) in feed.subjects.iter().enumerate() {
            self.bus_messages.store(index, subject.messages);
            self.bus_messages_bad.store(index, subject.messages_bad);
            self.bus_messages_old.store(index, subject.messages_old);
        }
        self.bus_messages_ignored.store(feed.messages_ignored);
        self.bus_gaps.store(feed.gaps);
        let last = feed.last_message_unix_ms.unwrap_or(i64::MIN);
        self.last_message_unix_ms.store(last, Relaxed);
        if feed.caught_up {
            self.set_caught_up();
        }
    }

    /// Unix milliseconds of the newest good message, if there was one.
    pub fn last_message_unix_ms(&self) -> Option<i64> {
        Some(self.last_message_unix_ms.load(Relaxed)).filter(|&at| at != i64::MIN)
    }

    /// Records how long one bus message took in a stage: once per message, not per client.
    pub fn observe_stage_us(&self, stage: Stage, us: u64) {
        if let Some(durations) = self.stages.get(stage as usize) {
            durations.observe_us(us);
        }
    }

    /// Connections by phase.
    pub fn connections(&self) -> impl Iterator<Item = (&str, u64)> {
        self.connections.iter()
    }

    /// Bus messages by subject: taken, refused, too old.
    pub fn bus_messages(&self) -> impl Iterator<Item = (&str, [u64; 3])> {
        let bad = self.bus_messages_bad.iter();
        let old = self.bus_messages_old.iter();
        self.bus_messages
            .iter()
            .zip(bad.zip(old))
            .map(|((subject, taken), ((_, bad), (_, old)))| (subject, [taken, bad, old]))
    }

    /// Messages of subjects that are not relayed.
    pub fn bus_messages_ignored(&self) -> u64 {
        self.bus_messages_ignored.load()
    }

    /// Losses that the bus told of.
    pub fn bus_gaps(&self) -> u64 {
        self.bus_gaps.load()
    }

    /// Turns so far.
    pub fn turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) -> fmt::Result {
        self.write_connections(out)?;
        self.write_bus(out)?;
        self.write_sending(out)?;
        self.write_loop(out)
    }

    fn write_connections(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.number(&names::CLIENTS, self.clients.load())?;
        out.by_label(&names::CONNECTIONS, self.connections.iter())?;
        let connections_max = Some(self.connections_max.load()).filter(|&max| max < u64::MAX);
        out.maybe_number(&names::CONNECTIONS_MAX, connections_max)?;
        out.numbers(&[
            (names::CONNECTIONS_ACCEPTED, &self.connections_accepted),
            (names::CONNECTIONS_RETURNED, &self.connections_returned),
        ])?;
        out.by_label(&names::CLIENT_CONNECTIONS, self.client_connections.iter())?;
        out.by_label(&names::CLIENT_CLOSES, self.client_closes.iter())?;
        out.number(&names::ADDRESSES, self.addresses.load())
    }

    fn write_bus(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.by_label(&names::BUS_MESSAGES, self.bus_messages.iter())?;
        out.by_label(&names::BUS_MESSAGES_BAD, self.bus_messages_bad.iter())?;
        out.by_label(&names::BUS_MESSAGES_OLD, self.bus_messages_old.iter())?;
        out.numbers(&[
            (names::BUS_MESSAGES_IGNORED, &self.bus_messages_ignored),
            (names::BUS_GAPS, &self.bus_gaps),
        ])?;
        let last_message = self.last_message_unix_ms().map(|ms| ms as f64 / 1e3);
        out.seconds(&names::BUS_LAST_MESSAGE, last_message)?;
        out.numbers(&[
            (names::BUS_QUEUE_MESSAGES, &self.bus_queue_messages),
            (names::BUS_QUEUE_MESSAGES_MAX, &self.bus_queue_messages_max),
            (names::PUBLICATIONS, &self.publications),
        ])
    }

    fn write_sending(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.numbers(&[
            (names::FRAMES_SENT, &self.frames_sent),
            (names::BYTES_SENT, &self.bytes_sent),
            (names::MESSAGES_QUEUED, &self.messages_queued),
            (names::MESSAGES_CONFLATED, &self.messages_conflated),
            (names::MESSAGES_SHED, &self.messages_shed),
            (names::MESSAGES_DROPPED, &self.messages_dropped),
            (names::MESSAGES_WAITING, &self.messages_waiting),
            (names::SEND_QUEUE_BYTES, &self.send_queue_bytes),
            (names::SEND_QUEUE_PEAK, &self.send_queue_peak_bytes),
            (names::FRAME_BYTES_ALIVE, &self.frame_bytes_alive),
            (names::FRAME_BYTES_MAX, &self.frame_bytes_max),
            (names::WRITES, &self.writes),
            (names::WRITES_SHORT, &self.writes_short),
        ])?;
        out.by_label(&names::SEND_ERRORS, self.send_errors.iter())?;
        out.numbers(&[
            (names::ACCEPT_ERRORS, &self.accept_errors),
            (names::DEFLATED_FRAMES, &self.deflated_frames),
            (names::RECEIVED_MESSAGES, &self.received_messages),
            (names::RECEIVED_BYTES, &self.received_bytes),
        ])
    }

    fn write_loop(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.number(&names::LOOP_TURNS, self.turns.load(Relaxed))?;
        let last_turn = self.last_turn_unix_ms.load(Relaxed) as f64 / 1e3;
        out.seconds(&names::LOOP_LAST_TURN, Some(last_turn))?;
        out.duration(&names::LOOP_TURN_DURATION, &self.turn_durations)?;
        out.durations(
            &names::STAGE_DURATION,
            Stage::LABELS.into_iter().zip(&self.stages),
        )?;
        out.number(&names::CAUGHT_UP, self.caught_up().into())?;
        out.number(&names::DRAINING, self.draining().into())
    }
}
