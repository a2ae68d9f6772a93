//! `weirgate channels` towards clients: names and patterns of the clients' choice, within role and limits
//! (contract channels).
//!
//! A name is a topic of the hub with the same name. The gateway subscribes to a name on the bus (Redis or NATS) when
//! the first client joins, and unsubscribes when the last client leaves. A client is a member from its request on; if
//! it resumes, from the answer on. While the bus is connected, `subscribed` waits until the bus has confirmed the
//! names. The syntax of names and patterns depends on the bus ([`NameSyntax`]); everything else is the same on both.
//!
//! A new table of roles may arrive at any time. It decides every later request, and what is left of a request under
//! way: the client's rights are made again from what its token says, as for a new client. A client keeps the names that
//! it holds until it unsubscribes, asks for a name again and is refused, or sends a new token that does not grant the
//! name.
//!
//! Begin with [`ChannelsGateway::handle_message`] below, then `request.rs`, `pending.rs` and `grant.rs`.
//!
//! | file | owns |
//! | --- | --- |
//! | `authenticate`, `rights` | the token of a client; whether the client may hold a name |
//! | `request`, `pending`, `grant` | requests about names: the parser, one name at a time, names given and taken |
//! | `client`, `held`, `names`, `leaving` | a client; its names; the sums of all clients; clients that have ended |
//! | `bus`, `bus_requests` | notices of the bus, and requests to it |
//! | `kept_names`, `patterns` | the names of the kept feed; patterns that the gateway matches itself |
//! | `lost_names` | clients of names whose messages were lost for a while: they left the stream, or the bus withdrew them |
//! | `feed` | from messages of the bus to topics |
//! | `messages`, `raw_text` | the messages to clients; the text of a payload that is not JSON |
//! | `answers`, `follow_up` | answers that wait; what they wait for, and what follows them |
//! | `resume` | the earlier messages that a request wants |
//! | `sending` | sending answers, and the messages after them |
//! | `retained`, `past`, `replay` | stored messages: last values, the newest of the kept feed, all of a name |
//! | `settings`, `stats`, `metrics` | the rows of the tables; counters; metrics |
//! | `start`, `outputs`, `pages` | assembles the gateway; its requests to the bus; its pages |

mod answers;
mod authenticate;
mod bus;
mod bus_requests;
mod client;
pub mod feed;
mod follow_up;
mod grant;
mod held;
mod kept_names;
mod leaving;
mod lost_names;
mod messages;
pub(super) mod metrics;
mod names;
mod outputs;
mod pages;
mod past;
mod patterns;
mod pending;
mod raw_text;
mod replay;
mod request;
mod resume;
mod retained;
mod rights;
mod sending;
mod settings;
pub(super) mod start;
mod stats;

use std::collections::VecDeque;
use std::sync::Arc;

use self::answers::BUS_WAIT_US;
use self::authenticate::{Authenticated, Renewals};
use self::bus::{NameErrors, SettlingRound};
use self::client::ChannelsClient;
use self::follow_up::FollowUp;
use self::held::HeldNames;
use self::kept_names::KeptNames;
use self::leaving::{DropLater, Leaving};
use self::lost_names::LostNames;
use self::messages::Answer;
use self::names::Names;
use self::past::Past;
use self::patterns::{GivingUp, HeldPatterns};
use self::pending::{NewSubscribe, PendingRequest};
use self::request::{Action, Last, Request, RequestLimits};
use self::resume::{Earlier, Resume};
use self::retained::Retained;
use crate::auth::{Acl, Authenticator, Identity, Rights, bearer_protocol};
use crate::gateways::shared::access::{
    RATE_LIMIT_EXCEEDED, Rated, RequestRate, TokenEnd, close_of,
};
use crate::gateways::shared::history::last_event_id;
use crate::gateways::shared::identifiers::uuid;
use crate::gateways::shared::statuses::Statuses;
use weirgate_core::{
    Accepted, Admission, Body, BusNotice, ByClient, Closed, Content, CopyFor, Core, Entrance,
    Frame, FrameBytes, Gateway, Incoming, MaxRate, NameSource, OnBus, Place, Publication,
    RetainedCut, SessionKey, TopicName, earliest,
};
use weirgate_wire::RequestHead;
use weirgate_wire::admission::{ClientAddr, Quota};
use weirgate_wire::auth::{NameError, NamePatterns, NameSyntax, Origins, TokenMarks};
use weirgate_wire::base::ChunkedQueue;

