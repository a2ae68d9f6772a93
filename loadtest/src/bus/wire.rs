//! The bytes of a connection to a bus.

use std::io::{self, ErrorKind, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use crate::fault::{Fault, Tried};

/// Initial size of the read buffer.
const READ_BYTES: usize = 64 * 1024;

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// There was nothing to read, or nothing in time.
    Nothing,
    /// The buffer was not filled, so the socket had no more.
    Emptied,
    /// The socket may have more.
    More,
}

/// A connection, with the bytes not yet parsed.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    held: Range<usize>,
}

impl Wire {
    pub(super) fn connect(addr: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(addr).tried(format!("connect {addr}"))?;
        stream.set_nodelay(true).tried("TCP_NODELAY")?;
        Ok(Self {
            stream,
            buffer: vec![0; READ_BYTES],
            held: 0..0,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sets the longest wait of a read; `None` for no limit.
    pub(super) fn patience(&self, timeout: Option<Duration>) -> Result<(), Fault> {
        self.stream.set_read_timeout(timeout).tried("SO_RCVTIMEO")
    }

    /// The bytes not yet taken.
    pub(super) fn held(&self) -> &[u8] {
        &self.buffer[self.held.clone()]
    }

    /// Takes `bytes` of [`Self::held`]; returns their place, for [`Self::at`] until the next read.
    pub(super) fn take(&mut self, bytes: usize) -> usize {
        let at = self.held.start;
        self.held.start += bytes;
        at
    }

    /// The bytes at a place from [`Self::take`].
    pub(super) fn at(&self, place: Range<usize>) -> &[u8] {
        &self.buffer[place]
    }

    /// Reads once. The end of the connection is an error.
    pub(super) fn read(&mut self) -> io::Result<Read> {
        if self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        if self.held.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        let room = &mut self.buffer[self.held.end..];
        match self.stream.read(room) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                let is_full = n == room.len();
                self.held.end += n;
                Ok(if is_full { Read::More } else { Read::Emptied })
            }
            Err(e) if is_later(&e) => Ok(Read::Nothing),
            Err(e) => Err(e),
        }
    }

    /// Writes everything, on a socket that does not block too.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                // Rare: acknowledgements are small beside the buffer of a socket.
                Err(e) if is_later(&e) => thread::yield_now(),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
