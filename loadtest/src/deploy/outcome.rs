//! The effect of a deploy on the clients, and the verdict.

use std::collections::BTreeMap;

use serde::Serialize;

use super::roll::Rolled;
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Returns};
use crate::report::{row, table};

/// Expected ends of an old instance.
pub(super) const GOOD_ENDS: [&str; 2] = ["exit status: 0", "signal: 9 (SIGKILL)"];

/// A replaced instance.
#[derive(Serialize)]
pub(super) struct RollOutcome {
    ready_s: f64,
    stopped_s: f64,
    /// Exit status of the old instance.
    end: String,
    /// Longest time without a newer state, over the clients.
    gap: Percentiles,
    /// Clients open and up to date at the end.
    back: usize,
    /// Older states after newer ones, over all clients.
    older: u64,
    /// States received a second time on the same connection.
    twice: u64,
    returns: Returns,
    /// Ends of connections, with counts.
    ends: BTreeMap<String, u64>,
}

/// Seconds.
#[derive(Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// The result of `loadtest deploy`.
#[derive(Serialize)]
pub(super) struct Outcome {
    clients: usize,
    gap_max_s: f64,
    pub(super) rolls: Vec<RollOutcome>,
}

impl RollOutcome {
    pub(super) fn of(fleet: &mut Fleet, back: usize, rolled: &Rolled) -> Self {
        let now = clock::now_us();
        let gaps = fleet.freshness().map(|f| f.gap_us(now)).collect();
        Self {
            ready_s: seconds(rolled.ready_us),
            stopped_s: seconds(rolled.stopped_us),
            end: rolled.end.clone(),
            gap: Percentiles::of(gaps),
            back,
            older: fleet.freshness().map(|f| f.older).sum(),
            twice: fleet.freshness().map(|f| f.twice).sum(),
            returns: fleet.take_returns(),
            ends: std::mem::take(&mut fleet.readers.ends),
        }
    }

    pub(super) fn text(&self) -> String {
        format!(
            "gap p50 {:.2} p99 {:.2} max {:.2} s, {} back, {} returns, {} refused, ends {:?}",
            self.gap.p50,
            self.gap.p99,
            self.gap.max,
            self.back,
            self.returns.ended,
            self.returns.refused,
            self.ends
        )
    }
}

impl Percentiles {
    pub(super) fn of(mut values_us: Vec<u64>) -> Self {
        values_us.sort_unstable();
        let last = values_us.len().saturating_sub(1);
        let at = |q: f64| {
            let index = (q * last as f64).ceil() as usize;
            seconds(values_us.get(index).copied().unwrap_or(0))
        };
        Self {
            p50: at(0.50),
            p90: at(0.90),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

impl Outcome {
    pub(super) fn new(clients: usize, gap_max_s: f64) -> Self {
        Self {
            clients,
            gap_max_s,
            rolls: Vec::new(),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut rows = vec![row(&[
            &"roll",
            &"ready s",
            &"stop s",
            &"gap p50",
            &"p90",
            &"p99",
            &"max s",
            &"back",
            &"older",
            &"twice",
            &"returns",
            &"refused",
            &"most tries",
            &"end",
        ])];
        for (number, r) in self.rolls.iter().enumerate() {
            rows.push(row(&[
                &(number + 1),
                &format!("{:.2}", r.ready_s),
                &format!("{:.2}", r.stopped_s),
                &format!("{:.2}", r.gap.p50),
                &format!("{:.2}", r.gap.p90),
                &format!("{:.2}", r.gap.p99),
                &format!("{:.2}", r.gap.max),
                &r.back,
                &r.older,
                &r.twice,
                &r.returns.ended,
                &r.returns.refused,
                &r.returns.attempts_max,
                &r.end,
            ]));
        }
        table(&rows)
    }

    /// Fails if a client lacked a newer state for too long, got an older state or the same state twice,
    /// or is not back at the end, or if an old instance ended in an unexpected way.
    pub(super) fn verdict(&self) -> Result<(), Fault> {
        let wrong = |r: &RollOutcome| {
            let mut wrong = Vec::new();
            if r.gap.max > self.gap_max_s {
                wrong.push(format!(
                    "a client was {:.2} s without a newer state",
                    r.gap.max
                ));
            }
            if r.older > 0 {
                wrong.push(format!("{} older states after newer ones", r.older));
            }
            if r.twice > 0 {
                wrong.push(format!("{} states twice", r.twice));
            }
            if r.back < self.clients {
                wrong.push(format!("{} clients are not back", self.clients - r.back));
            }
            if !GOOD_ENDS.contains(&r.end.as_str()) {
                wrong.push(format!("the old instance ended with {}", r.end));
            }
            wrong
        };
        let numbered = self.rolls.iter().enumerate();
        let all: Vec<_> = numbered
            .flat_map(|(n, r)| {
                wrong(r)
                    .into_iter()
                    .map(move |w| format!("roll {}: {w}", n + 1))
            })
            .collect();
        match all.is_empty() {
            true => Ok(()),
            false => Err(Fault::Failed(all.join("; "))),
        }
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
