//! The page at `/` and the files that it is made of: inside the binary, nothing from elsewhere.
//!
//! `/weirgate.js` is `clients/js/weirgate.js` itself, so that what the page shows is what a user of
//! that file gets. Called by `run`, for the gateways that have a page.

use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};

use super::site::{Answer, RequestParts, Route};

/// Scripts, styles and connections of this origin and nothing else; nobody may frame the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// One file of a page.
pub(super) struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

static FILES: [File; 10] = [
    File::html("/", include_str!("index.html")),
    File::css("/page/page.css", include_str!("page.css")),
    File::script(
        "/weirgate.js",
        include_str!("../../../clients/js/weirgate.js"),
    ),
    File::script("/page/main.js", include_str!("main.js")),
    File::script("/page/values.js", include_str!("values.js")),
    File::script("/page/ladder.js", include_str!("ladder.js")),
    File::script("/page/flow.js", include_str!("flow.js")),
    File::script("/page/predictions.js", include_str!("predictions.js")),
    File::script("/page/server.js", include_str!("server.js")),
    File::script("/page/slow.js", include_str!("slow.js")),
];

impl File {
    pub(super) const fn html(path: &'static str, text: &'static str) -> Self {
        Self {
            path,
            content_type: "text/html; charset=utf-8",
            text,
        }
    }

    pub(super) const fn css(path: &'static str, text: &'static str) -> Self {
        Self {
            path,
            content_type: "text/css; charset=utf-8",
            text,
        }
    }

    pub(super) const fn script(path: &'static str, text: &'static str) -> Self {
        Self {
            path,
            content_type: SCRIPT,
            text,
        }
    }
}

/// A route for each file of the page at `/`.
pub fn routes() -> Vec<Route> {
    file_routes(&FILES)
}

/// A route for each of these files.
pub(super) fn file_routes(files: &'static [File]) -> Vec<Route> {
    let route = |file: &'static File| {
        let etag = etag(file.text);
        Route::get(file.path, move |request| answer(file, &etag, request))
    };
    files.iter().map(route).collect()
}

/// A new build may have a new file under the same name, so browsers ask each time; most get a 304.
fn answer(file: &File, etag: &HeaderValue, request: &RequestParts) -> Answer {
    let answer = if request
        .header(&header::IF_NONE_MATCH)
        .is_some_and(|known| names(known, etag))
    {
        Answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        Answer::new(StatusCode::OK, file.content_type, file.text)
    };
    let fixed = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    [
        (header::ETAG, etag.clone()),
        fixed(header::CACHE_CONTROL, "no-cache"),
        fixed(header::CONTENT_SECURITY_POLICY, POLICY),
        fixed(header::REFERRER_POLICY, "no-referrer"),
    ]
    .into_iter()
    .fold(answer, |answer, (name, value)| answer.with(name, value))
}

/// Whether `If-None-Match` holds the tag (RFC 9110 §13.1.2; the weak comparison).
fn names(known: &str, etag: &HeaderValue) -> bool {
    let mut tags = known.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.trim_start_matches("W/").as_bytes() == etag.as_bytes())
}

/// A strong tag: other bytes, another tag.
fn etag(text: &str) -> HeaderValue {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    HeaderValue::try_from(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn ask(path: &str, if_none_match: Option<&str>) -> Answer {
        let mut request = Request::get(path);
        if let Some(tags) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tags);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let request = RequestParts {
            head,
            peer: crate::admission::Peer::Unix(None),
        };
        let file = FILES.iter().find(|file| file.path == path).unwrap();
        answer(file, &etag(file.text), &request)
    }

    #[test]
    fn whoever_has_a_file_gets_only_its_tag() {
        let whole = ask("/weirgate.js", None);
        assert_eq!(whole.status, StatusCode::OK);
        assert_eq!(whole.headers[header::CONTENT_TYPE], SCRIPT);
        assert_eq!(whole.headers[header::CACHE_CONTROL], "no-cache");
        let tag = whole.headers[header::ETAG].to_str().unwrap();
        for known in [tag, "*", &format!("\"a\", W/{tag}")] {
            let answer = ask("/weirgate.js", Some(known));
            assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{known}");
            assert!(answer.body.is_empty());
            assert_eq!(answer.headers[header::ETAG], tag);
        }
        let other = ask("/page/main.js", Some(tag));
        assert_eq!(other.status, StatusCode::OK);
    }

    #[test]
    fn the_page_may_load_and_reach_its_own_origin_only() {
        let answer = ask("/", None);
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str();
        assert!(!policy.unwrap().contains("unsafe"));
        for file in &FILES {
            for elsewhere in ["http://", "https://", "<style", "style=\"", "innerHTML"] {
                let svg = file.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!svg.contains(elsewhere), "{} has {elsewhere}", file.path);
            }
        }
    }
}
