//! Standard output and standard error. Their reader may pause: a pager, a log shipper, a terminal after Ctrl-S. A command that
//! runs long ends all the same at a signal and at its deadline, so no write waits any longer than the command.

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Instant;

use anstream::AutoStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::tail::{Stop, TICK};

/// As much as a pipe with room takes at once (`PIPE_BUF`): a larger write would wait for the rest of the room.
const WRITE_BYTES: usize = 4096;

/// When this command ends, whoever reads its output. Unset for a command that ends by itself.
static END: OnceLock<End> = OnceLock::new();

struct End {
    stop: Stop,
    deadline: Option<Instant>,
}

impl End {
    fn has_come(&self) -> bool {
        let is_late = |deadline| Instant::now() >= deadline;
        self.stop.is_asked() || self.deadline.is_some_and(is_late)
    }
}

/// From here on, no write waits for its reader after the user has stopped the command, or after its deadline.
pub(super) fn write_until(stop: &Stop, deadline: Option<Instant>) {
    let stop = stop.clone();
    // A process runs one command.
    let _ = END.set(End { stop, deadline });
}

/// How a write ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The reader can read all.
    Whole,
    /// The command ends before the reader goes on.
    GivenUp,
}

/// Writes to standard output.
pub(super) fn write_out(bytes: &[u8]) -> io::Result<Written> {
    write(io::stdout(), bytes, end_has_come)
}

/// Writes a text to standard output, with its colours only on a terminal with colours.
pub(super) fn write_out_styled(text: &str) -> io::Result<Written> {
    write_out(&in_colours(text, AutoStream::choice(&io::stdout()))?)
}

/// The same on standard error.
pub(super) fn write_err_styled(text: &str) -> io::Result<Written> {
    let bytes = in_colours(text, AutoStream::choice(&io::stderr()))?;
    write(io::stderr(), &bytes, end_has_come)
}

fn end_has_come() -> bool {
    END.get().is_some_and(End::has_come)
}

fn in_colours(text: &str, choice: anstream::ColorChoice) -> io::Result<Vec<u8>> {
    let mut stream = AutoStream::new(Vec::new(), choice);
    stream.write_all(text.as_bytes())?;
    Ok(stream.into_inner())
}

/// Writes as the reader makes room. Once the end has come, waits no longer than a tick.
fn write(to: impl AsFd, mut bytes: &[u8], end_has_come: impl Fn() -> bool) -> io::Result<Written> {
    // Cannot fail for so short a time. `None` would mean to wait without an end.
    let tick = Timespec::try_from(TICK).ok();
    while !bytes.is_empty() {
        let mut fds = [PollFd::new(&to, PollFlags::OUT)];
        match poll(&mut fds, tick.as_ref()) {
            Ok(0) | Err(Errno::INTR) if end_has_come() => return Ok(Written::GivenUp),
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let some = &bytes[..bytes.len().min(WRITE_BYTES)];
        match rustix::io::write(&to, some) {
            Ok(written) => bytes = &bytes[written..],
            // Another process has made it nonblocking, or has filled it meanwhile.
            Err(Errno::INTR | Errno::AGAIN) if end_has_come() => return Ok(Written::GivenUp),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Written::Whole)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{ErrorKind, Read as _, pipe};
    use std::thread;

    use super::*;

    /// More than a pipe takes.
    const MUCH: usize = 1_000_000;

    #[test]
    fn a_reader_that_pauses_delays_no_end() {
        let (_reader, writer) = pipe().expect("a pipe");
        let looks = Cell::new(0);
        let end_has_come = || looks.replace(looks.get() + 1) >= 2;
        let written = write(&writer, &vec![b'x'; MUCH], end_has_come);
        assert_eq!(written.expect("a write"), Written::GivenUp);
    }

    #[test]
    fn a_reader_that_is_slow_gets_all() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let text: Vec<u8> = (0..MUCH).map(|n| (n % 251) as u8).collect();
        let sent = text.clone();
        let write = thread::spawn(move || write(&writer, &sent, || false));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("all");
        assert!(read == text);
        let written = write.join().expect("no panic").expect("a write");
        assert_eq!(written, Written::Whole);
    }

    #[test]
    fn with_room_the_last_words_of_a_command_are_written() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let written = write(&writer, b"stopped", || true).expect("a write");
        assert_eq!(written, Written::Whole);
        drop(writer);
        let mut read = String::new();
        reader.read_to_string(&mut read).expect("all");
        assert_eq!(read, "stopped");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let error = write(&writer, b"x", || false).expect_err("nobody reads");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
