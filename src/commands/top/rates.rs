//! The growth of counters per second.

use std::collections::VecDeque;

use crate::telemetry::operator_state::Numbers;

/// The period of rates, milliseconds: over a shorter period rates would jump.
const RATE_OVER_MS: u64 = 5_000;

/// Reads a counter; `None` if the gateway does not send the counter.
pub(super) type Counter = fn(&Numbers) -> Option<u64>;

/// The numbers of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<(u64, Numbers)>);

impl Rates {
    /// Adds the numbers of this millisecond.
    pub(super) fn push(&mut self, at_ms: u64, numbers: Numbers) {
        self.0.push_back((at_ms, numbers));
        let is_old = |(at, _): &(u64, Numbers)| at_ms - at >= RATE_OVER_MS;
        while self.0.len() > 2 && self.0.get(1).is_some_and(is_old) {
            self.0.pop_front();
        }
    }

    /// The growth of a counter per second; `None` before the second reading, and after a restart.
    pub(super) fn per_second(&self, counter: Counter) -> Option<f64> {
        let ((from_ms, first), (to_ms, last)) = (self.0.front()?, self.0.back()?);
        let seconds = to_ms.checked_sub(*from_ms).filter(|ms| *ms > 0)? as f64 / 1e3;
        let grown = counter(last)?.checked_sub(counter(first)?)?;
        Some(grown as f64 / seconds)
    }

    /// Removes all numbers: another process counts from 0.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_the_last_seconds_and_end_with_a_restart() {
        let mut rates = Rates::default();
        let at = |bus_messages: Option<u64>| Numbers {
            bus_messages,
            ..Numbers::default()
        };
        let rate = |rates: &Rates| rates.per_second(|numbers| numbers.bus_messages);
        rates.push(0, at(Some(100)));
        assert_eq!(rate(&rates), None);
        rates.push(1_000, at(Some(110)));
        assert_eq!(rate(&rates), Some(10.0));
        for second in 2..=20 {
            rates.push(second * 1_000, at(Some(110)));
        }
        assert_eq!(rate(&rates), Some(0.0));
        assert!(rates.0.len() < 8, "{} readings are kept", rates.0.len());
        rates.push(21_000, at(Some(5)));
        assert_eq!(rate(&rates), None);
        rates.forget();
        assert!(rates.0.is_empty());
        for second in 0..2 {
            rates.push(second * 1_000, at(None));
        }
        assert_eq!(rate(&rates), None, "a gateway without this number");
    }
}
