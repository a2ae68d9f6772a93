//! The clients that an operator cuts off: a choice of connections to close, and the list of users, tokens and addresses
//! that are refused wherever they connect, until their tokens have ended.

mod cut;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use cut::{Connected, Cut};
use foldhash::quality::RandomState;

use weirgate_wire::auth::TokenMarks;

/// A refusal lasts this long if no token says when it ends. Unless the cut has an end, tokens from before the refusal
/// stay refused for at least this long.
pub(super) const REFUSED_MS: i64 = 24 * 60 * 60 * 1000;

/// The most entries by default.
const MAX: usize = 10_000;

/// The most entries that `newest` returns.
const NEWEST_MAX: usize = 20;

/// When a refusal ends, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    /// When the refusal began.
    since: i64,
    /// When it ends for every token, whenever the token was issued.
    all: i64,
    /// When it ends for tokens from before the refusal, and for those that do not say when they were made: some may
    /// end later than the tokens that were connected.
    old: i64,
    /// `all` of the refusal once the tokens are known; `None` until the first walk has ended.
    settled: Option<i64>,
}

impl Ends {
    fn new(cut: &Cut, now: i64, by_default: i64) -> Self {
        let ms = |seconds: i64| seconds.saturating_mul(1000);
        let all = cut.until.map_or(by_default, ms);
        let since = cut.since.map_or(now, ms);
        let old = match cut.until.is_some() && cut.since.is_none() {
            true => all,
            false => all.max(since.saturating_add(REFUSED_MS)),
        };
        Self {
            since,
            all,
            old,
            settled: Some(all),
        }
    }

    /// The ends of two refusals with the same conditions: each at its latest.
    fn merge(self, other: Self) -> Self {
        Self {
            since: self.since.max(other.since),
            all: self.all.max(other.all),
            old: self.old.max(other.old),
            settled: self.settled.max(other.settled),
        }
    }

    fn refuse(&self, marks: Option<&TokenMarks>, now: i64) -> bool {
        let issued = marks.and_then(|marks| marks.issued_unix_ms);
        // An unknown age may be from before.
        now < self.all || now < self.old && issued.is_none_or(|at| at <= self.since)
    }
}

/// Refusals, found by their conditions.
#[derive(Debug, Default)]
struct Refusals {
    by_conditions: HashMap<Arc<Cut>, Ends, RandomState>,
    /// The same, with their last end: those that have ended are found without the others.
    by_end: BTreeSet<(i64, Arc<Cut>)>,
    /// Refusals of each [`Cut::kind`].
    kinds: [usize; 32],
}

impl Refusals {
    fn len(&self) -> usize {
        self.by_conditions.len()
    }

    fn get(&self, cut: &Cut) -> Option<Ends> {
        self.by_conditions.get(&cut.key()).copied()
    }

    fn insert(&mut self, cut: &Cut, ends: Ends) {
        let key = Arc::new(cut.key());
        match self.by_conditions.insert(Arc::clone(&key), ends) {
            None => self.kinds[key.kind()] += 1,
            Some(before) => {
                self.by_end.remove(&(before.old, Arc::clone(&key)));
            }
        }
        self.by_end.insert((ends.old, key));
    }

    /// Forgets refusals that have ended.
    fn prune(&mut self, now: i64) {
        while self.by_end.first().is_some_and(|(end, _)| *end <= now) {
            let Some((_, cut)) = self.by_end.pop_first() else {
                return;
            };
            self.by_conditions.remove(&cut);
            self.kinds[cut.kind()] -= 1;
        }
    }

    fn refuse(&self, connected: &Connected<'_>, now: i64) -> bool {
        let kinds = (0..self.kinds.len()).filter(|kind| self.kinds[*kind] > 0);
        kinds
            .filter_map(|kind| Some((kind, Cut::of(kind, connected)?)))
            .any(|(kind, key)| self.refuse_kind(kind, key, connected, now))
    }

    /// Tries each user and each role of the connection.
    fn refuse_kind(&self, kind: usize, mut key: Cut, connected: &Connected<'_>, now: i64) -> bool {
        let marks = connected.marks;
        let refuses = |key: &Cut| {
            let ends = self.by_conditions.get(key);
            ends.is_some_and(|ends| ends.refuse(marks, now))
        };
        let of_roles = |key: &mut Cut| {
            if kind >> 3 & 1 == 0 {
                return refuses(key);
            }
            let mut roles = marks.iter().flat_map(|marks| marks.roles.iter());
            roles.any(|role| {
                key.role = Some(role.to_string());
                refuses(key)
            })
        };
        if kind & 1 == 0 {
            return of_roles(&mut key);
        }
        connected.users().any(|user| {
            key.user = Some(user.to_owned());
            of_roles(&mut key)
        })
    }
}

/// The list is full: nothing was added. A list that forgot its oldest entry would accept a refused user again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of refused users and tokens is full: {0} entries")]
pub struct Full(pub usize);

