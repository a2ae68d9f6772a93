//! A connection in the core. The core asks a session for due work and for the consequences of a write,
//! and turns the results into effects and counters.
//!
//! The hot part has the fields that a publish and a flush use; everything else is in [`Cold`], behind one pointer.
//!
//! | what | modules |
//! | --- | --- |
//! | from the accept to the end | `phase` (the phases), `lifecycle` (from one to the next), `due` (work at a time), `permits` |
//! | in | `input` (its memory), `reading` (steps and pauses) |
//! | out | `delivery`, `conflation`, `throttle` and `gate` (what is held back), `postponed` and `replayed` (older messages), `flush`, `waits` |
//! | what is known of the client | `record` (for operators), `bus_status` (what it knows of the bus) |

mod bus_status;
mod conflation;
mod delivery;
mod due;
mod flush;
mod gate;
mod input;
mod lifecycle;
mod permits;
mod phase;
mod postponed;
mod reading;
mod record;
mod replayed;
mod throttle;
mod unread_answers;
mod waits;

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use super::deadlines::{Timer, Timers};
use super::send_queue::{SendQueue, WRITE_FRAMES_MAX};
use super::stats::PhaseKind;
use super::{Content, Frame, Limits, Now, SessionKey};
use weirgate_wire::admission::{ClientAddr, ConnectionPermit, Peer, Permit, TokenBucket};

pub(super) use delivery::Delivered;
pub(super) use due::Due;
pub(super) use flush::Encode;
pub(super) use input::{InputProgress, Received};
pub use lifecycle::Accepted;
pub(super) use lifecycle::{CloseBegun, Departed};
pub(super) use phase::{AfterWrite, PendingClose};
pub(super) use postponed::NextPostponed;
pub(super) use reading::{Pause, Pauses};
pub(crate) use record::user_in_log;
pub use record::{ClientSnapshot, ClientState};

use phase::{PartialHead, Phase};
use postponed::Postponed;
use reading::InputPause;
use record::Record;
use throttle::Throttle;
use unread_answers::UnreadAnswers;

/// One connection, from the accept until its socket is released.
#[derive(Debug)]
pub(super) struct Session {
    generation: u32,
    intake: Intake,
    sending: Sending,
    /// Whether a token bucket, the client's own rate, a gate, a resume under way or the end of the intake ([`Self::over`]) limits
    /// the queue's input.
    is_limited: bool,
    awaited: Awaited,
    /// Whether missed messages wait, or have waited until this write.
    has_resumed: bool,
    /// Whether the client is not read until it has taken its answers.
    owes_reading: bool,
    /// Whether the queue has waited since a write that the kernel did not take whole.
    waits_for_kernel: bool,
    /// Whether weirgate itself holds the client's bytes back, after the session has written them.
    is_paced: bool,
    loss_doubt: LossDoubt,
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

/// What the gateway waits for: the kernel has to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// All that is in the send queue.
    Drained,
    /// All answers.
    AnswersTaken,
}

/// The state of a session between two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// In no list: nothing waits, or the session was not listed yet.
    Idle,
    /// In no list: what waits goes out a little later, together with what follows (`core/gather.rs`).
    Gathered,
    /// In a list of the next flush.
    Listed,
    /// The kernel takes nothing until the socket is writable again.
    Blocked,
}

/// What a client that gets older messages knows of possible losses of the bus ([`crate::doubts`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LossDoubt {
    /// It has not waited.
    None,
    /// It waits.
    Waits,
    /// All doubts from before its request are settled.
    Settled,
    /// It has waited too long.
    Unsettled,
}

#[derive(Debug)]
struct Cold {
    phase: Phase,
    timers: Timers,
    /// The time of the session's entry in the deadlines; never 0, because the clock starts at one second.
    armed_at: Option<NonZeroU64>,
    reading: InputPause,
    unread_answers: UnreadAnswers,
    /// The permit for the client's input that is kept. This, `rate` and `resumed` are boxed, because most clients have none.
    received: Option<Box<Permit>>,
    /// The bytes that the gateway keeps of a request whose rest is handled later.
    rest_bytes: Option<NonZeroU32>,
    /// The permit of the connection; `None` once it was handed over to HTTP.
    permit: Option<ConnectionPermit>,
    /// The limit of [`Accepted::outbound_per_second`]; data above it is shed.
    rate: Option<Box<TokenBucket>>,
    /// Of a client with a rate of its own ([`Accepted::max_rate`]), or a gate: holds data back.
    throttle: Option<Box<Throttle>>,
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
    /// A stop or an operator's move has chosen the client, which is closed within the time of the stop or move.
    is_leaving: bool,
    record: Record,
}

