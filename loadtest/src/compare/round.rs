//! A part of a round: a single server has the clients and gets messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::contestants::Contestant;
use super::relayed::Relayed;
use super::result::Case;
use super::watch::{Used, Watch, own_cpu_us};
use super::{CompareArgs, order};
use crate::clock;
use crate::drive::drive;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Latency, Percentiles, Samples, Tally, Target};
use crate::machine::{Machine, MachineTime};
use crate::process::Ahead;
use crate::progress::Progress;
use crate::publish::Pace;
use crate::stats::median;
use crate::syscalls::{Counting, Syscalls};

/// Longest wait for messages after the end of publishing, microseconds.
const LATE_US: u64 = 5_000_000;
/// A part counts as disturbed when programs outside the experiment kept more CPUs than this busy.
const OTHERS_BUSY_CPUS_MAX: f64 = 0.05;
/// The percentiles of the table: p50 and p99.
const PERCENTILES: usize = 2;
/// Longest wait for the responses to the subscriptions of all clients, microseconds.
const ANSWERS_US: u64 = 10_000_000;
/// The arrivals of so many messages of a part are kept separately.
const SAMPLED_MESSAGES_MAX: u64 = 2_000;

/// The common input of all parts of all rounds.
pub(super) struct Load<'a> {
    pub(super) stop: Arc<AtomicBool>,
    pub(super) args: &'a CompareArgs,
    pub(super) relayed: Relayed,
    pub(super) machine: Machine,
    pub(super) progress: Progress,
    /// Start of the first round.
    pub(super) start_us: u64,
}

/// The figures of a part.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    /// Place in its round, from 0.
    position: usize,
    /// Earlier attempts, discarded because loadtest was late.
    pub(super) repeats: usize,
    /// Start of publishing, seconds since the first round.
    at_s: f64,
    /// Server CPU time over the part, microseconds, all threads of all its processes.
    cpu_us: u64,
    /// Server CPU time for each message, whatever the number of clients.
    pub(super) cpu_us_per_message: f64,
    /// Server CPU time for each delivered message.
    pub(super) cpu_us_per_delivery: f64,
    /// Busy time of all CPUs for each delivered message: clients, the bus and the kernel's threads too.
    pub(super) machine_us_per_delivery: f64,
    /// The kernel's threads for network work, for each delivered message.
    pub(super) ksoftirqd_us_per_delivery: Option<f64>,
    /// CPU time of the clients and the publisher, microseconds.
    pub(super) loadtest_us: u64,
    /// CPU time of the bus, microseconds.
    pub(super) nats_us: u64,
    /// CPU time of the server for each connection and its handshake, before the part, microseconds.
    pub(super) cpu_us_per_handshake: f64,
    /// The machine over the part.
    machine: MachineTime,
    /// Duration of the part, microseconds; the CPU times cover the same span.
    took_us: u64,
    /// Messages received by all clients.
    pub(super) deliveries: u64,
    /// Expected deliveries that did not arrive.
    pub(super) lost: u64,
    /// Messages twice or out of order.
    pub(super) not_rising: u64,
    /// Clients closed by the server.
    pub(super) closed: u64,
    /// From the first message to the last arrival.
    pub(super) deliveries_per_s: f64,
    /// Payload bytes of a message on the wire.
    pub(super) bytes_per_delivery: f64,
    /// Share of a CPU used by this process (clients and publisher). Near 1, the part measures the
    /// clients rather than the server.
    pub(super) client_busy: f64,
    /// CPUs kept busy by programs outside the experiment, or taken by the hypervisor.
    pub(super) others_busy_cpus: f64,
    /// The host or other programs kept more than a twentieth of a CPU busy.
    pub(super) disturbed: bool,
    /// Intended send time to the end of the client's read.
    pub(super) latency: Percentiles,
    /// Delays of the publisher.
    late_publisher: Latency,
    /// Waits of the clients' loop for a CPU.
    late_clients: Latency,
    /// System calls of the server, in a counting part.
    pub(super) syscalls: Option<Syscalls>,
    /// All latencies: pairs of microseconds (to three digits) and count.
    histogram_us: Vec<(u64, u64)>,
    /// From a message's first arrival to its last, median of the messages, milliseconds.
    pub(super) first_to_last_ms: f64,
    /// Of each of the first 2,000 messages in turn, over the clients: the first arrival, p50, p99 and the last,
    /// microseconds.
    pub(super) messages_us: Vec<[u32; 4]>,
}

