//! What a client leaves behind in memory. A program of its own: its allocations are counted.

#![allow(clippy::disallowed_types, reason = "an allocator that counts")]

mod world;

use crossbeam_channel::{Receiver, bounded};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};
use weirgate::auth::{
    Acl, Authenticator, Identity, KeyRing, KeySet, Rights, RightsCheck, Token, TokenNameLimits,
};
use weirgate::gateways::channels::{
    AllClientsLimits, ChannelsGateway, ChannelsGatewaySettings, ChannelsOutput, RetainedRequest,
};
use weirgate::gateways::events::{EventsGateway, EventsGatewaySettings};
use weirgate_bus::BusInterest;
use weirgate_bus::redis::{RedisEndpoint, RedisSettings, RedisSource};
use weirgate_core::{
    BusEvent, BusNotice, Core, FrameBytes, Gateway, HistoryLimits, Hub, Limits, RetainedCut,
    SessionKey, Subscription, TopicName, Transmit, Write,
};
use weirgate_runtime::{BusStatus, Clock, Source, SourceLink};
use weirgate_wire::admission::{ConnectionPermit, Quota, Transport};
use weirgate_wire::auth::{NameSyntax, Origins};
use weirgate_wire::base::{Now, Secret};
use world::World;
use world::client::{Compressor, frame, request_with};
use world::toys::Symbols;

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time counts.
static TURN: Mutex<()> = Mutex::new(());

fn bytes_in_use() -> usize {
    let stats = MEMORY.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Thousands of clients that each sent one large message would else hold its memory for hours.
#[test]
fn a_large_message_leaves_no_memory_with_its_client() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new(Limits::default(), Symbols::default(), 1);
    let large = "x".repeat(60_000);
    // Many: the threads of other tests begin meanwhile, and have memory too.
    let keys: Vec<_> = (0..200).map(|_| world.connect("/ws", None)).collect();
    // What all clients share has its size after the first.
    world.text(keys[0], &large);
    let before = bytes_in_use();
    for key in &keys[1..] {
        world.text(*key, &large);
        let socket = world.net.sockets.get_mut(key).expect("a socket");
        socket.unread.shrink_to_fit();
    }
    let kept = bytes_in_use().saturating_sub(before) / (keys.len() - 1);
    assert!(kept < 1_000, "{kept} bytes for each client");
}

/// Bytes for each client of `clients` more that 64 compressed messages leave behind.
fn left_by_requests(offer: &str, clients: usize) -> usize {
    let mut world = World::new(Limits::default(), Symbols::default(), 1);
    let mut compressor = Compressor::default();
    compressor.stays = !offer.contains("client_no_context_takeover");
    // The toy takes no notice of these.
    let messages: Vec<_> = (0..64)
        .map(|n| {
            format!(
                r#"{{"action":"subscribe","channels":["market:tick:S{:03}"]}}"#,
                n * 7_919 % 1_000
            )
        })
        .map(|text| frame(0xc1, &compressor.message(text.as_bytes())))
        .collect();
    let keys: Vec<_> = (0..=clients)
        .map(|_| {
            let key = world.accept(usize::MAX);
            world.send(key, &request_with("/ws", Some(offer)));
            key
        })
        .collect();
    let mut send = |key: SessionKey| {
        for message in &messages {
            world.send(key, message);
        }
        assert!(world.client(key).close.is_none(), "closed");
        let socket = world.net.sockets.get_mut(&key).expect("a socket");
        socket.unread.shrink_to_fit();
    };
    // What all clients share has its size after the first.
    send(keys[0]);
    let before = bytes_in_use();
    keys[1..].iter().copied().for_each(send);
    bytes_in_use().saturating_sub(before) / clients
}

#[test]
fn short_compressed_requests_leave_less_than_a_kilobyte_with_their_client() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
    ] {
        let kept = left_by_requests(offer, 300);
        println!("{offer}: {kept} bytes for each client");
        assert!(kept > 100 && kept < 1_000, "{kept} bytes for each client");
    }
    let none = left_by_requests("permessage-deflate; client_no_context_takeover", 30);
    assert!(none < 50, "{none} bytes for each client");
}

