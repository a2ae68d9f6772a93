//! JSON objects with their keys in the order of writing, and dates, as the contracts require.

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

    /// Returns the text without the `}`, for a last member that is written elsewhere.
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
    // A string always serialises; the empty string covers an impossible error.
    sonic_rs::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// Returns a number with `decimals` digits after the point. A number without JSON text becomes `null`, and `-0.00`
/// becomes `0.00`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_text_is_escaped() {
        let mut inner = ObjectWriter::new();
        inner.boolean("ok", true);
        inner.boolean("bad", false);
        let mut object = ObjectWriter::new();
        object.string("z", "a\"b\\c\n\u{1}<é>");
        object.number("n", -5i64);
        object.maybe_number("none", None::<u64>);
        object.maybe_number("some", Some(u64::MAX));
        object.maybe_string("text", Some("t"));
        object.maybe_string("no text", None);
        object.decimal("price", 6850.25, 2);
        object.decimal("zero", -0.001, 2);
        object.decimal("small", -0.01, 2);
        object.decimal("no number", f64::NAN, 2);
        object.array("values", [1.0, 2.5].map(|x| decimal(x, 1)).into_iter());
        object.array("empty", std::iter::empty());
        object.strings("list", ["x", "\""].into_iter());
        object.object("a", inner);
        object.raw("r", "1.50");
        let bytes = object.bytes();
        let text = object.finish();
        assert_eq!(bytes + "}".len(), text.len());
        assert_eq!(
            text,
            r#"{"z":"a\"b\\c\n\u0001<é>","n":-5,"none":null,"some":18446744073709551615,"text":"t","no text":null,"price":6850.25,"zero":0.00,"small":-0.01,"no number":null,"values":[1.0,2.5],"empty":[],"list":["x","\""],"a":{"ok":true,"bad":false},"r":1.50}"#
        );
        assert_eq!(ObjectWriter::new().finish(), "{}");
    }

    #[test]
    fn to_the_millisecond_in_utc() {
        assert_eq!(iso_utc(1_767_954_600_007), "2026-01-09T10:30:00.007Z");
        assert_eq!(iso_utc(i64::MAX), "1970-01-01T00:00:00.000Z");
    }
}
