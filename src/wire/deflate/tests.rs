use proptest::prelude::*;

use super::*;

fn inflate(compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    let mut out = Vec::new();
    Inflater::default().inflate(compressed, &mut out, bytes_max)?;
    Ok(out)
}

/// Inflates as a client with a window of `window_bits` would, without the code under test.
fn inflate_as_client(compressed: &[u8], window_bits: u8) -> Vec<u8> {
    let mut state = Decompress::new_with_window_bits(false, window_bits);
    let mut out = Vec::with_capacity(1 << 21);
    let input = [compressed, &[0, 0, 0xff, 0xff]].concat();
    state
        .decompress_vec(&input, &mut out, FlushDecompress::Sync)
        .expect("DEFLATE");
    assert_eq!(state.total_in(), input.len() as u64);
    out
}

/// Random text of 64 different letters, which has six bits of information in each byte.
fn letters(bytes: usize) -> String {
    let mut n = 1_u64;
    let mut letter = || {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'0' + (n >> 58) as u8)
    };
    (0..bytes).map(|_| letter()).collect()
}

#[test]
fn text_that_shrinks_by_a_quarter_is_worth_it() {
    for bytes in [1_000, 10_000, 100_000] {
        let text = letters(bytes);
        let compressed = Deflater::new(6).deflate(text.as_bytes());
        let compressed = compressed.expect("it is smaller");
        assert!(compressed.len() < bytes * 4 / 5, "{bytes}");
        assert_eq!(inflate(&compressed, bytes).as_deref(), Ok(text.as_bytes()));
    }
}

/// Text that deflates well, with near and far repeats.
fn sample(bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut n = 1_u64;
    while text.len() < bytes {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend_from_slice(format!("[\"{}\",\"0.{}\"],", n % 977, n >> 50).as_bytes());
    }
    text.truncate(bytes);
    text
}

#[test]
fn a_message_in_pieces_is_the_same_message() {
    let mut deflater = Deflater::with_window(4, Deflater::SMALL_WINDOW_BITS);
    for (bytes, piece_bytes) in [
        (300, 1),
        (70_000, 333),
        (1 << 20, 65_535),
        (1 << 20, 1 << 20),
    ] {
        let text = sample(bytes);
        let mut out = Vec::new();
        deflater.begin();
        for piece in text.chunks(piece_bytes) {
            assert!(deflater.write(piece, &mut out));
        }
        assert!(deflater.end(text.len(), &mut out), "{bytes}");
        assert_eq!(inflate_as_client(&out, Deflater::SMALL_WINDOW_BITS), text);
    }
    let (noise, mut out) = (letters(200).into_bytes(), Vec::new());
    deflater.begin();
    assert!(deflater.write(&noise[..4], &mut out));
    assert!(!deflater.end(4, &mut out), "not smaller");
}

#[test]
fn deflated_bodies_fit_the_windows_that_were_promised() {
    let mut deflater = Deflater::new(3);
    let mut small = Deflater::with_window(3, Deflater::SMALL_WINDOW_BITS);
    for bytes in [300, 512, 4096, 8800, 70_000, 1 << 20] {
        let body = sample(bytes);
        let deflated = deflater.deflate(&body).expect("it gets smaller");
        assert_eq!(deflated.capacity(), deflated.len());
        assert!(
            inflate_as_client(&deflated, Deflater::WINDOW_BITS) == body,
            "{bytes}"
        );
        for bits in (9..15).filter(|bits| bytes <= 1 << bits) {
            assert!(inflate_as_client(&deflated, bits) == body, "{bytes} {bits}");
        }
        assert!(inflate(&deflated, bytes).as_ref() == Ok(&body), "{bytes}");
        let deflated = small.deflate(&body).expect("it gets smaller");
        assert!(
            inflate_as_client(&deflated, Deflater::SMALL_WINDOW_BITS) == body,
            "{bytes}"
        );
    }
}

/// A client that keeps its window from message to message.
struct KeepsWindow(Decompress);

