//! Inputs made from inputs, seeded.

use std::ops::Range;

use weirgate_wire::base::SplitMix64;

/// Longer inputs say nothing that shorter ones do not.
const BYTES_MAX: usize = 4096;

/// Bytes that mean something to one reader or another.
const MEANINGFUL: &[u8] = b"\0\x01\x7f\x80\xff \t\r\n\"'\\/{}[]:;,.%*?#&=+-_@!0123456789aAzZeEuU";

/// Values of JSON, for the place of another.
const VALUES: [&[u8]; 12] = [
    b"null", b"true", b"false", b"0", b"-0.0", b"1e400", b"1.5e3", b"\"\"", b"\"a\"", b"{}", b"[]",
    b"[{}]",
];

/// Makes inputs.
pub(crate) struct Mutator {
    random: SplitMix64,
    /// What the dictionary of the target has.
    words: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(seed: u64, words: Vec<Vec<u8>>) -> Self {
        Self {
            random: SplitMix64::new(seed),
            words,
        }
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.random.next_u64() % n.max(1) as u64) as usize
    }

    /// An input of the pool with a few changes.
    pub(crate) fn next(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = pool
            .get(self.below(pool.len()))
            .cloned()
            .unwrap_or_default();
        for _ in 0..=self.below(4) {
            self.change(&mut input, pool);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let some = at + self.below(8).min(input.len() - at);
        match self.below(12) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.byte(),
            2 => input.insert(at, self.byte()),
            3 => drop(input.drain(at..some)),
            4 => {
                let piece = input[at..some].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            5 => self.change_digits(input, at),
            6 => {
                let other = &pool[self.below(pool.len())];
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1);
                input.splice(at..some, other[from..to].iter().copied());
            }
            7..10 => self.change_value(input, at, pool),
            _ if !self.words.is_empty() => {
                let word = self.below(self.words.len());
                let end = if self.below(2) == 0 { at } else { some };
                input.splice(at..end, self.words[word].iter().copied());
            }
            _ => input.push(self.byte()),
        }
    }

    fn byte(&mut self) -> u8 {
        match self.below(3) {
            0 => self.random.next_u64() as u8,
            _ => MEANINGFUL[self.below(MEANINGFUL.len())],
        }
    }

    /// Another value in place of the next one, where the input is like JSON.
    fn change_value(&mut self, input: &mut Vec<u8>, at: usize, pool: &[Vec<u8>]) {
        let Some(place) = value(input, at) else {
            return;
        };
        let other = &pool[self.below(pool.len())];
        let from = self.below(other.len() + 1);
        let word = self.below(self.words.len());
        let new = match self.below(4) {
            0 => VALUES[self.below(VALUES.len())].to_vec(),
            1 if !self.words.is_empty() => self.words[word].clone(),
            _ => value(other, from).map_or_else(Vec::new, |place| other[place].to_vec()),
        };
        input.splice(place, new);
    }

    /// Another number in place of the next one.
    fn change_digits(&mut self, input: &mut Vec<u8>, at: usize) {
        let Some(start) = input[at..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let start = at + start;
        let digits = input[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let number = match self.below(6) {
            0 => "0".to_owned(),
            1 => (self.random.next_u64() >> self.below(64)).to_string(),
            2 => "9223372036854775808".to_owned(),
            3 => "1e308".to_owned(),
            4 => self.below(300).to_string(),
            _ => format!("{}.5e-{}", self.below(10), self.below(330)),
        };
        input.splice(start..start + digits, number.into_bytes());
    }
}

/// Where the next value of JSON stands: behind a colon, a comma or a bracket, up to the next comma or
/// bracket that closes something before it.
fn value(text: &[u8], from: usize) -> Option<Range<usize>> {
    let start = from + 1 + text[from..].iter().position(|byte| b":,[".contains(byte))?;
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, &byte) in text.iter().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b',' if depth == 0 => return Some(start..at),
            b'}' | b']' if depth == 0 => return Some(start..at),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The words of a dictionary of libFuzzer: lines of `"word"` or `name="word"`, with `\\`, `\"` and
/// `\xNN`.
pub(crate) fn words(dictionary: &str) -> Vec<Vec<u8>> {
    let quoted = |line: &str| {
        let (_, rest) = line.trim().split_once('"')?;
        Some(unescaped(rest.strip_suffix('"')?))
    };
    let lines = dictionary.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(quoted).collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        let escaped = match byte {
            b'\\' => bytes.next(),
            byte => {
                out.push(byte);
                continue;
            }
        };
        match escaped {
            Some(b'x') => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                out.push(u8::from_str_radix(&digits, 16).expect("\\xNN"));
            }
            other => out.extend(other),
        }
    }
    out
}

#[test]
fn dictionaries_are_read_as_libfuzzer_reads_them() {
    let dictionary = "# words\n\"a\\\\b\"\nname=\"\\x00\\x0d\\\"\"\n\n";
    assert_eq!(words(dictionary), [b"a\\b".to_vec(), b"\0\r\"".to_vec()]);
}

#[test]
fn values_are_found_whole() {
    let text = br#"{"a": [1,{"b":"]\"}"}],"c":2}"#;
    assert_eq!(value(text, 0), Some(5..22));
    assert_eq!(value(text, 7), Some(9..21));
    assert_eq!(value(text, 23), Some(27..28));
    assert_eq!(value(text, 27), None);
}
