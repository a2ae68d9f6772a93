//! A socket and a waker in a single poll, for a thread that waits for both. Neither reads nor writes ever block, with
//! TLS too.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use memchr::memchr;
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{SockRef, TcpKeepalive};

use super::LinkTimes;
use super::relay::Relay;
use weirgate_runtime::Wake;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// The kernel's limit for a silent link, beside the pings: it probes the peer after this time, and ends the connection
/// if the peer acknowledges nothing for this time.
const TCP_PATIENCE: Duration = Duration::from_secs(5);

/// How long a command still waits after its user has stopped it: enough for the answer of a server that is well. Also how
/// often a wait checks whether the user stops.
const STOP_GRACE: Duration = Duration::from_millis(100);

/// The stop of a command by its user.
struct UserStop {
    is_asked: Arc<AtomicBool>,
    /// When a wait has seen it first.
    seen: Option<Instant>,
}

impl UserStop {
    /// The end of the next part of a wait that ends at `until`.
    ///
    /// # Errors
    /// The user has stopped the command, and the grace is over.
    fn next_end(&mut self, until: Instant) -> io::Result<Instant> {
        let now = Instant::now();
        if self.seen.is_none() && self.is_asked.load(Relaxed) {
            self.seen = Some(now);
        }
        let end = self.seen.unwrap_or(now) + STOP_GRACE;
        match now < end {
            true => Ok(until.min(end)),
            false => Err(io::Error::other("the user has stopped the command")),
        }
    }
}

/// The poll of a thread that waits for a socket and a waker.
pub(super) struct Waiter {
    poll: Poll,
    events: Events,
    /// The socket may have bytes to read, because the last read did not empty it.
    pub(super) readable: bool,
    /// The socket may take bytes: the last write did not report `WouldBlock`.
    pub(super) writable: bool,
    /// The other side has ended the connection, or the socket has an error; the next read returns either.
    ends: bool,
    is_woken: bool,
    /// Only for a command: every wait then ends soon after the stop.
    stop: Option<UserStop>,
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
            stop: None,
        };
        Ok((waiter, wake))
    }

    /// Soon after `is_asked` is set, every [wait](Self::wait) is an error: the user has stopped the command.
    pub(super) fn end_at_stop(&mut self, is_asked: Arc<AtomicBool>) {
        let seen = None;
        self.stop = Some(UserStop { is_asked, seen });
    }

    /// Whether the waker was used since the last call.
    pub(super) fn take_woken(&mut self) -> bool {
        mem::take(&mut self.is_woken)
    }

    /// Waits until something may be read or written, the waker was used, or the time is over. May end earlier.
    pub(super) fn wait(&mut self, until: Instant) -> io::Result<()> {
        let until = match &mut self.stop {
            Some(stop) => stop.next_end(until)?,
            None => until,
        };
        self.poll(until.saturating_duration_since(Instant::now()))
    }

    /// As [`Self::wait`], but polls without sleeping for some time after the last messages.
    pub(super) fn wait_or_spin<E: Error>(
        &mut self,
        relay: &mut Relay<E>,
        until: Instant,
    ) -> io::Result<()> {
        let timeout = until.saturating_duration_since(Instant::now());
        match relay.spin(timeout, || self.check())? {
            true => Ok(()),
            false => self.wait(until),
        }
    }

    /// Polls without waiting. Returns whether there was an event.
    pub(super) fn check(&mut self) -> io::Result<bool> {
        self.poll(Duration::ZERO)?;
        Ok(!self.events.is_empty())
    }

    /// Waits for events at most this long. Sets the flags of the events and clears none; a wait that a signal
    /// interrupts is no error.
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

    /// Stops waiting for this socket.
    pub(super) fn deregister(&self, tcp: &mut TcpStream) {
        // Fails only if the socket is no longer registered.
        let _ = self.poll.registry().deregister(tcp);
    }

    /// Registers a socket: the next waits are for this socket, and not for the one before.
    ///
    /// # Errors
    /// The error of the system.
    fn register(&mut self, tcp: &mut TcpStream) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(tcp, SOCKET, both)?;
        (self.readable, self.writable, self.ends) = (false, false, false);
        Ok(())
    }

    /// Connects to an address within `timeout`; the next waits are for this socket.
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
        self.register(&mut tcp)?;
        match self.finish_connect(&tcp, until) {
            Ok(()) => {
                prepare(&tcp);
                Ok(tcp)
            }
            Err(error) => {
                self.deregister(&mut tcp);
                Err(error)
            }
        }
    }

    /// Connects to a unix socket; the next waits are for this socket. The kernel accepts or refuses at once.
    ///
    /// # Errors
    /// The error of the system; `WouldBlock` if too many connections wait for the server.
    pub(super) fn connect_unix(&mut self, path: &str) -> io::Result<TcpStream> {
        // Reads and writes are the same system calls for TCP and for unix sockets, so the type for TCP serves for both.
        let stream = OwnedFd::from(UnixStream::connect(path)?);
        let mut stream = TcpStream::from_std(stream.into());
        self.register(&mut stream)?;
        Ok(stream)
    }

    /// Waits until the socket is connected. Returns the error of the connection, or `TimedOut` after `until`; a wake
    /// from another thread does not end the wait.
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

