//! Frame memory, counted again beside the core: which frames wait for clients whose kernel takes
//! nothing, and what the end of such a client frees.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use weirgate::hub::{CloseReason, DeflateWindow, Frame, Gateway, PhaseKind, SessionKey};

use super::ledger::Ledger;
use super::{Output, World};

/// A walk over the queues that found nothing to free is followed by the next after so long.
pub(crate) const REST_US: u64 = 250_000;

/// Frames that are kept for later ones to refer to, with all their encodings.
const KEPT_BYTES_MAX: u64 = 3 << 20;

/// A frame that was made, without keeping it alive.
#[derive(Clone, Default)]
pub(crate) struct Watched {
    frame: Weak<Frame>,
    /// Its memory when it was last looked at.
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

/// Frames in some queues, each with the number of its entries there.
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

    /// Each frame once, however many of the queues it is in.
    fn bytes(&self) -> u64 {
        self.0.values().map(|(_, watched)| watched.bytes()).sum()
    }

    /// The same of the frames that nobody else holds.
    fn bytes_held_alone(&self) -> u64 {
        let alone = self.0.values();
        let alone = alone.filter(|(entries, watched)| *entries == watched.frame.strong_count());
        alone.map(|(_, watched)| watched.bytes()).sum()
    }

    /// What these queues would hold alone if the queue of one more client were still there: in
    /// addition the frames that have ended with that queue.
    fn bytes_with(&self, gone: &[&Watched]) -> u64 {
        let mut more = BTreeMap::new();
        for watched in gone {
            if watched.frame.strong_count() == 0 {
                more.insert(watched.frame.as_ptr(), watched.bytes());
            }
        }
        self.bytes_held_alone() + more.values().sum::<u64>()
    }
}

/// What a run has met.
#[derive(Debug, Default)]
pub(crate) struct MemorySeen {
    /// Clients went together because only together they freed something.
    pub(crate) together: bool,
    /// A client was spared although its queue was larger than that of one that went.
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
                // Of what waited, a close leaves what was begun.
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

    /// Called after each flush: whoever was dropped for the memory of its frames had to be.
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
            let held = self.queued(&ledger, true).bytes_held_alone();
            assert!(
                held <= max,
                "{held} bytes are left to clients that read nothing"
            );
        } else {
            self.memory.in_slices = true;
        }
    }

    /// A walk over all queues fits in one flush, so that nothing changes meanwhile.
    fn walks_at_once(&self) -> bool {
        self.hub.core().limits().frame_walk_max > 1_000
    }

    fn check_dropped(&mut self, ledger: &Ledger, max: u64, dropped: &[SessionKey]) {
        let left = self.queued(ledger, true);
        for key in dropped {
            assert!(self.net.sockets[key].blocked, "{key:?} reads what it gets");
            let frames = ledger.stories[key].waiting.iter();
            let gone: Vec<&Watched> = frames.map(|waiting| &waiting.frame).collect();
            let without = left.bytes_with(&gone);
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

    /// Frames count once each, and what only clients hold that read nothing is within the limit.
    /// `outside`: memory of frames that wait in no queue; `None` where the gateway keeps some.
    pub(crate) fn check_memory(&self, ledger: &Ledger, outside: Option<u64>) {
        let alive = self.frame_bytes.alive();
        let waiting = self.queued(ledger, false).bytes();
        let shares_window = self.hub.core().limits().deflate_window == DeflateWindow::Shared;
        match outside {
            Some(outside) if shares_window => {
                let known = waiting + outside;
                let with_kept = known..=known + KEPT_BYTES_MAX;
                assert!(with_kept.contains(&alive), "bytes of frames: {alive}");
            }
            Some(outside) => assert_eq!(alive, waiting + outside, "bytes of frames"),
            None => assert!(alive >= waiting, "bytes of frames"),
        }
        let max = self.hub.core().limits().frame_bytes_max;
        let held = self.queued(ledger, true).bytes_held_alone();
        let rests = self.memory.walk_ended_at;
        let rests = rests.is_some_and(|at| self.now.mono_us < at + REST_US);
        assert!(
            held <= max || rests,
            "{held} bytes are held by clients that read nothing"
        );
    }
}

impl Ledger {
    /// Called when a client is written to, for which its frames may have been deflated.
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
