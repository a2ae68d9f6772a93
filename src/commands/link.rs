//! A connection of a command to a running gateway, from its [`Target`] (an address of this machine, or a URL) to a
//! [`Stream`] over TCP or a unix socket, with or without TLS.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use socket2::{SockAddr, Socket};

use super::program::parse_url;
use weirgate_runtime::{Lookup, tls_roots};
use weirgate_server::listening::ListenAddr;

/// The target of a connection. Shown without the query, because the query may contain a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    destination: Destination,
    /// Whether the connection uses TLS.
    pub(super) tls: bool,
    /// The value of `Host`.
    pub(super) authority: String,
    /// Path and query of the request.
    pub(super) path: String,
    shown: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Destination {
    /// The addresses on which a gateway of this machine listens. The first that accepts a connection is used.
    Here(Vec<ListenAddr>),
    /// A host name or an IP address; an IPv6 address has no brackets.
    Host { host: String, port: u16 },
}

/// The reason for no connection.
#[derive(Debug)]
pub(super) enum LinkError {
    Unreachable(io::Error),
    /// No TLS: the certificates, a port without TLS, or a connection that ended within the handshake.
    Tls {
        reason: String,
        /// Whether the connection ended, so that another attempt may succeed.
        may_pass: bool,
    },
}

impl Target {
    /// A gateway of this machine that listens on `listen`.
    pub(crate) fn here(listen: &[ListenAddr], path: &str) -> Self {
        let addrs: Vec<_> = listen.iter().flat_map(ListenAddr::to_connect).collect();
        let authority = host_of(addrs.first());
        let shown = match addrs.first() {
            Some(unix @ ListenAddr::Unix(_)) => format!("{unix} ({path})"),
            _ => format!("ws://{authority}{path}"),
        };
        Self {
            destination: Destination::Here(addrs),
            tls: false,
            authority,
            path: path.to_owned(),
            shown,
        }
    }

