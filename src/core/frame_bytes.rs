//! The memory of frames and messages, of all together and of those that somebody keeps. The limits on the memory of the
//! hub, of the history and of compression windows look at these sums; frames are shared by all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Sums of memory: of all frames that exist together with the memory of long queues, of the messages and frames that the
/// history keeps, of the copies that it keeps of its messages, and of the frames that windows keep. A frame counts once,
/// however many queues share it. An encoding counts from when it is made.
#[derive(Clone, Debug, Default)]
pub struct FrameBytes(Arc<[AtomicU64; 1 + Keeper::ALL.len()]>);

/// Who keeps a frame, in the order of the sums after the first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keeper {
    History,
    Copies,
    Windows,
}

impl Keeper {
    const ALL: [Self; 3] = [Self::History, Self::Copies, Self::Windows];
}

impl FrameBytes {
    /// Bytes of all frames that exist now, and of long queues.
    pub fn alive(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Bytes of the frames that a keeper has.
    pub(super) fn kept(&self, by: Keeper) -> u64 {
        self.0[1 + by as usize].load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0[0].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.0[0].fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// Counts the memory of one frame or message in [`FrameBytes`].
#[derive(Debug)]
pub(super) struct Account {
    frames: FrameBytes,
    /// In the order of [`Keeper`].
    is_kept: [AtomicBool; Keeper::ALL.len()],
}

impl Account {
    pub(super) fn new(frames: FrameBytes, bytes: usize) -> Self {
        frames.add(bytes);
        Self {
            frames,
            is_kept: [const { AtomicBool::new(false) }; Keeper::ALL.len()],
        }
    }

    /// Counts more bytes of the same frame or message.
    pub(super) fn add(&self, bytes: usize) {
        self.frames.add(bytes);
        for (is_kept, kept) in self.is_kept.iter().zip(&self.frames.0[1..]) {
            if is_kept.load(Ordering::Relaxed) {
                kept.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        }
    }

    /// Notes that the keeper has the frame or message of `bytes`, which count among the bytes of the keeper from now on.
    pub(super) fn keep(&self, by: Keeper, bytes: usize) {
        if !self.is_kept[by as usize].swap(true, Ordering::Relaxed) {
            self.frames.0[1 + by as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Notes that the keeper no longer has the frame or message of `bytes`.
    pub(super) fn release(&self, by: Keeper, bytes: usize) {
        let is_kept = &self.is_kept[by as usize];
        // The load is cheaper than the swap: most frames are kept by nobody.
        if is_kept.load(Ordering::Relaxed) && is_kept.swap(false, Ordering::Relaxed) {
            self.frames.0[1 + by as usize].fetch_sub(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Counts all `bytes` no more.
    pub(super) fn close(&self, bytes: usize) {
        for keeper in Keeper::ALL {
            self.release(keeper, bytes);
        }
        self.frames.give_back(bytes);
    }

    /// The sums of all frames.
    pub(super) fn frames(&self) -> &FrameBytes {
        &self.frames
    }
}

/// Counts the memory of a long queue of frames in [`FrameBytes`] until it is dropped.
#[derive(Debug)]
pub(super) struct QueueRoom {
    frames: FrameBytes,
    bytes: usize,
}

impl QueueRoom {
    /// Counts no bytes yet.
    pub(super) fn new(frames: &FrameBytes) -> Self {
        Self {
            frames: frames.clone(),
            bytes: 0,
        }
    }

    /// Counts `bytes` in place of the bytes counted before.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        self.frames.add(bytes);
        self.frames
            .give_back(std::mem::replace(&mut self.bytes, bytes));
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for QueueRoom {
    fn drop(&mut self) {
        self.frames.give_back(self.bytes);
    }
}
