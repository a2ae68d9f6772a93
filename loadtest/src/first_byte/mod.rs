//! `loadtest first-byte`: the time of a message from the bus to a client of a server, compared with
//! a raw relay: a single thread that reads the NATS socket and writes the frame.

mod client;
mod contestants;
mod relay;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde::Serialize;

use self::contestants::{Contestant, start};
use crate::compare::ServerCommand;
use crate::fault::Fault;
use crate::report::{self, row, table};
use crate::stats::{Spread, spread};
use crate::{clock, payload};

/// Uncounted messages at the start of a part.
const WARM_UP: u64 = 5;

/// Options of `loadtest first-byte`.
#[derive(Debug, Args)]
pub(crate) struct FirstByteArgs {
    /// Server: [NAME=]COMMAND with {port} and {nats} replaced; repeat for several
    #[arg(long = "server", value_name = "COMMAND", required = true)]
    servers: Vec<ServerCommand>,
    /// Path of the WebSocket
    #[arg(long, default_value = "/ws/stream")]
    path: String,
    /// Subject to publish on
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// Size of a payload
    #[arg(long, default_value_t = 512)]
    bytes: usize,
    /// Messages per second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Messages of a part
    #[arg(long, default_value_t = 50)]
    messages: u64,
    /// Rounds; each has a part for each contestant
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Pause before each part, ms: longer than a server spins after a message
    #[arg(long, default_value_t = 150)]
    pause_ms: u64,
    /// Put the relays and the main thread of each server on CPU 0, everything else on CPU 1
    #[arg(long)]
    pin: bool,
    /// Fail when the p99 of a server exceeds the p99 of the relay by more than this, us
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    added_p99_max: Option<f64>,
    /// Write the result as JSON, with every sample
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome {
    bytes: usize,
    rate: f64,
    pinned: bool,
    contestants: Vec<Measured>,
}

/// The figures of a contestant.
#[derive(Serialize)]
struct Measured {
    name: String,
    p50_us: f64,
    p99_us: f64,
    /// Compared with the relay of the core subject.
    added_p50_us: f64,
    added_p99_us: f64,
    /// The median of each round, minus the relay's median.
    added_us: Option<Spread>,
    /// Mean time from the bus thread's stamp to the first write, as reported by the server.
    inside_us: Option<f64>,
    /// From the write of the publisher to the client's read, microseconds, by round.
    samples_us: Vec<Vec<f64>>,
}

/// Runs `loadtest first-byte`; fails when a bound is exceeded.
pub(crate) fn run(a: &FirstByteArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.rate <= 0.0 || a.messages == 0 || a.rounds == 0 {
        return Err(Fault::Usage(
            "rate, messages and rounds are at least 1".into(),
        ));
    }
    let mut contestants = start(a)?;
    clock::sleep_punctually();
    let mut payload = payload::Payload::new(a.bytes);
    for round in 0..a.rounds {
        let count = contestants.len();
        for turn in 0..count {
            if stop.load(Ordering::Relaxed) {
                return Err(Fault::Interrupted);
            }
            let contestant = &mut contestants[(round + turn) % count];
            std::thread::sleep(std::time::Duration::from_millis(a.pause_ms));
            part(contestant, &mut payload, a)?;
        }
    }
    let outcome = outcome(contestants, a);
    print(&outcome);
    report::write_json(a.json.as_deref(), &outcome)?;
    judge(&outcome, a)
}

/// Sends the messages in turn, each when due and after the arrival of the previous message.
fn part(
    contestant: &mut Contestant,
    payload: &mut payload::Payload,
    a: &FirstByteArgs,
) -> Result<(), Fault> {
    let start_us = clock::now_us();
    let mut samples = Vec::new();
    for i in 0..WARM_UP + a.messages {
        clock::sleep_until(start_us + clock::due_after_us(i, a.rate));
        let us = contestant.one(&a.subject, payload)?;
        if i >= WARM_UP {
            samples.push(us);
        }
    }
    contestant.samples_us.push(samples);
    Ok(())
}

fn outcome(contestants: Vec<Contestant>, a: &FirstByteArgs) -> Outcome {
    let base = contestants[0].samples_us.clone();
    let all = |rounds: &[Vec<f64>]| rounds.concat();
    let measured = |contestant: Contestant| {
        let samples = all(&contestant.samples_us);
        let [p50_us, p99_us] = [0.5, 0.99].map(|part| percentile(&samples, part));
        let [base_p50, base_p99] = [0.5, 0.99].map(|part| percentile(&all(&base), part));
        let rounds = contestant.samples_us.iter().zip(&base);
        let medians = rounds.map(|(ours, base)| percentile(ours, 0.5) - percentile(base, 0.5));
        Measured {
            inside_us: contestant.inside_us(),
            name: contestant.name,
            p50_us,
            p99_us,
            added_p50_us: p50_us - base_p50,
            added_p99_us: p99_us - base_p99,
            added_us: spread(&medians.collect::<Vec<f64>>()),
            samples_us: contestant.samples_us,
        }
    };
    Outcome {
        bytes: a.bytes,
        rate: a.rate,
        pinned: a.pin,
        contestants: contestants.into_iter().map(measured).collect(),
    }
}

/// The smallest value with at least the share `part` of all values at or below.
fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

fn print(outcome: &Outcome) {
    let head = [
        "us",
        "p50",
        "p99",
        "added p50",
        "added p99",
        "inside",
        "p50 of rounds, added",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for m in &outcome.contestants {
        let us = |value: f64| format!("{value:.1}");
        let inside = m.inside_us.map_or_else(|| "-".to_owned(), us);
        rows.push(row(&[
            &m.name,
            &us(m.p50_us),
            &us(m.p99_us),
            &us(m.added_p50_us),
            &us(m.added_p99_us),
            &inside,
            &report::spread_text(m.added_us),
        ]));
    }
    print!("{}", table(&rows));
}

fn judge(outcome: &Outcome, a: &FirstByteArgs) -> Result<(), Fault> {
    let Some(max) = a.added_p99_max else {
        return Ok(());
    };
    let is_server = |m: &&Measured| !contestants::RELAYS.iter().any(|(name, _)| *name == m.name);
    let over = |m: &Measured| {
        let added = m.added_p99_us;
        (added > max).then(|| format!("{}: p99 {added:.1} us over the relay's", m.name))
    };
    let servers = outcome.contestants.iter().filter(is_server);
    let over: Vec<String> = servers.filter_map(over).collect();
    if over.is_empty() {
        return Ok(());
    }
    Err(Fault::Failed(format!(
        "{} (at most {max})",
        over.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 50.0);
        assert_eq!(percentile(&values, 0.99), 99.0);
        assert_eq!(percentile(&[7.0], 0.5), 7.0);
        assert_eq!(percentile(&[], 0.99), 0.0);
    }
}
