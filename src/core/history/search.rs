//! Searches for the messages of names. A search looks at some messages in each step, and what is left of a long one goes on
//! in later turns. The client joins the names with the first step, so a search ends at the message that was the newest
//! then. Messages may be forgotten between two steps, so what was found is remembered by its number. The frames of
//! messages are made once all of them are known.

use std::ops::RangeInclusive;

use super::History;
use super::found::{Known, copy_bytes};
use super::message::KeptMessage;
use super::missed::Missed;
use super::newest_only::KeptOrder;
use super::topics::{KnownTopics, TopicIndex};
use super::wanted::{
    After, FrameBudget, MATCH_STEPS_MAX, Matching, Outcome, Unwanted, Wanted, WantedNames,
};
use crate::{Body, NotRecovered, RetainedCut, StoredId};
use weirgate_wire::admission::Permit;
use weirgate_wire::base::ExtendibleMap;

/// To pass over a message that stays alone of its topic takes as long as to pass over so many topics of the list.
const LOOK_ALONE: usize = 16;
/// Memory of a topic in [`NewestWalk::seen`]: a hash table may be half empty.
const SEEN_BYTES: usize = 2 * size_of::<(TopicIndex, usize)>();
/// The most steps of matching in a search. They are some 0.1 s, all of it in the client's shares: enough for most
/// patterns, of which a name takes few steps, and for some hundreds of steps for each of very many names.
const MATCH_STEPS_IN_ALL: usize = 100 * MATCH_STEPS_MAX;

/// A search that is under way. It keeps little, because very many clients may search at the same time.
#[derive(Debug)]
pub(super) struct HistorySearch {
    names: WantedNames,
    sought: Sought,
    /// The topics of which the search wants no message, as far as its steps have found out. `None` without patterns, or
    /// if there is no room for it: then each step finds it out anew.
    unwanted: Option<Unwanted>,
    /// The permit for the memory of `unwanted`.
    memory: Option<Permit>,
    /// The number of the newest message that the search looks at.
    until: u64,
    /// Steps of matching that are left.
    steps: usize,
    /// The bytes of what was found, as of [`copy_bytes`], without frames.
    bytes: usize,
}

/// What is looked for, and how far the search is.
#[derive(Debug)]
enum Sought {
    /// All messages after a position, oldest first: next the one with this number.
    Missed { since: After, next: u64 },
    /// The newest messages of each topic, newest first.
    Newest(NewestWalk),
}

/// The walk from the newest message back, until each topic has enough.
#[derive(Debug)]
struct NewestWalk {
    /// How many of each topic.
    count: usize,
    /// How many were found, by topic.
    seen: ExtendibleMap<TopicIndex, usize>,
    next: NextNewest,
}

#[derive(Clone, Copy, Debug)]
enum NextNewest {
    /// In the list, the one with this number or the next older one.
    Listed(u64),
    /// Among those that stay alone of their topics.
    Alone(KeptOrder),
}

impl HistorySearch {
    fn new<'w>(wanted: impl Iterator<Item = &'w Wanted>, sought: Sought, until: u64) -> Self {
        Self {
            names: WantedNames::new(wanted),
            sought,
            unwanted: None,
            memory: None,
            until,
            steps: MATCH_STEPS_IN_ALL,
            bytes: 0,
        }
    }

    /// Charges the memory of `unwanted`, or forgets it if there is no room.
    pub(super) fn charge(&mut self, grant: impl FnOnce(usize) -> Option<Permit>) {
        if self.memory.is_none()
            && let Some(unwanted) = &self.unwanted
        {
            self.memory = grant(unwanted.bytes());
            self.unwanted.take_if(|_| self.memory.is_none());
        }
    }

    /// Takes `unwanted` for a step; begins it anew if topics were forgotten since, whose indices others may have now.
    fn take_unwanted(&mut self, known: &KnownTopics) -> Unwanted {
        let unwanted = self.unwanted.take();
        let unwanted = unwanted.filter(|unwanted| unwanted.is_of(known));
        unwanted.unwrap_or_else(|| {
            self.memory = None;
            Unwanted::new(&self.names, known)
        })
    }
}

/// Takes what a step of a search finds.
struct Finds<'m> {
    missed: &'m mut Missed,
    /// As [`HistorySearch::bytes`].
    bytes: &'m mut usize,
    budget: FrameBudget,
}

