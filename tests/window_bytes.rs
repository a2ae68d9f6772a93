//! What messages cost clients with permessage-deflate, as a share of their plain bytes: the real feeds and gateways on a
//! hub, and an inflater for each client.

mod world;

use std::sync::Arc;

use weirgate::auth::Acl;
use weirgate::gateways::channels::feed::ChannelsFeed;
use weirgate::gateways::channels::{ChannelsGateway, ChannelsGatewaySettings};
use weirgate::gateways::events::broadcast::Broadcast;
use weirgate::gateways::events::{EventsGateway, EventsGatewaySettings, Input, Push};
use weirgate::gateways::levels::client::{LevelsGateway, LevelsPath};
use weirgate::gateways::levels::feed::{LevelsFeed, LevelsFeedSettings};
use weirgate::gateways::trades::feed::TradesFeed;
use weirgate::gateways::trades::{TradesGateway, TradesGatewaySettings};
use weirgate_core::{
    BusEvent, BusMessage, Feed, FeedSettings, Gateway, HubStats, Limits, Publication, SessionKey,
    StreamPosition,
};
use weirgate_wire::auth::{NameSyntax, Origins};
use weirgate_wire::base::Now;
use world::client::NO_TAKEOVER;
use world::{Output, Random, World};

/// A hundred keys, of which three change from state to state: 1.6 KB.
struct States(Vec<u64>);

impl States {
    fn new(random: &mut Random) -> Self {
        Self((0..100).map(|_| random.below(1_000_000)).collect())
    }

    fn next(&mut self, random: &mut Random) -> String {
        for _ in 0..3 {
            let key = random.below(100) as usize;
            self.0[key] = random.below(1_000_000);
        }
        let entry = |(key, value): (usize, &u64)| {
            format!("\"k{key}\": {}.{:04}", value / 10_000, value % 10_000)
        };
        let entries: Vec<String> = self.0.iter().enumerate().map(entry).collect();
        format!("{{{}}}", entries.join(", "))
    }
}

fn limits() -> Limits {
    Limits {
        ping_interval_us: 0,
        connection_bytes_max: 1 << 40,
        frame_bytes_max: u64::MAX,
        ..Limits::default()
    }
}

fn message(subject: &str, payload: String, now: Now) -> BusMessage {
    BusMessage::new(subject, payload.into_bytes(), now)
}

/// Clients of a gateway: some that offer compression, and one that does not and gets every text.
struct Clients<G: Gateway<Out: Output>> {
    world: World<G>,
    deflating: Vec<SessionKey>,
    plain: SessionKey,
    /// Wire bytes of the clients with compression, and of the one without.
    before: (u64, u64),
}

impl<G: Gateway<Out: Output>> Clients<G> {
    fn new(gateway: G, target: &str, clients: usize) -> Self {
        Self::offering(15, gateway, target, clients)
    }

    fn offering(bits: u8, gateway: G, target: &str, clients: usize) -> Self {
        let mut world = World::new(limits(), gateway, 1);
        let connect = |_| world.connect(target, Some(bits));
        let deflating = (0..clients).map(connect).collect();
        let plain = world.connect(target, None);
        Self {
            world,
            deflating,
            plain,
            before: (0, 0),
        }
    }

    fn say(&mut self, text: &str) {
        for key in self.deflating.iter().chain([&self.plain]) {
            self.world.text(*key, text);
        }
    }

    fn take(&mut self, publications: Vec<Publication>) {
        for publication in &publications {
            self.world
                .hub
                .handle_publication(self.world.now, publication);
        }
        self.settle();
    }

    /// Whatever it has cost, every client has got the same.
    fn settle(&mut self) {
        self.world.settle();
        let texts = self.world.texts(self.plain);
        for key in &self.deflating {
            assert_eq!(self.world.texts(*key), texts);
        }
    }

    fn begin(&mut self) {
        self.world.settle();
        for key in self.deflating.iter().chain([&self.plain]) {
            self.world.texts(*key);
        }
        self.before = self.bytes();
    }

    fn bytes(&self) -> (u64, u64) {
        let of = |key: &SessionKey| self.world.net.sockets[key].bytes;
        (self.deflating.iter().map(of).sum(), of(&self.plain))
    }

    /// The share of the plain bytes since [`Self::begin`].
    fn share(&self, what: &str) -> f64 {
        let (deflated, plain) = self.bytes();
        let clients = self.deflating.len() as f64;
        let share = (deflated - self.before.0) as f64 / clients / (plain - self.before.1) as f64;
        println!("{what}: {share:.3} of the plain bytes");
        share
    }
}

