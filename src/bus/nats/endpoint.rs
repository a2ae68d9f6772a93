//! A server: its URL, its addresses, and the other servers that it announces. Also hides the passwords of URLs.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use super::error::NatsError;
use super::login::{Credentials, Info};
use super::settings::NatsSettings;

/// The port of a NATS URL without a port.
const DEFAULT_PORT: u16 = 4222;

/// The limit on servers remembered beside the servers of the URL.
const LEARNED_MAX: usize = 16;

/// The address of a server, and the log-in there. Without `Debug`, because of the password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// One of the addresses of the host: the server to connect to. `None` until the name is looked up.
    pub(super) address: Option<SocketAddr>,
    /// The log-in in the URL, or none.
    pub(super) auth: Credentials,
    /// The name required in the server's certificate: the host of a URL of the settings.
    pub(super) tls_name: String,
}

impl Endpoint {
    /// Whether to speak TLS with the server of this first line.
    pub(super) fn is_tls(&self, settings: &NatsSettings, info: &Info) -> bool {
        self.tls || settings.tls.is_demanded() || info.tls_required
    }

    /// Reads a URL `nats://[USER[:PASSWORD]@]HOST[:PORT]`, also with `tls://` or without a scheme.
    ///
    /// # Errors
    /// Another scheme, no host, or what [`host_and_port`] does not read.
    pub(super) fn parse(url: &str) -> Result<Self, NatsError> {
        let bad = |reason| NatsError::BadUrl {
            url: redacted(url),
            reason,
        };
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let tls = match &scheme.to_ascii_lowercase()[..] {
            "nats" => false,
            "tls" => true,
            "ws" | "wss" => return Err(bad("NATS over WebSocket is not supported")),
            _ => return Err(bad("the scheme is neither nats nor tls")),
        };
        let (user_info, place) = match rest.rsplit_once('@') {
            Some((user_info, place)) => (Some(user_info), place),
            None => (None, rest),
        };
        let place = place.split(['/', '?', '#']).next().unwrap_or_default();
        let not_read = || bad("the address is not HOST:PORT, or the port is not a number");
        let (host, port) = host_and_port(place).ok_or_else(not_read)?;
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            address: None,
            auth: user_info.map_or(Credentials::None, Credentials::parse),
            tls_name: host.to_owned(),
        })
    }

    /// Another server of the same cluster: `address` (host and port) is announced by a server. The log-in is the same
    /// as for this endpoint; `tls` says whether TLS is used. With TLS, the server must show a certificate for the name
    /// of this endpoint, not for `address`: servers announce addresses before TLS, so an attacker on the path can
    /// insert the name of a server with the attacker's certificate. `None`: `address` cannot be read.
    pub(super) fn neighbour(&self, address: &str, tls: bool) -> Option<Self> {
        let (host, port) = host_and_port(address).filter(|(host, _)| !host.is_empty())?;
        Some(Self {
            tls,
            host: host.to_owned(),
            port,
            address: None,
            ..self.clone()
        })
    }

    /// The server at each address of the host, in the order of the system. Blocks while the system looks the name up.
    ///
    /// # Errors
    /// The name has no address.
    pub(super) fn servers(&self, settings: &NatsSettings) -> Result<Vec<Self>, NatsError> {
        let unreachable = |source| self.unreachable(settings, source);
        let addresses: Vec<SocketAddr> = match self.address {
            Some(address) => vec![address],
            None => {
                let found = settings.lookup.addresses(&self.host, self.port);
                found.map_err(unreachable)?
            }
        };
        if addresses.is_empty() {
            let none = io::Error::new(ErrorKind::NotFound, "the name has no address");
            return Err(unreachable(none));
        }
        let at = |address| Self {
            address: Some(address),
            ..self.clone()
        };
        Ok(addresses.into_iter().map(at).collect())
    }

    /// The error if nobody answers at this address.
    pub(super) fn unreachable(&self, settings: &NatsSettings, source: io::Error) -> NatsError {
        // The host may have several addresses.
        let source = match self.address {
            Some(at) if at.ip().to_string() != self.host => {
                io::Error::new(source.kind(), format!("{}: {source}", at.ip()))
            }
            _ => source,
        };
        NatsError::Unreachable {
            url: self.url(),
            setting: settings.urls_from.clone(),
            source,
        }
    }

    /// The URL without user, password or token.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        let port = self.port;
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{port}", self.host)
        } else {
            format!("{scheme}://{}:{port}", self.host)
        }
    }
}

