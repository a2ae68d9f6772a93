//! The kept feed on a connection: positions as soon as all names are subscribed, and marks, to make positions
//! valid on other instances, once the channel of the marks is subscribed too.
//!
//! Marks are published on a thread and a connection of their own, so that a slow answer delays no message. A mark is
//! published at most once: a second copy would stand at another place among the messages. The server says its role
//! beside each mark: on a replica, messages published there would shift the count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::connection::Connection;
use super::error::{RedisError, Stop, shown};
use super::resp::Value;
use super::servers::{HANDSHAKE_TIMEOUT, Servers, waiter};
use super::session::{Expected, Session};
use crate::base::detached;
use crate::feeds::{Mark, Place, Subscription};
use crate::sources::kept::KeptFeed;
use crate::sources::socket::Waiter;
use crate::telemetry::BusStatus;

/// The time from mark to mark of an instance.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long marks of others count after the server has confirmed to be a lone master.
const ROLE_HOLDS: Duration = Duration::from_secs(3);
/// The time for the answer to a mark.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The kept feed, and the way to publish its marks.
pub(super) struct Kept {
    feed: KeptFeed,
    marks: MarkPublisher,
    /// Whether the server was a lone master when this connection was made.
    is_lone_master: bool,
}

impl Kept {
    /// Starts the thread for publishing marks on `channel`.
    ///
    /// # Errors
    /// The system has no descriptor or thread left.
    pub(super) fn start(
        feed: KeptFeed,
        servers: Servers,
        channel: &str,
    ) -> Result<Self, RedisError> {
        Ok(Self {
            feed,
            marks: MarkPublisher::start(servers, channel.into())?,
            is_lone_master: false,
        })
    }

    /// Handles a new connection, before its first subscription.
    pub(super) fn connected(
        &mut self,
        connection: &mut Connection<'_>,
        status: &BusStatus,
    ) -> Result<(), RedisError> {
        status.set_positions_shared(false);
        self.feed.connected(true);
        self.marks.connected();
        let answer = connection.ask_one(&["HELLO"], HANDSHAKE_TIMEOUT)?;
        self.is_lone_master = says_lone_master(&answer);
        Ok(())
    }

    /// Notes the answer of the server for a name.
    pub(super) fn settle(&mut self, subscription: &Subscription, stands: bool) {
        self.feed.settle(subscription, stands);
    }

    /// Whether a message on this channel is a mark. No client gets marks.
    pub(super) fn is_mark(&self, channel: &str) -> bool {
        *self.marks.channel == *channel
    }
}

impl Session<'_, '_> {
    /// Begins to count, if all names of the feed are subscribed: from a mark of this connection alone, and
    /// from published marks as soon as their channel is subscribed, if the server permits.
    pub(super) fn begin_feed(&mut self) -> Result<(), Stop> {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.feed.may_begin()) else {
            return Ok(());
        };
        self.relay.link.send(kept.feed.begin())?;
        if kept.is_lone_master {
            self.connection.queue(&["SUBSCRIBE", &*kept.marks.channel]);
            self.expected.push_back(Expected::Marks);
        }
        Ok(())
    }

    /// Handles the confirmation of the marks' channel: marks of all instances count from here on.
    pub(super) fn marks_confirmed(&mut self, name: &Value) -> Result<(), Stop> {
        self.expected.pop_front();
        match (&mut self.kept, name) {
            (Some(kept), Value::Bulk(name)) if *name == kept.marks.channel.as_bytes() => {
                kept.marks.begin();
                Ok(())
            }
            _ => Err(self.wrong("a confirmation of what was not asked")),
        }
    }

    /// Handles the refusal of the marks' channel.
    pub(super) fn marks_refused(&mut self, words: &str) {
        let channel = self.kept.as_ref().map(|kept| &*kept.marks.channel);
        tracing::warn!(
            channel,
            reason = shown(words),
            "this user may not subscribe to the marks (&CHANNEL), so positions are valid on this \
             connection only"
        );
    }

    /// Takes a message on the marks' channel. A copy by a pattern is no mark.
    pub(super) fn take_mark(&mut self, is_copy: bool, payload: &[u8]) -> Result<(), Stop> {
        if let Some(kept) = &mut self.kept
            && !is_copy
            && kept.marks.may_share()
            && let Some(event) = kept.feed.marked(payload)
        {
            kept.marks.is_shared = true;
            self.relay.status.set_positions_shared(true);
            self.relay.link.send(event)?;
        }
        Ok(())
    }

    /// Publishes the due mark, and counts from a mark of this connection alone if published marks count
    /// no longer. Returns the time of the next mark.
    pub(super) fn mark(&mut self) -> Result<Option<Instant>, Stop> {
        let Some(kept) = &mut self.kept else {
            return Ok(None);
        };
        if kept.marks.learned.is_demoted.load(Relaxed) {
            return Err(self.connection.moved().into());
        }
        if kept.marks.is_shared && !kept.marks.may_share() {
            kept.marks.is_shared = false;
            self.relay.status.set_positions_shared(false);
            self.relay.link.send(kept.feed.begin())?;
        }
        if kept.marks.due().is_some_and(|due| due <= Instant::now()) {
            let mark = kept.feed.next_mark();
            kept.marks.publish(mark);
        }
        Ok(kept.marks.due())
    }

    /// The place of a message; `None` for a copy.
    pub(super) fn place(&mut self, pattern: Option<&str>, subject: &str) -> Option<Place> {
        let Some(kept) = &mut self.kept else {
            return Some(Place::Outside);
        };
        kept.feed
            .place(pattern.unwrap_or(subject), pattern.is_some(), subject)
    }

    /// The place of a message with a cut channel name.
    ///
    /// # Errors
    /// Nobody can say whether an earlier name of the feed matches the whole name, so the count is lost.
    pub(super) fn place_of_cut(&mut self, by: &Subscription) -> Result<Place, Stop> {
        let Some(kept) = &mut self.kept else {
            return Ok(Place::Outside);
        };
        let place = kept.feed.place_of_unknown(by);
        place.ok_or_else(|| self.wrong("a channel whose name is too long"))
    }
}

