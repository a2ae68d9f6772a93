//! `weirgate events` towards clients: devices, requests routed to services, pushes (contract:
//! events).
//!
//! Each connection is a strict sequence: a message is looked at when the one before it has been
//! answered. Must not know a socket or HTTP. Called by the hub, through [`crate::hub::Gateway`].

pub mod broadcast;
mod calls;
mod connection;
mod envelope;
mod message;
mod routes;
mod stats;
mod upstream;

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhash::quality::RandomState;
use url::form_urlencoded;

use self::broadcast::Broadcast;
use self::calls::{Calls, Leave};
use self::connection::{Calling, Connection, Rest, Waiting};
use self::envelope::Code;
use self::message::{Message, is_device_id};
use crate::admission::TokenBucket;
use crate::auth::Origins;
use crate::hub::{
    Accepted, Admission, Call, CloseReason, Core, Frame, FrameBytes, Gateway, Incoming, Now,
    Publication, Reply, Retain, SessionKey, TopicName,
};
use crate::wire::head::RequestHead;
use crate::wire::object_writer::ObjectWriter;
use crate::wire::traceparent::Trace;

pub use self::routes::{BROADCAST_PATH, CALL_PATH, INNER_PATHS, Service};
pub use self::stats::EventsStats;

/// What can be set.
#[derive(Clone, Debug)]
pub struct EventsGatewaySettings {
    /// `MAX_MESSAGE_BYTES`: UTF-8 bytes of one message; larger ones are refused.
    pub message_bytes_max: usize,
    /// Tokens of a connection's bucket; at least 1.
    pub rate_burst: u32,
    /// Thousandths of a token that it gains a second.
    pub rate_per_second_milli: u64,
    /// Calls in flight, over all services.
    pub calls_max: usize,
    /// Messages of connections that have gone which may still wait to be forwarded.
    pub orphans_max: usize,
    /// Levels of nesting that a message or an answer may have.
    pub json_depth_max: usize,
}

/// Devices of one [`Push`]: a broadcast to more comes in parts.
const PUSH_DEVICES_MAX: usize = 500;

/// An event for devices, from a service; or a part of it, for some of the devices.
pub struct Push {
    frame: Arc<Frame>,
    /// Who is named twice gets it twice.
    devices: Vec<TopicName>,
    /// Deliveries of all parts so far.
    total: Arc<AtomicU64>,
    /// Is told the total; the last part has it.
    sent: Option<Box<dyn FnOnce(u64) + Send>>,
}

impl Push {
    /// Encodes an event, so that the loop need not; `alive` counts the frame, `sent` is told the
    /// number of deliveries. The parts are to be handed over in their order.
    pub fn parts(
        broadcast: Broadcast,
        alive: &FrameBytes,
        now: Now,
        sent: Box<dyn FnOnce(u64) + Send>,
    ) -> Vec<Self> {
        let frame = envelope::push(alive, now, &broadcast.event, &broadcast.data);
        let total = Arc::<AtomicU64>::default();
        let part = |devices: Vec<TopicName>| Self {
            frame: Arc::clone(&frame),
            devices,
            total: Arc::clone(&total),
            sent: None,
        };
        let mut devices = broadcast.device_ids.into_iter().map(TopicName::from);
        let mut parts = Vec::new();
        loop {
            parts.push(part(devices.by_ref().take(PUSH_DEVICES_MAX).collect()));
            if devices.len() == 0 {
                break;
            }
        }
        if let Some(last) = parts.last_mut() {
            last.sent = Some(sent);
        }
        parts
    }
}

/// What [`Gateway::upgrade`] reads of a request.
#[derive(Debug, Default)]
struct Admitted {
    device: Option<TopicName>,
    trace: Option<Trace>,
}

/// The client side of the events contract.
#[derive(Debug)]
pub struct EventsGateway {
    settings: EventsGatewaySettings,
    origins: Origins,
    stats: Arc<EventsStats>,
    connections: HashMap<SessionKey, Connection, RandomState>,
    calls: Calls,
    /// Messages of connections that have gone.
    orphans: usize,
    /// What [`Gateway::upgrade`] read, until [`Gateway::opened`] follows at once.
    admitted: Admitted,
}

impl EventsGateway {
    /// Where clients connect.
    pub const PATH: &'static str = "/ws";

    /// A gateway without clients.
    pub fn new(settings: EventsGatewaySettings, origins: Origins, stats: Arc<EventsStats>) -> Self {
        Self {
            calls: Calls::new(settings.calls_max),
            settings,
            origins,
            stats,
            connections: HashMap::default(),
            orphans: 0,
            admitted: Admitted::default(),
        }
    }

    /// Calls of a service that have not ended.
    pub fn calls_in_flight(&self, service: Service) -> usize {
        self.calls.in_flight(service)
    }

