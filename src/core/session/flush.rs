//! What a flush does with a session: the list that the session is in, its next write, and the result of the write.

use std::io::IoSlice;
use std::sync::Arc;

use super::{Sending, Session};
use crate::deflated::{FramePlan, Inflates};
use crate::encodings::Kind;
use crate::flush::{Prepared, PreparedWrite, list_of};
use crate::protocol::{Encoding, event_stream};
use crate::send_queue::{Offered, Wrote};
use crate::{Encoded, Frame, Limits, Now};
use weirgate_wire::deflate::DeflateParams;

/// The first ping is sent after this many bytes, even if the first interval is not over: a proxy may take megabytes
/// until then.
const FIRST_PING_BYTES: u64 = 256 * 1024;

/// How a client gets its frames, if not plain.
#[derive(Clone, Copy)]
pub(crate) enum Encode {
    Deflated(Inflates),
    Event(Kind, fn(&Frame) -> Encoded),
}

/// The effect of one write.
pub(crate) struct Written {
    pub(crate) wrote: Wrote,
    /// The kernel took less than offered.
    pub(crate) short: bool,
    /// Whether an early ping is due.
    pub(crate) asks_early: bool,
    /// Whether [`Session::after_write`] has to be called: not in the common case of an open session
    /// with an empty queue.
    pub(crate) follows: bool,
}

impl Session {
    /// Returns the list of a flush that the session joins. `None` if the session is in a list already, or the kernel
    /// takes nothing.
    #[inline]
    pub(crate) fn enlist(&mut self) -> Option<usize> {
        if self.sending != Sending::Idle {
            return None;
        }
        self.sending = Sending::Listed;
        Some(list_of(self.queue.bytes(), self.queue.is_plain()))
    }

    /// Lets what waits be gathered. Returns false if the session is in a list, or the kernel takes nothing.
    pub(crate) fn set_gathered(&mut self) -> bool {
        let is_idle = matches!(self.sending, Sending::Idle | Sending::Gathered);
        if is_idle {
            self.sending = Sending::Gathered;
        }
        is_idle
    }

    /// Whether a pong, a ping or a close waits.
    pub(crate) fn has_control(&self) -> bool {
        self.queue.control_bytes() > 0
    }

    /// Ends the gathering; returns whether something waits. What waits has waited for the loop alone, so only now does the
    /// client's time begin.
    pub(crate) fn end_gathering(&mut self, now: Now) -> bool {
        if self.sending == Sending::Gathered {
            self.sending = Sending::Idle;
            self.queue.note_progress(now);
        }
        self.has_waiting()
    }

    /// Whether what waits is gathered.
    pub(crate) fn is_gathered(&self) -> bool {
        self.sending == Sending::Gathered
    }

    /// Whether the client still has to get live messages from before the last `since` published bytes. States are not
    /// among these bytes, so the result is false for a queue of several states.
    #[inline]
    pub(crate) fn owes(&self, since: usize) -> bool {
        self.queue.bytes() > since
            && self.takes_data()
            && self.queue.counted_bytes() > since
            && !self.has_several_states()
    }

    /// Whether the session is in a list of a flush.
    pub(crate) fn is_listed(&self) -> bool {
        self.sending == Sending::Listed
    }

    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Leaves the flush list, makes the encodings of the next write by `encode`, and appends its plans and prefixes to
    /// `prepared`. Returns false if there is nothing to write.
    #[inline]
    pub(crate) fn prepare_write(
        &mut self,
        bytes_max: usize,
        prepared: &mut Prepared,
        encode: impl FnMut(&Arc<Frame>, Encode, &mut Vec<FramePlan>) -> bool,
    ) -> bool {
        if self.sending == Sending::Blocked {
            return false;
        }
        self.sending = Sending::Idle;
        if self.queue.is_empty() {
            return false;
        }
        let frame_plans = &mut prepared.frame_plans;
        let first = frame_plans.len();
        if !self.queue.is_plain() {
            self.plan_encodings(bytes_max, frame_plans, encode);
        }
        self.queue
            .render_prefixes(bytes_max, &frame_plans[first..], &mut prepared.prefixes);
        true
    }

    /// Appends a plan for each frame of the next write of at most `bytes_max` bytes, and has `encode` make the
    /// encodings. `encode` returns false if there is no time for the frame, which ends the write before it. The plain
    /// encoding has no plans.
    fn plan_encodings(
        &self,
        bytes_max: usize,
        frame_plans: &mut Vec<FramePlan>,
        mut encode: impl FnMut(&Arc<Frame>, Encode, &mut Vec<FramePlan>) -> bool,
    ) {
        let (kind, event): (Kind, fn(&Frame) -> Encoded) = match self.queue.encoding() {
            Encoding::Plain => return,
            Encoding::Deflate(params) => {
                let make = |frame: &Arc<Frame>, client, plans: &mut Vec<FramePlan>| {
                    encode(frame, Encode::Deflated(client), plans)
                };
                return self.queue.plan_frames(bytes_max, params, make, frame_plans);
            }
            Encoding::Event => (Kind::Event, event_stream::encode),
            Encoding::RawEvent => (Kind::RawEvent, event_stream::encode_raw),
        };
        // Events are not deflated, so nothing looks at these.
        let params = DeflateParams::default();
        let make = |frame: &Arc<Frame>, _, plans: &mut Vec<FramePlan>| {
            encode(frame, Encode::Event(kind, event), plans)
        };
        self.queue.plan_frames(bytes_max, params, make, frame_plans);
    }

    /// Takes back the first waiting frame, for whose encoding there is no memory. The client misses its number. Returns its
    /// queue bytes.
    pub(crate) fn refuse_first(&mut self) -> Option<usize> {
        self.queue.refuse_first()
    }

    /// Lets no later message refer to an earlier one.
    pub(crate) fn leave_window(&mut self) {
        self.queue.leave_window();
    }

    /// The next write, as [`SendQueue::gather`].
    #[inline]
    pub(crate) fn gather<'a>(
        &'a self,
        bytes_max: usize,
        prepared: PreparedWrite<'a>,
        out: &mut Vec<IoSlice<'a>>,
    ) -> Offered {
        self.queue.gather(bytes_max, prepared, out)
    }

    /// Handles a write: the kernel took `taken` bytes of those offered.
    #[inline]
    pub(crate) fn wrote(
        &mut self,
        now: Now,
        taken: usize,
        offered: Offered,
        frame_plans: &[FramePlan],
    ) -> Written {
        let wrote = self.queue.wrote(now, taken, offered, frame_plans);
        let short = taken < offered.bytes;
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
                || self.owes_reading
                || asks_early,
            asks_early,
        }
    }

    /// Notes that the kernel took bytes that the shell had kept from an earlier write.
    pub(crate) fn note_progress(&mut self, now: Now, limits: &Limits) {
        self.queue.note_progress(now);
        self.cold.note_reading(now, limits);
    }

    /// Notes that the kernel takes bytes again: the client has read some.
    pub(crate) fn unblock(&mut self, now: Now, limits: &Limits) {
        if self.sending == Sending::Blocked {
            self.sending = Sending::Idle;
            self.cold.note_reading(now, limits);
        }
    }
}
