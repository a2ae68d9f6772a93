//! Calls of services on behalf of the event loop: each is a `POST`, made on a separate thread.
//!
//! The loop hands a call over and continues; the answer comes back through the callback `Replied`. The client follows
//! no redirect, keeps no cookie and asks for no content coding, but decodes an answer that has one: services may use a
//! coding unasked (RFC 9110 §8.4). The gateway limits how many calls run at once, and interprets the answers.

use crate::gateways::events::aside::aside;
use crate::gateways::events::call::{
    AnswerReader, CALL_PATH, Call, CallFailure, Reply, ServiceAnswer,
};
use crate::gateways::events::metrics;
use crate::services::redirects::Redirects;
use crate::services::{
    ByService, Ended, Failure, FailureReason, Lease, Policy, Pool, RequestMetrics, RequestStats,
    Service, USER_AGENT,
};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, CONTENT_ENCODING, HeaderMap, HeaderValue};
use hyper::{Request, Response};
use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};
use weirgate_runtime::{Clock, detached};
use weirgate_server::http::{HeldBody, ReadBodyError, read_body};
use weirgate_server::telemetry::{GatewayMetric, MetricName};
use weirgate_wire::Trace;
use weirgate_wire::admission::{ClientAddr, Permit, Quota};
use weirgate_wire::base::LogBudget;
use weirgate_wire::space;

/// Receives the reply to a call. Called on the thread of the calls, so it must not block.
pub(crate) type Replied = Box<dyn Fn(Reply) + Send>;

/// The handle of the calls' thread.
#[derive(Debug)]
pub struct Calls {
    queue: mpsc::UnboundedSender<Call>,
    stats: ByService<RequestStats>,
}

impl Calls {
    /// Starts the thread. `services` are in the order of
    /// [`Services::rows`](crate::gateways::events::Services::rows); each call goes to its `CALL_PATH`.
    ///
    /// # Errors
    /// The system refuses a thread or descriptors for its event loop.
    pub fn start(services: Vec<Service>, limits: CallLimits, replied: Replied) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let clients = services.into_iter();
        let clients: Vec<ServiceClient> = clients
            .map(|service| ServiceClient::new(service, CALL_PATH, limits.clone()))
            .collect();
        let stats = clients
            .iter()
            .map(|client| (client.pool.service().name(), Arc::clone(&client.stats)))
            .collect();
        let (queue, calls) = mpsc::unbounded_channel();
        let run = move || {
            let clients = clients.into_iter().map(Rc::new).collect();
            LocalSet::new().block_on(&runtime, serve(clients, replied, calls));
        };
        detached("calls", run)?;
        Ok(Self { queue, stats })
    }

    /// Queues a call. Never blocks; the queue is bounded because the gateway limits the calls at once.
    pub fn make(&self, call: Call) {
        // The thread ends only with the process.
        let _ = self.queue.send(call);
    }

    /// The metrics of the calls.
    pub fn metrics(&self) -> Vec<GatewayMetric> {
        let names = RequestMetrics {
            outcomes: &metrics::UPSTREAM_CALLS,
            durations: &metrics::UPSTREAM_CALL_DURATION,
            in_flight: &MetricName::UPSTREAM_CALLS_IN_FLIGHT,
        };
        names.metrics_for(&self.stats)
    }
}

/// Makes each call on a task of its own, until the event loop is gone. The bytes of an answer count as held until the
/// reply is made.
async fn serve(
    clients: Vec<Rc<ServiceClient>>,
    replied: Replied,
    mut calls: mpsc::UnboundedReceiver<Call>,
) {
    let replied = Rc::new(replied);
    while let Some(call) = calls.recv().await {
        let client = clients.get(call.service.number()).map(Rc::clone);
        let replied = Rc::clone(&replied);
        spawn_local(async move {
            let (id, reader) = (call.id, call.reader.clone());
            let Some(client) = client else {
                return replied(reply(reader, id, Err(CallFailure::Unreachable)).await);
            };
            let mut held = client.hold();
            let outcome = client.call(call, &mut held).await;
            let reply = reply(reader, id, outcome).await;
            drop(held);
            replied(reply);
        });
    }
}

/// Reads an answer. A large answer is read on another thread, so that other calls continue.
async fn reply(
    reader: AnswerReader,
    id: u64,
    outcome: Result<ServiceAnswer, CallFailure>,
) -> Reply {
    let bytes = outcome.as_ref().map_or(0, |answer| answer.body.len());
    let again = reader.clone();
    let reply = aside(bytes, move || reader.reply(id, outcome)).await;
    reply.unwrap_or_else(|| again.reply(id, Err(CallFailure::Unreachable)))
}

/// The limit of hyper.
const BUFFER_BYTES_MAX: usize = 408 * 1024;

