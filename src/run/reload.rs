//! Files that are read again while the process runs: at SIGHUP, and key files after every change. Every
//! process reads its log filter again, if the filter is in a file.
//!
//! A thread of its own reads, so a slow disk never blocks the loop. A broken file changes nothing. No client
//! is closed, and no connection of the process is affected.

use std::io::{self, ErrorKind, IsTerminal, Read, stdin};
use std::iter::zip;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::low_level;

use crate::base::detached;
use crate::files;
use crate::settings::{Checked, Kind};
use crate::telemetry::{GatewayMetric, logging, names};

/// The interval of looks at files that are read again without a signal.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A byte for each SIGHUP that the thread has not read, once a SIGHUP is expected.
static HANG_UPS: OnceLock<HangUps> = OnceLock::new();

/// A part of the settings that can be read again while clients are connected.
pub trait Reload: Send {
    /// The label of the metric.
    fn what(&self) -> &'static str;

    /// Returns true if the part should be read again without a signal. Called once a second.
    fn is_due(&mut self) -> bool {
        false
    }

    /// Reads the part again, applies the new values and logs the changes.
    ///
    /// # Errors
    /// The part is broken, and nothing has changed. The error is the text of a log line.
    fn reload(&mut self) -> Result<Reloaded, String>;
}

/// The outcome of a successful reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The part has other values.
    Changed,
    /// The part is unchanged.
    Unchanged,
}

/// Metric labels, in the order of the numbers.
const OUTCOMES: [&str; 3] = ["changed", "unchanged", "failed"];

type Counts = [AtomicU64; OUTCOMES.len()];

/// All parts of one gateway.
pub(super) struct Reloads {
    parts: Vec<Box<dyn Reload>>,
    counts: Arc<Vec<(&'static str, Counts)>>,
}

/// The number of parts with each outcome, for one SIGHUP.
type Outcomes = [u64; OUTCOMES.len()];

/// From this call on a SIGHUP does not end the process. [`Reloads::start`] handles earlier signals.
pub(super) fn expect_signals() {
    // After an error the thread tries again.
    let _ = HangUps::of_process();
}

impl Reloads {
    pub(super) fn new(parts: Vec<Box<dyn Reload>>) -> Self {
        let counts = parts.iter().map(|part| (part.what(), Counts::default()));
        Self {
            counts: Arc::new(counts.collect()),
            parts,
        }
    }

    /// The metric of reloads.
    pub(super) fn metric(&self) -> GatewayMetric {
        let counts = Arc::clone(&self.counts);
        let numbers = move || {
            let of_part = |(what, counts): &(&'static str, Counts)| {
                let what = *what;
                let counts = counts.each_ref().map(|count| count.load(Relaxed));
                let each = zip(OUTCOMES, counts);
                each.map(move |(outcome, count)| ([what, outcome], count))
            };
            counts.iter().flat_map(of_part).collect()
        };
        GatewayMetric::ByTwoLabels(&names::RELOADS, Box::new(numbers))
    }

    /// Starts a thread that waits for signals and changes, and ends with the process.
    pub(super) fn start(mut self) -> io::Result<()> {
        let hang_ups = HangUps::of_process()?;
        let had_terminal = stdin().is_terminal();
        detached("reload", move || {
            loop {
                if !hang_ups.wait() {
                    self.changed();
                } else if had_terminal && !stdin().is_terminal() {
                    stop_without_terminal();
                } else {
                    self.all();
                }
            }
        })
    }

    /// Reads all parts again, and logs the outcomes.
    fn all(&mut self) {
        let mut outcomes = Outcomes::default();
        for number in 0..self.parts.len() {
            outcomes[self.one(number)] += 1;
        }
        let [changed, unchanged, failed] = outcomes;
        if self.parts.is_empty() {
            tracing::info!("SIGHUP: no setting of this gateway is in a file that is read again");
        } else {
            tracing::info!(changed, unchanged, failed, "SIGHUP: files read again");
        }
    }

    /// Reads the parts that are due.
    fn changed(&mut self) {
        for number in 0..self.parts.len() {
            if self.parts[number].is_due() {
                self.one(number);
            }
        }
    }

    /// Reads one part again. Returns the number of the outcome.
    fn one(&mut self, number: usize) -> usize {
        let outcome = match self.parts[number].reload() {
            Ok(Reloaded::Changed) => 0,
            Ok(Reloaded::Unchanged) => 1,
            Err(error) => {
                tracing::warn!("{error}");
                2
            }
        };
        self.counts[number].1[outcome].fetch_add(1, Relaxed);
        outcome
    }
}

/// The shell sends SIGHUP when its terminal is closed. A gateway started by hand in the terminal ends with
/// the terminal, as at Ctrl-C.
fn stop_without_terminal() {
    tracing::info!("SIGHUP: the terminal was closed");
    if let Err(error) = low_level::raise(SIGTERM) {
        tracing::error!(%error, "cannot stop");
    }
}

/// The reading end of a pair of sockets; the handler of SIGHUP writes a byte for each signal.
struct HangUps(UnixStream);

impl HangUps {
    /// The reading end of this process; the first call sets the handler.
    ///
    /// # Errors
    /// The system refuses a pair of sockets, or the handler.
    fn of_process() -> io::Result<&'static Self> {
        if let Some(known) = HANG_UPS.get() {
            return Ok(known);
        }
        let (signals, handler) = UnixStream::pair()?;
        signals.set_read_timeout(Some(LOOK_EVERY))?;
        low_level::pipe::register(SIGHUP, handler)?;
        Ok(HANG_UPS.get_or_init(|| Self(signals)))
    }

