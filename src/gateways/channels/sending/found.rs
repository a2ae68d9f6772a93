//! The earlier messages that were found for the names of a request, until they are sent with all messages of the client.

use std::collections::BTreeMap;
use std::mem;

use super::super::leaving::DropLater;
use crate::gateways::shared::history::{Follow, gets_newest};
use weirgate_core::{Core, NotRecovered, Outcome, RetainedCut, SessionKey, TopicName, Wanted};

/// Messages that are dropped in one step.
const DROPPED_AT_ONCE: usize = 1_000;

/// The earlier messages of the names to which the walk has come.
#[derive(Debug, Default)]
pub(super) struct FoundMessages {
    missed: Follow,
    /// The newest messages of names: the request wants these alone, or not all missed messages of the name are there.
    newest: Follow,
    left_out: LeftOut,
    /// The newest loss before names were looked for ([`Core::newest_loss`]); `None`: none was yet.
    newest_loss: Option<u64>,
    /// Messages that were found and are not sent, until they are dropped.
    unsent: Vec<Follow>,
}

/// Which of the messages that the request wants are not sent, although the history has them. Each state includes those
/// before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeftOut {
    /// All are sent.
    #[default]
    Nothing,
    /// Some names get neither all missed messages nor the newest ones.
    OfSomeNames,
    /// The missed messages are too many, or without a position the newest ones: none of these is sent, of any name.
    TooMany,
    /// The client has got newer messages already, so it gets no older ones.
    Overtaken,
}

impl FoundMessages {
    /// Bytes of the messages.
    pub(super) fn bytes(&self) -> usize {
        self.missed.bytes() + self.newest.bytes()
    }

    pub(super) fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Whether the client resumes from its position.
    pub(super) fn has_recovered(&self) -> bool {
        self.missed.has_recovered()
    }

    /// Notes the newest loss. Returns whether it came after names were looked for.
    pub(super) fn note_loss(&mut self, core: &Core) -> bool {
        let newest = core.newest_loss();
        let known = self.newest_loss.replace(newest);
        known.is_some_and(|known| known != newest)
    }

    /// Notes the newest loss before the first names are looked for.
    pub(super) fn begin(&mut self, core: &Core) {
        self.newest_loss.get_or_insert_with(|| core.newest_loss());
    }

    /// Finds the missed messages of these names, and up to `newest` of the newest messages of those whose missed messages
    /// are not all there. Returns the outcome of each name. `beside`: bytes of all messages found so far for the client.
    pub(super) fn find_missed(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        beside: usize,
        names: &[Wanted],
        since: &str,
        newest: Option<usize>,
    ) -> Vec<Outcome> {
        let mut missed = Follow::beside(beside);
        let mut outcomes = missed.missed(core, key, since, names);
        if self.left_out >= LeftOut::TooMany {
            for outcome in &mut outcomes {
                // No name gets its missed messages (`LeftOut`).
                *outcome = outcome.and(Err(NotRecovered::Large));
            }
            missed = Follow::beside(beside);
        }
        let lost = names.iter().zip(&outcomes);
        let lost = lost.filter(|(_, outcome)| gets_newest(Some(**outcome)));
        let lost: Vec<Wanted> = lost.map(|(name, _)| name.clone()).collect();
        let mut instead = Follow::beside(missed.bytes());
        if instead.newest(core, key, &lost, newest).is_err() {
            self.leave_out(LeftOut::OfSomeNames);
        }
        self.missed.merge(missed);
        self.newest.merge(instead);
        outcomes
    }

    /// Finds up to `newest` of the newest messages of each of these names, for a request without a position.
    ///
    /// # Errors
    /// These messages, or those found before, are too many.
    pub(super) fn find_newest(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        beside: usize,
        names: &[Wanted],
        newest: Option<usize>,
    ) -> Outcome {
        if self.left_out >= LeftOut::TooMany {
            return Err(NotRecovered::Large);
        }
        let mut found = Follow::beside(beside);
        found.newest(core, key, names, newest)?;
        self.newest.merge(found);
        Ok(())
    }

    /// Whether messages are still to be found, or frames to be made.
    pub(super) fn has_unmade(&self) -> bool {
        self.has_unmade_missed() || self.newest.has_unmade()
    }

    /// As [`Self::has_unmade`], of missed messages alone: these come first.
    pub(super) fn has_unmade_missed(&self) -> bool {
        self.missed.has_unmade()
    }

    /// Finds the next messages, or makes the next frames. `others` are the bytes of the messages of other answers.
    ///
    /// # Errors
    /// Why these messages are not all there: the caller discards them.
    pub(super) fn make_next(&mut self, core: &mut Core, key: SessionKey, others: usize) -> Outcome {
        let (missed, newest) = (self.missed.bytes(), self.newest.bytes());
        match self.has_unmade_missed() {
            true => self.missed.make_next(core, key, others + newest),
            false => self.newest.make_next(core, key, others + missed),
        }
    }

    /// Takes the names of which the newest messages are not whole, with the reasons.
    pub(super) fn take_cuts(&mut self) -> BTreeMap<TopicName, RetainedCut> {
        self.newest.take_cuts()
    }

    /// Notes that messages are not sent.
    pub(super) fn leave_out(&mut self, left_out: LeftOut) {
        self.left_out = self.left_out.max(left_out);
    }

    /// Discards the missed messages.
    pub(super) fn discard_missed(&mut self) {
        self.leave_out(LeftOut::OfSomeNames);
        self.unsent.push(mem::take(&mut self.missed));
    }

    /// Discards the newest messages.
    pub(super) fn discard_newest(&mut self) {
        self.leave_out(LeftOut::OfSomeNames);
        self.unsent.push(mem::take(&mut self.newest));
    }

    /// Drops some of the messages that are not sent. Returns false if there are none.
    pub(super) fn drop_next(&mut self) -> bool {
        let Some(messages) = self.unsent.last_mut() else {
            return false;
        };
        if !messages.drop_some(DROPPED_AT_ONCE) {
            self.unsent.pop();
        }
        true
    }

    /// Moves the messages to those of the other answers.
    pub(super) fn move_to(&mut self, follow: &mut Follow) {
        follow.merge(mem::take(&mut self.missed));
        follow.merge(mem::take(&mut self.newest));
    }

    /// Moves all messages to `to_drop`.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) {
        let all = self.unsent.into_iter().chain([self.missed, self.newest]);
        to_drop.add_messages(all);
    }
}
