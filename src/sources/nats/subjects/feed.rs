//! Subscribed names, and the kept feed among the names. Two connections to NATS may get the messages of two publishers in another
//! order, so positions are valid on this connection alone.

use std::time::Instant;

use super::super::error::Stop;
use super::session::Session;
use crate::feeds::{BusEvent, Place, Subscription};

/// The limit on names reported as settled between two reads.
const SETTLED_PER_TURN: usize = 1_024;

impl Session<'_> {
    /// Reports the names known to the other servers by now.
    pub(super) fn tell_settled(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
        for _ in 0..SETTLED_PER_TURN {
            let Some((subscription, number)) = self.ledger.next_settled(now) else {
                break;
            };
            self.tell_subscribed(subscription, number)?;
        }
        Ok(())
    }

    pub(super) fn tell_subscribed(
        &mut self,
        subscription: Subscription,
        number: u64,
    ) -> Result<(), Stop> {
        self.settle_kept(&subscription, true);
        self.relay.link.send(BusEvent::Subscribed {
            subscription,
            number,
        })?;
        match self.has_stood {
            true => self.begin_feed(),
            false => Ok(()),
        }
    }

    /// Begins to count, if all names of the feed are subscribed.
    pub(super) fn begin_feed(&mut self) -> Result<(), Stop> {
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.may_begin()) {
            self.relay.link.send(kept.begin())?;
        }
        Ok(())
    }

    /// Notes the answer for a name.
    pub(super) fn settle_kept(&mut self, subscription: &Subscription, stands: bool) {
        if let Some(kept) = &mut self.kept {
            kept.settle(subscription, stands);
        }
    }

    /// The place of a message; `None` for a copy.
    pub(super) fn place(&mut self, pattern: Option<&str>, subject: &str) -> Option<Place> {
        let Some(kept) = &mut self.kept else {
            return Some(Place::Outside);
        };
        match pattern {
            Some(pattern) => kept.place(pattern, true, subject),
            None => kept.place(subject, false, subject),
        }
    }
}
