//! The predictions of a viewport: found by level id, written as `ml_predictions`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::bad_message::BadMessage;
use super::reader::{JsonKind, Reader, is_truthy, string};

/// A field of `ml_predictions`.
struct Row {
    key: &'static str,
    /// The key as in the output, after the comma.
    member: &'static str,
    /// The text of a field that the target lacks.
    default: &'static str,
}

macro_rules! row {
    ($key:literal, $default:literal) => {
        Row {
            key: $key,
            member: concat!(",\"", $key, "\":"),
            default: $default,
        }
    };
}

/// The fields of a viewport target that `ml_predictions` has, in the contract's order.
const PREDICTION: [Row; 10] = [
    row!("p_tradeable_2", "0.0"),
    row!("p_no_trade", "0.0"),
    row!("p_break", "0.0"),
    row!("p_bounce", "0.0"),
    row!("strength_signed", "0.0"),
    row!("strength_abs", "0.0"),
    row!("utility_score", "0.0"),
    row!("stage", "\"stage_a\""),
    row!("time_to_threshold", "{}"),
    row!("retrieval", "{}"),
];

/// A level's id as a value: escapes in a text and the notation of a number make no difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id<'a> {
    Text(Cow<'a, str>),
    /// Digits without zeros at either end, times ten to the exponent.
    Number {
        negative: bool,
        digits: String,
        exponent: i64,
    },
    True,
}

impl<'a> Id<'a> {
    /// Returns `None` for empty values (null, false, zero, the empty string), and for arrays and objects, which are not
    /// ids.
    fn of(raw: &'a str) -> Option<Self> {
        match JsonKind::of(raw) {
            _ if !is_truthy(raw) => None,
            JsonKind::String => Some(Self::Text(string(raw))),
            JsonKind::Number => Some(Self::number(raw)),
            JsonKind::True => Some(Self::True),
            _ => None,
        }
    }

    /// Returns a JSON number in a form in which equal numbers are the same, however they were written (`10`, `1e1`,
    /// `10.0`).
    fn number(raw: &str) -> Self {
        let (mantissa, exponent) = raw.split_once(['e', 'E']).unwrap_or((raw, "0"));
        // An exponent outside of i64 is as good as infinite, so all such exponents compare as equal.
        let exponent = exponent.parse().unwrap_or(i64::MAX / 2);
        let unsigned = mantissa.trim_start_matches('-');
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all = [whole, fraction].concat();
        let digits = all.trim_end_matches('0');
        // Each zero that was cut off raises the exponent by one, and each digit of the fraction lowers it by one.
        let shift = all.len() as i64 - digits.len() as i64 - fraction.len() as i64;
        Self::Number {
            negative: mantissa.starts_with('-'),
            digits: digits.trim_start_matches('0').to_owned(),
            exponent: exponent.saturating_add(shift),
        }
    }
}

/// The targets of a viewport by their level.
#[derive(Debug, Default)]
pub(super) struct Predictions<'a> {
    by_level: BTreeMap<Id<'a>, &'a str>,
}

impl<'a> Predictions<'a> {
    /// Reads the targets of a viewport and checks for the faults named in the contract.
    pub(super) fn read(viewport: &'a str) -> Result<Self, BadMessage> {
        if JsonKind::of(viewport) != JsonKind::Object && is_truthy(viewport) {
            return Err(BadMessage::wrong("viewport"));
        }
        let mut read = Ok(Self::default());
        Reader::new(viewport).object(|reader, key| {
            if key == "targets" {
                // Of repeated keys the last counts, its faults included.
                let start = reader.clone();
                read = Self::read_targets(reader);
                if read.is_err() {
                    *reader = start;
                    reader.value();
                }
            } else {
                reader.value();
            }
            Ok(())
        })?;
        read
    }

