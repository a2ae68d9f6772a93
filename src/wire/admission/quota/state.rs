//! The state of a [`Quota`](super::Quota), behind its lock: the sums, the holders, and who is evicted.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::mem;
use std::task::Waker;

use super::{Full, Rest, RestKind, Room, Sharing};
use crate::admission::ClientAddr;
use crate::base::{ChunkedSlab, ExtendibleMap};

/// Added to every holder's time without progress. Without it, a holder of a few bytes would be evicted before many
/// large holders that have made progress a moment ago.
const ANY_US: u64 = 200_000;

/// With [`Sharing::LargestFirst`], so long a holder that rests is not evicted for one of an address with more holders: its
/// client may be about to go on. In microseconds.
const SPARED_US: u64 = 1_000_000;

/// With [`Room::early`], eviction begins when less than one `EARLY_SHARE`th of a limit is left; for the number of
/// holders, when fewer are left than can end between two turns of the loop.
const EARLY_SHARE: u64 = 8;
const EARLY_HOLDERS_MAX: u64 = 64;

/// With [`Room::early`], one `OVER_SHARE`th more than the limit may be held together with what is evicted.
const OVER_SHARE: u64 = 4;

#[derive(Default)]
pub(super) struct QuotaState {
    /// The amount of all holders; what several addresses share counts once.
    pub(super) held: u64,
    /// Amounts by address; an address without an amount has no entry.
    pub(super) by_address: ExtendibleMap<ClientAddr, OfAddress>,
    pub(super) holders: ChunkedSlab<Holder>,
    /// The amount of the holders that were chosen for eviction and still hold it, and their number.
    pub(super) evicting: u64,
    pub(super) evicting_holders: usize,
    /// The holders that rest, in the order in which they are evicted: all of them, and those of each address.
    resting: BTreeSet<(Rest, u32)>,
    resting_of: BTreeSet<(ClientAddr, Rest, u32)>,
    pub(super) refused: u64,
    pub(super) evicted: u64,
}

/// The amount of an address.
#[derive(Clone, Copy, Default)]
pub(super) struct OfAddress {
    held: u64,
    /// The part of the holders that were chosen for eviction.
    evicting: u64,
}

/// Whether a holder may be evicted for a new one. One that works may still be evicted because too much is held, unless
/// it is [exempt](Holder::is_exempt).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Works,
    Rests(RestKind),
}

/// [`Holder::progress_us`] of a holder that is not evicted, however long it makes no progress.
const EXEMPT_US: u64 = u64::MAX;

pub(super) struct Holder {
    pub(super) address: ClientAddr,
    pub(super) amount: u64,
    /// When the holder last made progress, or began to rest, microseconds of the monotonic clock.
    pub(super) progress_us: u64,
    /// Without the time of the rest, which is `progress_us`: every connection has a holder, so each byte of it counts.
    pub(super) doing: Doing,
    /// Whether this holder was chosen for eviction.
    pub(super) is_evicted: bool,
    /// Boxed, because most connections have none.
    pub(super) waker: Option<Box<Waker>>,
}

impl QuotaState {
    /// The amount of all holders with this address.
    pub(super) fn held_by(&self, address: ClientAddr) -> u64 {
        self.of_address(address).held
    }

    fn of_address(&self, address: ClientAddr) -> OfAddress {
        self.by_address.get(&address).copied().unwrap_or_default()
    }

    /// What a client may still take: half of the difference between what is free and what its address holds, so an
    /// address alone gets half of all, and several get less each.
    pub(super) fn room_for(&self, max: u64, client: ClientAddr) -> u64 {
        let own = self.held_by(client.group());
        self.free(max).saturating_sub(own).div_ceil(2)
    }

    /// What is left of a limit of `max`.
    pub(super) fn free(&self, max: u64) -> u64 {
        max.saturating_sub(self.held)
    }

    /// Chooses a holder to be evicted. Returns its waker.
    pub(super) fn choose(&mut self, at: u32) -> Option<Waker> {
        self.end_rest(at);
        let holder = &mut self.holders[at];
        holder.is_evicted = true;
        let (address, amount) = (holder.address, holder.amount);
        let waker = holder.waker.as_deref().cloned();
        self.evicting += amount;
        self.evicting_holders += 1;
        self.evicted += 1;
        self.by_address.get_or_insert_default(address).evicting += amount;
        waker
    }

    /// The number of the holders that were not chosen for eviction.
    pub(super) fn staying_holders(&self) -> usize {
        self.holders.len() - self.evicting_holders
    }

    /// The amount of an address, without the holders that were chosen for eviction.
    pub(super) fn staying_of(&self, address: ClientAddr) -> u64 {
        let OfAddress { held, evicting } = self.of_address(address);
        held - evicting
    }

