//! The channels feed: publications of Redis or NATS, to a topic for each exact name and each pattern.
//!
//! The bus sends a message once for the name and once for each matching pattern. A client with several subscriptions
//! gets its copies in the order of the bus (Redis: the channel first), and nothing is matched here. The payload stays
//! unchanged; the gateway renders the messages. Must not know a client, a broker or a clock. Called by the reactor,
//! through [`weirgate_core::Feed`].
//!
//! The payload is walked only on the thread of the source ([`Feed::reader`]): it finds out whether the payload is JSON, and
//! makes the text of a large one that is not.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::raw_text::{raw_text, raw_text_bytes};
use crate::gateways::shared::feed::{
    BadMessageLog, TextTooLarge, TooLarge, broadcast_unix_ms, check_size,
};
use weirgate_core::{
    BusEvent, BusMessage, BusNotice, ConflationKey, Content, EventReader, Feed, FeedLine,
    FeedSettings, FeedStats, FrameBytes, Message, PayloadText, Place, Publication, Subscription,
    TopicName,
};
use weirgate_wire::base::Now;
use weirgate_wire::json::Json;

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
    /// Hashes a name to a key.
    keys: RandomState,
}

impl ChannelsFeed {
    /// A feed whose messages are counted in `alive`.
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

    /// Counts a message, and makes its publication; `None` if the message is too large. `request` is the number of the
    /// question that has brought it.
    fn message(
        &mut self,
        now: Now,
        message: BusMessage,
        is_deletion: bool,
        request: Option<u64>,
    ) -> Option<Publication> {
        let check = self.check(&message);
        let counts = &mut self.stats.subjects[0];
        if let Err(why) = check {
            counts.messages_bad += 1;
            self.bad_log.say(now, &message, &why);
            return None;
        }
        counts.record(message.received);
        if let PayloadText::TooLarge { bytes } = message.text {
            counts.messages_bad += 1;
            let bytes_max = self.settings.bus_message_bytes_max;
            let why = TextTooLarge { bytes, bytes_max };
            self.bad_log.say(now, &message, &why);
        }
        self.stats.last_message_unix_ms = Some(message.received.unix_ms());
        Some(Publication {
            // The gateway knows the clients that wait for the last value.
            deliver: !message.quiet,
            place: message.place,
            subject: pattern(&message).map(|_| Arc::clone(&message.subject)),
            request,
            ..Publication::new(topic(&message), self.data(now, message, is_deletion))
        })
    }

    /// The message as data, of which the gateway makes the frames.
    fn data(&self, now: Now, message: BusMessage, is_deletion: bool) -> Message {
        let (key, unix_ms) = (self.key(&message), broadcast_unix_ms(now, &message));
        let is_of_feed = message.place != Place::Outside;
        let mut data = Message::new(message.payload, message.received, &self.alive);
        match message.text {
            PayloadText::Payload => data.content = Content::Text,
            PayloadText::Made(text) => data = data.with_text(text.into()),
            PayloadText::TooLarge { .. } => data.is_text_too_large = true,
            // The text is made when the first client needs it (`text_of` in `messages.rs`).
            PayloadText::Later | PayloadText::Unread | PayloadText::Bad(_) => {}
        }
        data.unix_ms = unix_ms;
        data.is_deletion = is_deletion;
        // Outside of the kept feed, only last values are quiet.
        data.is_last_value = message.quiet && !is_of_feed;
        data.is_stamped = self.settings.is_stamped;
        data.is_of_feed = is_of_feed;
        data.key = key;
        data
    }
}

/// Finds out what clients get of a payload as text; `Unread` if it is too large to be relayed at all.
fn read(payload: &[u8], bytes_max: usize) -> PayloadText {
    if check_size(payload, bytes_max).is_err() {
        return PayloadText::Unread;
    }
    if Json::check(payload).is_ok() {
        return PayloadText::Payload;
    }
    // Most are so short that the text of no payload of this length exceeds a limit.
    if RAW_GROWTH * payload.len() + RAW_BESIDE <= bytes_max.min(RAW_LATER_BYTES_MAX) {
        return PayloadText::Later;
    }
    match raw_text_bytes(payload) {
        bytes if bytes > bytes_max => PayloadText::TooLarge { bytes },
        bytes if bytes <= RAW_LATER_BYTES_MAX => PayloadText::Later,
        bytes => PayloadText::Made(raw_text(payload, bytes)),
    }
}

/// A longer text of a payload that is no JSON is made before the loop gets the message: for each MiB of the payload it takes
/// up to 18 ms.
const RAW_LATER_BYTES_MAX: usize = 128 * 1024;

