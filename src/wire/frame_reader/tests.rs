use super::super::deflate::{Deflater, stored_block};
use super::super::frame::SCRATCH_BYTES_KEPT;
use super::*;

use weirgate_test_support::empty_blocks;

const LIMIT: usize = 1 << 20;

/// A client's frame, written without the code under test.
fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    announced(first_byte, payload, payload.len() as u64, 0x80)
}

fn announced(first_byte: u8, payload: &[u8], len: u64, masked: u8) -> Vec<u8> {
    let mut out = vec![first_byte];
    match len {
        0..126 => out.push(masked | len as u8),
        126..65536 => {
            out.push(masked | 126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend(len.to_be_bytes());
        }
    }
    let mask = if masked == 0 {
        [0; 4]
    } else {
        [0x37, 0xfa, 0x21, 0x3d]
    };
    if masked != 0 {
        out.extend(mask);
    }
    out.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
    out
}

/// The same frame as a server would send it, which the reader has to return.
fn plain(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    announced(first_byte, payload, payload.len() as u64, 0)
}

/// Deflated by stored blocks: always longer than the body.
fn stored(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    stored_block(&mut out, body);
    out.push(0);
    out
}

impl FrameReader {
    /// Whether no frame and no message in fragments is open.
    fn between_messages(&self) -> bool {
        self.message.is_none() && self.head_len == 0
    }
}

type Frames = (Vec<Vec<u8>>, Option<FrameError>);

fn read_in(reader: &mut FrameReader, pieces: &[&[u8]]) -> Frames {
    let mut scratch = FrameScratch::new();
    let mut frames = Vec::new();
    let mut failed = None;
    for piece in pieces {
        let mut input = *piece;
        loop {
            match reader.read(&mut input, &mut scratch) {
                Ok(Some(frame)) => frames.push(frame.bytes().to_vec()),
                Ok(None) if reader.is_inflating() => {}
                Ok(None) => break,
                Err(error) => assert_eq!(failed.replace(error), None, "told once"),
            }
        }
        assert!(input.is_empty(), "all is taken when nothing is handed out");
    }
    (frames, failed)
}

fn read(deflate: bool, bytes: &[u8]) -> Frames {
    let by_byte: Vec<_> = bytes.chunks(1).collect();
    let at_once = read_in(&mut reader(deflate), &[bytes]);
    let split = read_in(&mut reader(deflate), &by_byte);
    assert_eq!(at_once, split, "pieces do not matter");
    at_once
}

fn refused(deflate: bool, bytes: &[u8]) -> FrameError {
    let (frames, error) = read(deflate, &[bytes, &frame(0x89, b"late")].concat());
    assert_eq!(frames, Vec::<Vec<u8>>::new(), "{}", bytes.escape_ascii());
    error.unwrap_or_else(|| panic!("taken: {}", bytes.escape_ascii()))
}

#[test]
fn frames_come_out_unmasked_and_whole() {
    for len in [0, 1, 3, 4, 7, 8, 9, 125, 126, 300, 65_535, 65_536, 100_000] {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        let (frames, error) = read(false, &frame(0x82, &payload));
        assert_eq!(
            (frames, error),
            (vec![plain(0x82, &payload)], None),
            "{len} bytes"
        );
    }
    let mut scratch = FrameScratch::new();
    let bytes = [frame(0x81, b"hi"), frame(0x89, b"")].concat();
    let mut input = &bytes[..];
    let mut reader = FrameReader::new(LIMIT);
    let first = reader
        .read(&mut input, &mut scratch)
        .expect("good")
        .expect("whole");
    assert_eq!(
        (first.opcode(), first.is_final(), first.payload()),
        (OPCODE_TEXT, true, &b"hi"[..])
    );
    assert_eq!(input.len(), 6, "the second frame is left");
}

#[test]
fn longer_length_forms_than_needed_pass() {
    for form in [
        &[0x82, 0xfe, 0, 1][..],
        &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1],
    ] {
        let bytes = [form, &[0, 0, 0, 0, b'x']].concat();
        assert_eq!(read(false, &bytes), (vec![plain(0x82, b"x")], None));
    }
}

