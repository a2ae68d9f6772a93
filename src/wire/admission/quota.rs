//! Limits on what clients hold: the sum over all clients has a limit, each client address has a share, and an order
//! says which holders are evicted first.
//!
//! Everything that clients can make grow is a [`Quota`]: bytes that wait, names, calls, connections. A [`Permit`]
//! holds an amount, and gives it back when it is dropped. A value that is stored together with its permit therefore
//! leaves the sum when it goes. A store chooses between two rules:
//!
//! - **Granting**, where the store can refuse: an address gets more only while it holds less than what is left
//!   free. A lone address may have half of the limit, each of two addresses a third, and a new address always finds
//!   room.
//! - **Evicting**, where the bytes are already here: over the limit the holder with the largest amount times the
//!   time since its last progress goes first. With the amount alone, a large holder that makes progress would go.
//!   With the time alone, a holder of a few bytes would go, and free nothing. An honest client is spared, because
//!   it holds little or makes progress. Where clients wait for a free place, the holders without progress go.
//!
//! Connections use both: a connection that [rests](Permit::rest) is evicted for a new one, the longest rest first, and
//! the new one is refused only if none rests ([`Permit::fit`]). Where there are few places, holders of the address
//! with the most are evicted first, also those that do not rest ([`Sharing::LargestFirst`]).
//!
//! What several addresses hold together, such as a name that all of them subscribe to, counts once in the sum and whole
//! for each address ([`Permit::grant_more`]): otherwise an address could hold, at no charge, all that others hold.
//!
//! Addresses are grouped as for the limits by address: an IPv6 address by its /64.

mod chosen;
mod state;

use std::collections::BinaryHeap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

pub use self::chosen::Chosen;
use self::state::{Doing, Holder, QuotaState};
use super::ClientAddr;

/// With less than one `WAIT_SHARE`th of a limit free, new holders wait for those that end.
const WAIT_SHARE: u64 = 16;

/// A sum over all clients with a limit. Clones share the sum; every thread may charge and give back.
#[derive(Clone)]
pub struct Quota(Arc<Inner>);

struct Inner {
    name: &'static str,
    max: u64,
    state: Mutex<QuotaState>,
}

/// The counts of a [`Quota`], for metrics.
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
    /// Holders that were evicted so far.
    pub evicted: u64,
}

/// How a holder rests ([`Permit::rest`]). The order is the order of eviction: by [`RestKind`], and of each kind the longest
/// rest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rest {
    /// What the holder does.
    pub kind: RestKind,
    /// Since when, microseconds of the monotonic clock; in the future, the holder rests only from then on.
    pub since_us: u64,
}

/// What a holder does that may be evicted for a new one. The order is the order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RestKind {
    /// The holder works, and goes on without a pause with what its client has asked for in advance. It is evicted only
    /// with [`Sharing::LargestFirst`].
    Pipelined,
    /// The holder does nothing.
    Idle,
    /// The holder is in the middle of something, and its client owes it the next bytes or does not take them.
    Owed,
    /// The holder works on what its client has asked for. It is evicted only with [`Sharing::LargestFirst`].
    Asked,
    /// The holder works on a change, and its client does not know yet whether the change was made. It is evicted only with
    /// [`Sharing::LargestFirst`].
    Changing,
}

/// How much a client address may hold of what is limited for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Each address the same.
    ByAddress,
    /// As much as there is, such as a trusted proxy, which brings the clients of many addresses.
    Unshared,
    /// As much as there is, until others need it. Of the holders that rest, those whose address has the most go first; those
    /// of an address that has fewer than that of the new holder, only after a second of rest. If none rests, a holder that
    /// works goes, of an address that has more of them than the address of the new holder.
    LargestFirst,
}

/// The room for a new holder ([`Permit::fit`]).
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The most holders.
    pub holders_max: usize,
    /// Whether the holder's address has a share.
    pub sharing: Sharing,
    /// For holders that another thread ends: eviction begins before a limit is reached, and what is evicted counts until
    /// it has ended.
    pub early: bool,
}

/// Why there is no room for a holder ([`Permit::fit`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many holders as there may be.
    Holders,
    /// All holders together hold as much as they may.
    Sum,
    /// The holder's address holds its share.
    Share,
}

