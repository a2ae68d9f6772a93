//! The kept feed of a source, whose messages have a position: counted from a mark on a connection ([`KeptFeed`], pure), or
//! read from a stream of the bus, where they have ids ([`StreamFeed`]).
//!
//! A bus delivers the same messages in the same order to each of its connections, so two connections that receive the
//! same mark count the same messages after it. Three rules make the counts equal: a message counts before anybody looks
//! into it, because two versions of weirgate may judge differently; a message that several kept names match counts
//! once; and no mark counts before all kept names are subscribed. Where the server can lose messages without a sign,
//! nothing is counted at all, because no client could be sure that it missed nothing.
//!
//! The messages of a stream have the same ids for all instances, and the stream keeps them during an outage. Each bus
//! has a reader of its streams; here its results ([`KeptEvent`]) become events for the loop.

use std::collections::VecDeque;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::LoopGone;
use super::outage::shown;
use super::relay::Relay;
use weirgate_core::{
    BusEvent, BusMessage, FeedNotice, Mark, Place, Position, StoredId, Subscription, fnv_1a,
};
use weirgate_wire::auth::{NameError, NamePatterns, NameSyntax};
use weirgate_wire::base::{LogBudget, Now};

/// The most marks that are remembered, the newest. An instance publishes each mark once, so a mark that comes again is
/// from another program and is ignored.
const MARKS_MAX: usize = 4_096;

/// A name of the list.
#[derive(Debug)]
struct Name {
    subscription: Subscription,
    patterns: NamePatterns,
    /// Whether the bus has confirmed the name on this connection.
    is_subscribed: bool,
}

/// The count of the messages on this connection.
#[derive(Clone, Copy, Debug)]
enum Count {
    /// Not all names are subscribed.
    Waits,
    /// Nothing is counted on this connection.
    Off,
    /// The number of messages since the mark.
    Since(Mark, u64),
}

/// Whether messages that the server loses while a connection lasts are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// The server gives a sign, such as the end of the connection.
    Noticed,
    /// The server may give no sign, so messages have no position.
    Silent,
}

/// The names of the feed, and the count of their messages on this connection.
#[derive(Debug)]
pub struct KeptFeed {
    names: Vec<Name>,
    /// A hash of the names: positions in a feed with other names are not valid here.
    hash: u32,
    nonce: u64,
    next_counter: u64,
    count: Count,
    losses: Losses,
    /// The last marks, the oldest first. An instance publishes one a second.
    seen: VecDeque<Mark>,
}

impl KeptFeed {
    /// A feed of these names. The caller subscribes to the names.
    ///
    /// # Errors
    /// The first text that is neither a name nor a pattern, and why.
    pub fn new(
        syntax: NameSyntax,
        subscriptions: Vec<Subscription>,
    ) -> Result<Self, (String, NameError)> {
        let names = subscriptions.iter();
        // The byte after each name is never found in UTF-8, so no two lists have the same bytes.
        let hash = fnv_1a(names.flat_map(|name| name.name.bytes().chain([0xff])));
        let name = |subscription: Subscription| {
            let text = [subscription.name.to_string()];
            let patterns = NamePatterns::new(syntax, &text)?;
            Ok(Name {
                subscription,
                patterns,
                is_subscribed: false,
            })
        };
        Ok(Self {
            names: subscriptions
                .into_iter()
                .map(name)
                .collect::<Result<_, _>>()?,
            hash,
            nonce: RandomState::new().hash_one(0) >> 16,
            next_counter: 0,
            count: Count::Waits,
            losses: Losses::Noticed,
            seen: VecDeque::new(),
        })
    }

    /// Handles a new connection: no name is subscribed, no mark counts. Returns true if losses were noticed on the
    /// connection before, and may be silent on this one.
    pub fn connected(&mut self, losses: Losses) -> bool {
        self.count = Count::Waits;
        for name in &mut self.names {
            name.is_subscribed = false;
        }
        let before = std::mem::replace(&mut self.losses, losses);
        before == Losses::Noticed && losses == Losses::Silent
    }

