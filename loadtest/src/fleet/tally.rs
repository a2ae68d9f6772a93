//! Counts messages to clients: latency, loss, order, duplicates.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::freshness::Freshness;
use super::lateness::histogram;
use crate::stamp::Stamp;

/// Largest recorded latency, microseconds; larger latencies count as this.
pub(super) const LATENCY_US_MAX: u64 = 600_000_000;

/// A client's progress in the publisher's sequence.
#[derive(Default)]
pub(crate) struct Seen {
    /// End of the handshake, microseconds; 0 before.
    pub(crate) opened_us: u64,
    /// Highest sequence number so far; `None` before the first stamped message.
    pub(crate) last_n: Option<u64>,
    /// Messages counted in [`Tally::deliveries`].
    pub(crate) deliveries: u64,
    /// Messages counted in [`Tally::unstamped`].
    pub(crate) unstamped: u64,
    /// Freshness over time, across all connections.
    pub(crate) freshness: Freshness,
}

/// The counts of a group of clients.
pub(crate) struct Tally {
    /// Messages numbered below this are warm-up: neither counted nor timed.
    pub(crate) from_n: u64,
    /// From the intended send time of a message to the end of the client's read, microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Stamped messages in the window.
    pub(crate) deliveries: u64,
    /// Skipped sequence numbers, from each client's first message on.
    pub(crate) skipped: u64,
    /// Messages with a number not above the previous number: twice, or out of order.
    pub(crate) not_rising: u64,
    /// Messages published before the client had opened: the state at the start.
    pub(crate) retained: u64,
    /// Messages with no stamp in their first bytes.
    pub(crate) unstamped: u64,
    /// Payload bytes of all messages, as on the wire.
    pub(crate) payload_bytes: u64,
    /// Payload bytes after inflating.
    pub(crate) text_bytes: u64,
    /// Compressed messages.
    pub(crate) deflated: u64,
    /// Ends of connections, except those closed by loadtest.
    pub(crate) ends: BTreeMap<String, u64>,
    /// Latencies by message, if kept.
    pub(crate) samples: Option<Samples>,
}

/// Every latency of a range of messages, microseconds.
pub(crate) struct Samples {
    first_n: u64,
    /// Only the largest latency of each message.
    keeps_slowest: bool,
    /// For each message, in the order of arrival.
    pub(crate) latencies_us: Vec<Vec<u32>>,
}

impl Samples {
    /// Room for `count` messages numbered from `first_n`, each to `clients` clients.
    pub(crate) fn new(first_n: u64, count: u64, clients: usize) -> Self {
        Self {
            first_n,
            keeps_slowest: false,
            latencies_us: (0..count).map(|_| Vec::with_capacity(clients)).collect(),
        }
    }

    /// Room for the largest latency of each message.
    pub(crate) fn slowest(first_n: u64, count: u64) -> Self {
        Self {
            keeps_slowest: true,
            ..Self::new(first_n, count, 1)
        }
    }

    fn keep(&mut self, n: u64, latency_us: u64) {
        let latency_us = latency_us.min(u64::from(u32::MAX)) as u32;
        let index = n.checked_sub(self.first_n).map(|index| index as usize);
        if let Some(of_message) = index.and_then(|index| self.latencies_us.get_mut(index)) {
            match of_message.first_mut().filter(|_| self.keeps_slowest) {
                Some(slowest) => *slowest = latency_us.max(*slowest),
                None => of_message.push(latency_us),
            }
        }
    }
}

impl Tally {
    /// An empty tally.
    pub(crate) fn new() -> Self {
        Self {
            from_n: 0,
            latency: histogram(),
            deliveries: 0,
            skipped: 0,
            not_rising: 0,
            retained: 0,
            unstamped: 0,
            payload_bytes: 0,
            text_bytes: 0,
            deflated: 0,
            ends: BTreeMap::new(),
            samples: None,
        }
    }

    /// Counts a message of a client, read at `now_us`.
    pub(crate) fn message(&mut self, seen: &mut Seen, stamp: Option<Stamp>, now_us: u64) {
        let Some(stamp) = stamp else {
            self.unstamped += 1;
            seen.unstamped += 1;
            return;
        };
        seen.freshness.message(seen.last_n, stamp.n, now_us);
        match seen.last_n {
            Some(last) if stamp.n <= last => {
                self.not_rising += 1;
                return;
            }
            Some(last) if last + 1 >= self.from_n => self.skipped += stamp.n - last - 1,
            _ => {}
        }
        seen.last_n = Some(stamp.n);
        if stamp.us < seen.opened_us {
            self.retained += 1;
        } else if stamp.n >= self.from_n {
            seen.deliveries += 1;
            self.deliveries += 1;
            let latency_us = now_us.saturating_sub(stamp.us);
            self.latency.saturating_record(latency_us);
            if let Some(samples) = &mut self.samples {
                samples.keep(stamp.n, latency_us);
            }
        }
    }

