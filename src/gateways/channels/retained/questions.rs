//! The questions for stored messages: which clients share one, what the bus is asked next, and how far each has come.
//!
//! The bus answers in pages. A question goes on when its members have taken a page; the values of a page go to all of
//! them. A member that lags behind the first by [`LAG_MAX_US`] leaves, and goes on with a question of its own, from the
//! same cursor. A question whose members all take longer than [`PAUSE_MAX_US`] ends, and they go on in the same way.
//! While the bus has a question that begins at a cursor and has not brought its first page, later clients that begin there
//! wait for the next question, which they share.
//!
//! At the bus a question waits its turn among the questions of one address: of its members' addresses, the one with the
//! fewest. If a client begins to wait for a question and its address has none there, a question of an address with
//! several moves to the client's address: nobody waits behind what only others want.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::RetainedRequest;
use super::sought::{Receiver, Sought};
use weirgate_core::{PageCursor, Position, SessionKey, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::base::ExtendibleMap;

/// How long the first member of a question that is ready for the next page waits for the others, microseconds.
pub(super) const LAG_MAX_US: u64 = 500_000;
/// How long the members of a question may take for a page, microseconds. For longer, the bus would forget the question.
pub(super) const PAUSE_MAX_US: u64 = 120_000_000;
/// The most questions that the bus has at once. Above that the question whose members take the longest for a page ends, and
/// goes on later.
pub(super) const OPEN_MAX: usize = 256;

/// How far a question has read, and from where it reads on. The default is the beginning of last values.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct QuestionCursor {
    id: CursorId,
    page_cursor: Arc<PageCursor>,
    /// The question is for all messages of the stream that is the kept feed.
    reads_all: bool,
}

/// By which cursors are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum CursorId {
    /// The beginning of last values.
    #[default]
    BeginOfValues,
    /// The beginning of all messages of the stream.
    BeginOfAll,
    /// The end of a page: each has another number.
    Page(u64),
}

/// What a question begins with: questions with the same start bring the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct QuestionStart {
    pub(super) name: TopicName,
    from: CursorId,
}

/// A question that is still to be asked.
#[derive(Debug)]
struct NextQuestion {
    number: u64,
    cursor: QuestionCursor,
    members: BTreeSet<SessionKey>,
}

/// The clients of a question that does not go on with them.
#[derive(Debug)]
pub(super) struct LeftMembers {
    pub(super) name: TopicName,
    pub(super) clients: BTreeSet<SessionKey>,
    /// From where they go on.
    pub(super) cursor: QuestionCursor,
}

/// A question that the bus has ended.
#[derive(Debug)]
pub(super) struct EndedQuestion {
    pub(super) left: LeftMembers,
    /// Whether a page had ended before.
    pub(super) had_page: bool,
}

/// A question whose members take a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TakenPage {
    /// Until when it waits for them.
    due_us: u64,
    number: u64,
    /// How many of its members are ready for the next page.
    ready: usize,
}

/// A question without a page so far.
#[derive(Clone, Copy, Debug)]
struct BegunQuestion {
    number: u64,
    /// The address among whose questions it waits.
    client: ClientAddr,
}

#[derive(Debug)]
struct OpenQuestion {
    name: TopicName,
    /// The id of the cursor from which it was asked.
    begins: CursorId,
    /// The end of the last page.
    cursor: QuestionCursor,
    /// The first message that the question has brought, if it reads all messages from the beginning of the stream, and
    /// no page has ended yet.
    first: Option<Position>,
    members: BTreeSet<SessionKey>,
    /// What the members of a question for all messages wait for.
    sought: Sought,
    state: PageState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageState {
    /// The bus brings a page.
    Asked,
    /// The members take a page; some are ready for the next. At `due_us` the question does not wait any longer.
    Taken { due_us: u64, ready: usize },
}

/// What a member of a question does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// It waits for the next page.
    Ready,
    /// It takes a page.
    Takes,
}

