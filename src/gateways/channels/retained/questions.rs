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
use weirgate_core::{PageCursor, SessionKey, StoredId, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::base::ExtendibleMap;

/// How long the first member of a question that is ready for the next page waits for the others, microseconds.
pub(super) const LAG_MAX_US: u64 = 500_000;
/// How long the members of a question may take for a page, microseconds. For longer, the bus would forget the question.
pub(super) const PAUSE_MAX_US: u64 = 120_000_000;
/// The most questions that the bus has at once. Above that the question whose members take the longest for a page ends, and
/// goes on later.
pub(super) const OPEN_MAX: usize = 256;

/// How far a question has read, and from where it reads on. The default is the beginning.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct QuestionCursor {
    /// 0 for the beginning; each end of a page has another number.
    id: u64,
    page_cursor: Arc<PageCursor>,
    /// The question is for all messages of the stream that is the kept feed.
    reads_all: bool,
}

/// What a question begins with: a name, and the number of a cursor.
type Start = (TopicName, u64);

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
    begins: u64,
    /// The end of the last page.
    cursor: QuestionCursor,
    /// The first message that the question has brought, if it reads all messages from the beginning of the stream, and
    /// no page has ended yet.
    first: Option<StoredId>,
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
            self.cursor.id = *cursors;
            self.cursor.page_cursor = Arc::new(PageCursor {
                after: Some(first),
                ..PageCursor::clone(&self.cursor.page_cursor)
            });
        }
        self.cursor.clone()
    }
}

/// All questions.
#[derive(Debug, Default)]
pub(in super::super) struct Questions {
    open: BTreeMap<u64, OpenQuestion>,
    /// Questions without a page so far.
    begun: ExtendibleMap<Start, BegunQuestion>,
    /// How many questions of `begun` wait among those of each address.
    begun_of: ExtendibleMap<ClientAddr, usize>,
    /// The questions that are still to be asked, at once or when the one of `begun` with the same start has its first
    /// page: number, cursor and members.
    next: ExtendibleMap<Start, (u64, QuestionCursor, BTreeSet<SessionKey>)>,
    /// The number of the newest question.
    number: u64,
    /// The number of the newest cursor.
    cursors: u64,
    /// Requests that the bus has not got yet.
    pub(super) requests: VecDeque<RetainedRequest>,
}

/// The id of the cursor from the beginning of all messages. The cursor from the beginning of last values has the id 0.
const BEGIN_OF_ALL: u64 = u64::MAX;

