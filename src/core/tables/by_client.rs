//! A table by client.

use super::SessionKey;
use weirgate_wire::base::ChunkedQueue;

/// A value for each client. A key of a former client of the slot finds nothing.
#[derive(Debug)]
pub struct ByClient<C> {
    /// By slot. A list that doubles would move all clients in one step.
    slots: ChunkedQueue<Option<(u32, C)>>,
    len: usize,
}

impl<C> Default for ByClient<C> {
    fn default() -> Self {
        Self {
            slots: ChunkedQueue::default(),
            len: 0,
        }
    }
}

impl<C> ByClient<C> {
    /// Returns the client's value; `None` for a client that has ended.
    pub fn get(&self, key: SessionKey) -> Option<&C> {
        let (generation, client) = self.slots.get(key.slot as usize)?.as_ref()?;
        (*generation == key.generation).then_some(client)
    }

    /// Returns the client's value for changes; `None` for a client that has ended.
    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut C> {
        let (generation, client) = self.slots.get_mut(key.slot as usize)?.as_mut()?;
        (*generation == key.generation).then_some(client)
    }

    /// Iterates over all clients, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SessionKey, &mut C)> {
        self.slots_mut(0, usize::MAX)
    }

    /// Iterates over the clients in `count` slots from `first` on.
    pub(crate) fn slots_mut(
        &mut self,
        first: usize,
        count: usize,
    ) -> impl Iterator<Item = (SessionKey, &mut C)> {
        let slots = self.slots.iter_mut_from(first).take(count).enumerate();
        slots.filter_map(move |(after_first, entry)| {
            let slot = first + after_first;
            let (generation, client) = entry.as_mut()?;
            let key = SessionKey {
                slot: slot as u32,
                generation: *generation,
            };
            Some((key, client))
        })
    }

    /// Slots, including those without a client.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The number of clients.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no client.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a client. The slot is free: the client before was removed when its session ended.
    pub fn insert(&mut self, key: SessionKey, client: C) -> &mut C {
        let slot = key.slot as usize;
        while self.slots.len() <= slot {
            self.slots.push_back(None);
        }
        let entry = &mut self.slots[slot];
        debug_assert!(entry.is_none(), "two clients in one slot");
        self.len += usize::from(entry.is_none());
        let (_, client) = entry.insert((key.generation, client));
        client
    }

    /// Removes a client. Returns its value; `None` for a client that has ended.
    pub fn remove(&mut self, key: SessionKey) -> Option<C> {
        self.get(key)?;
        let (_, client) = self.slots[key.slot as usize].take()?;
        self.len -= 1;
        while self.slots.back().is_some_and(Option::is_none) {
            self.slots.pop_back();
        }
        Some(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_former_client_finds_nothing() {
        let key = |generation| SessionKey {
            slot: 3,
            generation,
        };
        let mut clients = ByClient::default();
        clients.insert(key(1), 'a');
        assert_eq!(clients.remove(key(0)), None);
        assert_eq!(clients.remove(key(1)), Some('a'));
        assert_eq!(clients.remove(key(1)), None);
        clients.insert(key(2), 'b');
        assert!(clients.get(key(1)).is_none() && clients.get_mut(key(1)).is_none());
        assert_eq!(clients.get(key(2)), Some(&'b'));
        let all: Vec<_> = clients.iter_mut().map(|(key, c)| (key, *c)).collect();
        assert_eq!((all, clients.len()), (vec![(key(2), 'b')], 1));
    }

    #[test]
    fn a_walk_in_parts_finds_each_client_once() {
        let mut clients = ByClient::default();
        let key = |slot| SessionKey {
            slot,
            generation: slot + 1,
        };
        for slot in 0..50_000 {
            clients.insert(key(slot), [slot; 8]);
        }
        for slot in (0..50_000).filter(|slot| slot % 3 == 0 || *slot > 40_000) {
            assert_eq!(clients.remove(key(slot)), Some([slot; 8]));
        }
        assert_eq!(clients.slots(), 40_001);
        let mut found = Vec::new();
        for first in (0..clients.slots()).step_by(999) {
            let part = clients.slots_mut(first, 999);
            found.extend(part.map(|(key, client)| (key, client[0])));
        }
        let expected = (0..=40_000).filter(|slot| slot % 3 != 0);
        assert!(found.into_iter().eq(expected.map(|slot| (key(slot), slot))));
    }
}
