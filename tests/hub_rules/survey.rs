//! What operators see of clients and topics: whom a survey names, and how much it looks at in a turn.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use weirgate_wire::admission::Transport;

use weirgate_core::{ClientState, Cut, Search, SearchOutcome, Survey};

use crate::world::World;
use crate::world::toys::{In, Symbols};
use crate::{SECOND, small_queue, state, symbols};

/// The limits of docs/contributing/limits.md.
const SURVEY_SLICE_MAX: usize = 2_048;
const FOUND_MAX: usize = 100;
const REFUSED_NAMES_MAX: usize = 128;
const REFUSED_NAMES_OF_ONE_MAX: usize = 8;

impl World<Symbols> {
    /// A whole survey.
    fn survey(&mut self) -> Survey {
        loop {
            if let Some(survey) = self.hub.survey(self.now) {
                return survey;
            }
        }
    }

    /// What the next survey finds, and its slices.
    fn find(&mut self, searches: Vec<Search>) -> (Vec<SearchOutcome>, u32) {
        searches
            .into_iter()
            .for_each(|search| self.hub.search(search));
        let survey = self.survey();
        (survey.found, survey.slices)
    }

    fn find_one(&mut self, search: Search) -> SearchOutcome {
        self.find(vec![search]).0.remove(0)
    }

    fn publish_to(&mut self, topic: &str, bytes: usize) {
        let message = In::Publish(topic.to_owned(), "x".repeat(bytes));
        self.hub.handle_input(self.now, message);
        self.settle();
    }
}

#[test]
fn a_survey_names_the_largest_and_counts_the_others() {
    let mut world = symbols(small_queue());
    let count = Survey::NAMED_MAX + 10;
    for n in 0..count {
        let key = world.connect("/ws", None);
        world.text(key, &format!("sub T{n}"));
        world.net.sockets.get_mut(&key).expect("a socket").room = 0;
        world.publish_to(&format!("T{n}"), 100 + n);
    }
    let survey = world.survey();
    assert_eq!(survey.clients, count as u64);
    assert_eq!(
        (survey.clients_waiting, survey.clients_blocked),
        (count as u64, count as u64)
    );
    assert_eq!(survey.slowest.len(), Survey::NAMED_MAX);
    let queues: Vec<u64> = survey.slowest.iter().map(|c| c.queue_bytes).collect();
    assert!(
        queues.is_sorted_by(|a, b| a > b),
        "the largest first: {queues:?}"
    );
    let first = &survey.slowest[0];
    assert_eq!(first.topic.as_ref().map(|t| t.as_str()), Some("T29"));
    assert_eq!(
        (first.state, first.queue_messages),
        (ClientState::Blocked, 1)
    );
    assert_eq!(survey.topics, count as u64);
    assert_eq!(survey.busiest_topics.len(), Survey::NAMED_MAX);
}

#[test]
fn recent_messages_are_those_since_the_survey_before() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, usize::MAX);
    world.publish_to("A", 10);
    let first = world.survey();
    assert_eq!(
        (first.interval_us, first.busiest_topics[0].recent_messages),
        (None, 1)
    );
    world.advance(2 * SECOND);
    world.publish_to("A", 10);
    world.publish_to("A", 10);
    world.text(key, "sub B");
    let second = world.survey();
    assert_eq!(second.interval_us, Some(2 * SECOND));
    let topic = &second.busiest_topics[0];
    assert_eq!(
        (topic.name.as_str(), topic.recent_messages, topic.members),
        ("A", 2, 1)
    );
    assert!(topic.recent_bytes >= 20, "{topic:?}");
    let busiest = &second.busiest[0];
    // Two messages to the client, one of its own, and perhaps the answer to that.
    assert!((3..=4).contains(&busiest.recent_messages), "{busiest:?}");
    assert!(second.slowest.is_empty(), "nothing waits");
    assert!(world.survey().busiest.is_empty(), "nothing since");
}

#[test]
fn a_survey_of_very_many_clients_looks_at_a_bounded_number_in_a_turn() {
    const CLIENTS: usize = 100_000;
    let mut world = symbols(small_queue());
    let slow = world.reader(None, 0);
    let fast = world.reader(None, usize::MAX);
    world.publish_to("A", 100);
    let peer = SocketAddr::from(([10, 0, 0, 1], 4_000));
    for _ in 0..CLIENTS {
        world.hub.handle_accepted(world.now, peer, Transport::Plain);
    }
    world.texts(fast);
    let (mut slices, mut longest) = (0, 0);
    let survey = loop {
        let began = Instant::now();
        let survey = world.hub.survey(world.now);
        longest = longest.max(began.elapsed().as_micros());
        slices += 1;
        if slices == 2 {
            // Messages go on between two slices, and clients end.
            world.publish_to("A", 100);
            assert_eq!(world.texts(fast).len(), 1);
            world.end(slow, true);
        }
        if let Some(survey) = survey {
            break survey;
        }
        assert!(world.hub.is_surveying());
    };
    println!("the longest of {slices} slices: {longest} µs");
    assert_eq!(survey.slices, slices);
    assert!(
        slices as usize >= CLIENTS / SURVEY_SLICE_MAX,
        "{slices} slices"
    );
    assert!(
        slices as usize <= 4 * CLIENTS / SURVEY_SLICE_MAX,
        "{slices} slices"
    );
    assert!(survey.clients >= CLIENTS as u64);
    assert!(
        survey.clients_waiting >= 1,
        "it was looked at before its end"
    );
    assert!(
        survey.slowest.is_empty(),
        "a client that has ended is not shown"
    );
    assert!(!world.hub.is_surveying());
}

