//! The simulated market: its parts, and how they move together.

use super::level::Level;
use super::messages;
use super::spot::{OPEN, Spot, TICK, Tape};
use crate::base::SplitMix64;

/// The most levels of a market.
pub(super) const LEVELS_MAX: usize = 1_000;
/// Points between strikes.
const STRIKE_STEP: f64 = 5.0;
/// A shown level stays until another is nearer by this distance, in points.
const STAY: f64 = 4.0;
/// The advantage in distance of a level that is not a strike, in points.
const NAMED: f64 = 9.0;
/// The longest step between two clock values, in seconds: after a pause the market continues from its
/// last state.
const STEP_MAX_S: f64 = 1.0;

/// The settings of a simulated market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedSettings {
    /// The number of levels in a message, clamped to 1 to 1,000.
    pub levels: usize,
    /// The same seed and the same clock values give the same texts.
    pub seed: u64,
}

/// A plausible session of the ES future, as the JSON texts of the subjects `levels.signals` and
/// `market.flow` (the input side of the levels contract). Pure: no clock, no randomness except the
/// seed. Floating-point functions of the platform are used, so texts of the same seed may
/// differ between platforms in their last digit.
#[derive(Clone, Debug)]
pub struct SimulatedMarket {
    levels_shown: usize,
    random: SplitMix64,
    last_unix_ms: Option<i64>,
    spot: Spot,
    tape: Tape,
    vwap: f64,
    /// Sorted by price.
    levels: Vec<Level>,
}

/// A possible level.
struct Candidate {
    kind: &'static str,
    price: f64,
}

impl Candidate {
    fn id(&self) -> String {
        match self.kind {
            "STRIKE" => format!("STRIKE_{:.0}", self.price),
            kind => kind.to_owned(),
        }
    }
}

impl SimulatedMarket {
    /// A market just before its first message.
    pub fn new(settings: SimulatedSettings) -> Self {
        let mut random = SplitMix64::new(settings.seed);
        let spot = Spot::new(&mut random);
        let tape = Tape::new(&mut random);
        Self {
            levels_shown: settings.levels.clamp(1, LEVELS_MAX),
            random,
            last_unix_ms: None,
            spot,
            tape,
            vwap: OPEN - 1.5,
            levels: Vec::new(),
        }
    }

    /// Advances to `unix_ms` (Unix milliseconds) and writes the `levels.signals` message of that
    /// moment. Nothing moves if the clock has stopped or goes back.
    pub fn levels_signals(&mut self, unix_ms: i64) -> Vec<u8> {
        self.advance(unix_ms);
        messages::levels_signals(unix_ms, &self.spot, &self.tape, &self.levels).into_bytes()
    }

    /// Advances to `unix_ms` (Unix milliseconds) and writes the `market.flow` message of that
    /// moment.
    pub fn market_flow(&mut self, unix_ms: i64) -> Vec<u8> {
        self.advance(unix_ms);
        messages::market_flow(unix_ms, &self.spot, &self.tape, self.vwap, &self.levels).into_bytes()
    }

    /// Advances to `unix_ms` (Unix milliseconds) without writing anything.
    pub(super) fn advance(&mut self, unix_ms: i64) {
        let last = self.last_unix_ms.replace(unix_ms);
        let gap_s = last.map_or(0.0, |at| unix_ms.saturating_sub(at) as f64 / 1_000.0);
        let dt_s = gap_s.clamp(0.0, STEP_MAX_S);
        self.spot
            .advance(dt_s, self.tape.imbalance, &mut self.random);
        self.tape
            .advance(dt_s, unix_ms, &self.spot, &mut self.random);
        self.vwap += (self.spot.last() - self.vwap) * (dt_s / 600.0);
        self.choose_levels();
        for level in &mut self.levels {
            level.advance(dt_s, &self.spot, &self.tape, &mut self.random);
        }
    }

    /// Keeps the nearest candidates: levels leave as the spot moves away and others appear. A level that
    /// stays keeps its state, and gets the candidate's new price.
    fn choose_levels(&mut self) {
        let spot = self.spot.last();
        let mut ranked: Vec<(f64, Candidate, Option<usize>)> = self
            .candidates()
            .into_iter()
            .map(|candidate| {
                let shown = self.position(&candidate);
                let named = if candidate.kind == "STRIKE" {
                    0.0
                } else {
                    NAMED
                };
                let stay = if shown.is_some() { STAY } else { 0.0 };
                (
                    (candidate.price - spot).abs() - named - stay,
                    candidate,
                    shown,
                )
            })
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.truncate(self.levels_shown);
        let mut old: Vec<Option<Level>> = self.levels.drain(..).map(Some).collect();
        for (_, candidate, shown) in ranked {
            let kept = shown.and_then(|i| old.get_mut(i)).and_then(Option::take);
            let level = match kept {
                Some(mut level) => {
                    level.price = candidate.price;
                    level
                }
                None => self.appear(&candidate),
            };
            self.levels.push(level);
        }
        self.levels
            .sort_by(|a, b| a.price.total_cmp(&b.price).then_with(|| a.id.cmp(&b.id)));
    }

    fn appear(&mut self, candidate: &Candidate) -> Level {
        let id = candidate.id();
        let mut level = Level::new(id, candidate.kind, candidate.price, &mut self.random);
        level.settle(self.spot.last());
        level
    }

    fn position(&self, candidate: &Candidate) -> Option<usize> {
        let strike = candidate.kind == "STRIKE";
        self.levels
            .iter()
            .position(|l| l.kind == candidate.kind && (!strike || l.price == candidate.price))
    }

    fn candidates(&self) -> Vec<Candidate> {
        let on_grid = |price: f64| (price / TICK).round() * TICK;
        let named = [
            ("PM_HIGH", OPEN + 17.25),
            ("PM_LOW", OPEN - 21.5),
            ("OR_HIGH", OPEN + 6.5),
            ("OR_LOW", OPEN - 7.25),
            ("PRIOR_CLOSE", OPEN + 2.25),
            ("SESSION_HIGH", self.spot.session_high),
            ("SESSION_LOW", self.spot.session_low),
            ("VWAP", on_grid(self.vwap)),
            ("SMA_200", on_grid(self.spot.slow_mean)),
        ];
        let middle = (self.spot.last() / STRIKE_STEP).round();
        let each_side = self.levels_shown as i32 / 2 + 2;
        let strikes =
            (-each_side..=each_side).map(|i| ("STRIKE", (middle + f64::from(i)) * STRIKE_STEP));
        named
            .into_iter()
            .chain(strikes)
            .map(|(kind, price)| Candidate { kind, price })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

    use super::*;

    /// 2024-05-14 10:00 in New York.
    const START_UNIX_MS: i64 = 1_715_695_200_000;

    const SETTINGS: SimulatedSettings = SimulatedSettings {
        levels: 12,
        seed: 42,
    };

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
            // Texts take most of the time here: of twenty steps one is written and read in full.
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
}
