//! Accepting: new connections, with the header of a proxy, TLS or HTTP, and connections that HTTP gives back. Accepting
//! waits while the feed catches up, while many request heads are unread, and while evicted connections end.

use mio::net::TcpStream;
use weirgate_wire::admission::Transport;

use super::{Cost, REFUSE_US, Reactor, Unread};
use crate::listening::tls::TlsSession;
use crate::reactor::handshakes::{Entered, HandshakeJob, HandshakeOutcome, Handshakes, secured};
use crate::reactor::listeners::Accepted;
use crate::telemetry::Budget;
use weirgate_core::{Feed, Gateway, PeerEnd, PhaseKind, SessionKey, SocketEnd};
use weirgate_wire::base::Now;

/// While evicted connections end, accepting waits this long between two checks.
const ENDS_CHECK_US: u64 = 1_000;
/// Accepting waits at most this long for evicted connections: then new connections are refused.
const ENDS_US_MAX: u64 = 200_000;

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

    /// Counts an accept. Returns whether its socket is read at once.
    fn try_next(&mut self) -> bool {
        let is_tried = self.pays || self.left_out == 0;
        self.left_out = match is_tried {
            true => Self::LEFT_OUT,
            false => self.left_out - 1,
        };
        is_tried
    }

    /// Records a try that found so many bytes.
    pub(super) fn note_try(&mut self, bytes: usize) {
        self.pays = bytes > 0;
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
    /// The heads that were read in the second before.
    before: usize,
}

impl HeadRate {
    /// Begins to count anew if another second has begun.
    fn advance(&mut self, now_us: u64) {
        let second = now_us / 1_000_000;
        if second != self.second {
            let is_next = second == self.second + 1;
            self.before = if is_next { self.read } else { 0 };
            (self.second, self.read) = (second, 0);
        }
    }

    pub(super) fn note_read(&mut self, now_us: u64) {
        self.advance(now_us);
        self.read += 1;
    }

