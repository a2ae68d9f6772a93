//! The table of sessions, and the delivery of a frame to a session.

use std::sync::Arc;

use slab::Slab;

use super::flush::LISTS;
use super::gather::Gather;
use super::resume::REPLAYED_BYTES_MAX;
use super::send_queue::Pushed;
use super::session::{Delivered, NextPostponed, Pause, Session};
use super::tables::{SlabRoom, SlotSet};
use super::{CloseReason, Frame, HubStats, Limits, Now, PhaseKind, SessionKey, SlowReason};
use weirgate_wire::base::ChunkedQueue;

/// If too many messages are postponed for a client that resumes (`resume.rs`), so many of them go out with each further
/// one.
const SENT_WITH_EACH: usize = 16;

/// Sessions by slot, the sessions to be flushed, and the sessions to be dropped.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) sessions: Slab<Session>,
    room: SlabRoom,
    /// Sessions with something to send for which the kernel may have room, by the lists of a flush.
    pub(super) dirty: [SlotSet; LISTS],
    /// Sessions whose messages wait a little, to go out in one write with the next ones.
    pub(super) gather: Gather,
    /// Sessions over a limit. A publish never closes a session: the loop drops these sessions
    /// afterwards.
    pub(super) over: Vec<(SessionKey, CloseReason)>,
    /// Sessions with a long queue from which replaced states are still to be removed. Until then their states may
    /// exceed the hard limit of the queue, so the session that has waited longest is next.
    pub(super) crowded: ChunkedQueue<SessionKey>,
    /// Sessions that need an earlier deadline after a delivery: the queue is over the soft limit, or its throttle
    /// holds a frame.
    pub(super) to_arm: Vec<SessionKey>,
    /// Clients whose throttles are to open early (`session/throttle.rs`).
    pub(super) full_throttles: ChunkedQueue<SessionKey>,
    /// Sessions that still have to get the newest message, without its position ([`Delivered::Ahead`]).
    pub(super) ahead: Vec<SessionKey>,
    /// Whether a state was replaced that had waited only for the loop, because its client keeps up.
    pub(super) replaced_unsent: bool,
    /// The number of the newest message of the kept feed.
    pub(super) newest_of_feed: u64,
    pub(super) stats: HubStats,
}

impl Clients {
    /// A table without sessions. A message waits for others for at most `gather_us` microseconds.
    pub(super) fn new(gather_us: u64) -> Self {
        Self {
            gather: Gather::new(gather_us),
            ..Self::default()
        }
    }

    pub(super) fn insert(&mut self, session: Session) -> u32 {
        let slot = self.sessions.insert(session) as u32;
        self.room.added(&self.sessions);
        slot
    }

    /// Removes a session whose socket has ended; the slot is free again.
    pub(super) fn remove(&mut self, slot: u32) {
        self.sessions.remove(slot as usize);
        self.room.removed(&mut self.sessions);
    }

    pub(super) fn session(&self, key: SessionKey) -> Option<&Session> {
        let session = self.sessions.get(key.slot as usize)?;
        (session.generation() == key.generation).then_some(session)
    }

