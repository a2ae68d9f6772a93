//! Encodings of large frames, for clients of event streams and clients with compression. They are made in steps: each MiB
//! takes a millisecond, or up to twelve if it is compressed, and all clients would wait for one message of many MiB.
//!
//! One is under way at a time, and the others wait for it. It is brought to its end even if its last client has gone: each
//! flush takes a step.

use std::sync::Arc;

use super::encodings::{Key, Kind};
use super::frame::next_part;
use super::protocol::event_stream::EventWriter;
use super::protocol::websocket::{self, Coding, HEADER_ROOM};
use super::stats::HubStats;
use super::turn::Turn;
use super::{Encoded, Frame, Limits};
use weirgate_wire::deflate::Deflater;

/// The most bytes of a step: whole stored blocks, and whole groups of base64.
const STEP_BYTES: usize = 4 * Deflater::STORED_BYTES_MAX;

/// The most bytes of a step that compresses.
const DEFLATE_STEP_BYTES: usize = Deflater::STORED_BYTES_MAX;

/// The encoding under way, if there is one.
#[derive(Debug)]
pub(super) struct LargeEncoder {
    deflate_level: u32,
    /// Has the small window; made for the first payload, and away while one is compressed.
    deflater: Option<Box<Deflater>>,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    frame: Arc<Frame>,
    kind: Kind,
    writer: Writer,
}

/// What makes an encoding, and what it has made so far.
#[derive(Debug)]
enum Writer {
    Event(EventWriter),
    Stored(PayloadWriter),
    Deflated(PayloadWriter, Box<Deflater>),
}

/// A payload after the room for its header.
#[derive(Debug)]
struct PayloadWriter {
    bytes: Vec<u8>,
    /// Bytes of the frame's payload that are in it.
    taken: usize,
}

impl LargeEncoder {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            deflate_level: limits.deflate_level.max(1),
            deflater: None,
            under_way: None,
        }
    }

    /// Whether this encoding is under way.
    pub(super) fn is_making(&self, frame: &Arc<Frame>, kind: Kind) -> bool {
        let same = |u: &UnderWay| u.kind == kind && Arc::ptr_eq(&u.frame, frame);
        self.under_way.as_ref().is_some_and(same)
    }

    /// Goes on with the encoding under way while the batch has time. Returns whether none is under way afterwards.
    pub(super) fn advance(&mut self, turn: &mut Turn, stats: &mut HubStats) -> bool {
        while let Some(under_way) = &mut self.under_way {
            let goes_on = under_way.step();
            if !goes_on && let Some(under_way) = self.under_way.take() {
                let used = under_way.finish(stats);
                self.deflater = used.or_else(|| self.deflater.take());
            }
            if !turn.has_batch_time() {
                break;
            }
        }
        self.under_way.is_none()
    }

    /// Begins an encoding of a frame, while none is under way. `bytes`: about what it takes.
    pub(super) fn begin(&mut self, frame: &Arc<Frame>, kind: Kind, bytes: usize) {
        debug_assert!(self.under_way.is_none(), "one at a time");
        let writer = match kind {
            Kind::Event => Writer::Event(EventWriter::new(frame, false, bytes)),
            Kind::RawEvent => Writer::Event(EventWriter::new(frame, true, bytes)),
            Kind::Small | Kind::Alone => {
                let (level, bits) = (self.deflate_level, Deflater::SMALL_WINDOW_BITS);
                let made = || Box::new(Deflater::with_window(level, bits));
                let mut deflater = self.deflater.take().unwrap_or_else(made);
                deflater.begin();
                Writer::Deflated(PayloadWriter::new(bytes / 2), deflater)
            }
            // Plain and chained encodings of a large frame are never asked for.
            Kind::Stored | Kind::Plain | Kind::Chained => Writer::Stored(PayloadWriter::new(bytes)),
        };
        self.under_way = Some(UnderWay {
            frame: Arc::clone(frame),
            kind,
            writer,
        });
    }
}

impl UnderWay {
    /// Takes the next part of the frame. Returns false once there is none.
    fn step(&mut self) -> bool {
        let frame = &self.frame;
        match &mut self.writer {
            Writer::Event(event) => event.step(frame, STEP_BYTES),
            Writer::Stored(payload) => payload.step(frame, STEP_BYTES, |part, out| {
                Deflater::write_stored_piece(out, part);
            }),
            Writer::Deflated(payload, deflater) => {
                payload.step(frame, DEFLATE_STEP_BYTES, |part, out| {
                    // After a failure, `Deflater::end` returns false, and the payload is sent in stored blocks.
                    let _ = deflater.write(part, out);
                })
            }
        }
    }

