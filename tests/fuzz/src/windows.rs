//! Messages to clients that keep a window, each with an inflater of its own: every text comes out as it was sent,
//! whatever the clients got before, and wherever their writes were cut. Clients have windows of any size or none, and rates
//! of their own; they leave, come back, and get what they missed.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use weirgate_wire::admission::Transport;

use weirgate_core::{
    Accepted, Admission, BusNotice, ByClient, CloseReason, ConflationKey, Core, Effect, Entrance,
    FeedNotice, Frame, FrameBytes, Gateway, HistoryLimits, Hub, Incoming, Limits, MaxRate, Outcome,
    Place, Position, Prefix, Publication, Recipient, SendQueueLimits, SessionKey, SocketEnd,
    StoredId, TopicName, Transmit, Wanted, Write,
};
use weirgate_test_support::KeptInflater;
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Origins;
use weirgate_wire::base::Now;

use super::bodies::{KINDS, body, size};
use super::{choices, outcome};

/// Steps of one input.
const STEPS_MAX: usize = 96;

/// Sizes around which something changes: the least size, the window, and messages that refer to none.
const EDGES: [usize; 4] = [64, 700, 32_768, 131_072];

static TOPICS: [TopicName; 2] = [TopicName::fixed("a"), TopicName::fixed("b")];

/// The clients of `/ab` get both topics.
const PATHS: [&str; 4] = ["/a", "/ab", "/ab", "/b"];

const PREFIX: Prefix = Prefix::Seq("{\"seq\":");

/// What clients offer, beside those that keep the largest window.
const OFFERS: [&str; 8] = [
    "permessage-deflate",
    "permessage-deflate",
    "permessage-deflate; server_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=12",
    "permessage-deflate; server_max_window_bits=14",
    "permessage-deflate; server_no_context_takeover",
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
    "x-none",
];

/// The rates of clients, times a second; most have none.
const RATES: [&str; 8] = ["", "", "", "", "", "", "20", "1000"];

/// Most clients at once.
const CLIENTS_MAX: usize = 6;

/// Passes on what is published, and what a client has missed.
struct Relay {
    /// Whether the last client that came back has got all that it missed.
    has_recovered: Rc<Cell<bool>>,
}

impl Relay {
    /// Joins a client to its topics; before that, it gets what it missed since a position.
    fn join(&self, core: &mut Core, key: SessionKey, client: &Client) -> Outcome {
        let joined = TOPICS
            .iter()
            .filter(|topic| client.path.contains(topic.as_str()));
        let wanted: Vec<_> = joined.clone().map(Wanted::exact).collect();
        let since = client.since.as_deref();
        let recipient = Recipient {
            key,
            bytes_beside: 0,
        };
        let mut found = since.map(|since| core.missed(recipient, since, &wanted));
        for topic in joined {
            core.join(key, topic);
        }
        let Some((missed, outcomes)) = &mut found else {
            return Ok(());
        };
        outcomes.iter().copied().collect::<Outcome>()?;
        while missed.has_unmade() {
            core.make_missed(recipient, missed)?;
        }
        core.send_missed(key, std::mem::take(missed));
        Ok(())
    }
}

/// A client as the gateway knows it.
struct Client {
    path: &'static str,
    since: Option<String>,
}

enum In {
    Publish(Publication),
    Send(SessionKey, Arc<Frame>),
    Apart(SessionKey),
}

impl Gateway for Relay {
    type Client = Client;
    type In = In;
    type Out = Infallible;

    fn entrance(&self, _: &str) -> Entrance<'_> {
        Entrance::Clients(Origins::any())
    }

    fn admit(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission<Client> {
        let path = PATHS.into_iter().find(|path| *path == head.path());
        let accepted = Accepted {
            max_rate: MaxRate::of(head).unwrap_or_default(),
            ..Accepted::default()
        };
        let client = Client {
            path: path.unwrap_or("/"),
            since: head.parameters("since").next().map(Into::into),
        };
        Admission::Accept(accepted, client)
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        self.has_recovered
            .set(self.join(core, key, client).is_ok() && client.since.is_some());
    }

    fn handle_message(&mut self, _: &mut Core, _: SessionKey, _: &mut Client, _: Incoming<'_>) {}

    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<Client>, input: In) {
        match input {
            In::Publish(publication) => core.publish(&publication),
            In::Send(key, frame) => core.send(key, &frame),
            In::Apart(key) => core.leave_window(key),
        }
    }
}

/// How the messages of a client are inflated, by the response.
enum Window {
    /// One text after the other.
    Kept(KeptInflater),
    /// Each message alone, with a window of so many bits.
    Alone(u8),
    Plain,
}

