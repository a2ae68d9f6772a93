//! Calls of services on behalf of the event loop: each is a `POST`, made on a separate thread.
//!
//! The loop hands a call over and continues; the answer comes back through the callback `Replied`. The client follows
//! no redirect, keeps no cookie and asks for no content coding, but decodes an answer that has one: services may use a
//! coding unasked (RFC 9110 §8.4). The gateway limits how many calls run at once, and interprets the answers.

use crate::gateways::events::aside::{HERE_BYTES_MAX, JobPermit, aside};
use crate::gateways::events::call::{
    AnswerReader, CALL_PATH, Call, CallFailure, Reply, ServiceAnswer,
};
use crate::gateways::events::content_coding::{Decoding, TooLarge, coding, is_known};
use crate::gateways::events::metrics;
use crate::services::redirects::Redirects;
use crate::services::{
    ANSWER_HEAD_BYTES_MAX, ANSWER_HEADERS_MAX, ByService, Ended, Failure, FailureReason, Lease,
    OpenConnections, Policy, Pool, RequestMetrics, RequestStats, Service, USER_AGENT,
};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response};
use std::cell::RefCell;
use std::io;
use std::mem;
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

/// Receives the reply to a call. Called on the thread of the calls, so it must not block.
pub(crate) type Replied = Box<dyn Fn(Reply) + Send>;

/// The handle of the calls' thread.
#[derive(Debug)]
pub struct Calls {
    queue: mpsc::UnboundedSender<Call>,
    stats: ByService<RequestStats>,
    open: OpenConnections,
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
        let open = OpenConnections::new(limits.connections_max, limits.clock);
        let clients = services.into_iter();
        let clients: Vec<ServiceClient> = clients
            .map(|service| ServiceClient::new(service, CALL_PATH, limits.clone(), open.clone()))
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
        Ok(Self { queue, stats, open })
    }

    /// Queues a call. Never blocks; the queue is bounded because the gateway limits the calls at once.
    pub fn make(&self, call: Call) {
        // The thread ends only with the process.
        let _ = self.queue.send(call);
    }

    /// The sum of the connections to all services.
    pub fn connections(&self) -> Quota {
        self.open.charges().clone()
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
            let outcome = client.call(call).await;
            replied(reply(reader, id, outcome).await);
        });
    }
}

/// Reads an answer. A large answer is read on another thread, so that other calls continue.
async fn reply(reader: AnswerReader, id: u64, outcome: Result<HeldAnswer, CallFailure>) -> Reply {
    let HeldAnswer {
        answer,
        permit: _permit,
        job,
    } = match outcome {
        Ok(held) => held,
        Err(failure) => return reader.reply(id, Err(failure)),
    };
    let (bytes, again) = (answer.body.len(), reader.clone());
    let read = move || reader.reply(id, Ok(answer));
    let reply = match job {
        Some(job) => job.run(read).await.map(|(_, reply)| reply),
        None => aside(bytes, read).await,
    };
    reply.unwrap_or_else(|| again.reply(id, Err(CallFailure::Unreachable)))
}

/// An answer, and what is held until the reply is made.
struct HeldAnswer {
    answer: ServiceAnswer,
    /// Charges the body.
    permit: Permit,
    /// If the body was decoded on another thread, it is read there too, before the next one is decoded: the bodies would
    /// otherwise be decoded much faster than they are read, and lie there together.
    job: Option<JobPermit>,
}

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
    /// Open connections to all services, with those that wait for the next call. With fewer than calls at once, calls wait
    /// for a connection.
    pub connections_max: usize,
    /// Measures the progress of answers, and the limit of log lines.
    pub clock: Clock,
}

/// The outcome of a call as a metric label, in the order of [`outcome`].
const OUTCOMES: [&str; 5] = ["answered", "refused", "timeout", "unreachable", "too_large"];

