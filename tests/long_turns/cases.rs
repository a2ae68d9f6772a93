//! Requests and events of very many names, one kind each: what a search may not find in a few minutes.

use super::acts::{Act, Acts, Names, Outside, Request};
use super::search::{NAMES_MAX, TURN_US_MAX, play};
use super::turns::Contract;

/// The CPU time of a case, microseconds. None comes near it.
const CASE_US_MAX: u64 = 60_000_000;

/// A turn may cost this much, microseconds: more than in the search, because other programs on the machine make the memory
/// of so many names slow.
const CASE_TURN_US_MAX: u64 = 2 * TURN_US_MAX;

/// A case is too long if each of so many plays is.
const PLAYS_MAX: usize = 3;

/// Names of a client.
pub(crate) fn all() -> Vec<Names> {
    vec![some(0, NAMES_MAX as u32)]
}

fn some(from: u32, count: u32) -> Names {
    Names {
        shape: 0,
        from,
        count,
        more: 0,
        order: 3,
    }
}

/// What a client says about all names.
pub(crate) fn says(verb: u8, extra: u8, number: u32) -> Act {
    let request = Request {
        verb,
        names: all(),
        extra,
        number,
    };
    Act::Say(0, request, 1)
}

/// What a client says about a pattern or a name alone.
pub(crate) fn says_of(verb: u8, shape: u8, extra: u8, number: u32) -> Act {
    let request = Request {
        verb,
        names: vec![Names {
            shape,
            ..some(0, 1)
        }],
        extra,
        number,
    };
    Act::Say(0, request, 1)
}

/// Until nothing is left to do, or nearly so.
pub(crate) fn turns() -> impl Iterator<Item = Act> {
    (0..20).map(|_| Act::Turns(255))
}

/// A message of each name.
pub(crate) fn messages() -> impl Iterator<Item = Act> {
    let parts = NAMES_MAX.div_ceil(20_000) as u32;
    let part = NAMES_MAX as u32 / parts;
    (0..parts).flat_map(move |n| {
        let publish = Outside::Publish(some(n * part, part), 1, 10);
        [Act::Outside(publish), Act::Turns(255)]
    })
}

/// So many messages of one name.
pub(crate) fn messages_of_one(count: u16) -> Act {
    Act::Outside(Outside::Publish(some(0, 1), count, 10))
}

/// A case: a name, the settings, and what happens after a client has connected.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) kind: u64,
    pub(crate) flavour: u8,
    pub(crate) acts: Vec<Act>,
}

/// Plays the cases.
pub(crate) fn play_all<C: Contract>(gateway: &str, cases: Vec<Case>) {
    let mut too_long = Vec::new();
    let inflated = Case {
        name: "a compressed message that brings nothing",
        kind: 0,
        flavour: 4,
        // Within the limit of a message.
        acts: vec![Act::EmptyBlocks(
            0,
            if gateway == "trades" { 90 } else { 900 },
        )],
    };
    for case in cases.into_iter().chain([inflated]) {
        let mut acts = vec![Act::Connect(case.flavour, 1), Act::Turns(20)];
        acts.extend(case.acts);
        acts.extend(turns());
        let acts = Acts {
            kind: case.kind,
            acts,
        };
        // Up to three times: a page that is touched for the first time is no fault.
        let mut longest = play::<C>(&acts, CASE_US_MAX);
        for _ in 1..PLAYS_MAX {
            if longest.us <= CASE_TURN_US_MAX {
                break;
            }
            longest = play::<C>(&acts, CASE_US_MAX);
        }
        let line = format!("{gateway}, {}: {longest}", case.name);
        println!("{line}");
        if longest.us > CASE_TURN_US_MAX {
            too_long.push(line);
        }
    }
    assert!(too_long.is_empty(), "{too_long:#?}");
}