#[test]
fn a_client_that_skips_says_so() {
    let mut world = state(small_queue());
    let key = world.viewer(0);
    for n in 0..50 {
        world.publish("levels/1", &format!("{n:0100}"));
    }
    let look = world.hub.core().snapshot_of(key).expect("it is there");
    assert_eq!(look.state, ClientState::Conflating);
    assert!(look.traffic.messages_conflated > 30, "{look:?}");
    assert!(
        look.queue_bytes < 2_000 && look.oldest_us.is_some(),
        "{look:?}"
    );
    world.open_window(key, usize::MAX);
    world.settle();
    let look = world.hub.core().snapshot_of(key).expect("it is there");
    assert_eq!((look.state, look.queue_messages), (ClientState::Idle, 0));
}

fn who(text: &str) -> Search {
    Search::Clients {
        who: Cut::read(text.as_bytes()).expect("conditions"),
        name: None,
    }
}

fn holders(name: &str) -> Search {
    Search::Clients {
        who: Cut::default(),
        name: Some(name.to_owned()),
    }
}

#[test]
fn a_search_finds_by_address_session_and_name_with_the_age_of_the_last_message() {
    let mut world = symbols(small_queue());
    let [theirs, other] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
    let quiet = world.connect_from(theirs, "/ws", None);
    let busy = world.connect_from(other, "/ws", None);
    world.text(quiet, "sub Q,A");
    world.text(busy, "sub A,AB");
    world.publish_to("A", 10);
    world.advance(3 * SECOND);
    let session = busy.to_string();
    let (found, _) = world.find(vec![
        who(r#"{"address":"192.0.2.1"}"#),
        who(&format!(r#"{{"session":"{session}"}}"#)),
        holders("A"),
        holders("nobody's"),
        Search::Names("A".to_owned()),
        Search::Members(["AB", "A", "nobody's"].map(str::to_owned).into()),
        who(&format!(
            r#"{{"session":"{session}","address":"192.0.2.1"}}"#
        )),
    ]);
    let keys = |found: &SearchOutcome| -> Vec<_> {
        found.clients.iter().map(|c| c.snapshot.session).collect()
    };
    assert_eq!(keys(&found[0]), [quiet]);
    assert_eq!(keys(&found[1]), [busy]);
    assert_eq!(keys(&found[2]), [quiet, busy]);
    assert_eq!((found[2].count, found[3].count, found[6].count), (2, 0, 0));
    let ages: Vec<_> = found[0].clients[0].names.iter().collect();
    let ages: Vec<_> = ages
        .iter()
        .map(|n| (n.name.as_str(), n.brings.newest_us, n.members))
        .collect();
    assert_eq!(ages, [("Q", None, 1), ("A", Some(3 * SECOND), 2)]);
    let names: Vec<_> = found[4].names.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["A", "AB"], "the name itself comes first");
    let members = found[5].names.iter();
    let mut members: Vec<_> = members.map(|n| (n.name.as_str(), n.members)).collect();
    members.sort_unstable();
    assert_eq!(members, [("A", 2), ("AB", 1)]);
    assert!(
        world.survey().found.is_empty(),
        "a search is carried out once"
    );
}

#[test]
fn an_address_with_a_thousand_clients_gives_a_hundred_rows_and_a_count() {
    const CLIENTS: usize = 1_000;
    let mut world = symbols(small_queue());
    let names = (0..50)
        .map(|n| format!("N{n}"))
        .collect::<Vec<_>>()
        .join(",");
    for _ in 0..CLIENTS {
        let key = world.connect("/ws", None);
        world.text(key, &format!("sub {names}"));
    }
    let found = world.find_one(who(r#"{"address":"127.0.0.1"}"#));
    assert_eq!(
        (found.count, found.clients.len()),
        (CLIENTS as u64, FOUND_MAX)
    );
    let names: usize = found.clients.iter().map(|one| one.names.len()).sum();
    assert_eq!(names, 1_000, "of all clients together");
    assert!(found.clients.iter().all(|one| one.snapshot.topics == 50));
}

/// Of several processes, each has then what belongs to the first of all.
#[test]
fn the_first_names_by_their_bytes_are_found_and_the_name_itself_before_them() {
    let mut world = symbols(small_queue());
    let client = world.connect_from(IpAddr::from([192, 0, 2, 1]), "/ws", None);
    let mut names: Vec<String> = (0..3 * FOUND_MAX).map(|n| format!("A{n:03}B")).collect();
    names.push("B".to_owned());
    names.push("C".to_owned());
    for some in names.chunks(20) {
        world.text(client, &format!("sub {}", some.join(",")));
    }
    let found = world.find_one(Search::Names("B".to_owned()));
    assert_eq!(found.count as usize, 3 * FOUND_MAX + 1);
    let shown: Vec<_> = found.names.iter().map(|n| n.name.as_str()).collect();
    let mut want = vec!["B"];
    want.extend(names.iter().take(FOUND_MAX - 1).map(String::as_str));
    assert_eq!(shown, want);
}

#[test]
fn searches_share_a_walk_whose_turns_take_no_longer() {
    const CLIENTS: usize = 20_000;
    const SEARCHES: usize = 16;
    let mut world = symbols(small_queue());
    let peer = SocketAddr::from(([10, 0, 0, 1], 4_000));
    for _ in 0..CLIENTS {
        world.hub.handle_accepted(world.now, peer, Transport::Plain);
    }
    let all = (0..SEARCHES)
        .map(|_| who(r#"{"address":"10.0.0.1"}"#))
        .collect();
    let (found, slices) = world.find(all);
    assert!(found.iter().all(|found| found.count == CLIENTS as u64));
    let least = CLIENTS * SEARCHES / SURVEY_SLICE_MAX;
    assert!(
        (least..3 * least).contains(&(slices as usize)),
        "{slices} slices"
    );
}

#[test]
fn refused_names_are_counted_kept_and_logged_within_limits() {
    let mut world = symbols(small_queue());
    let [loud, quiet] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
    let quiet = world.connect_from(quiet, "/ws", None);
    world.text(quiet, "refuse mine");
    let loud = world.connect_from(loud, "/ws", None);
    for n in 0..1_000 {
        world.text(loud, &format!("refuse N{n}"));
    }
    world.text(quiet, "refuse mine");
    let survey = world.survey();
    let kept = &survey.refused_names;
    assert_eq!(kept.len(), 1 + REFUSED_NAMES_OF_ONE_MAX, "{kept:?}");
    let newest = (kept[0].name.as_str(), kept[0].session, kept[0].times);
    assert_eq!(
        newest,
        ("mine", quiet, 2),
        "a name of a client is kept once"
    );
    assert_eq!(kept[1].name.as_str(), "N999");
    let counts: Vec<_> = world.hub.stats().names_refused().collect();
    assert_eq!(counts[0], ("denied", 1_002));
    let lines = std::iter::from_fn(|| world.hub.poll_refused_name());
    assert_eq!(lines.count(), 10);
    let now = world.now;
    assert_eq!(world.hub.refused_name_lines().left_out(now), None);
    world.advance(SECOND);
    let now = world.now;
    let left_out = world.hub.refused_name_lines().left_out(now);
    assert_eq!(left_out, Some(992));
    for n in 0..2 * REFUSED_NAMES_MAX {
        let ip = IpAddr::from([192, 0, 3 + (n / 250) as u8, (n % 250) as u8]);
        let key = world.connect_from(ip, "/ws", None);
        world.text(key, &format!("refuse {}", "x".repeat(1_000)));
    }
    let kept = world.survey().refused_names;
    assert_eq!(kept.len(), REFUSED_NAMES_MAX);
    assert_eq!(kept[0].name.as_str().len(), 128, "a name is cut");
}

#[test]
fn busy_topics_that_stand_still_are_named() {
    let mut world = symbols(small_queue());
    for name in ["A", "B", "SELDOM"] {
        let key = world.reader(None, usize::MAX);
        world.text(key, &format!("sub {name}"));
    }
    for n in 0..20 {
        world.publish_to("A", 10);
        world.publish_to("B", 10);
        if n % 2 == 0 {
            world.publish_to("SELDOM", 10);
        }
        world.advance(SECOND);
    }
    assert_eq!(world.survey().topics_quiet, 0);
    for _ in 0..10 {
        world.publish_to("B", 10);
        world.advance(SECOND);
    }
    let survey = world.survey();
    let quiet: Vec<_> = survey.quiet_topics.iter().collect();
    let named = |name: &str| {
        let found = quiet.iter().find(|topic| topic.name.as_str() == name);
        found.map(|topic| (topic.quiet_ms, topic.usual_gap_ms))
    };
    assert_eq!((survey.topics_quiet, quiet.len()), (1, 1));
    assert_eq!(named("A"), Some((Some(11_000), 1_000)));
    world.publish_to("A", 10);
    assert_eq!(world.survey().topics_quiet, 0);
}
