//! The throttle of a client with a rate of its own ([`MaxRate`]): [`Throttle`] holds frames with a conflation key. It opens
//! every interval, and then the newest frame of each key is sent.
//!
//! A frame that comes while the throttle is open is sent at once, and the throttle opens again an interval later. Held
//! frames count as waiting. If the newest frames of all keys are too many bytes, the throttle opens early, as soon as
//! the hub has time: very many clients may be there with the same message. A client that reads gets more than its rate,
//! and stays; a client that does not read meets the hard limit of the send queue. All clients together hold no more
//! frames than there are keys: a client holds only the newest frame of a key, and all clients share the frame. What each
//! client has of its own, the table of its keys, counts among the bytes of frames, and opens the throttle early too
//! ([`crate::queue_rooms`]).
//!
//! The frames that the [gate](super::gate) of a client holds back wait here too.

use std::sync::Arc;

use super::gate::Gate;
use super::{Intake, Session};
use crate::frame_bytes::QueueRoom;
use crate::{ConflationKey, Frame, MaxRate, Now};
use weirgate_wire::base::ExtendibleMap;

/// A frame that waits until the throttle opens.
#[derive(Debug)]
struct HeldFrame {
    /// Held frames are sent in the order of these numbers.
    number: u64,
    frame: Arc<Frame>,
}

/// What happens to a frame.
#[derive(Debug)]
pub(super) enum Throttled {
    /// The throttle is open: the frame is sent at once.
    Passes,
    /// The throttle holds the frame. Has the older frame of the same key that it replaces, if there is one.
    Held(Option<Arc<Frame>>),
    /// The throttle has to open first: too many bytes would wait, or it holds an older frame of the key, and this one must
    /// not wait.
    OpensFirst,
}

/// Limits how often a client gets a frame of a key.
#[derive(Debug)]
pub(super) struct Throttle {
    /// 0: the client has no rate of its own.
    interval_us: u64,
    /// The gate of a client behind deep buffers.
    pub(super) gate: Option<Gate>,
    /// When the throttle opens next, microseconds of the monotonic clock.
    next_us: u64,
    held: Held,
    /// Queue bytes of the held frames.
    bytes: usize,
    /// The number of the frame that was held last.
    last_number: u64,
    /// Whether the throttle is in the hub's list of those that open early.
    opens_early: bool,
    /// The memory of `held`.
    room: Option<QueueRoom>,
}

/// The most frames that one step of a table moves. The throttles of all clients with the same names grow with the same
/// message, so a turn may take this step for each of them.
const PART_FRAMES: usize = 112;

type Held = ExtendibleMap<ConflationKey, HeldFrame, PART_FRAMES>;

/// With so many times the bytes that may wait, the throttle opens at once.
const OPENS_AT_ONCE: usize = 2;

impl Throttle {
    /// Returns an open throttle. Without a rate it is always open, unless a gate is closed.
    pub(super) fn new(rate: Option<MaxRate>) -> Self {
        Self {
            interval_us: rate.map_or(0, |rate| rate.interval_us),
            gate: None,
            next_us: 0,
            held: Held::default(),
            bytes: 0,
            last_number: 0,
            opens_early: false,
            room: None,
        }
    }

    /// Sets or ends the rate. The caller has opened the throttle, so no frame is held.
    pub(super) fn set_rate(&mut self, now: Now, rate: Option<MaxRate>) {
        self.interval_us = rate.map_or(0, |rate| rate.interval_us);
        // A shorter interval counts at once.
        self.next_us = self.next_us.min(now.mono_us + self.interval_us);
    }

    /// The client's own rate.
    pub(super) fn rate(&self) -> Option<MaxRate> {
        self.has_rate().then_some(MaxRate {
            interval_us: self.interval_us,
        })
    }

    /// Whether the client has a rate of its own.
    pub(super) fn has_rate(&self) -> bool {
        self.interval_us > 0
    }

