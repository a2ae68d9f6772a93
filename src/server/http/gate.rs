//! The gate between a socket and hyper: a single request passes at a time, head and body, under the reactor's
//! rules for heads.
//!
//! A head that breaks these rules, or asks for a WebSocket or an event stream, does not pass: hyper sees the end of the
//! connection and finishes the earlier answers. Then the gate gives up the socket, with every byte from the start of
//! this head on. Of a body, hyper gets as much as it asks for, which is as much as the handler reads. The gate finds
//! the end of the body itself, so it decides where the next head starts. While a request is in progress the gate reads
//! the bytes after it, within limits, to detect that the client has left. It also knows which answers are written.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::client_stream::ClientStream;
use super::connection_clock::ConnectionClock;
use super::unwritten::UnwrittenPieces;
use weirgate_core::CloseReason;
use weirgate_runtime::Clock;
use weirgate_wire::BodyScanner;
use weirgate_wire::admission::HeldBytes;
use weirgate_wire::{HeadError, HeadScanner, RequestHead};

/// Bytes to read from the socket at a time.
const READ_BYTES: usize = 8 * 1024;

/// This many bytes at the start of a body are read in small pieces. hyper reads two pieces ahead of the handler, and no
/// limit counts them while the request waits for a connection to a service.
const BODY_BEGIN_BYTES: u64 = 64 * 1024;
const BODY_BEGIN_PIECE_BYTES: usize = 2 * 1024;

/// The most bytes to read ahead while a request is in progress.
const AHEAD_BYTES_MAX: usize = 256 * 1024;

/// Limits of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) bytes_max: usize,
    pub(super) headers_max: usize,
    /// Whether the reactor serves requests for an event stream.
    pub(super) event_stream: bool,
}

impl HeadLimits {
    /// Whether a request is for the reactor.
    fn is_for_reactor(self, head: &RequestHead<'_>) -> bool {
        let is_stream = self.event_stream && head.asks_event_stream();
        // The reactor also refuses a request whose upgrade a proxy has taken off, and logs the cause.
        is_stream || head.asks_upgrade() || head.lost_upgrade().is_some()
    }
}

/// Why the gate stopped.
#[derive(Debug)]
pub(super) enum GateEnd {
    /// The client asks for a WebSocket or an event stream. Has all bytes from the start of the head on.
    Upgrade(HeldBytes),
    /// The head is refused.
    BadHead(HeadError),
}

/// What is known of the end of a client while its request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientEnd {
    NotSeen,
    /// The client has shut down its half of the connection, or the connection is broken.
    Seen,
    /// The client sent more bytes than may be read now, and they may hide its end: check again later.
    Unknown,
}

/// Who decides whether a head is for hyper or for the reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadJudge {
    /// The gate: a head that asks for a WebSocket or an event stream is for the reactor.
    Gate,
    /// The reactor, which has read the head. It is for hyper, whatever it asks for.
    Reactor,
}

/// A head that keeps the rules.
struct GoodHead {
    /// Where it ends in the bytes that were read.
    end: usize,
    is_for_reactor: bool,
    /// The body that it announces, if any.
    body: Option<BodyScanner>,
}

/// The next part of the stream.
#[derive(Debug)]
enum NextPart {
    /// A head.
    Head(HeadScanner),
    /// The rest of a body.
    Body(BodyScanner),
    /// Nothing for hyper.
    Stopped(GateEnd),
}

/// A client's socket as hyper sees it: one request at a time, then the end of the connection. hyper reads and writes
/// through one clone; the connection watches for the client's end through another.
#[derive(Clone, Debug)]
pub(super) struct Gate(Rc<RefCell<GateState>>);

#[derive(Debug)]
struct GateState {
    stream: ClientStream,
    clock: Rc<ConnectionClock>,
    limits: HeadLimits,
    /// The bytes that were read. hyper has got the bytes before `given`, and may get those before `passed`.
    read: HeldBytes,
    given: usize,
    passed: usize,
    next: NextPart,
    /// Bytes of the present body that hyper has.
    body_bytes: u64,
    /// The clock of the charges for `read`.
    time: Clock,
    /// Who decides about the next head.
    judge: HeadJudge,
    unwritten: UnwrittenPieces,
    /// How often everything that hyper had was written.
    flushes: u64,
    /// Bytes of bodies and answers that have moved so far.
    moved: u64,
}

