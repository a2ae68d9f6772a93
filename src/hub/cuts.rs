//! Clients that an operator cuts off: a walk over the sessions in slices, as at a stop, and the check at every door.

use super::core::Core;
use super::gateway::Gateway;
use super::hub::Hub;
use super::limits::CLIENT_COST;
use super::revoked::{Connected, Cut, REFUSED_MS};
use super::session::Session;
use super::shell::CutRequest;
use super::{CloseReason, Closing, Now, PhaseKind, REVOKED, SessionKey};
use crate::auth::{Refusal, TokenMarks};

impl Core {
    /// Whether an operator has cut off the user or the token of this client, or its address. `user` and `marks` are
    /// of a new token that is about to replace the client's.
    pub fn is_revoked(
        &self,
        key: SessionKey,
        user: Option<&str>,
        marks: Option<&TokenMarks>,
    ) -> bool {
        let list = &self.limits.revoked;
        let Some(session) = self.clients.session(key).filter(|_| !list.is_empty()) else {
            return false;
        };
        let own = session.connected("");
        let connected = Connected {
            user: user.or(own.user),
            marks: marks.or(own.marks),
            ..own
        };
        list.refuse(&connected, self.now.unix_ms())
    }

    /// Closes a client whose user or address was cut off. Returns true for such a client.
    pub fn close_revoked(&mut self, key: SessionKey) -> bool {
        let is_revoked = self.is_revoked(key, None, None);
        if is_revoked {
            self.revoke(key);
        }
        is_revoked
    }

    fn revoke(&mut self, key: SessionKey) {
        self.set_refusal(key, Refusal::Revoked.label());
        self.close(key, REVOKED, CloseReason::Revoked, Closing::Now);
    }

    /// The time of the next [`advance_cuts`](Self::advance_cuts).
    pub(super) fn cuts_deadline(&self) -> Option<u64> {
        (!self.cuts.requests.is_empty()).then_some(0)
    }

    /// Closes clients, as many in a call as the budget of the turn allows.
    pub(super) fn advance_cuts(&mut self) {
        while let Some(request) = self.cuts.requests.front() {
            let cut = request.cut.clone();
            while self.cuts.next_slot < self.clients.sessions.capacity() {
                if self.has_spent() {
                    return;
                }
                self.charge(CLIENT_COST);
                let slot = self.cuts.next_slot;
                self.cuts.next_slot += 1;
                self.cut_slot(slot, cut.as_ref());
            }
            self.cuts.next_slot = 0;
            let done = std::mem::take(&mut self.cuts.done);
            if let Some(request) = self.cuts.requests.pop_front() {
                (request.tell)(done);
            }
        }
    }

    fn cut_slot(&mut self, slot: usize, cut: Option<&Cut>) {
        let session = self.clients.sessions.get_mut(slot);
        let is_open = |s: &&mut Session| s.phase() == PhaseKind::Open && s.takes_data();
        let Some(session) = session.filter(is_open) else {
            return;
        };
        let (key, now) = (session.key(slot), self.now.unix_ms());
        let text = key.to_string();
        let connected = session.connected(&text);
        let is_chosen = match cut {
            Some(cut) => cut.matches(&connected),
            None => self.limits.revoked.refuse(&connected, now),
        };
        if !is_chosen {
            return;
        }
        let done = &mut self.cuts.done;
        done.clients += 1;
        let end = connected.marks.and_then(|marks| marks.expires_unix_ms);
        let end = end.unwrap_or_else(|| now.saturating_add(REFUSED_MS));
        done.latest_end = done.latest_end.max(Some(end));
        if let (Some(cut), Some(marks)) = (cut, connected.marks)
            && cut.session.is_some()
            && let Some(refused) = cut.of_token(marks)
        {
            let revoked = &self.limits.revoked;
            // The list had room when the request came.
            if let Ok(before) = revoked.add(&refused, now) {
                done.refused = Some(revoked.settle(&refused, Some(end), before, now));
            }
        }
        self.revoke(key);
    }
}

impl<G: Gateway> Hub<G> {
    /// Closes the clients of an operator's choice, which [`handle_timeout`](Self::handle_timeout) continues.
    pub fn cut(&mut self, now: Now, request: CutRequest) {
        self.core.now = now;
        self.core.cuts.requests.push_back(request);
        self.core.advance_cuts();
        self.settle();
    }
}
