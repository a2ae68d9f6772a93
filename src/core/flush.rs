//! One write per client and turn, in batches of three passes: plan, borrow, apply.
//!
//! The plan makes the encodings and prefixes of the write. The borrow collects slices of the queues
//! themselves, without a copy of any byte of a shared frame. The shell tries each write once, and the
//! apply moves the queues by the bytes that the kernel took. The vectors live on from batch to batch,
//! so that a flush allocates nothing.
//!
//! Which clients a batch writes to: [`laps`].

mod laps;

use std::io::{self, IoSlice};
use std::mem::take;
use std::ops::Range;
use std::sync::Arc;

pub(super) use self::laps::{LISTS, Laps, list_of};
use self::laps::{LITTLE, LONG, is_long};
use super::clients::Clients;
use super::core::Core;
use super::deflated::{Compressor, FramePlan, Inflates};
use super::encodings::{Key, Kind};
use super::large_encoding::LargeEncoder;
use super::protocol::event_stream;
use super::send_queue::Offered;
use super::session::{AfterWrite, Encode, InputProgress, Pause, Session};
use super::shell::{Transmit, Write};
use super::stats::HubStats;
use super::tables::SlotSet;
use super::turn::Turn;
use super::{
    Class, CloseReason, Effect, Encoded, Frame, FrameBytes, LARGE_BYTES, Limits, SendError,
    SessionKey, SocketEnd,
};

/// The most sessions in one batch.
const BATCH_SESSIONS: usize = 128;

/// The most frames of one batch; the last write may exceed the limit. A frame costs a third of a microsecond, however
/// short it is. The limit matters because a flush ends only after a batch, even if its time is over earlier.
const BATCH_FRAMES: usize = 1_024;

/// The most bytes of one batch; the last write may exceed the limit.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// The most time that one batch compresses, microseconds; the last payload may exceed the limit. Bytes would be no
/// measure: a short message after a window of 32 KiB takes as long as a long one.
const BATCH_DEFLATE_US: u64 = 250;

/// With more bytes than this in all send queues together, a lap takes several turns.
const LONG_FLUSH_BYTES: u64 = 16 * 1024 * 1024;

/// The most bytes of one write to a client with several states during such a lap. If states are skipped before the lap
/// ends, the clients that it wrote to first have got little more than the others.
const LONG_FLUSH_STATE_BYTES: usize = 16 * 1024;

/// Vectors that are empty between batches and keep their memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    plans: Vec<Plan>,
    prepared: Prepared,
    slices: Vec<IoSlice<'static>>,
    writes: Vec<Write<'static>>,
    wrote: Vec<io::Result<usize>>,
    /// Clients that miss a frame, because there was no memory for its encoding, and those that wait for the rest of one.
    held_up: Vec<SessionKey>,
}

/// What the writes of a batch need beside the queues themselves.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// The prefixes of the frames that have one, in the order of the writes.
    pub(super) prefixes: Vec<u8>,
    /// For each frame that does not go out plain, the encoding that was made for it.
    pub(super) frame_plans: Vec<FramePlan>,
}

impl Prepared {
    fn clear(&mut self) {
        self.prefixes.clear();
        self.frame_plans.clear();
    }

    /// The part of one write.
    #[inline]
    fn part_for(&self, plan: &Plan) -> PreparedWrite<'_> {
        PreparedWrite {
            prefixes: &self.prefixes[indices(&plan.prefixes)],
            frame_plans: &self.frame_plans[indices(&plan.frame_plans)],
        }
    }
}

/// The part of [`Prepared`] that belongs to one write.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreparedWrite<'a> {
    pub(super) prefixes: &'a [u8],
    pub(super) frame_plans: &'a [FramePlan],
}

/// A planned write to one client.
#[derive(Debug)]
struct Plan {
    key: SessionKey,
    /// The most bytes of the write.
    bytes_max: usize,
    /// The parts of [`Prepared`] that belong to the write.
    prefixes: Range<u32>,
    frame_plans: Range<u32>,
    /// The slices of the write among those of the batch. Empty before the second pass.
    slices: Range<u32>,
    /// What these slices are.
    offered: Offered,
}

/// The range of a [`Plan`], which is short so that the plans of a batch stay close.
#[inline]
fn indices(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// What encodes the frames of a batch for its clients, within the time of the batch and the memory of frames.
struct BatchEncoder<'a> {
    compressor: &'a mut Compressor,
    large_encoder: &'a mut LargeEncoder,
    turn: &'a mut Turn,
    frames: &'a FrameBytes,
    frame_bytes_max: u64,
    /// False once encodings have used up the time of the batch.
    has_time: bool,
    /// Whether there was no memory for the encoding that was requested last; `is_waiting` is false then.
    is_refused: bool,
    /// Whether the encoding that was requested last is made only in part, or waits for another one. It goes on in a
    /// later flush.
    is_waiting: bool,
}

