//! `weirgate channels` towards clients: names and patterns that they choose, within their role and
//! their limits (contract channels).
//!
//! A name is the topic of the same name: its first member has the bus (Redis or NATS) asked for it,
//! and with its last member it is given up. A client is a member from its request on; that it is told
//! so waits until the bus has confirmed, while the bus is there. What names and patterns look like is
//! the bus's own ([`NameSyntax`]); everything else is the same on both.
//!
//! A new table of roles may come at any time. It decides every entry of a later request; names that
//! a client holds stay until the client asks for them again and is refused, or lets them go.

mod answer;
mod client;
mod judge;
mod names;
mod request;
mod retained;
mod shares;
mod stats;
mod waiting;

use std::sync::Arc;

use self::answer::Answer;
use self::client::Client;
use self::judge::Verdict;
use self::names::Names;
use self::request::{Action, Request, RequestLimits};
use self::retained::Retained;
use self::shares::{Patterns, Shares};
use self::waiting::{Answers, Behind};
use super::access::{AUTHENTICATION_FAILED, RATE_LIMIT_EXCEEDED, Rated, RequestRate, TokenEnd};
use super::uuid::uuid;
use crate::admission::ClientAddr;
use crate::auth::{
    Acl, Authenticator, Identity, MatchBudget, NameSyntax, Origins, Refusal, Token, bearer_protocol,
};
use crate::hub::{
    Accepted, Admission, BusNotice, ByClient, CloseReason, Closing, Core, Entrance, Gateway,
    Incoming, Joined, Left, Publication, SessionKey, TopicName,
};
use crate::wire::head::RequestHead;

pub use self::names::{AllClientsLimits, Interest};
pub use self::retained::RetainedRequest;
pub use self::stats::ChannelsStats;

/// A request may name twice as many channels as a client may hold, and at least so many.
const ENTRIES_MAX: usize = 1_000;

/// Steps of matching that a request has for each entry it may have, all of them together: 100,000
/// where nobody changed the limits, less than a millisecond.
const STEPS_PER_ENTRY: usize = 100;

/// Settings of a [`ChannelsGateway`].
#[derive(Clone, Debug)]
pub struct ChannelsGatewaySettings {
    /// Names that a client may hold, patterns among them; 0 allows none.
    pub channels_max: usize,
    /// Bytes of a name or pattern.
    pub name_bytes_max: usize,
    /// Patterns that a client may hold; 0 allows none.
    pub patterns_max: usize,
    /// What all clients may hold together.
    pub all_clients: AllClientsLimits,
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
    names: Names,
    /// Of client addresses in the patterns of all clients.
    shares: Shares,
    retained: Retained,
    /// The bus is there.
    up: bool,
    /// Clients that were told of a loss of the bus, for the log.
    gap_told: Option<u64>,
}

/// What other threads do for the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelsOutput {
    /// Ask the bus.
    Interest(Interest),
    /// Ask the bus for the last values of a name or pattern.
    Retained(RetainedRequest),
    /// Say in the log that a loss of the bus was told to so many clients.
    GapTold {
        /// At least 1.
        clients: u64,
    },
}

impl ChannelsGateway {
    /// Where clients connect.
    pub const PATH: &'static str = "/ws";

    /// Without clients, and without a bus as long as nobody says otherwise.
    pub fn new(settings: ChannelsGatewaySettings, stats: Arc<ChannelsStats>) -> Self {
        Self {
            names: Names::new(settings.all_clients, settings.acl.syntax()),
            shares: Shares::default(),
            retained: Retained::default(),
            settings,
            stats,
            up: false,
            gap_told: None,
        }
    }

    /// Clients get the last value of each name behind `subscribed`, where the bus holds one. The feed has
    /// to tell the subjects of messages.
    #[must_use]
    pub fn with_retained(mut self) -> Self {
        self.retained.switch_on();
        self
    }

    /// Who comes, with a role that counts.
    fn identify(&self, core: &Core, head: &RequestHead<'_>) -> Result<Identity, Refusal> {
        let authenticator = &self.settings.authenticator;
        if !authenticator.required {
            return Ok(Identity::default());
        }
        let token = Token::find(head);
        let identity = authenticator.identify(token.as_ref(), core.now().unix_ms)?;
        self.settings.acl.admit(&identity)?;
        Ok(identity)
    }

    fn syntax(&self) -> NameSyntax {
        self.settings.acl.syntax()
    }

    fn request_limits(&self) -> RequestLimits {
        RequestLimits {
            depth_max: self.settings.json_depth_max,
            entries_max: ENTRIES_MAX.max(2 * self.settings.channels_max),
        }
    }

