//! The messages that each client must get, kept independently of the core: plain maps of members,
//! plain lists of messages. The toy gateways report every call of the core; the simulation compares.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use weirgate_core::{CloseReason, Frame, Retain, SessionKey};
use weirgate_wire::base::Now;

use super::memory::Watched;

/// A message that a client must get.
pub(crate) struct Expected {
    body: Rc<str>,
    /// The number in the prefix; 0 for no number.
    number: u64,
    conflation: Option<u64>,
    topic: Option<Rc<str>>,
    received_us: u64,
    pub(crate) frame: Watched,
}

/// A rate by counting, in millionths of a message.
#[derive(Debug)]
struct Rate {
    per_second: u64,
    credit: u64,
    at: u64,
}

impl Rate {
    fn allows(&mut self, now: u64) -> bool {
        let full = self.per_second * 1_000_000;
        self.credit = (self.credit + (now - self.at) * self.per_second).min(full);
        self.at = now;
        let allowed = self.credit >= 1_000_000;
        self.credit -= if allowed { 1_000_000 } else { 0 };
        allowed
    }
}

/// Bounds for conflation of keyed messages, and for too many other messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) soft_bytes: usize,
    pub(crate) hard_bytes: usize,
    pub(crate) conflate_after_us: u64,
}

/// The history of a connection.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) is_open: bool,
    pub(crate) reason: Option<CloseReason>,
    /// The messages still to be received, in order.
    pub(crate) waiting: VecDeque<Expected>,
    /// A part of the first waiting message has been received.
    pub(crate) begun: bool,
    bounds: Option<Bounds>,
    conflating: bool,
    /// While it conflates: so many messages at the front have their turn, and no newer one replaces them.
    in_turn: usize,
    /// Time since which more than the soft limit waits behind the first message, as of the last message
    /// without a key.
    pub(crate) over_soft_since: Option<u64>,
    /// More than the hard limit waited behind the first message when another message was added.
    pub(crate) over_hard: bool,
    pub(crate) conflated: u64,
    pub(crate) shed: u64,
    numbers: u64,
    rate: Option<Rate>,
    /// The client left a topic: the queue may have become empty without a write.
    pub(crate) has_left: bool,
    /// The retained message sent at the join, per topic.
    joined_with: BTreeMap<String, Rc<str>>,
    /// The newest message of the bus received by the client.
    pub(crate) flow: Option<String>,
}

/// A message on its way into the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) body: Rc<str>,
    pub(crate) numbered: bool,
    pub(crate) answer: bool,
    pub(crate) conflation: Option<u64>,
    /// Time of arrival from the bus, according to the frame.
    pub(crate) received_us: u64,
    pub(crate) frame: Watched,
}

impl Note {
    pub(crate) fn data(body: &str, frame: &Arc<Frame>) -> Self {
        Self {
            frame: Watched::new(frame),
            body: body.into(),
            numbered: false,
            answer: false,
            conflation: None,
            received_us: 0,
        }
    }

    pub(crate) fn numbered(mut self) -> Self {
        self.numbered = true;
        self
    }

    pub(crate) fn answer(mut self) -> Self {
        self.answer = true;
        self
    }
}

/// Bytes of an unmasked frame around this payload (RFC 6455 §5.2).
pub(crate) fn frame_bytes(payload: usize) -> usize {
    payload
        + match payload {
            0..=125 => 2,
            126..=65_535 => 4,
            _ => 10,
        }
}

impl Story {
    fn expect(&mut self, now: Now, note: &Note, topic: Option<Rc<str>>) {
        let mut number = 0;
        if note.numbered {
            self.numbers += 1;
            number = self.numbers;
        }
        let rate = self.rate.as_mut().filter(|_| !note.answer);
        if rate.is_some_and(|rate| !rate.allows(now.mono_us)) {
            self.shed += 1;
            return;
        }
        if note.conflation.is_some() {
            self.conflate(now, note.conflation);
        } else if let Some(limits) = self.bounds {
            let behind = self.waiting_behind_first();
            self.over_hard |= behind > limits.hard_bytes;
            let over = behind > limits.soft_bytes;
            let since = self.over_soft_since.unwrap_or(now.mono_us);
            self.over_soft_since = over.then_some(since);
        }
        self.waiting.push_back(Expected {
            body: Rc::clone(&note.body),
            number,
            conflation: note.conflation,
            topic,
            received_us: note.received_us,
            frame: note.frame.clone(),
        });
    }