/// A part, with the histograms to merge over all rounds.
pub(super) struct Part {
    /// Index of the contestant.
    pub(super) which: usize,
    name: String,
    pub(super) case_index: usize,
    case: Case,
    pub(super) round: Round,
    pub(super) latency: Histogram<u64>,
    pub(super) late_publisher: Histogram<u64>,
    pub(super) late_clients: Histogram<u64>,
}

impl Part {
    /// One line of progress.
    fn line(&self, round: usize, rounds: usize) -> String {
        let ms = |v: Option<f64>| v.map_or_else(|| "refused".into(), |v| format!("{v:.2} ms"));
        let disturbed = if self.round.disturbed {
            format!(", disturbed ({:.2} CPUs)", self.round.others_busy_cpus)
        } else {
            String::new()
        };
        format!(
            "round {round}/{rounds}, {}, {}: {:.2} us/delivery, p50 {}, p99 {}, lost {}{disturbed}",
            self.case,
            self.name,
            self.round.cpu_us_per_delivery,
            ms(self.round.latency.p50_ms),
            ms(self.round.latency.p99_ms),
            self.round.lost
        )
    }
}

/// The times of a part, microseconds.
struct Times {
    /// First message, since the first round.
    at_us: u64,
    /// From the first message to the last arrival.
    delivering_us: u64,
    /// Own CPU time until the last arrival.
    own_us: u64,
    /// From the first message to the end of the settling time.
    took_us: u64,
    /// CPU time of the server for each handshake.
    handshake_us: f64,
}

impl Round {
    /// The figures of a part; `None` if nothing arrived.
    fn of(
        (clients, messages): (usize, u64),
        fleet: &Fleet,
        late: &Histogram<u64>,
        used: Used,
        t: &Times,
    ) -> Option<Self> {
        let tally: &Tally = &fleet.readers;
        if tally.deliveries == 0 {
            return None;
        }
        let per_delivery = |v: u64| v as f64 / tally.deliveries as f64;
        let messages_us = tally.samples.as_ref().map(by_message).unwrap_or_default();
        let others_busy_cpus = used.others_us() as f64 / t.took_us as f64;
        Some(Self {
            position: 0,
            repeats: 0,
            at_s: t.at_us as f64 / 1e6,
            cpu_us: used.server_us,
            cpu_us_per_message: per_delivery(used.server_us) * clients as f64,
            cpu_us_per_delivery: per_delivery(used.server_us),
            machine_us_per_delivery: per_delivery(used.machine.busy_us()),
            ksoftirqd_us_per_delivery: used.machine.ksoftirqd_us.map(per_delivery),
            loadtest_us: used.own_us,
            nats_us: used.bus_us,
            cpu_us_per_handshake: t.handshake_us,
            machine: used.machine,
            took_us: t.took_us,
            deliveries: tally.deliveries,
            lost: (clients as u64 * messages).saturating_sub(tally.deliveries),
            not_rising: tally.not_rising,
            closed: tally.ends.values().sum(),
            deliveries_per_s: tally.deliveries as f64 / t.delivering_us as f64 * 1e6,
            bytes_per_delivery: per_delivery(tally.payload_bytes),
            client_busy: t.own_us as f64 / t.delivering_us as f64,
            others_busy_cpus,
            disturbed: others_busy_cpus > OTHERS_BUSY_CPUS_MAX,
            latency: Percentiles::judged(&tally.latency, &[late, &fleet.late]),
            late_publisher: Latency::of(late),
            late_clients: Latency::of(&fleet.late),
            syscalls: None,
            histogram_us: tally
                .latency
                .iter_recorded()
                .map(|bar| (bar.value_iterated_to(), bar.count_at_value()))
                .collect(),
            first_to_last_ms: first_to_last_ms(&messages_us),
            messages_us,
        })
    }

    /// How many of p50 and p99 are not refused.
    fn percentiles(&self) -> usize {
        let both = [self.latency.p50_ms, self.latency.p99_ms];
        both.iter().flatten().count()
    }

    fn is_faultless(&self) -> bool {
        self.lost + self.not_rising + self.closed == 0
    }

