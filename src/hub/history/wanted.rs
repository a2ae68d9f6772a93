//! The requests of a client after a reconnection, and the reasons against.

use std::sync::Arc;

use crate::auth::NamePatterns;
use crate::hub::{CopyRank, Frame, NotRecovered, TopicName};

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

    /// The place of the name's copy among the copies of a message.
    pub(super) fn rank(&self) -> CopyRank {
        match self.patterns {
            Some(_) => CopyRank::of_pattern(self.name.as_str()),
            None => CopyRank::LAST,
        }
    }

    pub(super) fn matches(&self, topic: &TopicName) -> bool {
        match self.patterns {
            Some(patterns) => patterns.matches(topic.as_str()),
            None => self.name == topic,
        }
    }
}

/// The number of the last message of a client, and the newest copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct After {
    pub(super) number: u64,
    pub(super) copy: CopyRank,
}

impl After {
    /// The number of the newest message of which the client has the copy for a name.
    pub(super) fn of(self, wanted: &Wanted<'_>) -> u64 {
        match wanted.rank() <= self.copy {
            true => self.number,
            false => self.number.saturating_sub(1),
        }
    }

    /// The number behind which all copies are missed.
    pub(super) fn whole(self) -> u64 {
        let is_part = self.copy < CopyRank::LAST;
        self.number.saturating_sub(u64::from(is_part))
    }
}

/// The place of a copy in the feed: the number of the message, and the rank of the copy.
pub(in crate::hub) type CopyPlace = (u64, CopyRank);

/// The missed messages of a client.
#[derive(Debug, Default)]
pub struct Missed {
    /// The messages with their places, in the order of the feed.
    pub(in crate::hub) frames: Vec<(CopyPlace, Arc<Frame>)>,
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
        place: CopyPlace,
        frame: Arc<Frame>,
        bytes_max: usize,
    ) -> Result<(), NotRecovered> {
        self.bytes += frame.queue_bytes();
        self.frames.push((place, frame));
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
        self.frames.sort_by_key(|(place, _)| *place);
    }
}
