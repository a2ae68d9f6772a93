//! Chooses the clients to drop when frames that wait for clients that do not read take too much memory.
//!
//! Many queues share a frame, so the end of a client frees only the frames that nothing else holds. The memory of a
//! long queue itself counts like frames. Holders are not counted at each delivery, but by a walk over the queues,
//! which begins only while the living frames are over their limit. A frame's own reference count shows whether the
//! queues of blocked clients hold all references. Frames that another thread, the feed or a topic holds are freed
//! by no drop, and have limits of their own: they may cause a walk, but no drop.
//!
//! A walk continues from flush to flush, also within a long queue, and has a short time in each. A queue that changed
//! meanwhile may be counted a little wrong; the choice counts again. A call makes an exact choice among the clients
//! with the largest shares (the bytes of each frame divided by the frame's references): clients are chosen until
//! dropping them frees enough, or for as long as there is time. Then each chosen client that need not be dropped is taken
//! off the list. If that did not free enough, the next flush goes on with the other clients of the same walk: a walk
//! passes over all queues, which takes far longer than a choice.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::clients::Clients;
use super::core::Core;
use super::frame::Counted;
use super::frame_bytes::Keeper;
use super::largest::Largest;
use super::message::Message;
use super::session::Session;
use super::turn::Turn;
use super::{CloseReason, Frame, Now, SessionKey, SocketEnd};

/// The most clients in a choice. Frames shared by more clients are freed by several choices.
const CANDIDATES_MAX: usize = 1_024;

/// So many frames are examined without reading the clock.
const FRAMES_AT_ONCE: usize = 64;

/// A walk has this part of [`Limits::work_us`](super::Limits::work_us) in each flush, of which a turn has several.
pub(super) const WALK_PART: u64 = 4;

/// The *rest*: the time from a walk that freed enough, or found nothing to free, to the next walk; shorter if clients
/// waited for the loop during the walk. Also the longest time for which a walk waits until a flush has reached every
/// client.
const REST_US: u64 = 250_000;

/// A client for which the kernel has taken nothing for so long is dropped although the kernel may take more: its frames wait
/// for the loop alone, such as for their encodings, and the loop cannot keep up.
const WAITED_US: u64 = 1_000_000;

/// While frames beside those of the history take more than half of their limit, clients begin to get older messages one
/// after the other: the next one as soon as the one before has everything, or after so long.
const BEGINS_US: u64 = 100_000;

/// Once the frames have grown by this part of their limit since a walk, the next walk begins.
const GROWTH_PART: u64 = 8;

/// The state between two flushes.
#[derive(Debug, Default)]
pub(super) struct FrameMemory {
    walk: Option<QueueWalk>,
    /// What the last walk has found, while too little of it was freed.
    found: Option<Found>,
    /// The number of the last walk or choice. Each frame has the number of its last count.
    number: u32,
    walks: u64,
    /// The time at which the memory of all frames exceeded the limit, microseconds of the monotonic clock.
    over_since: Option<u64>,
    /// No walk begins before this time, microseconds of the monotonic clock, unless the rest ends early.
    rest_until: u64,
    /// Whether clients waited for the loop during the last walk. They may have shared the frames of those that do not read,
    /// which no drop would have freed, so the rest ends once the loop has reached every client.
    was_amid_flush: bool,
    /// At so much memory of all frames a rest ends early.
    next_bytes: u64,
    /// The client that began last to get older messages, and when, microseconds of the monotonic clock.
    began: Option<(SessionKey, u64)>,
}

/// One walk over all queues.
#[derive(Debug, Default)]
struct QueueWalk {
    number: u32,
    /// As of [`FrameMemory`].
    was_amid_flush: bool,
    next_slot: usize,
    /// The frames of this slot that were examined, and the client's share so far.
    examined: usize,
    share: u64,
    /// Memory of the frames that only clients hold that may be dropped.
    held_bytes: u64,
    /// The clients with the largest shares.
    candidates: Largest<CANDIDATES_MAX>,
}

impl QueueWalk {
    /// Looks at further queues while there is time; returns true if no queue is left.
    fn advance(&mut self, now: Now, sessions: &Slab<Session>, turn: &mut Turn) -> bool {
        while self.next_slot < sessions.capacity() {
            let session = sessions.get(self.next_slot);
            let session = session.filter(|s| s.holds_up_frames(now, WAITED_US));
            if let Some(session) = session {
                if !self.visit_session(session, turn) {
                    return false;
                }
                self.candidates.add(self.share, session.key(self.next_slot));
            }
            self.next_slot += 1;
            (self.examined, self.share) = (0, 0);
            if session.is_some() && !turn.has_time() {
                return false;
            }
        }
        true
    }