impl Gate {
    /// A gate for a socket of which `read` was read already, from the start of a head on. `judge` decides about this
    /// head.
    pub(super) fn new(
        stream: ClientStream,
        read: HeldBytes,
        judge: HeadJudge,
        limits: HeadLimits,
        clock: Rc<ConnectionClock>,
        time: Clock,
    ) -> Self {
        Self(Rc::new(RefCell::new(GateState {
            stream,
            clock,
            limits,
            read,
            given: 0,
            passed: 0,
            next: NextPart::Head(HeadScanner::default()),
            body_bytes: 0,
            time,
            judge,
            unwritten: UnwrittenPieces::default(),
            flushes: 0,
            moved: 0,
        })))
    }

    /// How often everything that hyper had was written. If the number grows, what hyper had before is written.
    pub(super) fn flushes(&self) -> u64 {
        self.0.borrow().flushes
    }

    /// How many bytes of bodies and answers have moved so far. If the number grows, the connection makes progress.
    pub(super) fn moved(&self) -> u64 {
        self.0.borrow().moved
    }

    /// Records that hyper has taken a piece of an answer's body.
    pub(super) fn note_piece(&self, bytes: usize) {
        self.0.borrow_mut().unwritten.push(bytes);
    }

    /// Records whether the bytes of the answer are already charged with the connection to a service.
    pub(super) fn set_charged(&self, is_charged: bool) {
        self.0.borrow_mut().unwritten.is_charged = is_charged;
    }

    /// The bytes of memory that nothing else charges: twice the bytes of the answers that wait to be written, because a
    /// growing buffer may have twice the capacity that it needs. Once a body has begun, hyper's read buffer is added,
    /// also while the request waits for a connection to a service.
    pub(super) fn uncharged(&self) -> usize {
        let state = self.0.borrow();
        if state.unwritten.is_charged {
            return 0;
        }
        let has_begun = matches!(state.next, NextPart::Body(_)) && state.body_bytes > 0;
        let body = if has_begun { READ_BYTES } else { 0 };
        body + 2 * state.unwritten.bytes()
    }

    /// Returns the socket, and why the gate stopped; the second is `None` if hyper ended the connection. Returns `None`
    /// if another clone is left.
    pub(super) fn into_parts(self) -> Option<(ClientStream, Option<GateEnd>)> {
        let GateState { stream, next, .. } = Rc::into_inner(self.0)?.into_inner();
        match next {
            NextPart::Stopped(stop) => Some((stream, Some(stop))),
            NextPart::Head(_) | NextPart::Body(_) => Some((stream, None)),
        }
    }

    /// The reason if the connection has to be evicted because of the bytes that it holds. If not, wakes the task once it has
    /// to.
    pub(super) fn eviction(&self, cx: &Context<'_>) -> Option<CloseReason> {
        let state = &mut *self.0.borrow_mut();
        let tls = state
            .stream
            .is_evicted(cx)
            .then_some(CloseReason::TlsMemory);
        tls.or_else(|| {
            let is_evicted = state.read.is_evicted(cx.waker());
            is_evicted.then_some(CloseReason::HttpMemory)
        })
    }

    /// Records whether the client would take the end of the connection for the end of an answer.
    pub(super) fn set_ends_answer(&self, ends: bool) {
        self.0.borrow_mut().stream.set_ends_answer(ends);
    }

    /// Checks whether the client has shut down its half of the connection, or the connection is broken. Reads no byte
    /// of a body, because only the handler asks for body bytes.
    pub(super) fn poll_client_end(&self, cx: &mut Context<'_>) -> ClientEnd {
        self.0.borrow_mut().poll_client_end(cx)
    }
}

impl GateState {
    /// Checks without reading a body: a body is only peeked at, but if a head is next, bytes of it are read ahead.
    fn poll_client_end(&mut self, cx: &mut Context<'_>) -> ClientEnd {
        let read = match self.next {
            NextPart::Head(_) => self.poll_read_ahead(cx),
            NextPart::Body(_) | NextPart::Stopped(_) => self.stream.poll_peek(cx),
        };
        match read {
            Poll::Pending => ClientEnd::NotSeen,
            Poll::Ready(Ok(0) | Err(_)) => ClientEnd::Seen,
            Poll::Ready(Ok(1..)) if self.knows_end(cx) => ClientEnd::Seen,
            Poll::Ready(Ok(1..)) => ClientEnd::Unknown,
        }
    }