impl BatchEncoder<'_> {
    /// Makes the encoding of a frame for a client and appends its plan. Returns false if the time is over.
    #[inline]
    fn plan(
        &mut self,
        frame: &Arc<Frame>,
        client: Inflates,
        company: &mut u32,
        stats: &mut HubStats,
        plans: &mut Vec<FramePlan>,
    ) -> bool {
        if !self.has_time {
            return false;
        }
        if frame.body_bytes() > LARGE_BYTES && !self.make_large_for(frame, client, stats) {
            return false;
        }
        plans.push(*self.compressor.plan(frame, client, company, stats));
        // The clock is read only after a compression.
        self.has_time &= !self.compressor.take_has_compressed() || self.turn.has_batch_time();
        true
    }

    /// Makes the encoding of a large frame for a client with compression. Returns false if the time is over before its end, or
    /// there is no memory for it.
    #[cold]
    fn make_large_for(
        &mut self,
        frame: &Arc<Frame>,
        client: Inflates,
        stats: &mut HubStats,
    ) -> bool {
        loop {
            let kind = self.compressor.large_kind(frame, client);
            if frame.encoded(Key::of(kind)).is_some() {
                return true;
            }
            // With room for the headers of stored blocks.
            let bytes = frame.body_bytes() + frame.body_bytes() / 8_192 + 64;
            if !self.make_large(frame, kind, || bytes, stats) {
                return false;
            }
        }
    }

    /// Makes an encoding of a large frame. Returns false if the time of the batch is over before it is made, or there is no
    /// memory for it. `bytes`: about what it takes.
    #[cold]
    fn make_large(
        &mut self,
        frame: &Arc<Frame>,
        kind: Kind,
        bytes: impl FnOnce() -> usize,
        stats: &mut HubStats,
    ) -> bool {
        let encoder = &mut *self.large_encoder;
        let mut is_done = true;
        if !encoder.is_making(frame, kind) {
            // One is made at a time, so one that is under way is finished first.
            is_done = encoder.advance(self.turn, stats);
            if is_done {
                let bytes = bytes();
                if !self.has_memory(frame, bytes) {
                    return false;
                }
                self.large_encoder.begin(frame, kind, bytes);
            }
        }
        let is_made = is_done && self.large_encoder.advance(self.turn, stats);
        self.is_waiting = !is_made;
        self.has_time = is_made && self.turn.has_batch_time();
        is_made
    }

    /// As [`plan`](Self::plan), for a client of an event stream.
    #[inline]
    fn plan_event(
        &mut self,
        frame: &Arc<Frame>,
        (kind, encode): (Kind, fn(&Frame) -> Encoded),
        stats: &mut HubStats,
        plans: &mut Vec<FramePlan>,
    ) -> bool {
        if !self.has_time {
            return false;
        }
        let is_new = frame.body_bytes() > LARGE_BYTES && frame.encoded(Key::of(kind)).is_none();
        if is_new {
            let bytes = || event_stream::encoded_bytes(frame, kind == Kind::RawEvent);
            if !self.make_large(frame, kind, bytes, stats) {
                return false;
            }
        }
        frame.encode_event(kind, encode);
        plans.push(FramePlan::of(kind));
        true
    }

    /// Whether there is memory for one more encoding: all frames are within their limit without it, and the encoding by
    /// itself is, too. For an answer there always is. Sets `is_refused` if there is none.
    #[cold]
    fn has_memory(&mut self, frame: &Frame, bytes: usize) -> bool {
        let is_over = self.frames.alive() > self.frame_bytes_max;
        let fits = !is_over && bytes as u64 <= self.frame_bytes_max;
        self.is_refused = !fits && frame.class() == Class::Data;
        !self.is_refused
    }
}

impl Core {
    /// Writes to the sessions with something to send, while there is time: first to those with little, then to those that
    /// this lap has yet to reach.
    pub(super) fn flush_dirty(&mut self, tx: &mut dyn Transmit) {
        self.turn.begin_batch(BATCH_DEFLATE_US);
        // A large encoding under way is continued even if no client waits for it any more.
        let (encoder, stats) = (&mut self.large_encoder, &mut self.clients.stats);
        encoder.advance(&mut self.turn, stats);
        let is_over = !self.laps.is_under_way() || self.flush_lists(tx);
        if is_over {
            // Held states go into the queues before the lap takes the lists, so that they go out in this lap.
            self.begin_release();
            self.release_states();
            self.laps.begin(&mut self.clients.dirty);
            self.flush_lists(tx);
        }
        self.laps.forget_if_over();
        self.continue_release();
    }

