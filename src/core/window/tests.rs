//! The owner of windows, alone and beside a model that keeps the bytes of every window themselves.

use super::*;
use crate::FrameBytes;
use std::collections::HashMap;
use weirgate_wire::base::SplitMix64;

fn frame(alive: &FrameBytes, bytes: &[u8]) -> Arc<Frame> {
    Frame::text(alive).body(bytes).finish()
}

fn sent(windows: &mut Windows, before: WindowId, frame: &Arc<Frame>, gap: usize) -> WindowId {
    let id = windows.intern(frame);
    windows.move_client(NextPayload {
        client: before,
        before,
        gap,
        frame: Some((id, frame.body().len())),
    })
}

fn gap(windows: &mut Windows, before: WindowId, gap: usize) -> WindowId {
    windows.move_client(NextPayload {
        client: before,
        before,
        gap,
        frame: None,
    })
}

fn text(windows: &Windows, id: WindowId, gap: usize, payload: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    windows.text(id, gap, payload, &mut out).then_some(out)
}

#[test]
fn equal_messages_make_equal_windows_and_others_do_not() {
    let alive = FrameBytes::default();
    let mut windows = Windows::default();
    let [a, b] = [b"first", b"other"].map(|text| frame(&alive, text));
    let none = WindowId::NONE;
    let one = sent(&mut windows, none, &a, 0);
    let same = sent(&mut windows, none, &a, 9);
    assert_eq!(same, one, "before it nothing is known");
    assert_eq!(windows.clients(one), 2);
    let two = sent(&mut windows, one, &b, 0);
    assert_ne!(one, two);
    assert_eq!((windows.clients(one), windows.clients(two)), (1, 1));
    assert_ne!(sent(&mut windows, one, &b, 9), two, "a prefix is between");
    assert_eq!(text(&windows, two, 0, b"x"), Some(b"firstother".to_vec()));
    assert_eq!(windows.last_of(one), none, "it is no longer");
    let last = windows.last_of(two);
    assert_eq!(text(&windows, last, 0, b"x"), Some(b"other".to_vec()));
    assert_eq!(last, sent(&mut windows, none, &b, 0));
    let led = sent(&mut windows, one, &b, 2);
    let led = text(&windows, led, 1, b"x");
    assert_eq!(led, Some(b"first\xff\xffother\xff".to_vec()));
    assert_eq!(text(&windows, none, 3, b"x"), None, "only a gap");
}

#[test]
fn a_payload_with_the_byte_of_gaps_refers_to_no_window_with_gaps() {
    let alive = FrameBytes::default();
    let mut windows = Windows::default();
    let one = sent(&mut windows, WindowId::NONE, &frame(&alive, b"text"), 5);
    assert!(text(&windows, one, 0, b"\xff").is_some(), "no gap within");
    assert!(text(&windows, one, 1, b"\xff").is_none());
    let two = gap(&mut windows, one, 4);
    assert!(text(&windows, two, 0, b"\xff").is_none());
    assert_eq!(
        text(&windows, two, 0, b"x"),
        Some(b"text\xff\xff\xff\xff".to_vec())
    );
}

#[test]
fn gaps_add_up_and_the_last_known_bytes_end_a_window() {
    let alive = FrameBytes::default();
    let mut windows = Windows::default();
    let [a, b] = [b"first", b"other"].map(|text| frame(&alive, text));
    let none = WindowId::NONE;
    assert_eq!(gap(&mut windows, none, 100), none);
    let one = sent(&mut windows, none, &a, 0);
    assert_eq!(gap(&mut windows, one, 0), one);
    let (three, four) = (gap(&mut windows, one, 3), gap(&mut windows, one, 4));
    assert_ne!(three, four);
    assert_eq!(gap(&mut windows, three, 1), four);
    let behind = sent(&mut windows, three, &b, 2);
    assert_eq!(behind, sent(&mut windows, four, &b, 1));
    assert_eq!(gap(&mut windows, one, Deflater::DICTIONARY_BYTES_MAX), none);
    let beyond = gap_of(&mut windows, one);
    let far = sent(&mut windows, beyond, &b, 0);
    assert_eq!(far, sent(&mut windows, none, &b, 0));
}

/// A window that ends with as many unknown bytes as references reach.
fn gap_of(windows: &mut Windows, before: WindowId) -> WindowId {
    let half = gap(windows, before, Deflater::DICTIONARY_BYTES_MAX - 1);
    gap(windows, half, 1)
}

#[test]
fn clients_that_joined_at_different_times_have_one_window_in_the_end() {
    for (bytes, messages) in [(100, FRAMES_MAX), (8_000, 5), (40_000, 1)] {
        let alive = FrameBytes::default();
        let mut windows = Windows::default();
        let mut clients = [WindowId::NONE; 2];
        for number in 0..100 + messages {
            let next = frame(&alive, format!("{number:0bytes$}").as_bytes());
            let late = usize::from(number < 100);
            for client in &mut clients[late..] {
                *client = sent(&mut windows, *client, &next, 0);
            }
            let is_same = number >= 99 + messages;
            assert_eq!(clients[0] == clients[1], is_same, "{number} of {bytes}");
        }
    }
}

