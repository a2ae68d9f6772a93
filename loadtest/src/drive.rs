//! Publishes on a second thread while the clients read on the calling thread.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::fault::Fault;
use crate::fleet::Fleet;
use crate::publish::{Pace, Publisher};

/// Publishes the messages `numbers` and runs the fleet until `done` returns true. `done` is called
/// after each turn; the argument says whether everything has been published.
pub(crate) fn drive(
    fleet: &mut Fleet,
    publisher: &mut Publisher,
    numbers: Range<u64>,
    pace: &Pace,
    stop: &AtomicBool,
    mut done: impl FnMut(&Fleet, bool) -> bool,
) -> Result<(), Fault> {
    /// Without effect: `done` decides.
    const FOR_EVER_US: u64 = u64::MAX / 2;
    thread::scope(|scope| {
        let count = numbers.end - numbers.start;
        let work = scope.spawn(move || publisher.publish(numbers.start, count, pace, stop));
        let ran = fleet.run(FOR_EVER_US, |f| done(f, work.is_finished()));
        if ran.is_err() {
            // Ends the publisher's thread; the scope waits for the thread.
            stop.store(true, Ordering::Relaxed);
        }
        let published = work
            .join()
            .unwrap_or_else(|_| Err(Fault::Bus("the publisher panicked".into())));
        ran.and(published).map(drop)
    })
}
