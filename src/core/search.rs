//! Searches of operators for clients and names. A survey carries them out: it looks at all clients and topics anyway.

use std::collections::HashSet;

use super::brings::{Brings, visit_name};
use super::core::Core;
use super::gateway::Gateway;
use super::{ClientSnapshot, Cut, Hub, MaxRate, SessionKey, TopicName};

/// The most names of the clients that a search returns, all clients together.
pub(crate) const FOUND_NAMES_MAX: usize = 1_000;

/// The most names of one client that a search returns.
const NAMES_OF_CLIENT_MAX: usize = 100;

/// Work of a hash, in looks at a client.
const HASH_COST: usize = 4;

/// What an operator looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// The clients for which all of these conditions hold, and that hold this name, if one is given.
    Clients {
        /// Conditions as of a cut; the ends have no effect.
        who: Cut,
        /// A name or pattern, as the client holds it or as operators see it.
        name: Option<String>,
    },
    /// The names and patterns with this text in them.
    Names(String),
    /// Those of these names that have members.
    Members(HashSet<String>),
}

impl Search {
    /// The most clients or names that a search returns.
    pub const FOUND_MAX: usize = 100;
}

/// What a search has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchOutcome {
    /// All clients or names that were found.
    pub count: u64,
    /// The first clients, at most [`Search::FOUND_MAX`].
    pub clients: Vec<FoundClient>,
    /// The first names in the order of their bytes, at most [`Search::FOUND_MAX`]; the name itself comes before the names that
    /// contain it. So each of several processes has all of its names that may be among the first of all processes. In a
    /// search for [`Search::Members`] all names, in no order.
    pub names: Vec<FoundName>,
}

/// A client that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundClient {
    /// The client.
    pub snapshot: ClientSnapshot,
    /// The role, if the gateway has roles.
    pub role: Option<Box<str>>,
    /// The client's own rate.
    pub max_rate: Option<MaxRate>,
    /// Its first names: at most 100, and `FOUND_NAMES_MAX` of all clients together. [`ClientSnapshot::topics`] counts all.
    pub names: Vec<FoundName>,
}

/// A name or pattern with members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundName {
    /// The name as operators see it.
    pub name: TopicName,
    /// Where its messages come from, how far back they reach, and how old the newest is.
    pub brings: Brings,
    /// The subjects of the bus that the name brings; `None`: any.
    pub subjects: Option<Vec<String>>,
    /// Members.
    pub members: u64,
    /// Messages to members since the first of them joined, each counted once.
    pub messages: u64,
    /// The usual gap between two messages, microseconds, if the name is silent for longer than usual.
    pub usual_gap_us: Option<u64>,
}

/// A search under way.
#[derive(Debug)]
pub(super) struct Seeking {
    search: Search,
    /// In a search for clients: the topic that they have to hold; `None`: any.
    topic: Option<TopicName>,
    /// Names that may still be returned with clients.
    names_left: usize,
    /// How many of the names that were found are the name itself.
    in_front: usize,
    found: SearchOutcome,
}

impl Seeking {
    /// A search that begins.
    pub(super) fn new(search: Search) -> Self {
        let topic = match &search {
            Search::Clients { name, .. } => name.as_deref().map(TopicName::from),
            Search::Names(_) | Search::Members(_) => None,
        };
        Self {
            search,
            topic,
            names_left: FOUND_NAMES_MAX,
            in_front: 0,
            found: SearchOutcome::default(),
        }
    }

    pub(super) fn into_found(self) -> SearchOutcome {
        self.found
    }

    /// Adds a topic if it matches; for a search for clients, finds the topic by the name that operators see. Called for
    /// all topics before the clients. `hidden`: the name that operators see, if it is another one, which costs a hash.
    pub(super) fn visit_topic(
        &mut self,
        name: &TopicName,
        hidden: Option<&TopicName>,
        describe: impl FnOnce() -> FoundName,
    ) {
        let shown = hidden.unwrap_or(name);
        match &self.search {
            Search::Clients { name: wanted, .. } => {
                if hidden.is_some() && wanted.as_deref() == Some(shown.as_str()) {
                    self.topic = Some(name.clone());
                }
            }
            Search::Names(part) => {
                if [name, shown].iter().any(|own| own.as_str() == part) {
                    self.add_name_in_front(describe);
                } else if shown.as_str().contains(part.as_str()) {
                    self.add_name(shown, describe);
                }
            }
            Search::Members(names) => {
                if names.contains(shown.as_str()) {
                    self.found.names.push(describe());
                }
            }
        }
    }

