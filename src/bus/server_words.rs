//! A server's words, cut for the log. Pure.

use weirgate_wire::base::escaped;

/// The most characters shown of a server's words.
const WORDS_MAX: usize = 200;

/// Shortens a server's words for a log line or an error, and escapes what would steer a terminal.
pub(super) fn shown(words: &str) -> String {
    let words: String = words.trim_end().chars().take(WORDS_MAX).collect();
    // No character is exempt.
    escaped(&words, &[]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short_and_printable() {
        assert_eq!(shown("a\u{1b}[1mb\r\n"), r"a\u001b[1mb");
        assert_eq!(shown(&"é".repeat(1_000)), "é".repeat(WORDS_MAX));
    }
}