pub use self::bus_requests::Interest;
pub use self::names::AllClientsLimits;
pub use self::retained::RetainedRequest;
pub use self::stats::ChannelsStats;

/// A request may have twice as many entries as a client may hold names, and at least this many.
const ENTRIES_MAX: usize = 1_000;

/// The error about a name whose last values the bus does not give.
const NO_LAST_VALUES: &str = "No last values from the bus";

/// Settings of a [`ChannelsGateway`].
#[derive(Clone, Debug)]
pub struct ChannelsGatewaySettings {
    /// Names that a client may hold, patterns included; 0 allows none.
    pub channels_max: usize,
    /// Bytes of a name or pattern.
    pub name_bytes_max: usize,
    /// Patterns that a client may hold; 0 allows none.
    pub patterns_max: usize,
    /// Limits over all clients together.
    pub all_clients: AllClientsLimits,
    /// Messages that a client may send, a second.
    pub inbound_per_second: u32,
    /// New tokens on living connections that the gateway checks, a second, of all clients together.
    pub renewals_per_second: u32,
    /// The most data messages that a client gets in a second; `None` for no limit.
    pub outbound_per_second: Option<u32>,
    /// The role of a client without a role.
    pub default_role: String,
    /// Origins of pages that may connect.
    pub origins: Origins,
    /// Checks tokens.
    pub authenticator: Authenticator,
    /// The names that a role may subscribe to.
    pub acl: Acl,
    /// The channel of the marks, which no client gets.
    pub marks_channel: Option<String>,
}

/// The defaults of the contract. Nobody needs a token, all origins may connect, and the table of roles is the built-in
/// table.
impl Default for ChannelsGatewaySettings {
    fn default() -> Self {
        Self {
            channels_max: 50,
            name_bytes_max: 512,
            patterns_max: 5,
            all_clients: AllClientsLimits::default(),
            inbound_per_second: 1_000,
            renewals_per_second: 500,
            outbound_per_second: None,
            default_role: "user".to_owned(),
            origins: Origins::default(),
            authenticator: Authenticator::default(),
            acl: Acl::default(),
            marks_channel: None,
        }
    }
}

/// The client side of the channels contract (`GET /ws`).
#[derive(Debug)]
pub struct ChannelsGateway {
    settings: ChannelsGatewaySettings,
    /// By what an operator can cut off clients without a token: the default role.
    marks_without_token: Arc<TokenMarks>,
    stats: Arc<ChannelsStats>,
    names: Names,
    /// The patterns that the gateway matches.
    patterns: HeldPatterns,
    retained: Retained,
    past: Past,
    /// `None`: there is no kept feed.
    kept: Option<KeptNames>,
    statuses: Statuses,
    renewals: Renewals,
    /// The names of which slow clients get only the newest message.
    conflated: Option<NamePatterns>,
    /// How many tables of roles came before this table.
    table: u32,
    /// Tables of roles that are no longer in force.
    old_tables: VecDeque<Acl>,
    /// The longest wait of an answer for the bus, microseconds.
    bus_wait_us: u64,
    /// The round over the clients whose answers may no longer have to wait for a name.
    settling: Option<SettlingRound>,
    /// After the stream has got other subjects, or the bus has refused or accepted names of the feed: the number of the
    /// next held name to check, which may move to or from the feed, or be refused. `None`: all names are checked.
    moving: Option<u32>,
    /// Clients that are to be notified that messages of a name are lost.
    lost_names: LostNames,
    /// Errors of the bus about a name, and the clients that still have to get them.
    name_errors: VecDeque<NameErrors>,
    /// How many clients were notified of a loss of the bus, for the log. `None`: nothing is to be logged.
    gap_notified: Option<u64>,
    /// The pattern that clients are losing.
    giving_up: Option<GivingUp>,
    /// Clients that have ended, and whose names are given up one after the other.
    leaving: ChunkedQueue<Leaving>,
    /// What is dropped over several turns, beside what the clients in `leaving` hold.
    to_drop: DropLater,
}

