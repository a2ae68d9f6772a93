//! Compression of a client's messages (RFC 7692 §7.2.1).

use flate2::{Compress, Compression, FlushCompress};

/// A compressor with a window over all messages: a message may refer to earlier messages.
#[derive(Debug)]
pub struct DeflateSender {
    state: Compress,
    bits: u8,
}

impl DeflateSender {
    /// A compressor with a window of 2 to the power of `bits` bytes, 9 to 15.
    pub fn new(bits: u8) -> Self {
        Self {
            state: Compress::new_with_window_bits(Compression::new(6), false, bits),
            bits,
        }
    }

    /// Compresses the next message.
    pub fn message(&mut self, text: &[u8]) -> Vec<u8> {
        // After a flush there is nothing to flush (RFC 7692 §7.2.3.6).
        if text.is_empty() {
            return vec![0];
        }
        let mut out = self.compress(text, FlushCompress::Sync);
        out.truncate(out.len() - 4);
        out
    }

    /// Compresses the next message with a last block. The following message starts a new stream, which
    /// refers to `text`.
    pub fn last_block(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = self.compress(text, FlushCompress::Finish);
        out.push(0);
        *self = Self::new(self.bits);
        self.state.set_dictionary(text).expect("a new stream");
        out
    }

    fn compress(&mut self, text: &[u8], flush: FlushCompress) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + text.len() / 8 + 64);
        let made = self.state.compress_vec(text, &mut out, flush);
        made.expect("it compresses");
        assert!(out.len() < out.capacity(), "all of it");
        out
    }
}