/// Adds announced servers to `learned`, newest first, [`LEARNED_MAX`] at most. Servers of the URL are tried before
/// these, and are left out.
pub(super) fn learn(learned: &mut Vec<Endpoint>, reported: Vec<Endpoint>, configured: &[Endpoint]) {
    let before = std::mem::take(learned);
    for endpoint in reported.into_iter().chain(before) {
        let is_known =
            |known: &Endpoint| known.host == endpoint.host && known.port == endpoint.port;
        if learned.len() < LEARNED_MAX
            && !configured.iter().any(is_known)
            && !learned.iter().any(is_known)
        {
            learned.push(endpoint);
        }
    }
}

/// The URLs with every password and token shown as `***`, for banner, logs and `/health`.
///
/// When in doubt, hides: a part without host and port may be half of a password with a comma.
pub(crate) fn redacted(urls: &str) -> String {
    let shown: Vec<String> = urls.split(',').map(redacted_one).collect();
    shown.join(",")
}

/// One URL without its password and its token. If it is not certain what they are, everything behind the scheme is
/// hidden.
fn redacted_one(url: &str) -> String {
    // Text before `://` that is not a scheme may be a password.
    let is_scheme = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
    let (scheme, rest) = match url.find("://") {
        Some(at) if is_scheme(&url[..at]) => url.split_at(at + 3),
        Some(_) => return "***".to_owned(),
        None => ("", url),
    };
    match rest.rsplit_once('@') {
        Some((user_info, place)) => match user_info.split_once(':') {
            Some((user, _)) => format!("{scheme}{user}:***@{place}"),
            None => format!("{scheme}***@{place}"),
        },
        None if host_and_port(rest.split(['/', '?', '#']).next().unwrap_or_default()).is_some() => {
            url.to_owned()
        }
        None => format!("{scheme}***"),
    }
}