    /// The holder that is evicted next, of this address if one is given; `None` if none rests.
    pub(super) fn next_evicted(&self, of: Option<ClientAddr>, now_us: u64) -> Option<u32> {
        // The other kinds are evicted only with `Sharing::LargestFirst`. A rest that begins later does not count yet.
        [RestKind::Idle, RestKind::Owed]
            .into_iter()
            .find_map(|kind| {
                let [first, last] = [0, now_us].map(|since_us| Rest { kind, since_us });
                match of {
                    None => {
                        let mut resting = self.resting.range((first, 0)..=(last, u32::MAX));
                        resting.next().map(|(_, at)| *at)
                    }
                    Some(of) => {
                        let until = (of, last, u32::MAX);
                        let mut resting = self.resting_of.range((of, first, 0)..=until);
                        resting.next().map(|(.., at)| *at)
                    }
                }
            })
    }

    /// The holder that is evicted next for a new one of the address `newcomer`, which holds `count` with the new one
    /// ([`Sharing::LargestFirst`]); `None` if none may be evicted. Looks at all holders that [rest](Self::rest).
    pub(super) fn next_of_largest(
        &self,
        newcomer: ClientAddr,
        count: u64,
        now_us: u64,
    ) -> Option<u32> {
        let order = |&(rest, at): &(Rest, u32)| {
            let address = self.holders[at].address;
            let held = match address == newcomer {
                true => count,
                false => self.staying_of(address),
            };
            // Holders that do not rest yet still work.
            let works = rest.kind >= RestKind::Asked || rest.since_us > now_us;
            let is_changing = rest.kind == RestKind::Changing;
            let may_go = match works {
                true => held > count,
                false => held >= count || now_us - rest.since_us >= SPARED_US,
            };
            // The least is evicted: one that rests before one that works, and last one that changes something; among
            // these one of the address with the most, by the order of `Rest`.
            may_go.then_some((is_changing, works, Reverse(held), rest, at))
        };
        let next = self.resting.iter().filter_map(order).min();
        next.map(|(.., at)| at)
    }

    /// Takes back the choice of a holder, if it was chosen: it stays after all, or has made room.
    fn unchoose(&mut self, at: u32) {
        let holder = &mut self.holders[at];
        if mem::take(&mut holder.is_evicted) {
            let (address, amount) = (holder.address, holder.amount);
            self.evicting -= amount;
            self.evicting_holders -= 1;
            self.by_address.get_or_insert_default(address).evicting -= amount;
        }
    }

    /// Chooses a holder to be evicted, and adds its waker to `wakers`. Returns false if there is none.
    fn evict(&mut self, next: Option<u32>, wakers: &mut Vec<Waker>) -> bool {
        if let Some(at) = next {
            wakers.extend(self.choose(at));
        }
        next.is_some()
    }

    /// Evicts holders for a new one ([`Permit::fit`](super::Permit::fit)). Returns their wakers.
    pub(super) fn make_room_for(
        &mut self,
        at: u32,
        max: u64,
        room: Room,
        now_us: u64,
    ) -> Vec<Waker> {
        let Room {
            holders_max,
            sharing,
            early,
        } = room;
        // The part of a limit that is to stay free, as a divisor: without `early`, nothing.
        let spared = if early { EARLY_SHARE } else { u64::MAX };
        let holders_spared = (holders_max as u64 / spared).min(EARLY_HOLDERS_MAX) as usize;
        let mut wakers = Vec::new();
        let address = self.holders[at].address;
        while self.is_over(max - max / spared)
            || self.staying_holders() > holders_max - holders_spared
        {
            let next = match sharing {
                Sharing::LargestFirst => {
                    self.next_of_largest(address, self.staying_of(address), now_us)
                }
                Sharing::ByAddress | Sharing::Unshared => self.next_evicted(None, now_us),
            };
            if !self.evict(next, &mut wakers) {
                break;
            }
        }
        while sharing == Sharing::ByAddress && self.is_over_share(at, max, spared) {
            if !self.evict(self.next_evicted(Some(address), now_us), &mut wakers) {
                break;
            }
        }
        wakers
    }

    /// Whether the holder's address holds more than its share, or all but `1 / spared` of it. Holders that are evicted do
    /// not count.
    fn is_over_share(&self, at: u32, max: u64, spared: u64) -> bool {
        let Holder {
            address, amount, ..
        } = self.holders[at];
        let OfAddress { held, evicting } = self.of_address(address);
        let others = (held - evicting).saturating_sub(amount);
        let free = max.saturating_sub((self.held - self.evicting).saturating_sub(amount));
        others >= free - free / spared
    }

