//! What must be true: of each client when something came or ended, of all of them now and then.

use std::collections::BTreeSet;

use weirgate_core::{CloseReason, Limits, PhaseKind, SessionKey, SocketEnd};

use super::run::{ALL, Peer, Run, Toy};
use crate::world::client::frame;
use crate::world::net::Socket;
use crate::world::state::TOPIC;

impl<T: Toy> Run<T> {
    /// Looks at what the last thing that happened came to.
    pub(crate) fn check(&mut self) {
        self.note_phases();
        let ended = std::mem::take(&mut self.ledger.borrow_mut().ended);
        for (key, reason) in ended {
            self.ended(key, reason);
        }
        for key in std::mem::take(&mut self.world.released) {
            self.released(key);
            self.live.retain(|k| *k != key);
            self.gone.push(key);
        }
        self.answer_pings();
    }

    /// Where each session stands now; a graceful close begins without a word to the gateway.
    pub(crate) fn note_phases(&mut self) {
        let core = self.world.hub.core();
        let mut ledger = self.ledger.borrow_mut();
        for key in &self.live {
            let stands = core.phase(*key).map(|phase| (phase, core.is_open(*key)));
            let peer = self.peers.get_mut(key).expect("a peer");
            if peer.stands != stands {
                (peer.stands, peer.since) = (stands, self.world.now.mono_us);
            }
            let Some((phase, open)) = stands else {
                continue;
            };
            if ledger.stories.get(key).is_some_and(|s| s.is_open != open) {
                assert!(!open, "open again");
                ledger.closing(*key);
                // Any close waits for the flush of its turn.
                let may_wait = self.draining.is_some() || self.world.held;
                assert!(may_wait, "closes without a reason");
            }
            if phase == PhaseKind::Open && !open && !self.world.held {
                self.coverage.insert("a graceful close waits".to_owned());
            }
        }
    }

    fn answer_pings(&mut self) {
        let now = self.world.now.mono_us;
        for key in self.live.clone() {
            let client = self.world.client(key);
            let (pings, open) = (client.pings, client.is_open() && client.close.is_none());
            let keeps_window = client.keeps_window();
            let heard = self.world.hub.wants_read(key);
            let peer = self.peers.get_mut(&key).expect("a peer");
            assert!(!keeps_window || !peer.keeps_no_window, "asked for none");
            if !heard {
                // Its pong is not read yet.
                peer.pong_at = now;
            }
            if pings > peer.pings_seen {
                peer.pings_seen = pings;
                peer.ping_at = now;
            }
            if peer.pings_answered < pings && !peer.silent && !peer.ended && open {
                (peer.pings_answered, peer.pong_at) = (pings, now);
                self.world.send(key, &frame(0x8a, b""));
            }
        }
    }

    /// The gateway was told that a client has ended, and why: it must be true.
    fn ended(&mut self, key: SessionKey, reason: CloseReason) {
        *self.ends.entry(reason as u8).or_default() += 1;
        let now = self.world.now.mono_us;
        let queue = &self.limits.send_queue;
        let ledger = self.ledger.borrow();
        let story = &ledger.stories[&key];
        let peer = self.peers.get_mut(&key).expect("a peer");
        let socket = &self.world.net.sockets[&key];
        let behind = story.waiting_behind_first();
        let is_violation = peer.violated.is_some_and(|(of, _)| of == reason);
        let true_reason = match reason {
            _ if is_violation => true,
            CloseReason::PeerClosed => peer.close_sent.is_some(),
            CloseReason::PeerGone => peer.ended,
            CloseReason::SocketError => peer.ended || peer.broken,
            CloseReason::ProxyHeader | CloseReason::TlsError | CloseReason::TlsMemory => {
                peer.tls_failed == Some(reason)
            }
            CloseReason::Policy => true,
            CloseReason::Revoked => peer.cut_off,
            CloseReason::PongTimeout => {
                let unanswered = peer.pings_answered < peer.pings_seen;
                unanswered && now >= peer.ping_at + self.limits.pong_timeout_us
            }
            CloseReason::SendStalled => {
                socket.blocked
                    && socket
                        .blocked_at
                        .is_some_and(|at| now >= at + queue.stall_us)
            }
            CloseReason::SendQueueSoft => {
                let since = story.over_soft_since;
                behind > queue.soft_bytes && since.is_some_and(|at| now > at + queue.soft_for_us)
            }
            CloseReason::SendQueueHard => story.over_hard,
            // The rest was asked when it was dropped.
            CloseReason::FrameMemory => self.limits.frame_bytes_max < u64::MAX && socket.blocked,
            CloseReason::ShuttingDown => self.draining.is_some(),
            // Nothing in this world causes any other reason.
            _ => false,
        };
        assert!(true_reason, "{reason:?} of {key:?}: {peer:?} {story:?}");
    }