/// News from the publishing thread for the reading thread about a connection of the reading thread.
#[derive(Debug, Default)]
struct Learned {
    /// The server is no master any more.
    is_demoted: AtomicBool,
    /// This user may not publish marks.
    is_refused: AtomicBool,
    /// When the server was a lone master the last time, milliseconds since [`MarkPublisher::origin`]: at the start
    /// of the connection, or beside a mark.
    master_ms: AtomicU64,
}

/// A mark to publish.
#[derive(Debug)]
struct ToPublish {
    mark: Mark,
    /// Of the reading thread's connection: after a failover the mark goes to another server.
    learned: Arc<Learned>,
    /// Milliseconds since [`MarkPublisher::origin`].
    at_ms: u64,
}

/// The way to the publishing thread.
#[derive(Debug)]
struct MarkPublisher {
    /// The channel of the marks.
    channel: Arc<str>,
    marks: Sender<ToPublish>,
    /// Of this connection.
    learned: Arc<Learned>,
    /// The time of the next mark; `None` while marks must not be published.
    next: Option<Instant>,
    origin: Instant,
    /// Whether positions are those of published marks.
    is_shared: bool,
}

impl MarkPublisher {
    /// Starts the thread. The thread ends with this value.
    fn start(servers: Servers, channel: Arc<str>) -> Result<Self, RedisError> {
        // A single mark at a time: a mark behind a slow answer would be useless.
        let (marks, to_publish) = bounded(1);
        let (waiter, _) = waiter("the publisher of marks")?;
        let thread = MarkThread {
            channel: Arc::clone(&channel),
            to_publish,
        };
        detached("redis-marks", move || thread.run(servers, waiter))
            .map_err(|source| RedisError::System { source })?;
        Ok(Self {
            channel,
            marks,
            learned: Arc::default(),
            next: None,
            origin: Instant::now(),
            is_shared: false,
        })
    }

