//! The market's course, its texts, and the rate of the source.

use std::collections::BTreeSet;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use super::*;
use weirgate_runtime::Clock;

const SETTINGS: SimulatedSettings = SimulatedSettings {
    levels: 12,
    seed: 42,
};

fn start(
    rate_hz: f64,
    room: usize,
) -> (Receiver<BusEvent>, Arc<BusStatus>, thread::JoinHandle<()>) {
    let (tx, rx) = bounded(room);
    let status = Arc::new(BusStatus::new(&[("a", SUBJECTS[0]), ("b", SUBJECTS[1])], 1));
    let source = Box::new(SimulatedSource::new(SETTINGS, rate_hz, Arc::clone(&status)));
    let link = SourceLink::new(tx, Box::new(|| {}), Clock::start());
    (rx, status, thread::spawn(move || source.run(link)))
}

fn next_message(rx: &Receiver<BusEvent>) -> BusMessage {
    match rx.recv_timeout(Duration::from_secs(10)) {
        Ok(BusEvent::Message(message)) => message,
        other => panic!("no message but {other:?}"),
    }
}

#[test]
fn the_source_comes_up_and_alternates_the_subjects() {
    let (rx, status, thread) = start(500.0, 8);
    assert!(matches!(rx.recv(), Ok(BusEvent::Up)));
    assert!(matches!(rx.recv(), Ok(BusEvent::CaughtUp)));
    assert!(status.subscribed());
    assert_eq!(status.consumers()[1].lag(), Some(0));
    let first = next_message(&rx);
    let created = first.position.expect("a position").epoch;
    let mut before = first;
    for n in 1..40_u64 {
        let message = next_message(&rx);
        let expected = SUBJECTS[(n % 2) as usize];
        assert_eq!(&*message.subject, expected);
        let position = message.position.expect("a position");
        assert_eq!(position.epoch, created);
        assert_eq!(position.sequence, n / 2 + 1);
        assert!(!message.quiet && message.received >= before.received);
        sonic_rs::from_slice::<sonic_rs::Value>(&message.payload).expect("valid JSON");
        before = message;
    }
    drop(rx);
    thread.join().expect("ends when the loop is gone");
}

#[test]
fn the_rate_holds_and_a_full_channel_is_not_made_up_for() {
    let (rx, _status, thread) = start(100.0, 2);
    // Up and CaughtUp fill the channel, so the source waits.
    thread::sleep(Duration::from_millis(400));
    let began = Instant::now();
    assert!(matches!(rx.recv(), Ok(BusEvent::Up)));
    assert!(matches!(rx.recv(), Ok(BusEvent::CaughtUp)));
    for _ in 0..40 {
        next_message(&rx);
    }
    // At 200 messages a second, 40 messages take 200 ms. If the source made up for missed ones, they would come at
    // once.
    assert!(
        began.elapsed() >= Duration::from_millis(170),
        "{:?}",
        began.elapsed()
    );
    drop(rx);
    thread.join().expect("ends when the loop is gone");
}

#[test]
fn rates_out_of_range_are_brought_into_it() {
    let rate = |hz| {
        let status = Arc::new(BusStatus::new(&[("a", SUBJECTS[0]), ("b", SUBJECTS[1])], 1));
        SimulatedSource::new(SETTINGS, hz, status).rate_hz
    };
    assert_eq!(rate(4.0), 4.0);
    assert_eq!(rate(0.0), RATE_HZ_MIN);
    assert_eq!(rate(f64::NAN), RATE_HZ_MIN);
    assert_eq!(rate(f64::INFINITY), RATE_HZ_MAX);
}

#[test]
fn late_wake_ups_do_not_add_up() {
    let mut schedule = Schedule::new(1_000, 8.0);
    let mut now_us = 1_000;
    for slot in 0..1_000_u64 {
        now_us += schedule.wait_us(now_us);
        assert!(now_us >= 1_000 + slot * 125_000);
        now_us += 40_000;
        assert!(now_us <= 1_000 + slot * 125_000 + 40_000);
    }
}

#[test]
fn a_pause_is_not_made_up_for() {
    let mut schedule = Schedule::new(0, 10.0);
    assert_eq!(schedule.wait_us(0), 0);
    assert_eq!(schedule.wait_us(5_030_000), 0);
    assert_eq!(schedule.wait_us(5_030_000), 70_000);
    assert_eq!(schedule.wait_us(5_100_000), 100_000);
}

#[test]
fn uneven_steps_keep_the_rate() {
    let mut schedule = Schedule::new(0, 3.0);
    let mut now_us = 0;
    for _ in 0..=3_000 {
        now_us += schedule.wait_us(now_us);
    }
    assert!(now_us.abs_diff(1_000_000_000) <= 1, "{now_us}");
}

/// 2024-05-14 10:00 in New York.
const START_UNIX_MS: i64 = 1_715_695_200_000;

