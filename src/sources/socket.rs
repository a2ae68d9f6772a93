//! A socket and a waker in a single poll, for a thread that waits for both: neither reading nor
//! writing ever blocks, and TLS is not a special case.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{SockRef, TcpKeepalive};

use crate::base::Wake;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// The kernel's limit for a silent link, beside the pings: after this long the kernel probes the peer, and
/// ends the connection if sent bytes are not confirmed for this long.
const TCP_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Waiter {
    poll: Poll,
    events: Events,
    /// The socket may have bytes to read: the last read has not emptied the socket.
    pub(super) readable: bool,
    /// The socket may take bytes: the last write did not report `WouldBlock`.
    pub(super) writable: bool,
    /// The other side has ended the connection, or an error waits: only a read tells.
    ends: bool,
    is_woken: bool,
}

impl Waiter {
    /// The waker ends the current wait, or the next. `sleeper` names the thread that waits.
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
            ends: false,
            is_woken: false,
        };
        Ok((waiter, wake))
    }

    /// Whether the waker was used since the last call.
    pub(super) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.is_woken)
    }

    /// Waits until something may be read or written, the waker was used, or the time is over.
    pub(super) fn wait(&mut self, until: Instant) -> io::Result<()> {
        self.poll(until.saturating_duration_since(Instant::now()))
    }

    /// Whether a wait would end at this moment.
    pub(super) fn look(&mut self) -> io::Result<bool> {
        self.poll(Duration::ZERO)?;
        Ok(!self.events.is_empty())
    }

    fn poll(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            if event.token() == WAKER {
                self.is_woken = true;
                continue;
            }
            self.ends |= event.is_read_closed() || event.is_error();
            self.readable |= event.is_readable() || self.ends;
            self.writable |= event.is_writable() || event.is_error();
        }
        Ok(())
    }

    /// Connects to the first of the host's addresses that accepts, each within `timeout`, and waits
    /// for that socket from here on. `timeout` does not bound the name lookup.
    ///
    /// # Errors
    /// The error of the last address.
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

    /// Stops waiting for this socket.
    pub(super) fn leave(&self, tcp: &mut TcpStream) {
        // Fails only where the socket is not registered any more.
        let _ = self.poll.registry().deregister(tcp);
    }

    /// Waits for this socket from here on, in place of the one before.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn adopt(&mut self, tcp: &mut TcpStream) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(tcp, SOCKET, both)?;
        (self.readable, self.writable, self.ends) = (false, false, false);
        Ok(())
    }

    /// Connects to an address within `timeout`, and waits for that socket from here on.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn connect_to(
        &mut self,
        address: SocketAddr,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        let until = Instant::now() + timeout;
        let mut tcp = TcpStream::connect(address)?;
        self.adopt(&mut tcp)?;
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

    /// Connects to a unix socket, and waits for that socket from here on. The kernel accepts or refuses at once.
    ///
    /// # Errors
    /// The error of the system; `WouldBlock` if too many connections wait for the server.
    pub(super) fn connect_unix(&mut self, path: &str) -> io::Result<TcpStream> {
        // Reading and writing are the same system calls for both families.
        let stream = OwnedFd::from(UnixStream::connect(path)?);
        let mut stream = TcpStream::from_std(stream.into());
        self.adopt(&mut stream)?;
        Ok(stream)
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
    // These fail only on a lost connection; the first read reports the loss.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(TCP_PATIENCE));
}

/// A TCP stream, with or without TLS. Never blocks.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Starts TLS. The reads and writes that follow do the handshake.
    pub(super) fn tls(tcp: TcpStream, host: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(TlsStream { tcp, session })))
    }

    /// Whether the TLS handshake is not complete.
    pub(super) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.session.is_handshaking())
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
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

/// The client side of TLS. Reads and writes fail with `WouldBlock` like those of the socket. The first
/// reads and writes do the handshake.
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
            // The next round reads the end of the stream.
            self.session.read_tls(&mut self.tcp)?;
            let taken = self.session.process_new_packets();
            // Sends the answer of the session (the handshake, an alert) as far as there is room.
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
    /// Takes as much as fits the session's own buffer, which empties as the socket takes bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.session.writer().write(bytes)?;
        if taken > 0 || bytes.is_empty() {
            return Ok(taken);
        }
        // If the socket takes all of a full buffer, nothing would wake a caller that waits for room.
        self.flush()?;
        match self.session.writer().write(bytes)? {
            // The handshake has to come first: the next bytes of the server wake the caller.
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

/// A stream that never blocks. The waiter says when to try again.
pub(super) struct Buffered {
    stream: Stream,
    out: Vec<u8>,
    /// Of `out`.
    written: usize,
    buffer: Box<[u8]>,
    /// The part of `buffer` that was read from the socket and not taken.
    unread: Range<usize>,
}

impl Buffered {
    /// Creates a stream that reads at most `read_bytes` bytes at once.
    pub(super) fn new(stream: Stream, read_bytes: usize) -> Self {
        Self {
            stream,
            out: Vec::new(),
            written: 0,
            buffer: vec![0; read_bytes].into_boxed_slice(),
            unread: 0..0,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The buffer for bytes to send; [`Self::flush`] sends them.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The number of bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes as much as the socket takes.
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

    /// Reads once. Returns false if there is nothing to read. The caller has to take the bytes with
    /// [`Self::take`] before the next read.
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
                    // A read that does not fill the buffer has emptied the socket: the next bytes are an event
                    // of their own. The session of TLS may hold more.
                    let is_plain = matches!(self.stream, Stream::Plain(_));
                    waiter.readable = waiter.ends || !is_plain || bytes == self.buffer.len();
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => waiter.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Lets `reader` take from the bytes that were read; the rest comes first the next time.
    pub(super) fn take<T>(&mut self, reader: impl FnOnce(&mut &[u8]) -> T) -> T {
        let mut input = self.buffer.get(self.unread.clone()).unwrap_or_default();
        let taken = reader(&mut input);
        self.unread.start = self.unread.end - input.len();
        taken
    }
}

pub(super) fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it ended the connection")
}
