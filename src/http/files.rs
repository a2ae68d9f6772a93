//! Files inside the binary, each with an entity tag: browsers ask each time, and usually get a 304. The
//! browser clients are included: the files of `clients/js`, with their types.

use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};

use super::site::{Answer, RequestParts, Route};

/// Scripts, styles and connections of this origin only; no page may be framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

pub(super) const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) text: &'static str,
}

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

/// Returns a route for each of these files.
pub(super) fn routes(files: &'static [File]) -> Vec<Route> {
    files.iter().map(route).collect()
}

/// Returns the route of a file.
pub(super) fn route(file: &'static File) -> Route {
    let etag = etag(file.text);
    Route::get(file.path, move |request| answer(file, &etag, request))
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

/// Returns true if `If-None-Match` contains the tag (RFC 9110 §13.1.2; the weak comparison).
fn names(known: &str, etag: &HeaderValue) -> bool {
    let mut tags = known.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.trim_start_matches("W/").as_bytes() == etag.as_bytes())
}

/// Returns a strong tag, derived from the bytes.
fn etag(text: &str) -> HeaderValue {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    HeaderValue::try_from(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// The browser client of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientModule {
    /// `/weirgate.js`, which is also a part of the other clients.
    Levels,
    /// `/trades.js`.
    Trades,
    /// `/channels.js`.
    Channels,
    /// `/events.js`.
    Events,
}

/// The type for declarations, which people and compilers read, but no browser runs.
const TYPES: &str = "text/plain; charset=utf-8";

const fn types(path: &'static str, text: &'static str) -> File {
    File {
        path,
        content_type: TYPES,
        text,
    }
}

// Each client with its types.
static CORE: [File; 2] = [
    File::script("/weirgate.js", include_str!("../../clients/js/weirgate.js")),
    types(
        "/weirgate.d.ts",
        include_str!("../../clients/js/weirgate.d.ts"),
    ),
];
static SESSION: [File; 2] = [
    File::script("/session.js", include_str!("../../clients/js/session.js")),
    types(
        "/session.d.ts",
        include_str!("../../clients/js/session.d.ts"),
    ),
];
static SUBSCRIBER: [File; 2] = [
    File::script(
        "/subscriber.js",
        include_str!("../../clients/js/subscriber.js"),
    ),
    types(
        "/subscriber.d.ts",
        include_str!("../../clients/js/subscriber.d.ts"),
    ),
];
static TRADES: [File; 2] = [
    File::script("/trades.js", include_str!("../../clients/js/trades.js")),
    types("/trades.d.ts", include_str!("../../clients/js/trades.d.ts")),
];
static CHANNELS: [File; 2] = [
    File::script("/channels.js", include_str!("../../clients/js/channels.js")),
    types(
        "/channels.d.ts",
        include_str!("../../clients/js/channels.d.ts"),
    ),
];
static EVENTS: [File; 2] = [
    File::script("/events.js", include_str!("../../clients/js/events.js")),
    types("/events.d.ts", include_str!("../../clients/js/events.d.ts")),
];

static EVENT_STREAM: [File; 2] = [
    File::script(
        "/event-stream.js",
        include_str!("../../clients/js/event-stream.js"),
    ),
    types(
        "/event-stream.d.ts",
        include_str!("../../clients/js/event-stream.d.ts"),
    ),
];

/// The files of a client: its module with imports, and the event stream, usable by any client in place of a
/// WebSocket.
fn files_of(client: ClientModule) -> impl Iterator<Item = &'static File> {
    let (subscriber, own) = match client {
        ClientModule::Levels => (None, None),
        ClientModule::Trades => (Some(&SUBSCRIBER), Some(&TRADES)),
        ClientModule::Channels => (Some(&SUBSCRIBER), Some(&CHANNELS)),
        ClientModule::Events => (None, Some(&EVENTS)),
    };
    let session = own.map(|_| &SESSION);
    let all = [Some(&CORE), session, subscriber, own, Some(&EVENT_STREAM)];
    all.into_iter().flatten().flatten()
}

/// Returns a route for each file of a client.
pub fn client_routes(client: ClientModule) -> Vec<Route> {
    files_of(client).map(route).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hyper::Request;

    pub(in crate::http) fn ask(file: &File, if_none_match: Option<&str>) -> Answer {
        let mut request = Request::get(file.path);
        if let Some(tags) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tags);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let request = RequestParts {
            head,
            peer: crate::admission::Peer::Unix(None),
        };
        answer(file, &etag(file.text), &request)
    }

    #[test]
    fn whoever_has_a_file_gets_only_its_tag() {
        let file = File::script("/a.js", "a");
        let whole = ask(&file, None);
        assert_eq!(whole.status, StatusCode::OK);
        assert_eq!(whole.headers[header::CONTENT_TYPE], SCRIPT);
        assert_eq!(whole.headers[header::CACHE_CONTROL], "no-cache");
        let tag = whole.headers[header::ETAG].to_str().unwrap();
        for known in [tag, "*", &format!("\"a\", W/{tag}")] {
            let answer = ask(&file, Some(known));
            assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{known}");
            assert!(answer.body.is_empty());
            assert_eq!(answer.headers[header::ETAG], tag);
        }
        let other = ask(&File::script("/a.js", "b"), Some(tag));
        assert_eq!(other.status, StatusCode::OK);
    }

    #[test]
    fn what_a_file_imports_is_served_beside_it() {
        for client in [
            ClientModule::Levels,
            ClientModule::Trades,
            ClientModule::Channels,
            ClientModule::Events,
        ] {
            let paths: Vec<_> = files_of(client).map(|file| file.path).collect();
            for file in files_of(client) {
                for from in file.text.split(" from \"./").skip(1) {
                    let name = from.split('"').next().expect("a name");
                    let path = format!("/{name}");
                    assert!(paths.contains(&&*path), "{} imports {path}", file.path);
                    let typed = path.replace(".js", ".d.ts");
                    assert!(paths.contains(&&*typed), "{path} without types");
                }
            }
        }
    }
}
