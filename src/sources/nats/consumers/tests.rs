//! The search for the newest message before a sequence.

use proptest::prelude::*;

use super::*;

/// The result, and the number of fetches.
fn search(stream: &[u64], floor: u64, before: u64) -> (Option<u64>, u32) {
    let mut fetches = 0;
    let found = newest_between(
        floor,
        before,
        |&sequence| sequence,
        |from| {
            fetches += 1;
            Ok::<_, ()>(stream.iter().copied().find(|&sequence| sequence >= from))
        },
    );
    (found.expect("no fetch fails"), fetches)
}

#[test]
fn the_message_right_before_takes_one_fetch() {
    assert_eq!(search(&[1, 2, 3], 0, 3), (Some(2), 1));
    assert_eq!(search(&[1, 2, 3], 0, 1).0, None);
    assert_eq!(search(&[1, 2, 3], 2, 3), (None, 0));
    assert_eq!(search(&[], 0, u64::MAX).0, None);
}

proptest! {
    #[test]
    fn the_newest_before_is_found_in_few_fetches(
        mut stream in prop::collection::btree_set(1..1_000_000u64, 0..60),
        floor in 0..1_000u64,
        before in 1..1_000_000u64,
    ) {
        stream.insert(before);
        let stream: Vec<u64> = stream.into_iter().collect();
        let want = stream.iter().rev().copied().find(|&s| s < before && s > floor);
        let (found, fetches) = search(&stream, floor, before);
        prop_assert_eq!(found, want);
        prop_assert!(fetches <= 33, "{} fetches", fetches);
    }
}
