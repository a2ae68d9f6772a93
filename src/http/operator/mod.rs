//! The operator's page, on the admin address alone: the state of the bus, rates, clients by queue,
//! the busiest clients and topics, the connections that ended last, and how near the limits are.
//!
//! Plain files inside the binary, and one JSON for what `/metrics` must not say: client addresses,
//! users, names of topics. The page reads `/metrics` for all other numbers.

mod state;

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::page::{File, file_routes};
use super::readiness::ReadyLimits;
use super::site::{Answer, RequestParts, Route};
use crate::clock::Clock;
use crate::telemetry::Telemetry;

pub use state::{ShownLimit, client};

/// Where the page is.
const PATH: &str = "/operator/";

/// The page's files: those of the public page are used again.
static FILES: [File; 9] = [
    File::html("/operator/", include_str!("index.html")),
    File::css("/operator/page.css", include_str!("../page/page.css")),
    File::css("/operator/operator.css", include_str!("operator.css")),
    File::script("/operator/main.js", include_str!("main.js")),
    File::script("/operator/metrics.js", include_str!("metrics.js")),
    File::script("/operator/tables.js", include_str!("tables.js")),
    File::script("/operator/limits.js", include_str!("limits.js")),
    File::script("/operator/bus.js", include_str!("bus.js")),
    File::script("/operator/values.js", include_str!("../page/values.js")),
];

/// The routes of the page; for the admin address alone.
pub fn routes(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    ready: ReadyLimits,
    limits: Vec<ShownLimit>,
) -> Vec<Route> {
    let telemetry = Arc::clone(telemetry);
    let limits = state::limits(&limits);
    let mut routes = file_routes(&FILES);
    routes.push(Route::get("/operator/state", move |request| {
        if is_of_another_page(request) {
            return Answer::detail(StatusCode::FORBIDDEN, "Not for pages of other origins");
        }
        let text = state::state(&telemetry, clock, &ready, &limits);
        Answer::json(StatusCode::OK, text).no_store()
    }));
    routes.extend(["/", "/operator"].map(|path| Route::get(path, |_| to_the_page())));
    routes
}

/// A page of another origin asks. Its browser would let it read the answer, because the other pages
/// of this process may be read by any origin; client addresses may not.
fn is_of_another_page(request: &RequestParts) -> bool {
    request.head.headers.contains_key(header::ORIGIN)
}

fn to_the_page() -> Answer {
    let location = HeaderValue::from_static(PATH);
    Answer::empty(StatusCode::TEMPORARY_REDIRECT).with(header::LOCATION, location)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Peer;
    use crate::http::Handler;
    use crate::http::pages::tests::telemetry;
    use hyper::Request;

    fn ask(path: &str, origin: Option<&str>) -> Answer {
        let clock = Clock::start();
        let routes = routes(&telemetry(clock), clock, ReadyLimits::default(), Vec::new());
        let mut request = Request::get(path);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let request = RequestParts {
            head,
            peer: Peer::Unix(None),
        };
        let route = routes.iter().find(|route| route.path == path).unwrap();
        match &route.answer {
            Handler::Ready(answer) => answer(&request),
            Handler::Later(_) => panic!("{path} answers at once"),
        }
    }

    #[test]
    fn pages_of_other_origins_do_not_read_client_addresses() {
        assert_eq!(ask("/operator/state", None).status, 200);
        for origin in ["https://elsewhere.example", "null"] {
            assert_eq!(ask("/operator/state", Some(origin)).status, 403, "{origin}");
        }
    }

    #[test]
    fn short_paths_lead_to_the_page() {
        for path in ["/", "/operator"] {
            let answer = ask(path, None);
            assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
            assert_eq!(answer.headers[header::LOCATION], PATH);
        }
        assert_eq!(ask(PATH, None).status, 200);
    }
}