    /// Returns true if no frame of the queue is left.
    fn visit_session(&mut self, session: &Session, turn: &mut Turn) -> bool {
        if self.examined == 0 {
            self.share = session.queue_room_bytes() as u64;
            self.held_bytes += self.share;
        }
        for frame in session.frames().skip(self.examined) {
            let message = frame.shared().map_or(0, |shared| {
                let message = shared.message();
                message.memory_bytes() / Arc::strong_count(message)
            });
            let bytes = frame.memory_bytes() + message;
            self.share += (bytes / Arc::strong_count(frame)) as u64;
            self.held_bytes += count(frame, self.number);
            self.examined += 1;
            if self.examined.is_multiple_of(FRAMES_AT_ONCE) && !turn.has_time() {
                return false;
            }
        }
        true
    }
}

/// What a walk has found.
#[derive(Debug)]
struct Found {
    /// The clients that are not dropped yet, those with the largest shares first.
    candidates: VecDeque<SessionKey>,
    /// The memory that is still to be freed.
    excess: u64,
}

/// Counts a queue entry with the frame. Returns the memory of the frame, if the queues that were counted hold all
/// references to it by now; with that of its message, if they also hold all frames that share it.
fn count(frame: &Arc<Frame>, number: u32) -> u64 {
    held_bytes(frame, |counted| counted.add(number))
}

/// Takes an entry back. Returns the memory that [`count`] has returned for the frame.
fn count_back(frame: &Arc<Frame>, number: u32) -> u64 {
    held_bytes(frame, |counted| counted.take_back(number))
}

/// The memory of the frame if `step` gives the number of all references to it, with that of its message if that holds for
/// the message too.
fn held_bytes(frame: &Arc<Frame>, step: impl Fn(&Counted) -> u32) -> u64 {
    if step(frame.counted()) as usize != Arc::strong_count(frame) {
        return 0;
    }
    let message = frame.shared().map(|shared| shared.message());
    let is_held =
        |message: &&Arc<Message>| step(message.counted()) as usize == Arc::strong_count(message);
    let of_message = message
        .filter(is_held)
        .map_or(0, |message| message.memory_bytes());
    (frame.memory_bytes() + of_message) as u64
}

/// The clients to be dropped, and the memory freed by these drops.
struct Choice<'a> {
    clients: &'a Clients,
    now: Now,
    number: u32,
    freed_bytes: u64,
}

impl Choice<'_> {
    fn candidate(&self, key: SessionKey) -> Option<&Session> {
        let session = self.clients.session(key);
        session.filter(|s| s.holds_up_frames(self.now, WAITED_US))
    }

    fn frames(&self, key: SessionKey) -> impl Iterator<Item = &Arc<Frame>> {
        self.candidate(key).into_iter().flat_map(Session::frames)
    }

    /// Memory of the client's queue itself.
    fn room_bytes(&self, key: SessionKey) -> u64 {
        let room = self.candidate(key).map(Session::queue_room_bytes);
        room.unwrap_or_default() as u64
    }

    /// Adds the memory that the end of this client frees: its queue, and the frames that only clients chosen so far
    /// hold.
    fn take(&mut self, key: SessionKey) {
        let mut bytes = self.room_bytes(key);
        for frame in self.frames(key) {
            bytes += count(frame, self.number);
        }
        self.freed_bytes += bytes;
    }

    /// Takes back a client that need not be dropped: the frames that it holds are not freed.
    fn give_back(&mut self, key: SessionKey) {
        let mut bytes = self.room_bytes(key);
        for frame in self.frames(key) {
            bytes += count_back(frame, self.number);
        }
        self.freed_bytes -= bytes;
    }

    /// Takes the candidates to drop, without any that is not needed: their end frees the excess, or as much as the
    /// candidates that there is time for can free.
    fn make(&mut self, found: &mut Found, turn: &mut Turn) -> Vec<SessionKey> {
        let mut chosen = Vec::new();
        while let Some(key) = found.candidates.pop_front() {
            if self.candidate(key).is_none() {
                continue;
            }
            self.take(key);
            chosen.push(key);
            if self.freed_bytes >= found.excess || !turn.has_time() {
                break;
            }
        }
        if self.freed_bytes == 0 {
            // The excess is shared by more clients than fit in a choice, and is freed when the last of these clients
            // ends.
            return chosen;
        }
        let enough = found.excess.min(self.freed_bytes);
        let others_follow = !found.candidates.is_empty();
        chosen.reverse();
        chosen.retain(|key| {
            self.give_back(*key);
            let needed = self.freed_bytes < enough;
            if needed {
                self.take(*key);
            } else if others_follow {
                // The end of it and of one of the others together may free something.
                found.candidates.push_back(*key);
            }
            needed
        });
        chosen
    }
}