impl Window {
    fn of(response: &str) -> Self {
        let bits = response.split_once("server_max_window_bits=");
        let bits = bits.map_or(15, |(_, bits)| {
            let digits = bits.find(|c: char| !c.is_ascii_digit());
            bits[..digits.unwrap_or(bits.len())].parse().expect("bits")
        });
        match (
            response.contains("permessage-deflate"),
            response.contains("server_no_context_takeover"),
        ) {
            (false, _) => Self::Plain,
            (true, true) => Self::Alone(bits),
            (true, false) => Self::Kept(KeptInflater::new(bits)),
        }
    }

    fn message(&mut self, first: u8, payload: &[u8]) -> Vec<u8> {
        match (first, self) {
            (0x81 | 0x82, _) => payload.to_vec(),
            (0xc1 | 0xc2, Self::Kept(inflater)) => inflater.message(payload),
            (0xc1 | 0xc2, Self::Alone(bits)) => KeptInflater::new(*bits).message(payload),
            _ => panic!("a frame that begins with {first:#x}"),
        }
    }
}

/// What was sent to a client.
#[derive(Clone)]
struct Sent {
    body: Vec<u8>,
    /// A newer state may come in its place.
    is_state: bool,
}

/// A client that reads what its kernel takes.
struct Reader {
    path: &'static str,
    /// Whether states wait for the client's own slots, while others go on.
    has_rate: bool,
    /// Bytes that the kernel takes.
    room: usize,
    bytes: Vec<u8>,
    /// After the response.
    window: Option<Window>,
    /// What was sent, and has not come.
    sent: VecDeque<Sent>,
    /// The states that have come.
    states: Vec<Vec<u8>>,
}

impl Reader {
    fn received(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.window.is_none() {
            let end = self.bytes.windows(4).position(|w| w == b"\r\n\r\n");
            let Some(end) = end else {
                return;
            };
            assert!(self.bytes.starts_with(b"HTTP/1.1 101 "));
            let response: Vec<u8> = self.bytes.drain(..end + 4).collect();
            self.window = Some(Window::of(&String::from_utf8_lossy(&response)));
        }
        while let Some((header, payload)) = header(&self.bytes) {
            let Some(payload) = self.bytes.get(header..header + payload) else {
                return;
            };
            let end = header + payload.len();
            let window = self.window.as_mut().expect("a response");
            let message = window.message(self.bytes[0], payload);
            self.bytes.drain(..end);
            self.take(&message);
        }
    }

    /// Takes a message that was sent, and what may be skipped for it.
    fn take(&mut self, message: &[u8]) {
        let is_it = |sent: &Sent| is_it(message, &sent.body);
        if self.has_rate {
            // Of two equal texts the state is the one that may be skipped.
            let mut sent = self.sent.iter();
            let plain = sent.position(|sent| !sent.is_state && is_it(sent));
            let at = plain.or_else(|| self.sent.iter().position(is_it));
            self.sent
                .remove(at.expect("a text that was sent, and has not come"));
            return;
        }
        let at = self.sent.iter().position(is_it);
        let at = at.expect("a text that was sent, and has not come");
        for skipped in self.sent.drain(..at).filter(|sent| !sent.is_state) {
            // It may have come in the place of a state with the same text, which was skipped.
            let twin = self.states.iter().position(|body| *body == skipped.body);
            let twin = twin.expect("a text that is no state is never skipped");
            self.states.swap_remove(twin);
        }
        let taken = self.sent.pop_front();
        let taken = taken.filter(|sent| sent.is_state);
        self.states.extend(taken.map(|sent| sent.body));
    }

    /// All has come, or a newer state in its place; of equal texts, one may have been taken for a state that was skipped.
    fn has_all(&self) -> bool {
        let mut states: Vec<&[u8]> = self.states.iter().map(|body| &**body).collect();
        self.sent.iter().all(|sent| {
            let twin = states.iter().position(|body| *body == sent.body);
            if let (false, Some(twin)) = (sent.is_state, twin) {
                states.swap_remove(twin);
            }
            twin.is_some() || self.has_rate && sent.is_state
        })
    }
}

/// Bytes of the header and of the payload of the first frame.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    match (bytes.get(1)?, bytes.get(2..10)) {
        (126, _) => Some((
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        )),
        (127, long) => Some((10, u64::from_be_bytes(long?.try_into().ok()?) as usize)),
        (short, _) => Some((2, usize::from(*short))),
    }
}

/// Whether a message is the one that was sent; a number may be before its body.
fn is_it(message: &[u8], sent: &[u8]) -> bool {
    let Some(before) = message.strip_suffix(sent) else {
        return false;
    };
    let number = before.strip_prefix(b"{\"seq\":".as_slice());
    before.is_empty() || number.is_some_and(|number| number.iter().all(u8::is_ascii_digit))
}

#[derive(Default)]
struct Net(BTreeMap<SessionKey, Reader>);

