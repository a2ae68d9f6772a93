//! The target of `weirgate tail`, a gateway of this machine by its name or a URL; and connecting: TCP or a unix socket, TLS,
//! the handshake of the WebSocket.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use socket2::Socket;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{ClientRequestBuilder, Error, WebSocket, client};

use super::error::TailError;
use super::{TICK, TailCommand};
use crate::base::tls_roots;
use crate::commands::program::parse_url;
use crate::listening::ListenAddr;

/// The time limit of connecting and handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest accepted message: enough for the largest bus message, with a gateway's additions.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The target of a connection. Shown without the query, because the query may contain a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The server.
    place: Place,
    /// Whether the connection uses TLS.
    tls: bool,
    /// The URL of the request.
    url: String,
    shown: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The listen addresses of a gateway of this machine; the first with a connection counts.
    Here(Vec<ListenAddr>),
    /// A name or address, without the brackets of an IPv6 address.
    Host { host: String, port: u16 },
}

impl Target {
    /// A gateway of this machine that listens on `listen`.
    pub fn here(listen: &[ListenAddr], path: &str) -> Self {
        let addrs: Vec<_> = listen.iter().flat_map(ListenAddr::to_connect).collect();
        let host = host_of(addrs.first());
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
    fn tls_name(&self) -> &str {
        match &self.place {
            Place::Host { host, .. } => host,
            Place::Here(_) => "localhost",
        }
    }
}

/// The value of `Host` for an address of this machine.
pub(in crate::commands) fn host_of(addr: Option<&ListenAddr>) -> String {
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

/// An open WebSocket with a read timeout of one tick.
pub(super) type Link = WebSocket<Stream>;

/// A connection, with or without TLS.
#[derive(Debug)]
pub(in crate::commands) enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Stream {
    pub(in crate::commands) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref(),
        }
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

/// Connects before `deadline` and before the connect timeout.
pub(super) fn open(command: &TailCommand, deadline: Option<Instant>) -> Result<Link, TailError> {
    let target = &command.target;
    let latest = Instant::now() + CONNECT_TIMEOUT;
    let until = deadline.map_or(latest, |deadline| deadline.min(latest));
    let unreachable = |source| TailError::Unreachable {
        target: target.to_string(),
        source,
    };
    let socket = connect(target, until).map_err(unreachable)?;
    let left = left(until).map_err(unreachable)?;
    socket
        .set_read_timeout(Some(left))
        .and_then(|()| socket.set_write_timeout(Some(CONNECT_TIMEOUT)))
        .map_err(TailError::System)?;
    let stream = match target.tls {
        false => Stream::Plain(socket),
        true => tls(socket, target, command.ca_file.as_deref())?,
    };
    let link = shake_hands(command, stream)?;
    let tick = link.get_ref().socket().set_read_timeout(Some(TICK));
    tick.map_err(TailError::System)?;
    Ok(link)
}

fn connect(target: &Target, until: Instant) -> io::Result<Socket> {
    let addrs: Vec<ListenAddr> = match &target.place {
        Place::Here(addrs) => addrs.clone(),
        Place::Host { host, port } => {
            let found = (host.as_str(), *port).to_socket_addrs()?;
            found.map(ListenAddr::from).collect()
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

/// Returns the time to `until`. Zero is an error, because a socket timeout of zero means "for ever".
pub(in crate::commands) fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn tls(socket: Socket, target: &Target, ca_file: Option<&Path>) -> Result<Stream, TailError> {
    let no_tls = |reason: String| TailError::Tls {
        target: target.to_string(),
        reason,
    };
    let config = tls_roots::client(ca_file).map_err(|error| no_tls(error.to_string()))?;
    let name = ServerName::try_from(target.tls_name().to_owned());
    let name = name.map_err(|error| no_tls(error.to_string()))?;
    let session = ClientConnection::new(config, name);
    let mut session = session.map_err(|error| no_tls(error.to_string()))?;
    let mut socket = socket;
    while session.is_handshaking() {
        let done = session.complete_io(&mut socket);
        done.map_err(|error| no_tls(error.to_string()))?;
    }
    Ok(Stream::Tls(Box::new(StreamOwned::new(session, socket))))
}

fn shake_hands(command: &TailCommand, stream: Stream) -> Result<Link, TailError> {
    let target = &command.target;
    let uri = target.url.parse();
    let uri = uri.map_err(|error: tungstenite::http::uri::InvalidUri| {
        TailError::Broken(Error::HttpFormat(error.into()))
    })?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(token) = &command.token {
        let bearer = format!("Bearer {}", token.expose());
        request = request.with_header("Authorization", bearer);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    match client::client_with_config(request, stream, Some(config)) {
        Ok((link, _)) => Ok(link),
        Err(HandshakeError::Failure(Error::Http(response))) => Err(TailError::refused(
            target.to_string(),
            &command.known,
            &response,
        )),
        Err(HandshakeError::Failure(error)) => Err(TailError::NoWebSocket {
            target: target.to_string(),
            reason: error.to_string(),
        }),
        Err(HandshakeError::Interrupted(_)) => Err(TailError::NoWebSocket {
            target: target.to_string(),
            reason: "no response to the handshake in time".to_owned(),
        }),
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
