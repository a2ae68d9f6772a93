//! One socket and one waker in one poll, for a thread that waits for both: neither reading nor
//! writing ever blocks, and TLS is no special case.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{SockRef, TcpKeepalive};

use crate::base::Wake;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// What the kernel does about a silent link, beside the pings: after this long it asks, and what
/// was sent and not confirmed for this long ends the connection.
const TCP_PATIENCE: Duration = Duration::from_secs(5);

/// Waits for one socket and one waker.
pub(super) struct Waiter {
    poll: Poll,
    events: Events,
    /// The socket may have something; it has not said "no more" since.
    pub(super) readable: bool,
    /// The socket may take something; it has not said "no more" since.
    pub(super) writable: bool,
}

impl Waiter {
    /// The waker ends a wait, or the next one. `sleeper` names the thread that waits.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(super) fn new(sleeper: &'static str) -> io::Result<(Self, Wake)> {
        let poll = Poll::new()?;
        let wake = Wake::new(poll.registry(), WAKER, sleeper)?;
        let waiter = Self {
            poll,
            events: Events::with_capacity(8),
            readable: false,
            writable: false,
        };
        Ok((waiter, wake))
    }

    /// Waits until something may be read or written, the waker was used, or the time is over.
    pub(super) fn wait(&mut self, until: Instant) -> io::Result<()> {
        self.poll(until.saturating_duration_since(Instant::now()))
    }

    /// Whether there is something at this moment that would end a wait.
    pub(super) fn look(&mut self) -> io::Result<bool> {
        self.poll(Duration::ZERO)?;
        Ok(!self.events.is_empty())
    }

    fn poll(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in self.events.iter().filter(|event| event.token() == SOCKET) {
            self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            self.writable |= event.is_writable() || event.is_error();
        }
        Ok(())
    }

    /// Connects to the first of the host's addresses that accepts, each within `timeout`, and waits
    /// for that socket from here on. Looking the name up takes as long as the system takes for it.
    ///
    /// # Errors
    /// What the system said of the last address.
    pub(super) fn connect(
        &mut self,
        host: &str,
        port: u16,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in (host, port).to_socket_addrs()? {
            match self.connect_to(address, timeout) {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Waits for this socket no longer.
    pub(super) fn leave(&self, tcp: &mut TcpStream) {
        // Fails only where it is not registered any more.
        let _ = self.poll.registry().deregister(tcp);
    }

    fn connect_to(&mut self, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let until = Instant::now() + timeout;
        let mut tcp = TcpStream::connect(address)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut tcp, SOCKET, both)?;
        (self.readable, self.writable) = (false, false);
        match self.finish_connect(&tcp, until) {
            Ok(()) => {
                prepare(&tcp);
                Ok(tcp)
            }
            Err(error) => {
                self.leave(&mut tcp);
                Err(error)
            }
        }
    }

    fn finish_connect(&mut self, tcp: &TcpStream, until: Instant) -> io::Result<()> {
        loop {
            self.wait(until)?;
            if let Some(error) = tcp.take_error()? {
                return Err(error);
            }
            match tcp.peer_addr() {
                Ok(_) if self.writable => return Ok(()),
                Err(error) if error.kind() != ErrorKind::NotConnected => return Err(error),
                _ if Instant::now() >= until => return Err(ErrorKind::TimedOut.into()),
                _ => {}
            }
        }
    }
}

fn prepare(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_PATIENCE)
        .with_interval(TCP_PATIENCE / 5);
    // These fail only on a connection that is gone already; the first read will say so.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(TCP_PATIENCE));
}

/// A TCP stream, with TLS on it or not. Never blocks.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    /// The handshake is done by the reads and writes that follow.
    pub(super) fn tls(tcp: TcpStream, host: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(TlsStream { tcp, session })))
    }

    /// TLS has not come about yet.
    pub(super) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.session.is_handshaking())
    }

    pub(super) fn tcp_mut(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &mut tls.tcp,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// The client side of TLS. Reads and writes fail with `WouldBlock` as those of the socket do; the
/// handshake, if it is not over, is done by the first of them.
pub(super) struct TlsStream {
    pub(super) tcp: TcpStream,
    pub(super) session: ClientConnection,
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            // The end of the stream is what the next round reads.
            self.session.read_tls(&mut self.tcp)?;
            let taken = self.session.process_new_packets();
            // What it answers (the handshake, an alert) leaves as far as there is room.
            let sent = match self.flush() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
                _ => Ok(()),
            };
            taken.map_err(io::Error::other)?;
            sent?;
        }
    }
}

impl Write for TlsStream {
    /// Takes what fits the session's own buffer, which empties as the socket takes it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.session.writer().write(bytes)?;
        if taken > 0 || bytes.is_empty() {
            return Ok(taken);
        }
        // If the socket takes all of a full buffer, nothing would wake a caller that waits for room.
        self.flush()?;
        match self.session.writer().write(bytes)? {
            // The handshake has to come first: what the server says wakes the caller.
            0 => Err(ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }
}

/// A stream that never blocks. Its waiter says when to try again.
pub(super) struct Buffered {
    stream: Stream,
    out: Vec<u8>,
    /// Of `out`.
    written: usize,
    buffer: Box<[u8]>,
    /// Of `buffer`: read from the socket and not taken.
    unread: Range<usize>,
}

impl Buffered {
    /// Reads at most so many bytes at once.
    pub(super) fn new(stream: Stream, read_bytes: usize) -> Self {
        Self {
            stream,
            out: Vec::new(),
            written: 0,
            buffer: vec![0; read_bytes].into_boxed_slice(),
            unread: 0..0,
        }
    }

    /// The stream itself, to look at.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream itself.
    pub(super) fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Where what is to be sent is written; [`Self::flush`] sends it.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn flush(&mut self, waiter: &mut Waiter) -> io::Result<()> {
        while waiter.writable {
            let sent = match self.out.get(self.written..) {
                Some(rest) if !rest.is_empty() => self.stream.write(rest),
                _ => self.stream.flush().map(|()| 0),
            };
            match sent {
                Ok(0) => break,
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => waiter.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.queued_bytes() == 0 {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Reads once. `false`: there is nothing. What came is given out by [`Self::take`], and has to be
    /// taken before the next read.
    ///
    /// # Errors
    /// The connection is lost, or the other side has ended it.
    pub(super) fn read(&mut self, waiter: &mut Waiter) -> io::Result<bool> {
        debug_assert!(self.unread.is_empty());
        while waiter.readable {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(ended()),
                Ok(bytes) => {
                    self.unread = 0..bytes;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => waiter.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Has `reader` take from what was read; what it leaves comes first the next time.
    pub(super) fn take<T>(&mut self, reader: impl FnOnce(&mut &[u8]) -> T) -> T {
        let mut input = self.buffer.get(self.unread.clone()).unwrap_or_default();
        let taken = reader(&mut input);
        self.unread.start = self.unread.end - input.len();
        taken
    }
}

/// The other side has ended the connection.
pub(super) fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it ended the connection")
}
