//! The last values of names outside of the kept feed: which clients wait for values from the streams of the bus, and
//! how many names the gateway asks the bus for at a time.
//!
//! A client waits from its request on. If a live message of a subject comes meanwhile, it is newer than the value in
//! the stream, so the client does not get the value. The gateway asks the bus after the client's `subscribed`, once for
//! all clients whose turn has come.
//!
//! A client has a share of bytes. The gateway asks for names until the share is used up, and for the next names, or the next
//! page of a pattern's values, when the client has taken these values ([`questions`]). There is no question about a name
//! that the bus refuses. So values wait only in send queues, and later messages wait after them. The
//! shares are a [`Quota`]; clients without a share wait in a queue in which the addresses take turns. A share ends
//! after [`SHARE_US`], so that a client that takes a byte now and then does not keep others waiting for ever; from then
//! on its values count only in the memory of all frames.

mod questions;
mod turn;

pub(super) use self::questions::Place;
pub(super) use self::turn::{RetainedEnd, State, Wanted, Wants};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::mem;
use std::sync::Arc;

use foldhash::quality::RandomState;

use self::questions::{Left, Questions};
use self::turn::Turn;
use super::ChannelsGateway;
use super::messages::Answer;
use weirgate_core::{Core, PageCursor, Position, Publication, RetainedCut, SessionKey, TopicName};
use weirgate_wire::admission::{ClientAddr, FairQueue, Quota};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::ExtendibleMap;

/// The most memory for the subjects of patterns that are live while clients wait, over all patterns, and at most a
/// quarter of the bytes of last values. With more subjects the gateway could not tell older values from newer messages,
/// so the waiting clients get no more values.
const LIVE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The memory of a subject in a map that has just grown.
const LIVE_ENTRY_BYTES: usize = 40;
/// The most bytes of last values that may wait for a client, and of the values of a pattern. A single value may be
/// larger.
const CLIENT_BYTES_MAX: usize = 512 * 1024;
/// The size assumed for the value of an exact name before it has come, if no larger value has come before.
const VALUE_BYTES: usize = 32 * 1024;
/// After this time, a client that has not taken its values no longer counts in the limit over all clients.
const SHARE_US: u64 = 60_000_000;

/// What the bus is asked about last values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetainedRequest {
    /// A question about a name: its first page.
    Ask {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
        /// What was read before.
        after: Arc<PageCursor>,
    },
    /// A question about a name, to the stream that is the kept feed: the first page of all messages.
    All {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
        /// What was read before.
        after: Arc<PageCursor>,
    },
    /// A question about a name, to the stream that is the kept feed: the newest messages.
    Newest {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
    },
    /// The next page.
    More {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
    },
    /// Nobody waits for the answer any more.
    Forget {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
    },
}

/// Clients that wait for last values.
#[derive(Debug)]
pub(super) struct Retained {
    syntax: NameSyntax,
    /// Whether clients get the last values of names outside of the kept feed.
    pub(super) has_values: bool,
    /// Whether the bus gives all messages of the stream that is the kept feed.
    pub(super) has_pages: bool,
    /// Clients whose kept messages go on a little later, and when.
    pub(super) resting: Vec<SessionKey>,
    pub(super) rest_until_us: u64,
    /// Whether the bus is connected. When it has returned, [`Self::client_up`] queues each client again.
    pub(super) is_up: bool,
    pub(super) clients: HashMap<SessionKey, Turn, RandomState>,
    waiting: ExtendibleMap<TopicName, HashSet<SessionKey, RandomState>>,
    pub(super) questions: Questions,
    /// For patterns of `waiting` with live messages on this connection: the number of the newest live message of each
    /// subject, by a hash of the subject, which takes less memory than the text.
    live: ExtendibleMap<TopicName, HashMap<u64, u64, RandomState>>,
    hasher: RandomState,
    /// Clients with room.
    line: FairQueue<SessionKey>,
    /// Clients for which the hub is to report room in the send queue.
    pub(super) rooms: Vec<SessionKey>,
    /// Clients with an end to be told.
    ending: VecDeque<SessionKey>,
    /// The clients with a share, oldest first.
    shares: BTreeSet<(u64, SessionKey)>,
    /// Bytes of values that may wait for all clients, including open questions.
    pub(super) bytes: Quota,
    /// The number of the newest answer after which names are asked for.
    answers: u64,
    /// Count of the live messages of patterns.
    pub(super) count: u64,
    /// The names that clients wait for, counted for each client.
    waiters: usize,
    /// The clients that get all kept messages.
    pub(super) replaying: usize,
    /// The live subjects of all patterns.
    live_subjects: usize,
    /// Clients that got no values because too many subjects were live.
    given_up: u64,
}