impl Finds<'_> {
    /// Notes why the newest messages of these names are not whole.
    fn note_cut(&mut self, names: &[&Wanted], cut: RetainedCut) {
        for wanted in names {
            if !self.missed.cuts.contains_key(&wanted.name) {
                self.missed.cuts.insert(wanted.name.clone(), cut);
            }
        }
    }

    /// Adds a copy of a message; nothing for a message that these clients do not get. If the message is a frame, the
    /// frame is added now; otherwise it is made later. `is_older`: it is older than what was found before, as in a
    /// search for the newest messages.
    ///
    /// # Errors
    /// The copies are too many bytes, or the message is too large for these clients.
    fn push(
        &mut self,
        known: Known,
        entry: &KeptMessage,
        name: &Wanted,
        is_older: bool,
    ) -> Outcome {
        let content = self.budget.content;
        let Some(body) = entry.body_for(content) else {
            // In a search for the newest messages, `note_cut` has noted it.
            let is_missing = !is_older && entry.is_left_out_for(content);
            return if is_missing {
                Err(NotRecovered::Window)
            } else {
                Ok(())
            };
        };
        *self.bytes += copy_bytes(body, name);
        match body {
            Body::Frame(frame) => {
                // It counts among the frames from here on.
                *self.bytes -= frame.queue_bytes();
                let place = (entry.number, name.rank());
                self.missed.push_frame(place, frame.clone(), is_older);
            }
            Body::Message(_) => {
                let unmade = (known, name.pattern().cloned());
                self.missed.unmade.push_back(unmade);
            }
        }
        match *self.bytes + self.missed.bytes > self.budget.bytes_max {
            true => Err(NotRecovered::Large),
            false => Ok(()),
        }
    }
}

impl History {
    /// The messages of the wanted names after a position, oldest first, and for each name whether no message is
    /// missing. A long search goes on with [`make_next`](Self::make_next).
    pub(crate) fn missed(
        &mut self,
        since: &str,
        wanted: &[Wanted],
        budget: FrameBudget,
    ) -> (Missed, Vec<Outcome>) {
        let since = match self.numbers.find(since) {
            Ok(since) => since,
            Err(why) => return (Missed::default(), vec![Err(why); wanted.len()]),
        };
        let (missing, known) = (&self.missing, &self.known_topics);
        let judge = |wanted: &Wanted| missing.judge(since.number_for(wanted), wanted, known);
        let mut outcomes: Vec<Outcome> = wanted.iter().map(judge).collect();
        let good = wanted.iter().zip(&outcomes);
        let good = good.filter(|(_, outcome)| outcome.is_ok());
        let names = good.map(|(wanted, _)| wanted);
        let next = since.whole() + 1;
        let sought = Sought::Missed { since, next };
        let search = HistorySearch::new(names, sought, self.numbers.head);
        let (missed, found) = self.begin_search(search, budget);
        for outcome in &mut outcomes {
            *outcome = outcome.and(found);
        }
        (missed, outcomes)
    }

    /// The newest `count` messages of each topic that a wanted name matches, oldest first; or no message, and
    /// why not. A long search goes on with [`make_next`](Self::make_next).
    pub(crate) fn newest(
        &mut self,
        wanted: &[Wanted],
        count: usize,
        budget: FrameBudget,
    ) -> (Missed, Outcome) {
        let until = self.numbers.head;
        let sought = Sought::Newest(NewestWalk {
            count,
            seen: ExtendibleMap::default(),
            next: NextNewest::Listed(until),
        });
        let search = HistorySearch::new(wanted.iter(), sought, until);
        self.begin_search(search, budget)
    }

    /// Takes the first step of a search. If it is the last one, makes the first frames too.
    fn begin_search(&mut self, search: HistorySearch, budget: FrameBudget) -> (Missed, Outcome) {
        if search.names.is_empty() {
            return (Missed::default(), Ok(()));
        }
        let mut missed = Missed::default();
        missed.has_newest = matches!(search.sought, Sought::Newest(_));
        let found = self.search_next(Box::new(search), &mut missed, budget);
        let outcome = found.and_then(|()| match missed.search {
            Some(_) => Ok(()),
            None => self.make_next(&mut missed, budget),
        });
        if outcome.is_err() {
            missed = Missed::default();
        }
        (missed, outcome)
    }

