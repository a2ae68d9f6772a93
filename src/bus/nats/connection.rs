//! Makes and leaves the connections of the `nats` crate, for requests to JetStream, with TLS done here. No other file
//! touches the crate's connect options.
//!
//! The `nats` crate has no timeout for connecting, flushing or closing, and reconnects by itself after a loss. Here
//! every connection is used once: a lost or silent connection is left to a throw-away thread, and a new connection is
//! made. This also ends half-open TCP connections, noticed by the crate after four minutes at the earliest.
//!
//! The certificate checks in the crate's rustls have known faults without a fix, and the crate's TLS streams can sleep
//! on bytes that have arrived. So the crate gets a loopback connection without TLS, and a thread carries the bytes
//! between this connection and the server. The server's first line, sent before TLS, is passed on without the fields
//! about TLS and about other servers.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use nats::{Connection, Options};
use rustls::ClientConfig;

use super::api::{ANSWER_TIMEOUT, Api};
use super::error::{NatsError, Refusals};
use super::login::{Info, Login, plain_info, tls_config};
use super::loopback::{Door, Gate, Hold, Loopback};
use super::servers::waiter;
use super::settings::{CLIENT_NAME, Endpoint, NatsSettings};
use super::wire::{Greeted, LATE, Patience};
use crate::runtime::detached;
use crate::socket::{Stream, Waiter};

/// How long a server may take to send its first line.
const FIRST_LINE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// The crate's buffer while disconnected. The next connection is always a new one, so little is enough.
const RECONNECT_BUFFER_BYTES: usize = 64 * 1024;
/// The crate's own attempts after a loss wait this long; by then the connection was left.
const OWN_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// A connection to a server, used until lost.
pub(super) struct Link {
    /// JetStream on this connection, and the signal of the loss.
    pub(super) api: Api,
    pub(super) info: Info,
}

