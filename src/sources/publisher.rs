//! Messages that a gateway publishes on a bus, on their way to the thread of the connection.
//!
//! Publishing never waits: the queue is bounded in messages and bytes, and a full queue is reported.
//! Messages not published when a connection is lost are dropped: they would be late on the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::Wake;

/// The most messages that may wait to be written.
const MESSAGES_MAX: usize = 4_096;
/// The most bytes of these messages. A single message of any size has room.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Publishes on a bus; clones publish on the same connection, in the order of their calls.
#[derive(Clone, Debug)]
pub struct Publisher {
    sender: Sender<Outgoing>,
    bytes: Arc<AtomicUsize>,
    wake: Wake,
}

/// The end of the thread that writes.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    pub(super) messages: Receiver<Outgoing>,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) subject: Arc<str>,
    pub(super) payload: Vec<u8>,
    room: Arc<AtomicUsize>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.room.fetch_sub(self.payload.len(), Relaxed);
    }
}

/// Creates both ends. `wake` wakes the thread that writes.
pub(super) fn publisher(wake: Wake) -> (Publisher, Outbox) {
    let (sender, messages) = bounded(MESSAGES_MAX);
    let publisher = Publisher {
        sender,
        bytes: Arc::default(),
        wake,
    };
    (publisher, Outbox { messages })
}

impl Publisher {
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

impl Outbox {
    /// Drops the waiting messages, after the loss of their connection.
    pub(super) fn discard(&self) {
        self.messages.try_iter().for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::socket::Waiter;

    #[test]
    fn what_waits_to_be_published_is_bounded_in_messages_and_bytes() {
        let (_waiter, wake) = Waiter::new("the test").expect("a poll");
        let (publisher, outbox) = publisher(wake);
        let subject: Arc<str> = "s".into();
        assert!(publisher.publish(&subject, vec![0; BYTES_MAX + 1]));
        assert!(!publisher.publish(&subject, vec![0; 1]));
        outbox.discard();
        for _ in 0..MESSAGES_MAX {
            assert!(publisher.publish(&subject, vec![0; 1]));
        }
        assert!(!publisher.publish(&subject, vec![0; 1]));
        outbox.discard();
        assert_eq!(
            publisher.bytes.load(Relaxed),
            0,
            "dropped messages give their room back"
        );
        drop(outbox);
        assert!(!publisher.publish(&subject, Vec::new()));
    }
}
