//! Positions that are ids of messages in a stream; and what a search finds.

use super::*;
use crate::history::wanted::After;
use crate::{CopyPosition, EntryHash, PageCursor};
use weirgate_wire::admission::{ClientAddr, Quota};
use weirgate_wire::auth::NameSyntax;

/// The position of the message with this id in a stream.
fn stored(major: u64, minor: u64) -> Position {
    Position::stored(2, StoredId { major, minor })
}

impl Bench {
    /// A history of a stream, with nothing in it.
    fn of_a_stream(bytes_max: usize) -> Self {
        let mut bench = Self::new(bytes_max);
        bench.history.numbers = MessageNumbers::new(Some(2));
        bench.history.asks_for_newest = true;
        bench
    }

    fn store(&mut self, topic: &str, body: &str, position: Position) {
        let topic = TopicName::from(topic.to_owned());
        let body = self.body(body);
        self.history
            .keep(at(self.now_us), position, &topic, Some(&body));
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
        (position(0, 0), NotRecovered::Bad),
        (other_stream, NotRecovered::Bad),
    ] {
        assert_eq!(bench.missed(&["a"], since), Err(why), "{since}");
    }
}

#[test]
fn before_anything_is_read_a_position_of_another_feed_is_known_to_be_one() {
    let mut bench = Bench::of_a_stream(1 << 20);
    let id = StoredId {
        major: 5,
        minor: 50,
    };
    // Of another stream, of another list of names, and of a list whose hash is that of the stream.
    let foreign = [
        Position::stored(3, id),
        position(0, 0),
        Position::counted(2, mark(0), 0),
    ];
    for _ in ["nothing was read", "all was lost"] {
        for since in foreign {
            assert_eq!(bench.history.check_feed(since), Err(NotRecovered::Bad));
            assert_eq!(bench.missed(&["a"], since), Err(NotRecovered::Bad));
        }
        assert_eq!(bench.history.check_feed(stored(6, 60)), Ok(()));
        bench.store("a", "5", stored(5, 50));
        bench.history.note(Now::default(), FeedNotice::Hole);
    }
}

/// A replica takes over while publishers still write to the master of before: both give the same ids.
#[test]
fn a_position_of_a_message_whose_id_another_server_gave_to_another_message_is_of_another_epoch() {
    let mut bench = Bench::of_a_stream(1 << 20);
    let entry = |major, hash: u64| {
        let id = StoredId { major, minor: 0 };
        Position::hashed(2, id, Some(EntryHash::of(hash)))
    };
    for major in 5..=7 {
        bench.store("a", &major.to_string(), entry(major, 10 * major));
    }
    assert_eq!(bench.history.position(), Some(entry(7, 70)));
    for (since, missed) in [
        (entry(6, 60), Ok(vec!["7".to_owned()])),
        (entry(6, 61), Err(NotRecovered::Epoch)),
        (entry(7, 71), Err(NotRecovered::Epoch)),
        // A version without hashes has sent the position.
        (stored(6, 0), Ok(vec!["7".to_owned()])),
    ] {
        assert_eq!(bench.missed(&["a"], since), missed, "{since}");
        let cursor = KeptCursor::after(CopyPosition::parse(&since.to_string()));
        let found = bench.history.find_cursor(&cursor, false);
        assert_eq!(found.map(|_| ()), missed.map(|_| ()), "{since}");
        // A question to the bus goes on from there.
        assert_eq!(cursor.begins(), PageCursor::at(since));
    }
}

/// Entries of a Redis stream that are added within a millisecond have the same first part.
#[test]
fn a_position_later_in_the_newest_millisecond_is_ahead() {
    let mut bench = Bench::of_a_stream(1 << 20);
    let ms = 1_700_000_000_000;
    for (major, minor) in [(ms - 1, 7), (ms, 0), (ms, 2)] {
        bench.store("a", "x", stored(major, minor));
    }
    for (since, why) in [
        (stored(ms, 3), NotRecovered::Ahead),
        (stored(ms, 900), NotRecovered::Ahead),
        (stored(ms + 1, 0), NotRecovered::Ahead),
        // It was passed over.
        (stored(ms, 1), NotRecovered::Epoch),
    ] {
        assert_eq!(bench.missed(&["a"], since), Err(why), "{since}");
    }
    assert_eq!(bench.missed(&["a"], stored(ms, 0)).unwrap(), ["x"]);
}

