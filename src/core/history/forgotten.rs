//! Which newest messages of topics were forgotten lately. A request for the newest messages may be answered several
//! turns later, when the history does not have all of them any more: the answer has to say so.

use std::collections::VecDeque;

use crate::TopicName;

/// The most topics that are remembered, and the most bytes of their names; of more, it is not known which were forgotten.
const LATELY_MAX: usize = 1_024;
const LATELY_BYTES_MAX: usize = 128 * LATELY_MAX;

/// The newest messages that were forgotten.
#[derive(Debug, Default)]
pub(super) struct ForgottenNewest {
    /// How many, also messages that were left out.
    count: u64,
    /// The topics of the last ones, the newest last.
    lately: VecDeque<TopicName>,
    /// The bytes of their names.
    lately_bytes: usize,
    /// What was kept of all topics counts as forgotten at this number, for a loss of the stream.
    at_loss: u64,
}

impl ForgottenNewest {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The number at the newest loss of the stream.
    pub(super) fn at_loss(&self) -> u64 {
        self.at_loss
    }

    /// Adds the newest message of a topic. Returns its number.
    pub(super) fn add(&mut self, topic: &TopicName) -> u64 {
        self.count += 1;
        self.lately.push_back(topic.clone());
        self.lately_bytes += topic.as_str().len();
        while (self.lately.len() > LATELY_MAX || self.lately_bytes > LATELY_BYTES_MAX)
            && let Some(oldest) = self.lately.pop_front()
        {
            self.lately_bytes -= oldest.as_str().len();
        }
        self.count
    }

    /// Adds the newest messages of all topics.
    pub(super) fn add_all(&mut self) {
        self.count += 1;
        self.at_loss = self.count;
        self.lately.clear();
        self.lately_bytes = 0;
    }

    /// The topics of the messages with higher numbers than this one; `None` if they are too many.
    pub(super) fn after(&self, number: u64) -> Option<impl Iterator<Item = &TopicName>> {
        let count = usize::try_from(self.count.saturating_sub(number)).ok()?;
        let first = self.lately.len().checked_sub(count)?;
        Some(self.lately.range(first..))
    }

    /// The bytes of the names that are remembered.
    #[cfg(test)]
    pub(super) fn names_bytes(&self) -> usize {
        self.lately.iter().map(|topic| topic.as_str().len()).sum()
    }
}
