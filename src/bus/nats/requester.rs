//! A connection for one request at a time, with the protocol of the sources: for the checks before a start, and for
//! commands in a terminal. Every method waits.

use std::io;
use std::time::{Duration, Instant};

use super::api::{ApiError, JetStream, answer_of};
use super::consumers::asked;
use super::error::{INBOXES, NatsError, refused};
use super::login::Info;
use super::needs::{Action, Need};
use super::protocol::{self, Op, inbox};
use super::servers::waiter;
use super::settings::{Endpoint, NatsSettings};
use super::wire::{Patience, Wire};
use crate::socket::Waiter;
use weirgate_wire::base::Finding;

/// Bytes kept of an answer: a long list of streams is cut, and cannot be read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// So many bytes may wait to be written.
const UNWRITTEN_BYTES_MAX: usize = 64 * 1024;
/// The consumer in the questions for permissions that name none; no consumer has this name.
const CONSUMER: &str = "weirgate-check";
/// The subscription to the answers.
const ANSWERS_SID: u64 = 1;

/// The connection.
pub(super) struct Requester {
    info: Info,
    /// How long an answer may take.
    answer_timeout: Duration,
    state: State,
}

struct State {
    waiter: Waiter,
    wire: Wire,
    inbox: String,
    /// The number of the last request, or of the last subscription.
    last: u64,
    /// This user may not subscribe to the subject for answers.
    is_deaf: bool,
    /// The subject of the last request, message or subscription, and whether it is a subscription.
    asked: (String, bool),
    /// Whether the server has refused that.
    is_refused: bool,
}

impl JetStream for Requester {
    fn request(&mut self, subject: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        let state = &mut self.state;
        let deaf = || ApiError::NotPermitted(format!("subscribe to {INBOXES}"));
        if state.is_deaf {
            return Err(deaf());
        }
        state.begin(subject, false);
        // The request may be permitted by now.
        state.is_refused = false;
        state.last += 1;
        let (number, reply) = (state.last, format!("{}.{}", state.inbox, state.last));
        protocol::publish(state.wire.out(), subject, &reply, body);
        let answer = state.until(self.answer_timeout, |state, op| match op {
            _ if state.is_deaf => Some(Err(deaf())),
            _ if state.is_refused => {
                let what = format!("publish to {subject}");
                Some(Err(ApiError::NotPermitted(what)))
            }
            Op::Message(answer) if answer.request() == Some(number) => Some(answer_of(answer)),
            _ => None,
        });
        let answer = answer.map_err(|error| ApiError::Connection(io::Error::other(error)))?;
        answer.unwrap_or(Err(ApiError::NoAnswer(self.answer_timeout)))
    }
}

impl Requester {
    pub(super) fn open(
        server: &Endpoint,
        settings: &NatsSettings,
        answer_timeout: Duration,
    ) -> Result<Self, NatsError> {
        let (mut waiter, _) = waiter("requests to NATS")?;
        let patience = Patience::USUAL;
        let mut wire = Wire::open(&mut waiter, server, settings, ANSWER_BYTES_MAX, patience)?;
        let inbox = inbox();
        protocol::subscribe(wire.out(), &format!("{inbox}.*"), None, ANSWERS_SID);
        Ok(Self {
            info: wire.info.clone(),
            answer_timeout,
            state: State {
                waiter,
                wire,
                inbox,
                last: ANSWERS_SID,
                is_deaf: false,
                asked: Default::default(),
                is_refused: false,
            },
        })
    }

    /// The server's first line.
    pub(super) fn info(&self) -> &Info {
        &self.info
    }

    /// The permissions of these needs that this user lacks. `named`: the stream and the consumer in the requests. The
    /// requests have a body that JetStream refuses, and an acknowledgement has a word that it ignores.
    ///
    /// # Errors
    /// There is no answer; `action` says for what.
    pub(super) fn lacks(
        &mut self,
        needs: &[Need],
        named: (Option<&str>, Option<&str>),
        action: &str,
    ) -> Result<Vec<Finding>, NatsError> {
        let (stream, consumer) = named;
        let mut lacks = Vec::new();
        for need in needs {
            let (stream_name, consumer_name) =
                (stream.unwrap_or_default(), consumer.unwrap_or(CONSUMER));
            let subject = need.action.subject(stream_name, consumer_name);
            let may = match need.action {
                Action::Acknowledge | Action::ControlFlow => {
                    self.may_publish(&subject, b"check")?
                }
                _ => match self.request(&subject, b"{") {
                    Err(ApiError::NotPermitted(what)) if !what.ends_with(INBOXES) => false,
                    Err(error) if !error.is_an_answer() => {
                        return Err(asked(action.to_owned(), error));
                    }
                    _ => true,
                },
            };
            if !may {
                let what = format!("publish to {}", need.action.permission(stream, consumer));
                let text = NatsError::NotPermitted {
                    what,
                    is_of_all: false,
                };
                lacks.push(match need.without {
                    None => Finding::Error(text.to_string()),
                    Some(without) => Finding::Warning(format!("{text}; without that, {without}")),
                });
            }
        }
        Ok(lacks)
    }

