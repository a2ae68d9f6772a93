//! The output of `weirgate top`. A thread of its own writes, so no reading waits for a reader that pauses: a pager, a terminal
//! that was stopped with Ctrl-S. Of the texts of such a pause, the reader gets the newest.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::super::standard::Written;

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
    /// `write` writes a text as its reader makes room, and gives it up when the command ends.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(
        mut write: impl FnMut(&[u8]) -> io::Result<Written> + Send + 'static,
    ) -> io::Result<Self> {
        let next = Arc::new(NextText::default());
        let texts = Arc::clone(&next);
        let thread = thread::Builder::new().name("top-writer".into());
        let thread = thread.spawn(move || {
            while let Some(text) = texts.wait() {
                if write(text.as_bytes())? == Written::GivenUp {
                    break;
                }
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

    /// Ends once the text that is being written is whole, or was given up: the reader may not come back.
    ///
    /// # Errors
    /// A text could not be written.
    pub(super) fn end(self) -> io::Result<()> {
        self.next.lock().is_over = true;
        self.next.changed.notify_one();
        let failed = |_| io::Error::other("the thread that writes has failed");
        self.thread.join().map_err(failed)?
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A reader that takes a text whenever the test says so.
    fn paused() -> (Printer, Receiver<String>, Sender<io::Result<Written>>) {
        let ((begun, texts), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel());
        let write = move |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            begun.send(text).expect("the test waits");
            goes_on.recv().expect("the test goes on")
        };
        (Printer::start(write).expect("a thread"), texts, go_on)
    }

    #[test]
    fn a_reader_that_pauses_gets_the_newest_text_afterwards() {
        let (printer, texts, go_on) = paused();
        printer.print("1\n".to_owned());
        assert_eq!(texts.recv_timeout(PATIENCE).expect("a text"), "1\n");
        for n in 2..10 {
            printer.print(format!("{n}\n"));
        }
        go_on.send(Ok(Written::Whole)).expect("it waits");
        assert_eq!(texts.recv_timeout(PATIENCE).expect("a text"), "9\n");
        go_on.send(Ok(Written::Whole)).expect("it waits");
        assert!(printer.end().is_ok());
    }

    #[test]
    fn a_reader_that_does_not_come_back_delays_no_end() {
        let (printer, texts, go_on) = paused();
        printer.print("1\n".to_owned());
        texts.recv_timeout(PATIENCE).expect("a text");
        printer.print("2\n".to_owned());
        go_on.send(Ok(Written::GivenUp)).expect("it waits");
        assert!(printer.end().is_ok());
        assert!(texts.recv().is_err(), "nothing is written after that");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (printer, texts, go_on) = paused();
        printer.print("1\n".to_owned());
        texts.recv_timeout(PATIENCE).expect("a text");
        let gone = Err(ErrorKind::BrokenPipe.into());
        go_on.send(gone).expect("it waits");
        while !printer.has_failed() {
            thread::sleep(Duration::from_millis(5));
        }
        let error = printer.end().expect_err("it failed");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
