//! How many messages of JetStream may be on their way at once, by the sizes of those before: answers to questions, and messages
//! of a consumer whose bytes the server does not bound. All of them may wait at the server at the same time, on a connection
//! that also delivers other messages. Pure.

/// The most bytes that may wait at the server. It cuts a connection for which more than 64 MB wait (`max_pending`), live
/// messages among them.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// So large a message is expected before the first one.
const FIRST_MESSAGE_BYTES: usize = WAITING_BYTES_MAX / 4;
/// With each smaller message, the expected size falls by this part.
const FALL: usize = 32;

/// The expected size of a message. Outlasts the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageBytes(usize);

impl Default for MessageBytes {
    fn default() -> Self {
        Self(FIRST_MESSAGE_BYTES)
    }
}

impl MessageBytes {
    /// Counts a message.
    pub(super) fn note(&mut self, bytes: usize) {
        self.0 = bytes.max(self.0 - self.0 / FALL);
    }

    /// Handles the end of the connection, perhaps because of the messages that were on their way: at first, only a
    /// single one may wait on the next connection.
    pub(super) fn note_end(&mut self) {
        self.0 = self.0.max(WAITING_BYTES_MAX);
    }

    /// The number of messages that may wait, up to `most`.
    pub(super) fn waiting_max(self, most: usize) -> usize {
        self.waiting_max_beside(0, most)
    }

    /// The number of messages that may wait beside others of so many bytes together, up to `most`. At least one.
    pub(super) fn waiting_max_beside(self, bytes: usize, most: usize) -> usize {
        let left = WAITING_BYTES_MAX.saturating_sub(bytes);
        (left / self.0.max(1)).clamp(1, most)
    }

    /// The bytes of so many messages.
    pub(super) const fn of(self, messages: usize) -> usize {
        self.0.saturating_mul(messages)
    }
}
