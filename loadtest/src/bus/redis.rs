//! The part of the Redis protocol (RESP2) for subscribers and publishers.

use std::io;
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::Address;
use super::nats::number;
use super::wire::{Read, Wire};
use crate::fault::{Fault, Tried};

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a Redis server.
pub(super) struct Redis {
    wire: Wire,
}

/// What the server sent, with places in the buffer of the connection: valid until the next read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The payload of a publication.
    Published(Range<usize>),
    /// Anything else except an error.
    Other,
    /// The text of an error.
    Error(String),
}

impl Redis {
    /// Connects and logs in, within a few seconds.
    pub(super) fn connect(address: &Address) -> Result<Self, Fault> {
        let mut redis = Self {
            wire: Wire::connect(address.addr)?,
        };
        match &address.login {
            None => {}
            Some((user, password)) if user.is_empty() => redis.ask(&["AUTH", password])?,
            Some((user, password)) => redis.ask(&["AUTH", user, password])?,
        }
        Ok(redis)
    }

    /// Subscribes, to a pattern if the name has a `*`, and waits for the confirmation.
    pub(super) fn subscribe(&mut self, channel: &str) -> Result<(), Fault> {
        let verb = match channel.contains('*') {
            true => "PSUBSCRIBE",
            false => "SUBSCRIBE",
        };
        self.ask(&[verb, channel])
    }

    fn ask(&mut self, words: &[&str]) -> Result<(), Fault> {
        let mut out = Vec::new();
        append_command(&mut out, words.iter().map(|word| word.as_bytes()));
        self.wire.write(&out).tried("write to Redis")?;
        self.answers(1)
    }

    /// Waits for this many answers, within a few seconds.
    pub(super) fn answers(&mut self, mut count: u64) -> Result<(), Fault> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        self.wire.patience(Some(ANSWER_TIMEOUT))?;
        while count > 0 {
            match self.next_read().tried("Redis")? {
                Some(_) => count -= 1,
                None if Instant::now() >= until => {
                    return Err(Fault::Bus("no answer from Redis in 5 s".into()));
                }
                None => drop(self.read().tried("read from Redis")?),
            }
        }
        self.wire.patience(None)
    }

    /// Writes commands.
    pub(super) fn write(&mut self, commands: &[u8]) -> io::Result<()> {
        self.wire.write(commands)
    }

    /// Reads once.
    pub(super) fn read(&mut self) -> io::Result<Read> {
        self.wire.read()
    }

    /// The next reply in the buffer; the inner value is the place of the payload of a publication.
    pub(super) fn next_read(&mut self) -> io::Result<Option<Option<Range<usize>>>> {
        let Some((reply, bytes)) = parse(self.wire.held()) else {
            return Ok(None);
        };
        let at = self.wire.take(bytes);
        match reply {
            Reply::Published(payload) => Ok(Some(Some(payload.start + at..payload.end + at))),
            Reply::Other => Ok(Some(None)),
            Reply::Error(words) => Err(io::Error::other(words)),
        }
    }

    /// The bytes at a place.
    pub(super) fn at(&self, place: Range<usize>) -> &[u8] {
        self.wire.at(place)
    }

    /// The socket.
    pub(super) fn stream(&self) -> &TcpStream {
        self.wire.stream()
    }
}

/// Appends a command as an array of bulk strings.
pub(super) fn append_command<'a>(
    out: &mut Vec<u8>,
    words: impl ExactSizeIterator<Item = &'a [u8]>,
) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n", word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The reply at the start of `bytes` and the length in bytes; `None` while incomplete.
fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
    let mut at = 0;
    let first = line(bytes, &mut at)?;
    match first.split_first()? {
        (b'-', words) => Some((
            Reply::Error(String::from_utf8_lossy(words).into_owned()),
            at,
        )),
        (b'*', count) => {
            let mut verb = None;
            let mut last = 0..0;
            for _ in 0..number(count)? {
                last = element(bytes, &mut at)?;
                verb.get_or_insert_with(|| last.clone());
            }
            let verb = &bytes[verb.unwrap_or(0..0)];
            let is_published = matches!(verb, b"message" | b"pmessage");
            let reply = if is_published {
                Reply::Published(last)
            } else {
                Reply::Other
            };
            Some((reply, at))
        }
        (b'$', _) => {
            at = 0;
            element(bytes, &mut at)?;
            Some((Reply::Other, at))
        }
        _ => Some((Reply::Other, at)),
    }
}

/// An element of an array: a bulk string, or a number.
fn element(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let start = *at;
    let head = line(bytes, at)?;
    // A length of -1 is the null of RESP2.
    let Some(length) = head.strip_prefix(b"$").and_then(number) else {
        return Some(start..start + head.len());
    };
    let text = *at..*at + length;
    *at = text.end + 2;
    (*at <= bytes.len()).then_some(text)
}

/// A line without the line end.
fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let rest = &bytes[*at..];
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    *at += end + 1;
    Some(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_are_taken_when_they_are_whole() {
        let mut text = Vec::new();
        append_command(&mut text, [&b"message"[..], b"a:b", b"x\r\ny"].into_iter());
        let first = text.len();
        for end in 0..first {
            assert_eq!(parse(&text[..end]), None, "{end}");
        }
        let (reply, bytes) = parse(&text).unwrap();
        let Reply::Published(payload) = reply else {
            panic!("no publication")
        };
        assert_eq!((&text[payload], bytes), (&b"x\r\ny"[..], first));
        let pattern = b"*4\r\n$8\r\npmessage\r\n$3\r\na:*\r\n$3\r\na:b\r\n$0\r\n\r\n";
        let Some((Reply::Published(payload), bytes)) = parse(pattern) else {
            panic!("no publication")
        };
        assert!(payload.is_empty() && bytes == pattern.len());
        let confirmed = b"*3\r\n$9\r\nsubscribe\r\n$3\r\na:b\r\n:1\r\n";
        assert_eq!(parse(confirmed), Some((Reply::Other, confirmed.len())));
        let error = Reply::Error("ERR no".into());
        assert_eq!(parse(b"-ERR no\r\n:1\r\n"), Some((error, 9)));
        assert_eq!(parse(b":1\r\n"), Some((Reply::Other, 4)));
        let id = b"$4\r\n17-0\r\n";
        assert_eq!(
            (parse(&id[..9]), parse(id)),
            (None, Some((Reply::Other, 10)))
        );
        assert_eq!(parse(b"$-1\r\n:1\r\n"), Some((Reply::Other, 5)));
    }
}
