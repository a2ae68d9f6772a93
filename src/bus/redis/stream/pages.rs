//! All messages of names in a stream, for clients that ask for them, a page at a time: on a connection of their own, because
//! that of the source waits at the server for the next entry. The connection is made for the first question. A page has only
//! messages of the names that clients wait for; the whole stream is read for them.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use super::reader::{StreamEntry, entries, id_text, message};
use super::{RedisStreamSource, read_limits};
use crate::redis::connection::Connection;
use crate::redis::error::{RedisError, shown_trimmed};
use crate::redis::resp::{RespReader, Value};
use crate::redis::servers::{RedisServers, waiter};
use crate::redis::settings::{RedisEndpoint, RedisSettings};
use crate::requests::{self, BusInterest, Names, PageRequest, Question};
use crate::runtime::detached;
use crate::socket::{Buffered, Waiter};
use crate::status::BusStatus;
use crate::{LoopGone, Source, SourceLink};
use weirgate_core::{
    BusEvent, BusMessage, PageCursor, Place, Position, RetainedCut, StoredId, TopicName, fnv_1a,
};
use weirgate_wire::auth::{NamePatterns, NameSyntax};
use weirgate_wire::base::Now;

/// The most questions that are read by turns; the others wait. Those of clients that still take a page do not count: a
/// client that stops reading must not keep others waiting.
const OPEN_MAX: usize = 64;
/// The bytes and the messages of a page. The last answer may bring more.
const PAGE_BYTES: usize = 512 * 1024;
const PAGE_VALUES: usize = 2_048;
/// The most entries of an answer.
const ENTRIES_MAX: usize = 512;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(250);
/// Without a question the thread looks after this time whether the loop has ended.
const IDLE: Duration = Duration::from_secs(1);

/// Answers questions for all messages of names in a stream.
pub struct RedisStreamPages {
    servers: RedisServers,
    status: Arc<BusStatus>,
    waiter: Waiter,
    names: Names,
    key: String,
    open: VecDeque<QuestionReading>,
    /// The connection between two looks at the requests.
    parts: Option<(Buffered, RespReader, RedisEndpoint, SocketAddr)>,
    /// The mean size of the entries of the last answer, bytes.
    entry_bytes: usize,
}

/// A question, and how far it is read.
struct QuestionReading {
    question: Question,
    sought: Sought,
    after: Option<StoredId>,
    cut: Option<RetainedCut>,
    /// What was sent of this page.
    values: usize,
    bytes: usize,
    /// Clients take a page.
    is_paused: bool,
}

/// The names that the clients of a question wait for. A stream is read whole for any name, so a question is for many.
struct Sought {
    exact: HashSet<TopicName, RandomState>,
    patterns: Option<NamePatterns>,
}

/// A stream, and its pages.
pub struct WithPages {
    source: Box<RedisStreamSource>,
    pages: RedisStreamPages,
}

impl WithPages {
    /// Both for one loop.
    pub fn new(source: RedisStreamSource, pages: RedisStreamPages) -> Self {
        let source = Box::new(source);
        Self { source, pages }
    }
}

impl Source for WithPages {
    fn run(self: Box<Self>, link: SourceLink) {
        let (pages, link_of_pages) = (self.pages, link.another());
        if let Err(error) = detached("pages", move || pages.run(&link_of_pages)) {
            tracing::error!(%error, "no thread for the pages of the stream: nobody gets all messages");
        }
        self.source.run(link);
    }
}

