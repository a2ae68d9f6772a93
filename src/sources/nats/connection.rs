//! Makes and leaves the connections of the crate, for requests to JetStream. No other file touches the crate's
//! connect options.
//!
//! The `nats` crate has no timeout for connecting, flushing or closing, and reconnects by itself
//! after a loss. Here every connection is used once: a lost or silent connection is left to a
//! throw-away thread, and a new connection is made. This also ends half-open TCP connections,
//! noticed by the crate after four minutes at the earliest.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use nats::{Connection, Options};

use super::access::Login;
use super::api::Api;
use super::error::NatsError;
use super::loopback::Hold;
use super::protocol;
use super::refusals::Refusals;
use super::settings::{CLIENT_NAME, Endpoint, NatsSettings};
use super::tls::{self, Far};
use crate::base::detached;

/// How long a server may take to accept a TCP connection and to send its first line.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// How long the rest of the handshake (TLS, CONNECT, first PONG) may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(2_000);
/// The crate's buffer while disconnected. The next connection is always a new one, so little is enough.
const RECONNECT_BUFFER_BYTES: usize = 64 * 1024;
/// The crate's own attempts after a loss wait this long; by then the connection was left.
const OWN_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// A connection to a server, used until lost.
pub(super) struct Link {
    /// JetStream on this connection, and the signal of the loss.
    pub(super) api: Api,
    /// The version announced by the server.
    pub(super) version: String,
    /// The server's name for itself.
    pub(super) server_id: String,
}

impl Link {
    /// Connects, within [`PROBE_TIMEOUT`] and [`HANDSHAKE_TIMEOUT`].
    ///
    /// The kernel of a stopped server (SIGSTOP) still accepts connections, but no data follows, and
    /// the crate would wait for ever. So the first line is awaited on a plain socket with a
    /// timeout, and the crate connects only after this line, in a separate thread. With TLS, the
    /// connection continues on the same socket.
    pub(super) fn open(
        endpoint: &Endpoint,
        settings: &NatsSettings,
        refusals: Refusals,
    ) -> Result<Self, NatsError> {
        let (greeted, info_line) = probe(endpoint, &settings.urls_from)?;
        let refused = |reason: String| NatsError::Refused {
            url: endpoint.url(),
            reason,
        };
        let wrong_file = |source| NatsError::File { source };
        let login = Login::read(&endpoint.auth, &settings.credentials).map_err(wrong_file)?;
        let (lost_sender, lost) = bounded(0);
        let is_tls = endpoint.tls || settings.tls.is_demanded() || tls::is_wanted(&info_line);
        let (options, url) = if is_tls {
            let config = tls::config(&settings.tls).map_err(wrong_file)?;
            let far = Far {
                stream: greeted,
                info_line: &info_line,
                name: &endpoint.tls_name,
            };
            let door = tls::carry(far, &login, config, HANDSHAKE_TIMEOUT)
                .map_err(|e| refused(format!("TLS: {e}")))?;
            let url = format!("nats://127.0.0.1:{}", door.port);
            // The credentials are added behind the loopback connection.
            let options = Options::new().with_name(&door.name);
            let options = once(holding(options, door.hold), lost_sender, &refusals);
            (options, url)
        } else {
            let options = login.options().with_name(CLIENT_NAME);
            (once(options, lost_sender, &refusals), endpoint.url())
        };
        let (sender, receiver) = bounded(1);
        detached("nats-connect", move || {
            // After the timeout nobody waits any more: a late connection is closed again.
            if let Err(late) = sender.send(options.connect(url))
                && let Ok(connection) = late.into_inner()
            {
                leave(connection);
            }
        })
        .map_err(|e| refused(e.to_string()))?;
        let connection = receiver
            .recv_timeout(HANDSHAKE_TIMEOUT)
            .map_err(|_| refused("it did not finish the handshake in time".into()))?
            .map_err(|e| refused(reason(&e)))?;
        Ok(Self {
            api: Api::new(connection, lost, refusals),
            version: tls::version(&info_line),
            server_id: tls::server_id(&info_line),
        })
    }

    /// Leaves the connection. Never blocks: even that can wait for a server that reads nothing.
    pub(super) fn abandon(self) {
        let left = detached("nats-leave", move || leave(self.api.connection));
        if let Err(error) = left {
            tracing::warn!(%error, "no thread to leave a NATS connection in; it was dropped");
        }
    }
}

