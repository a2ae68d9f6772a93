//! The inputs of a turn, within its budgets: accepting and reading clients; inputs of the gateway and events of the bus, at
//! most as many as the send queues and the time allow. `turn.rs` calls accepting and reading, inputs, the bus, and the costly
//! clients, in this order.
//!
//! What a client's messages cost shows only afterwards, so the time that a client's reads took lately predicts the cost of the next.
//! Cheap clients are read before the first flush of a turn. After that flush these take turns: clients that have sent
//! nothing yet, costly clients, clients that used their share of an earlier turn, and clients whose message has room
//! again. Within each of these kinds, client addresses take turns. Each of the two parts has time of its own.

use std::io;

use mio::net::TcpStream;

use super::{Cost, REFUSE_US, Reactor, Unread};
use crate::listening::tls::TlsSession;
use crate::reactor::handshakes::{Entered, HandshakeJob, HandshakeOutcome, Handshakes, secured};
use crate::reactor::listeners::Accepted;
use crate::reactor::report::log_lines;
use crate::telemetry::{Budget, Stage};
use weirgate_bus::runtime::thread_cpu_us;
use weirgate_core::{CloseReason, Feed, Gateway, Now, PhaseKind, SessionKey};

/// While evicted connections end, accepting waits this long between two looks, and this long in all: then new connections
/// are refused.
const ENDS_LOOK_US: u64 = 1_000;
const ENDS_US_MAX: u64 = 200_000;

/// A read that takes less time was not interrupted by another program: the kernel gives each some milliseconds.
const INTERRUPTED_US_MIN: u64 = 200;

/// The clients that are read before the first flush of a turn, one of each in turns.
const CHEAP: [Cost; 2] = [Cost::Little, Cost::Head];

/// The kinds of clients that are read after the flush.
const COSTLY: [Costly; 4] = [
    Costly::Share,
    Costly::Room,
    Costly::Socket(Cost::Unknown),
    Costly::Socket(Cost::Much),
];

#[derive(Clone, Copy, Debug)]
enum Costly {
    /// A client that used its share of an earlier turn, with more input read already.
    Share,
    /// A client whose message found no room in the gateway.
    Room,
    Socket(Cost),
}

/// Decides whether accepted sockets are read in the turn of their accept. Under load and beside a proxy on
/// the same machine the request has arrived already, and reading at once saves a wake-up. A request from afar
/// arrives later, and the first read would be wasted.
#[derive(Debug, Default)]
pub(super) struct FirstReads {
    /// The last try found bytes: every socket is tried.
    pays: bool,
    /// If it did not: the number of accepts until the next try.
    left_out: u32,
}

impl FirstReads {
    /// Accepts without a try between two tries, while tries find nothing.
    const LEFT_OUT: u32 = 63;

    fn is_next_tried(&mut self) -> bool {
        let is_tried = self.pays || self.left_out == 0;
        self.left_out = match is_tried {
            true => Self::LEFT_OUT,
            false => self.left_out - 1,
        };
        is_tried
    }

    /// Records a try; `found`: the socket held bytes.
    fn tried(&mut self, found: bool) {
        self.pays = found;
    }
}

/// Accepting waits while more request heads are unread than the loop reads in this time, seconds. What waits in the
/// kernel costs nothing, and its time for the head has not begun.
const HEADS_AHEAD_S: usize = 2;

/// With fewer unread heads accepting does not wait.
const HEADS_UNREAD_MIN: usize = 256;

/// How many request heads the loop reads in a second.
#[derive(Debug, Default)]
pub(super) struct HeadRate {
    second: u64,
    read: usize,
    /// Those of the second before.
    before: usize,
}

impl HeadRate {
    fn check(&mut self, now_us: u64) {
        let second = now_us / 1_000_000;
        if second != self.second {
            let is_next = second == self.second + 1;
            self.before = if is_next { self.read } else { 0 };
            (self.second, self.read) = (second, 0);
        }
    }

    fn note_read(&mut self, now_us: u64) {
        self.check(now_us);
        self.read += 1;
    }

