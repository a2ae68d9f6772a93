//! The names that a client asks for when it resumes, which topics they match, and after which message.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::topics::{KnownTopics, TopicIndex};
use crate::{Content, CopyRank, NotRecovered, TopicName};
use weirgate_wire::auth::{MatchBudget, NamePatterns, OverBudget};

/// A search that needs more steps of matching than this in one step of its own is refused as too large: about a millisecond.
/// Patterns of the usual kinds need a step or two for a name.
pub(super) const MATCH_STEPS_MAX: usize = 500_000;
/// After so many steps of matching, a step of a search looks at no further message; the message under way may take more, up
/// to [`MATCH_STEPS_MAX`].
const MATCH_STEPS_AT_ONCE: usize = 100_000;
/// The most messages that a step of a search looks at, without those of topics of which it is known that no wanted name
/// matches them: some 0.2 ms.
const LOOKS_AT_ONCE: usize = 1_000;
/// So many topics are passed over in the time of a look at a message.
const TOPICS_PER_LOOK: usize = 256;

/// Whether all missed messages of a name are there.
pub type Outcome = Result<(), NotRecovered>;

/// A name by which a client wants messages. Clones share the texts.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The topic to join.
    pub name: TopicName,
    /// The matcher, if the name is a pattern.
    pub patterns: Option<Arc<NamePatterns>>,
}

impl Wanted {
    /// A name without wildcards.
    pub fn exact(name: &TopicName) -> Self {
        Self {
            name: name.clone(),
            patterns: None,
        }
    }

    /// The name, if it is a pattern.
    pub(super) fn pattern(&self) -> Option<&TopicName> {
        self.patterns.as_ref().map(|_| &self.name)
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
    /// Whether the client may be given the positions of the messages, as far as these are certain. Not if it lacks messages
    /// before them, and does not know it yet.
    pub(crate) has_positions: bool,
}

/// The wanted names of a search, each once.
#[derive(Debug)]
pub(super) struct WantedNames {
    /// In the order of the copies of a message.
    patterns: Vec<Wanted>,
    exact: Vec<Wanted>,
}

impl WantedNames {
    /// Takes each name once, in the order of the copies of a message.
    pub(super) fn new<'w>(wanted: impl Iterator<Item = &'w Wanted>) -> Self {
        let mut seen: HashSet<&TopicName, RandomState> = HashSet::default();
        let wanted = wanted.filter(|wanted| seen.insert(&wanted.name)).cloned();
        let (mut patterns, exact): (Vec<Wanted>, Vec<_>) =
            wanted.partition(|wanted| wanted.patterns.is_some());
        patterns.sort_by_cached_key(Wanted::rank);
        Self { patterns, exact }
    }

    pub(super) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.exact.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Wanted> {
        self.patterns.iter().chain(&self.exact)
    }
}

/// The topics of which a search wants no message, as far as it knows: no wanted name matches them, or it has found enough of
/// them. A bit for each topic; a search for patterns remembers them from step to step.
#[derive(Debug)]
pub(super) struct Unwanted {
    words: Vec<u64>,
    /// How many topics the history had forgotten: another topic may have the bit of a forgotten one.
    gone: u64,
}

impl Unwanted {
    /// For the topics of now. Patterns may match any topic; names without wildcards match those that they equal.
    pub(super) fn new(names: &WantedNames, known: &KnownTopics) -> Self {
        let all = if names.has_patterns() { 0 } else { u64::MAX };
        let mut unwanted = Self {
            words: vec![all; known.slots().div_ceil(BITS)],
            gone: known.gone,
        };
        if !names.has_patterns() {
            for topic in names
                .exact
                .iter()
                .filter_map(|name| known.index(&name.name))
            {
                let (word, bit) = place_of(topic);
                unwanted.words[word] &= !bit;
            }
        }
        unwanted
    }

    /// Whether it is about the topics of now.
    pub(super) fn is_of(&self, known: &KnownTopics) -> bool {
        self.gone == known.gone
    }

    /// Memory, bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Adds a topic, if there is a bit for it: the history may have got more since the beginning.
    fn add(&mut self, topic: TopicIndex) {
        let (word, bit) = place_of(topic);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
    }

