//! A plain HTTP connection, from the hand-over to its end or its return to the reactor: hyper behind the gate, the
//! deadlines, and a close that does not cut off the last answer.

use super::caller::Caller;
use super::client_stream::ClientStream;
use super::connection_clock::{ConnectionClock, Evictable};
use super::end_reports::EndReports;
use super::gate::{ClientEnd, Gate, GateEnd, HeadJudge, HeadLimits};
use super::handover::{Handover, ReturnToReactor};
use super::requests::Requests;
use super::settings::{HttpSettings, Linger};
use super::site::{EvictionCheck, Site};
use super::turns::{Seat, Turns};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;
use weirgate_core::CloseReason;
use weirgate_wire::admission::{ClientAddr, HeldBytes, Peer, Permit, Quota};
use weirgate_wire::write_refusal;

/// How often to check again for a client whose end unread bytes may hide ([`ClientEnd::Unknown`]).
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// What all connections share: the site, the settings, and hyper with its limits.
pub(super) struct Server {
    pub(super) site: Site,
    pub(super) ends: Arc<EndReports>,
    pub(super) settings: HttpSettings,
    turns: Turns,
    protocol: http1::Builder,
}

impl Server {
    /// The bytes read so far of a client from which nothing was read yet: none.
    pub(super) fn nothing_read(&self, peer: &Peer) -> HeldBytes {
        // 0: the first bytes will count as progress.
        HeldBytes::new(&self.settings.held, peer.client(), Vec::new(), 0)
    }

    pub(super) fn new(site: Site, ends: Arc<EndReports>, settings: HttpSettings) -> Self {
        let mut protocol = http1::Builder::new();
        protocol
            // The connection clock distinguishes a slow head from an idle connection; hyper's timeout does
            // not.
            .header_read_timeout(None)
            .max_header_size(settings.head_bytes_max)
            .max_headers(settings.head_headers_max)
            // Holds the largest head. Bounds what hyper reads ahead and what it keeps of an answer; by default 400 KiB.
            .max_buf_size((2 * settings.head_bytes_max).max(32 * 1024))
            // A client may end its half after the request.
            .half_close(true);
        Self {
            site,
            ends,
            settings,
            turns: Turns::default(),
            protocol,
        }
    }

    /// How to linger at the end of a connection of this peer. On the admin address a proxy gets no more than others,
    /// because few connections fit there.
    fn linger_for(&self, peer: &Peer) -> Linger {
        let is_proxy = self.settings.access.trusted_proxies.trusts_peer(peer);
        match is_proxy && !self.site.is_admin {
            true => self.settings.linger_of_proxies,
            false => self.settings.linger,
        }
    }
}

/// How hyper's part of a connection ended.
enum HyperEnd {
    /// The connection ended as the protocol allows: one side requested it, the client left, or the gate stopped.
    /// All answers are out.
    Done,
    /// The client broke the protocol or its connection.
    Fault(hyper::Error),
    /// No request arrived in time, a head was not complete in time, or the client did not send or read in time.
    TimedOut,
    /// The client left while a handler was at work.
    ClientGone,
    /// The process stops.
    Stopped,
    /// An operator has cut off the client whose request was in progress.
    Cut(ClientAddr),
    /// The connection was chosen for eviction: because all connections together hold too many bytes, or for a new one.
    Evicted(CloseReason),
}

/// What the requests of a connection share with the code that watches the connection.
pub(super) struct Connection {
    pub(super) server: Rc<Server>,
    pub(super) clock: Rc<ConnectionClock>,
    pub(super) gate: Gate,
    pub(super) seat: Rc<Seat>,
    /// Of the last answer: whether others need what the answer holds.
    pub(super) eviction_check: RefCell<Option<EvictionCheck>>,
    /// The sender of the last request, if the request ends when its sender is cut off.
    pub(super) caller: RefCell<Option<Caller>>,
    /// The name in the client's certificate.
    pub(super) certificate: Option<Arc<str>>,
    pub(super) peer: Peer,
    pub(super) is_tls: bool,
}

/// Serves a connection until its end, or until its client asks for a WebSocket: then the connection goes `back` (`None`
/// on the admin listener, which has no WebSockets). Holds the permit until the connection has ended. Works in its
/// [turns](Turns).
pub(super) async fn serve(
    server: Rc<Server>,
    handover: Handover,
    back: Option<ReturnToReactor>,
    stopping: watch::Receiver<bool>,
) {
    let seat = Seat::new(handover.peer.client());
    let work = Box::pin(serve_step_by_step(
        Rc::clone(&server),
        Rc::clone(&seat),
        handover,
        back,
        stopping,
    ));
    server.turns.run(seat, work).await;
}

