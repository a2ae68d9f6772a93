//! The newest messages of a kept feed, for clients that resume.
//!
//! Each message of the feed has a number ([`topics`]); messages that no topic gets (bad messages) have no entry. All
//! topics share one list, in the order of the feed; a resume walks the list from the position on and takes the messages
//! of the topics. So keeping a message costs the same however many topics there are, and the messages of several topics
//! come in the order of the feed.
//!
//! The newest message of each topic stays when the list has to become shorter for its memory, however many messages other
//! topics have ([`NewestOnly`]): for clients that ask for the newest messages, if the gateway has such requests.
//!
//! A resume is whole or refused: [`NotRecovered`] says why.

mod certain;
mod copies;
mod cursor;
mod forgotten;
mod found;
mod missed;
mod newest_only;
mod numbers;
mod search;
mod topics;
mod wanted;

use std::collections::VecDeque;
use std::sync::Arc;

use self::certain::Certain;
use self::copies::{Copies, CopyKind};
pub use self::cursor::{KeptCursor, KeptHead};
use self::forgotten::ForgottenNewest;
use self::found::{At, FoundCopies, Known};
pub(crate) use self::missed::KeptPage;
pub(super) use self::missed::{CopyPlace, merge_charge};
pub use self::missed::{Lacks, Missed};
use self::newest_only::NewestOnly;
use self::numbers::MessageNumbers;
use self::topics::{KnownTopics, TopicIndex};
pub(super) use self::wanted::FrameBudget;
use self::wanted::{MATCH_STEPS_MAX, Matching, Unwanted, WantedNames, rank_of};
pub use self::wanted::{Outcome, Wanted};
use super::brings::Reach;
use super::frame_bytes::Keeper;
use super::message::payload_alone;
use super::turn::Turn;
use super::{
    Body, Content, CopyFor, CopyRank, FeedNotice, Frame, FrameBytes, HistoryLimits, HistoryStats,
    NotRecovered, Point, Position, Render, ShortHistory, StoredId, TopicName,
};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::auth::{MatchBudget, NamePatterns};
use weirgate_wire::base::{ChunkedQueue, Now};

/// The known topics get one `TOPICS_SHARE`th of the bytes.
const TOPICS_SHARE: usize = 4;
/// Memory of an entry beside its frame: the entry, the index of its topic, the id. Twice, because the nodes of
/// [`NewestOnly`]'s tree may be half empty; the list of all messages takes less.
const ENTRY_BYTES: usize =
    2 * (size_of::<KeptMessage>() + size_of::<TopicIndex>() + size_of::<StoredId>());
/// While copies have more than one `COPIES_SHARE`th of the bytes, copies are dropped before messages are forgotten.
const COPIES_SHARE: usize = 4;
/// The most frames that are made at once: usual resumes have fewer messages, and it takes less than half a millisecond.
const MADE_AT_ONCE: usize = 500;
/// The most steps of matching to find out whether a name matches topics whose newest messages were forgotten: some 20 µs.
const FORGOTTEN_STEPS_MAX: usize = 10_000;
/// How many additions to the names of the feed are remembered.
const NEW_NAMES_MAX: usize = 16;
/// The most steps of forgetting for one new message: some 0.2 ms. If the message has more bytes than so many older
/// ones, [`handle_timeout`](History::handle_timeout) forgets the rest.
const FORGOTTEN_AT_ONCE: usize = 256;
/// Messages exceed the limit by up to one `EXCESS_SHARE`th of it while older ones are being forgotten.
const EXCESS_SHARE: usize = 4;
/// How much longer a message is kept, so that messages are forgotten many at a time.
const LATE_US: u64 = 200_000;

/// A message of the feed.
#[derive(Debug)]
struct KeptMessage {
    /// The number in the feed; 0 for a message that was read from the stream later than newer ones
    /// ([`History::keep_newest`]).
    number: u64,
    /// Since when it is kept, microseconds of the monotonic clock.
    kept_us: u64,
    position: Position,
    /// `None`: the message was left out, so no client can get it later.
    body: Option<Body>,
    /// The frames that the gateway has rendered of a message.
    copies: Copies,
}

impl KeptMessage {
    /// The frame for clients of the topic's own name, or of a pattern; made if it does not exist yet. `position`: the one
    /// that the clients are given.
    fn copy(
        &mut self,
        topic: &TopicName,
        (pattern, content): (Option<&TopicName>, Content),
        position: Option<Position>,
        memory: &mut Memory,
    ) -> Option<Arc<Frame>> {
        let message = match self.body_for(content)? {
            Body::Frame(frame) => return Some(Arc::clone(frame)),
            Body::Message(message) => message,
        };
        let kind = CopyKind {
            pattern,
            content,
            has_position: position.is_some(),
        };
        if let Some(copy) = self.copies.find(kind) {
            return Some(copy);
        }
        let copy = CopyFor {
            message,
            name: topic.as_str(),
            pattern,
            position,
            content,
        };
        let copy = (memory.render)(&copy, &memory.frames);
        self.copies.keep(kind, &copy, &mut memory.beside);
        Some(copy)
    }

