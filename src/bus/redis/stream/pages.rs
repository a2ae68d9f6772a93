//! All messages of names in a stream, for clients that ask for them, a page at a time: on a connection of their own, because
//! that of the source waits at the server for the next entry. The connection is made for the first question. A page has only
//! messages of the names that clients wait for; the whole stream is read for them.
//!
//! The server of this connection may be behind that of the source: a replica, or a master that was replaced. So a question
//! ends only where the source had read to before, or further: otherwise the entries between would be missing in the answer,
//! and clients get only later ones from the source. A server that is behind is asked again, on another connection.

mod answer;
mod connection;
mod reading;
mod sought;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::answer::{AnswerEnd, AnswerVerdict, Answered, EntriesRequest, Taken};
use self::connection::PagesConnection;
use self::reading::{Behind, PagedQuestion, Turn};
use crate::kept::{Progress, SourceProgress};
use crate::redis::error::{RedisError, is_of_user_or_key, shown_trimmed};
use crate::redis::servers::{RedisServers, waiter};
use crate::requests::{self, BusInterest, Names, PageRequest};
use weirgate_core::RetainedCut;
use weirgate_runtime::{BusStatus, LoopGone, SourceLink, detached};

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
    connection: PagesConnection,
    status: Arc<BusStatus>,
    names: Names,
    key: String,
    /// How far the source has read the stream.
    progress: SourceProgress,
    /// The questions, in the order of their turns.
    open: VecDeque<PagedQuestion>,
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
            connection: PagesConnection::new(servers, waiter),
            status,
            names,
            key: key.to_owned(),
            progress,
            open: VecDeque::new(),
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
                self.connection.wait(self.idle_time());
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
        let is_paused = |reading: &&PagedQuestion| reading.is_paused();
        let paused = self.open.iter().filter(is_paused).count();
        // `true`: there is room for a question that has to read, and all questions here have to.
        while self.open.len() - paused < OPEN_MAX
            && let Some(question) = self.names.next_question(|| true)
        {
            self.open.push_back(PagedQuestion::new(question));
        }
        let asked = self.open.len() - paused;
        self.names.show_asked_questions(asked, paused);
    }

    /// Goes on with the next page of a question, or drops the question. Does nothing if the question has ended.
    fn handle_page_request(&mut self, number: u64, request: PageRequest) {
        let is_it = |reading: &PagedQuestion| reading.number() == number;
        let Some(at) = self.open.iter().position(is_it) else {
            return;
        };
        match request {
            PageRequest::More => self.open[at].begin_page(),
            PageRequest::Forget => drop(self.open.remove(at)),
        }
    }

    /// Takes the question whose turn it is from the list.
    fn next_reading(&mut self) -> Option<PagedQuestion> {
        let now = Instant::now();
        let at = self.open.iter().position(|reading| reading.is_due(now))?;
        self.open.remove(at)
    }

    /// How long the thread may wait for a request.
    fn idle_time(&self) -> Duration {
        let now = Instant::now();
        let waits = self
            .open
            .iter()
            .filter_map(|reading| reading.waits_for(now));
        waits.min().map_or(IDLE, |first| first.min(IDLE))
    }

    /// Asks for entries for a question, and handles the answer.
    fn read_for(&mut self, mut reading: PagedQuestion, link: &SourceLink) -> Result<(), LoopGone> {
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

    /// Asks for entries, and hands them over.
    fn ask(
        &mut self,
        reading: &mut PagedQuestion,
        link: &SourceLink,
    ) -> Result<Answered, RedisError> {
        let request = EntriesRequest {
            key: &self.key,
            link,
            progress: self.progress.now(),
            patience: self.connection.patience(),
            payload_bytes_max: self.connection.payload_bytes_max(),
        };
        let connections = request.progress.connections;
        let answer = self.connection.ask(connections, |connection, range| {
            request.ask(connection, range, reading)
        })?;
        if !answer.is_complete() {
            self.connection.close();
        }
        Ok(answer)
    }

    /// Goes on after a whole answer.
    fn answered(
        &mut self,
        mut reading: PagedQuestion,
        answer: &Answered,
        taken: Taken,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        match answer.judge(taken, &reading) {
            AnswerVerdict::ServerBehind { is_last_gone } => {
                self.wait_for_server(reading, answer.progress, is_last_gone, link)
            }
            AnswerVerdict::Ends(cut) => link.send(reading.end(cut)),
            AnswerVerdict::GoesOn => {
                reading.turn = Turn::Due;
                if reading.is_full() {
                    reading.turn = Turn::Paused;
                    link.send(reading.page(true))?;
                }
                self.open.push_back(reading);
                Ok(())
            }
        }
    }

    /// Lets a question wait for a server that is behind; after too long, ends it. `is_last_gone`: the server does not have
    /// the last entry that was read.
    fn wait_for_server(
        &mut self,
        mut reading: PagedQuestion,
        progress: Progress,
        is_last_gone: bool,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        let now = Instant::now();
        let behind = reading.behind();
        let mut behind = behind.unwrap_or_else(|| Behind::since(now, progress));
        let error = self.connection.behind();
        if behind.lasts(now) >= BEHIND_MAX {
            return match is_last_gone {
                // The source has not seen the entry either, or will soon see that the stream is another one.
                true => link.send(reading.end_of_epoch()),
                false => self.refuse(reading, &error.to_string(), link),
            };
        }
        // Another server is tried at most once in a pause; meanwhile, this one is asked again.
        if self.connection.age() >= PAUSE {
            tracing::debug!(%error, "the pages of the stream look for another server");
            self.connection.leave_server(error);
        } else {
            behind.pause(now);
        }
        reading.turn = Turn::Behind(behind);
        self.open.push_back(reading);
        Ok(())
    }

    /// Ends a question that the server does not answer.
    fn refuse(
        &mut self,
        reading: PagedQuestion,
        reason: &str,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        if reading.cursor.cut.is_some() {
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
        reading: &PagedQuestion,
        error: &str,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        tracing::debug!(error, "no pages of the stream");
        self.connection.close();
        link.send(reading.page(false))?;
        self.connection.wait(PAUSE);
        Ok(())
    }

    fn unreadable(&self, reading: PagedQuestion, link: &SourceLink) -> Result<(), LoopGone> {
        self.status.count_retained_limited();
        link.send(reading.end(Some(RetainedCut::Unreadable)))
    }
}
