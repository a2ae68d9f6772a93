//! Sending answers, and the messages after them. What an answer says of its names is found out one name after the other:
//! whether the missed messages follow, and what each name brings. A request may have so many names that this takes
//! several turns.
//!
//! A client joins a name that it resumes in the step that finds the missed messages of the name. If the answer has to
//! wait for other names, the newer messages are postponed until then. So the client gets the answer, then all messages in
//! the order of the feed, and none is missing or comes twice. The core puts the messages in the send queue, over several
//! turns if there are very many.

use std::collections::{BTreeSet, btree_set};
use std::sync::Arc;
use std::{mem, vec};

use super::ChannelsGateway;
use super::bus::REFUSED;
use super::client::ChannelsClient;
use super::leaving::DropLater;
use super::messages::{Answer, FollowUp, NAME_BYTES, Recovered, Resumed, WantedPast};
use super::patterns::matcher;
use super::replay::{Last, Replayed};
use crate::gateways::shared::history::{Follow, gets_newest};
use weirgate_core::{
    Core, Gateway as _, NotRecovered, Outcome, RetainedCut, SessionKey, TopicName, Wanted,
};

/// Names whose messages one walk over the history looks for, and that the client joins in the same step.
const JOINED_AT_ONCE: usize = 300;

/// Messages that are dropped in one step.
const DROPPED_AT_ONCE: usize = 1_000;

/// Answers on their way to a client: one, or all answers of an event stream, which go out together.
#[derive(Debug)]
pub(super) struct Sending {
    answers: Vec<Prepared>,
    /// How many of the answers are prepared.
    prepared: usize,
    /// Live messages for the client have been postponed since an earlier turn.
    is_late: bool,
    /// Names that turned out not to be of the stream, of answers that were sent: their last values are still to be
    /// requested. With each list, whether the client wants to know when they have ended.
    moved: Vec<(Vec<TopicName>, bool)>,
    /// Answers that were sent, and the names of answers: dropping very many takes time, too.
    sent: Vec<Answer>,
    to_drop: DropLater,
}

/// An answer, until all that it says is known.
#[derive(Debug)]
struct Prepared {
    answer: Answer,
    /// The number of the answer, if last values follow.
    retained: Option<u64>,
    /// The client wants to know when its last values have ended.
    wants_end: bool,
    /// The granted names of which the answer still has to say what they bring.
    brings: vec::IntoIter<TopicName>,
    resuming: Option<Box<Resuming>>,
}

/// The names of a request with `since` or `last`.
#[derive(Debug)]
struct Resuming {
    since: Option<String>,
    /// Whether the request has a position. It stays true if `since` is removed because the position is not valid.
    has_since: bool,
    last: Option<usize>,
    /// The client gets all kept messages of the names, and then joins them.
    is_all: bool,
    /// Names that the client still has to join, in the order of the answer.
    names: btree_set::IntoIter<TopicName>,
    /// The names among these that it has joined before; it may have given them up meanwhile.
    held: BTreeSet<TopicName>,
    /// All names are held, and get their newest messages again. Their live messages come meanwhile, so nothing is postponed.
    asks_again: bool,
    /// The names joined so far, and their outcomes.
    joined: Vec<TopicName>,
    outcomes: Vec<Outcome>,
    /// Granted names that this request does not resume, in the order of the answer.
    off: Vec<TopicName>,
    /// Names that the stream turned out not to have while the answer waited: their last values follow the answer.
    moved: Vec<TopicName>,
    /// What is known of messages that the history lacks.
    past: Box<WantedPast>,
    /// The missed messages, and the newest messages of names whose missed messages are not all there.
    missed: Follow,
    newest: Follow,
    /// Messages that were found and are not sent, until they are dropped.
    unsent: Vec<Follow>,
    /// The missed messages are too many: none is sent.
    is_large: bool,
    /// Some names get neither all missed messages nor the newest ones: the answer says so.
    lacks_newest: bool,
    /// The client has got newer messages already: it gets no older ones.
    has_got_newer: bool,
    /// The newest loss before names were looked for ([`Core::newest_loss`]); `None`: none was yet.
    newest_loss: Option<u64>,
    /// How many of the joined names and of the names without a resume the answer has.
    written: (usize, usize),
    recovered: Recovered,
    /// `recovered` was moved to the answer.
    is_reported: bool,
}

