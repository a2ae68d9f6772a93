//! The events gateway in a hub with simulated clients and services: the rules about order, slots
//! and clients that go, which no transcript shows.

mod world;

mod events_gateway {
    use super::*;

    mod bus;
    mod bus_random;
    mod cuts;
    mod resume;
    mod tokens;
    mod toy_bus;
    mod waiting;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weirgate::gateways::events::broadcast::Broadcast;
use weirgate::gateways::events::call::{Call, CallFailure, ServiceAnswer};
use weirgate::gateways::events::{
    EventsGateway, EventsGatewaySettings, EventsService, EventsStats, Input, Push,
};
use weirgate_core::{DrainPlan, FrameBytes, Limits, SessionKey};
use weirgate_wire::auth::Origins;
use world::World;
use world::client::frame;

type Events = World<EventsGateway>;

fn settings() -> EventsGatewaySettings {
    EventsGatewaySettings {
        message_bytes_max: 200,
        rate_burst: 1000,
        rate_per_second_milli: 0,
        calls_max: 100,
        orphans_max: 10,
        waiting_bytes_max: 1_000_000,
        ..EventsGatewaySettings::default()
    }
}

fn world(settings: EventsGatewaySettings) -> Events {
    world_with(settings, Arc::default())
}

fn world_with(settings: EventsGatewaySettings, stats: Arc<EventsStats>) -> Events {
    let gateway = EventsGateway::new(settings, Origins::new([]), stats);
    World::new(Limits::default(), gateway, 1)
}

fn ask(world: &mut Events, key: SessionKey, event: &str, id: u32) {
    world.text(
        key,
        &format!(r#"{{"event":"{event}","request_id":"{id}"}}"#),
    );
}

fn answer(world: &mut Events, call: &Call, body: &str) {
    let answer = ServiceAnswer {
        status: 200,
        content_type: "application/json".to_owned(),
        body: body.as_bytes().to_vec(),
        unknown_coding: None,
    };
    reply(world, call, Ok(answer));
}

fn reply(world: &mut Events, call: &Call, outcome: Result<ServiceAnswer, CallFailure>) {
    let reply = call.reader.reply(call.id, outcome);
    world.hub.handle_input(world.now, Input::Reply(reply));
    world.settle();
}

/// Pushes to devices and says how many connections got it.
fn push(world: &mut Events, devices: &[&str], data: &str) -> u64 {
    let sent = Arc::new(AtomicU64::new(u64::MAX));
    let told = Arc::clone(&sent);
    let broadcast = Broadcast {
        event: "\"lobby.updated\"".to_owned(),
        data: data.to_owned(),
        device_ids: devices.iter().map(|&d| d.to_owned()).collect(),
    };
    let sent_to = Box::new(move |n| told.store(n, Ordering::Relaxed));
    for part in Push::parts(broadcast, &FrameBytes::default(), world.now, sent_to) {
        assert_eq!(
            sent.load(Ordering::Relaxed),
            u64::MAX,
            "told once, at the end"
        );
        world.hub.handle_input(world.now, Input::Push(part));
    }
    world.settle();
    sent.load(Ordering::Relaxed)
}

fn response(event: &str, id: &str, data: &str) -> String {
    format!(
        r#"{{"type":"response","event":"{event}","request_id":{id},"data":{data},"error":null}}"#
    )
}

fn error(event: &str, id: &str, code: &str, message: &str) -> String {
    format!(
        r#"{{"type":"error","event":"{event}","request_id":{id},"data":null,"error":{{"code":"{code}","message":"{message}","details":null}}}}"#
    )
}

#[test]
fn a_device_says_who_it_is_first() {
    let mut world = world(settings());
    let key = world.connect("/ws?device_id=", None);
    let hint = world.texts(key).pop().expect("a hint");
    assert!(hint.starts_with(r#"{"type":"event","event":"gateway.identify_required","#));
    ask(&mut world, key, "lobby.get", 1);
    world.text(key, r#"{"event":"identify","data":{"device_id":""}}"#);
    world.text(
        key,
        r#"{"event":"identify","request_id":"7","data":{"device_id":"é 1"}}"#,
    );
    world.text(key, r#"{"event":"identify","data":{"device_id":"other"}}"#);
    assert_eq!(
        world.texts(key),
        [
            error("lobby.get", "\"1\"", "unauthenticated", "Identify first"),
            error(
                "identify",
                "null",
                "bad_request",
                "identify requires data.device_id"
            ),
            response("identify", "\"7\"", r#"{"device_id":"é 1"}"#),
            error(
                "identify",
                "null",
                "unknown_event",
                "Unknown event 'identify'"
            ),
        ]
    );
    assert!(world.outputs.is_empty());
    let other = world.connect("/ws?device_id=x&device_id=%C3%A9+1", None);
    assert!(world.texts(other).is_empty(), "it has said who it is");
    assert_eq!(push(&mut world, &["é 1", "nobody", "é 1"], "{}"), 4);
    let event =
        r#"{"type":"event","event":"lobby.updated","request_id":null,"data":{},"error":null}"#;
    for key in [key, other] {
        assert_eq!(world.texts(key), [event, event]);
    }
}

#[test]
fn a_push_to_many_devices_counts_them_all() {
    let stats = Arc::<EventsStats>::default();
    let mut world = world_with(settings(), Arc::clone(&stats));
    let keys = ["d0", "d199", "d200", "d1234"].map(|id| {
        let target = format!("/ws?device_id={id}");
        world.connect(&target, None)
    });
    let ids: Vec<String> = (0..1500).map(|n| format!("d{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for (devices, sent) in [(0, 0), (199, 1), (200, 2), (201, 3), (1000, 3), (1500, 4)] {
        assert_eq!(push(&mut world, &ids[..devices], "{}"), sent, "{devices}");
    }
    let got = keys.map(|key| world.texts(key).len());
    assert_eq!(got, [5, 4, 3, 1]);
    assert_eq!(stats.pushes.get(), 6, "each once, in however many parts");
}

#[test]
fn what_a_service_is_asked_keeps_its_text() {
    let mut world = world(settings());
    let key = world.connect("/ws?device_id=d1", None);
    world.text(
        key,
        r#"{"data":{ "n": 1.50, "b": 12345678901234567890123 },"event":"lobby.\u0078","x":1}"#,
    );
    let call = world.outputs.pop().expect("a call");
    assert_eq!(call.service, EventsService::LOBBY);
    let body = String::from_utf8(call.body.clone()).expect("text");
    let (client, message) = body.split_once(r#","message":"#).expect("two parts");
    assert!(
        client.starts_with(r#"{"client":{"device_id":"d1","connection_id":""#),
        "{body}"
    );
    assert!(client.ends_with(r#"","ip":"127.0.0.1"}"#), "{body}");
    assert_eq!(
        message,
        r#"{"event":"lobby.\u0078","request_id":null,"data":{"n":1.50,"b":12345678901234567890123}}}"#
    );
    let id = client.split("\"connection_id\":\"").nth(1).expect("an id");
    assert_eq!(id.find('"'), Some(22));
    answer(&mut world, &call, " {\"ok\" : 1.0}\n");
    assert_eq!(
        world.texts(key),
        [response("lobby.\\u0078", "null", r#"{"ok":1.0}"#)]
    );
}

#[test]
fn a_service_hears_the_trace_of_the_handshake_or_a_new_one() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let state = "tracestate: a=b\r\nTraceState: c=d";
    for (headers, given) in [
        (format!("traceparent: {parent}\r\n{state}"), Some("a=b,c=d")),
        (format!("traceparent: {parent}"), Some("")),
        (format!("traceparent: 00\r\n{state}"), None),
        (state.to_owned(), None),
    ] {
        let mut world = world(settings());
        let key = world.accept(usize::MAX);
        let request = world::client::request("/ws?device_id=d1", None);
        let (start, _) = request.split_at(request.len() - "\r\n".len());
        world.send(key, &[start, headers.as_bytes(), b"\r\n\r\n"].concat());
        ask(&mut world, key, "lobby.x", 1);
        let trace = world.outputs.pop().expect("a call").trace;
        match given {
            Some(state) => assert_eq!((&*trace.parent, &*trace.state), (parent, state)),
            None => assert!(
                trace.parent != parent && trace.state.is_empty(),
                "{trace:?}"
            ),
        }
    }
}

#[test]
fn each_connection_is_a_sequence_and_waits_for_nobody_else() {
    let mut world = world(settings());
    let slow = world.connect("/ws?device_id=a", None);
    let quick = world.connect("/ws?device_id=b", None);
    ask(&mut world, slow, "lobby.slow", 1);
    ask(&mut world, slow, "nope", 2);
    world.text(slow, "{");
    world.send(slow, &frame(0x82, b"{}"));
    ask(&mut world, slow, "simulation.run", 3);
    ask(&mut world, quick, "lobby.get", 9);
    assert_eq!(world.outputs.len(), 2, "one a connection");
    let get = world.outputs.pop().expect("the quick one's");
    answer(&mut world, &get, "1");
    assert_eq!(world.texts(quick), [response("lobby.get", "\"9\"", "1")]);
    assert_eq!(push(&mut world, &["a"], "{}"), 1);
    assert_eq!(world.texts(slow).len(), 1, "a push goes in between");
    let first = world.outputs.pop().expect("the slow one's");
    reply(&mut world, &first, Err(CallFailure::Timeout));
    let invalid = error("gateway", "null", "bad_request", "Invalid JSON message");
    assert_eq!(
        world.texts(slow),
        [
            error("lobby.slow", "\"1\"", "upstream_error", "Upstream timeout"),
            error("nope", "\"2\"", "unknown_event", "Unknown event 'nope'"),
            invalid.clone(),
            invalid,
        ]
    );
    let run = world.outputs.pop().expect("the next");
    assert_eq!(run.service, EventsService::SIMULATION);
    answer(&mut world, &run, "null");
    assert_eq!(
        world.texts(slow),
        [response("simulation.run", "\"3\"", "null")]
    );
}

#[test]
fn size_comes_before_rate_and_rate_before_everything_else() {
    let limited = EventsGatewaySettings {
        rate_burst: 2,
        rate_per_second_milli: 500,
        ..settings()
    };
    let mut world = world(limited);
    let key = world.connect("/ws?device_id=d", None);
    let large = error(
        "gateway",
        "null",
        "message_too_large",
        "Message exceeds MAX_MESSAGE_BYTES",
    );
    let invalid = error("gateway", "null", "bad_request", "Invalid JSON message");
    let many = error("gateway", "null", "rate_limited", "Too many messages");
    for _ in 0..3 {
        world.text(key, &"é".repeat(101));
        world.send(key, &frame(0x82, &[0; 201]));
    }
    assert_eq!(world.texts(key), vec![large; 6]);
    world.text(key, &"é".repeat(100));
    world.text(key, "no");
    world.text(key, "no");
    assert_eq!(
        world.texts(key),
        [invalid.clone(), invalid.clone(), many.clone()]
    );
    world.advance(1_900_000);
    world.text(key, "no");
    world.advance(200_000);
    world.text(key, "no");
    assert_eq!(world.texts(key), [many, invalid], "half a token a second");
}

#[test]
fn the_rate_counts_what_arrives_and_not_what_has_waited_for_a_slow_service() {
    for leaves in [false, true] {
        let mut world = world(EventsGatewaySettings {
            rate_burst: 3,
            rate_per_second_milli: 1_000,
            orphans_max: 100,
            ..settings()
        });
        let key = world.connect("/ws?device_id=d", None);
        for id in 0..10 {
            ask(&mut world, key, "lobby.x", id);
            world.advance(1_000_000);
        }
        // Two more than a burst.
        for id in 10..15 {
            ask(&mut world, key, "lobby.x", id);
        }
        if leaves {
            world.see_end(key, false);
        }
        let mut calls = 0;
        while let Some(call) = world.outputs.pop() {
            calls += 1;
            answer(&mut world, &call, "1");
        }
        assert_eq!(calls, 13, "{leaves}");
        if !leaves {
            let many = error("gateway", "null", "rate_limited", "Too many messages");
            let texts = world.texts(key);
            assert!(texts[..13].iter().all(|text| *text != many), "{texts:?}");
            assert_eq!(texts[13..], [many.clone(), many]);
        }
    }
}

#[test]
fn who_sends_too_much_is_not_read_until_there_is_room() {
    let mut world = world(settings());
    let key = world.connect("/ws?device_id=d", None);
    for id in 0..200 {
        ask(&mut world, key, "lobby.x", id);
    }
    assert!(!world.hub.wants_read(key));
    for id in 0..200 {
        let call = world.outputs.pop().expect("the next call");
        assert!(world.outputs.is_empty(), "one at a time");
        answer(&mut world, &call, &id.to_string());
    }
    let want: Vec<String> = (0..200)
        .map(|id| response("lobby.x", &format!("\"{id}\""), &id.to_string()))
        .collect();
    assert_eq!(world.texts(key), want);
    assert!(world.hub.wants_read(key));
}

#[test]
fn who_asks_for_more_than_it_reads_waits_for_itself() {
    let mut world = world(settings());
    let key = world.connect("/ws?device_id=d", None);
    let large = format!("\"{}\"", "x".repeat(2_000_000));
    world.net.sockets.get_mut(&key).expect("it exists").room = 0;
    for id in 0..10 {
        ask(&mut world, key, "lobby.x", id);
    }
    for id in 0..10 {
        let call = world.outputs.pop().expect("the next call");
        assert!(world.outputs.is_empty(), "one at a time");
        answer(&mut world, &call, &large);
        // Nothing more is asked for it, and pushes still go to it.
        for _ in 0..5 {
            world.advance(100_000);
            assert!(world.outputs.is_empty(), "it has not read");
        }
        assert_eq!(push(&mut world, &["d"], "{}"), 1);
        world.open_window(key, 2_100_000);
        world.advance(200_000);
        let texts = world.texts(key);
        assert_eq!(texts.len(), 2, "{id}: the answer and the push");
        assert_eq!(texts[0], response("lobby.x", &format!("\"{id}\""), &large));
        world.net.sockets.get_mut(&key).expect("it exists").room = 0;
    }
    // What is small goes on at once: nothing rests for it.
    for _ in 0..64 {
        world.text(key, "no");
    }
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key).len(), 64);
}

/// It has taken its answers, so what services push is no reason to let its messages wait. No time passes.
#[test]
fn who_has_taken_its_answers_is_answered_at_once_however_many_pushes_wait() {
    let mut world = world(settings());
    let key = world.connect("/ws?device_id=d", None);
    world.net.sockets.get_mut(&key).expect("it exists").room = 0;
    let large = format!("\"{}\"", "x".repeat(20_000));
    for id in 0..3 {
        ask(&mut world, key, "lobby.x", id);
    }
    for id in 0..3 {
        let call = world.outputs.pop().expect("the next call");
        answer(&mut world, &call, &large);
        for _ in 0..3 {
            assert_eq!(push(&mut world, &["d"], &large), 1);
        }
        assert!(world.outputs.is_empty(), "{id}: it has not read");
        let before: usize = world.hub.core().unsent_bytes(key);
        world.open_window(key, before - 3 * 20_000);
        assert!(
            world.hub.core().unsent_bytes(key) > 2 * 20_000,
            "pushes wait"
        );
    }
    assert!(world.outputs.is_empty() && world.hub.core().is_open(key));
}

#[test]
fn messages_of_a_client_that_has_gone_are_forwarded_up_to_a_limit() {
    let mut world = world(settings());
    let key = world.connect("/ws?device_id=d", None);
    for id in 0..30 {
        ask(&mut world, key, "lobby.x", id);
    }
    world.end(key, true);
    assert_eq!(push(&mut world, &["d"], "{}"), 0, "it counts no longer");
    let mut forwarded = Vec::new();
    while let Some(call) = world.outputs.pop() {
        let body = String::from_utf8(call.body.clone()).expect("text");
        let id = body.split("\"request_id\":\"").nth(1).expect("an id");
        forwarded.push(id.split('"').next().expect("digits").to_owned());
        answer(&mut world, &call, "1");
    }
    // The one in flight, and as many as may wait for one address.
    let want: Vec<String> = (0..=5).map(|id| id.to_string()).collect();
    assert_eq!(forwarded, want);
    assert!(world.hub.clients().is_empty() && world.hub.gateway().is_idle());
    assert_eq!(world.frame_bytes.alive(), 0);
}

#[test]
fn a_service_that_hangs_holds_up_its_own_callers_only() {
    let few = EventsGatewaySettings {
        calls_max: 20,
        ..settings()
    };
    let mut world = world(few);
    let keys: Vec<_> = (0..40)
        .map(|n| {
            let address = [192, 0, 2, n].into();
            world.connect_from(address, &format!("/ws?device_id=d{n}"), None)
        })
        .collect();
    for (id, key) in keys.iter().enumerate() {
        ask(&mut world, *key, "lobby.hang", id as u32);
    }
    assert_eq!(
        world.outputs.len(),
        16,
        "two slots are kept for each of the others"
    );
    let other = world.connect("/ws?device_id=o", None);
    ask(&mut world, other, "analysis.run", 1);
    let call = world.outputs.pop().expect("at once");
    answer(&mut world, &call, "1");
    assert_eq!(world.texts(other).len(), 1);
    // The first four time out; the next four go, in the order of arrival.
    let hung: Vec<Call> = world.outputs.drain(..).collect();
    for call in &hung[..4] {
        reply(&mut world, call, Err(CallFailure::Timeout));
    }
    assert_eq!(world.outputs.len(), 4);
    assert_eq!(world.texts(keys[0]).len(), 1);
    assert_eq!(world.texts(keys[15]).len(), 0);
    // The others too: after twenty failures in a row those who wait are told at once.
    let next: Vec<Call> = world.outputs.drain(..).collect();
    for call in hung[4..].iter().chain(&next) {
        reply(&mut world, call, Err(CallFailure::Timeout));
    }
    let unreachable = error(
        "lobby.hang",
        "\"39\"",
        "upstream_error",
        "Upstream unreachable",
    );
    assert_eq!(world.texts(keys[39]), std::slice::from_ref(&unreachable));
    assert!(world.hub.gateway().circuit_is_open(EventsService::LOBBY));
    ask(&mut world, keys[39], "lobby.hang", 39);
    assert_eq!(world.texts(keys[39]), [unreachable]);
    world.advance(1_000_000);
    world.outputs.clear();
    ask(&mut world, keys[39], "lobby.hang", 39);
    let probe = world.outputs.pop().expect("one call probes");
    answer(&mut world, &probe, "1");
    assert!(!world.hub.gateway().circuit_is_open(EventsService::LOBBY));
}

#[test]
fn other_paths_are_refused_and_plain_requests_handed_over() {
    let mut world = world(settings());
    let key = world.accept(usize::MAX);
    world.send(key, &world::client::request("/ws/x", None));
    assert_eq!(world.client(key).status(), Some(403));
    let http = world.accept(usize::MAX);
    let get = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    world.send(http, get);
    assert_eq!(world.to_http, [get.to_vec()]);
}

/// A stop that waits ten seconds for answers.
fn stop(world: &mut Events) {
    let plan = DrainPlan {
        busy_us: 10_000_000,
        ..DrainPlan::default()
    };
    world.hub.drain(world.now, plan);
    world.settle();
}

#[test]
fn a_stop_answers_first_what_it_has_received() {
    let mut world = world(settings());
    let [idle, asks, hangs] = ["i", "a", "h"].map(|id| {
        let target = format!("/ws?device_id={id}");
        world.connect(&target, None)
    });
    for id in 0..2 {
        ask(&mut world, asks, "lobby.x", id);
        ask(&mut world, hangs, "simulation.x", id);
    }
    let hung = world.outputs.remove(1);
    stop(&mut world);
    let closed = Some((1012, String::new()));
    assert_eq!(world.client(idle).close, closed);
    ask(&mut world, asks, "lobby.late", 2);
    assert_eq!(push(&mut world, &["a", "i"], "{}"), 1);
    for _ in 0..2 {
        assert_eq!(world.client(asks).close, None);
        let call = world.outputs.pop().expect("what was received");
        world.advance(4_000_000);
        answer(&mut world, &call, "1");
    }
    assert_eq!(world.texts(asks).len(), 3, "the push and both answers");
    assert_eq!(world.client(asks).close, closed);
    assert!(world.outputs.is_empty(), "nothing is taken on any more");
    world.advance(1_999_000);
    assert_eq!(world.client(hangs).close, None);
    world.advance(2_000);
    assert_eq!(world.client(hangs).close, closed);
    for key in [idle, asks, hangs] {
        world.end(key, false);
    }
    assert!(!world.hub.is_drained(), "what was received is forwarded");
    answer(&mut world, &hung, "1");
    let waited = world.outputs.pop().expect("the one that waited");
    assert!(!world.hub.is_drained());
    answer(&mut world, &waited, "1");
    assert!(world.hub.is_drained());
}
