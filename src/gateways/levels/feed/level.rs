//! A level: its fields, and the contract's table from fields to output.

use std::io::Write;

use super::bad_message::BadMessage;
use super::reader::{JsonKind, Reader, is_string, is_truthy};

/// Declares an enum of the fields to read, object by object: `Variant = "key"`.
///
/// The values of an object are then kept in an array that the enum indexes. Reading an object allocates nothing, and a
/// key repeated in the input overwrites its slot: the last counts.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($object:ident { $($field:ident = $key:literal,)* })* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name { $($($field,)*)* }

        impl $name {
            /// The number of fields.
            const COUNT: usize = [$($($name::$field,)*)*].len();

            $(
                #[doc = concat!("The field of the object `", stringify!($object), "` with this key.")]
                fn $object(key: &str) -> Option<Self> {
                    match key {
                        $($key => Some(Self::$field),)*
                        _ => None,
                    }
                }
            )*
        }
    };
}
fields! {
    /// The fields of a level, by object.
    Field {
        level {
            Id = "id",
            Price = "price",
            LevelKind = "kind",
            Direction = "direction",
            Distance = "distance",
            WallRatio = "wall_ratio",
            ApproachVelocity = "approach_velocity",
            ApproachBars = "approach_bars",
            ApproachDistance = "approach_distance",
            PriorTouches = "prior_touches",
            BreakScoreRaw = "break_score_raw",
            BreakScoreSmooth = "break_score_smooth",
            Signal = "signal",
            Confidence = "confidence",
            Note = "note",
            ConfluenceCount = "confluence_count",
            ConfluencePressure = "confluence_pressure",
            ConfluenceAlignment = "confluence_alignment",
            ConfluenceLevel = "confluence_level",
            ConfluenceLevelName = "confluence_level_name",
        }
        barrier {
            BarrierState = "state",
            BarrierDeltaLiq = "delta_liq",
            BarrierReplenishmentRatio = "replenishment_ratio",
            BarrierDepthInZone = "depth_in_zone",
        }
        tape {
            TapeImbalance = "imbalance",
            TapeVelocity = "velocity",
            TapeBuyVol = "buy_vol",
            TapeSellVol = "sell_vol",
        }
        sweep {
            SweepDetected = "detected",
        }
        fuel {
            FuelNetDealerGamma = "net_dealer_gamma",
            FuelEffect = "effect",
        }
    }
}

