//! A connection in the core. The core asks a session for due work and for the consequences of a write,
//! and turns the results into effects and counters.
//!
//! The hot part has the fields that a publish and a flush use; everything else is behind one pointer.
//! The border is a type boundary, not a promise of speed.

mod due;
mod lifecycle;
mod look;
mod phase;
mod reading;
mod record;

use std::io::IoSlice;
use std::sync::Arc;

use super::deadlines::{Timer, Timers};
use super::deflated::Inflates;
use super::protocol::{Codec, Encoding, Protocol as _, Step};
use super::send_queue::{Pushed, SendQueue, Wrote};
use super::shell::{Permit, Secured};
use super::stats::{Moved, PhaseKind};
use super::{Class, CloseReason, ConflationKey, Frame, Limits, Now, SendQueueLimits};
use crate::admission::{AddressPlace, ClientAddr, Peer, TokenBucket};
use crate::wire::frame_reader::FrameScratch;

pub(super) use due::Due;
pub(super) use lifecycle::{CloseBegun, Departed, HeadRead, Opening, PeerEnd};
pub(super) use phase::{AfterWrite, PendingClose};
pub(super) use reading::{Pause, Pauses};

use phase::{Head, Phase, Ping};
use reading::Reading;
use record::Record;

/// One connection, from the accept until its socket is released.
#[derive(Debug)]
pub(super) struct Session {
    generation: u32,
    intake: Intake,
    sending: Sending,
    /// Whether a token bucket limits the queue's input.
    rate_limited: bool,
    /// Whether the gateway waits until the queue has room.
    room_wanted: bool,
    queue: SendQueue,
    cold: Box<Cold>,
}

/// Whether the session takes new data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intake {
    /// Open and not about to close.
    Open,
    /// Open, but over a limit: in the list of sessions to be dropped.
    Over,
    /// Not open yet, about to close, or closed.
    Closed,
}

/// The state of a session between two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// In no list: nothing waits, or the session was not listed yet.
    Idle,
    /// In a list of the next flush.
    Listed,
    /// The kernel takes nothing until the socket is writable again.
    Blocked,
}

#[derive(Debug)]
struct Cold {
    phase: Phase,
    timers: Timers,
    /// The earliest entry in the heap of deadlines.
    armed_at: Option<u64>,
    reading: Reading,
    /// The codec of [`Encoding::Coded`].
    codec: Option<&'static Codec>,
    permit: Option<Permit>,
    rate: Option<TokenBucket>,
    record: Record,
}

/// The outcome of a delivery to one client.
pub(super) enum Delivered {
    /// The client takes no data.
    Refused,
    /// The frame is over the client's rate.
    Shed,
    /// The frame waits; never [`Pushed::Over`].
    Queued(Pushed),
    /// A limit is exceeded; the frame was not queued. With the reason at the first time, when the
    /// client joins the list of clients to be dropped.
    Over(Option<CloseReason>),
}

/// The effect of one write.
pub(super) struct Written {
    pub(super) wrote: Wrote,
    /// The kernel took less than offered.
    pub(super) short: bool,
    /// Whether [`Session::after_write`] has to be called: not in the common case of an open session
    /// with an empty queue.
    pub(super) follows: bool,
}

impl Session {
    /// Returns a session that awaits the request head.
    pub(super) fn new(
        generation: u32,
        peer: Peer,
        now: Now,
        permit: Permit,
        limits: &Limits,
    ) -> (Self, Moved) {
        let mut timers = Timers::default();
        timers.set(Timer::Handshake, now.mono_us + limits.handshake_us);
        let cold = Cold {
            phase: Phase::Head(Head::default()),
            timers,
            armed_at: None,
            reading: Reading::default(),
            codec: None,
            permit: Some(permit),
            rate: None,
            record: Record::new(peer, now),
        };
        let session = Self {
            generation,
            intake: Intake::Closed,
            sending: Sending::Idle,
            rate_limited: false,
            room_wanted: false,
            queue: SendQueue::new(),
            cold: Box::new(cold),
        };
        let moved = Moved {
            from: None,
            to: PhaseKind::Head,
            is_other: false,
        };
        (session, moved)
    }

    // ---- getters

    #[inline]
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn phase(&self) -> PhaseKind {
        self.cold.phase.kind()
    }

    /// Whether the session is open and not about to close.
    #[inline]
    pub(super) fn takes_data(&self) -> bool {
        self.intake != Intake::Closed
    }

    pub(super) fn wants_read(&self) -> bool {
        !self.cold.reading.is_paused() && self.phase() != PhaseKind::Gone
    }

    pub(super) fn pauses(&self) -> Pauses {
        self.cold.reading.pauses()
    }

    /// Whether the next read may return a message for the gateway.
    pub(super) fn may_bring_message(&self, input: &[u8]) -> bool {
        let Phase::Open(open) = &self.cold.phase else {
            return false;
        };
        let comes = !input.is_empty() || open.protocol.holds_messages();
        comes && self.takes_data() && self.wants_read()
    }