    /// The frame or message, if clients of this kind get it.
    fn body_for(&self, content: Content) -> Option<&Body> {
        let body = self.body.as_ref();
        body.filter(|body| body.is_for(content))
    }

    /// Whether the message was left out, for all clients or for those of this kind, for which it is too large.
    fn is_left_out_for(&self, content: Content) -> bool {
        let body = self.body.as_ref();
        body.is_none_or(|body| body.is_too_large_for(content))
    }

    fn has(&self, body: &Body) -> bool {
        let kept = self.body.as_ref();
        kept.is_some_and(|kept| kept.is_same(body))
    }
}

/// The memory of all messages.
#[derive(Debug)]
struct Memory {
    render: Render,
    /// The memory of messages and copies, with all of their encodings.
    frames: FrameBytes,
    /// The memory of the copies beside their frames.
    beside: usize,
    /// No message of the list with a lower number has kept copies.
    first_kept: u64,
    /// No message of the list with a lower number has lent copies ([`copies`]).
    first_lent: u64,
}

/// Why the newest message of a topic is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// There is no room for messages of the client's address, or no history.
    NoRoom,
    /// The stream was not read as far as the message: it comes later.
    Unread(StoredId),
    /// The history has had a newer message of the topic since the question was asked, and has forgotten it.
    Forgotten,
}

/// A loss of messages of the feed.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// Messages with a lower number are from before.
    number: u64,
    /// When it was said.
    mono_us: u64,
}

impl Loss {
    /// Whether the loss is after a message that is kept.
    fn is_after(self, entry: &KeptMessage) -> bool {
        match entry.number {
            // It was read from the stream later than messages after it.
            0 => entry.kept_us <= self.mono_us,
            number => number < self.number,
        }
    }
}

/// The kept messages, and their numbers.
#[derive(Debug)]
pub(super) struct History {
    limits: HistoryLimits,
    numbers: MessageNumbers,
    entries: ChunkedQueue<KeptMessage>,
    /// The topic of each entry: most of a walk looks at nothing else, and the entries take far more memory.
    topics: ChunkedQueue<TopicIndex>,
    newest_only: NewestOnly,
    newest_forgotten: ForgottenNewest,
    known_topics: KnownTopics,
    /// The number of the newest forgotten message.
    forgotten: u64,
    /// The number of the newest message that was left out.
    left_out: u64,
    /// No client can resume from before this number: of its message only the position is known, or earlier changes of
    /// the feed's names are no longer remembered.
    unread: u64,
    memory: Memory,
    /// No message since this time is missing, Unix microseconds; `None` before the first position. With it, why nothing
    /// older is there.
    since: Option<(i64, ShortHistory)>,
    /// When the newest message was left out, Unix microseconds; 0: none was.
    left_out_us: i64,
    /// The newest loss of messages.
    lost: Option<Loss>,
    /// Whether the stream is asked for the newest messages of topics of which none is kept.
    pub(super) asks_for_newest: bool,
    /// Names that the feed has got lately, and the number from which on it surely has their messages.
    new_names: VecDeque<(NamePatterns, u64)>,
    /// What has come last takes the memory over its limit: older messages are yet to be forgotten.
    is_over: bool,
    /// Messages have no positions now, so no client can resume.
    pub(super) is_off: bool,
    /// Which positions clients may be given.
    certain: Certain,
}

impl History {
    /// An empty history; `None` if the limits keep nothing. `frames` counts the frames.
    pub(super) fn new(limits: HistoryLimits, frames: &FrameBytes) -> Option<Self> {
        (limits.keep_us > 0).then(|| Self {
            limits,
            numbers: MessageNumbers::default(),
            entries: ChunkedQueue::default(),
            topics: ChunkedQueue::default(),
            newest_only: NewestOnly::new(limits.bytes_max),
            newest_forgotten: ForgottenNewest::default(),
            known_topics: KnownTopics::new(limits.bytes_max / TOPICS_SHARE),
            forgotten: 0,
            left_out: 0,
            unread: 0,
            memory: Memory {
                render: payload_alone,
                frames: frames.clone(),
                beside: 0,
                first_kept: u64::MAX,
                first_lent: u64::MAX,
            },
            since: None,
            left_out_us: 0,
            lost: None,
            asks_for_newest: false,
            new_names: VecDeque::new(),
            is_over: false,
            is_off: false,
            certain: Certain::default(),
        })
    }

