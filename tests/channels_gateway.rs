//! `weirgate channels` without a socket: the real feed and the real gateway on a hub, with
//! independent clients and a Redis that is played by the test.

mod world;

mod channels_gateway {
    use super::*;

    mod admission;
    mod all_kept;
    mod apart;
    mod behind;
    mod binary;
    mod covers;
    mod delivery;
    mod event_streams;
    mod kept_names;
    mod large;
    mod losses;
    mod many_messages;
    mod many_names;
    mod own_rate;
    mod past;
    mod raw;
    mod requests;
    mod resume;
    mod retained;
    mod retained_end;
    mod retained_pages;
    mod retained_random;
    mod rights;
    mod subjects;
    mod tables;
    mod waiting;
}

use std::sync::Arc;

use serde_json::{Value, json};
use weirgate::auth::{Acl, Authenticator};
use weirgate::gateways::channels::feed::ChannelsFeed;
use weirgate::gateways::channels::{
    AllClientsLimits, ChannelsGateway, ChannelsGatewaySettings, ChannelsStats,
};
use weirgate_core::{
    BusEvent, BusMessage, CloseReason, Feed, FeedSettings, HistoryLimits, Limits, Mark, PageCursor,
    Place, Position, ReadPart, SessionKey, Subscription,
};
use weirgate_wire::auth::{NamePatterns, NameSyntax, Origins};
use world::World;

const SECOND: u64 = 1_000_000;

fn settings() -> ChannelsGatewaySettings {
    ChannelsGatewaySettings {
        channels_max: 50,
        name_bytes_max: 512,
        patterns_max: 5,
        all_clients: AllClientsLimits {
            names_max: 100_000,
            patterns_max: 1_000,
            name_bytes_max: 1 << 28,
        },
        inbound_per_second: 1_000,
        renewals_per_second: 1_000,
        default_role: "user".to_owned(),
        authenticator: Authenticator::default(),
        acl: Acl::default(),
        ..ChannelsGatewaySettings::default()
    }
}

/// A gateway, its feed, and what Redis would do.
struct Bench {
    world: World<ChannelsGateway>,
    feed: ChannelsFeed,
    stats: Arc<ChannelsStats>,
}

impl Bench {
    /// With Redis away.
    fn new(settings: ChannelsGatewaySettings) -> Self {
        Self::made(settings, |gateway| gateway)
    }

    /// With another gateway made of the one of these settings.
    fn made(
        settings: ChannelsGatewaySettings,
        make: impl FnOnce(ChannelsGateway) -> ChannelsGateway,
    ) -> Self {
        Self::limited(settings, HistoryLimits::default(), make)
    }

    /// With a history within these limits.
    fn limited(
        settings: ChannelsGatewaySettings,
        history: HistoryLimits,
        make: impl FnOnce(ChannelsGateway) -> ChannelsGateway,
    ) -> Self {
        Self::changed(settings, |limits| limits.history = history, make)
    }

    /// In which a client has time for so many names in a turn.
    fn in_steps(settings: ChannelsGatewaySettings, names: u64) -> Self {
        let change = |limits: &mut Limits| {
            limits.share_us = names;
            limits.work_us = names;
        };
        Self::changed(settings, change, |gateway| gateway)
    }

    fn changed(
        settings: ChannelsGatewaySettings,
        change: impl FnOnce(&mut Limits),
        make: impl FnOnce(ChannelsGateway) -> ChannelsGateway,
    ) -> Self {
        let stats = Arc::new(ChannelsStats::default());
        let gateway = make(ChannelsGateway::new(settings, Arc::clone(&stats)));
        let mut limits = Limits {
            ping_interval_us: 0,
            event_stream: true,
            ..Limits::default()
        };
        change(&mut limits);
        let world = World::new(limits, gateway, 1);
        let feed = ChannelsFeed::new(
            FeedSettings {
                bus_message_bytes_max: 1 << 20,
                ..FeedSettings::default()
            },
            world.frame_bytes.clone(),
        );
        Self { world, feed, stats }
    }

