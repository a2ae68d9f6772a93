//! How long a test waits.

use std::fs;
use std::thread;
use std::time::Duration;

/// A busy machine takes so many times as long as a test allows.
const PATIENCE: f64 = 3.0;

/// The time after which a test that allows `time` gives up: more while other programs want the cores, too
/// (`tests/rig/waiting.py` does the same in Python).
pub fn patient(time: Duration) -> Duration {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().and_then(|load| load.parse().ok());
    let cores = thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    time.mul_f64(PATIENCE * (load.unwrap_or(0.0) / cores).max(1.0))
}