    /// System calls for each delivered message, in a counting part.
    pub(super) fn syscalls_per_delivery(&self) -> Option<f64> {
        let counted = self.syscalls.as_ref()?;
        Some(counted.total as f64 / self.deliveries as f64)
    }
}

/// First, p50, p99 and last of each message; zeros for a message without deliveries.
fn by_message(samples: &Samples) -> Vec<[u32; 4]> {
    let of_message = |latencies: &Vec<u32>| {
        let mut sorted = latencies.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            let rank = (sorted.len() as f64 * share).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
        };
        [0.0, 0.5, 0.99, 1.0].map(at)
    };
    samples.latencies_us.iter().map(of_message).collect()
}

fn first_to_last_ms(messages_us: &[[u32; 4]]) -> f64 {
    let of_message = |&[first, _, _, last]: &[u32; 4]| f64::from(last - first) / 1e3;
    median(&messages_us.iter().map(of_message).collect::<Vec<_>>())
}

fn nothing_arrived(contestant: &Contestant) -> Fault {
    Fault::Server(format!("{}: no message arrived", contestant.name))
}

impl Load<'_> {
    /// Measures all parts of a round (counted from 0). An error names the failed contestant.
    pub(super) fn round(
        &self,
        all: &mut [Contestant],
        cases: &[Case],
        round: usize,
    ) -> Result<Vec<Part>, (usize, Fault)> {
        let mut parts = Vec::new();
        for case in cases.iter().copied().enumerate() {
            for (position, which) in order(round, all.len()).enumerate() {
                let mut part = self
                    .punctual_part(all, which, case)
                    .map_err(|fault| (which, fault))?;
                part.round.position = position;
                self.progress.done(&part.line(round + 1, self.args.rounds));
                parts.push(part);
            }
        }
        Ok(parts)
    }

    /// The most punctual of all permitted attempts. A percentile is refused if loadtest was late by a share of the percentile, so
    /// no attempt is discarded because the server was slow. An attempt with a loss is kept.
    fn punctual_part(
        &self,
        all: &mut [Contestant],
        which: usize,
        case: (usize, Case),
    ) -> Result<Part, Fault> {
        let mut best = self.part(all, which, case, false)?;
        for repeats in 1..=self.args.repeat_late {
            if best.round.percentiles() == PERCENTILES || !best.round.is_faultless() {
                break;
            }
            let next = self.part(all, which, case, false)?;
            if next.round.percentiles() >= best.round.percentiles() || !next.round.is_faultless() {
                best = next;
            }
            best.round.repeats = repeats;
        }
        Ok(best)
    }

    /// Starts the contestant if necessary, and measures a part.
    pub(super) fn part(
        &self,
        all: &mut [Contestant],
        which: usize,
        case: (usize, Case),
        count_syscalls: bool,
    ) -> Result<Part, Fault> {
        let name = &all[which].name;
        self.progress.part(&case.1.to_string(), name);
        let running = all[which].running(self.args, &self.relayed)?;
        running.publisher.resize(case.1.bytes);
        let watch = Watch::of(&self.machine, all, which)?;
        // Not before: the server would inherit the priority.
        let ahead = self.args.ahead.then(Ahead::of_this_thread).flatten();
        let part = self.measure(&mut all[which], watch, (which, case), count_syscalls)?;
        drop(ahead);
        if self.args.solo {
            all[which].running = None;
        } else {
            // Keeps the server's work for closing a thousand connections out of the next part's figures.
            thread::sleep(Duration::from_micros(clock::seconds_us(self.args.settle)));
        }
        Ok(part)
    }

    /// Connects the clients to a contestant, publishes, and takes the figures.
    fn measure(
        &self,
        contestant: &mut Contestant,
        watch: Watch<'_>,
        (which, (case_index, case)): (usize, (usize, Case)),
        count_syscalls: bool,
    ) -> Result<Part, Fault> {
        let a = self.args;
        let settle_us = clock::seconds_us(a.settle);
        let mut fleet = Fleet::new(self.target(contestant)?, Arc::clone(&self.stop))?;
        let handshake_us = self.connect(&mut fleet, case.clients, &watch)?;
        fleet.run(settle_us, |_| false)?;
        self.publish(&mut fleet, contestant, case, a.warm_up)?;
        if a.warm_up > 0 && fleet.readers.deliveries == 0 {
            return Err(nothing_arrived(contestant));
        }
        fleet.run(settle_us, |_| false)?;
        let counting = count_syscalls
            .then(|| Counting::start(&watch.server.pids()))
            .transpose()?;
        contestant.publisher()?.take_late();
        let (before, start) = (watch.now()?, clock::now_us());
        self.publish(&mut fleet, contestant, case, a.messages)?;
        let own_us = own_cpu_us() - before.own_us;
        let delivering_us = (clock::now_us() - start).max(1);
        fleet.run(settle_us, |_| false)?;
        let used = watch.now()?.since(&before);
        let times = Times {
            at_us: start - self.start_us,
            delivering_us,
            own_us,
            took_us: (clock::now_us() - start).max(1),
            handshake_us,
        };
        let syscalls = counting.map(Counting::stop).transpose()?;
        let late = contestant.publisher()?.take_late();
        let load = (case.clients, a.messages);
        let Some(mut round) = Round::of(load, &fleet, &late, used, &times) else {
            return Err(nothing_arrived(contestant));
        };
        round.syscalls = syscalls;
        let part = Part {
            which,
            name: contestant.name.clone(),
            case_index,
            case,
            round,
            latency: fleet.readers.latency.clone(),
            late_publisher: late,
            late_clients: fleet.late.clone(),
        };
        fleet.close();
        Ok(part)
    }

    /// Connects and subscribes the clients; returns the server's CPU time for each client, microseconds.
    fn connect(&self, fleet: &mut Fleet, clients: usize, watch: &Watch<'_>) -> Result<f64, Fault> {
        let before = watch.server.cpu_us()?;
        fleet.open(Kind::Reader, clients)?;
        let used_us = watch.server.cpu_us()?.saturating_sub(before);
        if let Some((_, answers)) = self.relayed.subscribe {
            let answers = answers * clients as u64;
            if !fleet.run(ANSWERS_US, |f| f.readers.unstamped >= answers)? {
                let missing = answers - fleet.readers.unstamped;
                return Err(Fault::Server(format!("{missing} answers are missing")));
            }
        }
        Ok(used_us as f64 / clients as f64)
    }

    /// Publishes `count` messages, counted from zero, and reads until all have arrived or are late.
    fn publish(
        &self,
        fleet: &mut Fleet,
        contestant: &mut Contestant,
        case: Case,
        count: u64,
    ) -> Result<(), Fault> {
        if count == 0 {
            return Ok(());
        }
        let first = contestant.next_n;
        contestant.next_n += count;
        fleet.count_from(first);
        fleet.readers.samples = Some(Samples::new(
            first,
            count.min(SAMPLED_MESSAGES_MAX),
            case.clients,
        ));
        let arrived = Arc::new(AtomicU64::new(first - 1));
        let pace = match self.args.in_flight {
            Some(window) => Pace::InFlight {
                window,
                arrived: Arc::clone(&arrived),
            },
            None => Pace::Rate(self.args.rate),
        };
        let clients = case.clients as u64;
        let mut late_at = u64::MAX;
        drive(
            fleet,
            contestant.publisher()?,
            first..first + count,
            &pace,
            &self.stop,
            |f, published| {
                let new = f.readers.deliveries;
                self.progress.delivered(new);
                arrived.store(first - 1 + new / clients.max(1), Ordering::Release);
                let now = clock::now_us();
                if late_at == u64::MAX && published {
                    late_at = now + LATE_US;
                }
                new >= count * clients || now >= late_at
            },
        )
    }

    fn target(&self, contestant: &mut Contestant) -> Result<Target, Fault> {
        let subscribe = self.relayed.subscribe.as_ref();
        Ok(Target {
            tls: contestant.tls.clone(),
            addr: contestant.addr()?,
            path: contestant
                .path
                .clone()
                .unwrap_or_else(|| self.relayed.path.clone()),
            deflate: contestant.deflate,
            send: contestant
                .first_text
                .clone()
                .or_else(|| subscribe.map(|(request, _)| request.clone())),
            throttle_kbit: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_first_middle_and_last_arrival() {
        let mut samples = Samples::new(1, 2, 4);
        samples.latencies_us[0] = vec![40, 10, 30, 20];
        let messages_us = by_message(&samples);
        assert_eq!(messages_us, [[10, 20, 40, 40], [0; 4]]);
        assert_eq!(first_to_last_ms(&messages_us[..1]), 0.03);
    }
}
