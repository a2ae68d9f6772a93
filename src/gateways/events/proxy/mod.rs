//! A reverse proxy: passes requests for some paths to services behind the gateway.
//!
//! Bodies stream both ways, except a small request body, which is read completely before the request gets a connection
//! to its service. If one side does not read, the proxy stops reading from the other. It keeps no cookies, follows no
//! redirects and decodes nothing. The rules for paths and headers are in pure modules: `path`, `headers`. Called by
//! `start`, runs on the HTTP thread.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

mod body;
mod exchange;
mod headers;
mod path;
mod tokens;

use self::body::{ToClient, ToService};
use self::exchange::{ProxiedRequest, ProxyOutcome, ServiceWatch};
pub use self::path::{PathRefusal, ProxiedPath};
pub use self::tokens::ProxyTokens;
use crate::services::{
    CONNECTION_BYTES, Ended, Failure, FailureReason, Lease, OpenConnections, Policy, Pool, Service,
    ServicePermit, ServicePermits, Upstream,
};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::timeout;
use weirgate_runtime::Clock;
use weirgate_server::http::{
    Answer, Handler, LateAnswer, Progress, RequestBody, RequestParts, Route,
};
use weirgate_server::telemetry::GatewayMetric;
use weirgate_wire::admission::{ClientAddr, Quota};

/// A service with its proxied paths.
pub struct Proxied {
    /// The service.
    pub service: Service,
    /// The paths that clients may reach.
    pub paths: Vec<ProxiedPath>,
}

/// The limits on the connections of a [`Proxy`].
#[derive(Clone, Debug)]
pub struct ProxyLimits {
    /// The longest silence of a service while it has to send, in milliseconds.
    pub silence_timeout_ms: u64,
    /// The most connections to a service at once. An address gets another one only while it holds fewer than are free.
    /// Other requests wait for a connection, for at most `silence_timeout_ms`.
    pub service_connections_max: usize,
    /// The buffers of all connections, each `CONNECTION_BYTES`.
    pub bytes_max: u64,
    /// Open connections to all services for which there are descriptors. Those that wait for the next request are closed
    /// for new ones.
    pub connections_max: usize,
}

impl ProxyLimits {
    /// The most open connections to `services` services, with those that wait for the next request.
    pub(super) fn all_connections_max(&self, services: usize) -> usize {
        let of_memory = self.bytes_max / CONNECTION_BYTES;
        let of_memory = usize::try_from(of_memory).unwrap_or(usize::MAX);
        let of_services = services.saturating_mul(self.service_connections_max);
        of_services.min(of_memory).min(self.connections_max)
    }
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self {
            silence_timeout_ms: 60_000,
            service_connections_max: 256,
            bytes_max: 2 * 256 * CONNECTION_BYTES,
            connections_max: usize::MAX,
        }
    }
}

/// Settings of a [`Proxy`].
pub struct ProxySettings {
    /// The services.
    pub services: Vec<Proxied>,
    /// The limits on its connections.
    pub limits: ProxyLimits,
    /// Limits the bytes of small request bodies that are read before their requests get connections. Over the limit a
    /// small body is passed on in pieces, like a large one.
    pub held: Quota,
    /// Limits log lines, and measures the progress of bodies.
    pub clock: Clock,
    /// Judges the tokens of requests.
    pub tokens: ProxyTokens,
}

/// The reverse proxy.
pub struct Proxy {
    services: Vec<(Arc<ProxiedService>, Vec<ProxiedPath>)>,
    shared: Arc<Shared>,
}

/// A service behind the proxy.
struct ProxiedService {
    pool: Pool<ToService>,
    permits: ServicePermits,
    watch: Arc<ServiceWatch>,
}

/// The state of all requests.
struct Shared {
    silence: Duration,
    buffers: Quota,
    open: OpenConnections,
    held: Quota,
    clock: Clock,
    tokens: ProxyTokens,
}

