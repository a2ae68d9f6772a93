//! `weirgate top`: running gateways in a terminal, from `/operator/state` of their admin addresses.
//!
//! In a process of its own; no gateway uses this module. Called by `commands`.
//!
//! | file | has |
//! | --- | --- |
//! | `line` | the flags |
//! | `fetch` | one reading of a process, bounded in time and bytes |
//! | `process`, `facts`, `tables` | the readings, facts and tables of a process, as texts with a tone |
//! | `page` | the lines for a pipe or a terminal |

mod facts;
pub(super) mod fetch;
pub(super) mod line;
mod page;
mod process;
mod tables;
mod words;

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::page::Room;
use self::process::Process;
use super::link::Target;
use super::program::{hide_secret, show};
use super::tail::Stop;
use crate::base::{detached, escaped};
use crate::settings::{Rows, SecretText};
use crate::wire::object_writer::ObjectWriter;

/// Time between two readings of `--once`, and from the first reading to the second: the first survey is ready soon.
const SOON: Duration = Duration::from_millis(400);
/// The longest wait of `--once` for the second survey of a process: surveys are a second apart.
const ONCE_PATIENCE: Duration = Duration::from_secs(8);
/// The size of a terminal that does not say its size.
const SIZE: (usize, usize) = (80, 24);

/// `weirgate top`, ready to run.
#[derive(Clone, Debug)]
pub struct TopCommand {
    /// The processes.
    pub targets: Vec<Target>,
    /// Whether to print a plain table once, also in a terminal.
    pub is_once: bool,
    /// Whether to print the states as JSON, a line for each reading.
    pub is_json: bool,
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
    /// Threads, signals.
    #[error("the system refuses: {0}")]
    System(io::Error),
    /// The terminal or the pipe is gone.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// With `--once`: a process did not respond.
    #[error("no answer from {0}")]
    Away(String),
}

/// The data that the thread of a process and the printing thread share.
#[derive(Clone, Debug)]
struct Shared(Arc<Mutex<Process>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Process> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TopCommand {
    /// Shows the processes until the user stops, or once.
    ///
    /// # Errors
    /// Standard output is gone; with `--once`, a process did not respond.
    pub fn run(mut self) -> Result<(), TopError> {
        hide_secret("--authorization", Rows::TOP, self.authorization.as_ref());
        // A terminal without escape sequences and a pipe get one table.
        let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        self.is_once |= !self.is_json && (is_dumb || !io::stdout().is_terminal());
        let begun = Instant::now();
        let stop = Stop::at_signals().map_err(TopError::System)?;
        let processes: Vec<Shared> = self
            .targets
            .iter()
            .map(|target| Shared(Arc::new(Mutex::new(Process::new(target.to_string())))))
            .collect();
        for (target, process) in self.targets.iter().zip(&processes) {
            let (command, target, process) = (self.clone(), target.clone(), process.clone());
            let read = move || command.read_on(&target, &process, begun);
            detached("top-reader", read).map_err(TopError::System)?;
        }
        if self.is_once {
            let until = begun + ONCE_PATIENCE;
            let is_over =
                |at: Instant| at >= until || processes.iter().all(|p| p.lock().is_complete());
            while !is_over(Instant::now()) && stop.sleep_until(Instant::now() + SOON / 4) {}
            return self.print_once(&processes, begun);
        }
        let shown = self.show_until(&stop, &processes, begun);
        shown.map_err(TopError::Output)
    }

    /// Reads a process again and again, at the interval: a process that hangs delays no other.
    fn read_on(&self, target: &Target, process: &Shared, begun: Instant) {
        let interval = Duration::from_millis(self.interval_ms.into());
        let mut soon = true;
        loop {
            let asked = Instant::now();
            let read = fetch::read(target, self.ca_file.as_deref(), self.authorization.as_ref());
            let at_ms = begun.elapsed().as_millis() as u64;
            process.lock().take(at_ms, read);
            let wait = if soon || self.is_once { SOON } else { interval };
            soon = false;
            thread::sleep((asked + wait.min(interval)).saturating_duration_since(Instant::now()));
        }
    }

    fn print_once(&self, processes: &[Shared], begun: Instant) -> Result<(), TopError> {
        let processes: Vec<_> = processes.iter().map(Shared::lock).collect();
        let all: Vec<&Process> = processes.iter().map(|process| &**process).collect();
        let text = match self.is_json {
            true => json(&all),
            false => page::whole(&all, begun.elapsed().as_millis() as u64),
        };
        show(text.trim_end());
        let missing = all.iter().filter(|p| p.away.is_some() || p.state.is_none());
        let why = missing.map(|process| {
            let why = process.away.as_deref().unwrap_or("nothing came in time");
            format!("{}: {why}", process.shown)
        });
        let why: Vec<_> = why.collect();
        match why.is_empty() {
            true => Ok(()),
            false => Err(TopError::Away(why.join("; "))),
        }
    }

    /// Draws over the screen, or prints JSON, at each interval.
    fn show_until(&self, stop: &Stop, processes: &[Shared], begun: Instant) -> io::Result<()> {
        let interval = Duration::from_millis(self.interval_ms.into());
        let has_colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut stdout = io::stdout();
        // The first readings are there soon.
        let mut due = Instant::now() + SOON / 2;
        while stop.sleep_until(due) {
            due += interval;
            let text = {
                let processes: Vec<_> = processes.iter().map(Shared::lock).collect();
                let all: Vec<&Process> = processes.iter().map(|process| &**process).collect();
                match self.is_json {
                    true => json(&all),
                    false => {
                        let (columns, lines) = size();
                        let room = Room {
                            columns,
                            lines,
                            has_colour,
                        };
                        let now_ms = begun.elapsed().as_millis() as u64;
                        format!("\x1b[H\x1b[J{}", page::fitting(&all, now_ms, room))
                    }
                }
            };
            stdout.write_all(text.as_bytes())?;
            stdout.flush()?;
        }
        Ok(())
    }
}

/// The columns and lines of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE,
    }
}

/// The newest state of each process, a line each.
fn json(processes: &[&Process]) -> String {
    let line = |process: &&Process| {
        let mut object = ObjectWriter::new();
        object.string("address", &process.shown);
        if let Some(why) = &process.away {
            object.string("error", why);
        }
        let state = process.state.as_ref();
        let state = state.and_then(|state| sonic_rs::to_string(state).ok());
        object.raw("state", state.as_deref().unwrap_or("null"));
        object.finish() + "\n"
    };
    let lines: String = processes.iter().map(line).collect();
    // An escape of JSON, and a terminal shows it as it is.
    escaped(&lines, &['\n']).into_owned()
}
