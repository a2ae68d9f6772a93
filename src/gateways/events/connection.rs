//! The strict sequence of a connection: waiting messages, and the message being answered. After the end of its client a
//! connection remains until all its messages are forwarded ([`Orphans`]). Each message carries the [`Permit`] for its
//! bytes, so the messages of all connections together are bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use super::device_message::DeviceMessage;
use super::orphans::Orphans;
use super::services::EventsService;
use crate::gateways::shared::access::TokenEnd;
use crate::gateways::shared::identifiers::shown_hashed;
use weirgate_core::{Core, Incoming, SessionKey, TopicName, WasConnected};
use weirgate_wire::Trace;
use weirgate_wire::admission::{ClientAddr, Permit, TokenBucket};
use weirgate_wire::base::allocated_bytes;

/// Messages of a connection that may wait; at the limit the gateway stops reading the connection (protocol-events.md,
/// "Messages").
pub(super) const WAITING_MAX: u64 = 64;

/// The most bytes of the waiting messages; only the last message may exceed this.
pub(super) const WAITING_BYTES_MAX: u64 = 1024 * 1024;

/// While a client has more unsent bytes than this, with answers among them, its next message waits. Otherwise a client
/// that asks faster than it reads would fill its send queue until the queue's limits end the connection.
pub(super) const UNSENT_BYTES_MAX: usize = 16 * 1024;

/// Memory of the id of a device, such as a UUID, that counts with the connection.
const DEVICE_BYTES: usize = device_bytes(40);

/// Memory of the id of a device, with its reference counts.
const fn device_bytes(id_bytes: usize) -> usize {
    allocated_bytes(2 * size_of::<usize>() + id_bytes)
}

/// A message that waits for its turn.
#[derive(Debug)]
pub(super) struct QueuedMessage {
    pub(super) content: MessageBody,
    /// The memory of the message.
    pub(super) held: Permit,
}

/// Memory of a message beside its text: its place in the queue, and its permit.
const MESSAGE_BYTES: usize = size_of::<QueuedMessage>() + 64;

#[derive(Debug)]
pub(super) enum MessageBody {
    Text(String),
    /// A binary message, always refused; the bytes are not kept.
    Binary,
    /// A message over the limit; the bytes are not kept.
    TooLarge,
    /// A message over the rate of its connection; the bytes are not kept.
    TooMany,
}

impl MessageBody {
    /// What is kept of a message of up to `bytes_max` bytes. The rate counts when the message arrives, because messages that
    /// have waited for a slow service together were no burst of the client.
    fn of(message: Incoming<'_>, bytes_max: usize, now_us: u64, bucket: &mut TokenBucket) -> Self {
        let bytes = match message {
            Incoming::Text(text) => text.len(),
            Incoming::Binary(bytes) => bytes.len(),
        };
        match message {
            _ if bytes > bytes_max => Self::TooLarge,
            _ if !bucket.take(now_us) => Self::TooMany,
            Incoming::Text(text) => Self::Text(text.to_owned()),
            Incoming::Binary(_) => Self::Binary,
        }
    }

    /// The bytes that are kept.
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary | Self::TooLarge | Self::TooMany => 0,
        }
    }
}

/// What waits until the client may get the pushes that it has missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResumeWait {
    /// The answer to a device that the URL or the token names.
    Opening,
    /// The first waiting message, which is `identify`.
    Identify,
}

/// A message that a service answers.
#[derive(Debug)]
pub(super) struct Calling {
    pub(super) message: Arc<DeviceMessage>,
    /// The memory of the message.
    pub(super) held: Permit,
    pub(super) service: EventsService,
    /// False while the call waits in line for a slot.
    pub(super) is_made: bool,
}

/// What is kept of a client that has ended.
#[derive(Debug)]
pub(super) struct EndedClient {
    /// The permit for the messages that are not forwarded yet.
    pub(super) messages: Permit,
    /// Who the client was: an operator may cut it off before all are forwarded.
    pub(super) who: Option<WasConnected>,
}

