//! The operator's page, on the admin address only: the state of the bus, rates, clients by queue, the busiest
//! clients and topics, the last ended connections, and the distance to the limits.
//!
//! The page is files inside the binary, and a JSON document with all data of the page. The document also has what must
//! not be in `/metrics`: client addresses, users, names of topics.
//!
//! The requests that change something are in `cuts`. With a token, every route asks for it (`login`).

mod cuts;
mod find;
mod login;
mod state;

use std::net::IpAddr;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;

use super::files::{self, File};
use super::readiness::ReadyLimits;
use super::site::{Answer, RequestParts, Route};
use crate::telemetry::Telemetry;
use weirgate_core::Revoked;
use weirgate_runtime::Clock;
use weirgate_wire::base::Secret;

pub(crate) use cuts::{CUT_BYTES_MAX, Cutter};
pub(crate) use find::{MEMBERS_PATH, OF_THIS_INSTANCE, members_route};
use login::Login;
pub(crate) use state::{NearLimit, ReadNumber};

/// The files of the page; some are shared with the public page.
const FILES: [File; 10] = [
    File::new("/operator/", include_str!("index.html")),
    File::new("/operator/page.css", include_str!("../page/page.css")),
    File::new("/operator/operator.css", include_str!("operator.css")),
    File::new("/operator/main.js", include_str!("main.js")),
    File::new("/operator/tables.js", include_str!("tables.js")),
    File::new("/operator/find.js", include_str!("find.js")),
    File::new("/operator/limits.js", include_str!("limits.js")),
    File::new("/operator/bus.js", include_str!("bus.js")),
    File::new("/operator/tls.js", include_str!("tls.js")),
    File::new("/operator/values.js", include_str!("../page/values.js")),
];

/// From where the admin address can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AdminReach {
    /// From this machine alone. A request may name the address only as `localhost` or by an IP address.
    ThisMachine,
    #[default]
    Network,
}

/// Settings of the page.
#[derive(Clone, Debug, Default)]
pub(crate) struct OperatorSettings {
    /// When the process counts as ready.
    pub ready: ReadyLimits,
    /// Limits, each with its present value.
    pub limits: Vec<NearLimit>,
    /// The users, tokens and addresses that are refused.
    pub revoked: Revoked,
    /// The token of all routes here; `None`: they ask for none.
    pub token: Option<Secret>,
    /// From where the admin address can be reached.
    pub reach: AdminReach,
}

/// The routes of the page, for the admin address only.
pub(crate) fn routes(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    settings: OperatorSettings,
    cutter: Cutter,
) -> Vec<Route> {
    let telemetry = Arc::clone(telemetry);
    let (reach, token) = (settings.reach, settings.token.clone());
    let mut routes = page_routes();
    routes.extend(find::routes(&telemetry, &cutter, reach));
    routes.extend(cuts::routes(cutter, reach));
    routes.push(Route::get("/operator/state", move |request| {
        if let Some(refusal) = refuse_other_page(request, reach) {
            return refusal;
        }
        let text = state::state(&telemetry, clock, &settings);
        Answer::json(StatusCode::OK, text).no_store()
    }));
    with_login(token, clock, routes)
}

/// The files of the page, and the redirects to it.
pub(crate) fn page_routes() -> Vec<Route> {
    let mut routes = files::routes(FILES);
    routes.extend(["/", "/operator"].map(|path| Route::get(path, |_| to_the_page())));
    routes
}

/// The routes, for requests with the token only, if there is one.
pub(crate) fn with_login(token: Option<Secret>, clock: Clock, routes: Vec<Route>) -> Vec<Route> {
    match token {
        Some(token) => Login::new(token, clock).before(routes),
        None => routes,
    }
}

/// Refuses the request of a page of another origin; `None` for any other request. Listed origins are no exception,
/// because client addresses must stay private. A page whose name was made to resolve to this machine (DNS rebinding)
/// sends that name in `Host`.
pub(crate) fn refuse_other_page(request: &RequestParts, reach: AdminReach) -> Option<Answer> {
    let host = request.header(&header::HOST).unwrap_or_default();
    let is_refused =
        request.is_cross_origin() || reach == AdminReach::ThisMachine && !is_this_machine(host);
    is_refused.then(Answer::not_for_other_pages)
}

/// Returns true for an IP address or `localhost`, with or without a port.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let ip = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

/// Redirects `/` and `/operator` to the page. The target is relative, because a proxy may have removed the beginning of
/// the path.
fn to_the_page() -> Answer {
    let location = HeaderValue::from_static("operator/");
    Answer::empty(StatusCode::TEMPORARY_REDIRECT).with(header::LOCATION, location)
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::header::HeaderName;

    use super::*;
    use crate::http::site::{Handler, SEC_FETCH_SITE};
    use crate::http::status_pages::tests::telemetry;

    fn ask(path: &str, reach: AdminReach, headers: &[(HeaderName, &str)]) -> Answer {
        let settings = OperatorSettings {
            reach,
            ..OperatorSettings::default()
        };
        let clock = Clock::start();
        let requests = crossbeam_channel::unbounded().0;
        let cutter = Cutter::new(Revoked::default(), requests, clock);
        let routes = routes(&telemetry(clock), clock, settings, cutter);
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let request = RequestParts::of_this_machine(head);
        let route = routes.iter().find(|route| route.path == path).unwrap();
        match &route.answer {
            Handler::Ready(answer) => answer(&request),
            Handler::Later(_) => panic!("{path} answers at once"),
        }
    }

    #[test]
    fn pages_of_other_origins_do_not_read_client_addresses() {
        assert_eq!(ask("/operator/state", AdminReach::Network, &[]).status, 200);
        for origin in ["https://elsewhere.example", "null"] {
            let answer = ask(
                "/operator/state",
                AdminReach::Network,
                &[(header::ORIGIN, origin)],
            );
            assert_eq!(answer.status, 403, "{origin}");
        }
        for (site, status) in [
            ("same-origin", 200),
            ("none", 200),
            ("same-site", 403),
            ("cross-site", 403),
        ] {
            let answer = ask(
                "/operator/state",
                AdminReach::Network,
                &[(SEC_FETCH_SITE, site)],
            );
            assert_eq!(answer.status, status, "{site}");
        }
    }

    #[test]
    fn a_name_that_was_made_to_mean_this_machine_reads_nothing() {
        for (host, on_loopback) in [
            ("localhost:9100", 200),
            ("LOCALHOST", 200),
            ("127.0.0.1:9100", 200),
            ("[::1]:9100", 200),
            ("elsewhere.example:9100", 403),
            ("localhost.example", 403),
            ("127.0.0.1.example", 403),
            ("", 403),
        ] {
            let status = |reach| {
                let headers = [(header::HOST, host)];
                ask("/operator/state", reach, &headers).status
            };
            assert_eq!(status(AdminReach::ThisMachine), on_loopback, "{host}");
            // Other addresses have names.
            assert_eq!(status(AdminReach::Network), 200, "{host}");
        }
    }

    #[test]
    fn short_paths_lead_to_the_page() {
        for path in ["/", "/operator"] {
            let answer = ask(path, AdminReach::ThisMachine, &[]);
            assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
            assert_eq!(answer.headers[header::LOCATION], "operator/");
        }
        assert_eq!(ask("/operator/", AdminReach::ThisMachine, &[]).status, 200);
    }
}
