//! The handle with which others say what they want from Redis while the source runs.

use std::fmt;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::feeds::Subscription;
use crate::wake::Wake;

/// Says what is wanted. Never waits, so the loop may use it; clones say it to the same source.
///
/// Each name is wanted or not; saying the same twice changes nothing. See [`super`] for what comes
/// back.
#[derive(Clone)]
pub struct RedisInterest {
    changes: Sender<Wish>,
    wake: Wake,
}

/// A name that is wanted from now on, or no longer.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) subscription: Subscription,
    pub(super) wanted: bool,
    /// Comes back with the answer.
    pub(super) number: u64,
}

/// The source's end.
pub(super) struct Wishes {
    changes: Receiver<Wish>,
    wake: Wake,
}

/// A handle, and where its wishes come out. The channel has no bound of its own: the source takes
/// what is in it at least between two attempts to connect, and forgets whatever was taken back.
pub(super) fn interest(wake: Wake) -> (RedisInterest, Wishes) {
    let (sender, receiver) = unbounded();
    let handle = RedisInterest {
        changes: sender,
        wake: wake.clone(),
    };
    let wishes = Wishes {
        changes: receiver,
        wake,
    };
    (handle, wishes)
}

impl RedisInterest {
    /// Wants a channel, or the channels of a pattern. For callers that want each name once.
    pub fn subscribe(&self, subscription: Subscription) {
        self.subscribe_numbered(subscription, 0);
    }

    /// Wants a channel, or the channels of a pattern. The answer brings the number back.
    pub fn subscribe_numbered(&self, subscription: Subscription, number: u64) {
        self.say(Wish {
            subscription,
            wanted: true,
            number,
        });
    }

    /// Wants it no longer.
    pub fn unsubscribe(&self, subscription: Subscription) {
        self.say(Wish {
            subscription,
            wanted: false,
            number: 0,
        });
    }

    fn say(&self, wish: Wish) {
        // A source that has ended wants nothing any more.
        if self.changes.send(wish).is_ok() {
            self.wake.wake();
        }
    }
}

impl fmt::Debug for RedisInterest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisInterest").finish_non_exhaustive()
    }
}

impl Wishes {
    /// What was said until now. What is said from here on wakes the source again.
    pub(super) fn take(&self) -> impl Iterator<Item = Wish> {
        self.wake.awake();
        let waiting = self.changes.len();
        self.changes.try_iter().take(waiting)
    }
}
