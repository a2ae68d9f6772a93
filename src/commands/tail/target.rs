//! The target of `weirgate tail`: a gateway of this machine by its name, or a URL.

use std::fmt;

use crate::commands::program::parse_url;
use crate::listening::ListenAddr;

/// The target of a connection. Shown without the query, because the query may contain a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The server.
    pub(super) place: Place,
    /// Whether the connection uses TLS.
    pub(super) tls: bool,
    /// The URL of the request.
    pub(super) url: String,
    shown: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The listen addresses of a gateway of this machine; the first with a connection counts.
    Here(Vec<ListenAddr>),
    /// A name or address, without the brackets of an IPv6 address.
    Host { host: String, port: u16 },
}

impl Target {
    /// A gateway of this machine that listens on `listen`.
    pub fn here(listen: &[ListenAddr], path: &str) -> Self {
        let addrs: Vec<_> = listen.iter().flat_map(ListenAddr::to_connect).collect();
        let host = match addrs.first() {
            Some(ListenAddr::Tcp(addr)) => addr.to_string(),
            _ => "localhost".to_owned(),
        };
        let shown = match addrs.first() {
            Some(unix @ ListenAddr::Unix(_)) => format!("{unix} ({path})"),
            _ => format!("ws://{host}{path}"),
        };
        Self {
            place: Place::Here(addrs),
            tls: false,
            url: format!("ws://{host}{path}"),
            shown,
        }
    }

    /// A URL: `ws://`, `wss://`, `http://`, `https://`, or without a scheme.
    ///
    /// # Errors
    /// The error, without the URL: the URL may contain a token.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("ws", text));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            "nats" | "redis" | "rediss" | "tls" => {
                return Err(
                    "the URL is that of a broker; tail connects to a gateway, for example \
                    ws://HOST:8000/ws"
                        .to_owned(),
                );
            }
            _ => return Err("the URL does not begin with ws:// or wss://".to_owned()),
        };
        let scheme = if tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{rest}");
        let (mut url, host) = parse_url(&url, "--token")?;
        url.set_fragment(None);
        let port = url.port_or_known_default().unwrap_or(80);
        let place = Place::Host { host, port };
        let shown = url.as_str().split('?').next().unwrap_or_default();
        Ok(Self {
            place,
            tls,
            shown: shown.to_owned(),
            url: url.into(),
        })
    }

    /// The required name in the certificate of the server.
    pub(super) fn tls_name(&self) -> &str {
        match &self.place {
            Place::Host { host, .. } => host,
            Place::Here(_) => "localhost",
        }
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
    fn urls_are_read_and_their_query_is_not_shown() {
        for (text, url, shown, port, tls) in [
            ("ws://h", "ws://h/", "ws://h/", 80, false),
            ("h:8080", "ws://h:8080/", "ws://h:8080/", 8080, false),
            ("wss://h/ws", "wss://h/ws", "wss://h/ws", 443, true),
            ("https://h:1/", "wss://h:1/", "wss://h:1/", 1, true),
            ("http://h/a#b", "ws://h/a", "ws://h/a", 80, false),
            ("ws://[::1]:9", "ws://[::1]:9/", "ws://[::1]:9/", 9, false),
            (
                "ws://h/ws?token=s",
                "ws://h/ws?token=s",
                "ws://h/ws",
                80,
                false,
            ),
        ] {
            let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((target.url.as_str(), target.tls), (url, tls), "{text}");
            assert_eq!(target.to_string(), shown);
            let Place::Host { host, port: got } = target.place else {
                panic!("{text}");
            };
            assert_eq!(got, port);
            assert!(!host.contains('['), "{host}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_repeated() {
        for text in [
            "",
            "ftp://secret",
            "nats://secret:4222",
            "ws://u:secret@h",
            "ws://",
            "ws://h:secret",
        ] {
            let error = Target::parse(text).expect_err(text);
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_gateway_of_this_machine_is_reached_over_loopback() {
        let all = ListenAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0], 8080)));
        let target = Target::here(&[all], "/ws");
        assert_eq!(target.to_string(), "ws://127.0.0.1:8080/ws");
        let unix = Target::here(&[ListenAddr::Unix("/run/a.sock".into())], "/ws");
        assert_eq!(unix.to_string(), "unix:/run/a.sock (/ws)");
        assert_eq!(unix.url, "ws://localhost/ws");
    }
}
