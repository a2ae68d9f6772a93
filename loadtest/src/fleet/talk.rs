//! Conversations: texts that clients send when a connection opens, and in response to messages.

use std::cell::RefCell;
use std::rc::Rc;

use crate::wire::parser::{client_frame, opcode};

/// The other end of all conversations. Clients are numbered in the order of opening, and keep the
/// number over all connections.
pub(crate) trait Talk {
    /// A connection of the client is open; returns the text to send.
    fn opened(&mut self, client: usize) -> Option<String>;

    /// The client read a text at `now_us`; of a long text, only the first
    /// [`HEAD_BYTES`](crate::stamp::HEAD_BYTES). Returns the text to send.
    fn heard(&mut self, client: usize, text: &[u8], now_us: u64) -> Option<String>;

    /// The open connection of the client ended; a refused attempt is not an end. Only called for clients
    /// that reconnect.
    fn cut(&mut self, client: usize, now_us: u64);
}

/// A conversation of a fleet; the owner looks at the results between the turns of the fleet.
pub(crate) type Talking = Rc<RefCell<dyn Talk>>;

/// Queues a text as a frame.
pub(super) fn say(text: Option<String>, out: &mut Vec<u8>) {
    if let Some(text) = text {
        out.extend_from_slice(&client_frame(opcode::TEXT, text.as_bytes()));
    }
}
