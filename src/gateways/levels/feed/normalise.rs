//! Turns a `levels.signals` message into the object that clients get under `levels`. Has the session clock: the
//! position of a moment in the trading day of New York. At the end are the viewport's predictions: found by level id,
//! written as `ml_predictions`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use chrono::{DateTime, Duration, NaiveDate, NaiveTime, TimeZone};
use chrono_tz::America::New_York;

use super::level::{Level, SessionContext};
use super::reader::{BadMessage, JsonKind, Reader, is_truthy, string};
use weirgate_wire::json::check_json;

/// The largest output. A level of two bytes on the bus has some 900 with all its defaults, so the limit on bus messages
/// alone does not bound the output.
const NORMALISED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The largest good `ts` in both directions: as nanoseconds a larger `ts` does not fit 64 bits.
const TS_MS_MAX: i64 = 9_223_372_036_854;

/// From New York midnight to the open, in real time: on the days when the clocks change the open is at 8:30 or 10:30
/// (contract: "midnight plus 9.5 hours").
const OPEN_AFTER_MIDNIGHT_MS: i64 = 34_200_000;

const MINUTE_MS: i64 = 60_000;

const SPY_UNKNOWN: &str = r#"{"spot":null,"bid":null,"ask":null}"#;

/// Turns `levels.signals` messages into the output for clients (contract: "Normalisation"). Messages follow each other
/// within a day, so the day of the last message is kept, and the common case is two comparisons.
#[derive(Clone, Debug)]
pub struct Normaliser {
    session_length_min: i64,
    /// As [`day_of`].
    day: Range<i64>,
}

impl Normaliser {
    /// `session_length_min`: the maximum of `bars_since_open`.
    pub fn new(session_length_min: u32) -> Self {
        Self {
            session_length_min: i64::from(session_length_min),
            day: 0..0,
        }
    }

    /// The session context at `ts_ms` (Unix milliseconds); `None` outside of the calendar.
    fn session(&mut self, ts_ms: i64) -> Option<SessionContext> {
        if !self.day.contains(&ts_ms) {
            self.day = day_of(ts_ms)?;
        }
        let since_open_ms = ts_ms - self.day.start - OPEN_AFTER_MIDNIGHT_MS;
        Some(SessionContext {
            is_first_15m: (0..15 * MINUTE_MS).contains(&since_open_ms),
            bars_since_open: (since_open_ms.max(0) / MINUTE_MS).min(self.session_length_min),
        })
    }

    /// Appends the normalised `message` to `out` and returns the text of its `viewport`, if there is a viewport and not
    /// null. `now_unix_ms` replaces a missing or empty `ts`.
    ///
    /// # Errors
    /// The message is bad; `out` then holds a part of the output.
    pub fn normalise<'a>(
        &mut self,
        message: &'a [u8],
        now_unix_ms: i64,
        out: &mut Vec<u8>,
    ) -> Result<Option<&'a str>, BadMessage> {
        let message = LevelsMessage::read(check_json(message)?)?;
        let ts = Timestamp::read(message.ts, now_unix_ms)?;
        let session = self.session(ts.ms).ok_or(BadMessage::TsOutOfRange)?;
        let viewport = message.viewport.unwrap_or("null");
        let predictions = Predictions::read(viewport)?;

        out.extend_from_slice(b"{\"ts\":");
        out.extend_from_slice(ts.text.as_bytes());
        out.extend_from_slice(b",\"spy\":");
        out.extend_from_slice(message.spy.unwrap_or(SPY_UNKNOWN).as_bytes());
        message.instruments.write(out);
        out.extend_from_slice(b",\"levels\":[");
        if let Some(levels) = message.levels {
            write_levels(levels, session, &predictions, out)?;
        }
        out.extend_from_slice(b"]}");
        Ok(Some(viewport).filter(|text| JsonKind::of(text) != JsonKind::Null))
    }
}

fn write_levels<'a>(
    levels: &'a str,
    session: SessionContext,
    predictions: &Predictions<'a>,
    out: &mut Vec<u8>,
) -> Result<(), BadMessage> {
    let start = out.len();
    Reader::new(levels).array(|reader| {
        if reader.kind() != JsonKind::Object {
            reader.value();
            return Ok(());
        }
        if out.len() > start {
            out.push(b',');
        }
        let level = Level::read(reader)?;
        level.write(session, out)?;
        predictions.write_for(level.id(), out)?;
        out.push(b'}');
        if out.len() > NORMALISED_BYTES_MAX {
            return Err(BadMessage::NormalisedTooLarge {
                bytes_max: NORMALISED_BYTES_MAX,
            });
        }
        Ok(())
    })?;
    Ok(())
}

