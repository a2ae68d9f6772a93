//! The last values of names: which clients wait for what the streams of the bus hold.
//!
//! A client waits from its request on, so that a message which comes live in between is known to be
//! newer. The bus is asked when the client has its `subscribed`, once for all who wait then. At most
//! one question for a name is on its way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::hub::{SessionKey, TopicName};

/// Subjects of one pattern that are remembered to have come live while clients wait. Beyond them
/// nobody can say which values are older, and the clients that wait get none.
const LIVE_MAX: usize = 10_000;

/// A question for the last values of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedRequest {
    /// A name or a pattern.
    pub name: TopicName,
    /// Comes back with the end of the answer.
    pub number: u64,
}

/// A client that waits.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    state: State,
    /// Live messages of the name until the client asked for it.
    since: u64,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its `subscribed` has not gone out.
    Unanswered,
    /// The bus is asked for it when the question on its way is answered.
    Ready,
    /// The bus was asked.
    Asked,
}

#[derive(Debug, Default)]
struct Waiting {
    clients: HashMap<SessionKey, Waiter, RandomState>,
    /// The question on its way.
    asked: Option<u64>,
    /// Counts the live messages.
    count: u64,
    /// The number of the newest live message of each subject.
    live: HashMap<Arc<str>, u64, RandomState>,
}

/// Clients that wait for last values.
#[derive(Debug, Default)]
pub(super) struct Retained {
    is_on: bool,
    waiting: HashMap<TopicName, Waiting, RandomState>,
    requests: VecDeque<RetainedRequest>,
    /// Of the newest question.
    number: u64,
    /// Of the message that the next publication is made of.
    subject: Option<Arc<str>>,
}

impl Retained {
    pub(super) fn switch_on(&mut self) {
        self.is_on = true;
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A client has asked for the name, and waits for its answer.
    pub(super) fn want(&mut self, name: &TopicName, key: SessionKey) {
        let waiting = self.waiting.entry(name.clone()).or_default();
        let since = waiting.count;
        waiting.clients.entry(key).or_insert(Waiter {
            state: State::Unanswered,
            since,
        });
    }

    /// The client has its answer.
    pub(super) fn answered(&mut self, name: &TopicName, key: SessionKey) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        if let Some(waiter) = waiting.clients.get_mut(&key)
            && waiter.state == State::Unanswered
        {
            waiter.state = State::Ready;
            self.ask(name);
        }
    }