/// The users, tokens and addresses that are refused wherever they connect. Copies share the list.
#[derive(Clone, Debug)]
pub struct Revoked {
    max: usize,
    lists: Arc<RwLock<Lists>>,
}

#[derive(Debug, Default)]
struct Lists {
    of_calls: Refusals,
    of_file: Refusals,
}

impl Default for Revoked {
    /// An empty list for the default number of entries.
    fn default() -> Self {
        Self::new(MAX)
    }
}

impl Revoked {
    /// An empty list for at most `max` entries.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            lists: Arc::default(),
        }
    }

    /// The most entries.
    pub const fn max(&self) -> usize {
        self.max
    }

    /// Whether there is no entry, also none that has ended.
    pub fn is_empty(&self) -> bool {
        let lists = self.read();
        lists.of_calls.len() + lists.of_file.len() == 0
    }

    /// Adds what is refused after a cut. Called before the connections are closed, so that no client comes back
    /// meanwhile. Until [`settle`](Self::settle) every token is refused.
    ///
    /// # Errors
    /// There is no room.
    pub fn add(&self, refused: &Cut, now_unix_ms: i64) -> Result<(), Full> {
        let mut lists = self.pruned(now_unix_ms);
        let entries = lists.of_calls.len() + lists.of_file.len();
        let before = lists.of_calls.get(refused);
        if before.is_none() && entries >= self.max {
            return Err(Full(self.max));
        }
        let settled = before.and_then(|ends| ends.settled);
        let ends = Ends::new(refused, now_unix_ms, settled.unwrap_or(now_unix_ms));
        let all = ends.old;
        let ends = Ends {
            all,
            settled,
            ..ends
        };
        lists.of_calls.insert(refused, ends);
        Ok(())
    }

    /// Sets the end of a new refusal, unless the cut has an end: the latest end of the tokens that were cut, or the end
    /// of an earlier refusal with the same conditions if that is later. Without both, and of an address at least, it
    /// lasts for `REFUSED_MS`. Returns the entry in the form for other processes.
    pub fn settle(&self, refused: &Cut, latest_end: Option<i64>, now_unix_ms: i64) -> Cut {
        let mut lists = self.pruned(now_unix_ms);
        let a_day = now_unix_ms.saturating_add(REFUSED_MS);
        // Behind an address there are other tokens than those that were connected.
        let least = refused.is_address().then_some(a_day);
        // Not `all`, which is for the time until here, of this cut or of an equal one at the same time.
        let before = lists.of_calls.get(refused).and_then(|ends| ends.settled);
        let before = before.filter(|end| now_unix_ms < *end);
        let by_default = latest_end.max(before).max(least).unwrap_or(a_day);
        let ends = Ends::new(refused, now_unix_ms, by_default);
        lists.of_calls.insert(refused, ends);
        refused.ending(&ends)
    }

    /// Replaces the entries of the file. An entry without an end holds while the file has it;
    /// of two with the same conditions, the later ends hold.
    ///
    /// # Errors
    /// There is no room.
    pub fn replace_file(&self, cuts: &[Cut], now_unix_ms: i64) -> Result<(), Full> {
        let mut refusals = Refusals::default();
        for cut in cuts {
            let ends = Ends::new(cut, now_unix_ms, i64::MAX);
            let other = refusals.get(cut);
            refusals.insert(cut, other.map_or(ends, |other| ends.merge(other)));
        }
        refusals.prune(now_unix_ms);
        let mut lists = self.pruned(now_unix_ms);
        if refusals.len() + lists.of_calls.len() > self.max {
            return Err(Full(self.max));
        }
        lists.of_file = refusals;
        Ok(())
    }

    /// Whether this connection is refused.
    pub fn refuse(&self, connected: &Connected<'_>, now_unix_ms: i64) -> bool {
        let lists = self.read();
        let lists = [&lists.of_calls, &lists.of_file];
        lists.iter().any(|one| one.refuse(connected, now_unix_ms))
    }

    /// The number of entries that hold, and the newest of them, the newest first.
    pub fn newest(&self, now_unix_ms: i64) -> (usize, Vec<Cut>) {
        let lists = self.read();
        let both = lists
            .of_calls
            .by_conditions
            .iter()
            .chain(&lists.of_file.by_conditions);
        let mut held: Vec<_> = both.filter(|(_, ends)| now_unix_ms < ends.old).collect();
        held.sort_by_key(|(_, ends)| Reverse(ends.since));
        let newest = held.iter().take(NEWEST_MAX);
        let newest = newest.map(|(cut, ends)| cut.ending(ends));
        (held.len(), newest.collect())
    }

    /// The lists without the entries that have ended, so that these take no room.
    fn pruned(&self, now_unix_ms: i64) -> RwLockWriteGuard<'_, Lists> {
        let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        lists.of_calls.prune(now_unix_ms);
        lists.of_file.prune(now_unix_ms);
        lists
    }

    fn read(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
