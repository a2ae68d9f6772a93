//! TLS to a server, done here and not by the crate.
//!
//! The certificate checks in the crate's rustls have known faults without a fix, and the crate's
//! TLS streams can sleep on bytes that have arrived. So the crate gets a loopback connection
//! without TLS, and a thread carries the bytes between this connection and the server. The server's
//! first line, sent before TLS, is passed on without the fields about TLS and about other servers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use sonic_rs::{JsonValueMutTrait, JsonValueTrait};

use super::access::{Login, Tls, not};
use super::loopback::{Door, Gate, Loopback};
use crate::base::{detached, tls_roots};
use crate::sources::socket::TlsStream;

/// Plain bytes read from a side before they are written to the other.
const CHUNK_BYTES: usize = 64 * 1024;
/// Fields of the server's first line that are withheld from the crate.
const NOT_FOR_THE_CRATE: [&str; 4] = [
    "tls_required",
    "tls_available",
    "tls_verify",
    "connect_urls",
];

/// The longest version to show, characters.
const VERSION_CHARS_MAX: usize = 40;

/// Whether the server's first line asks for TLS.
pub(super) fn is_wanted(info_line: &str) -> bool {
    let json = info_line.trim_start_matches("INFO ");
    sonic_rs::get(json, ["tls_required"]).is_ok_and(|v| v.as_bool() == Some(true))
}

/// The addresses of other servers in the server's first line.
pub(super) fn neighbours(info_line: &str) -> Vec<String> {
    let json = info_line.trim_start_matches("INFO ");
    let told = sonic_rs::get(json, ["connect_urls"]);
    let told = told
        .ok()
        .and_then(|urls| sonic_rs::from_str(urls.as_raw_str()).ok());
    told.unwrap_or_default()
}

/// Whether the server's first line names a cluster.
pub(super) fn names_cluster(info_line: &str) -> bool {
    !text(info_line, "cluster").is_empty()
}

/// The server's name for itself in the server's first line.
pub(super) fn server_id(info_line: &str) -> String {
    text(info_line, "server_id")
}

/// A text in the server's first line; empty if there is none.
fn text(info_line: &str, field: &str) -> String {
    let json = info_line.trim_start_matches("INFO ");
    let told = sonic_rs::get(json, [field]).ok();
    let text = told.and_then(|text| text.as_str().map(str::to_owned));
    text.unwrap_or_default()
}

/// The largest message that the server takes, bytes, from its first line.
pub(super) fn max_payload(info_line: &str) -> usize {
    let json = info_line.trim_start_matches("INFO ");
    let told = sonic_rs::get(json, ["max_payload"]).ok();
    let bytes = told.and_then(|bytes| bytes.as_u64()).unwrap_or(u64::MAX);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The version in the server's first line.
pub(super) fn version(info_line: &str) -> String {
    let version = text(info_line, "version");
    version.chars().take(VERSION_CHARS_MAX).collect()
}

/// The TLS configuration of the client: the trusted certificates, and the client's own.
///
/// # Errors
/// A file cannot be read or has the wrong content; the text names the file.
pub(super) fn config(tls: &Tls) -> io::Result<ClientConfig> {
    let trusting = tls_roots::client_config(tls.ca.as_deref());
    let builder = trusting.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let Some((certificate, key)) = &tls.client else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = tls_roots::certificates(certificate)
        .ok()
        .filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| not(certificate, "certificates"))?;
    let parsed = PrivateKeyDer::from_pem_file(key).map_err(|_| not(key, "a private key"))?;
    builder
        .with_client_auth_cert(chain, parsed)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// A connection to a server, after the server's first line was read.
pub(super) struct Far<'a> {
    pub(super) stream: TcpStream,
    pub(super) info_line: &'a str,
    /// The name required in the certificate.
    pub(super) name: &'a str,
}

/// Speaks TLS with the server, adds the log-in, and carries the bytes to a loopback port that takes
/// only the crate's connection.
///
/// # Errors
/// The server has the wrong certificate, refuses, or takes longer than `timeout`.
pub(super) fn carry(
    far: Far<'_>,
    login: &Login,
    config: ClientConfig,
    timeout: Duration,
) -> io::Result<Door> {
    let until = Instant::now() + timeout;
    let random = config.crypto_provider().secure_random;
    let name = ServerName::try_from(far.name.to_owned()).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = far.stream;
    shake_hands(&mut tls, &mut stream, until)?;
    let (first, nonce) = plain_info(far.info_line)?;
    let (loopback, door) = Loopback::listen(random)?;
    let gate = Gate::new(door.name.clone(), login.fields(&nonce));
    detached("nats-tls", move || {
        let mut loopback = loopback;
        // The crate sees the end of the connection; the log then shows the reason.
        let ended = accept_and_pump(&mut loopback, until + timeout, (tls, stream), first, gate);
        if let Err(error) = ended {
            tracing::debug!(%error, "a TLS connection with NATS ended");
        }
        loopback.refuse();
    })?;
    Ok(door)
}