    /// Handles a loss: messages after the newest are missing.
    pub(super) fn lose(&mut self, now: Now) {
        self.note(now, FeedNotice::Hole);
        self.lost = Some(Loss {
            number: self.numbers.head,
            mono_us: now.mono_us,
        });
        if self.asks_for_newest {
            self.newest_forgotten.add_all();
        }
    }

    /// Handles a notice about the positions of the feed.
    pub(super) fn note(&mut self, now: Now, notice: FeedNotice) {
        match notice {
            FeedNotice::InDoubt(_) => {}
            FeedNotice::NoPositions => self.since = None,
            // Positions go on: nothing is missing.
            FeedNotice::Mark { .. } | FeedNotice::Head(_) if self.numbers.newest().is_some() => {}
            // Nothing from before is known, or messages are missing before the next position.
            _ => self.since = Some((now.unix_us, ShortHistory::Start)),
        }
        match notice {
            FeedNotice::Mark {
                feed_hash,
                mark,
                count,
            } => {
                self.is_off = false;
                self.numbers.mark(feed_hash, mark, count);
            }
            FeedNotice::NoPositions => self.is_off = true,
            FeedNotice::Head(position) => self.begin(position),
            // Messages after the newest may be missing, and no earlier position is good.
            FeedNotice::Hole => {
                self.numbers.gap();
                self.certain.lose(self.numbers.head);
            }
            FeedNotice::InDoubt(is_in_doubt) => {
                let newest = (self.numbers.head, self.numbers.newest());
                self.certain.note(is_in_doubt, newest);
            }
        }
    }

    /// Handles names that the feed has got: what was published of them before the next message did not come.
    pub(super) fn note_new_names(&mut self, names: NamePatterns) {
        self.new_names.push_back((names, self.numbers.head + 1));
        // Which names these are is no longer remembered, so no earlier position is good for any name.
        if self.new_names.len() > NEW_NAMES_MAX
            && let Some((_, number)) = self.new_names.pop_front()
        {
            self.unread = self.unread.max(number);
        }
    }

    /// Whether messages of a name after a position may be from a time at which the feed did not have the name.
    fn is_new_since(&self, since: u64, wanted: &Wanted) -> bool {
        let mut new_names = self.new_names.iter();
        new_names.any(|(names, number)| {
            // A pattern may match any of the new names.
            let is_pattern = wanted.patterns.is_some();
            since < *number && (is_pattern || names.matches(wanted.name.as_str()))
        })
    }

    /// Handles the position of the newest message of a stream, which is not kept.
    fn begin(&mut self, position: Position) {
        if self.numbers.newest() != Some(position) {
            self.unread = self.numbers.next(position).unwrap_or(self.unread);
        }
    }

    /// Keeps a message of the feed; `body` is `None` for a message that was left out.
    pub(super) fn keep(
        &mut self,
        now: Now,
        position: Position,
        topic: &TopicName,
        body: Option<&Body>,
    ) {
        let Some(number) = self.numbers.next(position) else {
            return;
        };
        let unix_us = body.and_then(time_of).unwrap_or(now.unix_us);
        self.since.get_or_insert((unix_us, ShortHistory::Start));
        let topic = self.known_topics.add(topic, unix_us);
        match body {
            Some(body) => {
                self.remove_newest_only(topic);
                body.keep();
            }
            None => {
                (self.left_out, self.left_out_us) = (number, now.unix_us);
                self.known_topics.left_out(topic, number, now.unix_us);
            }
        }
        self.known_topics.note_newest(topic, number);
        self.entries.push_back(KeptMessage {
            number,
            kept_us: now.mono_us,
            position,
            body: body.cloned(),
            copies: Copies::default(),
        });
        self.topics.push_back(topic);
        self.forget_excess();
    }

    /// The frame of the newest message for clients of its own name, or of a pattern, with its position if they may be given
    /// it; `None` if the newest message has another position, was left out, or is not for clients of this kind.
    pub(super) fn copy_of_newest(
        &mut self,
        position: Position,
        pattern: Option<&TopicName>,
        content: Content,
    ) -> Option<Arc<Frame>> {
        let newest = self.entries.back_mut();
        let newest = newest.filter(|newest| newest.position == position)?;
        let topic = self.known_topics.topic(*self.topics.back()?);
        let given = self.certain.of(newest);
        let copy = newest.copy(topic, (pattern, content), given, &mut self.memory);
        self.memory.first_kept = self.memory.first_kept.min(newest.number);
        self.forget_excess();
        copy
    }

