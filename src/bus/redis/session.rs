//! The session on a subscribed connection, from the log-in until the loss: messages and confirmations to the loop, requests
//! of gateways to Redis. The kept feed in it, with its positions and marks, is in `marks.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::connection::Connection;
use super::error::{RedisError, Stop, is_temporary, shown_trimmed};
use super::marks::MarkedFeed;
use super::resp::{CutString, ReadLimits, Value};
use super::servers::RedisServers;
use crate::ledger::SubscriptionChange;
use crate::probe::Probe;
use crate::relay::Relay;
use crate::requests::Names;
use crate::socket::Waiter;
use crate::{NAME_BYTES_MAX, NAME_TOO_LONG, name_of};
use weirgate_core::{BusEvent, BusMessage, Place, SkippedMessage, Subscription};
use weirgate_wire::base::Now;

/// No further command is queued while at least this many bytes wait to be written.
const QUEUED_BYTES_MAX: usize = 64 * 1024;
/// The longest list that Redis sends on a subscribed connection: kind, pattern, channel, payload.
const PUSH_ITEMS_MAX: usize = 4;

/// A connection, and what its session uses of the source.
pub(super) struct PubSubSession<'a, 'w> {
    pub(super) connection: Connection<'w>,
    pub(super) servers: &'a RedisServers,
    /// Decides whether to keep this connection while it is silent.
    pub(super) probe: Probe,
    pub(super) second_waiter: &'a mut Waiter,
    pub(super) relay: &'a mut Relay<RedisError>,
    pub(super) names: &'a mut Names,
    /// The channel of the marks, of which nothing is relayed. Never `None` with a kept feed.
    pub(super) marks_channel: Option<&'a str>,
    /// `None` without a kept feed.
    pub(super) kept: Option<&'a mut MarkedFeed>,
    /// Unanswered commands, in the order of their sending.
    pub(super) expected: VecDeque<Expected>,
}

/// What the next answer of the server has to be.
pub(super) enum Expected {
    /// The answer to a ping.
    Pong,
    /// A confirmation for each name of a command, which was sent then.
    Change(SubscriptionChange, Instant),
    /// The subscription to the channel of the marks.
    Marks,
}

/// The command that a confirmation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Confirmed {
    /// Whether the command subscribes, in place of unsubscribing.
    wanted: bool,
    /// Whether the names are patterns.
    patterns: bool,
}

impl Confirmed {
    /// The command that the kind of a pushed list names.
    fn named(kind: &[u8]) -> Option<Self> {
        let (wanted, patterns) = match kind {
            b"subscribe" => (true, false),
            b"psubscribe" => (true, true),
            b"unsubscribe" => (false, false),
            b"punsubscribe" => (false, true),
            _ => return None,
        };
        Some(Self { wanted, patterns })
    }
}

impl PubSubSession<'_, '_> {
    /// Takes turns until all names wanted at the start of the connection are subscribed; relays messages meanwhile.
    pub(super) fn restore(&mut self) -> Result<(), Stop> {
        self.connection.reader.set_limits(ReadLimits {
            // The feed checks payloads; names have a limit of their own.
            bulk_bytes_max: self.servers.settings.payload_bytes_max.max(NAME_BYTES_MAX),
            items_max: PUSH_ITEMS_MAX,
            entry_fields: &[],
            singly: false,
        });
        self.names.begin_connection();
        while !self.names.ledger.is_restored() {
            self.turn()?;
        }
        Ok(())
    }

    /// Reads at most once, and handles the answers and messages that were read and what gateways request. If there was
    /// nothing to read, waits.
    pub(super) fn turn(&mut self) -> Result<(), Stop> {
        self.names.take_and_answer(&self.relay.link)?;
        let has_read = self.connection.read()?;
        if has_read {
            let is_restored = self.names.ledger.is_restored();
            if self.probe.end_silence(self.relay, is_restored)? {
                self.show_refusals();
            }
            self.relay()?;
        }
        let until = self.watch(!has_read)?;
        let until = self.mark()?.map_or(until, |mark| mark.min(until));
        self.send_changes();
        self.names.show();
        self.connection.flush()?;
        if has_read {
            self.relay.note_work();
        } else {
            self.connection.wait(self.relay, until)?;
        }
        Ok(())
    }

