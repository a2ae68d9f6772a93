//! `weirgate trades` towards clients: a topic a symbol, requests in JSON (contract: trades).
//!
//! Must not know a socket or Redis. Called by the hub, through [`crate::hub::Gateway`].

mod answer;
mod request;
mod symbols;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use self::request::Request;
use self::symbols::{Held, Users};
use super::uuid::uuid;
use crate::auth::{Authenticator, Identity, Origins, Token, first_protocol};
use crate::hub::{
    Accepted, Admission, CloseCode, CloseReason, Closing, Core, Frame, Gateway, Incoming,
    SessionKey,
};
use crate::wire::head::RequestHead;
use crate::wire::object_writer::ObjectWriter;

const AUTHENTICATION_FAILED: CloseCode = CloseCode {
    code: 1008,
    text: "Authentication failed",
};

/// What can be set.
#[derive(Clone, Debug)]
pub struct TradesGatewaySettings {
    /// `ws-gateway-` and eight hexadecimal digits, new at each start.
    pub server_id: String,
    /// Symbols of one connection.
    pub symbols_max: usize,
    /// Levels of nesting that a message may have.
    pub json_depth_max: usize,
}

/// The client side of the trades contract.
#[derive(Debug)]
pub struct TradesGateway {
    settings: TradesGatewaySettings,
    origins: Origins,
    tokens: Authenticator,
    clients: HashMap<SessionKey, Held, RandomState>,
    users: Users,
    /// Who was let in by [`Gateway::upgrade`], until [`Gateway::opened`] follows at once.
    admitted: Identity,
}

impl TradesGateway {
    /// A gateway without clients.
    pub fn new(settings: TradesGatewaySettings, origins: Origins, tokens: Authenticator) -> Self {
        Self {
            settings,
            origins,
            tokens,
            clients: HashMap::default(),
            users: Users::default(),
            admitted: Identity::default(),
        }
    }

    /// No client is connected, and nothing is kept of those that were.
    pub fn is_idle(&self) -> bool {
        self.clients.is_empty() && self.users.is_empty()
    }

    fn subscribe(&mut self, core: &mut Core, key: SessionKey, asked: Vec<String>) -> Arc<Frame> {
        let Some(client) = self.clients.get_mut(&key) else {
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
        let message = format!("Successfully subscribed to {} symbol(s)", new.len());
        let data = answer::symbols("subscribed", &new, &client.symbols);
        answer::success(core, &message, data)
    }

    fn unsubscribe(&mut self, core: &mut Core, key: SessionKey, asked: Vec<String>) -> Arc<Frame> {
        let Some(client) = self.clients.get_mut(&key) else {
            return answer::error(core, "Not connected");
        };
        let gone = client.held_ones(asked);
        for symbol in &gone {
            core.leave(key, symbol);
        }
        client.symbols.retain(|held| !gone.contains(held));
        self.users.remove(client, gone.len());
        let message = match gone.len() {
            0 => "Not subscribed to any of the requested symbols".to_owned(),
            n => format!("Successfully unsubscribed from {n} symbol(s)"),
        };
        let data = answer::symbols("unsubscribed", &gone, &client.symbols);
        answer::success(core, &message, data)
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
        if !self.origins.allow(head.header("Origin")) {
            return Admission::Refuse {
                status: 403,
                detail: "Origin not allowed",
            };
        }
        let accepted = Accepted {
            protocol: first_protocol(head),
            ..Accepted::default()
        };
        let token = Token::find(head);
        let identity = self.tokens.identify(token.as_ref(), core.now().unix_ms);
        match identity {
            Ok(identity) => self.admitted = identity,
            Err(_) if self.tokens.required => {
                return Admission::AcceptThenClose(accepted, AUTHENTICATION_FAILED);
            }
            // Without REQUIRE_AUTH a token refuses nobody.
            Err(_) => self.admitted = Identity::default(),
        }
        Admission::Accept(accepted)
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        let identity = std::mem::take(&mut self.admitted);
        let claimed = identity.symbols_max.map(|max| max as usize);
        let client = Held {
            symbols: Vec::new(),
            // Without a limit of their own users are not told apart.
            user: identity.user.filter(|_| claimed.is_some()).map(Arc::from),
            symbols_max: claimed.unwrap_or(self.settings.symbols_max),
        };
        if let Some(at_unix_ms) = identity.expires_unix_ms {
            let left_ms = at_unix_ms.saturating_sub(core.now().unix_ms).max(0) as u64;
            let at_us = core
                .now()
                .mono_us
                .saturating_add(left_ms.saturating_mul(1000));
            core.set_deadline(key, Some(at_us));
        }
        let welcome = self.welcome(core, client.symbols_max);
        self.clients.insert(key, client);
        core.send(key, &welcome);
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
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

    /// The token has expired.
    fn deadline(&mut self, core: &mut Core, key: SessionKey) {
        let reason = CloseReason::Policy;
        core.close(key, AUTHENTICATION_FAILED, reason, Closing::Now);
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, _: CloseReason) {
        if let Some(client) = self.clients.remove(&key) {
            self.users.remove(&client, client.symbols.len());
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
