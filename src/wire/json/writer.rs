//! Writes JSON objects, in the order of the calls, and values in the forms that contracts ask for.

use std::str::Utf8Chunk;

use chrono::{DateTime, SecondsFormat};

/// Writes a JSON object.
#[derive(Debug)]
pub struct ObjectWriter {
    text: String,
}

impl Default for ObjectWriter {
    fn default() -> Self {
        Self {
            text: String::from("{"),
        }
    }
}

impl ObjectWriter {
    /// Starts an object without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts an object with room for members of so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(1 + bytes);
        text.push('{');
        Self { text }
    }

    fn key(&mut self, key: &str) -> &mut String {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push_str(&quoted(key));
        self.text.push(':');
        &mut self.text
    }

    /// Writes a text, escaped.
    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key).push_str(&quoted(value));
    }

    /// Writes a text, escaped, or `null` for `None`.
    pub fn maybe_string(&mut self, key: &str, value: Option<&str>) {
        let value = value.map_or_else(|| "null".to_owned(), quoted);
        self.key(key).push_str(&value);
    }

    /// Writes `true` or `false`.
    pub fn boolean(&mut self, key: &str, value: bool) {
        self.key(key).push_str(if value { "true" } else { "false" });
    }

    /// Writes a whole number.
    pub fn number(&mut self, key: &str, value: impl Into<i128>) {
        self.key(key).push_str(&value.into().to_string());
    }

    /// Writes a number, or `null` for `None`.
    pub fn maybe_number(&mut self, key: &str, value: Option<impl Into<i128>>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.key(key).push_str("null"),
        }
    }

    /// Writes a number as [`decimal`] does.
    pub fn decimal(&mut self, key: &str, value: f64, decimals: usize) {
        self.key(key).push_str(&decimal(value, decimals));
    }

    /// Writes a list of texts.
    pub fn strings<'a>(&mut self, key: &str, values: impl Iterator<Item = &'a str>) {
        self.array(key, values.map(quoted));
    }

    /// Writes a list of values that are JSON texts already.
    pub fn array(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let values: Vec<String> = values.collect();
        let list = format!("[{}]", values.join(","));
        self.key(key).push_str(&list);
    }

    /// Writes a value that is JSON text already.
    pub fn raw(&mut self, key: &str, json: &str) {
        self.key(key).push_str(json);
    }

    /// Writes an object as a member.
    pub fn object(&mut self, key: &str, inner: Self) {
        self.key(key).push_str(&inner.finish());
    }

    /// Returns the number of bytes written so far.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The members written so far, without the braces of the object.
    pub fn members(&self) -> &str {
        &self.text[1..]
    }

    /// Whether the object has no member.
    pub fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    /// Returns the text without the closing `}`, for a caller that appends the last member.
    pub fn finish_open(self) -> String {
        self.text
    }

    /// Ends the object and returns its text.
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// Returns `text` as a JSON string.
pub fn quoted(text: &str) -> String {
    // A string always serialises, so the empty string is never returned.
    sonic_rs::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// Appends bytes as a string, escaped, with U+FFFD for what is not UTF-8. Of many bytes it takes no more memory than the
/// result: they are escaped in pieces.
pub fn write_quoted_lossy(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while !rest.is_empty() {
            let mut at = rest.len().min(QUOTED_AT_ONCE);
            while !rest.is_char_boundary(at) {
                at -= 1;
            }
            let (piece, after) = rest.split_at(at);
            let text = quoted(piece);
            out.extend_from_slice(&text.as_bytes()[1..text.len() - 1]);
            rest = after;
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(REPLACEMENT);
        }
    }
    out.push(b'"');
}

/// The bytes that [`write_quoted_lossy`] appends.
pub fn quoted_lossy_bytes(bytes: &[u8]) -> usize {
    let of_chunk = |chunk: Utf8Chunk<'_>| {
        let valid: usize = chunk.valid().bytes().map(escaped_bytes).sum();
        let has_invalid = !chunk.invalid().is_empty();
        valid + if has_invalid { REPLACEMENT.len() } else { 0 }
    };
    2 + bytes.utf8_chunks().map(of_chunk).sum::<usize>()
}

/// U+FFFD.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Bytes that are escaped at once.
const QUOTED_AT_ONCE: usize = 16 * 1024;

/// The length of a byte of UTF-8 in a string of JSON (RFC 8259 §7).
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\x08' | b'\t' | b'\n' | b'\x0c' | b'\r' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// Returns a number with `decimals` digits after the point. Infinities and NaN become `null`, and `-0.00` becomes
/// `0.00`.
pub fn decimal(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "null".to_owned();
    }
    let mut text = format!("{value:.decimals$}");
    if text.starts_with('-') && !text.contains(|c: char| ('1'..='9').contains(&c)) {
        text.remove(0);
    }
    text
}

/// Returns a time in ISO 8601, UTC, with milliseconds: `2026-01-09T10:30:00.000Z`. A time out of range
/// becomes 1970.
pub fn iso_utc(unix_ms: i64) -> String {
    let date = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    date.to_rfc3339_opts(SecondsFormat::Millis, true)
}
