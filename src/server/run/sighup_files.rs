//! Two files that are read at the start and again at SIGHUP.
//!
//! - `--log-filter-file` has the log filter.
//! - `--revoked-file` has refused users and tokens: each line is JSON as `POST /operator/disconnect` takes it. Clients
//!   that a changed file refuses are closed.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, unbounded};

use super::RunError;
use super::files;
use super::reload::{Reload, Reloaded};
use crate::http::operator::Cutter;
use crate::settings::{Checked, Kind, ProcessSettings, flag};
use crate::telemetry::logging;
use weirgate_bus::runtime::Clock;
use weirgate_core::{Cut, CutRequest, Revoked, Whom};

/// The most characters of a filter in a log line.
const SHOWN_CHARS: usize = 200;

/// Returns the filter at the start: from `--log-filter-file`, or else from `--log-filter`.
pub(super) fn log_filter(checked: &Checked) -> Result<String, String> {
    let process: ProcessSettings = checked.get();
    match process.log_filter_file {
        Some(path) => {
            let named = checked.named(flag!("log-filter-file"));
            filter_of(&named, &path, files::read(&path))
        }
        None => Ok(process.log_filter),
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
        let filter = filter_of("--log-filter-file", &self.0, text).map_err(kept)?;
        if logging::is_in_force(&filter) {
            return Ok(Reloaded::Unchanged);
        }
        // The line is logged under the old filter if that shows it, else under the new filter.
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

/// Returns the directives of a file as one list: its lines without comments. `named` is the setting, for errors.
fn filter_of(named: &str, path: &Path, text: io::Result<Vec<u8>>) -> Result<String, String> {
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

/// What cutting clients off needs.
pub(super) struct Cuts {
    pub(super) cutter: Cutter,
    /// The loop's end of the cutter's requests.
    pub(super) requests: Receiver<CutRequest>,
    pub(super) file: Option<Box<dyn Reload>>,
}

impl Cuts {
    /// Reads the file, if there is a file.
    ///
    /// # Errors
    /// The file cannot be read, or a line is wrong.
    pub(super) fn new(
        revoked: Revoked,
        file: Option<PathBuf>,
        clock: Clock,
    ) -> Result<Self, RunError> {
        let (sender, requests) = unbounded();
        let cutter = Cutter::new(revoked, sender, clock);
        let file = file.map(|path| RevokedFile::read(path, cutter.clone()));
        let file = file.transpose().map_err(RunError::Settings)?;
        Ok(Self {
            cutter,
            requests,
            file: file.map(|file| Box::new(file) as Box<dyn Reload>),
        })
    }
}

/// Reads the lines of the file. Empty lines, and lines that begin with `#`, are left out.
fn cuts_of(path: &Path, text: io::Result<Vec<u8>>, now_unix_ms: i64) -> Result<Vec<Cut>, String> {
    let wrong = |error: &dyn Display| format!("--revoked-file {}: {error}", path.display());
    let text = text.map_err(|error| wrong(&error))?;
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.map(|(at, line)| (at, line.trim_ascii()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"));
    let read = lines.map(|(at, line)| {
        let cut = Cut::read(line).and_then(|cut| {
            cut.check_times(now_unix_ms)?;
            let no_refusal = "a role or a session alone cannot be refused";
            cut.refused().ok_or_else(|| no_refusal.to_owned())
        });
        cut.map_err(|error| wrong(&format!("line {}: {error}", at + 1)))
    });
    read.collect()
}

/// The file with refused users and tokens, and what it held at the last reading.
struct RevokedFile {
    path: PathBuf,
    in_force: Vec<Cut>,
    cutter: Cutter,
}

impl RevokedFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// The file cannot be read, or a line is wrong.
    fn read(path: PathBuf, cutter: Cutter) -> Result<Self, String> {
        let mut file = Self {
            path,
            in_force: Vec::new(),
            cutter,
        };
        let text = files::read(&file.path);
        file.take(text)?;
        Ok(file)
    }

    fn take(&mut self, text: io::Result<Vec<u8>>) -> Result<bool, String> {
        let Cutter { revoked, clock, .. } = &self.cutter;
        let now = clock.now().unix_ms();
        let cuts = cuts_of(&self.path, text, now)?;
        let replaced = revoked.replace_file(&cuts, now);
        replaced.map_err(|full| format!("--revoked-file {}: {full}", self.path.display()))?;
        let has_changed = self.in_force != cuts;
        self.in_force = cuts;
        Ok(has_changed)
    }
}

impl Reload for RevokedFile {
    fn what(&self) -> &'static str {
        "revoked"
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let text = files::read_again(&self.path);
        let has_changed = self.take(text).map_err(|error| {
            format!("{error}; the list of refused users and tokens stays as it was")
        })?;
        if !has_changed {
            return Ok(Reloaded::Unchanged);
        }
        let entries = self.in_force.len();
        self.cutter.close(Whom::Refused, move |done| {
            let clients = done.clients;
            tracing::info!(
                entries,
                clients,
                "the list of refused users and tokens has changed"
            );
        });
        Ok(Reloaded::Changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_file_has_directives_on_lines_and_comments() {
        let named = "--log-filter-file";
        let read = |text: &str| filter_of(named, Path::new("f"), Ok(text.as_bytes().to_vec()));
        for (text, filter) in [
            ("debug\n", "debug"),
            ("# as always\ninfo\n", "info"),
            (
                "info,weirgate_server::http=debug\nweirgate_core=trace,\n\n",
                "info,weirgate_server::http=debug,weirgate_core=trace",
            ),
        ] {
            assert_eq!(read(text).as_deref(), Ok(filter), "{text:?}");
        }
        for (text, says) in [
            ("", "--log-filter-file f: no filter in it"),
            ("# nothing\n", "no filter in it"),
            ("info=\n", "not error, warn, info, debug, trace or off"),
            ("loud\n", "not error, warn, info, debug, trace or off"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(says), "{error}");
        }
        let error = filter_of(named, Path::new("f"), Ok(vec![0xFF])).expect_err("no text");
        assert!(error.contains("not UTF-8"), "{error}");
    }
}