impl Core {
    /// The number of walks over all queues so far, made because frames were over their limit.
    pub fn frame_walks(&self) -> u64 {
        self.memory.walks
    }

    /// Whether a flush is needed, because a walk over the queues is under way or due.
    #[inline]
    pub(super) fn has_to_walk(&self) -> bool {
        let is_due = || self.is_room_walk_due() || self.is_walk_due();
        self.memory.is_under_way() || self.is_over_frame_limit() && is_due()
    }

    /// Memory of the client's send queue itself that counts among the bytes of frames.
    pub fn queue_room_bytes(&self, key: SessionKey) -> usize {
        let session = self.clients.session(key);
        session.map_or(0, Session::queue_room_bytes)
    }

    /// The time of the next walk, while a walk is wanted.
    #[inline]
    pub(super) fn walk_deadline(&self) -> Option<u64> {
        let waits = !self.memory.is_under_way() && self.is_over_frame_limit();
        waits.then_some(self.memory.rest_until)
    }

    /// Whether the frames are over their limit and grow faster than walks are made: the bus waits for the next walk, and
    /// for the end of the clients that it finds.
    #[inline]
    pub(super) fn outgrows_walks(&self) -> bool {
        let next_bytes = self.memory.next_bytes.max(self.limits.frame_bytes_max);
        self.frame_bytes().alive() > next_bytes && self.is_over_frame_limit()
    }

    /// The memory of all frames at which the next walk is due if one ends now.
    pub(super) fn next_walk_bytes(&self) -> u64 {
        self.frame_bytes().alive() + self.limits.frame_bytes_max / GROWTH_PART
    }

    /// Whether frames that wait for clients, and the queues, take too much memory.
    #[inline]
    pub(super) fn is_over_frame_limit(&self) -> bool {
        let over = self.frame_bytes().alive() > self.limits.frame_bytes_max;
        over && self.has_frames_of_clients()
    }

    /// Whether frames wait for clients, in queues or until missed messages are found. Asked only while memory is short: apart, the
    /// checks of each turn stay small enough to be inlined.
    #[cold]
    #[inline(never)]
    fn has_frames_of_clients(&self) -> bool {
        self.stats().messages_waiting > 0 || self.resumed_messages.held() > 0
    }

    /// Whether a client may begin to get older messages. It may not while some of them may be lost (`core/doubts.rs`), nor
    /// while memory is short: the frames take memory until the client has them. So clients that come back together are
    /// served one after the other, instead of dropped for their frames.
    pub fn may_begin_resume(&mut self, key: SessionKey) -> bool {
        if self.history.is_none() {
            return true;
        }
        let may_begin = !self.waits_for_word(key) && self.has_resume_room();
        if may_begin {
            self.memory.began = Some((key, self.now.mono_us));
        }
        may_begin
    }

    /// Whether the next client may begin to get older messages. Over the limit it may only if a walk has found nothing to
    /// free, because waiting for that would have no end; and only after the time in which the client before it is done, or
    /// may be dropped.
    #[cold]
    #[inline(never)]
    pub(super) fn has_resume_room(&self) -> bool {
        let (bytes, limit) = (
            self.frame_bytes_beside_history(),
            self.limits.frame_bytes_max,
        );
        let Some((before, at)) = self.memory.began else {
            return true;
        };
        if bytes <= limit / 2 || !self.has_frames_of_clients() {
            return true;
        }
        let now_us = self.now.mono_us;
        if bytes > limit {
            let rests = now_us < self.memory.rest_until && !self.outgrows_walks();
            return rests && now_us >= at + WAITED_US;
        }
        let session = self.clients.session(before);
        let is_done = session.is_none_or(|s| !s.has_rest() && s.replayed_bytes() == 0);
        is_done || now_us >= at + BEGINS_US
    }

    /// Memory of all frames but those that the history keeps, which has a limit of its own.
    fn frame_bytes_beside_history(&self) -> u64 {
        let frames = &self.frame_bytes;
        let kept = frames.kept(Keeper::History) + frames.kept(Keeper::Copies);
        frames.alive().saturating_sub(kept)
    }

