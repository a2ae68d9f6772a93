//! The limit on pairs of a symbol and an interval.

use super::*;

#[test]
fn the_pairs_of_a_symbol_and_an_interval_are_limited() {
    let mut bench = Bench::new(with_candles(3 * 2), Limits::default());
    let key = bench.client();
    bench.trade("A", 0, "1");
    bench.trade("B", 0, "1");
    bench.trade("C", 0, "1");
    assert_eq!(bench.stats.candles.pairs.get(), 6);
    assert_eq!(bench.dropped("pairs_max"), 1);
    let answer = bench.ask(key, "subscribe_candles", r#"["A","C"]"#, "1m");
    let text = &answer[0]["message"];
    assert_eq!(text, "Cannot subscribe: too many symbols have candles.");
    assert_eq!(bench.world.hub.core().joined_count(key), 0);
    assert_eq!(bench.stats.candles.limited.get(), 2);
    assert_eq!(bench.watch(key, r#"["A"]"#, "1m").len(), 1);
    // A and B make room when their candles are over, though A has a client.
    bench.advance(400 * SECOND);
    bench.trade("C", 0, "1");
    assert_eq!(bench.dropped("pairs_max"), 1);
    assert_eq!(bench.stats.candles.pairs.get(), 3);
    bench.advance(400 * SECOND);
    bench.trade("A", 0, "1");
    bench.trade("D", 0, "1");
    bench.advance(2 * SECOND);
    bench.trade("E", 0, "1");
    assert_eq!(bench.dropped("pairs_max"), 2);
    bench.ask(key, "unsubscribe_candles", r#"["A"]"#, "1m");
    assert_eq!(bench.stats.candles.pairs.get(), 6, "A still has trades");
}

/// Clients choose the names that they watch, so these must not take the room of symbols with trades.
#[test]
fn watched_symbols_without_trades_take_no_room() {
    let mut bench = Bench::new(with_candles(3 * 2), Limits::default());
    let mut idle = Vec::new();
    for n in 0..50 {
        let key = bench.client();
        let symbols = format!(r#"["X{n}","Y{n}","Z"]"#);
        assert!(bench.watch(key, &symbols, "1m").is_empty());
        idle.push(key);
    }
    assert_eq!(bench.stats.candles.pairs.get(), 0);
    let key = bench.client();
    assert!(bench.watch(key, r#"["A"]"#, "1m").is_empty());
    bench.trade("A", 0, "1");
    bench.trade("B", 0, "2");
    assert_eq!(bench.dropped("pairs_max"), 0);
    assert_eq!(bench.stats.candles.pairs.get(), 6);
    assert_eq!(briefs(&bench.candles(key)), [(-40_000, 1.0, 1, false)]);
    assert_eq!(bench.watch(key, r#"["B"]"#, "1m").len(), 1);
    // The watched symbol takes room from its first trade on, if there is room.
    bench.trade("X7", 0, "3");
    assert_eq!(bench.dropped("pairs_max"), 1);
    assert!(bench.got(idle[7]).is_empty());
    let answer = bench.ask(key, "subscribe_candles", r#"["X7"]"#, "1m");
    let text = &answer[0]["message"];
    assert_eq!(text, "Cannot subscribe: too many symbols have candles.");
    // The candles of A and B are over, though both are watched.
    bench.run(400 * SECOND);
    bench.candles(key);
    bench.trade("X7", 0, "3");
    bench.trade("Z", 0, "4");
    assert_eq!(bench.dropped("pairs_max"), 1);
    assert_eq!(bench.candles(idle[7]).len(), 2);
    assert_eq!(bench.candles(idle[8]).len(), 1);
    for key in idle.into_iter().chain([key]) {
        bench.world.end(key, false);
    }
    assert!(bench.world.hub.gateway().is_idle());
}

/// A bus of ever new symbols has the symbols that are kept looked through once a second at most.
#[test]
fn room_for_new_symbols_is_looked_for_once_a_second() {
    let mut bench = Bench::new(with_candles(3), Limits::default());
    bench.trade("A", 0, "1");
    // The candle of five minutes ends after 200 s.
    let is_over_us = 200 * SECOND + u64::from(GRACE_MS) * 1_000;
    let mut refused_after = |us: u64| {
        bench.advance(us);
        bench.trade("B", 0, "1");
        bench.dropped("pairs_max")
    };
    assert_eq!(refused_after(is_over_us - SECOND / 10), 1);
    assert_eq!(refused_after(SECOND / 2), 2, "nobody looks so soon");
    assert_eq!(refused_after(SECOND / 2), 2, "A has made room");
}

/// Symbols of the bus may have any length, and the names of those with candles are kept.
#[test]
fn a_symbol_that_no_client_can_name_has_no_candles() {
    let mut bench = Bench::usual();
    bench.trade(&"X".repeat(61), 0, "1");
    bench.trade(&"X".repeat(300_000), 0, "1");
    assert_eq!(bench.dropped("long_symbol"), 2);
    assert_eq!(bench.stats.candles.pairs.get(), 0);
    // The longest that a client can name: each unit is three characters of two bytes in upper case.
    let asked = "\u{390}".repeat(10);
    let longest = asked.to_uppercase();
    assert_eq!(longest.len(), 60);
    bench.trade(&longest, 0, "1");
    let key = bench.client();
    assert_eq!(bench.watch(key, &format!(r#"["{asked}"]"#), "1m").len(), 1);
    let most = |units| {
        let of_units = ('\0'..=char::MAX).filter(move |c| c.len_utf16() == units);
        let bytes = of_units.map(|c| c.to_uppercase().map(char::len_utf8).sum::<usize>());
        bytes.max().expect("characters")
    };
    assert_eq!((most(1), most(2)), (6, 4));
}
