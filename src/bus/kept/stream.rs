//! The kept feed of a bus with streams. The messages of a stream have the same ids for all instances, and the stream keeps
//! them during an outage. Each bus has a reader of its streams; here its results ([`KeptEvent`]) become events for the loop.

use std::error::Error;

use crate::relay::Relay;
use crate::server_words::shown;
use weirgate_core::{
    BusEvent, BusMessage, EntryHash, FeedNotice, Place, Position, ReadTo, SkippedMessage, StoredId,
    Subscription,
};
use weirgate_runtime::LoopGone;
use weirgate_wire::auth::{NamePatterns, StreamSubjects};
use weirgate_wire::base::{LogBudget, Now};

/// The most log lines about losses, a second.
const LINES_PER_SECOND: u32 = 5;

/// The settings of the stream of the bus that is the kept feed.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// The name of the stream, or the key.
    pub name: String,
    /// At the start, messages of this age and younger are read, milliseconds.
    pub history_ms: u64,
    /// At the start, no more messages are read than fit in so many bytes of memory, roughly.
    pub history_bytes_max: usize,
    /// On Redis, the payloads in an answer that is held until it is checked have at most so many bytes, unless a single
    /// payload has more.
    pub answer_bytes_max: usize,
    /// The names to relay; `None`: all.
    pub only: Option<NamePatterns>,
}

/// A message or a fault that the reader of a stream has found, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptEvent {
    /// A message.
    Message {
        /// The id.
        id: StoredId,
        /// The hash of the message, if the bus may give the id to another one.
        hash: Option<EntryHash>,
        /// The subject or channel.
        subject: String,
        /// The payload, cut after the first byte over the limit.
        payload: Vec<u8>,
        /// Whether the value of the subject was deleted; the payload is empty.
        is_deletion: bool,
        /// Whether the message was stored before this process first read the stream. It is then history, for
        /// clients that resume.
        is_old: bool,
    },
    /// An entry that no instance can read as a message.
    Bad {
        /// The id.
        id: StoredId,
        /// The fault.
        why: &'static str,
    },
    /// Messages after the last one that was relayed are missing.
    Lost,
    /// Messages after the last one that was relayed are missing, and the last [`KeptEvent::Lost`] has reported them already.
    Hole,
    /// Whether messages after the last one that was relayed may be missing, which the reader is about to find out. `true`
    /// while in doubt: there was an answer, and later messages are in doubt.
    InDoubt(bool),
    /// The newest message of the stream, which is not relayed.
    Head {
        /// The id.
        id: StoredId,
        /// As of [`KeptEvent::Message`].
        hash: Option<EntryHash>,
    },
    /// The subjects of the messages in the stream.
    Subjects(StreamSubjects),
    /// From here on, messages come as they are stored. Said once for each connection.
    CaughtUp,
    /// How far the reader is behind the newest message.
    Lag {
        /// The number of messages; `None`: the bus gives no number.
        messages: Option<u64>,
        /// The time between the storage of the last message that was read and that of the newest, or for how long the
        /// reader is behind, milliseconds.
        ms: u64,
    },
}

/// Turns what the reader of a stream has found ([`KeptEvent`]) into events for the loop.
#[derive(Debug)]
pub struct StreamFeed {
    settings: StreamSettings,
    /// A hash of the name of the stream: positions in another stream are not valid here.
    feed_hash: u32,
    storage_time: StorageTime,
    /// The first attempt to connect, which is about the start of this process, Unix milliseconds; `None` before.
    started_ms: Option<i64>,
    /// The id of the last message.
    last: Option<StoredId>,
    /// How far the reader has read, as the loop knows it.
    read_to: ReadTo,
    lines: LogBudget,
}

/// The part of an id with the time of storage.
#[derive(Clone, Copy, Debug)]
enum StorageTime {
    /// Redis: the first part, Unix milliseconds.
    MajorMs,
    /// JetStream: the second part, Unix nanoseconds.
    MinorNs,
}

impl StorageTime {
    /// The time of storage, Unix microseconds.
    const fn stored_us(self, id: StoredId) -> u64 {
        match self {
            Self::MajorMs => id.major.saturating_mul(1_000),
            Self::MinorNs => id.minor / 1_000,
        }
    }
}

/// The place of a message of a JetStream stream in the kept feed, with its position.
pub(crate) fn place_in(stream: &str, id: StoredId) -> Place {
    Place::Kept(Some(Position::stored(
        Position::feed_hash(stream.bytes()),
        id,
    )))
}

/// The time at which JetStream stored a message.
pub(crate) fn stored_at(id: StoredId, now: Now) -> Now {
    let unix_us = i64::try_from(StorageTime::MinorNs.stored_us(id)).unwrap_or(now.unix_us);
    Now { unix_us, ..now }
}

impl StreamFeed {
    /// Creates the feed of a Redis stream.
    pub fn of_redis(settings: StreamSettings) -> Self {
        Self::new(settings, StorageTime::MajorMs)
    }

    /// Creates the feed of a JetStream stream.
    pub(crate) fn of_jetstream(settings: StreamSettings) -> Self {
        Self::new(settings, StorageTime::MinorNs)
    }

    fn new(settings: StreamSettings, storage_time: StorageTime) -> Self {
        Self {
            feed_hash: Position::feed_hash(settings.name.bytes()),
            settings,
            storage_time,
            started_ms: None,
            last: None,
            read_to: ReadTo::End,
            lines: LogBudget::new(LINES_PER_SECOND),
        }
    }

