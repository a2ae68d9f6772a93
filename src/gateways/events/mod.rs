//! `weirgate events` towards clients: devices, requests that services answer, pushes (contract: events).
//!
//! Each connection is a strict sequence: a message is handled after the answer to the message before. Must not know a
//! socket or HTTP. The hub calls it through [`weirgate_core::Gateway`].
//!
//! Begin with the implementation of [`Gateway`] below, then `calls.rs`.
//!
//! | file | owns |
//! | --- | --- |
//! | `connection`, `orphans` | the waiting messages of a connection; connections whose clients have ended |
//! | `identify` | which device a connection is of |
//! | `device_message`, `envelope`, `service_answer` | messages of devices; messages to devices; answers of services as such |
//! | `calls`, `circuit`, `services` | which calls may begin: slots, circuit breakers, the table of services |
//! | `call`, `http_calls`, `content_coding`, `aside` | the calls, their threads, and threads for large bodies |
//! | `broadcast`, `internal`, `pusher`, `to_loop` | pushes of services: the event, the routes, the response, the way to the loop |
//! | `bus` | pushes between instances |
//! | `proxy` | requests of clients that services answer over HTTP |
//! | `settings`, `metrics`, `start` | the rows of the tables; the start and the pages |

mod aside;
pub mod broadcast;
pub mod bus;
pub mod call;
mod calls;
mod circuit;
mod connection;
mod content_coding;
mod device_message;
mod envelope;
mod identify;
mod orphans;
mod service_answer;
mod services;

pub use self::broadcast::Push;
pub(crate) use self::call::{BROADCAST_PATH, CALL_PATH};
use self::call::{Call, Reply};
pub use self::calls::ServiceCallStats;
use self::calls::{CallSlots, Permission};
use self::device_message::DeviceMessage;
pub use self::services::{EventsService, ServiceRow, Services};

use self::connection::{
    Calling, Connection, MessageBody, QueuedMessage, ResumeWait, UNSENT_BYTES_MAX,
};
use self::envelope::{Code, RefusedMessage};
use self::identify::Identified;
pub use self::metrics::EventsStats;
use self::orphans::Orphans;
use crate::auth::{Authenticator, RefusedToken, bearer_protocol};
use crate::gateways::shared::access::{TokenEnd, close_of};
use crate::gateways::shared::identifiers::shown_hashed;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::VecDeque;
use std::sync::Arc;
use weirgate_core::{
    Accepted, Admission, ByClient, CloseCode, Closed, Core, Entrance, Frame, Gateway, Incoming,
    SessionKey, TopicName,
};
use weirgate_wire::admission::{ClientAddr, FairQueue, Quota, TokenBucket};
use weirgate_wire::auth::Origins;
use weirgate_wire::json::ObjectWriter;
use weirgate_wire::{RequestHead, Trace};

pub mod http_calls;
pub mod internal;
pub(super) mod metrics;
pub mod proxy;
mod pusher;
mod settings;
pub(super) mod start;
mod to_loop;

/// Settings of an [`EventsGateway`].
#[derive(Clone, Debug)]
pub struct EventsGatewaySettings {
    /// `MAX_MESSAGE_BYTES`: the most UTF-8 bytes of a message; larger messages are refused.
    pub message_bytes_max: usize,
    /// Tokens of a connection's bucket; at least 1.
    pub rate_burst: u32,
    /// Thousandths of a token that the bucket gains a second.
    pub rate_per_second_milli: u64,
    /// Calls in flight, over all services. A tenth is reserved for each service, so that a service that hangs does not
    /// take the slots of the others.
    pub calls_max: usize,
    /// The most messages of ended connections that may still wait to be forwarded.
    pub orphans_max: usize,
    /// The most bytes of messages that wait or are being answered, over all connections.
    pub waiting_bytes_max: usize,
    /// Whether pushes of other instances come: then there are positions only after [`Input::Others`].
    pub shares_pushes: bool,
    /// The services, and which of them handles an event.
    pub services: Services,
    /// Checks tokens. By default no token counts.
    pub authenticator: Authenticator,
}

/// The defaults of the contract.
impl Default for EventsGatewaySettings {
    fn default() -> Self {
        Self {
            message_bytes_max: 65_536,
            rate_burst: 20,
            rate_per_second_milli: 10_000,
            calls_max: 100,
            orphans_max: 10_000,
            waiting_bytes_max: 16 * 1024 * 1024,
            shares_pushes: false,
            services: Services::default(),
            authenticator: Authenticator::default(),
        }
    }
}

