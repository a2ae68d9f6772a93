//! One connection's strict sequence: what waits, and what is being answered. It outlives its client while something
//! is still to be forwarded; and what waits of all connections is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::EventsStats;
use super::call::Service;
use super::message::Message;
use crate::admission::{ClientAddr, TokenBucket, address_group};
use crate::hub::{Incoming, SessionKey, TopicName};
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

/// Connections without a client, each with a call under way or with messages that wait.
#[derive(Debug)]
pub(super) struct Orphans {
    connections: HashMap<SessionKey, Connection, RandomState>,
    /// Messages that wait or stand in line for a slot, over all of them.
    messages: usize,
    messages_max: usize,
}

impl Orphans {
    pub(super) fn new(messages_max: usize) -> Self {
        Self {
            connections: HashMap::default(),
            messages: 0,
            messages_max,
        }
    }

    /// How many messages more may wait.
    pub(super) fn room(&self) -> usize {
        self.messages_max.saturating_sub(self.messages)
    }

    /// A client has gone: its newest messages are dropped where too many wait, or too many bytes.
    /// Returns the message that stood in line for a slot, if it is among these.
    pub(super) fn adopt(
        &mut self,
        connection: &mut Connection,
        waiting_bytes: &mut WaitingBytes,
        stats: &EventsStats,
    ) -> Option<Calling> {
        connection.gone = true;
        let client = connection.client;
        let mut kept = connection.waiting() + usize::from(connection.stands_in_line());
        let mut left_line = None;
        while kept > 0 {
            let bytes = connection.newest_bytes();
            if kept <= self.room() && !waiting_bytes.is_over_without(client, bytes) {
                break;
            }
            if !connection.drop_newest() {
                left_line = connection.calling.take();
            }
            waiting_bytes.remove(client, bytes);
            stats.count_forgotten();
            kept -= 1;
        }
        self.messages += kept;
        left_line
    }

    /// One of the messages does not wait any more.
    pub(super) fn count_taken(&mut self) {
        self.messages -= 1;
    }

    pub(super) fn take(&mut self, key: SessionKey) -> Option<Connection> {
        self.connections.remove(&key)
    }

    pub(super) fn keep(&mut self, key: SessionKey, connection: Connection) {
        self.connections.insert(key, connection);
    }

    /// Nothing is kept of clients that have gone.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.messages == 0
    }
}

/// Bytes of messages that wait or are being answered, over all connections, those of clients that
/// have gone included.
///
/// A client address may have as much as is still free. So one address alone has half of all, two have
/// a third each, and there is room for another address however much the others send.
#[derive(Debug)]
pub(super) struct WaitingBytes {
    now: usize,
    max: usize,
    /// Those of each address that has any.
    by_address: HashMap<ClientAddr, usize, RandomState>,
    stats: Arc<EventsStats>,
}

impl WaitingBytes {
    pub(super) fn new(max: usize, stats: Arc<EventsStats>) -> Self {
        Self {
            now: 0,
            max,
            by_address: HashMap::default(),
            stats,
        }
    }

    pub(super) fn add(&mut self, client: ClientAddr, bytes: usize) {
        if bytes > 0 {
            self.now += bytes;
            *self.by_address.entry(address_group(client)).or_default() += bytes;
            self.stats.store_waiting_bytes(self.now);
        }
    }

    pub(super) fn remove(&mut self, client: ClientAddr, bytes: usize) {
        let client = address_group(client);
        if let Some(own) = self.by_address.get_mut(&client) {
            *own -= bytes;
            if *own == 0 {
                self.by_address.remove(&client);
            }
            self.now -= bytes;
            self.stats.store_waiting_bytes(self.now);
        }
    }

    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// Another message of this address may be taken. The last one may pass the limit.
    pub(super) fn has_room_for(&self, client: ClientAddr) -> bool {
        // An address never has more than all together.
        let free = self.free();
        self.now < free || self.of(client) < free
    }

    /// There would be no room for another message of this address without one of `bytes` either: others
    /// need what it has. A client that goes does not leave such a message.
    pub(super) fn is_over_without(&self, client: ClientAddr, bytes: usize) -> bool {
        self.of(client).saturating_sub(bytes) >= self.free() + bytes
    }

    fn free(&self) -> usize {
        self.max.saturating_sub(self.now)
    }

    fn of(&self, client: ClientAddr) -> usize {
        let own = self.by_address.get(&address_group(client));
        own.copied().unwrap_or_default()
    }
}
