//! Limits for each client address: connections at once, and new connections a second.
//!
//! An IPv6 client has a whole /64, so all addresses of a /64 share the limits. State is bounded by the rate of new
//! connections: each new address causes a look at some known ones, and those without a connection whose rate has
//! recovered are forgotten.

use std::sync::Arc;

use weirgate_wire::admission::{ClientAddr, ConnectionPermit, TokenBucket};
use weirgate_wire::base::{ChunkedQueue, ExtendibleMap};

/// For each new address, so many known ones are looked at, and forgotten if they are idle. With only one, idle
/// addresses could pile up.
const LOOKS_WITH_EACH: usize = 2;

/// The limits of an address; nothing is limited by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// The number of connections at once.
    pub connections_max: Option<usize>,
    /// New connections a second in the long run.
    pub connections_per_second: Option<u32>,
    /// New connections at once after a quiet time, if the rate is limited.
    pub burst: u32,
}

impl Default for AddressLimits {
    fn default() -> Self {
        Self {
            connections_max: None,
            connections_per_second: None,
            burst: 20,
        }
    }
}

/// The reason why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressRefusal {
    /// The address has reached its limit of connections.
    TooMany,
    /// The address opens connections faster than its rate allows.
    TooFast,
}

#[derive(Debug)]
struct Entry {
    /// Each connection has a reference; only their number matters.
    connections: Arc<()>,
    bucket: Option<TokenBucket>,
}

impl Entry {
    /// The entry itself counts as a reference.
    fn connections(&self) -> usize {
        Arc::strong_count(&self.connections) - 1
    }

    fn is_idle(&mut self, now_us: u64) -> bool {
        let recovered = |bucket: &mut TokenBucket| bucket.is_full(now_us);
        self.connections() == 0 && self.bucket.as_mut().is_none_or(recovered)
    }
}

/// The addresses with connections, or with recent connections.
#[derive(Debug)]
pub(super) struct Addresses {
    limits: AddressLimits,
    entries: ExtendibleMap<ClientAddr, Entry>,
    /// All of these addresses, in the order in which they are looked at.
    order: ChunkedQueue<ClientAddr>,
}

impl Addresses {
    /// Starts without known addresses.
    pub(super) fn new(limits: AddressLimits) -> Self {
        Self {
            limits,
            entries: ExtendibleMap::default(),
            order: ChunkedQueue::default(),
        }
    }

    /// Counts a new connection for `client`, until its permit is dropped, on any thread. If the connection counted for
    /// another address, such as that of its proxy, it does so no longer. If nothing is limited, nothing is counted.
    ///
    /// # Errors
    /// The address is over a limit; the connection still counts for the address for which it counted before.
    pub(super) fn admit(
        &mut self,
        client: ClientAddr,
        permit: &mut ConnectionPermit,
        now_us: u64,
    ) -> Result<(), AddressRefusal> {
        let AddressLimits {
            connections_max,
            connections_per_second,
            burst,
        } = self.limits;
        if connections_max.is_none() && connections_per_second.is_none() {
            permit.leave_address();
            return Ok(());
        }
        let client = client.group();
        if !self.entries.contains_key(&client) {
            self.forget_idle(now_us);
            self.order.push_back(client);
        }
        let entry = self.entries.get_or_insert_with(client, || Entry {
            connections: Arc::default(),
            bucket: connections_per_second
                .map(|per_second| TokenBucket::with_burst(per_second, burst, now_us)),
        });
        if connections_max.is_some_and(|max| entry.connections() >= max) {
            return Err(AddressRefusal::TooMany);
        }
        if entry
            .bucket
            .as_mut()
            .is_some_and(|bucket| !bucket.take(now_us))
        {
            return Err(AddressRefusal::TooFast);
        }
        permit.count_for_address(Arc::clone(&entry.connections));
        Ok(())
    }

    /// Looks at some addresses, and forgets those that are idle. A look at all of them would make the loop wait.
    fn forget_idle(&mut self, now_us: u64) {
        for _ in 0..LOOKS_WITH_EACH {
            let Some(client) = self.order.pop_front() else {
                return;
            };
            let entry = self.entries.get_mut(&client);
            if entry.is_some_and(|entry| entry.is_idle(now_us)) {
                self.entries.remove(&client);
            } else {
                self.order.push_back(client);
            }
        }
    }

    /// The connections of an address; 0 if nothing is limited.
    pub(super) fn connections(&self, client: ClientAddr) -> usize {
        let entry = self.entries.get(&client.group());
        entry.map_or(0, Entry::connections)
    }

