//! Where a service is.

use std::fmt;

use hyper::header::HeaderValue;
use url::Url;

/// A service behind the gateway, by its base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    tls: bool,
    /// Name or address, an IPv6 one without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What `Host` says: the port only where it is not the scheme's own.
    authority: HeaderValue,
    /// The path that every request begins with; without a slash at its end.
    base_path: String,
}

impl Upstream {
    /// What `Host` says: the port only where it is not the scheme's own.
    pub(in crate::http) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// The path that every request begins with; without a slash at its end.
    pub(in crate::http) fn base_path(&self) -> &str {
        &self.base_path
    }

    /// It is at `https://`.
    pub fn wants_tls(&self) -> bool {
        self.tls
    }

    /// Reads `http://HOST:PORT/PATH` or `https://…`; trailing slashes are dropped. `None` for
    /// anything else: another scheme, a user, a query, a fragment.
    pub fn parse(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let shown = url.host_str().filter(|host| !host.is_empty() && is_plain)?;
        let authority = match url.port() {
            Some(port) => format!("{shown}:{port}"),
            None => shown.to_owned(),
        };
        Some(Self {
            tls,
            host: shown.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().filter(|&port| port != 0)?,
            authority: HeaderValue::try_from(authority).ok()?,
            base_path: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let authority = self.authority.to_str().unwrap_or_default();
        write!(f, "{scheme}://{authority}{}", self.base_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_is_kept_and_slashes_at_the_end_are_not() {
        for (url, tls, host, port, authority, base) in [
            ("http://lobby:8000", false, "lobby", 8000, "lobby:8000", ""),
            ("http://lobby:8000/", false, "lobby", 8000, "lobby:8000", ""),
            ("http://lobby", false, "lobby", 80, "lobby", ""),
            (
                "HTTPS://Lobby:443/a/b//",
                true,
                "lobby",
                443,
                "lobby",
                "/a/b",
            ),
            ("http://[::1]:9/x", false, "::1", 9, "[::1]:9", "/x"),
        ] {
            let upstream = Upstream::parse(url).expect(url);
            assert_eq!(upstream.tls, tls, "{url}");
            assert_eq!(upstream.host, host, "{url}");
            assert_eq!(upstream.port, port, "{url}");
            assert_eq!(upstream.authority, authority, "{url}");
            assert_eq!(upstream.base_path, base, "{url}");
            assert_eq!(Upstream::parse(&upstream.to_string()), Some(upstream));
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for url in [
            "",
            "lobby:8000",
            "lobby",
            "ftp://lobby",
            "http://",
            "http://u:p@lobby",
            "http://lobby?x",
            "http://lobby#x",
            "http://lobby:0",
            "http://lobby:99999",
        ] {
            assert_eq!(Upstream::parse(url), None, "{url}");
        }
    }
}
