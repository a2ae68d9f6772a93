//! White space of HTTP. Other characters that a programming language calls a space are part of a name or a value: a
//! browser takes U+2000 in front of a cookie's name for a part of it.

/// Whether a byte is optional white space (RFC 9110 §5.6.3).
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The text without white space around it.
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// The bytes without white space around them.
pub fn trim_bytes(bytes: &[u8]) -> &[u8] {
    let Some(first) = bytes.iter().position(|byte| !is_space(*byte)) else {
        return &[];
    };
    let last = bytes.iter().rposition(|byte| !is_space(*byte));
    last.map_or(&[], |last| &bytes[first..=last])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_spaces_of_http_go_and_no_other() {
        for (text, want) in [
            ("", ""),
            (" \t ", ""),
            ("a", "a"),
            (" \ta \t b\t ", "a \t b"),
            ("\u{2000}a", "\u{2000}a"),
            ("\u{a0}a\u{3000}", "\u{a0}a\u{3000}"),
            ("\u{85}a", "\u{85}a"),
            ("\u{b}a\u{c}", "\u{b}a\u{c}"),
            ("\r a\n", "\r a\n"),
        ] {
            assert_eq!(trim(text), want, "{text:?}");
            assert_eq!(trim_bytes(text.as_bytes()), want.as_bytes(), "{text:?}");
        }
    }
}
