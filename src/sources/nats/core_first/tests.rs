//! Schedules of two copies: what was published is shown, in the order of the stream.

use super::*;
use crate::base::SplitMix64;

const SCHEDULES: u64 = 10_000;

/// What may go wrong in a schedule.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    core_is_lost: bool,
    core_is_doubled: bool,
    /// Core copies come in another order than the stream has.
    order_differs: bool,
    /// Core copies come after more than a second.
    core_is_very_late: bool,
    /// The stream has not stored a message.
    stream_loses: bool,
    /// The stream is so late that no room is left.
    is_long: bool,
}

fn below(random: &mut SplitMix64, end: u64) -> u64 {
    random.next_u64() % end
}

/// A copy of a message on its way: when, and what.
type Way = Vec<(u64, u8)>;

/// A schedule: when each copy comes, milliseconds.
struct Schedule {
    core: Way,
    stored: Way,
}

impl Schedule {
    fn new(random: &mut SplitMix64, faults: Faults) -> Self {
        let (mut core, mut stored) = (Way::new(), Way::new());
        let (mut core_ms, mut stored_ms) = (0, 0);
        let count = if faults.is_long {
            COPIES_MAX as u64 + 500
        } else {
            1 + below(random, 30)
        };
        // The copies of one connection come in order, so a delay is also one of the later copies.
        let kinds = 1 + below(random, 40);
        let lag_ms = if faults.is_long { 600_000 } else { 0 };
        for n in 0..count {
            let message = below(random, kinds) as u8;
            let published_ms = n * below(random, 100);
            core_ms = (published_ms + below(random, 300)).max(core_ms);
            stored_ms = (published_ms + lag_ms + below(random, 900)).max(stored_ms);
            let late_ms = match faults.core_is_very_late && random.chance(0.1) {
                true => 1_500 + below(random, 2_000),
                false => 0,
            };
            if !(faults.core_is_lost && random.chance(0.15)) {
                core.push((core_ms + late_ms, message));
            }
            if faults.core_is_doubled && random.chance(0.15) {
                core.push((core_ms + below(random, 2_000), message));
            }
            if !(faults.stream_loses && random.chance(0.15)) {
                stored.push((stored_ms, message));
            }
        }
        if faults.order_differs {
            for at in 1..core.len() {
                if random.chance(0.2) {
                    let (left, right) = (core[at - 1].1, core[at].1);
                    (core[at - 1].1, core[at].1) = (right, left);
                }
            }
        }
        core.sort_by_key(|(ms, _)| *ms);
        Self { core, stored }
    }
}

/// What a client sees, and what was counted.
#[derive(Debug, Default)]
struct Shown {
    all: Vec<u8>,
    repeated: usize,
    never: usize,
}

fn play(schedule: &Schedule, random: &mut SplitMix64) -> Shown {
    let mut copies = Copies::default();
    let mut shown = Shown::default();
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (mut core, mut stored) = (schedule.core.as_slice(), schedule.stored.as_slice());
    loop {
        let is_core = match (core.first(), stored.first()) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(core), Some(stored)) => {
                core.0 < stored.0 || core.0 == stored.0 && random.chance(0.5)
            }
        };
        let way = if is_core { &mut core } else { &mut stored };
        let (ms, message) = way[0];
        *way = &way[1..];
        let payload = [message; 100];
        if is_core {
            if copies.core(&payload, at(ms)) {
                shown.all.push(message);
            }
            continue;
        }
        match copies.stored(&payload, at(ms)) {
            Stored::Confirms { passed } => shown.never += passed,
            Stored::Missed => shown.all.push(message),
            Stored::Again { passed } => {
                shown.all.push(message);
                shown.repeated += 1;
                shown.never += passed;
            }
        }
        assert!(copies.unconfirmed.copies.len() <= COPIES_MAX);
        assert!(copies.awaited.copies.len() <= COPIES_MAX);
    }
    assert_eq!(copies.at_rest(), 0, "the consumer may be on its way");
    let never = copies.at_rest();
    shown.never += never;
    if never > 0 {
        shown
            .all
            .extend(schedule.stored.last().map(|(_, newest)| *newest));
    }
    assert!(copies.unconfirmed.is_empty() && copies.unconfirmed.bytes == 0);
    shown
}

