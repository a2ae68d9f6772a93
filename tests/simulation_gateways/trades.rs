//! Trades: a request has its answer at once, and a trade goes to those who hold its symbol. In half
//! of the seeds there are candles.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;
use weirgate::auth::Authenticator;
use weirgate::gateways::trades::feed::TradesFeed;
use weirgate::gateways::trades::{
    CandleSettings, TradesGateway, TradesGatewaySettings, TradesStats,
};
use weirgate_core::{BusEvent, BusMessage, FeedSettings, SessionKey};
use weirgate_wire::auth::Origins;
use weirgate_wire::base::Now;

use super::bench::{Bench, Contract, SECOND, noise, take};
use super::candles::{INTERVALS, Market, Seen, Trade};
use crate::world::Random;

const SYMBOLS: [&str; 8] = ["AAPL", "B", "c", "D.E", "é", "F", "G", "toolongsymbol"];
/// Of one connection.
const SYMBOLS_MAX: usize = 4;

#[derive(Debug)]
enum Want {
    Welcome,
    Pong,
    Error,
    /// These are held now.
    Held(Vec<String>),
    /// Candles of these are held now, by the request made then.
    Candles(Now, usize, Vec<String>),
}

/// What the model knows of one client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    held: Vec<String>,
    /// The same with candles, by interval.
    candles: [Vec<String>; INTERVALS.len()],
    answers: VecDeque<Want>,
    trades: VecDeque<u64>,
    seen: Seen,
}

impl Client {
    fn held(&mut self, interval: Option<usize>) -> &mut Vec<String> {
        match interval {
            Some(interval) => &mut self.candles[interval],
            None => &mut self.held,
        }
    }

    fn count(&self) -> usize {
        self.held.len() + self.candles.iter().map(Vec::len).sum::<usize>()
    }

    /// What a request has to be answered with, `None` for an error.
    fn subscribe(&mut self, interval: Option<usize>, asked: &[String]) -> Option<Vec<String>> {
        let mut new: Vec<String> = Vec::new();
        for symbol in asked {
            if !self.held(interval).contains(symbol) && !new.contains(symbol) {
                new.push(symbol.clone());
            }
        }
        if self.count() + new.len() > SYMBOLS_MAX && !new.is_empty() {
            return None;
        }
        self.held(interval).extend(new);
        Some(self.held(interval).clone())
    }

    fn unsubscribe(&mut self, interval: Option<usize>, asked: &[String]) -> Option<Vec<String>> {
        let held = self.held(interval);
        held.retain(|held| !asked.contains(held));
        Some(held.clone())
    }
}

/// See [`Contract`].
pub(crate) struct Trades {
    feed: Option<TradesFeed>,
    stats: Arc<TradesStats>,
    /// If there are candles.
    market: Option<Market>,
    is_away: bool,
    symbols: &'static [&'static str],
}

impl Trades {
    /// An event of the bus without a message.
    fn bus(bench: &mut Bench<Self>, event: BusEvent) {
        let mut feed = bench.contract.feed.take().expect("a feed");
        let publications = bench.publish(&mut feed, event);
        bench.contract.feed = Some(feed);
        bench.deliver(&publications);
    }

    /// A trade of a symbol is published.
    fn make(bench: &mut Bench<Self>, channel: String, payload: Vec<u8>) {
        let message = BusMessage {
            pattern: Some("channel:trade:*".into()),
            ..BusMessage::new(channel, payload, bench.world.now)
        };
        Self::bus(bench, BusEvent::Message(message));
    }
}

impl Contract for Trades {
    type Gateway = TradesGateway;
    type Client = Client;

    fn new(random: &mut Random) -> Self {
        let has_candles = random.chance(50);
        Self {
            feed: None,
            stats: Arc::default(),
            is_away: true,
            market: has_candles.then(|| Market::new(random.pick(&[0, 500, 1_500]))),
            // With candles fewer, which then have more trades.
            symbols: if has_candles { &SYMBOLS[4..] } else { &SYMBOLS },
        }
    }

