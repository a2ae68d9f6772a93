//! A reverse proxy: paths of clients that belong to services behind the gateway.
//!
//! Bodies stream both ways and are never kept; a side that does not read stops the other. No cookie
//! is kept, no redirect followed, nothing decoded. What may pass, and how it is changed, is in pure
//! parts: `path`, `headers`. Called by `run`, runs on the HTTP thread.

mod body;
mod exchange;
mod headers;
mod path;
mod stats;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};

use self::body::{ToClient, ToService};
use self::exchange::{Exchange, Watch};
use self::path::InnerPaths;
use self::stats::{Outcome, ServiceStats};
use super::body::{AnswerBody, Progress, RequestBody};
use super::services::{Ended, Failure, FailureReason, Lease, Policy, Pool, Service, Upstream};
use super::site::{ANY_METHOD, Answer, Handler, LateAnswer, RequestParts, Route};
use crate::clock::Clock;
use crate::telemetry::GatewayMetric;

pub use self::path::ProxiedPath;

/// An answer's head may have this many bytes, and hyper reads this many of a body at a time.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// A service, and the paths that are passed on to it.
pub struct Proxied {
    /// Where the service is.
    pub service: Service,
    /// What of it clients may reach.
    pub paths: Vec<ProxiedPath>,
}

/// Where the proxy leads, and how long it waits.
pub struct ProxySettings {
    /// The services.
    pub services: Vec<Proxied>,
    /// The first parts of paths that services keep for the gateway and among themselves: 404.
    pub inner_paths: &'static [&'static str],
    /// A service may be silent for so long, in milliseconds, while it is its turn.
    pub silence_timeout_ms: u64,
    /// Connections to one service at once; requests beyond wait for one, as long as for an answer.
    pub service_connections_max: usize,
    /// Whose `X-Forwarded-Proto` and `X-Forwarded-Host` count.
    pub trusts: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// For the limit of log lines.
    pub clock: Clock,
}

/// The reverse proxy.
pub struct Proxy {
    services: Vec<(Arc<Behind>, Vec<ProxiedPath>)>,
    shared: Arc<Shared>,
}

/// A service behind the proxy.
struct Behind {
    pool: Pool<ToService>,
    watch: Arc<Watch>,
    stats: Arc<ServiceStats>,
}

/// What all requests share.
struct Shared {
    inner_paths: InnerPaths,
    silence: Duration,
    trusts: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

impl Proxy {
    /// A proxy without a connection.
    pub fn new(settings: ProxySettings) -> Self {
        let silence = Duration::from_millis(settings.silence_timeout_ms);
        let policy = Policy {
            silence,
            connections_max: settings.service_connections_max,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            goes_again,
        };
        let behind = |Proxied { service, paths }| {
            let stats = Arc::new(ServiceStats::new());
            let watch = Watch::new(&service, Arc::clone(&stats), settings.clock);
            let waited = Arc::clone(&stats);
            let behind = Behind {
                pool: Pool::new(service, policy, move || waited.count_wait()),
                watch: Arc::new(watch),
                stats,
            };
            (Arc::new(behind), paths)
        };
        Self {
            services: settings.services.into_iter().map(behind).collect(),
            shared: Arc::new(Shared {
                inner_paths: settings.inner_paths,
                silence,
                trusts: settings.trusts,
            }),
        }
    }

    /// The routes of the proxy, in the order of the settings.
    pub fn routes(&self) -> Vec<Route> {
        let services = self.services.iter();
        let paths =
            services.flat_map(|(behind, paths)| paths.iter().map(move |path| (behind, path)));
        let route = |(behind, &path): (&Arc<Behind>, &ProxiedPath)| {
            let (behind, shared) = (Arc::clone(behind), Arc::clone(&self.shared));
            let answer = move |parts, body| {
                let (behind, shared) = (Arc::clone(&behind), Arc::clone(&shared));
                async move { shared.pass(&behind, path, parts, body).await }
            };
            Route {
                path: path.path,
                methods: &ANY_METHOD,
                answer: Handler::later(answer),
            }
        };
        paths.map(route).collect()
    }

