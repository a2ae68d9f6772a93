//! The cost of the history: for a message, and for a client that resumes.
//!
//! A message goes the whole way of the trades gateway, from the payload of 300 bytes to the send queues of no client,
//! with and without a history; the difference is the price of the position and of keeping the frame. The history of
//! channels keeps data instead, and drops the frames that were made for clients: here a message has two receivers, with
//! and without names of which only the newest message stays.

mod open;

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use open::{NOW, open, settle};
use weirgate::auth::{Acl, Authenticator};
use weirgate::gateways::channels::feed::ChannelsFeed;
use weirgate::gateways::channels::{AllClientsLimits, ChannelsGateway, ChannelsGatewaySettings};
use weirgate::gateways::trades::feed::TradesFeed;
use weirgate::gateways::trades::{TradesGateway, TradesGatewaySettings};
use weirgate_core::{
    BusEvent, BusMessage, Core, Feed, FeedNotice, FeedSettings, FrameBytes, Gateway, HistoryLimits,
    Hub, Limits, Mark, Place, Position,
};
use weirgate_wire::auth::NameSyntax;

const MARK: Mark = Mark {
    nonce: 0x7f3a_09c2_b11e,
    counter: 1,
};
/// Kept messages, as at 5,000 messages a second and 4 s.
const KEPT: usize = 20_000;
/// Messages that fill the history of channels.
const LIVE: u64 = 100_000;

/// A gateway with its feed, and the count of messages since the mark.
struct Bench<G: Gateway, F> {
    hub: Hub<G>,
    feed: F,
    count: u64,
    topics: u64,
    payload: Vec<u8>,
}

type Trades = Bench<TradesGateway, TradesFeed>;
type Channels = Bench<ChannelsGateway, ChannelsFeed>;

fn feed_settings() -> FeedSettings {
    FeedSettings {
        bus_message_bytes_max: 1 << 20,
        ..FeedSettings::default()
    }
}

impl<G: Gateway, F: Feed<Event = BusEvent>> Bench<G, F> {
    fn begun(
        gateway: G,
        history: HistoryLimits,
        payload: Vec<u8>,
        feed: impl FnOnce(FrameBytes) -> F,
    ) -> Self {
        let limits = Limits {
            history,
            ..Limits::default()
        };
        let alive = FrameBytes::default();
        let mut bench = Self {
            hub: Hub::new(Core::new(limits, alive.clone(), 1), gateway),
            feed: feed(alive),
            count: 0,
            topics: 1,
            payload,
        };
        bench.event(BusEvent::Feed(FeedNotice::Mark {
            feed_hash: 5,
            mark: MARK,
            count: 0,
        }));
        bench
    }

    fn event(&mut self, event: BusEvent) {
        let event = self.feed.read(event);
        if let Some(notice) = self.feed.notice(&event) {
            self.hub.handle_notice(NOW, &notice);
        }
        let mut out = Vec::with_capacity(1);
        self.feed.event(NOW, event, &mut out);
        for publication in &out {
            self.hub.handle_publication(NOW, publication);
        }
    }

    fn message(&mut self, subject: String, pattern: Option<&str>, place: Place) {
        self.event(BusEvent::Message(BusMessage {
            pattern: pattern.map(Into::into),
            place,
            ..BusMessage::new(subject, self.payload.clone(), NOW)
        }));
    }
}

impl Trades {
    fn new(topics: u64, keep_us: u64) -> Self {
        let history = HistoryLimits {
            keep_us,
            // A message needs some 680 bytes.
            bytes_max: KEPT * 680,
        };
        let settings = TradesGatewaySettings {
            server_id: "bench".to_owned(),
            symbols_max: 5,
            authenticator: Authenticator::default(),
            ..TradesGatewaySettings::default()
        };
        let payload = format!(
            r#"{{"symbol":"AAPL","price":150.25,"conditions":"{}"}}"#,
            "x".repeat(240)
        );
        let gateway = TradesGateway::new(settings, Arc::default());
        let feed = |alive| TradesFeed::new(feed_settings(), alive);
        Self {
            topics,
            ..Self::begun(gateway, history, payload.into_bytes(), feed)
        }
    }

    fn trade(&mut self, has_position: bool) {
        self.count += 1;
        // Not in the order of the memory.
        let symbol = self.count.wrapping_mul(7_919) % self.topics;
        // Without a history a message has no place. One that awaits its position would not be published.
        let place = match has_position {
            true => Place::Kept(Some(position(self.count))),
            false => Place::Outside,
        };
        self.message(format!("channel:trade:S{symbol}"), None, place);
    }
}