/// The messages of an ended client that are not forwarded.
#[derive(Debug)]
pub(super) struct Dropped {
    pub(super) messages: u64,
    /// The message in line for a slot, if it is among these: its place in the line is free.
    pub(super) in_line: Option<Calling>,
}

/// The gateway's state of a connection.
#[derive(Debug)]
pub struct Connection {
    /// 22 URL-safe characters, for services only.
    pub(super) id: String,
    /// The client's address: services get it, and the limit of waiting bytes and the turns of calls count by it.
    pub(super) client: ClientAddr,
    /// The trace of the handshake.
    pub(super) trace: Option<Trace>,
    /// The device of the connection; also the topic of its pushes.
    pub(super) device: Option<TopicName>,
    /// A token has named the device: the client did not name itself.
    pub(super) is_named_by_token: bool,
    /// The end of the client's token.
    pub(super) token_end: TokenEnd,
    /// The position in the URL, until the device is known.
    pub(super) since: Option<Box<str>>,
    /// The rate of the client's messages.
    bucket: TokenBucket,
    /// The message that a service answers now, or that waits in line for a slot.
    pub(super) calling: Option<Calling>,
    /// Set when the client has ended: its messages are still forwarded, and their answers discarded.
    ended_client: Option<EndedClient>,
    /// The client has ended its side of the connection; the gateway reads the rest.
    pub(super) is_leaving: bool,
    /// The gateway does not read the client, because there is no room for its messages.
    pub(super) is_paused: bool,
    /// Set while missed pushes have to wait ([`Core::may_begin_resume`]).
    pub(super) resume_wait: Option<ResumeWait>,
    waiting: VecDeque<QueuedMessage>,
    waiting_bytes: u64,
}