/// Limits of time and size.
#[derive(Clone, Debug)]
pub struct CallLimits {
    /// For connecting, and for each silence of the service.
    pub silence: Duration,
    /// For the whole call, to the end of the answer.
    pub whole: Duration,
    /// Bytes of an answer's body.
    pub answer_bytes_max: usize,
    /// The bodies of all answers until they are frames.
    pub answers: Quota,
    /// Measures the progress of answers, and the limit of log lines.
    pub clock: Clock,
}

/// The outcome of a call as a metric label, in the order of [`outcome`].
const OUTCOMES: [&str; 5] = ["answered", "refused", "timeout", "unreachable", "too_large"];

fn outcome(result: &Result<ServiceAnswer, CallFailure>) -> usize {
    match result {
        Ok(answer) if answer.status < 400 => 0,
        Ok(_) => 1,
        Err(CallFailure::Timeout) => 2,
        Err(CallFailure::Unreachable) => 3,
        Err(CallFailure::TooLarge) => 4,
    }
}

/// The client of a service.
struct ServiceClient {
    pool: Pool<Full<Bytes>>,
    /// The target of every call, the service's base path included.
    path: String,
    limits: CallLimits,
    stats: Arc<RequestStats>,
    redirects: Redirects,
    /// Log lines about answers that were evicted.
    lines: RefCell<LogBudget>,
}

/// Log lines of a service a second.
const LINES_PER_SECOND: u32 = 1;

impl ServiceClient {
    fn new(service: Service, path: &str, limits: CallLimits) -> Self {
        let policy = Policy {
            silence: limits.silence,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            may_resend: Ended::is_unread,
        };
        Self {
            path: format!("{}{path}", service.upstream.base_path),
            pool: Pool::new(service, policy),
            limits,
            stats: Arc::new(RequestStats::new(OUTCOMES)),
            redirects: Redirects::default(),
            lines: LogBudget::new(LINES_PER_SECOND).into(),
        }
    }

    /// The permit for a call's answer, which has no bytes yet. All answers are charged to the same address, so no
    /// client's address decides which of them is evicted.
    fn hold(&self) -> Permit {
        let CallLimits { answers, clock, .. } = &self.limits;
        answers.hold(ClientAddr::Unix, 0, clock.mono_us())
    }

    /// Makes a call, and charges the answer to `held`.
    ///
    /// # Errors
    /// There is no answer, or the answer is too large, alone or with those of other calls.
    async fn call(&self, call: Call, held: &mut Permit) -> Result<ServiceAnswer, CallFailure> {
        self.stats.begin();
        let begun = Instant::now();
        let mut lease = None;
        let answer = timeout(self.limits.whole, self.exchange(call, &mut lease, held)).await;
        let result = answer.unwrap_or(Err(CallFailure::Timeout));
        match (&result, lease) {
            (Ok(_), Some(lease)) => lease.keep(),
            (Err(CallFailure::Timeout), Some(lease)) => lease.cut(&"the answer is late"),
            (Err(CallFailure::Unreachable), Some(lease)) => lease.cut(&"the answer broke off"),
            _ => {}
        }
        self.stats.end(outcome(&result));
        self.stats.observe(begun.elapsed());
        result
    }

    /// Makes a call. Puts the connection into `lease` once the head of the answer has come.
    async fn exchange(
        &self,
        call: Call,
        lease: &mut Option<Lease<Full<Bytes>>>,
        held: &mut Permit,
    ) -> Result<ServiceAnswer, CallFailure> {
        let request = self.request(Bytes::from(call.body), &call.trace);
        // The gateway bounds the calls at once.
        let sent = self.pool.send(None, request, || false).await;
        let (response, connection) = sent.map_err(|failure| why(&failure))?;
        self.answer(response, lease.insert(connection), held).await
    }

    fn request(&self, body: Bytes, trace: &Trace) -> Request<Full<Bytes>> {
        let mut request = Request::post(&self.path)
            .header(header::HOST, &self.pool.service().upstream.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "*/*")
            // Without this header any coding would be acceptable (RFC 9110 §12.5.3).
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::USER_AGENT, USER_AGENT)
            .body(Full::new(body))
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

    fn log_no_room(&self) {
        let now = self.limits.clock.now();
        if let Some(suppressed) = self.lines.borrow_mut().line(now) {
            let service = self.pool.service().name();
            tracing::warn!(
                service,
                suppressed,
                "the responses of services to calls are too large together: a response was given up"
            );
        }
    }

