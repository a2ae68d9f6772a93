//! The delivery of a frame to one client: into the send queue, into the client's next slot, or behind a resume that is under
//! way. Ends no session: over a limit the caller is told so.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::slots::Slotted;
use super::{Intake, Session};
use crate::history::merge_charge;
use crate::send_queue::Pushed;
use crate::{Class, CloseReason, ConflationKey, Frame, Now, SendQueueLimits};
use weirgate_wire::admission::Permit;

/// The outcome of a delivery to one client.
pub(crate) enum Delivered {
    /// The client takes no data.
    Refused,
    /// The frame is over the client's rate.
    Shed,
    /// The frame is in the send queue; never [`Pushed::Over`].
    Queued(Pushed),
    /// The frame waits for the client's next slot.
    Held {
        /// 1 if the frame has replaced an older frame, otherwise 0.
        frames: u32,
        /// Queue bytes of the older frame.
        bytes: usize,
    },
    /// The frames that wait for the client's next slot have to go into the send queue before this frame.
    SlotFirst,
    /// The message waits until the client has resumed.
    Postponed,
    /// Too many messages wait until the client has resumed: they have to go into the send queue before this one.
    PostponedFirst,
    /// The position of this message is ahead of frames that wait for the client's next slot: the message is sent
    /// without its position.
    Ahead,
    /// A limit is exceeded, and the frame was not queued. Has the reason only the first time, when the client joins the
    /// list of clients to be dropped.
    Over(Option<CloseReason>),
}

