//! The names of a replay, and how many messages the client has got of each.

use std::sync::Arc;

use super::super::AllClientsLimits;
use super::super::patterns::matcher;
use weirgate_core::{CopyRank, TopicName, Wanted};
use weirgate_wire::admission::Permit;
use weirgate_wire::auth::{NamePatterns, NameSyntax};

/// A name of which a client gets all kept messages.
#[derive(Debug)]
pub(super) struct ReplayedName {
    name: TopicName,
    /// `None`: the name is exact.
    patterns: Option<Arc<NamePatterns>>,
    /// The messages that the client has got.
    count: u64,
}

impl ReplayedName {
    pub(super) fn new(syntax: NameSyntax, name: TopicName) -> Self {
        Self {
            patterns: matcher(syntax, name.as_str()).map(Arc::new),
            name,
            count: 0,
        }
    }

    pub(super) fn name(&self) -> &TopicName {
        &self.name
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Counts messages that the client gets.
    pub(super) fn add(&mut self, count: u64) {
        self.count += count;
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let matcher = self.patterns.as_ref();
        let matcher = matcher.map_or(0, |matcher| matcher.memory_bytes() as u64);
        AllClientsLimits::REPLAYED_NAME_BYTES + matcher
    }

    /// The name, if it is a pattern.
    pub(super) fn pattern(&self) -> Option<&TopicName> {
        self.patterns.as_ref().map(|_| &self.name)
    }

    /// The rank of the name's copy among the copies of a message.
    pub(super) fn rank(&self) -> CopyRank {
        let pattern = self.pattern();
        pattern.map_or(CopyRank::LAST, |name| CopyRank::of_pattern(name.as_str()))
    }

    fn is_for(&self, subject: &str) -> bool {
        match &self.patterns {
            Some(patterns) => patterns.matches(subject),
            None => self.name.as_str() == subject,
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            name: self.name.clone(),
            patterns: self.patterns.clone(),
        }
    }
}

/// The names of a replay.
#[derive(Debug)]
pub(super) struct ReplayedNames {
    /// In the order of the copies of a message.
    names: Vec<ReplayedName>,
    /// The permit for the memory of the names.
    memory: Permit,
}

impl ReplayedNames {
    pub(super) fn new(mut names: Vec<ReplayedName>, memory: Permit) -> Self {
        names.sort_by_key(ReplayedName::rank);
        Self { names, memory }
    }

    /// The only name; `None` if there are several.
    pub(super) fn single(&self) -> Option<&TopicName> {
        match &self.names[..] {
            [one] => Some(&one.name),
            _ => None,
        }
    }

    pub(super) fn as_slice(&self) -> &[ReplayedName] {
        &self.names
    }

    /// The names whose messages include those of this subject.
    pub(super) fn iter_for_mut(
        &mut self,
        subject: &str,
    ) -> impl Iterator<Item = &mut ReplayedName> {
        self.names.iter_mut().filter(|one| one.is_for(subject))
    }

    /// Whether messages of this subject are for the client.
    pub(super) fn is_for(&self, subject: &str) -> bool {
        self.names.iter().any(|one| one.is_for(subject))
    }

    /// Whether this name or pattern is among them.
    pub(super) fn has(&self, name: &TopicName) -> bool {
        self.names.iter().any(|one| one.name == *name)
    }

    pub(super) fn has_patterns(&self) -> bool {
        self.names.iter().any(|one| one.patterns.is_some())
    }

    /// Whether the copy with this rank is followed by others of the same message.
    pub(super) fn has_copy_after(&self, copy: CopyRank) -> bool {
        self.names.last().is_some_and(|last| last.rank() > copy)
    }

    /// What the history is searched for.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        self.names.iter().map(ReplayedName::wanted).collect()
    }

    /// Counts the messages of a page, in the order of [`wanted`](Self::wanted).
    pub(super) fn add_counts(&mut self, counts: &[u64]) {
        for (name, count) in self.names.iter_mut().zip(counts) {
            name.add(*count);
        }
    }

    /// Forgets a name. Returns whether it was the last one.
    pub(super) fn forget(&mut self, name: &TopicName) -> bool {
        let removed = self.names.extract_if(.., |one| one.name == *name);
        let bytes = removed.map(|one| one.memory_bytes()).sum();
        // 0: no other address holds a part of this memory.
        self.memory.give_back(bytes, 0);
        self.names.is_empty()
    }
}
