//! The addresses of a service's host, and their order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The last failures of the addresses of a host. If only a refused connection led to the next address, an address
/// without any answer on its connections would keep every request.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<SocketAddr, Instant>>);

impl Addresses {
    /// Orders the present addresses of the host: first without a failure, in the order of the resolver, then by the
    /// time of the failure. Forgets all other addresses.
    pub(super) fn order(&self, addresses: &mut [SocketAddr]) {
        let mut failed = self.last_failures();
        failed.retain(|address, _| addresses.contains(address));
        addresses.sort_by_key(|address| failed.get(address).copied());
    }

    /// Records a connection to this address, or a request there, without an answer.
    pub(super) fn failed(&self, address: SocketAddr) {
        self.last_failures().insert(address, Instant::now());
    }

    /// No holder of this lock can panic.
    fn last_failures(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_failed_last_is_tried_last() {
        let addresses = Addresses::default();
        let [a, b, c] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let order = |mut now: Vec<_>| {
            addresses.order(&mut now);
            now
        };
        assert_eq!(order(vec![b, a, c]), [b, a, c]);
        for (failed, then) in [
            (b, [a, c, b]),
            (a, [c, b, a]),
            (c, [b, a, c]),
            (b, [a, c, b]),
        ] {
            // Many requests may fail there at once.
            (0..3).for_each(|_| addresses.failed(failed));
            assert_eq!(order(vec![a, b, c]), then);
            assert_eq!(
                order(vec![c, b, a])[2],
                failed,
                "whatever the resolver says first"
            );
        }
        assert_eq!(order(vec![a]), [a]);
        assert_eq!(order(vec![c, b]), [c, b], "their failures are forgotten");
    }
}