/// A holder's amount of a [`Quota`], given back on drop.
pub struct Permit {
    quota: Quota,
    /// The number of the holder.
    at: u32,
    amount: u64,
}

impl Quota {
    /// A holder without progress for this long, microseconds, is stalled: [`evict`](Self::evict) takes its permit while others
    /// wait. Long enough for a client far away, and short for those that wait.
    pub const STALLED_US: u64 = 1_000_000;

    /// A limit of `max` bytes or places, of which nothing is held; `name` is the label in metrics and in the documents.
    pub fn new(name: &'static str, max: u64) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Inner { name, max, state }))
    }

    /// Charges `amount` to `client` if its address holds less than what is free, and the amount fits in the rest.
    /// Without room, returns `None` and counts the refusal.
    ///
    /// ```
    /// use weirgate_wire::admission::Quota;
    ///
    /// let places = Quota::new("places", 8);
    /// let client = |ip: &str| ip.parse::<std::net::IpAddr>().unwrap().into();
    /// let grant = |ip| places.grant(client(ip), 1);
    /// let first: Vec<_> = std::iter::from_fn(|| grant("192.0.2.1")).collect();
    /// let second: Vec<_> = std::iter::from_fn(|| grant("192.0.2.2")).collect();
    /// assert_eq!((first.len(), second.len()), (4, 2));
    /// drop(first);
    /// assert_eq!(places.held(), 2);
    /// ```
    pub fn grant(&self, client: ClientAddr, amount: u64) -> Option<Permit> {
        let granted = self.grant_spare(client, amount);
        if granted.is_none() {
            self.state().refused += 1;
        }
        granted
    }

    /// As [`grant`](Self::grant), for a holder that can do without: a refusal does not count.
    pub fn grant_spare(&self, client: ClientAddr, amount: u64) -> Option<Permit> {
        let state = self.state();
        let free = state.free(self.0.max);
        let has_room = amount <= free && state.held_by(client.group()) < free;
        // 0: no progress so far. A store that evicts too says at once what the holder does.
        has_room.then(|| self.insert(state, client, amount, 0))
    }

    /// Charges what is there already, whatever the limit. `now_us` is the monotonic time of the holder's first
    /// progress.
    pub fn hold(&self, client: ClientAddr, amount: u64, now_us: u64) -> Permit {
        self.insert(self.state(), client, amount, now_us)
    }

    /// Adds a holder, whatever the limits say: the callers have checked them.
    fn insert(
        &self,
        mut state: MutexGuard<'_, QuotaState>,
        client: ClientAddr,
        amount: u64,
        now_us: u64,
    ) -> Permit {
        let at = state.holders.insert(Holder {
            address: client.group(),
            amount: 0,
            progress_us: now_us,
            doing: Doing::Works,
            is_evicted: false,
            waker: None,
        });
        state.set(at, amount);
        drop(state);
        let quota = self.clone();
        Permit { quota, at, amount }
    }

    /// Whether a client of this address would get more: the address holds less than what is free. The amount that
    /// is charged next may exceed the limit once.
    pub fn has_room_for(&self, client: ClientAddr) -> bool {
        let state = self.state();
        let free = state.free(self.0.max);
        // An address never has more than all addresses together.
        state.held < free || state.held_by(client.group()) < free
    }

    /// The most that a client of this address would get by grants of 1, one after the other.
    pub fn room_for(&self, client: ClientAddr) -> u64 {
        self.state().room_for(self.0.max, client)
    }

    /// Charges as much of `amount` as repeated calls of [`grant`](Self::grant) would. Less than the whole amount
    /// counts as refused.
    pub fn grant_some(&self, client: ClientAddr, amount: u64) -> Permit {
        let mut state = self.state();
        let granted = amount.min(state.room_for(self.0.max, client));
        state.refused += u64::from(granted < amount);
        // As in `grant_spare`.
        self.insert(state, client, granted, 0)
    }

    /// The amount of all clients together.
    pub fn held(&self) -> u64 {
        self.state().held
    }

    /// The number of holders.
    pub fn holders(&self) -> usize {
        self.state().holders.len()
    }

    /// The amount of all clients of this address, also of those that are being evicted.
    pub fn of(&self, client: ClientAddr) -> u64 {
        self.state().held_by(client.group())
    }

