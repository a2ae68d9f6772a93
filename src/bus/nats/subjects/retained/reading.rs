//! How far a question has read: the page, what is still to be read, and what is missing. [`ValuesRead`] has the rest of last
//! values, [`AllRead`] of all messages. Pure.

use std::collections::VecDeque;

use super::all_read::AllRead;
use super::events::NatsCut;
use super::listed::ListedValues;
use super::streams::{StreamPart, last_number, parts_taken_by_streams};
use super::values_read::{ShortParts, ValuesRead};
use crate::nats::api::ApiError;
use crate::nats::consumer::Start;
use crate::nats::protocol::{AckSubject, Delivery};
use crate::nats::stream_info::StreamInfo;
use crate::requests::{Question, Wants};
use weirgate_core::{PageCursor, StoredId};
use weirgate_wire::json::Json;

/// The bytes and the messages of a page of values. The last value, or the last request, may bring more.
pub(super) const PAGE_BYTES: usize = 512 * 1024;
pub(super) const PAGE_VALUES: u64 = 2_048;
/// A consumer that brings more bytes in a page is left.
pub(super) const PAGE_BYTES_LIMIT: usize = 2 * PAGE_BYTES;
/// The messages of the first request to a consumer; each further one is for this many times what has come, at most.
const PULL_GROWTH: u64 = 8;
/// The limit on streams asked for a pattern.
pub(super) const STREAMS_MAX: usize = 16;

/// How far a question has read.
#[derive(Debug)]
pub(super) struct QuestionReading {
    /// Streams not asked yet.
    pub(super) parts_left: VecDeque<StreamPart>,
    /// What may still come of the messages that waited when the consumer was made.
    pub(super) waiting: u64,
    /// Whether the server has always counted as many.
    is_counted: bool,
    sizes: MessageSizes,
    page: PageProgress,
    /// All streams were read once.
    pub(super) has_read_all: bool,
    /// Whether a message was not sent, because its subject is no name for clients.
    is_unnamed: bool,
    pub(super) left_out: StreamsLeftOut,
    pub(super) read: MessagesRead,
}

/// Which messages were read.
#[derive(Debug)]
pub(super) enum MessagesRead {
    /// The last of each subject, in any number of streams.
    LastValues(ValuesRead),
    /// All messages of a name in one stream.
    All(Box<AllRead>),
}

/// What was sent of a page of values.
#[derive(Clone, Copy, Debug, Default)]
struct PageProgress {
    values: u64,
    bytes: usize,
}

impl PageProgress {
    const fn is_full(self) -> bool {
        self.values >= PAGE_VALUES || self.bytes >= PAGE_BYTES
    }
}

/// How large the messages are that have come.
#[derive(Clone, Copy, Debug, Default)]
struct MessageSizes {
    /// How many have come.
    count: u64,
    /// The bytes of the largest.
    largest: usize,
}

/// The streams that gave a question nothing.
#[derive(Debug, Default)]
pub(super) struct StreamsLeftOut {
    /// Why the last one of them gave nothing.
    refused: Option<String>,
    /// Whether one of them may answer another question.
    may_answer_later: bool,
    /// Whether there are more streams than are asked.
    has_more: bool,
}

/// Whether a stream that refuses may answer later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalLasts {
    /// Nobody answered, or the answer is that nobody can for now.
    ForNow,
    /// JetStream has answered.
    ForGood,
}

impl RefusalLasts {
    /// How long this answer counts.
    pub(super) fn of(error: &ApiError) -> Self {
        match error.is_an_answer() {
            true => Self::ForGood,
            false => Self::ForNow,
        }
    }
}

impl StreamsLeftOut {
    /// Notes that a stream gives nothing, and why.
    pub(super) fn refused(&mut self, why: String, lasts: RefusalLasts) {
        self.refused = Some(why);
        self.note_lasts(lasts);
    }

    /// Notes a refusal that ends the question.
    pub(super) fn note_lasts(&mut self, lasts: RefusalLasts) {
        self.may_answer_later |= lasts == RefusalLasts::ForNow;
    }

    /// Whether nothing was left out.
    pub(super) const fn is_empty(&self) -> bool {
        self.refused.is_none() && !self.has_more
    }

    /// Whether a refused question is to be asked again later.
    pub(super) const fn may_answer_later(&self) -> bool {
        self.may_answer_later
    }

    /// Why messages are missing.
    fn cut(&self) -> Option<NatsCut> {
        let refused = self.refused.clone().map(NatsCut::Refused);
        refused.or_else(|| self.has_more.then_some(NatsCut::TooManyStreams))
    }
}

impl QuestionReading {
    /// Begins, or goes on behind what was read before.
    pub(super) fn of(question: &Question) -> Self {
        let after = &question.after;
        Self::new(match question.wants {
            Wants::All => MessagesRead::All(Box::new(AllRead::new(after))),
            Wants::LastValues | Wants::Newest => {
                MessagesRead::LastValues(ValuesRead::new(&after.parts))
            }
        })
    }

