//! `POST /operator/disconnect`: cuts clients off, and refuses their users, tokens or addresses from then on.

use std::sync::Arc;

use crossbeam_channel::Sender;
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::sync::oneshot;

use super::is_of_another_page;
use crate::base::{Clock, LateWake};
use crate::http::body::RequestBody;
use crate::http::site::{Answer, Handler, LateAnswer, RequestParts, Route};
use crate::hub::{Cut, CutDone, CutRequest, Full, Revoked};

/// The path.
pub(super) const PATH: &str = "/operator/disconnect";

static POST: [Method; 1] = [Method::POST];

/// Bytes of a request: a user may be as long as a token.
const BODY_BYTES_MAX: usize = 16 * 1024;

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
}

/// The response, as `weirgate disconnect` reads it.
#[derive(Debug, Serialize)]
struct Shown {
    disconnected: u64,
    /// What is refused from now on, as another process takes it; `None` for a role alone.
    refused: Option<Cut>,
}

impl Cutter {
    /// Closes the clients of a cut, or of the whole list. `tell` is called after the last client.
    pub fn close(&self, cut: Option<Cut>, tell: impl FnOnce(CutDone) + Send + 'static) {
        let tell = Box::new(tell);
        // Fails only after the end of the loop.
        let _ = self.requests.send(CutRequest { cut, tell });
        self.wake.wake();
    }

    /// Cuts clients off. The refusal begins before the first close.
    async fn cut(&self, cut: Cut) -> Result<Shown, Full> {
        let now = || self.clock.now().unix_ms();
        let refused = cut.refused();
        if cut.session.is_some() && !self.revoked.has_room() {
            return Err(Full(self.revoked.max()));
        }
        let before = refused
            .as_ref()
            .map(|refused| self.revoked.add(refused, now()));
        let before = before.transpose()?.flatten();
        let (tell, told) = oneshot::channel();
        self.close(Some(cut.clone()), move |done| {
            // Nobody waits if the operator has left.
            let _ = tell.send(done);
        });
        let done = told.await.unwrap_or_default();
        let settled = |refused: &Cut| self.revoked.settle(refused, done.latest_end, before, now());
        let refused = refused.as_ref().map(settled).or(done.refused);
        let refuses = refused.is_some();
        tracing::info!(
            cut = sonic_rs::to_string(&cut).unwrap_or_default(),
            clients = done.clients,
            refuses,
            "an operator has disconnected clients"
        );
        Ok(Shown {
            disconnected: done.clients,
            refused,
        })
    }

    async fn answer(&self, request: RequestParts, body: RequestBody, is_loopback: bool) -> Answer {
        if is_of_another_page(&request, is_loopback) {
            return Answer::detail(StatusCode::FORBIDDEN, "Not for pages of other origins");
        }
        let Ok(body) = body.read(BODY_BYTES_MAX).await else {
            let detail = format!("wanted: a body of at most {BODY_BYTES_MAX} bytes");
            return Answer::detail(StatusCode::BAD_REQUEST, &detail);
        };
        let cut = match Cut::read(&body) {
            Ok(cut) => cut,
            Err(wrong) => return Answer::detail(StatusCode::BAD_REQUEST, &wrong),
        };
        match self.cut(cut).await {
            Ok(shown) => {
                let text = sonic_rs::to_string(&shown).unwrap_or_default();
                Answer::json(StatusCode::OK, text).no_store()
            }
            Err(full) => Answer::detail(StatusCode::INSUFFICIENT_STORAGE, &full.to_string()),
        }
    }
}

/// The route.
pub(super) fn route(cutter: Cutter, is_loopback: bool) -> Route {
    let cutter = Arc::new(cutter);
    Route {
        path: PATH,
        methods: &POST,
        answer: Handler::later(move |request, body| {
            let cutter = Arc::clone(&cutter);
            async move { LateAnswer::from(cutter.answer(request, body, is_loopback).await) }
        }),
    }
}