fn shake_hands(tls: &mut ClientConnection, far: &mut TcpStream, until: Instant) -> io::Result<()> {
    while tls.is_handshaking() || tls.wants_write() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        far.set_read_timeout(Some(left))?;
        far.set_write_timeout(Some(left))?;
        if tls.wants_write() {
            tls.write_tls(far)?;
        } else {
            if tls.read_tls(far)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = tls.process_new_packets() {
                // Sends the server the reason, if the server listens.
                let _ = tls.write_tls(far);
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }
    Ok(())
}

/// The line for the crate, and the nonce for a log-in with a signature.
fn plain_info(info_line: &str) -> io::Result<(Vec<u8>, String)> {
    let json = info_line.trim_start_matches("INFO ");
    let mut info: sonic_rs::Value = sonic_rs::from_str(json).map_err(io::Error::other)?;
    if let Some(info) = info.as_object_mut() {
        for key in NOT_FOR_THE_CRATE {
            info.remove(&key);
        }
    }
    let nonce = info
        .get("nonce")
        .and_then(|nonce| nonce.as_str().map(str::to_owned));
    let info = sonic_rs::to_string(&info).map_err(io::Error::other)?;
    let line = format!("INFO {info}\r\n").into_bytes();
    Ok((line, nonce.unwrap_or_default()))
}

fn accept_and_pump(
    loopback: &mut Loopback,
    until: Instant,
    (session, far): (ClientConnection, TcpStream),
    first: Vec<u8>,
    gate: Gate,
) -> io::Result<()> {
    let near = loopback.accept(until)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    far.set_nonblocking(true)?;
    let pump = Pump {
        far: TlsStream {
            tcp: mio::net::TcpStream::from_std(far),
            session,
        },
        near,
        to_near: first,
        gate: Some(gate),
        chunk: vec![0; CHUNK_BYTES],
    };
    pump.run()
}

/// Carries bytes between the crate (near, plain) and the server (far, TLS).
struct Pump {
    far: TlsStream,
    near: mio::net::TcpStream,
    to_near: Vec<u8>,
    /// Present until the crate has sent the right name.
    gate: Option<Gate>,
    chunk: Vec<u8>,
}

impl Pump {
    /// Runs until either side ends.
    fn run(mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = poll.registry();
        registry.register(&mut self.far.tcp, Token(0), both)?;
        registry.register(&mut self.near, Token(1), both)?;
        let mut events = Events::with_capacity(4);
        loop {
            // The poll reports each edge once, so everything is tried until nothing moves.
            while self.far_to_near()? | self.near_to_far()? {}
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }

    /// Carries bytes to the crate. Returns whether anything moved. Reads nothing more until the
    /// crate has taken the bytes read before.
    fn far_to_near(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if self.to_near.is_empty()
            && let Some(n) = ready(self.far.read(&mut self.chunk))?
        {
            let read = self.chunk.get(..n).filter(|read| !read.is_empty());
            self.to_near
                .extend_from_slice(read.ok_or(ErrorKind::UnexpectedEof)?);
            moved = true;
        }
        if !self.to_near.is_empty()
            && let Some(n) = ready(self.near.write(&self.to_near))?
        {
            self.to_near.drain(..n);
            moved = true;
        }
        Ok(moved)
    }

    /// Carries bytes to the server. Returns whether anything moved. A chunk fits the empty buffer
    /// of the TLS session.
    fn near_to_far(&mut self) -> io::Result<bool> {
        if ready(self.far.flush())?.is_none() {
            return Ok(false);
        }
        let Some(n) = ready(self.near.read(&mut self.chunk))? else {
            return Ok(false);
        };
        let read = self.chunk.get(..n).filter(|read| !read.is_empty());
        let read = read.ok_or(ErrorKind::UnexpectedEof)?;
        let Some(gate) = &mut self.gate else {
            self.far.write_all(read)?;
            return Ok(true);
        };
        if let Some(passed) = gate.pass(read)? {
            self.far.write_all(&passed)?;
            self.gate = None;
        }
        Ok(true)
    }
}

/// Returns `None` if the operation would block.
fn ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_hears_nothing_of_tls() {
        let line = "INFO {\"server_id\":\"X\",\"tls_required\":true,\"nonce\":\"n\",\"connect_urls\":[\"a:1\"]} \r\n";
        assert!(is_wanted(line));
        assert_eq!(neighbours(line), ["a:1"]);
        assert!(neighbours("INFO {}").is_empty());
        let (plain, nonce) = plain_info(line).expect("a line");
        assert_eq!(nonce, "n");
        let plain = String::from_utf8(plain).expect("text");
        assert!(!is_wanted(&plain));
        let json = plain.strip_prefix("INFO ").expect("the verb").trim_end();
        let info: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(info, serde_json::json!({"server_id": "X", "nonce": "n"}));
        assert!(!is_wanted("INFO {}\r\n") && !is_wanted("INFO nonsense"));
        assert!(plain_info("INFO nonsense").is_err());
    }
}
