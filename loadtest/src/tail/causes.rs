//! Where a late message lost its time: the parts of its way, and what else happened meanwhile. Pure.

use serde::Serialize;

/// A cause of lost time, in the order in which time is charged: a message that the host held up was not held up by the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// The publisher of the load program sent the message after its time.
    Publisher,
    /// The bus gave the message to another subscriber late.
    Bus,
    /// Timers of this machine were late, or the hypervisor took its time.
    Host,
    /// The clients' loop waited for a CPU.
    Clients,
    /// The threads of the server waited for a CPU.
    Kernel,
    /// The rest: the loop of the server, and the clients that were written to before.
    Loop,
}

impl Cause {
    pub(crate) const ALL: [Self; 6] = [
        Self::Publisher,
        Self::Bus,
        Self::Host,
        Self::Clients,
        Self::Kernel,
        Self::Loop,
    ];

    /// The words of the table.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Publisher => "the publisher of loadtest",
            Self::Bus => "the bus",
            Self::Host => "the host: late timers, steal",
            Self::Clients => "the clients' loop waited for a CPU",
            Self::Kernel => "the server waited for a CPU",
            Self::Loop => "the server's loop and its writes",
        }
    }
}

/// Time that passed for a reason, and its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    pub(crate) end_us: u64,
    pub(crate) us: u64,
}

/// All delays of a reason, in the order of their ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delays(pub(crate) Vec<Delay>);

impl Delays {
    /// How much of these delays lies between two moments.
    fn within(&self, from_us: u64, to_us: u64) -> u64 {
        let first = self.0.partition_point(|delay| delay.end_us <= from_us);
        let overlap = |delay: &Delay| {
            let begin = delay.end_us.saturating_sub(delay.us).max(from_us);
            delay.end_us.min(to_us).saturating_sub(begin)
        };
        let begun = |delay: &&Delay| delay.end_us.saturating_sub(delay.us) < to_us;
        self.0[first..].iter().take_while(begun).map(overlap).sum()
    }
}

/// What happened on the machine meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) host: Delays,
    pub(crate) clients: Delays,
    pub(crate) kernel: Delays,
}

/// The way of a message, microseconds of the clock of stamps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) n: u64,
    pub(crate) due_us: u64,
    /// How late the publisher was.
    pub(crate) sent_late_us: u64,
    /// When the bus gave the message to another subscriber; `None`: it did not.
    pub(crate) at_bus_us: Option<u64>,
    /// From the due time to the last client.
    pub(crate) took_us: u64,
}

/// A late message, and where it lost its time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lost {
    pub(crate) n: u64,
    pub(crate) at_s: f64,
    pub(crate) took_us: u64,
    /// In the order of [`Cause::ALL`], together `took_us`.
    pub(crate) parts_us: [u64; 6],
    /// The part that is longest beyond what is usual.
    pub(crate) cause: Cause,
}

impl Way {
    /// The time that each cause took, in the order of [`Cause::ALL`].
    fn parts_us(&self, happened: &Happened) -> [u64; 6] {
        let end_us = self.due_us + self.took_us;
        let mut left = self.took_us;
        let mut take = |us: u64| {
            let taken = us.min(left);
            left -= taken;
            taken
        };
        let publisher = take(self.sent_late_us);
        let sent_us = self.due_us + publisher;
        let at_bus_us = self.at_bus_us.unwrap_or(sent_us).clamp(sent_us, end_us);
        // What the host took of the way on the bus was not lost by the bus.
        let host_before = happened.host.within(sent_us, at_bus_us);
        let bus = take((at_bus_us - sent_us).saturating_sub(host_before));
        let host = take(host_before + happened.host.within(at_bus_us, end_us));
        let clients = take(happened.clients.within(at_bus_us, end_us));
        let kernel = take(happened.kernel.within(at_bus_us, end_us));
        [publisher, bus, host, clients, kernel, left]
    }
}

/// The `count` slowest messages, the slowest first, each with the cause whose part is longest beyond its median over all
/// messages.
pub(crate) fn worst(ways: &[Way], happened: &Happened, count: usize) -> Vec<Lost> {
    let parts: Vec<[u64; 6]> = ways.iter().map(|way| way.parts_us(happened)).collect();
    let usual: Vec<u64> = (0..Cause::ALL.len())
        .map(|cause| {
            let mut of_cause: Vec<u64> = parts.iter().map(|parts| parts[cause]).collect();
            of_cause.sort_unstable();
            of_cause.get(of_cause.len() / 2).copied().unwrap_or(0)
        })
        .collect();
    let mut slowest: Vec<usize> = (0..ways.len()).collect();
    slowest.sort_by_key(|at| std::cmp::Reverse(ways[*at].took_us));
    let first_us = ways.first().map_or(0, |way| way.due_us);
    let lost = |at: usize| {
        let beyond = |cause: usize| parts[at][cause].saturating_sub(usual[cause]);
        // Of equal parts the earlier cause.
        let cause = (0..Cause::ALL.len())
            .rev()
            .max_by_key(|cause| beyond(*cause));
        Lost {
            n: ways[at].n,
            at_s: (ways[at].due_us - first_us) as f64 / 1e6,
            took_us: ways[at].took_us,
            parts_us: parts[at],
            cause: Cause::ALL[cause.unwrap_or(0)],
        }
    };
    slowest.into_iter().take(count).map(lost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(n: u64, took_us: u64) -> Way {
        let due_us = n * 10_000;
        Way {
            n,
            due_us,
            sent_late_us: 20,
            at_bus_us: Some(due_us + 120),
            took_us,
        }
    }

    #[test]
    fn each_late_message_has_its_cause() {
        let mut ways: Vec<Way> = (1..=100).map(|n| way(n, 1_000)).collect();
        ways[9] = Way {
            sent_late_us: 4_000,
            at_bus_us: Some(104_100),
            ..way(10, 5_000)
        };
        ways[19] = Way {
            at_bus_us: Some(206_000),
            ..way(20, 7_000)
        };
        for (at, took_us) in [(29, 6_000), (39, 8_000), (49, 9_000), (59, 10_000)] {
            ways[at].took_us = took_us;
        }
        let delay = |end_us, us| Delays(vec![Delay { end_us, us }]);
        let happened = Happened {
            host: delay(305_000, 4_500),
            clients: delay(407_000, 6_500),
            kernel: delay(508_000, 7_000),
        };
        let lost = worst(&ways, &happened, 6);
        let causes: Vec<_> = lost.iter().map(|lost| (lost.n, lost.cause)).collect();
        let want = [
            (60, Cause::Loop),
            (50, Cause::Kernel),
            (40, Cause::Clients),
            (20, Cause::Bus),
            (30, Cause::Host),
            (10, Cause::Publisher),
        ];
        assert_eq!(causes, want);
        for lost in &lost {
            assert_eq!(lost.parts_us.iter().sum::<u64>(), lost.took_us);
        }
    }

    #[test]
    fn a_delay_counts_where_it_overlaps() {
        let delays = Delays(vec![
            Delay {
                end_us: 100,
                us: 50,
            },
            Delay {
                end_us: 300,
                us: 100,
            },
        ]);
        for (from, to, want) in [
            (0, 50, 0),
            (0, 60, 10),
            (90, 210, 20),
            (100, 200, 0),
            (0, 1_000, 150),
        ] {
            assert_eq!(delays.within(from, to), want, "{from} to {to}");
        }
    }
}
