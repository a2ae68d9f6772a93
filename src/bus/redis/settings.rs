//! The settings of a Redis source, and the reading of Redis URLs.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::error::RedisError;
use crate::LinkTimes;
use weirgate_runtime::Lookup;
use weirgate_wire::base::{Secret, is_host, unix_socket_url};

/// The default port of a Redis server.
pub(crate) const REDIS_PORT: u16 = 6379;
/// The default port of a sentinel.
pub(crate) const SENTINEL_PORT: u16 = 26_379;

/// The settings of a [`super::RedisSource`].
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// The server. With sentinels its host and port are not used, because the sentinels name the master.
    pub server: RedisEndpoint,
    /// The URL of `server`, whose login may change; empty without a URL. At each connection the login is read from it.
    pub url: Secret,
    /// The URLs of `sentinels`, separated by commas, for their logins in the same way.
    pub sentinel_urls: Secret,
    /// Sentinels, asked in turn. If empty, `server` is the address.
    pub sentinels: Vec<RedisEndpoint>,
    /// The name under which the sentinels know the master.
    pub master_name: String,
    /// The file of the certificates (PEM) to trust instead of the system's, for `rediss://`.
    pub tls_ca_file: Option<PathBuf>,
    /// The client's own certificate and its key (PEM), for servers that ask for one.
    pub tls_client: Option<(PathBuf, PathBuf)>,
    /// The most bytes of a payload that is kept whole. A larger payload is cut after the first byte over the
    /// limit.
    pub payload_bytes_max: usize,
    /// The time that an address may take to accept a connection, milliseconds.
    pub connect_timeout_ms: u64,
    /// The time that the lookup of a name may take.
    pub lookup: Lookup,
    /// The times of the link to the server.
    pub times: LinkTimes,
    /// Whether the bus counts as away while Redis refuses a wanted name, because the gateway needs all its names. If
    /// false, clients request the names, and a refusal concerns only those clients.
    pub needs_all_names: bool,
}

impl RedisSettings {
    /// Settings for a server; everything else has its default value.
    pub fn new(server: RedisEndpoint) -> Self {
        Self {
            server,
            url: Secret::default(),
            sentinel_urls: Secret::default(),
            sentinels: Vec::new(),
            master_name: String::new(),
            tls_ca_file: None,
            tls_client: None,
            payload_bytes_max: 16 * 1024 * 1024,
            connect_timeout_ms: 1_000,
            lookup: Lookup::default(),
            times: LinkTimes::default(),
            needs_all_names: false,
        }
    }

    /// The server, with its present login.
    pub(super) fn server_now(&self) -> RedisEndpoint {
        let read_again = RedisEndpoint::parse(&self.url.expose());
        self.server.with_login_of(read_again.ok())
    }

    /// A server that was connected to before, with the present login.
    pub(super) fn with_login_now(&self, endpoint: &RedisEndpoint) -> RedisEndpoint {
        endpoint.with_login_of(Some(self.server_now()))
    }

    /// A sentinel, with its present login.
    pub(super) fn sentinel_now(&self, number: usize) -> RedisEndpoint {
        let urls = self.sentinel_urls.expose();
        let read_again = urls
            .split(',')
            .nth(number)
            .map(RedisEndpoint::parse_sentinel);
        self.sentinels[number].with_login_of(read_again.and_then(Result::ok))
    }

    /// Checks that an attacker cannot choose the name that the master's certificate must have: either the settings give
    /// the name, or all sentinels have TLS. The answer of a sentinel without TLS may come from an attacker, who has a
    /// certificate for a name of his own.
    pub(super) fn check_tls_name(&self) -> Result<(), RedisError> {
        // Then the certificate must have the name that a sentinel reports.
        let is_reported = self.server.tls && self.server.tls_name.is_none();
        let mut plain = self.sentinels.iter().filter(|sentinel| !sentinel.tls);
        match plain.next().filter(|_| is_reported) {
            Some(sentinel) => Err(RedisError::PlainSentinel(sentinel.address())),
            None => Ok(()),
        }
    }
}

