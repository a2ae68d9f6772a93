//! The log filter, which may be in a file that is read at the start and again at SIGHUP (`--log-filter-file`).

use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::reload::{Reload, Reloaded};
use crate::settings::{Checked, Kind, ProcessSettings, flag};
use crate::telemetry::logging;

/// The most characters of a filter in a log line.
const SHOWN_CHARS: usize = 200;

/// Returns the filter at the start: from `--log-filter-file`, or else from `--log-filter`.
pub(super) fn log_filter(checked: &Checked) -> Result<String, String> {
    let process: ProcessSettings = checked.get();
    match process.log_filter_file {
        Some(path) => {
            let named = checked.named(flag!("log-filter-file"));
            parse(&named, &path, files::read(&path))
        }
        None => Ok(process.log_filter),
    }
}

/// The file of `--log-filter-file`, as a part that is read again.
pub(super) struct LogFilterFile(pub(super) PathBuf);

impl Reload for LogFilterFile {
    fn what(&self) -> &'static str {
        "log_filter"
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let unchanged = |error| format!("{error}; the log filter stays as it was");
        let text = files::read_again(&self.0);
        let filter = parse("--log-filter-file", &self.0, text).map_err(unchanged)?;
        if logging::is_in_force(&filter) {
            return Ok(Reloaded::Unchanged);
        }
        // The line is logged under the old filter if that shows it, else under the new filter.
        let is_shown = tracing::enabled!(tracing::Level::INFO);
        let log_if = |is_shown: bool| {
            if is_shown {
                let filter: String = filter.chars().take(SHOWN_CHARS).collect();
                tracing::info!(filter, "the log filter has changed");
            }
        };
        log_if(is_shown);
        let set = logging::set_filter(&filter).map_err(|error| error.to_string());
        set.map_err(unchanged)?;
        log_if(!is_shown);
        Ok(Reloaded::Changed)
    }
}

/// Returns the directives of a file as one list: its lines without comments. `named` is the setting, for the error.
fn parse(named: &str, path: &Path, text: io::Result<Vec<u8>>) -> Result<String, String> {
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
    use super::*;

    #[test]
    fn a_filter_file_has_directives_on_lines_and_comments() {
        let named = "--log-filter-file";
        let read = |text: &str| parse(named, Path::new("f"), Ok(text.as_bytes().to_vec()));
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
        let error = parse(named, Path::new("f"), Ok(vec![0xFF])).expect_err("no text");
        assert!(error.contains("not UTF-8"), "{error}");
    }
}
