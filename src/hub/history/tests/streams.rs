//! Positions that are ids of messages in a stream.

use super::*;

/// The position of the message with this id in a stream.
fn stored(major: u64, minor: u64) -> Position {
    Position::stored(2, StoredId { major, minor })
}

impl Bench {
    /// A history of a stream, with nothing in it.
    fn of_a_stream(bytes_max: usize) -> Self {
        let mut bench = Self::new(bytes_max);
        bench.history.places = Places::default();
        bench
    }

    fn store(&mut self, topic: &str, body: &str, position: Position) {
        let topic = TopicName::from(topic.to_owned());
        let frame = self.frame(body);
        self.history
            .keep(self.now_us, position, &topic, Some(&frame));
    }
}

#[test]
fn a_message_of_a_stream_is_found_by_both_parts_of_its_id() {
    let mut bench = Bench::of_a_stream(1 << 20);
    assert_eq!(bench.history.position(), None);
    assert_eq!(
        bench.missed(&["a"], stored(4, 40)),
        Err(NotRecovered::Epoch)
    );
    for (major, topic) in [(5, "a"), (6, "b"), (9, "a")] {
        bench.store(topic, &major.to_string(), stored(major, 10 * major));
    }
    assert_eq!(bench.history.position(), Some(stored(9, 90)));
    assert_eq!(bench.missed(&["a"], stored(5, 50)).unwrap(), ["9"]);
    assert_eq!(
        bench.missed(&["a", "b"], stored(5, 50)).unwrap(),
        ["6", "9"]
    );
    assert_eq!(bench.missed(&["b"], stored(9, 90)).unwrap(), [""; 0]);
    let other_stream = Position::stored(
        3,
        StoredId {
            major: 5,
            minor: 50,
        },
    );
    for (since, why) in [
        // centrifuge-go#160: the sequence of the old stream with the time of the new stream.
        (stored(6, 61), NotRecovered::Epoch),
        (stored(9, 91), NotRecovered::Epoch),
        (stored(7, 70), NotRecovered::Epoch),
        (stored(4, 40), NotRecovered::Window),
        (stored(10, 100), NotRecovered::Ahead),
        (position(0, 0), NotRecovered::Epoch),
        (other_stream, NotRecovered::Bad),
    ] {
        assert_eq!(bench.missed(&["a"], since), Err(why), "{since}");
    }
}

#[test]
fn nothing_before_a_loss_of_a_stream_is_found() {
    let mut bench = Bench::of_a_stream(1 << 20);
    bench.store("a", "5", stored(5, 50));
    bench.history.note(FeedNotice::Hole);
    assert_eq!(bench.history.position(), None);
    assert_eq!(bench.missed(&["a"], stored(5, 50)), Err(NotRecovered::Gap));
    // The stream was made anew: the numbers begin again.
    bench.store("a", "1", stored(1, 90));
    bench.store("a", "2", stored(2, 95));
    assert_eq!(bench.missed(&["a"], stored(1, 90)).unwrap(), ["2"]);
    assert_eq!(bench.missed(&["a"], stored(1, 10)), Err(NotRecovered::Gap));
    assert_eq!(
        bench.missed(&["a"], stored(2, 20)),
        Err(NotRecovered::Epoch)
    );
}

#[test]
fn a_stream_without_young_messages_has_a_position() {
    let mut bench = Bench::of_a_stream(1 << 20);
    bench.history.note(FeedNotice::Head(stored(5, 50)));
    assert_eq!(bench.history.position(), Some(stored(5, 50)));
    bench.store("a", "6", stored(6, 60));
    assert_eq!(bench.missed(&["a"], stored(5, 50)).unwrap(), ["6"]);
    bench.advance(120 * SECOND);
    assert_eq!(bench.history.stats().messages, 0);
    assert_eq!(bench.missed(&["a"], stored(6, 60)).unwrap(), [""; 0]);
    assert_eq!(bench.missed(&["b"], stored(5, 50)).unwrap(), [""; 0]);
    assert_eq!(
        bench.missed(&["a"], stored(5, 50)),
        Err(NotRecovered::Window)
    );
}

#[test]
fn a_client_between_two_copies_of_the_head_is_told_that_the_second_is_not_there() {
    let mut bench = Bench::of_a_stream(1 << 20);
    bench.history.note(FeedNotice::Head(stored(5, 50)));
    bench.store("a", "6", stored(6, 60));
    let topic = TopicName::from("a".to_owned());
    let since = format!("{}.1", stored(5, 50));
    let wanted = [Wanted::exact(&topic)];
    let (_, outcomes) = bench
        .history
        .missed(&since, &wanted, (Content::Text, 1 << 20));
    assert_eq!(outcomes, [Err(NotRecovered::Window)]);
}

#[test]
fn ids_are_remembered_longer_than_messages_up_to_a_number() {
    let mut bench = Bench::of_a_stream(1 << 26);
    let count = FORGOTTEN_IDS_MAX as u64 + 100;
    for n in 1..=count {
        bench.store("a", "x", stored(n, n));
    }
    let kept = count as usize;
    assert_eq!(bench.history.places.remembered(), (0, 0, kept), "all kept");
    assert_eq!(bench.missed(&["b"], stored(1, 1)).unwrap(), [""; 0]);
    bench.advance(120 * SECOND);
    let remembered = bench.history.places.remembered();
    assert_eq!(remembered, (0, 0, FORGOTTEN_IDS_MAX));
    assert_eq!(bench.missed(&["b"], stored(101, 101)).unwrap(), [""; 0]);
    assert_eq!(
        bench.missed(&["b"], stored(100, 100)),
        Err(NotRecovered::Window)
    );
}
