//! A client: its role, rate, waiting answers and names.

use super::answers::Answers;
use super::follow_up::FollowUp;
use super::held::HeldNames;
use super::past::PastEnd;
use super::pending::PendingRequest;
use super::sending::Sending;
use crate::auth::Rights;
use crate::gateways::shared::access::{RequestRate, TokenEnd};
use weirgate_core::TopicName;

/// The gateway's state of a client.
#[derive(Debug)]
pub struct ChannelsClient {
    pub(super) rights: Rights,
    /// The number of the table of roles that the rights come from.
    pub(super) rights_table: u32,
    /// Every name of the client was judged by the table of roles with this number, or by a later one.
    pub(super) names_table: u32,
    pub(super) token_end: TokenEnd,
    /// The names that the client holds: its topics in the hub, and the names that it joins with a waiting answer.
    pub(super) held: HeldNames,
    pub(super) requests: RequestRate,
    pub(super) answers: Answers,
    /// `None` for most clients.
    rare: Option<Box<Rare>>,
}

/// State that few clients have: event streams, clients that send new tokens, requests and answers with very many names.
#[derive(Debug, Default)]
struct Rare {
    /// The part of a request that is for a later turn.
    rest: Option<PendingRequest>,
    /// Answers that go on in a later turn.
    sending: Option<Sending>,
    authenticated_us: Option<u64>,
    is_stream: bool,
    gets_all: bool,
    last_event_id: Option<Box<str>>,
}

impl ChannelsClient {
    /// A client without names, with rights of the table of roles with this number.
    pub(super) fn new(
        rights: Rights,
        table: u32,
        token_end: TokenEnd,
        held: HeldNames,
        requests: RequestRate,
    ) -> Self {
        Self {
            rights,
            rights_table: table,
            names_table: table,
            token_end,
            held,
            requests,
            answers: Answers::default(),
            rare: None,
        }
    }

    /// Makes the client an event stream; with `last_event_id`, a stream that reconnects. `gets_all`: all kept messages of
    /// its names.
    pub(super) fn set_stream(&mut self, last_event_id: Option<Box<str>>, gets_all: bool) {
        let rare = self.rare.get_or_insert_default();
        rare.is_stream = true;
        rare.gets_all = gets_all;
        rare.last_event_id = last_event_id;
    }

    /// Whether the client is an event stream. All answers to it go out together, because a position applies to all of
    /// its names.
    pub(super) fn is_stream(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.is_stream)
    }

    /// Whether the client is an event stream that gets all kept messages of its names.
    pub(super) fn gets_all(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.gets_all)
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

    /// Whether the rest of a request is for a later turn.
    pub(super) fn has_rest(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.rest.is_some())
    }

    /// What is left of the client's requests, and its answers.
    pub(super) fn into_requests(self) -> (Option<PendingRequest>, Option<Sending>, Answers) {
        let (rest, sending) = self
            .rare
            .map_or((None, None), |rare| (rare.rest, rare.sending));
        (rest, sending, self.answers)
    }

    /// Takes the rest of a request, which is continued now.
    pub(super) fn take_rest(&mut self) -> Option<PendingRequest> {
        self.rare.as_mut()?.rest.take()
    }

    /// Keeps the rest of a request for a later turn.
    pub(super) fn set_rest(&mut self, rest: PendingRequest) {
        self.rare.get_or_insert_default().rest = Some(rest);
    }

    /// Whether answers are continued in a later turn.
    pub(super) fn is_sending(&self) -> bool {
        let rare = self.rare.as_ref();
        rare.is_some_and(|rare| rare.sending.is_some())
    }

    /// Takes the answers that are continued now.
    pub(super) fn take_sending(&mut self) -> Option<Sending> {
        self.rare.as_mut()?.sending.take()
    }

    /// Keeps answers for a later turn.
    pub(super) fn set_sending(&mut self, sending: Sending) {
        self.rare.get_or_insert_default().sending = Some(sending);
    }

    /// The memory of what is kept for a later turn.
    pub(super) fn later_bytes(&self) -> usize {
        let rare = self.rare.as_ref();
        let rest = rare.and_then(|rare| rare.rest.as_ref());
        let sending = rare.and_then(|rare| rare.sending.as_ref());
        rest.map_or(0, PendingRequest::bytes) + sending.map_or(0, Sending::bytes)
    }

    /// Whether an answer, or a request under way, may wait for the bus to confirm a name.
    pub(super) fn may_wait(&self) -> bool {
        !self.answers.is_empty() || self.has_rest()
    }

    /// Ends the wait for a name that the bus has confirmed or refused.
    pub(super) fn settle(&mut self, name: &TopicName) {
        self.answers.settle(name);
        if let Some(follow_up) = self.rest_follow_up() {
            follow_up.unconfirmed.remove(name);
        }
    }

    /// Ends a wait for the newest messages of a name from the stream.
    pub(super) fn settle_past(&mut self, name: &TopicName, end: PastEnd) {
        self.answers.settle_past(name, end);
        if let Some(follow_up) = self.rest_follow_up() {
            follow_up.settle_past(name, end);
        }
    }

    /// Whether an answer, or that to the request under way, waits for the newest messages of a name from the stream.
    pub(super) fn waits_for_past(&mut self, name: &TopicName) -> bool {
        let rest = self.rest_follow_up();
        rest.is_some_and(|follow_up| follow_up.waits_for_past_of(name))
            || self.answers.waits_for_past_of(name)
    }

    /// Ends the wait for the names that are settled.
    pub(super) fn settle_if(&mut self, is_settled: impl Fn(&TopicName) -> bool) {
        if let Some(follow_up) = self.rest_follow_up() {
            follow_up.unconfirmed.retain(|name| !is_settled(name));
        }
        self.answers.settle_if(is_settled);
    }

    /// What the answer to the request under way will wait for.
    fn rest_follow_up(&mut self) -> Option<&mut FollowUp> {
        let rest = self.rare.as_mut()?.rest.as_mut()?;
        rest.follow_up()
    }
}