    fn client(&self, core: &Core, key: SessionKey, identity: Identity) -> Client {
        let address = core.client_addr(key).unwrap_or(ClientAddr::Unix);
        let default = || self.settings.default_role.clone();
        let token_end = TokenEnd::of(&identity);
        Client {
            role: identity.role.unwrap_or_else(default),
            token_end,
            patterns: Patterns::new(address),
            requests: RequestRate::new(self.settings.inbound_per_second, core.now()),
            answers: Answers::default(),
        }
    }

    /// The answer to a request, and what waits before and behind it.
    fn carry_out(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        request: Request,
    ) -> (Answer, Behind) {
        let id = request.id.as_str();
        let at_once = |answer| (answer, Behind::default());
        match request.action {
            Action::Subscribe(names) => self.subscribe(core, key, client, names, id),
            Action::Unsubscribe(names) => at_once(self.unsubscribe(core, key, client, names, id)),
            Action::Ping => at_once(Answer::pong(id)),
            Action::Unknown(action) => {
                at_once(Answer::error(&format!("Unknown action: {action}"), id))
            }
            Action::Wrong(error) => at_once(Answer::error(&error, id)),
        }
    }

    /// Each entry in its order; what the answer has to wait for.
    fn subscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        names: Vec<String>,
        request_id: &str,
    ) -> (Answer, Behind) {
        let (mut granted, mut errors) = (Vec::new(), Vec::new());
        let mut behind = Behind::default();
        let mut budget = MatchBudget::new(STEPS_PER_ENTRY * self.request_limits().entries_max);
        for name in names {
            match self.judge(core.joined_count(key), client, &name, &mut budget) {
                Verdict::Granted => {
                    let topic = TopicName::from(name.clone());
                    self.hold(core, key, client, &topic);
                    if self.retained.is_on() {
                        self.retained.want(&topic, key);
                        behind.retained.insert(topic.clone());
                    }
                    if self.up && !self.names.is_settled(&topic) {
                        behind.unconfirmed.insert(topic);
                    }
                    granted.push(name);
                }
                Verdict::Refused(error) => errors.push(error),
                Verdict::Denied(error) => {
                    // Held under an older table: who is told "denied" does not get it any longer.
                    self.let_go(core, key, client, name);
                    errors.push(error);
                }
                Verdict::Full(error) => {
                    errors.push(error);
                    break;
                }
            }
        }
        self.names.store(&self.stats, core.memberships());
        (Answer::subscribed(&granted, &errors, request_id), behind)
    }

    fn hold(&mut self, core: &mut Core, key: SessionKey, client: &mut Client, name: &TopicName) {
        let joined = core.join(key, name);
        if joined == Joined::First {
            self.names.want(name);
        }
        let is_new = matches!(joined, Joined::First | Joined::Another);
        if is_new && self.syntax().is_pattern(name.as_str()) {
            self.shares.add(&mut client.patterns, name);
        }
    }

    fn unsubscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        names: Vec<String>,
        request_id: &str,
    ) -> Answer {
        let mut gone = names;
        gone.retain(|name| self.let_go(core, key, client, name.clone()));
        self.names.store(&self.stats, core.memberships());
        Answer::unsubscribed(&gone, request_id)
    }

    /// Returns `false` if the client does not hold the name.
    fn let_go(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        name: String,
    ) -> bool {
        let topic = TopicName::from(name);
        match core.leave(key, &topic) {
            Left::NoMember => return false,
            Left::Others => {}
            Left::Last => self.names.give_up(&topic),
        }
        self.shares.remove(&mut client.patterns, &topic);
        client.answers.settle(&topic);
        self.retained.forget(&topic, key);
        true
    }

    /// Sends the answers of a client that wait no longer.
    fn send_ready(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        for name in client.send_ready(core, key) {
            self.retained.answered(&name, key);
        }
    }

    /// The bus has answered a request for a name. The answers that wait for it are those of its members.
    fn settle(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<Client>,
        name: &TopicName,
        number: u64,
        stands: bool,
    ) {
        // While the bus is away no answer waits.
        if !self.names.settle(name, number, stands) || !self.up {
            return;
        }
        let members: Vec<SessionKey> = core.members(name).collect();
        for key in members {
            if let Some(client) = clients.get_mut(key)
                && !client.answers.is_empty()
            {
                client.answers.settle(name);
                self.send_ready(core, key, client);
            }
        }
    }

    /// A connection to the bus is gone. What was published since is lost to the clients that hold a
    /// name which stood there, and each of them misses one number.
    fn lost(&mut self, core: &mut Core, clients: &mut ByClient<Client>) {
        let mut told = 0;
        for (key, _) in clients.iter_mut() {
            if core.joined(key).any(|name| self.names.stands(name)) {
                core.skip_number(key);
                told += 1;
            }
        }
        self.names.lost();
        self.retained.lost();
        if told > 0 {
            self.stats.count_gaps_told(told);
            self.gap_told = Some(self.gap_told.unwrap_or(0) + told);
        }
    }

    /// A message on the topic was not relayed, and each client that holds it misses one number.
    fn skipped(&self, core: &mut Core, topic: &TopicName) {
        let members: Vec<SessionKey> = core.members(topic).collect();
        members.iter().for_each(|&key| core.skip_number(key));
        self.stats.count_gaps_told(members.len() as u64);
    }

    /// The bus is away: nothing will be confirmed soon, and nobody has to wait for it.
    fn down(&mut self, core: &mut Core, clients: &mut ByClient<Client>) {
        self.up = false;
        for (key, client) in clients.iter_mut() {
            if !client.answers.is_empty() {
                client.answers.settle_all();
                self.send_ready(core, key, client);
            }
        }
    }
}