impl Session {
    /// Puts a frame in the send queue if nothing else follows from that, as for nearly every frame; returns whether it
    /// did. Otherwise the caller has to use [`Self::deliver`]. Its result does not fit in registers, which would cost a
    /// fifth of the time of a delivery.
    #[inline]
    pub(crate) fn deliver_at_once(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> bool {
        !self.is_limited && self.takes_data() && self.queue.push_at_once(now, frame, limits)
    }

    /// Puts a frame in the send queue, or keeps the frame for the client's next slot.
    pub(crate) fn deliver(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> Delivered {
        if self.is_limited
            && let Some(held) = self.hold(now, frame, limits)
        {
            return held;
        }
        self.push(now, frame, limits)
    }

    /// Keeps a frame for the client's next slot, or sheds a frame over the client's rate; `None` if the
    /// frame goes into the send queue.
    fn hold(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> Option<Delivered> {
        if self.intake == Intake::Open
            && frame.is_of_feed()
            && let Some(postponed) = self.cold.postponed.as_mut()
        {
            return Some(match postponed.push(frame) {
                true => Delivered::Postponed,
                false => Delivered::PostponedFirst,
            });
        }
        let under_way = self.under_way();
        if self.intake == Intake::Open
            && let Some(slots) = self.cold.slots.as_mut()
        {
            match frame
                .key()
                .map(|key| slots.judge(now, key, frame, (under_way, limits.hard_bytes)))
            {
                None if frame.has_position() && slots.has_rate() && slots.count() > 0 => {
                    return Some(Self::overtakes(frame));
                }
                None | Some(Slotted::Leaves) => {}
                Some(Slotted::Full) => return Some(Delivered::SlotFirst),
                Some(Slotted::Held(older)) => return Some(self.held(older.as_ref())),
            }
        }
        self.shed(now, frame)
    }

    /// Decides about a frame with a position while frames with earlier positions wait for the client's slot. If it were
    /// sent first with its position and the client then lost its connection, the client would never get the earlier
    /// frames, and a resume would report that nothing is missing.
    ///
    /// An answer or a status opens the slot early: both are rare, and a client that gets an answer without a position
    /// forgets its own. A message without a key is sent without its position, and the position follows with the slot:
    /// otherwise a busy name would open a slot with every message, and the client's own rate would have no effect.
    fn overtakes(frame: &Frame) -> Delivered {
        match frame.class() {
            Class::Answer => Delivered::SlotFirst,
            _ => Delivered::Ahead,
        }
    }

    /// Sheds a frame over the client's rate; `None` if the frame is within the rate.
    fn shed(&mut self, now: Now, frame: &Frame) -> Option<Delivered> {
        if self.intake == Intake::Closed || frame.class() == Class::Answer {
            return None;
        }
        let rate = self.cold.rate.as_mut();
        let is_over = rate.is_some_and(|rate| !rate.take(now.mono_us));
        is_over.then(|| {
            self.queue.shed(frame);
            Delivered::Shed
        })
    }

    /// Counts a frame that waits for a slot, and the older frame that it replaces. The `seq` number of the older frame
    /// is used up, as if the frame had waited in the queue.
    fn held(&mut self, older: Option<&Arc<Frame>>) -> Delivered {
        let Some(older) = older else {
            return Delivered::Held {
                frames: 0,
                bytes: 0,
            };
        };
        self.queue.shed(older);
        self.cold.record.traffic.messages_conflated += 1;
        let bytes = older.queue_bytes();
        Delivered::Held { frames: 1, bytes }
    }

    /// Opens the client's slot; the frames that waited are to be pushed.
    pub(crate) fn open_slot(&mut self, now: Now) -> Vec<Arc<Frame>> {
        let slots = self.cold.slots.as_mut();
        slots.map_or_else(Vec::new, |slots| slots.open(now))
    }

    /// Drops the slots with the frames that wait for them; returns the number of frames and their bytes.
    pub(super) fn drop_held(&mut self) -> (u32, usize) {
        (self.cold.resumed, self.cold.postponed) = (None, None);
        let slots = self.cold.slots.take();
        slots.map_or((0, 0), |slots| (slots.count() as u32, slots.bytes()))
    }

    /// Puts a frame that has waited for a slot in the send queue, unless the frame is over the client's
    /// rate.
    pub(crate) fn deliver_held(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> Delivered {
        let shed = self.shed(now, frame);
        shed.unwrap_or_else(|| self.push(now, frame, limits))
    }

    fn push(&mut self, now: Now, frame: &Arc<Frame>, limits: &SendQueueLimits) -> Delivered {
        match self.intake {
            Intake::Open => {}
            Intake::Over => return Delivered::Over(None),
            Intake::Closed => return Delivered::Refused,
        }
        let pushed = self.queue.push(now, frame, limits);
        match pushed {
            Pushed::Over(reason) => return self.over(reason),
            Pushed::Conflated { frames, .. } => {
                self.cold.record.traffic.messages_conflated += u64::from(frames);
            }
            Pushed::Queued | Pushed::QueuedOverSoft => {}
        }
        Delivered::Queued(pushed)
    }

    /// Marks the session as over a limit: it takes no more frames, and is to be dropped.
    fn over(&mut self, reason: CloseReason) -> Delivered {
        let first = self.intake != Intake::Over;
        self.intake = Intake::Over;
        // A frame queued later would hide the gap, so later frames have to come here too.
        self.is_limited = true;
        Delivered::Over(first.then_some(reason))
    }

    /// Puts a replayed frame in the send queue, if the client takes data; returns whether it does.
    pub(crate) fn replay(&mut self, now: Now, frame: Arc<Frame>) -> bool {
        let is_open = self.intake == Intake::Open;
        if is_open {
            self.queue.replay(now, frame);
        }
        is_open
    }

    /// Makes [`Self::finds_room`] return `true` once, as soon as the queue has room.
    pub(crate) fn want_room(&mut self) {
        self.room_wanted = true;
    }

    /// Whether the gateway waits for room and the queue has room.
    #[inline]
    pub(crate) fn finds_room(&mut self) -> bool {
        let found = self.room_wanted && self.queue.has_room();
        self.room_wanted &= !found;
        found
    }

    /// Whether `frames` data frames of `bytes` bytes together would all be queued now, within the soft limit and the
    /// client's rate.
    pub(crate) fn fits(
        &mut self,
        now: Now,
        frames: usize,
        bytes: usize,
        soft_bytes: usize,
    ) -> bool {
        if self.intake != Intake::Open || self.queued_bytes() + bytes > soft_bytes {
            return false;
        }
        let rate = self.cold.rate.as_mut().filter(|_| self.is_limited);
        rate.is_none_or(|rate| rate.holds(frames, now.mono_us))
    }

    /// Notes that the client wants the status of the bus; returns whether it did before.
    pub(crate) fn ask_status(&mut self) -> bool {
        std::mem::replace(&mut self.cold.asks_status, true)
    }

    /// Whether the client has asked for the status of the bus.
    pub(crate) fn asks_status(&self) -> bool {
        self.cold.asks_status
    }

    /// Notes that the client now knows of `losses` losses of the bus; returns the previous number.
    pub(crate) fn know_losses(&mut self, losses: u64) -> u64 {
        std::mem::replace(&mut self.cold.losses_known, losses)
    }

    /// Skips the next `seq` number, so that the client sees a loss as a gap.
    pub(crate) fn skip_number(&mut self) {
        self.queue.last_seq += 1;
    }

    /// Whether several frames wait, the first with a conflation key.
    pub(crate) fn has_several_states(&self) -> bool {
        let first = self.queue.entries().next();
        self.queue.frames() > 2 && first.is_some_and(|frame| frame.key().is_some())
    }

    /// Removes older frames of the same keys from a queue of several frames; returns frames and bytes.
    pub(crate) fn skip_to_newest(&mut self) -> (u32, usize) {
        if self.queue.frames() < 3 {
            return (0, 0);
        }
        let (frames, bytes) = self.queue.skip_to_newest();
        self.cold.record.traffic.messages_conflated += u64::from(frames);
        (frames, bytes)
    }

    /// Removes the keyed frames that were not begun and have one of these keys; returns frames and bytes. Does not
    /// touch the cold part if no frame waits.
    pub(crate) fn forget(&mut self, keys: &HashSet<ConflationKey, RandomState>) -> (u32, usize) {
        if keys.is_empty() {
            return (0, 0);
        }
        let (mut frames, mut bytes) = self.queue.remove(|key| keys.contains(&key));
        self.queue.rest_if_empty();
        if self.is_limited
            && let Some(slots) = self.cold.slots.as_mut()
        {
            let held = slots.remove(keys.iter());
            (frames, bytes) = (frames + held.0, bytes + held.1);
        }
        if frames > 0 {
            self.cold.record.traffic.messages_conflated += u64::from(frames);
        }
        (frames, bytes)
    }
}

impl Session {
    /// Bytes of replayed messages in the send queue.
    pub(crate) fn replayed_bytes(&self) -> usize {
        self.queue.replayed_bytes()
    }

    /// Keeps the permit of missed messages until the kernel has taken the messages.
    pub(crate) fn hold_resumed(&mut self, charge: Option<Permit>) {
        let mut held = self.cold.resumed.take().map(|held| *held);
        merge_charge(&mut held, charge);
        self.cold.resumed = held.map(Box::new);
        self.has_resumed = self.cold.resumed.is_some();
    }

    /// Gives back the permit of the missed messages that the kernel has taken.
    pub(super) fn give_back_resumed(&mut self, now: Now) {
        let left = self.queue.replayed() as u64;
        match &mut self.cold.resumed {
            Some(charge) if left > 0 => charge.set(left.min(charge.amount()), now.mono_us),
            resumed => (*resumed, self.has_resumed) = (None, false),
        }
    }
}
