//! The messages of all topics in the order of their publication: each is added as the newest, and
//! removed from any place, in the same few steps.

use std::sync::Arc;

use slab::Slab;

use crate::hub::Frame;

/// Bytes that a message costs beside its own: the frame, its place here and in its topic.
const BESIDE_BYTES: usize = 256;

/// Entries for which room stays when no message is kept.
const ROOM_KEPT: usize = 1_024;

/// No entry.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) frame: Arc<Frame>,
    /// Index of its topic. The topic may have forgotten the message since.
    pub(super) topic: u32,
    pub(super) at_us: u64,
    /// Counts the messages of all topics.
    pub(super) number: u64,
    older: u32,
    newer: u32,
}

/// A list through a slab.
#[derive(Debug)]
pub(super) struct Kept {
    entries: Slab<Entry>,
    oldest: u32,
    newest: u32,
    bytes: usize,
    number: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            entries: Slab::new(),
            oldest: NONE,
            newest: NONE,
            bytes: 0,
            number: 0,
        }
    }
}

/// Bytes that a frame counts for.
pub(super) fn bytes_of(frame: &Frame) -> usize {
    frame.queue_bytes() + BESIDE_BYTES
}

impl Kept {
    /// Adds the newest message. Returns the key that removes it.
    pub(super) fn push(&mut self, frame: Arc<Frame>, topic: u32, at_us: u64) -> u32 {
        self.bytes += bytes_of(&frame);
        self.number += 1;
        let older = self.newest;
        let key = self.entries.insert(Entry {
            frame,
            topic,
            at_us,
            number: self.number,
            older,
            newer: NONE,
        }) as u32;
        match self.entries.get_mut(older as usize) {
            Some(before) => before.newer = key,
            None => self.oldest = key,
        }
        self.newest = key;
        key
    }

    /// Removes a message that is there.
    pub(super) fn remove(&mut self, key: u32) {
        let Some(entry) = self.entries.try_remove(key as usize) else {
            debug_assert!(false, "removed twice");
            return;
        };
        self.bytes -= bytes_of(&entry.frame);
        match self.entries.get_mut(entry.older as usize) {
            Some(older) => older.newer = entry.newer,
            None => self.oldest = entry.newer,
        }
        match self.entries.get_mut(entry.newer as usize) {
            Some(newer) => newer.older = entry.older,
            None => self.newest = entry.older,
        }
        if self.entries.is_empty() && self.entries.capacity() > ROOM_KEPT {
            self.entries = Slab::new();
        }
    }

    pub(super) fn get(&self, key: u32) -> Option<&Entry> {
        self.entries.get(key as usize)
    }

    /// The oldest message and its key.
    pub(super) fn oldest(&self) -> Option<(u32, &Entry)> {
        Some((self.oldest, self.get(self.oldest)?))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
