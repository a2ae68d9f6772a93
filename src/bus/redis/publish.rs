//! Connections for publishing. They are separate because a subscribed connection takes no PUBLISH (RESP2).
//! [`RedisPublisher`] has a thread of its own, for gateways that speak to each other; [`RedisSenders`] is for `weirgate
//! publish`.
//!
//! The thread sends commands without waiting for answers. If the server answers nothing for three seconds, the thread
//! connects again; commands that were on their way are not sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;

use super::connection::Connection;
use super::error::{RedisError, Stop, shown_trimmed};
use super::resp::Value;
use super::servers::{RedisServers, waiter};
use super::settings::RedisSettings;
use crate::LinkTimes;
use crate::publisher::{Outbox, Publisher};
use crate::relay::{self, Bus, Relay};
use crate::socket::Waiter;
use weirgate_runtime::{BusStatus, Source, SourceLink, Wake};
use weirgate_wire::base::LogBudget;

/// The thread takes messages while fewer bytes than this wait for the socket.
const QUEUED_BYTES_MAX: usize = 64 * 1024;
/// The longest time without an answer; then the thread connects again.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The most log lines about refused messages, a second.
const LINES_PER_SECOND: u32 = 1;

/// Publishes the messages of its [`Publisher`], for ever. Sends no events but `Up` and `Down`.
pub struct RedisPublisher {
    servers: RedisServers,
    waiter: Waiter,
    status: Arc<BusStatus>,
    outbox: Outbox,
    wake: Wake,
    lines: LogBudget,
}

impl RedisPublisher {
    /// Creates the publisher and its handle. Messages are dropped until there is a connection.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or the system has no descriptor left.
    pub fn new(
        settings: RedisSettings,
        status: Arc<BusStatus>,
    ) -> Result<(Self, Publisher), RedisError> {
        let servers = RedisServers::new(settings)?;
        let (waiter, wake) = waiter("the Redis publisher")?;
        let (handle, outbox) = Publisher::new(wake.clone());
        let publisher = Self {
            servers,
            waiter,
            status,
            outbox,
            wake,
            lines: LogBudget::new(LINES_PER_SECOND),
        };
        Ok((publisher, handle))
    }

    /// Connects, then publishes until the connection is lost.
    /// Never returns `Ok`.
    fn use_connection(&mut self, relay: &mut Relay<RedisError>) -> Result<Stop, Stop> {
        let connection = self.servers.connect_and_watch(&mut self.waiter)?;
        // Messages from before this connection would be late.
        self.outbox.clear();
        relay.report_up()?;
        let mut session = PublishSession {
            connection,
            outbox: &mut self.outbox,
            wake: &self.wake,
            lines: &mut self.lines,
            relay,
            asked: VecDeque::new(),
        };
        loop {
            session.turn()?;
        }
    }
}

impl Source for RedisPublisher {
    fn run(mut self: Box<Self>, link: SourceLink) {
        relay::run(&mut *self, link);
    }
}

impl Bus for RedisPublisher {
    type Error = RedisError;
    const NAME: &'static str = "Redis (to publish)";
    const OUTAGE_LOSES_MESSAGES: bool = false;

    fn status_and_times(&self) -> (&Arc<BusStatus>, &LinkTimes) {
        (&self.status, &self.servers.settings.times)
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<RedisError>) -> Stop {
        let stop = self.use_connection(relay).unwrap_or_else(|stop| stop);
        self.servers.note_end(&stop);
        stop
    }
}

struct PublishSession<'a, 'w> {
    connection: Connection<'w>,
    outbox: &'a mut Outbox,
    wake: &'a Wake,
    lines: &'a mut LogBudget,
    relay: &'a mut Relay<RedisError>,
    /// The time at which each command without an answer was queued.
    asked: VecDeque<Instant>,
}

impl PublishSession<'_, '_> {
    /// Writes as much as the socket takes, reads once, and waits if there was nothing to read.
    fn turn(&mut self) -> Result<(), Stop> {
        self.connection.check_master()?;
        // Messages published from here on wake this thread again.
        self.wake.arm();
        self.take()?;
        self.connection.flush()?;
        if self.connection.read()? {
            while let Some(answer) = self.connection.next_value()? {
                self.answered(answer)?;
            }
            return Ok(());
        }
        // Silence counts from the last bytes, or from the command if it came later.
        let since = |asked: &Instant| self.connection.last_received().max(*asked);
        let give_up = self.asked.front().map(|asked| since(asked) + SILENCE_MAX);
        if give_up.is_some_and(|at| Instant::now() >= at) {
            let silent_ms = SILENCE_MAX.as_millis() as u64;
            return Err(RedisError::Silent(silent_ms).into());
        }
        // If messages are left in the outbox, they wait until the socket takes bytes, and that ends the wait too.
        let until = give_up.unwrap_or_else(|| Instant::now() + SILENCE_MAX);
        Ok(self.connection.wait(self.relay, until)?)
    }

