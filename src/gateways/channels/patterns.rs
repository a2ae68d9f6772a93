//! The clients' patterns that the gateway matches itself: patterns of the kept feed, and patterns whose messages come
//! from the bus through a wider pattern that covers many of them. The bus sends such a message once, and the gateway
//! makes a copy for each pattern.
//!
//! The patterns that match a name are remembered, and a new pattern is compared with a name once. So a message of a
//! known name costs no comparison, and clients that come and go cost only the comparisons of their own patterns.
//!
//! The copies of a message have a limit, with a share for each address that brought a pattern. An address always has
//! room for one pattern; its clients lose the patterns over its share. Clients also lose a pattern that takes too many
//! steps of matching.

use std::collections::{BTreeMap, HashMap};

use foldhash::quality::RandomState;

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::follow_up::FollowUp;
use super::messages::Answer;
use super::names::Full;
use crate::auth::Remembered;
use weirgate_core::{ByClient, CopyRank, Core, NameRefusal, Publication, SessionKey, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::auth::{MatchBudget, NamePatterns, NameSyntax, OverBudget};

/// The most copies of a message for different patterns; each address may have one in any case.
const COPIES_MAX: usize = 32;

/// The most steps of matching a name with a pattern, beside four for each byte of the name: ten times what an ordinary
/// pattern takes. With the 500 patterns that an address may hold by default, a new name takes a millisecond at most; with
/// the 5,000 of the largest limit, ten.
const STEPS_MAX: usize = 1_000;

/// The most memory for remembered matches, and at most a quarter of the memory for names. A forgotten name is compared
/// with all patterns again.
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Memory of a remembered match beside the text of the name and the matching patterns.
const ANSWER_BYTES: usize = 2 * size_of::<(Box<str>, Matching, usize)>();

/// The matcher of a name; `None` if the name is not a pattern, or if only the bus can match the pattern.
pub(super) fn matcher(syntax: NameSyntax, name: &str) -> Option<NamePatterns> {
    let is_pattern = syntax.is_pattern(name) && syntax.can_match(name);
    is_pattern.then(|| NamePatterns::new(syntax, &[name.to_owned()]).ok())?
}

/// The patterns, and the remembered answers.
#[derive(Debug)]
pub(super) struct HeldPatterns {
    /// By number, in the order in which the first client asked for them.
    patterns: BTreeMap<u64, HeldPattern>,
    numbers: HashMap<TopicName, u64, RandomState>,
    /// The number of the next change: a pattern added or removed.
    next: u64,
    answers: Remembered<Matching>,
    /// Patterns that clients will lose, each with the limit that it exceeds.
    over: BTreeMap<u64, (Full, usize)>,
}

/// A pattern of clients.
#[derive(Debug)]
pub(super) struct HeldPattern {
    pub(super) name: TopicName,
    pub(super) matcher: NamePatterns,
    /// The wider pattern through which the messages come from the bus; `None` for the kept feed.
    pub(super) cover: Option<TopicName>,
    /// The address group that brought the pattern.
    pub(super) address: ClientAddr,
}

/// The patterns that match a name.
#[derive(Debug, Default)]
struct Matching {
    /// Changes from this number on are not in the answer.
    until: u64,
    /// In the order of the copies.
    matching: Vec<(CopyRank, u64)>,
}

impl HeldPatterns {
    /// No patterns; `name_bytes_max` is the memory for the names of all clients.
    pub(super) fn new(name_bytes_max: usize) -> Self {
        Self {
            patterns: BTreeMap::new(),
            numbers: HashMap::default(),
            next: 0,
            answers: Remembered::new(ANSWERS_BYTES_MAX.min(name_bytes_max / 4)),
            over: BTreeMap::new(),
        }
    }

    /// Adds a pattern, unless the pattern is there.
    pub(super) fn add(&mut self, pattern: HeldPattern) {
        if !self.numbers.contains_key(&pattern.name) {
            self.numbers.insert(pattern.name.clone(), self.next);
            self.patterns.insert(self.next, pattern);
            self.next += 1;
        }
    }

    /// Removes a pattern.
    pub(super) fn remove(&mut self, name: &TopicName) -> Option<HeldPattern> {
        let number = self.numbers.remove(name)?;
        self.next += 1;
        self.over.remove(&number);
        self.patterns.remove(&number)
    }

    /// The patterns whose messages come by `cover`.
    pub(super) fn within(&self, cover: &TopicName) -> Vec<TopicName> {
        let all = self.patterns.values();
        let within = all.filter(|pattern| pattern.cover.as_ref() == Some(cover));
        within.map(|pattern| pattern.name.clone()).collect()
    }

    /// The patterns of the kept feed that match only names that `outer` matches too.
    pub(super) fn of_feed_within(&self, syntax: NameSyntax, outer: &TopicName) -> Vec<TopicName> {
        let of_feed = self
            .patterns
            .values()
            .filter(|pattern| pattern.cover.is_none());
        let names = of_feed.map(|pattern| &pattern.name);
        let is_within = |name: &&TopicName| syntax.contains(outer.as_str(), name.as_str());
        names.filter(is_within).cloned().collect()
    }

    /// The patterns that match the name of a message that came through `cover`, in the order of the copies.
    pub(super) fn matching(
        &mut self,
        name: &str,
        cover: Option<&TopicName>,
    ) -> impl Iterator<Item = &TopicName> {
        let has_patterns = !self.patterns.is_empty();
        if has_patterns && self.answers.get(name).is_none_or(|a| a.until < self.next) {
            self.compare(name);
        }
        let answer = self.answers.get(name).filter(|_| has_patterns);
        let numbers = answer.into_iter().flat_map(|answer| &answer.matching);
        let patterns = numbers.filter_map(|(_, number)| self.patterns.get(number));
        let of_cover = patterns.filter(move |pattern| pattern.cover.as_ref() == cover);
        of_cover.map(|pattern| &pattern.name)
    }

    /// Brings the answer for a name up to date: compares the name with the patterns that are new since. Those over a
    /// limit go to `over`.
    fn compare(&mut self, name: &str) {
        let known = self.answers.get(name).map(std::mem::take);
        let Matching {
            until,
            mut matching,
        } = known.unwrap_or_default();
        matching.retain(|(_, number)| self.patterns.contains_key(number));
        for (number, pattern) in self.patterns.range(until..) {
            let steps = STEPS_MAX + 4 * name.len();
            let matches = pattern
                .matcher
                .matches_within(name, &mut MatchBudget::new(steps));
            if matches == Err(OverBudget) {
                self.over.insert(*number, (Full::Steps, steps));
            }
            if matches != Ok(true) {
                continue;
            }
            let is_theirs = |(_, other): &&(CopyRank, u64)| {
                let other = self.patterns.get(other);
                other.is_some_and(|other| other.address == pattern.address)
            };
            // An address gets a further copy only while it has fewer than are free.
            let held = matching.iter().filter(is_theirs).count();
            if held > 0 && held + matching.len() >= COPIES_MAX {
                self.over.insert(*number, (Full::Copies, COPIES_MAX));
                continue;
            }
            let copy = (CopyRank::of_pattern(pattern.name.as_str()), *number);
            let at = matching.partition_point(|other| *other < copy);
            matching.insert(at, copy);
        }
        matching.shrink_to_fit();
        let bytes = ANSWER_BYTES + name.len() + size_of_val(&*matching);
        let until = self.next;
        let answer = Matching { until, matching };
        self.answers.put(name, answer, bytes);
    }

    /// Whether clients lose patterns.
    pub(super) fn has_over(&self) -> bool {
        !self.over.is_empty()
    }

    /// The next pattern that clients lose, with the address that brought it, and the limit that it exceeds.
    fn next_over(&mut self) -> Option<(TopicName, ClientAddr, (Full, usize))> {
        let (number, limit) = self.over.pop_first()?;
        let pattern = self.patterns.get(&number)?;
        Some((pattern.name.clone(), pattern.address, limit))
    }
}

/// A pattern that clients lose.
#[derive(Debug)]
pub(super) struct GivingUp {
    name: TopicName,
    /// The address that brought it.
    address: ClientAddr,
    /// The limit that it exceeds.
    limit: (Full, usize),
    /// The members that do not know it yet.
    members: Vec<SessionKey>,
}

impl GivingUp {
    fn new((name, address, limit): (TopicName, ClientAddr, (Full, usize)), core: &Core) -> Self {
        Self {
            members: core.members(&name).collect(),
            name,
            address,
            limit,
        }
    }
}

impl ChannelsGateway {
    /// Publishes a message of the kept feed to the members of the matching patterns, and to the members of the name.
    pub(super) fn publish_kept(&mut self, core: &mut Core, publication: &Publication) {
        core.keep(publication);
        if !publication.deliver {
            return;
        }
        // `None`: patterns of the kept feed have no cover.
        for pattern in self.patterns.matching(publication.topic.as_str(), None) {
            core.publish_copy(publication, Some(pattern));
        }
        // If a name is also a pattern, its members hold the pattern and were served above. A name that the stream has got a
        // moment ago still comes from the bus: its members would get the message twice.
        let topic = &publication.topic;
        let is_own = !self.syntax().is_pattern(topic.as_str());
        if is_own && (!self.has_stream() || self.names.is_of_feed(topic)) {
            // `None`: the copy for the name itself.
            core.publish_copy(publication, None);
        }
    }

    /// Publishes a live message that the bus has sent for its name or for a pattern. If that pattern covers others,
    /// also publishes it to the members of the matching patterns among these.
    pub(super) fn publish_live(&mut self, core: &mut Core, publication: &Publication) {
        let topic = &publication.topic;
        self.publish_live_to(core, publication, topic);
        if let Some(subject) = &publication.subject
            && self.names.requests.covers(topic)
        {
            let within = self.patterns.matching(subject, Some(topic));
            let within: Vec<TopicName> = within.cloned().collect();
            for pattern in within {
                self.publish_live_to(core, publication, &pattern);
            }
        }
    }

    /// Publishes a live message of a name to its members, or of a subject to the members of the pattern `name`.
    fn publish_live_to(&mut self, core: &mut Core, publication: &Publication, name: &TopicName) {
        // The bus sent it before weirgate unsubscribed from the name. The stream has got the name, and brings the
        // message too.
        if self.has_stream() && self.names.is_of_feed(name) {
            return;
        }
        let subject = publication.subject.as_ref();
        if self.retained.note_live(name, subject) {
            self.ask_retained(core);
        }
        core.publish_copy(publication, subject.map(|_| name));
    }

    /// Ends the patterns over a limit for the clients of the address that brought them, as many as there is time for: a
    /// message has too many copies, or a pattern takes too many steps. All members of the pattern miss a number; those of
    /// the address also get an error.
    pub(super) fn give_up_over(&mut self, core: &mut Core, clients: &mut ByClient<ChannelsClient>) {
        loop {
            let next = self.giving_up.take();
            let next = next.or_else(|| Some(GivingUp::new(self.patterns.next_over()?, core)));
            let Some(mut pattern) = next else {
                return;
            };
            match pattern.members.pop() {
                Some(key) => {
                    self.give_up(core, key, clients.get_mut(key), &pattern);
                    self.giving_up = Some(pattern);
                }
                None => self.hand_pattern_on(core, &pattern),
            }
            if !core.has_time() {
                return;
            }
        }
    }

    /// Ends the pattern for one member. The member misses a number, because messages of the pattern were not sent; if it
    /// is of the address that brought the pattern, it also loses the pattern, and gets an error.
    fn give_up(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: Option<&mut ChannelsClient>,
        pattern: &GivingUp,
    ) {
        core.skip_number(key);
        let is_theirs = core.client_addr(key).map(ClientAddr::group) == Some(pattern.address);
        if let Some(client) = client.filter(|_| is_theirs) {
            let (limit, max) = pattern.limit;
            let name = pattern.name.as_str();
            core.note_refused_name(key, name, NameRefusal::ServerLimit);
            self.release(core, key, client, name.to_owned());
            let error = limit.error(max as u64);
            let error = format!("{error}, no longer subscribed: {name}");
            let answer = Answer::error(&error, "null");
            self.answer(core, key, client, answer, FollowUp::default());
            self.stats.limited[limit as usize].add(1);
        }
    }

    /// Passes a pattern that was given up to another address: if clients of one still hold it, it counts for that address from
    /// here on.
    fn hand_pattern_on(&mut self, core: &Core, gone: &GivingUp) {
        let other = core.members(&gone.name).next();
        let other = other.and_then(|key| core.client_addr(key));
        if let Some(pattern) = self.patterns.remove(&gone.name) {
            let address = other.map_or(gone.address, ClientAddr::group);
            self.patterns.add(HeldPattern { address, ..pattern });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(held: &mut HeldPatterns, pattern: &str) {
        add_of(held, pattern, ClientAddr::Unix);
    }

    fn add_of(held: &mut HeldPatterns, pattern: &str, address: ClientAddr) {
        let name = TopicName::from(pattern.to_owned());
        let matcher = matcher(NameSyntax::Redis, pattern).expect("a pattern");
        let cover = None;
        held.add(HeldPattern {
            name,
            matcher,
            cover,
            address,
        });
    }

    fn matching(held: &mut HeldPatterns, name: &str) -> Vec<String> {
        let matching = held
            .matching(name, None)
            .map(|name| name.as_str().to_owned());
        matching.collect()
    }

    #[test]
    fn an_answer_is_as_if_all_patterns_were_compared() {
        let mut held = HeldPatterns::new(usize::MAX);
        let patterns = ["a*", "*b", "?", "*", "a?c*", "*c*", "b*", "[ab]*"];
        let names = ["a", "ab", "abc", "b", "x", ""];
        let mut number: u64 = 7;
        for _ in 0..2_000 {
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let pick = |all: usize, shift: u32| (number >> shift) as usize % all;
            let pattern = patterns[pick(patterns.len(), 33)];
            match pick(2, 40) {
                0 => add(&mut held, pattern),
                _ => drop(held.remove(&TopicName::fixed(pattern))),
            }
            let name = names[pick(names.len(), 45)];
            let all = held.patterns.values();
            let mut all: Vec<_> = all
                .filter(|pattern| pattern.matcher.matches(name))
                .map(|pattern| pattern.name.as_str().to_owned())
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
        let mut held = HeldPatterns::new(usize::MAX);
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

    #[test]
    fn the_copies_of_a_message_are_bounded_and_each_address_keeps_one() {
        let address = |n: u8| ClientAddr::from(std::net::IpAddr::from([192, 0, 2, n]));
        let mut held = HeldPatterns::new(usize::MAX);
        let mut before = 0;
        for (n, begin, fit) in [(1, "a", 16), (2, "?", 8), (3, "[a]", 4)] {
            let patterns = (1..200).map(|stars| format!("{begin}{}", "*".repeat(stars)));
            let patterns: Vec<String> = patterns.collect();
            for pattern in &patterns {
                add_of(&mut held, pattern, address(n));
            }
            let got = matching(&mut held, "a");
            assert_eq!(got.len(), before + fit, "{begin}");
            assert!(
                patterns[..fit].iter().all(|pattern| got.contains(pattern)),
                "the oldest"
            );
            before += fit;
            assert_eq!(held.over.len(), 199 - fit);
            while let Some((name, holder, limit)) = held.next_over() {
                assert_eq!((holder, limit), (address(n), (Full::Copies, COPIES_MAX)));
                held.remove(&name);
            }
        }
        for n in 10..110 {
            add_of(
                &mut held,
                &format!("[a]{}", "*".repeat(300 + usize::from(n))),
                address(n),
            );
        }
        assert_eq!(
            (matching(&mut held, "a").len(), held.has_over()),
            (before + 100, false)
        );
        // A name that fewer patterns match has room.
        for pattern in ["b*", "b**"] {
            add_of(&mut held, pattern, address(1));
        }
        assert_eq!(matching(&mut held, "b").len(), 8 + 2);
        assert!(!held.has_over());
    }

    #[test]
    fn a_pattern_that_takes_too_many_steps_is_given_up() {
        let mut held = HeldPatterns::new(usize::MAX);
        let name = "market:tick:NIFTY24DEC24000CE".repeat(4);
        let people = ["market:*", "*CE", "*NIFTY*", "m*:*:*NIFTY*E", "*[0-9]*CE"];
        people.iter().for_each(|pattern| add(&mut held, pattern));
        add(&mut held, &format!("*{}!", "?".repeat(60)));
        assert_eq!(matching(&mut held, &name).len(), people.len());
        let (pattern, _, limit) = held.next_over().expect("one");
        assert!(
            pattern.as_str().ends_with("?!") && limit == (Full::Steps, STEPS_MAX + 4 * name.len())
        );
        assert!(!held.has_over());
    }
}