    pub(super) fn peer(&self) -> Peer {
        self.cold.record.peer
    }

    pub(super) fn client_addr(&self) -> ClientAddr {
        self.cold.record.client
    }

    /// Frames that wait or were begun.
    pub(super) fn queued_frames(&self) -> usize {
        self.queue.frames()
    }

    /// Bytes of the frames that wait; a frame that was begun counts whole.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Whether the kernel took less than offered, and the socket is not writable again.
    pub(super) fn is_blocked(&self) -> bool {
        self.sending == Sending::Blocked
    }

    /// Frames that wait or were begun, in their order.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Frame>> {
        self.queue.entries()
    }

    /// Panics if the session by itself is inconsistent.
    pub(super) fn check_invariants(&self) {
        self.queue.check_invariants();
        let open = self.phase() == PhaseKind::Open;
        assert!(open || !self.takes_data(), "takes data before or after");
        let gone = self.phase() == PhaseKind::Gone;
        assert!(!gone || self.queue.is_empty(), "gone, and something waits");
    }

    // ---- what a publish touches

    /// Puts a frame in the send queue.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        now: Now,
        frame: &Arc<Frame>,
        limits: &SendQueueLimits,
    ) -> Delivered {
        if self.intake == Intake::Closed {
            return Delivered::Refused;
        }
        if self.rate_limited && frame.class() == Class::Data {
            let rate = self.cold.rate.as_mut();
            if rate.is_some_and(|rate| !rate.take(now.mono_us)) {
                self.queue.shed(frame);
                return Delivered::Shed;
            }
        }
        let pushed = self.queue.push(now, frame, limits);
        match pushed {
            Pushed::Over(reason) => {
                let first = self.intake != Intake::Over;
                self.intake = Intake::Over;
                return Delivered::Over(first.then_some(reason));
            }
            Pushed::Conflated { frames, .. } => {
                self.cold.record.traffic.messages_conflated += u64::from(frames);
            }
            Pushed::Queued | Pushed::QueuedOverSoft => {}
        }
        Delivered::Queued(pushed)
    }

    /// Puts a replayed frame in the send queue. Returns false if the client takes no data.
    pub(super) fn replay(&mut self, now: Now, frame: &Arc<Frame>) -> bool {
        let takes = self.takes_data();
        if takes {
            self.queue.replay(now, frame);
        }
        takes
    }

    /// [`Self::finds_room`] returns `true` once from here on.
    pub(super) fn want_room(&mut self) {
        self.room_wanted = true;
    }

    /// Whether the gateway waits for room and the queue has room.
    #[inline]
    pub(super) fn finds_room(&mut self) -> bool {
        let found = self.room_wanted && self.queue.has_room();
        self.room_wanted &= !found;
        found
    }

    /// Whether so many data frames of so many bytes together would all be queued now, without exceeding
    /// a limit.
    pub(super) fn fits(
        &mut self,
        now: Now,
        frames: usize,
        bytes: usize,
        soft_bytes: usize,
    ) -> bool {
        if self.intake != Intake::Open || self.queue.bytes() + bytes > soft_bytes {
            return false;
        }
        let rate = self.cold.rate.as_mut().filter(|_| self.rate_limited);
        rate.is_none_or(|rate| rate.holds(frames, now.mono_us))
    }

    /// Skips the next number: a loss that the client sees as a gap.
    pub(super) fn skip_number(&mut self) {
        self.queue.next_seq += 1;
    }

    /// Removes the keyed frames that were not begun and have one of these keys; returns frames and
    /// bytes.
    pub(super) fn forget(&mut self, keys: &[ConflationKey]) -> (u32, usize) {
        let (frames, bytes) = self.queue.remove(|key| keys.contains(&key));
        self.queue.rest_if_empty();
        self.cold.record.traffic.messages_conflated += u64::from(frames);
        (frames, bytes)
    }

    /// Joins a list of the next flush: 0 for clients whose frames go out as made, 1 for the others.
    /// `None` if the session is in a list already, or the kernel takes nothing.
    #[inline]
    pub(super) fn enlist(&mut self) -> Option<usize> {
        if self.sending != Sending::Idle {
            return None;
        }
        self.sending = Sending::Listed;
        Some(usize::from(self.queue.encoding() != Encoding::Plain))
    }

    /// Whether the session is in a list of a flush.
    pub(super) fn is_listed(&self) -> bool {
        self.sending == Sending::Listed
    }

    pub(super) fn forget_window(&mut self) {
        self.queue.forget_window();
    }

    // ---- what a flush touches

    #[inline]
    pub(super) fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Leaves the flush list, makes the encodings of the next write by `deflate`, and appends the leads
    /// to `leads`. Returns false if there is nothing to write.
    #[inline]
    pub(super) fn prepare_write(
        &mut self,
        bytes_max: usize,
        leads: &mut Vec<u8>,
        mut deflate: impl FnMut(&Frame, Inflates),
    ) -> bool {
        if self.sending == Sending::Blocked {
            return false;
        }
        self.sending = Sending::Idle;
        if self.queue.is_empty() {
            return false;
        }
        match self.queue.encoding() {
            Encoding::Plain => {}
            Encoding::Deflate(params) => self.queue.encode_next(bytes_max, |frame, window| {
                deflate(frame, Inflates { params, window });
            }),
            Encoding::Coded(_) => self.encode_next(bytes_max),
        }
        self.queue.render_leads(bytes_max, leads);
        true
    }

    /// Makes the encodings of the next write, for a protocol with a codec.
    fn encode_next(&self, bytes_max: usize) {
        if let Some(codec) = self.cold.codec {
            self.queue.encode_next(bytes_max, |frame, _| {
                frame.encode_with(codec);
            });
        }
    }

    /// The next write, as [`SendQueue::gather`].
    #[inline]
    pub(super) fn gather<'a>(
        &'a self,
        bytes_max: usize,
        leads: &'a [u8],
        out: &mut Vec<IoSlice<'a>>,
    ) {
        self.queue.gather(bytes_max, leads, out);
    }

    /// Handles a write: the kernel took `taken` bytes of `offered`.
    #[inline]
    pub(super) fn wrote(&mut self, now: Now, taken: usize, offered: usize) -> Written {
        let wrote = self.queue.wrote(now, taken);
        let short = taken < offered;
        if short {
            self.sending = Sending::Blocked;
        }
        Written {
            wrote,
            short,
            follows: wrote.control_out || !self.queue.is_empty() || !self.takes_data(),
        }
    }

    /// Notes that the kernel took bytes that the shell keeps behind a write.
    pub(super) fn note_progress(&mut self, now: Now) {
        self.queue.note_progress(now);
    }

    /// Notes that the kernel takes bytes again.
    pub(super) fn unblock(&mut self) {
        if self.sending == Sending::Blocked {
            self.sending = Sending::Idle;
        }
    }

    // ---- input

    pub(super) fn count_read(&mut self, bytes: usize) {
        self.cold.record.traffic.bytes_in += bytes as u64;
    }

    pub(super) fn count_message(&mut self) {
        self.cold.record.traffic.messages_in += 1;
    }

    /// Reads the next bytes of `input` up to a step; `None`: no step for now. While reading is paused,
    /// and while more than `control_bytes_max` wait in the control part, the input is kept for later.
    pub(super) fn read(
        &mut self,
        now: Now,
        input: &mut &[u8],
        control_bytes_max: usize,
        scratch: &mut FrameScratch,
    ) -> Option<Step> {
        let cold = &mut *self.cold;
        if self.queue.control_bytes() > control_bytes_max {
            cold.reading.pause(Pause::Control, now);
        }
        if cold.reading.is_paused() {
            cold.reading.hold(input);
            return None;
        }
        let Phase::Open(open) = &mut cold.phase else {
            return None;
        };
        let control = self.queue.control(now);
        let step = open.protocol.read(input, control, scratch);
        match step {
            // Also without a ping.
            Some(Step::Pong) => open.ping = Ping::Idle,
            Some(Step::PeerClosed(code)) => cold.record.code = code,
            _ => {}
        }
        step
    }

    /// Returns false if reading was paused for this reason already.
    pub(super) fn pause(&mut self, why: Pause, now: Now) -> bool {
        self.cold.reading.pause(why, now)
    }

    /// Returns true if the last reason against reading is removed. The time of the pause does not count
    /// for a pong, which may be behind unread input.
    pub(super) fn resume(&mut self, why: Pause, now: Now, limits: &Limits) -> bool {
        let paused_us = self.cold.reading.resume(why, now);
        if let (Some(paused_us), Phase::Open(open)) = (paused_us, &mut self.cold.phase)
            && let Some(due) = open.ping.pong_due()
        {
            let latest = now.mono_us + limits.pong_timeout_us;
            open.ping.allow_until(latest.min(due + paused_us));
        }
        paused_us.is_some()
    }

    pub(super) fn take_held(&mut self) -> Vec<u8> {
        self.cold.reading.take_held()
    }

    // ---- the client's permits and limits

    pub(super) fn set_path(&mut self, path: &str) {
        self.cold.record.set_path(path);
    }

    /// Sets the client that a trusted proxy names before the client's first byte.
    pub(super) fn set_peer(&mut self, peer: Peer) {
        self.cold.record.peer = peer;
        self.cold.record.client = peer.client();
    }

    /// Sets what the handshake of TLS has told.
    pub(super) fn set_secured(&mut self, secured: Secured) {
        self.cold.record.tls = Some(secured.version);
        self.cold.record.user = secured.user;
    }

    /// Sets the client's address, as reported by a trusted proxy.
    pub(super) fn set_client_addr(&mut self, client: ClientAddr) {
        self.cold.record.client = client;
    }

    /// Counts the connection for its address until the connection ends.
    pub(super) fn hold_place(&mut self, place: Option<AddressPlace>) {
        if let Some(permit) = &mut self.cold.permit {
            permit.hold(place);
        }
    }
}
