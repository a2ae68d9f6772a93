//! A client whose compressed messages refer to its earlier messages: weirgate's reader, which keeps the
//! earlier text, against the zlib of Python, which gets that text with each message.

use weirgate_test_support::{DeflateSender, client_frame};
use weirgate_wire::deflate::InflateWindows;
use weirgate_wire::{FrameReader, FrameScratch};

use super::bodies::{KINDS, body, size};
use super::{choices, oracle, outcome};

/// Most bytes of a message.
const LIMIT: usize = 100_000;

/// Messages of one input.
const MESSAGES_MAX: usize = 48;

/// Sizes around which weirgate changes how the text is kept, and the windows.
const EDGES: [usize; 8] = [0, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768];

/// The form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    Whole,
    /// In fragments, with a ping between.
    Fragments,
    /// With a final last block: a new stream begins behind, which may refer to the text.
    FinalBlock,
    Plain,
    /// With a changed byte.
    Damaged,
}

const WAYS: [Way; 8] = [
    Way::Whole,
    Way::Whole,
    Way::Whole,
    Way::Whole,
    Way::Fragments,
    Way::FinalBlock,
    Way::Plain,
    Way::Damaged,
];

/// A frame whose mask is zero.
fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.extend(client_frame(first, [0; 4], payload));
}

/// A client on both sides, and the text that its messages may refer to.
struct Connection {
    client: DeflateSender,
    own_bits: u8,
    reader: FrameReader,
    sent: Vec<u8>,
    /// A message that refers to a damaged text is damaged too.
    is_damaged: bool,
}

/// The result of reading a message: its text, or the reason for a refusal.
type Read = Result<Vec<u8>, String>;

impl Connection {
    fn new(windows: &InflateWindows, bits: u8, own_bits: u8) -> Self {
        Self {
            client: DeflateSender::new(own_bits),
            own_bits,
            reader: FrameReader::new(LIMIT)
                .with_deflate()
                .with_window(windows.grant(bits)),
            sent: Vec::new(),
            is_damaged: false,
        }
    }

    /// Sends a text. Returns the stream, and the expected text.
    fn send(
        &mut self,
        text: Vec<u8>,
        way: Way,
        at: [u8; 2],
        bits: u8,
    ) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut stream = Vec::new();
        if way == Way::Plain {
            frame(&mut stream, 0x82, &text);
            return (stream, Some(text));
        }
        let mut message = match way {
            Way::FinalBlock => self.client.last_block(&text),
            _ => self.client.message(&text),
        };
        let [at, bit] = at;
        let at = usize::from(at) * message.len() / 256;
        if way == Way::Damaged {
            message[at] ^= 1 << (bit % 8);
            self.is_damaged = true;
        }
        if way == Way::Fragments {
            frame(&mut stream, 0x42, &message[..at]);
            frame(&mut stream, 0x89, b"ping");
            frame(&mut stream, 0x80, &message[at..]);
        } else {
            frame(&mut stream, 0xc2, &message);
        }
        let read = match oracle::python(&[b"inflated", &self.sent, &message]).as_mut_slice() {
            [_, read] if read.len() <= LIMIT => Some(std::mem::take(read)),
            _ => None,
        };
        if !self.is_damaged && self.own_bits <= bits {
            assert!(read.as_ref() == Some(&text), "{way:?}: Python reads it");
        }
        self.sent.extend(read.iter().flatten());
        self.sent.drain(..self.sent.len().saturating_sub(1 << bits));
        (stream, read)
    }

    /// Returns weirgate's reading of the stream of a message.
    fn read(&mut self, stream: &[u8], piece: usize, scratch: &mut FrameScratch) -> Read {
        let mut text = Err("nothing came".to_owned());
        for mut part in stream.chunks(piece) {
            loop {
                match self.reader.read(&mut part, scratch) {
                    Ok(Some(frame)) if frame.opcode() == 9 => assert_eq!(frame.payload(), b"ping"),
                    Ok(Some(frame)) => text = Ok(frame.payload().to_vec()),
                    Ok(None) if self.reader.is_inflating() => {}
                    Ok(None) => break,
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        text
    }
}

/// The agreed window, the client's own window and the size of the pieces, then five bytes for each message:
/// form and content, seed, size. After a refused message another client goes on, with the same inflater.
pub(crate) fn run(data: &[u8]) -> u64 {
    let ([bits, own, piece], messages) = choices(data);
    let bits = 9 + bits % 7;
    // Mostly within the agreed window.
    let own_bits = match own & 0x80 {
        0 => 9 + own % (bits - 8),
        _ => 15,
    };
    let windows = InflateWindows::new(1 << bits);
    let mut connection = Connection::new(&windows, bits, own_bits);
    let mut scratch = FrameScratch::new();
    let mut happened = Vec::new();
    let (messages, _) = messages.as_chunks::<5>();
    for &[way, seed, edge, low, high] in messages.iter().take(MESSAGES_MAX) {
        let kind = KINDS[usize::from(way >> 4) % KINDS.len()];
        let way = WAYS[usize::from(way) % WAYS.len()];
        let text = body(kind, size(&EDGES, [edge, low, high]), seed);
        let (stream, expected) = connection.send(text, way, [low, high], bits);
        let read = connection.read(&stream, usize::from(piece) * 16 + 1, &mut scratch);
        let size = read.as_ref().ok().map(|text| text.len().checked_ilog2());
        assert!(windows.kept_bytes() <= 1 << bits);
        happened.push((way, kind, size, read.as_ref().err().cloned()));
        if read.is_err() {
            // The first client has left before there is room for the next.
            drop(connection);
            assert_eq!((windows.kept_bytes(), windows.granted_bytes()), (0, 0));
            connection = Connection::new(&windows, bits, own_bits);
        }
        assert!(
            read.as_ref().ok() == expected.as_ref(),
            "{way:?} {kind:?}: {:?}",
            read.err()
        );
    }
    happened.truncate(4);
    outcome((bits, own_bits == bits, happened))
}
