use super::*;
use crate::feeds::Fault;

const NOW: Now = Now {
    mono_us: 5,
    unix_ms: 1_767_954_600_007,
};

fn feed() -> ChannelsFeed {
    let settings = ChannelsFeedSettings {
        json_depth_max: 8,
        bus_message_bytes_max: 100,
    };
    ChannelsFeed::new(settings, FrameBytes::default())
}

fn message(channel: &str, pattern: Option<&str>, payload: &[u8]) -> BusEvent {
    BusEvent::Message(BusMessage {
        subject: channel.into(),
        pattern: pattern.map(Into::into),
        payload: payload.to_vec(),
        position: None,
        received: NOW,
        quiet: false,
    })
}

/// The topic and the text behind the number of what follows from one message.
fn published(feed: &mut ChannelsFeed, event: BusEvent) -> Option<(String, String)> {
    let mut out = Vec::new();
    assert_eq!(feed.notice(&event), None);
    feed.event(NOW, event, &mut out);
    assert!(out.len() <= 1);
    let publication = out.pop()?;
    assert!(publication.deliver);
    assert_eq!(publication.frame.lead(), LEAD);
    let text = String::from_utf8(publication.frame.body().to_vec()).expect("UTF-8");
    Some((publication.topic.as_str().to_owned(), text))
}

#[test]
fn a_message_goes_to_its_channel_or_to_the_pattern_that_brought_it() {
    let mut feed = feed();
    let exact = published(&mut feed, message("a\"b", None, b"{\"p\": 1.50}"));
    let want = r#","channel":"a\"b","pattern":null,"data":{"p": 1.50},"timestamp":"2026-01-09T10:30:00.007Z"}"#;
    assert_eq!(exact, Some(("a\"b".to_owned(), want.to_owned())));
    let by_pattern = published(&mut feed, message("a:b", Some("a:*"), b"1"));
    let want =
        r#","channel":"a:b","pattern":"a:*","data":1,"timestamp":"2026-01-09T10:30:00.007Z"}"#;
    assert_eq!(by_pattern, Some(("a:*".to_owned(), want.to_owned())));
}

#[test]
fn json_stays_as_it_is_and_other_text_becomes_raw() {
    let nested = format!("{}{}", "[".repeat(9), "]".repeat(9));
    for (payload, data) in [
        (&b"null"[..], "null"),
        (b"12345678901234567890.10", "12345678901234567890.10"),
        (b"\"s\"", "\"s\""),
        (b"{\"a\":1,\"a\":2}", "{\"a\":1,\"a\":2}"),
        (b" [1] ", " [1] "),
        ("\"é\\u00e9\"".as_bytes(), "\"é\\u00e9\""),
        (b"plain \"text\"\n", "{\"raw\":\"plain \\\"text\\\"\\n\"}"),
        (b"{\"a\":", "{\"raw\":\"{\\\"a\\\":\"}"),
        (b"NaN", "{\"raw\":\"NaN\"}"),
        (b"\xff{}", "{\"raw\":\"\u{fffd}{}\"}"),
        (b"\"\\ud800\"", "{\"raw\":\"\\\"\\\\ud800\\\"\"}"),
        (b"\xef\xbb\xbf1", "{\"raw\":\"\u{feff}1\"}"),
        (nested.as_bytes(), &format!("{{\"raw\":\"{nested}\"}}")),
    ] {
        let (_, text) = published(&mut feed(), message("c", None, payload)).expect("published");
        let (_, text) = text.split_once(",\"data\":").expect("data");
        let (text, _) = text.split_once(",\"timestamp\"").expect("a timestamp");
        assert_eq!(text, data);
    }
}

#[test]
fn what_is_empty_or_too_large_goes_to_nobody_and_is_counted() {
    let mut feed = feed();
    assert_eq!(published(&mut feed, message("c", None, b"")), None);
    // Last values have no numbers that could be skipped.
    for is_value in [false, true] {
        let large = message("c:d", Some("c:*"), &[b'1'; 101]);
        let event = match large {
            BusEvent::Message(message) if is_value => BusEvent::LastValue { message, number: 7 },
            large => large,
        };
        let skipped = BusNotice::Skipped(TopicName::from("c:*".to_owned()));
        assert_eq!(feed.notice(&event) == Some(skipped), !is_value);
        let mut out = Vec::new();
        feed.event(NOW, event, &mut out);
        assert!(out.is_empty());
    }
    assert!(published(&mut feed, message("c", None, &[b'1'; 100])).is_some());
    let counts = &feed.stats().subjects[0];
    assert_eq!((counts.messages, counts.messages_bad), (2, 2));
    assert_eq!(feed.stats().last_message_unix_ms, Some(NOW.unix_ms));
}

#[test]
fn the_gateway_hears_of_the_bus() {
    let mut feed = feed();
    let fault = || Fault("gone".to_owned());
    let settled = |name: &str, number, stands| {
        let topic = TopicName::from(name.to_owned());
        Some(BusNotice::Settled {
            topic,
            number,
            stands,
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
