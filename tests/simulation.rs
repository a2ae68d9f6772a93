//! The hub, a feed and the toy gateways in virtual time, with hundreds of bad clients; what each
//! client got is compared with what was published. How to choose seeds is in `world/seeds.rs`.

mod world;

mod simulation {
    mod actions;
    mod broker;
    mod checks;
    mod choices;
    mod neighbours;
    pub(super) mod run;
    mod storms;
}

use simulation::run::{self, Coverage, Outcome};
use weirgate_core::CloseReason;
use world::client::Place;
use world::seeds;

/// Enough to meet everything in [`wanted`].
const SEEDS: u64 = 520;

/// What the set of all seeds has to meet, or the simulation says less than it seems to.
fn wanted() -> Coverage {
    let mut wanted: Coverage = Place::all()
        .into_iter()
        .map(|place| format!("stop {place:?}"))
        .collect();
    // The clients here send their messages whole, and hold less than the limit of unfinished ones, which has its
    // own rules in `hub_rules/unfinished.rs`. Their requests come whole too, and plain HTTP is another thread. The memory
    // of connections and the limit on open files are in `hub_rules/connections.rs`. Nobody moves clients here: that is in
    // `hub_rules/cuts.rs`.
    let elsewhere = [
        CloseReason::MessageMemory,
        CloseReason::HttpMemory,
        CloseReason::UpgradeLost,
        CloseReason::OpenFiles,
        CloseReason::ConnectionMemory,
        CloseReason::Evicted,
        CloseReason::Moved,
    ];
    let reasons = CloseReason::ALL.into_iter();
    let reasons = reasons.filter(|reason| !elsewhere.contains(reason));
    wanted.extend(reasons.map(|reason| format!("close {}", reason.label())));
    for delay in [false, true] {
        wanted.extend([false, true].map(|spread| format!("drain delay {delay} spread {spread}")));
    }
    let others = [
        "conflated",
        "shed",
        "to http",
        "back from http",
        "resumed",
        "a batch over 128",
        "over the soft limit",
        "a record beyond what the kernel takes",
        "paused by pongs",
        "paused by the gateway",
        "a slot was used again",
        "events of a former owner",
        "a graceful close waits",
        "a graceful close waited too long",
        "frame memory: several went together",
        "frame memory: a larger queue was spared",
        "frame memory: a walk in slices",
        "a storm",
        "a storm in a stop",
        "a freeze",
        "read in a freeze",
    ];
    wanted.extend(others.map(str::to_owned));
    wanted
}

fn run_one(seed: u64) -> Outcome {
    let outcome = run::run(seed);
    // The same seed twice gives the same bytes to every client.
    if seed.is_multiple_of(10) {
        let again = run::run(seed).traffic;
        assert_eq!(again, outcome.traffic, "not the same bytes");
    }
    outcome
}

#[test]
fn every_seed_keeps_every_promise() {
    let (mut coverage, mut clients, mut messages) = (Coverage::new(), 0, 0);
    let seeds = seeds::run_all("simulation", SEEDS, run_one, |outcome| {
        coverage.extend(outcome.coverage);
        clients += outcome.clients;
        messages += outcome.messages;
    });
    println!("{clients} clients, {messages} messages");
    if seeds.is_some_and(|seeds| seeds >= SEEDS) {
        let missed: Vec<_> = wanted().difference(&coverage).cloned().collect();
        assert!(missed.is_empty(), "no seed met: {missed:#?}");
    }
}
