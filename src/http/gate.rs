//! What stands between a socket and hyper: it lets one request through at a time, head and body,
//! after the rules that the reactor has for heads.
//!
//! A head that breaks them, or that asks for a WebSocket or an event stream, does not pass: hyper sees the end of the
//! connection there, finishes the answers before it, and the socket is ours again with every byte
//! from that head on. A body passes as far as hyper asks for it, which is as far as its handler
//! reads; where it ends is judged here too, so that the next head is one by our reading. What comes
//! behind a request that is being answered is read here, within limits, to see whether the client is
//! still there.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::handover::{Ahead, ConnectionClock};
use crate::wire::body::BodyScanner;
use crate::wire::head::{self, HeadError, HeadScanner};

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 8 * 1024;

/// Limits of one head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) bytes_max: usize,
    pub(super) headers_max: usize,
    /// A request for an event stream is not for hyper either.
    pub(super) event_stream: bool,
}

/// Why the gate let nothing more through.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client asks for a WebSocket, or an event stream: all bytes from the start of that head on.
    Upgrade(Vec<u8>),
    /// The head is refused.
    BadHead(HeadError),
}

/// What is known of a client whose request is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    There,
    /// It has ended its half, or its connection is broken.
    Gone,
    /// It sent more than is read now, and an end behind that is not announced: look again.
    Hidden,
}

/// What comes next.
#[derive(Debug)]
enum Next {
    /// A head.
    Head(HeadScanner),
    /// The rest of a body.
    Body(BodyScanner),
    /// Nothing for hyper.
    Stopped(Stop),
}

/// A client's socket as hyper sees it: one request at a time, then the end of the connection.
#[derive(Debug)]
pub(super) struct Gate {
    stream: TcpStream,
    clock: Rc<ConnectionClock>,
    limits: HeadLimits,
    /// What was read; before `given` hyper has it, before `passed` it may have it.
    read: Vec<u8>,
    given: usize,
    passed: usize,
    next: Next,
    /// How much was read behind a request that is being answered.
    ahead: Ahead,
    /// The reactor has seen the first head and wants it served here, whatever it asks for.
    decided: bool,
}

impl Gate {
    /// A socket of which `read` was read already, from the start of a head on. `decided`: that
    /// head may not ask for a WebSocket or an event stream again.
    pub(super) fn new(
        stream: TcpStream,
        read: Vec<u8>,
        decided: bool,
        limits: HeadLimits,
        clock: Rc<ConnectionClock>,
        ahead: Ahead,
    ) -> Self {
        Self {
            stream,
            clock,
            limits,
            read,
            given: 0,
            passed: 0,
            next: Next::Head(HeadScanner::default()),
            ahead,
            decided,
        }
    }

    /// The socket, and why nothing more was let through; `None` where it is hyper that ended.
    pub(super) fn into_parts(self) -> (TcpStream, Option<Stop>) {
        match self.next {
            Next::Stopped(stop) => (self.stream, Some(stop)),
            Next::Head(_) | Next::Body(_) => (self.stream, None),
        }
    }

