//! Ends a process whose loop hangs or does not take a stop signal, without a health check of an orchestrator and
//! without systemd.
//!
//! A turn takes milliseconds. A turn of 30 s will never end; meanwhile the loop serves no client and takes no signal. A
//! process that did not run does not hang: it was stopped, the machine was asleep, a debugger held it, or its CPU quota
//! was used up. So elapsed time does not count. A turn's time is the CPU time that the loop used, plus the ticks of
//! this thread during which the loop waited inside of the turn, for a lock or the kernel.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{process, thread};

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::RunError;
use crate::supervisor::ToSupervisor;
use crate::telemetry::{Phase, Telemetry, logging};
use weirgate_runtime::detached;

/// The time of a turn after which the loop counts as hanging.
pub(super) const TURN_MAX: Duration = Duration::from_secs(30);

/// The time between two checks. The loop turns at least twice in this time.
const TICK: Duration = Duration::from_secs(1);

/// CPU time in /proc is counted in hundredths of a second, whatever the kernel (`USER_HZ`, proc(5)).
const CPU_TICK_MS: u64 = 10;

/// The exit status of a process that had to be ended because its loop did not take a stop signal.
const NOT_STOPPED: i32 = 1;

/// What /proc says of the loop's thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Thread {
    /// CPU time since the thread's start, milliseconds.
    cpu_ms: u64,
    /// The thread waits for a lock, a file or the like: it is not running, ready to run, or stopped.
    waits: bool,
}

impl Thread {
    /// Parses a line of `/proc/self/task/TID/stat`. The thread's name ends at the last bracket, and may itself contain
    /// brackets.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_ascii_whitespace().collect();
        let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
        Some(Self {
            // `utime` and `stime`, fields 14 and 15 of the line (proc(5)). The first field here is 3, the state.
            cpu_ms: (ticks(11)? + ticks(12)?) * CPU_TICK_MS,
            waits: matches!(*fields.first()?, "S" | "D"),
        })
    }
}

/// The turn that is in progress.
#[derive(Debug, Default)]
struct Turn {
    /// The end of the turn before.
    after_us: u64,
    /// The loop's CPU time at the second tick of this turn; most turns have ended by then.
    cpu_ms: Option<u64>,
    /// The ticks at which the loop waited.
    waited_ms: u64,
}

impl Turn {
    /// Counts a tick. Returns how long the loop has worked and waited in the turn that began after `after_us`. Asks for
    /// the thread only if the turn was under way at the tick before.
    fn tick(&mut self, after_us: u64, thread: impl FnOnce() -> Thread) -> Duration {
        if after_us != self.after_us {
            *self = Self {
                after_us,
                ..Self::default()
            };
            return Duration::ZERO;
        }
        let thread = thread();
        if thread.waits {
            self.waited_ms += TICK.as_millis() as u64;
        }
        let at_first_ms = *self.cpu_ms.get_or_insert(thread.cpu_ms);
        let worked_ms = thread.cpu_ms.saturating_sub(at_first_ms);
        Duration::from_millis(worked_ms + self.waited_ms)
    }
}

/// The stop signals so far.
#[derive(Debug, Default)]
struct StopSignals {
    signals: usize,
    /// Ticks since the first signal. While the process does not run, there are no ticks.
    waited: Duration,
}

/// Watches the loop, which runs on the calling thread. The loop must take the first stop signal within `stop_at_most`
/// (`--stop-timeout-ms`). `supervisor` is told each second that the process lives.
///
/// # Errors
/// The system refuses a thread or the signals.
pub(super) fn watch(
    telemetry: Arc<Telemetry>,
    turn_max: Duration,
    stop_at_most: Duration,
    supervisor: Option<ToSupervisor>,
) -> Result<(), RunError> {
    let stat = fs::read_link("/proc/thread-self")
        .map(|thread| PathBuf::from("/proc").join(thread).join("stat"));
    let (sender, stop_signals) = bounded(4);
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(RunError::Thread)?;
    let forward = move || {
        for _ in signals.forever() {
            // Fails if several signals wait already, which is enough.
            let _ = sender.try_send(());
        }
    };
    detached("stop-signals", forward).map_err(RunError::Thread)?;
    let watchdog = Watchdog {
        telemetry,
        stat: stat.ok(),
        turn_max,
        stop_at_most,
        supervisor,
    };
    detached("watchdog", move || watchdog.run(&stop_signals)).map_err(RunError::Thread)
}

/// The thread that watches the loop.
struct Watchdog {
    telemetry: Arc<Telemetry>,
    /// The loop's thread in /proc; `None` where there is none.
    stat: Option<PathBuf>,
    turn_max: Duration,
    stop_at_most: Duration,
    supervisor: Option<ToSupervisor>,
}

