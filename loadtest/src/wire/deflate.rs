//! Reads the start of a deflated message (RFC 7692) without inflating the rest.

use flate2::{Decompress, FlushDecompress};

use crate::stamp::HEAD_BYTES;

/// One inflater for all clients: every message stands alone, since only
/// `server_no_context_takeover` (RFC 7692 section 7.1.1.1) is agreed to.
pub(crate) struct HeadInflater {
    inflate: Decompress,
    out: Box<[u8; HEAD_BYTES]>,
}

impl HeadInflater {
    /// An inflater with the largest window (15 bits), which reads every smaller one.
    pub(crate) fn new() -> Self {
        Self {
            inflate: Decompress::new(false),
            out: Box::new([0; HEAD_BYTES]),
        }
    }

    /// The first bytes of the message that starts with `head`; empty when it is no deflate data.
    pub(crate) fn start_of(&mut self, head: &[u8]) -> &[u8] {
        self.inflate.reset(false);
        // Needing more input is the ordinary end here: the head is cut off.
        let done = self
            .inflate
            .decompress(head, &mut self.out[..], FlushDecompress::Sync);
        let n = match done {
            Ok(_) => (self.inflate.total_out() as usize).min(HEAD_BYTES),
            Err(_) => 0,
        };
        &self.out[..n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;
    use crate::stamp::{Stamp, find};
    use flate2::{Compress, Compression, FlushCompress};

    #[test]
    fn the_stamp_of_a_deflated_message_is_read_from_its_first_bytes() {
        let mut payload = Payload::new(8192);
        let mut inflater = HeadInflater::new();
        for n in 1..4 {
            let plain = payload.stamped(777 + n, n);
            let mut deflated = Vec::with_capacity(16_384);
            let mut deflate = Compress::new_with_window_bits(Compression::new(2), false, 12);
            deflate
                .compress_vec(plain, &mut deflated, FlushCompress::Sync)
                .unwrap();
            assert!(deflated.len() > HEAD_BYTES);
            let start = inflater.start_of(&deflated[..HEAD_BYTES]);
            assert_eq!(start[..64], plain[..64]);
            assert_eq!(find(start), Some(Stamp { us: 777 + n, n }));
        }
    }

    #[test]
    fn garbage_gives_nothing() {
        assert_eq!(HeadInflater::new().start_of(&[0xff; 100]), b"");
    }
}
