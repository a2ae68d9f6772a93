//! CPU time of the whole machine: of each CPU (`/proc/stat`), and of the kernel's own threads for
//! network work (`ksoftirqd`), which count for no process.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use crate::fault::{Fault, Tried};

/// CPU time of a CPU, microseconds, in steps of 10 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Cpu {
    /// All time except idle time; time taken by the hypervisor counts as busy.
    pub(crate) busy_us: u64,
    /// Part of `busy_us`: interrupts and the subsequent network work, in any thread.
    pub(crate) softirq_us: u64,
    /// Part of `busy_us`: time taken by the hypervisor.
    pub(crate) steal_us: u64,
}

/// CPU time so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct MachineTime {
    /// Each CPU, in the kernel's order.
    pub(crate) cpus: Vec<Cpu>,
    /// All `ksoftirqd` threads together, microseconds; `None` if the threads are not visible (in a
    /// container with separate process ids).
    pub(crate) ksoftirqd_us: Option<u64>,
}

impl MachineTime {
    /// Busy time of all CPUs together, microseconds.
    pub(crate) fn busy_us(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.busy_us).sum()
    }

    /// The CPU time since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let pairs = self.cpus.iter().zip(&before.cpus);
        Self {
            cpus: pairs.map(|(now, then)| now.since(*then)).collect(),
            ksoftirqd_us: self
                .ksoftirqd_us
                .zip(before.ksoftirqd_us)
                .map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

impl Cpu {
    fn since(self, before: Self) -> Self {
        Self {
            busy_us: self.busy_us.saturating_sub(before.busy_us),
            softirq_us: self.softirq_us.saturating_sub(before.softirq_us),
            steal_us: self.steal_us.saturating_sub(before.steal_us),
        }
    }
}

/// Reader of the machine's CPU time, with the paths of the `ksoftirqd` threads.
pub(crate) struct Machine {
    ksoftirqd: Vec<PathBuf>,
}

impl Machine {
    /// Looks for the `ksoftirqd` threads, one per CPU.
    pub(crate) fn new() -> Result<Self, Fault> {
        let is_ksoftirqd = |dir: &PathBuf| {
            fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
        };
        let entries = fs::read_dir("/proc").tried("/proc")?;
        let dirs = entries.flatten().map(|entry| entry.path());
        Ok(Self {
            ksoftirqd: dirs.filter(is_ksoftirqd).collect(),
        })
    }

    /// CPU time so far.
    pub(crate) fn now(&self) -> Result<MachineTime, Fault> {
        let text = fs::read_to_string("/proc/stat").tried("/proc/stat")?;
        let thread_us = |dir: &PathBuf| {
            let text = fs::read_to_string(dir.join("schedstat")).ok()?;
            let ns: u64 = text.split_whitespace().next()?.parse().ok()?;
            Some(ns / 1_000)
        };
        let ksoftirqd: Vec<u64> = self.ksoftirqd.iter().filter_map(thread_us).collect();
        Ok(MachineTime {
            cpus: parse(&text),
            ksoftirqd_us: (!ksoftirqd.is_empty()).then(|| ksoftirqd.iter().sum()),
        })
    }
}

/// The lines `cpu0`, `cpu1`, … of `/proc/stat` (proc(5)), in ticks of 10 ms.
fn parse(stat: &str) -> Vec<Cpu> {
    const TICK_US: u64 = 10_000;
    let numbered = |line: &&str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        name.strip_prefix("cpu").is_some_and(|n| !n.is_empty())
    };
    let cpu = |line: &str| {
        // user nice system idle iowait irq softirq steal; guest time is included in user.
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .map(|v| v.parse().unwrap_or(0))
            .collect();
        let at = |i: usize| ticks.get(i).copied().unwrap_or(0) * TICK_US;
        Cpu {
            busy_us: [0, 1, 2, 5, 6, 7].map(at).iter().sum(),
            softirq_us: at(5) + at(6),
            steal_us: at(7),
        }
    };
    stat.lines().filter(numbered).map(cpu).collect()
}

/// Facts about the machine for the reader of a report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct About {
    cpus: usize,
    /// The kernel's name of the CPU; empty if unknown.
    cpu_model: String,
    kernel: String,
}

impl About {
    /// Reads the facts from the kernel.
    pub(crate) fn this_machine() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        Self {
            cpus: parse(&read("/proc/stat")).len(),
            cpu_model: model.unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_has_its_busy_time() {
        let stat = "cpu  10 0 5 100 3 1 2 4 0 0\ncpu0 6 1 3 60 1 1 2 4 7 0\ncpu1 4 0 2 40 2 0 0 0 0 0\n\
                    intr 123 4\n";
        let first = Cpu {
            busy_us: 170_000,
            softirq_us: 30_000,
            steal_us: 40_000,
        };
        let second = Cpu {
            busy_us: 60_000,
            ..Cpu::default()
        };
        assert_eq!(parse(stat), [first, second]);
    }

    #[test]
    fn time_since_a_moment_is_a_difference() {
        let time = |busy_us, ksoftirqd_us| MachineTime {
            cpus: vec![Cpu {
                busy_us,
                softirq_us: busy_us / 10,
                steal_us: 0,
            }],
            ksoftirqd_us,
        };
        let used = time(300, Some(50)).since(&time(100, Some(20)));
        assert_eq!(used, time(200, Some(30)));
        assert_eq!(
            time(300, None).since(&time(100, Some(20))).ksoftirqd_us,
            None
        );
        assert_eq!(used.busy_us(), 200);
    }

    #[test]
    fn this_machine_is_never_idle_for_long() {
        let machine = Machine::new().unwrap();
        let before = machine.now().unwrap();
        assert!(!before.cpus.is_empty());
        assert_eq!(before.cpus.len(), About::this_machine().cpus);
        let mut x = 1u64;
        while machine.now().unwrap().since(&before).busy_us() == 0 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
    }
}
