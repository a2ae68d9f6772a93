//! Candles that may lack trades say so: after a start, a loss, or a time without room.

use weirgate_core::ReadTo;

use super::*;

/// A new gateway, 40 s after the begin of a minute, that the bus has not reached.
fn new() -> (Bench, SessionKey) {
    let settings = with_candles(300);
    let stats = Arc::new(TradesStats::default());
    let gateway = TradesGateway::new(settings, Arc::clone(&stats));
    let limits = Limits {
        ping_interval_us: 0,
        ..Limits::default()
    };
    let world = World::new(limits, gateway, 1);
    let feed = feed(&world);
    let mut bench = Bench { world, feed, stats };
    let key = bench.client();
    (bench, key)
}

/// Close, trades and closed of each candle, and whether it may lack trades.
fn marked(candles: &[Value]) -> Vec<(f64, u64, bool, bool)> {
    let of = |candle: &Value| {
        let (_, close, trades, closed) = brief(candle);
        let partial = candle.get("partial");
        assert!(partial.is_none_or(|partial| *partial == true), "{candle}");
        (close, trades, closed, partial.is_some())
    };
    candles.iter().map(of).collect()
}

impl Bench {
    /// The closed candles that come in this time.
    fn closed(&mut self, key: SessionKey, seconds: u64) -> Vec<(f64, u64, bool, bool)> {
        self.run(seconds * SECOND);
        let mut got = marked(&self.candles(key));
        got.retain(|candle| candle.2);
        got
    }
}