impl Watchdog {
    /// Checks the loop at each tick. `signals` has a value for each stop signal.
    fn run(&self, signals: &Receiver<()>) {
        let (mut turn, mut stop) = (Turn::default(), StopSignals::default());
        loop {
            thread::sleep(TICK);
            stop.signals += signals.try_iter().count();
            self.check_stop(&mut stop);
            let event_loop = &self.telemetry.event_loop;
            let took = turn.tick(event_loop.last_turn_us(), || self.thread());
            if took > self.turn_max && event_loop.phase() != Phase::Ended {
                self.end_hang(took);
            }
            // A long turn is judged here alone: the supervisor does not know what the loop does in it.
            if let Some(supervisor) = &self.supervisor {
                supervisor.say_alive();
            }
        }
    }

    /// Ends the process if the loop does not take a stop signal. A loop that still turns ends the process itself, and
    /// does so at once at a second signal.
    fn check_stop(&self, stop: &mut StopSignals) {
        if stop.signals == 0 || self.telemetry.event_loop.phase() == Phase::Ended {
            return;
        }
        stop.waited += TICK;
        let is_taken = self.telemetry.event_loop.draining();
        if stop.signals > 1 || !is_taken && stop.waited > self.stop_at_most {
            let phase = self.telemetry.event_loop.phase();
            let signals = stop.signals;
            tracing::error!(
                ?phase,
                signals,
                "the loop does not take the stop signal; ending the process"
            );
            logging::flush();
            process::exit(NOT_STOPPED);
        }
    }

    /// What /proc says of the loop's thread. Without /proc the thread counts as waiting, so that each tick of a turn
    /// counts.
    fn thread(&self) -> Thread {
        let read = self
            .stat
            .as_ref()
            .and_then(|path| fs::read_to_string(path).ok());
        let waits = Thread {
            cpu_ms: 0,
            waits: true,
        };
        read.and_then(|line| Thread::parse(&line)).unwrap_or(waits)
    }

    /// Ends the process with SIGABRT, so that a system set up for core files keeps the stack of the loop.
    fn end_hang(&self, took: Duration) -> ! {
        let phase = self.telemetry.event_loop.phase();
        let turn_s = took.as_secs();
        tracing::error!(
            ?phase,
            turn_s,
            "the loop hangs in a turn that never ends; aborting the process"
        );
        logging::flush();
        process::abort()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: &str = "12 (a) b) R 1 12 12 0 -1 4194304 90 0 0 0 250 50 0 0 20 0 5 0 100 1 2";

    #[test]
    fn a_line_of_proc_is_read_behind_any_name() {
        let thread = |waits| {
            Some(Thread {
                cpu_ms: 3_000,
                waits,
            })
        };
        assert_eq!(Thread::parse(RUNS), thread(false));
        for (state, waits) in [("S", true), ("D", true), ("T", false), ("t", false)] {
            let line = RUNS.replacen(" R ", &format!(" {state} "), 1);
            assert_eq!(Thread::parse(&line), thread(waits), "{state}");
        }
        assert_eq!(Thread::parse("12 (a"), None);
        assert_eq!(Thread::parse("12 (a) R 1"), None);
    }

    /// How long the turn has taken after each tick, in seconds.
    fn ticks(checks: &[(u64, u64, bool)]) -> Vec<u64> {
        let mut turn = Turn::default();
        let tick = |(after_us, cpu_ms, waits): &(u64, u64, bool)| {
            let thread = Thread {
                cpu_ms: *cpu_ms,
                waits: *waits,
            };
            turn.tick(*after_us, || thread).as_secs()
        };
        checks.iter().map(tick).collect()
    }

    #[test]
    fn work_and_waiting_count_in_one_turn_alone() {
        assert_eq!(
            ticks(&[(1, 0, true), (2, 900, true), (3, 1_800, true)]),
            [0, 0, 0],
            "it turns"
        );
        assert_eq!(
            ticks(&[(1, 0, false), (1, 1_000, false), (1, 2_000, false)]),
            [0, 0, 1],
            "it spins"
        );
        assert_eq!(
            ticks(&[(1, 0, true), (1, 0, true), (1, 0, true), (2, 0, true)]),
            [0, 1, 2, 0],
            "it waits"
        );
        assert_eq!(
            ticks(&[
                (1, 0, true),
                (1, 0, true),
                (1, 500, false),
                (1, 1_000, false)
            ]),
            [0, 1, 1, 2],
            "both"
        );
    }

    #[test]
    fn a_loop_without_a_cpu_does_not_hang() {
        assert_eq!(ticks(&[(1, 0, false); 100]).last(), Some(&0));
    }
}
