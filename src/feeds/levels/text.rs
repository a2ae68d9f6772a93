//! The check that a bus message is JSON, before anything reads it.

use sonic_rs::LazyValue;

use super::bad::BadMessage;
use super::guard::check_depth;

/// Checks that `payload` is one JSON value, at most `depth_max` deep, and nothing else, and returns
/// it as text, white space around it included.
///
/// Three things come before the library: UTF-8; depth, because it recurses; and `\u` escapes,
/// because it skips over them unread.
pub(super) fn check(payload: &[u8], depth_max: usize) -> Result<&str, BadMessage> {
    let text = std::str::from_utf8(payload).map_err(|e| BadMessage::NotUtf8 {
        at: e.valid_up_to(),
    })?;
    check_depth(payload, depth_max)?;
    check_unicode_escapes(payload)?;
    match sonic_rs::from_str::<LazyValue<'_>>(text) {
        Ok(_) => Ok(text),
        Err(e) => Err(BadMessage::NotJson { at: e.offset() }),
    }
}

/// Every `\u` has four hexadecimal digits, and surrogates come in pairs (RFC 8259 §7). Whether
/// other escapes, and backslashes outside of strings, are right is left to the parser.
fn check_unicode_escapes(text: &[u8]) -> Result<(), BadMessage> {
    if !text.contains(&b'\\') {
        return Ok(());
    }
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(next_backslash) {
        let start = at + found;
        let broken = BadMessage::BrokenEscape { at: start };
        at = start + 2;
        if text.get(start + 1) != Some(&b'u') {
            continue;
        }
        at = match unicode_escape(text, start).ok_or_else(|| broken.clone())? {
            0xd800..=0xdbff => match unicode_escape(text, start + 6) {
                Some(0xdc00..=0xdfff) => start + 12,
                _ => return Err(broken),
            },
            0xdc00..=0xdfff => return Err(broken),
            _ => start + 6,
        };
    }
    Ok(())
}

fn next_backslash(text: &[u8]) -> Option<usize> {
    text.iter().position(|&b| b == b'\\')
}

/// The UTF-16 code unit of the escape `\uXXXX` that begins at `start`.
fn unicode_escape(text: &[u8], start: usize) -> Option<u16> {
    let digits = text.get(start..start + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        Some(unit << 4 | digit as u16)
    })
}