    /// Records that a name is subscribed, if it is one of the feed.
    pub fn subscribed(&mut self, subscription: &Subscription) {
        if let Some(name) = self.name_mut(subscription) {
            name.is_subscribed = true;
        }
    }

    /// Records that the bus has ended the subscription of a name, if it is one of the feed. Returns true if this ends the
    /// feed, because messages are missing from here on. The next call of [`begin`](Self::begin) begins a new feed.
    pub fn unsubscribed(&mut self, subscription: &Subscription) -> bool {
        let Some(name) = self.name_mut(subscription) else {
            return false;
        };
        let was_subscribed = std::mem::take(&mut name.is_subscribed);
        let ends = was_subscribed && !matches!(self.count, Count::Waits);
        if ends {
            self.count = Count::Waits;
        }
        ends
    }

    fn name_mut(&mut self, subscription: &Subscription) -> Option<&mut Name> {
        let mut names = self.names.iter_mut();
        names.find(|name| name.subscription == *subscription)
    }

    /// Whether all names are subscribed and the feed has not begun yet.
    pub fn may_begin(&self) -> bool {
        matches!(self.count, Count::Waits) && self.names.iter().all(|name| name.is_subscribed)
    }

    /// Begins to count, from a mark that is valid on this connection only. If the server can lose messages without a
    /// sign, returns the notice that messages have no positions.
    pub fn begin(&mut self) -> BusEvent {
        if self.losses == Losses::Silent {
            self.count = Count::Off;
            return BusEvent::Feed(FeedNotice::NoPositions);
        }
        let mark = self.next_mark();
        self.count_from(mark)
    }

    /// An unused mark.
    pub fn next_mark(&mut self) -> Mark {
        let counter = self.next_counter;
        self.next_counter += 1;
        Mark {
            nonce: self.nonce,
            counter,
        }
    }

    /// Counts anew from here if the message is a new mark. Returns `None` if nothing is counted yet, the message is not
    /// a mark, or the mark has come before.
    pub fn marked(&mut self, payload: &[u8]) -> Option<BusEvent> {
        let Count::Since(..) = self.count else {
            return None;
        };
        let mark = Mark::parse(str::from_utf8(payload).ok()?)?;
        if self.seen.contains(&mark) {
            return None;
        }
        if self.seen.len() == MARKS_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(mark);
        Some(self.count_from(mark))
    }

    fn count_from(&mut self, mark: Mark) -> BusEvent {
        let count = match std::mem::replace(&mut self.count, Count::Since(mark, 0)) {
            Count::Since(_, count) => count,
            Count::Waits | Count::Off => 0,
        };
        BusEvent::Feed(FeedNotice::Mark {
            names: self.hash,
            mark,
            count,
        })
    }

    /// Counts a message that arrived for a subscription, and returns its place. Returns `None` for a further copy:
    /// a message that several names match counts once, for the first subscribed name of the list. A refused name brings
    /// no copy.
    pub fn place(
        &mut self,
        subscription: &Subscription,
        subject: impl AsRef<[u8]>,
    ) -> Option<Place> {
        let Some(at) = self
            .names
            .iter()
            .position(|name| name.subscription == *subscription)
        else {
            return Some(Place::Outside);
        };
        // Of all names that match, the copy of the name with the lowest rank counts: a subscribed one, then the first.
        let rank = |at: usize, name: &Name| (!name.is_subscribed, at);
        let own = rank(at, &self.names[at]);
        let subject = subject.as_ref();
        let mut names = self.names.iter().enumerate();
        let is_copy =
            names.any(|(at, name)| rank(at, name) < own && name.patterns.matches_bytes(subject));
        (!is_copy).then(|| self.next_place())
    }

