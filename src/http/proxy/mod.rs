//! The reverse proxy of the events gateway (contract events, section "Proxy").
//!
//! Bodies stream both ways and are never kept; a side that does not read stops the other. No cookie
//! is kept, no redirect followed, nothing decoded. What may pass, and how it is changed, is in pure
//! parts: `path`, `headers`. Called by `run`, runs on the HTTP thread.

mod body;
mod client;
mod exchange;
mod headers;
mod path;
mod stats;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, StatusCode, Uri};
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;

use self::body::{ToClient, ToService};
use self::client::Client;
use self::exchange::{Exchange, Watch};
use self::path::{Line, Service, TABLE};
use self::stats::Outcome;
use super::body::{AnswerBody, RequestBody};
use super::calls::Upstream;
use super::site::{ANY_METHOD, Answer, Handler, LateAnswer, RequestParts, Route};
use crate::auth::TrustedProxies;
use crate::clock::Clock;

pub use self::stats::ProxyStats;

/// Where the proxy leads, and how long it waits.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Takes `/v1/measurement/` and `/v1/jobs/`.
    pub measurement: Upstream,
    /// Takes `/v1/simulation/`.
    pub simulation: Upstream,
    /// For services at `https://`.
    pub tls: Option<Arc<ClientConfig>>,
    /// A service may be silent for so long, in milliseconds, while it is its turn.
    pub silence_timeout_ms: u64,
    /// Connections to one service at once; requests beyond wait for one, as long as for an answer.
    pub service_connections_max: usize,
    /// Whose `X-Forwarded-Proto` and `X-Forwarded-Host` count.
    pub trusted_proxies: TrustedProxies,
    /// What is counted.
    pub stats: ProxyStats,
}

/// The routes of the proxy.
pub fn routes(settings: ProxySettings) -> Vec<Route> {
    let tls = settings.tls.map(TlsConnector::from);
    let silence = Duration::from_millis(settings.silence_timeout_ms);
    let clock = Clock::start();
    let behind = |service, upstream: Upstream| {
        let stats = settings.stats.of(service);
        let connections_max = settings.service_connections_max;
        let watch = Watch::new(service, &upstream, Arc::clone(&stats), clock);
        Behind {
            client: Client::new(upstream, tls.clone(), silence, connections_max, stats),
            watch: Arc::new(watch),
        }
    };
    let proxy = Arc::new(Proxy {
        measurement: behind(Service::Measurement, settings.measurement),
        simulation: behind(Service::Simulation, settings.simulation),
        silence,
        trusted_proxies: settings.trusted_proxies,
    });
    let route = |line: Line| {
        let proxy = Arc::clone(&proxy);
        let answer = move |parts, body| {
            let proxy = Arc::clone(&proxy);
            async move { proxy.pass(line, parts, body).await }
        };
        Route {
            path: line.path,
            methods: &ANY_METHOD,
            answer: Handler::later(answer),
        }
    };
    TABLE.into_iter().map(route).collect()
}

/// A request that is not passed on.
struct Refusal {
    status: StatusCode,
    detail: &'static str,
    outcome: Outcome,
}

/// A service behind the proxy.
struct Behind {
    client: Client,
    watch: Arc<Watch>,
}

struct Proxy {
    measurement: Behind,
    simulation: Behind,
    silence: Duration,
    trusted_proxies: TrustedProxies,
}

impl Proxy {
    async fn pass(&self, line: Line, parts: RequestParts, body: RequestBody) -> LateAnswer {
        let Behind { client, watch } = match line.service {
            Service::Measurement => &self.measurement,
            Service::Simulation => &self.simulation,
        };
        let mut exchange = Exchange::begin(watch, parts.peer.ip());
        let upload = body.progress();
        let body = ToService::new(body, Arc::clone(exchange.stats()));
        let request = match self.request(line, client.upstream(), parts, body) {
            Ok(request) => request,
            Err(refusal) => {
                exchange.refuse(refusal.outcome);
                return Answer::detail(refusal.status, refusal.detail).into();
            }
        };
        let failure = match client.send(request, &upload).await {
            Ok((answer, lease)) => {
                exchange.has_head(answer.status());
                let (mut head, incoming) = answer.into_parts();
                headers::to_client(&mut head.headers);
                let mut body = ToClient::new(incoming, lease, upload, exchange, self.silence);
                if head.status == StatusCode::NOT_MODIFIED {
                    body = body.hiding_end();
                }
                return LateAnswer {
                    status: head.status,
                    headers: head.headers,
                    body: AnswerBody::pieces(body),
                    is_passed_on: true,
                };
            }
            Err(failure) => failure,
        };
        if upload.is_broken() {
            exchange.refuse(Outcome::BadRequest);
            return Answer::detail(StatusCode::BAD_REQUEST, "Bad request body").into();
        }
        exchange.fail(failure.outcome, failure.cause.as_ref());
        match failure.outcome {
            Outcome::Timeout | Outcome::NoConnection => {
                Answer::detail(StatusCode::GATEWAY_TIMEOUT, "Upstream timeout").into()
            }
            _ => Answer::detail(StatusCode::BAD_GATEWAY, "Upstream unreachable").into(),
        }
    }

    /// The request as the service gets it.
    fn request(
        &self,
        line: Line,
        upstream: &Upstream,
        parts: RequestParts,
        body: ToService,
    ) -> Result<Request<ToService>, Refusal> {
        let refused = |refusal: path::Refusal| Refusal {
            status: refusal.status(),
            detail: refusal.detail(),
            outcome: refusal.outcome(),
        };
        let target = line.target(parts.path()).map_err(refused)?;
        let bad_path = || refused(path::Refusal::Trick);
        let uri = uri(upstream.base_path(), target, parts.head.uri.query()).ok_or_else(bad_path)?;
        let not_implemented = |detail| Refusal {
            status: StatusCode::NOT_IMPLEMENTED,
            detail,
            outcome: Outcome::BadRequest,
        };
        if headers::has_other_coding(&parts.head.headers) {
            return Err(not_implemented("Transfer-Encoding other than chunked"));
        }
        // It asks for a tunnel, and hyper would make one.
        if parts.head.method == Method::CONNECT {
            return Err(not_implemented("CONNECT"));
        }
        let mut request = Request::new(body);
        *request.method_mut() = parts.head.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = parts.head.headers;
        let forwarded = headers::Forwarded {
            peer: parts.peer.ip(),
            peer_is_trusted: self.trusted_proxies.trusts(parts.peer.ip()),
            host: upstream.authority(),
        };
        headers::to_service(request.headers_mut(), forwarded, random);
        Ok(request)
    }
}

/// A number that nobody can tell beforehand: each state has keys of its own.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The target of a request in its origin form (RFC 9112 §3.2.1), with nothing changed.
fn uri(base_path: &str, target: &str, query: Option<&str>) -> Option<Uri> {
    let mut text = format!("{base_path}{target}");
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    PathAndQuery::try_from(text).ok().map(Uri::from)
}
