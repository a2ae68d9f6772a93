//! A whole gateway without a socket: a hub, simulated clients and a clock that only the test moves.
//! Everything random comes from the seed that the test prints.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod client;
pub(crate) mod inflate;
pub(crate) mod ledger;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod seeds;
pub(crate) mod state;
pub(crate) mod time;
pub(crate) mod toys;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weirgate::gateways::channels::{ChannelsOutput, RetainedRequest};
use weirgate::gateways::events::call::Call;
use weirgate_core::{
    Core, Effect, FrameBytes, Gateway, Hub, Limits, PageCursor, PeerEnd, SessionKey, SocketEnd,
};
use weirgate_wire::admission::{ConnectionPermit, Transport};
use weirgate_wire::base::{Now, SplitMix64};

use client::Client;
use memory::MemorySeen;
use net::{Net, Socket};
use time::Steps;

/// Seeded choices of what happens.
#[derive(Clone, Debug)]
pub(crate) struct Random(SplitMix64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// An output of a gateway, as kept by a test.
pub(crate) trait Output {
    type Kept: Default;
    fn keep(self, kept: &mut Self::Kept);
}

impl Output for Infallible {
    type Kept = ();

    fn keep(self, (): &mut ()) {
        match self {}
    }
}

impl Output for Call {
    type Kept = Vec<Self>;

    fn keep(self, kept: &mut Vec<Self>) {
        kept.push(self);
    }
}

impl Output for ChannelsOutput {
    type Kept = Interests;

    fn keep(self, kept: &mut Interests) {
        let change = match self {
            Self::Interest(change) => change,
            Self::GapNotified { clients } => return kept.told.push(clients),
            Self::OldTable(acl) => return kept.old_tables.push(acl.to_json()),
            Self::Retained(RetainedRequest::Ask {
                name,
                cover,
                number,
                after,
                ..
            }) => {
                kept.after.insert(number, after);
                if let Some(cover) = cover {
                    kept.covers.insert(number, cover.into());
                }
                return kept.retained.push((name.as_str().to_owned(), number));
            }
            Self::Retained(RetainedRequest::All {
                name,
                number,
                after,
                names,
                ..
            }) => {
                kept.after.insert(number, after);
                let mut names: Vec<String> = names.iter().cloned().map(String::from).collect();
                names.sort();
                kept.sought.insert(number, names);
                return kept.all.push((name.as_str().to_owned(), number));
            }
            Self::Retained(RetainedRequest::Newest { name, number, .. }) => {
                return kept.newest.push((name.as_str().to_owned(), number));
            }
            // Here questions do not wait for their turns.
            Self::Retained(RetainedRequest::Move { .. }) => return,
            Self::Retained(RetainedRequest::More { name, number }) => {
                return kept.more.push((name.as_str().to_owned(), number));
            }
            Self::Retained(RetainedRequest::Forget { name, number }) => {
                return kept.forgotten.push((name.as_str().to_owned(), number));
            }
        };
        let name = change.name.as_str().to_owned();
        let before = kept.wanted.insert(name.clone(), change.wanted);
        assert_eq!(before.unwrap_or(false), !change.wanted, "no change");
        kept.numbers.insert(name, change.number);
    }
}

/// The requests of the channels gateway to Redis.
#[derive(Debug, Default)]
pub(crate) struct Interests {
    /// Names, and whether each is still wanted.
    pub(crate) wanted: BTreeMap<String, bool>,
    /// The number of the newest change of each name.
    pub(crate) numbers: BTreeMap<String, u64>,
    /// Number of notified clients, for each loss.
    pub(crate) told: Vec<u64>,
    /// Tables of roles that are no longer in force, as JSON.
    pub(crate) old_tables: Vec<String>,
    /// Requests for last values, with their numbers.
    pub(crate) retained: Vec<(String, u64)>,
    /// Requests for all kept messages, with their numbers.
    pub(crate) all: Vec<(String, u64)>,
    /// The names that clients wait for with each of them, in order.
    pub(crate) sought: BTreeMap<u64, Vec<String>>,
    /// The wider patterns that Redis is asked for in place of names with requests for last values.
    pub(crate) covers: BTreeMap<u64, String>,
    /// What was read before each of these requests.
    pub(crate) after: BTreeMap<u64, Arc<PageCursor>>,
    /// Requests for the next page of last values.
    pub(crate) more: Vec<(String, u64)>,
    /// Requests for the newest messages in the stream.
    pub(crate) newest: Vec<(String, u64)>,
    /// Cancelled requests for last values.
    pub(crate) forgotten: Vec<(String, u64)>,
}

/// The outputs of the toys.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) calls: Vec<toys::Call>,
    pub(crate) interest: BTreeMap<String, bool>,
}