impl Proxy {
    /// The sums of what clients hold: the connections to each service, the buffers of all connections, and the open
    /// connections.
    pub fn holdings(&self) -> impl Iterator<Item = Quota> {
        let services = self.services.iter();
        let permits = services.map(|(behind, _)| behind.permits.held().clone());
        let open = self.shared.open.charges().clone();
        permits.chain([self.shared.buffers.clone(), open])
    }

    /// A proxy without connections.
    pub fn new(settings: ProxySettings) -> Self {
        let limits = settings.limits;
        let silence = Duration::from_millis(limits.silence_timeout_ms);
        let buffers = Quota::new("proxy_bytes", limits.bytes_max);
        let connections_max = limits.all_connections_max(settings.services.len());
        let open = OpenConnections::new(connections_max, settings.clock);
        let policy = Policy {
            silence,
            may_resend,
        };
        let proxied = |Proxied { service, paths }| {
            let watch = ServiceWatch::new(&service, settings.clock);
            let proxied = ProxiedService {
                pool: Pool::new(service, policy, open.clone()),
                permits: ServicePermits::new(
                    limits.service_connections_max,
                    buffers.clone(),
                    settings.clock,
                ),
                watch: Arc::new(watch),
            };
            (Arc::new(proxied), paths)
        };
        Self {
            services: settings.services.into_iter().map(proxied).collect(),
            shared: Arc::new(Shared {
                silence,
                buffers,
                open,
                held: settings.held,
                clock: settings.clock,
                tokens: settings.tokens,
            }),
        }
    }

    /// The routes of the proxy, in the order of the settings.
    pub fn routes(&self) -> Vec<Route> {
        let services = self.services.iter();
        let paths =
            services.flat_map(|(behind, paths)| paths.iter().map(move |path| (behind, path)));
        let route = |(behind, &path): (&Arc<ProxiedService>, &ProxiedPath)| {
            let (behind, shared) = (Arc::clone(behind), Arc::clone(&self.shared));
            let answer = move |parts, body| {
                let (behind, shared) = (Arc::clone(&behind), Arc::clone(&shared));
                async move { shared.pass(&behind, path, parts, body).await }
            };
            Route {
                path: path.path,
                methods: Route::ANY_METHOD,
                answer: Handler::later(answer),
            }
        };
        paths.map(route).collect()
    }

    /// The metrics of the requests.
    pub fn metrics(&self) -> Vec<GatewayMetric> {
        let services = self.services.iter();
        let named = services.map(|(behind, _)| {
            let name = behind.pool.service().name();
            (name, Arc::clone(&behind.watch.stats))
        });
        exchange::metrics(&named.collect())
    }
}

/// Whether to repeat a request. An unsent request is repeated. A sent one is repeated only if it is idempotent and the
/// service had closed the connection before it took the request.
fn may_resend(ended: &Ended) -> bool {
    ended.is_unsent || (ended.is_idempotent && ended.is_unread())
}

/// A refused request.
struct ProxyRefusal {
    status: StatusCode,
    detail: &'static str,
    outcome: ProxyOutcome,
}

impl From<PathRefusal> for ProxyRefusal {
    fn from(refusal: PathRefusal) -> Self {
        let (status, detail, outcome) = match refusal {
            PathRefusal::Ambiguous => (StatusCode::BAD_REQUEST, "Bad path", ProxyOutcome::BadPath),
            PathRefusal::Inner => (StatusCode::NOT_FOUND, "Not Found", ProxyOutcome::InnerPath),
        };
        Self {
            status,
            detail,
            outcome,
        }
    }
}

