//! The frames that the gateway has rendered of a kept message, for clients of the topic's own name and of patterns.
//!
//! If copies take too much memory, the history *lends* them: it keeps them no longer, but finds a copy for as long as a
//! queue or somebody else has the frame. Dropping such a copy would free nothing, and the next client of the same message
//! would get a frame of its own, with encodings of its own.

use std::sync::{Arc, Weak};

use crate::frame::FRAME_BYTES;
use crate::frame_bytes::Keeper;
use crate::{Content, Frame, TopicName};

/// Memory of a copy beside its frame and the pattern. Twice its size covers a list that has just grown, and the
/// allocation of a single copy.
const COPY_BYTES: usize = 2 * size_of::<RenderedCopy>();

/// The clients for which a copy is.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyKind<'a> {
    /// `None`: they have the topic's own name.
    pub(super) pattern: Option<&'a TopicName>,
    pub(super) content: Content,
    /// Whether they are given the position of the message.
    pub(super) has_position: bool,
}

#[derive(Debug)]
struct RenderedCopy {
    /// As in [`CopyKind`].
    pattern: Option<TopicName>,
    content: Content,
    has_position: bool,
    frame: CopyFrame,
}

#[derive(Debug)]
enum CopyFrame {
    Kept(Arc<Frame>),
    Lent(Weak<Frame>),
}

impl RenderedCopy {
    /// Its memory beside a kept frame. The allocation of a lent frame, without its payload and encodings, stays until the
    /// copy is forgotten.
    fn bytes_beside(&self) -> usize {
        let pattern = self.pattern.as_ref();
        let lent = if self.is_kept() { 0 } else { FRAME_BYTES };
        COPY_BYTES + pattern.map_or(0, |name| name.as_str().len()) + lent
    }

    fn is_kept(&self) -> bool {
        matches!(self.frame, CopyFrame::Kept(_))
    }

    /// Whether somebody else has the frame.
    fn is_used(&self) -> bool {
        match &self.frame {
            CopyFrame::Kept(frame) => Arc::strong_count(frame) > 1,
            CopyFrame::Lent(frame) => frame.strong_count() > 0,
        }
    }

    /// Lets the frame live only for as long as somebody else has it.
    fn lend(&mut self) {
        if let CopyFrame::Kept(frame) = &self.frame {
            frame.release(Keeper::Copies);
            self.frame = CopyFrame::Lent(Arc::downgrade(frame));
        }
    }
}

/// The copies of a message. `beside` is the memory of all copies beside their frames.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<RenderedCopy>);

impl Copies {
    /// The frame of this kind, if there is one.
    pub(super) fn find(&self, kind: CopyKind<'_>) -> Option<Arc<Frame>> {
        let mut copies = self.0.iter();
        let is_it = |copy: &&RenderedCopy| {
            copy.pattern.as_ref() == kind.pattern
                && copy.content == kind.content
                && copy.has_position == kind.has_position
        };
        match &copies.find(is_it)?.frame {
            CopyFrame::Kept(frame) => Some(Arc::clone(frame)),
            CopyFrame::Lent(frame) => frame.upgrade(),
        }
    }

    /// Keeps a frame that [`find`](Self::find) has not found.
    pub(super) fn keep(&mut self, kind: CopyKind<'_>, frame: &Arc<Frame>, beside: &mut usize) {
        frame.keep(Keeper::Copies);
        // A lent copy of the same kind is gone.
        self.retain(beside, |copy| copy.is_kept() || copy.is_used());
        if self.0.is_empty() {
            // Most messages have one copy; a list would begin with room for four.
            self.0.reserve_exact(1);
        }
        let copy = RenderedCopy {
            pattern: kind.pattern.cloned(),
            content: kind.content,
            has_position: kind.has_position,
            frame: CopyFrame::Kept(Arc::clone(frame)),
        };
        *beside += copy.bytes_beside();
        self.0.push(copy);
    }

    /// Whether there are kept copies. Tests count how many messages are looked at for that.
    pub(super) fn has_kept(&self) -> bool {
        #[cfg(test)]
        super::tests::LOOKED_AT.set(super::tests::LOOKED_AT.get() + 1);
        self.0.iter().any(RenderedCopy::is_kept)
    }

    /// Whether there are lent copies.
    pub(super) fn has_lent(&self) -> bool {
        #[cfg(test)]
        super::tests::LOOKED_AT.set(super::tests::LOOKED_AT.get() + 1);
        self.0.iter().any(|copy| !copy.is_kept())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lends the copies that somebody else has, and forgets the others. Returns whether there are lent ones.
    pub(super) fn lend(&mut self, beside: &mut usize) -> bool {
        self.retain(beside, RenderedCopy::is_used);
        for copy in &mut self.0 {
            *beside -= copy.bytes_beside();
            copy.lend();
            *beside += copy.bytes_beside();
        }
        !self.0.is_empty()
    }

    /// Forgets the lent copies.
    pub(super) fn forget_lent(&mut self, beside: &mut usize) {
        self.retain(beside, RenderedCopy::is_kept);
    }

    /// Forgets all copies.
    pub(super) fn forget(&mut self, beside: &mut usize) {
        self.retain(beside, |_| false);
    }

    fn retain(&mut self, beside: &mut usize, stays: impl Fn(&RenderedCopy) -> bool) {
        self.0.retain_mut(|copy| {
            let stays = stays(copy);
            if !stays {
                *beside -= copy.bytes_beside();
                if let CopyFrame::Kept(frame) = &copy.frame {
                    frame.release(Keeper::Copies);
                }
            }
            stays
        });
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}
