//! The output of `weirgate tail`: messages on standard output, with counts and the rate.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::super::program::complain;
use super::super::standard::{Written, write_out};
use weirgate_wire::base::escaped_bytes;
use weirgate_wire::json::Json;

/// Time between two lines about the rate.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// The format of printed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
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
    /// The number of messages after which the session ends; `None`: it does not end by itself.
    count: Option<u64>,
    /// The number of printed messages.
    messages: u64,
    /// The text of the message that is printed; kept for its memory.
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

    /// Prints a message, which the reader gets at once.
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
        // Whoever gives the write up finds the end of the command next.
        if write_out(&self.line)? == Written::GivenUp {
            return Ok(Next::GoOn);
        }
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
        (Some(head), Some(payload)) if Json::read(head).is_ok() => {
            render(style, head, line);
            // The line break that `render` has added.
            line.pop();
            line.extend_from_slice(format!(" {}\n", escaped_bytes(payload, &[])).as_bytes());
        }
        _ => render(style, message, line),
    }
}

/// Returns indented JSON with all digits of its numbers; `None` if the message is not JSON or is nested too deeply.
fn pretty(message: &[u8]) -> Option<String> {
    let value = Json::read(message).ok()?.parse_with_digits().ok()?;
    sonic_rs::to_string_pretty(&value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
