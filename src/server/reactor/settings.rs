//! Settings of the loop.

use super::listeners::ListenerSettings;
use crate::telemetry::HitLimit;
use weirgate_core::{CloseReason, DrainPlan};

/// Limits of a turn, so that no kind of work delays the others for long. Each time may be exceeded by the last step.
#[derive(Clone, Debug)]
pub struct TurnBudgets {
    /// Time for each of these, microseconds: accepting, reading clients that cost little, reading the others.
    pub read_us: u64,
    /// Time for inputs of the gateway, such as replies of services, microseconds.
    pub inputs_us: u64,
    /// Time for events of the bus, including the delivery into the send queues, microseconds: small messages to
    /// thousands of clients take long before they add up to many bytes.
    pub bus_us: u64,
    /// Time of the flush of a turn, microseconds; the other clients get their writes in the next turn.
    pub flush_us: u64,
    /// Time of each later flush of the turn, to clients with little to send, microseconds.
    pub flush_little_us: u64,
    /// Time for work on sockets that the hub requests, such as closing, microseconds.
    pub effects_us: u64,
    /// Bytes read from one socket.
    pub read_bytes_max: usize,
    /// Bytes of publications queued for a client in a turn; a flush follows.
    pub publication_bytes_max: usize,
}

// The values of the fields above.
const READ_US: u64 = 1_000;
const INPUTS_US: u64 = 1_000;
const BUS_US: u64 = 4_000;
/// With twice this time, a bus that is faster than the loop costs 4 % less CPU, but then a ping waits twice as long (p50
/// 8.3 ms in place of 4.5).
const FLUSH_US: u64 = 2_000;
/// The kernel takes 10 us to close a socket, and thousands of clients can leave at once.
const EFFECTS_US: u64 = 1_000;
const READ_BYTES_MAX: usize = 64 * 1024;
const PUBLICATION_BYTES_MAX: usize = 128 * 1024;

impl TurnBudgets {
    /// The budgets for send queues with this soft limit: more than half of `soft_bytes` in one part of a turn would
    /// make every client slow at once.
    pub fn below(soft_bytes: usize) -> Self {
        Self {
            read_us: READ_US,
            inputs_us: INPUTS_US,
            bus_us: BUS_US,
            flush_us: FLUSH_US,
            flush_little_us: FLUSH_US / 4,
            effects_us: EFFECTS_US,
            read_bytes_max: READ_BYTES_MAX,
            publication_bytes_max: PUBLICATION_BYTES_MAX.min(soft_bytes / 2),
        }
    }
}

/// All settings of the loop.
#[derive(Clone, Debug)]
pub struct ReactorSettings {
    /// The listening sockets.
    pub listen: ListenerSettings,
    /// Limits of each turn.
    pub budgets: TurnBudgets,
    /// The phases of a stop.
    pub drain: DrainPlan,
    /// The time of the last phase of a stop: clients that are left then are cut. Many connections get more
    /// (`Self::stop_time_us`).
    pub stop_timeout_us: u64,
    /// Time after the last work during which the loop polls without sleeping; 0: none.
    pub spin_us: u64,
    /// The longest time after the start for which clients wait at the ports until the feed has caught up; 0:
    /// none.
    pub accept_wait_us: u64,
    /// The limit that belongs to each reason for the end of a connection.
    pub limits: Vec<(CloseReason, HitLimit)>,
}

/// The most time that the close of a client takes at a stop; 33 to 56 µs were measured.
const STOP_CLIENT_US: u64 = 100;

impl ReactorSettings {
    /// The time limit of a stop with `connections` connections, all phases included. The last phase gets more time than
    /// the setting says if the closes of these connections need more.
    pub(crate) fn stop_time_us(&self, connections: u64) -> u64 {
        let last_us = self.stop_timeout_us.max(connections * STOP_CLIENT_US);
        self.drain.delay_us + self.drain.spread_us + last_us
    }

    /// The longest stop with `connections` connections: `StopDeadline` (`turn/stop.rs`) gives more time, up to this,
    /// while connections still end.
    pub(crate) fn longest_stop_us(&self, connections: u64) -> u64 {
        self.stop_time_us(connections) + self.stop_timeout_us
    }

    /// The limit that belongs to this reason.
    pub(super) fn limit_of(&self, reason: CloseReason) -> Option<HitLimit> {
        let found = self.limits.iter().find(|(ended_by, _)| *ended_by == reason);
        found.map(|(_, limit)| *limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listening::{ListenGate, ListenOptions};
    use weirgate_wire::admission::TrustedProxies;

    #[test]
    fn a_stop_has_the_time_that_its_closes_need() {
        let settings = ReactorSettings {
            listen: ListenerSettings {
                addrs: Vec::new(),
                tls_addrs: Vec::new(),
                headers_from: TrustedProxies::None,
                options: ListenOptions::default(),
                gate: ListenGate::new(true),
            },
            budgets: TurnBudgets::below(1 << 20),
            drain: DrainPlan {
                delay_us: 1_000_000,
                spread_us: 2_000_000,
                busy_us: 0,
            },
            stop_timeout_us: 5_000_000,
            spin_us: 0,
            accept_wait_us: 0,
            limits: Vec::new(),
        };
        assert_eq!(settings.stop_time_us(0), 8_000_000);
        assert_eq!(settings.stop_time_us(50_000), 8_000_000, "33 to 56 µs each");
        assert_eq!(settings.stop_time_us(100_000), 13_000_000);
        assert_eq!(settings.longest_stop_us(100_000), 18_000_000);
    }
}
