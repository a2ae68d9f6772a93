//! Permission for calls: slots for all services together, and a circuit breaker for each service.
//!
//! A service that hangs would soon hold every slot and block the other services, so a tenth of the slots is reserved
//! for each service, and less if there are many services: half of all slots are for any service. A client with slow
//! calls would do the same to the other clients, so each address has a share of the slots ([`Quota`]); a lone address
//! gets half of them.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::call::CallFailure;
use super::circuit::Circuit;
use super::services::{EventsService, Services};
use crate::gateways::shared::counts::Count;
use weirgate_core::SessionKey;
use weirgate_wire::admission::{ClientAddr, FairQueue, Permit, Quota};

/// The permission for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// Make the call under this number.
    Go(u64),
    /// No slot is free for the address: the connection waits in line.
    Wait,
    /// The service is not called at present.
    Unreachable,
}

/// A call in flight.
#[derive(Debug)]
struct InFlight {
    key: SessionKey,
    service: EventsService,
    client: ClientAddr,
    begun_us: u64,
    _slot: Permit,
}

/// The slots and the circuit of a service.
#[derive(Debug)]
struct ServiceSlots {
    /// The reserved slots, then the slots of all services.
    slots: [Quota; 2],
    circuit: Circuit,
}

impl ServiceSlots {
    /// The slots for a call of this client: the reserved slots if they have room, else the slots of all services.
    fn slots_for(&self, client: ClientAddr) -> &Quota {
        let [reserved, shared] = &self.slots;
        match reserved.has_room_for(client) {
            true => reserved,
            false => shared,
        }
    }

    /// Whether a call of this client would wait for a slot. While the circuit is open for it, no call waits.
    fn would_wait(&self, client: ClientAddr) -> bool {
        !self.circuit.is_open_for(client) && !self.slots_for(client).has_room_for(client)
    }

    /// Whether every call would wait for a slot.
    fn is_full(&self) -> bool {
        let full = |slots: &Quota| slots.held() >= slots.max();
        !self.circuit.is_open() && self.slots.iter().all(full)
    }
}

/// A service, and the connections that wait for a call of it.
#[derive(Debug)]
struct ServiceLine {
    service: ServiceSlots,
    /// Client addresses take turns.
    waiting: FairQueue<SessionKey>,
    name: &'static str,
    stats: Arc<ServiceCallStats>,
}

/// Counters of a service that any thread may read.
#[derive(Debug, Default)]
pub struct ServiceCallStats {
    /// Calls not made because the circuit was open.
    pub skipped: Count,
    /// 1 while the service is not called, or only probed.
    pub open: Count,
}

/// The slots and lines of all calls.
#[derive(Debug)]
pub(super) struct CallSlots {
    next_id: u64,
    in_flight: HashMap<u64, InFlight, RandomState>,
    /// The slots of all services.
    shared: Quota,
    /// By the numbers of the services.
    lines: Vec<ServiceLine>,
}