impl Connection {
    pub(super) fn new(id: String, client: ClientAddr, bucket: TokenBucket) -> Self {
        Self {
            id,
            client,
            trace: None,
            device: None,
            is_named_by_token: false,
            token_end: TokenEnd::default(),
            since: None,
            bucket,
            calling: None,
            ended_client: None,
            is_leaving: false,
            is_paused: false,
            resume_wait: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Memory of the client's texts beyond those of most clients: the id of its device, and the trace of its handshake.
    pub(super) fn memory_bytes(&self) -> usize {
        let of_device = |device: &TopicName| device_bytes(device.as_str().len());
        let of_trace = |trace: &Trace| allocated_bytes(trace.state.capacity());
        let device = self.device.as_ref().map_or(0, of_device);
        let trace = self.trace.as_ref().map_or(0, of_trace);
        device.saturating_sub(DEVICE_BYTES) + trace
    }

    /// The device that the URL names.
    pub(super) fn asked_device(&self) -> Option<&str> {
        self.device.as_ref().map(TopicName::as_str)
    }

    /// Makes the queue's entry of a message that has just arrived. A text of up to `bytes_max` bytes is kept; `hold`
    /// charges the entry.
    pub(super) fn queued(
        &mut self,
        message: Incoming<'_>,
        bytes_max: usize,
        now_us: u64,
        hold: impl FnOnce(u64) -> Permit,
    ) -> QueuedMessage {
        let content = MessageBody::of(message, bytes_max, now_us, &mut self.bucket);
        let held = hold((MESSAGE_BYTES + allocated_bytes(content.bytes())) as u64);
        QueuedMessage { content, held }
    }

    /// Whether messages wait for their turn.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, message: QueuedMessage) {
        self.waiting_bytes += message.held.amount();
        self.waiting.push_back(message);
    }

    /// Puts back the message that was removed last: it waits longer.
    pub(super) fn put_back(&mut self, message: QueuedMessage) {
        self.waiting_bytes += message.held.amount();
        self.waiting.push_front(message);
    }

    /// Removes the message that has waited longest; its bytes no longer count for the connection.
    pub(super) fn pop(&mut self) -> Option<QueuedMessage> {
        let message = self.waiting.pop_front()?;
        self.waiting_bytes -= message.held.amount();
        if self.waiting.is_empty() {
            // A connection does not keep the memory of a burst.
            self.waiting = VecDeque::new();
        }
        Some(message)
    }

    /// The permit of the newest message that is not forwarded yet.
    fn newest(&self) -> Option<&Permit> {
        let waiting = self.waiting.back().map(|message| &message.held);
        let in_line = self.calling.as_ref().filter(|calling| !calling.is_made);
        waiting.or_else(|| in_line.map(|calling| &calling.held))
    }

    /// How many messages are not forwarded yet: the waiting messages, and the message in line for a slot.
    pub(super) fn to_forward(&self) -> u64 {
        (self.waiting.len() + usize::from(self.is_in_line())) as u64
    }

    /// Handles the end of the client. Of the messages that are not forwarded yet, drops the newest while there are more
    /// than `ended` allows, or while other clients need the room.
    pub(super) fn end_client(&mut self, ended: EndedClient) -> Dropped {
        let dropped = self.drop_newest(ended.messages.amount());
        self.ended_client = Some(ended);
        dropped
    }

    /// Gives back the permits of an ended client for messages that were forwarded meanwhile.
    pub(super) fn release_forwarded(&mut self) {
        let to_forward = self.to_forward();
        if let Some(EndedClient { messages, .. }) = &mut self.ended_client {
            // The time does not matter, because these permits are not evicted.
            messages.set(to_forward, 0);
        }
    }

    /// Whether a call is in flight or in line, or messages are not forwarded yet.
    pub(super) fn has_work(&self) -> bool {
        self.calling.is_some() || self.to_forward() > 0
    }

    /// Drops every message that is not forwarded yet, as [`end_client`](Self::end_client) does.
    pub(super) fn drop_unforwarded(&mut self) -> Dropped {
        self.drop_newest(0)
    }

    /// Drops the newest of the messages that are not forwarded yet, the one in line for a slot last: while they are
    /// more than `kept_max`, or while other clients need the room of the newest.
    fn drop_newest(&mut self, kept_max: u64) -> Dropped {
        let before = self.to_forward();
        let mut in_line = None;
        while let Some(newest) = self.newest()
            && (self.to_forward() > kept_max || !newest.has_room())
        {
            match self.waiting.pop_back() {
                Some(message) => self.waiting_bytes -= message.held.amount(),
                // No message waits behind it. `newest` has chosen it, so its call is not made yet.
                None => in_line = self.calling.take(),
            }
        }
        Dropped {
            messages: before - self.to_forward(),
            in_line,
        }
    }

    /// Whether the client may stay, or the messages of an ended client may still be forwarded: its token has not ended,
    /// and no operator has cut it off. A client that may not stay is closed.
    pub(super) fn admit(&self, core: &mut Core, key: SessionKey) -> bool {
        match &self.ended_client {
            None => !self.token_end.close(core, key) && core.check_or_close(key),
            Some(EndedClient { who, .. }) => {
                let is_cut = who
                    .as_ref()
                    .is_some_and(|who| core.check_gone(who).is_err());
                !is_cut && !self.token_end.has_come(core.now())
            }
        }
    }

    /// Sets the device as the user, for operators, unless a token has named it, and asks whether the device may be here.
    pub(super) fn admit_device(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        device: &TopicName,
    ) -> bool {
        if self.is_named_by_token {
            return self.admit(core, key);
        }
        let name = shown_hashed(device.as_str());
        match &mut self.ended_client {
            None => core.set_own_name(key, name),
            Some(EndedClient { who, .. }) => {
                who.iter_mut().for_each(|who| who.set_user(name.clone()))
            }
        }
        self.admit(core, key)
    }

    /// Returns true if the client has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.ended_client.is_some()
    }

    /// Returns true if no more messages may wait. The messages of a leaving client count as messages of orphans.
    pub(super) fn is_full(&self, orphans: &Orphans) -> bool {
        let messages_max = match self.is_leaving {
            true => orphans.messages.room_for(self.client),
            false => WAITING_MAX,
        };
        self.waiting.len() as u64 >= messages_max || self.waiting_bytes >= WAITING_BYTES_MAX
    }

    /// Returns true if the call of the current message waits in line for a slot.
    pub(super) fn is_in_line(&self) -> bool {
        self.calling
            .as_ref()
            .is_some_and(|calling| !calling.is_made)
    }
}
