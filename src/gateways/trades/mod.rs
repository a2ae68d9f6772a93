//! `weirgate trades` towards clients: a topic a symbol, requests in JSON (contract: trades).
//!
//! Must not know a socket or Redis. Called by the hub, through [`crate::hub::Gateway`].

mod answer;
mod client;
mod request;
mod stats;
mod symbols;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use self::client::{Client, user_for_log};
use self::request::Request;
use self::symbols::{Held, Users};
use super::access::{AUTHENTICATION_FAILED, RATE_LIMIT_EXCEEDED, Rated, RequestRate, TokenEnd};
use super::uuid::uuid;
use crate::auth::{Authenticator, Identity, Origins, Token, first_protocol};
use crate::hub::{
    Accepted, Admission, CloseCode, CloseReason, Closing, Core, Frame, Gateway, Incoming,
    SessionKey,
};
use crate::wire::head::RequestHead;
use crate::wire::object_writer::ObjectWriter;

pub use self::stats::TradesStats;

/// What can be set.
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
    clients: HashMap<SessionKey, Client, RandomState>,
    users: Users,
    /// Symbols held, once for each client that holds them.
    held: u64,
    /// Who was let in by [`Gateway::upgrade`], until [`Gateway::opened`] follows at once.
    admitted: Identity,
}

impl TradesGateway {
    /// A gateway without clients.
    pub fn new(settings: TradesGatewaySettings, stats: Arc<TradesStats>) -> Self {
        Self {
            settings,
            stats,
            clients: HashMap::default(),
            users: Users::default(),
            held: 0,
            admitted: Identity::default(),
        }
    }

    /// No client is connected, and nothing is kept of those that were.
    pub fn is_idle(&self) -> bool {
        self.clients.is_empty() && self.users.is_empty() && self.held == 0
    }

    fn subscribe(&mut self, core: &mut Core, key: SessionKey, asked: Vec<String>) -> Arc<Frame> {
        let Some(Client { held: client, .. }) = self.clients.get_mut(&key) else {
            return answer::error(core, "Not connected");
        };
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

    fn unsubscribe(&mut self, core: &mut Core, key: SessionKey, asked: Vec<String>) -> Arc<Frame> {
        let Some(Client { held: client, .. }) = self.clients.get_mut(&key) else {
            return answer::error(core, "Not connected");
        };
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

    fn judge_rate(&mut self, core: &Core, key: SessionKey) -> Rated {
        let client = self.clients.get_mut(&key);
        let requests = client.and_then(|client| client.requests.as_mut());
        requests.map_or(Rated::Taken, |requests| {
            requests.judge(core.now(), &self.stats.access)
        })
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
    type Command = ();

    fn upgrade(&mut self, core: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        if !head.asks_upgrade() {
            return Admission::ToHttp;
        }
        if !self.settings.origins.allow(head.header("Origin")) {
            return Admission::Refuse {
                status: 403,
                detail: "Origin not allowed",
            };
        }
        self.admitted = Identity::default();
        let mut accepted = Accepted {
            protocol: first_protocol(head),
            ..Accepted::default()
        };
        // What is wrong with an upgrade the core says, and no token is looked at for it.
        if head.upgrade().is_err() {
            return Admission::Accept(accepted);
        }
        let tokens = &self.settings.authenticator;
        let token = Token::find(head);
        match tokens.identify(token.as_ref(), core.now().unix_ms) {
            Ok(identity) => self.admitted = identity,
            Err(refusal) if tokens.required => {
                self.stats.access.count_refusal(refusal);
                accepted.user = user_for_log(None, head);
                return Admission::AcceptThenClose(accepted, AUTHENTICATION_FAILED);
            }
            // Without REQUIRE_AUTH a token refuses nobody.
            Err(_) => {}
        }
        accepted.user = user_for_log(self.admitted.user.as_deref(), head);
        Admission::Accept(accepted)
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        let identity = std::mem::take(&mut self.admitted);
        // Nor does its end close anybody then: what it brought counts until the client leaves.
        let token_end = match self.settings.authenticator.required {
            true => TokenEnd::of(&identity),
            false => TokenEnd::default(),
        };
        core.set_deadline(key, token_end.due_us(core.now()));
        let claimed = identity.symbols_max.map(|max| max as usize);
        let held = Held {
            symbols: Vec::new(),
            // Without a limit of their own users are not told apart.
            user: identity.user.filter(|_| claimed.is_some()).map(Arc::from),
            symbols_max: claimed.unwrap_or(self.settings.symbols_max),
        };
        let welcome = self.welcome(core, held.symbols_max);
        let per_second = self.settings.inbound_per_second;
        let client = Client {
            held,
            token_end,
            requests: per_second.map(|rate| Box::new(RequestRate::new(rate, core.now()))),
        };
        self.clients.insert(key, client);
        core.send(key, &welcome);
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        match self.judge_rate(core, key) {
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
        let answer = match Request::parse(&text, self.settings.json_depth_max) {
            Ok(Request::Ping) => answer::pong(core),
            Ok(Request::Subscribe(symbols)) => self.subscribe(core, key, symbols),
            Ok(Request::Unsubscribe(symbols)) => self.unsubscribe(core, key, symbols),
            Err(bad) => answer::error(core, &bad.to_string()),
        };
        core.send(key, &answer);
    }

    fn command(&mut self, _: &mut Core, (): Self::Command) {}

    /// A token may have ended.
    fn deadline(&mut self, core: &mut Core, key: SessionKey) {
        let Some(client) = self.clients.get(&key) else {
            return;
        };
        if client.token_end.has_come(core.now()) {
            let reason = CloseReason::Policy;
            core.close(key, AUTHENTICATION_FAILED, reason, Closing::Now);
        } else {
            core.set_deadline(key, client.token_end.due_us(core.now()));
        }
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, _: CloseReason) {
        if let Some(Client { held, .. }) = self.clients.remove(&key) {
            self.users.remove(&held, held.symbols.len());
            self.held -= held.symbols.len() as u64;
            self.stats.store_subscriptions(self.held);
        }
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
