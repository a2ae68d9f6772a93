//! The effect of a hanging service on requests to other services.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;

use super::rounds::Rounds;
use super::schedule::{Player, Stream};
use super::service::Service;
use super::{ANSWER_AFTER_US, Common, devices, judge, server, verdict};
use crate::fault::Fault;
use crate::fleet::{Kind, Latency};
use crate::report::{self, row, spread_text, table};
use crate::stats::Spread;

/// Options of `loadtest events hang`.
#[derive(Debug, Args)]
pub(crate) struct HangArgs {
    #[command(flatten)]
    common: Common,
    /// Devices in all
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Devices that call the service without responses
    #[arg(long, default_value_t = 200)]
    callers: usize,
    /// Requests per second of the other devices, to a service with responses
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Requests per second to the service without responses
    #[arg(long, default_value_t = 100.0)]
    callers_rate: f64,
    /// Size of a request's data (at least 128)
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// Length of a part: longer than the server's timeout for a service
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Uncounted time before each part, seconds
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Rounds; each has a part with and a part without the calls that hang, on a fresh server
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Fail when the median of the others' p99, with over without, is above this
    #[arg(long, default_value_t = 1.2)]
    ratio_max: f64,
}

/// A part of a round.
#[derive(Serialize)]
struct Part {
    /// With calls that hang.
    hangs: bool,
    /// Latency for the other devices.
    latency: Latency,
    sent: u64,
    answered: u64,
    /// Errors to the devices that call the hanging service.
    errors: u64,
}

/// The result of `loadtest events hang`.
#[derive(Serialize)]
struct Outcome {
    /// p99 of the other devices, with over without, of the parts of the same round.
    p99_ratio: Option<Spread>,
    p50_ratio: Option<Spread>,
    parts: Vec<Part>,
}

/// Runs the scenario; fails when a response to another device is missing or late.
pub(super) fn run(a: &HangArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.callers == 0 || a.callers >= a.devices || a.rate <= 0.0 || a.callers_rate <= 0.0 {
        return Err(Fault::Usage(
            "--callers must be from 1 to less than --devices, rates above 0".into(),
        ));
    }
    let answers = Service::start(Some(ANSWER_AFTER_US))?;
    let never = Service::start(None)?;
    let rounds = Rounds::measure(a.rounds, |round, hangs| {
        let part = part(a, &answers, &never, hangs, stop)?;
        eprintln!(
            "round {round}, {} calls that hang: p50 {:.2} ms, p99 {:.2} ms, {} of {} answered, {} errors",
            if hangs { "with" } else { "without" },
            part.latency.p50_ms,
            part.latency.p99_ms,
            part.answered,
            part.sent,
            part.errors
        );
        Ok(part)
    })?;
    let outcome = Outcome {
        p99_ratio: rounds.ratio(|part| part.latency.p99_ms),
        p50_ratio: rounds.ratio(|part| part.latency.p50_ms),
        parts: rounds.into_parts(),
    };
    println!("{}", outcome.text());
    report::write_json(a.common.json.as_deref(), &outcome)?;
    outcome.verdict(a)
}

fn part(
    a: &HangArgs,
    answers: &Service,
    never: &Service,
    hangs: bool,
    stop: &Arc<AtomicBool>,
) -> Result<Part, Fault> {
    let server = server(&a.common, answers, never)?;
    let mut fleet = devices(&server, "device", Kind::Reader, a.devices, stop)?;
    let others = a.devices - a.callers;
    let mut streams = vec![Stream::new(0..others, "lobby.load", a.rate)];
    if hangs {
        let callers = others..a.devices;
        streams.push(Stream::new(callers, "simulation.load", a.callers_rate));
    }
    let mut player = Player::new(a.bytes);
    player.play(&mut fleet, &mut streams, a.warm_up)?;
    let sent = player.play(&mut fleet, &mut streams, a.seconds)?;
    let tally = &fleet.readers;
    let part = Part {
        hangs,
        latency: tally.latency(),
        sent,
        answered: tally.deliveries,
        errors: tally.unstamped,
    };
    fleet.close();
    Ok(part)
}

impl Outcome {
    fn text(&self) -> String {
        let mut rows = vec![row(&[
            &"",
            &"p50 ms",
            &"p99 ms",
            &"max ms",
            &"sent",
            &"answered",
            &"errors",
        ])];
        for part in &self.parts {
            rows.push(row(&[
                &if part.hangs { "with" } else { "without" },
                &format!("{:.2}", part.latency.p50_ms),
                &format!("{:.2}", part.latency.p99_ms),
                &format!("{:.2}", part.latency.max_ms),
                &part.sent,
                &part.answered,
                &part.errors,
            ]));
        }
        format!(
            "{}p99 with over without: {}\np50 with over without: {}\n",
            table(&rows),
            spread_text(self.p99_ratio),
            spread_text(self.p50_ratio)
        )
    }

    fn verdict(&self, a: &HangArgs) -> Result<(), Fault> {
        let mut wrong = Vec::new();
        let missing: u64 = self.parts.iter().map(|p| p.sent.abs_diff(p.answered)).sum();
        if missing > 0 {
            wrong.push(format!("{missing} answers are missing"));
        }
        judge(&mut wrong, "p99 ratio", self.p99_ratio, a.ratio_max);
        verdict(&wrong)
    }
}
