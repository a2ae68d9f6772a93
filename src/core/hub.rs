//! The core with its gateway: all inputs, and the few outputs.
//!
//! Methods are of four kinds, named accordingly. *Inputs* report events (`handle_*`); *commands* are
//! requests of the process (`drain`, `flush`); *outputs* are taken after inputs (`poll_*`); the rest
//! are getters. After any input, call `flush`, then take effects and outputs until there are none.

use std::collections::VecDeque;

use super::connections::WithoutRoom;
use super::core::Core;
use super::deadlines::earliest;
use super::ends::DrainPlan;
use super::gateway::{Closed, Gateway};
use super::protocol::RequestRefusal;
use super::session::{Due, Pause, Session};
use super::shell::{Effect, Secured, Transmit};
use super::{
    BusNotice, ByClient, CloseCode, CloseReason, Closing, HubStats, Now, PhaseKind, Publication,
    SessionKey, SocketEnd, tables,
};
use weirgate_wire::admission::{ConnectionPermit, Peer, Transport};

/// The core, a gateway, and the gateway's state of each client.
#[derive(Debug)]
pub struct Hub<G: Gateway> {
    pub(super) core: Core,
    pub(super) gateway: G,
    pub(super) clients: ByClient<G::Client>,
    /// Calls so far: debug builds check the whole state now and then.
    #[cfg(debug_assertions)]
    calls: u64,
}

impl<G: Gateway> Hub<G> {
    /// Joins a core and a gateway.
    pub fn new(mut core: Core, gateway: G) -> Self {
        core.set_render(G::render);
        if !G::HAS_LAST {
            core.keep_no_newest_alone();
        }
        if gateway.asks_for_newest() {
            core.ask_for_newest();
        }
        core.shown_topic = G::shown_topic;
        Self {
            core,
            gateway,
            clients: ByClient::default(),
            #[cfg(debug_assertions)]
            calls: 0,
        }
    }

    // ---- inputs

    /// Handles an accepted connection, which begins with a handshake of TLS or with a request. The returned key is valid
    /// until [`handle_released`](Self::handle_released).
    pub fn handle_accepted(
        &mut self,
        now: Now,
        peer: impl Into<Peer>,
        transport: Transport,
    ) -> SessionKey {
        self.core.now = now;
        let peer = peer.into();
        let permit = self.core.permit(&peer, transport);
        let key = self.core.insert(peer, permit);
        self.core.clients.stats.accepted += 1;
        if self.core.fit_connection(key, WithoutRoom::Waits) {
            self.core.admit_peer(key);
        }
        self.finish_call();
        key
    }

    /// Handles the header by which a trusted proxy names its client, or no client, before the client's first byte:
    /// from here on `peer` is the session's peer.
    pub fn handle_proxied(&mut self, now: Now, key: SessionKey, peer: Peer) {
        self.core.now = now;
        if let Some(session) = self.core.clients.session_mut(key) {
            session.record().set_peer(peer);
            session.move_permit();
            if self.core.fit_connection(key, WithoutRoom::Waits) {
                self.core.admit_peer(key);
            }
        }
        self.finish_call();
    }

    /// Handles the end of a handshake of TLS. The certificates count with the connection; the other results are for
    /// operators.
    pub fn handle_secured(&mut self, now: Now, key: SessionKey, secured: Secured) {
        self.core.now = now;
        if let Some(session) = self.core.clients.session_mut(key) {
            session.count_certificates(secured.certificate_bytes, now);
            session.record().set_secured(secured);
        }
    }

    /// Handles progress with bytes that the shell still keeps from an earlier write for a client: the client reads,
    /// slowly.
    pub fn handle_progress(&mut self, now: Now, key: SessionKey) {
        self.core.now = now;
        if let Some(session) = self.core.clients.session_mut(key) {
            session.note_progress(now, &self.core.limits);
        }
    }

    /// Ends a connection for a reason that only the shell knows.
    pub fn handle_failed(
        &mut self,
        now: Now,
        key: SessionKey,
        reason: CloseReason,
        socket_end: SocketEnd,
    ) {
        self.core.now = now;
        self.core.end(key, reason, socket_end);
        self.finish_call();
    }

