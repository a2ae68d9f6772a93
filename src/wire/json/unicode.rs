//! JSON of services in UTF-16 and UTF-32.

use std::borrow::Cow;

use super::Json;

impl Json<'_> {
    /// Returns JSON of a service as UTF-8 without a byte order mark. UTF-16 and UTF-32 are known by their mark, or by
    /// the zero bytes of their first two characters, which are ASCII (RFC 4627 §3). A text that is none of these is
    /// returned unchanged.
    pub fn utf8_of(text: &[u8]) -> Cow<'_, [u8]> {
        let decoded = match text {
            [0xff, 0xfe, 0, 0, rest @ ..] => from_utf32(rest, u32::from_le_bytes),
            [0, 0, 0xfe, 0xff, rest @ ..] => from_utf32(rest, u32::from_be_bytes),
            [0xff, 0xfe, rest @ ..] => from_utf16(rest, u16::from_le_bytes),
            [0xfe, 0xff, rest @ ..] => from_utf16(rest, u16::from_be_bytes),
            [0xef, 0xbb, 0xbf, rest @ ..] => return Cow::Borrowed(rest),
            [0, 0, 0, 1..=255, ..] => from_utf32(text, u32::from_be_bytes),
            [1..=255, 0, 0, 0, ..] => from_utf32(text, u32::from_le_bytes),
            [0, 1..=255, ..] => from_utf16(text, u16::from_be_bytes),
            [1..=255, 0, ..] => from_utf16(text, u16::from_le_bytes),
            _ => None,
        };
        decoded.map_or(Cow::Borrowed(text), |text| Cow::Owned(text.into_bytes()))
    }
}

fn from_utf16(text: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, []) = text.as_chunks() else {
        return None;
    };
    let units = units.iter().map(|bytes| unit(*bytes));
    char::decode_utf16(units).collect::<Result<_, _>>().ok()
}

fn from_utf32(text: &[u8], unit: fn([u8; 4]) -> u32) -> Option<String> {
    let (units, []) = text.as_chunks() else {
        return None;
    };
    let units = units.iter().map(|bytes| char::from_u32(unit(*bytes)));
    units.collect()
}
