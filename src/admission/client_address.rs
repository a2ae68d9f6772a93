//! The peer of a connection, and the address of its client, also behind proxies.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// The far end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket: a program of this machine, whose socket has no address.
    Unix(Option<Credentials>),
    /// The client that a trusted proxy names in a header of the PROXY protocol.
    Proxied(SocketAddr),
    /// A trusted proxy whose header names no client, as for the proxy's own health check: its address, `None` over
    /// a unix socket. The request may come from anybody.
    Unnamed(Option<SocketAddr>),
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
            Self::Tcp(addr) | Self::Proxied(addr) | Self::Unnamed(Some(addr)) => addr.ip().into(),
            Self::Unix(_) | Self::Unnamed(None) => ClientAddr::Unix,
        }
    }

    /// Returns the peer after a header of the PROXY protocol was read; `client` is the client that the header names.
    pub fn behind_header(self, client: Option<SocketAddr>) -> Self {
        match (client, self) {
            (Some(client), _) => Self::Proxied(client),
            (None, Self::Tcp(addr)) => Self::Unnamed(Some(addr)),
            (None, _) => Self::Unnamed(None),
        }
    }

    /// Whether the list of addresses in `lines` (`X-Forwarded-For`) ends with the client that a header of the PROXY
    /// protocol has named. A proxy that reads HTTP names the client in both places.
    pub fn is_last_of<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) -> bool {
        let Self::Proxied(client) = self else {
            return false;
        };
        let last = entries(lines).pop();
        let last = last.and_then(|entry| address(str::from_utf8(entry).ok()?));
        last.is_some_and(|last| ClientAddr::from(last) == client.ip().into())
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
            Self::Tcp(addr) | Self::Proxied(addr) | Self::Unnamed(Some(addr)) => addr.fmt(f),
            Self::Unix(None) | Self::Unnamed(None) => f.write_str("unix"),
            Self::Unix(Some(Credentials { pid, uid })) => write!(f, "unix:pid={pid},uid={uid}"),
        }
    }
}

/// The address of a client, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// An IP address. An IPv4 address mapped into IPv6 is an IPv4 address here.
    Ip(IpAddr),
    /// A peer on a unix socket: a program of this machine, or a client for which no trusted proxy gave an address.
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

/// A network of trusted proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// An address, or a network in CIDR notation: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`. Bits after the prefix are
    /// zero. A network of mapped IPv4 addresses (`::ffff:10.0.0.0/104`) is kept as the IPv4 network, as in
    /// [`ClientAddr`].
    Ip(IpNet),
    /// The peers on unix sockets: `unix`.
    Unix,
}

