//! The lines of the log on their way to standard output.
//!
//! Lines pass through a bounded queue to a thread. So no thread that logs waits for the reader of standard output, and an
//! unread pipe does not block the event loop. The queue of `tracing-appender` has no limit in bytes, and is flushed only
//! by dropping its guard, which a panic and [`super::logging::say`] could not do.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::logging::LogFormat;
use weirgate_runtime::detached;
use weirgate_wire::base::escaped_bytes;

/// The most lines that may wait for standard output, and their most bytes. Further lines are left out and counted, as are
/// lines that cannot be written; their number is logged once half of the queue is free and a line was written.
const WAITING_LINES_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest time for each of the two waits of [`flush`].
const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

/// The queue of this process, once started.
static QUEUE: OnceLock<LogLines> = OnceLock::new();

/// A message to the thread of the log.
enum LogJob {
    Line(Vec<u8>),
    /// The sender is dropped once all lines before are written.
    Flush(Sender<()>),
}

/// Accepts lines without waiting.
#[derive(Clone)]
pub(super) struct LogLines {
    jobs: Sender<LogJob>,
    /// Bytes of the lines that wait.
    waiting: Arc<AtomicUsize>,
    /// How many lines were left out.
    left_out: Arc<AtomicU64>,
    /// Whether the formatter styles the lines for a terminal, and escapes all texts of clients and servers. The
    /// formatters of JSON and of plain text do not escape all characters that control a terminal or break a line.
    pub(super) is_styled: bool,
    pub(super) label: Label,
}

/// What each line of one of several processes has at its beginning and before its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Label {
    begin: String,
    end: String,
}

