//! Symbols that clients give up: a request may name very many, and a client that ends may hold very many, so they are
//! given up one after the other, over several turns if necessary.

use super::TradesGateway;
use super::client::{Content, TradesClient};
use super::messages;
use super::request::{BadRequest, check_symbol};
use weirgate_core::{Core, Left, SessionKey, TopicName};
use weirgate_wire::json::TextList;

/// Memory of a symbol that was given up, in a request that goes on in a later turn.
const SYMBOL_BYTES: usize = 48;

/// How much of a request to unsubscribe is done in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    All,
    /// What fits into the client's share of the turn; the rest waits for the next.
    Share,
}

/// A request to unsubscribe.
#[derive(Debug)]
pub(super) struct UnsubscribingSymbols {
    action: &'static str,
    content: Result<Content, BadRequest>,
    /// The symbols to check: nothing is done before the last is right.
    unchecked: TextList,
    /// The symbols still to be given up.
    asked: TextList,
    /// The symbols that the client no longer holds.
    gone: Vec<TopicName>,
}

impl UnsubscribingSymbols {
    pub(super) fn new(
        action: &'static str,
        asked: TextList,
        content: Result<Content, BadRequest>,
    ) -> Self {
        Self {
            action,
            content,
            unchecked: asked.clone(),
            asked,
            gone: Vec::new(),
        }
    }

    /// Checks the next symbol.
    fn check_next(&mut self) -> Result<(), BadRequest> {
        let at = self.asked.len() - self.unchecked.len();
        let action = self.action;
        match self.unchecked.next() {
            Some(symbol) => check_symbol(at, &symbol),
            None => Ok(()),
        }
        .map_err(|why| BadRequest::Symbols { action, why })
    }

    /// The memory of the request, and of its answer so far.
    fn bytes(&self) -> usize {
        self.asked.bytes() + self.gone.len() * SYMBOL_BYTES
    }
}

impl TradesGateway {
    /// Goes on with a request to unsubscribe.
    pub(super) fn unsubscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut TradesClient,
        mut request: UnsubscribingSymbols,
        extent: Extent,
    ) {
        while request.unchecked.len() > 0 {
            if let Err(bad) = request.check_next() {
                let error = messages::error(core, &bad.to_string());
                return core.send(key, &error);
            }
            if extent == Extent::Share && !core.has_share() {
                let bytes = request.bytes();
                client.unsubscribing = Some(Box::new(request));
                return core.go_on_later(key, bytes);
            }
        }
        let content = match &request.content {
            Ok(content) => *content,
            Err(bad) => {
                let error = messages::error(core, &bad.to_string());
                return core.send(key, &error);
            }
        };
        while let Some(symbol) = request.asked.next() {
            let symbol = TopicName::from(symbol.to_uppercase());
            let left = core.leave(key, &content.topic(&symbol));
            if let (Left::Last, Content::Candles(interval)) = (left, content) {
                self.unwatch(core, interval, symbol.as_str());
            }
            if left != Left::NoMember {
                request.gone.push(symbol);
            }
            if extent == Extent::Share && request.asked.len() > 0 && !core.has_share() {
                let bytes = request.bytes();
                client.unsubscribing = Some(Box::new(request));
                return core.go_on_later(key, bytes);
            }
        }
        let (client, gone) = (&mut client.held, request.gone);
        client.remove(content, &gone);
        core.set_client_bytes(key, client.memory_bytes());
        self.users.remove(core, key, client, gone.len());
        self.held -= gone.len();
        self.stats.subscriptions.set(self.held);
        let message = match (gone.len(), content) {
            (0, Content::Trades) => "Not subscribed to any of the requested symbols".to_owned(),
            (0, _) => "Not subscribed to candles of any of the requested symbols".to_owned(),
            (n, Content::Trades) => format!("Successfully unsubscribed from {n} symbol(s)"),
            (n, _) => format!("Successfully unsubscribed from candles of {n} symbol(s)"),
        };
        let data = messages::symbols(content, "unsubscribed", &gone, client);
        let success = messages::success(core, &message, data, None);
        core.send(key, &success);
    }

    /// Ends the candles that nobody watches any more, among those that ended clients have watched, as many as there is
    /// time for.
    pub(super) fn unwatch_of_ended(&mut self, core: &mut Core) {
        while let Some((interval, symbols)) = self.ended_watches.front_mut() {
            let interval = *interval;
            match symbols.next() {
                Some(symbol) if core.member_count(&interval.topic(&symbol)) == 0 => {
                    self.unwatch(core, interval, &symbol);
                }
                Some(_) => {}
                None => drop(self.ended_watches.pop_front()),
            }
            if !core.has_time() {
                return;
            }
        }
    }
}
