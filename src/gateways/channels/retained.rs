//! The last values of names outside of the kept feed: which clients wait for values from the streams of the bus, and
//! how many names the gateway asks the bus for at a time.
//!
//! A client waits from its request on. If a live message of a subject comes meanwhile, it is newer than the value in
//! the stream, so the client does not get the value. The gateway asks the bus after the client's `subscribed`, once for
//! all clients whose turn has come.
//!
//! A client has a share of bytes. The gateway asks for names until the share is used up, and for the next names, or the
//! next page of a pattern's values, when the client has taken these values ([`questions`]). There is no question about
//! a name that the bus refuses. So values wait only in send queues, and later messages wait after them. The shares are
//! a [`Quota`]; clients without a share wait in a queue in which the addresses take turns. A share ends after two seconds
//! ([`shares`]), so that a client that takes a byte now and then does not keep others waiting for ever; from then on
//! its values count only in the memory of all frames.
//!
//! | file | owns |
//! | --- | --- |
//! | `client`, `waiting`, `shares` | a client that waits, who waits for a name, and the shares of bytes |
//! | `questions`, `sought` | the questions, and which members of one get a message |
//! | `request`, `pages` | what the bus is asked; the pages that it answers |
//! | `live` | live messages of subjects whose values are still to come |
//! | `unanswered` | names that the bus does not give the values of, which are asked for again |

mod client;
mod live;
mod pages;
mod questions;
mod request;
mod shares;
mod sought;
mod unanswered;
mod waiting;

use self::client::Share;
pub(super) use self::client::{RetainedClient, RetainedEnd, ValuesState, WaitedName, WaitedNames};
use self::live::LiveSubjects;
pub(super) use self::questions::QuestionCursor;
pub use self::request::RetainedRequest;
pub(super) use self::unanswered::ClearedNames;
use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

use self::questions::{Member, Questions};
use self::unanswered::Unanswered;
use self::waiting::{StillWaiting, WaitingClients};
use super::ChannelsGateway;
use super::messages::Answer;
use super::replay::{PausedClients, ReplaysByName};
use weirgate_core::{Core, Publication, RetainedCut, SessionKey, TopicName};
use weirgate_wire::admission::{ClientAddr, FairQueue, Quota};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::ExtendibleMap;