/// Sets the options of a connected socket: small packets go out without delay, and [`TCP_PATIENCE`] bounds the silence
/// of the peer.
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

/// A TCP stream, with or without TLS. A read or write that would have to wait fails with `WouldBlock`. With TLS, the
/// first reads and writes do the handshake.
pub(super) struct MaybeTlsStream {
    pub(super) tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl MaybeTlsStream {
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    pub(super) fn tls(tcp: TcpStream, host: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let tls = Some(Box::new(session));
        Ok(Self { tcp, tls })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the TLS handshake is not complete.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }
}

impl Read for MaybeTlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.tcp.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            // At the end of the stream this reads nothing, and the next round returns the end.
            tls.read_tls(&mut self.tcp)?;
            let taken = tls.process_new_packets();
            // Sends what the session answers (the handshake, an alert), as far as the socket takes it.
            let sent = match send(tls, &mut self.tcp) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
                _ => Ok(()),
            };
            taken.map_err(io::Error::other)?;
            sent?;
        }
    }
}

impl Write for MaybeTlsStream {
    /// With TLS, takes as much as fits the session's own buffer, which empties as the socket takes bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.tcp.write(bytes);
        };
        let taken = tls.writer().write(bytes)?;
        if taken > 0 || bytes.is_empty() {
            return Ok(taken);
        }
        // The buffer is full. If the socket takes all of it here, there is room at once: a caller that waits for room
        // would not be woken.
        send(tls, &mut self.tcp)?;
        match tls.writer().write(bytes)? {
            // The handshake is not complete; the server's next bytes wake the caller.
            0 => Err(ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => send(tls, &mut self.tcp),
            None => self.tcp.flush(),
        }
    }
}

/// Writes the records of a session.
fn send(tls: &mut ClientConnection, tcp: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(tcp)?;
    }
    Ok(())
}

/// A stream with buffers for both directions. Never blocks; the waiter says when to try again.
pub(super) struct Buffered {
    pub(super) stream: MaybeTlsStream,
    out: Vec<u8>,
    /// The bytes of `out` that are written.
    written: usize,
    buffer: Box<[u8]>,
    /// The part of `buffer` that was read from the socket and that no reader has taken.
    unread: Range<usize>,
    /// When the last bytes arrived; at first, when the stream was made. Silence is measured from this time, so a large
    /// answer over a slow line is not silence.
    pub(super) last_received: Instant,
    /// When the server was last pinged because it was silent; `None` if bytes have arrived since.
    pub(super) pinged: Option<Instant>,
}