    /// Returns true at once after a signal, or false after [`LOOK_EVERY`]. Several signals at once count as one.
    fn wait(&self) -> bool {
        match (&self.0).read(&mut [0; 64]) {
            Ok(signals) => signals > 0,
            Err(error) => {
                let is_known = [
                    ErrorKind::WouldBlock,
                    ErrorKind::TimedOut,
                    ErrorKind::Interrupted,
                ];
                if !is_known.contains(&error.kind()) {
                    // Avoids a busy loop; the signal stays pending.
                    thread::sleep(LOOK_EVERY);
                }
                false
            }
        }
    }
}

/// The most characters of a filter in a log line.
const SHOWN_CHARS: usize = 200;

/// Returns the filter at the start: from `--log-filter-file`, or else from `--log-filter`.
pub(super) fn log_filter_at_start(checked: &Checked) -> Result<String, String> {
    let of_settings = checked.text("log-filter");
    match checked.path("log-filter-file") {
        Some(path) => {
            let named = checked.named("log-filter-file");
            of_file(&named, &path, files::read(&path))
        }
        None => Ok(of_settings),
    }
}

/// The filter of a file, read again.
pub(super) struct LogFilterFile(pub(super) PathBuf);

impl Reload for LogFilterFile {
    fn what(&self) -> &'static str {
        "log_filter"
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let kept = |error| format!("{error}; the log filter stays as it was");
        let text = files::read_again(&self.0);
        let filter = of_file("--log-filter-file", &self.0, text).map_err(kept)?;
        if logging::is_in_force(&filter) {
            return Ok(Reloaded::Unchanged);
        }
        // Logged under the filter that shows the line, old or new.
        let is_shown = tracing::enabled!(tracing::Level::INFO);
        let tell = |is_shown: bool| {
            if is_shown {
                let filter: String = filter.chars().take(SHOWN_CHARS).collect();
                tracing::info!(filter, "the log filter has changed");
            }
        };
        tell(is_shown);
        let set = logging::set_filter(&filter).map_err(|error| error.to_string());
        set.map_err(kept)?;
        tell(!is_shown);
        Ok(Reloaded::Changed)
    }
}

/// Returns the directives of a file: lines without comments, as one list. `named` is the setting in errors.
fn of_file(named: &str, path: &Path, text: io::Result<Vec<u8>>) -> Result<String, String> {
    let wrong = |error: &str| format!("{named} {}: {error}", path.display());
    let text = text.map_err(|error| wrong(&error.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| wrong("not UTF-8"))?;
    let lines = text.lines().map(str::trim);
    let directives: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.trim_end_matches(','))
        .collect();
    let filter = directives.join(",");
    if filter.is_empty() {
        return Err(wrong("no filter in it"));
    }
    if !logging::is_filter(&filter) {
        return Err(wrong(&format!("not {}", Kind::LogFilter.allowed())));
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Returns outcomes in order; due once without a signal.
    struct Played(VecDeque<Result<Reloaded, String>>, bool);

    impl Reload for Played {
        fn what(&self) -> &'static str {
            "acl"
        }

        fn is_due(&mut self) -> bool {
            std::mem::take(&mut self.1)
        }

        fn reload(&mut self) -> Result<Reloaded, String> {
            self.0.pop_front().expect("an outcome")
        }
    }

    #[test]
    fn each_outcome_is_counted_and_what_asks_is_read_without_a_signal() {
        let outcomes = [
            Ok(Reloaded::Changed),
            Err("broken".to_owned()),
            Ok(Reloaded::Unchanged),
            Ok(Reloaded::Unchanged),
        ];
        let mut reloads = Reloads::new(vec![Box::new(Played(outcomes.into(), true))]);
        let counts = |reloads: &Reloads| match reloads.metric() {
            GatewayMetric::ByTwoLabels(_, numbers) => numbers(),
            other => panic!("{other:?}"),
        };
        reloads.changed();
        assert_eq!(counts(&reloads)[0], (["acl", "changed"], 1));
        reloads.changed();
        assert_eq!(counts(&reloads)[0], (["acl", "changed"], 1), "asked once");
        for _ in 0..3 {
            reloads.all();
        }
        let counted: Vec<u64> = counts(&reloads).iter().map(|(_, count)| *count).collect();
        assert_eq!(counted, [1, 2, 1]);
    }

    #[test]
    fn a_file_has_directives_on_lines_and_comments() {
        let named = "--log-filter-file";
        let read = |text: &str| of_file(named, Path::new("f"), Ok(text.as_bytes().to_vec()));
        for (text, filter) in [
            ("debug\n", "debug"),
            ("# as always\ninfo\n", "info"),
            (
                "info,weirgate::http=debug\nweirgate::hub=trace,\n\n",
                "info,weirgate::http=debug,weirgate::hub=trace",
            ),
        ] {
            assert_eq!(read(text).as_deref(), Ok(filter), "{text:?}");
        }
        for (text, says) in [
            ("", "--log-filter-file f: no filter in it"),
            ("# nothing\n", "no filter in it"),
            ("loud\n", "not error, warn, info, debug, trace or off"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(says), "{error}");
        }
        let error = of_file(named, Path::new("f"), Ok(vec![0xFF])).expect_err("no text");
        assert!(error.contains("not UTF-8"), "{error}");
    }
}
