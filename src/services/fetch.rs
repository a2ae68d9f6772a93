//! A single blocking `GET`: fetches a document from a server, or asks whether a service answers. Follows no redirect,
//! keeps no cookie and no connection, and asks for no content coding.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header;
use hyper::{Request, Response, StatusCode};
use rustls::ClientConfig;
use tokio::runtime;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;
use url::Url;

use super::connect::{Connected, Opening, Writing, connect};
use super::open::{self, OpenConnections};
use super::redirects::redirect_target;
use super::{Activity, Service, USER_AGENT, Upstream};
use weirgate_runtime::Clock;
use weirgate_server::http::{ReadBodyError, read_body};

/// The limit for connecting, over all addresses of the server. The caller limits the whole fetch.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Limits of time and size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchLimits {
    /// For the whole fetch, from the look-up of the name to the last byte.
    pub whole: Duration,
    /// Bytes of the document.
    pub bytes_max: usize,
}

/// The reason for no document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The name is unknown, the server refuses, or the connection ended early.
    #[error("{0}")]
    Unreachable(io::Error),
    /// Over `FetchLimits::whole`.
    #[error("no whole answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Any status other than 200.
    #[error("the server answers {}{}", .0.as_u16(), redirect_note(*.0))]
    Status(StatusCode),
    /// Over `FetchLimits::bytes_max`.
    #[error("the answer is over {0} bytes")]
    TooLarge(usize),
}

fn redirect_note(status: StatusCode) -> &'static str {
    match status.is_redirection() {
        true => ", and redirects are not followed",
        false => "",
    }
}

/// A document to fetch.
#[derive(Clone)]
pub(crate) struct Fetch {
    service: Service,
    target: String,
    limits: FetchLimits,
    /// One at a time: its descriptor is one of those that are kept for other uses than clients and services.
    open: OpenConnections,
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fetch({})", self.service)
    }
}

impl Fetch {
    /// Prepares a fetch. `tls` is used for `https://`. Returns `None` if the URL has another scheme, no host, or a
    /// user.
    pub(crate) fn new(
        url: &Url,
        tls: Option<Arc<ClientConfig>>,
        limits: FetchLimits,
    ) -> Option<Self> {
        let mut origin = url.clone();
        origin.set_path("/");
        origin.set_query(None);
        let query = url.query().map(|query| format!("?{query}"));
        Some(Self {
            service: Service::new("document", Upstream::parse(origin.as_str())?, tls),
            target: format!("{}{}", url.path(), query.unwrap_or_default()),
            limits,
            open: OpenConnections::new(1, Clock::start()),
        })
    }

    /// Fetches the document. Blocks for [`FetchLimits::whole`] at the most.
    ///
    /// # Errors
    /// There is no document, or the document is too large.
    pub(crate) fn get(&self) -> Result<Vec<u8>, FetchError> {
        let whole = self.limits.whole;
        let document = block_on(async { timeout(whole, self.document()).await });
        let document = document.map_err(FetchError::Unreachable)?;
        document.unwrap_or(Err(FetchError::Timeout(whole)))
    }

    /// The body of the answer.
    ///
    /// # Errors
    /// No answer, another status than 200, or a body that is too large.
    async fn document(&self) -> Result<Vec<u8>, FetchError> {
        let response = get(&self.service, &self.target, &self.open).await;
        let response = response.map_err(FetchError::Unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let bytes_max = self.limits.bytes_max;
        // `None`: the bytes are not charged to any sum.
        let document = read_body(response.into_body(), bytes_max, None).await;
        document.map_err(|error| match error {
            ReadBodyError::TooLarge => FetchError::TooLarge(bytes_max),
            error => FetchError::Unreachable(io::Error::other(error)),
        })
    }
}

/// The response of a service to [`Service::probe`].
pub(crate) struct Probed {
    pub status: StatusCode,
    /// For people; empty without a redirect.
    pub redirect_target: String,
    /// From the look-up of the name to the response.
    pub elapsed: Duration,
}

impl Service {
    /// Sends `GET` for this path below the base path. A response of any status is a success. Blocks for as long as the
    /// service takes.
    ///
    /// # Errors
    /// The name is unknown, the connection is refused, TLS fails, or the server does not speak HTTP.
    pub(crate) fn probe(&self, path: &str) -> io::Result<Probed> {
        let begin = Instant::now();
        let target = format!("{}{path}", self.upstream.base_path);
        let open = OpenConnections::new(1, Clock::start());
        let response = block_on(get(self, &target, &open))??;
        Ok(Probed {
            status: response.status(),
            redirect_target: redirect_target(response.headers()),
            elapsed: begin.elapsed(),
        })
    }
}

/// Blocks on `work`, on a new runtime.
///
/// # Errors
/// The system refuses descriptors for an event loop.
fn block_on<F: Future>(work: F) -> io::Result<F::Output> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let output = LocalSet::new().block_on(&runtime, work);
    // The look-up of a name may still hang in the system's library; nothing waits for it.
    runtime.shutdown_background();
    Ok(output)
}

