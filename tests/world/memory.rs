//! Frame memory, counted independently of the core: the frames that wait for blocked clients, and
//! the memory freed by the end of such a client.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use weirgate_core::{CloseReason, Frame, Gateway, PhaseKind, SessionKey};

use super::ledger::Ledger;
use super::{Output, World};

/// Pause after a walk over the queues that found nothing to free.
pub(crate) const REST_US: u64 = 250_000;

/// Most memory of frames kept for later frames to refer to, with all encodings.
const KEPT_BYTES_MAX: u64 = 1 << 20;

/// A weak reference to a frame.
#[derive(Clone, Default)]
pub(crate) struct Watched {
    frame: Weak<Frame>,
    /// Memory of the frame at the last look.
    bytes: Rc<Cell<u64>>,
}

impl Watched {
    pub(crate) fn new(frame: &Arc<Frame>) -> Self {
        let watched = Self {
            frame: Arc::downgrade(frame),
            bytes: Rc::default(),
        };
        assert!(
            watched.bytes() >= frame.queue_bytes() as u64,
            "too little memory"
        );
        watched
    }

    fn bytes(&self) -> u64 {
        if let Some(frame) = self.frame.upgrade() {
            self.bytes.set(frame.memory_bytes() as u64);
        }
        self.bytes.get()
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p} {}", self.frame.as_ptr(), self.bytes.get())
    }
}

/// Frames in some queues, each with the number of entries there.
#[derive(Debug, Default)]
struct Queued<'a>(BTreeMap<*const Frame, (usize, &'a Watched)>);

impl<'a> Queued<'a> {
    fn add(&mut self, entries: impl Iterator<Item = &'a Watched>) {
        for watched in entries {
            self.0
                .entry(watched.frame.as_ptr())
                .or_insert((0, watched))
                .0 += 1;
        }
    }

    /// Memory of all frames, each counted once.
    fn bytes(&self) -> u64 {
        self.0.values().map(|(_, watched)| watched.bytes()).sum()
    }

    /// Memory of the frames held only by these queues.
    fn bytes_held_alone(&self) -> u64 {
        let alone = self.0.values();
        let alone = alone.filter(|(entries, watched)| *entries == watched.frame.strong_count());
        alone.map(|(_, watched)| watched.bytes()).sum()
    }

    /// Memory of the frames that have ended with these queues.
    fn bytes_freed(&self) -> u64 {
        let freed = self.0.values();
        let freed = freed.filter(|(_, watched)| watched.frame.strong_count() == 0);
        freed.map(|(_, watched)| watched.bytes()).sum()
    }
}

/// Cases met in a run.
#[derive(Debug, Default)]
pub(crate) struct MemorySeen {
    /// Several clients were dropped because only together they freed memory.
    pub(crate) together: bool,
    /// A client with a larger queue than a dropped client was spared.
    pub(crate) spared: bool,
    /// A walk took several flushes.
    pub(crate) in_slices: bool,
    walk_ended_at: Option<u64>,
    walks: u64,
}

