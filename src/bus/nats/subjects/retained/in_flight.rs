//! How many questions may be on their way at once, by the sizes of the answers before: all answers may wait at the server at the
//! same time, on the connection that also delivers the messages. Pure.

use std::time::Duration;

use super::ASKED_MAX;

/// The most bytes of answers that may wait at the server. It cuts a connection for which more than 64 MB wait
/// (`max_pending`), live messages among them.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// So large an answer is expected before the first one.
const FIRST_ANSWER_BYTES: usize = WAITING_BYTES_MAX / 4;
/// With each smaller answer, the expected size falls by this part.
const FALL: usize = 32;
/// After this time without a word, a question does not count: the leader of its stream may be away, and the other questions must
/// not wait for it.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(2);

/// The expected size of an answer. Outlasts the connections.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct AnswerBytes(usize);

impl Default for AnswerBytes {
    fn default() -> Self {
        Self(FIRST_ANSWER_BYTES)
    }
}

impl AnswerBytes {
    /// Counts an answer, or a message of a consumer.
    pub(super) fn note(&mut self, bytes: usize) {
        self.0 = bytes.max(self.0 - self.0 / FALL);
    }

    /// The connection has ended, perhaps because of the answers to these questions: begins with a single one.
    pub(super) fn note_end(&mut self, asked: usize) {
        if asked > 0 {
            self.0 = self.0.max(WAITING_BYTES_MAX);
        }
    }

    /// The number of answers that may wait.
    pub(super) fn answers_max(self) -> usize {
        (WAITING_BYTES_MAX / self.0.max(1)).clamp(1, ASKED_MAX)
    }
}
