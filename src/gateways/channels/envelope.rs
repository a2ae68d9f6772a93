//! The messages of the bus as clients get them. What they share is the frame of the publication: the data and the time
//! (feed of channels). A client gets a copy for its exact name and one for each of its patterns.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::super::history::{END_BYTES_MAX, ended};
use crate::hub::{ConflationKey, CopyRank, Frame, FrameBytes, Lead, Message, TopicName};
use crate::wire::object_writer::quoted;

/// The text before the number.
const LEAD: Lead = Lead::Seq(r#"{"type":"data","seq":"#);

/// `{"type":"data","seq":n,"channel":…,"pattern":…,"data":…,"timestamp":…,"pos":…}`. Each copy has a position of its own,
/// because a client may be cut between two copies, and is replaced by copies of the same kind.
pub(super) fn render(
    message: &Message<'_>,
    pattern: Option<&TopicName>,
    alive: &FrameBytes,
) -> Arc<Frame> {
    let pattern = pattern.map(TopicName::as_str);
    let name = quoted(message.name);
    let pattern_text = pattern.map_or_else(|| "null".to_owned(), quoted);
    let parts = [
        br#","channel":"#,
        name.as_bytes(),
        br#","pattern":"#,
        pattern_text.as_bytes(),
        message.frame.body(),
    ];
    let mut copy = Frame::text(alive)
        .with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + END_BYTES_MAX)
        .lead(LEAD)
        .received(message.frame.received());
    if let Some(ConflationKey(key)) = message.frame.key() {
        let key = FixedState::default().hash_one((key, pattern));
        copy = copy.key(ConflationKey(key));
    }
    let copy = parts.into_iter().fold(copy, |copy, part| copy.body(part));
    let rank = pattern.map_or(CopyRank::LAST, CopyRank::of_pattern);
    ended(copy, message.position, rank)
}
