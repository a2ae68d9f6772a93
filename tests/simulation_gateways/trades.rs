//! Trades: a request has its answer at once, and a trade goes to those who hold its symbol.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;
use weirgate::auth::{Authenticator, Origins};
use weirgate::feeds::trades::{TradesFeed, TradesFeedSettings};
use weirgate::feeds::{BusEvent, BusMessage};
use weirgate::gateways::{TradesGateway, TradesGatewaySettings, TradesStats};
use weirgate::hub::SessionKey;

use super::bench::{Bench, Contract, noise, take};
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
}

/// What the model knows of one client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    held: Vec<String>,
    answers: VecDeque<Want>,
    trades: VecDeque<u64>,
}

impl Client {
    fn subscribe(&mut self, asked: &[String]) -> Want {
        let mut new: Vec<String> = Vec::new();
        for symbol in asked {
            if !self.held.contains(symbol) && !new.contains(symbol) {
                new.push(symbol.clone());
            }
        }
        if self.held.len() + new.len() > SYMBOLS_MAX && !new.is_empty() {
            return Want::Error;
        }
        self.held.extend(new);
        Want::Held(self.held.clone())
    }
}

/// See [`Contract`].
pub(crate) struct Trades {
    feed: Option<TradesFeed>,
    stats: Arc<TradesStats>,
}

impl Contract for Trades {
    type Gateway = TradesGateway;
    type Client = Client;

    fn new(_: &mut Random) -> Self {
        Self {
            feed: None,
            stats: Arc::default(),
        }
    }

    fn gateway(&mut self) -> TradesGateway {
        let settings = TradesGatewaySettings {
            server_id: "ws-gateway-0a1b2c3d".to_owned(),
            symbols_max: SYMBOLS_MAX,
            inbound_per_second: None,
            json_depth_max: 32,
            origins: Origins::new([]),
            authenticator: Authenticator::default(),
            candles: None,
        };
        TradesGateway::new(settings, Arc::clone(&self.stats))
    }

    fn begin(bench: &mut Bench<Self>) {
        let settings = TradesFeedSettings {
            json_depth_max: 32,
            bus_message_bytes_max: 5_000,
        };
        bench.contract.feed = Some(TradesFeed::new(settings, bench.world.frame_bytes.clone()));
    }

    fn target(&mut self, random: &mut Random, _: bool) -> String {
        random.pick(&["/", "/ws", "/any/path?token=x"]).to_owned()
    }

    fn opened(bench: &mut Bench<Self>, key: SessionKey) {
        bench.client(key).answers.push_back(Want::Welcome);
    }

    fn say(bench: &mut Bench<Self>, key: SessionKey) {
        let count = 1 + bench.random.below(4);
        let asked: Vec<&str> = (0..count).map(|_| bench.random.pick(&SYMBOLS)).collect();
        let too_long = asked.iter().any(|symbol| symbol.len() > 10);
        let names: Vec<String> = asked.iter().map(|symbol| symbol.to_uppercase()).collect();
        let list = serde_json::to_string(&asked).expect("JSON");
        let kind = bench.random.below(10);
        let client = bench.client(key);
        let (text, want) = match kind {
            0 => (r#"{"action":"ping"}"#.to_owned(), Want::Pong),
            1 => (r#"{"action":"jump"}"#.to_owned(), Want::Error),
            2 => {
                let words = noise(&mut bench.random, r#"{"action":"hop"}"#);
                bench.client(key).answers.push_back(Want::Error);
                return bench.send(key, &words);
            }
            3..7 => {
                let want = match too_long {
                    true => Want::Error,
                    false => client.subscribe(&names),
                };
                (
                    format!(r#"{{"symbols":{list},"action":"subscribe"}}"#),
                    want,
                )
            }
            _ => {
                let want = match too_long {
                    true => Want::Error,
                    false => {
                        client.held.retain(|held| !names.contains(held));
                        Want::Held(client.held.clone())
                    }
                };
                (
                    format!(r#"{{"action":"unsubscribe","symbols":{list}}}"#),
                    want,
                )
            }
        };
        client.answers.push_back(want);
        bench.send(key, text.as_bytes());
    }

    fn outside(bench: &mut Bench<Self>) {
        bench.number += 1;
        let n = bench.number;
        let symbol = bench.random.pick(&SYMBOLS).to_uppercase();
        let good = format!(r#"{{"price":{n},"symbol":"{symbol}","other":[1]}}"#);
        let is_bad = bench.random.chance(10);
        let payload = match is_bad {
            true => vec![b'{'; 40],
            false => good.into_bytes(),
        };
        let channel = match bench.random.chance(5) {
            true => format!("channel:trade:{symbol}:more"),
            false => format!("channel:trade:{symbol}"),
        };
        if !is_bad && !channel.ends_with(":more") {
            for known in bench.clients.values_mut() {
                if known.model.held.contains(&symbol) {
                    known.model.trades.push_back(n);
                }
            }
        }
        let message = BusMessage {
            subject: channel.into(),
            pattern: Some("channel:trade:*".into()),
            payload,
            position: None,
            received: bench.world.now,
            quiet: false,
        };
        let mut feed = bench.contract.feed.take().expect("a feed");
        let publications = bench.publish(&mut feed, BusEvent::Message(message));
        bench.contract.feed = Some(feed);
        bench.deliver(&publications);
    }

    fn got(bench: &mut Bench<Self>, key: SessionKey, text: &str) -> bool {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let client = bench.client(key);
        if json["type"] == "trade" {
            assert_eq!(
                json["data"]["price"],
                take(&mut client.trades, text),
                "{text}"
            );
            return true;
        }
        let want = take(&mut client.answers, text);
        let held = &json["data"]["currentSubscriptions"];
        let fits = match &want {
            Want::Welcome => json["data"]["maxSymbolsPerConnection"] == SYMBOLS_MAX,
            Want::Pong => json["type"] == "pong",
            Want::Error => json["type"] == "error",
            Want::Held(symbols) => {
                json["type"] == "success" && *held == Value::from(symbols.clone())
            }
        };
        assert!(fits, "{want:?}, but there came {text}");
        false
    }

    fn due(bench: &Bench<Self>, key: SessionKey) -> Option<String> {
        let client = &bench.clients[&key].model;
        let nothing = client.answers.is_empty() && client.trades.is_empty();
        (!nothing).then(|| format!("{client:?}"))
    }

    fn check(bench: &Bench<Self>) {
        let held: usize = bench
            .clients
            .values()
            .map(|known| known.model.held.len())
            .sum();
        assert_eq!(bench.contract.stats.subscriptions(), held as u64);
        assert_eq!(bench.world.hub.core().memberships(), held);
    }

    fn come_to_rest(_: &mut Bench<Self>) {}

    fn check_empty(bench: &Bench<Self>) {
        assert!(bench.world.hub.gateway().is_idle());
    }
}
