//! One service's connections: bounded, kept for a while, each with one request at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::body::ToService;
use super::headers;
use super::stats::{Outcome, ServiceStats};
use crate::http::body::{BoxError, Progress};
use crate::http::calls::{Activity, KEPT_FOR, Upstream, connect, is_reset};

/// An answer's head may have this many bytes, and hyper reads this many of a body at a time.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// One service.
pub(super) struct Client {
    upstream: Upstream,
    tls: Option<TlsConnector>,
    silence: Duration,
    places: Arc<Semaphore>,
    kept: Arc<Mutex<Vec<Link>>>,
    stats: Arc<ServiceStats>,
}

/// A connection with no request on its way.
struct Link {
    sender: SendRequest<ToService>,
    activity: Activity,
}

/// A connection in use.
pub(super) struct Lease {
    link: Link,
    kept: Arc<Mutex<Vec<Link>>>,
    /// Only held: its place among those of the service.
    _place: OwnedSemaphorePermit,
}

impl Lease {
    /// Gives it back for the next request.
    pub(super) fn keep(self) {
        if !self.link.sender.is_closed() {
            lock(&self.kept).push(self.link);
        }
    }

    /// When bytes last went either way.
    pub(super) fn last_heard(&self) -> Instant {
        self.link.activity.last()
    }
}

/// Why there is no answer to pass on.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) outcome: Outcome,
    pub(super) cause: BoxError,
}

impl Failure {
    fn new(outcome: Outcome, cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        Self { outcome, cause }
    }

    /// Refused, cut, or no HTTP.
    fn unreachable(cause: impl Into<BoxError>) -> Self {
        Self::new(Outcome::Unreachable, cause)
    }
}

/// What became of a request on one connection.
enum Fault {
    /// The service had ended the connection; the request may be sent again.
    Stale(Box<Request<ToService>>),
    Failed(Failure),
}

/// A request that the connection ended on.
enum Unanswered {
    Unsent(Box<Request<ToService>>),
    Sent(hyper::Error),
}

impl Client {
    pub(super) fn new(
        upstream: Upstream,
        tls: Option<TlsConnector>,
        silence: Duration,
        connections_max: usize,
        stats: Arc<ServiceStats>,
    ) -> Self {
        Self {
            tls: tls.filter(|_| upstream.wants_tls()),
            upstream,
            silence,
            places: Arc::new(Semaphore::new(connections_max)),
            kept: Arc::default(),
            stats,
        }
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Sends a request, over a kept connection where there is one; waits for the answer's head.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn send(
        &self,
        mut request: Request<ToService>,
        upload: &Progress,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut place = self.place().await?;
        loop {
            let kept = self.take_kept();
            let is_new = kept.is_none();
            let link = match kept {
                Some(link) => link,
                None => self.connect().await?,
            };
            let lease = Lease {
                link,
                kept: Arc::clone(&self.kept),
                _place: place,
            };
            match self.exchange(lease, request, upload).await {
                Ok(answer) => return Ok(answer),
                Err((Fault::Failed(failure), _)) => return Err(failure),
                Err((Fault::Stale(_), _)) if is_new => {
                    return Err(Failure::unreachable(
                        "ended the connection without an answer",
                    ));
                }
                Err((Fault::Stale(again), lease)) => {
                    (request, place) = (*again, lease._place);
                }
            }
        }
    }

    /// A place among the connections of the service, once there is one.
    async fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        self.stats.count_wait();
        let place = timeout(self.silence, Arc::clone(&self.places).acquire_owned()).await;
        let none = |cause| Failure::new(Outcome::NoConnection, cause);
        let place = place.map_err(|_| none("all connections to the service are in use"))?;
        // Nobody closes the semaphore.
        place.map_err(|_| none("closed"))
    }

    fn take_kept(&self) -> Option<Link> {
        let mut kept = lock(&self.kept);
        kept.retain(|link| !link.sender.is_closed() && link.activity.silent_for() < KEPT_FOR);
        kept.pop()
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let activity = Activity::start();
        let connected = timeout(self.silence, async {
            let stream = connect(&self.upstream, self.tls.as_ref(), &activity).await;
            let stream = stream.map_err(Failure::unreachable)?;
            let mut builder = Builder::new();
            builder.max_buf_size(BUFFER_BYTES_MAX);
            let shaken = builder.handshake(stream).await;
            shaken.map_err(Failure::unreachable)
        });
        let timeout = |_| Err(Failure::new(Outcome::Timeout, "connecting took too long"));
        let (sender, connection) = connected.await.unwrap_or_else(timeout)?;
        // Its faults are those of its requests. It ends with its sender.
        spawn_local(async { drop(connection.await) });
        Ok(Link { sender, activity })
    }

    async fn exchange(
        &self,
        mut lease: Lease,
        request: Request<ToService>,
        upload: &Progress,
    ) -> Result<(Response<Incoming>, Lease), (Fault, Lease)> {
        let activity = lease.link.activity.clone();
        activity.ask();
        let again = again(&request);
        let sender = &mut lease.link.sender;
        let send = async {
            // Not ready is closed: it had its answer, and took its request to the end.
            if sender.ready().await.is_err() {
                return Err(Unanswered::Unsent(Box::new(request)));
            }
            let sent = sender.try_send_request(request).await;
            sent.map_err(|mut error| match error.take_message() {
                Some(request) => Unanswered::Unsent(Box::new(request)),
                None => Unanswered::Sent(error.into_error()),
            })
        };
        let excused = || upload.is_owed();
        let outcome = activity
            .unless_silent_but(self.silence, excused, send)
            .await;
        let fault = match outcome {
            Some(Ok(answer)) if can_be_passed_on(&answer) => return Ok((answer, lease)),
            Some(Ok(_)) => Fault::Failed(Failure::unreachable("an answer in another protocol")),
            Some(Err(Unanswered::Unsent(request))) => Fault::Stale(request),
            Some(Err(Unanswered::Sent(error))) => match again {
                Some(again) if !activity.heard() && is_reset(&error) => {
                    Fault::Stale(Box::new(again))
                }
                _ => Fault::Failed(Failure::unreachable(error)),
            },
            None => Fault::Failed(Failure::new(Outcome::Timeout, "the service is silent")),
        };
        Err((fault, lease))
    }
}

/// It changes no protocol, which nobody asked for, and its body is one that others can read.
fn can_be_passed_on(answer: &Response<Incoming>) -> bool {
    answer.status() != StatusCode::SWITCHING_PROTOCOLS
        && !headers::has_other_coding(answer.headers())
}

/// The request once more, where sending it twice does no harm (RFC 9110 §9.2.2) and there is no
/// body, which can be sent once only.
fn again(request: &Request<ToService>) -> Option<Request<ToService>> {
    let body = request
        .body()
        .again()
        .filter(|_| request.method().is_idempotent())?;
    let mut again = Request::new(body);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// No holder of this lock can panic.
fn lock(kept: &Mutex<Vec<Link>>) -> std::sync::MutexGuard<'_, Vec<Link>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
