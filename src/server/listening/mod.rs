//! Listening: addresses, the sockets on them, and TLS towards clients.
//!
//! | file | has |
//! | --- | --- |
//! | `gate` | when a process listens |
//! | `handed` | connections that one process hands to another |
//! | `options` | the options of listening sockets |
//! | `room` | whether the kernel takes bytes for a socket |
//! | `socket_file` | the files of unix sockets, and their owner |
//! | `tls` | the server's certificates, and the TLS of one connection |
//!
//! Binds and connects, but never accepts: the event loop accepts clients, and the HTTP side accepts connections to the
//! admin address. Settings come in only as values.

mod gate;
pub(crate) mod handed;
mod options;
pub(crate) mod room;
mod socket_file;
pub(crate) mod tls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

pub(crate) use self::gate::ListenGate;
pub(crate) use self::options::ListenOptions;
pub(crate) use self::socket_file::{Owner, SocketFile};
pub use self::tls::{TlsSession, client_config_trusting};

/// The longest path of a unix socket, bytes: the size of the path in `sockaddr_un`, less the NUL (unix(7)).
pub(crate) const PATH_BYTES_MAX: usize = 107;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP port; 0 picks a free port.
    Tcp(SocketAddr),
    /// A unix socket at this path.
    Unix(PathBuf),
}

/// A bound socket, nonblocking.
#[derive(Debug)]
pub(crate) enum Bound {
    /// On a TCP port.
    Tcp(std::net::TcpListener),
    /// At a path. Dropping the second part removes the file; this must happen before the socket closes.
    Unix(UnixListener, SocketFile),
}

impl ListenAddr {
    /// Listens on the address.
    ///
    /// # Errors
    /// The address is in use or is not of this machine; a path cannot be bound, or is in use by a file that
    /// is not a socket. [`io::ErrorKind::InvalidInput`]: the owner of unix sockets is unknown on this
    /// machine.
    pub(crate) fn bind(&self, options: &ListenOptions) -> io::Result<Bound> {
        let bound = self.bind_alone(options)?;
        bound.listen(options.backlog)?;
        Ok(bound)
    }

    /// Binds the address. A TCP socket does not listen yet, so it gets no connection.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub(crate) fn bind_alone(&self, options: &ListenOptions) -> io::Result<Bound> {
        match self {
            Self::Tcp(addr) => Ok(Bound::Tcp(bind_tcp(*addr, options)?)),
            Self::Unix(path) => {
                let (listener, file) = socket_file::bind(path, options)?;
                Ok(Bound::Unix(listener, file))
            }
        }
    }

    /// Binds a TCP address without listening, so that it stays this user's while the processes that share it come and
    /// go. Returns the port too.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); a unix socket cannot be shared.
    pub(crate) fn hold(&self) -> io::Result<(Socket, u16)> {
        let Self::Tcp(addr) = self else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let options = ListenOptions {
            reuse_port: true,
            ..ListenOptions::default()
        };
        let socket = bound_tcp(*addr, &options)?;
        let addr = socket.local_addr()?.as_socket();
        // A socket of TCP always has a port.
        Ok((socket, addr.map_or(0, |addr| addr.port())))
    }

    /// Checks everything that can be checked before a bind.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: the owner of unix sockets is unknown on this machine.
    pub(crate) fn check(&self, options: &ListenOptions) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Unix(_) => options.unix_owner.ids().map(drop),
        }
    }

    /// Returns the addresses at which a program on this machine reaches the listener: loopback for an unspecified
    /// address.
    pub fn to_connect(&self) -> Vec<Self> {
        let Self::Tcp(addr) = self else {
            return vec![self.clone()];
        };
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let ips: Vec<IpAddr> = match addr.ip() {
            ip if !ip.is_unspecified() => vec![ip],
            IpAddr::V4(_) => vec![v4],
            // `[::]` includes IPv4 on systems that map IPv4 addresses.
            IpAddr::V6(_) => vec![v6, v4],
        };
        let with_port = |ip| Self::Tcp(SocketAddr::new(ip, addr.port()));
        ips.into_iter().map(with_port).collect()
    }

    /// Returns `[::1]` with the port of `127.0.0.1` if that is free, because many machines connect to `[::1]` for
    /// `localhost`.
    pub fn other_loopback(&self) -> Option<Self> {
        match self {
            Self::Tcp(addr) if addr.ip() == Ipv4Addr::LOCALHOST && addr.port() != 0 => {
                let other = Self::Tcp((Ipv6Addr::LOCALHOST, addr.port()).into());
                other.bind(&ListenOptions::default()).ok().map(|_| other)
            }
            _ => None,
        }
    }

    /// Makes a blocking connection to the listener on this address.
    ///
    /// # Errors
    /// There is no listener, or the connection took longer than `timeout`.
    pub fn connect(&self, timeout: Duration) -> io::Result<Socket> {
        let addr = match self {
            Self::Tcp(addr) => SockAddr::from(*addr),
            Self::Unix(path) => SockAddr::unix(path)?,
        };
        let socket = Socket::new(addr.domain(), Type::STREAM, None)?;
        socket.connect_timeout(&addr, timeout)?;
        Ok(socket)
    }

    /// Whether a client's connection to an address could reach either listener: never true for a free port (0).
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (Self::Tcp(one), Self::Tcp(other)) = (self, other) else {
            return self == other;
        };
        // `[::]` includes every address of IPv4.
        let covers = |all: &SocketAddr, one: &SocketAddr| {
            all.ip().is_unspecified() && (all.is_ipv6() || one.ip().to_canonical().is_ipv4())
        };
        let is_same = one.ip().to_canonical() == other.ip().to_canonical();
        one.port() == other.port()
            && one.port() != 0
            && (is_same || covers(one, other) || covers(other, one))
    }

    /// Returns the TCP port, or `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(addr) => Some(addr.port()),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