impl Transmit for Net {
    fn send(&mut self, writes: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        for write in writes {
            let client = self.0.get_mut(&write.key).expect("a client");
            let mut taken = 0;
            for slice in write.slices {
                let bytes = &slice[..slice.len().min(client.room)];
                client.room -= bytes.len();
                taken += bytes.len();
                client.received(bytes);
            }
            wrote.push(match taken {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                taken => Ok(taken),
            });
        }
    }
}

struct Run {
    hub: Hub<Relay>,
    has_recovered: Rc<Cell<bool>>,
    net: Net,
    now: Now,
    alive: FrameBytes,
    /// Topic and text of each message that is kept; its number is its place, from 1 on.
    kept: Vec<(usize, Sent)>,
    resumes: u64,
}

fn position(number: usize) -> Position {
    let (major, minor) = (number as u64, 7 * number as u64);
    Position::stored(1, StoredId { major, minor })
}

impl Run {
    fn new([level, write, small]: [u8; 3]) -> Self {
        let limits = Limits {
            deflate_level: 1 + u32::from(level) % 9,
            write_bytes_max: [100, 3_000, 1 << 17][usize::from(write) % 3],
            deflate_min_bytes: [0, 256][usize::from(small) % 2],
            frame_bytes_max: u64::MAX,
            ping_interval_us: 0,
            history: HistoryLimits {
                keep_us: 3_600_000_000,
                ..HistoryLimits::default()
            },
            send_queue: SendQueueLimits {
                soft_bytes: 1 << 20,
                hard_bytes: usize::MAX,
                soft_for_us: u64::MAX / 2,
                conflate_after_us: 1_000,
                stall_us: u64::MAX / 2,
                control_bytes_max: 1 << 20,
            },
            ..Limits::default()
        };
        let (alive, has_recovered) = (FrameBytes::default(), Rc::default());
        let relay = Relay {
            has_recovered: Rc::clone(&has_recovered),
        };
        let now = Now {
            mono_us: 1_000_000,
            unix_us: 1_000_000,
        };
        let mut hub = Hub::new(Core::new(limits, alive.clone(), 1), relay);
        let head = BusNotice::Feed(FeedNotice::Head(position(1)));
        hub.handle_notice(now, &head);
        let first = Sent {
            body: Vec::new(),
            is_state: false,
        };
        Self {
            hub,
            has_recovered,
            net: Net::default(),
            now,
            alive,
            kept: vec![(0, first)],
            resumes: 0,
        }
    }

    /// A client with an offer and a rate of this choice, which comes back to get what followed a message of this number.
    fn connect(&mut self, path: &'static str, choice: u8, since: Option<usize>) {
        let offer = OFFERS[usize::from(choice >> 2) % OFFERS.len()];
        let rate = RATES[usize::from(choice >> 5) % RATES.len()];
        let peer = SocketAddr::from(([127, 0, 0, 1], 4_000));
        let key = self.hub.handle_accepted(self.now, peer, Transport::Plain);
        let client = Reader {
            path,
            has_rate: !rate.is_empty(),
            room: usize::MAX,
            bytes: Vec::new(),
            window: None,
            sent: VecDeque::new(),
            states: Vec::new(),
        };
        self.net.0.insert(key, client);
        let query = match (rate, since) {
            ("", None) => String::new(),
            ("", Some(since)) => format!("?since={}", position(since)),
            (rate, _) => format!("?max_hz={rate}"),
        };
        let request = format!(
            "GET {path}{query} HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Extensions: {offer}\r\n\r\n"
        );
        self.hub.begin_part(1 << 30);
        self.has_recovered.set(false);
        self.hub.handle_bytes(self.now, key, request.as_bytes());
        if self.has_recovered.get() {
            self.resumes += 1;
            let missed = self.kept.iter().skip(since.unwrap_or(usize::MAX));
            let missed = missed.filter(|(topic, _)| path.contains(TOPICS[*topic].as_str()));
            let client = self.net.0.get_mut(&key).expect("a client");
            client.sent.extend(missed.map(|(_, sent)| sent.clone()));
        }
        self.flush();
    }

    /// A client leaves, whatever waits for it, and comes back with another offer after a message of the past.
    fn come_back(&mut self, key: SessionKey, choice: u8, before: u8) {
        let client = self.net.0.remove(&key).expect("a client");
        self.hub
            .handle_failed(self.now, key, CloseReason::PeerGone, SocketEnd::Close);
        self.flush();
        let newest = self.kept.len();
        let since = newest - usize::from(before) % newest;
        self.connect(client.path, choice, Some(since));
    }

    fn flush(&mut self) {
        self.hub.begin_part(1 << 30);
        while self.hub.has_to_flush() && self.hub.flush(self.now, &mut self.net) {}
        while let Some(effect) = self.hub.poll_effect() {
            if let Effect::Release { key, .. } = effect {
                self.hub.handle_released(key);
            }
        }
        self.hub.check_invariants();
    }

