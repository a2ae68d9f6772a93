//! Missed messages of an event stream with several requests, until the last request was answered.
//!
//! The position of an event stream is the last `id`, whatever name the message was of. After a cut among
//! the missed messages of the first request, the position would lie behind missed messages of the second.
//! Therefore the messages of all requests leave together, in the order of the feed, and live messages
//! after. Until then no answer and no status has a position either.

use std::sync::Arc;

use super::Session;
use super::delivery::Delivered;
use crate::hub::history::CopyPlace;
use crate::hub::{Class, CloseReason, Frame};

/// The waiting messages.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Missed messages with their places in the feed.
    missed: Vec<(CopyPlace, Arc<Frame>)>,
    live: Vec<Arc<Frame>>,
    live_bytes: usize,
}

impl Session {
    /// Whether missed messages have to wait: requests in the query of an event stream were not read, or are
    /// not answered.
    pub(in crate::hub) fn gathers(&self) -> bool {
        self.cold.codec.is_some() && (self.holds_messages() || self.cold.is_resuming)
    }

    /// Whether missed messages wait.
    pub(in crate::hub) fn has_gathered(&self) -> bool {
        self.is_limited && self.cold.gathered.is_some()
    }

    /// Whether a position of now would be behind messages that the client has not got: messages wait, or may
    /// still be asked for.
    pub(in crate::hub) fn is_behind(&self) -> bool {
        let is_held = |all: &Gathered| !all.missed.is_empty() || !all.live.is_empty();
        self.gathers() || self.cold.gathered.as_deref().is_some_and(is_held)
    }

    /// Bytes of replayed messages in the send queue, and of gathered missed messages.
    pub(in crate::hub) fn replayed_bytes(&self) -> usize {
        let gathered = self.cold.gathered.iter().flat_map(|all| &all.missed);
        let gathered: usize = gathered.map(|(_, frame)| frame.queue_bytes()).sum();
        self.queue.replayed_bytes() + gathered
    }

    /// Notes whether answers to a `since` are still to come.
    pub(in crate::hub) fn set_resuming(&mut self, is_resuming: bool) {
        self.cold.is_resuming = is_resuming;
    }

    /// Keeps missed messages until [`Self::take_gathered`]; live messages wait too from here on.
    pub(in crate::hub) fn gather_missed(&mut self, missed: Vec<(CopyPlace, Arc<Frame>)>) {
        self.is_limited = true;
        let gathered = self.cold.gathered.get_or_insert_default();
        gathered.missed.extend(missed);
    }

    /// Takes the messages as soon as all requests were answered: the missed messages in the order of the
    /// feed, and the live messages.
    #[expect(clippy::type_complexity, reason = "two lists of frames")]
    pub(in crate::hub) fn take_gathered(&mut self) -> Option<(Vec<Arc<Frame>>, Vec<Arc<Frame>>)> {
        if self.cold.gathered.is_none() || self.gathers() {
            return None;
        }
        let mut gathered = self.cold.gathered.take()?;
        self.is_limited = self.cold.rate.is_some() || self.cold.slots.is_some();
        gathered.missed.sort_by_key(|(place, _)| *place);
        let missed = gathered.missed.into_iter().map(|(_, frame)| frame);
        Some((missed.collect(), gathered.live))
    }

    /// Keeps a live message behind missed messages; `None` if none wait.
    pub(super) fn gather_live(
        &mut self,
        frame: &Arc<Frame>,
        bytes_max: usize,
    ) -> Option<Delivered> {
        let gathered = self.cold.gathered.as_mut()?;
        if frame.class() != Class::Data {
            return None;
        }
        gathered.live_bytes += frame.queue_bytes();
        if gathered.live_bytes > bytes_max {
            return Some(self.over(CloseReason::SendQueueHard));
        }
        gathered.live.push(Arc::clone(frame));
        // Counted when the message enters the send queue.
        Some(Delivered::Refused)
    }
}