    /// Handles a connection that comes back from HTTP with its permit: the client asks for a WebSocket.
    /// The request read so far goes to [`handle_bytes`](Self::handle_bytes).
    pub fn handle_returned(
        &mut self,
        now: Now,
        peer: impl Into<Peer>,
        mut permit: ConnectionPermit,
    ) -> SessionKey {
        self.core.now = now;
        self.core.clients.stats.returned += 1;
        permit.move_to_loop(now.mono_us);
        self.core.insert(peer.into(), permit)
    }

    /// Handles a socket that is writable again.
    pub fn handle_writable(&mut self, now: Now, key: SessionKey) {
        self.core.now = now;
        if let Some(session) = self.core.clients.session_mut(key) {
            session.unblock(now, &self.core.limits);
            self.core.clients.mark_dirty(self.core.now, key);
        }
    }

    /// Handles the end of a socket; the slot is free again.
    pub fn handle_released(&mut self, key: SessionKey) {
        self.core.release_slot(key);
    }

    /// Handles a publication of the feed.
    pub fn handle_publication(&mut self, now: Now, publication: &Publication) {
        self.core.now = now;
        self.gateway.handle_publication(&mut self.core, publication);
        self.finish_call();
    }

    /// Handles a notice of the bus.
    pub fn handle_notice(&mut self, now: Now, notice: &BusNotice) {
        self.core.now = now;
        self.core.note(notice);
        self.gateway
            .handle_notice(&mut self.core, &mut self.clients, notice);
        self.finish_call();
    }

    /// Handles an input for the gateway from another thread.
    pub fn handle_input(&mut self, now: Now, input: G::In) {
        self.core.now = now;
        self.gateway
            .handle_input(&mut self.core, &mut self.clients, input);
        self.core.room_was_freed = true;
        self.finish_call();
    }

