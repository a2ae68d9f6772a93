//! A request with `since` or `last` that is carried out, step by step, before its answer is sent. A step finds the earlier
//! messages of some names, and the client joins these names; or it makes frames, or writes an outcome for the answer.
//!
//! Before the answer is sent, what was found may turn out to be wrong. Then the messages are discarded, and the outcomes
//! are written again.

use std::mem;
use std::sync::Arc;

use super::super::ChannelsGateway;
use super::super::bus::REFUSED;
use super::super::client::ChannelsClient;
use super::super::follow_up::NAME_BYTES;
use super::super::leaving::DropLater;
use super::super::messages::Answer;
use super::super::past::WantedPast;
use super::super::patterns::matcher;
use super::super::replay::Replayed;
use super::super::resume::{AllSince, Earlier, Resume};
use super::found::{FoundMessages, LeftOut};
use super::outcomes::{NameOutcomes, Report};
use super::walk::NameWalk;
use crate::gateways::shared::history::Follow;
use weirgate_core::{Core, NotRecovered, Outcome, RetainedCut, SessionKey, TopicName, Wanted};

/// A request that wants earlier messages, until its answer is sent.
#[derive(Debug)]
pub(super) struct Resuming {
    /// The messages that it wants.
    earlier: Earlier,
    /// The names that are still to be joined.
    walk: NameWalk,
    /// What is known of newest messages that the history lacks.
    past: Box<WantedPast>,
    /// The messages of the names to which the walk has come.
    pub(super) found: FoundMessages,
    /// The outcomes of these names.
    outcomes: NameOutcomes,
    /// The outcomes that are written for the answer.
    report: Report,
    /// Names that the stream turned out not to have while the answer waited: their last values follow the answer.
    pub(super) moved: Vec<TopicName>,
}

impl Resuming {
    pub(super) fn new(resume: Resume, past: Box<WantedPast>) -> Self {
        Self {
            earlier: resume.earlier,
            walk: NameWalk::new(resume.names, resume.held, resume.has_held_alone),
            past,
            found: FoundMessages::default(),
            outcomes: NameOutcomes::new(resume.off.into_iter().collect()),
            report: Report::default(),
            moved: Vec::new(),
        }
    }

    /// The memory of the names, and of what the answer will say of them.
    pub(super) fn bytes(&self) -> usize {
        let names = self.past.waits.len() + self.past.found.len() + self.moved.len();
        NAME_BYTES * names + self.walk.bytes() + self.outcomes.bytes() + self.report.bytes()
    }

