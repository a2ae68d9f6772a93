//! A stop in phases: weirgate still accepts clients for a while, then spreads the closes over a while.
//! While the gateway is busy with a client, the client is not closed, and the stop does not end.

use super::SessionKey;
use super::core::Core;
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
        });
        self.advance_drain();
    }

    /// The time at which the drain needs the core again.
    pub(super) fn drain_deadline(&self) -> Option<u64> {
        self.drain.filter(|d| !d.closing).map(|d| d.closes_at)
    }

    /// Starts the closes when the delay is over.
    pub(super) fn advance_drain(&mut self) {
        let now = self.now.mono_us;
        let Some(drain) = &mut self.drain else {
            return;
        };
        if drain.closing || now < drain.closes_at {
            return;
        }
        drain.closing = true;
        let spread_us = drain.plan.spread_us;
        let sessions = self.clients.sessions.iter();
        // A client that closes gracefully already has a deadline.
        let open = sessions.filter(|(_, s)| s.takes_data());
        let keys: Vec<_> = open.map(|(slot, s)| s.key(slot)).collect();
        for key in keys {
            if spread_us == 0 {
                self.stop_client(key);
                continue;
            }
            let at = now + self.random() % spread_us;
            if let Some(session) = self.clients.session_mut(key) {
                session.close_at(at);
            }
            self.arm(key);
        }
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