    fn gateway(&mut self) -> TradesGateway {
        let settings = TradesGatewaySettings {
            server_id: "ws-gateway-0a1b2c3d".to_owned(),
            symbols_max: SYMBOLS_MAX,
            origins: Origins::new([]),
            authenticator: Authenticator::default(),
            candles: self.market.as_ref().map(|market| CandleSettings {
                grace_ms: market.grace_ms as u32,
                pairs_max: 300,
            }),
            ..TradesGatewaySettings::default()
        };
        TradesGateway::new(settings, Arc::clone(&self.stats))
    }

    fn begin(bench: &mut Bench<Self>) {
        let settings = FeedSettings {
            bus_message_bytes_max: 5_000,
            ..FeedSettings::default()
        };
        bench.contract.feed = Some(TradesFeed::new(settings, bench.world.frame_bytes.clone()));
        turn_bus(bench);
        // At some moment of the longest interval.
        let us = bench.random.below(300 * SECOND);
        bench.world.now = bench.world.now.plus_us(us);
    }

    fn target(&mut self, random: &mut Random, _: bool) -> String {
        random.pick(&["/", "/ws", "/any/path?token=x"]).to_owned()
    }

    fn opened(bench: &mut Bench<Self>, key: SessionKey) {
        bench.client(key).answers.push_back(Want::Welcome);
    }

