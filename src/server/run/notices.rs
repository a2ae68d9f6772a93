//! The warnings and errors that a piece of work logs, as findings of a check.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use weirgate_wire::base::Finding;

/// The log lines so far.
#[derive(Clone, Default)]
struct Notices(Arc<Mutex<Vec<Finding>>>);

/// Runs `work`, and returns the lines that it logs at the levels WARN and ERROR, in order. Only lines of this thread
/// count.
pub(super) fn with_notices<T>(work: impl FnOnce() -> T) -> (T, Vec<Finding>) {
    let notices = Notices::default();
    let subscriber = tracing_subscriber::registry().with(notices.clone());
    let done = tracing::subscriber::with_default(subscriber, work);
    let mut found = notices.0.lock().unwrap_or_else(PoisonError::into_inner);
    (done, std::mem::take(&mut found))
}

impl<S: Subscriber> Layer<S> for Notices {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let finding = match *event.metadata().level() {
            Level::ERROR => Finding::Error,
            Level::WARN => Finding::Warning,
            _ => return,
        };
        let mut line = NoticeLine::default();
        event.record(&mut line);
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.push(finding(line.text()));
    }
}

/// The parts of one line.
#[derive(Default)]
struct NoticeLine {
    message: String,
    fields: String,
}

impl NoticeLine {
    fn text(self) -> String {
        match self.fields.is_empty() {
            true => self.message,
            false => format!("{} ({})", self.message, self.fields),
        }
    }

    /// Adds a field of the event, as `name=value`. The message is kept separate.
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => {
                let comma = if self.fields.is_empty() { "" } else { ", " };
                write!(self.fields, "{comma}{name}={value}")
            }
        };
    }
}

impl Visit for NoticeLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_errors_are_kept_with_their_fields_and_the_rest_is_not() {
        let (done, found) = with_notices(|| {
            tracing::info!("connections at once");
            tracing::warn!(role = "guest", limit = 3, "odd");
            tracing::error!("wrong");
            7
        });
        assert_eq!(done, 7);
        let want = [
            Finding::Warning("odd (role=guest, limit=3)".to_owned()),
            Finding::Error("wrong".to_owned()),
        ];
        assert_eq!(found, want);
    }
}
