//! The plain HTTP of a gateway as data: requests, routes and answers.

use super::body::{AnswerBody, BoxError, RequestBody};
use super::caller::Caller;
use super::cors::Cors;
use super::handover::{Handover, ReturnToReactor};
use super::page::FrontPage;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request;
use hyper::{Method, StatusCode};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use weirgate_wire::admission::Peer;
use weirgate_wire::auth::Refusal;
use weirgate_wire::json::ObjectWriter;

/// The header in which a browser says how the origin of the page relates to the origin of the request (Fetch Metadata).
pub(crate) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// A request without its body.
#[derive(Debug)]
pub struct RequestParts {
    /// Method, target, version and headers.
    pub head: request::Parts,
    /// The other end of the connection.
    pub peer: Peer,
    /// Who sends the request.
    pub caller: Caller,
    /// Whether the connection has TLS.
    pub is_tls: bool,
}

impl RequestParts {
    /// A request of a program on a unix socket.
    #[cfg(test)]
    pub(super) fn of_this_machine(head: request::Parts) -> Self {
        let peer = Peer::Unix(None);
        let caller = Caller::of(&Arc::default(), &peer, None, &head.headers);
        Self {
            head,
            peer,
            caller,
            is_tls: false,
        }
    }

    /// Whether a page of another origin sends this request. If the page will not read the answer, the browser may leave
    /// out `Origin`, but it sends `Sec-Fetch-Site`. A page can set neither.
    pub(crate) fn is_cross_origin(&self) -> bool {
        let site = self.header(&SEC_FETCH_SITE);
        let is_foreign = site.is_some_and(|site| !["same-origin", "none"].contains(&site));
        is_foreign || self.head.headers.contains_key(ORIGIN) && site != Some("same-origin")
    }

    /// Whether a person follows a link in a browser.
    pub(super) fn is_visit(&self) -> bool {
        self.head.method == Method::GET && self.header(&SEC_FETCH_DEST) == Some("document")
    }

    /// The path of the target as sent, not percent-decoded.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Returns the first value of a header, if it is visible ASCII.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// Returns all values of a header that are visible ASCII.
    pub fn header_values<'a>(
        &'a self,
        name: &HeaderName,
    ) -> impl Iterator<Item = &'a str> + use<'a> {
        let values = self.head.headers.get_all(name).iter();
        values.filter_map(|value| value.to_str().ok())
    }
}

/// A future answer. Polled on an HTTP thread, so it must not block; dropped when the client leaves.
pub(crate) type Later = Pin<Box<dyn Future<Output = LateAnswer>>>;

/// The handler of a route.
#[derive(Clone)]
pub enum Handler {
    /// Answers at once, from the state of the process. Runs on an HTTP thread, so it must not block. The body of a
    /// request is not read, so the connection ends after the answer if there is one.
    Ready(Arc<dyn Fn(&RequestParts) -> Answer + Send + Sync>),
    /// Answers later, perhaps in pieces, and may read the body of the request. If the handler leaves a part of the body
    /// unread, the connection ends after the answer. The handler has no time limit; only a client that does not send or
    /// read in time is cut off.
    Later(Arc<dyn Fn(RequestParts, RequestBody) -> Later + Send + Sync>),
}

impl Handler {
    /// Makes a handler that answers at once.
    pub fn ready(answer: impl Fn(&RequestParts) -> Answer + Send + Sync + 'static) -> Self {
        Self::Ready(Arc::new(answer))
    }

    /// Makes a handler that answers later.
    pub fn later<F, A>(answer: F) -> Self
    where
        F: Fn(RequestParts, RequestBody) -> A + Send + Sync + 'static,
        A: Future<Output = LateAnswer> + 'static,
    {
        Self::Later(Arc::new(move |parts, body| Box::pin(answer(parts, body))))
    }
}

/// A path with its handler.
#[derive(Clone)]
pub struct Route {
    /// The exact path; or a prefix followed by `{path}`, which matches every path with that prefix. Compared with the
    /// path as the client sent it, not percent-decoded.
    pub path: &'static str,
    /// The accepted methods, or [`Self::ANY_METHOD`]. Several routes may share a path.
    pub methods: &'static [Method],
    /// The handler.
    pub answer: Handler,
}

impl Route {
    /// The methods of a read-only route. HEAD is implied by GET.
    pub const GET: &[Method] = &[Method::GET];
    /// The methods of a route for every method.
    pub const ANY_METHOD: &[Method] = &[];

    /// Makes a read-only route.
    pub fn get(
        path: &'static str,
        answer: impl Fn(&RequestParts) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            methods: Self::GET,
            answer: Handler::ready(answer),
        }
    }

    /// Whether the route answers requests for this path.
    pub fn is_on(&self, path: &str) -> bool {
        match self.path.strip_suffix("{path}") {
            Some(prefix) => path.starts_with(prefix),
            None => self.path == path,
        }
    }

    /// Whether the route answers requests with this method.
    pub fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }
}

/// Takes over the connections of some requests, with the bytes read so far, and returns all other connections. Called
/// on the HTTP thread, so it must not block. It may pass a connection to the reactor through the callback, with another
/// request or on another socket.
pub(crate) type TakeOver =
    Arc<dyn Fn(Handover, &ReturnToReactor) -> Option<Handover> + Send + Sync>;

