//! The requests of operators that disconnect clients.
//!
//! `POST /operator/disconnect` closes clients, and refuses their users, tokens or addresses from then on.
//! `POST /operator/allow` takes such a refusal back. `POST /operator/move` closes some clients without refusing them.

use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::{AdminReach, refuse_other_page};
use crate::http::body::RequestBody;
use crate::http::caller::ClientAccess;
use crate::http::in_progress::InProgress;
use crate::http::site::{Answer, Handler, LateAnswer, RequestParts, Route};
use weirgate_core::{Cut, CutDone, CutRequest, Revoked, Whom};
use weirgate_runtime::{Clock, LateWake};
use weirgate_wire::admission::TrustedProxies;
use weirgate_wire::base::LogBudget;
use weirgate_wire::json::Json;

static POST: [Method; 1] = [Method::POST];

/// The most bytes of a request body: the name of a user may be as long as a token.
pub(crate) const CUT_BYTES_MAX: usize = 16 * 1024;

/// The most log lines a second about cuts. A program that reaches the admin address may ask for any number of cuts.
const LINES_PER_SECOND: u32 = 5;

/// Disconnects clients, and keeps them out: adds to the list of refusals, and asks the loop to close connections.
#[derive(Clone, Debug)]
pub(crate) struct Cutter {
    /// The list of refusals.
    pub revoked: Revoked,
    /// The requests to the loop.
    pub requests: Sender<CutRequest>,
    /// Wakes the loop.
    pub wake: LateWake,
    /// Notifies the HTTP threads, because requests in progress there may be of clients that are cut off.
    pub cuts: watch::Sender<()>,
    /// The requests in progress that a cut may end.
    pub in_progress: InProgress,
    /// The clock of the process.
    pub clock: Clock,
    lines: Arc<Mutex<LogBudget>>,
}

/// The response to a cut, as `weirgate disconnect` reads it.
#[derive(Debug, Serialize)]
struct CutAnswer {
    disconnected: u64,
    /// Requests of plain HTTP in progress that end, if any.
    #[serde(skip_serializing_if = "is_zero")]
    requests_ended: u64,
    /// What is refused from now on, in the form in which another process accepts it. `None`: nothing is, because a role
    /// alone or a connection without a token was cut off, or the list is full.
    refused: Option<Cut>,
    /// When the last of the tokens ends that were cut off here, Unix seconds, if that is after the end of the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_end: Option<i64>,
    /// Why nothing is refused, if the list is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The response to a request that takes a refusal back.
#[derive(Debug, Serialize)]
struct AllowAnswer {
    /// Whether there was such a refusal.
    was_refused: bool,
    /// Why these clients are refused all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
}

/// A request to close some clients, so that they connect again, to any process.
#[derive(Debug, Deserialize)]
struct MoveRequest {
    /// How many clients.
    clients: u64,
    /// The time over which the closes are spread.
    #[serde(default)]
    spread_ms: u64,
}

/// The longest time over which closes may be spread.
const MOVE_MS_MAX: u64 = 3_600_000;

/// The response to [`MoveRequest`].
#[derive(Debug, Serialize)]
struct MoveAnswer {
    moved: u64,
}

impl Cutter {
    /// Makes a cutter. It wakes the loop once [`Self::wake`] is set.
    pub(crate) fn new(revoked: Revoked, requests: Sender<CutRequest>, clock: Clock) -> Self {
        Self {
            revoked,
            requests,
            wake: LateWake::default(),
            cuts: watch::channel(()).0,
            in_progress: InProgress::default(),
            clock,
            lines: Arc::new(Mutex::new(LogBudget::new(LINES_PER_SECOND))),
        }
    }

    /// What the HTTP threads need to refuse whom this cutter cuts off, and to end their requests in progress.
    pub(crate) fn access(&self, trusted_proxies: TrustedProxies) -> ClientAccess {
        ClientAccess {
            trusted_proxies,
            revoked: self.revoked.clone(),
            cuts: self.cuts.subscribe(),
            in_progress: self.in_progress.clone(),
            clock: self.clock,
        }
    }

    /// Ends the plain requests in progress of those who are refused. Returns how many.
    pub(crate) fn end_requests(&self) -> u64 {
        let requests = self.in_progress.count_refused();
        self.cuts.send_replace(());
        requests
    }

    /// Asks the loop to close clients. The loop calls `tell` after the last client. Plain requests in progress end
    /// before their handlers go on.
    pub(crate) fn close(&self, whom: Whom, tell: impl FnOnce(CutDone) + Send + 'static) {
        let tell = Box::new(tell);
        self.cuts.send_replace(());
        // Fails only after the end of the loop, and in a supervisor, which has none.
        let _ = self.requests.send(CutRequest { whom, tell });
        self.wake.wake();
    }

