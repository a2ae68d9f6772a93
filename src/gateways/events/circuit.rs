//! The circuit breaker of a service: decides by the outcome of earlier calls whether a call may begin.
//!
//! A single client must not make the service unreachable for others, so the circuit looks at client addresses:
//!
//! - A failure counts only if the service has answered no call since the failed call began: an answer to another call
//!   shows that the service works and that only this call took too long.
//! - Failures of an address's calls count once if the calls were under way together.
//! - Failures of several addresses open the circuit for all addresses; failures of a single address only for this
//!   address: the others call as before, until a call of theirs fails too.
//! - After the pause each address probes by itself, with one call at a time. So a probe without an answer delays no
//!   other address.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use weirgate_wire::admission::ClientAddr;

/// Failures in a row after which a service is not called for a while (protocol-events.md, "Services").
const FAILURES_MAX: u64 = 20;
/// The pause without calls; then a probe follows.
const PAUSE_US: u64 = 1_000_000;
/// The most remembered addresses with failures. Over the limit all are forgotten, and each may probe again.
const ADDRESSES_MAX: usize = 1_000;

/// The circuit of one service.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    is_open: bool,
    /// Whether the circuit is open for all addresses.
    is_of_several: bool,
    /// Counted failures since the last answer.
    failures: u64,
    answered_us: u64,
    /// The end of the pause for all addresses.
    paused_until_us: u64,
    /// Addresses that have failed since the last answer, or that probe.
    failed: HashMap<ClientAddr, Failed, RandomState>,
}

#[derive(Debug)]
struct Failed {
    /// The last counted failure, or the begin of the probe. The outcome of calls that began before says nothing new.
    since_us: u64,
    last: Last,
}

/// What `Failed::since_us` is the time of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Failure,
    Probe,
}

impl Circuit {
    /// Whether a call of this client may begin.
    pub(super) fn permits(&self, now_us: u64, client: ClientAddr) -> bool {
        let failed = self.failed.get(&client.group());
        // After the pause, an open circuit permits each address one probe at a time.
        let may_probe =
            |failed: &Failed| failed.last == Last::Failure && now_us >= failed.since_us + PAUSE_US;
        !self.is_open_for(client) || now_us >= self.paused_until_us && failed.is_none_or(may_probe)
    }

    /// Records the begin of a permitted call.
    pub(super) fn begun(&mut self, now_us: u64, client: ClientAddr) {
        if self.is_open_for(client) {
            self.note(client, now_us, Last::Probe);
        }
    }

    /// Records an answer, with any status.
    pub(super) fn answered(&mut self, now_us: u64) {
        *self = Self {
            answered_us: now_us,
            ..Self::default()
        };
    }

    /// Records a call of this client without an answer, begun at `begun_us`.
    pub(super) fn failed(&mut self, now_us: u64, client: ClientAddr, begun_us: u64) {
        let failed = self.failed.get(&client.group());
        let since_us = failed.map_or(0, |failed| failed.since_us);
        if begun_us < self.answered_us.max(since_us) {
            // The call says nothing new: since it began, the service has answered, or the address has failed or probed.
            return;
        }
        self.note(client, now_us, Last::Failure);
        self.failures += 1;
        let is_of_several = self.failed.len() > 1;
        // It was closed, or it was open for one address and is now for all.
        let opens = !self.is_open || is_of_several && !self.is_of_several;
        if opens && self.failures >= FAILURES_MAX {
            (self.is_open, self.is_of_several) = (true, is_of_several);
            // Of a single address, `permits` counts the pause from its last failure.
            self.paused_until_us = if is_of_several { now_us + PAUSE_US } else { 0 };
        }
    }

    fn note(&mut self, client: ClientAddr, since_us: u64, last: Last) {
        if self.failed.len() >= ADDRESSES_MAX {
            self.failed.clear();
        }
        let failed = Failed { since_us, last };
        self.failed.insert(client.group(), failed);
    }

