//! What a session holds back for its client: states between two times at which its throttle opens, and states behind
//! the gate of a client with deep buffers ([`Gate`]).

use super::phase::Phase;
use super::throttle::{Gate, Throttle};
use super::{Intake, Session};
use crate::{Limits, MaxRate, Now, SlowSnapshot, Why};

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

    /// The client's own rate.
    pub(crate) fn max_rate(&self) -> Option<MaxRate> {
        self.throttle().and_then(Throttle::rate)
    }

    /// Sets or ends the client's own rate. The caller has opened the throttle before.
    pub(crate) fn set_max_rate(&mut self, now: Now, rate: Option<MaxRate>) {
        self.throttle_mut().set_rate(now, rate);
        self.free_throttle();
    }

    fn throttle_mut(&mut self) -> &mut Throttle {
        self.is_limited = true;
        let throttle = &mut self.cold.throttle;
        throttle.get_or_insert_with(|| Box::new(Throttle::new(None)))
    }

    /// Frees a throttle that holds nothing back.
    fn free_throttle(&mut self) {
        let is_idle = |throttle: &Throttle| {
            throttle.count() == 0 && !throttle.has_rate() && throttle.gate.is_none()
        };
        if self.intake == Intake::Open && self.cold.throttle.as_deref().is_some_and(is_idle) {
            self.cold.throttle = None;
            self.is_limited = self.cold.rate.is_some() || self.cold.postponed.is_some();
        }
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
            why: Some(Why::Buffered),
            say: gate.say().into(),
            slow_us: gate.age_us(now),
            kernel: None,
            lost_permille: 0,
        })
    }
}
