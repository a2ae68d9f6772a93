//! A limit on the bytes of events between sources and the loop.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Room for the bytes of sent events until the loop takes them. A source waits for room, and so may a source beside it; the
/// loop gives room back and never waits.
#[derive(Debug)]
pub struct QueueBytes {
    state: Mutex<QueueRoom>,
    changed: Condvar,
    max: usize,
}

#[derive(Debug, Default)]
struct QueueRoom {
    held: usize,
    /// Threads that wait for room.
    waiting: usize,
    is_loop_gone: bool,
}

impl QueueRoom {
    /// An empty queue has room for an event of any size. Once the loop is gone, there is always room: nobody has to
    /// wait.
    fn has_room(&self, bytes: usize, max: usize) -> bool {
        self.is_loop_gone || self.held == 0 || bytes <= max.saturating_sub(self.held)
    }
}

/// The loop's side of [`QueueBytes`]. Once it is dropped, no source waits any longer.
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

    /// Takes room for an event if there is room now. Returns whether there was.
    pub fn try_take(&self, bytes: usize) -> bool {
        let mut state = self.state();
        let has_room = state.has_room(bytes, self.max);
        if has_room {
            state.held += bytes;
        }
        has_room
    }

    /// Takes room for an event, waiting while others hold too much. Returns false if the loop has ended.
    pub fn take(&self, bytes: usize) -> bool {
        let is_full = |s: &mut QueueRoom| !s.has_room(bytes, self.max);
        let mut state = self.state();
        if is_full(&mut state) {
            state.waiting += 1;
            let waited = self.changed.wait_while(state, is_full);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.held += bytes;
        !state.is_loop_gone
    }

    /// Gives the room of an event back: the loop has taken the event, or the event was not sent.
    pub fn give_back(&self, bytes: usize) {
        let mut state = self.state();
        state.held -= bytes;
        // A notification is a system call, and a source hardly ever waits. All are woken: the first may still have no room,
        // and another, with a smaller event, may have.
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Whether [`Self::take`] would not wait.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.state().has_room(bytes, self.max)
    }

    fn state(&self) -> MutexGuard<'_, QueueRoom> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TakenBytes {
    /// Gives the room of an event back: the loop has taken the event.
    #[inline]
    pub fn give_back(&self, bytes: usize) {
        self.0.give_back(bytes);
    }

    /// Bytes of the events between the source and the loop.
    pub fn held(&self) -> usize {
        self.0.state().held
    }

    /// The room for these bytes.
    pub fn max(&self) -> usize {
        self.0.max
    }
}

impl Drop for TakenBytes {
    fn drop(&mut self) {
        self.0.state().is_loop_gone = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_waits_while_others_hold_too_much() {
        let (bytes, taken) = QueueBytes::new(10);
        assert!(bytes.has_room(1_000) && bytes.take(6));
        assert!(bytes.has_room(4) && !bytes.has_room(5) && bytes.take(4));
        let (took, has_taken) = mpsc::channel();
        thread::spawn(move || took.send(bytes.take(5)));
        let soon = Duration::from_millis(50);
        assert_eq!(has_taken.recv_timeout(soon), Err(RecvTimeoutError::Timeout));
        taken.give_back(4);
        assert_eq!(has_taken.recv_timeout(soon), Err(RecvTimeoutError::Timeout));
        taken.give_back(6);
        assert_eq!(has_taken.recv(), Ok(true));
        assert_eq!(taken.held(), 5);
    }

    #[test]
    fn a_source_that_cannot_wait_learns_that_there_is_no_room() {
        let (bytes, taken) = QueueBytes::new(10);
        assert!(bytes.try_take(6) && !bytes.try_take(5) && bytes.try_take(4));
        taken.give_back(10);
        assert!(bytes.try_take(1_000) && !bytes.try_take(1));
        bytes.give_back(1_000);
        assert_eq!(taken.held(), 0);
    }

    #[test]
    fn an_event_over_the_limit_goes_alone_and_nobody_waits_for_a_loop_that_is_gone() {
        let (bytes, taken) = QueueBytes::new(10);
        assert!(bytes.take(1_000));
        let waiting = thread::spawn({
            let bytes = Arc::clone(&bytes);
            move || bytes.take(1)
        });
        drop(taken);
        assert!(!waiting.join().expect("it ends"));
    }

    /// Threads that wait for room for so many bytes each, and the channel on which each says whether the loop is there.
    fn wait_for(bytes: &Arc<QueueBytes>, wanted: &[usize]) -> mpsc::Receiver<(usize, bool)> {
        let (took, has_taken) = mpsc::channel();
        for (others, &wanted) in wanted.iter().enumerate() {
            let (bytes_of_it, took) = (Arc::clone(bytes), took.clone());
            thread::spawn(move || took.send((wanted, bytes_of_it.take(wanted))));
            while bytes.state().waiting <= others {
                thread::yield_now();
            }
        }
        has_taken
    }

    #[test]
    fn two_sources_that_wait_both_learn_that_the_loop_is_gone() {
        let (bytes, taken) = QueueBytes::new(10);
        assert!(bytes.take(10));
        let has_taken = wait_for(&bytes, &[1, 2]);
        drop(taken);
        let ended = [(); 2].map(|()| has_taken.recv_timeout(Duration::from_secs(10)));
        let mut ended = ended.map(|ended| ended.expect("both are woken"));
        ended.sort_unstable();
        assert_eq!(ended, [(1, false), (2, false)]);
    }

    #[test]
    fn room_goes_to_the_source_that_it_is_enough_for() {
        let (bytes, taken) = QueueBytes::new(10);
        assert!(bytes.take(10));
        let has_taken = wait_for(&bytes, &[9, 2]);
        taken.give_back(5);
        let woken = has_taken.recv_timeout(Duration::from_secs(10));
        assert_eq!(woken, Ok((2, true)));
        taken.give_back(7);
        assert_eq!(
            has_taken.recv_timeout(Duration::from_secs(10)),
            Ok((9, true))
        );
    }
}