impl Sending {
    /// Answers of which none is prepared yet: one, or all of an event stream.
    pub(super) fn new(answers: Vec<(Answer, FollowUp)>) -> Self {
        let mut to_drop = DropLater::default();
        let prepared = answers.into_iter();
        let prepared =
            prepared.map(|(answer, follow_up)| Prepared::new(answer, follow_up, &mut to_drop));
        Self {
            answers: prepared.collect(),
            prepared: 0,
            is_late: false,
            moved: Vec::new(),
            sent: Vec::new(),
            to_drop,
        }
    }

    /// Moves all names and messages to `to_drop`, as [`FollowUp::drop_later`] does.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) {
        to_drop.add_all(self.to_drop);
        for (names, _) in self.moved {
            to_drop.add_names(names);
        }
        for prepared in self.answers {
            to_drop.add_names(prepared.brings.collect());
            if let Some(resuming) = prepared.resuming {
                resuming.drop_later(to_drop);
            }
        }
    }

    /// The memory of the answers.
    pub(super) fn bytes(&self) -> usize {
        let answers: usize = self.answers.iter().map(Prepared::bytes).sum();
        let sent: usize = self.sent.iter().map(Answer::bytes).sum();
        let moved: usize = self.moved.iter().map(|(names, _)| names.len()).sum();
        answers + sent + (moved + self.to_drop.names_len()) * NAME_BYTES
    }

    /// Drops an answer that was sent, or names of one. Returns whether there are more.
    fn drop_next(&mut self) -> bool {
        if self.sent.pop().is_none() {
            self.to_drop.drop_next();
        }
        !(self.sent.is_empty() && self.to_drop.is_empty())
    }

    /// Sends the answers, which are whole. Returns the number of the last answer that last values follow.
    fn send_answers(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        follow: &Follow,
        has_kept: bool,
    ) -> Option<u64> {
        let mut retained = None;
        let answers = mem::take(&mut self.answers);
        let mut left = answers.len();
        for mut prepared in answers {
            left -= 1;
            // Only the last answer has the position. It has one even if its own names are not of the feed, or the client
            // could not resume.
            let position = follow.position(core, key, has_kept && left == 0);
            let frame = prepared.answer.frame(core, position);
            core.send(key, &frame);
            // Answers go out in order: the last number covers those before.
            retained = prepared.retained.or(retained);
            self.sent.push(prepared.answer);
        }
        retained
    }

    /// Whether the next step finds the first earlier messages for the client.
    fn begins_resume(&mut self) -> bool {
        let is_begun = self.resuming().any(|resuming| !resuming.joined.is_empty());
        let has_to = |resuming: &mut Resuming| !resuming.is_all && resuming.names.len() > 0;
        !is_begun && self.resuming().any(has_to)
    }

    fn resuming(&mut self) -> impl Iterator<Item = &mut Resuming> {
        let resuming = self
            .answers
            .iter_mut()
            .map(|one| one.resuming.as_deref_mut());
        resuming.flatten()
    }

    /// Checks again what was found in earlier turns: there may have been a loss of the bus since, or so many messages
    /// that they could not be postponed any longer. Returns false if something is no longer true: then the answers are
    /// prepared again.
    fn recheck(&mut self, core: &Core, key: SessionKey) -> bool {
        let is_late = self.is_late;
        let has_got_newer = is_late && !core.postpones(key);
        let mut holds = true;
        for resuming in self.resuming() {
            holds &= !resuming.note_loss(core);
            if has_got_newer {
                holds &= !resuming.give_up();
            } else if is_late
                && let Some(since) = &resuming.since
                && resuming.missed.has_recovered()
                && let Err(why) = core.resumes_from(key, since)
            {
                resuming.fail(why);
                holds = false;
            }
        }
        if !holds {
            self.prepared = 0;
            let answers = self.answers.iter_mut();
            answers.for_each(|one| one.answer.assemble_again());
        }
        holds
    }
}

impl Prepared {
    /// The names that the answer has waited for go to `to_drop`.
    fn new(mut answer: Answer, follow_up: FollowUp, to_drop: &mut DropLater) -> Self {
        to_drop.add_set(follow_up.unconfirmed);
        let (resumed, past) = (follow_up.resumed, follow_up.past.unwrap_or_default());
        Self {
            brings: answer.take_names().into_iter(),
            answer,
            retained: follow_up.retained,
            wants_end: follow_up.wants_end,
            resuming: resumed.map(|resumed| Box::new(Resuming::new(resumed, past))),
        }
    }

