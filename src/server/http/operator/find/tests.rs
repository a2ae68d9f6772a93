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
use weirgate_runtime::Clock;
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
        members: 1,
        messages: 1,
        usual_gap_us: None,
    }
}

/// The verdict on a client, with the refusals of a survey.
fn verdict(found: &FoundClient, refused_names: Vec<RefusedName>) -> Verdict {
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
    let without_bus = Telemetry::new(BuildInfo::THIS, "levels", feed, None, now);
    let context = AnswerContext {
        telemetry: &without_bus,
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
            vec![of_another],
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
        (client(101, vec![name(None)]), vec![], "healthy", "healthy"),
        (rated, vec![], "own_rate", "at most 2 states a second"),
    ] {
        let verdict = verdict(&found, refused);
        assert_eq!(verdict.cause, cause, "{}", verdict.say);
        assert!(verdict.say.contains(words), "{}", verdict.say);
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