/// Work for other threads.
#[derive(Debug)]
pub enum ChannelsOutput {
    /// Asks the bus.
    Interest(Interest),
    /// Asks the bus for the last values of a name or pattern.
    Retained(RetainedRequest),
    /// Logs how many clients were notified of a loss of the bus.
    GapNotified {
        /// At least 1.
        clients: u64,
    },
    /// A table of roles that is no longer in force. To free a large one takes longer than the loop has.
    OldTable(Acl),
}

impl ChannelsGateway {
    /// The path of the WebSocket.
    pub const PATH: &'static str = "/ws";

    /// A gateway without clients, and without a bus until the first notice of the bus.
    pub fn new(settings: ChannelsGatewaySettings, stats: Arc<ChannelsStats>) -> Self {
        let of_name = (AllClientsLimits::NAME_BYTES + AllClientsLimits::NAME_OF_CLIENT_BYTES)
            as usize
            + settings.name_bytes_max;
        let of_pattern = AllClientsLimits::pattern_bytes_max(settings.name_bytes_max);
        let bytes = settings.channels_max.saturating_mul(of_name);
        let bytes = bytes.saturating_add(settings.patterns_max.saturating_mul(of_pattern));
        // What one client may hold, in the order of the sums of [`Names`].
        let of_client = [settings.channels_max, settings.patterns_max, bytes];
        Self {
            names: Names::new(settings.all_clients, settings.acl.syntax(), of_client),
            patterns: HeldPatterns::new(settings.all_clients.name_bytes_max),
            // 0: there are no last values, unless `with_retained` or `with_pages` follows.
            retained: Retained::new(settings.acl.syntax(), 0),
            past: Past::default(),
            kept: None,
            statuses: Statuses::new(Answer::status),
            renewals: Renewals::new(settings.renewals_per_second),
            conflated: None,
            table: 0,
            old_tables: VecDeque::new(),
            marks_without_token: Arc::new(Identity::default().marks(Some(&settings.default_role))),
            settings,
            stats,
            bus_wait_us: BUS_WAIT_US,
            settling: None,
            moving: None,
            lost_names: LostNames::default(),
            name_errors: VecDeque::new(),
            gap_notified: None,
            giving_up: None,
            leaving: ChunkedQueue::default(),
            to_drop: DropLater::default(),
        }
    }

    /// After `subscribed`, sends clients the last value of each name, if the bus holds a value. At most `bytes_max`
    /// bytes of values wait in the send queues of all clients together.
    #[must_use]
    pub fn with_retained(mut self, bytes_max: usize) -> Self {
        self.retained.set_bytes_max(bytes_max);
        self.retained.has_values = true;
        self
    }

    /// Asks the stream that is the kept feed for the newest messages of names of which the history has none.
    #[must_use]
    pub fn with_past(mut self) -> Self {
        self.past = Past::new(self.syntax());
        self
    }

    /// Asks the stream that is the kept feed for all messages of a name, for clients that want them. At most
    /// `bytes_max` bytes of these, and of last values, wait in the send queues of all clients together.
    #[must_use]
    pub fn with_pages(mut self, bytes_max: usize) -> Self {
        self.retained.read_pages(bytes_max);
        self
    }

    /// Makes answers wait `later_us` microseconds longer, for a bus that takes this much longer to confirm.
    #[must_use]
    pub fn with_slow_bus(mut self, later_us: u64) -> Self {
        self.bus_wait_us = BUS_WAIT_US + later_us;
        self
    }

    /// Takes the messages of these names and patterns from the kept feed. A client that resumes such a name gets the
    /// messages that it missed.
    ///
    /// # Errors
    /// The first text that is neither a name nor a pattern, and why.
    pub fn with_kept(mut self, names: Vec<String>) -> Result<Self, (String, NameError)> {
        self.kept = Some(KeptNames::new(self.syntax(), names)?);
        Ok(self)
    }

