//! One socket and one waker in one poll, for a thread that waits for both: neither reading nor
//! writing ever blocks, and TLS is no special case.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{SockRef, TcpKeepalive};

use super::tls_stream::TlsStream;
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