    /// Counts the end of a connection.
    pub(crate) fn ended(&mut self, how: String) {
        *self.ends.entry(how).or_default() += 1;
    }

    /// The largest latency of each sampled message, 0 for one that did not arrive.
    pub(crate) fn slowest_us(&self) -> impl Iterator<Item = u64> {
        let messages = self.samples.iter().flat_map(|kept| &kept.latencies_us);
        messages.map(|of_message| of_message.iter().copied().max().unwrap_or(0).into())
    }

    /// The figures of the latency so far.
    pub(crate) fn latency(&self) -> Latency {
        Latency::of(&self.latency)
    }
}

/// Latency figures, milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    /// Half are below.
    pub(crate) p50_ms: f64,
    /// 99 % are below.
    pub(crate) p99_ms: f64,
    /// 99.9 % are below.
    pub(crate) p999_ms: f64,
    /// The largest.
    pub(crate) max_ms: f64,
}

impl Latency {
    /// The figures of a histogram of microseconds.
    pub(crate) fn of(h: &Histogram<u64>) -> Self {
        let ms = |q: f64| h.value_at_quantile(q) as f64 / 1e3;
        Self {
            p50_ms: ms(0.50),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: h.max() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(tally: &mut Tally, seen: &mut Seen, us: u64, n: u64) {
        tally.message(seen, Some(Stamp { us, n }), us + 500);
    }

    #[test]
    fn loss_order_and_duplicates_are_told_apart() {
        let (mut t, mut s) = (
            Tally::new(),
            Seen {
                opened_us: 100,
                ..Seen::default()
            },
        );
        see(&mut t, &mut s, 50, 7); // the state that was there
        for (us, n) in [
            (200, 8),
            (201, 9),
            (202, 12),
            (203, 12),
            (204, 10),
            (205, 13),
        ] {
            see(&mut t, &mut s, us, n);
        }
        t.message(&mut s, None, 1);
        assert_eq!((t.retained, t.deliveries, t.skipped), (1, 4, 2));
        assert_eq!((t.not_rising, t.unstamped, s.last_n), (2, 1, Some(13)));
        assert_eq!((s.deliveries, s.unstamped), (4, 1));
        assert_eq!(t.latency.max(), 500);
    }

    #[test]
    fn latencies_are_kept_by_message_where_asked() {
        let mut t = Tally {
            from_n: 3,
            samples: Some(Samples::new(3, 2, 1)),
            ..Tally::new()
        };
        for n in 2..=5 {
            see(&mut t, &mut Seen::default(), 100, n);
            see(&mut t, &mut Seen::default(), 200, n);
        }
        assert_eq!(t.samples.unwrap().latencies_us, [[500, 500], [500, 500]]);
        assert_eq!(t.deliveries, 6);
    }

    #[test]
    fn latencies_from_microseconds_to_minutes_are_told_apart() {
        let (mut t, mut s) = (Tally::new(), Seen::default());
        for (n, late_us) in [(1, 3), (2, 6_000), (3, 50_000_000)] {
            t.message(&mut s, Some(Stamp { us: 1_000, n }), 1_000 + late_us);
        }
        let l = t.latency();
        assert!(
            (l.p50_ms - 6.0).abs() < 0.01 && (l.max_ms / 50_000.0 - 1.0).abs() < 0.001,
            "{l:?}"
        );
    }

    #[test]
    fn warm_up_is_neither_timed_nor_counted_but_a_loss_at_its_edge_is() {
        let mut t = Tally {
            from_n: 10,
            ..Tally::new()
        };
        let mut s = Seen {
            opened_us: 1,
            ..Seen::default()
        };
        see(&mut t, &mut s, 200, 5);
        see(&mut t, &mut s, 200, 9);
        assert_eq!((t.deliveries, t.skipped), (0, 0));
        see(&mut t, &mut s, 200, 11);
        assert_eq!((t.deliveries, t.skipped, t.latency.len()), (1, 1, 1));
    }
}
