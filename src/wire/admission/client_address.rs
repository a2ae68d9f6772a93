//! The peer of a connection, and the address of its client, also behind proxies.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::space;

/// The network of an IPv6 client (RFC 6177 §1: a /64 at least).
const V6_PREFIX_BITS: u8 = 64;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientAddr {
    /// An IP address. An IPv4 address mapped into IPv6 is an IPv4 address here.
    Ip(IpAddr),
    /// A peer on a unix socket: a program of this machine, or a client for which no trusted proxy gave an address.
    Unix,
}

impl ClientAddr {
    /// Returns the address under which a client is counted: an IPv4 address whole, an IPv6 address by its first
    /// 64 bits. All clients of unix sockets without an address count as the same address.
    pub fn group(self) -> Self {
        match self {
            Self::Ip(IpAddr::V6(v6)) => {
                let net = Ipv6Net::new_assert(v6, V6_PREFIX_BITS).trunc();
                Self::Ip(IpAddr::V6(net.addr()))
            }
            v4_or_unix => v4_or_unix,
        }
    }

    /// The IP address; `None` for a peer on a unix socket.
    pub const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(ip),
            Self::Unix => None,
        }
    }
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
    /// protocol names is not trusted: the header is from the last proxy. A peer whose header names no client is never
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
    /// entry without an address ends the search. With [`Self::Any`] the client is the right-most entry (settings.md,
    /// `--trusted-proxies`). `lines` returns the lines of a header.
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
    let entries = entries.map(space::trim_bytes);
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
    let (_, value) = pairs.find(|(name, _)| space::trim(name).eq_ignore_ascii_case("for"))?;
    address(space::trim(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(list: &str) -> TrustedProxies {
        TrustedProxies::Networks(list.split(' ').map(|n| n.parse().unwrap()).collect())
    }

    fn at(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 4711)
    }

    /// The client for these lines of `X-Forwarded-For`, or of the header that a line names.
    fn client(trusted: &TrustedProxies, peer: &str, lines: &str) -> String {
        let peer = match peer {
            "unix" => Peer::Unix(None),
            ip => at(ip).into(),
        };
        let of = |name| {
            let lines =
                lines
                    .split_terminator('\n')
                    .map(|line| match line.strip_prefix("Forwarded: ") {
                        Some(line) => ("forwarded", line.as_bytes()),
                        None => ("x-forwarded-for", line.as_bytes()),
                    });
            lines.filter_map(move |(of, line)| (of == name).then_some(line))
        };
        trusted.client(&peer, of).to_string()
    }

    #[test]
    fn networks_are_read_and_shown_without_their_host_bits() {
        let network = |text: &str| text.parse::<Network>().ok().map(|n| n.to_string());
        for (typed, shown) in [
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("10.1.2.3/08", "10.0.0.0/8"),
            ("fd00:1::2/16", "fd00::/16"),
            ("::1", "::1"),
            ("::/0", "::/0"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("::ffff:a01:203", "10.1.2.3"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("unix", "unix"),
        ] {
            assert_eq!(network(typed).as_deref(), Some(shown), "{typed}");
        }
        let bad = "10.0.0|10.0.0.0/33|::/129|10.0.0.0/|/8|a/8|10.0.0.0/-1|10.0.0.0/256|10.0.0.0/8/8|\
            | 10.0.0.0/8|fe80::1%eth0|::ffff:10.0.0.0/8|::ffff:10.0.0.0/95";
        for bad in bad.split('|') {
            assert_eq!(network(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_network_has_its_own_addresses_only() {
        let addr = |ip: &str| Peer::from(at(ip)).client();
        let trusted = proxies("10.0.0.0/8 fd00::/8 192.0.2.1");
        for ip in ["10.255.0.1", "fdff::1", "192.0.2.1", "::ffff:10.0.0.1"] {
            assert!(trusted.trusts(addr(ip)), "{ip}");
        }
        for ip in ["11.0.0.1", "fe00::1", "192.0.2.2", "::a00:1"] {
            assert!(!trusted.trusts(addr(ip)), "{ip}");
        }
        assert!(!trusted.trusts(ClientAddr::Unix));
        let mapped = proxies("::ffff:10.0.0.0/104");
        assert!(mapped.trusts(addr("10.0.0.1")) && mapped.trusts(addr("::ffff:10.0.0.1")));
    }

    #[test]
    fn the_client_is_the_right_most_that_is_no_proxy_of_ours() {
        let trusted = proxies("10.0.0.0/8");
        for lines in [
            "198.51.100.7",
            // The client may write anything left of the proxy's entry.
            "203.0.113.1, 198.51.100.7",
            "198.51.100.7, 10.0.0.2,10.0.0.3",
            "203.0.113.1\n198.51.100.7",
            "198.51.100.7:4711",
            "::ffff:198.51.100.7",
            "\"198.51.100.7:4711\"",
            "198.51.100.7, ",
            "198.51.100.7,,10.0.0.2,",
            "198.51.100.7\n\n",
            "Forwarded: for=198.51.100.7",
            "Forwarded: for=198.51.100.7\nForwarded: for=10.0.0.2;host=\"a",
            "Forwarded: for=\"x, for=198.51.100.7",
            "Forwarded: for=203.0.113.1, for=198.51.100.7;host=\"a,b\"",
            "Forwarded: host=\"a;for=203.0.113.1\";for=198.51.100.7",
            r#"Forwarded: host="a\";for=203.0.113.1, for=203.0.113.2";for=198.51.100.7"#,
            "\"203.0.113.1, 198.51.100.7",
            "203.0.113.1\", 198.51.100.7",
            "Forwarded: for=203.0.113.1\n198.51.100.7",
        ] {
            let client = client(&trusted, "10.0.0.1", lines);
            assert_eq!(client, "198.51.100.7", "{lines:?}");
        }
        for (lines, expected) in [
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("10.0.0.9", "10.0.0.9"),
            ("198.51.100.7, unknown, 10.0.0.2", "10.0.0.2"),
            ("_hidden", "10.0.0.1"),
            ("\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("\"2001:db8::7\"", "2001:db8::7"),
            ("2001:db8::7%eth0", "2001:db8::7"),
            ("[2001:db8::7%25eth0]:4711", "2001:db8::7"),
            (
                "Forwarded: for=203.0.113.1, proto=https;For=\"[2001:db8::7]:4711\";by=_x",
                "2001:db8::7",
            ),
            ("Forwarded: for=unknown", "10.0.0.1"),
            ("Forwarded: proto=https", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(client(&trusted, "10.0.0.1", lines), expected, "{lines:?}");
        }
        // Bytes of the client that are not a text hide nothing of the proxy's entry.
        let peer = at("10.0.0.1").into();
        let lines = [&b"203.0.113.1, \xff, 198.51.100.7"[..], b"\xff,10.0.0.2"];
        for (lines, expected) in [(&lines[..1], "198.51.100.7"), (&lines, "10.0.0.2")] {
            let is_read = |name| name == "x-forwarded-for";
            let of = |name| lines.iter().copied().filter(move |_| is_read(name));
            let client = trusted.client(&peer, of);
            assert_eq!(client.to_string(), expected, "{lines:?}");
        }
        let stranger = client(&trusted, "192.0.2.9", "198.51.100.7");
        assert_eq!(stranger, "192.0.2.9", "nobody asked this one");
        assert_eq!(client(&TrustedProxies::None, "::1", "192.0.2.1"), "::1");
        // The client may have written the rest itself.
        let lines = "203.0.113.1, 10.0.0.2";
        let any = client(&TrustedProxies::Any, "192.0.2.9", lines);
        assert_eq!(any, "10.0.0.2");
    }

    #[test]
    fn behind_a_header_of_a_proxy_only_a_listed_proxy_is_believed() {
        let says = ["203.0.113.1"];
        let client = |trusted: &TrustedProxies, ip: &str| {
            let peer = Peer::Proxied(at(ip));
            let of = |_| says.iter().map(|line: &&str| line.as_bytes());
            let client = trusted.client(&peer, of);
            (client.to_string(), trusted.trusts_peer(&peer))
        };
        let listed = proxies("10.0.0.0/8");
        assert_eq!(client(&listed, "10.0.0.1"), ("203.0.113.1".into(), true));
        assert_eq!(client(&listed, "192.0.2.9"), ("192.0.2.9".into(), false));
        let any = client(&TrustedProxies::Any, "192.0.2.9");
        assert_eq!(any, ("192.0.2.9".into(), false));
        let balancer = at("10.0.0.1").into();
        for (peer, shown) in [(balancer, "10.0.0.1"), (Peer::Unix(None), "unix")] {
            let unnamed = peer.behind_header(None);
            for trusted in [&listed, &proxies("unix"), &TrustedProxies::Any] {
                let of = |_| says.iter().map(|line| line.as_bytes());
                assert_eq!(trusted.client(&unnamed, of).to_string(), shown);
            }
        }
    }

    #[test]
    fn a_client_that_a_list_ends_with_is_known_in_every_spelling() {
        let is_last = |ip: &str, lines: &[&str]| {
            let peer = Peer::Unix(None).behind_header(Some(at(ip)));
            peer.is_last_of(lines.iter().map(|line| line.as_bytes()))
        };
        assert!(is_last("192.0.2.1", &["198.51.100.7, 192.0.2.1:80, "]));
        assert!(is_last("::ffff:192.0.2.1", &["198.51.100.7", "192.0.2.1"]));
        assert!(is_last("2001:db8::7", &["\"[2001:DB8:0::7]:1\""]));
        assert!(!is_last("192.0.2.1", &["192.0.2.1, 198.51.100.7"]));
        assert!(!is_last("192.0.2.1", &["192.0.2.1, unknown"]) && !is_last("192.0.2.1", &[]));
        assert!(!Peer::Tcp(at("192.0.2.1")).is_last_of([&b"192.0.2.1"[..]].into_iter()));
    }

    #[test]
    fn a_proxy_behind_a_unix_socket_is_believed_where_that_is_said() {
        let says = "203.0.113.1, 198.51.100.7";
        for (trusted, expected) in [
            (proxies("unix"), "198.51.100.7"),
            (proxies("unix 198.51.100.0/24"), "203.0.113.1"),
            (proxies("0.0.0.0/0 ::/0"), "unix"),
            (TrustedProxies::Any, "198.51.100.7"),
            (TrustedProxies::None, "unix"),
        ] {
            assert_eq!(client(&trusted, "unix", says), expected, "{trusted:?}");
        }
        assert_eq!(client(&proxies("unix"), "unix", ""), "unix");
        assert_eq!(client(&proxies("unix"), "192.0.2.9", says), "192.0.2.9");
    }

    #[test]
    fn a_peer_without_an_address_is_shown_as_the_program_that_it_is() {
        let credentials = Credentials { pid: 812, uid: 33 };
        let local = Peer::Unix(Some(credentials));
        assert_eq!(local.to_string(), "unix:pid=812,uid=33");
        assert_eq!(Peer::Unix(None).to_string(), "unix");
        assert_eq!(local.client().to_string(), "unix");
        let mapped = Peer::from(at("::ffff:192.0.2.1"));
        assert_eq!(mapped.client().to_string(), "192.0.2.1");
    }
}
