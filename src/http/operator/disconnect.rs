//! `POST /operator/disconnect`: cuts clients off, and refuses their users, tokens or addresses from then on.

use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::sync::oneshot;

use super::is_of_another_page;
use crate::base::{Clock, LateWake, LogBudget, LogLine};
use crate::http::body::RequestBody;
use crate::http::site::{Answer, Handler, LateAnswer, RequestParts, Route};
use crate::hub::{Cut, CutDone, CutRequest, Revoked};

static POST: [Method; 1] = [Method::POST];

/// Bytes of a request: a user may be as long as a token.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Lines in the log about cuts: a program that reaches the admin address may ask for any number of cuts.
const LINES_PER_SECOND: u32 = 5;

/// Cuts clients off: the list of refusals, and the way of requests to the loop.
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
    /// What is refused from now on, as another process takes it; `None` for a role alone.
    refused: Option<Cut>,
    /// Why nothing is refused: the list is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Cutter {
    /// A cutter whose loop is woken once there is a loop.
    pub fn new(revoked: Revoked, requests: Sender<CutRequest>, clock: Clock) -> Self {
        Self {
            revoked,
            requests,
            wake: LateWake::default(),
            clock,
            lines: Arc::new(Mutex::new(LogBudget::new(LINES_PER_SECOND))),
        }
    }

    /// Closes the clients of a cut, or of the whole list. `tell` is called after the last client.
    pub fn close(&self, cut: Option<Cut>, tell: impl FnOnce(CutDone) + Send + 'static) {
        let tell = Box::new(tell);
        // Fails only after the end of the loop.
        let _ = self.requests.send(CutRequest { cut, tell });
        self.wake.wake();
    }

    /// Cuts clients off. The refusal begins before the first close. The loop settles and logs it, because the operator
    /// may leave before the response, and this future ends with its connection. `None` once the loop has ended.
    async fn cut(&self, cut: Cut) -> Option<Shown> {
        let refused = cut.refused();
        let now = self.clock.now().unix_ms();
        let added = refused
            .as_ref()
            .map(|refused| self.revoked.add(refused, now));
        // A full list must not keep anybody connected.
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
        let Ok(body) = body.read(BODY_BYTES_MAX).await else {
            let detail = format!("wanted: a body of at most {BODY_BYTES_MAX} bytes");
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
pub(super) fn route(cutter: Cutter, is_loopback: bool) -> Route {
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

    use super::*;
    use crate::hub::Connected;

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
        let marks = crate::auth::TokenMarks {
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