impl Gateway for ChannelsGateway {
    type Client = Client;
    /// Another table of roles.
    type In = Acl;
    type Out = ChannelsOutput;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        match path {
            Self::PATH => Entrance::Clients(&self.settings.origins),
            _ => Entrance::None,
        }
    }

    fn admit(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Client> {
        let mut accepted = Accepted {
            protocol: bearer_protocol(head),
            outbound_per_second: self.settings.outbound_per_second,
            ..Accepted::default()
        };
        match self.identify(core, head) {
            Ok(identity) => Admission::Accept(accepted, self.client(core, key, identity)),
            Err(refusal) => {
                self.stats.access.count_refusal(refusal);
                accepted.refusal = Some(refusal.label());
                Admission::AcceptThenClose(accepted, AUTHENTICATION_FAILED)
            }
        }
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        let answer = Answer::connected(&uuid(core), &client.role);
        client.answer(core, key, answer, Behind::default());
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        message: Incoming<'_>,
    ) {
        let (answer, behind) = match client.requests.judge(core.now(), &self.stats.access) {
            Rated::Dropped => return,
            Rated::DroppedAndTold => (
                Answer::error(RATE_LIMIT_EXCEEDED, "null"),
                Behind::default(),
            ),
            Rated::Taken => {
                let request = match message {
                    Incoming::Text(text) => Request::parse(text, self.request_limits()),
                    Incoming::Binary(_) => Request::wrong("Messages must be text"),
                };
                self.carry_out(core, key, client, request)
            }
        };
        for name in client.answer(core, key, answer, behind) {
            self.retained.answered(&name, key);
        }
    }

    /// An answer has waited long enough, or a token may have ended.
    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        if client.token_end.has_come(core.now()) {
            let reason = CloseReason::Policy;
            core.set_refusal(key, Refusal::Expired.label());
            core.close(key, AUTHENTICATION_FAILED, reason, Closing::Now);
        } else {
            self.send_ready(core, key, client);
        }
    }

    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, client: Client, _: CloseReason) {
        for name in client.answers.retained() {
            self.retained.forget(name, key);
        }
        self.shares.remove_all(client.patterns);
        self.names.store(&self.stats, core.memberships());
    }

    fn handle_emptied(&mut self, core: &mut Core, name: &TopicName) {
        self.names.give_up(name);
        self.names.store(&self.stats, core.memberships());
    }

    fn handle_publication(&mut self, core: &mut Core, publication: &Publication) {
        if publication.deliver {
            self.retained.came_live(&publication.topic);
            return core.publish(publication);
        }
        for key in self.retained.take(&publication.topic) {
            core.send(key, &publication.frame);
        }
    }

    fn handle_notice(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<Client>,
        notice: &BusNotice,
    ) {
        match notice {
            BusNotice::Up => self.up = true,
            BusNotice::Down => self.down(core, clients),
            BusNotice::Gap => self.lost(core, clients),
            BusNotice::Skipped(topic) => self.skipped(core, topic),
            BusNotice::Settled {
                topic,
                number,
                stands,
            } => self.settle(core, clients, topic, *number, *stands),
            BusNotice::Subject(subject) => self.retained.subject(subject),
            BusNotice::RetainedEnd { topic, number } => self.retained.ended(topic, *number),
        }
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<Client>, acl: Acl) {
        self.settings.acl = acl;
    }

    fn poll_output(&mut self) -> Option<ChannelsOutput> {
        if let Some(change) = self.names.next_change() {
            return Some(ChannelsOutput::Interest(change));
        }
        if let Some(request) = self.retained.next_request() {
            return Some(ChannelsOutput::Retained(request));
        }
        let clients = self.gap_told.take()?;
        Some(ChannelsOutput::GapTold { clients })
    }
}
