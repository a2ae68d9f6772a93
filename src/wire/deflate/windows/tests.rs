use weirgate_test_support::DeflateSender;

use super::*;

/// What the gateway holds of a client.
struct Held {
    inflater: Inflater,
    window: InflateWindow,
}

impl Held {
    fn of(windows: &InflateWindows, bits: u8) -> Self {
        Self {
            inflater: Inflater::new(),
            window: windows.grant(bits).expect("room"),
        }
    }

    fn inflate(&mut self, message: &[u8]) -> Result<Vec<u8>, InflateError> {
        let mut out = b"before".to_vec();
        self.inflater
            .inflate_after(&mut self.window, message, &mut out, 1 << 20)?;
        Ok(out.split_off(6))
    }
}

fn request(n: usize) -> String {
    let name = n * 7_919 % 1_000;
    format!(r#"{{"action":"subscribe","channels":["market:tick:S{name:03}"]}}"#)
}

/// Text with repeats near and far, or noise.
fn text(random: &mut u64, bytes: usize) -> Vec<u8> {
    let mut next = || {
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *random >> 33
    };
    let noise = next().is_multiple_of(8);
    let mut text = Vec::new();
    while text.len() < bytes {
        match noise {
            true => text.extend(next().to_le_bytes()),
            false => text.extend(request(next() as usize % 300).into_bytes()),
        }
    }
    text.truncate(bytes);
    text
}

#[test]
fn messages_may_refer_to_whatever_the_client_has_sent() {
    let windows = InflateWindows::new(1 << 20);
    for (bits, seed) in (9..=15).flat_map(|bits| (0..6).map(move |seed| (bits, seed))) {
        let mut random = seed + 1;
        let (mut client, mut held) = (DeflateSender::new(bits), Held::of(&windows, bits));
        let sizes: &[usize] = match seed {
            0 => &[40, 60],
            1 => &[0, 1, 511, 512, 513],
            2 => &[2_000, 100],
            3 => &[8_191, 1, 8_193, 300],
            4 => &[32_767, 32_769, 50, 70_000, 10],
            _ => &[20_000, 50, 3_000, 0, 50],
        };
        for n in 0..120 {
            let text = text(&mut random, sizes[n % sizes.len()]);
            let message = match n % 17 {
                16 => client.last_block(&text),
                _ => client.message(&text),
            };
            assert!(
                held.inflate(&message).as_ref() == Ok(&text),
                "{bits} {seed} {n}"
            );
            assert!(windows.kept_bytes() <= 1 << bits);
        }
        assert_eq!(windows.granted_bytes(), 1 << bits);
    }
    assert_eq!((windows.granted_bytes(), windows.kept_bytes()), (0, 0));
    assert_eq!(windows.refused(), 0);
}

#[test]
fn the_text_of_a_few_short_requests_takes_some_hundred_bytes() {
    let windows = InflateWindows::new(1 << 20);
    let (mut client, mut held) = (DeflateSender::new(15), Held::of(&windows, 15));
    assert_eq!(windows.kept_bytes(), 0);
    let (mut sent, mut most) = (0, 0);
    for n in 0..64 {
        let request = request(n);
        let message = client.message(request.as_bytes());
        assert_eq!(held.inflate(&message), Ok(request.clone().into_bytes()));
        sent += request.len();
        most = most.max(windows.kept_bytes());
    }
    assert!(sent > 3_000 && most < 900, "{most} bytes for {sent}");
}

#[test]
fn what_lies_further_back_than_the_window_cannot_be_referred_to() {
    let windows = InflateWindows::new(1 << 20);
    let mut random = 1;
    for (bits, distance, is_kept) in [
        (15, 32_000, true),
        (9, 400, true),
        (9, 600, false),
        (12, 3_900, true),
        (12, 4_200, false),
    ] {
        // The client takes no notice of the window that was agreed on.
        let (mut client, mut held) = (DeflateSender::new(15), Held::of(&windows, bits));
        let first: Vec<u8> = (0..100).map(|_| text(&mut random, 8)[1]).collect();
        let noise: Vec<u8> = (0..distance - 100).map(|n| (n * n % 251) as u8).collect();
        for text in [&first, &noise] {
            assert!(held.inflate(&client.message(text)).as_ref() == Ok(text));
        }
        let again = held.inflate(&client.message(&first));
        let expected = if is_kept {
            Ok(first)
        } else {
            Err(InflateError::Corrupt)
        };
        assert_eq!(again, expected, "{bits} bits, {distance} back");
    }
}

#[test]
fn windows_are_granted_up_to_the_limit_of_all() {
    let windows = InflateWindows::new(3 << 15);
    let mut held: Vec<_> = (0..3).map(|_| windows.grant(15)).collect();
    assert!(held.iter().all(Option::is_some));
    assert!(windows.grant(9).is_none() && windows.grant(15).is_none());
    assert_eq!((windows.granted_bytes(), windows.refused()), (3 << 15, 2));
    held.pop();
    assert_eq!(windows.granted_bytes(), 2 << 15);
    assert!(windows.grant(15).is_some() && windows.grant(9).is_some());
    assert!(InflateWindows::new(0).grant(9).is_none());
}