    fn publish(&mut self, topic: usize, kind: u8, body: Vec<u8>) {
        let frame = self.frame(kind, &body);
        let is_state = kind & 0x60 == 0x40;
        let sent = Sent { body, is_state };
        for client in self.net.0.values_mut() {
            if client.path.contains(TOPICS[topic].as_str()) {
                client.sent.push_back(sent.clone());
            }
        }
        let mut publication = Publication::new(TOPICS[topic].clone(), frame);
        // A kept message is the same for all, without a number.
        if kind & 0x60 != 0x20 {
            self.kept.push((topic, sent));
            publication.place = Place::Kept(Some(position(self.kept.len())));
        }
        self.input(In::Publish(publication));
    }

    fn frame(&self, kind: u8, body: &[u8]) -> Arc<Frame> {
        let frame = match kind & 0x80 {
            0 => Frame::binary(&self.alive),
            _ => Frame::text(&self.alive),
        };
        let frame = frame.received(self.now);
        let frame = match kind & 0x10 {
            0 => frame.common(true),
            _ => frame,
        };
        let frame = match kind & 0x60 {
            0x20 if !body.is_empty() => frame.prefix(PREFIX),
            0x40 => frame.key(ConflationKey(1)),
            _ => frame,
        };
        frame.body(body).finish()
    }

    fn input(&mut self, input: In) {
        self.hub.begin_part(1 << 30);
        self.hub.handle_input(self.now, input);
    }

    fn chosen(&self, who: u8) -> Option<SessionKey> {
        let at = usize::from(who) % self.net.0.len().max(1);
        self.net.0.keys().nth(at).copied()
    }

    fn step(&mut self, [verb, who, kind, seed, edge, low, high]: [u8; 7]) {
        let Some(key) = self.chosen(who) else {
            return self.connect(PATHS[usize::from(kind) % PATHS.len()], kind, None);
        };
        match verb % 16 {
            0..9 => {
                let body = body(
                    KINDS[usize::from(kind % 16) % KINDS.len()],
                    size(&EDGES, [edge, low, high]),
                    seed,
                );
                self.publish(usize::from(who) % 2, kind, body);
            }
            9 => {
                let body = body(
                    KINDS[usize::from(seed) % KINDS.len()],
                    usize::from(low),
                    seed,
                );
                let frame = Frame::binary(&self.alive).answer().body(&body).finish();
                let client = self.net.0.get_mut(&key);
                let is_state = false;
                client.expect("one").sent.push_back(Sent { body, is_state });
                self.input(In::Send(key, frame));
            }
            10..12 => {
                let room = usize::from(u16::from_le_bytes([low, high])) >> (edge % 12);
                self.net.0.get_mut(&key).expect("one").room = room;
                self.hub.handle_writable(self.now, key);
            }
            12 if self.net.0.len() < CLIENTS_MAX => {
                self.connect(PATHS[usize::from(kind) % PATHS.len()], kind, None);
            }
            13 if seed == 0 => self.input(In::Apart(key)),
            14 => self.come_back(key, kind, seed),
            _ => {
                self.now.mono_us += u64::from(low) * 100;
                self.hub.handle_timeout(self.now);
            }
        }
        // Sometimes more happens before a flush.
        if verb & 0x80 == 0 {
            self.flush();
        }
    }

    fn finish(&mut self) -> (u64, u64, u64, u64) {
        // The slots of all rates.
        self.now.mono_us += 1_000_000;
        self.hub.handle_timeout(self.now);
        for key in self.net.0.keys().copied().collect::<Vec<_>>() {
            self.net.0.get_mut(&key).expect("one").room = usize::MAX;
            self.hub.handle_writable(self.now, key);
            self.flush();
            self.flush();
            let client = &self.net.0[&key];
            assert!(client.bytes.is_empty(), "a part of a message");
            assert!(client.has_all(), "it has not come");
        }
        let stats = self.hub.stats();
        (
            stats.encodings_chained.min(9),
            stats.encodings_alone.min(3),
            stats.messages_conflated.min(3),
            self.resumes.min(3),
        )
    }
}

/// Settings and clients, then seven bytes for each step.
pub(crate) fn run(data: &[u8]) -> u64 {
    let ([level, write, small, clients], steps) = choices(data);
    let mut run = Run::new([level, write, small]);
    for path in PATHS.iter().take(1 + usize::from(clients) % 4) {
        run.connect(path, clients & !3, None);
    }
    let (steps, _) = steps.as_chunks::<7>();
    for step in steps.iter().take(STEPS_MAX) {
        run.step(*step);
    }
    outcome((level % 9, write % 3, run.finish()))
}
