//! The trades feed: `channel:trade:SYMBOL` publications to a topic for each symbol.
//!
//! Six fields of the payload are passed on, each with its original text. The channel's name alone decides the topic.
//! Every trade counts, so frames have no conflation key. Must not know a client, a broker or a clock. Called by the
//! reactor, through [`weirgate_core::Feed`]. The fields of a large trade are read on the thread of the source
//! ([`Feed::reader`]).

use std::sync::Arc;

use thiserror::Error;

use crate::gateways::shared::feed::{
    BadMessageLog, STAMP_BYTES, TooLarge, broadcast_unix_ms, check_size, write_integer, write_stamp,
};
use crate::gateways::shared::history::append_end;
use crate::gateways::trades::candles::CANDLES;
use weirgate_core::{
    BusEvent, BusMessage, BusNotice, CopyRank, EventReader, Feed, FeedLine, FeedSettings,
    FeedStats, Frame, FrameBytes, PayloadText, Place, Position, Publication,
};
use weirgate_wire::base::Now;
use weirgate_wire::json::{Json, JsonError};

/// The fields of a trade, in the order in which clients get them.
const FIELDS: [&str; 6] = [
    "symbol",
    "price",
    "volume",
    "timestamp",
    "conditions",
    "exchange",
];

/// Why a publication is skipped. Always its publisher's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadTrade {
    /// The channel's name has fewer than three parts, or the name of a topic in place of a symbol.
    #[error("the channel is not channel:trade:SYMBOL")]
    Channel,
    /// Over the limit on bus messages.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A fault that was found before the loop got the trade, in words.
    #[error("{0}")]
    Found(Box<str>),
    /// Not JSON, no object, or nested deeper than allowed.
    #[error(transparent)]
    NotJson(#[from] JsonError),
}

/// Turns trades on the bus into publications on topics named like their symbols.
#[derive(Debug)]
pub struct TradesFeed {
    settings: FeedSettings,
    stats: FeedStats,
    bad_log: BadMessageLog,
    alive: FrameBytes,
}

impl TradesFeed {
    /// The pattern that the source subscribes to.
    pub const PATTERN: &str = "channel:trade:*";

    /// A feed whose frames are counted in `alive`.
    pub fn new(settings: FeedSettings, alive: FrameBytes) -> Self {
        Self {
            settings,
            stats: FeedStats::of([Self::PATTERN]),
            bad_log: BadMessageLog::default(),
            alive,
        }
    }

    /// Makes the publication of a message, and counts the message. A message that is skipped has a publication too if
    /// its position in the kept feed has to be noted.
    fn message(&mut self, now: Now, message: &BusMessage) -> Option<Publication> {
        let made = self.publication(now, message);
        let counts = &mut self.stats.subjects[0];
        match made {
            Ok(publication) => {
                counts.record(message.received);
                self.stats.last_message_unix_ms = Some(message.received.unix_ms());
                Some(publication)
            }
            Err(why) => {
                counts.messages_bad += 1;
                self.bad_log.say(now, message, &why);
                self.left_out(message, &why)
            }
        }
    }

    /// Makes the publication of a trade, or returns why there is none. A quiet message is not delivered.
    fn publication(&self, now: Now, message: &BusMessage) -> Result<Publication, BadTrade> {
        let symbol = symbol(&message.subject).ok_or(BadTrade::Channel)?;
        let bytes_max = self.settings.bus_message_bytes_max.min(TRADE_BYTES_MAX);
        check_size(&message.payload, bytes_max)?;
        if let PayloadText::Bad(why) = &message.text {
            return Err(BadTrade::Found(why.clone()));
        }
        Ok(Publication {
            deliver: !message.quiet,
            place: message.place,
            ..Publication::new(symbol.into(), self.frame(now, message)?)
        })
    }

