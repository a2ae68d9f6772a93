use std::sync::Arc;

use super::*;
use weirgate_core::{FeedSettings, Frame, Retain, StreamPosition};
use weirgate_wire::base::allocated_bytes;

const START: Now = Now {
    mono_us: 10_000_000,
    unix_us: 1_721_137_499_999 * 1_000,
};

mod properties;
mod views;

/// A feed, its clock, and the broadcasts and retained state for clients.
struct Bench {
    feed: LevelsFeed,
    now: Now,
    delivered: Vec<String>,
    retained: Option<String>,
    publications: usize,
}

impl Bench {
    fn new() -> Self {
        Self::with(LevelsFeedSettings::default())
    }

    fn with(settings: LevelsFeedSettings) -> Self {
        Self {
            feed: LevelsFeed::new(settings, FrameBytes::default()),
            now: START,
            delivered: Vec::new(),
            retained: None,
            publications: 0,
        }
    }

    fn event(&mut self, event: BusEvent) -> &mut Self {
        let mut out = Vec::new();
        self.feed.event(self.now, event, &mut out);
        self.publications += out.len();
        for publication in out {
            assert_eq!(publication.topic, LevelsFeed::TOPIC);
            let frame = publication.frame().expect("a frame");
            assert!(frame.key().is_some());
            assert_eq!(frame.prefix(), weirgate_core::Prefix::None);
            let body = String::from_utf8(frame.body().to_vec()).expect("text");
            match publication.retain {
                Retain::Set => self.retained = Some(body.clone()),
                Retain::Clear => self.retained = None,
                Retain::Keep => panic!("every frame holds the whole state"),
            }
            if publication.deliver {
                self.delivered.push(body);
            }
        }
        self
    }

    fn message(&mut self, subject: &str, payload: impl AsRef<[u8]>) -> &mut Self {
        self.at(None, false, subject, payload)
    }

    fn flow(&mut self, payload: impl AsRef<[u8]>) -> &mut Self {
        self.message("market.flow", payload)
    }

    fn quiet(&mut self, payload: impl AsRef<[u8]>) -> &mut Self {
        self.at(None, true, "market.flow", payload)
    }

    fn at(
        &mut self,
        position: Option<(i64, u64)>,
        quiet: bool,
        subject: &str,
        payload: impl AsRef<[u8]>,
    ) -> &mut Self {
        let position = position.map(|(epoch, sequence)| StreamPosition { epoch, sequence });
        self.event(BusEvent::Message(BusMessage {
            position,
            quiet,
            ..BusMessage::new(Arc::from(subject), payload.as_ref().to_vec(), self.now)
        }))
    }

    fn after_ms(&mut self, ms: u64) -> &mut Self {
        self.now = self.now.plus_us(ms * 1_000);
        self
    }

    /// Takes the broadcasts since the last call.
    fn took(&mut self) -> Vec<String> {
        std::mem::take(&mut self.delivered)
    }

    fn flow_stats(&self) -> (u64, u64, u64) {
        let stats = &self.feed.stats().subjects[1];
        (stats.messages, stats.messages_bad, stats.messages_old)
    }
}

const EMPTY_LEVELS: &str =
    r#""levels":{"ts":1,"spy":{"spot":null,"bid":null,"ask":null},"levels":[]}"#;