    /// Returns false if the time was over before the end of the lap.
    fn flush_lists(&mut self, tx: &mut dyn Transmit) -> bool {
        loop {
            // `&`, because the others get a batch even if those with little to send have used up the time.
            let is_over = self.flush_little(tx) & self.flush_long(tx);
            // What is left of a long queue may be little, and belongs to this lap too.
            if !is_over || !self.laps.is_under_way() {
                return is_over;
            }
        }
    }

    /// Whether some clients wait for a write that the kernel may take.
    pub(super) fn has_unflushed(&self) -> bool {
        let listed = || self.clients.dirty.iter().any(|list| !list.is_empty());
        self.laps.is_under_way() || listed() || self.holds_states()
    }

    /// Writes to the clients with little to send, also those whose first frame was queued since the lap began. Returns
    /// false if the time was over before the end.
    pub(super) fn flush_little(&mut self, tx: &mut dyn Transmit) -> bool {
        self.laps.begin_little(&mut self.clients.dirty);
        for list in LITTLE {
            while !self.laps.is_list_over(list) && self.turn.has_time() {
                self.flush_batch(list, tx);
            }
        }
        self.laps.are_over(LITTLE)
    }

    /// Writes to the other clients of this lap: a batch at least, so that clients with little to send do not keep them
    /// waiting for ever. Returns false if the time was over before the end.
    fn flush_long(&mut self, tx: &mut dyn Transmit) -> bool {
        for list in LONG {
            while !self.laps.is_list_over(list) {
                self.flush_batch(list, tx);
                if !self.turn.has_time() {
                    return self.laps.are_over(LONG);
                }
            }
        }
        true
    }

    /// Writes to the next clients of a list: to fewer than usual if many bytes have to be written or deflated.
    fn flush_batch(&mut self, list: usize, tx: &mut dyn Transmit) {
        self.plan_batch(list);
        self.write_batch(tx);
        let scratch = &mut self.scratch;
        let (mut plans, mut wrote) = (take(&mut scratch.plans), take(&mut scratch.wrote));
        let prepared = take(&mut scratch.prepared);
        for (plan, outcome) in plans.drain(..).zip(wrote.drain(..)) {
            let frame_plans = &prepared.frame_plans[indices(&plan.frame_plans)];
            self.apply(plan.key, plan.offered, frame_plans, outcome);
        }
        let scratch = &mut self.scratch;
        (scratch.plans, scratch.wrote, scratch.prepared) = (plans, wrote, prepared);
        while let Some(key) = self.scratch.held_up.pop() {
            let session = self.clients.session_mut(key);
            if session.is_some_and(Session::take_drained) {
                self.drained.push(key);
            }
            self.note_wait(key);
            self.clients.mark_dirty(self.now, key);
        }
    }

    /// Plans a write to each of the next clients of a list. A client that turns out to have much to send moves to a list
    /// of such clients.
    #[inline]
    fn plan_batch(&mut self, list: usize) {
        let is_behind = self.overload.is_holding;
        let is_little = LITTLE.contains(&list);
        let is_long_lap = self.clients.stats.send_queue_bytes > LONG_FLUSH_BYTES;
        let (scratch, turn) = (&mut self.scratch, &mut self.turn);
        turn.begin_batch(BATCH_DEFLATE_US);
        scratch.plans.clear();
        scratch.prepared.clear();
        scratch.wrote.clear();
        self.compressor.begin(self.now);
        let mut encoder = BatchEncoder {
            compressor: &mut self.compressor,
            large_encoder: &mut self.large_encoder,
            turn,
            frames: &self.frame_bytes,
            frame_bytes_max: self.limits.frame_bytes_max,
            has_time: true,
            is_refused: false,
            is_waiting: false,
        };
        let (mut planned, mut frames, mut bytes) = (0, 0, 0);
        while planned < BATCH_SESSIONS
            && frames <= BATCH_FRAMES
            && bytes <= BATCH_BYTES
            && encoder.has_time
            && let Some(slot) = self.laps.take(list)
        {
            planned += 1;
            let Some(session) = self.clients.sessions.get(slot as usize) else {
                continue;
            };
            let waiting = session.queue_bytes();
            if is_little && is_long(waiting) {
                // The two lists of LONG are in the order of those of LITTLE, which begin at 0 (`list_of`).
                let long = list + LONG.start;
                // What was published before this lap goes out in this lap.
                match session.owes(self.laps.since_begin()) {
                    true => self.laps.add(long, slot),
                    false => self.clients.dirty[long].insert(slot),
                }
                continue;
            }
            frames += session.write_frames();
            bytes += waiting.min(self.limits.write_bytes_max);
            if is_behind || session.is_crowded() {
                // A client that reads again gets no states that were replaced meanwhile.
                self.clients.skip_replaced(&self.limits, slot, is_behind);
            }
            let bytes_max = write_bytes_max(&self.clients, &self.limits, is_long_lap, slot);
            plan(&mut self.clients, slot, bytes_max, &mut encoder, scratch);
        }
        self.compressor.end();
    }

