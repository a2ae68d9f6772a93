//! The figures of a run with clients that resume, and the verdict.

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures::Figures;
use crate::deploy::outcome::{GOOD_ENDS, Percentiles};
use crate::deploy::roll::Rolled;
use crate::deploy::{DeployArgs, Gateway};
use crate::fault::Fault;
use crate::fleet::Returns;
use crate::report::{row, table};

/// Most texts of evidence in a result.
const EVIDENCE_MAX: usize = 10;

/// A killed or replaced instance.
#[derive(Serialize)]
pub(super) struct Replacement {
    ready_s: f64,
    stopped_s: f64,
    /// Exit status of the old instance.
    end: String,
    /// Clients whose connections ended.
    cuts: u64,
    /// Clients open, with the response to their resume, at the end.
    back: usize,
    gap: Percentiles,
    counts: Counts,
    returns: Returns,
    /// Ends of connections, with counts.
    ends: BTreeMap<String, u64>,
    #[serde(skip)]
    evidence: Vec<String>,
}

/// Counts over all clients.
#[derive(Clone, Debug, Default, Serialize)]
struct Counts {
    resumes: u64,
    recovered: u64,
    /// Reasons of the resumes that were not recovered.
    not_recovered: BTreeMap<String, u64>,
    /// Missing messages about which the server told the client nothing; of the run so far.
    lost: u64,
    /// Missing messages after a resume that was not recovered; of the run so far.
    told: u64,
    double: u64,
    disordered: u64,
    strange: u64,
    bus_away: u64,
}

/// The result of `loadtest deploy` with clients that resume.
#[derive(Serialize)]
pub(super) struct Outcome {
    gateway: Gateway,
    killed: bool,
    clients: usize,
    gap_max_s: f64,
    allow_false: bool,
    replacements: Vec<Replacement>,
    totals: Counts,
    /// The first faults, in words.
    evidence: Vec<String>,
}

impl Replacement {
    pub(super) fn of(
        figures: Figures,
        rolled: &Rolled,
        back: usize,
        returns: Returns,
        ends: BTreeMap<String, u64>,
    ) -> Self {
        Self {
            ready_s: rolled.ready_us as f64 / 1e6,
            stopped_s: rolled.stopped_us as f64 / 1e6,
            end: rolled.end.clone(),
            cuts: figures.cuts,
            back,
            gap: Percentiles::of(figures.gaps_us.clone()),
            counts: Counts::of(&figures),
            returns,
            ends,
            evidence: figures.evidence,
        }
    }

    pub(super) fn text(&self) -> String {
        let (c, gap) = (&self.counts, &self.gap);
        format!(
            "{} cut, {} back, {} of {} recovered, {} lost, {} double, gap p50 {:.2} max {:.2} s, ends {:?}",
            self.cuts,
            self.back,
            c.recovered,
            c.resumes,
            c.lost,
            c.double,
            gap.p50,
            gap.max,
            self.ends
        )
    }

    fn row(&self, number: usize) -> Vec<String> {
        let c = &self.counts;
        row(&[
            &number,
            &format!("{:.2}", self.ready_s),
            &format!("{:.2}", self.stopped_s),
            &self.cuts,
            &self.back,
            &c.resumes,
            &c.recovered,
            &c.refused(),
            &c.lost,
            &c.double,
            &format!("{:.2}", self.gap.p50),
            &format!("{:.2}", self.gap.p99),
            &format!("{:.2}", self.gap.max),
            &self.returns.attempts_max,
            &self.end,
        ])
    }

    fn wrong(&self, clients: usize, gap_max_s: f64) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.gap.max > gap_max_s {
            let gap = self.gap.max;
            wrong.push(format!("a client waited {gap:.2} s for the first message"));
        }
        if self.back < clients {
            wrong.push(format!("{} clients are not back", clients - self.back));
        }
        if !GOOD_ENDS.contains(&self.end.as_str()) {
            wrong.push(format!("the old instance ended with {}", self.end));
        }
        wrong
    }
}

