//! The hub, a feed and the toy gateways in virtual time, with hundreds of bad clients; what each
//! client got is compared with what was published. One seed decides all of a run:
//!
//! * `SIM_SEED=n` runs that seed alone: how a failure is replayed.
//! * `SIM_SEEDS=n` runs the seeds from 0 up to n (by default 520).

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the watch over seeds that hang is not simulated"
)]

mod world;

mod simulation {
    mod actions;
    mod broker;
    mod checks;
    mod choices;
    mod neighbours;
    pub(super) mod run;
}

use std::env;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use simulation::run::{self, Coverage, Outcome};
use weirgate::hub::CloseReason;
use world::client::Place;

/// Enough to meet everything in [`wanted`].
const SEEDS: u64 = 520;
/// A seed takes a fraction of a second; one that takes this long hangs.
const SEED_WALL_TIME_MAX: Duration = Duration::from_secs(60);

/// What the set of all seeds has to meet, or the simulation says less than it seems to.
fn wanted() -> Coverage {
    let mut wanted: Coverage = Place::all()
        .into_iter()
        .map(|place| format!("stop {place:?}"))
        .collect();
    wanted.extend(CloseReason::ALL.map(|reason| format!("close {}", reason.label())));
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
        "paused by pongs",
        "paused by the gateway",
        "a slot was used again",
        "events of a former owner",
        "a graceful close waits",
        "a graceful close waited too long",
        "frame memory: several went together",
        "frame memory: a larger queue was spared",
        "frame memory: a walk in slices",
    ];
    wanted.extend(others.map(str::to_owned));
    wanted
}

/// A seed has failed: no more are begun.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Says which seed it was when a run panics or hangs.
struct Watched {
    seed: u64,
    done: Arc<AtomicU64>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.done.store(u64::MAX, Ordering::Relaxed);
        if thread::panicking() {
            FAILED.store(true, Ordering::Relaxed);
            say_how_to_replay(self.seed);
        }
    }
}

fn say_how_to_replay(seed: u64) {
    eprintln!("seed {seed} failed; again: SIM_SEED={seed} cargo test --test simulation");
}

fn watched(seed: u64, running: &Arc<AtomicU64>) -> Outcome {
    running.store(seed, Ordering::Relaxed);
    let _watched = Watched {
        seed,
        done: Arc::clone(running),
    };
    let outcome = run::run(seed);
    // The same seed twice gives the same bytes to every client.
    if seed.is_multiple_of(10) {
        assert_eq!(
            run::run(seed).traffic,
            outcome.traffic,
            "not the same bytes"
        );
    }
    outcome
}

/// Ends the process when one seed never ends: a thread cannot be stopped from outside.
fn watch(running: Vec<Arc<AtomicU64>>) {
    thread::spawn(move || {
        let mut since: Vec<(u64, Instant)> = vec![(u64::MAX, Instant::now()); running.len()];
        loop {
            thread::sleep(Duration::from_millis(500));
            for (running, since) in running.iter().zip(&mut since) {
                let seed = running.load(Ordering::Relaxed);
                if seed != since.0 {
                    *since = (seed, Instant::now());
                } else if seed != u64::MAX && since.1.elapsed() > SEED_WALL_TIME_MAX {
                    eprintln!("seed {seed} hangs");
                    say_how_to_replay(seed);
                    process::exit(1);
                }
            }
        }
    });
}

fn number_from_env(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|v| !v.is_empty())?;
    Some(value.parse().expect("a number of seeds"))
}

#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = number_from_env("SIM_SEED") {
        let running = Arc::new(AtomicU64::new(u64::MAX));
        watch(vec![Arc::clone(&running)]);
        watched(seed, &running);
        return;
    }
    let seeds = number_from_env("SIM_SEEDS").unwrap_or(SEEDS);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let met = Mutex::new((Coverage::new(), 0, 0));
    let running: Vec<_> = (0..threads)
        .map(|_| Arc::new(AtomicU64::new(u64::MAX)))
        .collect();
    watch(running.clone());
    let started = Instant::now();
    thread::scope(|scope| {
        for running in &running {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || FAILED.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = watched(seed, running);
                    let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
                    met.0.extend(outcome.coverage);
                    met.1 += outcome.clients;
                    met.2 += outcome.messages;
                }
            });
        }
    });
    let (coverage, clients, messages) = met.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = started.elapsed().as_secs_f64();
    println!("{seeds} seeds, {clients} clients, {messages} messages in {seconds:.1} s");
    if seeds >= SEEDS {
        let missed: Vec<_> = wanted().difference(&coverage).cloned().collect();
        assert!(missed.is_empty(), "no seed met: {missed:#?}");
    }
}
