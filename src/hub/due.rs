//! What is due for one session when its deadline fires: pings, pongs, stalls, closes.

use super::core::Core;
use super::deadlines::NEVER;
use super::session::Phase;
use super::{CloseCode, CloseReason, Closing, SessionKey};

/// Codes that a gateway chooses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes {
    pub(super) pong_timeout: CloseCode,
    pub(super) stop: CloseCode,
}

impl Core {
    /// Everything of one session that is due, except what is the gateway's.
    pub(super) fn client_due(&mut self, key: SessionKey, codes: Codes) {
        let now = self.now.mono_us;
        let stall_us = self.limits.send_queue.stall_us;
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        let queue = &session.queue;
        let stalled = !queue.is_empty() && now >= queue.progress_at() + stall_us;
        match session.cold.phase {
            Phase::Head { .. } => {
                if now >= session.cold.accepted.mono_us + self.limits.handshake_us {
                    let reason = CloseReason::HandshakeTimeout;
                    self.refuse(key, 408, &[], "Request timeout", reason);
                }
            }
            Phase::Open(_) if stalled => self.end(key, CloseReason::SendStalled, true),
            Phase::Open(_) => self.open_client_due(key, codes),
            Phase::Closing { due, .. } => {
                if now >= due || stalled {
                    let reset = !session.queue.is_empty();
                    self.release(key, reset);
                }
            }
            Phase::Gone => {}
        }
    }

    fn open_client_due(&mut self, key: SessionKey, codes: Codes) {
        let now = self.now.mono_us;
        let pong_timeout_us = self.limits.pong_timeout_us;
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        if now >= session.cold.pong_due && session.cold.paused != 0 {
            // Its pong may stand in the kernel: who is not read cannot be late.
            session.cold.pong_due = now + pong_timeout_us;
        }
        if now >= session.cold.pong_due {
            // Once: the close may have to wait for what is flushed in this turn.
            session.cold.pong_due = NEVER;
            let reason = CloseReason::PongTimeout;
            self.begin_close(key, codes.pong_timeout, reason, Closing::Now);
        } else if now >= session.cold.close_due {
            self.close_due(key, codes.stop);
        } else if !self.soft_limit_due(key) {
            self.ping_due(key);
        }
    }

    /// A graceful close has waited long enough, or a spread close has its turn.
    fn close_due(&mut self, key: SessionKey, stop: CloseCode) {
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        session.cold.close_due = NEVER;
        let waited = match &session.cold.phase {
            Phase::Open(open) => open.close,
            _ => None,
        };
        if let Some(close) = waited {
            session.write_close(self.now, close.code);
            self.start_closing(key, close.reason);
        } else {
            self.stop_client(key, stop);
        }
    }

    /// Drops a client whose queue stayed past its soft limit; `false` if it did not.
    fn soft_limit_due(&mut self, key: SessionKey) -> bool {
        let now = self.now.mono_us;
        let limits = &self.limits.send_queue;
        let Some(session) = self.clients.session_mut(key) else {
            return false;
        };
        let since = session.queue.over_soft_since();
        if since.is_none_or(|since| now <= since + limits.soft_for_us) {
            return false;
        }
        let over = session.queue.is_over_soft(limits);
        if over {
            self.end(key, CloseReason::SendQueueSoft, true);
        } else {
            session.queue.forget_soft();
        }
        over
    }

    fn ping_due(&mut self, key: SessionKey) {
        let (now, interval_us) = (self.now, self.limits.ping_interval_us);
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        if now.mono_us >= session.cold.ping_at {
            session.cold.ping_at = now.mono_us + interval_us;
            session.ping(now);
            self.clients.mark_dirty(key);
        }
    }

    /// A pong came, asked for or not.
    pub(super) fn pong(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.cold.ping_sent = false;
            session.cold.pong_due = NEVER;
        }
    }
}