    async fn answer(
        &self,
        response: Response<Incoming>,
        lease: &Lease<Full<Bytes>>,
        permit: &mut Permit,
    ) -> Result<ServiceAnswer, CallFailure> {
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            let service = self.pool.service().name();
            self.redirects.log(service, head.status, &head.headers);
        }
        let bytes_max = self.limits.answer_bytes_max;
        let clock = self.limits.clock;
        let held = HeldBody {
            permit: &mut *permit,
            clock,
        };
        let read = read_body(body, bytes_max, Some(held));
        let activity = lease.activity();
        let read = activity.unless_silent(self.limits.silence, || false, read);
        let body = match read.await.ok_or(CallFailure::Timeout)? {
            Ok(body) => body,
            Err(ReadBodyError::TooLarge) => return Err(CallFailure::TooLarge),
            Err(ReadBodyError::NoRoom) => {
                self.log_no_room();
                return Err(CallFailure::TooLarge);
            }
            Err(_) => return Err(CallFailure::Unreachable),
        };
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let coding = coding(&head.headers);
        let body = decoded(coding.clone(), body, bytes_max).await?;
        permit.set(body.len() as u64, u64::MAX);
        Ok(ServiceAnswer {
            status: head.status.as_u16(),
            content_type: content_type.unwrap_or_default().into_owned(),
            body,
            unknown_coding: Some(coding).filter(|coding| !KNOWN_CODINGS.contains(&coding.as_str())),
        })
    }
}

fn why(failure: &Failure) -> CallFailure {
    match failure.reason {
        FailureReason::Unreachable | FailureReason::HeadTooLarge | FailureReason::RequestBody => {
            CallFailure::Unreachable
        }
        FailureReason::Timeout | FailureReason::NoConnection => CallFailure::Timeout,
    }
}

/// How many times larger a body commonly is without its coding.
const COMMON_RATIO: usize = 10;

/// The content codings of a body, in lower case; several are separated by commas (RFC 9110 §8.4).
fn coding(headers: &HeaderMap) -> String {
    let lines = headers.get_all(CONTENT_ENCODING).iter();
    let lines = lines.map(|line| String::from_utf8_lossy(line.as_bytes()));
    let all: Vec<String> = lines
        .map(|line| space::trim(&line).to_ascii_lowercase())
        .collect();
    all.join(", ")
}

/// The codings that [`decode`] takes off, and no coding.
const KNOWN_CODINGS: [&str; 5] = ["gzip", "x-gzip", "deflate", "identity", ""];

/// Decodes a body to at most `bytes_max` bytes. A body stays as it is if the coding is unknown or does not match; the
/// gateway decides what to do with it.
///
/// # Errors
/// The body is too large.
async fn decoded(coding: String, body: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, CallFailure> {
    if coding.is_empty() {
        return Ok(body);
    }
    let bytes = body.len().saturating_mul(COMMON_RATIO);
    let plain = aside(bytes, move || decode(&coding, body, bytes_max)).await;
    plain.unwrap_or(Err(CallFailure::Unreachable))
}

/// The body without its coding. With another coding, or if it cannot be decoded, the body as it is.
fn decode(coding: &str, body: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, CallFailure> {
    let plain = match coding {
        "gzip" | "x-gzip" => read_one_over(MultiGzDecoder::new(&*body), bytes_max),
        "deflate" => read_one_over(ZlibDecoder::new(&*body), bytes_max),
        _ => return Ok(body),
    };
    match plain {
        Ok(plain) if plain.len() > bytes_max => Err(CallFailure::TooLarge),
        Ok(plain) => Ok(plain),
        Err(_) => Ok(body),
    }
}

/// Reads everything, but at most one byte more than permitted: that byte shows that there is too much.
fn read_one_over(from: impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    from.take(bytes_max as u64 + 1).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn read_as(coding: &str, body: &[u8]) -> Result<Vec<u8>, CallFailure> {
        decode(coding, body.to_vec(), 100)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn common_codings_are_taken_off() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(b"deflated").unwrap();
        let deflated = encoder.finish().unwrap();
        assert_eq!(read_as("deflate", &deflated), Ok(b"deflated".to_vec()));
        let twice = [gzip(b"a "), gzip(b"gzip")].concat();
        for coding in ["gzip", "x-gzip"] {
            assert_eq!(read_as(coding, &twice), Ok(b"a gzip".to_vec()), "{coding}");
        }
    }

    #[test]
    fn what_has_no_known_coding_stays_as_it_came() {
        for coding in ["identity", "br", "gzip", "deflate", "gzip, gzip"] {
            assert_eq!(read_as(coding, b"plain"), Ok(b"plain".to_vec()), "{coding}");
        }
        let cut = &gzip(b"cut off")[..20];
        assert_eq!(read_as("gzip", cut), Ok(cut.to_vec()));
    }

    #[test]
    fn the_limit_holds_for_what_comes_out() {
        assert_eq!(read_as("gzip", &gzip(&[0; 100])), Ok(vec![0; 100]));
        let bomb = gzip(&vec![0; 1 << 20]);
        assert_eq!(read_as("gzip", &bomb), Err(CallFailure::TooLarge));
    }
}
