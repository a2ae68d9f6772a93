//! How far a question for all messages has read, and whether the stream is still the one from which it began (its *epoch*). Pure.
//!
//! Three things can go wrong between two messages: the stream was made anew or has gone back in time
//! ([`NatsCut::Epoch`]), messages were removed before they were read ([`NatsCut::Window`]), and the clock has gone back,
//! so that a consumer that begins at a time leaves messages out ([`AllRead::restart_by_number_if_late`]). Why each check
//! is needed: [`super`], "All messages".

use std::time::Instant;

use super::events::NatsCut;
use super::removals::Removals;
use super::streams::StreamPart;
use crate::nats::consumer::Start;
use crate::nats::stream_info::StreamInfo;
use weirgate_core::{PageCursor, StoredId};

/// How far all messages were read.
#[derive(Debug, Default)]
pub(super) struct AllRead {
    /// The last message that was read.
    after: Option<StoredId>,
    /// Whether that message is handed over once more, as of [`PageCursor`].
    repeats: bool,
    /// The last message that was read before the last check of the stream: behind it, messages may be missing.
    whole_to: Option<StoredId>,
    /// The number of the last message before the first numbers that did not come since the last check. They are of other
    /// names, or were removed before they were read.
    gap_after: Option<u64>,
    cut: Option<NatsCut>,
    /// Whether the consumer begins at the number of the last message: one that begins at its time left messages out.
    is_by_number: bool,
    /// Whether a message was read: its position is of this epoch of the stream.
    has_taken: bool,
    /// When the stream was made, as the last check said.
    created_ns: Option<u64>,
    removals: Removals,
    /// The newest message that clients may have had when the stream was last asked about.
    needed: Option<StoredId>,
    /// The server that led the stream when its consumer was chosen; empty without a cluster.
    leader: String,
}

/// What follows a check of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterCheck {
    /// The first page, or more after a pause.
    Read,
    /// The end of a page.
    Page,
    /// The end of the question.
    End,
}

impl AllRead {
    /// Reads on from here.
    pub(super) fn new(from: &PageCursor) -> Self {
        Self {
            after: from.after,
            repeats: from.repeats,
            whole_to: from.after,
            removals: Removals::new(from.after),
            ..Self::default()
        }
    }

    /// From where another question reads on: nothing is missing up to there but what [`Self::cut`] tells.
    pub(super) fn cursor(&self) -> PageCursor {
        PageCursor {
            repeats: self.repeats,
            ..PageCursor::after(self.whole_to)
        }
    }

    /// Why something is missing of what was read.
    pub(super) fn cut(&self) -> Option<NatsCut> {
        let has_lost = self.removals.has_lost().then_some(NatsCut::Window);
        self.cut.clone().or(has_lost)
    }

    /// As [`Self::cut`], if nothing more is read: messages count as missing if they may be, because nothing will show
    /// whether they are.
    pub(super) fn cut_at_stop(&self) -> Option<NatsCut> {
        let doubt = self.removals.is_in_doubt();
        self.cut().or_else(|| doubt.then_some(NatsCut::Window))
    }

    /// As [`Removals::needs_consumer`].
    pub(super) const fn needs_consumer(&self) -> bool {
        self.removals.needs_consumer()
    }

    /// Whether the position from which all messages are read is of another epoch of the stream.
    pub(super) fn is_of_other_epoch(&self) -> bool {
        matches!(self.cut, Some(NatsCut::Epoch))
    }

    /// Notes the newest message that clients may have, before the stream is asked about.
    pub(super) const fn need(&mut self, newest: Option<StoredId>) {
        self.needed = newest;
    }

    /// Whether the stream ends before a message that clients may have: of several servers, the one that answers was elected a
    /// moment ago, or is no longer the leader, and does not have all.
    pub(super) fn is_behind(&self, stream: &StreamInfo) -> bool {
        let needed = self.needed.map_or(0, |needed| needed.major);
        !stream.leader().is_empty() && stream.head_number() < needed
    }