#[test]
fn frames_are_kept_up_to_so_many_bytes() {
    let alive = FrameBytes::default();
    let mut windows = Windows::default();
    let mut window = WindowId::NONE;
    for _ in 0..100 {
        window = sent(&mut windows, window, &frame(&alive, &[b'x'; 30_000]), 0);
    }
    let kept = KEPT_BYTES_MAX;
    assert!(alive.alive() <= kept && alive.alive() > kept - 31_000);
    let large = frame(&alive, &vec![b'x'; 2 * KEPT_BYTES_MAX as usize]);
    windows.intern(&large);
    assert_eq!(
        alive.alive(),
        large.memory_bytes() as u64,
        "one of any size"
    );
    assert_eq!(text(&windows, window, 0, b"x"), None, "its frames are gone");
    drop(large);
    windows.release_all();
    assert_eq!(alive.alive(), 0);
}

#[test]
fn a_frame_that_is_no_longer_kept_gets_another_number() {
    let alive = FrameBytes::default();
    let mut windows = Windows::default();
    let first = frame(&alive, b"first");
    let id = windows.intern(&first);
    assert_eq!(windows.intern(&first), id);
    windows.release_all();
    let other = frame(&alive, b"other");
    assert_ne!(windows.intern(&other), id);
    assert_ne!(windows.intern(&first), id);
    windows.first_kept = u32::MAX - 1;
    windows.release_all();
    let mut window = WindowId::NONE;
    for text in [b"a", b"b", b"c", b"d"] {
        window = sent(&mut windows, window, &frame(&alive, text), 0);
    }
    assert_eq!(
        text(&windows, window, 0, b"x"),
        Some(b"abcd".to_vec()),
        "numbers wrap around"
    );
}

#[test]
fn windows_are_known_up_to_so_many_entries() {
    let alive = FrameBytes::default();
    let mut windows = Windows::default();
    let one = sent(&mut windows, WindowId::NONE, &frame(&alive, b"text"), 0);
    let lists = SENT_MAX / (LIST_ENTRIES + 2);
    for length in 1..lists + 2 {
        gap(
            &mut windows,
            one,
            1 + length % (Deflater::DICTIONARY_BYTES_MAX - 1),
        );
    }
    assert!(windows.sent <= SENT_MAX);
    assert_eq!(windows.windows.len(), windows.by_sent.len());
    for number in 0..100_000 {
        let other = frame(&alive, format!("{number}").as_bytes());
        sent(&mut windows, WindowId::NONE, &other, 0);
    }
    assert!(windows.sent <= SENT_MAX);
    assert_eq!(windows.windows.len(), windows.by_sent.len());
    assert_eq!(windows.clients(one), 0);
    assert_eq!(text(&windows, one, 0, b"x"), None, "it is forgotten");
}

/// What a client inflates with: each byte, or `None` for a byte that no other client need have.
type Bytes = Vec<Option<u8>>;

/// Whatever clients get, equal numbers are equal bytes, and a dictionary is the end of the bytes.
#[test]
fn a_number_is_one_window_for_all() {
    for seed in 0..16 {
        let mut random = SplitMix64::new(seed);
        let mut below = move |n: u64| random.next_u64() % n;
        let alive = FrameBytes::default();
        let mut windows = Windows::default();
        let mut clients: Vec<(WindowId, Bytes)> = vec![(WindowId::NONE, Vec::new()); 6];
        let mut known: HashMap<WindowId, Bytes> = HashMap::default();
        let mut frames = Vec::new();
        let mut shared = 0;
        let bytes_max = [4, 400, 3_000, 40_000][seed as usize % 4];
        for step in 0..120 {
            if frames.is_empty() || below(3) == 0 {
                let bytes = format!("{step:0size$}", size = 1 + below(bytes_max) as usize);
                frames.push(frame(&alive, bytes.as_bytes()));
            }
            if below(100) == 0 {
                windows.release_all();
            }
            // Often the newest, and then to many.
            let back = [0, 0, 0, below(4)][below(4) as usize] as usize;
            let chosen = Arc::clone(&frames[frames.len().saturating_sub(1 + back)]);
            let first = below(6) as usize;
            for (id, bytes) in &mut clients[first..] {
                let gap = [0, 0, 0, 7, 8, 40_000][below(6) as usize];
                bytes.extend(std::iter::repeat_n(None, gap));
                if below(20) == 0 {
                    *id = self::gap(&mut windows, *id, gap);
                } else {
                    bytes.extend(chosen.body().iter().copied().map(Some));
                    // Sometimes only the end of the window counts from now on.
                    let end = match below(10) {
                        0 => windows.last_of(*id),
                        1 => WindowId::NONE,
                        _ => *id,
                    };
                    *id = sent(&mut windows, end, &chosen, gap);
                }
                let beyond = bytes.len().saturating_sub(Deflater::DICTIONARY_BYTES_MAX);
                bytes.drain(..beyond);
                if *id == WindowId::NONE {
                    continue;
                }
                let mut end = Vec::new();
                windows.text(*id, 0, b"", &mut end);
                let end: Bytes = end.iter().map(|b| Some(*b).filter(|b| *b != GAP)).collect();
                assert!(bytes.ends_with(&end), "seed {seed}, step {step}");
                let before = known.entry(*id).or_insert_with(|| end.clone());
                assert!(before.ends_with(&end), "seed {seed}, step {step}");
            }
            shared += usize::from(windows.clients(clients[5].0) > 1);
        }
        assert!(shared > 0, "seed {seed}");
    }
}
