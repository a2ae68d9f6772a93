//! The frames of one message of the stream: clients that get the same copy share its frame.

use std::sync::Arc;

use weirgate_core::{Content, Core, Frame, Position, Publication, TopicName};

/// The copies of a message that clients got so far.
#[derive(Debug, Default)]
pub(super) struct MadeCopies(Vec<MadeCopy>);

#[derive(Debug)]
struct MadeCopy {
    pattern: Option<TopicName>,
    content: Content,
    position: Option<Position>,
    frame: Arc<Frame>,
}

impl MadeCopies {
    /// The copy for clients of the topic's own name, or of a pattern, with the position that they are given.
    pub(super) fn find_or_make(
        &mut self,
        core: &Core,
        value: &Publication,
        pattern: Option<&TopicName>,
        content: Content,
        position: Option<Position>,
    ) -> Arc<Frame> {
        let is_it = |copy: &&MadeCopy| {
            copy.pattern.as_ref() == pattern && (copy.content, copy.position) == (content, position)
        };
        if let Some(copy) = self.0.iter().find(is_it) {
            return Arc::clone(&copy.frame);
        }
        let frame = core.render(value, pattern, content, position);
        self.0.push(MadeCopy {
            pattern: pattern.cloned(),
            content,
            position,
            frame: Arc::clone(&frame),
        });
        frame
    }
}
