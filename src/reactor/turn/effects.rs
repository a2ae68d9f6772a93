//! Effects: the hub's requests to the loop.

use super::Reactor;
use crate::http::Handover;
use crate::hub::{Effect, Ended, Feed, Gateway, Permit, SessionKey};
use crate::telemetry::Budget;

/// Effects in one turn, such as sockets to close; the rest waits for the next turn.
const EFFECTS_MAX: usize = 128;

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Carries out some of the hub's effects; the rest follows in the next turns. The kernel takes 10 us to
    /// close a socket, and thousands of clients can leave at once.
    pub(super) fn effects(&mut self) {
        for _ in 0..EFFECTS_MAX {
            let Some(effect) = self.hub.poll_effect() else {
                break;
            };
            self.carry_out(effect);
        }
        if self.hub.has_effects() {
            self.report.spent(Budget::Closes);
        }
        while let Some(output) = self.hub.poll_output() {
            (self.seams.output)(output);
        }
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::HalfClose(key) => self.sockets.half_close(key),
            Effect::Release { key, reset, ended } => {
                self.log_end(&ended);
                self.ends.push(self.clock.now(), ended);
                if !self.sockets.close(key, reset)
                    && let Some(handshakes) = &self.seams.handshakes
                {
                    handshakes.drop_socket(key);
                }
                self.hub.handle_released(key);
            }
            Effect::ToHttp { key, read, permit } => self.hand_over(key, read, permit),
            Effect::Resume(key) => self.read_on(key),
        }
    }

    /// Logs an ended connection, within the limit of lines.
    fn log_end(&mut self, ended: &Ended) {
        let Some(line) = self.end_lines.line(self.clock.now()) else {
            return;
        };
        tracing::info!(
            client = %ended.client,
            peer = %ended.peer,
            user = ended.user.as_deref(),
            tls = ended.tls,
            path = &*ended.path,
            reason = ended.reason.label(),
            refusal = ended.refusal,
            code = ended.code,
            age_ms = ended.age_us / 1000,
            bytes_in = ended.traffic.bytes_in,
            bytes_out = ended.traffic.bytes_out,
            messages_in = ended.traffic.messages_in,
            messages_out = ended.traffic.messages_out,
            conflated = ended.traffic.messages_conflated,
            lines_left_out = line.suppressed,
            "connection ended"
        );
    }

    fn hand_over(&mut self, key: SessionKey, read: Vec<u8>, permit: Permit) {
        let peer = self.hub.core().peer(key);
        let stream = self.sockets.hand_over(key);
        self.hub.handle_released(key);
        if let (Some((stream, tls)), Some(peer)) = (stream, peer) {
            self.seams.http.serve(Handover {
                stream: std::net::TcpStream::from(std::os::fd::OwnedFd::from(stream)),
                tls,
                read,
                peer,
                permit,
            });
        }
    }
}

/// Logs the number of lines about ended connections that were left out, if no further line says so.
pub(super) fn log_left_out(lines: Option<u64>) {
    if let Some(lines_left_out) = lines {
        tracing::info!(lines_left_out, "more connections ended");
    }
}