#[test]
fn nothing_before_a_loss_of_a_stream_is_found() {
    let mut bench = Bench::of_a_stream(1 << 20);
    bench.store("a", "5", stored(5, 50));
    bench.history.note(Now::default(), FeedNotice::Hole);
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

/// Publishers who number the entries of a Redis stream by themselves begin with 1 again.
#[test]
fn a_position_whose_id_was_given_again_after_a_loss_is_from_before_it() {
    let mut bench = Bench::of_a_stream(1 << 20);
    for major in 1..=5 {
        bench.store("a", "old", stored(major, 1));
    }
    assert_eq!(bench.missed(&["a"], stored(5, 1)), Ok(Vec::new()));
    bench.history.note(Now::default(), FeedNotice::Hole);
    for major in 1..=8 {
        bench.store("a", &major.to_string(), stored(major, 1));
    }
    for major in 1..=5 {
        assert_eq!(
            bench.missed(&["a"], stored(major, 1)),
            Err(NotRecovered::Gap)
        );
    }
    assert_eq!(bench.missed(&["a"], stored(6, 1)).unwrap(), ["7", "8"]);
}

/// A message that was replaced before it was read does not come either, and a clock may have been set back between two
/// messages.
#[test]
fn a_stream_was_read_up_to_its_newest_message_and_not_to_those_of_a_stream_that_was_made_anew() {
    let mut bench = Bench::of_a_stream(1 << 18);
    let has_read = |bench: &Bench, major, minor| bench.history.has_read(StoredId { major, minor });
    assert!(!has_read(&bench, 1, 10));
    bench.store("a", "5", stored(5, 90));
    bench.store("a", "7", stored(7, 50));
    for (major, minor) in [(2, 20), (5, 90), (6, 40), (7, 50)] {
        assert!(has_read(&bench, major, minor), "{major}");
    }
    for (major, minor) in [(8, 60), (3, 95)] {
        assert!(!has_read(&bench, major, minor), "{major}");
    }
}

/// The stream was restored, or a newer message of the name was lost.
#[test]
fn what_is_kept_from_before_a_loss_of_a_stream_is_nobodys_newest_message() {
    let mut bench = Bench::of_a_stream(1 << 18);
    let names = ["a", "b", "c", "d", "e"].map(TopicName::fixed);
    let newest = |bench: &mut Bench| {
        let wanted = names.each_ref().map(Wanted::exact);
        let (found, outcome) = bench.history.newest(&wanted, 2, text_frames(1 << 20));
        assert_eq!(outcome, Ok(()));
        let text = |frame: &Arc<Frame>| String::from_utf8_lossy(frame.body()).into_owned();
        let found = found.frames().map(|(_, frame)| text(frame));
        found.collect::<Vec<_>>()
    };
    let has = |bench: &Bench| {
        names
            .each_ref()
            .map(|name| bench.history.has_messages(name))
    };
    let past = |bench: &mut Bench, name: &str, body: &str, position| {
        let body = bench.body(body);
        let (name, now) = (TopicName::from(name.to_owned()), at(bench.now_us));
        assert_eq!(
            bench
                .history
                .keep_newest(now, position, &name, &body, ClientAddr::Unix, u64::MAX),
            Ok(())
        );
    };
    bench.store("a", "old a", stored(5, 50));
    // The newest alone: all others have gone from the list.
    bench.store("e", "old e", stored(6, 60));
    for n in 7..5_000 {
        bench.store("busy", &"x".repeat(100), stored(n, 10 * n));
    }
    bench.store("b", "old b", stored(5_000, 50_000));
    past(&mut bench, "c", "past c", stored(2, 20));
    assert_eq!(has(&bench), [true, true, true, false, true]);
    assert_eq!(newest(&mut bench).len(), 4);
    bench.advance(1);
    bench.history.lose(at(bench.now_us));
    assert_eq!(has(&bench), [false; 5]);
    assert_eq!(newest(&mut bench), [""; 0]);
    bench.advance(1);
    let head = FeedNotice::Head(stored(4, 40));
    bench.history.note(at(bench.now_us), head);
    for (name, number) in [("a", 1), ("b", 2), ("c", 3)] {
        past(&mut bench, name, &format!("now {name}"), stored(number, 10));
    }
    bench.store("b", "new b", stored(6, 60_000));
    assert_eq!(has(&bench), [true, true, true, false, false]);
    let want = ["now a", "now c", "new b"];
    assert_eq!(newest(&mut bench), want);
    // What was read before the loss is forgotten in its time.
    bench.advance(120 * SECOND);
    assert_eq!(bench.history.stats().messages, 0);
    assert_eq!(has(&bench), [false; 5]);
    // Where nobody can be asked, a value stays until a newer one comes.
    let mut bench = Bench::new(1 << 20);
    bench.keep("a", "1");
    bench.history.lose(at(bench.now_us));
    assert_eq!(newest(&mut bench), ["1"]);
    let mut bench = Bench::of_a_stream(1 << 20);
    bench.history.asks_for_newest = false;
    bench.store("a", "1", stored(5, 50));
    let forgotten = bench.history.newest_forgotten_count();
    bench.history.lose(at(bench.now_us));
    assert_eq!(newest(&mut bench), ["1"]);
    assert_eq!(bench.history.newest_forgotten_count(), forgotten);
}

/// An operator has added a subject to the stream.
#[test]
fn a_name_that_is_new_to_a_stream_is_whole_from_the_next_message_on() {
    let mut bench = Bench::of_a_stream(1 << 20);
    let stream = |name: &str| NamePatterns::new(NameSyntax::Nats, &[name.to_owned()]).unwrap();
    let before = stored(5, 50);
    bench.store("t.a", "5", before);
    bench.store("u.old", "6", stored(6, 60));
    bench.history.note_new_names(stream("u.>"));
    bench.store("u.b", "7", stored(7, 70));
    for since in [before, stored(6, 60)] {
        for name in ["u.b", "u.old", "u.quiet"] {
            let missed = bench.missed(&[name], since);
            assert_eq!(missed, Err(NotRecovered::Window), "{name}");
        }
        assert_eq!(bench.missed(&["t.a"], since).unwrap(), [""; 0]);
    }
    let name = TopicName::fixed("u.*");
    let patterns = stream("u.*");
    let wanted = [Wanted {
        name: name.clone(),
        patterns: Some(Arc::new(patterns)),
    }];
    let since = before.to_string();
    let (_, outcomes) = bench.history.missed(&since, &wanted, text_frames(1 << 20));
    assert_eq!(outcomes, [Err(NotRecovered::Window)]);
    bench.store("u.b", "8", stored(8, 80));
    assert_eq!(bench.missed(&["u.b"], stored(7, 70)).unwrap(), ["8"]);
    // After very many additions nobody knows which names were new.
    for n in 0..NEW_NAMES_MAX {
        bench.history.note_new_names(stream(&format!("v{n}")));
    }
    let missed = bench.missed(&["t.a"], stored(6, 60));
    assert_eq!(missed, Err(NotRecovered::Window));
    assert_eq!(bench.missed(&["t.a"], stored(7, 70)).unwrap(), [""; 0]);
}

#[test]
fn a_stream_without_young_messages_has_a_position() {
    let mut bench = Bench::of_a_stream(1 << 20);
    bench
        .history
        .note(Now::default(), FeedNotice::Head(stored(5, 50)));
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
    bench
        .history
        .note(Now::default(), FeedNotice::Head(stored(5, 50)));
    bench.store("a", "6", stored(6, 60));
    let topic = TopicName::from("a".to_owned());
    let since = format!("{}.1", stored(5, 50));
    let wanted = [Wanted::exact(&topic)];
    let (_, outcomes) = bench.history.missed(&since, &wanted, text_frames(1 << 20));
    assert_eq!(outcomes, [Err(NotRecovered::Window)]);
}

#[test]
fn ids_are_remembered_longer_than_messages_up_to_a_number() {
    let mut bench = Bench::of_a_stream(1 << 26);
    let count = IDS_MAX as u64 + 100;
    for n in 1..=count {
        bench.store("a", "x", stored(n, n));
    }
    let kept = count as usize;
    assert_eq!(bench.history.numbers.remembered(), (0, 0, kept), "all kept");
    assert_eq!(bench.missed(&["b"], stored(1, 1)).unwrap(), [""; 0]);
    bench.advance(120 * SECOND);
    let remembered = bench.history.numbers.remembered();
    assert_eq!(remembered, (0, 0, IDS_MAX));
    assert_eq!(bench.missed(&["b"], stored(101, 101)).unwrap(), [""; 0]);
    assert_eq!(
        bench.missed(&["b"], stored(100, 100)),
        Err(NotRecovered::Window)
    );
}

#[test]
fn a_search_has_one_budget_of_matching_steps() {
    let mut bench = Bench::new(1 << 24);
    for n in 0..2_000 {
        bench.keep(&format!("market:tick:NFO:BANKNIFTY{n:06}CE"), "1");
    }
    let since = position(0, 0).to_string();
    let wanted_by = |pattern: &str| {
        let patterns = NamePatterns::new(Default::default(), &[pattern.to_owned()]).unwrap();
        (TopicName::from(pattern.to_owned()), patterns)
    };
    let hard = format!("*{}z", "?".repeat(16));
    for (pattern, spellings, count) in [
        ("market:tick:*", 20, Some(2_000)),
        ("market:tick:zz*", 20, Some(0)),
        ("market:tick:*7CE", 20, Some(200)),
        (&*hard, 20, Some(0)),
        (&*hard, 200, None),
    ] {
        let (_, patterns) = wanted_by(pattern);
        // Spellings of one pattern.
        let spelling = |n: usize| TopicName::from(format!("{pattern}{}", "*".repeat(n)));
        let names: Vec<_> = (0..spellings).map(spelling).collect();
        let patterns = Arc::new(patterns);
        let wanted = |name: TopicName| Wanted {
            name,
            patterns: Some(Arc::clone(&patterns)),
        };
        let wanted: Vec<_> = names.into_iter().map(wanted).collect();
        let (missed, outcomes) = bench.all_missed(&since, &wanted, text_frames(1 << 22));
        let (newest, outcome) = bench.all_newest(&wanted, 1, text_frames(1 << 22));
        for (found, outcome) in [(missed, outcomes[0]), (newest, outcome)] {
            let got = outcome.ok().map(|()| found.len() / spellings);
            assert_eq!(got, count, "{pattern}");
            assert!(count.is_some() || found.is_empty());
        }
    }
}

#[test]
fn a_search_for_too_much_makes_no_frame() {
    let mut bench = Bench::of_messages(1 << 24);
    for n in 0..100 {
        bench.keep(&format!("a:{n}"), &"x".repeat(1_000));
    }
    let since = position(0, 0).to_string();
    let patterns = NamePatterns::new(Default::default(), &["a:*".to_owned()]).unwrap();
    let name = TopicName::fixed("a:*");
    let wanted = [Wanted {
        name: name.clone(),
        patterns: Some(Arc::new(patterns)),
    }];
    let (missed, outcomes) = bench.history.missed(&since, &wanted, text_frames(50_000));
    assert_eq!(outcomes, [Err(NotRecovered::Large)]);
    assert!(missed.is_empty());
    let (newest, outcome) = bench.history.newest(&wanted, 1, text_frames(50_000));
    assert_eq!(
        (outcome, newest.is_empty()),
        (Err(NotRecovered::Large), true)
    );
    assert_eq!(MADE.get(), 0);
    let (missed, outcomes) = bench.history.missed(&since, &wanted, text_frames(200_000));
    assert_eq!((outcomes, missed.frames().count()), (vec![Ok(())], 100));
    assert_eq!(MADE.get(), 100);
}

#[test]
fn a_name_that_is_wanted_twice_brings_each_message_once() {
    let mut bench = Bench::new(1 << 20);
    for n in 0..3 {
        bench.keep("a:1", &n.to_string());
    }
    let since = position(0, 0).to_string();
    let patterns = NamePatterns::new(Default::default(), &["a:*".to_owned()]).unwrap();
    let (exact, pattern) = (TopicName::fixed("a:1"), TopicName::fixed("a:*"));
    let by_pattern = Wanted {
        name: pattern.clone(),
        patterns: Some(Arc::new(patterns)),
    };
    let wanted = [0; 3].map(|_| [Wanted::exact(&exact), by_pattern.clone()]);
    let wanted = wanted.concat();
    let (missed, outcomes) = bench.history.missed(&since, &wanted, text_frames(1 << 20));
    assert_eq!(outcomes, [Ok(()); 6], "each is answered");
    assert_eq!(
        missed.frames().count(),
        2 * 3,
        "a copy for each of the two names"
    );
    let (newest, _) = bench.history.newest(&wanted, 2, text_frames(1 << 20));
    assert_eq!(newest.frames().count(), 2 * 2);
}

#[test]
fn what_was_left_out_is_a_hole_for_its_name_alone() {
    let mut bench = Bench::new(1 << 20);
    let first = bench.keep("a", "1");
    bench.keep("b", "2");
    bench.pass();
    let left_out = position(0, bench.count);
    let name = TopicName::fixed("b");
    bench.history.keep(Now::default(), left_out, &name, None);
    bench.keep("b", "3");
    assert_eq!(bench.missed(&["b"], first), Err(NotRecovered::Window));
    assert_eq!(bench.missed(&["a"], first), Ok(Vec::new()));
    assert_eq!(bench.missed(&["c"], first), Ok(Vec::new()), "nothing came");
    assert_eq!(bench.missed(&["b"], left_out), Ok(vec!["3".to_owned()]));
}

#[test]
fn the_newest_message_of_each_name_stays_when_others_have_the_memory() {
    let mut bench = Bench::of_messages(1 << 18);
    for n in 0..50 {
        bench.keep(&format!("row:{n}"), &n.to_string());
        bench.keep(&format!("row:{n}"), &format!("{n} new"));
    }
    let since = bench.keep("busy", "first");
    for _ in 0..10_000 {
        bench.keep("busy", &"x".repeat(100));
    }
    let patterns = NamePatterns::new(Default::default(), &["row:*".to_owned()]).unwrap();
    let pattern = TopicName::fixed("row:*");
    let rows = Wanted {
        name: pattern.clone(),
        patterns: Some(Arc::new(patterns)),
    };
    let newest = |bench: &mut Bench, count| {
        let budget = text_frames(1 << 20);
        let (found, outcome) = bench.all_newest(std::slice::from_ref(&rows), count, budget);
        assert_eq!(outcome, Ok(()));
        let text = |frame: &Arc<Frame>| String::from_utf8_lossy(frame.body()).into_owned();
        found
            .frames()
            .map(|(_, frame)| text(frame))
            .collect::<Vec<_>>()
    };
    let want: Vec<_> = (0..50).map(|n| format!("{n} new-row:{n}-row:*")).collect();
    assert_eq!(newest(&mut bench, 1), want);
    assert!(bench.history.stats().bytes <= 1 << 18);
    assert_eq!(bench.missed(&["row:1"], since), Ok(Vec::new()));
    // A newer one takes its place, and it is too old after the time of all.
    bench.keep("row:7", "newer");
    let got = newest(&mut bench, 100);
    assert_eq!((got.len(), got[49].as_str()), (50, "newer-row:7-row:*"));
    for _ in 0..10_000 {
        bench.keep("busy", &"x".repeat(100));
    }
    assert_eq!(newest(&mut bench, 1).len(), 50);
    let due_us = bench.history.due_us().expect("a time");
    let mut turn = Turn::default();
    bench.history.handle_timeout(due_us, &mut turn);
    assert_eq!(newest(&mut bench, 1), Vec::<String>::new());
    assert_eq!(bench.history.stats().messages, 0);
}

#[test]
fn newest_messages_that_stay_have_a_part_of_the_memory() {
    let mut bench = Bench::new(1 << 18);
    for n in 0..2_000 {
        bench.keep(&format!("row:{n}"), &"x".repeat(200));
    }
    assert!(bench.history.newest_only.count() > 50);
    for _ in 0..10_000 {
        bench.keep("busy", &"x".repeat(100));
    }
    let stats = bench.history.stats();
    let stays = bench.history.newest_only.count() as u64;
    assert!(stats.bytes <= 1 << 18, "{stats:?}");
    assert!(stats.messages > stays + 100, "{stays} of {stats:?}");
    // What stays is there for no resume.
    let first = position(0, 1);
    assert_eq!(bench.missed(&["row:1"], first), Err(NotRecovered::Window));
}

/// The names of messages take memory too, wherever the history has them: they leave room for messages of other names.
#[test]
fn names_of_any_length_count_and_leave_room_for_a_resume() {
    const MAX: usize = 4 << 20;
    for lengths in [
        &[10][..],
        &[480],
        &[5_000],
        &[100_000],
        &[10, 100_000, 480, 20_000],
    ] {
        let mut bench = Bench::of_messages(MAX);
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        for n in 0..(4 * MAX / mean).min(40_000) {
            let length = lengths[n % lengths.len()];
            bench.keep(&format!("{n:06}{}", "x".repeat(length)), "1");
            let bytes = bench.history.memory();
            assert!(bytes <= MAX + MAX / EXCESS_SHARE, "{lengths:?}: {bytes}");
        }
        let since = bench.keep("busy", "first");
        for _ in 0..10 {
            bench.keep("busy", "missed");
        }
        bench.advance(0);
        assert!(bench.history.memory() <= MAX, "{lengths:?}");
        let missed = bench.missed(&["busy"], since).map(|missed| missed.len());
        assert_eq!(missed, Ok(10), "{lengths:?}");
        let forgotten = bench.history.newest_forgotten.names_bytes();
        assert!(forgotten <= 128 * 1_024, "{forgotten}");
    }
}

/// Clients that ask for newest messages make the texts of payloads that are no JSON.
#[test]
fn what_grows_among_the_messages_that_stay_counts() {
    const MAX: usize = 4 << 20;
    let mut bench = Bench::of_messages(MAX);
    bench.history.set_render(|copy, alive| {
        copy.message.text_with(|payload| payload.repeat(6));
        payload_alone(copy, alive)
    });
    let body = "x".repeat(20_000);
    for n in 0..400 {
        bench.keep(&format!("row:{n}"), &body);
    }
    for n in 0..400 {
        bench.newest_of(&format!("row:{n}"), 1);
    }
    let since = bench.keep("busy", "first");
    bench.keep("busy", "missed");
    bench.advance(0);
    assert!(bench.history.memory() <= MAX);
    let missed = bench.missed(&["busy"], since);
    assert_eq!(missed, Ok(vec!["missed".to_owned()]));
}

/// One that was read from the stream stands before younger ones of the list, and those were kept before it.
#[test]
fn each_message_that_stays_is_forgotten_in_its_time() {
    let mut bench = Bench::of_a_stream(1 << 18);
    bench.advance(SECOND);
    bench.store("quiet", "1", stored(100, 10));
    for n in 101..5_000 {
        bench.store("busy", &"x".repeat(100), stored(n, 10 * n));
    }
    let read = |bench: &mut Bench, name: &str, id| {
        let body = bench.body(name);
        let (name, now) = (TopicName::from(name.to_owned()), at(bench.now_us));
        let kept = bench.history.keep_newest(
            now,
            stored(id, 10),
            &name,
            &body,
            ClientAddr::Unix,
            u64::MAX,
        );
        assert_eq!(kept, Ok(()));
    };
    let has = |bench: &Bench| {
        let names = ["quiet", "b", "a"].map(TopicName::fixed);
        names.map(|name| bench.history.has_messages(&name))
    };
    bench.advance(40 * SECOND);
    read(&mut bench, "b", 7);
    bench.advance(10 * SECOND);
    read(&mut bench, "a", 5);
    assert_eq!(has(&bench), [true; 3]);
    bench.advance(11 * SECOND);
    assert_eq!(has(&bench), [false, true, true]);
    bench.advance(40 * SECOND);
    assert_eq!(has(&bench), [false, false, true]);
    bench.advance(10 * SECOND);
    assert_eq!(has(&bench), [false; 3]);
    assert_eq!(
        (
            bench.history.due_us(),
            bench.history.newest_only.places_bytes()
        ),
        (None, 0)
    );
}

/// Messages that were read from the stream have no numbers.
#[test]
fn newest_messages_of_two_patterns_come_in_the_order_of_the_stream() {
    for has_messages in [true, false] {
        let mut bench = Bench::of_a_stream(1 << 20);
        bench.has_messages = has_messages;
        bench.store("busy", "6", stored(100, 10));
        for n in 0..6 {
            let (body, name) = (
                bench.body(&n.to_string()),
                format!("{}:{n}", ["a", "b"][n % 2]),
            );
            let (name, position) = (TopicName::from(name), stored(n as u64 + 1, 10));
            let now = at(bench.now_us);
            let kept =
                bench
                    .history
                    .keep_newest(now, position, &name, &body, ClientAddr::Unix, u64::MAX);
            assert_eq!(kept, Ok(()));
        }
        let wanted = ["b:*", "a:*"].map(|name| Wanted {
            name: TopicName::fixed(name),
            patterns: Some(Arc::new(
                NamePatterns::new(Default::default(), &[name.to_owned()]).unwrap(),
            )),
        });
        let (mut found, outcome) = bench.all_newest(&wanted, 1, text_frames(1 << 20));
        assert_eq!(outcome, Ok(()));
        assert_eq!(
            found.run_count(),
            1,
            "a list for each message would count nowhere"
        );
        found.sort();
        let mut texts = Vec::new();
        while let Some(frame) = found.pop_until(None) {
            texts.push(String::from_utf8_lossy(frame.body())[..1].to_owned());
        }
        assert_eq!(texts, ["0", "1", "2", "3", "4", "5"], "{has_messages}");
    }
}

/// A pattern that matches very many names.
fn all_names() -> Wanted {
    let patterns = NamePatterns::new(Default::default(), &["a:*".to_owned()]).unwrap();
    Wanted {
        name: TopicName::fixed("a:*"),
        patterns: Some(Arc::new(patterns)),
    }
}

/// The numbers that are the texts of the frames of the pattern.
fn numbers(missed: &Missed) -> Vec<u64> {
    let number = |(_, frame): &(CopyPlace, Arc<Frame>)| {
        let text = String::from_utf8_lossy(frame.body()).into_owned();
        let number = text.split('-').next().and_then(|text| text.parse().ok());
        number.expect("a number")
    };
    missed.frames().map(number).collect()
}

/// The loop serves others between the steps: messages come meanwhile.
#[test]
fn a_long_search_looks_at_so_much_in_a_step_and_finds_what_was_there() {
    const NAMES: u64 = 5_000;
    for has_messages in [true, false] {
        let mut bench = Bench::new(1 << 24);
        bench.has_messages = has_messages;
        for n in 1..=2 * NAMES {
            bench.keep(&format!("a:{}", n % NAMES), &n.to_string());
        }
        let budget = text_frames(4 << 20);
        let since = position(0, NAMES - 10).to_string();
        let (missed, outcomes) = bench.history.missed(&since, &[all_names()], budget);
        assert_eq!(outcomes, [Ok(())]);
        let (newest, outcome) = bench.history.newest(&[all_names()], 1, budget);
        assert_eq!(outcome, Ok(()));
        for (mut found, first) in [(missed, NAMES - 9), (newest, NAMES + 1)] {
            let mut len = 0;
            let mut steps = 0;
            loop {
                assert!(found.len() - len <= 1_000, "{} in a step", found.len());
                len = found.len();
                if !found.has_unmade() {
                    break;
                }
                // Both of a name that is still to come, and of one that was there.
                bench.keep("a:1", "0");
                bench.keep("a:4999", "0");
                bench.history.make_next(&mut found, budget).expect("room");
                steps += 1;
            }
            assert!(steps > 4, "{steps} steps");
            let all: Vec<u64> = (first..=2 * NAMES).collect();
            assert_eq!(numbers(&found), all);
        }
    }
}

#[test]
fn what_is_forgotten_before_a_long_search_has_reached_it_is_missed() {
    let budget = text_frames(4 << 20);
    let fill = |bench: &mut Bench, name: &str, count| {
        for n in 0..count {
            bench.keep(&format!("{name}{n}"), &n.to_string());
        }
    };
    for (forgotten, outcome) in [(500, Ok(())), (3_500, Err(NotRecovered::Window))] {
        let mut bench = Bench::of_messages(1 << 24);
        fill(&mut bench, "a:", forgotten);
        bench.advance(30 * SECOND);
        fill(&mut bench, "a:", 4_000);
        let since = position(0, 0).to_string();
        let wanted = [all_names(), Wanted::exact(&TopicName::fixed("z"))];
        let (mut missed, outcomes) = bench.history.missed(&since, &wanted, budget);
        assert_eq!(outcomes, [Ok(()); 2]);
        assert!(missed.search.is_some());
        // The first step has come to the messages of now if there are few before; the frames of these are not made yet.
        bench.advance(31 * SECOND);
        let next = bench.history.make_next(&mut missed, budget);
        assert_eq!(next, outcome, "{forgotten}");
        let made = bench.made(missed, budget);
        assert!(made.1.is_err() && made.0.is_empty(), "{forgotten}");
    }
    // Newest messages that go from the list to those that stay are found, once; others are left out.
    let mut bench = Bench::of_messages(2_200_000);
    fill(&mut bench, "a:", 2_500);
    let (mut newest, outcome) = bench.history.newest(&[all_names()], 3, budget);
    assert_eq!(outcome, Ok(()));
    let mut busy = 0;
    while newest.search.is_some() {
        fill(&mut bench, "busy", 1);
        for _ in 0..2_000 {
            bench.keep("busy", &"x".repeat(200));
            busy += 1;
        }
        bench.history.make_next(&mut newest, budget).expect("room");
    }
    assert!(busy > 2_000 && bench.history.newest_only.count() > 100);
    let (newest, outcome) = bench.made(newest, budget);
    assert_eq!(outcome, Ok(()));
    let mut found = numbers(&newest);
    assert!(found.len() > 100, "{}", found.len());
    found.sort_unstable();
    assert!(found.is_sorted_by(|one, next| one < next), "each once");
}

/// Of very many messages of some thousand names, each name is looked at once, whether the wanted names match it or not.
#[test]
fn a_long_search_finds_out_once_which_names_it_wants() {
    const NAMES: u64 = 2_000;
    let mut bench = Bench::new(1 << 25);
    let (first, budget) = (position(0, 0).to_string(), text_frames(4 << 20));
    for n in 1..=20 * NAMES {
        bench.keep(&format!("b:{}", n % NAMES), &n.to_string());
    }
    bench.keep("a:1", &(20 * NAMES + 1).to_string());
    let all = NamePatterns::new(Default::default(), &["*".to_owned()]).unwrap();
    let all = Wanted {
        name: TopicName::fixed("*"),
        patterns: Some(Arc::new(all)),
    };
    let room = Quota::new("searches", 1 << 20);
    for has_room in [true, false] {
        let steps = |bench: &mut Bench, mut found: Missed| {
            let mut steps = 1;
            while found.has_unmade() {
                let address = ClientAddr::Unix;
                let grant = |bytes| has_room.then(|| room.grant(address, bytes as u64))?;
                found.charge_search(grant);
                assert_eq!(room.held() > 0, has_room, "what it remembers is charged");
                bench.history.make_next(&mut found, budget).expect("room");
                steps += 1;
            }
            assert_eq!(room.held(), 0, "and given back");
            (steps, found.frames().count() as u64)
        };
        let (missed, outcomes) = bench.history.missed(&first, &[all_names()], budget);
        assert_eq!(outcomes, [Ok(())]);
        let of_one = steps(&mut bench, missed);
        let (newest, outcome) = bench.history.newest(std::slice::from_ref(&all), 1, budget);
        assert_eq!(outcome, Ok(()));
        let of_each = steps(&mut bench, newest);
        assert_eq!((of_one.1, of_each.1), (1, NAMES + 1));
        match has_room {
            true => assert!(of_one.0 <= 4 && of_each.0 <= 4, "{of_one:?}, {of_each:?}"),
            // Each step finds it out again.
            false => assert!(of_one.0 >= 40 && of_each.0 >= 20, "{of_one:?}, {of_each:?}"),
        }
    }
}

/// However few of them are wanted.
#[test]
fn messages_that_stay_alone_are_passed_over_in_steps() {
    let mut bench = Bench::new(35_000_000);
    for n in 0..14_000 {
        bench.keep(&format!("row:{n}"), &n.to_string());
    }
    for _ in 0..30_000 {
        bench.keep("busy", &"x".repeat(1_000));
    }
    assert_eq!(bench.history.newest_only.count(), 14_000);
    let pattern = |name: &'static str| Wanted {
        name: TopicName::fixed(name),
        patterns: Some(Arc::new(
            NamePatterns::new(Default::default(), &[name.to_owned()]).unwrap(),
        )),
    };
    let wanted = ["*:7", "*:13999"].map(pattern);
    let budget = text_frames(1 << 20);
    let (mut found, outcome) = bench.history.newest(&wanted, 1, budget);
    let mut steps = 1;
    while found.has_unmade() {
        bench.history.make_next(&mut found, budget).expect("room");
        steps += 1;
    }
    assert_eq!((outcome, found.frames().count()), (Ok(()), 2));
    assert!((14..20).contains(&steps), "{steps}: each is looked at once");
}

