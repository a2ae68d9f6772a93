//! The Redis stream source: relays a stream, in which the channel and the payload of a message are fields of an
//! entry, for ever.
//!
//! - A single connection reads with `XREAD`, which waits at the server for the next entry. Nothing is
//!   subscribed, and an outage loses nothing: the stream keeps the messages.
//! - Each connection begins with a look at the newest entry and at the last entry that was read. If the latter
//!   is gone, messages were lost: [`BusEvent::Gap`](crate::feeds::BusEvent::Gap). The same is asked behind each
//!   `XREAD`: entries may have come and gone since the answer before.
//! - A server without an answer for a second more than it may wait is given up after
//!   [`LinkTimes::ping_timeout_ms`](crate::sources::LinkTimes). Because nothing is lost by a new connection, no
//!   second connection looks whether the server is only busy.
//!
//! If the loop's channel is full, the thread waits for room and reads nothing.

mod reader;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use self::reader::BLOCK_MS;
pub use self::reader::{StreamReader, Trouble};
use super::connection::Connection;
use super::error::{RedisError, Stop};
use super::handshake::shown;
use super::resp::{ReadLimits, Value};
use super::sentinel::Watch;
use super::settings::RedisSettings;
use super::{connect, tls_config};
use crate::sources::relay::{Bus, LinkTimes, Relay};
use crate::sources::socket::Waiter;
use crate::sources::stored::{StreamFeed, StreamSettings, Times};
use crate::telemetry::BusStatus;

/// The most items of a list: more parts than a command may have, so no entry has more.
const ITEMS_MAX: usize = 1 << 20;

/// Relays the entries of a stream, for ever.
pub struct RedisStreamSource {
    settings: RedisSettings,
    status: Arc<BusStatus>,
    tls: Option<Arc<ClientConfig>>,
    waiter: Waiter,
    /// The sentinel that answered last.
    first_sentinel: usize,
    reader: StreamReader,
    feed: StreamFeed,
}

impl RedisStreamSource {
    /// Creates a source, which keeps `status` up to date.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or the system has no descriptor left.
    pub fn new(
        settings: RedisSettings,
        stream: StreamSettings,
        status: Arc<BusStatus>,
    ) -> Result<Self, RedisError> {
        let tls = tls_config(&settings)?;
        let waiter = Waiter::new("the Redis source");
        let (waiter, _) = waiter.map_err(|source| RedisError::System { source })?;
        let bytes_max = settings.payload_bytes_max;
        Ok(Self {
            reader: StreamReader::new(&stream.name, stream.history_ms, bytes_max),
            feed: StreamFeed::new(stream, Times::MajorMs),
            settings,
            status,
            tls,
            waiter,
            first_sentinel: 0,
        })
    }

    fn use_connection(&mut self, relay: &mut Relay<RedisError>) -> Result<Stop, Stop> {
        let (mut connection, _, master) = connect(
            &mut self.waiter,
            &self.settings,
            self.tls.as_ref(),
            &mut self.first_sentinel,
        )?;
        connection.set_limits(ReadLimits {
            bulk_bytes_max: self.settings.payload_bytes_max,
            items_max: ITEMS_MAX,
        });
        relay.status.set_up(false);
        self.reader.connected();
        let mut session = Session {
            connection,
            master,
            times: &self.settings.times,
            relay,
        };
        loop {
            turn(&mut self.reader, &mut self.feed, &mut session)?;
        }
    }
}

impl Bus for RedisStreamSource {
    type Error = RedisError;
    const NAME: &'static str = "Redis";
    const OUTAGE_LOSES_MESSAGES: bool = false;

    fn status(&self) -> &Arc<BusStatus> {
        &self.status
    }

    fn times(&self) -> &LinkTimes {
        &self.settings.times
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<RedisError>) -> Stop {
        self.feed.connecting(relay.link.now());
        self.use_connection(relay).unwrap_or_else(|stop| stop)
    }
}

/// Asks the reader's next commands, and hands over what came.
fn turn(
    reader: &mut StreamReader,
    feed: &mut StreamFeed,
    session: &mut Session<'_, '_>,
) -> Result<(), Stop> {
    let answers = session.ask(&reader.commands())?;
    let received = session.relay.link.now();
    let mut told = Vec::new();
    let now_ms = u64::try_from(received.unix_ms).unwrap_or(0);
    let taken = reader.take(answers, now_ms, &mut told);
    if !told.is_empty() {
        session.relay.worked();
    }
    for told in told {
        feed.tell(session.relay, received, told)?;
    }
    taken.map_err(|trouble| session.trouble(trouble))
}

/// A connection in use.
struct Session<'a, 'w> {
    connection: Connection<'w>,
    /// With sentinels: whether this server still is the master.
    master: Option<Watch>,
    times: &'a LinkTimes,
    relay: &'a mut Relay<RedisError>,
}

impl Session<'_, '_> {
    /// Sends commands and waits for an answer to each.
    fn ask(&mut self, commands: &[Vec<String>]) -> Result<Vec<Value>, Stop> {
        for command in commands {
            self.connection.queue(command.iter());
        }
        let asked = Instant::now();
        let until = asked + Duration::from_millis(BLOCK_MS + self.times.ping_timeout_ms);
        let mut answers = Vec::with_capacity(commands.len());
        loop {
            self.connection.flush().map_err(lost)?;
            let has_read = self.connection.read().map_err(lost)?;
            while let Some(value) = self.connection.next_value()? {
                answers.push(value);
            }
            if answers.len() >= commands.len() {
                return Ok(answers);
            }
            if !has_read {
                self.wait(asked, until)?;
            }
        }
    }

    /// Waits for more bytes, without sleeping while the last messages are young.
    fn wait(&mut self, asked: Instant, until: Instant) -> Result<(), Stop> {
        if self.master.as_ref().is_some_and(Watch::has_moved) {
            let server = self.connection.server().to_owned();
            return Err(RedisError::Moved { server }.into());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let silent_ms = asked.elapsed().as_millis() as u64;
            return Err(RedisError::Silent { silent_ms }.into());
        }
        let connection = &mut self.connection;
        if !self.relay.spin(left, || connection.look()).map_err(lost)? {
            connection.wait(until).map_err(lost)?;
        }
        Ok(())
    }

    fn trouble(&self, trouble: Trouble) -> Stop {
        match trouble {
            Trouble::Wrong(reason) => self.connection.wrong(reason.to_owned()).into(),
            Trouble::Refused(words) => RedisError::Refused {
                server: self.connection.server().to_owned(),
                command: "to read the stream",
                reason: shown(&words),
            }
            .into(),
        }
    }
}

fn lost(source: std::io::Error) -> Stop {
    RedisError::Lost { source }.into()
}
