//! A plain HTTP connection, from the hand-over to its end or its return to the reactor: hyper behind the gate, the
//! deadlines, and a close that does not cut off the last answer.

use super::body::{AnswerBody, BoxError, Progress, RequestBody};
use super::caller::Caller;
use super::client_stream::ClientStream;
use super::gate::{Client, Gate, HeadLimits, Stop};
use super::handover::{ConnectionClock, Ends, Handover, HttpSettings, Linger, WayBack, Work};
use super::service::Found;
use super::site::{Answer, Handler, IsEvicted, LateAnswer, RequestParts, Site};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::{Request, Response, StatusCode, Version, service};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
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
use weirgate_wire::upgrade;

/// How often to check again for a client whose end unread bytes may hide ([`Client::Hidden`]).
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What all connections share.
pub(super) struct Server {
    site: Site,
    ends: Rc<Ends>,
    settings: HttpSettings,
    protocol: http1::Builder,
}

impl Server {
    /// No bytes of a client that nobody has read.
    pub(super) fn nothing_read(&self, peer: &Peer) -> HeldBytes {
        HeldBytes::new(&self.settings.held, peer.client(), Vec::new(), 0)
    }

    pub(super) fn new(site: Site, ends: Rc<Ends>, settings: HttpSettings) -> Self {
        let mut protocol = http1::Builder::new();
        protocol
            // The connection clock distinguishes a slow head from an idle connection; hyper's timeout does
            // not.
            .header_read_timeout(None)
            .max_header_size(settings.head_bytes_max)
            .max_headers(settings.head_headers_max)
            .max_buf_size((2 * settings.head_bytes_max).max(32 * 1024))
            // A client may end its half after the request.
            .half_close(true);
        Self {
            site,
            ends,
            settings,
            protocol,
        }
    }
}

/// How hyper's part of a connection ended.
enum End {
    /// The connection ended as the protocol allows: one side requested it, the client left, or the gate stopped.
    /// All answers are out.
    Done,
    /// The client broke the protocol or its connection.
    Fault(hyper::Error),
    /// No request came in time, a head was not complete in time, or the client did not send or read in time.
    TimedOut,
    /// The client left while a handler was at work.
    ClientGone,
    /// The process stops.
    Stopped,
    /// An operator has cut off the client whose request was in progress.
    Cut(ClientAddr),
    /// The connection was chosen for eviction: because all connections together hold too many bytes, or for a new one.
    IsEvicted(CloseReason),
}

