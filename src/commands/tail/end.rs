//! Why a connection of `weirgate tail` ended, in words, with advice for the user.

use std::io;
use std::time::Duration;

use tungstenite::Error;
use tungstenite::http::Response;
use tungstenite::protocol::CloseFrame;

use super::super::link::Target;
use crate::commands::Dialect;
use weirgate_wire::base::escaped;

/// The most characters shown of a server's text.
const WORDS_MAX: usize = 200;
/// The advice after the end of a connection if another attempt may succeed.
pub(super) const RECONNECT: &str = "connect again, or use --reconnect";
/// The same if only a later attempt may succeed.
const LATER: &str = "connect again later, or use --reconnect";
/// The longest wait that a server can ask for, as in the other clients.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// The end of `weirgate tail` before the user's stop.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct TailError {
    text: String,
    /// Whether another attempt may succeed.
    pub(super) may_pass: bool,
    /// The least time before another attempt, if the server asks for one.
    pub(super) retry_after: Option<Duration>,
}

impl TailError {
    /// Another attempt would fail in the same way.
    pub(super) fn lasting(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            may_pass: false,
            retry_after: None,
        }
    }

    /// Another attempt may succeed.
    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            may_pass: true,
            retry_after: None,
        }
    }

    /// The system refuses a resource.
    pub(super) fn system(error: &io::Error) -> Self {
        Self::lasting(format!("the system refuses: {error}"))
    }

    /// The connection ended without a close frame.
    pub(super) fn broken(error: &Error) -> Self {
        Self::passing(format!(
            "the connection ended without a close code ({error}): the server was killed, the network \
             failed, or the server dropped this client as too slow; {RECONNECT}"
        ))
    }

    /// The server sent an HTTP response in place of opening a WebSocket.
    pub(super) fn refused(
        target: &Target,
        known: &[(&'static str, Dialect)],
        response: &Response<Option<Vec<u8>>>,
    ) -> Self {
        let body = response.body().as_deref().unwrap_or_default();
        let words = shown(&String::from_utf8_lossy(body));
        let status = response.status().as_u16();
        let advice = advice(status, known);
        Self {
            text: format!("{target} refused the WebSocket with status {status}{words}; {advice}"),
            may_pass: matches!(status, 429 | 500..),
            retry_after: None,
        }
    }

    /// The server closed the connection. `None`: its close frame had no code (RFC 6455 §7.4).
    pub(super) fn closed(frame: Option<CloseFrame>) -> Self {
        let code = frame.as_ref().map_or(1005, |frame| frame.code.into());
        let reason = frame.as_ref().map_or("", |frame| &frame.reason);
        let words = shown(reason);
        let (meaning, advice) = meaning(code, reason);
        Self {
            text: format!(
                "the server closed the connection with code {code}{words}: {meaning}; {advice}"
            ),
            // With these codes the server objects to this client or to what it sends (RFC 6455 §7.4.1).
            may_pass: !matches!(code, 1002 | 1003 | 1007..=1010),
            retry_after: retry_after(reason),
        }
    }
}

/// The advice for a status.
fn advice(status: u16, known: &[(&'static str, Dialect)]) -> String {
    let words = match status {
        401 => "set a valid token: --token, or WEIRGATE_TOKEN in the environment",
        403..=405 => {
            let paths = known
                .iter()
                .map(|(name, known)| format!("{name} {}", known.path));
            let paths = paths.collect::<Vec<_>>().join(", ");
            return format!("check the path ({paths}), or the server refuses this client");
        }
        429 => "too many new connections: wait a second, or use --reconnect",
        503 => "the server is full or stopping: try again, or use --reconnect",
        500.. => "the server or a proxy before it has failed: look at its log",
        300..=399 => "a redirection: connect to the address that it names",
        200 => "this is a page and no WebSocket: check the path and the port",
        _ => "check the path and the port",
    };
    words.to_owned()
}

/// The meaning of a close code, and the advice.
fn meaning(code: u16, reason: &str) -> (&'static str, &'static str) {
    match code {
        1000 if reason == "Heartbeat timeout" => ("this client sent no pong in time", RECONNECT),
        1000 => ("the server is done with this connection", RECONNECT),
        1001 | 1012 => ("the server stops or is replaced", RECONNECT),
        1002 | 1007 => (
            "the server takes this client's bytes for a violation of the protocol",
            "check what a proxy between them does",
        ),
        1008 => (
            "the server does not accept this client",
            "set a valid token with --token, or with WEIRGATE_TOKEN in the environment; \
             `weirgate token inspect` says what is wrong with one",
        ),
        1009 => ("a message of this client is too large", "shorten --send"),
        1011 if reason.contains("ping timeout") => ("this client sent no pong in time", RECONNECT),
        1011 => ("the server has failed", "look at its log"),
        1013 if reason.starts_with("Token is not valid yet") => {
            ("the token counts only later (its nbf)", LATER)
        }
        1013 if reason.starts_with("Keys of tokens are due") => {
            ("the gateway fetches the key of the token", LATER)
        }
        1013 => ("the server takes this client only later", LATER),
        1005 => ("the server gave no code", RECONNECT),
        _ => ("see the documents of the server for this code", RECONNECT),
    }
}

/// The wait that the reason of a close asks for: `retry_after_ms=N` at its end.
fn retry_after(reason: &str) -> Option<Duration> {
    let last = reason.split(' ').next_back()?;
    let ms = last.strip_prefix("retry_after_ms=")?.parse().ok()?;
    Some(Duration::from_millis(ms).min(RETRY_AFTER_MAX))
}

/// A server's text in brackets, to show after a number: one line of limited length.
fn shown(words: &str) -> String {
    let fit: String = words.trim().chars().take(WORDS_MAX).collect();
    match escaped(&fit, &[]) {
        words if words.is_empty() => words.into_owned(),
        words => format!(" ({words})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::coding::CloseCode;

    fn closed(code: u16, reason: &str) -> TailError {
        TailError::closed(Some(CloseFrame {
            code: CloseCode::from(code),
            reason: reason.into(),
        }))
    }

    #[test]
    fn a_close_is_told_with_what_to_do() {
        let refused = closed(1008, "Authentication failed");
        let text = refused.to_string();
        assert!(
            text.starts_with(
                "the server closed the connection with code 1008 (Authentication failed): "
            ) && text.contains("--token"),
            "{text}"
        );
        assert!(!refused.may_pass, "the same token is refused again");
        let stopped = closed(1012, "");
        assert!(stopped.to_string().contains("--reconnect") && stopped.may_pass);
        assert!(TailError::closed(None).may_pass);
        assert!(
            closed(1000, "Heartbeat timeout")
                .to_string()
                .contains("pong")
        );
    }

    #[test]
    fn a_wait_that_the_server_asks_for_is_kept_and_its_reason_told() {
        for (code, reason, wait_ms, says) in [
            (
                1013,
                "Token is not valid yet retry_after_ms=54394",
                Some(54_394),
                "nbf",
            ),
            (
                1013,
                "Keys of tokens are due retry_after_ms=2000",
                Some(2_000),
                "fetches the key",
            ),
            (1013, "", None, "only later"),
            (1012, "retry_after_ms=2500", Some(2_500), "is replaced"),
            (1012, "retry_after_ms=9999999", Some(300_000), "--reconnect"),
            (1012, "retry_after_ms=", None, "--reconnect"),
        ] {
            let error = closed(code, reason);
            let wait = wait_ms.map(Duration::from_millis);
            assert!(error.may_pass && error.retry_after == wait, "{error:?}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_status_is_told_with_what_to_do() {
        let target = Target::parse("ws://h/x?token=secret", "--token").expect("a URL");
        let known = [(
            "levels",
            Dialect {
                path: "/ws/stream",
                ..Dialect::PLAIN
            },
        )];
        let refused = |status: u16, body: &str| {
            let response = Response::builder().status(status);
            let response = response.body(Some(body.as_bytes().to_vec()));
            TailError::refused(&target, &known, &response.expect("a response"))
        };
        let wrong = refused(403, "{\"detail\":\"no\u{1b}[2J\"}\n");
        let text = wrong.to_string();
        assert!(
            text.contains(r#"status 403 ({"detail":"no\u001b[2J"})"#),
            "{text}"
        );
        assert!(
            text.contains("(levels /ws/stream)") && !text.contains("secret"),
            "{text}"
        );
        assert!(!wrong.may_pass);
        assert!(refused(503, "").may_pass && refused(429, "").may_pass);
    }
}
