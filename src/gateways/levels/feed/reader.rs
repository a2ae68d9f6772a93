//! A cursor over checked JSON text: raw values, in a single pass, without copies. The lazy iterators of the JSON library
//! take about 100 ns for each field, which would be most of the time of a message. Since the text is known to be JSON,
//! finding the end of a value needs no parser. Text that is not JSON gives wrong values, but neither panics nor loops.

use std::borrow::Cow;

use super::bad_message::BadMessage;
use weirgate_wire::json::Json;

/// A position in checked text. Methods that take a value move past it.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts before the first value of `text`.
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The kind of the next value.
    pub(super) fn kind(&mut self) -> JsonKind {
        self.skip_white_space();
        JsonKind::of(self.text.get(self.at..).unwrap_or_default())
    }

    /// Takes the next value: its text, without white space around.
    pub(super) fn value(&mut self) -> &'a str {
        self.skip_white_space();
        let start = self.at;
        match self.byte() {
            Some(b'"') => {
                self.skip_string();
            }
            Some(b'{' | b'[') => self.skip_container(),
            _ => self.skip_scalar(),
        }
        self.since(start)
    }

    /// Takes the next value. If the value is an object, `field` is called with each key, in order and repeated keys
    /// included, and has to take the field's value. Returns the text of the value. A value that is no object has no
    /// fields.
    pub(super) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), BadMessage>,
    ) -> Result<&'a str, BadMessage> {
        self.container(b'{', |reader| {
            let key = reader.key();
            reader.skip_white_space();
            reader.at += 1; // the colon
            field(reader, key)
        })
    }

    /// Takes the next value. If the value is an array, `entry` is called at each entry and has to take the entry.
    /// Returns the text of the value. A value that is not an array has no entries.
    pub(super) fn array(
        &mut self,
        entry: impl FnMut(&mut Self) -> Result<(), BadMessage>,
    ) -> Result<&'a str, BadMessage> {
        self.container(b'[', entry)
    }

    /// Reads an object or a list, which begins with `open`, and returns its text. Calls `item` at each item, which has
    /// to read the item. If there is another value, skips and returns it without a call.
    fn container(
        &mut self,
        open: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), BadMessage>,
    ) -> Result<&'a str, BadMessage> {
        self.skip_white_space();
        let start = self.at;
        if self.byte() != Some(open) {
            return Ok(self.value());
        }
        self.at += 1;
        loop {
            self.skip_white_space();
            match self.byte() {
                None => break,
                Some(b'}' | b']') => {
                    self.at += 1;
                    break;
                }
                Some(b',') => self.at += 1,
                Some(_) => item(self)?,
            }
        }
        Ok(self.since(start))
    }

    /// Reads a key, and returns it without quotes and escapes.
    fn key(&mut self) -> Cow<'a, str> {
        let start = self.at;
        let has_escapes = self.skip_string();
        let text = self.since(start);
        if has_escapes {
            return string(text);
        }
        Cow::Borrowed(
            text.get(1..text.len().saturating_sub(1))
                .unwrap_or_default(),
        )
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn skip_white_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
    }

    /// Moves from the opening quote past the closing quote. Returns whether there are escapes.
    fn skip_string(&mut self) -> bool {
        let mut has_escapes = false;
        let mut bytes = self.rest().iter();
        bytes.next();
        let left = loop {
            match bytes.next() {
                Some(b'\\') => has_escapes = bytes.next().is_some(),
                Some(b'"') | None => break bytes.len(),
                Some(_) => {}
            }
        };
        self.at = self.text.len() - left;
        has_escapes
    }

    /// Moves from an opening bracket past the matching closing bracket.
    fn skip_container(&mut self) {
        let mut depth = 0_usize;
        let is_structural = |b: &u8| matches!(b, b'"' | b'{' | b'}' | b'[' | b']');
        while let Some(found) = self.rest().iter().position(is_structural) {
            self.at += found;
            match self.byte() {
                Some(b'"') => {
                    self.skip_string();
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                _ => depth = depth.saturating_sub(1),
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
        self.at = self.text.len();
    }

    /// Skips a number, `true`, `false` or `null`. Takes at least a byte, so that every loop ends.
    fn skip_scalar(&mut self) {
        let ends = |&b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
        let rest = self.rest();
        let len = rest.iter().position(ends).unwrap_or(rest.len());
        self.at = (self.at + len.max(1)).min(self.text.len());
    }
}

/// The kind of a JSON value, recognised by the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JsonKind {
    Null,
    False,
    True,
    Number,
    String,
    Array,
    Object,
}

impl JsonKind {
    /// The kind of the value with the text `raw`, checked and without white space around. No text counts as `null`.
    pub(super) fn of(raw: &str) -> Self {
        match raw.as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't') => Self::True,
            Some(b'f') => Self::False,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }
}

