//! All kept messages of names, for clients that ask for them (`"last":"all"`): page by page, at the pace of the client's
//! reading, and then the live messages.
//!
//! A page comes from the history as soon as the history has everything after the client's position; the last page of
//! the history and the client's join are one call of the gateway, so nothing is missing between them and nothing comes
//! twice. What is older comes from the stream: a question for all messages, of which [`Retained`] keeps the clients,
//! the pages and the bytes. A message that the client has already is left out: of the stream by its position, however often
//! the stream is asked, of the history by the history's number ([`KeptCursor`]), whatever is lost meanwhile.
//!
//! What a client may lack is said at the end. The bus sees what the stream has removed after the place where a question
//! begins, so no question begins before what the client has got. What this instance has lost after the client's position
//! counts too ([`KeptCursor::read_all`]).
//!
//! A replay has an end: a stream that brings nothing new is asked so many times, one that is made anew twice, and what the
//! history has is walked over once.
//!
//! The names of an event stream come together, in the order of the feed, because a position applies to all of them. On
//! a WebSocket each name comes by itself, from a position of its own: its messages are between those of other names,
//! and requests for more names may come at any time.
//!
//! JetStream is asked for one name at a time. Redis reads the whole stream for any name, so there a question has a
//! *scope*: all names of all clients. Those of a client that have come equally far share one reading, and so do clients
//! that begin together ([`super::retained`]); a name that is asked for meanwhile waits for the next.
//!
//! What a client waits for is charged with its names: without room, it gets no kept messages, and goes on live.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::mem;
use std::ops::Bound;
use std::sync::Arc;

use super::client::ChannelsClient;
use super::messages::Answer;
use super::patterns::matcher;
use super::resume::AllSince;
use super::retained::{QuestionCursor, Retained, RetainedClient, ValuesState, WaitedName};
use super::{AllClientsLimits, ChannelsGateway};
use weirgate_core::{
    Content, CopyPosition, CopyRank, Core, Frame, KeptCursor, KeptHead, Lacks, NotRecovered,
    Outcome, PageCursor, Point, Position, Publication, RetainedCut, SessionKey, TopicName, Wanted,
};
use weirgate_wire::admission::{ClientAddr, Permit};
use weirgate_wire::auth::{NamePatterns, NameSyntax};

/// The pause of a client that is ahead of this instance, or for which there is no room now, microseconds.
const PAUSE_US: u64 = 20_000;
/// The most such pauses without a page between.
const PAUSES_MAX: u32 = 1_500;
/// The most questions in a row, each of a single page, after whose end the history lacks messages once more. A question of
/// several pages brings the client so much that another one may follow.
const SHORT_READS_MAX: u32 = 100;

/// A client gets no kept messages if they would leave less than one such part of the memory of names, an eighth, free
/// for its address.
const ROOM_OF_NAMES: u64 = 8;

/// All kept messages that a client gets.
pub(super) type Replays = BTreeMap<TopicName, Replay>;

/// The names of which a client gets all kept messages (`"last":"all"`), and how far a round over them is.
#[derive(Debug, Default)]
pub(super) struct ReplayProgress {
    /// By name; the replay of an event stream with several names has the empty name.
    pub(super) replays: Replays,
    /// The names of replays that still have their turn at the history in this round, the next one last.
    round: Vec<TopicName>,
    /// Whether the history has more for one of this round.
    has_more: bool,
}

/// Names of which a client gets all kept messages, and its position.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) names: Vec<TopicName>,
    /// Granted names without a resume: nothing is kept of them.
    pub(super) off: Vec<TopicName>,
    pub(super) since: Option<String>,
}

/// How far a client has got all kept messages of names.
#[derive(Debug)]
pub(super) struct Replay {
    /// In the order of the copies of a message.
    names: Vec<Name>,
    /// The name of its questions; empty for the whole stream.
    scope: TopicName,
    /// Whether these names are among those of the client's present question, or of one that it goes on with. One
    /// question is for all names of its scope that have come equally far.
    is_asked: bool,
    cursor: KeptCursor,
    /// The question has brought messages since its last page. Only with the end of a page the bus says what is missing.
    is_in_page: bool,
    stream: StreamReading,
    /// The history lacks messages that do not come from the stream either, so the next page may begin after them.
    is_cut_short: bool,
    /// The client got a page behind messages that the history had forgotten.
    has_skipped: bool,
    /// For [`PAUSE_US`], neither the history nor the bus is asked.
    is_paused: bool,
    /// The pauses since the last page.
    pauses: u32,
    /// The questions of a single page since one of several.
    short_reads: u32,
    /// The question before was refused, or had no answer in time.
    had_no_answer: bool,
    /// Whether the stream is read from its beginning because the position was of another epoch of it.
    has_begun_anew: bool,
    cut: ReplayCut,
    /// The permit for the memory of the names.
    memory: Permit,
}

