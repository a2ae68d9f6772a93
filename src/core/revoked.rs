//! The clients that an operator cuts off: a choice of connections to close, and the list of users, tokens and addresses
//! that are refused wherever they connect, until their tokens have ended.

mod cut;
mod ends;

pub use cut::{Connected, Cut, WasConnected};
use cut::{KINDS, ROLE, USER};
use ends::Ends;
use foldhash::quality::RandomState;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use weirgate_wire::auth::{Refusal, TokenMarks};

/// The most entries by default.
const MAX: usize = 10_000;

/// The most entries that `newest` returns.
const NEWEST_MAX: usize = 20;

/// Refusals, found by their conditions. All times are Unix milliseconds.
#[derive(Debug, Default)]
struct Refusals {
    by_conditions: HashMap<Arc<Cut>, Ends, RandomState>,
    /// All refusals by their last end: those that have ended are found without the others.
    by_end: BTreeSet<(i64, Arc<Cut>)>,
    /// Refusals of each [`Cut::kind`].
    kinds: [usize; KINDS],
}

impl Refusals {
    fn len(&self) -> usize {
        self.by_conditions.len()
    }

    fn has(&self, cut: &Cut) -> bool {
        self.by_conditions.contains_key(&cut.key())
    }

    /// Whether a refusal with exactly these conditions has not ended.
    fn holds(&self, cut: &Cut, now: i64) -> bool {
        let ends = self.by_conditions.get(&cut.key());
        // The end for old tokens is the last end: never before that for all.
        ends.is_some_and(|ends| now < ends.old)
    }

    /// Adds a refusal. Of two with the same conditions the later ends hold; returns these.
    fn add(&mut self, cut: &Cut, ends: Ends) -> Ends {
        let before = self.remove(cut);
        let ends = before.map_or(ends, |before| before.merge(ends));
        let key = Arc::new(cut.key());
        self.kinds[key.kind()] += 1;
        self.by_conditions.insert(Arc::clone(&key), ends);
        self.by_end.insert((ends.old, key));
        ends
    }

    fn remove(&mut self, cut: &Cut) -> Option<Ends> {
        let (key, ends) = self.by_conditions.remove_entry(&cut.key())?;
        self.kinds[key.kind()] -= 1;
        self.by_end.remove(&(ends.old, key));
        Some(ends)
    }

    /// Forgets refusals that have ended, for room alone: a clock that is wrong for a moment would free users for good.
    fn prune(&mut self, now: i64) {
        while self.by_end.first().is_some_and(|(end, _)| *end <= now) {
            let Some((_, cut)) = self.by_end.pop_first() else {
                return;
            };
            self.by_conditions.remove(&cut);
            self.kinds[cut.kind()] -= 1;
        }
    }

    /// Whether a refusal meets this client at this time.
    fn refuse(&self, client: &Connected<'_>, now: i64) -> bool {
        let kinds = (0..self.kinds.len()).filter(|kind| self.kinds[*kind] > 0);
        kinds
            .filter_map(|kind| Some((kind, Cut::of(kind, client)?)))
            .any(|(kind, conditions)| self.refuse_any_user(kind, conditions, client, now))
    }

    /// Whether there is a refusal with these conditions. If refusals of this kind name a user, looks one up for each user
    /// of the client, because a certificate may name another user than the token.
    fn refuse_any_user(
        &self,
        kind: usize,
        mut conditions: Cut,
        client: &Connected<'_>,
        now: i64,
    ) -> bool {
        if kind & USER == 0 {
            return self.refuse_any_role(kind, conditions, client.marks, now);
        }
        client.users().any(|user| {
            conditions.user = Some(user.to_owned());
            self.refuse_any_role(kind, conditions.clone(), client.marks, now)
        })
    }

    /// Whether a refusal of this kind has these conditions. If refusals of this kind name a role, looks one up for each
    /// role of the token.
    fn refuse_any_role(
        &self,
        kind: usize,
        mut conditions: Cut,
        marks: Option<&TokenMarks>,
        now: i64,
    ) -> bool {
        let refuse = |conditions: &Cut| {
            let ends = self.by_conditions.get(conditions);
            ends.is_some_and(|ends| ends.refuse(marks, now))
        };
        if kind & ROLE == 0 {
            return refuse(&conditions);
        }
        let mut roles = marks.iter().flat_map(|marks| marks.roles.iter());
        roles.any(|role| {
            conditions.role = Some(role.to_string());
            refuse(&conditions)
        })
    }
}

/// The list is full: nothing was added. A list that forgot its oldest entry would accept a refused user again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of refused users and tokens is full: {0} entries")]
pub struct RevokedFull(pub usize);

