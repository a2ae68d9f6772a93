//! The gate of a client behind buffers that weirgate cannot see, such as the buffers of a base station or a proxy. States
//! wait in weirgate, where a newer state replaces the older, and not in the buffers. A *state* is here a frame with a
//! conflation key.
//!
//! A gate is made when a pong takes longer than [`LATE_PONG_US`]. From then on a state is sent only while few bytes are
//! in flight, which the pong of a ping after the last state tells. The window of bytes begins at one state, doubles if
//! the pong for the whole window comes in time, and is halved with every late pong. A client that is only far away, or
//! was late once, has the whole window after some round trips, and the gate ends. A gate also ends if no state has had
//! to wait for some time.
//!
//! A gate never holds a frame of the kept feed ([`is_of_feed`](crate::Frame::is_of_feed)): a later frame would give the
//! client a position after it. What it holds waits in the [throttle](super::throttle).

use super::Session;
use super::phase::Phase;
use crate::limits::LATE_PONG_US;
use crate::{Limits, Now, SlowReason, SlowSnapshot};

/// A pong is behind a queue if it takes longer than the shortest pong by more than this, and by more than half of the
/// shortest.
const QUEUED_US: u32 = 100_000;

/// The pongs that have to come in time after a late pong before the window grows again.
const PONGS_AFTER_LATE: u8 = 16;

/// After this many pongs in time, during which no state had to wait, the gate ends.
const PONGS_UNUSED_MAX: u8 = 16;

/// The longest that a state waits for a pong: `WAIT_US_MIN`, or `WAIT_PONGS` times the time of the last pong if that is
/// longer.
const WAIT_US_MIN: u64 = 1_500_000;
const WAIT_PONGS: u64 = 3;

/// A gate whose window has this many bytes ends: above, the send queue itself conflates (the default soft limit).
const WINDOW_BYTES_MAX: u64 = 256 * 1024;

/// Limits the bytes that may be in flight to a client.
#[derive(Debug)]
pub(super) struct Gate {
    /// When the gate was made.
    since_us: u64,
    /// Bytes that may be in flight; a single state always may.
    window_bytes: u64,
    /// The time of the shortest pong so far.
    least_pong_us: u32,
    last_pong_us: u32,
    /// The longest that a state waits for a pong.
    wait_us: u64,
    /// Pongs in time before the window may grow.
    pongs_to_wait: u8,
    /// Pongs in time since a state last had to wait.
    pongs_unused: u8,
    /// The next state waits for a pong.
    pub(super) is_closed: bool,
    /// A state was sent since the last ping.
    sent_since_ping: bool,
    /// When the last state was sent, or the gate was made, microseconds of the monotonic clock.
    sent_us: u64,
}

impl Gate {
    /// A gate for a client whose pong is late.
    pub(super) fn new(now: Now) -> Self {
        Self {
            since_us: now.mono_us,
            window_bytes: 0,
            least_pong_us: u32::MAX,
            last_pong_us: LATE_PONG_US,
            wait_us: WAIT_US_MIN,
            pongs_to_wait: 0,
            pongs_unused: 0,
            is_closed: true,
            sent_since_ping: false,
            sent_us: now.mono_us,
        }
    }

    /// Decides whether a state of `bytes` bytes may be sent while `under_way` bytes are in flight. If not, the gate is
    /// closed until a pong, or for some time.
    pub(super) fn try_pass(&mut self, now: Now, under_way: u64, bytes: usize) -> bool {
        self.is_closed = under_way > 0 && under_way + bytes as u64 > self.window_bytes;
        match self.is_closed {
            true => self.pongs_unused = 0,
            false => self.note_sent(now),
        }
        !self.is_closed
    }

    /// Notes that a state is sent.
    pub(super) fn note_sent(&mut self, now: Now) {
        self.sent_since_ping = true;
        self.sent_us = now.mono_us;
    }

    /// Whether a pong is needed, because a state waits for one or was sent since the last ping. The caller sends a ping
    /// then.
    pub(super) fn take_awaits_pong(&mut self) -> bool {
        std::mem::take(&mut self.sent_since_ping) || self.is_closed
    }

    /// When a closed gate lets a state through even without a pong, because some networks drop pings.
    pub(super) fn opens_us(&self) -> u64 {
        self.sent_us + self.wait_us
    }

    /// Handles a pong: the client has got `answered` more bytes than at the last pong, and `under_way` bytes are still
    /// in flight.
    pub(super) fn answered(&mut self, pong_us: u32, answered: u64, under_way: u64) {
        self.last_pong_us = pong_us;
        self.wait_us = WAIT_US_MIN.max(WAIT_PONGS * u64::from(pong_us));
        self.least_pong_us = self.least_pong_us.min(pong_us);
        let margin_us = QUEUED_US.max(self.least_pong_us / 2);
        let is_late = pong_us > LATE_PONG_US || pong_us - self.least_pong_us > margin_us;
        self.pongs_unused = match is_late {
            true => 0,
            false => self.pongs_unused.saturating_add(1),
        };
        if is_late {
            self.window_bytes /= 2;
            self.pongs_to_wait = PONGS_AFTER_LATE;
        } else if self.pongs_to_wait > 0 {
            self.pongs_to_wait -= 1;
        } else if answered >= self.window_bytes {
            self.window_bytes = 2 * answered;
        }
        self.is_closed = under_way > 0 && under_way >= self.window_bytes;
    }

