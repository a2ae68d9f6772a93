//! The topics of kept messages. A topic is remembered for longer than its messages, so for a quiet topic the
//! history knows that nothing was missed, however old a position is.
//!
//! Also maps a position to the number of its message. The numbers continue over all connections to the bus, and are not
//! visible to clients.
//!
//! A mark has the number of the message before. A message of a stream is found by the id, for as long as
//! the id is remembered.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;
use slab::Slab;

use super::Outcome;
use super::wanted::After;
use crate::position::CopyPosition;
use crate::tables::SlabRoom;
use crate::{Mark, NotRecovered, Point, Position, StoredId, TopicName};

/// The most topics that are remembered without a kept message.
pub(super) const QUIET_MAX: usize = 65_536;
/// Memory of a name beside its text, which is stored twice.
const NAME_BYTES: usize = 128;

/// A topic of the feed.
#[derive(Debug)]
pub(super) struct Name {
    topic: TopicName,
    /// The number of the newest message no longer kept.
    pub(super) forgotten: u64,
    /// The number of the newest message that was left out.
    pub(super) left_out: u64,
    /// When the newest message arrived, or was stored in the stream, Unix microseconds.
    pub(super) newest_unix_us: i64,
    /// Kept messages.
    kept: u32,
}

/// All remembered topics.
#[derive(Debug, Default)]
pub(super) struct Names {
    table: Slab<Name>,
    room: SlabRoom,
    by_topic: HashMap<TopicName, u32, RandomState>,
    /// Topics without a kept message, each with the number of its newest message at the time. If the topic has another
    /// number by now, it had messages since. The topic that has been quiet for the longest time is first.
    quiet: VecDeque<(u32, u64)>,
    quiet_count: usize,
    bytes: usize,
    bytes_max: usize,
    /// The highest number of a forgotten message of a topic that is no longer remembered.
    forgotten: u64,
}

impl Names {
    /// An empty table; quiet topics are forgotten above `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    /// Handles a new message of a topic, which arrived or was stored at `unix_us`. Returns the topic's index.
    pub(super) fn add(&mut self, topic: &TopicName, unix_us: i64) -> u32 {
        let id = match self.by_topic.get(topic) {
            Some(&id) => id,
            None => self.insert(topic),
        };
        let name = &mut self.table[id as usize];
        name.newest_unix_us = unix_us;
        if name.kept == 0 {
            self.quiet_count -= 1;
        }
        name.kept += 1;
        id
    }

    /// Notes that the oldest message of a topic, which has this number, is no longer kept.
    pub(super) fn forget_message(&mut self, id: u32, number: u64) {
        let name = &mut self.table[id as usize];
        name.forgotten = name.forgotten.max(number);
        name.kept -= 1;
        if name.kept == 0 {
            self.quiet.push_back((id, number));
            self.quiet_count += 1;
        }
        self.forget_quiet();
    }

    /// Whether a message of a topic is kept.
    pub(super) fn has_messages(&self, topic: &TopicName) -> bool {
        self.get(topic).is_some_and(|name| name.kept > 0)
    }

    /// Whether only one message of a topic is kept: the newest.
    pub(super) fn is_newest(&self, id: u32) -> bool {
        self.table[id as usize].kept == 1
    }

    /// Notes that the newest message of a topic, which has this number, stays alone: the messages up to it are no longer
    /// there for a resume.
    pub(super) fn stays(&mut self, id: u32, number: u64) {
        self.table[id as usize].forgotten = number;
    }

    /// Notes that the newest message of a topic, which has this number, was left out.
    pub(super) fn left_out(&mut self, id: u32, number: u64) {
        self.table[id as usize].left_out = number;
    }

    /// The index of a topic.
    pub(super) fn id(&self, topic: &TopicName) -> Option<u32> {
        self.by_topic.get(topic).copied()
    }

    /// A topic.
    pub(super) fn get(&self, topic: &TopicName) -> Option<&Name> {
        Some(&self.table[self.id(topic)? as usize])
    }

    /// The topic with an index.
    pub(super) fn topic(&self, id: u32) -> &TopicName {
        &self.table[id as usize].topic
    }

    /// Every index is below this number.
    pub(super) fn slots(&self) -> usize {
        self.table.capacity()
    }

    /// Whether it is certain that an unknown topic had no message after a number.
    pub(super) fn knows_since(&self, since: u64) -> Outcome {
        match since < self.forgotten {
            true => Err(NotRecovered::Window),
            false => Ok(()),
        }
    }

    /// Entries in the list of quiet topics.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.quiet.len()
    }

    /// Memory of the names.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a quiet topic. A message of it may have been forgotten together with the topic, so it starts with the
    /// highest number of all forgotten topics.
    fn insert(&mut self, topic: &TopicName) -> u32 {
        let id = self.table.insert(Name {
            topic: topic.clone(),
            forgotten: self.forgotten,
            left_out: 0,
            newest_unix_us: 0,
            kept: 0,
        }) as u32;
        self.room.added(&self.table);
        self.by_topic.insert(topic.clone(), id);
        self.bytes += bytes_of(topic);
        self.quiet_count += 1;
        id
    }

    /// Forgets quiet topics while they are too many.
    fn forget_quiet(&mut self) {
        while (self.quiet_count > QUIET_MAX || self.bytes > self.bytes_max)
            && let Some((id, number)) = self.quiet.pop_front()
        {
            if is_quiet(&self.table, id, number) {
                let gone = self.table.remove(id as usize);
                self.by_topic.remove(&gone.topic);
                self.forgotten = self.forgotten.max(gone.forgotten);
                self.bytes -= bytes_of(&gone.topic);
                self.quiet_count -= 1;
                self.room.removed(&mut self.table);
            }
        }
        // Topics with a message now and then leave stale entries in the list.
        if self.quiet.len() > 2 * self.quiet_count + 64 {
            let table = &self.table;
            self.quiet
                .retain(|(id, number)| is_quiet(table, *id, *number));
        }
    }
}

