//! The log: lines on standard output, as text or JSON, filtered by `RUST_LOG`.
//!
//! Lines pass through a bounded queue to a thread of the log. So no thread that logs waits for the reader of standard
//! output, and an unread pipe does not block the event loop. The queue of `tracing-appender` has no limit in bytes, and is
//! flushed only by dropping its guard, which a panic and [`say`] could not do.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{FormatEvent, FormatFields, MakeWriter, SubscriberBuilder};
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::terminal::TerminalLines;
use weirgate_bus::runtime::detached;
use weirgate_wire::base::escaped_bytes;

/// The format of this process, once known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// A function that replaces the filter. Its type does not depend on the formatter.
type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The filter of this process, once set up: the function that replaces it, and its directives.
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
/// (`info,weirgate_server::http=debug`).
///
/// No thread that logs waits. Lines wait in a queue; while it is full, further lines are left out, and their number is
/// logged later. `process` is in each line, if several processes write into one log.
///
/// # Errors
/// `directives` cannot be read, the system refuses a thread, or logging was set up before.
pub fn init(format: LogFormat, directives: &str, process: Option<u32>) -> Result<(), LoggingError> {
    let filter = filter(directives)?;
    let terminal = TerminalLines::for_stdout().filter(|_| format == LogFormat::Text);
    let mut lines = LogLines::start()?;
    lines.is_styled = terminal.is_some();
    lines.label = process
        .map(|number| Label::new(number, format))
        .unwrap_or_default();
    let formatter = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || lines.clone());
    let set_filter = match (format, terminal) {
        (LogFormat::Json, _) => put_in_force(formatter.json().flatten_event(true)),
        (LogFormat::Text, None) => put_in_force(formatter),
        (LogFormat::Text, Some(terminal)) => put_in_force(formatter.event_format(terminal)),
    }?;
    FORMAT.get_or_init(|| format);
    FILTER.get_or_init(|| (set_filter, Mutex::new(directives.to_owned())));
    flush_before_panics();
    Ok(())
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
    let (set, in_force) = FILTER.get().ok_or(LoggingError::NotSetUp)?;
    set(next).map_err(|_| LoggingError::NotSetUp)?;
    let mut in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
    directives.clone_into(&mut in_force);
    Ok(())
}

