//! The handle with which others say what they want from Redis while the source runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Waker;

use crate::feeds::Subscription;

/// Says what is wanted. Never waits, so the loop may use it; clones say it to the same source.
///
/// Each name is wanted or not; saying the same twice changes nothing. See [`super`] for what comes
/// back.
#[derive(Clone)]
pub struct RedisInterest {
    changes: Sender<Wish>,
    wake: Arc<Wake>,
}

/// A name that is wanted from now on, or no longer.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) subscription: Subscription,
    pub(super) wanted: bool,
}

/// The source's end.
pub(super) struct Wishes {
    changes: Receiver<Wish>,
    wake: Arc<Wake>,
}

struct Wake {
    /// The source was woken and has not looked yet.
    pending: AtomicBool,
    waker: Waker,
}

/// A handle, and where its wishes come out. The channel has no bound of its own: the source takes
/// what is in it at least between two attempts to connect, and forgets whatever was taken back.
pub(super) fn interest(waker: Waker) -> (RedisInterest, Wishes) {
    let (sender, receiver) = unbounded();
    let wake = Arc::new(Wake {
        pending: AtomicBool::new(false),
        waker,
    });
    let handle = RedisInterest {
        changes: sender,
        wake: Arc::clone(&wake),
    };
    let wishes = Wishes {
        changes: receiver,
        wake,
    };
    (handle, wishes)
}

impl RedisInterest {
    /// Wants a channel, or the channels of a pattern.
    pub fn subscribe(&self, subscription: Subscription) {
        self.say(subscription, true);
    }

    /// Wants it no longer.
    pub fn unsubscribe(&self, subscription: Subscription) {
        self.say(subscription, false);
    }

    fn say(&self, subscription: Subscription, wanted: bool) {
        let wish = Wish {
            subscription,
            wanted,
        };
        // A source that has ended wants nothing any more.
        if self.changes.send(wish).is_ok()
            && !self.wake.pending.swap(true, Ordering::AcqRel)
            && let Err(error) = self.wake.waker.wake()
        {
            tracing::error!(%error, "the Redis source could not be woken");
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
        // An exchange, not a store: it must not be seen later than what is read from the channel.
        self.wake.pending.swap(false, Ordering::AcqRel);
        let waiting = self.changes.len();
        self.changes.try_iter().take(waiting)
    }
}
