//! The part of the NATS client protocol for a relay, on a blocking socket, without the threads and
//! buffers of a client library.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use crate::fault::{Fault, Tried};

/// Initial size of the read buffer.
const READ_BYTES: usize = 64 * 1024;
/// Longest wait for the server's greeting and for an echo.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a NATS server.
pub(super) struct Nats {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes read and not yet parsed.
    held: Range<usize>,
}

/// An operation from the server.
enum Op {
    Ping,
    Pong,
    Message(Message),
    Other,
}

/// A message, as ranges in the buffer of the connection.
pub(super) struct Message {
    payload: Range<usize>,
    reply: Option<Range<usize>>,
}

impl Nats {
    /// Connects, within a few seconds.
    pub(super) fn connect(addr: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(addr).tried("connect to NATS")?;
        stream.set_nodelay(true).tried("TCP_NODELAY")?;
        let mut nats = Self {
            stream,
            buffer: vec![0; READ_BYTES],
            held: 0..0,
        };
        nats.ask(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n")?;
        Ok(nats)
    }

    /// Subscribes, and waits for the server's confirmation.
    pub(super) fn subscribe(&mut self, subject: &str) -> Result<(), Fault> {
        self.ask(format!("SUB {subject} 1\r\n").as_bytes())
    }

    /// Sends a command and waits until the server has processed the command.
    fn ask(&mut self, command: &[u8]) -> Result<(), Fault> {
        let asked = self.stream.write_all(&[command, b"PING\r\n"].concat());
        asked.tried("write to NATS")?;
        self.patience(Some(ANSWER_TIMEOUT))?;
        while !matches!(self.next_op().tried("read from NATS")?, Op::Pong) {}
        self.patience(None)
    }

    fn patience(&self, timeout: Option<Duration>) -> Result<(), Fault> {
        let set = self.stream.set_read_timeout(timeout);
        set.tried("SO_RCVTIMEO")
    }

    /// Publishes with one write.
    pub(super) fn publish(&mut self, subject: &str, payload: &[u8]) -> io::Result<()> {
        let mut out = format!("PUB {subject} {}\r\n", payload.len()).into_bytes();
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        self.stream.write_all(&out)
    }

    /// Acknowledges a message of a JetStream consumer.
    pub(super) fn ack(&mut self, message: &Message) -> io::Result<()> {
        let Some(reply) = &message.reply else {
            return Ok(());
        };
        let reply = String::from_utf8_lossy(&self.buffer[reply.clone()]).into_owned();
        self.publish(&reply, b"+ACK")
    }

    /// Waits for the next message of the subscription.
    pub(super) fn next(&mut self) -> io::Result<Message> {
        loop {
            match self.next_op()? {
                Op::Message(message) => return Ok(message),
                Op::Ping => self.stream.write_all(b"PONG\r\n")?,
                Op::Pong | Op::Other => {}
            }
        }
    }

    /// The payload of a message.
    pub(super) fn payload(&self, message: &Message) -> &[u8] {
        &self.buffer[message.payload.clone()]
    }

    /// A second handle of the connection, for shutting the connection down from another thread.
    pub(super) fn stream(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    fn next_op(&mut self) -> io::Result<Op> {
        loop {
            if let Some((op, bytes)) = parse(&self.buffer, self.held.clone()) {
                self.held.start += bytes;
                return Ok(op);
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        if self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        if self.held.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        match self.stream.read(&mut self.buffer[self.held.end..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.held.end += n;
                Ok(())
            }
        }
    }
}

/// The operation at the start of `held` and the length in bytes; `None` while incomplete.
fn parse(buffer: &[u8], held: Range<usize>) -> Option<(Op, usize)> {
    let bytes = &buffer[held.clone()];
    let line_bytes = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &bytes[..line_bytes];
    let whole = line_bytes + 2;
    let verb = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    match verb {
        b"PING" => Some((Op::Ping, whole)),
        b"PONG" => Some((Op::Pong, whole)),
        b"MSG" => message(line, bytes.len(), held.start),
        _ => Some((Op::Other, whole)),
    }
}

/// Parses `MSG SUBJECT SID [REPLY] BYTES`; `None` if fewer bytes are `there` than needed.
fn message(line: &[u8], there: usize, start: usize) -> Option<(Op, usize)> {
    let text = std::str::from_utf8(line).ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    let bytes: usize = words.last()?.parse().ok()?;
    let payload = line.len() + 2..line.len() + 2 + bytes;
    let whole = payload.end + 2;
    if there < whole {
        return None;
    }
    let reply = (words.len() == 5).then(|| {
        let at = words[..3].iter().map(|word| word.len() + 1).sum::<usize>();
        start + at..start + at + words[3].len()
    });
    let payload = start + payload.start..start + payload.end;
    Some((Op::Message(Message { payload, reply }), whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let text = b"..MSG a.b 1 3\r\nabc\r\nMSG a.b 1 $JS.ACK.x 0\r\n\r\nPING\r\n";
        let first = 2 + "MSG a.b 1 3\r\nabc\r\n".len();
        for end in 2..first {
            assert!(parse(text, 2..end).is_none(), "{end}");
        }
        let Some((Op::Message(message), bytes)) = parse(text, 2..text.len()) else {
            panic!("no message");
        };
        assert_eq!((&text[message.payload], message.reply), (&b"abc"[..], None));
        assert_eq!(bytes, first - 2);
        let Some((Op::Message(message), bytes)) = parse(text, first..text.len()) else {
            panic!("no message");
        };
        assert!(message.payload.is_empty());
        assert_eq!(&text[message.reply.expect("it has one")], b"$JS.ACK.x");
        let rest = parse(text, first + bytes..text.len());
        assert!(matches!(rest, Some((Op::Ping, 6))));
    }
}
