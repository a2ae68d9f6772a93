//! The answers that a client has not taken. Each is a frame of its own, so a short one takes ten times the bytes that
//! count for the limits of the queue, and a client that asks and does not read would have very many. Such a client is not
//! read until it has taken its answers. A gateway whose answers may be large can let the client's next message wait too,
//! so that no client fills its own queue up to the limits that end it.

use super::{Awaited, Session};
use crate::Frame;

/// The most memory of answers that wait, beside their bytes, for a client that takes what is sent: it may send many
/// requests at once.
const WAITING_BYTES_MAX: u32 = 64 * 1024;
/// The same, for a client of which the kernel takes nothing.
const BLOCKED_BYTES_MAX: u32 = 16 * 1024;

/// The answers in the send queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnreadAnswers {
    /// Their memory beside their queue bytes: of all answers that were queued since none waited.
    bytes: u32,
    /// The last of them is out after this frame, as the low bits of a count of the frames that are out.
    until: u32,
}

impl Session {
    /// Notes an answer that was put in the queue.
    pub(crate) fn note_answer(&mut self, frame: &Frame) {
        let waiting = self.unread_answer_bytes();
        let beside = frame.memory_bytes().saturating_sub(frame.queue_bytes());
        let bytes = u32::try_from(beside).unwrap_or(u32::MAX);
        let frames = self.queue.frames_out() + self.queue.frames() as u64;
        self.cold.unread_answers = UnreadAnswers {
            bytes: waiting.saturating_add(bytes),
            until: frames as u32,
        };
    }

    /// Memory of the answers that wait, beside their bytes; 0 if none waits.
    pub(super) fn unread_answer_bytes(&self) -> u32 {
        let UnreadAnswers { bytes, until } = self.cold.unread_answers;
        let out = self.queue.frames_out() as u32;
        // Of counts that are cut to 32 bits, the sign of the difference says which is ahead.
        let are_out = self.queue.data_is_empty() || until.wrapping_sub(out) as i32 <= 0;
        if are_out { 0 } else { bytes }
    }

    /// Notes whether the client has to take its answers before it is read on. Returns whether it has to.
    pub(super) fn note_unread_answers(&mut self) -> bool {
        let bytes_max = match self.is_blocked() {
            true => BLOCKED_BYTES_MAX,
            false => WAITING_BYTES_MAX,
        };
        self.owes_reading |= self.unread_answer_bytes() > bytes_max;
        self.owes_reading
    }

    /// Whether answers wait, in a queue of more than `bytes_max`. If so, the gateway waits until none does.
    pub(crate) fn await_answers_taken(&mut self, bytes_max: usize) -> bool {
        let has_to_read = self.queue.bytes() > bytes_max && self.unread_answer_bytes() > 0;
        if has_to_read {
            self.awaited = Awaited::AnswersTaken;
        }
        has_to_read
    }

    /// Whether a client that had to take its answers has taken them by now. Returns true once.
    pub(crate) fn take_has_read(&mut self) -> bool {
        let has_read = self.owes_reading && self.unread_answer_bytes() == 0;
        self.owes_reading &= !has_read;
        has_read
    }
}