/// Input from other threads.
pub enum Input {
    /// The outcome of a call.
    Reply(Reply),
    /// An event for devices.
    Push(Push),
    /// Pushes of other instances were lost, so no earlier position is valid. `true`: from here on all pushes come.
    /// `false`: further ones may be lost until the next of these inputs.
    Others(bool),
}

/// The client side of the events contract.
#[derive(Debug)]
pub struct EventsGateway {
    settings: EventsGatewaySettings,
    origins: Origins,
    stats: Arc<EventsStats>,
    calls: CallSlots,
    orphans: Orphans,
    /// Bytes of messages that wait or are being answered.
    waiting_bytes: Quota,
    /// When more connections may leave their lines, if there was no time for all of them.
    lines_due_us: Option<u64>,
    /// Connections with messages for which there was no time; client addresses take turns.
    late: FairQueue<SessionKey>,
    /// Calls for the calls' thread.
    outputs: VecDeque<Call>,
}

impl EventsGateway {
    /// The path of the WebSocket.
    pub const PATH: &'static str = "/ws";

    /// A gateway without clients.
    pub fn new(settings: EventsGatewaySettings, origins: Origins, stats: Arc<EventsStats>) -> Self {
        Self {
            calls: CallSlots::new(settings.calls_max, &settings.services),
            orphans: Orphans::new(settings.orphans_max),
            waiting_bytes: Quota::new("waiting_bytes", settings.waiting_bytes_max as u64),
            settings,
            origins,
            stats,
            lines_due_us: None,
            late: FairQueue::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Calls of a service in flight.
    pub fn calls_in_flight(&self, service: EventsService) -> usize {
        self.calls.in_flight(service)
    }

    /// Whether the service is not called at present, or only probed.
    pub fn circuit_is_open(&self, service: EventsService) -> bool {
        self.calls.is_open(service)
    }

    /// The counters of each service, by its name.
    pub fn service_stats(&self) -> Vec<(&'static str, Arc<ServiceCallStats>)> {
        self.calls.stats()
    }

    /// Whether no work for ended clients is left.
    pub fn is_idle(&self) -> bool {
        self.orphans.is_empty()
    }

    /// Bytes of messages that wait or are being answered, over all connections.
    pub fn waiting_bytes(&self) -> &Quota {
        &self.waiting_bytes
    }

    /// Handles waiting messages, then pauses or resumes reading, depending on the room for the client's messages.
    fn advance(&mut self, core: &mut Core, key: SessionKey, connection: &mut Connection) {
        self.handle_waiting(core, key, connection);
        if connection.is_gone() {
            return;
        }
        let is_full = connection.is_full(&self.orphans);
        if is_full != connection.is_paused {
            connection.is_paused = is_full;
            match is_full {
                true => core.pause_reading(key),
                false => core.resume_reading(key),
            }
        }
    }

    /// Handles waiting messages until a message waits for a service, until the client must read first, or until the time
    /// is over: then the others follow in a later turn.
    fn handle_waiting(&mut self, core: &mut Core, key: SessionKey, connection: &mut Connection) {
        while connection.calling.is_none() {
            if connection.resume_wait.is_some() && !connection.is_gone() {
                return;
            }
            if connection.has_waiting() && core.has_to_take_answers(key, UNSENT_BYTES_MAX) {
                return;
            }
            let Some(waiting) = connection.pop() else {
                return core.set_idle(key);
            };
            if !self.admit_work(core, key, connection) {
                // This message; the others that waited are counted.
                self.stats.messages_forgotten.add(1);
                return;
            }
            if let Some(answer) = self.begin_answer(core, key, connection, waiting) {
                core.send(key, &answer);
                if connection.has_waiting() && !core.has_share() {
                    return self.late.push(connection.client, key);
                }
            }
        }
    }

    /// Begins to answer a message. Returns the answer. `None`: a service answers, or the answer to `identify` is sent
    /// already.
    fn begin_answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        connection: &mut Connection,
        QueuedMessage { content, held }: QueuedMessage,
    ) -> Option<Arc<Frame>> {
        let message = match read_message(&content) {
            Ok(message) => message,
            Err(refused) => {
                self.stats.errors[refused.code as usize].add(1);
                return Some(envelope::gateway_error(core, refused.code, refused.why));
            }
        };
        if connection.device.is_none() {
            return match identify::identify(core, key, connection, &message) {
                Ok(Identified::Done) => None,
                Ok(Identified::Waits) => {
                    connection.put_back(QueuedMessage { content, held });
                    None
                }
                Err(refused) => Some(self.refusal(core, &message, refused.code, refused.why)),
            };
        }
        let Some(service) = self.settings.services.service_for(&message.name) else {
            let why = format!("Unknown event '{}'", message.name);
            return Some(self.refusal(core, &message, Code::UnknownEvent, &why));
        };
        connection.calling = Some(Calling {
            message: Arc::new(message),
            held,
            service,
            is_made: false,
        });
        core.set_busy(key);
        let now_us = core.now().mono_us;
        let permission = self.calls.ask(now_us, connection.client, key, service);
        self.call(core, connection, permission)
    }

    /// Whether the connection's next message may be carried out. Since the message arrived, an operator may have cut the
    /// client off, or its token may have ended: then what waits is dropped and counted.
    fn admit_work(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        connection: &mut Connection,
    ) -> bool {
        let admitted = connection.admit(core, key);
        if !admitted {
            let dropped = connection.drop_unforwarded();
            self.stats.messages_forgotten.add(dropped.messages);
            self.leave_line(key, dropped.in_line);
        }
        admitted
    }

    /// Judges the token of a request, if tokens count. The user of a good token is the device; without one the device
    /// names itself, as in the contract.
    ///
    /// # Errors
    /// The close of a client that is refused.
    fn admit_token(
        &self,
        core: &Core,
        key: SessionKey,
        head: &RequestHead<'_>,
        accepted: &mut Accepted,
        connection: &mut Connection,
    ) -> Result<(), CloseCode> {
        let tokens = &self.settings.authenticator;
        if !tokens.counts() {
            return Ok(());
        }
        accepted.protocol = bearer_protocol(head);
        let mut device = None;
        let judged = tokens.judge(head, core.now(), |identity| {
            device = identify::device_of(identity, connection.asked_device())?;
            // Devices have no role of this gateway, so the roles of the token count.
            let marks = identity.marks(None);
            core.check_not_cut_off(key, identity.user.as_deref(), Some(&marks))?;
            accepted.marks = Some(Arc::new(marks));
            Ok(())
        });
        match judged {
            Ok(identity) => {
                let identity = identity.unwrap_or_default();
                accepted.user = identity.user.as_deref().map(Into::into);
                if tokens.required {
                    connection.token_end = TokenEnd::of(&identity);
                }
                connection.is_named_by_token = device.is_some();
                connection.device = device.or_else(|| connection.device.take());
                Ok(())
            }
            Err(RefusedToken { refusal, user }) => {
                self.stats.access.count_refusal(refusal);
                accepted.refusal = Some(refusal.label());
                accepted.user = user.map(Into::into);
                Err(close_of(refusal))
            }
        }
    }

    /// Takes a connection out of the line of its service, if the message that waited there was dropped.
    fn leave_line(&mut self, key: SessionKey, left_line: Option<Calling>) {
        if let Some(Calling { service, .. }) = left_line {
            self.calls.leave_line(key, service);
        }
    }

    fn refusal(&self, core: &Core, message: &DeviceMessage, code: Code, why: &str) -> Arc<Frame> {
        self.stats.errors[code as usize].add(1);
        envelope::refusal(&core.into(), message, code, why)
    }

    /// Makes the call of a connection if that is permitted. Returns a refusal if the service is not called.
    fn call(
        &mut self,
        core: &mut Core,
        connection: &mut Connection,
        permission: Permission,
    ) -> Option<Arc<Frame>> {
        match permission {
            Permission::Wait => None,
            Permission::Go(id) => {
                connection.calling.as_mut()?.is_made = true;
                let calling = connection.calling.as_ref()?;
                let given = connection.trace.clone();
                self.outputs.push_back(Call {
                    id,
                    service: calling.service,
                    body: request(connection, &calling.message).into_bytes(),
                    trace: given.unwrap_or_else(|| Trace::made(|| core.random())),
                    reader: service_answer::reader((&*core).into(), Arc::clone(&calling.message)),
                });
                None
            }
            Permission::Unreachable => {
                let calling = connection.calling.take()?;
                self.calls.count_skipped(calling.service);
                let why = service_answer::UNREACHABLE;
                Some(self.refusal(core, &calling.message, Code::UpstreamError, why))
            }
        }
    }

    /// Handles the end of a call.
    fn take_reply(&mut self, core: &mut Core, clients: &mut ByClient<Connection>, reply: Reply) {
        let now_us = core.now().mono_us;
        let Some(key) = self.calls.ended(now_us, reply.id, reply.failure) else {
            return;
        };
        self.with_connection(core, clients, key, |gateway, core, connection| {
            if connection.calling.take().is_none() {
                return;
            }
            let frame = reply.frame.unwrap_or_else(|error| {
                gateway.stats.errors[Code::UpstreamError as usize].add(1);
                error
            });
            core.send(key, &frame);
        });
        // The waiting connections have their turn before this connection's next message.
        if self.lines_due_us.is_none() {
            self.call_those_who_wait(core, clients);
        }
        self.with_connection(core, clients, key, |gateway, core, connection| {
            gateway.advance(core, key, connection);
        });
    }

    /// Gives free slots to waiting connections.
    fn call_those_who_wait(&mut self, core: &mut Core, clients: &mut ByClient<Connection>) {
        let now_us = core.now().mono_us;
        self.lines_due_us = None;
        while let Some((key, service)) = self.calls.next() {
            self.with_connection(core, clients, key, |gateway, core, connection| {
                if !gateway.admit_work(core, key, connection) {
                    return;
                }
                let permission = gateway.calls.begin(now_us, connection.client, key, service);
                if let Some(answer) = gateway.call(core, connection, permission) {
                    core.send(key, &answer);
                    gateway.advance(core, key, connection);
                }
            });
            if !core.has_time() {
                // If a service's circuit opens, its whole line is answered, which may take several turns.
                self.lines_due_us = Some(now_us);
                return;
            }
        }
    }

    /// Goes on with connections whose messages have waited for a later turn.
    fn advance_late(&mut self, core: &mut Core, clients: &mut ByClient<Connection>) {
        while let Some(key) = self.late.pop() {
            self.with_connection(core, clients, key, |gateway, core, connection| {
                gateway.advance(core, key, connection);
            });
            if !core.has_time() {
                return;
            }
        }
    }

    /// Calls `act` for a connection with or without a client. A connection without a client is kept while it has work.
    fn with_connection(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<Connection>,
        key: SessionKey,
        act: impl FnOnce(&mut Self, &mut Core, &mut Connection),
    ) {
        if let Some(connection) = clients.get_mut(key) {
            act(self, core, connection);
        } else if let Some(mut orphan) = self.orphans.take(key) {
            act(self, core, &mut orphan);
            self.keep_orphan(core, key, orphan);
        }
    }

    fn keep_orphan(&mut self, core: &mut Core, key: SessionKey, orphan: Connection) {
        if !self.orphans.keep(key, orphan) {
            core.set_idle(key);
        }
    }
}

/// Parses a message of a device.
///
/// # Errors
/// The code and the words of the answer.
fn read_message(content: &MessageBody) -> Result<DeviceMessage, RefusedMessage> {
    if let MessageBody::Text(text) = content
        && let Some(message) = DeviceMessage::parse(text)
    {
        return Ok(message);
    }
    let (code, why) = match content {
        MessageBody::TooLarge => (Code::MessageTooLarge, "Message exceeds MAX_MESSAGE_BYTES"),
        MessageBody::TooMany => (Code::RateLimited, "Too many messages"),
        MessageBody::Text(_) | MessageBody::Binary => (Code::BadRequest, "Invalid JSON message"),
    };
    Err(RefusedMessage::new(code, why))
}

impl Gateway for EventsGateway {
    type Client = Connection;
    type In = Input;
    type Out = Call;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        match path {
            Self::PATH => Entrance::Clients(&self.origins),
            _ => Entrance::None,
        }
    }

