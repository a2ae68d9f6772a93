//! Connects to a service. Two streams are around the bytes of HTTP: below TLS, [`ActivityStream`] notes when bytes move;
//! above it, [`AnswerStream`] notes whether an answer has begun, and tells a reset from another end of the connection.
//! Below TLS, the record that ends a connection would count as an answer.

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
use tokio_rustls::client::TlsStream;

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

/// A socket that records its activity.
struct ActivityStream {
    stream: TcpStream,
    activity: Activity,
    writing: Writing,
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
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        match buffer.filled().len() > before {
            true => self.activity.note_moved(),
            false => self.activity.note_end(),
        }
        Poll::Ready(read)
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

/// The bytes of HTTP above a socket.
trait Above: Bytes {
    fn socket(&mut self) -> &mut ActivityStream;
}

impl Above for ActivityStream {
    fn socket(&mut self) -> &mut ActivityStream {
        self
    }
}

impl Above for TlsStream<ActivityStream> {
    fn socket(&mut self) -> &mut ActivityStream {
        self.get_mut().0
    }
}

/// The bytes of HTTP. Records that an answer has begun; at an end without one, waits for a reset.
struct AnswerStream<S> {
    stream: S,
    activity: Activity,
    end: Option<SilentEnd>,
}

/// The end of a connection without an answer.
struct SilentEnd {
    /// A reset may still follow.
    reset_follows: Pin<Box<Sleep>>,
    /// How TLS calls an end that it does not announce.
    error: Option<io::Error>,
}

impl<S: Above> AsyncRead for AnswerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            let before = buffer.filled().len();
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
            if buffer.filled().len() > before {
                self.activity.note_received();
            } else {
                // TLS may end before the connection does.
                self.activity.note_end();
            }
            let error = match read {
                // After the begin of an answer, a reset says nothing about the request.
                read if self.activity.has_received() => return Poll::Ready(read),
                Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Err(error));
                }
                ended => ended.err(),
            };
            self.end = Some(SilentEnd {
                reset_follows: Box::pin(sleep(RESET_FOLLOWS)),
                error,
            });
        }
        let this = &mut *self;
        if let Some(failed) = this.stream.socket().failed.take() {
            return Poll::Ready(Err(failed));
        }
        let Some(end) = &mut this.end else {
            return Poll::Ready(Ok(()));
        };
        ready!(end.reset_follows.as_mut().poll(cx));
        let reset = this.stream.socket().stream.take_error()?;
        Poll::Ready(reset.or_else(|| end.error.take()).map_or(Ok(()), Err))
    }
}

impl<S: Above> AsyncWrite for AnswerStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Above> AnswerStream<S> {
    fn boxed(stream: S, activity: &Activity) -> Box<dyn Bytes>
    where
        S: 'static,
    {
        Box::new(Self {
            stream,
            activity: activity.clone(),
            end: None,
        })
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
        failed: None,
        _charge: Arc::clone(&opening.charge),
    };
    let bytes = match &service.tls {
        Some(tls) => {
            let name = ServerName::try_from(upstream.host.clone());
            let name = name.map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
            AnswerStream::boxed(tls.connect(name, stream).await?, &opening.activity)
        }
        None => AnswerStream::boxed(stream, &opening.activity),
    };
    Ok(TokioIo::new(bytes))
}