impl KeepsWindow {
    fn inflate(&mut self, compressed: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 << 20);
        let input = [compressed, &[0, 0, 0xff, 0xff]].concat();
        let before = self.0.total_in();
        self.0
            .decompress_vec(&input, &mut out, FlushDecompress::Sync)
            .expect("DEFLATE");
        assert_eq!(self.0.total_in() - before, input.len() as u64);
        out
    }
}

#[test]
fn a_message_after_another_is_small_and_right_for_every_past() {
    for level in 1..=9 {
        let mut deflater = Deflater::new(level);
        for bytes in [300, 5_000, 32_768, 60_000, 120_000] {
            let before = sample(bytes);
            let mut body = sample(bytes + 40);
            body[bytes / 2] ^= 1;
            let chained = deflater.deflate_after(&before, &body).expect("smaller");
            if bytes < 30_000 {
                assert!(
                    chained.len() < bytes / 10 + 60,
                    "{bytes}: {}",
                    chained.len()
                );
            }
            let alone = deflater.deflate(&before).expect("smaller");
            for past in [&b""[..], &sample(40_000)[7..]] {
                let mut client = KeepsWindow(Decompress::new(false));
                let mut stored = Vec::new();
                Deflater::write_stored(&mut stored, [past]);
                assert!(client.inflate(&stored) == past);
                assert!(client.inflate(&alone) == before);
                assert!(client.inflate(&chained) == body, "{level} {bytes}");
            }
        }
    }
}

#[test]
fn a_stored_message_is_six_bytes_longer() {
    for (body, bytes) in [(&b""[..], 1), (b"a", 7), (&sample(65_535), 65_541)] {
        let mut out = Vec::new();
        Deflater::write_stored(&mut out, [body]);
        assert_eq!(out.len(), bytes);
        assert_eq!(inflate_as_client(&out, 9), body);
        assert_eq!(inflate(&out, body.len()), Ok(body.to_vec()));
    }
}

#[test]
fn what_does_not_get_smaller_stays_plain() {
    let mut deflater = Deflater::new(2);
    let noise: Vec<u8> = (0..5000_u64)
        .map(|n| {
            (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23)
                .wrapping_mul(n | 1)
                >> 40) as u8
        })
        .collect();
    assert_eq!(deflater.deflate(&noise), None);
    assert_eq!(deflater.deflate(b""), None);
    assert_eq!(deflater.deflate(b"a"), None);
    let body = sample(3000);
    let deflated = deflater.deflate(&body).expect("smaller, also after these");
    assert_eq!(inflate(&deflated, 3000), Ok(body));
}

/// Random characters of two to four bytes, which hardly deflate.
fn characters(random: &mut u64, bytes: usize) -> String {
    let mut text = String::new();
    while text.len() < bytes {
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (kind, n) = (*random >> 62, (*random >> 33) as u32);
        let character = match kind {
            0 => 0xa0 + n % 0x760,
            1 | 2 => 0x800 + n % 0xd000,
            _ => 0x1_0000 + n % 0x10_0000,
        };
        text.extend(char::from_u32(character));
    }
    text
}

#[test]
fn messages_that_do_not_get_smaller_end_no_later_one() {
    let mut random = 7;
    for (level, bits) in [1, 2, 4, 6, 9]
        .into_iter()
        .flat_map(|n| [(n, 9), (n, 12), (n, 15)])
    {
        let mut deflater = Deflater::with_window(level, bits);
        let mut before = String::new();
        for n in 0..24 {
            let text = characters(&mut random, 9_000 + n * 1_200);
            let text = if n % 5 == 4 { text.repeat(2) } else { text };
            let past = if n % 3 == 2 { before.as_str() } else { "" };
            let deflated = match past {
                "" => deflater.deflate(text.as_bytes()),
                past => deflater.deflate_after(past.as_bytes(), text.as_bytes()),
            };
            if let Some(deflated) = deflated {
                let mut client = KeepsWindow(Decompress::new(false));
                let mut stored = Vec::new();
                Deflater::write_stored(&mut stored, [past.as_bytes()]);
                client.inflate(&stored);
                assert!(
                    client.inflate(&deflated) == text.as_bytes(),
                    "{level} {bits} {n}"
                );
            }
            before = text;
        }
    }
}

