//! An event to many devices spread over several instances on a bus, compared with a single instance
//! with all devices.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::push::{Part, Pushes, losses, part, two_ways};
use super::pusher::Pusher;
use super::rounds::Rounds;
use super::service::Service;
use super::{ANSWER_AFTER_US, Common, SETTLE_US, judge, server_with, target, verdict};
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind};
use crate::http;
use crate::launch::{BusKind, Program};
use crate::report;
use crate::stats::Spread;

/// Longest wait until the instances know each other.
const MEET_US: u64 = 20_000_000;

/// Options of `loadtest events instances`.
#[derive(Debug, Args)]
pub(crate) struct InstancesArgs {
    #[command(flatten)]
    common: Common,
    /// Instances; WEIRGATE_EVENTS_BUS is set for each
    #[arg(long, default_value_t = 2)]
    instances: usize,
    /// Bus between the instances, for pushes
    #[arg(long, value_enum, default_value_t = BusKind::Redis)]
    bus: BusKind,
    /// Devices over all instances; each push names all of them
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// Size of an event's data (at least 128)
    #[arg(long, default_value_t = 2048)]
    bytes: usize,
    /// Pushes of each part
    #[arg(long, default_value_t = 10)]
    pushes: u64,
    /// Rounds; each has a part with the instances and one with a single instance without a bus
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Fail when the median of the time, over a single instance's, is above this
    #[arg(long, default_value_t = 1.3)]
    ratio_max: f64,
}

/// The result of `loadtest events instances`.
#[derive(Serialize)]
struct Outcome {
    devices: usize,
    instances: Vec<Part>,
    single: Vec<Part>,
    /// Instances over the single instance, of the parts of the same round.
    time_ratio: Option<Spread>,
    cpu_ratio: Option<Spread>,
}

/// Runs the scenario; fails when a device does not get each push once, or the bound is exceeded.
pub(super) fn run(a: &InstancesArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.instances < 2 || a.devices < a.instances || a.pushes == 0 {
        return Err(Fault::Usage(
            "--instances must be at least 2, with a device and a push each".into(),
        ));
    }
    // Never called; the server requires a service.
    let service = Service::start(Some(ANSWER_AFTER_US))?;
    let (_bus, url) = a.bus.start()?;
    let with_bus = [("{bus}", "WEIRGATE_EVENTS_BUS", url.as_str())];
    let instances: Vec<Program> = (0..a.instances)
        .map(|_| server_with(&a.common, &service, &service, &with_bus))
        .collect::<Result<_, _>>()?;
    let single = server_with(&a.common, &service, &service, &[])?;
    meet(&instances)?;
    let pushes = Pushes {
        devices: a.devices,
        pushes: a.pushes,
    };
    let rounds = Rounds::measure(a.rounds, |round, is_spread| {
        let programs: Vec<&Program> = match is_spread {
            true => instances.iter().collect(),
            false => vec![&single],
        };
        let mut fleet = spread_devices(&programs, a.devices, stop)?;
        let ids = (0..a.devices).map(|n| format!("device-{n}"));
        let mut pusher = Pusher::connect(programs[0].addr, ids, a.bytes)?;
        let part = part(pushes, &programs, &mut fleet, &mut pusher)?;
        fleet.close();
        eprintln!(
            "round {round}, {}: last {:.1} ms, CPU {:.1} ms",
            if is_spread { "instances" } else { "single" },
            part.last_ms,
            part.cpu_ms
        );
        // Keeps the servers' work for closing connections out of the next part's figures.
        thread::sleep(Duration::from_micros(SETTLE_US));
        Ok(part)
    })?;
    let outcome = Outcome {
        devices: a.devices,
        time_ratio: rounds.ratio(|part| part.last_ms),
        cpu_ratio: rounds.ratio(|part| part.cpu_ms),
        instances: rounds.seen,
        single: rounds.base,
    };
    println!("{}", outcome.text());
    report::write_json(a.common.json.as_deref(), &outcome)?;
    outcome.verdict(a)
}

/// Waits until each instance counts all instances, and a second more: right after the start, an
/// instance waits longer than necessary for the replies of the others.
fn meet(instances: &[Program]) -> Result<(), Fault> {
    let end = clock::now_us() + MEET_US;
    let all = format!(r#""instances":{}"#, instances.len());
    let knows = |one: &Program| {
        let health = http::get(one.addr, "/health").unwrap_or_default();
        health.contains(r#""up":true"#) && health.contains(&all)
    };
    while !instances.iter().all(knows) {
        if clock::now_us() > end {
            let why = "the instances do not find each other on the bus";
            return Err(Fault::Server(why.into()));
        }
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// Devices named `device-0`, `device-1`, …, an equal share on each program.
fn spread_devices(
    programs: &[&Program],
    count: usize,
    stop: &Arc<AtomicBool>,
) -> Result<Fleet, Fault> {
    let mut fleet = Fleet::new(target(programs[0], "device"), Arc::clone(stop))?;
    for (n, program) in programs.iter().enumerate() {
        let share = count * (n + 1) / programs.len() - count * n / programs.len();
        fleet.turn_to(program.addr);
        fleet.open(Kind::Reader, share)?;
    }
    fleet.run(SETTLE_US, |_| false)?;
    Ok(fleet)
}

impl Outcome {
    fn text(&self) -> String {
        let ways = [("instances", &*self.instances), ("single", &*self.single)];
        let table = two_ways(ways, [self.time_ratio, self.cpu_ratio]);
        format!("{table}{} devices\n", self.devices)
    }

    fn verdict(&self, a: &InstancesArgs) -> Result<(), Fault> {
        let mut wrong = losses(self.instances.iter().chain(&self.single));
        judge(&mut wrong, "time ratio", self.time_ratio, a.ratio_max);
        verdict(&wrong)
    }
}
