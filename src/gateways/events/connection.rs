//! The strict sequence of a connection: waiting messages, and the message being answered. A connection
//! remains after the end of its client until all messages are forwarded. The waiting messages of all
//! connections are bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::EventsStats;
use super::call::EventsService;
use super::message::Message;
use crate::admission::{ClientAddr, TokenBucket, address_group};
use crate::hub::{Incoming, SessionKey, TopicName};
use crate::wire::traceparent::Trace;

/// Messages of a connection that may wait; at the limit the connection is not read (contract: row "Order").
pub(super) const WAITING_MAX: usize = 64;

/// Bytes of the waiting messages; the last message may exceed the limit.
pub(super) const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Unsent bytes with which the next message of a client is still handled. With more, a client that asks
/// faster than it reads would fill its send queue until the queue's limits end the connection.
const UNSENT_BYTES_MAX: usize = 16 * 1024;

/// The first check of the unsent bytes follows the flush of this turn, which suffices for most clients; the
/// second follows after this time, and each further check after twice the time.
const REST_US_MIN: u64 = 5_000;
/// The longest time between checks.
const REST_US_MAX: u64 = 160_000;

/// A message that waits for its turn.
#[derive(Debug)]
pub(super) enum Waiting {
    Text(String),
    /// A binary message, always refused; the bytes are not kept.
    Binary,
    /// A message over the limit; the bytes are not kept.
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

    /// Bytes of the kept text.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary | Self::TooLarge => 0,
        }
    }
}

/// Whether the next message of a connection must wait for unsent bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    No,
    /// Until this time, in microseconds.
    Until(u64),
    Already,
}

/// A message that a service answers.
#[derive(Debug)]
pub(super) struct Calling {
    pub(super) message: Arc<Message>,
    /// Bytes of the text.
    pub(super) bytes: usize,
    pub(super) service: EventsService,
    /// The call was made. Otherwise the call waits in line for a slot.
    pub(super) is_made: bool,
}

/// The gateway's state of a connection.
#[derive(Debug)]
pub struct Connection {
    /// 22 URL-safe characters, for services only.
    pub(super) id: String,
    /// The address for services, for the limit of waiting bytes, and for the turns of calls.
    pub(super) client: ClientAddr,
    /// The trace of the handshake.
    pub(super) trace: Option<Trace>,
    /// The device of the connection; also the topic of its pushes.
    pub(super) device: Option<TopicName>,
    /// The position from the address, until the device is known.
    pub(super) since: Option<Box<str>>,
    pub(super) bucket: TokenBucket,
    pub(super) calling: Option<Calling>,
    /// The client has ended: waiting messages are forwarded all the same, answers are discarded.
    pub(super) gone: bool,
    /// The client has ended its side; the gateway reads the rest.
    pub(super) is_leaving: bool,
    /// The client is not read, because there is no room for its messages.
    pub(super) is_paused: bool,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The newest time between checks; `None` while the connection does not rest.
    rest_us: Option<u64>,
    /// The next check is scheduled.
    resting: bool,
}

impl Connection {
    pub(super) fn new(id: String, client: ClientAddr, bucket: TokenBucket) -> Self {
        Self {
            id,
            client,
            trace: None,
            device: None,
            since: None,
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

    /// Decides whether the client must first read its unsent bytes. Returns the time of the next check,
    /// unless a check is scheduled already.
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

    /// Ends the rest at the time of the check.
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
            // The memory of a burst does not stay with the connection.
            self.waiting = VecDeque::new();
        }
        Some(message)
    }

    /// Bytes of the newest message: the last waiting message, or else the message being answered.
    pub(super) fn newest_bytes(&self) -> usize {
        let calling = self.calling.as_ref().map_or(0, |calling| calling.bytes);
        self.waiting.back().map_or(calling, Waiting::bytes)
    }

    /// Drops the newest waiting message. Returns false if no message waits.
    pub(super) fn drop_newest(&mut self) -> bool {
        let newest = self.waiting.pop_back();
        self.waiting_bytes -= newest.as_ref().map_or(0, Waiting::bytes);
        newest.is_some()
    }

    /// Returns true if no more messages may wait. The limit of a leaving client is `leaving_max`.
    pub(super) fn is_full(&self, leaving_max: usize) -> bool {
        let messages_max = match self.is_leaving {
            true => leaving_max,
            false => WAITING_MAX,
        };
        self.waiting.len() >= messages_max || self.waiting_bytes >= WAITING_BYTES_MAX
    }

    /// Count of waiting messages.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns true if the call of the current message waits in line for a slot.
    pub(super) fn stands_in_line(&self) -> bool {
        self.calling
            .as_ref()
            .is_some_and(|calling| !calling.is_made)
    }
}

/// Connections without a client, each with a call in flight or with waiting messages.
#[derive(Debug)]
pub(super) struct Orphans {
    connections: HashMap<SessionKey, Connection, RandomState>,
    /// Messages of all orphans that wait or are in line for a slot.
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

    /// How many more messages may wait.
    pub(super) fn room(&self) -> usize {
        self.messages_max.saturating_sub(self.messages)
    }

    /// Handles the end of a client: drops its newest messages while there are too many waiting messages or
    /// bytes. Returns the message in line for a slot, if dropped.
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
            stats.messages_forgotten.add(1);
            kept -= 1;
        }
        self.messages += kept;
        left_line
    }

    /// Counts a message that no longer waits.
    pub(super) fn count_taken(&mut self) {
        self.messages -= 1;
    }

    pub(super) fn take(&mut self, key: SessionKey) -> Option<Connection> {
        self.connections.remove(&key)
    }

    pub(super) fn keep(&mut self, key: SessionKey, connection: Connection) {
        self.connections.insert(key, connection);
    }

    /// Returns true if no messages of ended clients are left.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.messages == 0
    }
}

/// Bytes of messages that wait or are being answered, over all connections, including ended clients.
///
/// A client address may have as many bytes as are still free. So a single address gets half of all, two
/// addresses get a third each, and there is always room for another address.
#[derive(Debug)]
pub(super) struct WaitingBytes {
    now: usize,
    max: usize,
    /// Bytes by address, for addresses with any.
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
            self.stats.waiting_bytes.set(self.now);
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
            self.stats.waiting_bytes.set(self.now);
        }
    }

    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// Returns true if another message of this address may be accepted. The last message may exceed the
    /// limit.
    pub(super) fn has_room_for(&self, client: ClientAddr) -> bool {
        // An address never has more than all addresses together.
        let free = self.free();
        self.now < free || self.of(client) < free
    }

    /// Returns true if there would be no room for another message of this address even without a message of
    /// `bytes`: other addresses need the room. An ending client does not keep such a message.
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