/// Every client has both, so a field that few clients need is boxed.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Session>() <= 152 && size_of::<Cold>() <= 512);

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
            reading: InputPause::default(),
            unread_answers: UnreadAnswers::default(),
            received: None,
            rest_bytes: None,
            permit: Some(permit),
            rate: None,
            throttle: None,
            is_silent: false,
            resumed: None,
            postponed: None,
            losses_known: 0,
            asks_status: false,
            is_released: false,
            is_leaving: false,
            record: Record::new(peer, now),
        };
        Self {
            generation,
            intake: Intake::Closed,
            sending: Sending::Idle,
            is_limited: false,
            awaited: Awaited::Nothing,
            has_resumed: false,
            owes_reading: false,
            waits_for_kernel: false,
            is_paced: false,
            loss_doubt: LossDoubt::None,
            content: Content::Text,
            queue: SendQueue::default(),
            cold: Box::new(cold),
        }
    }

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

    /// Whether the session is open, and not over a limit.
    pub(super) fn gets_frames(&self) -> bool {
        self.intake == Intake::Open
    }

    /// Whether the session is open and not about to close.
    #[inline]
    pub(super) fn takes_data(&self) -> bool {
        self.intake != Intake::Closed
    }

    pub(super) fn loss_doubt(&self) -> LossDoubt {
        self.loss_doubt
    }

    pub(super) fn set_loss_doubt(&mut self, doubt: LossDoubt) {
        self.loss_doubt = doubt;
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
        self.queue.frames() + self.throttle().map_or(0, Throttle::count)
    }

    /// Bytes in the send queue, without the frames that the throttle holds.
    #[inline]
    pub(super) fn queue_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// The most frames of the next write.
    #[inline]
    pub(super) fn write_frames(&self) -> usize {
        self.queue.frames().min(WRITE_FRAMES_MAX)
    }

    /// Bytes of the frames in the send queue and of those that the throttle holds; a frame that was begun counts whole.
    pub(super) fn queued_and_held_bytes(&self) -> usize {
        self.queue.bytes() + self.throttle().map_or(0, Throttle::bytes)
    }

    /// Memory of the send queue itself, if the queue is longer than a burst, and of the throttle.
    pub(super) fn queue_room_bytes(&self) -> usize {
        self.queue.room_bytes() + self.throttle_room_bytes()
    }

    /// Memory of the throttle itself.
    pub(super) fn throttle_room_bytes(&self) -> usize {
        self.throttle().map_or(0, Throttle::room_bytes)
    }

    /// Notes that the client's throttle is to open early. Returns false if it holds nothing, or if that was noted before.
    pub(super) fn note_throttle_opens_early(&mut self) -> bool {
        let throttle = self.cold.throttle.as_deref_mut();
        throttle.is_some_and(|throttle| throttle.count() > 0 && throttle.note_opens_early())
    }

    /// Whether the client has a rate of its own.
    pub(super) fn has_own_rate(&self) -> bool {
        self.throttle().is_some_and(Throttle::has_rate)
    }

    /// The throttle of a client with a rate of its own or a gate. Without a limit, nothing cold is touched.
    #[inline]
    fn throttle(&self) -> Option<&Throttle> {
        match self.is_limited {
            true => self.cold.throttle.as_deref(),
            false => None,
        }
    }

    /// Whether the kernel took less than offered, and the socket is not writable again.
    pub(super) fn is_blocked(&self) -> bool {
        self.sending == Sending::Blocked
    }

    /// Frames that wait or were begun: those of the queue in their order, then those that the
    /// throttle holds, and postponed ones.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Frame>> {
        let held = self.throttle().into_iter().flat_map(Throttle::frames);
        let postponed = self.cold.postponed.as_deref();
        let postponed = postponed.into_iter().flat_map(Postponed::frames);
        self.queue.entries().chain(held).chain(postponed)
    }

    /// Whether frames wait for the client while it gets none: the kernel takes nothing, or has taken nothing for so long,
    /// microseconds. Then the frames may wait for the loop alone, such as for their encodings.
    pub(super) fn holds_up_frames(&self, now: Now, for_us: u64) -> bool {
        let has_frames = self.has_waiting() || self.cold.postponed.is_some();
        let idle_us = || now.mono_us.saturating_sub(self.queue.progress_at());
        self.is_blocked() || has_frames && idle_us() >= for_us
    }

    /// Panics if the session by itself is inconsistent.
    pub(super) fn check_invariants(&self) {
        self.queue.check_invariants();
        let open = self.phase() == PhaseKind::Open;
        assert!(open || !self.takes_data(), "takes data before or after");
        let held = self.throttle().map_or(0, Throttle::count);
        assert!(self.takes_data() || held == 0, "held, and takes no data");
        let held_of_feed = || {
            let held = self.throttle().into_iter().flat_map(Throttle::frames);
            held.filter(|frame| frame.is_of_feed()).count()
        };
        assert!(
            self.cold.postponed.is_none() || held_of_feed() == 0,
            "older than what is postponed"
        );
        let gone = self.phase() == PhaseKind::Gone;
        assert!(!gone || self.queue.is_empty(), "gone, and something waits");
    }

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
}
