//! The clients that an operator cuts off: a choice of connections to close, and the list of users, tokens and addresses
//! that are refused wherever they connect, until their tokens have ended.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};

use crate::auth::{TOKEN_BYTES_MAX, TokenMarks};
use crate::wire::json;

/// A refusal lasts this long if no token says when it ends. Unless the cut has an end, tokens from before the refusal
/// stay refused for at least this long.
pub(super) const REFUSED_MS: i64 = 24 * 60 * 60 * 1000;

/// The most entries by default.
const MAX: usize = 10_000;

/// The most entries that `newest` returns.
const NEWEST_MAX: usize = 20;

/// The data of a connection that a cut is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Connected<'a> {
    /// The user; of a device, the hash that the operator's page shows.
    pub user: Option<&'a str>,
    /// The client's address; `None` for a program on a unix socket.
    pub address: Option<IpAddr>,
    /// The connection, as the operator's page shows it.
    pub session: &'a str,
    /// The marks of the token.
    pub marks: Option<&'a TokenMarks>,
}

/// A choice of connections: all conditions that are given have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cut {
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The id of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// A role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// One connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The digest of a token: [`TokenMarks::digest`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the refusal ends, Unix seconds; by default when the tokens end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

impl Cut {
    /// Reads a JSON object, of a request or of a line of the file.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        const WANTED: &str =
            "wanted: a JSON object with user, jti, address, role, session or token";
        let read = json::read(text).map_err(|_| WANTED.to_owned())?;
        let mut cut: Self = read.parse().map_err(|error| {
            let error = error.to_string();
            // After the first line, the error of the parser shows the text.
            format!("{}; {WANTED}", error.lines().next().unwrap_or_default())
        })?;
        let texts = [
            ("user", &cut.user),
            ("jti", &cut.jti),
            ("role", &cut.role),
            ("session", &cut.session),
            ("token", &cut.token),
        ];
        for (name, text) in texts {
            let bytes = text.as_ref().map_or(1, String::len);
            if !(1..=TOKEN_BYTES_MAX).contains(&bytes) {
                return Err(format!("{name}: 1 to {TOKEN_BYTES_MAX} bytes"));
            }
        }
        cut.address = cut.address.map(|ip| ip.to_canonical());
        let conditions = Self {
            until: None,
            ..cut.clone()
        };
        match conditions == Self::default() {
            true => Err(WANTED.to_owned()),
            false => Ok(cut),
        }
    }

    /// Whether all conditions hold for this connection.
    pub fn matches(&self, connected: &Connected<'_>) -> bool {
        fn holds<T: PartialEq + ?Sized>(wanted: Option<&T>, given: Option<&T>) -> bool {
            wanted.is_none() || wanted == given
        }
        let marks = connected.marks;
        let has_role = |role: &String| marks.is_some_and(|m| m.roles.iter().any(|r| **r == **role));
        holds(self.user.as_deref(), connected.user)
            && holds(self.jti.as_deref(), marks.and_then(|m| m.jti.as_deref()))
            && holds(
                self.token.as_deref(),
                marks.and_then(|m| m.digest.as_deref()),
            )
            && holds(self.address.as_ref(), connected.address.as_ref())
            && holds(self.session.as_deref(), Some(connected.session))
            && self.role.as_ref().is_none_or(has_role)
    }

    /// The refusal that follows the cut. `None` for a role alone, whose clients may come back, and for a single
    /// connection, whose token is refused once it is known ([`Cut::of_token`]).
    pub fn refused(&self) -> Option<Self> {
        let role_alone = Self {
            role: self.role.clone(),
            until: self.until,
            ..Self::default()
        };
        (self.session.is_none() && *self != role_alone).then(|| self.clone())
    }

    /// A refusal of the token of a connection that is cut; `None` without a token.
    pub fn of_token(&self, marks: &TokenMarks) -> Option<Self> {
        Some(Self {
            token: Some(marks.digest.as_deref()?.to_owned()),
            until: self.until,
            ..Self::default()
        })
    }

    /// The same cut with an end in whole seconds, not earlier than this Unix millisecond.
    fn ending_at(&self, unix_ms: i64) -> Self {
        let seconds = unix_ms / 1000 + i64::from(unix_ms % 1000 > 0);
        Self {
            until: (unix_ms < i64::MAX).then_some(seconds),
            ..self.clone()
        }
    }

    /// The conditions alone, without the end.
    fn key(&self) -> Self {
        Self {
            until: None,
            ..self.clone()
        }
    }

    /// Which conditions are given, a bit for each.
    fn kind(&self) -> usize {
        let given = [
            self.user.is_some(),
            self.jti.is_some(),
            self.address.is_some(),
            self.role.is_some(),
            self.token.is_some(),
        ];
        given
            .into_iter()
            .rev()
            .fold(0, |bits, is| bits << 1 | usize::from(is))
    }

    /// The only conditions of this kind that a connection can meet, apart from the role; `None` if it cannot meet all
    /// of them.
    fn of(kind: usize, connected: &Connected<'_>) -> Option<Self> {
        let has = |bit: usize| kind >> bit & 1 == 1;
        let marks = connected.marks;
        let text = |bit: usize, text: Option<&str>| match has(bit) {
            true => text.map(|text| Some(text.to_owned())),
            false => Some(None),
        };
        Some(Self {
            user: text(0, connected.user)?,
            jti: text(1, marks.and_then(|m| m.jti.as_deref()))?,
            address: match has(2) {
                true => Some(connected.address?),
                false => None,
            },
            token: text(4, marks.and_then(|m| m.digest.as_deref()))?,
            ..Self::default()
        })
    }
}