    /// With Redis there.
    fn up(settings: ChannelsGatewaySettings) -> Self {
        let mut bench = Self::new(settings);
        bench.bus(BusEvent::Up);
        bench
    }

    /// What the reactor does with an event of the source.
    fn bus(&mut self, event: BusEvent) {
        let now = self.world.now;
        let event = self.feed.read(event);
        if let Some(notice) = self.feed.notice(&event) {
            self.world.hub.handle_notice(now, &notice);
        }
        let mut publications = Vec::new();
        self.feed.event(now, event, &mut publications);
        for publication in publications {
            self.world.hub.handle_publication(now, &publication);
        }
        self.world.settle();
    }

    fn down(&mut self) {
        self.bus(BusEvent::Down("gone".to_owned()));
    }

    fn confirm(&mut self, name: &str) {
        let confirmation = self.confirmation(name);
        self.bus(confirmation);
    }

    /// Redis refuses the newest request for an exact name.
    fn refuse(&mut self, name: &str) {
        self.bus(BusEvent::Refused {
            subscription: Subscription::channel(name),
            number: self.world.outputs.numbers[name],
            fault: "NOPERM".to_owned(),
            is_loss: false,
        });
    }

    /// What the source says once Redis has confirmed the newest request for the name.
    fn confirmation(&self, name: &str) -> BusEvent {
        let asked = &self.world.outputs;
        assert_eq!(asked.wanted.get(name), Some(&true), "{name}");
        BusEvent::Subscribed {
            subscription: match name.contains(['*', '?']) {
                true => Subscription::pattern(name),
                false => Subscription::channel(name),
            },
            number: asked.numbers[name],
        }
    }

    /// Redis publishes on a channel: one copy for it and one for each of these patterns.
    fn publish(&mut self, channel: &str, patterns: &[&str], payload: impl AsRef<[u8]>) {
        for pattern in [None].into_iter().chain(patterns.iter().map(Some)) {
            let message = BusMessage {
                pattern: pattern.map(|&pattern| pattern.into()),
                ..BusMessage::new(channel, payload.as_ref().to_vec(), self.world.now)
            };
            self.bus(BusEvent::Message(message));
        }
    }

    /// A client that has been welcomed.
    fn client(&mut self) -> SessionKey {
        self.client_from([127, 0, 0, 1])
    }

    fn client_from(&mut self, address: [u8; 4]) -> SessionKey {
        let key = self.world.connect_from(address.into(), "/ws", None);
        let [welcome] = &self.got(key)[..] else {
            panic!("one message is the welcome");
        };
        assert_eq!(
            (&welcome["type"], &welcome["seq"]),
            (&json!("connected"), &json!(1))
        );
        key
    }

    fn say(&mut self, key: SessionKey, request: &Value) {
        self.world.text(key, &request.to_string());
    }

    fn subscribe(&mut self, key: SessionKey, names: &[&str]) {
        self.say(key, &json!({"action": "subscribe", "channels": names}));
    }

    fn unsubscribe(&mut self, key: SessionKey, names: &[&str]) {
        self.say(key, &json!({"action": "unsubscribe", "channels": names}));
    }

    fn ping(&mut self, key: SessionKey) {
        self.say(key, &json!({"action": "ping"}));
    }

    /// What came since the last call.
    fn got(&mut self, key: SessionKey) -> Vec<Value> {
        let texts = self.world.texts(key);
        texts
            .iter()
            .map(|text| serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}")))
            .collect()
    }

    /// The types and numbers of what came since the last call.
    fn kinds(&mut self, key: SessionKey) -> Vec<(String, u64)> {
        let kind = |message: &Value| {
            let kind = message["type"].as_str().expect("a type").to_owned();
            (kind, message["seq"].as_u64().expect("a number"))
        };
        self.got(key).iter().map(kind).collect()
    }

    /// Clients times names, exact names, patterns.
    fn counts(&self) -> (u64, u64, u64) {
        let stats = &self.stats;
        (
            stats.subscriptions.get(),
            stats.channels.get(),
            stats.patterns.get(),
        )
    }
}

fn kinds(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    of.iter()
        .map(|(kind, seq)| ((*kind).to_owned(), *seq))
        .collect()
}