/// However few messages the names have: what is between them is looked at in steps, too.
#[test]
fn a_page_is_what_a_step_finds_and_the_next_one_goes_on_there() {
    const NAMES: u64 = 5_000;
    let mut bench = Bench::of_a_stream(1 << 24);
    bench.has_messages = true;
    for n in 1..=NAMES {
        let topic = if n % 1_300 == 0 { "a:" } else { "b:" };
        bench.store(&format!("{topic}{n}"), &n.to_string(), stored(n, n));
    }
    let budget = text_frames(1 << 20);
    let (mut found, mut cursor, mut pages) = (Vec::new(), KeptCursor::default(), 0);
    cursor.read_all();
    loop {
        let may_skip = false;
        let page = bench
            .history
            .page(&cursor, &[all_names()], may_skip, budget);
        let page = page.expect("a page");
        pages += 1;
        found.extend(numbers(&page.messages));
        if page.is_last {
            break;
        }
        let reached = page.reached.expect("it goes on");
        let (from, to) = (cursor.stored(), reached.stored());
        assert!(from < to, "further on than before");
        cursor = reached;
        // What comes meanwhile is found too.
        let n = NAMES + pages;
        bench.store(&format!("a:{n}"), &n.to_string(), stored(n, n));
    }
    assert_eq!(pages, 6, "a thousand in each");
    let before = (1_300..=NAMES).step_by(1_300);
    assert!(found.into_iter().eq(before.chain(NAMES + 1..NAMES + 6)));
}

