//! The URL of a bus.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::fault::Fault;
use crate::launch::BusKind;

/// The address and the login of a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) kind: BusKind,
    pub(super) addr: SocketAddr,
    /// User and password; the user of Redis may be empty.
    pub(super) login: Option<(String, String)>,
}

impl Address {
    /// Parses `nats://[USER:PASSWORD@]HOST[:PORT]` or `redis://…`; a URL without a scheme names NATS. The database of a Redis
    /// URL is ignored: publications have none, and streams are on the Redis that loadtest starts. A [`Fault::Usage`] names an
    /// unreadable URL.
    pub(super) fn parse(url: &str) -> Result<Self, Fault> {
        let unreadable = |why: &str| Fault::Usage(format!("{url}: {why}"));
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let (kind, port) = match scheme {
            "nats" => (BusKind::Nats, 4222),
            "redis" => (BusKind::Redis, 6379),
            _ => return Err(unreadable("neither nats:// nor redis://")),
        };
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        let host = host.split('/').next().unwrap_or_default();
        let with_port = match host.rsplit_once(':') {
            Some((_, digits)) if digits.parse::<u16>().is_ok() => host.to_owned(),
            _ => format!("{host}:{port}"),
        };
        let mut found = with_port
            .to_socket_addrs()
            .map_err(|error| Fault::Bus(format!("{with_port}: {error}")))?;
        let login = login.map(|login| login.split_once(':').unwrap_or((login, "")));
        Ok(Self {
            kind,
            addr: found.next().ok_or_else(|| unreadable("no address"))?,
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url_have_defaults() {
        let of = |url: &str| Address::parse(url).unwrap();
        let addr = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let nats = |port: u16| Address {
            kind: BusKind::Nats,
            addr: addr(port),
            login: None,
        };
        assert_eq!(of("nats://127.0.0.1"), nats(4222));
        assert_eq!(of("127.0.0.1:9"), nats(9));
        let redis = of("redis://me:p@ss@127.0.0.1/3");
        assert_eq!((redis.kind, redis.addr), (BusKind::Redis, addr(6379)));
        assert_eq!(redis.login, Some(("me".into(), "p@ss".into())));
        assert!(matches!(
            Address::parse("tls://127.0.0.1"),
            Err(Fault::Usage(_))
        ));
    }
}