impl OpenQuestion {
    /// Returns the cursor from which its members go on, in another question; `cursors` is [`Questions::cursors`].
    ///
    /// If the question has read from the beginning of the stream, the other one must not begin there again: meanwhile
    /// the stream may have removed what the members have and more, which the bus notices only if a question begins
    /// after a message. So the other one begins after the first message that this one has brought; before it nothing is
    /// missing.
    fn take_cursor(&mut self, cursors: &mut u64) -> QuestionCursor {
        if let Some(first) = self.first.take() {
            *cursors += 1;
            self.cursor.id = CursorId::Page(*cursors);
            self.cursor.page_cursor = Arc::new(PageCursor::at(first));
        }
        self.cursor.clone()
    }

    /// What it began with.
    fn start(&self) -> QuestionStart {
        QuestionStart {
            name: self.name.clone(),
            from: self.begins,
        }
    }

    /// The bus has read up to here.
    fn read_to(&mut self, page_cursor: Arc<PageCursor>, cursors: &mut u64) {
        *cursors += 1;
        self.cursor.id = CursorId::Page(*cursors);
        self.cursor.page_cursor = page_cursor;
        self.first = self.first.filter(|_| self.cursor.is_at_beginning());
    }

    /// Its members, once it has ended.
    fn into_left(mut self, cursors: &mut u64) -> LeftMembers {
        let cursor = self.take_cursor(cursors);
        LeftMembers {
            name: self.name,
            clients: self.members,
            cursor,
        }
    }
}

/// All questions.
#[derive(Debug, Default)]
pub(in super::super) struct Questions {
    open: BTreeMap<u64, OpenQuestion>,
    /// Questions without a page so far.
    begun: ExtendibleMap<QuestionStart, BegunQuestion>,
    /// How many questions of `begun` wait among those of each address.
    begun_of: ExtendibleMap<ClientAddr, usize>,
    /// The questions that are still to be asked, at once or when the one of `begun` with the same start has its first
    /// page.
    next: ExtendibleMap<QuestionStart, NextQuestion>,
    /// The number of the newest question.
    number: u64,
    /// The number of the newest cursor.
    cursors: u64,
    /// Requests that the bus has not got yet.
    pub(super) requests: VecDeque<RetainedRequest>,
}

impl Questions {
    /// Asks the stream that is the kept feed for the newest messages of a name, for the history. Returns the number.
    pub(super) fn ask_newest(&mut self, name: &TopicName, client: ClientAddr) -> u64 {
        self.number += 1;
        self.requests.push_back(RetainedRequest::Newest {
            name: name.clone(),
            number: self.number,
            client,
        });
        self.number
    }

    /// The cursor of all messages of the stream from here on.
    pub(in super::super) fn cursor_from(&mut self, from: PageCursor) -> QuestionCursor {
        let id = match from.after {
            None => CursorId::BeginOfAll,
            Some(_) => {
                self.cursors += 1;
                CursorId::Page(self.cursors)
            }
        };
        QuestionCursor {
            id,
            page_cursor: Arc::new(from),
            reads_all: true,
        }
    }

    /// The name that a question is about.
    pub(super) fn name_of(&self, number: u64) -> Option<&TopicName> {
        self.open.get(&number).map(|question| &question.name)
    }

    /// The name of a question for all messages.
    pub(in super::super) fn scope_of(&self, number: u64) -> Option<&TopicName> {
        let question = self.open.get(&number);
        let question = question.filter(|question| question.cursor.reads_all);
        question.map(|question| &question.name)
    }

    /// Adds a client to the next question about the name from this cursor. Returns the number of the question.
    /// [`Self::ask`] follows.
    pub(super) fn join(
        &mut self,
        name: &TopicName,
        cursor: &QuestionCursor,
        key: SessionKey,
        client: ClientAddr,
    ) -> u64 {
        let start = cursor.start_of(name);
        self.move_begun(&start, client);
        let next = self.next.get_or_insert_with(start, || {
            self.number += 1;
            NextQuestion {
                number: self.number,
                cursor: cursor.clone(),
                members: BTreeSet::new(),
            }
        });
        next.members.insert(key);
        next.number
    }

    /// The questions for all messages that are still to be asked: their names and members.
    pub(in super::super) fn not_asked(
        &self,
    ) -> impl Iterator<Item = (&TopicName, &BTreeSet<SessionKey>)> {
        self.next.keys().filter_map(|start| {
            let question = self.next.get(start)?;
            let is_of_all = question.cursor.reads_all;
            is_of_all.then_some((&start.name, &question.members))
        })
    }