    /// What `/metrics` shows of the requests.
    pub fn metrics(&self) -> Vec<GatewayMetric> {
        let services = self.services.iter();
        let named = services.map(|(behind, _)| {
            let name = behind.pool.service().name();
            (name, Arc::clone(&behind.stats))
        });
        stats::metrics(&named.collect())
    }
}

/// A request that was not sent goes again. One that was sent goes again only where that does no
/// harm, and where the service had ended the connection before it took the request.
fn goes_again(ended: &Ended) -> bool {
    ended.is_unsent || (ended.is_idempotent && ended.is_reset && !ended.heard)
}

/// A request that is not passed on.
struct Refusal {
    status: StatusCode,
    detail: &'static str,
    outcome: Outcome,
}

impl Shared {
    async fn pass(
        &self,
        behind: &Behind,
        path: ProxiedPath,
        parts: RequestParts,
        body: RequestBody,
    ) -> LateAnswer {
        let mut exchange = Exchange::begin(&behind.watch, parts.peer.ip());
        let upload = body.progress();
        let body = ToService::new(body, Arc::clone(&behind.stats));
        let upstream = behind.pool.service().upstream();
        let request = match self.request(path, upstream, parts, body) {
            Ok(request) => request,
            Err(refusal) => {
                exchange.refuse(refusal.outcome);
                return Answer::detail(refusal.status, refusal.detail).into();
            }
        };
        let failure = match send(&behind.pool, request, &upload).await {
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
        exchange.fail(failure.reason.into(), failure.cause.as_ref());
        match failure.reason {
            FailureReason::Timeout | FailureReason::NoConnection => {
                Answer::detail(StatusCode::GATEWAY_TIMEOUT, "Upstream timeout").into()
            }
            FailureReason::Unreachable => {
                Answer::detail(StatusCode::BAD_GATEWAY, "Upstream unreachable").into()
            }
        }
    }

    /// The request as the service gets it.
    fn request(
        &self,
        path: ProxiedPath,
        upstream: &Upstream,
        parts: RequestParts,
        body: ToService,
    ) -> Result<Request<ToService>, Refusal> {
        let refused = |refusal: path::Refusal| Refusal {
            status: refusal.status(),
            detail: refusal.detail(),
            outcome: refusal.outcome(),
        };
        let target = path.target(parts.path(), self.inner_paths);
        let target = target.map_err(refused)?;
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
            peer_is_trusted: (self.trusts)(parts.peer.ip()),
            host: upstream.authority(),
        };
        headers::to_service(request.headers_mut(), forwarded, random);
        Ok(request)
    }
}

/// Sends a request, and waits for the head of an answer that can be passed on: it changes no
/// protocol, which nobody asked for, and its body is one that others can read.
async fn send(
    pool: &Pool<ToService>,
    request: Request<ToService>,
    upload: &Progress,
) -> Result<(Response<Incoming>, Lease<ToService>), Failure> {
    let (answer, lease) = pool.send(request, || upload.is_owed()).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        || headers::has_other_coding(answer.headers())
    {
        return Err(Failure::unreachable("an answer in another protocol"));
    }
    Ok((answer, lease))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_goes_again_only_after_a_reset_and_where_that_does_no_harm() {
        let reset = Ended {
            is_unsent: false,
            is_reset: true,
            heard: false,
            after: Duration::from_secs(9),
            is_idempotent: true,
        };
        assert!(goes_again(&reset));
        for no in [
            Ended {
                is_reset: false,
                ..reset
            },
            Ended {
                heard: true,
                ..reset
            },
            Ended {
                is_idempotent: false,
                ..reset
            },
        ] {
            assert!(!goes_again(&no), "{no:?}");
            let unsent = Ended {
                is_unsent: true,
                ..no
            };
            assert!(goes_again(&unsent), "{unsent:?}");
        }
    }
}