/// Clients whose token has many names, and clients of a table with names for each user.
#[test]
fn names_of_a_client_take_no_more_than_their_text() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = TokenNameLimits {
        names_max: 50,
        name_bytes_max: 512,
    };
    for syntax in [NameSyntax::Redis, NameSyntax::Nats] {
        let (of_user, dot) = match syntax {
            NameSyntax::Redis => ("t:{sub}:*", ":"),
            NameSyntax::Nats => ("t.{sub}.>", "."),
        };
        let table = format!(r#"{{"user": ["{of_user}"]}}"#);
        let mut acl = Acl::from_json(syntax, table.as_bytes()).expect("a table");
        for end in ["x", "*"] {
            let name = |n: usize| ["t", &"x".repeat(90), &n.to_string(), end].join(dot);
            let names: Vec<String> = (0..limits.names_max).map(name).collect();
            let text: usize = names.iter().map(String::len).sum();
            let mut client = || {
                let identity = Identity {
                    user: Some("ann".to_owned()),
                    names: Ok(names.clone()),
                    ..Identity::default()
                };
                let rights = acl.admit(&identity, "user", limits).expect("admitted");
                for (asked, granted) in [(&names[7], true), (&"t*".to_owned(), false)] {
                    let mut check = RightsCheck::new(&rights, 100_000);
                    assert_eq!(acl.grants(&mut check, asked), Ok(granted), "{asked}");
                }
                rights
            };
            // What all clients share has its size after the first.
            let first = client();
            let before = bytes_in_use();
            let clients: Vec<Rights> = (0..200).map(|_| client()).collect();
            let kept = (bytes_in_use() - before) / clients.len();
            println!("{syntax:?} {end}: {kept} bytes for {text} of text");
            assert!(kept < text + 48 * limits.names_max, "{kept} for {text}");
            let charged = first.memory_bytes();
            assert!(
                (kept..kept + kept / 4).contains(&charged),
                "{charged} for {kept}"
            );
            drop(first);
        }
    }
}

/// A later table of roles may need any claim, but no list of hundreds of groups; of roles all count.
#[test]
fn what_is_kept_of_a_token_is_charged_and_no_more_than_tables_need() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let secret = "secret";
    let mut keys = KeySet::default();
    keys.add_secret(&Secret::new(secret)).expect("room");
    let authenticator = Authenticator {
        required: true,
        keys: KeyRing::new(keys),
        ..Authenticator::default()
    };
    let acl = Acl::default();
    let limits = TokenNameLimits {
        names_max: 50,
        name_bytes_max: 512,
    };
    let groups: Vec<String> = (0..150)
        .map(|n| format!("group-of-people-{n:04}"))
        .collect();
    let many: Vec<String> = (0..800)
        .map(|n| n.to_string())
        .chain(["user".to_owned()])
        .collect();
    for (claims, most) in [
        (json!({"sub": "ann", "exp": 4_000_000_000_u64}), 350),
        (
            json!({"sub": "ann", "role": "user", "team": "fx", "groups": groups}),
            450,
        ),
        (json!({"sub": "ann", "role": many}), 6_000),
    ] {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let text = jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token");
        let token = Token::new(text).expect("a token");
        let now = Now::default();
        let client = || {
            let identity = authenticator
                .identify(Some(&token), now)
                .expect("it is good");
            acl.admit(&identity, "user", limits).expect("admitted")
        };
        let first = client();
        let before = bytes_in_use();
        let mut clients: Vec<Rights> = (0..200).map(|_| client()).collect();
        // A table that is read again makes no copy.
        clients
            .iter_mut()
            .for_each(|rights| acl.renew(rights, "user"));
        let kept = (bytes_in_use() - before) / clients.len();
        let charged = first.memory_bytes();
        println!("{kept} bytes, {charged} charged");
        assert!(kept <= most, "{kept} bytes");
        assert!(
            (kept..kept + kept / 2).contains(&charged),
            "{charged} for {kept}"
        );
    }
}

/// Takes everything that is written.
#[derive(Default)]
struct Sink;

impl Transmit for Sink {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        wrote.extend(batch.iter().map(|write| {
            let bytes = write.slices.iter().map(|slice| slice.len());
            Ok(bytes.sum())
        }));
    }
}

/// A gateway of channels without limits of a client, and the thread of a bus that is away.
struct Names {
    hub: Hub<ChannelsGateway>,
    now: Now,
    interest: BusInterest,
    /// The thread goes on while somebody takes its events.
    events: Receiver<BusEvent>,
    /// Questions for kept messages: the thread of the bus has their names too.
    asked: Vec<(u64, BTreeSet<TopicName>)>,
    /// Questions for newest messages.
    newest_asked: Vec<(TopicName, u64)>,
}

impl Names {
    fn new() -> Self {
        Self::made(Limits::default(), |gateway| gateway)
    }

