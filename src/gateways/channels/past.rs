//! What the history lacks for clients that ask for the newest messages: the newest message of a name in the stream that
//! is the kept feed. The gateway asks the stream for it, once for all clients that ask meanwhile; the messages go to
//! the history, and the answers to these clients wait for them. While the bus is away, and while many questions are on
//! their way, names wait for their turn ([`turns`]): client addresses take turns, and the clients of an address. A name
//! that was asked for is not asked for again until the history has forgotten the newest message of some name.
//!
//! The stream may answer with messages that its reader has not reached: after an outage it reads the backlog first.
//! Such a message is neither kept nor sent, because the feed still brings it, after older ones. The answer waits until
//! the reader has passed it; the history has it then.
//!
//! A stream that answers no questions (Redis) is read into the history at the start: there a name waits until it has
//! been read.
//!
//! If the stream does not give all, or the answer has waited for long enough, the answer says why, and the next client asks
//! again.

mod known;
mod turns;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use self::known::KnownNames;
use self::turns::{Turn, Waiting};
pub(super) use self::wanted::{PastFound, WantedPast};
use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::patterns::matcher;
use super::retained::RetainedRequest;
use weirgate_core::{
    ByClient, Core, NotKept, Point, Publication, RetainedCut, SessionKey, StoredId, TopicName,
    Wanted,
};
use weirgate_wire::admission::{ClientAddr, Permit};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::{ChunkedQueue, ExtendibleMap};

/// The longest wait of an answer for the stream, microseconds. A question ends within it, unless it brings very much.
pub(super) const PAST_WAIT_US: u64 = 6_000_000;
/// Memory of a name that waits, beside the text.
const PAST_NAME_BYTES: usize = 384;
/// The most messages, kept for addresses without clients, that are forgotten in one step to make room for another one.
const FORGOTTEN_AT_ONCE: usize = 64;
/// Memory of a client with names that wait for their turn.
const PAST_CLIENT_BYTES: usize = 384;

/// The questions about the stream, and what they have found out.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Whether the stream answers questions.
    answers: bool,
    /// The names that clients wait for.
    questions: ExtendibleMap<TopicName, PastQuestion>,
    /// The names among these that wait for their turn.
    waiting: Waiting,
    /// The names that wait again, until their clients have their turns.
    returned: Returned,
    /// The names that the stream is asked for, by the number of the question.
    open: BTreeMap<u64, TopicName>,
    /// The names whose answers have come, with messages that the reader of the stream has not reached: in the order in
    /// which it reaches them. Answers from before a loss come first.
    ahead: BTreeSet<(Ahead, TopicName)>,
    /// How often the stream has lost messages.
    losses: u64,
    /// Names that the stream was asked for, while asking again would bring nothing.
    known: KnownNames,
    /// Questions that have ended, with the clients that do not know it yet.
    ended: ChunkedQueue<Ended>,
    /// The number of the newest wait.
    newest: PastWait,
}

/// The number of a wait for a name, which lasts until the question has ended. Clients may wait for the name anew before
/// all clients of the wait before are told of its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PastWait(u64);

/// A name that clients wait for: the question about it, asked or still to be asked.
#[derive(Debug)]
struct PastQuestion {
    wait: PastWait,
    stage: Stage,
    /// How many newest messages the history had forgotten ([`Core::newest_forgotten_count`]) when the name was asked
    /// for.
    forgotten: u64,
    /// Why a message did not come.
    cut: Option<RetainedCut>,
    /// The newest message that the reader of the stream has not reached.
    unread: Option<StoredId>,
    /// The permit for one of the questions that may be open at once, while this one is.
    permit: Option<Permit>,
    /// The address for which the history keeps what the question brings.
    kept_for: ClientAddr,
    clients: BTreeSet<SessionKey>,
}

impl PastQuestion {
    fn new(wait: PastWait, client: ClientAddr) -> Self {
        Self {
            wait,
            stage: Stage::Waits,
            // Until the name is asked for, which sets it.
            forgotten: 0,
            cut: None,
            unread: None,
            permit: None,
            kept_for: client.group(),
            clients: BTreeSet::new(),
        }
    }

    /// Keeps in the history a message that the question has brought, if the address of any waiting client has room
    /// there: an address without room takes nothing from the others. What was kept for addresses without clients makes
    /// room.
    fn keep(
        &mut self,
        core: &mut Core,
        message: &Publication,
        has_clients: impl Fn(ClientAddr) -> bool,
    ) -> Result<(), NotKept> {
        let mut kept = core.keep_newest(message, self.kept_for, self.forgotten);
        let mut clients = self.clients.iter();
        while kept == Err(NotKept::NoRoom)
            && let Some(key) = clients.next()
        {
            let client = core.client_addr(*key).map(ClientAddr::group);
            if let Some(other) = client.filter(|client| *client != self.kept_for) {
                self.kept_for = other;
                kept = core.keep_newest(message, other, self.forgotten);
            }
        }
        // For an address that has no clients any more, the answer displaces nothing.
        if !has_clients(self.kept_for) {
            return kept;
        }
        for _ in 0..FORGOTTEN_AT_ONCE {
            if kept != Err(NotKept::NoRoom) || !core.forget_newest_of_gone(&has_clients) {
                break;
            }
            kept = core.keep_newest(message, self.kept_for, self.forgotten);
        }
        kept
    }
}

