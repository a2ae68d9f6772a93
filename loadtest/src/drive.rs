//! Publishes on one thread while the clients read on this one.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::fault::Fault;
use crate::fleet::Fleet;
use crate::publish::{Pace, Publisher};

/// Publishes the messages `numbers` and runs the fleet until `done`, which is asked after each turn
/// and told whether everything has been published.
pub(crate) fn drive(
    fleet: &mut Fleet,
    publisher: &mut Publisher,
    numbers: Range<u64>,
    pace: &Pace,
    stop: &AtomicBool,
    mut done: impl FnMut(&Fleet, bool) -> bool,
) -> Result<(), Fault> {
    /// No end of its own: `done` decides.
    const FOR_EVER_US: u64 = u64::MAX / 2;
    thread::scope(|scope| {
        let count = numbers.end - numbers.start;
        let work = scope.spawn(move || publisher.publish(numbers.start, count, pace, stop));
        let ran = fleet.run(FOR_EVER_US, |f| done(f, work.is_finished()));
        if ran.is_err() {
            // Lets the publisher's thread end, which the scope waits for.
            stop.store(true, Ordering::Relaxed);
        }
        let published = work
            .join()
            .unwrap_or_else(|_| Err(Fault::Bus("the publisher panicked".into())));
        ran.and(published).map(drop)
    })
}
