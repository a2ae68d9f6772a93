//! JSON text, written key by key.
//!
//! Not a JSON library's value: those keep their objects in hash maps, and here the order of keys
//! and the number of decimals are part of what a seed promises.

use std::fmt::Write;

/// One JSON object while it is written. [`Object::end`] writes its closing brace.
pub(super) struct Object<'a> {
    out: &'a mut String,
    first: bool,
}

impl<'a> Object<'a> {
    /// Writes the opening brace.
    pub(super) fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    pub(super) fn end(self) {
        self.out.push('}');
    }

    fn key(&mut self, key: &str) {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        string(self.out, key);
        self.out.push(':');
    }

    /// A number with `decimals` digits after the point.
    pub(super) fn number(&mut self, key: &str, value: f64, decimals: usize) -> &mut Self {
        self.key(key);
        number(self.out, value, decimals);
        self
    }

    pub(super) fn integer(&mut self, key: &str, value: i64) -> &mut Self {
        self.key(key);
        let _ = write!(self.out, "{value}");
        self
    }

    pub(super) fn boolean(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key);
        self.out.push_str(if value { "true" } else { "false" });
        self
    }

    /// A string, or `null`.
    pub(super) fn text<'s>(&mut self, key: &str, value: impl Into<Option<&'s str>>) -> &mut Self {
        self.key(key);
        match value.into() {
            Some(value) => string(self.out, value),
            None => self.out.push_str("null"),
        }
        self
    }

    /// An object, filled by `fill`.
    pub(super) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) -> &mut Self {
        self.key(key);
        let mut inner = Object::begin(self.out);
        fill(&mut inner);
        inner.end();
        self
    }

    /// An array with one element per item; `write` writes that element, one JSON value.
    pub(super) fn array<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut String, T),
    ) -> &mut Self {
        self.key(key);
        self.out.push('[');
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push(',');
            }
            write(self.out, item);
        }
        self.out.push(']');
        self
    }
}

/// Writes a number; one that JSON has no text for becomes `null`, and `-0.00` becomes `0.00`.
pub(super) fn number(out: &mut String, value: f64, decimals: usize) {
    if !value.is_finite() {
        out.push_str("null");
        return;
    }
    let start = out.len();
    let _ = write!(out, "{value:.decimals$}");
    let is_negative_zero =
        out[start..].starts_with('-') && !out[start..].contains(|c: char| ('1'..='9').contains(&c));
    if is_negative_zero {
        out.remove(start);
    }
}

fn string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_written_in_order() {
        let mut out = String::new();
        let mut object = Object::begin(&mut out);
        object
            .number("price", 6850.25, 2)
            .number("zero", -0.001, 2)
            .number("small", -0.01, 2)
            .number("none", f64::NAN, 2)
            .integer("n", -3)
            .boolean("yes", true)
            .text("say", "a \"b\" \\ \u{1}")
            .text("null", None)
            .object("inner", |o| {
                o.integer("a", 1);
            })
            .array("list", [1.0, 2.5], |out, x| number(out, x, 1))
            .array("empty", [0.0; 0], |out, x| number(out, x, 1));
        object.end();
        assert_eq!(
            out,
            r#"{"price":6850.25,"zero":0.00,"small":-0.01,"none":null,"n":-3,"yes":true,"say":"a \"b\" \\ \u0001","null":null,"inner":{"a":1},"list":[1.0,2.5],"empty":[]}"#
        );
    }
}
