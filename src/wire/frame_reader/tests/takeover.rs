use super::*;
use crate::wire::deflate::InflateWindows;

/// Blocks with fixed codes (RFC 1951 §3.2.6): literals, or a match of four bytes that reaches back by
/// `distance`, 1 to 4.
fn fixed_block(literals: &[u8], distance: Option<u8>) -> Vec<u8> {
    let mut bits = vec![false, true, false];
    for &byte in literals {
        assert!(byte < 144, "codes of eight bits");
        bits.extend((0..8).rev().map(|n| (byte + 48) >> n & 1 == 1));
    }
    if let Some(distance) = distance {
        // Length 4 is symbol 258, of seven bits; distances to 4 have five bits.
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
            let mut reader = FrameReader::new(LIMIT, true).with_window(window);
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
    // Nothing before it, or nothing that a compressor may refer to.
    for stream in [
        vec![&again],
        vec![&uncompressed, &again],
        vec![&empty, &again],
    ] {
        let mut reader = FrameReader::new(LIMIT, true).with_window(windows.grant(15));
        let stream: Vec<u8> = stream.into_iter().flatten().copied().collect();
        assert_eq!(
            read_in(&mut reader, &[&stream]).1,
            Some(FrameError::BadDeflate)
        );
    }
    // A client that was told to refer to nothing.
    let stream = [abcd, again].concat();
    assert_eq!(read(true, &stream).1, Some(FrameError::BadDeflate));
    assert_eq!(windows.granted_bytes(), 0, "what has gone holds nothing");
}
