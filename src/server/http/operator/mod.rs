//! The operator's page, on the admin address only: the state of the bus, rates, clients by queue, the busiest
//! clients and topics, the last ended connections, and the distance to the limits.
//!
//! The page is files inside the binary, and a JSON document with all data of the page. The document also has what must
//! not be in `/metrics`: client addresses, users, names of topics.
//!
//! `POST /operator/disconnect` closes clients, and refuses their users, tokens or addresses from then on;
//! `POST /operator/allow` takes such a refusal back. With a token, all of these ask for it.

mod find;
mod login;
mod state;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::body::RequestBody;
use super::files::{self, File};
use super::readiness::ReadyLimits;
use super::site::{Answer, Handler, LateAnswer, RequestParts, Route};
use crate::telemetry::Telemetry;
use weirgate_bus::runtime::{Clock, LateWake};
use weirgate_core::{Cut, CutDone, CutRequest, Revoked, Whom};
use weirgate_wire::base::{LogBudget, LogLine, Secret};
use weirgate_wire::json;

use login::Login;
pub(crate) use state::ReadNumber;
pub use state::{NearLimit, client};

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

/// Settings of the page.
#[derive(Clone, Debug, Default)]
pub struct OperatorSettings {
    /// When the process counts as ready.
    pub ready: ReadyLimits,
    /// Limits, each with its present value.
    pub limits: Vec<NearLimit>,
    /// The users, tokens and addresses that are refused.
    pub revoked: Revoked,
    /// The token of all routes here; `None`: they ask for none.
    pub token: Option<Secret>,
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
    let (is_loopback, token) = (settings.is_loopback, settings.token.clone());
    let mut routes = page_routes();
    routes.extend(find::routes(&telemetry, &cutter, is_loopback));
    routes.extend(cut_routes(cutter, is_loopback));
    routes.push(Route::get("/operator/state", move |request| {
        if let Some(refusal) = refuse_other_page(request, is_loopback) {
            return refusal;
        }
        let text = state::state(&telemetry, clock, &settings);
        Answer::json(StatusCode::OK, text).no_store()
    }));
    with_login(token, clock, routes)
}

/// The files of the page, and the ways to it.
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

/// Refuses the request of a page of another origin; `None` for any other request. Listed origins are no exception, because client addresses must
/// stay private. A page whose name was made to resolve to this machine (DNS rebinding) sends that name in `Host`.
pub(crate) fn refuse_other_page(request: &RequestParts, is_loopback: bool) -> Option<Answer> {
    let host = request.header(&header::HOST).unwrap_or_default();
    let is_refused = request.is_of_another_page() || is_loopback && !is_this_machine(host);
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
    /// Tells the HTTP thread, whose requests may be of those who are cut off.
    pub cuts: watch::Sender<()>,
    /// The clock of the process.
    pub clock: Clock,
    lines: Arc<Mutex<LogBudget>>,
}

/// The response to a cut, as `weirgate disconnect` reads it.
#[derive(Debug, Serialize)]
struct Shown {
    disconnected: u64,
    /// What is refused from now on, in the form in which another process accepts it; `None` for a role alone.
    refused: Option<Cut>,
    /// When the last of the tokens ends that were cut off here, Unix seconds, if that is after the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_end: Option<i64>,
    /// Why nothing is refused, if the list is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The response to a request that takes a refusal back.
#[derive(Debug, Serialize)]
struct Allowed {
    /// Whether there was such a refusal.
    was_refused: bool,
    /// Why these are refused all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
}

/// A request to have clients leave.
#[derive(Debug, Deserialize)]
struct Move {
    clients: u64,
    #[serde(default)]
    spread_ms: u64,
}

/// The longest time for clients to leave.
const MOVE_MS_MAX: u64 = 3_600_000;

#[derive(Debug, Serialize)]
struct Moved {
    moved: u64,
}

impl Cutter {
    /// Makes a cutter. It wakes the loop once [`Self::wake`] has one.
    pub fn new(revoked: Revoked, requests: Sender<CutRequest>, clock: Clock) -> Self {
        Self {
            revoked,
            requests,
            wake: LateWake::default(),
            cuts: watch::channel(()).0,
            clock,
            lines: Arc::new(Mutex::new(LogBudget::new(LINES_PER_SECOND))),
        }
    }