    /// Reads the bytes after a whole request. Pending once all bytes that have come are read. Ready with a count above
    /// 0 if there is no room for more, and with 0 at the end of the client's half.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            // The bytes that hyper has are at least half: removing them moves no more bytes than it frees.
            if 2 * self.given >= self.read.len() {
                self.discard_given(self.given);
            }
            ready!(self.stream.poll_read_ready(cx))?;
            let ahead = self.read.len() - self.passed;
            let room = AHEAD_BYTES_MAX.saturating_sub(ahead).min(READ_BYTES);
            if room == 0 || !self.read.has_room() {
                // Bytes or the end wait in the socket. 0 would mean that the end was read.
                return Poll::Ready(Ok(ahead.max(1)));
            }
            let n = ready!(self.poll_append(cx, room))?;
            if n == 0 {
                return Poll::Ready(Ok(0));
            }
        }
    }

    /// Removes the first bytes, which hyper has.
    fn discard_given(&mut self, bytes: usize) {
        if bytes > 0 {
            let now_us = self.time.mono_us();
            self.read.change(now_us, |read| drop(read.drain(..bytes)));
            self.passed -= bytes;
            self.given = 0;
        }
    }

    /// Whether the kernel reports the client's end before the bytes in front of it are read (EPOLLRDHUP, EPOLLHUP).
    /// With a body still unread, only a full close counts: a client may shut down its half after the body.
    fn knows_end(&self, cx: &mut Context<'_>) -> bool {
        let is_whole = !matches!(self.next, NextPart::Body(_));
        let known = self.stream.ready(Interest::READABLE | Interest::WRITABLE);
        match pin!(known).poll(cx) {
            Poll::Ready(Ok(ready)) => {
                ready.is_write_closed() || (is_whole && ready.is_read_closed())
            }
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Checks the bytes from `passed` on, and lets good ones pass. Returns false if more bytes must be read first.
    fn pass_next(&mut self) -> io::Result<bool> {
        let rest = self.read.get(self.passed..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(false);
        }
        match &mut self.next {
            NextPart::Stopped(_) => {}
            NextPart::Body(body) => {
                let taken = body.take(rest).map_err(io::Error::other)?;
                if body.is_end() {
                    self.next = NextPart::Head(HeadScanner::default());
                }
                self.passed += taken;
            }
            NextPart::Head(_) => return Ok(self.pass_next_head()),
        }
        Ok(true)
    }

    /// Checks the next head once it is whole, and decides what follows: a body, another head, or nothing for hyper. Returns
    /// false if more bytes must be read first.
    fn pass_next_head(&mut self) -> bool {
        let NextPart::Head(scanner) = &mut self.next else {
            return true;
        };
        let rest = &self.read[self.passed..];
        self.clock.note_head_begun();
        let bytes_max = self.limits.bytes_max;
        let verdict = match scanner.end(rest) {
            None if rest.len() <= bytes_max => return false,
            Some(end) if end <= bytes_max => {
                let head = RequestHead::parse(&rest[..end], self.limits.headers_max);
                head.map(|head| GoodHead {
                    end: self.passed + end,
                    is_for_reactor: self.limits.is_for_reactor(&head),
                    body: BodyScanner::announced(&head),
                })
            }
            _ => Err(HeadError::too_large(&rest[..bytes_max])),
        };
        self.clock.note_head_ended();
        self.body_bytes = 0;
        let judge = mem::replace(&mut self.judge, HeadJudge::Gate);
        (self.passed, self.next) = match verdict {
            Err(error) => (self.passed, NextPart::Stopped(GateEnd::BadHead(error))),
            Ok(head) if head.is_for_reactor && judge == HeadJudge::Gate => {
                self.discard_given(self.passed);
                let read = self.read.take(self.time.mono_us());
                (0, NextPart::Stopped(GateEnd::Upgrade(read)))
            }
            Ok(head) => {
                let next_head = || NextPart::Head(HeadScanner::default());
                (head.end, head.body.map_or_else(next_head, NextPart::Body))
            }
        };
        true
    }

    /// Records a write.
    fn note_write(&mut self, outcome: &Poll<io::Result<usize>>) {
        self.clock.note_write(outcome);
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.unwritten.note_written(*bytes);
            self.moved += *bytes as u64;
        }
    }

    /// Reads a body directly into hyper's buffer, up to the point where framing or another head may follow.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // hyper has everything that was read here.
        self.read.change(self.time.mono_us(), mem::take);
        (self.given, self.passed) = (0, 0);
        let NextPart::Body(body) = &mut self.next else {
            return Poll::Ready(Ok(()));
        };
        let certain = usize::try_from(body.certain()).unwrap_or(usize::MAX);
        let certain = match self.body_bytes < BODY_BEGIN_BYTES {
            true => certain.min(BODY_BEGIN_PIECE_BYTES),
            false => certain,
        };
        let before = buf.filled().len();
        let outcome = if certain >= buf.remaining() {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(certain));
            let outcome = Pin::new(&mut self.stream).poll_read(cx, &mut part);
            let n = part.filled().len();
            buf.advance(n);
            outcome
        };
        self.clock.note_body_read(&outcome);
        ready!(outcome)?;
        let n = buf.filled().len() - before;
        self.body_bytes += n as u64;
        self.moved += n as u64;
        body.pass(n as u64);
        if body.is_end() {
            self.next = NextPart::Head(HeadScanner::default());
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more bytes for [`Self::pass_next`]; 0 at the end of the client's half.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.discard_given(self.passed);
        let outcome = self.poll_append(cx, READ_BYTES);
        if matches!(self.next, NextPart::Body(_)) {
            self.clock.note_body_read(&outcome);
            if let Poll::Ready(Ok(bytes)) = &outcome {
                self.moved += *bytes as u64;
            }
        } else if outcome.is_pending() {
            self.clock.note_pause();
        }
        outcome
    }

    /// Appends at most `bytes_max` bytes from the socket to `read`; 0 at the end of the client's half.
    fn poll_append(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<io::Result<usize>> {
        // On the stack, so that a connection has memory only for bytes that arrived.
        let mut piece = [MaybeUninit::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut piece[..bytes_max.min(READ_BYTES)]);
        let outcome = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
        let n = buf.filled().len();
        if n > 0 {
            let now_us = self.time.mono_us();
            (self.read).change(now_us, |read| read.extend_from_slice(buf.filled()));
        }
        // A record of TLS can be opened only when it is whole, so an unfinished one shows nothing of a head.
        let awaits_head = matches!(self.next, NextPart::Head(_)) && self.read.is_empty();
        match awaits_head && self.stream.has_begun_record() {
            true => self.clock.note_unfinished_record(),
            false => self.clock.note_no_unfinished_record(),
        }
        outcome.map_ok(|()| n)
    }
}