    /// The limit of all clients together.
    pub fn max(&self) -> u64 {
        self.0.max
    }

    /// Whether more is held than the limit allows, without the holders that are being evicted already.
    pub fn is_over(&self) -> bool {
        self.state().is_over(self.0.max)
    }

    /// If more is held than the limit allows, chooses holders for eviction until an eighth of the limit is free. The
    /// next choice is due when that much has been charged again, so choosing costs O(1) for each byte. The chosen
    /// holders find [`Permit::is_evicted`] true, and are woken. The last holder always stays, because a single
    /// holder has a limit of its own.
    pub fn make_room(&self, now_us: u64) {
        let state = self.state();
        let max = self.0.max;
        if state.is_over(max) {
            let is_needed = |state: &QuotaState, amount| {
                state.held - state.evicting > amount && state.is_over(max - max / 8)
            };
            // Any holder, stalled or not, of any address.
            Self::choose(state, now_us, 0, 0, is_needed);
        }
    }

    /// Chooses holders for eviction for `others` clients that wait: holders without progress for `stalled_us`, the
    /// heaviest first. Looks at all holders.
    pub fn evict(&self, others: u64, stalled_us: u64, now_us: u64) {
        let state = self.state();
        let until = state.evicted + others;
        // 0: of any address.
        Self::choose(state, now_us, stalled_us, 0, |state, _| {
            state.evicted < until
        });
    }

    /// Whether one more holder of this client, of an amount of 1, would fit among `holders_max`, perhaps in place of another
    /// ([`Sharing::LargestFirst`]).
    pub fn may_fit(&self, client: ClientAddr, holders_max: usize, now_us: u64) -> bool {
        let (state, address) = (self.state(), client.group());
        let count = state.staying_of(address) + 1;
        state.staying_holders() < holders_max
            || state.next_of_largest(address, count, now_us).is_some()
    }

    /// Whether new holders should wait for those that are evicted to end: with a few more the limit would be reached.
    pub fn is_waiting_for_evicted(&self) -> bool {
        let (max, state) = (self.0.max, self.state());
        state.evicting > 0 && state.held > max - max / WAIT_SHARE
    }

    /// Like [`evict`](Self::evict) for one waiting client, but chooses only a holder whose address holds at least as
    /// much as the client's.
    pub fn evict_for(&self, client: ClientAddr, stalled_us: u64, now_us: u64) {
        let state = self.state();
        let (least, until) = (state.held_by(client.group()), state.evicted + 1);
        Self::choose(state, now_us, stalled_us, least, |state, _| {
            state.evicted < until
        });
    }

    /// While `is_needed` returns true, chooses the heaviest holder of an address that holds at least `least`.
    /// `is_needed` gets the amount of this holder.
    fn choose(
        mut state: MutexGuard<'_, QuotaState>,
        now_us: u64,
        stalled_us: u64,
        least: u64,
        is_needed: impl Fn(&QuotaState, u64) -> bool,
    ) {
        let may_go = |holder: &Holder| {
            let is_stalled = now_us.saturating_sub(holder.progress_us) >= stalled_us;
            let may = is_stalled && !holder.is_exempt() && !holder.is_evicted && holder.amount > 0;
            may && (least == 0 || state.held_by(holder.address) >= least)
        };
        let weights = state.holders.iter().filter(|(_, holder)| may_go(holder));
        let mut worst: BinaryHeap<_> = weights.map(|(at, h)| (h.weight(now_us), at)).collect();
        let mut wakers = Vec::new();
        while let Some((_, at)) = worst.pop()
            && is_needed(&state, state.holders[at].amount)
        {
            wakers.extend(state.choose(at));
        }
        drop(state);
        wake(wakers);
    }

    /// The counts.
    pub fn counts(&self) -> Held {
        let state = self.state();
        Held {
            name: self.0.name,
            held: state.held,
            max: self.0.max,
            refused: state.refused,
            evicted: state.evicted,
        }
    }

