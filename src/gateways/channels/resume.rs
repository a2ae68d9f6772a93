//! Sending answers, and resuming: the missed messages of a name follow the answer to the request, before
//! newer messages of the same name.
//!
//! A client that resumes a name joins with its answer. In a single step the answer says whether everything is
//! kept, the missed messages follow, and the client joins. Answers with resumes take turns, so that thousands
//! of clients that come back at once do not block the loop.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::ChannelsGateway;
use super::answer::{Answer, Behind, Resume};
use super::client::Client;
use super::history::{NotRecovered, Position};
use crate::hub::{ByClient, Core, Frame, Joined, SessionKey, TopicName};

/// Missed messages sent in a turn to all clients; the last answer may exceed the limit.
const MISSED_PER_TURN: usize = 1_024;

/// The cost of an answer beside its messages.
const PER_ANSWER: usize = 8;

/// Messages forgotten in a turn.
const FORGOTTEN_PER_TURN: usize = 4_096;

/// Topics without members given up in a turn.
const GIVEN_UP_PER_TURN: usize = 256;

/// The clients whose answers resume names.
#[derive(Debug, Default)]
pub(super) struct Resumes {
    line: VecDeque<SessionKey>,
    /// Names that clients are about to join, with the count of these clients. The names stay subscribed.
    awaited: HashMap<TopicName, usize, RandomState>,
}

impl Resumes {
    /// Returns true if an answer is in the line.
    pub(super) fn are_due(&self) -> bool {
        !self.line.is_empty()
    }

    fn expect(&mut self, name: &TopicName) {
        *self.awaited.entry(name.clone()).or_default() += 1;
    }

    /// Handles a client that has joined or given up. Returns true if this was the last client for the name.
    fn expect_no_longer(&mut self, name: &TopicName) -> bool {
        let Some(count) = self.awaited.get_mut(name) else {
            return false;
        };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            self.awaited.remove(name);
        }
        is_last
    }
}

/// The messages behind an answer, in the order of the bus.
#[derive(Default)]
struct Missed {
    frames: Vec<(u64, Arc<Frame>)>,
    bytes: usize,
}

impl ChannelsGateway {
    /// Grants the name: the client is a member from here on, or from its answer on if the client resumes.
    /// Returns true if the client resumes.
    pub(super) fn grant(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        name: TopicName,
        since: Option<Position>,
        behind: &mut Behind,
    ) -> bool {
        let resumes = behind.is_resuming(&name) || client.answers.is_resuming(&name);
        let begins = match (resumes, since) {
            // Resumed by an earlier request. (An earlier entry of the same request would have taken the
            // position.)
            (true, Some(_)) => {
                behind.resume(&name, Resume::Lost);
                false
            }
            (true, None) => false,
            (false, since) => self.hold_or_resume(core, key, client, &name, since, behind),
        };
        if !resumes && !begins && self.retained.is_on() {
            self.retained.want(&name, key);
            behind.retained.insert(name.clone());
        }
        if let Some(granted) = &mut behind.granted {
            granted.insert(name.clone());
        }
        if self.up && !self.names.is_settled(&name) {
            behind.unconfirmed.insert(name);
        }
        begins
    }

    /// Returns true if the client resumes.
    fn hold_or_resume(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        name: &TopicName,
        since: Option<Position>,
        behind: &mut Behind,
    ) -> bool {
        let waits = since.filter(|_| {
            let is_member = core.joined(key).any(|joined| joined == name);
            !is_member && self.history.position(name).is_some()
        });
        if since.is_some() {
            behind.resume(name, waits.map_or(Resume::Lost, Resume::Waits));
        }
        if waits.is_none() {
            self.hold(core, key, client, name);
            return false;
        }
        self.count_pattern(client, name);
        self.resumes.expect(name);
        self.history.hold(name);
        true
    }

    fn hold(&mut self, core: &mut Core, key: SessionKey, client: &mut Client, name: &TopicName) {
        if matches!(self.join(core, key, name), Joined::First | Joined::Another) {
            self.count_pattern(client, name);
        }
    }

    fn count_pattern(&mut self, client: &mut Client, name: &TopicName) {
        if self.syntax().is_pattern(name.as_str()) {
            self.shares.add(&mut client.patterns, name);
        }
    }

    fn join(&mut self, core: &mut Core, key: SessionKey, name: &TopicName) -> Joined {
        let joined = core.join(key, name);
        if joined == Joined::First {
            self.names.want(name);
            self.history.hold(name);
        }
        // There was no room for a history when the bus confirmed the name.
        if self.names.stands(name) && self.history.position(name).is_none() {
            self.begin_history(core, name);
        }
        joined
    }

    /// Handles a name without members: the name stays subscribed for clients that resume, or is given up.
    pub(super) fn release(&mut self, core: &Core, name: &TopicName) {
        let is_awaited = self.resumes.awaited.contains_key(name);
        if !is_awaited && !self.history.linger(name, core.now().mono_us) {
            self.names.give_up(name);
        }
    }

    /// Gives up a name without members.
    pub(super) fn give_up(&mut self, name: &TopicName) {
        self.history.end(name);
        self.names.give_up(name);
    }

    /// Handles a client that no longer waits to join a name.
    pub(super) fn forget_resume(&mut self, core: &Core, name: &TopicName) {
        if self.resumes.expect_no_longer(name) && core.member_count(name) == 0 {
            self.release(core, name);
        }
    }

