//! The cause of a slow client, from two samples of the kernel's numbers about its connection.
//!
//! A client is slow if its send queue waited for half of the last second; [`waits`] adds the waits up. The rules and
//! their thresholds were fixed by measurements of clients with known causes; `tests/vectors/slow` has some of these.

pub(super) mod waits;

use super::reason::labelled;

labelled! {
    /// The cause for which a client is slow.
    pub enum SlowReason {
        /// The client's program reads slowly or not at all.
        Client = "client",
        /// The client's receive window is too small for the distance.
        Window = "window",
        /// The path to the client carries too little, or loses packets.
        Network = "network",
        /// No acknowledgements come from the client's kernel.
        Silent = "silent",
        /// The peer is a proxy; what is after it cannot be seen.
        Proxy = "proxy",
        /// The event loop was late.
        Gateway = "gateway",
        /// No cause is certain.
        Unclear = "unclear",
        /// The demo holds the bytes back.
        Paced = "paced",
        /// Buffers on the way take seconds to drain over the client's line.
        Buffered = "buffered",
    }
}

/// Numbers of the kernel about one connection at a moment (`TCP_INFO`); counters count from the connection's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSample {
    /// The moment, microseconds of the monotonic clock.
    pub at_us: u64,
    /// Retransmissions of the oldest segment without an acknowledgement.
    pub retransmits: u8,
    /// Bytes of a full segment.
    pub mss_bytes: u32,
    /// Time since the last acknowledgement.
    pub last_ack_ms: u32,
    /// Round trip, smoothed.
    pub rtt_us: u32,
    /// The shortest round trip of the last minutes.
    pub min_rtt_us: u32,
    /// Segments that may be in flight.
    pub cwnd_segments: u32,
    /// Bytes in the socket that were not sent yet.
    pub unsent_bytes: u32,
    /// Bytes that the client's kernel takes now.
    pub window_bytes: u32,
    /// Bytes sent, retransmissions included.
    pub sent_bytes: u64,
    /// Bytes sent again.
    pub resent_bytes: u64,
    /// Bytes that the client's kernel has acknowledged.
    pub acked_bytes: u64,
    /// Time with bytes in flight.
    pub busy_us: u64,
    /// The part of this time in which the window of the client was the limit.
    pub window_limited_us: u64,
}

impl TcpSample {
    /// Bytes in flight: sent and not acknowledged.
    pub fn in_flight_bytes(&self) -> u64 {
        let once = self.sent_bytes.saturating_sub(self.resent_bytes);
        once.saturating_sub(self.acked_bytes)
    }

    /// Whether the client's kernel takes nothing.
    fn is_closed(&self) -> bool {
        let mss = self.mss_bytes;
        self.window_bytes < mss && self.in_flight_bytes() < u64::from(mss)
    }
}

/// Two samples of a connection, about a second apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    before: TcpSample,
    after: TcpSample,
}

/// What two samples of a waiting client show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Our kernel had nothing to send while the queue waited.
    Idle,
    /// Like `Idle`, and the loop was late.
    Late,
    /// Segments are sent again and again.
    Silent,
    /// Bytes queue up on the path.
    Queued,
    /// The window is too small for the distance.
    Window,
    /// The window is closed.
    Closed,
    /// The window is open now and then, as the client reads.
    Reads,
    /// The path carries less than is sent.
    Path,
}

/// If the loop was late for this much of a second, the loop is the cause of an idle kernel.
const LATE_US: u64 = 50_000;
/// A round trip this much longer than the shortest one comes from a queue, not from the timers of a kernel.
const QUEUED_RTT_US: u32 = 200_000;
/// A path is silent only if the last acknowledgement is at least this old.
const SILENT_MS: u32 = 1_000;
/// From this share of lost bytes on, the line for a person names the loss.
const LOSS_PERCENT: f64 = 2.0;

impl Pair {
    /// Two samples in their order; `None` for two of the same moment.
    pub(super) fn new(before: TcpSample, after: TcpSample) -> Option<Self> {
        (after.at_us > before.at_us).then_some(Self { before, after })
    }

    fn grown(&self, counter: fn(&TcpSample) -> u64) -> u64 {
        counter(&self.after).saturating_sub(counter(&self.before))
    }

    fn passed_us(&self) -> u64 {
        self.grown(|sample| sample.at_us)
    }

    /// Bytes per second that the client's kernel has acknowledged.
    fn rate(&self) -> f64 {
        self.grown(|sample| sample.acked_bytes) as f64 * 1e6 / self.passed_us() as f64
    }

    /// Percent of the sent bytes that were sent again.
    pub(super) fn lost_percent(&self) -> f64 {
        let sent = self.grown(|sample| sample.sent_bytes).max(1);
        100.0 * self.grown(|sample| sample.resent_bytes) as f64 / sent as f64
    }

