//! The time of a turn.
//!
//! The loop has one thread, so every client waits while it works for one of them. Therefore all work that grows with
//! names, members, messages or clients asks [`Turn`] after each step whether there is time for another; what is left
//! goes on in a later turn. A step alone has to be short. Bytes and counts are no measure: one short message may cause
//! as much work as thousands.
//!
//! A turn has several parts, such as reading and the flush, each with time of its own, so that no kind of work uses up
//! the time of another. In a part that reads clients, each client has a share. The parts after the flush have half of
//! their time in a turn that has been long by then, so that all parts together are no very long turn.

use std::fmt;

use super::core::Core;
use super::{ByClient, SessionKey};

/// A turn that has taken so much is long, microseconds.
const LONG_TURN_US: u64 = 3_000;

/// The clock of the shell, microseconds. The core reads it only to end its work in time: nothing else depends on it.
struct TurnClock(Box<dyn Fn() -> u64 + Send>);

impl TurnClock {
    fn mono_us(&self) -> u64 {
        self.0()
    }
}

impl fmt::Debug for TurnClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnClock").finish_non_exhaustive()
    }
}

/// The time that is left of the part under way, of the share of the client whose messages are handled, and of the batch
/// whose frames are encoded.
#[derive(Debug)]
pub(super) struct Turn {
    clock: TurnClock,
    /// From when on the turn under way is long.
    long_from_us: u64,
    part: Span,
    share: Option<Share>,
    batch: Span,
}

/// The part of the turn that a client may use.
#[derive(Clone, Copy, Debug)]
struct Share {
    client: SessionKey,
    span: Span,
}

/// A length of time. A part counts from its beginning, so that a long first step leaves no time for a second one. A share
/// and a batch begin when they are first asked for, after the first step: the clock is not read for a client that has
/// only one.
#[derive(Clone, Copy, Debug)]
struct Span {
    us: u64,
    until_us: Option<u64>,
}

impl Span {
    fn of(us: u64) -> Self {
        Self { us, until_us: None }
    }

    fn from(now_us: u64, us: u64) -> Self {
        let until_us = Some(now_us.saturating_add(us));
        Self { us, until_us }
    }

    /// Whether the time is not over. The first call begins it.
    fn lasts_at(&mut self, now_us: u64) -> bool {
        let until_us = now_us.saturating_add(self.us);
        now_us < *self.until_us.get_or_insert(until_us)
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            // For a core without a shell: there is always time.
            clock: TurnClock(Box::new(|| 0)),
            long_from_us: u64::MAX,
            part: Span::of(u64::MAX),
            share: None,
            batch: Span::of(u64::MAX),
        }
    }
}

impl Turn {
    pub(super) fn set_clock(&mut self, mono_us: impl Fn() -> u64 + Send + 'static) {
        self.clock = TurnClock(Box::new(mono_us));
    }

    /// Begins a turn.
    pub(super) fn begin_turn_at(&mut self, now_us: u64) {
        self.long_from_us = now_us.saturating_add(LONG_TURN_US);
    }

    /// Begins a part after the flush, of this length, microseconds, or of half of it in a long turn.
    pub(super) fn begin_later(&mut self, part_us: u64) {
        let now_us = self.clock.mono_us();
        let part_us = match now_us < self.long_from_us {
            true => part_us,
            false => part_us / 2,
        };
        self.begin_at(now_us, part_us);
    }

    /// Begins a part of this length, microseconds.
    pub(super) fn begin(&mut self, part_us: u64) {
        self.begin_at(self.clock.mono_us(), part_us);
    }

    /// As [`begin`](Self::begin), for a caller that has read the clock just now.
    pub(super) fn begin_at(&mut self, now_us: u64, part_us: u64) {
        self.part = Span::from(now_us, part_us);
        self.share = None;
    }

    /// Whether the part goes on with another step.
    pub(super) fn has_time(&mut self) -> bool {
        self.part.lasts_at(self.clock.mono_us())
    }

    /// As [`has_time`](Self::has_time), for a caller that has read the clock just now.
    pub(super) fn has_time_at(&mut self, now_us: u64) -> bool {
        self.part.lasts_at(now_us)
    }

    /// Begins a batch of writes whose encodings may take so long, microseconds. The time begins after the first of them.
    pub(super) fn begin_batch(&mut self, encode_us: u64) {
        self.batch = Span::of(encode_us);
    }

    /// Whether the batch has time for another encoding. A batch has its own time, so that some frames of each batch go
    /// out also after the end of the part.
    pub(super) fn has_batch_time(&mut self) -> bool {
        self.batch.lasts_at(self.clock.mono_us())
    }

    /// Begins the share of a client, microseconds, unless its share is under way.
    pub(super) fn begin_share(&mut self, client: SessionKey, share_us: u64) {
        if self.share.is_none_or(|share| share.client != client) {
            let span = Span::of(share_us);
            self.share = Some(Share { client, span });
        }
    }

    /// Whether the client whose messages are handled may go on with another step: neither its share nor the part of the
    /// turn has ended. Both are asked each time, because each span begins when it is first asked for.
    pub(super) fn has_share(&mut self) -> bool {
        let now_us = self.clock.mono_us();
        let share_lasts = self
            .share
            .as_mut()
            .is_none_or(|share| share.span.lasts_at(now_us));
        let part_lasts = self.part.lasts_at(now_us);
        share_lasts && part_lasts
    }
}

impl Core {
    /// Whether the part of the turn that is under way has time for another step; the rest of the work is for a later
    /// turn.
    pub fn has_time(&mut self) -> bool {
        self.turn.has_time()
    }

    /// Calls `each` for the clients in the slots from `first` on, as many as there is time for; the first client is
    /// always reached. Returns the slot at which the walk continues; `None` after the last.
    pub fn walk<C>(
        &mut self,
        clients: &mut ByClient<C>,
        first: usize,
        mut each: impl FnMut(&mut Self, SessionKey, &mut C),
    ) -> Option<usize> {
        let slots = clients.slots();
        for (key, client) in clients.slots_mut(first, usize::MAX) {
            each(self, key, client);
            let next = key.slot as usize + 1;
            if next < slots && !self.has_time() {
                return Some(next);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn in_a_long_turn_the_parts_after_the_flush_have_half_of_their_time() {
        let clock = Arc::new(AtomicU64::new(10));
        let mut turn = Turn::default();
        let mono_us = Arc::clone(&clock);
        turn.set_clock(move || mono_us.load(Ordering::Relaxed));
        let mut lasts = |begin: fn(&mut Turn, u64), from_us: u64| {
            clock.store(from_us, Ordering::Relaxed);
            begin(&mut turn, 1_000);
            let is_over = |us: &u64| !turn.has_time_at(from_us + us);
            (0..=1_000).find(is_over)
        };
        assert_eq!(lasts(Turn::begin_later, 9_000), Some(1_000), "no turn");
        lasts(|turn, _| turn.begin_turn_at(10), 10);
        assert_eq!(lasts(Turn::begin_later, 3_009), Some(1_000));
        assert_eq!(lasts(Turn::begin_later, 3_010), Some(500));
        assert_eq!(lasts(Turn::begin, 3_010), Some(1_000));
    }
}
