//! The origins whose pages may read answers in a browser, and make changes (Fetch standard, CORS protocol).

use super::site::{Answer, RequestParts, SEC_FETCH_SITE};
use hyper::header::{
    self, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN,
    VARY,
};
use hyper::{Method, StatusCode};

/// The origins that may read answers, and make changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// Every origin: `*`.
    #[default]
    Any,
    /// Listed origins, compared without regard to letter case.
    Listed(Vec<String>),
}

impl Cors {
    /// Answers the requests that never reach a route: a preflight, and a request of a foreign page that could change
    /// something. Returns `None` for any other request.
    pub fn answer(&self, request: &RequestParts) -> Option<Answer> {
        self.preflight(request)
            .or_else(|| self.refuse_change(request))
    }

    /// Refuses a request that could change something, from a page of an unlisted origin: a page needs no preflight to
    /// send a form whose answer it does not read. Browsers send `Origin` with every method that may change something
    /// (Fetch standard, "append a request `Origin` header").
    fn refuse_change(&self, request: &RequestParts) -> Option<Answer> {
        let headers = &request.head.headers;
        let is_own_page = request.header(&SEC_FETCH_SITE) == Some("same-origin");
        let is_foreign =
            headers.contains_key(ORIGIN) && !is_own_page && self.allowed_origin(headers).is_none();
        let refused = is_foreign && !request.head.method.is_safe();
        refused.then(|| Answer::detail(StatusCode::FORBIDDEN, "Origin not allowed"))
    }

    /// Returns the answer to a preflight, whatever its path; `None` for any other request.
    fn preflight(&self, request: &RequestParts) -> Option<Answer> {
        let headers = &request.head.headers;
        let asks = request.head.method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks {
            return None;
        }
        if self.allowed_origin(headers).is_none() {
            return Some(Answer::detail(
                StatusCode::BAD_REQUEST,
                "Disallowed CORS origin",
            ));
        }
        let methods = HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");
        let mut answer = Answer::empty(StatusCode::NO_CONTENT)
            .with(ACCESS_CONTROL_ALLOW_METHODS, methods)
            .with(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer = answer.with(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        Some(answer)
    }

    /// Refuses the request of a page of another origin, and ends its connection. Returns `None` for a page in the list,
    /// and if a person follows a link.
    pub(crate) fn refuse_other_page(&self, request: &RequestParts) -> Option<Answer> {
        let is_listed = *self != Self::Any && self.allowed_origin(&request.head.headers).is_some();
        let refused = request.is_cross_origin() && !is_listed && !request.is_visit();
        refused.then(|| {
            let close = HeaderValue::from_static("close");
            Answer::not_for_other_pages().with(header::CONNECTION, close)
        })
    }

    /// Adds the headers that let the origin of the request read the answer. `asked` has the request's `Origin`.
    pub fn mark(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if *self != Self::Any {
            // Caches must not serve an answer for another origin.
            answer.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = self.allowed_origin(asked) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if *self != Self::Any {
                // Pages in the list may send cookies.
                answer.insert(
                    ACCESS_CONTROL_ALLOW_CREDENTIALS,
                    HeaderValue::from_static("true"),
                );
            }
        }
    }

    /// The value of `Access-Control-Allow-Origin`; `None` without an `Origin` or for an unlisted origin.
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        match self {
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Listed(listed) => {
                let text = origin.to_str().ok()?;
                let is_listed = listed.iter().any(|one| one.eq_ignore_ascii_case(text));
                is_listed.then(|| origin.clone())
            }
        }
    }
}