/// Serves a connection; each poll is a step.
async fn serve_step_by_step(
    server: Rc<Server>,
    seat: Rc<Seat>,
    handover: Handover,
    back: Option<ReturnToReactor>,
    mut stopping: watch::Receiver<bool>,
) {
    let Handover {
        stream,
        tls,
        read,
        peer,
        permit,
    } = handover;
    let is_tls = tls.is_some();
    let certificate = tls.as_ref().and_then(|tls| tls.client_name());
    let stream = match ClientStream::new(stream, tls) {
        Ok(stream) => stream,
        Err(error) => return debug!(%peer, %error, "HTTP connection could not be taken over"),
    };
    let settings = &server.settings;
    let time = server.ends.clock();
    if time.now().unix_ms() <= 0 {
        // hyper writes the date into each answer, and panics if it is before 1970.
        let detail = "The clock of this machine is before 1970";
        let answer = refusal(503, detail);
        return Box::pin(linger(stream, &answer, server.linger_for(&peer))).await;
    }
    // The admin listener, which has no `back`, has few permits. So there the time for a head begins with the
    // connection.
    let in_head = !read.is_empty() || back.is_none();
    let is_last_request = permit.is_last_request();
    let evictable = match server.site.is_admin {
        true => Evictable::Always,
        false => Evictable::AtRest,
    };
    let clock = ConnectionClock::start(in_head, evictable, permit, settings, time);
    let clock = Rc::new(clock);
    let limits = HeadLimits {
        bytes_max: settings.head_bytes_max,
        headers_max: settings.head_headers_max,
        event_stream: settings.event_stream,
    };
    // The reactor hands a connection over with a head that it has judged. Of a connection of the admin listener,
    // nothing was read yet.
    let judge = match read.is_empty() {
        true => HeadJudge::Gate,
        false => HeadJudge::Reactor,
    };
    let gate = Gate::new(stream, read, judge, limits, Rc::clone(&clock), time);
    let mut protocol = server.protocol.clone();
    // Without room for the connection, hyper ends it after the answer.
    protocol.keep_alive(!is_last_request);
    let connection = Rc::new(Connection {
        server,
        clock,
        gate: gate.clone(),
        seat,
        eviction_check: RefCell::default(),
        caller: RefCell::default(),
        certificate: certificate.map(Arc::from),
        peer,
        is_tls,
    });
    let requests = Requests(Rc::clone(&connection));
    let mut http = protocol.serve_connection(TokioIo::new(gate), requests);
    let end = connection.run(&mut http, &mut stopping).await;
    // Also drops the handler's future, and hyper's references to the gate and the connection.
    drop(http);
    if let Some(connection) = Rc::into_inner(connection) {
        // In a box, so that a connection has no memory for its end until then.
        Box::pin(connection.finish(end, back)).await;
    }
}

type Http = http1::Connection<TokioIo<Gate>, Requests>;

