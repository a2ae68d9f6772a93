//! The client's own rate, `?max_hz=2` in the request or set later (contract: protocol-levels.md, protocol-channels.md):
//! frames with a conflation key wait for the client's next slot. A slot opens every interval, and then the newest frame
//! of each key is sent.
//!
//! A frame that comes while a slot is open is sent at once, and the next slot opens an interval later. Held frames
//! count as waiting. If the newest frames of all keys are too many bytes, the slot opens early: a client that reads
//! gets more than its rate, and stays; a client that does not read meets the hard limit of the send queue. All clients
//! together hold no more frames than there are keys: a client holds only the newest frame of a key, and all clients
//! share the frame.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::gate::Gate;
use crate::hub::{ConflationKey, Frame, Now, RequestRefusal};
use crate::wire::head::RequestHead;

const PARAMETER: &str = "max_hz";
const MIN_HZ: f64 = 0.1;
const MAX_HZ: f64 = 1_000.0;
const REFUSAL: RequestRefusal =
    RequestRefusal::new(400, "max_hz must be a number from 0.1 to 1000");

/// The most times a second at which a client wants frames with a conflation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRate {
    /// The time from one slot to the next, microseconds.
    interval_us: u64,
}

impl MaxRate {
    /// Returns the rate in a request's query; `None` if the query names no rate. The first `max_hz`
    /// counts.
    ///
    /// # Errors
    /// The value is not a decimal number in the range.
    pub fn of(head: &RequestHead<'_>) -> Result<Option<Self>, RequestRefusal> {
        let value = head.parameters(PARAMETER).next();
        let rate = value.map(|value| Self::parse(&value).ok_or(REFUSAL));
        rate.transpose()
    }

    /// The rate in times a second, rounded to thousandths.
    pub fn hz(self) -> f64 {
        (1e9 / self.interval_us as f64).round() / 1e3
    }

    /// Reads a decimal number of times a second; `None` out of range, or for another text.
    pub fn parse(value: &str) -> Option<Self> {
        // Without signs, exponents, `inf` and `nan`, which the parser of Rust takes.
        let is_decimal = value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let hz = value.parse::<f64>().ok().filter(|_| is_decimal)?;
        (MIN_HZ..=MAX_HZ).contains(&hz).then(|| Self {
            interval_us: (1e6 / hz).round() as u64,
        })
    }
}

/// A frame that waits for the slot.
#[derive(Debug)]
struct Held {
    /// Held frames are sent in the order of these numbers.
    number: u64,
    frame: Arc<Frame>,
}

/// What happens to a frame.
#[derive(Debug)]
pub(super) enum Slotted {
    /// A slot is open: the frame is sent at once.
    Leaves,
    /// The frame waits for the next slot. Has the older frame of the same key that it replaces, if there is one.
    Held(Option<Arc<Frame>>),
    /// Too many bytes would wait: the slot has to open first.
    Full,
}

/// The slots of a client.
#[derive(Debug)]
pub(super) struct Slots {
    /// 0: the client has no rate of its own.
    interval_us: u64,
    /// The gate of a client behind deep buffers.
    pub(super) gate: Option<Gate>,
    /// When the next slot opens, microseconds of the monotonic clock.
    next_us: u64,
    held: HashMap<ConflationKey, Held, RandomState>,
    /// Queue bytes of the held frames.
    bytes: usize,
    numbered: u64,
}

impl Slots {
    /// Returns slots of which the first is open. Without a rate every slot is open, unless a gate is closed.
    pub(super) fn new(rate: Option<MaxRate>) -> Self {
        Self {
            interval_us: rate.map_or(0, |rate| rate.interval_us),
            gate: None,
            next_us: 0,
            held: HashMap::default(),
            bytes: 0,
            numbered: 0,
        }
    }

    /// Sets or ends the rate. The caller has opened the slot, so no frame is held.
    pub(super) fn set_rate(&mut self, now: Now, rate: Option<MaxRate>) {
        self.interval_us = rate.map_or(0, |rate| rate.interval_us);
        self.next_us = self.next_us.min(now.mono_us + self.interval_us);
    }

    /// Whether the client has a rate of its own.
    pub(super) fn has_rate(&self) -> bool {
        self.interval_us > 0
    }

    /// Decides on a frame while `under_way` bytes are in flight to the client. At most `bytes_max` bytes wait, unless a
    /// single frame is larger.
    pub(super) fn judge(
        &mut self,
        now: Now,
        key: ConflationKey,
        frame: &Arc<Frame>,
        (under_way, bytes_max): (u64, usize),
    ) -> Slotted {
        let has_rate = self.has_rate();
        let mut gate = self.gate.as_mut().filter(|_| !frame.is_of_feed());
        // Held frames are sent first, even after a gate has ended.
        let is_free = gate.is_none() && self.held.is_empty();
        if !has_rate && (is_free || frame.is_of_feed()) {
            return Slotted::Leaves;
        }
        let is_slot = self.held.is_empty() && now.mono_us >= self.next_us;
        let bytes = frame.queue_bytes();
        if is_slot
            && gate
                .as_mut()
                .is_none_or(|gate| gate.takes(now, under_way, bytes))
        {
            self.next_us = now.mono_us + self.interval_us;
            return Slotted::Leaves;
        }
        let replaced = self.held.get(&key).map(|held| held.frame.queue_bytes());
        let others = self.held.len() - usize::from(replaced.is_some());
        let bytes = self.bytes - replaced.unwrap_or(0) + frame.queue_bytes();
        if others > 0 && bytes > bytes_max {
            return Slotted::Full;
        }
        self.numbered += 1;
        self.bytes = bytes;
        let newest = Held {
            number: self.numbered,
            frame: Arc::clone(frame),
        };
        let older = self.held.insert(key, newest);
        Slotted::Held(older.map(|held| held.frame))
    }