/// Sends `GET` for this target on a connection of its own, and returns the response. Must run in a [`LocalSet`].
///
/// # Errors
/// As [`Service::probe`].
async fn get(
    service: &Service,
    target: &str,
    open: &OpenConnections,
) -> io::Result<Response<Incoming>> {
    let opening = Opening {
        activity: Activity::start(),
        charge: Arc::new(open.charge().await),
        writing: Writing::InPlace,
    };
    let Connected { stream, .. } = connect(service, opening, CONNECT_MAX).await?;
    let handshake = open::protocol().handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    // A fault of the connection shows in the response.
    spawn_local(async { drop(connection.await) });
    let request = Request::get(target)
        .header(header::HOST, &service.upstream.authority)
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await;
    response.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const LIMITS: FetchLimits = FetchLimits {
        whole: Duration::from_secs(20),
        bytes_max: 1000,
    };

    /// Starts a server for one connection. Returns its address, and a thread that returns the head of the request.
    fn serve(
        answer: impl FnOnce(&mut TcpStream) + Send + 'static,
    ) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let run = move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            answer(&mut stream);
            String::from_utf8_lossy(&head).into_owned()
        };
        (addr, thread::spawn(run))
    }

    fn fetch(addr: SocketAddr, limits: FetchLimits) -> Result<Vec<u8>, FetchError> {
        let url = Url::parse(&format!("http://{addr}/a/keys?app=1")).expect("a URL");
        Fetch::new(&url, None, limits).expect("a host").get()
    }

    fn says(text: &'static str) -> impl FnOnce(&mut TcpStream) + Send {
        // The client may have left.
        move |stream| drop(stream.write_all(text.as_bytes()))
    }

    #[test]
    fn a_document_is_fetched_with_its_query() {
        let (addr, server) = serve(says("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nkeys"));
        assert_eq!(fetch(addr, LIMITS).expect("a document"), b"keys");
        let head = server.join().expect("a request");
        assert!(head.starts_with("GET /a/keys?app=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {addr}\r\n")), "{head}");
        assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
    }

    #[test]
    fn an_endless_or_slow_document_ends_at_its_limits() {
        let (addr, server) = serve(|stream| {
            let endless = "HTTP/1.1 200 OK\r\n\r\n".bytes().chain([b'x'; 5000]);
            drop(stream.write_all(&endless.collect::<Vec<u8>>()));
            drop(stream.read(&mut [0]));
        });
        let error = fetch(addr, LIMITS).expect_err("endless").to_string();
        assert_eq!(error, "the answer is over 1000 bytes");
        server.join().expect("ended");
        let (addr, server) = serve(says(
            "HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n",
        ));
        assert!(matches!(
            fetch(addr, LIMITS),
            Err(FetchError::TooLarge(1000))
        ));
        server.join().expect("ended");
        let limits = FetchLimits {
            whole: Duration::from_millis(50),
            ..LIMITS
        };
        for begin in ["", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nke"] {
            let (addr, server) = serve(move |stream| {
                drop(stream.write_all(begin.as_bytes()));
                drop(stream.read(&mut [0]));
            });
            let error = fetch(addr, limits).expect_err("slow").to_string();
            assert_eq!(error, "no whole answer within 50 ms", "{begin}");
            server.join().expect("ended");
        }
    }

    #[test]
    fn another_answer_is_no_document() {
        let (addr, server) = serve(says(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        ));
        let error = fetch(addr, LIMITS).expect_err("a redirect").to_string();
        assert_eq!(
            error,
            "the server answers 302, and redirects are not followed"
        );
        server.join().expect("ended");
        let (addr, server) = serve(says("HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n"));
        let error = fetch(addr, LIMITS).expect_err("away").to_string();
        assert_eq!(error, "the server answers 503");
        server.join().expect("ended");
        let large_head = "x".repeat(300_000) + "\r\ncontent-length: 0\r\n\r\n";
        for text in [
            "no HTTP at all\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nke",
            ("HTTP/1.1 200 OK\r\nx: ".to_owned() + &large_head).leak(),
        ] {
            let (addr, server) = serve(says(text));
            assert!(
                matches!(fetch(addr, LIMITS), Err(FetchError::Unreachable(_))),
                "{text}"
            );
            server.join().expect("ended");
        }
    }
}
