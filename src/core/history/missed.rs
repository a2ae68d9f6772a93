//! The result of a search: the missed messages of a client, some of whose frames are still to be made.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use super::cursor::KeptCursor;
use super::found::Known;
use super::search::HistorySearch;
use super::wanted::Outcome;
use crate::{CopyRank, Frame, NotRecovered, RetainedCut, TopicName};
use weirgate_wire::admission::Permit;
use weirgate_wire::base::ChunkedQueue;

/// The place of a copy in the feed: the number of the message, and the rank of the copy.
pub(crate) type CopyPlace = (u64, CopyRank);

/// The missed messages of a client.
#[derive(Debug, Default)]
pub struct Missed {
    /// The messages with their places, in runs that are each in the order of the feed; a search makes one run. The runs
    /// are merged when messages are taken out: sorting very many messages at once would take milliseconds.
    runs: Vec<VecDeque<(CopyPlace, Arc<Frame>)>>,
    /// The place of the first message of each run, and the index of the run; made by [`sort`](Self::sort).
    order: BinaryHeap<Reverse<(CopyPlace, usize)>>,
    /// The messages of all runs.
    count: usize,
    /// The search that is still under way.
    pub(super) search: Option<Box<HistorySearch>>,
    /// Further messages, whose frames are still to be made: each with the pattern that it is for. They are many, so they
    /// are made over several turns. Newest messages are found, and stand here, newest first.
    pub(super) unmade: ChunkedQueue<(Known, Option<TopicName>)>,
    /// Queue bytes of the frames.
    pub(crate) bytes: usize,
    /// Newest messages of names are among the messages: they may be older than messages of other names that the
    /// client has.
    pub(crate) has_newest: bool,
    /// Why the newest messages of names are not whole.
    pub(super) cuts: BTreeMap<TopicName, RetainedCut>,
    /// The permit for the messages, among all that wait for resuming clients.
    pub(crate) charge: Option<Permit>,
}

/// What a client that gets all kept messages lacks of those that it should have, and is not told before the end. From a
/// position behind them it would resume as if it had them, so it is given none from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// Nothing that is known.
    Nothing,
    /// Messages before its cursor.
    Earlier,
    /// Perhaps also messages after its cursor: its next page begins with the oldest one that is kept and that it does not
    /// have.
    More,
}

/// The next messages of a client that gets all that are kept.
#[derive(Debug, Default)]
pub struct KeptPage {
    /// The messages. There may be none, because a long search goes on with the next page.
    pub messages: Missed,
    /// From where the next page goes on; `None`: from the same place as this page.
    pub reached: Option<KeptCursor>,
    /// Whether there are no others now.
    pub is_last: bool,
    /// Whether messages between the cursor and this page were forgotten.
    pub has_skipped: bool,
    /// Whether messages were lost while a question brought what is before this page.
    pub was_lost_meanwhile: bool,
    /// How many there are for each of the wanted names.
    pub counts: Vec<u64>,
}

