//! JSON: the only gate for JSON from outside, whether from the bus, services, clients, tokens or files. [`ObjectWriter`]
//! writes JSON.
//!
//! sonic-rs parses and skips values by recursion, so a few kilobytes of `[` would overflow the stack and end the
//! process. Only this file calls its parsers (`clippy.toml` and `scripts/tidy.py` refuse them elsewhere), and always
//! after `check_depth`. When sonic-rs skips a value, it also skips the four bytes after `\u` unread, even a quote, so
//! brackets after such an escape could look like part of a string. This is why the escapes are checked first, too.
//! Iterating over an object, sonic-rs accepts bytes after its end; [`Json::check`] and [`Json::object_entries`] refuse
//! them.
//!
//! serde_json, which tests and tools use, limits nesting to 128 levels; the JSON parser of the crate `nats` to 512.

#![cfg_attr(not(test), allow(clippy::disallowed_methods))]

mod list;
mod unicode;
mod writer;

use std::borrow::Cow;

use memchr::memchr;
use sonic_rs::{Deserialize, JsonValueTrait, LazyValue, ObjectJsonIter, Value};

pub use self::list::{ListWriter, NotAList, TextList};
pub use self::writer::{ObjectWriter, quoted};

/// How deep JSON may nest.
pub(crate) const JSON_DEPTH_MAX: usize = 512;

/// A client's request to any gateway may have this many values.
const VALUES_MAX: usize = 131_072;
/// The most escapes of a client's request: three quarters of what 2 MiB of `\u4e00` have.
const ESCAPES_MAX: usize = 262_144;

/// Why a text is not the expected JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Nested deeper than `JSON_DEPTH_MAX` levels.
    #[error("JSON nests deeper than {JSON_DEPTH_MAX} levels at byte {offset}")]
    TooDeep {
        /// Offset of the first bracket over the limit, in bytes.
        offset: usize,
    },
    /// Not a JSON text (RFC 8259 §2).
    #[error("not JSON at byte {offset}: {what}")]
    Syntax {
        /// Offset of the error, in bytes.
        offset: usize,
        /// The error in words.
        what: String,
    },
    /// Not UTF-8 (RFC 8259 §8.1).
    #[error("not JSON at byte {offset}: not UTF-8")]
    NotUtf8 {
        /// Offset of the first ill-formed byte.
        offset: usize,
    },
    /// A `\u` escape that does not have four hexadecimal digits, or is half of a surrogate pair (RFC 8259 §7, §8.2).
    #[error("not JSON at byte {offset}: a broken \\u escape")]
    BrokenEscape {
        /// Offset of the escape, in bytes.
        offset: usize,
    },
    /// An object with more members than anybody needs (RFC 8259 §9 allows such limits).
    #[error("JSON has more members than anybody needs")]
    TooManyMembers,
    /// More values or escapes than anybody needs (RFC 8259 §9 allows such limits).
    #[error("JSON has too many values or escapes")]
    TooDense,
    /// Possibly JSON, but not an object.
    #[error("not a JSON object: it does not begin with {{")]
    NotAnObject,
}

impl From<sonic_rs::Error> for JsonError {
    fn from(error: sonic_rs::Error) -> Self {
        // After the position, the message has an excerpt of the text, which must not get into a log line.
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        Self::Syntax {
            offset: error.offset(),
            what: what.trim().to_owned(),
        }
    }
}

