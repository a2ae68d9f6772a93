//! A connection in the core. The core asks a session for due work and for the consequences of a write,
//! and turns the results into effects and counters.
//!
//! The hot part has the fields that a publish and a flush use; everything else is in [`Cold`], behind one pointer.

mod delivery;
mod due;
mod gate;
mod input;
mod lifecycle;
mod phase;
mod postponed;
mod reading;
mod record;
mod slots;
mod waits;

use std::io::IoSlice;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use super::deadlines::{Timer, Timers};
use super::deflated::{FramePlan, Inflates};
use super::encodings::Kind;
use super::flush::list_of;
use super::protocol::{Encoding, Step, event_stream};
use super::send_queue::{SendQueue, WRITE_FRAMES_MAX, Wrote};
use super::stats::{Moved, PhaseKind};
use super::{Content, Encoded, Frame, Limits, Now, SessionKey};
use weirgate_wire::admission::{
    AddressPlace, ClientAddr, ConnectionPermit, Peer, Permit, TokenBucket,
};
use weirgate_wire::deflate::DeflateParams;
use weirgate_wire::frame::FrameScratch;

pub(super) use delivery::Delivered;
pub(super) use due::Due;
pub(super) use input::Received;
pub use lifecycle::Accepted;
pub(super) use lifecycle::{CloseBegun, Departed};
pub(super) use phase::{AfterWrite, PendingClose};
pub(super) use reading::{Pause, Pauses};
pub(crate) use record::user_in_log;
pub use record::{ClientSnapshot, ClientState};
pub use slots::MaxRate;

use phase::{PartialHead, Phase};
use postponed::Postponed;
use reading::Reading;
use record::Record;
use slots::Slots;

/// The first ping is sent after this many bytes, even if the first interval is not over: a proxy may take megabytes
/// until then.
const FIRST_PING_BYTES: u64 = 256 * 1024;

/// One connection, from the accept until its socket is released.
#[derive(Debug)]
pub(super) struct Session {
    generation: u32,
    intake: Intake,
    sending: Sending,
    /// Whether a token bucket, the client's own rate, a gate or a resume under way limits the queue's input.
    is_limited: bool,
    /// Whether the gateway waits until the queue has room.
    room_wanted: bool,
    /// Whether missed messages wait, or have waited until this write.
    has_resumed: bool,
    /// Whether the queue has waited since a write that the kernel did not take whole.
    waits: bool,
    /// Whether weirgate itself holds the client's bytes back, after the session has written them.
    is_paced: bool,
    content: Content,
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
    /// In no list: what waits is gathered.
    Gathered,
    /// In a list of the next flush.
    Listed,
    /// The kernel takes nothing until the socket is writable again.
    Blocked,
}

#[derive(Debug)]
struct Cold {
    phase: Phase,
    timers: Timers,
    /// The time of the session's entry in the deadlines; never 0, because the clock starts at one second.
    armed_at: Option<NonZeroU64>,
    reading: Reading,
    /// The permit for the client's input that is kept. This and `resumed` are boxed, because most clients have none.
    received: Option<Box<Permit>>,
    /// The bytes that the gateway keeps of a request whose rest is handled later.
    rest_bytes: Option<NonZeroU32>,
    permit: Option<ConnectionPermit>,
    rate: Option<TokenBucket>,
    slots: Option<Box<Slots>>,
    /// Whether a sign of life is awaited.
    is_silent: bool,
    /// The permit for the client's waiting missed messages, among those of all clients.
    resumed: Option<Box<Permit>>,
    /// While the client resumes: the messages of the kept feed since then.
    postponed: Option<Box<Postponed>>,
    /// The losses of the bus that the client knows of.
    losses_known: u64,
    /// The client has asked for the status of the bus.
    asks_status: bool,
    /// The socket has ended, and the session still is a member of topics.
    is_released: bool,
    record: Record,
}