/// Returns the index in [`OUTCOMES`]. A response with a status of 400 or above counts as refused.
fn outcome(result: &Result<HeldAnswer, CallFailure>) -> usize {
    match result {
        Ok(held) if held.answer.status < 400 => 0,
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
    /// Log lines about answers that were evicted, and about heads that are too large.
    lines: RefCell<LogBudget>,
}

/// Log lines of a service a second.
const LINES_PER_SECOND: u32 = 1;

/// The time of the last progress of a whole body: bodies that are still being read are evicted first.
const WHOLE_US: u64 = u64::MAX;

impl ServiceClient {
    fn new(service: Service, path: &str, limits: CallLimits, open: OpenConnections) -> Self {
        let policy = Policy {
            silence: limits.silence,
            may_resend: Ended::is_unread,
        };
        Self {
            path: format!("{}{path}", service.upstream.base_path),
            pool: Pool::new(service, policy, open),
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

    /// Makes a call.
    ///
    /// # Errors
    /// There is no answer, or the answer is too large, alone or with those of other calls.
    async fn call(&self, call: Call) -> Result<HeldAnswer, CallFailure> {
        self.stats.begin();
        let begun = Instant::now();
        let mut lease = None;
        let received = timeout(self.limits.whole, self.exchange(call, &mut lease)).await;
        let received = received.unwrap_or(Err(CallFailure::Timeout));
        match (&received, lease) {
            (Ok(_), Some(lease)) => lease.keep(),
            (Err(CallFailure::Timeout), Some(lease)) => lease.cut(&"the answer is late"),
            (Err(CallFailure::Unreachable), Some(lease)) => lease.cut(&"the answer broke off"),
            _ => {}
        }
        let result = match received {
            Ok(received) => self.decoded(received).await,
            Err(failure) => Err(failure),
        };
        self.stats.end(outcome(&result));
        self.stats.observe(begun.elapsed());
        result
    }

    /// Makes a call. Puts the connection into `lease` once the head of the answer has come.
    async fn exchange(
        &self,
        call: Call,
        lease: &mut Option<Lease<Full<Bytes>>>,
    ) -> Result<Received, CallFailure> {
        let request = self.request(Bytes::from(call.body), &call.trace);
        // Without a permit (`None`), because the gateway bounds the calls at once. No silence is excused: no client is
        // still sending the body.
        let sent = self.pool.send(None, request, || false).await;
        let (response, connection) = sent.map_err(|failure| self.why(&failure))?;
        self.receive(response, lease.insert(connection)).await
    }

    /// Returns the request of a call. A trace that is no valid header is left out.
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

    /// Returns the failure of a call that has no response. If no connection became free in time, that is a timeout. Logs that
    /// the head of the response was too large.
    fn why(&self, failure: &Failure) -> CallFailure {
        match failure.reason {
            FailureReason::Unreachable | FailureReason::RequestBody => CallFailure::Unreachable,
            FailureReason::HeadTooLarge => {
                self.log_head_too_large();
                CallFailure::TooLarge
            }
            FailureReason::Timeout | FailureReason::NoConnection => CallFailure::Timeout,
        }
    }

    /// As [`LogBudget::line`], for the lines about all answers.
    fn line(&self) -> Option<u64> {
        let now = self.limits.clock.now();
        self.lines.borrow_mut().line(now)
    }

    fn log_head_too_large(&self) {
        if let Some(suppressed) = self.line() {
            tracing::warn!(
                service = self.pool.service().name(),
                suppressed,
                head_bytes_max = ANSWER_HEAD_BYTES_MAX,
                header_lines_max = ANSWER_HEADERS_MAX,
                "the head of a service's response to a call is too large"
            );
        }
    }

    fn log_no_room(&self) {
        if let Some(suppressed) = self.line() {
            tracing::warn!(
                service = self.pool.service().name(),
                suppressed,
                "the responses of services to calls are too large together: a response was given up"
            );
        }
    }

    /// Reads the body of an answer.
    async fn receive(
        &self,
        response: Response<Incoming>,
        lease: &Lease<Full<Bytes>>,
    ) -> Result<Received, CallFailure> {
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            let service = self.pool.service().name();
            self.redirects.log(service, head.status, &head.headers);
        }
        let bytes_max = self.limits.answer_bytes_max;
        let clock = self.limits.clock;
        let mut permit = self.hold();
        let held = HeldBody {
            permit: &mut permit,
            clock,
        };
        let read = read_body(body, bytes_max, Some(held));
        let activity = lease.activity();
        // No silence is excused.
        let read = activity.unless_silent(self.limits.silence, || false, read);
        let body = read.await.ok_or(CallFailure::Timeout)?;
        let body = body.map_err(|error| self.failure(&error))?;
        permit.set(body.len() as u64, WHOLE_US);
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let coding = coding(&head.headers);
        let answer = ServiceAnswer {
            status: head.status.as_u16(),
            content_type: content_type.unwrap_or_default().into_owned(),
            body,
            unknown_coding: Some(coding.clone()).filter(|coding| !is_known(coding)),
        };
        Ok(Received {
            answer,
            coding,
            permit,
        })
    }

    /// Takes the coding off a body; with an unknown one, the body stays as it is. A large body is decoded on another
    /// thread.
    ///
    /// # Errors
    /// The body is too large, alone or with those of other calls.
    async fn decoded(&self, received: Received) -> Result<HeldAnswer, CallFailure> {
        let Received {
            mut answer,
            coding,
            permit,
        } = received;
        let (coded_bytes, bytes_max) = (answer.body.len(), self.limits.answer_bytes_max);
        let decoding = match Decoding::begin(&coding, mem::take(&mut answer.body), bytes_max) {
            Ok(decoding) => decoding,
            Err(body) => {
                answer.body = body;
                return Ok(HeldAnswer {
                    answer,
                    permit,
                    job: None,
                });
            }
        };
        let mut decoding = ChargedDecoding {
            decoding,
            permit,
            clock: self.limits.clock,
        };
        // A body that is probably small is decoded here. If it turns out to be larger, decoding begins anew on another
        // thread.
        let is_small = coded_bytes.saturating_mul(COMMON_RATIO) <= HERE_BYTES_MAX;
        let here_bytes = if is_small { HERE_BYTES_MAX } else { 0 };
        let is_whole = decoding.advance(here_bytes);
        let mut job = None;
        if !is_whole.map_err(|error| self.failure(&error))? {
            let mut whole = decoding.rewound();
            let acquired = JobPermit::acquire().await.ok_or(CallFailure::Unreachable)?;
            let decode = move || (whole.advance(usize::MAX), whole);
            let done = acquired.run(decode).await.ok_or(CallFailure::Unreachable)?;
            let (kept, (is_whole, decoded)) = done;
            is_whole.map_err(|error| self.failure(&error))?;
            (job, decoding) = (Some(kept), decoded);
        }
        let permit;
        (answer.body, permit) = decoding.finish();
        Ok(HeldAnswer {
            answer,
            permit,
            job,
        })
    }

    /// Why a call fails whose answer's body cannot be read or decoded. Logs that there was no room for the body.
    fn failure(&self, error: &ReadBodyError) -> CallFailure {
        match error {
            ReadBodyError::TooLarge => CallFailure::TooLarge,
            ReadBodyError::NoRoom => {
                self.log_no_room();
                CallFailure::TooLarge
            }
            _ => CallFailure::Unreachable,
        }
    }
}

/// An answer as it was received.
struct Received {
    answer: ServiceAnswer,
    /// The content coding of the body.
    coding: String,
    permit: Permit,
}

/// A body that is being decoded, and charged as it grows: as a body that is being read, it may be evicted.
struct ChargedDecoding {
    decoding: Decoding,
    permit: Permit,
    clock: Clock,
}

impl ChargedDecoding {
    /// Decodes up to `plain_bytes` in all. Returns true at the end of the body.
    ///
    /// # Errors
    /// The body is too large, or is evicted.
    fn advance(&mut self, plain_bytes: usize) -> Result<bool, ReadBodyError> {
        while self.decoding.plain_bytes() < plain_bytes {
            let step = self.decoding.step();
            let is_whole = step.map_err(|TooLarge| ReadBodyError::TooLarge)?;
            let mut held = HeldBody {
                permit: &mut self.permit,
                clock: self.clock,
            };
            held.note(self.decoding.held_bytes());
            if is_whole {
                held.settle();
                return Ok(true);
            }
            if self.permit.is_evicted() {
                return Err(ReadBodyError::NoRoom);
            }
        }
        Ok(false)
    }

    /// Begins anew: a body that waits takes only its coded bytes.
    fn rewound(mut self) -> Self {
        self.decoding = self.decoding.rewound();
        let bytes = self.decoding.held_bytes() as u64;
        self.permit.set(bytes, WHOLE_US);
        self.permit.work();
        self
    }

    fn finish(self) -> (Vec<u8>, Permit) {
        let (body, mut permit) = (self.decoding.finish(), self.permit);
        permit.set(body.len() as u64, WHOLE_US);
        (body, permit)
    }
}

/// How many times larger a body commonly is without its coding.
const COMMON_RATIO: usize = 10;