/// Drops a connection such that its threads and its socket end too.
///
/// The crate's `close` waits without a limit for a server that may be gone. A dropped connection
/// ends with the next data from the server, perhaps two minutes later; a message to the
/// connection's own inbox brings data at once.
fn leave(connection: Connection) {
    let inbox = connection.new_inbox();
    let echo = connection.subscribe(&inbox);
    let _ = connection.publish(&inbox, b"");
    drop(connection);
    drop(echo);
}

/// The crate's own TLS is never to be used ([`tls`]); if a server makes the crate try, the
/// handshake fails.
fn trusting_nobody() -> nats::rustls::ClientConfig {
    nats::rustls::ClientConfig::builder()
        .with_root_certificates(nats::rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// Keeps the loopback port until the crate's thread has ended and connects no more. If the thread
/// ends early, the options are dropped, and the port with them.
fn holding(options: Options, hold: Hold) -> Options {
    let hold = Mutex::new(Some(hold));
    options.close_callback(move || drop(hold.lock().ok().and_then(|mut hold| hold.take())))
}

/// Sets the options of a connection that is used until lost. The loss closes the channel.
fn once(options: Options, lost: Sender<Infallible>, refusals: &Refusals) -> Options {
    let first = AtomicBool::new(true);
    let lost = Mutex::new(Some(lost));
    let refusals = refusals.clone();
    options
        .tls_client_config(trusting_nobody())
        .max_reconnects(1)
        .reconnect_buffer_size(RECONNECT_BUFFER_BYTES)
        .reconnect_delay_callback(move |_| match first.swap(false, Relaxed) {
            true => Duration::ZERO,
            false => OWN_RECONNECT_DELAY,
        })
        .disconnect_callback(move || {
            // Closes the channel, which wakes everyone waiting for an answer.
            drop(lost.lock().ok().and_then(|mut lost| lost.take()));
        })
        .error_callback(move |error| refusals.report(&error.to_string()))
}

/// Waits for the server's first line. Returns the connection and the line.
fn probe(endpoint: &Endpoint, urls_from: &str) -> Result<(TcpStream, String), NatsError> {
    let unreachable = |source| NatsError::Unreachable {
        url: endpoint.url(),
        setting: urls_from.to_owned(),
        source,
    };
    let addresses = (endpoint.host.as_str(), endpoint.port)
        .to_socket_addrs()
        .map_err(unreachable)?;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT);
        match stream.and_then(|mut stream| Ok((greeting(&mut stream)?, stream))) {
            Ok((line, stream)) => return Ok((stream, line)),
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}

fn greeting(stream: &mut TcpStream) -> io::Result<String> {
    let until = Instant::now() + PROBE_TIMEOUT;
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while !protocol::is_greeting_over(&line) {
        let left = until.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => line.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(protocol::no_greeting());
            }
            Err(error) => return Err(error),
        }
    }
    protocol::greeting(line)
}

/// The server's own words in the crate's error, or else the whole text.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text
        .split_once("Err(\"")
        .and_then(|(_, rest)| rest.split_once("\")"));
    words.map_or_else(|| text.clone(), |(words, _)| words.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_servers_words_are_taken_out() {
        let error =
            io::Error::other("unexpected line while connecting: Err(\"Authorization Violation\")");
        assert_eq!(reason(&error), "Authorization Violation");
        assert_eq!(
            reason(&io::Error::other("no certificate")),
            "no certificate"
        );
    }

    #[test]
    fn a_silent_server_and_another_protocol_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let endpoint = Endpoint::parse(&url).map_err(|e| e.to_string()).unwrap();
        // Nobody accepts: the kernel does.
        let silent = probe(&endpoint, "--bus").unwrap_err().to_string();
        assert!(silent.contains("says nothing"), "{silent}");
        assert!(silent.contains("check --bus, "), "{silent}");
        let other = std::thread::spawn(move || {
            for _ in 0..2 {
                use std::io::Write;
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
            }
        });
        let wrong = probe(&endpoint, "the URL").unwrap_err().to_string();
        assert!(wrong.contains("no NATS server"), "{wrong}");
        other.join().unwrap();
    }
}
