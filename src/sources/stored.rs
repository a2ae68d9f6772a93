//! A stream of the bus as the kept feed: the messages have ids, the same for all instances, and an outage
//! loses nothing.
//!
//! Each bus has a reader of its streams with a result ([`Told`]); here the results become events for the
//! loop.

use std::error::Error;

use super::LoopGone;
use super::outage::shown;
use super::relay::Relay;
use crate::auth::NamePatterns;
use crate::base::{LogBudget, Now};
use crate::feeds::{BusEvent, BusMessage, Place, Position, StoredId, Subscription, fnv_1a};

/// The most log lines about entries, a second.
const LINES_PER_SECOND: u32 = 5;

/// The stream of a source.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// The name of the stream, or the key.
    pub name: String,
    /// Messages of the last so many milliseconds are read at the start.
    pub history_ms: u64,
    /// The names to relay; `None`: all.
    pub only: Option<NamePatterns>,
}

/// A result of a reader, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
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
        /// Whether the message was stored before the first look at the stream: for clients that resume.
        is_old: bool,
    },
    /// An entry without a message for any instance, and the fault.
    Bad(&'static str),
    /// Messages after the newest were lost.
    Lost,
    /// Messages after the newest were lost before the last [`Told::Lost`].
    Hole,
    /// The newest message of the stream; not relayed.
    Head(StoredId),
    /// From here on, messages come as they are stored. Said once for each connection.
    CaughtUp,
    /// How far the reader is behind the newest message.
    Behind {
        /// The number of messages; `None`: the bus gives no number.
        messages: Option<u64>,
        /// The time from storage to storage, milliseconds.
        ms: u64,
    },
}

/// The way from a reader to the loop.
#[derive(Debug)]
pub struct StreamFeed {
    settings: StreamSettings,
    /// Tells positions of another stream apart.
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

impl StreamFeed {
    /// The way for this stream.
    pub fn new(settings: StreamSettings, times: Times) -> Self {
        Self {
            names: fnv_1a(settings.name.bytes()),
            settings,
            times,
            started_ms: None,
            lines: LogBudget::new(LINES_PER_SECOND),
        }
    }

    /// Handles an attempt to connect. Before the first one, no client was taken.
    pub fn connecting(&mut self, now: Now) {
        self.started_ms.get_or_insert_with(|| now.unix_ms());
    }

    /// Hands over a result of a reader about bytes of the time `received`.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn hand_over<E: Error>(
        &mut self,
        relay: &mut Relay<E>,
        received: Now,
        told: Told,
    ) -> Result<(), LoopGone> {
        if told == Told::CaughtUp {
            let away_ms = relay.report_up()?;
            relay.status.set_positions_shared(true);
            let stream = shown(&self.settings.name);
            tracing::info!(stream, away_ms, "reading the stream");
        }
        match told {
            Told::Behind { messages, ms } => relay.lag.note_distance(&relay.status, messages, ms),
            Told::Message {
                id, is_old: false, ..
            } => relay
                .status
                .count_arrival(received, self.times.stored_us(id)),
            _ => {}
        }
        match self.event(received, told) {
            Some(event) => relay.link.send(event),
            None => Ok(()),
        }
    }

    /// The event for the loop; `None` for a message of another name. The caller reports
    /// [`BusEvent::Up`] before the event of [`Told::CaughtUp`].
    pub fn event(&mut self, now: Now, told: Told) -> Option<BusEvent> {
        Some(match told {
            Told::Message {
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
                // While the bus was away at the start, clients were taken.
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
            Told::Bad(reason) => {
                self.log_bad(now, reason);
                let subscription = Subscription::channel("");
                let place = Place::Outside;
                BusEvent::Skipped {
                    subscription,
                    place,
                }
            }
            Told::Lost => {
                self.log_lost(now);
                BusEvent::Gap { lost: None }
            }
            Told::Hole => BusEvent::Hole,
            Told::Head(id) => BusEvent::Head(Position::stored(self.names, id)),
            Told::CaughtUp => BusEvent::CaughtUp,
            Told::Behind { .. } => return None,
        })
    }

    /// The time at which an old message came: when the message was stored.
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

/// Checks what a reader said about a stream whose payloads are serial numbers below `end`: no message is
/// missing without a loss, except for the `unreadable` ones, and none came twice. From `stood_at` on a message
/// may not even be missing before the first one. Returns the newest serial number.
#[cfg(test)]
pub(super) fn check_told(
    told: &[Told],
    unreadable: &[u64],
    mut stood_at: Option<u64>,
    end: u64,
) -> Option<u64> {
    let assert_unreadable = |mut serials: std::ops::Range<u64>| {
        let lost = serials.find(|serial| !unreadable.contains(serial));
        assert_eq!(lost, None, "before {}", serials.end);
    };
    let (mut next, mut has_stood, mut newest) = (None, false, None);
    for told in told {
        match told {
            Told::Lost | Told::Hole => (next, newest, stood_at) = (None, None, None),
            Told::CaughtUp => has_stood = true,
            Told::Behind { .. } => {}
            Told::Head(id) => newest = Some(*id),
            Told::Bad(why) => panic!("{why}"),
            Told::Message {
                id,
                payload,
                is_old,
                ..
            } => {
                let text = String::from_utf8_lossy(payload);
                let serial: u64 = text.parse().expect("a number");
                let first = stood_at.map_or(serial, |stood_at| stood_at.min(serial));
                let from = next.unwrap_or(first);
                assert!(serial >= from, "{serial} came twice");
                assert_unreadable(from..serial);
                assert!(newest.replace(*id) < Some(*id), "{serial} out of order");
                assert_eq!(*is_old, !has_stood, "{serial}");
                next = Some(serial + 1);
            }
        }
    }
    assert_unreadable(next.or(stood_at).unwrap_or(end)..end);
    next.and_then(|next| next.checked_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_since_the_start_is_for_clients_that_were_taken_meanwhile() {
        let settings = StreamSettings {
            name: "ticks".to_owned(),
            history_ms: 60_000,
            only: None,
        };
        let start_ms = 1_700_000_000_000;
        let start = Now {
            mono_us: 1,
            unix_us: 1_700_000_000_000 * 1_000,
        };
        let id = |times, ms: u64| match times {
            Times::MajorMs => (ms, 7),
            Times::MinorNs => (7, ms * 1_000_000),
        };
        for times in [Times::MajorMs, Times::MinorNs] {
            let mut feed = StreamFeed::new(settings.clone(), times);
            feed.connecting(start);
            let now = start.plus_us(9_000_000);
            feed.connecting(now);
            for (stored_ms, is_old, quiet, came_ms) in [
                (start_ms - 1, true, true, start.unix_ms() - 1),
                (start_ms, true, false, start.unix_ms()),
                (start_ms + 9_000, false, false, now.unix_ms()),
            ] {
                let (major, minor) = id(times, stored_ms);
                let told = Told::Message {
                    id: StoredId { major, minor },
                    subject: "a".to_owned(),
                    payload: Vec::new(),
                    is_deletion: false,
                    is_old,
                };
                let Some(BusEvent::Message(message)) = feed.event(now, told) else {
                    panic!("no message");
                };
                let got = (message.quiet, message.received.unix_ms());
                assert_eq!(got, (quiet, came_ms), "{times:?} {stored_ms}");
            }
        }
    }
}
