//! `weirgate channels` towards clients: names and patterns that they choose, within their role and
//! their limits (contract channels).
//!
//! A name is the topic of the same name, so joining one asks Redis for it and leaving it as the last
//! one gives it back. A client is a member from its request on; that it is told so waits until Redis
//! has confirmed, while Redis is there.

mod answer;
mod client;
mod names;
mod request;
mod stats;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::answer::Answer;
use self::client::Client;
use self::names::Names;
use self::request::{Action, Request, RequestLimits};
use self::waiting::{Answers, Waits};
use super::access::{AUTHENTICATION_FAILED, RATE_LIMIT_EXCEEDED, Rated, RequestRate, TokenEnd};
use super::uuid::uuid;
use crate::auth::{
    Acl, Authenticator, Identity, MatchBudget, Origins, Refusal, Token, bearer_protocol, is_pattern,
};
use crate::hub::{
    Accepted, Admission, BusNotice, CloseReason, Closing, Core, Gateway, Incoming, SessionKey,
    TopicName,
};
use crate::wire::head::RequestHead;

pub use self::stats::ChannelsStats;

/// A request may name twice as many channels as a client may hold, and at least so many.
const ENTRIES_MAX: usize = 1_000;

/// Steps of matching that a request has for each entry it may have, all of them together: 100,000
/// where nobody changed the limits, less than a millisecond.
const STEPS_PER_ENTRY: usize = 100;

/// What can be set.
#[derive(Clone, Debug)]
pub struct ChannelsGatewaySettings {
    /// Names that a client may hold, patterns among them; 0 allows none.
    pub channels_max: usize,
    /// Patterns that a client may hold; 0 allows none.
    pub patterns_max: usize,
    /// Messages that a client may send, a second.
    pub inbound_per_second: u32,
    /// Data messages that a client gets, a second; `None` for no limit.
    pub outbound_per_second: Option<u32>,
    /// The role of who brings none.
    pub default_role: String,
    /// Levels of nesting that a request may have.
    pub json_depth_max: usize,
    /// Pages that may connect.
    pub origins: Origins,
    /// Who a token admits.
    pub authenticator: Authenticator,
    /// What a role may subscribe to.
    pub acl: Acl,
}

/// The client side of the channels contract (`GET /ws`).
#[derive(Debug)]
pub struct ChannelsGateway {
    settings: ChannelsGatewaySettings,
    stats: Arc<ChannelsStats>,
    clients: BTreeMap<SessionKey, Client>,
    /// Admitted, and opened next or never.
    admitted: Option<(SessionKey, Identity)>,
    names: Names,
    waits: Waits,
    /// The bus is there.
    up: bool,
}

impl ChannelsGateway {
    /// Where clients connect.
    pub const PATH: &'static str = "/ws";

    /// Without clients, and without a bus as long as nobody says otherwise.
    pub fn new(settings: ChannelsGatewaySettings, stats: Arc<ChannelsStats>) -> Self {
        Self {
            settings,
            stats,
            clients: BTreeMap::new(),
            admitted: None,
            names: Names::default(),
            waits: Waits::default(),
            up: false,
        }
    }

    /// Who comes, with a role that counts.
    fn identify(&self, core: &Core, head: &RequestHead<'_>) -> Result<Identity, Refusal> {
        let authenticator = &self.settings.authenticator;
        if !authenticator.required {
            return Ok(Identity::default());
        }
        let token = Token::find(head);
        let identity = authenticator.identify(token.as_ref(), core.now().unix_ms)?;
        let role_is_known = |role: &String| self.settings.acl.knows(role);
        if !identity.role.as_ref().is_none_or(role_is_known) {
            return Err(Refusal::Role);
        }
        Ok(identity)
    }

    fn request_limits(&self) -> RequestLimits {
        RequestLimits {
            depth_max: self.settings.json_depth_max,
            entries_max: ENTRIES_MAX.max(2 * self.settings.channels_max),
        }
    }

    fn request(&mut self, core: &mut Core, key: SessionKey, request: Request) {
        let id = request.id.as_str();
        let nothing = BTreeSet::new();
        let (answer, topics) = match request.action {
            Action::Subscribe(names) => self.subscribe(core, key, names, id),
            Action::Unsubscribe(names) => (self.unsubscribe(core, key, names, id), nothing),
            Action::Ping => (Answer::pong(id), nothing),
            Action::Unknown(action) => {
                let error = format!("Unknown action: {action}");
                (Answer::error(&error, id), nothing)
            }
            Action::Wrong(error) => (Answer::error(&error, id), nothing),
        };
        self.answer(core, key, answer, topics);
    }