    /// Sets how the gateway renders messages.
    pub(super) fn set_render(&mut self, render: Render) {
        self.memory.render = render;
    }

    /// Gives the newest messages of topics no part of the memory, which then all is for resumes.
    pub(super) fn keep_no_newest_alone(&mut self) {
        self.newest_only = NewestOnly::new(0);
    }

    /// The position of the newest message that was read; `None` while no position is known, as before the first mark and
    /// after a loss.
    pub(super) fn newest_read(&self) -> Option<Position> {
        self.numbers.newest()
    }

    /// The newest position that a client may be given, who has all messages that were read.
    pub(super) fn position(&self) -> Option<Position> {
        self.certain.newest(self.numbers.newest())
    }

    /// Messages may be lost, so no client can resume until that is known.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.certain.is_in_doubt()
    }

    /// The next messages of the wanted names after a cursor, oldest first: as many as fit, and as a step of a search finds.
    /// `may_skip`: messages after the cursor may be missing.
    ///
    /// # Errors
    /// Messages after the cursor are missing and may not be, or the search is too long.
    pub(super) fn page(
        &mut self,
        cursor: &KeptCursor,
        wanted: &[Wanted],
        may_skip: bool,
        budget: FrameBudget,
    ) -> Result<KeptPage, NotRecovered> {
        let since = self.find_cursor(cursor, may_skip)?;
        if !may_skip {
            let judge = |wanted: &Wanted| self.judge(since.number_for(wanted), wanted);
            wanted.iter().try_for_each(judge)?;
        }
        let names = WantedNames::new(wanted.iter());
        let known = &self.known_topics;
        let mut unwanted = Unwanted::new(&names, known);
        let mut matching = Matching::new(&names, &mut unwanted, known, MATCH_STEPS_MAX);
        let mut found = FoundCopies::new(budget);
        let (from, until) = (since.whole() + 1, self.numbers.head);
        // Where the next page begins; `None` at the end of the list; an error if this page is full.
        let rest = self.walk(from..=until, since, &mut matching, |at, entry, name| {
            found.push(At::Entry(at), entry.body_for(budget.content), name)
        });
        let mut copies = found.copies;
        // The last copy is too much for this page; a single one goes out whatever its size.
        if found.bytes > budget.bytes_max && copies.len() > 1 {
            copies.pop();
        }
        if copies.is_empty() {
            rest?;
        }
        let before = self.memory();
        let mut page = KeptPage {
            is_last: rest == Ok(None),
            has_skipped: wanted
                .iter()
                .any(|wanted| since.number_for(wanted) < self.forgotten_of(wanted)),
            was_lost_meanwhile: self.was_lost_meanwhile(cursor),
            counts: vec![0; wanted.len()],
            ..KeptPage::default()
        };
        let next = rest.ok().flatten();
        // If the time of the walk was over, the page reaches up to where it stopped; otherwise up to the last copy.
        let looked_at = next.and_then(|next| self.cursor_before(next));
        let last = copies.last();
        page.reached = looked_at.or_else(|| {
            last.and_then(|&(at, name)| match at {
                At::Entry(at) => Some(self.cursor_after(&self.entries[at], name.rank())),
                // The walk above goes over the list alone.
                At::NewestOnly(_) => None,
            })
        });
        let has_positions = budget.has_positions && !page.was_lost_meanwhile;
        for (at, name) in copies {
            // The page was limited above, before the frames were made.
            let unlimited = FrameBudget {
                bytes_max: usize::MAX,
                has_positions,
                ..budget
            };
            self.make(at, name.pattern(), &mut page.messages, unlimited)?;
            let is_it = |wanted: &Wanted| wanted.name == name.name;
            if let Some(at) = wanted.iter().position(is_it) {
                page.counts[at] += 1;
            }
        }
        self.forget_made(before);
        Ok(page)
    }

    /// The cursor after the message before the one with this number.
    fn cursor_before(&self, number: u64) -> Option<KeptCursor> {
        let before = self.first_entry(number).checked_sub(1)?;
        let before = self.entries.get(before)?;
        Some(self.cursor_after(before, CopyRank::LAST))
    }

    /// Whether the messages after a position are known; if not, why.
    pub(super) fn check_position(&self, since: &str) -> Outcome {
        self.numbers.find(since).map(|_| ())
    }

    /// Whether a position of a client may be one from before a loss, although its id was read since.
    pub(super) fn may_be_before_loss(&self, position: Position) -> bool {
        self.numbers.may_be_before_loss(position)
    }

    /// The number of the newest message.
    pub(super) fn newest_number(&self) -> u64 {
        self.numbers.head
    }

    /// Makes the frame of a found message.
    fn make(
        &mut self,
        at: At,
        pattern: Option<&TopicName>,
        missed: &mut Missed,
        budget: FrameBudget,
    ) -> Outcome {
        let topic = match at {
            At::Entry(at) => self.topics[at],
            At::NewestOnly(topic) => topic,
        };
        let name = self.known_topics.topic(topic);
        let memory = &mut self.memory;
        let mut copy = |entry: &mut KeptMessage| {
            let given = self.certain.of(entry).filter(|_| budget.has_positions);
            let frame = entry.copy(name, (pattern, budget.content), given, memory);
            (entry.number, frame)
        };
        let made = match at {
            At::Entry(at) => {
                let (number, frame) = copy(&mut self.entries[at]);
                self.memory.first_kept = self.memory.first_kept.min(number);
                Some((number, frame))
            }
            At::NewestOnly(topic) => self.newest_only.with(topic, name, copy),
        };
        made.map_or(Ok(()), |(number, frame)| {
            missed.push((number, rank_of(pattern)), frame, budget.bytes_max)
        })
    }

    /// Takes the next step of a search, or makes the next frames of what it has found. A newest message that is no longer
    /// here does not come: [`has_forgotten`](Self::has_forgotten) says so.
    ///
    /// # Errors
    /// A missed message is no longer here, or the messages are too many bytes.
    pub(super) fn make_next(&mut self, missed: &mut Missed, budget: FrameBudget) -> Outcome {
        if let Some(search) = missed.search.take() {
            return self.continue_search(search, missed, budget);
        }
        let before = self.memory();
        for _ in 0..MADE_AT_ONCE {
            let Some((known, pattern)) = missed.next_unmade() else {
                break;
            };
            match self.find_known(known, missed.has_newest) {
                Some(at) => self.make(at, pattern.as_ref(), missed, budget)?,
                None if missed.has_newest => {}
                None => return Err(NotRecovered::Window),
            }
        }
        self.forget_made(before);
        Ok(())
    }

    /// Where such a message is now. If `may_stay`, it may have left the list since, to stay as the newest of its topic
    /// ([`NewestOnly`]).
    fn find_known(&self, known: Known, may_stay: bool) -> Option<At> {
        match known {
            Known::Number(number) => {
                let at = self.first_entry(number);
                let entry = self.entries.get(at);
                let is_there = entry.is_some_and(|entry| entry.number == number);
                let newest_only = || self.newest_only.topic_of(number).filter(|_| may_stay);
                match is_there {
                    true => Some(At::Entry(at)),
                    false => newest_only().map(At::NewestOnly),
                }
            }
            Known::NewestOnly(topic, position) => {
                let entry = self.newest_only.get(topic);
                let is_it = entry.is_some_and(|entry| entry.position == position);
                is_it.then_some(At::NewestOnly(topic))
            }
        }
    }

    /// Whether every message of a name after a position is there.
    fn judge(&self, since: u64, wanted: &Wanted) -> Outcome {
        // Of the message `unread` no copy can be sent, so a client that lacks one of them cannot resume. And what was
        // published of a new name before the feed had it did not come here.
        if since < self.unread || self.is_new_since(since, wanted) {
            return Err(NotRecovered::Window);
        }
        let known = self.known_topics.get(&wanted.name);
        let left_out = match (&wanted.patterns, known) {
            // A pattern may match any topic, so the forgotten and left out messages of all topics count.
            (Some(_), _) => self.left_out,
            (None, known) => known.map_or(0, |name| name.left_out),
        };
        match since < self.forgotten_of(wanted) || since < left_out {
            true => Err(NotRecovered::Window),
            false => Ok(()),
        }
    }

    /// The number of the newest message of a name that is no longer kept, or a higher one if it is not certain.
    fn forgotten_of(&self, wanted: &Wanted) -> u64 {
        match (&wanted.patterns, self.known_topics.get(&wanted.name)) {
            (Some(_), _) => self.forgotten,
            (None, Some(name)) => name.forgotten,
            (None, None) => self.known_topics.forgotten_of_gone(),
        }
    }

    /// The time at which the oldest message is too old; at once while older messages are yet to be forgotten for newer ones.
    pub(super) fn due_us(&self) -> Option<u64> {
        if self.is_over {
            return Some(0);
        }
        let of_list = self.entries.front().map(|entry| entry.kept_us);
        let kept_us = of_list
            .into_iter()
            .chain(self.newest_only.kept_us())
            .min()?;
        Some(kept_us.saturating_add(self.limits.keep_us + LATE_US))
    }

    /// Whether older messages are yet to be forgotten for what has come last.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Forgets the oldest messages over the limit of memory, and those that are too old, as many as there is time for.
    pub(super) fn handle_timeout(&mut self, now_us: u64, turn: &mut Turn) {
        let keep_us = self.limits.keep_us;
        let is_old = |entry: &KeptMessage| entry.kept_us + keep_us <= now_us;
        self.is_over = false;
        while self.forget_one(self.limits.bytes_max) {
            if !turn.has_time() {
                self.is_over = true;
                break;
            }
        }
        while let Some(topic) = self.newest_only.older_than(now_us.saturating_sub(keep_us)) {
            self.forget_newest_only(topic);
            if !turn.has_time() {
                break;
            }
        }
        while self.entries.front().is_some_and(is_old) {
            self.forget_oldest(ShortHistory::Start);
            if !turn.has_time() {
                break;
            }
        }
    }

    /// The gauges.
    pub(super) fn stats(&self) -> HistoryStats {
        HistoryStats {
            messages: (self.entries.len() + self.newest_only.count()) as u64,
            bytes: self.memory() as u64,
            bytes_max: self.limits.bytes_max as u64,
            keep_us: self.limits.keep_us,
            since_unix_us: self.since.map(|(since, _)| since),
            short: self.since.map_or(ShortHistory::Start, |(_, short)| short),
        }
    }

    /// How far back the kept messages of a name reach: not over a message that was left out.
    pub(super) fn reach(&self, name: &TopicName, unix_us: i64) -> Option<Reach> {
        let known = self.known_topics.get(name);
        // A name that is not known may be a pattern.
        let left_out_us = known.map_or(self.left_out_us, |known| known.left_out_us);
        let mut stats = self.stats();
        if stats.since_unix_us.is_some_and(|since| since < left_out_us) {
            (stats.since_unix_us, stats.short) = (Some(left_out_us), ShortHistory::LeftOut);
        }
        stats.reach(unix_us)
    }

    /// When the newest message of a topic arrived, or was stored in the stream, Unix microseconds; `None` if the topic is
    /// not known here, or is a pattern.
    pub(super) fn newest_unix_us(&self, topic: &TopicName) -> Option<i64> {
        self.known_topics.get(topic).map(|name| name.newest_unix_us)
    }

    /// Memory of the messages and the topics.
    fn memory(&self) -> usize {
        let messages = self.entries.len() + self.newest_only.count();
        let beside = ENTRY_BYTES * messages + self.newest_only.places_bytes();
        let kept = self.memory.frames.kept(Keeper::History) as usize;
        kept + beside + self.copies_memory() + self.known_topics.bytes()
    }

    /// Memory of the copies, with the encodings that clients need.
    fn copies_memory(&self) -> usize {
        self.memory.frames.kept(Keeper::Copies) as usize + self.memory.beside
    }

    /// Index of the first entry with this number or a higher one.
    fn first_entry(&self, number: u64) -> usize {
        self.entries.partition_point(|entry| entry.number < number)
    }

    /// Forgets messages because a newer one needs their memory: at once down to the limit and its excess, then only
    /// some of those above the limit, because a large message may displace very many small ones.
    fn forget_excess(&mut self) {
        let bytes_max = self.limits.bytes_max;
        while self.forget_one(bytes_max + bytes_max / EXCESS_SHARE) {}
        let mut steps = 0..FORGOTTEN_AT_ONCE;
        self.is_over = steps.all(|_| self.forget_one(bytes_max));
    }

    /// Forgets messages because copies that clients needed take memory. `before`: the memory without these copies; if
    /// it was over the limit already, [`handle_timeout`](Self::handle_timeout) brings it below.
    fn forget_made(&mut self, before: usize) {
        let bytes_max = self.limits.bytes_max.max(before);
        while self.forget_one(bytes_max) {}
    }

    /// If messages and copies need more memory: drops the oldest copy, which can be made again, as long as copies have more
    /// than their share ([`Copies`]); forgets a newest message that stays, if these have more than theirs; otherwise forgets the oldest
    /// message. So no client can displace messages by asking for many patterns. Returns false if nothing was forgotten.
    fn forget_one(&mut self, bytes_max: usize) -> bool {
        let copies_max = self.limits.bytes_max / COPIES_SHARE;
        if self.memory() <= bytes_max {
            return false;
        }
        if self.copies_memory() > copies_max && self.drop_copies() {
            return true;
        }
        match self.newest_only.over() {
            Some(topic) => self.forget_newest_only(topic),
            None => return self.forget_oldest(ShortHistory::Bytes),
        }
        true
    }

    /// Lends the copies of the oldest message with kept copies; if there is none, forgets those of the oldest message with
    /// lent copies. Returns false if there is none either.
    fn drop_copies(&mut self) -> bool {
        self.lend_oldest() || self.forget_oldest_lent()
    }

    fn lend_oldest(&mut self) -> bool {
        let memory = &mut self.memory;
        if self.newest_only.lend_copies(&mut memory.beside) {
            return true;
        }
        let first = self.first_entry(self.memory.first_kept);
        let mut rest = self.entries.iter_mut_from(first);
        let memory = &mut self.memory;
        let Some(entry) = rest.find(|entry| entry.copies.has_kept()) else {
            memory.first_kept = u64::MAX;
            return false;
        };
        memory.first_kept = entry.number + 1;
        if entry.copies.lend(&mut memory.beside) {
            memory.first_lent = memory.first_lent.min(entry.number);
        }
        true
    }

    fn forget_oldest_lent(&mut self) -> bool {
        if self.newest_only.forget_lent(&mut self.memory.beside) {
            return true;
        }
        let first = self.first_entry(self.memory.first_lent);
        let mut rest = self.entries.iter_mut_from(first);
        let memory = &mut self.memory;
        let Some(entry) = rest.find(|entry| entry.copies.has_lent()) else {
            memory.first_lent = u64::MAX;
            return false;
        };
        memory.first_lent = entry.number + 1;
        entry.copies.forget_lent(&mut memory.beside);
        true
    }

    /// Takes the oldest message off the list. A message that goes for its memory, and is the only one of its topic,
    /// stays as its newest if there is room. Returns false if the list is empty. `short`: why nothing older is there
    /// from here on.
    fn forget_oldest(&mut self, short: ShortHistory) -> bool {
        let (Some(mut entry), Some(topic)) = (self.entries.pop_front(), self.topics.pop_front())
        else {
            return false;
        };
        entry.copies.forget(&mut self.memory.beside);
        let number = entry.number;
        // The list begins after this message from now on.
        if let Some(since) = &mut self.since {
            let gone_us = entry.body.as_ref().and_then(time_of);
            *since = (gone_us.unwrap_or(since.0).max(since.0), short);
        }
        let is_kept = short == ShortHistory::Bytes
            && entry.body.is_some()
            && self.known_topics.has_only_newest(topic);
        let name = self.known_topics.topic(topic);
        if is_kept && self.newest_only.has_room(name, &entry) {
            self.newest_only.add(topic, name, entry);
            self.known_topics.keep_newest_only(topic, number);
        } else {
            // Also if the message was left out: from now on only the stream can say that it is too large.
            if self.known_topics.has_only_newest(topic) {
                self.note_newest_forgotten(topic);
            }
            self.release(&entry);
            self.known_topics.forget_message(topic, number);
        }
        self.forgotten = number;
        self.numbers.forgot(number);
        if self.entries.is_empty() {
            // New lists, which hold no memory.
            (self.entries, self.topics) = Default::default();
        }
        true
    }
}

