//! `weirgate trades` towards clients: a topic a symbol, requests in JSON (contract: trades).
//!
//! Must not know a socket or Redis. Called by the hub, through [`crate::hub::Gateway`].

mod answer;
mod client;
mod request;
mod stats;
mod symbols;

use std::convert::Infallible;
use std::sync::Arc;

use self::client::{Client, user_for_log};
use self::request::Request;
use self::symbols::{Held, Users};
use super::access::{AUTHENTICATION_FAILED, RATE_LIMIT_EXCEEDED, Rated, RequestRate, TokenEnd};
use super::uuid::uuid;
use crate::auth::{Authenticator, Identity, Origins, Refusal, Token, first_protocol};
use crate::hub::{
    Accepted, Admission, ByClient, CloseCode, CloseReason, Closing, Core, Entrance, Frame, Gateway,
    Incoming, SessionKey,
};
use crate::wire::head::RequestHead;
use crate::wire::object_writer::ObjectWriter;

pub use self::stats::TradesStats;

/// Settings of a [`TradesGateway`].
#[derive(Clone, Debug)]
pub struct TradesGatewaySettings {
    /// `ws-gateway-` and eight hexadecimal digits, new at each start.
    pub server_id: String,
    /// Symbols of one connection.
    pub symbols_max: usize,
    /// Messages that a client may send, a second; `None` for no limit.
    pub inbound_per_second: Option<u32>,
    /// Levels of nesting that a message may have.
    pub json_depth_max: usize,
    /// Pages that may connect.
    pub origins: Origins,
    /// Who a token admits.
    pub authenticator: Authenticator,
}

/// The client side of the trades contract.
#[derive(Debug)]
pub struct TradesGateway {
    settings: TradesGatewaySettings,
    stats: Arc<TradesStats>,
    users: Users,
    /// Symbols held, once for each client that holds them.
    held: u64,
}

impl TradesGateway {
    /// A gateway without clients.
    pub fn new(settings: TradesGatewaySettings, stats: Arc<TradesStats>) -> Self {
        Self {
            settings,
            stats,
            users: Users::default(),
            held: 0,
        }
    }

    /// Nothing is held, by no client and no user.
    pub fn is_idle(&self) -> bool {
        self.users.is_empty() && self.held == 0
    }

    fn subscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Held,
        asked: Vec<String>,
    ) -> Arc<Frame> {
        let new = client.new_ones(asked);
        if new.is_empty() {
            let data = answer::symbols("subscribed", &new, &client.symbols);
            return answer::success(core, "Already subscribed to all requested symbols", data);
        }
        let (held, max) = (self.users.count(client), client.symbols_max);
        if held + new.len() > max {
            let whose = match client.user {
                Some(_) => "user",
                None => "connection",
            };
            let message = format!(
                "Cannot subscribe: would exceed maximum of {max} symbols per {whose}. Currently \
                 subscribed to {held} symbols."
            );
            return answer::error(core, &message);
        }
        for symbol in &new {
            core.join(key, symbol);
        }
        client.symbols.extend_from_slice(&new);
        self.users.add(client, new.len());
        self.held += new.len() as u64;
        self.stats.store_subscriptions(self.held);
        let message = format!("Successfully subscribed to {} symbol(s)", new.len());
        let data = answer::symbols("subscribed", &new, &client.symbols);
        answer::success(core, &message, data)
    }

    fn unsubscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Held,
        asked: Vec<String>,
    ) -> Arc<Frame> {
        let gone = client.held_ones(asked);
        for symbol in &gone {
            core.leave(key, symbol);
        }
        client.symbols.retain(|held| !gone.contains(held));
        self.users.remove(client, gone.len());
        self.held -= gone.len() as u64;
        self.stats.store_subscriptions(self.held);
        let message = match gone.len() {
            0 => "Not subscribed to any of the requested symbols".to_owned(),
            n => format!("Successfully unsubscribed from {n} symbol(s)"),
        };
        let data = answer::symbols("unsubscribed", &gone, &client.symbols);
        answer::success(core, &message, data)
    }

    fn client(&self, core: &Core, identity: Identity) -> Client {
        // Without REQUIRE_AUTH the end of a token closes nobody: what it brought counts until the
        // client leaves.
        let token_end = match self.settings.authenticator.required {
            true => TokenEnd::of(&identity),
            false => TokenEnd::default(),
        };
        let claimed = identity.symbols_max.map(|max| max as usize);
        let held = Held {
            symbols: Vec::new(),
            // Without a limit of their own users are not told apart.
            user: identity.user.filter(|_| claimed.is_some()).map(Arc::from),
            symbols_max: claimed.unwrap_or(self.settings.symbols_max),
        };
        let per_second = self.settings.inbound_per_second;
        Client {
            held,
            token_end,
            requests: per_second.map(|rate| Box::new(RequestRate::new(rate, core.now()))),
        }
    }

    fn welcome(&self, core: &mut Core, symbols_max: usize) -> Arc<Frame> {
        let mut data = ObjectWriter::new();
        data.string("connectionId", &uuid(core));
        data.string("serverId", &self.settings.server_id);
        data.number("maxSymbolsPerConnection", symbols_max as u64);
        answer::success(core, "Connected to WebSocket Gateway", data)
    }
}

