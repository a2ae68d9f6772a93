//! The result of a search: the missed messages of a client, some of whose frames are still to be made.

use std::collections::VecDeque;
use std::sync::Arc;

use super::wanted::{Known, Outcome};
use crate::{CopyPosition, CopyRank, Frame, NotRecovered, TopicName};
use weirgate_wire::admission::Permit;

/// The place of a copy in the feed: the number of the message, and the rank of the copy.
pub(crate) type CopyPlace = (u64, CopyRank);

/// The missed messages of a client.
#[derive(Debug, Default)]
pub struct Missed {
    /// The messages with their places. Those of a search are in the order of the feed.
    pub(crate) frames: VecDeque<(CopyPlace, Arc<Frame>)>,
    /// Further messages, whose frames are still to be made: each with the pattern that it is for. They are many, so they
    /// are made over several turns.
    pub(super) unmade: VecDeque<(Known, Option<TopicName>)>,
    /// Queue bytes of the frames.
    pub(crate) bytes: usize,
    /// Newest messages of names are among the messages: they may be older than messages of other names that the
    /// client has.
    pub(crate) has_newest: bool,
    /// The permit for the messages, among all that wait for resuming clients.
    pub(crate) charge: Option<Permit>,
}

/// The next messages of a client that gets all that are kept.
#[derive(Debug, Default)]
pub struct KeptPage {
    /// The messages.
    pub messages: Missed,
    /// Whether there are no others now.
    pub is_last: bool,
    /// How many there are for each of the wanted names.
    pub counts: Vec<u64>,
}

impl Missed {
    /// The position of the last message.
    pub fn position(&self) -> Option<CopyPosition> {
        let (_, frame) = self.frames.back()?;
        frame.copy_position()
    }

    /// Whether nothing was missed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of messages.
    pub(crate) fn len(&self) -> usize {
        self.frames.len() + self.unmade.len()
    }

    /// Whether frames are still to be made ([`Core::make_missed`](crate::Core::make_missed)).
    pub fn has_unmade(&self) -> bool {
        !self.unmade.is_empty()
    }

    /// Adds a message; nothing for a message without a frame.
    ///
    /// # Errors
    /// The messages are more than `bytes_max` bytes.
    pub(super) fn push(
        &mut self,
        place: CopyPlace,
        frame: Option<Arc<Frame>>,
        bytes_max: usize,
    ) -> Outcome {
        self.bytes += frame.as_ref().map_or(0, |frame| frame.queue_bytes());
        self.frames.extend(frame.map(|frame| (place, frame)));
        match self.bytes > bytes_max {
            true => Err(NotRecovered::Large),
            false => Ok(()),
        }
    }

    /// Bytes of the messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops up to `count` of the messages, which are not sent: each is elsewhere in memory, so dropping very many at once
    /// takes milliseconds.
    pub fn drop_some(&mut self, count: usize) {
        let kept = |len: usize| len.saturating_sub(count);
        self.frames.truncate(kept(self.frames.len()));
        self.unmade.truncate(kept(self.unmade.len()));
    }

    /// Takes the first message out, unless `newer`, which goes out beside these, is before it in the feed.
    pub(crate) fn pop_until(&mut self, newer: Option<CopyPlace>) -> Option<Arc<Frame>> {
        let (first, _) = self.frames.front()?;
        if newer.is_some_and(|newer| newer < *first) {
            return None;
        }
        let (_, frame) = self.frames.pop_front()?;
        self.bytes -= frame.queue_bytes();
        Some(frame)
    }

    /// Adds the messages of other names. They get their places in the order of the feed when they are
    /// [sent](crate::Core::send_missed).
    pub fn merge(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.has_newest |= other.has_newest;
        self.unmade.extend(other.unmade);
        merge_charge(&mut self.charge, other.charge);
        if self.frames.is_empty() {
            self.frames = other.frames;
        } else {
            self.frames.extend(other.frames);
        }
    }

    /// Brings the messages into the order of the feed: those of each name are already.
    pub(crate) fn sort(&mut self) {
        let frames = self.frames.make_contiguous();
        frames.sort_by_key(|(place, _)| *place);
    }
}

/// Takes over a permit of the same client.
pub(crate) fn merge_charge(held: &mut Option<Permit>, more: Option<Permit>) {
    match (held, more) {
        (Some(held), Some(more)) => held.merge(more),
        (held, more) => *held = held.take().or(more),
    }
}
