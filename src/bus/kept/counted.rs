//! The kept feed of a bus whose messages have no ids: counted from a mark on a connection. Pure.
//!
//! A bus delivers the same messages in the same order to each of its connections, so two connections that receive the
//! same mark count the same messages after it. Three rules make the counts equal: a message counts before anybody looks
//! into it, because two versions of weirgate may judge differently; a message that several kept names match counts
//! once; and no mark counts before all kept names are subscribed. Where the server can lose messages without a sign,
//! nothing is counted at all, because no client could be sure that it missed nothing.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use weirgate_core::{BusEvent, FeedNotice, Mark, Place, Position, Subscription};
use weirgate_wire::auth::{NameError, NamePatterns, NameSyntax};

/// The most marks that are remembered, the newest. An instance publishes each mark once, so a mark that comes again is
/// from another program and is ignored.
const MARKS_MAX: usize = 4_096;

/// A name of the feed.
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

/// The kept feed on a bus without a stream: its names, and the count of their messages on this connection.
#[derive(Debug)]
pub struct CountedFeed {
    names: Vec<Name>,
    /// A hash of the names: positions in a feed with other names are not valid here.
    feed_hash: u32,
    /// A random number of this process. With a counter it makes a mark that nobody else publishes.
    nonce: u64,
    next_counter: u64,
    count: Count,
    /// Whether a loss on this connection is noticed. If not, messages have no position.
    notices_losses: bool,
    /// The last marks, the oldest first. An instance publishes one a second.
    seen: VecDeque<Mark>,
    /// The last message, if its subject is too long to be kept.
    long: Option<LongSubject>,
}

/// A message whose subject is too long to be kept.
#[derive(Debug, Default)]
struct LongSubject {
    subject_hash: u64,
    /// The indexes of the names that have brought a copy.
    names: Vec<usize>,
}