/// JSON from outside that a parser may safely read: UTF-8, of limited depth, without broken escapes. Its syntax is
/// checked only as far as a lookup reads.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// Checks what must be checked before a parser reads the text. Use [`Json::check`] for a text that has to be JSON to
    /// its end.
    ///
    /// # Errors
    /// The text is not UTF-8, nested deeper than `JSON_DEPTH_MAX` levels, or has a broken escape.
    pub fn read(text: &'a [u8]) -> Result<Self, JsonError> {
        let checked = check_utf8(text)?;
        check_depth(text)?;
        check_unicode_escapes(text)?;
        Ok(Self(checked))
    }

    /// Returns a value as JSON. Its text was checked before, because only this gate returns lazy values.
    pub fn of(value: &'a LazyValue<'_>) -> Self {
        Self(value.as_raw_str())
    }

    /// Returns the text of the value, without the white space around it.
    pub fn raw(self) -> &'a str {
        trim(self.0)
    }

    /// Returns the value under a path of member names; `None` if there is no such value.
    pub fn get(self, path: &[&str]) -> Option<LazyValue<'a>> {
        sonic_rs::get_from_str(self.0, path).ok()
    }

    /// Returns the text under a path of member names.
    pub fn text(self, path: &[&str]) -> Option<String> {
        self.get(path)?.as_str().map(str::to_owned)
    }

    /// Returns the whole number under a path of member names.
    pub fn number(self, path: &[&str]) -> Option<u64> {
        self.get(path)?.as_u64()
    }

    /// Reads the whole text.
    ///
    /// # Errors
    /// The text is not JSON, or JSON of another type.
    pub fn parse<T: Deserialize<'a>>(self) -> Result<T, JsonError> {
        Ok(sonic_rs::from_str(self.0)?)
    }

    /// Reads the whole text, and keeps the digits of its numbers.
    ///
    /// # Errors
    /// The text is not JSON.
    pub fn parse_with_digits(self) -> Result<Value, JsonError> {
        self.parse::<LazyValue<'_>>()?;
        let mut reader = sonic_rs::Deserializer::from_str(self.0).use_rawnumber();
        Ok(reader.deserialize()?)
    }

    /// Returns the items of an array; `None` for any other JSON.
    pub fn items(self) -> Option<impl Iterator<Item = LazyValue<'a>>> {
        let is_array = trim(self.0).starts_with('[');
        let items = is_array.then(|| sonic_rs::to_array_iter(self.0))?;
        Some(items.map_while(Result::ok))
    }

    /// Checks that the whole text is one JSON value: UTF-8 without a byte-order mark, at most `JSON_DEPTH_MAX` levels
    /// deep, without lone surrogate escapes, and with nothing but white space after it. Returns the text as `str`.
    ///
    /// # Errors
    /// The kind of the error and its offset in bytes.
    pub fn check(text: &'a [u8]) -> Result<&'a str, JsonError> {
        let json = Self::read(text)?;
        json.parse::<LazyValue<'_>>()?;
        Ok(json.0)
    }

    /// Returns the entries of an object in their order, with repeated keys, and each value as its text. Checks the same as
    /// [`Json::check`]: this call checks depth and encoding; the iterator returns a syntax error at its entry, and bytes
    /// after the object as a last error. Callers must not act on an entry before the iterator has ended.
    pub fn object_entries(
        text: &'a [u8],
    ) -> Result<impl Iterator<Item = Result<(Cow<'a, str>, LazyValue<'a>), JsonError>>, JsonError>
    {
        check_depth(text)?;
        let start = skip_space(text, 0);
        if text.get(start) != Some(&b'{') {
            return Err(JsonError::NotAnObject);
        }
        check_unicode_escapes(text)?;
        Ok(ObjectEntries {
            text,
            entries: sonic_rs::to_object_iter(check_utf8(text)?),
            seen: start + 1,
            ended: false,
        })
    }

    /// Refuses, much faster than a parser reads, a text that would cost a parser far more than its bytes: a megabyte of
    /// empty texts takes some fifty times as long as one text of a megabyte. Commas count as values and backslashes as
    /// escapes, also those in texts. A text with up to `VALUES_MAX` values is never refused for these, also if `values_max`
    /// is less.
    ///
    /// # Errors
    /// [`JsonError::TooDense`].
    pub fn check_density(text: &[u8], values_max: usize) -> Result<(), JsonError> {
        // Nearly all texts are too short for so many.
        if text.len() < VALUES_MAX.min(ESCAPES_MAX) {
            return Ok(());
        }
        let values = count(text, |byte| byte == b',') + 1;
        let escapes = count(text, |byte| byte == b'\\');
        match values > VALUES_MAX.max(values_max) || escapes > ESCAPES_MAX {
            true => Err(JsonError::TooDense),
            false => Ok(()),
        }
    }
}

impl Json<'_> {
    /// Returns the text of a JSON string; `None` for any other JSON, without parsing it.
    pub fn text_of(raw: &str) -> Option<String> {
        let is_string = trim(raw).starts_with('"');
        is_string.then(|| sonic_rs::from_str(raw).ok()).flatten()
    }

    /// Returns a JSON text without the white space between its tokens. Numbers, escapes, order and repeated keys stay as
    /// they are. The text must have been checked; the result for any other text is undefined.
    pub fn compact(json: &str) -> String {
        let bytes = json.as_bytes();
        let mut out = String::with_capacity(json.len());
        let mut from = 0;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => at = after_string(bytes, at + 1).min(bytes.len()),
                b' ' | b'\t' | b'\r' | b'\n' => {
                    out.push_str(&json[from..at]);
                    at = skip_space(bytes, at);
                    from = at;
                }
                _ => at += 1,
            }
        }
        out.push_str(&json[from..]);
        out
    }
}

/// The text without JSON's white space around it (RFC 8259 §2).
fn trim(raw: &str) -> &str {
    raw.trim_matches([' ', '\t', '\n', '\r'])
}