impl Missed {
    /// Whether nothing was missed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.search.is_none()
    }

    /// The number of messages found so far.
    pub(crate) fn len(&self) -> usize {
        self.count + self.unmade.len()
    }

    /// Takes the names of which the newest messages are not whole: one was too large for the history
    /// ([`RetainedCut::Large`]), or messages were lost after one of these ([`RetainedCut::Lost`]).
    pub fn take_cuts(&mut self) -> BTreeMap<TopicName, RetainedCut> {
        std::mem::take(&mut self.cuts)
    }

    /// Whether messages are still to be found, or frames to be made ([`Core::make_missed`](crate::Core::make_missed)).
    pub fn has_unmade(&self) -> bool {
        self.search.is_some() || !self.unmade.is_empty()
    }

    /// Charges what a search remembers between its steps, bytes, if there is room for it.
    pub(crate) fn charge_search(&mut self, grant: impl FnOnce(usize) -> Option<Permit>) {
        if let Some(search) = &mut self.search {
            search.charge(grant);
        }
    }

    /// Takes the oldest of the messages whose frames are still to be made.
    pub(super) fn next_unmade(&mut self) -> Option<(Known, Option<TopicName>)> {
        match self.has_newest {
            true => self.unmade.pop_back(),
            false => self.unmade.pop_front(),
        }
    }

    /// Adds a frame: behind the others or, if it `is_older`, before them.
    pub(super) fn push_frame(&mut self, place: CopyPlace, frame: Arc<Frame>, is_older: bool) {
        // Of messages without numbers, which were read from the stream, only the order in which they are found is known.
        let place = match place {
            (0, _) => (0, CopyRank::LAST),
            numbered => numbered,
        };
        self.bytes += frame.queue_bytes();
        self.count += 1;
        let run = self.runs.last_mut();
        match (run, is_older) {
            (Some(run), true) if run.front().is_none_or(|(first, _)| place <= *first) => {
                run.push_front((place, frame));
            }
            (Some(run), false) if run.back().is_none_or(|(last, _)| *last <= place) => {
                run.push_back((place, frame));
            }
            _ => self.runs.push(VecDeque::from([(place, frame)])),
        }
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
        if let Some(frame) = frame {
            self.push_frame(place, frame, false);
        }
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
        self.search = None;
        for _ in 0..count {
            self.unmade.pop_back();
            if let Some(run) = self.runs.last_mut() {
                self.count -= usize::from(run.pop_back().is_some());
                self.runs.pop_if(|run| run.is_empty());
            }
        }
        self.order.clear();
    }

    /// Takes the first message out, unless the message at `newer`, which came during the search, is before it in the
    /// feed.
    pub(crate) fn pop_until(&mut self, newer: Option<CopyPlace>) -> Option<Arc<Frame>> {
        let Reverse((first, at)) = self.order.peek()?;
        if newer.is_some_and(|newer| newer < *first) {
            return None;
        }
        let (at, run) = (*at, self.runs.get_mut(*at)?);
        let (_, frame) = run.pop_front()?;
        self.order.pop();
        match run.front() {
            Some((next, _)) => self.order.push(Reverse((*next, at))),
            None => *run = VecDeque::new(),
        }
        self.count -= 1;
        self.bytes -= frame.queue_bytes();
        Some(frame)
    }

    /// Adds the messages of other names. They get their places in the order of the feed when they are
    /// [sent](crate::Core::send_missed). Only one of the searches for them may be under way.
    pub fn merge(&mut self, other: Self) {
        debug_assert!(self.search.is_none() || other.search.is_none());
        self.search = self.search.take().or(other.search);
        self.bytes += other.bytes;
        self.has_newest |= other.has_newest;
        self.count += other.count;
        self.cuts.extend(other.cuts);
        match self.unmade.is_empty() {
            true => self.unmade = other.unmade,
            false => {
                let mut unmade = other.unmade;
                while let Some(one) = unmade.pop_front() {
                    self.unmade.push_back(one);
                }
            }
        }
        merge_charge(&mut self.charge, other.charge);
        self.runs.extend(other.runs);
    }

    /// Brings the messages into the order of the feed, for [`pop_until`](Self::pop_until): those of each run are already.
    pub(crate) fn sort(&mut self) {
        self.runs.retain(|run| !run.is_empty());
        let runs = self.runs.iter().enumerate();
        let firsts = runs.filter_map(|(at, run)| Some(Reverse((run.front()?.0, at))));
        self.order = firsts.collect();
    }

    /// Whether frames are made.
    pub(crate) fn has_frames(&self) -> bool {
        self.count > 0
    }

    /// How many lists the frames are in.
    #[cfg(test)]
    pub(crate) fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// The frames, in the order in which they were found.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &(CopyPlace, Arc<Frame>)> {
        self.runs.iter().flatten()
    }
}

/// Takes over a permit of the same client.
pub(crate) fn merge_charge(held: &mut Option<Permit>, more: Option<Permit>) {
    match (held, more) {
        (Some(held), Some(more)) => held.merge(more),
        (held, more) => *held = held.take().or(more),
    }
}