/// Clients that wait for last values.
#[derive(Debug)]
pub(super) struct Retained {
    pub(super) syntax: NameSyntax,
    /// Whether clients get the last values of names outside of the kept feed.
    pub(super) has_values: bool,
    /// Whether the bus gives all messages of the stream that is the kept feed.
    pub(super) has_pages: bool,
    pub(super) paused: PausedClients,
    /// Whether the bus is connected. When it has returned, [`Self::client_up`] queues each client again.
    pub(super) is_up: bool,
    pub(super) clients: ExtendibleMap<SessionKey, RetainedClient>,
    waiting: WaitingClients,
    pub(super) questions: Questions,
    unanswered: Unanswered,
    /// The subjects of patterns of `waiting`.
    live: LiveSubjects,
    /// The line: clients that have room for values and wait for a share; addresses take turns.
    line: FairQueue<SessionKey>,
    /// Clients for which the hub is to report a drained send queue.
    pub(super) undrained: Vec<SessionKey>,
    /// Clients to which the end of a name's values is to be sent.
    ending: VecDeque<SessionKey>,
    /// The clients with a share, oldest first.
    shares: BTreeSet<(u64, SessionKey)>,
    /// Bytes of values that may wait for all clients, including open questions.
    pub(super) bytes: Quota,
    /// The number of the newest answer (`subscribed`) after which names are asked for.
    answers: u64,
    /// The clients that get all kept messages.
    pub(super) replaying: usize,
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
            paused: PausedClients::default(),
            is_up: false,
            clients: ExtendibleMap::default(),
            waiting: WaitingClients::default(),
            questions: Questions::default(),
            unanswered: Unanswered::default(),
            live: LiveSubjects::default(),
            line: FairQueue::default(),
            undrained: Vec::new(),
            ending: VecDeque::new(),
            shares: BTreeSet::new(),
            bytes: Quota::new("last_values", bytes_max as u64),
            answers: 0,
            replaying: 0,
            given_up: 0,
        }
    }

    /// Sets the most bytes of values and messages that may wait for all clients.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes = Quota::new("last_values", bytes_max as u64);
    }

    /// Asks the stream that is the kept feed for the newest messages of a name. Returns the number of the question.
    pub(super) fn ask_newest(&mut self, name: &TopicName, client: ClientAddr) -> u64 {
        self.questions.ask_newest(name, client)
    }

    /// Sends the bus a request about a question of [`Self::ask_newest`].
    pub(super) fn request(&mut self, request: RetainedRequest) {
        self.questions.requests.push_back(request);
    }

    /// The next request for the bus. `cover_of` returns the wider pattern that the bus is asked for in place of a name.
    pub(super) fn next_request(
        &mut self,
        cover_of: impl FnOnce(&TopicName) -> Option<TopicName>,
    ) -> Option<RetainedRequest> {
        let mut request = self.questions.requests.pop_front()?;
        if let RetainedRequest::Ask { name, cover, .. } = &mut request {
            *cover = cover_of(name);
        }
        Some(request)
    }

    /// Returns the number of an answer after which names are asked for.
    pub(super) fn next_answer(&mut self) -> u64 {
        self.answers += 1;
        self.answers
    }

    /// The number of the newest live message of a pattern.
    pub(super) fn newest_live(&self) -> u64 {
        self.live.newest()
    }

    /// Records a client that has asked for the name, and that waits for its `subscribed`: the answer with this number. If it
    /// waits for the name already, the earlier wait goes on. `None`: the answer was sent.
    pub(super) fn want(&mut self, name: &TopicName, key: SessionKey, answer: Option<u64>) {
        let wanted = WaitedName::new(answer, self.live.newest());
        let waiter = self.clients.get_or_insert_default(key);
        waiter.names.entry(name.clone()).or_insert(wanted);
        self.waiting.add(name, key);
    }

    /// Records a client that has asked for the name, as [`want`](Self::want), and that is told when the values have
    /// ended. If it waits for the name already, the values begin anew, so that those behind the newest answer are
    /// whole.
    pub(super) fn want_with_end(&mut self, name: &TopicName, key: SessionKey, answer: Option<u64>) {
        self.leave_question(name, key);
        let wanted = WaitedName {
            wants_end: true,
            ..WaitedName::new(answer, self.live.newest())
        };
        let waiter = self.clients.get_or_insert_default(key);
        waiter.ends.retain(|end| end.name != *name);
        waiter.names.insert(name.clone(), wanted);
        self.waiting.add(name, key);
    }

    /// As [`want_with_end`](Self::want_with_end) or [`want`](Self::want), whichever the client's request asks for.
    pub(super) fn want_of_request(
        &mut self,
        name: &TopicName,
        key: SessionKey,
        answer: Option<u64>,
        wants_end: bool,
    ) {
        match wants_end {
            true => self.want_with_end(name, key, answer),
            false => self.want(name, key, answer),
        }
    }

    /// Handles the `subscribed` of a client with this number; answers go out in order.
    pub(super) fn answered(&mut self, key: SessionKey, answer: u64) {
        if let Some(waiter) = self.clients.get_mut(&key) {
            waiter.answered = answer;
            if !waiter.ends.is_empty() {
                self.ending.push_back(key);
            }
            self.client_up(key);
        }
    }

    /// Handles a client that has given up the name, or needs no value any more.
    pub(super) fn forget(&mut self, name: &TopicName, key: SessionKey) {
        if let Some(waiter) = self.clients.get_mut(&key) {
            waiter.ends.retain(|end| end.name != *name);
        }
        self.remove(name, key);
    }

    /// Ends the wait of a client for a name. What the client is still to be told of the name stays queued.
    pub(super) fn remove(&mut self, name: &TopicName, key: SessionKey) {
        self.leave_question(name, key);
        if let Some(waiter) = self.clients.get_mut(&key) {
            waiter.names.remove(name);
        }
        self.forget_if_idle(key);
        self.no_longer_waits(name, key);
    }

    /// Ends the wait of a client for the values of a name: it gets no more of them.
    fn end(&mut self, name: &TopicName, key: SessionKey, cut: Option<RetainedCut>) {
        if let Some(waiter) = self.clients.get_mut(&key)
            && let Some(wanted) = waiter.names.get(name).filter(|wanted| wanted.wants_end)
        {
            let end = wanted.end(name, cut);
            if waiter.push_end(end) {
                self.ending.push_back(key);
            }
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
            let end = self
                .clients
                .get_mut(&key)
                .and_then(RetainedClient::next_end);
            if let Some(end) = end {
                return Some((key, end));
            }
            self.ending.pop_front();
            self.forget_if_idle(key);
        }
    }

    /// Handles the end of a client. Returns the names that it waited for, and its replays: the caller then calls
    /// [`stop_waiting`](Self::stop_waiting) for each name, and drops the replays.
    pub(super) fn closed(&mut self, key: SessionKey) -> (WaitedNames, ReplaysByName) {
        let Some(waiter) = self.clients.remove(&key) else {
            return Default::default();
        };
        if let Some(share) = &waiter.share {
            self.shares.remove(&(share.since_us, key));
        }
        self.line.remove(&key);
        self.replaying -= waiter.replays.len();
        (waiter.names, waiter.replays.into_by_name())
    }

    /// Gives a client its turn, unless it has a turn or the bus is away.
    pub(super) fn client_up(&mut self, key: SessionKey) {
        if self.is_up
            && let Some(waiter) = self.clients.get_mut(&key)
            && !waiter.is_busy
        {
            waiter.is_busy = true;
            self.undrained.push(key);
        }
    }

    /// Takes a client out of the question about a name. It waits for another question, from the same cursor.
    pub(super) fn leave_question(&mut self, name: &TopicName, key: SessionKey) {
        let wanted = self
            .clients
            .get(&key)
            .and_then(|waiter| waiter.names.get(name));
        let Some(wanted) = wanted.cloned() else {
            return;
        };
        let cursor = self.leave_as(name, key, &wanted);
        self.wait_again(name, key, cursor);
    }

    /// Takes a client out of the question in which it has this name. Returns the cursor up to which it has the values.
    fn leave_as(
        &mut self,
        name: &TopicName,
        key: SessionKey,
        wanted: &WaitedName,
    ) -> Option<QuestionCursor> {
        let (number, member) = match wanted.state {
            ValuesState::Waits(_) => return None,
            ValuesState::Asked(number) => (number, Member::Ready),
            ValuesState::Takes(number) => (number, Member::Takes),
        };
        let start = self.questions.start_of(number);
        let begins = &wanted.cursor;
        let cursor = self.questions.leave(name, begins, number, key, member);
        if let Some(start) = start {
            self.ask_next(&start);
        }
        cursor
    }

    /// Queues a client for another question about the name; `cursor` is how far the one before has come.
    pub(super) fn wait_again(
        &mut self,
        name: &TopicName,
        key: SessionKey,
        cursor: Option<QuestionCursor>,
    ) {
        let Some(waiter) = self.clients.get_mut(&key) else {
            return;
        };
        waiter.taking.remove(name);
        let Some(wanted) = waiter.names.get_mut(name) else {
            return;
        };
        let before = mem::replace(&mut wanted.state, ValuesState::Waits(None));
        wanted.cursor = cursor.unwrap_or_else(|| mem::take(&mut wanted.cursor));
        match before {
            // It is in no question, and its answer may still have to be sent.
            ValuesState::Waits(_) => wanted.state = before,
            ValuesState::Asked(_) => self.unasked(key),
            ValuesState::Takes(_) => {}
        }
    }

    /// Counts one name less of a client in questions. After the last one, the share of the client shrinks to what was
    /// sent, and the hub reports when the client has taken that.
    fn unasked(&mut self, key: SessionKey) {
        let Some(waiter) = self.clients.get_mut(&key) else {
            return;
        };
        waiter.asked -= 1;
        if waiter.asked == 0 {
            if let Some(Share { permit, since_us }) = &mut waiter.share {
                permit.set(waiter.sent as u64, *since_us);
            }
            self.undrained.push(key);
        }
    }

    /// Ends the wait for a name of a client that has ended.
    pub(super) fn stop_waiting(&mut self, name: &TopicName, key: SessionKey, wanted: &WaitedName) {
        self.leave_as(name, key, wanted);
        self.no_longer_waits(name, key);
    }

    /// Removes a client from those that wait for the name. With the last client, the live subjects are forgotten.
    fn no_longer_waits(&mut self, name: &TopicName, key: SessionKey) {
        if self.waiting.remove(name, key) == StillWaiting::Nobody {
            self.unanswered.forget(name);
            self.live.forget(name);
        }
    }

    /// Removes the client if it has no names to wait for, no ends to get, and neither a question nor a place in the
    /// line.
    fn forget_if_idle(&mut self, key: SessionKey) {
        let waiter = self.clients.get(&key);
        let is_idle = |waiter: &RetainedClient| {
            !waiter.is_busy && waiter.names.is_empty() && waiter.ends.is_empty()
        };
        if waiter.is_some_and(is_idle) {
            self.clients.remove(&key);
        }
    }
}

