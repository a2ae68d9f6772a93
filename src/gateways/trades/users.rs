//! Users whose token has a symbol limit: the symbols that a user's connections hold, and the search for dead
//! connections.
//!
//! A user who changes networks may be over the limit only because of a dead connection that the gateway has not noticed
//! yet. So the request waits for a sign of life of the user's other connections. A connection without a sign of life is
//! closed. A user may have tens of thousands of connections, so they are pinged, and closed, over several turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{self, Excluded, Unbounded};
use std::sync::Arc;

use super::TradesGateway;
use super::client::{Content, HeldSymbols, PendingSubscribe, TradesClient, not_held};
use super::request::{Subscribe, TradesRequest};
use weirgate_core::{CloseReason, Closing, Core, Gateway as _, SessionKey};
use weirgate_wire::base::ExtendibleMap;

/// How long a request over its user's limit waits for signs of life of the user's other connections.
const SIGN_OF_LIFE_US: u64 = 2_000_000;

/// A user whose token has a symbol limit.
#[derive(Debug, Default)]
struct User {
    /// Each connection with symbols, and how many it holds.
    holders: BTreeMap<SessionKey, usize>,
    /// Their sum.
    symbols: usize,
    /// Connections whose request waits.
    waiting: BTreeSet<SessionKey>,
    /// The next connection of `waiting` whose request is judged before its deadline. `None`: no round is under way.
    /// They may be very many, so each request that was judged has the next one judged, in as many turns as it takes.
    next_to_judge: Option<SessionKey>,
    search: DeadConnectionSearch,
}

/// The search for a user's dead connections, which lasts while requests wait.
#[derive(Debug, Default)]
struct DeadConnectionSearch {
    /// The connections that are still to be pinged: those after this bound. `None`: all were pinged.
    rest: Option<Bound<SessionKey>>,
    /// The pinged connections without a sign of life, as far as the gateway knows.
    silent: BTreeSet<SessionKey>,
    /// When the last one was pinged, microseconds.
    pinged_us: u64,
}

impl User {
    /// Removes up to `count` symbols of a connection.
    fn remove(&mut self, key: SessionKey, count: usize) {
        if let Some(held) = self.holders.get_mut(&key) {
            let gone = count.min(*held);
            *held -= gone;
            self.symbols -= gone;
            if *held == 0 {
                self.holders.remove(&key);
                self.search.silent.remove(&key);
            }
        }
    }

    /// Pings the next connection, unless its request waits: that is a sign of life.
    fn ping_next(&mut self, core: &mut Core) {
        let Some(rest) = self.search.rest else {
            return;
        };
        let next = self.holders.range((rest, Unbounded)).next();
        let next = next.map(|(key, _)| *key);
        self.search.rest = next.map(Excluded);
        // `probe` returns false for a client that cannot answer.
        match next {
            Some(key) if !self.waiting.contains(&key) && core.probe(key) => {
                self.search.silent.insert(key);
            }
            Some(_) => {}
            None => self.search.pinged_us = core.now().mono_us,
        }
    }

    /// Whether a connection may be dead: it is still to be pinged, or has given no sign of life since. Removes the
    /// connections before it in `silent` that have given one.
    fn may_be_dead(&mut self, core: &Core) -> bool {
        if self.search.rest.is_some() {
            return true;
        }
        // A client that reads is alive too, and the core does not call the gateway for that.
        while let Some(key) = self.search.silent.first().copied() {
            if core.is_silent(key) {
                return true;
            }
            self.search.silent.remove(&key);
        }
        false
    }

    /// Has the waiting requests judged, from the first one on.
    fn judge_all(&mut self, core: &mut Core) {
        self.judge(core, self.waiting.first().copied());
    }

    /// Goes on with the next waiting request if that of `key` was the one to judge; it was judged, or has ended.
    fn judge_after(&mut self, core: &mut Core, key: SessionKey) {
        if self.next_to_judge == Some(key) {
            let mut later = self.waiting.range((Excluded(key), Unbounded));
            let next = later.next().copied();
            self.judge(core, next);
        }
    }

    /// Has the request of `next` judged in this turn: its deadline is now.
    fn judge(&mut self, core: &mut Core, next: Option<SessionKey>) {
        self.next_to_judge = next;
        if let Some(key) = next {
            core.set_deadline(key, Some(core.now().mono_us));
        }
    }

    /// Connections without a sign of life, and their symbols.
    fn silent(&self, core: &Core) -> impl Iterator<Item = (SessionKey, usize)> {
        let pinged = self.search.silent.iter().copied();
        let silent = pinged.filter(|key| core.is_silent(*key));
        silent.filter_map(|key| Some((key, *self.holders.get(&key)?)))
    }
}