impl Label {
    /// In JSON, the number of the process is the first member of a line; in text, it is the last field.
    pub(super) fn new(process: u32, format: LogFormat) -> Self {
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
    pub(super) fn start() -> io::Result<Self> {
        if let Some(lines) = QUEUE.get() {
            return Ok(lines.clone());
        }
        let (lines, mut queue) = Self::new();
        detached("log", move || {
            // Ends with the process.
            while let Ok(job) = queue.jobs.recv() {
                queue.carry_out(job, &mut StandardOutput);
            }
        })?;
        Ok(QUEUE.get_or_init(|| lines).clone())
    }

    /// An empty queue, and its end for the thread of the log.
    fn new() -> (Self, WaitingLines) {
        let (sender, jobs) = bounded(WAITING_LINES_MAX);
        let queue = WaitingLines {
            jobs,
            bytes: Arc::default(),
            left_out: Arc::default(),
            reported: 0,
            torn: Vec::new(),
        };
        let lines = Self {
            jobs: sender,
            waiting: Arc::clone(&queue.bytes),
            left_out: Arc::clone(&queue.left_out),
            is_styled: false,
            label: Label::default(),
        };
        (lines, queue)
    }

    /// Appends a line, or counts it as left out if there is no room.
    fn put(&self, line: &[u8]) {
        let bytes = line.len();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        // A line of any size fits into an empty queue.
        let is_full = before > 0 && before + bytes > WAITING_BYTES_MAX;
        if is_full || self.jobs.try_send(LogJob::Line(line.to_vec())).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The end of the queue at the thread of the log.
struct WaitingLines {
    jobs: Receiver<LogJob>,
    /// Bytes of the lines that wait.
    bytes: Arc<AtomicUsize>,
    /// How many lines were left out.
    left_out: Arc<AtomicU64>,
    /// How many of them were logged as left out.
    reported: u64,
    /// The rest of a line of which the system took only the beginning; it is written before the next line.
    torn: Vec<u8>,
}

impl WaitingLines {
    /// Writes a line, or ends the wait of a flush. Then logs how many more lines were left out since the last such log
    /// line, unless lines cannot be written now: then that log line could not be written either.
    fn carry_out(&mut self, job: LogJob, out: &mut dyn Write) {
        match job {
            LogJob::Line(line) => {
                self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                if !self.write_line(&line, out) {
                    self.left_out.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            LogJob::Flush(done) => drop(done),
        }
        let all = self.left_out.load(Ordering::Relaxed);
        let lines = all - self.reported;
        if lines > 0 && self.torn.is_empty() && self.has_room() {
            self.reported = all;
            tracing::warn!(
                lines,
                "log lines were left out: standard output was not read, or could not be written"
            );
        }
    }

    /// Writes a line, after the rest of a torn one. Returns false if nothing of the line was written.
    fn write_line(&mut self, line: &[u8], out: &mut dyn Write) -> bool {
        let torn = std::mem::take(&mut self.torn);
        let still_torn = write_part(&torn, out);
        if !still_torn.is_empty() {
            self.torn = still_torn.to_vec();
            return false;
        }
        let rest = write_part(line, out);
        if rest.len() == line.len() {
            return false;
        }
        self.torn = rest.to_vec();
        true
    }

    /// Whether half of the queue is free. The log line about left-out lines goes through the queue too. In a queue that is
    /// nearly full, other threads could take the last room, and the number in the line would be lost.
    fn has_room(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.jobs.len() < WAITING_LINES_MAX / 2 && bytes < WAITING_BYTES_MAX / 2
    }
}

/// Writes until the system takes no more. Returns the rest.
fn write_part<'a>(mut bytes: &'a [u8], out: &mut dyn Write) -> &'a [u8] {
    while !bytes.is_empty()
        && let Ok(written @ 1..) = out.write(bytes)
    {
        bytes = &bytes[written..];
    }
    bytes
}

/// Standard output without a buffer, which could keep a part of a line. It waits for a reader even if another program has
/// made the pipe non-blocking.
struct StandardOutput;

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdout = io::stdout();
        loop {
            match rustix::io::write(&stdout, bytes) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // The next write reports what is wrong.
                    let _ = poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None);
                }
                // Standard output is closed: nobody wants the lines.
                Err(Errno::PIPE | Errno::BADF) => return Ok(bytes.len()),
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

/// Appends a line to the queue of this process. Returns false if there is no queue yet.
pub(super) fn put(line: &[u8]) -> bool {
    let lines = QUEUE.get();
    lines.map(|lines| lines.put(line)).is_some()
}

/// Waits until the lines so far are written, but not for long (0.6 s) if standard output is not read.
pub(crate) fn flush() {
    let Some(lines) = QUEUE.get() else {
        return;
    };
    // Nothing is ever sent: the wait ends when the thread of the log drops `done`, or with the timeout.
    let (done, written) = bounded(0);
    let flush = LogJob::Flush(done);
    if lines.jobs.send_timeout(flush, FLUSH_TIMEOUT).is_ok() {
        let _ = written.recv_timeout(FLUSH_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries out all jobs that wait, with `lines` as the log of this thread. Returns what was written.
    fn written(queue: &mut WaitingLines, lines: &LogLines) -> String {
        let lines = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || lines.clone())
            .finish();
        let mut out = Vec::new();
        tracing::subscriber::with_default(subscriber, || {
            while let Ok(job) = queue.jobs.try_recv() {
                queue.carry_out(job, &mut out);
            }
        });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_reported() {
        let (mut lines, mut queue) = LogLines::new();
        for _ in 0..WAITING_LINES_MAX + 7 {
            lines.write_all(b"a line\n").unwrap();
        }
        assert_eq!(queue.left_out.load(Ordering::Relaxed), 7);
        let out = written(&mut queue, &lines);
        assert_eq!(out.matches("a line\n").count(), WAITING_LINES_MAX);
        assert!(out.contains(r#""lines":7"#), "reported once there is room");
        assert_eq!(queue.reported, 7);
    }

    /// Standard output, for which so much time passes that other threads fill the queue again.
    struct SlowOut(LogLines);

    impl Write for SlowOut {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.put(b"a line of another thread\n");
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A file system with room for so many bytes.
    struct Disk {
        room: usize,
        text: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let taken = line.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.text.extend_from_slice(&line[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted_and_reported_and_tear_no_other() {
        let (lines, mut queue) = LogLines::new();
        let mut disk = Disk {
            room: 7,
            text: Vec::new(),
        };
        (0..4).for_each(|_| lines.put(b"a line\n"));
        let subscriber_lines = lines.clone();
        let subscriber = tracing_subscriber::fmt().json();
        let subscriber = subscriber.with_writer(move || subscriber_lines.clone());
        tracing::subscriber::with_default(subscriber.finish(), || {
            for room_after in [5, 1, 1_000, 1_000] {
                let job = queue.jobs.try_recv().unwrap();
                queue.carry_out(job, &mut disk);
                disk.room = room_after;
            }
        });
        assert_eq!(queue.left_out.load(Ordering::Relaxed), 1);
        assert_eq!(disk.text, b"a line\na line\na line\n");
        let told = written(&mut queue, &lines);
        assert!(told.contains(r#""lines":1"#), "{told}");
    }

    #[test]
    fn all_lines_left_out_while_the_queue_stays_full_are_reported() {
        let (lines, mut queue) = LogLines::new();
        for _ in 0..WAITING_LINES_MAX + 1_000 {
            lines.put(b"a line\n");
        }
        let (subscriber_lines, mut out) = (lines.clone(), SlowOut(lines.clone()));
        let subscriber = tracing_subscriber::fmt().with_writer(move || subscriber_lines.clone());
        tracing::subscriber::with_default(subscriber.finish(), || {
            for _ in 0..10 {
                let job = queue.jobs.try_recv().unwrap();
                queue.carry_out(job, &mut out);
            }
        });
        let out = written(&mut queue, &lines);
        assert!(out.contains(r#""lines":1000"#), "{out}");
    }

    #[test]
    fn long_lines_have_a_limit_of_bytes_too() {
        let (mut lines, queue) = LogLines::new();
        for _ in 0..3 {
            let long = vec![b'x'; WAITING_BYTES_MAX / 2 - 1];
            lines.write_all(&[&long[..], b"\n"].concat()).unwrap();
        }
        assert_eq!(
            (queue.jobs.len(), lines.left_out.load(Ordering::Relaxed)),
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
        let Ok(LogJob::Line(line)) = queue.jobs.try_recv() else {
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
        let Ok(LogJob::Line(line)) = queue.jobs.try_recv() else {
            panic!("one line");
        };
        let line = String::from_utf8(line).unwrap();
        let (text, end) = line.split_at(line.len() - 1);
        assert!(end == "\n" && !text.contains(|c: char| !matches!(c, ' '..='~')));
        assert!(text.contains(r"path=/\u009b31m\u202e\u000a2026"), "{text}");
    }
}
