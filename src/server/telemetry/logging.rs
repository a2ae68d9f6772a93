//! Sets up the log: lines on standard output, as text or JSON, filtered by `RUST_LOG`. A thread of the log writes the
//! lines (`log_queue`).

use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{FormatEvent, FormatFields, MakeWriter, SubscriberBuilder};
use tracing_subscriber::{EnvFilter, Registry, reload};

pub(crate) use super::log_queue::flush;
use super::log_queue::{self, Label, LogLines};
use super::terminal::TerminalLines;

/// The format of this process, once known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// A function that replaces the filter. Its type does not depend on the formatter.
type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The filter of this process, once set up.
static FILTER: OnceLock<Filter> = OnceLock::new();

/// A filter that can be replaced.
struct Filter {
    replace: SetFilter,
    /// The directives of the filter in force.
    directives: Mutex<String>,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
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

impl LogFormat {
    /// Sends log lines to standard output, filtered by `directives` in the syntax of `RUST_LOG`
    /// (`info,weirgate_server::http=debug`).
    ///
    /// No thread that logs waits. Lines wait in a queue; while it is full, further lines are left out, and their number is
    /// logged later. `process` is in each line, if several processes write into one log.
    ///
    /// # Errors
    /// `directives` cannot be read, the system refuses a thread, or logging was set up before.
    pub(crate) fn start_log(
        self,
        directives: &str,
        process: Option<u32>,
    ) -> Result<(), LoggingError> {
        let filter = filter(directives)?;
        let terminal = TerminalLines::for_stdout().filter(|_| self == Self::Text);
        let mut lines = LogLines::start()?;
        lines.is_styled = terminal.is_some();
        lines.label = process
            .map(|number| Label::new(number, self))
            .unwrap_or_default();
        let formatter = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(move || lines.clone());
        let set_filter = match (self, terminal) {
            (Self::Json, _) => put_in_force(formatter.json().flatten_event(true)),
            (Self::Text, None) => put_in_force(formatter),
            (Self::Text, Some(terminal)) => put_in_force(formatter.event_format(terminal)),
        }?;
        FORMAT.get_or_init(|| self);
        FILTER.get_or_init(|| Filter {
            replace: set_filter,
            directives: Mutex::new(directives.to_owned()),
        });
        flush_before_panics();
        Ok(())
    }
}

/// Installs the log of the process. Returns the function that replaces its filter.
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
/// `directives` cannot be read, or logging was not set up. The filter then stays as it was.
pub(crate) fn set_filter(directives: &str) -> Result<(), LoggingError> {
    let next = filter(directives)?;
    let in_force = FILTER.get().ok_or(LoggingError::NotSetUp)?;
    (in_force.replace)(next).map_err(|_| LoggingError::NotSetUp)?;
    let mut in_force = in_force
        .directives
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    directives.clone_into(&mut in_force);
    Ok(())
}

/// Returns true if the filter was made from exactly these directives.
pub(crate) fn is_in_force(directives: &str) -> bool {
    FILTER.get().is_some_and(|filter| {
        let in_force = filter.directives.lock();
        *in_force.unwrap_or_else(PoisonError::into_inner) == directives
    })
}

/// Writes the waiting lines before a panic ends the process, because they may show the reason.
fn flush_before_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush();
        report(panic);
    }));
}

/// Writes a text for people, in order with the log lines, and waits until it is written, but only a moment if standard
/// output is not read. If the format is JSON, calls `as_json` instead, which logs the same facts as one line with
/// fields.
pub fn say(text: &str, as_json: impl FnOnce()) {
    let text = format!("{text}\n");
    if FORMAT.get() == Some(&LogFormat::Json) {
        as_json();
    } else if log_queue::put(text.as_bytes()) {
        flush();
    } else {
        // There is no log that could take the error.
        let _ = io::stdout().write_all(text.as_bytes());
    }
}

/// Whether [`LogFormat::start_log`] accepts these directives and they make sense. The library accepts more, and would then
/// log nothing: a word other than a level is the name of a foreign module, also in `info=`, and weirgate has no spans for
/// `[SPAN]`.
pub(crate) fn is_filter(directives: &str) -> bool {
    let makes_sense = |directive: &str| {
        let is_level = directive.parse::<LevelFilter>().is_ok();
        let is_foreign = !directive.contains(['=', '[']) && !directive.starts_with("weirgate");
        let span_or_fields = directive.split_once('[').map(|(_, after)| after);
        let has_span = span_or_fields.is_some_and(|after| !after.starts_with('{'));
        is_level || !is_foreign && !has_span && !directive.ends_with('=')
    };
    filter(directives).is_ok() && directives.split(',').map(str::trim).all(makes_sense)
}

/// Parses directives. The level without directives is INFO.
fn filter(directives: &str) -> Result<EnvFilter, LoggingError> {
    // The library looks for the parts of a directive in its trimmed text, but then slices the untrimmed text: the
    // target would be wrong, or the slice would end within a character and panic.
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
        assert_eq!(
            level("weirgate_server::http=debug"),
            Some(LevelFilter::DEBUG)
        );
    }

    /// The library looks for the parts of a directive in its trimmed text, but then slices the untrimmed text.
    #[test]
    fn white_space_around_directives_does_not_count() {
        for (spaced, plain) in [
            (
                "info, weirgate_server::http=debug",
                "info,weirgate_server::http=debug",
            ),
            (" warn ,\tweirgate_core=trace ", "warn,weirgate_core=trace"),
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
            "info,weirgate_server::http=debug",
            "weirgate_core, off",
            "other=trace",
            "warn,[{address}]=debug",
        ] {
            assert!(is_filter(good), "{good}");
        }
        for bad in [
            "weirgate=loud",
            "inof",
            "info,debgu",
            "info=",
            "warn,weirgate_server::http= ",
            "[]",
            "info,weirgate[turn]=debug",
        ] {
            assert!(!is_filter(bad), "{bad}");
        }
    }
}
