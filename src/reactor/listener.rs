//! Accepting, and not accepting: a process without descriptors waits and says so once a second,
//! instead of spinning on a socket that stays readable.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::hub::Now;
use crate::log_budget::LogBudget;

/// First wait after a failed accept, doubling to the last.
const RETRY_MIN_US: u64 = 10_000;
const RETRY_MAX_US: u64 = 500_000;

/// Settings of the listening socket and of those it accepts.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Handshakes that the kernel holds until they are accepted.
    pub backlog: i32,
    /// Unsent bytes above which the kernel takes no more: what it holds cannot be conflated.
    pub notsent_lowat_bytes: u32,
}

/// A listening socket, its edge and its back-off.
#[derive(Debug)]
pub(super) struct Listener {
    /// `None` once it is closed.
    inner: Option<TcpListener>,
    /// Connections may wait: the edge came and `accept` did not say "would block" since.
    ready: bool,
    /// After a failure: not before this.
    retry_at_us: u64,
    retry_us: u64,
    pub(super) errors: u64,
    lines: LogBudget,
}

impl Listener {
    pub(super) fn bind(
        settings: &ListenSettings,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let tcp = |domain| Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
        let (socket, addr) = socket_for(settings.addr, tcp)?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&addr.into())?;
        set_options(&socket, settings.notsent_lowat_bytes)?;
        socket.listen(settings.backlog)?;
        socket.set_nonblocking(true)?;
        let mut inner = TcpListener::from_std(socket.into());
        registry.register(&mut inner, token, Interest::READABLE)?;
        Ok(Self {
            inner: Some(inner),
            ready: false,
            retry_at_us: 0,
            retry_us: RETRY_MIN_US,
            errors: 0,
            lines: LogBudget::new(1),
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        let closed = || io::Error::from(io::ErrorKind::NotConnected);
        self.inner.as_ref().ok_or_else(closed)?.local_addr()
    }

    /// Accepts no more: who connects from here on is refused by the system.
    pub(super) fn close(&mut self) {
        self.inner = None;
        self.ready = false;
    }

    /// The poll said that connections wait.
    pub(super) fn set_ready(&mut self) {
        self.ready = true;
    }

    /// When to come back for connections that wait with no new edge; `None`: at the next edge.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.ready.then_some(self.retry_at_us)
    }

    /// Takes the next connection, if one waits and accepting is not backed off.
    pub(super) fn accept(&mut self, now: Now) -> Option<(TcpStream, SocketAddr)> {
        let inner = self.inner.take()?;
        let accepted = self.accept_from(&inner, now);
        self.inner = Some(inner);
        accepted
    }

    fn accept_from(&mut self, inner: &TcpListener, now: Now) -> Option<(TcpStream, SocketAddr)> {
        while self.ready && now.mono_us >= self.retry_at_us {
            match inner.accept() {
                Ok((stream, peer)) => {
                    self.retry_us = RETRY_MIN_US;
                    #[cfg(not(target_os = "linux"))]
                    let _ = stream.set_nodelay(true);
                    return Some((stream, peer));
                }
                Err(error) => self.failed(now, &error),
            }
        }
        None
    }

    fn failed(&mut self, now: Now, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.ready = false,
            // The peer went before it was accepted: the next one, then.
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

/// Sets what every accepted socket is to have. On Linux a listening socket hands its TCP options on
/// to the sockets that it accepts, so no connection pays for them.
fn set_options(socket: &Socket, notsent_lowat_bytes: u32) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if notsent_lowat_bytes > 0 {
        // A kernel without the option only makes slow clients less fresh.
        let _ = socket.set_tcp_notsent_lowat(notsent_lowat_bytes);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = notsent_lowat_bytes;
    Ok(())
}

/// A socket for `addr`. Where the system has no IPv6, `[::]` still means every address that it has.
fn socket_for<S>(
    addr: SocketAddr,
    open: impl Fn(Domain) -> io::Result<S>,
) -> io::Result<(S, SocketAddr)> {
    match open(Domain::for_address(addr)) {
        Err(error) if addr.is_ipv6() && addr.ip().is_unspecified() => {
            tracing::warn!(%error, "no IPv6 here; listening on IPv4 alone");
            let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
            Ok((open(Domain::IPV4)?, addr))
        }
        opened => Ok((opened?, addr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One connection accepted from a listener on `addr`, and the client's end of it.
    #[cfg(target_os = "linux")]
    fn accepted(addr: &str, notsent_lowat_bytes: u32) -> (TcpStream, std::net::TcpStream) {
        let poll = mio::Poll::new().unwrap();
        let settings = ListenSettings {
            addr: addr.parse().unwrap(),
            backlog: 16,
            notsent_lowat_bytes,
        };
        let mut listener = Listener::bind(&settings, poll.registry(), Token(0)).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_ready();
        let (stream, _) = listener.accept(Now::default()).unwrap();
        (stream, client)
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn accepted_sockets_have_the_options_of_the_listener() {
        use socket2::SockRef;
        for addr in ["127.0.0.1:0", "[::]:0"] {
            let (stream, _client) = accepted(addr, 16 * 1024);
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().unwrap(), "{addr}");
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), 16 * 1024, "{addr}");
            assert!(socket.nonblocking().unwrap(), "{addr}");
        }
        let (stream, _client) = accepted("127.0.0.1:0", 0);
        let unset = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(
            SockRef::from(&stream).tcp_notsent_lowat().unwrap(),
            unset.tcp_notsent_lowat().unwrap(),
            "0 leaves the kernel's default"
        );
    }

    #[test]
    fn without_ipv6_all_addresses_are_those_of_ipv4() {
        let opened = |addr: &str, has_ipv6: bool| {
            let open = |domain| match domain == Domain::IPV4 || has_ipv6 {
                true => Ok(domain == Domain::IPV4),
                false => Err(io::Error::other("no such family")),
            };
            let opened = socket_for(addr.parse().unwrap(), open).ok();
            opened.map(|(is_ipv4, addr)| (is_ipv4, addr.to_string()))
        };
        let got = |is_ipv4, addr: &str| Some((is_ipv4, addr.to_owned()));
        assert_eq!(opened("[::]:80", true), got(false, "[::]:80"));
        assert_eq!(opened("[::]:80", false), got(true, "0.0.0.0:80"));
        assert_eq!(opened("0.0.0.0:80", false), got(true, "0.0.0.0:80"));
        assert_eq!(opened("[::1]:80", false), None, "that one was asked for");
    }
}