/// Serves a connection until its end, or until its client asks for a WebSocket: then the connection goes `back`. Holds
/// the permit until the connection has ended.
pub(super) async fn serve(
    server: Rc<Server>,
    handover: Handover,
    back: Option<WayBack>,
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
    // Who reaches the few places of the admin address keeps none for long.
    let is_proxy = !server.site.is_admin && settings.access.trusted_proxies.trusts_peer(&peer);
    let bounds = match is_proxy {
        true => settings.linger_of_proxies,
        false => settings.linger,
    };
    let time = server.ends.clock();
    if time.now().unix_ms() <= 0 {
        // hyper writes a date, and ends the process without one.
        let detail = "The clock of this machine is before 1970";
        return linger(stream, &refusal(503, detail), bounds).await;
    }
    // The admin listener has few places, so the time for a head begins with the connection.
    let in_head = !read.is_empty() || back.is_none();
    let is_last_request = permit.is_last_request();
    let clock = Rc::new(ConnectionClock::start(in_head, permit, settings, time));
    let limits = HeadLimits {
        bytes_max: settings.head_bytes_max,
        headers_max: settings.head_headers_max,
        event_stream: settings.event_stream,
    };
    // The reactor has read a head, and has decided that it is served here.
    let decided = !read.is_empty();
    let gate = Gate::new(stream, read, decided, limits, Rc::clone(&clock), time);
    let is_evicted = Rc::<RefCell<Option<IsEvicted>>>::default();
    let caller = Rc::<RefCell<Option<Caller>>>::default();
    let requests = Requests {
        server: Rc::clone(&server),
        clock: Rc::clone(&clock),
        gate: gate.clone(),
        is_evicted: Rc::clone(&is_evicted),
        caller: Rc::clone(&caller),
        certificate: certificate.map(Arc::from),
        peer,
        is_tls,
    };
    let mut protocol = server.protocol.clone();
    // Without room for the connection, hyper ends it after the answer.
    protocol.keep_alive(!is_last_request);
    let mut http = protocol.serve_connection(TokioIo::new(gate.clone()), requests);
    let unwritten = Unwritten {
        of: &settings.held,
        client: peer.client(),
        permit: None,
    };
    let holds = (&gate, &*is_evicted, unwritten);
    let watched = (&*caller, &mut stopping);
    let end = run(&server, &mut http, holds, &clock, watched).await;
    // Also drops the handler's future, and hyper's reference to the gate.
    drop(http);
    let Some((stream, stop)) = gate.into_parts() else {
        return;
    };
    if stream.has_failed() {
        server
            .ends
            .count(peer, peer.client(), CloseReason::TlsError);
    }
    match (end, stop) {
        (End::Done, Some(Stop::Upgrade(read))) => match back {
            Some(back) => {
                // If a socket cannot leave the runtime, it is broken and can only be closed.
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
                return;
            }
            None => linger(stream, &refusal(403, "No WebSocket here"), bounds).await,
        },
        (End::Done, Some(Stop::BadHead(error))) => {
            if let Some(protocol) = error.other_protocol() {
                server.ends.count_other_protocol(peer, protocol);
            }
            linger(stream, &refusal(error.status(), error.reason()), bounds).await;
        }
        (End::Done, None) => linger(stream, &[], bounds).await,
        (End::Fault(error), _) => {
            debug!(%peer, %error, "HTTP connection ended by a fault");
            if !stream.ends_answer() {
                linger(stream, &[], bounds).await;
            }
        }
        (End::TimedOut, _) => debug!(%peer, "HTTP connection timed out"),
        (End::ClientGone, _) => debug!(%peer, "HTTP client left before its answer was out"),
        (End::Stopped, _) => {}
        (End::Cut(client), _) => {
            server.ends.count(peer, client, CloseReason::Revoked);
            stream.reset();
        }
        (End::IsEvicted(reason), _) => {
            server.ends.count(peer, peer.client(), reason);
            // The client of a connection without a request may still have to read its last answer.
            if reason != CloseReason::Evicted || clock.is_owed() {
                stream.reset();
            }
        }
    }
    drop(clock);
}

fn refusal(status: u16, detail: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    upgrade::refusal(&mut answer, status, &[], detail);
    answer
}

/// The permit for parts of answers that hyper holds because the client does not read.
struct Unwritten<'s> {
    of: &'s Quota,
    client: ClientAddr,
    permit: Option<Permit>,
}

impl Unwritten<'_> {
    /// Sets the permit to this many bytes. Returns whether the connection has to be evicted, because all clients together
    /// hold too many.
    fn is_evicted(&mut self, bytes: usize, now_us: u64, cx: &Context<'_>) -> bool {
        if bytes == 0 {
            self.permit = None;
            return false;
        }
        let (of, client) = (self.of, self.client);
        let permit = self
            .permit
            .get_or_insert_with(|| of.hold(client, 0, now_us));
        let before = permit.amount();
        permit.set(bytes as u64, now_us);
        if permit.amount() > before {
            of.make_room(now_us);
        }
        permit.wake_with(cx.waker());
        permit.is_evicted()
    }
}