    /// Whether the loop reads the head of another client soon, behind `unread` others.
    fn takes_another(&mut self, now_us: u64, unread: usize) -> bool {
        self.check(now_us);
        unread < HEADS_UNREAD_MIN.max(HEADS_AHEAD_S * self.read.max(self.before))
    }
}

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Accepts, and reads the cheap clients.
    pub(super) fn accept_and_read(&mut self, now: Now) {
        let part_us = self.settings.budgets.read_us;
        self.hub.begin_part(part_us);
        self.accept(now);
        self.take_connections(|reactor| reactor.take_entered(now));
        self.take_connections(|reactor| reactor.take_returned(now));
        let mut left = CHEAP.map(|cost| self.sockets.readable(cost));
        if left == [0; CHEAP.len()] {
            return;
        }
        self.hub.begin_part(part_us);
        let mut at_us = self.clock.mono_us();
        // A system call, so only while costly clients wait, behind whom a wrong judgement would place a client.
        let costly = self.sockets.readable(Cost::Much);
        self.reading_from = (costly > 0).then(|| (at_us, thread_cpu_us()));
        while left != [0; CHEAP.len()] {
            for (cost, left) in CHEAP.into_iter().zip(&mut left) {
                if *left > 0 {
                    *left -= 1;
                    at_us = self.read_next(now, cost, at_us);
                }
            }
            if left != [0; CHEAP.len()] && self.is_spent(at_us) {
                return;
            }
        }
    }

    /// Reads the other kinds, each client at most once, beginning with another kind in each turn.
    pub(super) fn read_costly(&mut self) {
        let mut left = COSTLY.map(|kind| match kind {
            Costly::Share => self.hub.waiting_shares(),
            Costly::Room => self.hub.waiting_for_room(),
            Costly::Socket(cost) => self.sockets.readable(cost),
        });
        if left == [0; COSTLY.len()] {
            return;
        }
        let now = self.clock.now();
        let mut at_us = now.mono_us;
        self.hub.begin_part(self.settings.budgets.read_us);
        self.first_costly = (self.first_costly + 1) % COSTLY.len();
        let mut at = self.first_costly;
        while left != [0; COSTLY.len()] {
            if left[at] > 0 {
                left[at] -= 1;
                at_us = match COSTLY[at] {
                    Costly::Share => {
                        self.hub.handle_next_share(now);
                        self.clock.mono_us()
                    }
                    Costly::Room => match self.hub.handle_next_room(now) {
                        Some(key) => self.read_key(now, key, false, at_us),
                        None => {
                            left[at] = 0;
                            at_us
                        }
                    },
                    Costly::Socket(cost) => self.read_next(now, cost, at_us),
                };
                if left != [0; COSTLY.len()] && self.is_spent(at_us) {
                    return;
                }
            }
            at = (at + 1) % COSTLY.len();
        }
    }

    /// Whether the time for reading is over; counts the used-up budget.
    fn is_spent(&mut self, now_us: u64) -> bool {
        let is_spent = !self.hub.has_time_at(now_us);
        if is_spent {
            self.report.spent(Budget::Reads);
        }
        is_spent
    }

    /// Whether clients have to wait at the ports until the feed has caught up: before that, the history is incomplete,
    /// and the first clients of a new process could not resume.
    fn holds_clients(&mut self, now: Now) -> bool {
        let has_caught_up = self.feed.stats().caught_up;
        self.accept_from_us = self
            .accept_from_us
            .filter(|at| now.mono_us < *at && !has_caught_up);
        self.accept_from_us.is_some()
    }

    fn accept(&mut self, now: Now) {
        if !self.hub.is_draining() && self.holds_clients(now) {
            return;
        }
        // If other processes listen on the port too, they get the new clients once the stop has begun.
        let hands_over = self.hub.is_draining() && self.listeners.can_hand_over_port();
        if hands_over {
            // Connections that wait here are accepted once more, even if the stop has no client to close.
            self.listeners.recheck();
        } else if self.hub.takes_no_more() {
            // Load balancers and clients connect elsewhere at once.
            self.listeners.close();
            return;
        }
        self.take_connections(|reactor| {
            let unread = reactor.sockets.readable(Cost::Head);
            if !reactor.head_rate.takes_another(now.mono_us, unread) || reactor.waits_for_ends(now)
            {
                return false;
            }
            let Some(accepted) = reactor.listeners.accept(now) else {
                if hands_over {
                    reactor.listeners.hand_over_port();
                    reactor.refuse_until_us = now.mono_us + REFUSE_US;
                }
                return false;
            };
            if !reactor.hub.turns_away() {
                reactor.admit(now, accepted);
            }
            true
        });
    }

    /// Whether accepting waits for the HTTP thread, which is ending connections that were evicted: with more new ones the
    /// memory for connections would be used up, and they would be refused.
    fn waits_for_ends(&mut self, now: Now) -> bool {
        let has_to_wait = self.hub.core().connections_held().waits_for_ends();
        let since = self.waits_for_ends_since.filter(|_| has_to_wait);
        self.waits_for_ends_since = since.or_else(|| has_to_wait.then_some(now.mono_us));
        let waits = has_to_wait && since.is_none_or(|since| now.mono_us < since + ENDS_US_MAX);
        if waits {
            self.listeners.pause(now.mono_us + ENDS_LOOK_US);
        }
        waits
    }

    /// Takes connections by calls of `next`, which returns false if none waits, as many as there is time for.
    fn take_connections(&mut self, mut next: impl FnMut(&mut Self) -> bool) {
        while next(self) {
            if !self.hub.has_time() {
                self.report.spent(Budget::Accepts);
                return;
            }
        }
    }

    /// Begins a connection: with the header of a proxy, or with TLS or HTTP.
    fn admit(&mut self, now: Now, accepted: Accepted) {
        let key = self
            .hub
            .handle_accepted(now, accepted.peer, accepted.is_tls);
        let headers_from = &self.settings.listen.headers_from;
        match &self.seams.handshakes {
            Some(handshakes)
                if headers_from.trusts_peer(&accepted.peer) && self.is_awaited(key) =>
            {
                handshakes.send(HandshakeJob::ReadHeader(key, accepted));
            }
            _ => self.enter(now, key, accepted),
        }
    }

    fn register(
        &mut self,
        now: Now,
        key: SessionKey,
        stream: TcpStream,
        tls: Option<Box<TlsSession>>,
    ) {
        if let Err(error) = self.sockets.insert(key, stream, tls) {
            tracing::warn!(%error, "a connection could not be registered");
            self.hub.handle_ended(now, key, true);
        }
    }

    /// Begins TLS, or HTTP.
    fn enter(&mut self, now: Now, key: SessionKey, accepted: Accepted) {
        if accepted.is_tls {
            self.begin_handshake(now, key, accepted.stream);
            return;
        }
        self.register(now, key, accepted.stream, None);
        if self.first_reads.is_next_tried() {
            self.note_unread(key, Unread::Hoped);
        }
    }

    /// Sends a socket to the thread of handshakes, unless the client is refused: then the socket is closed,
    /// because a response would cost a handshake.
    fn begin_handshake(&mut self, now: Now, key: SessionKey, stream: TcpStream) {
        let client = self.hub.core().client_addr(key);
        match (&self.seams.handshakes, client) {
            (Some(handshakes), Some(client)) if self.is_awaited(key) => {
                handshakes.send(HandshakeJob::Begin(key, stream, client));
            }
            _ => self.hub.handle_ended(now, key, true),
        }
    }

    /// Whether the request head of a session is awaited: the session was not refused, and has not ended.
    fn is_awaited(&self, key: SessionKey) -> bool {
        self.hub.core().phase(key) == Some(PhaseKind::Head)
    }

    /// Takes a socket whose header was read, or whose handshake is over. Returns false if there is none.
    fn take_entered(&mut self, now: Now) -> bool {
        let handshakes = self.seams.handshakes.as_ref();
        let Some(Entered { key, outcome }) = handshakes.and_then(Handshakes::next) else {
            return false;
        };
        match outcome {
            HandshakeOutcome::Failed(reason, refusal) => {
                if let Some(refusal) = refusal {
                    self.hub.set_refusal(key, refusal);
                }
                self.hub.handle_failed(now, key, reason, false);
            }
            // A session that has ended meanwhile needs no socket.
            _ if !self.is_awaited(key) => {}
            HandshakeOutcome::Header(accepted) => {
                self.hub.handle_proxied(now, key, accepted.peer);
                self.enter(now, key, accepted);
            }
            HandshakeOutcome::Handshake(stream, tls, secured) => {
                self.hub.handle_secured(key, secured);
                self.register(now, key, stream, Some(tls));
                // Bytes that TLS has decrypted already cause no event.
                self.note_unread(key, Unread::Bytes);
            }
        }
        true
    }

    /// Takes a connection back from HTTP, like a new connection with the bytes that HTTP has read. Returns
    /// false if there is none.
    fn take_returned(&mut self, now: Now) -> bool {
        let Ok(handover) = self.seams.returned.try_recv() else {
            return false;
        };
        let key = self
            .hub
            .handle_returned(now, handover.peer, handover.permit);
        let is_tls = handover.tls.is_some();
        if let Some(tls) = &handover.tls {
            self.hub.handle_secured(key, secured(tls));
        }
        let stream = TcpStream::from_std(handover.stream);
        self.register(now, key, stream, handover.tls);
        self.hub.handle_bytes(now, key, &handover.read);
        if is_tls {
            // Bytes that TLS has decrypted already cause no event.
            self.note_unread(key, Unread::Bytes);
        }
        true
    }

    /// Reads the next socket of a list. `began_us`: the present time; returns the time afterwards.
    fn read_next(&mut self, now: Now, cost: Cost, began_us: u64) -> u64 {
        match self.sockets.next_readable(cost) {
            Some(key) => self.read_key(now, key, cost == Cost::Little, began_us),
            None => began_us,
        }
    }

    /// Reads a socket; puts the socket back in a list if more may be unread. `was_little`: the socket is read among those that cost
    /// little. `began_us`: the present time; returns the time afterwards.
    fn read_key(&mut self, now: Now, key: SessionKey, was_little: bool, began_us: u64) -> u64 {
        let is_hoped = self.sockets.unread(key) == Unread::Hoped;
        let was_open = self.hub.core().phase(key) == Some(PhaseKind::Open);
        let waiting = self.hub.waiting_shares();
        let (bytes, more) = self.read_one(now, key);
        if is_hoped {
            self.first_reads.tried(bytes > 0);
        }
        if self.hub.waiting_shares() > waiting {
            self.report.spent(Budget::Messages);
        }
        let ended_us = self.clock.mono_us();
        if bytes > 0 {
            let took_us = self.read_us(was_little, began_us, ended_us);
            let is_costly = self.sockets.charge(key, ended_us, took_us);
            let cost = match self.hub.core().phase(key) {
                Some(PhaseKind::Head) => Cost::Head,
                _ if is_costly => Cost::Much,
                _ if was_open => Cost::Little,
                _ => Cost::Unknown,
            };
            if !was_open && cost != Cost::Head {
                self.head_rate.note_read(ended_us);
            }
            self.sockets.set_cost(key, cost);
        }
        if more {
            self.read_on(key);
        }
        // The peer may have ended before the socket was paused.
        self.check_end(now, key);
        ended_us
    }

    /// The time that a read took. If a client `was_little` and costly ones wait, only the loop's own time counts: on a busy
    /// machine the kernel runs other programs in the middle of a read, and the client would wait behind all costly ones for that.
    fn read_us(&mut self, was_little: bool, began_us: u64, ended_us: u64) -> u64 {
        let took_us = ended_us.saturating_sub(began_us);
        let from = self.reading_from.filter(|_| was_little);
        let Some((from_us, from_cpu_us)) = from.filter(|_| took_us > INTERRUPTED_US_MIN) else {
            return took_us;
        };
        let cpu_us = thread_cpu_us();
        let had_us = cpu_us.saturating_sub(from_cpu_us);
        let others_had_us = ended_us.saturating_sub(from_us).saturating_sub(had_us);
        self.reading_from = Some((ended_us, cpu_us));
        took_us.saturating_sub(others_had_us)
    }

    /// Reads the socket of a client whose time for the request head is over, and then lets the hub judge the client.
    pub(super) fn read_last(&mut self, key: SessionKey) {
        let now = self.clock.now();
        self.note_unread(key, Unread::Bytes);
        self.read_key(now, key, false, now.mono_us);
        self.hub.handle_last_read(now, key);
    }

    /// Reads a socket. Returns the number of bytes read, and whether the client has had its share while bytes may be
    /// unread.
    fn read_one(&mut self, now: Now, key: SessionKey) -> (usize, bool) {
        let bytes_max = self.settings.budgets.read_bytes_max;
        let mut bytes = 0;
        while self.sockets.unread(key) != Unread::Nothing && self.hub.may_read(key) {
            if bytes == bytes_max || bytes > 0 && !self.hub.has_share() {
                return (bytes, true);
            }
            let room = self.read_buffer.len().min(bytes_max - bytes);
            let room = room.min(self.hub.read_bytes_max(key));
            match self.sockets.read(key, &mut self.read_buffer[..room]) {
                Ok(got) if !got.is_end() => {
                    bytes += got.raw_bytes;
                    let plain = &self.read_buffer[..got.plain_bytes];
                    if !plain.is_empty() {
                        self.hub.handle_bytes(now, key, plain);
                    }
                }
                Ok(_) => {
                    self.hub.handle_ended(now, key, false);
                    // A client that may still read stays open: an error shows that the client has left.
                    let stays = self.hub.core().phase(key) == Some(PhaseKind::Open);
                    if stays && self.sockets.has_failed(key) {
                        self.hub.handle_ended(now, key, true);
                    }
                    return (bytes, false);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (bytes, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.hub
                        .handle_failed(now, key, CloseReason::TlsError, false);
                    return (bytes, false);
                }
                Err(_) => {
                    self.hub.handle_ended(now, key, true);
                    return (bytes, false);
                }
            }
        }
        (bytes, false)
    }

    /// Handles input of other threads for the gateway, publications included.
    pub(super) fn take_inputs(&mut self, now: Now) {
        while let Ok(request) = self.seams.cuts.try_recv() {
            self.hub.cut(now, request);
        }
        let inputs = self.seams.inputs.len();
        self.hub.begin_part(self.settings.budgets.inputs_us);
        for taken in 0..inputs {
            if !self.hub.takes_publications() || taken > 0 && !self.hub.has_time() {
                self.report.spent(Budget::Publications);
                return;
            }
            let Ok(input) = self.seams.inputs.try_recv() else {
                return;
            };
            self.hub.handle_input(now, input);
        }
    }

    /// Takes bus events from the channel, up to a part that the send queues can take; the rest follows after a flush. A
    /// refused message adds no bytes, but its time counts.
    pub(super) fn take_bus(&mut self, began: Now) {
        let events = self.seams.bus.len();
        if events == 0 {
            return;
        }
        let budget = self.settings.budgets.publication_bytes_max;
        let (mut bytes, mut at_us) = (0, self.clock.mono_us());
        self.hub.begin_part(self.settings.budgets.bus_us);
        for taken in 0..events {
            let may_go_on = taken == 0 || bytes < budget && self.hub.has_time_at(at_us);
            if !may_go_on || !self.hub.takes_publications() {
                self.report.spent(Budget::Publications);
                return;
            }
            let Ok(event) = self.seams.bus.try_recv() else {
                return;
            };
            let payload_bytes = (self.seams.event_bytes)(&event);
            self.seams.bus_bytes.give_back(payload_bytes);
            let now = began.plus_us(at_us.saturating_sub(began.mono_us));
            let (event_bytes, ended_us) = self.take_event(now, event);
            bytes += event_bytes;
            at_us = ended_us;
        }
    }

    /// Processes a bus event up to the send queues. Returns the bytes that each member of its topics got, and the time
    /// at the end, microseconds of the monotonic clock.
    fn take_event(&mut self, now: Now, event: F::Event) -> (usize, u64) {
        if let Some(notice) = self.feed.notice(&event) {
            self.hub.handle_notice(now, &notice);
        }
        self.feed.event(now, event, &mut self.publications);
        log_lines(&mut self.feed);
        if self.publications.is_empty() {
            return (0, self.clock.mono_us());
        }
        let made_us = self.clock.mono_us();
        let mut bytes = 0;
        for publication in self.publications.drain(..) {
            if publication.deliver {
                let received_us = publication.body.received().mono_us;
                self.report.taken(received_us, now.mono_us);
            }
            self.hub.handle_publication(now, &publication);
            // A held state is in no send queue.
            if !self.hub.core().holds_states() {
                bytes += publication.body.queue_bytes();
            }
        }
        self.report.stage(Stage::Feed, now.mono_us, made_us);
        let queued_us = self.clock.mono_us();
        self.report.stage(Stage::Queue, made_us, queued_us);
        (bytes, queued_us)
    }
}

