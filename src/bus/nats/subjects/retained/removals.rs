//! Whether messages of a name were removed from the stream before a question for all messages has read them. Pure.
//!
//! A number that does not come is of another name, or of a message that was removed: JetStream does not say which. Three
//! counts tell what was removed while the question reads:
//! - How many numbers have no message in the stream. If only as many more as its first number has moved on, the rest is
//!   whole.
//! - How many messages of the name are left for the next consumer. With those that were read, they have to be as many as for
//!   the consumer before, if the stream has no newer ones.
//! - Which numbers have no message. JetStream lists them, if asked. If the stream has newer messages, none of these numbers may
//!   be behind what was read: a message may have come and gone, whatever its name was.
//!
//! Behind the position that a client has, every such number may be one of a message of the name. Where newer messages replace
//! older ones, numbers go missing all the time, and only the second count tells.

use std::time::Instant;

use super::all_read::AfterCheck;
use crate::nats::consumer::UNSEEN_MAX;
use crate::nats::stream_info::StreamInfo;
use weirgate_core::StoredId;

/// The most numbers of a list that is asked for. With more, messages count as removed.
const LISTED_MAX: u64 = 1_000;

/// What was removed before it was read.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// The position of the client, until it is known whether numbers behind it are missing.
    position: Option<StoredId>,
    checked: Option<LastCheck>,
    /// The messages of the last consumer.
    expected: Option<Expected>,
    known: Known,
    /// Newer messages replace older ones.
    replaces: bool,
    /// How many messages were read.
    taken: u64,
    /// The list of missing numbers is needed.
    asks_list: bool,
}

/// What the stream counted at the last check, and when that was.
#[derive(Clone, Copy, Debug)]
struct LastCheck {
    counts: Counts,
    at: Instant,
}

/// Whether messages of the name were removed before they were read, as far as is known.
#[derive(Clone, Copy, Debug, Default)]
enum Known {
    /// None was.
    #[default]
    Whole,
    /// Some may have been: the next consumer tells.
    Doubted(Doubt),
    /// The next consumer has brought as many messages as the one before would have brought. But if the stream has newer
    /// messages, they may be among them; then no number behind this one may be missing.
    UnsureFrom(u64),
    /// Some were, or count as removed.
    Lost,
}

/// The messages of the name up to the end of the stream when a consumer was made.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// The newest message of the stream shortly before.
    head: u64,
    /// Those that were read, and those that waited.
    total: u64,
}

/// What has to come with the next consumer.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// At least so many messages of the name.
    total: u64,
    /// The last message that was read before any was removed.
    read: u64,
}

/// What a stream counts.
#[derive(Clone, Copy, Debug)]
struct Counts {
    first: u64,
    head: u64,
    gone: u64,
    /// Those of `gone` behind the first message.
    holes: u64,
}

impl Counts {
    fn of(stream: &StreamInfo) -> Self {
        let (first, gone) = (stream.first, stream.gone());
        Self {
            first,
            head: stream.head_number(),
            gone,
            holes: gone.saturating_sub(first.saturating_sub(1)),
        }
    }

    /// Whether messages may have gone since `before` that were not the first ones. The beginning of a stream with holes
    /// may have passed some, so its move tells nothing.
    fn has_lost_within(self, before: Self) -> bool {
        let gone = self.gone.checked_sub(before.gone);
        let moved = self.first.checked_sub(before.first);
        // Not if no more numbers are gone, or only those that the beginning of a stream without holes has passed.
        // `None`: the number has fallen.
        gone != Some(0) && (gone != moved || before.holes > 0)
    }
}

