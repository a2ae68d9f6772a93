//! Gathering: what is published shortly after a client's last message goes out together with what follows.
//!
//! A write costs the kernel about the same for 300 bytes as for 8 KB, so a client of many busy names costs less if its
//! messages go out together. The first message to a client goes out at once. A later one waits, and all that wait go out
//! together once the oldest of them has waited for the whole time. Answers, replayed messages, pings, pongs and closes go
//! out at once, and what waits before them goes with them.

use super::core::Core;
use super::session::Session;
use super::tables::SlotSet;
use super::{Frame, Now};

/// The clients that got a message shortly before (`recent`), and those of them with messages that wait (`waiting`).
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// The longest wait of a message, microseconds; 0: no message waits.
    wait_us: u64,
    /// When the oldest message has waited enough, or, without any, when the clients written to count as recent no more,
    /// microseconds of the monotonic clock; `None` without such clients.
    due_us: Option<u64>,
    recent: SlotSet,
    pub(super) waiting: SlotSet,
    /// Bytes published since the wait began, without states, of which a newer one replaces an older one.
    bytes: usize,
}

impl Gather {
    pub(super) fn new(wait_us: u64) -> Self {
        Self {
            wait_us,
            ..Self::default()
        }
    }

    /// Decides whether a message for the client in this slot waits for others. If not, its next messages do.
    #[inline]
    pub(super) fn hold_back(&mut self, now: Now, session: &mut Session, slot: u32) -> bool {
        self.wait_us > 0 && self.gather(now, session, slot)
    }

    /// Holds a message back if the client has got one shortly before; all that wait go out by the same `due_us`.
    /// Otherwise returns false, and notes that the client gets one now.
    fn gather(&mut self, now: Now, session: &mut Session, slot: u32) -> bool {
        if !self.recent.contains(slot) {
            self.recent.insert(slot);
            self.due_us.get_or_insert(now.mono_us + self.wait_us);
            return false;
        }
        if session.set_gathered() {
            if self.waiting.is_empty() {
                self.due_us = Some(now.mono_us + self.wait_us);
            }
            self.waiting.insert(slot);
        }
        true
    }

    /// Forgets a slot that is free, so that its next client does not wait.
    pub(super) fn forget(&mut self, slot: u32) {
        self.waiting.remove(slot);
        self.recent.remove(slot);
    }

    /// When [`Core::end_gathering`] has something to do, microseconds of the monotonic clock.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// Counts a frame that is no state, if clients wait. Returns the bytes that were published during the wait.
    fn count_published(&mut self, frame: &Frame) -> usize {
        if !frame.is_state() && !self.waiting.is_empty() {
            self.bytes += frame.queue_bytes();
        }
        self.bytes
    }

    /// Ends the wait. The next one is for those that waited, and for those that get something meanwhile.
    fn end(&mut self, now: Now) {
        self.bytes = 0;
        self.recent.clear();
        let is_next = !self.waiting.is_empty();
        self.due_us = is_next.then_some(now.mono_us + self.wait_us);
    }
}

impl Core {
    /// Lets the messages that wait for others go out if their time has come.
    pub(super) fn end_gathering(&mut self) {
        let due_us = self.clients.gather.due_us();
        if due_us.is_some_and(|at| at <= self.now.mono_us) {
            self.release_gathered();
        }
    }

    /// Counts a publication. A quarter of what a send queue may hold goes out before the time has come.
    pub(super) fn note_gathered(&mut self, frame: &Frame) {
        let bytes_max = self.limits.send_queue.soft_bytes / 4;
        if self.clients.gather.count_published(frame) > bytes_max {
            self.release_gathered();
        }
    }

    /// Ends the wait of the clients whose messages were gathered: the next flush writes them.
    fn release_gathered(&mut self) {
        let (now, clients) = (self.now, &mut self.clients);
        clients.gather.end(now);
        let mut next = 0;
        while let Some(slot) = clients.gather.waiting.take_from(next) {
            next = slot + 1;
            clients.gather.recent.insert(slot);
            if let Some(key) = clients.key_at(slot) {
                clients.end_gathering(now, key);
            }
        }
    }
}
