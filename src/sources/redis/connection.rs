//! One connection: connecting, bytes in and out, questions with answers. One thread does all of it:
//! it waits for the socket and for its waker together, so neither reading nor writing ever blocks,
//! and TLS is no special case.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};

use super::error::RedisError;
use super::resp::{ReadLimits, Reader, Value, pack};
use super::settings::Endpoint;
use super::stream::Stream;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// What the kernel does about a silent link, beside the pings: after this long it asks, and what
/// was sent and not confirmed for this long ends the connection.
const TCP_PATIENCE: Duration = Duration::from_secs(5);
/// What is read at once, and so at most between two looks at what else there is to do.
const READ_BYTES: usize = 64 * 1024;
/// What answers to questions may hold: `ROLE` lists all replicas.
const ANSWER_LIMITS: ReadLimits = ReadLimits {
    bulk_bytes_max: 64 * 1024,
    items_max: 4 * 1024,
};

/// Waits for one socket and one waker.
pub(super) struct Waiter {
    poll: Poll,
    events: Events,
    /// The socket may have something; it has not said "no more" since.
    readable: bool,
    writable: bool,
}

impl Waiter {
    /// The waker ends a wait, or the next one.
    pub(super) fn new() -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let waiter = Self {
            poll,
            events: Events::with_capacity(8),
            readable: false,
            writable: false,
        };
        Ok((waiter, waker))
    }

    fn wait(&mut self, until: Instant) -> io::Result<()> {
        let timeout = until.saturating_duration_since(Instant::now());
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
}

/// A connection to one server.
pub(super) struct Connection<'w> {
    waiter: &'w mut Waiter,
    stream: Stream,
    /// Host and port, for people.
    server: String,
    out: Vec<u8>,
    /// Of `out`.
    written: usize,
    reader: Reader,
    buffer: Box<[u8]>,
    /// Of `buffer`: read from the socket and not taken.
    unread: std::ops::Range<usize>,
}

impl<'w> Connection<'w> {
    /// Connects to the first of the host's addresses that accepts, each within `timeout`. Looking
    /// the name up takes as long as the system takes for it.
    pub(super) fn open(
        waiter: &'w mut Waiter,
        endpoint: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let server = endpoint.address();
        let opened = connect_any(waiter, endpoint, timeout).and_then(|tcp| match tls {
            Some(config) if endpoint.tls => Stream::tls(tcp, &endpoint.host, config),
            _ => Ok(Stream::Plain(tcp)),
        });
        match opened {
            Ok(stream) => Ok(Self {
                waiter,
                stream,
                server,
                out: Vec::new(),
                written: 0,
                reader: Reader::new(ANSWER_LIMITS),
                buffer: vec![0; READ_BYTES].into_boxed_slice(),
                unread: 0..0,
            }),
            Err(source) => Err(RedisError::Unreachable { server, source }),
        }
    }

    /// Host and port, for people.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Limits of what is read from here on.
    pub(super) fn set_limits(&mut self, limits: ReadLimits) {
        self.reader.set_limits(limits);
    }

    /// Puts a command behind what waits to be written.
    pub(super) fn queue<T: AsRef<[u8]>>(&mut self, command: impl ExactSizeIterator<Item = T>) {
        pack(&mut self.out, command);
    }

    /// Bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.waiter.writable {
            let sent = match self.out.get(self.written..) {
                Some(rest) if !rest.is_empty() => self.stream.write(rest),
                _ => self.stream.flush().map(|()| 0),
            };
            match sent {
                Ok(0) => break,
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.waiter.writable = false;
                }
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

    /// Reads once. `false`: there is nothing. What came is given out by [`Self::next_value`], and
    /// has to be taken before the next read.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        debug_assert!(self.unread.is_empty());
        while self.waiter.readable {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => {
                    let ended = "it ended the connection";
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, ended));
                }
                Ok(bytes) => {
                    self.unread = 0..bytes;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.waiter.readable = false;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The next value that has come whole.
    pub(super) fn next_value(&mut self) -> Result<Option<Value>, RedisError> {
        let mut input = self.buffer.get(self.unread.clone()).unwrap_or_default();
        let value = self.reader.next(&mut input);
        self.unread.start = self.unread.end - input.len();
        value.map_err(|malformed| self.wrong(malformed.to_string()))
    }

    /// Waits until something may be read or written, the waker was used, or the time is over.
    pub(super) fn wait(&mut self, until: Instant) -> io::Result<()> {
        self.waiter.wait(until)
    }

    /// Sends commands and waits for their answers, one each. There are fewer answers only if the
    /// server ended the connection after the last one.
    pub(super) fn ask(
        &mut self,
        commands: &[&[&str]],
        until: Instant,
    ) -> Result<Vec<Value>, RedisError> {
        for command in commands {
            self.queue(command.iter());
        }
        let mut answers = Vec::with_capacity(commands.len());
        loop {
            self.flush().map_err(|error| self.no_answer(error))?;
            match self.read() {
                Ok(true) => {}
                Ok(false) if Instant::now() < until => {
                    // TLS may have found something to send while it looked for something to read.
                    self.flush().map_err(|error| self.no_answer(error))?;
                    self.wait(until).map_err(|error| self.no_answer(error))?;
                }
                Ok(false) => {
                    let silent = "it accepted the connection and says nothing";
                    let error = io::Error::new(ErrorKind::TimedOut, silent);
                    return Err(self.no_answer(error));
                }
                Err(_) if !answers.is_empty() => return Ok(answers),
                Err(error) => return Err(self.no_answer(error)),
            }
            while let Some(answer) = self.next_value()? {
                answers.push(answer);
            }
            if answers.len() >= commands.len() {
                return Ok(answers);
            }
        }
    }

    /// The error for what the server said and should not have said.
    pub(super) fn wrong(&self, reason: String) -> RedisError {
        let server = self.server.clone();
        RedisError::Wrong { server, reason }
    }

    fn no_answer(&self, error: io::Error) -> RedisError {
        let server = self.server.clone();
        if self.stream.is_handshaking() {
            let reason = error.to_string();
            return RedisError::Tls { server, reason };
        }
        RedisError::Unreachable {
            server,
            source: error,
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let tcp = self.stream.tcp_mut();
        // Fails only where it is not registered any more.
        let _ = self.waiter.poll.registry().deregister(tcp);
    }
}

fn connect_any(
    waiter: &mut Waiter,
    endpoint: &Endpoint,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
        match connect(waiter, address, timeout) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect(waiter: &mut Waiter, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + timeout;
    let mut tcp = TcpStream::connect(address)?;
    let both = Interest::READABLE | Interest::WRITABLE;
    waiter.poll.registry().register(&mut tcp, SOCKET, both)?;
    (waiter.readable, waiter.writable) = (false, false);
    match finish_connect(waiter, &tcp, until) {
        Ok(()) => {
            prepare(&tcp);
            Ok(tcp)
        }
        Err(error) => {
            let _ = waiter.poll.registry().deregister(&mut tcp);
            Err(error)
        }
    }
}

fn finish_connect(waiter: &mut Waiter, tcp: &TcpStream, until: Instant) -> io::Result<()> {
    loop {
        waiter.wait(until)?;
        if let Some(error) = tcp.take_error()? {
            return Err(error);
        }
        match tcp.peer_addr() {
            Ok(_) if waiter.writable => return Ok(()),
            Err(error) if error.kind() != ErrorKind::NotConnected => return Err(error),
            _ if Instant::now() >= until => return Err(ErrorKind::TimedOut.into()),
            _ => {}
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