/// What [`Revoked::lift`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifted {
    /// Whether there was such a refusal by a request; it is gone.
    pub was_refused: bool,
    /// Whether a line of the file refuses the same, and goes on to.
    pub is_in_file: bool,
}

/// The users, tokens and addresses that are refused wherever they connect. Copies share the list.
#[derive(Clone, Debug)]
pub struct Revoked {
    max: usize,
    lists: Arc<RwLock<Lists>>,
}

#[derive(Debug, Default)]
struct Lists {
    /// Added by requests of operators.
    of_calls: Refusals,
    /// The lines of the file.
    of_file: Refusals,
}

impl Lists {
    fn len(&self) -> usize {
        self.of_calls.len() + self.of_file.len()
    }

    fn prune(&mut self, now_unix_ms: i64) {
        self.of_calls.prune(now_unix_ms);
        self.of_file.prune(now_unix_ms);
    }

    /// Adds what is refused after a cut. Returns the entry in the form for other processes.
    ///
    /// # Errors
    /// There is no room.
    fn add(&mut self, refused: &Cut, max: usize, now_unix_ms: i64) -> Result<Cut, RevokedFull> {
        if !self.of_calls.has(refused) {
            if self.len() >= max {
                self.prune(now_unix_ms);
            }
            if self.len() >= max {
                return Err(RevokedFull(max));
            }
        }
        let ends = Ends::of_call(refused, now_unix_ms);
        Ok(refused.ending(&self.of_calls.add(refused, ends)))
    }
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

    /// Adds what is refused after a cut. Called before the connections are closed, so that no client comes back
    /// meanwhile. An earlier refusal with the same conditions is never shortened. Returns the entry in the form for
    /// other processes.
    ///
    /// # Errors
    /// There is no room.
    pub fn add(&self, refused: &Cut, now_unix_ms: i64) -> Result<Cut, RevokedFull> {
        self.write().add(refused, self.max, now_unix_ms)
    }

    /// Adds all entries, as [`add`](Self::add) does. Returns for how many that have not ended there was no room.
    pub fn add_all(&self, now_unix_ms: i64, entries: Vec<Cut>) -> usize {
        let mut lists = self.write();
        let holds = |refused: &Cut| now_unix_ms < Ends::of_call(refused, now_unix_ms).old;
        let left_out = entries.into_iter().filter(|refused| {
            let added = lists.add(refused, self.max, now_unix_ms);
            added.is_err() && holds(refused)
        });
        left_out.count()
    }

    /// The entries of requests, in the form for other processes.
    pub fn of_calls(&self) -> Vec<Cut> {
        let lists = self.read();
        let entries = lists.of_calls.by_conditions.iter();
        entries.map(|(cut, ends)| cut.ending(ends)).collect()
    }

    /// Takes a refusal with exactly these conditions back, and says what was found. A line of the file stays: the next
    /// reading would bring it again.
    pub fn lift(&self, cut: &Cut, now_unix_ms: i64) -> Lifted {
        let mut lists = self.write();
        let was_refused = lists.of_calls.holds(cut, now_unix_ms);
        lists.of_calls.remove(cut);
        Lifted {
            was_refused,
            is_in_file: lists.of_file.holds(cut, now_unix_ms),
        }
    }

    /// Replaces the entries of the file. An entry without an end holds while the file has it;
    /// of two with the same conditions, the later ends hold.
    ///
    /// # Errors
    /// There is no room.
    pub fn replace_file(&self, cuts: &[Cut], now_unix_ms: i64) -> Result<(), RevokedFull> {
        let mut refusals = Refusals::default();
        for cut in cuts {
            refusals.add(cut, Ends::of_line(cut, now_unix_ms));
        }
        let mut lists = self.write();
        if refusals.len() + lists.of_calls.len() > self.max {
            refusals.prune(now_unix_ms);
            lists.prune(now_unix_ms);
        }
        if refusals.len() + lists.of_calls.len() > self.max {
            return Err(RevokedFull(self.max));
        }
        lists.of_file = refusals;
        Ok(())
    }

    /// Whether this client may be here. Every door asks this one question: the hub at a handshake and at a new token,
    /// plain HTTP at each request, and a gateway before work that it does for a client that has waited.
    ///
    /// # Errors
    /// An operator has cut the client off.
    pub fn admit(&self, who: &Connected<'_>, now_unix_ms: i64) -> Result<(), Refusal> {
        let lists = self.read();
        let lists = [&lists.of_calls, &lists.of_file];
        match lists.iter().any(|one| one.refuse(who, now_unix_ms)) {
            true => Err(Refusal::Revoked),
            false => Ok(()),
        }
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

    fn write(&self) -> RwLockWriteGuard<'_, Lists> {
        self.lists.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