/// The top-level fields of a message; of a repeated key the last value.
struct LevelsMessage<'a> {
    ts: Option<&'a str>,
    /// Only an object.
    spy: Option<&'a str>,
    levels: Option<&'a str>,
    viewport: Option<&'a str>,
    instruments: Instruments<'a>,
}

impl<'a> LevelsMessage<'a> {
    fn read(message: &'a str) -> Result<Self, BadMessage> {
        let mut reader = Reader::new(message);
        if reader.kind() != JsonKind::Object {
            return Err(BadMessage::NotAnObject);
        }
        let (mut ts, mut spy, mut levels, mut viewport) = (None, None, None, None);
        let mut instruments = Instruments::default();
        reader.object(|reader, key| {
            let value = reader.value();
            match &*key {
                "ts" => ts = Some(value),
                "spy" => spy = Some(value),
                "levels" => levels = Some(value),
                "viewport" => viewport = Some(value),
                "flow" => {}
                _ => instruments.read(key, value)?,
            }
            Ok(())
        })?;
        instruments.find_places(message)?;
        Ok(Self {
            ts,
            spy: spy.filter(|text| JsonKind::of(text) == JsonKind::Object),
            levels: levels.map_or(Ok(None), levels_array)?,
            viewport,
            instruments,
        })
    }
}

/// The array of levels: the value itself or, if it is an object, the array under its key `levels`. Deeper ones are not
/// looked for.
fn levels_array(levels: &str) -> Result<Option<&str>, BadMessage> {
    match JsonKind::of(levels) {
        JsonKind::Array => return Ok(Some(levels)),
        JsonKind::Object => {}
        JsonKind::String => return Ok(None),
        JsonKind::Null | JsonKind::True | JsonKind::False | JsonKind::Number => {
            return Err(BadMessage::wrong("levels"));
        }
    }
    let mut nested = None;
    Reader::new(levels).object(|reader, key| {
        let value = reader.value();
        if key == "levels" {
            nested = Some(value);
        }
        Ok(())
    })?;
    Ok(nested.filter(|nested| JsonKind::of(nested) == JsonKind::Array))
}

/// Instruments other than `spy`: objects with a `spot`, in the order in which their keys came first.
#[derive(Default)]
struct Instruments<'a> {
    /// With the place in the order, once known.
    by_key: BTreeMap<Cow<'a, str>, (usize, &'a str)>,
}

impl<'a> Instruments<'a> {
    fn read(&mut self, key: Cow<'a, str>, text: &'a str) -> Result<(), BadMessage> {
        let mut has_spot = false;
        Reader::new(text).object(|reader, key| {
            reader.value();
            has_spot |= key == "spot";
            Ok(())
        })?;
        if has_spot {
            self.by_key.insert(key, (usize::MAX, text));
        } else if !self.by_key.is_empty() {
            // The last value under a key counts, and this value is not an instrument.
            self.by_key.remove(&key);
        }
        Ok(())
    }

