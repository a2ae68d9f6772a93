//! Trades: symbols and candles.

use std::convert::Infallible;
use std::mem::take;
use std::sync::Arc;

use serde_json::json;
use weirgate::gateways::trades::feed::TradesFeed;
use weirgate::gateways::trades::{CandleSettings, TradesGateway, TradesGatewaySettings};
use weirgate_core::{
    BusEvent, BusMessage, Feed as _, FeedNotice, FeedSettings, FrameBytes, HistoryLimits, Hub,
    Limits, Mark, Place, Position, Publication,
};
use weirgate_wire::base::Now;

use super::acts::{Act, Outside, Request};
use super::cases::{Case, messages_of_one, says, says_of, turns};
use super::turns::Contract;

const MARK: Mark = Mark {
    nonce: 0x7f3a_09c2_b11e,
    counter: 1,
};

/// Bytes of a request, as many as the gateway allows unless set.
const MESSAGE_BYTES: usize = 102_400;
const INTERVALS: [&str; 4] = ["1s", "5s", "1m", "5m"];

pub(crate) struct Trades {
    feed: TradesFeed,
    is_kept: bool,
    count: u64,
    publications: Vec<Publication>,
}

fn symbol(shape: u8, n: u32) -> String {
    match shape {
        0..12 => format!("S{n}"),
        12 => format!("é{n}"),
        13 => "x".repeat(12),
        14 => String::new(),
        _ => format!("s.{n}"),
    }
}

impl Contract for Trades {
    type Gateway = TradesGateway;
    type Event = BusEvent;

    /// The bits: candles, a kept feed.
    fn new(kind: u64, frame_bytes: &FrameBytes) -> (Self, TradesGateway, Limits) {
        let is_kept = kind & 2 == 2;
        let settings = TradesGatewaySettings {
            server_id: "ws-gateway-0a1b2c3d".to_owned(),
            symbols_max: 100_000,
            candles: (kind & 1 == 1).then_some(CandleSettings {
                grace_ms: 500,
                pairs_max: 100_000,
            }),
            ..TradesGatewaySettings::default()
        };
        let limits = Limits {
            ping_interval_us: 0,
            message_bytes_max: MESSAGE_BYTES,
            event_stream: true,
            history: HistoryLimits {
                keep_us: if is_kept { 60_000_000 } else { 0 },
                bytes_max: 1 << 26,
            },
            ..Limits::default()
        };
        let trades = Self {
            feed: TradesFeed::new(FeedSettings::default(), frame_bytes.clone()),
            is_kept,
            count: 0,
            publications: Vec::new(),
        };
        (trades, TradesGateway::new(settings, Arc::default()), limits)
    }

    fn target(_: u8) -> String {
        "/".to_owned()
    }

    fn text(request: &Request) -> String {
        let symbols: Vec<String> = request.texts(symbol, MESSAGE_BYTES);
        let interval = INTERVALS[request.number as usize % INTERVALS.len()];
        let action = match request.verb {
            0..5 => "subscribe",
            5..8 => "unsubscribe",
            8..11 => "subscribe_candles",
            11..13 => "unsubscribe_candles",
            13 => "ping",
            _ => "jump",
        };
        let mut text = json!({"action": action, "symbols": symbols, "interval": interval});
        if request.extra & 1 == 1 {
            text["last"] = json!(request.number % 100 + 1);
        }
        if request.extra & 2 == 2 {
            let since = Position::counted(5, MARK, u64::from(request.number));
            text["since"] = json!(since.to_string());
        }
        text.to_string()
    }

    fn outside(&mut self, outside: &Outside, _: &mut Vec<Infallible>, now: Now) -> Vec<BusEvent> {
        match outside {
            Outside::Publish(names, messages, bytes) => {
                let names = names.texts(symbol);
                let symbols = names
                    .iter()
                    .flat_map(|name| (0..*messages).map(move |_| name));
                let (is_kept, count) = (self.is_kept, &mut self.count);
                let trade = |symbol: &String| {
                    *count += u64::from(is_kept);
                    let more = "y".repeat(*bytes as usize % 2_000);
                    let time = now.unix_us / 1_000;
                    let payload = format!(
                        r#"{{"symbol":"{symbol}","price":1.5,"size":2,"timestamp":{time},"more":"{more}"}}"#
                    );
                    BusEvent::Message(BusMessage {
                        pattern: Some("channel:trade:*".into()),
                        place: match is_kept {
                            true => Place::Kept(Some(Position::counted(5, MARK, *count))),
                            false => Place::Outside,
                        },
                        ..BusMessage::new(
                            format!("channel:trade:{symbol}"),
                            payload.into_bytes(),
                            now,
                        )
                    })
                };
                symbols.take(30_000).map(trade).collect()
            }
            Outside::Answers(_) => Vec::new(),
            Outside::Away => vec![BusEvent::Down("gone".to_owned())],
            Outside::Back if self.is_kept => {
                let mark = FeedNotice::Mark {
                    feed_hash: 5,
                    mark: MARK,
                    count: take(&mut self.count),
                };
                vec![BusEvent::Feed(mark), BusEvent::Up]
            }
            Outside::Back => vec![BusEvent::Up],
            Outside::Gap => vec![BusEvent::Gap { lost: None }],
        }
    }

    fn read(&self, event: BusEvent) -> BusEvent {
        self.feed.read(event)
    }

    fn take(&mut self, hub: &mut Hub<TradesGateway>, now: Now, event: BusEvent) {
        if let Some(notice) = self.feed.notice(&event) {
            hub.handle_notice(now, &notice);
        }
        self.feed.event(now, event, &mut self.publications);
        while self.feed.next_line().is_some() {}
        for publication in self.publications.drain(..) {
            hub.handle_publication(now, &publication);
        }
    }
}

/// Requests of very many symbols, and of very many trades. A client subscribes to five at a time.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, kind, verb| Case {
        name,
        kind,
        flavour: 0,
        acts: vec![says(verb, 0, 0)],
    };
    let of_one = |name, extra| Case {
        name,
        kind: 2,
        flavour: 0,
        acts: [
            Act::Outside(Outside::Back),
            Act::Turns(5),
            messages_of_one(30_000),
        ]
        .into_iter()
        .chain(turns())
        .chain([says_of(0, 0, extra, 0)])
        .collect(),
    };
    vec![
        case("subscribe", 0, 0),
        case("unsubscribe", 0, 5),
        case("subscribe to candles", 1, 8),
        case("unsubscribe from candles", 1, 11),
        of_one("since, 30,000 trades of a symbol", 2),
        of_one("last", 1),
    ]
}
