//! The four gateways with their feeds in virtual time: random messages of a bus or answers of
//! services, random requests of clients that read well, slowly or not at all. A small model of each
//! contract says which messages and answers each client has to get, and in which order. How to
//! choose seeds is in `world/seeds.rs`.

mod world;

mod simulation_gateways {
    pub(super) mod bench;
    pub(super) mod candles;
    pub(super) mod channels;
    pub(super) mod events;
    pub(super) mod levels;
    pub(super) mod trades;
}

use simulation_gateways::bench::{Bench, Counts};
use simulation_gateways::{channels, events, levels, trades};
use world::seeds;

/// By default; `make simulate` runs more.
const SEEDS: u64 = 200;

fn run(seed: u64) -> Counts {
    match seed % 4 {
        0 => Bench::<levels::Levels>::play(seed),
        1 => Bench::<trades::Trades>::play(seed),
        2 => Bench::<channels::Channels>::play(seed),
        _ => Bench::<events::Events>::play(seed),
    }
}

#[test]
fn every_client_gets_what_is_meant_for_it() {
    let mut total = Counts::default();
    let seeds = seeds::run_all("simulation_gateways", SEEDS, run, |counts| {
        total.clients += counts.clients;
        total.messages += counts.messages;
        total.answers += counts.answers;
    });
    println!("{total:?}");
    if seeds.is_some_and(|seeds| seeds >= SEEDS) {
        let enough = total.clients > 10 * SEEDS && total.messages > 50 * SEEDS;
        assert!(enough && total.answers > 20 * SEEDS, "{total:?}");
    }
}
