//! Connects to a service. The stream notes its [`Activity`], and tells a reset from another end of the connection.

use std::error::Error;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Sleep, sleep, timeout};

use super::activity::Activity;
use super::open::Charge;
use super::{Service, lock};

/// A stream of bytes in both directions.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

/// How long to wait for a reset after the end of a connection. A service that had closed the connection before the
/// request arrived sends a reset within a round trip; one that took the request and closes without an answer sends none.
const RESET_FOLLOWS: Duration = Duration::from_millis(50);

/// Whether the service reset the connection, so it had closed before it read the whole request.
pub(super) fn is_reset(error: &hyper::Error) -> bool {
    const KINDS: [ErrorKind; 3] = [
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::BrokenPipe,
    ];
    let cause = error.source().and_then(<dyn Error>::downcast_ref);
    cause.is_some_and(|cause: &io::Error| KINDS.contains(&cause.kind()))
}

/// How hyper writes the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// From where the body is, for one that is there whole and charged: a copy would stay with the connection, as large as
    /// the largest body.
    InPlace,
    /// From a buffer of limited size, for a body in pieces: small pieces may keep much larger buffers in memory.
    Copied,
}

/// What a new connection needs.
pub(super) struct Opening {
    pub activity: Activity,
    pub charge: Arc<Charge>,
    pub writing: Writing,
}

/// A stream that records its activity.
struct ActivityStream {
    stream: TcpStream,
    activity: Activity,
    writing: Writing,
    /// Runs after the connection has ended without an answer: a reset may still follow.
    end: Option<Pin<Box<Sleep>>>,
    /// The error of the first failed write. It is reported only after everything that the service has sent is read,
    /// because a service may answer and close before it has read the request.
    failed: Option<io::Error>,
    /// Given back once the socket is closed.
    _charge: Arc<Charge>,
}

impl ActivityStream {
    /// Writes with `write`, and records the outcome.
    fn poll_write_with(
        &mut self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.failed.is_none() {
            match ready!(write(Pin::new(&mut self.stream))) {
                Ok(taken) => {
                    self.activity.note_moved();
                    return Poll::Ready(Ok(taken));
                }
                Err(error) => {
                    self.activity.note_end();
                    self.failed = Some(error);
                }
            }
        }
        // The reader will find an answer or the end of the connection.
        Poll::Pending
    }
}

impl AsyncRead for ActivityStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            let before = buffer.filled().len();
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
            if read.is_err() || buffer.filled().len() == before {
                self.activity.note_end();
            }
            read?;
            if buffer.filled().len() > before {
                self.activity.note_received();
            }
            // After the begin of an answer, a reset says nothing about the request.
            if self.activity.has_received() {
                return Poll::Ready(Ok(()));
            }
        }
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let end = self
            .end
            .get_or_insert_with(|| Box::pin(sleep(RESET_FOLLOWS)));
        ready!(end.as_mut().poll(cx));
        Poll::Ready(self.stream.take_error()?.map_or(Ok(()), Err))
    }
}

impl AsyncWrite for ActivityStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(|stream| stream.poll_write_vectored(cx, slices))
    }

    /// By this hyper chooses whether to copy.
    fn is_write_vectored(&self) -> bool {
        self.writing == Writing::InPlace
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A new connection to a service.
pub(crate) struct Connected {
    pub stream: TokioIo<Box<dyn Bytes>>,
    /// Which of the addresses of its host.
    pub address: SocketAddr,
}

/// Connects to a service, with TLS if it is at `https://`. Tries the next address of its host if an address fails or
/// takes longer than its share of `silence`.
///
/// # Errors
/// The name is unknown, the connection is refused, or the certificate is not the service's.
pub(crate) async fn connect(
    service: &Service,
    opening: Opening,
    silence: Duration,
) -> io::Result<Connected> {
    let upstream = &service.upstream;
    let addresses = lookup_host((upstream.host.as_str(), upstream.port)).await?;
    let addresses = lock(&service.failed_addresses).in_order(addresses.collect());
    let mut failure = io::Error::new(ErrorKind::NotFound, "the name has no address");
    let each = silence / addresses.len().max(1) as u32;
    for address in addresses {
        failure = match timeout(each, connect_to(service, &opening, address)).await {
            Ok(Ok(stream)) => return Ok(Connected { stream, address }),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(ErrorKind::TimedOut, "connecting took too long"),
        };
        lock(&service.failed_addresses).note_failure(
            address,
            std::time::Instant::now(),
            failure.to_string(),
        );
    }
    Err(failure)
}

/// Connects to one address of the service, with TLS if its URL says so.
async fn connect_to(
    service: &Service,
    opening: &Opening,
    address: SocketAddr,
) -> io::Result<TokioIo<Box<dyn Bytes>>> {
    let upstream = &service.upstream;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = ActivityStream {
        stream,
        activity: opening.activity.clone(),
        writing: opening.writing,
        end: None,
        failed: None,
        _charge: Arc::clone(&opening.charge),
    };
    let bytes: Box<dyn Bytes> = match &service.tls {
        Some(tls) => {
            let name = ServerName::try_from(upstream.host.clone());
            let name = name.map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
            Box::new(tls.connect(name, stream).await?)
        }
        None => Box::new(stream),
    };
    Ok(TokioIo::new(bytes))
}