impl Counts {
    fn of(f: &Figures) -> Self {
        Self {
            resumes: f.resumes,
            recovered: f.recovered,
            not_recovered: f.whys.clone(),
            lost: f.lost,
            told: f.told,
            double: f.double,
            disordered: f.disordered,
            strange: f.strange,
            bus_away: f.bus_away,
        }
    }

    /// Resumes that were not recovered.
    fn refused(&self) -> u64 {
        self.resumes - self.recovered
    }

    /// Adds the counts since the last replacement. Losses are those of a whole round, and are added
    /// at its end.
    fn add(&mut self, more: &Self) {
        self.resumes += more.resumes;
        self.recovered += more.recovered;
        for (why, n) in &more.not_recovered {
            *self.not_recovered.entry(why.clone()).or_default() += n;
        }
        self.double += more.double;
        self.disordered += more.disordered;
        self.strange += more.strange;
        self.bus_away += more.bus_away;
    }
}

impl Outcome {
    pub(super) fn new(a: &DeployArgs) -> Self {
        Self {
            gateway: a.gateway,
            killed: a.kill,
            clients: a.clients,
            gap_max_s: a.gap_max,
            allow_false: a.allow_false,
            replacements: Vec::new(),
            totals: Counts::default(),
            evidence: Vec::new(),
        }
    }

    /// Takes a replacement.
    pub(super) fn push(&mut self, replacement: Replacement) {
        self.totals.add(&replacement.counts);
        self.keep(&replacement.evidence);
        self.replacements.push(replacement);
    }

    /// Takes the counts after the last replacement of a round, with the losses of the whole round.
    pub(super) fn end_round(&mut self, figures: &Figures) {
        self.totals.add(&Counts::of(figures));
        self.totals.lost += figures.lost;
        self.totals.told += figures.told;
        self.keep(&figures.evidence);
    }

    fn keep(&mut self, evidence: &[String]) {
        let room = EVIDENCE_MAX.saturating_sub(self.evidence.len());
        self.evidence.extend(evidence.iter().take(room).cloned());
    }

    pub(super) fn text(&self) -> String {
        let mut rows = vec![row(&[
            &if self.killed { "kill" } else { "roll" },
            &"ready s",
            &"stop s",
            &"cut",
            &"back",
            &"resumes",
            &"true",
            &"false",
            &"lost",
            &"double",
            &"gap p50",
            &"p99",
            &"max s",
            &"most tries",
            &"end",
        ])];
        let numbered = self.replacements.iter().enumerate();
        rows.extend(numbered.map(|(n, r)| r.row(n + 1)));
        let t = &self.totals;
        let mut lines = vec![
            table(&rows),
            format!("resumes        {}", t.resumes),
            format!("recovered true {}", t.recovered),
            format!(
                "false          {}{}",
                t.refused(),
                reasons(&t.not_recovered)
            ),
            format!(
                "lost           {} (and {} after a resume with false)",
                t.lost, t.told
            ),
            format!("double         {}", t.double),
            format!("worst gap      {:.2} s", self.gap_s()),
        ];
        lines.extend(self.evidence.iter().map(|text| format!("seen: {text}")));
        lines.join("\n")
    }

    /// The longest gap of a client.
    fn gap_s(&self) -> f64 {
        let gaps = self.replacements.iter().map(|r| r.gap.max);
        gaps.fold(0.0, f64::max)
    }

