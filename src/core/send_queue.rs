//! The send queue of a client: a control part, which is sent first, and shared frames.
//!
//! Three rules hold the queue together. A frame that was begun is finished first. Whole control frames
//! go before whole data frames, so that a pong never waits behind a backlog. Only [`SendQueue::wrote`]
//! moves the queue: a short write moves an offset, no bytes.
//!
//! Among frames with a conflation key a slow client skips, so that it never falls behind: above the soft limit, or when
//! the oldest whole frame is old, only the newest frame per key stays, until the queue has been empty. Frames without a
//! key are never skipped; the soft or the hard limit drops a client that cannot keep up.
//!
//! Frames go out in the order in which they came, so a newer frame of a key goes to the tail. Keys that change faster than
//! the client reads would never come to the front: so when the first of the waiting frames is begun, all of them are *in
//! turn*, and newer frames replace no frame in turn, until all of those are out.
//!
//! With few frames each new frame replaces the waiting frame of its key. With many, a look at all
//! frames for each new frame would let a slow client cost the others time. Then a frame joins the
//! queue, and older frames of the same keys are removed whenever the queue has doubled, or has four times the
//! bytes of the hard limit; and because the newest frames of many keys may be many bytes, the hard limit holds.
//!
//! A replayed frame stays whatever its key, and does not count when the queue decides whether a client is slow.

mod write;

pub(super) use self::write::Offered;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::encodings::Kind;
use super::limits::SendQueueLimits;
use super::protocol::Encoding;
use super::queue::{Entry, Queue, Weigh as _};
use super::window::ShortWindowId;
use super::{CloseReason, ConflationKey, Frame, Now, Prefix};

/// The most frames in one write: even if each has a prefix, these and the control part are fewer slices than a `writev`
/// takes (IOV_MAX is 1,024 on Linux).
pub(super) const WRITE_FRAMES_MAX: usize = 256;

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
    /// The frame waits among so many that removing those that it and others replace takes time: [`SendQueue::thin`] is to
    /// follow.
    QueuedInCrowd,
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
    /// The last of the control bytes left the queue in this write.
    pub(super) control_out: bool,
}

/// The progress of the first data frame of a queue. The rest has to go out in the same encoding.
/// Packed, because a queue has two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
struct Begun {
    /// The kind of the encoding. [`Kind::Chained`] refers to the client's window, which stays until the
    /// frame is out.
    kind: Kind,
    /// Bytes that the kernel has taken: header, prefix and body counted together.
    offset: u32,
}

#[derive(Debug, Default)]
pub(super) struct SendQueue {
    control: Vec<u8>,
    data: Queue<Entry>,
    encoding: Encoding,
    /// The client's window, as of the last frame that is out whole.
    window: ShortWindowId,
    begun: Option<Begun>,
    /// Queue bytes of `data`.
    bytes: usize,
    /// The number of the last frame with a number; 0 if no frame had a number.
    pub(super) last_seq: u64,
    /// 0 while the queue does not conflate. Otherwise it removes older frames again when it has 2 to this power frames.
    /// [`CROWDED`]: that is due.
    conflate_at: u8,
    /// The number of frames at the front that are in turn, a begun one among them; 0 while the queue does not conflate.
    in_turn: u16,
    /// `NonZeroU64`, because this takes 8 bytes, where `Option<u64>` takes 16.
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

