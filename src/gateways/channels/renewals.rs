//! New tokens on living connections: the rate of all clients together, and a share for each address.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;

use crate::admission::{ClientAddr, TokenBucket};
use crate::hub::SessionKey;

/// The new tokens of an address count for this time.
const SHARED_US: u64 = 1_000_000;

/// The new tokens of all clients on living connections.
#[derive(Debug)]
pub(super) struct Renewals {
    bucket: TokenBucket,
    /// The tokens that each address has taken since `begun_us`: no more entries than the bucket gives in a second.
    taken: HashMap<ClientAddr, usize, RandomState>,
    begun_us: u64,
    /// Clients with names that are not judged yet.
    pub(super) again: VecDeque<SessionKey>,
}

impl Renewals {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            bucket: TokenBucket::new(per_second, 0),
            taken: HashMap::default(),
            begun_us: 0,
            again: VecDeque::new(),
        }
    }

    /// Takes a token from the bucket, if the address has taken no more in this second than the bucket holds. So
    /// an address alone has the whole rate, and leaves tokens for the clients of others.
    pub(super) fn take(&mut self, address: ClientAddr, now_us: u64) -> bool {
        if now_us >= self.begun_us.saturating_add(SHARED_US) {
            self.taken.clear();
            self.begun_us = now_us;
        }
        let taken = self.taken.get(&address).copied().unwrap_or_default();
        let has_share = self.bucket.holds(taken, now_us) && self.bucket.take(now_us);
        if has_share {
            self.taken.insert(address, taken + 1);
        }
        has_share
    }

    /// The time of the next judgement; 0: in the next turn.
    pub(super) fn due_us(&self) -> Option<u64> {
        (!self.again.is_empty()).then_some(0)
    }
}
