//! The kept feed of a source: the messages with a position, and the mark from which the messages are
//! counted. Pure.
//!
//! A bus hands the same messages in the same order to each of its connections, so two connections with
//! the same mark count the same messages behind the mark. Three rules make the counts equal: a message
//! counts before anybody looks into it, because two versions of weirgate may judge differently; a
//! message that several kept names match counts once; and no mark counts before all kept names are
//! subscribed.

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
    stands: bool,
}

/// The names read from the start, and the count of their messages on this connection.
#[derive(Debug)]
pub struct KeptFeed {
    names: Vec<Name>,
    /// Tells positions of another list apart.
    hash: u32,
    nonce: u64,
    next_counter: u64,
    mark: Option<Mark>,
    /// Messages since the mark.
    count: u64,
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
                stands: false,
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
            mark: None,
            count: 0,
            seen: HashSet::new(),
            seen_in_order: VecDeque::new(),
        })
    }

    /// Handles a new connection: no name is subscribed, no mark counts.
    pub fn connected(&mut self) {
        self.mark = None;
        for name in &mut self.names {
            name.stands = false;
        }
    }

    /// Notes the answer of the bus for a name; any other name is ignored.
    pub fn settle(&mut self, subscription: &Subscription, stands: bool) {
        let names = self.names.iter_mut();
        for name in names.filter(|name| name.subscription == *subscription) {
            name.stands = stands;
        }
    }

    /// Whether all names are subscribed and no mark counts yet.
    pub fn may_begin(&self) -> bool {
        self.mark.is_none() && self.names.iter().all(|name| name.stands)
    }

    /// Begins to count from a mark of this connection alone.
    pub fn begin(&mut self) -> BusEvent {
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
    /// message is no mark, or has come before.
    pub fn marked(&mut self, payload: &[u8]) -> Option<BusEvent> {
        self.mark?;
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
        let count = match self.mark.replace(mark) {
            Some(_) => self.count,
            None => 0,
        };
        self.count = 0;
        BusEvent::Mark {
            names: self.hash,
            mark,
            count,
        }
    }

    /// The place of a message by a subscription; counts the message. `None`: another copy of a
    /// message by an earlier name of the list.
    pub fn place(&mut self, by: &str, is_pattern: bool, subject: &str) -> Option<Place> {
        let is_by = |name: &Name| {
            name.subscription.is_pattern == is_pattern && &*name.subscription.name == by
        };
        let Some(at) = self.names.iter().position(is_by) else {
            return Some(Place::Outside);
        };
        let mut earlier = self.names[..at].iter();
        let is_copy = earlier.any(|name| name.patterns.matches(subject));
        (!is_copy).then(|| self.next_place())
    }

    /// The place of a message with only the subscription known. `None` if an earlier name of the
    /// list may match too: nobody knows whether this copy counts.
    pub(super) fn place_of_unknown(&mut self, by: &Subscription) -> Option<Place> {
        match self.names.iter().position(|name| name.subscription == *by) {
            Some(0) => Some(self.next_place()),
            Some(_) => None,
            None => Some(Place::Outside),
        }
    }

    fn next_place(&mut self) -> Place {
        Place::Kept(self.mark.map(|mark| {
            self.count += 1;
            Position::counted(self.hash, mark, self.count)
        }))
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
        names.iter().for_each(|name| feed.settle(name, true));
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
        feed.connected();
        feed.settle(&Subscription::pattern("a:*"), true);
        feed.settle(&Subscription::pattern("x:*"), true);
        assert!(!feed.may_begin());
        assert_eq!(count(feed.place("a:*", true, "a:1")), None);
        assert!(feed.marked(b"7f3a09c2b11e.1").is_none(), "no mark counts");
        feed.settle(&Subscription::channel("b"), true);
        assert!(feed.may_begin());
        feed.begin();
        assert_eq!(count(feed.place("b", false, "b")), Some(1));
        feed.connected();
        assert_eq!(count(feed.place("b", false, "b")), None, "a new connection");
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
