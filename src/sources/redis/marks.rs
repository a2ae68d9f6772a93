//! Publishing marks, on a thread and a connection of their own, so that a slow answer delays no message.
//!
//! A mark is published at most once: a second copy would stand at another place among the messages. The
//! server says its role beside each mark: on a replica, messages published there would shift the
//! count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::RedisSenders;
use super::connection::Connection;
use super::error::RedisError;
use super::publish::MarkAnswer;
use super::resp::Value;
use super::settings::RedisSettings;
use crate::base::detached;
use crate::feeds::Mark;

/// The time from mark to mark of an instance.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// News from the publishing thread for the reading thread.
#[derive(Debug, Default)]
struct Learned {
    /// The server is no master any more.
    was_demoted: AtomicBool,
    /// This user may not publish marks.
    is_refused: AtomicBool,
}

/// The way to the publishing thread.
#[derive(Debug)]
pub(super) struct MarkPublisher {
    /// The channel of the marks.
    pub(super) channel: Arc<str>,
    marks: Sender<Mark>,
    learned: Arc<Learned>,
    /// The time of the next mark; `None` while marks must not be published.
    next: Option<Instant>,
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
        let senders = RedisSenders::new(settings)?;
        let thread = MarkThread {
            senders,
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
            next: None,
        })
    }

    /// Handles a new connection of the reading thread.
    pub(super) fn connected(&mut self) {
        self.next = None;
        self.learned.was_demoted.store(false, Relaxed);
        self.learned.is_refused.store(false, Relaxed);
    }

    /// Publishes from here on, beginning now.
    pub(super) fn begin(&mut self) {
        self.next = Some(Instant::now());
    }

    /// The time of the next mark.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next.filter(|_| !self.learned.is_refused.load(Relaxed))
    }

    /// Publishes a mark, if the thread is not busy with the mark before.
    pub(super) fn publish(&mut self, mark: Mark) {
        self.next = Some(Instant::now() + INTERVAL);
        // Full: the server is slow. Ended: the thread could not go on.
        let _ = self.marks.try_send(mark);
    }

    /// Whether the server is no master any more.
    pub(super) fn was_demoted(&self) -> bool {
        self.learned.was_demoted.load(Relaxed)
    }
}

struct MarkThread {
    senders: RedisSenders,
    channel: Arc<str>,
    to_publish: Receiver<Mark>,
    learned: Arc<Learned>,
}

impl MarkThread {
    fn run(mut self) {
        while let Ok(first) = self.to_publish.recv() {
            match self.senders.connect() {
                Ok(mut sender) => {
                    let ended = publish_on(
                        &mut sender,
                        first,
                        &self.channel,
                        &self.to_publish,
                        &self.learned,
                    );
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a mark may not have been published");
                    }
                }
                Err(error) => tracing::debug!(%error, "no connection for marks"),
            }
        }
    }
}

/// Publishes on a connection until an error.
fn publish_on(
    sender: &mut super::RedisSender<'_>,
    first: Mark,
    channel: &str,
    to_publish: &Receiver<Mark>,
    learned: &Learned,
) -> Result<(), RedisError> {
    let mut next = Some(first);
    while let Some(mark) = next {
        match sender.publish_mark(channel, &mark.to_string())? {
            MarkAnswer::Published => {}
            MarkAnswer::NotMaster => {
                learned.was_demoted.store(true, Relaxed);
                return Ok(());
            }
            MarkAnswer::Refused(reason) => {
                learned.is_refused.store(true, Relaxed);
                tracing::warn!(
                    channel,
                    reason,
                    "this user may not publish marks (+publish, &CHANNEL), so positions are valid on \
                     this connection only"
                );
                return Ok(());
            }
        }
        next = to_publish.recv().ok();
    }
    Ok(())
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
pub(super) fn says_lone_master(answer: &Value) -> bool {
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
