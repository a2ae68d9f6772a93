//! One deflate window for all clients.
//!
//! A client that keeps its window (context takeover, RFC 7692 §7.1.1) holds its last message at the end
//! of the window, whatever came before. So the hub compresses a frame once with the previous frame of
//! the topic as the dictionary, and those bytes are right for every client whose last message was that
//! previous frame. A slow client, which skips, gets the frame encoded after one of the last [`REACH`]
//! frames; any other client gets the frame alone, and is in step again. The hub keeps no window for any
//! client, only a [`FrameId`] for each.
//!
//! | what | where |
//! | --- | --- |
//! | a frame's number, and the previous frame | [`Link`], set when the frame is published |
//! | the content of a client's window | `SendQueue::window`: the last frame that went out whole |
//! | changes of a client's window | `Outgoing::window_after` (`send_queue/write.rs`); `SendQueue::forget_window` twice in a round of numbers |
//! | the encoding for a client | [`deflated::best`](super::deflated::best) |
//!
//! A mistake in these rules corrupts text and raises no error: `tests/hub_rules/window.rs` inflates the
//! messages of clients and compares every text. Frames of other topics, responses and frames with a
//! prefix have no number: no message ever refers to them, and a client that got such a frame is out of
//! step.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

use super::Frame;
use super::encodings::FrameId;

/// How many frames back in the topic a frame may refer to, at most: a slow client, which skips, has one
/// of these frames.
const REACH: usize = 8;

/// The most encodings of a frame that refer to frames older than the previous frame. Each costs a compression, so the
/// limit bounds the cost of clients that are out of step, on purpose or not.
pub(super) const OLDER_MAX: usize = 4;

/// The most bytes of frames that are kept only for later frames to refer to; at least one frame.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Numbers wrap around. Twice in each round the windows of all clients are forgotten, so that no number refers to a
/// frame of the previous round.
const HALF_ROUND: u32 = 1 << 31;

/// A frame's number, and the previous frame of the topic.
#[derive(Debug, Default)]
pub(super) struct Link(OnceLock<(FrameId, Weak<Frame>)>);

impl Link {
    #[inline]
    pub(super) fn id(&self) -> FrameId {
        self.0.get().map_or(FrameId::NONE, |(id, _)| *id)
    }

    /// Whether the previous frame has this number.
    pub(super) fn is_next_after(&self, id: FrameId) -> bool {
        self.before().is_some_and(|before| before.link().id() == id)
    }

    fn before(&self) -> Option<Arc<Frame>> {
        self.0.get()?.1.upgrade()
    }

    /// Returns the frame with this number, if that frame is within reach and still in memory.
    pub(super) fn earlier(&self, id: FrameId) -> Option<Arc<Frame>> {
        if id == FrameId::NONE {
            return None;
        }
        let mut at = self.before()?;
        for _ in 1..REACH {
            if at.link().id() == id {
                break;
            }
            at = at.link().before()?;
        }
        (at.link().id() == id).then_some(at)
    }
}

