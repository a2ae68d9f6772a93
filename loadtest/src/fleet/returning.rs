//! Clients that reconnect after the end of a connection, as a browser's client should.
//!
//! The n-th attempt in a row waits 100 ms (300 ms after a refused attempt) and a random part of
//! min(300 ms · 2^(n − 1), 15 s). The 100 ms are for the other instance: if slightly behind the
//! lost instance, the other instance would begin with an older state. The count restarts after a
//! connection of at least 5 s, and after a close that announces a stop (1001, 1012): a stop is no
//! failure, and the server spreads such closes.

use super::Fleet;
use super::client::{Client, Phase};
use crate::clock;
use crate::fault::Fault;

const BASE_US: u64 = 300_000;
const CAP_US: u64 = 15_000_000;
/// Time for the other instance to catch up with the lost instance.
const OTHER_US: u64 = 100_000;
/// Duration from which a connection counts as steady.
const STEADY_US: u64 = 5_000_000;

/// The state of a client's reconnect.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comeback {
    /// Attempts since the last steady connection.
    attempts: u32,
    /// Due time of the next attempt.
    at_us: Option<u64>,
    /// The connection ended with a close that announces a stop.
    pub(super) stopped: bool,
}

/// Counts of reconnects.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Returns {
    /// Ended connections, failed attempts included.
    pub(crate) ended: u64,
    /// Attempts that did not open: refused, or no response.
    pub(crate) refused: u64,
    /// Most attempts of a client.
    pub(crate) attempts_max: u32,
}

/// Random waiting times (splitmix64).
pub(super) struct Jitter(u64);

impl Jitter {
    fn below(&mut self, bound_us: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound_us
    }
}

impl Comeback {
    /// Sets the due time of the next attempt, after the end of a connection open since `opened_us` or
    /// after a `refused` attempt.
    fn plan(&mut self, now_us: u64, opened_us: u64, refused: bool, jitter: &mut Jitter) {
        let steady = !refused && now_us >= opened_us + STEADY_US;
        if steady || self.stopped {
            self.attempts = 0;
        }
        let bound_us = (BASE_US << self.attempts.min(20)).min(CAP_US);
        let least_us = if refused { BASE_US } else { OTHER_US };
        self.at_us = Some(now_us + least_us + jitter.below(bound_us));
        self.attempts += 1;
    }
}

impl Fleet {
    /// Enables reconnects of clients.
    pub(crate) fn let_come_back(&mut self, seed: u64) {
        self.jitter = Some(Jitter(seed));
    }

    /// The reconnects since the last call.
    pub(crate) fn take_returns(&mut self) -> Returns {
        std::mem::take(&mut self.returns)
    }

    /// Plans an attempt for every client without a connection, and starts the attempts that are due.
    pub(super) fn come_back(&mut self) -> Result<(), Fault> {
        let Some(jitter) = &mut self.jitter else {
            return Ok(());
        };
        let now = clock::now_us();
        let mut due = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            let refused = match &client.phase {
                Phase::Refused(why) => Some(why),
                Phase::Ended => None,
                Phase::Handshake(_) | Phase::Open => continue,
            };
            let Some(at_us) = client.comeback.at_us else {
                let opened_us = client.seen.opened_us;
                client
                    .comeback
                    .plan(now, opened_us, refused.is_some(), jitter);
                let returns = &mut self.returns;
                returns.ended += 1;
                returns.attempts_max = returns.attempts_max.max(client.comeback.attempts);
                if let Some(why) = refused {
                    returns.refused += 1;
                    self.readers.ended(why.clone());
                } else if let Some(talking) = &self.talking {
                    talking.borrow_mut().cut(index, now);
                }
                continue;
            };
            if now >= at_us {
                due.push(index);
            }
        }
        due.into_iter()
            .try_for_each(|index| self.connect_again(index))
    }

    fn connect_again(&mut self, index: usize) -> Result<(), Fault> {
        let kind = self.clients[index].kind;
        let stream = self.dial(index, kind)?;
        let request = self.request(index);
        let old = &mut self.clients[index];
        let mut client = Client::new(index, stream, kind, request);
        client.seen = std::mem::take(&mut old.seen);
        client.comeback = Comeback {
            attempts: old.comeback.attempts,
            ..Comeback::default()
        };
        *old = client;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The earliest and the latest of many waits.
    fn waits(comeback: Comeback, refused: bool) -> (u64, u64) {
        let mut jitter = Jitter(1);
        let all = (0..4_000).map(|_| {
            let mut comeback = comeback;
            comeback.plan(1_000_000, 900_000, refused, &mut jitter);
            comeback.at_us.unwrap() - 1_000_000
        });
        all.fold((u64::MAX, 0), |(least, most), w| {
            (least.min(w), most.max(w))
        })
    }

    fn near(range: (u64, u64), least: u64, bound: u64) {
        let width = bound - least;
        assert!(
            range.0 >= least && range.0 < least + width / 20,
            "{range:?}"
        );
        assert!(range.1 < bound && range.1 > bound - width / 20, "{range:?}");
    }

    #[test]
    fn waits_double_up_to_the_cap_and_use_all_of_their_range() {
        for (attempts, bound) in [
            (0, 300_000),
            (1, 600_000),
            (5, 9_600_000),
            (6, CAP_US),
            (60, CAP_US),
        ] {
            let comeback = Comeback {
                attempts,
                ..Comeback::default()
            };
            near(waits(comeback, false), OTHER_US, OTHER_US + bound);
            near(waits(comeback, true), BASE_US, BASE_US + bound);
        }
    }

    #[test]
    fn a_stop_is_no_failure_whatever_was_before() {
        let stopped = Comeback {
            attempts: 5,
            stopped: true,
            ..Comeback::default()
        };
        near(waits(stopped, false), OTHER_US, OTHER_US + BASE_US);
    }

    #[test]
    fn a_connection_that_stood_starts_the_count_anew() {
        let mut comeback = Comeback {
            attempts: 5,
            ..Comeback::default()
        };
        comeback.plan(STEADY_US + 10, 10, false, &mut Jitter(1));
        assert_eq!(comeback.attempts, 1);
        comeback.plan(STEADY_US + 10, 11, false, &mut Jitter(1));
        assert_eq!(comeback.attempts, 2);
    }
}