    fn state(&self) -> MutexGuard<'_, QuotaState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the owners of chosen holders; called without the lock, because a waker may look at the quota.
fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Permit {
    /// The charged amount.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Changes the amount of the permit, whatever the limit. A smaller amount counts as progress, and so does the first
    /// amount.
    pub fn set(&mut self, amount: u64, now_us: u64) {
        if amount == self.amount {
            return;
        }
        let mut state = self.quota.state();
        state.set(self.at, amount);
        if amount < self.amount || self.amount == 0 {
            state.progress(self.at, now_us);
        }
        self.amount = amount;
    }

    /// Takes over the amount of another permit of the same client, in the same sum.
    pub fn merge(&mut self, other: Self) {
        debug_assert!(Arc::ptr_eq(&self.quota.0, &other.quota.0), "another sum");
        self.amount += other.amount;
        self.quota.state().set(self.at, self.amount);
    }

    /// Adds `more` to the permit, by the granting rule. `shared` is the part of `more` that is in the sum already,
    /// because other addresses hold the same. An address that holds less than `least` gets the amount even if little is
    /// free. Without room, returns false and counts the refusal.
    pub fn grant_more(&mut self, more: u64, shared: u64, least: u64) -> bool {
        let mut state = self.quota.state();
        let free = state.free(self.quota.0.max);
        let held = state.held_by(state.holders[self.at].address);
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
        let mut state = self.quota.state();
        self.amount -= part;
        state.set(self.at, self.amount);
        state.held += shared;
    }

    /// Records progress that does not show as a smaller amount. If `now_us` is in the future, the holder counts as
    /// making progress until then.
    pub fn progress(&self, now_us: u64) {
        self.quota.state().progress(self.at, now_us);
    }

    /// Records that the holder works: it is not evicted, even if it was chosen already, until it makes
    /// [`progress`](Self::progress) or [`rest`](Self::rest)s.
    pub fn work(&self) {
        self.quota.state().work(self.at);
    }

    /// Records that the holder may be evicted for a new holder ([`fit`](Self::fit)), until it makes
    /// [`progress`](Self::progress) or [works](Self::work).
    pub fn rest(&self, rest: Rest) {
        self.quota.state().rest(self.at, rest);
    }

    /// Counts the holder for another address from now on.
    pub fn move_to(&self, client: ClientAddr) {
        self.quota.state().move_to(self.at, client.group());
    }

    /// Makes room for this holder, which is new or has grown: evicts holders that rest while there are more holders than
    /// there may be, or more is held than the limit allows; and, with a share, those of its address while the address
    /// would not get the amount by the granting rule. Which holders are evicted first, [`Sharing`] says.
    ///
    /// # Errors
    /// Too few holders rest; the refusal is counted.
    pub fn fit(&self, room: Room, now_us: u64) -> Result<(), Full> {
        let max = self.quota.0.max;
        let mut state = self.quota.state();
        let wakers = state.make_room_for(self.at, max, room, now_us);
        let fits = state.full_for(self.at, max, room);
        state.refused += u64::from(fits.is_err());
        drop(state);
        wake(wakers);
        fits
    }

    /// Whether the address would have room for this permit if it were made anew ([`Quota::has_room_for`]).
    pub fn has_room(&self) -> bool {
        let state = self.quota.state();
        let free = self.quota.0.max.saturating_sub(state.held - self.amount);
        state.held_by(state.holders[self.at].address) - self.amount < free
    }

    /// Whether the holder has to give up what it holds.
    pub fn is_evicted(&self) -> bool {
        self.quota.state().holders[self.at].is_evicted
    }

    /// Sets the waker that is called when this holder is chosen for eviction: at once, if that has happened already.
    pub fn wake_with(&self, waker: &Waker) {
        let mut state = self.quota.state();
        let holder = &mut state.holders[self.at];
        match &mut holder.waker {
            Some(kept) => (**kept).clone_from(waker),
            kept => *kept = Some(Box::new(waker.clone())),
        }
        let is_evicted = holder.is_evicted;
        drop(state);
        if is_evicted {
            waker.wake_by_ref();
        }
    }

    /// The address that the permit counts for.
    pub fn address(&self) -> ClientAddr {
        self.quota.state().holders[self.at].address
    }

    /// The sum that the permit is part of.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.quota.state().remove(self.at);
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.amount, self.quota.0.name)
    }
}

#[cfg(test)]
mod tests;
