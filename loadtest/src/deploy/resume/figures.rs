//! Counts of all clients, from one replacement of an instance to the next.

use std::collections::{BTreeMap, BTreeSet};

/// Most texts of evidence in a run: the first faults say most.
const EVIDENCE_MAX: usize = 5;

/// Counts of all clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Connections that ended.
    pub(super) cuts: u64,
    /// Resumes with a response.
    pub(super) resumes: u64,
    /// Resumes in which every name was recovered.
    pub(super) recovered: u64,
    /// The reasons of the other resumes; a resume counts once for each different reason.
    pub(super) whys: BTreeMap<String, u64>,
    /// Missing messages about which the server told the client nothing.
    pub(super) lost: u64,
    /// Missing messages after a resume that was not recovered.
    pub(super) told: u64,
    /// Messages that came again.
    pub(super) double: u64,
    /// Messages that came after newer messages.
    pub(super) disordered: u64,
    /// Statuses that told of a loss of the bus.
    pub(super) bus_away: u64,
    /// Errors, unexpected messages, and positions in a wrong form.
    pub(super) strange: u64,
    /// From the end of a connection to the first message after the resume, microseconds. For clients
    /// of quiet names alone, to the response.
    pub(super) gaps_us: Vec<u64>,
    /// The first faults, in words.
    pub(super) evidence: Vec<String>,
}

impl Figures {
    /// Counts a resume with the reasons of its names that were not recovered.
    pub(super) fn resumed<'a>(&mut self, whys: impl IntoIterator<Item = &'a str>) {
        let whys: BTreeSet<_> = whys.into_iter().collect();
        self.resumes += 1;
        self.recovered += u64::from(whys.is_empty());
        for why in whys {
            *self.whys.entry(why.to_owned()).or_default() += 1;
        }
    }

    /// Keeps the text of a fault, if there are few.
    pub(super) fn evidence(&mut self, text: impl FnOnce() -> String) {
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(text());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_counts_once_for_each_reason() {
        let mut figures = Figures::default();
        for whys in [&[][..], &["gap", "off", "gap"], &["gap"]] {
            figures.resumed(whys.iter().copied());
        }
        assert_eq!((figures.resumes, figures.recovered), (3, 1));
        let whys = figures.whys.iter().map(|(why, n)| (why.as_str(), *n));
        assert_eq!(whys.collect::<Vec<_>>(), [("gap", 2), ("off", 1)]);
    }
}
