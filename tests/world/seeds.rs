//! Runs a simulation once for each seed, on all processors. The seed decides the whole run:
//!
//! * `SIM_SEED=n` runs only that seed, to replay a failure.
//! * `SIM_SEEDS=n` runs the seeds from 0 up to n.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the watch over seeds that hang is not simulated"
)]

use std::env;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The longest seed takes ten seconds of CPU in a debug build; a seed with this time hangs, even on a busy machine.
const SEED_WALL_TIME_MAX: Duration = Duration::from_secs(400);

/// A seed has failed: no more seeds are started.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Prints the seed if a run panics or hangs.
struct Watched {
    test: &'static str,
    seed: u64,
    done: Arc<AtomicU64>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.done.store(u64::MAX, Ordering::Relaxed);
        if thread::panicking() {
            FAILED.store(true, Ordering::Relaxed);
            say_how_to_replay(self.test, self.seed);
        }
    }
}

fn say_how_to_replay(test: &str, seed: u64) {
    eprintln!("seed {seed} failed; again: SIM_SEED={seed} cargo test --test {test}");
}

/// Ends the process if a seed never ends: a thread cannot be stopped from outside.
fn watch(test: &'static str, running: Vec<Arc<AtomicU64>>) {
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
                    say_how_to_replay(test, seed);
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

/// Runs `run` for each seed and passes each result to `take`; returns the number of seeds, or `None`
/// after the replay of a single seed. `test` is the test program, for the line about replaying a
/// failure.
pub(crate) fn run_all<O: Send>(
    test: &'static str,
    seeds: u64,
    run: impl Fn(u64) -> O + Sync,
    take: impl FnMut(O) + Send,
) -> Option<u64> {
    let watched = |seed, running: &Arc<AtomicU64>| {
        running.store(seed, Ordering::Relaxed);
        let _watched = Watched {
            test,
            seed,
            done: Arc::clone(running),
        };
        run(seed)
    };
    if let Some(seed) = number_from_env("SIM_SEED") {
        let running = Arc::new(AtomicU64::new(u64::MAX));
        watch(test, vec![Arc::clone(&running)]);
        watched(seed, &running);
        return None;
    }
    let seeds = number_from_env("SIM_SEEDS").unwrap_or(seeds);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let take = Mutex::new(take);
    let running: Vec<_> = (0..threads)
        .map(|_| Arc::new(AtomicU64::new(u64::MAX)))
        .collect();
    watch(test, running.clone());
    let started = Instant::now();
    thread::scope(|scope| {
        for running in &running {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || FAILED.load(Ordering::Relaxed) {
                        return;
                    }
                    let left = watched(seed, running);
                    let mut take = take.lock().unwrap_or_else(PoisonError::into_inner);
                    take(left);
                }
            });
        }
    });
    println!("{seeds} seeds in {:.1} s", started.elapsed().as_secs_f64());
    Some(seeds)
}