#[test]
fn a_stored_lead_stands_before_shared_blocks() {
    let mut deflater = Deflater::new(3);
    for bytes in [200, 8800, 70_000] {
        let body = sample(bytes);
        let shared = deflater.deflate(&body).expect("it gets smaller");
        for prefix in [
            &b"{\"seq\":18446744073709551615,"[..],
            b"",
            &sample(65_535),
            &sample(150_000),
        ] {
            let mut frame = Vec::new();
            stored_block(&mut frame, prefix);
            if prefix.len() <= 65_535 && !prefix.is_empty() {
                assert_eq!(frame.len(), prefix.len() + 5);
            }
            frame.extend_from_slice(&shared);
            let whole = [prefix, &body].concat();
            assert!(inflate_as_client(&frame, Deflater::WINDOW_BITS) == whole);
            assert!(inflate(&frame, whole.len()).as_ref() == Ok(&whole));
        }
    }
}

#[test]
fn examples_of_rfc_7692_inflate() {
    // §7.2.3.1 to §7.2.3.6.
    for (compressed, text) in [
        (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..], "Hello"),
        (
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            "Hello",
        ),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "Hello"),
        (
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
            "Hello",
        ),
        (&[0x00], ""),
        (&[], ""),
    ] {
        assert_eq!(inflate(compressed, 5), Ok(text.into()), "{compressed:x?}");
    }
    // As §7.2.3.4, from a sender that omits the empty block.
    assert_eq!(
        inflate(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 5),
        Ok("Hello".into())
    );
}

#[test]
fn damaged_data_is_refused() {
    let whole = Deflater::new(3).deflate(&sample(5000)).expect("smaller");
    for bad in [
        &[0xff; 50][..],
        b"\x07",
        b"\x03\x00\xde\xad\xbe\xef",
        b"\x00\x05\x00\xfa\xffHel",
        &whole[..whole.len() / 2],
        &whole[..whole.len() - 20],
    ] {
        assert_eq!(
            inflate(bad, 1 << 20),
            Err(InflateError::Corrupt),
            "{bad:x?}"
        );
    }
}

#[test]
fn the_bound_holds_while_inflating() {
    let body = vec![b'a'; 8 << 20];
    let bomb = Deflater::new(9).deflate(&body).expect("smaller");
    assert!(bomb.len() < 16_000);
    let mut inflater = Inflater::default();
    let mut out = b"kept".to_vec();
    assert_eq!(
        inflater.inflate(&bomb, &mut out, 1 << 20),
        Err(InflateError::TooBig)
    );
    assert!(out.capacity() <= (1 << 20) + 16, "{}", out.capacity());
    let exact = Deflater::new(9).deflate(&body[..1000]).expect("smaller");
    assert_eq!(inflate(&exact, 999), Err(InflateError::TooBig));
    assert_eq!(inflate(&exact, 1000), Ok(vec![b'a'; 1000]));
    // The failure leaves no trace in the inflater: it inflates the next message.
    let mut out = b"kept".to_vec();
    assert_eq!(inflater.inflate(&exact, &mut out, 1000), Ok(()));
    assert_eq!(out.len(), 1004);
    assert!(out.starts_with(b"kepta"));
}

proptest! {
    #[test]
    fn inflate_undoes_deflate(
        body in prop::collection::vec(prop_oneof![5 => b'a'..=b'f', 1 => any::<u8>()], 0..6000),
        level in 1_u32..=9,
    ) {
        if let Some(deflated) = Deflater::new(level).deflate(&body) {
            prop_assert!(deflated.len() < body.len());
            prop_assert_eq!(&inflate_as_client(&deflated, Deflater::WINDOW_BITS), &body);
            prop_assert_eq!(inflate(&deflated, body.len()), Ok(body));
        }
    }

    #[test]
    fn random_bytes_never_panic_nor_pass_the_bound(bytes in prop::collection::vec(any::<u8>(), 0..300), bytes_max in 0_usize..2000) {
        if let Ok(out) = inflate(&bytes, bytes_max) {
            prop_assert!(out.len() <= bytes_max);
        }
    }
}
