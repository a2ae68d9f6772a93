//! What a gateway serves over plain HTTP: routes as data.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request;
use hyper::{Method, StatusCode};

use super::cors::Cors;
use crate::wire::object_writer::ObjectWriter;

/// The methods of a route that is only read. HEAD goes where GET goes and needs no mention.
pub static GET: [Method; 1] = [Method::GET];

/// A request without its body.
#[derive(Debug)]
pub struct RequestParts {
    /// Method, target, version and headers.
    pub head: request::Parts,
    /// The other end of the connection.
    pub peer: SocketAddr,
}

impl RequestParts {
    /// The path of the target, as it was sent: not percent-decoded.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// The first value of a header, where it is visible ASCII.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }
}

/// What makes the answer of a route.
#[derive(Clone)]
pub enum Handler {
    /// At once, from what the process knows. Runs on the HTTP thread: it must not block.
    Ready(Arc<dyn Fn(&RequestParts) -> Answer + Send + Sync>),
}

impl Handler {
    /// A handler that answers at once.
    pub fn ready(answer: impl Fn(&RequestParts) -> Answer + Send + Sync + 'static) -> Self {
        Self::Ready(Arc::new(answer))
    }
}

/// One path and what answers it.
#[derive(Clone)]
pub struct Route {
    /// The whole path, exactly.
    pub path: &'static str,
    /// The methods that it takes. Several routes may share a path.
    pub methods: &'static [Method],
    /// What answers.
    pub answer: Handler,
}

impl Route {
    /// A route that is only read.
    pub fn get(
        path: &'static str,
        answer: impl Fn(&RequestParts) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            methods: &GET,
            answer: Handler::ready(answer),
        }
    }
}

/// Everything that one gateway serves over plain HTTP.
#[derive(Clone, Default)]
pub struct Site {
    /// The routes, in the order in which they are tried.
    pub routes: Vec<Route>,
    /// The answer for unknown paths, where it is not 404 `{"detail":"Not Found"}`
    /// (trades contract: 426).
    pub fallback: Option<Handler>,
    /// Which origins may read answers.
    pub cors: Cors,
}

impl Site {
    /// What stays on the public port, and what an admin listener serves: the pages that tell of the
    /// process, and `/internal/*`. `/health` is on both.
    pub fn split_admin(self) -> (Self, Self) {
        let is_admin = |route: &Route| {
            let path = route.path;
            ["/metrics", "/stats", "/ready"].contains(&path) || path.starts_with("/internal/")
        };
        let of = |keep: &dyn Fn(&Route) -> bool| {
            let routes = self.routes.iter();
            routes.filter(|route| keep(route)).cloned().collect()
        };
        let admin = Self {
            routes: of(&|route| is_admin(route) || route.path == "/health"),
            cors: self.cors.clone(),
            ..Self::default()
        };
        let routes = of(&|route| !is_admin(route));
        (Self { routes, ..self }, admin)
    }
}

/// An answer with its whole body.
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

    /// `{"detail": …}`, the form of the originals' error answers.
    pub fn detail(status: StatusCode, detail: &str) -> Self {
        let mut object = ObjectWriter::new();
        object.string("detail", detail);
        Self::json(status, object.finish())
    }

    /// Sets a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Forbids caches to keep the answer: it is true only now.
    #[must_use]
    pub fn no_store(self) -> Self {
        self.with(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    /// Ends the connection after the answer.
    #[must_use]
    pub fn close(self) -> Self {
        self.with(header::CONNECTION, HeaderValue::from_static("close"))
    }
}