#[test]
fn violations_are_refused() {
    let open = frame(0x01, b"");
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("unmasked", plain(0x81, b"hi")),
        ("RSV1 without deflate", frame(0xc1, b"x")),
        ("control of 126 bytes", frame(0x89, &[0; 126])),
        ("control of 65,536 bytes", frame(0x8a, &[0; 65_536])),
        ("fragmented close", frame(0x08, b"")),
        ("fragmented ping", frame(0x09, b"")),
        ("fragmented pong", frame(0x0a, b"")),
        ("continuation of nothing", frame(0x80, b"x")),
        ("open continuation of nothing", frame(0x00, b"x")),
        ("length 2^63", announced(0x82, b"x", 1 << 63, 0x80)),
        ("length 2^64-1", announced(0x82, b"x", u64::MAX, 0x80)),
        (
            "length 2^64-14, open",
            announced(0x02, b"x", u64::MAX - 13, 0x80),
        ),
    ];
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push(("reserved opcode", frame(0x80 | opcode, b"x")));
    }
    for rsv in [0x10, 0x20, 0x30, 0x50, 0x70] {
        for opcode in [1, 2, 9] {
            cases.push(("reserved bits", frame(0x80 | rsv | opcode, b"x")));
        }
    }
    for (what, bytes) in cases {
        for deflate in [false, true] {
            if what != "RSV1 without deflate" || !deflate {
                let error = refused(deflate, &bytes);
                assert!(matches!(error, FrameError::Protocol(_)), "{what}: {error}");
                assert_eq!(error.close_code(), 1002);
            }
        }
    }
    for bad in [
        frame(0x81, b"b"),
        frame(0x02, b"b"),
        frame(0xc1, b"b"),
        frame(0xc0, b"b"),
        frame(0xc9, b""),
    ] {
        let (frames, error) = read(true, &[&open[..], &bad].concat());
        assert_eq!(frames, Vec::<Vec<u8>>::new());
        assert!(matches!(error, Some(FrameError::Protocol(_))));
    }
}

#[test]
fn what_is_too_big_is_refused_before_it_is_kept() {
    for len in [LIMIT as u64 + 1, 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1] {
        assert_eq!(
            refused(false, &announced(0x82, b"x", len, 0x80)),
            FrameError::TooBig
        );
        assert_eq!(
            refused(
                true,
                &announced(0xc2, b"x", (len + 20_000).min((1 << 63) - 1), 0x80)
            ),
            FrameError::TooBig
        );
    }
    assert_eq!(FrameError::TooBig.close_code(), 1009);
    let whole = vec![7; LIMIT];
    let mut reader = FrameReader::new(LIMIT);
    assert_eq!(read_in(&mut reader, &[&frame(0x82, &whole)]).1, None);
    let half = &whole[..LIMIT / 2];
    let sums = [
        frame(0x02, half),
        frame(0x00, half),
        frame(0x89, b"x"),
        frame(0x80, b"x"),
    ]
    .concat();
    let (frames, error) = read_in(&mut reader, &[&sums]);
    assert_eq!(frames, [plain(0x89, b"x")]);
    assert_eq!(error, Some(FrameError::TooBig));
}

#[test]
fn an_announced_length_costs_no_memory() {
    let mut reader = FrameReader::new(LIMIT).with_deflate();
    let start = announced(0x82, &[0; 64], LIMIT as u64, 0x80);
    assert_eq!(read_in(&mut reader, &[&start]), (vec![], None));
    assert!(
        reader.buffer.capacity() < 128,
        "{}",
        reader.buffer.capacity()
    );
    assert!(!reader.between_messages());
    let rest = vec![0; LIMIT - 64];
    let mut most = 0;
    for part in rest.chunks(60_000) {
        most = most.max(reader.buffer.capacity());
        let frames = read_in(&mut reader, &[part]).0;
        assert_eq!(frames.is_empty(), !reader.between_messages());
    }
    assert!(
        most <= LIMIT + HEADER_BYTES_MAX,
        "never past the frame: {most}"
    );
    assert!(reader.between_messages());
}

