//! Permits for requests to use a connection to a service. A [`Quota`] limits them and shares them fairly among client
//! addresses; requests without a permit wait. A permit also charges the memory of the connection's buffers, in a sum over
//! all services.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lock;
use weirgate_runtime::Clock;
use weirgate_wire::admission::{ClientAddr, FairQueue, Permit, Quota};

/// A request whose client reads the answer more slowly is evicted for a request without a permit.
const TAKEN_BYTES_PER_SECOND_MIN: u64 = 32 * 1024;

/// How often a waiting request checks again for a slow request that can be evicted, and for buffers that other services
/// have freed.
const RECHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The permits of a service. Clones share the permits.
#[derive(Clone)]
pub(crate) struct ServicePermits(Arc<PermitsState>);

/// The most bytes that hyper's buffers hold for one proxied connection, on both sides together.
pub(crate) const CONNECTION_BYTES: u64 = 200 * 1024;

#[derive(Debug)]
struct PermitsState {
    /// The permits of this service that requests have.
    held: Quota,
    /// The bytes of the buffers of all services together.
    buffers: Quota,
    clock: Clock,
    /// No holder of the lock drops a permit, which would lock it again.
    waiting: Mutex<WaitingRequests>,
}

/// The requests without a permit. The client addresses take turns in getting one.
#[derive(Debug, Default)]
struct WaitingRequests {
    turns: FairQueue<u64>,
    requests: HashMap<u64, (ClientAddr, oneshot::Sender<ServicePermit>)>,
    /// The number of the next request.
    next: u64,
}

/// The permit of a request, given back on drop.
#[derive(Debug)]
pub(crate) struct ServicePermit {
    /// The permits of the service and for its buffers; `None` while they are being returned.
    held: Option<[Permit; 2]>,
    service: Arc<PermitsState>,
}

/// Why a request gets no permit at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPermit {
    /// All permits are in use.
    Full,
    /// Permits are free, but this address already has its share.
    AddressShare,
}

/// A waiting request. Dropping this removes it from the queue.
struct Waiting {
    service: Arc<PermitsState>,
    number: u64,
    granted: oneshot::Receiver<ServicePermit>,
}

impl ServicePermits {
    /// `buffers` is the sum for all services.
    pub(crate) fn new(permits_max: usize, buffers: Quota, clock: Clock) -> Self {
        Self(Arc::new(PermitsState {
            held: Quota::new("proxy_connections", permits_max as u64),
            buffers,
            clock,
            waiting: Mutex::default(),
        }))
    }

    /// The sum of the permits.
    pub(crate) fn held(&self) -> &Quota {
        &self.0.held
    }

    /// Waits for a permit. If none can be had at once, calls `waits` with the reason. Returns `None` if another service
    /// took the buffers at the moment of the grant.
    pub(crate) async fn permit(
        &self,
        client: ClientAddr,
        waits: impl FnOnce(NoPermit),
    ) -> Option<ServicePermit> {
        let Self(service) = self;
        let mut waiting = match service.grant_or_wait(client) {
            Ok(permit) => return Some(permit),
            Err(waiting) => waiting,
        };
        waits(match service.held.held() < service.held.max() {
            true => NoPermit::AddressShare,
            false => NoPermit::Full,
        });
        let permit = loop {
            match timeout(RECHECK_INTERVAL, &mut waiting.granted).await {
                // An error: `next` has dropped the request, because another service took the buffers.
                Ok(permit) => break permit.ok(),
                Err(_) => service.evict_for(client),
            }
            service.hand_out();
        };
        drop(waiting);
        permit
    }
}

impl PermitsState {
    /// Grants a permit, or puts the client in the queue for the next one.
    fn grant_or_wait(self: &Arc<Self>, client: ClientAddr) -> Result<ServicePermit, Waiting> {
        let mut waiting = lock(&self.waiting);
        if let Some(permit) = self.grant(client) {
            return Ok(permit);
        }
        let (sender, granted) = oneshot::channel();
        let number = waiting.next;
        waiting.next += 1;
        waiting.turns.push(client, number);
        waiting.requests.insert(number, (client, sender));
        Err(Waiting {
            service: Arc::clone(self),
            number,
            granted,
        })
    }

    /// Grants a permit with its buffers; `None` if the client may not have one now.
    fn grant(self: &Arc<Self>, client: ClientAddr) -> Option<ServicePermit> {
        let permit = self.held.grant(client, 1)?;
        let held = [permit, self.buffers.grant(client, CONNECTION_BYTES)?];
        // Not evicted until the request or its client is found to be slow ([`ServicePermit`]).
        held.iter().for_each(|permit| permit.work());
        Some(ServicePermit {
            held: Some(held),
            service: Arc::clone(self),
        })
    }

    fn has_room_for(&self, client: ClientAddr) -> bool {
        let buffers = &self.buffers;
        // `has_room_for` asks only whether any room is left; the buffers need room for all of their bytes.
        let is_free = buffers.held() + CONNECTION_BYTES <= buffers.max();
        self.held.has_room_for(client) && is_free && buffers.has_room_for(client)
    }

    /// Evicts a request with a slow body: one to this service, or, if this service has free permits and only
    /// buffers are missing, one to any service.
    fn evict_for(&self, client: ClientAddr) {
        let full = match self.held.has_room_for(client) {
            true => &self.buffers,
            false => &self.held,
        };
        full.evict_for(client, Quota::STALLED_US, self.clock.mono_us());
    }

