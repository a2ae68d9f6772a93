//! How far a client has got all kept messages of names: in the stream by the bus's id, in the history by the
//! history's own number. The numbers go on over losses and over streams that are made anew, so no entry of the history is
//! sent twice; an id says nothing after either.
//!
//! An example: this instance has read the ids 5 and 6 of a stream, as the numbers 1 and 2. A client has the message
//! with the id 2. The cursor has the position, the number, and how the history finds its place.
//!
//! | what happens | position | number | found by |
//! | --- | --- | --- | --- |
//! | The history has nothing before 5, so [`find_cursor`](History::find_cursor) fails. | 2 | 0 | `Position` |
//! | [`ask`](KeptCursor::ask): a question to the bus begins after 2. The cursor notes that 6, number 2, is read. | 2 | 0 | `Position` |
//! | The question brings 3, 4, 5 and 6, each with [`read`](KeptCursor::read). | 6 | 0 | `Position` |
//! | It ends. [`read_all`](KeptCursor::read_all): the client needs no entry up to number 2. Nothing was lost. | 6 | 2 | `Number`, no loss |
//! | Messages are lost, which takes the number 3. Then 9 comes, as number 4. `find_cursor` fails: what was lost may be after 6. | 6 | 2 | `Number`, no loss |
//! | `ask`: a question begins after 6. The cursor notes that 9, number 4, is read, and that it is before a loss. | 6 | 2 | `Number`, no loss |
//! | The question brings 8 and 9, and ends. `read_all` says that messages after 6 were lost: 7 is gone. | 9 | 4 | `Number`, loss 3 |
//! | From now on, the history has what follows: the entries after number 4. | 9 | 4 | `Number`, loss 3 |
//!
//! If the second question had also brought 10, which this instance had not read when it began, the cursor would be at 10
//! (`UnreadPosition`): its number is known once this instance has read 10.

use super::History;
use super::message::KeptMessage;
use super::wanted::After;
use crate::{CopyPosition, CopyRank, NotRecovered, PageCursor, Point, Position, StoredId};

/// How far this instance has read the stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeptHead {
    /// The newest message; `None` while none is known, as after a loss.
    position: Option<Position>,
    /// The newest message that was read before the newest loss.
    before_loss: Option<Position>,
    /// The history's number of the newest message.
    number: u64,
    /// The history's number of the newest loss, be it a `BusNotice::Gap` or a `FeedNotice::Hole`; 0: there was none.
    loss: u64,
    /// As `loss`, without the holes.
    gap: u64,
    /// The first message since the newest loss; `None` without a loss, or if there is none or it is forgotten.
    first_since: Option<StoredId>,
}

/// How far a client has got all kept messages of names.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeptCursor {
    /// The last message of the stream that the client has; `None`: the stream is read from its beginning.
    position: Option<CopyPosition>,
    /// The client gets no entry of the history up to here.
    after: After,
    found_by: FoundBy,
    /// How far this instance had read when the present question to the bus began.
    asked: KeptHead,
    /// Whether the question has brought a message.
    has_brought: bool,
    /// Messages after the position were lost before the question: the stream does not have all of them.
    is_before_loss: bool,
}

/// How the place of a cursor in the history is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FoundBy {
    /// By the position.
    #[default]
    Position,
    /// By the position, which this instance had not read when the question began.
    UnreadPosition,
    /// By the number, until another loss than this one.
    Number { loss: u64 },
    /// By the number, until this instance reads a message after this loss: the stream may have lost others before.
    NumberUntilRead { loss: u64 },
}

