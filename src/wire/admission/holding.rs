//! Limits on what clients hold: the sum over all clients has a limit, each client address has a share, and an order
//! says which holders give way first.
//!
//! Everything that clients can make grow is a [`Holding`]: bytes that wait, names, calls, connections. A [`Charge`]
//! holds an amount, and gives it back when it is dropped. A value that is stored together with its charge therefore
//! leaves the sum when it goes. A store chooses between two rules:
//!
//! - **Granting**, where the store can refuse: an address gets more only while it holds less than what is left
//!   free. A lone address may have half of the limit, each of two addresses a third, and a new address always finds
//!   room.
//! - **Giving way**, where the bytes are already here: over the limit the holder with the largest amount times the
//!   time since its last progress goes first. With the amount alone, a large holder that makes progress would go.
//!   With the time alone, a holder of a few bytes would go, and free nothing. An honest client is spared, because
//!   it holds little or makes progress. Where clients wait for a free place, the holders without progress go.
//!
//! What several addresses hold together, such as a name that all of them subscribe to, counts once in the sum and whole
//! for each address ([`Charge::grant_more`]): an address could otherwise hold everything by taking it over.
//!
//! Addresses are grouped as for the [limits by address](super::Addresses): an IPv6 address by its /64.

use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use foldhash::quality::RandomState;
use slab::Slab;

use super::{ClientAddr, address_group};

/// Added to every holder's time without progress. Without it, a holder of a few bytes would give way before many
/// large holders that have made progress a moment ago.
const ANY_US: u64 = 200_000;

/// A sum over all clients with a limit. Clones share the sum; every thread may charge and give back.
#[derive(Clone)]
pub struct Holding(Arc<Inner>);

struct Inner {
    name: &'static str,
    max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: u64,
    /// Amounts by address; an address without an amount has no entry.
    by_address: HashMap<ClientAddr, u64, RandomState>,
    holders: Slab<Holder>,
    /// The amount of the holders that were chosen to give way, and still hold it.
    leaving: u64,
    refused: u64,
    gave_way: u64,
}

struct Holder {
    address: ClientAddr,
    amount: u64,
    /// When the holder last made progress, microseconds of the monotonic clock.
    progress_us: u64,
    /// Whether this holder was chosen to give way.
    is_leaving: bool,
    waker: Option<Waker>,
}

/// The counts of a [`Holding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The label in metrics and in the documents.
    pub name: &'static str,
    /// The bytes or places that all clients hold together.
    pub held: u64,
    /// The limit.
    pub max: u64,
    /// Requests without room so far.
    pub refused: u64,
    /// Holders that gave way so far.
    pub gave_way: u64,
}

/// A holder's amount of a [`Holding`], given back on drop.
pub struct Charge {
    of: Holding,
    at: usize,
    amount: u64,
}

impl Holding {
    /// An empty holding of at most `max` bytes or places; `name` is the label in metrics and in the documents.
    pub fn new(name: &'static str, max: u64) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Inner { name, max, state }))
    }

    /// Charges `amount` to `client` if its address holds less than what is free, and the amount fits in the rest.
    /// Without room, returns `None` and counts the refusal.
    ///
    /// ```
    /// use weirgate::admission::Holding;
    ///
    /// let places = Holding::new("places", 8);
    /// let client = |ip: &str| ip.parse::<std::net::IpAddr>().unwrap().into();
    /// let grant = |ip| places.grant(client(ip), 1);
    /// let first: Vec<_> = std::iter::from_fn(|| grant("192.0.2.1")).collect();
    /// let second: Vec<_> = std::iter::from_fn(|| grant("192.0.2.2")).collect();
    /// assert_eq!((first.len(), second.len()), (4, 2));
    /// drop(first);
    /// assert_eq!(places.held(), 2);
    /// ```
    pub fn grant(&self, client: ClientAddr, amount: u64) -> Option<Charge> {
        let mut state = self.state();
        let free = state.free(self.0.max);
        let has_room = amount <= free && state.of(address_group(client)) < free;
        if !has_room {
            state.refused += 1;
            return None;
        }
        Some(self.insert(state, client, amount, 0))
    }

