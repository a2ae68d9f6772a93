//! The reverse proxy of the events gateway (contract events, section "Proxy").
//!
//! Bodies stream both ways and are never kept; a side that does not read stops the other. No cookie
//! is kept, no redirect followed, nothing decoded. What may pass, and how it is changed, is in pure
//! parts: `path`, `headers`. Called by `run`, runs on the HTTP thread.

mod body;
mod client;
mod headers;
mod path;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, StatusCode, Uri};
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;

use self::body::{ToClient, ToService};
use self::client::{Client, Failure};
use self::path::{Line, Service, TABLE};
use super::body::{AnswerBody, RequestBody};
use super::calls::Upstream;
use super::site::{ANY_METHOD, Answer, Handler, LateAnswer, RequestParts, Route};
use crate::auth::TrustedProxies;

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
}

/// The routes of the proxy.
pub fn routes(settings: ProxySettings) -> Vec<Route> {
    let tls = settings.tls.map(TlsConnector::from);
    let silence = Duration::from_millis(settings.silence_timeout_ms);
    let client = |upstream| {
        let connections_max = settings.service_connections_max;
        Client::new(upstream, tls.clone(), silence, connections_max)
    };
    let proxy = Arc::new(Proxy {
        measurement: client(settings.measurement),
        simulation: client(settings.simulation),
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

/// Status and `detail` of a request that is not passed on.
type Refusal = (StatusCode, &'static str);

struct Proxy {
    measurement: Client,
    simulation: Client,
    silence: Duration,
    trusted_proxies: TrustedProxies,
}

impl Proxy {
    async fn pass(&self, line: Line, parts: RequestParts, body: RequestBody) -> LateAnswer {
        let client = match line.service {
            Service::Measurement => &self.measurement,
            Service::Simulation => &self.simulation,
        };
        let (body, upload) = ToService::new(body);
        let request = match self.request(line, client.upstream(), parts, body) {
            Ok(request) => request,
            Err((status, detail)) => return Answer::detail(status, detail).into(),
        };
        match client.send(request, &upload).await {
            Ok((answer, lease)) => {
                let (mut head, incoming) = answer.into_parts();
                headers::to_client(&mut head.headers);
                let body = ToClient::new(incoming, lease, upload, self.silence);
                LateAnswer {
                    status: head.status,
                    headers: head.headers,
                    body: AnswerBody::pieces(body),
                    is_passed_on: true,
                }
            }
            Err(_) if upload.is_broken() => {
                Answer::detail(StatusCode::BAD_REQUEST, "Bad request body").into()
            }
            Err(Failure::Unreachable) => {
                Answer::detail(StatusCode::BAD_GATEWAY, "Upstream unreachable").into()
            }
            Err(Failure::Timeout) => {
                Answer::detail(StatusCode::GATEWAY_TIMEOUT, "Upstream timeout").into()
            }
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
        let target = line
            .target(parts.path())
            .map_err(|refusal| (refusal.status(), refusal.detail()))?;
        let bad_path = || (StatusCode::BAD_REQUEST, "Bad path");
        let uri = uri(upstream.base_path(), target, parts.head.uri.query()).ok_or_else(bad_path)?;
        if headers::has_other_coding(&parts.head.headers) {
            let detail = "Transfer-Encoding other than chunked";
            return Err((StatusCode::NOT_IMPLEMENTED, detail));
        }
        // It asks for a tunnel, and hyper would make one.
        if parts.head.method == Method::CONNECT {
            return Err((StatusCode::NOT_IMPLEMENTED, "CONNECT"));
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