/// Returns true if the filter was made from exactly these directives.
pub(crate) fn is_in_force(directives: &str) -> bool {
    FILTER.get().is_some_and(|(_, in_force)| {
        let in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
        *in_force == directives
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
    match (FORMAT.get(), QUEUE.get()) {
        (Some(LogFormat::Json), _) => as_json(),
        (_, Some(lines)) => {
            lines.put(text.as_bytes());
            flush();
        }
        (_, None) => {
            let _ = io::stdout().write_all(text.as_bytes());
        }
    }
}

/// Waits until the lines so far are written, but not for long (0.6 s) if standard output is not read.
pub fn flush() {
    let Some(lines) = QUEUE.get() else {
        return;
    };
    let (done, written) = bounded(0);
    let flush = Job::Flush(done);
    if lines.jobs.send_timeout(flush, FLUSH_TIMEOUT).is_ok() {
        let _ = written.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// Whether [`init`] accepts these directives and they make sense. The library accepts more, and would then log nothing:
/// a word other than a level is the name of a foreign module, also in `info=`, and weirgate has no spans for
/// `[SPAN]`.
pub(crate) fn is_filter(directives: &str) -> bool {
    let meant = |directive: &str| {
        let is_level = directive.parse::<LevelFilter>().is_ok();
        let is_foreign = !directive.contains(['=', '[']) && !directive.starts_with("weirgate");
        let span_or_fields = directive.split_once('[').map(|(_, after)| after);
        let has_span = span_or_fields.is_some_and(|after| !after.starts_with('{'));
        is_level || !is_foreign && !has_span && !directive.ends_with('=')
    };
    filter(directives).is_ok() && directives.split(',').map(str::trim).all(meant)
}

fn filter(directives: &str) -> Result<EnvFilter, LoggingError> {
    // The library looks for the parts of a directive in its trimmed text, but then slices the untrimmed text: the
    // target would be wrong, or the slice would end within a character and panic.
    let directives: Vec<&str> = directives.split(',').map(str::trim).collect();
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(directives.join(","))?;
    Ok(filter)
}

/// The most lines that may wait for standard output, and their most bytes. Further lines are left out and counted, and
/// their number is logged.
const WAITING_LINES_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest time for each of the two waits of [`flush`].
const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

/// The queue of this process, once started.
static QUEUE: OnceLock<LogLines> = OnceLock::new();

enum Job {
    Line(Vec<u8>),
    /// The sender is dropped once all lines before are written.
    Flush(Sender<()>),
}

/// Accepts lines without waiting.
#[derive(Clone)]
struct LogLines {
    jobs: Sender<Job>,
    /// Bytes of the lines that wait.
    waiting: Arc<AtomicUsize>,
    left_out: Arc<AtomicU64>,
    /// Whether the formatter styles the lines for a terminal, and escapes all texts of clients and servers. The
    /// formatters of JSON and of plain text do not escape all characters that control a terminal or break a line.
    is_styled: bool,
    label: Label,
}

/// What each line of one of several processes has at its begin and before its end.
#[derive(Clone, Debug, Default)]
struct Label {
    begin: String,
    end: String,
}

impl Label {
    fn new(process: u32, format: LogFormat) -> Self {
        match format {
            LogFormat::Json => Self {
                begin: format!("{{\"process\":{process},"),
                end: String::new(),
            },
            LogFormat::Text => Self {
                begin: String::new(),
                end: format!(" process={process}"),
            },
        }
    }

    /// The line, which ends without a line break, with the label and the line break.
    fn on(&self, line: &str) -> String {
        let Self { begin, end } = self;
        let rest = match begin.is_empty() {
            true => line,
            false => line.strip_prefix('{').unwrap_or(line),
        };
        format!("{begin}{rest}{end}\n")
    }
}

impl LogLines {
    /// Returns the queue of this process. The first call starts its thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    fn start() -> io::Result<Self> {
        if let Some(lines) = QUEUE.get() {
            return Ok(lines.clone());
        }
        let (lines, queue) = Self::new();
        let (waiting, left_out) = (Arc::clone(&lines.waiting), Arc::clone(&lines.left_out));
        detached("log", move || {
            let mut reported = 0;
            // Ends with the process.
            for job in queue {
                if let Job::Line(line) = &job {
                    waiting.fetch_sub(line.len(), Ordering::Relaxed);
                }
                write_out(job, &left_out, &mut reported, &mut io::stdout());
            }
        })?;
        Ok(QUEUE.get_or_init(|| lines).clone())
    }

    fn new() -> (Self, Receiver<Job>) {
        let (jobs, queue) = bounded(WAITING_LINES_MAX);
        let lines = Self {
            jobs,
            waiting: Arc::default(),
            left_out: Arc::default(),
            is_styled: false,
            label: Label::default(),
        };
        (lines, queue)
    }

    fn put(&self, line: &[u8]) {
        let bytes = line.len();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let is_full = before > 0 && before + bytes > WAITING_BYTES_MAX;
        if is_full || self.jobs.try_send(Job::Line(line.to_vec())).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes a line. A closed standard output is not an error. `reported` is the number of left-out lines that were logged
/// already.
fn write_out(job: Job, left_out: &AtomicU64, reported: &mut u64, out: &mut dyn Write) {
    match job {
        Job::Line(line) => {
            let _ = out.write_all(&line);
        }
        Job::Flush(done) => drop(done),
    }
    let all = left_out.load(Ordering::Relaxed);
    let lines = all - *reported;
    if lines > 0 {
        *reported = all;
        tracing::warn!(
            lines,
            "log lines were left out: standard output was not read"
        );
    }
}

/// Takes a log line. The formatter writes each line in a single call.
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = match self.is_styled {
            true => String::from_utf8_lossy(text).into_owned(),
            false => escaped_bytes(text, &[]),
        };
        self.put(self.label.on(&text).as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the number of lines left out so far.
pub(super) fn left_out() -> u64 {
    let lines = QUEUE.get();
    lines.map_or(0, |lines| lines.left_out.load(Ordering::Relaxed))
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
    #[test]
    fn what_does_not_fit_is_left_out_and_told_of() {
        let (mut lines, queue) = LogLines::new();
        let left_out = Arc::clone(&lines.left_out);
        for _ in 0..WAITING_LINES_MAX + 7 {
            lines.write_all(b"a line\n").unwrap();
        }
        assert_eq!(left_out.load(Ordering::Relaxed), 7);
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || lines.clone())
            .finish();
        let (mut reported, mut out) = (0, Vec::new());
        tracing::subscriber::with_default(subscriber, || {
            for job in queue.try_iter() {
                write_out(job, &left_out, &mut reported, &mut out);
            }
        });
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.matches("a line\n").count(), WAITING_LINES_MAX);
        assert!(out.contains(r#""lines":7"#), "told once there is room");
        assert_eq!(reported, 7);
    }

    #[test]
    fn long_lines_have_a_limit_of_bytes_too() {
        let (mut lines, queue) = LogLines::new();
        for _ in 0..3 {
            let long = vec![b'x'; WAITING_BYTES_MAX / 2 - 1];
            lines.write_all(&[&long[..], b"\n"].concat()).unwrap();
        }
        assert_eq!(
            (queue.len(), lines.left_out.load(Ordering::Relaxed)),
            (2, 1)
        );
    }

    /// A line may contain text of a client, which must not control a terminal or break a line.
    #[test]
    fn a_json_line_holds_no_character_that_steers() {
        let (lines, queue) = LogLines::new();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || lines.clone())
            .finish();
        let path = "/\u{9b}31m\u{7f}\u{85}\u{202e}\u{2028}\u{2029}\u{200b}\u{feff}\u{e0041}\u{61c}é\u{1f600}\"\n";
        tracing::subscriber::with_default(subscriber, || tracing::info!(path, "ended"));
        let Ok(Job::Line(line)) = queue.try_recv() else {
            panic!("one line");
        };
        let line = String::from_utf8(line).unwrap();
        let plain = |c: char| matches!(c, ' '..='~' | '\n' | 'é' | '\u{1f600}');
        assert!(line.chars().all(plain), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(
            line.contains(r"/\u009b31m\u007f\u0085\u202e\u2028"),
            "{line}"
        );
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["fields"]["path"], path, "it reads as what it was");
    }

    #[test]
    fn a_line_of_text_is_one_line_and_steers_nothing() {
        let (lines, queue) = LogLines::new();
        let subscriber = tracing_subscriber::fmt().with_writer(move || lines.clone());
        let subscriber = subscriber.with_ansi(false).finish();
        let path = "/\u{9b}31m\u{202e}\n2026 ERROR weirgate: forged";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(%path, other = path, "{path}");
        });
        let Ok(Job::Line(line)) = queue.try_recv() else {
            panic!("one line");
        };
        let line = String::from_utf8(line).unwrap();
        let (text, end) = line.split_at(line.len() - 1);
        assert!(end == "\n" && !text.contains(|c: char| !matches!(c, ' '..='~')));
        assert!(text.contains(r"path=/\u009b31m\u202e\u000a2026"), "{text}");
    }
}
