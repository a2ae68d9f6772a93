//! Candles: the extension of the contract, through the feed and the gateway.

mod day;
mod order;
mod partial;
mod room;

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use weirgate::gateways::trades::CandleSettings;
use weirgate_core::{CloseReason, Gateway};
use weirgate_wire::base::Now;

use super::*;

const SECOND: u64 = 1_000_000;
const GRACE_MS: u32 = 500;

/// A gateway with candles, its feed, and what it counts.
pub(super) struct Bench {
    pub(super) world: World<TradesGateway>,
    feed: TradesFeed,
    pub(super) stats: Arc<TradesStats>,
}

pub(super) fn with_candles(pairs_max: usize) -> TradesGatewaySettings {
    TradesGatewaySettings {
        symbols_max: 10,
        candles: Some(CandleSettings {
            grace_ms: GRACE_MS,
            pairs_max,
        }),
        ..settings(false)
    }
}

impl Bench {
    pub(super) fn new(settings: TradesGatewaySettings, limits: Limits) -> Self {
        // These clients send no pongs.
        let limits = Limits {
            ping_interval_us: 0,
            ..limits
        };
        Self::with_pings(settings, limits)
    }

    fn with_pings(settings: TradesGatewaySettings, limits: Limits) -> Self {
        let stats = Arc::new(TradesStats::default());
        let gateway = TradesGateway::new(settings, Arc::clone(&stats));
        let world = World::new(limits, gateway, 1);
        let feed = feed(&world);
        let mut bench = Self { world, feed, stats };
        // The oldest trade of a stream, from long before.
        let now = bench.world.now;
        let unix_us = now.unix_us - 3_600 * SECOND as i64;
        bench.bus(old("OLD", r#"{"price":1}"#, Now { unix_us, ..now }));
        bench.bus(BusEvent::Up);
        bench.world.advance(0);
        bench
    }

    /// An event of the bus.
    fn bus(&mut self, event: BusEvent) {
        let now = self.world.now;
        if let Some(notice) = self.feed.notice(&event) {
            self.world.hub.handle_notice(now, &notice);
        }
        let mut out = Vec::new();
        self.feed.event(now, event, &mut out);
        for publication in &out {
            self.world.hub.handle_publication(now, publication);
        }
        self.world.settle();
    }

    fn usual() -> Self {
        Self::new(with_candles(300), Limits::default())
    }

    pub(super) fn client(&mut self) -> SessionKey {
        let key = self.world.connect("/", None);
        self.world.texts(key);
        key
    }

    /// A trade with a timestamp so many ms after now.
    fn trade(&mut self, symbol: &str, after_ms: i64, price: &str) {
        let at_ms = self.world.now.unix_ms() + after_ms;
        self.publish(
            symbol,
            &format!(r#"{{"timestamp":{at_ms},"price":{price},"volume":2}}"#),
        );
    }

    fn publish(&mut self, symbol: &str, payload: &str) {
        let channel = format!("channel:trade:{symbol}");
        publish(&mut self.world, &mut self.feed, &channel, payload);
    }

    pub(super) fn ask(
        &mut self,
        key: SessionKey,
        action: &str,
        symbols: &str,
        interval: &str,
    ) -> Vec<Value> {
        let request =
            format!(r#"{{"action":"{action}","symbols":{symbols},"interval":"{interval}"}}"#);
        self.world.text(key, &request);
        self.got(key)
    }

    /// Subscribes, and returns the candles that come at once.
    fn watch(&mut self, key: SessionKey, symbols: &str, interval: &str) -> Vec<Value> {
        let mut messages = self.ask(key, "subscribe_candles", symbols, interval);
        let response = messages.remove(0);
        assert_eq!(response["type"], "success", "{response}");
        candles(messages)
    }

    pub(super) fn got(&mut self, key: SessionKey) -> Vec<Value> {
        let texts = self.world.texts(key);
        let values = texts.iter().map(|text| serde_json::from_str(text));
        values.collect::<Result<_, _>>().expect("JSON")
    }

    fn candles(&mut self, key: SessionKey) -> Vec<Value> {
        candles(self.got(key))
    }

    fn dropped(&self, reason: &str) -> u64 {
        let mut counts = self.stats.candles.dropped();
        counts.find(|(label, _)| *label == reason).expect("it").1
    }

    fn advance(&mut self, us: u64) {
        self.world.advance(us);
    }

    /// Time passes in steps in which each deadline is kept.
    fn run(&mut self, us: u64) {
        let end = self.world.now.mono_us + us;
        while self.world.now.mono_us < end {
            let due = self.world.hub.poll_timeout().unwrap_or(end).min(end);
            self.advance(due.saturating_sub(self.world.now.mono_us));
        }
    }
}

/// A trade that the stream had stored at this time, before the start.
fn old(symbol: &str, payload: &str, stored: Now) -> BusEvent {
    let channel = format!("channel:trade:{symbol}");
    BusEvent::Message(BusMessage {
        quiet: true,
        ..BusMessage::new(channel, payload.into(), stored)
    })
}

fn candles(messages: Vec<Value>) -> Vec<Value> {
    let of = |mut message: Value| {
        assert_eq!(message["type"], "candle", "{message}");
        message["data"].take()
    };
    messages.into_iter().map(of).collect()
}

/// Interval's start after the first moment of a world, close, trades, closed.
fn brief(candle: &Value) -> (i64, f64, u64, bool) {
    (
        candle["start"].as_i64().expect("a start") - 1_715_629_300_000,
        candle["close"].as_f64().expect("a price"),
        candle["trades"].as_u64().expect("a count"),
        candle["closed"].as_bool().expect("a state"),
    )
}

fn briefs(candles: &[Value]) -> Vec<(i64, f64, u64, bool)> {
    candles.iter().map(brief).collect()
}

#[test]
fn who_subscribes_gets_the_running_candle_at_once_and_it_is_whole() {
    let mut bench = Bench::usual();
    for (price, ms) in [("10.50", 100), ("12", 400), ("11.25", 10_000)] {
        bench.advance(ms * 1_000);
        bench.trade("AAPL", 0, price);
    }
    let key = bench.client();
    let request = r#"{"action":"subscribe_candles","symbols":["aapl","X"],"interval":"1m"}"#;
    bench.world.text(key, request);
    // A world begins 40 s after the minute.
    let wanted = [
        r#"{"type":"success","message":"Successfully subscribed to candles of 2 symbol(s)","data":{"interval":"1m","subscribed":["AAPL","X"],"currentSubscriptions":["AAPL","X"]},"timestamp":1715629310500}"#,
        r#"{"type":"candle","data":{"symbol":"AAPL","interval":"1m","start":1715629260000,"open":10.50,"high":12,"low":10.50,"close":11.25,"volume":6,"trades":3,"closed":false}}"#,
    ];
    assert_eq!(bench.world.texts(key), wanted);
    // A second client comes to the same, and the first gets nothing for it.
    let late = bench.client();
    assert_eq!(bench.watch(late, r#"["AAPL"]"#, "1m").len(), 1);
    assert!(bench.got(key).is_empty());
    // Of an interval that is over and was watched by nobody, nothing is shown.
    assert_eq!(bench.watch(late, r#"["AAPL"]"#, "1s").len(), 1);
    bench.run(2 * SECOND);
    let third = bench.client();
    assert!(bench.watch(third, r#"["AAPL"]"#, "1s").is_empty());
}

#[test]
fn requests_are_answered_like_those_for_trades() {
    let mut bench = Bench::usual();
    let key = bench.client();
    let mut ask = |action: &str, symbols: &str, interval: &str| {
        let mut messages = bench.ask(key, action, symbols, interval);
        assert_eq!(messages.len(), 1, "{messages:?}");
        let message = messages.remove(0);
        let text = message["message"].as_str().expect("a text").to_owned();
        (text, message["data"].to_string())
    };
    let (_, data) = ask("subscribe_candles", r#"["a","B"]"#, "1m");
    let wanted = r#"{"currentSubscriptions":["A","B"],"interval":"1m","subscribed":["A","B"]}"#;
    assert_eq!(data, wanted);
    let (text, data) = ask("subscribe_candles", r#"["A"]"#, "1m");
    assert_eq!(
        text,
        "Already subscribed to candles of all requested symbols"
    );
    assert!(data.contains(r#""subscribed":[]"#), "{data}");
    let (_, data) = ask("subscribe_candles", r#"["A"]"#, "1s");
    assert!(data.contains(r#""currentSubscriptions":["A"]"#), "{data}");
    let (text, data) = ask("unsubscribe_candles", r#"["A","Z"]"#, "1m");
    assert_eq!(
        text,
        "Successfully unsubscribed from candles of 1 symbol(s)"
    );
    let wanted = r#"{"currentSubscriptions":["B"],"interval":"1m","unsubscribed":["A"]}"#;
    assert_eq!(data, wanted);
    let (text, _) = ask("unsubscribe_candles", r#"["A"]"#, "1m");
    assert_eq!(
        text,
        "Not subscribed to candles of any of the requested symbols"
    );
    let (text, _) = ask("subscribe_candles", r#"["A"]"#, "1h");
    assert_eq!(
        text,
        "Invalid subscribe_candles message: interval is not 1s, 1m or 5m"
    );
}

#[test]
fn without_the_setting_there_is_no_such_action() {
    let mut bench = Bench::new(settings(false), Limits::default());
    let key = bench.client();
    for action in ["subscribe_candles", "unsubscribe_candles"] {
        let request = format!(r#"{{"action":"{action}","symbols":["A"],"interval":"1m"}}"#);
        bench.world.text(key, &request);
        let wanted = format!(
            r#"{{"type":"error","message":"Unknown action: {action}","timestamp":1715629300000}}"#
        );
        assert_eq!(bench.world.texts(key), [wanted]);
    }
    bench.trade("A", 0, "1");
    assert_eq!(bench.world.hub.gateway().poll_timeout(), None);
    assert_eq!(bench.stats.candles.pairs.get(), 0);
}

#[test]
fn a_running_candle_comes_four_times_a_second_and_the_last_change_comes_too() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1m");
    bench.trade("A", 0, "1");
    assert_eq!(briefs(&bench.candles(key)), [(-40_000, 1.0, 1, false)]);
    let mut times = Vec::new();
    for n in 2..=301 {
        bench.run(10_000);
        bench.trade("A", 0, &n.to_string());
        let now = bench.world.now.mono_us;
        times.extend(bench.got(key).iter().map(|_| now));
    }
    assert_eq!(times.len(), 12, "3 s");
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.min() >= Some(250_000), "{times:?}");
    bench.trade("A", 0, "500");
    bench.run(SECOND);
    assert_eq!(briefs(&bench.candles(key)), [(-40_000, 500.0, 302, false)]);
    bench.run(SECOND);
    assert!(bench.got(key).is_empty(), "nothing has changed");
}

#[test]
fn a_candle_closes_once_when_its_grace_time_is_over_without_another_trade() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    bench.trade("A", 0, "1");
    bench.run(SECOND);
    assert_eq!(briefs(&bench.candles(key)), [(0, 1.0, 1, false)]);
    bench.run(490_000);
    assert!(bench.got(key).is_empty());
    bench.run(20_000);
    assert_eq!(briefs(&bench.candles(key)), [(0, 1.0, 1, true)]);
    bench.run(20 * SECOND);
    assert!(bench.got(key).is_empty(), "an empty second has no candle");
    assert_eq!(bench.world.hub.gateway().poll_timeout(), None);
}

#[test]
fn a_late_trade_goes_where_it_belongs_until_the_grace_time_is_over() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    bench.trade("A", 0, "1");
    bench.run(1_100_000);
    assert_eq!(briefs(&bench.candles(key)), [(0, 1.0, 1, false)]);
    bench.trade("A", 0, "2");
    // Into the second that is over, before and behind its only trade.
    bench.trade("A", -1_000, "7");
    bench.trade("A", -200, "3");
    assert_eq!(briefs(&bench.candles(key)), [(0, 7.0, 2, false)]);
    bench.run(410_000);
    let candles = bench.candles(key);
    let wanted = [(0, 3.0, 3, false), (0, 3.0, 3, true)];
    assert_eq!(briefs(&candles), wanted);
    assert_eq!(
        (&candles[1]["open"], &candles[1]["high"]),
        (&1.into(), &7.into())
    );
    assert_eq!(bench.dropped("late"), 0);
    bench.trade("A", -1_000, "9");
    assert_eq!(bench.dropped("late"), 1, "a minute still takes it");
    bench.run(SECOND);
    let wanted = [(1_000, 2.0, 1, false), (1_000, 2.0, 1, true)];
    assert_eq!(briefs(&bench.candles(key)), wanted);
    bench.trade("A", -3_600_000, "9");
    assert_eq!(bench.dropped("late"), 4, "none of the three takes it");
}

#[test]
fn trades_from_the_future_and_unreadable_ones_are_counted_and_in_no_candle() {
    // Far from now, and still a number that is read.
    const FAR_MS: i64 = 100_000_000_000_000_000;
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    bench.trade("A", 10_001, "1");
    bench.trade("A", FAR_MS, "1");
    assert_eq!(bench.dropped("early"), 2);
    bench.publish("A", r#"{"price":"one"}"#);
    bench.publish("A", r#"{"price":1,"timestamp":"now"}"#);
    bench.publish("A", r#"{"volume":1}"#);
    assert_eq!(bench.dropped("unreadable"), 3);
    bench.trade("A", -FAR_MS, "1");
    assert_eq!(bench.dropped("late"), 3);
    assert!(bench.got(key).is_empty());
    bench.trade("A", 10_000, "1");
    // Without a timestamp it has happened now.
    bench.advance(SECOND);
    bench.publish("A", r#"{"price":5}"#);
    bench.run(1_600_000);
    let wanted = [(1_000, 5.0, 1, false), (1_000, 5.0, 1, true)];
    assert_eq!(briefs(&bench.candles(key)), wanted);
    bench.run(8 * SECOND);
    assert_eq!(briefs(&bench.candles(key)), [(10_000, 1.0, 1, false)]);
}

/// A client that reads nothing for 20 s of a trade every 50 ms.
fn slow(limits: Limits) -> (Bench, SessionKey, u64) {
    let mut bench = Bench::new(with_candles(300), limits);
    let key = bench.client();
    bench.watch(key, r#"["A","B"]"#, "1s");
    bench.world.net.sockets.get_mut(&key).expect("it").room = 0;
    for n in 0..20 * 20 {
        bench.trade("A", 0, &n.to_string());
        bench.trade("B", 0, "1");
        bench.run(50_000);
    }
    let conflated = bench.world.hub.stats().messages_conflated;
    (bench, key, conflated)
}

#[test]
fn a_slow_client_skips_running_candles_and_no_closed_one() {
    let (mut bench, key, conflated) = slow(Limits::default());
    bench.world.open_window(key, usize::MAX);
    let got = bench.candles(key);
    for symbol in ["A", "B"] {
        let of_symbol = got.iter().filter(|candle| candle["symbol"] == *symbol);
        let (closed, running): (Vec<_>, Vec<_>) =
            of_symbol.partition(|candle| candle["closed"] == true);
        let starts = closed.iter().map(|candle| brief(candle).0);
        assert!(starts.eq((0..19).map(|n| 1_000 * n)), "{closed:?}");
        assert!(closed.iter().all(|candle| candle["trades"] == 20));
        // Some of the first second, before the client is slow, then one.
        assert!(running.len() < 8, "{}", running.len());
        assert_eq!(brief(running.last().expect("one")).0, 19_000);
    }
    assert!(conflated > 100, "{conflated}");
    assert_eq!(got.last().expect("one")["closed"], false);
}

#[test]
fn a_client_too_slow_for_closed_candles_is_dropped() {
    let mut limits = Limits::default();
    limits.send_queue.soft_bytes = 1_000;
    limits.send_queue.hard_bytes = 2_000;
    let (bench, _, _) = slow(limits);
    let closes = bench
        .world
        .hub
        .stats()
        .closes_for(CloseReason::SendQueueHard);
    assert_eq!(closes, 1);
    assert!(bench.world.hub.gateway().is_idle());
}

#[test]
fn candles_are_watched_until_the_last_client_has_ended() {
    let mut bench = Bench::usual();
    let [first, second] = [(); 2].map(|()| bench.client());
    for key in [first, second] {
        bench.watch(key, r#"["A"]"#, "1m");
    }
    bench.world.end(first, false);
    bench.trade("A", 0, "1");
    assert_eq!(briefs(&bench.candles(second)), [(-40_000, 1.0, 1, false)]);
    bench.world.end(second, false);
    assert!(bench.world.hub.gateway().is_idle());
}

#[test]
fn candles_count_as_symbols_of_a_client_and_of_a_user() {
    let mut bench = Bench::usual();
    let refused = "Cannot subscribe: would exceed maximum of 10 symbols per connection. Currently \
                   subscribed to 8 symbols.";
    let key = bench.client();
    subscribe(&mut bench.world, key, r#"["A","B","C","D"]"#);
    bench.watch(key, r#"["A","B"]"#, "1m");
    bench.watch(key, r#"["A","B"]"#, "5m");
    let answer = bench.ask(key, "subscribe_candles", r#"["A","B","C"]"#, "1s");
    assert_eq!(answer[0]["message"], refused);
    assert_eq!(bench.world.hub.core().joined_count(key), 8);
    let answer = subscribe(&mut bench.world, key, r#"["E","F","G"]"#);
    assert!(answer.contains(refused), "{answer}");
    assert_eq!(bench.stats.subscriptions.get(), 8);
    bench.ask(key, "unsubscribe_candles", r#"["A"]"#, "1m");
    assert_eq!(bench.stats.subscriptions.get(), 7);
    bench.world.end(key, false);
    assert_eq!(bench.stats.subscriptions.get(), 0);

    let claims = token(serde_json::json!({"sub": "ann", "maxSymbols": 3}));
    let (first, _) = connect(&mut bench.world, &claims);
    let (second, _) = connect(&mut bench.world, &claims);
    bench.watch(first, r#"["A","B"]"#, "1s");
    let asked = bench.ask(second, "subscribe_candles", r#"["A","B"]"#, "1s");
    assert!(asked.is_empty(), "the first may be gone");
    bench.world.send(first, &frame(0x8a, b""));
    bench.advance(1);
    let answer = bench.got(second);
    let text = answer[0]["message"].as_str().expect("a text");
    assert!(text.contains("maximum of 3 symbols per user"), "{text}");
    bench.world.end(first, true);
    assert_eq!(bench.watch(second, r#"["A","B","C"]"#, "1s").len(), 0);
    bench.world.end(second, false);
    assert!(bench.world.hub.gateway().is_idle());
}

#[test]
fn many_candles_that_end_together_are_closed_over_several_turns() {
    const SYMBOLS: usize = 300;
    let settings = TradesGatewaySettings {
        symbols_max: SYMBOLS,
        ..with_candles(3 * SYMBOLS)
    };
    let mut bench = Bench::new(settings, Limits::default());
    let key = bench.client();
    // A clock that each look finds later, so that a turn has time for some pairs.
    let clock = AtomicU64::new(0);
    let looks = Limits::default().work_us / 3 / 100;
    bench
        .world
        .hub
        .set_turn_clock(move || clock.fetch_add(looks, Ordering::Relaxed));
    for n in 0..SYMBOLS {
        bench.watch(key, &format!(r#"["S{n}"]"#), "1s");
    }
    for n in 0..SYMBOLS {
        bench.trade(&format!("S{n}"), 0, "1");
    }
    bench.run(SECOND);
    assert_eq!(bench.candles(key).len(), SYMBOLS);
    bench.world.held = true;
    bench.advance(3 * SECOND);
    bench.world.flush();
    bench.world.held = false;
    let mut count = bench.candles(key).len();
    assert!((1..150).contains(&count), "one turn: {count}");
    let now = bench.world.now.mono_us;
    assert!(bench.world.hub.poll_timeout().expect("the rest") <= now);
    for _ in 0..SYMBOLS {
        bench.advance(0);
        count += bench.candles(key).len();
    }
    assert_eq!(count, SYMBOLS);
}

#[test]
fn a_candle_ends_by_a_clock_that_was_set() {
    for ahead_s in [600, -600] {
        let mut bench = Bench::usual();
        let key = bench.client();
        bench.watch(key, r#"["A"]"#, "1m");
        bench.trade("A", 0, "1");
        bench.run(SECOND);
        bench.candles(key);
        bench.world.now.unix_us += ahead_s * SECOND as i64;
        let left_s = if ahead_s > 0 { 1 } else { 620 };
        bench.run((left_s - 1) * SECOND);
        assert_eq!(bench.candles(key).len(), 0, "{ahead_s}");
        bench.run(2 * SECOND);
        assert_eq!(briefs(&bench.candles(key)), [(-40_000, 1.0, 1, true)]);
    }
}

/// Its pongs are late, so running candles wait for them, and trades and closed candles do not.
#[test]
fn behind_deep_buffers_no_running_candle_comes_after_its_closed_one() {
    let limits = Limits {
        ping_interval_us: SECOND,
        pong_timeout_us: 3_600 * SECOND,
        ..Limits::default()
    };
    let mut bench = Bench::with_pings(with_candles(300), limits);
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    bench.run(10 * SECOND);
    let mut last = (0, true);
    let mut closed = 0;
    for step in 0..200 {
        // Bursts, and then a pause, so that no next candle replaces the one that waits.
        if step % 30 < 10 {
            bench.trade("A", 0, &step.to_string());
        }
        bench.run(SECOND / 10);
        for candle in bench.candles(key) {
            let (start_ms, _, _, is_closed) = brief(&candle);
            assert!((start_ms, true) > last || start_ms > last.0, "{candle}");
            last = (start_ms, is_closed);
            closed += usize::from(is_closed);
        }
    }
    assert!(closed >= 6, "{closed}");
    assert!(
        bench.world.hub.stats().messages_conflated > 0,
        "none has waited"
    );
    bench.world.hub.check_invariants();
}

#[test]
fn nothing_is_due_while_nobody_watches_and_nothing_is_kept_of_who_has_gone() {
    let mut bench = Bench::usual();
    for round in 0..20 {
        let (a, b) = (bench.client(), bench.client());
        bench.trade("A", 0, "1");
        assert_eq!(bench.world.hub.gateway().poll_timeout(), None);
        for key in [a, b] {
            assert_eq!(bench.watch(key, r#"["A","B"]"#, "1m").len(), 1);
        }
        bench.trade("A", 0, "2");
        assert!(bench.world.hub.gateway().poll_timeout().is_some());
        bench.ask(a, "unsubscribe_candles", r#"["A","B"]"#, "1m");
        bench.run(SECOND);
        assert!(bench.got(a).is_empty(), "it has left");
        assert!(!bench.candles(b).is_empty());
        bench.world.end(b, round % 2 == 0);
        bench.world.end(a, false);
        assert!(bench.world.hub.gateway().is_idle());
        assert_eq!(bench.world.hub.gateway().poll_timeout(), None);
        assert_eq!(bench.world.hub.core().topic_count(), 0);
    }
    assert_eq!(bench.world.frame_bytes.alive(), 0);
    assert_eq!(bench.stats.candles.pairs.get(), 3, "A is still traded");
}