    /// Sends an answer, or queues the answer behind earlier answers and until its names are confirmed.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        answer: Answer,
        behind: Behind,
    ) {
        let due_us = core.now().mono_us + self.bus_wait_us;
        client.answers.push(answer, behind, due_us);
        self.send_ready(core, key, client);
        if client.answers.are_too_many() {
            core.pause_reading(key);
        }
    }

    /// Sends the ready answers, and sets the next deadline.
    pub(super) fn send_ready(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        let now = core.now();
        while !client.is_in_line && client.answers.are_ready(now.mono_us) {
            let first = client.answers.first();
            if first.is_some_and(|behind| behind.waiting_resumes().next().is_some()) {
                client.is_in_line = true;
                self.resumes.line.push_back(key);
            } else {
                self.send_first(core, key, client);
            }
        }
        if !client.answers.are_too_many() {
            core.resume_reading(key);
        }
        let end = client.token_end.due_us(now);
        // An answer in the line is sent in its turn.
        let due = client.answers.due_us().filter(|_| !client.is_in_line);
        core.set_deadline(key, due.into_iter().chain(end).min());
    }

    /// Does the due work of all clients: answers with resumes, messages to forget, names to give up.
    pub(super) fn take_turns(&mut self, core: &mut Core, clients: &mut ByClient<Client>) {
        let mut left = MISSED_PER_TURN;
        while left > 0
            && let Some(key) = self.resumes.line.pop_front()
        {
            let Some(client) = clients.get_mut(key) else {
                continue;
            };
            client.is_in_line = false;
            self.join_what_is_lost(core, key, client);
            let sent = match client.answers.are_ready(core.now().mono_us) {
                true => self.send_first(core, key, client),
                false => 0,
            };
            left = left.saturating_sub(sent + PER_ANSWER);
            self.send_ready(core, key, client);
        }
        let now_us = core.now().mono_us;
        self.history.forget(now_us, FORGOTTEN_PER_TURN);
        for _ in 0..GIVEN_UP_PER_TURN {
            let Some(name) = self.history.lapsed(now_us) else {
                break;
            };
            self.give_up(&name);
        }
        self.names.store(&self.stats, core.memberships());
        self.history.store(&self.stats);
    }

    /// Joins the names that have lost their history. The answer may have to wait for the bus again.
    fn join_what_is_lost(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        let Some(first) = client.answers.first() else {
            return;
        };
        let resumed = first.waiting_resumes().map(|(name, _)| name.clone());
        let lost: Vec<TopicName> = resumed
            .filter(|name| self.history.position(name).is_none())
            .collect();
        for name in lost {
            let is_unconfirmed = self.up && !self.names.is_settled(&name);
            client.answers.lose_resume(&name, is_unconfirmed);
            self.join_resumed(core, key, &name, false);
        }
    }

    /// Sends the first answer and what follows it. Returns the count of missed messages.
    fn send_first(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) -> usize {
        let Some((mut answer, behind)) = client.answers.pop() else {
            return 0;
        };
        let mut missed = Missed::default();
        let mut recovered = BTreeMap::new();
        for (name, resume) in behind.resumes.iter().flatten() {
            let found = match resume {
                Resume::Waits(since) => self.collect(core, key, name, *since, &mut missed),
                Resume::Lost => Err(NotRecovered::Epoch),
            };
            self.stats.count_resume(found);
            recovered.insert(name, found.is_ok());
        }
        if let Some(granted) = &behind.granted {
            let of = |name| Some((name, self.history.position(name)?));
            answer.positions(granted.iter().filter_map(of));
        }
        if behind.resumes.is_some() {
            answer.recovered(recovered.iter().map(|(name, found)| (*name, *found)));
        }
        let frame = answer.frame(core);
        core.send(key, &frame);
        missed.frames.sort_unstable_by_key(|(number, _)| *number);
        for (_, frame) in &missed.frames {
            core.send(key, frame);
        }
        for (name, _) in behind.waiting_resumes() {
            self.join_resumed(core, key, name, recovered[name]);
            self.retained.answered(name, key);
        }
        for name in &behind.retained {
            self.retained.answered(name, key);
        }
        self.ask_retained(core);
        missed.frames.len()
    }

    /// Adds the missed messages of a name, if all are kept and fit in the client's send queue.
    fn collect(
        &self,
        core: &mut Core,
        key: SessionKey,
        name: &TopicName,
        since: Position,
        missed: &mut Missed,
    ) -> Result<(), NotRecovered> {
        let before = (missed.frames.len(), missed.bytes);
        let bytes_max = core.limits().send_queue.soft_bytes;
        for (number, frame) in self.history.missed(name, since)? {
            missed.bytes += frame.queue_bytes();
            missed.frames.push((number, Arc::clone(frame)));
            if missed.bytes > bytes_max {
                break;
            }
        }
        if missed.frames.len() > before.0 && !core.fits(key, missed.frames.len(), missed.bytes) {
            missed.frames.truncate(before.0);
            missed.bytes = before.1;
            return Err(NotRecovered::Queue);
        }
        Ok(())
    }

    /// Joins a resumed name. The client's messages are newer than any last value.
    fn join_resumed(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        name: &TopicName,
        recovered: bool,
    ) {
        self.join(core, key, name);
        self.forget_resume(core, name);
        if self.retained.is_on() && !recovered {
            self.retained.want(name, key);
        }
    }
}
