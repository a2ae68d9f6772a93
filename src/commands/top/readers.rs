//! Readings while `top` runs, and the loop of the terminal, which draws, reads keys and takes the readings.
//!
//! A thread for each process asks it again and again: one that hangs delays no other one, and no key.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, poll};

use super::fetch::{FetchError, Fetcher, Reading};
use super::screen;
use super::view::{Asked, View};
use crate::commands::tail::{Stop, TICK};

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

/// A screen without news is drawn again after this time: it shows ages.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// Shows the view until the user or a signal ends it. The terminal is as before afterwards, also
/// after a panic.
///
/// # Errors
/// There is no terminal, or it is gone.
pub(super) fn show_live(mut view: View, readers: &Readers) -> io::Result<()> {
    let stop = Stop::at_signals()?;
    end_with_terminal()?;
    // Restores the terminal at a panic too.
    let shown = match ratatui::try_init() {
        Ok(mut terminal) => show(&mut terminal, &mut view, readers, &stop),
        Err(error) => Err(error),
    };
    let restored = ratatui::try_restore();
    shown.and(restored)
}

/// Ends the process when the terminal is gone. crossterm would read a terminal that has ended again
/// and again without a pause, and not every such process gets a SIGHUP: one that `docker exec` has
/// started does not.
fn end_with_terminal() -> io::Result<()> {
    let wait = || {
        let terminal = io::stdout();
        // An end is reported whatever is asked for.
        let mut fds = [PollFd::new(&terminal, PollFlags::empty())];
        while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
        // Not every system can wait for a terminal like that.
        let [terminal] = fds;
        if terminal
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
        {
            std::process::exit(1);
        }
    };
    let named = thread::Builder::new().name("top-terminal".to_owned());
    named.spawn(wait).map(drop)
}

fn show(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    readers: &Readers,
    stop: &Stop,
) -> io::Result<()> {
    let mut drawn: Option<Instant> = None;
    while !stop.is_asked() {
        if drawn.is_none_or(|at| at.elapsed() >= DRAW_EVERY) {
            let now_ms = readers.now_ms();
            terminal.draw(|frame| screen::draw(frame, view, now_ms))?;
            drawn = Some(Instant::now());
        }
        if event::poll(TICK)? {
            drawn = None;
            if let Event::Key(key) = event::read()? {
                match view.key(key) {
                    Asked::End => return Ok(()),
                    Asked::Pace => readers.pace(Pace::of(view)),
                    Asked::Nothing => {}
                }
            }
        }
        while let Some(reading) = readers.next(Duration::ZERO) {
            drawn = None;
            // What was asked before the pause is not shown in it.
            if !view.is_paused {
                view.take(reading.of, reading.at_ms, reading.read);
            }
        }
    }
    Ok(())
}
