//! How clients end: a single client, all clients at a stop, and the clients that an operator cuts off.
//!
//! A stop has phases: weirgate still accepts clients for a while, then spreads the closes over a while. While the
//! gateway is busy with a client, the client is not closed, and the stop does not end. A cut walks over the sessions in
//! slices, as a stop does. The list of refusals is checked when a client connects, and when it shows a new token.

use super::core::Core;
use super::gateway::Gateway;
use super::hub::Hub;
use super::revoked::{Connected, Cut, WasConnected};
use super::session::{Departed, Pause, Pauses, Session};
use super::shell::{CutRequest, Whom};
use super::{CloseCode, CloseReason, Closing, Effect, Now, PhaseKind, SessionKey, SocketEnd};
use weirgate_wire::auth::{Refusal, TokenMarks};

/// So many memberships of a client that ends are removed without a look at the clock. Nearly no client has more.
const LEFT_AT_ONCE: usize = 64;

/// How long a move waits for the gateway at a time. Then it looks again, as often as needed.
const MOVE_BUSY_US: u64 = 3_000_000;

/// The times of a stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainPlan {
    /// The time in which weirgate reports that it is not ready but still accepts new clients, so that load balancers
    /// notice.
    pub delay_us: u64,
    /// Time over which the closes are spread, so that clients do not all come back in the same second.
    pub spread_us: u64,
    /// Further time for clients with which the gateway is busy.
    pub busy_us: u64,
}

/// A stop under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    plan: DrainPlan,
    /// When the closes begin, microseconds of the monotonic clock.
    closes_at: u64,
    /// Whether the closes have begun: no client opens any more.
    pub(super) closing: bool,
    /// The next slot whose client is to be closed; `None` after the last.
    next_slot: Option<usize>,
}

impl Core {
    /// Begins the last phase of a session whose last control bytes are queued. The session ends when they are written
    /// and the peer has closed.
    pub(super) fn start_closing(&mut self, key: SessionKey, reason: CloseReason) {
        let due = self.now.mono_us + self.limits.close_timeout_us;
        let now = self.now;
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        let departed = session.start_closing(now, due, reason);
        // The client's close has to be read, even if its messages were not.
        if departed.pauses != Pauses::default() {
            self.effects.push_back(Effect::ReadOn(key));
        }
        self.count_departed(key, departed);
        self.clients.mark_dirty(self.now, key);
        self.arm(key);
    }

    /// Ends a session at once, even if bytes wait. The slot stays in use until the shell has closed the socket.
    pub(super) fn end(&mut self, key: SessionKey, reason: CloseReason, socket_end: SocketEnd) {
        let now = self.now;
        let session = self.clients.session_mut(key);
        let gated = session
            .as_ref()
            .and_then(|session| session.gate_snapshot(now));
        let Some((departed, mut ended)) = session.and_then(|session| session.end(now, reason))
        else {
            return;
        };
        let slow = self.waits.remove(now, key, &mut self.clients.stats.slow);
        // Why the client was slow, for the log line: by its wait for the kernel, or else by its gate.
        let slow = slow.or_else(|| gated.and_then(|gate| Some((gate.why?, gate.say))));
        ended.note_slow(slow);
        self.count_departed(key, departed);
        self.effects.push_back(Effect::Release {
            key,
            socket_end,
            ended,
        });
    }

    /// Counts the frames that a session leaves unsent. If the session was open, removes its memberships and notes
    /// the end for the gateway.
    fn count_departed(&mut self, key: SessionKey, departed: Departed) {
        self.clients.stats.slow.count_gate(departed.gated_us);
        if departed.moved.from == PhaseKind::Open {
            if let Some(peer) = self.peer(key) {
                self.count_ended_by_proxy(peer);
            }
            self.leave_all(key, Some(departed.reason));
        }
        self.no_room.remove(&key);
        let stats = &mut self.clients.stats;
        stats.count_move(departed.moved);
        stats.count_pauses(departed.pauses, Pauses::default());
        if departed.was_open {
            stats.count_leaving(departed.moved);
        }
        stats.messages_dropped += u64::from(departed.frames);
        stats.count_removed(departed.frames, departed.bytes);
        if departed.is_first {
            stats.count_close(departed.reason);
        }
    }

