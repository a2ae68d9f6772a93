//! `weirgate health`: one `GET /health`, for a container without another HTTP client.
//!
//! A small blocking client, in a process of its own, apart from the loop. Called by `commands`.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use socket2::Socket;

use crate::listening::ListenAddr;
use crate::listening::tls::of_own_certificate;
use crate::settings::Checked;

/// The bytes of the response to read: the status line is the first few bytes.
const ANSWER_BYTES_MAX: usize = 1024;

/// The header of the PROXY protocol for a connection of the proxy itself.
const OWN_HEADER: &[u8] = b"PROXY UNKNOWN\r\n";

/// The addresses to ask, and the time limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    addrs: Vec<ListenAddr>,
    /// The file with the gateway's certificate, if the addresses are for TLS.
    certificate: Option<PathBuf>,
    /// The addresses to which a connection begins with a header of the PROXY protocol.
    with_header: Vec<ListenAddr>,
    timeout_ms: u64,
}

/// The reason why the gateway does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthCheckError {
    /// No response: there is no listener, or the time limit has passed.
    #[error("no answer from {scheme}://{addr}/health: {error}")]
    NoAnswer {
        /// `http` or `https`.
        scheme: &'static str,
        /// The last address.
        addr: ListenAddr,
        /// The error of the last request.
        error: io::Error,
    },
    /// A response other than 200.
    #[error("{scheme}://{addr}/health answered: {answer}")]
    Unhealthy {
        /// `http` or `https`.
        scheme: &'static str,
        /// The address.
        addr: ListenAddr,
        /// The status line, bounded.
        answer: String,
    },
}

impl HealthCheck {
    /// A check of a gateway with these settings: over TLS if the gateway listens on no other address.
    pub fn of(checked: &Checked) -> Self {
        let timeout_ms = checked.number("health-timeout-ms");
        let plain = Self::new(&checked.listen(), timeout_ms);
        let (check, certificate) = match plain.addrs.is_empty() {
            false => (plain, None),
            true => {
                let over_tls = Self::new(&checked.listen_tls(), timeout_ms);
                (over_tls, checked.tls_certificate())
            }
        };
        let addrs = check.addrs.iter();
        let with_header = addrs.filter(|addr| checked.begins_with_header(addr));
        Self {
            certificate,
            with_header: with_header.cloned().collect(),
            ..check
        }
    }

    /// A check of a gateway that listens on `listen`; loopback replaces an unspecified address. `timeout_ms`
    /// limits the whole check.
    pub fn new(listen: &[ListenAddr], timeout_ms: u64) -> Self {
        Self {
            addrs: listen.iter().flat_map(ListenAddr::to_connect).collect(),
            certificate: None,
            with_header: Vec::new(),
            timeout_ms,
        }
    }

    /// Asks each address until a response is 200.
    ///
    /// # Errors
    /// No response was 200: the last error.
    pub fn run(&self) -> Result<(), HealthCheckError> {
        let deadline = Instant::now() + Duration::from_millis(self.timeout_ms);
        let scheme = if self.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        let mut result = Ok(());
        for addr in &self.addrs {
            let asked = self.ask(addr, deadline);
            let addr = addr.clone();
            result = match asked {
                Ok(answer) if is_200(&answer) => return Ok(()),
                Ok(answer) => Err(HealthCheckError::Unhealthy {
                    scheme,
                    addr,
                    answer,
                }),
                Err(error) => Err(HealthCheckError::NoAnswer {
                    scheme,
                    addr,
                    error,
                }),
            };
        }
        result
    }

    /// Returns the status line of the response.
    fn ask(&self, addr: &ListenAddr, deadline: Instant) -> io::Result<String> {
        let mut socket = addr.connect(left(deadline)?)?;
        socket.set_write_timeout(Some(left(deadline)?))?;
        let host = match addr {
            ListenAddr::Tcp(addr) => addr.to_string(),
            ListenAddr::Unix(_) => "localhost".to_owned(),
        };
        if self.with_header.contains(addr) {
            socket.write_all(OWN_HEADER)?;
        }
        let (Some(file), ListenAddr::Tcp(tcp)) = (&self.certificate, addr) else {
            return exchange(socket, |socket| socket, &host, deadline);
        };
        let config = of_own_certificate(file).map_err(io::Error::other)?;
        let name = ServerName::from(tcp.ip());
        let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let stream = StreamOwned::new(session, socket);
        exchange(stream, |stream| &stream.sock, &host, deadline)
    }
}

/// Asks, and returns the status line of the response.
fn exchange<S: Read + Write>(
    mut stream: S,
    socket: impl Fn(&S) -> &Socket,
    host: &str,
    deadline: Instant,
) -> io::Result<String> {
    socket(&stream).set_read_timeout(Some(left(deadline)?))?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; ANSWER_BYTES_MAX];
    while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
        socket(&stream).set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            n => answer.extend(buffer.iter().take(n)),
        }
    }
    let line = answer.split(|&b| b == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}

/// Returns the time to `deadline`. Zero is an error, because a socket timeout of zero means "for ever".
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn is_200(status_line: &str) -> bool {
    let mut words = status_line.split(' ');
    words.next().is_some_and(|v| v.starts_with("HTTP/1.")) && words.next() == Some("200")
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::thread;

    use super::*;

    /// Runs a check against a listener that reads the request, then sends `parts` one by one.
    fn answered(parts: &'static [&'static str], timeout_ms: u64) -> Result<(), HealthCheckError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let check = HealthCheck::new(&[listener.local_addr().unwrap().into()], timeout_ms);
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            for part in parts {
                stream.write_all(part.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
            if parts.is_empty() {
                // Silent until the client has given up.
                let _ = stream.read(&mut byte);
            }
            String::from_utf8(request).unwrap()
        });
        let result = check.run();
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"));
        result
    }

    #[test]
    fn only_200_is_healthy() {
        assert!(answered(&["HTTP/1.1 200 OK\r\n\r\n{}"], 5000).is_ok());
        assert!(answered(&["HTTP/1", ".1 20", "0 OK\r\n"], 5000).is_ok());
        for answer in [
            &["HTTP/1.1 503 Service Unavailable\r\n\r\n"],
            &["HTTP/1.1 2000 OK\r\n\r\n"],
            &["hello\n"],
        ] {
            let error = answered(answer, 5000).unwrap_err();
            assert!(
                matches!(error, HealthCheckError::Unhealthy { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn silence_and_a_closed_port_end_in_time() {
        let started = Instant::now();
        let error = answered(&[], 50).unwrap_err();
        assert!(
            matches!(error, HealthCheckError::NoAnswer { .. }),
            "{error}"
        );
        // Nobody listens there.
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = HealthCheck::new(&[addr.into()], 1000).run().unwrap_err();
        assert!(error.to_string().contains("/health"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_unix_socket_is_asked_too_and_one_answer_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 512];
            let n = stream.read(&mut head).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            String::from_utf8_lossy(&head[..n]).into_owned()
        });
        let nobody = ListenAddr::Unix(folder.path().join("nobody"));
        let both = [nobody.clone(), ListenAddr::Unix(path)];
        assert!(HealthCheck::new(&both, 5000).run().is_ok());
        assert!(server.join().unwrap().contains("Host: localhost\r\n"));
        let error = HealthCheck::new(&[nobody], 5000).run().unwrap_err();
        assert!(error.to_string().contains("http://unix:/"), "{error}");
    }
}
