//! One service's client: kept connections, and one exchange on one of them.

use std::cell::RefCell;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response};
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::coding;
use super::link::{self, Activity, KEPT_FOR};
use super::upstream::Upstream;
use crate::gateways::events::call::{Answer, Call, CallFailure};
use crate::wire::traceparent::Trace;

/// A request meets the end of its connection within this time. Later it was being worked on, and
/// asking again could do it twice.
const CLOSE_MEETS_REQUEST: Duration = Duration::from_secs(1);

/// How long things may take, and how large they may be.
#[derive(Clone, Debug)]
pub struct CallLimits {
    /// For connecting, and for each silence.
    pub silence: Duration,
    /// For the whole, from the call to the end of its answer.
    pub whole: Duration,
    /// Bytes of an answer's body.
    pub answer_bytes_max: usize,
}

/// One service.
pub(super) struct Client {
    upstream: Upstream,
    path: String,
    tls: Option<TlsConnector>,
    limits: CallLimits,
    /// The one used last is the first to be used again.
    kept: RefCell<Vec<Link>>,
}

/// A connection with no request on its way.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    activity: Activity,
}

/// Why an exchange gave no answer.
enum Fault {
    /// The service had ended the connection before it took the request.
    Stale,
    Failed(CallFailure),
}

impl Client {
    pub(super) fn new(upstream: Upstream, tls: Option<TlsConnector>, limits: CallLimits) -> Self {
        Self {
            path: format!("{}/gateway/handle", upstream.base_path),
            tls: tls.filter(|_| upstream.tls),
            upstream,
            limits,
            kept: RefCell::default(),
        }
    }

    /// Makes a call.
    ///
    /// # Errors
    /// There is no answer, or it is too large.
    pub(super) async fn call(&self, call: Call) -> Result<Answer, CallFailure> {
        let body = Bytes::from(call.body);
        let request = || self.request(&body, &call.trace);
        let answer = timeout(self.limits.whole, self.attempts(request));
        answer.await.unwrap_or(Err(CallFailure::Timeout))
    }

    fn request(&self, body: &Bytes, trace: &Trace) -> Request<Full<Bytes>> {
        let mut request = Request::post(&self.path)
            .header(header::HOST, &self.upstream.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "*/*")
            // Without it any coding would do (RFC 9110 §12.5.3).
            .header(header::ACCEPT_ENCODING, "identity")
            .header(
                header::USER_AGENT,
                concat!("weirgate/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(body.clone()))
            .unwrap_or_default();
        for (name, value) in [("traceparent", &trace.parent), ("tracestate", &trace.state)] {
            if !value.is_empty()
                && let Ok(value) = HeaderValue::from_str(value)
            {
                request.headers_mut().insert(name, value);
            }
        }
        request
    }

    /// On kept connections as long as they turn out closed, then on a new one.
    async fn attempts(
        &self,
        request: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<Answer, CallFailure> {
        while let Some(link) = self.take_kept() {
            match self.exchange(link, request()).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Stale) => {}
                Err(Fault::Failed(failure)) => return Err(failure),
            }
        }
        let link = self.connect().await?;
        let answer = self.exchange(link, request()).await;
        answer.map_err(|fault| match fault {
            Fault::Stale => CallFailure::Unreachable,
            Fault::Failed(failure) => failure,
        })
    }

    fn take_kept(&self) -> Option<Link> {
        let mut kept = self.kept.borrow_mut();
        kept.retain(|link| !link.sender.is_closed() && link.activity.silent_for() < KEPT_FOR);
        kept.pop()
    }

    async fn connect(&self) -> Result<Link, CallFailure> {
        let activity = Activity::start();
        let connect = async {
            let stream = link::connect(&self.upstream, self.tls.as_ref(), &activity).await;
            let stream = stream.map_err(|_| CallFailure::Unreachable)?;
            let shaken = http1::handshake(stream).await;
            shaken.map_err(|_| CallFailure::Unreachable)
        };
        let connected = timeout(self.limits.silence, connect).await;
        let (sender, connection) = connected.unwrap_or(Err(CallFailure::Timeout))?;
        // Its faults are those of its requests.
        spawn_local(async { drop(connection.await) });
        Ok(Link { sender, activity })
    }

    async fn exchange(
        &self,
        mut link: Link,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, Fault> {
        link.activity.ask();
        // Whether the service may have taken the request.
        let send = async {
            link.sender.ready().await.map_err(|_| false)?;
            let sent = link.sender.try_send_request(request).await;
            sent.map_err(may_be_taken)
        };
        let activity = link.activity.clone();
        let response = match activity.unless_silent(self.limits.silence, send).await {
            Some(Ok(response)) => response,
            Some(Err(false)) if !activity.heard() && activity.asked_for() < CLOSE_MEETS_REQUEST => {
                return Err(Fault::Stale);
            }
            Some(Err(_)) => return Err(Fault::Failed(CallFailure::Unreachable)),
            None => return Err(Fault::Failed(CallFailure::Timeout)),
        };
        let answer = self
            .answer(response, &activity)
            .await
            .map_err(Fault::Failed)?;
        if !link.sender.is_closed() {
            self.kept.borrow_mut().push(link);
        }
        Ok(answer)
    }

    async fn answer(
        &self,
        response: Response<Incoming>,
        activity: &Activity,
    ) -> Result<Answer, CallFailure> {
        let (head, mut body) = response.into_parts();
        let bytes_max = self.limits.answer_bytes_max;
        let announced = body.size_hint().lower();
        if announced > bytes_max as u64 {
            return Err(CallFailure::TooLarge);
        }
        let mut bytes = Vec::new();
        loop {
            let frame = activity.unless_silent(self.limits.silence, body.frame());
            match frame.await.ok_or(CallFailure::Timeout)? {
                Some(Ok(frame)) => {
                    let Ok(part) = frame.into_data() else {
                        continue;
                    };
                    if bytes.len() + part.len() > bytes_max {
                        return Err(CallFailure::TooLarge);
                    }
                    bytes.extend_from_slice(&part);
                }
                Some(Err(_)) => return Err(CallFailure::Unreachable),
                None => break,
            }
        }
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()));
        Ok(Answer {
            status: head.status.as_u16(),
            content_type: content_type.unwrap_or_default().into_owned(),
            body: coding::decoded(&head.headers, bytes, bytes_max).await?,
        })
    }
}

/// A request that was written may be under way at the service, unless it reset the connection: then
/// it had ended it before it read all of the request.
fn may_be_taken<T>(mut error: TrySendError<T>) -> bool {
    error.take_message().is_none() && !link::is_reset(&error.into_error())
}
