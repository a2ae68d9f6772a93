//! Log set-up: lines on standard output, as text or JSON, filtered by `RUST_LOG`.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{FormatEvent, FormatFields, MakeWriter, SubscriberBuilder};
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::log_lines::{self, LogLines};
use super::terminal::TerminalLines;

/// The format of this process, once known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Replaces the filter; the type hides the formatter.
type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The filter of this process, once set up: the function that replaces the filter, and the directives.
static FILTER: OnceLock<(SetFilter, Mutex<String>)> = OnceLock::new();

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text, for people; short and coloured if standard output is a terminal.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// The reason why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Settings: the filter is not a list of directives.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// weirgate: the writing thread could not be started.
    #[error("cannot start the log: {0}")]
    Thread(#[from] io::Error),
    /// weirgate: logging was set up before.
    #[error("logging is set up already")]
    Again,
    /// weirgate: there is no log with a filter to replace.
    #[error("logging is not set up")]
    NotSetUp,
}

/// Sends log lines to standard output, filtered by `directives` in the syntax of `RUST_LOG`
/// (`info,weirgate::http=debug`).
///
/// No logging thread waits: lines wait in a queue; when the queue is full, lines are left out and reported.
///
/// # Errors
/// `directives` cannot be read, the system refuses a thread, or logging was set up before.
pub fn init(format: LogFormat, directives: &str) -> Result<(), LoggingError> {
    let filter = filter(directives)?;
    let lines = LogLines::start()?;
    let formatter = tracing_subscriber::fmt().with_env_filter(filter);
    let set_filter = match (format, TerminalLines::for_stdout()) {
        (LogFormat::Json, _) => {
            let formatter = formatter.json().flatten_event(true);
            put_in_force(formatter.with_writer(lines.json()))
        }
        (LogFormat::Text, None) => put_in_force(formatter.with_writer(lines)),
        (LogFormat::Text, Some(terminal)) => {
            put_in_force(formatter.event_format(terminal).with_writer(lines))
        }
    }?;
    FORMAT.get_or_init(|| format);
    FILTER.get_or_init(|| (set_filter, Mutex::new(directives.to_owned())));
    flush_before_panics();
    Ok(())
}

/// Installs the log of the process; returns the function that replaces its filter.
fn put_in_force<N, E, W>(
    formatter: SubscriberBuilder<N, E, EnvFilter, W>,
) -> Result<SetFilter, LoggingError>
where
    N: for<'a> FormatFields<'a> + Send + Sync + 'static,
    E: FormatEvent<Registry, N> + Send + Sync + 'static,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let formatter = formatter.with_filter_reloading();
    let handle = formatter.reload_handle();
    formatter.try_init().map_err(|_| LoggingError::Again)?;
    Ok(Box::new(move |filter| handle.reload(filter)))
}

/// Replaces the filter by `directives`.
///
/// # Errors
/// `directives` cannot be read, and the filter stays unchanged; or logging was not set up.
pub fn set_filter(directives: &str) -> Result<(), LoggingError> {
    let next = filter(directives)?;
    let (set, in_force) = FILTER.get().ok_or(LoggingError::NotSetUp)?;
    set(next).map_err(|_| LoggingError::NotSetUp)?;
    let mut in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
    directives.clone_into(&mut in_force);
    Ok(())
}

/// Returns true if the filter was made from exactly these directives.
pub fn is_in_force(directives: &str) -> bool {
    FILTER.get().is_some_and(|(_, in_force)| {
        let in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
        *in_force == directives
    })
}

/// A panic ends the process at once; the lines before may show the reason.
fn flush_before_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log_lines::flush();
        report(panic);
    }));
}

/// Writes a text for people at the start. If the format is JSON, calls `as_json` instead, which logs the same
/// facts as one message with fields.
pub fn say(text: &str, as_json: impl FnOnce()) {
    match FORMAT.get() {
        Some(LogFormat::Json) => as_json(),
        _ => log_lines::say(text),
    }
}

/// Waits until the lines so far are written, but not for long if standard output is not read.
pub fn flush() {
    log_lines::flush();
}

/// Whether [`init`] accepts these directives and they make sense: a bare word other than a level would be
/// read as the name of a foreign module, and switch all lines off.
pub fn is_filter(directives: &str) -> bool {
    let meant = |directive: &str| {
        let is_level = directive.parse::<LevelFilter>().is_ok();
        is_level || directive.contains(['=', '[']) || directive.starts_with("weirgate")
    };
    filter(directives).is_ok() && directives.split(',').map(str::trim).all(meant)
}

fn filter(directives: &str) -> Result<EnvFilter, LoggingError> {
    // The library finds the parts of a directive in the trimmed text, but cuts the untrimmed text: the target
    // would be wrong, or end within a character and panic.
    let directives: Vec<&str> = directives.split(',').map(str::trim).collect();
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(directives.join(","))?;
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(directives: &str) -> Option<LevelFilter> {
        filter(directives).unwrap().max_level_hint()
    }

    #[test]
    fn directives_choose_the_level_and_none_mean_info() {
        assert_eq!(level(""), Some(LevelFilter::INFO));
        assert_eq!(level("warn"), Some(LevelFilter::WARN));
        assert_eq!(level("weirgate::http=debug"), Some(LevelFilter::DEBUG));
    }

    /// The library finds the parts of a directive in the trimmed text, but cuts the untrimmed text.
    #[test]
    fn white_space_around_directives_does_not_count() {
        for (spaced, plain) in [
            ("info, weirgate::http=debug", "info,weirgate::http=debug"),
            (" warn ,\tweirgate::hub=trace ", "warn,weirgate::hub=trace"),
            ("info, é=debug", "info,é=debug"),
        ] {
            let [spaced, plain] = [spaced, plain].map(|text| filter(text).unwrap().to_string());
            assert_eq!(spaced, plain);
        }
    }

    #[test]
    fn what_is_no_level_is_no_filter() {
        for good in [
            "",
            "DEBUG",
            "info,weirgate::http=debug",
            "weirgate::hub, off",
            "other=trace",
        ] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["weirgate=loud", "inof", "info,debgu"] {
            assert!(!is_filter(bad), "{bad}");
        }
    }
}
