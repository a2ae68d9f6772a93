//! Bounds the memory of the send queues themselves. Short messages to clients that do not read may take hundreds of
//! megabytes a second in the queues, 16 bytes for each message and client, while the frames, which the queues share,
//! take next to nothing. Whose end frees which frames, a walk over all frames of all queues finds out
//! ([`super::memory`]), which is too slow for that. The memory of a queue itself belongs to one client, so a look at each
//! client is enough.
//!
//! While frames and queues are over their limit, the queues of clients that do not read may take half of it. Over that,
//! the clients with the longest queues get no more frames at once, and are dropped as soon as there is time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use slab::Slab;

use super::core::Core;
use super::session::Session;
use super::turn::Turn;
use super::{CloseReason, SessionKey};

/// The most clients that one walk chooses. If that is not enough, another walk follows.
const CHOSEN_MAX: usize = 4_096;

/// A walk has this part of [`Limits::work_us`](super::Limits::work_us) in each flush, of which a turn has several.
const WALK_PART: u64 = 4;

/// The next walk begins when this part of the limit has been taken since the last one.
const GROWTH_PART: u64 = 8;

/// The state between two flushes.
#[derive(Debug, Default)]
pub(super) struct QueueRooms {
    walk: Option<RoomWalk>,
    /// The next walk begins when frames and queues take so many bytes.
    next_bytes: u64,
}

/// One walk over all clients.
#[derive(Debug, Default)]
struct RoomWalk {
    next_slot: usize,
    /// Memory of the queues of clients that do not read, and still get frames.
    bytes: u64,
    /// The longest of these queues; the shortest comes out first.
    longest: BinaryHeap<Reverse<(u64, SessionKey)>>,
}

impl RoomWalk {
    /// Looks at further clients while there is time; returns true if none is left.
    fn go_on(&mut self, sessions: &Slab<Session>, turn: &mut Turn) -> bool {
        while self.next_slot < sessions.capacity() {
            let session = sessions.get(self.next_slot);
            let session = session.filter(|session| session.is_blocked() && session.gets_frames());
            if let Some(session) = session {
                let key = session.key(self.next_slot);
                self.add(session.queue_room_bytes() as u64, key);
            }
            self.next_slot += 1;
            if self.next_slot.is_multiple_of(64) && !turn.has_time() {
                return false;
            }
        }
        true
    }

    fn add(&mut self, bytes: u64, key: SessionKey) {
        if bytes == 0 {
            return;
        }
        self.bytes += bytes;
        self.longest.push(Reverse((bytes, key)));
        if self.longest.len() > CHOSEN_MAX {
            self.longest.pop();
        }
    }
}

impl Core {
    /// Whether a look at the queues is under way or due.
    pub(super) fn has_to_look_at_rooms(&self) -> bool {
        let alive = self.frame_bytes().alive();
        let is_due = self.rooms.walk.is_some() || alive >= self.rooms.next_bytes;
        alive > self.limits.frame_bytes_max && is_due && self.stats().messages_waiting > 0
    }

    /// Looks at the queues of some clients while frames and queues are over their limit. At the end of a walk, the clients
    /// with the longest queues get no more frames. Called after a flush.
    pub(super) fn keep_queue_rooms(&mut self) {
        let (alive, limit) = (self.frame_bytes().alive(), self.limits.frame_bytes_max);
        if alive <= limit {
            self.rooms = QueueRooms::default();
            return;
        }
        if !self.has_to_look_at_rooms() {
            // Since the last walk, clients may have been dropped.
            self.rooms.next_bytes = self.rooms.next_bytes.min(alive + limit / GROWTH_PART);
            return;
        }
        let mut walk = self.rooms.walk.take().unwrap_or_default();
        self.turn.begin(self.limits.work_us / WALK_PART);
        if !walk.go_on(&self.clients.sessions, &mut self.turn) {
            self.rooms.walk = Some(walk);
            return;
        }
        let is_enough = self.end_longest(walk, limit / 2);
        self.rooms.next_bytes = match is_enough {
            true => alive + limit / GROWTH_PART,
            false => 0,
        };
    }

    /// Lets the clients with the longest queues get no more frames, until the queues of all others take `bytes_max`. Returns
    /// false if more clients are to be chosen.
    fn end_longest(&mut self, walk: RoomWalk, bytes_max: u64) -> bool {
        let mut bytes = walk.bytes;
        for Reverse((of_client, key)) in walk.longest.into_sorted_vec() {
            if bytes <= bytes_max {
                return true;
            }
            bytes -= of_client;
            self.clients.exceed(key, CloseReason::FrameMemory);
        }
        bytes <= bytes_max
    }
}
