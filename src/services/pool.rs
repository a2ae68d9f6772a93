//! The connections to a service. Each serves one request at a time, and is kept for reuse for a while.

use std::fmt::Display;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, StatusCode};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::activity::Activity;
use super::connect::{self, Connected, Writing};
use super::open::{self, Charge, KEPT_FOR, OpenConnections};
use super::permits::ServicePermit;
use super::{Service, SharedFailedAddresses, lock};
use weirgate_server::http::BoxError;

/// The decisions of the owner of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// For connecting, and for each silence of the service.
    pub silence: Duration,
    /// Whether to repeat a request on another connection after its connection ended without an answer. Called only if
    /// the request can be copied. An attempt on a new connection is the last.
    pub may_resend: fn(&Ended) -> bool,
}

/// How a connection ended during a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// No byte of the request was written.
    pub is_unsent: bool,
    /// The service reset the connection, so it had closed before it read the whole request.
    pub is_reset: bool,
    /// Bytes of an answer arrived since the request began.
    pub has_received: bool,
    /// The time from the beginning of the request to the first sign of the connection's end.
    pub after: Duration,
    /// Whether repeating the request does no harm (RFC 9110 §9.2.2).
    pub is_idempotent: bool,
}

/// If a service had closed a kept connection before a request arrived, it resets the connection within a round trip. A
/// reset after this time probably comes from a service that had read the request, and a repeated request could do its
/// work twice. A round trip in one data centre takes less than 1 ms; the rest is for a busy machine.
const CROSSED_MAX: Duration = Duration::from_millis(20);

impl Ended {
    /// Whether the service cannot have read the request: either nothing of it was written, or the service had closed
    /// the connection before it arrived.
    pub(crate) fn is_unread(&self) -> bool {
        self.is_unsent || (self.is_reset && !self.has_received && self.after < CROSSED_MAX)
    }
}

/// The body of a request to a service.
pub(crate) trait RepeatableBody:
    Body<Data = Bytes, Error: Into<BoxError>> + Send + Sized + 'static
{
    /// How the body is written to the service.
    const WRITING: Writing;

    /// Returns a copy of the whole body, or `None` if it cannot be sent again.
    fn again(&self) -> Option<Self>;
}

impl RepeatableBody for Full<Bytes> {
    const WRITING: Writing = Writing::InPlace;

    fn again(&self) -> Option<Self> {
        Some(self.clone())
    }
}

/// The connections to a service.
pub(crate) struct Pool<B> {
    service: Service,
    policy: Policy,
    /// The limit on the connections of this and other pools.
    open: OpenConnections,
    kept: KeptConnections<B>,
}

/// The idle connections. The one that was used last is reused first.
type KeptConnections<B> = Arc<Mutex<Vec<Connection<B>>>>;

struct Connection<B> {
    sender: SendRequest<B>,
    activity: Activity,
    /// The charge of the connection's task; ends with the task.
    charge: Weak<Charge>,
    address: SocketAddr,
    /// The last answer announced a body although it must not have one. Some services send such a body all the same, for
    /// example after a `HEAD`, and its bytes would be read as the answer to the next request.
    may_send_more: bool,
}

/// A connection in use. Dropping this ends the connection; [`Lease::keep`] returns the connection to the
/// pool.
pub(crate) struct Lease<B> {
    connection: Connection<B>,
    kept: KeptConnections<B>,
    failed_addresses: SharedFailedAddresses,
    /// Counts the connection towards the limit of the service; `None` if the caller limits its requests itself.
    permit: Option<Arc<ServicePermit>>,
}

impl<B> Lease<B> {
    /// Returns the connection to the pool, unless it is closed or may still receive bytes of its last answer.
    pub(crate) fn keep(self) {
        let connection = self.connection;
        if !connection.sender.is_closed()
            && !connection.may_send_more
            && let Some(charge) = connection.charge.upgrade()
        {
            lock(&self.kept).push(connection);
            charge.note_idle();
        }
    }

    /// Records that an answer broke off after its head, so that the next connection tries other addresses of the host
    /// first.
    pub(crate) fn cut(&self, why: &dyn Display) {
        lock(&self.failed_addresses).note_failure(
            self.connection.address,
            Instant::now(),
            why.to_string(),
        );
    }

    /// The permit of the request, if counted here.
    pub(crate) fn permit(&self) -> Option<&ServicePermit> {
        self.permit.as_deref()
    }

    /// A weak reference to the permit of the request, if it is counted here: valid for as long as the request has the
    /// permit.
    pub(crate) fn permit_kept(&self) -> Weak<ServicePermit> {
        self.permit.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    /// The activity of the connection.
    pub(crate) fn activity(&self) -> &Activity {
        &self.connection.activity
    }
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureReason {
    /// The service refused, broke off, or did not speak HTTP.
    Unreachable,
    /// The answer's head has more header lines than [`ANSWER_HEADERS_MAX`](super::ANSWER_HEADERS_MAX), or more bytes
    /// than [`ANSWER_HEAD_BYTES_MAX`](super::ANSWER_HEAD_BYTES_MAX).
    HeadTooLarge,
    /// The service was silent for too long.
    Timeout,
    /// No connection to the service became free in time.
    NoConnection,
    /// The client's body broke off, or its chunks have no clear end. This says nothing about the service.
    RequestBody,
}

/// A request without an answer, with the cause.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The label of the metric of failures.
    pub reason: FailureReason,
    /// The cause, for the log.
    pub cause: BoxError,
}

impl Failure {
    fn new(reason: FailureReason, cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        Self { reason, cause }
    }

