//! The part of the NATS client protocol for subscribers and publishers, without the threads and buffers of a client library.

use std::io;
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Address;
use super::wire::{Read, Wire};
use crate::clock;
use crate::fault::{Fault, Tried};

/// Longest wait for the server's greeting and for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of the subscription to answers of [`Nats::request`].
const ANSWERS: u64 = 1;

/// A connection to a NATS server.
pub(super) struct Nats {
    wire: Wire,
}

/// An operation from the server.
enum Op {
    Ping,
    Pong,
    Error(String),
    Message(Message),
    Other,
}

/// A message, as places in the buffer of the connection: valid until the next read.
pub(super) struct Message {
    /// The number of the subscription.
    pub(super) sid: u64,
    payload: Range<usize>,
    reply: Option<Range<usize>>,
}

impl Nats {
    /// Connects and logs in, within a few seconds.
    pub(super) fn connect(address: &Address) -> Result<Self, Fault> {
        let mut options =
            json!({"verbose": false, "pedantic": false, "headers": true, "name": "loadtest"});
        if let Some((user, password)) = &address.login {
            options["user"] = user.as_str().into();
            options["pass"] = password.as_str().into();
        }
        let mut nats = Self {
            wire: Wire::connect(address.addr)?,
        };
        nats.ask(&format!("CONNECT {options}\r\n"))?;
        Ok(nats)
    }

    /// Subscribes with a number, and waits for the server's confirmation.
    pub(super) fn subscribe(&mut self, subject: &str, sid: u64) -> Result<(), Fault> {
        self.ask(&format!("SUB {subject} {sid}\r\n"))
    }

    /// Waits until the server has processed everything.
    pub(super) fn confirm(&mut self) -> Result<(), Fault> {
        self.ask("")
    }

    /// Sends a command and waits until the server has processed the command. Skips messages.
    fn ask(&mut self, command: &str) -> Result<(), Fault> {
        let asked = self.wire.write(format!("{command}PING\r\n").as_bytes());
        asked.tried("write to NATS")?;
        self.answer(|op, _| matches!(op, Op::Pong).then_some(()))
    }

    /// Sends a request and returns the JSON of the answer. Skips other messages.
    pub(super) fn request(&mut self, subject: &str, body: &Value) -> Result<Value, Fault> {
        let inbox = new_inbox();
        self.subscribe(&inbox, ANSWERS)?;
        let body = body.to_string();
        let request = format!("PUB {subject} {inbox} {}\r\n{body}\r\n", body.len());
        let asked = self.wire.write(request.as_bytes());
        asked.tried("write to NATS")?;
        let answer = self.answer(|op, wire| match op {
            Op::Message(message) if message.sid == ANSWERS => {
                Some(serde_json::from_slice(wire.at(message.payload)).unwrap_or(Value::Null))
            }
            _ => None,
        })?;
        self.ask(&format!("UNSUB {ANSWERS}\r\n"))?;
        Ok(answer)
    }

