//! The JSON messages of the two subjects. They are written key by key, so that the same seed gives the same order of
//! keys and number of decimals.

use super::level::{Level, REACH};
use super::spot::{OPEN, Spot};
use super::tape::Tape;
use weirgate_wire::json::ObjectWriter;

/// Levels within this distance of each other count as a confluence, in points.
const CONFLUENCE: f64 = 2.5;

/// Writes `levels.signals` (docs/reference/publish-levels.md).
pub(super) fn levels_signals(unix_ms: i64, spot: &Spot, tape: &Tape, levels: &[Level]) -> String {
    let described = levels.iter().enumerate().map(|(i, level)| {
        let mut o = describe(level, tape);
        confluence(&mut o, level, levels);
        o.object("runway", runway(level, levels, i));
        o.maybe_string("note", level.note());
        o.finish()
    });
    let targets = levels.iter().filter(|l| l.distance <= REACH * 1.5);
    let mut viewport = ObjectWriter::new();
    viewport.number("ts", unix_ms);
    viewport.array("targets", targets.map(target));
    let mut message = ObjectWriter::new();
    message.number("ts", unix_ms);
    let [last, bid, ask] = [spot.last(), spot.bid(), spot.ask()];
    // A share of the ETF is worth about a tenth of the index.
    message.object("spy", quote([last, bid, ask].map(|points| points / 10.0)));
    message.object("es", quote([last, bid, ask]));
    message.array("levels", described);
    message.object("viewport", viewport);
    message.finish()
}

fn quote([spot, bid, ask]: [f64; 3]) -> ObjectWriter {
    let mut o = ObjectWriter::new();
    o.decimal("spot", spot, 2);
    o.decimal("bid", bid, 2);
    o.decimal("ask", ask, 2);
    o
}

/// Returns a level as an item of `levels.signals`, without the members that depend on the other levels.
fn describe(level: &Level, tape: &Tape) -> ObjectWriter {
    let direction = if level.is_support {
        "SUPPORT"
    } else {
        "RESISTANCE"
    };
    let mut o = ObjectWriter::new();
    o.string("id", &level.id);
    o.decimal("price", level.price, 2);
    o.string("kind", level.kind);
    o.string("direction", direction);
    o.decimal("distance", level.distance, 2);
    o.decimal("break_score_raw", level.score_raw, 1);
    o.decimal("break_score_smooth", level.score_smooth, 1);
    o.string("signal", level.signal);
    o.string("confidence", level.confidence());
    o.object("barrier", barrier(level));
    o.object("tape", traded(level, tape));
    let mut fuel = ObjectWriter::new();
    fuel.string("effect", level.fuel_effect());
    fuel.decimal("net_dealer_gamma", level.gamma, 1);
    o.object("fuel", fuel);
    o.decimal("approach_velocity", level.approach_velocity, 4);
    o.number("approach_bars", (level.approach_s / 60.0) as i64);
    o.decimal("approach_distance", level.approach_distance(), 2);
    o.number("prior_touches", level.touches);
    o
}

fn barrier(level: &Level) -> ObjectWriter {
    let barrier = &level.barrier;
    let mut o = ObjectWriter::new();
    o.string("state", barrier.state);
    o.decimal("delta_liq", barrier.delta_liq(), 1);
    o.decimal("replenishment_ratio", barrier.replenishment_ratio(), 3);
    o.number("added", barrier.added as i64);
    o.number("canceled", barrier.canceled as i64);
    o.number("filled", barrier.filled as i64);
    o.decimal("churn", barrier.added + barrier.canceled, 1);
    o.number("depth_in_zone", barrier.depth as i64);
    o
}

/// Returns the member `tape` of a level. The volumes are a share of those of the whole market, and a sweep is reported
/// only if it reaches the level.
fn traded(level: &Level, tape: &Tape) -> ObjectWriter {
    let mut sweep = ObjectWriter::new();
    match tape.sweep.filter(|_| level.is_swept(tape)) {
        Some(swept) => {
            sweep.boolean("detected", true);
            sweep.string("direction", if swept.up { "UP" } else { "DOWN" });
            sweep.decimal("notional", swept.notional, 1);
            sweep.number("num_prints", swept.prints);
            sweep.decimal("window_ms", 250.0, 1);
        }
        None => {
            sweep.boolean("detected", false);
            sweep.string("direction", "NONE");
            sweep.decimal("notional", 0.0, 1);
        }
    }
    // The nearer the level, the larger its share of the window's volume.
    let share = 0.05 + 0.95 * level.proximity();
    let mut o = ObjectWriter::new();
    o.decimal("imbalance", level.imbalance, 3);
    o.number("buy_vol", (tape.buy_window * share) as i64);
    o.number("sell_vol", (tape.sell_window * share) as i64);
    o.decimal("velocity", level.approach_velocity, 4);
    o.object("sweep", sweep);
    o
}

/// Adds the members about other levels within [`CONFLUENCE`] points of this one. The formulas are made up.
fn confluence(o: &mut ObjectWriter, level: &Level, levels: &[Level]) {
    let near =
        |other: &&Level| other.id != level.id && (other.price - level.price).abs() <= CONFLUENCE;
    let count = levels.iter().filter(near).count() as i64;
    let agreeing = levels
        .iter()
        .filter(near)
        .filter(|l| l.signal == level.signal)
        .count() as i64;
    let pressure = 1.0 - (-0.45 * count as f64 * (0.5 + level.barrier.ratio() / 2.0)).exp();
    // A level with a name counts for one more than a strike.
    let rank = (count * 2 + level.touches.min(3) + i64::from(level.kind != "STRIKE")).min(10);
    let name = match rank {
        0 => "UNDEFINED",
        1 | 2 => "CONSOLIDATION",
        3 | 4 => "MODERATE",
        5 | 6 => "STRONG",
        7 | 8 => "PREMIUM",
        _ => "ULTRA_PREMIUM",
    };
    o.number("confluence_count", count);
    o.decimal("confluence_pressure", pressure, 3);
    o.number("confluence_alignment", (2 * agreeing - count).signum());
    o.number("confluence_level", rank);
    o.string("confluence_level_name", name);
}