    /// The failure if no connection to the service became free in time.
    pub(crate) fn no_connection() -> Self {
        let cause = "all connections to the service are in use";
        Self::new(FailureReason::NoConnection, cause)
    }

    /// Whether the failure means that the service does not answer.
    fn is_silence(&self) -> bool {
        matches!(
            self.reason,
            FailureReason::Unreachable | FailureReason::Timeout
        )
    }

    /// Whether the failure says nothing about the service.
    fn is_own(&self) -> bool {
        matches!(
            self.reason,
            FailureReason::RequestBody | FailureReason::NoConnection
        )
    }

    /// No connection was made, or it ended without an answer.
    pub(crate) fn unreachable(cause: impl Into<BoxError>) -> Self {
        Self::new(FailureReason::Unreachable, cause)
    }
}

/// The failure of a request on a connection.
enum Fault<B> {
    /// The connection ended, and the request may be repeated.
    Stale(Box<Request<B>>),
    Failed(Failure),
}

impl<B: RepeatableBody> Pool<B> {
    /// A pool without connections. `open` limits them, together with those of other pools.
    pub(crate) fn new(service: Service, policy: Policy, open: OpenConnections) -> Self {
        let kept = Arc::default();
        Self {
            service,
            policy,
            open,
            kept,
        }
    }

    /// The service of this pool.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// Sends a request, on a kept connection if there is one, and waits for the answer's head. While `excused` returns
    /// true, a silence of the service does not count.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn send(
        &self,
        permit: Option<Arc<ServicePermit>>,
        request: Request<B>,
        excused: impl Fn() -> bool,
    ) -> Result<(Response<Incoming>, Lease<B>), Failure> {
        let sent = self.send_on_some(permit, request, excused).await;
        let answering = &self.service.answering;
        match &sent {
            Err(failure) if failure.is_silence() => answering.failed(&failure.cause),
            // They say nothing about the service.
            Err(failure) if failure.is_own() => {}
            // An answer whose head is too large is an answer, too.
            Ok(_) | Err(_) => answering.answered(),
        }
        sent
    }

    /// Sends a request on a kept connection, or on a new one. If a kept connection ends without an answer and the
    /// policy permits it, sends the request again on the next connection.
    async fn send_on_some(
        &self,
        mut permit: Option<Arc<ServicePermit>>,
        mut request: Request<B>,
        excused: impl Fn() -> bool,
    ) -> Result<(Response<Incoming>, Lease<B>), Failure> {
        loop {
            let kept = self.take_kept();
            let is_new = kept.is_none();
            let connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let mut lease = Lease {
                connection,
                kept: Arc::clone(&self.kept),
                failed_addresses: self.service.failed_addresses.clone(),
                permit,
            };
            let answer = self.exchange(&mut lease.connection, request, &excused);
            let failure = match answer.await {
                Ok(answer) => return Ok((answer, lease)),
                Err(Fault::Stale(again)) if !is_new => {
                    (request, permit) = (*again, lease.permit);
                    continue;
                }
                Err(Fault::Stale(_)) => {
                    Failure::unreachable("ended the connection without an answer")
                }
                Err(Fault::Failed(failure)) => failure,
            };
            if failure.is_silence() {
                lease.cut(&failure.cause);
            }
            return Err(failure);
        }
    }

    /// Takes the idle connection that was used last, without those that are about to end.
    fn take_kept(&self) -> Option<Connection<B>> {
        let mut kept = lock(&self.kept);
        while let Some(connection) = kept.pop() {
            if let Some(charge) = connection.charge.upgrade()
                && !connection.sender.is_closed()
                && connection.activity.silent_for() < KEPT_FOR
                && !charge.is_evicted()
            {
                charge.note_request();
                return Some(connection);
            }
        }
        None
    }

    /// Connects to the service.
    ///
    /// # Errors
    /// There is no room for a connection, or the service cannot be reached, within the time for a silence each.
    async fn connect(&self) -> Result<Connection<B>, Failure> {
        let activity = Activity::start();
        let silence = self.policy.silence;
        let charge = timeout(silence, self.open.charge()).await;
        let charge = Arc::new(charge.map_err(|_| Failure::no_connection())?);
        let connected = timeout(silence, async {
            let opening = connect::Opening {
                activity: activity.clone(),
                charge: Arc::clone(&charge),
                writing: B::WRITING,
            };
            let connected = connect::connect(&self.service, opening, silence).await;
            let Connected { stream, address } = connected.map_err(|error| match error.kind() {
                ErrorKind::TimedOut => Failure::new(FailureReason::Timeout, error),
                _ => Failure::unreachable(error),
            })?;
            let shaken = open::protocol().handshake(stream).await;
            let (sender, connection) = shaken.map_err(Failure::unreachable)?;
            Ok((sender, connection, address))
        });
        let late = |_| Failure::new(FailureReason::Timeout, "connecting took too long");
        let (sender, connection, address) = connected.await.map_err(late)??;
        let of_task = Arc::downgrade(&charge);
        self.serve(connection, activity.clone(), charge);
        Ok(Connection {
            sender,
            activity,
            charge: of_task,
            address,
            may_send_more: false,
        })
    }