impl CountedFeed {
    /// A feed of these names. The caller subscribes to the names.
    ///
    /// # Errors
    /// The first text that is neither a name nor a pattern, and why.
    pub fn new(
        syntax: NameSyntax,
        subscriptions: Vec<Subscription>,
    ) -> Result<Self, (String, NameError)> {
        let names = subscriptions.iter();
        // The byte after each name is never found in UTF-8, so no two lists have the same bytes.
        let feed_hash = Position::feed_hash(names.flat_map(|name| name.name.bytes().chain([0xff])));
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
            feed_hash,
            // 48 bits, as in the text of a mark. They come from the random keys of `RandomState`; the 0 does not
            // matter.
            nonce: RandomState::new().hash_one(0) >> 16,
            next_counter: 0,
            count: Count::Waits,
            notices_losses: true,
            seen: VecDeque::new(),
            long: None,
        })
    }

    /// Handles a new connection: no name is subscribed, no mark counts. `notices_losses`: whether the server gives a sign,
    /// such as the end of the connection, if it loses messages. Returns true if losses were noticed on the connection
    /// before, and may be silent on this one.
    pub fn connected(&mut self, notices_losses: bool) -> bool {
        (self.count, self.long) = (Count::Waits, None);
        for name in &mut self.names {
            name.is_subscribed = false;
        }
        std::mem::replace(&mut self.notices_losses, notices_losses) && !notices_losses
    }

    /// Records that a name is subscribed, if it is one of the feed.
    pub fn subscribed(&mut self, subscription: &Subscription) {
        if let Some(name) = self.name_mut(subscription) {
            name.is_subscribed = true;
        }
    }

    /// Records that the bus has ended the subscription of a name, if it is one of the feed. Returns true if this ends the
    /// feed, because messages are missing from here on. The next call of [`begin`](Self::begin) begins a new feed.
    pub fn unsubscribed(&mut self, subscription: &Subscription) -> bool {
        let Some(name) = self.name_mut(subscription) else {
            return false;
        };
        let was_subscribed = std::mem::take(&mut name.is_subscribed);
        let ends = was_subscribed && !matches!(self.count, Count::Waits);
        if ends {
            self.count = Count::Waits;
        }
        ends
    }

    fn name_mut(&mut self, subscription: &Subscription) -> Option<&mut Name> {
        let mut names = self.names.iter_mut();
        names.find(|name| name.subscription == *subscription)
    }

    /// Whether all names are subscribed and the feed has not begun yet.
    pub fn may_begin(&self) -> bool {
        matches!(self.count, Count::Waits) && self.names.iter().all(|name| name.is_subscribed)
    }

    /// Begins to count, from a mark that is valid on this connection only. If the server can lose messages without a
    /// sign, returns the notice that messages have no positions.
    pub fn begin(&mut self) -> BusEvent {
        if !self.notices_losses {
            self.count = Count::Off;
            return BusEvent::Feed(FeedNotice::NoPositions);
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

    /// Counts anew from here if the message is a new mark. Returns `None` if nothing is counted yet, the message is not
    /// a mark, or the mark has come before.
    pub fn marked(&mut self, payload: &[u8]) -> Option<BusEvent> {
        let Count::Since(..) = self.count else {
            return None;
        };
        let mark = Mark::parse(str::from_utf8(payload).ok()?)?;
        if self.seen.contains(&mark) {
            return None;
        }
        if self.seen.len() == MARKS_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(mark);
        Some(self.count_from(mark))
    }

    /// Begins to count at `mark`. The event has the number of messages since the mark before; 0 if none were counted.
    fn count_from(&mut self, mark: Mark) -> BusEvent {
        let count = match std::mem::replace(&mut self.count, Count::Since(mark, 0)) {
            Count::Since(_, count) => count,
            Count::Waits | Count::Off => 0,
        };
        BusEvent::Feed(FeedNotice::Mark {
            feed_hash: self.feed_hash,
            mark,
            count,
        })
    }

    fn index_of(&self, subscription: &Subscription) -> Option<usize> {
        let mut names = self.names.iter();
        names.position(|name| name.subscription == *subscription)
    }

    /// Counts a message that arrived for a subscription, and returns its place; [`Place::Outside`], uncounted, if the
    /// subscription is not of the feed. Returns `None` for a further copy: of all names that match, the copy for the first
    /// subscribed one counts. A refused name is passed over, because it brings no copy.
    pub fn place(
        &mut self,
        subscription: &Subscription,
        subject: impl AsRef<[u8]>,
    ) -> Option<Place> {
        let Some(own) = self.index_of(subscription) else {
            return Some(Place::Outside);
        };
        // Names that are not subscribed rank behind all that are.
        let rank = |index: usize, name: &Name| (!name.is_subscribed, index);
        let own_rank = rank(own, &self.names[own]);
        self.long = None;
        let subject = subject.as_ref();
        let mut names = self.names.iter().enumerate();
        let is_copy = names.any(|(index, name)| {
            rank(index, name) < own_rank && name.patterns.matches_bytes(subject)
        });
        (!is_copy).then(|| self.next_place())
    }

    /// As [`place`](Self::place), for a message whose subject is too long to be kept, and so to be matched; `subject_hash`:
    /// a hash of it. A bus delivers the copies of a message one after another, one for each name that matches. So the first
    /// copy counts, and the next message begins when the subject changes, or a name brings it again.
    pub(crate) fn place_of_long(
        &mut self,
        subscription: &Subscription,
        subject_hash: u64,
    ) -> Option<Place> {
        let Some(own) = self.index_of(subscription) else {
            return Some(Place::Outside);
        };
        let long = self.long.get_or_insert_default();
        let is_copy = long.subject_hash == subject_hash
            && !long.names.is_empty()
            && !long.names.contains(&own);
        if !is_copy {
            long.subject_hash = subject_hash;
            long.names.clear();
        }
        long.names.push(own);
        (!is_copy).then(|| self.next_place())
    }

    fn next_place(&mut self) -> Place {
        let Count::Since(mark, count) = &mut self.count else {
            // It is of the feed, but without a count there is no position.
            return Place::Kept(None);
        };
        *count += 1;
        Place::Kept(Some(Position::counted(self.feed_hash, *mark, *count)))
    }
}

#[cfg(test)]
mod tests;
