//! The channels feed: publications of Redis or NATS, to a topic for each exact name and each pattern.
//!
//! The bus sends a message once for the name and once for each matching pattern. A client with several subscriptions
//! gets its copies in the order of the bus (Redis: the channel first), and nothing is matched here. The payload stays
//! unchanged; the gateway renders the messages. Must not know a client, a broker or a clock. Called by the reactor,
//! through [`weirgate_core::Feed`].

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::gateways::shared::feed::{
    BadMessageLog, STAMP_BYTES, TooLarge, broadcast_unix_ms, check_size, write_stamp,
};
use weirgate_core::{BusEvent, BusMessage, FeedSettings, Subscription};
use weirgate_core::{
    BusNotice, ConflationKey, Feed, FeedLine, FeedStats, Frame, FrameBytes, Now, Place,
    Publication, TopicName,
};
use weirgate_wire::json::{check_json, iso_utc};

/// The name in the statistics: the number of channels is unbounded, so all channels are counted together.
const FAMILY: &str = "channels";

/// Turns publications of the bus into publications on topics with the name of the channel or pattern.
pub struct ChannelsFeed {
    settings: FeedSettings,
    stats: FeedStats,
    bad_log: BadMessageLog,
    alive: FrameBytes,
    /// Whether slow clients get only the newest message of a name.
    is_conflated: Box<dyn Fn(&str) -> bool + Send>,
    /// Hashes a name and a pattern to a key.
    keys: RandomState,
}

impl ChannelsFeed {
    /// A feed whose frames are counted in `alive`.
    pub fn new(settings: FeedSettings, alive: FrameBytes) -> Self {
        Self {
            settings,
            stats: FeedStats::of([FAMILY]),
            bad_log: BadMessageLog::default(),
            alive,
            is_conflated: Box::new(|_| false),
            keys: RandomState::default(),
        }
    }

    /// Makes slow clients get only the newest message of the names for which `is_conflated` is true.
    #[must_use]
    pub fn conflating(mut self, is_conflated: impl Fn(&str) -> bool + Send + 'static) -> Self {
        self.is_conflated = Box::new(is_conflated);
        self
    }

    /// Returns an error if the message is too large to be relayed.
    fn check(&self, message: &BusMessage) -> Result<(), TooLarge> {
        check_size(&message.payload, self.settings.bus_message_bytes_max)
    }

    /// The key of a message that a newer message may replace.
    fn key(&self, message: &BusMessage) -> Option<ConflationKey> {
        (self.is_conflated)(&message.subject)
            .then(|| ConflationKey(self.keys.hash_one(&message.subject)))
    }

    fn message(
        &mut self,
        now: Now,
        message: &BusMessage,
        is_deletion: bool,
        request: Option<u64>,
    ) -> Option<Publication> {
        let check = self.check(message);
        let counts = &mut self.stats.subjects[0];
        let (subject, payload) = (&message.subject, &message.payload);
        if let Err(why) = check {
            counts.messages_bad += 1;
            self.bad_log.say(now, subject, payload, &why);
            return None;
        }
        counts.record(message.received);
        self.stats.last_message_unix_ms = Some(message.received.unix_ms());
        Some(Publication {
            // The gateway knows the clients that wait for the last value.
            deliver: !message.quiet,
            place: message.place,
            subject: pattern(message).map(|_| Arc::clone(subject)),
            request,
            ..Publication::new(topic(message), self.frame(now, message, is_deletion))
        })
    }

