//! What is read of clients, and when: a client's share of a turn, pauses, and clients that end while
//! they are not read.
//!
//! A client that is not read keeps what it sends in its socket. The shell sees the end of such a
//! socket without reading it, so a client that has gone keeps nothing.

use super::core::Core;
use super::gateway::Gateway;
use super::hub::Hub;
use super::protocol::{Message, Step};
use super::session::{Pause, Pauses, PeerEnd, Session};
use super::shell::Effect;
use super::{CloseReason, Closing, Now, SessionKey};

impl<G: Gateway> Hub<G> {
    // ---- inputs

    /// Bytes that a client sent, as they came.
    pub fn handle_bytes(&mut self, now: Now, key: SessionKey, bytes: &[u8]) {
        self.core.now = now;
        self.take_input(key, bytes);
        self.settle();
    }

    /// The peer's side ended, and everything before was read: `failed` by an error, otherwise in order.
    pub fn handle_ended(&mut self, now: Now, key: SessionKey, failed: bool) {
        self.core.now = now;
        self.end(key, failed);
        self.settle();
    }

    /// The shell sees that the peer's side has ended: `failed` by an error, otherwise in order. A client
    /// that is read is read to its end first. A client that is not read ends now, unless it may still
    /// read or the gateway wants what the client has sent.
    pub fn handle_end_seen(&mut self, now: Now, key: SessionKey, failed: bool) {
        self.core.now = now;
        if self.is_paused(key) && (failed || !self.reads_to_the_end(key)) && self.end(key, failed) {
            self.core.clients.stats.ended_unread += 1;
        }
        self.settle();
    }

    /// The budget of message bytes of all clients is whole again.
    pub fn renew_reading(&mut self) {
        self.core.message_bytes = 0;
    }

    /// A client that had its share of an earlier turn has another: the one that has waited longest of
    /// the address whose turn has come.
    pub fn handle_next_share(&mut self, now: Now) {
        self.core.now = now;
        if let Some(key) = self.core.next_turn.pop() {
            self.core.resume(key, Pause::Turn);
        }
        self.settle();
    }

    /// A client for whose address the gateway has room again: the one that has waited longest of the
    /// address whose turn has come. The shell reads it at once, before the next one is asked for.
    pub fn handle_next_room(&mut self, now: Now) -> Option<SessionKey> {
        self.core.now = now;
        let gateway = &self.gateway;
        let next = self
            .core
            .no_room
            .pop_of(|client| gateway.has_room_for(client));
        match next {
            Some(key) => {
                self.core.resume(key, Pause::Room);
                self.settle();
            }
            None => self.core.room_was_freed = false,
        }
        next
    }

    /// Asked before each read of this client's socket: whether the shell may read. A client without
    /// room for a message joins those that wait for [`handle_next_room`](Self::handle_next_room).
    pub fn may_read(&mut self, key: SessionKey) -> bool {
        let session = self.core.clients.session(key);
        let Some(session) = session.filter(|session| session.wants_read()) else {
            return false;
        };
        let address = session.client_addr();
        if !session.takes_data() || self.gateway.has_room_for(address) {
            return true;
        }
        self.core.pause(key, Pause::Room);
        self.core.no_room.push(address, key);
        false
    }

    // ---- getters

    /// Nothing is against reading this client; there may be no room for its message
    /// ([`may_read`](Self::may_read)).
    pub fn wants_read(&self, key: SessionKey) -> bool {
        let session = self.core.clients.session(key);
        session.is_some_and(Session::wants_read)
    }

    /// Clients that had their share of an earlier turn and wait for
    /// [`handle_next_share`](Self::handle_next_share).
    pub fn waiting_shares(&self) -> usize {
        self.core.next_turn.len()
    }

    /// Clients that may find room by [`handle_next_room`](Self::handle_next_room): 0 if none was freed
    /// since the last try in vain.
    pub fn waiting_for_room(&self) -> usize {
        match self.core.room_was_freed {
            true => self.core.no_room.len(),
            false => 0,
        }
    }

    /// Message bytes since [`renew_reading`](Self::renew_reading).
    pub fn message_bytes(&self) -> usize {
        self.core.message_bytes
    }

    /// The budget of message bytes of all clients is used up.
    pub fn has_read_enough(&self) -> bool {
        self.core.message_bytes > self.core.limits.turn_all_message_bytes_max
    }

    // ---- inside

    /// The peer's side ended; `false`: the client may still read, or its last words are on their way.
    fn end(&mut self, key: SessionKey, failed: bool) -> bool {
        let now = self.core.now;
        let Some(session) = self.core.clients.session_mut(key) else {
            return false;
        };
        let end = session.peer_ended(now, failed);
        match end {
            PeerEnd::Ends => {
                let reason = match failed {
                    true => CloseReason::SocketError,
                    false => CloseReason::PeerGone,
                };
                self.core.end(key, reason, false);
            }
            PeerEnd::Awaited => self.core.clients.mark_dirty(key),
        }
        end == PeerEnd::Ends
    }

    fn is_paused(&self, key: SessionKey) -> bool {
        let session = self.core.clients.session(key);
        session.is_some_and(|session| session.pauses() != Pauses::default())
    }