/// How far the stream has been read for a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StreamReading {
    /// No question has ended yet, but for one without an answer; or the stream is read once more from its beginning,
    /// because the position was of another epoch.
    Unread,
    /// A question has ended: the client has what it brought, and the rest is in the history. If the history lacks some
    /// of the rest, the stream is asked again.
    Read,
    /// The stream is not asked again.
    Over,
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, Default)]
struct ReplayCut(Option<RetainedCut>);

impl ReplayCut {
    /// Notes a reason. The first one stays, but for [`RetainedCut::Epoch`]: with it no message is missing.
    fn note(&mut self, cut: RetainedCut) {
        let before = self.0.filter(|before| *before != RetainedCut::Epoch);
        self.0 = before.or(Some(cut));
    }

    /// What the client lacks of what should have come so far.
    fn lacks(self) -> Lacks {
        match self.0 {
            // It has all messages.
            None | Some(RetainedCut::Epoch) => Lacks::Nothing,
            Some(_) => Lacks::Earlier,
        }
    }
}

/// A name of which a client gets all kept messages.
#[derive(Debug)]
pub(super) struct Name {
    name: TopicName,
    /// `None`: the name is exact.
    patterns: Option<Arc<NamePatterns>>,
    /// The messages that the client has got.
    count: u64,
}

impl Name {
    fn new(syntax: NameSyntax, name: TopicName) -> Self {
        Self {
            patterns: matcher(syntax, name.as_str()).map(Arc::new),
            name,
            count: 0,
        }
    }

    fn memory_bytes(&self) -> u64 {
        let matcher = self.patterns.as_ref();
        let matcher = matcher.map_or(0, |matcher| matcher.memory_bytes() as u64);
        AllClientsLimits::REPLAYED_NAME_BYTES + matcher
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            name: self.name.clone(),
            patterns: self.patterns.clone(),
        }
    }

    fn pattern(&self) -> Option<&TopicName> {
        self.patterns.as_ref().map(|_| &self.name)
    }

    fn rank(&self) -> CopyRank {
        let pattern = self.pattern();
        pattern.map_or(CopyRank::LAST, |name| CopyRank::of_pattern(name.as_str()))
    }

    fn is_for(&self, subject: &str) -> bool {
        match &self.patterns {
            Some(patterns) => patterns.matches(subject),
            None => self.name.as_str() == subject,
        }
    }
}

/// The copies of a message that clients got so far.
#[derive(Debug, Default)]
struct MadeCopies(Vec<MadeCopy>);

#[derive(Debug)]
struct MadeCopy {
    pattern: Option<TopicName>,
    content: Content,
    position: Option<Position>,
    frame: Arc<Frame>,
}

impl MadeCopies {
    fn find_or_make(
        &mut self,
        core: &Core,
        value: &Publication,
        pattern: Option<&TopicName>,
        content: Content,
        position: Option<Position>,
    ) -> Arc<Frame> {
        let is_it = |copy: &&MadeCopy| {
            copy.pattern.as_ref() == pattern && (copy.content, copy.position) == (content, position)
        };
        if let Some(copy) = self.0.iter().find(is_it) {
            return Arc::clone(&copy.frame);
        }
        let frame = core.render(value, pattern, content, position);
        self.0.push(MadeCopy {
            pattern: pattern.cloned(),
            content,
            position,
            frame: Arc::clone(&frame),
        });
        frame
    }
}

/// How a replay goes on after a look at the history.
enum AfterLook {
    /// It waits: the history has no more now.
    Waits,
    /// It sends another page when the client has taken this one.
    Page,
    /// It looks at the history again: nothing was found so far.
    Look,
}

