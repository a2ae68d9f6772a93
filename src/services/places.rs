//! Permits for requests to use a connection to a service, called places. A [`Quota`] limits them and shares them
//! fairly among client addresses; requests without a place wait. A place also charges the memory of the connection's
//! buffers, in a sum over all services.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lock;
use weirgate_runtime::Clock;
use weirgate_wire::admission::{ClientAddr, FairQueue, Permit, Quota};

/// A request whose body is further behind its least speed than this, in microseconds, is evicted for a request without a
/// place.
const STILL_US: u64 = 1_000_000;

/// A request whose client reads the answer more slowly is evicted for a request without a place.
const TAKEN_BYTES_PER_SECOND_MIN: u64 = 32 * 1024;

/// How often a waiting request checks again for a slow request that can be evicted, and for buffers that other services
/// have freed.
const RECHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The places of a service. Clones share the places.
#[derive(Clone)]
pub(crate) struct Places(Arc<PlacesState>);

/// The most bytes that hyper's buffers hold for one proxied connection, on both sides together.
pub(crate) const CONNECTION_BYTES: u64 = 200 * 1024;

#[derive(Debug)]
struct PlacesState {
    held: Quota,
    buffers: Quota,
    clock: Clock,
    /// No holder of the lock drops a place, which would lock it again.
    waiting: Mutex<WaitingRequests>,
}

/// The requests without a place. The client addresses take turns in getting one.
#[derive(Debug, Default)]
struct WaitingRequests {
    turns: FairQueue<u64>,
    requests: HashMap<u64, (ClientAddr, oneshot::Sender<ConnectionPlace>)>,
    /// The number of the next request.
    next: u64,
}

/// The place of a request, given back on drop.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    /// The permits for the place and for its buffers; `None` while they are being returned.
    permits: Option<[Permit; 2]>,
    places: Arc<PlacesState>,
}

/// Why a request gets no place at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// All places are in use.
    Full,
    /// Places are free, but this address already has its share.
    AddressShare,
}

/// A waiting request. Dropping this removes it from the queue.
struct Waiting {
    places: Arc<PlacesState>,
    number: u64,
    granted: oneshot::Receiver<ConnectionPlace>,
}

impl Places {
    /// `buffers` is the sum for all services.
    pub(crate) fn new(places_max: usize, buffers: Quota, clock: Clock) -> Self {
        Self(Arc::new(PlacesState {
            held: Quota::new("proxy_connections", places_max as u64),
            buffers,
            clock,
            waiting: Mutex::default(),
        }))
    }

    /// The quota of the places.
    pub(crate) fn held(&self) -> &Quota {
        &self.0.held
    }

    /// Waits for a place. If none can be had at once, calls `waits` with the reason. Returns `None` if another service
    /// took the buffers at the moment of the grant.
    pub(crate) async fn place(
        &self,
        client: ClientAddr,
        waits: impl FnOnce(NoPlace),
    ) -> Option<ConnectionPlace> {
        let Self(places) = self;
        let mut waiting = match places.grant_or_wait(client) {
            Ok(place) => return Some(place),
            Err(waiting) => waiting,
        };
        waits(match places.held.held() < places.held.max() {
            true => NoPlace::AddressShare,
            false => NoPlace::Full,
        });
        let place = loop {
            match timeout(RECHECK_INTERVAL, &mut waiting.granted).await {
                Ok(place) => break place.ok(),
                Err(_) => places.evict_for(client),
            }
            places.hand_out();
        };
        drop(waiting);
        place
    }
}

impl PlacesState {
    /// Grants a place, or puts the client in the queue for the next one.
    fn grant_or_wait(self: &Arc<Self>, client: ClientAddr) -> Result<ConnectionPlace, Waiting> {
        let mut waiting = lock(&self.waiting);
        if let Some(place) = self.grant(client) {
            return Ok(place);
        }
        let (sender, granted) = oneshot::channel();
        let number = waiting.next;
        waiting.next += 1;
        waiting.turns.push(client, number);
        waiting.requests.insert(number, (client, sender));
        Err(Waiting {
            places: Arc::clone(self),
            number,
            granted,
        })
    }