    /// The cause: the first rule that applies. `late_us` is the lateness of the loop in the last second.
    pub(super) fn cause(&self, late_us: u64) -> Cause {
        let last = &self.after;
        let (busy_us, in_flight) = (self.grown(|s| s.busy_us), last.in_flight_bytes());
        let (mss, window) = (u64::from(last.mss_bytes), u64::from(last.window_bytes));
        // For most of the time, no byte was in flight.
        if busy_us * 2 < self.passed_us() {
            return if late_us >= LATE_US {
                Cause::Late
            } else {
                Cause::Idle
            };
        }
        if last.retransmits >= 2 && last.last_ack_ms >= SILENT_MS && in_flight >= mss {
            return Cause::Silent;
        }
        // The round trip is far longer than the shortest one while much is in flight: that waits on the path.
        let queued_us = last.rtt_us.saturating_sub(last.min_rtt_us);
        let is_far = u64::from(last.rtt_us) >= 3 * u64::from(last.min_rtt_us);
        if is_far && queued_us >= QUEUED_RTT_US && in_flight >= (2 * mss).max(window * 3 / 10) {
            return Cause::Queued;
        }
        // Acknowledgements that wait for a slow reader lengthen the round trip; they are not a distance.
        let distance_us = last.rtt_us.min(last.min_rtt_us.saturating_mul(2));
        let round_bytes = self.rate() * f64::from(distance_us) / 1e6;
        let may_be_under_way = u64::from(last.cwnd_segments) * mss;
        if last.is_closed() {
            return Cause::Closed;
        }
        // A round trip fills at least half of the window, and without it more could be in flight. A window of less than
        // a segment is full because the client's program does not read.
        if window >= mss && round_bytes * 2.0 >= window as f64 && may_be_under_way > window {
            return Cause::Window;
        }
        // The window was the limit for half of the busy time, or for a fifth of it and is full now.
        let limited_us = self.grown(|s| s.window_limited_us);
        let is_full = in_flight + mss > window;
        if limited_us * 2 >= busy_us || limited_us * 5 >= busy_us && is_full {
            return Cause::Reads;
        }
        Cause::Path
    }

    /// The line for a person. `untaken_us`: for how long the kernel has taken no byte.
    pub(super) fn say(&self, cause: Cause, late_us: u64, untaken_us: u64) -> String {
        let last = &self.after;
        let (rate, rtt) = (size(self.rate()), time(last.rtt_us.into()));
        match cause {
            Cause::Idle => "our kernel had nothing to send while messages waited".to_owned(),
            Cause::Late => late(late_us),
            Cause::Silent => format!(
                "no acknowledgement for {}, {} retransmissions",
                time(u64::from(last.last_ack_ms) * 1_000),
                last.retransmits
            ),
            Cause::Window => {
                let window = f64::from(last.window_bytes);
                let allowed = size(window * 1e6 / f64::from(last.rtt_us.max(1)));
                format!("its {} window allows {allowed}/s at {rtt}", size(window))
            }
            Cause::Closed => {
                format!(
                    "takes nothing for {}: its window is closed",
                    time(untaken_us)
                )
            }
            Cause::Reads => format!("reads {rate}/s"),
            Cause::Queued | Cause::Path if self.lost_percent() >= LOSS_PERCENT => format!(
                "its path loses {:.1} %, carries {rate}/s; round trip {rtt}",
                self.lost_percent()
            ),
            Cause::Queued | Cause::Path => {
                let shortest = time(last.min_rtt_us.into());
                format!("its path carries {rate}/s; round trip {rtt}, was {shortest}")
            }
        }
    }

    /// The line for a person about a client behind a proxy.
    pub(super) fn say_of_proxy(&self, untaken_us: u64) -> String {
        match self.after.is_closed() {
            true => format!("its proxy takes nothing for {}", time(untaken_us)),
            false => format!("its proxy takes {}/s", size(self.rate())),
        }
    }
}

impl Cause {
    /// The word for this cause; `None` if the previous verdict still holds.
    pub(super) fn why(self) -> Option<SlowReason> {
        match self {
            Self::Idle => None,
            Self::Late => Some(SlowReason::Gateway),
            Self::Silent => Some(SlowReason::Silent),
            Self::Window => Some(SlowReason::Window),
            Self::Closed | Self::Reads => Some(SlowReason::Client),
            Self::Queued | Self::Path => Some(SlowReason::Network),
        }
    }
}

/// The line for a person about a late loop.
pub(super) fn late(late_us: u64) -> String {
    format!("our loop was late: {} in the last second", time(late_us))
}

/// A size in binary units, as in the documents and the settings.
fn size(bytes: f64) -> String {
    const KIB: f64 = 1024.0;
    match bytes {
        b if b < KIB => format!("{b:.0} B"),
        b if b < 100.0 * KIB => format!("{:.1} KiB", b / KIB),
        b if b < KIB * KIB => format!("{:.0} KiB", b / KIB),
        b => format!("{:.1} MiB", b / KIB / KIB),
    }
}

/// A length of time.
fn time(us: u64) -> String {
    match us as f64 / 1e3 {
        ms if ms < 0.1 => format!("{us} µs"),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1e3 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests;
