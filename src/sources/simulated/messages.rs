//! The texts of the two subjects: JSON, written key by key.
//!
//! No value of a JSON library: libraries keep objects in hash maps. Here the same seed promises the same
//! order of keys and number of decimals.

use std::fmt::Write;

use super::level::{Level, REACH};
use super::spot::{OPEN, Spot, Tape};

/// The largest distance between levels that support one another, in points.
const CONFLUENCE: f64 = 2.5;

/// `levels.signals`: schema `levels.signals.v1`, as the levels contract reads it.
pub(super) fn levels_signals(unix_ms: i64, spot: &Spot, tape: &Tape, levels: &[Level]) -> String {
    let mut out = String::with_capacity(512 + levels.len() * 1_600);
    let mut message = Object::begin(&mut out);
    message
        .integer("ts", unix_ms)
        .object("spy", |o| {
            quote(
                o,
                spot.last() / 10.0,
                (spot.bid() / 10.0, spot.ask() / 10.0),
            )
        })
        .object("es", |o| quote(o, spot.last(), (spot.bid(), spot.ask())))
        .array("levels", levels.iter().enumerate(), |out, (i, level)| {
            let mut o = Object::begin(out);
            describe(&mut o, level, tape);
            confluence(&mut o, level, levels);
            runway(&mut o, level, levels, i);
            o.text("note", level.note());
            o.end();
        })
        .object("viewport", |o| {
            let targets = levels.iter().filter(|l| l.distance <= REACH * 1.5);
            o.integer("ts", unix_ms).array("targets", targets, target);
        });
    message.end();
    out
}

fn quote(o: &mut Object<'_>, spot: f64, (bid, ask): (f64, f64)) {
    o.number("spot", spot, 2)
        .number("bid", bid, 2)
        .number("ask", ask, 2);
}

fn describe(o: &mut Object<'_>, level: &Level, tape: &Tape) {
    let direction = if level.is_support {
        "SUPPORT"
    } else {
        "RESISTANCE"
    };
    o.text("id", level.id.as_str())
        .number("price", level.price, 2)
        .text("kind", level.kind)
        .text("direction", direction)
        .number("distance", level.distance, 2)
        .number("break_score_raw", level.score_raw, 1)
        .number("break_score_smooth", level.score_smooth, 1)
        .text("signal", level.signal)
        .text("confidence", level.confidence())
        .object("barrier", |o| barrier(o, level))
        .object("tape", |o| traded(o, level, tape))
        .object("fuel", |o| {
            o.text("effect", level.fuel_effect())
                .number("net_dealer_gamma", level.gamma, 1);
        })
        .number("approach_velocity", level.approach_velocity, 4)
        .integer("approach_bars", (level.approach_s / 60.0) as i64)
        .number("approach_distance", level.approach_distance(), 2)
        .integer("prior_touches", level.touches);
}

fn barrier(o: &mut Object<'_>, level: &Level) {
    let barrier = &level.barrier;
    o.text("state", barrier.state)
        .number("delta_liq", barrier.delta_liq(), 1)
        .number("replenishment_ratio", barrier.replenishment_ratio(), 3)
        .integer("added", barrier.added as i64)
        .integer("canceled", barrier.canceled as i64)
        .integer("filled", barrier.filled as i64)
        .number("churn", barrier.added + barrier.canceled, 1)
        .integer("depth_in_zone", barrier.depth as i64);
}

fn traded(o: &mut Object<'_>, level: &Level, tape: &Tape) {
    // The nearer the level, the larger its share of the window's volume.
    let share = 0.05 + 0.95 * level.proximity();
    o.number("imbalance", level.imbalance, 3)
        .integer("buy_vol", (tape.buy_window * share) as i64)
        .integer("sell_vol", (tape.sell_window * share) as i64)
        .number("velocity", level.approach_velocity, 4)
        .object("sweep", |o| {
            match tape.sweep.filter(|_| level.is_swept(tape)) {
                Some(sweep) => {
                    o.boolean("detected", true)
                        .text("direction", if sweep.up { "UP" } else { "DOWN" })
                        .number("notional", sweep.notional, 1)
                        .integer("num_prints", sweep.prints)
                        .number("window_ms", 250.0, 1);
                }
                None => {
                    o.boolean("detected", false)
                        .text("direction", "NONE")
                        .number("notional", 0.0, 1);
                }
            }
        });
}