    fn admit(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Connection> {
        let id = u128::from(core.random()) << 64 | u128::from(core.random());
        let rate = self.settings.rate_per_second_milli;
        let burst = self.settings.rate_burst.max(1);
        // The session exists, so the client has an address.
        let client = core.client_addr(key).unwrap_or(ClientAddr::Unix);
        let mut connection = Connection::new(
            URL_SAFE_NO_PAD.encode(id.to_be_bytes()),
            client,
            TokenBucket::with_rate(rate, burst, core.now().mono_us),
        );
        identify::read_query(head, &mut connection);
        connection.trace = head
            .header("traceparent")
            .and_then(|parent| Trace::given(parent, head.header_values("tracestate")));
        let mut accepted = Accepted::default();
        match self.admit_token(core, key, head, &mut accepted, &mut connection) {
            Ok(()) => {
                accepted.client_bytes = connection.memory_bytes();
                Admission::Accept(accepted, connection)
            }
            Err(close) => Admission::AcceptThenClose(accepted, close),
        }
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, connection: &mut Connection) {
        // With pushes of other instances, `Input::Others` begins the feed, once all of them come.
        if !self.settings.shares_pushes {
            core.begin_feed();
        }
        core.set_deadline(key, connection.token_end.due_us(core.now()));
        identify::open(core, key, connection);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        connection: &mut Connection,
        message: Incoming<'_>,
    ) {
        let now_us = core.now().mono_us;
        let client = connection.client;
        let hold = |bytes| self.waiting_bytes.hold(client, bytes, now_us);
        let bytes_max = self.settings.message_bytes_max;
        let waiting = connection.queued(message, bytes_max, now_us, hold);
        connection.push(waiting);
        self.advance(core, key, connection);
    }

    /// Goes on with a client that has waited for its missed pushes.
    fn handle_rest(&mut self, core: &mut Core, key: SessionKey, connection: &mut Connection) {
        if connection.resume_wait.take() == Some(ResumeWait::Opening) {
            identify::open(core, key, connection);
        }
        self.advance(core, key, connection);
    }

    fn has_room_for(&self, client: ClientAddr) -> bool {
        self.waiting_bytes.has_room_for(client)
    }

    /// Forwards the messages of a client that has ended its side. They are read without waiting for earlier answers,
    /// because the client cannot send more.
    fn reads_to_the_end(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        connection: &mut Connection,
    ) -> bool {
        connection.is_leaving = true;
        self.advance(core, key, connection);
        // The hub reads what is left.
        true
    }

    /// Checks whether the client's token has ended.
    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, connection: &mut Connection) {
        if !connection.token_end.close(core, key) {
            core.set_deadline(key, connection.token_end.due_us(core.now()));
        }
    }

