//! The send queue of a client: a control part that goes first, and shared frames behind.
//!
//! Three rules hold the queue together. A frame that was begun is finished first. Whole control frames
//! go before whole data frames, so that a pong never waits behind a backlog. Only [`SendQueue::wrote`]
//! moves the queue: a short write moves an offset, no bytes.
//!
//! Frames with a conflation key make a slow client skip, never fall behind: above the soft limit, or
//! when the oldest whole frame is old, only the newest frame per key stays, until the queue has been
//! empty. Frames without a key are never skipped; the soft or the hard limit drops a client that cannot
//! keep up.

mod conflate;
mod write;

use std::num::NonZeroU64;
use std::sync::Arc;

use super::encodings::{FrameId, Kind};
use super::limits::SendQueueLimits;
use super::protocol::Encoding;
use super::queue::{Entry, Queue, Weigh as _};
use super::{CloseReason, ConflationKey, Frame, Lead, Now};

/// Frames in one write: with a lead each, and the control part, fewer slices than a `writev` takes
/// (IOV_MAX is 1,024 on Linux).
const FRAMES_MAX: usize = 256;

/// The outcome of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The frame waits.
    Queued,
    /// The frame waits, and has brought the queue over the soft limit: a clock starts.
    QueuedOverSoft,
    /// The frame waits, and has replaced this many older frames.
    Conflated {
        /// Frames removed.
        frames: u32,
        /// Queue bytes of the removed frames.
        bytes: usize,
    },
    /// A limit is exceeded; the frame was not queued and the client is to be dropped.
    Over(CloseReason),
}

/// The effect of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wrote {
    /// Frames that are out whole.
    pub(super) frames: u32,
    /// Queue bytes of these frames.
    pub(super) bytes: usize,
    /// Control bytes left the queue and none is left.
    pub(super) control_out: bool,
}

/// The progress of the first data frame of a queue. The rest has to go out in the same encoding.
#[derive(Clone, Copy, Debug)]
struct Begun {
    /// The kind of the encoding. [`Kind::After`] refers to the client's window, which stays until the
    /// frame is out.
    kind: Kind,
    /// Bytes that the kernel has taken: header, lead and body counted together.
    offset: u32,
}

#[derive(Debug, Default)]
pub(super) struct SendQueue {
    control: Vec<u8>,
    data: Queue<Entry>,
    encoding: Encoding,
    /// The frame with which the client's window ends, as of the last frame that is out whole.
    window: FrameId,
    begun: Option<Begun>,
    /// Queue bytes of `data`.
    bytes: usize,
    /// The number of the last frame with a number; 0 if no frame had a number.
    pub(super) last_seq: u64,
    /// Not zero: the queue is conflating, and conflates again at 2 to this power frames.
    conflate_at: u8,
    /// Not zero: 8 bytes, where `Option<u64>` has 16.
    over_soft_since: Option<NonZeroU64>,
    /// When the kernel last took a byte, or the queue last became non-empty.
    progress_at: u64,
    bytes_out: u64,
    frames_out: u64,
}

/// Every delivery reads and writes a queue: two cache lines, and no third.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SendQueue>() <= 128);

