//! Connecting: TCP or a unix socket, TLS, the handshake of the WebSocket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use socket2::Socket;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{ClientRequestBuilder, Error, WebSocket, client};

use super::error::TailError;
use super::target::{Place, Target};
use super::{TICK, TailCommand};
use crate::base::tls_roots;
use crate::listening::ListenAddr;

/// The time limit of connecting and handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest accepted message: enough for the largest bus message, with a gateway's additions.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An open WebSocket with a read timeout of one tick.
pub(super) type Link = WebSocket<Stream>;

/// A connection, with or without TLS.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Stream {
    fn socket(&self) -> &Socket {
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
fn left(until: Instant) -> io::Result<Duration> {
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
    let config = tls_roots::client_config(ca_file).map_err(|error| no_tls(error.to_string()))?;
    let name = ServerName::try_from(target.tls_name().to_owned());
    let name = name.map_err(|error| no_tls(error.to_string()))?;
    let session = ClientConnection::new(Arc::new(config.with_no_client_auth()), name);
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
        Err(HandshakeError::Failure(Error::Http(response))) => {
            Err(TailError::refused(target, &command.known, &response))
        }
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
