//! A connection to JetStream: messages of consumers, requests and their answers, acknowledgements.
//!
//! The thread of the source reads this connection itself: no other thread and no channel is between the socket and the
//! loop, and the messages of all subjects come in the order of the server. Messages that arrive while an answer is awaited
//! are set aside; [`JetStreamConnection::next`] returns them first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::api::{ANSWER_TIMEOUT, ApiError, ApiRequest, HASTY_TIMEOUT, JetStream, answer_of};
use super::connection::{Connection, Patience};
use super::consumer::Consumer;
use super::endpoint::Endpoint;
use super::error::NatsError;
use super::protocol::{self, Delivery, Op, PayloadLimits, inbox};
use super::refusals::{INBOXES, Refusal, Refusals};
use super::servers::waiter;
use super::settings::NatsSettings;
use crate::relay::Relay;
use crate::socket::Waiter;
use weirgate_runtime::Wake;

/// The largest payload that a NATS server can be set to take (`max_payload`), bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long the server may take for the last acknowledgements of a connection.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// The most reads of bytes that arrived before the end of a connection: 64 MiB in all.
const LAST_READS_MAX: usize = 1_024;

/// The number of the subscription to the answers; those to the deliveries of consumers have the next numbers.
const ANSWERS_SID: u64 = 1;

/// A request that was sent before anybody waits for its answer.
struct AskedAhead {
    request: ApiRequest,
    number: u64,
    asked: Instant,
}

/// A connection to a server.
pub(super) struct JetStreamConnection {
    pub(super) connection: Connection,
    waiter: Waiter,
    /// Wakes the thread that waits for this connection: [`Self::take_woken`].
    pub(super) wake: Wake,
    /// The server's refusals on this connection.
    pub(super) refusals: Refusals,
    /// The beginning of the subjects for answers, which nobody else can guess.
    inbox: String,
    last_request: u64,
    /// The requests of [`Self::ask_ahead`] that nobody has waited for yet.
    asked_ahead: Vec<AskedAhead>,
    last_sid: u64,
    /// How long an answer to [`JetStream::request`] may take.
    pub(super) answer_timeout: Duration,
    /// Messages that arrived while something else was waited for.
    set_aside: VecDeque<Delivery>,
    /// Whether there may be a refusal, or the process ends.
    is_woken: bool,
}

impl JetStreamConnection {
    /// Connects and logs in. Of a payload at most `payload_bytes_max` bytes are kept.
    pub(super) fn open(
        endpoint: &Endpoint,
        settings: &NatsSettings,
        payload_bytes_max: usize,
    ) -> Result<Self, NatsError> {
        let waiter = waiter("the connection to NATS")?;
        Self::open_with(waiter, endpoint, settings, payload_bytes_max)
    }

    /// As [`Self::open`], with this waiter.
    pub(super) fn open_with(
        (mut waiter, wake): (Waiter, Wake),
        endpoint: &Endpoint,
        settings: &NatsSettings,
        payload_bytes_max: usize,
    ) -> Result<Self, NatsError> {
        let (limits, patience) = (PayloadLimits::of_all(payload_bytes_max), Patience::USUAL);
        let mut connection = Connection::open(&mut waiter, endpoint, settings, limits, patience)?;
        let inbox = inbox();
        protocol::subscribe(connection.out(), &format!("{inbox}.*"), None, ANSWERS_SID);
        Ok(Self {
            connection,
            waiter,
            wake,
            refusals: Refusals::default(),
            inbox,
            last_request: 0,
            asked_ahead: Vec::new(),
            last_sid: ANSWERS_SID,
            answer_timeout: ANSWER_TIMEOUT,
            set_aside: VecDeque::new(),
            // So that the first call of `take_woken` arms the waker.
            is_woken: true,
        })
    }

    /// Whether there may be a refusal, or the process ends. After this call, news wakes the thread again.
    pub(super) fn take_woken(&mut self) -> bool {
        let is_woken = std::mem::take(&mut self.is_woken) | self.waiter.take_woken();
        if is_woken {
            self.wake.arm();
        }
        is_woken
    }

    /// The number for another subscription.
    pub(super) fn next_sid(&mut self) -> u64 {
        self.last_sid += 1;
        self.last_sid
    }

    /// Sends a request. Returns its number, which the answer has ([`Delivery::request`]).
    pub(super) fn ask(&mut self, subject: &str, body: &[u8]) -> u64 {
        self.last_request += 1;
        let reply = format!("{}.{}", self.inbox, self.last_request);
        protocol::publish(self.connection.out(), subject, &reply, body);
        self.last_request
    }

    /// Sends a request now whose answer [`JetStream::request`] will be asked for later, and returns its number. The
    /// answers to many such requests take one round trip, and their silence one timeout.
    pub(super) fn ask_ahead(&mut self, request: ApiRequest) -> u64 {
        let number = self.send_request(&request.subject, request.body.as_bytes());
        let asked = Instant::now();
        self.asked_ahead.push(AskedAhead {
            request,
            number,
            asked,
        });
        number
    }

