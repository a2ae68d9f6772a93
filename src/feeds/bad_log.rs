//! The log lines about bad messages: bounded in size and in rate. Used by every feed.

use std::fmt::{Display, Write};

use crate::base::LogBudget;
use crate::hub::{FeedLine, Now};

/// Lines for bad messages within a second; the others are counted and the count is logged later.
const LINES_PER_SECOND: u32 = 5;

/// The most bytes shown of a bad message, after escaping.
const EXCERPT_BYTES_MAX: usize = 200;

#[derive(Debug)]
pub(super) struct BadMessageLog {
    budget: LogBudget,
    left_out: Option<u64>,
    bad_message: Option<FeedLine>,
}

impl Default for BadMessageLog {
    fn default() -> Self {
        Self {
            budget: LogBudget::new(LINES_PER_SECOND),
            left_out: None,
            bad_message: None,
        }
    }
}

impl BadMessageLog {
    /// Once a second is over, makes a line with the number of lines that were left out.
    pub(super) fn tick(&mut self, now: Now) {
        self.left_out = self.budget.left_out(now).or(self.left_out);
    }

    /// Makes a line about a message, or counts the message if the lines of this second are used up.
    pub(super) fn say(&mut self, now: Now, subject: &str, payload: &[u8], why: &dyn Display) {
        self.tick(now);
        if self.budget.line(now).is_some() {
            self.bad_message = Some(FeedLine::BadMessage {
                subject: subject.to_owned(),
                why: why.to_string(),
                excerpt: excerpt(payload),
            });
        }
    }

    /// The next line to log.
    pub(super) fn next(&mut self) -> Option<FeedLine> {
        let left_out = self.left_out.take().map(FeedLine::LeftOut);
        left_out.or_else(|| self.bad_message.take())
    }
}

/// The beginning of `payload` as printable text of at most [`EXCERPT_BYTES_MAX`] bytes.
fn excerpt(payload: &[u8]) -> String {
    // Escaping never shortens, so no more of the payload can be shown.
    let head = payload.get(..EXCERPT_BYTES_MAX).unwrap_or(payload);
    let mut shown = String::with_capacity(EXCERPT_BYTES_MAX);
    for chunk in head.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '"' && shown.len() < EXCERPT_BYTES_MAX {
                // The log escapes quotes itself.
                shown.push(c);
                continue;
            }
            let escaped = c.escape_debug();
            let bytes: usize = escaped.clone().map(char::len_utf8).sum();
            if shown.len() + bytes > EXCERPT_BYTES_MAX {
                return shown;
            }
            shown.extend(escaped);
        }
        for byte in chunk.invalid() {
            if shown.len() + 4 > EXCERPT_BYTES_MAX {
                return shown;
            }
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_bounded_escaped_and_cut_between_characters() {
        assert_eq!(excerpt(b"{\"a\"\n"), "{\"a\"\\n");
        assert_eq!(excerpt(b"a\xff\x1b[31m"), "a\\xff\\u{1b}[31m");
        for payload in [
            "é🚀".repeat(200),
            "\u{1}".repeat(500),
            "x".repeat(199) + "é",
        ] {
            let shown = excerpt(payload.as_bytes());
            assert!(shown.len() <= EXCERPT_BYTES_MAX, "{}", shown.len());
            assert!(shown.len() > EXCERPT_BYTES_MAX - 12, "{}", shown.len());
            assert!(!shown.contains(char::is_control));
        }
    }

    #[test]
    fn the_rate_is_bounded_and_what_was_left_out_is_said() {
        let start = Now {
            mono_us: 5_000_000,
            unix_ms: 0,
        };
        let mut log = BadMessageLog::default();
        let bad_message = FeedLine::BadMessage {
            subject: "levels.signals".to_owned(),
            why: "not an object".to_owned(),
            excerpt: "[1]".to_owned(),
        };
        let mut say = |us| {
            let why = "not an object";
            log.say(start.plus_us(us), "levels.signals", b"[1]", &why);
            [log.next(), log.next()]
        };
        for us in 0..100 {
            let line = (us < 5).then(|| bad_message.clone());
            assert_eq!(say(us), [line, None]);
        }
        let left_out = Some(FeedLine::LeftOut(95));
        assert_eq!(say(1_000_000), [left_out, Some(bad_message)]);
    }

    #[test]
    fn what_was_left_out_is_said_without_another_bad_message() {
        let at = |us: u64| Now {
            mono_us: 5_000_000 + us,
            unix_ms: 0,
        };
        let mut log = BadMessageLog::default();
        for us in 0..7 {
            log.say(at(us), "levels.signals", b"[1]", &"not an object");
            log.next();
        }
        log.tick(at(999_000));
        assert_eq!(log.next(), None);
        log.tick(at(1_000_000));
        assert_eq!(log.next(), Some(FeedLine::LeftOut(2)));
        log.tick(at(2_000_000));
        assert_eq!(log.next(), None);
    }
}
