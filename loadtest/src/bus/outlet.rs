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

/// Publishes on one subject. A message leaves with [`Self::send`], without a wait for the bus.
pub(crate) struct Outlet {
    link: Link,
    subject: String,
    /// The messages of the next write.
    out: Vec<u8>,
    /// Publications without an answer from Redis.
    unanswered: u64,
    listened: Instant,
}

enum Link {
    Nats(Nats),
    Redis(Redis),
}

impl Outlet {
    /// Connects to the bus of the URL.
    pub(crate) fn connect(url: &str, subject: &str) -> Result<Self, Fault> {
        let address = Address::parse(url)?;
        let link = match address.kind {
            BusKind::Nats => Link::Nats(Nats::connect(&address)?),
            BusKind::Redis => Link::Redis(Redis::connect(&address)?),
        };
        Ok(Self {
            link,
            subject: subject.to_owned(),
            out: Vec::new(),
            unanswered: 0,
            listened: Instant::now(),
        })
    }

    /// Adds a message to the next write.
    pub(crate) fn add(&mut self, payload: &[u8]) {
        let subject = self.subject.as_bytes();
        match &self.link {
            Link::Nats(_) => append_publish(&mut self.out, subject, payload),
            Link::Redis(_) => {
                let words = [b"PUBLISH", subject, payload];
                append_command(&mut self.out, words.into_iter());
                self.unanswered += 1;
            }
        }
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

    /// Waits until the bus has taken everything.
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
