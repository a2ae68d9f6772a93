//! The latency of requests with the gateway, compared with direct requests.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;

use super::direct::Direct;
use super::rounds::Rounds;
use super::schedule::{Player, Side, Stream};
use super::service::Service;
use super::{ANSWER_AFTER_US, Common, devices, judge, server, verdict};
use crate::fault::Fault;
use crate::fleet::{Kind, Latency};
use crate::launch::Program;
use crate::report::{self, row, spread_text, table};
use crate::stats::{Spread, median};

/// Options of `loadtest events requests`.
#[derive(Debug, Args)]
pub(crate) struct RequestsArgs {
    #[command(flatten)]
    common: Common,
    /// Devices; the requests come from each in turn
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Requests per second
    #[arg(long, value_delimiter = ',', default_values_t = [50.0, 500.0])]
    rates: Vec<f64>,
    /// Size of a request's data (at least 128)
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// Length of a part
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Uncounted time before each part, seconds
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Rounds; each has a part through the gateway and a part directly to the service, for each rate
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Fail when the median of the latency added to p99 is above this, ms
    #[arg(long, default_value_t = 2.0)]
    added_max: f64,
}

/// A part of a round.
#[derive(Serialize)]
struct Part {
    latency: Latency,
    sent: u64,
    answered: u64,
    /// Server CPU time of each request, microseconds; only through the gateway.
    cpu_us_per_request: Option<f64>,
}

/// All rounds at a rate.
#[derive(Serialize)]
struct AtRate {
    rate: f64,
    gateway: Vec<Part>,
    direct: Vec<Part>,
    /// Through the gateway minus direct, of the parts of the same round.
    added_p50_ms: Option<Spread>,
    added_p99_ms: Option<Spread>,
}

/// The result of `loadtest events requests`.
#[derive(Serialize)]
struct Outcome {
    devices: usize,
    bytes: usize,
    rates: Vec<AtRate>,
}

/// Runs the scenario; fails when a response is missing, or the gateway adds too much.
pub(super) fn run(a: &RequestsArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.devices == 0 || a.rates.iter().any(|rate| *rate <= 0.0) {
        return Err(Fault::Usage("--devices and --rates must be above 0".into()));
    }
    let service = Service::start(Some(ANSWER_AFTER_US))?;
    let server = server(&a.common, &service, &service)?;
    let mut measure = Measure {
        args: a,
        direct: Direct::new(service.addr, Arc::clone(stop))?,
        server,
        player: Player::new(a.bytes),
        stop,
    };
    let rates = a.rates.iter().map(|rate| measure.rate(*rate));
    let outcome = Outcome {
        devices: a.devices,
        bytes: a.bytes,
        rates: rates.collect::<Result<_, _>>()?,
    };
    println!("{}", outcome.text());
    report::write_json(a.common.json.as_deref(), &outcome)?;
    outcome.verdict(a)
}

struct Measure<'a> {
    args: &'a RequestsArgs,
    server: Program,
    direct: Direct,
    player: Player,
    stop: &'a Arc<AtomicBool>,
}

impl Measure<'_> {
    fn rate(&mut self, rate: f64) -> Result<AtRate, Fault> {
        let rounds = Rounds::measure(self.args.rounds, |round, through| {
            let part = if through {
                self.through(rate)?
            } else {
                played(&mut self.player, &mut self.direct, self.args, rate)?
            };
            eprintln!(
                "{rate}/s, round {round}, {}: p50 {:.2} ms, p99 {:.2} ms, {} of {} answered",
                if through { "gateway" } else { "direct" },
                part.latency.p50_ms,
                part.latency.p99_ms,
                part.answered,
                part.sent
            );
            Ok(part)
        })?;
        Ok(AtRate {
            rate,
            added_p50_ms: rounds.added(|part| part.latency.p50_ms),
            added_p99_ms: rounds.added(|part| part.latency.p99_ms),
            gateway: rounds.seen,
            direct: rounds.base,
        })
    }

    fn through(&mut self, rate: f64) -> Result<Part, Fault> {
        let a = self.args;
        let mut fleet = devices(&self.server, "device", Kind::Reader, a.devices, self.stop)?;
        let process = self.server.process()?;
        let cpu_us = process.cpu_us()?;
        let mut part = played(&mut self.player, &mut fleet, a, rate)?;
        let used_us = (process.cpu_us()? - cpu_us) as f64;
        fleet.close();
        part.cpu_us_per_request = Some(used_us / (rate * (a.warm_up + a.seconds)));
        Ok(part)
    }
}

fn played(
    player: &mut Player,
    side: &mut impl Side,
    a: &RequestsArgs,
    rate: f64,
) -> Result<Part, Fault> {
    let mut streams = [Stream::new(0..a.devices, "lobby.load", rate)];
    player.play(side, &mut streams, a.warm_up)?;
    let sent = player.play(side, &mut streams, a.seconds)?;
    Ok(Part {
        latency: side.tally().latency(),
        sent,
        answered: side.tally().deliveries,
        cpu_us_per_request: None,
    })
}

impl Outcome {
    fn text(&self) -> String {
        let mut rows = vec![row(&[
            &"requests/s",
            &"direct p50 / p99 ms",
            &"gateway p50 / p99 ms",
            &"added at p50 ms",
            &"added at p99 ms",
            &"CPU us/request",
        ])];
        for at in &self.rates {
            let middle = |parts: &[Part], of: fn(&Part) -> f64| {
                median(&parts.iter().map(of).collect::<Vec<_>>())
            };
            let latency = |parts: &[Part]| {
                let p50 = middle(parts, |part| part.latency.p50_ms);
                let p99 = middle(parts, |part| part.latency.p99_ms);
                format!("{p50:.2} / {p99:.2}")
            };
            let cpu = middle(&at.gateway, |part| part.cpu_us_per_request.unwrap_or(0.0));
            rows.push(row(&[
                &at.rate,
                &latency(&at.direct),
                &latency(&at.gateway),
                &spread_text(at.added_p50_ms),
                &spread_text(at.added_p99_ms),
                &format!("{cpu:.0}"),
            ]));
        }
        table(&rows)
    }

    fn verdict(&self, a: &RequestsArgs) -> Result<(), Fault> {
        let mut wrong = Vec::new();
        for at in &self.rates {
            let parts = at.gateway.iter().chain(&at.direct);
            let missing: u64 = parts.map(|p| p.sent.abs_diff(p.answered)).sum();
            if missing > 0 {
                wrong.push(format!("{}/s: {missing} answers are missing", at.rate));
            }
            let what = format!("{}/s: added at p99, ms", at.rate);
            judge(&mut wrong, &what, at.added_p99_ms, a.added_max);
        }
        verdict(&wrong)
    }
}