    /// Goes on with a search of an earlier turn.
    ///
    /// # Errors
    /// A message that it had not reached is no longer here, or what was found is too much.
    pub(super) fn continue_search(
        &mut self,
        search: Box<HistorySearch>,
        missed: &mut Missed,
        budget: FrameBudget,
    ) -> Outcome {
        if let Sought::Missed { next, .. } = search.sought {
            let (missing, known) = (&self.missing, &self.known_topics);
            let is_gone = |wanted: &Wanted| missing.forgotten_of(wanted, known) >= next;
            if search.names.iter().any(is_gone) {
                return Err(NotRecovered::Window);
            }
        }
        self.search_next(search, missed, budget)
    }

    /// Takes the next step of a search, which is left in `missed` if it is not over.
    fn search_next(
        &self,
        mut search: Box<HistorySearch>,
        missed: &mut Missed,
        budget: FrameBudget,
    ) -> Outcome {
        if self.search_step(&mut search, missed, budget)? {
            missed.has_newest &= !missed.is_empty();
        } else {
            missed.search = Some(search);
        }
        Ok(())
    }

    /// Looks at some messages, and notes in `search` how far it has come. Returns whether the search is over.
    fn search_step(
        &self,
        search: &mut HistorySearch,
        missed: &mut Missed,
        budget: FrameBudget,
    ) -> Result<bool, NotRecovered> {
        let (until, known) = (search.until, &self.known_topics);
        let mut unwanted = search.take_unwanted(known);
        let mut matching = Matching::new(&search.names, &mut unwanted, known, search.steps);
        let mut finds = Finds {
            missed,
            bytes: &mut search.bytes,
            budget,
        };
        let is_over = match &mut search.sought {
            Sought::Missed { since, next } => {
                let found = |_, entry: &KeptMessage, name: &Wanted| {
                    finds.push(Known::Number(entry.number), entry, name, false)
                };
                let rest = self.walk(*next..=until, *since, &mut matching, found)?;
                *next = rest.unwrap_or(*next);
                rest.is_none()
            }
            Sought::Newest(newest) => self.walk_back(newest, until, &mut matching, &mut finds)?,
        };
        search.steps -= matching.spent();
        search.unwanted = Some(unwanted).filter(|_| search.names.has_patterns());
        Ok(is_over)
    }

    /// Looks at the messages with these numbers, in the order of the feed. `found` gets each message that
    /// the wanted names match and that is after the position, with its index: once for each matching name. Returns the
    /// number of the message at which the next step goes on.
    pub(super) fn walk<'n>(
        &self,
        numbers: RangeInclusive<u64>,
        since: After,
        matching: &mut Matching<'n>,
        mut found: impl FnMut(usize, &KeptMessage, &'n Wanted) -> Outcome,
    ) -> Result<Option<u64>, NotRecovered> {
        let first = self.list.first_entry(*numbers.start());
        for (mut at, mut topics) in self.list.topics.slices_from(first) {
            if !matching.take_time_for(topics.len()) {
                return Ok(Some(self.list.entries[at].number));
            }
            // `others`: so many topics before it no wanted name matches.
            while let Some(others) = matching.first_of(topics) {
                at += others;
                let entry = &self.list.entries[at];
                if entry.number > *numbers.end() {
                    return Ok(None);
                }
                if !matching.take_look() {
                    return Ok(Some(entry.number));
                }
                for &name in matching.names_for(topics[others], &self.known_topics)? {
                    if entry.number > since.number_for(name) {
                        found(at, entry, name)?;
                    }
                }
                (at, topics) = (at + 1, &topics[others + 1..]);
            }
        }
        Ok(None)
    }

