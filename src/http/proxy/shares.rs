//! The limit on the connections to a service for the clients of an address. Bounded: an address without
//! connections and waiting requests is removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::admission::{ClientAddr, address_group};

type Places = Arc<Semaphore>;
type ByAddress = Arc<Mutex<HashMap<ClientAddr, Places>>>;

/// The shares of all addresses in the connections to a service.
#[derive(Debug)]
pub(super) struct Shares {
    /// The limit for each address; `None` for no limit.
    connections_max: Option<usize>,
    by_address: ByAddress,
}

/// A request that counts for its client's address, until dropped.
#[derive(Debug)]
pub(super) struct Share {
    address: ClientAddr,
    places: Places,
    /// `None` while the request waits.
    held: Option<OwnedSemaphorePermit>,
    by_address: ByAddress,
}

impl Shares {
    pub(super) fn new(connections_max: Option<usize>) -> Self {
        Self {
            connections_max,
            by_address: Arc::default(),
        }
    }

    /// Waits for a place of the address; returns `None` without a limit. Calls `waits` if the address has
    /// reached its limit.
    pub(super) async fn place(&self, client: ClientAddr, waits: impl FnOnce()) -> Option<Share> {
        let connections_max = self.connections_max?;
        let mut share = self.share(client, connections_max);
        let places = &share.places;
        share.held = match Arc::clone(places).try_acquire_owned() {
            Ok(held) => Some(held),
            Err(_) => {
                waits();
                // The semaphore is never closed.
                Arc::clone(places).acquire_owned().await.ok()
            }
        };
        Some(share)
    }

    fn share(&self, client: ClientAddr, connections_max: usize) -> Share {
        let address = address_group(client);
        let new = || Arc::new(Semaphore::new(connections_max));
        let places = Arc::clone(lock(&self.by_address).entry(address).or_insert_with(new));
        Share {
            address,
            places,
            held: None,
            by_address: Arc::clone(&self.by_address),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut by_address = lock(&self.by_address);
        // The references of the map and of this share.
        if Arc::strong_count(&self.places) == 2 {
            by_address.remove(&self.address);
        }
    }
}

/// No holder of this lock can panic.
fn lock(
    by_address: &Mutex<HashMap<ClientAddr, Places>>,
) -> MutexGuard<'_, HashMap<ClientAddr, Places>> {
    by_address.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn ip(text: &str) -> ClientAddr {
        text.parse::<std::net::IpAddr>().unwrap().into()
    }

    /// Returns a place if free at once.
    fn at_once(shares: &Shares, address: &str, waits: impl FnOnce()) -> Option<Share> {
        let mut place = pin!(shares.place(ip(address), waits));
        let mut cx = Context::from_waker(Waker::noop());
        match place.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(place) => place,
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn an_address_has_its_share_and_is_forgotten_without_a_request() {
        let shares = Shares::new(Some(2));
        let waits = Cell::new(0);
        let count = || waits.set(waits.get() + 1);
        let first = at_once(&shares, "2001:db8::1", count).unwrap();
        // The clients of a /64 count as the same client.
        let second = at_once(&shares, "2001:db8::2", count).unwrap();
        assert_eq!(waits.get(), 0);
        assert!(at_once(&shares, "2001:db8::3", count).is_none());
        assert_eq!(waits.get(), 1);
        assert!(at_once(&shares, "192.0.2.1", count).is_some());
        drop(first);
        let third = at_once(&shares, "2001:db8::3", count).unwrap();
        assert_eq!((waits.get(), lock(&shares.by_address).len()), (1, 1));
        drop((second, third));
        assert!(lock(&shares.by_address).is_empty());
    }

    #[test]
    fn no_limit_counts_nothing() {
        let shares = Shares::new(None);
        assert!(at_once(&shares, "192.0.2.1", || {}).is_none());
        assert!(lock(&shares.by_address).is_empty());
    }
}