impl Sought {
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
            question,
            cut: None,
            values: 0,
            bytes: 0,
            is_paused: false,
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= PAGE_BYTES || self.values >= PAGE_VALUES
    }

    fn page(&self, is_open: bool) -> BusEvent {
        BusEvent::RetainedPage {
            number: self.question.number,
            cursor: Arc::new(PageCursor {
                cut: self.cut,
                ..PageCursor::after(self.after)
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
}

impl RedisStreamPages {
    /// Makes the pages of the stream at `key`, and the handle for questions. Does not connect.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or the system has no descriptor left.
    pub fn new(
        settings: RedisSettings,
        key: &str,
        status: Arc<BusStatus>,
    ) -> Result<(Self, BusInterest), RedisError> {
        let (waiter, wake) = waiter("the pages of a Redis stream")?;
        let (handle, names) = requests::interest(wake);
        let pages = Self {
            servers: RedisServers::new(settings)?,
            status,
            waiter,
            names,
            key: key.to_owned(),
            open: VecDeque::new(),
            parts: None,
            entry_bytes: PAGE_BYTES / ENTRIES_MAX,
        };
        Ok((pages, handle))
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
                self.wait(IDLE);
                Ok(())
            }
        }
    }

    fn take_requests(&mut self) {
        // Names need no subscription here: the stream has all of them.
        self.names.take_all();
        while let Some((number, request)) = self.names.next_page_request() {
            self.handle_page_request(number, request);
        }
        let paused = self.open.iter().filter(|reading| reading.is_paused).count();
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
        let at = self.open.iter().position(|reading| !reading.is_paused)?;
        self.open.remove(at)
    }

    /// Asks for entries for a question, and handles the answer.
    fn read_for(&mut self, reading: QuestionReading, link: &SourceLink) -> Result<(), LoopGone> {
        let count = self.entries_to_ask();
        match self.ask(&reading, count) {
            Ok(Value::Error(words)) if is_refusal(&words) => {
                self.status.count_retained_refused();
                if let Some(line) = self.names.lines.line(link.now()) {
                    tracing::warn!(
                        key = self.key,
                        reason = shown_trimmed(&words),
                        lines_left_out = line.suppressed,
                        "Redis gives no messages of the stream to clients that ask for all"
                    );
                }
                link.send(reading.end(Some(RetainedCut::Refused)))
            }
            Ok(Value::Error(words)) => self.fail(&reading, &words, link),
            Ok(answer) => self.answered(reading, answer, count, link),
            Err(error) => self.fail(&reading, &error.to_string(), link),
        }
    }

    /// Ends a question that another, from the same place on, may answer a little later.
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

    /// The number of entries that make a page, roughly.
    fn entries_to_ask(&self) -> usize {
        (PAGE_BYTES / self.entry_bytes.max(1)).clamp(1, ENTRIES_MAX) + 1
    }

    /// Asks for so many entries, on the connection of before or on a new one. The last entry that was read comes again:
    /// if it is gone, others may be gone with it.
    fn ask(&mut self, reading: &QuestionReading, count: usize) -> Result<Value, RedisError> {
        let from = reading.after.map_or_else(|| "-".to_owned(), id_text);
        let command = ["XRANGE", &self.key, &from, "+", "COUNT", &count.to_string()];
        let Self {
            servers, waiter, ..
        } = self;
        let times = &servers.settings.times;
        let patience = Duration::from_millis(times.ping_timeout_ms);
        let limits = read_limits(servers.settings.payload_bytes_max);
        let ask = |mut connection: Connection<'_>| {
            connection.reader.set_limits(limits);
            let answer = connection.ask_one(&command, patience)?;
            let entry_bytes = entry_bytes(&mut connection, &answer);
            let (endpoint, address) = (connection.endpoint.clone(), connection.address);
            let (io, reader) = connection.into_parts();
            Ok::<_, RedisError>((answer, entry_bytes, (io, reader, endpoint, address)))
        };
        let kept = self
            .parts
            .take()
            .and_then(|(io, reader, endpoint, address)| {
                ask(Connection::from_parts(
                    waiter,
                    (io, reader),
                    &endpoint,
                    address,
                ))
                .ok()
            });
        let (answer, entry_bytes, parts) = match kept {
            Some(asked) => asked,
            None => ask(servers.connect(waiter)?)?,
        };
        (self.entry_bytes, self.parts) = (entry_bytes, Some(parts));
        Ok(answer)
    }

    /// Hands the entries of an answer over; fewer than the `count` that was asked for are the last.
    fn answered(
        &mut self,
        mut reading: QuestionReading,
        answer: Value,
        count: usize,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        let Ok(found) = entries(answer) else {
            self.status.count_retained_limited();
            return link.send(reading.end(Some(RetainedCut::Unreadable)));
        };
        let is_last = found.len() < count;
        let mut has_before = reading.after.is_none();
        if found.is_empty() && !has_before {
            return link.send(reading.end(Some(RetainedCut::Epoch)));
        }
        for entry in found {
            let Ok(StreamEntry { id, fields }) = StreamEntry::read(entry) else {
                self.status.count_retained_limited();
                return link.send(reading.end(Some(RetainedCut::Unreadable)));
            };
            if reading.after == Some(id) {
                has_before = true;
                continue;
            }
            reading.after = Some(id);
            if let Ok((channel, payload)) = message(fields)
                && reading.sought.has(&channel)
            {
                reading.values += 1;
                reading.bytes += payload.len() + channel.len();
                link.send(self.value(&reading, id, channel, payload, link.now()))?;
            }
        }
        if !has_before {
            reading.cut.get_or_insert(RetainedCut::Window);
        }
        if is_last {
            return link.send(reading.end(None));
        }
        if reading.is_full() {
            reading.is_paused = true;
            link.send(reading.page(true))?;
        }
        self.open.push_back(reading);
        Ok(())
    }

    fn value(
        &self,
        reading: &QuestionReading,
        id: StoredId,
        channel: String,
        payload: Vec<u8>,
        now: Now,
    ) -> BusEvent {
        let subscription = &reading.question.subscription;
        let position = Position::stored(fnv_1a(self.key.bytes()), id);
        let stored_us = i64::try_from(id.major.saturating_mul(1_000));
        BusEvent::LastValue {
            is_deletion: false,
            number: reading.question.number,
            message: BusMessage {
                subject: channel.into(),
                pattern: (subscription.is_pattern).then(|| Arc::clone(&subscription.name)),
                payload,
                position: None,
                place: Place::Kept(Some(position)),
                received: Now {
                    unix_us: stored_us.unwrap_or(now.unix_us),
                    ..now
                },
                quiet: true,
            },
        }
    }
}

/// Whether an error of Redis is of the user or of the key, and not of a server that is not ready.
fn is_refusal(words: &str) -> bool {
    let code = words.split(' ').next().unwrap_or_default();
    ["NOPERM", "WRONGTYPE", "NOAUTH", "ERR"].contains(&code)
}

/// The mean size of the entries of an answer.
fn entry_bytes(connection: &mut Connection<'_>, answer: &Value) -> usize {
    let bytes = connection.reader.take_bytes();
    match answer {
        Value::Array(entries) => bytes / entries.len().max(1),
        _ => bytes,
    }
}