    /// The place of a message whose subject is unknown, for the subscription that it arrived for. Returns `None` if an
    /// earlier name of the list may match the subject too, because then this copy may not count.
    pub(super) fn place_of_unknown(&mut self, subscription: &Subscription) -> Option<Place> {
        let Some(at) = self
            .names
            .iter()
            .position(|name| name.subscription == *subscription)
        else {
            return Some(Place::Outside);
        };
        let may_be_copy = self.names[..at].iter().any(|name| name.is_subscribed);
        (!may_be_copy).then(|| self.next_place())
    }

    fn next_place(&mut self) -> Place {
        let Count::Since(mark, count) = &mut self.count else {
            return Place::Kept(None);
        };
        *count += 1;
        Place::Kept(Some(Position::counted(self.hash, *mark, *count)))
    }
}

/// The most log lines about entries, a second.
const LINES_PER_SECOND: u32 = 5;

/// The stream of a source.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// The name of the stream, or the key.
    pub name: String,
    /// At the start, messages of this age and younger are read, milliseconds.
    pub history_ms: u64,
    /// At the start, no more messages are read than fit in so many bytes of memory, roughly.
    pub history_bytes_max: usize,
    /// The names to relay; `None`: all.
    pub only: Option<NamePatterns>,
}

/// A result of a reader, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptEvent {
    /// A message.
    Message {
        /// The id.
        id: StoredId,
        /// The subject or channel.
        subject: String,
        /// The payload, cut after the first byte over the limit.
        payload: Vec<u8>,
        /// Whether the value of the subject was deleted; the payload is empty.
        is_deletion: bool,
        /// Whether the message was stored before this process first read the stream. It is then history, for
        /// clients that resume.
        is_old: bool,
    },
    /// An entry that no instance can read as a message, and the fault.
    Bad(&'static str),
    /// Messages after the last one that was relayed are missing.
    Lost,
    /// Messages after the last one that was relayed are missing, and the last [`KeptEvent::Lost`] has reported them already.
    Hole,
    /// The id of the newest message of the stream, which is not relayed.
    Head(StoredId),
    /// The subjects of the messages in the stream.
    Subjects(Arc<[String]>),
    /// From here on, messages come as they are stored. Said once for each connection.
    CaughtUp,
    /// How far the reader is behind the newest message.
    Lag {
        /// The number of messages; `None`: the bus gives no number.
        messages: Option<u64>,
        /// The time from storage to storage, milliseconds.
        ms: u64,
    },
}

/// Turns the results of a reader into events for the loop.
#[derive(Debug)]
pub struct StreamFeed {
    settings: StreamSettings,
    /// A hash of the name of the stream: positions in another stream are not valid here.
    names: u32,
    times: Times,
    /// The start of this process, Unix milliseconds.
    started_ms: Option<i64>,
    lines: LogBudget,
}

/// The part of an id with the time of storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Redis: the first part, Unix milliseconds.
    MajorMs,
    /// JetStream: the second part, Unix nanoseconds.
    MinorNs,
}

impl Times {
    /// The time of storage, Unix microseconds.
    const fn stored_us(self, id: StoredId) -> u64 {
        match self {
            Self::MajorMs => id.major.saturating_mul(1_000),
            Self::MinorNs => id.minor / 1_000,
        }
    }
}

/// The place of a message of a JetStream stream, and the time of its storage.
pub(super) fn place_in(stream: &str, id: StoredId, now: Now) -> (Place, Now) {
    let position = Position::stored(fnv_1a(stream.bytes()), id);
    let unix_us = i64::try_from(Times::MinorNs.stored_us(id)).unwrap_or(now.unix_us);
    (Place::Kept(Some(position)), Now { unix_us, ..now })
}

impl StreamFeed {
    /// Creates the feed of a stream.
    pub fn new(settings: StreamSettings, times: Times) -> Self {
        Self {
            names: fnv_1a(settings.name.bytes()),
            settings,
            times,
            started_ms: None,
            lines: LogBudget::new(LINES_PER_SECOND),
        }
    }