    /// Decides on a frame while `under_way` bytes are in flight to the client. If more than `bytes_max` bytes wait, the
    /// throttle is to [open early](Self::note_opens_early); with twice as many, it opens first, unless no other frame
    /// waits.
    pub(super) fn judge(
        &mut self,
        now: Now,
        key: ConflationKey,
        frame: &Arc<Frame>,
        under_way: u64,
        bytes_max: usize,
    ) -> Throttled {
        if frame.is_of_feed() && !self.has_rate() {
            // It never waits for a gate. An older frame of its key may, from before the name was of the feed: that goes
            // first.
            return match self.held.contains_key(&key) {
                true => Throttled::OpensFirst,
                false => Throttled::Passes,
            };
        }
        let has_rate = self.has_rate();
        let gate = self.gate.as_mut().filter(|_| !frame.is_of_feed());
        // What a gate held is sent first, even after the gate has ended.
        if !has_rate && gate.is_none() && self.held.is_empty() {
            return Throttled::Passes;
        }
        let is_open = self.held.is_empty() && now.mono_us >= self.next_us;
        let bytes = frame.queue_bytes();
        if is_open && gate.is_none_or(|gate| gate.try_pass(now, under_way, bytes)) {
            self.next_us = now.mono_us + self.interval_us;
            return Throttled::Passes;
        }
        let replaced = self.held.get(&key).map(|held| held.frame.queue_bytes());
        let others = self.held.len() - usize::from(replaced.is_some());
        let bytes = self.bytes - replaced.unwrap_or(0) + frame.queue_bytes();
        if others > 0 && bytes > bytes_max.saturating_mul(OPENS_AT_ONCE) {
            return Throttled::OpensFirst;
        }
        self.last_number += 1;
        self.bytes = bytes;
        let newest = HeldFrame {
            number: self.last_number,
            frame: Arc::clone(frame),
        };
        let older = self.held.insert(key, newest);
        let room = self.room.get_or_insert_with(|| frame.queue_room());
        room.set(self.held.room_bytes());
        Throttled::Held(older.map(|held| held.frame))
    }

    /// The memory of the table of held frames.
    pub(super) fn room_bytes(&self) -> usize {
        self.room.as_ref().map_or(0, QueueRoom::bytes)
    }

    /// Notes that the throttle is to open early. Returns false if that was noted before.
    pub(super) fn note_opens_early(&mut self) -> bool {
        !std::mem::replace(&mut self.opens_early, true)
    }

    /// When the throttle opens next; `None` if it holds no frame.
    pub(super) fn due_us(&self) -> Option<u64> {
        let gate = self.gate.as_ref().filter(|gate| gate.is_closed);
        let due_us = gate.map_or(self.next_us, |gate| self.next_us.max(gate.opens_us()));
        (!self.held.is_empty()).then_some(due_us)
    }

    /// Opens the throttle: returns the held frames, oldest first. Without a held frame it stays open.
    pub(super) fn open(&mut self, now: Now) -> Vec<Arc<Frame>> {
        self.opens_early = false;
        if self.held.is_empty() {
            return Vec::new();
        }
        // A late call leaves the times of the later openings as they are, unless a whole interval has passed. After an
        // early call the throttle opens an interval from now.
        let interval = self.next_us..self.next_us + self.interval_us;
        self.next_us = match interval.contains(&now.mono_us) {
            true => interval.end,
            false => now.mono_us + self.interval_us,
        };
        (self.bytes, self.room) = (0, None);
        if let Some(gate) = &mut self.gate {
            gate.is_closed = true;
            gate.note_sent(now);
        }
        let held = std::mem::take(&mut self.held).into_iter();
        let mut held: Vec<HeldFrame> = held.map(|(_, held)| held).collect();
        held.sort_unstable_by_key(|held| held.number);
        held.into_iter().map(|held| held.frame).collect()
    }

