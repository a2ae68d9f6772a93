//! A queue in which every client address has the same share, however many entries an address has.
//!
//! The addresses with entries take turns; the entries of an address are first in, first out. So an entry
//! waits for at most one entry of each other address, besides the earlier entries of its own address.

use std::hash::Hash;

use super::ClientAddr;
use crate::base::{ChunkedSlab, ExtendibleMap};

/// The most addresses that one call looks at, so that a call does not get longer with the number of addresses.
const LOOKS_MAX: usize = 1024;

/// An empty queue that never had more entries keeps its memory; a larger queue, as after a storm, frees its memory when it
/// is empty.
const ROOM_KEPT: usize = 1024;

#[derive(Debug)]
struct Node<T> {
    value: T,
    before: u32,
    after: u32,
}

/// Values in any number of rings. The index of the first value identifies a ring; `before` of the first value
/// is the index of the last value.
#[derive(Debug)]
struct Rings<T>(ChunkedSlab<Node<T>>);

impl<T> Rings<T> {
    /// Appends a value to a ring, or starts a new ring. Returns the index of the value.
    fn push(&mut self, first: Option<u32>, value: T) -> u32 {
        // Set below: a value alone in its ring is its own neighbour.
        let (before, after) = (0, 0);
        let at = self.0.insert(Node {
            value,
            before,
            after,
        });
        let after = first.unwrap_or(at);
        let before = first.map_or(at, |first| self.0[first].before);
        (self.0[at].before, self.0[at].after) = (before, after);
        self.0[before].after = at;
        self.0[after].before = at;
        at
    }

    /// Removes a value. Returns the value, and the index of the next value if the ring has others.
    fn remove(&mut self, at: u32) -> (T, Option<u32>) {
        let node = self.0.remove(at);
        if node.after == at {
            return (node.value, None);
        }
        self.0[node.before].after = node.after;
        self.0[node.after].before = node.before;
        (node.value, Some(node.after))
    }
}

/// The entries of one address.
#[derive(Debug)]
struct AddressLine {
    client: ClientAddr,
    /// The index of the first entry; an empty line is removed at once.
    head: Option<u32>,
}

/// First in, first out for each client address; the addresses take turns.
///
/// Addresses are grouped as for the limits by address. The queue holds an entry at most once. Push
/// and pop allocate only if the queue outgrows the memory that it has.
///
/// ```
/// use weirgate_wire::admission::FairQueue;
///
/// let mut queue = FairQueue::default();
/// let client = |ip: &str| ip.parse::<std::net::IpAddr>().unwrap().into();
/// let (many, one) = (client("192.0.2.1"), client("192.0.2.2"));
/// (1..=4).for_each(|entry| queue.push(many, entry));
/// queue.push(one, 5);
/// queue.remove(&2);
/// let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
/// assert_eq!(order, [1, 5, 3, 4]);
/// ```
#[derive(Debug)]
pub struct FairQueue<T> {
    /// Each entry with the index of its line.
    entries: Rings<(T, u32)>,
    /// The index of each entry.
    entry_at: ExtendibleMap<T, u32>,
    /// A single ring, in the order of the turns.
    lines: Rings<AddressLine>,
    /// The index of the line of each address.
    line_at_of: ExtendibleMap<ClientAddr, u32>,
    /// The line whose turn is next.
    turn: Option<u32>,
    /// Whether the queue has had more than [`ROOM_KEPT`] entries.
    was_large: bool,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            entries: Rings(ChunkedSlab::default()),
            entry_at: ExtendibleMap::default(),
            lines: Rings(ChunkedSlab::default()),
            line_at_of: ExtendibleMap::default(),
            turn: None,
            was_large: false,
        }
    }
}

impl<T: Copy + Eq + Hash> FairQueue<T> {
    /// Appends an entry to the line of its address. An entry that is in the queue already keeps its position.
    pub fn push(&mut self, client: ClientAddr, entry: T) {
        let Self {
            entries,
            lines,
            line_at_of,
            turn,
            ..
        } = self;
        self.entry_at.get_or_insert_with(entry, || {
            let client = client.group();
            let line = *line_at_of.get_or_insert_with(client, || {
                // Before the line whose turn is next, so its own turn comes last.
                lines.push(*turn, AddressLine { client, head: None })
            });
            turn.get_or_insert(line);
            let head = &mut lines.0[line].value.head;
            let at = entries.push(*head, (entry, line));
            head.get_or_insert(at);
            at
        });
        self.was_large |= self.len() > ROOM_KEPT;
    }

