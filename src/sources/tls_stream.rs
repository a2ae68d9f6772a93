//! TLS on a TCP socket that never blocks.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;
use rustls::ClientConnection;

/// The client side of TLS. Reads and writes fail with `WouldBlock` as those of the socket do; the
/// handshake, if it is not over, is done by the first of them.
pub(super) struct TlsStream {
    pub(super) tcp: TcpStream,
    pub(super) session: ClientConnection,
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            // The end of the stream is what the next round reads.
            self.session.read_tls(&mut self.tcp)?;
            let taken = self.session.process_new_packets();
            // What it answers (the handshake, an alert) leaves as far as there is room.
            let sent = match self.flush() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
                _ => Ok(()),
            };
            taken.map_err(io::Error::other)?;
            sent?;
        }
    }
}

impl Write for TlsStream {
    /// Takes what fits the session's own buffer, which empties as the socket takes it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.session.writer().write(bytes)?;
        if taken > 0 || bytes.is_empty() {
            return Ok(taken);
        }
        // If the socket takes all of a full buffer, nothing would wake a caller that waits for room.
        self.flush()?;
        match self.session.writer().write(bytes)? {
            // The handshake has to come first: what the server says wakes the caller.
            0 => Err(ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }
}