    /// Whether it has a topic.
    #[inline]
    fn has(&self, topic: TopicIndex) -> bool {
        let (word, bit) = place_of(topic);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// In [`Matching::list_of`]: the first list, which is empty.
const NO_NAMES: usize = 0;
/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// The index of the word with the bit of a topic, and the bit.
#[inline]
fn place_of(topic: TopicIndex) -> (usize, u64) {
    (topic.at() / BITS, 1 << (topic.at() % BITS))
}

/// The wanted names that match a topic, found once for each topic in a step of a search.
pub(super) struct Matching<'a> {
    patterns: &'a [Wanted],
    /// Of each topic: the wanted name that equals it, if there are patterns beside.
    exact: HashMap<TopicIndex, &'a Wanted, RandomState>,
    /// For each topic that this step has matched: the index in `lists` of the names that match it. A list of all topics
    /// would take longer to make than the step.
    list_of: HashMap<TopicIndex, usize, RandomState>,
    lists: Vec<Vec<&'a Wanted>>,
    /// The topics that the names equal; `None` if there are patterns, which may match any topic.
    exact_topics: Option<Vec<TopicIndex>>,
    /// How many of these are still wanted from a walk; `None`: any.
    wanted_left: Option<usize>,
    /// Steps of matching that are left, and those with which the step of the search began.
    budget: MatchBudget,
    steps: usize,
    /// What is remembered for the next step.
    unwanted: &'a mut Unwanted,
    /// What may still be looked at in this step, in topics that are passed over.
    topics_left: usize,
}

impl<'a> Matching<'a> {
    /// For a step of a search, with so many steps of matching at most.
    pub(super) fn new(
        names: &'a WantedNames,
        unwanted: &'a mut Unwanted,
        known: &KnownTopics,
        steps: usize,
    ) -> Self {
        let steps = steps.min(MATCH_STEPS_MAX);
        let has_patterns = names.has_patterns();
        let mut matching = Self {
            patterns: &names.patterns,
            exact: HashMap::default(),
            list_of: HashMap::default(),
            lists: vec![Vec::new()],
            exact_topics: (!has_patterns).then(Vec::new),
            wanted_left: None,
            budget: MatchBudget::new(steps),
            steps,
            unwanted,
            topics_left: LOOKS_AT_ONCE * TOPICS_PER_LOOK,
        };
        for wanted in &names.exact {
            let Some(topic) = known.index(&wanted.name) else {
                continue;
            };
            if has_patterns {
                matching.exact.insert(topic, wanted);
            } else {
                matching.set(topic, vec![wanted]);
            }
            if let Some(topics) = &mut matching.exact_topics {
                topics.push(topic);
            }
        }
        matching
    }

    /// The index in `topics` of the first topic that a wanted name may match. A resume spends most of its time here.
    // Inlined into its caller, it takes twice as many instructions for each topic.
    #[inline(never)]
    pub(super) fn first_of(&self, topics: &[TopicIndex]) -> Option<usize> {
        let (unwanted, mut topics) = (&*self.unwanted, topics.iter());
        topics.position(|topic| !unwanted.has(*topic))
    }

    /// The index in `topics` of the last topic that a wanted name may match.
    #[inline(never)]
    pub(super) fn last_of(&self, topics: &[TopicIndex]) -> Option<usize> {
        let (unwanted, mut topics) = (&*self.unwanted, topics.iter());
        topics.rposition(|topic| !unwanted.has(*topic))
    }

    /// Whether a wanted name may match a topic.
    pub(super) fn may_match(&self, topic: TopicIndex) -> bool {
        !self.unwanted.has(topic)
    }

    /// Takes the time of a look at a message from the step of the search. Returns false if the step is over, which
    /// looks at one message at least.
    pub(super) fn take_look(&mut self) -> bool {
        self.take_time_for(TOPICS_PER_LOOK)
    }

    /// Takes the time in which so many topics are passed over from the step of the search. Returns false if the step is
    /// over.
    pub(super) fn take_time_for(&mut self, topics: usize) -> bool {
        #[cfg(test)]
        super::tests::PASSED_OVER.set(super::tests::PASSED_OVER.get() + topics);
        let is_over = self.topics_left == 0 || self.spent() > MATCH_STEPS_AT_ONCE;
        self.topics_left = self.topics_left.saturating_sub(topics);
        !is_over
    }

    /// The steps of matching that this step of the search has taken.
    pub(super) fn spent(&self) -> usize {
        self.steps - self.budget.left()
    }

    /// The wanted names that match a topic that was not [excluded](Self::exclude).
    pub(super) fn names_for(
        &mut self,
        topic: TopicIndex,
        known: &KnownTopics,
    ) -> Result<&[&'a Wanted], NotRecovered> {
        let list = match self.list_of.get(&topic) {
            Some(&list) => list,
            None => self.find(topic, known)?,
        };
        Ok(&self.lists[list])
    }

    /// No further message of a topic is wanted.
    pub(super) fn exclude(&mut self, topic: TopicIndex) {
        if self.may_match(topic) {
            self.wanted_left = self.wanted_left.map(|left| left.saturating_sub(1));
        }
        self.unwanted.add(topic);
    }

    /// The wanted topics, if there are no patterns: then each is looked up.
    pub(super) fn exact_topics(&self) -> Option<Vec<TopicIndex>> {
        self.exact_topics.clone()
    }

    /// A walk is over once so many topics are [excluded](Self::exclude).
    pub(super) fn end_after(&mut self, topics: usize) {
        self.wanted_left = Some(topics);
    }

    /// Whether a walk finds no wanted message any more.
    pub(super) fn has_excluded_all(&self) -> bool {
        self.wanted_left == Some(0)
    }