async fn run(
    server: &Server,
    http: &mut http1::Connection<TokioIo<Gate>, Requests>,
    (gate, is_evicted, mut unwritten): (&Gate, &RefCell<Option<IsEvicted>>, Unwritten<'_>),
    clock: &ConnectionClock,
    (caller, stopping): (&RefCell<Option<Caller>>, &mut watch::Receiver<bool>),
) -> End {
    let time = server.ends.clock();
    let mut cuts = server.settings.access.cuts.clone();
    let refused = || {
        let caller = caller.borrow();
        let caller = caller.as_ref().filter(|_| clock.is_working())?;
        caller.admit().is_err().then_some(caller.address)
    };
    let cut_off = Cell::new(None);
    let mut cut = pin!(cuts.wait_for(|()| {
        cut_off.set(refused());
        cut_off.get().is_some()
    }));
    // Nobody is cut off once nobody is left who could do so.
    let mut may_be_cut = true;
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut stop = pin!(stopping.wait_for(|&stopping| stopping));
    let mut stopped = false;
    poll_fn(|cx| {
        if !stopped && stop.as_mut().poll(cx).is_ready() {
            stopped = true;
            Pin::new(&mut *http).graceful_shutdown();
        }
        // Before the request's handler goes on.
        if may_be_cut && cut.as_mut().poll(cx).is_ready() {
            may_be_cut = false;
            if let Some(client) = cut_off.get() {
                return Poll::Ready(End::Cut(client));
            }
        }
        // Not `poll_without_shutdown`, which may be ready while the last answer is still in hyper's buffer. After a
        // request with any protocol in `Upgrade`, `poll` may be ready too early once; the second poll behaves as after
        // other requests.
        let polled = match Pin::new(&mut *http).poll(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut *http).poll(cx),
            polled => polled,
        };
        if matches!(polled, Poll::Ready(Ok(()))) {
            gate.set_ends_answer(false);
        }
        match polled {
            Poll::Ready(_) if stopped => return Poll::Ready(End::Stopped),
            Poll::Ready(Ok(())) => return Poll::Ready(End::Done),
            Poll::Ready(Err(error)) => return Poll::Ready(End::Fault(error)),
            Poll::Pending => {}
        }
        if let Some(reason) = gate.is_evicted(cx) {
            return Poll::Ready(End::IsEvicted(reason));
        }
        if unwritten.is_evicted(gate.uncharged(), time.mono_us(), cx) {
            return Poll::Ready(End::IsEvicted(CloseReason::HttpMemory));
        }
        if clock.is_evicted(cx) {
            return Poll::Ready(End::IsEvicted(CloseReason::Evicted));
        }
        // hyper does not poll the body of an answer while the client does not read, so this check is made here.
        if is_evicted
            .borrow()
            .as_ref()
            .is_some_and(|is_evicted| is_evicted(cx))
        {
            return Poll::Ready(End::IsEvicted(CloseReason::HttpMemory));
        }
        let client = match clock.is_working() {
            true => gate.find_client(cx),
            false => Client::There,
        };
        if client == Client::Gone {
            return Poll::Ready(End::ClientGone);
        }
        let recheck = (client == Client::Hidden).then(|| Instant::now() + LOOK_AGAIN);
        let Some(deadline) = clock.deadline().into_iter().chain(recheck).min() else {
            return Poll::Pending;
        };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| End::TimedOut)
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

/// The requests of a connection.
struct Requests {
    server: Rc<Server>,
    clock: Rc<ConnectionClock>,
    gate: Gate,
    is_evicted: Rc<RefCell<Option<IsEvicted>>>,
    /// The sender of the last request, if the request ends when its sender is cut off.
    caller: Rc<RefCell<Option<Caller>>>,
    /// The name in the client's certificate.
    certificate: Option<Arc<str>>,
    peer: Peer,
    is_tls: bool,
}

impl service::Service<Request<Incoming>> for Requests {
    type Response = Response<Outgoing>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Outgoing>, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        let body = RequestBody::new(body);
        let origin = head.headers.get(ORIGIN);
        // A request may take long, so nothing else of its head is kept.
        let asked = origin.map(|origin| (ORIGIN, origin.clone())).into_iter();
        let (asked, body_read) = (asked.collect::<HeaderMap>(), body.progress());
        let (version, gate) = (head.version, self.gate.clone());
        let is_evicted = Rc::clone(&self.is_evicted);
        let (server, clock) = (Rc::clone(&self.server), Rc::clone(&self.clock));
        let (access, certificate) = (&server.settings.access, self.certificate.clone());
        let parts = RequestParts {
            caller: Caller::of(access, &self.peer, certificate, &head.headers),
            head,
            peer: self.peer,
            is_tls: self.is_tls,
        };
        let ends_with_cut = server.site.ends_with_cut(&parts);
        let caller = ends_with_cut.then(|| parts.caller.clone());
        self.caller.replace(caller);
        let is_tls = self.is_tls;
        Box::pin(async move {
            let (mut answer, work) = match server.find(&parts) {
                Found::Answer(answer) => (answer.into(), None),
                Found::Handler(Handler::Ready(answer)) => (answer(&parts).into(), None),
                Found::Handler(Handler::Later(answer)) => {
                    let work = Work::begin(&clock);
                    (answer(parts, body).await, Some(work))
                }
            };
            *is_evicted.borrow_mut() = answer.is_evicted.take();
            // The bytes of a service's answer are already charged with the connection to the service.
            gate.set_charged(answer.is_passed_on);
            let of = (gate.clone(), is_tls);
            let response = server.response(&asked, &body_read, answer, work, of);
            // In HTTP/1.0, a body of unknown length ends with the connection (RFC 9112 §6.3).
            let has_length = response.headers().contains_key(header::CONTENT_LENGTH)
                || response.body().size_hint().exact().is_some();
            gate.set_ends_answer(version < Version::HTTP_11 && !has_length);
            Ok(response)
        })
    }
}

impl Server {
    /// Finds the answer or the handler of a request. A sender that an operator has cut off is refused, and its
    /// connection ends.
    fn find(&self, parts: &RequestParts) -> Found<'_> {
        let Err(refusal) = self.site.admit(parts) else {
            return self.site.find(parts);
        };
        let client = parts.caller.address;
        self.ends.count(parts.peer, client, CloseReason::Revoked);
        let answer = Answer::detail(StatusCode::FORBIDDEN, refusal.label());
        let close = HeaderValue::from_static("close");
        Found::Answer(answer.with(header::CONNECTION, close))
    }

    /// Converts an answer for hyper. `asked` has the request's `Origin`.
    fn response(
        &self,
        asked: &HeaderMap,
        body_read: &Progress,
        answer: LateAnswer,
        work: Option<Work>,
        (gate, is_tls): (Gate, bool),
    ) -> Response<Outgoing> {
        let mut response = Response::new(Outgoing {
            body: answer.body,
            gate,
            // hyper copies what is to be sealed.
            is_copied: answer.is_passed_on || is_tls,
            fault: None,
            _work: work,
        });
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        let headers = response.headers_mut();
        match answer.is_passed_on {
            true => self.site.mark_passed_on(asked, headers),
            false => self.site.mark(asked, headers),
        }
        if !body_read.has_ended() {
            // The body was not read to its end, and will not be.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The body for hyper, and the work of the handler.
struct Outgoing {
    body: AnswerBody,
    gate: Gate,
    /// Whether the bytes are this connection's alone: they come from a service, or are copied for TLS. Other bytes may
    /// be a page that all clients share, and are charged only if nothing shares them.
    is_copied: bool,
    /// Why the body breaks off, and the flushes until then.
    fault: Option<(BoxError, u64)>,
    /// Held so that the work ends with the body.
    _work: Option<Work>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.fault.is_none() {
            match self.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Err(error))) => self.fault = Some((error, self.gate.flushes())),
                frame => return self.passed(frame),
            }
        }
        // At an error hyper drops what it has not written yet. A client that gets not one byte of an answer takes its
        // request for unread, and may send it again: a browser does, also a POST.
        let now = self.gate.flushes();
        match self.fault.take_if(|(_, flushes)| now > *flushes) {
            Some((error, _)) => Poll::Ready(Some(Err(error))),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Outgoing {
    /// Notes a frame that hyper gets.
    fn passed<E>(
        &self,
        frame: Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
            && (self.is_copied || data.is_unique())
        {
            self.gate.took_piece(data.len());
        }
        frame
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.gate.set_charged(false);
    }
}
