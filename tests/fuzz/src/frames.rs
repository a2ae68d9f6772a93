//! Frames of clients: weirgate's reader, with permessage-deflate, against tungstenite. tungstenite has no
//! compression, so the zlib of Python inflates its messages.

use std::io::{Cursor, ErrorKind, Read, Write};

use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use weirgate_test_support::client_frame;
use weirgate_wire::deflate::InflateWindows;
use weirgate_wire::{FrameReader, FrameScratch};

use super::{choices, oracle, outcome};

/// Most bytes of a message.
const LIMIT: usize = 4_000;

/// The result of reading a stream: whole messages and control frames, and the refusal.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    messages: Vec<(u8, Vec<u8>)>,
    refused: Option<String>,
}

/// The agreed compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Deflate {
    No,
    /// No message refers to earlier messages.
    Alone,
    /// A message may refer to earlier messages.
    After,
}

fn by_weirgate(stream: &[u8], deflate: Deflate, piece: usize) -> Outcome {
    let windows = InflateWindows::new(1 << 15);
    let window = (deflate == Deflate::After).then(|| windows.grant(15));
    let reader = match deflate {
        Deflate::No => FrameReader::new(LIMIT),
        _ => FrameReader::new(LIMIT).with_deflate(),
    };
    let mut reader = reader.with_window(window.flatten());
    let mut scratch = FrameScratch::new();
    let (mut messages, mut open) = (Vec::new(), None);
    for mut part in stream.chunks(piece) {
        loop {
            let frame = match reader.read(&mut part, &mut scratch) {
                Ok(Some(frame)) => frame,
                Ok(None) if reader.is_inflating() => continue,
                Ok(None) => break,
                Err(error) => {
                    let refused = Some(error.to_string());
                    return Outcome { messages, refused };
                }
            };
            let (first, second) = (frame.bytes()[0], frame.bytes()[1]);
            assert_eq!(
                (first & 0x70, second & 0x80),
                (0, 0),
                "reserved bits or a mask"
            );
            let (opcode, payload) = (frame.opcode(), frame.payload().to_vec());
            if opcode >= 8 {
                messages.push((opcode, payload));
                if opcode == 8 {
                    return Outcome {
                        messages,
                        refused: None,
                    };
                }
                continue;
            }
            let (_, message) = open.get_or_insert((opcode, Vec::new()));
            message.extend(payload);
            assert!(message.len() <= LIMIT, "a message over the limit");
            if frame.is_final() {
                messages.extend(open.take());
            }
        }
    }
    Outcome {
        messages,
        refused: None,
    }
}

/// Bytes for tungstenite to read, then "would block".
struct Input<'a>(Cursor<&'a [u8]>);

impl Read for Input<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for Input<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn by_tungstenite(stream: &[u8]) -> Outcome {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT));
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let mut input = Input(Cursor::new(stream));
    let mut messages = Vec::new();
    let refused = loop {
        match context.read(&mut input) {
            Ok(Message::Close(close)) => {
                let payload = close.map_or_else(Vec::new, |close| {
                    let mut payload = u16::from(close.code).to_be_bytes().to_vec();
                    payload.extend_from_slice(close.reason.as_bytes());
                    payload
                });
                messages.push((8, payload));
                break None;
            }
            Ok(Message::Text(text)) => messages.push((1, text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => messages.push((2, bytes.to_vec())),
            Ok(Message::Ping(bytes)) => messages.push((9, bytes.to_vec())),
            Ok(Message::Pong(bytes)) => messages.push((10, bytes.to_vec())),
            Ok(Message::Frame(_)) => unreachable!("never from read"),
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                break None;
            }
            Err(error) => break Some(error.to_string()),
        }
    };
    Outcome { messages, refused }
}

/// A frame at the start of `stream`: its first byte, whether it is masked, its payload, its length.
struct Frame {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
    bytes: usize,
}

