//! What was read for a question: of each stream, of the page, and what may be missing; and what is still to be read. Of a
//! question for all messages, `all_read` has the rest. Pure.

use std::collections::{HashSet, VecDeque};

use super::all_read::AllRead;
use super::events::NatsCut;
use super::streams::{StreamPart, parts_taken_by_streams};
use crate::nats::consumer::Start;
use crate::nats::protocol::{AckSubject, Delivery};
use crate::nats::stream_info::StreamInfo;
use crate::requests::{Question, Wants};
use weirgate_core::{PageCursor, ReadPart, StoredId};
use weirgate_wire::json::Json;

/// The bytes and the messages of a page of values. The last value, or the last request, may bring more.
pub(super) const PAGE_BYTES: usize = 512 * 1024;
pub(super) const PAGE_VALUES: u64 = 2_048;
/// The messages of the first request to a consumer; each further one is for this many times what has come, at most.
pub(super) const PULL_GROWTH: u64 = 8;
/// The limit on streams asked for a pattern.
pub(super) const STREAMS_MAX: usize = 16;

/// How far a question has read.
#[derive(Debug)]
pub(super) struct QuestionReading {
    /// Streams not asked yet.
    pub(super) parts_left: VecDeque<StreamPart>,
    /// What was read of each stream.
    parts: Vec<ReadPart>,
    /// The index of the part that the consumer reads.
    current: usize,
    /// What may still come of the messages that waited when the consumer was made.
    pub(super) waiting: u64,
    /// How many messages have come.
    seen: u64,
    /// The bytes of the largest.
    largest: usize,
    pub(super) page: PageProgress,
    /// The numbers (`super::live`) of messages that were delivered to clients shortly before, and have come from a
    /// stream too.
    pub(super) came: HashSet<u64>,
    /// All streams have given their values once.
    pub(super) is_whole: bool,
    /// Whether there are more streams than are asked.
    pub(super) has_more_streams: bool,
    /// Whether a value was not sent, because its subject is no name for clients.
    is_unnamed: bool,
    /// Why a stream gave no values.
    pub(super) refused: Option<String>,
    /// Whether the stream may give them later.
    pub(super) may_answer_later: bool,
    /// For a question for all messages, in place of last values.
    pub(super) all: Option<AllRead>,
    /// Of all messages: the newest that clients may have had when the stream was last asked about.
    pub(super) needed: Option<StoredId>,
    /// Of all messages: the server that led the stream when its consumer was chosen; empty without a cluster.
    pub(super) leader: String,
}

/// What was sent of a page of values.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PageProgress {
    pub(super) values: u64,
    pub(super) bytes: usize,
}

impl PageProgress {
    pub(super) fn is_full(self) -> bool {
        self.values >= PAGE_VALUES || self.bytes >= PAGE_BYTES
    }
}

/// The server that leads the stream of these parts; empty without a cluster.
fn leader_of(parts: &[StreamPart]) -> &str {
    parts.first().map_or("", |part| &part.leader)
}

impl QuestionReading {
    pub(super) fn of(question: &Question) -> Self {
        let all = (question.wants == Wants::All).then(|| AllRead::new(&question.after));
        Self {
            all,
            ..Self::new(&question.after)
        }
    }

    pub(super) fn new(after: &PageCursor) -> Self {
        Self {
            parts_left: VecDeque::new(),
            parts: after.parts.clone(),
            current: 0,
            waiting: 0,
            seen: 0,
            largest: 0,
            page: PageProgress::default(),
            came: HashSet::new(),
            is_whole: false,
            has_more_streams: false,
            is_unnamed: false,
            refused: None,
            may_answer_later: false,
            all: None,
            needed: None,
            leader: String::new(),
        }
    }

    /// The first message of a consumer: the newest of each subject, or where the reading of all messages goes on.
    pub(super) fn consumer_start(&self) -> Start {
        let all = self.all.as_ref();
        all.map_or(Start::LastPerSubject, AllRead::consumer_start)
    }

    /// Begins to read all messages. A consumer has one filter: for a name in several parts of the stream it brings the whole
    /// stream, in its order.
    pub(super) fn begin_all(&mut self, mut found: Vec<StreamPart>, stream: &StreamInfo) {
        let is_in_parts = found.len() > 1;
        found.truncate(1);
        if let Some(all) = &mut self.all {
            all.begin(stream);
        }
        self.leader = leader_of(&found).to_owned();
        if let Some(part) = found.first_mut().filter(|_| is_in_parts) {
            // Empty: the whole stream.
            part.filter = String::new();
        }
        self.parts_left = found.into();
    }

    /// Whether the stream of these parts ends before a message that clients may have: of several servers, the one that answers
    /// was elected a moment ago, or is no longer the leader, and does not have all.
    pub(super) fn is_behind(&self, found: &[StreamPart], stream: &StreamInfo) -> bool {
        let needed = self.needed.map_or(0, |needed| needed.major);
        !leader_of(found).is_empty() && stream.head_number() < needed
    }

    /// Whether another server leads the stream by now than the one whose consumer was read: that one may have been behind
    /// already when the consumer was made.
    pub(super) fn is_led_elsewhere(&self, found: &[StreamPart]) -> bool {
        leader_of(found) != self.leader
    }

