//! The short way of frames that go out as they are: plain, whole, without a number. Many of them
//! in one write are a burst to a thousand clients, where each look at each frame counts.

use std::io::IoSlice;

use super::{FIRST_SEQ, FRAMES_MAX, SendQueue, Wrote};
use crate::hub::protocol::Encoding;
use crate::hub::queue::Queue;

impl SendQueue {
    /// [`Self::outgoing`] where every frame goes out as it is.
    pub(super) fn gather_plain<'a>(&'a self, bytes_max: usize, out: &mut Vec<IoSlice<'a>>) {
        let mut left = bytes_max;
        for entry in self.data.iter().take(FRAMES_MAX) {
            if left == 0 {
                return;
            }
            let bytes = entry.frame.plain().whole();
            out.push(IoSlice::new(bytes));
            left = left.saturating_sub(bytes.len());
        }
    }

    /// Every frame goes out whole, in its plain encoding and without a number.
    #[inline]
    pub(super) fn is_whole_and_plain(&self) -> bool {
        self.begun.is_none() && !self.has_numbered() && matches!(self.encoding, Encoding::Plain)
    }

    /// Some frame had a number: those of most gateways have none, so nobody looks for leads.
    #[inline]
    pub(super) fn has_numbered(&self) -> bool {
        self.next_seq != FIRST_SEQ
    }

    /// Every frame is out whole, which is the usual end of a write. Returns the bytes left: none.
    #[inline]
    pub(super) fn all_out(&mut self, wrote: &mut Wrote) -> usize {
        wrote.frames += self.data.len() as u32;
        wrote.bytes += std::mem::take(&mut self.bytes);
        self.data = Queue::default();
        0
    }
}