/// The example at the head of `cursor.rs`.
#[test]
fn a_cursor_goes_from_the_stream_to_the_history_and_back_after_a_loss() {
    let mut bench = Bench::of_a_stream(1 << 20);
    let id = |id| stored(id, id);
    let store = |bench: &mut Bench, n: u64| bench.store("a", &n.to_string(), id(n));
    let find = |bench: &Bench, cursor: &KeptCursor| bench.history.find_cursor(cursor, false);
    let reached = |cursor: &KeptCursor| cursor.position().map(|at| at.position);
    store(&mut bench, 5);
    store(&mut bench, 6);
    let mut cursor = KeptCursor::after(Some(CopyPosition {
        position: id(2),
        copy: CopyRank::LAST,
    }));
    assert_eq!(find(&bench, &cursor), Err(NotRecovered::Window));
    cursor.ask(bench.history.head(), false);
    (3..=6).for_each(|n| cursor.read(id(n)));
    assert!(!cursor.read_all(), "nothing was lost");
    assert_eq!(reached(&cursor), Some(id(6)));
    assert_eq!(find(&bench, &cursor), Ok(After::all_of(2)));
    bench.history.lose(at(bench.now_us));
    store(&mut bench, 9);
    assert_eq!(find(&bench, &cursor), Err(NotRecovered::Gap));
    for newer in [None, Some(10)] {
        let mut cursor = cursor;
        cursor.ask(bench.history.head(), false);
        let found = [8, 9].into_iter().chain(newer);
        found.for_each(|n| cursor.read(id(n)));
        assert!(cursor.read_all(), "7 is gone");
        match newer {
            None => assert_eq!(find(&bench, &cursor), Ok(After::all_of(4))),
            Some(newer) => {
                assert_eq!(find(&bench, &cursor), Err(NotRecovered::Ahead));
                store(&mut bench, newer);
                assert_eq!(find(&bench, &cursor), Ok(After::all_of(5)));
            }
        }
    }
}