    /// Lets no later message refer to an earlier one. A begun frame goes on as it began.
    pub(super) fn leave_window(&mut self) {
        if let Encoding::Deflate(params) = &mut self.encoding {
            *params = params.without_takeover();
        }
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

    /// Memory of the control part.
    pub(super) fn control_room_bytes(&self) -> usize {
        self.control.capacity()
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

    /// Notes that the kernel took bytes that the shell had kept from an earlier write, or that what waits for the kernel
    /// does so from now on.
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
            self.append(frame);
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
        // Called before older frames are removed: a frame that replaces the only waiting frame must not look like
        // progress of a client that reads nothing.
        self.start_progress(now);
        let outcome = match frame.key() {
            Some(key) => self.conflate(key, limits),
            None => self.check_limits(now, limits),
        };
        if !matches!(outcome, Pushed::Over(_)) {
            self.append(frame);
        }
        outcome
    }

    /// Queues a frame that counts for no limit of the queue, and that no newer frame replaces. The
    /// caller limits the number of waiting replayed frames.
    pub(super) fn replay(&mut self, now: Now, frame: Arc<Frame>) {
        self.start_progress(now);
        let seq = self.number(&frame);
        self.push_back(Entry::replayed(frame, seq));
    }

    /// An empty queue is about to get something: the time in which the kernel has to take a byte begins.
    #[inline]
    fn start_progress(&mut self, now: Now) {
        if self.is_empty() {
            self.progress_at = now.mono_us;
        }
    }

    #[inline]
    fn append(&mut self, frame: &Arc<Frame>) {
        let seq = self.number(frame);
        self.push_back(Entry::new(Arc::clone(frame), seq));
    }

    #[inline]
    fn push_back(&mut self, entry: Entry) {
        self.bytes += entry.frame.queue_bytes();
        self.data.push_back(entry);
    }

    /// Whether the kernel has taken everything. For a client that skips, it is enough that all replayed frames are out,
    /// because its queue may never be empty.
    pub(super) fn is_drained(&self) -> bool {
        self.data.is_empty() || self.is_conflating() && self.data.weight() == 0
    }

    /// Uses up the number of a frame that is not sent, so that the client sees the loss as a gap in the numbers.
    pub(super) fn shed(&mut self, frame: &Frame) {
        self.number(frame);
    }

    #[inline]
    fn number(&mut self, frame: &Frame) -> u64 {
        if frame.prefix() == Prefix::None {
            return 0;
        }
        self.last_seq += 1;
        self.last_seq
    }

    /// For frames without a key: limits the bytes after the first frame. The first frame does not
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
            // Only the deadline drops the client, not this push: after a freeze of the process, new messages are queued
            // before the client can be written to.
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
    pub(super) fn counted_bytes(&self) -> usize {
        self.bytes - self.replayed_bytes()
    }

    /// Whether the counted bytes are more than `limit`. Few queues have more bytes at all, so the replayed bytes are
    /// rarely added up.
    #[inline]
    fn counts_over(&self, limit: usize) -> bool {
        self.bytes > limit && self.counted_bytes() > limit
    }

    /// The counted bytes after the first counted frame: a single frame may always wait, however large.
    fn bytes_behind(&mut self) -> usize {
        let replayed = self.data.heavy_front();
        let first = self.data.get(replayed);
        self.counted_bytes() - first.map_or(0, |entry| entry.frame.queue_bytes())
    }

    /// Removes the frames with one of these keys, except begun and replayed frames. Returns frames and
    /// bytes.
    pub(super) fn remove(&mut self, gone: impl Fn(ConflationKey) -> bool) -> (u32, usize) {
        self.retain(|_, entry| !entry.key().is_some_and(&gone))
    }

    /// Discards the frames that were not begun: the client is closed at the next frame boundary.
    pub(super) fn discard_waiting(&mut self) -> (u32, usize) {
        // The clock of the soft limit ends too: nothing checks the clock again, so the deadline would
        // be due forever.
        self.over_soft_since = None;
        self.retain(|_, _| false)
    }

    /// Removes the entries that are not to be kept, by index, except a begun one. Returns how many frames were removed, and
    /// their bytes.
    fn retain(&mut self, mut keep: impl FnMut(usize, &Entry) -> bool) -> (u32, usize) {
        let (mut bytes, mut out_of_turn) = (0, 0);
        let fixed = usize::from(self.begun.is_some());
        let mut index = fixed;
        let frames = self.data.retain_after(fixed, |entry| {
            let kept = keep(index, entry);
            if !kept {
                bytes += entry.frame.queue_bytes();
                out_of_turn += u16::from(index < usize::from(self.in_turn));
            }
            index += 1;
            kept
        });
        self.bytes -= bytes;
        self.in_turn -= out_of_turn;
        (frames as u32, bytes)
    }

    /// Removes the first frame, unless it was begun. Returns its bytes.
    pub(super) fn refuse_first(&mut self) -> Option<usize> {
        if self.begun.is_some() {
            return None;
        }
        let bytes = self.data.pop_front()?.frame.queue_bytes();
        self.bytes -= bytes;
        self.in_turn = self.in_turn.saturating_sub(1);
        self.reset_if_empty();
        Some(bytes)
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
        let least = usize::from(self.is_conflating() && self.begun.is_some());
        let most = usize::from(self.is_conflating()) * self.data.len();
        let in_turn = usize::from(self.in_turn);
        assert!((least..=most).contains(&in_turn), "in turn");
    }
}

/// While no more frames than this wait, each new frame is compared with all of them.
const FEW_FRAMES: usize = 64;

/// The queue conflates, and older frames are still to be removed. No queue has 2 to this power frames.
const CROWDED: u8 = u8::MAX;

/// At so many times the bytes of the hard limit, the removal of older frames is due although the queue has not doubled
/// its frames: the new ones may be larger. The queue may hold twice the limit after a removal, frames in turn and newer
/// ones of the same keys, so the number is higher than 2.
const CROWDED_HARD_LIMITS: usize = 4;

/// At so many times the bytes of the hard limit, a push removes the older frames itself, and does not leave that to the
/// hub.
const FULL_HARD_LIMITS: usize = 6;

/// The index of the newest frame of each key among the frames in turn (`true`), and among the others.
type NewestFrames = HashMap<(bool, ConflationKey), usize, RandomState>;

impl SendQueue {
    /// Prepares for a keyed frame while the queue is conflating, or above the soft limit, or its oldest whole frame is
    /// old: from here on the queue conflates. Only the stall limit drops the client, or the hard limit if there are
    /// many keys. Of many frames none is removed here, as long as they are not very many bytes: one message may make the
    /// queues of very many clients conflate.
    fn conflate(&mut self, key: ConflationKey, limits: &SendQueueLimits) -> Pushed {
        // From here on the queue conflates, and a frame that was begun is in turn.
        if !self.is_conflating() {
            self.in_turn = u16::from(self.begun.is_some());
        }
        if self.data.len() > FEW_FRAMES {
            let is_over = |times: usize| self.counts_over(limits.hard_bytes.saturating_mul(times));
            if self.is_crowded() {
                return match is_over(FULL_HARD_LIMITS) {
                    true => self.thin_at_once(limits),
                    false => Pushed::Queued,
                };
            }
            let may_double = self.is_conflating() && self.data.len() < 1 << self.conflate_at;
            if may_double && !is_over(CROWDED_HARD_LIMITS) {
                return Pushed::Queued;
            }
            self.conflate_at = CROWDED;
            return Pushed::QueuedInCrowd;
        }
        let in_turn = usize::from(self.in_turn);
        let (frames, bytes) = match self.is_conflating() {
            true => self.retain(|index, entry| index < in_turn || entry.key() != Some(key)),
            false => {
                let newest = self.newest(Some(key));
                self.keep_newest(&newest)
            }
        };
        if frames == 0 {
            return Pushed::Queued;
        }
        Pushed::Conflated { frames, bytes }
    }

