//! Where a process listens: addresses, and the sockets that listen there.
//!
//! Binds and connects, never accepts: the event loop accepts its clients, the HTTP side those of the
//! admin address, each in its own way. Knows no setting but by value.

mod owner;
mod socket_file;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub use self::owner::Owner;
pub use self::socket_file::SocketFile;

/// The longest path of a unix socket, bytes: what `sockaddr_un` holds, less the NUL behind it
/// (unix(7)).
pub const PATH_BYTES_MAX: usize = 107;

/// Where a process listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP port; 0 takes a free one.
    Tcp(SocketAddr),
    /// A unix socket at this path.
    Unix(PathBuf),
}

/// How a process listens.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections that may wait in the kernel until they are accepted.
    pub backlog: i32,
    /// Unsent bytes above which the kernel takes no more from who writes to an accepted TCP socket:
    /// what it holds cannot be conflated. 0: its default.
    pub notsent_lowat_bytes: u32,
    /// How long a peer of an accepted TCP socket may acknowledge nothing until the kernel ends the
    /// connection: nobody else notices a machine that has gone without a word. 0: the kernel's default.
    pub user_timeout_ms: u32,
    /// Other processes of this user may listen on the same TCP port, and the kernel spreads new
    /// connections over all of them.
    pub reuse_port: bool,
    /// The mode of unix sockets: who may write may connect.
    pub unix_mode: u32,
    /// The owner of unix sockets.
    pub unix_owner: Owner,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            notsent_lowat_bytes: 0,
            user_timeout_ms: 0,
            reuse_port: false,
            unix_mode: 0o660,
            unix_owner: Owner::default(),
        }
    }
}

/// A socket that listens, nonblocking.
#[derive(Debug)]
pub enum Bound {
    /// On a TCP port.
    Tcp(std::net::TcpListener),
    /// At a path; the file goes with its second part, before the socket.
    Unix(UnixListener, SocketFile),
}

impl ListenAddr {
    /// Listens there.
    ///
    /// # Errors
    /// The address is taken or is none of this machine's; a path cannot be bound, or is taken by
    /// a file that is no socket. [`io::ErrorKind::InvalidInput`]: the owner of unix sockets is
    /// unknown here.
    pub fn bind(&self, options: &ListenOptions) -> io::Result<Bound> {
        match self {
            Self::Tcp(addr) => Ok(Bound::Tcp(bind_tcp(*addr, options)?)),
            Self::Unix(path) => {
                let (listener, file) = socket_file::bind(path, options)?;
                Ok(Bound::Unix(listener, file))
            }
        }
    }

    /// Looks at what can be known before a bind.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: the owner of unix sockets is unknown here.
    pub fn check(&self, options: &ListenOptions) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Unix(_) => options.unix_owner.ids().map(drop),
        }
    }

    /// Where a program of this machine reaches who listens there: an address that stands for all
    /// is reached over loopback.
    pub fn to_connect(&self) -> Vec<Self> {
        let Self::Tcp(addr) = self else {
            return vec![self.clone()];
        };
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let ips: Vec<IpAddr> = match addr.ip() {
            ip if !ip.is_unspecified() => vec![ip],
            IpAddr::V4(_) => vec![v4],
            // `[::]` takes IPv4 too, where the system maps it.
            IpAddr::V6(_) => vec![v6, v4],
        };
        let with_port = |ip| Self::Tcp(SocketAddr::new(ip, addr.port()));
        ips.into_iter().map(with_port).collect()
    }

    /// A blocking connection to whoever listens there.
    ///
    /// # Errors
    /// Nobody listens, or the connection was not there within `timeout`.
    pub fn connect(&self, timeout: Duration) -> io::Result<Socket> {
        let addr = match self {
            Self::Tcp(addr) => SockAddr::from(*addr),
            Self::Unix(path) => SockAddr::unix(path)?,
        };
        let socket = Socket::new(addr.domain(), Type::STREAM, None)?;
        socket.connect_timeout(&addr, timeout)?;
        Ok(socket)
    }

    /// The TCP port, if it is one.
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

/// As the settings have it: `unix:` and the path.
impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bound {
    /// Where it listens: with the port that it has taken.
    ///
    /// # Errors
    /// The socket has no address, which a bound one always has.
    pub fn local_addr(&self) -> io::Result<ListenAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddr::Tcp),
            Self::Unix(_, file) => Ok(ListenAddr::Unix(file.path().to_owned())),
        }
    }
}

fn bind_tcp(addr: SocketAddr, options: &ListenOptions) -> io::Result<std::net::TcpListener> {
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
    set_options(&socket, options)?;
    socket.listen(options.backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Sets what every accepted socket is to have. On Linux a listening socket hands its TCP options on
/// to the sockets that it accepts, so no connection pays for them.
fn set_options(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        if options.notsent_lowat_bytes > 0 {
            // A kernel without the option only makes slow clients less fresh.
            let _ = socket.set_tcp_notsent_lowat(options.notsent_lowat_bytes);
        }
        if options.user_timeout_ms > 0 {
            let timeout = Duration::from_millis(u64::from(options.user_timeout_ms));
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = options;
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