    /// Takes the messages of these names and patterns from a kept feed that is a stream. Its names are its subjects as
    /// soon as the bus has said them ([`BusNotice::Subjects`]).
    ///
    /// # Errors
    /// As [`with_kept`](Self::with_kept).
    pub fn with_kept_stream(mut self, names: Vec<String>) -> Result<Self, (String, NameError)> {
        self.kept = Some(KeptNames::of_stream(self.syntax(), names)?);
        Ok(self)
    }

    /// Lets clients ask for a rate of their own for these names, of which a slow client gets only the newest message.
    #[must_use]
    pub fn with_conflated(mut self, names: NamePatterns) -> Self {
        self.conflated = Some(names);
        self
    }

    /// Whether a client may set a rate of its own: it holds no name, a pattern, or a name of which messages may be
    /// skipped.
    fn may_set_rate(&self, core: &Core, key: SessionKey, client: &ChannelsClient) -> bool {
        let is_member = core.joined_count(key) > 0;
        self.conflated.is_some() && (!is_member || client.held.has_skippable())
    }

    /// Whether a client may skip messages of this name, or of names that this pattern matches.
    fn is_skippable(&self, name: &TopicName) -> bool {
        let conflated = self.conflated.as_ref();
        conflated.is_some_and(|conflated| {
            self.syntax().is_pattern(name.as_str()) || conflated.matches(name.as_str())
        })
    }

    /// Whether the kept feed is a stream: what it loses is no loss of the names beside it.
    fn has_stream(&self) -> bool {
        self.kept.as_ref().is_some_and(KeptNames::is_stream)
    }

    fn syntax(&self) -> NameSyntax {
        self.settings.acl.syntax()
    }

    fn request_limits(&self) -> RequestLimits {
        RequestLimits {
            entries_max: ENTRIES_MAX.max(2 * self.settings.channels_max),
            reads_last: self.kept.is_some(),
        }
    }

    /// Whether one of the requests in the URL of an event stream asks for all kept messages. Then all of them do: the client
    /// has a single position, so all names are sent together.
    fn asks_all(&self, head: &RequestHead<'_>) -> bool {
        let limits = self.request_limits();
        let mut requests = head.sent_in_query().flatten();
        self.retained.has_pages && requests.any(|text| Request::parse(&text, limits).asks_all())
    }

    fn client(
        &self,
        core: &Core,
        key: SessionKey,
        identity: &Identity,
        rights: Rights,
    ) -> ChannelsClient {
        // The session exists, so the client has an address.
        let address = core.client_addr(key).unwrap_or(ClientAddr::Unix);
        ChannelsClient::new(
            rights,
            self.table,
            TokenEnd::of(identity),
            HeldNames::new(address),
            RequestRate::new(self.settings.inbound_per_second, core.now()),
        )
    }

    /// Carries out a request. Returns the answer with the names that it waits for and what follows it; `None` if the
    /// rest of the request is for a later turn.
    fn carry_out(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        request: Request,
    ) -> Option<(Answer, FollowUp)> {
        let id = request.id;
        if request.status {
            self.statuses.ask(core, key);
        }
        let answer = match request.action {
            Action::Subscribe(names, since, last) => {
                let since = since.or(client.last_event_id());
                let last = match client.gets_all() {
                    true => Some(Last::All),
                    false => last,
                };
                let earlier = Earlier::new(since, last);
                let resume = match client.is_stream() {
                    true => Some(Resume::of_stream(earlier)),
                    false => Resume::new(earlier),
                };
                let new = NewSubscribe {
                    names,
                    resume,
                    status: request.status,
                    request_id: id,
                };
                let pending = self.pending_subscribe(client, new);
                return self.begin(core, key, client, pending);
            }
            Action::Unsubscribe(names) => {
                return self.begin(core, key, client, PendingRequest::unsubscribe(names, id));
            }
            Action::Authenticate(token) => {
                return self.authenticate(core, key, client, &token, id);
            }
            Action::Ping => Answer::pong(&id),
            Action::Rate(rate) if rate.is_some() && !self.may_set_rate(core, key, client) => {
                Answer::error(
                    "No rate: every message of these names is delivered (no name of --conflate)",
                    &id,
                )
            }
            Action::Rate(rate) => {
                core.set_max_rate(key, rate);
                Answer::rate(rate, &id)
            }
            Action::Unknown(action) => Answer::error(&format!("Unknown action: {action}"), &id),
            Action::Wrong(error) => Answer::error(&error, &id),
        };
        Some((answer, FollowUp::default()))
    }
}

