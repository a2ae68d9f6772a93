//! A client: its symbols and their limit, the end of its token, its rate, and its user for the log.

use std::sync::Arc;

use super::candles::Interval;
use super::leaving::UnsubscribingSymbols;
use super::request::{BadRequest, Subscribe, TradesRequest};
use crate::gateways::shared::access::{AccessStats, Rated, RequestRate, TokenEnd};
use crate::gateways::shared::identifiers::shown_hashed;
use weirgate_core::{Accepted, Core, SessionKey, TopicName};
use weirgate_wire::RequestHead;
use weirgate_wire::base::Now;
use weirgate_wire::json::{ListWriter, TextList};

/// The gateway's state of a client.
#[derive(Debug)]
pub struct TradesClient {
    pub(super) held: HeldSymbols,
    pub(super) token_end: TokenEnd,
    /// `None` without a configured rate.
    pub(super) requests: Option<Box<RequestRate>>,
    /// The event id that a reconnecting event stream sent.
    pub(super) last_event_id: Option<Box<str>>,
    /// The requests in the query of an event stream, until the last of them has come; or requests for earlier trades that
    /// have to wait ([`Core::may_begin_resume`]).
    pub(super) together: Vec<Result<TradesRequest, BadRequest>>,
    pub(super) waiting: Option<Box<PendingSubscribe>>,
    /// A request to unsubscribe from very many symbols, whose rest is for a later turn.
    pub(super) unsubscribing: Option<Box<UnsubscribingSymbols>>,
}

/// Memory of a symbol of a client: its place in the lists of the client and of the hub, and the topic of a symbol that no
/// other client holds.
const SYMBOL_BYTES: usize = 384;

/// A request over its user's limit, which waits until the gateway knows whether the user's other connections are alive.
#[derive(Debug)]
pub(super) struct PendingSubscribe {
    pub(super) content: Content,
    pub(super) asked: Subscribe,
    /// The latest time of the response.
    pub(super) due_us: u64,
}

impl TradesClient {
    /// The next time to handle the client, microseconds of the monotonic clock.
    pub(super) fn due_us(&self, now: Now) -> Option<u64> {
        let waiting = self.waiting.as_ref().map(|waiting| waiting.due_us);
        self.token_end.due_us(now).into_iter().chain(waiting).min()
    }

    /// Whether one of its requests wants earlier trades.
    pub(super) fn wants_earlier(&self) -> bool {
        let since = self.last_event_id.as_deref();
        let mut together = self.together.iter();
        together.any(|request| match request {
            Ok(TradesRequest::Subscribe(_, asked)) => asked.wants_earlier(since),
            _ => false,
        })
    }

    /// Takes a message into the rate of the client.
    pub(super) fn take_request(&mut self, now: Now, stats: &AccessStats) -> Rated {
        let requests = self.requests.as_mut();
        requests.map_or(Rated::Taken, |requests| requests.take(now, stats))
    }
}

/// Sets the user of a client for the log: the token's user, else the hash of `?userId=`.
pub(super) fn name_for_log(
    accepted: &mut Accepted,
    of_token: Option<&str>,
    head: &RequestHead<'_>,
) {
    // A name that the client gives itself, and not one of its token.
    accepted.is_own_name = of_token.is_none();
    let own_name = || {
        let user = head.parameters("userId").find(|user| !user.is_empty());
        user.map(|user| shown_hashed(&user))
    };
    accepted.user = of_token.map(Into::into).or_else(own_name);
}

/// The content to which a client subscribes for a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Trades,
    Candles(Interval),
}

impl Content {
    /// The topic of this content for a symbol.
    pub(super) fn topic(self, symbol: &TopicName) -> TopicName {
        match self {
            Self::Trades => symbol.clone(),
            Self::Candles(interval) => interval.topic(symbol.as_str()),
        }
    }
}

