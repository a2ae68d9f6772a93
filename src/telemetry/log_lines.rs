//! The way of a log line to standard output: over a bounded queue and a thread of its own, so that
//! nobody who logs waits for whoever reads. A pipe that is not read would hold up the event loop.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for standard output; more are left out, counted, and told of.
const WAITING_LINES_MAX: usize = 4096;
/// How long the end of the process waits for them.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

/// The queue of this process, once there is one.
static QUEUE: OnceLock<LogLines> = OnceLock::new();

enum Job {
    Line(Vec<u8>),
    /// Everything before it is written once this is dropped.
    Flush(Sender<()>),
}

/// Takes lines and never waits.
#[derive(Clone)]
pub(super) struct LogLines {
    jobs: Sender<Job>,
    left_out: Arc<AtomicU64>,
}

impl LogLines {
    /// The queue of this process; the first call starts its thread.
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
                // Ends when the process does.
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

    fn put(&self, line: &[u8]) {
        if self.jobs.try_send(Job::Line(line.to_vec())).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A reader that has gone away is no failure. `told` is how many of the lines left out were told of.
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

/// Writes a text that is no log line to standard output, in its order among them; it is there when
/// this returns, if somebody reads.
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

/// Lines that were left out so far.
pub(super) fn left_out() -> u64 {
    let lines = QUEUE.get();
    lines.map_or(0, |lines| lines.left_out.load(Ordering::Relaxed))
}

/// Waits until the lines so far are written, or for a moment only where nobody reads them.
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

/// The formatter writes each line at once.
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
}
