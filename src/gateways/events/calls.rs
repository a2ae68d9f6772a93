//! Permission for calls: slots for all services together, and a circuit breaker for each.
//!
//! A service that hangs would soon hold every slot, and block the other services. So some slots are reserved
//! for each service: a call does not take a free slot that another service may still claim.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::call::{CallFailure, EventsService};
use crate::admission::{ClientAddr, FairQueue};
use crate::hub::SessionKey;

/// Failures in a row after which a service is not called for a while.
const FAILURES_MAX: u32 = 20;
/// The pause without calls; then a probe follows.
const OPEN_US: u64 = 1_000_000;

const SERVICES: usize = EventsService::ALL.len();

/// The permission for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Make the call under this number.
    Go(u64),
    /// No slot is free: the connection waits in line.
    Wait,
    /// The service is not called at present.
    Unreachable,
}

/// A service's circuit (contract: "A service that failed 20 times in a row").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Circuit {
    Closed,
    Open { until_us: u64 },
    Probing { call: u64 },
}

#[derive(Debug)]
struct Line {
    in_flight: usize,
    failures: u32,
    circuit: Circuit,
    /// Client addresses take turns.
    waiting: FairQueue<SessionKey>,
}

/// The slots and lines of all calls.
#[derive(Debug)]
pub(super) struct Calls {
    calls_max: usize,
    /// Reserved slots for each service.
    kept: usize,
    next_id: u64,
    in_flight: HashMap<u64, (SessionKey, EventsService), RandomState>,
    lines: [Line; SERVICES],
}

impl Calls {
    /// At most `calls_max` calls in flight; each service has a tenth reserved.
    pub(super) fn new(calls_max: usize) -> Self {
        let line = || Line {
            in_flight: 0,
            failures: 0,
            circuit: Circuit::Closed,
            waiting: FairQueue::default(),
        };
        Self {
            calls_max,
            kept: calls_max / 10,
            next_id: 0,
            in_flight: HashMap::default(),
            lines: [line(), line(), line()],
        }
    }

    /// Asks for a call of `key` to `service`. If no slot is free, the connection joins the line.
    pub(super) fn ask(
        &mut self,
        now_us: u64,
        client: ClientAddr,
        key: SessionKey,
        service: EventsService,
    ) -> Leave {
        let leave = self.judge(now_us, service);
        match leave {
            Leave::Go(id) => {
                self.in_flight.insert(id, (key, service));
                self.lines[service as usize].in_flight += 1;
            }
            Leave::Wait => self.lines[service as usize].waiting.push(client, key),
            Leave::Unreachable => {}
        }
        leave
    }

    /// Removes a connection from the line of `service`.
    pub(super) fn leave_line(&mut self, key: SessionKey, service: EventsService) {
        self.lines[service as usize].waiting.remove(&key);
    }

    fn judge(&mut self, now_us: u64, service: EventsService) -> Leave {
        let has_slot = self.has_slot(service);
        let line = &mut self.lines[service as usize];
        match line.circuit {
            Circuit::Probing { .. } => return Leave::Unreachable,
            Circuit::Open { until_us } if now_us < until_us => return Leave::Unreachable,
            Circuit::Open { .. } | Circuit::Closed if !has_slot => return Leave::Wait,
            Circuit::Open { .. } | Circuit::Closed => {}
        }
        let id = self.next_id;
        self.next_id += 1;
        if let Circuit::Open { .. } = line.circuit {
            line.circuit = Circuit::Probing { call: id };
        }
        Leave::Go(id)
    }

    fn has_slot(&self, service: EventsService) -> bool {
        let own = &self.lines[service as usize];
        let free = self.calls_max.saturating_sub(self.in_flight.len());
        let others = EventsService::ALL
            .into_iter()
            .filter(|other| *other != service);
        let owed: usize = others
            .map(|other| {
                self.kept
                    .saturating_sub(self.lines[other as usize].in_flight)
            })
            .sum();
        free > owed || (free > 0 && own.in_flight < self.kept)
    }

