//! Slices of a write in one buffer, which serves the next writes of a batch while they are equal.

use std::io::IoSlice;

use crate::hub::Write;

/// Up to this size several slices are copied into one buffer: `writev` costs 7–13 % more at these sizes.
/// Larger slices are copied if several clients get the same slices.
const JOIN_BYTES_MAX: usize = 16 * 1024;

/// Joins the slices of a write in a buffer, which serves the next writes of a batch while they are equal.
#[derive(Debug, Default)]
pub(super) struct Joined {
    bytes: Vec<u8>,
    /// Index in the batch of the write that `bytes` was joined for.
    pub(super) of: Option<usize>,
}

impl Joined {
    /// Returns the slices of the write at `index` as one slice. Reuses the joined bytes of the write before
    /// if its slices are the same memory, as for all clients that get a burst. `None`: copying costs more
    /// than sending the slices.
    pub(super) fn join(&mut self, batch: &[Write<'_>], index: usize) -> Option<&[u8]> {
        let slices = batch[index].slices;
        if slices.len() < 2 {
            return None;
        }
        if self.of.is_some_and(|of| is_same(slices, batch[of].slices)) {
            return Some(&self.bytes);
        }
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let again = batch.get(index + 1);
        if bytes > JOIN_BYTES_MAX && !again.is_some_and(|next| is_same(slices, next.slices)) {
            return None;
        }
        self.bytes.clear();
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        self.of = Some(index);
        Some(&self.bytes)
    }
}

/// Whether the slices are the same memory. The slices are borrowed as long as the batch, so the same memory
/// holds the same bytes.
fn is_same(one: &[IoSlice<'_>], other: &[IoSlice<'_>]) -> bool {
    let same = |(a, b): (&IoSlice<'_>, &IoSlice<'_>)| std::ptr::eq::<[u8]>(&**a, &**b);
    one.len() == other.len() && one.iter().zip(other).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::SessionKey;

    fn write<'a>(slices: &'a [IoSlice<'a>]) -> Write<'a> {
        Write {
            key: SessionKey {
                slot: 0,
                generation: 0,
            },
            slices,
        }
    }

    #[test]
    fn large_slices_are_joined_once_for_those_that_get_the_same() {
        let frames = [vec![b'a'; JOIN_BYTES_MAX], vec![b'b'; 10], vec![b'c'; 10]];
        let slices: Vec<IoSlice<'_>> = frames.iter().map(|f| IoSlice::new(f)).collect();
        let equal_text = frames[0].clone();
        let other = [IoSlice::new(&equal_text), slices[1]];
        let batch = [
            write(&slices[..2]),
            write(&slices[..2]),
            write(&slices[1..]),
            write(&slices[..2]),
            write(&slices[..1]),
            write(&other),
        ];
        let mut joined = Joined::default();
        let mut lengths = |index| joined.join(&batch, index).map(<[u8]>::len);
        assert_eq!(lengths(0), Some(JOIN_BYTES_MAX + 10));
        assert_eq!(lengths(1), Some(JOIN_BYTES_MAX + 10));
        assert_eq!(lengths(2), Some(20), "small ones always");
        assert_eq!(lengths(3), None, "nobody else gets the same");
        assert_eq!(lengths(4), None, "one slice");
        assert_eq!(lengths(5), None, "other memory");
        let whole = joined.join(&batch, 0).expect("joined").to_vec();
        assert_eq!(whole, frames[..2].concat());
    }
}
