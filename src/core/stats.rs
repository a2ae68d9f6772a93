//! The counters of the core: plain numbers, read by the shell once a turn. Counters only grow.

use std::io;

use super::session::{Pause, Pauses};
use super::{CloseReason, NameRefusal, NotRecovered, ShortHistory, SlowReason};

/// How a write to a client failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The client has gone: reset, or closed during the write.
    PeerGone,
    /// The kernel gave up sending again.
    TimedOut,
    /// No route to the client.
    Unreachable,
    /// Anything else.
    Other,
}

impl SendError {
    /// Metric labels, in the order of the numbers.
    const LABELS: [&'static str; 4] = ["peer_gone", "timed_out", "unreachable", "other"];

    /// The kind of an error of a write.
    pub(super) fn of(error: &io::Error) -> Self {
        use io::ErrorKind::*;

        match error.kind() {
            BrokenPipe | ConnectionReset | ConnectionAborted | NotConnected => Self::PeerGone,
            TimedOut => Self::TimedOut,
            HostUnreachable | NetworkUnreachable | NetworkDown => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// Counters and gauges of one hub.
///
/// The message counters balance at any time:
/// `queued = sent + conflated + shed + dropped + waiting`.
#[derive(Clone, Debug, Default)]
pub struct HubStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Handshakes that ended in a 101.
    pub opened: u64,
    /// Connections handed to HTTP.
    pub to_http: u64,
    /// Connections that came back from HTTP with an upgrade.
    pub returned: u64,
    /// Handshakes refused with a status.
    pub refused: u64,
    /// Gauge: sessions whose request head is not complete.
    pub heads: u64,
    /// Gauge: open clients, from the response to their request to the close.
    pub open: u64,
    /// Gauge: open clients that speak another protocol than WebSocket.
    pub open_other: u64,
    /// Gauge: sessions that only wait for their socket to end.
    pub closing: u64,
    /// Gauge: closing sessions that were open before.
    pub leaving: u64,
    /// Gauge: clients that are not read, by reason ([`paused_clients`](Self::paused_clients)). A client
    /// may have several reasons.
    pub paused: [u64; Pause::ALL.len()],
    /// Clients that ended while they were not read: their unread data is dropped.
    pub ended_unread: u64,
    /// Ends of connections by reason, in the order of [`CloseReason::ALL`].
    pub closes: [u64; CloseReason::ALL.len()],
    /// Messages for clients, counted for each client.
    pub messages_queued: u64,
    /// Messages whose last byte the kernel took.
    pub messages_sent: u64,
    /// Messages replaced by a newer message of the same key.
    pub messages_conflated: u64,
    /// Messages that are not sent: over a client's outbound rate, or without memory for their encoding.
    pub messages_shed: u64,
    /// Messages that were waiting when their client ended.
    pub messages_dropped: u64,
    /// Gauge: messages in send queues.
    pub messages_waiting: u64,
    /// Gauge: bytes in send queues, shared frames counted once per queue.
    pub send_queue_bytes: u64,
    /// Bytes taken by the kernel.
    pub bytes_sent: u64,
    /// Writes taken by the kernel only in part or not at all.
    pub writes_short: u64,
    /// Writes that failed, by kind ([`send_errors`](Self::send_errors)).
    pub(crate) send_errors: [u64; SendError::LABELS.len()],
    /// Bytes of the largest send queue since [`super::Hub::take_send_queue_peak`].
    pub send_queue_peak_bytes: u64,
    /// Frames deflated, once for each encoding.
    pub frames_deflated: u64,
    /// Encodings that refer to no earlier frame.
    pub encodings_alone: u64,
    /// Encodings that refer to earlier frames, of any topic.
    pub encodings_chained: u64,
    /// Encodings of stored blocks, for clients with compression.
    pub encodings_stored: u64,
    /// Messages from clients.
    pub received_messages: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// `None` without a history.
    pub history: Option<HistoryStats>,
    /// Names whose missed messages were all sent to the client.
    pub resumes_recovered: u64,
    /// Names that were not resumed, in the order of [`NotRecovered::ALL`].
    pub resumes_refused: [u64; NotRecovered::ALL.len()],
    /// Names that clients did not get or lost, in the order of [`NameRefusal::ALL`].
    pub names_refused: [u64; NameRefusal::ALL.len()],
    /// Slow clients.
    pub slow: SlowStats,
    /// Whether the loop is behind.
    pub overload: OverloadStats,
}

/// Whether the loop cannot write every message to every client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverloadStats {
    /// Gauge: whether the loop is behind.
    pub is_behind: bool,
    /// Time behind, all together, microseconds.
    pub behind_us: u64,
    /// States that were replaced before they were in a send queue.
    pub states_replaced: u64,
}

/// Slow clients by cause, in the order of [`SlowReason::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowStats {
    /// Gauge: clients that are slow.
    pub clients: [u64; SlowReason::ALL.len()],
    /// Time for which clients were slow, all together, microseconds.
    pub slow_us: [u64; SlowReason::ALL.len()],
    /// Samples of slow clients: calls that ask the kernel for the numbers of a socket.
    pub calls: u64,
}

impl SlowStats {
    /// Counts the end of a gate that lasted for `gated_us`, if there was a gate.
    pub(super) fn count_gate(&mut self, gated_us: Option<u64>) {
        if let Some(us) = gated_us {
            self.clients[SlowReason::Buffered as usize] -= 1;
            self.slow_us[SlowReason::Buffered as usize] += us;
        }
    }