/// Live copies, and copies for clients that ask for newest messages, come and go while very many quiet names stay.
#[test]
fn a_copy_is_dropped_without_looking_at_the_newest_messages_that_stay() {
    let mut bench = Bench::of_messages(1 << 22);
    let quiet = 1_000;
    for n in 0..quiet {
        bench.keep(&format!("row:{n}"), &n.to_string());
    }
    let live = |bench: &mut Bench| {
        let newest = bench.keep("busy", &"x".repeat(1_000));
        let copy = bench.history.copy_of_newest(newest, None, Content::Text);
        assert!(copy.is_some());
    };
    for _ in 0..20_000 {
        live(&mut bench);
    }
    assert_eq!(bench.history.newest_only.count(), quiet);
    let first = bench.history.list.entries.front().map(|entry| entry.number);
    assert!(
        first.is_some_and(|first| bench.history.list.first_kept > first + 100),
        "copies go before messages"
    );
    for asks in [false, true] {
        LOOKED_AT.set(0);
        let before = bench.history.stats().messages;
        for n in 0..100 {
            if asks {
                let name = TopicName::from(format!("row:{}", 7 * n));
                let wanted = [Wanted::exact(&name)];
                let (found, _) = bench.history.newest(&wanted, 1, text_frames(1 << 20));
                assert_eq!(found.frames().count(), 1);
            }
            live(&mut bench);
        }
        let looked_at = LOOKED_AT.get();
        assert!(looked_at < 1_000, "{looked_at}, asks: {asks}");
        assert!(bench.history.stats().messages.abs_diff(before) < 200);
    }
    // The places of messages with copies go with the copies, and with the messages.
    while bench.history.drop_copies() {}
    let names: Vec<_> = (0..8)
        .map(|n| TopicName::from(format!("row:{n}")))
        .collect();
    for name in &names {
        let wanted = [Wanted::exact(name)];
        let (found, _) = bench.history.newest(&wanted, 1, text_frames(1 << 20));
        assert_eq!(found.frames().count(), 1);
    }
    let copied_before = bench.history.newest_only.places_bytes();
    bench.keep("row:3", "new");
    assert!(bench.history.newest_only.places_bytes() < copied_before);
    while bench.history.drop_copies() {}
    let renderer = &bench.history.renderer;
    let copied = bench.history.newest_only.places_bytes();
    assert_eq!(
        (renderer.beside, renderer.copies_memory(), copied),
        (0, 0, 0)
    );
}