    /// Each entry in its order; what the answer has to wait for.
    fn subscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        names: Vec<String>,
        request_id: &str,
    ) -> (Answer, BTreeSet<TopicName>) {
        let (mut granted, mut errors) = (Vec::new(), Vec::new());
        let mut topics = BTreeSet::new();
        let mut budget = MatchBudget::new(STEPS_PER_ENTRY * self.request_limits().entries_max);
        for name in names {
            match self.judge(key, &name, &mut budget) {
                Verdict::Granted => {
                    let topic = TopicName::from(name.clone());
                    self.hold(core, key, &topic);
                    if self.up && !self.names.is_settled(&topic) {
                        topics.insert(topic);
                    }
                    granted.push(name);
                }
                Verdict::Refused(error) => errors.push(error),
                Verdict::Full(error) => {
                    errors.push(error);
                    break;
                }
            }
        }
        self.names.store(&self.stats);
        (Answer::subscribed(&granted, &errors, request_id), topics)
    }

    fn judge(&mut self, key: SessionKey, name: &str, budget: &mut MatchBudget) -> Verdict {
        let settings = &mut self.settings;
        let Some(client) = self.clients.get(&key) else {
            return Verdict::Full(String::new());
        };
        if client.names.len() >= settings.channels_max {
            let max = settings.channels_max;
            return Verdict::Full(format!("Max channels exceeded ({max})"));
        }
        if is_pattern(name) && client.patterns >= settings.patterns_max {
            let max = settings.patterns_max;
            return Verdict::Refused(format!("Max wildcard subscriptions exceeded ({max})"));
        }
        if !settings.acl.grants(&client.role, name, budget) {
            return Verdict::Refused(format!("Access denied to channel: {name}"));
        }
        Verdict::Granted
    }

    fn hold(&mut self, core: &mut Core, key: SessionKey, topic: &TopicName) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        if !client.names.insert(topic.clone()) {
            return;
        }
        client.patterns += usize::from(is_pattern(topic.as_str()));
        let first = core.member_count(topic) == 0;
        self.names.hold(topic, first);
        core.join(key, topic);
    }

    fn unsubscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        names: Vec<String>,
        request_id: &str,
    ) -> Answer {
        let mut left = Vec::new();
        for name in names {
            let topic = TopicName::from(name.clone());
            let Some(client) = self.clients.get_mut(&key) else {
                break;
            };
            if !client.names.remove(&topic) {
                continue;
            }
            client.patterns -= usize::from(is_pattern(&name));
            self.waits.settle_for((key, &mut client.answers), &topic);
            core.leave(key, &topic);
            self.names.let_go(&topic);
            left.push(name);
        }
        self.names.store(&self.stats);
        Answer::unsubscribed(&left, request_id)
    }

    /// Sends an answer, or has it wait: for these topics, and behind the answers that wait already.
    fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        answer: Answer,
        topics: BTreeSet<TopicName>,
    ) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        let now_us = core.now().mono_us;
        let of = (key, &mut client.answers);
        self.waits.push(of, answer, topics, now_us);
        self.send_ready(core, key);
        let Some(client) = self.clients.get(&key) else {
            return;
        };
        if client.answers.are_too_many() {
            core.pause_reading(key);
        }
    }

    /// Sends what waits no longer, and sets the next deadline.
    fn send_ready(&mut self, core: &mut Core, key: SessionKey) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        let now = core.now();
        while let Some(answer) = self.waits.pop((key, &mut client.answers), now.mono_us) {
            let frame = answer.frame(core);
            core.send(key, &frame);
        }
        if !client.answers.are_too_many() {
            core.resume_reading(key);
        }
        let due = client.due_us(core.now());
        core.set_deadline(key, due);
    }

    /// Over the rate: dropped, and told once a second.
    fn limit(&mut self, core: &mut Core, key: SessionKey) -> bool {
        let Some(client) = self.clients.get_mut(&key) else {
            return true;
        };
        let rated = client.requests.judge(core.now(), &self.stats.access);
        if rated == Rated::DroppedAndTold {
            let answer = Answer::error(RATE_LIMIT_EXCEEDED, "null");
            self.answer(core, key, answer, BTreeSet::new());
        }
        rated != Rated::Taken
    }

    /// Redis has answered for a name.
    fn settle(&mut self, core: &mut Core, topic: &TopicName) {
        self.names.settle(topic);
        for key in self.waits.who_waits(topic) {
            if let Some(client) = self.clients.get_mut(&key) {
                self.waits.settle_for((key, &mut client.answers), topic);
            }
            self.send_ready(core, key);
        }
    }

    /// Redis is away: nothing will be confirmed soon, and nobody has to wait for it.
    fn down(&mut self, core: &mut Core) {
        self.up = false;
        for key in self.waits.who_waited() {
            if let Some(client) = self.clients.get_mut(&key) {
                client.answers.settle_all();
            }
            self.send_ready(core, key);
        }
    }
}

