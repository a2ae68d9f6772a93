//! More subjects and more topics: which topic gets which messages, and when.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ALL: &str = "levels";
const FLOW_ONLY: &str = "/ws/flow";
const MIXED: &str = "/ws/mixed";

/// No broadcast on any of the three topics.
const NOTHING: [Vec<String>; 3] = [const { Vec::new() }; 3];

/// The publications on a topic.
#[derive(Debug, Default)]
struct Seen {
    /// The broadcasts since the last look.
    delivered: Vec<String>,
    /// The newest broadcast.
    newest: Option<String>,
    /// The state for a new client.
    retained: Option<String>,
}

/// A feed with two relays and two endpoints.
struct Desk {
    feed: LevelsFeed,
    now: Now,
    topics: BTreeMap<String, Seen>,
}

impl Desk {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(is_numbered: bool) -> Self {
        Self::of(is_numbered, false)
    }

    fn of(is_numbered: bool, is_stamped: bool) -> Self {
        let relay = |subject: &str, key: &str| Relay {
            subject: subject.to_owned(),
            key: key.to_owned(),
        };
        let endpoint = |path: &str, keys: &[&str]| Endpoint {
            topic: path.to_owned().into(),
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
        };
        let settings = LevelsFeedSettings {
            relays: vec![
                relay("news.flash", "ne\"ws"),
                relay("market.depth", "depth"),
            ],
            endpoints: vec![
                endpoint(FLOW_ONLY, &["flow"]),
                endpoint(MIXED, &["depth", "viewport"]),
            ],
            is_numbered,
            messages: FeedSettings {
                is_stamped,
                ..FeedSettings::default()
            },
            ..LevelsFeedSettings::default()
        };
        let topics = [ALL, FLOW_ONLY, MIXED];
        Self {
            feed: LevelsFeed::new(settings, FrameBytes::default()),
            now: START,
            topics: topics.map(|t| (t.to_owned(), Seen::default())).into(),
        }
    }

    fn event(&mut self, event: BusEvent) {
        let mut out = Vec::new();
        self.feed.event(self.now, event, &mut out);
        for publication in out {
            let seen = self.topics.get_mut(publication.topic.as_str());
            let seen = seen.expect("a topic that was asked for");
            let frame = publication.frame().expect("a frame");
            let body = String::from_utf8(frame.body().to_vec()).expect("text");
            seen.retained = match publication.retain {
                Retain::Set => Some(body.clone()),
                Retain::Clear => None,
                Retain::Keep => panic!("every frame holds all of its topic"),
            };
            if publication.deliver {
                seen.newest = Some(body.clone());
                seen.delivered.push(body);
            }
        }
    }

    fn message(&mut self, subject: &str, quiet: bool, payload: &str) {
        self.event(BusEvent::Message(BusMessage {
            quiet,
            ..BusMessage::new(Arc::from(subject), payload.as_bytes().to_vec(), self.now)
        }));
    }

    fn loud(&mut self, subject: &str, payload: &str) -> [Vec<String>; 3] {
        self.message(subject, false, payload);
        self.took()
    }

    /// Takes the broadcasts on `ALL`, `FLOW_ONLY` and `MIXED` since the last call.
    fn took(&mut self) -> [Vec<String>; 3] {
        [ALL, FLOW_ONLY, MIXED].map(|topic| {
            let seen = self.topics.get_mut(topic).expect("a topic");
            std::mem::take(&mut seen.delivered)
        })
    }

    fn retained(&self, topic: &str) -> Option<&str> {
        self.topics[topic].retained.as_deref()
    }
}