    /// Asks the loop to close clients. The loop calls `tell` after
    /// the last client. Plain requests in progress end before their handlers go on.
    pub fn close(&self, whom: Whom, tell: impl FnOnce(CutDone) + Send + 'static) {
        let tell = Box::new(tell);
        self.cuts.send_replace(());
        // Fails only after the end of the loop.
        let _ = self.requests.send(CutRequest { whom, tell });
        self.wake.wake();
    }

    /// Disconnects clients. They are refused from before the first close on. The loop logs the cut, because this future
    /// is dropped if the operator leaves before the response. Returns `None` if the loop has ended.
    async fn cut(&self, cut: Cut) -> Option<Shown> {
        let now = self.clock.now().unix_ms();
        let refused = cut.refused();
        let added = refused.map(|refused| self.revoked.add(&refused, now));
        let (tell, outcome) = oneshot::channel();
        let loop_side = self.clone();
        self.close(Whom::Chosen(cut.clone()), move |mut done| {
            match added {
                Some(Ok(refused)) => done.refused = Some(refused),
                // If the list is full, clients are closed all the same.
                Some(Err(full)) => done.full = Some(full),
                None => {}
            }
            // Nobody waits if the operator has left.
            let _ = tell.send(loop_side.shown(&cut, done));
        });
        outcome.await.ok()
    }

    fn shown(&self, cut: &Cut, done: CutDone) -> Shown {
        self.log(cut, |cut, suppressed| {
            tracing::info!(
                cut,
                clients = done.clients,
                refuses = done.refused.is_some(),
                suppressed,
                "an operator has disconnected clients"
            );
        });
        let until = done.refused.as_ref().and_then(|refused| refused.until);
        let tokens_end = done.tokens_end.map(|end| end / 1000);
        Shown {
            disconnected: done.clients,
            tokens_end: tokens_end.filter(|end| until.is_some_and(|until| *end > until)),
            refused: done.refused,
            detail: done
                .full
                .map(|full| format!("{full}; the disconnected clients may come back")),
        }
    }

    /// Takes a refusal back.
    fn allow(&self, cut: &Cut) -> Allowed {
        let lifted = self.revoked.lift(cut, self.clock.now().unix_ms());
        self.log(cut, |cut, suppressed| {
            let was_refused = lifted.was_refused;
            tracing::info!(
                cut,
                was_refused,
                suppressed,
                "an operator has taken a refusal back"
            );
        });
        Allowed {
            was_refused: lifted.was_refused,
            detail: lifted
                .is_in_file
                .then_some("--revoked-file refuses them: take out the line, and send SIGHUP"),
        }
    }

    /// Calls `line` with the conditions and the number of lines left out, if a log line is due.
    fn log(&self, cut: &Cut, line: impl FnOnce(&str, u64)) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(LogLine { suppressed }) = lines.line(self.clock.now()) {
            line(&sonic_rs::to_string(cut).unwrap_or_default(), suppressed);
        }
    }

    /// Reads the conditions of a request. `check` finds what is wrong with them at a Unix time in milliseconds.
    async fn read(
        &self,
        request: RequestParts,
        body: RequestBody,
        is_loopback: bool,
        check: fn(&Cut, i64) -> Result<(), String>,
    ) -> Result<Cut, Answer> {
        if let Some(refusal) = refuse_other_page(&request, is_loopback) {
            return Err(refusal);
        }
        let wrong = |detail: &str| Answer::detail(StatusCode::BAD_REQUEST, detail);
        let body = body.read(CUT_BYTES_MAX).await;
        let body =
            body.map_err(|_| wrong(&format!("wanted: a body of at most {CUT_BYTES_MAX} bytes")))?;
        let cut = Cut::read(&body).map_err(|text| wrong(&text))?;
        match check(&cut, self.clock.now().unix_ms()) {
            Ok(()) => Ok(cut),
            Err(text) => Err(wrong(&text)),
        }
    }

    /// Answers `POST /operator/disconnect`.
    async fn answer_cut(&self, cut: Cut) -> Answer {
        let Some(shown) = self.cut(cut).await else {
            let detail = "The gateway is stopping";
            return Answer::detail(StatusCode::SERVICE_UNAVAILABLE, detail);
        };
        let status = match shown.detail {
            None => StatusCode::OK,
            Some(_) => StatusCode::INSUFFICIENT_STORAGE,
        };
        answer(status, &shown)
    }