    /// Whether the client has ended its half, or its connection is broken. Takes no byte of a
    /// body, which is its handler's to ask for.
    pub(super) fn look_for_client(&mut self, cx: &mut Context<'_>) -> Client {
        let is_whole = !matches!(self.next, Next::Body(_));
        let read = match self.next {
            Next::Head(_) => self.poll_read_ahead(cx),
            Next::Body(_) | Next::Stopped(_) => {
                let mut byte = [0];
                self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte))
            }
        };
        match read {
            Poll::Pending => Client::There,
            Poll::Ready(Ok(0) | Err(_)) => Client::Gone,
            Poll::Ready(Ok(1..)) if self.knows_end(is_whole, cx) => Client::Gone,
            Poll::Ready(Ok(1..)) => Client::Hidden,
        }
    }

    /// Reads what is behind a whole request; pending when nothing more is there, ready with the
    /// bytes that wait where there is no room for more.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.ahead.shrink_to(self.read.len() - self.passed);
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let room = self.ahead.room().min(READ_BYTES);
            if room == 0 {
                return Poll::Ready(Ok(self.read.len() - self.passed));
            }
            // What hyper has is moved out of the way once that costs less than it gives.
            if 2 * self.given >= self.read.len() {
                self.read.drain(..self.given);
                self.passed -= self.given;
                self.given = 0;
            }
            let n = ready!(self.poll_append(cx, room))?;
            if n == 0 {
                return Poll::Ready(Ok(0));
            }
            self.ahead.grow(n);
        }
    }

    /// What the kernel knows of the end without a read (EPOLLRDHUP, EPOLLHUP). A client may end
    /// its half behind a body that is still to be read.
    fn knows_end(&self, is_whole: bool, cx: &mut Context<'_>) -> bool {
        let known = self.stream.ready(Interest::READABLE | Interest::WRITABLE);
        match pin!(known).poll(cx) {
            Poll::Ready(Ok(ready)) => {
                ready.is_write_closed() || (is_whole && ready.is_read_closed())
            }
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Looks at what is behind what has passed; `false` if more has to be read first.
    fn judge(&mut self) -> io::Result<bool> {
        let rest = self.read.get(self.passed..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(false);
        }
        match &mut self.next {
            Next::Stopped(_) => {}
            Next::Body(body) => {
                let taken = body.take(rest).map_err(io::Error::other)?;
                if body.is_end() {
                    self.next = Next::Head(HeadScanner::default());
                }
                self.passed += taken;
            }
            Next::Head(_) => return Ok(self.judge_head()),
        }
        Ok(true)
    }

    fn judge_head(&mut self) -> bool {
        let Next::Head(scanner) = &mut self.next else {
            return true;
        };
        let rest = &self.read[self.passed..];
        self.clock.head_begun();
        let bytes_max = self.limits.bytes_max;
        let verdict = match scanner.end(rest) {
            None if rest.len() <= bytes_max => return false,
            Some(end) if end <= bytes_max => {
                verdict(&rest[..end], self.limits).map(|verdict| (self.passed + end, verdict))
            }
            _ => Err(HeadError::too_large(&rest[..bytes_max])),
        };
        self.clock.head_ended();
        let decided = std::mem::take(&mut self.decided);
        (self.passed, self.next) = match verdict {
            Err(error) => (self.passed, Next::Stopped(Stop::BadHead(error))),
            Ok((_, verdict)) if verdict.leaves && !decided => {
                let read = self.read.split_off(self.passed);
                (self.passed, Next::Stopped(Stop::Upgrade(read)))
            }
            Ok((end, verdict)) => (
                end,
                verdict
                    .body
                    .map_or_else(|| Next::Head(HeadScanner::default()), Next::Body),
            ),
        };
        true
    }

    /// Reads a body straight into hyper's buffer, where nothing else can come.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Next::Body(body) = &mut self.next else {
            return Poll::Ready(Ok(()));
        };
        let certain = usize::try_from(body.certain()).unwrap_or(usize::MAX);
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
        self.clock.body_read(outcome.is_pending());
        ready!(outcome)?;
        let n = buf.filled().len() - before;
        body.pass(n as u64);
        if body.is_end() {
            self.next = Next::Head(HeadScanner::default());
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more to judge; 0 at the end of the client's side.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // What hyper has is not kept.
        self.read.drain(..self.passed);
        (self.given, self.passed) = (0, 0);
        self.ahead.shrink_to(self.read.len());
        let outcome = self.poll_append(cx, READ_BYTES);
        if matches!(self.next, Next::Body(_)) {
            self.clock.body_read(outcome.is_pending());
        }
        outcome
    }

    /// Reads at most `bytes_max` behind what was read; 0 at the end of the client's side.
    fn poll_append(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<io::Result<usize>> {
        let len = self.read.len();
        self.read.resize(len + bytes_max, 0);
        let mut buf = ReadBuf::new(&mut self.read[len..]);
        let outcome = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
        let n = buf.filled().len();
        self.read.truncate(len + n);
        // A connection that idles keeps no buffer, and no other one that it needed for once.
        if self.read.is_empty() {
            self.read = Vec::new();
        } else if self.read.capacity() > 8 * READ_BYTES && self.read.len() < READ_BYTES {
            self.read.shrink_to(2 * READ_BYTES);
        }
        outcome.map_ok(|()| n)
    }
}

/// What a good head asks for.
struct Verdict {
    /// The reactor has to see it.
    leaves: bool,
    body: Option<BodyScanner>,
}

fn verdict(head: &[u8], limits: HeadLimits) -> Result<Verdict, HeadError> {
    head::parse(head, limits.headers_max).map(|head| Verdict {
        leaves: head.asks_upgrade() || limits.event_stream && head.asks_event_stream(),
        body: BodyScanner::announced(&head),
    })
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            if gate.given < gate.passed {
                let waiting = &gate.read[gate.given..gate.passed];
                let part = waiting.get(..buf.remaining()).unwrap_or(waiting);
                buf.put_slice(part);
                gate.given += part.len();
                return Poll::Ready(Ok(()));
            }
            let is_judged = gate.read.len() == gate.passed;
            match &gate.next {
                Next::Stopped(_) => return Poll::Ready(Ok(())),
                Next::Body(body) if is_judged && body.certain() > 0 => {
                    return gate.poll_body(cx, buf);
                }
                Next::Body(_) | Next::Head(_) => {}
            }
            if !gate.judge()? && ready!(gate.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.clock.wrote(outcome.is_pending());
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.clock.wrote(outcome.is_pending());
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // For hyper the connection ends; for the client it goes on.
        if matches!(self.next, Next::Stopped(_)) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One gate with two holders: hyper reads and writes, the connection watches for the client's end.
#[derive(Clone, Debug)]
pub(super) struct SharedGate(Rc<RefCell<Gate>>);

impl SharedGate {
    pub(super) fn new(gate: Gate) -> Self {
        Self(Rc::new(RefCell::new(gate)))
    }

    /// As [`Gate::look_for_client`].
    pub(super) fn look_for_client(&self, cx: &mut Context<'_>) -> Client {
        self.0.borrow_mut().look_for_client(cx)
    }

    /// The gate, from the last of its holders.
    pub(super) fn into_inner(self) -> Option<Gate> {
        Rc::into_inner(self.0).map(RefCell::into_inner)
    }
}

impl AsyncRead for SharedGate {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedGate {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