    /// Whether the loop reads the head of another client soon, behind `unread` others.
    fn takes_another(&mut self, now_us: u64, unread: usize) -> bool {
        self.advance(now_us);
        unread < HEADS_UNREAD_MIN.max(HEADS_AHEAD_S * self.read.max(self.before))
    }
}

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Accepts connections, and takes those whose header was read or whose handshake is over, and those that HTTP gives
    /// back. `at_us`: the present time.
    pub(super) fn accept(&mut self, now: Now, at_us: u64) {
        self.hub.begin_part_at(at_us, self.settings.budgets.read_us);
        self.accept_at_listeners(now);
        self.take_connections(|reactor| reactor.take_entered(now));
        self.take_connections(|reactor| reactor.take_returned(now));
    }

    /// Whether clients have to wait at the ports until the feed has caught up: before that, the history is incomplete,
    /// and the first clients of a new process could not resume.
    fn keeps_clients_waiting(&mut self, now: Now) -> bool {
        let has_caught_up = self.feed.stats().caught_up;
        self.accept_from_us = self
            .accept_from_us
            .filter(|at| now.mono_us < *at && !has_caught_up);
        self.accept_from_us.is_some()
    }

    /// Accepts the connections that wait at the listeners, unless they have to wait. After the begin of a stop, other
    /// processes on the port get them, or they are refused.
    fn accept_at_listeners(&mut self, now: Now) {
        if !self.hub.is_draining() && self.keeps_clients_waiting(now) {
            return;
        }
        // If other processes listen on the port too, they get the new clients once the stop has begun.
        let hands_over = self.hub.is_draining() && self.listeners.can_hand_over_port();
        if hands_over {
            // Accepts without an edge: connections may wait here, and a stop without clients may be over before the
            // next poll.
            self.listeners.recheck();
        } else if self.hub.takes_no_more() {
            // Load balancers and clients connect elsewhere at once.
            self.listeners.close();
            return;
        }
        self.take_connections(|reactor| {
            let unread = reactor.sockets.readable(Cost::Head);
            if !reactor.head_rate.takes_another(now.mono_us, unread) || reactor.awaits_evicted(now)
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
            // Over the limit, the socket is dropped, which closes it.
            if !reactor.hub.refuse_over_sockets_max() {
                reactor.admit(now, accepted);
            }
            true
        });
    }

    /// Whether accepting waits for the HTTP thread, which is ending connections that were evicted: with more new ones the
    /// memory for connections would be used up, and they would be refused.
    fn awaits_evicted(&mut self, now: Now) -> bool {
        let has_to_wait = self.hub.core().connections_held().is_waiting_for_evicted();
        let since = self.awaits_evicted_since.filter(|_| has_to_wait);
        self.awaits_evicted_since = since.or_else(|| has_to_wait.then_some(now.mono_us));
        let waits = has_to_wait && since.is_none_or(|since| now.mono_us < since + ENDS_US_MAX);
        if waits {
            self.listeners.pause(now.mono_us + ENDS_CHECK_US);
        }
        waits
    }

    /// Takes connections by calls of `next`, which returns false if none waits, as many as there is time for.
    fn take_connections(&mut self, mut next: impl FnMut(&mut Self) -> bool) {
        while next(self) {
            if !self.hub.has_time() {
                self.report.count_spent(Budget::Accepts);
                return;
            }
        }
    }

    /// Begins a connection: with the header of a proxy, or with TLS or HTTP.
    fn admit(&mut self, now: Now, accepted: Accepted) {
        let key = self
            .hub
            .handle_accepted(now, accepted.peer, accepted.transport);
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

    /// Adds the socket of a session to the poll.
    fn register(
        &mut self,
        now: Now,
        key: SessionKey,
        stream: TcpStream,
        tls: Option<Box<TlsSession>>,
    ) {
        if let Err(error) = self.sockets.insert(key, stream, tls) {
            tracing::warn!(%error, "a connection could not be registered");
            self.hub.handle_ended(now, key, PeerEnd::Failed);
        }
    }

    /// Begins TLS, or HTTP.
    fn enter(&mut self, now: Now, key: SessionKey, accepted: Accepted) {
        if accepted.transport == Transport::Tls {
            self.begin_handshake(now, key, accepted.stream);
            return;
        }
        // Without TLS.
        self.register(now, key, accepted.stream, None);
        if self.first_reads.try_next() {
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
            _ => self.hub.handle_ended(now, key, PeerEnd::Failed),
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
                self.hub.handle_failed(now, key, reason, SocketEnd::Close);
            }
            // A session that has ended meanwhile needs no socket.
            _ if !self.is_awaited(key) => {}
            HandshakeOutcome::Header(accepted) => {
                self.hub.handle_proxied(now, key, accepted.peer);
                self.enter(now, key, accepted);
            }
            HandshakeOutcome::Handshake(stream, tls, secured) => {
                self.hub.handle_secured(now, key, secured);
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
            self.hub.handle_secured(now, key, secured(tls));
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
}

#[cfg(test)]
mod tests {
    use super::{FirstReads, HEADS_UNREAD_MIN, HeadRate};

    #[test]
    fn sockets_are_read_at_once_while_that_finds_requests() {
        let mut reads = FirstReads::default();
        for _ in 0..5 {
            assert!(reads.try_next());
            reads.note_try(1);
        }
        // From here on requests arrive late.
        assert!(reads.try_next());
        reads.note_try(0);
        while !reads.try_next() {}
        let tried = (0..640).filter(|_| {
            let is_tried = reads.try_next();
            if is_tried {
                reads.note_try(0);
            }
            is_tried
        });
        assert_eq!(tried.count(), 10, "one of 64");
        // Many accepts before the first read.
        let tried = (0..640).filter(|_| reads.try_next());
        assert_eq!(tried.count(), 10, "one of 64");
        // From here on requests arrive early again.
        while !reads.try_next() {}
        reads.note_try(1);
        assert!(reads.try_next());
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
