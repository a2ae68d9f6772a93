//! The shares of bytes: which clients may have values on the way, and the names that the gateway asks for with a share.

use std::collections::BTreeSet;

use super::Retained;
use super::client::{RetainedClient, Share, ValuesState};
use super::questions::QuestionStart;
use super::sought::Sought;
use super::unanswered::Unanswered;
use weirgate_core::{KeptHead, SessionKey, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::auth::NameSyntax;

/// The most bytes of last values that may wait for a client, and of the values of a pattern. A single value may be
/// larger.
pub(super) const CLIENT_BYTES_MAX: usize = 512 * 1024;
/// The size assumed for the value of an exact name before it has come, if no larger value has come before.
const VALUE_BYTES: usize = 32 * 1024;
/// After this time, a client that has not taken its values no longer counts in the limit over all clients: otherwise a few
/// that do not read would keep the values from all others. The frames count on in the limit on frames.
const SHARE_US: u64 = 2_000_000;
/// A page has at least so many values, whatever their size.
const PAGE_VALUES_MIN: usize = 2;

/// The names whose values a client gets in a share, and the bytes that these may have.
struct ChosenNames {
    names: Vec<TopicName>,
    bytes: usize,
}

/// Chooses as many names as fit in a share. While the client takes pages of some names, these come after the names with
/// a single value, and no further names that come in pages are chosen.
fn choose_names(
    waiter: &RetainedClient,
    syntax: NameSyntax,
    unanswered: &Unanswered,
    is_refused: impl Fn(&TopicName) -> bool,
) -> ChosenNames {
    let (mut names, mut bytes) = (Vec::new(), 0);
    let value_bytes = waiter.largest.max(VALUE_BYTES);
    let is_replayed = |name: &TopicName| {
        let wanted = waiter.names.get(name);
        wanted.is_some_and(|wanted| wanted.cursor.reads_all())
    };
    let comes_in_pages = |name: &TopicName| is_replayed(name) || syntax.is_pattern(name.as_str());
    let is_next = |name: &&TopicName| {
        let waits = !waiter.taking.is_empty() && comes_in_pages(name);
        // Names of the kept feed are no subscriptions of the bus.
        let may_ask = || !is_refused(name) && !waiter.waits_for_answer(name, unanswered);
        !waits && (is_replayed(name) || may_ask())
    };
    for name in waiter.ready().filter(is_next).chain(&waiter.taking) {
        let more = match comes_in_pages(name) {
            true => CLIENT_BYTES_MAX.max(PAGE_VALUES_MIN * waiter.largest),
            false => value_bytes,
        };
        if !names.is_empty() && bytes + more > CLIENT_BYTES_MAX {
            break;
        }
        bytes += more;
        names.push(name.clone());
    }
    ChosenNames { names, bytes }
}

impl Retained {
    /// Handles a client that has taken its values.
    pub(in crate::gateways::channels) fn values_taken(
        &mut self,
        key: SessionKey,
        address: ClientAddr,
    ) {
        let Some(waiter) = self.clients.get_mut(&key) else {
            return;
        };
        waiter.sent = 0;
        waiter.address = Some(address);
        if let Some(share) = waiter.share.take() {
            self.shares.remove(&(share.since_us, key));
        }
        if self.is_up && waiter.can_use_room() {
            self.line.push(address, key);
        } else {
            waiter.is_busy = false;
            self.forget_if_idle(key);
        }
    }

    /// The time at which a question may be due without another event: when the oldest share ends, if a client waits in
    /// the line, or when a question does not wait any longer for clients that take a page.
    pub(in crate::gateways::channels) fn due_us(&self) -> Option<u64> {
        let share = self.shares.first().filter(|_| !self.line.is_empty());
        let share_us = share.map(|(since_us, _)| since_us + SHARE_US);
        let due_us = share_us.into_iter().chain(self.questions.due_us());
        due_us
            .chain(self.paused.due_us())
            .chain(self.unanswered.due_us())
            .min()
    }

    /// Moves the clients that keep the others of their question waiting to a question of their own.
    pub(super) fn split_slow(&mut self, now_us: u64) {
        loop {
            let clients = &self.clients;
            let is_ready = |name: &TopicName, key: SessionKey, number: u64| {
                let waiter = clients.get(&key);
                waiter.is_some_and(|waiter| waiter.is_asked(name, number))
            };
            let Some(left) = self.questions.split(now_us, is_ready) else {
                return;
            };
            self.requeue(left);
        }
    }

    /// Gives shares to the next clients in the line, and asks for their names, except for those that the bus refuses.
    /// Must be called after every other call.
    ///
    /// The search for an address with room is bounded: one without room holds at least as much as is free, which is at
    /// least a share. So there are no more such addresses than the limit has shares.
    pub(super) fn grant_shares(
        &mut self,
        now_us: u64,
        head: KeptHead,
        is_refused: impl Fn(&TopicName) -> bool,
    ) {
        while let Some((since_us, key)) = self.shares.first().copied()
            && since_us + SHARE_US <= now_us
        {
            self.shares.pop_first();
            if let Some(waiter) = self.clients.get_mut(&key) {
                waiter.share = None;
            }
        }
        let mut asked = Vec::new();
        let bytes = self.bytes.clone();
        // If nothing is held, a share is given even if it is larger than the limit.
        while self.is_up
            && (bytes.held() == 0 || bytes.held() + CLIENT_BYTES_MAX as u64 <= bytes.max())
            && let Some(key) = self.line.pop_of(|address| bytes.has_room_for(address))
        {
            asked.extend(self.begin_share(key, now_us, head, &is_refused));
        }
        for start in asked {
            self.ask_next(&start);
        }
    }

    /// Gives a share to the client. Returns the questions that have to be asked.
    fn begin_share(
        &mut self,
        key: SessionKey,
        now_us: u64,
        head: KeptHead,
        is_refused: impl Fn(&TopicName) -> bool,
    ) -> Vec<QuestionStart> {
        let Some(waiter) = self.clients.get_mut(&key) else {
            return Vec::new();
        };
        let chosen = choose_names(waiter, self.syntax, &self.unanswered, is_refused);
        waiter.is_busy = !chosen.names.is_empty();
        waiter.asked += chosen.names.len();
        if let Some(address) = waiter.address.filter(|_| waiter.is_busy) {
            // No check here: `grant_shares` has made sure that a usual share fits. A single value that is larger than a
            // share may pass the limit.
            waiter.share = Some(Share {
                permit: self.bytes.hold(address, chosen.bytes as u64, now_us),
                since_us: now_us,
            });
            self.shares.insert((now_us, key));
        }
        let mut asked = Vec::new();
        for name in chosen.names {
            waiter.taking.remove(&name);
            let takes = waiter.names.get_mut(&name);
            // The client has taken a page: it stays in its question, whose next page comes once all members are ready.
            if let Some(wanted) = takes
                && let ValuesState::Takes(number) = wanted.state
            {
                wanted.state = ValuesState::Asked(number);
                self.questions.ready(number, now_us);
                continue;
            }
            // Otherwise it joins a question; one for all kept messages may read from another place than the one before.
            let begins = waiter.replays.begin_question(&name, head);
            let Some(wanted) = waiter.names.get_mut(&name) else {
                continue;
            };
            if let Some(from) = begins {
                wanted.cursor = self.questions.cursor_from(from);
            }
            // A client in the line has an address (`values_taken`).
            let client = waiter.address.unwrap_or(ClientAddr::Unix);
            let number = self.questions.join(&name, &wanted.cursor, key, client);
            wanted.state = ValuesState::Asked(number);
            asked.push(wanted.cursor.start_of(&name));
        }
        self.forget_if_idle(key);
        asked
    }

    /// Asks the next question with this start, if clients wait for it and no earlier one lacks its first page.
    pub(super) fn ask_next(&mut self, start: &QuestionStart) {
        let clients = &self.clients;
        let address_of = |key| clients.get(&key).and_then(|waiter| waiter.address);
        let sought_by = |members: &BTreeSet<SessionKey>| {
            let mut sought = Sought::default();
            for key in members {
                let waiter = clients.get(key);
                let replays = waiter
                    .into_iter()
                    .flat_map(|waiter| waiter.replays.asked(&start.name));
                replays.for_each(|(name, replay)| sought.add(*key, name, replay));
            }
            sought
        };
        if let Some(left) = self.questions.ask(start, address_of, sought_by) {
            self.requeue(left);
        }
    }
}
