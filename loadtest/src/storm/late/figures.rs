//! The figures of a round, and the verdict.

use serde::Serialize;

use super::LateArgs;
use super::latecomers::Story;
use crate::fault::Fault;
use crate::fleet::{Fleet, Latency};
use crate::report::{mib, row, table};

const MIB: f64 = 1024.0 * 1024.0;

/// The figures of a round.
#[derive(Serialize)]
pub(super) struct Figures {
    /// The feed alone.
    pub(super) quiet: Others,
    /// From the first late client until all were up to date, and a second of the feed.
    pub(super) beside: Others,
    pub(super) story: Story,
    /// Names that the server counted as resumed.
    pub(super) recovered: f64,
    /// Resident memory of the server before the late clients, bytes.
    pub(super) memory_before: u64,
    /// Most resident memory of the server, bytes.
    pub(super) memory_peak: u64,
}

/// The clients that stay.
#[derive(Serialize)]
pub(super) struct Others {
    latency: Latency,
    /// p99 of the time for which the loop of these clients waited for a CPU, ms: loadtest, not the server.
    late_p99_ms: f64,
    messages: u64,
    /// Messages that did not come, came twice or out of order.
    wrong: u64,
    closed: u64,
}

impl Others {
    pub(super) fn of(fleet: &Fleet) -> Self {
        let readers = &fleet.readers;
        Self {
            latency: readers.latency(),
            late_p99_ms: Latency::of(&fleet.late).p99_ms,
            messages: readers.deliveries,
            wrong: readers.skipped + readers.not_rising,
            closed: readers.ends.values().sum(),
        }
    }
}

impl Figures {
    fn more_ms(&self) -> f64 {
        self.beside.latency.p99_ms - self.quiet.latency.p99_ms
    }

    fn more_mib(&self) -> f64 {
        self.memory_peak.saturating_sub(self.memory_before) as f64 / MIB
    }

    /// What is wrong, whatever the bounds are.
    fn faults(&self) -> Vec<String> {
        let story = &self.story;
        let (quiet, beside) = (&self.quiet, &self.beside);
        let counts = [
            (story.refused, "late clients got less than they asked for"),
            (story.wrong, "late clients with a hole or a message twice"),
            (story.closed, "late clients closed"),
            (quiet.closed.max(beside.closed), "other clients closed"),
            (
                quiet.wrong + beside.wrong,
                "messages of others missing or twice",
            ),
        ];
        let counted = counts.iter().filter(|(count, _)| *count > 0);
        let mut faults: Vec<_> = counted.map(|(n, what)| format!("{n} {what}")).collect();
        if !faults.is_empty() {
            faults.extend(story.evidence.iter().cloned());
        }
        faults
    }
}

pub(super) fn text(rounds: &[Figures]) -> String {
    let mut rows = vec![row(&[
        &"answered s",
        &"up to date s",
        &"replayed",
        &"names resumed",
        &"wrong",
        &"closed",
        &"quiet p50 ms",
        &"p99 ms",
        &"beside p50 ms",
        &"p99 ms",
        &"max ms",
        &"loadtest late p99 ms",
        &"MiB before",
        &"peak",
    ])];
    for f in rounds {
        let (quiet, beside) = (&f.quiet.latency, &f.beside.latency);
        rows.push(row(&[
            &format!("{:.2}", f.story.answered_s),
            &format!("{:.2}", f.story.whole_s),
            &f.story.replayed,
            &f.recovered,
            &(f.story.wrong + f.story.refused + f.quiet.wrong + f.beside.wrong),
            &(f.story.closed + f.beside.closed),
            &format!("{:.2}", quiet.p50_ms),
            &format!("{:.2}", quiet.p99_ms),
            &format!("{:.2}", beside.p50_ms),
            &format!("{:.2}", beside.p99_ms),
            &format!("{:.2}", beside.max_ms),
            &format!("{:.2}", f.beside.late_p99_ms),
            &mib(f.memory_before),
            &mib(f.memory_peak),
        ]));
    }
    table(&rows)
}

pub(super) fn verdict(a: &LateArgs, rounds: &[Figures]) -> Result<(), Fault> {
    let mut wrong = Vec::new();
    for (number, f) in rounds.iter().enumerate() {
        let mut of_round = f.faults();
        if f.more_ms() > a.p99_more_max {
            let more = f.more_ms();
            of_round.push(format!(
                "p99 of the others {more:.1} ms over that of the feed alone (at most {})",
                a.p99_more_max
            ));
        }
        if f.more_mib() > a.memory_max {
            let more = f.more_mib();
            of_round.push(format!("{more:.0} MiB more (at most {})", a.memory_max));
        }
        wrong.extend(
            of_round
                .iter()
                .map(|text| format!("round {}: {text}", number + 1)),
        );
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Fault::Failed(wrong.join("; "))),
    }
}
