//! `weirgate top`: running gateways in a terminal, from `/operator/state` of their admin addresses.
//!
//! In a process of its own; no gateway uses this module. Called by `commands`.
//!
//! | file | has |
//! | --- | --- |
//! | `line` | the flags |
//! | `target` | from an argument to an address |
//! | `fetch` | one reading of a process, bounded in time and bytes |
//! | `readers` | a thread for each process; the growth of counters |
//! | `process`, `tables` | the facts and tables of a process, as texts with a tone |
//! | `view` | the current view, and the keys |
//! | `screen` | the view in a terminal, and as text |

mod fetch;
pub(super) mod line;
mod process;
mod readers;
mod screen;
mod tables;
mod target;
mod view;
mod words;

use std::env;
use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, poll};

use self::fetch::Fetcher;
use self::process::Process;
use self::readers::Readers;
pub use self::target::Target;
use self::view::{Asked, View};
use super::program::{hide_secret, show};
use super::tail::{Stop, TICK};
use crate::base::detached;
use crate::settings::{Rows, SecretText};

/// Time between two readings of `--once`.
const ONCE_INTERVAL: Duration = Duration::from_millis(500);
/// The longest wait of `--once` for the second survey of a process: surveys are a second apart.
const ONCE_PATIENCE: Duration = Duration::from_secs(8);

/// `weirgate top`, ready to run.
#[derive(Clone, Debug)]
pub struct TopCommand {
    /// The processes.
    pub targets: Vec<Target>,
    /// Whether to print a plain table once, also in a terminal.
    pub is_once: bool,
    /// Between two readings, milliseconds.
    pub interval_ms: u32,
    /// The authorities for `https://`; `None` for the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// The header for a proxy in front of the admin address.
    pub authorization: Option<SecretText>,
}

/// The reason why `weirgate top` ended.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// Certificates, a header, threads.
    #[error("{0}")]
    Start(String),
    /// There is no terminal, or the terminal is gone.
    #[error("the terminal does not work: {0}; --once needs none")]
    Terminal(io::Error),
    /// With `--once`: a process did not respond.
    #[error("no answer from {0}")]
    Away(String),
}

impl TopCommand {
    /// Shows the processes until the user stops, or once.
    ///
    /// # Errors
    /// There is no terminal; with `--once`, a process did not respond.
    pub fn run(self) -> Result<(), TopError> {
        hide_secret("--authorization", Rows::TOP, self.authorization.as_ref());
        let shown = self.targets.iter().map(ToString::to_string);
        let mut view = View::new(shown, self.interval_ms);
        view.has_colour = has_colour();
        let fetchers = self.fetchers().map_err(TopError::Start)?;
        let mut pace = view.pace();
        let is_live = !self.is_once && is_able_terminal();
        if !is_live {
            pace.interval = ONCE_INTERVAL;
        }
        let started = Readers::start(fetchers, pace);
        let readers = started.map_err(|error| TopError::Start(error.to_string()))?;
        match is_live {
            true => show_live(view, &readers).map_err(TopError::Terminal),
            false => once(view, &readers),
        }
    }

    fn fetchers(&self) -> Result<Vec<Fetcher>, String> {
        let fetcher = |target: &Target| {
            let authorization = self.authorization.as_ref();
            Fetcher::new(target.clone(), self.ca_file.as_deref(), authorization)
        };
        self.targets.iter().map(fetcher).collect()
    }
}

/// Whether standard output is a terminal with escape sequences.
fn is_able_terminal() -> bool {
    io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// <https://no-color.org>
fn has_colour() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints everything once all processes have rates and a survey with rates, or are away.
fn once(mut view: View, readers: &Readers) -> Result<(), TopError> {
    let until = Instant::now() + ONCE_PATIENCE;
    while !view.processes.iter().all(is_complete) {
        let left = until.saturating_duration_since(Instant::now());
        let Some(taken) = readers.next(left) else {
            break;
        };
        view.take(taken.of, taken.at_ms, taken.read);
    }
    show(screen::as_text(&view, readers.now_ms()).trim_end());
    let is_missing = |process: &&Process| process.away().is_some() || process.state.is_none();
    let missing: Vec<_> = view.processes.iter().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = missing.iter().map(|process| {
        let why = process.away().unwrap_or("nothing came in time");
        format!("{}: {why}", process.shown)
    });
    Err(TopError::Away(why.collect::<Vec<_>>().join("; ")))
}

/// Whether there is nothing to wait for.
fn is_complete(process: &Process) -> bool {
    let survey = process
        .state
        .as_ref()
        .and_then(|state| state.survey.as_ref());
    process.away().is_some() || survey.is_some_and(|survey| survey.interval_ms.is_some())
}

/// The interval of drawing without news, because the screen shows ages.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// Shows the view until the user or a signal ends `top`. Restores the terminal afterwards, also after a
/// panic.
///
/// # Errors
/// There is no terminal, or the terminal is gone.
fn show_live(mut view: View, readers: &Readers) -> io::Result<()> {
    let stop = Stop::at_signals()?;
    end_with_terminal()?;
    // Installs a panic hook that restores the terminal.
    let shown = ratatui::try_init().and_then(|terminal| {
        // Not dropped: ratatui would report a cursor that stays hidden on standard error, and end in a panic if
        // that is the terminal that is gone.
        let mut terminal = ManuallyDrop::new(terminal);
        let shown = show_until_end(&mut terminal, &mut view, readers, &stop);
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
    detached("top-terminal", wait)
}

fn show_until_end(
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
                    Asked::Pace => readers.pace(view.pace()),
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
