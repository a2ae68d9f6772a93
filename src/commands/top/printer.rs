//! The output of `weirgate top`. A thread of its own writes, so neither readings nor signals wait for a reader that pauses: a
//! pager, a terminal that was stopped with Ctrl-S. Of the texts of such a pause, the reader gets the newest.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The time between two looks whether the thread has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Writes texts, each as a whole.
pub(super) struct Printer {
    next: Arc<NextText>,
    thread: JoinHandle<io::Result<()>>,
}

/// The text that is written next.
#[derive(Default)]
struct NextText {
    state: Mutex<NextState>,
    changed: Condvar,
}

#[derive(Default)]
struct NextState {
    text: Option<String>,
    is_over: bool,
}

impl NextText {
    fn lock(&self) -> MutexGuard<'_, NextState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next text; `None` at the end.
    fn wait(&self) -> Option<String> {
        let waits = |state: &mut NextState| state.text.is_none() && !state.is_over;
        let state = self.changed.wait_while(self.lock(), waits);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.text.take().filter(|_| !state.is_over)
    }
}

impl Printer {
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let next = Arc::new(NextText::default());
        let texts = Arc::clone(&next);
        let thread = thread::Builder::new().name("top-writer".into());
        let thread = thread.spawn(move || {
            while let Some(text) = texts.wait() {
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
            Ok(())
        })?;
        Ok(Self { next, thread })
    }

    /// Writes a text after the one that is being written, in place of one that waits.
    pub(super) fn print(&self, text: String) {
        self.next.lock().text = Some(text);
        self.next.changed.notify_one();
    }

    /// Whether nothing more can be written.
    pub(super) fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends once the text that is being written is whole, but after `patience` at the latest: the reader may not come back.
    ///
    /// # Errors
    /// A text could not be written.
    pub(super) fn end(self, patience: Duration) -> io::Result<()> {
        self.next.lock().is_over = true;
        self.next.changed.notify_one();
        let until = Instant::now() + patience;
        while !self.thread.is_finished() {
            if Instant::now() >= until {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        let failed = |_| io::Error::other("the thread that writes has failed");
        self.thread.join().map_err(failed)?
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A reader that takes a text whenever the test says so.
    struct Paused {
        begun: Sender<String>,
        goes_on: Receiver<io::Result<()>>,
    }

    impl Write for Paused {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.begun.send(text).expect("the test waits");
            self.goes_on.recv().expect("the test goes on")?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn paused() -> (Printer, Receiver<String>, Sender<io::Result<()>>) {
        let ((begun, texts), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel());
        let printer = Printer::start(Paused { begun, goes_on }).expect("a thread");
        (printer, texts, go_on)
    }

    #[test]
    fn a_reader_that_pauses_gets_the_newest_text_afterwards() {
        let (printer, texts, go_on) = paused();
        printer.print("1\n".to_owned());
        assert_eq!(texts.recv_timeout(PATIENCE).expect("a text"), "1\n");
        for n in 2..10 {
            printer.print(format!("{n}\n"));
        }
        go_on.send(Ok(())).expect("it waits");
        assert_eq!(texts.recv_timeout(PATIENCE).expect("a text"), "9\n");
        go_on.send(Ok(())).expect("it waits");
        assert!(printer.end(PATIENCE).is_ok());
    }

    #[test]
    fn a_reader_that_does_not_come_back_delays_no_end() {
        let (printer, texts, _go_on) = paused();
        printer.print("1\n".to_owned());
        texts.recv_timeout(PATIENCE).expect("a text");
        assert!(printer.end(Duration::from_millis(20)).is_ok());
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (printer, texts, go_on) = paused();
        printer.print("1\n".to_owned());
        texts.recv_timeout(PATIENCE).expect("a text");
        let gone = Err(ErrorKind::BrokenPipe.into());
        go_on.send(gone).expect("it waits");
        while !printer.has_failed() {
            thread::sleep(LOOK);
        }
        let error = printer.end(PATIENCE).expect_err("it failed");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
