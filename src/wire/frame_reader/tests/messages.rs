//! Messages that clients fragment and compress: in any pieces, with kept windows, and read by another library.

use proptest::prelude::*;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::super::super::frame::OPCODE_PING;
use super::*;
use crate::deflate::InflateWindows;

/// Legal messages as a client may send them: in fragments, with pings between them, compressed.
fn messages() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<Vec<u8>>)>> {
    let message = (
        any::<bool>(),
        any::<bool>(),
        "\\PC{0,60}",
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        0_usize..4,
    );
    prop::collection::vec(
        message.prop_map(|(text, deflated, body, cuts, pings)| {
            let opcode = if text { OPCODE_TEXT } else { OPCODE_BINARY };
            let body = body.into_bytes();
            let sent = if deflated {
                stored(&body)
            } else {
                body.clone()
            };
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(sent.len() + 1)).collect();
            ends.push(sent.len());
            ends.sort_unstable();
            let (mut bytes, mut expected, mut start) = (Vec::new(), Vec::new(), 0);
            for (n, &end) in ends.iter().enumerate() {
                let last = if n + 1 == ends.len() { FIN } else { 0 };
                let first = last | if n == 0 { opcode } else { OPCODE_CONTINUATION };
                let rsv1 = if deflated && n == 0 { RSV1 } else { 0 };
                bytes.extend(frame(first | rsv1, &sent[start..end]));
                if n < pings && last == 0 {
                    bytes.extend(frame(FIN | OPCODE_PING, &body[..body.len().min(5)]));
                    expected.push(plain(FIN | OPCODE_PING, &body[..body.len().min(5)]));
                }
                start = end;
            }
            expected.push(plain(FIN | opcode, &body));
            (bytes, expected)
        }),
        0..6,
    )
}

proptest! {
    #[test]
    fn reading_undoes_writing_in_any_pieces(
        messages in messages(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: Vec<_> = messages.into_iter().flat_map(|(_, expected)| expected).collect();
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut start = 0;
        let pieces: Vec<_> = ends.iter().map(|&end| &bytes[std::mem::replace(&mut start, end)..end]).collect();
        let mut reader = FrameReader::new(LIMIT).with_deflate();
        prop_assert_eq!(read_in(&mut reader, &pieces), (expected, None));
        prop_assert!(reader.between_messages());
        prop_assert_eq!(reader.buffer.capacity(), 0);
    }

    /// Skipping may begin anywhere in a stream of messages, and the stream may be cut anywhere.
    #[test]
    fn skipping_ends_with_the_close_frame(
        messages in messages(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let mut bytes: Vec<u8> = messages.into_iter().flat_map(|(bytes, _)| bytes).collect();
        bytes.extend(frame(FIN | OPCODE_CLOSE, b"\x03\xe8"));
        // The last byte is the close frame's.
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        ends.sort_unstable();
        let mut reader = FrameReader::new(LIMIT).with_deflate();
        read_in(&mut reader, &[&bytes[..ends[0]]]);
        for piece in ends.windows(2) {
            prop_assert!(!reader.skip(&bytes[piece[0]..piece[1]]));
        }
        prop_assert!(reader.skip(&bytes[ends[ends.len() - 1]..]));
        prop_assert_eq!(reader.buffer.capacity(), 0);
    }

    #[test]
    fn random_frames_never_confuse_it(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)), 0..10),
        noise in prop::collection::vec(any::<u8>(), 0..40),
        deflate in any::<bool>(),
    ) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect();
        bytes.extend(noise);
        // `read` asserts that the result, errors included, does not depend on the pieces.
        for frame in read(deflate, &bytes).0 {
            prop_assert_eq!(frame[0] & 0x70, 0);
            prop_assert_eq!(frame[1] & 0x80, 0);
        }
    }
}

/// Returns a block with fixed codes (RFC 1951 §3.2.6): literals, then a match of four bytes at this distance, 1 to 4.
fn fixed_block(literals: &[u8], distance: Option<u8>) -> Vec<u8> {
    let mut bits = vec![false, true, false];
    for &byte in literals {
        assert!(byte < 144, "codes of eight bits");
        bits.extend((0..8).rev().map(|n| (byte + 48) >> n & 1 == 1));
    }
    if let Some(distance) = distance {
        // Length 4 is symbol 258, which has seven bits; the codes of distances have five bits.
        bits.extend([false, false, false, false, false, true, false]);
        bits.extend((0..5).rev().map(|n| (distance - 1) >> n & 1 == 1));
    }
    bits.extend([false; 7]);
    // An empty stored block, without its tail.
    bits.extend([false; 3]);
    let byte = |bits: &[bool]| (0..8).fold(0, |b, n| b | u8::from(bits.get(n) == Some(&true)) << n);
    bits.chunks(8).map(byte).collect()
}