    /// Answers `POST /operator/move`.
    async fn answer_move(
        &self,
        request: &RequestParts,
        body: RequestBody,
        is_loopback: bool,
    ) -> Answer {
        if let Some(refusal) = refuse_other_page(request, is_loopback) {
            return refusal;
        }
        let body = body.read(CUT_BYTES_MAX).await.unwrap_or_default();
        let asked = json::read(&body).ok();
        let asked = asked.and_then(|text| text.parse::<Move>().ok());
        let Some(Move { clients, spread_ms }) =
            asked.filter(|asked| asked.spread_ms <= MOVE_MS_MAX)
        else {
            let detail = r#"wanted: {"clients": NUMBER, "spread_ms": at most 3600000}"#;
            return Answer::detail(StatusCode::BAD_REQUEST, detail);
        };
        let (tell, outcome) = oneshot::channel();
        let whom = Whom::Any {
            clients,
            spread_us: spread_ms * 1_000,
        };
        // Nobody waits if the operator has left.
        self.close(whom, move |done| drop(tell.send(done)));
        let Ok(done) = outcome.await else {
            let detail = "The gateway is stopping";
            return Answer::detail(StatusCode::SERVICE_UNAVAILABLE, detail);
        };
        let moved = done.clients;
        tracing::info!(
            clients = moved,
            spread_ms,
            "clients are closed, to come back to any process"
        );
        answer(StatusCode::OK, &Moved { moved })
    }

    /// Answers `POST /operator/allow`.
    fn answer_allow(&self, cut: &Cut) -> Answer {
        let allowed = self.allow(cut);
        let status = match allowed.detail {
            None => StatusCode::OK,
            Some(_) => StatusCode::CONFLICT,
        };
        answer(status, &allowed)
    }
}

fn answer(status: StatusCode, shown: &impl Serialize) -> Answer {
    let text = sonic_rs::to_string(shown).unwrap_or_default();
    Answer::json(status, text).no_store()
}

/// The routes that cut clients off, take that back, and have clients leave for another process.
fn cut_routes(cutter: Cutter, is_loopback: bool) -> [Route; 3] {
    let route = |path, answer| Route {
        path,
        methods: &POST,
        answer,
    };
    let of_allow = cutter.clone();
    let of_move = cutter.clone();
    let disconnect = Handler::later(move |request, body| {
        let cutter = cutter.clone();
        async move {
            let read = cutter.read(request, body, is_loopback, Cut::check_request);
            LateAnswer::from(match read.await {
                Ok(cut) => cutter.answer_cut(cut).await,
                Err(answer) => answer,
            })
        }
    });
    let allow = Handler::later(move |request, body| {
        let cutter = of_allow.clone();
        async move {
            let read = cutter.read(request, body, is_loopback, |cut, _| cut.check_lift());
            LateAnswer::from(
                read.await
                    .map_or_else(|answer| answer, |cut| cutter.answer_allow(&cut)),
            )
        }
    });
    let moving = Handler::later(move |request, body| {
        let cutter = of_move.clone();
        async move { LateAnswer::from(cutter.answer_move(&request, body, is_loopback).await) }
    });
    [
        route("/operator/disconnect", disconnect),
        route("/operator/allow", allow),
        route("/operator/move", moving),
    ]
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
        let request = RequestParts::of_this_machine(head);
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
    fn a_cut_holds_though_the_operator_has_left() {
        let (requests, of_loop) = crossbeam_channel::unbounded();
        let cutter = Cutter::new(Revoked::default(), requests, Clock::start());
        let cut = Cut::read(br#"{"user":"ann"}"#).unwrap();
        let now = cutter.clock.now().unix_ms();
        let mut asked = Box::pin(cutter.cut(cut));
        let mut context = Context::from_waker(Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        drop(asked);
        let CutRequest { tell, .. } = of_loop.try_recv().unwrap();
        tell(CutDone::default());
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
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        assert!(cutter.revoked.admit(&ann, now + DAY_MS - 1).is_err());
        assert!(cutter.revoked.admit(&ann, now + DAY_MS + 60_000).is_ok());
    }
}