impl Retained {
    /// A table for at most `bytes_max` bytes of values in the send queues of all clients; 0: there are no last values.
    pub(super) fn new(syntax: NameSyntax, bytes_max: usize) -> Self {
        Self {
            syntax,
            has_values: false,
            has_pages: false,
            resting: Vec::new(),
            rest_until_us: 0,
            is_up: false,
            clients: HashMap::default(),
            waiting: ExtendibleMap::default(),
            questions: Questions::default(),
            live: ExtendibleMap::default(),
            hasher: RandomState::default(),
            line: FairQueue::default(),
            rooms: Vec::new(),
            ending: VecDeque::new(),
            shares: BTreeSet::new(),
            bytes: Quota::new("last_values", bytes_max as u64),
            answers: 0,
            count: 0,
            waiters: 0,
            replaying: 0,
            live_subjects: 0,
            given_up: 0,
        }
    }

    /// Sets the most bytes of values and messages that may wait for all clients.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes = Quota::new("last_values", bytes_max as u64);
    }

    fn live_subjects_max(&self) -> usize {
        LIVE_BYTES_MAX.min((self.bytes.max() / 4) as usize) / LIVE_ENTRY_BYTES
    }

    /// Asks the stream that is the kept feed for the newest messages of a name. Returns the number of the question.
    pub(super) fn ask_newest(&mut self, name: &TopicName) -> u64 {
        self.questions.ask_newest(name)
    }

    /// Says something of a question of [`Self::ask_newest`].
    pub(super) fn request(&mut self, request: RetainedRequest) {
        self.questions.requests.push_back(request);
    }

    /// The next request for the bus.
    pub(super) fn next_request(&mut self) -> Option<RetainedRequest> {
        self.questions.requests.pop_front()
    }

    /// Returns the number of an answer after which names are asked for.
    pub(super) fn next_answer(&mut self) -> u64 {
        self.answers += 1;
        self.answers
    }

    /// Records a client that has asked for the name, and that waits for its `subscribed`: the answer with this number.
    /// `says_end`: the client is told when the values have ended; if it still waits for the name, the values begin anew,
    /// so that those behind the newest answer are whole.
    pub(super) fn want(&mut self, name: &TopicName, key: SessionKey, answer: u64, says_end: bool) {
        if says_end {
            self.leave_question(name, key);
        }
        let wanted = Wanted {
            state: State::Waits(answer),
            place: Place::default(),
            since: self.count,
            count: 0,
            says_end,
            cut: None,
        };
        let turn = self.clients.entry(key).or_default();
        if says_end {
            turn.ends.retain(|end| end.name != *name);
            turn.names.insert(name.clone(), wanted);
        } else {
            turn.names.entry(name.clone()).or_insert(wanted);
        }
        let waiting = self.waiting.get_or_insert_default(name.clone());
        self.waiters += usize::from(waiting.insert(key));
    }

    /// Handles the `subscribed` of a client with this number; answers go out in order.
    pub(super) fn answered(&mut self, key: SessionKey, answer: u64) {
        if let Some(turn) = self.clients.get_mut(&key) {
            turn.answered = answer;
            if !turn.ends.is_empty() {
                self.ending.push_back(key);
            }
            self.client_up(key);
        }
    }

    /// Handles a client that has given up the name, or needs no value any more.
    pub(super) fn forget(&mut self, name: &TopicName, key: SessionKey) {
        if let Some(turn) = self.clients.get_mut(&key) {
            turn.ends.retain(|end| end.name != *name);
        }
        self.remove(name, key);
    }

    fn remove(&mut self, name: &TopicName, key: SessionKey) {
        self.leave_question(name, key);
        if let Some(turn) = self.clients.get_mut(&key) {
            turn.names.remove(name);
            self.replaying -= usize::from(turn.replays.remove(name).is_some());
        }
        self.forget_if_idle(key);
        self.no_longer_waits(name, key);
    }

    /// Ends the wait of a client for the values of a name: it gets no more of them.
    fn end(&mut self, name: &TopicName, key: SessionKey, cut: Option<RetainedCut>) {
        if let Some(turn) = self.clients.get_mut(&key)
            && let Some(wanted) = turn.names.get(name).filter(|wanted| wanted.says_end)
        {
            let end = RetainedEnd {
                answer: match wanted.state {
                    State::Waits(answer) => answer,
                    State::Asked(_) | State::Takes(_) => 0,
                },
                name: name.clone(),
                count: wanted.count,
                cut: cut.or(wanted.cut),
            };
            if end.answer <= turn.answered {
                self.ending.push_back(key);
            }
            turn.ends.push_back(end);
        }
        self.remove(name, key);
    }

    /// Whether clients can be told of an end now.
    pub(super) fn has_ends(&self) -> bool {
        !self.ending.is_empty()
    }

    /// The next end of which a client can be told.
    fn next_end(&mut self) -> Option<(SessionKey, RetainedEnd)> {
        loop {
            let key = *self.ending.front()?;
            let end = self.clients.get_mut(&key).and_then(Turn::next_end);
            if let Some(end) = end {
                return Some((key, end));
            }
            self.ending.pop_front();
            self.forget_if_idle(key);
        }
    }

    /// Handles the end of a client. Returns the names that it waited for: the caller then calls
    /// [`stop_waiting`](Self::stop_waiting) for each.
    pub(super) fn closed(&mut self, key: SessionKey) -> Wants {
        let Some(turn) = self.clients.remove(&key) else {
            return Wants::default();
        };
        if let Some((_, begin_us)) = turn.share {
            self.shares.remove(&(begin_us, key));
        }
        self.line.remove(&key);
        self.replaying -= turn.replays.len();
        turn.names
    }

    /// Handles a client that has taken its values.
    pub(super) fn values_taken(&mut self, key: SessionKey, address: ClientAddr) {
        let Some(turn) = self.clients.get_mut(&key) else {
            return;
        };
        turn.sent = 0;
        turn.address = Some(address);
        if let Some((_, begin_us)) = turn.share.take() {
            self.shares.remove(&(begin_us, key));
        }
        if self.is_up && turn.has_work() {
            self.line.push(address, key);
        } else {
            turn.is_busy = false;
            self.forget_if_idle(key);
        }
    }

    /// Handles a live message, which is newer than the subject's value in a stream; `subject` is given if the name is a
    /// pattern. Returns true if clients stopped waiting.
    pub(super) fn note_live(&mut self, name: &TopicName, subject: Option<&Arc<str>>) -> bool {
        let Some(waiting) = self.waiting.get(name) else {
            return false;
        };
        if let Some(subject) = subject {
            self.count += 1;
            let subjects_max = self.live_subjects_max();
            let subject = self.hasher.hash_one(subject);
            let live = self.live.get_or_insert_default(name.clone());
            if let Some(newest) = live.get_mut(&subject) {
                *newest = self.count;
                return false;
            }
            // A pattern gets more while it has less than is free, so that others have room.
            if live.len() < subjects_max.saturating_sub(self.live_subjects) {
                self.live_subjects += 1;
                live.insert(subject, self.count);
                return false;
            }
            self.given_up += waiting.len() as u64;
        }
        let clients: Vec<SessionKey> = waiting.iter().copied().collect();
        // The message is newer than the value of an exact name, whose last values are whole with it.
        let cut = subject.map(|_| RetainedCut::Live);
        clients.into_iter().for_each(|key| self.end(name, key, cut));
        true
    }

    /// Returns the clients that get the last value that has just come; `bytes_for` gives its size for a client.
    /// `subject` is given if the name is a pattern.
    fn receivers(
        &mut self,
        name: &TopicName,
        (subject, number): (Option<&Arc<str>>, u64),
        mut bytes_for: impl FnMut(SessionKey) -> usize,
    ) -> Vec<SessionKey> {
        let Some(clients) = self.questions.members(name, number) else {
            return Vec::new();
        };
        let live = subject.and_then(|subject| {
            let live = self.live.get(name)?;
            live.get(&self.hasher.hash_one(subject))
        });
        let live = live.map_or(0, |live| *live);
        let (mut receivers, mut others) = (Vec::new(), Vec::new());
        for key in clients {
            if let Some(turn) = self.clients.get_mut(key)
                && turn.is_asked(name, number)
                && live <= turn.names[name].since
            {
                if !turn.has_room(subject.is_some(), bytes_for(*key)) {
                    others.push(*key);
                    continue;
                }
                receivers.push(*key);
                if let Some(wanted) = turn.names.get_mut(name) {
                    wanted.count += 1;
                }
            }
        }
        let others = others.into_iter();
        others.for_each(|key| self.leave_question(name, key));
        if subject.is_none() {
            // An exact name has only this value.
            let _ = self.ended(name, number, None);
        }
        receivers
    }

    /// Handles the loss of a connection. Forgets the live messages, because no value from the next connection is older.
    pub(super) fn lost(&mut self) {
        self.live = ExtendibleMap::default();
        self.live_subjects = 0;
    }

    /// Gives a client its turn, unless it has a turn or the bus is away.
    pub(super) fn client_up(&mut self, key: SessionKey) {
        if self.is_up
            && let Some(turn) = self.clients.get_mut(&key)
            && !turn.is_busy
        {
            turn.is_busy = true;
            self.rooms.push(key);
        }
    }

    /// Handles the bus going away: open questions get no response.
    pub(super) fn down(&mut self) {
        self.is_up = false;
        for left in self.questions.end_all(None) {
            self.go_on_later(left);
        }
    }

    /// Handles the refusal of a name's subscription: a value would be of a name that its clients do not hold. They wait
    /// until the bus accepts the name and [`Self::client_up`] queues them again.
    pub(super) fn refused(&mut self, name: &TopicName) {
        for left in self.questions.end_all(Some(name)) {
            self.go_on_later(left);
        }
    }

    /// Handles the end of a page of the question `number`: its clients take the values. The bus has read up to `cursor`;
    /// if it has ended the question, another goes on from there.
    pub(super) fn paged(
        &mut self,
        number: u64,
        cursor: &Arc<PageCursor>,
        (is_open, now_us): (bool, u64),
    ) {
        let start = self.questions.start_of(number);
        let page = (is_open, now_us);
        let Some(left) = self.questions.paged(number, Arc::clone(cursor), page) else {
            return;
        };
        if let (Some(cut), (name, clients, _)) = (cursor.cut, &left) {
            self.note_cut((name, number), clients, cut);
        }
        match is_open {
            true => self.take_page(number, left),
            false => self.go_on_later(left),
        }
        if let Some((name, place)) = start {
            self.ask_next(&name, place);
        }
    }

    /// Handles a message that a question should have brought: it is too large.
    pub(super) fn value_skipped(&mut self, number: u64, subject: &str) {
        let Some(name) = self.questions.name_of(number).cloned() else {
            return;
        };
        let members = self.questions.members(&name, number);
        let mut members = members.cloned().unwrap_or_default();
        members.retain(|key| {
            let replay = self.clients.get(key);
            let replay = replay.and_then(|turn| turn.replays.get(&name));
            replay.is_none_or(|replay| replay.is_for(subject))
        });
        self.note_cut((&name, number), &members, RetainedCut::Large);
    }

    /// Notes why clients do not get all that a question is about.
    fn note_cut(
        &mut self,
        (name, number): (&TopicName, u64),
        clients: &BTreeSet<SessionKey>,
        cut: RetainedCut,
    ) {
        for key in clients {
            let turn = self.clients.get_mut(key);
            let turn = turn.filter(|turn| turn.is_asked(name, number));
            if let Some(wanted) = turn.and_then(|turn| turn.names.get_mut(name)) {
                wanted.cut.get_or_insert(cut);
            }
        }
    }

    /// Lets the clients of a question take a page.
    fn take_page(&mut self, number: u64, (name, clients, place): Left) {
        for key in clients {
            let turn = self.clients.get_mut(&key);
            match turn.filter(|turn| turn.is_asked(&name, number)) {
                Some(turn) => {
                    turn.taking.insert(name.clone());
                    if let Some(wanted) = turn.names.get_mut(&name) {
                        wanted.state = State::Takes(number);
                    }
                    self.unasked(key);
                }
                None => drop(self.questions.leave((&name, &place), number, (key, false))),
            }
        }
    }

    /// Handles clients whose question does not go on with them: another goes on from this place.
    fn go_on_later(&mut self, (name, clients, place): Left) {
        for key in clients {
            self.wait_again(&name, key, Some(place.clone()));
        }
    }

    /// Handles the end of the question `number`, with or without a value before; `cut` is the reason why values are
    /// missing. Returns the clients that have waited.
    pub(super) fn ended(
        &mut self,
        name: &TopicName,
        number: u64,
        cut: Option<RetainedCut>,
    ) -> Vec<SessionKey> {
        let start = self.questions.start_of(number);
        if start.as_ref().is_none_or(|(of, _)| of != name) {
            return Vec::new();
        }
        let Some((_, clients, place)) = self.questions.ended(number) else {
            return Vec::new();
        };
        let has_waited = |key: &SessionKey| {
            let turn = self.clients.get(key);
            turn.is_some_and(|turn| turn.is_asked(name, number))
        };
        let clients: Vec<SessionKey> = clients.into_iter().filter(has_waited).collect();
        let is_of_all = place.is_of_all();
        for key in &clients {
            match is_of_all {
                true => self.replay_is_read(name, *key, (cut, place.clone())),
                false => self.end(name, *key, cut),
            }
        }
        if let Some((name, place)) = start {
            self.ask_next(&name, place);
        }
        match is_of_all {
            true => Vec::new(),
            false => clients,
        }
    }

    /// The time at which a question may be due without another event: when the oldest share ends, if a client waits in
    /// the line, or when a question does not wait any longer for clients that take a page.
    pub(super) fn due_us(&self) -> Option<u64> {
        let share = self.shares.first().filter(|_| !self.line.is_empty());
        let share_us = share.map(|(begin_us, _)| begin_us + SHARE_US);
        let rest_us = Some(self.rest_until_us).filter(|_| !self.resting.is_empty());
        let due_us = share_us.into_iter().chain(self.questions.due_us());
        due_us.chain(rest_us).min()
    }

    /// Lets the clients that keep the others of their question waiting go on with a question of their own.
    fn split_slow(&mut self, now_us: u64) {
        loop {
            let clients = &self.clients;
            let is_ready = |name: &TopicName, key: SessionKey, number: u64| {
                let turn = clients.get(&key);
                turn.is_some_and(|turn| turn.is_asked(name, number))
            };
            let Some(left) = self.questions.split(now_us, is_ready) else {
                return;
            };
            self.go_on_later(left);
        }
    }

    /// Gives shares to the next clients in the line, and asks for their names, except for those that the bus refuses.
    /// Must be called after every other call.
    /// The search is bounded: an address without room holds at least as much as is free, so the limit has at least a
    /// share for each such address.
    fn grant_shares(
        &mut self,
        (now_us, reached): (u64, Option<Position>),
        is_refused: impl Fn(&TopicName) -> bool,
    ) {
        while let Some((begin_us, key)) = self.shares.first().copied()
            && begin_us + SHARE_US <= now_us
        {
            self.shares.pop_first();
            if let Some(turn) = self.clients.get_mut(&key) {
                turn.share = None;
            }
        }
        let mut asked = Vec::new();
        let bytes = self.bytes.clone();
        while self.is_up
            && (bytes.held() == 0 || bytes.held() + CLIENT_BYTES_MAX as u64 <= bytes.max())
            && let Some(key) = self.line.pop_of(|address| bytes.has_room_for(address))
        {
            asked.extend(self.begin_turn(key, (now_us, reached), &is_refused));
        }
        for (name, place) in asked {
            self.ask_next(&name, place);
        }
    }

    /// Gives a share to the client. Returns the names that have to be asked for, and from which places. A name of which the
    /// client has a page goes before further names that come in pages, and the others before its next page.
    fn begin_turn(
        &mut self,
        key: SessionKey,
        (now_us, reached): (u64, Option<Position>),
        is_refused: impl Fn(&TopicName) -> bool,
    ) -> Vec<(TopicName, u64)> {
        let Some(turn) = self.clients.get_mut(&key) else {
            return Vec::new();
        };
        let (mut chosen, mut bytes) = (Vec::new(), 0);
        let value_bytes = turn.largest.max(VALUE_BYTES);
        let is_replayed = |name: &TopicName| turn.replays.contains_key(name);
        let comes_in_pages =
            |name: &TopicName| is_replayed(name) || self.syntax.is_pattern(name.as_str());
        let is_next = |name: &&TopicName| {
            let waits = !turn.taking.is_empty() && comes_in_pages(name);
            // Names of the kept feed are no subscriptions of the bus.
            !waits && (is_replayed(name) || !is_refused(name))
        };
        for name in turn.ready().filter(is_next).chain(&turn.taking) {
            let more = match comes_in_pages(name) {
                true => CLIENT_BYTES_MAX,
                false => value_bytes,
            };
            if !chosen.is_empty() && bytes + more > CLIENT_BYTES_MAX {
                break;
            }
            bytes += more;
            chosen.push(name.clone());
        }
        turn.is_busy = !chosen.is_empty();
        turn.asked += chosen.len();
        if let Some(address) = turn.address.filter(|_| turn.is_busy) {
            // No check here: `grant_shares` has made sure that a usual share fits. A single value that is larger than a
            // share may pass the limit.
            let share = self.bytes.hold(address, bytes as u64, now_us);
            turn.share = Some((share, now_us));
            self.shares.insert((now_us, key));
        }
        let mut asked = Vec::new();
        for name in chosen {
            turn.taking.remove(&name);
            let Some(wanted) = turn.names.get_mut(&name) else {
                continue;
            };
            if let State::Takes(number) = wanted.state {
                wanted.state = State::Asked(number);
                self.questions.ready(number, now_us);
            } else {
                let number = self.questions.join(&name, &wanted.place, key);
                wanted.state = State::Asked(number);
                if let Some(replay) = turn.replays.get_mut(&name) {
                    replay.reached = reached;
                }
                asked.push((name, wanted.place.id()));
            }
        }
        self.forget_if_idle(key);
        asked
    }

    /// Asks the next question about the name from this place.
    fn ask_next(&mut self, name: &TopicName, place: u64) {
        if let Some(left) = self.questions.ask(name, place) {
            self.go_on_later(left);
        }
    }

    /// Takes a client out of the question about a name. It waits for another question, from the same place.
    pub(super) fn leave_question(&mut self, name: &TopicName, key: SessionKey) {
        let wanted = self.clients.get(&key).and_then(|turn| turn.names.get(name));
        let Some(wanted) = wanted.cloned() else {
            return;
        };
        let place = self.leave_as(name, key, &wanted);
        self.wait_again(name, key, place);
    }

    /// Takes a client out of the question in which it has this name. Returns the place up to which it has the values.
    fn leave_as(&mut self, name: &TopicName, key: SessionKey, wanted: &Wanted) -> Option<Place> {
        let (number, is_ready) = match wanted.state {
            State::Waits(_) => return None,
            State::Asked(number) => (number, true),
            State::Takes(number) => (number, false),
        };
        let start = self.questions.start_of(number);
        let of = (name, &wanted.place);
        let place = self.questions.leave(of, number, (key, is_ready));
        if let Some((name, begins)) = start {
            self.ask_next(&name, begins);
        }
        place
    }

    /// Queues a client for another question about the name; `place` is how far the one before has come.
    pub(super) fn wait_again(&mut self, name: &TopicName, key: SessionKey, place: Option<Place>) {
        let Some(turn) = self.clients.get_mut(&key) else {
            return;
        };
        turn.taking.remove(name);
        let Some(wanted) = turn.names.get_mut(name) else {
            return;
        };
        let before = mem::replace(&mut wanted.state, State::Waits(0));
        wanted.place = place.unwrap_or_else(|| mem::take(&mut wanted.place));
        match before {
            State::Waits(_) => wanted.state = before,
            State::Asked(_) => self.unasked(key),
            State::Takes(_) => {}
        }
    }

    /// Handles a client with a name less in questions.
    fn unasked(&mut self, key: SessionKey) {
        let Some(turn) = self.clients.get_mut(&key) else {
            return;
        };
        turn.asked -= 1;
        if turn.asked == 0 {
            if let Some((share, begin_us)) = &mut turn.share {
                share.set(turn.sent as u64, *begin_us);
            }
            self.rooms.push(key);
        }
    }

    /// Handles a name that a client of before has waited for.
    pub(super) fn stop_waiting(&mut self, name: &TopicName, key: SessionKey, wanted: &Wanted) {
        self.leave_as(name, key, wanted);
        self.no_longer_waits(name, key);
    }

    /// Removes a client from those that wait for the name. With the last client, the live subjects are forgotten.
    fn no_longer_waits(&mut self, name: &TopicName, key: SessionKey) {
        let Some(clients) = self.waiting.get_mut(name) else {
            return;
        };
        self.waiters -= usize::from(clients.remove(&key));
        if clients.is_empty() {
            self.waiting.remove(name);
            let live = self.live.remove(name);
            self.live_subjects -= live.map_or(0, |live| live.len());
        }
    }

    fn forget_if_idle(&mut self, key: SessionKey) {
        let turn = self.clients.get(&key);
        let is_idle = |turn: &Turn| !turn.is_busy && turn.names.is_empty() && turn.ends.is_empty();
        if turn.is_some_and(is_idle) {
            self.clients.remove(&key);
        }
    }
}