    /// Conflates for a slow client, until the client has everything: only the newest of each key waits.
    fn conflate(&mut self, now: Now, key: Option<u64>) {
        let Some(limits) = self.bounds else {
            return;
        };
        if self.conflating {
            self.forget(self.in_turn, |waiting, _| waiting.conflation == key);
            return;
        }
        let oldest = self.waiting.get(usize::from(self.begun));
        let age = oldest.map_or(0, |oldest| now.mono_us - oldest.received_us);
        self.conflating =
            self.waiting_bytes() > limits.soft_bytes || age > limits.conflate_after_us;
        if self.conflating {
            self.in_turn = usize::from(self.begun);
            self.forget(0, |waiting, later| {
                let same = |other: &Expected| other.conflation == waiting.conflation;
                let replaced = waiting.conflation == key || later.iter().any(same);
                waiting.conflation.is_some() && replaced
            });
        }
    }

    /// Removes matching messages behind the first ones, and never a partly received message.
    fn forget(&mut self, first: usize, gone: impl Fn(&Expected, &[Expected]) -> bool) {
        let mut old = Vec::from(std::mem::take(&mut self.waiting));
        let mut index = first.max(usize::from(self.begun)).min(old.len());
        while index < old.len() {
            if gone(&old[index], &old[index + 1..]) {
                old.remove(index);
                self.in_turn -= usize::from(index < self.in_turn);
                self.conflated += 1;
            } else {
                index += 1;
            }
        }
        self.waiting = old.into();
    }

    /// Checks a received message against the next expected message.
    pub(crate) fn got(&mut self, text: &str) {
        let Some(next) = self.waiting.pop_front() else {
            panic!("came twice, or was never meant for it: {text:.60}");
        };
        assert!(
            next.is(text),
            "{next:?} was to come, but there came {text:.60}"
        );
        self.rest_if_empty();
        if text.starts_with("{\"flow\":") {
            self.flow = Some(text.to_owned());
        }
    }

    /// Ends the slow state of a client with nothing waiting.
    fn rest_if_empty(&mut self) {
        if self.waiting.is_empty() {
            (self.conflating, self.in_turn) = (false, 0);
            self.over_soft_since = None;
        }
    }

    /// Frame bytes of all waiting messages.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let bytes = |waiting: &Expected| frame_bytes(waiting.body.len());
        self.waiting.iter().map(bytes).sum()
    }

    /// Frame bytes behind the first message.
    pub(crate) fn waiting_behind_first(&self) -> usize {
        let first = self.waiting.front();
        self.waiting_bytes() - first.map_or(0, |e| frame_bytes(e.body.len()))
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.8}+{}", self.body, self.body.len())
    }
}

impl Expected {
    fn is(&self, text: &str) -> bool {
        if self.number == 0 {
            return *self.body == *text;
        }
        let rest = text.strip_prefix("{\"seq\":");
        rest.and_then(|rest| rest.strip_prefix(&self.number.to_string()))
            .is_some_and(|rest| *rest == *self.body)
    }
}

/// All connections, all topics.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Bounds of the core under test, for clients admitted from now on.
    pub(crate) bounds: Option<Bounds>,
    /// The core has a frame memory limit within reach.
    pub(crate) limits_frames: bool,
    pub(crate) stories: BTreeMap<SessionKey, Story>,
    topics: BTreeMap<String, BTreeSet<SessionKey>>,
    retained: BTreeMap<String, Note>,
    /// Messages queued for clients.
    pub(crate) queued: u64,
    /// Ended connections, not checked yet.
    pub(crate) ended: Vec<(SessionKey, CloseReason)>,
    /// Connections dropped for frame memory, not checked after a flush yet.
    pub(crate) dropped_for_memory: Vec<SessionKey>,
}

/// The ledger of a gateway and its simulation.
pub(crate) type Shared = Rc<RefCell<Ledger>>;

impl Ledger {
    /// Notes an accepted request head, with this rate.
    pub(crate) fn admitted(&mut self, now: Now, key: SessionKey, per_second: Option<u32>) {
        let rate = per_second.map(|per_second| Rate {
            per_second: per_second.into(),
            credit: u64::from(per_second) * 1_000_000,
            at: now.mono_us,
        });
        let story = Story {
            rate,
            bounds: self.bounds,
            ..Story::default()
        };
        assert!(self.stories.insert(key, story).is_none(), "admitted twice");
    }

    pub(crate) fn opened(&mut self, key: SessionKey) {
        let story = self.stories.get_mut(&key).expect("admitted before");
        assert!(story.reason.is_none(), "opened after its end");
        story.is_open = true;
    }