impl Link {
    /// Connects, within [`Patience::USUAL`].
    ///
    /// The kernel of a stopped server (SIGSTOP) still accepts connections, but no data follows, and the crate would
    /// wait for ever. So the first line is awaited with a timeout, and the crate connects only after this line, in a
    /// separate thread. With TLS, the connection continues on the same socket.
    pub(super) fn open(
        endpoint: &Endpoint,
        settings: &NatsSettings,
        refusals: Refusals,
    ) -> Result<Self, NatsError> {
        let unreachable = |source| endpoint.unreachable(settings, source);
        let (mut waiter, _) = waiter("the connection for requests")?;
        let patience = Patience::USUAL;
        let greeted = Greeted::connect(&mut waiter, endpoint, patience, FIRST_LINE_TIMEOUT);
        let greeted = greeted.map_err(unreachable)?;
        let refused = |reason: String| NatsError::Refused {
            url: endpoint.url(),
            reason,
        };
        let login = Login::read(&endpoint.auth, &settings.credentials).map_err(NatsError::File)?;
        let (lost_sender, lost) = bounded(0);
        let (options, url, info) = if endpoint.is_tls(settings, &greeted.info) {
            let config = tls_config(&settings.tls).map_err(NatsError::File)?;
            let carried = carry(greeted, waiter, &endpoint.tls_name, &login, config);
            let (door, info) = carried.map_err(|error| NatsError::Tls {
                url: endpoint.url(),
                reason: error.to_string(),
            })?;
            let url = format!("nats://127.0.0.1:{}", door.port);
            // The gate of the loopback connection adds the credentials.
            let options = Options::new().with_name(&door.name);
            let options = once(holding(options, door.hold), lost_sender, &refusals);
            (options, url, info)
        } else {
            let options = login.options().with_name(CLIENT_NAME);
            let url = format!("nats://{}", greeted.peer);
            (once(options, lost_sender, &refusals), url, greeted.info)
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
            .recv_timeout(patience.handshake)
            .map_err(|_| refused(LATE.to_owned()))?
            .map_err(|e| refused(reason(&e)))?;
        Ok(Self {
            api: Api {
                connection,
                lost,
                refusals,
                answer_timeout: ANSWER_TIMEOUT,
            },
            info,
        })
    }

    /// Leaves the connection, on another thread: even leaving can wait for a server that reads nothing.
    pub(super) fn abandon(self) {
        let left = detached("nats-leave", move || leave(self.api.connection));
        if let Err(error) = left {
            tracing::warn!(%error, "no thread to leave a NATS connection in; it was dropped");
        }
    }
}

/// Drops a connection such that its threads and its socket end too.
///
/// The crate's `close` waits without a limit for a server that may be gone. A dropped connection ends with the next
/// data from the server, perhaps two minutes later; a message to the connection's own inbox brings data at once.
fn leave(connection: Connection) {
    let inbox = connection.new_inbox();
    let echo = connection.subscribe(&inbox);
    let _ = connection.publish(&inbox, b"");
    drop(connection);
    drop(echo);
}

/// Keeps the loopback port until the crate's thread has ended and connects no more. If the thread ends early, the
/// options are dropped, and the port with them.
fn holding(options: Options, hold: Hold) -> Options {
    let hold = Mutex::new(Some(hold));
    options.close_callback(move || drop(hold.lock().ok().and_then(|mut hold| hold.take())))
}

/// Sets the options of a connection that is used until lost. The loss closes the channel.
fn once(options: Options, lost: Sender<Infallible>, refusals: &Refusals) -> Options {
    // The crate's own TLS is never to be used; if a server makes the crate try, the handshake fails.
    let trusting_nobody = nats::rustls::ClientConfig::builder()
        .with_root_certificates(nats::rustls::RootCertStore::empty())
        .with_no_client_auth();
    let first = AtomicBool::new(true);
    let lost = Mutex::new(Some(lost));
    let refusals = refusals.clone();
    options
        .tls_client_config(trusting_nobody)
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

/// The server's own words within the text of the crate's error; without such words the whole text.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text
        .split_once("Err(\"")
        .and_then(|(_, rest)| rest.split_once("\")"));
    words.map_or_else(|| text.clone(), |(words, _)| words.to_owned())
}

/// Speaks TLS with the server, adds the log-in, and carries the bytes to a loopback port that takes only the crate's
/// connection. `tls_name` is the name required in the certificate.
///
/// # Errors
/// The server has the wrong certificate, refuses, or takes longer than [`Patience::USUAL`].
fn carry(
    greeted: Greeted,
    mut waiter: Waiter,
    tls_name: &str,
    login: &Login,
    config: ClientConfig,
) -> io::Result<(Door, Info)> {
    let timeout = Patience::USUAL.handshake;
    let until = Instant::now() + timeout;
    let random = config.crypto_provider().secure_random;
    let Greeted {
        tcp, line, info, ..
    } = greeted;
    let mut far = Stream::tls(tcp, tls_name, &Arc::new(config))?;
    while far.is_handshaking() {
        match far.shake_hands() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= until {
                    return Err(ErrorKind::TimedOut.into());
                }
                waiter.wait(until)?;
            }
            done => done?,
        }
    }
    waiter.leave(&mut far.tcp);
    let first = plain_info(&line)?;
    let (loopback, door) = Loopback::listen(random)?;
    let gate = Gate::new(door.name.clone(), login.fields(&info.nonce));
    detached("nats-tls", move || {
        let mut loopback = loopback;
        // The crate sees the end of the connection; the log then shows the reason.
        if let Err(error) = loopback.carry(until + timeout, far, first, gate) {
            tracing::debug!(%error, "a TLS connection with NATS ended");
        }
        loopback.refuse();
    })?;
    Ok((door, info))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;
    use crate::nats::login::{Credentials, Tls};

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
        let settings = NatsSettings {
            urls_from: "--bus".to_owned(),
            ..NatsSettings::plain(&url, Credentials::None, Tls::default())
        };
        let servers = endpoint.servers(&settings);
        let endpoint = servers.map_err(|e| e.to_string()).unwrap().remove(0);
        let failed = || {
            let (mut waiter, _) = waiter("a test").unwrap();
            let patience = Patience::USUAL;
            let greeted = Greeted::connect(&mut waiter, &endpoint, patience, FIRST_LINE_TIMEOUT);
            let error = greeted.map(drop).unwrap_err();
            endpoint.unreachable(&settings, error).to_string()
        };
        let silent = failed();
        assert!(silent.contains("says nothing"), "{silent}");
        assert!(silent.contains("check --bus, "), "{silent}");
        let other = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
            }
        });
        let wrong = failed();
        assert!(wrong.contains("is not a NATS server"), "{wrong}");
        other.join().unwrap();
    }
}