impl Connection {
    /// Serves requests until the connection ends, and returns how it ended.
    async fn run(&self, http: &mut Http, stopping: &mut watch::Receiver<bool>) -> HyperEnd {
        let mut unwritten = Unwritten {
            held: &self.server.settings.held,
            client: self.peer.client(),
            permit: None,
            moved: 0,
        };
        let mut cuts = self.server.settings.access.cuts.clone();
        let mut news_of_cuts = pin!(self.wait_for_cuts());
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut stop = pin!(stopping.wait_for(|&stopping| stopping));
        let mut is_stopping = false;
        poll_fn(|cx| {
            if !is_stopping && stop.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                Pin::new(&mut *http).graceful_shutdown();
            }
            // Only wakes the task; never ready.
            let _ = news_of_cuts.as_mut().poll(cx);
            // Before hyper polls the handler, which must not go on for a client that is cut off. The version is asked for,
            // because the thread that cuts clients off wakes the tasks one after the other: this handler may be woken by what
            // another one has freed, before its own news.
            if cuts.has_changed().unwrap_or(false) {
                cuts.mark_unchanged();
                if let Some(client) = self.sender_if_cut() {
                    return Poll::Ready(HyperEnd::Cut(client));
                }
            }
            // Also before hyper polls the handler: a request that has come meanwhile must not change anything.
            if self.clock.is_always_evictable() && self.clock.is_evicted(cx) {
                return Poll::Ready(HyperEnd::Evicted(CloseReason::Evicted));
            }
            match self.poll_http(http, cx) {
                Poll::Ready(_) if is_stopping => return Poll::Ready(HyperEnd::Stopped),
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {}
            }
            if let Some(reason) = self.eviction_reason(&mut unwritten, cx) {
                return Poll::Ready(HyperEnd::Evicted(reason));
            }
            let client_end = match self.clock.is_working() {
                true => self.gate.poll_client_end(cx),
                false => ClientEnd::NotSeen,
            };
            if client_end == ClientEnd::Seen {
                return Poll::Ready(HyperEnd::ClientGone);
            }
            let recheck =
                (client_end == ClientEnd::Unknown).then(|| Instant::now() + RECHECK_INTERVAL);
            let Some(deadline) = self.clock.deadline().into_iter().chain(recheck).min() else {
                return Poll::Pending;
            };
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(cx).map(|()| HyperEnd::TimedOut)
        })
        .await
    }

    /// Wakes the task at each cut.
    async fn wait_for_cuts(&self) {
        let mut cuts = self.server.settings.access.cuts.clone();
        while cuts.changed().await.is_ok() {}
        // Nobody is left who could cut a client off.
        pending().await
    }

    /// The sender of the request in progress, if an operator has cut it off.
    fn sender_if_cut(&self) -> Option<ClientAddr> {
        let caller = self.caller.borrow();
        let caller = caller.as_ref().filter(|_| self.clock.is_working())?;
        caller.admit().is_err().then_some(caller.address)
    }

    /// Polls hyper. Ready when hyper's part of the connection has ended.
    fn poll_http(&self, http: &mut Http, cx: &mut Context<'_>) -> Poll<HyperEnd> {
        // Not `poll_without_shutdown`, which may be ready while the last answer is still in hyper's buffer. After a
        // request with any protocol in `Upgrade`, `poll` may be ready too early once; the second poll behaves as after
        // other requests.
        let polled = match Pin::new(&mut *http).poll(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut *http).poll(cx),
            polled => polled,
        };
        polled.map(|ended| match ended {
            Ok(()) => {
                self.gate.set_ends_answer(false);
                HyperEnd::Done
            }
            Err(error) => HyperEnd::Fault(error),
        })
    }

    /// The reason if the connection has to be evicted: for its permit, for what it holds of a request or of answers, or for
    /// what the answer in progress holds. If not, wakes the task once it has to.
    fn eviction_reason(
        &self,
        unwritten: &mut Unwritten<'_>,
        cx: &Context<'_>,
    ) -> Option<CloseReason> {
        if let Some(reason) = self.gate.eviction(cx) {
            return Some(reason);
        }
        let now_us = self.server.ends.clock().mono_us();
        let (bytes, moved) = (self.gate.uncharged(), self.gate.moved());
        if unwritten.charge(bytes, moved, now_us, cx) {
            return Some(CloseReason::HttpMemory);
        }
        if self.clock.is_evicted(cx) {
            return Some(CloseReason::Evicted);
        }
        // hyper does not poll the body of an answer while the client does not read, so this check is made here.
        let check = self.eviction_check.borrow();
        let answer_is_evicted = check.as_ref().is_some_and(|is_evicted| is_evicted(cx));
        answer_is_evicted.then_some(CloseReason::HttpMemory)
    }

    /// Ends the connection, or returns it to the reactor if its client asks for a WebSocket.
    async fn finish(self, end: HyperEnd, back: Option<ReturnToReactor>) {
        let Self {
            server,
            clock,
            gate,
            peer,
            ..
        } = self;
        let Some((stream, stop)) = gate.into_parts() else {
            return;
        };
        let ends = &server.ends;
        if stream.has_failed() {
            ends.count(peer, peer.client(), CloseReason::TlsError);
        }
        let bounds = server.linger_for(&peer);
        let linger = async |stream, answer| {
            if linger_unless_evicted(stream, answer, bounds, &clock).await {
                ends.count(peer, peer.client(), CloseReason::Evicted);
            }
        };
        match (end, stop) {
            (HyperEnd::Done, Some(GateEnd::Upgrade(read))) => match back {
                Some(back) => hand_back(&back, stream, read, peer, &clock),
                None => linger(stream, refusal(403, "No WebSocket here")).await,
            },
            (HyperEnd::Done, Some(GateEnd::BadHead(error))) => {
                if let Some(protocol) = error.other_protocol() {
                    ends.count_other_protocol(peer, protocol);
                }
                linger(stream, refusal(error.status(), error.reason())).await;
            }
            (HyperEnd::Done, None) => linger(stream, Vec::new()).await,
            (HyperEnd::Fault(error), _) => {
                debug!(%peer, %error, "HTTP connection ended by a fault");
                if !stream.ends_answer() {
                    linger(stream, Vec::new()).await;
                }
            }
            (HyperEnd::TimedOut, _) => debug!(%peer, "HTTP connection timed out"),
            (HyperEnd::ClientGone, _) => {
                debug!(%peer, "HTTP client left before its answer was out")
            }
            (HyperEnd::Stopped, _) => {}
            (HyperEnd::Cut(client), _) => {
                ends.count(peer, client, CloseReason::Revoked);
                stream.reset();
            }
            (HyperEnd::Evicted(reason), _) => {
                ends.count(peer, peer.client(), reason);
                // Otherwise the connection is closed without a reset: its client may still have to read its last
                // answer.
                if reason != CloseReason::Evicted || clock.is_owed() {
                    stream.reset();
                }
            }
        }
    }
}

