//! Maps a position to the number of its message. The numbers continue over all connections to the bus, and are not visible
//! to clients.
//!
//! A mark has the number of the message before. A message of a stream is found by the id, for as long as the id is
//! remembered.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;

use super::wanted::After;
use crate::position::CopyPosition;
use crate::{EntryHash, Mark, NotRecovered, Point, Position, StoredId};
use weirgate_wire::base::ChunkedQueue;

/// The most marks that are remembered, the newest: an hour of one instance with a mark each second.
pub(super) const MARKS_MAX: usize = 4_096;
/// The most ids that are remembered, the newest. Ids of messages that the history keeps are remembered in any case.
pub(super) const IDS_MAX: usize = 65_536;

/// The numbers of all marks and ids, and of the newest message.
#[derive(Debug, Default)]
pub(super) struct MessageNumbers {
    /// Positions with another hash are of another feed. `None` before the first position, unless the feed is a stream.
    feed_hash: Option<u32>,
    /// The feed is a stream, so no position is counted.
    is_stream: bool,
    /// The number of each mark, and the marks in their order.
    marked: HashMap<Mark, u64, RandomState>,
    marks: VecDeque<Mark>,
    /// The newest mark of this connection, and the number.
    newest_mark: Option<(Mark, u64)>,
    /// The ids of the newest messages of a stream, in their order and without a hole; the last has the
    /// number [`Self::head`].
    ids: ChunkedQueue<KnownId>,
    /// Messages before the first of the ids were lost.
    is_after_loss: bool,
    /// The highest first part and the highest second part of all ids.
    highest: StoredId,
    /// As [`Self::highest`], of the ids from before the last loss. Another message may have such an id in a stream that was
    /// made anew.
    highest_before_loss: StoredId,
    /// The number of the newest message.
    pub(super) head: u64,
    /// Positions with a lower number are from before a loss.
    floor: u64,
    /// The newest position from before that loss.
    before_loss: Option<Position>,
}

/// The id of a message that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownId {
    id: StoredId,
    /// The hash of the message, if the bus may give the id to another one.
    hash: Option<EntryHash>,
}

impl MessageNumbers {
    /// No numbers yet. `stream`: the hash of the stream that is the feed.
    pub(super) fn new(stream: Option<u32>) -> Self {
        Self {
            feed_hash: stream,
            is_stream: stream.is_some(),
            ..Self::default()
        }
    }

    /// Handles a mark, after which positions count from the mark. If this connection had a mark before, `count`
    /// messages of the feed have come since.
    pub(super) fn mark(&mut self, feed_hash: u32, mark: Mark, count: u64) {
        let number = match self.newest_mark {
            Some((_, before)) => before + count,
            // The first mark of a connection: what comes after it follows the newest message.
            None => self.head,
        };
        self.feed_hash = Some(feed_hash);
        self.head = self.head.max(number);
        self.newest_mark = Some((mark, number));
        if self.marked.insert(mark, number).is_none() {
            self.marks.push_back(mark);
        }
        if self.marks.len() > MARKS_MAX
            && let Some(oldest) = self.marks.pop_front()
        {
            self.marked.remove(&oldest);
        }
    }

    /// Handles a loss: messages after the newest may be missing, and no earlier position is good.
    pub(super) fn gap(&mut self) {
        self.before_loss = self.newest().or(self.before_loss);
        self.newest_mark = None;
        self.highest_before_loss = self.highest;
        self.ids = ChunkedQueue::default();
        self.is_after_loss = true;
        // A number for the loss, above every earlier position.
        self.head += 1;
        self.floor = self.head;
    }

    /// Gives the next message its number; `None` for a counted position while no mark is known.
    pub(super) fn next(&mut self, position: Position) -> Option<u64> {
        let number = match position.point {
            Point::Counted { mark, count } => {
                let (newest, number) = self.newest_mark?;
                let number = number + count;
                debug_assert!(newest == mark && number > self.head, "out of order");
                number
            }
            Point::Stored { id, hash } => {
                debug_assert!(self.newest_id().is_none_or(|newest| newest < id));
                self.feed_hash = Some(position.feed_hash);
                self.highest = StoredId {
                    major: self.highest.major.max(id.major),
                    minor: self.highest.minor.max(id.minor),
                };
                self.ids.push_back(KnownId { id, hash });
                self.head + 1
            }
        };
        self.head = number;
        Some(number)
    }

    /// The number of the newest loss; 0: there was none.
    pub(super) fn loss(&self) -> u64 {
        self.floor
    }

    /// The id of the first message since that loss; `None` if there is none or it is forgotten.
    pub(super) fn first_since_loss(&self) -> Option<StoredId> {
        let first = self.ids.front().filter(|_| self.is_after_loss);
        first.map(|known| known.id)
    }

    /// The newest position from before that loss.
    pub(super) fn before_loss(&self) -> Option<Position> {
        self.before_loss
    }

    /// Notes that the message with this number and all messages before are no longer kept: of their ids, those over
    /// [`IDS_MAX`] are forgotten.
    pub(super) fn forgot(&mut self, number: u64) {
        // `head` less the ids is the number before that of the first id.
        while self.ids.len() > IDS_MAX
            && self.head - (self.ids.len() as u64) < number
            && self.ids.pop_front().is_some()
        {
            // Ids before the first one are missing because they were forgotten, no more because of the loss.
            self.is_after_loss = false;
        }
    }