    /// Whether the stream has a leader, as far as is known.
    const fn is_led(&self) -> bool {
        !self.leader.is_empty()
    }

    /// Whether another server leads the stream by now than the one whose consumer was read: that one may have been behind
    /// already when the consumer was made.
    pub(super) fn is_led_elsewhere(&self, stream: &StreamInfo) -> bool {
        stream.leader() != self.leader
    }

    /// Begins to read the stream of these parts of the name. Returns the part to read. A consumer has one filter, which has to
    /// lie within one subject of the stream. If the name does not, the consumer brings the whole stream, in its order: the
    /// stream may still have messages of subjects that it does not take any more.
    pub(super) fn begin(
        &mut self,
        name: &str,
        found: Vec<StreamPart>,
        stream: &StreamInfo,
    ) -> Option<StreamPart> {
        self.is_by_number = !stream.can_start_at_time() || self.has_taken;
        stream.leader().clone_into(&mut self.leader);
        let is_in_one = found.len() == 1;
        let part = found.into_iter().next()?;
        Some(match is_in_one && part.filter == name {
            true => part,
            false => StreamPart {
                // Empty: the whole stream.
                filter: String::new(),
                ..part
            },
        })
    }

    /// The first message of a consumer. It begins at the time of the position that the client has, not at its number:
    /// what is stored in another epoch of the stream is newer, whatever numbers it has, and the consumer of a name does
    /// not bring the message of that number if it has another name. Once a message was read, it goes on at its number:
    /// if the clock has gone back, its time may be that of messages long before it.
    pub(super) fn consumer_start(&self) -> Start {
        match self.after {
            None => Start::Sequence(1),
            Some(after) if self.is_by_number => Start::Sequence(after.major),
            Some(after) => Start::Time(after.minor),
        }
    }

    /// Turns a start by time into a start by number if `begins`, the first number of the consumer, does not follow the last
    /// message that was read. The numbers between may be free, or of messages that the consumer leaves out because the
    /// clock had gone back before they were stored. Returns whether another consumer is needed.
    pub(super) fn restart_by_number_if_late(&mut self, begins: u64) -> bool {
        if self.is_by_number {
            return false;
        }
        let after = self.after.map(|after| after.major);
        self.is_by_number = after.is_some_and(|after| begins > after.saturating_add(1));
        self.is_by_number
    }

    /// Reads with a consumer for which so many messages wait.
    pub(super) fn expect(&mut self, waiting: u64) {
        self.removals.expect(waiting);
    }

    /// As [`Removals::doubt_rest`].
    pub(super) fn doubt_rest(&mut self) {
        self.removals.doubt_rest(self.whole_to);
    }

    /// Counts a message. Returns false if it was read before, and is not to be handed over once more.
    pub(super) fn take(&mut self, id: StoredId) -> bool {
        match self.after {
            Some(after) if id == after && self.repeats => {
                self.removals.take_again();
                self.repeats = false;
                return true;
            }
            // A consumer begins at the last message that was read, or at its nanosecond or before it.
            Some(after) if id == after || id.major < after.major && id.minor <= after.minor => {
                self.removals.take_again();
                return false;
            }
            // A lower number that is newer, or another message of this number.
            Some(after) if id.major <= after.major => {
                self.cut = Some(NatsCut::Epoch);
                return false;
            }
            Some(after) if id.major > after.major + 1 => {
                self.gap_after.get_or_insert(after.major);
            }
            _ => {}
        }
        self.removals.take();
        (self.after, self.has_taken, self.repeats) = (Some(id), true, false);
        true
    }

    /// Whether the stream is to be asked where it begins, because numbers did not come since the last check. If none is
    /// missing, all that was read is whole. At the end, a stream that has a leader is asked in any case who leads it now: the
    /// question is over only if that is still the server whose consumer was read.
    pub(super) fn needs_check(&mut self, after_check: AfterCheck) -> bool {
        let is_end = after_check == AfterCheck::End;
        if is_end {
            // The last consumer may have brought nothing but what was read before.
            self.removals.compare();
        }
        let asks_leader = is_end && self.is_led();
        if self.gap_after.is_some() || asks_leader || self.removals.needs_check() {
            return true;
        }
        self.whole_to = self.after;
        false
    }

