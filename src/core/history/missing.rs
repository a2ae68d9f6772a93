//! Which messages of the feed are not here any more, or never were: what was forgotten, left out, lost, or published before
//! it was read. A client can resume from a position only if no message of its names after the position is missing.

use std::collections::VecDeque;

use super::message::KeptMessage;
use super::topics::KnownTopics;
use super::wanted::{Outcome, Wanted};
use crate::NotRecovered;
use weirgate_wire::auth::NamePatterns;
use weirgate_wire::base::Now;

/// How many additions to the names of the feed are remembered.
pub(super) const NEW_NAMES_MAX: usize = 16;

/// A loss of messages of the feed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// Messages with a lower number are from before.
    pub(super) number: u64,
    /// When it was said.
    mono_us: u64,
}

impl Loss {
    /// Whether the loss is after a message that is kept.
    pub(super) fn is_after(self, entry: &KeptMessage) -> bool {
        match entry.number {
            // It was read from the stream later than messages after it.
            0 => entry.kept_us <= self.mono_us,
            number => number < self.number,
        }
    }
}

/// Messages of the feed that are missing.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// The number of the newest forgotten message.
    forgotten: u64,
    /// The newest message that was left out.
    left_out: LeftOut,
    /// No client can resume from before this number: of its message only the position is known, or earlier changes of
    /// the feed's names are no longer remembered.
    unread: u64,
    /// Names that the feed has got lately, and the number from which on it surely has their messages.
    new_names: VecDeque<(NamePatterns, u64)>,
    /// The newest loss of messages.
    loss: Option<Loss>,
}

/// A message that was left out. The default is for none.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOut {
    number: u64,
    /// When it was left out, Unix microseconds.
    unix_us: i64,
}

impl Missing {
    /// Handles a loss: messages after the newest are missing. `number`: that of the loss.
    pub(super) fn lose(&mut self, number: u64, now: Now) {
        self.loss = Some(Loss {
            number,
            mono_us: now.mono_us,
        });
    }

    /// The newest loss.
    pub(super) fn loss(&self) -> Option<Loss> {
        self.loss
    }

    /// The message with this number was left out.
    pub(super) fn leave_out(&mut self, number: u64, unix_us: i64) {
        self.left_out = LeftOut { number, unix_us };
    }

    /// Of the message with this number only the position is known.
    pub(super) fn skip_to(&mut self, number: u64) {
        self.unread = number;
    }

    /// The message with this number, which was the oldest, is forgotten.
    pub(super) fn forget(&mut self, number: u64) {
        self.forgotten = number;
    }

    /// Handles names that the feed has got: what was published of them before the message with this number did not come.
    pub(super) fn note_new_names(&mut self, names: NamePatterns, number: u64) {
        self.new_names.push_back((names, number));
        // Which names these are is no longer remembered, so no earlier position is good for any name.
        if self.new_names.len() > NEW_NAMES_MAX
            && let Some((_, number)) = self.new_names.pop_front()
        {
            self.unread = self.unread.max(number);
        }
    }

    /// Whether messages of a name after a position may be from a time at which the feed did not have the name.
    fn is_new_since(&self, since: u64, wanted: &Wanted) -> bool {
        let mut new_names = self.new_names.iter();
        new_names.any(|(names, number)| {
            // A pattern may match any of the new names.
            let is_pattern = wanted.patterns.is_some();
            since < *number && (is_pattern || names.matches(wanted.name.as_str()))
        })
    }

    /// Whether every message of a name after a position is there.
    pub(super) fn judge(&self, since: u64, wanted: &Wanted, known: &KnownTopics) -> Outcome {
        // Of the message `unread` no copy can be sent, so a client that lacks one of them cannot resume. And what was
        // published of a new name before the feed had it did not come here.
        if since < self.unread || self.is_new_since(since, wanted) {
            return Err(NotRecovered::Window);
        }
        let left_out = match (&wanted.patterns, known.get(&wanted.name)) {
            // A pattern may match any topic, so the forgotten and left out messages of all topics count.
            (Some(_), _) => self.left_out.number,
            (None, known) => known.map_or(0, |name| name.left_out),
        };
        match since < self.forgotten_of(wanted, known) || since < left_out {
            true => Err(NotRecovered::Window),
            false => Ok(()),
        }
    }

    /// The number of the newest message of a name that is no longer kept, or a higher one if it is not certain.
    pub(super) fn forgotten_of(&self, wanted: &Wanted, known: &KnownTopics) -> u64 {
        match (&wanted.patterns, known.get(&wanted.name)) {
            (Some(_), _) => self.forgotten,
            (None, Some(name)) => name.forgotten,
            (None, None) => known.forgotten_of_gone(),
        }
    }

    /// When the newest message was left out, Unix microseconds; 0: none was.
    pub(super) fn left_out_us(&self) -> i64 {
        self.left_out.unix_us
    }
}
