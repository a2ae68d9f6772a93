//! Raw JSON values: their kind, their truth, and their text as a string.

use std::borrow::Cow;

/// The kind of a JSON value, recognised by the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    False,
    True,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// The kind of the value with the text `raw`, checked and without white space around.
    pub(super) fn of(raw: &str) -> Self {
        match raw.as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't') => Self::True,
            Some(b'f') => Self::False,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }
}

/// Returns false for null, false, zero, and empty strings, arrays and objects.
pub(super) fn is_truthy(raw: &str) -> bool {
    match Kind::of(raw) {
        Kind::Null | Kind::False => false,
        Kind::True => true,
        Kind::Number => {
            // By digits, not as a double: 1e-400 is not zero.
            let mut mantissa = raw.bytes().take_while(|b| !matches!(b, b'e' | b'E'));
            mantissa.any(|b| matches!(b, b'1'..=b'9'))
        }
        Kind::String => raw != "\"\"",
        Kind::Array | Kind::Object => {
            let after = raw.bytes().skip(1).find(|b| !b.is_ascii_whitespace());
            !matches!(after, None | Some(b']' | b'}'))
        }
    }
}

/// The value of a JSON string, escapes resolved.
pub(super) fn string(raw: &str) -> Cow<'_, str> {
    let quoted = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"'));
    let quoted = quoted.unwrap_or(raw);
    if quoted.contains('\\') {
        // In checked text this cannot fail.
        if let Ok(text) = sonic_rs::from_str::<String>(raw) {
            return Cow::Owned(text);
        }
    }
    Cow::Borrowed(quoted)
}

/// Whether `raw` is a JSON string with the value `text`.
pub(super) fn is_string(raw: &str, text: &str) -> bool {
    Kind::of(raw) == Kind::String && string(raw) == text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth() {
        for raw in [
            "null",
            "false",
            "0",
            "-0",
            "0.0",
            "-0.000",
            "0e5",
            "0E+99",
            "0.0e-1",
            "\"\"",
            "[]",
            "[ \n\t\r]",
            "{}",
            "{ }",
        ] {
            assert!(!is_truthy(raw), "{raw}");
        }
        for raw in [
            "true",
            "1",
            "-1",
            "0.001",
            "1e-400",
            "10",
            "5E0",
            "\" \"",
            "\"0\"",
            "\"false\"",
            "[0]",
            "[[]]",
            "[null]",
            "{\"\":0}",
        ] {
            assert!(is_truthy(raw), "{raw}");
        }
    }

    #[test]
    fn kinds() {
        let kinds = [
            ("null", Kind::Null),
            ("false", Kind::False),
            ("true", Kind::True),
            ("-1", Kind::Number),
            ("0", Kind::Number),
            ("\"\"", Kind::String),
            ("[]", Kind::Array),
            ("{}", Kind::Object),
        ];
        for (raw, kind) in kinds {
            assert_eq!(Kind::of(raw), kind);
        }
    }

    #[test]
    fn strings_compare_by_value() {
        assert!(is_string(r#""REJECT""#, "REJECT"));
        assert!(is_string(r#""\u0052EJECT""#, "REJECT"));
        assert!(!is_string(r#""REJECT ""#, "REJECT"));
        assert!(!is_string("REJECT", "REJECT"));
        assert_eq!(string(r#""a\n\ud83d\ude80\\""#), "a\n🚀\\");
        assert_eq!(string(r#""""#), "");
    }
}
