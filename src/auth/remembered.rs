//! A cache of values by text that forgets what is not used.

use std::collections::HashMap;
use std::mem;

use foldhash::quality::RandomState;

/// Values with their weights.
type Half<V> = HashMap<Box<str>, (V, usize), RandomState>;

/// A cache of values by text, in two halves. When the newer half is full, it replaces the older half, and the values
/// there are dropped. A lookup moves its value to the newer half, so only unused values are forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Remembered<V> {
    newer: Half<V>,
    older: Half<V>,
    /// The weight of the newer half.
    weight: usize,
    weight_max: usize,
}

impl<V> Remembered<V> {
    /// An empty cache. Each half holds at most half of this weight, or a single value that is heavier.
    pub(crate) fn new(weight_max: usize) -> Self {
        Self {
            newer: HashMap::default(),
            older: HashMap::default(),
            weight: 0,
            weight_max,
        }
    }

    /// The remembered value.
    pub(crate) fn get(&mut self, text: &str) -> Option<&mut V> {
        if let Some((text, (value, weight))) = self.older.remove_entry(text) {
            self.insert(text, value, weight);
        }
        self.newer.get_mut(text).map(|(value, _)| value)
    }

    /// Stores a value with its weight, and replaces an earlier value.
    pub(crate) fn put(&mut self, text: &str, value: V, weight: usize) {
        let known = self.newer.remove_entry(text);
        self.weight -= known.as_ref().map_or(0, |(_, (_, weight))| *weight);
        let known = known.or_else(|| self.older.remove_entry(text));
        let text = known.map_or_else(|| text.into(), |(text, _)| text);
        self.insert(text, value, weight);
    }

    /// Adds a value. If the newer half is full, the older half is forgotten.
    fn insert(&mut self, text: Box<str>, value: V, weight: usize) {
        if self.weight + weight > self.weight_max / 2 {
            self.older = mem::take(&mut self.newer);
            self.weight = 0;
        }
        self.weight += weight;
        self.newer.insert(text, (value, weight));
    }

    /// The weight of all values.
    #[cfg(test)]
    pub(crate) fn weight(&self) -> usize {
        self.weight + self.older.values().map(|(_, weight)| weight).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_grows_pushes_out_what_nobody_asks_for() {
        let mut remembered = Remembered::new(100);
        for n in 0..40 {
            remembered.put(&n.to_string(), n, 1);
        }
        for weight in [10, 40, 50, 1_000, 5] {
            remembered.put("7", weight, weight);
            assert_eq!(remembered.get("7"), Some(&mut weight.clone()));
            let counted = remembered.newer.values().map(|(_, weight)| weight);
            assert_eq!(counted.sum::<usize>(), remembered.weight);
            assert!(remembered.weight() <= 100.max(50 + weight));
        }
        assert_eq!(remembered.get("8"), None);
        // Values of the older half stay until the halves change again.
        let mut remembered = Remembered::new(4);
        for text in ["a", "b", "c"] {
            remembered.put(text, (), 1);
        }
        assert!(remembered.get("a").is_some() && remembered.older.len() == 1);
        remembered.put("b", (), 1);
        assert_eq!(
            (remembered.weight(), remembered.get("c")),
            (3, Some(&mut ()))
        );
    }
}
