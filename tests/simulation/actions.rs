//! What happens: clients that connect, speak, read or do not, break rules or vanish; a feed that
//! publishes; services that answer; time that passes.

use weirgate_core::{CloseReason, Cut, CutRequest, Frame, PeerEnd, SessionKey, SocketEnd, Whom};

use super::choices;
use super::run::{ALL, Peer, Run, Toy};
use crate::world::client::{NO_TAKEOVER, frame, request};
use crate::world::toys::In;

/// Why an address has no place for one more.
const PER_ADDRESS: [CloseReason; 2] = [
    CloseReason::ConnectionsPerIp,
    CloseReason::ConnectionRatePerIp,
];

impl<T: Toy> Run<T> {
    /// One of the clients whose connection stands and is not closing.
    fn someone(&mut self) -> Option<SessionKey> {
        let ledger = self.ledger.borrow();
        let open = |key: &&SessionKey| {
            let story = ledger.stories.get(key);
            story.is_some_and(|s| s.is_open) && self.world.client(**key).is_open()
        };
        let open: Vec<SessionKey> = self.live.iter().filter(open).copied().collect();
        drop(ledger);
        (!open.is_empty()).then(|| self.random.pick(&open))
    }

    fn anyone(&mut self) -> Option<SessionKey> {
        (!self.live.is_empty()).then(|| self.random.pick(&self.live))
    }

    pub(crate) fn connect(&mut self) {
        if self.live.len() <= self.crowd * 3 / 2 {
            self.newcomer();
        }
    }

    pub(crate) fn newcomer(&mut self) -> SessionKey {
        let reads = self.random.chance(50);
        let room = match reads {
            true => ALL,
            false => choices::room(&mut self.random),
        };
        // One that served HTTP comes back, or ends and gives its place back.
        let back = self.world.handed_over.as_mut().and_then(Vec::pop);
        let back = back.filter(|_| self.random.chance(50));
        let has_place = back.is_some();
        let connections = self.world.hub.core().connections_held().holders();
        let full = !has_place && connections >= self.limits.connections_max;
        let refusal = match has_place || full {
            true => None,
            false => self.neighbours.come(self.world.now.mono_us, self.placed()),
        };
        let refused_before = self.refused_by_address();
        let key = match back {
            Some(permit) => self.world.come_back(permit, room),
            None => self.world.accept(room),
        };
        let refused = PER_ADDRESS.map(|reason| u64::from(refusal == Some(reason)));
        let refused_now = self.refused_by_address();
        assert_eq!(
            refused_now,
            [0, 1].map(|n| refused_before[n] + refused[n]),
            "{refusal:?}"
        );
        assert!(!self.peers.contains_key(&key), "a key was given twice");
        if !self.slots.insert(key.slot) {
            self.coverage.insert("a slot was used again".to_owned());
        }
        let there = |live: &SessionKey| self.world.net.sockets[live].released.is_none();
        let taken = |live: &SessionKey| live.slot == key.slot && there(live);
        assert!(
            !self.live.iter().any(taken),
            "a slot whose socket is still there"
        );
        self.live.push(key);
        let mut peer = Peer {
            always_read: reads,
            accepted_at: self.world.now.mono_us,
            placed: !full && refusal.is_none(),
            ..Peer::default()
        };
        let (mut bytes, whole) = self.head(&mut peer);
        match refusal {
            Some(CloseReason::ConnectionRatePerIp) => peer.status = Some(429),
            Some(_) => peer.status = Some(503),
            // A refusal waits for the head, because a probe gets none.
            None if full && whole => peer.status = Some(503),
            None => {}
        }
        if whole && self.random.chance(30) {
            self.number += 1;
            let text = T::chatter(&mut self.random, self.number);
            bytes.extend(frame(0x81, text.as_bytes()));
        }
        self.peers.insert(key, peer);
        if let Some(socket) = self.world.net.sockets.get_mut(&key) {
            socket.client.is_polite = self.random.chance(70);
            let record = self.random.pick(&[100, 2_000, 16_384]);
            socket.record = self.random.chance(30).then_some(record);
        }
        self.say(key, &bytes);
        key
    }

    /// Connections that have their place among those of their address.
    fn placed(&self) -> usize {
        let here = self
            .live
            .iter()
            .filter(|key| self.peers[key].placed && self.world.net.sockets[key].released.is_none());
        here.count() + self.world.handed_over.as_ref().map_or(0, Vec::len)
    }

    fn refused_by_address(&self) -> [u64; 2] {
        PER_ADDRESS.map(|reason| self.world.hub.stats().closes_for(reason))
    }