    /// A socket is gone: the client got its last words, if it wanted them.
    fn released(&mut self, key: SessionKey) {
        let mut ledger = self.ledger.borrow_mut();
        let (peer, socket) = (&self.peers[&key], &self.world.net.sockets[&key]);
        let is_whole = !peer.ended && !peer.broken && peer.tls_failed.is_none();
        let reads = socket.room > ALL / 2 && is_whole;
        let Some(story) = ledger.stories.get_mut(&key) else {
            let late = self.world.now.mono_us >= peer.accepted_at + self.limits.handshake_us;
            refused(peer, socket, reads, late);
            return;
        };
        // Accepted and closed at once: the gateway never had it.
        let never_opened = (peer.path == "/secret").then_some(CloseReason::Policy);
        let reason = never_opened.or(story.reason).expect("the gateway was told");
        let close = socket.client.close.as_ref().map(|(code, _)| *code);
        let violation = peer.violated.filter(|(of, _)| *of == reason);
        let codes: &[u16] = match (reason, violation) {
            (_, Some((_, code))) => &[code],
            (CloseReason::PeerClosed, _) => &[peer.close_sent.unwrap_or(0)],
            (CloseReason::Policy, _) => &[1000, 1008],
            (CloseReason::Revoked, _) => &[1008],
            (CloseReason::PongTimeout, _) => &[1011],
            (CloseReason::ShuttingDown, _) => &[1012],
            _ => &[],
        };
        let fits = close.is_none_or(|code| codes.contains(&code));
        assert!(fits, "{reason:?} with {close:?}");
        let socket_end = socket.released.expect("it was released");
        if !codes.is_empty() && reads && socket_end == SocketEnd::Close {
            assert!(
                close.is_some(),
                "{reason:?} without a close frame: {peer:?}"
            );
        }
        let waited = [CloseReason::Policy, CloseReason::ShuttingDown].contains(&reason);
        if waited && peer.always_read && reads {
            assert_eq!(story.waiting.len(), 0, "was to come: {:?}", story.waiting);
        } else if waited && !story.waiting.is_empty() && !T::PAUSES {
            self.coverage
                .insert("a graceful close waited too long".to_owned());
        }
    }

    /// Checks all that does not depend on what happened last.
    pub(crate) fn check_all(&mut self) {
        if self.world.held {
            return;
        }
        self.check();
        // What is gathered has come after that.
        self.world.advance(self.limits.gather_us);
        self.check();
        for key in self.live.clone() {
            self.check_client(key);
        }
        let ledger = self.ledger.borrow();
        let stats = self.world.hub.stats();
        assert_eq!(stats.messages_queued, ledger.queued, "messages queued");
        let sockets = self.world.net.sockets.values();
        let (messages, bytes) = sockets.fold((0, 0), |(messages, bytes), socket| {
            (
                messages + socket.client.messages as u64,
                bytes + socket.bytes,
            )
        });
        assert_eq!(stats.messages_sent, messages, "messages that came whole");
        assert_eq!(stats.bytes_sent, bytes, "bytes that came");
        let stories = ledger.stories.values();
        let (conflated, shed) = stories.fold((0, 0), |(conflated, shed), story| {
            (conflated + story.conflated, shed + story.shed)
        });
        assert_eq!(stats.messages_conflated, conflated, "conflated");
        assert_eq!(stats.messages_shed, shed, "shed");
        let stories = self.live.iter().filter_map(|key| {
            let (phase, _) = self.peers[key].stands?;
            Some((phase, ledger.stories.get(key)?))
        });
        let waiting = stories.map(|(phase, story)| match phase {
            PhaseKind::Open => story.waiting.len(),
            // Of what waited, a close leaves what was begun.
            PhaseKind::Closing => usize::from(story.begun),
            PhaseKind::Head | PhaseKind::Gone => 0,
        });
        let waiting: usize = waiting.sum();
        assert_eq!(stats.messages_waiting, waiting as u64, "messages that wait");
        let core = self.world.hub.core();
        assert_eq!(core.topic_count(), ledger.topic_count(), "topics");
        let joined: usize = self.live.iter().map(|k| core.joined_count(*k)).sum();
        assert_eq!(joined, ledger.memberships(), "memberships");
        let interest = self.world.outputs.interest.iter();
        let wanted = interest.filter(|(_, wanted)| **wanted);
        let wanted: BTreeSet<&String> = wanted.map(|(topic, _)| topic).collect();
        let held: BTreeSet<&String> = ledger.topics_with_members().collect();
        // A client whose close waits has left its topics, and the gateway ends them with the client.
        let stories = self.live.iter().filter_map(|key| ledger.stories.get(key));
        let is_closing = { stories }.any(|story| !story.is_open);
        assert!(
            wanted == held || is_closing && wanted.is_superset(&held),
            "interest in topics"
        );
        let outside = self.outside.iter().map(|frame| frame.memory_bytes() as u64);
        // What the bus has retained is held by the feed and by the core, too.
        let outside = (!T::KEYED).then(|| outside.sum());
        self.world.check_memory(&ledger, outside);
        for reason in CloseReason::ALL {
            let told = self.ends.get(&(reason as u8)).copied().unwrap_or(0);
            assert!(
                stats.closes_for(reason) >= told,
                "{reason:?} was not counted"
            );
        }
    }