/// The rule from input to an output value.
enum Rule {
    /// The value's text, or the default when missing. `null` passes.
    Copy(Field, &'static str),
    /// The value's text; when missing or null, the text of the second field; then the default.
    CopyOr(Field, Field, &'static str),
    /// Replaces each first word by its second word; other values pass unchanged. The default when the value is not
    /// truthy.
    Map(Field, &'static [(&'static str, &'static str)], &'static str),
    /// Whether the value is truthy.
    Truth(Field),
    /// `wall_ratio`, or the ratio computed from the depth in the zone.
    WallRatio,
    /// From the session clock.
    IsFirst15m,
    /// From the session clock.
    BarsSinceOpen,
}

/// An output key, with the punctuation around the key, and its rule.
struct Row(&'static str, Rule);

macro_rules! row {
    ($key:literal, $rule:expr) => {
        Row(concat!(",\"", $key, "\":"), $rule)
    };
}

const DIRECTIONS: &[(&str, &str)] = &[("SUPPORT", "\"DOWN\""), ("RESISTANCE", "\"UP\"")];

const SIGNALS: &[(&str, &str)] = &[
    ("REJECT", "\"BOUNCE\""),
    ("CONTESTED", "\"NO_TRADE\""),
    ("NEUTRAL", "\"NO_TRADE\""),
];

/// The output of a level, key by key (publish-levels.md, "Keys of a level").
#[rustfmt::skip]
const TABLE: &[Row] = &[
    row!("id",                          Rule::Copy(Field::Id, "\"\"")),
    row!("level_price",                 Rule::Copy(Field::Price, "0.0")),
    row!("level_kind_name",             Rule::Copy(Field::LevelKind, "\"UNKNOWN\"")),
    row!("direction",                   Rule::Map(Field::Direction, DIRECTIONS, "\"UP\"")),
    row!("distance",                    Rule::Copy(Field::Distance, "0.0")),
    row!("is_first_15m",                Rule::IsFirst15m),
    row!("barrier_state",               Rule::Copy(Field::BarrierState, "\"NEUTRAL\"")),
    row!("barrier_delta_liq",           Rule::Copy(Field::BarrierDeltaLiq, "0.0")),
    row!("barrier_replenishment_ratio", Rule::Copy(Field::BarrierReplenishmentRatio, "0.0")),
    row!("wall_ratio",                  Rule::WallRatio),
    row!("tape_imbalance",              Rule::Copy(Field::TapeImbalance, "0.0")),
    row!("tape_velocity",               Rule::Copy(Field::TapeVelocity, "0.0")),
    row!("tape_buy_vol",                Rule::Copy(Field::TapeBuyVol, "0")),
    row!("tape_sell_vol",               Rule::Copy(Field::TapeSellVol, "0")),
    row!("sweep_detected",              Rule::Truth(Field::SweepDetected)),
    row!("gamma_exposure",              Rule::Copy(Field::FuelNetDealerGamma, "0.0")),
    row!("fuel_effect",                 Rule::Copy(Field::FuelEffect, "\"NEUTRAL\"")),
    row!("approach_velocity",           Rule::Copy(Field::ApproachVelocity, "0.0")),
    row!("approach_bars",               Rule::Copy(Field::ApproachBars, "0")),
    row!("approach_distance",           Rule::Copy(Field::ApproachDistance, "0.0")),
    row!("prior_touches",               Rule::Copy(Field::PriorTouches, "0")),
    row!("bars_since_open",             Rule::BarsSinceOpen),
    row!("break_score_raw",             Rule::Copy(Field::BreakScoreRaw, "0.0")),
    row!("break_score_smooth",          Rule::CopyOr(Field::BreakScoreSmooth, Field::BreakScoreRaw, "0.0")),
    row!("signal",                      Rule::Map(Field::Signal, SIGNALS, "\"CHOP\"")),
    row!("confidence",                  Rule::Copy(Field::Confidence, "\"LOW\"")),
    row!("note",                        Rule::Copy(Field::Note, "null")),
    row!("confluence_count",            Rule::Copy(Field::ConfluenceCount, "0")),
    row!("confluence_pressure",         Rule::Copy(Field::ConfluencePressure, "0.0")),
    row!("confluence_alignment",        Rule::Copy(Field::ConfluenceAlignment, "0")),
    row!("confluence_level",            Rule::Copy(Field::ConfluenceLevel, "0")),
    row!("confluence_level_name",       Rule::Copy(Field::ConfluenceLevelName, "\"UNDEFINED\"")),
];

/// An object within a level. A wrong type makes the message bad.
#[derive(Clone, Copy)]
enum LevelObject {
    Barrier,
    Tape,
    Sweep,
    Fuel,
}

impl LevelObject {
    /// The names in errors, in the order of the variants.
    const NAMES: [&str; 4] = ["barrier", "tape", "tape.sweep", "fuel"];

    /// Returns the object that a member of a level is by its key; `None` for other members. The sweep is not among
    /// these, because it is within the tape.
    fn in_level(key: &str) -> Option<Self> {
        match key {
            "barrier" => Some(Self::Barrier),
            "tape" => Some(Self::Tape),
            "fuel" => Some(Self::Fuel),
            _ => None,
        }
    }

    /// Returns the field that a member of this object is; `None` if the contract does not use the member.
    fn field(self, key: &str) -> Option<Field> {
        match self {
            Self::Barrier => Field::barrier(key),
            Self::Tape => Field::tape(key),
            Self::Sweep => Field::sweep(key),
            Self::Fuel => Field::fuel(key),
        }
    }
}

/// The fields of a level that depend on the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionContext {
    /// Within the first 15 minutes of the open.
    pub(super) is_first_15m: bool,
    /// Whole minutes since the open; 0 before the open, capped at the session's length.
    pub(super) bars_since_open: i64,
}

/// The raw values of a level.
#[derive(Debug)]
pub(super) struct Level<'a> {
    values: [Option<&'a str>; Field::COUNT],
    /// By [`LevelObject`]: whether the last value under the key is neither an object nor empty.
    wrong_parts: [bool; 4],
}

impl<'a> Level<'a> {
    /// Reads the next level of `reader` completely: any fault in the level makes the message bad.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, BadMessage> {
        let mut level = Self {
            values: [None; Field::COUNT],
            wrong_parts: [false; 4],
        };
        reader.object(|reader, key| {
            if let Some(part) = LevelObject::in_level(&key) {
                return level.read_part(part, reader);
            }
            let value = reader.value();
            if let Some(field) = Field::level(&key) {
                level.values[field as usize] = Some(value);
            }
            Ok(())
        })?;
        level.check()?;
        Ok(level)
    }

    /// Reads an object of a level in place of an earlier one of the same name. Any other value counts as an empty
    /// object, but makes the level bad if it is truthy.
    fn read_part(&mut self, part: LevelObject, reader: &mut Reader<'a>) -> Result<(), BadMessage> {
        self.clear_part(part);
        if reader.kind() != JsonKind::Object {
            self.wrong_parts[part as usize] = is_truthy(reader.value());
            return Ok(());
        }
        reader.object(|reader, key| {
            if matches!(part, LevelObject::Tape) && key == "sweep" {
                return self.read_part(LevelObject::Sweep, reader);
            }
            let value = reader.value();
            if let Some(field) = part.field(&key) {
                self.values[field as usize] = Some(value);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Forgets an earlier object under the same key; clearing a tape clears its sweep too.
    fn clear_part(&mut self, part: LevelObject) {
        // In `Field`, the fields of an object follow each other, and the sweep's those of the tape.
        let (first, last) = match part {
            LevelObject::Barrier => (Field::BarrierState, Field::BarrierDepthInZone),
            LevelObject::Tape => (Field::TapeImbalance, Field::SweepDetected),
            LevelObject::Sweep => (Field::SweepDetected, Field::SweepDetected),
            LevelObject::Fuel => (Field::FuelNetDealerGamma, Field::FuelEffect),
        };
        self.values[first as usize..=last as usize].fill(None);
        self.wrong_parts[part as usize] = false;
        if matches!(part, LevelObject::Tape) {
            self.wrong_parts[LevelObject::Sweep as usize] = false;
        }
    }

    /// Checks the types of what was read. It comes after the whole level, because a later member of the same name
    /// replaces a wrong one.
    fn check(&self) -> Result<(), BadMessage> {
        if let Some(part) = self.wrong_parts.iter().position(|&wrong| wrong) {
            return Err(BadMessage::wrong(LevelObject::NAMES[part]));
        }
        for (field, name) in [(Field::Id, "id"), (Field::Signal, "signal")] {
            if let Some(JsonKind::Array | JsonKind::Object) = self.value(field).map(JsonKind::of) {
                return Err(BadMessage::wrong(name));
            }
        }
        Ok(())
    }

    fn value(&self, field: Field) -> Option<&'a str> {
        self.values[field as usize]
    }

    fn value_not_null(&self, field: Field) -> Option<&'a str> {
        self.value(field)
            .filter(|&raw| JsonKind::of(raw) != JsonKind::Null)
    }

    pub(super) fn id(&self) -> Option<&'a str> {
        self.value(Field::Id)
    }

    /// Appends the level's output object, without the closing brace: predictions may follow.
    pub(super) fn write(
        &self,
        session: SessionContext,
        out: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        let start = out.len();
        for Row(key, rule) in TABLE {
            out.extend_from_slice(key.as_bytes());
            self.write_value(rule, session, out)?;
        }
        // The brace replaces the first row's comma.
        if let Some(comma) = out.get_mut(start) {
            *comma = b'{';
        }
        Ok(())
    }

    /// No level has fewer bytes in the output: the keys, and a byte for each value.
    pub(super) fn bytes_min() -> usize {
        TABLE.iter().map(|Row(key, _)| key.len() + 1).sum()
    }

    /// Writes the value of a member by its rule. Only the wall ratio can fail.
    fn write_value(
        &self,
        rule: &Rule,
        session: SessionContext,
        out: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        let text = match *rule {
            Rule::Copy(field, default) => self.value(field).unwrap_or(default),
            Rule::CopyOr(field, other, default) => self
                .value_not_null(field)
                .or_else(|| self.value(other))
                .unwrap_or(default),
            Rule::Map(field, words, default) => match self.value(field).filter(|r| is_truthy(r)) {
                Some(raw) => mapped(raw, words),
                None => default,
            },
            Rule::Truth(field) => bool_text(self.value(field).is_some_and(is_truthy)),
            Rule::IsFirst15m => bool_text(session.is_first_15m),
            Rule::BarsSinceOpen => {
                // Writing to a Vec cannot fail.
                let _ = write!(out, "{}", session.bars_since_open);
                return Ok(());
            }
            Rule::WallRatio => match self.value_not_null(Field::WallRatio) {
                Some(raw) => raw,
                None => return self.write_wall_ratio(out),
            },
        };
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Writes the ratio of a barrier that has none: the depth in the zone divided by 5,000. `true` counts as 1, and
    /// what is no number as 0.
    fn write_wall_ratio(&self, out: &mut Vec<u8>) -> Result<(), BadMessage> {
        let depth = self.value(Field::BarrierDepthInZone).unwrap_or("null");
        let ratio = match JsonKind::of(depth) {
            JsonKind::True => 1.0 / 5000.0,
            JsonKind::Number if is_truthy(depth) => {
                five_thousandth(depth).ok_or(BadMessage::DepthInZoneOutOfRange)?
            }
            _ => 0.0,
        };
        // The shortest text that reads back as the same double, always valid JSON when finite.
        let _ = write!(out, "{ratio:?}");
        Ok(())
    }
}

const fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn mapped<'a>(raw: &'a str, words: &[(&str, &'static str)]) -> &'a str {
    let word = words.iter().find(|(word, _)| is_string(raw, word));
    word.map_or(raw, |(_, output)| output)
}

/// A JSON number divided by 5000, as the nearest double; `None` when no double holds the number.
fn five_thousandth(number: &str) -> Option<f64> {
    let value: f64 = number.parse().ok().filter(|v: &f64| v.is_finite())?;
    let is_integer = number.bytes().all(|b| matches!(b, b'-' | b'0'..=b'9'));
    if is_integer && value.abs() >= 9_007_199_254_740_992.0 {
        // A double no longer holds every integer here, and rounding twice can miss the nearest double. n / 5000 = 2n /
        // 10000, which parsing rounds once.
        return (doubled(number) + "e-4").parse().ok();
    }
    Some(value / 5000.0)
}

/// Twice an integer of any length, in decimal.
fn doubled(integer: &str) -> String {
    let (sign, digits) = match integer.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", integer),
    };
    let mut reversed = String::with_capacity(digits.len() + 2);
    let mut carry = 0;
    for digit in digits.bytes().rev() {
        let twice = (digit - b'0') * 2 + carry;
        reversed.push(char::from(b'0' + twice % 10));
        carry = twice / 10;
    }
    if carry > 0 {
        reversed.push('1');
    }
    sign.chars().chain(reversed.chars().rev()).collect()
}

#[cfg(test)]
mod tests;