impl History {
    /// Whether a message of a topic is kept that may be its newest.
    pub(super) fn has_messages(&self, topic: &TopicName) -> bool {
        let Some(index) = self.known_topics.index(topic) else {
            return false;
        };
        let newest_only = self.newest_only.get(index);
        // What is kept from before a loss may have a newer message after it.
        let is_there = match (self.lost_and_asked(), newest_only) {
            (None, _) => true,
            (Some(lost), Some(entry)) => !lost.is_after(entry),
            (Some(lost), None) => self.known_topics.newest(index) >= lost.number,
        };
        is_there && self.known_topics.has_messages(topic)
    }

    /// How many newest messages of topics were forgotten, also messages that were left out.
    pub(super) fn newest_forgotten_count(&self) -> u64 {
        self.newest_forgotten.count()
    }

    /// A number that each loss of messages changes.
    pub(super) fn newest_loss(&self) -> u64 {
        self.lost.map_or(0, |lost| lost.number)
    }

    /// The newest loss, if the stream is asked for newest messages. What is kept from before is nobody's newest message then:
    /// the stream may have newer ones, or have lost those that were read. Without anybody to ask, it is the best that is known.
    fn lost_and_asked(&self) -> Option<Loss> {
        self.lost.filter(|_| self.asks_for_newest)
    }