    /// Clients that are slow, by cause: the labels of a metric.
    pub fn by_cause(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        SlowReason::ALL
            .map(SlowReason::label)
            .into_iter()
            .zip(self.clients)
    }

    /// Seconds for which clients were slow, by cause.
    pub fn seconds(&self) -> impl Iterator<Item = (&'static str, f64)> + use<> {
        let seconds = self.slow_us.map(|us| us as f64 / 1e6);
        SlowReason::ALL
            .map(SlowReason::label)
            .into_iter()
            .zip(seconds)
    }
}

impl HubStats {
    /// Failed writes, by kind: the labels of a metric.
    pub fn send_errors(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        SendError::LABELS.into_iter().zip(self.send_errors)
    }

    /// Names that clients did not get or lost, by reason: the labels of a metric.
    pub fn names_refused(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let labels = NameRefusal::ALL.map(NameRefusal::label);
        labels.into_iter().zip(self.names_refused)
    }
}

/// Gauges of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryStats {
    /// Messages kept for clients that resume.
    pub messages: u64,
    /// Memory of these messages, and of the names of their topics.
    pub bytes: u64,
    /// The limit of the memory.
    pub bytes_max: u64,
    /// For how long messages are kept while they fit, microseconds.
    pub keep_us: u64,
    /// No message since this time is missing, Unix microseconds; `None` while messages have no position.
    pub since_unix_us: Option<i64>,
    /// Why nothing older is there, if that is younger than [`Self::keep_us`].
    pub short: ShortHistory,
}

impl HubStats {
    /// Counts the change of a session's pauses from `before` to `after`.
    pub(super) fn count_pauses(&mut self, before: Pauses, after: Pauses) {
        if before == after {
            return;
        }
        for (why, gauge) in Pause::ALL.into_iter().zip(&mut self.paused) {
            match (before.holds(why), after.holds(why)) {
                (false, true) => *gauge += 1,
                (true, false) => *gauge -= 1,
                _ => {}
            }
        }
    }

    pub(super) fn count_close(&mut self, reason: CloseReason) {
        self.closes[reason as usize] += 1;
    }

    /// Counts frames that newer frames have replaced.
    pub(super) fn count_conflated(&mut self, (frames, bytes): (u32, usize)) {
        self.messages_conflated += u64::from(frames);
        self.count_removed(frames, bytes);
    }

    pub(super) fn count_removed(&mut self, frames: u32, bytes: usize) {
        self.messages_waiting -= u64::from(frames);
        self.send_queue_bytes -= bytes as u64;
    }

    /// Updates [`Self::leaving`] for a session that was open: it counts from its close to the end of its socket.
    pub(super) fn count_leaving(&mut self, moved: Moved) {
        match (moved.from, moved.to) {
            (PhaseKind::Open, PhaseKind::Closing) => self.leaving += 1,
            (PhaseKind::Closing, PhaseKind::Gone) => self.leaving -= 1,
            _ => {}
        }
    }

    /// Updates the gauges of phases. Apart from the count of new sessions, no other function does.
    pub(super) fn count_move(&mut self, moved: Moved) {
        if let Some(left) = self.gauge(moved.from) {
            *left -= 1;
        }
        if let Some(entered) = self.gauge(moved.to) {
            *entered += 1;
        }
        if moved.is_other {
            match moved.to {
                PhaseKind::Open => self.open_other += 1,
                _ => self.open_other -= 1,
            }
        }
    }

    /// The gauge of a phase; `None` for a session whose socket is gone.
    fn gauge(&mut self, phase: PhaseKind) -> Option<&mut u64> {
        match phase {
            PhaseKind::Head => Some(&mut self.heads),
            PhaseKind::Open => Some(&mut self.open),
            PhaseKind::Closing => Some(&mut self.closing),
            PhaseKind::Gone => None,
        }
    }

    pub(super) fn paused_for(&self, why: Pause) -> u64 {
        self.paused[why as usize]
    }

    /// Clients that are not read, by reason: the labels of a metric.
    pub fn paused_clients(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        Pause::ALL.map(Pause::label).into_iter().zip(self.paused)
    }

    /// Ends of connections with this reason.
    pub fn closes_for(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize]
    }
}

/// The phase of a connection (docs/contributing/lifecycle.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseKind {
    /// The request head is on its way.
    Head,
    /// The client gets messages, or a close waits for the last of these messages.
    Open,
    /// The last bytes are on their way; new data from the client is discarded.
    Closing,
    /// The shell has to end the socket, or has the socket for HTTP.
    Gone,
}

/// The change of a session's phase, for the gauges ([`HubStats::count_move`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Moved {
    pub(crate) from: PhaseKind,
    pub(crate) to: PhaseKind,
    /// Open, before or now, with another protocol than WebSocket.
    pub(crate) is_other: bool,
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn failed_writes_are_counted_by_their_cause() {
        for (kind, label) in [
            (ErrorKind::BrokenPipe, "peer_gone"),
            (ErrorKind::ConnectionReset, "peer_gone"),
            (ErrorKind::ConnectionAborted, "peer_gone"),
            (ErrorKind::NotConnected, "peer_gone"),
            (ErrorKind::TimedOut, "timed_out"),
            (ErrorKind::HostUnreachable, "unreachable"),
            (ErrorKind::NetworkUnreachable, "unreachable"),
            (ErrorKind::NetworkDown, "unreachable"),
            (ErrorKind::OutOfMemory, "other"),
        ] {
            let cause = SendError::of(&kind.into());
            assert_eq!(SendError::LABELS[cause as usize], label);
        }
    }
}
