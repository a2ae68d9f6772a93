//! The newest value under each key, as bytes of the payload, and the views of the topics: the shown parts of the state,
//! and the frames for members and new clients.

use std::ops::Range;
use std::sync::Arc;

use super::normalise::write_string;
use crate::gateways::shared::feed::write_stamp;
use weirgate_core::{ConflationKey, Frame, FrameBytes, Now, Publication, Retain, TopicName};

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
        self.known(parts).next().is_none()
    }

    /// The payload of `parts` as a frame; `seq` and the stamp come after the parts. `received` is when the newest
    /// message of the payload was received.
    pub(super) fn frame(&self, parts: &[usize], seq: Option<u64>, received: Now) -> Arc<Frame> {
        let mut more = Vec::new();
        if let Some(seq) = seq {
            more.extend_from_slice(format!("\"{SEQ_KEY}\":{seq}").as_bytes());
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

/// While a backlog is read, the frame for new clients is updated at most this often. A frame for each of 100,000
/// messages would be work for nobody; without any update, a client that connects meanwhile would get a state from
/// before the backlog.
const QUIET_PUBLISH_INTERVAL_US: u64 = 100_000;

/// Some parts of the state under a topic of their own.
#[derive(Debug)]
pub(super) struct View {
    topic: TopicName,
    /// Indexes of the parts, in the order of the payload.
    parts: Vec<usize>,
    /// The newest frame, delivered or not, for new clients.
    frame: Option<Arc<Frame>>,
    /// Whether the frame was only retained: members have not got it.
    is_quiet: bool,
    /// The time of the newest quiet message that is in no frame yet.
    pending: Option<Now>,
    /// The time at which the last quiet frame was made.
    quiet_at_us: Option<u64>,
    /// The number of frames delivered to the members, if payloads are numbered.
    delivered: Option<u64>,
}

impl View {
    /// Creates a view without a frame. `parts` are in the order of the payload. If `is_numbered`, each payload has the
    /// number of its broadcast.
    pub(super) fn new(topic: TopicName, parts: Vec<usize>, is_numbered: bool) -> Self {
        Self {
            topic,
            parts,
            frame: None,
            is_quiet: false,
            pending: None,
            quiet_at_us: None,
            delivered: is_numbered.then_some(0),
        }
    }

    /// Whether the view shows any of `parts`.
    pub(super) fn shows(&self, parts: &Range<usize>) -> bool {
        self.parts.iter().any(|part| parts.contains(part))
    }

    /// Broadcasts after a good message for a part of the view.
    pub(super) fn changed(&mut self, received: Now, cache: &Cache, out: &mut Vec<Publication>) {
        let frame = cache.frame(&self.parts, self.next_seq(), received);
        self.deliver(frame, cache, out);
    }

    /// The number of the next broadcast. A quiet frame has the same number: either the quiet frame is delivered next,
    /// or another frame replaces it.
    fn next_seq(&self) -> Option<u64> {
        self.delivered.map(|delivered| delivered + 1)
    }

    /// Notes a quiet message for a part of the view: no broadcast of its own.
    pub(super) fn changed_quietly(&mut self, received: Now) {
        self.pending = Some(received);
    }

    /// Updates the frame for new clients, now and then.
    pub(super) fn publish_quietly(&mut self, now: Now, cache: &Cache, out: &mut Vec<Publication>) {
        if self.pending.is_none() {
            return;
        }
        let since = |at: u64| now.mono_us.saturating_sub(at);
        let last = self.quiet_at_us;
        if last.is_some_and(|at| since(at) < QUIET_PUBLISH_INTERVAL_US) {
            return;
        }
        self.quiet_at_us = Some(now.mono_us);
        if let Some(frame) = self.take_pending(cache) {
            self.is_quiet = true;
            self.publish(frame, false, cache, out);
        }
    }

    /// Delivers the changes of quiet messages, once; nothing if there are none.
    pub(super) fn deliver_pending(&mut self, cache: &Cache, out: &mut Vec<Publication>) {
        if let Some(frame) = self.take_pending(cache) {
            self.deliver(frame, cache, out);
        } else if self.is_quiet
            && let Some(frame) = self.frame.clone()
        {
            // The very frame that new clients got: recognised by the pointer, so no client gets it twice.
            self.deliver(frame, cache, out);
        }
    }

    fn deliver(&mut self, frame: Arc<Frame>, cache: &Cache, out: &mut Vec<Publication>) {
        self.is_quiet = false;
        self.delivered = self.next_seq();
        self.publish(frame, true, cache, out);
    }

    fn publish(
        &mut self,
        frame: Arc<Frame>,
        deliver: bool,
        cache: &Cache,
        out: &mut Vec<Publication>,
    ) {
        self.pending = None;
        self.frame = Some(Arc::clone(&frame));
        out.push(Publication {
            deliver,
            // A new client gets nothing while there is no value.
            retain: match cache.is_empty(&self.parts) {
                true => Retain::Clear,
                false => Retain::Set,
            },
            ..Publication::new(self.topic.clone(), frame)
        });
    }

    /// The state after quiet messages, as a frame, if new clients would not get that state yet.
    fn take_pending(&mut self, cache: &Cache) -> Option<Arc<Frame>> {
        let received = self.pending.take()?;
        let next = self.next_seq();
        let seq = if self.is_quiet { next } else { self.delivered };
        let is_known = match &self.frame {
            Some(published) => {
                let again = cache.frame(&self.parts, seq, published.received());
                published.body() == again.body()
            }
            None => cache.is_empty(&self.parts),
        };
        (!is_known).then(|| cache.frame(&self.parts, next, received))
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
