//! The summary of all rounds of a contestant.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::contestants::{Contestant, Role};
use super::round::{Part, Round};
use crate::fleet::{LATE_SHARE_MAX, Percentiles, histogram};
use crate::stats::{Spread, median, spread};
use crate::syscalls::Syscalls;

/// All rounds of a contestant, for a number of clients and a payload size.
#[derive(Clone, Serialize)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) role: Role,
    /// CPU per message, whatever the number of clients, microseconds.
    pub(super) cpu_us_per_message: Option<Spread>,
    /// CPU per delivery, microseconds.
    pub(super) cpu_us_per_delivery: Option<Spread>,
    /// CPU per delivery of the whole machine: clients, the bus and the kernel's threads too; only of
    /// undisturbed rounds.
    pub(super) machine_us_per_delivery: Option<Spread>,
    /// CPU per delivery of the kernel's threads for network work.
    pub(super) ksoftirqd_us_per_delivery: Option<Spread>,
    /// CPU per delivery of clients and publisher.
    pub(super) loadtest_us_per_delivery: Option<Spread>,
    /// CPU per delivery of the bus.
    pub(super) nats_us_per_delivery: Option<Spread>,
    /// CPU of the server for each connection and its handshake.
    pub(super) cpu_us_per_handshake: Option<Spread>,
    /// Ratios to a limit or to the first server, of figures from the same round.
    pub(super) against: Vec<Against>,
    /// p50 of a round, milliseconds, without refused rounds; `None` if most rounds are refused.
    pub(super) p50_ms: Option<Spread>,
    /// p99 of a round, milliseconds, without refused rounds.
    pub(super) p99_ms: Option<Spread>,
    /// p99.9 of a round, milliseconds, without refused rounds.
    pub(super) p999_ms: Option<Spread>,
    /// From a message's first arrival to its last, milliseconds.
    pub(super) first_to_last_ms: Option<Spread>,
    /// Rounds whose p50, p99 or p99.9 is refused.
    pub(super) refused: Refused,
    /// Attempts discarded because loadtest was late, over all rounds.
    pub(super) repeats: usize,
    /// Rounds disturbed by the host or by other programs.
    pub(super) disturbed: usize,
    /// Percentiles over all rounds together; a single disturbed round shows in the tail.
    pub(super) latency: Percentiles,
    /// The whole distribution over all rounds together.
    curve: Vec<Point>,
    /// Of each message of a part, the median over the rounds: p50, p99 and the last arrival,
    /// milliseconds.
    over_time_ms: Vec<[f64; 3]>,
    pub(super) deliveries_per_s: Option<Spread>,
    pub(super) bytes_per_delivery: Option<Spread>,
    /// Largest share of a CPU used by clients and publisher.
    pub(super) client_busy_max: f64,
    /// CPUs kept busy by programs outside the experiment.
    pub(super) others_busy_cpus: Option<Spread>,
    pub(super) messages: u64,
    pub(super) deliveries: u64,
    pub(super) lost: u64,
    pub(super) not_rising: u64,
    pub(super) closed: u64,
    /// System calls for each delivered message.
    pub(super) syscalls_per_delivery: Option<f64>,
    /// System calls, from a separate counting part.
    pub(super) syscalls: Option<Syscalls>,
    pub(super) rounds: Vec<Round>,
    #[serde(skip)]
    all: All,
}

/// Ratios to another contestant.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Against {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) cpu: Option<Spread>,
    pub(super) machine: Option<Spread>,
    pub(super) bytes: Option<Spread>,
    pub(super) p50: Option<Spread>,
    pub(super) p99: Option<Spread>,
    pub(super) first_to_last: Option<Spread>,
    pub(super) handshake: Option<Spread>,
    pub(super) deliveries_per_s: Option<Spread>,
}

/// Rounds without each percentile, because loadtest itself was late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Refused {
    pub(super) p50: usize,
    pub(super) p99: usize,
    pub(super) p999: usize,
}

/// A point of the distribution.
#[derive(Clone, Copy, Debug, Serialize)]
struct Point {
    /// Share of deliveries at least as fast.
    share: f64,
    ms: f64,
    /// False if a loop of loadtest was late by more than a tenth of `ms`.
    stands: bool,
}

/// All rounds together.
#[derive(Clone)]
struct All {
    latency: Histogram<u64>,
    late_publisher: Histogram<u64>,
    late_clients: Histogram<u64>,
}

