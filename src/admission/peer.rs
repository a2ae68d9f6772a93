//! The peer of a connection, and the address of its client.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The far end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket: a program of this machine, whose socket has no address.
    Unix(Option<Credentials>),
    /// The client that a trusted proxy names in a header of the PROXY protocol.
    Proxied(SocketAddr),
}

/// The connecting program on this machine, as the kernel recorded at the connect (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process id, 0 for a process of another namespace.
    pub pid: u32,
    /// The user id of the process.
    pub uid: u32,
}

impl Peer {
    /// Returns the client's address for a connection without a trusted proxy.
    pub fn client(&self) -> ClientAddr {
        match self {
            Self::Tcp(addr) | Self::Proxied(addr) => addr.ip().into(),
            Self::Unix(_) => ClientAddr::Unix,
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) | Self::Proxied(addr) => addr.fmt(f),
            Self::Unix(None) => f.write_str("unix"),
            Self::Unix(Some(Credentials { pid, uid })) => write!(f, "unix:pid={pid},uid={uid}"),
        }
    }
}

/// The address of a client, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// An IP address. An IPv4 address mapped into IPv6 is an IPv4 address here.
    Ip(IpAddr),
    /// A program on the other end of a unix socket, or a client behind a unix socket for which no trusted
    /// proxy gave an address.
    Unix,
}

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip.to_canonical())
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_without_an_address_is_shown_as_the_program_that_it_is() {
        let credentials = Credentials { pid: 812, uid: 33 };
        let local = Peer::Unix(Some(credentials));
        assert_eq!(local.to_string(), "unix:pid=812,uid=33");
        assert_eq!(Peer::Unix(None).to_string(), "unix");
        assert_eq!(local.client().to_string(), "unix");
        let mapped = Peer::from(SocketAddr::new("::ffff:192.0.2.1".parse().unwrap(), 9));
        assert_eq!(mapped.client().to_string(), "192.0.2.1");
    }
}