    /// Queues the due commands.
    fn send_changes(&mut self) {
        while self.connection.queued_bytes() < QUEUED_BYTES_MAX {
            let Some(change) = self.names.ledger.next_change() else {
                return;
            };
            let command: Vec<&str> = std::iter::once(command(&change))
                .chain(change.names.iter().map(|name| &**name))
                .collect();
            self.connection.queue(&command);
            let expected = Expected::Change(change, Instant::now());
            self.expected.push_back(expected);
        }
    }

    /// Pings a silent server, and gives the connection up after too long a silence, or if a subscription is not confirmed for
    /// as long. Returns when to check again.
    fn watch(&mut self, is_silent: bool) -> Result<Instant, Stop> {
        self.connection.check_master()?;
        self.names.retry_refused();
        if is_silent && let Some(ms) = self.unconfirmed_ms() {
            return Err(RedisError::Unconfirmed(ms).into());
        }
        let (times, expected) = (&self.servers.settings.times, &mut self.expected);
        let pings = || expected.push_back(Expected::Pong);
        match self.connection.watch(times, is_silent, pings) {
            Some(next) => Ok(next),
            None => self.probe(),
        }
    }

    /// For how many milliseconds the oldest subscription has not been confirmed, if that is too long.
    fn unconfirmed_ms(&self) -> Option<u64> {
        let oldest = self.expected.iter().find_map(|expected| match expected {
            Expected::Change(_, sent) => Some(*sent),
            Expected::Pong | Expected::Marks => None,
        });
        self.servers.settings.times.unanswered_ms(oldest)
    }

    /// Handles too long a silence: the server is busy, or the link is dead. Returns when to check again.
    fn probe(&mut self) -> Result<Instant, Stop> {
        let last_received = self.connection.last_received();
        let next = self.probe.probe_if_due(last_received, self.relay, || {
            let server = (&self.connection.endpoint, self.connection.address);
            self.servers.try_second(self.second_waiter, server)
        })?;
        // Bytes that arrived during the second connection end the silence.
        if next.is_none() && self.connection.has_input()? {
            return Ok(Instant::now());
        }
        next.ok_or_else(|| {
            let silent_ms = last_received.elapsed().as_millis() as u64;
            RedisError::Silent(silent_ms).into()
        })
    }

    /// Hands over all values in the bytes.
    fn relay(&mut self) -> Result<(), Stop> {
        let received = self.relay.link.now();
        while let Some(value) = self.connection.next_value()? {
            match value {
                Value::Array(items) => self.push(items, received)?,
                Value::Error(words) => self.refused(&words)?,
                Value::Status(_) => self.ponged()?,
                _ => return Err(self.wrong("an answer that fits no question")),
            }
        }
        Ok(())
    }

    /// Handles a list that the server has pushed: its first item is the kind.
    fn push(&mut self, items: Vec<Value>, received: Now) -> Result<(), Stop> {
        let mut items = items.into_iter();
        let mut next = || items.next().unwrap_or(Value::Nil);
        let Value::Bulk(kind) = next() else {
            return Err(self.wrong("a list of no known kind"));
        };
        match kind.as_slice() {
            b"message" => self.message(None, next(), next(), received),
            b"pmessage" => self.message(Some(next()), next(), next(), received),
            b"pong" => self.ponged(),
            kind => match Confirmed::named(kind) {
                Some(command) => self.confirmed(command, &next()),
                None => Err(self.wrong("a list of no known kind")),
            },
        }
    }