fn is_quiet(table: &Slab<Name>, id: u32, number: u64) -> bool {
    let name = table.get(id as usize);
    name.is_some_and(|name| name.kept == 0 && name.forgotten == number)
}

fn bytes_of(topic: &TopicName) -> usize {
    NAME_BYTES + 2 * topic.as_str().len()
}

/// The most marks that are remembered, the newest: an hour of one instance with a mark each second.
pub(super) const MARKS_MAX: usize = 4_096;
/// The most ids that are remembered, the newest, unless the history keeps more messages.
pub(super) const FORGOTTEN_IDS_MAX: usize = 65_536;

/// The numbers of all marks and ids, and of the newest message.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Positions with another hash are of another feed. `None` before the first position.
    names_hash: Option<u32>,
    /// The number of each mark, and the marks in their order.
    marked: HashMap<Mark, u64, RandomState>,
    marks: VecDeque<Mark>,
    /// The newest mark of this connection, and the number.
    newest_mark: Option<(Mark, u64)>,
    /// The ids of the newest messages of a stream, in their order and without a hole; the last has the
    /// number [`Self::head`].
    ids: VecDeque<StoredId>,
    /// Messages before the first of the ids were lost.
    is_after_loss: bool,
    /// The number of the newest message.
    pub(super) head: u64,
    /// Positions with a lower number are from before a loss.
    floor: u64,
}

impl Places {
    /// Handles a mark, after which positions count from the mark. If this connection had a mark before, `count`
    /// messages of the feed have come since.
    pub(super) fn mark(&mut self, names_hash: u32, mark: Mark, count: u64) {
        let number = match self.newest_mark {
            Some((_, before)) => before + count,
            None => self.head,
        };
        self.names_hash = Some(names_hash);
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
        self.newest_mark = None;
        self.ids.clear();
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
            Point::Stored(id) => {
                debug_assert!(self.ids.back().is_none_or(|newest| *newest < id));
                self.names_hash = Some(position.names);
                self.ids.push_back(id);
                self.head + 1
            }
        };
        self.head = number;
        Some(number)
    }

    /// Notes that the message with this number and all messages before are no longer kept.
    pub(super) fn forgot(&mut self, number: u64) {
        while self.ids.len() > FORGOTTEN_IDS_MAX
            && self.head - (self.ids.len() as u64) < number
            && self.ids.pop_front().is_some()
        {
            self.is_after_loss = false;
        }
    }

    /// The position of the newest message; `None` while no position is known, as before the first mark and after a
    /// loss.
    pub(super) fn newest(&self) -> Option<Position> {
        let names_hash = self.names_hash?;
        if let Some(id) = self.ids.back() {
            return Some(Position::stored(names_hash, *id));
        }
        let (mark, number) = self.newest_mark?;
        Some(Position::counted(names_hash, mark, self.head - number))
    }

    /// The number of the message at a position, and its last copy that the client got.
    pub(super) fn find(&self, since: &str) -> Result<After, NotRecovered> {
        let CopyPosition { position, copy } =
            CopyPosition::parse(since).ok_or(NotRecovered::Bad)?;
        let number = match position.point {
            Point::Counted { mark, count } => {
                // If this instance has no mark and no id, resuming is off here; otherwise only this mark is unknown.
                let unknown = match self.marked.is_empty() && self.ids.is_empty() {
                    true => NotRecovered::Off,
                    false => NotRecovered::Epoch,
                };
                let number = self.marked.get(&mark).ok_or(unknown)?;
                self.check_names(position)?;
                if *number < self.floor {
                    return Err(NotRecovered::Gap);
                }
                number.saturating_add(count)
            }
            Point::Stored(id) => {
                self.check_names(position)?;
                self.find_id(id)?
            }
        };
        match number <= self.head {
            true => Ok(After { number, copy }),
            false => Err(NotRecovered::Ahead),
        }
    }

    fn check_names(&self, position: Position) -> Result<(), NotRecovered> {
        match self.names_hash.is_none_or(|hash| position.names == hash) {
            true => Ok(()),
            false => Err(NotRecovered::Bad),
        }
    }

    fn find_id(&self, id: StoredId) -> Result<u64, NotRecovered> {
        let ids = self.ids.len();
        match self.ids.binary_search(&id) {
            Ok(at) => Ok(self.head - (ids - 1 - at) as u64),
            Err(0) if self.is_after_loss => Err(NotRecovered::Gap),
            Err(0) if ids > 0 => Err(NotRecovered::Window),
            // Another message has this number in the stream.
            Err(at) if at < ids || self.has_major(id.major) => Err(NotRecovered::Epoch),
            Err(_) if ids > 0 => Err(NotRecovered::Ahead),
            Err(_) => Err(NotRecovered::Epoch),
        }
    }

    /// The numbers of remembered marks, in both lists, and of remembered ids.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize, usize) {
        (self.marks.len(), self.marked.len(), self.ids.len())
    }

    fn has_major(&self, major: u64) -> bool {
        self.ids.back().is_some_and(|newest| newest.major == major)
    }
}
