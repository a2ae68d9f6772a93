//! `weirgate trades` towards clients: a topic for each symbol, requests in JSON (contract: trades). With candles there
//! is also a topic for each symbol and interval that a client watches.
//!
//! Must not know a socket or Redis. The hub calls it through [`weirgate_core::Gateway`].

mod candles;
mod client;
pub mod feed;
mod leaving;
mod messages;
pub(super) mod metrics;
mod request;
mod settings;
pub(super) mod start;
mod users;

pub use self::candles::{CandleSettings, CandleStats};
pub(super) use self::request::SYMBOLS_PER_REQUEST_MAX;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use self::candles::{Candles, Interval, RelayedTrade, Update};
use self::client::{Content, HeldSymbols, TradesClient, name_for_log, not_held};
use self::leaving::{Extent, UnsubscribingSymbols};
use self::request::{Accepts, BadRequest, Subscribe, TradesRequest};
use self::users::Users;
use crate::auth::{Authenticator, Identity, RefusedToken, first_protocol};
use crate::gateways::shared::access::{AccessStats, Rated, RequestRate, TokenEnd, close_of};
use crate::gateways::shared::counts::Count;
use crate::gateways::shared::history::{Follow, gets_newest, last_event_id, write_recovered};
use crate::gateways::shared::identifiers::uuid;
use crate::gateways::shared::statuses::Statuses;
use weirgate_core::{
    Accepted, Admission, BusNotice, ByClient, CloseCode, Closed, Core, Entrance, Frame, Gateway,
    Incoming, Joined, Limits, NameRefusal, NameSource, NotRecovered, OnBus, Place, Publication,
    RetainedCut, SessionKey, TopicName, Wanted, earliest,
};
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Origins;
use weirgate_wire::json::{ObjectWriter, TextList};

/// Why a client may not hold further symbols.
struct RefusedSymbols {
    reason: NameRefusal,
    /// For the client.
    words: String,
}

/// Settings of a [`TradesGateway`].
#[derive(Clone, Debug)]
pub struct TradesGatewaySettings {
    /// `ws-gateway-` and eight hexadecimal digits, new at each start.
    pub server_id: String,
    /// The most symbols of a connection, unless its token has a limit of its own.
    pub symbols_max: usize,
    /// The most messages that a client may send in a second; `None` for no limit.
    pub inbound_per_second: Option<u32>,
    /// Where trades come from; candles are made here.
    pub source: NameSource,
    /// Origins of pages that may connect.
    pub origins: Origins,
    /// Checks tokens.
    pub authenticator: Authenticator,
    /// `None`: there are no candles, and requests for candles are unknown.
    pub candles: Option<CandleSettings>,
}

/// The defaults of the contract. Nobody needs a token, and all origins may connect.
impl Default for TradesGatewaySettings {
    fn default() -> Self {
        Self {
            server_id: String::new(),
            symbols_max: 5,
            inbound_per_second: None,
            source: NameSource::Live,
            origins: Origins::default(),
            authenticator: Authenticator::default(),
            candles: None,
        }
    }
}

/// Counters of the gateway, for metrics and pages.
#[derive(Debug, Default)]
pub struct TradesStats {
    /// Symbols, counted for each client that holds the symbol; a symbol with candles counts once more for each
    /// interval.
    pub subscriptions: Count,
    /// Counters of tokens and rates.
    pub access: Arc<AccessStats>,
    /// Counters of candles; all 0 without candles.
    pub candles: Arc<CandleStats>,
}

/// The client side of the trades contract.
#[derive(Debug)]
pub struct TradesGateway {
    settings: TradesGatewaySettings,
    stats: Arc<TradesStats>,
    users: Users,
    /// The sum of all clients' symbols, counted like `subscriptions`.
    held: usize,
    candles: Option<Candles>,
    /// Candles to publish; empty between two calls.
    updates: Vec<Update>,
    statuses: Statuses,
    /// The candles that ended clients have watched: some of them nobody watches any more.
    ended_watches: VecDeque<(Interval, TextList)>,
}

