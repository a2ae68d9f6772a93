//! All messages of names in a stream, for clients that ask for them, a page at a time: on a connection of their own, because
//! that of the source waits at the server for the next entry. The connection is made for the first question. A page has only
//! messages of the names that clients wait for; the whole stream is read for them.
//!
//! The server of this connection may be behind that of the source: a replica, or a master that was replaced. So a question
//! ends only where the source had read to before, or further: otherwise the entries between would be missing in the answer,
//! and clients get only later ones from the source. A server that is behind is asked again, on another connection.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use super::entry::{StreamEntry, entries, id_text, message};
use super::prints::EntryPrints;
use super::range::RangeSize;
use super::read_limits;
use super::state::{STATE, StreamState};
use crate::kept::{Progress, SourceProgress};
use crate::redis::connection::Connection;
use crate::redis::error::{RedisError, Stop, is_of_user_or_key, shown_trimmed};
use crate::redis::resp::{ReadLimits, RespReader, Value};
use crate::redis::servers::{RedisServers, waiter};
use crate::redis::settings::RedisEndpoint;
use crate::requests::{self, BusInterest, Names, PageRequest, Question};
use crate::socket::{Buffered, Waiter};
use weirgate_core::{
    BusEvent, BusMessage, PageCursor, Place, Position, RetainedCut, StoredId, TopicName,
};
use weirgate_runtime::{BusStatus, LoopGone, SourceLink, detached};
use weirgate_wire::auth::{NamePatterns, NameSyntax};
use weirgate_wire::base::Now;

/// The most questions that are read by turns; the others wait. Those of clients that still take a page do not count: a
/// client that stops reading must not keep others waiting.
const OPEN_MAX: usize = 64;
/// The bytes and the messages of a page. The last answer may bring more.
const PAGE_BYTES: usize = 512 * 1024;
const PAGE_VALUES: usize = 2_048;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(250);
/// A server may be behind for this long; then a question ends without the rest.
const BEHIND_MAX: Duration = Duration::from_secs(3);
/// Without a question the thread looks after this time whether the loop has ended.
const IDLE: Duration = Duration::from_secs(1);

/// Answers questions for all messages of names in a stream.
pub(super) struct RedisStreamPages {
    servers: RedisServers,
    status: Arc<BusStatus>,
    waiter: Waiter,
    names: Names,
    key: String,
    progress: SourceProgress,
    prints: EntryPrints,
    open: VecDeque<QuestionReading>,
    /// The connection between two looks at the requests.
    parts: Option<Parts>,
    /// When it was made, and the number of connections that the source had then.
    connected: (Instant, u64),
}

/// A connection without its waiter, and the size of its answers.
type Parts = (Buffered, RespReader, RedisEndpoint, SocketAddr, RangeSize);

/// A question, and how far it is read.
struct QuestionReading {
    question: Question,
    sought: Sought,
    /// The last entry that was read, as of [`PageCursor`]: its id, its hash if it was read here, and whether it is handed
    /// over once more.
    after: Option<StoredId>,
    hash: Option<u64>,
    repeats: bool,
    cut: Option<RetainedCut>,
    /// What was sent of this page.
    values: usize,
    bytes: usize,
    /// Clients take a page.
    is_paused: bool,
    /// Set while the server is behind.
    behind: Option<Behind>,
}

/// A server that is behind the source.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// What the source had read when this was found out, which the answer has to bring.
    reached: Option<StoredId>,
    since: Instant,
    /// When the server is asked again.
    until: Instant,
}

/// The end of an answer, whose entries were handed over as they came, and what was known when they were asked for.
struct Answered {
    end: AnswerEnd,
    /// How far the source had come before.
    progress: Progress,
    /// The state of the stream before, if it was asked for.
    state: Option<StreamState>,
}

/// How an answer with entries ended.
enum AnswerEnd {
    /// All entries have come.
    Whole(Taken),
    /// The words of the server.
    Error(String),
    /// An entry was not one.
    Unreadable,
    /// The last entry that was read is another one by now: the stream was made anew.
    OtherEpoch,
    /// The loop has ended.
    LoopGone,
}

/// The entries of an answer.
#[derive(Clone, Copy, Default)]
struct Taken {
    entries: usize,
    newest: Option<StoredId>,
    /// There may be more: as many came as were asked for.
    may_follow: bool,
}

/// The names that the clients of a question wait for. A stream is read whole for any name, so a question is for many.
struct Sought {
    exact: HashSet<TopicName, RandomState>,
    patterns: Option<NamePatterns>,
}

