//! Names whose last values the bus did not give in time, or for now cannot give: their clients are notified, and the bus is
//! asked again until it gives the values.
//!
//! The pauses are those of clients that ask again for `last`. Only a few of the names are asked for at the same time, and
//! in a pause, so that a stream that is away for long does not take the questions of others. A client that has not been
//! told asks at once; its question may find that the values are back.

use std::collections::{BTreeSet, btree_set};
use std::mem;

use super::super::leaving::DropLater;
use super::Retained;
use super::client::RetainedClient;
use super::questions::LeftMembers;
use weirgate_core::{RetainedCut, SessionKey, TopicName};
use weirgate_wire::base::ExtendibleMap;

/// The first pause before a name is asked for again, and the longest, microseconds; each is twice the one before.
const PAUSE_MIN_US: u64 = 5_000_000;
const PAUSE_MAX_US: u64 = 60_000_000;
/// The most names that are asked for again at the same time, and in the shortest pause unless one of them is answered: a
/// quarter of the questions that the bus has.
const ASKED_MAX: usize = 16;

/// A name whose newest question got no answer.
#[derive(Debug)]
struct UnansweredName {
    pause_us: u64,
    /// When it is asked for again; `None`: it may be asked for now.
    due_us: Option<u64>,
}

/// How many more names may be asked for again before a time.
#[derive(Debug, Default)]
struct AskBudget {
    left: usize,
    /// Microseconds; then the budget is full again.
    until_us: u64,
}

impl AskBudget {
    /// A full budget; the next name that is asked for sets its time.
    const fn full() -> Self {
        Self {
            left: ASKED_MAX,
            until_us: 0,
        }
    }

    /// Counts a name that is asked for again.
    fn take(&mut self, now_us: u64) {
        if now_us >= self.until_us {
            (self.left, self.until_us) = (ASKED_MAX, now_us + PAUSE_MIN_US);
        }
        self.left = self.left.saturating_sub(1);
    }

    /// When a name that is due at this time may be asked for.
    fn allows_at(&self, due_us: u64) -> u64 {
        match self.left {
            // So many were asked for that the others wait for the end of this time.
            0 => due_us.max(self.until_us),
            _ => due_us,
        }
    }
}

/// The names whose last values the bus did not give.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    names: ExtendibleMap<TopicName, UnansweredName>,
    dues: BTreeSet<(u64, TopicName)>,
    budget: AskBudget,
    /// Whether the pause of a name has ended since the last call of [`Retained::release_unanswered`].
    is_released: bool,
}

/// Names that are forgotten all at once, until they are dropped.
#[derive(Debug)]
pub(in crate::gateways::channels) struct ClearedNames {
    names: <ExtendibleMap<TopicName, UnansweredName> as IntoIterator>::IntoIter,
    dues: btree_set::IntoIter<(u64, TopicName)>,
}

impl ClearedNames {
    /// How many names and times are still to be dropped.
    pub(in crate::gateways::channels) fn len(&self) -> usize {
        self.names.len() + self.dues.len()
    }

    /// Drops at most this many.
    pub(in crate::gateways::channels) fn drop_some(&mut self, count: usize) {
        match self.names.len() {
            0 => self.dues.by_ref().take(count).for_each(drop),
            _ => self.names.by_ref().take(count).for_each(drop),
        }
    }
}

impl Unanswered {
    /// Whether the name is in a pause: a client that knows of the missing answer has to wait.
    pub(super) fn waits(&self, name: &TopicName) -> bool {
        let name = self.names.get(name);
        name.is_some_and(|name| name.due_us.is_some())
    }

    /// The bus has not given the values of a name.
    fn note(&mut self, name: &TopicName, now_us: u64) {
        let known = self
            .names
            .get_or_insert_with(name.clone(), || UnansweredName {
                pause_us: PAUSE_MIN_US,
                due_us: None,
            });
        // Another question for the name may have been under way.
        if known.due_us.is_none() {
            let due_us = now_us + known.pause_us;
            known.due_us = Some(due_us);
            known.pause_us = (2 * known.pause_us).min(PAUSE_MAX_US);
            self.dues.insert((due_us, name.clone()));
        }
    }

    /// The bus gives the values of a name.
    pub(super) fn answered(&mut self, name: &TopicName) {
        if self.forget(name) {
            self.is_released = true;
            // The bus gives values again, so the count of names asked for begins anew.
            self.budget = AskBudget::full();
        }
    }