    /// Handles a client whose question has to wait until the one of `begun` has its first page. If the client's address
    /// has no question at the bus, and the other address has several, the begun question takes its turn at the
    /// client's.
    fn move_begun(&mut self, start: &QuestionStart, client: ClientAddr) {
        let client = client.group();
        let Some(begun) = self.begun.get(start).copied() else {
            return;
        };
        if self.begun_of(client) == 0 && self.begun_of(begun.client) > 1 {
            let number = begun.number;
            self.end_begun(start);
            self.begin(start.clone(), BegunQuestion { number, client });
            self.requests.push_back(RetainedRequest::Move {
                name: start.name.clone(),
                number,
                client,
            });
        }
    }

    /// How many questions without a page wait among those of the client's address.
    pub(super) fn begun_of(&self, client: ClientAddr) -> usize {
        self.begun_of.get(&client.group()).copied().unwrap_or(0)
    }

    fn begin(&mut self, start: QuestionStart, begun: BegunQuestion) {
        *self.begun_of.get_or_insert_default(begun.client) += 1;
        self.begun.insert(start, begun);
    }

    /// Removes a question from those without a page, and from the count of its address.
    fn end_begun(&mut self, start: &QuestionStart) {
        let Some(begun) = self.begun.remove(start) else {
            return;
        };
        if let Some(count) = self.begun_of.get_mut(&begun.client) {
            *count -= 1;
            if *count == 0 {
                self.begun_of.remove(&begun.client);
            }
        }
    }

    /// The address of these members that has the fewest questions at the bus.
    fn address_with_fewest(
        &self,
        members: &BTreeSet<SessionKey>,
        address_of: impl Fn(SessionKey) -> Option<ClientAddr>,
    ) -> ClientAddr {
        let mut fewest = None;
        for client in members.iter().filter_map(|key| address_of(*key)) {
            let count = self.begun_of(client);
            if fewest.is_none_or(|(least, _)| count < least) {
                fewest = Some((count, client.group()));
            }
            if count == 0 {
                break;
            }
        }
        // Without an address, all members have ended.
        fewest.map_or(ClientAddr::Unix, |(_, client)| client)
    }

    /// Asks the next question with this start, unless an earlier one has not brought its first page.
    /// `address_of` says where a member comes from, and `sought_by` what the members of a question for all messages
    /// wait for. Returns the clients of another question if that had to end for this one.
    pub(super) fn ask(
        &mut self,
        start: &QuestionStart,
        address_of: impl Fn(SessionKey) -> Option<ClientAddr>,
        sought_by: impl Fn(&BTreeSet<SessionKey>) -> Sought,
    ) -> Option<LeftMembers> {
        if self.begun.contains_key(start) {
            return None;
        }
        let NextQuestion {
            number,
            cursor,
            members,
        } = self.next.remove(start)?;
        let name = &start.name;
        let sought = match cursor.reads_all {
            true => sought_by(&members),
            false => Sought::default(),
        };
        let slowest = match self.open.len() < OPEN_MAX {
            true => None,
            false => self.slowest(),
        };
        let after = Arc::clone(&cursor.page_cursor);
        let client = self.address_with_fewest(&members, address_of);
        self.requests.push_back(match cursor.reads_all {
            true => RetainedRequest::All {
                name: name.clone(),
                number,
                after,
                client,
                names: sought.names(),
            },
            false => RetainedRequest::Ask {
                name: name.clone(),
                // Set by `Retained::next_request`.
                cover: None,
                number,
                after,
                client,
            },
        });
        self.begin(start.clone(), BegunQuestion { number, client });
        let question = OpenQuestion {
            name: name.clone(),
            begins: cursor.id,
            cursor,
            first: None,
            members,
            sought,
            state: PageState::Asked,
        };
        self.open.insert(number, question);
        slowest.and_then(|number| self.end(number))
    }

    /// The question whose members take the longest for a page, and none of which is ready.
    fn slowest(&self) -> Option<u64> {
        let slow = self.taken_pages().filter(|page| page.ready == 0);
        slow.min().map(|page| page.number)
    }

    /// The questions whose members take a page.
    fn taken_pages(&self) -> impl Iterator<Item = TakenPage> {
        let taken = |(number, question): (&u64, &OpenQuestion)| match question.state {
            PageState::Taken { due_us, ready } => Some(TakenPage {
                due_us,
                number: *number,
                ready,
            }),
            PageState::Asked => None,
        };
        self.open.iter().filter_map(taken)
    }