/// Where a question is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// It has a turn among those of each of its clients, or gets them.
    #[default]
    Waits,
    Asked,
    /// The answer has come, with a message that the reader of the stream has not reached.
    Ahead(Ahead),
}

/// What the reader of the stream has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ahead {
    /// How often the stream had lost messages when the answer came: after another loss the answer says nothing.
    losses: u64,
    id: StoredId,
}

/// Names that wait again, because the bus gives no answer to their questions. Very many clients may wait for one, so these
/// get their turns one after the other.
#[derive(Debug, Default)]
struct Returned {
    names: ChunkedQueue<TopicName>,
    /// The clients of the first name have their turns up to this one.
    reached: Option<SessionKey>,
}

#[derive(Debug)]
struct Ended {
    name: TopicName,
    end: PastEnd,
    clients: BTreeSet<SessionKey>,
}

/// How the wait for a name has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PastEnd {
    pub(super) wait: PastWait,
    /// Why messages are missing.
    pub(super) cut: Option<RetainedCut>,
    /// How many newest messages the history had forgotten when the name was asked for, or when the history turned out
    /// to have its messages.
    pub(super) forgotten: u64,
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
    pub(super) fn new(syntax: NameSyntax) -> Self {
        Self {
            answers: true,
            waiting: Waiting::new(syntax),
            ..Self::default()
        }
    }

    /// Whether the stream answers questions.
    pub(super) fn answers(&self) -> bool {
        self.answers
    }

    /// Whether the values of this question are for the history.
    pub(super) fn has(&self, number: u64) -> bool {
        self.open.contains_key(&number)
    }

    /// Whether clients are still to learn that their wait has ended.
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Whether answers have come that are from before a loss: their names wait again.
    fn has_lost(&self) -> bool {
        let first = self.ahead.first();
        first.is_some_and(|(ahead, _)| ahead.losses < self.losses)
    }

    /// Whether clients of names that wait again are still to get their turns.
    fn has_returned(&self) -> bool {
        self.has_lost() || !self.returned.names.is_empty()
    }

    /// Whether another name can be asked for. While clients of names that wait again have no turns yet, none can: their
    /// addresses would come after all names of others.
    fn has_next(&self) -> bool {
        !self.questions.is_empty() && !self.has_returned() && self.waiting.has_next()
    }

    /// Makes a client wait for a name.
    fn wait(&mut self, core: &Core, name: &TopicName, key: SessionKey) -> PastWait {
        let question = self.questions.get_or_insert_with(name.clone(), || {
            self.newest.0 += 1;
            PastQuestion::new(self.newest, turns::address_of(core, key))
        });
        question.clients.insert(key);
        if question.stage == Stage::Waits {
            self.waiting.add(core, key, name.clone());
        }
        question.wait
    }

    /// A client waits no longer for a name. Without clients, a name is not asked for.
    pub(super) fn stop_waiting(&mut self, name: &TopicName, key: SessionKey) {
        self.waiting.remove(key, name);
        let Some(question) = self.questions.get_mut(name) else {
            return;
        };
        question.clients.remove(&key);
        match question.stage {
            _ if !question.clients.is_empty() => return,
            // It ends with its answer.
            Stage::Asked => return,
            Stage::Waits => {}
            Stage::Ahead(ahead) => drop(self.ahead.remove(&(ahead, name.clone()))),
        }
        self.questions.remove(name);
    }

    /// Takes back the turn of a client for a name of which the question has ended, unless it waits for the name anew.
    fn end_turn(&mut self, name: &TopicName, key: SessionKey) {
        let question = self.questions.get(name);
        if question.is_none_or(|question| !question.clients.contains(&key)) {
            self.waiting.remove(key, name);
        }
    }

    /// Handles the end of a question. If it brought a message that the reader of the stream has not reached, its
    /// clients wait for the reader; otherwise they wait no longer. With a `cut`, messages are missing; the next client
    /// asks again, unless it would find the same.
    fn end(&mut self, number: u64, cut: Option<RetainedCut>) {
        let Some(name) = self.open.remove(&number) else {
            return;
        };
        let question = self.questions.get_mut(&name);
        if let Some(question) = question
            && let Some(id) = question.unread
            && cut.is_none_or(stays)
        {
            let losses = self.losses;
            let ahead = Ahead { losses, id };
            (question.stage, question.cut) = (Stage::Ahead(ahead), cut.or(question.cut));
            question.permit = None;
            match question.clients.is_empty() {
                true => drop(self.questions.remove(&name)),
                false => drop(self.ahead.insert((ahead, name))),
            }
        } else {
            self.end_name(name, cut);
        }
    }

    /// Ends the question for a name, with why messages of it are missing, if any. What stays true is remembered for
    /// the next client.
    fn end_name(&mut self, name: TopicName, cut: Option<RetainedCut>) {
        let Some(question) = self.questions.remove(&name) else {
            return;
        };
        let cut = cut.or(question.cut);
        if self.answers && cut.is_none_or(stays) {
            self.known.add(&name, question.forgotten, cut);
        }
        self.ended.push_back(Ended {
            name,
            end: PastEnd {
                wait: question.wait,
                cut,
                forgotten: question.forgotten,
            },
            clients: question.clients,
        });
    }

    /// Handles a question that gets no answer: its name waits again.
    fn ask_again(&mut self, number: u64) {
        if let Some(name) = self.open.remove(&number) {
            self.wait_again(name);
        }
    }

    /// A name waits again, if clients wait for it: [`Self::give_turn`] follows.
    fn wait_again(&mut self, name: TopicName) {
        let Some(question) = self.questions.get_mut(&name) else {
            return;
        };
        if question.clients.is_empty() {
            self.questions.remove(&name);
            return;
        }
        question.stage = Stage::Waits;
        (question.cut, question.unread, question.permit) = (None, None, None);
        self.returned.names.push_back(name);
    }

    /// Gives the next client of the names that wait again its turn.
    fn give_turn(&mut self, core: &Core) {
        if self.has_lost()
            && let Some((_, name)) = self.ahead.pop_first()
        {
            return self.wait_again(name);
        }
        let Some(name) = self.returned.names.front() else {
            return;
        };
        let reached = self.returned.reached;
        let rest = (
            reached.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        let question = self.questions.get(name);
        let question = question.filter(|question| question.stage == Stage::Waits);
        let next = question.and_then(|question| question.clients.range(rest).next().copied());
        match next {
            Some(key) => self.waiting.add(core, key, name.clone()),
            None => drop(self.returned.names.pop_front()),
        }
        self.returned.reached = next;
    }

    /// The question with this number, while it is open.
    fn asked(&mut self, number: u64) -> Option<&mut PastQuestion> {
        self.questions.get_mut(self.open.get(&number)?)
    }

    /// Notes a message of a question that the reader of the stream has not reached.
    fn unread(&mut self, number: u64, id: StoredId) {
        if let Some(question) = self.asked(number) {
            question.unread = question.unread.max(Some(id));
        }
    }

    /// Notes that a message of a question is not relayed.
    pub(super) fn skipped(&mut self, number: u64) {
        if let Some(question) = self.asked(number) {
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
        // Only a stream has messages that the history lacks.
        if !self.has_stream() {
            return PastOf::Here(None);
        }
        // The history is still being filled.
        if !self.statuses.has_filled(core) {
            return PastOf::Missing;
        }
        // A stream that answers no questions was read whole. Of an exact name, the history has the newest message if it
        // has any.
        let is_exact = !self.syntax().is_pattern(name.as_str());
        if !self.past.answers || is_exact && core.has_kept(name) {
            return PastOf::Here(None);
        }
        self.past.known.past_of(name, core.newest_forgotten_count())
    }

    /// How many newest messages the history has forgotten; if a question about the name is open, whose answer a client
    /// will share, how many it had forgotten when the question was asked. `None` if the stream answers no questions.
    pub(super) fn forgotten_for(&self, core: &Core, name: &TopicName) -> Option<u64> {
        let question = self.past.questions.get(name);
        let asked = question.filter(|question| question.stage != Stage::Waits);
        let forgotten = asked.map(|question| question.forgotten);
        let forgotten = forgotten.unwrap_or_else(|| core.newest_forgotten_count());
        Some(forgotten).filter(|_| self.past.answers)
    }

    /// Whether the history has forgotten a newest message of a name since its count of forgotten newest messages was
    /// `forgotten`. The stream still has the message.
    pub(super) fn has_forgotten(&self, core: &Core, name: &TopicName, forgotten: u64) -> bool {
        core.newest_forgotten_count() > forgotten && {
            let patterns = matcher(self.syntax(), name.as_str()).map(Arc::new);
            let name = name.clone();
            core.has_forgotten(&Wanted { name, patterns }, forgotten)
        }
    }

    /// Makes the answer to a client wait for the newest messages of a name.
    pub(super) fn wait_for_past(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        name: &TopicName,
    ) -> PastWait {
        let wait = self.past.wait(core, name, key);
        self.ask_past(core);
        wait
    }

    /// Ends the wait of a client for a name, because its answer waits no longer. Returns why the newest messages are
    /// missing; `None` if they have come meanwhile.
    pub(super) fn leave_past(
        &mut self,
        core: &Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: &TopicName,
    ) -> Option<RetainedCut> {
        // Another answer to the client may still wait for the name.
        if !client.waits_for_past(name) {
            self.past.stop_waiting(name, key);
        }
        match self.past_of(core, name) {
            PastOf::Here(cut) => cut,
            PastOf::Missing if self.statuses.is_up() => Some(RetainedCut::Limit),
            PastOf::Missing => Some(RetainedCut::Away),
        }
    }

    /// Whether clients are still to learn that their wait has ended, or to get their turns, or a name can be asked for.
    pub(super) fn has_past_work(&self) -> bool {
        let has_next = self.statuses.is_up() && self.past.has_next();
        self.past.has_ended() || self.past.has_returned() || has_next
    }

    /// Gives clients their turns, and asks for the names whose turn has come, as many as there is time for. Of some the
    /// history has all by now.
    pub(super) fn ask_past(&mut self, core: &mut Core) {
        while self.past.has_returned() {
            self.past.give_turn(core);
            if !core.has_time() {
                return;
            }
        }
        while self.statuses.is_up() && self.past.has_next() {
            if let Some(turn) = self.past.waiting.next(core) {
                self.ask_past_of(core, turn);
            }
            if !core.has_time() {
                return;
            }
        }
    }

    /// Asks for a name whose turn has come, unless the turn of another client came before.
    fn ask_past_of(&mut self, core: &Core, turn: Turn) {
        let Turn {
            name,
            client,
            permit,
        } = turn;
        let past = self.past_of(core, &name);
        let question = self.past.questions.get_mut(&name);
        let Some(question) = question.filter(|question| question.stage == Stage::Waits) else {
            return;
        };
        question.forgotten = core.newest_forgotten_count();
        if let PastOf::Here(cut) = past {
            self.past.end_name(name, cut);
            return;
        }
        question.stage = Stage::Asked;
        (question.permit, question.kept_for) = (Some(permit), client.group());
        let number = self.retained.ask_newest(&name, client);
        self.past.open.insert(number, name);
    }

    /// Takes a message that a question has brought. If the history has no room for it, the question ends.
    pub(super) fn keep_past(&mut self, core: &mut Core, message: &Publication) {
        let number = message.request.unwrap_or_default();
        let Some(question) = self.past.asked(number) else {
            return;
        };
        let name_bytes = self.names.bytes();
        // An address has clients if it holds memory of names.
        match question.keep(core, message, |client| name_bytes.of(client) > 0) {
            Ok(()) => {}
            Err(NotKept::Unread(id)) => self.past.unread(number, id),
            // This one may be older, so it is nobody's newest message. The next client asks again.
            Err(NotKept::Forgotten) => question.cut = Some(RetainedCut::Limit),
            Err(NotKept::NoRoom) => {
                self.forget_past(number);
                self.past.end(number, Some(RetainedCut::Limit));
            }
        }
    }

    /// Whether the reader of the stream has passed messages that answers wait for.
    fn has_passed(&self, core: &Core) -> bool {
        let next = self.past.ahead.first().filter(|_| !self.past.has_lost());
        next.is_some_and(|(ahead, _)| {
            let point = core.newest_read().map(|position| position.point);
            matches!(point, Some(Point::Stored { id: newest, .. }) if ahead.id <= newest)
        })
    }

    /// Ends the questions whose messages the reader of the stream has passed by now, as many as there is time for.
    pub(super) fn pass_past(&mut self, core: &mut Core) {
        while self.has_passed(core)
            && let Some((ahead, name)) = self.past.ahead.pop_first()
        {
            // The number is passed, but not the message: the reader does not know yet that this is another stream.
            let is_other = !core.has_read(ahead.id);
            let cut = is_other.then_some(RetainedCut::Limit);
            self.past.end_name(name, cut);
            if !core.has_time() {
                return;
            }
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
    /// The names whose answers have come wait again; very many take several turns ([`Past::give_turn`]).
    pub(super) fn past_lost(&mut self) {
        self.past.known.clear();
        self.past.losses += 1;
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
        while let Some(ended) = self.past.ended.get_mut(0) {
            let Some(key) = ended.clients.pop_first() else {
                self.past.ended.pop_front();
                continue;
            };
            let (name, end) = (ended.name.clone(), ended.end);
            self.past.end_turn(&name, key);
            if let Some(client) = clients.get_mut(key) {
                client.settle_past(&name, end);
                self.send_ready(core, key, client);
            }
            if !core.has_time() {
                return;
            }
        }
    }
}
