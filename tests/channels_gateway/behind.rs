//! While the loop is behind: messages of the kept feed keep the order of their positions, and each kind of client gets its
//! own kind of message.

use super::resume::{Kept, TICK, data, limits};
use super::*;

/// Two batches of a flush.
const CLIENTS: usize = 256;
/// A name of which slow clients get the newest message only.
const CONFLATED: &str = "market:conflated";

/// Clients of these names that take everything, and a loop that has time for one batch in a turn.
fn members(bench: &mut Bench, names: &[&str]) -> Vec<SessionKey> {
    let keys: Vec<_> = (0..CLIENTS).map(|_| bench.client()).collect();
    for &key in &keys {
        bench.subscribe(key, names);
        bench.got(key);
    }
    bench.world.held = true;
    keys
}

#[test]
fn messages_of_the_kept_feed_are_sent_in_the_order_of_their_positions() {
    let mut kept = Kept::with(settings(), limits());
    kept.bench.feed = kept.bench.feed.conflating(|name| name == CONFLATED);
    let keys = members(&mut kept.bench, &[CONFLATED, TICK]);
    kept.publish(CONFLATED, "1");
    kept.bench.world.flush_one_batch();
    kept.bench.world.flush_one_batch();
    kept.publish(CONFLATED, "2");
    kept.bench.world.flush_one_batch();
    kept.bench.world.now = kept.bench.world.now.plus_us(2 * SECOND);
    kept.publish(CONFLATED, "3");
    assert!(kept.bench.world.hub.stats().overload.is_behind);
    kept.publish(CONFLATED, "4");
    kept.publish(TICK, "5");
    kept.bench.world.flush_one_batch();
    kept.bench.world.catch_up();
    for key in keys {
        let got = kept.bench.got(key);
        let got = data(&got);
        assert!(got.is_sorted_by_key(|n| n.as_u64()), "{got:?}");
        assert_eq!(got[got.len() - 2..], [json!(4), json!(5)]);
    }
}

#[test]
fn a_held_binary_message_is_for_no_client_that_gets_text() {
    let mut bench = Bench::new(settings());
    bench.feed = bench.feed.conflating(|_| true);
    bench.bus(BusEvent::Up);
    let binary = bench.world.connect("/ws?payload=binary", None);
    bench.subscribe(binary, &[TICK]);
    let keys = members(&mut bench, &[TICK]);
    bench.publish(TICK, &[], b"1");
    bench.world.flush_one_batch();
    bench.world.flush_one_batch();
    bench.publish(TICK, &[], b"2");
    bench.world.flush_one_batch();
    bench.world.now = bench.world.now.plus_us(2 * SECOND);
    bench.publish(TICK, &[], b"3");
    assert!(bench.world.hub.stats().overload.is_behind);
    bench.publish(TICK, &[], b"\xff4");
    bench.unsubscribe(binary, &[TICK]);
    bench.world.catch_up();
    for key in keys {
        assert_eq!(bench.world.binaries(key), [[0; 0]; 0]);
        let mut got = bench.got(key);
        got.retain(|message| message["type"] == "data");
        assert_eq!(
            got.last().expect("a state")["data"],
            json!({"raw": "\u{fffd}4"})
        );
    }
}
