//! The list of the fields of an entry of a stream, of which only the fields that count are kept. Pure.

use std::mem;

use super::Value;

/// The fields of an entry that have arrived so far: at most one of each name that counts.
#[derive(Debug, Default)]
pub(super) struct EntryFields {
    /// Names and their values by turns.
    kept: Vec<Value>,
    next: FieldPart,
}

/// The part of a field that arrives next.
#[derive(Debug, Default)]
enum FieldPart {
    #[default]
    Name,
    /// The value of the field of this name; `None`: of a field that does not count.
    Value(Option<Value>),
}

impl EntryFields {
    /// The longest string that is kept whole of the next part, if values that count are kept up to `value_bytes_max`.
    pub(super) fn bytes_max(&self, names: &[&[u8]], value_bytes_max: usize) -> usize {
        match &self.next {
            FieldPart::Name => names.iter().map(|name| name.len()).max().unwrap_or(0),
            FieldPart::Value(Some(_)) => value_bytes_max,
            FieldPart::Value(None) => 0,
        }
    }

    /// Takes the next part. Keeps the fields with these `names`; of several with one name, the last.
    pub(super) fn take(&mut self, part: Value, names: &[&[u8]]) {
        self.next = match mem::take(&mut self.next) {
            FieldPart::Name => {
                let counts = matches!(&part, Value::Bulk(name) if names.contains(&&name[..]));
                FieldPart::Value(counts.then_some(part))
            }
            FieldPart::Value(name) => {
                if let Some(name) = name {
                    self.keep(name, part);
                }
                FieldPart::Name
            }
        };
    }

    fn keep(&mut self, name: Value, value: Value) {
        let mut fields = self.kept.chunks_exact_mut(2);
        match fields.find(|field| field[0] == name) {
            Some(field) => field[1] = value,
            None => self.kept.extend([name, value]),
        }
    }

    /// The number of names and values for which memory is allocated.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.kept.capacity()
    }

    /// Names and their values by turns.
    pub(super) fn into_items(self) -> Vec<Value> {
        self.kept
    }
}