    /// Whether the walk has come to a name.
    pub(super) fn has_begun(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Whether a step is left that finds earlier messages. All kept messages are found after the answer.
    pub(super) fn will_search(&self) -> bool {
        !self.earlier.is_all() && self.walk.has_next()
    }

    /// Whether the client's live messages have to be postponed until the answer.
    pub(super) fn postpones(&self) -> bool {
        !self.walk.asks_again()
    }

    /// Discards the newest messages if there was a loss since they were found. Returns whether it did so.
    pub(super) fn note_loss(&mut self, core: &Core) -> bool {
        let is_new = self.found.note_loss(core) && self.earlier.newest().is_some();
        if is_new && self.earlier.has_since() {
            self.found.discard_newest();
            self.report = Report::default();
        } else if is_new {
            self.fail(NotRecovered::Window);
        }
        is_new
    }

    /// Discards all messages, because the client has got newer ones. Returns false if it has done so before, or if the
    /// client gets all kept messages: these come from the client's position on, whatever it has got of other names.
    pub(super) fn give_up(&mut self) -> bool {
        if self.earlier.is_all() || self.found.left_out() == LeftOut::Overtaken {
            return false;
        }
        self.found.leave_out(LeftOut::Overtaken);
        self.found.discard_newest();
        self.earlier.forget_newest();
        self.fail(NotRecovered::Large);
        true
    }

    /// Discards the missed messages if the client can no longer resume from its position. Returns whether it did so.
    pub(super) fn check_since(&mut self, core: &Core, key: SessionKey) -> bool {
        if let Earlier::Missed { since, .. } = &self.earlier
            && self.found.has_recovered()
            && let Err(why) = core.resumes_from(key, since)
        {
            self.fail(why);
            return true;
        }
        false
    }

    /// Discards the missed messages, and notes this reason for each name that has no other. Without a position, discards
    /// the newest messages too.
    fn fail(&mut self, why: NotRecovered) {
        self.found.discard_missed();
        if !self.earlier.has_since() {
            self.found.discard_newest();
        }
        if why == NotRecovered::Large {
            self.found.leave_out(LeftOut::TooMany);
        }
        self.outcomes.fail(why);
        self.report = Report::default();
    }

    /// Finds the next messages, or makes the next frames. `others` are the bytes of the messages of other answers.
    ///
    /// # Errors
    /// Why these messages are discarded.
    fn make_next(&mut self, core: &mut Core, key: SessionKey, others: usize) -> Outcome {
        let is_missed = self.found.has_unmade_missed();
        let made = self.found.make_next(core, key, others);
        if let Err(why) = made {
            match is_missed || !self.earlier.has_since() {
                true => self.fail(why),
                false => self.found.discard_newest(),
            }
        }
        made
    }

    /// Notes of which names some of the newest messages are missing, for the answer. These are a few hundred names
    /// at most: those of the last step.
    fn note_cuts(&mut self) {
        for (name, cut) in self.found.take_cuts() {
            self.past.note_found_cut(name, cut);
        }
    }

    /// Writes the outcome of the next name; returns whether there was one. `has_forgotten`: whether the history has
    /// forgotten a newest message of a name since it had forgotten so many.
    fn write_next(&mut self, has_forgotten: impl FnOnce(&TopicName, u64) -> bool) -> bool {
        let Some((name, outcome, written)) = self.outcomes.next(self.report.written) else {
            return false;
        };
        let why = self.why(name, outcome, has_forgotten);
        self.report.push(name, why, written);
        true
    }

    /// Why earlier messages of a name with this outcome are missing; `None`: none are.
    fn why(
        &self,
        name: &TopicName,
        outcome: Outcome,
        has_forgotten: impl FnOnce(&TopicName, u64) -> bool,
    ) -> Option<&'static str> {
        match outcome {
            // All missed messages follow.
            Ok(()) if self.earlier.has_since() => None,
            // The newest messages are too many just now.
            Err(NotRecovered::Large) if !self.earlier.has_since() => {
                Some(RetainedCut::Limit.label())
            }
            // For these reasons, no newest messages follow instead (`gets_newest`).
            Err(why @ (NotRecovered::Off | NotRecovered::Large)) => Some(why.label()),
            Ok(()) | Err(_) => {
                let cut = self.cut_of_newest(name, outcome, has_forgotten);
                let why = outcome.err().map(NotRecovered::label);
                cut.map(RetainedCut::label).or(why)
            }
        }
    }

    /// Why newest messages are missing of a name whose missed messages do not follow.
    fn cut_of_newest(
        &self,
        name: &TopicName,
        outcome: Outcome,
        has_forgotten: impl FnOnce(&TopicName, u64) -> bool,
    ) -> Option<RetainedCut> {
        let wants_newest = self.earlier.newest().is_some();
        let is_gone = |count| wants_newest && has_forgotten(name, count);
        let cut = self.past.cut(name, is_gone);
        if self.found.left_out() == LeftOut::Nothing {
            return cut;
        }
        // Of newest messages that are not sent, what the history lacks is not the reason.
        let is_of_history = |cut| matches!(cut, RetainedCut::Lost | RetainedCut::Large);
        match cut.filter(|cut| !is_of_history(*cut)) {
            None if wants_newest && outcome.is_err() => Some(RetainedCut::Limit),
            cut => cut,
        }
    }

    /// Moves the outcomes to the answer, unless it has them.
    pub(super) fn report_to(&mut self, answer: &mut Answer) {
        if let Some(outcomes) = self.report.take() {
            match self.earlier.has_since() {
                true => answer.set_recovered(outcomes),
                false => answer.set_why(outcomes),
            }
        }
    }

    /// Counts the outcomes, and moves the messages to those of the other answers. The names stay here, to be dropped
    /// later.
    pub(super) fn settle(&mut self, core: &mut Core, follow: &mut Follow, replayed: &mut Replayed) {
        if self.earlier.has_since() {
            self.outcomes.count(core);
        }
        if let Earlier::All(since) = mem::take(&mut self.earlier) {
            if let AllSince::At(since) = since {
                replayed.since.get_or_insert(since);
            }
            self.outcomes.move_to(replayed);
        }
        self.found.move_to(follow);
        if self.walk.asks_again() {
            follow.end_with_status();
        }
    }

    /// Moves all names and messages to `to_drop`, as `FollowUp::drop_later` does.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) {
        self.walk.drop_later(to_drop);
        self.outcomes.drop_later(to_drop);
        to_drop.add_names(self.moved);
        to_drop.add_past(*self.past);
        self.found.drop_later(to_drop);
    }
}