/// A name, clients of a question about it, and the cursor from which they go on.
pub(super) type LeftMembers = (TopicName, BTreeSet<SessionKey>, QuestionCursor);

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
        self.cursors += u64::from(from.after.is_some());
        QuestionCursor {
            id: from.after.map_or(BEGIN_OF_ALL, |_| self.cursors),
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
        let start = (name.clone(), cursor.id);
        self.move_begun(&start, client);
        let (number, _, members) = self.next.get_or_insert_with(start, || {
            self.number += 1;
            (self.number, cursor.clone(), BTreeSet::new())
        });
        members.insert(key);
        *number
    }

    /// Handles a client whose question has to wait until the one of `begun` has its first page. If the client's address
    /// has no question at the bus, and the other address has several, the begun question takes its turn at the
    /// client's.
    fn move_begun(&mut self, start: &Start, client: ClientAddr) {
        let client = client.group();
        let Some(begun) = self.begun.get(start).copied() else {
            return;
        };
        if self.begun_of(client) == 0 && self.begun_of(begun.client) > 1 {
            let number = begun.number;
            self.end_begun(start);
            self.begin(start.clone(), BegunQuestion { number, client });
            let name = start.0.clone();
            self.requests.push_back(RetainedRequest::Move {
                name,
                number,
                client,
            });
        }
    }

    /// How many questions without a page wait among those of the client's address.
    pub(super) fn begun_of(&self, client: ClientAddr) -> usize {
        self.begun_of.get(&client.group()).copied().unwrap_or(0)
    }

    fn begin(&mut self, start: Start, begun: BegunQuestion) {
        *self.begun_of.get_or_insert_default(begun.client) += 1;
        self.begun.insert(start, begun);
    }

    /// Removes a question from those without a page, and from the count of its address.
    fn end_begun(&mut self, start: &Start) {
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

    /// Asks the next question about the name from this cursor, unless an earlier one has not brought its first page.
    /// `address_of` says where a member comes from, and `sought_by` what the members of a question for all messages
    /// wait for. Returns the clients of another question if that had to end for this one.
    pub(super) fn ask(
        &mut self,
        name: &TopicName,
        cursor_id: u64,
        address_of: impl Fn(SessionKey) -> Option<ClientAddr>,
        sought_by: impl Fn(&BTreeSet<SessionKey>) -> Sought,
    ) -> Option<LeftMembers> {
        let start = (name.clone(), cursor_id);
        if self.begun.contains_key(&start) {
            return None;
        }
        let (number, cursor, members) = self.next.remove(&start)?;
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
        self.begin(start, BegunQuestion { number, client });
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
        let slow = self.waiting().filter(|(_, ready, _)| *ready == 0);
        slow.min().map(|(_, _, number)| number)
    }

    /// Questions whose members take a page: until when each waits, how many of its members are ready, and its number.
    fn waiting(&self) -> impl Iterator<Item = (u64, usize, u64)> {
        let state = |(number, question): (&u64, &OpenQuestion)| match question.state {
            PageState::Taken { due_us, ready } => Some((due_us, ready, *number)),
            PageState::Asked => None,
        };
        self.open.iter().filter_map(state)
    }

    /// The question that is the first not to wait any longer, and when.
    fn first_due(&self) -> Option<(u64, u64)> {
        let dues = self.waiting().map(|(due_us, _, number)| (due_us, number));
        dues.min()
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
    pub(in super::super) fn brought(&mut self, number: u64, id: StoredId) {
        if let Some(question) = self.open.get_mut(&number)
            && question.cursor.is_at_beginning()
        {
            question.first.get_or_insert(id);
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
        let start = (name.clone(), begins.id);
        let (next_number, _, members) = self.next.get_mut(&start)?;
        if *next_number == number && members.remove(&key) && members.is_empty() {
            self.next.remove(&start);
        }
        None
    }

    /// Handles the end of a page: the bus has read up to `page_cursor`, and the members take the values. If it is not
    /// open, the bus has no more of this question. Returns the members, and the cursor; `None` if the question has
    /// ended before.
    pub(super) fn paged(
        &mut self,
        number: u64,
        page_cursor: Arc<PageCursor>,
        is_open: bool,
        now_us: u64,
    ) -> Option<LeftMembers> {
        let question = self.open.get_mut(&number)?;
        // A new number, unless the question has ended where it began: its clients then share the next one with those
        // that begin there.
        if is_open || question.cursor.page_cursor != page_cursor {
            self.cursors += 1;
            (question.cursor.id, question.cursor.page_cursor) = (self.cursors, page_cursor);
        }
        question.first = question.first.filter(|_| question.cursor.is_at_beginning());
        let left = (
            question.name.clone(),
            question.members.clone(),
            question.take_cursor(&mut self.cursors),
        );
        if is_open {
            question.state = PageState::Taken {
                due_us: now_us + PAUSE_MAX_US,
                ready: 0,
            };
            self.forget_begun(number);
        } else {
            self.remove(number);
        }
        Some(left)
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
        self.first_due().map(|(due_us, _)| due_us)
    }

    /// Takes the members that keep others waiting for too long out of a question, and returns them; `None` if no
    /// question has such members. `is_ready` returns whether a member keeps nobody waiting. If none is ready, the
    /// question ends.
    pub(super) fn split(
        &mut self,
        now_us: u64,
        is_ready: impl Fn(&TopicName, SessionKey, u64) -> bool,
    ) -> Option<LeftMembers> {
        let (_, number) = self.first_due().filter(|(due_us, _)| *due_us <= now_us)?;
        let question = self.open.get_mut(&number)?;
        let members = std::mem::take(&mut question.members).into_iter();
        let (ready, slow): (BTreeSet<_>, BTreeSet<_>) =
            members.partition(|key| is_ready(&question.name, *key, number));
        let cursor = question.take_cursor(&mut self.cursors);
        let left = (question.name.clone(), slow, cursor);
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
        let mut question = self.remove(number)?;
        let name = question.name.clone();
        self.requests
            .push_back(RetainedRequest::Forget { name, number });
        let cursor = question.take_cursor(&mut self.cursors);
        Some((question.name, question.members, cursor))
    }

    /// Removes a question that the bus has ended. Returns its members, and whether it had a page.
    pub(super) fn ended(&mut self, number: u64) -> Option<(LeftMembers, bool)> {
        let mut question = self.remove(number)?;
        let had_page = question.cursor.id != question.begins;
        let cursor = question.take_cursor(&mut self.cursors);
        Some(((question.name, question.members, cursor), had_page))
    }

    fn remove(&mut self, number: u64) -> Option<OpenQuestion> {
        self.forget_begun(number);
        self.open.remove(&number)
    }

    /// The question has brought its first page, or none: the next may begin at the same cursor.
    fn forget_begun(&mut self, number: u64) {
        if let Some(question) = self.open.get(&number) {
            let start = (question.name.clone(), question.begins);
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
        let next = self.next.keys().filter(|(about, _)| ends(about));
        let mut starts: Vec<Start> = next.cloned().collect();
        starts.sort_unstable();
        for start in starts {
            if let Some((_, cursor, members)) = self.next.remove(&start) {
                left.push((start.0, members, cursor));
            }
        }
        left
    }

    /// Where a question began: what [`Self::ask`] needs once it has a page or has ended.
    pub(super) fn start_of(&self, number: u64) -> Option<(TopicName, u64)> {
        let question = self.open.get(&number)?;
        Some((question.name.clone(), question.begins))
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

    /// The number of the cursor.
    pub(in super::super) fn id(&self) -> u64 {
        self.id
    }
}
