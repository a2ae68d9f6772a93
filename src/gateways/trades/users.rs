//! Users whose token has a symbol limit: the symbols that a user's connections hold, and the search for dead
//! connections.
//!
//! A user who changes networks may be over the limit only because of a dead connection that the gateway has not noticed
//! yet. So the request waits for a sign of life of the user's other connections. A connection without a sign of life is
//! closed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::TradesGateway;
use super::client::{Content, HeldSymbols, PendingSubscribe, TradesClient, not_held};
use super::request::{Subscribe, TradesRequest};
use weirgate_core::{CloseReason, Closing, Core, Gateway as _, SessionKey};
use weirgate_wire::base::ExtendibleMap;

/// How long a request over its user's limit waits for signs of life of the user's other connections.
const SIGN_OF_LIFE_US: u64 = 2_000_000;

#[derive(Debug, Default)]
struct User {
    /// Each connection with symbols, and how many it holds.
    holders: BTreeMap<SessionKey, usize>,
    /// Their sum.
    symbols: usize,
    /// Connections whose request waits.
    waiting: BTreeSet<SessionKey>,
    /// The next of them to judge before its time. They may be very many, so each one that was judged has the next one
    /// judged, in as many turns as it takes.
    next_to_judge: Option<SessionKey>,
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
            }
        }
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

    fn judge(&mut self, core: &mut Core, next: Option<SessionKey>) {
        self.next_to_judge = next;
        if let Some(key) = next {
            core.set_deadline(key, Some(core.now().mono_us));
        }
    }

    /// Connections without a sign of life since the last [`Users::probe`], and their symbols.
    fn silent(&self, core: &Core) -> impl Iterator<Item = (SessionKey, usize)> {
        let holders = self.holders.iter().map(|(key, count)| (*key, *count));
        holders.filter(|(key, _)| core.is_silent(*key))
    }
}

/// Symbols by user, over all of a user's connections. A user without symbols and without a waiting request has no
/// entry.
#[derive(Debug, Default)]
pub(super) struct Users(ExtendibleMap<Arc<str>, User>);

impl Users {
    /// The number of symbols that count against this connection's limit.
    pub(super) fn count(&self, client: &HeldSymbols) -> usize {
        match &client.user {
            Some(user) => self.0.get(user).map_or(0, |user| user.symbols),
            None => client.count(),
        }
    }

    /// Whether `more` symbols would exceed the limit.
    pub(super) fn is_over(&self, client: &HeldSymbols, more: usize) -> bool {
        more > 0 && self.count(client) + more > client.symbols_max
    }

    pub(super) fn add(&mut self, key: SessionKey, client: &HeldSymbols, count: usize) {
        if let Some(user) = &client.user
            && count > 0
        {
            let user = self.0.get_or_insert_default(Arc::clone(user));
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
    /// connection that looked alive a moment ago. Returns false if none of them owes an answer; otherwise the request of
    /// `key` waits until [`Users::is_settled`], or until its deadline. While a request waits, the pings of that request
    /// count for the next one too.
    pub(super) fn probe(&mut self, core: &mut Core, key: SessionKey, client: &HeldSymbols) -> bool {
        let Some(user) = self.user(client) else {
            return false;
        };
        let is_first = user.waiting.is_empty();
        let others = user.holders.keys().filter(|other| **other != key);
        let mut is_silent = false;
        for other in others {
            is_silent |= if is_first {
                core.probe(*other)
            } else {
                core.is_silent(*other)
            };
        }
        if is_silent {
            user.waiting.insert(key);
        }
        is_silent
    }

    /// Handles a sign of life of a connection. If no connection is silent any more, the waiting requests are judged.
    pub(super) fn answered(&mut self, core: &mut Core, client: &HeldSymbols) {
        if let Some(user) = self.user(client)
            && user.silent(core).next().is_none()
        {
            user.judge_all(core);
        }
    }

    /// Has the next waiting request of the user judged, if this connection's request was the one to judge.
    fn judged(&mut self, core: &mut Core, key: SessionKey, client: &HeldSymbols) {
        if let Some(user) = self.user(client) {
            user.judge_after(core, key);
        }
    }

    /// Whether a waiting request can be judged before its time: it fits, or no other connection is silent.
    pub(super) fn is_settled(&mut self, core: &Core, client: &HeldSymbols, more: usize) -> bool {
        let is_over = self.is_over(client, more);
        let user = self.user(client);
        !is_over || user.is_none_or(|user| user.silent(core).next().is_none())
    }

    /// Ends the wait of a request for `more` symbols. If the request fits without the silent connections, removes the
    /// symbols of these connections and returns the connections, which the caller must close.
    pub(super) fn settle(
        &mut self,
        core: &Core,
        key: SessionKey,
        client: &HeldSymbols,
        more: usize,
    ) -> Vec<SessionKey> {
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
        silent.into_iter().map(|(other, _)| other).collect()
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
        self.0.is_empty()
    }

    fn user(&mut self, client: &HeldSymbols) -> Option<&mut User> {
        self.0.get_mut(client.user.as_ref()?)
    }

    fn forget(&mut self, client: &HeldSymbols) {
        if let Some(user) = &client.user
            && let Some(rest) = self.0.get(user)
            && rest.holders.is_empty()
            && rest.waiting.is_empty()
        {
            self.0.remove(user);
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
        let Some(waiting) = client.waiting.take() else {
            return;
        };
        self.users.judged(core, key, &client.held);
        let more = not_held(core, key, waiting.content, &waiting.asked.symbols).len();
        let is_due = core.now().mono_us >= waiting.due_us;
        if !is_due && !self.users.is_settled(core, &client.held, more) {
            client.waiting = Some(waiting);
            return;
        }
        for silent in self.users.settle(core, key, &client.held, more) {
            let reason = CloseReason::PongTimeout;
            let code = self.pong_timeout_code();
            core.close(silent, code, reason, Closing::Now);
        }
        let request = Ok(TradesRequest::Subscribe(waiting.content, waiting.asked));
        self.carry_out(core, key, client, Some(request));
        core.resume_reading(key);
    }
}