    /// Reads until `of` returns a value, or fails after [`ANSWER_TIMEOUT`].
    fn answer<T>(&mut self, of: impl Fn(Op, &Wire) -> Option<T>) -> Result<T, Fault> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        self.wire.patience(Some(ANSWER_TIMEOUT))?;
        loop {
            while let Some(op) = self.next_op().tried("NATS")? {
                if let Some(answer) = of(op, &self.wire) {
                    self.wire.patience(None)?;
                    return Ok(answer);
                }
            }
            if Instant::now() >= until {
                return Err(Fault::Bus("no answer from NATS in 5 s".into()));
            }
            self.read().tried("read from NATS")?;
        }
    }

    /// Writes operations.
    pub(super) fn write(&mut self, operations: &[u8]) -> io::Result<()> {
        self.wire.write(operations)
    }

    /// The next message in the buffer; answers pings on the way.
    pub(super) fn next_read(&mut self) -> io::Result<Option<Message>> {
        while let Some(op) = self.next_op()? {
            if let Op::Message(message) = op {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Reads once.
    pub(super) fn read(&mut self) -> io::Result<Read> {
        self.wire.read()
    }

    /// The payload of a message.
    pub(super) fn payload(&self, message: &Message) -> &[u8] {
        self.wire.at(message.payload.clone())
    }

    /// The subject for an answer to a message.
    pub(super) fn reply(&self, message: &Message) -> Option<&[u8]> {
        Some(self.wire.at(message.reply.clone()?))
    }

    /// The socket, for blocking mode, timeouts, events and shutdown.
    pub(super) fn stream(&self) -> &TcpStream {
        self.wire.stream()
    }

    fn next_op(&mut self) -> io::Result<Option<Op>> {
        let Some((mut op, bytes)) = parse(self.wire.held()) else {
            return Ok(None);
        };
        let at = self.wire.take(bytes);
        match &mut op {
            Op::Ping => self.wire.write(b"PONG\r\n")?,
            Op::Error(words) => return Err(io::Error::other(std::mem::take(words))),
            Op::Message(message) => message.shift(at),
            Op::Pong | Op::Other => {}
        }
        Ok(Some(op))
    }
}

impl Message {
    fn shift(&mut self, by: usize) {
        for range in std::iter::once(&mut self.payload).chain(&mut self.reply) {
            *range = range.start + by..range.end + by;
        }
    }
}

/// A subject without other users.
pub(super) fn new_inbox() -> String {
    let (pid, us) = (std::process::id(), clock::now_us());
    format!("_INBOX.loadtest-{pid}-{us}")
}

/// Appends `PUB SUBJECT BYTES` with the payload.
pub(super) fn append_publish(out: &mut Vec<u8>, subject: &[u8], payload: &[u8]) {
    use std::io::Write;
    out.extend_from_slice(b"PUB ");
    out.extend_from_slice(subject);
    // Writing to a Vec cannot fail.
    let _ = write!(out, " {}\r\n", payload.len());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// The operation at the start of `bytes` and the length in bytes; `None` while incomplete.
fn parse(bytes: &[u8]) -> Option<(Op, usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let body = end + 1;
    let verb = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    match verb {
        b"MSG" => message(line, body, bytes.len()),
        // With headers: a status of JetStream. No measured message has headers.
        b"HMSG" => {
            let whole = body + number(line.rsplit(|byte| *byte == b' ').next()?)? + 2;
            (whole <= bytes.len()).then_some((Op::Other, whole))
        }
        b"PING" => Some((Op::Ping, body)),
        b"PONG" => Some((Op::Pong, body)),
        b"-ERR" => Some((Op::Error(String::from_utf8_lossy(line).into_owned()), body)),
        _ => Some((Op::Other, body)),
    }
}

/// Parses `MSG SUBJECT SID [REPLY] BYTES`; `None` if fewer bytes are `there` than needed.
fn message(line: &[u8], body: usize, there: usize) -> Option<(Op, usize)> {
    let mut words = line.split(|byte| *byte == b' ').skip(1);
    let (subject, sid, third) = (words.next()?, words.next()?, words.next()?);
    let at = b"MSG   ".len() + subject.len() + sid.len();
    let reply = at..at + third.len();
    let (reply, bytes) = match words.next() {
        Some(bytes) => (Some(reply), number(bytes)?),
        None => (None, number(third)?),
    };
    let whole = body + bytes + 2;
    if there < whole {
        return None;
    }
    let message = Message {
        sid: number(sid)? as u64,
        payload: body..body + bytes,
        reply,
    };
    Some((Op::Message(message), whole))
}

/// A decimal number.
pub(super) fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let text = b"MSG a.b 1 3\r\nabc\r\nMSG a.b 27 $JS.ACK.x 0\r\n\r\nHMSG a 1 2 4\r\nabcd\r\nPING\r\n-ERR 'no'\r\n";
        let first = b"MSG a.b 1 3\r\nabc\r\n".len();
        for end in 0..first {
            assert!(parse(&text[..end]).is_none(), "{end}");
        }
        let Some((Op::Message(message), bytes)) = parse(text) else {
            panic!("no message");
        };
        assert_eq!((&text[message.payload], message.reply), (&b"abc"[..], None));
        assert_eq!((message.sid, bytes), (1, first));
        let rest = &text[first..];
        let Some((Op::Message(message), bytes)) = parse(rest) else {
            panic!("no message");
        };
        assert!(message.payload.is_empty() && message.sid == 27);
        assert_eq!(&rest[message.reply.expect("it has one")], b"$JS.ACK.x");
        let rest = &rest[bytes..];
        assert!(parse(&rest[..19]).is_none());
        assert!(matches!(parse(rest), Some((Op::Other, 20))));
        assert!(matches!(parse(&rest[20..]), Some((Op::Ping, 6))));
        assert!(matches!(parse(&rest[26..]), Some((Op::Error(_), 11))));
    }
}