    fn bytes(&self) -> usize {
        let resuming = self.resuming.as_ref();
        self.answer.bytes()
            + self.brings.len() * NAME_BYTES
            + resuming.map_or(0, |resuming| resuming.bytes())
    }
}

impl Resuming {
    fn new(resumed: Resumed, past: Box<WantedPast>) -> Self {
        Self {
            asks_again: resumed.has_held_alone,
            has_since: resumed.since.is_some(),
            since: resumed.since,
            last: match resumed.last {
                Some(Last::Newest(count)) => Some(count),
                Some(Last::All) | None => None,
            },
            is_all: resumed.last == Some(Last::All),
            names: resumed.names.into_iter(),
            held: resumed.held,
            joined: Vec::new(),
            outcomes: Vec::new(),
            off: resumed.off.into_iter().collect(),
            moved: Vec::new(),
            past,
            missed: Follow::default(),
            newest: Follow::default(),
            unsent: Vec::new(),
            is_large: false,
            lacks_newest: false,
            has_got_newer: false,
            newest_loss: None,
            written: (0, 0),
            recovered: Recovered::default(),
            is_reported: false,
        }
    }

    fn bytes(&self) -> usize {
        let names = self.names.len() + self.held.len() + self.joined.len();
        let names = names + self.off.len() + self.moved.len();
        let names = names + self.past.waits.len() + self.past.found.len();
        names * NAME_BYTES + self.recovered.bytes()
    }

    /// Discards the missed messages, and reports this reason for each name that has no other. Without a position,
    /// discards the newest messages too.
    fn fail(&mut self, why: NotRecovered) {
        self.unsent.push(mem::take(&mut self.missed));
        self.lacks_newest = true;
        if !self.has_since {
            self.discard_newest();
        }
        self.is_large |= why == NotRecovered::Large;
        for outcome in &mut self.outcomes {
            *outcome = outcome.and(Err(why));
        }
        self.write_again();
    }

    /// Has the outcomes of all names written again, because those in the answer are not true any more.
    fn write_again(&mut self) {
        self.written = (0, 0);
        self.recovered = Recovered::default();
        self.is_reported = false;
    }

    /// Discards the newest messages if there was a loss since they were found. Returns whether it did so.
    fn note_loss(&mut self, core: &Core) -> bool {
        let newest = core.newest_loss();
        let known = self.newest_loss.replace(newest);
        let is_new = self.last.is_some() && known.is_some_and(|known| known != newest);
        if is_new && self.has_since {
            self.discard_newest();
            self.write_again();
        } else if is_new {
            self.fail(NotRecovered::Window);
        }
        is_new
    }

    /// Discards all older messages, because the client has got newer ones. Returns false if it has done so before,
    /// or if the client gets all kept messages.
    fn give_up(&mut self) -> bool {
        // All kept messages come from the client's position on, whatever it has got of other names.
        let is_new = !self.is_all && !mem::replace(&mut self.has_got_newer, true);
        if is_new {
            self.discard_newest();
            self.last = None;
            self.fail(NotRecovered::Large);
        }
        is_new
    }

    /// Whether messages are still to be found, or frames to be made.
    fn has_unmade(&self) -> bool {
        self.missed.has_unmade() || self.newest.has_unmade()
    }

    /// Finds the next messages, or makes the next frames. `others` are the bytes of the messages of other answers.
    ///
    /// # Errors
    /// Why these messages are discarded.
    fn make_next(&mut self, core: &mut Core, key: SessionKey, others: usize) -> Outcome {
        let (missed, newest) = (self.missed.bytes(), self.newest.bytes());
        let is_missed = self.missed.has_unmade();
        let made = match is_missed {
            true => self.missed.make_next(core, key, others + newest),
            false => self.newest.make_next(core, key, others + missed),
        };
        if let Err(why) = made {
            match is_missed || !self.has_since {
                true => self.fail(why),
                false => self.discard_newest(),
            }
        }
        made
    }

    /// Notes of which names some of the newest messages are missing, for the answer. These are few hundred names at
    /// most: those of the last step.
    fn note_cuts(&mut self) {
        for (name, cut) in self.newest.take_cuts() {
            self.past.note_found_cut(name, cut);
        }
    }

