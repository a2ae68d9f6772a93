//! Makes the frames of kept messages: of the newest one for its receivers, and of those that a search or a page has found.

use std::sync::Arc;

use super::History;
use super::found::{At, Known};
use super::message::KeptMessage;
use super::missed::Missed;
use super::wanted::{FrameBudget, Outcome, rank_of};
use crate::{Content, Frame, NotRecovered, Position, TopicName};

/// The most frames that are made at once: usual resumes have fewer messages, and it takes less than half a millisecond.
pub(super) const MADE_AT_ONCE: usize = 500;

impl History {
    /// The frame of the newest message for clients of its own name, or of a pattern, with its position if they may be given
    /// it; `None` if the newest message has another position, was left out, or is not for clients of this kind.
    pub(crate) fn copy_of_newest(
        &mut self,
        position: Position,
        pattern: Option<&TopicName>,
        content: Content,
    ) -> Option<Arc<Frame>> {
        let newest = self.list.entries.back_mut();
        let newest = newest.filter(|newest| newest.position == position)?;
        let topic = self.known_topics.topic(*self.list.topics.back()?);
        let given = self.certain.of(newest);
        let number = newest.number;
        let copy = newest.copy(topic, (pattern, content), given, &mut self.renderer);
        self.list.note_copy(number);
        self.forget_excess();
        copy
    }

    /// Takes the next step of a search, or makes the next frames of what it has found. A newest message that is no longer
    /// here does not come: [`has_forgotten`](Self::has_forgotten) says so.
    ///
    /// # Errors
    /// A missed message is no longer here, or the messages are too many bytes.
    pub(crate) fn make_next(&mut self, missed: &mut Missed, budget: FrameBudget) -> Outcome {
        if let Some(search) = missed.search.take() {
            return self.continue_search(search, missed, budget);
        }
        let before = self.memory();
        for _ in 0..MADE_AT_ONCE {
            let Some((known, pattern)) = missed.next_unmade() else {
                break;
            };
            match self.find_known(known, missed.has_newest) {
                Some(at) => self.make(at, pattern.as_ref(), missed, budget)?,
                None if missed.has_newest => {}
                None => return Err(NotRecovered::Window),
            }
        }
        self.forget_made(before);
        Ok(())
    }

    /// Where such a message is now. If `may_stay`, it may have left the list since, to stay as the newest of its topic
    /// ([`newest_only`](super::newest_only)).
    fn find_known(&self, known: Known, may_stay: bool) -> Option<At> {
        match known {
            Known::Number(number) => {
                let alone = || self.newest_only.topic_of(number).filter(|_| may_stay);
                let listed = self.list.find(number).map(At::Entry);
                listed.or_else(|| alone().map(At::NewestOnly))
            }
            Known::NewestOnly(topic, position) => {
                let entry = self.newest_only.get(topic);
                let is_it = entry.is_some_and(|entry| entry.position == position);
                is_it.then_some(At::NewestOnly(topic))
            }
        }
    }

    /// Makes the frame of a found message.
    pub(super) fn make(
        &mut self,
        at: At,
        pattern: Option<&TopicName>,
        missed: &mut Missed,
        budget: FrameBudget,
    ) -> Outcome {
        let topic = match at {
            At::Entry(at) => self.list.topics[at],
            At::NewestOnly(topic) => topic,
        };
        let name = self.known_topics.topic(topic);
        let renderer = &mut self.renderer;
        let mut copy = |entry: &mut KeptMessage| {
            let given = self.certain.of(entry).filter(|_| budget.has_positions);
            let frame = entry.copy(name, (pattern, budget.content), given, renderer);
            (entry.number, frame)
        };
        let made = match at {
            At::Entry(at) => {
                let (number, frame) = copy(&mut self.list.entries[at]);
                self.list.note_copy(number);
                Some((number, frame))
            }
            At::NewestOnly(topic) => self.newest_only.with(topic, name, copy),
        };
        made.map_or(Ok(()), |(number, frame)| {
            missed.push((number, rank_of(pattern)), frame, budget.bytes_max)
        })
    }
}
