//! The listening sockets of the loop: start and end of accepting.
//!
//! All are bound at the start, so that a port in use ends the process at once. They listen once the gate is open.
//!
//! A process without free descriptors waits, and logs the shortage once a second, instead of spinning on a
//! socket that stays readable.

use std::io;
use std::os::fd::OwnedFd;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use crate::listening::{Bound, ListenAddr, ListenGate, ListenOptions, SocketFile};
use weirgate_wire::admission::{Credentials, Peer, Transport, TrustedProxies};
use weirgate_wire::base::{LogBudget, Now};

/// The wait after a failed accept: doubles from the minimum to the maximum.
const RETRY_MIN_US: u64 = 10_000;
const RETRY_MAX_US: u64 = 500_000;

/// Settings of the listening sockets and of accepted sockets.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// The addresses to listen on for plain connections.
    pub addrs: Vec<ListenAddr>,
    /// The addresses to listen on for TLS.
    pub tls_addrs: Vec<ListenAddr>,
    /// The proxies whose connections begin with a header of the PROXY protocol.
    pub headers_from: TrustedProxies,
    /// Backlog, port sharing, permissions of unix sockets, options of accepted sockets.
    pub options: ListenOptions,
    /// When the sockets listen.
    pub(crate) gate: ListenGate,
}

impl ListenerSettings {
    /// Whether connections of some proxies begin with a header.
    pub fn has_headers(&self) -> bool {
        self.headers_from != TrustedProxies::None
    }
}

/// A new connection.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) transport: Transport,
}

/// A listening socket, its edge and its back-off.
#[derive(Debug)]
struct Listener {
    /// The bound socket, until it listens.
    held: Option<Bound>,
    /// `None` before the socket listens, and after the close.
    inner: Option<BoundListener>,
    transport: Transport,
    /// Connections may wait: an edge arrived, and `accept` has not returned "would block" since.
    ready: bool,
    /// After a failure or a [pause](Listeners::pause): no accept before this time.
    retry_at_us: u64,
    /// How long to wait after the next failure.
    retry_us: u64,
    errors: u64,
    lines: LogBudget,
}

#[derive(Debug)]
enum BoundListener {
    Tcp(TcpListener),
    /// The file is dropped before the socket, so a later client finds no file, rather than a socket that
    /// refuses.
    Unix {
        _file: SocketFile,
        listener: UnixListener,
    },
}

impl BoundListener {
    /// Accepts a connection, as a TCP stream whatever its kind. The error is `WouldBlock` if none waits.
    fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((stream, peer.into()))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                let peer = Peer::Unix(credentials(&stream));
                Ok((as_any_stream(stream), peer))
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(listener) => listener,
            Self::Unix { listener, .. } => listener,
        }
    }
}

/// Converts a unix stream for the rest of the loop: reading, writing, half-closing and peeking are the same
/// system calls for both families, so the loop and the HTTP side do not distinguish them. Facts that only TCP
/// has come from the [`Peer`], or from the listening socket.
fn as_any_stream(stream: UnixStream) -> TcpStream {
    TcpStream::from_std(OwnedFd::from(stream).into())
}

/// Returns the process at the other end, as the kernel knows it; `None` if the kernel does not say.
#[cfg(target_os = "linux")]
fn credentials(stream: &UnixStream) -> Option<Credentials> {
    let given = rustix::net::sockopt::socket_peercred(stream).ok()?;
    Some(Credentials {
        // 0 for a process that is not visible from here.
        pid: given.pid.as_raw_pid().try_into().unwrap_or(0),
        uid: given.uid.as_raw(),
    })
}

#[cfg(not(target_os = "linux"))]
fn credentials(_: &UnixStream) -> Option<Credentials> {
    None
}

impl Listener {
    /// A socket that does not listen yet.
    fn new(bound: Bound, transport: Transport) -> Self {
        Self {
            held: Some(bound),
            inner: None,
            transport,
            ready: false,
            retry_at_us: 0,
            retry_us: RETRY_MIN_US,
            errors: 0,
            lines: LogBudget::new(1),
        }
    }

    /// Listens, unless the socket does already.
    fn listen(&mut self, backlog: i32, registry: &Registry, token: Token) -> io::Result<()> {
        let Some(bound) = self.held.take() else {
            return Ok(());
        };
        bound.listen(backlog)?;
        let mut inner = match bound {
            Bound::Tcp(listener) => BoundListener::Tcp(TcpListener::from_std(listener)),
            Bound::Unix(listener, file) => BoundListener::Unix {
                _file: file,
                listener: UnixListener::from_std(listener),
            },
        };
        registry.register(inner.source(), token, Interest::READABLE)?;
        self.inner = Some(inner);
        Ok(())
    }

    /// Whether the listener is open, on a TCP port.
    fn is_tcp(&self) -> bool {
        matches!(self.inner, Some(BoundListener::Tcp(_)))
    }

