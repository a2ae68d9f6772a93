//! Lists of texts that are read and written one text at a time: a list in a message of a client may be so long that the
//! loop has no time for all of it in one turn.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::quality::RandomState;
use memchr::memchr;
use sonic_rs::LazyValue;

use super::{Json, after_string, quoted, trim};

/// The texts of an array, each decoded when it is taken. Clones share the text of the array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextList {
    /// The JSON text of the array.
    json: Arc<String>,
    /// The offset after the last text taken.
    at: usize,
    /// The number of texts that were not taken yet.
    left: usize,
}

impl TextList {
    /// Reads an array of at most `len_max` texts. Its JSON text was checked before.
    ///
    /// # Errors
    /// The value is not an array of texts, or has too many.
    pub fn read(list: &LazyValue<'_>, len_max: usize) -> Result<Self, NotAList> {
        let left = count(list.as_raw_str(), len_max)?;
        Ok(Self {
            json: Arc::new(list.as_raw_str().to_owned()),
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
        let quoted = next_quoted(&self.json, &mut self.at)?;
        match memchr(b'\\', quoted.as_bytes()) {
            None => Some(quoted.trim_matches('"').to_owned()),
            Some(_) => Json::text_of(quoted),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for TextList {}

/// Returns the next text of an array as it is in the JSON text, and moves `at` behind it.
fn next_quoted<'a>(json: &'a str, at: &mut usize) -> Option<&'a str> {
    let rest = json.get(*at..)?;
    // Between two texts are only commas and white space.
    let begin = memchr(b'"', rest.as_bytes())?;
    let end = after_string(rest.as_bytes(), begin + 1);
    *at += end;
    rest.get(begin..end)
}

/// Why a value is no list of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAList {
    /// Not an array, or one with another value among the first entries.
    OtherValue,
    /// More entries than allowed.
    TooLong,
}

/// Counts the texts in an array up to `len_max`. The text was checked, so between two texts are only commas and white
/// space: no parser has to read the many texts again.
fn count(json: &str, len_max: usize) -> Result<usize, NotAList> {
    let bytes = trim(json).as_bytes();
    let mut at = match bytes.first() {
        Some(b'[') => 1,
        _ => return Err(NotAList::OtherValue),
    };
    let mut count = 0;
    while let Some(byte) = bytes.get(at) {
        at = match byte {
            b'"' if count == len_max => return Err(NotAList::TooLong),
            b'"' => {
                count += 1;
                after_string(bytes, at + 1)
            }
            b',' | b']' | b' ' | b'\t' | b'\r' | b'\n' => at + 1,
            _ => return Err(NotAList::OtherValue),
        };
    }
    Ok(count)
}

/// Writes an array of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListWriter {
    /// The texts, escaped, with commas between them.
    texts: String,
    len: usize,
}

impl ListWriter {
    /// Appends a text, escaped.
    pub fn push(&mut self, text: &str) {
        if !self.texts.is_empty() {
            self.texts.push(',');
        }
        self.texts.push_str(&quoted(text));
        self.len += 1;
    }

    /// Removes each of these texts.
    pub fn remove<'a>(&mut self, gone: impl IntoIterator<Item = &'a str>) {
        let gone: HashSet<String, RandomState> = gone.into_iter().map(quoted).collect();
        let all = std::mem::take(self).texts;
        let mut at = 0;
        while let Some(text) = next_quoted(&all, &mut at) {
            if !gone.contains(text) {
                let comma = if self.len > 0 { "," } else { "" };
                self.texts.extend([comma, text]);
                self.len += 1;
            }
        }
        self.texts.shrink_to_fit();
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the texts.
    pub fn into_texts(self) -> TextList {
        TextList {
            at: 0,
            left: self.len,
            json: Arc::new(self.texts),
        }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> usize {
        self.texts.len()
    }

    /// The texts, escaped, with commas between them: the array without its brackets.
    pub fn texts(&self) -> &str {
        &self.texts
    }

    /// Returns the array.
    pub fn finish(&self) -> String {
        format!("[{}]", self.texts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Json;
    use super::*;

    fn read(json: &str) -> Option<Vec<String>> {
        let text = format!(r#"{{"list":{json}}}"#);
        let mut entries = Json::object_entries(text.as_bytes()).expect("an object");
        let (_, list) = entries.next().expect("a member").ok()?;
        let list = TextList::read(&list, usize::MAX).ok()?;
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
    fn of_a_long_list_no_more_is_read_than_one_text_too_many() {
        for (json, read) in [
            (r#"["a","b"]"#, Ok(2)),
            (r#"["a","b","c"]"#, Err(NotAList::TooLong)),
            (r#"["a","b","c",5]"#, Err(NotAList::TooLong)),
            (r#"["a","b",5]"#, Err(NotAList::OtherValue)),
            (r#"["a",5,"c","d"]"#, Err(NotAList::OtherValue)),
        ] {
            let text = format!(r#"{{"list":{json}}}"#);
            let mut entries = Json::object_entries(text.as_bytes()).expect("an object");
            let (_, list) = entries.next().expect("a member").expect("a value");
            let len = TextList::read(&list, 2).map(|list| list.len());
            assert_eq!(len, read, "{json}");
        }
    }

    #[test]
    fn a_written_list_is_read_back() {
        let texts = ["a", "", "\"b\",\\", "é\u{7}"];
        let mut list = ListWriter::default();
        assert_eq!(list.finish(), "[]");
        texts.iter().for_each(|text| list.push(text));
        let all = texts.map(str::to_owned).to_vec();
        assert_eq!(read(&list.finish()), Some(all.clone()));
        assert_eq!((list.len(), list.clone().into_texts().collect()), (4, all));
        list.remove(["", "b", "b,", "a"]);
        assert_eq!(list.finish(), r#"["\"b\",\\","é\u0007"]"#);
        list.remove(["é\u{7}", "\"b\",\\"]);
        assert_eq!((list.finish(), list.len()), ("[]".to_owned(), 0));
    }
}
