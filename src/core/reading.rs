//! Reading of clients: a client's share of a turn, pauses, and clients that end while paused.
//!
//! While a client is not read, the data of the client stays in the socket. The shell sees the end of
//! such a socket without reading, so a client that has gone occupies nothing.

use super::clients::session_of;
use super::core::Core;
use super::gateway::Gateway;
use super::hub::Hub;
use super::protocol::{ClientMessage, ClientStep};
use super::session::{InputProgress, Pause, Pauses, Session};
use super::shell::Effect;
use super::{CloseReason, Closing, Now, PeerEnd, SessionKey, SocketEnd};
use weirgate_wire::admission::Quota;

impl<G: Gateway> Hub<G> {
    // ---- inputs

    /// Handles bytes from a client.
    pub fn handle_bytes(&mut self, now: Now, key: SessionKey, bytes: &[u8]) {
        self.core.now = now;
        self.take_input(key, bytes);
        self.finish_call();
    }

    /// Handles the end of the peer's side, after everything before was read.
    pub fn handle_ended(&mut self, now: Now, key: SessionKey, end: PeerEnd) {
        self.core.now = now;
        self.end(key, end);
        self.finish_call();
    }

    /// Handles an end of the peer's side that the shell sees before everything is read. A client without a pause is
    /// read to the end first. A paused client ends now, unless the client may still read or the gateway wants the unread
    /// data.
    pub fn handle_end_seen(&mut self, now: Now, key: SessionKey, end: PeerEnd) {
        self.core.now = now;
        if self.is_paused(key)
            && (end == PeerEnd::Failed || !self.reads_to_the_end(key))
            && self.end(key, end)
        {
            self.core.clients.stats.ended_unread += 1;
        }
        self.finish_call();
    }

    /// Gives another share to a client that had its share of an earlier turn: addresses take turns, and
    /// the client of an address that has waited longest goes first. Returns whose share it was.
    pub fn handle_next_share(&mut self, now: Now) -> Option<SessionKey> {
        self.core.now = now;
        if !self.core.no_frame_room.is_empty()
            && self.core.has_resume_room()
            && let Some(key) = self.core.no_frame_room.pop()
        {
            self.core.stand_in_line(key);
        }
        let next = self.core.next_turn.pop();
        if let Some(key) = next {
            self.core.turn.begin_share(key, self.core.limits.share_us);
            let has_more = self.use_share(key);
            match has_more {
                true if self.core.no_frame_room.contains(&key) => {}
                true if self.core.is_in_line_for_word(key) => {}
                true => self.core.stand_in_line(key),
                false => self.core.resume(key, Pause::Turn),
            }
        }
        self.finish_call();
        next
    }

