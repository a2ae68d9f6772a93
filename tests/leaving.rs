//! Leaving costs the same however many clients there are: no scan over all of them, on the trades
//! gateway (contract: "Closed here"), whose predecessor had one for each client that went.
//!
//! The only test here that looks at a clock. It compares the program with itself, the best of many
//! tries each, and asks for a sixth of what a scan would show. `benches/topics.rs` has the figures.

#[path = "../benches/open/mod.rs"]
mod open;

use std::sync::Arc;
use std::time::{Duration, Instant};

use open::{NOW, hub, open, settle};
use weirgate::auth::{Authenticator, Origins};
use weirgate::gateways::{TradesGateway, TradesGatewaySettings};
use weirgate::hub::{Hub, SessionKey};

const FEW: usize = 100;
const MANY: usize = 50 * FEW;
const ROUNDS: usize = 40;

fn enter(hub: &mut Hub<TradesGateway>) -> SessionKey {
    const SUBSCRIBE: &[u8] = br#"{"action":"subscribe","symbols":["A","B","C","D","E"]}"#;
    let key = open(hub, None);
    let mut frame = vec![0x81, 0x80 | SUBSCRIBE.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(SUBSCRIBE);
    hub.handle_bytes(NOW, key, &frame);
    settle(hub, NOW);
    assert_eq!(hub.core().joined_count(key), 5, "it holds its symbols");
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
    };
    let mut hub = hub(TradesGateway::new(settings, Arc::default()));
    let mut keys: Vec<_> = (0..clients).map(|_| enter(&mut hub)).collect();
    let round = |round: usize| {
        // Not always the newest, which a scan might find first.
        let place = round * 7 % clients;
        let begin = Instant::now();
        hub.handle_ended(NOW, keys[place], false);
        let took = begin.elapsed();
        settle(&mut hub, NOW);
        keys[place] = enter(&mut hub);
        took
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

#[test]
fn leaving_is_no_scan_over_all_clients() {
    let (few, many) = (shortest_leave(FEW), shortest_leave(MANY));
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    assert!(
        ratio < (MANY / FEW) as f64 / 6.0,
        "{many:?} with {MANY} clients, {few:?} with {FEW}"
    );
}
