//! Publishing marks, on a thread and a connection of their own, so that a slow answer delays no message.
//!
//! A mark is published at most once: a second copy would stand at another place among the messages. The
//! server says its role beside each mark: on a replica, messages published there would shift the
//! count.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::connection::Connection;
use super::error::RedisError;
use super::publish::{MarkAnswer, RedisSender, RedisSenders};
use super::resp::Value;
use super::settings::RedisSettings;
use crate::base::detached;
use crate::feeds::Mark;

/// The time from mark to mark of an instance.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// How long marks of others count after the server has said that it is a lone master.
const ROLE_HOLDS: Duration = Duration::from_secs(3);

/// News from the publishing thread for the reading thread: the connection for which the news is, by its
/// number.
#[derive(Debug, Default)]
struct Learned {
    /// The server is no master any more.
    demoted: AtomicU64,
    /// This user may not publish marks.
    refused: AtomicU64,
    /// The server was a lone master beside a mark.
    master: AtomicU64,
    /// When that mark was published, milliseconds since [`MarkPublisher::origin`].
    master_ms: AtomicU64,
}

/// A mark to publish.
#[derive(Clone, Copy, Debug)]
struct ToPublish {
    mark: Mark,
    /// The number of the reading thread's connection: after a failover the mark goes to another server.
    connection: u64,
    /// Milliseconds since [`MarkPublisher::origin`].
    at_ms: u64,
}

/// The way to the publishing thread.
#[derive(Debug)]
pub(super) struct MarkPublisher {
    /// The channel of the marks.
    pub(super) channel: Arc<str>,
    marks: Sender<ToPublish>,
    learned: Arc<Learned>,
    /// Counts the connections of the reading thread, from 1.
    connection: u64,
    /// The time of the next mark; `None` while marks must not be published.
    next: Option<Instant>,
    origin: Instant,
    /// When this connection was made, to a lone master; milliseconds since the origin.
    connected_ms: u64,
    /// Whether positions are those of published marks.
    pub(super) is_shared: bool,
}

impl MarkPublisher {
    /// Starts the thread. The thread ends with this value.
    ///
    /// # Errors
    /// The certificates to trust cannot be read, or the system has no descriptor or thread left.
    pub(super) fn start(settings: RedisSettings, channel: Arc<str>) -> Result<Self, RedisError> {
        // A single mark at a time: a mark behind a slow answer would be useless.
        let (marks, to_publish) = bounded(1);
        let learned = Arc::new(Learned::default());
        let thread = MarkThread {
            senders: RedisSenders::new(settings)?,
            channel: Arc::clone(&channel),
            to_publish,
            learned: Arc::clone(&learned),
        };
        detached("redis-marks", move || thread.run())
            .map_err(|source| RedisError::System { source })?;
        Ok(Self {
            channel,
            marks,
            learned,
            connection: 0,
            next: None,
            origin: Instant::now(),
            connected_ms: 0,
            is_shared: false,
        })
    }

    /// Handles a new connection of the reading thread, before the server is asked for its role.
    pub(super) fn connected(&mut self) {
        self.connection += 1;
        self.next = None;
        self.connected_ms = self.now_ms();
        self.is_shared = false;
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// Whether published marks count, on a connection to a server that was a lone master: the server has said so
    /// lately. Without marks of this instance nobody asks, and a server that became a replica would go unnoticed.
    pub(super) fn may_share(&self) -> bool {
        let learned = &self.learned;
        let said_ms = match learned.master.load(Acquire) == self.connection {
            true => learned.master_ms.load(Relaxed),
            false => self.connected_ms,
        };
        let holds_ms = ROLE_HOLDS.as_millis() as u64;
        let is_refused = learned.refused.load(Relaxed) == self.connection;
        !is_refused && self.now_ms().saturating_sub(said_ms) < holds_ms
    }

    /// Publishes from here on, beginning now.
    pub(super) fn begin(&mut self) {
        self.next = Some(Instant::now());
    }

    /// The time of the next mark.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_refused = self.learned.refused.load(Relaxed) == self.connection;
        self.next.filter(|_| !is_refused)
    }