enum Verdict {
    Granted,
    /// Not this one.
    Refused(String),
    /// Not this one, nor any that follows.
    Full(String),
}

impl Gateway for ChannelsGateway {
    type Command = ();

    fn upgrade(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission {
        if !head.asks_upgrade() {
            return Admission::ToHttp;
        }
        let refuse = |detail| Admission::Refuse {
            status: 403,
            detail,
        };
        if head.path() != Self::PATH {
            return refuse("No WebSocket here");
        }
        if !self.settings.origins.allow(head.header("Origin")) {
            return refuse("Origin not allowed");
        }
        let accepted = Accepted {
            protocol: bearer_protocol(head),
            outbound_per_second: self.settings.outbound_per_second,
            ..Accepted::default()
        };
        // What is wrong with an upgrade the core says, and no token is looked at for it.
        if head.upgrade().is_err() {
            return Admission::Accept(accepted);
        }
        match self.identify(core, head) {
            Ok(identity) => {
                self.admitted = Some((key, identity));
                Admission::Accept(accepted)
            }
            Err(refusal) => {
                self.stats.access.count_refusal(refusal);
                Admission::AcceptThenClose(accepted, AUTHENTICATION_FAILED)
            }
        }
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        let admitted = self.admitted.take().filter(|(of, _)| *of == key);
        let Some((_, identity)) = admitted else {
            debug_assert!(false, "opened without having been admitted");
            return;
        };
        let default = || self.settings.default_role.clone();
        let token_end = TokenEnd::of(&identity);
        let role = identity.role.unwrap_or_else(default);
        let answer = Answer::connected(&uuid(core), &role);
        let per_second = self.settings.inbound_per_second;
        let client = Client {
            role,
            token_end,
            names: BTreeSet::new(),
            patterns: 0,
            requests: RequestRate::new(per_second, core.now()),
            answers: Answers::default(),
        };
        self.clients.insert(key, client);
        self.answer(core, key, answer, BTreeSet::new());
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        if self.limit(core, key) {
            return;
        }
        let request = match message {
            Incoming::Text(text) => Request::parse(text, self.request_limits()),
            Incoming::Binary(_) => Request::wrong("Messages must be text"),
        };
        self.request(core, key, request);
    }

    fn noticed(&mut self, core: &mut Core, notice: &BusNotice) {
        match notice {
            BusNotice::Up => self.up = true,
            BusNotice::Down => self.down(core),
            BusNotice::Settled(topic) => self.settle(core, topic),
        }
    }

    fn command(&mut self, _: &mut Core, (): Self::Command) {}

    fn deadline(&mut self, core: &mut Core, key: SessionKey) {
        let Some(client) = self.clients.get(&key) else {
            return;
        };
        if client.token_end.has_come(core.now()) {
            let reason = CloseReason::Policy;
            core.close(key, AUTHENTICATION_FAILED, reason, Closing::Now);
        } else {
            self.send_ready(core, key);
        }
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, _: CloseReason) {
        let Some(client) = self.clients.remove(&key) else {
            return;
        };
        self.waits.drop_all(key, &client.answers);
        client
            .names
            .iter()
            .for_each(|topic| self.names.let_go(topic));
        self.names.store(&self.stats);
        debug_assert!(!self.clients.is_empty() || self.waits.is_empty());
    }
}
