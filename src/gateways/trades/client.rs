//! A client: its symbols and their limit, the end of its token, its rate, and its user for the log.

use std::sync::Arc;

use super::super::access::{AccessStats, Rated, RequestRate, TokenEnd, shown_hashed};
use super::candles::Interval;
use super::request::{Asked, BadRequest, Request};
use crate::hub::{Accepted, Core, Now, SessionKey, TopicName};
use crate::wire::head::RequestHead;

#[derive(Debug)]
pub struct Client {
    pub(super) held: Held,
    pub(super) token_end: TokenEnd,
    /// `None` without a configured rate.
    pub(super) requests: Option<Box<RequestRate>>,
    /// The event id that a reconnecting event stream sent.
    pub(super) last_event_id: Option<Box<str>>,
    /// The requests in the query of an event stream, until the last of them has come.
    pub(super) together: Vec<Result<Request, BadRequest>>,
    pub(super) waiting: Option<Box<Waiting>>,
}

/// A request over its user's limit, which waits until the gateway knows whether the user's other connections are alive.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) content: Content,
    pub(super) asked: Asked,
    /// The latest time of the response.
    pub(super) due_us: u64,
}

impl Client {
    /// The next time to handle the client, microseconds of the monotonic clock.
    pub(super) fn due_us(&self, now: Now) -> Option<u64> {
        let waiting = self.waiting.as_ref().map(|waiting| waiting.due_us);
        self.token_end.due_us(now).into_iter().chain(waiting).min()
    }

    /// Judges a message by the client's rate.
    pub(super) fn judge_rate(&mut self, now: Now, stats: &AccessStats) -> Rated {
        let requests = self.requests.as_mut();
        requests.map_or(Rated::Taken, |requests| requests.judge(now, stats))
    }
}

/// Whether a client has subscribed to trades.
pub(super) fn holds_trades(_: &Core, _: SessionKey, client: &Client) -> bool {
    !client.held.symbols(Content::Trades).is_empty()
}

/// Sets the user of a client for the log: the token's user, else the hash of `?userId=`.
pub(super) fn name_for_log(
    accepted: &mut Accepted,
    of_token: Option<&str>,
    head: &RequestHead<'_>,
) {
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
pub(super) struct Held {
    /// Symbols with trades, oldest first.
    symbols: Vec<TopicName>,
    /// Symbols with candles, by interval, oldest first. `None` for most clients.
    candles: Option<Box<[Vec<TopicName>; Interval::ALL.len()]>>,
    /// The user of a token that has a limit.
    pub(super) user: Option<Arc<str>>,
    /// The most symbols of the connection, or of all the user's connections together.
    pub(super) symbols_max: usize,
}

impl Held {
    /// No subscriptions yet, and `symbols_max` at most.
    pub(super) fn new(user: Option<Arc<str>>, symbols_max: usize) -> Self {
        Self {
            symbols: Vec::new(),
            candles: None,
            user,
            symbols_max,
        }
    }

    /// The symbols held, oldest first.
    pub(super) fn symbols(&self, content: Content) -> &[TopicName] {
        match (content, &self.candles) {
            (Content::Trades, _) => &self.symbols,
            (Content::Candles(interval), Some(candles)) => &candles[interval as usize],
            (Content::Candles(_), None) => &[],
        }
    }

    /// Symbols with trades, and symbols with candles of each interval.
    pub(super) fn count(&self) -> usize {
        let candles = self.candles.iter().flat_map(|candles| candles.iter());
        self.symbols.len() + candles.map(Vec::len).sum::<usize>()
    }

    /// The symbols with candles, by interval.
    pub(super) fn candles(&self) -> impl Iterator<Item = (Interval, &TopicName)> {
        let lists = self.candles.iter().flat_map(|lists| lists.iter());
        let by_interval = Interval::ALL.into_iter().zip(lists);
        by_interval.flat_map(|(interval, list)| list.iter().map(move |symbol| (interval, symbol)))
    }

    pub(super) fn add(&mut self, content: Content, symbols: &[TopicName]) {
        self.list(content).extend_from_slice(symbols);
    }

    pub(super) fn remove(&mut self, content: Content, symbols: &[TopicName]) {
        self.list(content).retain(|held| !symbols.contains(held));
    }

    fn list(&mut self, content: Content) -> &mut Vec<TopicName> {
        match content {
            Content::Trades => &mut self.symbols,
            Content::Candles(interval) => {
                &mut self.candles.get_or_insert_default()[interval as usize]
            }
        }
    }

    fn has(&self, content: Content, symbol: &str) -> bool {
        let mut held = self.symbols(content).iter();
        held.any(|held| held.as_str() == symbol)
    }

    /// Each of the `asked` symbols once, in the order of `asked`: the held symbols if `are_held`, else the other
    /// symbols.
    pub(super) fn select(
        &self,
        content: Content,
        asked: Vec<String>,
        are_held: bool,
    ) -> Vec<TopicName> {
        let mut found: Vec<TopicName> = Vec::new();
        for symbol in asked {
            let is_found = found.iter().any(|found| found.as_str() == symbol);
            if self.has(content, &symbol) == are_held && !is_found {
                found.push(symbol.into());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trades_and_candles_of_a_symbol_are_held_apart_and_counted_together() {
        let mut held = Held::new(None, 10);
        let asked = || vec!["A".to_owned(), "B".to_owned()];
        let minute = Content::Candles(Interval::Minute);
        let both = held.select(Content::Trades, asked(), false);
        held.add(Content::Trades, &both);
        held.add(minute, &both[..1]);
        assert_eq!(held.count(), 3);
        assert_eq!(held.select(minute, asked(), false), both[1..]);
        assert_eq!(held.select(minute, asked(), true), both[..1]);
        let second = Content::Candles(Interval::Second);
        assert_eq!(held.symbols(second), []);
        held.remove(minute, &both);
        assert_eq!((held.symbols(minute), held.count()), (&[][..], 2));
    }
}