    /// Whether a message that these clients get as one of the newest may be outdated, because messages were lost after it.
    fn is_outdated(&self, entry: &KeptMessage, content: Content) -> bool {
        let is_lost_after = self.lost.is_some_and(|lost| lost.is_after(entry));
        is_lost_after && entry.body_for(content).is_some()
    }

    /// Counts the newest message of a topic as forgotten.
    fn note_newest_forgotten(&mut self, topic: TopicIndex) {
        let number = self.newest_forgotten.add(self.known_topics.topic(topic));
        self.known_topics.note_newest_forgotten(topic, number);
    }

    /// Whether the newest message of a topic that a name matches was forgotten since so many were forgotten
    /// ([`newest_forgotten_count`](Self::newest_forgotten_count)), and no newer message has come. Returns true also if that
    /// takes too long to find out.
    pub(super) fn has_forgotten(&self, wanted: &Wanted, count: u64) -> bool {
        if self.newest_forgotten.count() <= count {
            return false;
        }
        let Some(patterns) = &wanted.patterns else {
            return self.last_forgotten(&wanted.name) > count && !self.has_messages(&wanted.name);
        };
        let Some(mut topics) = self.newest_forgotten.after(count) else {
            return true;
        };
        let mut budget = MatchBudget::new(FORGOTTEN_STEPS_MAX);
        topics.any(|topic| {
            let matches = patterns.matches_within(topic.as_str(), &mut budget);
            matches.unwrap_or(true) && !self.has_messages(topic)
        })
    }

