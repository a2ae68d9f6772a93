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
/// How often a question reads last values again because some were removed before they came.
pub(super) const REREADS_MAX: u32 = 2;
/// A server makes the list of the last messages at most so long after its time of the consumer, nanoseconds.
pub(super) const LISTED_WITHIN_NS: u64 = 2_000_000_000;

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
    /// If each of these messages has to come, because an older one of its subject is the value otherwise
    /// ([`StreamPart::uncovers_older`]): none of them is behind this one, by its number and its time.
    listed_until: Option<StoredId>,
    /// Whether an earlier consumer has read the beginning of such a part: a value that was uncovered since, and has a lower number
    /// than what was read, does not come.
    is_resumed: bool,
    /// The parts of which all last values have come; those of which some may have been removed before; and those of these
    /// that are to be read again now.
    whole: HashSet<usize>,
    short: HashSet<usize>,
    again: HashSet<usize>,
    rereads: u32,
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
            listed_until: None,
            is_resumed: false,
            whole: HashSet::new(),
            short: HashSet::new(),
            again: HashSet::new(),
            rereads: 0,
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

    /// The first message of a consumer: the newest of each subject, if these have not come yet, or what is stored since; of all
    /// messages, where the reading goes on.
    pub(super) fn consumer_start(&self, part: &StreamPart) -> Start {
        if let Some(all) = &self.all {
            return all.consumer_start();
        }
        let known = self.index_of(part);
        let known = known.filter(|at| self.whole.contains(at) && self.is_same_epoch(*at, part));
        known.map_or(Start::LastPerSubject, |at| {
            Start::Sequence(self.parts[at].sequence + 1)
        })
    }

    /// The index of what was read of a part.
    fn index_of(&self, part: &StreamPart) -> Option<usize> {
        let is_it =
            |known: &ReadPart| (&known.stream, &known.filter) == (&part.stream, &part.filter);
        self.parts.iter().position(is_it)
    }

    /// Whether what was read of a part counts: its stream was not made anew, and has lost no newer messages since.
    fn is_same_epoch(&self, at: usize, part: &StreamPart) -> bool {
        let known = &self.parts[at];
        let has_lost = part.last.is_some_and(|last| known.sequence > last);
        known.made == part.made && !has_lost
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
        for at in self.short.union(&self.again) {
            cursor.parts[*at].sequence = 0;
        }
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

    /// Begins to read a stream with a consumer that was made at this time, and for which so many messages wait. What was read of
    /// a stream that was made anew, or that has lost messages since, counts no more.
    pub(super) fn begin(&mut self, part: &StreamPart, waiting: u64, created_ns: Option<u64>) {
        self.waiting = waiting;
        if self.all.is_some() {
            return;
        }
        let has_listed = self.consumer_start(part) == Start::LastPerSubject;
        let created_ns = created_ns.unwrap_or(u64::MAX);
        let listed_until = StoredId {
            major: part.last.unwrap_or(u64::MAX),
            minor: created_ns.saturating_add(LISTED_WITHIN_NS),
        };
        self.listed_until = Some(listed_until).filter(|_| has_listed && part.uncovers_older);
        self.current = self.index_of(part).unwrap_or_else(|| {
            self.parts.push(ReadPart {
                stream: part.stream.clone(),
                filter: part.filter.clone(),
                made: part.made.clone(),
                // Nothing was read of it.
                sequence: 0,
            });
            self.parts.len() - 1
        });
        if has_listed {
            self.whole.remove(&self.current);
        }
        if !self.is_same_epoch(self.current, part) {
            let known = &mut self.parts[self.current];
            known.made.clone_from(&part.made);
            known.sequence = 0;
        }
        let has_begun = self.parts[self.current].sequence > 0;
        self.is_resumed = self.listed_until.is_some() && has_begun && part.has_holes;
    }

    /// Notes that a consumer of last values has brought what it had.
    pub(super) fn end_part(&mut self) {
        let lacks_some = self.waiting > 0 && self.listed_until.is_some();
        let (parts, others) = match lacks_some || self.is_resumed {
            true => (&mut self.short, &mut self.whole),
            false => (&mut self.whole, &mut self.short),
        };
        parts.insert(self.current);
        others.remove(&self.current);
    }

    /// Whether the streams are to be read again, because values were removed before they came. If that happens each time,
    /// the question is to be asked again later.
    pub(super) fn reads_again(&mut self) -> bool {
        if self.short.is_empty() {
            return false;
        }
        let reads_again = self.rereads < REREADS_MAX;
        if reads_again {
            self.again = std::mem::take(&mut self.short);
            (self.rereads, self.is_whole) = (self.rereads + 1, false);
        } else {
            self.refused = Some("values were removed each time before they were read".to_owned());
            self.may_answer_later = true;
        }
        reads_again
    }

    /// Takes the next part to read. One of which values were removed begins anew, if it has holes: without a hole, only the first
    /// messages of the stream were removed, and none of those is the last of its subject now.
    pub(super) fn next_part(&mut self) -> Option<StreamPart> {
        let part = self.parts_left.pop_front()?;
        if let Some(at) = self.index_of(&part).filter(|at| self.again.contains(at)) {
            self.again.remove(&at);
            match part.has_holes {
                true => self.parts[at].sequence = 0,
                false => drop(self.whole.insert(at)),
            }
        }
        Some(part)
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

    /// Whether a message is none of those that waited when the consumer was made, so that all of these have come that are left. The
    /// time alone is not enough: the clock of the server may have gone back.
    pub(super) fn is_behind_listed(&self, ack: AckSubject) -> bool {
        self.listed_until.is_some_and(|until| {
            ack.stream_sequence > until.major && ack.stored_unix_ns > until.minor
        })
    }

    /// Counts a message; `live`: its number among those that were delivered to clients shortly before. Returns false if it
    /// was read before.
    pub(super) fn take(&mut self, delivery: &Delivery, ack: AckSubject, live: Option<u64>) -> bool {
        let bytes = delivery.payload.len() + delivery.subject.len();
        if !self.is_behind_listed(ack) {
            self.waiting = self.waiting.saturating_sub(1);
        }
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
