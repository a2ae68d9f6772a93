//! What the kernel says of another process: CPU time, memory, sockets. Linux only (/proc).

use std::fs;
use std::path::PathBuf;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::fault::{Fault, Tried};

/// A process that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    /// The process with this id; fails when there is none.
    pub(crate) fn new(pid: u32) -> Result<Self, Fault> {
        let process = Self { pid };
        process.cpu_us()?;
        Ok(process)
    }

    /// CPU time of all its threads so far, user and system, microseconds.
    ///
    /// Summed over the threads' `schedstat` (nanoseconds; `stat` counts ticks of 10 ms), so the
    /// time of a thread that has ended is missing: measure between two moments with the same threads.
    pub(crate) fn cpu_us(&self) -> Result<u64, Fault> {
        let mut ns = 0u64;
        for task in self.tasks()? {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(task.join("schedstat")) else {
                continue;
            };
            ns += text
                .split_whitespace()
                .next()
                .and_then(|v| v.parse::<u64>().ok())
                .unwrap_or(0);
        }
        if ns == 0 {
            return Err(Fault::Server(format!("process {} has ended", self.pid)));
        }
        Ok(ns / 1_000)
    }

    /// Resident memory now, bytes.
    pub(crate) fn rss_bytes(&self) -> Result<u64, Fault> {
        self.status_bytes("VmRSS:")
    }

    /// Most resident memory so far, bytes.
    pub(crate) fn rss_peak_bytes(&self) -> Result<u64, Fault> {
        self.status_bytes("VmHWM:")
    }

    /// Open sockets: says that a client was dropped also when the client cannot see it.
    pub(crate) fn sockets(&self) -> Result<usize, Fault> {
        let dir = self.path("fd");
        let entries = fs::read_dir(&dir).tried(dir.display().to_string())?;
        let is_socket = |path: PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        Ok(entries.flatten().filter(|e| is_socket(e.path())).count())
    }

    /// Puts every thread it has now on one CPU; threads that these start later inherit it.
    pub(crate) fn pin(&self, cpu: usize) -> Result<(), Fault> {
        for task in self.tasks()? {
            let tid = task.file_name().and_then(|n| n.to_str()?.parse().ok());
            let Some(tid) = tid.and_then(Pid::from_raw) else {
                continue;
            };
            pin_thread(Some(tid), cpu)?;
        }
        Ok(())
    }

    fn status_bytes(&self, key: &str) -> Result<u64, Fault> {
        let path = self.path("status");
        let text = fs::read_to_string(&path).tried(path.display().to_string())?;
        let kib = text.lines().find_map(|line| {
            let value = line.strip_prefix(key)?;
            value.split_whitespace().next()?.parse::<u64>().ok()
        });
        let ended = || Fault::Server(format!("process {} has ended", self.pid));
        kib.map(|v| v * 1024).ok_or_else(ended)
    }

    fn tasks(&self) -> Result<Vec<PathBuf>, Fault> {
        let dir = self.path("task");
        let entries = fs::read_dir(&dir).tried(dir.display().to_string())?;
        Ok(entries.flatten().map(|e| e.path()).collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// CPU time that all CPUs of the machine were not idle, microseconds, in steps of 10 ms; time that
/// the hypervisor took (steal) counts as busy.
pub(crate) fn machine_busy_us() -> Result<u64, Fault> {
    let text = fs::read_to_string("/proc/stat").tried("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .flat_map(str::parse)
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already (proc(5)).
    let busy = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(i, _)| !matches!(i, 3 | 4));
    Ok(busy.map(|(_, v)| v).sum::<u64>() * 10_000)
}

/// Puts the calling thread on one CPU.
pub(crate) fn pin_self(cpu: usize) -> Result<(), Fault> {
    pin_thread(None, cpu)
}

fn pin_thread(tid: Option<Pid>, cpu: usize) -> Result<(), Fault> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(Fault::Usage(format!("no CPU {cpu}")));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(tid, &set)
        .map_err(Into::into)
        .tried(format!("pin to CPU {cpu}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let me = Process::new(std::process::id()).unwrap();
        let before = me.cpu_us().unwrap();
        let mut x = 1u64;
        while me.cpu_us().unwrap() < before + 2_000 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(me.rss_bytes().unwrap() > 100_000);
        // Read in this order, since other tests allocate meanwhile; the kernel counts in batches.
        let now = me.rss_bytes().unwrap();
        assert!(me.rss_peak_bytes().unwrap() + (1 << 20) > now);
        let before = me.sockets().unwrap();
        // More than other tests open and close in this process meanwhile.
        let ours: Vec<_> = (0..30)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        assert!(me.sockets().unwrap() > before + 20);
        drop(ours);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Process::new(u32::MAX - 7).is_err());
    }
}