/// Reads `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`. Returns host, without brackets, and port. `None` if the port is not
/// a number, a bracket is not closed, or something else follows the bracket.
fn host_and_port(place: &str) -> Option<(&str, u16)> {
    if let Some(v6) = place.strip_prefix('[') {
        let (host, rest) = v6.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None => rest.is_empty().then_some((host, DEFAULT_PORT)),
        };
    }
    match place.split_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((place, DEFAULT_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden() {
        for (url, want) in [
            ("nats://nats:4222", "nats://nats:4222"),
            ("nats", "nats"),
            ("nats://u:p@h:4222", "nats://u:***@h:4222"),
            ("u:p@h", "u:***@h"),
            ("tls://t0ken@h/x", "tls://***@h/x"),
            ("nats://u:p@ss@h", "nats://u:***@h"),
            ("nats://u:p/s@h", "nats://u:***@h"),
            ("nats://u:p@h,nats://b:1", "nats://u:***@h,nats://b:1"),
            ("nats://u:pa,ss@h", "nats://***,***@h"),
            ("nats://[::1]:4222", "nats://[::1]:4222"),
            ("", ""),
        ] {
            assert_eq!(redacted(url), want);
        }
    }

    fn parsed(url: &str) -> (String, Credentials) {
        let endpoint = Endpoint::parse(url).map_err(|e| e.to_string()).unwrap();
        (endpoint.url(), endpoint.auth)
    }

    #[test]
    fn urls_are_read() {
        let pair = |u: &str, p: &str| Credentials::UserPassword(u.into(), p.into());
        for (url, want, auth) in [
            ("nats", "nats://nats:4222", Credentials::None),
            ("nats://h:1/", "nats://h:1", Credentials::None),
            ("tls://[::1]", "tls://[::1]:4222", Credentials::None),
            ("nats://u:p%40^s@h", "nats://h:4222", pair("u", "p@^s")),
            ("nats://u:a%zz%@h", "nats://h:4222", pair("u", "a%zz%")),
            ("nats://u:@h", "nats://h:4222", pair("u", "")),
            (
                "nats://tok@h",
                "nats://h:4222",
                Credentials::Token("tok".into()),
            ),
        ] {
            let got = parsed(url);
            assert!(got == (want.to_owned(), auth), "{url}: {}", got.0);
        }
    }

    #[test]
    fn bad_urls_are_told_without_their_secrets() {
        for url in [
            "http://h",
            "nats://",
            "nats://u:secret@",
            "nats://u:secret@h:x",
            "ws://h",
            "",
        ] {
            let error = Endpoint::parse(url).err().map(|e| e.to_string());
            let error = error.unwrap_or_else(|| panic!("{url} was taken"));
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_url_without_a_port_is_not_blamed_for_its_port_alone() {
        for url in ["nats://[::1", "nats://[::1]x", "nats://h:x"] {
            let error = Endpoint::parse(url).err().map(|e| e.to_string());
            let error = error.unwrap_or_else(|| panic!("{url} was taken"));
            assert!(error.contains("not HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn servers_of_the_cluster_are_remembered_within_a_limit() {
        let configured = Endpoint::parse("nats://u:p@nats.example:4222");
        let configured = configured.map_err(|e| e.to_string()).unwrap();
        let reported = |addresses: &[String]| -> Vec<Endpoint> {
            let one = |address: &String| configured.neighbour(address, true);
            addresses.iter().filter_map(one).collect()
        };
        let mut learned = Vec::new();
        let first = [
            "nats.example:4222",
            "10.0.0.1:4222",
            "[::1]:1",
            "b:2",
            ":3",
            "c:x",
        ];
        learn(
            &mut learned,
            reported(&first.map(str::to_owned)),
            std::slice::from_ref(&configured),
        );
        let urls: Vec<String> = learned.iter().map(Endpoint::url).collect();
        assert_eq!(urls, ["tls://10.0.0.1:4222", "tls://[::1]:1", "tls://b:2"]);
        assert!(learned.iter().all(|e| e.auth == configured.auth));
        let many: Vec<String> = (0..100).map(|n| format!("n{n}:1")).collect();
        learn(&mut learned, reported(&many), &[]);
        assert_eq!(learned.len(), LEARNED_MAX);
        assert_eq!(learned[0].url(), "tls://n0:1");
    }

    #[test]
    fn a_learned_server_has_the_certificate_of_the_configured_one_it_was_learned_through() {
        let parse = |url| Endpoint::parse(url).map_err(|e| e.to_string()).unwrap();
        let configured = [parse("tls://one.example"), parse("tls://u:p@two.example")];
        let [one, two] = &configured;
        let reported = |by: &Endpoint, address| Vec::from_iter(by.neighbour(address, true));
        let mut learned = Vec::new();
        learn(
            &mut learned,
            reported(one, "attacker.example:1"),
            &configured,
        );
        // A learned server announces another server.
        let next = reported(&learned[0], "10.0.0.1:1");
        learn(&mut learned, next, &configured);
        // A configured server keeps its own name, whichever server announces it.
        learn(&mut learned, reported(one, "two.example:4222"), &configured);
        let names = |learned: &[Endpoint]| -> Vec<_> {
            let pair = |e: &Endpoint| (e.host.clone(), e.tls_name.clone());
            learned.iter().map(pair).collect()
        };
        let pair = |host: &str, name: &str| (host.to_owned(), name.to_owned());
        let want = [
            pair("10.0.0.1", "one.example"),
            pair("attacker.example", "one.example"),
        ];
        assert_eq!(names(&learned), want);
        // If two servers announce the same server, name and log-in come from the last announcement.
        learn(
            &mut learned,
            reported(two, "attacker.example:1"),
            &configured,
        );
        assert_eq!(names(&learned)[0], pair("attacker.example", "two.example"));
        assert!(learned[0].auth == two.auth && learned[1].auth == one.auth);
    }
}