    /// Relays a message, or takes it as a mark, which means nothing without a kept feed. `pattern` is the pattern of a
    /// `pmessage`.
    fn message(
        &mut self,
        pattern: Option<Value>,
        channel: Value,
        payload: Value,
        received: Now,
    ) -> Result<(), Stop> {
        let subscription = self.subscription_of(pattern, &channel)?;
        let channel = match channel {
            Value::Bulk(channel) => channel,
            Value::Cut(name) => {
                return match self.place_of_cut(&subscription, &name) {
                    Some(place) => self.skip(subscription, place, NAME_TOO_LONG),
                    None => Ok(()),
                };
            }
            _ => return Err(self.wrong("a message without its channel")),
        };
        let (Value::Bulk(payload) | Value::Cut(CutString { start: payload, .. })) = payload else {
            return Err(self.wrong("a message without its payload"));
        };
        if self.is_of_marks(&channel) {
            return match subscription.is_pattern {
                // A copy of the mark, because the pattern matches its channel too.
                true => Ok(()),
                false => self.take_mark(&payload),
            };
        }
        let Some(place) = self.place(&subscription, &channel) else {
            return Ok(());
        };
        let (subject, pattern) = match (subscription.is_pattern, name_of(&channel)) {
            (false, _) => (subscription.name, None),
            // The ledger knows only the requested names.
            (true, Ok(channel)) => (channel.into(), Some(subscription.name)),
            (true, Err(why)) => return self.skip(subscription, place, why),
        };
        self.relay.link.send(BusEvent::Message(BusMessage {
            pattern,
            place,
            ..BusMessage::new(subject, payload, received)
        }))?;
        Ok(())
    }

    /// The subscription that a message belongs to. A channel that was cut belongs to no known name.
    fn subscription_of(
        &self,
        pattern: Option<Value>,
        channel: &Value,
    ) -> Result<Subscription, Stop> {
        match (pattern, channel) {
            (Some(Value::Bulk(pattern)), _) => Ok(Subscription::pattern(self.pattern(&pattern))),
            (Some(_), _) => Err(self.wrong("a message without its pattern")),
            (None, Value::Bulk(channel)) => Ok(Subscription::channel(self.channel(channel))),
            (None, _) => Ok(Subscription::pattern("")),
        }
    }

    /// Whether this is the channel of the marks.
    pub(super) fn is_of_marks(&self, channel: &[u8]) -> bool {
        (self.marks_channel).is_some_and(|marks| marks.as_bytes() == channel)
    }

    /// Reports a message that cannot be relayed.
    fn skip(
        &mut self,
        subscription: Subscription,
        place: Place,
        why: &'static str,
    ) -> Result<(), Stop> {
        Ok(self.relay.link.send(BusEvent::Skipped(SkippedMessage {
            subscription,
            place,
            id: None,
            why,
        }))?)
    }

    /// The name of a channel: the ledger's copy if it has one, to save an allocation.
    fn channel(&self, bytes: &[u8]) -> Arc<str> {
        let name = String::from_utf8_lossy(bytes);
        let kept = self.names.ledger.channel(&name);
        kept.unwrap_or_else(|| name.into())
    }

    /// The pattern of a message: the ledger's copy if it has one, to save an allocation.
    fn pattern(&self, bytes: &[u8]) -> Arc<str> {
        let name = String::from_utf8_lossy(bytes);
        let kept = self.names.ledger.pattern(&name);
        kept.unwrap_or_else(|| name.into())
    }

    /// Handles the confirmation of a name.
    fn confirmed(&mut self, command: Confirmed, name: &Value) -> Result<(), Stop> {
        if let Some(Expected::Marks) = self.expected.front() {
            return self.marks_confirmed(name);
        }
        let Some(name) = self.expected_name(command, name) else {
            return Err(self.wrong("a confirmation of what was not asked"));
        };
        let subscription = Subscription {
            name,
            is_pattern: command.patterns,
        };
        let feed = self.kept.as_mut().map(|kept| &mut kept.feed);
        let number = match (command.wanted, feed) {
            (true, feed) => {
                if let Some(feed) = feed {
                    feed.subscribed(&subscription);
                }
                self.names.ledger.subscribed(&subscription)
            }
            (false, feed) => {
                // The name was given up here, so nothing is lost.
                let _ = feed.is_some_and(|feed| feed.unsubscribed(&subscription));
                self.names.ledger.unsubscribed(&subscription);
                None
            }
        };
        if let Some(number) = number {
            // Redis may have refused this name before, and the status would still say so.
            if self.relay.is_up_now() {
                let was_refused = self.relay.status.is_subscription_refused();
                self.show_refusals();
                if was_refused && !self.relay.status.is_subscription_refused() {
                    tracing::warn!(
                        messages_lost = true,
                        "Redis permits all subscriptions now; clients are notified of the loss"
                    );
                    self.relay.link.send(BusEvent::Gap { lost: None })?;
                }
            }
            self.relay.link.send(BusEvent::Subscribed {
                subscription,
                number,
            })?;
        }
        // Before the bus is up, the source begins the feed, once all names are restored.
        match self.relay.is_up_now() {
            true => self.begin_feed(),
            false => Ok(()),
        }
    }

