//! An event to many devices, compared with the raw limit.

use std::io::Write;
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::pusher::{Pusher, message};
use super::rounds::Rounds;
use super::service::Service;
use super::{ANSWER_AFTER_US, Common, LATE_US, SETTLE_US, devices, judge, pin, server, verdict};
use crate::clock;
use crate::fault::{Fault, Tried};
use crate::fleet::{Fleet, Kind};
use crate::launch::{self, Program};
use crate::payload::Payload;
use crate::process::Process;
use crate::report::{self, row, spread_text, table};
use crate::stats::{Spread, median, spread};

/// Options of `loadtest events push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    common: Common,
    /// Devices; each push names all of them
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// Size of an event's data (at least 128)
    #[arg(long, default_value_t = 2048)]
    bytes: usize,
    /// Pushes of each part
    #[arg(long, default_value_t = 10)]
    pushes: u64,
    /// Rounds; each has a part with the gateway and one with the limit
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Fail when the median of the time, over the limit's, is above this
    #[arg(long, default_value_t = 1.15)]
    ratio_max: f64,
    /// Fail when the median of the server's CPU time, over the limit's, is above this
    #[arg(long, value_name = "RATIO")]
    cpu_ratio_max: Option<f64>,
}

/// A part of a round: medians over the pushes.
#[derive(Serialize)]
pub(super) struct Part {
    /// From the first byte of the request until the last device has the event.
    pub(super) last_ms: f64,
    /// CPU time of a push, all threads of all servers.
    pub(super) cpu_ms: f64,
    /// Missing deliveries, and deliveries received again.
    pub(super) missing: u64,
    pub(super) twice: u64,
}

/// The pushes of a part.
#[derive(Clone, Copy)]
pub(super) struct Pushes {
    pub(super) devices: usize,
    pub(super) pushes: u64,
}

/// The result of `loadtest events push`.
#[derive(Serialize)]
struct Outcome {
    devices: usize,
    /// Bytes of a message to a device.
    message_bytes: usize,
    gateway: Vec<Part>,
    limit: Vec<Part>,
    /// Gateway over limit, of the parts of the same round.
    time_ratio: Option<Spread>,
    cpu_ratio: Option<Spread>,
}

/// Runs the scenario; fails when a device does not get each push once, or a bound is exceeded.
pub(super) fn run(a: &PushArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.devices == 0 || a.pushes == 0 {
        return Err(Fault::Usage(
            "--devices and --pushes must be at least 1".into(),
        ));
    }
    // Never called; the server requires a service.
    let service = Service::start(Some(ANSWER_AFTER_US))?;
    let server = server(&a.common, &service, &service)?;
    let (limit, lines) = launch::limit_on_lines()?;
    pin(&a.common, &limit)?;
    let mut lines = Lines {
        to: lines,
        payload: Payload::new(a.bytes),
    };
    let pushes = Pushes {
        devices: a.devices,
        pushes: a.pushes,
    };
    let rounds = Rounds::measure(a.rounds, |round, through| {
        let program = if through { &server } else { &limit };
        let mut fleet = devices(program, "device", Kind::Reader, a.devices, stop)?;
        let part = if through {
            let ids = (0..a.devices).map(|n| format!("device-{n}"));
            let mut pusher = Pusher::connect(server.addr, ids, a.bytes)?;
            part(pushes, &[program], &mut fleet, &mut pusher)?
        } else {
            part(pushes, &[program], &mut fleet, &mut lines)?
        };
        fleet.close();
        eprintln!(
            "round {round}, {}: last {:.1} ms, CPU {:.1} ms",
            if through { "gateway" } else { "limit" },
            part.last_ms,
            part.cpu_ms
        );
        // Keeps the server's work for closing connections out of the next part's figures.
        std::thread::sleep(Duration::from_micros(SETTLE_US));
        Ok(part)
    })?;
    let outcome = Outcome {
        devices: a.devices,
        message_bytes: message(lines.payload.stamped(0, 0)).len(),
        time_ratio: rounds.ratio(|part| part.last_ms),
        cpu_ratio: rounds.ratio(|part| part.cpu_ms),
        gateway: rounds.seen,
        limit: rounds.base,
    };
    println!("{}", outcome.text());
    report::write_json(a.common.json.as_deref(), &outcome)?;
    outcome.verdict(a)
}

/// A source of pushes.
pub(super) trait Source {
    /// Causes message `n` to be sent to all devices.
    fn send(&mut self, stamp_us: u64, n: u64) -> Result<(), Fault>;
    /// Returns the number of deliveries according to the server, if the server reports any.
    fn sent(&mut self) -> Result<Option<u64>, Fault>;
}

