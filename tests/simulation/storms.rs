//! Much at once: storms of newcomers, and processes that stand still while their clients go on.

use weirgate_core::{CloseReason, SessionKey};

use super::choices::SECOND;
use super::run::{ALL, Run, Toy};
use crate::world::client::frame;

/// Why nobody may be dropped who read and answered while the process stood still.
const BY_THE_CLOCK: [CloseReason; 4] = [
    CloseReason::PongTimeout,
    CloseReason::SendStalled,
    CloseReason::SendQueueSoft,
    CloseReason::HandshakeTimeout,
];

impl<T: Toy> Run<T> {
    /// Many come in one turn, some only to go again; messages come between them.
    pub(crate) fn storm(&mut self) {
        let count = self.random.between(10, 80);
        let stops = if self.draining.is_some() {
            " in a stop"
        } else {
            ""
        };
        self.coverage.insert(format!("a storm{stops}"));
        self.world.held = true;
        let mut came = Vec::new();
        for n in 0..count {
            let key = self.newcomer();
            if self.random.chance(25) {
                let failed = self.random.chance(50);
                self.peers.get_mut(&key).expect("a peer").ended = true;
                self.world.end(key, failed);
            } else {
                came.push(key);
            }
            if n % 16 == 7 {
                self.publish();
            }
        }
        self.world.held = false;
        self.world.settle();
        self.check();
        for key in came {
            self.was_answered(key);
        }
        self.check_all();
        // All of them at every later step would take too long.
        while self.live.len() > self.crowd * 3 / 2 {
            self.cut();
            self.check();
        }
    }

    /// Whoever sent its whole request has its answer with the flush of the turn.
    fn was_answered(&self, key: SessionKey) {
        let (peer, socket) = (&self.peers[&key], &self.world.net.sockets[&key]);
        // Over the limit of its queue a client ends in the turn in which it came.
        let has_asked = !peer.path.is_empty() && socket.released.is_none();
        if has_asked && socket.room > ALL / 2 {
            assert!(socket.client.status().is_some(), "no answer: {peer:?}");
        }
    }

    /// The process stands still, its clients do not. Then the loop takes what has happened, in the
    /// order of its turn: what came of sockets, the bus, the flush, and deadlines when nothing is
    /// left.
    pub(crate) fn freeze(&mut self) {
        self.world.held = false;
        self.world.settle();
        self.check();
        // Pings may go out, whose pongs come only later.
        if let Some(at) = self.world.hub.poll_timeout()
            && self.random.chance(70)
        {
            let now = self.world.now.mono_us;
            self.world.advance(at.saturating_sub(now).min(5 * SECOND));
            self.note_phases();
        }
        let since = self.world.now.mono_us;
        let most = self.random.pick(&[3, 20, 60]) * SECOND;
        let until = since + self.random.between(2 * SECOND, most);
        self.world.now = self.world.now.plus_us(until - since);
        let mut alive = Vec::new();
        let (mut windows, mut words) = (Vec::new(), Vec::new());
        for key in self.live.clone() {
            let peer = self.peers.get_mut(&key).expect("a peer");
            let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
            let (pings, open) = (socket.client.pings, socket.client.is_open());
            let open = open && socket.released.is_none();
            if pings > peer.pings_seen {
                (peer.pings_seen, peer.ping_at) = (pings, since);
            }
            let answers = !peer.silent && !peer.ended && !peer.broken;
            if !answers || !open || socket.client.close.is_some() {
                continue;
            }
            if peer.pings_answered < pings {
                (peer.pings_answered, peer.pong_at) = (pings, until);
                socket.unread.extend(frame(0x8a, b""));
            }
            if socket.room > ALL / 2 {
                alive.push(key);
            } else if self.random.chance(60) {
                windows.push(key);
                alive.push(key);
            }
            if self.random.chance(10) {
                self.number += 1;
                let text = T::chatter(&mut self.random, self.number);
                socket.unread.extend(frame(0x81, text.as_bytes()));
            }
            words.push(key);
        }
        self.coverage.insert("a freeze".to_owned());
        self.thaw(&windows, &words);
        let ended = self.ledger.borrow().ended.clone();
        for (key, reason) in ended {
            let dropped = alive.contains(&key) && BY_THE_CLOCK.contains(&reason);
            assert!(
                !dropped,
                "{reason:?} of {key:?}, which was alive while nobody looked"
            );
        }
        self.check();
        self.check_all();
    }

    /// The first turns behind a freeze.
    fn thaw(&mut self, windows: &[SessionKey], words: &[SessionKey]) {
        self.world.held = true;
        if !windows.is_empty() {
            self.coverage.insert("read in a freeze".to_owned());
        }
        for key in windows {
            self.world.open_window(*key, ALL);
        }
        for key in words {
            self.world.send(*key, &[]);
        }
        for _ in 0..self.random.below(3) {
            self.publish_unseen();
        }
        self.world.held = false;
        self.world.catching_up = true;
        self.world.settle();
        self.world.catching_up = false;
        self.world.hub.handle_timeout(self.world.now);
        self.world.settle();
    }
}
