//! The last values of names: which clients wait for what the streams of the bus hold.
//!
//! A client waits from its request on, so that a message which comes live in between is known to be
//! newer: of that subject no value follows. The bus is asked when the client has its `subscribed`, for
//! as many names as the client has room for ([`turns`]); so values stand in send queues and nowhere
//! else, and what is published later stands there behind them. At most one question for a name is on
//! its way, for all clients whose turn has come. A question ends with the last client that waits.

mod turns;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use self::turns::Turns;
use super::{ChannelsGateway, ChannelsStats};
use crate::admission::ClientAddr;
use crate::auth::NameSyntax;
use crate::hub::{Core, SessionKey, TopicName};

/// Subjects of one pattern that are remembered to have come live while clients wait. Beyond them
/// nobody can say which values are older, and the clients that wait get none.
const LIVE_MAX: usize = 10_000;

/// Bytes of these subjects, over all patterns.
const LIVE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a subject counts for beside its bytes.
const LIVE_ENTRY_BYTES: usize = 64;

/// A question for the last values of a name, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedRequest {
    /// A name or a pattern.
    pub name: TopicName,
    /// Comes back with the values, and with the end of the answer.
    pub number: u64,
    /// `false`: nobody waits for the answer any more.
    pub wanted: bool,
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
    /// Its turn has not come.
    Ready,
    /// The bus is asked for it when the question on its way is answered.
    Next,
    /// The bus was asked.
    Asked,
}

#[derive(Debug, Default)]
struct Waiting {
    clients: HashMap<SessionKey, Waiter, RandomState>,
    /// Those of them whom the next question is for.
    next: HashSet<SessionKey, RandomState>,
    asked: Option<Asked>,
    /// Counts the live messages.
    count: u64,
    /// The number of the newest live message of each subject of a pattern.
    live: HashMap<Arc<str>, u64, RandomState>,
}

/// The question on its way.
#[derive(Debug)]
struct Asked {
    number: u64,
    /// Whom it is for; some may wait no more.
    clients: Vec<SessionKey>,
}

/// Of the message that the next publication is made of.
#[derive(Clone, Debug)]
struct Source {
    subject: Arc<str>,
    /// Of the question, if the message is a last value.
    number: Option<u64>,
}

/// Clients that wait for last values.
#[derive(Debug)]
pub(super) struct Retained {
    is_on: bool,
    waiting: HashMap<TopicName, Waiting, RandomState>,
    turns: Turns,
    requests: VecDeque<RetainedRequest>,
    /// Of the newest question.
    number: u64,
    source: Option<Source>,
    /// Clients times names.
    waiters: usize,
    /// Of the subjects that have come live.
    live_bytes: usize,
    /// Clients that get no value because too many subjects have come live.
    given_up: u64,
}

impl Retained {
    /// Off.
    pub(super) fn new(syntax: NameSyntax) -> Self {
        Self {
            is_on: false,
            waiting: HashMap::default(),
            turns: Turns::new(syntax),
            requests: VecDeque::new(),
            number: 0,
            source: None,
            waiters: 0,
            live_bytes: 0,
            given_up: 0,
        }
    }

