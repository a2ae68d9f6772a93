//! Memory of clients that have left goes back to the system.
//!
//! glibc returns freed memory at the end of its heap by itself. After a storm a few small blocks that
//! are in use lie there, and what is free before them stays with the process: 7 MiB of 25 after 400
//! uploads that never ended. Asked to, glibc returns that too.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::telemetry::{LoopNumbers, Telemetry};

/// How often the connections are counted.
const LOOK: Duration = Duration::from_secs(3);

/// Fewer connections than this leave nothing that is worth a look.
const CONNECTIONS_MIN: u64 = 128;

/// The most connections since memory was given back the last time.
#[derive(Debug, Default)]
struct Ebb {
    most: u64,
}

impl Ebb {
    /// Takes the number of connections now; true once most of many have left.
    fn has_come(&mut self, connections: u64) -> bool {
        self.most = self.most.max(connections);
        let has_come = self.most >= CONNECTIONS_MIN && connections <= self.most / 2;
        if has_come {
            self.most = connections;
        }
        has_come
    }
}

/// Gives memory back after storms, from a thread of its own, which ends with the process.
pub(super) fn start(telemetry: Arc<Telemetry>) -> io::Result<()> {
    let run = move || {
        let mut ebb = Ebb::default();
        loop {
            thread::sleep(LOOK);
            let count = |numbers: &LoopNumbers| numbers.connections().map(|(_, n)| n).sum();
            if ebb.has_come(telemetry.event_loop.read(count)) {
                // Those that left last are freed by then.
                thread::sleep(LOOK);
                give_back();
            }
        }
    };
    let thread = thread::Builder::new().name("freed-memory".into());
    thread.spawn(run).map(drop)
}

/// Returns what is free in all heaps to the system. The loop waits for the heap meanwhile, if it
/// needs memory: for less than a millisecond with some MiB.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "a call of the C library without a safe form")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time, and moves no block in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(counts: &[u64]) -> Vec<bool> {
        let mut ebb = Ebb::default();
        counts.iter().map(|count| ebb.has_come(*count)).collect()
    }

    #[test]
    fn memory_is_given_back_once_after_each_storm() {
        let storm = [0, 400, 390, 200, 199, 90, 80];
        let expected = [false, false, false, true, false, true, false];
        assert_eq!(looks(&storm), expected);
        assert_eq!(looks(&[1_000, 3, 900, 4]), [false, true, false, true]);
    }

    #[test]
    fn few_clients_are_no_storm() {
        assert_eq!(looks(&[100, 0, 127, 0]), [false; 4]);
    }
}