    fn new(read: MessagesRead) -> Self {
        Self {
            parts_left: VecDeque::new(),
            waiting: 0,
            is_counted: true,
            sizes: MessageSizes::default(),
            page: PageProgress::default(),
            has_read_all: false,
            is_unnamed: false,
            left_out: StreamsLeftOut::default(),
            read,
        }
    }

    /// How far all messages were read; `None` if the question is for last values.
    pub(super) fn all(&self) -> Option<&AllRead> {
        match &self.read {
            MessagesRead::All(all) => Some(all),
            MessagesRead::LastValues(_) => None,
        }
    }

    /// As [`Self::all`].
    pub(super) fn all_mut(&mut self) -> Option<&mut AllRead> {
        match &mut self.read {
            MessagesRead::All(all) => Some(all),
            MessagesRead::LastValues(_) => None,
        }
    }

    /// The first message of a consumer.
    pub(super) fn consumer_start(&self, part: &StreamPart) -> Start {
        match &self.read {
            MessagesRead::All(all) => all.consumer_start(),
            MessagesRead::LastValues(values) => values.consumer_start(part),
        }
    }

    /// Why something is missing of what was read.
    fn cut_so_far(&self) -> Option<NatsCut> {
        let unnamed = self.is_unnamed.then_some(NatsCut::Unnamed);
        self.all().and_then(AllRead::cut).or(unnamed)
    }

    /// Why values are missing, once nothing more is read.
    pub(super) fn cut(&self) -> Option<NatsCut> {
        self.left_out.cut().or_else(|| self.cut_so_far())
    }

    /// From where another question reads on.
    pub(super) fn cursor(&self) -> PageCursor {
        let cursor = match &self.read {
            MessagesRead::All(all) => all.cursor(),
            MessagesRead::LastValues(values) => values.cursor(),
        };
        PageCursor {
            cut: self.cut_so_far().as_ref().map(NatsCut::reason),
            ..cursor
        }
    }

    /// As [`Self::cursor`], if this question does not go on.
    pub(super) fn last_cursor(&self) -> PageCursor {
        let doubt = self.all().and_then(AllRead::cut_at_stop);
        let cursor = self.cursor();
        PageCursor {
            cut: cursor.cut.or_else(|| doubt.map(|doubt| doubt.reason())),
            ..cursor
        }
    }

    /// Selects the streams in the answer that hold a part of the pattern, all of which are read from here on. The
    /// answer is one page (of 256 streams); the streams of the other pages count as streams that are not asked.
    pub(super) fn take_streams(&mut self, pattern: &str, streams: Json<'_>) {
        let found = parts_taken_by_streams(pattern, streams);
        self.take_parts(found.parts);
        self.left_out.has_more = self.parts_left.len() > STREAMS_MAX || found.has_more_streams;
        self.parts_left.truncate(STREAMS_MAX);
    }

    /// Reads these parts from here on.
    pub(super) fn take_parts(&mut self, parts: VecDeque<StreamPart>) {
        self.parts_left = parts;
        self.left_out.refused = None;
    }

    /// Adds streams that were found in the list of all. `has_more_streams`: the list has more than were looked at.
    pub(super) fn extend(&mut self, parts: Vec<StreamPart>, has_more_streams: bool) {
        let is_new = |part: &StreamPart| !self.parts_left.iter().any(|known| known.is_same(part));
        let parts: Vec<StreamPart> = parts.into_iter().filter(is_new).collect();
        self.parts_left.extend(parts);
        self.left_out.has_more |= self.parts_left.len() > STREAMS_MAX || has_more_streams;
        self.parts_left.truncate(STREAMS_MAX);
    }

    /// Whether a part that is still to be read is in a stream that the server makes at this moment.
    pub(super) fn waits_for_stream(&self) -> bool {
        self.parts_left.iter().any(StreamPart::is_being_made)
    }

    /// Begins to read all messages, after a check of the stream.
    pub(super) fn begin_all(&mut self, name: &str, found: Vec<StreamPart>, stream: &StreamInfo) {
        if let MessagesRead::All(all) = &mut self.read {
            self.parts_left = all.begin(name, found, stream).into_iter().collect();
        }
    }

    /// Begins to read a part with a consumer for which so many messages wait.
    pub(super) fn begin(&mut self, part: &StreamPart, waiting: u64) {
        (self.waiting, self.is_counted) = (waiting, true);
        if let MessagesRead::LastValues(values) = &mut self.read {
            values.begin(part, waiting);
        }
    }

    /// Whether the number of the stream's last message is needed.
    pub(super) fn needs_end(&self) -> bool {
        self.listed().is_some()
    }