/// Returns a connection to the reactor, with its permit. A socket that cannot leave the runtime is broken, and is closed.
fn hand_back(
    back: &ReturnToReactor,
    stream: ClientStream,
    read: HeldBytes,
    peer: Peer,
    clock: &ConnectionClock,
) {
    if let Ok((stream, tls)) = stream.into_std()
        && let Some(permit) = clock.take_permit()
    {
        back(Handover {
            stream,
            tls,
            read,
            peer,
            permit,
        });
    }
}

/// The bytes of an answer that the gateway writes itself, without hyper.
fn refusal(status: u16, detail: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    write_refusal(&mut answer, status, &[], detail);
    answer
}

/// The permit for hyper's read buffer, and for parts of answers that hyper holds because the client does not read.
struct Unwritten<'s> {
    held: &'s Quota,
    client: ClientAddr,
    permit: Option<Permit>,
    /// How many bytes had moved at the last call. The read buffer of a long body is the same amount all the time, so
    /// that the amount does not show the progress.
    moved: u64,
}

impl Unwritten<'_> {
    /// Sets the permit to this many bytes. Bytes that have `moved` since the last call are progress. Returns whether
    /// the connection has to be evicted, because all clients together hold too many.
    fn charge(&mut self, bytes: usize, moved: u64, now_us: u64, cx: &Context<'_>) -> bool {
        let has_moved = self.moved != moved;
        self.moved = moved;
        if bytes == 0 {
            self.permit = None;
            return false;
        }
        let (held, client) = (self.held, self.client);
        let permit = self
            .permit
            // The amount is set below.
            .get_or_insert_with(|| held.hold(client, 0, now_us));
        let before = permit.amount();
        permit.set(bytes as u64, now_us);
        if has_moved {
            permit.progress(now_us);
        }
        if permit.amount() > before {
            held.make_room(now_us);
        }
        permit.wake_with(cx.waker());
        permit.is_evicted()
    }
}

/// Lingers, and returns whether the connection was evicted for a new one meanwhile.
async fn linger_unless_evicted(
    stream: ClientStream,
    answer: Vec<u8>,
    bounds: Linger,
    clock: &ConnectionClock,
) -> bool {
    // No request is under way any more.
    clock.note_pause();
    let mut lingering = pin!(linger(stream, &answer, bounds));
    poll_fn(|cx| match clock.is_evicted(cx) {
        true => Poll::Ready(true),
        false => lingering.as_mut().poll(cx).map(|()| false),
    })
    .await
}

/// Sends a last answer, shuts down our half of the connection, and then reads and drops what the client still sends,
/// within limits. Closing a socket with unread bytes causes a reset, and a reset can overtake the last answer (RFC 9112
/// §9.6).
async fn linger(mut stream: ClientStream, mut answer: &[u8], bounds: Linger) {
    let drain = async {
        while !answer.is_empty() {
            let wrote = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, answer)).await?;
            answer = answer.get(wrote..).unwrap_or_default();
        }
        // After a fault hyper has not shut down our half; a second shutdown does no harm.
        let _ = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
        let mut left = bounds.bytes_max;
        let silence = Duration::from_millis(bounds.silence_ms);
        while left > 0 {
            match timeout(silence, stream.readable()).await {
                Ok(readable) => readable?,
                Err(_) => break,
            }
            // The buffer is on the stack, and not alive across an await: thousands of connections may linger at the
            // same time.
            match stream.try_discard(&mut [0; 4096]) {
                Ok(0) => break,
                Ok(n) => left = left.saturating_sub(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<(), io::Error>(())
    };
    // Either result ends the connection.
    let _ = timeout(Duration::from_millis(bounds.whole_ms), drain).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::task::Waker;

    /// The read buffer of a long upload is the same amount all the time.
    #[test]
    fn of_equal_amounts_the_one_whose_bytes_move_stays() {
        let held = Quota::new("http_bytes", 20_000);
        let unwritten = |last| Unwritten {
            held: &held,
            client: IpAddr::from([192, 0, 2, last]).into(),
            permit: None,
            moved: 0,
        };
        let cx = Context::from_waker(Waker::noop());
        let (mut upload, mut still, mut new) = (unwritten(1), unwritten(2), unwritten(3));
        assert!(!upload.charge(8_192, 100, 0, &cx));
        assert!(!still.charge(8_192, 100, 1_000_000, &cx));
        assert!(!upload.charge(8_192, 30_000_000, 30_000_000, &cx));
        assert!(!new.charge(8_192, 100, 30_000_001, &cx));
        assert!(!upload.charge(8_192, 30_000_000, 30_000_002, &cx));
        assert!(still.charge(8_192, 100, 30_000_002, &cx));
    }
}