impl Sought {
    /// Splits the names into exact ones and patterns. A pattern that weirgate cannot match as Redis does counts as an
    /// exact name.
    fn new(names: &[TopicName]) -> Self {
        let syntax = NameSyntax::Redis;
        let is_pattern = |name: &&TopicName| {
            let name = name.as_str();
            syntax.is_pattern(name) && syntax.can_match(name)
        };
        let (patterns, exact): (Vec<_>, Vec<_>) = names.iter().partition(is_pattern);
        let patterns: Vec<String> = patterns.into_iter().cloned().map(String::from).collect();
        Self {
            exact: exact.into_iter().cloned().collect(),
            patterns: (!patterns.is_empty())
                .then(|| NamePatterns::new(syntax, &patterns))
                .and_then(Result::ok),
        }
    }

    fn has(&self, channel: &str) -> bool {
        let matches = |patterns: &NamePatterns| patterns.matches(channel);
        self.exact.contains(channel) || self.patterns.as_ref().is_some_and(matches)
    }
}

impl QuestionReading {
    fn new(question: Question) -> Self {
        Self {
            sought: Sought::new(&question.names),
            after: question.after.after,
            hash: question.after.hash,
            repeats: question.after.repeats,
            question,
            cut: None,
            values: 0,
            bytes: 0,
            is_paused: false,
            behind: None,
        }
    }

    /// The entry that an answer has to reach before the question may end, if the source has read up to `progress`: clients
    /// get only later entries from the source. It is never before the last entry that was read, with which each answer
    /// begins. `None`: any answer may end the question.
    fn needed(&self, progress: Progress) -> Option<StoredId> {
        let reached = match self.behind {
            // What the source reads meanwhile is no part of the question. If the source goes back, it is another stream.
            Some(behind) => behind.reached.min(progress.reached),
            None => progress.reached,
        };
        reached.max(self.after)
    }

    fn is_full(&self) -> bool {
        self.bytes >= PAGE_BYTES || self.values >= PAGE_VALUES
    }

    /// Returns the event that ends a page of the question. `is_open` is false if the question ends with this page, and
    /// another one may go on from the cursor.
    fn page(&self, is_open: bool) -> BusEvent {
        BusEvent::RetainedPage {
            number: self.question.number,
            cursor: Arc::new(PageCursor {
                after: self.after,
                hash: self.hash,
                repeats: self.repeats,
                cut: self.cut,
                ..PageCursor::default()
            }),
            is_open,
        }
    }

    fn end(self, cut: Option<RetainedCut>) -> BusEvent {
        BusEvent::RetainedEnd {
            subscription: self.question.subscription,
            number: self.question.number,
            cut: cut.or(self.cut),
        }
    }

    /// The end of a question whose last entry is of another epoch of the stream. What is missing already stays the reason.
    fn end_of_epoch(self) -> BusEvent {
        let cut = self.cut.or(Some(RetainedCut::Epoch));
        self.end(cut)
    }
}