impl Default for All {
    fn default() -> Self {
        Self {
            latency: histogram(),
            late_publisher: histogram(),
            late_clients: histogram(),
        }
    }
}

impl All {
    fn add(&mut self, part: &Part) {
        // Histograms of the same bounds take each other's values.
        let _ = self.latency.add(&part.latency);
        let _ = self.late_publisher.add(&part.late_publisher);
        let _ = self.late_clients.add(&part.late_clients);
    }

    fn percentiles(&self) -> Percentiles {
        Percentiles::judged(&self.latency, &[&self.late_publisher, &self.late_clients])
    }

    /// Points evenly spread over the plot's axis, where each nine takes the same room.
    fn curve(&self) -> Vec<Point> {
        const PER_DECADE: i32 = 20;
        const DECADES: i32 = 4;
        let point = |step: i32| {
            let share = 1.0 - 10f64.powf(-f64::from(step) / f64::from(PER_DECADE));
            let ms = |h: &Histogram<u64>| h.value_at_quantile(share) as f64 / 1e3;
            let (value, late) = (
                ms(&self.latency),
                ms(&self.late_publisher).max(ms(&self.late_clients)),
            );
            Point {
                share,
                ms: value,
                stands: late <= value * LATE_SHARE_MAX,
            }
        };
        // A percentile needs at least ten values above it.
        let enough = |p: &Point| (1.0 - p.share) * self.latency.len() as f64 >= 10.0;
        (0..=PER_DECADE * DECADES)
            .map(point)
            .take_while(enough)
            .collect()
    }
}

impl Measured {
    /// A summary without rounds.
    pub(super) fn new(contestant: &Contestant) -> Self {
        Self::named(&contestant.name, contestant.role)
    }