impl Source for Pusher {
    fn send(&mut self, stamp_us: u64, n: u64) -> Result<(), Fault> {
        self.push(stamp_us, n)
    }

    fn sent(&mut self) -> Result<Option<u64>, Fault> {
        Self::sent(self).map(Some)
    }
}

/// The limit's input: exactly the gateway's message to devices.
struct Lines {
    to: ChildStdin,
    payload: Payload,
}

impl Source for Lines {
    fn send(&mut self, stamp_us: u64, n: u64) -> Result<(), Fault> {
        let mut line = message(self.payload.stamped(stamp_us, n));
        line.push(b'\n');
        self.to.write_all(&line).tried("the limit's input")
    }

    fn sent(&mut self) -> Result<Option<u64>, Fault> {
        Ok(None)
    }
}

/// Pushes the messages in turn; each waits until the previous message has arrived everywhere.
pub(super) fn part(
    a: Pushes,
    programs: &[&Program],
    fleet: &mut Fleet,
    source: &mut impl Source,
) -> Result<Part, Fault> {
    let processes: Result<Vec<_>, _> = programs.iter().map(|p| p.process()).collect();
    let processes = processes?;
    let used_us = || {
        processes
            .iter()
            .map(Process::cpu_us)
            .sum::<Result<u64, Fault>>()
    };
    let all = a.devices as u64;
    let (mut lasts_ms, mut cpus_ms) = (Vec::new(), Vec::new());
    let (mut missing, mut twice) = (0, 0);
    // The first push warms up.
    for n in 1..=a.pushes + 1 {
        fleet.count_from(n);
        let cpu_us = used_us()?;
        let begun_us = clock::now_us();
        source.send(begun_us, n)?;
        fleet.run(LATE_US, |f| f.readers.deliveries >= all)?;
        let took_us = clock::now_us() - begun_us;
        if let Some(sent) = source.sent()?.filter(|sent| *sent != all) {
            return Err(Fault::Failed(format!("the server says it sent {sent}")));
        }
        // Time for second deliveries to arrive, and for the server's remaining work.
        fleet.run(SETTLE_US, |_| false)?;
        missing += all.saturating_sub(fleet.readers.deliveries);
        twice += fleet.readers.not_rising;
        if n > 1 {
            lasts_ms.push(took_us as f64 / 1e3);
            cpus_ms.push((used_us()? - cpu_us) as f64 / 1e3);
        }
    }
    Ok(Part {
        last_ms: median(&lasts_ms),
        cpu_ms: median(&cpus_ms),
        missing,
        twice,
    })
}

/// A row for each of two ways, and a row for the first divided by the second.
pub(super) fn two_ways(ways: [(&str, &[Part]); 2], ratios: [Option<Spread>; 2]) -> String {
    let mut rows = vec![row(&[&"", &"until the last device has it, ms", &"CPU ms"])];
    for (name, parts) in ways {
        let of =
            |of: fn(&Part) -> f64| spread_text(spread(&parts.iter().map(of).collect::<Vec<_>>()));
        rows.push(row(&[&name, &of(|p| p.last_ms), &of(|p| p.cpu_ms)]));
    }
    let name = format!("{} over {}", ways[0].0, ways[1].0);
    let [time, cpu] = ratios.map(spread_text);
    rows.push(row(&[&name, &time, &cpu]));
    table(&rows)
}

/// Faults, if devices missed a push or got a push twice.
pub(super) fn losses<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<String> {
    let of_all = |(missing, twice), part: &Part| (missing + part.missing, twice + part.twice);
    match parts.fold((0, 0), of_all) {
        (0, 0) => Vec::new(),
        (missing, twice) => vec![format!(
            "{missing} deliveries are missing, {twice} came twice"
        )],
    }
}

impl Outcome {
    fn text(&self) -> String {
        let ways = [("gateway", &*self.gateway), ("limit", &*self.limit)];
        format!(
            "{}{} devices, {} bytes each\n",
            two_ways(ways, [self.time_ratio, self.cpu_ratio]),
            self.devices,
            self.message_bytes
        )
    }

    fn verdict(&self, a: &PushArgs) -> Result<(), Fault> {
        let mut wrong = losses(self.gateway.iter().chain(&self.limit));
        judge(&mut wrong, "time ratio", self.time_ratio, a.ratio_max);
        if let Some(most) = a.cpu_ratio_max {
            judge(&mut wrong, "CPU ratio", self.cpu_ratio, most);
        }
        verdict(&wrong)
    }
}
