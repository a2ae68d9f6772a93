//! Connections that publish: a subscribed connection takes no PUBLISH (RESP2), so these are separate. The
//! first kind is on a thread of its own, for gateways that speak to each other; the second is for a command
//! in a terminal.
//!
//! The thread sends commands without waiting for answers. The thread leaves a server without an answer for
//! three seconds; commands on their way are not sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use rustls::ClientConfig;

use super::connection::Connection;
use super::error::{RedisError, Stop};
use super::handshake::shown;
use super::marks::says_lone_master;
use super::resp::Value;
use super::sentinel::Watch;
use super::settings::RedisSettings;
use super::{connect, tls_config};
use crate::base::{LogBudget, Wake};
use crate::sources::publisher::{self, Outbox, Publisher};
use crate::sources::relay::{Bus, LinkTimes, Relay};
use crate::sources::socket::Waiter;
use crate::telemetry::BusStatus;

/// Messages are taken while fewer bytes wait for the socket.
const QUEUED_BYTES_MAX: usize = 64 * 1024;
/// The time without an answer after which the connection is left.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The most log lines about refused messages, a second.
const LINES_PER_SECOND: u32 = 1;

/// Publishes the messages of its [`Publisher`], for ever. The only events are `Up` and `Down`.
pub struct RedisPublisher {
    settings: RedisSettings,
    status: Arc<BusStatus>,
    tls: Option<Arc<ClientConfig>>,
    waiter: Waiter,
    outbox: Outbox,
    wake: Wake,
    lines: LogBudget,
    /// The sentinel that answered last.
    first_sentinel: usize,
}

impl RedisPublisher {
    /// Creates the publisher and its handle, which may be used before the connection is there.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or the system has no descriptor left.
    pub fn new(
        settings: RedisSettings,
        status: Arc<BusStatus>,
    ) -> Result<(Self, Publisher), RedisError> {
        let tls = tls_config(&settings)?;
        let waiter = Waiter::new("the Redis publisher");
        let (waiter, wake) = waiter.map_err(|source| RedisError::System { source })?;
        let (handle, outbox) = publisher::publisher(wake.clone());
        let publisher = Self {
            settings,
            status,
            tls,
            waiter,
            outbox,
            wake,
            lines: LogBudget::new(LINES_PER_SECOND),
            first_sentinel: 0,
        };
        Ok((publisher, handle))
    }

    fn use_connection(&mut self, relay: &mut Relay<RedisError>) -> Result<Stop, Stop> {
        let Self {
            settings, waiter, ..
        } = self;
        let tls = self.tls.as_ref();
        let (connection, _, master) = connect(waiter, settings, tls, &mut self.first_sentinel)?;
        self.outbox.discard();
        relay.stands()?;
        let mut session = Session {
            connection,
            outbox: &self.outbox,
            wake: &self.wake,
            lines: &mut self.lines,
            relay,
            asked: VecDeque::new(),
        };
        loop {
            if master.as_ref().is_some_and(Watch::has_moved) {
                let server = session.connection.server().to_owned();
                return Err(RedisError::Moved { server }.into());
            }
            session.turn()?;
        }
    }
}

impl Bus for RedisPublisher {
    type Error = RedisError;
    const NAME: &'static str = "Redis (to publish)";
    const OUTAGE_LOSES_MESSAGES: bool = false;

    fn status(&self) -> &Arc<BusStatus> {
        &self.status
    }

    fn times(&self) -> &LinkTimes {
        &self.settings.times
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<RedisError>) -> Stop {
        self.use_connection(relay).unwrap_or_else(|stop| stop)
    }
}

struct Session<'a, 'w> {
    connection: Connection<'w>,
    outbox: &'a Outbox,
    wake: &'a Wake,
    lines: &'a mut LogBudget,
    relay: &'a Relay<RedisError>,
    /// The time at which each command without an answer was queued.
    asked: VecDeque<Instant>,
}

impl Session<'_, '_> {
    /// Writes as much as possible, reads once, and waits if there was nothing to read.
    fn turn(&mut self) -> Result<(), Stop> {
        let lost = |source| RedisError::Lost { source };
        // Messages published from here on wake this thread again.
        self.wake.awake();
        self.take()?;
        self.connection.flush().map_err(lost)?;
        if self.connection.read().map_err(lost)? {
            while let Some(answer) = self.connection.next_value()? {
                self.answered(answer)?;
            }
            return Ok(());
        }
        let give_up = self.asked.front().map(|asked| *asked + SILENCE_MAX);
        if give_up.is_some_and(|at| Instant::now() >= at) {
            let silent_ms = SILENCE_MAX.as_millis() as u64;
            return Err(RedisError::Silent { silent_ms }.into());
        }
        // Messages left in the outbox wait for room, and so for the socket.
        let until = give_up.unwrap_or_else(|| Instant::now() + SILENCE_MAX);
        Ok(self.connection.wait(until).map_err(lost)?)
    }

