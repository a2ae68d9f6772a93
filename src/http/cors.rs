//! Which origins may read answers from a browser (Fetch standard, CORS protocol).

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, StatusCode};

use super::site::{Answer, RequestParts};

/// Which origins may read answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// Every origin: `*`.
    #[default]
    Any,
    /// These, compared without regard to letter case.
    Listed(Vec<String>),
}

impl Cors {
    /// The answer to a preflight, for any path; `None` when the request is none.
    pub(super) fn preflight(&self, request: &RequestParts) -> Option<Answer> {
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

    /// Adds the headers that let the asking origin read the answer. `asked` is the request's
    /// headers.
    pub(super) fn mark(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if *self != Self::Any {
            // Caches must not give one origin's answer to another.
            answer.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = self.allowed_origin(asked) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
    }

    /// What `Access-Control-Allow-Origin` says; `None` without an `Origin` or for one that is not
    /// listed.
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