    fn say(bench: &mut Bench<Self>, key: SessionKey) {
        let kind = bench.random.below(10);
        let (text, want) = match kind {
            0 => (r#"{"action":"ping"}"#.to_owned(), Want::Pong),
            1 => (r#"{"action":"jump"}"#.to_owned(), Want::Error),
            2 => {
                let words = noise(&mut bench.random, r#"{"action":"hop"}"#);
                bench.client(key).answers.push_back(Want::Error);
                return bench.send(key, &words);
            }
            _ => ask(bench, key, kind < 7),
        };
        bench.client(key).answers.push_back(want);
        bench.send(key, text.as_bytes());
    }

    fn outside(bench: &mut Bench<Self>) {
        if bench.contract.market.is_some() && bench.random.chance(2) {
            return turn_bus(bench);
        }
        bench.number += 1;
        let n = bench.number;
        let symbol = bench.random.pick(bench.contract.symbols).to_uppercase();
        let now = bench.world.now;
        let trade = Trade::random(&mut bench.random, now);
        let members = &trade.members;
        let good = format!(r#"{{{members}"exchange":{n},"symbol":"{symbol}","other":[1]}}"#);
        let is_bad = bench.random.chance(10);
        let payload = match is_bad {
            true => vec![b'{'; 40],
            false => good.into_bytes(),
        };
        // A symbol with a colon, which no client here holds.
        let symbol = match bench.random.chance(5) {
            true => format!("{symbol}:more"),
            false => symbol,
        };
        let channel = format!("channel:trade:{symbol}");
        if !is_bad {
            for known in bench.clients.values_mut() {
                if known.model.held.contains(&symbol) {
                    known.model.trades.push_back(n);
                }
            }
            if let Some(market) = &mut bench.contract.market {
                market.take(now, &symbol, &trade);
            }
        }
        Self::make(bench, channel, payload);
    }

    fn got(bench: &mut Bench<Self>, key: SessionKey, text: &str) -> bool {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let (now, market) = (bench.world.now, bench.contract.market.as_ref());
        let known = bench.clients.get_mut(&key).expect("a client");
        let client = &mut known.model;
        if json["type"] == "trade" {
            assert_eq!(
                json["data"]["exchange"],
                take(&mut client.trades, text),
                "{text}"
            );
            return true;
        }
        if json["type"] == "candle" {
            let market = market.expect("no candles");
            let fast = !known.slow;
            client.seen.got(now, market, text, &json["data"], fast);
            return true;
        }
        let want = take(&mut client.answers, text);
        let held = &json["data"]["currentSubscriptions"];
        let fits = match &want {
            Want::Welcome => json["data"]["maxSymbolsPerConnection"] == SYMBOLS_MAX,
            Want::Pong => json["type"] == "pong",
            Want::Error => json["type"] == "error",
            Want::Held(symbols) | Want::Candles(_, _, symbols) => {
                json["type"] == "success" && *held == Value::from(symbols.clone())
            }
        };
        assert!(fits, "{want:?}, but there came {text}");
        if let Want::Candles(since, interval, symbols) = want {
            assert_eq!(json["data"]["interval"], INTERVALS[interval].0);
            let market = market.expect("no candles");
            client.seen.held(market, since, interval, &symbols);
        }
        false
    }

    fn due(bench: &Bench<Self>, key: SessionKey) -> Option<String> {
        let client = &bench.clients[&key].model;
        let nothing = client.answers.is_empty() && client.trades.is_empty();
        let market = bench.contract.market.as_ref();
        // In a stop clients leave all topics before their sockets end.
        let market = market.filter(|_| !bench.world.hub.is_draining());
        let candle = market.and_then(|market| client.seen.due(bench.world.now, market));
        candle.or_else(|| (!nothing).then(|| format!("{client:?}")))
    }

    fn check(bench: &Bench<Self>) {
        let clients = bench.clients.values();
        let held: usize = clients.map(|known| known.model.count()).sum();
        assert_eq!(bench.contract.stats.subscriptions.get(), held as u64);
        assert_eq!(bench.world.hub.core().memberships(), held);
        if let Some(market) = &bench.contract.market {
            market.check(&bench.contract.stats.candles);
        }
    }

    fn come_to_rest(_: &mut Bench<Self>) {}

    fn check_empty(bench: &Bench<Self>) {
        assert!(bench.world.hub.gateway().is_idle());
    }
}

/// The bus goes away, with or without a loss, or comes back.
fn turn_bus(bench: &mut Bench<Trades>) {
    let is_up = bench.contract.is_away;
    let has_lost = bench.random.chance(50);
    bench.contract.is_away = !is_up;
    let now = bench.world.now;
    if let Some(market) = &mut bench.contract.market {
        market.note_bus(now, is_up, has_lost);
    }
    if is_up {
        return Trades::bus(bench, BusEvent::Up);
    }
    if has_lost {
        Trades::bus(bench, BusEvent::Gap { lost: None });
    }
    Trades::bus(bench, BusEvent::Down(String::new()));
}

/// A request for symbols, and what has to be answered.
fn ask(bench: &mut Bench<Trades>, key: SessionKey, subscribe: bool) -> (String, Want) {
    let count = 1 + bench.random.below(4);
    let all = bench.contract.symbols;
    let asked: Vec<&str> = (0..count).map(|_| bench.random.pick(all)).collect();
    let names: Vec<String> = asked.iter().map(|symbol| symbol.to_uppercase()).collect();
    let list = serde_json::to_string(&asked).expect("JSON");
    let interval = bench.random.below(2 * INTERVALS.len() as u64) as usize;
    let interval = (interval < INTERVALS.len()).then_some(interval);
    let is_action = interval.is_none() || bench.contract.market.is_some();
    let now = bench.world.now;
    let client = bench.client(key);
    let held = match asked.iter().any(|symbol| symbol.len() > 10) || !is_action {
        true => None,
        false if subscribe => client.subscribe(interval, &names),
        false => client.unsubscribe(interval, &names),
    };
    let want = match (held, interval) {
        (None, _) => Want::Error,
        (Some(held), None) => Want::Held(held),
        (Some(held), Some(interval)) => Want::Candles(now, interval, held),
    };
    let action = if subscribe {
        "subscribe"
    } else {
        "unsubscribe"
    };
    let text = match interval {
        None => format!(r#"{{"symbols":{list},"action":"{action}"}}"#),
        Some(interval) => format!(
            r#"{{"interval":"{}","action":"{action}_candles","symbols":{list}}}"#,
            INTERVALS[interval].0
        ),
    };
    (text, want)
}