impl Output for toys::Out {
    type Kept = Outside;

    fn keep(self, kept: &mut Outside) {
        match self {
            Self::Call(call) => kept.calls.push(call),
            Self::Interest(topic, wanted) => {
                let before = kept.interest.insert(topic.as_str().to_owned(), wanted);
                assert_eq!(before.unwrap_or(false), !wanted, "no change of {topic:?}");
            }
        }
    }
}

/// The time of a part of a turn, which only [`Steps::end_part`] ends early.
pub(crate) const PART_US: u64 = 1 << 30;

/// A hub, its sockets and its clock.
pub(crate) struct World<G: Gateway<Out: Output>> {
    pub(crate) hub: Hub<G>,
    pub(crate) net: Net,
    pub(crate) now: Now,
    pub(crate) time: Steps,
    pub(crate) outputs: <G::Out as Output>::Kept,
    pub(crate) to_http: Vec<Vec<u8>>,
    /// Permits of connections handed over to HTTP, if kept.
    pub(crate) handed_over: Option<Vec<ConnectionPermit>>,
    /// Permits of such connections for which there was no room, if kept.
    pub(crate) last_requests: Option<Vec<ConnectionPermit>>,
    pub(crate) frame_bytes: FrameBytes,
    /// Several events happen in a turn: no flush in between.
    pub(crate) held: bool,
    /// The process stood still: no timeout is handled before all events since then.
    pub(crate) catching_up: bool,
    /// Ended sockets, not checked yet.
    pub(crate) released: Vec<SessionKey>,
    pub(crate) resumed: u64,
    pub(crate) memory: MemorySeen,
    settles: u64,
}

impl<G: Gateway<Out: Output>> World<G> {
    pub(crate) fn new(limits: Limits, gateway: G, seed: u64) -> Self {
        let frame_bytes = FrameBytes::default();
        let core = Core::new(limits, frame_bytes.clone(), seed);
        let time = Steps::default();
        let mut hub = Hub::new(core, gateway);
        let clock = time.clone();
        hub.set_turn_clock(move || clock.mono_us());
        Self {
            hub,
            net: Net::new(time.clone()),
            time,
            now: Now {
                mono_us: 1_000_000,
                unix_us: 1_715_629_300_000 * 1_000,
            },
            outputs: Default::default(),
            to_http: Vec::new(),
            handed_over: None,
            last_requests: None,
            frame_bytes,
            held: false,
            catching_up: false,
            released: Vec::new(),
            resumed: 0,
            memory: MemorySeen::default(),
            settles: 0,
        }
    }

    /// Accepts a connection; the kernel takes `room` bytes at first.
    pub(crate) fn accept(&mut self, room: usize) -> SessionKey {
        self.accept_from([127, 0, 0, 1].into(), room)
    }

    /// Accepts a connection from another address.
    pub(crate) fn accept_from(&mut self, ip: IpAddr, room: usize) -> SessionKey {
        let key = self
            .hub
            .handle_accepted(self.now, SocketAddr::new(ip, 4_000), Transport::Plain);
        self.socket(key, room)
    }

    /// Takes back a connection that served HTTP and now requests a WebSocket.
    pub(crate) fn come_back(&mut self, permit: ConnectionPermit, room: usize) -> SessionKey {
        let peer = SocketAddr::from(([127, 0, 0, 1], 4_000));
        let key = self.hub.handle_returned(self.now, peer, permit);
        self.socket(key, room)
    }

    /// The socket of an accepted connection.
    pub(crate) fn socket(&mut self, key: SessionKey, room: usize) -> SessionKey {
        let socket = Socket {
            room,
            ..Socket::default()
        };
        assert!(
            self.net.sockets.insert(key, socket).is_none(),
            "a key was given twice"
        );
        self.settle();
        key
    }

    /// Connects a client to `target`; `deflate`: the bits of the window.
    pub(crate) fn connect(&mut self, target: &str, deflate: Option<u8>) -> SessionKey {
        self.connect_from([127, 0, 0, 1].into(), target, deflate)
    }

