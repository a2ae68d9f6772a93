//! The operator's page, on the admin address only: the state of the bus, rates, clients by queue, the busiest
//! clients and topics, the last ended connections, and the distance to the limits.
//!
//! The page is files inside the binary, and a JSON document with all data of the page. The document also has what must
//! not be in `/metrics`: client addresses, users, names of topics.
//!
//! `POST /operator/disconnect` closes clients, and refuses their users, tokens or addresses from then on.

mod state;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::sync::oneshot;

use super::body::RequestBody;
use super::files::{self, File};
use super::readiness::ReadyLimits;
use super::site::{Answer, Handler, LateAnswer, RequestParts, Route};
use crate::telemetry::Telemetry;
use weirgate_bus::runtime::{Clock, LateWake};
use weirgate_core::{Cut, CutDone, CutRequest, Revoked};
use weirgate_wire::base::{LogBudget, LogLine};

pub use state::{NearLimit, ReadNumber, client};

/// The files of the page; some are shared with the public page.
const FILES: [File; 9] = [
    File::new("/operator/", include_str!("index.html")),
    File::new("/operator/page.css", include_str!("../page/page.css")),
    File::new("/operator/operator.css", include_str!("operator.css")),
    File::new("/operator/main.js", include_str!("main.js")),
    File::new("/operator/tables.js", include_str!("tables.js")),
    File::new("/operator/limits.js", include_str!("limits.js")),
    File::new("/operator/bus.js", include_str!("bus.js")),
    File::new("/operator/tls.js", include_str!("tls.js")),
    File::new("/operator/values.js", include_str!("../page/values.js")),
];

/// Settings of the page.
#[derive(Clone, Debug, Default)]
pub struct OperatorSettings {
    /// When the process counts as ready.
    pub ready: ReadyLimits,
    /// Limits, each with its present value.
    pub limits: Vec<NearLimit>,
    /// The users, tokens and addresses that are refused.
    pub revoked: Revoked,
    /// Whether the admin address is reachable only from this machine. Then a request may name it only as `localhost` or
    /// by an IP address.
    pub is_loopback: bool,
}

/// The routes of the page, for the admin address only.
pub fn routes(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    settings: OperatorSettings,
    cutter: Cutter,
) -> Vec<Route> {
    let telemetry = Arc::clone(telemetry);
    let is_loopback = settings.is_loopback;
    let mut routes = files::routes(FILES);
    routes.push(disconnect_route(cutter, is_loopback));
    routes.push(Route::get("/operator/state", move |request| {
        if is_of_another_page(request, is_loopback) {
            return Answer::detail(StatusCode::FORBIDDEN, "Not for pages of other origins");
        }
        let text = state::state(&telemetry, clock, &settings);
        Answer::json(StatusCode::OK, text).no_store()
    }));
    routes.extend(["/", "/operator"].map(|path| Route::get(path, |_| to_the_page())));
    routes
}