    /// Resumes a client for whose address the gateway has room again: the addresses take turns, and
    /// within an address the client that has waited longest goes first. The shell reads that client
    /// before the next call.
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
                self.finish_call();
            }
            None => self.core.room_was_freed = false,
        }
        next
    }

    /// Requests a read of this client's socket, which the shell does before each read. Returns whether it may read now. A
    /// client without room for a message joins the queue of [`handle_next_room`](Self::handle_next_room).
    pub fn request_read(&mut self, key: SessionKey) -> bool {
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

    /// Whether the client is not paused. Room for a message may still be missing
    /// ([`request_read`](Self::request_read)).
    pub fn wants_read(&self, key: SessionKey) -> bool {
        let session = self.core.clients.session(key);
        session.is_some_and(Session::wants_read)
    }

    /// The most bytes for the next read of the client's socket, at least one.
    pub fn read_bytes_max(&self, key: SessionKey) -> usize {
        let session = self.core.clients.session(key);
        session.map_or(1, Session::read_bytes_max)
    }

    /// Clients that had their share of an earlier turn and wait for
    /// [`handle_next_share`](Self::handle_next_share), also for memory if there is some now.
    pub fn waiting_shares(&self) -> usize {
        let without_room = self.core.no_frame_room.len();
        let with_room = match without_room > 0 && self.core.has_resume_room() {
            true => without_room,
            false => 0,
        };
        self.core.next_turn.len() + with_room
    }

    /// The clients that [`handle_next_room`](Self::handle_next_room) may resume: 0 if no room was freed since it last
    /// found no client.
    pub fn waiting_for_room(&self) -> usize {
        match self.core.room_was_freed {
            true => self.core.no_room.len(),
            false => 0,
        }
    }

    /// Whether the client that was read last may be read on: neither its share nor the part of the turn has ended.
    pub fn has_share(&mut self) -> bool {
        self.core.turn.has_share()
    }

    // ---- inside

    /// Gives time to what waits for the client's share: messages that it has missed, then the rest of its request. Returns
    /// whether more is left for another share.
    fn use_share(&mut self, key: SessionKey) -> bool {
        if self.core.send_postponed(key) {
            return true;
        }
        let session = self.core.clients.session_mut(key);
        if !session.is_some_and(|session| session.take_rest()) {
            return false;
        }
        if let Some(client) = self.clients.get_mut(key) {
            self.gateway.handle_rest(&mut self.core, key, client);
        }
        self.core.count_received(key, InputProgress::Message);
        let session = self.core.clients.session(key);
        session.is_some_and(|session| session.has_rest() || session.sends_postponed())
    }

    /// Handles the end of the peer's side; returns false if the client may still read or gets its last
    /// control bytes.
    fn end(&mut self, key: SessionKey, end: PeerEnd) -> bool {
        let now = self.core.now;
        let Some(session) = self.core.clients.session_mut(key) else {
            return false;
        };
        let ends = session.handle_peer_end(now, end);
        let reason = match end {
            PeerEnd::Failed => CloseReason::SocketError,
            PeerEnd::Closed => CloseReason::PeerGone,
        };
        match ends {
            true => self.core.end(key, reason, SocketEnd::Close),
            false => self.core.clients.mark_dirty(now, key),
        }
        ends
    }

    fn is_paused(&self, key: SessionKey) -> bool {
        let session = self.core.clients.session(key);
        session.is_some_and(|session| session.pauses() != Pauses::default())
    }

    /// Asks the gateway whether it wants the unread data of a client that has ended. Returns whether it does, and the
    /// client only waits for its next share of a turn.
    fn reads_to_the_end(&mut self, key: SessionKey) -> bool {
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        if !self.gateway.reads_to_the_end(&mut self.core, key, client) {
            return false;
        }
        self.finish_call();
        let session = self.core.clients.session(key);
        session.is_none_or(|session| session.pauses().end_soon())
    }

    /// Counts what a client has sent, and handles the request head or the frames in it.
    fn take_input(&mut self, key: SessionKey, bytes: &[u8]) {
        let mut input = bytes;
        let Some(session) = self.core.clients.session_mut(key) else {
            return;
        };
        session.record().bytes_in += bytes.len() as u64;
        self.core.clients.stats.received_bytes += bytes.len() as u64;
        if let Some(head) = self.core.read_head(key, &mut input) {
            self.handle_head(key, head, &mut input);
        }
        self.take_frames(key, &mut input);
    }

    /// Handles the messages, and counts what is kept of the input.
    fn take_frames(&mut self, key: SessionKey, input: &mut &[u8]) {
        let before = self.core.stats().received_messages;
        self.take_messages(key, input);
        self.core.frame_scratch.rest();
        let progress = match self.core.stats().received_messages == before {
            true => InputProgress::None,
            false => InputProgress::Message,
        };
        self.core.count_received(key, progress);
    }

    /// Handles the messages in turn, so that a gateway may close or pause between two messages, until the client has had
    /// its share of the turn. The loop always ends: each step takes input, or a message that was kept.
    fn take_messages(&mut self, key: SessionKey, input: &mut &[u8]) {
        self.core.turn.begin_share(key, self.core.limits.share_us);
        let mut is_first = true;
        loop {
            if self.core.read_while_closing(key, input) {
                return;
            }
            // The first step is taken even if the part of the turn has ended, so each call makes progress.
            if is_first || !self.pause_without_share(key, input) {
                self.pause_without_room(key, input);
            }
            is_first = false;
            let bytes_left = input.len();
            let kept_messages = self.core.has_requests(key) || self.core.is_inflating(key);
            let Some(step) = self.read_step(key, input) else {
                // A compressed message may take several steps, which need no input.
                match self.core.is_inflating(key) && self.wants_read(key) {
                    true => continue,
                    false => return,
                }
            };
            let took_kept = kept_messages && matches!(step, ClientStep::Message(_));
            self.take_step(key, step);
            // A step that takes nothing is a violation: from there on the client is only read for its close frame.
            if !took_kept && input.len() == bytes_left {
                self.core.read_while_closing(key, input);
                return;
            }
        }
    }

    /// Reads one step of the client's input; `None`: no step for now. Of a paused client, the session keeps the input for
    /// [`read_on`](Self::read_on). Before the step is handled, the gateway is notified of the first sign of life after a
    /// [`probe`](Core::probe).
    fn read_step(&mut self, key: SessionKey, input: &mut &[u8]) -> Option<ClientStep> {
        let core = &mut self.core;
        // `session_mut` would borrow all of `core`; the scratch is needed too.
        let session = session_of(&mut core.clients.sessions, key)?;
        let before = session.pauses();
        let control_bytes_max = core.limits.send_queue.control_bytes_max;
        let step = session.read(core.now, input, control_bytes_max, &mut core.frame_scratch);
        let after = session.pauses();
        let was_awaited = step.is_some() && session.note_sign_of_life();
        core.clients.stats.count_pauses(before, after);
        core.clients.mark_dirty(core.now, key);
        if was_awaited && let Some(client) = self.clients.get_mut(key) {
            self.gateway.handle_answered(&mut self.core, key, client);
        }
        step
    }

    /// Handles what the frames of a client mean so far.
    fn take_step(&mut self, key: SessionKey, step: ClientStep) {
        match step {
            ClientStep::Ping => {}
            ClientStep::Pong => self.core.note_pong(key),
            ClientStep::PeerClosed(_) => self.core.start_closing(key, CloseReason::PeerClosed),
            ClientStep::Violation(code, reason) => self.core.close(key, code, reason, Closing::Now),
            ClientStep::Message(message) => self.take_message(key, &message),
        }
    }

    /// Lets a client with more input wait for its share of a later turn, if it has had its share of this one. Returns
    /// whether it waits.
    fn pause_without_share(&mut self, key: SessionKey, input: &[u8]) -> bool {
        let core = &mut self.core;
        // The messages of an event stream come from the query, and the rest of a compressed message from what was read of it.
        let has_more = !input.is_empty() || core.has_requests(key) || core.is_inflating(key);
        let waits = has_more && core.clients.session(key).is_some() && !core.turn.has_share();
        if waits {
            core.wait_for_share(key);
        }
        waits
    }

    /// Pauses a client for whose next message the gateway has no room.
    fn pause_without_room(&mut self, key: SessionKey, input: &[u8]) {
        let core = &mut self.core;
        let Some(session) = core.clients.session(key) else {
            return;
        };
        let address = session.client_addr();
        if !self.gateway.has_room_for(address) && session.may_bring_message(input) {
            core.pause(key, Pause::Room);
            core.no_room.push(address, key);
        }
    }

    /// Counts a message of a client, and passes it to the gateway.
    fn take_message(&mut self, key: SessionKey, message: &ClientMessage) {
        let clients = &mut self.core.clients;
        clients.stats.received_messages += 1;
        let Some(session) = clients.session_mut(key) else {
            return;
        };
        session.record().messages_in += 1;
        // Messages of a client that is about to be closed are ignored.
        if !session.takes_data() {
            return;
        }
        if let Some(client) = self.clients.get_mut(key) {
            self.gateway
                .handle_message(&mut self.core, key, client, message.incoming());
        }
    }

    /// Continues to read a client after a pause: first the bytes that were read before the pause, then the socket.
    pub(super) fn read_on(&mut self, key: SessionKey) {
        let Some(session) = self.core.clients.session_mut(key) else {
            return;
        };
        let held = session.take_held();
        self.take_frames(key, &mut held.as_slice());
        if self.wants_read(key) {
            self.core.effects.push_back(Effect::ReadOn(key));
        }
    }
}

