//! The sentence about a client, and what a query may ask for.

use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use super::diagnosis::Verdict;
use super::*;
use crate::build_info::BuildInfo;
use crate::http::status_pages::tests::telemetry;
use weirgate_core::{
    ClientSnapshot, ClientState, FeedStats, NameRefusal, NameSource, OnBus, SessionKey, Survey,
    Traffic,
};
use weirgate_runtime::{BusStatus, Clock, StreamReport};
use weirgate_wire::admission::ClientAddr;

const SESSION: SessionKey = SessionKey {
    slot: 7,
    generation: 19,
};

fn client(topics: u64, names: Vec<FoundName>) -> FoundClient {
    FoundClient {
        snapshot: ClientSnapshot {
            session: SESSION,
            client: ClientAddr::Unix,
            user: Some("ann".into()),
            tls: None,
            path: "/ws".into(),
            state: ClientState::Idle,
            age_us: 5_000_000,
            queue_messages: 0,
            queue_bytes: 0,
            oldest_us: None,
            stuck_us: None,
            traffic: Traffic::default(),
            topics,
            topic: None,
            recent_messages: 0,
            slow: None,
        },
        role: None,
        max_rate: None,
        names,
    }
}

fn name(last_us: Option<u64>) -> FoundName {
    FoundName {
        name: weirgate_core::TopicName::fixed("market.a"),
        brings: weirgate_core::Brings {
            from: NameSource::Live,
            on_bus: OnBus::Confirmed,
            reach: None,
            newest_us: last_us,
        },
        subjects: None,
        members: 1,
        messages: 1,
        usual_gap_us: None,
    }
}

/// A fresh name of which the bus says this.
fn name_on_bus(on_bus: OnBus) -> FoundName {
    let mut one = name(Some(200_000));
    one.brings.on_bus = on_bus;
    one
}

/// The verdict on a client, with the refusals of a survey.
fn verdict(found: &FoundClient, refused_names: Vec<RefusedName>) -> Verdict {
    verdict_on_bus(found, refused_names, None)
}

fn verdict_on_bus(
    found: &FoundClient,
    refused_names: Vec<RefusedName>,
    bus: Option<Arc<BusStatus>>,
) -> Verdict {
    let clock = Clock::start();
    let surveyed = Surveyed {
        survey: Survey {
            refused_names,
            ..Survey::default()
        },
        ends: Vec::new(),
    };
    let now = clock.now();
    let feed = FeedStats::of(["market.a"]);
    let telemetry = Telemetry::new(BuildInfo::THIS, "levels", feed, bus, now);
    let context = AnswerContext {
        telemetry: &telemetry,
        now,
        query: &Query::default(),
        surveyed: &surveyed,
        revoked: &Revoked::default(),
    };
    context.verdict(found)
}

#[test]
fn the_sentence_is_about_the_first_cause() {
    let refused = RefusedName {
        at_us: 0,
        session: SESSION,
        client: ClientAddr::Unix,
        user: None,
        role: Some("user".into()),
        name: weirgate_core::TopicName::fixed("markt.a"),
        reason: NameRefusal::Denied,
        times: 1,
    };
    let of_another = RefusedName {
        session: SessionKey {
            generation: 20,
            ..SESSION
        },
        ..refused.clone()
    };
    let got_since = RefusedName {
        name: weirgate_core::TopicName::fixed("market.a"),
        ..refused.clone()
    };
    let fresh = || vec![name(Some(200_000))];
    let rated = FoundClient {
        max_rate: MaxRate::parse("2"),
        ..client(1, fresh())
    };
    for (found, refused, cause, words) in [
        (
            client(1, fresh()),
            vec![],
            "healthy",
            "newest message of its names is 0.2 s old",
        ),
        (
            client(1, fresh()),
            vec![of_another, got_since],
            "healthy",
            "nothing waits",
        ),
        (
            client(1, fresh()),
            vec![refused],
            "refused_name",
            "does not get markt.a, refused ",
        ),
        (client(0, vec![]), vec![], "no_names", "holds no name"),
        (
            client(1, vec![name(None)]),
            vec![],
            "quiet",
            "none of its 1 names has had a message",
        ),
        (
            client(1, vec![name(Some(300_000_000))]),
            vec![],
            "quiet",
            "is 5 min 0 s old (market.a)",
        ),
        (
            client(50, vec![]),
            vec![],
            "unknown",
            "its 50 names were not looked at: search for its session",
        ),
        (
            client(101, vec![name(None)]),
            vec![],
            "unknown",
            "1 of its 101 names were looked at",
        ),
        (
            client(101, vec![name(Some(300_000_000))]),
            vec![],
            "unknown",
            "no message lately",
        ),
        (client(101, fresh()), vec![], "healthy", "0.2 s old"),
        (
            client(2, vec![name_on_bus(OnBus::Refused), name(Some(200_000))]),
            vec![],
            "refused_name",
            "does not get market.a: the bus refuses the subscription",
        ),
        (
            client(1, vec![name_on_bus(OnBus::Unconfirmed)]),
            vec![],
            "unconfirmed",
            "has not confirmed the subscription to market.a",
        ),
        (rated, vec![], "own_rate", "at most 2 states a second"),
    ] {
        let verdict = verdict(&found, refused);
        assert_eq!(verdict.cause, cause, "{}", verdict.say);
        assert!(verdict.say.contains(words), "{}", verdict.say);
    }
}

