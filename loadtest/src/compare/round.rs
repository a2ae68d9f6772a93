//! One part of a round: one server has the clients and gets its messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::CompareArgs;
use crate::clock;
use crate::drive::drive;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Latency, Tally, Target};
use crate::launch::{self, Program};
use crate::process::{Process, machine_busy_us};
use crate::publish::{Pace, Publisher};
use crate::syscalls::{Counting, Syscalls};

/// Longest wait for messages after the last was published, microseconds.
const LATE_US: u64 = 5_000_000;

/// What every part of every round has in common.
pub(super) struct Load<'a> {
    pub(super) nats: &'a Program,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) args: &'a CompareArgs,
}

/// The figures of one part.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    /// Server CPU time over the part, microseconds, all threads.
    pub(super) cpu_us: u64,
    /// The same for each delivered message.
    pub(super) cpu_us_per_delivery: f64,
    /// Messages that arrived, over all clients.
    pub(super) deliveries: u64,
    /// Messages that should have arrived and did not.
    pub(super) lost: u64,
    /// Messages twice or out of order.
    pub(super) not_rising: u64,
    /// Clients that the server closed.
    pub(super) closed: u64,
    /// From the first message to the last arrival.
    pub(super) deliveries_per_s: f64,
    /// Payload bytes of a message on the wire.
    pub(super) bytes_per_delivery: f64,
    /// Share of the part in which this process (clients and publisher) used a CPU: near 1, the
    /// clients and not the server are what is measured.
    pub(super) client_busy: f64,
    /// CPUs that programs outside the experiment kept busy (and the hypervisor took): what disturbs.
    pub(super) others_busy_cpus: f64,
    /// Publisher's stamp to the end of the client's read.
    pub(super) latency: Latency,
    /// System calls of the server, when they were counted.
    pub(super) syscalls: Option<Syscalls>,
    #[serde(skip)]
    pub(super) histogram: Histogram<u64>,
}

impl Round {
    /// The figures of a part that took `took_us`; `None` when nothing arrived.
    fn of(
        a: &CompareArgs,
        tally: &Tally,
        cpu_us: u64,
        used: &Used,
        took_us: u64,
        syscalls: Option<Syscalls>,
    ) -> Option<Self> {
        if tally.deliveries == 0 {
            return None;
        }
        let per_delivery = |v: u64| v as f64 / tally.deliveries as f64;
        let per_us = |v: u64| v as f64 / took_us as f64;
        let ours = used.server_us + used.nats_us + used.own_us;
        Some(Self {
            cpu_us,
            cpu_us_per_delivery: per_delivery(cpu_us),
            deliveries: tally.deliveries,
            lost: (a.clients as u64 * a.messages).saturating_sub(tally.deliveries),
            not_rising: tally.not_rising,
            closed: tally.ends.values().sum(),
            deliveries_per_s: per_us(tally.deliveries) * 1e6,
            bytes_per_delivery: per_delivery(tally.payload_bytes),
            client_busy: per_us(used.own_us),
            others_busy_cpus: per_us(used.machine_us.saturating_sub(ours)),
            latency: tally.latency(),
            syscalls,
            histogram: tally.latency.clone(),
        })
    }

    /// One line of progress.
    pub(super) fn line(&self) -> String {
        format!(
            "{:.2} us/delivery, p50 {:.2} ms, p99 {:.2} ms, lost {}",
            self.cpu_us_per_delivery, self.latency.p50_ms, self.latency.p99_ms, self.lost
        )
    }

    /// System calls for each delivered message, when they were counted.
    pub(super) fn syscalls_per_delivery(&self) -> Option<f64> {
        let counted = self.syscalls.as_ref()?;
        Some(counted.total as f64 / self.deliveries as f64)
    }
}

/// The processes of an experiment.
struct Usage {
    server: Process,
    nats: Process,
    own: Process,
}

/// CPU time so far, microseconds.
struct Used {
    server_us: u64,
    nats_us: u64,
    own_us: u64,
    machine_us: u64,
}

