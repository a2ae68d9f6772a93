//! The outcomes of the names of a request with `since` or `last`, and how many of them are written for the answer.

use super::super::follow_up::NAME_BYTES;
use super::super::leaving::DropLater;
use super::super::messages::Recovered;
use super::super::replay::Replayed;
use weirgate_core::{Core, NotRecovered, Outcome, TopicName};

/// The outcomes of the granted names. The lists are in the order of the answer.
#[derive(Debug, Default)]
pub(super) struct NameOutcomes {
    /// The names that the request resumes, as far as the walk has come.
    names: Vec<TopicName>,
    /// Whether earlier messages of each of these names are missing, and why.
    outcomes: Vec<Outcome>,
    /// The names that the request does not resume, because nothing is kept of them.
    off: Vec<TopicName>,
}

/// The outcomes that are written for the answer, one by one, because a request may have very many names.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) written: Written,
    /// The members of the answer with the written outcomes; `None`: the answer has taken them.
    members: Option<Recovered>,
}

/// How many names of each list of [`NameOutcomes`] are written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    names: usize,
    off: usize,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            written: Written::default(),
            members: Some(Recovered::default()),
        }
    }
}

impl Report {
    /// Writes the outcome of a name. `why`: why not all earlier messages of the name follow the answer. `written` counts
    /// the name too.
    pub(super) fn push(&mut self, name: &TopicName, why: Option<&str>, written: Written) {
        self.written = written;
        if let Some(members) = &mut self.members {
            members.push(name, why);
        }
    }

    /// Takes the members, once all names are written. `None`: they were taken before.
    pub(super) fn take(&mut self) -> Option<Recovered> {
        self.members.take()
    }

    pub(super) fn bytes(&self) -> usize {
        self.members.as_ref().map_or(0, Recovered::bytes)
    }
}

impl NameOutcomes {
    /// No outcomes yet; `off` are names that the request does not resume.
    pub(super) fn new(off: Vec<TopicName>) -> Self {
        Self {
            off,
            ..Self::default()
        }
    }

    /// The memory of the names.
    pub(super) fn bytes(&self) -> usize {
        NAME_BYTES * (self.names.len() + self.off.len())
    }

    /// Whether no name that the request resumes has an outcome yet.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Adds names that the request resumes, with the outcome of each.
    pub(super) fn add(&mut self, names: Vec<TopicName>, outcomes: &[Outcome]) {
        self.names.extend(names);
        self.outcomes.extend(outcomes);
    }

    /// Adds a name that the request does not resume.
    pub(super) fn add_off(&mut self, name: TopicName) {
        let at = self.off.partition_point(|off| *off < name);
        self.off.insert(at, name);
    }

    /// Notes this reason for each name that has no other.
    pub(super) fn fail(&mut self, why: NotRecovered) {
        for outcome in &mut self.outcomes {
            *outcome = outcome.and(Err(why));
        }
    }

    /// The next name in the order of the answer, its outcome, and how many names are written with it; `None`: all are
    /// written.
    pub(super) fn next(&self, written: Written) -> Option<(&TopicName, Outcome, Written)> {
        let Written { names, off } = written;
        match (self.names.get(names), self.off.get(off)) {
            // Both lists are in the order of the names: the lesser of the two next names comes first.
            (Some(name), next) if next.is_none_or(|off| name < off) => {
                let names = names + 1;
                Some((name, self.outcomes[names - 1], Written { names, off }))
            }
            (_, Some(name)) => {
                let off = off + 1;
                Some((name, Err(NotRecovered::Off), Written { names, off }))
            }
            (_, None) => None,
        }
    }

    /// Counts the outcomes of a request with a position.
    pub(super) fn count(&self, core: &mut Core) {
        for _ in &self.off {
            core.count_not_recovered(NotRecovered::Off);
        }
        core.count_outcomes(&self.outcomes);
    }

    /// Moves the names to those of which the client gets all kept messages.
    pub(super) fn move_to(&mut self, replayed: &mut Replayed) {
        replayed.names.append(&mut self.names);
        replayed.off.append(&mut self.off);
    }

    /// Moves the names to `to_drop`.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) {
        to_drop.add_names(self.names);
        to_drop.add_names(self.off);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_written_in_the_order_of_the_answer_each_with_its_outcome() {
        let names = |names: &[&'static str]| -> Vec<_> {
            names.iter().copied().map(TopicName::fixed).collect()
        };
        let mut outcomes = NameOutcomes::new(names(&["a", "e"]));
        outcomes.add(names(&["b"]), &[Err(NotRecovered::Window)]);
        outcomes.add(names(&["d", "f"]), &[Ok(()); 2]);
        outcomes.add_off(TopicName::fixed("c"));
        outcomes.fail(NotRecovered::Large);
        let mut written = Written::default();
        let mut all = Vec::new();
        while let Some((name, outcome, next)) = outcomes.next(written) {
            let why = outcome.err().map(NotRecovered::label);
            all.push(format!("{} {}", name.as_str(), why.unwrap_or("none")));
            written = next;
        }
        assert_eq!(
            all.join(", "),
            "a off, b window, c off, d large, e off, f large"
        );
    }
}
