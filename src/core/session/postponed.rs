//! Messages of the kept feed that come while a client resumes over several turns: they wait here, because the missed
//! messages, which are older, are still being searched.

use std::sync::Arc;

use super::{Intake, Session};
use crate::Frame;
use crate::resume::RESUME_BYTES_MAX;

/// What arrived meanwhile, in the order in which it arrived.
#[derive(Debug, Default)]
pub(super) struct Postponed {
    frames: Vec<Arc<Frame>>,
    bytes: usize,
}

impl Postponed {
    /// Adds a frame. Returns false if there are too many bytes already.
    pub(super) fn push(&mut self, frame: &Arc<Frame>) -> bool {
        let has_room = self.bytes < RESUME_BYTES_MAX;
        if has_room {
            self.bytes += frame.queue_bytes();
            self.frames.push(Arc::clone(frame));
        }
        has_room
    }
}

impl Session {
    /// Postpones messages of the kept feed from here on.
    pub(crate) fn postpone(&mut self) {
        if self.intake == Intake::Open {
            self.is_limited = true;
            self.cold.postponed.get_or_insert_default();
        }
    }

    /// Whether messages of the kept feed are postponed.
    pub(crate) fn postpones(&self) -> bool {
        self.cold.postponed.is_some()
    }

    /// Ends postponing; returns what has come meanwhile.
    pub(crate) fn take_postponed(&mut self) -> Vec<Arc<Frame>> {
        let Some(postponed) = self.cold.postponed.take() else {
            return Vec::new();
        };
        if self.intake == Intake::Open {
            self.is_limited = self.cold.rate.is_some() || self.cold.slots.is_some();
        }
        postponed.frames
    }
}
