//! A stop: its signals, and the time that is left of it.

use std::io;

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

/// If connections end within this time before the end of a stop, the others get this much more time.
const STOP_STEP_US: u64 = 250_000;

/// The time that is left of a stop. While connections end, there is more time, up to a bound: a busy machine closes them
/// slowly, and a client that is cut gets no close code.
#[derive(Debug)]
pub(super) struct StopDeadline {
    at_us: u64,
    at_us_max: u64,
    /// The connections at the last check.
    connections: usize,
}

impl StopDeadline {
    pub(super) fn new(at_us: u64, at_us_max: u64, connections: usize) -> Self {
        Self {
            at_us,
            at_us_max,
            connections,
        }
    }

    /// The end, as of now.
    pub(super) fn at_us(&self) -> u64 {
        self.at_us
    }

    /// Records the number of connections that are left; gives them more time while others end. Returns whether the time
    /// is over.
    pub(super) fn note_connections(&mut self, now_us: u64, connections: usize) -> bool {
        if now_us >= self.at_us && connections < self.connections {
            self.at_us = self.at_us_max.min(now_us + STOP_STEP_US);
            self.connections = connections;
        } else if now_us + STOP_STEP_US <= self.at_us {
            // Not within the last step: connections that end in it give the others more time.
            self.connections = connections;
        }
        now_us >= self.at_us
    }
}

/// Registers the signals that request a stop.
pub(super) fn stop_signals(registry: &Registry, token: Token) -> io::Result<Signals> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    registry.register(&mut signals, token, Interest::READABLE)?;
    Ok(signals)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_stop_goes_on_while_connections_end_up_to_its_bound() {
        let mut stop = StopDeadline::new(10 * SECOND, 11 * SECOND, 100);
        assert!(!stop.note_connections(9 * SECOND, 50));
        assert!(
            !stop.note_connections(10 * SECOND - 1, 40),
            "the last look was at 9 s"
        );
        assert!(
            !stop.note_connections(10 * SECOND, 40) && stop.at_us() == 10 * SECOND + STOP_STEP_US
        );
        let mut still = StopDeadline::new(10 * SECOND, 11 * SECOND, 100);
        assert!(!still.note_connections(9 * SECOND, 50));
        assert!(
            still.note_connections(10 * SECOND, 50),
            "none has ended since"
        );
        let ends = (1..20)
            .find(|n| stop.note_connections(10 * SECOND + n * STOP_STEP_US, 40 - *n as usize));
        assert_eq!(ends, Some(4), "at the bound");
    }
}
