//! A connection for publishing.

use std::io;
use std::time::{Duration, Instant};

use super::nats::{Nats, append_publish};
use super::redis::{Redis, append_command};
use super::{Address, Read};
use crate::fault::{Fault, Tried};
use crate::launch::BusKind;

/// How often the answers of the bus are read.
const LISTEN_INTERVAL: Duration = Duration::from_millis(20);

/// Publishes on any subjects or channels. Added messages leave with [`Self::send`], without a wait for the bus, or with
/// [`Self::settle`].
pub(crate) struct Outlet {
    link: Link,
    /// The messages of the next write.
    out: Vec<u8>,
    /// Commands without an answer from Redis.
    unanswered: u64,
    listened: Instant,
}

enum Link {
    Nats(Nats),
    Redis(Redis),
}

impl Outlet {
    /// Connects to the bus of the URL.
    pub(crate) fn connect(url: &str) -> Result<Self, Fault> {
        let address = Address::parse(url)?;
        let link = match address.kind {
            BusKind::Nats => Link::Nats(Nats::connect(&address)?),
            BusKind::Redis => Link::Redis(Redis::connect(&address)?),
        };
        Ok(Self {
            link,
            out: Vec::new(),
            unanswered: 0,
            listened: Instant::now(),
        })
    }

    /// Adds a message on a subject or channel to the next write.
    pub(crate) fn add(&mut self, subject: &str, payload: &[u8]) {
        let subject = subject.as_bytes();
        match &self.link {
            Link::Nats(_) => append_publish(&mut self.out, subject, payload),
            Link::Redis(_) => self.command(&[b"PUBLISH", subject, payload]),
        }
    }

    /// Adds a message of a channel to the next write, for a Redis stream with this key. On NATS the message is
    /// published: a stream on the subject stores the message.
    pub(crate) fn add_to_stream(&mut self, key: &str, channel: &str, payload: &[u8]) {
        let (key, name) = (key.as_bytes(), channel.as_bytes());
        match &self.link {
            Link::Nats(_) => self.add(channel, payload),
            Link::Redis(_) => {
                self.command(&[b"XADD", key, b"*", b"channel", name, b"data", payload])
            }
        }
    }

    fn command(&mut self, words: &[&[u8]]) {
        append_command(&mut self.out, words.iter().copied());
        self.unanswered += 1;
    }

    /// Bytes of the next write.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.out.len()
    }

    /// Writes all added messages at once. Now and then, also reads the answers of the bus.
    pub(crate) fn send(&mut self) -> Result<(), Fault> {
        let sent = match &mut self.link {
            Link::Nats(nats) => nats.write(&self.out),
            Link::Redis(redis) => redis.write(&self.out),
        };
        sent.tried("publish")?;
        self.out.clear();
        if self.listened.elapsed() >= LISTEN_INTERVAL {
            self.listen().tried("publish")?;
            self.listened = Instant::now();
        }
        Ok(())
    }

    /// Writes all added messages at once, and waits until the bus has taken everything: for the PONG of NATS, or for each
    /// answer of Redis. Fails after 5 s.
    pub(crate) fn settle(&mut self) -> Result<(), Fault> {
        self.send()?;
        match &mut self.link {
            Link::Nats(nats) => nats.confirm(),
            Link::Redis(redis) => {
                redis.answers(self.unanswered)?;
                self.unanswered = 0;
                Ok(())
            }
        }
    }

    /// Takes the waiting answers: pings of NATS, counts of Redis.
    fn listen(&mut self) -> io::Result<()> {
        let stream = match &self.link {
            Link::Nats(nats) => nats.stream(),
            Link::Redis(redis) => redis.stream(),
        };
        stream.set_nonblocking(true)?;
        let taken = self.take_answers();
        let stream = match &self.link {
            Link::Nats(nats) => nats.stream(),
            Link::Redis(redis) => redis.stream(),
        };
        stream.set_nonblocking(false)?;
        taken
    }

    fn take_answers(&mut self) -> io::Result<()> {
        match &mut self.link {
            Link::Nats(nats) => {
                while nats.read()? != Read::Nothing {
                    while nats.next_read()?.is_some() {}
                }
            }
            Link::Redis(redis) => {
                while redis.read()? != Read::Nothing {
                    while redis.next_read()?.is_some() {
                        self.unanswered = self.unanswered.saturating_sub(1);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// An outlet with two messages on a Redis that has given these answers, and the Redis.
    fn two_messages(answers: &[u8]) -> (Outlet, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let mut outlet = Outlet::connect(&url).unwrap();
        let (mut redis, _) = listener.accept().unwrap();
        outlet.add("a", b"1");
        outlet.add_to_stream("k", "b", b"2");
        redis.write_all(answers).unwrap();
        (outlet, redis)
    }

    #[test]
    fn redis_has_taken_everything_after_an_answer_to_each_command() {
        let (mut outlet, mut redis) = two_messages(b":0\r\n$4\r\n17-0\r\n");
        outlet.settle().unwrap();
        drop(outlet);
        let mut commands = String::new();
        redis.read_to_string(&mut commands).unwrap();
        let is_word = |line: &&str| *line == "*" || !line.starts_with(['$', '*']);
        let words: Vec<_> = commands.lines().filter(is_word).collect();
        assert_eq!(words.join(" "), "PUBLISH a 1 XADD k * channel b data 2");
    }

    #[test]
    fn a_refused_or_missing_answer_of_redis_is_a_fault() {
        let (mut outlet, _redis) = two_messages(b":0\r\n-WRONGTYPE\r\n");
        assert!(outlet.settle().is_err());
        let (mut outlet, redis) = two_messages(b":0\r\n");
        drop(redis);
        assert!(outlet.settle().is_err());
    }
}