    /// Queues commands for the messages of the gateway, while few bytes wait.
    fn take(&mut self) -> Result<(), Stop> {
        while self.connection.queued_bytes() < QUEUED_BYTES_MAX {
            match self.outbox.take() {
                Ok(message) => {
                    let subject = message.subject.as_bytes();
                    let command = [b"PUBLISH".as_slice(), subject, &message.payload];
                    self.connection.queue(&command);
                    self.asked.push_back(Instant::now());
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Stop::LoopGone),
            }
        }
        Ok(())
    }

    /// Handles the answer to the oldest command. A refused message is only logged.
    fn answered(&mut self, answer: Value) -> Result<(), Stop> {
        let was_asked = self.asked.pop_front().is_some();
        match answer {
            Value::Integer(_) if was_asked => Ok(()),
            Value::Error(words) if was_asked => {
                if let Some(lines_left_out) = self.lines.line(self.relay.link.now()) {
                    tracing::warn!(
                        reason = shown_trimmed(&words),
                        lines_left_out,
                        "Redis refused a message"
                    );
                }
                Ok(())
            }
            _ => Err(self
                .connection
                .wrong("an answer that fits no question")
                .into()),
        }
    }
}

/// The time for the answer to a message.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to Redis for `weirgate publish`, one connection after the other.
pub struct RedisSenders {
    servers: RedisServers,
    waiter: Waiter,
}

impl RedisSenders {
    /// Reads the certificates to trust. Does not connect. Soon after `is_stopped` is set, every wait ends.
    ///
    /// # Errors
    /// The certificates cannot be read, or the system has no descriptor left.
    pub fn new(settings: RedisSettings, is_stopped: Arc<AtomicBool>) -> Result<Self, RedisError> {
        let servers = RedisServers::new(settings)?;
        let (mut waiter, _) = waiter("weirgate publish")?;
        waiter.end_at_stop(is_stopped);
        Ok(Self { servers, waiter })
    }

    /// Connects.
    ///
    /// # Errors
    /// Redis is away or refuses the login.
    pub fn connect(&mut self) -> Result<RedisSender<'_>, RedisError> {
        let connection = self.servers.connect(&mut self.waiter)?;
        Ok(RedisSender { connection })
    }
}

/// Publishes on Redis for `weirgate publish`, one message after the other, and waits for each answer. Every fault is an
/// error, and nothing is tried again.
pub struct RedisSender<'w> {
    connection: Connection<'w>,
}

impl RedisSender<'_> {
    /// Adds a message to a stream, with the fields that [`RedisStreamSource`](super::RedisStreamSource) reads. Returns
    /// the id of the entry.
    ///
    /// # Errors
    /// The connection is lost, Redis is silent, or this user may not add to the stream.
    pub fn add(&mut self, key: &str, channel: &str, message: &[u8]) -> Result<String, RedisError> {
        let [key, channel] = [key, channel].map(str::as_bytes);
        let words = [b"XADD", key, b"*", b"channel", channel, b"data", message];
        match self.ask("XADD", &words)? {
            Value::Bulk(id) => Ok(String::from_utf8_lossy(&id).into_owned()),
            _ => Err(self.connection.wrong("no id of the entry")),
        }
    }

    /// Publishes a message. Returns how many connections to Redis got the message.
    ///
    /// # Errors
    /// The connection is lost, Redis is silent, or this user may not publish on the channel.
    pub fn publish(&mut self, channel: &str, message: &[u8]) -> Result<i64, RedisError> {
        match self.ask("PUBLISH", &[b"PUBLISH", channel.as_bytes(), message])? {
            Value::Integer(receivers) => Ok(receivers),
            _ => Err(self.connection.wrong("no number of receivers")),
        }
    }

    /// Sends a command and waits. A refusal is an error, and so is a stop.
    fn ask(&mut self, command: &'static str, words: &[&[u8]]) -> Result<Value, RedisError> {
        self.connection.queue(words);
        let answer = (self.connection).next_answer(None, Instant::now(), ANSWER_TIMEOUT);
        match answer? {
            Value::Error(words) => Err(self.connection.refused(command, &words)),
            answer => Ok(answer),
        }
    }
}