/// Refuses a text nested deeper than `JSON_DEPTH_MAX` levels. Looks only at the brackets outside of strings; the
/// parser checks the rest.
///
/// # Errors
/// [`JsonError::TooDeep`], with the offset of the first bracket over the limit.
fn check_depth(text: &[u8]) -> Result<(), JsonError> {
    // Most texts have fewer opening brackets than the limit, and the vectorised count is fast.
    if count_openings(text) <= JSON_DEPTH_MAX {
        return Ok(());
    }
    let mut depth = 0_usize;
    let mut offset = 0;
    while let Some(&byte) = text.get(offset) {
        match byte {
            b'"' => {
                offset = after_string(text, offset + 1);
                continue;
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(JsonError::TooDeep { offset });
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        offset += 1;
    }
    Ok(())
}

/// Counts `[` and `{`, which differ in one bit.
fn count_openings(text: &[u8]) -> usize {
    count(text, |byte| byte & 0xdf == b'[')
}

/// Counts bytes. The counters are bytes, so that many fit into a vector register; a part is too short to overflow one.
fn count(text: &[u8], is_counted: impl Fn(u8) -> bool) -> usize {
    text.chunks(192)
        .map(|part| {
            let in_part: u8 = part.iter().map(|&b| u8::from(is_counted(b))).sum();
            usize::from(in_part)
        })
        .sum()
}

/// Returns the offset after the closing quote of a string whose text begins at `offset`.
fn after_string(text: &[u8], mut offset: usize) -> usize {
    loop {
        match text.get(offset) {
            Some(b'\\') => offset += 2,
            Some(b'"') | None => return offset + 1,
            Some(_) => offset += 1,
        }
    }
}

/// Converts to `str`. sonic-rs makes a `str` from a skipped value without checking the bytes (debug builds panic), so
/// every text is checked first.
fn check_utf8(text: &[u8]) -> Result<&str, JsonError> {
    std::str::from_utf8(text).map_err(|error| JsonError::NotUtf8 {
        offset: error.valid_up_to(),
    })
}

/// Checks that every `\u` has four hexadecimal digits, and that surrogates come in pairs. Runs before the parser, which
/// may skip the four bytes unread, even a quote. Backslashes occur only in strings; the parser checks the other
/// escapes.
fn check_unicode_escapes(text: &[u8]) -> Result<(), JsonError> {
    let mut offset = 0;
    while let Some(found) = next_backslash(text, offset) {
        let broken = JsonError::BrokenEscape { offset: found };
        offset = found + 2;
        if text.get(found + 1) != Some(&b'u') {
            continue;
        }
        offset = match escaped_unit(text, found) {
            None | Some(0xdc00..=0xdfff) => return Err(broken),
            Some(0xd800..=0xdbff) => match escaped_unit(text, found + 6) {
                Some(0xdc00..=0xdfff) => found + 12,
                _ => return Err(broken),
            },
            Some(_) => found + 6,
        };
    }
    Ok(())
}

/// Returns the offset of the next backslash. One escape often follows another, and a search costs more than a look.
fn next_backslash(text: &[u8], offset: usize) -> Option<usize> {
    let rest = text.get(offset..)?;
    match rest.first() {
        Some(b'\\') => Some(offset),
        _ => memchr(b'\\', rest).map(|at| offset + at),
    }
}

/// Returns the UTF-16 code unit of the `\uXXXX` at `offset`.
fn escaped_unit(text: &[u8], offset: usize) -> Option<u32> {
    let digits = text.get(offset..offset + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, &digit| {
        Some(unit << 4 | char::from(digit).to_digit(16)?)
    })
}

/// The entries of a JSON object; see [`Json::object_entries`].
struct ObjectEntries<'a> {
    text: &'a [u8],
    entries: ObjectJsonIter<'a>,
    /// The offset after the last value.
    seen: usize,
    ended: bool,
}

impl<'a> ObjectEntries<'a> {
    /// Checks that only a brace and white space come after the last value.
    fn check_end(&self) -> Result<(), JsonError> {
        let brace = skip_space(self.text, self.seen);
        let end = skip_space(self.text, brace + 1);
        if end >= self.text.len() {
            return Ok(());
        }
        Err(JsonError::Syntax {
            offset: end,
            what: "more after the end of the object".to_owned(),
        })
    }
}

impl<'a> Iterator for ObjectEntries<'a> {
    type Item = Result<(Cow<'a, str>, LazyValue<'a>), JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.entries.next() {
            Some(Ok((key, value))) => {
                // Values are slices of the text, so the end of a value gives the position of the parser.
                let raw = value.as_raw_str();
                let offset = (raw.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
                self.seen = offset.wrapping_add(raw.len());
                Some(Ok((key, value)))
            }
            Some(Err(error)) => {
                self.ended = true;
                Some(Err(error.into()))
            }
            None => {
                self.ended = true;
                self.check_end().err().map(Err)
            }
        }
    }
}

fn skip_space(text: &[u8], mut offset: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\r' | b'\n') = text.get(offset) {
        offset += 1;
    }
    offset
}

#[cfg(test)]
mod tests;