impl ChannelsGateway {
    /// Sends a last value to the clients that wait for it.
    pub(super) fn replay_value(&mut self, core: &mut Core, value: &Publication) {
        let (topic, subject) = (&value.topic, value.subject.as_ref());
        let of = (subject, value.request.unwrap_or_default());
        let mut frames = [None, None];
        let mut frame_for = |core: &Core, key| {
            let content = core.content(key);
            let frame = &mut frames[content as usize];
            let render = || core.render(value, subject.map(|_| topic), content);
            Arc::clone(frame.get_or_insert_with(render))
        };
        let bytes_for = |key| frame_for(core, key).queue_bytes();
        for key in self.retained.receivers(topic, of, bytes_for) {
            let frame = frame_for(core, key);
            core.replay(key, topic, &frame);
        }
        self.ask_retained(core);
    }

    /// Tells clients of the ends of last values, as many as there is time for.
    fn send_ends(&mut self, core: &mut Core) {
        while let Some((key, end)) = self.retained.next_end() {
            let frame = Answer::retained(core, &end);
            core.send(key, &frame);
            if !core.has_time() {
                return;
            }
        }
    }

    /// Tells clients of ends, asks the bus for the clients whose turn has come, and asks the hub to report room for other
    /// clients.
    pub(super) fn ask_retained(&mut self, core: &mut Core) {
        self.send_ends(core);
        let (retained, names, stats) = (&mut self.retained, &self.names, &self.stats);
        if !retained.has_values && !retained.has_pages {
            return;
        }
        let now_us = core.now().mono_us;
        retained.split_slow(now_us);
        let now = (now_us, core.position());
        retained.grant_shares(now, |name| names.is_refused(name));
        for key in retained.rooms.drain(..) {
            core.request_room(key);
        }
        stats
            .retained_waiting
            .set(retained.waiters + retained.replaying);
        stats.retained_bytes.set(retained.bytes.held() as usize);
        let given_up = mem::take(&mut retained.given_up);
        stats.retained_given_up.add(given_up);
    }
}

#[cfg(test)]
mod tests;