    /// Adds a member; returns false if the client was a member already.
    pub(crate) fn join(&mut self, now: Now, key: SessionKey, topic: &str) -> bool {
        let Some(story) = self.stories.get_mut(&key).filter(|s| s.is_open) else {
            return false;
        };
        if !self.topics.entry(topic.to_owned()).or_default().insert(key) {
            return false;
        }
        story.joined_with.remove(topic);
        if let Some(note) = self.retained.get(topic) {
            story.expect(now, note, Some(topic.into()));
            let body = Rc::clone(&note.body);
            story.joined_with.insert(topic.to_owned(), body);
            self.queued += 1;
        }
        true
    }

    pub(crate) fn leave(&mut self, key: SessionKey, topic: &str) -> bool {
        let members = self.topics.get_mut(topic);
        let was = members.is_some_and(|members| members.remove(&key));
        if was && let Some(story) = self.stories.get_mut(&key) {
            story.has_left = true;
            story.forget(0, |waiting, _| {
                waiting.conflation.is_some() && waiting.topic.as_deref() == Some(topic)
            });
            story.rest_if_empty();
        }
        was
    }

    pub(crate) fn send(&mut self, now: Now, key: SessionKey, note: &Note) {
        if let Some(story) = self.stories.get_mut(&key).filter(|s| s.is_open) {
            story.expect(now, note, None);
            self.queued += 1;
        }
    }

    pub(crate) fn publish(
        &mut self,
        now: Now,
        topic: &str,
        note: &Note,
        deliver: bool,
        retain: Retain,
    ) {
        match retain {
            Retain::Set => drop(self.retained.insert(topic.to_owned(), note.clone())),
            Retain::Clear => drop(self.retained.remove(topic)),
            Retain::Keep => {}
        }
        let members = self.topics.get(topic).filter(|_| deliver);
        for key in members.into_iter().flatten() {
            let story = self.stories.get_mut(key).expect("a member has a story");
            // Never the same state twice: the client got this state at the join.
            if story.joined_with.get(topic).is_none_or(|b| *b != note.body) {
                story.expect(now, note, Some(topic.into()));
                self.queued += 1;
            }
        }
    }

    /// Notes the messages received by a client, and whether a part of the next message was received.
    pub(crate) fn came(&mut self, key: SessionKey, texts: Vec<String>, begun: bool) {
        if let Some(story) = self.stories.get_mut(&key) {
            let (was_conflating, in_turn) = (story.conflating, story.in_turn);
            texts.iter().for_each(|text| story.got(text));
            story.begun = begun;
            if was_conflating && story.conflating {
                let has_begun_next = texts.len() > in_turn || texts.len() == in_turn && begun;
                story.in_turn = match has_begun_next {
                    true => story.waiting.len(),
                    false => in_turn - texts.len(),
                };
            }
        } else {
            assert_eq!(texts, Vec::<String>::new(), "nothing was admitted");
        }
    }

    /// Ends queueing for a client.
    pub(crate) fn closing(&mut self, key: SessionKey) {
        if let Some(story) = self.stories.get_mut(&key) {
            story.is_open = false;
        }
        for members in self.topics.values_mut() {
            members.remove(&key);
        }
    }

    pub(crate) fn closed(&mut self, key: SessionKey, reason: CloseReason) {
        self.closing(key);
        let story = self
            .stories
            .get_mut(&key)
            .expect("closed what was admitted");
        assert!(story.reason.replace(reason).is_none(), "closed twice");
        self.ended.push((key, reason));
        self.note_drop(key, reason);
    }

    pub(crate) fn is_member(&self, key: SessionKey, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|m| m.contains(&key))
    }

    /// Topics with members, in order.
    pub(crate) fn topics_with_members(&self) -> impl Iterator<Item = &String> {
        let held = self.topics.iter().filter(|(_, m)| !m.is_empty());
        held.map(|(topic, _)| topic)
    }

    /// Number of members, over all topics.
    pub(crate) fn memberships(&self) -> usize {
        self.topics.values().map(BTreeSet::len).sum()
    }

    /// Number of topics with members or a retained message.
    pub(crate) fn topic_count(&self) -> usize {
        let held = self
            .topics
            .iter()
            .filter(|(_, members)| !members.is_empty());
        let names: BTreeSet<_> = held.map(|(name, _)| name).collect();
        names.len() + self.retained.keys().filter(|n| !names.contains(n)).count()
    }
}