    /// A request head, maybe bad, maybe without its end; `true` if a WebSocket may follow.
    fn head(&mut self, peer: &mut Peer) -> (Vec<u8>, bool) {
        let random = &mut self.random;
        let bits = random
            .chance(60)
            .then(|| random.pick(&[NO_TAKEOVER, 9, 10, 11, 12, 13, 14, 15, 15, 15]));
        peer.keeps_no_window = bits == Some(NO_TAKEOVER);
        peer.deflate = bits.is_some() && self.limits.deflate_level > 0;
        let bytes = match random.below(100) {
            0..70 => {
                peer.path = "/ws";
                request("/ws", bits)
            }
            70..83 => {
                peer.path = "/slow";
                request("/slow", bits)
            }
            83..86 => {
                peer.path = "/secret";
                request("/secret", bits)
            }
            86..92 => {
                let (bytes, status) = choices::bad_head(random, &self.limits);
                peer.status = Some(status);
                return (bytes, false);
            }
            92..96 => return (b"GET /health HTTP/1.1\r\nHost: sim\r\n\r\n".to_vec(), false),
            _ => {
                // Its end never comes.
                let mut bytes = request("/ws", bits);
                bytes.truncate(random.below(bytes.len() as u64) as usize);
                peer.status = Some(408);
                return (bytes, false);
            }
        };
        if self.closes_begun() {
            peer.status = Some(503);
        }
        (bytes, true)
    }

