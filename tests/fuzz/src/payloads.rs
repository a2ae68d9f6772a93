//! Bus messages and their form for clients, against the contracts in Python.

use std::cell::RefCell;

use weirgate::gateways::channels::ChannelsGateway;
use weirgate::gateways::channels::feed::ChannelsFeed;
use weirgate::gateways::levels::feed::Normaliser;
use weirgate::gateways::trades::feed::TradesFeed;
use weirgate_core::{
    Body, BusEvent, BusMessage, Content, CopyFor, Feed, FeedSettings, FrameBytes, Gateway,
    Publication, TopicName,
};

use weirgate_wire::json::Json;

use super::client::NOW;
use super::{oracle, outcome};

/// More than any input has.
const BYTES_MAX: usize = 1 << 20;

const SESSION_LENGTH_MIN: u32 = 240;

thread_local! {
    static NORMALISER: RefCell<Normaliser> = RefCell::new(Normaliser::new(SESSION_LENGTH_MIN));
}

pub(crate) fn levels(data: &[u8]) -> u64 {
    let mut out = Vec::new();
    let made = NORMALISER.with_borrow_mut(|normaliser| {
        let viewport = normaliser.normalise(data, NOW.unix_ms(), &mut out);
        viewport.map(|viewport| viewport.unwrap_or_default().to_owned())
    });
    let viewport = match &made {
        Ok(viewport) => viewport.as_str(),
        Err(_) => {
            out = b"bad".to_vec();
            ""
        }
    };
    oracle::python_agrees(&[b"levels", data, &out, viewport.as_bytes()]);
    let kind = match made {
        Ok(viewport) => format!(
            "{} {} {}",
            viewport.is_empty(),
            out.windows(14)
                .filter(|part| part == b"ml_predictions")
                .count()
                .min(2),
            out.windows(11)
                .filter(|part| part == b"level_price")
                .count()
                .min(3)
        ),
        Err(bad) => bad
            .to_string()
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .collect(),
    };
    outcome(kind)
}

fn message(subject: &str, pattern: Option<&str>, payload: &[u8]) -> BusEvent {
    BusEvent::Message(BusMessage {
        pattern: pattern.map(Into::into),
        ..BusMessage::new(subject, payload.to_vec(), NOW)
    })
}

/// Returns the publication of a message, if any: topic and body.
fn published(feed: &mut impl Feed<Event = BusEvent>, event: BusEvent) -> Option<Publication> {
    let mut out = Vec::new();
    let event = feed.read(event);
    feed.event(NOW, event, &mut out);
    assert!(out.len() <= 1, "one message, one publication");
    out.pop()
}

/// The first line is the end of the channel's name.
pub(crate) fn trades(data: &[u8]) -> u64 {
    let at = data.iter().position(|&b| b == b'\n').unwrap_or(0);
    let (Ok(symbol), payload) = (std::str::from_utf8(&data[..at]), &data[at..]) else {
        return 0;
    };
    let channel = format!("channel:trade:{symbol}");
    let settings = FeedSettings {
        bus_message_bytes_max: BYTES_MAX,
        ..FeedSettings::default()
    };
    let mut feed = TradesFeed::new(settings, FrameBytes::default());
    let event = message(&channel, Some("channel:trade:*"), payload);
    let publication = published(&mut feed, event);
    let (topic, body) = publication
        .as_ref()
        .and_then(|publication| Some((publication.topic.as_str(), publication.frame()?.body())))
        .unwrap_or(("", b"bad"));
    oracle::python_agrees(&[
        b"trades",
        channel.as_bytes(),
        payload,
        topic.as_bytes(),
        body,
    ]);
    let fields = body.iter().filter(|&&b| b == b',').count().min(8);
    outcome((publication.is_some(), fields, symbol.contains(':')))
}

/// The first line is the channel, the second the pattern.
pub(crate) fn channels(data: &[u8]) -> u64 {
    let mut parts = data.splitn(3, |&b| b == b'\n');
    let mut text = || std::str::from_utf8(parts.next().unwrap_or_default());
    let (Ok(channel), Ok(pattern)) = (text(), text()) else {
        return 0;
    };
    let payload = parts.next().unwrap_or_default();
    let settings = FeedSettings {
        bus_message_bytes_max: BYTES_MAX,
        ..FeedSettings::default()
    };
    let alive = FrameBytes::default();
    let mut feed = ChannelsFeed::new(settings, alive.clone());
    let pattern_name = Some(pattern).filter(|pattern| !pattern.is_empty());
    let publication = published(&mut feed, message(channel, pattern_name, payload));
    let render = |content| {
        let Body::Message(message) = &publication.as_ref()?.body else {
            panic!("a message");
        };
        let pattern = pattern_name.map(|pattern| TopicName::from(pattern.to_owned()));
        let copy = CopyFor {
            message,
            name: channel,
            pattern: pattern.as_ref(),
            position: None,
            content,
        };
        let copy = ChannelsGateway::render(&copy, &alive);
        // The number of the message precedes the body.
        Some([&b"{\"type\":\"data\",\"seq\":1"[..], copy.body()].concat())
    };
    if let Some(copy) = render(Content::Binary) {
        let mut parts = copy.splitn(2, |&b| b == b'\n');
        let object = parts.next().unwrap_or_default();
        assert!(Json::check(object).is_ok());
        assert_eq!(parts.next(), Some(payload));
    }
    // Without a payload there is no text.
    let text = render(Content::Text).filter(|_| !payload.is_empty());
    let whole = text.unwrap_or_default();
    oracle::python_agrees(&[
        b"channels",
        channel.as_bytes(),
        pattern.as_bytes(),
        payload,
        &whole,
    ]);
    let raw = whole.windows(7).any(|part| part == b"{\"raw\":");
    outcome((
        publication.is_some(),
        raw,
        pattern.is_empty(),
        payload.first().copied().unwrap_or(0),
    ))
}
