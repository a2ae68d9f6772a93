//! Topics of which only the newest message is kept, because the list of messages had to become shorter. They have a part of
//! the memory of the history, in which their names count too; a message over that is forgotten.
//!
//! Of this part, addresses have shares for the messages that were read from the stream for their clients, by the rule
//! of granting ([`Quota`](weirgate_wire::admission::Quota)): an address gets more while it holds less than what is
//! free. What the feed has brought counts as held by nobody. A message counts for its address until it is forgotten or
//! a newer one has come, also after the client has left: clients of other addresses may have found it here since. But if
//! there is no room, those of addresses without clients go first.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use foldhash::quality::RandomState;

use super::forgetting::ENTRY_BYTES;
use super::message::KeptMessage;
use super::topics::{self, TopicIndex};
use crate::{Body, Point, StoredId, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::base::ExtendibleMap;

/// The messages have one `SHARE`th of the bytes of the history.
const SHARE: usize = 4;

/// The most messages that one search for those of an address without clients looks at.
const LOOKS_MAX: usize = 256;

/// Sorts messages as the feed does: by number. A message without a number was read from its stream later than messages after
/// it: it is sorted by its position there.
pub(super) type KeptOrder = (u64, StoredId);

fn order_of(entry: &KeptMessage) -> KeptOrder {
    match entry.position.point {
        Point::Stored { id, .. } if entry.number == 0 => (0, id),
        _ => (entry.number, StoredId::default()),
    }
}

/// The newest message of a topic.
#[derive(Debug)]
struct NewestMessage {
    topic: TopicIndex,
    entry: KeptMessage,
    /// The memory that counts for it and for its topic.
    bytes: usize,
}

/// The newest message of each of these topics.
#[derive(Debug)]
pub(super) struct NewestOnly {
    /// In the order of the feed.
    entries: BTreeMap<KeptOrder, NewestMessage>,
    by_topic: ExtendibleMap<TopicIndex, KeptOrder>,
    /// The messages without a number, in the order in which they came, each with the address for which it was read.
    /// Those with a number have come in the order of the feed, as in `entries`.
    read: BTreeMap<(u64, KeptOrder), ClientAddr>,
    /// The last of these that a search for an address without clients has looked at.
    looked: (u64, KeptOrder),
    /// The bytes of these messages, by address.
    read_for: HashMap<ClientAddr, usize, RandomState>,
    /// The places of the messages with kept copies, and with lent ones. Copies are dropped when live messages need memory;
    /// without these sets, each of very many messages would have to be looked at.
    with_kept_copies: BTreeSet<KeptOrder>,
    with_lent_copies: BTreeSet<KeptOrder>,
    /// The bytes of all messages. What clients make of a message may take them over the limit, until others are forgotten.
    bytes: usize,
    bytes_max: usize,
}

impl NewestOnly {
    /// No message; `bytes_max` is the limit of the history.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_topic: ExtendibleMap::default(),
            read: BTreeMap::new(),
            looked: Default::default(),
            read_for: HashMap::default(),
            with_kept_copies: BTreeSet::new(),
            with_lent_copies: BTreeSet::new(),
            bytes: 0,
            bytes_max: bytes_max / SHARE,
        }
    }

    /// Whether a message of the feed has room.
    pub(super) fn has_room(&self, name: &TopicName, entry: &KeptMessage) -> bool {
        bytes_of(name, entry) <= self.free()
    }

    /// Whether a message has room that was read from the stream for an address.
    pub(super) fn has_room_for(
        &self,
        client: ClientAddr,
        name: &TopicName,
        entry: &KeptMessage,
    ) -> bool {
        let held = self.read_for.get(&client.group());
        self.has_room(name, entry) && held.is_none_or(|held| *held < self.free())
    }

    fn free(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }

    /// The topic of the message that has been kept for longest, if all together are over their limit.
    pub(super) fn over(&self) -> Option<TopicIndex> {
        let (_, place) = self.longest().filter(|_| self.bytes > self.bytes_max)?;
        self.entries.get(&place).map(|newest| newest.topic)
    }

    /// Adds the newest message of a topic that was read from the stream for an address.
    pub(super) fn add_read(
        &mut self,
        client: ClientAddr,
        topic: TopicIndex,
        name: &TopicName,
        entry: KeptMessage,
    ) {
        let client = client.group();
        self.read.insert((entry.kept_us, order_of(&entry)), client);
        *self.read_for.entry(client).or_default() += self.add(topic, name, entry);
    }

    /// Adds the newest message of a topic, without copies. Returns the memory that counts for it.
    pub(super) fn add(&mut self, topic: TopicIndex, name: &TopicName, entry: KeptMessage) -> usize {
        let bytes = bytes_of(name, &entry);
        self.bytes += bytes;
        let place = order_of(&entry);
        self.by_topic.insert(topic, place);
        debug_assert!(
            entry.copies.is_empty(),
            "its place is not among those with copies"
        );
        let newest = NewestMessage {
            topic,
            entry,
            bytes,
        };
        self.entries.insert(place, newest);
        bytes
    }

    /// Removes the message of a topic.
    pub(super) fn remove(&mut self, topic: TopicIndex) -> Option<KeptMessage> {
        let place = self.by_topic.remove(&topic)?;
        let NewestMessage { entry, bytes, .. } = self.entries.remove(&place)?;
        self.with_kept_copies.remove(&place);
        self.with_lent_copies.remove(&place);
        self.bytes -= bytes;
        if entry.number == 0
            && let Some(client) = self.read.remove(&(entry.kept_us, place))
        {
            self.give_back(client, bytes);
        }
        Some(entry)
    }

    /// The topic of a message that was read for an address without clients. Looks at some messages; the next search goes on
    /// after these.
    pub(super) fn read_for_gone(
        &mut self,
        has_clients: impl Fn(ClientAddr) -> bool,
    ) -> Option<TopicIndex> {
        let after = (Bound::Excluded(self.looked), Bound::Unbounded);
        let round = self
            .read
            .range(after)
            .chain(self.read.range(..=self.looked));
        let mut looked = self.looked;
        let gone = round.take(LOOKS_MAX).find(|(at, client)| {
            looked = **at;
            !has_clients(**client)
        });
        let gone = gone.map(|((_, place), _)| *place);
        self.looked = looked;
        self.entries.get(&gone?).map(|newest| newest.topic)
    }

    /// Subtracts the bytes of a message that was read for this address and is removed.
    fn give_back(&mut self, client: ClientAddr, bytes: usize) {
        if let Entry::Occupied(mut held) = self.read_for.entry(client) {
            *held.get_mut() -= bytes;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }

    /// Does something with the message of a topic that may add copies, and make a text of the message. Returns `None`
    /// if no message of the topic is here.
    pub(super) fn with<R>(
        &mut self,
        topic: TopicIndex,
        name: &TopicName,
        add: impl FnOnce(&mut KeptMessage) -> R,
    ) -> Option<R> {
        let place = *self.by_topic.get(&topic)?;
        let newest = self.entries.get_mut(&place)?;
        let result = add(&mut newest.entry);
        if newest.entry.copies.has_kept() {
            self.with_kept_copies.insert(place);
        }
        let bytes = bytes_of(name, &newest.entry);
        let before = std::mem::replace(&mut newest.bytes, bytes);
        self.bytes = self.bytes + bytes - before;
        let client = self.read.get(&(newest.entry.kept_us, place));
        if let Some(held) = client.and_then(|client| self.read_for.get_mut(client)) {
            *held = *held + bytes - before;
        }
        Some(result)
    }

    /// The message of a topic.
    pub(super) fn get(&self, topic: TopicIndex) -> Option<&KeptMessage> {
        let place = self.by_topic.get(&topic)?;
        self.entries.get(place).map(|newest| &newest.entry)
    }

    /// The topic of the message of this number.
    pub(super) fn topic_of(&self, number: u64) -> Option<TopicIndex> {
        let entry = self.entries.get(&(number, StoredId::default()));
        entry.map(|newest| newest.topic)
    }

    /// The messages up to a place with their places and topics, the newest first.
    pub(super) fn newest_up_to(
        &self,
        place: KeptOrder,
    ) -> impl Iterator<Item = (KeptOrder, TopicIndex, &KeptMessage)> {
        let entries = self.entries.range(..=place).rev();
        entries.map(|(place, newest)| (*place, newest.topic, &newest.entry))
    }

    /// As [`newest_up_to`](Self::newest_up_to), of these topics.
    pub(super) fn newest_of(
        &self,
        topics: Vec<TopicIndex>,
        place: KeptOrder,
    ) -> impl Iterator<Item = (KeptOrder, TopicIndex, &KeptMessage)> {
        let places = topics.into_iter();
        let places = places.filter_map(|topic| Some((*self.by_topic.get(&topic)?, topic)));
        let mut places: Vec<_> = places.filter(|(at, _)| *at <= place).collect();
        places.sort_unstable_by_key(|(at, _)| *at);
        let newest_first = places.into_iter().rev();
        newest_first.filter_map(|(at, topic)| Some((at, topic, &self.entries.get(&at)?.entry)))
    }

    /// The topic of a message that has been kept for longer than a time: the one kept for longest.
    pub(super) fn older_than(&self, until_us: u64) -> Option<TopicIndex> {
        let (kept_us, place) = self.longest()?;
        let newest = self.entries.get(&place).filter(|_| kept_us <= until_us)?;
        Some(newest.topic)
    }

    /// Since when the message that has been kept for longest is kept.
    pub(super) fn kept_us(&self) -> Option<u64> {
        self.longest().map(|(kept_us, _)| kept_us)
    }

    /// The message that has been kept for longest.
    fn longest(&self) -> Option<(u64, KeptOrder)> {
        // Numbers begin at 1. Messages without one (0) are in `read`, by the time since which they are kept.
        let numbered = self.entries.range((1, StoredId::default())..).next();
        let numbered = numbered.map(|(place, newest)| (newest.entry.kept_us, *place));
        let read = self.read.first_key_value().map(|(longest, _)| *longest);
        read.into_iter().chain(numbered).min()
    }

    /// The number of messages.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Memory of the further places of messages, with copies and without numbers, and of addresses. The nodes of a tree
    /// may be half empty.
    pub(super) fn places_bytes(&self) -> usize {
        let copied = self.with_kept_copies.len() + self.with_lent_copies.len();
        let copied = size_of::<KeptOrder>() * copied;
        let read = size_of::<((u64, KeptOrder), ClientAddr)>() * self.read.len();
        let addresses = size_of::<(ClientAddr, usize)>() * self.read_for.len();
        2 * (copied + read + addresses)
    }

    /// Lends the copies of the oldest message with kept copies. Returns false if there is none.
    pub(super) fn lend_copies(&mut self, beside: &mut usize) -> bool {
        let Some(place) = self.with_kept_copies.pop_first() else {
            return false;
        };
        let newest = self.entries.get_mut(&place);
        if newest.is_some_and(|newest| newest.entry.copies.lend(beside)) {
            self.with_lent_copies.insert(place);
        }
        true
    }

    /// Forgets the lent copies of the oldest message with such copies. Returns false if there is none.
    pub(super) fn forget_lent(&mut self, beside: &mut usize) -> bool {
        let Some(place) = self.with_lent_copies.pop_first() else {
            return false;
        };
        if let Some(newest) = self.entries.get_mut(&place) {
            newest.entry.copies.forget_lent(beside);
        }
        true
    }
}

/// Memory of the message, without copies, and of its topic, which is remembered as long as the message stays.
fn bytes_of(name: &TopicName, entry: &KeptMessage) -> usize {
    let body = entry.body.as_ref().map_or(0, Body::memory_bytes);
    ENTRY_BYTES + body + topics::bytes_of(name)
}
