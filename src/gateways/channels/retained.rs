//! The last values of names: which clients wait for values from the streams of the bus.
//!
//! A client waits from its request on, so that a live message in between is known to be newer: no value of
//! the same subject follows. The bus is asked after the client's `subscribed`, for as many names as the
//! client has room for ([`turns`]); so only send queues hold values, and later publications wait behind the
//! values. At most one question for a name is open, for all clients whose turn has come. A question ends with
//! the last client that waits.

mod turns;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use self::turns::Turns;
use super::{ChannelsGateway, ChannelsStats};
use crate::admission::{ClientAddr, Holding};
use crate::auth::NameSyntax;
use crate::hub::{Core, Publication, SessionKey, TopicName};

/// The most subjects of a pattern remembered as live while clients wait. If there are more, older values
/// cannot be told from newer, and the waiting clients get no values.
const LIVE_MAX: usize = 10_000;

/// Bytes of these subjects, over all patterns.
const LIVE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The cost of a subject beside its bytes.
const LIVE_ENTRY_BYTES: usize = 64;

/// A question for the last values of a name, or the end of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedRequest {
    /// A name or a pattern.
    pub name: TopicName,
    /// The number that the values and the end of the response carry.
    pub number: u64,
    /// False if no client waits for the response any more.
    pub wanted: bool,
}

/// A waiting client.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    state: State,
    /// Count of the name's live messages before the request of the client.
    since: u64,
}

/// The progress of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The `subscribed` has not gone out.
    Unanswered,
    /// The client's turn has not come.
    Ready,
    /// The next question is for this client, after the response to the open question.
    Next,
    /// The bus was asked.
    Asked,
}

#[derive(Debug, Default)]
struct Waiting {
    clients: HashMap<SessionKey, Waiter, RandomState>,
    /// The clients of the next question.
    next: HashSet<SessionKey, RandomState>,
    asked: Option<Asked>,
    /// Count of the live messages.
    count: u64,
}

/// The number of the newest live message of each subject of a pattern.
type Live = HashMap<Arc<str>, u64, RandomState>;

/// The open question.
#[derive(Debug)]
struct Asked {
    number: u64,
    /// The clients of the question; some may have stopped waiting.
    clients: Vec<SessionKey>,
}

/// Clients that wait for last values.
#[derive(Debug)]
pub(super) struct Retained {
    is_on: bool,
    waiting: HashMap<TopicName, Waiting, RandomState>,
    /// Patterns of `waiting` with live messages on this connection.
    live: HashMap<TopicName, Live, RandomState>,
    /// Names of `waiting` with an open question.
    open: HashSet<TopicName, RandomState>,
    turns: Turns,
    requests: VecDeque<RetainedRequest>,
    /// The number of the newest question.
    number: u64,
    /// Clients times names.
    waiters: usize,
    /// The bytes of the live subjects.
    live_bytes: usize,
    /// Clients without values because there were too many live subjects.
    given_up: u64,
}

impl Retained {
    /// A table that is switched off.
    pub(super) fn new(syntax: NameSyntax) -> Self {
        Self {
            is_on: false,
            waiting: HashMap::default(),
            live: HashMap::default(),
            open: HashSet::default(),
            turns: Turns::new(syntax),
            requests: VecDeque::new(),
            number: 0,
            waiters: 0,
            live_bytes: 0,
            given_up: 0,
        }
    }

    /// Bytes of values that may wait for all clients.
    pub(super) fn bytes(&self) -> &Holding {
        self.turns.bytes()
    }

    /// Switches on. `bytes_max` bounds the last values in the send queues of all clients.
    pub(super) fn switch_on(&mut self, bytes_max: usize) {
        self.is_on = true;
        self.turns.limit(bytes_max);
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Notes a client that has asked for the name, and waits for its `subscribed`.
    pub(super) fn want(&mut self, name: &TopicName, key: SessionKey) {
        let waiting = self.waiting.entry(name.clone()).or_default();
        let since = waiting.count;
        self.waiters += usize::from(!waiting.clients.contains_key(&key));
        waiting.clients.entry(key).or_insert(Waiter {
            state: State::Unanswered,
            since,
        });
    }

    /// Handles the `subscribed` of a client.
    pub(super) fn answered(&mut self, name: &TopicName, key: SessionKey) {
        let waiting = self.waiting.get_mut(name);
        if let Some(waiter) = waiting.and_then(|waiting| waiting.clients.get_mut(&key))
            && waiter.state == State::Unanswered
        {
            waiter.state = State::Ready;
            self.turns.ready(key, name.clone());
        }
    }

    /// Handles a client that has left the name.
    pub(super) fn forget(&mut self, name: &TopicName, key: SessionKey) {
        self.remove(name, key);
        self.turns.left(key, name);
    }

    /// Handles the end of a client; `unanswered` are the names without a `subscribed`.
    pub(super) fn closed<'a>(
        &mut self,
        key: SessionKey,
        unanswered: impl Iterator<Item = &'a TopicName>,
    ) {
        for name in unanswered {
            self.remove(name, key);
        }
        for name in self.turns.remove(key) {
            self.remove(&name, key);
        }
    }