/// About the memory of a request that waits.
const REQUEST_BYTES: usize = 512;

/// Whether further requests of the same head follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FurtherRequests {
    None,
    Follow,
}

impl TradesGateway {
    /// A gateway without clients.
    pub fn new(settings: TradesGatewaySettings, stats: Arc<TradesStats>) -> Self {
        let candles = settings.candles.clone().map(|of_candles| {
            let stats = Arc::clone(&stats.candles);
            Candles::new(of_candles, stats)
        });
        Self {
            settings,
            stats,
            users: Users::default(),
            held: 0,
            candles,
            updates: Vec::new(),
            statuses: Statuses::new(messages::status),
            ended_watches: VecDeque::new(),
        }
    }

    /// Returns true if no client and no user holds a symbol, and no candle is watched.
    pub fn is_idle(&self) -> bool {
        let unwatched = self.candles.as_ref().is_none_or(Candles::is_unwatched);
        self.users.is_empty() && self.held == 0 && unwatched
    }

    /// Carries out a request. The requests in the query of an event stream are carried out together when the last has
    /// come, and may begin. `None`: the request was dropped, or those that wait are carried out.
    fn carry_out(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut TradesClient,
        request: Option<Result<TradesRequest, BadRequest>>,
    ) {
        client.together.extend(request);
        if core.has_requests(key) {
            return;
        }
        if client.wants_earlier() && !core.may_begin_resume(key) {
            return core.go_on_with_resume(key, REQUEST_BYTES * client.together.len());
        }
        let mut follow = Follow::default();
        let mut requests = std::mem::take(&mut client.together).into_iter();
        // The requests of an event stream are short, because they come in a head.
        let extent = match requests.len() {
            1 => Extent::Share,
            _ => Extent::All,
        };
        while let Some(request) = requests.next() {
            match request {
                Ok(TradesRequest::Subscribe(content, asked)) => {
                    let others = match requests.len() {
                        0 => FurtherRequests::None,
                        _ => FurtherRequests::Follow,
                    };
                    self.subscribe(core, key, client, (content, asked), &mut follow, others);
                }
                Ok(TradesRequest::Unsubscribe(action, symbols, content)) => {
                    let request = UnsubscribingSymbols::new(action, symbols, content);
                    self.unsubscribe(core, key, client, request, extent);
                }
                Ok(TradesRequest::Ping) => {
                    let pong = messages::pong(core);
                    core.send(key, &pong);
                }
                Err(bad) => {
                    let error = messages::error(core, &bad.to_string());
                    core.send(key, &error);
                }
            }
        }
        let holds = client.held.has_trades();
        self.statuses.send_after_answer(core, key, follow, holds);
    }

