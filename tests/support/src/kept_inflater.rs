//! Inflation of messages to a client that keeps its window (RFC 7692 §7.2.2).

use flate2::{Decompress, FlushDecompress};

/// An inflater for all messages of a connection.
#[derive(Debug)]
pub struct KeptInflater(Decompress);

impl KeptInflater {
    /// With a window of 2 to the power of `bits` bytes, 9 to 15.
    pub fn new(bits: u8) -> Self {
        Self(Decompress::new_with_window_bits(false, bits))
    }

    /// Inflates the next message.
    pub fn message(&mut self, compressed: &[u8]) -> Vec<u8> {
        let payload = [compressed, &[0, 0, 0xff, 0xff]].concat();
        let (start, mut out, mut piece) = (self.0.total_in(), Vec::new(), [0; 4096]);
        loop {
            let (at, before) = ((self.0.total_in() - start) as usize, self.0.total_out());
            let rest = &payload[at..];
            let done = self.0.decompress(rest, &mut piece, FlushDecompress::Sync);
            done.expect("deflate data");
            let made = (self.0.total_out() - before) as usize;
            out.extend_from_slice(&piece[..made]);
            if made == 0 {
                let taken = (self.0.total_in() - start) as usize;
                assert_eq!(taken, payload.len(), "deflate data that ends early");
                return out;
            }
        }
    }
}