    /// When it is to be looked again whether the next client may begin to get older messages, while clients wait for that.
    pub(super) fn resume_room_deadline(&self) -> Option<u64> {
        let waits = !self.no_frame_room.is_empty();
        waits.then(|| self.now.mono_us + BEGINS_US)
    }

    /// Whether a walk over the queues is due. A client that was not written to yet is not a slow client, so the walk
    /// waits for the end of the flush; if a flush never ends, only for a limited time.
    fn is_walk_due(&self) -> bool {
        let (memory, now) = (&self.memory, self.now.mono_us);
        let rests = || now < memory.rest_until && (!memory.was_amid_flush || self.has_unreached());
        if !self.is_over_frame_limit() || rests() && !self.outgrows_walks() {
            return false;
        }
        let waited_long = || memory.over_since.is_some_and(|at| now >= at + REST_US);
        !self.has_unflushed() || waited_long()
    }

    /// Whether some clients wait for the loop, and not for their kernels.
    fn has_unreached(&self) -> bool {
        self.has_unflushed() || !self.clients.gather.waiting.is_empty()
    }

    /// Looks at a part of the queues while frames are over their limit, and drops clients after the end of the walk.
    /// Called after a flush.
    pub(super) fn keep_frame_memory(&mut self) {
        // Since the last walk, clients may have been dropped.
        self.memory.next_bytes = self.memory.next_bytes.min(self.next_walk_bytes());
        if !self.is_over_frame_limit() {
            (self.memory.walk, self.memory.found) = (None, None);
            self.memory.over_since = None;
            return;
        }
        // The windows keep frames, which would count as frames that no drop frees. Later frames can do without them.
        self.compressor.release_windows();
        self.memory.over_since.get_or_insert(self.now.mono_us);
        if let Some(found) = self.memory.found.take() {
            return self.drop_found(found);
        }
        let mut walk = match self.memory.walk.take() {
            Some(walk) => walk,
            None if self.is_walk_due() => QueueWalk {
                number: self.memory.next_number(),
                ..QueueWalk::default()
            },
            None => return,
        };
        walk.was_amid_flush |= self.has_unreached();
        self.turn.begin(self.limits.work_us / WALK_PART);
        match walk.advance(self.now, &self.clients.sessions, &mut self.turn) {
            true => self.end_walk(walk),
            false => self.memory.walk = Some(walk),
        }
    }

    /// Ends a walk over all queues: drops the clients with the largest shares if the frames take more memory than the
    /// limit.
    fn end_walk(&mut self, walk: QueueWalk) {
        self.memory.walks += 1;
        self.memory.was_amid_flush = walk.was_amid_flush;
        let candidates = walk.candidates.into_sorted().into_iter();
        self.drop_found(Found {
            candidates: candidates.map(|Reverse((_, key))| key).collect(),
            excess: walk.held_bytes.saturating_sub(self.limits.frame_bytes_max),
        });
    }

    /// Drops the next clients that a walk has found, for as long as there is time. If they free too little, the next flush
    /// goes on with the others; without others, a new walk begins.
    fn drop_found(&mut self, mut found: Found) {
        let alive = self.frame_bytes().alive();
        let has_candidates = !found.candidates.is_empty();
        // Others may have ended since the walk.
        let excess_now = alive.saturating_sub(self.limits.frame_bytes_max);
        found.excess = found.excess.min(excess_now);
        if found.excess > 0 && has_candidates {
            let mut choice = Choice {
                number: self.memory.next_number(),
                clients: &self.clients,
                now: self.now,
                freed_bytes: 0,
            };
            self.turn.begin(self.limits.work_us);
            let chosen = choice.make(&mut found, &mut self.turn);
            found.excess = found.excess.saturating_sub(choice.freed_bytes);
            for key in chosen {
                self.end(key, CloseReason::FrameMemory, SocketEnd::Reset);
            }
        }
        if found.excess == 0 || !has_candidates {
            self.memory.rest_until = self.now.mono_us + REST_US;
            self.memory.next_bytes = self.next_walk_bytes();
        } else if !found.candidates.is_empty() {
            self.memory.found = Some(found);
        }
    }
}

impl FrameMemory {
    /// Whether a walk, or the drop of what it has found, goes on with the next flush.
    fn is_under_way(&self) -> bool {
        self.walk.is_some() || self.found.is_some()
    }

    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }
}
