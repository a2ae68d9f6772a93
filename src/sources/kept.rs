//! The kept feed of a source: the messages with a position, and the mark from which the messages are
//! counted. Pure.
//!
//! A bus hands the same messages in the same order to each of its connections, so two connections with
//! the same mark count the same messages after the mark. Three rules make the counts equal: a message
//! counts before anybody looks into it, because two versions of weirgate may judge differently; a
//! message that several kept names match counts once; and no mark counts before all kept names are
//! subscribed. Where messages can be missed unseen, nothing is counted at all: a doubt means that no
//! resume is whole.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::auth::{NameError, NamePatterns, NameSyntax};
use crate::feeds::{BusEvent, Mark, Place, Position, Subscription, fnv_1a};

/// Remembered marks, the newest: a repeated mark is from another program.
const MARKS_MAX: usize = 4_096;

/// A name of the list.
#[derive(Debug)]
struct Name {
    subscription: Subscription,
    patterns: NamePatterns,
    /// Whether the bus has confirmed the name on this connection.
    is_subscribed: bool,
}

/// The count of the messages on this connection.
#[derive(Clone, Copy, Debug)]
enum Count {
    /// Not all names are subscribed.
    Waits,
    /// Nothing is counted on this connection.
    Off,
    /// The number of messages since the mark.
    Since(Mark, u64),
}

/// The names read from the start, and the count of their messages on this connection.
#[derive(Debug)]
pub struct KeptFeed {
    names: Vec<Name>,
    /// Tells positions of another list apart.
    hash: u32,
    nonce: u64,
    next_counter: u64,
    count: Count,
    /// Whether this connection misses nothing unseen.
    is_sure: bool,
    seen: HashSet<Mark>,
    seen_in_order: VecDeque<Mark>,
}

impl KeptFeed {
    /// A feed of these names. The caller subscribes to the names.
    ///
    /// # Errors
    /// The first text that is neither a name nor a pattern, and why.
    pub fn new(
        syntax: NameSyntax,
        subscriptions: Vec<Subscription>,
    ) -> Result<Self, (String, NameError)> {
        let names = subscriptions.iter();
        // No name has this byte, never found in UTF-8.
        let hash = fnv_1a(names.flat_map(|name| name.name.bytes().chain([0xff])));
        let name = |subscription: Subscription| {
            let text = [subscription.name.to_string()];
            let patterns = NamePatterns::new(syntax, &text)?;
            Ok(Name {
                subscription,
                patterns,
                is_subscribed: false,
            })
        };
        Ok(Self {
            names: subscriptions
                .into_iter()
                .map(name)
                .collect::<Result<_, _>>()?,
            hash,
            nonce: RandomState::new().hash_one(0) >> 16,
            next_counter: 0,
            count: Count::Waits,
            is_sure: true,
            seen: HashSet::new(),
            seen_in_order: VecDeque::new(),
        })
    }

    /// Handles a new connection: no name is subscribed, no mark counts. `is_sure`: while this connection lasts, the
    /// server cannot lose a message without a sign. Returns true if that was sure on the connection before, and no
    /// longer is.
    pub fn connected(&mut self, is_sure: bool) -> bool {
        self.count = Count::Waits;
        for name in &mut self.names {
            name.is_subscribed = false;
        }
        std::mem::replace(&mut self.is_sure, is_sure) && !is_sure
    }

    /// Notes the answer of the bus for a name; any other name is ignored. Returns whether the feed has ended: the
    /// bus has taken away a name that was subscribed, and messages are missing from here on. The next call of
    /// [`begin`](Self::begin) begins a new feed.
    pub fn settle(&mut self, subscription: &Subscription, is_subscribed: bool) -> bool {
        let mut names = self.names.iter_mut();
        let Some(name) = names.find(|name| name.subscription == *subscription) else {
            return false;
        };
        let is_taken_away =
            std::mem::replace(&mut name.is_subscribed, is_subscribed) && !is_subscribed;
        let ends = is_taken_away && !matches!(self.count, Count::Waits);
        if ends {
            self.count = Count::Waits;
        }
        ends
    }

    /// Whether all names are subscribed and the feed has not begun yet.
    pub fn may_begin(&self) -> bool {
        matches!(self.count, Count::Waits) && self.names.iter().all(|name| name.is_subscribed)
    }

    /// Begins to count from a mark of this connection alone, or reports that nothing is counted.
    pub fn begin(&mut self) -> BusEvent {
        if !self.is_sure {
            self.count = Count::Off;
            return BusEvent::NoPositions;
        }
        let mark = self.next_mark();
        self.count_from(mark)
    }