    /// Writes the planned bytes, as slices of the queues. The outcomes are in the order of the plans.
    #[inline]
    fn write_batch(&mut self, tx: &mut dyn Transmit) {
        let scratch = &mut self.scratch;
        let mut slices = recycle(take(&mut scratch.slices));
        for plan in &mut scratch.plans {
            let from = slices.len() as u32;
            if let Some(session) = self.clients.session(plan.key) {
                plan.offered =
                    session.gather(plan.bytes_max, scratch.prepared.part_for(plan), &mut slices);
            }
            plan.slices = from..slices.len() as u32;
        }
        let mut writes = recycle_writes(take(&mut scratch.writes));
        writes.extend(scratch.plans.iter().map(|plan| Write {
            key: plan.key,
            slices: &slices[indices(&plan.slices)],
        }));
        tx.send(&writes, &mut scratch.wrote);
        debug_assert_eq!(writes.len(), scratch.wrote.len(), "one outcome per write");
        scratch.writes = recycle_writes(writes);
        scratch.slices = recycle(slices);
    }

    /// Removes a free slot from all lists, so that no flush reaches the slot's next session.
    pub(super) fn unlist(&mut self, slot: u32) {
        for list in &mut self.clients.dirty {
            list.remove(slot);
        }
        self.laps.remove(slot);
    }

    /// Panics unless every listed session is in exactly one list, and no other session is in any.
    pub(super) fn check_lists(&self) {
        let lists = self.clients.dirty.iter().chain(self.laps.waiting());
        let lists: Vec<&SlotSet> = lists.collect();
        for (slot, session) in &self.clients.sessions {
            let within = lists.iter().filter(|list| list.contains(slot as u32));
            let listed = usize::from(session.is_listed());
            assert_eq!(within.count(), listed, "lists of the session in {slot}");
            let is_gathered = self.clients.gather.waiting.contains(slot as u32);
            assert_eq!(is_gathered, session.is_gathered(), "gathered in {slot}");
        }
        let listed = self.clients.sessions.iter().filter(|(_, s)| s.is_listed());
        let slots: usize = lists.iter().map(|list| list.len()).sum();
        assert_eq!(slots, listed.count(), "slots without a session");
    }

    /// Moves one queue by the bytes that the kernel took of those offered.
    fn apply(
        &mut self,
        key: SessionKey,
        offered: Offered,
        frame_plans: &[FramePlan],
        outcome: io::Result<usize>,
    ) {
        let now = self.now;
        let stats = &mut self.clients.stats;
        let Some(session) = self.clients.sessions.get_mut(key.slot as usize) else {
            return;
        };
        let taken = match outcome {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                stats.send_errors[SendError::of(&error) as usize] += 1;
                self.end(key, CloseReason::SocketError, SocketEnd::Reset);
                return;
            }
        };
        let written = session.wrote(now, taken, offered, frame_plans);
        stats.bytes_sent += taken as u64;
        stats.messages_sent += u64::from(written.wrote.frames);
        stats.count_removed(written.wrote.frames, written.wrote.bytes);
        stats.writes_short += u64::from(written.short);
        if session.take_drained() {
            self.drained.push(key);
        }
        if let Some(waits) = session.take_wait_change() {
            self.waits.note_waiting(now, key, waits);
        }
        if !written.short && session.owes(self.laps.since_begin()) {
            // The rest of a large frame, or what else was published before the lap, goes out in the same lap.
            if let Some(list) = session.enlist() {
                self.laps.add(list, key.slot);
            }
        }
        // So many bytes are out that the first ping does not wait for its interval.
        if written.asks_early {
            session.ping_early(now, &self.limits);
        }
        if written.follows {
            self.after_write(key, written.wrote.control_out);
        }
    }

    /// Notes that a queue may have begun or ceased to wait.
    pub(super) fn note_wait(&mut self, key: SessionKey) {
        let session = self.clients.session_mut(key);
        if let Some(waits) = session.and_then(Session::take_wait_change) {
            self.waits.note_waiting(self.now, key, waits);
        }
    }

    /// Does what has to follow a write. Not called in the common case, an open session with an empty queue; also called
    /// after a read from a session that closes.
    pub(super) fn after_write(&mut self, key: SessionKey, control_out: bool) {
        let (now, limits) = (self.now, &self.limits);
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        // The pongs are out, or the client has taken its answers: it may be read again.
        let reads_on = control_out || session.take_has_read();
        match session.after_write(now, control_out, limits) {
            AfterWrite::Nothing => {}
            AfterWrite::CloseWritten(reason) => self.start_closing(key, reason),
            AfterWrite::HalfClose => self.effects.push_back(Effect::HalfClose(key)),
            AfterWrite::End(reason) => self.end(key, reason, SocketEnd::Close),
        }
        if reads_on {
            // Pongs that are out count no longer as memory of the client's input; no message has come by that.
            self.count_received(key, InputProgress::None);
            self.resume(key, Pause::Control);
        }
        self.check_gate(key);
        self.clients.mark_dirty(self.now, key);
        self.arm(key);
    }
}