    /// The client does not want the name any more, or has ended.
    pub(super) fn forget(&mut self, name: &TopicName, key: SessionKey) {
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.clients.remove(&key);
            self.forget_if_idle(name);
        }
    }

    /// The subject of the message that the next publication is made of.
    pub(super) fn subject(&mut self, subject: &Arc<str>) {
        if !self.waiting.is_empty() {
            self.subject = Some(Arc::clone(subject));
        }
    }

    /// A message has come live: its members get it, and what a stream held of its subject is older.
    pub(super) fn came_live(&mut self, name: &TopicName) {
        let subject = self.subject.take();
        if self.waiting.is_empty() {
            return;
        }
        let (Some(waiting), Some(subject)) = (self.waiting.get_mut(name), subject) else {
            return;
        };
        if waiting.live.len() >= LIVE_MAX && !waiting.live.contains_key(&subject) {
            waiting.clients.clear();
            waiting.live.clear();
            return self.forget_if_idle(name);
        }
        waiting.count += 1;
        waiting.live.insert(subject, waiting.count);
    }

    /// The clients that get a last value, which has come now.
    pub(super) fn take(&mut self, name: &TopicName) -> Vec<SessionKey> {
        let subject = self.subject.take();
        let (Some(waiting), Some(subject)) = (self.waiting.get(name), subject) else {
            return Vec::new();
        };
        let live = waiting.live.get(&subject).copied().unwrap_or(0);
        let waits = |waiter: &Waiter| waiter.state == State::Asked && live <= waiter.since;
        let clients = waiting.clients.iter().filter(|(_, waiter)| waits(waiter));
        clients.map(|(key, _)| *key).collect()
    }

    /// The connection to the bus is gone: what came live on it is older than what will be asked for on
    /// the next one.
    pub(super) fn lost(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.live.clear();
        }
    }

    /// The question of this number has been answered, with a value before this or with none.
    pub(super) fn ended(&mut self, name: &TopicName, number: u64) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        if waiting.asked == Some(number) {
            waiting.asked = None;
            waiting
                .clients
                .retain(|_, waiter| waiter.state != State::Asked);
            self.ask(name);
            self.forget_if_idle(name);
        }
    }

    /// The next question for the bus.
    pub(super) fn next_request(&mut self) -> Option<RetainedRequest> {
        self.requests.pop_front()
    }

    /// Asks for all who are ready, if no question is on its way.
    fn ask(&mut self, name: &TopicName) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        if waiting.asked.is_some() {
            return;
        }
        let mut is_wanted = false;
        for waiter in waiting.clients.values_mut() {
            if waiter.state == State::Ready {
                waiter.state = State::Asked;
                is_wanted = true;
            }
        }
        if is_wanted {
            self.number += 1;
            waiting.asked = Some(self.number);
            self.requests.push_back(RetainedRequest {
                name: name.clone(),
                number: self.number,
            });
        }
    }

    fn forget_if_idle(&mut self, name: &TopicName) {
        let is_idle = |waiting: &Waiting| waiting.asked.is_none() && waiting.clients.is_empty();
        if self.waiting.get(name).is_some_and(is_idle) {
            self.waiting.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TopicName = TopicName::fixed("a");

    fn client(slot: u32) -> SessionKey {
        SessionKey {
            slot,
            generation: 0,
        }
    }

    fn request(number: u64) -> Option<RetainedRequest> {
        Some(RetainedRequest { name: A, number })
    }

    fn take(retained: &mut Retained, subject: &str) -> Vec<SessionKey> {
        retained.subject(&subject.into());
        let mut keys = retained.take(&A);
        keys.sort();
        keys
    }

    fn came_live(retained: &mut Retained, subject: &str) {
        retained.subject(&subject.into());
        retained.came_live(&A);
    }

    #[test]
    fn one_question_is_on_its_way_and_the_next_is_for_all_who_came_meanwhile() {
        let mut retained = Retained::default();
        for slot in 0..4 {
            retained.want(&A, client(slot));
        }
        assert_eq!(retained.next_request(), None, "nobody has an answer");
        retained.answered(&A, client(0));
        assert_eq!(retained.next_request(), request(1));
        retained.answered(&A, client(1));
        retained.answered(&A, client(2));
        assert_eq!(retained.next_request(), None);
        assert_eq!(take(&mut retained, "a"), [client(0)]);
        retained.ended(&A, 1);
        retained.ended(&A, 1);
        assert_eq!(retained.next_request(), request(2));
        retained.forget(&A, client(1));
        assert_eq!(take(&mut retained, "a"), [client(2)]);
        retained.ended(&A, 2);
        assert_eq!(retained.next_request(), None);
        retained.forget(&A, client(3));
        assert!(retained.waiting.is_empty());
    }

    #[test]
    fn no_value_goes_behind_a_newer_message() {
        let mut retained = Retained::default();
        retained.want(&A, client(0));
        came_live(&mut retained, "x");
        retained.answered(&A, client(0));
        retained.want(&A, client(1));
        retained.answered(&A, client(1));
        assert_eq!(retained.next_request(), request(1));
        assert_eq!(take(&mut retained, "x"), [], "client 1 was not asked for");
        assert_eq!(take(&mut retained, "y"), [client(0)]);
        retained.ended(&A, 1);
        assert_eq!(retained.next_request(), request(2));
        assert_eq!(take(&mut retained, "x"), [client(1)]);
        came_live(&mut retained, "y");
        assert_eq!(take(&mut retained, "y"), []);
        retained.lost();
        assert_eq!(take(&mut retained, "y"), [client(1)], "asked for anew");
        retained.ended(&A, 2);
        assert!(retained.waiting.is_empty());
    }

    #[test]
    fn subjects_that_are_remembered_are_bounded() {
        let mut retained = Retained::default();
        retained.want(&A, client(0));
        for n in 0..LIVE_MAX {
            came_live(&mut retained, &n.to_string());
        }
        came_live(&mut retained, "0");
        retained.answered(&A, client(0));
        assert_eq!(retained.next_request(), request(1));
        assert_eq!(take(&mut retained, "new"), [client(0)]);
        came_live(&mut retained, "one more");
        assert_eq!(take(&mut retained, "new"), []);
        retained.ended(&A, 1);
        assert!(retained.waiting.is_empty());
    }
}