/// Whether the history has no other message, older ones, or newer ones; also when the list has forgotten the one that
/// was left out.
#[test]
fn a_newest_message_that_was_left_out_is_said_to_be_missing() {
    let mut bench = Bench::new(1 << 18);
    let leave_out = |bench: &mut Bench, name: &str| {
        bench.pass();
        let (now, left_out) = (at(bench.now_us), position(0, bench.count));
        let name = TopicName::from(name.to_owned());
        bench.history.keep(now, left_out, &name, None);
    };
    let newest = |bench: &mut Bench, name: &str, count| {
        let (found, cut) = bench.newest_of(name, count);
        assert!(cut.is_none_or(|cut| cut == RetainedCut::Large));
        (found.len(), cut.is_some())
    };
    bench.keep("a", "1");
    leave_out(&mut bench, "a");
    leave_out(&mut bench, "b");
    leave_out(&mut bench, "c");
    bench.keep("c", "2");
    bench.keep("d", "3");
    for (name, count, found) in [
        ("a", 5, (1, true)),
        ("a", 1, (0, true)),
        ("b", 5, (0, true)),
        ("c", 5, (1, true)),
        ("c", 1, (1, false)),
        ("d", 5, (1, false)),
        ("*", 5, (3, true)),
        ("*", 1, (2, true)),
    ] {
        assert_eq!(newest(&mut bench, name, count), found, "{name} {count}");
    }
    let forgotten = bench.history.newest_forgotten_count();
    let fill = |bench: &mut Bench| {
        (0..10_000).for_each(|_| {
            bench.keep("busy", &"x".repeat(100));
        })
    };
    fill(&mut bench);
    let has = |bench: &Bench, name| bench.history.has_messages(&TopicName::fixed(name));
    let kept = ["a", "b", "c", "d"].map(|name| has(&bench, name));
    assert_eq!(kept, [false, false, true, true]);
    let now_forgotten = bench.history.newest_forgotten_count();
    assert_eq!(now_forgotten, forgotten + 2, "the stream is asked again");
    assert_eq!(newest(&mut bench, "c", 5), (1, false));
    // The message that stays is older than one that was left out after it.
    leave_out(&mut bench, "d");
    assert_eq!(newest(&mut bench, "d", 5), (1, true));
    fill(&mut bench);
    assert_eq!(newest(&mut bench, "d", 1), (1, true));
    assert!(newest(&mut bench, "*", 1).1);
    bench.keep("d", "4");
    assert_eq!(newest(&mut bench, "d", 1), (1, false));
}

