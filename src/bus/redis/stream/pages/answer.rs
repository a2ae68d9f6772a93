//! Asks for entries for a question, hands them over as they come, and judges the answer.

use std::time::{Duration, Instant};

use super::super::entry::{StreamEntry, entries, id_text};
use super::super::prints::EntryPrint;
use super::super::range::RangeSize;
use super::super::read_limits;
use super::super::state::{STATE, StateAnswer};
use super::reading::{Met, PagedQuestion};
use crate::kept::Progress;
use crate::redis::connection::Connection;
use crate::redis::error::RedisError;
use crate::redis::resp::{ReadLimits, Value};
use weirgate_core::{RetainedCut, StoredId};
use weirgate_runtime::SourceLink;

/// What a request for entries needs beside the question.
pub(super) struct EntriesRequest<'a> {
    pub(super) key: &'a str,
    pub(super) link: &'a SourceLink,
    /// How far the source has come.
    pub(super) progress: Progress,
    /// The longest silence of the server.
    pub(super) patience: Duration,
    pub(super) payload_bytes_max: usize,
}

/// The end of an answer, whose entries were handed over as they came, and what was known when they were asked for.
pub(super) struct Answered {
    pub(super) end: AnswerEnd,
    /// How far the source had come before.
    pub(super) progress: Progress,
    /// The state of the stream before, if it was asked for.
    state: Option<StateAnswer>,
}

/// How an answer with entries ended.
pub(super) enum AnswerEnd {
    /// All entries have come.
    Whole(Taken),
    /// The words of the server.
    Error(String),
    /// An entry was not one.
    Unreadable,
    /// The last entry that was read is another one by now: the stream was made anew.
    OtherEpoch,
    /// The loop has ended.
    LoopGone,
}

/// The entries of an answer.
#[derive(Clone, Copy, Default)]
pub(super) struct Taken {
    entries: usize,
    newest: Option<StoredId>,
    /// There may be more: as many came as were asked for.
    may_follow: bool,
}

/// What a whole answer says of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerVerdict {
    /// More entries may follow.
    GoesOn,
    /// All entries were read; for this reason, some may be missing.
    Ends(Option<RetainedCut>),
    /// The server is behind the source.
    ServerBehind {
        /// It does not even have the last entry that was read.
        is_last_gone: bool,
    },
}

impl EntriesRequest<'_> {
    /// Asks for entries, and hands them over. The last entry that was read comes again: if it is gone, others may be gone with
    /// it.
    pub(super) fn ask(
        &self,
        connection: &mut Connection<'_>,
        range: &mut RangeSize,
        reading: &mut PagedQuestion,
    ) -> Result<Answered, RedisError> {
        let limits = read_limits(self.payload_bytes_max);
        connection.reader.set_limits(limits);
        let state = match reading.behind() {
            None => None,
            // The needed entry may have been trimmed or deleted.
            Some(_) => self.ask_state(connection, reading.needed(self.progress))?,
        };
        connection.reader.set_limits(ReadLimits {
            singly: true,
            ..limits
        });
        Ok(Answered {
            end: self.take_entries(connection, range, reading)?,
            progress: self.progress,
            state,
        })
    }

    /// Asks for the state of the stream, and whether it has the needed entry. `None`: a server that refuses the script says
    /// nothing of the state.
    fn ask_state(
        &self,
        connection: &mut Connection<'_>,
        needed: Option<StoredId>,
    ) -> Result<Option<StateAnswer>, RedisError> {
        let needed = id_text(needed.unwrap_or_default());
        let command = ["EVAL_RO", STATE, "1", self.key, &needed];
        let state = entries(connection.ask_one(&command, self.patience)?);
        Ok(state.ok().map(|items| StateAnswer::read(&items)))
    }

    /// Asks for entries from the last one that was read on, and takes each as it comes.
    fn take_entries(
        &self,
        connection: &mut Connection<'_>,
        range: &mut RangeSize,
        reading: &mut PagedQuestion,
    ) -> Result<AnswerEnd, RedisError> {
        let last = reading.cursor.after;
        let from = last.map_or_else(|| "-".to_owned(), id_text);
        connection.reader.take_bytes();
        connection.queue(&range.command((self.key, &from), last.is_some()));
        let asked = Instant::now();
        let mut taken = Taken::default();
        loop {
            let parts = match connection.next_answer(None, asked, self.patience)? {
                Value::Error(_) if range.is_script_refused() => {
                    connection.queue(&range.command((self.key, &from), last.is_some()));
                    continue;
                }
                Value::Error(words) => return Ok(AnswerEnd::Error(words)),
                answer => entries(answer),
            };
            let bytes = connection.reader.take_bytes();
            let entry = match parts {
                // The list itself, after its entries.
                Ok(parts) if parts.is_empty() => {
                    taken.may_follow = range.end();
                    return Ok(AnswerEnd::Whole(taken));
                }
                Ok(parts) => StreamEntry::read(Value::Array(parts)),
                Err(error) => Err(error),
            };
            let Ok(entry) = entry else {
                return Ok(AnswerEnd::Unreadable);
            };
            range.arrived(bytes);
            if let Some(end) = self.take_entry(entry, last, &mut taken, reading) {
                return Ok(end);
            }
        }
    }

    /// Takes an entry of an answer that was to begin with the entry `last`. Returns the end of the answer if nothing after this
    /// entry is to be taken.
    fn take_entry(
        &self,
        entry: StreamEntry,
        last: Option<StoredId>,
        taken: &mut Taken,
        reading: &mut PagedQuestion,
    ) -> Option<AnswerEnd> {
        taken.entries += 1;
        taken.newest = Some(entry.id);
        let print = EntryPrint::of(&entry);
        match reading.meet(print, last, taken.entries == 1) {
            Met::OtherEpoch => Some(AnswerEnd::OtherEpoch),
            Met::Known => None,
            Met::Next => {
                let handed = reading.hand_over(self.key, (entry, print), self.link);
                handed.is_err().then_some(AnswerEnd::LoopGone)
            }
        }
    }
}