/// The prefix of IPv4 addresses mapped into IPv6 (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// The error for a text that is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no IP address, no network such as 10.0.0.0/8, and not unix")]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let (ip, prefix_bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits.parse().map_err(|_| NoNetwork)?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| NoNetwork)?;
        let net = match prefix_bits {
            Some(bits) => IpNet::new(ip, bits).map_err(|_| NoNetwork)?,
            None => IpNet::from(ip),
        };
        let mapped = match ip {
            IpAddr::V6(ip) => ip.to_ipv4_mapped(),
            IpAddr::V4(_) => None,
        };
        let net = match mapped {
            // A shorter prefix was meant for the IPv4 address, and would match no client.
            Some(ip) => {
                let bits = net.prefix_len().checked_sub(MAPPED_BITS).ok_or(NoNetwork)?;
                Ipv4Net::new(ip, bits).map_err(|_| NoNetwork)?.into()
            }
            None => net,
        };
        Ok(Self::Ip(net.trunc()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Ip(net) => net.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The proxies that weirgate trusts to name the addresses of their clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TrustedProxies {
    /// No proxy is trusted: the client is the peer of the connection.
    #[default]
    None,
    /// Every peer is trusted: for a port that only the proxy can reach.
    Any,
    /// Proxies in these networks are trusted.
    Networks(Vec<Network>),
}

impl TrustedProxies {
    /// Whether the far end of a connection is a trusted proxy. With [`Self::Any`], a client that a header of the PROXY
    /// protocol names is not trusted: the header came from the last proxy. A peer whose header names no client is never
    /// trusted.
    pub fn trusts_peer(&self, peer: &Peer) -> bool {
        match (self, peer) {
            (_, Peer::Unnamed(_)) => false,
            (Self::Any, Peer::Proxied(_)) => false,
            _ => self.trusts(peer.client()),
        }
    }

    /// Whether the address is one of a trusted proxy.
    pub fn trusts(&self, peer: ClientAddr) -> bool {
        match self {
            Self::None => false,
            Self::Any => true,
            Self::Networks(networks) => networks.iter().any(|network| match (network, peer) {
                (Network::Ip(net), ClientAddr::Ip(ip)) => net.contains(&ip),
                (Network::Unix, ClientAddr::Unix) => true,
                _ => false,
            }),
        }
    }

    /// Returns the client's address: the peer's address, or behind trusted proxies the right-most address of
    /// `X-Forwarded-For` outside the trusted networks, or of `Forwarded` (RFC 7239) in a request without
    /// `X-Forwarded-For`. The client may have forged the entries further left. Empty entries are skipped; any other
    /// entry without an address ends the search. With [`Self::Any`] the client is the right-most entry (contract
    /// events, row "The call"). `lines` returns the lines of a header.
    pub fn client<'a, I: Iterator<Item = &'a [u8]>>(
        &self,
        peer: &Peer,
        lines: impl Fn(&'static str) -> I,
    ) -> ClientAddr {
        let mut client = peer.client();
        if !self.trusts_peer(peer) {
            return client;
        }
        let read = [("x-forwarded-for", address as Read), ("forwarded", element)]
            .map(|(name, read)| (read, entries(lines(name))))
            .into_iter()
            .find(|(_, entries)| !entries.is_empty());
        let Some((read, entries)) = read else {
            return client;
        };
        for entry in entries.into_iter().rev() {
            if !self.trusts(client) {
                break;
            }
            match str::from_utf8(entry).ok().and_then(read) {
                Some(before) => client = before.into(),
                None => break,
            }
            // If every peer is trusted, only the last proxy is known to be a proxy: its entry counts, and
            // anyone may have written the entries further left.
            if *self == Self::Any {
                break;
            }
        }
        client
    }
}

type Read = fn(&str) -> Option<IpAddr>;

/// The entries of a list over all its lines, without empty entries. An entry that is not text does not affect the
/// others.
fn entries<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    let entries = lines.flat_map(|line| pieces(line, b','));
    let entries = entries.map(<[u8]>::trim_ascii);
    entries.filter(|entry| !entry.is_empty()).collect()
}

/// The pieces of a list between separators outside of quotes (RFC 9110 §5.6.4). Quotes are paired from the end,
/// where the nearest proxy has written, and a quote without a partner is an ordinary byte. Otherwise a client could
/// open a quotation further left and hide the rest.
fn pieces(list: &[u8], separator: u8) -> Vec<&[u8]> {
    let is_quote = |at: &usize| {
        let before = list[..*at].iter().rev();
        list[*at] == b'"' && before.take_while(|byte| **byte == b'\\').count() % 2 == 0
    };
    let mut quotes: Vec<usize> = (0..list.len()).filter(is_quote).collect();
    if quotes.len() % 2 == 1 {
        quotes.remove(0);
    }
    let is_quoted = |at: usize| quotes.partition_point(|quote| *quote < at) % 2 == 1;
    let is_separator = |at: &usize| list[*at] == separator && !is_quoted(*at);
    let mut from = 0;
    let mut found = Vec::new();
    for at in (0..list.len()).filter(is_separator).chain([list.len()]) {
        found.push(&list[from..at]);
        from = at + 1;
    }
    found
}

/// Reads an entry of `X-Forwarded-For`. Some proxies add the port, quotes, or the zone of a link-local address.
fn address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim_matches('"');
    let host = match entry.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => entry,
    };
    let host = host.split('%').next()?;
    let with_port = || host.rsplit_once(':')?.0.parse::<Ipv4Addr>().ok();
    host.parse().ok().or_else(|| with_port().map(IpAddr::V4))
}

/// Reads an element of `Forwarded` (RFC 7239 §4).
fn element(element: &str) -> Option<IpAddr> {
    let pairs = pieces(element.as_bytes(), b';').into_iter();
    let mut pairs = pairs.filter_map(|pair| str::from_utf8(pair).ok()?.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim())
}

#[cfg(test)]
mod tests;