fn texts(settings: SimulatedSettings, steps: i64) -> Vec<Vec<u8>> {
    let mut market = SimulatedMarket::new(settings);
    (0..steps)
        .flat_map(|i| {
            let unix_ms = START_UNIX_MS + i * 250;
            [
                market.levels_signals(unix_ms),
                market.market_flow(unix_ms + 125),
            ]
        })
        .collect()
}

fn parse(text: &[u8]) -> Value {
    sonic_rs::from_slice(text).expect("valid JSON")
}

fn number(value: &Value, key: &str) -> f64 {
    let number = value.get(key).and_then(|v| v.as_f64());
    number.unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    let text = value.get(key).and_then(|v| v.as_str());
    text.unwrap_or_else(|| panic!("{key} is no string in {value}"))
}

fn in_range(value: &Value, fields: &[(&str, f64, f64)]) {
    for &(key, low, high) in fields {
        let x = number(value, key);
        assert!((low..=high).contains(&x), "{key} = {x}");
    }
}

fn one_of(value: &Value, key: &str, allowed: &[&str]) {
    assert!(
        allowed.contains(&text(value, key)),
        "{key} = {}",
        text(value, key)
    );
}

#[test]
fn the_same_seed_and_clock_give_the_same_texts() {
    assert_eq!(texts(SETTINGS, 500), texts(SETTINGS, 500));
}

#[test]
fn another_seed_gives_another_market() {
    let other = SimulatedSettings {
        seed: 43,
        ..SETTINGS
    };
    assert_ne!(texts(SETTINGS, 1), texts(other, 1));
}

fn check_level(level: &Value) {
    one_of(level, "direction", &["SUPPORT", "RESISTANCE"]);
    one_of(
        level,
        "signal",
        &["BREAK", "REJECT", "CONTESTED", "NEUTRAL"],
    );
    one_of(level, "confidence", &["HIGH", "MEDIUM", "LOW"]);
    one_of(
        &level["barrier"],
        "state",
        &["VACUUM", "WALL", "ABSORPTION", "CONSUMED", "NEUTRAL"],
    );
    one_of(&level["fuel"], "effect", &["AMPLIFY", "DAMPEN", "NEUTRAL"]);
    assert!(level["note"].is_null() || level["note"].is_str());
    assert!(level["tape"]["sweep"]["detected"].is_boolean());
    check_level_numbers(level);
}

fn check_level_numbers(level: &Value) {
    in_range(
        level,
        &[
            ("price", 6_650.0, 7_050.0),
            ("distance", 0.0, 300.0),
            ("break_score_raw", 0.0, 100.0),
            ("break_score_smooth", 0.0, 100.0),
            ("approach_velocity", -20.0, 20.0),
            ("approach_bars", 0.0, 1_000.0),
            ("approach_distance", 0.0, 300.0),
            ("prior_touches", 0.0, 10_000.0),
            ("confluence_count", 0.0, 20.0),
            ("confluence_pressure", 0.0, 1.0),
            ("confluence_alignment", -1.0, 1.0),
            ("confluence_level", 0.0, 10.0),
        ],
    );
    in_range(
        &level["barrier"],
        &[
            ("delta_liq", -60_000.0, 60_000.0),
            ("replenishment_ratio", 0.0, 10.0),
            ("depth_in_zone", 20.0, 30_000.0),
        ],
    );
    in_range(
        &level["tape"],
        &[
            ("imbalance", -1.0, 1.0),
            ("velocity", -20.0, 20.0),
            ("buy_vol", 0.0, 100_000.0),
            ("sell_vol", 0.0, 100_000.0),
        ],
    );
    in_range(
        &level["fuel"],
        &[("net_dealer_gamma", -400_000.0, 400_000.0)],
    );
}

fn check_target(target: &Value, ids: &BTreeSet<&str>) {
    assert!(ids.contains(text(target, "level_id")));
    in_range(
        target,
        &[
            ("p_tradeable_2", 0.0, 1.0),
            ("p_no_trade", 0.0, 1.0),
            ("p_break", 0.0, 1.0),
            ("p_bounce", 0.0, 1.0),
            ("strength_signed", -3.0, 3.0),
            ("strength_abs", 0.0, 3.0),
            ("utility_score", 0.0, 1.0),
        ],
    );
    for threshold in ["t1", "t2"] {
        let fields = [("60", 0.0, 1.0), ("120", 0.0, 1.0)];
        in_range(&target["time_to_threshold"][threshold], &fields);
    }
    in_range(
        &target["retrieval"],
        &[("p_break", 0.0, 1.0), ("similarity", 0.0, 1.0)],
    );
}

