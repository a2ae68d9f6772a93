//! How many bytes the events between a source and the loop may hold.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::LoopGone;

/// Room for the bytes of events that were sent and not taken. The source waits for room, the loop
/// gives it back and never waits.
#[derive(Debug)]
pub struct QueueBytes {
    state: Mutex<State>,
    changed: Condvar,
    max: usize,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    is_loop_gone: bool,
}

/// The loop's end. The source no longer waits once this is dropped.
#[derive(Debug)]
pub struct TakenBytes(Arc<QueueBytes>);

impl QueueBytes {
    /// Room for `max` bytes, and for one event of any size.
    pub fn new(max: usize) -> (Arc<Self>, TakenBytes) {
        let bytes = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            max,
        });
        (Arc::clone(&bytes), TakenBytes(bytes))
    }

    /// Takes room for an event, waiting while others hold too much.
    pub(super) fn take(&self, bytes: usize) -> Result<(), LoopGone> {
        let is_full = |s: &mut State| {
            !s.is_loop_gone && s.held > 0 && bytes > self.max.saturating_sub(s.held)
        };
        let waited = self.changed.wait_while(self.state(), is_full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_loop_gone {
            return Err(LoopGone);
        }
        state.held += bytes;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TakenBytes {
    /// The loop has taken an event of so many bytes.
    pub fn give_back(&self, bytes: usize) {
        self.0.state().held -= bytes;
        self.0.changed.notify_one();
    }

    /// Bytes of the events between the source and the loop.
    pub fn held(&self) -> usize {
        self.0.state().held
    }

    /// Room for them.
    pub fn max(&self) -> usize {
        self.0.max
    }
}

impl Drop for TakenBytes {
    fn drop(&mut self) {
        self.0.state().is_loop_gone = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::super::SourceLink;
    use super::*;
    use crate::clock::Clock;
    use crate::feeds::{BusEvent, BusMessage};
    use crate::hub::Now;

    const MIB: usize = 1024 * 1024;

    fn message(bytes: usize) -> BusEvent {
        BusEvent::Message(BusMessage {
            subject: "a".into(),
            pattern: None,
            payload: vec![b'1'; bytes],
            position: None,
            received: Now::default(),
            quiet: false,
        })
    }

    #[test]
    fn large_messages_wait_at_the_bus_and_not_in_memory() {
        let (bytes, taken) = QueueBytes::new(64 * MIB);
        let (sender, events) = bounded(1_024);
        let link = SourceLink::new(sender, Box::new(|| {}), Clock::start()).bounded(bytes);
        let source = thread::spawn(move || {
            for _ in 0..40 {
                link.send(message(15 * MIB)).expect("the loop is there");
            }
        });
        let (mut messages, mut most) = (0, 0);
        while let Ok(event) = events.recv() {
            // Time for the source to fill the queue, if nothing kept it from that.
            thread::sleep(Duration::from_millis(2));
            most = most.max(taken.held());
            taken.give_back(event.queue_bytes());
            messages += 1;
        }
        assert_eq!(messages, 40);
        assert!(most > 15 * MIB && most <= 64 * MIB, "{most} bytes");
        assert_eq!(taken.held(), 0);
        assert!(source.join().is_ok());
    }

    #[test]
    fn an_event_over_the_limit_goes_alone_and_nobody_waits_for_a_loop_that_is_gone() {
        let (bytes, taken) = QueueBytes::new(10);
        assert_eq!(bytes.take(1_000), Ok(()));
        let waiting = thread::spawn({
            let bytes = Arc::clone(&bytes);
            move || bytes.take(1)
        });
        drop(taken);
        assert_eq!(waiting.join().expect("it ends"), Err(LoopGone));
    }
}