    /// On a stream of Redis.
    fn of_a_stream() -> Self {
        Self::of_a_stream_with(|gateway| gateway.with_pages(1 << 30))
    }

    fn of_a_stream_with(make: impl FnOnce(ChannelsGateway) -> ChannelsGateway) -> Self {
        let history = HistoryLimits {
            keep_us: 60_000_000,
            bytes_max: 1 << 20,
        };
        let limits = Limits {
            history,
            ping_interval_us: 0,
            ..Limits::default()
        };
        let mut names = Self::made(limits, |gateway| {
            let gateway = gateway.with_kept_stream(vec!["*".to_owned()]);
            make(gateway.expect("names"))
        });
        names.hub.handle_notice(names.now, &BusNotice::Up);
        names
    }

    fn made(limits: Limits, make: impl FnOnce(ChannelsGateway) -> ChannelsGateway) -> Self {
        let settings = ChannelsGatewaySettings {
            channels_max: 1_000,
            name_bytes_max: 512,
            patterns_max: 1_000,
            all_clients: AllClientsLimits {
                names_max: 1_000_000,
                patterns_max: 1_000_000,
                name_bytes_max: 1 << 40,
            },
            inbound_per_second: 1_000,
            renewals_per_second: 1,
            default_role: "user".to_owned(),
            authenticator: Authenticator::default(),
            acl: Acl::default(),
            ..ChannelsGatewaySettings::default()
        };
        let frame_bytes = FrameBytes::default();
        let gateway = make(ChannelsGateway::new(settings, Arc::default()));
        let hub = Hub::new(Core::new(limits, frame_bytes, 1), gateway);
        let endpoint = RedisEndpoint::parse("redis://127.0.0.1:1").expect("an address");
        let status = Arc::new(BusStatus::new(&[], 1));
        let mut bus = RedisSettings::new(endpoint);
        bus.times.reconnect_delay_max_ms = 100;
        let source = RedisSource::new(bus, status);
        let (source, interest) = source.expect("a source");
        let (sender, events) = bounded(16);
        let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
        thread::spawn(move || Box::new(source).run(link));
        let now = Now {
            mono_us: 1,
            unix_us: 1_000,
        };
        Self {
            hub,
            now,
            interest,
            events,
            asked: Vec::new(),
            newest_asked: Vec::new(),
        }
    }

    fn connect(&mut self, ip: [u8; 4]) -> SessionKey {
        let peer = SocketAddr::from((ip, 4_000));
        let key = self.hub.handle_accepted(self.now, peer, Transport::Plain);
        self.send(key, &request_with("/ws", None));
        key
    }

    fn send(&mut self, key: SessionKey, bytes: &[u8]) {
        self.hub.handle_bytes(self.now, key, bytes);
        self.go_on();
    }

    fn go_on(&mut self) {
        while self.hub.flush(self.now, &mut Sink) {}
        while let Some(output) = self.hub.poll_output() {
            match output {
                ChannelsOutput::Interest(change) => {
                    let name = Subscription::channel(change.name.shared());
                    self.interest.subscribe_numbered(name, change.number);
                }
                ChannelsOutput::Retained(RetainedRequest::All { number, names, .. }) => {
                    self.asked.push((number, names.iter().cloned().collect()));
                }
                ChannelsOutput::Retained(RetainedRequest::Newest { name, number, .. }) => {
                    self.newest_asked.push((name, number));
                }
                _ => {}
            }
        }
        while self.hub.poll_effect().is_some() {}
    }