    /// Stops accepting: the kernel refuses further clients.
    fn close(&mut self) {
        (self.held, self.inner) = (None, None);
        self.ready = false;
    }

    /// Records that connections may wait. A closed listener has none: it would ask for a retry that never comes.
    fn set_ready(&mut self) {
        self.ready = self.inner.is_some();
    }

    /// The time of the next accept without a new edge; `None`: only after an edge.
    fn due_us(&self) -> Option<u64> {
        self.ready.then_some(self.retry_at_us)
    }

    /// Accepts the next connection, unless none waits or accepting is backed off.
    fn accept(&mut self, now: Now) -> Option<Accepted> {
        while self.ready && now.mono_us >= self.retry_at_us {
            match self.inner.as_ref()?.accept() {
                Ok((stream, peer)) => {
                    self.retry_us = RETRY_MIN_US;
                    #[cfg(not(target_os = "linux"))]
                    // On Linux, the socket has the option from the listening socket. Fails only on a connection that
                    // has ended.
                    let _ = stream.set_nodelay(true);
                    let transport = self.transport;
                    return Some(Accepted {
                        stream,
                        peer,
                        transport,
                    });
                }
                Err(error) => self.failed(now, &error),
            }
        }
        None
    }

    /// Handles an error of an accept. If no connection waits, none is accepted until the next event. If the error is
    /// not about one connection (mostly, descriptors have run out), the listener pauses, each time for twice as long.
    fn failed(&mut self, now: Now, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.ready = false,
            // The peer has left before the accept; the loop tries the next connection.
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted => {}
            _ => {
                self.errors += 1;
                self.retry_at_us = now.mono_us + self.retry_us;
                self.retry_us = (self.retry_us * 2).min(RETRY_MAX_US);
                if self.lines.line(now).is_some() {
                    tracing::warn!(
                        %error, failures = self.errors,
                        "cannot accept connections; trying again (raise the open files limit?)"
                    );
                }
            }
        }
    }
}

/// The listening sockets, which accept in turn.
#[derive(Debug)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    /// The bound addresses, with the ports that the system chose.
    addrs: Vec<ListenAddr>,
    tls_addrs: Vec<ListenAddr>,
    /// The token of the first listener; the others have the next lower tokens.
    first_token: usize,
    /// Index of the listener that accepts next.
    next: usize,
    /// Other processes may listen on the same TCP ports.
    reuse_port: bool,
    backlog: i32,
    gate: ListenGate,
    /// Whether the sockets are bound, and do not listen yet.
    are_held: bool,
}

/// The error for an address that cannot be listened on.
#[derive(Debug)]
pub(crate) struct ListenError {
    /// The address of the setting.
    pub addr: ListenAddr,
    /// The error of the system.
    pub error: io::Error,
}

impl Listeners {
    /// Binds every address, and listens if the gate is open. The first listener has the token `first`; the others have the
    /// next lower tokens.
    pub(super) fn bind(
        settings: &ListenerSettings,
        registry: &Registry,
        first: Token,
    ) -> Result<Self, ListenError> {
        let mut listeners = Self {
            all: Vec::new(),
            addrs: Vec::new(),
            tls_addrs: Vec::new(),
            first_token: first.0,
            next: 0,
            reuse_port: settings.options.reuse_port,
            backlog: settings.options.backlog,
            gate: settings.gate.clone(),
            are_held: true,
        };
        let plain = settings.addrs.iter().map(|addr| (addr, Transport::Plain));
        let tls = settings.tls_addrs.iter().map(|addr| (addr, Transport::Tls));
        for (addr, transport) in plain.chain(tls) {
            let failed = |error| ListenError {
                addr: addr.clone(),
                error,
            };
            let bound = addr.bind_alone(&settings.options).map_err(failed)?;
            let local = bound.local_addr().map_err(failed)?;
            match transport {
                Transport::Plain => listeners.addrs.push(local),
                Transport::Tls => listeners.tls_addrs.push(local),
            }
            listeners.all.push(Listener::new(bound, transport));
        }
        listeners.listen_if_open(registry)?;
        Ok(listeners)
    }

    /// Whether the sockets are bound, and do not listen yet.
    pub(super) fn are_held(&self) -> bool {
        self.are_held
    }

    /// Listens on every address once the gate is open. Returns whether it has begun to.
    pub(super) fn listen_if_open(&mut self, registry: &Registry) -> Result<bool, ListenError> {
        if !self.are_held || !self.gate.is_open() {
            return Ok(false);
        }
        let addrs = self.addrs.iter().chain(&self.tls_addrs);
        for (n, (listener, addr)) in self.all.iter_mut().zip(addrs).enumerate() {
            let token = Token(self.first_token - n);
            let listens = listener.listen(self.backlog, registry, token);
            listens.map_err(|error| ListenError {
                addr: addr.clone(),
                error,
            })?;
        }
        self.are_held = false;
        self.gate.note_listening();
        Ok(true)
    }