    /// Waits until the requests of [`Self::ask_ahead`] are answered or refused, at most for `timeout` without a byte.
    pub(super) fn wait_for_answers(&mut self, timeout: Duration) -> Result<(), NatsError> {
        let is_waiting = |this: &Self| {
            let mut asked = this.asked_ahead.iter();
            asked.any(|ahead| !this.is_answered(ahead))
        };
        let until = Instant::now() + timeout;
        while is_waiting(self) && self.set_next_read_aside(until)? {}
        Ok(())
    }

    /// Whether nobody has answered this request of [`Self::ask_ahead`] yet.
    pub(super) fn awaits(&self, number: u64) -> bool {
        let mut asked = self.asked_ahead.iter();
        asked.any(|ahead| ahead.number == number && !self.is_answered(ahead))
    }

    /// Whether the answer to a request, or its refusal, is here.
    fn is_answered(&self, ahead: &AskedAhead) -> bool {
        let is_answer = |it: &Delivery| Self::is_answer(it) && it.request() == Some(ahead.number);
        self.set_aside.iter().any(is_answer) || self.refused(&ahead.request.subject).is_some()
    }

    /// Forgets the requests of [`Self::ask_ahead`] whose answers nobody has asked for.
    pub(super) fn forget_asked_ahead(&mut self) {
        self.asked_ahead.clear();
    }

    /// As [`Self::ask`], for a request that may have been refused before and be permitted by now.
    fn send_request(&mut self, subject: &str, body: &[u8]) -> u64 {
        self.refusals.forget(&Refusal::Request(subject.to_owned()));
        self.ask(subject, body)
    }

    /// Whether the message is an answer to a request.
    pub(super) fn is_answer(message: &Delivery) -> bool {
        message.sid == ANSWERS_SID
    }