    /// Parses a URL: `ws://`, `wss://`, `http://`, `https://`, or without a scheme. The URL may not have a user or a
    /// password; the error names the flag to use, `instead`.
    ///
    /// # Errors
    /// The error, without the URL: the URL may contain a token.
    pub(super) fn parse(text: &str, instead: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("ws", text));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => {
                return Err(
                    "the URL does not begin with ws://, wss://, http:// or https://".to_owned(),
                );
            }
        };
        let scheme = if tls { "wss" } else { "ws" };
        let (url, host) = parse_url(&format!("{scheme}://{rest}"), instead)?;
        let name = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        let query = url.query().map(|query| format!("?{query}"));
        Ok(Self {
            destination: Destination::Host {
                host,
                // Both schemes have a default, so 80 is never used.
                port: url.port_or_known_default().unwrap_or(80),
            },
            tls,
            shown: format!("{scheme}://{authority}{}", url.path()),
            path: format!("{}{}", url.path(), query.unwrap_or_default()),
            authority,
        })
    }

    /// The target for `path` at the admin address `addr` of a gateway of this machine.
    pub(super) fn admin_here(addr: ListenAddr, path: &str) -> Self {
        let mut loopback = addr.to_connect().into_iter();
        Self {
            shown: loopback.next().unwrap_or_else(|| addr.clone()).to_string(),
            ..Self::here(&[addr], path)
        }
    }

    /// Parses an admin address: `http://HOST:PORT[/PATH]`, `https://…`, `HOST:PORT` or `unix:PATH`. The request is for
    /// `wanted` there.
    ///
    /// # Errors
    /// The error, without the URL: the URL may contain a password.
    pub(super) fn admin(text: &str, wanted: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => return Err("unix: needs the path of a socket".to_owned()),
            Some(path) => return Ok(Self::admin_here(ListenAddr::Unix(path.into()), wanted)),
            None => {}
        }
        let target = Self::parse(text, "--authorization")?;
        let path = target.path.split('?').next().unwrap_or_default();
        // People copy the address of the operator's page.
        let base = path.trim_end_matches('/').trim_end_matches("/operator");
        let scheme = if target.tls { "https://" } else { "" };
        Ok(Self {
            shown: format!("{scheme}{}{base}", target.authority),
            path: format!("{base}{wanted}"),
            ..target
        })
    }

    /// Looks the name up, connects, and ends the handshake of TLS, all by `until`. Reads and writes of the stream also end by
    /// then, unless the caller [sets](Stream::set_timeouts) timeouts.
    pub(super) fn open(&self, ca_file: Option<&Path>, until: Instant) -> Result<Stream, LinkError> {
        let socket = self.connect(until).map_err(LinkError::Unreachable)?;
        let socket = TimedSocket::new(socket, until);
        match self.tls {
            false => Ok(Stream::Plain(socket)),
            true => self.secure(socket, ca_file),
        }
    }

    /// Tries the addresses in turn until `until`. The socket has no timeouts yet.
    fn connect(&self, until: Instant) -> io::Result<Socket> {
        let addrs: Vec<ListenAddr> = match &self.destination {
            Destination::Here(addrs) => addrs.clone(),
            Destination::Host { host, port } => {
                let found = Lookup::within(left(until)?).addresses(host, *port)?;
                found.into_iter().map(ListenAddr::from).collect()
            }
        };
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for addr in addrs {
            match addr.connect(left(until)?) {
                Ok(socket) => {
                    // Fails on unix sockets, without consequence.
                    let _ = socket.set_tcp_nodelay(true);
                    return Ok(socket);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Makes the handshake of TLS. The certificate must have the host as a name, or `localhost` if the target is an
    /// address of this machine.
    fn secure(&self, mut socket: TimedSocket, ca_file: Option<&Path>) -> Result<Stream, LinkError> {
        fn no_tls(error: impl fmt::Display) -> LinkError {
            LinkError::Tls {
                reason: error.to_string(),
                may_pass: false,
            }
        }
        let name = match &self.destination {
            Destination::Host { host, .. } => host,
            Destination::Here(_) => "localhost",
        };
        // `None`: the client shows no certificate.
        let config = tls_roots::client(ca_file, None).map_err(no_tls)?;
        let name = ServerName::try_from(name.to_owned()).map_err(no_tls)?;
        let mut session = ClientConnection::new(config, name).map_err(no_tls)?;
        while session.is_handshaking() {
            let done = session.complete_io(&mut socket);
            done.map_err(|error| LinkError::Tls {
                // rustls reports what the server sent wrong, or did wrong, as invalid data.
                may_pass: error.kind() != ErrorKind::InvalidData,
                reason: match is_timeout(&error) {
                    true => "the handshake did not end in time".to_owned(),
                    false => error.to_string(),
                },
            })?;
        }
        Ok(Stream::Tls(Box::new(StreamOwned::new(session, socket))))
    }
}

/// The value of `Host` for an address of this machine.
pub(super) fn host_of(addr: Option<&ListenAddr>) -> String {
    match addr {
        Some(ListenAddr::Tcp(addr)) => addr.to_string(),
        _ => "localhost".to_owned(),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A socket with a deadline for all its reads and writes together. A timeout of the system is for one read: each byte of
/// a slow server would extend the time.
#[derive(Debug)]
pub(super) struct TimedSocket {
    socket: Socket,
    /// `None`: each read and each write has the timeout of the socket.
    until: Option<Instant>,
    /// From then on, no read waits for more.
    turn_until: Option<Instant>,
    /// Bytes that have arrived.
    received: u64,
}

impl TimedSocket {
    pub(super) const fn new(socket: Socket, until: Instant) -> Self {
        Self {
            socket,
            until: Some(until),
            turn_until: None,
            received: 0,
        }
    }

    /// The kernel calls the end of a timeout `WouldBlock`; here it is the deadline that is over.
    fn in_time<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock if self.until.is_some() => ErrorKind::TimedOut.into(),
            _ => error,
        })
    }

    /// The address of this end.
    pub(super) fn local_addr(&self) -> io::Result<SockAddr> {
        self.socket.local_addr()
    }
}

impl Read for TimedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            self.socket.set_read_timeout(Some(left(until)?))?;
        }
        if let Some(until) = self.turn_until {
            left(until)?;
        }
        let read = self.socket.read(buffer);
        let bytes = self.in_time(read)?;
        self.received += bytes as u64;
        Ok(bytes)
    }
}

impl Write for TimedSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            self.socket.set_write_timeout(Some(left(until)?))?;
        }
        let written = self.socket.write(bytes);
        self.in_time(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// A connection, with or without TLS.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TimedSocket),
    Tls(Box<StreamOwned<ClientConnection, TimedSocket>>),
}

impl Stream {
    /// Ends the deadline of the opening: from now on, each read and each write has its own timeout.
    pub(super) fn set_timeouts(&mut self, read: Duration, write: Duration) -> io::Result<()> {
        let timed = self.timed();
        timed.until = None;
        timed.socket.set_read_timeout(Some(read))?;
        timed.socket.set_write_timeout(Some(write))
    }

    /// Begins a turn: reads that begin after `turn` time out. A large message that arrives slowly, but without a pause as long
    /// as a read waits, takes several turns.
    pub(super) fn begin_turn(&mut self, turn: Duration) {
        self.timed().turn_until = Some(Instant::now() + turn);
    }

    /// Bytes that have arrived, also of what is not whole yet.
    pub(super) fn received(&mut self) -> u64 {
        self.timed().received
    }

    fn timed(&mut self) -> &mut TimedSocket {
        match self {
            Self::Plain(timed) => timed,
            Self::Tls(tls) => tls.get_mut(),
        }
    }