    /// Grants a place with its buffers; `None` if the client may not have one now.
    fn grant(self: &Arc<Self>, client: ClientAddr) -> Option<ConnectionPlace> {
        let place = self.held.grant(client, 1)?;
        let permits = [place, self.buffers.grant(client, CONNECTION_BYTES)?];
        permits.iter().for_each(|permit| permit.work());
        Some(ConnectionPlace {
            permits: Some(permits),
            places: Arc::clone(self),
        })
    }

    fn has_room_for(&self, client: ClientAddr) -> bool {
        let buffers = &self.buffers;
        let is_free = buffers.held() + CONNECTION_BYTES <= buffers.max();
        self.held.has_room_for(client) && is_free && buffers.has_room_for(client)
    }

    /// Evicts a request with a slow body: one to this service, or, if this service has free places and only
    /// buffers are missing, one to any service.
    fn evict_for(&self, client: ClientAddr) {
        let full = match self.held.has_room_for(client) {
            true => &self.buffers,
            false => &self.held,
        };
        full.evict_for(client, STILL_US, self.clock.mono_us());
    }

    /// Gives the free places to waiting requests.
    fn hand_out(self: &Arc<Self>) {
        while let Some((place, request)) = self.next() {
            // If the request no longer waits, the place is dropped, and the next request gets it.
            let _ = request.send(place);
        }
    }

    /// Takes the next request whose address may have a place out of the queue, and grants the place. If another service
    /// has taken the buffers since, the request is dropped, and [`Places::place`] returns `None`.
    fn next(self: &Arc<Self>) -> Option<(ConnectionPlace, oneshot::Sender<ConnectionPlace>)> {
        let mut waiting = lock(&self.waiting);
        let may = |client| self.has_room_for(client);
        let number = waiting.turns.pop_of(may)?;
        let (client, request) = waiting.requests.remove(&number)?;
        Some((self.grant(client)?, request))
    }
}

impl ConnectionPlace {
    /// Records how far the client's body is behind its least speed: zero while the client does not have to send.
    pub(crate) fn note_behind(&self, behind: Duration) {
        let now_us = self.places.clock.mono_us();
        for permit in self.permits.iter().flatten() {
            match behind.is_zero() {
                true => permit.work(),
                false => permit.progress(now_us.saturating_sub(behind.as_micros() as u64)),
            }
        }
    }

    /// Records that the client has to read this many bytes of the answer. If it reads them more slowly than the least
    /// speed, the request is evicted when others wait.
    pub(crate) fn note_unread(&self, bytes: usize) {
        let us = bytes as u64 * 1_000_000 / TAKEN_BYTES_PER_SECOND_MIN;
        let until_us = self.places.clock.mono_us() + us;
        let permits = self.permits.iter().flatten();
        permits.for_each(|permit| permit.progress(until_us));
    }

    /// Whether the request has to give its place to another one. If not, wakes the task once it has to.
    pub(crate) fn is_evicted(&self, cx: &Context<'_>) -> bool {
        let mut permits = self.permits.iter().flatten();
        permits.any(|permit| {
            permit.wake_with(cx.waker());
            permit.is_evicted()
        })
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        drop(self.permits.take());
        self.places.hand_out();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = lock(&self.places.waiting);
        waiting.turns.remove(&self.number);
        waiting.requests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::net::IpAddr;
    use std::task::{Poll, Waker};

    use tokio::runtime;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    fn many_buffers() -> Quota {
        Quota::new("proxy_bytes", 100 * CONNECTION_BYTES)
    }

    fn ip(text: &str) -> ClientAddr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = runtime::Builder::new_current_thread().enable_time().build();
        LocalSet::new().block_on(&runtime.expect("a runtime"), test);
    }

    /// A place that is free at once.
    async fn at_once(places: &Places, client: &str) -> Option<ConnectionPlace> {
        let place = places.place(ip(client), |_| {});
        timeout(Duration::ZERO, place).await.ok()?
    }