    /// Takes the name whose confirmation is due. Returns `None` if the confirmation is for another name or command.
    fn expected_name(&mut self, command: Confirmed, name: &Value) -> Option<Arc<str>> {
        let Some(Expected::Change(change, _)) = self.expected.front_mut() else {
            return None;
        };
        let Value::Bulk(name) = name else {
            return None;
        };
        let fits = change.wanted == command.wanted && change.patterns == command.patterns;
        let first = change.names.pop_front();
        let first = first.filter(|first| fits && first.as_bytes() == name.as_slice());
        if change.names.is_empty() {
            self.expected.pop_front();
        }
        first
    }

    /// Handles the answer to a ping.
    fn ponged(&mut self) -> Result<(), Stop> {
        match self.expected.pop_front() {
            Some(Expected::Pong) => Ok(()),
            _ => Err(self.wrong("an answer to no ping")),
        }
    }

    /// Handles an error, which is the whole answer to a command.
    fn refused(&mut self, words: &str) -> Result<(), Stop> {
        let change = match self.expected.pop_front() {
            // A refused ping proves too that the server is there.
            Some(Expected::Pong) => return Ok(()),
            Some(Expected::Marks) => {
                self.marks_refused(words);
                return Ok(());
            }
            Some(Expected::Change(change, _)) => change,
            None => return Err(self.wrong(words)),
        };
        if is_temporary(words) {
            return Err(self.connection.refused(command(&change), words).into());
        }
        let was_alone = change.names.len() == 1;
        for name in change.names {
            let subscription = Subscription {
                name,
                is_pattern: change.patterns,
            };
            if !change.wanted {
                // Another attempt would have the same result. The ledger forgets the name, and its messages have no
                // receiver.
                self.names.ledger.unsubscribed(&subscription);
            } else if !was_alone {
                self.names.ledger.refused_with_others(&subscription);
            } else if let Some(number) = self.names.ledger.refused(&subscription) {
                self.report_refused(subscription, number, words)?;
            }
        }
        Ok(())
    }

    /// Counts, logs and reports to the loop a name that Redis has refused. While the bus is up, its status is updated
    /// too; otherwise that happens when the bus is up.
    fn report_refused(
        &mut self,
        subscription: Subscription,
        number: u64,
        words: &str,
    ) -> Result<(), Stop> {
        let reason = shown_trimmed(words);
        if self.relay.is_up_now() {
            self.show_refusals();
        }
        self.relay.status.count_refused();
        let (names, link) = (&mut *self.names, &self.relay.link);
        // Redis ends the connection of a user that loses a subscription, which is reported as a gap.
        Ok(names.report_refused("Redis", link, subscription, number, reason, false)?)
    }

    /// If the gateway needs all names, sets the status to whether all are subscribed. Must be called only while the bus
    /// is up otherwise.
    pub(super) fn show_refusals(&self) {
        if !self.servers.settings.needs_all_names || !self.names.ledger.is_restored() {
            return;
        }
        let status = &self.relay.status;
        let is_refused = self.names.ledger.wanted_names().refused > 0;
        status.set_subscription_refused(is_refused);
        if is_refused {
            // Begins the time for which the bus counts as away, though the connection is there.
            status.set_down(self.relay.link.now().mono_us);
        }
        status.set_up(!is_refused);
    }

    pub(super) fn wrong(&self, what: &str) -> Stop {
        self.connection.wrong(what).into()
    }
}

/// The Redis command for a change of a subscription.
fn command(change: &SubscriptionChange) -> &'static str {
    match (change.wanted, change.patterns) {
        (true, false) => "SUBSCRIBE",
        (true, true) => "PSUBSCRIBE",
        (false, false) => "UNSUBSCRIBE",
        (false, true) => "PUNSUBSCRIBE",
    }
}