/// A client of some subjects is not concerned by a stream of others, nor a client of live names by any stream.
#[test]
fn a_stream_is_the_cause_for_clients_of_its_subjects() {
    let bus = BusStatus::new(&[], 0);
    bus.set_up(true);
    let full = StreamReport {
        label: "full",
        is_stopped: true,
        explains_outage: false,
        text: "is full".to_owned(),
    };
    bus.set_stream("NEWS", Some(full));
    bus.set_subjects_read([("NEWS", "news.x"), ("PRICES", "prices.x")].into_iter());
    bus.set_stream_behind(None, 60_000);
    let bus = Arc::new(bus);
    for (from, subjects, cause) in [
        (NameSource::Stream, Some(["prices.x"]), "behind"),
        (NameSource::Stream, Some(["news.x"]), "behind"),
        (NameSource::Live, None, "healthy"),
    ] {
        let mut one = name(Some(200_000));
        one.brings.from = from;
        one.subjects = subjects.map(|of| of.map(str::to_owned).to_vec());
        let has_news = one
            .subjects
            .as_ref()
            .is_some_and(|of| of[0].starts_with("news"));
        let found = verdict_on_bus(&client(1, vec![one]), vec![], Some(Arc::clone(&bus)));
        assert_eq!(found.cause, cause, "{}", found.say);
        assert_eq!(
            found.say.contains("NEWS is full"),
            has_news,
            "{}",
            found.say
        );
    }
}

#[test]
fn a_query_has_known_parameters_and_at_least_one() {
    let read = |query: &str| {
        let request = hyper::Request::get(format!("/operator/clients{query}")).body(());
        let (head, ()) = request.expect("a request").into_parts();
        Query::read(
            &RequestParts::of_this_machine(head),
            &["user", "address", "name"],
        )
    };
    let query = read("?user=a%20b%26&address=2001:db8::7&name=n").expect("a query");
    assert_eq!(query.who.user.as_deref(), Some("a b&"));
    let address = query.who.address.map(|ip| ip.to_string());
    assert_eq!(
        address.as_deref(),
        Some("2001:db8::"),
        "the network, as for a cut"
    );
    assert_eq!(query.words(), "user a b& and address 2001:db8:: and name n");
    for wrong in ["", "?", "?user=", "?users=a", "?address=x", "?session=1-1"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    assert!(read(&format!("?user={}", "a".repeat(QUERY_BYTES_MAX))).is_err());
}

#[test]
fn nobody_is_found_in_words() {
    let clock = Clock::start();
    let revoked = Revoked::new(4);
    let eve = Cut::read(br#"{"user":"eve"}"#).expect("a cut");
    revoked.add(&eve, clock.now().unix_ms()).expect("room");
    let surveyed = Surveyed {
        survey: Survey::default(),
        ends: Vec::new(),
    };
    let answer = |user: &str| -> Value {
        let mut query = Query::default();
        query.who.user = Some(user.to_owned());
        let context = AnswerContext {
            telemetry: &telemetry(clock),
            now: clock.now(),
            query: &query,
            surveyed: &surveyed,
            revoked: &revoked,
        };
        sonic_rs::from_str(&context.answer(&SearchOutcome::default())).expect("JSON")
    };
    let nobody = answer("ann");
    let sentence = nobody["sentence"].as_str();
    assert_eq!(
        sentence,
        Some("no client of this instance is like this: user ann")
    );
    assert!(
        nobody["clients"]
            .as_array()
            .is_some_and(|list| list.is_empty())
    );
    let cut = answer("eve");
    assert!(
        cut["sentence"]
            .as_str()
            .is_some_and(|text| text.contains("has cut this client off"))
    );
}
