//! A client that comes back gets the trades that it missed, or is told that it does not.

use weirgate_core::{DrainPlan, FeedNotice, HistoryLimits, Mark, Position, StoredId};

use super::*;

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const MARK: Mark = Mark {
    nonce: 0x7f3a_09c2_b11e,
    counter: 1,
};

pub(super) fn at(count: u64) -> Position {
    Position::counted(5, MARK, count)
}

/// A gateway with a history, its feed, and the count of trades since the mark.
pub(super) struct Bench {
    pub(super) world: World<TradesGateway>,
    feed: TradesFeed,
    count: u64,
}

impl Bench {
    pub(super) fn new(symbols_max: usize) -> Self {
        Self::with(
            symbols_max,
            weirgate_core::Limits::default().resume_messages_max,
        )
    }

    pub(super) fn with(symbols_max: usize, resume_messages_max: u64) -> Self {
        Self::of(symbols_max, |limits| {
            limits.resume_messages_max = resume_messages_max;
        })
    }

    pub(super) fn of(symbols_max: usize, change: impl FnOnce(&mut Limits)) -> Self {
        let mut bench = Self::before(symbols_max, change);
        bench.begin();
        bench
    }

    /// The same, while the bus has not been there yet.
    fn before(symbols_max: usize, change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits {
            event_stream: true,
            ping_interval_us: 0,
            history: HistoryLimits {
                keep_us: 60 * SECOND,
                bytes_max: 1 << 24,
            },
            ..Limits::default()
        };
        change(&mut limits);
        let settings = TradesGatewaySettings {
            symbols_max,
            ..settings(false)
        };
        let gateway = TradesGateway::new(settings, Arc::default());
        let world = World::new(limits, gateway, 1);
        let feed = feed(&world);
        Self {
            world,
            feed,
            count: 0,
        }
    }

    fn begin(&mut self) {
        self.count = 0;
        self.bus(BusEvent::Feed(FeedNotice::Mark {
            feed_hash: 5,
            mark: MARK,
            count: 0,
        }));
        self.bus(BusEvent::Up);
        self.world.advance(1);
    }

    pub(super) fn bus(&mut self, event: BusEvent) {
        let now = self.world.now;
        let event = self.feed.read(event);
        if let Some(notice) = self.feed.notice(&event) {
            self.world.hub.handle_notice(now, &notice);
        }
        let mut out = Vec::new();
        self.feed.event(now, event, &mut out);
        for publication in &out {
            self.world.hub.handle_publication(now, publication);
        }
        self.world.settle();
    }

    pub(super) fn trade(&mut self, symbol: &str, payload: &str) {
        self.count += 1;
        self.placed(symbol, payload, Some(at(self.count)));
    }

    /// The first trade behind a loss, in a stream: the n-th one.
    pub(super) fn trade_behind_loss(&mut self, symbol: &str, n: u64) {
        let id = StoredId {
            major: n + 1,
            minor: 0,
        };
        self.placed(symbol, "{}", Some(Position::stored(5, id)));
    }

    fn placed(&mut self, symbol: &str, payload: &str, place: Option<Position>) {
        self.bus(BusEvent::Message(BusMessage {
            pattern: Some("channel:trade:*".into()),
            place: Place::Kept(place),
            ..BusMessage::new(
                format!("channel:trade:{symbol}"),
                payload.as_bytes().to_vec(),
                self.world.now,
            )
        }));
    }

    pub(super) fn client(&mut self) -> SessionKey {
        let key = self.world.connect("/", None);
        self.world.texts(key);
        key
    }

