//! Whether the send queue waits for the kernel, and states for the pong after the last state; for how long.

use super::gate::Gate;
use super::phase::Phase;
use super::slots::Slots;
use super::{Intake, Session};
use crate::hub::{Limits, MaxRate, Now, SlowLook, Why};

impl Session {
    /// Begins the wait of a queue that the kernel did not take whole, or ends the wait of an empty queue; `None` if
    /// nothing changes.
    #[inline]
    pub(in crate::hub) fn turns_waiting(&mut self) -> Option<bool> {
        let waits = (self.waits || self.is_blocked()) && self.has_waiting();
        let turns = waits != self.waits;
        self.waits = waits;
        turns.then_some(waits)
    }

    /// Whether everything that waits has waited for the loop alone: the kernel has taken whatever was written since the
    /// queue was last empty.
    pub(in crate::hub) fn keeps_up(&self) -> bool {
        self.is_listed() && !self.waits
    }

    /// Notes that the gateway itself holds the bytes back.
    pub(in crate::hub) fn set_paced(&mut self) {
        self.is_paced = true;
    }

    /// Whether the gateway itself holds the bytes back.
    pub(in crate::hub) fn is_paced(&self) -> bool {
        self.is_paced
    }

    /// Takes the time from a ping to the pong that was just read, microseconds.
    pub(in crate::hub) fn take_pong_us(&mut self) -> Option<u32> {
        match &mut self.cold.phase {
            Phase::Open(open) => open.pong_us.take(),
            _ => None,
        }
    }

    /// Time since the kernel last took a byte of the queue, microseconds; 0 if nothing waits.
    pub(in crate::hub) fn untaken_us(&self, now_us: u64) -> u64 {
        match self.has_waiting() {
            true => now_us.saturating_sub(self.queue.progress_at()),
            false => 0,
        }
    }
}

impl Session {
    /// Notes a pong: all bytes before its ping have come.
    pub(super) fn was_answered(&mut self, now: Now) {
        if let Phase::Open(open) = &mut self.cold.phase
            && let Some((bytes_read, after_us)) = open.ping.answered(now.mono_us)
        {
            let answered = bytes_read - open.bytes_read;
            (open.bytes_read, open.pong_us) = (bytes_read, Some(after_us));
            let under_way = self.under_way();
            if let Some(gate) = self.gate_mut() {
                gate.answered(after_us, answered, under_way);
            }
        }
    }

    /// Bytes that wait, or are under way: after the last ping that was answered.
    pub(super) fn under_way(&self) -> u64 {
        let bytes_read = match &self.cold.phase {
            Phase::Open(open) => open.bytes_read,
            _ => 0,
        };
        self.queue.bytes_out() - bytes_read + self.queue.bytes() as u64
    }

    /// The moment from which the pong under way is late, unless there is a gate already.
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

    /// Whether states wait for the pong after the last state.
    pub(in crate::hub) fn has_gate(&self) -> bool {
        self.gate().is_some()
    }

    pub(in crate::hub) fn set_gate(&mut self, now: Now) {
        self.slots_mut().gate = Some(Gate::new(now));
    }

    /// Sets or ends the client's own rate, after the end of a slot.
    pub(in crate::hub) fn set_max_rate(&mut self, now: Now, rate: Option<MaxRate>) {
        self.slots_mut().set_rate(now, rate);
        self.rest_slots();
    }

    fn slots_mut(&mut self) -> &mut Slots {
        self.is_limited = true;
        let slots = &mut self.cold.slots;
        slots.get_or_insert_with(|| Box::new(Slots::new(None)))
    }

    /// Frees slots that hold nothing back.
    fn rest_slots(&mut self) {
        let is_idle =
            |slots: &Slots| slots.count() == 0 && !slots.has_rate() && slots.gate.is_none();
        if self.intake == Intake::Open && self.cold.slots.as_deref().is_some_and(is_idle) {
            self.cold.slots = None;
            self.is_limited = self.cold.rate.is_some();
        }
    }

    fn gate(&self) -> Option<&Gate> {
        self.slots()?.gate.as_ref()
    }

    fn gate_mut(&mut self) -> Option<&mut Gate> {
        let slots = self.cold.slots.as_mut().filter(|_| self.is_limited)?;
        slots.gate.as_mut()
    }

    /// For how long the client has had a gate, microseconds.
    pub(super) fn gated_us(&self, now: Now) -> Option<u64> {
        Some(self.gate()?.age_us(now))
    }

    /// Takes away a wide gate; returns its age, microseconds.
    pub(in crate::hub) fn take_wide_gate(&mut self, now: Now) -> Option<u64> {
        let slots = self.cold.slots.as_mut()?;
        let gate = slots.gate.take_if(|gate| gate.is_wide())?;
        self.rest_slots();
        Some(gate.age_us(now))
    }

    /// Puts the first ping behind the bytes so far, unless a ping was answered or there are none.
    pub(in crate::hub) fn ping_early(&mut self, now: Now, limits: &Limits) {
        let is_first = matches!(&self.cold.phase, Phase::Open(open) if open.bytes_read == 0);
        if is_first && limits.ping_interval_us > 0 {
            self.ping(now);
        }
    }

    /// Puts a ping after the last state, if its pong says when the next may leave.
    pub(in crate::hub) fn ping_behind(&mut self, now: Now) {
        let is_out = self.queue.is_empty();
        if let Some(gate) = self.gate_mut()
            && is_out
            && (gate.is_closed || gate.has_left)
        {
            gate.has_left = false;
            self.ping(now);
        }
    }

    /// For operators.
    pub(in crate::hub) fn gate_look(&self, now: Now) -> Option<SlowLook> {
        let gate = self.gate()?;
        Some(SlowLook {
            why: Some(Why::Buffered),
            say: gate.say().into(),
            slow_us: gate.age_us(now),
            kernel: None,
            lost_permille: 0,
        })
    }
}