/// Returns false for null, false, zero, and empty strings, arrays and objects.
pub(super) fn is_truthy(raw: &str) -> bool {
    match JsonKind::of(raw) {
        JsonKind::Null | JsonKind::False => false,
        JsonKind::True => true,
        JsonKind::Number => {
            // By digits, not as a double: 1e-400 is not zero.
            let mut mantissa = raw.bytes().take_while(|b| !matches!(b, b'e' | b'E'));
            mantissa.any(|b| matches!(b, b'1'..=b'9'))
        }
        JsonKind::String => raw != "\"\"",
        JsonKind::Array | JsonKind::Object => {
            let after = raw.bytes().skip(1).find(|b| !b.is_ascii_whitespace());
            !matches!(after, None | Some(b']' | b'}'))
        }
    }
}

/// The value of a JSON string, escapes resolved.
pub(super) fn string(raw: &str) -> Cow<'_, str> {
    let quoted = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"'));
    let quoted = quoted.unwrap_or(raw);
    if quoted.contains('\\') {
        // In checked text this cannot fail.
        if let Some(text) = Json::text_of(raw) {
            return Cow::Owned(text);
        }
    }
    Cow::Borrowed(quoted)
}

/// Whether `raw` is a JSON string with the value `text`.
pub(super) fn is_string(raw: &str, text: &str) -> bool {
    JsonKind::of(raw) == JsonKind::String && string(raw) == text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_cut_where_they_end() {
        let text = " { \"a\\\"\" : -1.5e3 ,\"b\": [ 1,\"]\\\\\", {\"}\":[]} ]\n,\"\\u0063\":\"x\",\"d\":null}";
        let mut seen = Vec::new();
        let whole = Reader::new(text)
            .object(|reader, key| {
                seen.push((key.into_owned(), reader.value()));
                Ok(())
            })
            .expect("nothing fails");
        assert_eq!(whole, text.trim());
        let seen: Vec<_> = seen.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(
            seen,
            [
                ("a\"", "-1.5e3"),
                ("b", "[ 1,\"]\\\\\", {\"}\":[]} ]"),
                ("c", "\"x\""),
                ("d", "null"),
            ]
        );
    }

    #[test]
    fn a_value_of_another_kind_is_taken_and_has_nothing_within() {
        let mut reader = Reader::new("[1, {\"a\":2}, \"x\"]");
        let mut kinds = Vec::new();
        let whole = reader.array(|reader| {
            kinds.push(reader.kind());
            reader.object(|reader, _| {
                reader.value();
                Ok(())
            })?;
            Ok(())
        });
        assert_eq!(whole, Ok("[1, {\"a\":2}, \"x\"]"));
        assert_eq!(
            kinds,
            [JsonKind::Number, JsonKind::Object, JsonKind::String]
        );
    }

    fn walk(reader: &mut Reader<'_>, depth: usize) -> Result<(), BadMessage> {
        match reader.kind() {
            JsonKind::Object if depth < 100 => {
                reader.object(|reader, _| walk(reader, depth + 1))?
            }
            JsonKind::Array if depth < 100 => reader.array(|reader| walk(reader, depth + 1))?,
            _ => reader.value(),
        };
        Ok(())
    }

    #[test]
    fn truth() {
        for raw in [
            "null",
            "false",
            "0",
            "-0",
            "0.0",
            "-0.000",
            "0e5",
            "0E+99",
            "0.0e-1",
            "\"\"",
            "[]",
            "[ \n\t\r]",
            "{}",
            "{ }",
        ] {
            assert!(!is_truthy(raw), "{raw}");
        }
        for raw in [
            "true",
            "1",
            "-1",
            "0.001",
            "1e-400",
            "10",
            "5E0",
            "\" \"",
            "\"0\"",
            "\"false\"",
            "[0]",
            "[[]]",
            "[null]",
            "{\"\":0}",
        ] {
            assert!(is_truthy(raw), "{raw}");
        }
    }

    #[test]
    fn kinds() {
        let kinds = [
            ("null", JsonKind::Null),
            ("false", JsonKind::False),
            ("true", JsonKind::True),
            ("-1", JsonKind::Number),
            ("0", JsonKind::Number),
            ("\"\"", JsonKind::String),
            ("[]", JsonKind::Array),
            ("{}", JsonKind::Object),
        ];
        for (raw, kind) in kinds {
            assert_eq!(JsonKind::of(raw), kind);
        }
    }

    #[test]
    fn strings_compare_by_value() {
        assert!(is_string(r#""REJECT""#, "REJECT"));
        assert!(is_string(r#""\u0052EJECT""#, "REJECT"));
        assert!(!is_string(r#""REJECT ""#, "REJECT"));
        assert!(!is_string("REJECT", "REJECT"));
        assert_eq!(string(r#""a\n\ud83d\ude80\\""#), "a\n🚀\\");
        assert_eq!(string(r#""""#), "");
    }

    proptest! {
        #[test]
        fn any_text_comes_to_an_end(text in r#"[\[\]{}",:\\ 0-9a-ctrufé\n-]{0,200}"#) {
            walk(&mut Reader::new(&text), 0).expect("nothing fails");
        }
    }
}