/// When a refusal ends, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    /// When the refusal began.
    since: i64,
    /// When it ends for every token, whenever the token was issued.
    all: i64,
    /// When it ends for tokens from before the refusal: some may end later than the tokens that were connected.
    old: i64,
}

impl Ends {
    fn new(cut: &Cut, now: i64, by_default: i64) -> Self {
        let given = cut.until.map(|seconds| seconds.saturating_mul(1000));
        let all = given.unwrap_or(by_default);
        Self {
            since: now,
            all,
            old: given.unwrap_or_else(|| all.max(now.saturating_add(REFUSED_MS))),
        }
    }

    fn refuse(&self, marks: Option<&TokenMarks>, now: i64) -> bool {
        let issued = marks.and_then(|marks| marks.issued_unix_ms);
        now < self.all || now < self.old && issued.is_some_and(|at| at <= self.since)
    }
}

/// Refusals, found by their conditions.
#[derive(Debug, Default)]
struct Refusals {
    by_conditions: HashMap<Cut, Ends, RandomState>,
    /// Refusals of each [`Cut::kind`].
    kinds: [usize; 32],
}

impl Refusals {
    fn insert(&mut self, cut: &Cut, ends: Ends) {
        let key = cut.key();
        let kind = key.kind();
        let before = self.by_conditions.insert(key, ends);
        self.kinds[kind] += usize::from(before.is_none());
    }

    /// Forgets refusals that have ended.
    fn prune(&mut self, now: i64) {
        let kinds = &mut self.kinds;
        self.by_conditions.retain(|cut, ends| {
            let stays = now < ends.old;
            kinds[cut.kind()] -= usize::from(!stays);
            stays
        });
    }

    fn refuse(&self, connected: &Connected<'_>, now: i64) -> bool {
        let marks = connected.marks;
        let refuses = |key: &Cut| {
            let ends = self.by_conditions.get(key);
            ends.is_some_and(|ends| ends.refuse(marks, now))
        };
        let kinds = (0..self.kinds.len()).filter(|kind| self.kinds[*kind] > 0);
        kinds
            .filter_map(|kind| Some((kind, Cut::of(kind, connected)?)))
            .any(|(kind, mut key)| {
                if kind >> 3 & 1 == 0 {
                    return refuses(&key);
                }
                let mut roles = marks.iter().flat_map(|marks| marks.roles.iter());
                roles.any(|role| {
                    key.role = Some(role.to_string());
                    refuses(&key)
                })
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

    /// Whether a refusal can be added.
    pub fn has_room(&self) -> bool {
        self.len() < self.max
    }

    /// The number of entries; some may have ended.
    pub fn len(&self) -> usize {
        let lists = self.read();
        lists.of_calls.by_conditions.len() + lists.of_file.by_conditions.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds what is refused after a cut. Called before the connections are closed, so that no client comes back
    /// meanwhile. Returns the end of an earlier refusal with the same conditions, for [`settle`](Self::settle).
    ///
    /// # Errors
    /// There is no room.
    pub fn add(&self, refused: &Cut, now_unix_ms: i64) -> Result<Option<i64>, Full> {
        let mut lists = self.write();
        let Lists { of_calls, of_file } = &mut *lists;
        let room = self.max.saturating_sub(of_file.by_conditions.len());
        if of_calls.by_conditions.len() >= room {
            of_calls.prune(now_unix_ms);
        }
        let before = of_calls.by_conditions.get(&refused.key());
        if before.is_none() && of_calls.by_conditions.len() >= room {
            return Err(Full(self.max));
        }
        let before = before.map(|ends| ends.all);
        let before = before.filter(|all| now_unix_ms < *all);
        // Until the ends of the tokens are known, every token is refused.
        let ends = Ends::new(refused, now_unix_ms, before.unwrap_or(now_unix_ms));
        let all = ends.old;
        of_calls.insert(refused, Ends { all, ..ends });
        Ok(before)
    }

    /// Sets the end of a new refusal, unless the cut has an end: the latest end of the tokens that were cut, or the end
    /// of the earlier refusal if that is later. Without both it lasts for `REFUSED_MS`. Returns the entry in the form
    /// for other processes.
    pub fn settle(
        &self,
        refused: &Cut,
        latest_end: Option<i64>,
        before: Option<i64>,
        now_unix_ms: i64,
    ) -> Cut {
        let by_default = latest_end.max(before);
        let by_default = by_default.unwrap_or_else(|| now_unix_ms.saturating_add(REFUSED_MS));
        let ends = Ends::new(refused, now_unix_ms, by_default);
        self.write().of_calls.insert(refused, ends);
        refused.ending_at(ends.all)
    }

    /// Replaces the entries of the file. An entry without an end holds while the file has it.
    ///
    /// # Errors
    /// There is no room.
    pub fn replace_file(&self, cuts: &[Cut], now_unix_ms: i64) -> Result<(), Full> {
        let mut refusals = Refusals::default();
        for cut in cuts {
            refusals.insert(cut, Ends::new(cut, now_unix_ms, i64::MAX));
        }
        refusals.prune(now_unix_ms);
        let mut lists = self.write();
        let of_calls = lists.of_calls.by_conditions.len();
        if refusals.by_conditions.len() + of_calls > self.max {
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
        let newest = newest.map(|(cut, ends)| cut.ending_at(ends.all));
        (held.len(), newest.collect())
    }

    fn read(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Lists> {
        self.lists.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
