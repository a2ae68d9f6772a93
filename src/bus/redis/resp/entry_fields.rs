//! The list of the fields of an entry of a stream, of which only the fields that count are kept. Pure.

use std::mem;

use super::{EntryField, Value};

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
    /// The value of the field of this name, with its most bytes; `None`: of a field that does not count.
    Value(Option<(Value, usize)>),
}

impl EntryFields {
    /// The longest string that is kept whole of the next part, if these fields are `kept`.
    pub(super) fn bytes_max(&self, kept: &[EntryField]) -> usize {
        match &self.next {
            FieldPart::Name => kept.iter().map(|kept| kept.name.len()).max().unwrap_or(0),
            FieldPart::Value(Some((_, bytes_max))) => *bytes_max,
            FieldPart::Value(None) => 0,
        }
    }

    /// Takes the next part. Keeps these fields; of several with one name, the last.
    pub(super) fn take(&mut self, part: Value, kept: &[EntryField]) {
        self.next = match mem::take(&mut self.next) {
            FieldPart::Name => {
                let is_it =
                    |kept: &&EntryField| matches!(&part, Value::Bulk(name) if *name == kept.name);
                let bytes_max = kept.iter().find(is_it).map(|kept| kept.bytes_max);
                FieldPart::Value(bytes_max.map(|bytes_max| (part, bytes_max)))
            }
            FieldPart::Value(name) => {
                if let Some((name, _)) = name {
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