    /// The clients' bytes, cut anywhere.
    fn say(&mut self, key: SessionKey, bytes: &[u8]) {
        let mut rest = bytes;
        // A client in the middle of a message is not silent, and the bytes may end there.
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.hindered_until = self.world.now.mono_us;
        }
        if self.random.chance(40) {
            for _ in 0..self.random.between(1, 3) {
                let at = self.random.below(rest.len() as u64 + 1) as usize;
                let (part, after) = rest.split_at(at);
                self.world.send(key, part);
                rest = after;
            }
        }
        self.world.send(key, rest);
    }

    /// The hub takes what this client sends at once.
    fn is_heard(&self, key: SessionKey) -> bool {
        let unread = self.world.net.sockets.get(&key).map(|s| s.unread.len());
        unread == Some(0) && self.world.hub.wants_read(key)
    }

    pub(crate) fn chat(&mut self) {
        let Some(key) = self.someone() else { return };
        self.number += 1;
        let text = T::chatter(&mut self.random, self.number);
        let payload = text.as_bytes();
        let bytes = match self.random.below(10) {
            0 => {
                let at = self.random.below(payload.len() as u64 + 1) as usize;
                let (first, second) = payload.split_at(at);
                [frame(0x01, first), frame(0x80, second)].concat()
            }
            1 if self.peers[&key].deflate => frame(0xc1, &self.compressed(key, payload)),
            _ => frame(0x81, payload),
        };
        self.say(key, &bytes);
    }

    /// As this client compresses its next message.
    fn compressed(&mut self, key: SessionKey, payload: &[u8]) -> Vec<u8> {
        match self.world.net.sockets.get_mut(&key) {
            Some(socket) => socket.client.compress(payload),
            None => choices::deflated(payload),
        }
    }

    /// Binary up to the limit: heard, and ignored by the toys.
    pub(crate) fn bulk(&mut self) {
        let Some(key) = self.someone() else { return };
        let max = self.limits.message_bytes_max as u64;
        let less = self.random.below(max);
        let len = self.random.pick(&[max, less]);
        self.say(key, &frame(0x82, &vec![7; len as usize]));
    }

    pub(crate) fn publish(&mut self) {
        let burst = self.random.pick(&[1, 1, 1, 3, 10]);
        for _ in 0..burst {
            self.publish_unseen();
            self.world.settle();
            self.check();
        }
    }

    /// One message, and nobody looks yet at what follows.
    pub(crate) fn publish_unseen(&mut self) {
        self.number += 1;
        let body = choices::body(&mut self.random, self.number);
        let now = self.world.now;
        let by_feed = self.random.chance(70);
        if let Some(broker) = self.broker.as_mut().filter(|_| by_feed) {
            for publication in broker.step(&mut self.random, now, &body) {
                self.world.hub.handle_publication(now, &publication);
            }
        } else {
            let topic = T::topic(&mut self.random);
            self.world.hub.handle_input(now, In::Publish(topic, body));
        }
    }

    pub(crate) fn read(&mut self) {
        for _ in 0..self.random.between(1, 6) {
            let slow: Vec<SessionKey> = {
                let slow = |key: &&SessionKey| self.world.net.sockets[*key].room < ALL / 2;
                self.live.iter().filter(slow).copied().collect()
            };
            if slow.is_empty() {
                return;
            }
            let key = self.random.pick(&slow);
            if self.random.chance(10) {
                // Byte by byte, through a header and a prefix.
                (0..self.random.between(10, 40)).for_each(|_| self.world.open_window(key, 1));
            }
            // Between two checks its socket may have been full, and be empty again.
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.hindered_until = self.world.now.mono_us;
            }
            let room = match self.random.chance(6) {
                true => ALL,
                false => choices::room(&mut self.random),
            };
            self.world.open_window(key, room);
        }
    }

    /// Other threads make frames, and hand them over later: nobody may be dropped for those.
    pub(crate) fn hold_outside(&mut self) {
        if self.outside.len() > 3 || self.random.chance(40) {
            self.outside.clear();
            return;
        }
        let most = self.limits.frame_bytes_max.min(200_000);
        let bytes = self.random.below(most) as usize;
        let frame = Frame::text(&self.world.frame_bytes).body(&vec![b'x'; bytes]);
        self.outside.push(frame.finish());
    }

    pub(crate) fn stop_reading(&mut self) {
        let Some(key) = self.someone() else { return };
        let room = match self.random.chance(50) {
            true => 0,
            false => choices::room(&mut self.random),
        };
        self.peers.get_mut(&key).expect("a peer").always_read = false;
        self.world.net.sockets.get_mut(&key).expect("a socket").room = room;
    }

    pub(crate) fn ping(&mut self) {
        let Some(key) = self.someone() else { return };
        self.number += 1;
        let payload = self.number.to_be_bytes();
        let at_once = self.is_heard(key);
        let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
        socket.client.asks(&payload, at_once);
        self.say(key, &frame(0x89, &payload));
        // Too many pongs waited already: it was read, but not looked at.
        if !self.world.hub.wants_read(key) {
            let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
            let asked = socket.client.asked.iter_mut();
            asked.for_each(|asked| asked.messages_max = None);
        }
    }

    pub(crate) fn flood(&mut self) {
        let Some(key) = self.someone() else { return };
        let mut bytes = Vec::new();
        let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
        for _ in 0..self.random.between(30, 400) {
            self.number += 1;
            let payload = self.number.to_be_bytes();
            socket.client.asks(&payload, false);
            bytes.extend(frame(0x89, &payload));
        }
        self.say(key, &bytes);
    }

    pub(crate) fn close(&mut self) {
        let Some(key) = self.someone() else { return };
        let code = self.random.pick(&[1000, 1001, 4321, 1005]);
        let peer = self.peers.get_mut(&key).expect("a peer");
        if peer.close_sent.is_some() {
            return;
        }
        peer.close_sent = Some(code);
        let heard = self.is_heard(key);
        let payload = [&u16::to_be_bytes(code)[..], b"bye"].concat();
        let payload = if code == 1005 { &[][..] } else { &payload };
        self.say(key, &frame(0x88, payload));
        let heard = heard && self.is_heard(key);
        assert!(
            !heard || self.reason(key).is_some(),
            "a close was not heard"
        );
    }

    pub(crate) fn violate(&mut self) {
        let Some(key) = self.someone() else { return };
        let deflate = self.peers[&key].deflate;
        let (bytes, reason, code) = choices::violation(&mut self.random, deflate, &self.limits);
        let peer = self.peers.get_mut(&key).expect("a peer");
        if peer.violated.is_some() || peer.close_sent.is_some() {
            return;
        }
        peer.violated = Some((reason, code));
        let heard = self.is_heard(key);
        self.say(key, &bytes);
        let heard = heard && (self.is_heard(key) || self.reason(key).is_some());
        // In a turn that goes on, its close waits for what is flushed at the end.
        if heard && !self.world.held {
            // Before the flush, what was queued in this turn still goes ahead of the close.
            let waits = self.world.held && self.reason(key).is_none();
            // What was gathered is written first, to a socket that may be broken.
            let is_broken = self.limits.gather_us > 0
                && self.reason(key) == Some(weirgate_core::CloseReason::SocketError);
            let told = waits || is_broken || self.reason(key) == Some(reason);
            assert!(told, "{reason:?} of {}", bytes.escape_ascii());
        }
    }

    fn reason(&self, key: SessionKey) -> Option<weirgate_core::CloseReason> {
        self.ledger.borrow().stories[&key].reason
    }

    /// FIN or RST, at any stage.
    pub(crate) fn cut(&mut self) {
        let Some(key) = self.anyone() else { return };
        let failed = self.random.chance(60);
        self.peers.get_mut(&key).expect("a peer").ended = true;
        self.world.see_end(key, failed);
    }

    pub(crate) fn break_socket(&mut self) {
        let Some(key) = self.anyone() else { return };
        let peer = self.peers.get_mut(&key).expect("a peer");
        (peer.broken, peer.always_read) = (true, false);
        let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
        socket.broken = true;
    }

    /// The shell ends a client whose TLS is broken, or holds too much.
    pub(crate) fn break_tls(&mut self) {
        let Some(key) = self.anyone() else { return };
        let reason = self.random.pick(&[
            CloseReason::ProxyHeader,
            CloseReason::TlsError,
            CloseReason::TlsMemory,
        ]);
        let peer = self.peers.get_mut(&key).expect("a peer");
        (peer.tls_failed, peer.always_read) = (Some(reason), false);
        let socket_end = match reason {
            CloseReason::TlsMemory => SocketEnd::Reset,
            _ => SocketEnd::Close,
        };
        let (now, hub) = (self.world.now, &mut self.world.hub);
        hub.handle_progress(now, key);
        hub.handle_failed(now, key, reason, socket_end);
        self.world.settle();
    }

    /// An operator cuts a client off.
    pub(crate) fn cut_off(&mut self) {
        let Some(key) = self.anyone() else { return };
        self.peers.get_mut(&key).expect("a peer").cut_off = true;
        let chosen = format!(r#"{{"session": "{key}"}}"#);
        let request = CutRequest {
            whom: Cut::read(chosen.as_bytes()).map_or(Whom::Refused, Whom::Chosen),
            tell: Box::new(|done| assert!(done.clients <= 1, "{done:?}")),
        };
        self.world.hub.cut(self.world.now, request);
        self.world.settle();
    }

    pub(crate) fn fall_silent(&mut self) {
        if let Some(key) = self.someone() {
            let peer = self.peers.get_mut(&key).expect("a peer");
            peer.silent = !peer.silent;
        }
    }

    /// An event for nothing: the kernel took bytes, or not.
    pub(crate) fn spurious_writable(&mut self) {
        let Some(key) = self.anyone() else { return };
        let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
        socket.blocked = false;
        self.world.hub.handle_writable(self.world.now, key);
    }

    /// Events of sockets that are gone reach nobody, whoever has their slots now.
    pub(crate) fn stale_events(&mut self) {
        let taken = |key: &&SessionKey| self.live.iter().any(|l| l.slot == key.slot);
        let Some(key) = self.gone.iter().rev().find(taken).copied() else {
            return;
        };
        self.coverage.insert("events of a former owner".to_owned());
        let (now, hub) = (self.world.now, &mut self.world.hub);
        let before = format!("{:?}", hub.stats());
        hub.handle_bytes(now, key, &frame(0x88, b""));
        hub.handle_writable(now, key);
        hub.handle_ended(now, key, PeerEnd::Failed);
        hub.handle_progress(now, key);
        hub.handle_failed(now, key, CloseReason::TlsError, SocketEnd::Close);
        hub.handle_released(key);
        assert_eq!(format!("{:?}", hub.stats()), before);
        assert!(!hub.wants_read(key));
    }

    pub(crate) fn answer_calls(&mut self) {
        for _ in 0..self.random.between(1, 4) {
            if self.world.outputs.calls.is_empty() {
                return;
            }
            let at = self.random.below(self.world.outputs.calls.len() as u64) as usize;
            let call = self.world.outputs.calls.swap_remove(at);
            let reply = match self.random.chance(80) {
                true => call.echo(),
                false => call.time_out(),
            };
            self.world.hub.handle_input(self.world.now, reply);
            self.world.settle();
        }
    }

    /// Time passes, at most this much.
    pub(crate) fn pass(&mut self, most: u64) {
        let until = self.world.now.mono_us + self.random.below(most) + 1;
        self.world.held = false;
        self.world.settle();
        self.check();
        if self.random.chance(50) {
            self.pass_to(until);
        } else {
            // A loop that was late: everything is due at once, behind the messages of the same turn.
            self.world.now = self.world.now.plus_us(until - self.world.now.mono_us);
            if self.random.chance(30) {
                self.publish();
            }
            self.world.hub.handle_timeout(self.world.now);
            self.world.settle();
            self.check();
        }
        self.check_all();
    }

    /// As a loop does it: the hub is called when it asked for it, and not otherwise.
    pub(crate) fn pass_to(&mut self, until: u64) {
        for ticks in 0.. {
            assert!(ticks < 200_000, "deadlines without an end");
            let now = self.world.now.mono_us;
            let at = self.world.hub.poll_timeout().unwrap_or(u64::MAX).max(now);
            if at > until {
                break;
            }
            self.world.advance(at - now);
            self.check();
        }
        let rest = until - self.world.now.mono_us;
        self.world.now = self.world.now.plus_us(rest);
        self.check_all();
    }

    /// The delay of a stop is over.
    pub(crate) fn closes_begun(&self) -> bool {
        self.draining.is_some_and(|at| self.world.now.mono_us >= at)
    }
}
