//! The result of `loadtest compare`: all samples, the summaries, and the verdict.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::contestants::{Contestant, Role};
use super::measured::Measured;
use super::relayed::Relayed;
use super::{CompareArgs, pace, page, table};
use crate::bus::Bus;
use crate::fault::{Fault, Tried};
use crate::limit::Gateway;
use crate::machine::About;
use crate::progress::grouped;
use crate::report;

/// A number of clients with a payload size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Case {
    pub(super) clients: usize,
    pub(super) bytes: usize,
}

impl Case {
    pub(super) fn new(clients: usize, bytes: usize) -> Self {
        Self { clients, bytes }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [clients, bytes] = [self.clients, self.bytes].map(|n| grouped(n as u64));
        write!(f, "{clients} clients, {bytes} B")
    }
}

/// The whole result.
#[derive(Serialize)]
pub(super) struct Comparison {
    /// Version of loadtest.
    version: &'static str,
    machine: About,
    pub(super) rounds: usize,
    pub(super) messages_per_round: u64,
    /// Messages per second; `None` at saturation.
    pub(super) rate: Option<f64>,
    pub(super) in_flight: Option<u64>,
    /// The gateway of all contestants, and their bus.
    pub(super) gateway: Gateway,
    pub(super) bus: Bus,
    /// Whether only the measured contestant ran.
    pub(super) solo: bool,
    /// Most microseconds of a delay of the publisher that no latency has.
    pub(super) wake_up_us: u64,
    pub(super) deflate: bool,
    pub(super) pinned: bool,
    pub(super) contestants: Vec<Entry>,
    /// The reference limit of the table's ratios.
    pub(super) base: Option<String>,
    /// The first server, a second reference, if there are several servers.
    pub(super) first: Option<String>,
    pub(super) cases: Vec<CaseResult>,
}

/// A contestant and the command line.
#[derive(Serialize)]
pub(super) struct Entry {
    name: String,
    role: Role,
    command: String,
    /// Whether the clients of this contestant speak TLS.
    tls: bool,
}

/// All contestants in one case.
#[derive(Serialize)]
pub(super) struct CaseResult {
    #[serde(flatten)]
    pub(super) case: Case,
    pub(super) servers: Vec<Measured>,
}

impl Comparison {
    /// Summarises `rounds` rounds of all contestants.
    pub(super) fn of(
        (args, relayed): (&CompareArgs, &Relayed),
        rounds: usize,
        contestants: &[Contestant],
        cases: impl Iterator<Item = (Case, Vec<Measured>)>,
    ) -> Self {
        let with_role = |role: Role| contestants.iter().filter(move |c| c.role == role);
        let first = with_role(Role::Server).next().map(|c| c.name.clone());
        let first = first.filter(|_| with_role(Role::Server).count() > 1);
        let base = args.base().and_then(|role| with_role(role).next());
        let entry = |c: &Contestant| Entry {
            name: c.name.clone(),
            role: c.role,
            command: c.command.clone(),
            tls: c.tls.is_some(),
        };
        let in_case = |(case, servers): (Case, Vec<Measured>)| CaseResult {
            case,
            servers: together(servers, first.as_deref(), args.messages),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            machine: About::this_machine(),
            rounds,
            messages_per_round: args.messages,
            rate: args.in_flight.is_none().then_some(args.rate),
            in_flight: args.in_flight,
            gateway: relayed.gateway,
            bus: relayed.bus,
            solo: args.solo,
            wake_up_us: args.wake_up_us,
            deflate: args.deflate.deflate.is_some(),
            pinned: args.pin,
            contestants: contestants.iter().map(entry).collect(),
            base: base.map(|c| c.name.clone()),
            cases: cases.map(in_case).collect(),
            first,
        }
    }