impl Shared {
    /// Passes a request on to a service, and its answer back.
    async fn pass(
        &self,
        behind: &ProxiedService,
        path: ProxiedPath,
        parts: RequestParts,
        body: RequestBody,
    ) -> LateAnswer {
        let mut exchange = ProxiedRequest::begin(&behind.watch, parts.peer);
        if let Err(refusal) = self.tokens.admit(&parts, self.clock.now()) {
            exchange.refuse(ProxyOutcome::BadToken);
            return tokens::answer(refusal).into();
        }
        let upload = body.progress();
        let upstream = &behind.pool.service().upstream;
        let client = parts.caller.address;
        let head = match self.request_head(path, upstream, parts) {
            Ok(head) => head,
            Err(refusal) => {
                exchange.refuse(refusal.outcome);
                return Answer::detail(refusal.status, refusal.detail).into();
            }
        };
        let bad_body = |exchange: &mut ProxiedRequest| {
            let outcome = ProxyOutcome::of_broken(&upload);
            exchange.refuse(outcome);
            let (status, detail) = match outcome {
                ProxyOutcome::SlowBody => (StatusCode::REQUEST_TIMEOUT, "Request body too slow"),
                _ => (StatusCode::BAD_REQUEST, "Bad request body"),
            };
            Answer::detail(status, detail).into()
        };
        let stats = Arc::clone(&behind.watch.stats);
        let room = |length| {
            let room = self.held.grant(client, length)?;
            room.progress(self.clock.mono_us());
            Some(room)
        };
        let Ok(body) = ToService::new(body, room, stats).await else {
            return bad_body(&mut exchange);
        };
        let request = with_body(head, body);
        let failure = match self.send(behind, client, request, &upload).await {
            Ok((mut answer, lease)) => {
                headers::own_addresses(answer.headers_mut(), upstream, path.cut);
                exchange.note_head(answer.status());
                return self.passed_on(answer, lease, upload, exchange);
            }
            Err(failure) => failure,
        };
        if upload.is_broken() {
            return bad_body(&mut exchange);
        }
        exchange.fail(failure.reason.into(), failure.cause.as_ref());
        failed(failure.reason).into()
    }

    /// Converts the service's answer for the client.
    fn passed_on(
        &self,
        answer: Response<Incoming>,
        lease: Lease<ToService>,
        upload: Arc<Progress>,
        exchange: ProxiedRequest,
    ) -> LateAnswer {
        let (mut head, incoming) = answer.into_parts();
        let permit = lease.permit_kept();
        headers::to_client(&mut head.headers);
        let mut body = ToClient::new(incoming, lease, upload, exchange, self.silence);
        body.hides_end = head.status == StatusCode::NOT_MODIFIED;
        LateAnswer {
            status: head.status,
            headers: head.headers,
            body: Box::pin(body),
            is_passed_on: true,
            eviction_check: Some(Box::new(move |cx| {
                let permit = permit.upgrade();
                permit.is_some_and(|permit| permit.is_evicted(cx))
            })),
        }
    }

    /// Waits for a connection, sends the request, and waits for the head of the answer.
    ///
    /// # Errors
    /// There was no connection in time, or the service failed, or its answer changes the protocol, which was not
    /// requested, or the body of the answer has a transfer coding that cannot be passed on.
    async fn send(
        &self,
        behind: &ProxiedService,
        client: ClientAddr,
        mut request: Request<ToService>,
        upload: &Progress,
    ) -> Result<(Response<Incoming>, Lease<ToService>), Failure> {
        let permit = self.permit(behind, client).await?;
        request.body_mut().set_permit(&permit);
        let lent = Some(Arc::clone(&permit));
        let mut sent = pin!(behind.pool.send(lent, request, || upload.awaits_client()));
        let (answer, lease) = poll_fn(|cx| match permit.is_evicted(cx) {
            true => {
                upload.give_up();
                Poll::Ready(Err(Failure::no_connection()))
            }
            false => sent.as_mut().poll(cx),
        })
        .await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            || headers::has_other_coding(answer.headers())
        {
            return Err(Failure::unreachable("an answer in another protocol"));
        }
        Ok((answer, lease))
    }

    /// Waits until the request may have one of the connections to the service.
    ///
    /// # Errors
    /// None became free in time.
    async fn permit(
        &self,
        behind: &ProxiedService,
        client: ClientAddr,
    ) -> Result<Arc<ServicePermit>, Failure> {
        let waits = |reason| behind.watch.stats.count_wait(reason);
        let permit = timeout(self.silence, behind.permits.permit(client, waits)).await;
        let permit = permit.ok().flatten().map(Arc::new);
        permit.ok_or_else(Failure::no_connection)
    }