/// A name without wildcards is looked up: no step passes over the messages of others.
#[test]
fn the_newest_message_of_a_name_is_found_in_one_step_however_many_others_there_are() {
    let mut bench = Bench::new(35_000_000);
    bench.keep("first", "1");
    for n in 0..14_000 {
        bench.keep(&format!("quiet:{n}"), "1");
    }
    bench.keep("last", "1");
    // What stays alone; then the list is full of others.
    for n in 0..100_000 {
        bench.keep("busy", &n.to_string());
    }
    assert_eq!(bench.history.newest_only.count(), 14_002);
    let newest = |bench: &mut Bench, names: &[&'static str], count| {
        let wanted: Vec<_> = names
            .iter()
            .map(|name| Wanted::exact(&TopicName::fixed(name)))
            .collect();
        PASSED_OVER.take();
        let (found, outcome) = bench.history.newest(&wanted, count, text_frames(1 << 20));
        assert_eq!((outcome, found.has_unmade()), (Ok(()), false));
        (found.frames().count(), PASSED_OVER.take())
    };
    for (names, count, found) in [
        (&["first"][..], 1, 1),
        (&["last"], 1, 1),
        (&["last", "unknown", "first"], 5, 2),
        (&["busy"], 5, 5),
        (&["busy", "first", "last"], 1, 3),
        (&["unknown"], 1, 0),
    ] {
        let (came, passed_over) = newest(&mut bench, names, count);
        assert_eq!(came, found, "{names:?}");
        assert!(passed_over < 40_000, "{names:?}: {passed_over}");
    }
}