    /// Checks the limits with a holder that counts already. `Err` is the limit that leaves no room for it.
    pub(super) fn full_for(&self, at: u32, max: u64, room: Room) -> Result<(), Full> {
        let Holder {
            address, amount, ..
        } = self.holders[at];
        let OfAddress { held, evicting } = self.of_address(address);
        let staying = self.held - self.evicting;
        // With `early`, what is evicted counts until it has ended: in the share of its address, and in the sum, which may
        // then be one `OVER_SHARE`th above the limit. Without `early`, it counts in neither.
        let (most, of_address) = match room.early {
            true => (max + max / OVER_SHARE, held),
            false => (u64::MAX, held - evicting),
        };
        if self.staying_holders() > room.holders_max {
            Err(Full::Holders)
        } else if staying > max || self.held > most {
            Err(Full::Sum)
        } else if room.sharing == Sharing::ByAddress
            // The granting rule, as if this holder were not there yet: the address holds less than what is free.
            && of_address.saturating_sub(amount) >= max - staying.saturating_sub(amount)
        {
            Err(Full::Share)
        } else {
            Ok(())
        }
    }

    /// Records that the holder works: it is not evicted.
    pub(super) fn work(&mut self, at: u32) {
        self.end_rest(at);
        self.unchoose(at);
        self.holders[at].progress_us = EXEMPT_US;
    }

    /// Records progress. A holder without progress for longer is evicted first.
    pub(super) fn progress(&mut self, at: u32, now_us: u64) {
        self.end_rest(at);
        self.holders[at].progress_us = now_us;
    }

    /// Records that the holder rests, and may be evicted for a new one.
    pub(super) fn rest(&mut self, at: u32, rest: Rest) {
        self.end_rest(at);
        let holder = &mut self.holders[at];
        if !holder.is_evicted {
            holder.progress_us = rest.since_us;
            holder.doing = Doing::Rests(rest.kind);
            self.resting.insert((rest, at));
            self.resting_of.insert((holder.address, rest, at));
        }
    }

    /// Counts the holder for another address.
    pub(super) fn move_to(&mut self, at: u32, address: ClientAddr) {
        let holder = &mut self.holders[at];
        debug_assert!(
            holder.doing == Doing::Works && !holder.is_evicted,
            "a holder that works"
        );
        let amount = holder.amount;
        let before = mem::replace(&mut holder.address, address);
        self.change_of(before, amount, 0);
        self.change_of(address, 0, amount);
    }

    /// Ends the holder.
    pub(super) fn remove(&mut self, at: u32) {
        self.end_rest(at);
        self.set(at, 0);
        self.holders.remove(at);
    }

    /// Ends the rest of a holder, which is no longer among those that may be evicted; it works from here on. Does
    /// nothing if it does not rest.
    fn end_rest(&mut self, at: u32) {
        let holder = &mut self.holders[at];
        if let Doing::Rests(kind) = mem::replace(&mut holder.doing, Doing::Works) {
            let since_us = holder.progress_us;
            let rest = Rest { kind, since_us };
            self.resting.remove(&(rest, at));
            self.resting_of.remove(&(holder.address, rest, at));
        }
    }

    /// Changes the amount of an address by that of one holder, which was `before`.
    fn change_of(&mut self, address: ClientAddr, before: u64, amount: u64) {
        let of_address = self.by_address.get_or_insert_default(address);
        of_address.held = of_address.held - before + amount;
        if of_address.held == 0 {
            self.by_address.remove(&address);
        }
    }

    /// Whether the holders that were not chosen for eviction hold more than `max`.
    pub(super) fn is_over(&self, max: u64) -> bool {
        self.held - self.evicting > max
    }

    /// Sets the amount of a holder, and the sums with it. A chosen holder without an amount has made room, and is no longer
    /// chosen.
    pub(super) fn set(&mut self, at: u32, amount: u64) {
        let holder = &mut self.holders[at];
        let before = mem::replace(&mut holder.amount, amount);
        let (address, is_evicted) = (holder.address, holder.is_evicted);
        if is_evicted {
            self.evicting = self.evicting - before + amount;
            let of_address = self.by_address.get_or_insert_default(address);
            of_address.evicting = of_address.evicting - before + amount;
            if amount == 0 {
                self.unchoose(at);
            }
        }
        self.change_of(address, before, amount);
        // Saturates when permits are dropped that share something ([`Permit::grant_more`](super::Permit::grant_more)): it is
        // once in the sum, but each of these permits takes it out.
        self.held = (self.held + amount).saturating_sub(before);
    }
}

impl Holder {
    /// Whether the holder is not evicted, however long it makes no progress.
    pub(super) fn is_exempt(&self) -> bool {
        self.progress_us == EXEMPT_US
    }

    /// The amount times the microseconds since the last progress, and [`ANY_US`] more.
    pub(super) fn weight(&self, now_us: u64) -> u128 {
        let us = now_us.saturating_sub(self.progress_us) + ANY_US;
        u128::from(self.amount) * u128::from(us)
    }
}
