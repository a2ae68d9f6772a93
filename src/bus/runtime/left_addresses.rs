//! Chooses which address of a server to try next: remembers the addresses that were left, with why and when. Pure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A connection that lasted at least this long does not count against its server when it ends.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// The most addresses that are remembered; the address left longest ago is forgotten first.
const ADDRESSES_MAX: usize = 64;

/// The addresses that were left. An address that was never left, or has served since, is tried first; then the address
/// that was left longest ago. So all addresses are tried in turn while no server is reachable.
#[derive(Clone, Debug, Default)]
pub struct LeftAddresses(Vec<Left>);

/// An address that was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Where the server listens.
    pub address: SocketAddr,
    /// The time of the last [`LeftAddresses::leave`] for it.
    pub at: Instant,
    /// The error, without a secret.
    pub why: String,
}

impl LeftAddresses {
    /// Notes that an address is left at `at`, because no connection was made, or the connection was of no use.
    pub fn leave(&mut self, address: SocketAddr, at: Instant, why: String) {
        self.forget(address);
        if self.0.len() == ADDRESSES_MAX {
            self.0.remove(0);
        }
        self.0.push(Left { address, at, why });
    }

    /// Forgets that an address was left, because it serves.
    pub fn forget(&mut self, address: SocketAddr) {
        self.0.retain(|left| left.address != address);
    }

    /// Notes the end of a connection that lasted from `since` to `at`. If it lasted long enough and ended in a
    /// usual way (`is_usual`), its address does not count as left.
    pub fn ended(
        &mut self,
        address: SocketAddr,
        [since, at]: [Instant; 2],
        is_usual: bool,
        why: String,
    ) {
        match is_usual && at.saturating_duration_since(since) >= STEADY_AFTER {
            true => self.forget(address),
            false => self.leave(address, at, why),
        }
    }

    /// Why and when an address was left last.
    pub fn find(&self, address: SocketAddr) -> Option<&Left> {
        self.0.iter().find(|left| left.address == address)
    }

    /// The addresses in the order in which to try them.
    pub fn in_turn(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        addresses.sort_by_key(|address| self.find(*address).map(|left| left.at));
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_was_left_first_comes_again_before_the_others() {
        let address = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut left = LeftAddresses::default();
        let order = |left: &LeftAddresses| -> Vec<u16> {
            let all = left.in_turn((1..5).map(address).collect());
            all.iter().map(SocketAddr::port).collect()
        };
        assert_eq!(order(&left), [1, 2, 3, 4]);
        left.leave(address(1), at(0), "silent".to_owned());
        left.leave(address(3), at(1), "closed".to_owned());
        assert_eq!(order(&left), [2, 4, 1, 3]);
        left.leave(address(1), at(2), "silent again".to_owned());
        assert_eq!(order(&left), [2, 4, 3, 1], "by turns");
        assert_eq!(
            left.find(address(1)).map(|left| &*left.why),
            Some("silent again")
        );
        left.forget(address(3));
        assert_eq!(order(&left), [2, 3, 4, 1]);
        for n in 0..100 {
            left.leave(address(1_000 + n), at(3), String::new());
        }
        assert_eq!(left.0.len(), ADDRESSES_MAX);
    }
}
