//! From a request to its answer: head rules, CORS, routes. Pure but for what handlers read.

use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Version};

use super::site::{Answer, Handler, RequestParts, Site};

/// Answers requests of one site.
pub(super) struct Service {
    site: Site,
}

impl Service {
    pub(super) fn new(site: Site) -> Self {
        Self { site }
    }

    /// The answer, with the headers that every answer carries.
    pub(super) fn answer(&self, request: &RequestParts) -> Answer {
        let mut answer = if has_bad_host(request) {
            Answer::detail(StatusCode::BAD_REQUEST, "Bad Request").close()
        } else if asks_for_websocket(request) {
            upgrade_elsewhere()
        } else if let Some(preflight) = self.site.cors.preflight(request) {
            preflight
        } else {
            self.route(request)
        };
        self.site.cors.mark(request, &mut answer);
        answer.with(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        )
    }

    fn route(&self, request: &RequestParts) -> Answer {
        let method = match request.head.method {
            Method::HEAD => &Method::GET,
            ref method => method,
        };
        let path = request.path();
        let on_path = || self.site.routes.iter().filter(|route| route.path == path);
        if let Some(route) = on_path().find(|route| route.methods.contains(method)) {
            return call(&route.answer, request);
        }
        let methods: Vec<&Method> = on_path().flat_map(|route| route.methods).collect();
        match &self.site.fallback {
            _ if !methods.is_empty() => method_not_allowed(&methods),
            Some(fallback) => call(fallback, request),
            None => Answer::detail(StatusCode::NOT_FOUND, "Not Found"),
        }
    }
}

fn call(handler: &Handler, request: &RequestParts) -> Answer {
    match handler {
        Handler::Ready(answer) => answer(request),
    }
}

fn method_not_allowed(methods: &[&Method]) -> Answer {
    let mut allowed: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.sort_unstable();
    allowed.dedup();
    let answer = Answer::detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    match HeaderValue::try_from(allowed.join(", ")) {
        Ok(allow) => answer.with(header::ALLOW, allow),
        Err(_) => answer,
    }
}

/// A WebSocket upgrade belongs on a connection of its own: the client may try again on a new one.
/// The one place for upgrades that come on a connection which served plain HTTP before.
fn upgrade_elsewhere() -> Answer {
    Answer::detail(StatusCode::UPGRADE_REQUIRED, "Upgrade Required")
        .with(header::UPGRADE, HeaderValue::from_static("websocket"))
        .with(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        )
        .with(
            header::CONNECTION,
            HeaderValue::from_static("close, upgrade"),
        )
}

/// A GET that asks for a WebSocket (RFC 6455 §4.2.1). Other protocols in `Upgrade` may be ignored
/// (RFC 9110 §7.8).
fn asks_for_websocket(request: &RequestParts) -> bool {
    let has = |name, token: &str| {
        let values = request.head.headers.get_all(name).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|one| one.trim().eq_ignore_ascii_case(token))
    };
    request.head.method == Method::GET
        && has(header::UPGRADE, "websocket")
        && has(header::CONNECTION, "upgrade")
}