    /// Records the first attempt to connect: no client was accepted before.
    pub fn connecting(&mut self, now: Now) {
        self.started_ms.get_or_insert_with(|| now.unix_ms());
    }

    /// Hands a result of the reader to the loop. `received` is the time at which its bytes arrived.
    ///
    /// # Errors
    /// The loop is gone.
    pub(crate) fn hand_over<E: Error>(
        &mut self,
        relay: &mut Relay<E>,
        received: Now,
        event: KeptEvent,
    ) -> Result<(), LoopGone> {
        if let Some(read_to) = self.read_to(&event) {
            relay.link.send(BusEvent::ReadTo(read_to))?;
        }
        if event == KeptEvent::CaughtUp {
            let away_ms = relay.report_up()?;
            // The ids are the same for all instances.
            relay.status.set_positions_shared(true);
            let stream = shown(&self.settings.name);
            tracing::info!(stream, away_ms, "reading the stream");
        }
        match event {
            KeptEvent::Lag { messages, ms } => relay.lag.note_distance(&relay.status, messages, ms),
            KeptEvent::Message {
                id, is_old: false, ..
            } => relay
                .status
                .count_arrival(received, self.storage_time.stored_us(id)),
            _ => {}
        }
        match self.event(received, event) {
            Some(event) => relay.link.send(event),
            None => Ok(()),
        }
    }

    /// How far the reader has read by this event of a Redis stream, if the loop does not know that yet. No gateway on
    /// JetStream uses it.
    fn read_to(&mut self, event: &KeptEvent) -> Option<ReadTo> {
        let StorageTime::MajorMs = self.storage_time else {
            return None;
        };
        let read_to = match event {
            KeptEvent::Message { id, .. } | KeptEvent::Bad { id, .. } => {
                self.last = Some(*id);
                return None;
            }
            // Messages come from here on, but the reader has not said yet how many were stored before.
            KeptEvent::CaughtUp => ReadTo::Unknown,
            KeptEvent::Lag {
                messages: Some(0), ..
            } => ReadTo::End,
            KeptEvent::Lag { .. } => self.last.map_or(ReadTo::Unknown, |last| {
                ReadTo::StoredMs(i64::try_from(last.major).unwrap_or(i64::MAX))
            }),
            _ => return None,
        };
        (std::mem::replace(&mut self.read_to, read_to) != read_to).then_some(read_to)
    }

    /// The event for the loop; `None` for a message of a name that is not relayed, and for [`KeptEvent::Lag`]. The caller
    /// reports [`BusEvent::Up`] before the event of [`KeptEvent::CaughtUp`].
    pub fn event(&mut self, now: Now, event: KeptEvent) -> Option<BusEvent> {
        Some(match event {
            KeptEvent::Message {
                id,
                hash,
                subject,
                payload,
                is_deletion,
                is_old,
            } => {
                let only = self.settings.only.as_ref();
                if only.is_some_and(|only| !only.matches(&subject)) {
                    return None;
                }
                let received = match is_old {
                    true => self.stored(now, id),
                    false => now,
                };
                // Clients are accepted while the bus is still away at the start, so a message that was stored meanwhile
                // is sent to them.
                let started_ms = self.started_ms.unwrap_or(i64::MAX);
                let message = BusMessage {
                    place: Place::Kept(Some(Position::hashed(self.feed_hash, id, hash))),
                    quiet: is_old && received.unix_ms() < started_ms,
                    ..BusMessage::new(subject, payload, received)
                };
                BusEvent::of(message, is_deletion)
            }
            KeptEvent::Bad { id, why } => BusEvent::Skipped(SkippedMessage {
                // An empty name: a stream has no subscription. The id says which entry it is.
                subscription: Subscription::channel(""),
                place: Place::Outside,
                id: Some(id),
                why,
            }),
            KeptEvent::Lost => {
                self.log_lost(now);
                BusEvent::Gap { lost: None }
            }
            KeptEvent::Hole => BusEvent::Feed(FeedNotice::Hole),
            KeptEvent::InDoubt(is_in_doubt) => BusEvent::Feed(FeedNotice::InDoubt(is_in_doubt)),
            KeptEvent::Head { id, hash } => {
                BusEvent::Feed(FeedNotice::Head(Position::hashed(self.feed_hash, id, hash)))
            }
            KeptEvent::Subjects(subjects) => BusEvent::Subjects(subjects),
            KeptEvent::CaughtUp => BusEvent::CaughtUp,
            KeptEvent::Lag { .. } => return None,
        })
    }

    /// The time that counts as the arrival of an old message: when it was stored.
    fn stored(&self, now: Now, id: StoredId) -> Now {
        Now {
            unix_us: i64::try_from(self.storage_time.stored_us(id)).unwrap_or(now.unix_us),
            ..now
        }
    }

    /// Warns of lost messages. The budget of lines may leave the warning out; the next one says how many were left out.
    fn log_lost(&mut self, now: Now) {
        if let Some(lines_left_out) = self.lines.line(now) {
            tracing::warn!(
                stream = shown(&self.settings.name),
                lines_left_out,
                "the stream has lost messages that were not read: trimmed, deleted, or it was made \
                 anew; clients are notified"
            );
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