    /// Whether the gate has nothing left to hold back.
    pub(super) fn is_wide(&self) -> bool {
        self.window_bytes >= WINDOW_BYTES_MAX || self.pongs_unused >= PONGS_UNUSED_MAX
    }

    /// The time for which there has been a gate, microseconds.
    pub(super) fn age_us(&self, now: Now) -> u64 {
        now.mono_us.saturating_sub(self.since_us)
    }

    /// The state of the gate in words for operators, with figures.
    pub(super) fn say(&self) -> String {
        let seconds = f64::from(self.last_pong_us) / 1e6;
        format!("its pong takes {seconds:.1} s: states wait here, not in the buffers on the way")
    }
}

impl Session {
    /// When the client gets a gate: the time from which the awaited pong is late. `None` without an awaited pong, and for
    /// a client that has a gate.
    pub(super) fn gate_due(&self, now: Now, limits: &Limits) -> Option<u64> {
        let Phase::Open(open) = &self.cold.phase else {
            return None;
        };
        // A pong of a client that is not read may be in the kernel.
        if self.has_gate() || self.cold.reading.is_paused() {
            return None;
        }
        let sent_us = open.ping.sent_at(now.mono_us)?;
        Some(sent_us.saturating_add(limits.buffered_after_us))
    }

    /// Whether the client has a gate.
    pub(crate) fn has_gate(&self) -> bool {
        self.gate().is_some()
    }

    /// Gives the client a gate.
    pub(crate) fn set_gate(&mut self, now: Now) {
        self.throttle_mut().gate = Some(Gate::new(now));
    }

    fn gate(&self) -> Option<&Gate> {
        self.throttle()?.gate.as_ref()
    }

    pub(super) fn gate_mut(&mut self) -> Option<&mut Gate> {
        let throttle = self.cold.throttle.as_mut().filter(|_| self.is_limited)?;
        throttle.gate.as_mut()
    }

    /// The time for which the client has had a gate, microseconds.
    pub(super) fn gated_us(&self, now: Now) -> Option<u64> {
        Some(self.gate()?.age_us(now))
    }

    /// Removes the gate if it has nothing left to hold back; returns its age, microseconds.
    pub(crate) fn take_wide_gate(&mut self, now: Now) -> Option<u64> {
        let throttle = self.cold.throttle.as_mut()?;
        let gate = throttle.gate.take_if(|gate| gate.is_wide())?;
        self.free_throttle();
        Some(gate.age_us(now))
    }

    /// Queues a ping once all states that the gate let through are written: its pong says that the client has them, so
    /// that the next state may be sent.
    pub(crate) fn ping_after_states(&mut self, now: Now) {
        let all_are_written = self.queue.is_empty();
        if let Some(gate) = self.gate_mut()
            && all_are_written
            && gate.take_awaits_pong()
        {
            self.ping(now);
        }
    }

    /// The gate in the words of an operator's page.
    pub(crate) fn gate_snapshot(&self, now: Now) -> Option<SlowSnapshot> {
        let gate = self.gate()?;
        Some(SlowSnapshot {
            why: Some(SlowReason::Buffered),
            say: gate.say().into(),
            slow_us: gate.age_us(now),
            kernel: None,
            lost_permille: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Gate {
        Gate::new(Now::default())
    }

    #[test]
    fn one_state_at_a_time_is_under_way_while_pongs_are_late() {
        let mut gate = closed();
        assert!(!gate.try_pass(Now::default(), 9, 1));
        for _ in 0..99 {
            gate.answered(LATE_PONG_US + 1, 10_000, 0);
            assert!(!gate.is_closed && !gate.is_wide());
            assert!(
                gate.try_pass(Now::default(), 0, 10_000)
                    && !gate.try_pass(Now::default(), 10_000, 10_000)
            );
        }
    }

    #[test]
    fn a_client_far_away_has_no_gate_after_some_pongs() {
        let mut gate = closed();
        let mut pongs = 0;
        while !gate.is_wide() {
            assert!(!gate.try_pass(Now::default(), 1, 1 << 40));
            // The feed brings more than may leave.
            gate.answered(
                300_000 + pongs % 2 * 90_000,
                gate.window_bytes.max(2_000),
                0,
            );
            pongs += 1;
        }
        assert_eq!(pongs, 8);
    }

    #[test]
    fn a_thin_line_keeps_its_gate() {
        // 20 kB/s, states of 4 kB. As many bytes as the gate allows are always in flight, and the pong takes
        // accordingly long.
        let mut gate = closed();
        for _ in 0..200 {
            let bytes = gate.window_bytes.max(4_000) / 4_000 * 4_000;
            let pong_us = 20_000 + bytes as u32 * 50;
            gate.answered(pong_us, bytes, 0);
            assert!(!gate.try_pass(Now::default(), bytes, 4_000) || gate.window_bytes > bytes);
            assert!(gate.window_bytes <= 32_000, "{}", gate.window_bytes);
        }
    }
}
