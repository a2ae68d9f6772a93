//! How far a question has read the last values of a pattern: how far in each stream, and whether values were removed before
//! they came. Pure.
//!
//! In a stream that keeps older messages of a subject, the removal of the last one *uncovers* the one before, which has a
//! lower number ([`StreamPart::uncovers_older`]). A consumer that has listed the last messages brings neither of the two.
//! So each listed message has to come ([`ListedValues`]); otherwise the part is [`PartState::Short`], and is read again.

use std::collections::HashSet;

use super::listed::ListedValues;
use super::streams::StreamPart;
use crate::nats::consumer::Start;
use crate::nats::protocol::{AckSubject, Delivery};
use weirgate_core::{PageCursor, ReadPart};

/// How often a question reads last values again because some were removed before they came.
pub(super) const REREADS_MAX: u32 = 2;

/// How far last values were read.
#[derive(Debug)]
pub(super) struct ValuesRead {
    parts: Vec<PartRead>,
    /// The part that is read, or was read last.
    current: Option<CurrentPart>,
    /// How often short parts were read again.
    rereads: u32,
    /// The numbers (`super::live`) of messages that were delivered to clients shortly before, and have come from a
    /// stream too.
    came: HashSet<u64>,
}

/// What was read of a part.
#[derive(Debug)]
struct PartRead {
    read: ReadPart,
    state: PartState,
}

/// Whether all last values of a part have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartState {
    /// More are to come.
    Unfinished,
    /// All have come.
    Whole,
    /// The consumer has brought what it had, but some values may have been removed before they came.
    Short,
    /// As short, and the part is read again next.
    Again,
}

/// The part that a consumer reads.
#[derive(Debug)]
struct CurrentPart {
    /// Its index.
    at: usize,
    /// The number of the last message of the stream before the consumer was asked for; 0 if unknown.
    last: u64,
    /// The messages that the consumer has listed, if each of them has to come.
    listed: Option<Box<ListedValues>>,
}

/// What follows when all parts were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShortParts {
    /// No part is short.
    None,
    /// The short parts are to be read again.
    ReadAgain,
    /// Values were removed each time.
    GivenUp,
}

impl ValuesRead {
    /// Reads on behind what was read of these parts.
    pub(super) fn new(parts: &[ReadPart]) -> Self {
        let parts = parts.iter().cloned().map(PartRead::new);
        Self {
            parts: parts.collect(),
            current: None,
            rereads: 0,
            came: HashSet::new(),
        }
    }

    /// The first message of a consumer: the newest of each subject, if these have not come yet, or what is stored since.
    pub(super) fn consumer_start(&self, part: &StreamPart) -> Start {
        let known = self.index_of(part).map(|at| &self.parts[at]);
        match known.filter(|known| known.state == PartState::Whole && known.is_of_epoch(part)) {
            Some(known) => Start::Sequence(known.read.sequence + 1),
            None => Start::LastPerSubject,
        }
    }

    /// The index of what was read of a part.
    fn index_of(&self, part: &StreamPart) -> Option<usize> {
        let is_it = |known: &PartRead| {
            (&known.read.stream, &known.read.filter) == (&part.stream, &part.filter)
        };
        self.parts.iter().position(is_it)
    }

    /// Begins to read a part with a consumer for which so many messages wait. What was read of a stream that was made anew, or
    /// that has lost messages since, counts no more.
    pub(super) fn begin(&mut self, part: &StreamPart, waiting: u64) {
        let has_listed = self.consumer_start(part) == Start::LastPerSubject;
        let at = self.index_of(part).unwrap_or_else(|| {
            self.parts.push(PartRead::unread(part));
            self.parts.len() - 1
        });
        let known = &mut self.parts[at];
        if has_listed && known.state == PartState::Whole {
            known.state = PartState::Unfinished;
        }
        if !known.is_of_epoch(part) {
            known.read.made.clone_from(&part.made);
            known.read.sequence = 0;
        }
        let is_resumed = known.read.sequence > 0;
        let listed = (has_listed && part.uncovers_older)
            .then(|| Box::new(ListedValues::new(part, waiting, is_resumed)));
        let last = part.last.unwrap_or_default();
        self.current = Some(CurrentPart { at, last, listed });
    }

