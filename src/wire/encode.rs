//! Server frames (RFC 6455 §5.2): never masked, never fragmented.

/// Longest header of an unmasked frame: two bytes and a 64-bit length.
pub const HEADER_BYTES_MAX: usize = 10;
/// The last (here: only) fragment of a message.
pub const FIN: u8 = 0x80;
/// The payload is deflated (RFC 7692 §6).
pub const RSV1: u8 = 0x40;
/// The next fragment of a message.
pub const OPCODE_CONTINUATION: u8 = 0x0;
/// A text message.
pub const OPCODE_TEXT: u8 = 0x1;
/// A binary message.
pub const OPCODE_BINARY: u8 = 0x2;
/// A close; opcodes from here on are control frames (§5.5).
pub const OPCODE_CLOSE: u8 = 0x8;
/// A ping.
pub const OPCODE_PING: u8 = 0x9;
/// A pong.
pub const OPCODE_PONG: u8 = 0xa;
/// Longest payload of a control frame (§5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// Writes the header of an unmasked frame with `payload_len` bytes to the front of `out`. Returns the
/// header's length: 2, 4 or 10 bytes, the shortest form for the length (§5.2).
pub fn header(out: &mut [u8; HEADER_BYTES_MAX], first_byte: u8, payload_len: u64) -> usize {
    out[0] = first_byte;
    if payload_len < 126 {
        out[1] = payload_len as u8;
        2
    } else if let Ok(len) = u16::try_from(payload_len) {
        out[1] = 126;
        out[2..4].copy_from_slice(&len.to_be_bytes());
        4
    } else {
        out[1] = 127;
        out[2..10].copy_from_slice(&payload_len.to_be_bytes());
        10
    }
}

/// Returns the number of bytes that [`header`] writes for a payload of this length.
pub const fn header_bytes(payload_len: u64) -> usize {
    match payload_len {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    }
}