    /// Looks for the newest messages of topics, newest first. Returns whether the search is over.
    fn walk_back(
        &self,
        newest: &mut NewestWalk,
        until: u64,
        matching: &mut Matching<'_>,
        finds: &mut Finds<'_>,
    ) -> Result<bool, NotRecovered> {
        if let NextNewest::Listed(number) = newest.next {
            self.expect_listed(newest, matching);
            if let Some(number) = self.walk_back_list(newest, number, matching, finds)? {
                newest.next = NextNewest::Listed(number);
                return Ok(false);
            }
            // Messages without a number are before any number, so all of them are up to this place.
            newest.next = NextNewest::Alone((until, StoredId::MAX));
        }
        let content = finds.budget.content;
        if let NextNewest::Alone(place) = newest.next {
            let exact = matching.exact_topics();
            let is_walk = exact.is_none();
            let walked = is_walk.then(|| self.newest_only.newest_up_to(place));
            let looked_up = exact.map(|topics| self.newest_only.newest_of(topics, place));
            let looked_up = looked_up.into_iter().flatten();
            for (place, topic, entry) in walked.into_iter().flatten().chain(looked_up) {
                if !matching.take_time_for(LOOK_ALONE) {
                    newest.next = NextNewest::Alone(place);
                    return Ok(false);
                }
                let is_unwanted = is_walk && !matching.may_match(topic);
                let lost = self.lost_and_asked();
                if is_unwanted || lost.is_some_and(|lost| lost.is_after(entry)) {
                    continue;
                }
                // A newer message was left out, which the list may not have any more.
                let left_out = self.known_topics.newest_left_out(topic);
                let is_older = left_out.is_some_and(|number| number <= until);
                let seen = newest.seen.get(&topic).copied().unwrap_or(0);
                // The topic has enough; or this message was found in the list, from which it has come here since. But
                // if a newer one was left out, that is the one that was seen.
                if seen == newest.count || seen > 0 && !is_older {
                    continue;
                }
                if !matching.take_look() {
                    newest.next = NextNewest::Alone(place);
                    return Ok(false);
                }
                let known = Known::NewestOnly(topic, entry.position);
                let names = matching.names_for(topic, &self.known_topics)?;
                if is_older || entry.is_left_out_for(content) {
                    finds.note_cut(names, RetainedCut::Large);
                }
                if self.is_outdated(entry, content) {
                    finds.note_cut(names, RetainedCut::Lost);
                }
                for name in names.iter().rev() {
                    finds.push(known, entry, name, true)?;
                }
            }
        }
        Ok(true)
    }

    /// For names without wildcards, counts the topics of which the list has wanted messages: the walk ends after these,
    /// and without any the list is not walked.
    fn expect_listed(&self, newest: &NewestWalk, matching: &mut Matching<'_>) {
        let Some(topics) = matching.exact_topics() else {
            return;
        };
        let mut listed = 0;
        for topic in topics {
            let alone = u32::from(self.newest_only.get(topic).is_some());
            if newest.seen.get(&topic) == Some(&newest.count) {
                matching.exclude(topic);
            // More messages are kept than the one that stays alone, so the list has some.
            } else if self.known_topics.kept(topic) > alone {
                listed += 1;
            }
        }
        matching.end_after(listed);
    }

    /// Looks for the newest messages of topics in the list, from the message with this number on. Returns the number of the
    /// message at which the next step goes on.
    fn walk_back_list(
        &self,
        newest: &mut NewestWalk,
        number: u64,
        matching: &mut Matching<'_>,
        finds: &mut Finds<'_>,
    ) -> Result<Option<u64>, NotRecovered> {
        let lost = self.lost_and_asked();
        let first = lost.map_or(0, |lost| self.list.first_entry(lost.number));
        let end = self.list.first_entry(number + 1);
        let content = finds.budget.content;
        for (start, mut topics) in self.list.topics.slices_before(end) {
            if matching.has_excluded_all() {
                return Ok(None);
            }
            if !matching.take_time_for(topics.len()) {
                return Ok(Some(self.list.entries[start + topics.len() - 1].number));
            }
            while let Some(last) = matching.last_of(topics) {
                let (at, topic) = (start + last, topics[last]);
                // What is from before a loss of the stream is nobody's newest message.
                if at < first {
                    return Ok(None);
                }
                let entry = &self.list.entries[at];
                if !matching.take_look() {
                    return Ok(Some(entry.number));
                }
                topics = &topics[..last];
                let seen = newest.seen.get(&topic).copied().unwrap_or(0);
                if seen == newest.count {
                    matching.exclude(topic);
                    continue;
                }
                let names = matching.names_for(topic, &self.known_topics)?;
                if entry.is_left_out_for(content) {
                    finds.note_cut(names, RetainedCut::Large);
                }
                if self.is_outdated(entry, content) {
                    finds.note_cut(names, RetainedCut::Lost);
                }
                // In reverse order, as all messages are found.
                for name in names.iter().rev() {
                    finds.push(Known::Number(entry.number), entry, name, true)?;
                }
                // A message that the client would not have got does not count.
                let counts = entry.is_left_out_for(content) || entry.body_for(content).is_some();
                if !names.is_empty() && counts {
                    let is_first = newest.seen.insert(topic, seen + 1).is_none();
                    *finds.bytes += if is_first { SEEN_BYTES } else { 0 };
                    if seen + 1 == newest.count {
                        matching.exclude(topic);
                    }
                }
            }
        }
        Ok(None)
    }
}
