//! The end of a client: its last phase, its end, and what is counted then.

use super::core::Core;
use super::limits::{CLIENT_COST, FRAME_COST, TOPIC_COST};
use super::session::{Departed, Pauses};
use super::{CloseReason, Effect, PhaseKind, SessionKey};

impl Core {
    /// Begins the last phase, with the last control bytes queued: the session only lives until they are
    /// out and the peer has ended.
    pub(super) fn start_closing(&mut self, key: SessionKey, reason: CloseReason) {
        let due = self.now.mono_us + self.limits.close_timeout_us;
        let now = self.now;
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        let left = session.start_closing(now, due, reason);
        if left.pauses != Pauses::default() {
            self.effects.push_back(Effect::Resume(key));
        }
        self.count_left(key, left);
        self.clients.mark_dirty(key);
        self.arm(key);
    }

    /// Ends a session at once, whatever waits: the shell has to end the socket. The slot stays in use
    /// until then.
    pub(super) fn end(&mut self, key: SessionKey, reason: CloseReason, reset: bool) {
        let now = self.now;
        let session = self.clients.session_mut(key);
        let gated = session.as_ref().and_then(|session| session.gate_look(now));
        let Some((left, mut ended)) = session.and_then(|session| session.end(now, reason)) else {
            return;
        };
        let told = self.waits.remove(now, key, &mut self.clients.stats.slow);
        let told = told.or_else(|| gated.and_then(|look| Some((look.why?, look.say))));
        ended.note_slow(told);
        self.count_left(key, left);
        self.effects
            .push_back(Effect::Release { key, reset, ended });
    }

    /// Counts the frames that a session leaves unsent. If the session was open, removes its memberships and notes
    /// the end for the gateway.
    fn count_left(&mut self, key: SessionKey, left: Departed) {
        self.clients.stats.slow.count_gate(left.gated_us);
        self.charge(FRAME_COST * left.frames as usize);
        if left.moved.from == PhaseKind::Open {
            if let Some(peer) = self.peer(key) {
                self.count_behind_proxy(peer, false);
            }
            self.topics.leave_all(key.slot);
            self.ended.push_back((key, left.reason));
        }
        self.no_room.remove(&key);
        let stats = &mut self.clients.stats;
        stats.moved(left.moved);
        stats.count_pauses(left.pauses, Pauses::default());
        if left.was_open {
            stats.count_leaving(left.moved);
        }
        stats.messages_dropped += u64::from(left.frames);
        stats.count_removed(left.frames, left.bytes);
        if left.is_first {
            stats.count_close(left.reason);
        }
    }

    /// Drops the clients over a limit of their queue, as many as the budget of the turn allows: one message may put
    /// all clients that read nothing over the limit.
    pub(super) fn reap(&mut self) {
        while let Some(key) = self.clients.to_arm.pop() {
            self.arm(key);
        }
        while !self.has_spent()
            && let Some((key, reason)) = self.clients.over.pop()
        {
            self.charge(CLIENT_COST + TOPIC_COST * self.joined_count(key));
            self.end(key, reason, true);
        }
    }

    /// The time to go on with [`Self::reap`].
    pub(super) fn reap_deadline(&self) -> Option<u64> {
        (!self.clients.over.is_empty()).then_some(self.now.mono_us)
    }
}
