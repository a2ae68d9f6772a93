//! What the history lacks for clients that ask for the newest messages: the newest message of a name in the stream that is
//! the kept feed. The gateway asks the stream for it, once for all clients that ask meanwhile; the messages go to the
//! history, and the answers to these clients wait for them. While the bus is away, and while many questions are on their way,
//! a name waits for its turn. A name that was asked for is not asked for again until the history has forgotten the newest
//! message of some name.
//!
//! The stream may answer with messages that its reader has not reached: after an outage it reads the backlog first. Such a
//! message is neither kept nor sent, because the feed still brings it, after older ones. The answer waits until the reader has
//! passed it; the history has it then.
//!
//! A stream that answers no questions (Redis) is read into the history at the start: there a name waits until it has been read.
//!
//! If the stream does not give all, or the answer has waited for long enough, the answer says why, and the next client asks
//! again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use foldhash::quality::RandomState;

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::retained::RetainedRequest;
use weirgate_core::{
    ByClient, Core, NotKept, Point, Publication, RetainedCut, SessionKey, StoredId, TopicName,
};

/// The longest wait of an answer for the stream, microseconds. A question ends within it, unless it brings very much.
pub(super) const PAST_WAIT_US: u64 = 6_000_000;
/// The most questions on their way. Further names wait for their turn.
const OPEN_MAX: usize = 1_024;
/// The most names that are known to be in the history. With more, all are forgotten.
const KNOWN_MAX: usize = 65_536;
/// Memory of a name that waits, beside the text.
pub(super) const PAST_NAME_BYTES: usize = 384;

/// The questions about the stream, and what they have found out.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Whether the stream answers questions.
    answers: bool,
    /// The names that clients wait for.
    questions: HashMap<TopicName, PastQuestion, RandomState>,
    /// Those that are not asked for yet, in their order.
    waiting: BTreeMap<u64, TopicName>,
    /// Those on their way, by the number of the question.
    open: BTreeMap<u64, TopicName>,
    /// Those whose answers have come, with messages that the reader of the stream has not reached: in its order.
    ahead: BTreeSet<(StoredId, TopicName)>,
    /// How many names have waited.
    count: u64,
    /// Names of which nothing more is to be had from the stream.
    known: HashMap<TopicName, Known, RandomState>,
    /// Clients whose answers wait no longer for a name.
    ended: VecDeque<Ended>,
}

#[derive(Debug)]
struct PastQuestion {
    turn: Turn,
    /// What the history had forgotten when the name was asked for.
    forgotten: u64,
    /// A message that did not come.
    cut: Option<RetainedCut>,
    /// The newest message that the reader of the stream has not reached.
    unread: Option<StoredId>,
    clients: BTreeSet<SessionKey>,
}

/// Where a question is.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Waits(u64),
    Asked,
    /// The answer has come, with a message that the reader of the stream has not reached.
    Ahead(StoredId),
}

/// What a question has found out: the history has what the stream gives.
#[derive(Clone, Copy, Debug)]
struct Known {
    forgotten: u64,
    /// Why this is not all.
    cut: Option<RetainedCut>,
}

#[derive(Debug)]
struct Ended {
    name: TopicName,
    cut: Option<RetainedCut>,
    clients: BTreeSet<SessionKey>,
}

/// Whether the history has the newest messages of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PastOf {
    /// It has what is to be had; with a reason, messages are missing for good.
    Here(Option<RetainedCut>),
    /// The stream may have others.
    Missing,
}

