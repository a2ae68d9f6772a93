//! What gateways publish through a running source.
//!
//! Publishing never waits: the queue is bounded in messages and bytes, and a full queue is reported. Messages that were not
//! published when a connection is lost are dropped, because on the next connection they would be late.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, bounded};

use weirgate_runtime::Wake;

/// The most messages that may wait to be written.
const MESSAGES_MAX: usize = 4_096;
/// The most bytes of these messages; a single message may have any size.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Publishes on a bus; clones publish on the same connection, in the order of their calls.
#[derive(Clone, Debug)]
pub struct Publisher {
    sender: Sender<Outgoing>,
    /// The bytes of the payloads that wait.
    bytes: Arc<AtomicUsize>,
    wake: Wake,
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
    pub(super) fn new(wake: Wake) -> (Self, Receiver<Outgoing>) {
        let (sender, messages) = bounded(MESSAGES_MAX);
        let publisher = Self {
            sender,
            bytes: Arc::default(),
            wake,
        };
        (publisher, messages)
    }

    /// Queues a message to publish. Returns false, and drops the message, if too much waits to be written
    /// or the thread that writes has ended.
    pub fn publish(&self, subject: &Arc<str>, payload: Vec<u8>) -> bool {
        let bytes = payload.len();
        let before = self.bytes.fetch_add(bytes, Relaxed);
        let outgoing = Outgoing {
            subject: Arc::clone(subject),
            payload,
            room: Arc::clone(&self.bytes),
        };
        let is_full = before > 0 && before.saturating_add(bytes) > BYTES_MAX;
        if is_full || self.sender.try_send(outgoing).is_err() {
            return false;
        }
        self.wake.wake();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Waiter;

    #[test]
    fn what_waits_to_be_published_is_bounded_in_messages_and_bytes() {
        let (_waiter, wake) = Waiter::new("the test").expect("a poll");
        let (publisher, outbox) = Publisher::new(wake);
        let subject: Arc<str> = "s".into();
        assert!(publisher.publish(&subject, vec![0; BYTES_MAX + 1]));
        assert!(!publisher.publish(&subject, vec![0; 1]));
        outbox.try_iter().for_each(drop);
        for _ in 0..MESSAGES_MAX {
            assert!(publisher.publish(&subject, vec![0; 1]));
        }
        assert!(!publisher.publish(&subject, vec![0; 1]));
        outbox.try_iter().for_each(drop);
        assert_eq!(
            publisher.bytes.load(Relaxed),
            0,
            "dropped messages give their room back"
        );
        drop(outbox);
        assert!(!publisher.publish(&subject, Vec::new()));
    }
}