fn confluence(o: &mut Object<'_>, level: &Level, levels: &[Level]) {
    let near =
        |other: &&Level| other.id != level.id && (other.price - level.price).abs() <= CONFLUENCE;
    let count = levels.iter().filter(near).count() as i64;
    let agreeing = levels
        .iter()
        .filter(near)
        .filter(|l| l.signal == level.signal)
        .count() as i64;
    let pressure = 1.0 - (-0.45 * count as f64 * (0.5 + level.barrier.ratio() / 2.0)).exp();
    let rank = (count * 2 + level.touches.min(3) + i64::from(level.kind != "STRIKE")).min(10);
    let name = match rank {
        0 => "UNDEFINED",
        1 | 2 => "CONSOLIDATION",
        3 | 4 => "MODERATE",
        5 | 6 => "STRONG",
        7 | 8 => "PREMIUM",
        _ => "ULTRA_PREMIUM",
    };
    o.integer("confluence_count", count)
        .number("confluence_pressure", pressure, 3)
        .integer("confluence_alignment", (2 * agreeing - count).signum())
        .integer("confluence_level", rank)
        .text("confluence_level_name", name);
}

/// The next level if the market breaks this level. `levels` are sorted by price.
fn runway(o: &mut Object<'_>, level: &Level, levels: &[Level], position: usize) {
    let next = if level.is_support {
        position.checked_sub(1).and_then(|i| levels.get(i))
    } else {
        levels.get(position + 1)
    };
    o.object("runway", |o| {
        o.text("direction", if level.is_support { "DOWN" } else { "UP" })
            .text("next_level_id", next.map(|l| l.id.as_str()));
        if let Some(next) = next {
            let distance = (next.price - level.price).abs();
            let quality = if distance >= 3.0 {
                "CLEAR"
            } else {
                "OBSTRUCTED"
            };
            o.number("next_level_price", next.price, 2)
                .number("distance", distance, 2)
                .text("quality", quality);
        }
    });
}

fn target(out: &mut String, level: &Level) {
    let p_break = 1.0 / (1.0 + (-(level.score_smooth - 50.0) / 13.0).exp());
    let p_tradeable = 0.12 + 0.8 * level.proximity();
    let outward = if level.is_support { -1.0 } else { 1.0 };
    let strength = (2.0 * p_break - 1.0) * 3.0 * outward;
    let near = level.distance < REACH / 2.0;
    let within = |scale_s: f64| (1.0 - (-scale_s * level.proximity() / 60.0).exp()) * 0.95;
    let mut o = Object::begin(out);
    o.text("level_id", level.id.as_str())
        .number("level_price", level.price, 2)
        .text("direction", if level.is_support { "DOWN" } else { "UP" })
        .number("distance", level.distance, 2)
        .number("p_tradeable_2", p_tradeable, 3)
        .number("p_no_trade", 1.0 - p_tradeable, 3)
        .number("p_break", p_break, 3)
        .number("p_bounce", 1.0 - p_break, 3)
        .number("strength_signed", strength, 3)
        .number("strength_abs", strength.abs(), 3)
        .number(
            "utility_score",
            p_tradeable * (2.0 * p_break - 1.0).abs(),
            3,
        )
        .text("stage", if near { "stage_b" } else { "stage_a" })
        .object("time_to_threshold", |o| {
            for (threshold, scale) in [("t1", 1.0), ("t2", 0.55)] {
                o.object(threshold, |o| {
                    o.number("60", within(60.0 * scale), 3)
                        .number("120", within(120.0 * scale), 3);
                });
            }
        })
        .object("retrieval", |o| {
            o.number("p_break", 0.5 + (p_break - 0.5) * 0.8, 3)
                .number("similarity", 0.55 + 0.4 * level.proximity(), 3)
                .number("entropy", 4.0 * p_break * (1.0 - p_break), 3)
                .integer("n_neighbors", 20 + (40.0 * level.proximity()) as i64)
                .text("feature_set", "geometry_only");
        });
    o.end();
}