impl Core {
    /// Whether more requests of the client are there already: the rest of the query of an event stream.
    pub fn has_requests(&self, key: SessionKey) -> bool {
        let session = self.clients.session(key);
        session.is_some_and(Session::holds_messages)
    }

    /// Whether the next step of the client goes on with a compressed message, without input.
    fn is_inflating(&self, key: SessionKey) -> bool {
        let session = self.clients.session(key);
        session.is_some_and(Session::is_inflating)
    }

    /// Whether the client whose request is handled has time for another step of it. If it has none, the gateway asks for
    /// more ([`go_on_later`](Self::go_on_later)).
    pub fn has_share(&mut self) -> bool {
        self.turn.has_share()
    }

    /// Requests one call of [`super::Gateway::handle_rest`] in a later turn, for the rest of the client's request; client
    /// addresses take turns. The client is not read before that. `bytes` are what the gateway keeps of the request,
    /// which counts as input of the client.
    pub fn go_on_later(&mut self, key: SessionKey, bytes: usize) {
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        session.set_rest(bytes);
        self.wait_for_share(key);
    }

    /// As [`go_on_later`](Self::go_on_later), but the client waits for that for which
    /// [`may_begin_resume`](Self::may_begin_resume) was false.
    pub fn go_on_with_resume(&mut self, key: SessionKey, bytes: usize) {
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        session.set_rest(bytes);
        self.pause(key, Pause::Turn);
        if self.is_in_line_for_word(key) {
            return;
        }
        if let Some(address) = self.client_addr(key) {
            self.no_frame_room.push(address, key);
        }
    }