#[cfg(test)]
mod tests {
    use super::{FirstReads, HEADS_UNREAD_MIN, HeadRate};

    #[test]
    fn sockets_are_read_at_once_while_that_finds_requests() {
        let mut reads = FirstReads::default();
        for _ in 0..5 {
            assert!(reads.is_next_tried());
            reads.tried(true);
        }
        // From here on requests arrive late.
        assert!(reads.is_next_tried());
        reads.tried(false);
        while !reads.is_next_tried() {}
        let tried = (0..640).filter(|_| {
            let is_tried = reads.is_next_tried();
            if is_tried {
                reads.tried(false);
            }
            is_tried
        });
        assert_eq!(tried.count(), 10, "one of 64");
        // Many accepts before the first read.
        let tried = (0..640).filter(|_| reads.is_next_tried());
        assert_eq!(tried.count(), 10, "one of 64");
        // From here on requests arrive early again.
        while !reads.is_next_tried() {}
        reads.tried(true);
        assert!(reads.is_next_tried());
    }

    #[test]
    fn as_many_heads_are_ahead_as_are_read_in_two_seconds() {
        const SECOND: u64 = 1_000_000;
        let mut rate = HeadRate::default();
        assert!(rate.takes_another(0, HEADS_UNREAD_MIN - 1));
        assert!(!rate.takes_another(0, HEADS_UNREAD_MIN));
        (0..1_000).for_each(|_| rate.note_read(SECOND));
        for second in [1, 2] {
            assert!(rate.takes_another(second * SECOND, 1_999));
            assert!(!rate.takes_another(second * SECOND, 2_000));
        }
        assert!(
            !rate.takes_another(3 * SECOND, HEADS_UNREAD_MIN),
            "none were read lately"
        );
    }
}