/// The address of a server, and the user for the log-in. Shown without the password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RedisEndpoint {
    /// Name or address, without the brackets of an IPv6 address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The path of a unix socket, in place of host and port.
    pub socket: Option<String>,
    /// Through TLS (`rediss://`).
    pub tls: bool,
    /// The name that the server's certificate must have; `None`: the host.
    pub tls_name: Option<String>,
    /// The ACL user; none: the user `default`.
    pub username: Option<String>,
    /// The password of the user.
    pub password: Option<String>,
    /// The number of the database. Publications do not depend on it; weirgate selects the database so that an invalid
    /// number is noticed at the start.
    pub database: u32,
}

impl RedisEndpoint {
    /// A server without password or TLS.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            ..Self::default()
        }
    }

    /// This server with the user and password of `read_again`, a newer reading of its URL; unchanged if that reading failed.
    fn with_login_of(&self, read_again: Option<Self>) -> Self {
        match read_again {
            Some(Self {
                username, password, ..
            }) => Self {
                username,
                password,
                ..self.clone()
            },
            None => self.clone(),
        }
    }

    /// Whether this is the scheme of a Redis URL, in upper or lower case.
    pub fn has_scheme(scheme: &str) -> bool {
        let all = ["redis", "rediss", "unix", "redis+unix"];
        all.iter().any(|one| one.eq_ignore_ascii_case(scheme))
    }

    /// Reads `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS, or `unix://[user:password@]/path`
    /// (also `redis+unix://`). User, password and path may be percent-encoded. The query may have `db`, `user` or
    /// `username`, and `pass` or `password`, as redis-py, redis-rs and ioredis read them; other keys are ignored.
    ///
    /// # Errors
    /// [`RedisError::BadUrl`]; the text shows nothing of the URL.
    pub fn parse(url: &str) -> Result<Self, RedisError> {
        Self::parse_with(url.trim(), REDIS_PORT)
    }

    /// Reads the address of a sentinel: `host[:port]`, or a URL as in [`Self::parse`].
    ///
    /// # Errors
    /// [`RedisError::BadUrl`]; the text shows nothing of the address.
    pub fn parse_sentinel(address: &str) -> Result<Self, RedisError> {
        let address = address.trim();
        match address.contains("://") {
            true => Self::parse_with(address, SENTINEL_PORT),
            false => Self::parse_with(&format!("redis://{address}"), SENTINEL_PORT),
        }
    }

    /// Reads a URL. `default_port` is for a URL without a port.
    fn parse_with(url: &str, default_port: u16) -> Result<Self, RedisError> {
        let bad = |why| Err(RedisError::BadUrl(why));
        if !url.contains("://") {
            return bad("it does not begin with redis://, rediss:// or unix://");
        }
        let unix = unix_socket_url(url);
        let socket = unix.as_ref().map(|url| decoded(url.path()));
        let url = unix.map_or_else(|| Url::parse(url), Ok);
        let url = url.map_err(|error| RedisError::BadUrl(words(error)))?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            "unix" if socket.is_some() => false,
            "unix" | "redis+unix" => return bad("it is not unix:///PATH"),
            _ => return bad("the scheme is not redis, rediss or unix"),
        };
        // An @ after the host means that the password has a /, ? or #, at which the parser has ended the host.
        let behind = [Some(url.path()), url.query(), url.fragment()];
        if behind.into_iter().flatten().any(|part| part.contains('@')) {
            return bad("special characters in the password must be percent-encoded");
        }
        let host = host_of(&url)?;
        // The query overrides what comes before it.
        let mut database = match socket {
            Some(_) => String::new(),
            None => url.path().trim_matches('/').to_owned(),
        };
        let mut username = Some(decoded(url.username())).filter(|name| !name.is_empty());
        let mut password = url.password().map(decoded);
        for (key, value) in url.query_pairs() {
            match &*key {
                "db" => database = value.into_owned(),
                "user" | "username" => username = Some(value.into_owned()),
                "pass" | "password" => password = Some(value.into_owned()),
                _ => {}
            }
        }
        let database = match &*database {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| RedisError::BadUrl("the database is not a number"))?,
        };
        Ok(Self {
            host,
            port: url.port().unwrap_or(default_port),
            socket,
            tls,
            tls_name: None,
            username,
            password,
            database,
        })
    }

    /// As [`Self::address`]; if the host is a name, with the IP address in use.
    pub(super) fn address_at(&self, address: SocketAddr) -> String {
        match self.socket.is_some() || address.ip().to_string() == self.host {
            true => self.address(),
            false => format!("{} ({})", self.address(), address.ip()),
        }
    }

    /// Host and port, or the path of the socket, for people and for logs.
    pub fn address(&self) -> String {
        match (&self.socket, self.host.contains(':')) {
            (Some(path), _) => path.escape_debug().to_string(),
            (None, true) => format!("[{}]:{}", self.host, self.port),
            (None, false) => format!("{}:{}", self.host, self.port),
        }
    }

    /// The scheme of the URL.
    pub fn scheme(&self) -> &'static str {
        match (&self.socket, self.tls) {
            (Some(_), _) => "unix",
            (None, true) => "rediss",
            (None, false) => "redis",
        }
    }
}

