//! What a session's queue loses to newer states: only the newest frame of each conflation key remains, or none of keys
//! that the gateway has withdrawn.

use std::collections::HashSet;

use foldhash::quality::RandomState;

use super::Session;
use crate::ConflationKey;

impl Session {
    /// Whether at least three frames wait, the first with a conflation key.
    pub(crate) fn has_several_states(&self) -> bool {
        let first = self.queue.entries().next();
        self.queue.frames() > 2 && first.is_some_and(|frame| frame.is_state())
    }

    /// Whether replaced states are still to be removed from a long queue.
    #[inline]
    pub(crate) fn is_crowded(&self) -> bool {
        self.queue.is_crowded()
    }

    /// Removes older frames of the same keys from a queue of at least three frames; returns frames and bytes.
    pub(crate) fn skip_to_newest(&mut self) -> (u32, usize) {
        // Of two frames at most one would go, which is not worth a search.
        if self.queue.frames() < 3 {
            return (0, 0);
        }
        let (frames, bytes) = self.queue.skip_to_newest();
        self.cold.record.messages_conflated += u64::from(frames);
        (frames, bytes)
    }

    /// Removes the keyed frames that were not begun and have one of these keys; returns frames and bytes. Does not
    /// touch the cold part if no frame waits.
    pub(crate) fn forget(&mut self, keys: &HashSet<ConflationKey, RandomState>) -> (u32, usize) {
        if keys.is_empty() {
            return (0, 0);
        }
        let (mut frames, mut bytes) = self.queue.remove(|key| keys.contains(&key));
        self.queue.reset_if_empty();
        if self.is_limited
            && let Some(throttle) = self.cold.throttle.as_mut()
        {
            let held = throttle.remove(keys.iter());
            (frames, bytes) = (frames + held.0, bytes + held.1);
        }
        if frames > 0 {
            self.cold.record.messages_conflated += u64::from(frames);
        }
        (frames, bytes)
    }
}