    /// The service is being left alone, or probed.
    pub fn circuit_is_open(&self, service: Service) -> bool {
        self.calls.is_open(service)
    }

    /// Looks at what waits, until a message has to wait for its service, or the client has to read.
    fn advance(&mut self, core: &mut Core, key: SessionKey) {
        loop {
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            if connection.calling.is_some() {
                return;
            }
            match connection.rest(core.now().mono_us, core.unsent_bytes(key)) {
                Rest::No => {}
                Rest::Until(at_us) => return core.set_deadline(key, Some(at_us)),
                Rest::Already => return,
            }
            let was_full = connection.is_full();
            let Some(waiting) = connection.pop() else {
                if connection.gone {
                    self.connections.remove(&key);
                }
                core.set_owed(key, false);
                return;
            };
            if connection.gone {
                self.orphans -= 1;
            } else if was_full && !connection.is_full() {
                core.resume_reading(key);
            }
            if let Some(answer) = self.look_at(core, key, waiting) {
                core.send(key, &answer);
            }
        }
    }

    /// The answer to a message, unless a service has to give it.
    fn look_at(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        waiting: Waiting,
    ) -> Option<Arc<Frame>> {
        let connection = self.connections.get_mut(&key)?;
        let refuse = |core: &Core, code, why| {
            self.stats.count_error(code);
            Some(envelope::gateway_error(core, code, why))
        };
        if matches!(waiting, Waiting::TooLarge) {
            return refuse(
                core,
                Code::MessageTooLarge,
                "Message exceeds MAX_MESSAGE_BYTES",
            );
        }
        if !connection.bucket.take(core.now().mono_us) {
            return refuse(core, Code::RateLimited, "Too many messages");
        }
        let message = match &waiting {
            Waiting::Text(text) => Message::parse(text, self.settings.json_depth_max),
            Waiting::Binary | Waiting::TooLarge => None,
        };
        let Some(message) = message else {
            return refuse(core, Code::BadRequest, "Invalid JSON message");
        };
        if connection.device.is_none() {
            let identified = identify(core, key, connection, &message);
            let refused = |(code, why)| self.refusal(core, &message, code, why);
            return Some(identified.unwrap_or_else(refused));
        }
        let Some(service) = Service::of(&message.name) else {
            let why = format!("Unknown event '{}'", message.name);
            return Some(self.refusal(core, &message, Code::UnknownEvent, &why));
        };
        connection.calling = Some(Calling {
            message: Arc::new(message),
            service,
        });
        core.set_owed(key, true);
        let leave = self.calls.ask(core.now().mono_us, key, service);
        self.stats
            .store_circuit(service, self.calls.is_open(service));
        self.call(core, key, leave)
    }

    fn refusal(&self, core: &Core, message: &Message, code: Code, why: &str) -> Arc<Frame> {
        self.stats.count_error(code);
        envelope::refusal(&core.into(), message, code, why)
    }

    /// Makes the call of a connection, if it may be made now; or says why not.
    fn call(&mut self, core: &mut Core, key: SessionKey, leave: Leave) -> Option<Arc<Frame>> {
        let connection = self.connections.get_mut(&key)?;
        match leave {
            Leave::Wait => None,
            Leave::Go(id) => {
                let calling = connection.calling.as_ref()?;
                let given = connection.trace.clone();
                let call = Call {
                    id,
                    service: calling.service as u16,
                    body: request(connection, &calling.message).into_bytes(),
                    trace: given.unwrap_or_else(|| Trace::made(|| core.random())),
                    reader: upstream::reader(
                        (&*core).into(),
                        Arc::clone(&calling.message),
                        self.settings.json_depth_max,
                    ),
                };
                core.call(call);
                None
            }
            Leave::Unreachable => {
                let calling = connection.calling.take()?;
                self.stats.count_skipped(calling.service);
                let why = upstream::UNREACHABLE;
                Some(self.refusal(core, &calling.message, Code::UpstreamError, why))
            }
        }
    }

    /// Slots that became free go to those who wait.
    fn call_those_who_wait(&mut self, core: &mut Core) {
        while let Some((key, leave)) = self.calls.next(core.now().mono_us) {
            if let Some(answer) = self.call(core, key, leave) {
                core.send(key, &answer);
                self.advance(core, key);
            }
        }
    }
}