#[test]
fn relays_follow_the_viewport_in_their_order_untouched() {
    let mut desk = Desk::new();
    desk.loud("market.depth", " [1.0,2] ");
    desk.loud("news.flash", "\"x\"");
    let [all, ..] = desk.loud("market.flow", "0");
    assert_eq!(all, [r#"{"flow":0,"ne\"ws":"x","depth": [1.0,2] }"#]);
    let [all, ..] = desk.loud("levels.signals", r#"{"ts":1,"viewport":{}}"#);
    let expected =
        format!(r#"{{"flow":0,{EMPTY_LEVELS},"viewport":{{}},"ne\"ws":"x","depth": [1.0,2] }}"#);
    assert_eq!(all, [expected]);
    let [all, ..] = desk.loud("news.flash", "null");
    assert_eq!(
        all,
        [format!(
            r#"{{"flow":0,{EMPTY_LEVELS},"viewport":{{}},"depth": [1.0,2] }}"#
        )]
    );
    let names: Vec<_> = desk.feed.stats().subjects.iter().collect();
    let names: Vec<_> = names.iter().map(|s| (&*s.subject, s.messages)).collect();
    let expected = [
        ("levels.signals", 1),
        ("market.flow", 1),
        ("news.flash", 2),
        ("market.depth", 1),
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_topic_is_published_exactly_when_something_of_it_came() {
    let mut desk = Desk::new();
    let [all, flow, mixed] = desk.loud("news.flash", "1");
    assert_eq!((all.len(), flow.len(), mixed.len()), (1, 0, 0));
    let [all, flow, mixed] = desk.loud("market.flow", "5");
    assert_eq!((all.len(), mixed.len()), (1, 0));
    assert_eq!(flow, [r#"{"flow":5}"#]);
    // A repeated value is a message like any other.
    assert_eq!(desk.loud("market.flow", "5")[1], [r#"{"flow":5}"#]);
    // The message concerns the viewport, even without a viewport.
    let [all, flow, mixed] = desk.loud("levels.signals", r#"{"ts":1}"#);
    assert_eq!((all.len(), flow.len()), (1, 0));
    assert_eq!(mixed, ["{}"]);
    assert_eq!(desk.retained(MIXED), None);
    assert_eq!(desk.loud("market.depth", "7")[2], [r#"{"depth":7}"#]);
    let [.., mixed] = desk.loud("levels.signals", r#"{"ts":1,"viewport":3}"#);
    assert!(mixed.is_empty(), "a bad message");
    let [.., mixed] = desk.loud("levels.signals", r#"{"ts":1,"viewport":0}"#);
    assert_eq!(mixed, [r#"{"viewport":0,"depth":7}"#]);
    assert_eq!(desk.retained(MIXED), Some(r#"{"viewport":0,"depth":7}"#));
    assert_eq!(desk.loud("market.flow", "null")[1], ["{}"]);
    assert_eq!(desk.retained(FLOW_ONLY), None);
    for bad in ["", "nope", "[1,]"] {
        assert_eq!(desk.loud("market.depth", bad), NOTHING);
    }
    assert_eq!(desk.feed.stats().subjects[3].messages_bad, 3);
}

#[test]
fn numbers_count_the_states_of_each_topic() {
    let mut desk = Desk::with(true);
    let [all, flow, mixed] = desk.loud("market.flow", "5");
    assert_eq!(
        (all, flow),
        (
            vec![r#"{"flow":5,"seq":1}"#.to_owned()],
            vec![r#"{"flow":5,"seq":1}"#.to_owned()]
        )
    );
    assert!(mixed.is_empty());
    assert_eq!(
        desk.loud("market.depth", "7")[0],
        [r#"{"flow":5,"depth":7,"seq":2}"#]
    );
    assert_eq!(desk.loud("market.flow", "null")[1], [r#"{"seq":2}"#]);
    // Of a backlog, new clients get several states, and members the last: a number means one state.
    let mut states = BTreeMap::new();
    for n in 0..100 {
        desk.message("market.flow", true, &n.to_string());
        desk.now.mono_us += 10_000;
        let state = desk.retained(FLOW_ONLY).expect("a state").to_owned();
        let (value, seq) = state.split_once(",\"seq\":").expect("a number");
        let before = states.insert(seq.to_owned(), value.to_owned());
        assert!(before.is_none_or(|before| before == value), "{state}");
    }
    assert_eq!(states.len(), 10);
    assert!(desk.took()[1].is_empty());
    desk.event(BusEvent::CaughtUp);
    assert_eq!(desk.took()[1], [r#"{"flow":99,"seq":13}"#]);
    assert_eq!(desk.loud("market.flow", "1")[1], [r#"{"flow":1,"seq":14}"#]);
    // A message without a change is not a broadcast.
    desk.message("market.flow", true, "1");
    desk.event(BusEvent::CaughtUp);
    assert!(desk.took()[1].is_empty());
}

#[test]
fn a_stamp_is_no_change() {
    let mut desk = Desk::of(false, true);
    let stamp = START.unix_us;
    let loud = desk.loud("market.flow", "1")[1].clone();
    assert_eq!(loud, [format!(r#"{{"flow":1,"recv_us":{stamp}}}"#)]);
    desk.now = desk.now.plus_us(1);
    desk.message("market.flow", true, "1");
    desk.event(BusEvent::CaughtUp);
    assert!(desk.took()[1].is_empty());
    desk.message("market.flow", true, "2");
    desk.event(BusEvent::CaughtUp);
    let stamp = stamp + 1;
    let flow = desk.took()[1].clone();
    assert_eq!(flow, [format!(r#"{{"flow":2,"recv_us":{stamp}}}"#)]);
}

#[test]
fn a_backlog_of_one_subject_is_nothing_to_the_topics_of_others() {
    let mut desk = Desk::new();
    desk.loud("market.flow", "1");
    for n in 0..100 {
        desk.message("market.depth", true, &n.to_string());
    }
    assert_eq!(desk.took(), NOTHING);
    // Live messages of another subject continue meanwhile, and end no other subject's backlog.
    let [all, flow, mixed] = desk.loud("market.flow", "2");
    assert_eq!(all, [r#"{"flow":2,"depth":99}"#]);
    assert_eq!((flow.len(), mixed.len()), (1, 0));
    desk.event(BusEvent::CaughtUp);
    let [all, flow, mixed] = desk.took();
    assert_eq!((all.len(), flow.len()), (0, 0));
    assert_eq!(mixed, [r#"{"depth":99}"#]);
}

/// An event as numbers: subject, payload, quiet or not, milliseconds afterwards.
type EventStep = (usize, usize, bool, u64);

const SUBJECTS_HERE: [&str; 4] = [
    "levels.signals",
    "market.flow",
    "news.flash",
    "market.depth",
];

proptest! {
    /// Against a model without bytes and frames: a value for each key.
    #[test]
    fn every_topic_ends_with_the_newest_of_its_keys(
        steps in proptest::collection::vec((0..6_usize, 0..4_usize, any::<bool>(), 0..150_u64), 1..60)
    ) {
        let mut desk = Desk::new();
        let mut model: BTreeMap<&str, String> = BTreeMap::new();
        for step in steps {
            let concerned = play(&mut desk, &mut model, step);
            let delivered = desk.took();
            let quiet = step.2;
            for (topic, delivered) in [ALL, FLOW_ONLY, MIXED].into_iter().zip(&delivered) {
                let want = payload(&model, shown(topic));
                let seen = &desk.topics[topic];
                match &concerned {
                    Some(keys) => {
                        let hit = !quiet && shown(topic).iter().any(|key| keys.contains(key));
                        prop_assert_eq!(delivered.len(), usize::from(hit), "{}", topic);
                        prop_assert!(!hit || delivered[0] == want);
                    }
                    None => {
                        prop_assert!(delivered.len() <= 1);
                        let newest = seen.newest.as_deref().unwrap_or("{}");
                        prop_assert_eq!(newest, &want);
                        let retained = seen.retained.as_deref().unwrap_or("{}");
                        prop_assert_eq!(retained, &want);
                    }
                }
            }
        }
    }
}

fn shown(topic: &str) -> &'static [&'static str] {
    match topic {
        FLOW_ONLY => &["flow"],
        MIXED => &["viewport", "depth"],
        _ => &["flow", "levels", "viewport", "ne\\\"ws", "depth"],
    }
}

fn payload(model: &BTreeMap<&str, String>, keys: &[&str]) -> String {
    let known = keys
        .iter()
        .filter_map(|k| Some(format!("\"{k}\":{}", model.get(k)?)));
    format!("{{{}}}", known.collect::<Vec<_>>().join(","))
}

/// Plays a step and returns the keys of the step; `None` for the end of a backlog.
fn play(
    desk: &mut Desk,
    model: &mut BTreeMap<&str, String>,
    (subject, kind, quiet, after_ms): EventStep,
) -> Option<Vec<&'static str>> {
    desk.now = desk.now.plus_us(after_ms * 1_000);
    let Some(name) = SUBJECTS_HERE.get(subject) else {
        desk.event(match subject {
            4 => BusEvent::CaughtUp,
            _ => BusEvent::Down("gone".into()),
        });
        return None;
    };
    if kind == 3 {
        desk.message(name, quiet, "bad");
        return Some(Vec::new());
    }
    if subject == 0 {
        let viewport = ["", ",\"viewport\":{}", ",\"viewport\":[]"][kind];
        desk.message(name, quiet, &format!("{{\"ts\":{}{viewport}}}", kind + 1));
        let levels =
            EMPTY_LEVELS.replace("\"levels\":{\"ts\":1", &format!("{{\"ts\":{}", kind + 1));
        model.insert("levels", levels);
        match kind {
            0 => model.remove("viewport"),
            _ => model.insert("viewport", viewport[12..].to_owned()),
        };
        return Some(vec!["levels", "viewport"]);
    }
    let key = ["flow", "ne\\\"ws", "depth"][subject - 1];
    let value = ["null", "1", "[2]"][kind];
    desk.message(name, quiet, value);
    match kind {
        0 => model.remove(key),
        _ => model.insert(key, value.to_owned()),
    };
    Some(vec![key])
}