    /// Fails if a message was lost, came twice or out of order, if a resume was not recovered, or if a
    /// client was away for too long.
    pub(super) fn verdict(&self) -> Result<(), Fault> {
        let t = &self.totals;
        let refused = if self.allow_false { 0 } else { t.refused() };
        let counts = [
            (t.lost, "messages lost"),
            (t.double, "messages double"),
            (t.disordered, "messages out of order"),
            (t.strange, "messages that no client expected"),
            (t.bus_away, "messages about a loss of the bus"),
            (refused, "resumes not recovered"),
        ];
        let counted = counts.iter().filter(|(n, _)| *n > 0);
        let mut all: Vec<_> = counted.map(|(n, what)| format!("{n} {what}")).collect();
        if t.resumes == 0 {
            all.push("no client resumed".into());
        }
        for (n, replacement) in self.replacements.iter().enumerate() {
            let wrong = replacement.wrong(self.clients, self.gap_max_s);
            all.extend(wrong.iter().map(|w| format!("{}: {w}", n + 1)));
        }
        match all.is_empty() {
            true => Ok(()),
            false => Err(Fault::Failed(all.join("; "))),
        }
    }
}

/// Reasons with counts, in parentheses; nothing without a reason.
fn reasons(whys: &BTreeMap<String, u64>) -> String {
    let each: Vec<_> = whys.iter().map(|(why, n)| format!("{why} {n}")).collect();
    match each.is_empty() {
        true => String::new(),
        false => format!(" ({})", each.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(allow_false: bool) -> Outcome {
        Outcome {
            gateway: Gateway::Trades,
            killed: true,
            clients: 10,
            gap_max_s: 2.0,
            allow_false,
            replacements: Vec::new(),
            totals: Counts::default(),
            evidence: Vec::new(),
        }
    }

    fn replacement(figures: Figures) -> Replacement {
        let rolled = Rolled {
            left: ([127, 0, 0, 1], 1).into(),
            ready_us: 1,
            stopped_us: 1,
            end: "exit status: 0".into(),
        };
        Replacement::of(figures, &rolled, 10, Returns::default(), BTreeMap::new())
    }

    fn good() -> Figures {
        Figures {
            cuts: 10,
            resumes: 10,
            recovered: 10,
            gaps_us: vec![500_000],
            ..Figures::default()
        }
    }

    /// The verdict of a run with two replacements, and what is seen at the end.
    fn said(allow_false: bool, of_one: Figures, at_end: &Figures) -> String {
        let mut outcome = outcome(allow_false);
        outcome.push(replacement(good()));
        outcome.push(replacement(of_one));
        outcome.end_round(at_end);
        outcome
            .verdict()
            .err()
            .map_or_else(String::new, |fault| fault.to_string())
    }

    #[test]
    fn a_whole_run_is_good_and_every_fault_fails() {
        let none = Figures::default();
        assert_eq!(said(false, good(), &none), "");
        let double = Figures {
            double: 1,
            ..good()
        };
        assert_eq!(said(false, double, &none), "failed: 1 messages double");
        let lost = Figures {
            lost: 3,
            ..none.clone()
        };
        assert_eq!(said(false, good(), &lost), "failed: 3 messages lost");
        let slow = Figures {
            gaps_us: vec![1, 2_100_000],
            ..good()
        };
        assert!(said(false, slow, &none).contains("2: a client waited 2.10 s"));
        let mut refused = good();
        refused.resumed(["epoch"]);
        assert_eq!(
            said(false, refused.clone(), &none),
            "failed: 1 resumes not recovered"
        );
        assert_eq!(said(true, refused, &none), "");
    }

    #[test]
    fn the_losses_of_a_round_count_once() {
        let lost = Figures { lost: 3, ..good() };
        let end = Figures {
            lost: 3,
            ..Figures::default()
        };
        assert_eq!(said(false, lost, &end), "failed: 3 messages lost");
    }

    #[test]
    fn the_text_has_the_reasons() {
        let mut outcome = outcome(false);
        let mut refused = good();
        refused.resumed(["epoch"]);
        outcome.push(replacement(refused));
        assert!(
            outcome.text().contains("false          1 (epoch 1)"),
            "{}",
            outcome.text()
        );
        assert!(outcome.text().contains("worst gap      0.50 s"));
    }
}
