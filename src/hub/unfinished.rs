//! Unfinished messages: which clients are dropped when all of them together take too much memory.
//!
//! A client may send a part of a message and then nothing but pongs. What such clients hold has a limit over all
//! clients, beside the limit of one message. Over the limit those clients go first whose memory times the time
//! since the message's last progress is the largest:
//!
//! - Not simply the largest message: very many clients with a little each would end every client that sends a
//!   whole message at the time.
//! - Not simply the longest time: a few bytes free nothing, and a client that waits for the rest of a small
//!   message would go before those that fill the memory.
//! - Progress is another doubling of the message's memory, so that a client cannot look busy with single bytes.
//!
//! To be spared, a client has to hold little or to send a lot, as an honest client does.

use std::cmp::Reverse;

use super::core::Core;
use super::session::Unfinished;
use super::{CloseReason, Now, SessionKey};

impl Core {
    /// Counts the memory of the client's unfinished message after a read, and drops clients if all together
    /// are over the limit. `is_new`: the client has finished another message in this read.
    #[inline]
    pub(super) fn count_unfinished(&mut self, key: SessionKey, is_new: bool) {
        let now = self.now;
        let session = self.clients.session_mut(key);
        let counted = session.and_then(|session| session.count_unfinished(now, is_new));
        if let Some((before, after)) = counted {
            let stats = &mut self.clients.stats;
            stats.unfinished_bytes = stats.unfinished_bytes - before as u64 + after as u64;
            if stats.unfinished_bytes > self.limits.unfinished_bytes_max {
                self.drop_unfinished();
            }
        }
    }

    /// Drops clients until an eighth of the limit is free: the next look at all clients comes after so many more
    /// bytes. The last client with an unfinished message stays, because one message has its own limit.
    #[cold]
    fn drop_unfinished(&mut self) {
        let now = self.now;
        let sessions = self.clients.sessions.iter();
        let mut holders: Vec<_> = sessions
            .map(|(slot, session)| (held(session.unfinished(), now), session.key(slot)))
            .filter(|(held, _)| *held > 0)
            .collect();
        holders.sort_unstable_by_key(|(held, _)| Reverse(*held));
        holders.pop();
        let max = self.limits.unfinished_bytes_max;
        for (_, key) in holders {
            if self.stats().unfinished_bytes <= max - max / 8 {
                break;
            }
            self.end(key, CloseReason::MessageMemory, true);
        }
    }
}

/// The memory of a message times the microseconds since its last progress, at least one.
fn held(unfinished: Unfinished, now: Now) -> u128 {
    let us = now.mono_us.saturating_sub(unfinished.since) + 1;
    unfinished.bytes as u128 * u128::from(us)
}
