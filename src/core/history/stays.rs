//! The newest messages of topics of which the list has no message any more, because it had to become shorter. They have a
//! part of the memory of the history; a message over that is forgotten.

use std::collections::{BTreeMap, HashMap};

use foldhash::quality::RandomState;

use super::{ENTRY_BYTES, Entry};

/// The messages have one `SHARE`th of the bytes of the history.
const SHARE: usize = 4;

/// The messages, and the indices of their topics.
#[derive(Debug)]
pub(super) struct Stays {
    /// By their numbers, with the index of the topic.
    entries: BTreeMap<u64, (u32, Entry)>,
    by_name: HashMap<u32, u64, RandomState>,
    bytes: usize,
    bytes_max: usize,
}

impl Stays {
    /// No message; `bytes_max` is the limit of the history.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_name: HashMap::default(),
            bytes: 0,
            bytes_max: bytes_max / SHARE,
        }
    }

    /// Whether the message has room.
    pub(super) fn has_room(&self, entry: &Entry) -> bool {
        self.bytes + bytes_of(entry) <= self.bytes_max
    }

    /// Adds the newest message of a topic.
    pub(super) fn add(&mut self, name: u32, entry: Entry) {
        self.bytes += bytes_of(&entry);
        self.by_name.insert(name, entry.number);
        self.entries.insert(entry.number, (name, entry));
    }

    pub(super) fn remove(&mut self, name: u32) -> Option<Entry> {
        let number = self.by_name.remove(&name)?;
        let (_, entry) = self.entries.remove(&number)?;
        self.bytes -= bytes_of(&entry);
        Some(entry)
    }

    pub(super) fn get_mut(&mut self, name: u32) -> Option<&mut Entry> {
        let number = self.by_name.get(&name)?;
        self.entries.get_mut(number).map(|(_, entry)| entry)
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.entries
            .values()
            .rev()
            .map(|(name, entry)| (*name, entry))
    }

    pub(super) fn oldest(&self) -> Option<&Entry> {
        self.entries.values().next().map(|(_, entry)| entry)
    }

    pub(super) fn oldest_name(&self) -> Option<u32> {
        self.entries.values().next().map(|(name, _)| *name)
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// The oldest message with copies.
    pub(super) fn with_copies(&mut self) -> Option<&mut Entry> {
        let mut entries = self.entries.values_mut().map(|(_, entry)| entry);
        entries.find(|entry| !entry.copies.is_empty())
    }
}

/// Memory of the message, without copies.
fn bytes_of(entry: &Entry) -> usize {
    ENTRY_BYTES + entry.frame.as_ref().map_or(0, |frame| frame.queue_bytes())
}
