//! The output of `weirgate tail`: messages on standard output, with counts and the rate. Also why a connection ended,
//! in words, with advice for the user.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use tungstenite::Error;
use tungstenite::http::Response;
use tungstenite::protocol::CloseFrame;

use super::super::link::Target;
use super::super::program::complain;
use crate::commands::Dialect;
use weirgate_wire::base::{escaped, escaped_bytes};
use weirgate_wire::json;

/// The most characters shown of a server's text.
const WORDS_MAX: usize = 200;
/// The advice after the end of a connection if another attempt may succeed.
pub(super) const RECONNECT: &str = "connect again, or use --reconnect";

/// The end of `weirgate tail` before the user's stop.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct TailError {
    text: String,
    /// Whether another attempt may succeed.
    pub(super) may_pass: bool,
}

impl TailError {
    /// Another attempt would fail in the same way.
    pub(super) fn lasting(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            may_pass: false,
        }
    }

    /// Another attempt may succeed.
    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            may_pass: true,
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
            may_pass: !matches!(code, 1002 | 1003 | 1007..=1010),
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
        1013 => ("the server is full", RECONNECT),
        1005 => ("the server gave no code", RECONNECT),
        _ => ("see the documents of the server for this code", RECONNECT),
    }
}

/// A server's text in brackets, to show after a number: one line of limited length.
fn shown(words: &str) -> String {
    let fit: String = words.trim().chars().take(WORDS_MAX).collect();
    match escaped(&fit, &[]) {
        words if words.is_empty() => words.into_owned(),
        words => format!(" ({words})"),
    }
}

/// Time between two lines about the rate.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// The format of printed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// On one line: line breaks become spaces.
    Line,
    /// JSON over several lines, indented.
    Pretty,
    /// Unchanged, with a line break at the end. Messages about the connection are printed too.
    Raw,
}

/// Whether a session continues.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    End,
}

/// Standard output, with counts.
#[derive(Debug)]
pub(super) struct Output {
    style: Style,
    /// On a terminal control characters are escaped; another reader gets the bytes of a message.
    is_terminal: bool,
    count: Option<u64>,
    messages: u64,
    line: Vec<u8>,
    rate: Option<Rate>,
}

/// The messages and bytes since the rate was last printed.
#[derive(Debug)]
struct Rate {
    since: Instant,
    messages: u64,
    bytes: u64,
}

/// The content of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    Text(&'a [u8]),
    /// A line of JSON, and after it the message of the bus.
    Binary(&'a [u8]),
}

impl<'a> Payload<'a> {
    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) => bytes,
        }
    }
}

impl Output {
    pub(super) fn new(style: Style, rate: bool, count: Option<u64>, now: Instant) -> Self {
        Self {
            style,
            is_terminal: io::stdout().is_terminal(),
            count,
            messages: 0,
            line: Vec::new(),
            rate: rate.then_some(Rate::since(now)),
        }
    }

    /// The number of printed messages.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Prints a message and flushes, so that a reader gets it at once.
    pub(super) fn print(&mut self, message: Payload<'_>) -> io::Result<Next> {
        self.line.clear();
        match message {
            Payload::Binary(bytes) if self.style != Style::Raw => {
                render_binary(self.style, bytes, &mut self.line);
            }
            message => render(self.style, message.bytes(), &mut self.line),
        }
        if self.is_terminal {
            self.line = escaped_bytes(&self.line, &['\n', '\t']).into_bytes();
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(&self.line)?;
        stdout.flush()?;
        self.messages += 1;
        if let Some(rate) = &mut self.rate {
            rate.messages += 1;
            rate.bytes += message.bytes().len() as u64;
        }
        match self.count {
            Some(count) if self.messages >= count => Ok(Next::End),
            _ => Ok(Next::GoOn),
        }
    }

    /// Prints the line about the rate, if due.
    pub(super) fn tick(&mut self, now: Instant) {
        let Some(rate) = &mut self.rate else { return };
        let passed = now.saturating_duration_since(rate.since);
        if passed >= RATE_INTERVAL {
            complain(&rate.line(passed, self.messages));
            *rate = Rate::since(now);
        }
    }
}

impl Rate {
    fn since(now: Instant) -> Self {
        Self {
            since: now,
            messages: 0,
            bytes: 0,
        }
    }