    /// When the next slot opens; `None` if no frame waits for it.
    pub(super) fn due_us(&self) -> Option<u64> {
        let gate = self.gate.as_ref().filter(|gate| gate.is_closed);
        let due_us = gate.map_or(self.next_us, |gate| self.next_us.max(gate.opens_us()));
        (!self.held.is_empty()).then_some(due_us)
    }

    /// Opens the slot: returns the held frames, oldest first. Without a held frame the slot is not used up.
    pub(super) fn open(&mut self, now: Now) -> Vec<Arc<Frame>> {
        if self.held.is_empty() {
            return Vec::new();
        }
        // A late call leaves the times of the later slots as they are, unless a whole slot has passed. After an
        // early call the next slot is an interval from now.
        let slot = self.next_us..self.next_us + self.interval_us;
        self.next_us = match slot.contains(&now.mono_us) {
            true => slot.end,
            false => now.mono_us + self.interval_us,
        };
        self.bytes = 0;
        if let Some(gate) = &mut self.gate {
            gate.is_closed = true;
            gate.leaves(now);
        }
        let mut held: Vec<Held> = std::mem::take(&mut self.held).into_values().collect();
        held.sort_unstable_by_key(|held| held.number);
        held.into_iter().map(|held| held.frame).collect()
    }

    /// Removes the held frames with one of these keys; returns frames and bytes.
    pub(super) fn remove(&mut self, keys: &[ConflationKey]) -> (u32, usize) {
        let gone = keys.iter().filter_map(|key| self.held.remove(key));
        let (frames, bytes) = gone.fold((0, 0), |(frames, bytes), held| {
            (frames + 1, bytes + held.frame.queue_bytes())
        });
        self.bytes -= bytes;
        (frames, bytes)
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Frame>> {
        self.held.values().map(|held| &held.frame)
    }

    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::FrameBytes;
    use crate::wire::head;

    fn of(query: &str) -> Result<Option<u64>, RequestRefusal> {
        let text = format!("GET /ws{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = head::parse(text.as_bytes(), 10).expect("a head");
        MaxRate::of(&head).map(|rate| rate.map(|rate| rate.interval_us))
    }

    #[test]
    fn no_state_overtakes_what_waits_when_a_gate_ends() {
        let (now, key, alive) = (Now::default(), ConflationKey(1), FrameBytes::default());
        let frame = || Frame::text(&alive).key(key).body(b"x").finish();
        let mut slots = Slots::new(None);
        slots.gate = Some(Gate::new(now));
        let judged = |slots: &mut Slots| slots.judge(now, key, &frame(), (9, 99));
        assert!(matches!(judged(&mut slots), Slotted::Held(None)));
        slots.gate = None;
        assert!(matches!(judged(&mut slots), Slotted::Held(Some(_))));
        assert_eq!(slots.open(now).len(), 1);
        assert!(matches!(judged(&mut slots), Slotted::Leaves));
    }

    #[test]
    fn a_gate_holds_no_message_of_the_kept_feed_with_or_without_a_position() {
        let (now, key, alive) = (Now::default(), ConflationKey(1), FrameBytes::default());
        let mut slots = Slots::new(None);
        slots.gate = Some(Gate::new(now));
        let frame = Frame::text(&alive).key(key).of_feed(true).body(b"x");
        let judged = slots.judge(now, key, &frame.finish(), (9, 99));
        assert!(matches!(judged, Slotted::Leaves));
    }

    #[test]
    fn a_rate_is_a_decimal_number_from_a_tenth_to_a_thousand() {
        for (query, want) in [
            ("", None),
            ("?token=a&MAX_HZ=7", None),
            ("?max_hz=1", Some(1_000_000)),
            ("?token=a&max_hz=2.5&max_hz=x", Some(400_000)),
            ("?max_hz=.5", Some(2_000_000)),
            ("?max_hz=0.1", Some(10_000_000)),
            ("?max_hz=1000", Some(1_000)),
            ("?max_hz=%33", Some(333_333)),
        ] {
            assert_eq!(of(query), Ok(want), "{query}");
        }
        for value in [
            "",
            "0",
            "0.09",
            "1000.1",
            "-1",
            "+1",
            "1e2",
            "inf",
            "nan",
            "1,5",
            "1.5.5",
            ".",
            "1hz",
            "%F0%9F%90%8C",
            "1%00",
        ] {
            assert_eq!(of(&format!("?max_hz={value}")), Err(REFUSAL), "{value}");
        }
    }
}
