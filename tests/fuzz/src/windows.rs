//! Messages to clients that keep a window, each with an inflater of its own: every text comes out as it was sent,
//! whatever the clients got before, and wherever their writes were cut.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use weirgate_core::{
    Accepted, Admission, ByClient, ConflationKey, Core, Entrance, Frame, FrameBytes, Gateway, Hub,
    Incoming, Limits, Now, Prefix, Publication, SendQueueLimits, SessionKey, TopicName, Transmit,
    Write,
};
use weirgate_test_support::KeptInflater;
use weirgate_wire::auth::Origins;
use weirgate_wire::head::RequestHead;

use super::bodies::{KINDS, body, size};
use super::{choices, outcome};

/// Steps of one input.
const STEPS_MAX: usize = 96;

/// Sizes around which something changes: the least size, the window, and messages that refer to none.
const EDGES: [usize; 4] = [64, 700, 32_768, 131_072];

const TOPICS: [TopicName; 2] = [TopicName::fixed("a"), TopicName::fixed("b")];

/// The clients of `/ab` get both topics.
const PATHS: [&str; 4] = ["/a", "/ab", "/ab", "/b"];

const PREFIX: Prefix = Prefix::Seq("{\"seq\":");

struct Relay;

enum In {
    Publish(usize, Arc<Frame>),
    Send(SessionKey, Arc<Frame>),
    Apart(SessionKey),
}

impl Gateway for Relay {
    type Client = &'static str;
    type In = In;
    type Out = Infallible;

    fn entrance(&self, _: &str) -> Entrance<'_> {
        Entrance::Clients(Origins::any())
    }

    fn admit(
        &mut self,
        _: &mut Core,
        _: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<&'static str> {
        let path = PATHS.into_iter().find(|path| *path == head.path());
        Admission::Accept(Accepted::default(), path.unwrap_or("/"))
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, path: &mut &'static str) {
        for topic in TOPICS.iter().filter(|topic| path.contains(topic.as_str())) {
            core.join(key, topic);
        }
    }

    fn handle_message(
        &mut self,
        _: &mut Core,
        _: SessionKey,
        _: &mut &'static str,
        _: Incoming<'_>,
    ) {
    }

    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<&'static str>, input: In) {
        match input {
            In::Publish(topic, frame) => {
                core.publish(&Publication::new(TOPICS[topic].clone(), frame));
            }
            In::Send(key, frame) => core.send(key, &frame),
            In::Apart(key) => core.leave_window(key),
        }
    }
}

/// A client that reads what its kernel takes.
struct Client {
    path: &'static str,
    /// Bytes that the kernel takes.
    room: usize,
    bytes: Vec<u8>,
    is_open: bool,
    inflater: KeptInflater,
    /// What was sent, and has not come.
    sent: VecDeque<Vec<u8>>,
}

impl Client {
    fn received(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if !self.is_open {
            let end = self.bytes.windows(4).position(|w| w == b"\r\n\r\n");
            let Some(end) = end else {
                return;
            };
            assert!(self.bytes.starts_with(b"HTTP/1.1 101 "));
            self.bytes.drain(..end + 4);
            self.is_open = true;
        }
        while let Some((header, payload)) = header(&self.bytes) {
            let Some(compressed) = self.bytes.get(header..header + payload) else {
                return;
            };
            assert_eq!(self.bytes[0], 0xc2, "a compressed binary message");
            let message = self.inflater.message(compressed);
            self.bytes.drain(..header + payload);
            // States may be skipped.
            while let Some(sent) = self.sent.pop_front() {
                if is_it(&message, &sent) {
                    break;
                }
                assert!(!self.sent.is_empty(), "another text than any that was sent");
            }
        }
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
struct Net(BTreeMap<SessionKey, Client>);

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
    net: Net,
    now: Now,
    alive: FrameBytes,
}

impl Run {
    fn new([level, write, small]: [u8; 3]) -> Self {
        let limits = Limits {
            deflate_level: 1 + u32::from(level) % 9,
            write_bytes_max: [100, 3_000, 1 << 17][usize::from(write) % 3],
            deflate_min_bytes: [0, 256][usize::from(small) % 2],
            frame_bytes_max: u64::MAX,
            ping_interval_us: 0,
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
        let alive = FrameBytes::default();
        Self {
            hub: Hub::new(Core::new(limits, alive.clone(), 1), Relay),
            net: Net::default(),
            now: Now {
                mono_us: 1_000_000,
                unix_us: 1_000_000,
            },
            alive,
        }
    }

    fn connect(&mut self, path: &'static str) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 4_000));
        let key = self.hub.handle_accepted(self.now, peer, false);
        let client = Client {
            path,
            room: usize::MAX,
            bytes: Vec::new(),
            is_open: false,
            inflater: KeptInflater::new(15),
            sent: VecDeque::new(),
        };
        self.net.0.insert(key, client);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        );
        self.hub.begin_part(1 << 30);
        self.hub.handle_bytes(self.now, key, request.as_bytes());
        self.flush();
    }