    /// Whether this user may subscribe to `subject`.
    pub(super) fn may_subscribe(&mut self, subject: &str) -> Result<bool, NatsError> {
        let state = &mut self.state;
        state.last += 1;
        let sid = state.last;
        state.begin(subject, true);
        protocol::subscribe(state.wire.out(), subject, None, sid);
        let may = state.is_permitted(self.answer_timeout)?;
        protocol::unsubscribe(state.wire.out(), sid);
        Ok(may)
    }

    /// Publishes a message. Returns whether this user may.
    pub(super) fn may_publish(&mut self, subject: &str, payload: &[u8]) -> Result<bool, NatsError> {
        self.send(subject, payload, self.answer_timeout)?;
        self.has_sent(self.answer_timeout)
    }

    /// Publishes a message, and waits while many bytes are unwritten. [`Self::has_sent`] says whether the server took it.
    ///
    /// # Errors
    /// The connection is lost, or the server does not read within this time.
    pub(super) fn send(
        &mut self,
        subject: &str,
        payload: &[u8],
        patience: Duration,
    ) -> Result<(), NatsError> {
        let state = &mut self.state;
        state.begin(subject, false);
        protocol::publish(state.wire.out(), subject, "", payload);
        let now = Instant::now();
        let until = now + patience;
        // Does not wait, but notices the end of the connection.
        state.step(now, |_, _| None::<()>)?;
        while state.wire.queued_bytes() > UNWRITTEN_BYTES_MAX {
            if Instant::now() >= until {
                return Err(state.wire.silent());
            }
            state.step(until, |_, _| None::<()>)?;
        }
        Ok(())
    }

    /// Waits until the server has taken all messages. Returns whether it has refused none on the subject of the last.
    ///
    /// # Errors
    /// The connection is lost, or the server does not answer within this time.
    pub(super) fn has_sent(&mut self, patience: Duration) -> Result<bool, NatsError> {
        self.state.is_permitted(patience)
    }

    /// Ends the connection.
    pub(super) fn leave(self) {
        let State { waiter, wire, .. } = self.state;
        wire.leave(&waiter);
    }
}

impl State {
    /// Begins to ask for a subject; a refusal of the same subject stays until [`Self::is_permitted`].
    fn begin(&mut self, subject: &str, is_subscription: bool) {
        if self.asked.0 != subject || self.asked.1 != is_subscription {
            self.asked = (subject.to_owned(), is_subscription);
            self.is_refused = false;
        }
    }

    /// Whether the server has not refused what was asked for last when it answers a ping.
    fn is_permitted(&mut self, patience: Duration) -> Result<bool, NatsError> {
        let ping = self.wire.ping();
        let is_answered = |state: &Self, _| state.wire.is_answered(ping).then_some(());
        match self.until(patience, is_answered)? {
            Some(()) => Ok(!std::mem::take(&mut self.is_refused)),
            None => Err(self.wire.silent()),
        }
    }

    /// Sends what waits, and reads until `is_end` finds an end. Returns `None` if there is no end in time.
    fn until<T>(
        &mut self,
        patience: Duration,
        mut is_end: impl FnMut(&Self, Op) -> Option<T>,
    ) -> Result<Option<T>, NatsError> {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Some(end) = self.step(until, &mut is_end)? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Writes and reads once; waits if neither is possible.
    fn step<T>(
        &mut self,
        until: Instant,
        mut is_end: impl FnMut(&Self, Op) -> Option<T>,
    ) -> Result<Option<T>, NatsError> {
        self.wire.flush(&mut self.waiter)?;
        if !self.wire.read(&mut self.waiter)? {
            let waited = self.waiter.wait(until);
            waited.map_err(|error| self.wire.lost(&error))?;
        }
        while let Some(op) = self.wire.next_op()? {
            if let Op::Error(words) = &op
                && let Some((subject, is_subscription)) = refused(words)
            {
                self.is_deaf |= is_subscription && subject.starts_with(&self.inbox);
                self.is_refused |= (subject, is_subscription) == self.asked;
            }
            if let Some(end) = is_end(self, op) {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }
}