    /// The number of the last newest message of a topic that was forgotten. After a loss all were.
    fn last_forgotten(&self, topic: &TopicName) -> u64 {
        let forgotten = self.known_topics.newest_forgotten_of(topic);
        forgotten.max(self.newest_forgotten.at_loss())
    }

    /// Whether a message of the stream was read, or is older than what was read.
    pub(super) fn has_read(&self, id: StoredId) -> bool {
        self.numbers.has_read(id)
    }

    /// Keeps the newest message of a topic of which the history has no message, for a client of this address. It is
    /// older than the messages of the list, so it goes to [`NewestOnly`], without a number. `forgotten`: how many
    /// newest messages the history had forgotten when the stream was asked.
    ///
    /// # Errors
    /// The message is not kept.
    pub(super) fn keep_newest(
        &mut self,
        now: Now,
        position: Position,
        topic: &TopicName,
        body: &Body,
        client: ClientAddr,
        forgotten: u64,
    ) -> Result<(), NotKept> {
        // It is there already, or a newer one.
        if self.has_messages(topic) {
            return Ok(());
        }
        if self.last_forgotten(topic) > forgotten {
            return Err(NotKept::Forgotten);
        }
        if let Point::Stored(id) = position.point
            && !self.has_read(id)
        {
            return Err(NotKept::Unread(id));
        }
        let entry = KeptMessage {
            number: 0,
            kept_us: now.mono_us,
            position,
            body: Some(body.clone()),
            copies: Copies::default(),
        };
        if !self.newest_only.has_room_for(client, topic, &entry) {
            return Err(NotKept::NoRoom);
        }
        body.keep();
        let index = self
            .known_topics
            .add(topic, time_of(body).unwrap_or(now.unix_us));
        // One from before a loss.
        self.remove_newest_only(index);
        self.newest_only.add_read(client, index, topic, entry);
        self.forget_excess();
        Ok(())
    }

