//! The messages of the bus as clients get them: as text, or as a line of text and the bytes of the payload for clients
//! that ask for binary messages. A client gets a copy for its exact name and a copy for each of its patterns.
//!
//! The frame that the feed of channels has made starts with the end of the object, without a position; a line feed and
//! the payload follow. The frame is binary unless the payload is JSON.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::FixedState;
use memchr::memchr;

use super::super::history::{END_BYTES_MAX, ended};
use crate::hub::{ConflationKey, Content, CopyRank, Frame, FrameBytes, Lead, Message, TopicName};
use crate::wire::json::quoted;

/// The text before the number.
const LEAD: Lead = Lead::Seq(r#"{"type":"data","seq":"#);

/// `{"type":"data","seq":n,"channel":…,"pattern":…,"data":…,"timestamp":…,"pos":…}`, or the same without `data`, a line
/// feed and the payload. Each copy has its own position, because a client may lose its connection between two copies.
/// For a slow client, only a newer copy for the same name or pattern replaces a copy.
pub(super) fn render(
    message: &Message<'_>,
    pattern: Option<&TopicName>,
    alive: &FrameBytes,
) -> Arc<Frame> {
    let (unit, content) = (message.frame, message.content);
    let body = unit.body();
    let (end, rest) = body.split_at(memchr(b'\n', body).unwrap_or(body.len()));
    let payload = rest.get(1..).unwrap_or_default();
    let pattern = pattern.map(TopicName::as_str);
    let name = quoted(message.name);
    let pattern_text = pattern.map(quoted);
    let (frame, [data_name, data, line_end, payload]) = match content {
        Content::Text => {
            let data = json_of(payload, unit);
            (Frame::text(alive), [&br#","data":"#[..], data, b"", b""])
        }
        Content::Binary => (Frame::binary(alive), [&b""[..], b"", b"\n", payload]),
    };
    let parts = [
        br#","channel":"#,
        name.as_bytes(),
        br#","pattern":"#,
        pattern_text.as_deref().unwrap_or("null").as_bytes(),
        data_name,
        data,
        end,
    ];
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut copy = frame
        .with_capacity(bytes + END_BYTES_MAX + line_end.len() + payload.len())
        .lead(LEAD)
        .received(unit.received())
        .of_feed(unit.is_of_feed());
    if let Some(ConflationKey(key)) = unit.key() {
        let key = FixedState::default().hash_one((key, pattern, content == Content::Text));
        copy = copy.key(ConflationKey(key));
    }
    let copy = parts.into_iter().fold(copy, |copy, part| copy.body(part));
    let rank = pattern.map_or(CopyRank::LAST, CopyRank::of_pattern);
    let copy = ended(copy, message.position, rank);
    copy.body(line_end).body(payload).finish()
}

/// The payload as a JSON value; `null` for a deletion, which has no payload.
fn json_of<'a>(payload: &'a [u8], unit: &'a Frame) -> &'a [u8] {
    match unit.content() {
        _ if payload.is_empty() => b"null",
        Content::Text => payload,
        Content::Binary => unit.json_with(|| {
            let text = quoted(&String::from_utf8_lossy(payload));
            format!("{{\"raw\":{text}}}").into_bytes()
        }),
    }
}