/// Numbers the frames of a hub, and keeps the latest frames for later references.
#[derive(Debug, Default)]
pub(super) struct Windows {
    last: u32,
    kept: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl Windows {
    /// Numbers a frame and links it to the newest frame of its topic. `is_retained` says that the topic keeps the
    /// frame. A frame that has a number does not change. Returns true if the windows of all clients have to be
    /// forgotten.
    pub(super) fn link(
        &mut self,
        newest: &mut Weak<Frame>,
        frame: &Arc<Frame>,
        is_retained: bool,
    ) -> bool {
        if frame.link().0.get().is_some() {
            return false;
        }
        self.last = self.last.wrapping_add(1).max(1);
        let before = std::mem::replace(newest, Arc::downgrade(frame));
        match is_retained {
            // The topic is about to release the previous frame.
            true => self.keep(before.upgrade()),
            false => self.keep(Some(Arc::clone(frame))),
        }
        // Only this function numbers frames, and this frame had no number.
        let _ = frame.link().0.set((FrameId(self.last), before));
        self.last == HALF_ROUND || self.last == 1
    }

    fn keep(&mut self, frame: Option<Arc<Frame>>) {
        let Some(frame) = frame else { return };
        self.bytes += frame.queue_bytes();
        self.kept.push_back(frame);
        while self.bytes > KEPT_BYTES_MAX && self.kept.len() > 1 {
            if let Some(oldest) = self.kept.pop_front() {
                self.bytes -= oldest.queue_bytes();
            }
        }
    }

    /// Releases all frames: memory is short.
    pub(super) fn release(&mut self) {
        self.kept = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameBytes;

    fn frame(alive: &FrameBytes, bytes: usize) -> Arc<Frame> {
        Frame::text(alive).body(&vec![b'x'; bytes]).finish()
    }

    #[test]
    fn a_frame_reaches_back_to_the_one_before_it_in_its_topic() {
        let alive = FrameBytes::default();
        let mut windows = Windows::default();
        let (mut one, mut other) = (Weak::new(), Weak::new());
        let frames = [(); 4].map(|()| frame(&alive, 300));
        for (frame, newest) in frames.iter().zip([true, false, true, true]) {
            let newest = if newest { &mut one } else { &mut other };
            windows.link(newest, frame, false);
            windows.link(newest, frame, false);
        }
        let ids = frames.each_ref().map(|frame| frame.link().id());
        assert_eq!(ids, [1, 2, 3, 4].map(FrameId));
        let reached = |at: usize, of: usize| frames[at].link().earlier(ids[of]).is_some();
        assert!(reached(2, 0) && reached(3, 2) && reached(3, 0));
        assert!(!reached(0, 0) && !reached(1, 0) && !reached(2, 1) && !reached(3, 3));
        assert!(frames[0].link().earlier(FrameId::NONE).is_none());
    }

    #[test]
    fn frames_are_kept_up_to_so_many_bytes() {
        let alive = FrameBytes::default();
        let mut windows = Windows::default();
        let mut newest = Weak::new();
        for _ in 0..100 {
            windows.link(&mut newest, &frame(&alive, 40_000), false);
        }
        let kept = KEPT_BYTES_MAX as u64;
        assert!(alive.alive() <= kept && alive.alive() > kept - 41_000);
        windows.link(&mut newest, &frame(&alive, 2 * KEPT_BYTES_MAX), false);
        assert!(newest.upgrade().is_some(), "one of any size");
        windows.release();
        assert_eq!(alive.alive(), 0);
        let next = frame(&alive, 300);
        windows.link(&mut newest, &next, false);
        assert!(next.link().earlier(FrameId(101)).is_none(), "it is gone");
    }

    #[test]
    fn frames_of_as_many_bytes_as_are_kept_all_stay() {
        let alive = FrameBytes::default();
        let mut windows = Windows::default();
        let mut newest = Weak::new();
        let first = frame(&alive, 40_000);
        // The header of a large frame has 10 bytes.
        let second = frame(&alive, KEPT_BYTES_MAX - first.queue_bytes() - 10);
        assert_eq!(first.queue_bytes() + second.queue_bytes(), KEPT_BYTES_MAX);
        for frame in [&first, &second] {
            windows.link(&mut newest, frame, false);
        }
        let kept = Arc::downgrade(&first);
        drop(first);
        assert!(kept.upgrade().is_some());
        windows.link(&mut newest, &frame(&alive, 1), false);
        assert!(kept.upgrade().is_none(), "one byte more");
    }

    #[test]
    fn a_retained_frame_is_kept_when_another_takes_its_place() {
        let alive = FrameBytes::default();
        let mut windows = Windows::default();
        let mut newest = Weak::new();
        let mut retained = frame(&alive, 300);
        windows.link(&mut newest, &retained, true);
        for _ in 0..20 {
            let next = frame(&alive, 300);
            let before = retained.link().id();
            windows.link(&mut newest, &next, true);
            retained = next;
            assert!(retained.link().earlier(before).is_some());
        }
        let ids = [12, 13, 20].map(|id| retained.link().earlier(FrameId(id)).is_some());
        assert_eq!(ids, [false, true, true], "eight back from 21");
        assert!(retained.link().is_next_after(FrameId(20)));
    }

    #[test]
    fn windows_are_forgotten_twice_in_a_round_of_numbers() {
        let alive = FrameBytes::default();
        let mut windows = Windows::default();
        let mut newest = Weak::new();
        let mut link_at = |last: u32| {
            windows.last = last;
            let next = frame(&alive, 300);
            let forget = windows.link(&mut newest, &next, false);
            (next.link().id().0, forget)
        };
        assert_eq!(link_at(HALF_ROUND - 2), (HALF_ROUND - 1, false));
        assert_eq!(link_at(HALF_ROUND - 1), (HALF_ROUND, true));
        assert_eq!(link_at(u32::MAX - 1), (u32::MAX, false));
        assert_eq!(link_at(u32::MAX), (1, true), "0 is no number");
    }
}
