//! Lists of texts that are read and written one text at a time: a list in a message of a client may be so long that the
//! loop has no time for all of it in one turn.

use std::fmt;

use memchr::memchr;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use sonic_rs::LazyValue;

use super::{after_string, quoted, text_of, value};

/// The texts of an array, each decoded when it is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextList {
    /// The JSON text of the array.
    json: Box<str>,
    /// The offset after the last text taken.
    at: usize,
    left: usize,
}

impl TextList {
    /// Reads an array, whose text was checked before; `None` if the value is not an array of texts.
    pub fn read(list: &LazyValue<'_>) -> Option<Self> {
        let Texts(left) = value(list).ok()?;
        Some(Self {
            json: list.as_raw_str().into(),
            at: 0,
            left,
        })
    }

    /// The memory of the list.
    pub fn bytes(&self) -> usize {
        self.json.len()
    }
}

impl Iterator for TextList {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        self.left = self.left.checked_sub(1)?;
        let rest = self.json.get(self.at..)?;
        // Between two texts are only commas and white space.
        let begin = memchr(b'"', rest.as_bytes())?;
        let end = after_string(rest.as_bytes(), begin + 1);
        self.at += end;
        let text = rest.get(begin..end)?;
        match memchr(b'\\', text.as_bytes()) {
            None => Some(text.trim_matches('"').to_owned()),
            Some(_) => text_of(text),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for TextList {}

/// The number of texts in an array, counted without keeping one.
struct Texts(usize);

/// A text.
struct Text;

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Counter)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Counter).map(|Texts(_)| Self)
    }
}

struct Counter;

impl<'de> Visitor<'de> for Counter {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Texts, A::Error> {
        let mut count = 0;
        while texts.next_element::<Text>()?.is_some() {
            count += 1;
        }
        Ok(Texts(count))
    }

    fn visit_str<E>(self, _: &str) -> Result<Texts, E> {
        Ok(Texts(1))
    }
}

/// Writes an array of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListWriter {
    /// The texts, escaped, with commas between them.
    texts: String,
}

impl ListWriter {
    /// Appends a text, escaped.
    pub fn push(&mut self, text: &str) {
        if !self.texts.is_empty() {
            self.texts.push(',');
        }
        self.texts.push_str(&quoted(text));
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> usize {
        self.texts.len()
    }

    /// Returns the array.
    pub fn finish(&self) -> String {
        format!("[{}]", self.texts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::object_entries;
    use super::*;

    fn read(json: &str) -> Option<Vec<String>> {
        let text = format!(r#"{{"list":{json}}}"#);
        let mut entries = object_entries(text.as_bytes()).expect("an object");
        let (_, list) = entries.next().expect("a member").ok()?;
        let list = TextList::read(&list)?;
        let count = list.len();
        let texts: Vec<String> = list.collect();
        assert_eq!(texts.len(), count, "{json}");
        Some(texts)
    }

    #[test]
    fn the_texts_of_a_list_are_those_of_a_parser() {
        for json in [
            "[]",
            "[ ]",
            r#"["a"]"#,
            r#"[ "a" ,"b,]" , "[\"c\"]", "" , "\u00e9\ud83d\ude00\n", "\\" ]"#,
            r#"["","",""]"#,
            "null",
            "5",
            "\"a\"",
            "{}",
            "[5]",
            r#"["a",null]"#,
            r#"[["a"]]"#,
            "[\"a\nb\"]",
            r#"["\x"]"#,
        ] {
            let parsed: Option<Vec<String>> = serde_json::from_str(json).ok();
            assert_eq!(read(json), parsed, "{json}");
        }
    }

    #[test]
    fn a_written_list_is_read_back() {
        let texts = ["a", "", "\"b\",\\", "é\u{7}"];
        let mut list = ListWriter::default();
        assert_eq!(list.finish(), "[]");
        texts.iter().for_each(|text| list.push(text));
        assert_eq!(
            read(&list.finish()),
            Some(texts.map(str::to_owned).to_vec())
        );
    }
}
