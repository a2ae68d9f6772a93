//! The kernel's figures of another process: CPU time, memory, sockets. Linux only (/proc).

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::fault::{Fault, Tried};

/// A measured process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    /// The process with this id; fails if there is no such process.
    pub(crate) fn new(pid: u32) -> Result<Self, Fault> {
        let process = Self { pid };
        process.tasks()?;
        Ok(process)
    }

    /// CPU time of all threads so far, user and system, microseconds; fails when the process has ended.
    ///
    /// The sum of the threads' `schedstat` (nanoseconds; `stat` counts ticks of 10 ms). The time of an
    /// ended thread is missing, so measure between two moments with the same threads. 0 for a process
    /// just started on another CPU, until the kernel updates the sum.
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

    /// Open sockets: shows a dropped client even if the client cannot notice.
    pub(crate) fn sockets(&self) -> Result<usize, Fault> {
        let dir = self.path("fd");
        let entries = fs::read_dir(&dir).tried(dir.display().to_string())?;
        let is_socket = |path: PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        Ok(entries.flatten().filter(|e| is_socket(e.path())).count())
    }

    /// Pins all current threads to a CPU; threads started later inherit the pinning.
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
        kib.map(|v| v * 1024).ok_or_else(|| self.ended())
    }

    fn tasks(&self) -> Result<Vec<PathBuf>, Fault> {
        let dir = self.path("task");
        match fs::read_dir(&dir) {
            Ok(entries) => Ok(entries.flatten().map(|e| e.path()).collect()),
            // The folder disappears with the process (proc(5)).
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.ended()),
            Err(error) => Err(error).tried(dir.display().to_string()),
        }
    }

    fn ended(&self) -> Fault {
        Fault::Server(format!("process {} has ended", self.pid))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// A process and all descendants: a server with workers, or behind a script.
#[derive(Clone, Debug)]
pub(crate) struct Family(Vec<Process>);

impl Family {
    /// The process with this id and the current descendants; fails if there is no such process.
    pub(crate) fn of(pid: u32) -> Result<Self, Fault> {
        let mut members = vec![Process::new(pid)?];
        let parents = parents()?;
        let mut next = 0;
        while let Some(parent) = members.get(next).map(|process| process.pid) {
            let children = parents.iter().filter(|(_, of)| *of == parent);
            members.extend(children.map(|(pid, _)| Process { pid: *pid }));
            next += 1;
        }
        Ok(Self(members))
    }

    /// CPU time of all members so far, microseconds; the time of ended descendants is missing.
    pub(crate) fn cpu_us(&self) -> Result<u64, Fault> {
        let (first, others) = self.0.split_first().expect("the process itself is in it");
        let others = others.iter().filter_map(|process| process.cpu_us().ok());
        Ok(first.cpu_us()? + others.sum::<u64>())
    }

    /// The open accounts of all present threads, to be read often (sched-stats(5)).
    pub(crate) fn accounts(&self) -> Vec<fs::File> {
        let tasks = self
            .0
            .iter()
            .flat_map(|process| process.tasks().unwrap_or_default());
        let open = |task: PathBuf| fs::File::open(task.join("schedstat")).ok();
        tasks.filter_map(open).collect()
    }

    /// The process ids.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(|process| process.pid).collect()
    }

    /// Pins all current threads to a CPU; threads started later inherit the pinning.
    pub(crate) fn pin(&self, cpu: usize) -> Result<(), Fault> {
        self.0.iter().try_for_each(|process| process.pin(cpu))
    }
}

/// All processes with their parents.
fn parents() -> Result<Vec<(u32, u32)>, Fault> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // pid (name) state parent; the name may contain anything, even parentheses (proc(5)).
        let (_, after_name) = stat.rsplit_once(')')?;
        Some((pid, after_name.split_whitespace().nth(1)?.parse().ok()?))
    };
    let entries = fs::read_dir("/proc").tried("/proc")?;
    let pids = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(parent).collect())
}

/// The nice value of [`Ahead`].
const AHEAD: i32 = -15;

/// The calling thread, and the threads that it starts, run before other programs until this is dropped.
pub(crate) struct Ahead {
    /// The nice value before.
    usual: i32,
}

impl Ahead {
    /// `None` if the kernel refuses: raising a priority takes a privilege (setpriority(2)).
    pub(crate) fn of_this_thread() -> Option<Self> {
        let usual = getpriority_process(None).ok()?;
        setpriority_process(None, AHEAD).ok()?;
        Some(Self { usual })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Lowering a priority takes no privilege.
        let _ = setpriority_process(None, self.usual);
    }
}

/// Pins a thread to a CPU; `None`: the calling thread.
pub(crate) fn pin_thread(tid: Option<Pid>, cpu: usize) -> Result<(), Fault> {
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
        // Read in this order, because other tests allocate meanwhile; the kernel counts in batches.
        let now = me.rss_bytes().unwrap();
        assert!(me.rss_peak_bytes().unwrap() + (1 << 20) > now);
        let before = me.sockets().unwrap();
        // More sockets than other tests open and close in this process meanwhile.
        let ours: Vec<_> = (0..30)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        assert!(me.sockets().unwrap() > before + 20);
        drop(ours);
    }

    #[test]
    fn a_thread_that_was_ahead_is_not_afterwards() {
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        // A thread of its own: later tests of this thread would inherit the priority.
        let seen = std::thread::spawn(move || {
            let ahead = Ahead::of_this_thread();
            let within = nice();
            let is_ahead = ahead.is_some();
            drop(ahead);
            (is_ahead, within, nice())
        });
        let (is_ahead, within, after) = seen.join().unwrap();
        assert_eq!(is_ahead, within == AHEAD);
        assert_eq!(after, before);
    }

    #[test]
    fn a_family_has_the_children_of_children() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sh -c 'sleep 60 & wait' & wait"])
            .spawn()
            .unwrap();
        let family = || Family::of(shell.id()).unwrap();
        while family().0.len() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // In this order: the shell may use more CPU between the two.
        let alone = Process::new(shell.id()).unwrap().cpu_us().unwrap();
        assert!(family().cpu_us().unwrap() >= alone);
        for process in family().0.iter().rev() {
            let pid = Pid::from_raw(process.pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        shell.wait().unwrap();
    }

    #[test]
    fn a_process_that_has_used_no_time_yet_is_no_error_and_one_that_has_ended_is() {
        for _ in 0..50 {
            let mut child = std::process::Command::new("sleep")
                .arg("60")
                .spawn()
                .unwrap();
            let process = Process::new(child.id()).unwrap();
            process.cpu_us().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            let error = process.cpu_us().unwrap_err().to_string();
            assert!(error.contains("has ended"), "{error}");
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Family::of(u32::MAX - 7).is_err());
        assert!(Process::new(u32::MAX - 7).is_err());
    }
}
