//! Makes text from strangers (clients, servers, tokens) safe to show to people: in a terminal, in a log line, in a
//! table. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// Escapes the characters that control a terminal or change the display of the text around, as in JSON (`\u001b`,
/// RFC 8259 §7); `kept` characters stay. In JSON such characters occur only within strings, so JSON keeps its value.
pub fn escaped<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let escapes = |c: char| may_control_display(c) && !kept.contains(&c);
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
            // Writing to a `String` cannot fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// Whether a character may control the display: the controls (C0, DEL, C1), the separators of lines and
/// paragraphs, and invisible characters that change the display of the text around (Unicode's Bidi_Control,
/// zero width, tags).
fn may_control_display(c: char) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_controls_the_display_and_the_rest_stays() {
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
