//! What makes a message bad, and how that is logged: bounded in size and in rate.

use std::fmt::Write;

use thiserror::Error;
use tracing::warn;

use crate::hub::Now;
use crate::wire::json::JsonError;

/// Lines for bad messages within one second; what is over is counted and said later.
const LINES_PER_SECOND: u32 = 5;

/// Bytes of a bad message that are shown, after escaping.
const EXCERPT_BYTES_MAX: usize = 200;

/// Why a message is skipped whole. Always its publisher's fault (contract: "Bad is").
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadMessage {
    /// Over the limit on bus messages.
    #[error("{bytes} bytes are more than the allowed {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Not JSON, or nested deeper than allowed.
    #[error(transparent)]
    NotJson(#[from] JsonError),
    /// A `levels.signals` message that is no object.
    #[error("not an object")]
    NotAnObject,
    /// A field whose value has a type that the contract does not take.
    #[error("`{field}` has a wrong type")]
    WrongType {
        /// The field.
        field: &'static str,
    },
    /// A `ts` that is no moment which the session clock knows.
    #[error("`ts` is out of range")]
    TsOutOfRange,
    /// A `barrier.depth_in_zone` that no double holds, where `wall_ratio` needs it.
    #[error("`barrier.depth_in_zone` is out of range")]
    DepthInZoneOutOfRange,
    /// Small on the bus, too large with all defaults filled in.
    #[error("normalised, it is larger than the allowed {bytes_max} bytes")]
    NormalisedTooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl BadMessage {
    /// A field of a wrong type.
    pub(super) const fn wrong(field: &'static str) -> Self {
        Self::WrongType { field }
    }
}

/// Logs bad messages, a few a second.
#[derive(Debug, Default)]
pub(super) struct BadMessageLog {
    second: u64,
    lines: u32,
    suppressed: u64,
}

impl BadMessageLog {
    /// Once a second is over, says how many lines it left out.
    pub(super) fn tick(&mut self, now: Now) {
        let second = now.mono_us / 1_000_000;
        if second == self.second {
            return;
        }
        if self.suppressed > 0 {
            warn!(
                suppressed = self.suppressed,
                "more bad messages were skipped than logged"
            );
        }
        *self = Self {
            second,
            ..Self::default()
        };
    }

    /// Logs one message, or counts it when this second had its lines.
    pub(super) fn say(&mut self, now: Now, subject: &str, payload: &[u8], why: &BadMessage) {
        self.tick(now);
        if self.lines == LINES_PER_SECOND {
            self.suppressed += 1;
            return;
        }
        self.lines += 1;
        let excerpt = excerpt(payload);
        warn!(subject, %why, excerpt, "bad message skipped");
    }
}

/// The beginning of `payload` as printable text of at most [`EXCERPT_BYTES_MAX`] bytes.
fn excerpt(payload: &[u8]) -> String {
    // Escaping never shortens, so no more of the payload than this can be shown.
    let head = payload.get(..EXCERPT_BYTES_MAX).unwrap_or(payload);
    let mut shown = String::with_capacity(EXCERPT_BYTES_MAX);
    for chunk in head.utf8_chunks() {
        for c in chunk.valid().chars() {
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
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn an_excerpt_is_bounded_escaped_and_cut_between_characters() {
        assert_eq!(excerpt(b"{\"a\"\n"), "{\\\"a\\\"\\n");
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

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_rate_is_bounded_and_what_was_left_out_is_said() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        let start = Now {
            mono_us: 5_000_000,
            unix_ms: 0,
        };
        tracing::subscriber::with_default(subscriber, || {
            let mut log = BadMessageLog::default();
            for i in 0..100 {
                let why = BadMessage::NotAnObject;
                log.say(start.plus_us(i), "levels.signals", b"[1]", &why);
            }
            log.tick(start.plus_us(999_000));
            log.tick(start.plus_us(1_000_000));
            log.tick(start.plus_us(2_000_000));
        });
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
        assert_eq!(text.matches("bad message skipped").count(), 5, "{text}");
        assert!(text.contains("subject=\"levels.signals\" why=not an object excerpt=\"[1]\""));
        assert_eq!(text.matches("suppressed=95").count(), 1, "{text}");
        assert_eq!(text.lines().count(), 6, "{text}");
    }
}
