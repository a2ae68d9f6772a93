//! The messages that a search has found: where they are, before their frames are made.

use std::sync::Arc;

use super::frames::MADE_AT_ONCE;
use super::missed::CopyPlace;
use super::topics::TopicIndex;
use super::wanted::{FrameBudget, Outcome, Wanted};
use crate::{Body, Frame, NotRecovered, Position, TopicName};

/// Memory of a copy that was found.
const FOUND_BYTES: usize = size_of::<(CopyPlace, Arc<Frame>)>();
/// Memory of a copy whose frame is made later.
const UNMADE_BYTES: usize = size_of::<(Known, Option<TopicName>)>();

/// Where a message is, until another one comes or is forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    /// In the list, at this index.
    Entry(usize),
    /// It is the only message that is kept of this topic.
    NewestOnly(TopicIndex),
}

/// A message that was found, by what does not change until its frame is made later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known {
    /// By the number in the feed.
    Number(u64),
    /// By its topic, and its position.
    NewestOnly(TopicIndex, Position),
}

/// Queue bytes of a copy, without what the gateway adds to a payload, and the memory until its frame is made: a history
/// may have very many messages of a few bytes.
pub(super) fn copy_bytes(body: &Body, name: &Wanted) -> usize {
    let pattern = name.pattern().map_or(0, |name| name.as_str().len());
    let is_frame = matches!(body, Body::Frame(_));
    let unmade = if is_frame { 0 } else { UNMADE_BYTES };
    body.queue_bytes() + pattern + FOUND_BYTES + unmade
}

/// The messages of a page, before their frames are made.
#[derive(Debug)]
pub(super) struct FoundCopies<'a> {
    /// The found copies: where the message is, and the wanted name that the copy is for.
    pub(super) copies: Vec<(At, &'a Wanted)>,
    /// As of [`copy_bytes`].
    pub(super) bytes: usize,
    budget: FrameBudget,
}

impl<'a> FoundCopies<'a> {
    pub(super) fn new(budget: FrameBudget) -> Self {
        Self {
            copies: Vec::new(),
            bytes: 0,
            budget,
        }
    }

    /// Adds a copy; nothing for a message that these clients do not get.
    ///
    /// # Errors
    /// The copies are as many as are made at once, or too many bytes.
    pub(super) fn push(&mut self, at: At, body: Option<&Body>, name: &'a Wanted) -> Outcome {
        let Some(body) = body else {
            return Ok(());
        };
        self.bytes += copy_bytes(body, name);
        self.copies.push((at, name));
        match self.bytes > self.budget.bytes_max || self.copies.len() == MADE_AT_ONCE {
            true => Err(NotRecovered::Large),
            false => Ok(()),
        }
    }
}