impl RedisStreamPages {
    /// Makes the pages of the stream at `key`, and the handle for questions. Does not connect.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(super) fn new(
        servers: RedisServers,
        key: &str,
        status: Arc<BusStatus>,
        progress: SourceProgress,
    ) -> Result<(Self, BusInterest), RedisError> {
        let (waiter, wake) = waiter("the pages of a Redis stream")?;
        let (handle, names) = requests::interest(wake);
        let pages = Self {
            servers,
            status,
            waiter,
            names,
            key: key.to_owned(),
            progress,
            prints: EntryPrints::default(),
            open: VecDeque::new(),
            parts: None,
            // No connection yet; the first connection of the source has the number 1.
            connected: (Instant::now(), 0),
        };
        Ok((pages, handle))
    }

    /// Starts the thread of the pages.
    pub(super) fn start(self, link: SourceLink) {
        if let Err(error) = detached("pages", move || self.run(&link)) {
            tracing::error!(%error, "no thread for the pages of the stream: nobody gets all messages");
        }
    }

    fn run(mut self, link: &SourceLink) {
        while !link.is_over() && self.turn(link).is_ok() {}
    }

    /// Takes the requests, and reads for the next question. Waits if there is none.
    fn turn(&mut self, link: &SourceLink) -> Result<(), LoopGone> {
        self.take_requests();
        match self.next_reading() {
            Some(reading) => self.read_for(reading, link),
            None => {
                self.wait(self.idle_time());
                Ok(())
            }
        }
    }

    /// Takes the requests about open questions, then new questions until [`OPEN_MAX`] are read. A question whose client
    /// still takes a page does not count.
    fn take_requests(&mut self) {
        // Names need no subscription here: the stream has all of them.
        self.names.take_all();
        while let Some((number, request)) = self.names.next_page_request() {
            self.handle_page_request(number, request);
        }
        let paused = self.open.iter().filter(|reading| reading.is_paused).count();
        // `true`: there is room for a question that has to read, and all questions here have to.
        while self.open.len() - paused < OPEN_MAX
            && let Some(question) = self.names.next_question(|| true)
        {
            self.open.push_back(QuestionReading::new(question));
        }
        let asked = self.open.len() - paused;
        self.names.show_asked_questions(asked, paused);
    }

    /// Takes the question whose turn it is from the list.
    fn next_reading(&mut self) -> Option<QuestionReading> {
        let now = Instant::now();
        let is_due = |reading: &QuestionReading| {
            let waits = reading.behind.is_some_and(|behind| behind.until > now);
            !reading.is_paused && !waits
        };
        let at = self.open.iter().position(is_due)?;
        self.open.remove(at)
    }

    /// How long the thread may wait for a request.
    fn idle_time(&self) -> Duration {
        let asked = self.open.iter().filter(|reading| !reading.is_paused);
        let until = asked
            .filter_map(|reading| reading.behind)
            .map(|behind| behind.until);
        let first = until
            .min()
            .map(|until| until.saturating_duration_since(Instant::now()));
        first.map_or(IDLE, |first| first.min(IDLE))
    }

    /// Asks for entries for a question, and handles the answer.
    fn read_for(
        &mut self,
        mut reading: QuestionReading,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        let answer = match self.ask(&mut reading, link) {
            Ok(answer) => answer,
            Err(error) => return self.fail(&reading, &error.to_string(), link),
        };
        match answer.end {
            AnswerEnd::Whole(taken) => self.answered(reading, &answer, taken, link),
            AnswerEnd::Error(words) if is_of_user_or_key(&words) => {
                self.refuse(reading, &shown_trimmed(&words), link)
            }
            AnswerEnd::Error(words) => self.fail(&reading, &words, link),
            AnswerEnd::Unreadable => self.unreadable(reading, link),
            AnswerEnd::OtherEpoch => link.send(reading.end_of_epoch()),
            AnswerEnd::LoopGone => Err(LoopGone),
        }
    }

    /// Ends a question that the server does not answer.
    fn refuse(
        &mut self,
        reading: QuestionReading,
        reason: &str,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        if reading.cut.is_some() {
            // An end has one reason: what is missing so far is said first, and the next question is refused as this one.
            return link.send(reading.page(false));
        }
        self.status.count_retained_refused();
        if let Some(lines_left_out) = self.names.lines.line(link.now()) {
            tracing::warn!(
                key = self.key,
                reason,
                lines_left_out,
                "Redis gives no messages of the stream to clients that ask for all"
            );
        }
        link.send(reading.end(Some(RetainedCut::Refused)))
    }

    /// Ends a question that has no answer for now. Another one, from the same place on, may have one a little later.
    fn fail(
        &mut self,
        reading: &QuestionReading,
        error: &str,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        tracing::debug!(error, "no pages of the stream");
        self.parts = None;
        link.send(reading.page(false))?;
        self.wait(PAUSE);
        Ok(())
    }

    fn wait(&mut self, time: Duration) {
        // An error of the poll is that of the next connection.
        drop(self.waiter.wait(Instant::now() + time));
    }

    /// Goes on with the next page of a question, or drops the question. Does nothing if the question has ended.
    fn handle_page_request(&mut self, number: u64, request: PageRequest) {
        let is_it = |reading: &QuestionReading| reading.question.number == number;
        let Some(at) = self.open.iter().position(is_it) else {
            return;
        };
        match request {
            PageRequest::More => {
                let reading = &mut self.open[at];
                (reading.values, reading.bytes, reading.is_paused) = (0, 0, false);
            }
            PageRequest::Forget => drop(self.open.remove(at)),
        }
    }

    /// Asks for entries, on the connection of before or on a new one, and hands them over. The last entry that was read comes
    /// again: if it is gone, others may be gone with it.
    fn ask(
        &mut self,
        reading: &mut QuestionReading,
        link: &SourceLink,
    ) -> Result<Answered, RedisError> {
        let progress = self.progress.now();
        let Self {
            servers,
            waiter,
            key,
            prints,
            ..
        } = self;
        let patience = Duration::from_millis(servers.settings.times.ping_timeout_ms);
        let limits = read_limits(servers.settings.payload_bytes_max);
        let mut ask = |mut connection: Connection<'_>, mut range: RangeSize| {
            connection.reader.set_limits(limits);
            let needed = id_text(reading.needed(progress).unwrap_or_default());
            // The needed entry may have been trimmed or deleted.
            let state = match reading.behind {
                None => None,
                Some(_) => {
                    Some(connection.ask_one(&["EVAL_RO", STATE, "1", key, &needed], patience)?)
                }
            };
            // A server that refuses the script says nothing of the state.
            let state = state.and_then(|state| entries(state).ok());
            connection.reader.set_limits(ReadLimits {
                singly: true,
                ..limits
            });
            let end = take_entries(
                &mut connection,
                (key, &mut range),
                (reading, prints),
                patience,
                |reading, entry| hand_over(key, reading, entry, link),
            )?;
            let (endpoint, address) = (connection.endpoint.clone(), connection.address);
            let (io, reader) = connection.into_parts();
            let answer = Answered {
                end,
                progress,
                state: state.map(|state| StreamState::read(&state)),
            };
            Ok::<_, RedisError>((answer, (io, reader, endpoint, address, range)))
        };
        // Where the source has another connection, it may have another server.
        let is_current = self.connected.1 == progress.connections;
        let kept = self.parts.take().filter(|_| is_current);
        let kept = kept.and_then(|(io, reader, endpoint, address, range)| {
            let parts = (io, reader);
            let connection = Connection::from_parts(waiter, parts, &endpoint, address);
            // If this fails, a new connection is made.
            ask(connection, range).ok()
        });
        let (answer, parts) = match kept {
            Some(asked) => asked,
            None => {
                self.connected = (Instant::now(), progress.connections);
                ask(servers.connect(waiter)?, RangeSize::aiming_at(PAGE_BYTES))?
            }
        };
        // After an entry that ends the question, the rest of the answer is on the way.
        self.parts = match answer.end {
            AnswerEnd::Whole(_) | AnswerEnd::Error(_) => Some(parts),
            AnswerEnd::Unreadable | AnswerEnd::OtherEpoch | AnswerEnd::LoopGone => None,
        };
        Ok(answer)
    }

    /// Goes on after an answer whose entries were handed over; fewer than were asked for are the last, unless the server is
    /// behind.
    fn answered(
        &mut self,
        mut reading: QuestionReading,
        answer: &Answered,
        taken: Taken,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        let needed = reading.needed(answer.progress);
        // Not even the last entry that was read has come again.
        let is_gone = taken.entries == 0 && reading.after.is_some();
        let is_last = !taken.may_follow;
        let last_of = |state: &StreamState| Some(state.counters.as_ref()?.last);
        // The server has the needed entry, or has had a later one: what has not come was trimmed or deleted, and the
        // server is not behind.
        let had_needed =
            |state: &StreamState| state.is_there == Some(true) || last_of(state) >= needed;
        if is_last && taken.newest < needed && !answer.state.as_ref().is_some_and(had_needed) {
            return self.wait_for_server(reading, answer.progress, is_gone, link);
        }
        reading.behind = None;
        if is_last {
            // It is the same stream, which was trimmed, perhaps to the last entry that was read.
            let last = answer.state.as_ref().and_then(last_of);
            // Nothing is lacking if no entry was ever added after the last one that was read.
            let lacks_some = is_gone && last != reading.after;
            return link.send(reading.end(lacks_some.then_some(RetainedCut::Window)));
        }
        if reading.is_full() {
            reading.is_paused = true;
            link.send(reading.page(true))?;
        }
        self.open.push_back(reading);
        Ok(())
    }

    fn unreadable(&self, reading: QuestionReading, link: &SourceLink) -> Result<(), LoopGone> {
        self.status.count_retained_limited();
        link.send(reading.end(Some(RetainedCut::Unreadable)))
    }

    /// Lets a question wait for a server that is behind; after too long, ends it. `is_gone`: the server does not have
    /// the last entry that was read.
    fn wait_for_server(
        &mut self,
        mut reading: QuestionReading,
        progress: Progress,
        is_gone: bool,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        let now = Instant::now();
        let mut behind = reading.behind.unwrap_or(Behind {
            reached: progress.reached,
            since: now,
            until: now,
        });
        let error = RedisError::Behind(self.parts.as_ref().map_or_else(String::new, |parts| {
            let (_, _, endpoint, address, _) = parts;
            endpoint.address_at(*address)
        }));
        if now.duration_since(behind.since) >= BEHIND_MAX {
            return match is_gone {
                // The source has not seen the entry either, or will soon see that the stream is another one.
                true => link.send(reading.end_of_epoch()),
                false => self.refuse(reading, &error.to_string(), link),
            };
        }
        // Another server is tried at most once in a pause; meanwhile, this one is asked again.
        if self.connected.0.elapsed() >= PAUSE {
            tracing::debug!(%error, "the pages of the stream look for another server");
            self.parts = None;
            self.servers.note_end(&Stop::Bus(error));
        } else {
            behind.until = now + PAUSE;
        }
        reading.behind = Some(behind);
        self.open.push_back(reading);
        Ok(())
    }
}