impl Gateway for TradesGateway {
    type Client = Client;
    type In = Infallible;
    type Out = Infallible;

    /// Any path will do (contract trades, row "listens").
    fn entrance(&self, _: &str) -> Entrance<'_> {
        Entrance::Clients(&self.settings.origins)
    }

    fn admit(
        &mut self,
        core: &mut Core,
        _: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Client> {
        let mut accepted = Accepted {
            protocol: first_protocol(head),
            ..Accepted::default()
        };
        let tokens = &self.settings.authenticator;
        let token = Token::find(head);
        let identity = match tokens.identify(token.as_ref(), core.now().unix_ms) {
            Ok(identity) => identity,
            Err(refusal) if tokens.required => {
                self.stats.access.count_refusal(refusal);
                accepted.refusal = Some(refusal.label());
                accepted.user = user_for_log(None, head);
                return Admission::AcceptThenClose(accepted, AUTHENTICATION_FAILED);
            }
            // Without REQUIRE_AUTH a token refuses nobody.
            Err(_) => Identity::default(),
        };
        accepted.user = user_for_log(identity.user.as_deref(), head);
        Admission::Accept(accepted, self.client(core, identity))
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        core.set_deadline(key, client.token_end.due_us(core.now()));
        let welcome = self.welcome(core, client.held.symbols_max);
        core.send(key, &welcome);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        message: Incoming<'_>,
    ) {
        match client.judge_rate(core.now(), &self.stats.access) {
            Rated::Taken => {}
            Rated::Dropped => return,
            Rated::DroppedAndTold => {
                let answer = answer::error(core, RATE_LIMIT_EXCEEDED);
                core.send(key, &answer);
                return;
            }
        }
        let text = match message {
            Incoming::Text(text) => text.into(),
            Incoming::Binary(bytes) => String::from_utf8_lossy(bytes),
        };
        let held = &mut client.held;
        let answer = match Request::parse(&text, self.settings.json_depth_max) {
            Ok(Request::Ping) => answer::pong(core),
            Ok(Request::Subscribe(symbols)) => self.subscribe(core, key, held, symbols),
            Ok(Request::Unsubscribe(symbols)) => self.unsubscribe(core, key, held, symbols),
            Err(bad) => answer::error(core, &bad.to_string()),
        };
        core.send(key, &answer);
    }

    /// A token may have ended.
    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        if client.token_end.has_come(core.now()) {
            let reason = CloseReason::Policy;
            core.set_refusal(key, Refusal::Expired.label());
            core.close(key, AUTHENTICATION_FAILED, reason, Closing::Now);
        } else {
            core.set_deadline(key, client.token_end.due_us(core.now()));
        }
    }

    fn handle_closed(&mut self, _: &mut Core, _: SessionKey, client: Client, _: CloseReason) {
        let held = client.held;
        self.users.remove(&held, held.symbols.len());
        self.held -= held.symbols.len() as u64;
        self.stats.store_subscriptions(self.held);
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<Client>, never: Infallible) {
        match never {}
    }

    fn stop_code(&self) -> CloseCode {
        CloseCode {
            code: 1001,
            text: "Server shutting down",
        }
    }

    fn pong_timeout_code(&self) -> CloseCode {
        CloseCode {
            code: 1000,
            text: "Heartbeat timeout",
        }
    }
}