/// `market.flow`: volumes, the top of the book, the last trades, gamma by strike.
pub(super) fn market_flow(
    unix_ms: i64,
    spot: &Spot,
    tape: &Tape,
    vwap: f64,
    levels: &[Level],
) -> String {
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

/// A JSON object under construction. [`Object::end`] writes its closing brace.
pub(super) struct Object<'a> {
    out: &'a mut String,
    first: bool,
}

impl<'a> Object<'a> {
    /// Writes the opening brace.
    pub(super) fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    pub(super) fn end(self) {
        self.out.push('}');
    }

    fn key(&mut self, key: &str) {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        string(self.out, key);
        self.out.push(':');
    }

    /// A number with `decimals` digits after the point.
    pub(super) fn number(&mut self, key: &str, value: f64, decimals: usize) -> &mut Self {
        self.key(key);
        number(self.out, value, decimals);
        self
    }

    pub(super) fn integer(&mut self, key: &str, value: i64) -> &mut Self {
        self.key(key);
        let _ = write!(self.out, "{value}");
        self
    }

    pub(super) fn boolean(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key);
        self.out.push_str(if value { "true" } else { "false" });
        self
    }

    /// A string, or `null`.
    pub(super) fn text<'s>(&mut self, key: &str, value: impl Into<Option<&'s str>>) -> &mut Self {
        self.key(key);
        match value.into() {
            Some(value) => string(self.out, value),
            None => self.out.push_str("null"),
        }
        self
    }

    /// An object, filled by `fill`.
    pub(super) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) -> &mut Self {
        self.key(key);
        let mut inner = Object::begin(self.out);
        fill(&mut inner);
        inner.end();
        self
    }

    /// An array with an element per item; `write` writes the element, a single JSON value.
    pub(super) fn array<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut String, T),
    ) -> &mut Self {
        self.key(key);
        self.out.push('[');
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push(',');
            }
            write(self.out, item);
        }
        self.out.push(']');
        self
    }
}

/// Writes a number. A number without JSON text becomes `null`, and `-0.00` becomes `0.00`.
pub(super) fn number(out: &mut String, value: f64, decimals: usize) {
    if !value.is_finite() {
        out.push_str("null");
        return;
    }
    let start = out.len();
    let _ = write!(out, "{value:.decimals$}");
    let is_negative_zero =
        out[start..].starts_with('-') && !out[start..].contains(|c: char| ('1'..='9').contains(&c));
    if is_negative_zero {
        out.remove(start);
    }
}

fn string(out: &mut String, value: &str) {
    // A string always serialises.
    out.push_str(&sonic_rs::to_string(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_written_in_order() {
        let mut out = String::new();
        let mut object = Object::begin(&mut out);
        object
            .number("price", 6850.25, 2)
            .number("zero", -0.001, 2)
            .number("small", -0.01, 2)
            .number("none", f64::NAN, 2)
            .integer("n", -3)
            .boolean("yes", true)
            .text("say", "a \"b\" \\ \u{1}")
            .text("null", None)
            .object("inner", |o| {
                o.integer("a", 1);
            })
            .array("list", [1.0, 2.5], |out, x| number(out, x, 1))
            .array("empty", [0.0; 0], |out, x| number(out, x, 1));
        object.end();
        assert_eq!(
            out,
            r#"{"price":6850.25,"zero":0.00,"small":-0.01,"none":null,"n":-3,"yes":true,"say":"a \"b\" \\ \u0001","null":null,"inner":{"a":1},"list":[1.0,2.5],"empty":[]}"#
        );
    }
}