/// How a replay goes on for which the history has no page.
enum WithoutPage {
    /// It waits for the bus, which brings what the history lacks.
    Waits,
    /// It goes on at once, with what the history has.
    Again,
    /// It pauses for [`PAUSE_US`].
    Rests,
    /// It ends.
    Ends,
}

impl Replay {
    /// What the client lacks of what should have come so far: it is told at the end.
    fn lacks(&self) -> Lacks {
        match self.is_cut_short {
            true => Lacks::More,
            false => self.cut.lacks(),
        }
    }

    /// Decides how the replay goes on if the history has no page for it, and notes what the client will lack.
    fn go_on_without_page(&mut self, why: NotRecovered) -> WithoutPage {
        match why {
            // The stream says whether the position is one of its own.
            NotRecovered::Ahead if self.stream == StreamReading::Unread => WithoutPage::Waits,
            NotRecovered::Ahead | NotRecovered::Large if self.pauses >= PAUSES_MAX => {
                self.cut.note(RetainedCut::Limit);
                WithoutPage::Ends
            }
            NotRecovered::Ahead | NotRecovered::Large => {
                self.is_paused = true;
                self.pauses += 1;
                WithoutPage::Rests
            }
            NotRecovered::Off => {
                self.cut.note(RetainedCut::Off);
                WithoutPage::Ends
            }
            // The stream has what the history lacks.
            _ if self.stream != StreamReading::Over => WithoutPage::Waits,
            _ if !self.is_cut_short => {
                self.is_cut_short = true;
                self.cut.note(RetainedCut::Limit);
                WithoutPage::Again
            }
            _ => WithoutPage::Ends,
        }
    }

    /// A replay of all kept messages of these names, or of those after `since`.
    fn new(
        syntax: NameSyntax,
        mut names: Vec<Name>,
        since: Option<CopyPosition>,
        memory: Permit,
    ) -> Self {
        names.sort_by_key(Name::rank);
        let scope = match (&names[..], syntax) {
            ([one], NameSyntax::Nats) => one.name.clone(),
            _ => TopicName::default(),
        };
        Self {
            names,
            scope,
            is_asked: false,
            is_in_page: false,
            cursor: KeptCursor::after(since),
            stream: StreamReading::Unread,
            is_cut_short: false,
            has_skipped: false,
            is_paused: false,
            pauses: 0,
            short_reads: 0,
            had_no_answer: false,
            has_begun_anew: false,
            cut: ReplayCut::default(),
            memory,
        }
    }

    /// The name among the replays of the client; for several names an empty one, which no client can hold.
    fn key(&self) -> TopicName {
        match &self.names[..] {
            [one] => one.name.clone(),
            _ => TopicName::default(),
        }
    }

