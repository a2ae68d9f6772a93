//! A client: its symbols and their limit, the end of its token, its rate, and its user for the log; and the messages to it:
//! success, error, status, pong, candles (contract: "Objects have these orders").

use std::sync::Arc;

use super::candles::{Interval, Update};
use super::leaving::Unsubscribing;
use super::request::{BadRequest, Request, Subscribe};
use crate::gateways::shared::access::{AccessStats, Rated, RequestRate, TokenEnd, shown_hashed};
use crate::gateways::shared::history::{Status, ended};
use weirgate_core::{Accepted, CopyRank, Core, Frame, Now, Position, SessionKey, TopicName};
use weirgate_wire::head::RequestHead;
use weirgate_wire::json::{ListWriter, ObjectWriter, TextList};

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
    /// A request to unsubscribe from very many symbols, which goes on in a later turn.
    pub(super) unsubscribing: Option<Box<Unsubscribing>>,
}

/// Memory of a symbol of a client: its place in the lists of the client and of the hub, and the topic of a symbol that no
/// other client holds.
const SYMBOL_BYTES: usize = 384;

/// A request over its user's limit, which waits until the gateway knows whether the user's other connections are alive.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) content: Content,
    pub(super) asked: Subscribe,
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
    /// Symbols with trades, oldest first, as an answer names them. The hub knows which topics the client holds.
    symbols: ListWriter,
    /// Symbols with candles, by interval, oldest first. `None` for most clients.
    candles: Option<Box<[ListWriter; Interval::ALL.len()]>>,
    /// The user of a token that has a limit.
    pub(super) user: Option<Arc<str>>,
    /// The most symbols of the connection, or of all the user's connections together.
    pub(super) symbols_max: usize,
}

impl Held {
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

/// `{"type":"success","message":…,"data":…,"timestamp":ms}`. A position, if given, follows the other members.
pub(super) fn success(
    core: &Core,
    message: &str,
    data: ObjectWriter,
    position: Option<Position>,
) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "success");
    object.string("message", message);
    object.object("data", data);
    placed(core, object, position)
}

/// `{"type":"status","bus":"up","timestamp":ms,"pos":…}`, with `"lost":true` after a loss.
pub(super) fn status(core: &Core, status: Status) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "status");
    object.string("bus", status.bus());
    if status.has_lost {
        object.boolean("lost", true);
    }
    placed(core, object, status.position)
}

/// `{"type":"error","message":…,"timestamp":ms}`.
pub(super) fn error(core: &Core, message: &str) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "error");
    object.string("message", message);
    placed(core, object, None)
}

/// `{"type":"pong","timestamp":ms}`.
pub(super) fn pong(core: &Core) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "pong");
    placed(core, object, None)
}

/// Returns `data` of an answer about symbols: the changed symbols under `key`, and all symbols that the client holds.
/// For candles, `data` begins with the interval.
pub(super) fn symbols(
    content: Content,
    key: &str,
    changed: &[TopicName],
    held: &Held,
) -> ObjectWriter {
    let mut data = ObjectWriter::new();
    if let Content::Candles(interval) = content {
        data.string("interval", interval.label());
    }
    data.strings(key, changed.iter().map(TopicName::as_str));
    data.raw("currentSubscriptions", &held.symbols(content));
    data
}

/// Returns the message of a running or closed candle.
pub(super) fn candle(core: &Core, update: &Update) -> Arc<Frame> {
    let frame = Frame::text(core.frame_bytes())
        .received(core.now())
        .body(update.message.as_bytes());
    match update.key {
        Some(key) => frame.key(key).finish(),
        None => frame.finish(),
    }
}

fn placed(core: &Core, mut object: ObjectWriter, position: Option<Position>) -> Arc<Frame> {
    object.number("timestamp", core.now().unix_ms());
    let frame = Frame::text(core.frame_bytes())
        .answer()
        .received(core.now())
        .body(object.finish_open().as_bytes());
    ended(frame, position, CopyRank::LAST).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trades_and_candles_of_a_symbol_are_held_apart_and_counted_together() {
        let mut held = Held::new(None, 10);
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
