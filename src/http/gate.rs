//! What stands between a socket and hyper: it lets one request head through at a time, after the
//! rules that the reactor has for heads.
//!
//! A head that breaks them, or that asks for a WebSocket, does not pass: hyper sees the end of the
//! connection there, finishes the answers before it, and the socket is ours again with every byte
//! from that head on. Only heads have to be told apart, because a request with a body is the last
//! of its connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connection_clock::ConnectionClock;
use crate::wire::head::{self, HeadError, HeadScanner};

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 8 * 1024;

/// Limits of one head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) bytes_max: usize,
    pub(super) headers_max: usize,
}

/// Why the gate let nothing more through.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client asks for a WebSocket: all bytes from the start of that head on.
    Upgrade(Vec<u8>),
    /// The head is refused.
    BadHead(HeadError),
}

/// What comes next.
#[derive(Debug)]
enum Next {
    /// A head.
    Head(HeadScanner),
    /// A body, which nobody reads.
    Body,
    /// Nothing for hyper.
    Stopped(Stop),
}

/// See the module.
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
    /// The reactor has seen the first head and wants it served here, whatever it asks for.
    decided: bool,
}

impl Gate {
    /// A socket of which `read` was read already, from the start of a head on. `decided`: that
    /// head may not ask for a WebSocket again.
    pub(super) fn new(
        stream: TcpStream,
        read: Vec<u8>,
        decided: bool,
        limits: HeadLimits,
        clock: Rc<ConnectionClock>,
    ) -> Self {
        Self {
            stream,
            clock,
            limits,
            read,
            given: 0,
            passed: 0,
            next: Next::Head(HeadScanner::default()),
            decided,
        }
    }

    /// The socket, and why nothing more was let through; `None` where it is hyper that ended.
    pub(super) fn into_parts(self) -> (TcpStream, Option<Stop>) {
        match self.next {
            Next::Stopped(stop) => (self.stream, Some(stop)),
            Next::Head(_) | Next::Body => (self.stream, None),
        }
    }

    /// Looks at what is behind the last head that passed; `false` if more has to be read first.
    fn judge(&mut self) -> bool {
        let Next::Head(scanner) = &mut self.next else {
            return true;
        };
        let Some(rest) = self.read.get(self.passed..).filter(|r| !r.is_empty()) else {
            return false;
        };
        self.clock.head_begun();
        let bytes_max = self.limits.bytes_max;
        let verdict = match scanner.end(rest) {
            None if rest.len() <= bytes_max => return false,
            Some(end) if end <= bytes_max => verdict(&rest[..end], self.limits.headers_max)
                .map(|verdict| (self.passed + end, verdict)),
            _ => Err(HeadError::too_large(&rest[..bytes_max])),
        };
        self.clock.head_ended();
        let decided = std::mem::take(&mut self.decided);
        (self.passed, self.next) = match verdict {
            Err(error) => (self.passed, Next::Stopped(Stop::BadHead(error))),
            Ok((_, verdict)) if verdict.asks_upgrade && !decided => {
                let read = self.read.split_off(self.passed);
                (self.passed, Next::Stopped(Stop::Upgrade(read)))
            }
            Ok((_, verdict)) if verdict.announces_body => (self.read.len(), Next::Body),
            Ok((end, _)) => (end, Next::Head(HeadScanner::default())),
        };
        true
    }

    /// Reads more of a head; 0 at the end of the client's side.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // What hyper has is not kept.
        self.read.drain(..self.passed);
        (self.given, self.passed) = (0, 0);
        let len = self.read.len();
        self.read.resize(len + READ_BYTES, 0);
        let mut buf = ReadBuf::new(&mut self.read[len..]);
        let outcome = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
        let n = buf.filled().len();
        self.read.truncate(len + n);
        if self.read.is_empty() {
            // A connection that idles keeps no buffer.
            self.read = Vec::new();
        }
        outcome.map_ok(|()| n)
    }
}

/// What a good head asks for.
struct Verdict {
    asks_upgrade: bool,
    announces_body: bool,
}

fn verdict(head: &[u8], headers_max: usize) -> Result<Verdict, HeadError> {
    head::parse(head, headers_max).map(|head| Verdict {
        asks_upgrade: head.asks_upgrade(),
        announces_body: head.announces_body(),
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
            match gate.next {
                Next::Stopped(_) => return Poll::Ready(Ok(())),
                // hyper asks once whether the body is short, and ends the connection otherwise.
                Next::Body => return Poll::Pending,
                Next::Head(_) => {}
            }
            if !gate.judge() && ready!(gate.poll_fill(cx))? == 0 {
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
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            self.clock.wrote();
        }
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            self.clock.wrote();
        }
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