    /// The position of the newest message; `None` while no position is known, as before the first mark and after a
    /// loss.
    pub(super) fn newest(&self) -> Option<Position> {
        let feed_hash = self.feed_hash?;
        if let Some(KnownId { id, hash }) = self.ids.back() {
            return Some(Position::hashed(feed_hash, *id, *hash));
        }
        let (mark, number) = self.newest_mark?;
        Some(Position::counted(feed_hash, mark, self.head - number))
    }

    /// The number of the message at a position of a client, and its last copy that the client got.
    pub(super) fn find(&self, since: &str) -> Result<After, NotRecovered> {
        let since = CopyPosition::parse(since).ok_or(NotRecovered::Bad)?;
        match self.may_be_before_loss(since.position) {
            true => Err(NotRecovered::Gap),
            false => self.find_position(since),
        }
    }

    /// Whether the message at a position of a client may be one from before a loss, although a message with this id was read
    /// since: a Redis stream that is made anew may give an id again. JetStream does not, by its times.
    pub(super) fn may_be_before_loss(&self, position: Position) -> bool {
        let Point::Stored { id, .. } = position.point else {
            return false;
        };
        let is_low = id.major <= self.highest_before_loss.major
            && id.minor <= self.highest_before_loss.minor;
        is_low && self.check_feed(position).is_ok() && self.index_of(id).is_ok()
    }

    /// As [`Self::find`], of a position in what was read since the last loss.
    pub(super) fn find_position(&self, since: CopyPosition) -> Result<After, NotRecovered> {
        let CopyPosition { position, copy } = since;
        self.check_feed(position)?;
        let number = match position.point {
            Point::Counted { mark, count } => {
                // If this instance has no mark and no id, resuming is off here; otherwise only this mark is unknown.
                let unknown = match self.marked.is_empty() && self.ids.is_empty() {
                    true => NotRecovered::Off,
                    false => NotRecovered::Epoch,
                };
                let number = self.marked.get(&mark).ok_or(unknown)?;
                if *number < self.floor {
                    return Err(NotRecovered::Gap);
                }
                number.saturating_add(count)
            }
            Point::Stored { id, hash } => self.find_id(id, hash)?,
        };
        match number <= self.head {
            true => Ok(After { number, copy }),
            false => Err(NotRecovered::Ahead),
        }
    }

    /// Whether a message of the stream comes no more, because the stream was read up to it, or beyond.
    pub(super) fn has_read(&self, id: StoredId) -> bool {
        let Some(newest) = self.newest_id() else {
            return false;
        };
        // A stream that was made anew has low numbers again, at later times. A clock that was set back does the same to
        // messages that were read.
        let is_older = id.major <= newest.major && id.minor <= newest.minor;
        is_older || self.index_of(id).is_ok()
    }

    /// Whether a position of a client may be one of this feed. Before the first position, that is known of a stream alone.
    pub(super) fn check_feed(&self, position: Position) -> Result<(), NotRecovered> {
        let is_other_kind = self.is_stream && matches!(position.point, Point::Counted { .. });
        let has_hash = self.feed_hash.is_none_or(|hash| position.feed_hash == hash);
        match has_hash && !is_other_kind {
            true => Ok(()),
            false => Err(NotRecovered::Bad),
        }
    }

    fn newest_id(&self) -> Option<StoredId> {
        self.ids.back().map(|known| known.id)
    }

    /// The index of an id. `Err`: it was not read, or is forgotten; the index that it would have.
    fn index_of(&self, id: StoredId) -> Result<usize, usize> {
        let at = self.ids.partition_point(|known| known.id < id);
        match self.ids.get(at) {
            Some(known) if known.id == id => Ok(at),
            _ => Err(at),
        }
    }

    /// Returns the number of the message that has this id, and this hash if both hashes are known. `ids` are those of the
    /// newest messages, so the last of them has the number `head`. The error is the reason for clients.
    fn find_id(&self, id: StoredId, hash: Option<EntryHash>) -> Result<u64, NotRecovered> {
        let ids = self.ids.len();
        match self.index_of(id) {
            // A server has given the id to another message.
            Ok(at) if EntryHash::differ(self.ids[at].hash, hash) => Err(NotRecovered::Epoch),
            Ok(at) => Ok(self.head - (ids - 1 - at) as u64),
            // Before all remembered ids, and what was there was lost.
            Err(0) if self.is_after_loss => Err(NotRecovered::Gap),
            // Older than all remembered ids.
            Err(0) if ids > 0 => Err(NotRecovered::Window),
            // Another message has this number in the stream.
            Err(at) if at < ids || self.has_number(id) => Err(NotRecovered::Epoch),
            // Newer than the newest.
            Err(_) if ids > 0 => Err(NotRecovered::Ahead),
            // No id is known yet.
            Err(_) => Err(NotRecovered::Epoch),
        }
    }

    /// The numbers of remembered marks, in both lists, and of remembered ids.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize, usize) {
        (self.marks.len(), self.marked.len(), self.ids.len())
    }

    /// Whether the newest message has the number of this id. On Redis, ids have no number: entries of the same millisecond
    /// have the same first part.
    fn has_number(&self, id: StoredId) -> bool {
        let newest = self.newest_id().and_then(StoredId::number);
        newest.is_some() && newest == id.number()
    }
}
