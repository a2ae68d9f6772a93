//! What many rounds say together.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::CompareArgs;
use super::round::Round;
use crate::fault::Fault;
use crate::fleet::Latency;
use crate::report::{row, spread_text, table};
use crate::stats::{Spread, spread};
use crate::syscalls::Syscalls;

/// All rounds of one server.
#[derive(Serialize)]
pub(super) struct Measured {
    name: String,
    /// CPU per delivery, microseconds.
    cpu_us_per_delivery: Option<Spread>,
    /// CPU per delivery over the limit's of the same round.
    cpu_ratio: Option<Spread>,
    /// p50 over the limit's of the same round.
    p50_ratio: Option<Spread>,
    /// p99 over the limit's of the same round.
    p99_ratio: Option<Spread>,
    /// p50 of a round, milliseconds.
    p50_ms: Option<Spread>,
    /// p99 of a round, milliseconds.
    p99_ms: Option<Spread>,
    /// Over all rounds together: one disturbed round shows in its tail.
    latency: Latency,
    deliveries_per_s: Option<Spread>,
    bytes_per_delivery: Option<Spread>,
    /// Largest share of a CPU that clients and publisher used.
    client_busy_max: f64,
    /// CPUs that programs outside the experiment kept busy.
    others_busy_cpus: Option<Spread>,
    messages: u64,
    deliveries: u64,
    lost: u64,
    not_rising: u64,
    closed: u64,
    /// System calls for each delivered message.
    pub(super) syscalls_per_delivery: Option<f64>,
    /// System calls of the part in which they were counted.
    pub(super) syscalls: Option<Syscalls>,
    rounds: Vec<Round>,
}

impl Measured {
    /// Nothing measured yet.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cpu_us_per_delivery: None,
            cpu_ratio: None,
            p50_ratio: None,
            p99_ratio: None,
            p50_ms: None,
            p99_ms: None,
            latency: Latency::default(),
            deliveries_per_s: None,
            bytes_per_delivery: None,
            client_busy_max: 0.0,
            others_busy_cpus: None,
            messages: 0,
            deliveries: 0,
            lost: 0,
            not_rising: 0,
            closed: 0,
            syscalls_per_delivery: None,
            syscalls: None,
            rounds: Vec::new(),
        }
    }

    /// Adds a round.
    pub(super) fn add(&mut self, round: Round) {
        self.deliveries += round.deliveries;
        self.lost += round.lost;
        self.not_rising += round.not_rising;
        self.closed += round.closed;
        self.client_busy_max = self.client_busy_max.max(round.client_busy);
        self.rounds.push(round);
    }

    fn values(&self, of: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(of).collect()
    }

    fn summarise(&mut self, limit: &[Round], messages: u64) {
        let ratio = |of: fn(&Round) -> f64| {
            let pairs = self.rounds.iter().zip(limit);
            spread(&pairs.map(|(a, b)| of(a) / of(b)).collect::<Vec<_>>())
        };
        self.cpu_ratio = ratio(|r| r.cpu_us_per_delivery);
        self.p50_ratio = ratio(|r| r.latency.p50_ms);
        self.p99_ratio = ratio(|r| r.latency.p99_ms);
        self.p50_ms = spread(&self.values(|r| r.latency.p50_ms));
        self.p99_ms = spread(&self.values(|r| r.latency.p99_ms));
        self.cpu_us_per_delivery = spread(&self.values(|r| r.cpu_us_per_delivery));
        self.deliveries_per_s = spread(&self.values(|r| r.deliveries_per_s));
        self.bytes_per_delivery = spread(&self.values(|r| r.bytes_per_delivery));
        self.others_busy_cpus = spread(&self.values(|r| r.others_busy_cpus));
        self.messages = messages * self.rounds.len() as u64;
        let mut all: Option<Histogram<u64>> = None;
        for round in &self.rounds {
            match &mut all {
                None => all = Some(round.histogram.clone()),
                // Histograms of the same bounds take each other's values.
                Some(all) => drop(all.add(&round.histogram)),
            }
        }
        self.latency = all.as_ref().map(Latency::of).unwrap_or_default();
    }
}

/// The result of `loadtest compare`; the first server is the limit.
#[derive(Serialize)]
pub(super) struct Comparison {
    clients: usize,
    bytes: usize,
    messages_per_round: u64,
    /// Messages per second; `None` at saturation.
    rate: Option<f64>,
    in_flight: Option<u64>,
    deflate: bool,
    pinned: bool,
    servers: Vec<Measured>,
}

impl Comparison {
    /// Puts the rounds of all servers together.
    pub(super) fn of(args: &CompareArgs, mut servers: Vec<Measured>) -> Self {
        let limit: Vec<Round> = servers
            .first()
            .map(|s| s.rounds.clone())
            .unwrap_or_default();
        for server in &mut servers {
            server.summarise(&limit, args.messages);
        }
        Self {
            clients: args.clients,
            bytes: args.bytes,
            messages_per_round: args.messages,
            rate: args.in_flight.is_none().then_some(args.rate),
            in_flight: args.in_flight,
            deflate: args.deflate,
            pinned: args.pin,
            servers,
        }
    }