impl ChannelsGateway {
    /// Takes the next step of a request. Returns false if there is none: the outcomes of all names are written. `beside` are
    /// the bytes of the messages that were found so far, of all answers; `has_got_newer`: the client has got newer messages.
    pub(super) fn resume_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        resuming: &mut Resuming,
        beside: usize,
        has_got_newer: bool,
    ) -> bool {
        resuming.note_cuts();
        if resuming.found.drop_next() {
            return true;
        }
        if resuming.found.has_unmade() {
            let others = beside - resuming.found.bytes();
            if resuming.make_next(core, key, others) == Err(NotRecovered::Large) {
                client.requests.charge_search(core.now());
            }
            return true;
        }
        if resuming.walk.has_next() {
            if has_got_newer {
                resuming.give_up();
            }
            self.join_next(core, key, client, resuming, beside);
            return true;
        }
        resuming.write_next(|name, count| self.has_forgotten(core, name, count))
    }

    /// Finds the earlier messages of the next names, and joins the names. `beside` are the bytes of the messages found so
    /// far.
    fn join_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        resuming: &mut Resuming,
        beside: usize,
    ) {
        let mut names = resuming.walk.next_names(core);
        for name in &names {
            self.end_wait(core, key, client, &mut resuming.past, name);
        }
        names.retain(|name| resuming.walk.gets_earlier(core, key, name));
        // The stream of the kept feed may have got other subjects since the request.
        let names = names.into_iter();
        let (names, moved): (Vec<_>, Vec<_>) = names.partition(|name| self.is_kept(name));
        // Only a stream has all messages of a name.
        let (names, off) = match resuming.earlier.is_all() && !self.retained.has_pages {
            true => (Vec::new(), names),
            false => (names, Vec::new()),
        };
        let outcomes = self.find(core, key, resuming, beside, &names);
        let joined = match resuming.earlier {
            // The client gets all kept messages first.
            Earlier::All(_) => &[],
            _ => &names[..],
        };
        let joined = joined.iter().chain(&off).chain(&moved);
        for name in joined.filter(|name| resuming.walk.is_new(name)) {
            self.join(core, key, client, name);
            if self.joins_refused(name) {
                self.queue_name_error(REFUSED, name, vec![key]);
            }
        }
        resuming.outcomes.add(names, &outcomes);
        if self.retained.has_values {
            resuming.moved.extend_from_slice(&moved);
        }
        if resuming.earlier.reports_off() {
            let off = off.into_iter().chain(moved);
            off.for_each(|name| resuming.outcomes.add_off(name));
        }
        let is_large = outcomes.contains(&Err(NotRecovered::Large));
        if is_large && resuming.found.left_out() < LeftOut::TooMany {
            client.requests.charge_search(core.now());
            resuming.fail(NotRecovered::Large);
        }
    }

    /// Ends the wait of the answer for the newest messages of a name from the stream.
    fn end_wait(
        &mut self,
        core: &Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        past: &mut WantedPast,
        name: &TopicName,
    ) {
        if past.waits.remove(name).is_some() {
            let cut = self.leave_past(core, key, client, name);
            let forgotten = core.newest_forgotten_count();
            past.note_found(name.clone(), cut, forgotten);
        }
    }

    /// Finds the earlier messages of these names. Returns the outcome of each name. All kept messages are not found here:
    /// the client gets them after the answer.
    fn find(
        &self,
        core: &mut Core,
        key: SessionKey,
        resuming: &mut Resuming,
        beside: usize,
        names: &[TopicName],
    ) -> Vec<Outcome> {
        let Resuming { earlier, found, .. } = resuming;
        if let Earlier::All(since) = earlier {
            let outcome = self.check_since(core, since);
            if let Err(why) = outcome {
                *since = AllSince::Invalid(why);
            }
            return vec![outcome; names.len()];
        }
        let wanted = |name: &TopicName| Wanted {
            name: name.clone(),
            patterns: matcher(self.syntax(), name.as_str()).map(Arc::new),
        };
        let names: Vec<Wanted> = names.iter().map(wanted).collect();
        let newest = earlier.newest();
        found.begin(core);
        match earlier {
            Earlier::Missed { since, .. } => {
                found.find_missed(core, key, beside, &names, since, newest)
            }
            Earlier::None | Earlier::Newest(_) | Earlier::All(_) => {
                vec![found.find_newest(core, key, beside, &names, newest); names.len()]
            }
        }
    }
}
