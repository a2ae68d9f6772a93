//! The names that the clients of a question wait for. Pure.

use std::collections::HashSet;

use foldhash::quality::RandomState;

use weirgate_core::TopicName;
use weirgate_wire::auth::{NamePatterns, NameSyntax};

/// The names that the clients of a question wait for. A stream is read whole for any name, so a question is for many.
pub(super) struct Sought {
    exact: HashSet<TopicName, RandomState>,
    patterns: Option<NamePatterns>,
}

impl Sought {
    /// Splits the names into exact ones and patterns. A pattern that weirgate cannot match as Redis does counts as an
    /// exact name.
    pub(super) fn new(names: &[TopicName]) -> Self {
        let syntax = NameSyntax::Redis;
        let is_pattern = |name: &&TopicName| {
            let name = name.as_str();
            syntax.is_pattern(name) && syntax.can_match(name)
        };
        let (patterns, exact): (Vec<_>, Vec<_>) = names.iter().partition(is_pattern);
        let patterns: Vec<String> = patterns.into_iter().cloned().map(String::from).collect();
        Self {
            exact: exact.into_iter().cloned().collect(),
            patterns: (!patterns.is_empty())
                .then(|| NamePatterns::new(syntax, &patterns))
                .and_then(Result::ok),
        }
    }

    /// Whether a client waits for messages of this channel.
    pub(super) fn has(&self, channel: &str) -> bool {
        let matches = |patterns: &NamePatterns| patterns.matches(channel);
        self.exact.contains(channel) || self.patterns.as_ref().is_some_and(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_or_patterns() {
        let names = ["a", "b.*", "c"].map(TopicName::from);
        let sought = Sought::new(&names);
        for (channel, is_sought) in [("a", true), ("b.1", true), ("c", true), ("ab", false)] {
            assert_eq!(sought.has(channel), is_sought, "{channel}");
        }
        let exact = Sought::new(&names[..1]);
        assert!(exact.has("a") && !exact.has("b.1"));
    }
}