impl Answered {
    /// Whether nothing of the answer is on the way any more, so that the connection can be used again.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.end, AnswerEnd::Whole(_) | AnswerEnd::Error(_))
    }

    /// Judges a whole answer: fewer entries than were asked for are the last, unless the server is behind.
    pub(super) fn judge(&self, taken: Taken, reading: &PagedQuestion) -> AnswerVerdict {
        if taken.may_follow {
            return AnswerVerdict::GoesOn;
        }
        // Not even the last entry that was read has come again.
        let is_last_gone = taken.entries == 0 && reading.cursor.after.is_some();
        let needed = reading.needed(self.progress);
        // The server has the needed entry, or has had a later one: what has not come was trimmed or deleted, and the
        // server is not behind.
        let had_needed = self
            .state
            .is_some_and(|state| state.is_there == Some(true) || last_added(state) >= needed);
        if taken.newest < needed && !had_needed {
            return AnswerVerdict::ServerBehind { is_last_gone };
        }
        // It is the same stream, which was trimmed, perhaps to the last entry that was read. Nothing is lacking if no entry
        // was ever added after that one.
        let last = self.state.and_then(last_added);
        let lacks_some = is_last_gone && last != reading.cursor.after;
        AnswerVerdict::Ends(lacks_some.then_some(RetainedCut::Window))
    }
}

/// The id of the entry that was added last, even if it is gone; `None` if that is not known.
fn last_added(state: StateAnswer) -> Option<StoredId> {
    Some(state.counters?.last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_core::PageCursor;

    fn id(major: u64) -> StoredId {
        StoredId { major, minor: 0 }
    }

    /// The verdict for a question that has read up to 5, while the source has read up to 9. `taken`: the number of entries and the
    /// newest one. `state`: whether the needed entry is there, and the id of the last one that was added.
    fn verdict(taken: (usize, Option<u64>), state: Option<(bool, u64)>) -> AnswerVerdict {
        let bulk = |major| Value::Bulk(id_text(id(major)).into_bytes());
        let state = state.map(|(is_there, last)| {
            let zero = Value::Integer(0);
            let found = Value::Integer(is_there.into());
            let sample = Value::Array(Vec::new());
            let (added, length) = (zero.clone(), zero);
            let items = [found, sample, added, length, bulk(0), bulk(last), bulk(0)];
            StateAnswer::read(&items)
        });
        let (entries, newest) = taken;
        let taken = Taken {
            entries,
            newest: newest.map(id),
            may_follow: false,
        };
        let answer = Answered {
            end: AnswerEnd::Whole(taken),
            progress: Progress {
                reached: Some(id(9)),
                ..Progress::default()
            },
            state,
        };
        let reading = PagedQuestion::of_channel(PageCursor::after(Some(id(5))));
        answer.judge(taken, &reading)
    }

    #[test]
    fn a_question_ends_where_the_source_had_read_to() {
        assert_eq!(verdict((4, Some(9)), None), AnswerVerdict::Ends(None));
        let behind = |is_last_gone| AnswerVerdict::ServerBehind { is_last_gone };
        assert_eq!(verdict((1, Some(5)), None), behind(false));
        assert_eq!(verdict((0, None), None), behind(true));
        assert_eq!(verdict((1, Some(5)), Some((false, 8))), behind(false));
    }

    #[test]
    fn what_the_server_had_and_has_no_more_was_trimmed() {
        for state in [(true, 9), (false, 9), (false, 10)] {
            assert_eq!(
                verdict((1, Some(5)), Some(state)),
                AnswerVerdict::Ends(None)
            );
            let cut = Some(RetainedCut::Window);
            assert_eq!(verdict((0, None), Some(state)), AnswerVerdict::Ends(cut));
        }
    }
}
