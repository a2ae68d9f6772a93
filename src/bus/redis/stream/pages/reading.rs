//! A question, and how far it is read. Its page is what clients take at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::entry::{StreamEntry, message};
use super::super::prints::EntryPrint;
use super::sought::Sought;
use super::{PAGE_BYTES, PAGE_VALUES, PAUSE};
use crate::kept::Progress;
use crate::requests::Question;
use weirgate_core::{BusEvent, BusMessage, PageCursor, Place, Position, RetainedCut, StoredId};
use weirgate_runtime::{LoopGone, SourceLink};
use weirgate_wire::base::Now;

/// A question that is read.
pub(super) struct PagedQuestion {
    question: Question,
    sought: Sought,
    /// The last entry that was read, its hash if it was read here, whether it is handed over once more, and why entries
    /// before it are missing.
    pub(super) cursor: PageCursor,
    page: PageSize,
    pub(super) turn: Turn,
}

/// What was sent of a page.
#[derive(Default)]
struct PageSize {
    values: usize,
    bytes: usize,
}

/// When a question is read on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    /// As soon as the others had theirs.
    Due,
    /// Once clients have taken the page.
    Paused,
    /// At a time; the server is behind the source.
    Behind(Behind),
}

/// A server that is behind the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    /// What the source had read when this was found out, which the answer has to bring.
    reached: Option<StoredId>,
    since: Instant,
    /// When the server is asked again.
    until: Instant,
}

/// What an entry of an answer is to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It was not read before, or is handed over once more.
    Next,
    /// The last entry that was read.
    Known,
    /// It has the id of the last entry that was read, and is another one: the stream was made anew.
    OtherEpoch,
}

impl Behind {
    /// The source has come so far by `now`.
    pub(super) fn since(now: Instant, progress: Progress) -> Self {
        Self {
            reached: progress.reached,
            since: now,
            until: now,
        }
    }

    /// The server is asked again after a pause.
    pub(super) fn pause(&mut self, now: Instant) {
        self.until = now + PAUSE;
    }

    /// For how long the server has been behind.
    pub(super) fn lasts(&self, now: Instant) -> Duration {
        now.duration_since(self.since)
    }
}

impl PagedQuestion {
    pub(super) fn new(question: Question) -> Self {
        let PageCursor {
            after,
            hash,
            repeats,
            ..
        } = *question.after;
        Self {
            sought: Sought::new(&question.names),
            // What is missing before this place was said with its page.
            cursor: PageCursor {
                after,
                hash,
                repeats,
                ..PageCursor::default()
            },
            question,
            page: PageSize::default(),
            turn: Turn::Due,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.question.number
    }

    pub(super) fn is_paused(&self) -> bool {
        matches!(self.turn, Turn::Paused)
    }

    /// The server that is behind, if it is.
    pub(super) fn behind(&self) -> Option<Behind> {
        match self.turn {
            Turn::Behind(behind) => Some(behind),
            Turn::Due | Turn::Paused => None,
        }
    }

    /// How long until the server that is behind is asked again, if one is.
    pub(super) fn waits_for(&self, now: Instant) -> Option<Duration> {
        let behind = self.behind()?;
        Some(behind.until.saturating_duration_since(now))
    }

    /// Whether the question may be read on.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.turn {
            Turn::Due => true,
            Turn::Paused => false,
            Turn::Behind(behind) => behind.until <= now,
        }
    }

    /// Handles that clients want the next page.
    pub(super) fn begin_page(&mut self) {
        self.page = PageSize::default();
        if self.is_paused() {
            self.turn = Turn::Due;
        }
    }

    /// Whether the page is full.
    pub(super) fn is_full(&self) -> bool {
        self.page.bytes >= PAGE_BYTES || self.page.values >= PAGE_VALUES
    }

    /// The entry that an answer has to reach before the question may end, if the source has read up to `progress`: clients
    /// get only later entries from the source. It is never before the last entry that was read, with which each answer
    /// begins. `None`: any answer may end the question.
    pub(super) fn needed(&self, progress: Progress) -> Option<StoredId> {
        let reached = match self.behind() {
            // What the source reads meanwhile is no part of the question. If the source goes back, it is another stream.
            Some(behind) => behind.reached.min(progress.reached),
            None => progress.reached,
        };
        reached.max(self.cursor.after)
    }

    /// Judges an entry of an answer, which was to begin with the entry `last`. `is_first`: the answer begins with it. A stream
    /// that is made anew may give the id of the last entry to another one, so its print is compared too.
    pub(super) fn meet(
        &mut self,
        print: EntryPrint,
        last: Option<StoredId>,
        is_first: bool,
    ) -> Met {
        let last_hash = self.cursor.hash.replace(print.hash);
        if last == Some(print.id) {
            if last_hash.is_some_and(|hash| hash != print.hash) {
                return Met::OtherEpoch;
            }
            if !std::mem::take(&mut self.cursor.repeats) {
                return Met::Known;
            }
        } else if is_first && last.is_some() {
            // The answer does not begin with the last entry that was read: that one is gone, and perhaps later ones
            // with it.
            self.cursor.cut.get_or_insert(RetainedCut::Window);
        }
        self.cursor.repeats = false;
        Met::Next
    }

    /// Hands an entry over, if a client waits for it.
    pub(super) fn hand_over(
        &mut self,
        key: &str,
        (entry, print): (StreamEntry, EntryPrint),
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        let hash = print.hash_of(&entry);
        let StreamEntry { id, fields } = entry;
        self.cursor.after = Some(id);
        if let Ok((channel, payload)) = message(fields)
            && self.sought.has(&channel)
        {
            self.page.values += 1;
            self.page.bytes += payload.len() + channel.len();
            let position = Position::hashed(Position::feed_hash(key.bytes()), id, hash);
            link.send(self.value((position, id), channel, payload, link.now()))?;
        }
        Ok(())
    }

    /// Returns the event for a message of the stream. Its time of arrival is when the stream stored it, which is in its ID.
    fn value(
        &self,
        (position, id): (Position, StoredId),
        channel: String,
        payload: Vec<u8>,
        now: Now,
    ) -> BusEvent {
        let subscription = &self.question.subscription;
        let stored_us = i64::try_from(id.major.saturating_mul(1_000));
        BusEvent::LastValue {
            is_deletion: false,
            number: self.question.number,
            message: BusMessage {
                pattern: (subscription.is_pattern).then(|| Arc::clone(&subscription.name)),
                place: Place::Kept(Some(position)),
                quiet: true,
                ..BusMessage::new(
                    channel,
                    payload,
                    Now {
                        unix_us: stored_us.unwrap_or(now.unix_us),
                        ..now
                    },
                )
            },
        }
    }

    /// Returns the event that ends a page of the question. `is_open` is false if the question ends with this page, and
    /// another one may go on from the cursor.
    pub(super) fn page(&self, is_open: bool) -> BusEvent {
        BusEvent::RetainedPage {
            number: self.question.number,
            cursor: Arc::new(self.cursor.clone()),
            is_open,
        }
    }

    /// Returns the event that ends the question.
    pub(super) fn end(self, cut: Option<RetainedCut>) -> BusEvent {
        BusEvent::RetainedEnd {
            subscription: self.question.subscription,
            number: self.question.number,
            cut: cut.or(self.cursor.cut),
        }
    }

    /// The end of a question whose last entry is of another epoch of the stream. What is missing already stays the reason.
    pub(super) fn end_of_epoch(self) -> BusEvent {
        let cut = self.cursor.cut.or(Some(RetainedCut::Epoch));
        self.end(cut)
    }
}

