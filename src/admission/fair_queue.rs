//! A queue in which every client address has the same share, however many entries an address has.
//!
//! The addresses with entries take turns; the entries of one address are first in, first out. So an
//! entry waits for at most one entry of each other address, beside the earlier ones of its own.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;
use slab::Slab;

use super::{ClientAddr, address_group};

/// Room for entries that an empty queue keeps: a storm is over, its memory is given back.
const ROOM_KEPT: usize = 1024;

#[derive(Debug)]
struct Entry<T> {
    value: T,
    /// The next entry of the same address.
    next: Option<usize>,
}

/// The entries of one address: there is one at least.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: usize,
    last: usize,
}

/// First in, first out for each client address; the addresses take turns.
///
/// An address is what the [limits by address](super::Addresses) take for one. Once the queue has had
/// its size, a push and a pop allocate nothing.
///
/// ```
/// use weirgate::admission::FairQueue;
///
/// let mut queue = FairQueue::default();
/// let client = |ip: &str| ip.parse::<std::net::IpAddr>().unwrap().into();
/// let (many, one) = (client("192.0.2.1"), client("192.0.2.2"));
/// (1..=3).for_each(|entry| queue.push(many, entry));
/// queue.push(one, 4);
/// let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
/// assert_eq!(order, [1, 4, 2, 3]);
/// ```
#[derive(Debug)]
pub struct FairQueue<T> {
    entries: Slab<Entry<T>>,
    lines: HashMap<ClientAddr, Line, RandomState>,
    /// The addresses with a line, in the order of their turns.
    turns: VecDeque<ClientAddr>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            entries: Slab::new(),
            lines: HashMap::default(),
            turns: VecDeque::new(),
        }
    }
}

impl<T> FairQueue<T> {
    /// Puts an entry behind the others of its address.
    pub fn push(&mut self, client: ClientAddr, value: T) {
        let client = address_group(client);
        let at = self.entries.insert(Entry { value, next: None });
        match self.lines.get_mut(&client) {
            Some(line) => {
                self.entries[line.last].next = Some(at);
                line.last = at;
            }
            None => {
                self.lines.insert(
                    client,
                    Line {
                        first: at,
                        last: at,
                    },
                );
                self.turns.push_back(client);
            }
        }
    }

    /// Takes the first entry of the address whose turn has come.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_of(|_| true)
    }

    /// The same, for addresses that `may` have a turn: the others keep their entries, and are asked for
    /// again behind all others.
    pub fn pop_of(&mut self, mut may: impl FnMut(ClientAddr) -> bool) -> Option<T> {
        let at = self.turns.iter().position(|client| may(*client))?;
        self.turns.rotate_left(at);
        let client = self.turns.pop_front()?;
        let line = self.lines.get_mut(&client)?;
        let entry = self.entries.remove(line.first);
        match entry.next {
            Some(next) => {
                line.first = next;
                self.turns.push_back(client);
            }
            None => {
                self.lines.remove(&client);
            }
        }
        if self.is_empty() && self.entries.capacity() > ROOM_KEPT {
            *self = Self::default();
        }
        Some(entry.value)
    }

    /// Drops the entries that `keep` refuses, and leaves the others in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let mut old = std::mem::take(self);
        for client in old.turns {
            let mut next = old.lines.get(&client).map(|line| line.first);
            while let Some(at) = next {
                let entry = old.entries.remove(at);
                next = entry.next;
                if keep(&entry.value) {
                    self.push(client, entry.value);
                }
            }
        }
    }

    /// Entries of all addresses.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No address has an entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> ClientAddr {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn drained<T>(queue: &mut FairQueue<T>) -> Vec<T> {
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

    #[test]
    fn what_is_not_kept_leaves_the_order_of_the_rest() {
        let mut queue = FairQueue::default();
        (0..30).for_each(|n| queue.push(ip(n % 3), n));
        queue.retain(|n| n % 3 != 1 && n % 2 == 0);
        assert_eq!(queue.len(), 10);
        assert_eq!(drained(&mut queue), [0, 2, 6, 8, 12, 14, 18, 20, 24, 26]);
    }

    #[test]
    fn a_v6_network_is_one_address() {
        let mut queue = FairQueue::default();
        let one = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, host, host, host, host]).into();
        (0..100).for_each(|host| queue.push(one(host), host));
        queue.push("2001:db8:0:2::1".parse::<IpAddr>().unwrap().into(), 1_000);
        assert_eq!([queue.pop(), queue.pop()], [Some(0), Some(1_000)]);
    }

    #[test]
    fn the_room_of_a_storm_is_given_back() {
        let mut queue = FairQueue::default();
        (0..100_000_u32).for_each(|n| queue.push(IpAddr::from(n.to_be_bytes()).into(), n));
        drained(&mut queue);
        let room = queue.entries.capacity() + queue.lines.capacity() + queue.turns.capacity();
        assert_eq!(room, 0);
        queue.push(ip(1), 1);
        assert_eq!((queue.pop(), queue.pop()), (Some(1), None));
        assert!(queue.entries.capacity() > 0, "little room is kept");
    }

    proptest! {
        /// Against a list that is searched.
        #[test]
        fn addresses_take_turns(steps in prop::collection::vec(prop::option::of(0..5_u8), 0..300)) {
            let mut queue = FairQueue::default();
            let mut model: VecDeque<(u8, VecDeque<usize>)> = VecDeque::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(address) => {
                        queue.push(ip(address), number);
                        match model.iter_mut().find(|(other, _)| *other == address) {
                            Some((_, line)) => line.push_back(number),
                            None => model.push_back((address, [number].into())),
                        }
                    }
                    None => {
                        let expected = model.pop_front().map(|(address, mut line)| {
                            let first = line.pop_front();
                            if !line.is_empty() {
                                model.push_back((address, line));
                            }
                            first.unwrap()
                        });
                        prop_assert_eq!(queue.pop(), expected);
                    }
                }
                let waiting: usize = model.iter().map(|(_, line)| line.len()).sum();
                prop_assert_eq!((queue.len(), queue.is_empty()), (waiting, waiting == 0));
            }
        }
    }
}
