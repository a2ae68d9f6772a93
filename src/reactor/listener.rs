//! Accepting, and not accepting: a process without descriptors waits and says so once a second,
//! instead of spinning on a socket that stays readable.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

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
    notsent_lowat_bytes: u32,
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
        socket.listen(settings.backlog)?;
        socket.set_nonblocking(true)?;
        let mut inner = TcpListener::from_std(socket.into());
        registry.register(&mut inner, token, Interest::READABLE)?;
        Ok(Self {
            inner: Some(inner),
            notsent_lowat_bytes: settings.notsent_lowat_bytes,
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
                    self.prepare(&stream);
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

    fn prepare(&self, stream: &TcpStream) {
        // Either fails only on a connection that is gone already; the first read will say so.
        let _ = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        if self.notsent_lowat_bytes > 0 {
            let _ = SockRef::from(stream).set_tcp_notsent_lowat(self.notsent_lowat_bytes);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (self.notsent_lowat_bytes, SockRef::from(stream));
    }
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