/// Symbols by user, over all of a user's connections.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// A user without symbols and without a waiting request has no entry.
    all: ExtendibleMap<Arc<str>, User>,
    /// Users with connections that are still to be pinged.
    searched: VecDeque<Arc<str>>,
    /// Dead connections that are still to be closed; their symbols no longer count.
    dead: VecDeque<SessionKey>,
}

impl Users {
    /// The number of symbols that count against this connection's limit.
    pub(super) fn count(&self, client: &HeldSymbols) -> usize {
        match &client.user {
            Some(user) => self.all.get(user).map_or(0, |user| user.symbols),
            None => client.count(),
        }
    }

    /// Whether `more` symbols would exceed the limit.
    pub(super) fn is_over(&self, client: &HeldSymbols, more: usize) -> bool {
        more > 0 && self.count(client) + more > client.symbols_max
    }

    /// Counts `count` more symbols of the connection for its user. Without a user, nothing counts.
    pub(super) fn add(&mut self, key: SessionKey, client: &HeldSymbols, count: usize) {
        if let Some(user) = &client.user
            && count > 0
        {
            let user = self.all.get_or_insert_default(Arc::clone(user));
            *user.holders.entry(key).or_default() += count;
            user.symbols += count;
        }
    }

    /// Removes symbols of a connection, and has the requests of the user's other connections judged again.
    pub(super) fn remove(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &HeldSymbols,
        count: usize,
    ) {
        if let Some(user) = self.user(client)
            && count > 0
        {
            user.remove(key, count);
            user.judge_all(core);
        }
        self.forget(client);
    }

    /// Pings the user's other connections, because one of them may be dead: a client that changes networks leaves a
    /// connection that looked alive a moment ago. Those for which the client's share of the turn has no time are pinged in
    /// later turns. Returns false if none of them owes an answer; otherwise the request of `key` waits until
    /// [`Users::is_settled`], or until its deadline. While a request waits, the pings of that request count for the next
    /// one too.
    pub(super) fn probe(&mut self, core: &mut Core, key: SessionKey, client: &HeldSymbols) -> bool {
        let Some(name) = &client.user else {
            return false;
        };
        let Some(user) = self.all.get_mut(name) else {
            return false;
        };
        let is_first = user.waiting.is_empty();
        user.waiting.insert(key);
        if is_first {
            user.search = DeadConnectionSearch {
                rest: Some(Unbounded),
                ..DeadConnectionSearch::default()
            };
            user.ping_next(core);
            while user.search.rest.is_some() && core.has_share() {
                user.ping_next(core);
            }
            if user.search.rest.is_some() {
                self.searched.push_back(Arc::clone(name));
            }
        }
        let waits = user.may_be_dead(core);
        if !waits {
            user.waiting.remove(&key);
        }
        waits
    }

    /// Whether connections are still to be pinged or closed.
    pub(super) fn has_work(&self) -> bool {
        !self.searched.is_empty() || !self.dead.is_empty()
    }

    /// Pings the next connections, as many as there is time for; users take turns. Once all connections of a user are
    /// pinged, the waiting requests are judged.
    pub(super) fn ping_next(&mut self, core: &mut Core) {
        while let Some(name) = self.searched.front() {
            let user = self.all.get_mut(name);
            let user = user.filter(|user| !user.waiting.is_empty());
            match user {
                Some(user) if user.search.rest.is_some() => {
                    user.ping_next(core);
                    if user.search.rest.is_none() {
                        user.judge_all(core);
                    }
                }
                _ => drop(self.searched.pop_front()),
            }
            if !core.has_time() {
                self.searched.rotate_left(self.searched.len().min(1));
                return;
            }
        }
    }

    /// The next dead connection to close.
    pub(super) fn next_dead(&mut self) -> Option<SessionKey> {
        self.dead.pop_front()
    }

    /// Handles a sign of life of a connection. If no connection may be dead any more, the waiting requests are judged.
    pub(super) fn answered(&mut self, core: &mut Core, key: SessionKey, client: &HeldSymbols) {
        if let Some(user) = self.user(client) {
            user.search.silent.remove(&key);
            if !user.may_be_dead(core) {
                user.judge_all(core);
            }
        }
    }

    /// Has the next waiting request of the user judged, if this connection's request was the one to judge.
    fn judged(&mut self, core: &mut Core, key: SessionKey, client: &HeldSymbols) {
        if let Some(user) = self.user(client) {
            user.judge_after(core, key);
        }
    }