    /// Publishes a mark, if the thread is not busy with the mark before.
    pub(super) fn publish(&mut self, mark: Mark) {
        self.next = Some(Instant::now() + INTERVAL);
        // Full: the server is slow. Ended: the thread could not go on.
        let _ = self.marks.try_send(ToPublish {
            mark,
            connection: self.connection,
            at_ms: self.now_ms(),
        });
    }

    /// Whether the server is no master any more.
    pub(super) fn was_demoted(&self) -> bool {
        self.learned.demoted.load(Relaxed) == self.connection
    }
}

struct MarkThread {
    senders: RedisSenders,
    channel: Arc<str>,
    to_publish: Receiver<ToPublish>,
    learned: Arc<Learned>,
}

impl MarkThread {
    fn run(mut self) {
        let mut next = self.to_publish.recv().ok();
        while let Some(first) = next {
            let published = self.senders.connect().and_then(|sender| {
                let news = (&*self.channel, &self.to_publish, &*self.learned);
                publish_on(sender, first, news)
            });
            next = published.unwrap_or_else(|error| {
                // A mark is never published again.
                tracing::debug!(%error, "a mark may not have been published");
                None
            });
            next = next.or_else(|| self.to_publish.recv().ok());
        }
    }
}

/// Publishes on a connection until the connection is useless. Returns a mark for another server.
fn publish_on(
    mut sender: RedisSender<'_>,
    first: ToPublish,
    (channel, to_publish, learned): (&str, &Receiver<ToPublish>, &Learned),
) -> Result<Option<ToPublish>, RedisError> {
    let mut next = first;
    loop {
        match sender.publish_mark(channel, &next.mark.to_string())? {
            MarkAnswer::Published => {
                learned.master_ms.store(next.at_ms, Relaxed);
                learned.master.store(next.connection, Release);
            }
            MarkAnswer::NotMaster => {
                learned.demoted.store(next.connection, Relaxed);
                return Ok(None);
            }
            MarkAnswer::Refused(reason) => {
                learned.refused.store(next.connection, Relaxed);
                tracing::warn!(
                    channel,
                    reason,
                    "this user may not publish marks (+publish, &CHANNEL), so positions are valid on \
                     this connection only"
                );
                return Ok(None);
            }
        }
        match to_publish.recv() {
            Ok(mark) if mark.connection == first.connection => next = mark,
            Ok(mark) => return Ok(Some(mark)),
            Err(_) => return Ok(None),
        }
    }
}

/// Whether marks of others count on a connection: the server is a master and alone. A server before Redis 6
/// cannot say so.
pub(super) fn is_lone_master(
    connection: &mut Connection<'_>,
    until: Instant,
) -> Result<bool, RedisError> {
    let answers = connection.ask(&[&["HELLO"]], until)?;
    Ok(answers.first().is_some_and(says_lone_master))
}

/// Whether the answer to `HELLO` is from a master without a cluster.
pub fn says_lone_master(answer: &Value) -> bool {
    let Value::Array(items) = answer else {
        return false;
    };
    let value_of = |key: &[u8]| {
        let mut pairs = items.chunks_exact(2);
        let pair = pairs.find(|pair| matches!(&pair[0], Value::Bulk(found) if found == key));
        match pair.map(|pair| &pair[1]) {
            Some(Value::Bulk(value)) => value.as_slice(),
            _ => b"",
        }
    };
    value_of(b"mode") == b"standalone" && value_of(b"role") == b"master"
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
            connection: 0,
            next: None,
            origin: Instant::now() - 2 * ROLE_HOLDS,
            connected_ms: 0,
            is_shared: false,
        };
        publisher.connected();
        assert!(publisher.may_share(), "said on the connection itself");
        publisher.connected_ms = 0;
        assert!(!publisher.may_share(), "long ago");
        let learned = Arc::clone(&publisher.learned);
        learned.master_ms.store(publisher.now_ms(), Relaxed);
        assert!(
            !publisher.may_share(),
            "beside a mark for another connection"
        );
        learned.master.store(publisher.connection, Relaxed);
        assert!(publisher.may_share(), "beside a mark");
        learned.refused.store(publisher.connection, Relaxed);
        assert!(!publisher.may_share(), "nobody will say so again");
        publisher.connected();
        assert!(publisher.may_share());
    }
}