    /// The question that is the first not to wait any longer.
    fn first_due(&self) -> Option<TakenPage> {
        self.taken_pages().min()
    }

    /// The members of a question that the bus has.
    pub(in super::super) fn members(
        &self,
        name: &TopicName,
        number: u64,
    ) -> Option<&BTreeSet<SessionKey>> {
        let question = self.open.get(&number);
        let question = question.filter(|question| question.name == *name);
        question.map(|question| &question.members)
    }

    /// Handles a message that a question for all messages has brought.
    pub(in super::super) fn brought(&mut self, number: u64, position: Position) {
        if let Some(question) = self.open.get_mut(&number)
            && question.cursor.is_at_beginning()
        {
            question.first.get_or_insert(position);
        }
    }

    /// The members of a question for all messages that may want a message of this name, each with its replay.
    pub(in super::super) fn receivers(&self, number: u64, name: &str) -> Vec<Receiver> {
        let question = self.open.get(&number);
        question.map_or_else(Vec::new, |question| question.sought.receivers(name))
    }

    /// Takes a client out of a question, which may not have been asked yet: `name` and `begins` are what it begins with.
    /// Returns the cursor of the end of the last page. The question ends with its last client.
    pub(super) fn leave(
        &mut self,
        name: &TopicName,
        begins: &QuestionCursor,
        number: u64,
        key: SessionKey,
        member: Member,
    ) -> Option<QuestionCursor> {
        if let Some(question) = self.open.get_mut(&number) {
            if !question.members.remove(&key) {
                return None;
            }
            let cursor = question.take_cursor(&mut self.cursors);
            if let PageState::Taken { ready, .. } = &mut question.state {
                *ready -= usize::from(member == Member::Ready);
            }
            match question.members.is_empty() {
                true => drop(self.end(number)),
                false => self.ask_more_if_ready(number),
            }
            return Some(cursor);
        }
        let start = begins.start_of(name);
        let next = self.next.get_mut(&start)?;
        if next.number == number && next.members.remove(&key) && next.members.is_empty() {
            self.next.remove(&start);
        }
        None
    }

    /// Handles the end of a page: the bus has read up to `page_cursor`, and the members take the values. Returns the members;
    /// `None` if the question has ended before.
    pub(super) fn paged(
        &mut self,
        number: u64,
        page_cursor: Arc<PageCursor>,
        now_us: u64,
    ) -> Option<LeftMembers> {
        let question = self.open.get_mut(&number)?;
        question.read_to(page_cursor, &mut self.cursors);
        let left = LeftMembers {
            name: question.name.clone(),
            clients: question.members.clone(),
            cursor: question.take_cursor(&mut self.cursors),
        };
        question.state = PageState::Taken {
            due_us: now_us + PAUSE_MAX_US,
            ready: 0,
        };
        self.forget_begun(number);
        Some(left)
    }

    /// Handles the last page of a question: the bus has read up to `page_cursor`, and another question goes on from there.
    /// Returns the members; `None` if the question has ended before.
    pub(super) fn stopped(
        &mut self,
        number: u64,
        page_cursor: Arc<PageCursor>,
    ) -> Option<LeftMembers> {
        let mut question = self.remove(number)?;
        // Otherwise it has ended where it began: its clients share the next one with those that begin there.
        if question.cursor.page_cursor != page_cursor {
            question.read_to(page_cursor, &mut self.cursors);
        }
        Some(question.into_left(&mut self.cursors))
    }

    /// A member of the question has taken the page, and is ready for the next one.
    pub(super) fn ready(&mut self, number: u64, now_us: u64) {
        let Some(question) = self.open.get_mut(&number) else {
            return;
        };
        if let PageState::Taken { due_us, ready } = &mut question.state {
            if *ready == 0 {
                *due_us = now_us + LAG_MAX_US;
            }
            *ready += 1;
        }
        self.ask_more_if_ready(number);
    }

    /// Asks for the next page if all members are ready.
    fn ask_more_if_ready(&mut self, number: u64) {
        let Some(question) = self.open.get_mut(&number) else {
            return;
        };
        if let PageState::Taken { ready, .. } = question.state
            && ready > 0
            && ready >= question.members.len()
        {
            question.state = PageState::Asked;
            let name = question.name.clone();
            self.requests
                .push_back(RetainedRequest::More { name, number });
        }
    }