/// How many times as long the text of a payload that is no JSON may be, and the most bytes before and after it.
const RAW_GROWTH: usize = 6;
const RAW_BESIDE: usize = 16;

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

    fn reader(&self) -> Option<EventReader<BusEvent>> {
        let bytes_max = self.settings.bus_message_bytes_max;
        Some(Arc::new(move |event| {
            if let Some(message) = event.message_mut() {
                message.text = read(&message.payload, bytes_max);
            }
        }))
    }

    fn event(&mut self, now: Now, event: BusEvent, out: &mut Vec<Publication>) {
        match event {
            // `None`: no question has brought it.
            BusEvent::Message(message) => out.extend(self.message(now, message, false, None)),
            BusEvent::Deleted(message) => out.extend(self.message(now, message, true, None)),
            BusEvent::LastValue {
                message,
                is_deletion,
                number,
            } => out.extend(self.message(now, message, is_deletion, Some(number))),
            BusEvent::CaughtUp => self.stats.caught_up = true,
            BusEvent::Gap { .. }
            | BusEvent::GapBeside { .. }
            | BusEvent::Refused { is_loss: true, .. } => self.stats.gaps += 1,
            BusEvent::Skipped(skipped) => {
                self.stats.subjects[0].messages_bad += 1;
                self.bad_log.say_skipped(now, &skipped);
            }
            BusEvent::Up
            | BusEvent::Down(_)
            | BusEvent::Feed(_)
            | BusEvent::Subscribed { .. }
            | BusEvent::Refused { .. }
            | BusEvent::Subjects(_)
            | BusEvent::ReadTo(_)
            | BusEvent::RetainedPage { .. }
            | BusEvent::RetainedUnanswered { .. }
            | BusEvent::RetainedEnd { .. }
            | BusEvent::WarmedUp => {}
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
            BusEvent::RetainedPage {
                number,
                cursor,
                is_open,
            } => Some(BusNotice::RetainedPage {
                number: *number,
                cursor: Arc::clone(cursor),
                is_open: *is_open,
            }),
            BusEvent::RetainedUnanswered { number, cursor } => {
                Some(BusNotice::RetainedUnanswered {
                    number: *number,
                    cursor: Arc::clone(cursor),
                })
            }
            BusEvent::RetainedEnd {
                subscription,
                number,
                cut,
            } => Some(BusNotice::RetainedEnd {
                topic: topic_of(subscription),
                number: *number,
                cut: *cut,
            }),
            BusEvent::Skipped(skipped) => Some(BusNotice::Skipped {
                topic: topic_of(&skipped.subscription),
                // The name of the message is the topic, or not known.
                subject: None,
                place: skipped.place,
            }),
            BusEvent::Message(message) if self.check(message).is_err() => {
                Some(BusNotice::Skipped {
                    topic: topic(message),
                    subject: Some(Arc::clone(&message.subject)),
                    place: message.place,
                })
            }
            BusEvent::LastValue {
                message, number, ..
            } if self.check(message).is_err() => Some(BusNotice::ValueSkipped {
                subject: Arc::clone(&message.subject),
                number: *number,
            }),
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
    use weirgate_core::Body;

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
            pattern: pattern.map(Into::into),
            ..BusMessage::new(channel, payload.to_vec(), NOW)
        })
    }

    /// The only publication of an event, and its message.
    fn made(feed: &mut ChannelsFeed, event: BusEvent) -> (Publication, Arc<Message>) {
        let mut out = Vec::new();
        let event = feed.read(event);
        assert_eq!(feed.notice(&event), None);
        feed.event(NOW, event, &mut out);
        assert_eq!(out.len(), 1);
        let publication = out.remove(0);
        let Body::Message(message) = &publication.body else {
            panic!("a message");
        };
        let message = Arc::clone(message);
        (publication, message)
    }

    #[test]
    fn a_message_goes_to_its_channel_or_to_the_pattern_that_brought_it() {
        let mut feed = feed();
        for (pattern, topic, payload) in [
            (None, "a:b", &b"{\"p\": 1.50}"[..]),
            (Some("a:*"), "a:*", b"1"),
        ] {
            let (publication, data) = made(&mut feed, message("a:b", pattern, payload));
            assert_eq!(publication.topic.as_str(), topic);
            assert_eq!(publication.subject.as_deref(), pattern.map(|_| "a:b"));
            assert!(publication.deliver);
            assert_eq!((data.payload(), data.unix_ms), (payload, NOW.unix_ms()));
            assert!(!data.is_deletion && !data.is_last_value && !data.is_of_feed);
        }
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
        let last_value = BusEvent::LastValue {
            message: deleted(true),
            is_deletion: true,
            number: 7,
        };
        for (event, is_last_value) in [
            (BusEvent::Deleted(deleted(false)), false),
            (last_value, true),
        ] {
            let (publication, data) = made(&mut feed, event);
            assert!(data.is_deletion && data.is_last_value == is_last_value);
            assert_eq!(publication.request, is_last_value.then_some(7));
        }
    }

    #[test]
    fn a_payload_stays_as_it_is_and_is_text_if_it_is_json() {
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
            let (_, data) = made(&mut feed(), message("c", None, payload));
            assert_eq!(data.payload(), payload);
            assert_eq!(data.content == Content::Text, is_json, "{payload:?}");
        }
    }

    /// The loop relies on what the thread of the source has found out: it walks no payload, which may have many megabytes.
    #[test]
    fn the_loop_does_not_read_a_payload_again() {
        let made = |text| {
            let BusEvent::Message(message) = message("c", None, b"{}") else {
                panic!("a message");
            };
            let mut out = Vec::new();
            let event = BusEvent::Message(BusMessage { text, ..message });
            feed().event(NOW, event, &mut out);
            let Body::Message(message) = out.remove(0).body else {
                panic!("a message");
            };
            message
        };
        assert_eq!(made(PayloadText::Payload).content, Content::Text);
        assert_eq!(made(PayloadText::Later).content, Content::Binary);
        let too_large = made(PayloadText::TooLarge { bytes: 1_200 });
        assert!(too_large.is_text_too_large);
        let with_text = made(PayloadText::Made(b"\"a text\"".to_vec()));
        assert_eq!(with_text.content, Content::Binary);
        let text = with_text.text_with(|_| panic!("the text is made"));
        assert_eq!(text, b"\"a text\"");
    }

    #[test]
    fn a_large_text_is_made_before_the_loop_gets_the_message() {
        const MIB: usize = 1024 * 1024;
        let of = |byte: u8, bytes: usize| read(&vec![byte; bytes], 3 * MIB);
        assert_eq!(of(b'1', MIB), PayloadText::Payload);
        assert_eq!(of(b'a', 20_000), PayloadText::Later);
        assert_eq!(of(b'a', 100_000), PayloadText::Later);
        let PayloadText::Made(text) = of(b'a', MIB) else {
            panic!("a text");
        };
        assert_eq!(text.len(), MIB + r#"{"raw":""}"#.len());
        // U+0001 has six bytes as text.
        let bytes = 6 * MIB + r#"{"raw":""}"#.len();
        assert_eq!(of(1, MIB), PayloadText::TooLarge { bytes });
        assert_eq!(of(b'1', 3 * MIB + 1), PayloadText::Unread, "for nobody");
    }

    #[test]
    fn what_is_too_large_goes_to_nobody_and_is_counted() {
        let mut feed = feed();
        for is_value in [false, true] {
            let large = message("c:d", Some("c:*"), &[b'1'; 1_101]);
            let event = match large {
                BusEvent::Message(message) if is_value => {
                    let (is_deletion, number) = (false, 7);
                    BusEvent::LastValue {
                        message,
                        is_deletion,
                        number,
                    }
                }
                large => large,
            };
            let skipped = match is_value {
                false => BusNotice::Skipped {
                    topic: TopicName::from("c:*".to_owned()),
                    subject: Some("c:d".into()),
                    place: Place::Outside,
                },
                true => BusNotice::ValueSkipped {
                    subject: "c:d".into(),
                    number: 7,
                },
            };
            assert_eq!(feed.notice(&event), Some(skipped));
            let mut out = Vec::new();
            feed.event(NOW, event, &mut out);
            assert!(out.is_empty());
        }
        made(&mut feed, message("c", None, &[b'1'; 100]));
        let counts = &feed.stats().subjects[0];
        assert_eq!((counts.messages, counts.messages_bad), (1, 2));
        assert_eq!(feed.stats().last_message_unix_ms, Some(NOW.unix_ms()));
    }

    #[test]
    fn the_gateway_hears_of_the_bus() {
        let mut feed = feed();
        let fault = || "gone".to_owned();
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
                    is_loss: false,
                },
                settled("b", 5, false),
            ),
            (
                BusEvent::Refused {
                    subscription: Subscription::channel("a"),
                    number: 6,
                    fault: fault(),
                    is_loss: true,
                },
                settled("a", 6, false),
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
        assert_eq!(feed.stats().gaps, 2, "a gap, and a name taken away");
    }
}