    /// What has come of the messages that the consumer has listed, if each of them has to come.
    fn listed(&self) -> Option<&ListedValues> {
        match &self.read {
            MessagesRead::All(_) => None,
            MessagesRead::LastValues(values) => values.listed(),
        }
    }

    /// Takes the answer about the stream that is read, from after its consumer was made.
    pub(super) fn take_end(&mut self, answer: Json<'_>) {
        let MessagesRead::LastValues(values) = &mut self.read else {
            return;
        };
        let stream = values.current_stream();
        let last = stream.and_then(|stream| last_number(stream, answer));
        if let (Some(last), Some(listed)) = (last, values.listed_mut()) {
            listed.end_at(last);
        }
    }

    /// Notes that a consumer has brought what it had.
    pub(super) fn end_part(&mut self) {
        if let MessagesRead::LastValues(values) = &mut self.read {
            values.end_part();
        }
    }

    /// Whether the streams are to be read again, because values were removed before they came. If that happens each time,
    /// the question is to be asked again later.
    pub(super) fn reads_again(&mut self) -> bool {
        let MessagesRead::LastValues(values) = &mut self.read else {
            return false;
        };
        match values.reread_short() {
            ShortParts::None => false,
            ShortParts::ReadAgain => {
                self.has_read_all = false;
                true
            }
            ShortParts::GivenUp => {
                let why = "values were removed each time before they were read".to_owned();
                self.left_out.refused(why, RefusalLasts::ForNow);
                false
            }
        }
    }

    /// Takes the next part to read.
    pub(super) fn next_part(&mut self) -> Option<StreamPart> {
        let part = self.parts_left.pop_front()?;
        if let MessagesRead::LastValues(values) = &mut self.read {
            values.prepare(&part);
        }
        Some(part)
    }

    /// The bytes of the largest message so far; `None` before the first.
    pub(super) const fn largest(&self) -> Option<usize> {
        match self.sizes.count {
            0 => None,
            _ => Some(self.sizes.largest),
        }
    }

    /// How many messages to ask for next: as many as fit in the page if none is larger than those before, and at first few,
    /// because nothing is known of their size: `unknown_max`.
    pub(super) fn next_pull(&self, unknown_max: u64) -> u64 {
        let bytes = PAGE_BYTES.saturating_sub(self.page.bytes) / self.sizes.largest.max(1);
        let values = PAGE_VALUES.saturating_sub(self.page.values);
        let growth = match self.sizes.count {
            0 => PULL_GROWTH.min(unknown_max),
            count => PULL_GROWTH * count,
        };
        values.min(bytes as u64).min(growth).max(1)
    }

    /// Begins another page.
    pub(super) fn begin_page(&mut self) {
        self.page = PageProgress::default();
    }

    /// Whether the page is full.
    pub(super) const fn has_full_page(&self) -> bool {
        self.page.is_full()
    }

    /// Whether the page has so many bytes that nothing more is to come, even if it was asked for.
    pub(super) const fn is_far_over_page(&self) -> bool {
        self.page.bytes > PAGE_BYTES_LIMIT
    }

    /// Whether all has come that waited when the consumer was made, and was not removed since; `ack` is that of the last
    /// message. While messages are stored, nats-server 2.9 may have counted too few: if the counts differ, all that was stored
    /// before the consumer was asked for has to come.
    pub(super) fn has_all_of_part(&self, ack: AckSubject) -> bool {
        let MessagesRead::LastValues(values) = &self.read else {
            return self.waiting == 0;
        };
        let has_come = values
            .listed()
            .map_or(self.waiting == 0, ListedValues::has_come);
        let has_more = !self.is_counted && values.is_within(ack);
        has_come && !has_more || values.listed().is_some_and(ListedValues::is_over)
    }

    /// Counts a message; `live`: its number among those that were delivered to clients shortly before. Returns false if it
    /// was read before.
    pub(super) fn take(&mut self, delivery: &Delivery, ack: AckSubject, live: Option<u64>) -> bool {
        self.waiting = self.waiting.saturating_sub(1);
        self.is_counted &= ack.pending == self.waiting;
        self.sizes.count += 1;
        // With what was cut off here: so much waited at the server.
        let whole = delivery.size() + delivery.subject.len();
        self.sizes.largest = self.sizes.largest.max(whole);
        let is_new = match &mut self.read {
            MessagesRead::LastValues(values) => values.take(delivery, ack, live),
            MessagesRead::All(all) => all.take(StoredId {
                major: ack.stream_sequence,
                minor: ack.stored_unix_ns,
            }),
        };
        if is_new {
            self.is_unnamed |= delivery.name().is_err();
            self.page.values += 1;
            self.page.bytes += delivery.payload.len() + delivery.subject.len();
        }
        is_new
    }
}
