//! What one address may have, modelled again: all clients of a run come from the same one.

use weirgate_core::{AddressLimits, CloseReason};

use super::choices::SECOND;

/// The address of all clients.
#[derive(Debug)]
pub(crate) struct Neighbours {
    limits: AddressLimits,
    /// Tokens left for new connections, and when they were counted.
    tokens: f64,
    counted_at: u64,
}

impl Neighbours {
    pub(crate) fn new(limits: AddressLimits, now_us: u64) -> Self {
        Self {
            limits,
            tokens: f64::from(limits.burst),
            counted_at: now_us,
        }
    }

    /// One more comes, where `others` have their places already; or why it may not.
    pub(crate) fn come(&mut self, now_us: u64, others: usize) -> Option<CloseReason> {
        if self.limits.connections_max.is_some_and(|max| others >= max) {
            return Some(CloseReason::ConnectionsPerIp);
        }
        let rate = self.limits.connections_per_second?;
        let waited = (now_us - self.counted_at) as f64 / SECOND as f64;
        self.counted_at = now_us;
        self.tokens = (self.tokens + waited * f64::from(rate)).min(f64::from(self.limits.burst));
        // Fractions of a second do not add up exactly.
        if self.tokens < 1.0 - 1e-6 {
            return Some(CloseReason::ConnectionRatePerIp);
        }
        self.tokens -= 1.0;
        None
    }
}