fn count(all: &[u8], message: u8) -> usize {
    all.iter().filter(|m| **m == message).count()
}

/// Plays schedules with these faults; `check` sees each.
fn schedules(faults: impl Fn(&mut SplitMix64) -> Faults, check: impl Fn(&[u8], &Shown, Faults)) {
    for seed in 0..SCHEDULES {
        let mut random = SplitMix64::new(seed);
        let faults = faults(&mut random);
        let schedule = Schedule::new(&mut random, faults);
        let shown = play(&schedule, &mut random);
        let stored: Vec<u8> = schedule
            .stored
            .iter()
            .map(|(_, message)| *message)
            .collect();
        if let Some(newest) = stored.last() {
            assert_eq!(
                shown.all.last(),
                Some(newest),
                "seed {seed}, {faults:?}: {shown:?}"
            );
        }
        for message in &stored {
            let (is, due) = (count(&shown.all, *message), count(&stored, *message));
            assert!(
                is >= due,
                "seed {seed}, {faults:?}: {message} is shown {is} of {due} times"
            );
        }
        check(&stored, &shown, faults);
    }
}

#[test]
fn without_a_fault_each_message_is_shown_once_in_the_order_of_the_stream() {
    schedules(
        |_| Faults::default(),
        |stored, shown, _| {
            assert_eq!(shown.all, stored);
            assert_eq!((shown.repeated, shown.never), (0, 0));
        },
    );
}

#[test]
fn whatever_happens_to_a_copy_the_newest_of_the_stream_is_shown_last() {
    let faults = |random: &mut SplitMix64| Faults {
        core_is_lost: random.chance(0.5),
        core_is_doubled: random.chance(0.5),
        order_differs: random.chance(0.5),
        core_is_very_late: random.chance(0.5),
        stream_loses: random.chance(0.5),
        is_long: false,
    };
    schedules(faults, |_, _, _| {});
}

#[test]
fn what_the_stream_never_brings_is_counted() {
    let mut copies = Copies::default();
    let now = Instant::now();
    assert!(copies.core(b"a", now) && copies.core(b"b", now) && copies.core(b"c", now));
    assert_eq!(copies.stored(b"b", now), Stored::Confirms { passed: 1 });
    assert_eq!(
        (copies.at_rest(), copies.at_rest(), copies.at_rest()),
        (0, 1, 0)
    );
}

#[test]
fn a_stream_that_is_late_for_long_gets_its_limit_and_nothing_is_shown_twice() {
    let mut random = SplitMix64::new(1);
    let faults = Faults {
        is_long: true,
        ..Faults::default()
    };
    let schedule = Schedule::new(&mut random, faults);
    let shown = play(&schedule, &mut random);
    let stored: Vec<u8> = schedule
        .stored
        .iter()
        .map(|(_, message)| *message)
        .collect();
    assert_eq!(shown.all, stored);
}

#[test]
fn a_large_payload_is_left_to_the_consumer() {
    let mut copies = Copies::default();
    let (now, large) = (Instant::now(), vec![b'1'; PAYLOAD_BYTES_MAX + 1]);
    assert!(!copies.core(&large, now));
    assert_eq!(copies.stored(&large, now), Stored::Missed);
    assert_eq!(copies.awaited.bytes, 0);
}

#[test]
fn payloads_of_all_together_are_bounded() {
    let mut copies = Copies::default();
    let (now, large) = (Instant::now(), vec![b'1'; PAYLOAD_BYTES_MAX]);
    let shown = (0..1_000).filter(|_| copies.core(&large, now)).count();
    assert_eq!(shown, COPIES_BYTES_MAX / PAYLOAD_BYTES_MAX);
    assert!(!copies.core(b"1", now), "in the order of the stream");
    for _ in 0..shown {
        assert_eq!(copies.stored(&large, now), Stored::Confirms { passed: 0 });
    }
    assert!(copies.core(b"1", now), "there is room again");
}
