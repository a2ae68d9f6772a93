//! Routes for the services behind a gateway: the token is checked first, then the body is read.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};

use weirgate_runtime::Clock;
use weirgate_server::http::{
    Answer, Handler, LateAnswer, ReadBodyError, RequestBody, RequestParts, Route,
};
use weirgate_wire::admission::{Peer, Permit, Quota};
use weirgate_wire::base::{LogBudget, Now, Secret};

/// The access to internal routes.
#[derive(Clone)]
pub(crate) struct InternalAccess {
    /// The required `X-Internal-Token`; `None` refuses every request.
    pub token: Option<Secret>,
    /// Bytes of a body.
    pub body_bytes_max: usize,
    /// The sum of all bodies that are being read or answered.
    pub bodies: Quota,
}

/// Log lines about wrong tokens.
const ATTEMPT_LINES_PER_SECOND: u32 = 1;

static POST: [Method; 1] = [Method::POST];
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-internal-token");

/// Makes the route `POST path`. Checks the token, reads the body, and then calls `answer`. The body is charged until
/// the answer is made.
pub(crate) fn route<F, A>(
    path: &'static str,
    access: InternalAccess,
    clock: Clock,
    answer: F,
) -> Route
where
    F: Fn(Bytes) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + 'static,
{
    let lines = Mutex::new(LogBudget::new(ATTEMPT_LINES_PER_SECOND));
    let shared = Arc::new((access, answer, lines));
    let handler = move |request: RequestParts, body: RequestBody| {
        let shared = Arc::clone(&shared);
        async move {
            let (access, answer, lines) = &*shared;
            let client = request.peer.client();
            // No bytes yet: reading the body charges them.
            let mut permit = access.bodies.hold(client, 0, clock.mono_us());
            let headers = &request.head.headers;
            let answer = match access.body(headers, body, &mut permit, clock).await {
                Ok(body) => answer(body).await,
                Err(refusal) => {
                    if matches!(refusal, InternalRefusal::Forbidden) {
                        log_attempt(lines, path, request.peer, clock.now());
                    }
                    refusal.answer()
                }
            };
            LateAnswer::from(answer)
        }
    };
    Route {
        path,
        methods: &POST,
        answer: Handler::later(handler),
    }
}

/// Logs a request with a wrong token: at most a line a second, which makes guessing visible.
fn log_attempt(lines: &Mutex<LogBudget>, path: &'static str, peer: Peer, now: Now) {
    // No holder of this lock can panic.
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(suppressed) = lines.line(now) {
        tracing::warn!(path, %peer, suppressed, "request with a wrong X-Internal-Token refused");
    }
}

/// Why a request was refused.
#[derive(Debug)]
enum InternalRefusal {
    NotConfigured,
    Forbidden,
    Body(ReadBodyError),
}

impl InternalRefusal {
    /// Returns the response, in the form of the replaced gateway. If there is no room for the body, it has
    /// `Retry-After` of a second.
    fn answer(self) -> Answer {
        use ReadBodyError::{Broken, NoRoom, TooLarge, TooSlow};
        let (status, detail) = match self {
            Self::NotConfigured => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "INTERNAL_AUTH_TOKEN not configured",
            ),
            Self::Forbidden => (StatusCode::FORBIDDEN, "Forbidden"),
            Self::Body(TooLarge) => (StatusCode::PAYLOAD_TOO_LARGE, "Content Too Large"),
            Self::Body(NoRoom) => (StatusCode::SERVICE_UNAVAILABLE, "Too many bodies at once"),
            Self::Body(TooSlow) => (StatusCode::REQUEST_TIMEOUT, "Request body too slow"),
            Self::Body(Broken(_)) => (StatusCode::BAD_REQUEST, "Bad Request"),
        };
        let answer = Answer::detail(status, detail);
        match self {
            Self::Body(NoRoom) => answer.with(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => answer,
        }
    }
}

impl InternalAccess {
    /// Reads the body of a request that is allowed.
    async fn body(
        &self,
        headers: &HeaderMap,
        body: RequestBody,
        permit: &mut Permit,
        clock: Clock,
    ) -> Result<Bytes, InternalRefusal> {
        self.admit(headers)?;
        let read = body.read_held(self.body_bytes_max, permit, clock);
        read.await.map_err(InternalRefusal::Body)
    }

    /// Checks the token, in a time that does not depend on where a wrong token differs.
    fn admit(&self, headers: &HeaderMap) -> Result<(), InternalRefusal> {
        let token = self.token.as_ref().ok_or(InternalRefusal::NotConfigured)?;
        let mut given = headers.get_all(TOKEN_HEADER).iter();
        let is_it: bool = match (given.next(), given.next()) {
            (Some(one), None) => token.is(one.as_bytes()),
            _ => false,
        };
        is_it.then_some(()).ok_or(InternalRefusal::Forbidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(token: Option<&str>, given: &[&str]) -> Result<(), InternalRefusal> {
        let access = InternalAccess {
            token: token.map(Secret::new),
            body_bytes_max: 1,
            bodies: Quota::new("bodies", 1),
        };
        let mut headers = HeaderMap::new();
        for one in given {
            headers.append(TOKEN_HEADER, HeaderValue::from_str(one).unwrap());
        }
        access.admit(&headers)
    }

    #[test]
    fn wrong_tokens_are_logged_once_a_second_with_their_number() {
        let lines = tempfile::NamedTempFile::new().expect("a file");
        let writer = Arc::new(lines.reopen().expect("the file"));
        let subscriber = tracing_subscriber::fmt()
            .with_writer(writer)
            .with_ansi(false)
            .finish();
        let attempts = Mutex::new(LogBudget::new(ATTEMPT_LINES_PER_SECOND));
        let peer = std::net::SocketAddr::from(([192, 0, 2, 1], 4711)).into();
        tracing::subscriber::with_default(subscriber, || {
            for mono_us in [5_000_000, 5_000_001, 5_999_999, 6_000_000] {
                let now = Now {
                    mono_us,
                    unix_us: 0,
                };
                log_attempt(&attempts, "/internal/broadcast", peer, now);
            }
        });
        let log = std::fs::read_to_string(lines.path()).expect("text");
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(
            log.contains("peer=192.0.2.1:4711") && log.contains("suppressed=2"),
            "{log}"
        );
    }

    #[test]
    fn the_token_stands_once_and_whole() {
        assert!(asked(Some("abc"), &["abc"]).is_ok());
        for wrong in [&[][..], &["ab"], &["abcd"], &[""], &["abc", "abc"]] {
            let answer = asked(Some("abc"), wrong);
            assert!(
                matches!(answer, Err(InternalRefusal::Forbidden)),
                "{wrong:?}"
            );
        }
        for given in [&["abc"][..], &[]] {
            let answer = asked(None, given);
            assert!(
                matches!(answer, Err(InternalRefusal::NotConfigured)),
                "{given:?}"
            );
        }
    }
}