fn check_signals(message: &Value, levels: usize) {
    let es = number(&message["es"], "spot");
    assert!((es - 6_850.0).abs() < 121.0, "{es}");
    assert!(number(&message["es"], "bid") <= es && es <= number(&message["es"], "ask"));
    assert!((number(&message["spy"], "spot") - es / 10.0).abs() < 0.006);
    let list = message["levels"].as_array().expect("an array");
    assert_eq!(list.len(), levels);
    list.iter().for_each(check_level);
    let prices: Vec<f64> = list.iter().map(|l| number(l, "price")).collect();
    assert!(prices.is_sorted(), "{prices:?}");
    let ids: BTreeSet<&str> = list.iter().map(|l| text(l, "id")).collect();
    assert_eq!(ids.len(), levels, "ids repeat");
    let targets = message["viewport"]["targets"].as_array().expect("an array");
    targets.iter().for_each(|t| check_target(t, &ids));
}

fn check_flow(flow: &Value, bytes: usize) {
    assert!((900..2_200).contains(&bytes), "{bytes} bytes");
    in_range(
        flow,
        &[
            ("last", 6_700.0, 7_000.0),
            ("vwap", 6_700.0, 7_000.0),
            ("volume", 1.0, 1e9),
            ("buy_vol", 0.0, 1e5),
            ("sell_vol", 0.0, 1e5),
            ("delta", -1e5, 1e5),
            ("cvd", -1e8, 1e8),
            ("imbalance", -1.0, 1.0),
        ],
    );
    for side in ["bids", "asks"] {
        assert_eq!(flow["book"][side].as_array().map(|a| a.len()), Some(8));
    }
    assert!(!flow["trades"].as_array().expect("an array").is_empty());
    assert!(flow["gamma_by_strike"].is_object());
}

#[test]
fn a_long_session_stays_plausible() {
    let mut market = SimulatedMarket::new(SETTINGS);
    let mut ids = BTreeSet::new();
    let mut signals = BTreeSet::new();
    let mut states = BTreeSet::new();
    let mut sweeps = 0;
    for i in 0..100_000 {
        let unix_ms = START_UNIX_MS + i * 250;
        // Writing and parsing texts takes most of the time of this test, so only every twentieth step does.
        if i % 20 != 0 {
            market.advance(unix_ms);
            continue;
        }
        let flow_text = market.market_flow(unix_ms - 125);
        check_flow(&parse(&flow_text), flow_text.len());
        let message = parse(&market.levels_signals(unix_ms));
        check_signals(&message, SETTINGS.levels);
        for level in message["levels"].as_array().expect("an array") {
            ids.insert(text(level, "id").to_owned());
            signals.insert(text(level, "signal").to_owned());
            states.insert(text(&level["barrier"], "state").to_owned());
            sweeps += u32::from(level["tape"]["sweep"]["detected"].is_true());
        }
    }
    assert!(
        ids.len() > 2 * SETTINGS.levels,
        "levels come and go: {ids:?}"
    );
    assert_eq!(signals.len(), 4, "{signals:?}");
    assert_eq!(states.len(), 5, "{states:?}");
    assert!(sweeps > 100, "{sweeps}");
}

#[test]
fn signals_do_not_flicker() {
    let mut market = SimulatedMarket::new(SETTINGS);
    let mut last = std::collections::BTreeMap::<String, String>::new();
    let mut changes = 0_u32;
    const MINUTES: i64 = 10;
    for i in 0..MINUTES * 240 {
        let message = parse(&market.levels_signals(START_UNIX_MS + i * 250));
        for level in message["levels"].as_array().expect("an array") {
            let now = text(level, "signal").to_owned();
            let before = last.insert(text(level, "id").to_owned(), now.clone());
            changes += u32::from(before.is_some_and(|b| b != now));
        }
    }
    let per_level_minute = f64::from(changes) / (MINUTES as f64 * SETTINGS.levels as f64);
    assert!((0.2..6.0).contains(&per_level_minute), "{per_level_minute}");
}

#[test]
fn odd_settings_and_clocks_do_no_harm() {
    for levels in [0, 1, 100, usize::MAX] {
        let mut market = SimulatedMarket::new(SimulatedSettings { levels, seed: 0 });
        for unix_ms in [START_UNIX_MS, START_UNIX_MS, i64::MAX, i64::MIN, 0, -5] {
            let message = parse(&market.levels_signals(unix_ms));
            let shown = message["levels"].as_array().expect("an array").len();
            assert_eq!(shown, levels.clamp(1, 1_000));
            check_flow(&parse(&market.market_flow(unix_ms)), 1_000);
        }
    }
}

#[test]
fn a_pause_does_not_make_the_spot_jump() {
    let mut market = SimulatedMarket::new(SETTINGS);
    let mut spot = |unix_ms| number(&parse(&market.levels_signals(unix_ms))["es"], "spot");
    let before = spot(START_UNIX_MS);
    let after = spot(START_UNIX_MS + 8 * 3_600_000);
    assert!((before - after).abs() <= 6.0, "{before} {after}");
}