impl Channels {
    /// All names are kept, and two clients hold the name `live`.
    fn new() -> Self {
        let history = HistoryLimits {
            keep_us: 60_000_000,
            ..HistoryLimits::default()
        };
        let settings = ChannelsGatewaySettings {
            channels_max: 50,
            patterns_max: 5,
            all_clients: AllClientsLimits {
                names_max: 100,
                patterns_max: 100,
                name_bytes_max: 1 << 20,
            },
            inbound_per_second: 1_000,
            authenticator: Authenticator::default(),
            default_role: "user".to_owned(),
            acl: Acl::from_json(NameSyntax::Redis, br#"{"user": ["*"]}"#).expect("a table"),
            ..ChannelsGatewaySettings::default()
        };
        let gateway = ChannelsGateway::new(settings, Arc::default());
        let gateway = gateway.with_kept(vec!["*".to_owned()]).expect("names");
        let feed = |alive| ChannelsFeed::new(feed_settings(), alive);
        let payload = format!(r#""{}""#, "x".repeat(198)).into_bytes();
        let mut bench = Self::begun(gateway, history, payload, feed);
        bench.event(BusEvent::Up);
        for _ in 0..2 {
            let key = open(&mut bench.hub, None);
            let subscribe = text(r#"{"action":"subscribe","channels":["live"]}"#);
            bench.hub.handle_bytes(NOW, key, &subscribe);
            settle(&mut bench.hub, NOW);
        }
        bench
    }

    fn publish(&mut self, name: String) {
        self.count += 1;
        let place = Place::Kept(Some(position(self.count)));
        self.message(name, Some("*"), place);
        settle(&mut self.hub, NOW);
    }
}

fn position(count: u64) -> Position {
    Position::counted(5, MARK, count)
}

/// A message, without a history and with a full one.
fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("history_publish");
    for topics in [1, 100, 10_000] {
        for (name, keep_us) in [("off", 0), ("on", 60_000_000)] {
            let mut bench = Trades::new(topics, keep_us);
            (0..2 * KEPT).for_each(|_| bench.trade(keep_us > 0));
            group.bench_function(BenchmarkId::new(name, topics), |b| {
                b.iter(|| bench.trade(keep_us > 0));
            });
        }
    }
    group.finish();
}

/// A client's text message, masked with zeros.
fn text(message: &str) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short").to_be_bytes();
    let head = [0x81, 0xfe, length[0], length[1], 0, 0, 0, 0];
    [&head, message.as_bytes()].concat()
}

/// A client that resumes five symbols and lets them go: from its request to the bytes for the socket.
fn resume(c: &mut Criterion) {
    let mut group = c.benchmark_group("history_resume");
    for (topics, back) in [(2_000, 10_000), (100, 10_000), (5, 750)] {
        let mut bench = Trades::new(topics, 60_000_000);
        (0..KEPT).for_each(|_| bench.trade(true));
        let hub = &mut bench.hub;
        let key = open(hub, None);
        let names = r#""symbols":["S0","S1","S2","S3","S4"]"#;
        let since = position(bench.count - back);
        let subscribe = text(&format!(
            r#"{{"action":"subscribe",{names},"since":"{since}"}}"#
        ));
        let unsubscribe = text(&format!(r#"{{"action":"unsubscribe",{names}}}"#));
        let mut asked = 0;
        group.bench_function(format!("{back}_back_of_{topics}_topics"), |b| {
            b.iter(|| {
                asked += 1;
                for message in [&subscribe, &unsubscribe] {
                    hub.handle_bytes(NOW, key, message);
                    settle(hub, NOW);
                }
            });
        });
        assert_eq!(hub.stats().resumes_recovered, 5 * asked, "each is taken");
    }
    group.finish();
}

/// A message with two receivers and a full history, which drops the frame of another message, beside names that are quiet
/// since its beginning.
fn publish_beside_quiet_names(c: &mut Criterion) {
    let mut group = c.benchmark_group("history_quiet_names");
    for quiet in [0, 40_000] {
        let mut bench = Channels::new();
        (0..quiet).for_each(|n| bench.publish(format!("row:{n}")));
        (0..LIVE).for_each(|_| bench.publish("live".to_owned()));
        let stats = bench.hub.stats();
        assert!(stats.messages_sent >= 2 * LIVE, "the clients get them");
        let history = stats.history.expect("a history");
        assert!(history.bytes > history.bytes_max / 100 * 99, "it is full");
        assert!(history.messages > quiet, "quiet names stay");
        group.bench_function(BenchmarkId::from_parameter(quiet), |b| {
            b.iter(|| bench.publish("live".to_owned()));
        });
    }
    group.finish();
}

criterion_group!(benches, publish, resume, publish_beside_quiet_names);
criterion_main!(benches);
