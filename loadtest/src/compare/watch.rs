//! The CPU time of the programs of a part.

use rustix::time::{ClockId, clock_gettime};

use super::contestants::Contestant;
use crate::fault::Fault;
use crate::machine::{Machine, MachineTime};
use crate::process::Family;

/// The processes with separately counted CPU time.
pub(super) struct Watch<'a> {
    machine: &'a Machine,
    pub(super) server: Family,
    bus: Family,
    /// Running contestants without clients in this part, and their buses.
    idle: Vec<Family>,
}

/// CPU time so far, microseconds.
pub(super) struct Used {
    pub(super) server_us: u64,
    pub(super) bus_us: u64,
    pub(super) own_us: u64,
    idle_us: u64,
    pub(super) machine: MachineTime,
}

impl<'a> Watch<'a> {
    /// The processes of all running contestants; `which` is measured.
    pub(super) fn of(
        machine: &'a Machine,
        all: &[Contestant],
        which: usize,
    ) -> Result<Self, Fault> {
        let mut idle = Vec::new();
        let mut measured = None;
        for (index, contestant) in all.iter().enumerate() {
            let Some(running) = &contestant.running else {
                continue;
            };
            let families = [running.program.family()?, running.bus.family()?];
            match index == which {
                true => measured = Some(families),
                false => idle.extend(families),
            }
        }
        let measured = measured.ok_or_else(|| Fault::Server("it does not run".into()));
        let [server, bus] = measured?;
        Ok(Self {
            machine,
            server,
            bus,
            idle,
        })
    }

    /// All times now.
    pub(super) fn now(&self) -> Result<Used, Fault> {
        let idle: Result<Vec<u64>, Fault> = self.idle.iter().map(Family::cpu_us).collect();
        Ok(Used {
            server_us: self.server.cpu_us()?,
            bus_us: self.bus.cpu_us()?,
            own_us: own_cpu_us(),
            idle_us: idle?.iter().sum(),
            machine: self.machine.now()?,
        })
    }
}

/// CPU time of this process, ended threads included (clock_gettime(2)).
pub(super) fn own_cpu_us() -> u64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec.cast_unsigned() * 1_000_000 + t.tv_nsec.cast_unsigned() / 1_000
}

impl Used {
    /// The times since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            server_us: self.server_us.saturating_sub(before.server_us),
            bus_us: self.bus_us.saturating_sub(before.bus_us),
            own_us: self.own_us.saturating_sub(before.own_us),
            idle_us: self.idle_us.saturating_sub(before.idle_us),
            machine: self.machine.since(&before.machine),
        }
    }

    /// CPU time of unknown programs.
    pub(super) fn others_us(&self) -> u64 {
        let ksoftirqd_us = self.machine.ksoftirqd_us.unwrap_or(0);
        let known = self.server_us + self.bus_us + self.own_us + self.idle_us + ksoftirqd_us;
        self.machine.busy_us().saturating_sub(known)
    }
}