    /// Discards the newest messages.
    fn discard_newest(&mut self) {
        self.lacks_newest = true;
        self.unsent.push(mem::take(&mut self.newest));
    }

    /// Drops the next messages that are not sent. Returns false if there were none.
    fn drop_next(&mut self) -> bool {
        let Some(messages) = self.unsent.last_mut() else {
            return false;
        };
        if !messages.drop_some(DROPPED_AT_ONCE) {
            self.unsent.pop();
        }
        true
    }

    /// Counts the outcomes, and moves the messages to those of the other answers. The names stay here, to be dropped
    /// later.
    fn settle(&mut self, core: &mut Core, follow: &mut Follow, replayed: &mut Replayed) {
        if self.has_since {
            let off = self.off.iter().map(|_| NotRecovered::Off);
            off.for_each(|off| core.count_not_recovered(off));
            core.count_outcomes(&self.outcomes);
        }
        if self.is_all {
            replayed.since = replayed.since.take().or_else(|| self.since.take());
            replayed.names.append(&mut self.joined);
            replayed.off.append(&mut self.off);
        }
        follow.merge(mem::take(&mut self.missed));
        follow.merge(mem::take(&mut self.newest));
        if self.asks_again {
            follow.end_with_status();
        }
    }

    /// Moves all names and messages to `to_drop`, as [`FollowUp::drop_later`] does.
    fn drop_later(self, to_drop: &mut DropLater) {
        to_drop.add_set(self.held);
        to_drop.add_set(self.names);
        for names in [self.joined, self.off, self.moved] {
            to_drop.add_names(names);
        }
        to_drop.add_past(*self.past);
        let found = self.unsent.into_iter().chain([self.missed, self.newest]);
        to_drop.add_messages(found);
    }

    /// Adds a name without a resume.
    fn add_off(&mut self, name: TopicName) {
        let at = self.off.partition_point(|off| *off < name);
        self.off.insert(at, name);
    }

    /// Writes the outcome of the next name; returns whether names are left. `has_forgotten`: whether the history has
    /// forgotten a newest message of a name since it had forgotten so many.
    fn write_next(&mut self, has_forgotten: impl FnOnce(&TopicName, u64) -> bool) -> bool {
        let (joined, off) = &mut self.written;
        match (self.joined.get(*joined), self.off.get(*off)) {
            (Some(name), next) if next.is_none_or(|off| name < off) => {
                let outcome = self.outcomes[*joined];
                let is_whole = self.has_since && outcome.is_ok();
                // Then neither missed nor newest messages follow.
                let is_none = matches!(outcome, Err(NotRecovered::Off | NotRecovered::Large));
                let gets_newest_of = self.last.is_some() && !is_whole && !is_none;
                let is_gone = |count| gets_newest_of && has_forgotten(name, count);
                let past = Some(&self.past).filter(|_| !is_whole && !is_none);
                let cut = past.and_then(|past| past.cut(name, is_gone));
                // Of newest messages that are not sent, what the history lacks is not the reason.
                let is_of_history = |cut| matches!(cut, RetainedCut::Lost | RetainedCut::Large);
                match cut.filter(|cut| !self.lacks_newest || !is_of_history(*cut)) {
                    Some(cut) => self.recovered.push_cut(name, cut),
                    // The newest messages are too many just now.
                    None if !self.has_since && outcome == Err(NotRecovered::Large) => {
                        self.recovered.push_cut(name, RetainedCut::Limit);
                    }
                    None if self.lacks_newest
                        && self.last.is_some()
                        && gets_newest(Some(outcome)) =>
                    {
                        self.recovered.push_cut(name, RetainedCut::Limit);
                    }
                    None => self.recovered.push(name, outcome),
                }
                *joined += 1;
            }
            (_, Some(name)) => {
                self.recovered.push(name, Err(NotRecovered::Off));
                *off += 1;
            }
            (_, None) => return false,
        }
        true
    }
}

