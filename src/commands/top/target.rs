//! The admin address of a process: a URL, or the path of a unix socket.

use std::fmt;

use crate::commands::program::parse_url;
use crate::commands::tail::link::host_of;
use crate::listening::ListenAddr;

/// An admin address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(super) place: Place,
    /// The prefix of the path of every request, without a slash at the end.
    pub(super) base: String,
    /// The value of `Host`.
    pub(super) authority: String,
    shown: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An address of this machine.
    Here(ListenAddr),
    /// A name or address, without the brackets of an IPv6 address.
    Host { host: String, port: u16, tls: bool },
}

impl Target {
    /// The admin address of a process of this machine, from its settings.
    pub(super) fn here(addr: &ListenAddr) -> Self {
        // Loopback replaces an unspecified address.
        let mut loopback = addr.to_connect().into_iter();
        let addr = loopback.next().unwrap_or_else(|| addr.clone());
        Self {
            shown: addr.to_string(),
            authority: host_of(Some(&addr)),
            place: Place::Here(addr),
            base: String::new(),
        }
    }

    /// Parses `http://HOST:PORT[/PATH]`, `https://…`, `HOST:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// The error, without the URL: the URL may contain a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs the path of a socket".to_owned()),
                path => Ok(Self::here(&ListenAddr::Unix(path.into()))),
            };
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("the URL does not begin with http://, https:// or unix:".to_owned()),
        };
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{rest}");
        let (url, host) = parse_url(&url, "--authorization")?;
        let name = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        // People copy the address of the operator's page.
        let base = url
            .path()
            .trim_end_matches('/')
            .trim_end_matches("/operator");
        Ok(Self {
            shown: format!("{}{authority}{base}", if tls { "https://" } else { "" }),
            base: base.to_owned(),
            authority,
            place: Place::Host {
                host,
                port: url.port_or_known_default().unwrap_or(80),
                tls,
            },
        })
    }

    /// Whether the connection is encrypted.
    pub(super) fn wants_tls(&self) -> bool {
        matches!(self.place, Place::Host { tls: true, .. })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_a_person_has_them() {
        for (text, shown, base, authority, tls) in [
            ("http://h:9100", "h:9100", "", "h:9100", false),
            ("h:9100", "h:9100", "", "h:9100", false),
            (
                "127.0.0.1:9100/operator/",
                "127.0.0.1:9100",
                "",
                "127.0.0.1:9100",
                false,
            ),
            ("http://[::1]:9/", "[::1]:9", "", "[::1]:9", false),
            ("HTTPS://h/a/operator?x#y", "https://h/a", "/a", "h", true),
            (
                "unix:/run/a.sock",
                "unix:/run/a.sock",
                "",
                "localhost",
                false,
            ),
        ] {
            let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target.to_string(), shown, "{text}");
            assert_eq!(
                (target.base.as_str(), target.authority.as_str()),
                (base, authority),
                "{text}"
            );
            assert_eq!(target.wants_tls(), tls, "{text}");
        }
        let all = ListenAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0], 9100)));
        assert_eq!(Target::here(&all).to_string(), "127.0.0.1:9100");
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for text in [
            "",
            "ws://secret",
            "http://u:secret@h",
            "http://",
            "http://h:secret",
            "unix:",
        ] {
            let error = Target::parse(text).expect_err(text);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