    /// Handles the end of a call. Returns the connection of the call.
    pub(super) fn ended(
        &mut self,
        now_us: u64,
        id: u64,
        failure: Option<CallFailure>,
    ) -> Option<SessionKey> {
        let (key, service) = self.in_flight.remove(&id)?;
        let line = &mut self.lines[service as usize];
        line.in_flight -= 1;
        match failure {
            Some(CallFailure::Timeout | CallFailure::Unreachable) => {
                line.failures = line.failures.saturating_add(1);
                let probed = line.circuit == Circuit::Probing { call: id };
                if probed || line.failures >= FAILURES_MAX {
                    line.circuit = Circuit::Open {
                        until_us: now_us + OPEN_US,
                    };
                }
            }
            // An answer over the limit is an answer.
            Some(CallFailure::TooLarge) | None => {
                line.failures = 0;
                line.circuit = Circuit::Closed;
            }
        }
        Some(key)
    }

    /// The next connection that leaves its line, with the permission for its call.
    pub(super) fn next(&mut self, now_us: u64) -> Option<(SessionKey, Leave)> {
        for service in EventsService::ALL {
            if self.lines[service as usize].waiting.is_empty() {
                continue;
            }
            let leave = self.judge(now_us, service);
            let line = &mut self.lines[service as usize];
            if leave == Leave::Wait {
                continue;
            }
            let key = line.waiting.pop()?;
            if let Leave::Go(id) = leave {
                line.in_flight += 1;
                self.in_flight.insert(id, (key, service));
            }
            return Some((key, leave));
        }
        None
    }

    /// Calls of a service in flight.
    pub(super) fn in_flight(&self, service: EventsService) -> usize {
        self.lines[service as usize].in_flight
    }