/// The next level if the market breaks this level. `levels` are sorted by price.
fn runway(level: &Level, levels: &[Level], position: usize) -> ObjectWriter {
    let next = if level.is_support {
        position.checked_sub(1).and_then(|i| levels.get(i))
    } else {
        levels.get(position + 1)
    };
    let mut o = ObjectWriter::new();
    o.string("direction", if level.is_support { "DOWN" } else { "UP" });
    o.maybe_string("next_level_id", next.map(|l| l.id.as_str()));
    if let Some(next) = next {
        let distance = (next.price - level.price).abs();
        let is_clear = distance >= 3.0;
        o.decimal("next_level_price", next.price, 2);
        o.decimal("distance", distance, 2);
        o.string("quality", if is_clear { "CLEAR" } else { "OBSTRUCTED" });
    }
    o
}

/// Returns a level near the spot, with what a model would predict for it. The numbers are made up: from the score, and
/// from the distance.
fn target(level: &Level) -> String {
    let p_break = 1.0 / (1.0 + (-(level.score_smooth - 50.0) / 13.0).exp());
    let p_tradeable = 0.12 + 0.8 * level.proximity();
    let utility = p_tradeable * (2.0 * p_break - 1.0).abs();
    let strength = (2.0 * p_break - 1.0) * 3.0 * level.outward();
    let is_near = level.distance < REACH / 2.0;
    // The probability of reaching a threshold within so many seconds. The second threshold is farther away.
    let within = |seconds: f64| (1.0 - (-seconds * level.proximity() / 60.0).exp()) * 0.95;
    let mut times = ObjectWriter::new();
    for (threshold, scale) in [("t1", 1.0), ("t2", 0.55)] {
        let mut o = ObjectWriter::new();
        o.decimal("60", within(60.0 * scale), 3);
        o.decimal("120", within(120.0 * scale), 3);
        times.object(threshold, o);
    }
    let mut retrieval = ObjectWriter::new();
    retrieval.decimal("p_break", 0.5 + (p_break - 0.5) * 0.8, 3);
    retrieval.decimal("similarity", 0.55 + 0.4 * level.proximity(), 3);
    retrieval.decimal("entropy", 4.0 * p_break * (1.0 - p_break), 3);
    retrieval.number("n_neighbors", 20 + (40.0 * level.proximity()) as i64);
    retrieval.string("feature_set", "geometry_only");
    let mut o = ObjectWriter::new();
    o.string("level_id", &level.id);
    o.decimal("level_price", level.price, 2);
    o.string("direction", if level.is_support { "DOWN" } else { "UP" });
    o.decimal("distance", level.distance, 2);
    o.decimal("p_tradeable_2", p_tradeable, 3);
    o.decimal("p_no_trade", 1.0 - p_tradeable, 3);
    o.decimal("p_break", p_break, 3);
    o.decimal("p_bounce", 1.0 - p_break, 3);
    o.decimal("strength_signed", strength, 3);
    o.decimal("strength_abs", strength.abs(), 3);
    o.decimal("utility_score", utility, 3);
    o.string("stage", if is_near { "stage_b" } else { "stage_a" });
    o.object("time_to_threshold", times);
    o.object("retrieval", retrieval);
    o.finish()
}

/// `market.flow`: volumes, the top of the book, the last trades, gamma by strike.
pub(super) fn market_flow(
    unix_ms: i64,
    spot: &Spot,
    tape: &Tape,
    vwap: f64,
    levels: &[Level],
) -> String {
    let side = |is_bid| {
        let prices = tape.book(spot, is_bid).into_iter();
        prices.map(|(price, size)| format!("[{price:.2},{size:.0}]"))
    };
    let mut book = ObjectWriter::new();
    book.array("bids", side(true));
    book.array("asks", side(false));
    let trades = tape.trades.iter().map(|trade| {
        let mut o = ObjectWriter::new();
        o.number("ts", trade.unix_ms);
        o.decimal("price", trade.price, 2);
        o.number("size", trade.size);
        o.string("side", if trade.buy { "BUY" } else { "SELL" });
        o.finish()
    });
    let mut gamma = ObjectWriter::new();
    // Only near levels, so that many levels do not make a large message.
    let is_near = |l: &&Level| l.kind == "STRIKE" && l.distance < 30.0;
    for level in levels.iter().filter(is_near) {
        gamma.decimal(&format!("{:.0}", level.price), level.gamma, 0);
    }
    let mut o = ObjectWriter::new();
    o.number("ts", unix_ms);
    o.string("symbol", "ES");
    o.decimal("last", spot.last(), 2);
    o.decimal("change", spot.last() - OPEN, 2);
    o.decimal("vwap", vwap, 2);
    o.number("volume", (tape.buy_session + tape.sell_session) as i64);
    o.number("buy_vol", tape.buy_window as i64);
    o.number("sell_vol", tape.sell_window as i64);
    o.number("delta", (tape.buy_window - tape.sell_window) as i64);
    o.number("cvd", (tape.buy_session - tape.sell_session) as i64);
    o.decimal("imbalance", tape.imbalance, 3);
    o.decimal("velocity", spot.velocity, 4);
    o.object("book", book);
    o.array("trades", trades);
    o.object("gamma_by_strike", gamma);
    o.finish()
}
