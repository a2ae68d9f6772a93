//! Resumes over several instances in virtual time: instances that are killed, lag and lose their
//! connection to a simulated Redis, and clients that come back to any of them. A model of each client says
//! what has to come: after `recovered: true` the message behind the last, otherwise nothing of what was
//! missed. The counting of the sources is the real one. How to choose seeds is in `world/seeds.rs`.
//!
//! In every third seed the bus is a stream, read by the real reader: it is trimmed, deleted and made anew,
//! and loses its newest messages in failovers. Live clients have to hear of a loss before the messages behind
//! it. What the bus itself lost in a failover comes only from an instance that has read it, and no longer once
//! that instance knows of the loss. An instance of channels also leaves out messages that others have, and finds out later:
//! until then no client may be given a position from behind them.

mod world;

mod simulation_resume {
    pub(super) mod client;
    pub(super) mod contract;
    pub(super) mod doubts;
    pub(super) mod instance;
    pub(super) mod link;
    pub(super) mod redis;
    pub(super) mod run;
    pub(super) mod stream;
    pub(super) mod stream_link;
}

use simulation_resume::contract::{Channels, Trades};
use simulation_resume::run::{Counts, Run};
use weirgate_core::NotRecovered;
use world::{Random, seeds};

/// By default; `make simulate` runs more.
const SEEDS: u64 = 40;

impl Random {
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

fn run(seed: u64) -> Counts {
    let is_stream = seed % 3 == 2;
    match seed % 2 {
        0 => Run::<Trades>::play(seed, is_stream),
        _ => Run::<Channels>::play(seed, is_stream),
    }
}

#[test]
fn who_comes_back_misses_nothing_or_is_told() {
    let mut total = Counts::default();
    let seeds = seeds::run_all("simulation_resume", SEEDS, run, |counts| {
        total.recovered += counts.recovered;
        total.replayed += counts.replayed;
        total.live += counts.live;
        total.elsewhere += counts.elsewhere;
        total.losses_told += counts.losses_told;
        total.of_streams += counts.of_streams;
        for (why, count) in counts.why {
            *total.why.entry(why).or_default() += count;
        }
    });
    println!("{total:?}");
    if let Some(seeds) = seeds.filter(|seeds| *seeds >= SEEDS) {
        let enough = total.recovered > 10 * seeds && total.elsewhere > 2 * seeds;
        let enough = enough && total.of_streams > 5 * seeds;
        assert!(enough && total.replayed > 20 * seeds, "{total:?}");
        for why in NotRecovered::ALL.map(NotRecovered::label) {
            assert!(total.why.contains_key(why), "no {why:?}: {total:?}");
        }
    }
}
