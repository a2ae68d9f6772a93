//! A day of trades, and another program's candles of the same trades.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::value::RawValue;

use super::*;
use crate::world::Random;

/// A closed candle as the program prints it.
fn line(text: &str) -> Option<String> {
    let message: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).expect("an object");
    if message["type"].get() != r#""candle""# {
        return None;
    }
    let data = message["data"].get();
    let data: BTreeMap<String, Box<RawValue>> = serde_json::from_str(data).expect("an object");
    let keys = [
        "symbol", "interval", "start", "open", "high", "low", "close", "volume", "trades",
    ];
    let values = keys.map(|key| data[key].get().trim_matches('"'));
    (data["closed"].get() == "true").then(|| values.join(" "))
}

/// The same by another program.
fn by_python(trades: &str) -> Vec<String> {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/trades_gateway/candles/day.py"
    );
    let mut python = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3, which make test installs");
    let mut input = python.stdin.take().expect("a pipe");
    input.write_all(trades.as_bytes()).expect("it reads");
    drop(input);
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_day_of_trades_gives_the_candles_of_a_program_of_ten_lines() {
    const SYMBOLS: [&str; 3] = ["AAPL", "B", "CC"];
    let mut bench = Bench::usual();
    let mut random = Random::new(7);
    let key = bench.client();
    for interval in ["1s", "1m", "5m"] {
        bench.watch(key, r#"["AAPL","B","CC"]"#, interval);
    }
    let (mut all, mut lines, mut prices) = (Vec::new(), Vec::new(), [15_000_u64, 900, 5]);
    let end = bench.world.now.plus_us(24 * 3_600 * SECOND);
    while bench.world.now < end {
        // Bursts, gaps of seconds and now and then of minutes.
        let gap_us = match random.below(100) {
            0 => random.below(700 * SECOND),
            1..40 => 0,
            _ => random.below(3 * SECOND),
        };
        bench.run(gap_us);
        let which = random.below(3) as usize;
        let price = &mut prices[which];
        *price = (*price + random.below(7)).saturating_sub(3).max(1);
        let (price, late_ms) = (*price, random.below(u64::from(GRACE_MS)) as i64);
        let size = match random.below(10) {
            0 => String::new(),
            n => format!(r#","volume":{}.{:02}"#, n * n, random.below(100)),
        };
        let at_ms = bench.world.now.unix_ms() - late_ms * i64::from(random.chance(30));
        let symbol = SYMBOLS[which];
        let (whole, cents) = (price / 100, price % 100);
        let trade = format!(
            r#"{{"symbol":"{symbol}","timestamp":{at_ms},"price":{whole}.{cents:02}{size}}}"#
        );
        bench.publish(symbol, &trade);
        all.push(trade);
        lines.extend(bench.world.texts(key).iter().filter_map(|text| line(text)));
    }
    bench.run(400 * SECOND);
    lines.extend(bench.world.texts(key).iter().filter_map(|text| line(text)));
    let mut wanted = by_python(&format!("[{}]", all.join(",")));
    assert!(wanted.len() > 15_000, "{} candles", wanted.len());
    lines.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(lines, wanted);
    assert_eq!(bench.dropped("late"), 0);
}
