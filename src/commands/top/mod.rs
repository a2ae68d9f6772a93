//! `weirgate top`: running gateways in a terminal, from `/operator/state` of their admin addresses.
//!
//! In a process of its own; no gateway uses this module. Called by `commands`.
//!
//! | file | has |
//! | --- | --- |
//! | `line` | the flags |
//! | `target` | from an argument to an address |
//! | `fetch` | one reading of a process, bounded in time and bytes |
//! | `readers` | a thread for each process |
//! | `rates` | the growth of counters |
//! | `process`, `tables` | the facts and tables of a process, as texts with a tone |
//! | `view` | the current view, and the keys |
//! | `screen` | the view in a terminal, and as text |

mod fetch;
pub(super) mod line;
mod process;
mod rates;
mod readers;
#[cfg(test)]
mod samples;
mod screen;
mod tables;
mod target;
mod view;
mod words;

use std::env;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::fetch::Fetcher;
use self::process::Process;
use self::readers::{Pace, Readers, show_live};
pub use self::target::Target;
use self::view::View;
use super::program::{hide_secret, show};
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
    /// Whether the header was given as a flag, visible to other users of the machine.
    pub authorization_is_visible: bool,
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
        if let Some(text) = self
            .authorization
            .as_ref()
            .filter(|_| self.authorization_is_visible)
        {
            hide_secret("--authorization", Rows::TOP, text);
        }
        let shown = self.targets.iter().map(ToString::to_string);
        let mut view = View::new(shown, self.interval_ms);
        view.has_colour = has_colour();
        let fetchers = self.fetchers().map_err(TopError::Start)?;
        let mut pace = Pace::of(&view);
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