fn channels() -> (ChannelsGateway, ChannelsGatewaySettings) {
    let settings = ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, br#"{"user": ["*"]}"#).expect("a table"),
        ..ChannelsGatewaySettings::default()
    };
    (
        ChannelsGateway::new(settings.clone(), Arc::default()),
        settings,
    )
}

fn feed_settings() -> FeedSettings {
    FeedSettings {
        bus_message_bytes_max: 1 << 20,
        ..FeedSettings::default()
    }
}

fn channels_of(names: usize, clients: usize) -> f64 {
    let mut clients = Clients::new(channels().0, "/ws", clients);
    let mut feed = ChannelsFeed::new(feed_settings(), clients.world.frame_bytes.clone());
    let mut random = Random::new(1);
    let mut states: Vec<States> = (0..names).map(|_| States::new(&mut random)).collect();
    let all: Vec<String> = (0..names).map(|name| format!("\"d.{name}\"")).collect();
    let request = format!(r#"{{"action":"subscribe","channels":[{}]}}"#, all.join(","));
    clients.say(&request);
    clients.begin();
    for round in 0..60 {
        if round == 10 {
            clients.begin();
        }
        for (name, states) in states.iter_mut().enumerate() {
            let state = states.next(&mut random);
            let now = clients.world.now;
            let message = message(&format!("d.{name}"), state, now);
            let mut publications = Vec::new();
            feed.event(
                now,
                feed.read(BusEvent::Message(message)),
                &mut publications,
            );
            clients.take(publications);
        }
        clients.world.advance(20_000);
    }
    clients.share(&format!("channels, {names} names, states of 1.6 KB"))
}

#[test]
fn states_of_channels_cost_a_fifteenth_however_many_names_a_client_has() {
    for names in [1, 2, 5, 10] {
        for clients in [1, 20] {
            let share = channels_of(names, clients);
            assert!(share <= 0.07, "{names} names: {share:.3}");
        }
    }
}

fn trades_of(symbols: &[&str]) -> f64 {
    let settings = TradesGatewaySettings {
        server_id: "ws-gateway-0a1b2c3d".to_owned(),
        ..TradesGatewaySettings::default()
    };
    let mut clients = Clients::new(TradesGateway::new(settings, Arc::default()), "/", 20);
    let mut feed = TradesFeed::new(feed_settings(), clients.world.frame_bytes.clone());
    let mut random = Random::new(2);
    let all: Vec<String> = symbols.iter().map(|s| format!("\"{s}\"")).collect();
    let request = format!(r#"{{"action":"subscribe","symbols":[{}]}}"#, all.join(","));
    clients.say(&request);
    clients.begin();
    for number in 0..300 {
        if number == 20 {
            clients.begin();
        }
        let symbol = symbols[random.below(symbols.len() as u64) as usize];
        let (price, volume) = (10_000 + random.below(500), 1 + random.below(900));
        let now = clients.world.now;
        let trade = format!(
            r#"{{"symbol":"{symbol}","price":{}.{:02},"volume":{volume},"timestamp":{},"conditions":["@","T"],"exchange":"NASDAQ"}}"#,
            price / 100,
            price % 100,
            1_795_758_395_000_u64 + number * 13,
        );
        let trade = message(&format!("channel:trade:{symbol}"), trade, now);
        let mut publications = Vec::new();
        feed.event(now, BusEvent::Message(trade), &mut publications);
        clients.take(publications);
        clients.world.advance(13_000);
    }
    clients.share(&format!("trades, {} symbols", symbols.len()))
}

#[test]
fn small_trades_cost_a_fifth() {
    for symbols in [&["AAPL"][..], &["AAPL", "MSFT", "GOOG", "TSLA", "NVDA"]] {
        let share = trades_of(symbols);
        assert!(share <= 0.20, "{symbols:?}: {share:.3}");
    }
}

#[test]
fn pushes_to_several_devices_cost_a_third_and_those_to_one_stay_alone() {
    for (others, max, chained) in [(&["e", "f"][..], 0.3, true), (&["d"], 1.1, false)] {
        let settings = EventsGatewaySettings::default();
        let gateway = EventsGateway::new(settings, Origins::new([]), Arc::default());
        let mut clients = Clients::new(gateway, "/ws?device_id=d", 5);
        let mut random = Random::new(3);
        for number in 0..100 {
            if number == 20 {
                clients.begin();
            }
            let players: Vec<String> = (0..4)
                .map(|at| format!(r#"{{"seat":{at},"score":{}}}"#, random.below(1_000)))
                .collect();
            let broadcast = Broadcast {
                event: "\"lobby.updated\"".to_owned(),
                data: format!(
                    r#"{{"lobby":"summer-{}","round":{number},"players":[{}]}}"#,
                    number % 3,
                    players.join(",")
                ),
                device_ids: ["d"].iter().chain(others).map(|&d| d.to_owned()).collect(),
            };
            let alive = clients.world.frame_bytes.clone();
            let now = clients.world.now;
            for part in Push::parts(broadcast, &alive, now, Box::new(drop)) {
                clients.world.hub.handle_input(now, Input::Push(part));
            }
            clients.settle();
            clients.world.advance(50_000);
        }
        let share = clients.share("events, pushes");
        assert!(share <= max, "{others:?}: {share:.3}");
        assert_eq!(clients.world.hub.stats().encodings_chained > 0, chained);
    }
}

#[test]
fn states_of_levels_cost_a_thirtieth() {
    let path = LevelsPath {
        path: LevelsGateway::PATH.to_owned(),
        topic: LevelsFeed::TOPIC,
        subjects: None,
    };
    let gateway = LevelsGateway::new(vec![path], Origins::default());
    let mut clients = Clients::new(gateway, LevelsGateway::PATH, 20);
    let alive = clients.world.frame_bytes.clone();
    let mut feed = LevelsFeed::new(LevelsFeedSettings::default(), alive);
    let mut random = Random::new(4);
    let mut states = States::new(&mut random);
    for sequence in 1..=80 {
        let now = clients.world.now;
        let message = BusMessage {
            position: Some(StreamPosition { epoch: 1, sequence }),
            ..message("market.flow", states.next(&mut random), now)
        };
        let mut publications = Vec::new();
        for event in [BusEvent::Message(message), BusEvent::CaughtUp] {
            feed.event(now, event, &mut publications);
        }
        clients.take(publications);
        clients.world.advance(50_000);
        if sequence == 20 {
            clients.begin();
        }
    }
    let share = clients.share("levels");
    assert!(share <= 0.04, "{share:.3}");
}

/// Clients that hold 50 random names of 500, and offer this many bits: the share of the plain bytes.
fn random_names(bits: u8) -> (f64, HubStats) {
    let mut clients = Clients::offering(bits, channels().0, "/ws", 1_000);
    let mut feed = ChannelsFeed::new(feed_settings(), clients.world.frame_bytes.clone());
    let mut random = Random::new(5);
    let mut states: Vec<States> = (0..500).map(|_| States::new(&mut random)).collect();
    for key in clients.deflating.clone() {
        let all: Vec<String> = (0..50)
            .map(|_| format!("\"d.{}\"", random.below(500)))
            .collect();
        let all = all.join(",");
        let request = format!(r#"{{"action":"subscribe","channels":[{all}]}}"#);
        clients.world.text(key, &request);
    }
    for key in clients.deflating.clone() {
        clients.world.texts(key);
    }
    clients.before = clients.bytes();
    let mut plain = 0;
    for _ in 0..120 {
        let name = random.below(500) as usize;
        let state = states[name].next(&mut random);
        let now = clients.world.now;
        let message = message(&format!("d.{name}"), state.clone(), now);
        let mut publications = Vec::new();
        feed.event(
            now,
            feed.read(BusEvent::Message(message)),
            &mut publications,
        );
        for publication in &publications {
            clients.world.hub.handle_publication(now, publication);
        }
        clients.world.settle();
        clients.world.advance(10_000);
        for key in clients.deflating.clone() {
            for text in clients.world.texts(key) {
                assert!(text.contains(&state), "{text}");
                plain += text.len() as u64 + 4;
            }
        }
    }
    let share = (clients.bytes().0 - clients.before.0) as f64 / plain as f64;
    let stats = clients.world.hub.stats().clone();
    let (chained, alone) = (stats.encodings_chained, stats.encodings_alone);
    println!(
        "50 random names of 500: {share:.3} of the plain bytes, {chained} chained, {alone} alone"
    );
    (share, stats)
}

#[test]
fn clients_with_names_of_their_own_choice_pay_no_more_than_without_a_window() {
    let [(share, stats), (without, _)] = [15, NO_TAKEOVER].map(random_names);
    assert!(share <= without, "{share:.3} after {without:.3}");
    assert!(stats.encodings_chained <= 6 * 120);
}
