//! The limits for matching names and patterns: a step budget for each request, and remembered answers.
//!
//! The budget counts steps instead of time, so that a request gets the same answer on every machine. All clients of a
//! role ask for the same few patterns, and an answer depends only on the role's table, so answers are remembered.

use std::collections::HashMap;
use std::mem;

use foldhash::quality::RandomState;

/// The budget is used up, and the question is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget;

/// The steps of matching that are left. A step checks one place of a pattern, which takes a few nanoseconds.
#[derive(Debug)]
pub struct MatchBudget {
    left: usize,
}

impl MatchBudget {
    /// A budget of this many steps.
    pub fn new(steps: usize) -> Self {
        Self { left: steps }
    }

    /// An unlimited budget, for questions that do not come from clients.
    pub(super) fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// Steps that are left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Reserves a budget for a part of the work; [`Self::take_back`] returns the rest.
    pub(super) fn at_most(&mut self, steps: usize) -> Self {
        let steps = steps.min(self.left);
        self.left -= steps;
        Self { left: steps }
    }

    /// Adds the rest of a reserved budget.
    pub(super) fn take_back(&mut self, part: Self) {
        self.left += part.left;
    }

    /// Takes steps from the budget. If too few are left, fails and empties the budget.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), OverBudget> {
        let left = self.left.checked_sub(steps);
        self.left = left.unwrap_or(0);
        left.map(drop).ok_or(OverBudget)
    }
}

type Half<V> = HashMap<Box<str>, (V, usize), RandomState>;

/// A cache of values by text, in two halves. When the newer half is full, it replaces the older half, and the values
/// there are dropped. A lookup moves its value to the newer half, so only unused values are forgotten.
#[derive(Clone, Debug)]
pub struct Remembered<V> {
    newer: Half<V>,
    older: Half<V>,
    /// The weight of the newer half.
    weight: usize,
    weight_max: usize,
}

impl<V> Remembered<V> {
    /// An empty cache. Each half holds at most half of this weight, or a single value that is heavier.
    pub fn new(weight_max: usize) -> Self {
        Self {
            newer: HashMap::default(),
            older: HashMap::default(),
            weight: 0,
            weight_max,
        }
    }

    /// The remembered value.
    pub fn get(&mut self, text: &str) -> Option<&mut V> {
        if let Some((text, (value, weight))) = self.older.remove_entry(text) {
            self.insert(text, value, weight);
        }
        self.newer.get_mut(text).map(|(value, _)| value)
    }

    /// Stores a value with its weight, and replaces an earlier value.
    pub fn put(&mut self, text: &str, value: V, weight: usize) {
        let known = self.newer.remove_entry(text);
        self.weight -= known.as_ref().map_or(0, |(_, (_, weight))| *weight);
        let known = known.or_else(|| self.older.remove_entry(text));
        let text = known.map_or_else(|| text.into(), |(text, _)| text);
        self.insert(text, value, weight);
    }

    fn insert(&mut self, text: Box<str>, value: V, weight: usize) {
        if self.weight + weight > self.weight_max / 2 {
            self.older = mem::take(&mut self.newer);
            self.weight = 0;
        }
        self.weight += weight;
        self.newer.insert(text, (value, weight));
    }

    /// The weight of all values.
    pub fn weight(&self) -> usize {
        self.weight + self.older.values().map(|(_, weight)| weight).sum::<usize>()
    }
}

/// The most remembered patterns for each role of the table.
const VERDICTS_MAX: usize = 1_024;

/// The longest remembered pattern.
const PATTERN_BYTES_MAX: usize = 255;

/// Remembered answers.
#[derive(Clone, Debug)]
pub(super) struct Verdicts(Remembered<bool>);

impl Default for Verdicts {
    fn default() -> Self {
        Self(Remembered::new(VERDICTS_MAX))
    }
}

impl Verdicts {
    /// The remembered answer for this pattern.
    pub(super) fn get(&mut self, pattern: &str) -> Option<bool> {
        self.0.get(pattern).copied()
    }

    /// Remembers an answer.
    pub(super) fn keep(&mut self, pattern: &str, granted: bool) {
        if pattern.len() <= PATTERN_BYTES_MAX {
            self.0.put(pattern, granted, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_kept_and_the_rest_is_bounded() {
        let mut verdicts = Verdicts::default();
        verdicts.keep("popular", true);
        for n in 0..100_000 {
            verdicts.keep(&format!("{n}*"), false);
            assert_eq!(verdicts.get("popular"), Some(true), "{n}");
        }
        assert_eq!(verdicts.get("1*"), None);
        assert_eq!(verdicts.get("99999*"), Some(false));
        let known = verdicts.0.weight();
        assert!(known <= VERDICTS_MAX, "{known}");
        let mut verdicts = Verdicts::default();
        (0..VERDICTS_MAX / 2).for_each(|n| verdicts.keep(&format!("{n}*"), n % 2 == 0));
        for n in 0..VERDICTS_MAX / 2 {
            assert_eq!(verdicts.get(&format!("{n}*")), Some(n % 2 == 0));
        }
        let long = "x".repeat(PATTERN_BYTES_MAX + 1);
        verdicts.keep(&long, true);
        assert_eq!(verdicts.get(&long), None);
        verdicts.keep(&long[1..], true);
        assert_eq!(verdicts.get(&long[1..]), Some(true));
    }

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