/// Asks for entries from the last one that was read on, and takes each as it comes. A stream that is made anew may give the
/// id of the last one to another entry, so its print is compared too.
fn take_entries(
    connection: &mut Connection<'_>,
    (key, range): (&str, &mut RangeSize),
    (reading, prints): (&mut QuestionReading, &EntryPrints),
    patience: Duration,
    mut hand_over: impl FnMut(&mut QuestionReading, StreamEntry) -> Result<(), LoopGone>,
) -> Result<AnswerEnd, RedisError> {
    let before = reading.after;
    let from = before.map_or_else(|| "-".to_owned(), id_text);
    connection.reader.take_bytes();
    connection.queue(&range.command((key, &from), before.is_some()));
    let asked = Instant::now();
    let mut taken = Taken::default();
    loop {
        let parts = match connection.next_answer(None, asked, patience)? {
            Value::Error(_) if range.is_script_refused() => {
                connection.queue(&range.command((key, &from), before.is_some()));
                continue;
            }
            Value::Error(words) => return Ok(AnswerEnd::Error(words)),
            answer => entries(answer),
        };
        let bytes = connection.reader.take_bytes();
        let entry = match parts {
            // The list itself, after its entries.
            Ok(parts) if parts.is_empty() => {
                taken.may_follow = range.end();
                return Ok(AnswerEnd::Whole(taken));
            }
            Ok(parts) => StreamEntry::read(Value::Array(parts)),
            Err(_) => return Ok(AnswerEnd::Unreadable),
        };
        let Ok(entry) = entry else {
            return Ok(AnswerEnd::Unreadable);
        };
        taken.entries += 1;
        range.arrived(bytes);
        taken.newest = Some(entry.id);
        let before_hash = reading.hash.replace(prints.print(&entry).hash);
        if taken.newest == before {
            if before_hash.is_some() && before_hash != reading.hash {
                return Ok(AnswerEnd::OtherEpoch);
            }
            if !std::mem::take(&mut reading.repeats) {
                continue;
            }
        } else if taken.entries == 1 && before.is_some() {
            // The answer does not begin with the last entry that was read: that one is gone, and perhaps later ones
            // with it.
            reading.cut.get_or_insert(RetainedCut::Window);
        }
        reading.repeats = false;
        if hand_over(reading, entry).is_err() {
            return Ok(AnswerEnd::LoopGone);
        }
    }
}

