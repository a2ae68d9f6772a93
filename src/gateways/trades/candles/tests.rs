use super::*;

const HOUR_MS: i64 = 3_600_000;

fn relayed<'a>(now: Now, symbol: &'a str, message: &'a [u8]) -> RelayedTrade<'a> {
    RelayedTrade {
        symbol,
        message,
        received: now,
        is_old: false,
    }
}

/// A trade without a timestamp of its own.
fn message(ms: i64) -> String {
    format!(r#"{{"type":"trade","data":{{"price":1}},"timestamp":{ms}}}"#)
}

/// A new symbol without room: the search for ended candles is a part of the symbols for each.
#[test]
fn the_search_for_room_goes_on_with_the_next_symbol() {
    let settings = CandleSettings {
        grace_ms: 500,
        pairs_max: 3_000,
    };
    let mut candles = Candles::new(settings, Arc::default());
    let at = |mono_us, unix_ms| Now {
        mono_us,
        unix_us: unix_ms * 1_000,
    };
    let mut take = |now: Now, symbol: String| {
        let message = message(now.unix_ms());
        let trade = relayed(now, &symbol, message.as_bytes());
        candles.take(now, trade, &mut Vec::new());
        candles.with_candles.len()
    };
    for n in 0..1_000 {
        take(at(1, HOUR_MS), format!("old{n}"));
    }
    let later = at(2_000_000, 2 * HOUR_MS);
    let mut before = 1_000;
    for n in 0..3_000 {
        let symbols = take(later, format!("new{n}"));
        assert!(symbols + SWEEP_SLOTS_MAX >= before, "{before} to {symbols}");
        before = symbols;
    }
    assert_eq!(candles.with_candles.len(), 1_000);
    let all = candles.with_candles.keys();
    let names = all.map(|slot| &candles.symbols[*slot].name);
    assert_eq!(names.filter(|name| name.starts_with("old")).count(), 0);
}

/// Publishes trades of a pair from a bus that never rests: deadlines stay few.
#[test]
fn a_watched_pair_has_one_deadline_and_an_unwatched_one_none() {
    let settings = CandleSettings {
        grace_ms: 500,
        pairs_max: 3,
    };
    let mut candles = Candles::new(settings, Arc::default());
    let mut now = Now {
        mono_us: 1_000_000,
        unix_us: HOUR_MS * 1_000,
    };
    let mut out = Vec::new();
    let mut publish = |candles: &mut Candles, times: usize| {
        for _ in 0..times {
            now = now.plus_us(1_000);
            let message = message(now.unix_ms());
            candles.take(now, relayed(now, "A", message.as_bytes()), &mut out);
            assert!(candles.due.len() <= 1);
        }
        (now, out.drain(..).count())
    };
    assert_eq!(publish(&mut candles, 10_000).1, 0, "nobody watches");
    assert_eq!(candles.poll_timeout(), None);
    let (now, _) = publish(&mut candles, 1);
    candles.watch(now, Interval::Second, "A");
    let (now, updates) = publish(&mut candles, 10_000);
    // Of each candle three messages while it runs, none while it takes late trades alone, and one when it is closed.
    assert_eq!(updates, 40);
    assert!(candles.poll_timeout().expect("a deadline") <= now.mono_us + 250_000 + GRID_US);
    candles.unwatch(now, Interval::Second, "A");
    assert_eq!(candles.poll_timeout(), None);
    assert!(candles.is_unwatched());
}
