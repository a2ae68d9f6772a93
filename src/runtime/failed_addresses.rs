//! The order in which the addresses of a server are tried: remembers those whose connections have failed, with why and when.
//! Pure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A connection that lasted at least this long does not count against its server when it ends.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// The most addresses that are remembered; the one that failed longest ago is forgotten first.
const ADDRESSES_MAX: usize = 64;

/// The addresses that have failed. An address that has never failed, or has served since, is tried first; then the address
/// that failed longest ago. So all addresses are tried in turn while no server is reachable.
#[derive(Clone, Debug, Default)]
pub struct FailedAddresses(Vec<FailedAddress>);

/// An address that has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAddress {
    /// Where the server listens.
    pub address: SocketAddr,
    /// When it failed last.
    pub at: Instant,
    /// The error, without a secret.
    pub why: String,
}

impl FailedAddresses {
    /// Notes that an address has failed at `at`: no connection was made, or the connection was of no use.
    pub fn note_failure(&mut self, address: SocketAddr, at: Instant, why: String) {
        self.forget(address);
        if self.0.len() == ADDRESSES_MAX {
            self.0.remove(0);
        }
        self.0.push(FailedAddress { address, at, why });
    }

    /// Forgets the failure of an address, because it serves.
    pub fn forget(&mut self, address: SocketAddr) {
        self.0.retain(|failed| failed.address != address);
    }

    /// Notes the loss of a connection that lasted from `since` to `at`. If it had lasted long enough, its address does not
    /// count as failed.
    pub fn note_loss(&mut self, address: SocketAddr, [since, at]: [Instant; 2], why: String) {
        match at.saturating_duration_since(since) >= STEADY_AFTER {
            true => self.forget(address),
            false => self.note_failure(address, at, why),
        }
    }

    /// Why and when an address failed last.
    pub fn find(&self, address: SocketAddr) -> Option<&FailedAddress> {
        self.0.iter().find(|failed| failed.address == address)
    }

    /// The addresses in the order in which to try them.
    pub fn in_order(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        addresses.sort_by_key(|address| self.find(*address).map(|failed| failed.at));
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_failed_first_comes_again_before_the_others() {
        let address = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut failed = FailedAddresses::default();
        let order = |failed: &FailedAddresses| -> Vec<u16> {
            let all = failed.in_order((1..5).map(address).collect());
            all.iter().map(SocketAddr::port).collect()
        };
        assert_eq!(order(&failed), [1, 2, 3, 4]);
        failed.note_failure(address(1), at(0), "silent".to_owned());
        failed.note_failure(address(3), at(1), "closed".to_owned());
        assert_eq!(order(&failed), [2, 4, 1, 3]);
        failed.note_failure(address(1), at(2), "silent again".to_owned());
        assert_eq!(order(&failed), [2, 4, 3, 1], "by turns");
        assert_eq!(
            failed.find(address(1)).map(|failed| &*failed.why),
            Some("silent again")
        );
        failed.forget(address(3));
        assert_eq!(order(&failed), [2, 3, 4, 1]);
        for n in 0..100 {
            failed.note_failure(address(1_000 + n), at(3), String::new());
        }
        assert_eq!(failed.0.len(), ADDRESSES_MAX);
    }
}