    /// The number of known addresses.
    pub(super) fn known(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use weirgate_wire::admission::Quota;

    const SECOND: u64 = 1_000_000;

    fn addresses(connections_max: Option<usize>, rate: Option<(u32, u32)>) -> Addresses {
        let (per_second, burst) = rate.unzip();
        Addresses::new(AddressLimits {
            connections_max,
            connections_per_second: per_second,
            burst: burst.unwrap_or(1),
        })
    }

    /// A new connection, if it is admitted.
    fn admit(
        all: &mut Addresses,
        client: ClientAddr,
        now_us: u64,
    ) -> Result<ConnectionPermit, AddressRefusal> {
        let held = Quota::new("connection_bytes", u64::MAX);
        let mut permit = ConnectionPermit::of(held.hold(client, 0, 0));
        all.admit(client, &mut permit, now_us).map(|()| permit)
    }

    fn ip(text: &str) -> ClientAddr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn nothing_is_counted_unless_it_is_limited() {
        let mut all = addresses(None, None);
        for _ in 0..10_000 {
            assert!(admit(&mut all, ip("192.0.2.1"), 0).is_ok());
        }
        assert_eq!(all.known(), 0);
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let mut all = addresses(Some(2), None);
        let first = admit(&mut all, ip("192.0.2.1"), 0).unwrap();
        let _second = admit(&mut all, ip("::ffff:192.0.2.1"), 0).unwrap();
        let refused = admit(&mut all, ip("192.0.2.1"), 0).unwrap_err();
        assert_eq!(refused, AddressRefusal::TooMany);
        let other = admit(&mut all, ip("192.0.2.2"), 0);
        assert!(other.is_ok(), "another address has places of its own");
        drop(first);
        assert!(admit(&mut all, ip("192.0.2.1"), 0).is_ok());
    }

    #[test]
    fn a_v6_client_has_one_limit_for_its_whole_network() {
        let mut all = addresses(Some(1), None);
        let _place = admit(&mut all, ip("2001:db8:0:1::1"), 0).unwrap();
        assert!(admit(&mut all, ip("2001:db8:0:1:ffff::9"), 0).is_err());
        assert!(admit(&mut all, ip("2001:db8:0:2::1"), 0).is_ok());
        let _local = admit(&mut all, ClientAddr::Unix, 0).unwrap();
        assert!(admit(&mut all, ClientAddr::Unix, 0).is_err());
    }

    #[test]
    fn a_burst_is_let_in_and_then_so_many_a_second() {
        let mut all = addresses(None, Some((2, 5)));
        let mut admitted = |now_us| {
            let tries = (0..10).filter(|_| admit(&mut all, ip("192.0.2.1"), now_us).is_ok());
            tries.count()
        };
        assert_eq!(admitted(0), 5);
        assert_eq!(admitted(SECOND / 2 - 1), 0);
        assert_eq!(admitted(SECOND / 2), 1);
        assert_eq!(admitted(2 * SECOND), 3);
        assert_eq!(admitted(100 * SECOND), 5);
    }

    #[test]
    fn who_is_refused_for_its_connections_loses_nothing_of_its_rate() {
        let mut all = addresses(Some(1), Some((1, 2)));
        let place = admit(&mut all, ip("192.0.2.1"), 0).unwrap();
        for _ in 0..10 {
            let refused = admit(&mut all, ip("192.0.2.1"), 0).unwrap_err();
            assert_eq!(refused, AddressRefusal::TooMany);
        }
        drop(place);
        assert!(admit(&mut all, ip("192.0.2.1"), 0).is_ok());
        let refused = admit(&mut all, ip("192.0.2.1"), 0).unwrap_err();
        assert_eq!(refused, AddressRefusal::TooFast);
    }

    #[test]
    fn addresses_that_went_are_forgotten_and_others_are_not() {
        let mut all = addresses(Some(1), Some((1, 2)));
        let stays = admit(&mut all, ip("192.0.2.1"), 0).unwrap();
        for n in 0..100_000_u64 {
            // A thousand connections a second, each from a new address, and ended at once. The rate of an address
            // recovers in a second.
            let one = IpAddr::from((u128::from(n) + 1_000_000).wrapping_shl(64).to_be_bytes());
            let known = all.known();
            assert!(admit(&mut all, one.into(), n * 1_000).is_ok(), "{n}");
            assert!(known <= all.known() + LOOKS_WITH_EACH, "{n}: all at once");
        }
        let known = all.known();
        assert!(known <= 4 * 1_000, "{known} addresses known");
        assert_eq!(all.order.len(), known);
        assert!(
            admit(&mut all, ip("192.0.2.1"), 100 * SECOND).is_err(),
            "it is there"
        );
        drop(stays);
    }
}