#[test]
fn a_compressed_message_may_refer_to_those_before_it_and_to_no_other() {
    let windows = InflateWindows::new(1 << 16);
    let four_back = fixed_block(b"", Some(4));
    let control = frame(0x89, b"wxyz");
    let uncompressed = frame(0x81, b"efgh");
    let binary = frame(0xc2, &fixed_block(b"abcd", None));
    let last_block = frame(0xc1, b"\x4b\x4c\x4a\x4e\x01\x00\x00");
    let fragments = [
        frame(0x41, &four_back[..1]),
        control.clone(),
        frame(0x80, &four_back[1..]),
    ]
    .concat();
    let (abcd, empty) = (frame(0xc1, &fixed_block(b"abcd", None)), frame(0xc1, b"\0"));
    let again = frame(0xc1, &four_back);
    for (stream, texts) in [
        (vec![&abcd, &again, &again], &["abcd"; 3][..]),
        (
            vec![&abcd, &uncompressed, &again],
            &["abcd", "efgh", "abcd"],
        ),
        (
            vec![&abcd, &control, &empty, &again],
            &["abcd", "wxyz", "", "abcd"],
        ),
        (vec![&binary, &again], &["abcd"; 2]),
        (vec![&last_block, &again], &["abcd"; 2]),
        (
            vec![&abcd, &fragments, &again],
            &["abcd", "wxyz", "abcd", "abcd"],
        ),
    ] {
        let stream: Vec<u8> = stream.into_iter().flatten().copied().collect();
        for piece in [1, usize::MAX] {
            let window = windows.grant(15);
            let mut reader = FrameReader::new(LIMIT).with_deflate().with_window(window);
            let pieces: Vec<_> = stream.chunks(piece).collect();
            let (frames, failed) = read_in(&mut reader, &pieces);
            assert_eq!(failed, None, "{texts:?}");
            let read: Vec<_> = frames.iter().map(|frame| &frame[2..]).collect();
            assert_eq!(
                read,
                texts.iter().map(|text| text.as_bytes()).collect::<Vec<_>>()
            );
        }
    }
    // There is no earlier text, or none that a compressor may refer to.
    for stream in [
        vec![&again],
        vec![&uncompressed, &again],
        vec![&empty, &again],
    ] {
        let mut reader = FrameReader::new(LIMIT)
            .with_deflate()
            .with_window(windows.grant(15));
        let stream: Vec<u8> = stream.into_iter().flatten().copied().collect();
        assert_eq!(
            read_in(&mut reader, &[&stream]).1,
            Some(FrameError::BadDeflate)
        );
    }
    // A client that may not refer to earlier messages.
    let stream = [abcd, again].concat();
    assert_eq!(read(true, &stream).1, Some(FrameError::BadDeflate));
    assert_eq!(windows.granted_bytes(), 0, "what has gone holds nothing");
}

/// Gives the frames of our reader to tungstenite, and keeps what tungstenite writes.
struct Pipe<'a> {
    input: &'a [u8],
    written: Vec<u8>,
}

impl std::io::Read for Pipe<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.input.read(out)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl std::io::Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn tungstenite_takes_what_is_handed_out() {
    let config = WebSocketConfig::default()
        .read_buffer_size(0)
        .write_buffer_size(0)
        .accept_unmasked_frames(true);
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let bytes = [
        frame(0x01, "é".as_bytes()),
        frame(0x89, b"ping"),
        frame(0x80, b"!"),
        frame(0x41, &stored(b"com")[..4]),
        frame(0x80, &stored(b"com")[4..]),
        frame(0x82, &[7; 70_000]),
        frame(0x88, b"\x03\xe8bye"),
    ]
    .concat();
    let mut reader = FrameReader::new(LIMIT).with_deflate();
    let mut scratch = FrameScratch::new();
    let (mut input, mut messages, mut written) = (&bytes[..], Vec::new(), Vec::new());
    while let Some(frame) = reader.read(&mut input, &mut scratch).expect("good") {
        let mut pipe = Pipe {
            input: frame.bytes(),
            written: Vec::new(),
        };
        while let Ok(message) = context.read(&mut pipe) {
            messages.push(message);
        }
        written.extend(pipe.written);
    }
    let [
        Message::Ping(_),
        Message::Text(joined),
        Message::Text(inflated),
        Message::Binary(big),
        Message::Close(_),
    ] = &messages[..]
    else {
        panic!("{messages:?}");
    };
    assert_eq!(
        (joined.as_str(), inflated.as_str(), big.len()),
        ("é!", "com", 70_000)
    );
    let answers = [plain(0x8a, b"ping"), plain(0x88, b"\x03\xe8bye")].concat();
    assert_eq!(written, answers);
}