    /// Handles a new connection of the reading thread, before the server is asked for its role.
    fn connected(&mut self) {
        self.learned = Arc::default();
        self.learned.master_ms.store(self.now_ms(), Relaxed);
        self.next = None;
        self.is_shared = false;
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// Whether published marks count, on a connection to a server that was a lone master: the server has said so
    /// lately. Without marks of this instance nobody asks, and a server that became a replica would go unnoticed.
    fn may_share(&self) -> bool {
        let said_ms = self.learned.master_ms.load(Relaxed);
        let is_refused = self.learned.is_refused.load(Relaxed);
        let holds_ms = ROLE_HOLDS.as_millis() as u64;
        !is_refused && self.now_ms().saturating_sub(said_ms) < holds_ms
    }

    /// Publishes from here on, beginning now.
    fn begin(&mut self) {
        self.next = Some(Instant::now());
    }

    /// The time of the next mark.
    fn due(&self) -> Option<Instant> {
        let is_refused = self.learned.is_refused.load(Relaxed);
        self.next.filter(|_| !is_refused)
    }

    /// Publishes a mark, if the thread is not busy with the mark before.
    fn publish(&mut self, mark: Mark) {
        self.next = Some(Instant::now() + INTERVAL);
        // Full: the server is slow. Ended: the thread could not go on.
        let _ = self.marks.try_send(ToPublish {
            mark,
            learned: Arc::clone(&self.learned),
            at_ms: self.now_ms(),
        });
    }
}

struct MarkThread {
    channel: Arc<str>,
    to_publish: Receiver<ToPublish>,
}

impl MarkThread {
    fn run(self, mut servers: Servers, mut waiter: Waiter) {
        let mut next = self.to_publish.recv().ok();
        while let Some(first) = next {
            let connected = servers.connect(&mut waiter);
            let published = connected.and_then(|connection| self.publish_on(connection, first));
            next = published.unwrap_or_else(|error| {
                // A mark is never published again.
                tracing::debug!(%error, "a mark may not have been published");
                None
            });
            next = next.or_else(|| self.to_publish.recv().ok());
        }
    }

    /// Publishes on a connection until the connection is useless. Returns a mark for another server.
    fn publish_on(
        &self,
        mut connection: Connection<'_>,
        first: ToPublish,
    ) -> Result<Option<ToPublish>, RedisError> {
        let learned = Arc::clone(&first.learned);
        let mut next = first;
        loop {
            let (mark, channel) = (next.mark.to_string(), &*self.channel);
            let commands = [vec!["PUBLISH", channel, &mark], vec!["HELLO"]];
            let answers = connection.ask(&commands, ANSWER_TIMEOUT)?;
            match answers.first() {
                Some(Value::Integer(_)) => {}
                Some(Value::Error(words)) if words.starts_with("NOPERM") => {
                    learned.is_refused.store(true, Relaxed);
                    tracing::warn!(
                        channel,
                        reason = shown(words),
                        "this user may not publish marks (+publish, &CHANNEL), so positions are valid on \
                         this connection only"
                    );
                    return Ok(None);
                }
                _ => return Err(connection.wrong("no number of receivers")),
            }
            if !answers.get(1).is_some_and(says_lone_master) {
                learned.is_demoted.store(true, Relaxed);
                return Ok(None);
            }
            learned.master_ms.store(next.at_ms, Relaxed);
            match self.to_publish.recv() {
                Ok(mark) if Arc::ptr_eq(&mark.learned, &learned) => next = mark,
                Ok(mark) => return Ok(Some(mark)),
                Err(_) => return Ok(None),
            }
        }
    }
}

/// Whether marks of others count on a connection with this answer to `HELLO`: the server is a master and alone. A
/// server before Redis 6 cannot say so.
pub fn says_lone_master(hello: &Value) -> bool {
    let value_of = |key| hello_field(hello, key).unwrap_or_default();
    value_of(b"mode") == b"standalone" && value_of(b"role") == b"master"
}

/// A field of the answer to `HELLO`.
pub(super) fn hello_field<'a>(hello: &'a Value, key: &[u8]) -> Option<&'a [u8]> {
    let Value::Array(items) = hello else {
        return None;
    };
    let is_key = |pair: &&[Value]| matches!(&pair[0], Value::Bulk(found) if found == key);
    match items.chunks_exact(2).find(is_key) {
        Some([_, Value::Bulk(value)]) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_count_while_the_server_says_that_it_is_a_lone_master() {
        let (marks, _to_publish) = bounded(1);
        let mut publisher = MarkPublisher {
            channel: "m".into(),
            marks,
            learned: Arc::default(),
            next: None,
            origin: Instant::now() - 2 * ROLE_HOLDS,
            is_shared: false,
        };
        publisher.connected();
        assert!(publisher.may_share(), "said on the connection itself");
        let learned = Arc::clone(&publisher.learned);
        publisher.connected();
        publisher.learned.master_ms.store(0, Relaxed);
        assert!(!publisher.may_share(), "long ago");
        learned.master_ms.store(publisher.now_ms(), Relaxed);
        assert!(
            !publisher.may_share(),
            "beside a mark for another connection"
        );
        let learned = Arc::clone(&publisher.learned);
        learned.master_ms.store(publisher.now_ms(), Relaxed);
        assert!(publisher.may_share(), "beside a mark");
        learned.is_refused.store(true, Relaxed);
        assert!(!publisher.may_share(), "nobody will say so again");
        publisher.connected();
        assert!(publisher.may_share());
    }
}