    /// A trade over a limit of this instance may have been relayed by an instance with another limit: the history has
    /// to know of the trade. Any other bad trade is bad on every instance.
    fn left_out(&self, message: &BusMessage, why: &BadTrade) -> Option<Publication> {
        let is_limited = matches!(
            why,
            BadTrade::TooLarge(_) | BadTrade::NotJson(JsonError::TooDeep { .. })
        );
        let position = message.place.position().filter(|_| is_limited)?;
        Some(Publication {
            deliver: false,
            place: Place::LeftOut(position),
            ..Publication::new(
                symbol(&message.subject)?.into(),
                // Empty, because no client gets it.
                Frame::text(&self.alive).finish(),
            )
        })
    }

    /// `{"type":"trade","data":{…},"timestamp":ms}`; the timestamp is the time of the broadcast. With a history `"pos"`
    /// is the last member.
    fn frame(&self, now: Now, message: &BusMessage) -> Result<Arc<Frame>, JsonError> {
        // Trades are nobody's own.
        let mut frame = Frame::text(&self.alive)
            .common(true)
            .with_capacity(
                message.payload.len()
                    + 64
                    + usize::from(self.settings.is_stamped) * STAMP_BYTES
                    + message.place.position().map_or(0, |_| Position::BYTES_MAX),
            )
            .received(message.received);
        let out = frame.payload();
        out.extend_from_slice(br#"{"type":"trade","data":"#);
        match &message.text {
            PayloadText::Made(data) => out.extend_from_slice(data),
            // Nested too deep (`read`), or not read before.
            _ => write_data(&message.payload, out)?,
        }
        let time_ms = broadcast_unix_ms(now, message);
        out.push(b',');
        write_integer("timestamp", time_ms, out);
        if self.settings.is_stamped {
            out.push(b',');
            write_stamp(message.received, out);
        }
        append_end(&mut frame, message.place.position(), CopyRank::LAST);
        Ok(frame.finish())
    }
}

/// Appends the data of a trade for clients: an object of [`FIELDS`]. Appends nothing if the payload is bad.
fn write_data(payload: &[u8], out: &mut Vec<u8>) -> Result<(), JsonError> {
    let mut fields = [const { None }; FIELDS.len()];
    for entry in Json::object_entries(payload)? {
        let (key, value) = entry?;
        if let Some(index) = FIELDS.iter().position(|field| *field == key) {
            fields[index] = Some(value);
        }
    }
    let mut before = b'{';
    for (field, value) in FIELDS.iter().zip(&fields) {
        let Some(value) = value else { continue };
        out.extend_from_slice(&[before, b'"']);
        out.extend_from_slice(field.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(value.as_raw_str().as_bytes());
        before = b',';
    }
    if before == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

/// What clients get of a trade, or why it is bad.
fn read(payload: &[u8]) -> PayloadText {
    let mut data = Vec::with_capacity(payload.len());
    match write_data(payload, &mut data) {
        Ok(()) => PayloadText::Made(data),
        // The history has to know of it; the loop finds out in no time.
        Err(JsonError::TooDeep { .. }) => PayloadText::Unread,
        Err(why) => PayloadText::Bad(why.to_string().into()),
    }
}

/// The most bytes of a trade, which has some 200. The loop copies it, and reads it for candles.
const TRADE_BYTES_MAX: usize = 1024 * 1024;

impl Feed for TradesFeed {
    type Event = BusEvent;

    fn reader(&self) -> Option<EventReader<BusEvent>> {
        let bytes_max = self.settings.bus_message_bytes_max.min(TRADE_BYTES_MAX);
        Some(Arc::new(move |event| {
            if let BusEvent::Message(message) = event
                && message.payload.len() <= bytes_max
            {
                message.text = read(&message.payload);
            }
        }))
    }

    fn event(&mut self, now: Now, event: BusEvent, out: &mut Vec<Publication>) {
        self.bad_log.tick(now);
        match event {
            BusEvent::Up => self.stats.caught_up = true,
            BusEvent::Gap { .. } => self.stats.gaps += 1,
            BusEvent::Skipped(skipped) => {
                self.stats.subjects[0].messages_bad += 1;
                self.bad_log.say_skipped(now, &skipped);
            }
            BusEvent::Message(message) => out.extend(self.message(now, &message)),
            // The feed has a single subscription, in place from the first `Up` on; the source logs a refusal.
            BusEvent::Down(_)
            | BusEvent::CaughtUp
            | BusEvent::Feed(_)
            | BusEvent::Deleted(_)
            | BusEvent::Subscribed { .. }
            | BusEvent::Refused { .. }
            | BusEvent::LastValue { .. }
            | BusEvent::GapBeside { .. }
            | BusEvent::Subjects(_)
            | BusEvent::RetainedPage { .. }
            | BusEvent::RetainedUnanswered { .. }
            | BusEvent::RetainedEnd { .. } => {}
        }
    }

    fn notice(&self, event: &BusEvent) -> Option<BusNotice> {
        event.link_notice()
    }

    fn next_line(&mut self) -> Option<FeedLine> {
        self.bad_log.next()
    }

    fn stats(&self) -> &FeedStats {
        &self.stats
    }
}

/// The symbol of a channel, unchanged: everything after the prefix, because exchanges write `NSE:TCS` and `BTC:USD`. A
/// name of the form of a candles topic is not a symbol: the trade would go to the watchers of the candles.
fn symbol(channel: &str) -> Option<&str> {
    let symbol = channel.strip_prefix("channel:trade:")?;
    (!symbol.starts_with(CANDLES)).then_some(symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        mono_us: 5_000_000,
        unix_us: 1_700_000_000_123 * 1_000,
    };

    fn feed() -> TradesFeed {
        let settings = FeedSettings {
            bus_message_bytes_max: 1_100,
            ..FeedSettings::default()
        };
        TradesFeed::new(settings, FrameBytes::default())
    }

    fn message(channel: &str, payload: &[u8]) -> BusEvent {
        BusEvent::Message(BusMessage {
            pattern: Some(TradesFeed::PATTERN.into()),
            ..BusMessage::new(channel, payload.to_vec(), NOW)
        })
    }

    /// The broadcast for subscribers of the topic, if any.
    fn published(feed: &mut TradesFeed, channel: &str, payload: &[u8]) -> Option<(String, String)> {
        let mut out = Vec::new();
        feed.event(NOW, message(channel, payload), &mut out);
        assert!(out.len() <= 1);
        let publication = out.pop()?;
        assert!(publication.deliver);
        let frame = publication.frame().expect("a frame");
        assert_eq!(frame.key(), None, "no trade replaces another");
        let body = String::from_utf8(frame.body().to_vec()).unwrap();
        Some((publication.topic.as_str().to_owned(), body))
    }

    #[test]
    fn six_fields_keep_their_text_and_their_order() {
        let cases = [
            (
                r#"{"exchange":"N","x":1,"price":1.10,"symbol":"AAPL","volume":1e400,"timestamp":5,"conditions":["@"]}"#,
                r#"{"symbol":"AAPL","price":1.10,"volume":1e400,"timestamp":5,"conditions":["@"],"exchange":"N"}"#,
            ),
            (r#" {"price" : "12"} "#, r#"{"price":"12"}"#),
            (r#"{"symbol":null}"#, r#"{"symbol":null}"#),
            (r#"{"price":1,"price":2}"#, r#"{"price":2}"#),
            (r#"{"\u0070rice":3}"#, r#"{"price":3}"#),
            ("{}", "{}"),
        ];
        for (payload, data) in cases {
            let got = published(&mut feed(), "channel:trade:AAPL", payload.as_bytes());
            let body = format!(r#"{{"type":"trade","data":{data},"timestamp":1700000000123}}"#);
            assert_eq!(got, Some(("AAPL".to_owned(), body)), "{payload}");
        }
    }

    #[test]
    fn a_stamp_is_the_time_at_the_bus_socket_in_microseconds() {
        let mut feed = feed();
        feed.settings.is_stamped = true;
        let body =
            r#"{"type":"trade","data":{},"timestamp":1700000000123,"recv_us":1700000000123000}"#;
        let got = published(&mut feed, "channel:trade:A", b"{}");
        assert_eq!(got, Some(("A".to_owned(), body.to_owned())));
    }

    #[test]
    fn the_channel_decides_whose_trade_it_is() {
        let topic = |channel: &str| published(&mut feed(), channel, b"{}").map(|p| p.0);
        assert_eq!(topic("channel:trade:aapl").as_deref(), Some("aapl"));
        assert_eq!(topic("channel:trade:").as_deref(), Some(""));
        for symbol in ["NSE:TCS", "BTC:USD", "A:", ":", "CANDLE:1M:A", "candle"] {
            let channel = format!("channel:trade:{symbol}");
            assert_eq!(topic(&channel).as_deref(), Some(symbol));
        }
        for other in [
            "channel:trade:candle:1m:A",
            "channel:trade",
            "channel:quote:A",
            "A",
        ] {
            assert_eq!(topic(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_object_is_counted_and_skipped() {
        let deep = format!("{{\"price\":{}{}}}", "[".repeat(512), "]".repeat(512));
        let large = format!("{{\"price\":\"{}\"}}", "x".repeat(1_100));
        let bad: [&[u8]; 9] = [
            b"not json",
            b"",
            b"5",
            b"null",
            b"[1,2]",
            b"{\"price\":NaN}",
            b"{\"price\":\"\xff\"}",
            deep.as_bytes(),
            large.as_bytes(),
        ];
        let mut feed = feed();
        for payload in bad {
            assert_eq!(published(&mut feed, "channel:trade:A", payload), None);
        }
        assert_eq!(feed.stats().subjects[0].messages_bad, 9);
        assert_eq!(feed.stats().last_message_unix_ms, None);
        assert!(published(&mut feed, "channel:trade:A", b"{}").is_some());
        assert_eq!(feed.stats().subjects[0].messages, 1);
        assert_eq!(feed.stats().last_message_unix_ms, Some(NOW.unix_ms()));
    }

    #[test]
    fn a_trade_is_the_same_whichever_thread_reads_it() {
        let pad = "x".repeat(200_000);
        let deep = "[".repeat(600);
        for (payload, is_read) in [
            (
                format!(r#"{{"exchange":"N","x":1,"price":"{pad}","price":2}}"#),
                true,
            ),
            (format!(r#"{{"x":"{pad}"}}"#), true),
            (format!(r#"{{"x":"{pad}"}} {{}}"#), true),
            (format!("\"{pad}\""), true),
            (format!(r#"{{"x":"{pad}","price":{deep}}}"#), false),
        ] {
            let event = || message("channel:trade:A", payload.as_bytes());
            let feed = || TradesFeed::new(FeedSettings::default(), FrameBytes::default());
            let read = feed().read(event());
            let BusEvent::Message(of_source) = &read else {
                panic!("a message");
            };
            assert_eq!(of_source.text != PayloadText::Unread, is_read);
            let made = [event(), read].map(|event| {
                let (mut feed, mut out) = (feed(), Vec::new());
                feed.event(NOW, event, &mut out);
                let body = out
                    .pop()
                    .map(|made| made.frame().expect("it").body().to_vec());
                (body, format!("{:?}", feed.next_line()))
            });
            assert!(made[0] == made[1], "{:?}", made.map(|made| made.1));
        }
    }

    #[test]
    fn a_trade_has_its_own_limit() {
        let mut feed = TradesFeed::new(FeedSettings::default(), FrameBytes::default());
        for (bytes, is_good) in [(TRADE_BYTES_MAX, true), (TRADE_BYTES_MAX + 1, false)] {
            let text = "x".repeat(bytes - r#"{"price":""}"#.len());
            let payload = format!(r#"{{"price":"{text}"}}"#);
            let got = published(&mut feed, "channel:trade:A", payload.as_bytes());
            assert_eq!(got.is_some(), is_good, "{bytes} bytes");
        }
        assert_eq!(feed.stats().subjects[0].messages_bad, 1);
    }

    #[test]
    fn it_is_ready_once_the_bus_was_reached_and_counts_losses() {
        let mut feed = feed();
        let mut out = Vec::new();
        assert!(!feed.stats().caught_up);
        feed.event(NOW, BusEvent::Up, &mut out);
        feed.event(NOW, BusEvent::Gap { lost: None }, &mut out);
        assert!(feed.stats().caught_up && out.is_empty());
        assert_eq!(feed.stats().gaps, 1);
    }
}