/// The most bytes of the next write to a session: less in a long lap, for a client whose states may be skipped.
#[inline]
fn write_bytes_max(clients: &Clients, limits: &Limits, is_long_lap: bool, slot: u32) -> usize {
    let has_several_states = || {
        let session = clients.sessions.get(slot as usize);
        session.is_some_and(Session::has_several_states)
    };
    match is_long_lap && has_several_states() {
        true => limits.write_bytes_max.min(LONG_FLUSH_STATE_BYTES),
        false => limits.write_bytes_max,
    }
}

/// Makes the encodings and prefixes for the write of one session, and plans the write, unless there is nothing to write. If
/// the time for compression ends meanwhile, the write ends with the frame before, and the batch with the write.
#[inline]
fn plan(
    clients: &mut Clients,
    slot: u32,
    bytes_max: usize,
    encoder: &mut BatchEncoder<'_>,
    scratch: &mut Scratch,
) {
    let Some(session) = clients.sessions.get_mut(slot as usize) else {
        return;
    };
    let (plans, prepared) = (&mut scratch.plans, &mut scratch.prepared);
    let key = session.key(slot as usize);
    let first_prefix = prepared.prefixes.len() as u32;
    let first_frame = prepared.frame_plans.len() as u32;
    let stats = &mut clients.stats;
    let mut company = 0;
    (encoder.is_refused, encoder.is_waiting) = (false, false);
    let encode = |frame: &Arc<Frame>, how, frame_plans: &mut Vec<FramePlan>| match how {
        Encode::Deflated(client) => encoder.plan(frame, client, &mut company, stats, frame_plans),
        Encode::Event(kind, event) => encoder.plan_event(frame, (kind, event), stats, frame_plans),
    };
    let mut has_to_write = session.prepare_write(bytes_max, prepared, encode);
    if encoder.is_refused || encoder.is_waiting {
        // A later frame is looked at again once it is the first.
        if prepared.frame_plans.len() as u32 == first_frame {
            if encoder.is_refused
                && let Some(bytes) = session.refuse_first()
            {
                stats.messages_shed += 1;
                stats.count_removed(1, bytes);
            }
            has_to_write = session.has_control();
        }
        scratch.held_up.push(key);
    }
    if has_to_write {
        plans.push(Plan {
            key,
            bytes_max,
            prefixes: first_prefix..prepared.prefixes.len() as u32,
            frame_plans: first_frame..prepared.frame_plans.len() as u32,
            slices: 0..0,
            offered: Offered::default(),
        });
    }
}

/// Returns an empty vector with the same memory, for slices of another lifetime: collecting in place
/// keeps the allocation.
fn recycle<'a>(mut slices: Vec<IoSlice<'_>>) -> Vec<IoSlice<'a>> {
    slices.clear();
    slices.into_iter().map(|_| IoSlice::new(&[])).collect()
}

/// Like [`recycle`], for writes.
fn recycle_writes<'a>(mut writes: Vec<Write<'_>>) -> Vec<Write<'a>> {
    writes.clear();
    let none = |write: Write<'_>| Write {
        key: write.key,
        slices: &[],
    };
    writes.into_iter().map(none).collect()
}