    /// A result with only these names and cases.
    #[cfg(test)]
    pub(super) fn empty(base: &str, first: &str, cases: Vec<CaseResult>) -> Self {
        Self {
            version: "",
            machine: About::this_machine(),
            rounds: 1_000,
            messages_per_round: 1_000_000,
            rate: Some(1_000.5),
            in_flight: None,
            gateway: Gateway::Levels,
            bus: Bus::Nats,
            solo: false,
            wake_up_us: 0,
            deflate: true,
            pinned: true,
            contestants: Vec::new(),
            base: Some(base.into()),
            first: Some(first.into()),
            cases,
        }
    }

    /// Writes the JSON and the page, if requested.
    pub(super) fn write(&self, json: Option<&Path>, dir: Option<&Path>) -> Result<(), Fault> {
        report::write_json_compact(json, self)?;
        let Some(dir) = dir else { return Ok(()) };
        let value: Value = serde_json::to_value(self)
            .map_err(std::io::Error::from)
            .tried("JSON")?;
        page::write(dir, &value)?;
        report::write_json_compact(Some(&dir.join("result.json")), self)?;
        let file = dir.join("table.md");
        let table = match self.is_pace() {
            true => pace::markdown(self),
            false => table::markdown(self),
        };
        std::fs::write(&file, table).tried(file.display().to_string())
    }

    /// Whether the limits are those of one and two threads.
    pub(super) fn is_pace(&self) -> bool {
        self.contestants.iter().any(|c| c.role == Role::RawLimit)
    }

    /// Fails when a message was lost, came twice or out of order, a client was closed, or a bound of
    /// `args` is exceeded.
    pub(super) fn verdict(&self, args: &CompareArgs) -> Result<(), Fault> {
        for CaseResult { case, servers } in &self.cases {
            for server in servers {
                faultless(case, server)?;
                if server.role == Role::Server {
                    self.within(case, server, args)?;
                }
            }
        }
        Ok(())
    }

    fn within(&self, case: &Case, s: &Measured, args: &CompareArgs) -> Result<(), Fault> {
        let ratios = self.base.as_ref().and_then(|base| s.ratios_to(base));
        let median = |of: fn(&super::measured::Against) -> Option<crate::stats::Spread>| {
            Some(ratios.and_then(of)?.median)
        };
        let bounds = [
            ("CPU ratio", median(|r| r.cpu), args.cpu_ratio_max),
            ("p99 ratio", median(|r| r.p99), args.p99_ratio_max),
            (
                "system calls per delivery",
                s.syscalls_per_delivery,
                args.calls_max,
            ),
        ];
        for (what, value, bound) in bounds {
            let Some(bound) = bound else { continue };
            let name = &s.name;
            let Some(value) = value else {
                return Err(Fault::Failed(format!(
                    "{name}, {case}: no {what} to compare with {bound}: every round was refused, or has no limit"
                )));
            };
            if value > bound {
                return Err(Fault::Failed(format!(
                    "{name}, {case}: {what} {value:.3} is above {bound}"
                )));
            }
        }
        Ok(())
    }
}

/// Computes the summaries, and the ratios to each limit and to the first server.
fn together(mut servers: Vec<Measured>, first: Option<&str>, messages: u64) -> Vec<Measured> {
    for server in &mut servers {
        server.summarise(messages);
    }
    let is_limit = |s: &Measured| !matches!(s.role, Role::LimitAgain | Role::Server);
    let is_reference = |s: &Measured| is_limit(s) || Some(s.name.as_str()) == first;
    let against = |server: &Measured| {
        let others = servers.iter().filter(|other| is_reference(other));
        let others = others.filter(|other| other.name != server.name);
        others.map(|other| server.against(other)).collect()
    };
    let all: Vec<_> = servers.iter().map(against).collect();
    for (server, against) in servers.iter_mut().zip(all) {
        server.against = against;
    }
    servers
}

fn faultless(case: &Case, s: &Measured) -> Result<(), Fault> {
    if s.lost + s.not_rising + s.closed == 0 {
        return Ok(());
    }
    Err(Fault::Failed(format!(
        "{}, {case}: {} messages lost, {} twice or out of order, {} clients closed",
        s.name, s.lost, s.not_rising, s.closed
    )))
}
