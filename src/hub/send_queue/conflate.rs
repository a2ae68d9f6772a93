//! Frames with a conflation key: a slow client skips to the newest of each key.
//!
//! With few frames each new frame takes the place of the waiting one. With many, a look at all of
//! them for each new frame would let a slow client cost the others time. Then a frame joins the queue,
//! and older frames of the same keys are removed whenever the queue has doubled; and because the
//! newest of many keys may be many bytes, the hard limit holds.
//!
//! A replayed frame stays whatever its key, and makes no client slow.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{Pushed, SendQueue};
use crate::hub::limits::SendQueueLimits;
use crate::hub::{CloseReason, ConflationKey, Now};

/// Frames that are looked through for each new frame.
const FEW_FRAMES: usize = 64;

/// What stays of a queue: the last place of each key.
type Newest = HashMap<ConflationKey, usize, RandomState>;

impl SendQueue {
    /// Keyed frames: past the soft limit, or when the oldest whole frame is old, the queue turns
    /// conflating; only the stall limit drops its client, or the hard limit one of many keys.
    pub(super) fn make_way(
        &mut self,
        now: Now,
        key: ConflationKey,
        limits: &SendQueueLimits,
    ) -> Pushed {
        let is_large = self.data.len() > FEW_FRAMES;
        let (frames, bytes) = if self.is_conflating() && !is_large {
            self.remove(|k| k == key)
        } else if self.is_conflating() && self.data.len() < 1 << self.conflate_at {
            (0, 0)
        } else if self.is_conflating() || self.is_slow(now, limits) {
            let newest = self.newest(key);
            if is_large && self.bytes_of(&newest) > limits.hard_bytes {
                return Pushed::Over(CloseReason::SendQueueHard);
            }
            let removed = self.keep(&newest);
            let next = (2 * self.data.len()).max(FEW_FRAMES).next_power_of_two();
            self.conflate_at = next.trailing_zeros() as u8;
            removed
        } else {
            (0, 0)
        };
        if frames == 0 {
            return Pushed::Queued;
        }
        Pushed::Conflated { frames, bytes }
    }

    /// Newer frames replace older ones of the same key, until the queue is empty once.
    pub(in crate::hub) fn is_conflating(&self) -> bool {
        self.conflate_at > 0
    }

    fn is_slow(&self, now: Now, limits: &SendQueueLimits) -> bool {
        let oldest = self.data.get(usize::from(self.begun.is_some()));
        let age = oldest.filter(|e| !e.is_replayed()).map_or(0, |e| {
            now.mono_us.saturating_sub(e.frame.received().mono_us)
        });
        self.counted_bytes() > limits.soft_bytes || age > limits.conflate_after_us
    }

    /// Of each key the place of the newest frame; of `replaced`, which is about to be pushed, none.
    fn newest(&self, replaced: ConflationKey) -> Newest {
        let mut newest = Newest::default();
        for (index, entry) in self.data.iter().enumerate() {
            if !entry.is_replayed()
                && let Some(key) = entry.frame.key()
            {
                newest.insert(key, index);
            }
        }
        newest.insert(replaced, usize::MAX);
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