    /// Ends the memberships of a client, as many as there is time for; the others end in later turns. Then reports the
    /// end of a client that has ended to the gateway, with the reason.
    pub(super) fn leave_all(&mut self, key: SessionKey, ended: Option<CloseReason>) {
        match self.leave_some(key) {
            true => self.ended.extend(ended.map(|reason| (key, reason))),
            false => self.leaving.push_back((key, ended)),
        }
    }

    /// Ends memberships of a client while there is time. Returns whether none is left.
    fn leave_some(&mut self, key: SessionKey) -> bool {
        loop {
            let left = (0..LEFT_AT_ONCE).take_while(|_| self.topics.leave_last(key.slot));
            if left.count() < LEFT_AT_ONCE {
                return true;
            }
            if !self.turn.has_time() {
                return false;
            }
        }
    }

    /// Ends further memberships of clients with very many.
    pub(super) fn continue_leaving(&mut self) {
        while let Some((key, ended)) = self.leaving.front().copied()
            && self.leave_some(key)
        {
            self.leaving.pop_front();
            self.ended.extend(ended.map(|reason| (key, reason)));
        }
    }

    /// Frees the slot of a session whose socket has ended, once the session is a member of no topic.
    pub(super) fn release_slot(&mut self, key: SessionKey) {
        let is_member = self.topics.joined_count(key.slot) > 0;
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        if is_member {
            session.set_released();
            return;
        }
        self.deadlines.disarm(key, session.disarm());
        if session.is_listed() {
            self.unlist(key.slot);
        }
        self.clients.gather.forget(key.slot);
        self.clients.remove(key.slot);
    }

    /// Removes replaced states from long queues, opens throttles that hold too much, and drops clients that are over a
    /// limit of their queue, as many as there is time for: one message may make the queues of all clients that do not
    /// read conflate, or put them over the limit.
    pub(super) fn reap(&mut self) {
        while !self.clients.crowded.is_empty()
            && self.turn.has_time()
            && let Some(key) = self.clients.crowded.pop_front()
        {
            self.clients.thin(&self.limits, key);
        }
        while let Some(key) = self.clients.to_arm.pop() {
            self.arm(key);
        }
        while !self.clients.full_throttles.is_empty()
            && self.turn.has_time()
            && let Some(key) = self.clients.full_throttles.pop_front()
        {
            self.clients.open_throttle(self.now, &self.limits, key);
        }
        while !self.clients.over.is_empty()
            && self.turn.has_time()
            && let Some((key, reason)) = self.clients.over.pop()
        {
            self.end(key, reason, SocketEnd::Reset);
        }
    }

    /// Gives [`Self::reap`] time of its own if clients are to be dropped: until they are, their queues take memory.
    pub(super) fn begin_reaping(&mut self) {
        if !self.clients.over.is_empty() {
            self.turn.begin(self.limits.work_us / 2);
        }
    }

    /// When [`Self::reap`] and [`Self::continue_leaving`] have to continue; `None` if they have nothing to do.
    pub(super) fn reap_deadline(&self) -> Option<u64> {
        let clients = &self.clients;
        let is_done =
            clients.over.is_empty() && clients.crowded.is_empty() && self.leaving.is_empty();
        let is_done = is_done && clients.full_throttles.is_empty();
        (!is_done).then_some(self.now.mono_us)
    }

    /// Begins the stop of the process, if none has begun. [`Self::advance_drain`] closes the clients after the delay.
    pub(super) fn begin_drain(&mut self, plan: DrainPlan) {
        if self.drain.is_some() {
            return;
        }
        self.drain = Some(Drain {
            plan,
            closes_at: self.now.mono_us + plan.delay_us,
            closing: false,
            next_slot: Some(0),
        });
        self.advance_drain();
    }

    /// The time at which the drain needs the core again.
    pub(super) fn drain_deadline(&self) -> Option<u64> {
        let drain = self.drain.filter(|drain| drain.next_slot.is_some());
        drain.map(|drain| drain.closes_at)
    }