    /// Handles a client that has taken its values.
    pub(super) fn room(&mut self, key: SessionKey, address: ClientAddr) {
        self.turns.room(key, address);
    }

    /// Handles a live message, which is newer than the subject's value in a stream; `subject` if the name is a pattern.
    /// Returns true if clients stopped waiting.
    pub(super) fn came_live(&mut self, name: &TopicName, subject: Option<&Arc<str>>) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let Some(waiting) = self.waiting.get_mut(name) else {
            return false;
        };
        if let Some(subject) = subject {
            waiting.count += 1;
            let live = self.live.entry(name.clone()).or_default();
            if let Some(newest) = live.get_mut(subject) {
                *newest = waiting.count;
                return false;
            }
            let bytes = subject.len() + LIVE_ENTRY_BYTES;
            if live.len() < LIVE_MAX && self.live_bytes + bytes <= LIVE_BYTES_MAX {
                self.live_bytes += bytes;
                live.insert(Arc::clone(subject), waiting.count);
                return false;
            }
            self.given_up += waiting.clients.len() as u64;
        }
        self.remove_all(name);
        true
    }

    /// Returns the clients that get the last value that has just come, of `bytes` bytes.
    pub(super) fn take(
        &mut self,
        name: &TopicName,
        (subject, number): (Option<&Arc<str>>, u64),
        bytes: usize,
    ) -> Vec<SessionKey> {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return Vec::new();
        };
        let asked = waiting.asked.as_ref();
        let Some(asked) = asked.filter(|asked| asked.number == number) else {
            return Vec::new();
        };
        let live = subject.and_then(|subject| self.live.get(name)?.get(subject));
        let live = live.copied().unwrap_or(0);
        let waits = |waiter: &Waiter| waiter.state == State::Asked && live <= waiter.since;
        let mut takers = Vec::new();
        for key in &asked.clients {
            let waiter = waiting.clients.get_mut(key);
            let Some(waiter) = waiter.filter(|waiter| waits(waiter)) else {
                continue;
            };
            if self.turns.takes(*key, name, bytes) {
                takers.push(*key);
            } else {
                waiter.state = State::Ready;
                self.turns.again(*key, name);
            }
        }
        if subject.is_none() {
            // An exact name has only this value.
            let _ = self.ended(name, number);
        }
        takers
    }

    /// Handles the loss of a connection: its live messages are older than all values of the next connection.
    pub(super) fn lost(&mut self) {
        self.live = HashMap::default();
        self.live_bytes = 0;
    }

    /// Handles the bus coming back.
    pub(super) fn up(&mut self) {
        self.turns.up();
    }

    /// Asks for a client that may wait since the bus was away.
    pub(super) fn client_up(&mut self, key: SessionKey) {
        self.turns.client_up(key);
    }

    /// Handles the bus going away: open questions get no response.
    pub(super) fn down(&mut self) {
        self.turns.down();
        // Each client of a question has a share of the bytes, so these are few.
        for name in std::mem::take(&mut self.open) {
            let Some(waiting) = self.waiting.get_mut(&name) else {
                continue;
            };
            let asked = waiting.asked.take();
            let asked = asked.map_or_else(Vec::new, |Asked { number, clients }| {
                self.requests.push_back(RetainedRequest::end(&name, number));
                clients
            });
            for key in asked.into_iter().chain(waiting.next.drain()) {
                if let Some(waiter) = waiting.clients.get_mut(&key)
                    && matches!(waiter.state, State::Next | State::Asked)
                {
                    waiter.state = State::Ready;
                    self.turns.again(key, &name);
                }
            }
        }
    }

    /// Handles the end of the question `number`, with or without a value before. Returns the clients that have waited.
    pub(super) fn ended(&mut self, name: &TopicName, number: u64) -> Vec<SessionKey> {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return Vec::new();
        };
        let Some(asked) = waiting.asked.take_if(|asked| asked.number == number) else {
            return Vec::new();
        };
        self.open.remove(name);
        let clients = &waiting.clients;
        let is_asked = |key: &SessionKey| clients.get(key).is_some_and(|w| w.state == State::Asked);
        let answered: Vec<_> = asked.clients.into_iter().filter(is_asked).collect();
        for key in &answered {
            self.forget(name, *key);
        }
        self.question(name);
        answered
    }

    /// The next time at which a question may be due without another event.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.turns.due_us()
    }

    /// Takes the next question for the bus, or the end of a question.
    pub(super) fn next_request(&mut self) -> Option<RetainedRequest> {
        self.requests.pop_front()
    }

    /// Updates the counts.
    pub(super) fn store(&mut self, stats: &ChannelsStats) {
        stats.retained_waiting.set(self.waiters);
        stats.retained_bytes.set(self.turns.bytes().held() as usize);
        stats
            .retained_given_up
            .add(std::mem::take(&mut self.given_up));
    }

    /// Asks for the names of the clients whose turn has come. To be called after every other call.
    pub(super) fn ask(&mut self, now_us: u64) {
        let mut asked = Vec::new();
        while let Some((key, names)) = self.turns.next(now_us) {
            for name in names {
                if let Some(waiting) = self.waiting.get_mut(&name)
                    && let Some(waiter) = waiting.clients.get_mut(&key)
                {
                    waiter.state = State::Next;
                    waiting.next.insert(key);
                    asked.push(name);
                }
            }
        }
        asked.iter().for_each(|name| self.question(name));
    }

    /// Asks for all clients whose turn has come, if no question is open.
    fn question(&mut self, name: &TopicName) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        if waiting.asked.is_some() || waiting.next.is_empty() {
            return;
        }
        self.open.insert(name.clone());
        self.number += 1;
        let clients: Vec<SessionKey> = waiting.next.drain().collect();
        for key in &clients {
            if let Some(waiter) = waiting.clients.get_mut(key) {
                waiter.state = State::Asked;
            }
        }
        waiting.asked = Some(Asked {
            number: self.number,
            clients,
        });
        self.requests.push_back(RetainedRequest {
            name: name.clone(),
            number: self.number,
            wanted: true,
        });
    }

    /// Removes all clients that wait for the name.
    fn remove_all(&mut self, name: &TopicName) {
        let waiting = self.waiting.get(name);
        let clients = waiting.into_iter().flat_map(|w| w.clients.keys());
        let clients: Vec<SessionKey> = clients.copied().collect();
        for key in clients {
            self.forget(name, key);
        }
    }

    /// Removes a client; the last takes the name and the open question along.
    fn remove(&mut self, name: &TopicName, key: SessionKey) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        self.waiters -= usize::from(waiting.clients.remove(&key).is_some());
        waiting.next.remove(&key);
        if !waiting.clients.is_empty() {
            return;
        }
        if let Some(Asked { number, .. }) = waiting.asked {
            self.requests.push_back(RetainedRequest::end(name, number));
        }
        let live = self.live.remove(name).unwrap_or_default();
        self.live_bytes -= live
            .keys()
            .map(|s| s.len() + LIVE_ENTRY_BYTES)
            .sum::<usize>();
        self.open.remove(name);
        self.waiting.remove(name);
    }
}

