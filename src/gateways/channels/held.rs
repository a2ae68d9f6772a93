//! The names and patterns that a client holds.

use smallvec::SmallVec;

use weirgate_wire::admission::ClientAddr;
use weirgate_wire::base::ExtendibleMap;

/// From this many names on they are in a hash table: most clients hold few.
const FEW: usize = 64;

/// The names of a client, by their number in [`super::names::Names`].
#[derive(Debug)]
pub(super) struct HeldNames {
    /// The address group that the names count for.
    address: ClientAddr,
    ids: Ids,
    /// How many of the names are patterns.
    pub(super) patterns: u32,
    /// Names of the kept feed of which the client is a member.
    kept: u32,
    /// Names of which the client is a member and for which it may have a rate of its own.
    skippable: u32,
}

#[derive(Debug)]
enum Ids {
    /// In ascending order.
    Few(SmallVec<[u32; 4]>),
    /// In a box: few clients have the table, and without the box every client would take its memory.
    Many(Box<ExtendibleMap<u32, ()>>),
}

/// Reduces a count if `is_one`. A count that is wrong stops at 0: it must not become a very high one.
fn count_less(count: &mut u32, is_one: bool) {
    debug_assert!(*count >= u32::from(is_one), "every name is counted once");
    *count = count.saturating_sub(u32::from(is_one));
}

impl HeldNames {
    /// A client without names.
    pub(super) fn new(client: ClientAddr) -> Self {
        Self {
            address: client.group(),
            ids: Ids::Few(SmallVec::new()),
            patterns: 0,
            kept: 0,
            skippable: 0,
        }
    }

    /// The number of names, patterns among them.
    pub(super) fn count(&self) -> usize {
        match &self.ids {
            Ids::Few(ids) => ids.len(),
            Ids::Many(ids) => ids.len(),
        }
    }

    /// Whether the client is a member of a name of the kept feed.
    pub(super) fn has_kept(&self) -> bool {
        self.kept > 0
    }

    /// Whether the client is a member of a name for which it may have a rate of its own.
    pub(super) fn has_skippable(&self) -> bool {
        self.skippable > 0
    }

    /// The client has become a member of a name.
    pub(super) fn note_joined(&mut self, is_kept: bool, is_skippable: bool) {
        self.kept += u32::from(is_kept);
        self.skippable += u32::from(is_skippable);
    }

    /// The client is no longer a member of a name.
    pub(super) fn note_left(&mut self, is_kept: bool, is_skippable: bool) {
        count_less(&mut self.kept, is_kept);
        count_less(&mut self.skippable, is_skippable);
    }

    /// A name of which the client is a member comes with the kept feed from now on, or no longer.
    pub(super) fn note_moved(&mut self, is_kept: bool) {
        match is_kept {
            true => self.kept += 1,
            false => count_less(&mut self.kept, true),
        }
    }

    /// The address group of the client.
    pub(super) fn address(&self) -> ClientAddr {
        self.address
    }

    pub(super) fn has(&self, id: u32) -> bool {
        match &self.ids {
            Ids::Few(ids) => ids.binary_search(&id).is_ok(),
            Ids::Many(ids) => ids.contains_key(&id),
        }
    }

    /// Adds a name that the client does not hold.
    pub(super) fn add(&mut self, id: u32) {
        match &mut self.ids {
            Ids::Few(ids) if ids.len() < FEW => {
                let at = ids.partition_point(|held| *held < id);
                ids.insert(at, id);
            }
            Ids::Few(ids) => {
                let mut many = ExtendibleMap::default();
                for id in ids.drain(..).chain([id]) {
                    many.insert(id, ());
                }
                self.ids = Ids::Many(Box::new(many));
            }
            Ids::Many(ids) => {
                ids.insert(id, ());
            }
        }
    }

    /// Returns false if the client does not hold the name.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        match &mut self.ids {
            Ids::Few(ids) => {
                let at = ids.binary_search(&id);
                at.map(|at| ids.remove(at)).is_ok()
            }
            Ids::Many(ids) => ids.remove(&id).is_some(),
        }
    }

    /// The numbers of the names.
    pub(super) fn ids(&self) -> Vec<u32> {
        match &self.ids {
            Ids::Few(ids) => ids.to_vec(),
            Ids::Many(ids) => ids.keys().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn few_names_and_many_are_held_alike() {
        let (mut held, mut model) = (HeldNames::new(ClientAddr::Unix), BTreeSet::new());
        for n in 0..5_000_u32 {
            let id = n.wrapping_mul(2_654_435_761) % 300;
            match n % 7 < 4 || n < 200 {
                true if model.insert(id) => held.add(id),
                true => {}
                false => assert_eq!(held.remove(id), model.remove(&id)),
            }
            assert_eq!(
                (held.count(), held.has(id)),
                (model.len(), model.contains(&id))
            );
            assert_eq!(held.ids().into_iter().collect::<BTreeSet<_>>(), model);
        }
    }
}