impl<G: Gateway<Out: Output>> World<G> {
    fn queued<'a>(&self, ledger: &'a Ledger, blocked_only: bool) -> Queued<'a> {
        let mut queued = Queued::default();
        for (key, socket) in &self.net.sockets {
            let there = socket.released.is_none() && (socket.blocked || !blocked_only);
            let Some(story) = ledger.stories.get(key).filter(|_| there) else {
                continue;
            };
            let entries = match self.hub.core().phase(*key) {
                Some(PhaseKind::Open) => story.waiting.len(),
                // After a close, only a partly sent message still waits.
                Some(PhaseKind::Closing) => usize::from(story.begun),
                _ => 0,
            };
            queued.add(
                story
                    .waiting
                    .iter()
                    .take(entries)
                    .map(|waiting| &waiting.frame),
            );
        }
        queued
    }

    /// Memory of long queues themselves.
    fn rooms(&self, blocked_only: bool) -> u64 {
        let there = self.net.sockets.iter();
        let there = there.filter(|(_, socket)| socket.blocked || !blocked_only);
        there
            .map(|(key, _)| self.hub.core().queue_room_bytes(*key) as u64)
            .sum()
    }

    /// Called after each flush: checks that every drop for frame memory was necessary.
    pub(crate) fn look_at_memory(&mut self) {
        let Some(ledger) = self.net.ledger.clone() else {
            return;
        };
        let max = self.hub.core().limits().frame_bytes_max;
        let mut ledger = ledger.borrow_mut();
        let dropped = std::mem::take(&mut ledger.dropped_for_memory);
        if !dropped.is_empty() {
            self.check_dropped(&ledger, max, &dropped);
        }
        let walks = self.hub.core().frame_walks();
        if std::mem::replace(&mut self.memory.walks, walks) == walks {
            return;
        }
        self.memory.walk_ended_at = Some(self.now.mono_us);
        if self.walks_at_once() {
            let held = self.queued(&ledger, true).bytes_held_alone() + self.rooms(true);
            assert!(
                held <= max,
                "{held} bytes are left to clients that read nothing"
            );
        } else {
            self.memory.in_slices = true;
        }
    }

    /// Whether a walk over all queues fits in a flush, so that nothing changes meanwhile.
    fn walks_at_once(&self) -> bool {
        self.hub.core().limits().work_us >= 1_000
    }

    fn check_dropped(&mut self, ledger: &Ledger, max: u64, dropped: &[SessionKey]) {
        let left = match self.walks_at_once() {
            true => self.queued(ledger, true).bytes_held_alone() + self.rooms(true),
            // A walk that takes several flushes counts clients that have read by its end. It is certain only that all
            // frames were too much.
            false => self.frame_bytes.alive(),
        };
        let frames = |key: &SessionKey| ledger.stories[key].waiting.iter().map(|it| &it.frame);
        let mut of_all = Queued::default();
        of_all.add(dropped.iter().flat_map(frames));
        for key in dropped {
            assert!(self.net.sockets[key].blocked, "{key:?} reads what it gets");
            let mut gone = Queued::default();
            gone.add(frames(key));
            // The room of its queue has gone with it: at most twice the places, and some.
            let room = 64 * frames(key).count() as u64 + 1_024;
            let freed = match self.walks_at_once() {
                true => gone.bytes_freed(),
                false => of_all.bytes_freed(),
            };
            let without = left + freed + room;
            assert!(
                without > max,
                "{key:?} was dropped in vain: {without} of {max}"
            );
        }
        let smallest = dropped
            .iter()
            .map(|key| ledger.stories[key].waiting_bytes())
            .min();
        let spared = self.net.sockets.iter().any(|(key, socket)| {
            let open = socket.released.is_none() && socket.blocked;
            let story = ledger.stories.get(key).filter(|s| open && s.is_open);
            story.is_some_and(|story| Some(story.waiting_bytes()) > smallest)
        });
        self.memory.spared |= spared;
        self.memory.together |= dropped.len() > 1;
    }

    /// Checks that frames count once each, and that memory held only by blocked clients is within the limit.
    /// `outside`: memory of frames outside of all queues; `None` if the gateway keeps some.
    pub(crate) fn check_memory(&self, ledger: &Ledger, outside: Option<u64>) {
        let alive = self.frame_bytes.alive();
        let waiting = self.queued(ledger, false).bytes() + self.rooms(false);
        match outside {
            Some(outside) => {
                let known = waiting + outside;
                let with_kept = known..=known + KEPT_BYTES_MAX;
                assert!(with_kept.contains(&alive), "bytes of frames: {alive}");
            }
            None => assert!(alive >= waiting, "bytes of frames"),
        }
        let max = self.hub.core().limits().frame_bytes_max;
        let held = self.queued(ledger, true).bytes_held_alone() + self.rooms(true);
        let rests = self.memory.walk_ended_at;
        let rests = rests.is_some_and(|at| self.now.mono_us < at + REST_US);
        assert!(
            held <= max || rests,
            "{held} bytes are held by clients that read nothing"
        );
    }
}

impl Ledger {
    /// Called at a write to a client, which may have deflated the frames.
    pub(crate) fn look_at_frames(&self, key: SessionKey) {
        if self.limits_frames
            && let Some(story) = self.stories.get(&key)
        {
            story.waiting.iter().for_each(|waiting| {
                waiting.frame.bytes();
            });
        }
    }

    pub(crate) fn note_drop(&mut self, key: SessionKey, reason: CloseReason) {
        if reason == CloseReason::FrameMemory {
            self.dropped_for_memory.push(key);
        }
    }
}