    /// The table, and the rows for PERF.md.
    pub(super) fn text(&self) -> String {
        let mut rows = vec![row(&[
            &"server",
            &"us/delivery",
            &"CPU ratio [95 %] (range)",
            &"p50 ms",
            &"p99 ms",
            &"p99 all ms",
            &"p99.9 all ms",
            &"p99 ratio [95 %] (range)",
            &"calls/delivery",
            &"deliveries/s",
            &"bytes",
            &"lost",
            &"client busy",
        ])];
        for s in &self.servers {
            rows.push(row(&[
                &s.name,
                &median(s.cpu_us_per_delivery, 2),
                &spread_text(s.cpu_ratio),
                &median(s.p50_ms, 2),
                &median(s.p99_ms, 2),
                &format!("{:.2}", s.latency.p99_ms),
                &format!("{:.2}", s.latency.p999_ms),
                &spread_text(s.p99_ratio),
                &s.calls(),
                &median(s.deliveries_per_s, 0),
                &median(s.bytes_per_delivery, 0),
                &s.lost,
                &format!("{:.0} %", s.client_busy_max * 100.0),
            ]));
        }
        let mut text = format!("{}\n{}\n", self.load(), table(&rows));
        text.push_str(&self.disturbed());
        for s in &self.servers {
            if let Some(counted) = &s.syscalls {
                let names: Vec<String> = counted
                    .by_name
                    .iter()
                    .take(6)
                    .map(|(n, c)| format!("{n} {c}"))
                    .collect();
                text.push_str(&format!(
                    "{} ({}): {}\n",
                    s.name,
                    counted.tool,
                    names.join(", ")
                ));
            }
        }
        for s in self.servers.iter().skip(1) {
            text.push_str(&self.markdown(s));
        }
        text
    }

    fn load(&self) -> String {
        let pace = match (self.in_flight, self.rate) {
            (Some(window), _) => format!("{window} in flight"),
            (None, rate) => format!("{}/s", rate.unwrap_or_default()),
        };
        let messages = self.servers.first().map_or(0, |s| s.messages);
        let rounds = self.servers.first().map_or(0, |s| s.rounds.len());
        let deflate = if self.deflate { ", deflate" } else { "" };
        format!(
            "{} clients, {} B, {pace}{deflate}, {messages} messages in {rounds} rounds",
            self.clients, self.bytes
        )
    }

    /// `| load | server | us/delivery | CPU ratio | p50 / p99 ms | p99 ratio | calls | lost |`
    fn markdown(&self, s: &Measured) -> String {
        format!(
            "| {} | {} | {} | {} | {} / {} | {} | {} | {} |\n",
            self.load(),
            s.name,
            median(s.cpu_us_per_delivery, 2),
            spread_text(s.cpu_ratio),
            median(s.p50_ms, 1),
            median(s.p99_ms, 1),
            spread_text(s.p99_ratio),
            s.calls(),
            s.lost
        )
    }

    /// Fails when a message was lost, came twice or out of order, a client was closed, or a bound of
    /// the caller is passed.
    pub(super) fn verdict(&self, args: &CompareArgs) -> Result<(), Fault> {
        for s in &self.servers {
            if s.lost + s.not_rising + s.closed > 0 {
                return Err(Fault::Failed(format!(
                    "{}: {} messages lost, {} twice or out of order, {} clients closed",
                    s.name, s.lost, s.not_rising, s.closed
                )));
            }
            let bounds = [
                (
                    "CPU ratio",
                    s.cpu_ratio.map(|r| r.median),
                    args.cpu_ratio_max,
                ),
                (
                    "p99 ratio",
                    s.p99_ratio.map(|r| r.median),
                    args.p99_ratio_max,
                ),
                (
                    "system calls per delivery",
                    s.syscalls_per_delivery,
                    args.calls_max,
                ),
            ];
            for (what, value, bound) in bounds {
                if let (Some(value), Some(bound)) = (value, bound)
                    && value > bound
                {
                    return Err(Fault::Failed(format!(
                        "{}: {what} {value:.3} is above {bound}",
                        s.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// A warning when other programs kept more than a twentieth of a CPU busy.
    fn disturbed(&self) -> String {
        let worst = self
            .servers
            .iter()
            .filter_map(|s| s.others_busy_cpus)
            .map(|b| b.median)
            .fold(0.0, f64::max);
        if worst > 0.05 {
            format!(
                "disturbed: other programs kept {worst:.2} CPUs busy; latencies of this run say little\n"
            )
        } else {
            String::new()
        }
    }
}

impl Measured {
    fn calls(&self) -> String {
        self.syscalls_per_delivery
            .map_or_else(|| "-".into(), |v| format!("{v:.3}"))
    }
}

fn median(s: Option<Spread>, digits: usize) -> String {
    s.map_or_else(|| "-".into(), |s| format!("{:.digits$}", s.median))
}