/// If the token of a client lists names, lets no compressed message to it refer to another: these names may be the
/// user's own.
fn keep_apart(core: &mut Core, key: SessionKey, rights: &Rights) {
    if rights.lists_names() {
        core.leave_window(key);
    }
}

impl Gateway for ChannelsGateway {
    type Client = ChannelsClient;
    /// A new table of roles.
    type In = Acl;
    type Out = ChannelsOutput;

    const HAS_BINARY: bool = true;
    const HAS_LAST: bool = true;

    fn asks_for_newest(&self) -> bool {
        self.past.answers()
    }

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
    ) -> Admission<ChannelsClient> {
        let max_rate = match MaxRate::of(head) {
            Ok(max_rate) => max_rate,
            Err(refusal) => return Admission::Refuse(refusal),
        };
        let mut accepted = Accepted {
            max_rate,
            protocol: bearer_protocol(head),
            outbound_per_second: self.settings.outbound_per_second,
            ..Accepted::default()
        };
        match self.identify(core, key, head) {
            Ok(Authenticated {
                identity,
                rights,
                marks,
            }) => {
                accepted.user = identity.user.as_deref().map(Into::into);
                accepted.marks = Some(marks);
                accepted.client_bytes = rights.memory_bytes();
                let mut client = self.client(core, key, &identity, rights);
                if head.asks_event_stream() {
                    client.set_stream(last_event_id(head), self.asks_all(head));
                }
                Admission::Accept(accepted, client)
            }
            Err(refusal) => {
                self.stats.access.count_refusal(refusal);
                accepted.refusal = Some(refusal.label());
                let tokens = &self.settings.authenticator;
                let user = tokens.refused_user(tokens.token(head).ok().flatten().as_ref(), refusal);
                accepted.user = user.map(Into::into);
                Admission::AcceptThenClose(accepted, close_of(refusal))
            }
        }
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut ChannelsClient) {
        keep_apart(core, key, &client.rights);
        let mut answer = Answer::connected(&uuid(core), &client.rights.role);
        let frame = answer.frame(core, None);
        core.send(key, &frame);
        self.send_ready(core, key, client);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        message: Incoming<'_>,
    ) {
        let answer = match client.requests.take(core.now(), &self.stats.access) {
            Rated::Dropped => None,
            Rated::DroppedWithError => {
                // The message is not read, so the answer has no request id.
                let answer = Answer::error(RATE_LIMIT_EXCEEDED, "null");
                Some((answer, FollowUp::default()))
            }
            Rated::Taken => {
                let request = match message {
                    Incoming::Text(text) => Request::parse(text, self.request_limits()),
                    Incoming::Binary(_) => Request::wrong("Messages must be text"),
                };
                self.carry_out(core, key, client, request)
            }
        };
        match answer {
            Some((answer, follow_up)) => self.answer(core, key, client, answer, follow_up),
            // This message may have been the last request of an event stream, so all of its answers may be ready.
            None => self.send_ready(core, key, client),
        }
    }

    /// Handles a deadline: a waiting answer is due, or the token has ended.
    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, client: &mut ChannelsClient) {
        if !client.token_end.close(core, key) {
            self.send_ready(core, key, client);
        }
    }

    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, closed: Closed<ChannelsClient>) {
        let (Closed::Ended(client, _) | Closed::Cut(client)) = closed;
        let wanted = self.retained.closed(key);
        let leaving = Leaving::new(key, client, wanted);
        self.leaving.push_back(leaving);
        self.release_leaving(core);
        self.ask_retained(core);
    }

    fn handle_rest(&mut self, core: &mut Core, key: SessionKey, client: &mut ChannelsClient) {
        if let Some(sending) = client.take_sending()
            && self.continue_sending(core, key, client, sending)
        {
            self.send_ready(core, key, client);
        }
        // Answers first: the rest of a later request may give up names that they are about.
        if !client.is_sending()
            && let Some(rest) = client.take_rest()
            && let Some((answer, follow_up)) = self.continue_request(core, key, client, rest)
        {
            self.answer(core, key, client, answer, follow_up);
        }
    }

    fn holdings(&self) -> Vec<Quota> {
        let all = self.names.sums().iter().chain([&self.retained.bytes]);
        all.cloned().collect()
    }

    fn source_of(&self, name: &TopicName) -> (NameSource, OnBus) {
        let kept = self.kept.as_ref().filter(|_| self.is_kept(name));
        let from = match kept {
            Some(kept) if kept.is_stream() => NameSource::Stream,
            Some(_) => NameSource::Kept,
            None if self.retained.has_values => NameSource::Retained,
            None => NameSource::Live,
        };
        let on_bus = match kept {
            Some(kept) if kept.is_refused(name.as_str()) => OnBus::Refused,
            Some(_) => OnBus::Confirmed,
            None if self.names.is_refused(name) => OnBus::Refused,
            None if !self.names.is_settled(name) => OnBus::Unconfirmed,
            None => OnBus::Confirmed,
        };
        (from, on_bus)
    }

    fn poll_timeout(&self) -> Option<u64> {
        let has_work = self.patterns.has_over()
            || !self.name_errors.is_empty()
            || self.giving_up.is_some()
            || self.settling.is_some()
            || self.moving.is_some()
            || self.retained.has_ends()
            || self.has_past_work()
            || !self.leaving.is_empty()
            || !self.to_drop.is_empty();
        let at_once = has_work.then_some(0);
        let dues = [
            self.retained.due_us(),
            self.statuses.due_us(),
            self.lost_names.due_us(),
            at_once,
        ];
        earliest(dues)
    }

    fn handle_timeout(&mut self, core: &mut Core, clients: &mut ByClient<ChannelsClient>) {
        self.continue_round(core, clients);
        self.tell_lost_names(core, clients);
        if self.moving.is_some() {
            self.move_next(core, clients);
        }
        self.settle_next(core, clients);
        self.send_next_name_error(core, clients);
        self.pass_past(core);
        self.ask_past(core);
        self.answer_past(core, clients);
        self.retained.wake_paused(core.now().mono_us);
        self.release_leaving(core);
        self.give_up_over(core, clients);
        self.ask_retained(core);
    }

    fn render(copy: &CopyFor<'_>, alive: &FrameBytes) -> Arc<Frame> {
        messages::render(copy, alive)
    }

    fn handle_publication(&mut self, core: &mut Core, publication: &Publication) {
        // With a subject, the topic is the pattern for which the bus has sent the message.
        let subject = publication.subject.as_deref();
        let name = subject.unwrap_or(publication.topic.as_str());
        // A message of a name that is no user's own: compressed messages to any client may refer to it.
        if let Body::Message(message) = &publication.body
            && !self.settings.acl.is_own(name)
        {
            message.set_common();
        }
        // The answer to a question is for the history, for clients that get all kept messages, or a last value.
        if publication
            .request
            .is_some_and(|number| self.past.has(number))
        {
            self.keep_past(core, publication);
        } else if let Some(number) = publication.request {
            match self.retained.scope_of(number) {
                Some(scope) => self.replay_stored(core, &scope, publication),
                None => self.replay_value(core, publication),
            }
        } else if publication.place == Place::Outside {
            self.publish_live(core, publication);
        } else if self.statuses.passes(publication.place) {
            self.publish_kept(core, publication);
            self.pass_past(core);
        }
        if publication.body.is_too_large_for(Content::Text) {
            self.stats.gaps_notified.add(core.take_copies_skipped());
        }
    }

    fn handle_notice(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
        notice: &BusNotice,
    ) {
        self.statuses.note(core, notice);
        match notice {
            BusNotice::Up => self.retained.is_up = true,
            BusNotice::Down => {
                self.retained.down(&mut self.to_drop);
                self.past_down();
            }
            BusNotice::Gap if self.has_stream() => {
                self.past_lost();
                self.retained.stream_lost(core.kept_head());
            }
            BusNotice::Gap | BusNotice::GapBeside => self.lost(),
            BusNotice::Subjects(subjects) => self.set_subjects(core, clients, subjects),
            BusNotice::Skipped {
                topic,
                subject,
                place,
            } => self.skipped(core, topic, subject.as_ref(), *place),
            // For the history of the core.
            BusNotice::Feed(_) | BusNotice::ReadTo(_) => {}
            BusNotice::Settled {
                topic,
                number,
                is_confirmed,
            } => match is_confirmed {
                true => self.confirmed(core, clients, topic, *number),
                false => self.refused(core, clients, topic, *number),
            },
            BusNotice::ValueSkipped { number, .. } if self.past.has(*number) => {
                self.past.skipped(*number);
            }
            BusNotice::ValueSkipped { subject, number } => {
                self.retained.value_skipped(*number, subject);
            }
            // Questions for last values and those to the stream for the past have numbers of one series, and the bus
            // answers both in the same way.
            BusNotice::RetainedPage {
                number, is_open, ..
            } if self.past.has(*number) => self.past_paged(*number, *is_open),
            BusNotice::RetainedEnd { number, cut, .. } if self.past.has(*number) => {
                self.past_ended(*number, *cut);
            }
            BusNotice::RetainedPage {
                number,
                cursor,
                is_open,
            } => {
                let now_us = core.now().mono_us;
                self.retained.paged(*number, cursor, *is_open, now_us);
            }
            BusNotice::RetainedUnanswered { number, cursor } => {
                let now_us = core.now().mono_us;
                if let Some((name, clients)) = self.retained.not_answered(*number, cursor, now_us) {
                    self.queue_name_error(NO_LAST_VALUES, &name, clients);
                }
            }
            BusNotice::RetainedEnd { topic, number, cut } => {
                // A question about the whole stream has an empty name here, and `>` or `*` on the bus (`outputs.rs`).
                let scope = self.retained.scope_of(*number);
                let topic = scope.as_ref().unwrap_or(topic);
                let answered = self.retained.ended(topic, *number, *cut);
                if *cut == Some(RetainedCut::Refused) {
                    self.queue_name_error(NO_LAST_VALUES, topic, answered);
                }
            }
        }
        self.pass_past(core);
        // A question may have ended, so there may be room for the next.
        self.ask_past(core);
        self.ask_retained(core);
    }

    /// Sends the last position, so that the client misses nothing when it moves to another instance.
    fn handle_stopping(&mut self, core: &mut Core, key: SessionKey, client: &mut ChannelsClient) {
        self.statuses.send_last(core, key, client.held.has_kept());
    }

    /// Handles a drained send queue: the client has taken its last values.
    fn handle_drained(&mut self, core: &mut Core, key: SessionKey, client: &mut ChannelsClient) {
        if let Some(address) = core.client_addr(key) {
            if !self.replay_kept(core, key, client) {
                self.retained.values_taken(key, address);
            }
            self.ask_retained(core);
        }
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<ChannelsClient>, acl: Acl) {
        let old_table = std::mem::replace(&mut self.settings.acl, acl);
        self.old_tables.push_back(old_table);
        self.table = self.table.wrapping_add(1);
    }

    fn poll_output(&mut self) -> Option<ChannelsOutput> {
        if let Some(change) = self.names.requests.next_change() {
            return Some(ChannelsOutput::Interest(change));
        }
        let cover_of = |name: &TopicName| self.names.cover_of(name);
        if let Some(request) = self.retained.next_request(cover_of) {
            return Some(ChannelsOutput::Retained(request));
        }
        if let Some(old_table) = self.old_tables.pop_front() {
            return Some(ChannelsOutput::OldTable(old_table));
        }
        let clients = self.gap_notified.take()?;
        Some(ChannelsOutput::GapNotified { clients })
    }
}