    /// Waits until the thread of the bus has all names.
    fn settle(&self) {
        while self.interest.unanswered().waiting > 0 {
            self.events.try_iter().for_each(drop);
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn subscribe(&mut self, key: SessionKey, names: &[String]) {
        let request = json!({"action": "subscribe", "channels": names}).to_string();
        self.send(key, &frame(0x81, request.as_bytes()));
    }

    fn charged(&self) -> u64 {
        let held = self.hub.gateway().holdings();
        let bytes = held.iter().map(Quota::counts);
        let bytes = bytes.filter(|counts| counts.name == "name_bytes");
        bytes.map(|counts| counts.held).sum()
    }
}

/// What 100,000 names of single clients take, and what further clients take that hold the same names.
#[test]
fn names_are_charged_what_they_take() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut names = Names::new();
    let keys: Vec<_> = (0..200).map(|n| names.connect([127, 0, 0, n])).collect();
    let text = |n: usize| format!("market:tick:{n:06}:{}", "x".repeat(100));
    let all: Vec<String> = (0..100_000).map(text).collect();
    let mut grown = |keys: &[SessionKey]| {
        let before = (bytes_in_use() as u64, names.charged());
        for (key, of_client) in keys.iter().zip(all.chunks(1_000)) {
            for request in of_client.chunks(50) {
                names.now.mono_us += 1_000_000;
                names.subscribe(*key, request);
            }
        }
        names.settle();
        let (bytes, charged) = (bytes_in_use() as u64, names.charged());
        let each = |grown: u64| grown / all.len() as u64;
        (each(bytes - before.0), each(charged - before.1))
    };
    for keys in keys.chunks(100) {
        let (bytes, charged) = grown(keys);
        println!("{bytes} bytes in use for each name of a client, {charged} charged");
        assert!(bytes <= charged, "{bytes} bytes for {charged}");
        assert!(charged <= bytes + bytes / 2, "{bytes} bytes for {charged}");
    }
}

/// What patterns take that the gateway matches itself: 200 of each kind, of single clients.
#[test]
fn patterns_are_charged_what_they_take_parsed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for part in ["x", "?", "[ab]", "*x", "[a_][b_][c_][d_]"] {
        let mut names = Names::of_a_stream();
        let key = names.connect([127, 0, 0, 1]);
        let rest = part.repeat(480 / part.len());
        let all: Vec<String> = (0..200)
            .map(|n| format!("market:tick:{n:03}*{rest}"))
            .collect();
        let before = (bytes_in_use() as u64, names.charged());
        for request in all.chunks(50) {
            names.now.mono_us += 1_000_000;
            names.subscribe(key, request);
        }
        names.settle();
        let each = |grown: u64| grown / all.len() as u64;
        let (bytes, charged) = (
            each(bytes_in_use() as u64 - before.0),
            each(names.charged() - before.1),
        );
        println!("{part}: {bytes} bytes in use for each pattern, {charged} charged");
        assert!(bytes <= charged, "{part}: {bytes} bytes for {charged}");
        assert!(charged <= 2 * bytes, "{part}: {bytes} bytes for {charged}");
    }
}

/// What clients take that wait for all kept messages of names, beside what the names take: 300 names of each.
#[test]
fn names_whose_kept_messages_clients_wait_for_are_charged_what_they_take() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for end in ["", "*"] {
        let mut names = Names::of_a_stream();
        let keys: Vec<_> = (0..41).map(|n| names.connect([127, 0, 0, n])).collect();
        let text = |n: usize| format!("market:tick:{n:06}:{}{end}", "x".repeat(120));
        let all: Vec<String> = (0..300).map(text).collect();
        let ask = |names: &mut Names, key: SessionKey, last: bool| {
            for request in all.chunks(50) {
                names.now.mono_us += 1_000_000;
                let mut request = json!({"action": "subscribe", "channels": request});
                if last {
                    request["last"] = json!("all");
                }
                names.send(key, &frame(0x81, request.to_string().as_bytes()));
            }
        };
        // The names have their memory after the first.
        ask(&mut names, keys[0], false);
        let before = (bytes_in_use() as u64, names.charged());
        keys[1..].iter().for_each(|key| ask(&mut names, *key, true));
        // The first question has one client; the next has those of the others that have asked meanwhile, and so on.
        for _ in 0..2 {
            let number = names.asked.last().expect("a question").0;
            let end = BusNotice::RetainedEnd {
                topic: TopicName::default(),
                number,
                cut: Some(RetainedCut::Epoch),
            };
            names.hub.handle_notice(names.now, &end);
            names.go_on();
        }
        let sought = names.asked.iter().map(|(_, names)| names.len());
        println!("questions for {:?} names", sought.collect::<Vec<_>>());
        let (bytes, charged) = (bytes_in_use() as u64, names.charged());
        let each = |grown: u64| grown / (300 * 40);
        let (bytes, charged) = (each(bytes - before.0), each(charged - before.1));
        println!("{bytes} bytes in use for each name of a client, {charged} charged");
        assert!(bytes <= charged, "{bytes} bytes for {charged}");
        assert!(charged <= bytes + bytes / 2, "{bytes} bytes for {charged}");
    }
}