    /// Carries out a `subscribe`: all its symbols, or none. Its answer has the position only if `others` of the same head do
    /// not follow.
    fn subscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut TradesClient,
        (content, asked): (Content, Subscribe),
        follow: &mut Follow,
        others: FurtherRequests,
    ) {
        let since = asked.since.or(client.last_event_id.as_deref());
        let (client, requests) = (&mut client.held, client.requests.as_mut());
        let all: Vec<TopicName> = asked.symbols.iter().cloned().map(TopicName::from).collect();
        let new = not_held(core, key, content, &asked.symbols);
        if let Err(refused) = self.judge(core, client, content, &new) {
            core.note_refused_names(key, &new, refused.reason);
            let refusal = messages::error(core, &refused.words);
            return core.send(key, &refusal);
        }
        let missed = since.map(|since| follow.all_missed(core, key, &since, &all));
        let last = asked.last.filter(|_| gets_newest(missed));
        let wanted: Vec<Wanted> = new.iter().map(Wanted::exact).collect();
        let newest = follow.all_newest(core, key, &wanted, last);
        for symbol in &new {
            let joined = core.join(key, &content.topic(symbol));
            if let (Joined::First, Content::Candles(interval)) = (joined, content)
                && let Some(candles) = &mut self.candles
            {
                candles.watch(core.now(), interval, symbol.as_str());
            }
        }
        client.add(content, &new);
        core.set_client_bytes(key, client.memory_bytes());
        self.users.add(key, client, new.len());
        self.held += new.len();
        self.stats.subscriptions.set(self.held);
        let message = messages::subscribed_words(content, new.len());
        let mut data = messages::symbols(content, "subscribed", &new, client);
        let missed_why = newest.err().or_else(|| missed.and_then(Result::err));
        if let (Some(NotRecovered::Large), Some(requests)) = (missed_why, requests) {
            requests.charge_search(core.now());
        }
        // Before the history is filled, what the bus stored before the start is missing.
        let asks_newest = last.is_some() && !new.is_empty() && core.has_history();
        let cut = match asks_newest && !self.statuses.has_filled(core) {
            true => Some(RetainedCut::Away),
            false => newest.ok().flatten(),
        };
        let why = cut.map(RetainedCut::label);
        let why = why.or_else(|| missed_why.map(NotRecovered::label));
        write_recovered(&mut data, missed.map(|missed| missed.is_ok()), why);
        let is_last = others == FurtherRequests::None;
        let position = follow.position(core, key, client.has_trades() && is_last);
        let success = messages::success(core, &message, data, position);
        core.send(key, &success);
        if let Content::Candles(interval) = content {
            self.send_running(core, key, interval, &new);
        }
    }

    /// Judges whether the client may also hold the `new` symbols.
    fn judge(
        &mut self,
        core: &Core,
        client: &HeldSymbols,
        content: Content,
        new: &[TopicName],
    ) -> Result<(), RefusedSymbols> {
        if self.users.is_over(client, new.len()) {
            let (held, max) = (self.users.count(client), client.symbols_max);
            let whose = match client.user {
                Some(_) => "user",
                None => "connection",
            };
            let words = format!(
                "Cannot subscribe: would exceed maximum of {max} symbols per {whose}. Currently \
                 subscribed to {held} symbols."
            );
            let reason = NameRefusal::ClientLimit;
            return Err(RefusedSymbols { reason, words });
        }
        if let (Content::Candles(_), Some(candles)) = (content, &mut self.candles)
            && !candles.make_room(core.now(), new.iter().map(TopicName::as_str))
        {
            self.stats.candles.limited.add(new.len() as u64);
            let words = "Cannot subscribe: too many symbols have candles.".to_owned();
            let reason = NameRefusal::ServerLimit;
            return Err(RefusedSymbols { reason, words });
        }
        Ok(())
    }

    /// The state of a new client, with the limits of its token.
    fn client(&self, core: &Core, identity: Identity) -> TradesClient {
        // Without REQUIRE_AUTH the end of a token closes no connection: the limit in the token applies until the client
        // leaves.
        let token_end = match self.settings.authenticator.required {
            true => TokenEnd::of(&identity),
            false => TokenEnd::default(),
        };
        let claimed = identity.symbols_max.map(|max| max as usize);
        // Users need not be distinguished if their tokens have no limit.
        let user = identity.user.filter(|_| claimed.is_some()).map(Arc::from);
        let held = HeldSymbols::new(user, claimed.unwrap_or(self.settings.symbols_max));
        let per_second = self.settings.inbound_per_second;
        TradesClient {
            held,
            token_end,
            requests: per_second.map(|rate| Box::new(RequestRate::new(rate, core.now()))),
            last_event_id: None,
            together: Vec::new(),
            waiting: None,
            unsubscribing: None,
        }
    }

    /// The first message of a client.
    fn welcome(&self, core: &mut Core, symbols_max: usize) -> Arc<Frame> {
        let mut data = ObjectWriter::new();
        data.string("connectionId", &uuid(core));
        data.string("serverId", &self.settings.server_id);
        data.number("maxSymbolsPerConnection", symbols_max as u64);
        messages::success(core, "Connected to WebSocket Gateway", data, None)
    }

    /// Handles a topic of candles whose last member has left.
    fn unwatch(&mut self, core: &Core, interval: Interval, symbol: &str) {
        if let Some(candles) = &mut self.candles {
            candles.unwatch(core.now(), interval, symbol);
        }
    }

    /// Publishes the new candles.
    fn publish_updates(&mut self, core: &mut Core) {
        for update in self.updates.drain(..) {
            let frame = messages::candle(core, &update);
            core.publish(&Publication::new(update.topic, frame));
        }
    }

    /// Sends the running candles to a client that has just subscribed.
    fn send_running(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        interval: Interval,
        symbols: &[TopicName],
    ) {
        let Some(candles) = &mut self.candles else {
            return;
        };
        for symbol in symbols {
            if let Some(update) = candles.running(core.now(), interval, symbol.as_str()) {
                let frame = messages::candle(core, &update);
                core.send(key, &frame);
            }
        }
    }
}