    /// Adds a name in its place, if it is among the first so far. Only then it is described: as topics come in no
    /// order, few of many names are described that others displace later.
    fn add_name(&mut self, shown: &TopicName, describe: impl FnOnce() -> FoundName) {
        self.found.count += 1;
        let names = &mut self.found.names;
        let others = names.get(self.in_front..).unwrap_or_default();
        let at = others.partition_point(|found| found.name.as_str() < shown.as_str());
        let at = self.in_front + at;
        if at < Search::FOUND_MAX {
            names.truncate(Search::FOUND_MAX - 1);
            names.insert(at, describe());
        }
    }

    /// Adds the name that was searched for before all others, so that it is described whatever their number.
    fn add_name_in_front(&mut self, describe: impl FnOnce() -> FoundName) {
        self.found.count += 1;
        self.found.names.truncate(Search::FOUND_MAX - 1);
        self.found.names.insert(0, describe());
        self.in_front += 1;
    }

    /// Adds a client if it matches. Returns the cost: 1 and the number of its names if it is described, otherwise 0.
    pub(super) fn visit_client<G: Gateway>(
        &mut self,
        core: &Core,
        gateway: &G,
        key: SessionKey,
    ) -> usize {
        let Search::Clients { who, .. } = &self.search else {
            return 0;
        };
        let Some(session) = core.clients.session(key) else {
            return 0;
        };
        let text = who.session.as_ref().map(|_| key.to_string());
        let connected = session.connected(text.as_deref().unwrap_or_default());
        let holds = |name| core.topics.has(key, name);
        if !who.matches(&connected) || !self.topic.as_ref().is_none_or(holds) {
            return 0;
        }
        self.found.count += 1;
        if self.found.clients.len() >= Search::FOUND_MAX {
            return 0;
        }
        let Some(snapshot) = core.snapshot_of(key) else {
            return 0;
        };
        let room = NAMES_OF_CLIENT_MAX.min(self.names_left);
        let names: Vec<FoundName> = core
            .joined(key)
            .take(room)
            .map(|name| visit_name(core, gateway, name))
            .collect();
        let described = names.len();
        self.names_left -= described;
        self.found.clients.push(FoundClient {
            snapshot,
            role: session.user_and_role().1.map(Into::into),
            max_rate: session.max_rate(),
            names,
        });
        1 + described
    }
}

/// The searches of a survey.
#[derive(Debug, Default)]
pub(super) struct Searches {
    seeking: Vec<Seeking>,
    /// Whether operators see other names than clients.
    hides: bool,
}

impl Searches {
    pub(super) fn new(searches: Vec<Search>, shown_topic: fn(&TopicName) -> TopicName) -> Self {
        // A gateway hides all names or none, so any name shows it.
        let plain = TopicName::fixed("a");
        Self {
            seeking: searches.into_iter().map(Seeking::new).collect(),
            hides: shown_topic(&plain) != plain,
        }
    }

    /// How many clients or topics one of them counts as.
    pub(super) fn cost(&self) -> usize {
        1 + self.seeking.len()
    }

    pub(super) fn into_found(self) -> Vec<SearchOutcome> {
        self.seeking.into_iter().map(Seeking::into_found).collect()
    }

    /// Looks at a topic; returns the work beyond [`Self::cost`].
    pub(super) fn visit_topic<G: Gateway>(
        &mut self,
        core: &Core,
        gateway: &G,
        name: &TopicName,
    ) -> usize {
        if self.seeking.is_empty() {
            return 0;
        }
        let hidden = self.hides.then(|| (core.shown_topic)(name));
        for seeking in &mut self.seeking {
            let describe = || visit_name(core, gateway, name);
            seeking.visit_topic(name, hidden.as_ref(), describe);
        }
        if self.hides { HASH_COST } else { 0 }
    }

    /// Looks at a client; returns the work beyond [`Self::cost`].
    pub(super) fn visit_client<G: Gateway>(
        &mut self,
        core: &Core,
        gateway: &G,
        key: SessionKey,
    ) -> usize {
        let seeking = self.seeking.iter_mut();
        seeking
            .map(|one| one.visit_client(core, gateway, key))
            .sum()
    }
}

impl<G: Gateway> Hub<G> {
    /// Adds a search to the next survey, which returns its result in [`Survey::found`](super::Survey::found), in the
    /// order of these calls. A search that is added while a survey is under way belongs to the survey after it.
    pub fn search(&mut self, search: Search) {
        self.core.surveys.wanted.push(search);
    }
}
