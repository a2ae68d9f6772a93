//! The login of the operator's pages: a token, as `Bearer` or as the password of `Basic`.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderValue, WWW_AUTHENTICATE};

use crate::http::site::{Answer, Handler, LateAnswer, RequestParts, Route};
use weirgate_runtime::Clock;
use weirgate_wire::base::{LogBudget, Secret};

/// The most log lines a second about requests without the token.
const LINES_PER_SECOND: u32 = 1;

/// Admits requests with the token: `Authorization: Bearer TOKEN` (RFC 6750 §2.1), or `Basic` with the token as the
/// password of any user (RFC 7617), for which a browser asks its user.
#[derive(Clone)]
pub(super) struct Login {
    token: Secret,
    clock: Clock,
    lines: Arc<Mutex<LogBudget>>,
}

impl Login {
    pub(super) fn new(token: Secret, clock: Clock) -> Self {
        Self {
            token,
            clock,
            lines: Arc::new(Mutex::new(LogBudget::new(LINES_PER_SECOND))),
        }
    }

    /// The routes, for requests with the token only.
    pub(super) fn before(&self, routes: Vec<Route>) -> Vec<Route> {
        routes.into_iter().map(|route| self.guard(route)).collect()
    }

    /// The route, for requests with the token only.
    fn guard(&self, route: Route) -> Route {
        let login = self.clone();
        let answer = match route.answer {
            Handler::Ready(answer) => Handler::ready(move |request| match login.admits(request) {
                true => answer(request),
                false => login.refusal(request),
            }),
            Handler::Later(answer) => Handler::later(move |request, body| {
                let refusal = (!login.admits(&request)).then(|| login.refusal(&request));
                let admitted = refusal.is_none().then(|| answer(request, body));
                async move {
                    match (admitted, refusal) {
                        (Some(answer), _) => answer.await,
                        // There is a refusal, because the request was not admitted.
                        (None, refusal) => LateAnswer::from(refusal.unwrap_or_else(unauthorized)),
                    }
                }
            }),
        };
        Route { answer, ..route }
    }

    /// Whether the request has the token. Compares in a time that does not depend on where a wrong token differs.
    fn admits(&self, request: &RequestParts) -> bool {
        let mut given = request.head.headers.get_all(AUTHORIZATION).iter();
        // Of two headers it is not known which one counts.
        let (Some(one), None) = (given.next(), given.next()) else {
            return false;
        };
        let token = token_of(one.as_bytes());
        token.is_some_and(|token| self.token.is(&token))
    }

    /// Refuses, with at most a log line a second: guesses are seen.
    fn refusal(&self, request: &RequestParts) -> Answer {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = lines.line(self.clock.now()) {
            let (peer, path) = (request.peer, request.path());
            let has_one = request.head.headers.contains_key(AUTHORIZATION);
            tracing::warn!(%peer, path, wrong = has_one, suppressed, "request without WEIRGATE_ADMIN_TOKEN refused");
        }
        unauthorized()
    }
}

/// The token in the value of `Authorization`, as the bytes of its UTF-8.
fn token_of(value: &[u8]) -> Option<Vec<u8>> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = value.split_at(space);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let login = STANDARD.decode(rest).ok()?;
    let colon = login.iter().position(|byte| *byte == b':')?;
    Some(login[colon + 1..].to_vec())
}

/// The answer that has a browser ask its user. Who guesses makes a connection for each guess.
fn unauthorized() -> Answer {
    let asks = HeaderValue::from_static("Basic realm=\"weirgate\", charset=\"UTF-8\"");
    let detail = "Wanted: Authorization: Bearer with WEIRGATE_ADMIN_TOKEN, or that as a password";
    Answer::detail(StatusCode::UNAUTHORIZED, detail)
        .with(WWW_AUTHENTICATE, asks)
        .with(CONNECTION, HeaderValue::from_static("close"))
        .no_store()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn the_token_is_a_bearer_or_a_password_and_counts_when_it_is_replaced() {
        let token = Secret::new("s3cret:with");
        let login = Login::new(token.clone(), Clock::start());
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let admits = |values: &[&str]| {
            let mut request = Request::get("/operator/state");
            for value in values {
                request = request.header(AUTHORIZATION, *value);
            }
            let (head, ()) = request.body(()).expect("a request").into_parts();
            login.admits(&RequestParts::of_this_machine(head))
        };
        let good = [
            "Bearer s3cret:with".to_owned(),
            basic("ann:s3cret:with"),
            basic(":s3cret:with"),
        ];
        for value in &good {
            assert!(admits(&[value]), "{value}");
        }
        for wrong in [
            "",
            "Bearer",
            "Bearer s3cret",
            "s3cret:with",
            "Digest s3cret:with",
            "Basic !",
        ] {
            assert!(!admits(&[wrong]), "{wrong}");
        }
        assert!(!admits(&[&basic("s3cret:wit")]) && !admits(&[&basic("s3cret")]));
        assert!(
            !admits(&[]) && !admits(&[&good[0], &good[0]]),
            "none, or two"
        );
        assert!(token.replace("schlüssel"));
        for value in ["Bearer schlüssel", &basic(":schlüssel")] {
            assert!(admits(&[value]), "{value}");
        }
        assert!(token.replace("new") && admits(&["bearer new"]) && !admits(&[&good[0]]));
    }
}
