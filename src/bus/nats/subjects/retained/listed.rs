//! Whether all last values have come that a consumer has listed, in a stream in which the removal of the last message of a
//! subject uncovers an older one ([`StreamPart::uncovers_older`](super::streams::StreamPart::uncovers_older)). Pure.
//!
//! The consumer has listed the last messages when it was made, and brings what is stored since behind them. In place of a
//! listed message that was removed, nats-server 2.9 brings the next message of the pattern, of whatever subject. So messages
//! are not counted, but their subjects: as many as waited when the consumer was made have to come. A subject that was made
//! since must not count in place of one that is missing, so only what is in the stream shortly after the consumer was made
//! counts. The number of the stream's last message then ([`ListedValues::end_at`]) is asked for together with the first
//! messages.
//!
//! A listed message whose subject got as many newer ones as the stream keeps is removed, too, and clients have the newer
//! ones. Where such subjects are, no value is missing, so they count once all those newer messages have come.
//!
//! One fault is left: if the listed messages of two subjects were removed, an older message of the second may come in place of
//! the first, and counts. If the first subject is then written to, the second one's value is missing, and nothing says it.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::streams::StreamPart;
use crate::nats::protocol::{AckSubject, Delivery};

/// The most subjects that are told apart; each takes some 16 bytes. Of further ones, each message counts that was not read
/// before.
pub(super) const SUBJECTS_MAX: usize = 131_072;
/// The most messages behind the listed ones that are looked at. With more, the part is read again.
const LATER_MAX: usize = 4_096;

/// What has come of the last messages of all subjects.
#[derive(Debug)]
pub(super) struct ListedValues {
    hasher: RandomState,
    /// How many of the subjects that waited have not come.
    waiting: u64,
    /// The hashes of the subjects that have come.
    came: HashSet<u64>,
    /// No listed message has a higher number. `None`: not known yet.
    end: Option<u64>,
    /// How many messages of a subject the stream keeps at most; `None`: any number.
    kept_max: Option<u64>,
    later: LaterMessages,
    /// Whether an earlier consumer has read the beginning of the part: a value that was uncovered since, and has a lower
    /// number than what was read, does not come.
    is_resumed: bool,
}

/// The messages behind the listed ones.
#[derive(Debug, Default)]
struct LaterMessages {
    count: usize,
    /// For the hash of each subject that has not come before, how many have come.
    of_subject: HashMap<u64, u64>,
    /// Whether all have come that the stream had.
    are_all: bool,
}

impl ListedValues {
    /// For a consumer for which so many messages wait. `is_resumed`: an earlier one has read the beginning of the part.
    pub(super) fn new(part: &StreamPart, waiting: u64, is_resumed: bool) -> Self {
        Self {
            hasher: RandomState::default(),
            waiting,
            came: HashSet::new(),
            end: None,
            kept_max: part.kept_max,
            later: LaterMessages::default(),
            is_resumed: is_resumed && part.has_holes,
        }
    }

    /// The stream's last message after the consumer was made has this number.
    pub(super) const fn end_at(&mut self, last: u64) {
        self.end = Some(last);
    }

    /// Counts a message; `is_new`: it was not read before.
    pub(super) fn take(&mut self, delivery: &Delivery, ack: AckSubject, is_new: bool) {
        let subject = self.hasher.hash_one(&*delivery.subject);
        let is_later = self.end.is_some_and(|end| ack.stream_sequence > end);
        if is_later && !self.is_replaced(subject, ack) {
            return;
        }
        let counts = match self.came.len() < SUBJECTS_MAX {
            true => self.came.insert(subject),
            false => is_new,
        };
        self.waiting -= u64::from(counts).min(self.waiting);
    }

    /// Whether a message behind the listed ones, and those before it, have replaced the listed one of its subject: there
    /// are as many as the stream keeps.
    fn is_replaced(&mut self, subject: u64, ack: AckSubject) -> bool {
        let later = &mut self.later;
        later.count += 1;
        later.are_all = ack.pending == 0 || later.count >= LATER_MAX;
        if self.came.contains(&subject) {
            return false;
        }
        let count = later.of_subject.entry(subject).or_default();
        *count += 1;
        self.kept_max.is_some_and(|max| *count >= max)
    }

    /// Whether as many subjects have come as waited.
    pub(super) const fn has_come(&self) -> bool {
        self.waiting == 0
    }

    /// Whether all that the stream had behind the listed messages has come, too.
    pub(super) const fn is_over(&self) -> bool {
        self.later.are_all
    }

    /// Whether some may have been removed before they came, once no further one comes.
    pub(super) const fn is_short(&self) -> bool {
        self.waiting > 0 || self.is_resumed
    }
}