    fn flush(&mut self) {
        self.hub.begin_part(1 << 30);
        while self.hub.has_to_flush() && self.hub.flush(self.now, &mut self.net) {}
        while self.hub.poll_effect().is_some() {}
        self.hub.check_invariants();
    }

    fn frame(&self, kind: u8, body: &[u8]) -> Arc<Frame> {
        let frame = Frame::binary(&self.alive).received(self.now);
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
            return self.connect(PATHS[usize::from(kind) % PATHS.len()]);
        };
        match verb % 16 {
            0..9 => {
                let body = body(
                    KINDS[usize::from(kind % 16) % KINDS.len()],
                    size(&EDGES, [edge, low, high]),
                    seed,
                );
                let (topic, frame) = (usize::from(who) % 2, self.frame(kind, &body));
                for client in self.net.0.values_mut() {
                    if client.path.contains(TOPICS[topic].as_str()) {
                        client.sent.push_back(body.clone());
                    }
                }
                self.input(In::Publish(topic, frame));
            }
            9 => {
                let body = body(
                    KINDS[usize::from(seed) % KINDS.len()],
                    usize::from(low),
                    seed,
                );
                let frame = Frame::binary(&self.alive).answer().body(&body).finish();
                let client = self.net.0.get_mut(&key);
                client.expect("one").sent.push_back(body);
                self.input(In::Send(key, frame));
            }
            10..12 => {
                let room = usize::from(u16::from_le_bytes([low, high])) >> (edge % 12);
                self.net.0.get_mut(&key).expect("one").room = room;
                self.hub.handle_writable(self.now, key);
            }
            12 if self.net.0.len() < 6 => self.connect(PATHS[usize::from(kind) % PATHS.len()]),
            13 if seed == 0 => self.input(In::Apart(key)),
            _ => self.now.mono_us += u64::from(low) * 100,
        }
        // Sometimes more happens before a flush.
        if verb & 0x80 == 0 {
            self.flush();
        }
    }

    fn finish(&mut self) -> (u64, u64, u64) {
        for key in self.net.0.keys().copied().collect::<Vec<_>>() {
            self.net.0.get_mut(&key).expect("one").room = usize::MAX;
            self.hub.handle_writable(self.now, key);
            self.flush();
            self.flush();
            let client = &self.net.0[&key];
            assert!(client.bytes.is_empty(), "a part of a message");
            assert!(client.sent.is_empty(), "it has not come");
        }
        let stats = self.hub.stats();
        (
            stats.encodings_chained.min(9),
            stats.encodings_alone.min(3),
            stats.messages_conflated.min(3),
        )
    }
}

/// Settings and clients, then seven bytes for each step.
pub(crate) fn run(data: &[u8]) -> u64 {
    let ([level, write, small, clients], steps) = choices(data);
    let mut run = Run::new([level, write, small]);
    for path in PATHS.iter().take(1 + usize::from(clients) % 4) {
        run.connect(path);
    }
    let (steps, _) = steps.as_chunks::<7>();
    for step in steps.iter().take(STEPS_MAX) {
        run.step(*step);
    }
    outcome((level % 9, write % 3, run.finish()))
}