    /// What has come of the messages that the consumer has listed, if each of them has to come.
    pub(super) fn listed(&self) -> Option<&ListedValues> {
        self.current.as_ref()?.listed.as_deref()
    }

    /// As [`Self::listed`].
    pub(super) fn listed_mut(&mut self) -> Option<&mut ListedValues> {
        self.current.as_mut()?.listed.as_deref_mut()
    }

    /// Whether a message was stored before the consumer was asked for, so that others that were may follow.
    pub(super) fn is_within(&self, ack: AckSubject) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| ack.stream_sequence < current.last)
    }

    /// The stream of the part that is read.
    pub(super) fn current_stream(&self) -> Option<&str> {
        let current = self.current.as_ref()?;
        Some(&self.parts[current.at].read.stream)
    }

    /// Notes that the consumer of a part has brought what it had.
    pub(super) fn end_part(&mut self) {
        if let Some(CurrentPart { at, listed, .. }) = &self.current {
            let is_short = listed.as_ref().is_some_and(|listed| listed.is_short());
            self.parts[*at].state = match is_short {
                true => PartState::Short,
                false => PartState::Whole,
            };
        }
    }

    /// Begins to read the short parts again, once all parts were read.
    pub(super) fn reread_short(&mut self) -> ShortParts {
        let is_short = |part: &PartRead| part.state == PartState::Short;
        if !self.parts.iter().any(is_short) {
            return ShortParts::None;
        }
        if self.rereads == REREADS_MAX {
            return ShortParts::GivenUp;
        }
        self.rereads += 1;
        for part in self.parts.iter_mut().filter(|part| is_short(part)) {
            part.state = PartState::Again;
        }
        ShortParts::ReadAgain
    }

    /// Prepares a part that is read next. One of which values were removed begins anew, if it has holes: without a hole, only
    /// the first messages of the stream were removed, and none of those is the last of its subject now.
    pub(super) fn prepare(&mut self, part: &StreamPart) {
        let known = self.index_of(part).map(|at| &mut self.parts[at]);
        if let Some(known) = known.filter(|known| known.state == PartState::Again) {
            if part.has_holes {
                (known.state, known.read.sequence) = (PartState::Unfinished, 0);
            } else {
                known.state = PartState::Whole;
            }
        }
    }

    /// Counts a message; `live`: its number among those that were delivered to clients shortly before. Returns false if it
    /// was read before.
    pub(super) fn take(&mut self, delivery: &Delivery, ack: AckSubject, live: Option<u64>) -> bool {
        self.came.extend(live);
        let Some(current) = &mut self.current else {
            return true;
        };
        let read = &mut self.parts[current.at].read;
        // nats-server 2.9 brings a message twice if the one before was replaced after the consumer was made.
        let is_new = ack.stream_sequence > read.sequence;
        if is_new {
            read.sequence = ack.stream_sequence;
        }
        if let Some(listed) = &mut current.listed {
            listed.take(delivery, ack, is_new);
        }
        is_new
    }

    /// Whether the live message of this number has come from its stream, too.
    pub(super) fn has_come(&self, live: u64) -> bool {
        self.came.contains(&live)
    }

    /// From where another question reads on: a part that is short begins anew.
    pub(super) fn cursor(&self) -> PageCursor {
        let read = |part: &PartRead| {
            let mut read = part.read.clone();
            if matches!(part.state, PartState::Short | PartState::Again) {
                read.sequence = 0;
            }
            read
        };
        PageCursor::of(self.parts.iter().map(read).collect())
    }
}

impl PartRead {
    const fn new(read: ReadPart) -> Self {
        let state = PartState::Unfinished;
        Self { read, state }
    }

    /// A part of which nothing was read.
    fn unread(part: &StreamPart) -> Self {
        Self::new(ReadPart {
            stream: part.stream.clone(),
            filter: part.filter.clone(),
            made: part.made.clone(),
            sequence: 0,
        })
    }

    /// Whether what was read counts: the stream was not made anew, and has lost no newer messages since.
    fn is_of_epoch(&self, part: &StreamPart) -> bool {
        let has_lost = part.last.is_some_and(|last| self.read.sequence > last);
        self.read.made == part.made && !has_lost
    }
}
