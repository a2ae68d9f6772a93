//! Connects to a service, and records when bytes moved on the connection.

use std::error::Error;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};

use super::{Service, lock};

/// A stream of bytes in both directions.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

/// When the last byte moved in either direction, and whether any byte arrived since the request began.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<ActivityTimes>);

#[derive(Debug)]
struct ActivityTimes {
    start: Instant,
    /// All in microseconds since the start.
    last_us: AtomicU64,
    asked_us: AtomicU64,
    /// The first sign of the connection's end; 0 before.
    ended_us: AtomicU64,
    has_received: AtomicBool,
}

impl Activity {
    /// Activity that began now.
    pub(crate) fn start() -> Self {
        Self(Arc::new(ActivityTimes {
            start: Instant::now(),
            last_us: AtomicU64::new(0),
            asked_us: AtomicU64::new(0),
            ended_us: AtomicU64::new(0),
            has_received: AtomicBool::new(false),
        }))
    }

    /// Records the begin of a request.
    pub(crate) fn ask(&self) {
        self.touch();
        let now_us = self.0.last_us.load(Relaxed);
        self.0.asked_us.store(now_us, Relaxed);
        self.0.has_received.store(false, Relaxed);
    }

    /// Returns true if any byte arrived since the request began.
    pub(crate) fn has_received(&self) -> bool {
        self.0.has_received.load(Relaxed)
    }

    /// The time from the beginning of the request to the first sign of the connection's end, or to now.
    pub(crate) fn asked_for(&self) -> Duration {
        let asked = self.at(&self.0.asked_us);
        match self.0.ended_us.load(Relaxed) {
            0 => asked.elapsed(),
            _ => self.at(&self.0.ended_us).saturating_duration_since(asked),
        }
    }

    /// Records a sign of the connection's end. Only the first call has an effect.
    fn end(&self) {
        let now_us = self.0.start.elapsed().as_micros() as u64;
        let ended_us = &self.0.ended_us;
        let _ = ended_us.compare_exchange(0, now_us.max(1), Relaxed, Relaxed);
    }

    /// The time of the last byte in either direction.
    pub(crate) fn last(&self) -> Instant {
        self.at(&self.0.last_us)
    }

    /// The time since the last byte in either direction.
    pub(crate) fn silent_for(&self) -> Duration {
        self.last().elapsed()
    }

    fn at(&self, us: &AtomicU64) -> Instant {
        self.0.start + Duration::from_micros(us.load(Relaxed))
    }

    fn touch(&self) {
        let now_us = self.0.start.elapsed().as_micros() as u64;
        self.0.last_us.store(now_us, Relaxed);
    }

    /// Returns the output of `future`, or `None` if no byte moves in either direction for `silence`. While `excused`
    /// returns true, a silence does not count.
    pub(crate) async fn unless_silent<F: Future>(
        &self,
        silence: Duration,
        excused: impl Fn() -> bool,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            match timeout_at(self.last() + silence, future.as_mut()).await {
                Ok(output) => return Some(output),
                Err(_) if excused() => self.touch(),
                Err(_) if self.last() + silence <= Instant::now() => return None,
                Err(_) => {}
            }
        }
    }
}

/// The name of this program in requests.
pub(crate) const USER_AGENT: &str = concat!("weirgate/", env!("CARGO_PKG_VERSION"));

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

/// A stream that records its activity.
struct Noted {
    stream: TcpStream,
    activity: Activity,
    /// Runs after the connection has ended without an answer: a reset may still follow.
    end: Option<Pin<Box<Sleep>>>,
    /// The error of the first failed write. It is reported only after everything that the service has sent is read,
    /// because a service may answer and close before it has read the request.
    failed: Option<io::Error>,
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            let before = buffer.filled().len();
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
            if read.is_err() || buffer.filled().len() == before {
                self.activity.end();
            }
            read?;
            if buffer.filled().len() > before {
                self.activity.touch();
                self.activity.0.has_received.store(true, Relaxed);
            }
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

impl AsyncWrite for Noted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.failed.is_none() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes)) {
                Ok(taken) => {
                    self.activity.touch();
                    return Poll::Ready(Ok(taken));
                }
                Err(error) => {
                    self.activity.end();
                    self.failed = Some(error);
                }
            }
        }
        // The reader will find an answer or the end of the connection.
        Poll::Pending
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connects to a service, with TLS if it is at `https://`. Tries the next address of its host if an address fails or
/// takes longer than its share of `silence`. Returns the address too.
///
/// # Errors
/// The name is unknown, the connection is refused, or the certificate is not the service's.
pub(crate) async fn connect(
    service: &Service,
    activity: &Activity,
    silence: Duration,
) -> io::Result<(TokioIo<Box<dyn Bytes>>, SocketAddr)> {
    let upstream = &service.upstream;
    let found = lookup_host((upstream.host.as_str(), upstream.port)).await?;
    let addresses = lock(&service.left).in_turn(found.collect());
    let mut failure = io::Error::new(ErrorKind::NotFound, "the name has no address");
    let each = silence / addresses.len().max(1) as u32;
    for address in addresses {
        failure = match timeout(each, connect_to(service, activity, address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(ErrorKind::TimedOut, "connecting took too long"),
        };
        lock(&service.left).leave(address, std::time::Instant::now(), failure.to_string());
    }
    Err(failure)
}

async fn connect_to(
    service: &Service,
    activity: &Activity,
    address: SocketAddr,
) -> io::Result<TokioIo<Box<dyn Bytes>>> {
    let upstream = &service.upstream;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = Noted {
        stream,
        activity: activity.clone(),
        end: None,
        failed: None,
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