    /// Removes the held frames with one of these keys; returns frames and bytes.
    pub(super) fn remove<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a ConflationKey>,
    ) -> (u32, usize) {
        let gone = keys.filter_map(|key| self.held.remove(key));
        let (frames, bytes) = gone.fold((0, 0), |(frames, bytes), held| {
            (frames + 1, bytes + held.frame.queue_bytes())
        });
        self.bytes -= bytes;
        if self.held.is_empty() {
            // Until the next frame, the throttle does not open: nothing else would free the table.
            (self.held, self.room) = (Held::default(), None);
        }
        (frames, bytes)
    }

    /// The held frames, in no order.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Frame>> {
        self.held.values().map(|held| &held.frame)
    }

    /// The number of held frames.
    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    /// The queue bytes of the held frames.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Session {
    /// The client's own rate.
    pub(crate) fn max_rate(&self) -> Option<MaxRate> {
        self.throttle().and_then(Throttle::rate)
    }

    /// Sets or ends the client's own rate. The caller has opened the throttle before.
    pub(crate) fn set_max_rate(&mut self, now: Now, rate: Option<MaxRate>) {
        self.throttle_mut().set_rate(now, rate);
        self.free_throttle();
    }

    /// The throttle of a client that gets a rate or a gate.
    pub(super) fn throttle_mut(&mut self) -> &mut Throttle {
        self.is_limited = true;
        let throttle = &mut self.cold.throttle;
        // Without a rate: the caller sets it, or a gate.
        throttle.get_or_insert_with(|| Box::new(Throttle::new(None)))
    }

    /// Frees a throttle that holds nothing back.
    pub(super) fn free_throttle(&mut self) {
        let is_idle = |throttle: &Throttle| {
            throttle.count() == 0 && !throttle.has_rate() && throttle.gate.is_none()
        };
        if self.intake == Intake::Open && self.cold.throttle.as_deref().is_some_and(is_idle) {
            self.cold.throttle = None;
            self.is_limited = self.cold.rate.is_some() || self.cold.postponed.is_some();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameBytes;

    #[test]
    fn no_state_overtakes_what_waits_when_a_gate_ends() {
        let (now, key, alive) = (Now::default(), ConflationKey(1), FrameBytes::default());
        let frame = || Frame::text(&alive).key(key).body(b"x").finish();
        let mut throttle = Throttle::new(None);
        throttle.gate = Some(Gate::new(now));
        let judged = |throttle: &mut Throttle| throttle.judge(now, key, &frame(), 9, 99);
        assert!(matches!(judged(&mut throttle), Throttled::Held(None)));
        throttle.gate = None;
        assert!(matches!(judged(&mut throttle), Throttled::Held(Some(_))));
        assert_eq!(throttle.open(now).len(), 1);
        assert!(matches!(judged(&mut throttle), Throttled::Passes));
    }

    /// A client with a rate of its own gives up all its names.
    #[test]
    fn no_table_is_counted_of_a_throttle_that_holds_nothing_any_more() {
        let alive = FrameBytes::default();
        let now = Now::default();
        let mut throttle = Throttle::new(Some(MaxRate { interval_us: 1_000 }));
        let keys: Vec<_> = (0..1_000).map(ConflationKey).collect();
        for key in &keys {
            let frame = Frame::text(&alive).key(*key).body(b"x").finish();
            throttle.judge(now, *key, &frame, 0, usize::MAX / 4);
        }
        assert!(throttle.room_bytes() > 0);
        let (most, last) = keys.split_at(999);
        assert_eq!(throttle.remove(most.iter()).0, 998, "one has passed");
        assert!(throttle.room_bytes() > 0, "the table of one");
        assert_eq!(throttle.remove(last.iter()).0, 1);
        assert_eq!((throttle.room_bytes(), alive.alive()), (0, 0));
    }

    #[test]
    fn a_gate_holds_no_message_of_the_kept_feed_with_or_without_a_position() {
        let (now, key, alive) = (Now::default(), ConflationKey(1), FrameBytes::default());
        let mut throttle = Throttle::new(None);
        throttle.gate = Some(Gate::new(now));
        let frame = Frame::text(&alive).key(key).of_feed(true).body(b"x");
        let judged = throttle.judge(now, key, &frame.finish(), 9, 99);
        assert!(matches!(judged, Throttled::Passes));
    }

    #[test]
    fn a_message_of_the_kept_feed_does_not_overtake_an_older_one_of_its_key() {
        let (now, key, alive) = (Now::default(), ConflationKey(1), FrameBytes::default());
        let frame = |is_of_feed| {
            let frame = Frame::text(&alive).key(key).of_feed(is_of_feed);
            frame.body(b"x").finish()
        };
        let mut throttle = Throttle::new(None);
        throttle.gate = Some(Gate::new(now));
        let held = throttle.judge(now, key, &frame(false), 9, 99);
        assert!(matches!(held, Throttled::Held(None)));
        let newer = throttle.judge(now, key, &frame(true), 9, 99);
        assert!(matches!(newer, Throttled::OpensFirst));
        let other = throttle.judge(now, ConflationKey(2), &frame(true), 9, 99);
        assert!(matches!(other, Throttled::Passes));
        assert_eq!(throttle.open(now).len(), 1);
        let newer = throttle.judge(now, key, &frame(true), 9, 99);
        assert!(matches!(newer, Throttled::Passes));
    }
}
