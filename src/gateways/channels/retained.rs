//! The last values of names: which clients wait for the value that a stream of the bus holds.
//!
//! A client waits from its request on, so that a message which comes live in between is known to be
//! newer. The bus is asked when the client has its `subscribed`, once for all who wait then. At most
//! one question for a name is on its way.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;

use crate::hub::{SessionKey, TopicName};

/// A question for the last value of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedRequest {
    /// An exact name.
    pub name: TopicName,
    /// Comes back with the end of the answer.
    pub number: u64,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiter {
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
}

/// Clients that wait for last values.
#[derive(Debug, Default)]
pub(super) struct Retained {
    is_on: bool,
    waiting: HashMap<TopicName, Waiting, RandomState>,
    requests: VecDeque<RetainedRequest>,
    /// Of the newest question.
    number: u64,
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
        waiting.clients.entry(key).or_insert(Waiter::Unanswered);
    }

    /// The client has its answer.
    pub(super) fn answered(&mut self, name: &TopicName, key: SessionKey) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        if let Some(waiter @ Waiter::Unanswered) = waiting.clients.get_mut(&key) {
            *waiter = Waiter::Ready;
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

    /// A message has come live: whoever waits gets it, and what the stream held is older.
    pub(super) fn came_live(&mut self, name: &TopicName) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.clients.clear();
            self.forget_if_idle(name);
        }
    }

    /// The clients that get the last value, which has come now.
    pub(super) fn take(&mut self, name: &TopicName) -> Vec<SessionKey> {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return Vec::new();
        };
        let asked = |(key, waiter): (&SessionKey, &Waiter)| match waiter {
            Waiter::Asked => Some(*key),
            Waiter::Unanswered | Waiter::Ready => None,
        };
        let keys: Vec<_> = waiting.clients.iter().filter_map(asked).collect();
        for key in &keys {
            waiting.clients.remove(key);
        }
        keys
    }

    /// The question of this number has been answered, with a value before this or with none.
    pub(super) fn ended(&mut self, name: &TopicName, number: u64) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        if waiting.asked == Some(number) {
            waiting.asked = None;
            waiting.clients.retain(|_, waiter| *waiter != Waiter::Asked);
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
            if *waiter == Waiter::Ready {
                *waiter = Waiter::Asked;
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
        assert_eq!(retained.take(&A), [client(0)]);
        retained.ended(&A, 1);
        retained.ended(&A, 1);
        assert_eq!(retained.next_request(), request(2));
        retained.forget(&A, client(1));
        assert_eq!(retained.take(&A), [client(2)]);
        retained.ended(&A, 2);
        assert_eq!(retained.next_request(), None);
        retained.forget(&A, client(3));
        assert!(retained.waiting.is_empty());
    }

    #[test]
    fn no_value_goes_behind_a_newer_message() {
        let mut retained = Retained::default();
        retained.want(&A, client(0));
        retained.came_live(&A);
        retained.answered(&A, client(0));
        assert_eq!(retained.next_request(), None);
        retained.want(&A, client(1));
        retained.answered(&A, client(1));
        assert_eq!(retained.next_request(), request(1));
        retained.came_live(&A);
        retained.want(&A, client(2));
        retained.answered(&A, client(2));
        assert_eq!(retained.take(&A), [], "client 1 has a newer one");
        retained.ended(&A, 1);
        assert_eq!(retained.next_request(), request(2));
        assert_eq!(retained.take(&A), [client(2)]);
        retained.ended(&A, 2);
        assert!(retained.waiting.is_empty());
    }
}