    /// An unused mark.
    pub fn next_mark(&mut self) -> Mark {
        let counter = self.next_counter;
        self.next_counter += 1;
        Mark {
            nonce: self.nonce,
            counter,
        }
    }

    /// Counts from a mark among the messages. `None` if nothing is counted yet, or if the
    /// message is not a mark, or has come before.
    pub fn marked(&mut self, payload: &[u8]) -> Option<BusEvent> {
        let Count::Since(..) = self.count else {
            return None;
        };
        let mark = Mark::parse(str::from_utf8(payload).ok()?)?;
        if !self.seen.insert(mark) {
            return None;
        }
        self.seen_in_order.push_back(mark);
        if self.seen_in_order.len() > MARKS_MAX
            && let Some(oldest) = self.seen_in_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        Some(self.count_from(mark))
    }

    fn count_from(&mut self, mark: Mark) -> BusEvent {
        let count = match std::mem::replace(&mut self.count, Count::Since(mark, 0)) {
            Count::Since(_, count) => count,
            Count::Waits | Count::Off => 0,
        };
        BusEvent::Mark {
            names: self.hash,
            mark,
            count,
        }
    }

    /// Counts a message that came by a subscription, and returns its place. `None` for another copy of a message:
    /// it counts once, by the earliest subscribed name of the list that matches. A name that the bus refuses brings
    /// no message.
    pub fn place(&mut self, by: &str, is_pattern: bool, subject: &str) -> Option<Place> {
        let is_by = |name: &Name| {
            name.subscription.is_pattern == is_pattern && &*name.subscription.name == by
        };
        let Some(at) = self.names.iter().position(is_by) else {
            return Some(Place::Outside);
        };
        let own = (!self.names[at].is_subscribed, at);
        let mut names = self.names.iter().enumerate();
        let is_copy = names
            .any(|(at, name)| (!name.is_subscribed, at) < own && name.patterns.matches(subject));
        (!is_copy).then(|| self.next_place())
    }

    /// The place of a message with only the subscription known. `None` if an earlier name of the
    /// list may match too: nobody knows whether this copy counts.
    pub(super) fn place_of_unknown(&mut self, by: &Subscription) -> Option<Place> {
        let Some(at) = self.names.iter().position(|name| name.subscription == *by) else {
            return Some(Place::Outside);
        };
        let may_be_copy = self.names[..at].iter().any(|name| name.is_subscribed);
        (!may_be_copy).then(|| self.next_place())
    }

