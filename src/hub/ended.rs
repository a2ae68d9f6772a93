//! What is left to say of a connection when it has ended.

use super::CloseReason;
use crate::admission::{ClientAddr, Peer};

/// How a client that ended looked, for the log line.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The other end of the socket.
    pub peer: Peer,
    /// Who it was: the peer's address, or what a trusted proxy said.
    pub client: ClientAddr,
    /// Who it said it was, where the gateway tells.
    pub user: Option<Box<str>>,
    /// Why it was refused, where one [`CloseReason`] stands for several reasons: `origin`, `path`, or the
    /// label of `weirgate_auth_refusals_total`.
    pub refusal: Option<&'static str>,
    /// Path of the request, without its query; empty before a whole head.
    pub path: Box<str>,
    /// The first reason; what followed from it changed nothing.
    pub reason: CloseReason,
    /// The code of the first close frame, or the status that refused the handshake.
    pub code: Option<u16>,
    /// How long the connection lived, microseconds.
    pub age_us: u64,
    /// Bytes from the client, the request head included.
    pub bytes_in: u64,
    /// Bytes that the kernel took for it.
    pub bytes_out: u64,
    /// Messages from the client.
    pub messages_in: u64,
    /// Messages that the kernel took whole.
    pub messages_out: u64,
    /// Messages that newer ones replaced.
    pub messages_conflated: u64,
}
