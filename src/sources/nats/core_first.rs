//! The two copies of each message of a subject, with `--core-first`: the copy of core NATS, which every
//! subscriber of the subject gets, and the copy of the consumer, which comes through the stream. The first to
//! come is handed over; the other is known by its bytes. Pure: callers pass the time.
//!
//! The stream decides what was published, and in which order. If its copies come in another order, or one
//! comes that core NATS has not brought, the core copies that were handed over too early are handed over once
//! more: at rest, the newest message of the stream is the last that was handed over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Core copies with a larger payload are left to the consumer, bytes.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// The limits on payloads remembered of a subject, of each kind: while the stream is late, further core copies
/// are left to the consumer.
const COPIES_MAX: usize = 4_096;
const COPIES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the core copy of a message may come after the consumer's.
const CORE_LATE_MAX: Duration = Duration::from_secs(1);

/// The copies of a subject.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Core copies that were handed over, and that the consumer has not confirmed; the oldest first.
    unconfirmed: Remembered<Seen>,
    /// Messages that came from the consumer first, while their core copies are awaited; the oldest first.
    awaited: Remembered<Instant>,
    /// Core copies are left to the consumer until nothing is unconfirmed.
    is_full: bool,
}

/// What is known of a core copy that was handed over.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// An older message was handed over behind this one, so the consumer's copy has to be handed over too.
    is_overtaken: bool,
    /// The consumer had nothing more to deliver at some moment since.
    was_at_rest: bool,
}

/// What to do with a copy of the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// Confirms a core copy that was handed over; `passed` core copies before are in no stream, or come later.
    Confirms { passed: usize },
    /// Core NATS has not brought the message up to now: hand over.
    Missed,
    /// Was handed over too early: hand over once more.
    Again { passed: usize },
}

impl Copies {
    /// Takes in a core copy. Returns whether to hand the copy over.
    pub(super) fn core(&mut self, payload: &[u8], now: Instant) -> bool {
        self.expire(now);
        if let Some(at) = self.awaited.find(payload) {
            self.awaited.remove(at);
            return false;
        }
        self.is_full &= !self.unconfirmed.is_empty();
        if self.is_full || payload.len() > PAYLOAD_BYTES_MAX {
            return false;
        }
        self.is_full = !self.unconfirmed.push(payload, Seen::default());
        !self.is_full
    }

    /// Takes in a new message of the consumer.
    pub(super) fn stored(&mut self, payload: &[u8], now: Instant) -> Stored {
        let verdict = match self.unconfirmed.find(payload) {
            Some(passed) if !self.unconfirmed.remove_up_to(passed).is_overtaken => {
                return Stored::Confirms { passed };
            }
            Some(passed) => Stored::Again { passed },
            None => {
                self.expire(now);
                if payload.len() <= PAYLOAD_BYTES_MAX {
                    // Without room, the core copy is handed over as a new message, and never confirmed.
                    self.awaited.push(payload, now);
                }
                Stored::Missed
            }
        };
        // The message is handed over behind these, and is older.
        for seen in self.unconfirmed.notes_mut() {
            seen.is_overtaken = true;
        }
        verdict
    }

    /// The consumer has nothing more to deliver. Returns the number of core copies that were there at the call
    /// before already: these are not in the stream. If there are any, the last message handed over may be one
    /// of them.
    pub(super) fn at_rest(&mut self) -> usize {
        let mut never = 0;
        while self
            .unconfirmed
            .first()
            .is_some_and(|seen| seen.was_at_rest)
        {
            self.unconfirmed.remove(0);
            never += 1;
        }
        for seen in self.unconfirmed.notes_mut() {
            seen.was_at_rest = true;
        }
        never
    }

    /// Forgets all copies: the messages of the stream up to the newest were handed over.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn expire(&mut self, now: Instant) {
        let is_over = |since: &Instant| now.duration_since(*since) > CORE_LATE_MAX;
        while self.awaited.first().is_some_and(is_over) {
            self.awaited.remove(0);
        }
    }
}

/// Payloads with a note about each, bounded in number and bytes.
#[derive(Debug)]
struct Remembered<N> {
    copies: VecDeque<(Box<[u8]>, N)>,
    bytes: usize,
}

impl<N> Default for Remembered<N> {
    fn default() -> Self {
        Self {
            copies: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<N: Copy> Remembered<N> {
    fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    fn first(&self) -> Option<&N> {
        self.copies.front().map(|(_, note)| note)
    }

    fn notes_mut(&mut self) -> impl Iterator<Item = &mut N> {
        self.copies.iter_mut().map(|(_, note)| note)
    }

    fn find(&self, payload: &[u8]) -> Option<usize> {
        self.copies.iter().position(|(copy, _)| **copy == *payload)
    }

    /// Returns false, and remembers nothing, if there is no room.
    fn push(&mut self, payload: &[u8], note: N) -> bool {
        let bytes = self.bytes + payload.len();
        if self.copies.len() >= COPIES_MAX || bytes > COPIES_BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        self.copies.push_back((payload.into(), note));
        true
    }

    fn remove(&mut self, at: usize) {
        if let Some((copy, _)) = self.copies.remove(at) {
            self.bytes -= copy.len();
        }
    }

    /// Removes everything up to `at`, and returns the note there.
    fn remove_up_to(&mut self, at: usize) -> N {
        let note = self.copies[at].1;
        let removed = self.copies.drain(..=at).map(|(copy, _)| copy.len());
        self.bytes -= removed.sum::<usize>();
        note
    }
}

#[cfg(test)]
mod tests;
