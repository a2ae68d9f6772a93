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
