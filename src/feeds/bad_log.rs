//! How bad messages are logged: bounded in size and in rate. Used by every feed.

use std::fmt::{Display, Write};

use tracing::warn;

use crate::hub::Now;
use crate::log_budget::LogBudget;

/// Lines for bad messages within one second; what is over is counted and said later.
const LINES_PER_SECOND: u32 = 5;

/// Bytes of a bad message that are shown, after escaping.
const EXCERPT_BYTES_MAX: usize = 200;

/// Logs bad messages, a few a second.
#[derive(Debug)]
pub(super) struct BadMessageLog(LogBudget);

impl Default for BadMessageLog {
    fn default() -> Self {
        Self(LogBudget::new(LINES_PER_SECOND))
    }
}

impl BadMessageLog {
    /// Once a second is over, says how many lines it left out.
    pub(super) fn tick(&mut self, now: Now) {
        if let Some(suppressed) = self.0.left_out(now) {
            warn!(suppressed, "more bad messages were skipped than logged");
        }
    }

    /// Logs one message, or counts it when this second had its lines.
    pub(super) fn say(&mut self, now: Now, subject: &str, payload: &[u8], why: &dyn Display) {
        self.tick(now);
        if self.0.line(now).is_none() {
            return;
        }
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
                let why = "not an object";
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