impl Past {
    /// The stream answers questions.
    pub(super) fn new() -> Self {
        Self {
            answers: true,
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

    /// Whether another name can be asked for.
    fn has_next(&self) -> bool {
        !self.waiting.is_empty() && self.open.len() < OPEN_MAX
    }

    /// Makes a client wait for a name.
    fn wait(&mut self, name: &TopicName, key: SessionKey) {
        let question = self.questions.entry(name.clone()).or_insert_with(|| {
            self.count += 1;
            self.waiting.insert(self.count, name.clone());
            PastQuestion {
                turn: Turn::Waits(self.count),
                forgotten: 0,
                cut: None,
                unread: None,
                clients: BTreeSet::new(),
            }
        });
        question.clients.insert(key);
    }

    /// A client waits no longer for a name. Without clients, a name is not asked for.
    pub(super) fn leave(&mut self, name: &TopicName, key: SessionKey) {
        let Some(question) = self.questions.get_mut(name) else {
            return;
        };
        question.clients.remove(&key);
        if !question.clients.is_empty() {
            return;
        }
        match question.turn {
            Turn::Waits(place) => drop(self.waiting.remove(&place)),
            Turn::Ahead(id) => drop(self.ahead.remove(&(id, name.clone()))),
            Turn::Asked => return,
        }
        self.questions.remove(name);
    }

    /// Ends a question: its clients wait no longer. With a `cut`, messages are missing; the next client asks again, unless it
    /// would find the same.
    fn end(&mut self, number: u64, cut: Option<RetainedCut>) {
        let Some(name) = self.open.remove(&number) else {
            return;
        };
        let question = self.questions.get_mut(&name);
        if let Some(question) = question
            && let Some(id) = question.unread
            && cut.is_none_or(stays)
        {
            (question.turn, question.cut) = (Turn::Ahead(id), cut.or(question.cut));
            match question.clients.is_empty() {
                true => drop(self.questions.remove(&name)),
                false => drop(self.ahead.insert((id, name))),
            }
        } else {
            self.end_name(name, cut);
        }
    }

    fn end_name(&mut self, name: TopicName, cut: Option<RetainedCut>) {
        let Some(question) = self.questions.remove(&name) else {
            return;
        };
        let cut = cut.or(question.cut);
        if self.answers && cut.is_none_or(stays) {
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            let forgotten = question.forgotten;
            self.known.insert(name.clone(), Known { forgotten, cut });
        }
        self.ended.push_back(Ended {
            name,
            cut,
            clients: question.clients,
        });
    }

    /// A question gets no answer.
    fn ask_again(&mut self, number: u64) {
        if let Some(name) = self.open.remove(&number) {
            self.wait_again(name);
        }
    }

    /// A name waits again, if clients wait for it.
    fn wait_again(&mut self, name: TopicName) {
        let Some(question) = self.questions.get_mut(&name) else {
            return;
        };
        if question.clients.is_empty() {
            self.questions.remove(&name);
            return;
        }
        self.count += 1;
        question.turn = Turn::Waits(self.count);
        (question.cut, question.unread) = (None, None);
        self.waiting.insert(self.count, name);
    }

    /// Notes a message of a question that the reader of the stream has not reached.
    fn unread(&mut self, number: u64, id: StoredId) {
        let name = self.open.get(&number);
        if let Some(question) = name.and_then(|name| self.questions.get_mut(name)) {
            question.unread = question.unread.max(Some(id));
        }
    }

    /// Notes that a message of a question is not relayed.
    pub(super) fn skipped(&mut self, number: u64) {
        let name = self.open.get(&number);
        if let Some(question) = name.and_then(|name| self.questions.get_mut(name)) {
            question.cut = Some(RetainedCut::Large);
        }
    }
}

/// Whether messages that are missing for this reason stay missing.
fn stays(cut: RetainedCut) -> bool {
    matches!(cut, RetainedCut::Unnamed | RetainedCut::Large)
}

impl ChannelsGateway {
    /// Whether the history has the newest messages of a name of the kept feed.
    pub(super) fn past_of(&self, core: &Core, name: &TopicName) -> PastOf {
        if !self.has_stream() {
            return PastOf::Here(None);
        }
        if !self.statuses.has_filled(core) {
            return PastOf::Missing;
        }
        let is_exact = !self.syntax().is_pattern(name.as_str());
        if !self.past.answers || is_exact && core.has_kept(name) {
            return PastOf::Here(None);
        }
        let known = self.past.known.get(name);
        match known.filter(|known| known.forgotten == core.newest_forgotten()) {
            Some(known) => PastOf::Here(known.cut),
            None => PastOf::Missing,
        }
    }

    /// Makes the answer to a client wait for the newest messages of a name.
    pub(super) fn wait_for_past(&mut self, core: &mut Core, key: SessionKey, name: &TopicName) {
        self.past.wait(name, key);
        self.ask_past(core);
    }

    /// Why a client whose answer waits no longer lacks the newest messages of a name; `None` if they have come meanwhile.
    pub(super) fn leave_past(
        &mut self,
        core: &Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: &TopicName,
    ) -> Option<RetainedCut> {
        // Another answer to the client may still wait for the name.
        if !client.waits_for_past(name) {
            self.past.leave(name, key);
        }
        match self.past_of(core, name) {
            PastOf::Here(cut) => cut,
            PastOf::Missing if self.statuses.is_up() => Some(RetainedCut::Limit),
            PastOf::Missing => Some(RetainedCut::Away),
        }
    }

    /// Whether names that wait have their turn.
    pub(super) fn has_past_work(&self) -> bool {
        self.past.has_ended() || self.statuses.is_up() && self.past.has_next()
    }

    /// Asks for the names that have their turn, as many as there is time for. Of some the history has all by now.
    pub(super) fn ask_past(&mut self, core: &mut Core) {
        while self.statuses.is_up() && self.past.has_next() {
            let Some((_, name)) = self.past.waiting.pop_first() else {
                return;
            };
            if let PastOf::Here(cut) = self.past_of(core, &name) {
                self.past.end_name(name, cut);
            } else if let Some(question) = self.past.questions.get_mut(&name) {
                (question.turn, question.forgotten) = (Turn::Asked, core.newest_forgotten());
                let number = self.retained.ask_newest(&name);
                self.past.open.insert(number, name);
            }
            if !core.has_time() {
                return;
            }
        }
    }

    /// Takes a message that a question has brought. Without room in the history the question ends.
    pub(super) fn keep_past(&mut self, core: &mut Core, message: &Publication) {
        let number = message.request.unwrap_or_default();
        match core.keep_newest(message) {
            Ok(()) => {}
            Err(NotKept::Unread(id)) => self.past.unread(number, id),
            Err(NotKept::NoRoom) => {
                self.forget_past(number);
                self.past.end(number, Some(RetainedCut::Limit));
            }
        }
    }

    /// Ends the questions whose messages the reader of the stream has passed by now.
    pub(super) fn pass_past(&mut self, core: &Core) {
        while let Some((id, _)) = self.past.ahead.first()
            && let Some(Point::Stored(newest)) = core.position().map(|position| position.point)
            && *id <= newest
            && let Some((id, name)) = self.past.ahead.pop_first()
        {
            // The number is passed, but not the message: the reader does not know yet that this is another stream.
            let is_other = !core.has_read(id);
            let cut = is_other.then_some(RetainedCut::Limit);
            self.past.end_name(name, cut);
        }
    }

    /// Tells the bus that nobody waits for a question.
    fn forget_past(&mut self, number: u64) {
        if let Some(name) = self.past.open.get(&number).cloned() {
            self.retained
                .request(RetainedRequest::Forget { name, number });
        }
    }

    /// Handles the end of a page of a question. If the bus has no more of this question, its connection has ended.
    pub(super) fn past_paged(&mut self, number: u64, is_open: bool) {
        match self.past.open.get(&number) {
            Some(name) if is_open => {
                let name = name.clone();
                self.retained
                    .request(RetainedRequest::More { name, number });
            }
            _ => self.past.ask_again(number),
        }
    }

    /// Handles the end of a question; `cut` is why messages are missing.
    pub(super) fn past_ended(&mut self, number: u64, cut: Option<RetainedCut>) {
        self.past.end(number, cut);
    }

    /// Handles a loss of messages of the stream. Nothing is known any more: it may be another stream, with other messages.
    pub(super) fn past_lost(&mut self) {
        self.past.known = HashMap::default();
        while let Some((_, name)) = self.past.ahead.pop_first() {
            self.past.wait_again(name);
        }
        self.past_down();
    }

    /// Handles the bus going away: open questions get no response, and are asked again when it is back.
    pub(super) fn past_down(&mut self) {
        for number in self.past.open.keys().copied().collect::<Vec<_>>() {
            self.forget_past(number);
            self.past.ask_again(number);
        }
    }

    /// Sends the answers of clients that wait no longer, as many as there is time for.
    pub(super) fn answer_past(&mut self, core: &mut Core, clients: &mut ByClient<ChannelsClient>) {
        while let Some(ended) = self.past.ended.front_mut() {
            let Some(key) = ended.clients.pop_first() else {
                self.past.ended.pop_front();
                continue;
            };
            let (name, cut) = (ended.name.clone(), ended.cut);
            if let Some(client) = clients.get_mut(key) {
                client.settle_past(&name, cut);
                self.send_ready(core, key, client);
            }
            if !core.has_time() {
                return;
            }
        }
    }
}