    /// Finds the place of each instrument in the output: the order in which the keys first occur. The first value of a
    /// repeated key may have been no instrument, so several instruments need a second pass over all keys.
    fn find_places(&mut self, message: &'a str) -> Result<(), BadMessage> {
        if self.by_key.len() < 2 {
            return Ok(());
        }
        let mut found = 0;
        Reader::new(message).object(|reader, key| {
            reader.value();
            if let Some((place, _)) = self.by_key.get_mut(&key)
                && *place == usize::MAX
            {
                *place = found;
                found += 1;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut in_order: Vec<_> = self.by_key.iter().collect();
        in_order.sort_unstable_by_key(|(_, (place, _))| *place);
        for (key, (_, text)) in in_order {
            out.push(b',');
            write_string(key, out);
            out.push(b':');
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Appends `text` as a JSON string.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        // Writing to a Vec cannot fail.
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\0'..='\x1f' => write!(out, "\\u{:04x}", u32::from(c)),
            _ => write!(out, "{c}"),
        };
    }
    out.push(b'"');
}

/// The time of a message: the text, and the milliseconds for the session clock.
struct Timestamp<'a> {
    text: Cow<'a, str>,
    ms: i64,
}

impl<'a> Timestamp<'a> {
    fn read(ts: Option<&'a str>, now_unix_ms: i64) -> Result<Self, BadMessage> {
        let Some(text) = ts.filter(|text| is_truthy(text)) else {
            return Ok(Self {
                text: now_unix_ms.to_string().into(),
                ms: now_unix_ms,
            });
        };
        if JsonKind::of(text) != JsonKind::Number {
            return Err(BadMessage::wrong("ts"));
        }
        let ms = match text.parse::<i64>() {
            Ok(ms) => Some(ms).filter(|ms| (-TS_MS_MAX..=TS_MS_MAX).contains(ms)),
            // A fraction or an exponent: cut to whole milliseconds toward zero, as in the replaced gateway. A double
            // holds every integer of this size, so the cut is exact.
            Err(_) => {
                let ms = text.parse().ok();
                ms.filter(|ms: &f64| ms.abs() <= TS_MS_MAX as f64)
                    .map(|ms| ms as i64)
            }
        };
        Ok(Self {
            text: text.into(),
            ms: ms.ok_or(BadMessage::TsOutOfRange)?,
        })
    }
}

/// The day in New York that contains this moment, from midnight up to the next midnight, Unix milliseconds; `None`
/// outside of the calendar.
fn day_of(ts_ms: i64) -> Option<Range<i64>> {
    let date = DateTime::from_timestamp_millis(ts_ms)?
        .with_timezone(&New_York)
        .date_naive();
    Some(midnight_ms(date)?..midnight_ms(date.succ_opt()?)?)
}

fn midnight_ms(date: NaiveDate) -> Option<i64> {
    let midnight = date.and_time(NaiveTime::MIN);
    // New York changes its clocks at 2:00, so midnight exists once. Should that ever change, the first of two midnights
    // counts, and for a midnight within a gap the end of the gap.
    let local = New_York.from_local_datetime(&midnight).earliest();
    let local = local.or_else(|| {
        New_York
            .from_local_datetime(&(midnight + Duration::hours(1)))
            .earliest()
    });
    Some(local?.timestamp_millis())
}

macro_rules! row {
    ($key:literal, $default:literal) => {
        ($key, concat!(",\"", $key, "\":"), $default)
    };
}

/// The fields of a viewport target that `ml_predictions` has, in the contract's order: the key, the key with the
/// punctuation around, and the default.
const PREDICTION: [(&str, &str, &str); 10] = [
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

    fn number(raw: &str) -> Self {
        let (mantissa, exponent) = raw.split_once(['e', 'E']).unwrap_or((raw, "0"));
        // An exponent outside of i64 is as good as infinite, so all such exponents compare as equal.
        let exponent = exponent.parse().unwrap_or(i64::MAX / 2);
        let unsigned = mantissa.trim_start_matches('-');
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all = [whole, fraction].concat();
        let digits = all.trim_end_matches('0');
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
struct Predictions<'a> {
    by_level: BTreeMap<Id<'a>, &'a str>,
}

impl<'a> Predictions<'a> {
    /// Reads the targets of a viewport and checks for the faults named in the contract.
    fn read(viewport: &'a str) -> Result<Self, BadMessage> {
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

    fn read_targets(reader: &mut Reader<'a>) -> Result<Self, BadMessage> {
        match reader.kind() {
            JsonKind::Null | JsonKind::True | JsonKind::False | JsonKind::Number => {
                return Err(BadMessage::wrong("viewport.targets"));
            }
            JsonKind::String | JsonKind::Array | JsonKind::Object => {}
        }
        let mut read = Self::default();
        reader.array(|reader| {
            let (level_id, target) = read_target(reader)?;
            if let Some(level_id) = level_id {
                read.by_level.insert(level_id, target);
            }
            Ok(())
        })?;
        Ok(read)
    }

    /// Appends `,"ml_predictions":{…}` when there is a target for the level with this id.
    fn write_for(&self, id: Option<&str>, out: &mut Vec<u8>) -> Result<(), BadMessage> {
        if self.by_level.is_empty() {
            return Ok(());
        }
        let Some(target) = id.and_then(Id::of).and_then(|id| self.by_level.get(&id)) else {
            return Ok(());
        };
        let mut values = [None; PREDICTION.len()];
        Reader::new(target).object(|reader, key| {
            let value = reader.value();
            if let Some(row) = PREDICTION.iter().position(|(field, ..)| *field == key) {
                values[row] = Some(value);
            }
            Ok(())
        })?;
        out.extend_from_slice(b",\"ml_predictions\":");
        let start = out.len();
        for ((_, key, default), value) in PREDICTION.iter().zip(values) {
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value.unwrap_or(default).as_bytes());
        }
        // The brace replaces the first row's comma.
        if let Some(comma) = out.get_mut(start) {
            *comma = b'{';
        }
        out.push(b'}');
        Ok(())
    }
}

/// The non-empty `level_id` of a target, and the target's text. A value that is not an object has no id.
fn read_target<'a>(reader: &mut Reader<'a>) -> Result<(Option<Id<'a>>, &'a str), BadMessage> {
    let mut level_id = "null";
    let target = reader.object(|reader, key| {
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
        _ => Ok((Id::of(level_id), target)),
    }
}

#[cfg(test)]
mod tests;