    /// Lets a client wait for its share of a later turn. It is not read before that.
    pub(super) fn wait_for_share(&mut self, key: SessionKey) {
        if self.pause(key, Pause::Turn) {
            self.stand_in_line(key);
        }
    }

    /// Puts a client in the line for shares.
    pub(super) fn stand_in_line(&mut self, key: SessionKey) {
        if let Some(address) = self.client_addr(key) {
            self.next_turn.push(address, key);
        }
    }

    /// Stops reading the client: new data waits in the kernel, then at the client.
    pub fn pause_reading(&mut self, key: SessionKey) {
        self.pause(key, Pause::Gateway);
    }

    /// Resumes reading.
    pub fn resume_reading(&mut self, key: SessionKey) {
        self.resume(key, Pause::Gateway);
    }

    /// The input of clients that cannot be handled yet: unfinished messages, and input of paused clients.
    pub fn received(&self) -> &Quota {
        self.received.quota()
    }

    /// All that the core holds for clients.
    pub fn holdings(&self) -> impl Iterator<Item = &Quota> {
        [
            self.received(),
            self.resumed_messages(),
            self.connections_held(),
            self.refused_held(),
        ]
        .into_iter()
    }

    /// Counts the bytes that are kept of the client's input after a read, and drops clients if the bytes of all clients
    /// are over the limit.
    #[inline]
    pub(super) fn count_received(&mut self, key: SessionKey, progress: InputProgress) {
        let (now, received, limits) = (self.now, &self.received, &self.limits);
        let session = session_of(&mut self.clients.sessions, key);
        let grew = session
            .is_some_and(|session| session.count_received(key, now, progress, received, limits));
        if grew {
            // The client that was just read may be dropped too.
            for key in self.received.make_room(now) {
                self.end(key, CloseReason::MessageMemory, SocketEnd::Reset);
            }
        }
    }

    /// Queues a ping for a client at once, to find out whether it is alive; its first sign of life calls
    /// [`super::Gateway::handle_answered`]. Returns false if the client's protocol has no pong, or the
    /// client closes.
    pub fn probe(&mut self, key: SessionKey) -> bool {
        let now = self.now;
        let session = self.clients.session_mut(key);
        let is_silent = session.is_some_and(|session| session.probe(now));
        self.clients.mark_dirty(self.now, key);
        is_silent
    }

    /// Whether the client has given no sign of life since [`probe`](Self::probe): it sent nothing, and read none of the
    /// bytes that waited for it.
    pub fn is_silent(&self, key: SessionKey) -> bool {
        self.clients.session(key).is_some_and(Session::is_silent)
    }

    /// Reads the client no more, for this reason. Returns false if it was paused for this reason already, or has ended.
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

    /// Feeds all of `input` to a session that closes, and handles the consequences. Returns false if
    /// the session does not close.
    fn read_while_closing(&mut self, key: SessionKey, input: &[u8]) -> bool {
        let session = self.clients.session_mut(key);
        let closes = session.is_some_and(|session| session.read_while_closing(input));
        if closes {
            // Nothing was written; but this input may end the session.
            let control_out = false;
            self.after_write(key, control_out);
        }
        closes
    }

    /// Ends one reason not to read a client. If no other is left, the shell reads on.
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