impl SendQueue {
    pub(super) fn set_encoding(&mut self, encoding: Encoding) {
        debug_assert!(
            self.data.is_empty(),
            "the encoding is chosen at the handshake"
        );
        self.encoding = encoding;
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The control part, to append whole control frames or the response to the handshake.
    pub(super) fn control(&mut self, now: Now) -> &mut Vec<u8> {
        self.start_progress(now);
        &mut self.control
    }

    pub(super) fn control_bytes(&self) -> usize {
        self.control.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.data.is_empty()
    }

    /// The number of frames that wait or were begun.
    pub(super) fn frames(&self) -> usize {
        self.data.len()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Frame>> {
        self.data.iter().map(|entry| &entry.frame)
    }

    /// The memory of the queue itself that counts among the bytes of frames.
    pub(super) fn room_bytes(&self) -> usize {
        self.data.room_bytes()
    }

    pub(super) fn data_is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes taken by the kernel so far.
    pub(super) fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    /// Frames that are out whole so far.
    pub(super) fn frames_out(&self) -> u64 {
        self.frames_out
    }

    /// The time at which the oldest frame that waits or was begun arrived, microseconds of the
    /// monotonic clock.
    pub(super) fn oldest_at(&self) -> Option<u64> {
        self.data
            .front()
            .map(|entry| entry.frame.received().mono_us)
    }

    pub(super) fn progress_at(&self) -> u64 {
        self.progress_at
    }

    /// Notes that the kernel took bytes that the shell keeps behind a write.
    pub(super) fn note_progress(&mut self, now: Now) {
        self.progress_at = now.mono_us;
    }

    pub(super) fn over_soft_since(&self) -> Option<u64> {
        self.over_soft_since.map(NonZeroU64::get)
    }

    /// Queues a frame that meets no limit and replaces nothing; returns whether the frame was queued.
    #[inline]
    pub(super) fn push_at_once(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> bool {
        let meets_limit = match frame.key() {
            Some(_) => self.is_conflating() || self.is_slow(now, limits),
            None => self.over_soft_since.is_some() || self.counts_over(limits.least_bytes()),
        };
        if !meets_limit {
            self.start_progress(now);
            self.append(Arc::clone(frame), false);
        }
        !meets_limit
    }

    /// Queues a frame, or returns the limit that forbids the frame.
    pub(super) fn push(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> Pushed {
        if self.push_at_once(now, frame, limits) {
            return Pushed::Queued;
        }
        // For an empty queue only: a frame that replaces the last frame is no progress of a client that
        // reads nothing.
        self.start_progress(now);
        let outcome = match frame.key() {
            Some(key) => self.make_way(key, limits),
            None => self.check_limits(now, limits),
        };
        if !matches!(outcome, Pushed::Over(_)) {
            self.append(Arc::clone(frame), false);
        }
        outcome
    }

    /// Queues a frame that counts for no limit of the queue, and that no newer frame replaces. The
    /// caller limits the number of waiting replayed frames.
    pub(super) fn replay(&mut self, now: Now, frame: Arc<Frame>) {
        self.start_progress(now);
        self.append(frame, true);
    }

    /// An empty queue is about to get something: the time in which the kernel has to take a byte begins.
    #[inline]
    fn start_progress(&mut self, now: Now) {
        if self.is_empty() {
            self.progress_at = now.mono_us;
        }
    }

    fn append(&mut self, frame: Arc<Frame>, is_replayed: bool) {
        let seq = self.number(&frame);
        self.bytes += frame.queue_bytes();
        let entry = Entry::new(frame, seq, is_replayed);
        self.data.push_back(entry);
    }

    /// Whether the kernel has taken everything. For a client that skips, all replayed frames are
    /// enough, because the queue may never be empty.
    pub(super) fn has_room(&self) -> bool {
        self.data.is_empty() || self.is_conflating() && self.data.weight() == 0
    }

    /// Counts a frame that is not sent: a gap in the numbers always means a loss.
    pub(super) fn shed(&mut self, frame: &Frame) {
        self.number(frame);
    }

    fn number(&mut self, frame: &Frame) -> u64 {
        if frame.lead() == Lead::None {
            return 0;
        }
        self.last_seq += 1;
        self.last_seq
    }

    /// For frames without a key: limits the bytes behind the first frame. The first frame does not
    /// count, so that an empty queue takes a frame of any size.
    fn check_limits(&mut self, now: Now, limits: &SendQueueLimits) -> Pushed {
        let is_over = self.counts_over(limits.least_bytes());
        let behind = if is_over { self.bytes_behind() } else { 0 };
        if behind > limits.hard_bytes {
            return Pushed::Over(CloseReason::SendQueueHard);
        }
        if behind <= limits.soft_bytes {
            self.over_soft_since = None;
            return Pushed::Queued;
        }
        if self.over_soft_since.is_some() {
            // Only the clock judges the duration: after a freeze of the process the first messages come
            // before the client was written to.
            return Pushed::Queued;
        }
        self.over_soft_since = NonZeroU64::new(now.mono_us);
        Pushed::QueuedOverSoft
    }

    /// Whether the queue is still above the soft limit, to be called when the clock runs out; otherwise the clock stops.
    pub(super) fn stays_over_soft(&mut self, limits: &SendQueueLimits) -> bool {
        let over = self.bytes_behind() > limits.soft_bytes;
        if !over {
            self.over_soft_since = None;
        }
        over
    }

    /// Replayed frames that wait.
    pub(super) fn replayed(&self) -> usize {
        self.data.heavies()
    }

    /// Queue bytes of the replayed frames.
    pub(super) fn replayed_bytes(&self) -> usize {
        self.data.weight()
    }

    /// Bytes that count for the limits: replayed frames do not.
    fn counted_bytes(&self) -> usize {
        self.bytes - self.replayed_bytes()
    }

    /// Whether more bytes than `limit` count. Few queues are so long that the replayed frames matter.
    #[inline]
    fn counts_over(&self, limit: usize) -> bool {
        self.bytes > limit && self.counted_bytes() > limit
    }

    /// The same bytes without the first frame that counts.
    fn bytes_behind(&mut self) -> usize {
        let replayed = self.data.heavy_front();
        let first = self.data.get(replayed);
        self.counted_bytes() - first.map_or(0, |entry| entry.frame.queue_bytes())
    }

    /// Removes the frames with one of these keys, except begun and replayed frames. Returns frames and
    /// bytes.
    pub(super) fn remove(&mut self, gone: impl Fn(ConflationKey) -> bool) -> (u32, usize) {
        self.retain(|entry| entry.is_replayed() || !entry.frame.key().is_some_and(&gone))
    }

    /// Forgets the client's window, so that no frame refers to the window; a frame that was begun still
    /// does.
    pub(super) fn forget_window(&mut self) {
        if self.begun.is_none() {
            self.window = FrameId::NONE;
        }
    }

    /// Discards the frames that were not begun: the client is closed at the next frame boundary.
    pub(super) fn discard_waiting(&mut self) -> (u32, usize) {
        // The clock of the soft limit ends too: nothing checks the clock again, so the deadline would
        // be due forever.
        self.over_soft_since = None;
        self.retain(|_| false)
    }

    fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) -> (u32, usize) {
        let mut bytes = 0;
        let fixed = usize::from(self.begun.is_some());
        let frames = self.data.retain_after(fixed, |entry| {
            let kept = keep(entry);
            if !kept {
                bytes += entry.frame.queue_bytes();
            }
            kept
        });
        self.bytes -= bytes;
        (frames as u32, bytes)
    }

    /// Panics if the queue is inconsistent; the simulation and debug builds call this after each step.
    pub(super) fn check_invariants(&self) {
        let bytes: usize = self.data.iter().map(|e| e.frame.queue_bytes()).sum();
        assert_eq!(bytes, self.bytes, "queue bytes");
        let replayed: usize = self.data.iter().map(Entry::weight).sum();
        assert_eq!(replayed, self.data.weight(), "replayed bytes");
        assert!(
            self.begun.is_none() || !self.data.is_empty(),
            "begun nothing"
        );
        assert!(self.begun.is_none_or(|b| b.offset > 0), "begun at 0");
    }
}