/// HTTP/1.1 wants exactly one `Host` (RFC 9112 §3.2), and it has to make a URL; HTTP/1.0 may go
/// without.
fn has_bad_host(request: &RequestParts) -> bool {
    let mut hosts = request.head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => request.head.version != Version::HTTP_10,
        (Some(_), Some(_)) => true,
        (Some(host), None) => {
            let text = host.to_str().unwrap_or_default();
            text.contains('@') || text.parse::<Authority>().is_err()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Cors, Route};
    use hyper::Request;

    fn ask(site: Site, request: hyper::http::request::Builder) -> Answer {
        let (head, ()) = request.body(()).unwrap().into_parts();
        let peer = ([127, 0, 0, 1], 9).into();
        Service::new(site).answer(&RequestParts { head, peer })
    }

    fn site() -> Site {
        static POST: [Method; 1] = [Method::POST];
        let created = Answer::empty(StatusCode::CREATED);
        Site {
            routes: vec![
                Route::get("/a", |_| Answer::json(StatusCode::OK, "1".to_owned())),
                Route {
                    path: "/a",
                    methods: &POST,
                    answer: Handler::ready(move |_| created.clone()),
                },
            ],
            ..Site::default()
        }
    }

    fn get(path: &str) -> hyper::http::request::Builder {
        Request::get(path).header("host", "x:80")
    }

    fn body(answer: &Answer) -> &str {
        std::str::from_utf8(&answer.body).unwrap()
    }

    #[test]
    fn routes_of_one_path_share_it_and_head_goes_where_get_goes() {
        for (method, status) in [("GET", 200), ("HEAD", 200), ("POST", 201), ("PUT", 405)] {
            assert_eq!(
                ask(site(), get("/a").method(method)).status,
                status,
                "{method}"
            );
        }
        let put = ask(site(), get("/a").method("PUT"));
        assert_eq!(put.headers[header::ALLOW], "GET, HEAD, POST");
        assert_eq!(body(&put), r#"{"detail":"Method Not Allowed"}"#);
        let unknown = ask(site(), get("/a/"));
        assert_eq!(unknown.status, 404);
        assert_eq!(body(&unknown), r#"{"detail":"Not Found"}"#);
    }

    #[test]
    fn a_fallback_answers_unknown_paths_but_not_wrong_methods() {
        let with_fallback = Site {
            fallback: Some(Handler::ready(|_| {
                Answer::new(
                    StatusCode::UPGRADE_REQUIRED,
                    "text/plain",
                    "Upgrade Required",
                )
            })),
            ..site()
        };
        assert_eq!(ask(with_fallback.clone(), get("/b")).status, 426);
        assert_eq!(ask(with_fallback, get("/a").method("PUT")).status, 405);
    }

    #[test]
    fn one_host_that_makes_a_url_is_wanted() {
        let bare = || Request::get("/a");
        assert_eq!(ask(site(), bare()).status, 400);
        assert_eq!(ask(site(), bare().version(Version::HTTP_10)).status, 200);
        assert_eq!(ask(site(), get("/a").header("host", "y")).status, 400);
        for bad in ["a b", "u@x", "", "x:y:z", "[::1", "%"] {
            assert_eq!(ask(site(), bare().header("host", bad)).status, 400, "{bad}");
        }
        for good in ["x", "x:8000", "[::1]:8000", "127.0.0.1"] {
            assert_eq!(
                ask(site(), bare().header("host", good)).status,
                200,
                "{good}"
            );
        }
    }

    #[test]
    fn a_websocket_upgrade_is_sent_to_a_connection_of_its_own() {
        let upgrade = get("/a")
            .header("upgrade", "WebSocket")
            .header("connection", "keep-alive, Upgrade");
        let answer = ask(site(), upgrade);
        assert_eq!(answer.status, 426);
        assert_eq!(answer.headers[header::SEC_WEBSOCKET_VERSION], "13");
        assert_eq!(answer.headers[header::CONNECTION], "close, upgrade");
        let h2c = get("/a")
            .header("upgrade", "h2c")
            .header("connection", "upgrade");
        assert_eq!(ask(site(), h2c).status, 200);
    }

    #[test]
    fn answers_to_an_origin_can_be_read_by_it() {
        let origin = |site: Site, origin: &str| ask(site, get("/zz").header("origin", origin));
        let any = origin(site(), "http://a.example");
        assert_eq!(any.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!any.headers.contains_key(header::VARY));
        let none = ask(site(), get("/a"));
        assert!(
            !none
                .headers
                .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        );

        let listed = Site {
            cors: Cors::Listed(vec!["https://Good.example".to_owned()]),
            ..site()
        };
        let good = origin(listed.clone(), "https://good.example");
        let allowed = &good.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN];
        assert_eq!(allowed, "https://good.example");
        assert_eq!(good.headers[header::VARY], "Origin");
        let bad = origin(listed, "https://bad.example");
        assert!(
            !bad.headers
                .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        );
        assert_eq!(bad.headers[header::VARY], "Origin");
    }

    #[test]
    fn a_preflight_is_answered_for_every_path() {
        let preflight = |site: Site| {
            let request = get("/anything")
                .method("OPTIONS")
                .header("origin", "https://a.example")
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "x-token");
            ask(site, request)
        };
        let answer = preflight(site());
        assert_eq!(answer.status, 204);
        assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(
            answer.headers[header::ACCESS_CONTROL_ALLOW_HEADERS],
            "x-token"
        );
        let methods = answer.headers[header::ACCESS_CONTROL_ALLOW_METHODS].to_str();
        assert!(methods.unwrap().contains("POST"));

        let listed = Site {
            cors: Cors::Listed(vec![]),
            ..site()
        };
        let refused = preflight(listed);
        assert_eq!(refused.status, 400);
        assert!(
            !refused
                .headers
                .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        );
        // OPTIONS that is no preflight is a method like any other.
        assert_eq!(ask(site(), get("/a").method("OPTIONS")).status, 405);
    }
}