    /// From here on `bytes_max` bounds the last values that wait in the send queues of all clients.
    pub(super) fn switch_on(&mut self, bytes_max: usize) {
        self.is_on = true;
        self.turns.limit(bytes_max);
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A client has asked for the name, and waits for its answer.
    pub(super) fn want(&mut self, name: &TopicName, key: SessionKey) {
        let waiting = self.waiting.entry(name.clone()).or_default();
        let since = waiting.count;
        self.waiters += usize::from(!waiting.clients.contains_key(&key));
        waiting.clients.entry(key).or_insert(Waiter {
            state: State::Unanswered,
            since,
        });
    }

    /// The client has its answer.
    pub(super) fn answered(&mut self, name: &TopicName, key: SessionKey) {
        let waiting = self.waiting.get_mut(name);
        if let Some(waiter) = waiting.and_then(|waiting| waiting.clients.get_mut(&key))
            && waiter.state == State::Unanswered
        {
            waiter.state = State::Ready;
            self.turns.ready(key, name.clone());
        }
    }

    /// The client does not want the name any more.
    pub(super) fn forget(&mut self, name: &TopicName, key: SessionKey) {
        self.remove(name, key);
        self.turns.left(key, name);
    }

    /// The client has ended; `unanswered` are the names that it has no answer for.
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

    /// The clients that the hub is to tell the gateway of as soon as they have room.
    pub(super) fn take_rooms(&mut self) -> Vec<SessionKey> {
        self.turns.take_rooms()
    }

    /// The client has taken what it was sent.
    pub(super) fn room(&mut self, key: SessionKey, address: ClientAddr) {
        self.turns.room(key, address);
    }

    /// The subject of the message that the next publication is made of; of a last value, with the number
    /// of its question.
    pub(super) fn source(&mut self, subject: &Arc<str>, number: Option<u64>) {
        if !self.waiting.is_empty() {
            self.source = Some(Source {
                subject: Arc::clone(subject),
                number,
            });
        }
    }

    /// A message has come live: its members get it, and what a stream held of its subject is older.
    /// Returns whether clients wait no more.
    pub(super) fn came_live(&mut self, name: &TopicName) -> bool {
        let source = self.source.take();
        if self.waiting.is_empty() {
            return false;
        }
        let (Some(waiting), Some(Source { subject, .. })) = (self.waiting.get_mut(name), source)
        else {
            return false;
        };
        if self.turns.is_pattern(name) {
            waiting.count += 1;
            if let Some(newest) = waiting.live.get_mut(&subject) {
                *newest = waiting.count;
                return false;
            }
            let bytes = subject.len() + LIVE_ENTRY_BYTES;
            if waiting.live.len() < LIVE_MAX && self.live_bytes + bytes <= LIVE_BYTES_MAX {
                self.live_bytes += bytes;
                waiting.live.insert(subject, waiting.count);
                return false;
            }
            self.given_up += waiting.clients.len() as u64;
        }
        self.remove_all(name);
        true
    }

    /// The clients that get a last value of so many bytes, which has come now.
    pub(super) fn take(&mut self, name: &TopicName, bytes: usize) -> Vec<SessionKey> {
        let (Some(waiting), Some(source)) = (self.waiting.get_mut(name), self.source.take()) else {
            return Vec::new();
        };
        let asked = waiting.asked.as_ref();
        let Some(asked) = asked.filter(|asked| Some(asked.number) == source.number) else {
            return Vec::new();
        };
        let live = waiting.live.get(&source.subject).copied().unwrap_or(0);
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
        if !self.turns.is_pattern(name)
            && let Some(number) = source.number
        {
            // There is no other value.
            self.ended(name, number);
        }
        takers
    }

    /// A connection to the bus is gone: what came live on it is older than what will be asked for on
    /// the next one.
    pub(super) fn lost(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.live = HashMap::default();
        }
        self.live_bytes = 0;
    }

    /// The bus is there: it is asked for those who wait.
    pub(super) fn up(&mut self) {
        self.turns.up();
    }

    /// The bus is away, and answers nothing of what it was asked.
    pub(super) fn down(&mut self) {
        self.turns.down();
        for (name, waiting) in &mut self.waiting {
            if let Some(Asked { number, .. }) = waiting.asked.take() {
                self.requests.push_back(RetainedRequest::end(name, number));
            }
            waiting.next.clear();
            for (key, waiter) in &mut waiting.clients {
                if matches!(waiter.state, State::Next | State::Asked) {
                    waiter.state = State::Ready;
                    self.turns.again(*key, name);
                }
            }
        }
    }

    /// The question of this number has been answered, with a value before this or with none.
    pub(super) fn ended(&mut self, name: &TopicName, number: u64) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        let Some(asked) = waiting.asked.take_if(|asked| asked.number == number) else {
            return;
        };
        let clients = &waiting.clients;
        let is_asked = |key: &SessionKey| clients.get(key).is_some_and(|w| w.state == State::Asked);
        let answered: Vec<_> = asked.clients.into_iter().filter(is_asked).collect();
        for key in answered {
            self.remove(name, key);
            self.turns.left(key, name);
        }
        self.question(name);
    }

    /// When there is something to ask though nothing happens.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.turns.due_us()
    }

    /// The next question for the bus, or the end of one.
    pub(super) fn next_request(&mut self) -> Option<RetainedRequest> {
        self.requests.pop_front()
    }

    /// Shows the counts.
    pub(super) fn store(&mut self, stats: &ChannelsStats) {
        let given_up = std::mem::take(&mut self.given_up);
        stats.store_retained(self.waiters, self.turns.bytes(), given_up);
    }

    /// Asks for the names of the clients whose turn it is. Every other call may bring a turn.
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

    /// Asks for all whose turn it is, if no question is on its way.
    fn question(&mut self, name: &TopicName) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        if waiting.asked.is_some() || waiting.next.is_empty() {
            return;
        }
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

    /// Nobody waits for the name any more.
    fn remove_all(&mut self, name: &TopicName) {
        let waiting = self.waiting.get(name);
        let clients = waiting.into_iter().flat_map(|w| w.clients.keys());
        let clients: Vec<SessionKey> = clients.copied().collect();
        for key in clients {
            self.remove(name, key);
            self.turns.left(key, name);
        }
    }

    /// With the last client its name is forgotten, and the question on its way.
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
        let live = waiting.live.keys();
        self.live_bytes -= live.map(|s| s.len() + LIVE_ENTRY_BYTES).sum::<usize>();
        self.waiting.remove(name);
    }
}

impl ChannelsGateway {
    /// Has the bus asked for the clients whose turn it is, and asks for a notice of the room that the
    /// others need.
    pub(super) fn ask_retained(&mut self, core: &mut Core) {
        if self.retained.is_on() {
            self.retained.ask(core.now().mono_us);
            for key in self.retained.take_rooms() {
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
