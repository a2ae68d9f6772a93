//! The order in which a chart gets the candles of a symbol and an interval.

use std::collections::BTreeMap;

use weirgate_core::ReadTo;

use super::*;
use crate::world::Random;

/// What a chart keeps: of each symbol and interval the newest candle, and nothing older may come.
#[derive(Default)]
struct Chart {
    newest: BTreeMap<(String, String), (i64, bool)>,
    closed: usize,
}

impl Chart {
    fn take(&mut self, candles: &[Value]) {
        for candle in candles {
            let text = |name: &str| candle[name].as_str().expect("a text").to_owned();
            let (start_ms, _, _, closed) = brief(candle);
            let newest = (start_ms, closed);
            let before = self
                .newest
                .insert((text("symbol"), text("interval")), newest);
            assert!(
                before < Some(newest) || before == Some((start_ms, false)),
                "{candle}: {before:?}"
            );
            self.closed += usize::from(closed);
        }
    }
}

const INTERVALS: [&str; 3] = ["1s", "1m", "5m"];

#[test]
fn the_next_candle_waits_until_the_one_before_it_is_closed() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    bench.run(900_000);
    bench.trade("A", 0, "1");
    bench.run(200_000);
    bench.trade("A", 0, "2");
    assert_eq!(briefs(&bench.candles(key)), [(0, 1.0, 1, false)]);
    // Whoever comes now sees the same candle, and then the same order.
    let second = bench.client();
    let at_once = bench.watch(second, r#"["A"]"#, "1s");
    assert_eq!(briefs(&at_once), [(0, 1.0, 1, false)]);
    bench.run(410_000);
    for key in [key, second] {
        let wanted = [(0, 1.0, 1, true), (1_000, 2.0, 1, false)];
        assert_eq!(briefs(&bench.candles(key)), wanted);
    }
}

#[test]
fn the_first_candle_waits_for_late_trades_of_the_interval_before_it() {
    let mut bench = Bench::usual();
    let key = bench.client();
    bench.watch(key, r#"["A"]"#, "1s");
    bench.run(SECOND + 100_000);
    bench.trade("A", 0, "2");
    assert!(bench.got(key).is_empty(), "an earlier candle may come");
    bench.trade("A", -200, "1");
    bench.run(SECOND);
    let wanted = [
        (0, 1.0, 1, false),
        (0, 1.0, 1, true),
        (1_000, 2.0, 1, false),
    ];
    assert_eq!(briefs(&bench.candles(key)), wanted);
    // It is shown to who subscribes before its time is over, when that comes.
    bench.run(3 * SECOND);
    bench.candles(key);
    bench.trade("B", 0, "5");
    assert!(bench.watch(key, r#"["B"]"#, "1s").is_empty());
    bench.run(SECOND);
    assert_eq!(brief(&bench.candles(key)[0]).1, 5.0);
    assert_eq!(bench.dropped("late"), 0);
}

/// What the bus says now and then: it goes away and comes back, and its stream is read to the end or not.
fn random_notice(random: &mut Random, now_ms: i64) -> BusEvent {
    match random.below(12) {
        0 => BusEvent::Down(String::new()),
        1..3 => BusEvent::Up,
        3..7 => BusEvent::ReadTo(ReadTo::End),
        7 => BusEvent::ReadTo(ReadTo::Unknown),
        _ => {
            let behind_ms = [10, 1_000, 20_000][random.below(3) as usize];
            BusEvent::ReadTo(ReadTo::StoredMs(now_ms - random.below(behind_ms) as i64))
        }
    }
}

/// Random trades, late and early, with clients that come, leave, come back at the ends of intervals and read slowly.
#[test]
fn no_candle_comes_after_one_of_a_later_interval() {
    let mut random = Random::new(11);
    let mut bench = Bench::usual();
    let mut clients: Vec<(SessionKey, Chart)> = Vec::new();
    for _ in 0..4 {
        clients.push((bench.client(), Chart::default()));
    }
    let mut closed = 0;
    for _ in 0..20_000 {
        let near_end = random.chance(50);
        let left_us = SECOND - bench.world.now.unix_us as u64 % SECOND;
        bench.run(if near_end && left_us < 50_000 {
            left_us
        } else {
            random.below(60_000)
        });
        let symbol = ["A", "B"][random.below(2) as usize];
        let at_ms = match random.below(20) {
            0 => random.below(10_000) as i64,
            1..8 => -(random.below(u64::from(GRACE_MS)) as i64),
            _ => 0,
        };
        bench.trade(symbol, at_ms, "1");
        if random.chance(20) {
            let notice = random_notice(&mut random, bench.world.now.unix_ms());
            bench.bus(notice);
        }
        let client = random.below(clients.len() as u64) as usize;
        let (key, chart) = &mut clients[client];
        let interval = INTERVALS[random.below(3) as usize];
        match random.below(12) {
            0 => bench.world.net.sockets.get_mut(key).expect("it").room = 0,
            1..3 => bench.world.open_window(*key, usize::MAX),
            3..5 => {
                let request = format!(
                    r#"{{"action":"unsubscribe_candles","symbols":["{symbol}"],"interval":"{interval}"}}"#
                );
                bench.world.text(*key, &request);
            }
            5..9 => {
                let request = format!(
                    r#"{{"action":"subscribe_candles","symbols":["{symbol}"],"interval":"{interval}"}}"#
                );
                bench.world.text(*key, &request);
            }
            9 => {
                bench.world.end(*key, false);
                closed += chart.closed;
                (*key, *chart) = (bench.client(), Chart::default());
            }
            _ => {}
        }
        for (key, chart) in &mut clients {
            let mut messages = bench.got(*key);
            messages.retain(|message| message["type"] == "candle");
            chart.take(&candles(messages));
        }
    }
    closed += clients.iter().map(|(_, chart)| chart.closed).sum::<usize>();
    assert!(closed > 500, "{closed}");
}
