//! The requests of a client after a reconnection, and the reasons against.

use std::sync::Arc;

use crate::auth::NamePatterns;
use crate::hub::{Frame, NotRecovered, TopicName};

/// Whether all missed messages of a name are there.
pub type Outcome = Result<(), NotRecovered>;

/// Makes the frame of a message for clients of a pattern from the frame for clients of the message's own
/// name: gets the frame, the name and the pattern.
pub type Variant<'a> = &'a dyn Fn(&Arc<Frame>, &TopicName, &TopicName) -> Arc<Frame>;

/// A name by which a client wants messages.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The topic to join.
    pub name: &'a TopicName,
    /// The matcher, if the name is a pattern.
    pub patterns: Option<&'a NamePatterns>,
}

impl<'a> Wanted<'a> {
    /// A name without wildcards.
    pub fn exact(name: &'a TopicName) -> Self {
        Self {
            name,
            patterns: None,
        }
    }

    pub(super) fn matches(&self, topic: &TopicName) -> bool {
        match self.patterns {
            Some(patterns) => patterns.matches(topic.as_str()),
            None => self.name == topic,
        }
    }
}

/// The missed messages of a client.
#[derive(Debug, Default)]
pub struct Missed {
    /// The messages with their numbers, in the order of the feed.
    pub(in crate::hub) frames: Vec<(u64, Arc<Frame>)>,
    /// Queue bytes of the frames.
    pub(in crate::hub) bytes: usize,
    /// Entries visited by the search.
    pub(in crate::hub) walked: usize,
}

impl Missed {
    /// Whether nothing was missed.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn push(
        &mut self,
        number: u64,
        frame: Arc<Frame>,
        bytes_max: usize,
    ) -> Result<(), NotRecovered> {
        self.bytes += frame.queue_bytes();
        self.frames.push((number, frame));
        match self.bytes > bytes_max {
            true => Err(NotRecovered::Large),
            false => Ok(()),
        }
    }

    /// Adds the messages of other names, in the order of the feed.
    pub fn merge(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.walked = self.walked.max(other.walked);
        self.frames.extend(other.frames);
        self.frames.sort_by_key(|(number, _)| *number);
    }
}
