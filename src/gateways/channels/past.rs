//! What the history lacks for clients that ask for the newest messages: the newest message of a name in the stream that is
//! the kept feed. The gateway asks the stream for it, once for all clients that ask meanwhile; the messages go to the
//! history, and the answers to these clients wait for them. A name that was asked for is not asked for again until the
//! history has forgotten the newest message of some name.

use std::collections::{BTreeMap, HashMap, VecDeque};

use foldhash::quality::RandomState;

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::retained::RetainedRequest;
use weirgate_core::{ByClient, Core, Publication, SessionKey, TopicName};

/// The longest wait of an answer for the stream, microseconds. A question ends within it, unless it brings very much.
pub(super) const PAST_WAIT_US: u64 = 6_000_000;
/// The most questions on their way. Further names are answered with what the history has.
const OPEN_MAX: usize = 1_024;
/// The most names that are known to be in the history. With more, all are forgotten.
const KNOWN_MAX: usize = 65_536;

/// The questions about the stream, and what they have found out.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Whether the stream answers questions.
    is_on: bool,
    /// Questions on their way, by number.
    open: BTreeMap<u64, PastQuestion>,
    numbers: HashMap<TopicName, u64, RandomState>,
    /// Names whose newest messages the history has, with what it had forgotten when they were asked for.
    known: HashMap<TopicName, u64, RandomState>,
    /// Clients whose answers wait no longer for a name.
    ended: VecDeque<(TopicName, Vec<SessionKey>)>,
}

#[derive(Debug)]
struct PastQuestion {
    name: TopicName,
    forgotten: u64,
    clients: Vec<SessionKey>,
}

impl Past {
    /// The stream answers questions.
    pub(super) fn new() -> Self {
        Self {
            is_on: true,
            ..Self::default()
        }
    }

    /// Whether the values of this question are for the history.
    pub(super) fn has(&self, number: u64) -> bool {
        self.open.contains_key(&number)
    }

    /// Whether clients wait no longer.
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Nothing is known any more: the stream may have other messages.
    pub(super) fn lost(&mut self) {
        self.known = HashMap::default();
    }

    /// Ends a question whose messages are in the history.
    fn end(&mut self, number: u64) {
        if let Some(question) = self.open.get(&number) {
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            self.known.insert(question.name.clone(), question.forgotten);
            self.give_up(number);
        }
    }

    /// Ends a question without all of its messages: its clients wait no longer.
    fn give_up(&mut self, number: u64) {
        if let Some(question) = self.open.remove(&number) {
            self.numbers.remove(&question.name);
            self.ended.push_back((question.name, question.clients));
        }
    }
}

impl ChannelsGateway {
    /// Whether the answer to a client waits for the newest messages of a name from the stream.
    pub(super) fn waits_for_past(
        &mut self,
        core: &Core,
        key: SessionKey,
        name: &TopicName,
    ) -> bool {
        let forgotten = core.newest_forgotten();
        let is_known = self.past.known.get(name) == Some(&forgotten);
        let is_exact = !self.syntax().is_pattern(name.as_str());
        if !self.past.is_on || !self.statuses.is_up() || is_known || is_exact && core.has_kept(name)
        {
            return false;
        }
        let number = self.past.numbers.get(name).copied();
        if number.is_none() && self.past.open.len() >= OPEN_MAX {
            return false;
        }
        let number = number.unwrap_or_else(|| {
            let number = self.retained.ask_newest(name);
            let question = PastQuestion {
                name: name.clone(),
                forgotten,
                clients: Vec::new(),
            };
            self.past.open.insert(number, question);
            self.past.numbers.insert(name.clone(), number);
            number
        });
        if let Some(question) = self.past.open.get_mut(&number) {
            question.clients.push(key);
        }
        true
    }

    /// Takes a message that a question has brought. Without room in the history the question ends.
    pub(super) fn keep_past(&mut self, core: &mut Core, message: &Publication) {
        let number = message.request.unwrap_or_default();
        if !core.keep_newest(message)
            && let Some(question) = self.past.open.get(&number)
        {
            let name = question.name.clone();
            self.retained
                .request(RetainedRequest::Forget { name, number });
            self.past.end(number);
        }
    }

    /// Handles the end of a page of a question.
    pub(super) fn past_paged(&mut self, number: u64, is_open: bool) {
        match self.past.open.get(&number) {
            Some(question) if is_open => {
                let name = question.name.clone();
                self.retained
                    .request(RetainedRequest::More { name, number });
            }
            _ => self.past.give_up(number),
        }
    }

    /// Handles the end of a question.
    pub(super) fn past_ended(&mut self, number: u64) {
        self.past.end(number);
    }

    /// Handles the bus going away: open questions get no response.
    pub(super) fn past_down(&mut self) {
        for number in self.past.open.keys().copied().collect::<Vec<_>>() {
            self.past.give_up(number);
        }
    }

    /// Sends the answers of clients that wait no longer, as many as there is time for.
    pub(super) fn answer_past(&mut self, core: &mut Core, clients: &mut ByClient<ChannelsClient>) {
        while let Some((name, keys)) = self.past.ended.front_mut() {
            let Some(key) = keys.pop() else {
                self.past.ended.pop_front();
                continue;
            };
            let name = name.clone();
            if let Some(client) = clients.get_mut(key) {
                client.answers.settle(&name);
                self.send_ready(core, key, client);
            }
            if !core.has_time() {
                return;
            }
        }
    }
}