impl ChannelsGateway {
    /// Continues answers while the client has a share. Returns false if the rest is for a later turn.
    pub(super) fn continue_sending(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        mut sending: Sending,
    ) -> bool {
        if sending.begins_resume() && !core.may_begin_resume(key) {
            client.set_sending(sending);
            core.go_on_with_frame_room(key, client.later_bytes());
            return false;
        }
        loop {
            let has_more = match sending.answers.is_empty() {
                true => self.want_next_moved(core, key, &mut sending) || sending.drop_next(),
                false => self.send_next(core, key, client, &mut sending),
            };
            if !has_more {
                return true;
            }
            if !core.has_share() {
                if !sending.is_late && sending.resuming().any(|resuming| !resuming.asks_again) {
                    sending.is_late = true;
                    core.postpone(key);
                }
                client.set_sending(sending);
                core.go_on_later(key, client.later_bytes());
                return false;
            }
        }
    }

    /// Takes the next step towards the answers, or sends them if it was the last. Returns whether there are more steps.
    fn send_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        sending: &mut Sending,
    ) -> bool {
        if self.prepare_next(core, key, client, sending) || !sending.recheck(core, key) {
            return true;
        }
        self.finish(core, key, client, sending);
        // What was sent is dropped in further steps.
        true
    }

    /// Takes the next step towards the answers: finds messages, joins names, or writes a part of an answer. Returns
    /// whether there are more steps before the answers can be sent.
    fn prepare_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        sending: &mut Sending,
    ) -> bool {
        let beside = sending
            .resuming()
            .map(|found| found.missed.bytes() + found.newest.bytes());
        let beside = beside.sum();
        let has_got_newer = sending.is_late && !core.postpones(key);
        let Some(prepared) = sending.answers.get_mut(sending.prepared) else {
            return false;
        };
        if let Some(resuming) = &mut prepared.resuming {
            resuming.note_cuts();
            if resuming.drop_next() {
                return true;
            }
            if resuming.has_unmade() {
                let others = beside - resuming.missed.bytes() - resuming.newest.bytes();
                if resuming.make_next(core, key, others) == Err(NotRecovered::Large) {
                    client.requests.charge_search(core.now());
                }
                return true;
            }
            if resuming.names.len() > 0 {
                if has_got_newer {
                    resuming.give_up();
                }
                self.resume_next(core, key, client, resuming, beside);
                return true;
            }
            if resuming.write_next(|name, count| self.has_forgotten(core, name, count)) {
                return true;
            }
            if !mem::replace(&mut resuming.is_reported, true) {
                let recovered = mem::take(&mut resuming.recovered);
                match resuming.has_since {
                    true => prepared.answer.set_recovered(recovered),
                    false => prepared.answer.set_why(recovered),
                }
            }
        }
        if let Some(name) = prepared.brings.next() {
            let brings = core.brings(&name, self.source_of(&name));
            prepared.answer.push_brings(&name, &brings);
            return true;
        }
        if prepared.answer.assemble_next(core) {
            return true;
        }
        sending.prepared += 1;
        sending.prepared < sending.answers.len()
    }

    /// Finds the missed messages of the next names, and joins the names. `beside` are the bytes of the messages found so
    /// far.
    fn resume_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        resuming: &mut Resuming,
        beside: usize,
    ) {
        let mut names = Vec::new();
        for name in resuming.names.by_ref() {
            names.push(name);
            if names.len() == JOINED_AT_ONCE || !core.has_share() {
                break;
            }
        }
        for name in &names {
            if resuming.past.waits.remove(name).is_some() {
                let cut = self.leave_past(core, key, client, name);
                let forgotten = core.newest_forgotten_count();
                resuming.past.note_found(name.clone(), cut, forgotten);
            }
        }
        // If the request also has new names, a held name gets no older messages: the live messages of new names are
        // postponed, and those of the held name would come twice.
        let (held, asks_again) = (&resuming.held, resuming.asks_again);
        let is_found =
            |name: &TopicName| !held.contains(name) || asks_again && core.is_member(key, name);
        names.retain(is_found);
        // The stream of the kept feed may have got other subjects since the request.
        let names = names.into_iter();
        let (names, moved): (Vec<_>, Vec<_>) = names.partition(|name| self.is_kept(name));
        let outcomes = match resuming.is_all {
            true => {
                let outcome = self.check_since(core, resuming.since.as_deref());
                // All kept messages come without a good position, too.
                resuming.since = resuming.since.take().filter(|_| outcome.is_ok());
                vec![outcome; names.len()]
            }
            false => self.find(core, key, resuming, beside, &names),
        };
        let joined = Some(&names).filter(|_| !resuming.is_all);
        let joined = joined.into_iter().flatten().chain(&moved);
        for name in joined.filter(|name| !resuming.held.contains(*name)) {
            self.join(core, key, client, name);
            if self.joins_refused(name) {
                self.queue_name_error(REFUSED, name, vec![key]);
            }
        }
        if self.retained.has_values {
            resuming.moved.extend_from_slice(&moved);
        }
        resuming.joined.extend(names);
        resuming.outcomes.extend(&outcomes);
        if resuming.has_since || resuming.is_all {
            moved.into_iter().for_each(|name| resuming.add_off(name));
        }
        let is_large = outcomes.contains(&Err(NotRecovered::Large));
        if is_large && !resuming.is_large {
            client.requests.charge_search(core.now());
            resuming.fail(NotRecovered::Large);
        }
    }

    /// Finds the missed messages of these names, and the newest messages of those whose missed messages are not all
    /// there. Returns the outcome of each.
    fn find(
        &self,
        core: &mut Core,
        key: SessionKey,
        resuming: &mut Resuming,
        beside: usize,
        names: &[TopicName],
    ) -> Vec<Outcome> {
        let wanted = |name: &TopicName| Wanted {
            name: name.clone(),
            patterns: matcher(self.syntax(), name.as_str()).map(Arc::new),
        };
        let names: Vec<Wanted> = names.iter().map(wanted).collect();
        let (last, is_large) = (resuming.last, resuming.is_large);
        let newest_loss = || core.newest_loss();
        resuming.newest_loss.get_or_insert_with(newest_loss);
        let mut found = Follow::beside(beside);
        let Some(since) = &resuming.since else {
            let newest = match is_large {
                true => Err(NotRecovered::Large),
                false => found.newest(core, key, &names, last),
            };
            resuming.newest.merge(found);
            return vec![newest; names.len()];
        };
        let mut outcomes = found.missed(core, key, since, &names);
        if is_large {
            let large = |outcome: &mut Outcome| *outcome = outcome.and(Err(NotRecovered::Large));
            outcomes.iter_mut().for_each(large);
            found = Follow::beside(beside);
        }
        let lost = names.iter().zip(&outcomes);
        let lost = lost.filter(|(_, outcome)| gets_newest(Some(**outcome)));
        let lost: Vec<Wanted> = lost.map(|(name, _)| name.clone()).collect();
        let mut newest = Follow::beside(found.bytes());
        resuming.lacks_newest |= newest.newest(core, key, &lost, last).is_err();
        resuming.missed.merge(found);
        resuming.newest.merge(newest);
        outcomes
    }

    /// Sends the answers, and the messages after all of them.
    fn finish(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        sending: &mut Sending,
    ) {
        core.postpone_no_longer(key);
        let (mut follow, mut replayed) = (Follow::default(), Replayed::default());
        for prepared in &mut sending.answers {
            if let Some(mut resuming) = prepared.resuming.take() {
                let moved = mem::take(&mut resuming.moved);
                if !moved.is_empty() {
                    sending.moved.push((moved, prepared.wants_end));
                }
                resuming.settle(core, &mut follow, &mut replayed);
                resuming.drop_later(&mut sending.to_drop);
            }
        }
        let has_kept = client.held.has_kept();
        let retained = sending.send_answers(core, key, &follow, has_kept);
        self.statuses.send_after_answer(core, key, follow, has_kept);
        self.begin_replays(core, key, client, replayed);
        if let Some(answer) = retained {
            self.retained.answered(key, answer);
        }
        self.names.update_stats(&self.stats, core.memberships());
        self.ask_retained(core);
    }

    /// Requests the last values of the next name that turned out not to be of the stream. The answers were sent before.
    /// Returns false if there is none.
    fn want_next_moved(&mut self, core: &mut Core, key: SessionKey, sending: &mut Sending) -> bool {
        let Some((names, wants_end)) = sending.moved.last_mut() else {
            return false;
        };
        let wants_end = *wants_end;
        // The client may have given it up since.
        if let Some(name) = names.pop().filter(|name| core.is_member(key, name)) {
            self.retained.want_of_request(&name, key, 0, wants_end);
        }
        if names.is_empty() {
            sending.moved.pop();
        }
        if sending.moved.is_empty() {
            self.retained.client_up(key);
            self.ask_retained(core);
        }
        true
    }
}