/// The effect of one write.
pub(super) struct Written {
    pub(super) wrote: Wrote,
    /// The kernel took less than offered.
    pub(super) short: bool,
    /// Whether an early ping is due.
    pub(super) asks_early: bool,
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
        permit: ConnectionPermit,
        limits: &Limits,
    ) -> Self {
        let mut timers = Timers::default();
        timers.set(Timer::Handshake, now.mono_us + limits.handshake_us);
        let cold = Cold {
            phase: Phase::Head(PartialHead::default()),
            timers,
            armed_at: None,
            reading: Reading::default(),
            received: None,
            rest_bytes: None,
            permit: Some(permit),
            rate: None,
            slots: None,
            is_silent: false,
            resumed: None,
            postponed: None,
            losses_known: 0,
            asks_status: false,
            is_released: false,
            record: Record::new(peer, now),
        };
        Self {
            generation,
            intake: Intake::Closed,
            sending: Sending::Idle,
            is_limited: false,
            room_wanted: false,
            has_resumed: false,
            waits: false,
            is_paced: false,
            content: Content::Text,
            queue: SendQueue::default(),
            cold: Box::new(cold),
        }
    }

    // ---- getters

    #[inline]
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// The key of the session in this slot.
    #[inline]
    pub(super) fn key(&self, slot: usize) -> SessionKey {
        SessionKey {
            slot: slot as u32,
            generation: self.generation,
        }
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
        let is_open = matches!(self.cold.phase, Phase::Open(_));
        let comes = !input.is_empty() || self.holds_messages();
        is_open && comes && self.takes_data() && self.wants_read()
    }

    /// Whether messages of an open client are kept, for later reads: the rest of the query of an event stream.
    pub(super) fn holds_messages(&self) -> bool {
        match &self.cold.phase {
            Phase::Open(open) => open.protocol.holds_messages(),
            _ => false,
        }
    }

    /// The kind of frames in which the client gets the messages of the feed.
    pub(super) fn content(&self) -> Content {
        self.content
    }

    pub(super) fn set_content(&mut self, content: Content) {
        self.content = content;
    }

    pub(super) fn peer(&self) -> Peer {
        self.cold.record.peer
    }

    pub(super) fn client_addr(&self) -> ClientAddr {
        self.cold.record.client
    }

    /// Frames that wait or were begun.
    pub(super) fn queued_frames(&self) -> usize {
        self.queue.frames() + self.slots().map_or(0, Slots::count)
    }

    /// Bytes in the send queue, without the frames that wait for a slot.
    #[inline]
    pub(super) fn queue_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// The most frames of the next write.
    pub(super) fn write_frames(&self) -> usize {
        self.queue.frames().min(WRITE_FRAMES_MAX)
    }

    /// Bytes of the frames that wait; a frame that was begun counts whole.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.bytes() + self.slots().map_or(0, Slots::bytes)
    }

    /// Memory of the send queue itself, if the queue is longer than a burst.
    pub(super) fn queue_room_bytes(&self) -> usize {
        self.queue.room_bytes()
    }

    /// Whether the client has a rate of its own.
    pub(super) fn has_own_rate(&self) -> bool {
        self.slots().is_some_and(Slots::has_rate)
    }

    /// The slots of a client with a rate of its own. Without a limit, nothing cold is touched.
    #[inline]
    fn slots(&self) -> Option<&Slots> {
        match self.is_limited {
            true => self.cold.slots.as_deref(),
            false => None,
        }
    }

    /// Whether the kernel took less than offered, and the socket is not writable again.
    pub(super) fn is_blocked(&self) -> bool {
        self.sending == Sending::Blocked
    }

    /// Frames that wait or were begun: those of the queue in their order, then those that wait for a
    /// slot.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Frame>> {
        let held = self.slots().into_iter().flat_map(Slots::frames);
        self.queue.entries().chain(held)
    }

    /// Panics if the session by itself is inconsistent.
    pub(super) fn check_invariants(&self) {
        self.queue.check_invariants();
        let open = self.phase() == PhaseKind::Open;
        assert!(open || !self.takes_data(), "takes data before or after");
        let held = self.slots().map_or(0, Slots::count);
        assert!(self.takes_data() || held == 0, "held for no slot");
        let gone = self.phase() == PhaseKind::Gone;
        assert!(!gone || self.queue.is_empty(), "gone, and something waits");
    }

    // ---- what a flush touches

    /// Returns the list of a flush that the session joins. `None` if the session is in a list already, or the kernel
    /// takes nothing.
    #[inline]
    pub(super) fn enlist(&mut self) -> Option<usize> {
        if self.sending != Sending::Idle {
            return None;
        }
        self.sending = Sending::Listed;
        Some(list_of(self.queue.bytes(), self.queue.is_plain()))
    }

    /// Lets what waits be gathered. Returns false if the session is in a list, or the kernel takes nothing.
    pub(super) fn set_gathered(&mut self) -> bool {
        let is_idle = matches!(self.sending, Sending::Idle | Sending::Gathered);
        if is_idle {
            self.sending = Sending::Gathered;
        }
        is_idle
    }

    /// Whether a pong, a ping or a close waits.
    pub(super) fn has_control(&self) -> bool {
        self.queue.control_bytes() > 0
    }

    /// Ends the gathering; returns whether something waits. What waits has waited for the loop alone, so only now does the
    /// client's time begin.
    pub(super) fn end_gathering(&mut self, now: Now) -> bool {
        if self.sending == Sending::Gathered {
            self.sending = Sending::Idle;
            self.queue.note_progress(now);
        }
        self.has_waiting()
    }

    /// Whether what waits is gathered.
    pub(super) fn is_gathered(&self) -> bool {
        self.sending == Sending::Gathered
    }

    /// Whether the client still has to get live messages from before the last `since` published bytes.
    #[inline]
    pub(super) fn owes(&self, since: usize) -> bool {
        self.queue.bytes() > since
            && self.takes_data()
            && self.queue.counted_bytes() > since
            && !self.has_several_states()
    }

    /// Whether the session is in a list of a flush.
    pub(super) fn is_listed(&self) -> bool {
        self.sending == Sending::Listed
    }

    #[inline]
    pub(super) fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Leaves the flush list, makes the encodings of the next write by `deflate`, and appends its plans and prefixes.
    /// Returns false if there is nothing to write.
    #[inline]
    pub(super) fn prepare_write(
        &mut self,
        bytes_max: usize,
        (prefixes, frame_plans): (&mut Vec<u8>, &mut Vec<FramePlan>),
        deflate: impl FnMut(&Arc<Frame>, Inflates) -> Option<FramePlan>,
    ) -> bool {
        if self.sending == Sending::Blocked {
            return false;
        }
        self.sending = Sending::Idle;
        if self.queue.is_empty() {
            return false;
        }
        let first = frame_plans.len();
        match self.queue.encoding() {
            Encoding::Plain => {}
            Encoding::Deflate(params) => {
                self.queue
                    .plan_frames(bytes_max, params, deflate, frame_plans)
            }
            Encoding::Event => {
                self.plan_events(bytes_max, (Kind::Event, event_stream::encode), frame_plans);
            }
            Encoding::RawEvent => {
                self.plan_events(
                    bytes_max,
                    (Kind::RawEvent, event_stream::encode_raw),
                    frame_plans,
                );
            }
        }
        self.queue
            .render_prefixes(bytes_max, &frame_plans[first..], prefixes);
        true
    }

    fn plan_events(
        &self,
        bytes_max: usize,
        (kind, encode): (Kind, fn(&Frame) -> Encoded),
        frame_plans: &mut Vec<FramePlan>,
    ) {
        let params = DeflateParams::default();
        let make = |frame: &Arc<Frame>, _| {
            frame.encode_event(kind, encode);
            Some(FramePlan::of(kind))
        };
        self.queue.plan_frames(bytes_max, params, make, frame_plans);
    }

    /// Lets no later message refer to an earlier one.
    pub(super) fn leave_window(&mut self) {
        self.queue.leave_window();
    }

    /// The next write, as [`SendQueue::gather`].
    #[inline]
    pub(super) fn gather<'a>(
        &'a self,
        bytes_max: usize,
        (prefixes, frame_plans): (&'a [u8], &[FramePlan]),
        out: &mut Vec<IoSlice<'a>>,
    ) {
        self.queue.gather(bytes_max, (prefixes, frame_plans), out);
    }

    /// Handles a write: the kernel took `taken` bytes of `offered`.
    #[inline]
    pub(super) fn wrote(
        &mut self,
        now: Now,
        (taken, offered): (usize, usize),
        frame_plans: &[FramePlan],
    ) -> Written {
        let wrote = self.queue.wrote(now, taken, frame_plans);
        let short = taken < offered;
        if self.has_resumed {
            self.give_back_resumed(now);
        }
        if short {
            self.sending = Sending::Blocked;
        }
        let bytes_out = self.queue.bytes_out();
        let asks_early =
            bytes_out >= FIRST_PING_BYTES && bytes_out - (taken as u64) < FIRST_PING_BYTES;
        Written {
            wrote,
            short,
            follows: wrote.control_out
                || !self.queue.is_empty()
                || !self.takes_data()
                || self.is_limited
                || asks_early,
            asks_early,
        }
    }

    /// Notes that the kernel took bytes that the shell had kept from an earlier write.
    pub(super) fn note_progress(&mut self, now: Now, limits: &Limits) {
        self.queue.note_progress(now);
        self.cold.note_reading(now, limits);
    }

    /// Notes that the kernel takes bytes again: the client has read some.
    pub(super) fn unblock(&mut self, now: Now, limits: &Limits) {
        if self.sending == Sending::Blocked {
            self.sending = Sending::Idle;
            self.cold.note_reading(now, limits);
        }
    }

    // ---- input

    /// Reads the next bytes of `input` up to a step; `None`: no step for now. While reading is paused,
    /// and while more than `control_bytes_max` wait in the control part, the input is kept for later.
    /// Input after a violation is discarded.
    pub(super) fn read(
        &mut self,
        now: Now,
        input: &mut &[u8],
        control_bytes_max: usize,
        scratch: &mut FrameScratch,
    ) -> Option<Step> {
        let cold = &mut *self.cold;
        if let Phase::Open(open) = &cold.phase
            && open.is_broken
        {
            *input = &[];
            return None;
        }
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
            Some(Step::Pong) => self.was_answered(now),
            Some(Step::PeerClosed(code)) => cold.record.code = code,
            Some(Step::Violation(..)) => open.is_broken = true,
            _ => {}
        }
        step
    }

    /// Whether the client has given no sign of life since [`Session::probe`].
    pub(super) fn is_silent(&self) -> bool {
        self.cold.is_silent
    }

    /// Handles a message, ping or pong of the client. Returns true if a sign of life was awaited.
    pub(super) fn has_answered(&mut self) -> bool {
        std::mem::take(&mut self.cold.is_silent)
    }

    /// Returns false if reading was paused for this reason already.
    pub(super) fn pause(&mut self, why: Pause, now: Now) -> bool {
        self.cold.reading.pause(why, now)
    }

    /// Returns true if the last reason against reading is removed. The awaited pong may be behind input that was not
    /// read, so its deadline moves by the time of the pause.
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

    /// Notes that the gateway goes on with the client's request later, and how much it keeps of the request.
    pub(super) fn set_rest(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.cold.rest_bytes = Some(NonZeroU32::new(bytes).unwrap_or(NonZeroU32::MIN));
    }

    /// Whether the gateway goes on with the client's request later.
    pub(super) fn has_rest(&self) -> bool {
        self.cold.rest_bytes.is_some()
    }

    /// The same; the gateway goes on now.
    pub(super) fn take_rest(&mut self) -> bool {
        self.cold.rest_bytes.take().is_some() && self.takes_data()
    }

    // ---- the client

    /// Notes that the socket has ended: the slot is free once the session is a member of no topic.
    pub(super) fn set_released(&mut self) {
        self.cold.is_released = true;
    }

    pub(super) fn is_released(&self) -> bool {
        self.cold.is_released
    }

    /// The data on the client for operators.
    pub(super) fn record(&mut self) -> &mut Record {
        &mut self.cold.record
    }

    /// The permit under the limits on connections, until it is handed over with the connection.
    pub(super) fn permit(&self) -> Option<&ConnectionPermit> {
        self.cold.permit.as_ref()
    }

    /// Counts the connection by another permit.
    pub(super) fn set_permit(&mut self, permit: ConnectionPermit) {
        self.cold.permit = Some(permit);
    }

    /// Counts what the client's token says, and what the gateway keeps for the client beyond others.
    pub(super) fn count_client(&mut self, client_bytes: Option<usize>, now: Now) {
        let token_bytes = self.cold.record.token_bytes();
        if let Some(permit) = &mut self.cold.permit {
            permit.set_token_bytes(token_bytes, now.mono_us);
            if let Some(bytes) = client_bytes {
                permit.set_client_bytes(bytes, now.mono_us);
            }
        }
    }

    /// Counts the memory of the connection for the client's address.
    pub(super) fn move_permit(&self) {
        if let Some(permit) = &self.cold.permit {
            permit.held().move_to(self.client_addr());
        }
    }

    /// Counts the memory of the connection for the peer's address: the connection of a proxy brings many clients.
    pub(super) fn give_permit_to_peer(&self) {
        if let Some(permit) = &self.cold.permit {
            permit.held().move_to(self.peer().client());
        }
    }

    /// Counts the connection as plain HTTP, or as one of the loop.
    pub(super) fn set_http(&mut self, is_http: bool, now: Now) {
        if let Some(permit) = &mut self.cold.permit {
            permit.set_http(is_http, now.mono_us);
        }
    }

    /// Counts the connection for its address until the connection ends.
    pub(super) fn hold_place(&mut self, place: Option<AddressPlace>) {
        if let Some(permit) = &mut self.cold.permit {
            permit.hold(place);
        }
    }
}
