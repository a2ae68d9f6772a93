//! Makes text from strangers (clients, servers, tokens) safe to show to people: in a terminal, in a log line, in a
//! table.
//!
//! [`Finding`] is a result of a check, in words for the operator.
//!
//! Pure. The start of a gateway makes findings for `--check` (`run`), and so do the checks of brokers and services for
//! `--check --connect` (`sources`, `kinds`); `commands` shows them.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;

use url::Url;

/// Escapes the characters that steer a terminal or change the display of the text around, as in JSON (`\u001b`,
/// RFC 8259 §7); `kept` characters stay. In JSON such characters occur only within strings, so JSON keeps its value.
pub fn escaped<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let escapes = |c: char| steers(c) && !kept.contains(&c);
    if !text.contains(escapes) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(2 * text.len());
    for c in text.chars() {
        if !escapes(c) {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a `String` cannot fail.
            let _ = write!(shown, "\\u{unit:04x}");
        }
    }
    Cow::Owned(shown)
}

/// As [`escaped`]; bytes that are not UTF-8 are shown as `\xff`.
pub fn escaped_bytes(text: &[u8], kept: &[char]) -> String {
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        shown.push_str(&escaped(chunk.valid(), kept));
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// The bytes of a text file without its byte order mark, which editors put there.
///
/// # Errors
/// The mark is of UTF-16.
pub fn without_mark(mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    match bytes[..] {
        [0xef, 0xbb, 0xbf, ..] => Ok(bytes.split_off(3)),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the text is UTF-16; save it as UTF-8",
        )),
        _ => Ok(bytes),
    }
}

/// Parses the URL of a unix socket: `unix://[USER[:PASSWORD]@]/PATH[?QUERY]`, or the same with `redis+unix`. A URL with a
/// user needs a host (WHATWG URL, host-missing), so the result has a placeholder as its host. Returns `None` for any other
/// text.
#[cfg_attr(
    not(test),
    allow(
        clippy::disallowed_methods,
        reason = "the text of a setting, not of a message"
    )
)]
pub fn unix_socket_url(text: &str) -> Option<Url> {
    let (scheme, rest) = text.trim().split_once("://")?;
    let is_unix = ["unix", "redis+unix"].contains(&&*scheme.to_ascii_lowercase());
    let (user, path) = rest.split_at(rest.find('/')?);
    let is_alone = user.is_empty() || user.ends_with('@');
    let url = Url::parse(&format!("unix://{user}socket{path}")).ok()?;
    (is_unix && is_alone && url.path().len() > 1).then_some(url)
}

/// Whether a text can be a host's name or address: without quotes, and without a variable that a shell or a
/// template has left unreplaced, such as `$(HOST)`.
pub fn is_host(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || "-_.:[]%".contains(c);
    !text.is_empty() && text.chars().all(fits)
}

/// Whether a character may control the display: the controls (C0, DEL, C1), the separators of lines and
/// paragraphs, and invisible characters that change the display of the text around (Unicode's Bidi_Control,
/// zero width, tags).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// One finding, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Good.
    Good(String),
    /// The gateway starts and works, but probably not as intended.
    Warning(String),
    /// The gateway does not start, or can never do its work.
    Error(String),
}

impl Finding {
    /// The word in front of the text, for people and for programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Good(_) => "ok",
            Self::Warning(_) => "warning",
            Self::Error(_) => "error",
        }
    }

    /// The text, without the word in front of it.
    pub fn text(&self) -> &str {
        match self {
            Self::Good(text) | Self::Warning(text) | Self::Error(text) => text,
        }
    }

    /// Whether the finding is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_and_the_rest_stays() {
        let text = "a\tb\n\u{e4}\u{1f600}\\u001b \u{a0}";
        assert_eq!(escaped(text, &['\n', '\t']), text);
        for (typed, shown) in [
            ("\x1b[2J\x07\r\0\n", r"\u001b[2J\u0007\u000d\u0000\u000a"),
            ("\u{7f}\u{80}\u{9b}2J", r"\u007f\u0080\u009b2J"),
            (
                "\u{202e}a\u{2066}\u{200f}\u{61c}",
                r"\u202ea\u2066\u200f\u061c",
            ),
            (
                "\u{2028}\u{200b}\u{ad}\u{feff}",
                r"\u2028\u200b\u00ad\ufeff",
            ),
            ("\u{e0041}", r"\udb40\udc41"),
        ] {
            assert_eq!(escaped(typed, &[]), shown);
            let json = format!("\"{shown}\"");
            assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), typed);
        }
        let bytes = b"\x9b2J\xc3\xa4\xff\n";
        assert_eq!(escaped_bytes(bytes, &['\n']), "\\x9b2J\u{e4}\\xff\n");
    }
}