#[test]
fn blocks_that_bring_nothing_take_many_short_steps_beside_other_messages() {
    let message = frame(0xc1, &empty_blocks(LIMIT - 100, b"hi"));
    let (mut reader, mut other) = (reader(true), reader(true));
    let mut scratch = FrameScratch::new();
    let mut input = &message[..];
    let mut steps = 0;
    let got = loop {
        let read = reader.read(&mut input, &mut scratch).expect("valid");
        steps += 1;
        if let Some(whole) = read {
            break whole.bytes().to_vec();
        }
        assert!(reader.is_inflating() && reader.unfinished_bytes() > LIMIT);
        let between = other.read(&mut &frame(0xc1, b"\xca\x00\x00")[..], &mut scratch);
        assert!(between.expect("valid").is_some(), "the inflater is free");
    };
    assert_eq!(got, plain(0x81, b"hi"));
    assert!(steps > LIMIT / (16 * 1024), "{steps} steps");
    assert!(!reader.is_inflating() && reader.between_messages());
    assert_eq!(reader.unfinished_bytes(), 0);
}

#[test]
fn a_reader_that_is_left_while_it_inflates_keeps_nothing() {
    let mut deflater = Deflater::new(2);
    let compressed = deflater.deflate(&vec![b'a'; LIMIT]).expect("smaller");
    let mut reader = reader(true);
    let mut scratch = FrameScratch::new();
    let text = reader.read(&mut &frame(0xc1, &compressed)[..], &mut scratch);
    assert!(matches!(text, Ok(None)) && reader.is_inflating());
    assert!(!reader.skip(b""));
    assert!(!reader.is_inflating() && reader.unfinished_bytes() == 0);
}

#[test]
fn an_idle_reader_is_small_and_keeps_nothing() {
    assert!(
        size_of::<FrameReader>() <= 72,
        "{}",
        size_of::<FrameReader>()
    );
    let mut deflater = Deflater::new(2);
    let compressed = deflater.deflate(&[b'a'; 50_000]).expect("smaller");
    let mut reader = FrameReader::new(LIMIT).with_deflate();
    for bytes in [
        frame(0x82, &[7; 5000]),
        frame(0x81, b"small"),
        frame(0xc1, &compressed),
        frame(0x89, b"ping"),
    ] {
        let pieces: Vec<_> = bytes.chunks(3).collect();
        assert_eq!(read_in(&mut reader, &pieces).0.len(), 1);
        assert!(reader.between_messages());
        assert_eq!(reader.buffer.capacity(), 0);
    }
    let mut scratch = FrameScratch::new();
    for bytes in [frame(0x82, &vec![7; LIMIT]), frame(0x82, b"x")] {
        assert!(
            reader
                .read(&mut &bytes[..], &mut scratch)
                .expect("good")
                .is_some()
        );
    }
    assert!(scratch.frame.capacity() <= SCRATCH_BYTES_KEPT);
}

#[test]
fn a_large_frame_is_given_back_once_it_was_looked_at() {
    let (mut reader, mut scratch) = (FrameReader::new(LIMIT), FrameScratch::new());
    let small = SCRATCH_BYTES_KEPT / 2;
    for (payload, stays) in [(LIMIT, false), (small, true)] {
        let bytes = frame(0x82, &vec![7; payload]);
        let whole = reader.read(&mut &bytes[..], &mut scratch).expect("good");
        assert_eq!(whole.expect("a frame").payload().len(), payload);
        scratch.rest();
        assert_eq!(scratch.frame.capacity() > 0, stays, "{payload}");
    }
}

