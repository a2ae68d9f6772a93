//! The readings while `top` runs, and the loop of the terminal: draws, reads keys and receives the readings.
//!
//! Each process has a thread that reads repeatedly: a hanging process delays neither another process nor a
//! key.

use std::io;
use std::mem::ManuallyDrop;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, poll};

use super::fetch::{FetchError, Fetcher};
use super::screen;
use super::view::{Asked, View};
use crate::commands::tail::{Stop, TICK};
use crate::telemetry::operator_state::OperatorState;

/// The delay of the second reading: the first survey is ready soon after the first reading.
const FIRST_AGAIN: Duration = Duration::from_millis(250);

/// The pace of readings.
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

/// The interval of drawing without news, because the screen shows ages.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// Shows the view until the user or a signal ends `top`. Restores the terminal afterwards, also after a
/// panic.
///
/// # Errors
/// There is no terminal, or the terminal is gone.
pub(super) fn show_live(mut view: View, readers: &Readers) -> io::Result<()> {
    let stop = Stop::at_signals()?;
    end_with_terminal()?;
    // Installs a panic hook that restores the terminal.
    let shown = ratatui::try_init().and_then(|terminal| {
        // Not dropped: ratatui would report a cursor that stays hidden on standard error, and end in a panic if
        // that is the terminal that is gone.
        let mut terminal = ManuallyDrop::new(terminal);
        let shown = show(&mut terminal, &mut view, readers, &stop);
        let cursor = terminal.show_cursor();
        shown.and(cursor)
    });
    let restored = ratatui::try_restore();
    shown.and(restored)
}

/// Ends the process when the terminal is gone. crossterm would read a closed terminal in a busy loop, and not
/// every such process gets a SIGHUP: for example, not a process of `docker exec`.
fn end_with_terminal() -> io::Result<()> {
    let wait = || {
        let terminal = io::stdout();
        // The end of the terminal is reported for all flags.
        let mut fds = [PollFd::new(&terminal, PollFlags::empty())];
        while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
        // Some systems cannot wait for a terminal in this way.
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
            // A reading from before the pause is not shown during the pause.
            if !view.is_paused {
                view.take(reading.of, reading.at_ms, reading.read);
            }
        }
    }
    Ok(())
}