impl ChannelsGateway {
    /// Handles a live message of the name.
    pub(super) fn came_live(
        &mut self,
        core: &mut Core,
        name: &TopicName,
        subject: Option<&Arc<str>>,
    ) {
        if self.retained.came_live(name, subject) {
            self.ask_retained(core);
        }
    }

    /// Sends a last value to the clients that wait for it.
    pub(super) fn replay_value(&mut self, core: &mut Core, value: &Publication) {
        let (topic, subject) = (&value.topic, value.subject.as_ref());
        let frame = core.render(value, subject.map(|_| topic));
        let of = (subject, value.request.unwrap_or_default());
        for key in self.retained.take(topic, of, frame.queue_bytes()) {
            core.replay(key, &frame);
        }
        self.ask_retained(core);
    }

    /// Asks the bus for the clients whose turn has come, and registers for the room that other clients need.
    pub(super) fn ask_retained(&mut self, core: &mut Core) {
        if self.retained.is_on() {
            self.retained.ask(core.now().mono_us);
            for key in self.retained.turns.take_rooms() {
                core.tell_room(key);
            }
            self.retained.store(&self.stats);
        }
    }
}

impl RetainedRequest {
    fn end(name: &TopicName, number: u64) -> Self {
        Self {
            name: name.clone(),
            number,
            wanted: false,
        }
    }
}

#[cfg(test)]
mod tests;