    /// Disconnects clients. They are refused from before the first close on. The loop logs the cut, because this future
    /// is dropped if the operator leaves before the response. Returns `None` if the loop has ended.
    async fn cut(&self, cut: Cut) -> Option<CutAnswer> {
        let now = self.clock.now().unix_ms();
        let refused = cut.refused();
        let added = refused.map(|refused| self.revoked.add(&refused, now));
        let requests = self.in_progress.count_refused();
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
            let _ = tell.send(loop_side.report(&cut, done, requests));
        });
        outcome.await.ok()
    }

    /// Logs a cut that the loop has carried out, and makes the response. `requests` of plain HTTP end too.
    fn report(&self, cut: &Cut, done: CutDone, requests: u64) -> CutAnswer {
        self.log(cut, |cut, suppressed| {
            tracing::info!(
                cut,
                clients = done.clients,
                requests,
                refuses = done.refused.is_some(),
                suppressed,
                "an operator has disconnected clients"
            );
        });
        let until = done.refused.as_ref().and_then(|refused| refused.until);
        let tokens_end = done.tokens_end.map(|end| end / 1000);
        CutAnswer {
            disconnected: done.clients,
            requests_ended: requests,
            tokens_end: tokens_end.filter(|end| until.is_some_and(|until| *end > until)),
            refused: done.refused,
            detail: done
                .full
                .map(|full| format!("{full}; the disconnected clients may come back")),
        }
    }

    /// Takes a refusal back.
    fn allow(&self, cut: &Cut) -> AllowAnswer {
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
        AllowAnswer {
            was_refused: lifted.was_refused,
            detail: lifted
                .is_in_file
                .then_some("--revoked-file refuses them: take out the line, and send SIGHUP"),
        }
    }

    /// Calls `line` with the conditions and the number of lines left out, if a log line is due.
    fn log(&self, cut: &Cut, line: impl FnOnce(&str, u64)) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = lines.line(self.clock.now()) {
            line(&sonic_rs::to_string(cut).unwrap_or_default(), suppressed);
        }
    }

    /// Reads the conditions of a request. `check` returns what is wrong with them at a Unix time in milliseconds.
    async fn read_cut(
        &self,
        request: RequestParts,
        body: RequestBody,
        reach: AdminReach,
        check: fn(&Cut, i64) -> Result<(), String>,
    ) -> Result<Cut, Answer> {
        if let Some(refusal) = refuse_other_page(&request, reach) {
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
        let Some(done) = self.cut(cut).await else {
            let detail = "The gateway is stopping";
            return Answer::detail(StatusCode::SERVICE_UNAVAILABLE, detail);
        };
        let status = match done.detail {
            None => StatusCode::OK,
            Some(_) => StatusCode::INSUFFICIENT_STORAGE,
        };
        json_answer(status, &done)
    }

    /// Answers `POST /operator/move`.
    async fn answer_move(
        &self,
        request: &RequestParts,
        body: RequestBody,
        reach: AdminReach,
    ) -> Answer {
        if let Some(refusal) = refuse_other_page(request, reach) {
            return refusal;
        }
        let body = body.read(CUT_BYTES_MAX).await.unwrap_or_default();
        let asked = Json::read(&body).ok();
        let asked = asked.and_then(|text| text.parse::<MoveRequest>().ok());
        let Some(MoveRequest { clients, spread_ms }) =
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
        json_answer(StatusCode::OK, &MoveAnswer { moved })
    }

    /// Answers `POST /operator/allow`.
    fn answer_allow(&self, cut: &Cut) -> Answer {
        let allowed = self.allow(cut);
        let status = match allowed.detail {
            None => StatusCode::OK,
            Some(_) => StatusCode::CONFLICT,
        };
        json_answer(status, &allowed)
    }
}

fn json_answer(status: StatusCode, shown: &impl Serialize) -> Answer {
    let text = sonic_rs::to_string(shown).unwrap_or_default();
    Answer::json(status, text).no_store()
}

/// The routes that cut clients off, take that back, and move clients to other processes.
pub(super) fn routes(cutter: Cutter, reach: AdminReach) -> [Route; 3] {
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
            let read = cutter.read_cut(request, body, reach, Cut::check_request);
            LateAnswer::from(match read.await {
                Ok(cut) => cutter.answer_cut(cut).await,
                Err(answer) => answer,
            })
        }
    });
    let allow = Handler::later(move |request, body| {
        let cutter = of_allow.clone();
        async move {
            let read = cutter.read_cut(request, body, reach, |cut, _| cut.check_lift());
            LateAnswer::from(
                read.await
                    .map_or_else(|answer| answer, |cut| cutter.answer_allow(&cut)),
            )
        }
    });
    let moving = Handler::later(move |request, body| {
        let cutter = of_move.clone();
        async move { LateAnswer::from(cutter.answer_move(&request, body, reach).await) }
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

    use super::*;
    use weirgate_core::Connected;

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