    /// When a question may not wait any longer.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.first_due().map(|page| page.due_us)
    }

    /// Takes the members that keep others waiting for too long out of a question, and returns them; `None` if no
    /// question has such members. `is_ready` returns whether a member keeps nobody waiting. If none is ready, the
    /// question ends.
    pub(super) fn split(
        &mut self,
        now_us: u64,
        is_ready: impl Fn(&TopicName, SessionKey, u64) -> bool,
    ) -> Option<LeftMembers> {
        let TakenPage { number, .. } = self.first_due().filter(|page| page.due_us <= now_us)?;
        let question = self.open.get_mut(&number)?;
        let members = std::mem::take(&mut question.members).into_iter();
        let (ready, slow): (BTreeSet<_>, BTreeSet<_>) =
            members.partition(|key| is_ready(&question.name, *key, number));
        let left = LeftMembers {
            name: question.name.clone(),
            clients: slow,
            cursor: question.take_cursor(&mut self.cursors),
        };
        let has_ready = !ready.is_empty();
        question.members = ready;
        if let PageState::Taken { ready, .. } = &mut question.state {
            *ready = question.members.len();
        }
        match has_ready {
            true => self.ask_more_if_ready(number),
            false => drop(self.end(number)),
        }
        Some(left)
    }

    /// Ends a question that the bus may have. Returns its members.
    fn end(&mut self, number: u64) -> Option<LeftMembers> {
        let question = self.remove(number)?;
        let name = question.name.clone();
        self.requests
            .push_back(RetainedRequest::Forget { name, number });
        Some(question.into_left(&mut self.cursors))
    }

    /// Removes a question that the bus has ended.
    pub(super) fn ended(&mut self, number: u64) -> Option<EndedQuestion> {
        let question = self.remove(number)?;
        let had_page = question.cursor.id != question.begins;
        let left = question.into_left(&mut self.cursors);
        Some(EndedQuestion { left, had_page })
    }

    fn remove(&mut self, number: u64) -> Option<OpenQuestion> {
        self.forget_begun(number);
        self.open.remove(&number)
    }

    /// The question has brought its first page, or none: the next may begin at the same cursor.
    fn forget_begun(&mut self, number: u64) {
        if let Some(question) = self.open.get(&number) {
            let start = question.start();
            if self
                .begun
                .get(&start)
                .is_some_and(|begun| begun.number == number)
            {
                self.end_begun(&start);
            }
        }
    }

    /// Ends all questions, or those about a name, and returns their members.
    pub(super) fn end_all(&mut self, name: Option<&TopicName>) -> Vec<LeftMembers> {
        let ends = |about: &TopicName| name.is_none_or(|name| name == about);
        let open = self.open.iter();
        let open = open.filter(|(_, question)| ends(&question.name));
        let numbers: Vec<u64> = open.map(|(number, _)| *number).collect();
        let mut left: Vec<LeftMembers> = numbers
            .into_iter()
            .filter_map(|number| self.end(number))
            .collect();
        let next = self.next.keys().filter(|start| ends(&start.name));
        let mut starts: Vec<QuestionStart> = next.cloned().collect();
        starts.sort_unstable();
        for start in starts {
            if let Some(next) = self.next.remove(&start) {
                left.push(LeftMembers {
                    name: start.name,
                    clients: next.members,
                    cursor: next.cursor,
                });
            }
        }
        left
    }

    /// What a question began with: what [`Self::ask`] needs once it has a page or has ended.
    pub(super) fn start_of(&self, number: u64) -> Option<QuestionStart> {
        self.open.get(&number).map(OpenQuestion::start)
    }
}

impl QuestionCursor {
    pub(super) fn reads_all(&self) -> bool {
        self.reads_all
    }

    /// Whether all messages of the stream are read from its beginning.
    fn is_at_beginning(&self) -> bool {
        self.reads_all && self.page_cursor.after.is_none()
    }

    /// What a question about the name begins with from here.
    pub(super) fn start_of(&self, name: &TopicName) -> QuestionStart {
        QuestionStart {
            name: name.clone(),
            from: self.id,
        }
    }
}
