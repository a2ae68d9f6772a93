//! Bounds the memory of the send queues themselves. Short messages to clients that do not read may take hundreds of
//! megabytes a second in the queues, 16 bytes for each message and client, while the frames, which the queues share,
//! take next to nothing. A walk over all frames of all queues finds out which frames the end of a client frees
//! ([`super::memory`]), but it is too slow for this. The memory of a queue itself belongs to one client, so a look at
//! each client is enough.
//!
//! While frames and queues are over their limit, the queues of clients that do not read may take half of it. Over that,
//! the clients with the longest queues get no more frames at once, and are dropped as soon as there is time. The
//! throttles of clients that read may take a quarter. Over that, the fullest throttles open early.

use std::cmp::Reverse;

use slab::Slab;

use super::core::Core;
use super::largest::Largest;
use super::memory::WALK_PART;
use super::session::Session;
use super::turn::Turn;
use super::{CloseReason, SessionKey};

/// The most clients that one walk chooses. If that is not enough, another walk follows.
const CHOSEN_MAX: usize = 4_096;

/// The state between two flushes.
#[derive(Debug, Default)]
pub(super) struct QueueRooms {
    walk: Option<RoomWalk>,
    /// The next walk begins when frames and queues take so many bytes.
    next_bytes: u64,
}

/// One walk over all clients that still get frames.
#[derive(Debug, Default)]
struct RoomWalk {
    next_slot: usize,
    /// The queues and throttles of clients that do not read.
    queues: Rooms,
    /// The throttles of clients that read.
    throttles: Rooms,
}

/// The memory of some clients' queues.
#[derive(Debug, Default)]
struct Rooms {
    bytes: u64,
    longest: Largest<CHOSEN_MAX>,
}

impl RoomWalk {
    /// Looks at further clients while there is time; returns true if none is left.
    fn advance(&mut self, sessions: &Slab<Session>, turn: &mut Turn) -> bool {
        while self.next_slot < sessions.capacity() {
            let session = sessions.get(self.next_slot);
            if let Some(session) = session.filter(|session| session.gets_frames()) {
                let key = session.key(self.next_slot);
                match session.is_blocked() {
                    true => self.queues.add(session.queue_room_bytes(), key),
                    false => self.throttles.add(session.throttle_room_bytes(), key),
                }
            }
            self.next_slot += 1;
            // A look at a client is short, so the clock is not read after each.
            if self.next_slot.is_multiple_of(64) && !turn.has_time() {
                return false;
            }
        }
        true
    }
}

impl Rooms {
    fn add(&mut self, bytes: usize, key: SessionKey) {
        let bytes = bytes as u64;
        self.bytes += bytes;
        self.longest.add(bytes, key);
    }

    /// The clients with the longest queues, as many as have to go so that the others take at most `bytes_max`. Also
    /// returns whether they are enough for that: the walk keeps only the longest.
    fn over(self, bytes_max: u64) -> (Vec<SessionKey>, bool) {
        let mut left = self.bytes;
        let mut over = Vec::new();
        for Reverse((bytes, key)) in self.longest.into_sorted() {
            if left <= bytes_max {
                break;
            }
            left -= bytes;
            over.push(key);
        }
        (over, left <= bytes_max)
    }
}

impl Core {
    /// Whether a look at the queues is under way or due, while frames and queues are over their limit.
    pub(super) fn is_room_walk_due(&self) -> bool {
        self.rooms.walk.is_some() || self.frame_bytes().alive() >= self.rooms.next_bytes
    }

    /// Looks at the queues of some clients while frames and queues are over their limit. At the end of a walk, the clients
    /// with the longest queues get no more frames, and the fullest throttles are to open. Called after a flush.
    pub(super) fn keep_queue_rooms(&mut self) {
        if !self.is_over_frame_limit() {
            self.rooms = QueueRooms::default();
            return;
        }
        let (next_bytes, limit) = (self.next_walk_bytes(), self.limits.frame_bytes_max);
        if !self.is_room_walk_due() {
            // Since the last walk, clients may have been dropped.
            self.rooms.next_bytes = self.rooms.next_bytes.min(next_bytes);
            return;
        }
        let mut walk = self.rooms.walk.take().unwrap_or_default();
        self.turn.begin(self.limits.work_us / WALK_PART);
        if !walk.advance(&self.clients.sessions, &mut self.turn) {
            self.rooms.walk = Some(walk);
            return;
        }
        let (longest, are_enough) = walk.queues.over(limit / 2);
        for key in longest {
            self.clients.exceed(key, CloseReason::FrameMemory);
        }
        let (fullest, open_enough) = walk.throttles.over(limit / 4);
        for key in fullest {
            self.clients.open_early(key);
        }
        self.rooms.next_bytes = match are_enough && open_enough {
            true => next_bytes,
            // Another walk follows at once.
            false => 0,
        };
    }
}
