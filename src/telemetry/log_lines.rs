//! Log lines to standard output, over a bounded queue and a thread of its own, so that no logging thread
//! waits for the reader. Otherwise an unread pipe would block the event loop.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for standard output; further lines are left out, counted, and reported.
const WAITING_LINES_MAX: usize = 4096;
/// Longest wait for these lines at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

/// The queue of this process, once started.
static QUEUE: OnceLock<LogLines> = OnceLock::new();

enum Job {
    Line(Vec<u8>),
    /// Dropped when all lines before are written.
    Flush(Sender<()>),
}

/// Accepts lines without waiting.
#[derive(Clone)]
pub(super) struct LogLines {
    jobs: Sender<Job>,
    left_out: Arc<AtomicU64>,
}

impl LogLines {
    /// Returns the queue of this process; the first call starts its thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start() -> io::Result<Self> {
        if let Some(lines) = QUEUE.get() {
            return Ok(lines.clone());
        }
        let (lines, queue) = Self::new();
        let left_out = Arc::clone(&lines.left_out);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                let mut told = 0;
                // Ends with the process.
                for job in queue {
                    write_out(job, &left_out, &mut told, &mut io::stdout());
                }
            })?;
        Ok(QUEUE.get_or_init(|| lines).clone())
    }

    fn new() -> (Self, Receiver<Job>) {
        let (jobs, queue) = bounded(WAITING_LINES_MAX);
        let left_out = Arc::default();
        (Self { jobs, left_out }, queue)
    }

    /// Returns the same queue, for lines of JSON.
    pub(super) fn json(self) -> JsonLines {
        JsonLines(self)
    }

    fn put(&self, line: &[u8]) {
        if self.jobs.try_send(Job::Line(line.to_vec())).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes a line. A closed standard output is no failure. `told`: the number of left-out lines already
/// reported.
fn write_out(job: Job, left_out: &AtomicU64, told: &mut u64, out: &mut dyn Write) {
    match job {
        Job::Line(line) => {
            let _ = out.write_all(&line);
        }
        Job::Flush(done) => drop(done),
    }
    let all = left_out.load(Ordering::Relaxed);
    let lines = all - *told;
    if lines > 0 {
        *told = all;
        tracing::warn!(
            lines,
            "log lines were left out: standard output was not read"
        );
    }
}

/// Writes a text that is not a log line to standard output, in order with the lines. Returns when the text is
/// written, if standard output is read.
pub(super) fn say(text: &str) {
    let text = format!("{text}\n");
    match QUEUE.get() {
        Some(lines) => {
            lines.put(text.as_bytes());
            flush();
        }
        None => {
            let _ = io::stdout().write_all(text.as_bytes());
        }
    }
}

/// Returns the number of lines left out so far.
pub(super) fn left_out() -> u64 {
    let lines = QUEUE.get();
    lines.map_or(0, |lines| lines.left_out.load(Ordering::Relaxed))
}

/// Waits until the lines so far are written, but only a moment if standard output is not read.
pub(super) fn flush() {
    let Some(lines) = QUEUE.get() else {
        return;
    };
    let (done, written) = bounded(0);
    if lines
        .jobs
        .send_timeout(Job::Flush(done), FLUSH_TIMEOUT)
        .is_ok()
    {
        let _ = written.recv_timeout(FLUSH_TIMEOUT);
    }
}

impl MakeWriter<'_> for LogLines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The formatter writes each line in a single call.
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Accepts lines of JSON and escapes characters that control a terminal or end a line somewhere. The
/// formatter escapes only U+0000 to U+001F, as JSON requires.
#[derive(Clone)]
pub(super) struct JsonLines(LogLines);

impl MakeWriter<'_> for JsonLines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The formatter writes each line in a single call.
impl Write for JsonLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(&escaped(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes such characters as UTF-16 units (RFC 8259 §7): in JSON they occur only within strings. Most lines
/// have none and stay unchanged.
fn escaped(line: &[u8]) -> Cow<'_, [u8]> {
    let text = match str::from_utf8(line) {
        Ok(text) if text.contains(steers) => text,
        _ => return Cow::Borrowed(line),
    };
    let mut out = String::with_capacity(2 * text.len());
    for c in text.chars() {
        if steers(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a `String` cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out.into_bytes())
}

/// Whether a character may control the display: DEL and the C1 controls, the separators of lines and
/// paragraphs, and invisible characters that change the display of the text around (Unicode's Bidi_Control,
/// zero width, tags).
pub(super) fn steers(c: char) -> bool {
    matches!(
        c,
        '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out_and_told_of() {
        let (mut lines, queue) = LogLines::new();
        let left_out = Arc::clone(&lines.left_out);
        for _ in 0..WAITING_LINES_MAX + 7 {
            lines.write_all(b"a line\n").unwrap();
        }
        assert_eq!(left_out.load(Ordering::Relaxed), 7);
        let subscriber = tracing_subscriber::fmt().json().with_writer(lines).finish();
        let (mut told, mut out) = (0, Vec::new());
        tracing::subscriber::with_default(subscriber, || {
            for job in queue.try_iter() {
                write_out(job, &left_out, &mut told, &mut out);
            }
        });
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.matches("a line\n").count(), WAITING_LINES_MAX);
        assert!(out.contains(r#""lines":7"#), "told once there is room");
        assert_eq!(told, 7);
    }

    /// A line may contain text of a client, which must not control a terminal or break a line.
    #[test]
    fn a_json_line_holds_no_character_that_steers() {
        let (lines, queue) = LogLines::new();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(lines.json())
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
}