#[test]
fn the_candles_of_a_start_are_partial_and_the_next_ones_are_whole() {
    let (mut bench, key) = new();
    for interval in ["1m", "5m"] {
        bench.watch(key, r#"["A"]"#, interval);
    }
    bench.bus(BusEvent::Up);
    bench.trade("A", 0, "1");
    let running = marked(&bench.candles(key));
    assert_eq!(running, [(1.0, 1, false, true), (1.0, 1, false, true)]);
    assert_eq!(bench.closed(key, 21), [(1.0, 1, true, true)]);
    bench.trade("A", 0, "2");
    let running = marked(&bench.candles(key));
    assert_eq!(running, [(2.0, 1, false, false), (2.0, 2, false, true)]);
    assert_eq!(bench.closed(key, 60), [(2.0, 1, true, false)]);
    assert_eq!(bench.closed(key, 300), [(2.0, 2, true, true)]);
    bench.trade("A", 0, "3");
    let closed = bench.closed(key, 300);
    assert_eq!(closed, [(3.0, 1, true, false), (3.0, 1, true, false)]);
}

#[test]
fn old_trades_of_a_stream_are_in_the_candles() {
    let (mut bench, key) = new();
    let now = bench.world.now;
    let at = |seconds: i64| Now {
        unix_us: now.unix_us - seconds * SECOND as i64,
        ..now
    };
    let trade = |seconds: i64, price: u64| {
        let at_ms = at(seconds).unix_ms();
        let payload = format!(r#"{{"timestamp":{at_ms},"price":{price}}}"#);
        old("A", &payload, at(seconds))
    };
    // The minute began 40 s ago, and the five minutes 100 s ago.
    for (seconds, price) in [(50, 1), (30, 2), (20, 3)] {
        bench.bus(trade(seconds, price));
    }
    // One without a timestamp counts when it was stored.
    bench.bus(old("A", r#"{"price":9}"#, at(55)));
    bench.bus(BusEvent::Up);
    let minute = bench.watch(key, r#"["A"]"#, "1m");
    assert_eq!(marked(&minute), [(3.0, 2, false, false)]);
    assert_eq!(minute[0]["open"], 2);
    let five = bench.watch(key, r#"["A"]"#, "5m");
    assert_eq!(marked(&five), [(3.0, 4, false, true)]);
    assert_eq!(five[0]["high"], 9);
    assert_eq!(bench.dropped("late"), 0, "candles of before are nobody's");
    bench.trade("A", 0, "4");
    let mut closed = bench.closed(key, 300);
    assert_eq!(closed.remove(0), (4.0, 3, true, false));
    assert_eq!(closed, [(4.0, 5, true, true)]);
}

#[test]
fn a_loss_makes_the_open_candles_partial() {
    for is_away in [false, true] {
        let mut bench = Bench::usual();
        let key = bench.client();
        bench.watch(key, r#"["A"]"#, "1m");
        bench.trade("A", 0, "1");
        assert_eq!(marked(&bench.candles(key)), [(1.0, 1, false, false)]);
        bench.run(SECOND);
        bench.bus(BusEvent::Gap { lost: None });
        if is_away {
            bench.bus(BusEvent::Down(String::new()));
            bench.run(SECOND);
            bench.bus(BusEvent::Up);
        }
        bench.trade("A", 0, "2");
        let closed = bench.closed(key, 20);
        assert_eq!(closed, [(2.0, 2, true, true)], "{is_away}");
        bench.trade("A", 0, "3");
        assert_eq!(bench.closed(key, 60), [(3.0, 1, true, false)], "{is_away}");
    }
}

/// What a stream stored before the start, and brings after a loss, says nothing about what was lost.
#[test]
fn an_old_trade_after_a_loss_makes_no_candle_whole() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1m");
    bench.trade("A", 0, "1");
    bench.candles(key);
    let now = bench.world.now;
    bench.bus(BusEvent::Down(String::new()));
    bench.bus(BusEvent::Gap { lost: None });
    let unix_us = now.unix_us - 3_600 * SECOND as i64;
    bench.bus(old("A", r#"{"price":7}"#, Now { unix_us, ..now }));
    bench.bus(BusEvent::Up);
    assert_eq!(bench.closed(key, 21), [(1.0, 1, true, true)]);
}

/// A stream loses nothing while it is away, but candles that close meanwhile lack what comes later.
#[test]
fn a_candle_that_closes_while_the_bus_is_away_is_partial() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    bench.watch(key, r#"["A"]"#, "1m");
    bench.trade("A", 0, "1");
    bench.candles(key);
    bench.bus(BusEvent::Down(String::new()));
    assert_eq!(bench.closed(key, 2), [(1.0, 1, true, true)]);
    bench.trade("A", 0, "2");
    bench.bus(BusEvent::Up);
    bench.got(key);
    let closed = bench.closed(key, 20);
    assert_eq!(closed, [(2.0, 1, true, false), (2.0, 2, true, false)]);
}

#[test]
fn a_symbol_that_had_no_room_has_a_partial_candle() {
    let mut bench = Bench::new(with_candles(3), Limits::default());
    let key = bench.client();
    bench.watch(key, r#"["B"]"#, "5m");
    bench.advance(150 * SECOND);
    bench.trade("A", 0, "1");
    // The five minutes of A end, and B, which was traded in the next ones, gets room.
    bench.advance(50 * SECOND);
    bench.trade("B", 0, "1");
    assert_eq!(bench.dropped("pairs_max"), 1);
    bench.advance(2 * SECOND);
    bench.trade("B", 0, "2");
    assert_eq!(bench.dropped("pairs_max"), 1);
    assert_eq!(marked(&bench.candles(key)), [(2.0, 1, false, true)]);
    assert_eq!(bench.closed(key, 300), [(2.0, 1, true, true)]);
    bench.trade("B", 0, "3");
    assert_eq!(bench.closed(key, 300), [(3.0, 1, true, false)]);
}

impl Bench {
    fn read_to(&mut self, read_to: impl FnOnce(i64) -> ReadTo) {
        let read_to = read_to(self.world.now.unix_ms());
        self.bus(BusEvent::ReadTo(read_to));
    }
}

/// After an outage or a start, `Up` comes with the first trade, and much may have to be read yet.
#[test]
fn a_candle_that_closes_before_the_stream_is_read_is_partial() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    let states: [(&dyn Fn(i64) -> ReadTo, bool); 6] = [
        (&|_| ReadTo::End, false),
        (&|now_ms| ReadTo::StoredMs(now_ms + 1_500), false),
        (&|_| ReadTo::Unknown, true),
        (&|now_ms| ReadTo::StoredMs(now_ms - 3_000), true),
        (&|now_ms| ReadTo::StoredMs(now_ms + 1_400), true),
        // Ids that are no times say nothing.
        (&|now_ms| ReadTo::StoredMs(now_ms * 1_000), true),
    ];
    for (read_to, is_partial) in states {
        bench.read_to(|_| ReadTo::End);
        bench.read_to(read_to);
        bench.trade("A", 0, "1");
        // It waits for what is missing, for ten seconds after it was to be closed.
        let early = bench.closed(key, 11);
        assert_eq!(early.len(), usize::from(!is_partial));
        let all = [early, bench.closed(key, 1)].concat();
        assert_eq!(all, [(1.0, 1, true, is_partial)]);
    }
}

/// While bursts come, the reader is behind the end of the stream most of the time, by what was stored during a question.
#[test]
fn the_candles_of_a_busy_stream_that_is_read_in_time_are_whole() {
    for reaches_end in [false, true] {
        let mut bench = Bench::usual();
        let key = bench.client();
        bench.watch(key, r#"["A"]"#, "1s");
        let mut got = Vec::new();
        for n in 0..1_000 {
            bench.read_to(|now_ms| match n % 3 {
                0 if reaches_end => ReadTo::End,
                _ => ReadTo::StoredMs(now_ms - 3),
            });
            bench.trade("A", -3, "1");
            bench.run(7_000);
            got.extend(bench.candles(key));
        }
        assert_eq!(bench.dropped("late"), 0);
        let partial = got.iter().filter(|candle| candle.get("partial").is_some());
        assert_eq!(partial.count(), 0, "{reaches_end}");
        assert_eq!(marked(&got).iter().filter(|candle| candle.2).count(), 7);
    }
}

/// A candle that was to be closed comes with what was stored by then, once that is read.
#[test]
fn a_candle_waits_for_trades_that_were_stored_in_time() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    bench.trade("A", 0, "1");
    bench.run(SECOND);
    bench.read_to(|now_ms| ReadTo::StoredMs(now_ms - 500));
    assert_eq!(bench.closed(key, 3), []);
    bench.trade("A", -3_100, "2");
    bench.trade("A", -2_900, "3");
    bench.read_to(|now_ms| ReadTo::StoredMs(now_ms - 2_510));
    assert_eq!(bench.closed(key, 1), []);
    bench.read_to(|now_ms| ReadTo::StoredMs(now_ms - 3_490));
    bench.run(0);
    let candles = marked(&bench.candles(key));
    // The next one begins where this one ends, and may lack what was stored in the last seconds.
    assert_eq!(candles, [(2.0, 2, true, false), (3.0, 1, false, true)]);
    bench.read_to(|_| ReadTo::End);
    assert_eq!(bench.closed(key, 0), [(3.0, 1, true, false)]);
    assert_eq!(bench.dropped("late"), 0);
}
