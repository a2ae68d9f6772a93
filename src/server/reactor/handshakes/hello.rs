//! The first message of a TLS client, the ClientHello: whether it is whole, before the client takes a permit.

/// After this many bytes of a first message the handshake begins in any case: few clients send more than 2,000.
pub(super) const HELLO_BYTES_MAX: usize = 4096;

/// The type of a record with messages of a handshake (RFC 8446 §5.1), and of the first such message (§4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Whether a handshake may begin with these first bytes of a client: they are a whole ClientHello, in one record or
/// several, or they cannot become a ClientHello, and then the library will refuse them. `seen`: at most
/// [`HELLO_BYTES_MAX`] bytes.
pub(super) fn may_begin(seen: &[u8]) -> bool {
    let mut message = Vec::with_capacity(seen.len());
    let mut rest = seen;
    // The head of a record: its type, two bytes of a version, and its length.
    while let [kind, _, _, high, low, behind @ ..] = rest {
        if *kind != HANDSHAKE {
            return true;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        message.extend(behind.iter().take(length));
        rest = behind.get(length..).unwrap_or_default();
    }
    let is_other = |bytes: &[u8], kind| bytes.first().is_some_and(|first| *first != kind);
    if is_other(rest, HANDSHAKE) || is_other(&message, CLIENT_HELLO) {
        return true;
    }
    let whole = match message[..] {
        // The head of a message: its type, and its length in three bytes.
        [_, a, b, c, ref body @ ..] => body.len() >= u32::from_be_bytes([0, a, b, c]) as usize,
        _ => false,
    };
    whole || seen.len() >= HELLO_BYTES_MAX
}

/// Whether bytes that are not a record of TLS begin a request of plain HTTP.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    let methods = [
        b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE", b"PATC",
    ];
    methods.iter().any(|method| bytes.starts_with(*method))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello of `bytes` bytes, in records of at most `record_max` bytes.
    fn hello(bytes: usize, record_max: usize) -> Vec<u8> {
        let length = (bytes - 4) as u32;
        let message = [&[CLIENT_HELLO][..], &length.to_be_bytes()[1..]].concat();
        let message = [message, vec![b'a'; bytes - 4]].concat();
        let record = |part: &[u8]| {
            let length = (part.len() as u16).to_be_bytes();
            [&[HANDSHAKE, 3, 1][..], &length, part].concat()
        };
        message.chunks(record_max).flat_map(record).collect()
    }

    #[test]
    fn a_handshake_begins_with_the_last_byte_of_the_first_message_however_it_is_cut() {
        for record_max in [1, 3, 5, 100, 512] {
            let whole = hello(512, record_max);
            for seen in 0..whole.len() {
                assert!(!may_begin(&whole[..seen]), "{seen} with {record_max}");
            }
            assert!(may_begin(&whole));
            assert!(may_begin(&[&whole[..], b"more"].concat()));
        }
    }

    #[test]
    fn what_is_no_first_message_or_too_large_is_for_the_library() {
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"G",
            b"\x15\x03\x01",
            b"\x16\x03\x01\x00\x01\x02",
        ] {
            assert!(may_begin(other), "{other:?}");
        }
        let large = hello(9000, 16_000);
        assert!(!may_begin(&large[..HELLO_BYTES_MAX - 1]));
        assert!(may_begin(&large[..HELLO_BYTES_MAX]));
        // Empty records are not an end.
        let empty = [HANDSHAKE, 3, 1, 0, 0].repeat(HELLO_BYTES_MAX / 5 + 1);
        assert!(!may_begin(&empty[..100]));
        assert!(may_begin(&empty[..HELLO_BYTES_MAX]));
    }
}
