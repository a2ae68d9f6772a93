//! Counts lost and double messages of a client, by the numbers that the publisher gave them.

use std::collections::BTreeSet;

/// The messages of a name that a client received; the publisher numbers them 1, 2, 3, …
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    newest: u64,
    /// Numbers below the newest that did not come.
    missing: BTreeSet<u64>,
    /// The part of `missing` about which the server told the client.
    told: BTreeSet<u64>,
    /// The server told the client that numbers up to this may be missing.
    told_to: u64,
}

/// A message, compared with those before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The next number.
    Next,
    /// Newer than the next number. The numbers between are missing, unless they come later.
    Skips {
        /// The first missing number.
        from: u64,
        /// The last missing number.
        to: u64,
        /// Missing numbers about which the server told the client nothing.
        lost: u64,
    },
    /// A missing number, behind newer numbers.
    Late,
    /// A number that came before.
    Double,
}

impl Seen {
    /// Counts message `n`.
    pub(super) fn message(&mut self, n: u64) -> Note {
        if n > self.newest {
            let from = self.newest + 1;
            self.newest = n;
            return self.skip(from, n - 1);
        }
        match self.missing.remove(&n) {
            true => {
                self.told.remove(&n);
                Note::Late
            }
            false => Note::Double,
        }
    }

    /// Notes that the server told the client of a possible loss, when `published` messages were
    /// published.
    pub(super) fn tell(&mut self, published: u64) {
        self.told_to = self.told_to.max(published);
    }

    /// Counts the messages up to `published` that did not come, at the end of a run.
    pub(super) fn end(&mut self, published: u64) -> Note {
        let from = self.newest + 1;
        self.newest = self.newest.max(published);
        self.skip(from, published)
    }

    /// Missing messages about which the server told the client nothing.
    pub(super) fn lost(&self) -> u64 {
        (self.missing.len() - self.told.len()) as u64
    }

    /// Missing messages after a resume that was answered with `false`.
    pub(super) fn told(&self) -> u64 {
        self.told.len() as u64
    }

    /// The newest number.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    fn skip(&mut self, from: u64, to: u64) -> Note {
        if from > to {
            return Note::Next;
        }
        let before = self.lost();
        self.missing.extend(from..=to);
        self.told.extend(from..=to.min(self.told_to));
        Note::Skips {
            from,
            to,
            lost: self.lost() - before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: &[u64]) -> (Seen, Vec<Note>) {
        let mut seen = Seen::default();
        let notes = numbers.iter().map(|n| seen.message(*n)).collect();
        (seen, notes)
    }

    fn skips(from: u64, to: u64, lost: u64) -> Note {
        Note::Skips { from, to, lost }
    }

    #[test]
    fn a_whole_sequence_has_neither_loss_nor_doubles() {
        let (mut s, notes) = seen(&[1, 2, 3]);
        assert_eq!(notes, [Note::Next, Note::Next, Note::Next]);
        assert_eq!(s.end(3), Note::Next);
        assert_eq!((s.lost(), s.told(), s.newest()), (0, 0, 3));
    }

    #[test]
    fn what_is_missing_at_the_start_in_the_middle_and_at_the_end_is_lost() {
        let (mut s, notes) = seen(&[2, 3, 7]);
        assert_eq!(notes, [skips(1, 1, 1), Note::Next, skips(4, 6, 3)]);
        assert_eq!(s.lost(), 4);
        assert_eq!(s.end(9), skips(8, 9, 2));
        assert_eq!((s.lost(), s.newest()), (6, 9));
        let mut silent = Seen::default();
        assert_eq!(silent.end(0), Note::Next);
        assert_eq!(silent.end(2), skips(1, 2, 2));
    }

    #[test]
    fn every_repetition_is_a_double_and_no_loss() {
        let (s, notes) = seen(&[1, 1, 2, 1, 3]);
        let (next, double) = (Note::Next, Note::Double);
        assert_eq!(
            notes,
            [&next, &double, &next, &double, &next].map(Clone::clone)
        );
        assert_eq!(s.lost(), 0);
    }

    #[test]
    fn a_number_out_of_order_is_no_loss_and_the_same_number_again_is_a_double() {
        let (mut s, notes) = seen(&[1, 4, 2, 2]);
        assert_eq!(notes[2..], [Note::Late, Note::Double]);
        assert_eq!(s.lost(), 1);
        assert_eq!(s.message(3), Note::Late);
        assert_eq!((s.lost(), s.message(5)), (0, Note::Next));
    }

    #[test]
    fn only_what_was_published_before_the_server_told_is_no_loss() {
        let (mut s, _) = seen(&[1, 2]);
        s.tell(5);
        assert_eq!(s.message(8), skips(3, 7, 2), "6 and 7 were to come live");
        assert_eq!((s.lost(), s.told()), (2, 3));
        assert_eq!(s.message(4), Note::Late);
        assert_eq!((s.lost(), s.told()), (2, 2));
        assert_eq!(s.message(4), Note::Double);
        // A loss from before stays a loss.
        let (mut s, _) = seen(&[1, 3]);
        s.tell(9);
        assert_eq!((s.lost(), s.end(9), s.told()), (1, skips(4, 9, 0), 6));
    }
}
