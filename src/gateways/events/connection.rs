//! One connection's strict sequence: what waits, and what is being answered.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::Message;
use super::routes::Service;
use crate::admission::{ClientAddr, TokenBucket};
use crate::hub::{Incoming, TopicName};
use crate::wire::traceparent::Trace;

/// Messages of one connection that may wait; then it is not read until there is room (contract:
/// row "Order").
pub(super) const WAITING_MAX: usize = 64;

/// Bytes of them; the last one may go over.
pub(super) const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Bytes that may be on their way to a client when its next message is looked at. Answers to one who
/// asks faster than it reads would else pile up until the send queue's limits end it.
const UNSENT_BYTES_MAX: usize = 16 * 1024;

/// They are looked at again after the flush of this turn, which is all that most clients need; then
/// after this long, and each time twice as long.
const REST_US_MIN: u64 = 5_000;
/// And at most.
const REST_US_MAX: u64 = 160_000;

/// A message that waits for its turn.
#[derive(Debug)]
pub(super) enum Waiting {
    Text(String),
    /// Whatever it holds, it is no message.
    Binary,
    /// Not kept.
    TooLarge,
}

impl Waiting {
    pub(super) fn new(message: Incoming<'_>, bytes_max: usize) -> Self {
        let bytes = match message {
            Incoming::Text(text) => text.len(),
            Incoming::Binary(bytes) => bytes.len(),
        };
        match message {
            _ if bytes > bytes_max => Self::TooLarge,
            Incoming::Text(text) => Self::Text(text.to_owned()),
            Incoming::Binary(_) => Self::Binary,
        }
    }

    /// Bytes that the message holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary | Self::TooLarge => 0,
        }
    }
}

/// Whether a connection's next message may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    No,
    /// Not before this time, in microseconds.
    Until(u64),
    Already,
}

/// A message whose service is to answer.
#[derive(Debug)]
pub(super) struct Calling {
    pub(super) message: Arc<Message>,
    /// Bytes of its text.
    pub(super) bytes: usize,
    pub(super) service: Service,
    /// The call was made. Otherwise it stands in line for a slot.
    pub(super) is_made: bool,
}

/// What is known of one connection.
#[derive(Debug)]
pub struct Connection {
    /// 22 URL-safe characters, told to services only.
    pub(super) id: String,
    /// For services; also whose room the messages take, and whose turns its calls have.
    pub(super) client: ClientAddr,
    /// The trace that its handshake belongs to.
    pub(super) trace: Option<Trace>,
    /// Whom it speaks for; also the topic of its pushes.
    pub(super) device: Option<TopicName>,
    pub(super) bucket: TokenBucket,
    pub(super) calling: Option<Calling>,
    /// The client has gone: what waits is forwarded all the same, answers are for nobody.
    pub(super) gone: bool,
    /// The client has ended its side, and is read to its end.
    pub(super) is_leaving: bool,
    /// The client is not read: there is no room for its messages.
    pub(super) is_paused: bool,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// How long it rests until the next look; `None`: it does not rest.
    rest_us: Option<u64>,
    /// A look is set for later.
    resting: bool,
}

impl Connection {
    pub(super) fn new(id: String, client: ClientAddr, bucket: TokenBucket) -> Self {
        Self {
            id,
            client,
            trace: None,
            device: None,
            bucket,
            calling: None,
            gone: false,
            is_leaving: false,
            is_paused: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            rest_us: None,
            resting: false,
        }
    }

    /// Whether the client has to read first what it has been sent; the time of the next look, if
    /// that is not set already.
    pub(super) fn rest(&mut self, now_us: u64, unsent_bytes: usize) -> Rest {
        if self.gone || self.waiting.is_empty() || unsent_bytes <= UNSENT_BYTES_MAX {
            self.rest_us = None;
            return Rest::No;
        }
        if self.resting {
            return Rest::Already;
        }
        self.resting = true;
        let rest_us = self
            .rest_us
            .map_or(0, |last| (2 * last).clamp(REST_US_MIN, REST_US_MAX));
        self.rest_us = Some(rest_us);
        Rest::Until(now_us + rest_us)
    }

    /// The time has come.
    pub(super) fn end_rest(&mut self) {
        self.resting = false;
    }

    pub(super) fn push(&mut self, message: Waiting) {
        self.waiting_bytes += message.bytes();
        self.waiting.push_back(message);
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let message = self.waiting.pop_front()?;
        self.waiting_bytes -= message.bytes();
        if self.waiting.is_empty() {
            // A burst's memory does not stay with the connection.
            self.waiting = VecDeque::new();
        }
        Some(message)
    }

    /// Bytes of the newest message: of those that wait, or the one that was looked at.
    pub(super) fn newest_bytes(&self) -> usize {
        let calling = self.calling.as_ref().map_or(0, |calling| calling.bytes);
        self.waiting.back().map_or(calling, Waiting::bytes)
    }

    /// Gives up the newest of those that wait; `false`: none waits.
    pub(super) fn drop_newest(&mut self) -> bool {
        let newest = self.waiting.pop_back();
        self.waiting_bytes -= newest.as_ref().map_or(0, Waiting::bytes);
        newest.is_some()
    }

    /// No more may wait; of a client that is leaving, so many.
    pub(super) fn is_full(&self, leaving_max: usize) -> bool {
        let messages_max = match self.is_leaving {
            true => leaving_max,
            false => WAITING_MAX,
        };
        self.waiting.len() >= messages_max || self.waiting_bytes >= WAITING_BYTES_MAX
    }

    /// How many wait to be looked at.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A message was looked at, and its call stands in line for a slot.
    pub(super) fn stands_in_line(&self) -> bool {
        self.calling
            .as_ref()
            .is_some_and(|calling| !calling.is_made)
    }
}
