//! Reports the ends of plain connections that operators should know of.

use std::sync::{Mutex, PoisonError};

use crossbeam_channel::Sender;
use weirgate_core::CloseReason;
use weirgate_runtime::Clock;
use weirgate_wire::admission::{ClientAddr, Peer};
use weirgate_wire::base::LogBudget;

/// The most log lines a second of [`EndReports`].
const END_LINES_PER_SECOND: u32 = 10;

/// Reports the ends of connections that had to be evicted, broke the protocol of TLS, spoke another protocol than
/// HTTP/1, or were cut off: to the reactor, which counts them, and to the log.
#[derive(Debug)]
pub(super) struct EndReports {
    to_reactor: Sender<CloseReason>,
    clock: Clock,
    /// Of all threads.
    lines: Mutex<LogBudget>,
}

impl EndReports {
    pub(super) fn new(to_reactor: Sender<CloseReason>, clock: Clock) -> Self {
        Self {
            to_reactor,
            clock,
            lines: Mutex::new(LogBudget::new(END_LINES_PER_SECOND)),
        }
    }

    /// The clock of all connections.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// The number of lines left out before the next line, if there may be one.
    fn line(&self) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.line(self.clock.now())
    }

    /// Counts and logs a head of another protocol.
    pub(super) fn count_other_protocol(&self, peer: Peer, protocol: &'static str) {
        // Fails only after the end of the loop, which counted the ends.
        let _ = self.to_reactor.send(CloseReason::BadRequest);
        if let Some(lines_left_out) = self.line() {
            tracing::warn!(
                %peer,
                refusal = protocol,
                lines_left_out,
                "a port of HTTP/1.1 got another protocol (http2: HTTP/2 in clear text; tls: TLS): set the protocol of the sender to \
                 HTTP/1.1, without TLS"
            );
        }
    }

    /// Counts and logs the end of a connection of this peer; `client` is the peer itself or a client of a proxy.
    pub(super) fn count(&self, peer: Peer, client: ClientAddr, reason: CloseReason) {
        // Fails only after the end of the loop, which counted the ends.
        let _ = self.to_reactor.send(reason);
        if let Some(lines_left_out) = self.line() {
            tracing::info!(
                %client,
                %peer,
                reason = reason.label(),
                lines_left_out,
                "plain HTTP connection ended"
            );
        }
    }
}
