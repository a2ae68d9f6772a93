//! The patterns of the kept feed with members, and which of them match a name.
//!
//! The answer for each name is remembered, and a new pattern is compared with a name once: a message of a known
//! name costs nothing here, and clients that come and go cost their own patterns.

use std::collections::{BTreeMap, HashMap};

use foldhash::quality::RandomState;

use crate::auth::{NamePatterns, Remembered};
use crate::hub::{CopyRank, TopicName};

/// The most memory of the remembered answers. A forgotten name is compared with all patterns again.
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Memory of an answer beside the text of the name and the matching patterns.
const ANSWER_BYTES: usize = 2 * size_of::<(Box<str>, Answer, usize)>();

/// The patterns, and the remembered answers.
#[derive(Debug)]
pub(super) struct HeldPatterns {
    /// By number, in the order of their first members.
    patterns: BTreeMap<u64, (TopicName, NamePatterns)>,
    numbers: HashMap<TopicName, u64, RandomState>,
    /// The number of the next change: a pattern more, or less.
    next: u64,
    answers: Remembered<Answer>,
}

/// The patterns that match a name.
#[derive(Debug, Default)]
struct Answer {
    /// The answer is from before the change with this number.
    until: u64,
    /// In the order of the copies.
    matching: Vec<(CopyRank, u64)>,
}

impl Default for HeldPatterns {
    fn default() -> Self {
        Self {
            patterns: BTreeMap::new(),
            numbers: HashMap::default(),
            next: 0,
            answers: Remembered::new(ANSWERS_BYTES_MAX),
        }
    }
}

impl HeldPatterns {
    /// Adds a pattern, unless the pattern is there.
    pub(super) fn add(&mut self, name: &TopicName, patterns: NamePatterns) {
        if !self.numbers.contains_key(name) {
            self.numbers.insert(name.clone(), self.next);
            self.patterns.insert(self.next, (name.clone(), patterns));
            self.next += 1;
        }
    }

    /// Removes a pattern.
    pub(super) fn remove(&mut self, name: &TopicName) {
        if let Some(number) = self.numbers.remove(name) {
            self.patterns.remove(&number);
            self.next += 1;
        }
    }

    /// The patterns that match the name, in the order of the copies.
    pub(super) fn matching(&mut self, name: &str) -> impl Iterator<Item = &TopicName> {
        let has_patterns = !self.patterns.is_empty();
        if has_patterns && self.answers.get(name).is_none_or(|a| a.until < self.next) {
            self.compare(name);
        }
        let answer = self.answers.get(name).filter(|_| has_patterns);
        let numbers = answer.into_iter().flat_map(|answer| &answer.matching);
        numbers.filter_map(|(_, number)| Some(&self.patterns.get(number)?.0))
    }

    /// Brings the answer for a name up to date.
    fn compare(&mut self, name: &str) {
        let known = self.answers.get(name).map(std::mem::take);
        let Answer {
            until,
            mut matching,
        } = known.unwrap_or_default();
        matching.retain(|(_, number)| self.patterns.contains_key(number));
        for (number, (pattern, patterns)) in self.patterns.range(until..) {
            if patterns.matches(name) {
                let copy = (CopyRank::of_pattern(pattern.as_str()), *number);
                let at = matching.partition_point(|other| *other < copy);
                matching.insert(at, copy);
            }
        }
        matching.shrink_to_fit();
        let bytes = ANSWER_BYTES + name.len() + size_of_val(&*matching);
        let until = self.next;
        let answer = Answer { until, matching };
        self.answers.put(name, answer, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::NameSyntax;

    fn add(held: &mut HeldPatterns, pattern: &str) {
        let patterns = NamePatterns::new(NameSyntax::Redis, &[pattern.to_owned()]);
        let name = TopicName::from(pattern.to_owned());
        held.add(&name, patterns.expect("a pattern"));
    }

    fn matching(held: &mut HeldPatterns, name: &str) -> Vec<String> {
        let matching = held.matching(name).map(|name| name.as_str().to_owned());
        matching.collect()
    }

    #[test]
    fn an_answer_is_as_if_all_patterns_were_compared() {
        let mut held = HeldPatterns::default();
        let patterns = ["a*", "*b", "?", "*", "a?c*", "*c*", "b*", "[ab]*"];
        let names = ["a", "ab", "abc", "b", "x", ""];
        let mut number: u64 = 7;
        for _ in 0..2_000 {
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let of = |all: usize, shift: u32| (number >> shift) as usize % all;
            let pattern = patterns[of(patterns.len(), 33)];
            match of(2, 40) {
                0 => add(&mut held, pattern),
                _ => held.remove(&TopicName::fixed(pattern)),
            }
            let name = names[of(names.len(), 45)];
            let all = held.patterns.values();
            let mut all: Vec<_> = all
                .filter(|(_, patterns)| patterns.matches(name))
                .map(|(pattern, _)| pattern.as_str().to_owned())
                .collect();
            all.sort_by_key(|pattern| CopyRank::of_pattern(pattern));
            assert_eq!(matching(&mut held, name), all, "{name}");
        }
        for pattern in patterns {
            held.remove(&TopicName::fixed(pattern));
        }
        assert!(held.patterns.is_empty() && held.numbers.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_a_known_name_is_compared_with_new_patterns_only() {
        let mut held = HeldPatterns::default();
        add(&mut held, "n*");
        for n in 0..300_000 {
            assert_eq!(matching(&mut held, &format!("n{n}")), ["n*"]);
        }
        let bytes = held.answers.weight();
        assert!(
            (ANSWERS_BYTES_MAX / 4..=ANSWERS_BYTES_MAX).contains(&bytes),
            "{bytes}"
        );
        assert!(held.answers.get("n299999").is_some() && held.answers.get("n0").is_none());
        // A wrong answer stays wrong: only the new pattern is compared.
        held.answers
            .get("n299999")
            .expect("an answer")
            .matching
            .clear();
        add(&mut held, "*9");
        assert_eq!(matching(&mut held, "n299999"), ["*9"]);
        assert_eq!(matching(&mut held, "n299998"), ["n*"]);
    }
}
