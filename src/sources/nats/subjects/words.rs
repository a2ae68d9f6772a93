//! The words of the server in its errors. Pure.

/// The most of a server's words that is shown.
const WORDS_MAX: usize = 200;

/// The subject in `Permissions Violation for Subscription to "a.b"`, which the server writes as Go
/// quotes a text.
pub(super) fn refused_subject(words: &str) -> Option<String> {
    const BEFORE: &str = "permissions violation for subscription to ";
    let before = words.get(..BEFORE.len())?;
    let quoted = words.get(BEFORE.len()..)?.strip_prefix('"')?;
    if !before.eq_ignore_ascii_case(BEFORE) {
        return None;
    }
    let mut subject = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some(subject),
            '\\' => subject.push(chars.next()?),
            char => subject.push(char),
        }
    }
}

/// What a log line or an error shows of a server's words.
pub(super) fn shown(words: &str) -> String {
    let printable = words.chars().filter(|c| !c.is_control());
    printable.take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short_and_printable() {
        assert_eq!(shown("a\r\n\u{1b}[1mb"), "a[1mb");
        assert_eq!(shown(&"é".repeat(1_000)), "é".repeat(WORDS_MAX));
    }

    #[test]
    fn the_subject_of_a_refusal_is_read() {
        let refused = |subject: &str| {
            refused_subject(&format!(
                "Permissions Violation for Subscription to {subject}"
            ))
        };
        assert_eq!(refused("\"a.b\"").as_deref(), Some("a.b"));
        assert_eq!(refused("\"a.>\" (sid \"7\")").as_deref(), Some("a.>"));
        assert_eq!(refused(r#""a\"b\\c""#).as_deref(), Some(r#"a"b\c"#));
        assert_eq!(refused("\"a"), None);
        for other in [
            "",
            "é",
            "Permissions Violation for Publish to \"a\"",
            "Maximum Subscriptions Exceeded",
        ] {
            assert_eq!(refused_subject(other), None, "{other}");
        }
    }
}
