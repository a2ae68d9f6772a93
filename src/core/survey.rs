//! A survey: the slow clients, the clients with the most messages, and the topics with the most
//! messages.
//!
//! A survey has to look at all clients and topics; a hundred thousand of them in one turn would delay
//! every message. So a survey continues from turn to turn, and looks at a bounded number in each. The
//! state changes meanwhile: a client is counted as of its own turn, and a client that has ended before
//! the last turn is left out. A survey runs only on request. It carries out the searches of operators on its way, and
//! looks at fewer clients in a turn then: the work of a turn stays the same.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::core::Core;
use super::gateway::Gateway;
use super::search::{Search, SearchOutcome, Searches};
use super::{
    ClientSnapshot, ClientState, Hub, Now, PhaseKind, RefusedName, SessionKey, TopicSnapshot,
};

/// The most clients and topics that one turn looks at, without searches.
const SURVEY_SLICE_MAX: usize = 2_048;

/// All clients and topics, visited in slices: few of them by name, the others as counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// When the first slice was visited.
    pub began: Now,
    /// When the last slice was visited.
    pub ended: Now,
    /// Number of slices, one for each call.
    pub slices: u32,
    /// Time since the previous survey, microseconds: the interval of the recent numbers. `None` for the
    /// first survey, whose recent numbers count from the start.
    pub interval_us: Option<u64>,
    /// Clients visited.
    pub clients: u64,
    /// Clients with waiting messages.
    pub clients_waiting: u64,
    /// Clients for which the kernel takes no more bytes.
    pub clients_blocked: u64,
    /// Clients for which newer messages replace older ones.
    pub clients_conflating: u64,
    /// The most connections that a client address has, if connections are limited by address.
    pub busiest_address: u64,
    /// The slow clients, then the clients with the largest send queues, the largest first.
    pub slowest: Vec<ClientSnapshot>,
    /// The clients with the most messages since the last survey, the most first.
    pub busiest: Vec<ClientSnapshot>,
    /// Topics visited.
    pub topics: u64,
    /// The topics with the most messages since the last survey, the most first.
    pub busiest_topics: Vec<TopicSnapshot>,
    /// Busy topics that have been silent for longer than usual.
    pub topics_quiet: u64,
    /// The quiet topics with the most members, the most first.
    pub quiet_topics: Vec<TopicSnapshot>,
    /// The kept refusals of names, the newest first: at most `REFUSED_NAMES_MAX`.
    pub refused_names: Vec<RefusedName>,
    /// The results of the searches.
    pub found: Vec<SearchOutcome>,
}

impl Survey {
    /// The most clients in each ranking, and the most topics, that a survey names.
    pub const NAMED_MAX: usize = 20;
}

/// The survey under way, and the time at which the last survey began.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    walk: Option<SurveyWalk>,
    last_began_us: Option<u64>,
    /// The searches of the next survey.
    pub(super) wanted: Vec<Search>,
}

/// The [`Survey::NAMED_MAX`] values with the largest ranks.
#[derive(Debug)]
struct Ranking<R, T>(BinaryHeap<Reverse<(R, T)>>);

impl<R: Ord, T: Ord> Ranking<R, T> {
    fn new() -> Self {
        Self(BinaryHeap::with_capacity(Survey::NAMED_MAX))
    }

    /// Adds a value if the rank is among the largest so far; only then calls `make`.
    fn offer(&mut self, rank: R, make: impl FnOnce() -> T) {
        if self.0.len() == Survey::NAMED_MAX {
            let is_small = |Reverse((least, _)): &Reverse<(R, T)>| rank <= *least;
            if self.0.peek().is_some_and(is_small) {
                return;
            }
            self.0.pop();
        }
        self.0.push(Reverse((rank, make())));
    }

    /// The largest first.
    fn into_sorted(self) -> impl Iterator<Item = (R, T)> {
        let sorted = self.0.into_sorted_vec();
        sorted.into_iter().map(|Reverse(ranked)| ranked)
    }
}

#[derive(Debug)]
struct SurveyWalk {
    survey: Survey,
    next_slot: usize,
    next_topic: usize,
    /// Slow clients first; then by queue bytes, then by the age of the oldest message.
    slowest: Ranking<(bool, usize, u64), SessionKey>,
    /// By messages since the last survey.
    busiest: Ranking<u64, SessionKey>,
    /// By messages since the last survey, then by members.
    topics: Ranking<(u64, u64), TopicSnapshot>,
    /// By members.
    quiet: Ranking<u64, TopicSnapshot>,
    searches: Searches,
}

impl SurveyWalk {
    fn new(began: Now, last_began_us: Option<u64>, searches: Searches) -> Self {
        Self {
            survey: Survey {
                began,
                interval_us: last_began_us.map(|last| began.mono_us - last),
                ..Survey::default()
            },
            next_slot: 0,
            next_topic: 0,
            slowest: Ranking::new(),
            busiest: Ranking::new(),
            topics: Ranking::new(),
            quiet: Ranking::new(),
            searches,
        }
    }

