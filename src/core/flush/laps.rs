//! The order in which a flush reaches the clients.
//!
//! Clients with little to send go first, also in the middle of a long flush, so a pong or a small message waits for no
//! message of some MiB to hundreds of others. The others get a batch of writes at least in each flush. Clients are written
//! to in the order of their slots, which is the order in memory, from a start that moves on with each lap.
//!
//! A lap ends when every client has got what was published before its begin, or the kernel takes no more of it. A frame
//! that is larger than a write goes out in several writes of a lap. A lap may take several turns; the clients that get
//! something meanwhile have their turn in the next lap. Meanwhile the bus waits if much was published
//! ([`Laps::published_bytes`]).

use std::ops::Range;
use std::sync::Arc;

use crate::Frame;
use crate::tables::SlotSet;

/// A client with at most this much to send goes before the others.
const LITTLE_BYTES: usize = 16 * 1024;

/// The lists of clients with something to send: first those with little, then the others; in both first those that need
/// no encoding.
pub(crate) const LISTS: usize = 4;

/// The lists of clients with little to send.
pub(super) const LITTLE: Range<usize> = 0..2;

/// The lists of the other clients.
pub(super) const LONG: Range<usize> = 2..LISTS;

/// The list of a client with this much to send. `is_plain`: nothing of it has to be encoded for this client.
#[inline]
pub(crate) fn list_of(bytes: usize, is_plain: bool) -> usize {
    let first = if is_long(bytes) { LONG.start } else { 0 };
    first + usize::from(!is_plain)
}

/// Whether a client with this much to send is in the lists of the others.
#[inline]
pub(super) fn is_long(bytes: usize) -> bool {
    bytes > LITTLE_BYTES
}

/// The clients that the flush has not reached yet, and how much was published meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Laps {
    rounds: [Round; LISTS],
    /// The number of laps begun so far, from which the start of the next follows.
    begun: usize,
    /// Bytes of all publications so far without a conflation key.
    published: u64,
    /// The value of `published` when this lap began.
    published_before_lap: u64,
    /// The value of `published` when the lap before this one began.
    published_before_last_lap: u64,
    /// Address of the frame that was counted last, until the next flush: a frame on many topics counts
    /// once.
    counted: usize,
}

impl Laps {
    /// Whether a lap is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.rounds.iter().all(Round::is_over)
    }

    /// Counts a publication in send queues. A frame with a conflation key does not count: a waiting
    /// client gets the newest frame, and waiting would make the newest frame old.
    pub(crate) fn count_published(&mut self, frame: &Arc<Frame>) {
        let address = Arc::as_ptr(frame).addr();
        if !frame.is_state() && self.counted != address {
            self.counted = address;
            self.published += frame.queue_bytes() as u64;
        }
    }

    /// Bytes of publications without a conflation key that may still wait for some client's write: a client that this
    /// lap has not reached was written to in the lap before, or has got nothing since.
    pub(crate) fn published_bytes(&self) -> usize {
        (self.published - self.published_before_last_lap) as usize
    }

    /// Bytes that were published since this lap began.
    pub(super) fn since_begin(&self) -> usize {
        (self.published - self.published_before_lap) as usize
    }

    /// Begins a lap; the lap before has reached all clients.
    pub(super) fn begin(&mut self, dirty: &mut [SlotSet; LISTS]) {
        self.published_before_last_lap = self.published_before_lap;
        self.published_before_lap = self.published;
        self.begun = self.begun.wrapping_add(1);
        self.begin_rounds(0..LISTS, dirty);
    }

    /// Begins a round over the clients with little to send, if the one before is over: also over those whose first frame was
    /// queued since the lap began. Called at the begin of each flush.
    pub(super) fn begin_little(&mut self, dirty: &mut [SlotSet; LISTS]) {
        // The frame that was counted last may be freed, and another may have its address.
        self.counted = 0;
        if self.are_over(LITTLE) {
            self.begin_rounds(LITTLE, dirty);
        }
    }

    fn begin_rounds(&mut self, lists: Range<usize>, dirty: &mut [SlotSet; LISTS]) {
        for list in lists {
            self.rounds[list].begin(&mut dirty[list], self.begun);
        }
    }

    /// After a flush: if it has reached all clients, nothing that was published waits for a client any more.
    pub(super) fn forget_if_over(&mut self) {
        if !self.is_under_way() {
            (self.published_before_lap, self.published_before_last_lap) =
                (self.published, self.published);
        }
    }

    /// The clients that a lap has yet to reach.
    pub(super) fn waiting(&self) -> [&SlotSet; LISTS] {
        self.rounds.each_ref().map(|round| &round.waiting)
    }

    /// Takes the next client of a list.
    #[inline]
    pub(super) fn take(&mut self, list: usize) -> Option<u32> {
        self.rounds[list].take()
    }

    /// Adds a client to a list of this lap.
    pub(super) fn add(&mut self, list: usize, slot: u32) {
        self.rounds[list].waiting.insert(slot);
    }

    /// Removes a client from all lists of this lap.
    pub(super) fn remove(&mut self, slot: u32) {
        for round in &mut self.rounds {
            round.waiting.remove(slot);
        }
    }

    /// Whether this lap has reached all clients of a list.
    pub(super) fn is_list_over(&self, list: usize) -> bool {
        self.rounds[list].is_over()
    }

    /// Whether this lap has reached all clients of these lists.
    pub(super) fn are_over(&self, lists: Range<usize>) -> bool {
        self.rounds[lists].iter().all(Round::is_over)
    }
}

/// The clients of one list that the flush has not written to yet.
#[derive(Debug, Default)]
struct Round {
    waiting: SlotSet,
    /// The slot at which the walk continues.
    next: u32,
}

impl Round {
    fn is_over(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the clients of a list. The start moves on by a prime each lap, so that no client is always last. It is
    /// counted in clients and not in slots, because slots with nothing to send are between the clients.
    fn begin(&mut self, list: &mut SlotSet, lap: usize) {
        debug_assert!(
            self.is_over(),
            "clients of an earlier round would be passed over"
        );
        if list.is_empty() {
            return;
        }
        std::mem::swap(&mut self.waiting, list);
        let start = lap.wrapping_mul(7919) % self.waiting.len();
        // The walk finds the first client itself.
        self.next = match start {
            0 => 0,
            start => self.waiting.slot_at(start),
        };
    }

    /// Takes the next client, in the order of the slots from the start on and then from the first slot.
    #[inline]
    fn take(&mut self) -> Option<u32> {
        let behind = self.waiting.take_from(self.next);
        let slot = behind.or_else(|| self.waiting.take_from(0))?;
        self.next = slot + 1;
        Some(slot)
    }
}
