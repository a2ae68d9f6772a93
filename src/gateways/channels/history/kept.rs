//! The messages of all topics in the order of publication. Adding the newest and removing any message take
//! constant time.

use std::sync::Arc;

use slab::Slab;

use crate::hub::Frame;

/// The cost of a message beside its own bytes: the frame, the entry here and the key in the topic.
const BESIDE_BYTES: usize = 256;

/// Entries whose memory stays allocated when no message is kept.
const ROOM_KEPT: usize = 1_024;

/// No entry.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) frame: Arc<Frame>,
    /// Index of the topic. The topic may have forgotten the message since.
    pub(super) topic: u32,
    pub(super) at_us: u64,
    /// The number among the messages of all topics.
    pub(super) number: u64,
    older: u32,
    newer: u32,
}

/// A linked list in a slab.
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

/// The bytes of a frame under the limit.
pub(super) fn bytes_of(frame: &Frame) -> usize {
    frame.queue_bytes() + BESIDE_BYTES
}

impl Kept {
    /// Adds the newest message. Returns the key for `remove`.
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

    /// Removes a message.
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