    /// Whether the circuit is open, for all addresses or for one.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether calls of this client pause, or only probe.
    pub(super) fn is_open_for(&self, client: ClientAddr) -> bool {
        self.is_open && (self.is_of_several || self.failed.contains_key(&client.group()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const SECOND: u64 = 1_000_000;

    fn ip(last: u8) -> ClientAddr {
        IpAddr::from([192, 0, 2, last]).into()
    }

    /// A circuit, opened by failures of this address at `now_us`.
    fn opened(now_us: u64, client: ClientAddr) -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 0..FAILURES_MAX {
            assert!(!circuit.is_open());
            circuit.failed(now_us, client, now_us);
        }
        assert!(circuit.is_open());
        circuit
    }

    #[test]
    fn calls_that_were_under_way_together_fail_once_for_their_address() {
        let mut circuit = Circuit::default();
        for begun_us in 0..100 {
            circuit.failed(10 * SECOND + begun_us, ip(1), begun_us);
        }
        assert_eq!(circuit.failures, 1);
        circuit.failed(20 * SECOND, ip(1), 10 * SECOND);
        assert_eq!(circuit.failures, 2, "the next one in time");
        for last in 0..FAILURES_MAX as u8 {
            circuit.failed(30 * SECOND, ip(last), 10 * SECOND);
        }
        assert!(circuit.is_open(), "of many addresses each counts");
    }

    #[test]
    fn a_failure_says_nothing_of_a_service_that_has_answered_since_its_begin() {
        let mut circuit = Circuit::default();
        for round in 1..100 {
            circuit.answered(round * SECOND - 1);
            for last in 0..200 {
                circuit.failed(round * SECOND, ip(last), (round - 1) * SECOND);
            }
            assert!(!circuit.is_open());
        }
        assert_eq!(opened(100 * SECOND, ip(1)).failed.len(), 1);
    }

    #[test]
    fn failures_of_one_address_are_the_matter_of_that_address() {
        let mut circuit = opened(0, ip(1));
        assert!(!circuit.permits(0, ip(1)));
        assert!(!circuit.permits(PAUSE_US - 1, ip(1)));
        for last in 2..5 {
            for _ in 0..3 {
                assert!(circuit.permits(0, ip(last)), "as many as it likes");
                circuit.begun(0, ip(last));
            }
        }
        assert!(circuit.permits(PAUSE_US, ip(1)));
        circuit.begun(PAUSE_US, ip(1));
        assert!(!circuit.permits(2 * PAUSE_US, ip(1)), "one at a time");
        circuit.failed(2 * SECOND, ip(1), PAUSE_US);
        assert!(circuit.permits(2 * SECOND, ip(2)));
        circuit.failed(2 * SECOND, ip(2), 0);
        assert!(
            !(1..5).any(|last| circuit.permits(3 * SECOND - 1, ip(last))),
            "a second address fails: a pause for all"
        );
        for last in 1..5 {
            assert!(circuit.permits(3 * SECOND, ip(last)));
            circuit.begun(3 * SECOND, ip(last));
            assert!(!circuit.permits(100 * SECOND, ip(last)), "one at a time");
        }
        circuit.failed(4 * SECOND, ip(2), 3 * SECOND);
        assert!(!circuit.permits(4 * SECOND, ip(2)));
        assert!(
            circuit.permits(5 * SECOND, ip(2)),
            "after a pause of its own"
        );
        circuit.answered(5 * SECOND);
        assert!((1..5).all(|last| circuit.permits(5 * SECOND, ip(last))));
        circuit.failed(6 * SECOND, ip(3), 0);
        assert!(!circuit.is_open() && circuit.failures == 0);
    }

    #[test]
    fn failures_of_several_addresses_are_a_pause_for_all() {
        let mut circuit = Circuit::default();
        for n in 0..FAILURES_MAX {
            circuit.failed(n, ip(1 + n as u8 % 2), n);
        }
        let until_us = FAILURES_MAX - 1 + PAUSE_US;
        for last in 1..4 {
            assert!(!circuit.permits(until_us - 1, ip(last)));
            assert!(circuit.permits(until_us, ip(last)));
        }
        circuit.begun(until_us, ip(3));
        circuit.failed(until_us + 9, ip(3), until_us);
        assert!(circuit.permits(until_us + 9, ip(4)), "one pause for all");
    }

    #[test]
    fn a_failure_of_an_older_call_ends_no_probe() {
        let mut circuit = opened(0, ip(1));
        circuit.begun(PAUSE_US, ip(1));
        circuit.failed(2 * SECOND, ip(1), SECOND - 1);
        assert!(!circuit.permits(10 * SECOND, ip(1)));
        circuit.failed(10 * SECOND, ip(1), PAUSE_US);
        assert!(circuit.permits(10 * SECOND + PAUSE_US, ip(1)));
    }

    #[test]
    fn the_clients_of_one_network_count_as_one_and_addresses_are_bounded() {
        let v6 = |network: u16, host: u16| {
            ClientAddr::from(IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]))
        };
        let mut circuit = opened(0, v6(0, 0));
        assert!(!circuit.permits(0, v6(0, 9)) && circuit.permits(0, v6(1, 0)));
        for network in 0..10_000 {
            circuit.failed(0, v6(network, 0), 0);
            assert!(circuit.failed.len() <= ADDRESSES_MAX);
        }
        assert!(circuit.is_open());
    }
}