    /// The time until which a request waits for signs of life: each connection has [`SIGN_OF_LIFE_US`] from its ping.
    pub(super) fn wait_until(&mut self, core: &Core, client: &HeldSymbols, due_us: u64) -> u64 {
        let search = self.user(client).map(|user| &user.search);
        let pinged_us = search.map_or(0, |search| match search.rest {
            // Some are still to be pinged.
            Some(_) => core.now().mono_us,
            None => search.pinged_us,
        });
        due_us.max(pinged_us + SIGN_OF_LIFE_US)
    }

    /// Whether a waiting request can be judged before its time: it fits, or no other connection may be dead.
    pub(super) fn is_settled(&mut self, core: &Core, client: &HeldSymbols, more: usize) -> bool {
        let is_over = self.is_over(client, more);
        let user = self.user(client);
        !is_over || user.is_none_or(|user| !user.may_be_dead(core))
    }

    /// Ends the wait of a request for `more` symbols. If the request fits without the silent connections, removes the
    /// symbols of these connections, which are closed next.
    pub(super) fn settle(
        &mut self,
        core: &Core,
        key: SessionKey,
        client: &HeldSymbols,
        more: usize,
    ) {
        let over = (self.count(client) + more).saturating_sub(client.symbols_max);
        let mut silent = Vec::new();
        if let Some(user) = self.user(client) {
            user.waiting.remove(&key);
            silent.extend(user.silent(core).filter(|(other, _)| *other != key));
            let freed: usize = silent.iter().map(|(_, count)| count).sum();
            if over == 0 || freed < over {
                silent.clear();
            }
            for (other, count) in &silent {
                user.remove(*other, *count);
            }
        }
        self.forget(client);
        self.dead.extend(silent.into_iter().map(|(key, _)| key));
    }

    /// Removes a connection that has ended.
    pub(super) fn remove_ended(&mut self, core: &mut Core, key: SessionKey, client: &HeldSymbols) {
        if let Some(user) = self.user(client) {
            user.waiting.remove(&key);
            user.judge_after(core, key);
        }
        self.remove(core, key, client, client.count());
    }

    /// Returns true if no user holds a symbol.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn user(&mut self, client: &HeldSymbols) -> Option<&mut User> {
        self.all.get_mut(client.user.as_ref()?)
    }

    /// Removes the user of the client if no connection of the user holds symbols or has a request that waits.
    fn forget(&mut self, client: &HeldSymbols) {
        if let Some(user) = &client.user
            && let Some(rest) = self.all.get(user)
            && rest.holders.is_empty()
            && rest.waiting.is_empty()
        {
            self.all.remove(user);
        }
    }
}

impl TradesGateway {
    /// Subscribes a client. A request over its user's limit waits for signs of life of the user's other connections;
    /// the client's later messages wait with it.
    pub(super) fn subscribe_or_wait(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut TradesClient,
        content: Content,
        asked: Subscribe,
    ) {
        let more = not_held(core, key, content, &asked.symbols);
        let is_over = self.users.is_over(&client.held, more.len());
        if !is_over || !self.users.probe(core, key, &client.held) {
            let request = Ok(TradesRequest::Subscribe(content, asked));
            return self.carry_out(core, key, client, Some(request));
        }
        client.waiting = Some(Box::new(PendingSubscribe {
            content,
            asked,
            due_us: core.now().mono_us + SIGN_OF_LIFE_US,
        }));
        core.pause_reading(key);
        core.set_deadline(key, client.due_us(core.now()));
    }

    /// Answers a waiting request whose time has come, or whose user's other connections are known to be alive. Closes
    /// connections that gave no sign of life, if that makes room.
    pub(super) fn settle(&mut self, core: &mut Core, key: SessionKey, client: &mut TradesClient) {
        let Some(mut waiting) = client.waiting.take() else {
            return;
        };
        self.users.judged(core, key, &client.held);
        let more = not_held(core, key, waiting.content, &waiting.asked.symbols).len();
        waiting.due_us = self.users.wait_until(core, &client.held, waiting.due_us);
        let is_due = core.now().mono_us >= waiting.due_us;
        if !is_due && !self.users.is_settled(core, &client.held, more) {
            client.waiting = Some(waiting);
            return;
        }
        self.users.settle(core, key, &client.held, more);
        self.close_dead(core);
        let request = Ok(TradesRequest::Subscribe(waiting.content, waiting.asked));
        self.carry_out(core, key, client, Some(request));
        core.resume_reading(key);
    }

    /// Closes connections that gave no sign of life, as many as there is time for.
    pub(super) fn close_dead(&mut self, core: &mut Core) {
        while let Some(dead) = self.users.next_dead() {
            let reason = CloseReason::PongTimeout;
            let code = self.pong_timeout_code();
            core.close(dead, code, reason, Closing::Now);
            if !core.has_time() {
                return;
            }
        }
    }
}