    fn thin_at_once(&mut self, limits: &SendQueueLimits) -> Pushed {
        match self.thin(limits) {
            Ok((frames, bytes)) => Pushed::Conflated { frames, bytes },
            Err(reason) => Pushed::Over(reason),
        }
    }

    /// Removes older frames of the same keys, if that is due ([`Pushed::QueuedInCrowd`]). Returns frames and bytes.
    ///
    /// # Errors
    /// The newest frames alone are over the hard limit.
    pub(super) fn thin(&mut self, limits: &SendQueueLimits) -> Result<(u32, usize), CloseReason> {
        if !self.is_crowded() {
            return Ok((0, 0));
        }
        let newest = self.newest(None);
        if self.newest_bytes(&newest) > limits.hard_bytes {
            return Err(CloseReason::SendQueueHard);
        }
        Ok(self.keep_newest(&newest))
    }

    /// Whether [`thin`](Self::thin) has something to do.
    #[inline]
    pub(crate) fn is_crowded(&self) -> bool {
        self.conflate_at == CROWDED
    }

    /// Keeps the newest frame of each key, and conflates from here on.
    fn keep_newest(&mut self, newest: &NewestFrames) -> (u32, usize) {
        let removed = self.keep(newest);
        let next = (2 * self.data.len()).max(FEW_FRAMES).next_power_of_two();
        self.conflate_at = next.trailing_zeros() as u8;
        removed
    }

    /// Whether newer frames replace older frames of the same key, until the queue has been empty.
    pub(crate) fn is_conflating(&self) -> bool {
        self.conflate_at > 0
    }

    /// Whether the queue is over the soft limit, or its oldest whole frame has waited for too long.
    #[inline]
    fn is_slow(&self, now: Now, limits: &SendQueueLimits) -> bool {
        let oldest = self.data.get(usize::from(self.begun.is_some()));
        let age = oldest.filter(|e| !e.is_replayed()).map_or(0, |e| {
            now.mono_us.saturating_sub(e.frame.received().mono_us)
        });
        self.counts_over(limits.soft_bytes) || age > limits.conflate_after_us
    }

    /// Removes older frames of the same keys, as a queue that conflates would.
    pub(crate) fn skip_to_newest(&mut self) -> (u32, usize) {
        let newest = self.newest(None);
        self.keep(&newest)
    }

    fn is_in_turn(&self, index: usize) -> bool {
        index < usize::from(self.in_turn)
    }

    /// Finds the newest frames of each key. Of the key `replaced`, whose new frame is about to be pushed, no frame
    /// behind those in turn is the newest.
    fn newest(&self, replaced: Option<ConflationKey>) -> NewestFrames {
        let mut newest = NewestFrames::default();
        for (index, entry) in self.data.iter().enumerate() {
            if let Some(key) = entry.key() {
                newest.insert((self.is_in_turn(index), key), index);
            }
        }
        newest.extend(replaced.map(|key| ((false, key), usize::MAX)));
        newest
    }

    /// Bytes of the newest frames of all keys, or of those in turn if these are more.
    fn newest_bytes(&self, newest: &NewestFrames) -> usize {
        let (mut in_turn, mut all) = (0, 0);
        for ((is_in_turn, key), index) in newest {
            let entry = self.data.get(*index);
            let bytes = entry.map_or(0, |entry| entry.frame.queue_bytes());
            in_turn += if *is_in_turn { bytes } else { 0 };
            let is_newest = !is_in_turn || !newest.contains_key(&(false, *key));
            all += if is_newest { bytes } else { 0 };
        }
        all.max(in_turn)
    }

    /// Keeps the newest frames of each key, the frames without a key and replayed ones.
    fn keep(&mut self, newest: &NewestFrames) -> (u32, usize) {
        let in_turn = usize::from(self.in_turn);
        self.retain(|at, entry| {
            let key = entry.key();
            key.is_none_or(|key| newest[&(at < in_turn, key)] == at)
        })
    }
}