    /// Does the work that is due at `now`. Walks over clients, deadlines and the gateway have a third of
    /// [`Limits::work_us`](super::Limits::work_us) each. The rest of the work stays due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.core.now = now;
        let part_us = self.core.limits.work_us / 3;
        self.core.turn.begin_later(part_us);
        self.core.continue_leaving();
        self.core.reap();
        self.core.advance_drain();
        self.core.advance_cuts();
        self.core.check_history();
        self.core.check_overload();
        self.core.give_up_waits_for_word();
        self.core.turn.begin_later(part_us);
        while let Some(key) = self.core.deadlines.pop_due(now.mono_us) {
            if let Some(session) = self.core.clients.session_mut(key) {
                session.disarm();
                self.session_due(key);
                self.core.arm(key);
            }
            if !self.core.turn.has_time() {
                break;
            }
        }
        let due_us = self.gateway.poll_timeout();
        if due_us.is_some_and(|at| at <= now.mono_us) {
            self.core.turn.begin_later(part_us);
            self.gateway
                .handle_timeout(&mut self.core, &mut self.clients);
            self.core.room_was_freed = true;
        }
        // Last, so that the deadlines above do not take messages that wait only for the loop, after a turn that was
        // late, for messages that a slow client does not take.
        self.core.end_gathering();
        self.finish_call();
    }

    /// Notes that the shell has read what a client had sent when the time for its request head was over
    /// ([`Effect::ReadLast`]). A client without a whole head is refused.
    pub fn handle_last_read(&mut self, now: Now, key: SessionKey) {
        self.core.now = now;
        if self.core.phase(key) == Some(PhaseKind::Head) {
            let late = RequestRefusal::new(408, "Request timeout");
            self.core
                .refuse(key, late, CloseReason::HandshakeTimeout, None);
        }
        self.finish_call();
    }

    // ---- commands

    /// Refuses the next connection if it is over [`Limits::sockets_max`](super::Limits::sockets_max), and counts it as
    /// accepted and closed. Returns whether it did: the shell then closes the connection without a response, and does not
    /// call [`handle_accepted`](Self::handle_accepted).
    pub fn refuse_over_sockets_max(&mut self) -> bool {
        let is_over = self.core.connections() >= self.core.limits.sockets_max;
        if is_over {
            self.core.clients.stats.accepted += 1;
            self.count_close(CloseReason::OpenFiles);
        }
        is_over
    }

    /// Counts the end of a connection that has no session, such as one that was handed to HTTP.
    pub fn count_close(&mut self, reason: CloseReason) {
        self.core.clients.stats.count_close(reason);
    }

    /// Sets the refusal that the log line about the end of a connection shows beside the reason.
    pub fn set_refusal(&mut self, key: SessionKey, refusal: &'static str) {
        self.core.set_refusal(key, refusal);
    }

    /// Sets the clock by which the hub ends its work in time: microseconds of a monotonic clock. Nothing else depends on it.
    /// Without one, there is always time.
    pub fn set_turn_clock(&mut self, mono_us: impl Fn() -> u64 + Send + 'static) {
        self.core.turn.set_clock(mono_us);
    }

    /// Begins a turn of the loop at this time of the turn's clock, microseconds.
    pub fn begin_turn_at(&mut self, now_us: u64) {
        self.core.turn.begin_turn_at(now_us);
    }

    /// As [`begin_part`](Self::begin_part), for a part after the flush: a long turn leaves it half of the time.
    pub fn begin_later_part(&mut self, part_us: u64) {
        self.core.turn.begin_later(part_us);
    }

    /// Begins a part of a turn: the work until the next call may take this long, microseconds.
    pub fn begin_part(&mut self, part_us: u64) {
        self.core.turn.begin(part_us);
    }

    /// As [`begin_part`](Self::begin_part), for a shell that has read the clock just now, microseconds.
    pub fn begin_part_at(&mut self, now_us: u64, part_us: u64) {
        self.core.turn.begin_at(now_us, part_us);
    }

    /// Whether the part of the turn has time for another step.
    pub fn has_time(&mut self) -> bool {
        self.core.turn.has_time()
    }

    /// As [`has_time`](Self::has_time), for a shell that has read the clock just now, microseconds.
    pub fn has_time_at(&mut self, now_us: u64) -> bool {
        self.core.turn.has_time_at(now_us)
    }

    /// Begins a stop, which [`handle_timeout`](Self::handle_timeout) continues.
    pub fn drain(&mut self, now: Now, plan: DrainPlan) {
        self.core.now = now;
        self.core.begin_drain(plan);
        self.finish_call();
    }

    /// Gives every client with something to send one write, while the part of the turn has time; returns true if some
    /// have more. A flush that stopped for lack of time continues in the next call
    /// ([`is_flushing`](Self::is_flushing)).
    pub fn flush(&mut self, now: Now, tx: &mut dyn Transmit) -> bool {
        self.core.now = now;
        self.core.flush_dirty(tx);
        self.core.keep_queue_rooms();
        self.core.keep_frame_memory();
        self.core.begin_reaping();
        self.finish_call();
        self.has_to_flush()
    }

    /// As [`flush`](Self::flush), but only for clients with little to send: for what arrived after the flush of a turn.
    pub fn flush_little(&mut self, now: Now, tx: &mut dyn Transmit) -> bool {
        self.core.now = now;
        self.core.flush_little(tx);
        self.finish_call();
        self.has_to_flush()
    }

    // ---- outputs

    /// The next work on a socket for the shell, in order.
    #[inline]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        let effects = &mut self.core.effects;
        let effect = effects.pop_front();
        if effect.is_none() && tables::is_too_large(0, effects.capacity()) {
            *effects = VecDeque::new();
        }
        effect
    }

    /// Whether the shell has work left.
    pub fn has_effects(&self) -> bool {
        !self.core.effects.is_empty()
    }

    /// The next work for another thread, in order.
    pub fn poll_output(&mut self) -> Option<G::Out> {
        self.gateway.poll_output()
    }

    /// The time of the next [`handle_timeout`](Self::handle_timeout), microseconds of the monotonic
    /// clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        let dues = [
            self.core.deadlines.next(),
            self.core.drain_deadline(),
            self.core.cuts_deadline(),
            self.core.reap_deadline(),
            self.core.walk_deadline(),
            self.core.resume_room_deadline(),
            self.core.word_deadline(),
            self.core.history_deadline(),
            self.core.clients.gather.due_us(),
            self.gateway.poll_timeout(),
        ];
        earliest(dues)
    }

    /// The time of the next [`check_slow`](Self::check_slow), microseconds of the monotonic clock; `None` while no
    /// send queue waits.
    pub fn slow_due(&self) -> Option<u64> {
        self.core.waits.due_us()
    }

    /// Looks at clients whose send queue waits, and finds out why. `late_us`: the lateness of the loop in the last second,
    /// microseconds.
    pub fn check_slow(&mut self, now: Now, late_us: u64, tx: &mut dyn Transmit) {
        let core = &mut self.core;
        core.now = now;
        let trusted = &core.limits.trusted_proxies;
        core.waits
            .poll_clients(now, late_us, &mut core.clients, trusted, tx);
    }

    /// Takes the times from pings to pongs since the last call, microseconds; the memory stays.
    pub fn take_pongs_us(&mut self) -> impl Iterator<Item = u32> {
        self.core.pongs_us.drain(..)
    }

    /// The largest send queue since the last call, in bytes.
    pub fn take_send_queue_peak(&mut self) -> u64 {
        std::mem::take(&mut self.core.clients.stats.send_queue_peak_bytes)
    }

    // ---- getters

    /// Counters and gauges.
    pub fn stats(&self) -> &HubStats {
        self.core.stats()
    }

    /// The core.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The gateway.
    pub fn gateway(&self) -> &G {
        &self.gateway
    }

    /// The gateway's state of each client.
    pub fn clients(&self) -> &ByClient<G::Client> {
        &self.clients
    }

    /// Whether a stop has begun.
    pub fn is_draining(&self) -> bool {
        self.core.drain.is_some()
    }

    /// Whether a stop has closed every WebSocket: new clients would only be refused.
    pub fn takes_no_more(&self) -> bool {
        let closes_begun = self.core.drain.is_some_and(|d| d.closing);
        closes_begun && self.core.stats().open == 0
    }

    /// Whether a stop is complete: the sockets of all WebSockets have ended, and the gateway is busy
    /// with no client. Clients refused meanwhile do not count.
    pub fn is_drained(&self) -> bool {
        self.takes_no_more() && self.core.stats().leaving == 0 && self.core.busy.is_empty()
    }

    /// Whether some clients have something to send that the kernel may take, or a walk over the queues
    /// is due because frames are over their limit.
    pub fn has_to_flush(&self) -> bool {
        self.core.has_unflushed() || self.core.has_to_walk()
    }

    /// Whether a flush has stopped for lack of time.
    pub fn is_flushing(&self) -> bool {
        self.core.laps.is_under_way()
    }

    /// Whether the shell may take another publication. While a flush is under way, publications wait for the clients
    /// that the flush has yet to reach. A quarter of the soft limit is left for the next publication, so that a client
    /// that keeps up stays below its soft limit. Queues of frames with a conflation key only conflate, so these frames
    /// do not count. While frames and queues are over their limit, no client gets more before all were written to: many
    /// queues of short messages take much memory long before one is over its soft limit. Publications wait too while one
    /// without a key waits behind held states, while the history has yet to forget messages for those before, and while
    /// frames that wait grow faster than the clients that hold them are found.
    pub fn takes_publications(&self) -> bool {
        let max_bytes = self.core.limits.send_queue.soft_bytes / 4 * 3;
        let has_room =
            || self.core.laps.published_bytes() < max_bytes && !self.core.is_over_frame_limit();
        let may_keep = !self.core.history_is_over() && !self.core.outgrows_walks();
        may_keep && self.core.overload.others == 0 && (!self.core.has_unflushed() || has_room())
    }

    /// Panics if the state is inconsistent. For simulations and tests.
    pub fn check_invariants(&self) {
        self.core.clients.check_invariants();
        self.core.check_lists();
        self.core.topics.check_invariants();
        let leaving = self.core.leaving.iter();
        let not_reported = leaving.filter(|(_, ended)| ended.is_some()).count();
        assert_eq!(
            self.clients.len() as u64,
            self.core.stats().open + not_reported as u64,
            "clients of the gateway"
        );
        let waiting = self.core.no_room.len() as u64;
        let paused = self.core.stats().paused_for(Pause::Room);
        assert_eq!(waiting, paused, "sessions in the line for room");
    }

    // ---- inside

    /// Does what is due for a client by now, for the core and for the gateway.
    fn session_due(&mut self, key: SessionKey) {
        let pong_timeout = self.gateway.pong_timeout_code();
        self.core.client_due(key, pong_timeout);
        let now = self.core.now;
        let session = self.core.clients.session_mut(key);
        if session.is_some_and(|session| session.take_gateway_due(now))
            && let Some(client) = self.clients.get_mut(key)
        {
            self.gateway.handle_deadline(&mut self.core, key, client);
            self.core.room_was_freed = true;
        }
    }

    /// Carries out the consequences of a call: drops clients, reports ends to the gateway, continues reading.
    pub(super) fn finish_call(&mut self) {
        self.core.remove_left_frames();
        loop {
            self.core.reap();
            if let Some((key, reason)) = self.core.ended.pop_front() {
                self.report_closed(key, reason);
            } else if let Some(key) = self.core.stopping.pop_front() {
                self.stop(key);
            } else if let Some(key) = self.core.drained.pop() {
                self.report_drained(key);
            } else if let Some(key) = self.core.resumed.pop() {
                self.read_on(key);
            } else {
                break;
            }
        }
        #[cfg(debug_assertions)]
        {
            self.calls += 1;
            if self.calls.is_multiple_of(1024) {
                self.check_invariants();
            }
        }
    }

    /// Closes a client at a stop or a move, after the last frames of the gateway.
    fn stop(&mut self, key: SessionKey) {
        if let Some(client) = self.clients.get_mut(key) {
            self.gateway.handle_stopping(&mut self.core, key, client);
        }
        let code = self.gateway.stop_code(&self.core.limits);
        let reason = match self.core.drain {
            Some(_) => CloseReason::ShuttingDown,
            None => CloseReason::Moved,
        };
        self.core.close(key, code, reason, Closing::Graceful);
    }

    /// Tells the gateway that a client has ended, once. Frees the slot if the socket has ended too.
    fn report_closed(&mut self, key: SessionKey, reason: CloseReason) {
        // A client that was accepted only to be closed never belonged to the gateway.
        if let Some(client) = self.clients.remove(key) {
            let closed = match reason {
                CloseReason::Revoked => Closed::Cut(client),
                reason => Closed::Ended(client, reason),
            };
            self.gateway.handle_closed(&mut self.core, key, closed);
            self.core.room_was_freed = true;
        }
        let session = self.core.clients.session(key);
        if session.is_some_and(Session::is_released) {
            self.core.release_slot(key);
        }
    }
}

impl Core {
    /// Does one piece of due work of a session, except the gateway's work.
    pub(super) fn client_due(&mut self, key: SessionKey, pong_timeout: CloseCode) {
        let ping_us = self.paced_us(self.limits.ping_interval_us);
        let (now, limits) = (self.now, &self.limits);
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        match session.due(now, limits, ping_us) {
            Due::Nothing => {}
            Due::LastRead => self.effects.push_back(Effect::ReadLast(key)),
            Due::End { reason, socket_end } => self.end(key, reason, socket_end),
            Due::PongTimeout => {
                let reason = CloseReason::PongTimeout;
                self.close(key, pong_timeout, reason, Closing::Now);
            }
            Due::CloseWritten(reason) => self.start_closing(key, reason),
            Due::Close => self.close_when_idle(key),
            Due::Ping => self.clients.mark_dirty(self.now, key),
            Due::Throttle => self.clients.open_throttle(now, limits, key),
            Due::Gate => self.clients.set_gate(now, key),
        }
    }
}