/// All plain HTTP of a gateway.
#[derive(Clone, Default)]
pub struct Site {
    /// Called before the routes are tried, once for each connection that the reactor hands over.
    pub take_over: Option<TakeOver>,
    /// The routes, in the order in which they are tried.
    pub routes: Vec<Route>,
    /// The answer for unknown paths, if other than 404 `{"detail":"Not Found"}` (trades contract: 426).
    pub fallback: Option<Handler>,
    /// The page for browsers, at `/` and at the path of the WebSocket, for paths that have no route.
    pub front: Option<FrontPage>,
    /// The origins that may read answers, and make changes.
    pub cors: Cors,
    /// Whether this is the admin listener's. It refuses pages of other origins, unless `cors` lists them, because it
    /// accepts few connections.
    pub is_admin: bool,
}

/// The pages about the process, for probes and scrapers.
const STATUS_PATHS: [&str; 4] = ["/metrics", "/stats", "/ready", "/health"];

impl Site {
    /// Checks that no operator has cut off the sender of a request. A cut must not make the probes of the admin
    /// listener fail, which may share the address of a node with clients, nor lock out the operator of this machine,
    /// who takes it back.
    ///
    /// # Errors
    /// An operator has cut the sender off.
    pub(super) fn admit(&self, request: &RequestParts) -> Result<(), Refusal> {
        match self.is_open_to_all(request) {
            true => Ok(()),
            false => request.caller.admit(),
        }
    }

    fn is_open_to_all(&self, request: &RequestParts) -> bool {
        let is_status = || STATUS_PATHS.contains(&request.path());
        self.is_admin && (is_status() || request.caller.is_this_machine())
    }

    /// Whether a request in progress ends when its sender is cut off. An operator may have cut off itself, and gets the
    /// answer.
    pub(super) fn ends_with_cut(&self, request: &RequestParts) -> bool {
        let is_operator = || request.path().starts_with("/operator/");
        !(self.is_open_to_all(request) || self.is_admin && is_operator())
    }

    /// Splits the site in two: for the public port, and for the admin listener. The latter gets the pages about the
    /// process, `/internal/*`, and the `operator` routes, which only an admin listener serves. `/health` is on both.
    pub(crate) fn split_admin(self, operator: Vec<Route>) -> (Self, Self) {
        let is_status = |route: &Route| STATUS_PATHS.contains(&route.path);
        let is_internal = |route: &Route| route.path.starts_with("/internal/");
        let routes_with = |keep: &dyn Fn(&Route) -> bool| {
            let routes = self.routes.iter();
            routes.filter(|route| keep(route)).cloned().collect()
        };
        let mut admin_routes: Vec<Route> =
            routes_with(&|route| is_status(route) || is_internal(route));
        admin_routes.extend(operator);
        let admin = Self {
            routes: admin_routes,
            cors: self.cors.clone(),
            ..Self::default()
        };
        let is_public = |route: &Route| !is_status(route) && !is_internal(route);
        let routes = routes_with(&|route| is_public(route) || route.path == "/health");
        (Self { routes, ..self }, admin)
    }
}

/// An HTTP response with its whole body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers; the server adds `Date`, `Content-Length` and what the connection needs.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// An answer without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// An answer with a body of the given content type.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::empty(status)
        }
        .with(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    /// JSON text as `application/json`.
    pub fn json(status: StatusCode, text: String) -> Self {
        Self::new(status, "application/json", text)
    }

    /// `{"detail": …}`, the form of the error answers of the replaced gateways.
    pub fn detail(status: StatusCode, detail: &str) -> Self {
        let mut object = ObjectWriter::new();
        object.string("detail", detail);
        Self::json(status, object.finish())
    }

    /// The refusal of a page of another origin.
    pub(super) fn not_for_other_pages() -> Self {
        Self::detail(StatusCode::FORBIDDEN, "Not for pages of other origins")
    }

    /// Sets a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets all these headers.
    #[must_use]
    pub(crate) fn with_all(
        self,
        headers: impl IntoIterator<Item = (HeaderName, &'static str)>,
    ) -> Self {
        headers.into_iter().fold(self, |answer, (name, value)| {
            answer.with(name, HeaderValue::from_static(value))
        })
    }

    /// Tells caches not to keep the answer, because it is true only now.
    #[must_use]
    pub fn no_store(self) -> Self {
        self.with(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }
}

/// An HTTP response with a body that may come in pieces.
pub struct LateAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers; the server adds `Date`, headers for the connection, and `Transfer-Encoding` if the body's
    /// length is unknown.
    pub headers: HeaderMap,
    /// The body.
    pub body: AnswerBody,
    /// Whether this is a service's answer: then only CORS headers are added, and only if the service has set none.
    pub is_passed_on: bool,
    /// For an answer of a service: it holds a connection, which others may need.
    pub eviction_check: Option<EvictionCheck>,
}

/// Returns whether the answer has to end because others need what it holds. If not, wakes the task once it has to.
pub(crate) type EvictionCheck = Box<dyn Fn(&Context<'_>) -> bool>;

impl From<Answer> for LateAnswer {
    fn from(answer: Answer) -> Self {
        Self {
            status: answer.status,
            headers: answer.headers,
            body: Box::pin(Full::new(answer.body).map_err(BoxError::from)),
            is_passed_on: false,
            eviction_check: None,
        }
    }
}
