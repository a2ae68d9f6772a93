//! The readings while `top` runs, and the growth of counters between readings.
//!
//! Each process has a thread that reads repeatedly: a hanging process delays neither another process nor a
//! key.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::fetch::{FetchError, Fetcher};
use crate::base::detached;
use crate::telemetry::operator_state::{Numbers, OperatorState};

/// The delay of the second reading: the first survey is ready soon after the first reading.
const FIRST_AGAIN: Duration = Duration::from_millis(250);

/// The pace of readings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) interval: Duration,
    pub(super) is_paused: bool,
}

/// A reading of one of the threads.
#[derive(Debug)]
pub(super) struct Taken {
    /// The index of the process.
    pub(super) of: usize,
    /// The time of the reading, in milliseconds since the start.
    pub(super) at_ms: u64,
    pub(super) read: Result<OperatorState, FetchError>,
}

/// The threads of all processes.
#[derive(Debug)]
pub(super) struct Readers {
    begun: Instant,
    paces: Vec<Sender<Pace>>,
    readings: Receiver<Taken>,
}

impl Readers {
    /// Starts a thread for each process.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(fetchers: Vec<Fetcher>, pace: Pace) -> io::Result<Self> {
        let begun = Instant::now();
        // A full channel blocks the thread, so readings do not accumulate.
        let (sender, readings) = bounded(fetchers.len());
        let mut paces = Vec::new();
        for (of, fetcher) in fetchers.into_iter().enumerate() {
            // A change for each typed key, received after the reading.
            let (pace_sender, changes) = unbounded();
            paces.push(pace_sender);
            let reader = Reader {
                of,
                begun,
                fetcher,
                pace,
                changes,
                sender: sender.clone(),
            };
            detached(&format!("top-{of}"), move || reader.run())?;
        }
        Ok(Self {
            begun,
            paces,
            readings,
        })
    }

    /// Milliseconds since the start.
    pub(super) fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Sets the pace of all threads.
    pub(super) fn pace(&self, pace: Pace) {
        for sender in &self.paces {
            // A thread ends only with this value.
            let _ = sender.send(pace);
        }
    }

    /// Returns the next reading, after a wait of at most `wait`.
    pub(super) fn next(&self, wait: Duration) -> Option<Taken> {
        self.readings.recv_timeout(wait).ok()
    }
}

struct Reader {
    of: usize,
    begun: Instant,
    fetcher: Fetcher,
    pace: Pace,
    changes: Receiver<Pace>,
    sender: Sender<Taken>,
}

impl Reader {
    /// Runs until the receiver is closed.
    fn run(mut self) {
        let mut again = FIRST_AGAIN;
        loop {
            let asked = Instant::now();
            let read = self.fetcher.read();
            // The first reading has no survey yet, so the second follows soon.
            let wait = match &read {
                Ok(state) if state.survey.is_none() => again,
                _ => Duration::MAX,
            };
            again = Duration::MAX;
            let at_ms = self.begun.elapsed().as_millis() as u64;
            let of = self.of;
            if self.sender.send(Taken { of, at_ms, read }).is_err() || !self.wait(asked, wait) {
                return;
            }
        }
    }

    /// Waits until the next reading is due. Returns false at the end.
    fn wait(&mut self, asked: Instant, at_most: Duration) -> bool {
        loop {
            let changed = match self.pace.is_paused {
                true => self
                    .changes
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                false => {
                    let due = asked + self.pace.interval.min(at_most);
                    self.changes.recv_deadline(due)
                }
            };
            match changed {
                Ok(pace) => self.pace = pace,
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}

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
