//! How clients are answered, and how they resume: what a client missed goes behind the answer to its
//! request, and before anything newer of the same name.
//!
//! A client that resumes a name is no member before its answer goes out. Then, in one step, the answer
//! says whether everything is kept, the missed messages follow, and the client joins. Answers that
//! resume take turns, so that thousands of clients that come back at once do not stop the loop.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::ChannelsGateway;
use super::answer::{Answer, Behind, Resume};
use super::client::Client;
use super::history::{NotRecovered, Position};
use crate::hub::{ByClient, Core, Frame, Joined, SessionKey, TopicName};

/// Missed messages that are sent in one turn, to all clients together; the last answer may go over.
const MISSED_PER_TURN: usize = 1_024;

/// What an answer counts for beside its messages.
const PER_ANSWER: usize = 8;

/// Messages that are forgotten in one turn.
const FORGOTTEN_PER_TURN: usize = 4_096;

/// Topics without members that are given up in one turn.
const GIVEN_UP_PER_TURN: usize = 256;

/// The clients whose answers resume names.
#[derive(Debug, Default)]
pub(super) struct Resumes {
    line: VecDeque<SessionKey>,
    /// Names that clients are about to join, with the count of these clients: they stay subscribed.
    awaited: HashMap<TopicName, usize, RandomState>,
}

impl Resumes {
    /// There is an answer whose turn has come.
    pub(super) fn are_due(&self) -> bool {
        !self.line.is_empty()
    }

    fn expect(&mut self, name: &TopicName) {
        *self.awaited.entry(name.clone()).or_default() += 1;
    }

    /// A client has joined, or no longer wants to. Returns whether it was the last.
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

/// What goes behind an answer, in the order of the bus.
#[derive(Default)]
struct Missed {
    frames: Vec<(u64, Arc<Frame>)>,
    bytes: usize,
}

impl ChannelsGateway {
    /// The client holds the name from here on, or from its answer on if it resumes. Returns whether it
    /// resumes.
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
            // By an earlier request. One of the same request has taken the position.
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

    /// Returns whether the client resumes.
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
        // One that found no room when the bus confirmed it.
        if self.names.stands(name) && self.history.position(name).is_none() {
            self.begin_history(core, name);
        }
        joined
    }

    /// A name has no members: it stays subscribed for those who come back, or the bus is asked for it
    /// no longer.
    pub(super) fn release(&mut self, core: &Core, name: &TopicName) {
        let is_awaited = self.resumes.awaited.contains_key(name);
        if !is_awaited && !self.history.linger(name, core.now().mono_us) {
            self.names.give_up(name);
        }
    }

    /// A name without members is not kept any longer.
    pub(super) fn give_up(&mut self, name: &TopicName) {
        self.history.end(name);
        self.names.give_up(name);
    }

    /// A client no longer waits to join a name.
    pub(super) fn forget_resume(&mut self, core: &Core, name: &TopicName) {
        if self.resumes.expect_no_longer(name) && core.member_count(name) == 0 {
            self.release(core, name);
        }
    }

    /// Sends an answer, or has it wait: for its names, and behind the answers that wait already.
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

    /// Sends what waits no longer, and sets the next deadline.
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
        // One in line goes out when its turn comes.
        let due = client.answers.due_us().filter(|_| !client.is_in_line);
        core.set_deadline(key, due.into_iter().chain(end).min());
    }

    /// What belongs to no client is due: answers that resume, messages and names to give up.
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

    /// Names without a history any more are joined now. The answer may have to wait for the bus again.
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

    /// Sends the first answer, with what stands behind it. Returns the count of missed messages.
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

    /// Adds what the client missed of a name, if all of it is kept and fits in its send queue.
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

    /// The client is a member of a name that it resumes. What it gets is newer than any last value.
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