impl AsyncRead for Gate {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self.0.borrow_mut();
        loop {
            if gate.given < gate.passed {
                let waiting = &gate.read[gate.given..gate.passed];
                let part = waiting.get(..buf.remaining()).unwrap_or(waiting);
                buf.put_slice(part);
                gate.given += part.len();
                if gate.given == gate.read.len() {
                    gate.discard_given(gate.given);
                }
                return Poll::Ready(Ok(()));
            }
            let has_passed_all = gate.read.len() == gate.passed;
            match &gate.next {
                NextPart::Stopped(_) => return Poll::Ready(Ok(())),
                // Bytes that are certainly of the body need no check, and no copy here.
                NextPart::Body(body) if has_passed_all && body.certain() > 0 => {
                    return gate.poll_body(cx, buf);
                }
                NextPart::Body(_) | NextPart::Head(_) => {}
            }
            // Checks the bytes that were read, or reads more. Without more, the client's half has ended.
            if !gate.pass_next()? && ready!(gate.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gate = &mut *self.0.borrow_mut();
        let outcome = Pin::new(&mut gate.stream).poll_write(cx, buf);
        gate.note_write(&outcome);
        outcome
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = &mut *self.0.borrow_mut();
        let outcome = Pin::new(&mut gate.stream).poll_write_vectored(cx, bufs);
        gate.note_write(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self.0.borrow_mut();
        // hyper flushes once it has written all that it has.
        gate.unwritten.clear();
        ready!(Pin::new(&mut gate.stream).poll_flush(cx))?;
        gate.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self.0.borrow_mut();
        // hyper ends its connection here, but the client's connection continues.
        if matches!(gate.next, NextPart::Stopped(_)) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut gate.stream).poll_shutdown(cx)
    }
}
