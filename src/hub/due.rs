//! What the core does when a session says that something is due.

use super::core::Core;
use super::session::Due;
use super::{CloseCode, CloseReason, Closing, SessionKey};

/// Codes that a gateway chooses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes {
    pub(super) pong_timeout: CloseCode,
    pub(super) stop: CloseCode,
}

impl Core {
    /// One thing of a session that is due, except what is the gateway's.
    pub(super) fn client_due(&mut self, key: SessionKey, codes: Codes) {
        let (now, limits) = (self.now, &self.limits);
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        match session.due(now, limits) {
            Due::Nothing => {}
            Due::HandshakeTimeout => {
                let reason = CloseReason::HandshakeTimeout;
                self.refuse(key, 408, &[], "Request timeout", reason);
            }
            Due::End { reason, reset } => self.end(key, reason, reset),
            Due::PongTimeout => {
                let reason = CloseReason::PongTimeout;
                self.begin_close(key, codes.pong_timeout, reason, Closing::Now);
            }
            Due::CloseWritten(reason) => self.start_closing(key, reason),
            Due::Stop => self.stop_client(key, codes.stop),
            Due::Ping => self.clients.mark_dirty(key),
        }
    }
}