    /// What a client gets that subscribes with a position.
    pub(super) fn resumes(&mut self, key: SessionKey, symbols: &str, since: &str) -> Vec<String> {
        let request = format!(r#"{{"action":"subscribe","symbols":{symbols},"since":"{since}"}}"#);
        self.world.text(key, &request);
        self.world.texts(key)
    }

    pub(super) fn comes_back(&mut self, symbols: &str, since: &str) -> Vec<String> {
        let key = self.client();
        self.resumes(key, symbols, since)
    }
}

#[test]
fn missed_trades_follow_the_answer_byte_for_byte_as_live() {
    let mut bench = Bench::new(5);
    let live = bench.client();
    let answer = subscribe(&mut bench.world, live, r#"["A","B"]"#);
    let success = r#"{"type":"success","message":"Successfully subscribed to 2 symbol(s)","data":{"subscribed":["A","B"],"currentSubscriptions":["A","B"]},"timestamp":1715629300000,"pos":"m5.7f3a09c2b11e.1.0"}"#;
    assert_eq!(answer, success);
    for (symbol, price) in [("A", 1), ("C", 2), ("B", 3), ("A", 4)] {
        bench.trade(symbol, &format!(r#"{{"price":{price}}}"#));
    }
    let trades = bench.world.texts(live);
    assert_eq!(
        trades[1],
        r#"{"type":"trade","data":{"price":3},"timestamp":1715629300000,"pos":"m5.7f3a09c2b11e.1.3"}"#
    );
    let got = bench.comes_back(r#"["a","b"]"#, &at(0).to_string());
    assert_eq!(
        got[0],
        r#"{"type":"success","message":"Successfully subscribed to 2 symbol(s)","data":{"subscribed":["A","B"],"currentSubscriptions":["A","B"],"recovered":true},"timestamp":1715629300000}"#
    );
    assert_eq!(got[1..], trades[..], "the same bytes in the same order");
    let got = bench.comes_back(r#"["A"]"#, &at(1).to_string());
    assert_eq!(got[1..], trades[2..]);
    bench.world.hub.check_invariants();
}

#[test]
fn a_doubt_is_told_and_the_client_is_live() {
    let mut bench = Bench::new(5);
    bench.trade("A", "{}");
    for (since, why) in [
        ("x", "bad"),
        ("", "bad"),
        ("m5.7f3a09c2b11e.2.0", "epoch"),
        ("m5.7f3a09c2b11e.1.zz", "ahead"),
    ] {
        let key = bench.client();
        let got = bench.resumes(key, r#"["A"]"#, since);
        let told = format!(
            r#""recovered":false,"why":"{why}"}},"timestamp":1715629300000,"pos":"m5.7f3a09c2b11e.1.{}"}}"#,
            bench.count
        );
        assert!(got.len() == 1 && got[0].ends_with(&told), "{got:?}");
        bench.trade("A", "{}");
        assert_eq!(bench.world.texts(key).len(), 1, "live from then on");
    }
    // A symbol that is held already: nothing of what was missed, for none.
    let key = bench.client();
    subscribe(&mut bench.world, key, r#"["A"]"#);
    let got = bench.resumes(key, r#"["A","B"]"#, &at(0).to_string());
    assert!(
        got.len() == 1 && got[0].contains(r#""recovered":false,"why":"off""#),
        "{got:?}"
    );
    // A refused request resumes nothing.
    let got = bench.resumes(key, r#"["1","2","3","4","5"]"#, &at(0).to_string());
    assert!(
        got.len() == 1 && got[0].contains("would exceed maximum"),
        "{got:?}"
    );
    assert_eq!(bench.world.hub.stats().resumes_recovered, 0);
    // Candles have no positions.
    assert_eq!(
        bench.world.hub.stats().resumes_refused.iter().sum::<u64>(),
        6
    );
}

#[test]
fn a_symbol_that_is_named_twice_brings_each_missed_trade_once() {
    let mut bench = Bench::new(5);
    for n in 0..5 {
        bench.trade("A", &format!(r#"{{"price":{n}}}"#));
    }
    for symbols in [r#"["A","a"]"#, r#"["A","A","A","A","A"]"#] {
        let got = bench.comes_back(symbols, &at(0).to_string());
        assert!(got[0].contains(r#""recovered":true"#), "{got:?}");
        assert_eq!(got.len(), 1 + 5, "{symbols}");
    }
}

#[test]
fn ten_resumes_in_a_row_bring_everything_once() {
    let mut bench = Bench::new(5);
    let (mut since, mut seen) = (at(0).to_string(), Vec::new());
    for round in 0..10 {
        for n in 0..round % 3 {
            bench.trade("A", &format!(r#"{{"price":{}}}"#, 10 * round + n));
        }
        let got = bench.comes_back(r#"["A"]"#, &since);
        assert!(got[0].contains(r#""recovered":true"#), "{got:?}");
        for text in &got[1..] {
            let message: serde_json::Value = serde_json::from_str(text).expect("JSON");
            since = message["pos"].as_str().expect("a position").to_owned();
            seen.push(message["data"]["price"].as_u64().expect("a price"));
        }
    }
    assert_eq!(seen, [10, 20, 21, 40, 50, 51, 70, 80, 81]);
}

#[test]
fn a_client_that_reads_slowly_gets_4_mib_and_what_comes_meanwhile() {
    let mut bench = Bench::new(5);
    let payload = format!(r#"{{"symbol":"{}"}}"#, "x".repeat(4_000));
    for _ in 0..1_000 {
        bench.trade("A", &payload);
    }
    let key = bench.world.accept(1_000);
    bench.world.send(key, &request("/", None));
    bench.world.texts(key);
    let got = bench.resumes(key, r#"["A"]"#, &at(0).to_string());
    assert!(got.len() < 2, "the client reads nothing");
    for _ in 0..20 {
        bench.trade("A", &payload);
    }
    let mut texts = got;
    for _ in 0..50 {
        bench.world.advance(SECOND);
        bench.world.open_window(key, 125_000);
        texts.extend(bench.world.texts(key));
    }
    bench.world.open_window(key, usize::MAX);
    texts.extend(bench.world.texts(key));
    let trades: Vec<_> = texts
        .iter()
        .filter(|t| t.contains(r#""type":"trade""#))
        .collect();
    assert_eq!(trades.len(), 1_020);
    for (n, text) in trades.iter().enumerate() {
        assert!(
            text.ends_with(&format!(r#""pos":"{}"}}"#, at(n as u64 + 1))),
            "in order"
        );
    }
    // One message more, and the whole is too much.
    for _ in 0..60 {
        bench.trade("A", &payload);
    }
    let got = bench.comes_back(r#"["A"]"#, &at(0).to_string());
    assert!(
        got.len() == 1 && got[0].contains(r#""why":"large""#),
        "{}",
        got[0]
    );
}

#[test]
fn the_status_of_the_bus_comes_every_ten_seconds_on_change_and_at_a_stop() {
    let mut bench = Bench::new(5);
    let key = bench.client();
    subscribe(&mut bench.world, key, r#"["A"]"#);
    let idle = bench.client();
    bench.trade("B", "{}");
    bench.world.advance(10 * SECOND);
    let status =
        r#"{"type":"status","bus":"up","timestamp":1715629310000,"pos":"m5.7f3a09c2b11e.1.1"}"#;
    assert_eq!(bench.world.texts(key), [status]);
    let without = r#"{"type":"status","bus":"up","timestamp":1715629310000}"#;
    assert_eq!(
        bench.world.texts(idle),
        [without],
        "the client holds nothing"
    );
    bench.bus(BusEvent::Gap { lost: None });
    bench.bus(BusEvent::Down("gone".to_owned()));
    bench.world.advance(1);
    let away = r#"{"type":"status","bus":"away","lost":true,"timestamp":1715629310000}"#;
    assert_eq!(bench.world.texts(key), [away]);
    let got = bench.comes_back(r#"["A"]"#, &at(1).to_string());
    assert!(
        got[0].contains(r#""why":"gap""#) && !got[0].contains("pos"),
        "{got:?}"
    );
    bench.begin();
    assert_eq!(
        bench.world.texts(key),
        [r#"{"type":"status","bus":"up","timestamp":1715629310000,"pos":"m5.7f3a09c2b11e.1.0"}"#]
    );
    let now = bench.world.now;
    bench.world.hub.drain(now, DrainPlan::default());
    bench.world.settle();
    assert_eq!(bench.world.texts(key).len(), 1, "the last position");
    assert_eq!(
        bench.world.client(key).close,
        Some((1001, "Server shutting down".to_owned()))
    );
}

#[test]
fn rounds_of_the_status_take_turns_over_many_clients() {
    let mut bench = Bench::new(5);
    let keys: Vec<_> = (0..2_500).map(|_| bench.client()).collect();
    bench.world.advance(11 * SECOND);
    bench.world.advance(11 * SECOND);
    for key in keys {
        assert_eq!(bench.world.texts(key).len(), 2, "each once in a round");
    }
}

/// A client of an event stream with these messages in its query.
fn stream(bench: &mut Bench, sends: &[&str], last_event_id: &str) -> SessionKey {
    let sends: Vec<String> = sends
        .iter()
        .map(|send| format!("send={}", send.replace('"', "%22").replace(' ', "")))
        .collect();
    let request = format!(
        "GET /?{} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nLast-Event-ID: {last_event_id}\r\n\r\n",
        sends.join("&")
    );
    let key = bench.world.accept(usize::MAX);
    bench.world.send(key, request.as_bytes());
    key
}

#[test]
fn the_missed_trades_of_all_requests_of_a_stream_come_in_the_order_of_the_feed() {
    let mut bench = Bench::new(5);
    bench.trade("A", r#"{"price":1}"#);
    bench.trade("B", r#"{"price":2}"#);
    bench.trade("A", r#"{"price":3}"#);
    let subscribe = |symbol: &str| format!(r#"{{"action":"subscribe","symbols":["{symbol}"]}}"#);
    let sends = [
        subscribe("A"),
        subscribe("B"),
        r#"{"action":"ping"}"#.to_owned(),
    ];
    let sends: Vec<&str> = sends.iter().map(String::as_str).collect();
    let key = stream(&mut bench, &sends, &at(0).to_string());
    let sent = bench.world.sent(key);
    let ids: Vec<&str> = sent
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    assert_eq!(ids, [1, 2, 3].map(|n| at(n).to_string()), "{sent}");
    let place = |text: &str| sent.find(text).unwrap_or_else(|| panic!("{text}: {sent}"));
    assert!(
        place(r#""subscribed":["B"]"#) < place(r#""price":1"#),
        "the answers first: {sent}"
    );
    bench.trade("B", r#"{"price":4}"#);
    assert!(
        bench.world.sent(key).contains(&format!("id: {}\n", at(4))),
        "live"
    );
    // `null` takes a request out: the symbol is new to the client.
    let new = r#"{"action":"subscribe","symbols":["A"],"since":null}"#;
    let key = stream(&mut bench, &[new, &subscribe("B")], &at(2).to_string());
    let sent = bench.world.sent(key);
    assert_eq!(sent.matches(r#""recovered":true"#).count(), 1, "{sent}");
    assert!(
        sent.contains(r#""price":4"#) && !sent.contains(r#""price":3"#),
        "{sent}"
    );
    // Its answer has no position before the missed messages of the first request.
    let key = stream(&mut bench, &[&subscribe("B"), new], &at(2).to_string());
    let sent = bench.world.sent(key);
    let first = sent.find("id: ").expect("an id");
    assert!(sent[first..].starts_with(&format!("id: {}\n", at(4))));
    assert!(sent[..first].contains(r#""price":4"#), "{sent}");
    bench.world.hub.check_invariants();
}

/// What a client gets that comes for the first time.
fn first_time(bench: &mut Bench, rest: &str) -> Vec<String> {
    let key = bench.client();
    let request = format!(r#"{{"action":"subscribe","symbols":["A","B"],{rest}}}"#);
    bench.world.text(key, &request);
    bench.world.texts(key)
}

fn prices(got: &[String]) -> Vec<u64> {
    let price = |text: &String| {
        let message: serde_json::Value = serde_json::from_str(text).expect("JSON");
        message["data"]["price"].as_u64()
    };
    got.iter().filter_map(price).collect()
}

#[test]
fn newest_trades_from_before_a_loss_are_said_to_be_outdated_until_others_come() {
    let mut bench = Bench::new(5);
    bench.trade("A", r#"{"price":1}"#);
    bench.trade("B", r#"{"price":2}"#);
    bench.bus(BusEvent::Gap { lost: None });
    bench.bus(BusEvent::Down("gone".to_owned()));
    bench.begin();
    let expect = |bench: &mut Bench, rest: &str, wanted: &[u64], end: &str| {
        let got = first_time(bench, rest);
        assert_eq!(prices(&got), wanted, "{rest}");
        let data = got[0].split(r#""currentSubscriptions":["A","B"]"#);
        let said = data.last().and_then(|end| end.split('}').next());
        assert_eq!(said, Some(end), "{}", got[0]);
    };
    let lost = r#","why":"lost""#;
    expect(&mut bench, r#""last":1"#, &[1, 2], lost);
    bench.trade("A", r#"{"price":3}"#);
    expect(&mut bench, r#""last":1"#, &[2, 3], lost);
    let since = r#""last":1,"since":"m5.7f3a09c2b11e.9.0""#;
    let not_recovered = r#","recovered":false,"why":"lost""#;
    expect(&mut bench, since, &[2, 3], not_recovered);
    bench.trade("B", r#"{"price":4}"#);
    expect(&mut bench, r#""last":1"#, &[3, 4], "");
    expect(&mut bench, r#""last":2"#, &[1, 2, 3, 4], lost);
    // Each request of an event stream has its own reason.
    bench.bus(BusEvent::Gap { lost: None });
    bench.begin();
    bench.trade("A", r#"{"price":5}"#);
    let asks =
        |symbol: &str| format!(r#"{{"action":"subscribe","symbols":["{symbol}"],"last":1}}"#);
    let key = stream(&mut bench, &[&asks("B"), &asks("A")], "");
    let sent = bench.world.sent(key);
    assert_eq!(sent.matches(r#""why":"lost""#).count(), 1, "{sent}");
    assert!(
        sent.contains(r#""currentSubscriptions":["B"],"why":"lost""#),
        "{sent}"
    );
}

#[test]
fn who_asks_for_the_newest_trades_before_the_bus_has_been_there_is_told() {
    let mut bench = Bench::before(5, |_| {});
    let got = first_time(&mut bench, r#""last":1"#);
    assert!(got[0].contains(r#""why":"away""#), "{}", got[0]);
    assert!(!got[0].contains("recovered"), "{}", got[0]);
    for rest in [r#""status":true"#, r#""last":null"#] {
        let got = first_time(&mut bench, rest);
        assert!(!got[0].contains("why"), "{}", got[0]);
    }
    bench.begin();
    let got = first_time(&mut bench, r#""last":1"#);
    assert!(!got[0].contains("why"), "{}", got[0]);
}

#[test]
fn a_client_that_comes_for_the_first_time_gets_the_newest_trades() {
    let mut bench = Bench::new(5);
    for (symbol, price) in [("A", 1), ("B", 2), ("A", 3), ("C", 4), ("A", 5)] {
        bench.trade(symbol, &format!(r#"{{"price":{price}}}"#));
    }
    for (last, wanted) in [
        ("1", vec![2, 5]),
        ("2", vec![2, 3, 5]),
        ("100", vec![1, 2, 3, 5]),
    ] {
        let got = first_time(&mut bench, &format!(r#""last":{last}"#));
        assert_eq!(prices(&got), wanted, "in the order of the feed");
        assert!(
            !got[0].contains("pos") && !got[0].contains("recovered"),
            "{}",
            got[0]
        );
        let status =
            r#"{"type":"status","bus":"up","timestamp":1715629300000,"pos":"m5.7f3a09c2b11e.1.5"}"#;
        assert_eq!(got[got.len() - 1], status, "behind the newest trades");
    }
    // Missed trades instead, or the newest where some would be missing.
    let since = |position: Position| format!(r#""since":"{position}","last":1"#);
    assert_eq!(prices(&first_time(&mut bench, &since(at(4)))), [5]);
    let unknown = Position {
        feed_hash: 6,
        ..at(4)
    };
    let got = first_time(&mut bench, &since(unknown));
    assert_eq!(prices(&got), [2, 5]);
    assert!(
        got[0].contains(r#""recovered":false,"why":"bad"}"#) && !got[0].contains("pos"),
        "{}",
        got[0]
    );
    for wrong in ["0", "101", "-1", "1.5", r#""1""#, "[]", "true"] {
        let got = first_time(&mut bench, &format!(r#""last":{wrong}"#));
        let error =
            r#""message":"Invalid subscribe message: last must be a whole number from 1 to 100""#;
        assert!(got.len() == 1 && got[0].contains(error), "{got:?}");
    }
    assert_eq!(prices(&first_time(&mut bench, r#""last":null"#)), [0; 0]);
    // Live from then on, and what is held brings nothing.
    let key = bench.client();
    bench
        .world
        .text(key, r#"{"action":"subscribe","symbols":["A"],"last":1}"#);
    bench.trade("A", r#"{"price":6}"#);
    assert_eq!(prices(&bench.world.texts(key)), [5, 6]);
    bench
        .world
        .text(key, r#"{"action":"subscribe","symbols":["A"],"last":1}"#);
    assert_eq!(prices(&bench.world.texts(key)), [0; 0]);
    // Too much is told.
    let payload = format!(r#"{{"symbol":"{}"}}"#, "x".repeat(100_000));
    (0..50).for_each(|_| bench.trade("A", &payload));
    let got = first_time(&mut bench, r#""last":100"#);
    assert!(
        got.len() == 1 && got[0].contains(r#""why":"large"}"#),
        "{}",
        got[0]
    );
}

#[test]
fn a_trade_over_a_limit_of_this_instance_is_a_hole_for_its_symbol() {
    let mut bench = Bench::new(5);
    let deep = format!(r#"{{"price":{}1{}}}"#, "[".repeat(600), "]".repeat(600));
    let large = format!(r#"{{"price":"{}"}}"#, "x".repeat(1 << 20));
    for (symbol, payload) in [("A", &deep), ("B", &large)] {
        bench.trade(symbol, payload);
    }
    // Bad everywhere: no hole.
    bench.trade("C", "no JSON");
    for (symbol, recovered) in [("A", false), ("B", false), ("C", true), ("D", true)] {
        let got = bench.comes_back(&format!(r#"["{symbol}"]"#), &at(0).to_string());
        let told = format!(r#""recovered":{recovered}"#);
        assert!(
            got.len() == 1 && got[0].contains(&told),
            "{symbol}: {got:?}"
        );
    }
    let got = bench.comes_back(r#"["A","B"]"#, &at(2).to_string());
    assert!(got[0].contains(r#""recovered":true"#), "{got:?}");
}