#[test]
fn fragments_are_joined_and_control_frames_pass_between_them() {
    let sent = [
        (0x01, &b"a"[..]),
        (0x89, b"ping"),
        (0x00, b""),
        (0x8a, b""),
        (0x80, b"b"),
        (0x82, b"c"),
    ];
    let bytes: Vec<u8> = sent
        .iter()
        .flat_map(|(first, payload)| frame(*first, payload))
        .collect();
    let expected = vec![
        plain(0x89, b"ping"),
        plain(0x8a, b""),
        plain(0x81, b"ab"),
        plain(0x82, b"c"),
    ];
    assert_eq!(read(false, &bytes), (expected, None));
    let empty = [frame(0x02, b""), frame(0x80, b"")].concat();
    assert_eq!(read(false, &empty), (vec![plain(0x82, b"")], None));
    let mut reader = FrameReader::new(LIMIT);
    read_in(&mut reader, &[&frame(0x01, b"a")]);
    assert!(!reader.between_messages());
}

#[test]
fn a_compressed_message_comes_as_one_frame() {
    let body = "hello, world; ".repeat(500);
    let compressed = Deflater::new(3).deflate(body.as_bytes()).expect("smaller");
    let whole = plain(0x81, body.as_bytes());
    assert_eq!(
        read(true, &frame(0xc1, &compressed)),
        (vec![whole.clone()], None)
    );
    for cut in [0, 1, compressed.len() / 2, compressed.len()] {
        let (a, b) = compressed.split_at(cut);
        let bytes = [
            frame(0x41, a),
            frame(0x89, b"between"),
            frame(0x00, b""),
            frame(0x80, b),
        ]
        .concat();
        let expected = vec![plain(0x89, b"between"), whole.clone()];
        assert_eq!(read(true, &bytes), (expected, None), "cut at {cut}");
    }
    let empty = [
        frame(0xc2, b"\0"),
        frame(0xc2, b""),
        frame(0x42, b""),
        frame(0x80, b""),
    ]
    .concat();
    assert_eq!(read(true, &empty), (vec![plain(0x82, b""); 3], None));
    // Compression is a choice for each message.
    let mixed = [
        frame(0xc1, &compressed),
        frame(0x81, b"plain"),
        frame(0xc1, &compressed),
    ]
    .concat();
    assert_eq!(
        read(true, &mixed).0,
        [whole.clone(), plain(0x81, b"plain"), whole]
    );
}

#[test]
fn compressed_messages_keep_the_limit() {
    let bomb = Deflater::new(9)
        .deflate(&vec![0; 4 * LIMIT])
        .expect("smaller");
    assert_eq!(refused(true, &frame(0xc2, &bomb)), FrameError::TooBig);
    let mut reader = FrameReader::new(LIMIT).with_deflate();
    let most = stored(&vec![7; LIMIT]);
    assert!(most.len() > LIMIT);
    let frames = read_in(&mut reader, &[&frame(0xc2, &most)]);
    assert_eq!((frames.0.len(), frames.1), (1, None));
    let over = stored(&vec![7; LIMIT + 1]);
    assert_eq!(
        read_in(&mut reader, &[&frame(0xc2, &over)]).1,
        Some(FrameError::TooBig)
    );
    // Collected fragments without an end.
    let mut reader = FrameReader::new(1000).with_deflate();
    let flood = [frame(0x42, b"x"), frame(0x00, &[0; 100]).repeat(20)].concat();
    assert_eq!(read_in(&mut reader, &[&flood]).1, Some(FrameError::TooBig));
    assert_eq!(reader.buffer.capacity(), 0);
}

#[test]
fn unfinished_fragments_cost_what_they_hold() {
    for first in [0x02, 0x42] {
        let mut reader = FrameReader::new(LIMIT).with_deflate();
        let flood = [
            frame(first, b""),
            frame(0x00, b"").repeat(100_000),
            frame(0x00, b"x").repeat(16_000),
        ]
        .concat();
        assert_eq!(read_in(&mut reader, &[&flood]), (vec![], None));
        let kept = reader.unfinished_bytes();
        assert!((16_000..=40_000).contains(&kept), "{kept}");
    }
}