    /// Looks at the next topics; the rest of `room` is for clients. Searches need the topics first.
    fn visit_topics<G: Gateway>(&mut self, core: &mut Core, gateway: &G, room: &mut usize) {
        while *room > 0 && self.next_topic < core.topics.slots() {
            let slot = self.next_topic;
            self.next_topic += 1;
            let mut work = self.searches.cost();
            if let Some((name, topic)) = core.topics.snapshot(slot, core.now) {
                self.survey.topics += 1;
                let named = || TopicSnapshot {
                    name: name.clone(),
                    ..topic
                };
                let rank = (topic.recent_messages, topic.members);
                self.topics.offer(rank, named);
                if topic.quiet_ms.is_some() {
                    self.survey.topics_quiet += 1;
                    self.quiet.offer(topic.members, named);
                }
                let name = name.clone();
                work += self.searches.visit_topic(core, gateway, &name);
            }
            *room = room.saturating_sub(work);
        }
    }

    /// Looks at the next clients; returns true if none is left.
    fn visit_clients<G: Gateway>(
        &mut self,
        core: &mut Core,
        gateway: &G,
        room: &mut usize,
    ) -> bool {
        while self.next_slot < core.clients.sessions.capacity() {
            if *room == 0 {
                return false;
            }
            let slot = self.next_slot;
            self.next_slot += 1;
            let mut work = self.searches.cost();
            if let Some(key) = self.visit_client(core, slot) {
                work += self.searches.visit_client(core, gateway, key);
            }
            *room = room.saturating_sub(work);
        }
        true
    }

    /// Counts and ranks the client in a slot; `None` if there is none.
    fn visit_client(&mut self, core: &mut Core, slot: usize) -> Option<SessionKey> {
        let session = core.clients.sessions.get_mut(slot)?;
        if session.phase() == PhaseKind::Gone {
            return None;
        }
        let key = session.key(slot);
        let survey = &mut self.survey;
        survey.clients += 1;
        let of_address = core.addresses.connections(session.client_addr()) as u64;
        survey.busiest_address = survey.busiest_address.max(of_address);
        let state = session.state();
        survey.clients_blocked += u64::from(session.is_blocked());
        survey.clients_conflating += u64::from(state == ClientState::Conflating);
        let is_slow = core.waits.is_slow(key) || session.has_gate();
        survey.clients_waiting += u64::from(session.has_waiting());
        if session.has_waiting() || is_slow {
            let oldest_us = session.oldest_us(core.now).unwrap_or(0);
            let rank = (is_slow, session.queued_and_held_bytes(), oldest_us);
            self.slowest.offer(rank, || key);
        }
        let recent = session.take_recent_messages();
        if recent > 0 {
            self.busiest.offer(recent, || key);
        }
        Some(key)
    }
}

impl Core {
    /// The client for an operator; `None` if the client has ended.
    pub fn snapshot_of(&self, key: SessionKey) -> Option<ClientSnapshot> {
        let session = self.clients.session(key)?;
        if session.phase() == PhaseKind::Gone {
            return None;
        }
        let topics = self.topics.joined_count(key.slot);
        let mut joined = self.topics.joined(key.slot);
        Some(ClientSnapshot {
            topics: topics as u64,
            topic: joined.next().filter(|_| topics == 1).map(self.shown_topic),
            slow: self
                .waits
                .snapshot(self.now, key)
                .or_else(|| session.gate_snapshot(self.now)),
            ..session.snapshot(key, self.now)
        })
    }

    /// Ends a survey: looks at the named clients once more, all at the same moment.
    fn finish_survey(&self, walk: SurveyWalk) -> Survey {
        let mut survey = walk.survey;
        survey.ended = self.now;
        let slowest = walk.slowest.into_sorted();
        survey.slowest = slowest
            .filter_map(|(_, key)| self.snapshot_of(key))
            .filter(|client| {
                client.queue_messages > 0 || client.stuck_us.is_some() || client.slow.is_some()
            })
            .collect();
        let busiest = walk.busiest.into_sorted();
        survey.busiest = busiest
            .filter_map(|(recent_messages, key)| {
                let client = self.snapshot_of(key)?;
                Some(ClientSnapshot {
                    recent_messages,
                    ..client
                })
            })
            .collect();
        let shown = |topic: TopicSnapshot| TopicSnapshot {
            name: (self.shown_topic)(&topic.name),
            ..topic
        };
        let busiest = walk.topics.into_sorted();
        survey.busiest_topics = busiest.map(|(_, topic)| shown(topic)).collect();
        let quiet = walk.quiet.into_sorted();
        survey.quiet_topics = quiet.map(|(_, topic)| shown(topic)).collect();
        survey.refused_names = self.refused_names.newest_first().cloned().collect();
        survey.found = walk.searches.into_found();
        survey
    }
}

impl<G: Gateway> Hub<G> {
    /// Looks at the next `SURVEY_SLICE_MAX` clients and topics; returns the survey if none is left.
    /// The next call begins a new survey.
    pub fn survey(&mut self, now: Now) -> Option<Survey> {
        let core = &mut self.core;
        core.now = now;
        let mut walk = core.surveys.walk.take().unwrap_or_else(|| {
            let last_began_us = core.surveys.last_began_us.replace(now.mono_us);
            let wanted = std::mem::take(&mut core.surveys.wanted);
            SurveyWalk::new(now, last_began_us, Searches::new(wanted, core.shown_topic))
        });
        walk.survey.slices += 1;
        let mut room = SURVEY_SLICE_MAX;
        walk.visit_topics(core, &self.gateway, &mut room);
        if walk.next_topic < core.topics.slots()
            || !walk.visit_clients(core, &self.gateway, &mut room)
        {
            core.surveys.walk = Some(walk);
            return None;
        }
        Some(core.finish_survey(walk))
    }

    /// Whether a survey is under way.
    pub fn is_surveying(&self) -> bool {
        self.core.surveys.walk.is_some()
    }
}