impl Usage {
    fn now(&self) -> Result<Used, Fault> {
        Ok(Used {
            server_us: self.server.cpu_us()?,
            nats_us: self.nats.cpu_us()?,
            own_us: self.own.cpu_us()?,
            machine_us: machine_busy_us()?,
        })
    }
}

impl Used {
    /// What was used since `before`; the time of a thread that has ended meanwhile is missing.
    fn since(&self, before: &Self) -> Self {
        Self {
            server_us: self.server_us.saturating_sub(before.server_us),
            nats_us: self.nats_us.saturating_sub(before.nats_us),
            own_us: self.own_us.saturating_sub(before.own_us),
            machine_us: self.machine_us.saturating_sub(before.machine_us),
        }
    }
}

impl Load<'_> {
    /// The publisher of all rounds: its sequence goes on from part to part.
    pub(super) fn publisher(&self) -> Result<Publisher, Fault> {
        Publisher::connect(
            &launch::nats_url(self.nats),
            &self.args.subject,
            self.args.bytes,
        )
    }

    /// Connects the clients to `program`, publishes, and takes the figures.
    pub(super) fn round(
        &self,
        program: &Program,
        publisher: &mut Publisher,
        next_n: &mut u64,
        count_syscalls: bool,
    ) -> Result<Round, Fault> {
        let a = self.args;
        let settle_us = clock::seconds_us(a.settle);
        let usage = Usage {
            server: program.process()?,
            nats: self.nats.process()?,
            own: Process::new(std::process::id())?,
        };
        let mut fleet = Fleet::new(self.target(program), Arc::clone(&self.stop))?;
        fleet.open(Kind::Reader, a.clients)?;
        fleet.run(settle_us, |_| false)?;
        self.publish(&mut fleet, publisher, next_n, a.warm_up)?;
        fleet.run(settle_us, |_| false)?;
        let counting = count_syscalls
            .then(|| Counting::start(program.pid()))
            .transpose()?;
        let (before, start) = (usage.now()?, clock::now_us());
        self.publish(&mut fleet, publisher, next_n, a.messages)?;
        let (after, took_us) = (usage.now()?, (clock::now_us() - start).max(1));
        fleet.run(settle_us, |_| false)?;
        let cpu_us = usage.server.cpu_us()?.saturating_sub(before.server_us);
        let syscalls = counting.map(Counting::stop).transpose()?;
        let used = after.since(&before);
        let Some(round) = Round::of(a, &fleet.readers, cpu_us, &used, took_us, syscalls) else {
            return Err(Fault::Server(format!("{}: nothing arrived", program.name)));
        };
        fleet.close();
        // The server ends a thousand connections: not in the next part's figures.
        thread::sleep(std::time::Duration::from_micros(settle_us));
        Ok(round)
    }

    /// Publishes `count` messages, counted from zero, and reads until they are everywhere, or are late.
    fn publish(
        &self,
        fleet: &mut Fleet,
        publisher: &mut Publisher,
        next_n: &mut u64,
        count: u64,
    ) -> Result<(), Fault> {
        if count == 0 {
            return Ok(());
        }
        let first = *next_n;
        *next_n += count;
        fleet.count_from(first);
        let arrived = Arc::new(AtomicU64::new(first - 1));
        let pace = match self.args.in_flight {
            Some(window) => Pace::InFlight {
                window,
                arrived: Arc::clone(&arrived),
            },
            None => Pace::Rate(self.args.rate),
        };
        let clients = self.args.clients as u64;
        let mut late_at = u64::MAX;
        drive(
            fleet,
            publisher,
            first..first + count,
            &pace,
            &self.stop,
            |f, published| {
                let new = f.readers.deliveries;
                arrived.store(first - 1 + new / clients.max(1), Ordering::Release);
                let now = clock::now_us();
                if late_at == u64::MAX && published {
                    late_at = now + LATE_US;
                }
                new >= count * clients || now >= late_at
            },
        )
    }

    fn target(&self, program: &Program) -> Target {
        Target {
            addr: program.addr,
            path: self.args.path.clone(),
            deflate: self.args.deflate,
            send: None,
            throttle_kbit: 0,
        }
    }
}