    /// Gives the encoding to its frame. Returns the deflater.
    fn finish(self, stats: &mut HubStats) -> Option<Box<Deflater>> {
        let frame = self.frame;
        let payload = |mut bytes: Vec<u8>| {
            bytes.shrink_to_fit();
            websocket::encode(bytes, frame.content(), Coding::Deflated)
        };
        let mut used = None;
        let encoded: Option<Encoded> = match self.writer {
            Writer::Event(event) => Some(event.finish(&frame)),
            Writer::Stored(PayloadWriter { mut bytes, .. }) => {
                stats.encodings_stored += 1;
                Deflater::end_stored(&mut bytes);
                Some(payload(bytes))
            }
            Writer::Deflated(PayloadWriter { mut bytes, .. }, mut deflater) => {
                stats.frames_deflated += 1;
                stats.encodings_alone += 1;
                let is_smaller = deflater.end(HEADER_ROOM + frame.body_bytes(), &mut bytes);
                used = Some(deflater);
                is_smaller.then(|| payload(bytes))
            }
        };
        frame.add_encoding(Key::of(self.kind), encoded);
        used
    }
}

impl PayloadWriter {
    fn new(payload_bytes: usize) -> Self {
        Self {
            bytes: websocket::room_for(payload_bytes),
            taken: 0,
        }
    }

    /// Has `write` append the next part of the frame's payload, of at most `bytes_max` bytes. Returns false if there is none.
    fn step(
        &mut self,
        frame: &Frame,
        bytes_max: usize,
        write: impl FnOnce(&[u8], &mut Vec<u8>),
    ) -> bool {
        let part = next_part(frame.pieces(), self.taken, bytes_max);
        if let Some(part) = part {
            write(part, &mut self.bytes);
            self.taken += part.len();
        }
        part.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event_stream;
    use crate::{Content, FrameBytes, Message, Now, Part, Prefix};

    /// A body with line ends at all places, also at the ends of steps.
    fn body() -> Vec<u8> {
        let line = |n: usize| ["a\r\n", "\r", "bc\n", "\n\r", "d"][n * 7 % 5];
        (0..400_000).flat_map(|n| line(n).bytes()).collect()
    }

    fn frames() -> [Arc<Frame>; 4] {
        let alive = FrameBytes::default();
        let shared = |content| {
            let message = Arc::new(Message::new(body(), Now::default(), &alive));
            let frame = match content {
                Content::Text => Frame::text(&alive),
                Content::Binary => Frame::binary(&alive),
            };
            let mut frame = frame.prefix(Prefix::Seq("{")).body(b"text\r");
            frame.share(&message, Part::Payload);
            frame.body(b"\nend").finish()
        };
        [
            Frame::text(&alive).body(&body()).finish(),
            Frame::binary(&alive).bytes(&body()).finish(),
            shared(Content::Text),
            shared(Content::Binary),
        ]
    }

    fn made(frame: &Arc<Frame>, kind: Kind) -> Vec<u8> {
        let mut encoder = LargeEncoder::new(&Limits::default());
        encoder.begin(frame, kind, 100);
        let (mut turn, mut stats) = (Turn::default(), HubStats::default());
        assert!(encoder.advance(&mut turn, &mut stats));
        let encoded = frame.encoded(Key::of(kind)).expect("an encoding");
        encoded.body().to_vec()
    }

    #[test]
    fn steps_make_what_one_step_makes() {
        for frame in frames() {
            assert_eq!(
                made(&frame, Kind::Event),
                event_stream::encode(&frame).body()
            );
            assert_eq!(
                made(&frame, Kind::RawEvent),
                event_stream::encode_raw(&frame).body()
            );
            let mut stored = Vec::new();
            Deflater::write_stored(&mut stored, frame.pieces());
            assert_eq!(made(&frame, Kind::Stored), stored);
        }
    }

    #[test]
    fn what_is_compressed_is_smaller_or_is_not_there() {
        let [frame, ..] = frames();
        assert!(made(&frame, Kind::Small).len() < frame.body_bytes() / 2);
        let alive = FrameBytes::default();
        let mut state = 1_u64;
        let noise = (0..500_000).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005) | 1;
            (state >> 56) as u8
        });
        let frame = Frame::binary(&alive).body(&noise.collect::<Vec<_>>());
        let frame = frame.finish();
        let mut encoder = LargeEncoder::new(&Limits::default());
        encoder.begin(&frame, Kind::Small, 100);
        assert!(encoder.advance(&mut Turn::default(), &mut HubStats::default()));
        let key = Key::of(Kind::Small);
        assert!(frame.was_tried(key) && frame.encoded(key).is_none());
        assert!(encoder.deflater.is_some(), "it is used again");
    }
}