impl ChannelsGateway {
    /// Sends a last value to the clients that wait for it.
    pub(super) fn replay_value(&mut self, core: &mut Core, value: &Publication) {
        let (topic, subject) = (&value.topic, value.subject.as_ref());
        let number = value.request.unwrap_or_default();
        // One frame for each kind of client, text or binary; of a value with a subject, `topic` is the pattern.
        let mut frames = [None, None];
        let mut frame_for = |core: &Core, key| {
            let content = core.content(key);
            let frame = &mut frames[content as usize];
            let pattern = subject.map(|_| topic);
            let render = || core.render(value, pattern, content, value.place.position());
            Arc::clone(frame.get_or_insert_with(render))
        };
        let is_too_large = |core: &Core, key| value.body.is_too_large_for(core.content(key));
        let bytes_for = |key| match is_too_large(core, key) {
            // It is not sent, so it takes no room.
            true => 0,
            false => frame_for(core, key).queue_bytes(),
        };
        for key in self.retained.receivers(topic, subject, number, bytes_for) {
            if is_too_large(core, key) {
                self.retained.value_too_large(topic, key);
                continue;
            }
            let frame = frame_for(core, key);
            core.replay(key, topic, &frame);
        }
        self.ask_retained(core);
    }

    /// Tells clients of the ends of last values, as many as there is time for.
    fn send_ends(&mut self, core: &mut Core) {
        while let Some((key, end)) = self.retained.next_end() {
            let frame = Answer::retained(core, &end);
            core.send_end(key, &end.name, &frame);
            if !core.has_time() {
                return;
            }
        }
    }

    /// Tells clients of ends, asks the bus for the clients whose turn has come, and asks the hub to report when the
    /// queues of others are drained.
    pub(super) fn ask_retained(&mut self, core: &mut Core) {
        self.send_ends(core);
        if self.retained.release_unanswered(core.now().mono_us) {
            // The round over the clients also queues those that wait for such a name.
            self.settle_all();
        }
        let (retained, names, stats) = (&mut self.retained, &self.names, &self.stats);
        if !retained.has_values && !retained.has_pages {
            return;
        }
        let now_us = core.now().mono_us;
        retained.split_slow(now_us);
        retained.grant_shares(now_us, core.kept_head(), |name| names.is_refused(name));
        for key in retained.undrained.drain(..) {
            core.request_drained(key);
        }
        stats
            .retained_waiting
            .set(retained.waiting.count() + retained.replaying);
        stats.retained_bytes.set(retained.bytes.held() as usize);
        let given_up = mem::take(&mut retained.given_up);
        stats.retained_given_up.add(given_up);
    }
}

#[cfg(test)]
mod tests;
