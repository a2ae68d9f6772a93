//! A line of the log that tells how things are, again and again.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::base::detached;
use crate::telemetry::Telemetry;

/// What the line says, and how often.
pub struct StatsLine {
    /// Milliseconds between two lines; the first comes after as many.
    pub interval_ms: u64,
    /// Logs one line.
    pub log: Box<dyn Fn(&Telemetry) + Send>,
}

impl StatsLine {
    /// Logs from a thread of its own, which ends with the process.
    pub(super) fn start(self, telemetry: Arc<Telemetry>) -> io::Result<()> {
        let interval = Duration::from_millis(self.interval_ms);
        detached("stats-line", move || {
            loop {
                thread::sleep(interval);
                (self.log)(&telemetry);
            }
        })
    }
}