    /// A summary without rounds, with this name.
    pub(super) fn named(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            cpu_us_per_message: None,
            cpu_us_per_delivery: None,
            machine_us_per_delivery: None,
            ksoftirqd_us_per_delivery: None,
            loadtest_us_per_delivery: None,
            nats_us_per_delivery: None,
            cpu_us_per_handshake: None,
            against: Vec::new(),
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            first_to_last_ms: None,
            refused: Refused::default(),
            repeats: 0,
            disturbed: 0,
            latency: Percentiles::default(),
            curve: Vec::new(),
            over_time_ms: Vec::new(),
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
            all: All::default(),
        }
    }

    /// Adds a round.
    pub(super) fn add(&mut self, part: Part) {
        self.all.add(&part);
        let round = part.round;
        self.deliveries += round.deliveries;
        self.lost += round.lost;
        self.not_rising += round.not_rising;
        self.closed += round.closed;
        self.repeats += round.repeats;
        self.disturbed += usize::from(round.disturbed);
        self.client_busy_max = self.client_busy_max.max(round.client_busy);
        self.rounds.push(round);
    }

    /// Takes only the system calls of a counting part.
    pub(super) fn syscalls_counted(&mut self, part: Part) {
        self.syscalls_per_delivery = part.round.syscalls_per_delivery();
        self.syscalls = part.round.syscalls;
    }

    /// The spread of a figure over the rounds with a value; `None` if fewer than half have a value.
    fn over_rounds(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
        of_half(
            &self.rounds.iter().filter_map(of).collect::<Vec<_>>(),
            self.rounds.len(),
        )
    }

    /// Computes the figures over all rounds.
    pub(super) fn summarise(&mut self, messages: u64) {
        let per_delivery = |us: u64, round: &Round| Some(us as f64 / round.deliveries as f64);
        self.cpu_us_per_message = self.over_rounds(|r| Some(r.cpu_us_per_message));
        self.cpu_us_per_delivery = self.over_rounds(|r| Some(r.cpu_us_per_delivery));
        self.machine_us_per_delivery = self.over_rounds(machine);
        self.ksoftirqd_us_per_delivery = self.over_rounds(|r| r.ksoftirqd_us_per_delivery);
        self.loadtest_us_per_delivery = self.over_rounds(|r| per_delivery(r.loadtest_us, r));
        self.nats_us_per_delivery = self.over_rounds(|r| per_delivery(r.nats_us, r));
        self.cpu_us_per_handshake = self.over_rounds(|r| Some(r.cpu_us_per_handshake));
        self.p50_ms = self.over_rounds(|r| r.latency.p50_ms);
        self.p99_ms = self.over_rounds(|r| r.latency.p99_ms);
        self.p999_ms = self.over_rounds(|r| r.latency.p999_ms);
        self.first_to_last_ms = self.over_rounds(|r| Some(r.first_to_last_ms));
        self.deliveries_per_s = self.over_rounds(|r| Some(r.deliveries_per_s));
        self.bytes_per_delivery = self.over_rounds(|r| Some(r.bytes_per_delivery));
        self.others_busy_cpus = self.over_rounds(|r| Some(r.others_busy_cpus));
        let refused = |of: fn(&Round) -> Option<f64>| {
            let none = |r: &&Round| of(r).is_none();
            self.rounds.iter().filter(none).count()
        };
        self.refused = Refused {
            p50: refused(|r| r.latency.p50_ms),
            p99: refused(|r| r.latency.p99_ms),
            p999: refused(|r| r.latency.p999_ms),
        };
        self.messages = messages * self.rounds.len() as u64;
        self.latency = self.all.percentiles();
        self.curve = self.all.curve();
        self.over_time_ms = self.over_time();
    }

    /// The ratios to another contestant, round by round.
    pub(super) fn against(&self, other: &Self) -> Against {
        let ratio = |of: fn(&Round) -> Option<f64>| {
            let pairs = self.rounds.iter().zip(&other.rounds);
            let ratios = pairs.filter_map(|(a, b)| Some(of(a)? / of(b)?));
            of_half(&ratios.collect::<Vec<_>>(), self.rounds.len())
        };
        Against {
            name: other.name.clone(),
            role: other.role,
            cpu: ratio(|r| Some(r.cpu_us_per_delivery)),
            machine: ratio(machine),
            bytes: ratio(|r| Some(r.bytes_per_delivery)),
            p50: ratio(|r| r.latency.p50_ms),
            p99: ratio(|r| r.latency.p99_ms),
            first_to_last: ratio(|r| Some(r.first_to_last_ms)),
            handshake: ratio(|r| Some(r.cpu_us_per_handshake)),
            deliveries_per_s: ratio(|r| Some(r.deliveries_per_s)),
        }
    }

    /// The ratios to the contestant of this name, if there are any.
    pub(super) fn ratios_to(&self, name: &str) -> Option<&Against> {
        self.against.iter().find(|against| against.name == name)
    }

    fn over_time(&self) -> Vec<[f64; 3]> {
        let messages = self.rounds.iter().map(|r| r.messages_us.len()).max();
        let at = |index: usize, which: usize| {
            let of_round = |r: &Round| r.messages_us.get(index).map(|m| f64::from(m[which]) / 1e3);
            median(&self.rounds.iter().filter_map(of_round).collect::<Vec<_>>())
        };
        let indexes = 0..messages.unwrap_or(0);
        indexes
            .map(|index| [1, 2, 3].map(|which| at(index, which)))
            .collect()
    }
}

/// The spread of `values`; `None` if fewer than half of the rounds have a value: the result would
/// select the quiet rounds.
fn of_half(values: &[f64], rounds: usize) -> Option<Spread> {
    spread(values).filter(|s| s.n * 2 >= rounds)
}

/// The machine's CPU per delivery; `None` in a disturbed round.
fn machine(round: &Round) -> Option<f64> {
    (!round.disturbed).then_some(round.machine_us_per_delivery)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_of_less_than_half_of_the_rounds_is_none() {
        assert_eq!(of_half(&[1.0, 3.0], 4).unwrap().median, 2.0);
        assert_eq!(of_half(&[1.0, 3.0], 5), None);
        assert_eq!(of_half(&[], 0), None);
    }

    #[test]
    fn the_curve_ends_where_ten_values_are_left_and_says_what_is_refused() {
        let mut all = All::default();
        for ms in 1..=1_000 {
            all.latency.saturating_record(ms * 1_000);
        }
        all.late_clients.saturating_record_n(100, 900);
        all.late_clients.saturating_record_n(99_000, 100);
        let curve = all.curve();
        let last = curve.last().unwrap();
        assert!((last.share - 0.99).abs() < 1e-9, "{last:?}");
        assert!((last.ms - 990.0).abs() < 2.0, "{last:?}");
        // The first hundredths of the axis are the fastest message, of 1 ms.
        assert!(curve[0].share == 0.0 && curve[0].stands);
        // 99 ms of 950 ms are more than a tenth, of 995 ms not.
        let stands = |share: f64| curve.iter().find(|p| p.share >= share).unwrap().stands;
        assert!(stands(0.5) && !stands(0.92));
    }
}
