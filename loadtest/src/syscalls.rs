//! Counts the system calls of a process from outside.
//!
//! `perf stat` on the tracepoint `raw_syscalls:sys_enter` counts every call of every thread without
//! stopping the process. If perf is missing or not allowed, `strace -c -f` counts. strace stops the
//! process twice at each call, so messages pile up and are joined, and the count per delivery can
//! be too low. `/proc/PID/io` is not a substitute: send(2) and epoll are not counted there.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::fault::{Fault, Tried};

/// Options of `loadtest syscalls`.
#[derive(Debug, clap::Args)]
pub(crate) struct SyscallsArgs {
    /// Process to watch, with all threads
    #[arg(long)]
    pid: u32,
    /// Seconds of counting
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Runs `loadtest syscalls`.
pub(crate) fn run(args: &SyscallsArgs) -> Result<(), Fault> {
    crate::process::Process::new(args.pid)?;
    let counting = Counting::start(&[args.pid])?;
    std::thread::sleep(std::time::Duration::from_secs_f64(
        args.seconds.clamp(0.0, 3600.0),
    ));
    let counted = counting.stop()?;
    println!(
        "{} system calls in {} s, counted with {}",
        counted.total, args.seconds, counted.tool
    );
    for (name, count) in &counted.by_name {
        println!("{count:>12} {name}");
    }
    Ok(())
}

/// Calls listed by name with perf, if known to the kernel.
const NAMES: [&str; 20] = [
    "sendto",
    "sendmsg",
    "sendmmsg",
    "write",
    "writev",
    "recvfrom",
    "recvmsg",
    "read",
    "readv",
    "accept4",
    "setsockopt",
    "shutdown",
    "close",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "ppoll",
    "futex",
    "io_uring_enter",
    "clock_nanosleep",
];
const TRACING: &str = "/sys/kernel/tracing/events";

/// The counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Syscalls {
    /// `perf` or `strace`.
    pub(crate) tool: &'static str,
    /// All calls of all threads.
    pub(crate) total: u64,
    /// The counts by name; with perf only of the usual calls.
    pub(crate) by_name: Vec<(String, u64)>,
}

/// A count under way.
pub(crate) struct Counting {
    tool: &'static str,
    child: Child,
}

impl Counting {
    /// Starts to count the calls of these processes with perf, or else with strace; returns once the
    /// tool is attached.
    pub(crate) fn start(pids: &[u32]) -> Result<Self, Fault> {
        // Both tools accept a list.
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let pids = pids.join(",");
        let (tool, mut command) = if perf_works() {
            ("perf", perf(&pids))
        } else {
            ("strace", strace(&pids))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|_| Fault::Missing {
                program: "strace",
                package: "strace",
            })?;
        // Neither tool reports in an easily parsed form when attached.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Ok(Self { tool, child })
    }

    /// Ends the count.
    pub(crate) fn stop(self) -> Result<Syscalls, Fault> {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // On SIGINT, both tools print the table and leave the process running.
            kill_process(pid, Signal::INT)
                .map_err(Into::into)
                .tried("end the count")?;
        }
        let output = self.child.wait_with_output().tried("wait for the count")?;
        let text = String::from_utf8_lossy(&output.stderr);
        let counted = if self.tool == "perf" {
            parse_perf(&text)
        } else {
            parse_strace(&text)
        };
        counted.ok_or_else(|| Fault::Server(format!("{} counted nothing: {text}", self.tool)))
    }
}

fn perf_works() -> bool {
    let quiet = Command::new("perf")
        .args(["stat", "-e", "raw_syscalls:sys_enter", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|s| s.success())
}

fn perf(pids: &str) -> Command {
    let mut events = String::from("raw_syscalls:sys_enter");
    for name in NAMES {
        if Path::new(TRACING)
            .join("syscalls")
            .join(format!("sys_enter_{name}"))
            .exists()
        {
            events.push_str(&format!(",syscalls:sys_enter_{name}"));
        }
    }
    let mut command = Command::new("perf");
    command.args(["stat", "-x", ",", "-e", &events, "-p", pids]);
    command
}

fn strace(pids: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-q", "-U", "calls,name", "-p", pids]);
    command
}

/// Parses lines such as `2045,,syscalls:sys_enter_sendto,1000,100.00,,`.
fn parse_perf(text: &str) -> Option<Syscalls> {
    let mut total = None;
    let mut by_name = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(',');
        let (Some(count), Some(event)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        let Ok(count) = count.parse::<u64>() else {
            continue;
        };
        if event == "raw_syscalls:sys_enter" {
            total = Some(count);
        } else if let (Some(name), 1..) = (event.strip_prefix("syscalls:sys_enter_"), count) {
            by_name.push((name.to_owned(), count));
        }
    }
    Some(Syscalls {
        tool: "perf",
        total: total?,
        by_name: largest_first(by_name),
    })
}

/// Parses lines of a number and a name, and the line with `total`.
fn parse_strace(text: &str) -> Option<Syscalls> {
    let mut total = None;
    let mut by_name = Vec::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (Some(count), Some(name), None) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Ok(count) = count.parse::<u64>() else {
            continue;
        };
        match name {
            "total" => total = Some(count),
            _ => by_name.push((name.to_owned(), count)),
        }
    }
    Some(Syscalls {
        tool: "strace",
        total: total?,
        by_name: largest_first(by_name),
    })
}

fn largest_first(mut by_name: Vec<(String, u64)>) -> Vec<(String, u64)> {
    by_name.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    by_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_lines() {
        let text = "2100,,raw_syscalls:sys_enter,1,100.00,,\n5,,syscalls:sys_enter_read,1,100.00,,\n\
                    2045,,syscalls:sys_enter_sendto,1,100.00,,\n0,,syscalls:sys_enter_futex,1,100.00,,\n";
        let counted = parse_perf(text).unwrap();
        assert_eq!(counted.total, 2100);
        assert_eq!(
            counted.by_name,
            [("sendto".to_owned(), 2045), ("read".to_owned(), 5)]
        );
        assert_eq!(
            parse_perf("<not counted>,,raw_syscalls:sys_enter,0,,,"),
            None
        );
    }

    #[test]
    fn strace_lines() {
        let text = "    calls syscall\n--------- ------------\n     2000 sendto\n       10 epoll_wait\n\
                    --------- ------------\n     2010 total\n";
        let counted = parse_strace(text).unwrap();
        assert_eq!(counted.total, 2010);
        assert_eq!(counted.by_name[0], ("sendto".to_owned(), 2000));
        assert_eq!(
            parse_strace("strace: attach: Operation not permitted"),
            None
        );
    }
}