    /// Records the first attempt to connect: no client was accepted before.
    pub fn connecting(&mut self, now: Now) {
        self.started_ms.get_or_insert_with(|| now.unix_ms());
    }

    /// Hands a result of the reader to the loop. `received` is the time at which its bytes arrived.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn hand_over<E: Error>(
        &mut self,
        relay: &mut Relay<E>,
        received: Now,
        event: KeptEvent,
    ) -> Result<(), LoopGone> {
        if event == KeptEvent::CaughtUp {
            let away_ms = relay.report_up()?;
            relay.lag.caught_up();
            relay.status.set_positions_shared(true);
            let stream = shown(&self.settings.name);
            tracing::info!(stream, away_ms, "reading the stream");
        }
        match event {
            KeptEvent::Lag { messages, ms } => relay.lag.note_distance(&relay.status, messages, ms),
            KeptEvent::Message {
                id, is_old: false, ..
            } => relay
                .status
                .count_arrival(received, self.times.stored_us(id)),
            _ => {}
        }
        match self.event(received, event) {
            Some(event) => relay.link.send(event),
            None => Ok(()),
        }
    }

    /// The event for the loop; `None` for a message of a name that is not relayed, and for [`KeptEvent::Lag`]. The caller
    /// reports [`BusEvent::Up`] before the event of [`KeptEvent::CaughtUp`].
    pub fn event(&mut self, now: Now, event: KeptEvent) -> Option<BusEvent> {
        Some(match event {
            KeptEvent::Message {
                id,
                subject,
                payload,
                is_deletion,
                is_old,
            } => {
                let only = self.settings.only.as_ref();
                if only.is_some_and(|only| !only.matches(&subject)) {
                    return None;
                }
                let received = match is_old {
                    true => self.stored(now, id),
                    false => now,
                };
                // Clients are accepted while the bus is still away at the start, so a message that was stored meanwhile
                // is sent to them.
                let started_ms = self.started_ms.unwrap_or(i64::MAX);
                let message = BusMessage {
                    subject: subject.into(),
                    pattern: None,
                    payload,
                    position: None,
                    place: Place::Kept(Some(Position::stored(self.names, id))),
                    received,
                    quiet: is_old && received.unix_ms() < started_ms,
                };
                BusEvent::of(message, is_deletion)
            }
            KeptEvent::Bad(reason) => {
                self.log_bad(now, reason);
                let subscription = Subscription::channel("");
                let place = Place::Outside;
                BusEvent::Skipped {
                    subscription,
                    place,
                }
            }
            KeptEvent::Lost => {
                self.log_lost(now);
                BusEvent::Gap { lost: None }
            }
            KeptEvent::Hole => BusEvent::Feed(FeedNotice::Hole),
            KeptEvent::Head(id) => {
                BusEvent::Feed(FeedNotice::Head(Position::stored(self.names, id)))
            }
            KeptEvent::Subjects(subjects) => BusEvent::Subjects(subjects),
            KeptEvent::CaughtUp => BusEvent::CaughtUp,
            KeptEvent::Lag { .. } => return None,
        })
    }

    /// The time that counts as the arrival of an old message: when it was stored.
    fn stored(&self, now: Now, id: StoredId) -> Now {
        Now {
            unix_us: i64::try_from(self.times.stored_us(id)).unwrap_or(now.unix_us),
            ..now
        }
    }

    fn log_lost(&mut self, now: Now) {
        if let Some(line) = self.lines.line(now) {
            tracing::warn!(
                stream = shown(&self.settings.name),
                lines_left_out = line.suppressed,
                "the stream has lost messages that were not read: trimmed, deleted, or it was made \
                 anew; clients are notified"
            );
        }
    }

    fn log_bad(&mut self, now: Now, reason: &'static str) {
        if let Some(line) = self.lines.line(now) {
            tracing::warn!(
                stream = shown(&self.settings.name),
                reason,
                lines_left_out = line.suppressed,
                "skipped: an entry of the stream"
            );
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
