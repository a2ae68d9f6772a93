//! The newest value under each key, as bytes of the payload.

use std::sync::Arc;

use super::normalise::write_string;
use crate::hub::{ConflationKey, Frame, FrameBytes, Now};

/// All frames of a topic replace each other: each holds everything that the topic shows, and a client
/// is a member of a single topic.
pub(super) const CONFLATION_KEY: ConflationKey = ConflationKey(0);

/// The key of the message number, where messages have numbers.
pub(super) const SEQ_KEY: &str = "seq";

/// The most bytes of `,"seq":` and a number.
const SEQ_BYTES_MAX: usize = 27;

/// A key of the payload, with the newest value if there is a value.
#[derive(Debug)]
struct Part {
    /// The key with its punctuation, as in the payload: `"flow":`.
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// The state: parts in the order of the payload.
#[derive(Debug)]
pub(super) struct Cache {
    parts: Vec<Part>,
    /// Counts the frames.
    alive: FrameBytes,
}

impl Cache {
    /// Creates a cache without values.
    pub(super) fn new(keys: &[&str], alive: FrameBytes) -> Self {
        let part = |key: &&str| {
            let mut text = Vec::new();
            write_string(key, &mut text);
            text.push(b':');
            Part {
                key: text,
                value: None,
            }
        };
        Self {
            parts: keys.iter().map(part).collect(),
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
        self.known(parts).next().is_none()
    }

    /// The payload of `parts` as a frame, stamped with the message's time of receipt; `seq` comes behind the
    /// parts.
    pub(super) fn frame(&self, parts: &[usize], seq: Option<u64>, received: Now) -> Arc<Frame> {
        let seq_bytes = seq.map_or(0, |_| SEQ_BYTES_MAX);
        let mut frame = Frame::text(&self.alive)
            .with_capacity(self.payload_bytes(parts) + seq_bytes)
            .key(CONFLATION_KEY)
            .received(received);
        let payload = frame.payload();
        self.write(parts, payload);
        if let Some(seq) = seq {
            payload.pop();
            if !self.is_empty(parts) {
                payload.push(b',');
            }
            payload.extend_from_slice(format!("\"{SEQ_KEY}\":{seq}}}").as_bytes());
        }
        frame.finish()
    }

    /// The number of bytes that [`Self::write`] appends.
    fn payload_bytes(&self, parts: &[usize]) -> usize {
        // Before each part an opening brace or a comma, and the closing brace.
        let bytes = |(key, value): (&[u8], &[u8])| 1 + key.len() + value.len();
        self.known(parts).map(bytes).sum::<usize>().max(1) + 1
    }

    fn write(&self, parts: &[usize], out: &mut Vec<u8>) {
        if self.is_empty(parts) {
            out.push(b'{');
        }
        let mut before = b'{';
        for (key, value) in self.known(parts) {
            out.push(before);
            out.extend_from_slice(key);
            out.extend_from_slice(value);
            before = b',';
        }
        out.push(b'}');
    }

    fn known<'a>(&'a self, parts: &'a [usize]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        parts.iter().filter_map(|&part| {
            let part = &self.parts[part];
            Some((&*part.key, part.value.as_deref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        mono_us: 1,
        unix_ms: 2,
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
            let mut cache = Cache::new(&keys, FrameBytes::default());
            for (part, value) in values.into_iter().enumerate() {
                cache.set(part, value.map(|v| v.as_bytes().to_vec()));
                assert_eq!(cache.value_bytes(part), value.map_or(0, str::len));
            }
            for (parts, payload) in [(&[0, 1, 2][..], all), (&[2], last), (&[], "{}")] {
                let numbered = cache.frame(parts, Some(7), NOW);
                let comma = if payload == "{}" { "" } else { "," };
                let expected = format!("{}{comma}\"seq\":7}}", &payload[..payload.len() - 1]);
                assert_eq!(String::from_utf8_lossy(numbered.body()), expected);
                let frame = cache.frame(parts, None, NOW);
                assert_eq!(String::from_utf8_lossy(frame.body()), payload);
                assert_eq!(cache.payload_bytes(parts), payload.len(), "{payload}");
                assert_eq!(cache.is_empty(parts), payload == "{}");
                assert_eq!((frame.received(), frame.key()), (NOW, Some(CONFLATION_KEY)));
            }
        }
    }
}