    /// Forgets a newest message that was read from the stream for an address without clients. Returns false if none was
    /// found.
    pub(super) fn forget_read_for_gone(
        &mut self,
        has_clients: impl Fn(ClientAddr) -> bool,
    ) -> bool {
        let Some(topic) = self.newest_only.read_for_gone(has_clients) else {
            return false;
        };
        self.forget_newest_only(topic);
        true
    }

    /// Forgets the newest message of a topic that stays.
    fn forget_newest_only(&mut self, topic: TopicIndex) {
        self.note_newest_forgotten(topic);
        self.remove_newest_only(topic);
    }

    /// Removes the message of a topic that stays, because a newer one has come, or it is forgotten.
    fn remove_newest_only(&mut self, topic: TopicIndex) {
        if let Some(mut entry) = self.newest_only.remove(topic) {
            entry.copies.forget(&mut self.memory.beside);
            self.release(&entry);
            self.known_topics.forget_message(topic, entry.number);
        }
    }

    /// Keeps the frame of a forgotten message no longer. Several messages in a row may share a frame, which is kept
    /// until the last of these messages is forgotten.
    fn release(&self, entry: &KeptMessage) {
        let next = self.entries.front();
        if let Some(body) = &entry.body
            && next.is_none_or(|next| !next.has(body))
        {
            body.release();
        }
    }
}

/// When a message arrived, or was stored in the stream, Unix microseconds; `None` for a message that the gateway has made
/// by itself.
fn time_of(body: &Body) -> Option<i64> {
    Some(body.received().unix_us).filter(|at| *at != 0)
}

#[cfg(test)]
mod tests;
