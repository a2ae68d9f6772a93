//! A stop in phases: weirgate still accepts clients for a while, then spreads the closes over a while.
//! While the gateway is busy with a client, the client is not closed, and the stop does not end.

use super::SessionKey;
use super::core::Core;
use super::limits::CLIENT_COST;
use super::session::Pause;

/// The times of a stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainPlan {
    /// Time without readiness in which new clients are still accepted: load balancers take notice.
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
    closes_at: u64,
    pub(super) closing: bool,
    /// The next slot whose client is to be closed; `None` after the last.
    next_slot: Option<usize>,
}

impl Core {
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

    /// Starts the closes when the delay is over, as many in a call as the budget of the turn allows. No client opens
    /// from then on.
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
        while slot < slots && !self.has_spent() {
            self.charge(CLIENT_COST);
            let session = self.clients.sessions.get_mut(slot);
            // A client that closes gracefully already has a deadline.
            if let Some(session) = session.filter(|session| session.takes_data()) {
                let key = session.key(slot);
                self.begin_stop(key, spread_us);
            }
            slot += 1;
        }
        if let Some(drain) = &mut self.drain {
            drain.next_slot = Some(slot).filter(|slot| *slot < slots);
        }
    }

    fn begin_stop(&mut self, key: SessionKey, spread_us: u64) {
        if spread_us == 0 {
            return self.stop_client(key);
        }
        let at = self.now.mono_us + self.random() % spread_us;
        if let Some(session) = self.clients.session_mut(key) {
            session.close_at(at);
        }
        self.arm(key);
    }

    /// Puts the client in the list of clients that a stop closes. While the gateway is busy with the
    /// client, the hub only stops reading the client.
    pub(super) fn stop_client(&mut self, key: SessionKey) {
        let busy_until = self.drain.map_or(0, |drain| {
            let plan = drain.plan;
            drain.closes_at + plan.spread_us + plan.busy_us
        });
        let is_busy = self.busy.contains(&key) && self.now.mono_us < busy_until;
        if let Some(session) = self.clients.session_mut(key).filter(|_| is_busy) {
            session.await_gateway(busy_until);
            self.pause(key, Pause::Stop);
            self.arm(key);
        } else {
            self.stopping.push_back(key);
        }
    }

    /// Sets whether the gateway has work under way for this client, which may have ended. At a stop the
    /// client is closed once the gateway is done ([`DrainPlan::busy_us`] at the latest), and the stop
    /// is complete when the gateway is done with all clients.
    pub fn set_busy(&mut self, key: SessionKey, is_busy: bool) {
        if is_busy {
            self.busy.insert(key);
            return;
        }
        self.busy.remove(&key);
        let now = self.now;
        let session = self.clients.session_mut(key);
        if session.is_some_and(|session| session.gateway_is_done(now)) {
            self.arm(key);
        }
    }
}