/// The subscriptions of a connection, for trades and for candles.
#[derive(Debug)]
pub(super) struct HeldSymbols {
    /// Symbols with trades, oldest first, as an answer names them. The hub knows which topics the client holds.
    symbols: ListWriter,
    /// Symbols with candles, by interval, oldest first. `None` for most clients.
    candles: Option<Box<[ListWriter; Interval::ALL.len()]>>,
    /// The user of a token that has a limit.
    pub(super) user: Option<Arc<str>>,
    /// The most symbols of the connection, or of all the user's connections together.
    pub(super) symbols_max: usize,
}

impl HeldSymbols {
    /// No subscriptions yet, and `symbols_max` at most.
    pub(super) fn new(user: Option<Arc<str>>, symbols_max: usize) -> Self {
        Self {
            symbols: ListWriter::default(),
            candles: None,
            user,
            symbols_max,
        }
    }

    /// The symbols held, oldest first, as a JSON array.
    pub(super) fn symbols(&self, content: Content) -> String {
        match (content, &self.candles) {
            (Content::Trades, _) => self.symbols.finish(),
            (Content::Candles(interval), Some(candles)) => candles[interval as usize].finish(),
            (Content::Candles(_), None) => ListWriter::default().finish(),
        }
    }

    /// Whether the client has subscribed to trades.
    pub(super) fn has_trades(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// Symbols with trades, and symbols with candles of each interval.
    pub(super) fn count(&self) -> usize {
        let candles = self.candles.iter().flat_map(|candles| candles.iter());
        self.symbols.len() + candles.map(ListWriter::len).sum::<usize>()
    }

    /// Memory of the symbols after the first, which counts with the connection.
    pub(super) fn memory_bytes(&self) -> usize {
        SYMBOL_BYTES * self.count().saturating_sub(1)
    }

    /// The symbols with candles, by interval.
    pub(super) fn into_candles(self) -> impl Iterator<Item = (Interval, TextList)> {
        let lists = self.candles.into_iter().flat_map(|lists| *lists);
        let texts = lists.map(ListWriter::into_texts);
        Interval::ALL.into_iter().zip(texts)
    }

    pub(super) fn add(&mut self, content: Content, symbols: &[TopicName]) {
        let list = self.list(content);
        symbols.iter().for_each(|symbol| list.push(symbol.as_str()));
    }

    pub(super) fn remove(&mut self, content: Content, symbols: &[TopicName]) {
        let symbols = symbols.iter().map(TopicName::as_str);
        self.list(content).remove(symbols);
    }

    /// Returns the list of what the client holds of this content. The lists for candles are made at the first use.
    fn list(&mut self, content: Content) -> &mut ListWriter {
        match content {
            Content::Trades => &mut self.symbols,
            Content::Candles(interval) => {
                &mut self.candles.get_or_insert_default()[interval as usize]
            }
        }
    }
}

/// Each of the few symbols once, in their order, without those that the client holds.
pub(super) fn not_held(
    core: &Core,
    key: SessionKey,
    content: Content,
    asked: &[String],
) -> Vec<TopicName> {
    let mut new: Vec<TopicName> = Vec::new();
    for symbol in asked {
        let symbol = TopicName::from(symbol.clone());
        if !new.contains(&symbol) && !core.is_member(key, &content.topic(&symbol)) {
            new.push(symbol);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trades_and_candles_of_a_symbol_are_held_apart_and_counted_together() {
        let mut held = HeldSymbols::new(None, 10);
        let minute = Content::Candles(Interval::Minute);
        let both = ["A", "B"].map(TopicName::fixed);
        held.add(Content::Trades, &both);
        held.add(minute, &both[..1]);
        assert_eq!(held.count(), 3);
        assert_eq!(held.symbols(Content::Trades), r#"["A","B"]"#);
        assert_eq!(held.symbols(minute), r#"["A"]"#);
        let second = Content::Candles(Interval::Second);
        assert_eq!(held.symbols(second), "[]");
        held.remove(minute, &both);
        assert_eq!((held.symbols(minute).as_str(), held.count()), ("[]", 2));
    }
}