#[test]
fn it_is_known_for_a_while_which_newest_messages_were_forgotten() {
    let mut bench = Bench::of_a_stream(1 << 20);
    let exact = |name: &str| Wanted::exact(&TopicName::from(name.to_owned()));
    let pattern = |name: &'static str| Wanted {
        patterns: Some(Arc::new(
            NamePatterns::new(Default::default(), &[name.to_owned()]).unwrap(),
        )),
        ..Wanted::exact(&TopicName::fixed(name))
    };
    let mut number = 0;
    let mut add = |bench: &mut Bench, name: &str| {
        number += 1;
        bench.store(name, "1", stored(number, number));
    };
    add(&mut bench, "a:1");
    add(&mut bench, "a:2");
    add(&mut bench, "b:1");
    let before = bench.history.newest_forgotten_count();
    bench.advance(30 * SECOND);
    add(&mut bench, "a:2");
    bench.advance(31 * SECOND);
    let after = bench.history.newest_forgotten_count();
    for (wanted, is_forgotten) in [
        (exact("a:1"), true),
        (exact("a:2"), false),
        (exact("b:1"), true),
        (exact("none"), false),
        (pattern("a:*"), true),
        (pattern("b:*"), true),
        (pattern("c:*"), false),
        (pattern("a:2*"), false),
    ] {
        let has = bench.history.has_forgotten(&wanted, before);
        assert_eq!(has, is_forgotten, "{wanted:?}");
        assert!(!bench.history.has_forgotten(&wanted, after));
    }
    // A newer message has come.
    add(&mut bench, "b:1");
    assert!(!bench.history.has_forgotten(&exact("b:1"), before));
    assert!(!bench.history.has_forgotten(&pattern("b:*"), before));
    // Very many others: of a pattern it is not known any more.
    for n in 0..1_100 {
        add(&mut bench, &format!("d:{n}"));
    }
    bench.advance(61 * SECOND);
    assert!(bench.history.has_forgotten(&pattern("c:*"), after));
    assert!(!bench.history.has_forgotten(&exact("none"), after));
    // After a loss nothing from before is anybody's newest message.
    let before = bench.history.newest_forgotten_count();
    bench.history.lose(at(bench.now_us));
    assert!(bench.history.has_forgotten(&exact("none"), before));
    assert!(bench.history.has_forgotten(&pattern("c:*"), before));
}

/// The answer of the stream was on its way when a newer message came and was forgotten again.
#[test]
fn a_message_that_may_be_older_than_one_that_was_forgotten_is_not_kept() {
    let mut bench = Bench::of_a_stream(1 << 20);
    bench.store("busy", "x", stored(1, 10));
    let asked = bench.history.newest_forgotten_count();
    bench.store("a", "3", stored(3, 30));
    bench.advance(61 * SECOND);
    let again = bench.history.newest_forgotten_count();
    let mut keep = |name: &str, asked| {
        let body = bench.body("2");
        let (name, now) = (TopicName::from(name.to_owned()), at(bench.now_us));
        let (position, client) = (stored(2, 20), ClientAddr::Unix);
        bench
            .history
            .keep_newest(now, position, &name, &body, client, asked)
    };
    assert_eq!(keep("a", asked), Err(NotKept::Forgotten));
    assert_eq!(keep("b", asked), Ok(()));
    assert_eq!(keep("a", again), Ok(()));
}

/// Messages of the room for those that stay, each read from the stream for an address.
struct Rooms {
    bench: Bench,
    /// The id of the last message.
    id: u64,
}

impl Rooms {
    fn new() -> Self {
        let mut bench = Bench::of_a_stream(1 << 20);
        bench.store("busy", "x", stored(1_000_000, 10));
        Self { bench, id: 0 }
    }

    fn address(n: u8) -> ClientAddr {
        std::net::IpAddr::from([192, 0, 2, n]).into()
    }

    /// Reads messages for an address while there is room. Returns how many.
    fn fill(&mut self, n: u8) -> u64 {
        let before = self.id;
        loop {
            let body = self.bench.body("x");
            let (name, now) = (
                TopicName::from(format!("row:{}", self.id)),
                at(self.bench.now_us),
            );
            let (position, client) = (stored(self.id + 1, 10), Self::address(n));
            match self
                .bench
                .history
                .keep_newest(now, position, &name, &body, client, u64::MAX)
            {
                Ok(()) => self.id += 1,
                Err(why) => {
                    assert_eq!(why, NotKept::NoRoom);
                    return self.id - before;
                }
            }
        }
    }
}

#[test]
fn an_address_that_asks_for_very_many_newest_messages_leaves_room_for_others() {
    let mut rooms = Rooms::new();
    let first = rooms.fill(1);
    let [second, third] = [2, 3].map(|n| rooms.fill(n));
    assert!(
        first > 100 && (first / 2..first / 2 + 2).contains(&second),
        "{first} {second}"
    );
    assert!(third >= first / 4, "{first} {third}");
    // Whoever has gone, an address gets no more than its share.
    assert_eq!(rooms.fill(1), 0);
    // A newer message gives the room back, for whomever the one before was read.
    for n in 0..first / 2 {
        rooms
            .bench
            .store(&format!("row:{n}"), "x", stored(1_000_001 + n, 20));
    }
    assert!(rooms.fill(2) > first / 10);
    rooms.bench.advance(61 * SECOND);
    assert_eq!(rooms.fill(1), first);
}
