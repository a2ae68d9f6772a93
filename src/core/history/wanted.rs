//! The names that a client asks for when it resumes, which topics they match, and after which message.

use std::collections::HashSet;

use foldhash::quality::RandomState;

use super::topics::{KnownTopics, TopicIndex};
use crate::{Content, CopyRank, NotRecovered, TopicName};
use weirgate_wire::auth::{MatchBudget, NamePatterns, OverBudget};

/// The most steps of matching in one search, about a millisecond. Patterns of the usual kinds need a step or
/// two for a name.
pub(super) const MATCH_STEPS_MAX: usize = 500_000;

/// Whether all missed messages of a name are there.
pub type Outcome = Result<(), NotRecovered>;

/// A name by which a client wants messages.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The topic to join.
    pub name: &'a TopicName,
    /// The matcher, if the name is a pattern.
    pub patterns: Option<&'a NamePatterns>,
}

impl<'a> Wanted<'a> {
    /// A name without wildcards.
    pub fn exact(name: &'a TopicName) -> Self {
        Self {
            name,
            patterns: None,
        }
    }

    /// The name, if it is a pattern.
    pub(super) fn pattern(&self) -> Option<&'a TopicName> {
        self.patterns.map(|_| self.name)
    }

    /// The rank of the name's copy among the copies of a message.
    pub(super) fn rank(&self) -> CopyRank {
        rank_of(self.pattern())
    }
}

/// The rank of the copy for a pattern, or for the topic's own name.
pub(super) fn rank_of(pattern: Option<&TopicName>) -> CopyRank {
    pattern.map_or(CopyRank::LAST, |pattern| {
        CopyRank::of_pattern(pattern.as_str())
    })
}

/// The kind of frames that a client gets in one search, and the most bytes of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameBudget {
    pub(crate) content: Content,
    pub(crate) bytes_max: usize,
}

/// The wanted names that match a topic, found once for each topic.
pub(super) struct Matching<'b, 'a> {
    /// The patterns, in the order of the copies of a message.
    patterns: Vec<&'a Wanted<'a>>,
    /// For each topic: the index of its names in `lists`.
    places: Vec<u32>,
    lists: Vec<Vec<&'a Wanted<'a>>>,
    budget: &'b mut MatchBudget,
}

/// The first list is empty: no wanted name matches.
const NO_NAMES: u32 = 0;
/// The patterns have not been matched against the topic yet.
const NOT_ASKED: u32 = u32::MAX;

impl<'b, 'a> Matching<'b, 'a> {
    pub(super) fn new(
        wanted: impl Iterator<Item = &'a Wanted<'a>>,
        known: &KnownTopics,
        budget: &'b mut MatchBudget,
    ) -> Result<Self, NotRecovered> {
        let mut seen: HashSet<&TopicName, RandomState> = HashSet::default();
        let wanted = wanted.filter(|wanted| seen.insert(wanted.name));
        let (mut patterns, exact): (Vec<&Wanted<'_>>, Vec<_>) =
            wanted.partition(|wanted| wanted.patterns.is_some());
        patterns.sort_by_key(|wanted| wanted.rank());
        let place = match patterns.is_empty() {
            true => NO_NAMES,
            false => NOT_ASKED,
        };
        let mut matching = Self {
            patterns,
            places: vec![place; known.slots()],
            lists: vec![Vec::new()],
            budget,
        };
        for wanted in exact {
            if let Some(topic) = known.index(wanted.name) {
                matching.find(topic, Some(wanted), known)?;
            }
        }
        Ok(matching)
    }

    /// The index in `topics` of the first topic that a wanted name may match. A resume spends most of its time here.
    // Inlined into its caller, it takes twice as many instructions for each topic.
    #[inline(never)]
    pub(super) fn first_of(&self, topics: &[TopicIndex]) -> Option<usize> {
        let mut topics = topics.iter();
        topics.position(|topic| self.places[topic.at()] != NO_NAMES)
    }

    /// The wanted names that match a topic.
    pub(super) fn names_for(
        &mut self,
        topic: TopicIndex,
        known: &KnownTopics,
    ) -> Result<&[&'a Wanted<'a>], NotRecovered> {
        if self.places[topic.at()] == NOT_ASKED {
            self.find(topic, None, known)?;
        }
        Ok(&self.lists[self.places[topic.at()] as usize])
    }

    /// Finds the wanted names that match a topic. `exact` is the wanted name that equals the topic; its copy comes
    /// last.
    fn find(
        &mut self,
        topic: TopicIndex,
        exact: Option<&'a Wanted<'a>>,
        known: &KnownTopics,
    ) -> Outcome {
        let text = known.topic(topic).as_str();
        let mut matching = Vec::new();
        for wanted in &self.patterns {
            if let Some(patterns) = wanted.patterns {
                let matches = patterns.matches_within(text, self.budget);
                let matches = matches.map_err(|OverBudget| NotRecovered::Large)?;
                matching.extend(matches.then_some(*wanted));
            }
        }
        matching.extend(exact);
        if matching.is_empty() {
            self.places[topic.at()] = NO_NAMES;
        } else {
            self.places[topic.at()] = self.lists.len() as u32;
            self.lists.push(matching);
        }
        Ok(())
    }
}

/// The number of the last message that a client got, and the last copy of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct After {
    pub(super) number: u64,
    pub(super) copy: CopyRank,
}

impl After {
    /// The number of the newest message of which the client has the copy for a name.
    pub(super) fn number_for(self, wanted: &Wanted<'_>) -> u64 {
        match wanted.rank() <= self.copy {
            true => self.number,
            false => self.number.saturating_sub(1),
        }
    }

    /// The number of the newest message of which the client has all copies.
    pub(super) fn whole(self) -> u64 {
        let is_part = self.copy < CopyRank::LAST;
        self.number.saturating_sub(u64::from(is_part))
    }
}