    /// Returns true if the service is not called at present, or probed.
    pub(super) fn is_open(&self, service: EventsService) -> bool {
        self.lines[service as usize].circuit != Circuit::Closed
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const HOME: ClientAddr = ClientAddr::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn key(slot: u32) -> SessionKey {
        SessionKey {
            slot,
            generation: 0,
        }
    }

    fn go(calls: &mut Calls, now_us: u64, service: EventsService) -> Option<u64> {
        match calls.ask(now_us, HOME, key(0), service) {
            Leave::Go(id) => Some(id),
            Leave::Wait | Leave::Unreachable => None,
        }
    }

    #[test]
    fn a_service_that_hangs_leaves_the_others_their_slots() {
        let mut calls = Calls::new(100);
        let hung = (0..200).filter(|_| go(&mut calls, 0, EventsService::Lobby).is_some());
        assert_eq!(hung.count(), 80);
        let others = (0..200).filter(|_| go(&mut calls, 0, EventsService::Simulation).is_some());
        assert_eq!(others.count(), 10);
        assert!((0..10).all(|_| go(&mut calls, 0, EventsService::Measurement).is_some()));
        assert_eq!(calls.in_flight.len(), 100);
        assert_eq!(
            calls.ask(0, HOME, key(7), EventsService::Measurement),
            Leave::Wait
        );
    }

    #[test]
    fn who_waits_goes_in_the_order_of_arrival() {
        let mut calls = Calls::new(1);
        let first = go(&mut calls, 0, EventsService::Lobby).expect("a free slot");
        for slot in 1..=3 {
            assert_eq!(
                calls.ask(0, HOME, key(slot), EventsService::Lobby),
                Leave::Wait
            );
        }
        assert_eq!(calls.next(0), None);
        let mut running = first;
        for slot in 1..=3 {
            assert!(calls.ended(0, running, None).is_some());
            let Some((next, Leave::Go(id))) = calls.next(0) else {
                panic!("nobody follows");
            };
            assert_eq!(next, key(slot));
            running = id;
        }
        assert_eq!(calls.ended(0, running, None), Some(key(3)));
        assert_eq!(calls.ended(0, running, None), None, "an end counts once");
        assert_eq!(calls.next(0), None);
    }

    #[test]
    fn addresses_take_turns_and_who_has_left_has_none() {
        let mut calls = Calls::new(1);
        let mut running = go(&mut calls, 0, EventsService::Lobby).expect("a free slot");
        for slot in 1..=100 {
            assert_eq!(
                calls.ask(0, HOME, key(slot), EventsService::Lobby),
                Leave::Wait
            );
        }
        let other = ClientAddr::Ip(IpAddr::V4(Ipv4Addr::BROADCAST));
        assert_eq!(
            calls.ask(0, other, key(500), EventsService::Lobby),
            Leave::Wait
        );
        for slot in (1..=100_u32).filter(|slot| !slot.is_multiple_of(10)) {
            calls.leave_line(key(slot), EventsService::Lobby);
        }
        assert_eq!(calls.lines[EventsService::Lobby as usize].waiting.len(), 11);
        let mut order = Vec::new();
        for _ in 0..11 {
            assert!(calls.ended(0, running, None).is_some());
            let Some((next, Leave::Go(id))) = calls.next(0) else {
                panic!("nobody follows");
            };
            order.push(next.slot);
            running = id;
        }
        assert_eq!(order, [10, 500, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert!(calls.ended(0, running, None).is_some());
        assert_eq!(calls.next(0), None);
        assert!(
            go(&mut calls, 0, EventsService::Lobby).is_some(),
            "its slot is free"
        );
    }

    #[test]
    fn twenty_failures_in_a_row_open_the_circuit_and_one_call_probes() {
        let mut calls = Calls::new(100);
        let fail = |calls: &mut Calls, now_us, failure| {
            let id = go(calls, now_us, EventsService::Lobby).expect("closed");
            calls.ended(now_us, id, failure);
        };
        for _ in 0..19 {
            fail(&mut calls, 0, Some(CallFailure::Timeout));
        }
        fail(&mut calls, 0, Some(CallFailure::TooLarge));
        for _ in 0..20 {
            assert!(!calls.is_open(EventsService::Lobby));
            fail(&mut calls, 5, Some(CallFailure::Unreachable));
        }
        assert!(calls.is_open(EventsService::Lobby));
        assert_eq!(
            calls.ask(5, HOME, key(1), EventsService::Lobby),
            Leave::Unreachable
        );
        assert!(
            go(&mut calls, 5, EventsService::Simulation).is_some(),
            "the others go on"
        );
        assert_eq!(
            calls.ask(1_000_004, HOME, key(1), EventsService::Lobby),
            Leave::Unreachable
        );
        let probe = go(&mut calls, 1_000_005, EventsService::Lobby).expect("one probes");
        assert_eq!(
            calls.ask(1_000_005, HOME, key(1), EventsService::Lobby),
            Leave::Unreachable
        );
        calls.ended(1_500_000, probe, Some(CallFailure::Timeout));
        assert_eq!(
            calls.ask(2_499_999, HOME, key(1), EventsService::Lobby),
            Leave::Unreachable
        );
        let probe = go(&mut calls, 2_500_000, EventsService::Lobby).expect("one probes again");
        calls.ended(2_600_000, probe, None);
        assert!(!calls.is_open(EventsService::Lobby));
        fail(&mut calls, 2_600_000, Some(CallFailure::Timeout));
        assert!(
            !calls.is_open(EventsService::Lobby),
            "counted from the start"
        );
    }

    #[test]
    fn who_waits_for_a_service_that_fails_is_told_at_once() {
        let mut calls = Calls::new(20);
        let running: Vec<u64> = (0..16)
            .filter_map(|_| go(&mut calls, 0, EventsService::Lobby))
            .collect();
        assert_eq!(running.len(), 16);
        assert_eq!(
            calls.ask(0, HOME, key(5), EventsService::Lobby),
            Leave::Wait
        );
        assert_eq!(
            calls.ask(0, HOME, key(6), EventsService::Lobby),
            Leave::Wait
        );
        calls.lines[0].failures = FAILURES_MAX - 1;
        calls.ended(9, running[0], Some(CallFailure::Timeout));
        assert_eq!(calls.next(9), Some((key(5), Leave::Unreachable)));
        assert_eq!(calls.next(9), Some((key(6), Leave::Unreachable)));
        assert_eq!(calls.next(9), None);
    }
}