    /// Once the delay is over, starts the closes, in each call as many as there is time for. From then on no client
    /// opens.
    pub(super) fn advance_drain(&mut self) {
        let now = self.now.mono_us;
        let Some(drain) = self.drain.as_mut().filter(|drain| now >= drain.closes_at) else {
            return;
        };
        let Some(mut slot) = drain.next_slot else {
            return;
        };
        drain.closing = true;
        let spread_us = drain.plan.spread_us;
        let slots = self.clients.sessions.capacity();
        while slot < slots {
            let session = self.clients.sessions.get_mut(slot);
            slot += 1;
            // A client that closes gracefully already has a deadline.
            if let Some(session) = session.filter(|session| session.takes_data()) {
                let key = session.key(slot - 1);
                self.close_client_within(key, spread_us);
                if !self.turn.has_time() {
                    break;
                }
            }
        }
        if let Some(drain) = &mut self.drain {
            drain.next_slot = Some(slot).filter(|slot| *slot < slots);
        }
    }

    /// Closes one client at a random time within `spread_us` of now: at a stop, or because an operator moves clients.
    fn close_client_within(&mut self, key: SessionKey, spread_us: u64) {
        if let Some(session) = self.clients.session_mut(key) {
            session.set_leaving();
        }
        if spread_us == 0 {
            return self.close_when_idle(key);
        }
        let at = self.now.mono_us + self.random() % spread_us;
        if let Some(session) = self.clients.session_mut(key) {
            session.close_at(at);
        }
        self.arm(key);
    }

    /// Puts the client in the list of those that the hub closes. But while the gateway has work under way for the
    /// client, only stops reading from it: the close follows when that work ends, or at the latest after
    /// [`DrainPlan::busy_us`] at a stop. A move waits without an end, and looks every [`MOVE_BUSY_US`].
    pub(super) fn close_when_idle(&mut self, key: SessionKey) {
        let now = self.now.mono_us;
        let busy_until_us = self.drain.map_or(now + MOVE_BUSY_US, |drain| {
            let plan = drain.plan;
            drain.closes_at + plan.spread_us + plan.busy_us
        });
        let is_busy = self.busy.contains(&key) && now < busy_until_us;
        if let Some(session) = self.clients.session_mut(key).filter(|_| is_busy) {
            session.await_gateway(busy_until_us);
            self.pause(key, Pause::Stop);
            self.arm(key);
        } else {
            self.stopping.push_back(key);
        }
    }

    /// Notes that the gateway has work under way for this client, whose connection may have ended. At a stop the client
    /// is closed once the gateway is done ([`set_idle`](Self::set_idle); [`DrainPlan::busy_us`] at the latest), and the
    /// stop is complete when the gateway is done with all clients.
    pub fn set_busy(&mut self, key: SessionKey) {
        self.busy.insert(key);
    }

    /// Notes that the gateway has no more work under way for this client.
    pub fn set_idle(&mut self, key: SessionKey) {
        self.busy.remove(&key);
        let now = self.now;
        let session = self.clients.session_mut(key);
        if session.is_some_and(|session| session.gateway_is_done(now)) {
            self.arm(key);
        }
    }

    /// Checks that this client may be here: [`Revoked::admit`](super::Revoked::admit). `user` and `marks` are of a new
    /// token that is about to replace the client's.
    ///
    /// # Errors
    /// An operator has cut off the user or the token of this client, or its address.
    pub fn check_not_cut_off(
        &self,
        key: SessionKey,
        user: Option<&str>,
        marks: Option<&TokenMarks>,
    ) -> Result<(), Refusal> {
        let Some(session) = self.clients.session(key) else {
            return Ok(());
        };
        // The list of refusals names no single connection, so the text of the key is not needed.
        let own = session.connected("");
        let who = Connected {
            user: user.or(own.user),
            marks: marks.or(own.marks),
            ..own
        };
        self.limits.revoked.admit(&who, self.now.unix_ms())
    }

    /// Checks that no operator has cut off a client whose connection has ended, before more is done for it.
    ///
    /// # Errors
    /// An operator has cut the client off.
    pub fn check_gone(&self, who: &WasConnected) -> Result<(), Refusal> {
        let revoked = &self.limits.revoked;
        revoked.admit(&who.connected(), self.now.unix_ms())
    }

    /// Who this client is, for [`check_gone`](Self::check_gone); `None` once its socket is released.
    pub fn who(&self, key: SessionKey) -> Option<WasConnected> {
        Some(self.clients.session(key)?.was_connected())
    }

    /// Closes a client that may no longer be here. Returns false for such a client.
    pub fn check_or_close(&mut self, key: SessionKey) -> bool {
        let may_stay = self.check_not_cut_off(key, None, None).is_ok();
        if !may_stay {
            self.revoke(key);
        }
        may_stay
    }

