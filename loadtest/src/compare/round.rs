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
use crate::fleet::{Fleet, Kind, Latency, Target};
use crate::launch::Program;
use crate::process::Process;
use crate::publish::{Pace, Publisher};
use crate::syscalls::{Counting, Syscalls};

/// Longest wait for messages after the last was published, microseconds.
const LATE_US: u64 = 5_000_000;

/// What every part of every round has in common.
pub(super) struct Load<'a> {
    pub(super) nats: String,
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
    /// Publisher's stamp to the end of the client's read.
    pub(super) latency: Latency,
    /// System calls of the server, when they were counted.
    pub(super) syscalls: Option<Syscalls>,
    #[serde(skip)]
    pub(super) histogram: Histogram<u64>,
}

impl Round {
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

impl Load<'_> {
    /// The publisher of all rounds: its sequence goes on from part to part.
    pub(super) fn publisher(&self) -> Result<Publisher, Fault> {
        Publisher::connect(&self.nats, &self.args.subject, self.args.bytes)
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
        let (process, me) = (program.process()?, Process::new(std::process::id())?);
        let mut fleet = Fleet::new(self.target(program), Arc::clone(&self.stop))?;
        fleet.open(Kind::Reader, a.clients)?;
        fleet.run(settle_us, |_| false)?;
        self.publish(&mut fleet, publisher, next_n, a.warm_up)?;
        fleet.run(settle_us, |_| false)?;
        let counting = count_syscalls
            .then(|| Counting::start(program.pid()))
            .transpose()?;
        let (cpu_before, me_before, start) = (process.cpu_us()?, me.cpu_us()?, clock::now_us());
        self.publish(&mut fleet, publisher, next_n, a.messages)?;
        let took_us = (clock::now_us() - start).max(1);
        let busy = (me.cpu_us()? - me_before) as f64 / took_us as f64;
        fleet.run(settle_us, |_| false)?;
        let cpu_us = process.cpu_us()? - cpu_before;
        let syscalls = counting.map(Counting::stop).transpose()?;
        let tally = &fleet.readers;
        if tally.deliveries == 0 {
            return Err(Fault::Server(format!("{}: nothing arrived", program.name)));
        }
        let per_delivery = |v: u64| v as f64 / tally.deliveries as f64;
        let round = Round {
            cpu_us,
            cpu_us_per_delivery: per_delivery(cpu_us),
            deliveries: tally.deliveries,
            lost: (a.clients as u64 * a.messages).saturating_sub(tally.deliveries),
            not_rising: tally.not_rising,
            closed: tally.ends.values().sum(),
            deliveries_per_s: tally.deliveries as f64 * 1e6 / took_us as f64,
            bytes_per_delivery: per_delivery(tally.payload_bytes),
            client_busy: busy,
            latency: tally.latency(),
            syscalls,
            histogram: tally.latency.clone(),
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