impl Gateway for TradesGateway {
    type Client = TradesClient;
    type In = Infallible;
    type Out = Infallible;

    const HAS_LAST: bool = true;

    fn source_of(&self, name: &TopicName) -> (NameSource, OnBus) {
        let source = match Interval::has_topic(name) {
            true => NameSource::Live,
            false => self.settings.source,
        };
        (source, OnBus::Confirmed)
    }

    /// Accepts every path (protocol-trades.md, "Connecting"). Event streams are accepted at two paths only, because pages
    /// have paths too.
    fn entrance(&self, path: &str) -> Entrance<'_> {
        match path {
            "/" | "/ws" => Entrance::Clients(&self.settings.origins),
            _ => Entrance::WebSockets(&self.settings.origins),
        }
    }

    fn admit(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<TradesClient> {
        let mut accepted = Accepted {
            protocol: first_protocol(head),
            ..Accepted::default()
        };
        let tokens = &self.settings.authenticator;
        let judged = tokens.judge(head, core.now(), |identity| {
            // Clients have no role of this gateway, so the roles of the token count.
            let marks = identity.marks(None);
            core.check_not_cut_off(key, identity.user.as_deref(), Some(&marks))?;
            accepted.marks = Some(Arc::new(marks));
            Ok(())
        });
        let identity = match judged {
            Ok(identity) => identity.unwrap_or_default(),
            Err(RefusedToken { refusal, user }) => {
                self.stats.access.count_refusal(refusal);
                accepted.refusal = Some(refusal.label());
                name_for_log(&mut accepted, user.as_deref(), head);
                return Admission::AcceptThenClose(accepted, close_of(refusal));
            }
        };
        name_for_log(&mut accepted, identity.user.as_deref(), head);
        let client = TradesClient {
            last_event_id: last_event_id(head),
            ..self.client(core, identity)
        };
        Admission::Accept(accepted, client)
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut TradesClient) {
        core.set_deadline(key, client.token_end.due_us(core.now()));
        let welcome = self.welcome(core, client.held.symbols_max);
        core.send(key, &welcome);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut TradesClient,
        message: Incoming<'_>,
    ) {
        match client.take_request(core.now(), &self.stats.access) {
            Rated::Taken => {}
            // After the last request of an event stream, the requests before it are due, even if it is dropped itself.
            Rated::Dropped => return self.carry_out(core, key, client, None),
            Rated::DroppedWithError => {
                return self.carry_out(core, key, client, Some(Err(BadRequest::RateLimit)));
            }
        }
        let text = match message {
            Incoming::Text(text) => text.into(),
            Incoming::Binary(bytes) => String::from_utf8_lossy(bytes),
        };
        let accepts = Accepts {
            candles: self.candles.is_some(),
            last: core.has_history(),
        };
        match TradesRequest::parse(&text, accepts) {
            Ok(TradesRequest::Subscribe(content, asked)) => {
                if asked.status {
                    self.statuses.ask(core, key);
                }
                self.subscribe_or_wait(core, key, client, content, asked);
            }
            request => self.carry_out(core, key, client, Some(request)),
        }
    }

    /// Handles a deadline: the token may have ended, or a waiting request is due.
    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, client: &mut TradesClient) {
        if !client.token_end.close(core, key) {
            self.settle(core, key, client);
            core.set_deadline(key, client.due_us(core.now()));
        }
    }

    fn handle_answered(&mut self, core: &mut Core, key: SessionKey, client: &mut TradesClient) {
        self.users.answered(core, key, &client.held);
    }

    /// Sends the last position, so that the client misses nothing when it moves to another instance.
    fn handle_stopping(&mut self, core: &mut Core, key: SessionKey, client: &mut TradesClient) {
        self.statuses.send_last(core, key, client.held.has_trades());
    }

    fn handle_rest(&mut self, core: &mut Core, key: SessionKey, client: &mut TradesClient) {
        if let Some(request) = client.unsubscribing.take() {
            self.unsubscribe(core, key, client, *request, Extent::Share);
        } else if !client.together.is_empty() {
            self.carry_out(core, key, client, None);
        }
    }

    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, closed: Closed<TradesClient>) {
        let (Closed::Ended(client, _) | Closed::Cut(client)) = closed;
        let count = client.held.count();
        self.users.remove_ended(core, key, &client.held);
        self.held -= count;
        self.stats.subscriptions.set(self.held);
        self.ended_watches.extend(client.held.into_candles());
        self.unwatch_of_ended(core);
    }

    /// Relays the trade to the symbol's members, then publishes the candles that it changes.
    fn handle_publication(&mut self, core: &mut Core, publication: &Publication) {
        if self.statuses.passes(publication.place) {
            core.publish(publication);
        }
        // The frame of a trade that was left out is empty: only its position counts, for the history.
        let is_left_out = matches!(publication.place, Place::LeftOut(_));
        if let Some(candles) = self.candles.as_mut().filter(|_| !is_left_out)
            && let Some(frame) = publication.frame()
        {
            let trade = RelayedTrade {
                symbol: publication.topic.as_str(),
                message: frame.body(),
                received: frame.received(),
                is_old: !publication.deliver,
            };
            candles.take(core.now(), trade, &mut self.updates);
            self.publish_updates(core);
        }
    }

    fn handle_notice(
        &mut self,
        core: &mut Core,
        _: &mut ByClient<TradesClient>,
        notice: &BusNotice,
    ) {
        self.statuses.note(core, notice);
        if let Some(candles) = &mut self.candles {
            candles.note(core.now(), notice);
        }
    }

    fn poll_timeout(&self) -> Option<u64> {
        let candles = self.candles.as_ref().and_then(Candles::poll_timeout);
        let has_work = !self.ended_watches.is_empty() || self.users.has_work();
        // 0: at once.
        let left = has_work.then_some(0);
        earliest([candles, self.statuses.due_us(), left])
    }

    fn handle_timeout(&mut self, core: &mut Core, clients: &mut ByClient<TradesClient>) {
        let holds = |_: &mut Core, _, client: &mut TradesClient| client.held.has_trades();
        self.statuses.handle_timeout(core, clients, holds);
        self.unwatch_of_ended(core);
        self.users.ping_next(core);
        self.close_dead(core);
        if let Some(candles) = &mut self.candles {
            candles.handle_timeout(core.now(), &mut self.updates);
            self.publish_updates(core);
        }
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<TradesClient>, never: Infallible) {
        match never {}
    }

    fn pong_timeout_code(&self) -> CloseCode {
        CloseCode::new(1000, "Heartbeat timeout")
    }

    fn stop_code(&self, _: &Limits) -> CloseCode {
        CloseCode::new(1001, "Server shutting down")
    }
}
