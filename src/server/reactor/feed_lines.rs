//! The log lines of the feed.

use tracing::warn;
use weirgate_core::{Feed, FeedLine};

/// The target by which operators filter the lines of feeds in `RUST_LOG`.
const FEED_TARGET: &str = "weirgate::gateways::feed";

/// Logs the lines of the feed since its last event.
pub(super) fn log_lines(feed: &mut impl Feed) {
    while let Some(line) = feed.next_line() {
        log_line(line);
    }
}

fn log_line(line: FeedLine) {
    match line {
        FeedLine::BadMessage {
            subject,
            id,
            why,
            excerpt,
        } => warn!(target: FEED_TARGET, subject, id, %why, excerpt, "bad message skipped"),
        FeedLine::LeftOut(suppressed) => warn!(
            target: FEED_TARGET,
            suppressed, "more bad messages were skipped than logged"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_lines_of_a_feed_have_its_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            log_line(FeedLine::BadMessage {
                subject: "levels.signals".to_owned(),
                id: Some("7".to_owned()),
                why: "not an object".to_owned(),
                excerpt: Some("[1]".to_owned()),
            });
            log_line(FeedLine::BadMessage {
                subject: String::new(),
                id: None,
                why: "no field data".to_owned(),
                excerpt: None,
            });
            log_line(FeedLine::LeftOut(95));
        });
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
        assert_eq!(
            text,
            " WARN weirgate::gateways::feed: bad message skipped subject=\"levels.signals\" \
             id=\"7\" why=not an object excerpt=\"[1]\"\n \
             WARN weirgate::gateways::feed: bad message skipped subject=\"\" why=no field data\n \
             WARN weirgate::gateways::feed: more bad messages were skipped than logged \
             suppressed=95\n"
        );
    }
}
