//! The errors of connections: in words, with advice for the user.

use std::io;

use tungstenite::Error;
use tungstenite::http::Response;
use tungstenite::protocol::CloseFrame;

use crate::base::escaped;
use crate::run::Dialect;

/// The most characters shown of a server's text.
const WORDS_MAX: usize = 200;
/// The advice after the end of a connection, if a new attempt may work.
const RECONNECT: &str = "connect again, or use --reconnect";

/// The end of `weirgate tail` before the user's stop.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The address, the network or the gateway: no connection is accepted.
    #[error(
        "no connection to {target}: {source}; check the address and the port, and that the gateway \
         runs"
    )]
    Unreachable {
        /// The URL, without its query.
        target: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The certificates, or a port without TLS.
    #[error("no TLS with {target}: {reason}; check the certificate, --ca-file, or use ws://")]
    Tls {
        /// The URL, without its query.
        target: String,
        /// The error of the TLS library.
        reason: String,
    },
    /// The server responded with HTTP, and did not open a WebSocket.
    #[error("{target} refused the WebSocket with status {status}{words}; {advice}")]
    Refused {
        /// The URL, without its query.
        target: String,
        /// The status of the response.
        status: u16,
        /// The server's text, bounded; may be empty.
        words: String,
        /// The advice for the user.
        advice: String,
    },
    /// The server uses another protocol.
    #[error(
        "{target} does not speak WebSocket: {reason}; check the address and the port, and use wss:// for a port of TLS"
    )]
    NoWebSocket {
        /// The URL, without its query.
        target: String,
        /// The error.
        reason: String,
    },
    /// The server closed with a code.
    #[error("the server closed the connection with code {code}{words}: {meaning}; {advice}")]
    Closed {
        /// The close code (RFC 6455 §7.4).
        code: u16,
        /// The server's reason, bounded; may be empty.
        words: String,
        /// The meaning of the code.
        meaning: &'static str,
        /// The advice for the user.
        advice: &'static str,
    },
    /// The connection ended without a close frame.
    #[error(
        "the connection ended without a close code ({0}): the server was killed, the network \
         failed, or the server dropped this client as too slow; {RECONNECT}"
    )]
    Broken(Error),
    /// The connection exists, but the server does not even respond to a ping.
    #[error(
        "nothing came for {seconds} s, not even an answer to a ping: the network failed, or the \
         server hangs; {RECONNECT}"
    )]
    Silent {
        /// The duration of the silence, seconds.
        seconds: u64,
    },
    /// The gateway refused every subscription.
    #[error(
        "the gateway grants nothing of --subscribe; check the names, and the rights of the token or of DEFAULT_ROLE; \
         --print-acl of weirgate channels shows the table of roles, and --acl FILE replaces the table"
    )]
    NothingGranted,
    /// The time was over before `--count` messages had arrived.
    #[error("{have} of {want} messages within --timeout-s")]
    TooFew {
        /// Messages that arrived.
        have: u64,
        /// Requested messages.
        want: u64,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The system refuses a resource.
    #[error("the system refuses: {0}")]
    System(io::Error),
}

impl TailError {
    /// The server did not open a WebSocket.
    pub(super) fn refused(
        target: String,
        known: &[(&'static str, Dialect)],
        response: &Response<Option<Vec<u8>>>,
    ) -> Self {
        let body = response.body().as_deref().unwrap_or_default();
        let status = response.status().as_u16();
        Self::Refused {
            target,
            status,
            words: shown(&String::from_utf8_lossy(body)),
            advice: advice(status, known),
        }
    }

    /// The server closed; `None` for a close frame without a code.
    pub(super) fn closed(frame: Option<CloseFrame>) -> Self {
        let code = frame.as_ref().map_or(1005, |frame| frame.code.into());
        let reason = frame.as_ref().map_or("", |frame| &frame.reason);
        let (meaning, advice) = meaning(code, reason);
        Self::Closed {
            code,
            words: shown(reason),
            meaning,
            advice,
        }
    }

    /// Whether another attempt may succeed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) | Self::Silent { .. } => true,
            Self::Closed { code, .. } => !matches!(code, 1002 | 1003 | 1007..=1010),
            Self::Refused { status, .. } => matches!(status, 429 | 500..),
            _ => false,
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
             `weirgate token mint` makes one, `weirgate token inspect` says what is wrong with one",
        ),
        1009 => ("a message of this client is too large", "shorten --send"),
        1011 if reason.contains("ping timeout") => ("this client sent no pong in time", RECONNECT),
        1011 => ("the server has failed", "look at its log"),
        1013 => ("the server is full", RECONNECT),
        1005 => ("the server gave no code", RECONNECT),
        _ => ("see the documents of the server for this code", RECONNECT),
    }
}

/// A server's text behind a number: one line, bounded, in brackets.
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
        assert!(!refused.may_pass(), "the same token is refused again");
        let stopped = closed(1012, "");
        assert!(stopped.to_string().contains("--reconnect") && stopped.may_pass());
        assert!(TailError::closed(None).may_pass());
        assert!(
            closed(1000, "Heartbeat timeout")
                .to_string()
                .contains("pong")
        );
    }

    #[test]
    fn a_status_is_told_with_what_to_do() {
        let target = crate::commands::tail::Target::parse("ws://h/x?token=secret", "--token")
            .expect("a URL");
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
            TailError::refused(target.to_string(), &known, &response.expect("a response"))
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
        assert!(!wrong.may_pass());
        assert!(refused(503, "").may_pass() && refused(429, "").may_pass());
    }
}
