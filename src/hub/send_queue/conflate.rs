//! Frames with a conflation key: a slow client skips to the newest of each key.
//!
//! With few frames each new frame replaces the waiting frame of its key. With many, a look at all
//! frames for each new frame would let a slow client cost the others time. Then a frame joins the
//! queue, and older frames of the same keys are removed whenever the queue has doubled; and because the
//! newest frames of many keys may be many bytes, the hard limit holds.
//!
//! A replayed frame stays whatever its key, and makes no client slow.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{Pushed, SendQueue};
use crate::hub::limits::SendQueueLimits;
use crate::hub::{CloseReason, ConflationKey, Now};

/// Frames that are looked through for each new frame.
const FEW_FRAMES: usize = 64;

/// The index of the newest frame of each key.
type Newest = HashMap<ConflationKey, usize, RandomState>;

impl SendQueue {
    /// For a keyed frame while the queue is conflating, or above the soft limit, or the oldest whole frame
    /// is old: from here on the queue conflates. Only the stall limit drops the client, or the hard limit
    /// if there are many keys.
    pub(super) fn make_way(&mut self, key: ConflationKey, limits: &SendQueueLimits) -> Pushed {
        let is_large = self.data.len() > FEW_FRAMES;
        let (frames, bytes) = if self.is_conflating() && !is_large {
            self.remove(|k| k == key)
        } else if self.is_conflating() && self.data.len() < 1 << self.conflate_at {
            (0, 0)
        } else {
            let newest = self.newest(Some(key));
            if is_large && self.bytes_of(&newest) > limits.hard_bytes {
                return Pushed::Over(CloseReason::SendQueueHard);
            }
            let removed = self.keep(&newest);
            let next = (2 * self.data.len()).max(FEW_FRAMES).next_power_of_two();
            self.conflate_at = next.trailing_zeros() as u8;
            removed
        };
        if frames == 0 {
            return Pushed::Queued;
        }
        Pushed::Conflated { frames, bytes }
    }

    /// Whether newer frames replace older frames of the same key, until the queue has been empty.
    pub(in crate::hub) fn is_conflating(&self) -> bool {
        self.conflate_at > 0
    }

    #[inline]
    pub(super) fn is_slow(&self, now: Now, limits: &SendQueueLimits) -> bool {
        let oldest = self.data.get(usize::from(self.begun.is_some()));
        let age = oldest.filter(|e| !e.is_replayed()).map_or(0, |e| {
            now.mono_us.saturating_sub(e.frame.received().mono_us)
        });
        self.counts_over(limits.soft_bytes) || age > limits.conflate_after_us
    }

    /// Removes older frames of the same keys, as a queue that conflates would.
    pub(in crate::hub) fn skip_to_newest(&mut self) -> (u32, usize) {
        let newest = self.newest(None);
        self.keep(&newest)
    }

    /// The index of the newest frame of each key; none for `replaced`, whose new frame is about to be
    /// pushed.
    fn newest(&self, replaced: Option<ConflationKey>) -> Newest {
        let mut newest = Newest::default();
        for (index, entry) in self.data.iter().enumerate() {
            if !entry.is_replayed()
                && let Some(key) = entry.frame.key()
            {
                newest.insert(key, index);
            }
        }
        newest.extend(replaced.map(|key| (key, usize::MAX)));
        newest
    }

    /// Bytes of the keyed frames that would stay.
    fn bytes_of(&self, newest: &Newest) -> usize {
        let frames = self.data.iter().enumerate();
        let stays = frames.filter(|(index, entry)| {
            let key = entry.frame.key().filter(|_| !entry.is_replayed());
            key.is_some_and(|key| newest[&key] == *index)
        });
        stays.map(|(_, entry)| entry.frame.queue_bytes()).sum()
    }

    /// Keeps the newest frame of each key, the frames without a key and replayed ones.
    fn keep(&mut self, newest: &Newest) -> (u32, usize) {
        let mut index = usize::from(self.begun.is_some());
        self.retain(|entry| {
            let at = index;
            index += 1;
            let key = entry.frame.key().filter(|_| !entry.is_replayed());
            key.is_none_or(|key| newest[&key] == at)
        })
    }
}
