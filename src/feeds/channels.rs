//! The channels feed: what Redis or NATS publishes, to a topic for each exact name and each pattern.
//!
//! The bus sends a message once for the name and once for each pattern that matches, so a client that
//! holds several gets its copies in the order of the bus (Redis: the channel first), and nothing is
//! matched here. The payload stays as it is; the number that each connection has goes before the shared
//! body. Must not know a client, a broker or a clock. Called by the reactor, through
//! [`crate::hub::Feed`].

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::bad_log::BadMessageLog;
use super::bus::check_size;
use super::{BusEvent, BusMessage, Subscription, TooLarge};
use crate::auth::NamePatterns;
use crate::hub::{
    BusNotice, ConflationKey, Feed, FeedLine, FeedStats, Frame, FrameBytes, Lead, Now, Publication,
    Retain, TopicName,
};
use crate::wire::json::check_json;
use crate::wire::object_writer::{iso_utc, quoted};

/// Channels are without bound, so they are counted as one.
const FAMILY: &str = "channels";

/// Before the number, and behind it everything else.
const LEAD: Lead = Lead::Seq(r#"{"type":"data","seq":"#);

/// Settings of a [`ChannelsFeed`].
#[derive(Clone, Debug)]
pub struct ChannelsFeedSettings {
    /// Levels of nesting up to which a payload counts as JSON.
    pub json_depth_max: usize,
    /// Bytes of a bus message; larger ones are counted, logged and skipped.
    pub bus_message_bytes_max: usize,
}

/// Turns publications of the bus into publications on topics that are called like the channel or the
/// pattern.
#[derive(Debug)]
pub struct ChannelsFeed {
    settings: ChannelsFeedSettings,
    stats: FeedStats,
    bad_log: BadMessageLog,
    alive: FrameBytes,
    /// Names whose messages are conflated for slow clients.
    conflated: Option<NamePatterns>,
    /// Makes a key of a name and a pattern.
    keys: RandomState,
    /// The gateway has to know the subject of each message.
    tells_subjects: bool,
}

impl ChannelsFeed {
    /// A feed whose frames are counted in `alive`.
    pub fn new(settings: ChannelsFeedSettings, alive: FrameBytes) -> Self {
        Self {
            settings,
            stats: FeedStats::of([FAMILY]),
            bad_log: BadMessageLog::default(),
            alive,
            conflated: None,
            keys: RandomState::default(),
            tells_subjects: false,
        }
    }

    /// Of names that match these, a slow client gets the newest message only.
    #[must_use]
    pub fn conflating(mut self, names: NamePatterns) -> Self {
        self.conflated = Some(names);
        self
    }

    /// Tells the subject of each message ([`BusNotice::Subject`]), for a gateway that sends last values.
    #[must_use]
    pub fn with_retained(mut self) -> Self {
        self.tells_subjects = true;
        self
    }

    /// Whether the message is small enough to be relayed.
    fn check(&self, message: &BusMessage) -> Result<(), TooLarge> {
        check_size(&message.payload, self.settings.bus_message_bytes_max)
    }

    /// The key of a message that may be replaced by a newer one. A client gets a copy for each of its
    /// names and patterns, and each copy is replaced by copies of its own kind.
    fn key(&self, message: &BusMessage) -> Option<ConflationKey> {
        let names = self.conflated.as_ref()?;
        names
            .matches(&message.subject)
            .then(|| ConflationKey(self.keys.hash_one((&message.subject, &message.pattern))))
    }

    fn message(&mut self, now: Now, message: &BusMessage) -> Option<Publication> {
        let check = self.check(message);
        let counts = &mut self.stats.subjects[0];
        let (subject, payload) = (&message.subject, &message.payload);
        if let Err(why) = check {
            counts.messages_bad += 1;
            self.bad_log.say(now, subject, payload, &why);
            return None;
        }
        counts.messages += 1;
        self.stats.last_message_unix_ms = Some(message.received.unix_ms);
        if message.payload.is_empty() {
            return None;
        }
        Some(Publication {
            topic: topic(message),
            frame: self.frame(now, message),
            // The last value goes to the clients that wait for it, and the gateway knows them.
            deliver: !message.quiet,
            retain: Retain::Keep,
        })
    }

    /// `{"type":"data","seq":n,"channel":…,"pattern":…,"data":…,"timestamp":…}`, with `"retained":true`
    /// behind the data of a last value.
    fn frame(&self, now: Now, message: &BusMessage) -> Arc<Frame> {
        let pattern = message.pattern.as_deref();
        let pattern = pattern.map_or_else(|| "null".to_owned(), quoted);
        let mut frame = Frame::text(&self.alive)
            .with_capacity(message.payload.len() + message.subject.len() + pattern.len() + 80)
            .lead(LEAD)
            .received(message.received);
        if let Some(key) = self.key(message) {
            frame = frame.key(key);
        }
        let body = frame.payload();
        for part in [
            r#","channel":"#,
            &quoted(&message.subject),
            r#","pattern":"#,
            &pattern,
        ] {
            body.extend_from_slice(part.as_bytes());
        }
        body.extend_from_slice(br#","data":"#);
        match check_json(&message.payload, self.settings.json_depth_max) {
            Ok(json) => body.extend_from_slice(json.as_bytes()),
            Err(_) => {
                let text = String::from_utf8_lossy(&message.payload);
                body.extend_from_slice(format!("{{\"raw\":{}}}", quoted(&text)).as_bytes());
            }
        }
        if message.quiet {
            body.extend_from_slice(br#","retained":true"#);
        }
        body.extend_from_slice(format!(",\"timestamp\":\"{}\"}}", iso_utc(now.unix_ms)).as_bytes());
        frame.finish()
    }
}

/// Called like the pattern that matched, or like the channel.
fn topic(message: &BusMessage) -> TopicName {
    let name = message.pattern.as_ref().unwrap_or(&message.subject);
    TopicName::from(name.to_string())
}

fn settled(subscription: &Subscription, number: u64, stands: bool) -> BusNotice {
    BusNotice::Settled {
        topic: TopicName::from(subscription.name.to_string()),
        number,
        stands,
    }
}

impl Feed for ChannelsFeed {
    type Event = BusEvent;

    fn event(&mut self, now: Now, event: BusEvent, out: &mut Vec<Publication>) {
        match event {
            BusEvent::Message(message) | BusEvent::LastValue { message, .. } => {
                out.extend(self.message(now, &message));
            }
            BusEvent::CaughtUp => self.stats.caught_up = true,
            BusEvent::Gap { .. } => self.stats.gaps += 1,
            BusEvent::Skipped(_) => self.stats.subjects[0].messages_bad += 1,
            BusEvent::Up
            | BusEvent::Down(_)
            | BusEvent::Subscribed { .. }
            | BusEvent::Refused { .. }
            | BusEvent::RetainedEnd { .. } => {}
        }
    }

    fn notice(&self, event: &BusEvent) -> Option<BusNotice> {
        match event {
            BusEvent::Up => Some(BusNotice::Up),
            BusEvent::Down(_) => Some(BusNotice::Down),
            BusEvent::Gap { .. } => Some(BusNotice::Gap),
            BusEvent::Subscribed {
                subscription,
                number,
            } => Some(settled(subscription, *number, true)),
            BusEvent::Refused {
                subscription,
                number,
                ..
            } => Some(settled(subscription, *number, false)),
            BusEvent::RetainedEnd {
                subscription,
                number,
            } => Some(BusNotice::RetainedEnd {
                topic: TopicName::from(subscription.name.to_string()),
                number: *number,
            }),
            BusEvent::Skipped(subscription) => Some(BusNotice::Skipped(TopicName::from(
                subscription.name.to_string(),
            ))),
            BusEvent::Message(message) if self.check(message).is_err() => {
                Some(BusNotice::Skipped(topic(message)))
            }
            // One that is skipped is no loss: nobody has a number for it.
            BusEvent::LastValue { message, number } => Some(BusNotice::LastValue {
                subject: Arc::clone(&message.subject),
                number: *number,
            }),
            BusEvent::Message(message) if self.tells_subjects => {
                Some(BusNotice::Subject(Arc::clone(&message.subject)))
            }
            BusEvent::CaughtUp | BusEvent::Message(_) => None,
        }
    }

    fn next_line(&mut self) -> Option<FeedLine> {
        self.bad_log.next()
    }

    fn stats(&self) -> &FeedStats {
        &self.stats
    }
}

#[cfg(test)]
mod tests;
