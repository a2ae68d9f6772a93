//! The messages that a search has found: where they are, before their frames are made.

use std::collections::BTreeSet;

use super::topics::TopicIndex;
use super::wanted::{FrameBudget, Outcome, Wanted};
use crate::{Body, NotRecovered, Position, TopicName};

/// Memory of a copy that was found.
const FOUND_BYTES: usize = size_of::<(At, &Wanted<'_>)>();
/// Memory of a copy whose frame is made later.
const UNMADE_BYTES: usize = size_of::<(Known, Option<TopicName>)>();

/// Where a message is.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    /// In the list, at this index.
    Entry(usize),
    /// It is the only message that is kept of this topic.
    NewestOnly(TopicIndex),
}

/// A message that was found, and whose frame is made later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known {
    /// By its number.
    Number(u64),
    /// By its topic, and its position.
    NewestOnly(TopicIndex, Option<Position>),
}

/// The messages that a search has found, before their frames are made.
#[derive(Debug)]
pub(super) struct FoundCopies<'a> {
    /// The found copies: where the message is, and the wanted name that the copy is for.
    pub(super) copies: Vec<(At, &'a Wanted<'a>)>,
    /// Queue bytes of the copies, without what the gateway adds to a payload, and the memory until the frames are made: a
    /// history may have very many messages of a few bytes.
    pub(super) bytes: usize,
    /// The wanted names of which a newest message was left out.
    pub(super) left_out: BTreeSet<&'a TopicName>,
    pub(super) budget: FrameBudget,
}

impl<'a> FoundCopies<'a> {
    pub(super) fn new(budget: FrameBudget) -> Self {
        Self {
            copies: Vec::new(),
            bytes: 0,
            left_out: BTreeSet::new(),
            budget,
        }
    }

    /// Adds a copy; nothing for a message that these clients do not get.
    ///
    /// # Errors
    /// The copies are too many bytes.
    pub(super) fn push(&mut self, at: At, body: Option<&Body>, name: &'a Wanted<'a>) -> Outcome {
        let Some(body) = body else {
            return Ok(());
        };
        let pattern = name.pattern().map_or(0, |name| name.as_str().len());
        let is_frame = matches!(body, Body::Frame(_));
        let unmade = if is_frame { 0 } else { UNMADE_BYTES };
        self.bytes += body.queue_bytes() + pattern + FOUND_BYTES + unmade;
        self.copies.push((at, name));
        match self.bytes > self.budget.bytes_max {
            true => Err(NotRecovered::Large),
            false => Ok(()),
        }
    }
}
