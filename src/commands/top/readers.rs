//! A thread for each process, which asks it again and again: one that hangs delays no other one, and
//! no key.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::fetch::{FetchError, Fetcher, Reading};
use super::view::View;

/// The first survey is there soon after it was asked for.
const FIRST_AGAIN: Duration = Duration::from_millis(250);

/// How often is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) interval: Duration,
    pub(super) is_paused: bool,
}

impl Pace {
    pub(super) fn of(view: &View) -> Self {
        Self {
            interval: Duration::from_millis(view.interval_ms.into()),
            is_paused: view.is_paused,
        }
    }
}

/// What one of the threads has read.
#[derive(Debug)]
pub(super) struct Taken {
    /// The index of the process.
    pub(super) of: usize,
    /// When, in milliseconds since the start.
    pub(super) at_ms: u64,
    pub(super) read: Result<Reading, FetchError>,
}

/// The threads.
#[derive(Debug)]
pub(super) struct Readers {
    begun: Instant,
    paces: Vec<Sender<Pace>>,
    readings: Receiver<Taken>,
}

impl Readers {
    /// Starts a thread for each.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(fetchers: Vec<Fetcher>, pace: Pace) -> io::Result<Self> {
        let begun = Instant::now();
        // One that is not taken at once holds its thread: nothing piles up.
        let (sender, readings) = bounded(fetchers.len());
        let mut paces = Vec::new();
        for (of, fetcher) in fetchers.into_iter().enumerate() {
            // A change for each key that is typed, taken after the reading.
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
            let named = thread::Builder::new().name(format!("top-{of}"));
            named.spawn(move || reader.run())?;
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

    /// From now on asks so often.
    pub(super) fn pace(&self, pace: Pace) {
        for sender in &self.paces {
            // A thread ends with this value only.
            let _ = sender.send(pace);
        }
    }

    /// The next reading, waited for so long.
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
    /// Until nobody takes the readings.
    fn run(mut self) {
        let mut again = FIRST_AGAIN;
        loop {
            let asked = Instant::now();
            let read = self.fetcher.read();
            // The first is asked for again soon, because the survey was not there yet.
            let wait = match &read {
                Ok(reading) if reading.state.survey.is_none() => again,
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

    /// Until the next reading is due. Returns `false` at the end.
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
