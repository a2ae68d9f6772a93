//! The Redis stream source: relays a stream, for ever. Each entry of the stream is a message, with its channel and its
//! payload as fields.
//!
//! - A single connection reads with `XREAD`, which waits at the server for the next entry. Nothing is subscribed, and
//!   an outage loses nothing, because the stream keeps the messages.
//! - Each connection first looks at the newest entry, and whether the entry that was read last is still there. If it is
//!   gone, and the counters of the stream do not prove that only entries that were read are gone, messages were lost:
//!   [`BusEvent::Gap`](weirgate_core::BusEvent::Gap). The source asks the same after each `XREAD`, because entries may
//!   have come and gone since the answer before.
//! - Entries that are there already are read with `XRANGE`, [as many in an answer](range) as Redis has room for; the parser holds
//!   one entry at a time.
//! - If the server sends nothing for [`LinkTimes::ping_timeout_ms`](crate::LinkTimes) longer than an `XREAD`
//!   may wait, the source connects again. A new connection loses nothing, so no second connection is needed to see
//!   whether the server is only busy.
//!
//! If the loop's channel is full, the thread waits for room and reads nothing.

mod entry;
mod pages;
mod prints;
mod range;
mod reader;
mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::entry::{CHANNEL, DATA};
use self::pages::RedisStreamPages;
use self::reader::BLOCK_MS;
pub use self::reader::{RedisStreamReader, StreamReadError};
pub(super) use self::state::{STATE, StateAnswer};
use super::error::{RedisError, Stop, shown_trimmed};
use super::resp::{EntryField, ReadLimits};
use super::servers::{RedisServers, waiter};
use super::settings::RedisSettings;
use crate::kept::{SourceProgress, StreamFeed, StreamSettings};
use crate::relay::{self, Bus, Relay};
use crate::server_words::shown;
use crate::socket::Waiter;
use crate::{BusInterest, LinkTimes, NAME_BYTES_MAX};
use weirgate_runtime::{BusStatus, Source, SourceLink};

/// The most items of a list other than the fields of an entry: a command asks for [`range::ENTRIES_MAX`] entries and the
/// last one.
const ITEMS_MAX: usize = 1_024;
/// The code of the error for a key that has no stream.
const WRONG_TYPE: &str = "WRONGTYPE";

/// The fields of an entry. Of a name no more is read than clients may get.
const ENTRY_FIELDS: [EntryField; 2] = [
    EntryField {
        name: CHANNEL,
        bytes_max: NAME_BYTES_MAX,
    },
    EntryField {
        name: DATA,
        bytes_max: usize::MAX,
    },
];

/// The limits for answers about a stream with payloads of up to so many bytes.
pub(super) const fn read_limits(payload_bytes_max: usize) -> ReadLimits {
    ReadLimits {
        bulk_bytes_max: payload_bytes_max,
        items_max: ITEMS_MAX,
        entry_fields: &ENTRY_FIELDS,
        singly: false,
    }
}

/// Relays the entries of a stream, for ever.
pub struct RedisStreamSource {
    servers: RedisServers,
    waiter: Waiter,
    status: Arc<BusStatus>,
    reader: RedisStreamReader,
    progress: SourceProgress,
    feed: StreamFeed,
    /// What answers clients that ask for all messages of names; until its thread starts.
    pages: Option<RedisStreamPages>,
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
        let bytes_max = settings.payload_bytes_max;
        Ok(Self {
            servers: RedisServers::new(settings)?,
            // Without the waker: nobody wakes this thread.
            waiter: waiter("the Redis source")?.0,
            status,
            reader: RedisStreamReader::new(
                &stream.name,
                stream.history_ms,
                bytes_max,
                stream.answer_bytes_max,
            ),
            progress: SourceProgress::default(),
            feed: StreamFeed::of_redis(stream),
            pages: None,
        })
    }

    /// Also answers clients that ask for all messages of names, in pages. Returns the handle for their questions.
    ///
    /// # Errors
    /// As of [`Self::new`].
    pub fn with_pages(mut self) -> Result<(Self, BusInterest), RedisError> {
        // Both ask the same sentinel first.
        let servers = self.servers.clone();
        let (status, progress) = (Arc::clone(&self.status), self.progress.clone());
        let (pages, interest) =
            RedisStreamPages::new(servers, self.reader.key(), status, progress)?;
        self.pages = Some(pages);
        Ok((self, interest))
    }

    /// Connects, then reads the stream until the connection is lost.
    fn use_connection(&mut self, relay: &mut Relay<RedisError>) -> Result<Stop, Stop> {
        let mut connection = self.servers.connect_and_watch(&mut self.waiter)?;
        let settings = &self.servers.settings;
        let limits = read_limits(settings.payload_bytes_max);
        // `false`: the bus answers, but the stream is not read to its end yet.
        relay.status.set_up(false);
        self.reader.connected();
        self.progress.connected();
        let patience = Duration::from_millis(BLOCK_MS + settings.times.ping_timeout_ms);
        let mut events = Vec::new();
        loop {
            for command in self.reader.commands() {
                connection.queue(&command);
            }
            let asked = Instant::now();
            while self.reader.waits() {
                connection.reader.set_limits(ReadLimits {
                    singly: self.reader.takes_entries(),
                    ..limits
                });
                let answer = connection.next_answer(Some(&mut *relay), asked, patience)?;
                let received = relay.link.now();
                let now_ms = u64::try_from(received.unix_ms()).unwrap_or(0);
                let bytes = connection.reader.take_bytes();
                let taken = self.reader.take(answer, bytes, now_ms, &mut events);
                if !events.is_empty() {
                    // Before the loop gets the events: the pages must not end before an entry that the loop has.
                    self.progress.read(self.reader.reached());
                    relay.note_work();
                }
                for event in events.drain(..) {
                    self.feed.hand_over(relay, received, event)?;
                }
                taken.map_err(|trouble| match trouble {
                    StreamReadError::Wrong(reason) => connection.wrong(reason),
                    StreamReadError::Behind => RedisError::Behind(connection.server()),
                    StreamReadError::CatchingUp => RedisError::CatchingUp(connection.server()),
                    StreamReadError::Refused(words) if words.starts_with(WRONG_TYPE) => {
                        RedisError::NoStream {
                            server: connection.server(),
                            key: shown(self.reader.key()),
                            reason: shown_trimmed(&words),
                        }
                    }
                    StreamReadError::Refused(words) => {
                        connection.refused("to read the stream", &words)
                    }
                })?;
            }
            // All answers have come, so none has been arriving for any time.
            relay.lag.answer_comes_for(&relay.status, Duration::ZERO);
        }
    }
}

impl Source for RedisStreamSource {
    fn run(mut self: Box<Self>, link: SourceLink) {
        if let Some(pages) = self.pages.take() {
            pages.start(link.another());
        }
        relay::run(&mut *self, link);
    }
}

impl Bus for RedisStreamSource {
    type Error = RedisError;
    const NAME: &'static str = "Redis";
    const OUTAGE_LOSES_MESSAGES: bool = false;

    fn status_and_times(&self) -> (&Arc<BusStatus>, &LinkTimes) {
        (&self.status, &self.servers.settings.times)
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<RedisError>) -> Stop {
        self.feed.connecting(relay.link.now());
        let stop = self.use_connection(relay).unwrap_or_else(|stop| stop);
        self.servers.note_end(&stop);
        stop
    }
}
