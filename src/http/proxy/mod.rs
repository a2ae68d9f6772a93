//! A reverse proxy: paths of clients that belong to services behind the gateway.
//!
//! Bodies stream both ways, but for a request's small one, which is whole before it takes a connection
//! to its service; a side that does not read stops the other. No cookie
//! is kept, no redirect followed, nothing decoded. What may pass, and how it is changed, is in pure
//! parts: `path`, `headers`. Called by `run`, runs on the HTTP thread.

mod body;
mod exchange;
mod headers;
mod path;
mod shares;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::time::timeout;

use self::body::{Held, ToClient, ToService};
use self::exchange::{Exchange, Outcome, ServiceStats, Watch};
use self::shares::{Share, Shares};
use super::body::{AnswerBody, Progress, RequestBody};
use super::services::{Ended, Failure, FailureReason, Place, Policy, Pool, Service, Upstream};
use super::site::{ANY_METHOD, Answer, Handler, LateAnswer, RequestParts, Route};
use crate::admission::{ClientAddr, TrustedProxies};
use crate::base::Clock;
use crate::telemetry::GatewayMetric;

pub use self::path::{InnerPaths, PathRefusal, ProxiedPath};

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
    /// Those of them that the clients of one address hold at once; requests beyond wait.
    pub address_connections_max: Option<usize>,
    /// Whose `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` count.
    pub trusted_proxies: TrustedProxies,
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
    shares: Shares,
    watch: Arc<Watch>,
    stats: Arc<ServiceStats>,
}

/// What all requests share.
struct Shared {
    inner_paths: InnerPaths,
    silence: Duration,
    trusted_proxies: TrustedProxies,
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
                shares: Shares::new(settings.address_connections_max),
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
                trusted_proxies: settings.trusted_proxies,
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
        exchange::metrics(&named.collect())
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
        let mut exchange = Exchange::begin(&behind.watch, parts.peer);
        let upload = body.progress();
        let upstream = behind.pool.service().upstream();
        let client = self.client(&parts);
        let head = match self.head(path, upstream, parts) {
            Ok(head) => head,
            Err(refusal) => {
                exchange.refuse(refusal.outcome);
                return Answer::detail(refusal.status, refusal.detail).into();
            }
        };
        let bad_body = |exchange: &mut Exchange| {
            exchange.refuse(Outcome::BadRequest);
            Answer::detail(StatusCode::BAD_REQUEST, "Bad request body").into()
        };
        let Ok(body) = ToService::new(body, Arc::clone(&behind.stats)).await else {
            return bad_body(&mut exchange);
        };
        let request = with_body(head, body);
        let failure = match self.send(behind, client, request, &upload).await {
            Ok((answer, held)) => {
                exchange.has_head(answer.status());
                return self.passed_on(answer, held, upload, exchange);
            }
            Err(failure) => failure,
        };
        if upload.is_broken() {
            return bad_body(&mut exchange);
        }
        exchange.fail(failure.reason.into(), failure.cause.as_ref());
        failed(failure.reason).into()
    }

    /// The service's answer as the client gets it.
    fn passed_on(
        &self,
        answer: Response<Incoming>,
        held: Held,
        upload: Arc<Progress>,
        exchange: Exchange,
    ) -> LateAnswer {
        let (mut head, incoming) = answer.into_parts();
        headers::to_client(&mut head.headers);
        let mut body = ToClient::new(incoming, held, upload, exchange, self.silence);
        if head.status == StatusCode::NOT_MODIFIED {
            body = body.hiding_end();
        }
        LateAnswer {
            status: head.status,
            headers: head.headers,
            body: AnswerBody::pieces(body),
            is_passed_on: true,
        }
    }

    /// Sends a request once there is a connection for it, and waits for the head of an answer that
    /// can be passed on: it changes no protocol, which nobody asked for, and its body is one that
    /// others can read.
    async fn send(
        &self,
        behind: &Behind,
        client: ClientAddr,
        request: Request<ToService>,
        upload: &Progress,
    ) -> Result<(Response<Incoming>, Held), Failure> {
        let (share, place) = self.place(behind, client).await?;
        let sent = behind.pool.send(place, request, || upload.is_owed());
        let (answer, lease) = sent.await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            || headers::has_other_coding(answer.headers())
        {
            return Err(Failure::unreachable("an answer in another protocol"));
        }
        Ok((answer, Held { lease, share }))
    }

    /// The address that a request counts for.
    fn client(&self, parts: &RequestParts) -> ClientAddr {
        let lines = parts.head.headers.get_all("x-forwarded-for").iter();
        let lines = lines.filter_map(|line| line.to_str().ok());
        self.trusted_proxies.client(&parts.peer, lines)
    }

    /// A place in the share of the client's address, and one among all connections to the service.
    async fn place(
        &self,
        behind: &Behind,
        client: ClientAddr,
    ) -> Result<(Option<Share>, Place), Failure> {
        let places = async {
            let waits = || behind.stats.count_address_wait();
            let share = behind.shares.place(client, waits).await;
            (share, behind.pool.place().await)
        };
        let places = timeout(self.silence, places).await;
        places.map_err(|_| Failure::no_connection())
    }

    /// The head of the request as the service gets it.
    fn head(
        &self,
        path: ProxiedPath,
        upstream: &Upstream,
        parts: RequestParts,
    ) -> Result<Request<()>, Refusal> {
        let refused = |refusal: path::PathRefusal| Refusal {
            status: refusal.status(),
            detail: refusal.detail(),
            outcome: refusal.outcome(),
        };
        let target = path.target(parts.path(), self.inner_paths);
        let target = target.map_err(refused)?;
        let bad_path = || refused(path::PathRefusal::Trick);
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
        let target_host = parts.head.uri.authority();
        let target_host = target_host.and_then(|host| HeaderValue::try_from(host.as_str()).ok());
        let mut request = Request::new(());
        *request.method_mut() = parts.head.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = parts.head.headers;
        let forwarded = headers::Forwarded {
            peer: parts.peer.client(),
            peer_is_trusted: self.trusted_proxies.trusts(parts.peer.client()),
            target_host,
            host: upstream.authority(),
        };
        headers::to_service(request.headers_mut(), forwarded, random);
        Ok(request)
    }
}

/// The request with its body, which the head has to announce.
fn with_body(head: Request<()>, body: ToService) -> Request<ToService> {
    let is_in_chunks = body.is_in_chunks();
    let mut request = head.map(|()| body);
    if is_in_chunks {
        // hyper would send a GET or a HEAD without such a body.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    request
}

/// What a client gets where its service failed.
fn failed(reason: FailureReason) -> Answer {
    let (status, detail) = match reason {
        FailureReason::Timeout | FailureReason::NoConnection => {
            (StatusCode::GATEWAY_TIMEOUT, "Upstream timeout")
        }
        FailureReason::Unreachable => (StatusCode::BAD_GATEWAY, "Upstream unreachable"),
        FailureReason::HeadTooLarge => (StatusCode::BAD_GATEWAY, "Upstream answer head too large"),
    };
    Answer::detail(status, detail)
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