    fn line(&self, passed: Duration, all: u64) -> String {
        let seconds = passed.as_secs_f64();
        let messages = self.messages as f64 / seconds;
        let bytes = self.bytes as f64 / seconds;
        format!("{messages:.1} messages/s, {bytes:.0} bytes/s, {all} messages in all")
    }
}

/// Formats a message for printing, with a line break.
fn render(style: Style, message: &[u8], line: &mut Vec<u8>) {
    match style {
        Style::Raw => line.extend_from_slice(message),
        // A line break in JSON is white space between two tokens.
        Style::Line => line.extend(message.iter().map(|&byte| match byte {
            b'\n' | b'\r' => b' ',
            byte => byte,
        })),
        Style::Pretty => match pretty(message) {
            Some(text) => line.extend_from_slice(text.as_bytes()),
            None => line.extend_from_slice(message),
        },
    }
    line.push(b'\n');
}

/// Formats a binary message of channels: a line of JSON, then bytes. The bytes are escaped, so each of them is visible
/// and the message is one line.
fn render_binary(style: Style, message: &[u8], line: &mut Vec<u8>) {
    let mut parts = message.splitn(2, |&byte| byte == b'\n');
    match (parts.next(), parts.next()) {
        (Some(head), Some(payload)) if json::read(head).is_ok() => {
            render(style, head, line);
            line.pop();
            line.extend_from_slice(format!(" {}\n", escaped_bytes(payload, &[])).as_bytes());
        }
        _ => render(style, message, line),
    }
}

/// Returns indented JSON with all digits of its numbers; `None` if the message is not JSON or is nested too deeply.
fn pretty(message: &[u8]) -> Option<String> {
    let value = json::read(message).ok()?.parse_with_digits().ok()?;
    sonic_rs::to_string_pretty(&value).ok()
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

    fn rendered(style: Style, message: &str) -> String {
        let mut line = Vec::new();
        render(style, message.as_bytes(), &mut line);
        String::from_utf8(line).expect("UTF-8")
    }

    #[test]
    fn a_message_is_one_line_unless_it_is_to_be_pretty_or_raw() {
        let message = "{\"b\":1.50,\r\n\"a\":[1e400,\"x y\"]}";
        assert_eq!(
            rendered(Style::Line, message),
            "{\"b\":1.50,  \"a\":[1e400,\"x y\"]}\n"
        );
        assert_eq!(rendered(Style::Raw, message), format!("{message}\n"));
        let want = "{\n  \"b\": 1.50,\n  \"a\": [\n    1e400,\n    \"x y\"\n  ]\n}\n";
        assert_eq!(rendered(Style::Pretty, message), want);
    }

    #[test]
    fn a_binary_message_is_its_object_and_its_bytes_escaped() {
        let rendered = |style, message: &[u8]| {
            let mut line = Vec::new();
            render_binary(style, message, &mut line);
            String::from_utf8(line).expect("UTF-8")
        };
        let message = b"{\"seq\":3}\n\x82\xa3bid\n\xc3\xa9\0";
        let shown = "\\x82\\xa3bid\\u000a\u{e9}\\u0000\n";
        assert_eq!(
            rendered(Style::Line, message),
            format!("{{\"seq\":3}} {shown}")
        );
        let pretty = rendered(Style::Pretty, message);
        assert_eq!(pretty, format!("{{\n  \"seq\": 3\n}} {shown}"));
        assert_eq!(rendered(Style::Line, b"{}\n"), "{} \n");
        assert_eq!(rendered(Style::Line, b"other\n{}"), "other {}\n");
    }

    #[test]
    fn what_is_no_json_or_too_deep_is_printed_as_it_came() {
        for text in ["hello", "", "{\"a\":", &"[".repeat(100_000)] {
            assert_eq!(rendered(Style::Pretty, text), format!("{text}\n"));
        }
        let deep = format!("{}{}", "[".repeat(513), "]".repeat(513));
        assert_eq!(rendered(Style::Pretty, &deep), format!("{deep}\n"));
    }

    #[test]
    fn the_rate_is_of_the_time_that_passed() {
        let rate = Rate {
            since: Instant::now(),
            messages: 30,
            bytes: 1_500,
        };
        assert_eq!(
            rate.line(Duration::from_millis(1_500), 31),
            "20.0 messages/s, 1000 bytes/s, 31 messages in all"
        );
    }
}