/// What is found out of names in the stream stays after the clients, which nobody is charged for.
#[test]
fn names_without_messages_that_clients_have_asked_for_leave_little() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut names = Names::of_a_stream_with(ChannelsGateway::with_past);
    let key = names.connect([127, 0, 0, 1]);
    let mut ask = |from: usize| {
        names.now.mono_us += 1_000_000;
        let text = |n: usize| format!("market:tick:{n:06}:{}", "x".repeat(480));
        let channels: Vec<String> = (from..from + 50).map(text).collect();
        let mut request = json!({"action": "subscribe", "channels": channels, "last": 1});
        names.send(key, &frame(0x81, request.to_string().as_bytes()));
        let mut answered = 0;
        while let Some((topic, number)) = names.newest_asked.pop() {
            let end = BusNotice::RetainedEnd {
                topic,
                number,
                cut: None,
            };
            names.hub.handle_notice(names.now, &end);
            names.go_on();
            answered += 1;
        }
        names.hub.handle_timeout(names.now);
        names.go_on();
        request["action"] = json!("unsubscribe");
        names.send(key, &frame(0x81, request.to_string().as_bytes()));
        answered
    };
    assert_eq!(ask(0), 50);
    let before = bytes_in_use();
    for n in 1..=100 {
        assert_eq!(ask(50 * n), 50, "each is new");
    }
    let kept = bytes_in_use().saturating_sub(before) / 5_000;
    println!("{kept} bytes for each name");
    assert!(kept < 50, "{kept} bytes for each name");
    assert_eq!(ask(0), 0, "they are known");
}

/// The id of a device may have 200 characters of 4 bytes, and the handshake a trace that services get.
#[test]
fn a_long_id_of_a_device_and_its_trace_are_charged() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    const CLIENTS: usize = 512;
    let taken = |id: &str, trace: &str| {
        let settings = EventsGatewaySettings::default();
        let gateway = EventsGateway::new(settings, Origins::new([]), Arc::default());
        let mut world = World::new(Limits::default(), gateway, 1);
        let before = bytes_in_use();
        for n in 0..CLIENTS {
            let target = format!("/ws?device_id={n:03}{id}");
            let mut request = request_with(&target, None);
            request.truncate(request.len() - 2);
            request.extend(trace.as_bytes());
            request.extend(b"\r\n");
            let key = world.accept(usize::MAX);
            world.send(key, &request);
            assert_eq!(world.hub.core().topic_count(), n + 1);
            let socket = world.net.sockets.get_mut(&key).expect("a socket");
            socket.unread.shrink_to_fit();
        }
        let charged = world.hub.core().connections_held().held() as usize;
        (bytes_in_use() - before, charged)
    };
    let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let state = format!("{parent}tracestate: a={}\r\n", "x".repeat(500));
    let plain = taken("-0000-0000-0000-000000000000", parent);
    for (id, trace) in [("%F0%9F%98%80".repeat(190), parent), ("a".into(), &state)] {
        let long = taken(&id, trace);
        let [takes, charged] = [long.0 - plain.0, long.1 - plain.1].map(|all| all / CLIENTS);
        println!("{takes} bytes more for each device, {charged} charged");
        assert!(takes > 400 && charged * 10 > takes * 9 && charged < takes + 100);
    }
}

/// Most clients hold a single name.
#[test]
fn a_client_with_one_name_takes_a_kilobyte_and_less_than_its_connection_counts_with() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // With the first client a power of two: tables have no room to spare.
    const CLIENTS: usize = 8_191;
    let mut names = Names::new();
    let one = ["market:tick:NIFTY".to_owned()];
    let first = names.connect([127, 0, 0, 1]);
    names.subscribe(first, &one);
    names.settle();
    // Until here, what all clients share. The answer of a name that the bus has not confirmed would wait.
    let before = bytes_in_use();
    let mut kept = |more: usize, clients: usize| {
        let keys: Vec<_> = (0..more).map(|_| names.connect([127, 0, 0, 1])).collect();
        for key in &keys {
            names.subscribe(*key, &one);
        }
        names.now.mono_us += 2_000_000;
        names.hub.handle_timeout(names.now);
        while names.hub.flush(names.now, &mut Sink) {}
        (bytes_in_use() - before) / clients
    };
    let full = kept(CLIENTS, CLIENTS);
    let half_full = kept(100, CLIENTS + 100);
    println!("{full} bytes for each client, {half_full} in tables that are half full");
    assert!(full <= 1_060, "{full} bytes for each client");
    // Beside this a connection has its socket in the loop. Of tables that have just grown, half is not resident yet.
    assert!(
        full as u64 + 200 <= ConnectionPermit::LOOP_BYTES && half_full < 1_500,
        "{half_full}"
    );
}
