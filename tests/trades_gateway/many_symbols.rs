//! Clients with so many symbols that a turn has no time to give them all up.

use serde_json::{Value, json};
use weirgate_core::PeerEnd;

use super::candles::{Bench, with_candles};
use super::*;
use crate::world::PART_US;

const SYMBOLS: usize = 300;

/// A client with very many symbols and the minute candles of each, in a gateway with time for so many in a turn.
fn bench(steps: u64) -> (Bench, SessionKey, Vec<String>) {
    let settings = TradesGatewaySettings {
        symbols_max: 4 * SYMBOLS,
        ..with_candles(30_000)
    };
    let limits = Limits {
        share_us: steps,
        work_us: steps,
        ..Limits::default()
    };
    let mut bench = Bench::new(settings, limits);
    let key = bench.client();
    let symbols: Vec<String> = (0..SYMBOLS).map(|n| format!("S{n}")).collect();
    for five in symbols.chunks(5) {
        let five = json!(five).to_string();
        for (action, count) in [("subscribe", 5), ("subscribe_candles", 5)] {
            let answer = bench.ask(key, action, &five, "1m").remove(0);
            let got = answer["data"]["subscribed"].as_array().map(Vec::len);
            assert_eq!(got, Some(count), "{answer}");
        }
    }
    (bench, key, symbols)
}

fn data(bench: &mut Bench, key: SessionKey) -> Value {
    let answers = bench.got(key);
    let [answer] = &answers[..] else {
        panic!("{answers:?}");
    };
    answer["data"].clone()
}

#[test]
fn a_request_to_unsubscribe_from_very_many_symbols_goes_on_in_later_turns() {
    let (mut bench, key, symbols) = bench(20);
    // In another order, twice, and among symbols that the client does not hold.
    let mut asked: Vec<String> = (0..200).map(|n| format!("T{n}")).collect();
    asked.extend(symbols[50..].iter().rev().cloned());
    asked.extend(symbols[50..].iter().cloned());
    let gone: Vec<&String> = symbols[50..].iter().rev().collect();
    for action in ["unsubscribe", "unsubscribe_candles"] {
        let request = json!({"action": action, "symbols": asked, "interval": "1m"});
        bench.world.held = true;
        bench.world.text(key, &request.to_string());
        let mut turns = 0;
        while !bench.world.hub.wants_read(key) {
            let before = bench.world.hub.core().memberships();
            bench.world.hub.begin_part(PART_US);
            bench.world.hub.handle_next_share(bench.world.now);
            let left = before - bench.world.hub.core().memberships();
            assert!(left < 30, "{left} in a turn");
            turns += 1;
        }
        assert!(turns > 20, "{turns}");
        bench.world.held = false;
        bench.world.settle();
        let data = data(&mut bench, key);
        assert_eq!(data["unsubscribed"], json!(gone), "{action}");
        assert_eq!(data["currentSubscriptions"], json!(symbols[..50]));
    }
    assert_eq!(bench.stats.subscriptions.get(), 100);
}

#[test]
fn the_candles_of_a_client_with_very_many_end_over_several_turns() {
    let (mut bench, key, _) = bench(20);
    bench.world.held = true;
    bench.world.hub.begin_part(20);
    bench
        .world
        .hub
        .handle_ended(bench.world.now, key, PeerEnd::Failed);
    let mut turns = 0;
    while !bench.world.hub.gateway().is_idle() {
        bench.world.advance(0);
        turns += 1;
        assert!(turns < 1_000);
    }
    assert!(turns > 10, "{turns}");
    bench.world.held = false;
    bench.world.settle();
}