    /// Makes the head of the request for the service: its path, and its headers as [`headers`] says.
    ///
    /// # Errors
    /// A path that is reserved, or that readers disagree about; a transfer coding other than chunked; a CONNECT.
    fn request_head(
        &self,
        path: ProxiedPath,
        upstream: &Upstream,
        parts: RequestParts,
    ) -> Result<Request<()>, ProxyRefusal> {
        let target = path.target(parts.path())?;
        let uri = uri(&upstream.base_path, target, parts.head.uri.query());
        // The base path of the service and a good path may together have only bytes that no URI may have, or too many.
        let uri = uri.ok_or(PathRefusal::Ambiguous)?;
        let not_implemented = |detail| ProxyRefusal {
            status: StatusCode::NOT_IMPLEMENTED,
            detail,
            outcome: ProxyOutcome::BadRequest,
        };
        if headers::has_other_coding(&parts.head.headers) {
            return Err(not_implemented("Transfer-Encoding other than chunked"));
        }
        // A CONNECT asks for a tunnel, and hyper would open one.
        if parts.head.method == Method::CONNECT {
            return Err(not_implemented("CONNECT"));
        }
        // Of a request with the whole URL (RFC 9112 §3.2.2).
        let host_of_target = parts.head.uri.authority();
        let host_of_target =
            host_of_target.and_then(|host| HeaderValue::try_from(host.as_str()).ok());
        let mut request = Request::new(());
        *request.method_mut() = parts.head.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = parts.head.headers;
        let forwarded = headers::Forwarded {
            peer: parts.peer,
            peer_is_trusted: parts.caller.is_proxied,
            is_tls: parts.is_tls,
            host_of_target,
            host: &upstream.authority,
        };
        headers::to_service(request.headers_mut(), forwarded, random);
        Ok(request)
    }
}

/// Joins a request head and its body, and announces the body in the head.
fn with_body(head: Request<()>, body: ToService) -> Request<ToService> {
    let is_in_chunks = body.is_in_chunks();
    let mut request = head.map(|()| body);
    if is_in_chunks {
        // Without this header hyper would send a GET or a HEAD without its body.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    request
}

/// The answer to a client whose service failed.
fn failed(reason: FailureReason) -> Answer {
    let (status, detail) = match reason {
        FailureReason::Timeout | FailureReason::NoConnection => {
            (StatusCode::GATEWAY_TIMEOUT, "Upstream timeout")
        }
        FailureReason::Unreachable => (StatusCode::BAD_GATEWAY, "Upstream unreachable"),
        FailureReason::HeadTooLarge => (StatusCode::BAD_GATEWAY, "Upstream answer head too large"),
        FailureReason::RequestBody => (StatusCode::BAD_REQUEST, "Bad request body"),
    };
    Answer::detail(status, detail)
}

/// An unpredictable number: each `RandomState` has its own keys.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Joins the parts of a request target in origin form (RFC 9112 §3.2.1), without changing them.
fn uri(base_path: &str, target: &str, query: Option<&str>) -> Option<Uri> {
    let mut text = format!("{base_path}{target}");
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    PathAndQuery::try_from(text).ok().map(Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_goes_again_only_after_a_reset_and_where_that_does_no_harm() {
        let reset = Ended {
            is_unsent: false,
            is_reset: true,
            has_received: false,
            after: Duration::ZERO,
            is_idempotent: true,
        };
        assert!(may_resend(&reset));
        for no in [
            Ended {
                is_reset: false,
                ..reset
            },
            Ended {
                after: Duration::from_millis(50),
                ..reset
            },
            Ended {
                is_idempotent: false,
                ..reset
            },
        ] {
            assert!(!may_resend(&no), "{no:?}");
            let unsent = Ended {
                is_unsent: true,
                ..no
            };
            assert!(may_resend(&unsent), "{unsent:?}");
        }
    }
}