    /// As [`Removals::asks_list`].
    pub(super) const fn asks_list(&self) -> bool {
        self.removals.asks_list()
    }

    /// As [`Removals::needs_list`].
    pub(super) fn needs_list(&mut self, stream: &StreamInfo, now: Instant) -> bool {
        self.removals.needs_list(stream, self.whole_to, now)
    }

    /// Compares what was read with the state of the stream: [`NatsCut::Epoch`] if the stream is another one by now, else
    /// [`NatsCut::Window`] if it begins behind a number that has not come, or lost messages within. What was read is whole
    /// but for that from here on.
    pub(super) fn check(&mut self, stream: &StreamInfo, after_check: AfterCheck, now: Instant) {
        self.removals.check(stream, self.whole_to, after_check, now);
        if self.was_made_anew(stream) {
            self.cut = Some(NatsCut::Epoch);
        } else if self.has_lost_some(stream) {
            self.cut.get_or_insert(NatsCut::Window);
        }
        (self.gap_after, self.whole_to) = (None, self.after);
    }

    /// Whether the stream is another one than that of the last message, or has gone back to before it.
    fn was_made_anew(&mut self, stream: &StreamInfo) -> bool {
        let made = self.created_ns.replace(stream.created_ns);
        let has_other_time = made.is_some_and(|made| made != stream.created_ns);
        let Some(after) = self.after else {
            return false;
        };
        // Where a consumer cannot begin at a time, only the times tell. Copies have the times of what they copy.
        let tells_by_time = !stream.can_start_at_time() && stream.copied.is_empty();
        stream.head_number() < after.major
            || tells_by_time && after.minor < stream.created_ns
            || self.has_taken && has_other_time
    }

    /// Whether the stream begins behind a number that has not come.
    fn has_lost_some(&self, stream: &StreamInfo) -> bool {
        let after = self.after.map(|after| after.major);
        let missing_from = self.gap_after.or(after);
        missing_from.is_some_and(|after| after + 1 < stream.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(major: u64, minor: u64) -> StoredId {
        StoredId { major, minor }
    }

    #[test]
    fn what_a_start_by_time_brings_again_is_read_once_and_is_no_other_epoch() {
        let mut read = AllRead::new(&PageCursor::after(Some(id(7, 100))));
        assert_eq!(read.consumer_start(), Start::Time(100));
        // Of the same nanosecond, of an earlier one after the clock went back, and the last one itself.
        for again in [id(6, 100), id(6, 99), id(7, 100)] {
            assert!(!read.take(again) && !read.is_of_other_epoch());
        }
        assert!(read.take(id(8, 100)) && read.take(id(9, 101)));
        assert_eq!(read.cut(), None);
    }

    /// A client may lack a copy of it. If the stream has it no more, nothing is handed over in its place.
    #[test]
    fn the_last_message_is_handed_over_once_more_if_that_is_asked() {
        let from = PageCursor {
            repeats: true,
            ..PageCursor::after(Some(id(7, 100)))
        };
        let mut read = AllRead::new(&from);
        assert!(!read.take(id(6, 100)));
        assert_eq!(read.cursor(), from);
        assert!(read.take(id(7, 100)) && !read.take(id(7, 100)));
        assert!(!read.cursor().repeats);
        let mut read = AllRead::new(&from);
        assert!(read.take(id(8, 100)) && !read.take(id(8, 100)) && !read.cursor().repeats);
        assert!(!read.is_of_other_epoch());
    }

    #[test]
    fn a_lower_number_that_is_newer_and_another_message_of_a_number_are_of_another_epoch() {
        for other in [id(6, 101), id(7, 101), id(7, 99)] {
            let mut read = AllRead::new(&PageCursor::after(Some(id(7, 100))));
            assert!(!read.take(other) && read.is_of_other_epoch(), "{other:?}");
        }
    }
}