    /// Charges what is there already, whatever the limit. `now_us` is the monotonic time of the holder's first
    /// progress.
    pub fn hold(&self, client: ClientAddr, amount: u64, now_us: u64) -> Charge {
        self.insert(self.state(), client, amount, now_us)
    }

    fn insert(
        &self,
        mut state: MutexGuard<'_, State>,
        client: ClientAddr,
        amount: u64,
        now_us: u64,
    ) -> Charge {
        let at = state.holders.insert(Holder {
            address: address_group(client),
            amount: 0,
            progress_us: now_us,
            is_leaving: false,
            waker: None,
        });
        state.set(at, amount);
        drop(state);
        let of = self.clone();
        Charge { of, at, amount }
    }

    /// Whether a client of this address would get more: the address holds less than what is free. The amount that
    /// is charged next may exceed the limit once.
    pub fn has_room_for(&self, client: ClientAddr) -> bool {
        let state = self.state();
        let free = state.free(self.0.max);
        // An address never has more than all addresses together.
        state.held < free || state.of(address_group(client)) < free
    }

    /// The most that a client of this address would get by grants of 1, one after the other.
    pub fn room_for(&self, client: ClientAddr) -> u64 {
        self.state().room_for(self.0.max, client)
    }

    /// Charges as much of `amount` as repeated calls of [`grant`](Self::grant) would. Less than the whole amount
    /// counts as refused.
    pub fn grant_some(&self, client: ClientAddr, amount: u64) -> Charge {
        let mut state = self.state();
        let granted = amount.min(state.room_for(self.0.max, client));
        state.refused += u64::from(granted < amount);
        self.insert(state, client, granted, 0)
    }

    /// The amount of all clients together.
    pub fn held(&self) -> u64 {
        self.state().held
    }

    /// The amount of all clients of this address.
    pub fn of(&self, client: ClientAddr) -> u64 {
        self.state().of(address_group(client))
    }

    /// The limit of all clients together.
    pub fn max(&self) -> u64 {
        self.0.max
    }

    /// Whether more is held than the limit allows, without the holders that already give way.
    pub fn is_over(&self) -> bool {
        self.state().is_over(self.0.max)
    }

    /// If more is held than the limit allows, chooses holders to give way until an eighth of the limit is free. The
    /// next choice is due when that much has been charged again, so choosing costs O(1) for each byte. The chosen
    /// holders find [`Charge::gives_way`] true, and are woken. The last holder always stays, because a single
    /// holder has a limit of its own.
    pub fn make_room(&self, now_us: u64) {
        let state = self.state();
        let max = self.0.max;
        if state.is_over(max) {
            let is_needed = |state: &State, amount| {
                state.held - state.leaving > amount && state.is_over(max - max / 8)
            };
            Self::choose(state, now_us, 0, 0, is_needed);
        }
    }

    /// Chooses holders to give way for `others` clients that wait: holders without progress for `still_us`, the
    /// heaviest first. Looks at all holders.
    pub fn make_way(&self, others: u64, still_us: u64, now_us: u64) {
        let state = self.state();
        let until = state.gave_way + others;
        Self::choose(state, now_us, still_us, 0, |state, _| {
            state.gave_way < until
        });
    }

    /// Like [`make_way`](Self::make_way) for one waiting client, but only a holder whose address holds at least as much
    /// as the client's has to give way.
    pub fn make_way_for(&self, client: ClientAddr, still_us: u64, now_us: u64) {
        let state = self.state();
        let (least, until) = (state.of(address_group(client)), state.gave_way + 1);
        Self::choose(state, now_us, still_us, least, |state, _| {
            state.gave_way < until
        });
    }

