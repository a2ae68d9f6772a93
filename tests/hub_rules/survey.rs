//! What operators see of clients and topics: whom a survey names, and how much it looks at in a turn.

use std::net::SocketAddr;
use std::time::Instant;

use weirgate_core::{ClientState, SURVEY_NAMED_MAX, SURVEY_SLICE_MAX, Survey};

use crate::world::World;
use crate::world::toys::{In, Symbols};
use crate::{SECOND, small_queue, state, symbols};

impl World<Symbols> {
    /// A whole survey.
    fn survey(&mut self) -> Survey {
        loop {
            if let Some(survey) = self.hub.survey(self.now) {
                return survey;
            }
        }
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
    let count = SURVEY_NAMED_MAX + 10;
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
    assert_eq!(survey.slowest.len(), SURVEY_NAMED_MAX);
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
    assert_eq!(survey.busiest_topics.len(), SURVEY_NAMED_MAX);
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
        world.hub.handle_accepted(world.now, peer, false);
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
    let look = world.hub.core().look_at(key).expect("it is there");
    assert_eq!(look.state, ClientState::Conflating);
    assert!(look.traffic.messages_conflated > 30, "{look:?}");
    assert!(
        look.queue_bytes < 2_000 && look.oldest_us.is_some(),
        "{look:?}"
    );
    world.open_window(key, usize::MAX);
    world.settle();
    let look = world.hub.core().look_at(key).expect("it is there");
    assert_eq!((look.state, look.queue_messages), (ClientState::Idle, 0));
}
