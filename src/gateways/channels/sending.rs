//! Sending answers, and the messages after them. What an answer says of its names is found out one name after the other:
//! whether the missed messages follow, and what each name brings. A request may have so many names that this takes
//! several turns.
//!
//! A client joins a name that it resumes in the step that finds the missed messages of the name. If the answer has to
//! wait for other names, the newer messages are postponed until then. So the client gets the answer, then all messages in
//! the order of the feed, and none is missing or comes twice. The core puts the messages in the send queue, over several
//! turns if there are very many.

mod found;
mod outcomes;
mod resuming;
mod walk;

use std::{mem, vec};

use self::resuming::Resuming;
use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::follow_up::{FollowUp, NAME_BYTES};
use super::leaving::DropLater;
use super::messages::Answer;
use super::replay::Replayed;
use crate::gateways::shared::history::Follow;
use weirgate_core::{Core, Gateway as _, SessionKey, TopicName};

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
        !self.resuming().any(|resuming| resuming.has_begun())
            && self.resuming().any(|resuming| resuming.will_search())
    }

    fn resuming(&mut self) -> impl Iterator<Item = &mut Resuming> {
        let resuming = self
            .answers
            .iter_mut()
            .map(|one| one.resuming.as_deref_mut());
        resuming.flatten()
    }

    /// The bytes of the earlier messages that were found so far.
    fn found_bytes(&mut self) -> usize {
        self.resuming().map(|resuming| resuming.found.bytes()).sum()
    }

    /// Whether the client has got messages that are newer than those that were found: too many to be postponed.
    fn has_got_newer(&self, core: &Core, key: SessionKey) -> bool {
        self.is_late && !core.postpones(key)
    }

    /// Checks again what was found in earlier turns: there may have been a loss of the bus since, or so many messages
    /// that they could not be postponed any longer. Returns false if something is no longer true: then the answers are
    /// prepared again.
    fn recheck(&mut self, core: &Core, key: SessionKey) -> bool {
        let (is_late, has_got_newer) = (self.is_late, self.has_got_newer(core, key));
        let mut holds = true;
        for resuming in self.resuming() {
            // Each of these returns whether it has discarded something.
            holds &= !resuming.note_loss(core);
            if has_got_newer {
                holds &= !resuming.give_up();
            } else if is_late {
                holds &= !resuming.check_since(core, key);
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
        let (resume, past) = (follow_up.resume, follow_up.past.unwrap_or_default());
        Self {
            brings: answer.take_names().into_iter(),
            answer,
            retained: follow_up.retained,
            wants_end: follow_up.wants_end,
            resuming: resume.map(|resume| Box::new(Resuming::new(resume, past))),
        }
    }

    fn bytes(&self) -> usize {
        let resuming = self.resuming.as_ref();
        self.answer.bytes()
            + self.brings.len() * NAME_BYTES
            + resuming.map_or(0, |resuming| resuming.bytes())
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
            core.go_on_with_resume(key, client.later_bytes());
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
                if !sending.is_late && sending.resuming().any(|resuming| resuming.postpones()) {
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
        let beside = sending.found_bytes();
        let has_got_newer = sending.has_got_newer(core, key);
        let Some(prepared) = sending.answers.get_mut(sending.prepared) else {
            return false;
        };
        if let Some(resuming) = &mut prepared.resuming {
            if self.resume_next(core, key, client, resuming, beside, has_got_newer) {
                return true;
            }
            resuming.report_to(&mut prepared.answer);
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
            // `None`: its answer was sent before.
            self.retained.want_of_request(&name, key, None, wants_end);
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