    /// The part of a message that is the same for all clients, whichever of their subscriptions brings it. It begins
    /// with the end of the JSON object: `"retained":true` for a last value, `"deleted":true` for a deletion,
    /// `"timestamp":…`, and `"recv_us":…` with `--stamp`. A line feed and the payload follow. The frame is binary
    /// unless the payload is JSON. The gateway adds the rest. Of the messages without a payload, clients that get text
    /// get only deletions.
    fn frame(&self, now: Now, message: &BusMessage, is_deletion: bool) -> Arc<Frame> {
        let is_json = || check_json(&message.payload).is_ok();
        let frame = match is_deletion || is_json() {
            true => Frame::text(&self.alive),
            false if message.payload.is_empty() => Frame::binary(&self.alive).binary_only(),
            false => Frame::binary(&self.alive),
        };
        let mut frame = frame
            .with_capacity(
                message.payload.len() + 80 + usize::from(self.settings.is_stamped) * STAMP_BYTES,
            )
            .received(message.received)
            .of_feed(message.place != Place::Outside);
        if let Some(key) = self.key(message) {
            frame = frame.key(key);
        }
        let body = frame.payload();
        if is_deletion {
            body.extend_from_slice(br#","deleted":true"#);
        }
        if message.quiet && message.place == Place::Outside {
            body.extend_from_slice(br#","retained":true"#);
        }
        let time = iso_utc(broadcast_unix_ms(now, message));
        for part in [",\"timestamp\":\"", &time, "\""] {
            body.extend_from_slice(part.as_bytes());
        }
        if self.settings.is_stamped {
            body.push(b',');
            write_stamp(message.received, body);
        }
        body.push(b'\n');
        body.extend_from_slice(&message.payload);
        frame.finish()
    }
}

/// The pattern for which the bus has sent the message, if it is outside of the kept feed. Within the feed the gateway
/// finds the patterns.
fn pattern(message: &BusMessage) -> Option<&Arc<str>> {
    let pattern = message.pattern.as_ref();
    pattern.filter(|_| message.place == Place::Outside)
}

/// The topic: the pattern that matched, or the channel.
fn topic(message: &BusMessage) -> TopicName {
    let name = pattern(message).unwrap_or(&message.subject);
    TopicName::from(Arc::clone(name))
}

/// The topic of a subscription's messages.
fn topic_of(subscription: &Subscription) -> TopicName {
    TopicName::from(Arc::clone(&subscription.name))
}

impl Feed for ChannelsFeed {
    type Event = BusEvent;

    fn event(&mut self, now: Now, event: BusEvent, out: &mut Vec<Publication>) {
        match event {
            BusEvent::Message(message) => out.extend(self.message(now, &message, false, None)),
            BusEvent::Deleted(message) => out.extend(self.message(now, &message, true, None)),
            BusEvent::LastValue { message, number } => {
                let is_deletion = message.payload.is_empty();
                out.extend(self.message(now, &message, is_deletion, Some(number)));
            }
            BusEvent::CaughtUp => self.stats.caught_up = true,
            BusEvent::Gap { .. } | BusEvent::GapBeside { .. } => self.stats.gaps += 1,
            BusEvent::Skipped { .. } => self.stats.subjects[0].messages_bad += 1,
            BusEvent::Up
            | BusEvent::Down(_)
            | BusEvent::Feed(_)
            | BusEvent::Subscribed { .. }
            | BusEvent::Refused { .. }
            | BusEvent::Subjects(_)
            | BusEvent::RetainedEnd { .. } => {}
        }
    }

    fn notice(&self, event: &BusEvent) -> Option<BusNotice> {
        match event {
            BusEvent::Subscribed {
                subscription,
                number,
            }
            | BusEvent::Refused {
                subscription,
                number,
                ..
            } => Some(BusNotice::Settled {
                topic: topic_of(subscription),
                number: *number,
                is_confirmed: matches!(event, BusEvent::Subscribed { .. }),
            }),
            BusEvent::RetainedEnd {
                subscription,
                number,
                cut,
            } => Some(BusNotice::RetainedEnd {
                topic: topic_of(subscription),
                number: *number,
                cut: *cut,
            }),
            BusEvent::Skipped {
                subscription,
                place,
            } => Some(BusNotice::Skipped {
                topic: topic_of(subscription),
                subject: None,
                place: *place,
            }),
            BusEvent::Message(message) if self.check(message).is_err() => {
                Some(BusNotice::Skipped {
                    topic: topic(message),
                    subject: Some(Arc::clone(&message.subject)),
                    place: message.place,
                })
            }
            // A last value that is too large is not a loss: last values have no numbers.
            _ => event.link_notice(),
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
mod tests {
    use super::*;
    use weirgate_core::Fault;
    use weirgate_core::{Class, Content};

    const NOW: Now = Now {
        mono_us: 5,
        unix_us: 1_767_954_600_007 * 1_000,
    };

    fn feed() -> ChannelsFeed {
        let settings = FeedSettings {
            bus_message_bytes_max: 1_100,
            ..FeedSettings::default()
        };
        ChannelsFeed::new(settings, FrameBytes::default())
    }

    fn message(channel: &str, pattern: Option<&str>, payload: &[u8]) -> BusEvent {
        BusEvent::Message(BusMessage {
            subject: channel.into(),
            pattern: pattern.map(Into::into),
            payload: payload.to_vec(),
            position: None,
            place: Place::Outside,
            received: NOW,
            quiet: false,
        })
    }

    /// The topic of a publication, and its body.
    fn published(feed: &mut ChannelsFeed, event: BusEvent) -> Option<(String, String)> {
        let mut out = Vec::new();
        let subject = match &event {
            BusEvent::Message(message) if message.pattern.is_some() => {
                Some(Arc::clone(&message.subject))
            }
            _ => None,
        };
        assert_eq!(feed.notice(&event), None);
        feed.event(NOW, event, &mut out);
        assert!(out.len() <= 1);
        let publication = out.pop()?;
        assert!(publication.deliver && publication.subject == subject);
        let text = String::from_utf8(publication.frame.body().to_vec()).expect("UTF-8");
        Some((publication.topic.as_str().to_owned(), text))
    }

    #[test]
    fn a_message_goes_to_its_channel_or_to_the_pattern_that_brought_it() {
        let mut feed = feed();
        let exact = published(&mut feed, message("a\"b", None, b"{\"p\": 1.50}"));
        let want = ",\"timestamp\":\"2026-01-09T10:30:00.007Z\"\n{\"p\": 1.50}";
        assert_eq!(exact, Some(("a\"b".to_owned(), want.to_owned())));
        let by_pattern = published(&mut feed, message("a:b", Some("a:*"), b"1"));
        let want = ",\"timestamp\":\"2026-01-09T10:30:00.007Z\"\n1";
        assert_eq!(by_pattern, Some(("a:*".to_owned(), want.to_owned())));
    }

    #[test]
    fn a_stamp_is_the_time_at_the_bus_socket_in_microseconds() {
        let mut feed = feed();
        feed.settings.is_stamped = true;
        let BusEvent::Message(mut early) = message("a", None, b"1") else {
            panic!("a message");
        };
        early.received.unix_us -= 1;
        let text = published(&mut feed, BusEvent::Message(early)).map(|(_, text)| text);
        let want = r#","timestamp":"2026-01-09T10:30:00.007Z","recv_us":1767954600006999"#;
        assert_eq!(text, Some(format!("{want}\n1")));
    }

    #[test]
    fn a_deletion_is_a_message_live_and_as_the_last_value() {
        let mut feed = feed();
        let deleted = |quiet| {
            let BusEvent::Message(message) = message("$KV.b.key", None, b"") else {
                panic!("a message");
            };
            BusMessage { quiet, ..message }
        };
        for (event, retained) in [
            (BusEvent::Deleted(deleted(false)), ""),
            (
                BusEvent::LastValue {
                    message: deleted(true),
                    number: 7,
                },
                r#","retained":true"#,
            ),
        ] {
            let mut out = Vec::new();
            feed.event(NOW, event, &mut out);
            let body = String::from_utf8_lossy(out[0].frame.body());
            let want = format!(r#","deleted":true{retained},"timestamp""#);
            assert!(body.starts_with(&want) && body.ends_with("\"\n"), "{body}");
            assert_eq!(out[0].frame.content(), Content::Text);
        }
    }

    #[test]
    fn a_payload_stays_as_it_is_and_the_frame_says_whether_it_is_json() {
        let nested = format!("{}{}", "[".repeat(513), "]".repeat(513));
        for (payload, is_json) in [
            (&b" {\"a\":1,\"a\":2}"[..], true),
            ("\"é\\u00e9\"\n".as_bytes(), true),
            (b"plain text", false),
            (b"NaN", false),
            (b"\xff{}", false),
            (b"\"\\ud800\"", false),
            (b"\xef\xbb\xbf1", false),
            (nested.as_bytes(), false),
            (b"", false),
        ] {
            let mut out = Vec::new();
            let mut feed = feed();
            feed.event(NOW, message("c", None, payload), &mut out);
            let frame = &out[0].frame;
            let parts: Vec<&[u8]> = frame.body().splitn(2, |&byte| byte == b'\n').collect();
            assert_eq!(parts[1], payload);
            assert_eq!(frame.content() == Content::Text, is_json, "{payload:?}");
            let for_all = frame.class() == Class::Data;
            assert_eq!(for_all, !payload.is_empty(), "{payload:?}");
        }
    }

    #[test]
    fn what_is_too_large_goes_to_nobody_and_is_counted() {
        let mut feed = feed();
        // Last values have no numbers that could be skipped.
        for is_value in [false, true] {
            let large = message("c:d", Some("c:*"), &[b'1'; 1_101]);
            let event = match large {
                BusEvent::Message(message) if is_value => {
                    BusEvent::LastValue { message, number: 7 }
                }
                large => large,
            };
            let skipped = BusNotice::Skipped {
                topic: TopicName::from("c:*".to_owned()),
                subject: Some("c:d".into()),
                place: Place::Outside,
            };
            assert_eq!(feed.notice(&event) == Some(skipped), !is_value);
            let mut out = Vec::new();
            feed.event(NOW, event, &mut out);
            assert!(out.is_empty());
        }
        assert!(published(&mut feed, message("c", None, &[b'1'; 100])).is_some());
        let counts = &feed.stats().subjects[0];
        assert_eq!((counts.messages, counts.messages_bad), (1, 2));
        assert_eq!(feed.stats().last_message_unix_ms, Some(NOW.unix_ms()));
    }

    #[test]
    fn the_gateway_hears_of_the_bus() {
        let mut feed = feed();
        let fault = || Fault("gone".to_owned());
        let settled = |name: &str, number, is_confirmed| {
            let topic = TopicName::from(name.to_owned());
            Some(BusNotice::Settled {
                topic,
                number,
                is_confirmed,
            })
        };
        let subscribed = |subscription, number| BusEvent::Subscribed {
            subscription,
            number,
        };
        for (event, notice) in [
            (BusEvent::Up, Some(BusNotice::Up)),
            (BusEvent::CaughtUp, None),
            (
                subscribed(Subscription::channel("a"), 3),
                settled("a", 3, true),
            ),
            (
                subscribed(Subscription::pattern("a*"), 4),
                settled("a*", 4, true),
            ),
            (
                BusEvent::Refused {
                    subscription: Subscription::channel("b"),
                    number: 5,
                    fault: fault(),
                },
                settled("b", 5, false),
            ),
            (BusEvent::Gap { lost: None }, Some(BusNotice::Gap)),
            (BusEvent::Down(fault()), Some(BusNotice::Down)),
        ] {
            assert_eq!(feed.notice(&event), notice, "{event:?}");
            let mut out = Vec::new();
            feed.event(NOW, event, &mut out);
            assert!(out.is_empty());
        }
        assert!(feed.stats().caught_up);
        assert_eq!(feed.stats().gaps, 1);
    }
}