impl Buffered {
    /// Creates a stream that reads at most `read_bytes` bytes at once.
    pub(super) fn new(stream: MaybeTlsStream, read_bytes: usize) -> Self {
        Self {
            stream,
            out: Vec::new(),
            written: 0,
            buffer: vec![0; read_bytes].into_boxed_slice(),
            unread: 0..0,
            last_received: Instant::now(),
            pinged: None,
        }
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
                // Nothing of `out` is left. 0 ends the loop, once TLS has written what it holds.
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

    /// Reads once. Returns false if there is nothing to read. The caller must take all bytes with [`Self::take`] before
    /// the next read.
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
                    (self.last_received, self.pinged) = (Instant::now(), None);
                    // A read that does not fill the buffer has emptied the socket, and the next bytes will be a new
                    // event. A TLS session may hold more.
                    let is_tls = self.stream.is_tls();
                    waiter.readable = waiter.ends || is_tls || bytes == self.buffer.len();
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => waiter.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Hands over `bytes` that were read from the socket before this buffer was there. They have to fit it; more are
    /// dropped.
    pub(super) fn put_unread(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.buffer.len());
        let fits = self.buffer.iter_mut().zip(bytes);
        fits.for_each(|(place, &byte)| *place = byte);
        self.unread = 0..count;
    }

    /// Pings a server that has been silent for an interval. `is_silent`: there is nothing to read at the moment. While
    /// the thread waits for room in the loop's channel it reads nothing, and that is not silence. Returns when to call
    /// again; `None` if the server has not answered the ping in time.
    pub(super) fn watch(
        &mut self,
        times: &LinkTimes,
        is_silent: bool,
        ping: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Instant> {
        let now = Instant::now();
        let interval = Duration::from_millis(times.ping_interval_ms);
        let timeout = Duration::from_millis(times.ping_timeout_ms);
        match self.pinged {
            Some(pinged) if is_silent && now >= pinged + timeout => None,
            Some(pinged) => Some(pinged + timeout),
            None if is_silent && now >= self.last_received + interval => {
                ping(&mut self.out);
                self.pinged = Some(now);
                Some(now + timeout)
            }
            None => Some(self.last_received + interval),
        }
    }

    /// Lets `reader` take from the bytes that were read. The next call begins with the rest.
    pub(super) fn take<T>(&mut self, reader: impl FnOnce(&mut &[u8]) -> T) -> T {
        let mut input = self.buffer.get(self.unread.clone()).unwrap_or_default();
        let taken = reader(&mut input);
        self.unread.start = self.unread.end - input.len();
        taken
    }
}

/// The lines of a protocol, in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not arrived.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes from `input` up to the end of the next line. Returns the line with its end; `None` if all of `input` was
    /// taken and more is needed.
    ///
    /// # Errors
    /// The line is longer than `bytes_max`.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        bytes_max: usize,
    ) -> Result<Option<Cow<'a, [u8]>>, &'static str> {
        let end = memchr(b'\n', input);
        let (piece, rest) = input.split_at(end.map_or(input.len(), |at| at + 1));
        *input = rest;
        if self.begun.len() + piece.len() > bytes_max {
            return Err("a line without an end");
        }
        if end.is_some() && self.begun.is_empty() {
            return Ok(Some(Cow::Borrowed(piece)));
        }
        self.begun.extend_from_slice(piece);
        Ok(end.map(|_| Cow::Owned(mem::take(&mut self.begun))))
    }
}

/// Takes up to `missing` bytes from the front of `input`, and subtracts their number from `missing`.
pub(super) fn take_up_to<'a>(missing: &mut usize, input: &mut &'a [u8]) -> &'a [u8] {
    let (taken, rest) = input.split_at(input.len().min(*missing));
    *input = rest;
    *missing -= taken.len();
    taken
}

pub(super) fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it ended the connection")
}
