//! A message that is kept, and the frames that are made of it.

use std::sync::Arc;

use super::copies::{Copies, CopyKind};
use crate::frame_bytes::Keeper;
use crate::message::payload_alone;
use crate::{Body, Content, CopyFor, Frame, FrameBytes, Position, Render, TopicName};

/// A message of the feed.
#[derive(Debug)]
pub(super) struct KeptMessage {
    /// The number in the feed; 0 for a message that was read from the stream later than newer ones
    /// ([`keep_newest`](super::History::keep_newest)).
    pub(super) number: u64,
    /// Since when it is kept, microseconds of the monotonic clock.
    pub(super) kept_us: u64,
    pub(super) position: Position,
    /// `None`: the message was left out, so no client can get it later.
    pub(super) body: Option<Body>,
    /// The frames that the gateway has rendered of a message.
    pub(super) copies: Copies,
}

impl KeptMessage {
    /// The frame for clients of the topic's own name, or of a pattern; made if it does not exist yet. `position`: the one
    /// that the clients are given.
    pub(super) fn copy(
        &mut self,
        topic: &TopicName,
        (pattern, content): (Option<&TopicName>, Content),
        position: Option<Position>,
        renderer: &mut Renderer,
    ) -> Option<Arc<Frame>> {
        let message = match self.body_for(content)? {
            Body::Frame(frame) => return Some(Arc::clone(frame)),
            Body::Message(message) => message,
        };
        let kind = CopyKind {
            pattern,
            content,
            has_position: position.is_some(),
        };
        if let Some(copy) = self.copies.find(kind) {
            return Some(copy);
        }
        let copy = CopyFor {
            message,
            name: topic.as_str(),
            pattern,
            position,
            content,
        };
        let copy = (renderer.render)(&copy, &renderer.frames);
        self.copies.keep(kind, &copy, &mut renderer.beside);
        Some(copy)
    }

    /// The frame or message, if clients of this kind get it.
    pub(super) fn body_for(&self, content: Content) -> Option<&Body> {
        let body = self.body.as_ref();
        body.filter(|body| body.is_for(content))
    }

    /// Whether the message was left out, for all clients or for those of this kind, for which it is too large.
    pub(super) fn is_left_out_for(&self, content: Content) -> bool {
        let body = self.body.as_ref();
        body.is_none_or(|body| body.is_too_large_for(content))
    }

    pub(super) fn has(&self, body: &Body) -> bool {
        let kept = self.body.as_ref();
        kept.is_some_and(|kept| kept.is_same(body))
    }
}

/// Makes the frames of kept messages, and counts their memory.
#[derive(Debug)]
pub(super) struct Renderer {
    pub(super) render: Render,
    /// The memory of messages and copies, with all of their encodings.
    frames: FrameBytes,
    /// The memory of the copies beside their frames.
    pub(super) beside: usize,
}

impl Renderer {
    pub(super) fn new(frames: &FrameBytes) -> Self {
        Self {
            render: payload_alone,
            frames: frames.clone(),
            beside: 0,
        }
    }

    /// Memory of the messages.
    pub(super) fn messages_memory(&self) -> usize {
        self.frames.kept(Keeper::History) as usize
    }

    /// Memory of the copies, with the encodings that clients need.
    pub(super) fn copies_memory(&self) -> usize {
        self.frames.kept(Keeper::Copies) as usize + self.beside
    }
}

/// When a message arrived, or was stored in the stream, Unix microseconds; `None` for a message that the gateway has made
/// by itself.
pub(super) fn time_of(body: &Body) -> Option<i64> {
    Some(body.received().unix_us).filter(|at| *at != 0)
}
