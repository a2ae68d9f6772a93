//! Messages that are counted.

use std::collections::HashSet;

use super::*;
use weirgate_core::Point;

/// Of [`CountedFeed::connected`].
const NOTICES_LOSSES: bool = true;

fn feed(names: &[&str]) -> CountedFeed {
    let subscription = |name: &&str| match NameSyntax::Redis.is_pattern(name) {
        true => Subscription::pattern(*name),
        false => Subscription::channel(*name),
    };
    let names: Vec<_> = names.iter().map(subscription).collect();
    let mut feed = CountedFeed::new(NameSyntax::Redis, names.clone()).expect("names");
    for name in &names {
        feed.subscribed(name);
    }
    feed
}

fn count(place: Option<Place>) -> Option<u64> {
    match place {
        Some(Place::Kept(None)) => None,
        Some(Place::Kept(Some(Position {
            point: Point::Counted { count, .. },
            ..
        }))) => Some(count),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_has_a_position_before_the_last_name_is_subscribed() {
    let mut feed = feed(&["a:*", "b"]);
    feed.connected(NOTICES_LOSSES);
    feed.subscribed(&Subscription::pattern("a:*"));
    feed.subscribed(&Subscription::pattern("x:*"));
    assert!(!feed.may_begin());
    assert_eq!(
        count(feed.place(&Subscription::pattern("a:*"), "a:1")),
        None
    );
    assert!(feed.marked(b"7f3a09c2b11e.1").is_none(), "no mark counts");
    feed.subscribed(&Subscription::channel("b"));
    assert!(feed.may_begin());
    feed.begin();
    assert_eq!(count(feed.place(&Subscription::channel("b"), "b")), Some(1));
    feed.connected(NOTICES_LOSSES);
    assert_eq!(
        count(feed.place(&Subscription::channel("b"), "b")),
        None,
        "a new connection"
    );
}

#[test]
fn a_refused_name_shadows_no_other_and_a_name_on_its_way_brings_no_copy() {
    let mut feed = feed(&["a:*", "a:1", "b"]);
    feed.connected(NOTICES_LOSSES);
    let [pattern, exact] = [Subscription::pattern("a:*"), Subscription::channel("a:1")];
    assert!(
        feed.place(&Subscription::pattern("a:*"), "a:1").is_some()
            && feed.place(&Subscription::channel("a:1"), "a:1").is_none()
    );
    feed.subscribed(&exact);
    feed.unsubscribed(&pattern);
    assert!(
        feed.place(&Subscription::channel("a:1"), "a:1").is_some(),
        "the pattern is refused"
    );
    assert!(
        feed.place(&Subscription::pattern("a:*"), "a:1").is_none(),
        "it is asked for again"
    );
    assert!(feed.place(&Subscription::pattern("a:*"), "a:2").is_some());
    feed.subscribed(&pattern);
    assert!(feed.place(&Subscription::channel("a:1"), "a:1").is_none());
}

#[test]
fn a_message_with_a_long_name_counts_once_and_the_next_one_too() {
    let mut feed = feed(&["a:*", "*:x", "b"]);
    feed.connected(NOTICES_LOSSES);
    for name in ["a:*", "*:x"] {
        feed.subscribed(&Subscription::pattern(name));
    }
    feed.subscribed(&Subscription::channel("b"));
    feed.begin();
    let mut long = |name, subject_hash| {
        let place = feed.place_of_long(&Subscription::pattern(name), subject_hash);
        place.map(|place| match place {
            Place::Outside => 0,
            place => count(Some(place)).expect("a number"),
        })
    };
    // Copies come one after another, in any order of the names.
    assert_eq!([long("a:*", 1), long("*:x", 1)], [Some(1), None]);
    assert_eq!([long("*:x", 1), long("a:*", 1)], [Some(2), None]);
    // Of another name, which matches one pattern only; twice.
    assert_eq!([long("*:x", 2), long("*:x", 2)], [Some(3), Some(4)]);
    assert_eq!([long("a:*", 3), long("a:*", 1)], [Some(5), Some(6)]);
    // A copy for a name outside of the feed ends no message.
    assert_eq!([long("other", 1), long("*:x", 1)], [Some(0), None]);
    assert_eq!(count(feed.place(&Subscription::channel("b"), "b")), Some(7));
    let after = feed.place_of_long(&Subscription::pattern("*:x"), 1);
    assert_eq!(count(after), Some(8), "another message was between");
}

#[test]
fn a_name_that_is_taken_away_ends_the_feed_until_all_stand_again() {
    let mut feed = feed(&["a", "b"]);
    let [a, b] = ["a", "b"].map(Subscription::channel);
    assert!(
        !feed.unsubscribed(&a),
        "nothing was promised before the mark"
    );
    feed.subscribed(&a);
    let BusEvent::Feed(FeedNotice::Mark { mark: first, .. }) = feed.begin() else {
        panic!("a mark");
    };
    assert!(
        !feed.unsubscribed(&Subscription::channel("x")),
        "another name"
    );
    assert!(feed.unsubscribed(&a) && !feed.unsubscribed(&a), "told once");
    assert_eq!(count(feed.place(&Subscription::channel("b"), "b")), None);
    assert!(!feed.unsubscribed(&b) && !feed.may_begin());
    feed.subscribed(&b);
    feed.subscribed(&a);
    assert!(feed.may_begin());
    let BusEvent::Feed(FeedNotice::Mark { mark, count: 0, .. }) = feed.begin() else {
        panic!("a mark with a count of its own");
    };
    assert_ne!(mark, first);
}

#[test]
fn where_messages_may_be_missed_unseen_nothing_has_a_position() {
    let mut feed = feed(&["a"]);
    let a = Subscription::channel("a");
    assert!(
        feed.connected(!NOTICES_LOSSES) && !feed.connected(!NOTICES_LOSSES),
        "told once"
    );
    feed.subscribed(&a);
    assert!(feed.may_begin());
    assert!(matches!(
        feed.begin(),
        BusEvent::Feed(FeedNotice::NoPositions)
    ));
    assert!(!feed.may_begin());
    assert!(feed.marked(b"7f3a09c2b11e.1").is_none());
    assert_eq!(count(feed.place(&Subscription::channel("a"), "a")), None);
    assert!(feed.unsubscribed(&a), "a loss all the same");
    assert!(!feed.connected(NOTICES_LOSSES));
    feed.subscribed(&a);
    assert!(matches!(
        feed.begin(),
        BusEvent::Feed(FeedNotice::Mark { .. })
    ));
}

#[test]
fn a_message_counts_once_whatever_names_match() {
    let mut feed = feed(&["a:*", "a:1", "*:1"]);
    feed.begin();
    assert_eq!(feed.place(&Subscription::channel("a:1"), "a:1"), None);
    assert_eq!(
        count(feed.place(&Subscription::pattern("a:*"), "a:1")),
        Some(1)
    );
    assert_eq!(feed.place(&Subscription::pattern("*:1"), "a:1"), None);
    assert_eq!(
        count(feed.place(&Subscription::pattern("*:1"), "b:1")),
        Some(2)
    );
    assert_eq!(
        feed.place(&Subscription::channel("a:2"), "a:2"),
        Some(Place::Outside)
    );
    let by_pattern = feed.place(&Subscription::pattern("a:1"), "a:1");
    assert_eq!(by_pattern, Some(Place::Outside), "a pattern of this text");
    assert_eq!(
        count(feed.place(&Subscription::pattern("a:*"), "a:3")),
        Some(3)
    );
}

#[test]
fn a_mark_ends_the_count_of_the_mark_before_and_counts_once() {
    let mut feed = feed(&["a"]);
    let BusEvent::Feed(FeedNotice::Mark { count, .. }) = feed.begin() else {
        panic!("a mark");
    };
    assert_eq!(count, 0);
    for _ in 0..3 {
        feed.place(&Subscription::channel("a"), "a");
    }
    let mut marked = |payload: &[u8]| match feed.marked(payload) {
        Some(BusEvent::Feed(FeedNotice::Mark { count, mark, .. })) => {
            Some((count, mark.to_string()))
        }
        _ => None,
    };
    let mark = "7f3a09c2b11e.1";
    assert_eq!(marked(mark.as_bytes()), Some((3, mark.to_owned())));
    assert_eq!(marked(mark.as_bytes()), None, "it came before");
    for junk in [
        &b""[..],
        b"x",
        b"7f3a09c2b11e.01",
        b"\xff",
        b"7f3a09c2b11e.1 ",
    ] {
        assert_eq!(marked(junk), None, "{junk:?}");
    }
    feed.place(&Subscription::channel("a"), "a");
    let own = feed.next_mark().to_string();
    let Some(BusEvent::Feed(FeedNotice::Mark { count, .. })) = feed.marked(own.as_bytes()) else {
        panic!("the own mark came back");
    };
    assert_eq!(count, 1);
}

#[test]
fn marks_are_remembered_up_to_a_number() {
    let mut feed = feed(&["a"]);
    feed.begin();
    for n in 0..=MARKS_MAX {
        let mark = Mark {
            nonce: 5,
            counter: n as u64,
        };
        assert!(feed.marked(mark.to_string().as_bytes()).is_some());
    }
    assert_eq!(feed.seen.len(), MARKS_MAX);
}

#[test]
fn another_list_has_another_hash() {
    let lists: [&[&str]; 5] = [&["a", "b"], &["b", "a"], &["ab"], &["a"], &["a:*"]];
    let hashes: HashSet<u32> = lists.iter().map(|list| feed(list).feed_hash).collect();
    assert_eq!(hashes.len(), lists.len());
    assert_eq!(
        feed(&["channel:trade:*"]).feed_hash,
        0xf7b0_bd51,
        "on every version"
    );
}
