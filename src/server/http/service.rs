//! Finds the answer to a request: CORS, then routes. Pure, except for the handlers. The gate has already checked the
//! head.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};

use super::site::{Answer, Handler, RequestParts, Site};

impl Site {
    /// Finds the answer or the handler of a request.
    pub(super) fn find(&self, request: &RequestParts) -> Responder<'_> {
        let refused = self.is_admin.then(|| self.cors.refuse_other_page(request));
        let answer = refused.flatten().or_else(|| self.cors.answer(request));
        answer.map_or_else(|| self.route(request), Responder::Answer)
    }

    /// Finds the route of a request by path and method; without one the page for browsers, the fallback, or an error.
    fn route(&self, request: &RequestParts) -> Responder<'_> {
        let method = &request.head.method;
        let path = request.path();
        let on_path = || self.routes.iter().filter(|route| route.is_on(path));
        let takes = |method| on_path().find(|route| route.takes(method));
        let for_get = || takes(&Method::GET).filter(|_| *method == Method::HEAD);
        if let Some(route) = takes(method).or_else(for_get) {
            return Responder::Handler(&route.answer);
        }
        let methods: Vec<&Method> = on_path().flat_map(|route| route.methods).collect();
        if !methods.is_empty() {
            return Responder::Answer(method_not_allowed(&methods));
        }
        let front = self.front.as_ref();
        if let Some(page) = front.and_then(|front| front.answer(request)) {
            return Responder::Answer(page);
        }
        match &self.fallback {
            Some(fallback) => Responder::Handler(fallback),
            None => Responder::Answer(Answer::detail(StatusCode::NOT_FOUND, "Not Found")),
        }
    }

    /// Adds the headers that every answer has. `asked` has the request's `Origin`.
    pub(super) fn mark(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        self.cors.mark(asked, answer);
        let nosniff = HeaderValue::from_static("nosniff");
        answer.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    }

    /// Adds CORS headers to a service's answer, unless the service has set them itself.
    pub(super) fn mark_passed_on(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if !answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            self.cors.mark(asked, answer);
        }
    }
}

/// What answers a request: a handler, or an answer that is known already.
pub(super) enum Responder<'a> {
    Handler(&'a Handler),
    Answer(Answer),
}

/// Returns a 405 that lists the methods of the path. HEAD is among them if GET is.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Cors, Route};
    use hyper::Request;

    fn ask(site: Site, request: hyper::http::request::Builder) -> Answer {
        let (head, ()) = request.body(()).unwrap().into_parts();
        let parts = RequestParts::of_this_machine(head);
        let mut answer = match site.find(&parts) {
            Responder::Answer(answer) => answer,
            Responder::Handler(Handler::Ready(answer)) => answer(&parts),
            Responder::Handler(Handler::Later(_)) => Answer::empty(StatusCode::ACCEPTED),
        };
        site.mark(&parts.head.headers, &mut answer.headers);
        answer
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
    fn a_page_of_another_origin_changes_nothing() {
        let listed = || Site {
            cors: Cors::Listed(vec!["https://good.example".to_owned()]),
            ..site()
        };
        let foreign = |method: &str| {
            get("/a")
                .method(method)
                .header("origin", "https://bad.example")
        };
        let refused = ask(listed(), foreign("POST"));
        assert_eq!(refused.status, 403);
        assert_eq!(body(&refused), r#"{"detail":"Origin not allowed"}"#);
        assert_eq!(ask(site(), foreign("POST")).status, 201, "no list");
        assert_eq!(ask(listed(), foreign("GET")).status, 200, "cannot be read");
        let own = foreign("POST").header("sec-fetch-site", "same-origin");
        assert_eq!(ask(listed(), own).status, 201);
        let post = || get("/a").method("POST");
        assert_eq!(ask(listed(), post()).status, 201, "a program");
        let good = post().header("origin", "https://GOOD.example");
        assert_eq!(ask(listed(), good).status, 201);
        for origin in ["null", "https://good.example.evil"] {
            assert_eq!(
                ask(listed(), post().header("origin", origin)).status,
                403,
                "{origin}"
            );
        }
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
        // An OPTIONS without the headers of a preflight is handled like any other method.
        assert_eq!(ask(site(), get("/a").method("OPTIONS")).status, 405);
    }
}
