//! A socket whose first bytes were read by someone else already, and the clock of its connection.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// When a connection has waited long enough. A head has a deadline that no dribble of bytes moves;
/// between requests the connection may idle, counted from the last byte either way.
#[derive(Debug)]
pub(super) struct ConnectionClock {
    in_head: Cell<bool>,
    since: Cell<Instant>,
    head_timeout: Duration,
    idle_timeout: Duration,
}

impl ConnectionClock {
    /// Starts in a head when bytes of one are there already.
    pub(super) fn start(in_head: bool, head_timeout: Duration, idle_timeout: Duration) -> Self {
        Self {
            in_head: Cell::new(in_head),
            since: Cell::new(Instant::now()),
            head_timeout,
            idle_timeout,
        }
    }

    /// A request head is complete and its answer is on its way.
    pub(super) fn answered(&self) {
        self.in_head.set(false);
        self.since.set(Instant::now());
    }

    fn read(&self) {
        if !self.in_head.replace(true) {
            self.since.set(Instant::now());
        }
    }

    fn wrote(&self) {
        if !self.in_head.get() {
            self.since.set(Instant::now());
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        let timeout = if self.in_head.get() {
            self.head_timeout
        } else {
            self.idle_timeout
        };
        self.since.get() + timeout
    }
}

/// A socket that first gives the bytes that were read before.
#[derive(Debug)]
pub(super) struct Rewind {
    read: Vec<u8>,
    given: usize,
    stream: TcpStream,
    clock: Rc<ConnectionClock>,
}

impl Rewind {
    pub(super) fn new(stream: TcpStream, read: Vec<u8>, clock: Rc<ConnectionClock>) -> Self {
        Self {
            read,
            given: 0,
            stream,
            clock,
        }
    }

    /// The socket; bytes not given yet are gone.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Gives what was read before; `false` when all of it is given.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = self.read.get(self.given..).unwrap_or_default();
        let part = rest.get(..buf.remaining()).unwrap_or(rest);
        buf.put_slice(part);
        self.given += part.len();
        let gave = !part.is_empty();
        if self.given == self.read.len() {
            // A connection that lives long does not keep its first bytes.
            self.read = Vec::new();
            self.given = 0;
        }
        gave
    }
}

impl AsyncRead for Rewind {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = if self.give(buf) {
            Poll::Ready(Ok(()))
        } else {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        };
        if buf.filled().len() > before {
            self.clock.read();
        }
        outcome
    }
}

impl AsyncWrite for Rewind {
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
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