impl Removals {
    /// Of a question after this position.
    pub(super) fn new(position: Option<StoredId>) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }

    /// A consumer was made after a check, and so many messages wait for it.
    pub(super) fn expect(&mut self, waiting: u64) {
        self.expected = self.checked.map(|checked| Expected {
            head: checked.counts.head,
            total: self.taken + waiting,
        });
        if waiting == 0 {
            self.compare();
        }
    }

    /// Counts a message that is read.
    pub(super) fn take(&mut self) {
        self.compare();
        self.taken += 1;
    }

    /// A consumer has brought a message once more, with which it begins.
    pub(super) fn take_again(&mut self) {
        if let Some(expected) = &mut self.expected {
            expected.total = expected.total.saturating_sub(1);
        }
    }

    /// Handles a consumer that has brought fewer messages than waited for it: the next one tells whether some will not
    /// come. `read` as in [`Self::needs_list`].
    pub(super) fn doubt_rest(&mut self, read: Option<StoredId>) {
        if let (Known::Whole, Some(expected)) = (self.known, self.expected) {
            self.known = Known::Doubted(Doubt {
                total: expected.total,
                read: read.map_or(0, |read| read.major),
            });
        }
    }

    /// Compares a new consumer with the one before, once it is known whether it begins with messages that were read.
    pub(super) fn compare(&mut self) {
        if let (Known::Doubted(before), Some(expected)) = (self.known, self.expected) {
            self.known = match expected.total < before.total {
                true => Known::Lost,
                false => Known::UnsureFrom(before.read),
            };
        }
    }

    /// Whether messages may be missing, or are.
    pub(super) const fn is_in_doubt(&self) -> bool {
        !matches!(self.known, Known::Whole)
    }

    /// Whether a check has to follow the next consumer.
    pub(super) const fn needs_check(&self) -> bool {
        matches!(self.known, Known::UnsureFrom(_))
    }

    /// Whether only the next consumer tells whether messages are missing. Where newer messages replace older ones, the next
    /// page waits for that.
    pub(super) const fn needs_consumer(&self) -> bool {
        matches!(self.known, Known::Doubted(_)) && !self.replaces
    }

    /// Whether messages are missing.
    pub(super) const fn has_lost(&self) -> bool {
        matches!(self.known, Known::Lost)
    }

    /// Whether the stream is to list the missing numbers.
    pub(super) const fn asks_list(&self) -> bool {
        self.asks_list
    }

    /// Whether the state of the stream says too little: it is asked for again, with the list of missing numbers. `read`: the
    /// last message that was read before the last check.
    pub(super) fn needs_list(
        &mut self,
        stream: &StreamInfo,
        read: Option<StoredId>,
        now: Instant,
    ) -> bool {
        let is_asked = self.whole_from(stream, read, now).is_some();
        let can_list = Counts::of(stream).holes <= LISTED_MAX;
        self.asks_list = is_asked && can_list && stream.missing.is_none();
        self.asks_list
    }

    /// The number behind which no number may be missing, or messages count as removed. `None`: missing numbers tell
    /// nothing.
    fn whole_from(&self, stream: &StreamInfo, read: Option<StoredId>, now: Instant) -> Option<u64> {
        if Counts::of(stream).holes == 0 || stream.overwrites || stream.keeps_within {
            return None;
        }
        let is_soon = |at: Instant| now.saturating_duration_since(at) <= UNSEEN_MAX;
        let sees_all = stream.leaves_out && self.checked.is_some_and(|checked| is_soon(checked.at));
        let has_newer = |expected: Expected| stream.head_number() > expected.head;
        let has_newer = !sees_all && self.expected.is_some_and(has_newer);
        // Messages of the name may have gone, and newer ones may hide that in the count of the next consumer.
        let is_open = has_newer && self.has_lost_within(stream);
        let read = is_open.then(|| read.map_or(0, |read| read.major));
        let unsure = match self.known {
            Known::UnsureFrom(from) if has_newer => Some(from),
            _ => None,
        };
        let position = self.position.map(|position| position.major);
        let from = [position, unsure, read].into_iter().flatten().min()?;
        (stream.head_number() > from).then_some(from)
    }

    /// Whether messages within the stream may have gone since the last check.
    fn has_lost_within(&self, stream: &StreamInfo) -> bool {
        let counts = Counts::of(stream);
        let has_lost = |before: LastCheck| counts.has_lost_within(before.counts);
        !stream.keeps_within && self.checked.is_some_and(has_lost)
    }

    /// Takes the state of the stream. At the end, all that waited for the consumer has come. `read` as in
    /// [`Self::needs_list`].
    pub(super) fn check(
        &mut self,
        stream: &StreamInfo,
        read: Option<StoredId>,
        after_check: AfterCheck,
        now: Instant,
    ) {
        let from = self.whole_from(stream, read, now);
        let is_behind = |from: u64| {
            let missing = stream.missing.as_ref();
            missing.is_none_or(|missing| missing.iter().any(|number| *number > from))
        };
        let is_doubtful =
            from.is_none() && after_check != AfterCheck::End && self.has_lost_within(stream);
        let doubt = self.expected.filter(|_| is_doubtful).map(|expected| Doubt {
            total: expected.total,
            read: read.map_or(0, |read| read.major),
        });
        self.replaces = stream.overwrites;
        self.known = match (self.known, doubt) {
            (Known::Lost, _) => Known::Lost,
            _ if from.is_some_and(is_behind) => Known::Lost,
            // Messages are removed all the time, so no further consumer would tell.
            (Known::UnsureFrom(_), Some(_)) if !self.replaces => Known::Lost,
            (Known::Doubted(doubt), _) | (_, Some(doubt)) => Known::Doubted(doubt),
            (Known::Whole | Known::UnsureFrom(_), None) => Known::Whole,
        };
        let counts = Counts::of(stream);
        self.checked = Some(LastCheck { counts, at: now });
        (self.position, self.asks_list) = (None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(major: u64) -> StoredId {
        StoredId {
            major,
            minor: major,
        }
    }

    /// A mirror with all numbers from 1 on but `missing`.
    fn mirror(denies: bool, head: u64, missing: &[u64]) -> StreamInfo {
        let messages = head - missing.len() as u64;
        let answer = format!(
            r#"{{"config":{{"mirror":{{}},"deny_delete":{denies},"deny_purge":{denies}}},"state":{{"first_seq":1,"last_seq":{head},"messages":{messages},"deleted":{missing:?}}}}}"#
        );
        StreamInfo::read(answer.as_bytes()).expect("good")
    }

    /// The gaps of a mirror look like removed messages, unless nobody may remove any.
    #[test]
    fn a_gap_of_a_mirror_is_a_doubt_behind_a_position_and_after_a_time_in_which_nobody_looked() {
        let start = Instant::now();
        for denies in [false, true] {
            for (missing, position, is_doubt) in
                [(3, Some(2), true), (3, Some(4), false), (3, None, false)]
            {
                let mut removals = Removals::new(position.map(id));
                removals.check(
                    &mirror(denies, 9, &[missing]),
                    position.map(id),
                    AfterCheck::Read,
                    start,
                );
                assert_eq!(removals.has_lost(), is_doubt && !denies, "{position:?}");
            }
            for (after, is_doubt) in [(UNSEEN_MAX, false), (2 * UNSEEN_MAX, true)] {
                let mut removals = Removals::default();
                removals.check(&mirror(denies, 9, &[3]), None, AfterCheck::Read, start);
                removals.expect(8);
                (0..8).for_each(|_| removals.take());
                // Messages have come, and others that the mirror leaves out.
                let now = start + after;
                removals.check(
                    &mirror(denies, 12, &[3, 10]),
                    Some(id(9)),
                    AfterCheck::Read,
                    now,
                );
                assert_eq!(removals.has_lost(), is_doubt && !denies, "{after:?}");
            }
        }
    }
}
