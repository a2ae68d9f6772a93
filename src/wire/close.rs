//! Close frames (RFC 6455 §5.5.1).

use super::encode::{CONTROL_PAYLOAD_BYTES_MAX, FIN, OPCODE_CLOSE};

/// Longest reason of a close frame: a control frame's payload less the code (§5.5).
pub const REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

/// Appends an unmasked close frame. A reason over [`REASON_BYTES_MAX`] is cut at a character.
pub fn close_frame(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut reason_len = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(reason_len) {
        reason_len -= 1;
    }
    let reason = &reason[..reason_len];
    out.reserve(4 + reason.len());
    out.extend_from_slice(&[FIN | OPCODE_CLOSE, 2 + reason.len() as u8]);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_frame_holds_its_code_and_reason() {
        let mut out = Vec::new();
        close_frame(&mut out, 1009, "too big");
        assert_eq!(out, b"\x88\x09\x03\xf1too big");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        close_frame(&mut out, 1000, &"é".repeat(100));
        assert_eq!(out.len(), 4 + 122, "123 bytes would cut a character");
        assert_eq!(usize::from(out[1]), out.len() - 2);
        assert_eq!(
            std::str::from_utf8(&out[4..]).map(str::len),
            Ok(122),
            "the reason is still UTF-8"
        );
    }
}
