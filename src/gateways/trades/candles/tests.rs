use super::series::Late;
use super::*;

const HOUR_MS: i64 = 3_600_000;

fn read(data: &str) -> Option<Trade> {
    let message = format!(r#"{{"type":"trade","data":{data},"timestamp":77}}"#);
    Trade::read(message.as_bytes(), 8, 99)
}

fn shown(data: &str) -> Option<(i64, String, String)> {
    let trade = read(data)?;
    let (price, volume) = (trade.price.to_string(), trade.volume.to_string());
    Some((trade.at_ms, price, volume))
}

#[test]
fn price_volume_and_time_are_read_as_they_stand() {
    let cases = [
        (
            r#"{"timestamp":5,"price":1.50,"volume":100}"#,
            (5, "1.50", "100"),
        ),
        (
            r#"{"timestamp":"6","price":"2.10","volume":"0.3"}"#,
            (6, "2.10", "0.3"),
        ),
        (r#"{"timestamp":7.9,"price":-3}"#, (7, "-3", "0")),
        (
            r#"{"timestamp":1.7e3,"price":1e-7,"volume":12E+2}"#,
            (1700, "0.0000001", "1200"),
        ),
        (r#"{"price":4,"volume":null}"#, (99, "4", "0")),
        (r#"{"timestamp":null,"price":4}"#, (99, "4", "0")),
        (r#"{"price":4,"volume":"many"}"#, (99, "4", "0")),
        (r#"{"price":4,"volume":1e400}"#, (99, "4", "0")),
    ];
    for (data, (at_ms, price, volume)) in cases {
        let want = (at_ms, price.to_owned(), volume.to_owned());
        assert_eq!(shown(data), Some(want), "{data}");
    }
}

#[test]
fn a_trade_without_a_readable_price_or_time_is_none() {
    for data in [
        "{}",
        r#"{"price":null}"#,
        r#"{"price":"1_000"}"#,
        r#"{"price":""}"#,
        r#"{"price":"-"}"#,
        r#"{"price":[1]}"#,
        r#"{"price":true}"#,
        r#"{"price":1e400}"#,
        r#"{"price":1e-400}"#,
        r#"{"price":"1e99999999999"}"#,
        r#"{"price":1,"timestamp":"soon"}"#,
        r#"{"price":1,"timestamp":{}}"#,
        r#"{"price":1,"timestamp":1e25}"#,
    ] {
        assert_eq!(read(data), None, "{data}");
    }
    assert_eq!(Trade::read(b"{}", 8, 99), None);
}

fn trade(at_ms: i64, price: i64) -> Trade {
    Trade {
        at_ms,
        price: price.into(),
        volume: 1.into(),
    }
}

#[test]
fn the_earliest_trade_opens_and_the_latest_closes_in_whatever_order_they_come() {
    let mut series = Series::new(Interval::Minute);
    let begin = HOUR_MS;
    for (at_ms, price) in [(20, 5), (10, 7), (30, 3), (10, 8), (30, 4), (25, 9)] {
        assert_eq!(series.add(&trade(begin + at_ms, price), 0), Ok(true));
    }
    let candle = series.running().expect("a candle");
    let message = candle.message("A\"", Interval::Minute, false);
    let want = concat!(
        r#"{"type":"candle","data":{"symbol":"A\"","interval":"1m","start":3600000,"open":7,"#,
        r#""high":9,"low":3,"close":4,"volume":6,"trades":6,"closed":false}}"#
    );
    assert_eq!(message, want);
}

#[test]
fn a_closed_candle_is_not_opened_again_though_the_clock_is_set_back() {
    let mut series = Series::new(Interval::Second);
    assert_eq!(series.add(&trade(HOUR_MS + 500, 1), 0), Ok(true));
    assert_eq!(series.add(&trade(HOUR_MS - 1, 1), 0), Ok(false));
    assert!(series.close(HOUR_MS - 1).is_none());
    let closed = series.close(HOUR_MS + 1_000).expect("the older one");
    assert_eq!(closed.start_ms, HOUR_MS - 1_000);
    let closed = series.close(HOUR_MS + 1_000).expect("the newer one");
    assert_eq!(closed.start_ms, HOUR_MS);
    let back = HOUR_MS - 60_000;
    assert!(series.close(back).is_none());
    assert_eq!(series.add(&trade(HOUR_MS + 999, 1), back), Err(Late));
    assert_eq!(series.add(&trade(HOUR_MS + 1_000, 1), back), Ok(true));
}

#[test]
fn a_clock_that_was_far_ahead_for_a_moment_costs_the_running_candle_alone() {
    let mut series = Series::new(Interval::Second);
    assert_eq!(series.add(&trade(HOUR_MS, 1), 0), Ok(true));
    let tomorrow = 24 * HOUR_MS;
    assert!(series.close(tomorrow).is_some());
    assert_eq!(series.add(&trade(HOUR_MS + 2_000, 1), tomorrow), Err(Late));
    assert_eq!(series.add(&trade(HOUR_MS + 2_000, 1), HOUR_MS), Ok(true));
}

#[test]
fn topics_of_candles_are_those_of_no_symbol_that_a_client_can_hold() {
    for interval in Interval::ALL {
        let topic = interval.topic("A:B");
        assert_eq!(Interval::of_topic(&topic), Some((interval, "A:B")));
        assert_ne!(topic.as_str(), topic.as_str().to_uppercase());
        assert_eq!(Interval::named(interval.label()), Some(interval));
    }
    for other in ["AAPL", "candle:AAPL", "candle:2m:AAPL", "CANDLE:1M:A"] {
        let topic = TopicName::from(other.to_owned());
        assert_eq!(Interval::of_topic(&topic), None, "{other}");
    }
}

/// Publishes trades of a pair from a bus that never rests: deadlines stay few.
#[test]
fn a_watched_pair_has_one_deadline_and_an_unwatched_one_none() {
    let settings = CandleSettings {
        grace_ms: 500,
        pairs_max: 3,
    };
    let mut candles = Candles::new(settings, 8, Arc::default());
    let mut now = Now {
        mono_us: 1_000_000,
        unix_ms: HOUR_MS,
    };
    let mut out = Vec::new();
    let message = br#"{"type":"trade","data":{"price":1},"timestamp":5}"#;
    let mut publish = |candles: &mut Candles, times: usize| {
        for _ in 0..times {
            now = now.plus_us(1_000);
            candles.take(now, "A", message, &mut out);
            assert!(candles.due.len() <= 1);
        }
        (now, out.drain(..).count())
    };
    assert_eq!(publish(&mut candles, 10_000).1, 0, "nobody watches");
    assert_eq!(candles.poll_timeout(), None);
    let (now, _) = publish(&mut candles, 1);
    candles.watch(now, Interval::Second, "A");
    let (now, updates) = publish(&mut candles, 10_000);
    // 40 messages of the running candle and 10 closes.
    assert_eq!(updates, 50);
    assert!(candles.poll_timeout().expect("a deadline") <= now.mono_us + 250_000 + GRID_US);
    candles.unwatch(now, Interval::Second, "A");
    assert_eq!(candles.poll_timeout(), None);
    assert!(candles.is_unwatched());
}
