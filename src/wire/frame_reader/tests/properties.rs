use proptest::prelude::*;

use super::super::super::encode::OPCODE_PING;
use super::*;

/// Legal messages as a client may cut them: fragments, pings between, compression.
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
                if !deflated {
                    expected.push(plain(first, &sent[start..end]));
                }
                if n < pings && last == 0 {
                    bytes.extend(frame(FIN | OPCODE_PING, &body[..body.len().min(5)]));
                    expected.push(plain(FIN | OPCODE_PING, &body[..body.len().min(5)]));
                }
                start = end;
            }
            if deflated {
                expected.push(plain(FIN | opcode, &body));
            }
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
        let mut reader = FrameReader::new(LIMIT, true);
        prop_assert_eq!(read_in(&mut reader, &pieces), (expected, None));
        prop_assert!(reader.between_messages());
        prop_assert_eq!(reader.buffer.capacity(), 0);
    }

    /// From any place in a stream of messages, cut anywhere.
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
        let mut reader = FrameReader::new(LIMIT, true);
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
        // `read` asserts that the pieces do not matter, errors included.
        for frame in read(deflate, &bytes).0 {
            prop_assert_eq!(frame[0] & 0x70, 0);
            prop_assert_eq!(frame[1] & 0x80, 0);
        }
    }
}