    /// Subscribes to the deliveries of a consumer that another client made, and waits for the server's answer. A refusal is
    /// no error here: by then it is in `refusals`.
    ///
    /// # Errors
    /// No answer in time, or the connection is lost.
    pub(super) fn listen(
        &mut self,
        consumer: &mut Consumer,
        group: Option<&str>,
    ) -> Result<(), ApiError> {
        consumer.listen(group, self.connection.out());
        match self.confirm(self.answer_timeout) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ApiError::NoAnswer(self.answer_timeout)),
            Err(_) => Err(ApiError::Lost),
        }
    }

    /// As [`Consumer::leave`].
    pub(super) fn leave_consumer(&mut self, consumer: Consumer) {
        // No request has the number 0.
        let nobody = format!("{}.0", self.inbox);
        consumer.leave(&nobody, self.connection.out());
    }

    /// Publishes an empty message: an acknowledgement, or the answer to a control message of a consumer.
    pub(super) fn answer(&mut self, subject: &str) {
        protocol::publish(self.connection.out(), subject, "", b"");
    }

    /// Waits until the server has taken everything. Returns false after `timeout` without a byte. Each byte extends the
    /// wait, because the answer comes after the messages that are on their way.
    pub(super) fn confirm(&mut self, timeout: Duration) -> Result<bool, NatsError> {
        let ping = self.connection.ping();
        while !self.connection.is_answered(ping) {
            if !self.set_next_read_aside(Instant::now() + timeout)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next message of a subscription; `None` if neither a message nor a part of one arrived in time.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn next_of(
        &mut self,
        sid: u64,
        timeout: Duration,
    ) -> Result<Option<Delivery>, NatsError> {
        let begun = Instant::now();
        loop {
            let found = self.take_aside(|message| message.sid == sid);
            if found.is_some() {
                return Ok(found);
            }
            // A large message that is still arriving is waited for, as long as its bytes come.
            let waits_since = match self.connection.sid_of_partial() == Some(sid) {
                true => self.connection.arrivals.any_at,
                false => begun,
            };
            if !self.set_next_read_aside(waits_since + timeout)? {
                return Ok(None);
            }
        }
    }

    /// The oldest message set aside that is wanted.
    fn take_aside(&mut self, is_wanted: impl Fn(&Delivery) -> bool) -> Option<Delivery> {
        let at = self.set_aside.iter().position(is_wanted)?;
        self.set_aside.remove(at)
    }

    /// The refusal of a request on `subject`, if the server has sent one.
    fn refused(&self, subject: &str) -> Option<ApiError> {
        let request = Refusal::Request(subject.to_owned());
        let inboxes = Refusal::Subscription(INBOXES.to_owned());
        let what = match () {
            () if self.refusals.has(&inboxes) => format!("subscribe to {INBOXES}"),
            () if self.refusals.has(&request) => format!("publish to {subject}"),
            () => return None,
        };
        Some(ApiError::NotPermitted(what))
    }

    /// Waits for bytes of the server until `until`, and sets aside the messages in them. Returns whether bytes came.
    fn set_next_read_aside(&mut self, until: Instant) -> Result<bool, NatsError> {
        loop {
            if self.step(until)? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
        }
    }

    /// Writes and reads once, and sets aside the messages; waits if there was nothing to read. Returns whether there was.
    pub(super) fn step(&mut self, until: Instant) -> Result<bool, NatsError> {
        // If a stop or an error came between the messages of the last read, some of these messages still wait there.
        self.set_read_aside()?;
        self.flush()?;
        if !self.read()? {
            let waited = self.waiter.wait(until);
            waited.map_err(|error| self.connection.lost(&error))?;
            return Ok(false);
        }
        self.set_read_aside()?;
        Ok(true)
    }

    /// Sets aside the messages of the last read.
    fn set_read_aside(&mut self) -> Result<(), NatsError> {
        while let Some(message) = self.next_read()? {
            self.set_aside.push_back(message);
        }
        Ok(())
    }

    /// Reads once; the messages come from [`Self::next`]. Returns false if there was nothing to read.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn read(&mut self) -> Result<bool, NatsError> {
        self.connection.read(&mut self.waiter)
    }

    /// The next message: those set aside first, then those of the last read. `None` if there is none.
    ///
    /// # Errors
    /// The server does not speak the protocol.
    pub(super) fn next(&mut self) -> Result<Option<Delivery>, NatsError> {
        match self.set_aside.pop_front() {
            Some(message) => Ok(Some(message)),
            None => self.next_read(),
        }
    }

    /// The next message of the last read. Notes the errors of the server before it.
    fn next_read(&mut self) -> Result<Option<Delivery>, NatsError> {
        while let Some(op) = self.connection.next_op()? {
            match op {
                Op::Message(message) => return Ok(Some(message)),
                Op::Error(words) => {
                    self.refusals.report(&words);
                    self.is_woken = true;
                }
                Op::Info(_) | Op::Ok | Op::Ping | Op::Pong => {}
            }
        }
        Ok(None)
    }

    /// Whether a message of this subscription was read and not taken.
    pub(super) fn has_waiting(&self, sid: u64) -> bool {
        self.set_aside.iter().any(|message| message.sid == sid)
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn flush(&mut self) -> Result<(), NatsError> {
        self.connection.flush(&mut self.waiter)
    }

    /// Waits for bytes or for a wake, without sleeping while the last messages are young. Returns at once if
    /// [`Self::take_woken`] would return true.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn wait(
        &mut self,
        relay: &mut Relay<NatsError>,
        until: Instant,
    ) -> Result<(), NatsError> {
        match self.is_woken {
            true => Ok(()),
            false => self.connection.wait(&mut self.waiter, relay, until),
        }
    }

    /// As [`Connection::has_news`].
    pub(super) fn has_news(&mut self) -> Result<bool, NatsError> {
        self.connection.has_news(&mut self.waiter)
    }

    /// Sends the last acknowledgements, and waits a moment for the server to take them.
    pub(super) fn flush_and_wait(&mut self) {
        // An error is the end of the connection, which the next read reports.
        let _ = self.flush();
        self.connection
            .wait_until_taken(&mut self.waiter, STOP_TIMEOUT);
    }

    /// Sets aside everything that has arrived on a connection that has ended.
    pub(super) fn read_rest(&mut self) {
        for _ in 0..LAST_READS_MAX {
            // An error says that nothing more can be read.
            if !self.set_next_read_aside(Instant::now()).unwrap_or(false) {
                return;
            }
        }
    }

    /// Ends the connection.
    pub(super) fn close(self) {
        self.connection.close(&self.waiter);
    }
}

impl JetStream for JetStreamConnection {
    /// Messages that come meanwhile are set aside. A request of [`Self::ask_ahead`] is not sent again.
    fn request(&mut self, subject: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        let is_same = |ahead: &AskedAhead| {
            ahead.request.subject == subject && ahead.request.body.as_bytes() == body
        };
        let (number, begun) = match self.asked_ahead.iter().position(is_same) {
            Some(at) => {
                let ahead = self.asked_ahead.remove(at);
                (ahead.number, ahead.asked)
            }
            None => (self.send_request(subject, body), Instant::now()),
        };
        let is_answer = |it: &Delivery| Self::is_answer(it) && it.request() == Some(number);
        loop {
            if let Some(answer) = self.take_aside(is_answer) {
                return answer_of(answer);
            }
            if let Some(refused) = self.refused(subject) {
                return Err(refused);
            }
            // On a slow line, the answer comes after the message that is arriving.
            let since = match self.connection.sid_of_partial() {
                Some(_) => self.connection.arrivals.any_at,
                None => begun,
            };
            let until = since + self.answer_timeout;
            let has_read = self
                .set_next_read_aside(until)
                .map_err(|_| ApiError::Lost)?;
            let is_over = !has_read || Instant::now() >= until;
            if is_over && !self.set_aside.iter().any(is_answer) {
                return Err(ApiError::NoAnswer(self.answer_timeout));
            }
        }
    }

    fn hurry(&mut self) {
        self.answer_timeout = HASTY_TIMEOUT;
    }
}
