//! What the log line says of a connection when it has ended.

use std::net::{IpAddr, SocketAddr};

use crate::hub::{CloseReason, Ended, Now};

/// What is kept of a request's path: enough to tell who it was.
const PATH_CHARS_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct Record {
    pub(super) peer: SocketAddr,
    /// The client's address: the peer's, or what a trusted proxy says.
    pub(super) client: IpAddr,
    /// Path of the request, cut to [`PATH_CHARS_MAX`].
    path: Box<str>,
    /// Who it is, where the gateway told.
    pub(super) user: Option<Box<str>>,
    accepted: Now,
    /// The code of the first close frame, or the status that refused the handshake.
    pub(super) code: Option<u16>,
    pub(super) bytes_in: u64,
    pub(super) messages_in: u64,
    pub(super) messages_conflated: u64,
}

impl Record {
    pub(super) fn new(peer: SocketAddr, now: Now) -> Self {
        Self {
            peer,
            client: peer.ip().to_canonical(),
            path: Box::default(),
            user: None,
            accepted: now,
            code: None,
            bytes_in: 0,
            messages_in: 0,
            messages_conflated: 0,
        }
    }

    pub(super) fn set_path(&mut self, path: &str) {
        self.path = path.chars().take(PATH_CHARS_MAX).collect();
    }

    /// How the connection looked at its end.
    pub(super) fn ended(
        &mut self,
        now: Now,
        reason: CloseReason,
        bytes_out: u64,
        messages_out: u64,
    ) -> Ended {
        Ended {
            peer: self.peer,
            client: self.client,
            user: self.user.take(),
            path: std::mem::take(&mut self.path),
            reason,
            code: self.code,
            age_us: now.mono_us - self.accepted.mono_us,
            bytes_in: self.bytes_in,
            bytes_out,
            messages_in: self.messages_in,
            messages_out,
            messages_conflated: self.messages_conflated,
        }
    }
}