/// Whether a page of another origin sends the request. Listed origins are no exception, because client addresses must
/// stay private. A page whose name was made to resolve to this machine (DNS rebinding) sends that name in `Host`.
fn is_of_another_page(request: &RequestParts, is_loopback: bool) -> bool {
    let host = request.header(&header::HOST).unwrap_or_default();
    request.is_of_another_page() || is_loopback && !is_this_machine(host)
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

static POST: [Method; 1] = [Method::POST];

/// The most bytes of a request body: the name of a user may be as long as a token.
const CUT_BYTES_MAX: usize = 16 * 1024;

/// The most log lines a second about cuts. A program that reaches the admin address may ask for any number of cuts.
const LINES_PER_SECOND: u32 = 5;

/// Disconnects clients: has the list of refusals, and the channel for requests to the loop.
#[derive(Clone, Debug)]
pub struct Cutter {
    /// The list.
    pub revoked: Revoked,
    /// Takes requests.
    pub requests: Sender<CutRequest>,
    /// Wakes the loop.
    pub wake: LateWake,
    /// The clock of the process.
    pub clock: Clock,
    lines: Arc<Mutex<LogBudget>>,
}

/// The response, as `weirgate disconnect` reads it.
#[derive(Debug, Serialize)]
struct Shown {
    disconnected: u64,
    /// What is refused from now on, in the form in which another process accepts it; `None` for a role alone.
    refused: Option<Cut>,
    /// Why nothing is refused, if the list is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Cutter {
    /// Makes a cutter. It wakes the loop once [`Self::wake`] has one.
    pub fn new(revoked: Revoked, requests: Sender<CutRequest>, clock: Clock) -> Self {
        Self {
            revoked,
            requests,
            wake: LateWake::default(),
            clock,
            lines: Arc::new(Mutex::new(LogBudget::new(LINES_PER_SECOND))),
        }
    }

    /// Asks the loop to close the clients of a cut, or all clients that the list refuses. The loop calls `tell` after
    /// the last client.
    pub fn close(&self, cut: Option<Cut>, tell: impl FnOnce(CutDone) + Send + 'static) {
        let tell = Box::new(tell);
        // Fails only after the end of the loop.
        let _ = self.requests.send(CutRequest { cut, tell });
        self.wake.wake();
    }

    /// Disconnects clients. They are refused from before the first close on. The loop settles the refusal and logs it,
    /// because this future is dropped if the operator leaves before the response. Returns `None` if the loop has ended.
    async fn cut(&self, cut: Cut) -> Option<Shown> {
        let refused = cut.refused();
        let now = self.clock.now().unix_ms();
        let added = refused
            .as_ref()
            .map(|refused| self.revoked.add(refused, now));
        // If the list is full, clients are closed all the same.
        let full = added.and_then(Result::err);
        let refused = refused.filter(|_| full.is_none());
        let (tell, told) = oneshot::channel();
        let loop_side = self.clone();
        self.close(Some(cut.clone()), move |mut done| {
            done.full = done.full.or(full);
            // Nobody waits if the operator has left.
            let _ = tell.send(loop_side.settle(&cut, refused.as_ref(), done));
        });
        told.await.ok()
    }

    fn settle(&self, cut: &Cut, refused: Option<&Cut>, done: CutDone) -> Shown {
        let now = self.clock.now();
        let settled = |refused: &Cut| {
            let latest = done.latest_end;
            self.revoked.settle(refused, latest, now.unix_ms())
        };
        let refused = refused.map(settled).or(done.refused);
        let lines = || self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(LogLine { suppressed }) = lines().line(now) {
            tracing::info!(
                cut = sonic_rs::to_string(cut).unwrap_or_default(),
                clients = done.clients,
                refuses = refused.is_some(),
                suppressed,
                "an operator has disconnected clients"
            );
        }
        Shown {
            disconnected: done.clients,
            refused,
            detail: done
                .full
                .map(|full| format!("{full}; the disconnected clients may come back")),
        }
    }

    async fn answer(&self, request: RequestParts, body: RequestBody, is_loopback: bool) -> Answer {
        if is_of_another_page(&request, is_loopback) {
            return Answer::detail(StatusCode::FORBIDDEN, "Not for pages of other origins");
        }
        let Ok(body) = body.read(CUT_BYTES_MAX).await else {
            let detail = format!("wanted: a body of at most {CUT_BYTES_MAX} bytes");
            return Answer::detail(StatusCode::BAD_REQUEST, &detail);
        };
        let now = self.clock.now().unix_ms();
        let read = Cut::read(&body).and_then(|cut| cut.check_request(now).map(|()| cut));
        let cut = match read {
            Ok(cut) => cut,
            Err(wrong) => return Answer::detail(StatusCode::BAD_REQUEST, &wrong),
        };
        let Some(shown) = self.cut(cut).await else {
            let detail = "The gateway is stopping";
            return Answer::detail(StatusCode::SERVICE_UNAVAILABLE, detail);
        };
        let status = match shown.detail {
            None => StatusCode::OK,
            Some(_) => StatusCode::INSUFFICIENT_STORAGE,
        };
        let text = sonic_rs::to_string(&shown).unwrap_or_default();
        Answer::json(status, text).no_store()
    }
}

/// The route that cuts clients off.
fn disconnect_route(cutter: Cutter, is_loopback: bool) -> Route {
    let cutter = Arc::new(cutter);
    Route {
        path: "/operator/disconnect",
        methods: &POST,
        answer: Handler::later(move |request, body| {
            let cutter = Arc::clone(&cutter);
            async move { LateAnswer::from(cutter.answer(request, body, is_loopback).await) }
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use hyper::Request;
    use hyper::header::HeaderName;

    use super::*;
    use crate::http::pages::tests::telemetry;
    use crate::http::site::SEC_FETCH_SITE;
    use weirgate_core::Connected;
    use weirgate_wire::admission::Peer;

    fn ask(path: &str, is_loopback: bool, headers: &[(HeaderName, &str)]) -> Answer {
        let settings = OperatorSettings {
            is_loopback,
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
        let request = RequestParts {
            head,
            peer: Peer::Unix(None),
            is_tls: false,
        };
        let route = routes.iter().find(|route| route.path == path).unwrap();
        match &route.answer {
            Handler::Ready(answer) => answer(&request),
            Handler::Later(_) => panic!("{path} answers at once"),
        }
    }

    #[test]
    fn pages_of_other_origins_do_not_read_client_addresses() {
        assert_eq!(ask("/operator/state", false, &[]).status, 200);
        for origin in ["https://elsewhere.example", "null"] {
            let answer = ask("/operator/state", false, &[(header::ORIGIN, origin)]);
            assert_eq!(answer.status, 403, "{origin}");
        }
        for (site, status) in [
            ("same-origin", 200),
            ("none", 200),
            ("same-site", 403),
            ("cross-site", 403),
        ] {
            let answer = ask("/operator/state", false, &[(SEC_FETCH_SITE, site)]);
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
            let status = |is_loopback| {
                let headers = [(header::HOST, host)];
                ask("/operator/state", is_loopback, &headers).status
            };
            assert_eq!(status(true), on_loopback, "{host}");
            // Other addresses have names.
            assert_eq!(status(false), 200, "{host}");
        }
    }

    #[test]
    fn short_paths_lead_to_the_page() {
        for path in ["/", "/operator"] {
            let answer = ask(path, true, &[]);
            assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
            assert_eq!(answer.headers[header::LOCATION], "operator/");
        }
        assert_eq!(ask("/operator/", true, &[]).status, 200);
    }

    #[test]
    fn a_cut_is_settled_though_the_operator_has_left() {
        let (requests, of_loop) = crossbeam_channel::unbounded();
        let cutter = Cutter::new(Revoked::default(), requests, Clock::start());
        let cut = Cut::read(br#"{"user":"ann"}"#).unwrap();
        let mut asked = Box::pin(cutter.cut(cut));
        let mut context = Context::from_waker(Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        drop(asked);
        let now = cutter.clock.now().unix_ms();
        let CutRequest { tell, .. } = of_loop.try_recv().unwrap();
        tell(CutDone {
            latest_end: Some(now + 60_000),
            ..CutDone::default()
        });
        let marks = weirgate_wire::auth::TokenMarks {
            issued_unix_ms: Some(now + 50_000),
            ..Default::default()
        };
        let ann = Connected {
            user: Some("ann"),
            certificate: None,
            address: None,
            session: "",
            marks: Some(&marks),
        };
        assert!(cutter.revoked.refuse(&ann, now + 59_000));
        assert!(!cutter.revoked.refuse(&ann, now + 61_000));
    }
}
