//! What gateways publish through a running source.
//!
//! Publishing never waits: the queue is bounded in batches and bytes, and a full queue is reported. Messages that were not
//! published when a connection is lost are dropped, because on the next connection they would be late.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use weirgate_runtime::Wake;

/// The most batches that may wait to be written.
const BATCHES_MAX: usize = 4_096;
/// The most bytes of these batches; a single batch may have any size.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Publishes on a bus; clones publish on the same connection, in the order of their calls.
#[derive(Clone, Debug)]
pub struct Publisher {
    sender: Sender<VecDeque<Outgoing>>,
    /// The bytes of the payloads that wait.
    bytes: Arc<AtomicUsize>,
    wake: Wake,
}

/// The messages that wait for the thread that writes.
#[derive(Debug)]
pub(super) struct Outbox {
    batches: Receiver<VecDeque<Outgoing>>,
    /// The rest of the batch that is being written.
    begun: VecDeque<Outgoing>,
}

/// A message that waits for the thread that writes.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) subject: Arc<str>,
    pub(super) payload: Vec<u8>,
    /// [`Publisher::bytes`], of which this payload's bytes are a part until the drop.
    room: Arc<AtomicUsize>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.room.fetch_sub(self.payload.len(), Relaxed);
    }
}

impl Publisher {
    /// Creates both ends. `wake` wakes the thread that writes.
    pub(super) fn new(wake: Wake) -> (Self, Outbox) {
        let (sender, batches) = bounded(BATCHES_MAX);
        let publisher = Self {
            sender,
            bytes: Arc::default(),
            wake,
        };
        let outbox = Outbox {
            batches,
            begun: VecDeque::new(),
        };
        (publisher, outbox)
    }

    /// Queues a batch of messages, which are published one after the other. Returns false, and drops all of them, if too
    /// much waits to be written or the thread that writes has ended: none is published without the others.
    pub fn publish(&self, subject: &Arc<str>, payloads: Vec<Vec<u8>>) -> bool {
        let bytes: usize = payloads.iter().map(Vec::len).sum();
        let before = self.bytes.fetch_add(bytes, Relaxed);
        let outgoing = |payload| Outgoing {
            subject: Arc::clone(subject),
            payload,
            room: Arc::clone(&self.bytes),
        };
        let batch = payloads.into_iter().map(outgoing).collect();
        // A batch that waits alone may have any size.
        let is_full = before > 0 && before.saturating_add(bytes) > BYTES_MAX;
        if is_full || self.sender.try_send(batch).is_err() {
            return false;
        }
        self.wake.wake();
        true
    }
}

impl Outbox {
    /// Takes the next message to write.
    ///
    /// # Errors
    /// None waits now, or nobody can publish any more.
    pub(super) fn take(&mut self) -> Result<Outgoing, TryRecvError> {
        loop {
            if let Some(message) = self.begun.pop_front() {
                return Ok(message);
            }
            self.begun = self.batches.try_recv()?;
        }
    }

    /// Whether no message waits.
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.batches.is_empty()
    }

    /// Drops all that waits, with the rest of a batch that was begun.
    pub(super) fn clear(&mut self) {
        self.begun.clear();
        self.batches.try_iter().for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Waiter;

    #[test]
    fn what_waits_to_be_published_is_bounded_in_batches_and_bytes() {
        let (_waiter, wake) = Waiter::new("the test").expect("a poll");
        let (publisher, mut outbox) = Publisher::new(wake);
        let subject: Arc<str> = "s".into();
        assert!(publisher.publish(&subject, vec![vec![0; BYTES_MAX + 1]]));
        assert!(!publisher.publish(&subject, vec![vec![0; 1]]));
        outbox.clear();
        for _ in 0..BATCHES_MAX {
            assert!(publisher.publish(&subject, vec![vec![0; 1]]));
        }
        assert!(!publisher.publish(&subject, vec![vec![0; 1]]));
        outbox.clear();
        assert_eq!(
            publisher.bytes.load(Relaxed),
            0,
            "dropped messages give their room back"
        );
        drop(outbox);
        assert!(!publisher.publish(&subject, Vec::new()));
    }

    #[test]
    fn a_batch_is_published_whole_or_not_at_all() {
        let (_waiter, wake) = Waiter::new("the test").expect("a poll");
        let (publisher, mut outbox) = Publisher::new(wake);
        let subject: Arc<str> = "s".into();
        let parts = |count: usize| vec![vec![0; BYTES_MAX / 4]; count];
        assert!(publisher.publish(&subject, parts(2)));
        assert!(publisher.publish(&subject, Vec::new()));
        assert!(!publisher.publish(&subject, parts(3)), "two would fit");
        assert!(publisher.publish(&subject, vec![b"after".to_vec()]));
        let mut taken = || outbox.take().map(|message| message.payload.len());
        let quarter = BYTES_MAX / 4;
        let sizes = [taken(), taken(), taken(), taken()];
        let none = Err(TryRecvError::Empty);
        assert_eq!(sizes, [Ok(quarter), Ok(quarter), Ok(5), none]);
        // Of a batch that is lost with its connection, nothing follows on the next one.
        assert!(publisher.publish(&subject, parts(5)), "alone, of any size");
        assert!(outbox.take().is_ok() && !outbox.is_empty());
        outbox.clear();
        assert!(outbox.is_empty() && publisher.bytes.load(Relaxed) == 0);
    }
}