    /// Goes on with the messages that have waited until the client took its answers.
    fn handle_drained(&mut self, _: &mut Core, key: SessionKey, connection: &mut Connection) {
        self.late.push(connection.client, key);
    }

    /// Keeps the connection of an ended client, whose messages are still forwarded. Of a client that an operator has cut
    /// off, or whose token has ended, only the call in flight goes on.
    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, closed: Closed<Connection>) {
        let (mut connection, waits_max) = match closed {
            // All of its messages may still wait for a service.
            Closed::Ended(connection, _) if !connection.token_end.has_come(core.now()) => {
                (connection, u64::MAX)
            }
            Closed::Ended(connection, _) | Closed::Cut(connection) => (connection, 0),
        };
        let who = core.who(key);
        let left_line = (self.orphans).adopt(&mut connection, waits_max, who, &self.stats);
        self.leave_line(key, left_line);
        self.advance(core, key, &mut connection);
        self.keep_orphan(core, key, connection);
    }

    fn handle_input(&mut self, core: &mut Core, clients: &mut ByClient<Connection>, input: Input) {
        match input {
            Input::Reply(reply) => self.take_reply(core, clients, reply),
            Input::Push(push) => push.deliver(core, &self.stats),
            Input::Others(come) => {
                core.end_feed();
                if come {
                    core.begin_feed();
                }
            }
        }
    }

    /// The id of a device, hashed: whoever knows the id gets the pushes of the device.
    fn shown_topic(name: &TopicName) -> TopicName {
        shown_hashed(name.as_str()).into_string().into()
    }

    fn holdings(&self) -> Vec<Quota> {
        let messages = [&self.waiting_bytes, &self.orphans.messages];
        messages
            .into_iter()
            .chain(self.calls.slots())
            .cloned()
            .collect()
    }

    fn poll_timeout(&self) -> Option<u64> {
        // 0: at once.
        let late_us = (!self.late.is_empty()).then_some(0);
        late_us.or(self.lines_due_us)
    }

    fn handle_timeout(&mut self, core: &mut Core, clients: &mut ByClient<Connection>) {
        self.call_those_who_wait(core, clients);
        self.advance_late(core, clients);
    }

    fn poll_output(&mut self) -> Option<Call> {
        self.outputs.pop_front()
    }
}

/// Returns the body of a call.
fn request(connection: &Connection, message: &DeviceMessage) -> String {
    let mut client = ObjectWriter::new();
    let device = connection.device.as_ref().map_or("", TopicName::as_str);
    client.string("device_id", device);
    client.string("connection_id", &connection.id);
    client.string("ip", &connection.client.to_string());
    let mut inner = ObjectWriter::new();
    inner.raw("event", &message.event);
    inner.raw("request_id", &message.request_id);
    inner.raw("data", &message.data);
    let mut body = ObjectWriter::new();
    body.object("client", client);
    body.object("message", inner);
    body.finish()
}
