//! After which id the next entry is read, and what is known of the stream there. Pure.

use super::super::prints::EntryPrint;
use weirgate_core::StoredId;

/// How far the stream was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReadPosition {
    /// Nowhere: the first inspection decides.
    #[default]
    Unset,
    /// After this entry, which was read. It is still in the stream, unless it was trimmed or deleted.
    Read(EntryPrint),
    /// After an id, without an entry to compare with.
    After { after: StoredId, lost: LostEntry },
    /// The stream is empty or missing, and may be another one than before. Its next entries may have any ids.
    Empty {
        after: StoredId,
        lost: LostEntry,
        /// When its next entries were not there yet, Unix milliseconds.
        since_ms: u64,
    },
}

/// The last entry that was read before a loss, if one was. If it is there again, the stream is back.
type LostEntry = Option<EntryPrint>;

impl ReadPosition {
    /// After this id, in a stream of which nothing was read.
    pub(super) fn first(after: StoredId) -> Self {
        Self::After { after, lost: None }
    }

    /// The next entry is the first one after this id.
    pub(super) fn after(self) -> StoredId {
        match self {
            Self::Unset => StoredId::default(),
            Self::Read(entry) => entry.id,
            Self::After { after, .. } | Self::Empty { after, .. } => after,
        }
    }

    /// The last entry, if it was read.
    pub(super) fn last_read(self) -> Option<EntryPrint> {
        match self {
            Self::Read(entry) => Some(entry),
            Self::Unset | Self::After { .. } | Self::Empty { .. } => None,
        }
    }

    /// The last entry that was read, or else the last one before a loss.
    pub(super) fn last_known(self) -> Option<EntryPrint> {
        match self {
            Self::Read(entry) => Some(entry),
            Self::After { lost, .. } | Self::Empty { lost, .. } => lost,
            Self::Unset => None,
        }
    }

    /// The id of [`Self::last_known`], or else [`Self::after`].
    pub(super) fn last_known_id(self) -> StoredId {
        match self.last_known() {
            Some(entry) => entry.id,
            None => self.after(),
        }
    }

    /// While the stream is empty or missing: when its next entries were not there yet, Unix milliseconds.
    pub(super) fn empty_since_ms(self) -> Option<u64> {
        match self {
            Self::Empty { since_ms, .. } => Some(since_ms),
            Self::Unset | Self::Read(_) | Self::After { .. } => None,
        }
    }

    /// The same place after a loss: the entry there is gone, but may come back.
    pub(super) fn without_entry(self) -> Self {
        match self {
            Self::Read(entry) => Self::After {
                after: entry.id,
                lost: Some(entry),
            },
            Self::Unset => Self::first(StoredId::default()),
            other => other,
        }
    }

    /// After this id, in the stream that is there now; without an entry to compare with.
    pub(super) fn moved_to(self, after: StoredId) -> Self {
        Self::After {
            after,
            lost: self.last_known(),
        }
    }

    /// Before any entry, whatever its id.
    pub(super) fn rewound(self) -> Self {
        let after = StoredId::default();
        match self {
            Self::Empty { lost, since_ms, .. } => Self::Empty {
                after,
                lost,
                since_ms,
            },
            other => other.moved_to(after),
        }
    }

    /// The stream had no entry. Changes nothing if the last entry was read: only a loss shows that the stream may be another
    /// one.
    pub(super) fn emptied(self, since_ms: u64) -> Self {
        match self {
            Self::Read(_) => self,
            other => Self::Empty {
                after: other.after(),
                lost: other.last_known(),
                since_ms,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_core::EntryHash;

    const ENTRY: EntryPrint = EntryPrint {
        id: StoredId { major: 7, minor: 1 },
        hash: EntryHash::of(9),
    };

    #[test]
    fn the_last_entry_is_remembered_over_a_loss_and_while_the_stream_is_away() {
        let read = ReadPosition::Read(ENTRY);
        assert_eq!(read.last_read(), Some(ENTRY));
        assert_eq!(read.emptied(5), read, "no loss was reported");
        let lost = read.without_entry();
        assert_eq!((lost.last_read(), lost.last_known()), (None, Some(ENTRY)));
        assert_eq!((lost.after(), lost.empty_since_ms()), (ENTRY.id, None));
        let empty = lost.emptied(5).rewound();
        assert_eq!(
            (empty.after(), empty.last_known()),
            (StoredId::default(), Some(ENTRY))
        );
        assert_eq!(empty.empty_since_ms(), Some(5));
        let moved = empty.moved_to(ENTRY.id);
        assert_eq!(
            (moved.last_known(), moved.empty_since_ms()),
            (Some(ENTRY), None)
        );
    }
}
