//! Messages of the kept feed that wait outside of the send queue while a client resumes: what it has missed may be very
//! much, so it is searched, and then queued, over several turns. A message that comes meanwhile is newer, and waits
//! until the missed ones are in the queue.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Intake, Session};
use crate::history::CopyPlace;
use crate::{Core, Frame, Missed, Now};

/// What waits, and whether it may go out.
#[derive(Debug, Default)]
pub(super) struct Postponed {
    /// Messages that the client has missed.
    missed: Missed,
    /// What has come meanwhile, in the order in which it came.
    newer: VecDeque<(CopyPlace, Arc<Frame>)>,
    /// Queue bytes of `newer`.
    newer_bytes: usize,
    /// The gateway still searches for older messages, so none of these may go out.
    is_held: bool,
}

/// A message that goes out.
#[derive(Debug)]
pub(crate) enum NextPostponed {
    Missed(Arc<Frame>),
    /// It has come meanwhile.
    Newer(Arc<Frame>),
}

impl Postponed {
    /// Adds a message that has come. Returns false if there are too many bytes: then the messages go out, and the
    /// client gets nothing of what the search finds ([`Core::postpones`]).
    fn push(&mut self, newest: u64, frame: &Arc<Frame>) -> bool {
        let copy = frame.copy_rank();
        self.newer_bytes += frame.queue_bytes();
        self.newer.push_back(((newest, copy), Arc::clone(frame)));
        let has_room = self.newer_bytes <= Core::RESUME_BYTES_MAX;
        self.is_held &= has_room;
        has_room
    }

    /// The next message in the order of the feed.
    fn next(&mut self) -> Option<NextPostponed> {
        let newer = self.newer.front().map(|(place, _)| *place);
        if let Some(frame) = self.missed.pop_until(newer) {
            return Some(NextPostponed::Missed(frame));
        }
        let (_, frame) = self.newer.pop_front()?;
        self.newer_bytes -= frame.queue_bytes();
        Some(NextPostponed::Newer(frame))
    }

    fn is_empty(&self) -> bool {
        self.missed.is_empty() && self.newer.is_empty()
    }

    /// All messages, in no particular order.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Frame>> {
        let all = self.missed.frames().chain(&self.newer);
        all.map(|(_, frame)| frame)
    }
}

impl Session {
    /// Postpones messages of the kept feed from here on, until [`Self::let_out`].
    pub(crate) fn postpone(&mut self, now: Now) {
        if let Some(postponed) = self.begin_postponing(now) {
            postponed.is_held = true;
        }
    }

    /// Whether messages of the kept feed are postponed, and none goes out.
    pub(crate) fn postpones(&self) -> bool {
        let postponed = self.cold.postponed.as_ref();
        postponed.is_some_and(|postponed| postponed.is_held)
    }

    /// Lets out what was postponed.
    pub(crate) fn let_out(&mut self) {
        if let Some(postponed) = &mut self.cold.postponed {
            postponed.is_held = false;
        }
        self.end_postponing();
    }

    /// Adds missed messages: these and newer ones go out in the order of the feed.
    pub(crate) fn add_missed(&mut self, now: Now, missed: Missed) {
        if let Some(postponed) = self.begin_postponing(now) {
            postponed.missed.merge(missed);
            postponed.missed.sort();
        }
    }

    /// Whether messages wait that may go out.
    pub(crate) fn sends_postponed(&self) -> bool {
        let postponed = self.cold.postponed.as_ref();
        postponed.is_some_and(|postponed| !postponed.is_held)
    }

    /// The next message that waits; with the last one, postponing ends.
    pub(crate) fn next_postponed(&mut self) -> Option<NextPostponed> {
        let next = self.cold.postponed.as_mut()?.next();
        self.end_postponing();
        next
    }

    /// Postpones a message that has come, and returns whether there is room for more. Returns `None` if the message is
    /// not of the kept feed, or its messages are not postponed. `newest` is the number of the newest message of the
    /// feed.
    pub(crate) fn postpone_frame(&mut self, newest: u64, frame: &Arc<Frame>) -> Option<bool> {
        let is_postponed = self.is_limited && self.intake == Intake::Open && frame.is_of_feed();
        let postponed = self.cold.postponed.as_mut().filter(|_| is_postponed)?;
        Some(postponed.push(newest, frame))
    }

    /// Missed messages that wait outside of the send queue, and their queue bytes.
    pub(super) fn postponed_missed(&self) -> (usize, usize) {
        let postponed = self.cold.postponed.as_ref();
        postponed.map_or((0, 0), |postponed| {
            (postponed.missed.len(), postponed.missed.bytes())
        })
    }

    /// The postponed messages, made if there are none; `None` once the client takes no data. The session counts as limited from
    /// here on, so that live frames come to [`Self::postpone_frame`].
    fn begin_postponing(&mut self, now: Now) -> Option<&mut Postponed> {
        let is_open = self.intake == Intake::Open;
        is_open.then(|| {
            if self.cold.postponed.is_none() && self.queue.is_empty() {
                // What is postponed waits from now on.
                self.queue.note_progress(now);
            }
            self.is_limited = true;
            &mut **self.cold.postponed.get_or_insert_default()
        })
    }

    /// Ends postponing if nothing waits, and the gateway searches no more.
    fn end_postponing(&mut self) {
        let postponed = self.cold.postponed.as_ref();
        if postponed.is_some_and(|postponed| !postponed.is_held && postponed.is_empty()) {
            self.cold.postponed = None;
            if self.intake == Intake::Open {
                self.is_limited = self.cold.rate.is_some() || self.cold.throttle.is_some();
            }
        }
    }
}