    /// The gateway wants what a client sent before its end, and the client is read on.
    fn reads_to_the_end(&mut self, key: SessionKey) -> bool {
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        if !self.gateway.reads_to_the_end(&mut self.core, key, client) {
            return false;
        }
        self.settle();
        let session = self.core.clients.session(key);
        session.is_none_or(|session| session.pauses().end_soon())
    }

    fn take_input(&mut self, key: SessionKey, bytes: &[u8]) {
        let mut input = bytes;
        let Some(session) = self.core.clients.session_mut(key) else {
            return;
        };
        session.count_read(bytes.len());
        self.core.clients.stats.received_bytes += bytes.len() as u64;
        if let Some(head) = self.core.read_head(key, &mut input) {
            self.judge_head(key, head, &mut input);
        }
        self.take_frames(key, &mut input);
        self.core.frame_scratch.rest();
    }

    /// Messages come out one by one, so that a gateway may close or pause between them.
    fn take_frames(&mut self, key: SessionKey, input: &mut &[u8]) {
        let mut message_bytes = 0;
        loop {
            if self.core.read_last_words(key, input) {
                return;
            }
            self.pause_before_message(key, input, message_bytes);
            let core = &mut self.core;
            // Not through `session_mut`: the scratch is needed beside the session.
            let Some(session) = core.clients.sessions.get_mut(key.slot as usize) else {
                return;
            };
            if session.generation() != key.generation {
                return;
            }
            let before = session.pauses();
            let control_bytes_max = core.limits.send_queue.control_bytes_max;
            let scratch = &mut core.frame_scratch;
            let step = session.read(core.now, input, control_bytes_max, scratch);
            let after = session.pauses();
            core.clients.stats.count_pauses(before, after);
            core.clients.mark_dirty(key);
            let Some(step) = step else {
                return;
            };
            match step {
                Step::Ping | Step::Pong => {}
                Step::PeerClosed(_) => core.start_closing(key, CloseReason::PeerClosed),
                Step::Violation(code, reason) => {
                    core.begin_close(key, code, reason, Closing::Now);
                }
                Step::Message(message) => {
                    let bytes = message.payload_bytes();
                    message_bytes += bytes;
                    self.core.message_bytes += bytes;
                    self.take_message(key, &message);
                }
            }
        }
    }

    /// Pauses a client that had its share of the turn, `message_bytes` of it now, or for whose next
    /// message there is no room.
    fn pause_before_message(&mut self, key: SessionKey, input: &[u8], message_bytes: usize) {
        let core = &mut self.core;
        let Some(session) = core.clients.session(key) else {
            return;
        };
        let address = session.client_addr();
        let all_spent = core.message_bytes > core.limits.turn_all_message_bytes_max;
        let spent = message_bytes > core.limits.turn_message_bytes_max;
        if spent || all_spent && !input.is_empty() {
            if core.pause(key, Pause::Turn) {
                core.next_turn.push(address, key);
            }
        } else if !self.gateway.has_room_for(address) && session.may_bring_message(input) {
            core.pause(key, Pause::Room);
            core.no_room.push(address, key);
        }
    }

    fn take_message(&mut self, key: SessionKey, message: &Message) {
        self.core.clients.count_message(key);
        // A client that is about to be closed is heard no more.
        if !self.core.is_open(key) {
            return;
        }
        if let Some(client) = self.clients.get_mut(key) {
            self.gateway
                .handle_message(&mut self.core, key, client, message.incoming());
        }
    }

    pub(super) fn read_on(&mut self, key: SessionKey) {
        let Some(session) = self.core.clients.session_mut(key) else {
            return;
        };
        let held = session.take_held();
        self.take_frames(key, &mut held.as_slice());
        self.core.frame_scratch.rest();
        if self.wants_read(key) {
            self.core.effects.push_back(Effect::Resume(key));
        }
    }
}

impl Core {
    /// Stops reading the client: what it sends waits in the kernel, then at the client.
    pub fn pause_reading(&mut self, key: SessionKey) {
        self.pause(key, Pause::Gateway);
    }

    /// Reads on.
    pub fn resume_reading(&mut self, key: SessionKey) {
        self.resume(key, Pause::Gateway);
    }

    /// `false`: it was paused for this already, or has ended.
    pub(super) fn pause(&mut self, key: SessionKey, why: Pause) -> bool {
        let now = self.now;
        let Some(session) = self.clients.session_mut(key) else {
            return false;
        };
        let before = session.pauses();
        let is_new = session.pause(why, now);
        let after = session.pauses();
        self.clients.stats.count_pauses(before, after);
        is_new
    }

    /// A session that closes takes all of `input`, and what follows from that is done; `false`: the
    /// session does not close.
    fn read_last_words(&mut self, key: SessionKey, input: &[u8]) -> bool {
        let session = self.clients.session_mut(key);
        let closes = session.is_some_and(|session| session.read_last_words(input));
        if closes {
            self.after_write(key, false);
        }
        closes
    }

    pub(super) fn resume(&mut self, key: SessionKey, why: Pause) {
        let (now, limits) = (self.now, &self.limits);
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        let before = session.pauses();
        if session.resume(why, now, limits) {
            self.resumed.push(key);
        }
        let after = session.pauses();
        self.clients.stats.count_pauses(before, after);
    }
}
