//! The names of the kept feed. The bus sends their messages once and in one order, whatever clients hold; the
//! gateway finds the matching names of clients, so a message has the same position for all clients.
//!
//! The answer for each name is remembered, and a new pattern is compared with a name once: a message of a known
//! name costs nothing here, and clients that come and go cost their own patterns.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::FixedState;
use foldhash::quality::RandomState;

use super::ChannelsGateway;
use crate::auth::{NameError, NamePatterns, NameSyntax, Remembered};
use crate::hub::{
    ConflationKey, CopyRank, Core, Frame, FrameBytes, Place, Publication, SessionKey, TopicName,
    Wanted,
};
use crate::wire::object_writer::quoted;

/// The text before the pattern in the frame of an exact name, behind the name.
const PATTERN: &str = r#","pattern":"#;
/// The text behind the position at the end of a frame.
const POSITION_END: &[u8] = br#""}"#;

/// The most memory of the remembered answers. A forgotten name is compared with all patterns again.
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Memory of an answer beside the text of the name and the matching patterns.
const ANSWER_BYTES: usize = 2 * size_of::<(Box<str>, Answer, usize)>();

/// The names read from the start, and the clients' patterns among them.
#[derive(Debug)]
pub struct KeptNames {
    syntax: NameSyntax,
    names: Vec<String>,
    patterns: NamePatterns,
    /// Names outside of the feed can be asked of the bus.
    has_others: bool,
    pub(super) held: HeldPatterns,
}

impl KeptNames {
    /// The list of names and patterns.
    ///
    /// # Errors
    /// The first text of another kind, and why.
    pub fn new(syntax: NameSyntax, names: Vec<String>) -> Result<Self, (String, NameError)> {
        Ok(Self {
            syntax,
            patterns: NamePatterns::new(syntax, &names)?,
            names,
            has_others: true,
            held: HeldPatterns::default(),
        })
    }

    /// The feed is a stream, which is read whole: nothing else can be asked of the bus.
    #[must_use]
    pub fn of_stream(self) -> Self {
        Self {
            has_others: false,
            ..self
        }
    }

    /// Whether neither the gateway nor the bus can find the messages of this name.
    pub(super) fn refuse(&self, name: &str) -> bool {
        !self.has_others && self.syntax.is_pattern(name) && !self.syntax.can_match(name)
    }

    /// Whether all messages of a client's name or pattern are of the feed. Of two patterns only the plain
    /// cases are decided; any other pattern is asked of the bus.
    pub(super) fn hold(&self, name: &str) -> bool {
        match self.syntax.is_pattern(name) {
            true => {
                let mut names = self.names.iter();
                names.any(|kept| self.syntax.contains(kept, name)) && self.syntax.can_match(name)
            }
            false => self.patterns.matches(name),
        }
    }

    /// Handles the first member of a name of the feed.
    pub(super) fn joined(&mut self, name: &TopicName) {
        if let Some(patterns) = self.patterns_of(name) {
            self.held.add(name, patterns);
        }
    }

    /// The matcher of a name, if the name is a pattern.
    pub(super) fn patterns_of(&self, name: &TopicName) -> Option<NamePatterns> {
        let text = [name.as_str().to_owned()];
        let is_pattern = self.syntax.is_pattern(name.as_str());
        is_pattern.then(|| NamePatterns::new(self.syntax, &text).ok())?
    }
}

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
    fn add(&mut self, name: &TopicName, patterns: NamePatterns) {
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

impl ChannelsGateway {
    /// Publishes a message of the kept feed to the members of the matching patterns, and of the name. A
    /// client may be cut between two copies, so each copy has a position.
    pub(super) fn publish_kept(&mut self, core: &mut Core, publication: &Publication) {
        let (name, frame) = (&publication.topic, &publication.frame);
        let has_position = publication.place.position().is_some();
        let is_pattern = self.syntax().is_pattern(name.as_str());
        let kept = self.kept.iter_mut();
        let patterns = kept.flat_map(|kept| kept.held.matching(name.as_str()));
        let variants: Vec<_> = patterns
            .map(|pattern| (pattern, variant(frame, name, pattern, core.frame_bytes())))
            .collect();
        for (pattern, frame) in &variants {
            core.publish(&Publication {
                topic: (*pattern).clone(),
                frame: Arc::clone(frame),
                place: Place::Outside,
                ..*publication
            });
        }
        match is_pattern {
            true => core.publish_to_nobody(publication),
            false => core.publish(publication),
        }
        for (pattern, frame) in variants.iter().filter(|_| has_position) {
            core.keep_variant(pattern, frame);
        }
    }
}

/// Whether the client is a member of a name of the kept feed.
pub(super) fn holds_kept(core: &Core, key: SessionKey, kept: Option<&KeptNames>) -> bool {
    kept.is_some_and(|kept| core.joined(key).any(|name| kept.hold(name.as_str())))
}

/// A name to resume, with the matcher.
pub(super) fn wanted<'a>((name, patterns): &'a (TopicName, Option<NamePatterns>)) -> Wanted<'a> {
    Wanted {
        name,
        patterns: patterns.as_ref(),
    }
}

/// The frame of a message for clients of a pattern: with the pattern in place of `null`, and with the rank
/// of this copy behind the position.
pub(super) fn variant(
    frame: &Frame,
    name: &TopicName,
    pattern: &TopicName,
    alive: &FrameBytes,
) -> Arc<Frame> {
    let pattern_text = quoted(pattern.as_str());
    // The feed writes `,"channel":NAME,"pattern":null,…` behind the number.
    let before = r#","channel":"#.len() + quoted(name.as_str()).len() + PATTERN.len();
    let body = frame.body();
    let (before, rest) = body.split_at(before.min(body.len()));
    let rest = rest.strip_prefix(b"null").unwrap_or(rest);
    let (rest, suffix, end) = match rest.strip_suffix(POSITION_END) {
        Some(rest) if frame.has_position() => {
            let suffix = CopyRank::of_pattern(pattern.as_str()).suffix();
            (rest, suffix, POSITION_END)
        }
        _ => (rest, Vec::new(), &[][..]),
    };
    let parts = [before, pattern_text.as_bytes(), rest, &suffix, end];
    let mut builder = Frame::text(alive)
        .with_capacity(parts.iter().map(|part| part.len()).sum())
        .lead(frame.lead())
        .received(frame.received())
        .ending_like(frame, suffix.len());
    if let Some(ConflationKey(key)) = frame.key() {
        // Each copy is replaced by copies of the same kind.
        let key = FixedState::default().hash_one((key, pattern.as_str()));
        builder = builder.key(ConflationKey(key));
    }
    for part in parts {
        builder = builder.body(part);
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

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