    pub(super) fn local_addrs(&self) -> &[ListenAddr] {
        &self.addrs
    }

    pub(super) fn local_tls_addrs(&self) -> &[ListenAddr] {
        &self.tls_addrs
    }

    /// Records that the poll reported waiting connections; returns false if `token` is not a listener's.
    pub(super) fn set_ready(&mut self, token: Token) -> bool {
        let at = self.first_token.checked_sub(token.0);
        let listener = at.and_then(|at| self.all.get_mut(at));
        listener.map(Listener::set_ready).is_some()
    }

    /// The time of the next accept without a new edge; `None`: only after an edge.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.all.iter().filter_map(Listener::due_us).min()
    }

    /// Accepts the next connection, each listener in turn.
    pub(super) fn accept(&mut self, now: Now) -> Option<Accepted> {
        for _ in 0..self.all.len() {
            let at = self.next;
            self.next = (at + 1) % self.all.len();
            let accepted = self.all.get_mut(at).and_then(|one| one.accept(now));
            if accepted.is_some() {
                return accepted;
            }
        }
        None
    }

    /// Stops accepting: the kernel refuses further clients.
    pub(super) fn close(&mut self) {
        self.are_held = false;
        self.all.iter_mut().for_each(Listener::close);
    }

    /// Whether other processes can take the new clients of an open TCP port.
    pub(super) fn can_hand_over_port(&self) -> bool {
        self.reuse_port && self.all.iter().any(Listener::is_tcp)
    }

    /// Accepts nothing before this time.
    pub(super) fn pause(&mut self, until_us: u64) {
        for one in &mut self.all {
            one.retry_at_us = one.retry_at_us.max(until_us);
        }
    }

    /// Makes every listener try an accept without a new edge.
    pub(super) fn recheck(&mut self) {
        self.all.iter_mut().for_each(Listener::set_ready);
    }

    /// Closes the TCP listeners without a waiting connection, so that other processes get the new clients. At
    /// a close the kernel resets waiting connections.
    pub(super) fn hand_over_port(&mut self) {
        let idle = self.all.iter_mut();
        idle.filter(|one| one.is_tcp() && !one.ready)
            .for_each(Listener::close);
    }

    /// Failed accepts.
    pub(super) fn errors(&self) -> u64 {
        self.all.iter().map(|one| one.errors).sum()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use socket2::{Domain, SockRef, Socket, Type};

    use super::*;

    /// Accepts a connection on `addr`; returns both ends.
    fn accepted(
        addr: &str,
        notsent_lowat_bytes: u32,
        user_timeout_ms: u32,
    ) -> (TcpStream, std::net::TcpStream) {
        let poll = mio::Poll::new().unwrap();
        let options = ListenOptions {
            notsent_lowat_bytes,
            user_timeout_ms,
            ..ListenOptions::default()
        };
        let bound = ListenAddr::Tcp(addr.parse().unwrap())
            .bind(&options)
            .unwrap();
        let ListenAddr::Tcp(local) = bound.local_addr().unwrap() else {
            panic!("a TCP port");
        };
        let mut listener = Listener::new(bound, Transport::Plain);
        listener.listen(16, poll.registry(), Token(0)).unwrap();
        let client = std::net::TcpStream::connect(local).unwrap();
        listener.set_ready();
        let accepted = listener.accept(Now::default()).unwrap();
        (accepted.stream, client)
    }

    #[test]
    fn accepted_sockets_have_the_options_of_the_listener() {
        for addr in ["127.0.0.1:0", "[::]:0"] {
            let (stream, _client) = accepted(addr, 16 * 1024, 60_000);
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().unwrap(), "{addr}");
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), 16 * 1024, "{addr}");
            let user_timeout = socket.tcp_user_timeout().unwrap();
            assert_eq!(user_timeout, Some(Duration::from_secs(60)), "{addr}");
            assert!(socket.nonblocking().unwrap(), "{addr}");
        }
        let (stream, _client) = accepted("127.0.0.1:0", 0, 0);
        let unset = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(
            SockRef::from(&stream).tcp_notsent_lowat().unwrap(),
            unset.tcp_notsent_lowat().unwrap(),
            "0 leaves the kernel's default"
        );
    }

    /// With `ready` set, the loop would not sleep until the end of a stop.
    #[test]
    fn a_closed_listener_asks_for_no_accept() {
        let bound = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = bound.bind(&ListenOptions::default()).unwrap();
        let mut listener = Listener::new(bound, Transport::Plain);
        let poll = mio::Poll::new().unwrap();
        listener.listen(16, poll.registry(), Token(0)).unwrap();
        listener.set_ready();
        assert!(listener.due_us().is_some());
        listener.close();
        listener.set_ready();
        assert_eq!(listener.due_us(), None);
    }
}
