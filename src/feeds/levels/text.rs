//! JSON text: checked once as a whole, then read lazily as raw slices.

use std::borrow::Cow;

use sonic_rs::LazyValue;

use super::bad::BadMessage;
use super::guard::check_depth;

/// Checks that `payload` is one JSON value, at most `depth_max` deep, and nothing else.
///
/// Three things come before the library: UTF-8; depth, because it recurses; and `\u` escapes,
/// because it skips over them unread.
pub(super) fn check(payload: &[u8], depth_max: usize) -> Result<LazyValue<'_>, BadMessage> {
    let text = std::str::from_utf8(payload).map_err(|e| BadMessage::NotUtf8 {
        at: e.valid_up_to(),
    })?;
    check_depth(payload, depth_max)?;
    check_unicode_escapes(payload)?;
    sonic_rs::from_str(text).map_err(|e| not_json(&e))
}

pub(super) fn not_json(error: &sonic_rs::Error) -> BadMessage {
    BadMessage::NotJson { at: error.offset() }
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
        at = match unicode_escape(text, start).ok_or(broken.clone())? {
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

/// The text of a value within checked text.
pub(super) fn raw<'a>(value: &LazyValue<'a>) -> Result<&'a str, BadMessage> {
    match value.as_raw_cow() {
        // Within checked text the library skips a number up to the next comma or bracket, white
        // space included.
        Cow::Borrowed(text) => Ok(text.trim_ascii_end()),
        // Only a whole message that is a string with escapes; nothing reads fields of that.
        Cow::Owned(_) => Err(BadMessage::NotAnObject),
    }
}

/// Calls `field` with each key and value of an object within checked text, in order, repeated
/// keys included. What is no object has no fields.
pub(super) fn fields<'a>(
    object: LazyValue<'a>,
    mut field: impl FnMut(Cow<'a, str>, LazyValue<'a>) -> Result<(), BadMessage>,
) -> Result<(), BadMessage> {
    for entry in object.into_object_iter().into_iter().flatten() {
        let (key, value) = entry.map_err(|e| not_json(&e))?;
        field(key, value)?;
    }
    Ok(())
}

/// Calls `entry` with each value of an array within checked text. What is no array has none.
pub(super) fn entries<'a>(
    array: LazyValue<'a>,
    mut entry: impl FnMut(LazyValue<'a>) -> Result<(), BadMessage>,
) -> Result<(), BadMessage> {
    for value in array.into_array_iter().into_iter().flatten() {
        entry(value.map_err(|e| not_json(&e))?)?;
    }
    Ok(())
}