impl KeptCursor {
    /// After this message of the stream, or from its beginning on.
    pub fn after(position: Option<CopyPosition>) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }

    /// The last message of the stream that the client has.
    pub fn position(&self) -> Option<CopyPosition> {
        self.position
    }

    /// The id of that message, and the last copy of it.
    pub fn stored(&self) -> Option<(StoredId, CopyRank)> {
        let at = self.position?;
        match at.position.point {
            Point::Stored { id, .. } => Some((id, at.copy)),
            Point::Counted { .. } => None,
        }
    }

    /// From where a question to the bus reads: after that message.
    pub fn begins(&self) -> PageCursor {
        let at = self.position;
        at.map_or_else(PageCursor::default, |at| PageCursor::at(at.position))
    }

    /// Begins a question to the bus, or goes on with one (`is_same`).
    pub fn ask(&mut self, head: KeptHead, is_same: bool) {
        self.asked = head;
        self.has_brought &= is_same;
        self.is_before_loss |= self.is_before_loss_of(head);
    }

    /// Whether this instance has lost messages after the position, as far as it knows.
    fn is_before_loss_of(&self, head: KeptHead) -> bool {
        // The newest loss is a gap: no hole came after it.
        let is_gap = head.gap > 0 && head.gap == head.loss;
        match (self.found_by, self.stored()) {
            (FoundBy::Number { loss } | FoundBy::NumberUntilRead { loss }, _) => loss < head.gap,
            // The stream is read from its beginning.
            (_, None) => false,
            // Nothing was read since the loss. So the position is from before it, unless this question has brought it.
            (FoundBy::Position, Some(_)) if head.position.is_none() => is_gap && !self.has_brought,
            // The position is older than all that was read since the loss.
            (_, Some((id, _))) => is_gap && head.first_since.is_some_and(|first| id < first),
        }
    }

    /// Whether messages before those that the question brings now may be lost, as far as this instance knows.
    pub fn may_lack(&self, head: KeptHead) -> bool {
        self.is_before_loss || self.asked.gap < head.gap
    }

    /// The question has brought a message.
    pub fn read(&mut self, position: Position) {
        let copy = CopyRank::LAST;
        self.position = Some(CopyPosition { position, copy });
        (self.found_by, self.has_brought) = (FoundBy::Position, true);
    }

    /// The question has brought all that this instance had read when it began. Returns whether messages were lost between
    /// the position at which it began and what follows.
    pub fn read_all(&mut self) -> bool {
        self.pass_asked();
        let reached = self.asked.position.map(|position| CopyPosition {
            position,
            copy: CopyRank::LAST,
        });
        let reached_id = Self::after(reached).stored();
        // Whether the question has brought messages that this instance had not read when it began.
        let is_beyond = match reached_id {
            Some(_) => self.stored() > reached_id,
            None => self.has_brought,
        };
        if is_beyond {
            self.found_by = FoundBy::UnreadPosition;
        } else {
            self.position = reached.or(self.position);
            let loss = self.asked.loss;
            // Nothing was read since the loss: the stream may have lost other messages before the next one.
            self.found_by = match reached_id.is_none() && loss > 0 {
                true => FoundBy::NumberUntilRead { loss },
                false => FoundBy::Number { loss },
            };
        }
        std::mem::take(&mut self.is_before_loss)
    }

    /// The position is of another epoch of the stream, which is read from its beginning on.
    pub fn read_anew(&mut self) {
        self.pass_asked();
        (self.position, self.found_by) = (None, FoundBy::Position);
        self.is_before_loss = false;
    }

    /// Whether the client has all that this instance had read before the newest loss, so that it lacks nothing of an earlier
    /// epoch of the stream.
    pub fn has_all_before_loss(&self) -> bool {
        let has_all = |at: CopyPosition| {
            at.copy == CopyRank::LAST && Some(at.position) == self.asked.before_loss
        };
        self.position.is_some_and(has_all)
    }

    /// Lets the client get no entry of the history up to where the question began.
    fn pass_asked(&mut self) {
        self.after = self.after.max(After::all_of(self.asked.number));
    }
}

impl History {
    /// How far the stream was read.
    pub(crate) fn head(&self) -> KeptHead {
        KeptHead {
            position: self.numbers.newest(),
            before_loss: self.numbers.before_loss(),
            number: self.numbers.head,
            loss: self.numbers.loss(),
            gap: self.newest_loss(),
            first_since: self.numbers.first_since_loss(),
        }
    }

    /// Whether messages were lost while a question brought what is before the messages after this cursor.
    pub(super) fn was_lost_meanwhile(&self, cursor: &KeptCursor) -> bool {
        cursor.found_by == FoundBy::UnreadPosition && self.newest_loss() > cursor.asked.loss
    }

    /// A cursor after a copy of an entry.
    pub(super) fn cursor_after(&self, entry: &KeptMessage, copy: CopyRank) -> KeptCursor {
        let KeptMessage {
            number, position, ..
        } = *entry;
        KeptCursor {
            position: Some(CopyPosition { position, copy }),
            after: After { number, copy },
            found_by: FoundBy::Number {
                loss: self.numbers.loss(),
            },
            ..KeptCursor::default()
        }
    }

    /// The entries that come before those of a cursor. `may_skip`: messages after it may be missing.
    ///
    /// # Errors
    /// It is not known whether the history has all that follows. If messages may be missing: the client is ahead.
    pub(super) fn find_cursor(
        &self,
        cursor: &KeptCursor,
        may_skip: bool,
    ) -> Result<After, NotRecovered> {
        let is_valid = match cursor.found_by {
            FoundBy::Number { loss } => loss == self.numbers.loss(),
            FoundBy::NumberUntilRead { loss } => {
                loss == self.numbers.loss() && self.numbers.newest().is_none()
            }
            FoundBy::Position | FoundBy::UnreadPosition => {
                return self.find_cursor_by_position(cursor, may_skip);
            }
        };
        // The client has all entries up to the number in any case.
        match is_valid || may_skip {
            true => Ok(cursor.after),
            false => Err(NotRecovered::Gap),
        }
    }

    /// As [`Self::find_cursor`], by the position.
    fn find_cursor_by_position(
        &self,
        cursor: &KeptCursor,
        may_skip: bool,
    ) -> Result<After, NotRecovered> {
        let is_unread = cursor.found_by == FoundBy::UnreadPosition;
        let found = match cursor.position {
            None => Err(NotRecovered::Window),
            Some(_) if is_unread && self.numbers.newest().is_none() => Err(NotRecovered::Ahead),
            Some(position) => self.numbers.find_position(position),
        };
        match found {
            Ok(found) => Ok(found.max(cursor.after)),
            Err(why) if !may_skip || why == NotRecovered::Ahead => Err(why),
            // All that is kept is newer.
            Err(NotRecovered::Window) => Ok(cursor.after),
            // Which entries are older is not known, but for those that have come since the question.
            Err(_) => Ok(cursor.after.max(After::all_of(cursor.asked.number))),
        }
    }
}