    /// Closes a client that an operator has cut off.
    fn revoke(&mut self, key: SessionKey) {
        self.set_refusal(key, Refusal::Revoked.label());
        self.close(key, CloseCode::REVOKED, CloseReason::Revoked, Closing::Bare);
    }

    /// The time of the next [`advance_cuts`](Self::advance_cuts): at once while a cut is under way.
    pub(super) fn cuts_deadline(&self) -> Option<u64> {
        (!self.cuts.requests.is_empty()).then_some(0)
    }

    /// Closes the clients of the requested cuts, in each call as many as there is time for.
    pub(super) fn advance_cuts(&mut self) {
        while let Some(request) = self.cuts.requests.front() {
            let whom = request.whom.clone();
            let slots = self.clients.sessions.capacity();
            if self.cuts.looked_at == 0 {
                // Of some clients, whichever they are, any may be meant: the walk begins anywhere.
                self.cuts.first_slot = match whom {
                    Whom::Any { .. } => self.random() as usize % slots.max(1),
                    Whom::Refused | Whom::Chosen(_) => 0,
                };
            }
            while self.cuts.looked_at < slots {
                let slot = (self.cuts.first_slot + self.cuts.looked_at) % slots;
                self.cuts.looked_at += 1;
                let is_client = match &whom {
                    Whom::Refused => self.cut_slot(slot, None),
                    Whom::Chosen(cut) => self.cut_slot(slot, Some(cut)),
                    Whom::Any { clients, spread_us } => self.move_slot(slot, *clients, *spread_us),
                };
                if is_client && !self.turn.has_time() {
                    return;
                }
            }
            self.cuts.looked_at = 0;
            let done = std::mem::take(&mut self.cuts.done);
            if let Some(request) = self.cuts.requests.pop_front() {
                (request.tell)(done);
            }
        }
    }

    /// Has the client in the slot closed as at a stop, unless so `many` were chosen already. A client that leaves anyway,
    /// as an earlier move has chosen it, does not count. Returns false if no client is open in the slot.
    fn move_slot(&mut self, slot: usize, many: u64, spread_us: u64) -> bool {
        let session = self.clients.sessions.get_mut(slot);
        let is_open = |s: &&mut Session| s.phase() == PhaseKind::Open && s.takes_data();
        let Some(session) = session.filter(is_open) else {
            return false;
        };
        let key = session.key(slot);
        if !session.is_leaving() && self.cuts.done.clients < many {
            self.cuts.done.clients += 1;
            self.close_client_within(key, spread_us);
        }
        true
    }

    /// Closes the client in the slot, if the cut, or the list of refusals for `None`, is about it. Returns false if no
    /// client is open in the slot.
    fn cut_slot(&mut self, slot: usize, cut: Option<&Cut>) -> bool {
        let session = self.clients.sessions.get_mut(slot);
        let is_open = |s: &&mut Session| s.phase() == PhaseKind::Open;
        let Some(session) = session.filter(is_open) else {
            return false;
        };
        let (key, now) = (session.key(slot), self.now.unix_ms());
        let text = key.to_string();
        let connected = session.connected(&text);
        let is_chosen = match cut {
            Some(cut) => cut.matches(&connected),
            None => self.limits.revoked.admit(&connected, now).is_err(),
        };
        if !is_chosen {
            return true;
        }
        let done = &mut self.cuts.done;
        done.clients += 1;
        let ends = connected.marks.and_then(|marks| marks.expires_unix_ms);
        done.tokens_end = done.tokens_end.max(ends);
        // A cut of a single connection refuses its token too, which only the connection knows.
        if let (Some(cut), Some(marks)) = (cut, connected.marks)
            && cut.session.is_some()
            && let Some(refused) = cut.of_token(marks)
        {
            match self.limits.revoked.add(&refused, now) {
                Ok(refused) => done.refused = Some(refused),
                Err(full) => done.full = Some(full),
            }
        }
        self.revoke(key);
        true
    }
}

impl<G: Gateway> Hub<G> {
    /// Begins to close the clients that an operator has chosen; [`handle_timeout`](Self::handle_timeout) continues.
    pub fn cut(&mut self, now: Now, request: CutRequest) {
        self.core.now = now;
        self.core.cuts.requests.push_back(request);
        self.core.advance_cuts();
        self.finish_call();
    }
}