    /// Connects a client from another address.
    pub(crate) fn connect_from(
        &mut self,
        ip: IpAddr,
        target: &str,
        deflate: Option<u8>,
    ) -> SessionKey {
        let key = self.accept_from(ip, usize::MAX);
        let request = client::request(target, deflate);
        self.send(key, &request);
        let socket = &self.net.sockets[&key];
        assert!(socket.client.is_open(), "no 101: {:?}", socket.client);
        if deflate == Some(client::NO_TAKEOVER) {
            assert!(!socket.client.keeps_window(), "the client asked for none");
        }
        key
    }

    /// The client sends bytes; bytes that the hub does not read yet wait in the kernel.
    pub(crate) fn send(&mut self, key: SessionKey, bytes: &[u8]) {
        let Some(socket) = self.net.sockets.get_mut(&key) else {
            return;
        };
        socket.unread.extend(bytes);
        self.pump(key);
        self.settle();
    }

    pub(crate) fn text(&mut self, key: SessionKey, text: &str) {
        self.send(key, &client::frame(0x81, text.as_bytes()));
    }

    fn pump(&mut self, key: SessionKey) {
        self.hub.begin_part(PART_US);
        let is_unread = |net: &Net| {
            let socket = net.sockets.get(&key);
            socket.is_some_and(|socket| !socket.unread.is_empty())
        };
        while is_unread(&self.net) && self.hub.request_read(key) {
            let Some(socket) = self.net.sockets.get_mut(&key) else {
                return;
            };
            let bytes: Vec<u8> = socket.unread.drain(..).collect();
            self.hub.handle_bytes(self.now, key, &bytes);
        }
    }

    /// The kernel takes `room` more bytes for this client.
    pub(crate) fn open_window(&mut self, key: SessionKey, room: usize) {
        // A released socket belongs to the kernel alone.
        let open = |socket: &&mut Socket| socket.released.is_none();
        let Some(socket) = self.net.sockets.get_mut(&key).filter(open) else {
            return;
        };
        socket.room = socket.room.saturating_add(room);
        let sent_held = socket.send_held();
        let is_free = socket.room > 0 && socket.held == 0;
        if sent_held > 0 {
            if socket.blocked {
                socket.blocked_at = Some(self.now.mono_us);
            }
            self.hub.handle_progress(self.now, key);
        }
        let socket = self.net.sockets.get_mut(&key).expect("a socket");
        if socket.blocked && room > 0 && is_free {
            socket.blocked = false;
            self.hub.handle_writable(self.now, key);
        }
        self.settle();
    }

    /// The peer's side ends, perhaps behind unread bytes.
    pub(crate) fn see_end(&mut self, key: SessionKey, failed: bool) {
        self.hub.handle_end_seen(self.now, key, peer_end(failed));
        self.settle();
        let unread = self.net.sockets[&key].unread.len();
        if unread == 0 && self.hub.wants_read(key) {
            self.end(key, failed);
        } else if !self.hub.wants_read(key) {
            // Like the shell, for a socket without permission to read.
            self.hub.handle_end_seen(self.now, key, peer_end(failed));
            self.settle();
        }
    }

    /// The peer's side ends.
    pub(crate) fn end(&mut self, key: SessionKey, failed: bool) {
        self.hub.handle_ended(self.now, key, peer_end(failed));
        self.settle();
    }

    pub(crate) fn advance(&mut self, us: u64) {
        self.now = self.now.plus_us(us);
        self.hub.handle_timeout(self.now);
        self.settle();
    }

    /// A turn of a busy loop, which has time for the writes of one batch.
    pub(crate) fn flush_one_batch(&mut self) {
        self.net.batches_max = Some(self.net.batches + 1);
        self.flush();
        self.now = self.now.plus_us(1_250_000);
    }

    /// Flushes once; returns true if some clients have more.
    pub(crate) fn flush(&mut self) -> bool {
        self.hub.begin_part(PART_US);
        self.hub.flush(self.now, &mut self.net)
    }

    /// The loop has time for everything again.
    pub(crate) fn catch_up(&mut self) {
        self.net.batches_max = None;
        self.held = false;
        self.settle();
    }