/// Written as in the settings: `unix:` and the path.
impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bound {
    /// Has the kernel take connections; a unix socket does so since it was bound.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn listen(&self, backlog: i32) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).listen(backlog),
            Self::Unix(..) => Ok(()),
        }
    }

    /// Returns the address of the listener, with the actual port.
    ///
    /// # Errors
    /// The socket has no address; this cannot happen to a bound socket.
    pub(crate) fn local_addr(&self) -> io::Result<ListenAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddr::Tcp),
            Self::Unix(_, file) => Ok(ListenAddr::Unix(file.path().to_owned())),
        }
    }
}

fn bind_tcp(addr: SocketAddr, options: &ListenOptions) -> io::Result<std::net::TcpListener> {
    let socket = bound_tcp(addr, options)?;
    set_options(&socket, options);
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Returns a bound socket that does not listen yet. A socket of IPv6 also gets clients of IPv4 if the address is
/// `[::]`.
fn bound_tcp(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let tcp = |domain| Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
    let (socket, addr) = socket_for(addr, tcp)?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Sets the options for accepted sockets. On Linux these inherit the TCP options of the listening socket, so no
/// connection needs a system call. Systems that imitate Linux lack some options, and clients can be served without.
fn set_options(socket: &Socket, options: &ListenOptions) {
    let warn = |option, set: io::Result<()>| {
        if let Err(error) = set {
            tracing::warn!(option, %error, "the system lacks an option of TCP; going on without");
        }
    };
    warn("TCP_NODELAY", socket.set_tcp_nodelay(true));
    #[cfg(target_os = "linux")]
    {
        let lowat_bytes = options.notsent_lowat_bytes;
        if lowat_bytes > 0 {
            // Without this option, slow clients only get older data.
            warn(
                "TCP_NOTSENT_LOWAT",
                socket.set_tcp_notsent_lowat(lowat_bytes),
            );
        }
        if options.user_timeout_ms > 0 {
            let timeout = Duration::from_millis(u64::from(options.user_timeout_ms));
            warn(
                "TCP_USER_TIMEOUT",
                socket.set_tcp_user_timeout(Some(timeout)),
            );
        }
    }
    #[cfg(not(target_os = "linux"))]
    // Its options are those of Linux alone.
    let _ = options;
}

/// Opens a socket for `addr`. On a system without IPv6, `[::]` becomes all IPv4 addresses.
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

    #[test]
    fn addresses_overlap_where_one_client_could_mean_both() {
        let addr = |text: &str| match text.strip_prefix("unix:") {
            Some(path) => ListenAddr::Unix(path.into()),
            None => ListenAddr::Tcp(text.parse().expect("an address")),
        };
        for (one, other, overlap) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "10.0.0.1:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("0.0.0.0:80", "[::ffff:10.0.0.1]:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("[::]:80", "10.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("unix:/run/a", "unix:/run/a", true),
            ("unix:/run/a", "[::]:80", false),
        ] {
            let (one, other) = (addr(one), addr(other));
            assert_eq!(one.overlaps(&other), overlap, "{one} {other}");
            assert_eq!(other.overlaps(&one), overlap, "{other} {one}");
        }
    }

    #[test]
    fn an_address_for_all_is_reached_over_loopback() {
        let reached = |addr: &str| {
            let addr = ListenAddr::Tcp(addr.parse().unwrap());
            let all: Vec<_> = addr.to_connect().iter().map(ToString::to_string).collect();
            all.join(" ")
        };
        assert_eq!(reached("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reached("10.1.1.1:80"), "10.1.1.1:80");
        assert_eq!(reached("[::]:80"), "[::1]:80 127.0.0.1:80");
    }

    #[test]
    fn a_port_is_shared_only_by_those_that_all_say_so() {
        let shared = ListenOptions {
            reuse_port: true,
            ..ListenOptions::default()
        };
        let any = ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let first = any.bind(&shared).unwrap();
        let addr = first.local_addr().unwrap();
        assert!(addr.bind(&shared).is_ok());
        let error = addr.bind(&ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let alone = any.bind(&ListenOptions::default()).unwrap();
        let error = alone.local_addr().unwrap().bind(&shared).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