#[test]
fn a_deletion_removes_the_key_for_all() {
    let mut bench = Bench::new();
    bench
        .flow("1")
        .message("levels.signals", r#"{"ts":1,"viewport":2}"#);
    bench.took();
    for (subject, left) in [("levels.signals", r#"{"flow":1}"#), ("market.flow", "{}")] {
        let message = BusMessage::new(Arc::from(subject), Vec::new(), bench.now);
        bench.event(BusEvent::Deleted(message));
        assert_eq!(bench.took(), [left]);
    }
    assert_eq!(bench.flow_stats(), (2, 0, 0));
}

/// Large messages, and whether they are good.
fn large_messages() -> Vec<(&'static str, String, bool)> {
    let pad = "x".repeat(200_000);
    let levels = vec![r#"{"id":"a"}"#; 20_000].join(",");
    vec![
        ("market.flow", format!("\"{pad}\""), true),
        (
            "market.flow",
            format!("{}null", " ".repeat(pad.len())),
            true,
        ),
        ("market.flow", format!("\"{pad}"), false),
        (
            "levels.signals",
            format!(r#"{{"ts":1,"levels":[{levels}]}}"#),
            true,
        ),
        (
            "levels.signals",
            format!(r#"{{"ts":1,"viewport":{{"x":"{pad}"}}}}"#),
            true,
        ),
        (
            "levels.signals",
            format!(r#"{{"ts":1,"levels":5,"x":"{pad}"}}"#),
            false,
        ),
    ]
}

#[test]
fn a_message_is_the_same_whichever_thread_reads_it() {
    let (mut here, mut before) = (Bench::new(), Bench::new());
    for (subject, payload, is_good) in large_messages() {
        let message = BusMessage::new(subject, payload.into_bytes(), here.now);
        let read = before.feed.read(BusEvent::Message(message.clone()));
        let BusEvent::Message(of_source) = &read else {
            panic!("a message");
        };
        assert_ne!(of_source.text, PayloadText::Unread);
        assert_eq!(matches!(of_source.text, PayloadText::Bad(_)), !is_good);
        here.event(BusEvent::Message(message));
        before.event(read);
        let lines = [&mut here, &mut before].map(|bench| bench.feed.next_line());
        assert_eq!(format!("{:?}", lines[0]), format!("{:?}", lines[1]));
        let took = here.took();
        assert_eq!(took.len(), usize::from(is_good));
        assert!(took == before.took(), "{subject}");
    }
}

/// The loop relies on what the thread of the source has found out.
#[test]
fn the_loop_does_not_read_a_payload_again() {
    let mut bench = Bench::new();
    for (text, took) in [
        (PayloadText::Payload, 1),
        (PayloadText::Bad("a fault".into()), 0),
    ] {
        let message = BusMessage {
            text,
            ..BusMessage::new("market.flow", b"no JSON".to_vec(), bench.now)
        };
        bench.event(BusEvent::Message(message));
        assert_eq!(bench.took().len(), took);
    }
    let line = format!("{:?}", bench.feed.next_line());
    assert!(line.contains("a fault"), "{line}");
}

#[test]
fn each_good_message_is_one_broadcast_of_everything_known() {
    let mut bench = Bench::new();
    bench.flow(" {\"n\": 1.50,\"a\":0} ");
    assert_eq!(bench.took(), ["{\"flow\": {\"n\": 1.50,\"a\":0} }"]);
    bench.message("levels.signals", r#"{"ts":1,"viewport":{"x": 1}}"#);
    let expected =
        format!("{{\"flow\": {{\"n\": 1.50,\"a\":0}} ,{EMPTY_LEVELS},\"viewport\":{{\"x\": 1}}}}");
    assert_eq!(bench.took(), [expected]);
    bench
        .message("levels.signals", r#"{"ts":1}"#)
        .flow("0")
        .flow("0")
        .flow("null");
    let with_flow = format!("{{\"flow\":0,{EMPTY_LEVELS}}}");
    let expected = [
        format!("{{\"flow\": {{\"n\": 1.50,\"a\":0}} ,{EMPTY_LEVELS}}}"),
        with_flow.clone(),
        with_flow,
        format!("{{{EMPTY_LEVELS}}}"),
    ];
    assert_eq!(bench.took(), expected);
    assert_eq!(bench.retained.as_deref(), Some(expected[3].as_str()));
    assert_eq!(
        bench.feed.stats().last_message_unix_ms,
        Some(START.unix_ms())
    );
}

#[test]
fn flow_null_with_nothing_else_known_broadcasts_an_empty_object_and_clears() {
    let mut bench = Bench::new();
    bench.flow("5").flow(" null ");
    assert_eq!(bench.took(), ["{\"flow\":5}", "{}"]);
    assert_eq!(bench.retained, None);
}

#[test]
fn frames_carry_the_stamp_of_their_message_and_no_slack() {
    let alive = FrameBytes::default();
    let mut feed = LevelsFeed::new(LevelsFeedSettings::default(), alive.clone());
    let mut out = Vec::new();
    let received = START.plus_us(7);
    let message = BusMessage::new(Arc::from("market.flow"), vec![b'1'; 5_000], received);
    feed.event(START.plus_us(99), BusEvent::Message(message), &mut out);
    assert_eq!(out[0].body.received(), received);
    let frame = allocated_bytes(size_of::<Frame>() + 16);
    let most = allocated_bytes(5_000 + 9 + 16) + frame;
    assert!(alive.alive() <= most as u64, "{}", alive.alive());
}

#[test]
fn other_subjects_are_ignored() {
    let mut bench = Bench::new();
    for subject in [
        "levels.other",
        "market.futures.trades",
        "market.flows",
        "",
        "Market.flow",
    ] {
        bench.message(subject, "1").message(subject, "not json");
    }
    assert_eq!(bench.publications, 0);
    assert_eq!(bench.feed.stats().messages_ignored, 10);
    assert_eq!(bench.flow_stats(), (0, 0, 0));
    let names: Vec<_> = bench
        .feed
        .stats()
        .subjects
        .iter()
        .map(|s| &s.subject)
        .collect();
    assert_eq!(names, ["levels.signals", "market.flow"]);
}

#[test]
fn bad_messages_are_counted_and_change_nothing() {
    let mut bench = Bench::new();
    bench
        .flow("1")
        .message("levels.signals", r#"{"ts":1,"viewport":0}"#)
        .took();
    let before = bench.retained.clone();
    let deep = "[".repeat(513) + &"]".repeat(513);
    let not_json: [&[u8]; 22] = [
        b"",
        b" ",
        b"not json",
        b"{",
        b"{'a':1}",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"\xef\xbb\xbf1",
        b"\"\xff\"",
        b"\"\\ud800\"",
        b"\"\\udc00\\ud800\"",
        b"\"\\u12g4\"",
        b"1 2",
        b"{}{}",
        b"[1,]",
        b"{\"a\":1,}",
        b"01",
        b"\"\x01\"",
        b"{\"\\ud800\":1}",
        b"\"\\ud83d\\u0041\"",
        deep.as_bytes(),
    ];
    for payload in not_json {
        bench.flow(payload).message("levels.signals", payload);
        let wrapped = [b"{\"levels\":[],\"x\":", payload, b"}"].concat();
        bench.message("levels.signals", wrapped);
    }
    let bad = not_json.len() as u64;
    bench.message(
        "levels.signals",
        r#"{"levels":[{"id":"new"}],"viewport":1}"#,
    );
    assert_eq!(bench.flow_stats(), (1, bad, 0));
    assert_eq!(bench.feed.stats().subjects[0].messages_bad, 2 * bad + 1);
    assert_eq!(bench.publications, 2);
    assert_eq!(bench.retained, before);
    bench.flow("2");
    assert_eq!(
        bench.took(),
        [format!("{{\"flow\":2,{EMPTY_LEVELS},\"viewport\":0}}")]
    );
}

#[test]
fn depth_counts_over_the_whole_text() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let mut bench = Bench::new();
    bench.flow(nested(512)).flow(nested(513));
    bench.message(
        "levels.signals",
        format!("{{\"ts\":1,\"x\":{}}}", nested(511)),
    );
    bench.message(
        "levels.signals",
        format!("{{\"ts\":1,\"x\":{}}}", nested(512)),
    );
    assert_eq!(bench.took().len(), 2);
    let stats = &bench.feed.stats().subjects;
    assert_eq!([stats[0].messages_bad, stats[1].messages_bad], [1, 1]);
}

#[test]
fn a_message_over_the_size_limit_is_bad() {
    let settings = LevelsFeedSettings {
        messages: FeedSettings {
            bus_message_bytes_max: 10,
            ..FeedSettings::default()
        },
        ..LevelsFeedSettings::default()
    };
    let mut bench = Bench::with(settings);
    bench.flow("1234567890").flow("12345678901");
    assert_eq!(bench.took(), ["{\"flow\":1234567890}"]);
    assert_eq!(bench.flow_stats(), (1, 1, 0));
}

#[test]
fn an_older_message_never_replaces_a_newer_one_of_its_subject() {
    let mut bench = Bench::new();
    bench.at(Some((1, 5)), false, "market.flow", "5");
    bench.at(Some((1, 5)), false, "market.flow", "50");
    bench.at(Some((1, 3)), true, "market.flow", "3");
    bench.at(Some((1, 2)), false, "levels.signals", r#"{"ts":1}"#);
    bench.at(Some((1, 7)), false, "market.flow", "bad");
    bench.at(Some((1, 6)), false, "market.flow", "6");
    assert_eq!(bench.took().len(), 2);
    assert_eq!(bench.flow_stats(), (1, 1, 3));
    bench.at(Some((2, 1)), false, "market.flow", "1");
    bench.at(Some((1, 9)), false, "market.flow", "9");
    bench.at(None, false, "market.flow", "0");
    assert_eq!(bench.took().len(), 2);
    assert_eq!(bench.flow_stats(), (3, 1, 4));
    assert_eq!(
        bench.retained,
        Some(format!("{{\"flow\":0,{EMPTY_LEVELS}}}"))
    );
}

#[test]
fn a_backlog_is_delivered_once() {
    let mut bench = Bench::new();
    bench.event(BusEvent::Up);
    for i in 1..=10_000 {
        bench.quiet(i.to_string());
    }
    assert!(bench.took().is_empty());
    assert_eq!(
        bench.publications, 1,
        "the first, so that newcomers get something at once"
    );
    assert!(!bench.feed.stats().caught_up);
    bench.event(BusEvent::CaughtUp);
    assert!(bench.feed.stats().caught_up);
    assert_eq!(bench.took(), ["{\"flow\":10000}"]);
    bench.event(BusEvent::CaughtUp);
    assert_eq!(bench.publications, 2);
    assert_eq!(bench.flow_stats().0, 10_000);
}

#[test]
fn the_newest_message_ahead_of_a_backlog_is_delivered_before_its_end() {
    let mut bench = Bench::new();
    bench
        .event(BusEvent::Up)
        .at(Some((1, 9)), true, "market.flow", "9")
        .event(BusEvent::WarmedUp);
    assert_eq!(bench.took(), ["{\"flow\":9}"]);
    assert!(!bench.feed.stats().caught_up, "the backlog is still read");
    bench
        .at(Some((1, 8)), true, "market.flow", "8")
        .event(BusEvent::CaughtUp);
    assert!(bench.took().is_empty());
}

#[test]
fn newcomers_get_a_recent_state_while_a_backlog_is_read() {
    let mut bench = Bench::new();
    bench.quiet("1").quiet("2");
    assert_eq!(bench.retained.as_deref(), Some("{\"flow\":1}"));
    bench.after_ms(100).quiet("3");
    assert_eq!(bench.retained.as_deref(), Some("{\"flow\":3}"));
    bench.quiet("4").after_ms(99).quiet("5");
    assert_eq!(bench.retained.as_deref(), Some("{\"flow\":3}"));
    // Any later event brings the retained state up to date, a skipped message too.
    bench.after_ms(1).message("levels.other", "x");
    assert_eq!(bench.retained.as_deref(), Some("{\"flow\":5}"));
    assert!(bench.took().is_empty());
    bench.event(BusEvent::CaughtUp);
    assert_eq!(bench.took(), ["{\"flow\":5}"]);
}

#[test]
fn the_frame_that_newcomers_got_is_the_one_delivered() {
    let mut feed = LevelsFeed::new(LevelsFeedSettings::default(), FrameBytes::default());
    let mut out = Vec::new();
    let message = BusMessage {
        quiet: true,
        ..BusMessage::new(Arc::from("market.flow"), b"1".to_vec(), START)
    };
    feed.event(START, BusEvent::Message(message), &mut out);
    feed.event(START, BusEvent::CaughtUp, &mut out);
    let [retained, delivered] = &out[..] else {
        panic!("{out:?}");
    };
    assert!(!retained.deliver && delivered.deliver);
    let frames = retained.frame().zip(delivered.frame());
    assert!(frames.is_some_and(|(one, other)| Arc::ptr_eq(one, other)));
}

#[test]
fn nothing_is_broadcast_again_because_of_a_reconnection() {
    let mut bench = Bench::new();
    bench.at(Some((1, 5)), false, "market.flow", "5");
    bench
        .event(BusEvent::Down("gone".into()))
        .event(BusEvent::Up);
    bench
        .at(Some((1, 5)), true, "market.flow", "5")
        .event(BusEvent::CaughtUp);
    // The same state from a source without positions.
    bench.quiet("5").event(BusEvent::CaughtUp);
    assert_eq!(bench.publications, 1);
    // A change and its reversal need no broadcast, unless a new client saw the state between.
    bench.quiet("6").quiet("5").event(BusEvent::CaughtUp);
    assert!(bench.took().len() == 1 && bench.publications == 1);
    bench.after_ms(100);
    bench.quiet("6").quiet("5").event(BusEvent::CaughtUp);
    assert_eq!(bench.took(), ["{\"flow\":5}"]);
    assert_eq!(bench.retained.as_deref(), Some("{\"flow\":5}"));
}

#[test]
fn a_warm_up_that_finds_nothing_publishes_nothing() {
    let mut bench = Bench::new();
    bench
        .event(BusEvent::Up)
        .quiet("null")
        .event(BusEvent::CaughtUp);
    assert_eq!(bench.publications, 0);
    assert!(bench.feed.stats().caught_up);
}

#[test]
fn a_live_message_during_a_backlog_carries_all_of_it() {
    let mut bench = Bench::new();
    bench
        .quiet("1")
        .quiet("2")
        .message("levels.signals", r#"{"ts":1}"#);
    assert_eq!(bench.took(), [format!("{{\"flow\":2,{EMPTY_LEVELS}}}")]);
    bench.event(BusEvent::CaughtUp);
    assert!(bench.took().is_empty());
}

#[test]
fn a_backlog_that_breaks_off_is_delivered_as_far_as_it_came() {
    let mut bench = Bench::new();
    bench
        .quiet("1")
        .quiet("2")
        .event(BusEvent::Down("gone".into()));
    assert_eq!(bench.took(), ["{\"flow\":2}"]);
    bench.event(BusEvent::Up).event(BusEvent::CaughtUp);
    assert!(bench.took().is_empty());
}

#[test]
fn gaps_are_counted() {
    let mut bench = Bench::new();
    bench
        .event(BusEvent::Gap { lost: None })
        .event(BusEvent::Gap { lost: Some(7) });
    assert_eq!(bench.feed.stats().gaps, 2);
    assert_eq!(bench.publications, 0);
}

#[test]
fn it_judges_as_the_feed_does() {
    let settings = LevelsFeedSettings {
        messages: FeedSettings {
            bus_message_bytes_max: 2_000,
            ..FeedSettings::default()
        },
        ..LevelsFeedSettings::default()
    };
    let judge = LevelsJudge::new(&settings);
    let large = format!("[\"{}\"]", "x".repeat(2_000));
    let deep = "[".repeat(513) + &"]".repeat(513);
    let payloads = [
        "",
        "{",
        "{}",
        "null",
        "5",
        "[]",
        &deep,
        &large,
        r#"{"ts":1700000000000,"levels":[]}"#,
        r#"{"ts":[]}"#,
        r#"{"ts":9e18}"#,
        r#"{"levels":[{"price":{}}]}"#,
    ];
    for subject in SUBJECTS {
        let mut verdicts = std::collections::HashSet::new();
        for payload in payloads {
            let mut feed = LevelsFeed::new(settings.clone(), FrameBytes::default());
            let message = BusMessage {
                quiet: true,
                ..BusMessage::new(subject, payload.as_bytes().to_vec(), Now::default())
            };
            feed.event(Now::default(), BusEvent::Message(message), &mut Vec::new());
            let bad: u64 = feed.stats().subjects.iter().map(|s| s.messages_bad).sum();
            let is_good = judge.is_good(subject, payload.as_bytes());
            assert_eq!(is_good, bad == 0, "{subject} {payload}");
            verdicts.insert(is_good);
        }
        assert_eq!(verdicts.len(), 2, "good ones and bad ones");
    }
}