    fn check_client(&mut self, key: SessionKey) {
        let now = self.world.now.mono_us;
        let socket = &self.world.net.sockets[&key];
        let peer = self.peers.get_mut(&key).expect("a peer");
        let mut ledger = self.ledger.borrow_mut();
        let (phase, open) = peer.stands.expect("a session while its socket is there");
        let longest = match phase {
            PhaseKind::Head => self.limits.handshake_us,
            PhaseKind::Open if open => u64::MAX,
            PhaseKind::Open | PhaseKind::Closing => self.limits.close_timeout_us,
            PhaseKind::Gone => 0,
        };
        assert!(now - peer.since < longest, "{phase:?} for ever: {peer:?}");
        let Some(story) = ledger.stories.get_mut(&key) else {
            return;
        };
        if let Some(at) = socket.blocked_at.filter(|_| !story.has_left) {
            let stalled = now >= at + self.limits.send_queue.stall_us;
            assert!(!stalled, "stalled for too long: {peer:?}");
        }
        if !open {
            return;
        }
        if socket.held > 0 {
            self.coverage
                .insert("a record beyond what the kernel takes".to_owned());
        }
        let paused = !self.world.hub.wants_read(key);
        // Until now its ping could not leave, or its pong was not read.
        let hindered = paused || socket.blocked;
        if std::mem::replace(&mut peer.hindered, hindered) {
            peer.hindered_until = now;
        }
        if paused {
            let by = if T::PAUSES { "the gateway" } else { "pongs" };
            self.coverage.insert(format!("paused by {by}"));
        }
        if !socket.blocked {
            // Whatever the kernel would have taken is out.
            assert_eq!(story.waiting.len(), 0, "was to come: {:?}", story.waiting);
        }
        if socket.room > ALL / 2 {
            if !paused {
                peer.check_pings(now, &self.limits, T::PAUSES);
            }
            let flow = story.flow.clone();
            let newest = self.broker.as_ref().and_then(|b| b.newest());
            if newest.is_some() && peer.path == "/ws" && ledger.is_member(key, TOPIC) {
                assert_eq!(flow.as_deref(), newest, "not the newest state");
            }
        } else if !T::KEYED {
            assert!(!story.over_hard, "queued too much");
            if story.over_soft_since.is_some() {
                self.coverage.insert("over the soft limit".to_owned());
            }
        }
    }
}

impl Peer {
    /// Pings come in time to a client that reads all, and whoever answers none is not kept.
    fn check_pings(&self, now: u64, limits: &Limits, pauses: bool) {
        if self.pings_answered < self.pings_seen {
            // Who is not read cannot be late.
            let since = self.ping_at.max(self.hindered_until);
            // Bytes before the ping may be under way unseen.
            let ahead_us_max = limits.send_queue.stall_us;
            let in_time = now < since + limits.pong_timeout_us + ahead_us_max;
            assert!(in_time, "no pong for too long: {self:?}");
        } else if limits.ping_interval_us > 0 && !pauses {
            // While a pong is missing there is no other ping.
            let last = self.ping_at.max(self.since).max(self.pong_at);
            let last = last.max(self.hindered_until);
            assert!(now <= last + limits.ping_interval_us, "no ping: {self:?}");
        }
    }
}

/// An end before the 101, or without it.
fn refused(peer: &Peer, socket: &Socket, reads: bool, late: bool) {
    let status = socket.client.status();
    assert!(status != Some(101), "{peer:?}");
    if status.is_some() || reads {
        let fits = status == peer.status || status == Some(503);
        assert!(fits, "{status:?}: {peer:?}");
    }
    assert!(late || status != Some(408), "too early: {peer:?}");
}
