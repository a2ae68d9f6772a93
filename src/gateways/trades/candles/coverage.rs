//! Since when the gateway has got all trades of the bus. A candle whose interval began earlier may lack trades: after a
//! start, after a loss, and while the bus is away.

use super::series::Partial;
use weirgate_core::{BusNotice, FeedNotice, ReadTo};
use weirgate_wire::base::Now;

/// A trade with a time outside of these, relative to now, was not stored then: the publisher numbers the entries of the
/// stream, and the ids are no times. Milliseconds.
const STORED_BEFORE_MAX_MS: i64 = 366 * 24 * 3_600_000;
const STORED_AFTER_MAX_MS: i64 = 60_000;

/// The longest that candles wait for a stream that is not read yet, microseconds. Until then, open candles stay few.
const WAIT_US_MAX: u64 = 10_000_000;

/// The time of which the gateway has all trades.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Coverage {
    is_up: bool,
    /// Whether the bus was reached, or something was lost. Before that, a stream brings what it has.
    is_begun: bool,
    /// How far a stream is read: after an outage or a start, much of it may have to be read yet. On a busy stream the
    /// reader leaves its end many times a second, for as long as a question takes.
    read_to: ReadTo,
    /// What was stored before this time was read, on the monotonic clock. At the end of the stream, this grows by itself.
    read_us: u64,
    /// Candles were closed up to this time, on the monotonic clock.
    passed_us: u64,
    /// Nothing published from here on was missed, Unix milliseconds; `None` if that is not known.
    since_ms: Option<i64>,
}

impl Coverage {
    /// Handles a notice of the bus.
    pub(super) fn note(&mut self, now: Now, notice: &BusNotice) {
        match notice {
            BusNotice::Up => {
                // What ended while the bus was away is closed.
                self.passed_us = self.clock_us(now);
                (self.is_up, self.is_begun) = (true, true);
                self.since_ms.get_or_insert_with(|| now.unix_ms());
            }
            // Without a gap, what is published meanwhile comes later.
            BusNotice::Down => self.is_up = false,
            BusNotice::ReadTo(read_to) => self.note_read(now, *read_to),
            BusNotice::Gap | BusNotice::Feed(FeedNotice::Hole) => {
                (self.is_begun, self.since_ms) = (true, None);
            }
            _ => {}
        }
    }

    fn note_read(&mut self, now: Now, read_to: ReadTo) {
        self.passed_us = self.clock_us(now);
        if self.is_up && self.read_to == ReadTo::End {
            self.read_us = now.mono_us;
        }
        self.read_to = match read_to {
            ReadTo::StoredMs(ms) if !is_time(now, ms) => ReadTo::Unknown,
            read_to => read_to,
        };
        if let ReadTo::StoredMs(ms) = self.read_to {
            self.read_us = self.read_us.max(mono_us(now, ms));
        }
    }

    /// Handles a trade: all later ones follow it. An old trade was stored by a stream at the time `received`.
    pub(super) fn note_trade(&mut self, now: Now, received: Now, is_old: bool) {
        if is_old && !self.is_begun {
            if !is_time(now, received.unix_ms()) {
                // Nobody knows since when the stream has all trades.
                self.is_begun = true;
                return;
            }
            // Others may have been stored in the same millisecond before it.
            self.since_ms.get_or_insert_with(|| received.unix_ms() + 1);
        } else if self.is_up {
            self.since_ms.get_or_insert_with(|| now.unix_ms());
        }
    }

    /// The time by which candles end, on the monotonic clock: while a stream is not read to its end, the time up to which it
    /// is read. It never goes back, so what was closed stays closed.
    pub(super) fn clock_us(self, now: Now) -> u64 {
        if self.is_at_end() {
            return now.mono_us;
        }
        let waits_since_us = now.mono_us.saturating_sub(WAIT_US_MAX);
        let read_us = self.read_us.max(self.passed_us);
        read_us.max(waits_since_us).min(now.mono_us)
    }

    /// When [`Self::clock_us`] reaches this time, unless more is read before.
    pub(super) fn reached_us(self, clock_us: u64) -> u64 {
        let is_reached = self.is_at_end() || clock_us <= self.read_us.max(self.passed_us);
        clock_us + if is_reached { 0 } else { WAIT_US_MAX }
    }

    /// Whether nothing is known to be missing. While the bus is away, nothing is waited for.
    fn is_at_end(self) -> bool {
        !self.is_up || self.read_to == ReadTo::End
    }

    /// The mark of a candle that starts at `start_ms` and takes what is stored until `until_ms`, if it may lack trades.
    /// Trades up to `dropped_until_ms` may have been dropped.
    pub(super) fn partial(
        self,
        now: Now,
        (start_ms, until_ms): (i64, i64),
        dropped_until_ms: i64,
    ) -> Option<Partial> {
        let since_ms = self.since_ms.filter(|_| self.is_up);
        let has_first = since_ms.is_some_and(|since_ms| since_ms <= start_ms);
        let has_last = self.read_to == ReadTo::End || mono_us(now, until_ms) <= self.read_us;
        let has_all = has_first && has_last;
        (!has_all || start_ms <= dropped_until_ms).then_some(Partial)
    }
}

/// A time on the monotonic clock.
fn mono_us(now: Now, unix_ms: i64) -> u64 {
    let after_us = unix_ms.saturating_mul(1_000).saturating_sub(now.unix_us);
    now.mono_us.saturating_add_signed(after_us)
}

/// Whether the id of an entry says when it was stored.
fn is_time(now: Now, stored_ms: i64) -> bool {
    let ago_ms = now.unix_ms().saturating_sub(stored_ms);
    (-STORED_AFTER_MAX_MS..=STORED_BEFORE_MAX_MS).contains(&ago_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_times_say_not_since_when_all_trades_came() {
        let at = |unix_ms: i64| Now {
            unix_us: unix_ms * 1_000,
            ..Now::default()
        };
        let now_ms = 1_700_000_000_000;
        // A counter, and microseconds; then the times of a busy and of a quiet stream.
        for (stored_ms, is_time) in [
            (1, false),
            (now_ms * 1_000, false),
            (now_ms - 60_000, true),
            (now_ms - 24 * 3_600_000, true),
        ] {
            let mut coverage = Coverage::default();
            for later in 0..3 {
                coverage.note_trade(at(now_ms), at(stored_ms + later), true);
            }
            coverage.note(at(now_ms), &BusNotice::Up);
            let is_partial = |start_ms| {
                let partial = coverage.partial(at(now_ms), (start_ms, now_ms), 0);
                partial.is_some()
            };
            assert_eq!(is_partial(now_ms - 50_000), !is_time, "{stored_ms}");
            assert!(!is_partial(now_ms), "{stored_ms}");
        }
    }
}
