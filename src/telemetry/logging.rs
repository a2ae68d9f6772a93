//! Log set-up: lines on standard output, as text or JSON, filtered by `RUST_LOG`.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{FormatEvent, FormatFields, MakeWriter, SubscriberBuilder};
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::log_lines::{self, LogLines};
use super::terminal::TerminalLines;

/// The format of this process, once it is known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Puts another filter in force; there is one for each format.
type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The filter of this process, once there is one: what replaces it, and its directives.
static FILTER: OnceLock<(SetFilter, Mutex<String>)> = OnceLock::new();

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text, for people; short and coloured if standard output is a terminal.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Settings: the filter is no list of directives.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Us: the thread that writes could not be started.
    #[error("cannot start the log: {0}")]
    Thread(#[from] io::Error),
    /// Us: it was set up before.
    #[error("logging is set up already")]
    Again,
    /// Us: there is no log whose filter could be replaced.
    #[error("logging is not set up")]
    NotSetUp,
}

/// Sends log lines to standard output: those that `directives` let through, which are what
/// `RUST_LOG` holds everywhere (`info,weirgate::http=debug`).
///
/// Nobody who logs waits: lines go over a queue, and what does not fit is left out and told of.
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

/// Makes this the log of the process; returns what replaces its filter.
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

/// Lets other lines through from now on: those that `directives` let through.
///
/// # Errors
/// `directives` cannot be read, and the filter stays; or logging was not set up.
pub fn set_filter(directives: &str) -> Result<(), LoggingError> {
    let next = filter(directives)?;
    let (set, in_force) = FILTER.get().ok_or(LoggingError::NotSetUp)?;
    set(next).map_err(|_| LoggingError::NotSetUp)?;
    let mut in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
    directives.clone_into(&mut in_force);
    Ok(())
}

/// Returns `true` if the filter was made from exactly these directives.
pub fn is_in_force(directives: &str) -> bool {
    FILTER.get().is_some_and(|(_, in_force)| {
        let in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
        *in_force == directives
    })
}

/// A panic ends the process at once, and the lines before it say why.
fn flush_before_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log_lines::flush();
        report(panic);
    }));
}

/// Tells people something at the start. Where lines are JSON it is such lines too.
pub fn say(text: &str) {
    if FORMAT.get() != Some(&LogFormat::Json) {
        return log_lines::say(text);
    }
    for line in text.lines().map(str::trim) {
        // Not the rules above and below a block.
        if line.contains(char::is_alphanumeric) {
            tracing::info!("{line}");
        }
    }
}

/// Waits until the lines so far are written; not for long where nobody reads them.
pub fn flush() {
    log_lines::flush();
}

/// Whether [`init`] takes these directives, and they can be meant: a bare word that is no level
/// would be read as somebody's module, and switch everything off.
pub fn is_filter(directives: &str) -> bool {
    let meant = |directive: &str| {
        let is_level = directive.parse::<LevelFilter>().is_ok();
        is_level || directive.contains(['=', '[']) || directive.starts_with("weirgate")
    };
    filter(directives).is_ok() && directives.split(',').map(str::trim).all(meant)
}

fn filter(directives: &str) -> Result<EnvFilter, LoggingError> {
    // The library counts white space before a directive in one place and not in the other: the target
    // would be another one, or end within a character, which is a panic.
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

    /// The library looks for the parts of a directive behind its white space, and cuts them before.
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