impl CallSlots {
    /// At most `calls_max` calls may be in flight; a tenth, or at least one, is reserved for each service, and no more than
    /// half for all.
    pub(super) fn new(calls_max: usize, services: &Services) -> Self {
        let (calls_max, count) = (calls_max as u64, services.rows().len() as u64);
        let reserved = (calls_max / 10).max(1).min(calls_max / (2 * count));
        let shared = Quota::new("calls", calls_max - count * reserved);
        let line = |name: &'static str| ServiceLine {
            service: ServiceSlots {
                // A label of metrics, which live as long as the process.
                slots: [
                    Quota::new(format!("calls_{name}").leak(), reserved),
                    shared.clone(),
                ],
                circuit: Circuit::default(),
            },
            waiting: FairQueue::default(),
            name,
            stats: Arc::default(),
        };
        Self {
            next_id: 0,
            in_flight: HashMap::default(),
            lines: services.rows().iter().map(|row| line(row.name)).collect(),
            shared,
        }
    }

    /// The counters of each service, by its name.
    pub(super) fn stats(&self) -> Vec<(&'static str, Arc<ServiceCallStats>)> {
        let lines = self.lines.iter();
        lines
            .map(|line| (line.name, Arc::clone(&line.stats)))
            .collect()
    }

    /// Counts a call that is not made because the circuit is open.
    pub(super) fn count_skipped(&self, service: EventsService) {
        self.lines[service.number()].stats.skipped.add(1);
    }

    /// The slots shared by all services, then the reserved slots of each service.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Quota> {
        let reserved = self.lines.iter().map(|line| &line.service.slots[0]);
        std::iter::once(&self.shared).chain(reserved)
    }

    /// Asks for a call of `key` to `service`. If no slot is free for the address, the connection joins the line.
    pub(super) fn ask(
        &mut self,
        now_us: u64,
        client: ClientAddr,
        key: SessionKey,
        service: EventsService,
    ) -> Permission {
        let permission = self.begin(now_us, client, key, service);
        if permission == Permission::Wait {
            self.lines[service.number()].waiting.push(client, key);
        }
        permission
    }

    /// Begins a call of `key` to `service` if that is permitted.
    pub(super) fn begin(
        &mut self,
        now_us: u64,
        client: ClientAddr,
        key: SessionKey,
        service: EventsService,
    ) -> Permission {
        let called = &mut self.lines[service.number()].service;
        if !called.circuit.permits(now_us, client) {
            return Permission::Unreachable;
        }
        let Some(slot) = called.slots_for(client).grant(client, 1) else {
            // While the circuit is open for a client, its calls do not wait.
            return match called.circuit.is_open_for(client) {
                true => Permission::Unreachable,
                false => Permission::Wait,
            };
        };
        called.circuit.begun(now_us, client);
        let id = self.next_id;
        self.next_id += 1;
        let call = InFlight {
            key,
            service,
            client,
            begun_us: now_us,
            _slot: slot,
        };
        self.in_flight.insert(id, call);
        Permission::Go(id)
    }

    /// Removes a connection from the line of `service`.
    pub(super) fn leave_line(&mut self, key: SessionKey, service: EventsService) {
        self.lines[service.number()].waiting.remove(&key);
    }

    /// Handles the end of a call. Returns the connection of the call; `None` if the call has ended already.
    pub(super) fn ended(
        &mut self,
        now_us: u64,
        id: u64,
        failure: Option<CallFailure>,
    ) -> Option<SessionKey> {
        let call = self.in_flight.remove(&id)?;
        let ServiceLine { service, stats, .. } = &mut self.lines[call.service.number()];
        let circuit = &mut service.circuit;
        match failure {
            Some(CallFailure::Timeout | CallFailure::Unreachable) => {
                circuit.failed(now_us, call.client, call.begun_us);
            }
            // An answer over the limit is an answer.
            Some(CallFailure::TooLarge) | None => circuit.answered(now_us),
        }
        stats.open.set(usize::from(circuit.is_open()));
        Some(call.key)
    }

    /// Takes the next connection out of its line, and returns it with the service of its call.
    pub(super) fn next(&mut self) -> Option<(SessionKey, EventsService)> {
        for (line, number) in self.lines.iter_mut().zip(EventsService::all()) {
            let ServiceLine {
                service, waiting, ..
            } = line;
            // Keeps the search short: if a slot is free, the search skips only addresses that have calls in flight.
            if service.is_full() {
                continue;
            }
            if let Some(key) = waiting.pop_of(|client| !service.would_wait(client)) {
                return Some((key, number));
            }
        }
        None
    }

    /// Calls of a service in flight.
    pub(super) fn in_flight(&self, service: EventsService) -> usize {
        let calls = self.in_flight.values();
        calls.filter(|call| call.service == service).count()
    }

    /// Returns true if the service is not called at present for some addresses, or only probed.
    pub(super) fn is_open(&self, service: EventsService) -> bool {
        self.lines[service.number()].service.circuit.is_open()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::services::Events;
    use super::*;

    const HOME: ClientAddr = ClientAddr::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    const ALL: [EventsService; 3] = [
        EventsService::LOBBY,
        EventsService::MEASUREMENT,
        EventsService::SIMULATION,
    ];

    fn with_slots(calls_max: usize) -> CallSlots {
        CallSlots::new(calls_max, &Services::default())
    }

    fn ip(last: u8) -> ClientAddr {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn key(slot: u32) -> SessionKey {
        SessionKey {
            slot,
            generation: 0,
        }
    }

    fn go_from(
        calls: &mut CallSlots,
        now_us: u64,
        client: ClientAddr,
        service: EventsService,
    ) -> Option<u64> {
        match calls.ask(now_us, client, key(0), service) {
            Permission::Go(id) => Some(id),
            Permission::Wait | Permission::Unreachable => None,
        }
    }

    fn go(calls: &mut CallSlots, now_us: u64, service: EventsService) -> Option<u64> {
        go_from(calls, now_us, HOME, service)
    }

    /// The next of the line, a client of this address, with the permission for its call.
    fn next_of(
        calls: &mut CallSlots,
        now_us: u64,
        client: ClientAddr,
    ) -> Option<(SessionKey, Permission)> {
        let (key, service) = calls.next()?;
        Some((key, calls.begin(now_us, client, key, service)))
    }

    fn next(calls: &mut CallSlots, now_us: u64) -> Option<(SessionKey, Permission)> {
        next_of(calls, now_us, HOME)
    }

    /// The calls of so many that may begin.
    fn begin(
        calls: &mut CallSlots,
        clients: impl Iterator<Item = u8>,
        service: EventsService,
    ) -> usize {
        let begun = clients.filter_map(|last| go_from(calls, 0, ip(last), service));
        begun.count()
    }

    #[test]
    fn a_service_that_hangs_leaves_the_others_their_slots() {
        for (all, reserved) in [(100, 10), (25, 2), (6, 1)] {
            let mut calls = with_slots(all);
            let mut begun = |service| begin(&mut calls, 0..200, service);
            let [lobby, measurement, simulation] = ALL.map(&mut begun);
            assert_eq!([measurement, simulation], [reserved; 2], "{all}");
            assert_eq!(lobby, all - 2 * reserved, "{all}");
        }
        let mut calls = with_slots(100);
        assert_eq!(begin(&mut calls, 0..200, EventsService::MEASUREMENT), 80);
        assert_eq!(
            calls.ask(0, HOME, key(7), EventsService::MEASUREMENT),
            Permission::Wait
        );
    }

    #[test]
    fn many_services_have_half_of_the_slots_among_them() {
        for (routes, reserved) in [(0, 10), (2, 10), (3, 8), (17, 2), (32, 1)] {
            let mut services = Services::default();
            for n in 0..routes {
                let events = Events::parse(&format!("r{n}.*")).expect("events");
                let added = services.route(events, &format!("http://{n}"));
                added.expect("a route");
            }
            let mut calls = CallSlots::new(100, &services);
            let all: Vec<_> = services.iter().map(|(service, _)| service).collect();
            let slots = |calls: &mut CallSlots, service| begin(calls, 0..200, service);
            let hanging = slots(&mut calls, all[0]);
            assert_eq!(hanging, 100 - (all.len() - 1) * reserved, "{routes} routes");
            for service in &all[1..] {
                assert_eq!(slots(&mut calls, *service), reserved, "{routes} routes");
            }
        }
    }

    #[test]
    fn addresses_whose_calls_take_long_leave_slots_to_the_others() {
        let many = |last| std::iter::repeat_n(last, 200);
        let mut calls = with_slots(100);
        for (last, share) in [(1, 40), (2, 21), (3, 10), (4, 5)] {
            assert_eq!(begin(&mut calls, many(last), EventsService::LOBBY), share);
        }
        assert_eq!(begin(&mut calls, [5].into_iter(), EventsService::LOBBY), 1);
        let mut calls = with_slots(100);
        let shares = ALL.map(|service| begin(&mut calls, many(1), service));
        assert_eq!(shares, [40, 5, 5], "half of all, over all services");
        let refused: u64 = calls.slots().map(|slots| slots.counts().refused).sum();
        assert_eq!(refused, 600 - 50, "each counts once");
    }

    #[test]
    fn a_free_slot_is_not_for_an_address_that_holds_as_many() {
        let mut calls = with_slots(4);
        let hog: Vec<_> = (0..2)
            .filter_map(|_| go_from(&mut calls, 0, ip(1), EventsService::LOBBY))
            .collect();
        assert_eq!(hog.len(), 2);
        let other = go_from(&mut calls, 0, ip(2), EventsService::LOBBY).expect("a slot");
        let waits = |calls: &mut CallSlots, last: u8| {
            calls.ask(0, ip(last), key(last.into()), EventsService::LOBBY)
        };
        assert_eq!(waits(&mut calls, 1), Permission::Wait);
        assert_eq!(next(&mut calls, 0), None);
        assert!(calls.ended(0, other, None).is_some());
        assert_eq!(next(&mut calls, 0), None, "2 held, 2 free");
        assert!(
            matches!(waits(&mut calls, 3), Permission::Go(_)),
            "not behind the line"
        );
        assert!(calls.ended(0, hog[0], None).is_some());
        let next = next_of(&mut calls, 0, ip(1));
        assert!(matches!(next, Some((next, Permission::Go(_))) if next == key(1)));
    }

    #[test]
    fn who_waits_goes_in_the_order_of_arrival() {
        let mut calls = with_slots(1);
        let first = go(&mut calls, 0, EventsService::LOBBY).expect("a free slot");
        for slot in 1..=3 {
            assert_eq!(
                calls.ask(0, HOME, key(slot), EventsService::LOBBY),
                Permission::Wait
            );
        }
        assert_eq!(next(&mut calls, 0), None);
        let mut running = first;
        for slot in 1..=3 {
            assert!(calls.ended(0, running, None).is_some());
            let Some((next, Permission::Go(id))) = next(&mut calls, 0) else {
                panic!("nobody follows");
            };
            assert_eq!(next, key(slot));
            running = id;
        }
        assert_eq!(calls.ended(0, running, None), Some(key(3)));
        assert_eq!(calls.ended(0, running, None), None, "an end counts once");
        assert_eq!(next(&mut calls, 0), None);
    }

    #[test]
    fn addresses_take_turns_and_who_has_left_has_none() {
        let mut calls = with_slots(1);
        let mut running = go(&mut calls, 0, EventsService::LOBBY).expect("a free slot");
        for slot in 1..=100 {
            assert_eq!(
                calls.ask(0, HOME, key(slot), EventsService::LOBBY),
                Permission::Wait
            );
        }
        let other = ClientAddr::Ip(IpAddr::V4(Ipv4Addr::BROADCAST));
        assert_eq!(
            calls.ask(0, other, key(500), EventsService::LOBBY),
            Permission::Wait
        );
        for slot in (1..=100_u32).filter(|slot| !slot.is_multiple_of(10)) {
            calls.leave_line(key(slot), EventsService::LOBBY);
        }
        assert_eq!(calls.lines[EventsService::LOBBY.number()].waiting.len(), 11);
        let mut order = Vec::new();
        for _ in 0..11 {
            assert!(calls.ended(0, running, None).is_some());
            let Some((next, Permission::Go(id))) = next(&mut calls, 0) else {
                panic!("nobody follows");
            };
            order.push(next.slot);
            running = id;
        }
        assert_eq!(order, [10, 500, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert!(calls.ended(0, running, None).is_some());
        assert_eq!(next(&mut calls, 0), None);
        assert!(
            go(&mut calls, 0, EventsService::LOBBY).is_some(),
            "its slot is free"
        );
    }

    #[test]
    fn twenty_failures_in_a_row_open_the_circuit_and_one_call_probes() {
        let mut calls = with_slots(100);
        let fail = |calls: &mut CallSlots, now_us, failure| {
            let id = go(calls, now_us, EventsService::LOBBY).expect("closed");
            calls.ended(now_us, id, failure);
        };
        for _ in 0..19 {
            fail(&mut calls, 0, Some(CallFailure::Timeout));
        }
        fail(&mut calls, 0, Some(CallFailure::TooLarge));
        for _ in 0..20 {
            assert!(!calls.is_open(EventsService::LOBBY));
            fail(&mut calls, 5, Some(CallFailure::Unreachable));
        }
        assert!(calls.is_open(EventsService::LOBBY));
        assert_eq!(
            calls.ask(5, HOME, key(1), EventsService::LOBBY),
            Permission::Unreachable
        );
        assert!(
            go(&mut calls, 5, EventsService::SIMULATION).is_some(),
            "the others go on"
        );
        assert_eq!(
            calls.ask(1_000_004, HOME, key(1), EventsService::LOBBY),
            Permission::Unreachable
        );
        let probe = go(&mut calls, 1_000_005, EventsService::LOBBY).expect("one probes");
        assert_eq!(
            calls.ask(1_000_005, HOME, key(1), EventsService::LOBBY),
            Permission::Unreachable
        );
        calls.ended(1_500_000, probe, Some(CallFailure::Timeout));
        assert_eq!(
            calls.ask(2_499_999, HOME, key(1), EventsService::LOBBY),
            Permission::Unreachable
        );
        let probe = go(&mut calls, 2_500_000, EventsService::LOBBY).expect("one probes again");
        calls.ended(2_600_000, probe, None);
        assert!(!calls.is_open(EventsService::LOBBY));
        fail(&mut calls, 2_600_000, Some(CallFailure::Timeout));
        assert!(
            !calls.is_open(EventsService::LOBBY),
            "counted from the start"
        );
    }

    #[test]
    fn who_waits_for_a_service_that_fails_is_told_at_once() {
        let mut calls = with_slots(20);
        for _ in 0..19 {
            let id = go(&mut calls, 0, EventsService::LOBBY).expect("closed");
            calls.ended(0, id, Some(CallFailure::Unreachable));
        }
        let running: Vec<u64> = (0..16)
            .filter_map(|_| go(&mut calls, 0, EventsService::LOBBY))
            .collect();
        assert_eq!(running.len(), 8);
        calls.leave_line(key(0), EventsService::LOBBY);
        for slot in [5, 6] {
            assert_eq!(
                calls.ask(0, HOME, key(slot), EventsService::LOBBY),
                Permission::Wait
            );
        }
        calls.ended(9, running[0], Some(CallFailure::Timeout));
        assert_eq!(next(&mut calls, 9), Some((key(5), Permission::Unreachable)));
        assert_eq!(next(&mut calls, 9), Some((key(6), Permission::Unreachable)));
        assert_eq!(next(&mut calls, 9), None);
    }
}