    /// Finds the wanted names that match a topic; returns the index of the list. The copy of the name that equals the topic
    /// comes last.
    fn find(&mut self, topic: TopicIndex, known: &KnownTopics) -> Result<usize, NotRecovered> {
        let text = known.topic(topic).as_str();
        let mut matching = Vec::new();
        for wanted in self.patterns {
            if let Some(patterns) = &wanted.patterns {
                let matches = patterns.matches_within(text, &mut self.budget);
                let matches = matches.map_err(|OverBudget| NotRecovered::Large)?;
                matching.extend(matches.then_some(wanted));
            }
        }
        matching.extend(self.exact.get(&topic));
        if matching.is_empty() {
            self.exclude(topic);
            return Ok(NO_NAMES);
        }
        Ok(self.set(topic, matching))
    }

    /// Sets the names that match a topic; returns the index of the list. Topics in a row that the same patterns match share
    /// one.
    fn set(&mut self, topic: TopicIndex, names: Vec<&'a Wanted>) -> usize {
        let is_last = |last: &Vec<&Wanted>| {
            let mut pairs = last.iter().zip(&names);
            last.len() == names.len() && pairs.all(|(a, b)| std::ptr::eq(*a, *b))
        };
        if !self.lists.last().is_some_and(is_last) {
            self.lists.push(names);
        }
        let list = self.lists.len() - 1;
        self.list_of.insert(topic, list);
        list
    }
}

/// The number of the last message that a client got, and the last copy of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct After {
    pub(super) number: u64,
    pub(super) copy: CopyRank,
}

/// Before all messages.
impl Default for After {
    fn default() -> Self {
        Self::all_of(0)
    }
}

impl After {
    /// After all copies of this message.
    pub(super) fn all_of(number: u64) -> Self {
        let copy = CopyRank::LAST;
        Self { number, copy }
    }

    /// The number of the newest message of which the client has the copy for a name.
    pub(super) fn number_for(self, wanted: &Wanted) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&'static str], patterns: &[&'static str]) -> WantedNames {
        let matcher = |name: &str| NamePatterns::new(Default::default(), &[name.to_owned()]);
        let patterns = patterns.iter().map(|&name| Wanted {
            name: TopicName::fixed(name),
            patterns: Some(Arc::new(matcher(name).expect("a pattern"))),
        });
        let names = names
            .iter()
            .map(|&name| Wanted::exact(&TopicName::fixed(name)));
        let wanted: Vec<Wanted> = patterns.chain(names).collect();
        WantedNames::new(wanted.iter())
    }

    fn topic(n: usize) -> TopicName {
        TopicName::from(format!("a:{n}"))
    }

    #[test]
    fn of_names_without_wildcards_it_is_known_which_topics_are_wanted() {
        let mut known = KnownTopics::new(1 << 20);
        let indices: Vec<_> = (0..200).map(|n| known.add(&topic(n), 0)).collect();
        for at in [0, 63, 64, 127, 199] {
            let wanted = WantedNames::new([Wanted::exact(&topic(at))].iter());
            let mut unwanted = Unwanted::new(&wanted, &known);
            let mut matching = Matching::new(&wanted, &mut unwanted, &known, 0);
            assert_eq!(matching.first_of(&indices), Some(at));
            assert_eq!(matching.last_of(&indices), Some(at));
            let names = matching.names_for(indices[at], &known);
            assert_eq!(names.expect("no steps").len(), 1);
        }
    }

    /// A table of all topics would be 4 bytes for each, in each of the hundreds of steps of a search.
    #[test]
    fn a_step_takes_memory_for_the_topics_that_it_looks_at() {
        let mut known = KnownTopics::new(usize::MAX);
        let indices: Vec<_> = (0..100_000).map(|n| known.add(&topic(n), 0)).collect();
        for wanted in [
            names(&[], &["a:*"]),
            names(&["a:5"], &["a:*"]),
            names(&["a:5"], &[]),
        ] {
            let mut unwanted = Unwanted::new(&wanted, &known);
            let mut matching = Matching::new(&wanted, &mut unwanted, &known, 1_000);
            for &topic in &indices[..10] {
                let _ = matching.names_for(topic, &known);
            }
            let entry = size_of::<(TopicIndex, usize)>();
            let step = matching.list_of.capacity() * entry;
            let bits = unwanted.bytes();
            assert!(step < 1_000 && bits < 16_000, "{step} {bits}");
        }
    }

    #[test]
    fn what_is_known_of_topics_is_not_of_those_that_come_after_them() {
        let mut known = KnownTopics::new(0);
        let wanted = names(&["b"], &["a:*"]);
        let first = known.add(&TopicName::fixed("c"), 0);
        let mut unwanted = Unwanted::new(&wanted, &known);
        let mut matching = Matching::new(&wanted, &mut unwanted, &known, 100);
        assert!(matching.may_match(first), "not asked yet");
        let names = matching.names_for(first, &known).expect("few steps");
        assert!(names.is_empty() && !matching.may_match(first));
        assert!(unwanted.is_of(&known));
        // The history forgets the topic with its last message, and another one gets its place.
        known.forget_message(first, 1);
        let second = known.add(&topic(1), 0);
        assert_eq!(first, second);
        assert!(!unwanted.is_of(&known));
    }
}
