//! A client: its role, rate, waiting answers and names; also the counters of the gateway, for metrics and pages.

use std::sync::Arc;

use super::held::Held;
use super::messages::Answers;
use super::rest::Rest;
use crate::gateways::shared::access::{AccessStats, Count, RequestRate, TokenEnd, labelled};
use weirgate_wire::auth::Rights;

/// The gateway's state of a client.
#[derive(Debug)]
pub struct Client {
    pub(super) rights: Rights,
    /// The number of the table of roles that the rights come from.
    pub(super) table: u64,
    pub(super) token_end: TokenEnd,
    /// The names that the client holds: its topics in the hub, and the names that it joins with a waiting answer.
    pub(super) held: Held,
    pub(super) requests: RequestRate,
    pub(super) answers: Answers,
    /// `None` for most clients.
    rare: Option<Box<Rare>>,
}

/// State that few clients have: event streams, clients that send new tokens, requests with very many names.
#[derive(Debug, Default)]
struct Rare {
    rest: Option<Rest>,
    authenticated_us: Option<u64>,
    is_stream: bool,
    last_event_id: Option<Box<str>>,
}

impl Client {
    /// A client without names, with rights of the table of roles with this number.
    pub(super) fn new(
        (rights, table): (Rights, u64),
        token_end: TokenEnd,
        held: Held,
        requests: RequestRate,
    ) -> Self {
        Self {
            rights,
            table,
            token_end,
            held,
            requests,
            answers: Answers::default(),
            rare: None,
        }
    }

    /// Makes the client an event stream; with `last_event_id`, a stream that reconnects.
    pub(super) fn set_stream(&mut self, last_event_id: Option<Box<str>>) {
        let rare = self.rare.get_or_insert_default();
        rare.is_stream = true;
        rare.last_event_id = last_event_id;
    }

    /// Whether the client is an event stream. All answers to it go out together, because a position applies to all of
    /// its names.
    pub(super) fn is_stream(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.is_stream)
    }

    /// The event id that a reconnecting event stream sent.
    pub(super) fn last_event_id(&self) -> Option<&str> {
        self.rare.as_ref()?.last_event_id.as_deref()
    }

    /// When the client last sent a new token, microseconds of the monotonic clock.
    pub(super) fn authenticated_us(&self) -> Option<u64> {
        self.rare.as_ref()?.authenticated_us
    }

    /// The client has sent a new token.
    pub(super) fn set_authenticated(&mut self, now_us: u64) {
        self.rare.get_or_insert_default().authenticated_us = Some(now_us);
    }

    /// Whether a request goes on in a later turn.
    pub(super) fn has_rest(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.rest.is_some())
    }

    /// Takes the rest of a request, which goes on now.
    pub(super) fn take_rest(&mut self) -> Option<Rest> {
        self.rare.as_mut()?.rest.take()
    }

    /// Sets the rest of a request, which goes on in a later turn.
    pub(super) fn set_rest(&mut self, rest: Rest) {
        self.rare.get_or_insert_default().rest = Some(rest);
    }
}

/// The limits over all clients, as labels in the order of `Full`.
const LIMITS: [&str; 5] = ["channels", "wildcards", "name_bytes", "copies", "steps"];

/// The outcomes of new tokens, as labels in the order of `Renewal`.
const RENEWALS: [&str; 3] = ["accepted", "refused", "limited"];

/// The outcome of a new token, as the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Accepted,
    Refused,
    /// Not checked: too many tokens of this client, of its address, or of all clients.
    Limited,
}

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct ChannelsStats {
    /// Subscriptions: the sum, over all clients, of the names and patterns that the client holds.
    pub subscriptions: Count,
    /// Exact names with a member.
    pub channels: Count,
    /// Patterns with a member.
    pub patterns: Count,
    /// Bytes of the names and patterns with a member.
    pub name_bytes: Count,
    /// Losses of the bus, counted once per notified client.
    pub gaps_notified: Count,
    /// Last values that clients wait for: clients times names.
    pub retained_waiting: Count,
    /// Bytes of last values that may wait in send queues, including open questions.
    pub retained_bytes: Count,
    /// How often a client did not get the last values of a pattern because too many subjects became live while it
    /// waited.
    pub retained_given_up: Count,
    /// Counters of tokens and rates.
    pub access: Arc<AccessStats>,
    pub(super) limited: [Count; LIMITS.len()],
    pub(super) renewals: [Count; RENEWALS.len()],
}

impl ChannelsStats {
    /// By limit over all clients: names that were refused to a client, and held patterns that were taken from it.
    pub fn limited(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(LIMITS, &self.limited)
    }

    /// New tokens on living connections, by outcome.
    pub fn renewals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(RENEWALS, &self.renewals)
    }

    pub(super) fn count_renewal(&self, outcome: Renewal) {
        self.renewals[outcome as usize].add(1);
    }
}