    /// Takes what the gateway asks of other threads.
    pub(crate) fn keep_outputs(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            output.keep(&mut self.outputs);
        }
    }

    /// Flushes and carries out effects until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        if self.held {
            return;
        }
        self.net.now_us = self.now.mono_us;
        for turns in 0.. {
            assert!(turns < 100_000, "a loop without an end");
            let more = self.flush();
            self.look_at_memory();
            let mut any = false;
            for key in std::mem::take(&mut self.net.closed) {
                any = true;
                self.answer_close(key);
            }
            while let Some(effect) = self.hub.poll_effect() {
                any = true;
                self.carry_out(effect);
            }
            self.keep_outputs();
            // A client with its share of this turn used up is read again in the next.
            self.hub.begin_part(PART_US);
            if self.hub.waiting_shares() > 0 {
                self.hub.handle_next_share(self.now);
                continue;
            }
            if self.hub.waiting_for_room() > 0 {
                if let Some(key) = self.hub.handle_next_room(self.now) {
                    self.pump(key);
                }
                continue;
            }
            // Work that is left for the next turn is due at once.
            let due = self.hub.poll_timeout();
            if due.is_some_and(|at| at <= self.now.mono_us) && !self.catching_up {
                self.hub.handle_timeout(self.now);
                continue;
            }
            if !more && !any {
                break;
            }
        }
        self.settles += 1;
        if self.net.sockets.len() < 10 || self.settles.is_multiple_of(4) {
            self.hub.check_invariants();
        }
    }

    fn answer_close(&mut self, key: SessionKey) {
        if let Some(socket) = self.net.sockets.get_mut(&key) {
            socket.unread.extend(client::frame(0x88, b""));
            self.pump(key);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::HalfClose(key) => {
                let socket = self.net.sockets.get_mut(&key).expect("it exists");
                assert!(!socket.half_closed, "half-closed twice");
                socket.half_closed = true;
                if socket.client.is_polite {
                    self.hub.handle_ended(self.now, key, PeerEnd::Closed);
                }
            }
            Effect::Release {
                key,
                socket_end,
                ended,
            } => {
                let socket = self.net.sockets.get_mut(&key).expect("it exists");
                assert!(socket.released.is_none(), "released twice");
                assert_eq!(
                    ended.traffic.bytes_out, socket.bytes,
                    "the line about the end"
                );
                socket.released = Some(socket_end);
                self.released.push(key);
                self.hub.handle_released(key);
            }
            Effect::ToHttp { key, read, permit } => {
                // A connection for which there is no room ends after its answer.
                let kept = match permit.is_last_request() {
                    true => &mut self.last_requests,
                    false => &mut self.handed_over,
                };
                if let Some(kept) = kept {
                    kept.push(permit);
                }
                let held = self.hub.core().limits().http_held.held();
                // Other connections may be on their way.
                assert!(held >= read.len() as u64, "the bytes have their charge");
                self.to_http.push(read.to_vec());
                let socket = self.net.sockets.get_mut(&key).expect("it exists");
                assert!(socket.released.is_none(), "released twice");
                socket.released = Some(SocketEnd::Close);
                self.released.push(key);
                self.hub.handle_released(key);
            }
            Effect::ReadOn(key) => {
                self.resumed += 1;
                self.pump(key);
            }
            Effect::ReadLast(key) => {
                self.pump(key);
                self.hub.handle_last_read(self.now, key);
            }
        }
    }

    pub(crate) fn client(&self, key: SessionKey) -> &Client {
        &self.net.sockets[&key].client
    }

    /// Takes the text received by a client of an event stream since the last call.
    pub(crate) fn sent(&mut self, key: SessionKey) -> String {
        let socket = self.net.sockets.get_mut(&key).expect("a client");
        socket.client.take_rest()
    }

    /// Takes the binary messages received by a client since the last call.
    pub(crate) fn binaries(&mut self, key: SessionKey) -> Vec<Vec<u8>> {
        let socket = self.net.sockets.get_mut(&key).expect("a client");
        std::mem::take(&mut socket.client.binaries)
    }

    /// Takes the text messages received by a client since the last call.
    pub(crate) fn texts(&mut self, key: SessionKey) -> Vec<String> {
        let socket = self.net.sockets.get_mut(&key).expect("a client");
        std::mem::take(&mut socket.client.texts)
    }
}

fn peer_end(failed: bool) -> PeerEnd {
    match failed {
        true => PeerEnd::Failed,
        false => PeerEnd::Closed,
    }
}
