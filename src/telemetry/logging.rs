//! Log set-up: lines on standard output, as text or JSON, filtered by `RUST_LOG`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text, for people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Settings: `RUST_LOG` is no list of directives.
    #[error("RUST_LOG: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Us: it was set up before.
    #[error("logging is set up already")]
    Again,
}

/// Sends log lines to standard output. `RUST_LOG` (directives like `info,weirgate::http=debug`)
/// says which; without it, `info` and worse.
///
/// # Errors
/// `RUST_LOG` cannot be read as directives, or logging was set up before.
pub fn init(format: LogFormat) -> Result<(), LoggingError> {
    let directives = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = filter(&directives)?;
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stdout)
        .with_env_filter(filter);
    match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LoggingError::Again)
}

fn filter(directives: &str) -> Result<EnvFilter, LoggingError> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(directives)?;
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

    #[test]
    fn a_wrong_filter_is_told_with_its_name() {
        let error = filter("weirgate=loud").unwrap_err();
        assert!(error.to_string().starts_with("RUST_LOG: "), "{error}");
    }
}
