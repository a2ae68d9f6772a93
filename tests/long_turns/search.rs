//! The search: what costs most is mutated further.

use std::env;
use std::time::{Duration, Instant};

use weirgate_test_support::empty_blocks;

use super::acts::{Act, Acts};
use super::turns::{Contract, Longest, Turns, cpu_us};
use crate::world::Random;
use crate::world::client::frame;

/// Tries that are mutated.
const POOL: usize = 30;
/// A try whose turn is the longest so far, or too long, is repeated so many times.
const REPEATS: usize = 5;
/// A try ends after so much CPU time of its own, microseconds.
const TRY_US_MAX: u64 = 500_000;
/// Clients of a try.
const CLIENTS_MAX: usize = 400;
/// A turn may cost this much, microseconds. A debug build checks the state of the core beside, and is slow.
pub(crate) const TURN_US_MAX: u64 = if cfg!(debug_assertions) {
    500_000
} else {
    5_000
};
/// The most names of a request.
pub(crate) const NAMES_MAX: u64 = if cfg!(debug_assertions) {
    3_000
} else {
    100_000
};

fn number(name: &str, default: u64) -> u64 {
    let text = env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Plays acts, for `us_max` microseconds of CPU at most.
pub(crate) fn play<C: Contract>(acts: &Acts, us_max: u64) -> Longest {
    let begun = cpu_us();
    let is_over = || cpu_us() - begun > us_max;
    let mut turns = Turns::<C>::new(acts.kind);
    let mut clients = 0;
    for act in &acts.acts {
        match act {
            Act::Connect(flavour, count) => {
                let count =
                    usize::from(*count).clamp(1, CLIENTS_MAX - clients.min(CLIENTS_MAX - 1));
                clients += count;
                (0..count).for_each(|_| turns.connect(*flavour));
            }
            Act::Say(client, request, times) => {
                let text = turns.with_position(C::text(request));
                let times = usize::from(*times).min(1 + 2_000_000 / text.len().max(1));
                let bytes = frame(0x81, text.as_bytes()).repeat(times);
                turns.say(usize::from(*client), &bytes);
            }
            Act::EmptyBlocks(client, kib) => {
                let message = empty_blocks(usize::from(*kib) * 1_024, b"{}");
                turns.say(usize::from(*client), &frame(0xc1, &message));
            }
            Act::Ends(client) => turns.ends(usize::from(*client)),
            Act::Room(client, room) => turns.set_room(usize::from(*client), *room as usize),
            Act::Outside(outside) => turns.outside(outside),
            Act::Turns(count) => {
                for _ in 0..*count {
                    if is_over() || !turns.turn() {
                        break;
                    }
                }
            }
            Act::Pass(us) => turns.pass(u64::from(*us)),
            Act::Table => turns.change_table(),
            Act::Look => turns.look(),
        }
        if is_over() {
            break;
        }
    }
    for _ in 0..5_000 {
        if is_over() || !turns.turn() {
            break;
        }
    }
    turns.longest
}

/// The shortest of `first` and [`REPEATS`] more: the host may stop this machine for milliseconds, and a page that is
/// touched for the first time is no fault.
fn again<C: Contract>(acts: &Acts, first: Longest) -> Longest {
    let more = (0..REPEATS).map(|_| play::<C>(acts, TRY_US_MAX));
    more.fold(first, |shortest, play| match play.us < shortest.us {
        true => play,
        false => shortest,
    })
}

pub(crate) fn search<C: Contract>(name: &str) {
    let (seconds, seed) = (number("TURN_SECONDS", 3), number("TURN_SEED", 1));
    let names_max = number("TURN_NAMES", NAMES_MAX);
    let mut random = Random::new(seed);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut pool: Vec<(Longest, Acts)> = Vec::new();
    let mut tries = 0;
    while Instant::now() < until {
        tries += 1;
        let acts = match pool.len() {
            0..10 => Acts::random(&mut random, names_max),
            _ if random.chance(10) => Acts::random(&mut random, names_max),
            len => {
                // Better ones more often.
                let better = random.below(len as u64).min(random.below(len as u64)) as usize;
                let other = random.below(len as u64) as usize;
                pool[better]
                    .1
                    .mutated(&pool[other].1, &mut random, names_max)
            }
        };
        let mut longest = play::<C>(&acts, TRY_US_MAX);
        let is_longest = pool.first().is_none_or(|(best, _)| longest.us > best.us);
        if is_longest || longest.us > TURN_US_MAX {
            longest = again::<C>(&acts, longest);
        }
        let at = pool.partition_point(|(one, _)| one.us >= longest.us);
        pool.insert(at, (longest, acts));
        pool.truncate(POOL);
    }
    let (longest, acts) = &pool[0];
    println!("{name}: {tries} tries, {longest}: {acts:?}");
    assert!(
        longest.us <= TURN_US_MAX,
        "{name}, seed {seed}: {longest}: {acts:#?}"
    );
}