    /// While `is_needed` returns true, chooses the heaviest holder of an address that holds at least `least`.
    /// `is_needed` gets the amount of this holder.
    fn choose(
        mut state: MutexGuard<'_, State>,
        now_us: u64,
        still_us: u64,
        least: u64,
        is_needed: impl Fn(&State, u64) -> bool,
    ) {
        let may_go = |holder: &Holder| {
            let is_still = now_us.saturating_sub(holder.progress_us) >= still_us;
            let is_settled = holder.progress_us == u64::MAX;
            let may = is_still && !is_settled && !holder.is_leaving && holder.amount > 0;
            may && (least == 0 || state.of(holder.address) >= least)
        };
        let weights = state.holders.iter().filter(|(_, holder)| may_go(holder));
        let mut worst: BinaryHeap<_> = weights.map(|(at, h)| (h.weight(now_us), at)).collect();
        let mut wakers = Vec::new();
        while let Some((_, at)) = worst.pop()
            && is_needed(&state, state.holders[at].amount)
        {
            let holder = &mut state.holders[at];
            holder.is_leaving = true;
            wakers.extend(holder.waker.clone());
            let amount = holder.amount;
            state.leaving += amount;
            state.gave_way += 1;
        }
        drop(state);
        // Without the lock: a waker may look at the holding.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The counts.
    pub fn counts(&self) -> Held {
        let state = self.state();
        Held {
            name: self.0.name,
            held: state.held,
            max: self.0.max,
            refused: state.refused,
            gave_way: state.gave_way,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&self, address: ClientAddr) -> u64 {
        self.by_address.get(&address).copied().unwrap_or_default()
    }

    fn room_for(&self, max: u64, client: ClientAddr) -> u64 {
        let own = self.of(address_group(client));
        self.free(max).saturating_sub(own).div_ceil(2)
    }

    fn free(&self, max: u64) -> u64 {
        max.saturating_sub(self.held)
    }

    /// Without the holders that already give way.
    fn is_over(&self, max: u64) -> bool {
        self.held - self.leaving > max
    }

    fn set(&mut self, at: usize, amount: u64) {
        let holder = &mut self.holders[at];
        let before = std::mem::replace(&mut holder.amount, amount);
        if holder.is_leaving {
            self.leaving = self.leaving - before + amount;
            // A holder without an amount has made room.
            holder.is_leaving = amount > 0;
        }
        // What several addresses hold counts once in the sum, but in each of their charges. If all charges are dropped,
        // they give back more than the sum.
        self.held = (self.held + amount).saturating_sub(before);
        let of_address = self.by_address.entry(holder.address).or_default();
        *of_address = *of_address - before + amount;
        if *of_address == 0 {
            self.by_address.remove(&holder.address);
        }
    }
}

impl Holder {
    /// The amount times the microseconds since the last progress, and [`ANY_US`] more.
    fn weight(&self, now_us: u64) -> u128 {
        let us = now_us.saturating_sub(self.progress_us) + ANY_US;
        u128::from(self.amount) * u128::from(us)
    }
}

impl Charge {
    /// The charged amount.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Changes the amount of the charge, whatever the limit. A smaller amount counts as progress, and so does the first
    /// amount.
    pub fn set(&mut self, amount: u64, now_us: u64) {
        if amount == self.amount {
            return;
        }
        let mut state = self.of.state();
        state.set(self.at, amount);
        if amount < self.amount || self.amount == 0 {
            state.holders[self.at].progress_us = now_us;
        }
        self.amount = amount;
    }

    /// Takes over the amount of another charge of the same client, in the same sum.
    pub fn merge(&mut self, other: Self) {
        debug_assert!(Arc::ptr_eq(&self.of.0, &other.of.0), "another sum");
        self.amount += other.amount;
        self.of.state().set(self.at, self.amount);
    }

    /// Adds `more` to the charge, by the granting rule. `shared` is the part of `more` that is in the sum already,
    /// because other addresses hold the same. An address that holds less than `least` gets the amount even if little is
    /// free. Without room, returns false and counts the refusal.
    pub fn grant_more(&mut self, more: u64, shared: u64, least: u64) -> bool {
        let mut state = self.of.state();
        let free = state.free(self.of.0.max);
        let held = state.of(state.holders[self.at].address);
        let has_room = held < free.max(least) && more - shared <= free;
        if has_room {
            self.amount += more;
            state.set(self.at, self.amount);
            state.held -= shared;
        } else {
            state.refused += 1;
        }
        has_room
    }

    /// Gives `part` back. Of it, `shared` stays in the sum, because other addresses still hold the same.
    pub fn give_back(&mut self, part: u64, shared: u64) {
        let mut state = self.of.state();
        self.amount -= part;
        state.set(self.at, self.amount);
        state.held += shared;
    }

    /// Records progress that does not show as a smaller amount. If `now_us` is in the future, the holder counts as
    /// making progress until then; with `u64::MAX` the holder never has to give way.
    pub fn progress(&self, now_us: u64) {
        self.of.state().holders[self.at].progress_us = now_us;
    }

    /// Whether the address would have room for this charge if it were made anew ([`Holding::has_room_for`]).
    pub fn has_room(&self) -> bool {
        let state = self.of.state();
        let free = self.of.0.max.saturating_sub(state.held - self.amount);
        state.of(state.holders[self.at].address) - self.amount < free
    }

    /// Whether the holder has to give up what it holds.
    pub fn gives_way(&self) -> bool {
        self.of.state().holders[self.at].is_leaving
    }

    /// Sets the waker that is called when this holder is chosen to give way: at once, if that has happened already.
    pub fn wake_with(&self, waker: &Waker) {
        let mut state = self.of.state();
        let holder = &mut state.holders[self.at];
        match &mut holder.waker {
            Some(kept) => kept.clone_from(waker),
            kept => *kept = Some(waker.clone()),
        }
        let is_leaving = holder.is_leaving;
        drop(state);
        if is_leaving {
            waker.wake_by_ref();
        }
    }

    /// The address that the charge counts for.
    pub(super) fn address(&self) -> ClientAddr {
        self.of.state().holders[self.at].address
    }

    /// The sum that the charge is part of.
    pub fn holding(&self) -> &Holding {
        &self.of
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.of.state();
        state.set(self.at, 0);
        state.holders.remove(self.at);
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.amount, self.of.0.name)
    }
}

/// The keys of a thread's holders that were chosen to give way ([`Holding::make_room`]), by this or another thread. So
/// the owner need not search all its holders.
#[derive(Clone)]
pub struct Chosen<K>(Arc<List<K>>);

/// The list that receives the chosen keys, and the waker of the thread that owns the holders.
struct List<K> {
    keys: Mutex<Vec<K>>,
    thread: Waker,
}

/// One holder.
struct One<K> {
    key: K,
    list: Arc<List<K>>,
}

impl<K: Copy + Send + Sync + 'static> Chosen<K> {
    /// An empty list; `thread` wakes the owner of the holders.
    pub fn new(thread: Waker) -> Self {
        let keys = Mutex::default();
        Self(Arc::new(List { keys, thread }))
    }

    /// For [`Charge::wake_with`]: puts `key` in the list.
    pub fn waker(&self, key: K) -> Waker {
        let list = Arc::clone(&self.0);
        Arc::new(One { key, list }).into()
    }

    /// Takes the keys. A holder may have ended, or freed what it held, since it was chosen.
    pub fn take(&self) -> Vec<K> {
        std::mem::take(&mut self.0.locked())
    }

    /// Whether [`take`](Self::take) returns nothing.
    pub fn is_empty(&self) -> bool {
        self.0.locked().is_empty()
    }
}

impl<K> List<K> {
    fn locked(&self) -> MutexGuard<'_, Vec<K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Send + Sync> Wake for One<K> {
    fn wake(self: Arc<Self>) {
        self.list.locked().push(self.key);
        self.list.thread.wake_by_ref();
    }
}

impl<K> fmt::Debug for Chosen<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