impl Gateway for EventsGateway {
    type Command = Push;

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        if !head.asks_upgrade() {
            return Admission::ToHttp;
        }
        let refuse = |detail| Admission::Refuse {
            status: 403,
            detail,
        };
        if head.path() != Self::PATH {
            return refuse("No WebSocket here");
        }
        if !self.origins.allow(head.header("Origin")) {
            return refuse("Origin not allowed");
        }
        self.admitted = Admitted {
            device: device_in_query(head),
            trace: head
                .header("traceparent")
                .and_then(|parent| Trace::given(parent, head.header_values("tracestate"))),
        };
        Admission::Accept(Accepted::default())
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        let id = u128::from(core.random()) << 64 | u128::from(core.random());
        let ip = core
            .client_addr(key)
            .map(|ip| ip.to_canonical().to_string());
        let rate = self.settings.rate_per_second_milli;
        let burst = self.settings.rate_burst.max(1);
        let bucket = TokenBucket::with_rate(rate, burst, core.now().mono_us);
        let mut connection = Connection::new(
            URL_SAFE_NO_PAD.encode(id.to_be_bytes()),
            ip.unwrap_or_default(),
            bucket,
        );
        let admitted = mem::take(&mut self.admitted);
        connection.trace = admitted.trace;
        match admitted.device {
            Some(device) => {
                core.join(key, &device);
                connection.device = Some(device);
            }
            None => {
                let frame = envelope::identify_required(core);
                core.send(key, &frame);
            }
        }
        self.connections.insert(key, connection);
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        connection.push(Waiting::new(message, self.settings.message_bytes_max));
        if connection.is_full() {
            core.pause_reading(key);
        }
        self.advance(core, key);
    }

    fn reply(&mut self, core: &mut Core, reply: Reply) {
        let ended = self
            .calls
            .ended(core.now().mono_us, reply.id, reply.failure);
        let Some(key) = ended else {
            return;
        };
        let connection = self.connections.get_mut(&key);
        if let Some(Calling { service, .. }) = connection.and_then(|c| c.calling.take()) {
            self.stats
                .store_circuit(service, self.calls.is_open(service));
            let frame = reply.frame.unwrap_or_else(|error| {
                self.stats.count_error(Code::UpstreamError);
                error
            });
            core.send(key, &frame);
        }
        // Those who wait were there before this connection's next message.
        self.call_those_who_wait(core);
        self.advance(core, key);
    }

    fn command(&mut self, core: &mut Core, push: Push) {
        let mut sent = 0;
        for topic in push.devices {
            sent += core.member_count(&topic) as u64;
            core.publish(&Publication {
                topic,
                frame: Arc::clone(&push.frame),
                deliver: true,
                retain: Retain::Keep,
            });
        }
        let total = push.total.fetch_add(sent, Ordering::Relaxed) + sent;
        if let Some(tell) = push.sent {
            self.stats.count_push();
            tell(total);
        }
    }

    /// A client that had to read first may have done so.
    fn deadline(&mut self, core: &mut Core, key: SessionKey) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.end_rest();
        }
        self.advance(core, key);
    }

    fn closed(&mut self, core: &mut Core, key: SessionKey, _: CloseReason) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        connection.gone = true;
        let mut kept = connection.waiting();
        while self.orphans + kept > self.settings.orphans_max {
            connection.drop_last();
            self.stats.count_forgotten();
            kept -= 1;
        }
        self.orphans += kept;
        self.advance(core, key);
    }

    /// No client is connected, and nothing is kept of those that were.
    fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.orphans == 0
    }
}

/// Before anything else a client has to say who it is.
fn identify(
    core: &mut Core,
    key: SessionKey,
    connection: &mut Connection,
    message: &Message,
) -> Result<Arc<Frame>, (Code, &'static str)> {
    if message.name != "identify" {
        return Err((Code::Unauthenticated, "Identify first"));
    }
    let device = message.device_id();
    let device = device.ok_or((Code::BadRequest, "identify requires data.device_id"))?;
    let mut data = ObjectWriter::new();
    data.string("device_id", &device);
    let device = TopicName::from(device);
    core.join(key, &device);
    connection.device = Some(device);
    Ok(envelope::response(
        &(&*core).into(),
        message,
        &data.finish(),
    ))
}

/// `?device_id=`: the last of several, if it names a device.
fn device_in_query(head: &RequestHead<'_>) -> Option<TopicName> {
    let query = head.query()?;
    let ids = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "device_id");
    let (_, id) = ids.last()?;
    is_device_id(&id).then(|| TopicName::from(id.into_owned()))
}

/// The body of a call.
fn request(connection: &Connection, message: &Message) -> String {
    let mut client = ObjectWriter::new();
    let device = connection.device.as_ref().map_or("", TopicName::as_str);
    client.string("device_id", device);
    client.string("connection_id", &connection.id);
    client.string("ip", &connection.ip);
    let mut inner = ObjectWriter::new();
    inner.raw("event", &message.event);
    inner.raw("request_id", &message.request_id);
    inner.raw("data", &message.data);
    let mut body = ObjectWriter::new();
    body.object("client", client);
    body.object("message", inner);
    body.finish()
}