/// The URL, with the password as `***`.
impl fmt::Display for RedisEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme())?;
        match (&self.username, &self.password) {
            (user, Some(_)) => write!(f, "{}:***@", user.as_deref().unwrap_or_default())?,
            (Some(user), None) => write!(f, "{user}@")?,
            (None, None) => {}
        }
        let database = if self.socket.is_some() { "?db=" } else { "/" };
        write!(f, "{}{database}{}", self.address(), self.database)
    }
}

impl fmt::Debug for RedisEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The error of the URL library, without any part of the URL.
fn words(error: url::ParseError) -> &'static str {
    match error {
        url::ParseError::EmptyHost => "it names no host",
        url::ParseError::InvalidPort => {
            "the port is not a number (special characters in a password must be percent-encoded)"
        }
        url::ParseError::InvalidIpv4Address | url::ParseError::InvalidIpv6Address => {
            "the host is not an address"
        }
        _ => "the host is not a name",
    }
}

/// Returns the host without percent-encoding, and an IPv6 address without brackets.
fn host_of(url: &Url) -> Result<String, RedisError> {
    match url.host() {
        Some(Host::Ipv6(address)) => Ok(address.to_string()),
        Some(Host::Ipv4(address)) => Ok(address.to_string()),
        Some(Host::Domain(name)) if is_host(&decoded(name)) => Ok(decoded(name)),
        Some(Host::Domain(name)) if !name.is_empty() => {
            Err(RedisError::BadUrl("the host is not a name"))
        }
        _ => Err(RedisError::BadUrl("it names no host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> RedisEndpoint {
        RedisEndpoint::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn urls_are_read() {
        for (url, want) in [
            ("redis://redis", "redis://redis:6379/0"),
            ("redis://h:1/", "redis://h:1/0"),
            (" rediss://h/3 ", "rediss://h:6379/3"),
            ("redis://[::1]:7/2?timeout=5", "redis://[::1]:7/2"),
            ("redis://:p@127.0.0.1", "redis://:***@127.0.0.1:6379/0"),
            ("redis://u:p@my-host_1", "redis://u:***@my-host_1:6379/0"),
            ("redis://u@h", "redis://u@h:6379/0"),
            ("REDIS://u:@h", "redis://u@h:6379/0"),
            ("redis://h/2?db=3", "redis://h:6379/3"),
            ("unix:///run/r.sock", "unix:///run/r.sock?db=0"),
            ("unix://u:p@/r.sock?db=2", "unix://u:***@/r.sock?db=2"),
            ("Redis+Unix:///a%20b?x=1", "unix:///a b?db=0"),
            ("unix://:p@/a:b//c", "unix://:***@/a:b//c?db=0"),
        ] {
            assert_eq!(parsed(url).to_string(), want, "{url}");
        }
    }

    #[test]
    fn users_and_passwords_are_decoded() {
        for (url, user, password) in [
            ("redis://:p%40ss%2f@h", None, Some("p@ss/")),
            ("redis://a%3Ab:x@y@h", Some("a:b"), Some("x@y")),
            ("redis://u:%zz+@h", Some("u"), Some("%zz+")),
            ("redis://u:@h", Some("u"), None),
            ("redis://u@h", Some("u"), None),
            ("unix://u:p%40%2F%3F@/s", Some("u"), Some("p@/?")),
            (
                "unix:///s?username=u%40x&password=p%26q",
                Some("u@x"),
                Some("p&q"),
            ),
            ("rediss://h?user=u&pass=p", Some("u"), Some("p")),
            ("redis://a:b@h?password=c", Some("a"), Some("c")),
        ] {
            let endpoint = parsed(url);
            assert_eq!(endpoint.username.as_deref(), user, "{url}");
            assert_eq!(endpoint.password.as_deref(), password, "{url}");
        }
    }

    #[test]
    fn bad_urls_are_told_without_their_secrets() {
        let urls = "redis h:6379 http://h unix:// unix:/// unix://secret unix://u:secret@ redis:// redis://u:secret@ \
            unix://u:secret@host/run/redis.sock unix://u:sec/ret@/run/redis.sock redis+unix://host/run/redis.sock \
            unix:///run/redis.sock?db=secret redis://u:secret@h:x redis://u:secret@h/x redis://u:secret@h/-1 \
            redis://u:sec/ret@h redis://u:secret#@h redis://u:12#secret@h redis://u:12?secret@h \
            redis://u:secret@$(HOST) redis://u:secret@%22h%22";
        for url in urls.split(' ').chain([""]) {
            let error = RedisEndpoint::parse(url).err().map(|e| e.to_string());
            let error = error.unwrap_or_else(|| panic!("{url} was taken"));
            assert!(!error.contains("sec"), "{error}");
        }
    }

    #[test]
    fn sentinels_need_no_scheme() {
        for (text, want) in [
            ("s1", "redis://s1:26379/0"),
            (" s1:5000 ", "redis://s1:5000/0"),
            ("[::1]", "redis://[::1]:26379/0"),
            ("rediss://u:p@s1", "rediss://u:***@s1:26379/0"),
        ] {
            let endpoint = RedisEndpoint::parse_sentinel(text).unwrap();
            assert_eq!(endpoint.to_string(), want);
        }
        assert!(RedisEndpoint::parse_sentinel("").is_err());
    }

    #[test]
    fn a_sentinel_without_tls_names_no_master_with_tls() {
        let refused = |server: &str, tls_name: Option<&str>, sentinels: &[&str]| {
            let mut settings = RedisSettings::new(parsed(server));
            settings.server.tls_name = tls_name.map(str::to_owned);
            let sentinels = sentinels
                .iter()
                .map(|text| RedisEndpoint::parse_sentinel(text));
            settings.sentinels = sentinels.map(Result::unwrap).collect();
            settings.check_tls_name().err().map(|e| e.to_string())
        };
        let mixed = ["rediss://a", "b:1"];
        let error = refused("rediss://h", None, &mixed).unwrap();
        assert!(error.contains("the sentinel b:1 has no TLS"), "{error}");
        for (server, tls_name, sentinels) in [
            ("rediss://h", Some("h"), &mixed[..]),
            ("rediss://h", None, &mixed[..1]),
            ("rediss://h", None, &[]),
            ("redis://h", None, &mixed),
        ] {
            assert_eq!(refused(server, tls_name, sentinels), None, "{server}");
        }
    }

    #[test]
    fn nothing_shows_a_password() {
        let settings = RedisSettings::new(parsed("redis://u:secret@h"));
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
