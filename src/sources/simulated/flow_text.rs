//! The `market.flow` text: volumes, the top of the book, the last trades, gamma by strike.

use super::level::Level;
use super::spot::{OPEN, Spot};
use super::tape::Tape;
use super::text::{Object, number};

pub(super) fn write(unix_ms: i64, spot: &Spot, tape: &Tape, vwap: f64, levels: &[Level]) -> String {
    let mut out = String::with_capacity(2_048);
    let mut o = Object::begin(&mut out);
    o.integer("ts", unix_ms)
        .text("symbol", "ES")
        .number("last", spot.last(), 2)
        .number("change", spot.last() - OPEN, 2)
        .number("vwap", vwap, 2)
        .integer("volume", (tape.buy_session + tape.sell_session) as i64)
        .integer("buy_vol", tape.buy_window as i64)
        .integer("sell_vol", tape.sell_window as i64)
        .integer("delta", (tape.buy_window - tape.sell_window) as i64)
        .integer("cvd", (tape.buy_session - tape.sell_session) as i64)
        .number("imbalance", tape.imbalance, 3)
        .number("velocity", spot.velocity, 4)
        .object("book", |o| {
            o.array("bids", tape.book(spot, true), price_and_size)
                .array("asks", tape.book(spot, false), price_and_size);
        })
        .array("trades", &tape.trades, |out, trade| {
            let mut o = Object::begin(out);
            o.integer("ts", trade.unix_ms)
                .number("price", trade.price, 2)
                .integer("size", trade.size)
                .text("side", if trade.buy { "BUY" } else { "SELL" });
            o.end();
        })
        .object("gamma_by_strike", |o| {
            // Bounded, so that many levels do not make a large flow message.
            for level in levels
                .iter()
                .filter(|l| l.kind == "STRIKE" && l.distance < 30.0)
            {
                o.number(&format!("{:.0}", level.price), level.gamma, 0);
            }
        });
    o.end();
    out
}

fn price_and_size(out: &mut String, (price, size): (f64, f64)) {
    out.push('[');
    number(out, price, 2);
    out.push(',');
    number(out, size, 0);
    out.push(']');
}
