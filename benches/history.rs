//! The cost of the history: for a message, and for a client that resumes.
//!
//! A message goes the whole way of the trades gateway, from the payload of 300 bytes to the send queues of no client, with and
//! without a history; the difference is the price of the position and of keeping the frame.

mod open;

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use open::{NOW, open, settle};
use weirgate::gateways::trades::feed::TradesFeed;
use weirgate::gateways::trades::{TradesGateway, TradesGatewaySettings};
use weirgate_core::FeedSettings;
use weirgate_core::{BusEvent, BusMessage, FeedNotice};
use weirgate_core::{Core, Feed, FrameBytes, HistoryLimits, Hub, Limits, Mark, Place, Position};
use weirgate_wire::auth::Authenticator;

const MARK: Mark = Mark {
    nonce: 0x7f3a_09c2_b11e,
    counter: 1,
};
/// Kept messages, as at 5,000 messages a second and 4 s.
const KEPT: usize = 20_000;

/// The gateway with its feed, and the count of messages since the mark.
struct Bench {
    hub: Hub<TradesGateway>,
    feed: TradesFeed,
    count: u64,
    topics: u64,
    payload: Vec<u8>,
}

impl Bench {
    fn new(topics: u64, keep_us: u64) -> Self {
        let history = HistoryLimits {
            keep_us,
            // A message needs some 680 bytes.
            bytes_max: KEPT * 680,
        };
        let limits = Limits {
            history,
            ..Limits::default()
        };
        let alive = FrameBytes::default();
        let settings = TradesGatewaySettings {
            server_id: "bench".to_owned(),
            symbols_max: 5,
            authenticator: Authenticator::default(),
            ..TradesGatewaySettings::default()
        };
        let feed_settings = FeedSettings {
            bus_message_bytes_max: 1 << 20,
            ..FeedSettings::default()
        };
        let gateway = TradesGateway::new(settings, Arc::default());
        let mut bench = Self {
            hub: Hub::new(Core::new(limits, alive.clone(), 1), gateway),
            feed: TradesFeed::new(feed_settings, alive),
            count: 0,
            topics,
            payload: format!(
                r#"{{"symbol":"AAPL","price":150.25,"conditions":"{}"}}"#,
                "x".repeat(240)
            )
            .into_bytes(),
        };
        bench.event(BusEvent::Feed(FeedNotice::Mark {
            feed_hash: 5,
            mark: MARK,
            count: 0,
        }));
        bench
    }

    fn event(&mut self, event: BusEvent) {
        if let Some(notice) = self.feed.notice(&event) {
            self.hub.handle_notice(NOW, &notice);
        }
        let mut out = Vec::with_capacity(1);
        self.feed.event(NOW, event, &mut out);
        for publication in &out {
            self.hub.handle_publication(NOW, publication);
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
        self.event(BusEvent::Message(BusMessage {
            subject: format!("channel:trade:S{symbol}").into(),
            pattern: None,
            payload: self.payload.clone(),
            position: None,
            place,
            received: NOW,
            quiet: false,
        }));
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
            let mut bench = Bench::new(topics, keep_us);
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
        let mut bench = Bench::new(topics, 60_000_000);
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

criterion_group!(benches, publish, resume);
criterion_main!(benches);