    /// Reads `targets`, an array of targets.
    ///
    /// # Errors
    /// `null`, a number or a boolean, which the contract calls bad. A text or an object is let through and
    /// has no targets: [`Reader::array`] finds no items in it.
    fn read_targets(reader: &mut Reader<'a>) -> Result<Self, BadMessage> {
        use JsonKind::{False, Null, Number, True};
        if matches!(reader.kind(), Null | True | False | Number) {
            return Err(BadMessage::wrong("viewport.targets"));
        }
        let mut read = Self::default();
        reader.array(|reader| {
            let target = Target::read(reader)?;
            if let Some(level_id) = target.level_id {
                read.by_level.insert(level_id, target.text);
            }
            Ok(())
        })?;
        Ok(read)
    }

    /// Appends `,"ml_predictions":{…}` when there is a target for the level with this id.
    pub(super) fn write_for(&self, id: Option<&str>, out: &mut Vec<u8>) -> Result<(), BadMessage> {
        if self.by_level.is_empty() {
            return Ok(());
        }
        let Some(target) = id.and_then(Id::of).and_then(|id| self.by_level.get(&id)) else {
            return Ok(());
        };
        let mut values = [None; PREDICTION.len()];
        Reader::new(target).object(|reader, key| {
            let value = reader.value();
            if let Some(row) = PREDICTION.iter().position(|row| row.key == key) {
                values[row] = Some(value);
            }
            Ok(())
        })?;
        out.extend_from_slice(b",\"ml_predictions\":");
        let start = out.len();
        for (row, value) in PREDICTION.iter().zip(values) {
            out.extend_from_slice(row.member.as_bytes());
            out.extend_from_slice(value.unwrap_or(row.default).as_bytes());
        }
        // The brace replaces the first row's comma.
        if let Some(comma) = out.get_mut(start) {
            *comma = b'{';
        }
        out.push(b'}');
        Ok(())
    }
}

/// A target of a viewport.
struct Target<'a> {
    /// `None` if it is empty. A value that is not an object has no id.
    level_id: Option<Id<'a>>,
    text: &'a str,
}

impl<'a> Target<'a> {
    /// Reads a target: its text, and the level that it is for. A list or an object as `level_id` is an error, unless it
    /// is empty.
    fn read(reader: &mut Reader<'a>) -> Result<Self, BadMessage> {
        let mut level_id = "null";
        let text = reader.object(|reader, key| {
            let value = reader.value();
            if key == "level_id" {
                level_id = value;
            }
            Ok(())
        })?;
        match JsonKind::of(level_id) {
            JsonKind::Array | JsonKind::Object if is_truthy(level_id) => {
                Err(BadMessage::wrong("level_id"))
            }
            _ => Ok(Self {
                level_id: Id::of(level_id),
                text,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_compare_by_value() {
        for (one, other) in [
            (r#""a""#, r#""\u0061""#),
            (r#""a/b""#, r#""a\/b""#),
            ("7", "7.0"),
            ("70", "7e1"),
            ("-0.5", "-5E-1"),
            ("1000", "1.000e+3"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890.0",
            ),
        ] {
            assert_eq!(Id::of(one), Id::of(other), "{one} {other}");
            assert!(Id::of(one).is_some());
        }
        for (one, other) in [
            (r#""a""#, r#""A""#),
            ("7", "\"7\""),
            ("1", "true"),
            ("\"true\"", "true"),
            ("7", "-7"),
            ("7", "70"),
            ("9007199254740993", "9007199254740992"),
            ("1e400", "1e401"),
        ] {
            assert_ne!(Id::of(one), Id::of(other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_empty_is_no_id() {
        for raw in ["null", "false", "0", "-0.0", "\"\"", "[]", "{}", "[1]"] {
            assert_eq!(Id::of(raw), None, "{raw}");
        }
        assert!(Id::of("1e99999999999999999999").is_some());
        assert!(Id::of("-1.5e-99999999999999999999").is_some());
    }
}