    /// Why something is missing of what was read.
    fn cut_so_far(&self) -> Option<NatsCut> {
        let unnamed = self.is_unnamed.then_some(NatsCut::Unnamed);
        let of_all = self.all.as_ref().and_then(AllRead::cut);
        of_all.or(unnamed)
    }

    /// Why values are missing, once nothing more is read.
    pub(super) fn cut(&self) -> Option<NatsCut> {
        let refused = self.refused.clone().map(NatsCut::Refused);
        let more = self.has_more_streams.then_some(NatsCut::TooManyStreams);
        refused.or(more).or_else(|| self.cut_so_far())
    }

    /// As [`Self::cursor`], if this question does not go on.
    pub(super) fn last_cursor(&self) -> PageCursor {
        let doubt = self.all.as_ref().and_then(AllRead::cut_at_stop);
        let cursor = self.cursor();
        PageCursor {
            cut: cursor.cut.or_else(|| doubt.map(|doubt| doubt.reason())),
            ..cursor
        }
    }

    /// From where another question reads on.
    pub(super) fn cursor(&self) -> PageCursor {
        let mut cursor = match &self.all {
            Some(all) => all.cursor(),
            None => PageCursor::of(self.parts.clone()),
        };
        cursor.cut = self.cut_so_far().as_ref().map(NatsCut::reason);
        cursor
    }

    /// Selects the streams in the answer that hold a part of the pattern, all of which are read from here on. The
    /// answer is one page (of 256 streams); the streams of the other pages count as streams that are not asked.
    pub(super) fn take_streams(&mut self, pattern: &str, streams: Json<'_>) {
        let found = parts_taken_by_streams(pattern, streams);
        self.has_more_streams = found.parts.len() > STREAMS_MAX || found.has_more_streams;
        self.refused = None;
        self.parts_left = found.parts;
        self.parts_left.truncate(STREAMS_MAX);
    }

    /// Adds streams that were found in the list of all.
    pub(super) fn extend(&mut self, parts: Vec<StreamPart>) {
        let is_new = |part: &StreamPart| !self.parts_left.iter().any(|known| known.is_same(part));
        let parts: Vec<StreamPart> = parts.into_iter().filter(is_new).collect();
        self.parts_left.extend(parts);
        self.has_more_streams |= self.parts_left.len() > STREAMS_MAX;
        self.parts_left.truncate(STREAMS_MAX);
    }

    /// Begins to read a stream with a consumer for which so many messages wait. What was read of a stream that was made
    /// anew, or that has lost messages since, counts no more.
    pub(super) fn begin(&mut self, part: &StreamPart, waiting: u64) {
        self.waiting = waiting;
        if self.all.is_some() {
            return;
        }
        let is_it =
            |known: &ReadPart| (&known.stream, &known.filter) == (&part.stream, &part.filter);
        let known = self.parts.iter().position(is_it);
        self.current = known.unwrap_or_else(|| {
            self.parts.push(ReadPart {
                stream: part.stream.clone(),
                filter: part.filter.clone(),
                made: part.made.clone(),
                // Nothing was read of it.
                sequence: 0,
            });
            self.parts.len() - 1
        });
        let known = &mut self.parts[self.current];
        let has_lost = part.last.is_some_and(|last| known.sequence > last);
        if known.made != part.made || has_lost {
            known.made.clone_from(&part.made);
            known.sequence = 0;
        }
    }

    /// The bytes of the largest message so far; `None` before the first.
    pub(super) const fn largest(&self) -> Option<usize> {
        match self.seen {
            0 => None,
            _ => Some(self.largest),
        }
    }

    /// How many messages to ask for next: as many as fit in the page if none is larger than those before, and at first few,
    /// because nothing is known of their size: `unknown_max`.
    pub(super) fn next_pull(&self, unknown_max: u64) -> u64 {
        let bytes = PAGE_BYTES.saturating_sub(self.page.bytes) / self.largest.max(1);
        let values = PAGE_VALUES.saturating_sub(self.page.values);
        let growth = match self.seen {
            0 => PULL_GROWTH.min(unknown_max),
            seen => PULL_GROWTH * seen,
        };
        values.min(bytes as u64).min(growth).max(1)
    }

    /// Counts a message; `live`: its number among those that were delivered to clients shortly before. Returns false if it
    /// was read before.
    pub(super) fn take(&mut self, delivery: &Delivery, ack: AckSubject, live: Option<u64>) -> bool {
        let bytes = delivery.payload.len() + delivery.subject.len();
        self.waiting = self.waiting.saturating_sub(1);
        // With what was cut off here: so much waited at the server.
        let whole = delivery.size() + delivery.subject.len();
        (self.seen, self.largest) = (self.seen + 1, self.largest.max(whole));
        self.came.extend(live);
        let id = StoredId {
            major: ack.stream_sequence,
            minor: ack.stored_unix_ns,
        };
        if self.all.as_mut().is_some_and(|all| !all.take(id)) {
            return false;
        }
        if let Some(part) = self.parts.get_mut(self.current) {
            // nats-server 2.9 brings a message twice if the one before was replaced after the consumer was made.
            if ack.stream_sequence <= part.sequence {
                return false;
            }
            part.sequence = ack.stream_sequence;
        }
        self.is_unnamed |= delivery.name().is_err();
        self.page.values += 1;
        self.page.bytes += bytes;
        true
    }
}
