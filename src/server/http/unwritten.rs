//! Pieces of answers that hyper holds until all of each is written, and whether something else is charged for them.

use std::collections::VecDeque;

/// The pieces of answers that hyper holds. A piece stays in memory until all of it is written.
#[derive(Debug, Default)]
pub(super) struct UnwrittenPieces {
    /// The sizes of the pieces, the oldest first.
    pieces: VecDeque<usize>,
    /// How many bytes of the first piece are written.
    written: usize,
    /// Whether the bytes are already charged with the connection to a service.
    pub(super) is_charged: bool,
}

impl UnwrittenPieces {
    /// Adds a piece of so many bytes.
    pub(super) fn push(&mut self, bytes: usize) {
        self.pieces.push_back(bytes);
    }

    /// Records that so many bytes are written: the first pieces that are written whole leave memory. Heads are not
    /// distinguished from pieces, so a little more counts as written.
    pub(super) fn note_written(&mut self, bytes: usize) {
        self.written += bytes;
        let pieces = &mut self.pieces;
        while let Some(first) = pieces.front().filter(|first| **first <= self.written) {
            self.written -= first;
            pieces.pop_front();
        }
    }

    /// Records that everything is written.
    pub(super) fn clear(&mut self) {
        (self.pieces, self.written) = (VecDeque::new(), 0);
    }

    /// The bytes of all pieces.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().sum()
    }
}
