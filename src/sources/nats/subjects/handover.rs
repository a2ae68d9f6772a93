//! The move of all subscriptions from a server in lame duck mode to another one: both connections are read, until the new
//! one has all names and the old one has handed over what was on its way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::error::{NatsError, Stop};
use super::super::protocol::{Delivery, Op};
use super::super::servers;
use super::super::wire::Wire;
use super::overlap::Overlap;
use super::session::Session;
use super::sids::Sids;
use crate::base::{Now, Wake};
use crate::feeds::{BusEvent, BusMessage, Subscription};
use crate::sources::socket::Waiter;

/// The longest wait on the new connection between two looks at the old one.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// The connection to a server in lame duck mode.
pub(super) struct Before {
    wire: Wire,
    waiter: Waiter,
    _wake: Wake,
    sids: Sids,
    /// The number of the PING behind everything that this connection has to hand over.
    last_ping: Option<u64>,
}

impl Before {
    /// Sets the connection of `waiter` aside.
    pub(super) fn new(mut wire: Wire, waiter: &Waiter, sids: Sids) -> Result<Self, NatsError> {
        wire.set_aside(waiter);
        let (mut own, wake) = servers::waiter("the NATS source")?;
        wire.wait_with(&mut own)?;
        Ok(Self {
            wire,
            waiter: own,
            _wake: wake,
            sids,
            last_ping: None,
        })
    }
}

impl Session<'_> {
    /// Relays what has come on the connection before, and ends it once this one has all names.
    pub(super) fn relay_before(&mut self) -> Result<(), Stop> {
        let Some(mut before) = self.before.take() else {
            return Ok(());
        };
        if self.overlap.as_ref().is_some_and(Overlap::is_full) {
            return Err(NatsError::LameDuck.into());
        }
        if self.source.ledger.is_restored() && before.last_ping.is_none() {
            before.last_ping = Some(before.wire.ping());
        }
        before.wire.flush(&mut before.waiter)?;
        before.wire.has_news(&mut before.waiter)?;
        let received = self.relay.link.now();
        while before.wire.read(&mut before.waiter)? {
            let now = Instant::now();
            while let Some(op) = before.wire.next_op()? {
                if let Op::Message(delivery) = op
                    && let Some(by) = before.sids.get(delivery.sid)
                {
                    // Before this connection asked for the name, no server sends it a copy.
                    if let Some(overlap) = &mut self.overlap
                        && self.sids.of(&by.name).is_some()
                    {
                        overlap.take_old(by, &delivery, now);
                    }
                    self.hand_over(&by.clone(), delivery, received)?;
                }
            }
        }
        match before
            .last_ping
            .is_some_and(|ping| before.wire.is_answered(ping))
        {
            false => self.before = Some(before),
            true => {
                before.wire.leave(&before.waiter);
                let rest = self.overlap.as_mut().map(Overlap::end);
                for delivery in rest.into_iter().flatten() {
                    if let Some(by) = self.sids.get(delivery.sid).cloned() {
                        self.hand_over(&by, delivery, received)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands a message over.
    pub(super) fn hand_over(
        &mut self,
        subscription: &Subscription,
        delivery: Delivery,
        received: Now,
    ) -> Result<(), Stop> {
        let name = Arc::clone(&subscription.name);
        let (subject, pattern) = match subscription.is_pattern {
            true => (delivery.subject.into(), Some(name)),
            false => (name, None),
        };
        let Some(place) = self.place(pattern.as_deref(), &subject) else {
            return Ok(());
        };
        let message = BusMessage {
            subject,
            pattern,
            payload: delivery.payload,
            position: None,
            place,
            received,
            quiet: false,
        };
        let event = BusEvent::of(message, delivery.is_deletion);
        match &mut self.source.publishing {
            Some(publishing) => publishing.hand_over(event, &self.relay.link),
            None => Ok(self.relay.link.send(event)?),
        }
    }
}
