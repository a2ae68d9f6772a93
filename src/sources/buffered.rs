//! A stream with bytes that wait to be written, and bytes that were read and not taken yet.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;

use super::socket::{Stream, Waiter};

/// A stream that never blocks. Its waiter says when to try again.
pub(super) struct Buffered {
    stream: Stream,
    out: Vec<u8>,
    /// Of `out`.
    written: usize,
    buffer: Box<[u8]>,
    /// Of `buffer`: read from the socket and not taken.
    unread: Range<usize>,
}

impl Buffered {
    /// Reads at most so many bytes at once.
    pub(super) fn new(stream: Stream, read_bytes: usize) -> Self {
        Self {
            stream,
            out: Vec::new(),
            written: 0,
            buffer: vec![0; read_bytes].into_boxed_slice(),
            unread: 0..0,
        }
    }

    /// The stream itself, to look at.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream itself.
    pub(super) fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Where what is to be sent is written; [`Self::flush`] sends it.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn flush(&mut self, waiter: &mut Waiter) -> io::Result<()> {
        while waiter.writable {
            let sent = match self.out.get(self.written..) {
                Some(rest) if !rest.is_empty() => self.stream.write(rest),
                _ => self.stream.flush().map(|()| 0),
            };
            match sent {
                Ok(0) => break,
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => waiter.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.queued_bytes() == 0 {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Reads once. `false`: there is nothing. What came is given out by [`Self::take`], and has to be
    /// taken before the next read.
    ///
    /// # Errors
    /// The connection is lost, or the other side has ended it.
    pub(super) fn read(&mut self, waiter: &mut Waiter) -> io::Result<bool> {
        debug_assert!(self.unread.is_empty());
        while waiter.readable {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(ended()),
                Ok(bytes) => {
                    self.unread = 0..bytes;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => waiter.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Has `reader` take from what was read; what it leaves comes first the next time.
    pub(super) fn take<T>(&mut self, reader: impl FnOnce(&mut &[u8]) -> T) -> T {
        let mut input = self.buffer.get(self.unread.clone()).unwrap_or_default();
        let taken = reader(&mut input);
        self.unread.start = self.unread.end - input.len();
        taken
    }
}

/// The other side has ended the connection.
pub(super) fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it ended the connection")
}