fn frame(stream: &[u8]) -> Option<Frame> {
    let (&first, &second) = (stream.first()?, stream.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (
            u64::from(u16::from_be_bytes(stream.get(2..4)?.try_into().ok()?)),
            4,
        ),
        127 => (u64::from_be_bytes(stream.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let masked = second & 0x80 != 0;
    let mut mask = [0; 4];
    if masked {
        mask = stream.get(at..at + 4)?.try_into().ok()?;
        at += 4;
    }
    let end = at.checked_add(usize::try_from(length).ok()?)?;
    let payload = stream.get(at..end)?.iter().zip(mask.iter().cycle());
    Some(Frame {
        first,
        masked,
        payload: payload.map(|(byte, mask)| byte ^ mask).collect(),
        bytes: end,
    })
}

/// The stream with its compressed messages inflated. Returns false if a message cannot be inflated; the
/// stream then ends before that message.
fn inflated(mut stream: &[u8], deflate: Deflate) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut window = Vec::new();
    let mut compressed: Option<(u8, Vec<u8>)> = None;
    let mut plain_is_open = false;
    while let Some(frame) = frame(stream) {
        let (opcode, is_final) = (frame.first & 0x0f, frame.first & 0x80 != 0);
        let begins = frame.first & 0x70 == 0x40 && matches!(opcode, 1 | 2);
        let continues = compressed.is_some() && frame.first & 0x7f == 0;
        let good = frame.masked
            && if begins {
                compressed.is_none() && !plain_is_open
            } else {
                continues
            };
        if good {
            let (_, message) = compressed.get_or_insert((opcode, Vec::new()));
            message.extend(&frame.payload);
            stream = &stream[frame.bytes..];
            if !is_final {
                continue;
            }
            if let Some((opcode, message)) = compressed.take() {
                let Some(text) = inflate(&window, &message) else {
                    return (out, false);
                };
                write(&mut out, opcode, &text);
                if deflate == Deflate::After {
                    window.extend_from_slice(&text);
                    window.drain(..window.len().saturating_sub(1 << 15));
                }
            }
            continue;
        }
        if compressed.is_some() && opcode < 8 {
            // A new message within an open message; for tungstenite no message is open.
            return (out, false);
        }
        if opcode < 8 {
            plain_is_open = !is_final;
        }
        out.extend_from_slice(&stream[..frame.bytes]);
        stream = &stream[frame.bytes..];
        if opcode == 8 {
            return (out, true);
        }
    }
    // An incomplete frame counts by its first bytes, unless the frame continues a message that was removed
    // for tungstenite.
    if compressed.is_none() || stream.first().is_some_and(|first| first & 0x0f >= 8) {
        let is_compressed = stream.first().is_some_and(|first| first & 0x70 == 0x40);
        if !is_compressed {
            out.extend_from_slice(stream);
        }
    }
    (out, true)
}

fn write(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.extend(client_frame(0x80 | opcode, [0; 4], payload));
}

/// Inflates a whole message (RFC 7692 §7.2.2) behind the text in the window; `None` if the message is damaged
/// or over the limit.
fn inflate(window: &[u8], compressed: &[u8]) -> Option<Vec<u8>> {
    match oracle::python(&[b"inflated", window, compressed]).as_mut_slice() {
        [_, text] if text.len() <= LIMIT => Some(std::mem::take(text)),
        _ => None,
    }
}

pub(crate) fn run(data: &[u8]) -> u64 {
    let ([deflate, piece], stream) = choices(data);
    let deflate = match deflate & 3 {
        1 => Deflate::Alone,
        3 => Deflate::After,
        _ => Deflate::No,
    };
    let ours = by_weirgate(stream, deflate, usize::from(piece) + 1);
    assert_eq!(
        ours,
        by_weirgate(stream, deflate, usize::MAX),
        "pieces matter"
    );
    let (plain, whole) = match deflate {
        Deflate::No => (stream.to_vec(), true),
        _ => inflated(stream, deflate),
    };
    let theirs = by_tungstenite(&plain);
    // The state machine behind our reader checks the payload of a close frame.
    let is_close = |(opcode, _): &&(u8, Vec<u8>)| *opcode == 8;
    let before = |read: &Outcome| {
        read.messages
            .iter()
            .take_while(|message| !is_close(message))
            .count()
    };
    let common = before(&ours).min(before(&theirs));
    assert_eq!(&ours.messages[..common], &theirs.messages[..common]);
    if ours.messages.last().as_ref().is_some_and(is_close) {
        assert_eq!(before(&theirs), common, "{ours:?} {theirs:?}");
        let closed =
            theirs.refused.is_some() || theirs.messages.last().as_ref().is_some_and(is_close);
        assert!(closed, "{ours:?} {theirs:?}");
    } else if ours.refused.is_none() {
        assert!(
            whole,
            "a message is damaged, or not where it may be: {ours:?}"
        );
        assert_eq!(
            (&ours.messages, None),
            (&theirs.messages, theirs.refused.as_deref())
        );
    } else {
        assert!(common == ours.messages.len() || theirs.refused.is_some());
    }
    let kinds: Vec<u8> = ours
        .messages
        .iter()
        .map(|(opcode, _)| *opcode)
        .take(4)
        .collect();
    let empty = ours.messages.iter().any(|(_, payload)| payload.is_empty());
    outcome((
        kinds,
        empty,
        ours.refused,
        theirs.refused.map(|text| text.len()),
        deflate,
    ))
}