    /// Starts the task of a connection. Faults of the connection show in its requests. The task ends when the sender is
    /// dropped.
    fn serve(&self, connection: impl Future + 'static, activity: Activity, charge: Arc<Charge>) {
        // Boxed, because each future that it moves into would have room for it.
        let connection = Box::pin(connection);
        let kept = Arc::downgrade(&self.kept);
        let own = Arc::downgrade(&charge);
        let retire = move || {
            kept.upgrade().is_some_and(|kept| {
                let mut kept = lock(&kept);
                let is_own = |kept: &Connection<B>| kept.charge.ptr_eq(&own);
                let at = kept.iter().position(is_own);
                at.is_some_and(|at| {
                    kept.remove(at);
                    true
                })
            })
        };
        spawn_local(async move {
            open::serve(connection, &activity, &charge, &retire).await;
            // A connection that ended by itself may still be among the kept ones.
            retire();
        });
    }

    /// Sends a request on a connection, and waits for the head of the answer. The fault says whether the request may be
    /// sent again on another connection.
    async fn exchange(
        &self,
        connection: &mut Connection<B>,
        request: Request<B>,
        excused: impl Fn() -> bool,
    ) -> Result<Response<Incoming>, Fault<B>> {
        let Connection {
            sender,
            activity,
            may_send_more,
            ..
        } = connection;
        activity.note_request();
        let is_head = request.method() == Method::HEAD;
        let is_idempotent = request.method().is_idempotent();
        let copy = again(&request);
        let send = async {
            // Fails only if the service has closed the connection since the earlier request, which is complete.
            if let Err(error) = sender.ready().await {
                return Err((Some(request), error));
            }
            let sent = sender.try_send_request(request).await;
            // hyper gives the request back if nothing of it was written.
            sent.map_err(|mut error| (error.take_message(), error.into_error()))
        };
        let sent = activity.unless_silent(self.policy.silence, excused, send);
        let (unsent, error) = match sent.await {
            Some(Ok(answer)) => {
                *may_send_more = announces_too_much(is_head, &answer);
                return Ok(answer);
            }
            Some(Err(ended)) => ended,
            None => {
                let silent = Failure::new(FailureReason::Timeout, "the service is silent");
                return Err(Fault::Failed(silent));
            }
        };
        let ended = Ended {
            is_unsent: unsent.is_some(),
            is_reset: connect::is_reset(&error),
            has_received: activity.has_received(),
            after: activity.since_request(),
            is_idempotent,
        };
        match unsent.or(copy) {
            Some(again) if (self.policy.may_resend)(&ended) => Err(Fault::Stale(Box::new(again))),
            _ => Err(Fault::Failed(Failure::new(reason_of(&error), error))),
        }
    }
}

/// The part that is at fault for an error of HTTP.
fn reason_of(error: &hyper::Error) -> FailureReason {
    if error.is_parse_too_large() {
        FailureReason::HeadTooLarge
    } else if error.is_user() {
        FailureReason::RequestBody
    } else {
        FailureReason::Unreachable
    }
}

/// Whether an answer announces a body that it must not have, because of the request's method or its own status (RFC
/// 9110 §6.4.1). The answer to a `HEAD` also counts if it does not say that the body is empty.
fn announces_too_much<B>(is_head: bool, answer: &Response<B>) -> bool {
    let length = answer.headers().get(CONTENT_LENGTH);
    let has_length = length.is_some_and(|length| length != "0");
    match answer.status() {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => {
            has_length || answer.headers().contains_key(TRANSFER_ENCODING)
        }
        _ => is_head && (has_length || length.is_none()),
    }
}

/// Returns a copy of the request, if the body can be repeated.
fn again<B: RepeatableBody>(request: &Request<B>) -> Option<Request<B>> {
    let mut again = Request::new(request.body().again()?);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_unread_if_it_was_not_written_or_if_the_close_crossed_it() {
        let reset = Ended {
            is_unsent: false,
            is_reset: true,
            has_received: false,
            after: Duration::ZERO,
            is_idempotent: false,
        };
        assert!(reset.is_unread());
        let has_received = Ended {
            has_received: true,
            ..reset
        };
        let late = Ended {
            after: CROSSED_MAX,
            ..reset
        };
        let ends = Ended {
            is_reset: false,
            ..reset
        };
        for read in [has_received, late, ends] {
            assert!(!read.is_unread(), "{read:?}");
            let unsent = Ended {
                is_unsent: true,
                ..read
            };
            assert!(unsent.is_unread(), "{unsent:?}");
        }
    }
}