    pub(super) fn session_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        session_of(&mut self.sessions, key)
    }

    /// Puts a frame in one send queue.
    pub(super) fn deliver(
        &mut self,
        now: Now,
        limits: &Limits,
        key: SessionKey,
        frame: &Arc<Frame>,
    ) {
        // `session_mut` would borrow all of `self`; the other fields are needed too.
        let Some(session) = session_of(&mut self.sessions, key) else {
            return;
        };
        if session.deliver_at_once(now, frame, &limits.send_queue) {
            count_queued(&mut self.stats, session, frame.queue_bytes());
            if !self.gather.hold_back(now, session, key.slot) {
                enlist(session, key.slot, &mut self.dirty);
            }
            return;
        }
        self.deliver_on_limit(now, limits, key, frame);
    }

    /// [`Self::deliver`] to a client whose messages are postponed, or whose throttle or queue may not simply take the frame.
    #[inline(never)]
    fn deliver_on_limit(&mut self, now: Now, limits: &Limits, key: SessionKey, frame: &Arc<Frame>) {
        let newest = self.newest_of_feed;
        let Some(session) = self.session_mut(key) else {
            return;
        };
        if let Some(has_room) = session.postpone_frame(newest, frame) {
            if !has_room {
                self.send_postponed(now, limits, key, SENT_WITH_EACH);
            }
            return;
        }
        if let Some(ended) = frame.ends() {
            let removed = session.end_held(ended);
            self.stats.count_conflated(removed);
        }
        let Some(session) = self.session_mut(key) else {
            return;
        };
        match session.deliver(now, frame, &limits.send_queue) {
            Delivered::ThrottleFirst => {
                self.open_throttle(now, limits, key);
                // The throttle holds no other frame now, so it takes this frame, or the frame goes into the queue.
                self.deliver(now, limits, key, frame);
            }
            other => self.delivered(now, key, frame, other),
        }
    }

    /// Puts the next `count` messages that were postponed in the send queue. Returns whether more wait that may go out.
    ///
    /// A message that came during the search for missed ones is replayed like these, outside of the limits of the
    /// queue, because a client cannot take several megabytes at once. But if the client takes too little of what is
    /// replayed, such a message is sent as a live one, which counts for the limits.
    pub(super) fn send_postponed(
        &mut self,
        now: Now,
        limits: &Limits,
        key: SessionKey,
        count: usize,
    ) -> bool {
        let mut left = count;
        while let Some(frame) = self.replay_postponed(now, key, &mut left) {
            if let Some(session) = self.session_mut(key) {
                let delivered = session.push(now, &frame, &limits.send_queue);
                self.delivered(now, key, &frame, delivered);
            }
        }
        self.session(key).is_some_and(Session::sends_postponed)
    }

    /// Puts postponed messages in the send queue as replayed ones, at most `left` of them, and lowers `left`. If the
    /// client takes too little of what is replayed, ends at a message that came during the search, and returns it: the
    /// caller sends it as a live message.
    fn replay_postponed(
        &mut self,
        now: Now,
        key: SessionKey,
        left: &mut usize,
    ) -> Option<Arc<Frame>> {
        let session = session_of(&mut self.sessions, key)?;
        let mut live = None;
        while *left > 0 && session.sends_postponed() {
            let takes_little = session.replayed_bytes() > REPLAYED_BYTES_MAX;
            let Some(next) = session.next_postponed() else {
                break;
            };
            *left -= 1;
            let frame = match next {
                NextPostponed::Newer(frame) if takes_little => {
                    live = Some(frame);
                    break;
                }
                NextPostponed::Missed(frame) | NextPostponed::Newer(frame) => frame,
            };
            let bytes = frame.queue_bytes();
            if session.replay(now, frame) {
                count_queued(&mut self.stats, session, bytes);
            }
        }
        self.end_gathering(now, key);
        live
    }

    /// Removes replaced states from a long send queue, if that is due.
    pub(super) fn thin(&mut self, limits: &Limits, key: SessionKey) {
        let Some(session) = session_of(&mut self.sessions, key) else {
            return;
        };
        match session.thin(&limits.send_queue) {
            Ok(removed) => {
                self.stats.count_conflated(removed);
                // Some frames were removed, and had waited only for the loop.
                self.replaced_unsent |= removed.0 > 0 && session.keeps_up();
            }
            Err(Delivered::Over(Some(reason))) => self.over.push((key, reason)),
            // Without a reason: the session is in the list already.
            Err(_) => {}
        }
    }

    /// Lets the client's throttle open as soon as there is time.
    pub(super) fn open_early(&mut self, key: SessionKey) {
        if self
            .session_mut(key)
            .is_some_and(Session::note_throttle_opens_early)
        {
            self.full_throttles.push_back(key);
        }
    }

    /// Lets a client that is over a limit get no more frames: it is to be dropped.
    pub(super) fn exceed(&mut self, key: SessionKey, reason: CloseReason) {
        let session = self.session_mut(key);
        // Without a reason: the session is in the list already.
        if let Some(Delivered::Over(Some(reason))) = session.map(|session| session.over(reason)) {
            self.over.push((key, reason));
        }
    }

    /// Removes from a send queue the states that newer states in the queue replace: from any queue if the loop is behind,
    /// otherwise from a long one if that is due.
    #[cold]
    pub(super) fn skip_replaced(&mut self, limits: &Limits, slot: u32, is_behind: bool) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        let (key, is_crowded) = (session.key(slot as usize), session.is_crowded());
        if is_behind {
            self.stats.count_conflated(session.skip_to_newest());
        }
        if is_crowded {
            self.thin(limits, key);
        }
    }

    /// Gives a client behind deep buffers a gate: its states wait for pongs.
    pub(super) fn set_gate(&mut self, now: Now, key: SessionKey) {
        if let Some(session) = self.session_mut(key) {
            session.set_gate(now);
            self.stats.slow.clients[SlowReason::Buffered as usize] += 1;
        }
    }

    /// Opens the client's throttle: the frames that it held go into the send queue.
    pub(super) fn open_throttle(&mut self, now: Now, limits: &Limits, key: SessionKey) {
        let frames = self
            .session_mut(key)
            .map(|session| session.open_throttle(now));
        for frame in frames.into_iter().flatten() {
            // The delivery below counts the frame again.
            self.stats.messages_queued -= 1;
            self.stats.count_removed(1, frame.queue_bytes());
            if let Some(session) = self.session_mut(key) {
                let delivered = session.deliver_held(now, &frame, &limits.send_queue);
                self.delivered(now, key, &frame, delivered);
            }
        }
    }

    /// Puts replayed frames in one send queue, if the client takes data.
    pub(super) fn replay(
        &mut self,
        now: Now,
        key: SessionKey,
        frames: impl IntoIterator<Item = Arc<Frame>>,
    ) {
        let Some(session) = session_of(&mut self.sessions, key) else {
            return;
        };
        for frame in frames {
            let bytes = frame.queue_bytes();
            if !session.replay(now, frame) {
                return;
            }
            count_queued(&mut self.stats, session, bytes);
        }
        self.end_gathering(now, key);
    }

    /// Counts a delivery, and notes what follows.
    fn delivered(&mut self, now: Now, key: SessionKey, frame: &Arc<Frame>, delivered: Delivered) {
        match delivered {
            Delivered::Refused | Delivered::ThrottleFirst => return,
            Delivered::Ahead => return self.ahead.push(key),
            Delivered::Shed => {
                self.stats.messages_queued += 1;
                self.stats.messages_shed += 1;
                return;
            }
            Delivered::Over(reason) => {
                self.stats.messages_dropped += 1;
                self.stats.messages_queued += 1;
                self.over.extend(reason.map(|reason| (key, reason)));
                return;
            }
            Delivered::Held { frames, bytes, .. }
            | Delivered::Queued(Pushed::Conflated { frames, bytes }) => {
                self.stats.count_conflated((frames, bytes));
            }
            Delivered::Queued(_) => {}
        }
        if matches!(delivered, Delivered::Queued(Pushed::QueuedInCrowd)) {
            self.crowded.push_back(key);
        }
        if let Delivered::Held {
            opens_early: true, ..
        } = delivered
        {
            self.full_throttles.push_back(key);
        }
        let is_held = matches!(delivered, Delivered::Held { .. });
        let is_replaced = matches!(delivered, Delivered::Queued(Pushed::Conflated { .. }));
        if is_held || matches!(delivered, Delivered::Queued(Pushed::QueuedOverSoft)) {
            self.to_arm.push(key);
        }
        if let Some(session) = session_of(&mut self.sessions, key) {
            count_queued(&mut self.stats, session, frame.queue_bytes());
            self.replaced_unsent |= is_replaced && session.keeps_up();
            if !is_held && !self.gather.hold_back(now, session, key.slot) {
                enlist(session, key.slot, &mut self.dirty);
            }
        }
    }

    /// Puts a session with something to send in the list of the next flush, unless all of it waits for the next
    /// messages ([`Self::gather`]).
    pub(super) fn mark_dirty(&mut self, now: Now, key: SessionKey) {
        let session = self.session(key);
        let is_gathered = session.is_some_and(|s| s.is_gathered() && !s.has_control());
        if !is_gathered {
            self.end_gathering(now, key);
        }
    }

    /// Puts a session with something to send in the list of the next flush; nothing waits for the next messages any
    /// more.
    pub(super) fn end_gathering(&mut self, now: Now, key: SessionKey) {
        // `session_mut` would borrow all of `self`; the lists are needed too.
        let Some(session) = session_of(&mut self.sessions, key) else {
            return;
        };
        self.gather.waiting.remove(key.slot);
        if session.end_gathering(now) {
            enlist(session, key.slot, &mut self.dirty);
        }
    }

    /// The key of the session in this slot, if any.
    #[inline]
    pub(super) fn key_at(&self, slot: u32) -> Option<SessionKey> {
        let slot = slot as usize;
        self.sessions.get(slot).map(|session| session.key(slot))
    }

    /// Panics unless the counters balance and every queue is consistent.
    pub(super) fn check_invariants(&self) {
        let (mut waiting, mut bytes) = (0, 0);
        for (_, session) in &self.sessions {
            session.check_invariants();
            waiting += session.queued_frames() as u64;
            bytes += session.queued_and_held_bytes() as u64;
        }
        let s = &self.stats;
        assert_eq!(s.messages_waiting, waiting, "messages waiting");
        assert_eq!(s.send_queue_bytes, bytes, "send queue bytes");
        let kept_back = s.messages_conflated + s.messages_shed + s.messages_dropped;
        let out = s.messages_sent + kept_back + waiting;
        assert_eq!(s.messages_queued, out, "message counters balance");
        let gauges = [
            (PhaseKind::Head, s.heads),
            (PhaseKind::Open, s.open),
            (PhaseKind::Closing, s.closing),
        ];
        for (phase, gauge) in gauges {
            let sessions = self.sessions.iter().filter(|(_, s)| s.phase() == phase);
            assert_eq!(gauge, sessions.count() as u64, "sessions in {phase:?}");
        }
        for why in Pause::ALL {
            let sessions = self.sessions.iter().map(|(_, session)| session.pauses());
            let paused = sessions.filter(|pauses| pauses.holds(why)).count();
            assert_eq!(s.paused_for(why), paused as u64, "paused by {why:?}");
        }
        assert!(s.open_other <= s.open, "clients of other protocols");
        assert!(s.leaving <= s.closing, "sessions that were open");
    }
}

/// Returns the session of a key. Borrows only the table, so the other fields of [`Clients`] stay usable.
#[inline]
pub(super) fn session_of(sessions: &mut Slab<Session>, key: SessionKey) -> Option<&mut Session> {
    let session = sessions.get_mut(key.slot as usize)?;
    (session.generation() == key.generation).then_some(session)
}

/// Counts a frame queued for the session.
#[inline]
fn count_queued(stats: &mut HubStats, session: &Session, bytes: usize) {
    stats.messages_queued += 1;
    stats.messages_waiting += 1;
    stats.send_queue_bytes += bytes as u64;
    let peak = &mut stats.send_queue_peak_bytes;
    *peak = (*peak).max(session.queue_bytes() as u64);
}

/// Puts a session with something to send in a list of the next flush, unless the session is in a list already or the
/// kernel takes none of its bytes.
#[inline]
fn enlist(session: &mut Session, slot: u32, dirty: &mut [SlotSet; LISTS]) {
    if let Some(list) = session.enlist() {
        dirty[list].insert(slot);
    }
}
