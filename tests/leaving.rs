//! Leaving costs the same however many clients there are: no scan over all of them, on the trades
//! gateway (contract: "Closed here"), whose predecessor had one for each client that went.
//!
//! The only test here that looks at a clock. It compares the program with itself, the best of many
//! tries each, and asks for a third of what a scan would show; cold caches of a busy machine show a fifth of
//! it. `benches/topics.rs` has the figures.

mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use weirgate::auth::{Authenticator, Origins};
use weirgate::gateways::{TradesGateway, TradesGatewaySettings};
use weirgate::hub::{Limits, SessionKey};
use world::World;

const FEW: usize = 100;
const MANY: usize = 50 * FEW;
const ROUNDS: usize = 40;

fn enter(world: &mut World<TradesGateway>) -> SessionKey {
    let key = world.connect("/ws", None);
    world.text(
        key,
        r#"{"action":"subscribe","symbols":["A","B","C","D","E"]}"#,
    );
    assert_eq!(
        world.hub.core().joined_count(key),
        5,
        "it holds its symbols"
    );
    key
}

/// The shortest time in which one of this many clients, all with the same symbols, goes away.
fn shortest_leave(clients: usize) -> Duration {
    let settings = TradesGatewaySettings {
        server_id: String::new(),
        symbols_max: 5,
        inbound_per_second: None,
        json_depth_max: 16,
        origins: Origins::default(),
        authenticator: Authenticator::default(),
        candles: None,
    };
    let gateway = TradesGateway::new(settings, Arc::default());
    let mut world = World::new(Limits::default(), gateway, 1);
    let mut keys: Vec<_> = (0..clients).map(|_| enter(&mut world)).collect();
    let round = |round: usize| {
        // Two by turns: the newest is what a scan might find first, and others every time would measure cold caches.
        let place = clients / 3 + round % 2;
        let begin = Instant::now();
        world.hub.handle_ended(world.now, keys[place], false);
        let took = begin.elapsed();
        world.settle();
        keys[place] = enter(&mut world);
        took
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

#[test]
fn leaving_is_no_scan_over_all_clients() {
    let (few, many) = (shortest_leave(FEW), shortest_leave(MANY));
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    assert!(
        ratio < (MANY / FEW) as f64 / 3.0,
        "{many:?} with {MANY} clients, {few:?} with {FEW}"
    );
}
