//! Writes JSON objects, in the order of the calls, and values in the forms that contracts ask for.

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

    /// Writes the key of the next member. The caller appends the value to the returned text.
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

    /// Writes a number with `decimals` digits after the point. Infinities and NaN become `null`, and `-0.00` becomes
    /// `0.00`.
    pub fn decimal(&mut self, key: &str, value: f64, decimals: usize) {
        if !value.is_finite() {
            return self.raw(key, "null");
        }
        let mut text = format!("{value:.decimals$}");
        if text.starts_with('-') && !text.contains(|c: char| ('1'..='9').contains(&c)) {
            text.remove(0);
        }
        self.raw(key, &text);
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
