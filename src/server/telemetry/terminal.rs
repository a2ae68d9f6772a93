//! Log lines for people: on a terminal, a line is short, aligned and coloured.
//!
//! A line has the level, the time of day, the message and the fields. Fields that add nothing are left out. A pipe, a
//! file and a container without a terminal get whole lines in the format of `tracing_subscriber`.

use std::fmt::{self, Debug, Display};
use std::io::{self, IsTerminal};
use std::time::SystemTime;

use anstream::{AutoStream, ColorChoice};
use chrono::{DateTime, Local};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use weirgate_wire::base::escaped;

/// The width of the message in columns: the fields of all lines begin at the same column, unless a message is longer.
const MESSAGE_COLUMNS: usize = 24;

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";

/// Makes lines for a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct TerminalLines {
    has_colour: bool,
}

impl TerminalLines {
    /// The format for standard output; `None` if that is not a terminal. With colours, unless `NO_COLOR` is set and not
    /// empty (<https://no-color.org>), or the terminal has none.
    pub(super) fn for_stdout() -> Option<Self> {
        let stdout = io::stdout();
        let has_colour = AutoStream::choice(&stdout) != ColorChoice::Never;
        stdout.is_terminal().then_some(Self { has_colour })
    }

    /// Makes a line, without a line break. Fields that add nothing are left out ([`Fields::says_more`]).
    fn line(self, level: Level, target: &str, time: &dyn Display, fields: &Fields) -> String {
        let mut line = format!(
            "{} {}",
            self.in_colour(colour(level), &format!("{level:<5}")),
            self.in_colour(DIM, &time.to_string())
        );
        // People who read these levels want to know where in the source a line comes from.
        if level > Level::INFO {
            line += &format!(" {}", self.in_colour(DIM, target));
        }
        let width = match fields.others.is_empty() {
            true => 0,
            false => MESSAGE_COLUMNS,
        };
        let message = format!("{:<width$}", fields.message);
        line += &format!(" {}", self.in_colour(BOLD, &message));
        for (name, value) in fields.others.iter().filter(|field| fields.says_more(field)) {
            line += &format!(" {}{value}", self.in_colour(DIM, &format!("{name}=")));
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn in_colour(self, colour: &str, text: &str) -> String {
        match self.has_colour {
            true => format!("{colour}{text}{RESET}"),
            false => text.to_owned(),
        }
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

impl<S, N> FormatEvent<S, N> for TerminalLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let of_event = event.metadata();
        let time = DateTime::<Local>::from(SystemTime::now()).format("%H:%M:%S%.3f");
        let line = self.line(*of_event.level(), of_event.target(), &time, &fields);
        writeln!(writer, "{line}")
    }
}

/// The fields of an event.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    /// Names and values, as they are shown.
    others: Vec<(&'static str, String)>,
}

impl Fields {
    /// Whether a field adds anything. A count of 0 left-out lines, an empty text, and a peer with the client's address
    /// do not.
    fn says_more(&self, (name, value): &(&str, String)) -> bool {
        match *name {
            "lines_left_out" => value != "0",
            "peer" => {
                let address = value.rsplit_once(':').map_or(value.as_str(), |(ip, _)| ip);
                let client = ("client", address.trim_matches(['[', ']']).to_owned());
                !self.others.contains(&client)
            }
            _ => value != "\"\"",
        }
    }

    fn add(&mut self, field: &Field, shown: String) {
        match field.name() {
            "message" => self.message = shown,
            name => self.others.push((name, shown)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '=');
        let is_word = !value.is_empty() && value.chars().all(is_plain);
        let shown = escaped(value, &[]);
        let shown = match is_word || field.name() == "message" {
            true => shown.into_owned(),
            false => format!("\"{shown}\""),
        };
        self.add(field, shown);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let shown = format!("{value:?}");
        self.add(field, escaped(&shown, &[]).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Returns the lines that `log` writes in a terminal.
    fn lines(has_colour: bool, log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Written(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Written {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend(line);
                Ok(line.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .event_format(TerminalLines { has_colour })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// Removes the time of day, after a check of its form.
    fn timeless(line: &str) -> String {
        let (level, rest) = line.split_at(6);
        let (time, rest) = rest.split_at(12);
        let form = time.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(form, "00:00:00.000", "{line}");
        format!("{level}{rest}")
    }

    #[test]
    fn fields_are_below_each_other_and_short() {
        let text = lines(false, || {
            tracing::info!(client = %"10.0.0.1", peer = %"10.0.0.1:7", path = "", lines_left_out = 0, "ended");
            tracing::warn!(client = %"10.0.0.1", peer = %"10.0.0.2:7", user = "a b", "ended");
            tracing::error!(
                lines_left_out = 3,
                "a message that needs more columns than others"
            );
            tracing::info!("alone");
            tracing::debug!(excerpt = r#"{"a":1}"#, "bad");
        });
        let timeless: Vec<_> = text.lines().map(timeless).collect();
        assert_eq!(
            timeless,
            [
                "INFO   ended                    client=10.0.0.1",
                "WARN   ended                    client=10.0.0.1 peer=10.0.0.2:7 user=\"a b\"",
                "ERROR  a message that needs more columns than others lines_left_out=3",
                "INFO   alone",
                "DEBUG  weirgate_server::telemetry::terminal::tests bad                      excerpt=\"{\"a\":1}\"",
            ]
        );
    }

    #[test]
    fn colours_are_ended_on_their_line_and_only_where_they_are_wanted() {
        let log = || tracing::warn!(client = 1, "ended");
        let plain = lines(false, log);
        assert!(!plain.contains('\x1b'), "{plain:?}");
        let coloured = lines(true, log);
        assert!(
            coloured.starts_with("\x1b[33mWARN \x1b[0m "),
            "{coloured:?}"
        );
        let begun = coloured.matches("\x1b[").count();
        assert_eq!(begun, 2 * coloured.matches(RESET).count(), "{coloured:?}");
        let stripped = anstream::adapter::strip_str(&coloured).to_string();
        assert_eq!(timeless(&stripped), timeless(&plain));
    }

    #[test]
    fn nothing_of_a_client_steers_the_terminal() {
        let text = lines(true, || {
            let path = "/\x1b]0;title\x07\n\u{9b}31m\u{202e}é";
            tracing::info!(path, client = %path, "{path}");
        });
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        let own = text.replace(RESET, "").replace(BOLD, "").replace(DIM, "");
        let own = own.replace("\x1b[32m", "");
        let is_plain = |c: char| matches!(c, ' '..='~' | '\n' | 'é');
        assert!(own.chars().all(is_plain), "{own:?}");
        assert!(
            own.contains(r#"path="/\u001b]0;title\u0007\u000a\u009b31m\u202eé""#),
            "{own:?}"
        );
    }
}