    /// Sends a request. Reads until `is_whole` says that the response is complete, until it has `bytes_max` bytes, or
    /// until the connection ends.
    ///
    /// # Errors
    /// The connection failed, or the deadline is over.
    pub(super) fn ask(
        mut self,
        request: &str,
        bytes_max: usize,
        is_whole: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Vec<u8>> {
        self.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; bytes_max.min(64 * 1024)];
        while answer.len() < bytes_max && !is_whole(&answer) {
            let room = buffer.len().min(bytes_max - answer.len());
            match self.read(&mut buffer[..room]) {
                Ok(0) => break,
                Ok(n) => answer.extend(buffer.iter().take(n)),
                // Some servers end TLS without a closing message.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        Ok(answer)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// Returns the time left until `until`. No time left is an error, because a socket timeout of zero would mean "no
/// limit".
pub(super) fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Whether a read or a write ended because of its timeout.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_at_most_the_bytes_that_are_asked_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::here(&[listener.local_addr().unwrap().into()], "/");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(&[b'a'; 200_000]);
            stream
        });
        let until = Instant::now() + Duration::from_secs(10);
        let stream = target.open(None, until).unwrap();
        let answer = stream.ask("", 100_000, |_| false).unwrap();
        assert_eq!(answer.len(), 100_000);
        drop(server.join());
    }

    /// A server that sends `head`, then one byte every 20 ms, until the client closes or 5 s are over.
    fn trickle(head: &'static [u8]) -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(head);
            for _ in 0..250 {
                std::thread::sleep(Duration::from_millis(20));
                if stream.write_all(b"a").is_err() {
                    return;
                }
            }
        });
        addr
    }

    #[test]
    fn bytes_that_trickle_in_do_not_extend_the_deadline() {
        // A TLS record of 16 KiB, and the header of an upgrade, neither of which gets whole.
        let heads: [&[u8]; 2] = [b"\x16\x03\x03\x40\x00", b"HTTP/1.1 101 Switching\r\nX: "];
        for (scheme, head) in ["wss", "ws"].into_iter().zip(heads) {
            let target = Target::parse(&format!("{scheme}://{}", trickle(head)), "").unwrap();
            let begun = Instant::now();
            let until = begun + Duration::from_millis(300);
            let why = match target.open(None, until) {
                Ok(stream) => {
                    let upgraded =
                        tungstenite::client(format!("ws://{}/", target.authority), stream);
                    format!("{:?}", upgraded.expect_err("no upgrade"))
                }
                Err(LinkError::Tls { reason, may_pass }) => format!("{reason} {may_pass}"),
                Err(error) => format!("{error:?}"),
            };
            assert!(begun.elapsed() < Duration::from_secs(2), "{scheme}: {why}");
            let late = ["did not end in time true", "Interrupted", "TimedOut"];
            assert!(late.iter().any(|late| why.contains(late)), "{why}");
        }
    }

    #[test]
    fn urls_are_read_and_their_query_is_not_shown() {
        for (text, authority, path, shown, port, tls) in [
            ("ws://h", "h", "/", "ws://h/", 80, false),
            ("h:8080", "h:8080", "/", "ws://h:8080/", 8080, false),
            ("wss://h/ws", "h", "/ws", "wss://h/ws", 443, true),
            ("https://h:1/", "h:1", "/", "wss://h:1/", 1, true),
            ("http://h/a#b", "h", "/a", "ws://h/a", 80, false),
            ("ws://[::1]:9", "[::1]:9", "/", "ws://[::1]:9/", 9, false),
            (
                "ws://h/ws?token=s",
                "h",
                "/ws?token=s",
                "ws://h/ws",
                80,
                false,
            ),
        ] {
            let target = Target::parse(text, "--token");
            let target = target.unwrap_or_else(|error| panic!("{text}: {error}"));
            let read = (&*target.authority, &*target.path, target.tls);
            assert_eq!(read, (authority, path, tls), "{text}");
            assert_eq!(target.to_string(), shown);
            let Destination::Host { host, port: got } = target.destination else {
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
            for parsed in [
                Target::parse(text, "--token"),
                Target::admin(text, "/state"),
            ] {
                let error = parsed.expect_err(text);
                assert!(!error.contains("secret"), "{error}");
            }
        }
        assert!(Target::admin("unix:", "/state").is_err());
    }

    #[test]
    fn a_gateway_of_this_machine_is_reached_over_loopback() {
        let all = ListenAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0], 8080)));
        let target = Target::here(&[all], "/ws");
        assert_eq!(target.to_string(), "ws://127.0.0.1:8080/ws");
        let unix = Target::here(&[ListenAddr::Unix("/run/a.sock".into())], "/ws");
        assert_eq!(unix.to_string(), "unix:/run/a.sock (/ws)");
        assert_eq!(unix.authority, "localhost");
    }

    #[test]
    fn admin_addresses_are_read_as_a_person_has_them() {
        for (text, shown, base, authority, tls) in [
            ("http://h:9100", "h:9100", "", "h:9100", false),
            ("h:9100", "h:9100", "", "h:9100", false),
            ("h:9100/operator/", "h:9100", "", "h:9100", false),
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
            let target =
                Target::admin(text, "/state").unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target.to_string(), shown, "{text}");
            let want = (format!("{base}/state"), authority, tls);
            assert_eq!(
                (target.path, &*target.authority, target.tls),
                want,
                "{text}"
            );
        }
        let all = ListenAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0], 9100)));
        assert_eq!(
            Target::admin_here(all, "/state").to_string(),
            "127.0.0.1:9100"
        );
    }
}