    /// Nobody waits for the values of a name any more. Returns false if the name is unknown.
    pub(super) fn forget(&mut self, name: &TopicName) -> bool {
        let Some(known) = self.names.remove(name) else {
            return false;
        };
        if let Some(due_us) = known.due_us {
            self.dues.remove(&(due_us, name.clone()));
        }
        true
    }

    /// Forgets all names, because the bus is away: once it is back, all are asked for. Very many are dropped over
    /// several turns.
    pub(super) fn clear(&mut self, to_drop: &mut DropLater) {
        let Self { names, dues, .. } = mem::take(self);
        to_drop.add_cleared(ClearedNames {
            names: names.into_iter(),
            dues: dues.into_iter(),
        });
    }

    /// Whether another name may be asked for again.
    fn has_room(&self) -> bool {
        // The names without a due time are being asked for again.
        self.names.len() - self.dues.len() < ASKED_MAX
    }

    /// When a name is to be asked for again.
    pub(super) fn due_us(&self) -> Option<u64> {
        let due = self.dues.first().filter(|_| self.has_room());
        due.map(|(due_us, _)| self.budget.allows_at(*due_us))
    }

    /// Ends the pauses that are over.
    fn release_due(&mut self, now_us: u64) {
        while self.due_us().is_some_and(|due_us| due_us <= now_us)
            && let Some((_, name)) = self.dues.pop_first()
        {
            if let Some(known) = self.names.get_mut(&name) {
                known.due_us = None;
            }
            self.budget.take(now_us);
            self.is_released = true;
        }
    }
}

impl Retained {
    /// Handles a question that the bus did not answer in time, or cannot answer for now: another goes on from this
    /// cursor, later. Returns the name, and the clients that did not know it yet.
    pub(super) fn unanswered(
        &mut self,
        left: LeftMembers,
        now_us: u64,
    ) -> (TopicName, Vec<SessionKey>) {
        let name = left.name.clone();
        self.unanswered.note(&name, now_us);
        let clients = left.clients.iter().copied();
        let notified = clients.filter(|key| self.tell_unanswered(&name, *key));
        let notified = notified.collect();
        self.requeue(left);
        (name, notified)
    }

    /// Lets a client know that the values of a name have not come; more of them may come later. Returns false if it
    /// knows.
    fn tell_unanswered(&mut self, name: &TopicName, key: SessionKey) -> bool {
        let waiter = self.clients.get_mut(&key);
        let Some(waiter) = waiter.filter(|waiter| waiter.names.contains_key(name)) else {
            return false;
        };
        let Some(wanted) = waiter
            .names
            .get_mut(name)
            .filter(|wanted| !wanted.is_notified)
        else {
            return false;
        };
        wanted.is_notified = true;
        if wanted.wants_end {
            let end = wanted.end(name, Some(RetainedCut::Refused));
            if waiter.push_end(end) {
                self.ending.push_back(key);
            }
        }
        true
    }

    /// Ends the pauses that are over. Returns whether names may be asked for again, so that their clients need a turn.
    pub(in crate::gateways::channels) fn release_unanswered(&mut self, now_us: u64) -> bool {
        self.unanswered.release_due(now_us);
        mem::take(&mut self.unanswered.is_released)
    }
}

impl RetainedClient {
    /// Whether the client knows that the bus does not give the values of a name, and waits for the next question.
    pub(super) fn waits_for_answer(&self, name: &TopicName, unanswered: &Unanswered) -> bool {
        let wanted = self.names.get(name);
        wanted.is_some_and(|wanted| wanted.is_notified) && unanswered.waits(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::leaving::tests::assert_drops;
    use super::*;

    #[test]
    fn the_names_are_dropped_in_steps_when_the_bus_is_away() {
        const NAMES: u64 = 10_000;
        let mut unanswered = Unanswered::default();
        let names = (0..NAMES).map(|n| (n, TopicName::from(n.to_string())));
        names.for_each(|(n, name)| unanswered.note(&name, n));
        let mut to_drop = DropLater::default();
        unanswered.clear(&mut to_drop);
        assert!(!unanswered.waits(&"1".into()) && unanswered.due_us().is_none());
        // Each name and its time.
        assert_drops(to_drop, 2 * NAMES as usize);
    }
}