    /// Gives the free permits to waiting requests.
    fn hand_out(self: &Arc<Self>) {
        while let Some((permit, request)) = self.next() {
            // If the request no longer waits, the permit is dropped, and the next request gets it.
            let _ = request.send(permit);
        }
    }

    /// Takes the next request whose address may have a permit out of the queue, and grants the permit. If another service
    /// has taken the buffers since, the request is dropped, and its wait ends without a permit.
    fn next(self: &Arc<Self>) -> Option<(ServicePermit, oneshot::Sender<ServicePermit>)> {
        let mut waiting = lock(&self.waiting);
        let may = |client| self.has_room_for(client);
        let number = waiting.turns.pop_of(may)?;
        let (client, request) = waiting.requests.remove(&number)?;
        Some((self.grant(client)?, request))
    }
}

impl ServicePermit {
    /// Records how far the client's body is behind its least speed: zero while the client does not have to send.
    pub(crate) fn note_behind(&self, behind: Duration) {
        let now_us = self.service.clock.mono_us();
        for permit in self.held.iter().flatten() {
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
        // In the future: the time that the client may take for these bytes counts as progress.
        let until_us = self.service.clock.mono_us() + us;
        let held = self.held.iter().flatten();
        held.for_each(|permit| permit.progress(until_us));
    }

    /// Whether the request has to give its permit to another one. If not, wakes the task once it has to.
    pub(crate) fn is_evicted(&self, cx: &Context<'_>) -> bool {
        let mut held = self.held.iter().flatten();
        held.any(|permit| {
            permit.wake_with(cx.waker());
            permit.is_evicted()
        })
    }
}

impl Drop for ServicePermit {
    fn drop(&mut self) {
        drop(self.held.take());
        self.service.hand_out();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = lock(&self.service.waiting);
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

    /// A permit that is free at once.
    async fn at_once(permits: &ServicePermits, client: &str) -> Option<ServicePermit> {
        let permit = permits.permit(ip(client), |_| {});
        timeout(Duration::ZERO, permit).await.ok()?
    }

    #[test]
    fn every_address_finds_a_permit_and_those_without_one_wait_by_turns() {
        run(async {
            let permits = ServicePermits::new(4, many_buffers(), Clock::start());
            let mut held = Vec::new();
            for client in ["2001:db8::1", "2001:db8::2", "192.0.2.1"] {
                held.push(at_once(&permits, client).await.expect("a permit"));
            }
            let order = Arc::new(Mutex::new(Vec::new()));
            let wait = |client: &'static str, expected: NoPermit| {
                let (permits, order) = (permits.clone(), Arc::clone(&order));
                spawn_local(async move {
                    let report = |reason| assert_eq!(reason, expected, "{client}");
                    let permit = permits.permit(ip(client), report).await;
                    order.lock().expect("a list").push(client);
                    permit.expect("a permit")
                })
            };
            // The clients of a /64 count as the same client.
            let same = wait("2001:db8::3", NoPermit::AddressShare);
            yield_now().await;
            held.push(at_once(&permits, "192.0.2.2").await.expect("a permit"));
            let (also, other) = (
                wait("2001:db8::4", NoPermit::Full),
                wait("192.0.2.3", NoPermit::Full),
            );
            yield_now().await;
            assert!(order.lock().expect("a list").is_empty());
            // The free permit goes to the address that has fewer.
            drop(held.pop());
            drop(other.await.expect("a permit"));
            held.drain(..2);
            let (same, also) = (same.await.expect("a permit"), also.await.expect("a permit"));
            let first = ["192.0.2.3", "2001:db8::3", "2001:db8::4"];
            assert_eq!(*order.lock().expect("a list"), first);
            drop((same, also, held));
            assert_eq!(permits.0.held.held(), 0);
            assert!(lock(&permits.0.waiting).requests.is_empty());
        });
    }

    #[test]
    fn a_body_that_crawls_gives_way_and_a_request_that_left_takes_no_permit() {
        run(async {
            let permits = ServicePermits::new(2, many_buffers(), Clock::start());
            let crawls = at_once(&permits, "192.0.2.1").await.expect("a permit");
            let works = at_once(&permits, "192.0.2.2").await.expect("a permit");
            assert!(at_once(&permits, "192.0.2.3").await.is_none());
            assert!(lock(&permits.0.waiting).requests.is_empty());
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
            let permit =
                permits.permit(ip("192.0.2.3"), |reason| assert_eq!(reason, NoPermit::Full));
            assert!(permit.await.is_some());
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
            let service = || ServicePermits::new(8, buffers.clone(), Clock::start());
            let (one, other) = (service(), service());
            let of_one = at_once(&one, "192.0.2.1").await.expect("a permit");
            let of_other = at_once(&other, "192.0.2.2").await.expect("a permit");
            assert!(at_once(&other, "192.0.2.1").await.is_none(), "its share");
            let third = at_once(&one, "192.0.2.3").await.expect("a permit");
            let wait = |address: &'static str| {
                let other = other.clone();
                spawn_local(async move { other.permit(ip(address), |_| {}).await })
            };
            let waits = wait("192.0.2.4");
            yield_now().await;
            drop(third);
            let fourth = waits.await.expect("a task").expect("a permit");
            assert_eq!(buffers.held(), 3 * CONNECTION_BYTES);
            of_one.note_behind(Duration::from_secs(2));
            let waits = wait("192.0.2.5");
            poll_fn(|cx| match of_one.is_evicted(cx) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            drop(of_one);
            let fifth = waits.await.expect("a task").expect("a permit");
            drop((of_other, fourth, fifth));
            assert_eq!(buffers.held(), 0);
        });
    }
}
