//! The state of levels: the newest value under each key, as bytes of the payload.

use std::sync::Arc;

use super::normalise::write_string;
use crate::gateways::shared::feed::{write_integer, write_stamp};
use weirgate_core::{ConflationKey, Frame, FrameBytes};
use weirgate_wire::base::Now;

/// All frames of a topic replace each other: each holds everything that the topic shows, and a client is a member of a
/// single topic.
const CONFLATION_KEY: ConflationKey = ConflationKey(0);

/// The key of the message number, where messages have numbers.
pub(super) const SEQ_KEY: &str = "seq";

/// A key of the payload, with the newest value if there is a value.
#[derive(Debug)]
struct StatePart {
    /// The key with its punctuation, as in the payload: `"flow":`.
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// A member of the payload.
struct Member<'a> {
    /// With its punctuation.
    key: &'a [u8],
    value: &'a [u8],
}

/// The state: parts in the order of the payload.
#[derive(Debug)]
pub(super) struct Cache {
    parts: Vec<StatePart>,
    /// Whether payloads have the time of receipt.
    is_stamped: bool,
    /// Counts the bytes of the frames that still exist.
    alive: FrameBytes,
}

impl Cache {
    /// Creates a cache without values.
    pub(super) fn new(keys: &[&str], is_stamped: bool, alive: FrameBytes) -> Self {
        let part = |key: &&str| {
            let mut text = Vec::new();
            write_string(key, &mut text);
            text.push(b':');
            StatePart {
                key: text,
                value: None,
            }
        };
        Self {
            parts: keys.iter().map(part).collect(),
            is_stamped,
            alive,
        }
    }

    /// Sets a value; `None` removes the key.
    pub(super) fn set(&mut self, part: usize, value: Option<Vec<u8>>) {
        self.parts[part].value = value;
    }

    /// The length of a value, an estimate for the next value.
    pub(super) fn value_bytes(&self, part: usize) -> usize {
        self.parts[part].value.as_ref().map_or(0, Vec::len)
    }

    /// Whether none of `parts` has a value: their payload is `{}`.
    pub(super) fn is_empty(&self, parts: &[usize]) -> bool {
        self.members(parts).next().is_none()
    }

    /// The payload of `parts` as a frame; `seq` and the stamp come after the parts. `received` is when the newest
    /// message of the payload was received.
    pub(super) fn frame(&self, parts: &[usize], seq: Option<u64>, received: Now) -> Arc<Frame> {
        let mut more = Vec::new();
        if let Some(seq) = seq {
            write_integer(SEQ_KEY, seq, &mut more);
        }
        if self.is_stamped {
            if !more.is_empty() {
                more.push(b',');
            }
            write_stamp(received, &mut more);
        }
        // Messages of the market are nobody's own.
        let mut frame = Frame::text(&self.alive)
            .common(true)
            .with_capacity(self.payload_bytes(parts) + 1 + more.len())
            .key(CONFLATION_KEY)
            .received(received);
        let payload = frame.payload();
        self.write(parts, payload);
        if !more.is_empty() {
            // The closing brace comes after these members.
            payload.pop();
            if !self.is_empty(parts) {
                payload.push(b',');
            }
            payload.extend_from_slice(&more);
            payload.push(b'}');
        }
        frame.finish()
    }

    /// The number of bytes that [`Self::write`] appends.
    fn payload_bytes(&self, parts: &[usize]) -> usize {
        // Before each part an opening brace or a comma, and the closing brace. Without parts, the two braces.
        let bytes = |member: Member<'_>| 1 + member.key.len() + member.value.len();
        self.members(parts).map(bytes).sum::<usize>().max(1) + 1
    }

    /// Appends the payload of `parts`.
    fn write(&self, parts: &[usize], out: &mut Vec<u8>) {
        if self.is_empty(parts) {
            out.push(b'{');
        }
        let mut before = b'{';
        for member in self.members(parts) {
            out.push(before);
            out.extend_from_slice(member.key);
            out.extend_from_slice(member.value);
            before = b',';
        }
        out.push(b'}');
    }

    /// Those of `parts` that have a value.
    fn members<'a>(&'a self, parts: &'a [usize]) -> impl Iterator<Item = Member<'a>> {
        parts.iter().filter_map(|&part| {
            let part = &self.parts[part];
            Some(Member {
                key: &part.key,
                value: part.value.as_deref()?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        mono_us: 1,
        unix_us: 2 * 1_000,
    };

    #[test]
    fn parts_stand_in_order_and_only_while_known() {
        let keys = ["flow", "levels", "a\"b"];
        let cases = [
            ([None, None, None], "{}", "{}"),
            ([Some("1"), None, None], r#"{"flow":1}"#, "{}"),
            (
                [None, Some("{}"), Some("0")],
                r#"{"levels":{},"a\"b":0}"#,
                r#"{"a\"b":0}"#,
            ),
            (
                [Some("[]"), Some("{}"), Some("\"\"")],
                r#"{"flow":[],"levels":{},"a\"b":""}"#,
                r#"{"a\"b":""}"#,
            ),
        ];
        for (values, all, last) in cases {
            let mut cache = Cache::new(&keys, false, FrameBytes::default());
            for (part, value) in values.into_iter().enumerate() {
                cache.set(part, value.map(|v| v.as_bytes().to_vec()));
                assert_eq!(cache.value_bytes(part), value.map_or(0, str::len));
            }
            for (parts, payload) in [(&[0, 1, 2][..], all), (&[2], last), (&[], "{}")] {
                let numbered = cache.frame(parts, Some(7), NOW);
                let comma = if payload == "{}" { "" } else { "," };
                let expected = format!("{}{comma}\"seq\":7}}", &payload[..payload.len() - 1]);
                assert_eq!(String::from_utf8_lossy(numbered.body()), expected);
                cache.is_stamped = true;
                for (seq, number) in [(None, ""), (Some(7), r#""seq":7,"#)] {
                    let stamped = cache.frame(parts, seq, NOW);
                    let open = &payload[..payload.len() - 1];
                    let expected = format!("{open}{comma}{number}\"recv_us\":2000}}");
                    assert_eq!(String::from_utf8_lossy(stamped.body()), expected);
                }
                cache.is_stamped = false;
                let frame = cache.frame(parts, None, NOW);
                assert_eq!(String::from_utf8_lossy(frame.body()), payload);
                assert_eq!(cache.payload_bytes(parts), payload.len(), "{payload}");
                assert_eq!(cache.is_empty(parts), payload == "{}");
                assert_eq!((frame.received(), frame.key()), (NOW, Some(CONFLATION_KEY)));
            }
        }
    }
}