#[cfg(test)]
impl PagedQuestion {
    /// A question for the channel `a`, which goes on after this entry.
    pub(super) fn of_channel(after: PageCursor) -> Self {
        use weirgate_core::{Subscription, TopicName};

        Self::new(Question {
            subscription: Subscription::channel("a"),
            cover: None,
            number: 1,
            after: Arc::new(after),
            wants: crate::requests::Wants::All,
            names: Arc::new([TopicName::from("a")]),
            client: weirgate_wire::admission::ClientAddr::Unix,
            asked: Instant::now(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_core::EntryHash;

    fn print(major: u64, hash: u64) -> EntryPrint {
        EntryPrint {
            id: StoredId { major, minor: 0 },
            hash: EntryHash::of(hash),
        }
    }

    /// A question whose last entry is this one, which was read here or not.
    fn after(last: EntryPrint, was_read: bool) -> PagedQuestion {
        PagedQuestion::of_channel(PageCursor {
            hash: was_read.then_some(last.hash),
            ..PageCursor::after(Some(last.id))
        })
    }

    #[test]
    fn the_last_entry_that_was_read_shows_the_epoch_and_comes_not_again() {
        let last = print(7, 70);
        for (was_read, hash, met) in [
            (true, 70, Met::Known),
            (true, 71, Met::OtherEpoch),
            (false, 71, Met::Known),
        ] {
            let mut reading = after(last, was_read);
            assert_eq!(reading.meet(print(7, hash), Some(last.id), true), met);
            assert_eq!(reading.cursor.cut, None);
        }
        let mut reading = after(last, true);
        reading.cursor.repeats = true;
        assert_eq!(reading.meet(last, Some(last.id), true), Met::Next);
        assert!(!reading.cursor.repeats, "once");
    }

    #[test]
    fn entries_may_be_missing_if_the_last_one_is_gone() {
        let last = print(7, 70);
        for (is_first, cut) in [(true, Some(RetainedCut::Window)), (false, None)] {
            let mut reading = after(last, true);
            assert_eq!(
                reading.meet(print(8, 80), Some(last.id), is_first),
                Met::Next
            );
            assert_eq!(reading.cursor.cut, cut);
        }
    }

    /// What the source reads while the server is behind is no part of the question, unless the source goes back.
    #[test]
    fn a_question_needs_what_the_source_had_read() {
        let reached = |major| Progress {
            reached: Some(print(major, 0).id),
            ..Progress::default()
        };
        let mut reading = after(print(5, 0), true);
        let id = |major| Some(print(major, 0).id);
        assert_eq!(reading.needed(reached(9)), id(9));
        assert_eq!(
            reading.needed(reached(3)),
            id(5),
            "each answer begins there"
        );
        reading.turn = Turn::Behind(Behind::since(Instant::now(), reached(9)));
        assert_eq!(reading.needed(reached(20)), id(9));
        assert_eq!(reading.needed(reached(7)), id(7));
    }

    #[test]
    fn a_question_waits_for_clients_or_for_a_server_that_is_behind() {
        let now = Instant::now();
        let mut reading = after(print(5, 0), true);
        assert!(reading.is_due(now) && reading.waits_for(now).is_none());
        let mut behind = Behind::since(now, Progress::default());
        behind.pause(now);
        reading.turn = Turn::Behind(behind);
        assert_eq!(reading.waits_for(now), Some(PAUSE));
        assert!(!reading.is_due(now) && reading.is_due(now + PAUSE));
        reading.turn = Turn::Paused;
        assert!(!reading.is_due(now + PAUSE));
        reading.begin_page();
        assert!(reading.is_due(now));
    }
}