/// Hands an entry over, if a client waits for it.
fn hand_over(
    key: &str,
    reading: &mut QuestionReading,
    entry: StreamEntry,
    link: &SourceLink,
) -> Result<(), LoopGone> {
    let StreamEntry { id, fields } = entry;
    reading.after = Some(id);
    if let Ok((channel, payload)) = message(fields)
        && reading.sought.has(&channel)
    {
        reading.values += 1;
        reading.bytes += payload.len() + channel.len();
        link.send(value(key, reading, id, channel, payload, link.now()))?;
    }
    Ok(())
}

/// Returns the event for a message of the stream. Its time of arrival is when the stream stored it, which is in its ID.
fn value(
    key: &str,
    reading: &QuestionReading,
    id: StoredId,
    channel: String,
    payload: Vec<u8>,
    now: Now,
) -> BusEvent {
    let subscription = &reading.question.subscription;
    let position = Position::stored(Position::feed_hash(key.bytes()), id);
    let stored_us = i64::try_from(id.major.saturating_mul(1_000));
    BusEvent::LastValue {
        is_deletion: false,
        number: reading.question.number,
        message: BusMessage {
            pattern: (subscription.is_pattern).then(|| Arc::clone(&subscription.name)),
            place: Place::Kept(Some(position)),
            quiet: true,
            ..BusMessage::new(
                channel,
                payload,
                Now {
                    unix_us: stored_us.unwrap_or(now.unix_us),
                    ..now
                },
            )
        },
    }
}