    fn next_place(&mut self) -> Place {
        let Count::Since(mark, count) = &mut self.count else {
            return Place::Kept(None);
        };
        *count += 1;
        Place::Kept(Some(Position::counted(self.hash, *mark, *count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::Point;

    fn feed(names: &[&str]) -> KeptFeed {
        let subscription = |name: &&str| match NameSyntax::Redis.is_pattern(name) {
            true => Subscription::pattern(*name),
            false => Subscription::channel(*name),
        };
        let names: Vec<_> = names.iter().map(subscription).collect();
        let mut feed = KeptFeed::new(NameSyntax::Redis, names.clone()).expect("names");
        for name in &names {
            let _ = feed.settle(name, true);
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
        feed.connected(true);
        feed.settle(&Subscription::pattern("a:*"), true);
        feed.settle(&Subscription::pattern("x:*"), true);
        assert!(!feed.may_begin());
        assert_eq!(count(feed.place("a:*", true, "a:1")), None);
        assert!(feed.marked(b"7f3a09c2b11e.1").is_none(), "no mark counts");
        feed.settle(&Subscription::channel("b"), true);
        assert!(feed.may_begin());
        feed.begin();
        assert_eq!(count(feed.place("b", false, "b")), Some(1));
        feed.connected(true);
        assert_eq!(count(feed.place("b", false, "b")), None, "a new connection");
    }

    #[test]
    fn a_refused_name_shadows_no_other_and_a_name_on_its_way_brings_no_copy() {
        let mut feed = feed(&["a:*", "a:1", "b"]);
        feed.connected(true);
        let [pattern, exact] = [Subscription::pattern("a:*"), Subscription::channel("a:1")];
        assert!(
            feed.place("a:*", true, "a:1").is_some() && feed.place("a:1", false, "a:1").is_none()
        );
        feed.settle(&exact, true);
        feed.settle(&pattern, false);
        assert!(
            feed.place("a:1", false, "a:1").is_some(),
            "the pattern is refused"
        );
        assert!(feed.place_of_unknown(&exact).is_some());
        assert!(
            feed.place("a:*", true, "a:1").is_none(),
            "it is asked for again"
        );
        assert!(feed.place("a:*", true, "a:2").is_some());
        feed.settle(&pattern, true);
        assert!(
            feed.place("a:1", false, "a:1").is_none() && feed.place_of_unknown(&exact).is_none()
        );
    }

    #[test]
    fn a_name_that_is_taken_away_ends_the_feed_until_all_stand_again() {
        let mut feed = feed(&["a", "b"]);
        let [a, b] = ["a", "b"].map(Subscription::channel);
        assert!(
            !feed.settle(&a, false),
            "nothing was promised before the mark"
        );
        feed.settle(&a, true);
        let BusEvent::Mark { mark: first, .. } = feed.begin() else {
            panic!("a mark");
        };
        assert!(
            !feed.settle(&Subscription::channel("x"), false),
            "another name"
        );
        assert!(
            feed.settle(&a, false) && !feed.settle(&a, false),
            "told once"
        );
        assert_eq!(count(feed.place("b", false, "b")), None);
        assert!(!feed.settle(&b, false) && !feed.may_begin());
        feed.settle(&b, true);
        feed.settle(&a, true);
        assert!(feed.may_begin());
        let BusEvent::Mark { mark, count: 0, .. } = feed.begin() else {
            panic!("a mark with a count of its own");
        };
        assert_ne!(mark, first);
    }

    #[test]
    fn where_messages_may_be_missed_unseen_nothing_has_a_position() {
        let mut feed = feed(&["a"]);
        let a = Subscription::channel("a");
        assert!(feed.connected(false) && !feed.connected(false), "told once");
        feed.settle(&a, true);
        assert!(feed.may_begin());
        assert!(matches!(feed.begin(), BusEvent::NoPositions));
        assert!(!feed.may_begin());
        assert!(feed.marked(b"7f3a09c2b11e.1").is_none());
        assert_eq!(count(feed.place("a", false, "a")), None);
        assert!(feed.settle(&a, false), "a loss all the same");
        assert!(!feed.connected(true));
        feed.settle(&a, true);
        assert!(matches!(feed.begin(), BusEvent::Mark { .. }));
    }

    #[test]
    fn a_message_counts_once_whatever_names_match() {
        let mut feed = feed(&["a:*", "a:1", "*:1"]);
        feed.begin();
        assert_eq!(feed.place("a:1", false, "a:1"), None);
        assert_eq!(count(feed.place("a:*", true, "a:1")), Some(1));
        assert_eq!(feed.place("*:1", true, "a:1"), None);
        assert_eq!(count(feed.place("*:1", true, "b:1")), Some(2));
        assert_eq!(feed.place("a:2", false, "a:2"), Some(Place::Outside));
        let by_pattern = feed.place("a:1", true, "a:1");
        assert_eq!(by_pattern, Some(Place::Outside), "a pattern of this text");
        assert_eq!(count(feed.place("a:*", true, "a:3")), Some(3));
    }

    #[test]
    fn a_mark_ends_the_count_of_the_mark_before_and_counts_once() {
        let mut feed = feed(&["a"]);
        let BusEvent::Mark { count, .. } = feed.begin() else {
            panic!("a mark");
        };
        assert_eq!(count, 0);
        for _ in 0..3 {
            feed.place("a", false, "a");
        }
        let mut marked = |payload: &[u8]| match feed.marked(payload) {
            Some(BusEvent::Mark { count, mark, .. }) => Some((count, mark.to_string())),
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
        feed.place("a", false, "a");
        let own = feed.next_mark().to_string();
        let Some(BusEvent::Mark { count, .. }) = feed.marked(own.as_bytes()) else {
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
        assert_eq!(
            (feed.seen.len(), feed.seen_in_order.len()),
            (MARKS_MAX, MARKS_MAX)
        );
    }

    #[test]
    fn another_list_has_another_hash() {
        let lists: [&[&str]; 5] = [&["a", "b"], &["b", "a"], &["ab"], &["a"], &["a:*"]];
        let hashes: HashSet<u32> = lists.iter().map(|list| feed(list).hash).collect();
        assert_eq!(hashes.len(), lists.len());
        assert_eq!(
            feed(&["channel:trade:*"]).hash,
            0xf7b0_bd51,
            "on every version"
        );
    }
}
