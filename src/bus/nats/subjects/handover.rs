//! The move of all subscriptions from a server in lame duck mode to another one: both connections are read, until the
//! new one has all names and the old one has handed over what was on its way. Messages have no numbers, so copies are
//! recognised by name, subject and payload, within the time in which both copies come. A message on the old connection
//! is handed over at once. A message that comes first on the new connection waits for its copy on the old connection,
//! or for the end of the old connection. So the messages of a publisher keep their order.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::error::{NatsError, Stop};
use super::super::protocol::{Delivery, Op};
use super::super::servers;
use super::super::wire::Wire;
use super::Sids;
use super::session::Session;
use crate::NAME_NOT_UTF8;
use crate::runtime::Wake;
use crate::socket::Waiter;
use weirgate_core::{BusEvent, BusMessage, Subscription};
use weirgate_wire::base::Now;

/// The longest wait on the new connection between two looks at the old one.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// The connection to a server in lame duck mode.
pub(super) struct Before {
    wire: Wire,
    waiter: Waiter,
    _wake: Wake,
    sids: Sids,
    /// The number of the last PING, sent when the new connection has all names. The messages before its PONG are handed
    /// over, and then this connection ends.
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
        if self.source.names.ledger.is_restored() && before.last_ping.is_none() {
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
                    // Before the new connection has asked for the name, no server sends a copy to it.
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
        let Some(place) = self.place(subscription, &delivery.subject) else {
            return Ok(());
        };
        let name = Arc::clone(&subscription.name);
        let (subject, pattern) = match (subscription.is_pattern, delivery.name()) {
            (false, _) => (name, None),
            (true, Some(subject)) => (subject.into(), Some(name)),
            (true, None) => {
                let (skipped, why) = ((subscription.clone(), place), NAME_NOT_UTF8);
                let names = &mut self.source.names;
                return Ok(names.skip(&self.relay.link, received, skipped, why)?);
            }
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

/// The least time for which a message is remembered, so that its copy is recognised.
const WINDOW_MIN: Duration = Duration::from_millis(250);
/// The most bytes of messages that wait.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// The bytes that a waiting message counts for beside its subject and payload.
const MESSAGE_BYTES: usize = 256;

/// The messages whose copies on the other connection have not come yet. Pure.
pub(super) struct Overlap {
    hashes: RandomState,
    window: Duration,
    /// Messages that the old connection has handed over.
    old: VecDeque<(Instant, u64)>,
    /// Messages of the new connection that the old one has not handed over.
    new: VecDeque<(u64, Delivery)>,
    new_bytes: usize,
    has_ended: bool,
}

impl Overlap {
    /// Copies come within `window`, or within [`WINDOW_MIN`] if that is longer.
    pub(super) fn new(window: Duration) -> Self {
        Self {
            hashes: RandomState::new(),
            window: window.max(WINDOW_MIN),
            old: VecDeque::new(),
            new: VecDeque::new(),
            new_bytes: 0,
            has_ended: false,
        }
    }

    /// Notes a message that the old connection hands over.
    pub(super) fn take_old(&mut self, by: &Subscription, delivery: &Delivery, now: Instant) {
        let key = self.key(by, delivery);
        match self.new.iter().position(|(other, _)| *other == key) {
            Some(at) => {
                let copy = self.new.remove(at);
                self.new_bytes -= copy.map_or(0, |(_, copy)| bytes(&copy));
            }
            None => self.old.push_back((now, key)),
        }
    }

    /// Takes a message of the new connection. Returns a message to hand over now.
    pub(super) fn take_new(
        &mut self,
        by: &Subscription,
        delivery: Delivery,
        now: Instant,
    ) -> Option<Delivery> {
        let is_late = |(arrived, _): &(Instant, u64)| now >= *arrived + self.window;
        while self.old.front().is_some_and(is_late) {
            self.old.pop_front();
        }
        let key = self.key(by, &delivery);
        if let Some(at) = self.old.iter().position(|(_, other)| *other == key) {
            self.old.remove(at);
            return None;
        }
        if self.has_ended {
            return Some(delivery);
        }
        self.new_bytes += bytes(&delivery);
        self.new.push_back((key, delivery));
        None
    }

    /// Whether the old connection has ended, and no copy of its messages can come any more.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended && self.old.is_empty()
    }

    /// Whether too much waits.
    pub(super) fn is_full(&self) -> bool {
        self.new_bytes > BYTES_MAX
    }

    /// Handles the end of the old connection. Returns the messages that it did not hand over.
    pub(super) fn end(&mut self) -> impl Iterator<Item = Delivery> + use<> {
        (self.has_ended, self.new_bytes) = (true, 0);
        let new = std::mem::take(&mut self.new);
        new.into_iter().map(|(_, delivery)| delivery)
    }

    fn key(&self, by: &Subscription, delivery: &Delivery) -> u64 {
        let of_message = (&delivery.subject, &delivery.payload, delivery.is_deletion);
        self.hashes.hash_one((&by.name, by.is_pattern, of_message))
    }
}

fn bytes(delivery: &Delivery) -> usize {
    MESSAGE_BYTES + delivery.subject.len() + delivery.payload.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> Delivery {
        Delivery {
            subject: b"a.b".to_vec(),
            payload: text.into(),
            ..Delivery::default()
        }
    }

    proptest! {
        /// A publisher's messages, of which many are equal, come on the old connection up to some message, and on the
        /// new one from some message on, with any delay between the two.
        #[test]
        fn each_message_is_handed_over_once_and_in_order(
            texts in prop::collection::vec(0..4_u8, 1..60),
            cut in (0..60_usize, 0..60_usize),
            ahead in prop::collection::vec(any::<bool>(), 120),
        ) {
            let by = Subscription::pattern("a.*");
            let (begun, ended) = (cut.0.min(cut.1).min(texts.len()), cut.0.max(cut.1).min(texts.len()));
            // Messages before `begun` come on the old connection alone, so each is different.
            let text = |at: usize| match at < begun {
                true => format!("before {at}"),
                false => texts[at].to_string(),
            };
            let mut overlap = Overlap::new(Duration::ZERO);
            let (mut old, mut new, mut arrived) = (0, begun, Vec::new());
            let now = Instant::now();
            for is_new in ahead {
                if is_new && new < texts.len() {
                    arrived.extend(overlap.take_new(&by, message(&text(new)), now));
                    new += 1;
                } else if !is_new && old < ended {
                    let delivery = message(&text(old));
                    overlap.take_old(&by, &delivery, now);
                    arrived.push(delivery);
                    old += 1;
                }
            }
            for at in old..ended {
                let delivery = message(&text(at));
                overlap.take_old(&by, &delivery, now);
                arrived.push(delivery);
            }
            arrived.extend(overlap.end());
            for at in new..texts.len() {
                arrived.extend(overlap.take_new(&by, message(&text(at)), now));
            }
            let arrived: Vec<_> = arrived.into_iter().map(|delivery| delivery.payload).collect();
            let want: Vec<_> = (0..texts.len()).map(|at| text(at).into_bytes()).collect();
            prop_assert_eq!(arrived, want);
        }
    }

    #[test]
    fn an_equal_message_after_the_time_of_copies_is_another_one() {
        let by = Subscription::channel("a.b");
        let mut overlap = Overlap::new(Duration::ZERO);
        let now = Instant::now();
        overlap.take_old(&by, &message("1"), now);
        assert_eq!(overlap.end().count(), 0);
        let later = now + WINDOW_MIN;
        assert!(overlap.take_new(&by, message("1"), later).is_some());
        assert!(!overlap.is_full());
    }

    #[test]
    fn what_waits_is_bounded() {
        let by = Subscription::channel("a.b");
        let mut overlap = Overlap::new(Duration::ZERO);
        let large = "x".repeat(BYTES_MAX / 2);
        for is_full in [false, true] {
            let _ = overlap.take_new(&by, message(&large), Instant::now());
            assert_eq!(overlap.is_full(), is_full);
        }
    }
}
