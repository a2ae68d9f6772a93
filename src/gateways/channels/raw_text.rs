//! The text of a payload that is not JSON, for clients that get texts: `{"raw":"…"}`.

use std::str::Utf8Chunk;

use weirgate_wire::json::quoted;

const BEFORE: &[u8] = b"{\"raw\":\"";
const AFTER: &[u8] = b"\"}";

/// U+FFFD.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Bytes that are escaped at once.
const ESCAPED_AT_ONCE: usize = 16 * 1024;

/// The text, with U+FFFD for what is not UTF-8. `bytes`: its length ([`raw_text_bytes`]). A payload of many bytes takes no
/// more memory than the text: it is escaped in pieces.
pub(super) fn raw_text(payload: &[u8], bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes);
    text.extend_from_slice(BEFORE);
    for chunk in payload.utf8_chunks() {
        let mut rest = chunk.valid();
        while !rest.is_empty() {
            let mut at = rest.len().min(ESCAPED_AT_ONCE);
            while !rest.is_char_boundary(at) {
                at -= 1;
            }
            let (piece, after) = rest.split_at(at);
            let quoted = quoted(piece);
            text.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
            rest = after;
        }
        if !chunk.invalid().is_empty() {
            text.extend_from_slice(REPLACEMENT);
        }
    }
    text.extend_from_slice(AFTER);
    text
}

/// The length of the text. It can be six times as long as the payload.
pub(super) fn raw_text_bytes(payload: &[u8]) -> usize {
    let of_chunk = |chunk: Utf8Chunk<'_>| {
        let valid: usize = chunk.valid().bytes().map(escaped_bytes).sum();
        let has_invalid = !chunk.invalid().is_empty();
        valid + if has_invalid { REPLACEMENT.len() } else { 0 }
    };
    let escaped: usize = payload.utf8_chunks().map(of_chunk).sum();
    BEFORE.len() + escaped + AFTER.len()
}

/// The length of a byte of UTF-8 in a string of JSON (RFC 8259 §7).
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\x08' | b'\t' | b'\n' | b'\x0c' | b'\r' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are no UTF-8, in pieces of any length: as if all of them were quoted at once.
    #[test]
    fn payloads_are_escaped_in_pieces_and_their_length_is_known_before() {
        let all: Vec<u8> = (0..=255).collect();
        let long = "a\u{e9}\u{1f44b}\"\\\u{7f}\n".repeat(5_000);
        let cut = [long.as_bytes(), b"\xe2\x82", all.as_slice(), b"\xf0\x9f"].concat();
        for payload in [b"".as_slice(), &all, long.as_bytes(), &cut] {
            let bytes = raw_text_bytes(payload);
            let text = raw_text(payload, bytes);
            let whole = quoted(&String::from_utf8_lossy(payload));
            let expected = format!("{{\"raw\":{whole}}}");
            assert!(text == expected.as_bytes(), "{} bytes", payload.len());
            assert_eq!(bytes, text.len());
        }
    }
}