    /// Whether the entry is in the queue.
    pub fn contains(&self, entry: &T) -> bool {
        self.entry_at.contains_key(entry)
    }

    /// Removes and returns the first entry of the address whose turn is next.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_of(|_| true)
    }

    /// Like [`pop`](Self::pop), but skips the addresses that `may` refuses: they keep their entries, and their turn
    /// comes after all others. `None` also after 1,024 refused addresses; the next call continues with the address
    /// after these.
    pub fn pop_of(&mut self, mut may: impl FnMut(ClientAddr) -> bool) -> Option<T> {
        for _ in 0..LOOKS_MAX.min(self.lines.0.len()) {
            let line = &self.lines.0[self.turn?];
            self.turn = Some(line.after);
            if may(line.value.client) {
                let (entry, _) = self.entries.0[line.value.head?].value;
                self.remove(&entry);
                return Some(entry);
            }
        }
        None
    }

    /// Removes an entry at any position; the others keep their order. The cost does not depend on the number
    /// of entries. Returns whether the entry was in the queue.
    pub fn remove(&mut self, entry: &T) -> bool {
        let Some(at) = self.entry_at.remove(entry) else {
            return false;
        };
        let ((_, line_at), next_entry) = self.entries.remove(at);
        let line = &mut self.lines.0[line_at].value;
        if next_entry.is_none() {
            let (line, next_line) = self.lines.remove(line_at);
            self.line_at_of.remove(&line.client);
            if self.turn == Some(line_at) {
                self.turn = next_line;
            }
        } else if line.head == Some(at) {
            line.head = next_entry;
        }
        // Gives back the memory of a storm.
        if self.was_large && self.is_empty() {
            *self = Self::default();
        }
        true
    }

    /// The addresses with entries.
    pub fn clients(&self) -> impl Iterator<Item = ClientAddr> {
        self.lines.0.iter().map(|(_, line)| line.value.client)
    }

    /// The number of entries of all addresses.
    pub fn len(&self) -> usize {
        self.entry_at.len()
    }

    /// Whether no address has an entry.
    pub fn is_empty(&self) -> bool {
        self.entry_at.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::hash::Hasher;
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> ClientAddr {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn drained<T: Copy + Eq + Hash>(queue: &mut FairQueue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn an_address_with_one_entry_waits_for_one_of_the_others() {
        let mut queue = FairQueue::default();
        (0..1_000).for_each(|n| queue.push(ip(1), n));
        assert_eq!(queue.pop(), Some(0));
        queue.push(ip(2), 1_000_000);
        assert_eq!([queue.pop(), queue.pop()], [Some(1), Some(1_000_000)]);
        assert_eq!(queue.len(), 998);
        assert_eq!(drained(&mut queue), Vec::from_iter(2..1_000));
    }

    #[test]
    fn an_address_that_comes_again_has_no_second_turn_in_a_round() {
        let mut queue = FairQueue::default();
        (1..=3).for_each(|address| queue.push(ip(address), address));
        assert_eq!(queue.pop(), Some(1));
        queue.push(ip(1), 10);
        assert_eq!(drained(&mut queue), [2, 3, 10]);
    }

    #[test]
    fn an_address_that_may_not_have_a_turn_keeps_its_entries() {
        let mut queue = FairQueue::default();
        for address in 1..=3 {
            (0..2).for_each(|n| queue.push(ip(address), 10 * address + n));
        }
        assert_eq!(queue.pop_of(|client| client == ip(2)), Some(20));
        assert_eq!(queue.pop_of(|_| false), None);
        assert_eq!(queue.pop_of(|client| client != ip(3)), Some(10));
        assert_eq!(drained(&mut queue), [21, 30, 11, 31]);
    }

    /// A call looks at `LOOKS_MAX` addresses; a later call finds the only address that may have a turn.
    #[test]
    fn a_call_looks_at_a_thousand_addresses_and_the_next_goes_on() {
        let mut queue = FairQueue::default();
        let address = |n: u32| ClientAddr::from(IpAddr::from(n.to_be_bytes()));
        (0..10_000).for_each(|n| queue.push(address(n), n));
        let mut calls = 0;
        let found = loop {
            let mut looks = 0;
            let found = queue.pop_of(|client| {
                looks += 1;
                client == address(9_999)
            });
            assert!(looks <= LOOKS_MAX, "{looks}");
            calls += 1;
            if found.is_some() || calls == 20 {
                break found;
            }
        };
        assert_eq!((found, calls), (Some(9_999), 10));
        assert_eq!(queue.pop(), Some(0));
    }

    #[test]
    fn what_is_removed_leaves_the_order_of_the_rest() {
        let mut queue = FairQueue::default();
        (0..30).for_each(|n| queue.push(ip(n % 3), n));
        for n in (0..30).filter(|n| n % 3 == 1 || n % 2 == 1) {
            assert!(queue.remove(&n) && !queue.remove(&n));
        }
        assert_eq!(queue.len(), 10);
        assert_eq!(drained(&mut queue), [0, 2, 6, 8, 12, 14, 18, 20, 24, 26]);
        assert!(!queue.remove(&0));
    }

    #[test]
    fn an_entry_stands_in_the_queue_once() {
        let mut queue = FairQueue::default();
        (0..3).for_each(|n| queue.push(ip(1), n));
        (0..2).for_each(|n| queue.push(ip(2), n));
        assert_eq!(drained(&mut queue), [0, 1, 2]);
    }

    #[test]
    fn a_v6_network_is_one_address() {
        let mut queue = FairQueue::default();
        let one = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, host, host, host, host]).into();
        (0..100).for_each(|host| queue.push(one(host), host));
        queue.push("2001:db8:0:2::1".parse::<IpAddr>().unwrap().into(), 1_000);
        assert_eq!([queue.pop(), queue.pop()], [Some(0), Some(1_000)]);
    }

    thread_local! {
        static HASHES: Cell<usize> = const { Cell::new(0) };
    }

    /// An entry that counts how often it is hashed: a table that grows hashes each entry that it moves.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Counted(u32);

    impl Hash for Counted {
        fn hash<H: Hasher>(&self, state: &mut H) {
            HASHES.set(HASHES.get() + 1);
            self.0.hash(state);
        }
    }

    #[test]
    fn no_push_moves_more_than_some_thousand_entries() {
        let mut queue = FairQueue::default();
        for n in 0..100_000_u32 {
            HASHES.set(0);
            queue.push(IpAddr::from(n.to_be_bytes()).into(), Counted(n));
            assert!(HASHES.get() < 10_000, "{} hashes at {n}", HASHES.get());
        }
    }

    #[test]
    fn the_room_of_a_storm_is_given_back() {
        let mut queue = FairQueue::default();
        (0..100_000_u32).for_each(|n| queue.push(IpAddr::from(n.to_be_bytes()).into(), n));
        let room = |queue: &FairQueue<u32>| queue.entries.0.numbers() + queue.lines.0.numbers();
        (0..50_000).for_each(|n| assert!(queue.remove(&n)));
        drained(&mut queue);
        assert_eq!(room(&queue), 0);
        queue.push(ip(1), 1);
        assert_eq!((queue.pop(), queue.pop()), (Some(1), None));
        assert!(room(&queue) > 0, "little room is kept");
    }

    type Model = VecDeque<(u8, VecDeque<usize>)>;

    fn next_of(model: &mut Model) -> Option<usize> {
        let (address, mut line) = model.pop_front()?;
        let first = line.pop_front();
        if !line.is_empty() {
            model.push_back((address, line));
        }
        first
    }

    proptest! {
        /// Compares the queue with a list that is searched.
        #[test]
        fn addresses_take_turns(steps in prop::collection::vec((0..8_u8, 0..300_usize), 0..300)) {
            let mut queue = FairQueue::default();
            let mut model = Model::new();
            for (number, (step, other)) in steps.into_iter().enumerate() {
                match step {
                    address @ 0..5 => {
                        queue.push(ip(address), number);
                        match model.iter_mut().find(|(other, _)| *other == address) {
                            Some((_, line)) => line.push_back(number),
                            None => model.push_back((address, [number].into())),
                        }
                    }
                    5 => prop_assert_eq!(queue.pop(), next_of(&mut model)),
                    _ => {
                        let other = other % (number + 1);
                        let is_there = model.iter().any(|(_, line)| line.contains(&other));
                        model.iter_mut().for_each(|(_, line)| line.retain(|n| *n != other));
                        model.retain(|(_, line)| !line.is_empty());
                        prop_assert_eq!(queue.remove(&other), is_there);
                    }
                }
                let waiting: usize = model.iter().map(|(_, line)| line.len()).sum();
                prop_assert_eq!((queue.len(), queue.is_empty()), (waiting, waiting == 0));
                prop_assert_eq!(queue.lines.0.len(), model.len());
            }
            let rest = std::iter::from_fn(|| next_of(&mut model));
            prop_assert_eq!(drained(&mut queue), Vec::from_iter(rest));
        }
    }
}