    #[test]
    fn every_address_finds_a_place_and_those_without_one_wait_by_turns() {
        run(async {
            let places = Places::new(4, many_buffers(), Clock::start());
            let mut held = Vec::new();
            for client in ["2001:db8::1", "2001:db8::2", "192.0.2.1"] {
                held.push(at_once(&places, client).await.expect("a place"));
            }
            let order = Arc::new(Mutex::new(Vec::new()));
            let wait = |client: &'static str, expected: NoPlace| {
                let (places, order) = (places.clone(), Arc::clone(&order));
                spawn_local(async move {
                    let report = |reason| assert_eq!(reason, expected, "{client}");
                    let place = places.place(ip(client), report).await;
                    order.lock().expect("a list").push(client);
                    place.expect("a place")
                })
            };
            // The clients of a /64 count as the same client.
            let same = wait("2001:db8::3", NoPlace::AddressShare);
            yield_now().await;
            held.push(at_once(&places, "192.0.2.2").await.expect("a place"));
            let (also, other) = (
                wait("2001:db8::4", NoPlace::Full),
                wait("192.0.2.3", NoPlace::Full),
            );
            yield_now().await;
            assert!(order.lock().expect("a list").is_empty());
            // The free place goes to the address that has fewer.
            drop(held.pop());
            drop(other.await.expect("a place"));
            held.drain(..2);
            let (same, also) = (same.await.expect("a place"), also.await.expect("a place"));
            let first = ["192.0.2.3", "2001:db8::3", "2001:db8::4"];
            assert_eq!(*order.lock().expect("a list"), first);
            drop((same, also, held));
            assert_eq!(places.0.held.held(), 0);
            assert!(lock(&places.0.waiting).requests.is_empty());
        });
    }

    #[test]
    fn a_body_that_crawls_gives_way_and_a_request_that_left_takes_no_place() {
        run(async {
            let places = Places::new(2, many_buffers(), Clock::start());
            let crawls = at_once(&places, "192.0.2.1").await.expect("a place");
            let works = at_once(&places, "192.0.2.2").await.expect("a place");
            assert!(at_once(&places, "192.0.2.3").await.is_none());
            assert!(lock(&places.0.waiting).requests.is_empty());
            crawls.note_behind(Duration::from_secs(2));
            works.note_behind(Duration::from_millis(10));
            let ends = spawn_local(async move {
                poll_fn(|cx| match crawls.is_evicted(cx) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
                drop(crawls);
            });
            let place = places.place(ip("192.0.2.3"), |reason| assert_eq!(reason, NoPlace::Full));
            assert!(place.await.is_some());
            ends.await.expect("chosen");
            assert!(!works.is_evicted(&Context::from_waker(Waker::noop())));
        });
    }

    /// Requests to one service can get buffers that another service has freed, or that a slow request to the other
    /// service gives up.
    #[test]
    fn the_buffers_of_all_services_are_one_sum() {
        run(async {
            let buffers = Quota::new("proxy_bytes", 3 * CONNECTION_BYTES);
            let service = || Places::new(8, buffers.clone(), Clock::start());
            let (one, other) = (service(), service());
            let of_one = at_once(&one, "192.0.2.1").await.expect("a place");
            let of_other = at_once(&other, "192.0.2.2").await.expect("a place");
            assert!(at_once(&other, "192.0.2.1").await.is_none(), "its share");
            let third = at_once(&one, "192.0.2.3").await.expect("a place");
            let wait = |address: &'static str| {
                let other = other.clone();
                spawn_local(async move { other.place(ip(address), |_| {}).await })
            };
            let waits = wait("192.0.2.4");
            yield_now().await;
            drop(third);
            let fourth = waits.await.expect("a task").expect("a place");
            assert_eq!(buffers.held(), 3 * CONNECTION_BYTES);
            of_one.note_behind(Duration::from_secs(2));
            let waits = wait("192.0.2.5");
            poll_fn(|cx| match of_one.is_evicted(cx) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            drop(of_one);
            let fifth = waits.await.expect("a task").expect("a place");
            drop((of_other, fourth, fifth));
            assert_eq!(buffers.held(), 0);
        });
    }
}