/// The buffer does not grow past the longest message, and not by a little at a time, which would copy the whole of it
/// each time.
#[test]
fn the_memory_of_fragments_doubles_up_to_the_longest_message() {
    let (mut reader, mut growths, mut last) = (FrameReader::new(LIMIT), 0, 0);
    read_in(&mut reader, &[&frame(0x02, &[7; 100])]);
    let ping = frame(0x89, &[7; 125]);
    for _ in 0..(LIMIT - 100) / 100 {
        let fragment = frame(0x00, &[7; 100]);
        read_in(&mut reader, &[&ping[..50], &ping[50..], &fragment]);
        growths += usize::from(reader.unfinished_bytes() != last);
        last = reader.unfinished_bytes();
    }
    assert!(growths < 20, "{growths} times");
    assert!(last <= LIMIT + 200, "{last}");
}

#[test]
fn damaged_compressed_data_is_refused() {
    for bad in [&[0xff; 50][..], b"\x07", b"\x03\x00\xde\xad\xbe\xef"] {
        assert_eq!(refused(true, &frame(0xc2, bad)), FrameError::BadDeflate);
    }
    assert_eq!(FrameError::BadDeflate.close_code(), 1007);
}

#[test]
fn text_is_utf_8_at_once() {
    for bad in [
        &b"\xff"[..],
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"abc\xe2\x82",
    ] {
        assert_eq!(refused(false, &frame(0x81, bad)), FrameError::BadUtf8);
        assert_eq!(
            refused(true, &frame(0xc1, &stored(bad))),
            FrameError::BadUtf8
        );
        assert_eq!(read(false, &frame(0x82, bad)).1, None, "binary is free");
    }
    assert_eq!(FrameError::BadUtf8.close_code(), 1007);
    let split = [
        frame(0x01, b"\xe2\x82"),
        frame(0x89, b"\xff"),
        frame(0x80, b"\xac"),
    ]
    .concat();
    assert_eq!(read(false, &split).1, None);
    let broken = [frame(0x01, b"\xe2\x82"), frame(0x00, b"x")].concat();
    assert_eq!(read(false, &broken), (vec![], Some(FrameError::BadUtf8)));
    // The next message starts afresh.
    let next = [frame(0x81, b"ok"), frame(0x82, b"\xe2"), frame(0x81, b"ok")].concat();
    assert_eq!(read(false, &next).0.len(), 3);
    // Also within a frame, before its rest has come.
    let mut reader = FrameReader::new(LIMIT);
    let frame = frame(0x81, b"long \xf4\x90 and more");
    assert_eq!(
        read_in(&mut reader, &[&frame[..12], &frame[12..13]]),
        (vec![], Some(FrameError::BadUtf8))
    );
}

#[test]
fn skipping_gives_up_at_an_error() {
    let mut reader = FrameReader::new(LIMIT).with_deflate();
    assert!(!reader.skip(&frame(FIN | OPCODE_TEXT, b"any")));
    assert!(!reader.skip(b""));
    assert!(reader.skip(&announced(FIN | OPCODE_TEXT, b"", u64::MAX, 0)));
    assert!(reader.skip(b""));
}

#[test]
fn nothing_comes_after_a_close_or_an_error() {
    let junk = [frame(0x89, b"late"), frame(0x83, b"junk"), vec![0xff; 300]].concat();
    let (frames, error) = read(false, &[frame(0x88, b"\x03\xe8"), junk.clone()].concat());
    assert_eq!((frames, error), (vec![plain(0x88, b"\x03\xe8")], None));
    let (frames, error) = read(false, &[frame(0x83, b""), junk].concat());
    assert_eq!(
        (frames.len(), error.map(FrameError::close_code)),
        (0, Some(1002))
    );
}

mod messages;

fn reader(deflate: bool) -> FrameReader {
    match deflate {
        true => FrameReader::new(LIMIT).with_deflate(),
        false => FrameReader::new(LIMIT),
    }
}