    fn take(&mut self) -> Result<(), Stop> {
        while self.connection.queued_bytes() < QUEUED_BYTES_MAX {
            match self.outbox.messages.try_recv() {
                Ok(message) => {
                    let subject = message.subject.as_bytes();
                    let command = [b"PUBLISH".as_slice(), subject, &message.payload];
                    self.connection.queue(command.iter());
                    self.asked.push_back(Instant::now());
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Stop::LoopGone),
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: Value) -> Result<(), Stop> {
        let was_asked = self.asked.pop_front().is_some();
        match answer {
            Value::Integer(_) if was_asked => Ok(()),
            Value::Error(words) if was_asked => {
                if let Some(line) = self.lines.line(self.relay.link.now()) {
                    tracing::warn!(
                        reason = shown(&words),
                        lines_left_out = line.suppressed,
                        "Redis refused a message"
                    );
                }
                Ok(())
            }
            _ => Err(self
                .connection
                .wrong("an answer that fits no question".to_owned())
                .into()),
        }
    }
}

/// The outcome of a mark.
#[derive(Debug)]
pub(super) enum MarkAnswer {
    /// The mark is among the messages of the master.
    Published,
    /// The server is no lone master any more.
    NotMaster,
    /// This user may not publish on the channel; the server's words.
    Refused(String),
}

/// The time that Redis may take for a message.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to Redis for a command that publishes: one connection after the other.
pub struct RedisSenders {
    settings: RedisSettings,
    tls: Option<Arc<ClientConfig>>,
    waiter: Waiter,
}

impl RedisSenders {
    /// Reads the certificates to trust. Does not connect.
    ///
    /// # Errors
    /// The certificates cannot be read, or the system has no descriptor left.
    pub fn new(settings: RedisSettings) -> Result<Self, RedisError> {
        let tls = tls_config(&settings)?;
        let waiter = Waiter::new("weirgate publish");
        let (waiter, _) = waiter.map_err(|source| RedisError::System { source })?;
        Ok(Self {
            settings,
            tls,
            waiter,
        })
    }

    /// Connects.
    ///
    /// # Errors
    /// Redis is away or refuses the login.
    pub fn connect(&mut self) -> Result<RedisSender<'_>, RedisError> {
        let (connection, _, _) =
            connect(&mut self.waiter, &self.settings, self.tls.as_ref(), &mut 0)?;
        Ok(RedisSender { connection })
    }
}

/// Publishes on Redis for a command, one message after the other, and waits: every fault is an error, and
/// nothing is tried again.
pub struct RedisSender<'w> {
    connection: Connection<'w>,
}

impl RedisSender<'_> {
    /// Publishes a mark, and asks for the server's role behind the mark.
    ///
    /// # Errors
    /// The connection is lost, Redis is silent, or refuses for now: the mark may stand or not.
    pub(super) fn publish_mark(
        &mut self,
        channel: &str,
        mark: &str,
    ) -> Result<MarkAnswer, RedisError> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let commands: [&[&str]; 2] = [&["PUBLISH", channel, mark], &["HELLO"]];
        let answers = self.connection.ask(&commands, until)?;
        match answers.first() {
            Some(Value::Integer(_)) => {}
            Some(Value::Error(words)) if words.starts_with("NOPERM") => {
                return Ok(MarkAnswer::Refused(shown(words)));
            }
            _ => return Err(self.connection.wrong("no number of receivers".to_owned())),
        }
        match answers.get(1).is_some_and(says_lone_master) {
            true => Ok(MarkAnswer::Published),
            false => Ok(MarkAnswer::NotMaster),
        }
    }

    /// Adds a message to a stream, with the fields that [`RedisStreamSource`](super::RedisStreamSource) reads.
    /// Returns the id.
    ///
    /// # Errors
    /// The connection is lost, Redis is silent, or this user may not add to the stream.
    pub fn add(&mut self, key: &str, channel: &str, message: &[u8]) -> Result<String, RedisError> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let [key, channel] = [key, channel].map(str::as_bytes);
        let command = [b"XADD", key, b"*", b"channel", channel, b"data", message];
        match self.connection.ask(&[&command], until)?.pop() {
            Some(Value::Bulk(id)) => Ok(String::from_utf8_lossy(&id).into_owned()),
            Some(Value::Error(words)) => Err(RedisError::Refused {
                server: self.connection.server().to_owned(),
                command: "XADD",
                reason: shown(&words),
            }),
            _ => Err(self.connection.wrong("no id of the entry".to_owned())),
        }
    }

    /// Publishes a message. Returns how many connections to Redis got the message.
    ///
    /// # Errors
    /// The connection is lost, Redis is silent, or this user may not publish on the channel.
    pub fn publish(&mut self, channel: &str, message: &[u8]) -> Result<i64, RedisError> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let command = [b"PUBLISH", channel.as_bytes(), message];
        let answer = self.connection.ask(&[&command], until)?.pop();
        match answer {
            Some(Value::Integer(receivers)) => Ok(receivers),
            Some(Value::Error(words)) => Err(RedisError::Refused {
                server: self.connection.server().to_owned(),
                command: "PUBLISH",
                reason: shown(&words),
            }),
            _ => Err(self.connection.wrong("no number of receivers".to_owned())),
        }
    }
}
