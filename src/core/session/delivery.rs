//! The delivery of a frame to one client: into the send queue, or into the client's throttle. Ends no session: over a
//! limit, the caller gets the reason.

use std::sync::Arc;

use super::throttle::Throttled;
use super::{Intake, Session};
use crate::send_queue::Pushed;
use crate::{Class, CloseReason, ConflationKey, Frame, Now, SendQueueLimits};

/// The outcome of a delivery to one client.
pub(crate) enum Delivered {
    /// The client takes no data.
    Refused,
    /// The frame is over the client's rate.
    Shed,
    /// The frame is in the send queue; never [`Pushed::Over`].
    Queued(Pushed),
    /// The client's throttle holds the frame.
    Held {
        /// 1 if the frame has replaced an older frame, otherwise 0.
        frames: u32,
        /// Queue bytes of the older frame.
        bytes: usize,
        /// Too many bytes wait: the throttle is to open early.
        opens_early: bool,
    },
    /// The frames that the client's throttle holds have to go into the send queue before this frame.
    ThrottleFirst,
    /// The position of this message is ahead of frames that the client's throttle holds: the message is sent
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

    /// Puts a frame in the send queue, or in the client's throttle.
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

    /// Keeps a frame in the client's throttle, or sheds a frame over the client's rate; `None` if the
    /// frame goes into the send queue.
    fn hold(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> Option<Delivered> {
        let under_way = self.under_way();
        if self.intake == Intake::Open
            && let Some(throttle) = self.cold.throttle.as_mut()
        {
            match frame
                .key()
                .map(|key| throttle.judge(now, key, frame, under_way, limits.hard_bytes))
            {
                // A frame without a key is never held, but must not overtake everything that is.
                None if throttle.count() > 0 => {
                    let has_rate = throttle.has_rate();
                    if let Some(first) = Self::overtakes(frame, has_rate) {
                        return Some(first);
                    }
                }
                None | Some(Throttled::Passes) => {}
                Some(Throttled::OpensFirst) => return Some(Delivered::ThrottleFirst),
                Some(Throttled::Held(older)) => {
                    let opens_early =
                        throttle.bytes() > limits.hard_bytes && throttle.note_opens_early();
                    return Some(self.held(older.as_ref(), opens_early));
                }
            }
        }
        self.shed(now, frame)
    }

    /// Decides about a frame without a key while the client's throttle holds states; `None` if it may overtake them.
    ///
    /// An answer or a status opens the throttle early: both are rare, and a client may conclude from them that it has all
    /// values of a name, that messages from before were lost, or that no message of a name follows.
    ///
    /// With a rate, the states may have earlier positions than the frame. If it were sent first with its position and the
    /// client then lost its connection, the client would never get them, and a resume would report that nothing is
    /// missing. So a pong with a position opens the throttle too: a client that gets an answer without a position forgets
    /// its own. A message is sent without its position, and the position follows when the throttle opens: otherwise a
    /// busy name would open the throttle with every message, and the client's own rate would have no effect.
    fn overtakes(frame: &Frame, has_rate: bool) -> Option<Delivered> {
        let is_ahead = has_rate && frame.has_position();
        match frame.class() {
            Class::Answer => Some(Delivered::ThrottleFirst),
            Class::Pong => is_ahead.then_some(Delivered::ThrottleFirst),
            Class::Data => is_ahead.then_some(Delivered::Ahead),
        }
    }

    /// Removes the state that the client's throttle holds of a key, because the frame to be delivered replaces it. Returns
    /// frames and bytes, which count as conflated.
    pub(crate) fn end_held(&mut self, key: ConflationKey) -> (u32, usize) {
        let throttle = self.cold.throttle.as_mut();
        let removed = throttle.map_or((0, 0), |throttle| throttle.remove([&key].into_iter()));
        self.cold.record.messages_conflated += u64::from(removed.0);
        removed
    }

    /// Sheds a frame over the client's rate; `None` if the frame is within the rate.
    fn shed(&mut self, now: Now, frame: &Frame) -> Option<Delivered> {
        if self.intake == Intake::Closed || frame.class().is_answer() {
            return None;
        }
        let rate = self.cold.rate.as_mut();
        let is_over = rate.is_some_and(|rate| !rate.take(now.mono_us));
        is_over.then(|| {
            self.queue.shed(frame);
            Delivered::Shed
        })
    }

    /// Counts a frame that the throttle holds, and the older frame that it replaces. The `seq` number of the older frame
    /// is used up, as if the frame had waited in the queue.
    fn held(&mut self, older: Option<&Arc<Frame>>, opens_early: bool) -> Delivered {
        let Some(older) = older else {
            return Delivered::Held {
                frames: 0,
                bytes: 0,
                opens_early,
            };
        };
        self.queue.shed(older);
        self.cold.record.messages_conflated += 1;
        let bytes = older.queue_bytes();
        Delivered::Held {
            frames: 1,
            bytes,
            opens_early,
        }
    }

    /// Opens the client's throttle; the frames that it held are to be pushed.
    pub(crate) fn open_throttle(&mut self, now: Now) -> Vec<Arc<Frame>> {
        let throttle = self.cold.throttle.as_mut();
        throttle.map_or_else(Vec::new, |throttle| throttle.open(now))
    }

    /// Drops the throttle with the frames that it holds, and what was postponed. Returns the number of the throttle's
    /// frames and their bytes: what was postponed has not been counted as queued.
    pub(super) fn drop_held(&mut self) -> (u32, usize) {
        (self.cold.resumed, self.cold.postponed) = (None, None);
        let throttle = self.cold.throttle.take();
        throttle.map_or((0, 0), |throttle| {
            (throttle.count() as u32, throttle.bytes())
        })
    }

    /// Puts a frame that the throttle has held in the send queue, unless the frame is over the client's
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

    /// Puts a frame in the send queue, whatever the client's rate.
    pub(crate) fn push(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> Delivered {
        match self.intake {
            Intake::Open => {}
            Intake::Over => return Delivered::Over(None),
            Intake::Closed => return Delivered::Refused,
        }
        let pushed = self.queue.push(now, frame, limits);
        match pushed {
            Pushed::Over(reason) => return self.over(reason),
            Pushed::Conflated { frames, .. } => {
                self.cold.record.messages_conflated += u64::from(frames);
            }
            Pushed::Queued | Pushed::QueuedOverSoft | Pushed::QueuedInCrowd => {}
        }
        Delivered::Queued(pushed)
    }

    /// Removes replaced states from a long queue, if that is due; returns frames and bytes. Over a limit, the caller
    /// gets the reason as of a delivery.
    pub(crate) fn thin(&mut self, limits: &SendQueueLimits) -> Result<(u32, usize), Delivered> {
        let removed = match self.queue.thin(limits) {
            Ok(removed) => removed,
            // What a client that is being closed has to get is out soon; its close stays what it is.
            Err(_) if self.intake == Intake::Closed => return Ok((0, 0)),
            Err(reason) => return Err(self.over(reason)),
        };
        self.cold.record.messages_conflated += u64::from(removed.0);
        Ok(removed)
    }

    /// Marks the session as over a limit: it takes no more frames, and is to be dropped.
    pub(crate) fn over(&mut self, reason: CloseReason) -> Delivered {
        let first = self.intake != Intake::Over;
        self.intake = Intake::Over;
        // A frame queued later would hide the gap, so later frames have to come here too.
        self.is_limited = true;
        Delivered::Over(first.then_some(reason))
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
        if self.intake != Intake::Open || self.queued_and_held_bytes() + bytes > soft_bytes {
            return false;
        }
        let rate = self.cold.rate.as_mut().filter(|_| self.is_limited);
        rate.is_none_or(|rate| rate.holds(frames, now.mono_us))
    }
}
