//! Turns a `levels.signals` message into the object that clients get under `levels`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;

use super::bad_message::BadMessage;
use super::level::{Level, SessionContext};
use super::predictions::Predictions;
use super::reader::{JsonKind, Reader, is_truthy};
use super::session_clock::SessionClock;
use weirgate_wire::json::Json;

/// The largest output. A level of two bytes on the bus has some 900 with all its defaults, so the limit on bus messages
/// alone does not bound the output.
const NORMALISED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The largest good `ts` in both directions: as nanoseconds a larger `ts` does not fit 64 bits.
const TS_MS_MAX: i64 = 9_223_372_036_854;

/// What clients get for a message without a `spy`.
const SPY_UNKNOWN: &str = r#"{"spot":null,"bid":null,"ask":null}"#;

/// Turns `levels.signals` messages into the output for clients (publish-levels.md, "Price levels").
#[derive(Clone, Debug)]
pub struct Normaliser {
    clock: SessionClock,
}

impl Normaliser {
    /// `session_length_min`: the maximum of `bars_since_open`.
    pub fn new(session_length_min: u32) -> Self {
        let clock = SessionClock::new(session_length_min);
        Self { clock }
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
        let message = LevelsMessage::read(Json::check(message)?)?;
        let ts = Timestamp::read(message.ts, now_unix_ms)?;
        let session = self.clock.at(ts.ms).ok_or(BadMessage::TsOutOfRange)?;
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

/// Returns an error if there are so many levels that the shortest of them alone would be over the limit: they are counted in
/// far less time than they are written in.
fn refuse_too_many(levels: &str) -> Result<(), BadMessage> {
    let levels_max = NORMALISED_BYTES_MAX / Level::bytes_min();
    // A level has at least two bytes, and a comma or the bracket after it.
    if levels.len() / 3 <= levels_max {
        return Ok(());
    }
    let mut count = 0;
    Reader::new(levels).array(|reader| {
        count += usize::from(reader.kind() == JsonKind::Object);
        reader.value();
        if count > levels_max {
            return Err(BadMessage::NormalisedTooLarge {
                bytes_max: NORMALISED_BYTES_MAX,
            });
        }
        Ok(())
    })?;
    Ok(())
}

/// Writes the levels of the list, with commas between them. Entries that are not objects are left out. A bad level, too
/// many of them or too long a result is an error.
fn write_levels<'a>(
    levels: &'a str,
    session: SessionContext,
    predictions: &Predictions<'a>,
    out: &mut Vec<u8>,
) -> Result<(), BadMessage> {
    refuse_too_many(levels)?;
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
    /// Reads the members of a message. A member without a meaning in the contract is an instrument; a `spy` that is no
    /// object counts as missing.
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
                // Never an instrument: clients get `flow` from `market.flow`.
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

/// The array of levels: the value itself or, if it is an object, the array under its key `levels`; deeper ones are not
/// looked for. `None`, an empty list for clients: a text, or an object without such an array. The replaced gateway iterates
/// over the value: in a text it finds no level, at a number it fails (vector `p10_levels_wrong_type`).
///
/// # Errors
/// The value is `null`, a boolean or a number.
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
    by_key: BTreeMap<Cow<'a, str>, Instrument<'a>>,
}

struct Instrument<'a> {
    /// The place in the order; `usize::MAX` until it is found.
    place: usize,
    text: &'a str,
}

impl<'a> Instruments<'a> {
    /// Takes a field of the message, which may be no instrument.
    fn read(&mut self, key: Cow<'a, str>, text: &'a str) -> Result<(), BadMessage> {
        let mut has_spot = false;
        Reader::new(text).object(|reader, key| {
            reader.value();
            has_spot |= key == "spot";
            Ok(())
        })?;
        if has_spot {
            let place = usize::MAX;
            self.by_key.insert(key, Instrument { place, text });
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
            if let Some(instrument) = self.by_key.get_mut(&key)
                && instrument.place == usize::MAX
            {
                instrument.place = found;
                found += 1;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Writes the instruments as members, in the order of the message, with a comma before each.
    fn write(&self, out: &mut Vec<u8>) {
        let mut in_order: Vec<_> = self.by_key.iter().collect();
        in_order.sort_unstable_by_key(|(_, instrument)| instrument.place);
        for (key, instrument) in in_order {
            out.push(b',');
            write_string(key, out);
            out.push(b':');
            out.extend_from_slice(instrument.text.as_bytes());
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
    /// Reads the time of the message, Unix milliseconds. Without one, and for 0 and other values that are not truthy,
    /// it is `now_unix_ms`.
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

#[cfg(test)]
mod tests;
