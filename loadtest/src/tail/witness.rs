//! Threads that look while messages are on their way: another subscriber of the bus, and the machine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::causes::{Delay, Delays};
use crate::bus::Subscriber;
use crate::clock;
use crate::fleet::waited_us;
use crate::machine::Machine;
use crate::process::Family;
use crate::stamp;

/// The interval of the looks at the machine, microseconds.
const LOOK_US: u64 = 1_000;
/// A timer may be so late, microseconds.
const PUNCTUAL_US: u64 = 200;
/// Looks between two readings of the time that the hypervisor took, which has ticks of 10 ms.
const STEAL_LOOKS: u64 = 20;

/// When the bus gave each message to this subscriber, by number.
pub(super) fn of_bus(mut bus: Subscriber, ends: &AtomicBool) -> BTreeMap<u64, u64> {
    clock::sleep_punctually();
    let mut seen = BTreeMap::new();
    while !ends.load(Ordering::Relaxed) {
        // A read without a message ends with a timeout.
        let _ = bus.read(|payload| {
            let head = &payload[..payload.len().min(stamp::HEAD_BYTES)];
            if let Some(stamp) = stamp::find(head) {
                seen.entry(stamp.n).or_insert_with(clock::now_us);
            }
        });
    }
    seen
}

/// What the machine did meanwhile.
#[derive(Default)]
pub(super) struct OfMachine {
    /// Late timers, and the time that the hypervisor took.
    pub(super) host: Delays,
    /// The waits of the server's threads for a CPU.
    pub(super) kernel: Delays,
    /// The time that the hypervisor took, microseconds.
    pub(super) steal_us: u64,
}

/// Looks a thousand times a second until `ends`.
pub(super) fn of_machine(server: &Family, machine: &Machine, ends: &AtomicBool) -> OfMachine {
    clock::sleep_punctually();
    let mut seen = OfMachine::default();
    let steal = || {
        let cpus = machine.now().map(|time| time.cpus).unwrap_or_default();
        cpus.iter().map(|cpu| cpu.steal_us).sum::<u64>()
    };
    let mut due_us = clock::now_us() + LOOK_US;
    let accounts = server.accounts();
    let waited = || accounts.iter().filter_map(waited_us).sum::<u64>();
    let (mut waited_before, mut steal_before) = (waited(), steal());
    let mut looks = 0;
    while !ends.load(Ordering::Relaxed) {
        clock::sleep_until(due_us);
        let now = clock::now_us();
        let late = now.saturating_sub(due_us);
        if late > PUNCTUAL_US {
            seen.host.0.push(Delay {
                end_us: now,
                us: late,
            });
        }
        let waited_now = waited();
        let us = waited_now.saturating_sub(waited_before);
        if us > 0 {
            seen.kernel.0.push(Delay { end_us: now, us });
        }
        waited_before = waited_now;
        looks += 1;
        if looks % STEAL_LOOKS == 0 {
            let taken = steal();
            seen.steal_us += taken.saturating_sub(steal_before);
            steal_before = taken;
        }
        due_us = now + LOOK_US;
    }
    seen
}