    /// Whether the client asked for this name or pattern.
    fn has(&self, name: &TopicName) -> bool {
        self.names.iter().any(|one| one.name == *name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &TopicName> {
        self.names.iter().map(|one| &one.name)
    }

    pub(super) fn has_patterns(&self) -> bool {
        self.names.iter().any(|one| one.patterns.is_some())
    }

    /// Whether messages of this name are for the client.
    pub(super) fn is_for(&self, subject: &str) -> bool {
        self.names.iter().any(|name| name.is_for(subject))
    }

    /// Whether the bus may be asked for more now.
    pub(super) fn asks_bus(&self) -> bool {
        !self.is_paused && self.stream != StreamReading::Over
    }

    /// From where the stream is read: after the message that the client has, which comes once more if the client may lack a
    /// copy of it; from its beginning if it has none. A question that began before that message would notice neither
    /// that the stream was made anew nor what it has removed since.
    fn begins(&self) -> PageCursor {
        let stored = self.cursor.stored();
        let lacks_copy = |copy| self.names.last().is_some_and(|name| name.rank() > copy);
        PageCursor {
            repeats: stored.is_some_and(|(_, copy)| lacks_copy(copy)),
            ..PageCursor::after(stored.map(|(id, _)| id))
        }
    }

    /// Handles the end of a question: the client has all messages that this instance had read when it was asked. A
    /// question that is refused, perhaps only because the answer was late, is asked again once, from where the bus
    /// knows that nothing was missing. Returns whether it is asked again. `is_short`: the question had no page before
    /// its end.
    fn question_ended(&mut self, cut: Option<RetainedCut>, is_short: bool) -> bool {
        self.is_in_page = false;
        let has_no_answer = cut == Some(RetainedCut::Refused);
        let had_no_answer = mem::replace(&mut self.had_no_answer, has_no_answer);
        if has_no_answer && !had_no_answer {
            return true;
        }
        self.short_reads = if is_short { self.short_reads + 1 } else { 0 };
        if self.short_reads >= SHORT_READS_MAX {
            self.stream = StreamReading::Over;
        }
        match cut {
            Some(RetainedCut::Epoch) => {
                self.read_other_epoch();
                return false;
            }
            // The stream gives no more, but the history may have some.
            Some(
                RetainedCut::Refused
                | RetainedCut::Unreadable
                | RetainedCut::Unnamed
                | RetainedCut::Off,
            ) => self.stream = StreamReading::Over,
            // `read_all` moves the cursor, and returns whether messages were lost after the position of the question.
            _ if self.cursor.read_all() => self.cut.note(RetainedCut::Window),
            _ => {}
        }
        self.stream = self.stream.max(StreamReading::Read);
        if let Some(cut) = cut {
            self.cut.note(cut);
        }
        false
    }

    /// Handles a position of another epoch of the stream: it says nothing of this stream, which is read from its beginning
    /// on. But only once, or a stream that is made anew all the time, and a reading that is wrong about it, would have no
    /// end.
    fn read_other_epoch(&mut self) {
        // What the earlier epoch had is gone, and only what this instance has read of it is known.
        let has_all = !self.has_begun_anew && self.cursor.has_all_before_loss();
        self.cut.note(match has_all {
            true => RetainedCut::Epoch,
            false => RetainedCut::Window,
        });
        self.cursor.read_anew();
        if mem::replace(&mut self.has_begun_anew, true) {
            self.cursor.read_all();
            self.stream = StreamReading::Over;
        }
        if self.stream != StreamReading::Over {
            self.stream = StreamReading::Unread;
        }
    }
}

/// The replays whose questions have this name.
pub(super) fn names_in(scope: &TopicName) -> (Bound<&str>, Bound<&str>) {
    match scope.as_str() {
        "" => (Bound::Unbounded, Bound::Unbounded),
        name => (Bound::Included(name), Bound::Included(name)),
    }
}

impl RetainedClient {
    /// The replays that a question with this name is for, as far as the client has it or goes on with it.
    pub(super) fn read_in(&self, scope: &TopicName) -> impl Iterator<Item = (&TopicName, &Replay)> {
        let replays = self.replay.replays.range::<str, _>(names_in(scope));
        replays.filter(|(_, replay)| replay.is_asked)
    }

    fn read_in_mut(&mut self, scope: &TopicName) -> impl Iterator<Item = &mut Replay> {
        let replays = self.replay.replays.range_mut::<str, _>(names_in(scope));
        let replays = replays.map(|(_, replay)| replay);
        replays.filter(|replay| replay.is_asked)
    }

    /// Chooses what the next question is for: the same as the one before that has not come to its end; or names of
    /// which the client has come equally far. Returns from where another one reads; `None`: the one before goes on, or
    /// there is nothing to ask for.
    pub(super) fn begin_reading(
        &mut self,
        scope: &TopicName,
        head: KeptHead,
    ) -> Option<PageCursor> {
        let mut begins: Option<PageCursor> = None;
        let is_same = self.read_in(scope).next().is_some();
        if !is_same {
            let replays = self.replay.replays.range_mut::<str, _>(names_in(scope));
            for (_, replay) in replays.filter(|(_, replay)| replay.asks_bus()) {
                let own = replay.begins();
                let begins = begins.get_or_insert_with(|| own.clone());
                replay.is_asked = begins.after == own.after;
                begins.repeats |= replay.is_asked && own.repeats;
            }
        }
        for replay in self.read_in_mut(scope) {
            replay.cursor.ask(head, is_same);
        }
        begins
    }

    /// This instance has lost messages of the stream before the question of these replays was asked.
    fn note_loss_before_asked(&mut self, scope: &TopicName, head: KeptHead) {
        for replay in self.read_in_mut(scope) {
            replay.cursor.ask(head, true);
        }
    }

    /// A page of a question has ended.
    pub(super) fn end_page_of_replays(&mut self, scope: &TopicName) {
        for replay in self.read_in_mut(scope) {
            replay.is_in_page = false;
        }
    }

    /// Notes why messages are missing, in the replays that the question with this name is for; with `subject`, only in those
    /// of that subject.
    pub(super) fn note_cut_of_replays(
        &mut self,
        scope: &TopicName,
        cut: RetainedCut,
        subject: Option<&str>,
    ) {
        let is_for = |replay: &&mut Replay| subject.is_none_or(|subject| replay.is_for(subject));
        for replay in self.read_in_mut(scope).filter(is_for) {
            replay.cut.note(cut);
        }
    }
}

/// Clients that pause before they get further kept messages.
#[derive(Debug, Default)]
pub(super) struct PausedClients {
    clients: Vec<SessionKey>,
    /// When all of them go on, microseconds.
    until_us: u64,
}

impl PausedClients {
    /// Pauses a client for a moment.
    fn add(&mut self, key: SessionKey, now_us: u64) {
        if self.clients.is_empty() {
            self.until_us = now_us + PAUSE_US;
        }
        // A client may pause with thousands of names, one after the other.
        if self.clients.last() != Some(&key) {
            self.clients.push(key);
        }
    }

    /// When the clients go on; `None` without a client.
    pub(super) fn due_us(&self) -> Option<u64> {
        Some(self.until_us).filter(|_| !self.clients.is_empty())
    }

    /// Takes the clients out if their pause is over.
    fn take_due(&mut self, now_us: u64) -> Vec<SessionKey> {
        match now_us < self.until_us {
            true => Vec::new(),
            false => mem::take(&mut self.clients),
        }
    }
}

impl Retained {
    /// The bus gives all messages of the stream that is the kept feed.
    pub(super) fn read_pages(&mut self, bytes_max: usize) {
        self.has_pages = true;
        self.set_bytes_max(bytes_max);
    }

    /// Begins to send all kept messages to a client.
    fn replay(&mut self, key: SessionKey, replay: Replay) {
        let newest_live = self.newest_live();
        let waiter = self.clients.get_or_insert_default(key);
        // No live message ends the wait, so the client is not among those of `waiting`.
        let waits = waiter.names.entry(replay.scope.clone());
        waits.or_insert_with(|| WaitedName {
            cursor: self.questions.cursor_from(PageCursor::default()),
            // No answer has to be sent first.
            ..WaitedName::new(None, newest_live)
        });
        let before = waiter.replay.replays.insert(replay.key(), replay);
        self.replaying += usize::from(before.is_none());
        self.wake(key);
    }

    /// Ends a replay of a client.
    fn remove_replay(&mut self, name: &TopicName, key: SessionKey) -> Option<Replay> {
        let waiter = self.clients.get_mut(&key)?;
        let replay = waiter.replay.replays.remove(name)?;
        self.replaying -= 1;
        let mut others = waiter
            .replay
            .replays
            .range::<str, _>(names_in(&replay.scope));
        match others.next() {
            Some(_) => self.leave_if_unread(&replay.scope, key),
            None => self.remove(&replay.scope, key),
        }
        Some(replay)
    }

    /// Takes a client out of a question that is for none of its replays any more.
    fn leave_if_unread(&mut self, scope: &TopicName, key: SessionKey) {
        let Some(waiter) = self.clients.get(&key) else {
            return;
        };
        let wanted = waiter.names.get(scope);
        let is_in = wanted.is_some_and(|wanted| !matches!(wanted.state, ValuesState::Waits(_)));
        if is_in && waiter.read_in(scope).next().is_none() {
            self.leave_question(scope, key);
        }
    }

    /// Whether a client is still getting all kept messages of a name.
    pub(super) fn is_replayed(&self, name: &TopicName, key: SessionKey) -> bool {
        self.replay_with(name, key).is_some()
    }

    /// Where a client is still getting all kept messages of a name: by itself, or with the other names of an event stream. A
    /// client may get those of very many names, so they are not walked over.
    fn replay_with(&self, name: &TopicName, key: SessionKey) -> Option<TopicName> {
        let replays = &self.clients.get(&key)?.replay.replays;
        let has = |key: &TopicName| replays.get(key).is_some_and(|replay| replay.has(name));
        [name.clone(), TopicName::default()].into_iter().find(has)
    }

    /// Begins a round over the names of a client, unless one is under way.
    fn begin_round(&mut self, key: SessionKey) {
        if let Some(waiter) = self.clients.get_mut(&key)
            && waiter.replay.round.is_empty()
        {
            waiter.replay.round = waiter.replay.replays.keys().rev().cloned().collect();
            waiter.replay.has_more = false;
        }
    }

    fn next_in_round(&mut self, key: SessionKey) -> Option<TopicName> {
        self.clients.get_mut(&key)?.replay.round.pop()
    }

    /// Gives a client its turn as [`Self::client_up`] does, but also while the bus is away: the history may have the
    /// rest.
    fn wake(&mut self, key: SessionKey) {
        if let Some(waiter) = self.clients.get_mut(&key)
            && !waiter.is_busy
        {
            waiter.is_busy = true;
            self.undrained.push(key);
        }
    }

    /// Ends the pause of clients.
    pub(super) fn wake_paused(&mut self, now_us: u64) {
        for key in self.paused.take_due(now_us) {
            if let Some(waiter) = self.clients.get_mut(&key) {
                waiter
                    .replay
                    .replays
                    .values_mut()
                    .for_each(|replay| replay.is_paused = false);
            }
            self.wake(key);
        }
    }

    /// This instance has lost messages of the stream. What the questions that still wait for their turn bring comes behind
    /// that, whatever stream it is by now.
    pub(super) fn stream_lost(&mut self, head: KeptHead) {
        for (scope, members) in self.questions.not_asked() {
            for key in members {
                if let Some(waiter) = self.clients.get_mut(key) {
                    waiter.note_loss_before_asked(scope, head);
                }
            }
        }
    }

    /// The name of a question for all messages.
    pub(super) fn scope_of(&self, number: u64) -> Option<TopicName> {
        self.questions.scope_of(number).cloned()
    }

    /// Handles the end of a client's question for all messages: the rest is in the history. `cursor`: up to where the
    /// question has read; `had_page`: whether a page had ended before.
    pub(super) fn end_question_of_replays(
        &mut self,
        scope: &TopicName,
        key: SessionKey,
        cut: Option<RetainedCut>,
        cursor: QuestionCursor,
        had_page: bool,
    ) {
        if let Some(waiter) = self.clients.get_mut(&key) {
            for replay in waiter.read_in_mut(scope) {
                replay.is_asked = replay.question_ended(cut, !had_page);
            }
        }
        self.wait_again(scope, key, Some(cursor));
    }

    /// Forgets a name of which a client gets all kept messages. Returns false if there is none.
    pub(super) fn forget_replayed(&mut self, name: &TopicName, key: SessionKey) -> bool {
        let Some(replay_key) = self.replay_with(name, key) else {
            return false;
        };
        let client = self.clients.get_mut(&key);
        if let Some(replay) = client.and_then(|client| client.replay.replays.get_mut(&replay_key)) {
            let removed = replay.names.extract_if(.., |one| one.name == *name);
            let bytes = removed.map(|one| one.memory_bytes()).sum();
            // 0: no other address holds a part of this memory.
            replay.memory.give_back(bytes, 0);
            if replay.names.is_empty() {
                self.remove_replay(&replay_key, key);
            }
        }
        true
    }
}

impl ChannelsGateway {
    /// Checks whether the position of a request, if it has one, may be one of the kept feed.
    ///
    /// # Errors
    /// It is no position, or one of another feed, or perhaps one from before a loss of the stream.
    pub(super) fn check_since(&self, core: &Core, since: &AllSince) -> Outcome {
        let feed_hash = core.newest_read().map(|position| position.feed_hash);
        let since = match since {
            AllSince::At(since) => since,
            AllSince::Absent => return Ok(()),
            AllSince::Invalid(why) => return Err(*why),
        };
        let since = CopyPosition::parse(since).ok_or(NotRecovered::Bad)?;
        let position = since.position;
        match feed_hash.is_none_or(|hash| hash == position.feed_hash) {
            true if core.may_be_before_loss(position) => Err(NotRecovered::Gap),
            true => Ok(()),
            false => Err(NotRecovered::Bad),
        }
    }

    /// Begins to send all kept messages of `replayed.names` to a client. It is told at once that nothing is kept of
    /// `replayed.off`, unless it still gets those from an earlier request.
    pub(super) fn begin_replays(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        replayed: Replayed,
    ) {
        for name in replayed.off {
            // The end follows what an earlier request brings.
            if self.retained.is_replayed(&name, key) {
                continue;
            }
            let cut = Some(RetainedCut::Off);
            // No messages, and so no position.
            let frame = Answer::last(core, &name, 0, cut, None);
            core.send(key, &frame);
        }
        let since = replayed.since.as_deref().and_then(CopyPosition::parse);
        let names = replayed.names;
        let together = match client.is_stream() {
            true => vec![names],
            false => names.into_iter().map(|name| vec![name]).collect(),
        };
        let (syntax, address) = (self.syntax(), client.held.address());
        for names in together.into_iter().filter(|names| !names.is_empty()) {
            let names = names.into_iter().map(|name| Name::new(syntax, name));
            let names: Vec<Name> = names.collect();
            match self.charge_replay(address, &names) {
                Some(memory) => {
                    let replay = Replay::new(syntax, names, since, memory);
                    self.retained.replay(key, replay);
                }
                None => {
                    self.stats.retained_given_up.add(names.len() as u64);
                    self.go_live(core, key, client, &names, Some(RetainedCut::Limit));
                }
            }
        }
    }

    /// Charges a replay of these names. The names themselves have more room: without room for a replay, a client can
    /// still get live messages.
    fn charge_replay(&self, address: ClientAddr, names: &[Name]) -> Option<Permit> {
        let name_bytes = self.names.bytes();
        let bytes: u64 = names.iter().map(Name::memory_bytes).sum();
        let has_room = name_bytes.room_for(address) >= bytes + name_bytes.max() / ROOM_OF_NAMES;
        has_room.then(|| name_bytes.grant(address, bytes))?
    }

    /// Sends a client the next page that the history has: of one name, and then of the next, in rounds. Returns true if
    /// the client has to take a page, or the round goes on later; false if the client is ready for what the bus brings.
    pub(super) fn replay_kept(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
    ) -> bool {
        self.retained.begin_round(key);
        while let Some(name) = self.retained.next_in_round(key) {
            let after = self.replay_next(core, key, client, &name);
            let Some(waiter) = self.retained.clients.get_mut(&key) else {
                return false;
            };
            match after {
                AfterLook::Waits => {}
                AfterLook::Page => {
                    waiter.replay.has_more = true;
                    // The round goes on when the hub reports that the client has taken the page.
                    self.retained.undrained.push(key);
                    return true;
                }
                AfterLook::Look => waiter.replay.round.push(name),
            }
            // Each look at the history takes time, also if it finds nothing.
            if !waiter.replay.round.is_empty() && !core.has_time() {
                // Not busy, so that `wake_paused` gives it a turn.
                waiter.is_busy = false;
                self.retained.paused.add(key, core.now().mono_us);
                return true;
            }
        }
        let waiter = self.retained.clients.get_mut(&key);
        let has_more = waiter.is_some_and(|waiter| mem::take(&mut waiter.replay.has_more));
        if has_more {
            self.retained.undrained.push(key);
        }
        has_more
    }

    /// Sends the next page of a replay, if the history has it.
    fn replay_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: &TopicName,
    ) -> AfterLook {
        let waiter = self.retained.clients.get_mut(&key);
        let Some((replay, waited)) = waiter.and_then(|waiter| {
            let replay = waiter.replay.replays.get_mut(name)?;
            let waited = waiter.names.get(&replay.scope)?;
            Some((replay, waited))
        }) else {
            return AfterLook::Waits;
        };
        let is_asked = replay.is_asked && matches!(waited.state, ValuesState::Asked(_));
        // A question that ended in a page is asked again: what the bus knew of this page is gone with it.
        let has_cut_page = replay.is_in_page && replay.stream != StreamReading::Over;
        let is_asked = is_asked || has_cut_page;
        // A client without a position first gets what the stream has from before the history.
        let is_unread = replay.stream == StreamReading::Unread;
        let may_be_there = replay.cursor.position().is_some() || !is_unread;
        // Once the history is filled, the bus is there again, and wakes the client.
        if is_asked || replay.is_paused || !may_be_there || core.is_filling() {
            return AfterLook::Waits;
        }
        let wanted: Vec<Wanted> = replay.names.iter().map(Name::wanted).collect();
        let page = core.kept_page(key, &replay.cursor, &wanted, replay.lacks());
        match page {
            Ok(page) => {
                replay.pauses = 0;
                if page.was_lost_meanwhile {
                    replay.cut.note(RetainedCut::Window);
                }
                replay.cursor = page.reached.unwrap_or(replay.cursor);
                // A second time, the client is slower than the feed: it would never come to the end.
                let is_left_behind =
                    page.has_skipped && mem::replace(&mut replay.has_skipped, true);
                for (name, count) in replay.names.iter_mut().zip(page.counts) {
                    name.count += count;
                }
                replay.is_asked = false;
                let scope = replay.scope.clone();
                let is_empty = page.messages.is_empty();
                core.send_missed(key, page.messages);
                self.retained.leave_if_unread(&scope, key);
                match page.is_last || is_left_behind {
                    true => self.end_replay(core, key, client, name),
                    false if is_empty => return AfterLook::Look,
                    false => return AfterLook::Page,
                }
            }
            Err(why) => match replay.go_on_without_page(why) {
                WithoutPage::Waits => {}
                WithoutPage::Again => return AfterLook::Look,
                WithoutPage::Rests => self.retained.paused.add(key, core.now().mono_us),
                WithoutPage::Ends => self.end_replay(core, key, client, name),
            },
        }
        AfterLook::Waits
    }

    /// Ends a replay: the client has all messages, joins the names in this call, and is told the count.
    fn end_replay(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: &TopicName,
    ) {
        if let Some(replay) = self.retained.remove_replay(name, key) {
            self.go_live(core, key, client, &replay.names, replay.cut.0);
            self.names.update_stats(&self.stats, core.memberships());
        }
    }

    /// Makes a client a member of names of which it gets no more kept messages, and tells it how many it has got.
    fn go_live(
        &self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        names: &[Name],
        cut: Option<RetainedCut>,
    ) {
        for name in names {
            self.join(core, key, client, &name.name);
        }
        let position = core.position();
        for name in names {
            let frame = Answer::last(core, &name.name, name.count, cut, position);
            core.send_end(key, &name.name, &frame);
        }
    }

    /// Sends a message of the stream to the clients of a question for all messages.
    pub(super) fn replay_stored(
        &mut self,
        core: &mut Core,
        scope: &TopicName,
        value: &Publication,
    ) {
        let number = value.request.unwrap_or_default();
        let subject = value.topic.as_str();
        let Some(position) = value.place.position() else {
            return;
        };
        let Point::Stored(id) = position.point else {
            return;
        };
        let head = core.kept_head();
        let receivers = self.retained.questions.receivers(number, subject);
        self.retained.questions.brought(number, id);
        let mut copies = MadeCopies::default();
        for (key, replay_key) in receivers {
            let content = core.content(key);
            let waiter = self.retained.clients.get_mut(&key);
            let Some(waiter) = waiter.filter(|waiter| waiter.is_asked(scope, number)) else {
                continue;
            };
            // Another replay of the name may have begun since the question.
            let Entry::Occupied(replay) = waiter.replay.replays.entry(replay_key) else {
                continue;
            };
            if !replay.get().is_asked {
                continue;
            }
            // Taken out, because the waiter counts the bytes that are sent to it.
            let (replay_key, mut replay) = replay.remove_entry();
            // The last message of the stream that the client has got, and the last copy of it.
            let has = replay.cursor.stored();
            let names = replay.names.iter_mut();
            for name in names.filter(|one| one.is_for(subject)) {
                let is_new = has.is_none_or(|has| has < (id, name.rank()));
                if is_new && value.body.is_too_large_for(content) {
                    replay.cut.note(RetainedCut::Large);
                }
                if !is_new || !value.body.is_for(content) {
                    continue;
                }
                let lacks = replay.cut.lacks() != Lacks::Nothing || replay.cursor.may_lack(head);
                let given = Some(position).filter(|_| !lacks);
                let frame = copies.find_or_make(core, value, name.pattern(), content, given);
                waiter.take_room_in_page(frame.queue_bytes());
                core.replay(key, &value.topic, &frame);
                name.count += 1;
            }
            if has.is_none_or(|has| has < (id, CopyRank::LAST)) {
                replay.cursor.read(position);
                replay.is_in_page = true;
            }
            waiter.replay.replays.insert(replay_key, replay);
        }
    }
}
