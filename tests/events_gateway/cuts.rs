//! Devices that an operator cuts off: what waits for them is dropped and counted, wherever it waits.

use std::net::IpAddr;

use weirgate_core::{Cut, CutRequest, Whom};

use super::*;

const HOME: [u8; 4] = [192, 0, 2, 1];
const OTHER: [u8; 4] = [192, 0, 2, 2];

fn rig(calls_max: usize) -> (Events, Arc<EventsStats>) {
    let stats = Arc::<EventsStats>::default();
    let settings = EventsGatewaySettings {
        calls_max,
        ..settings()
    };
    (world_with(settings, Arc::clone(&stats)), stats)
}

fn connect(world: &mut Events, ip: impl Into<IpAddr>, device: &str) -> SessionKey {
    world.connect_from(ip.into(), &format!("/ws?device_id={device}"), None)
}

/// The name under which operators see the device.
fn shown(world: &Events, key: SessionKey) -> String {
    let look = world.hub.core().snapshot_of(key).expect("a client");
    String::from(look.user.expect("a user"))
}

/// Cuts off as `POST /operator/disconnect` does. Returns the number of closed clients.
fn cut(world: &mut Events, json: &str) -> u64 {
    let cut = Cut::read(json.as_bytes()).expect("a cut");
    let now = world.now.unix_ms();
    if let Some(refused) = cut.refused() {
        let revoked = world.hub.core().limits().revoked.clone();
        revoked.add(&refused, now).expect("room");
    }
    let closed = Arc::new(AtomicU64::new(u64::MAX));
    let told = Arc::clone(&closed);
    let request = CutRequest {
        whom: Whom::Chosen(cut),
        tell: Box::new(move |done| told.store(done.clients, Ordering::Relaxed)),
    };
    world.hub.cut(world.now, request);
    world.settle();
    closed.load(Ordering::Relaxed)
}

/// Answers every call, also those that follow; the events in their order.
fn answer_all(world: &mut Events) -> Vec<String> {
    let mut events = Vec::new();
    while !world.outputs.is_empty() {
        let call = world.outputs.remove(0);
        let body = String::from_utf8(call.body.clone()).expect("text");
        let event = body.split(r#""event":""#).nth(1).expect("an event");
        events.extend(event.split('"').next().map(str::to_owned));
        answer(world, &call, "1");
    }
    events
}

#[test]
fn nothing_goes_on_for_a_device_but_its_call_in_flight() {
    for by in ["user", "address", "session"] {
        let (mut world, stats) = rig(100);
        let key = connect(&mut world, HOME, "evil");
        (0..20).for_each(|id| ask(&mut world, key, &format!("lobby.{id}"), id));
        let other = connect(&mut world, OTHER, "good");
        (0..3).for_each(|id| ask(&mut world, other, &format!("lobby.good{id}"), id));
        let what = match by {
            "user" => shown(&world, key),
            "address" => "192.0.2.1".to_owned(),
            _ => key.to_string(),
        };
        assert_eq!(cut(&mut world, &format!(r#"{{"{by}":"{what}"}}"#)), 1);
        let asked = answer_all(&mut world);
        assert_eq!(
            asked,
            ["lobby.0", "lobby.good0", "lobby.good1", "lobby.good2"],
            "{by}"
        );
        assert_eq!(stats.messages_forgotten.get(), 19, "{by}");
        assert_eq!(world.texts(other).len(), 3);
        assert_eq!(push(&mut world, &["evil"], "{}"), 0, "{by}");
        assert!(world.hub.gateway().is_idle());
        assert_eq!(world.hub.gateway().waiting_bytes().held(), 0);
    }
}

/// What a device leaves is forwarded after its end, unless the device is cut off by then.
#[test]
fn what_a_device_has_left_ends_with_a_later_cut() {
    for by in ["user", "address"] {
        let (mut world, stats) = rig(100);
        let key = connect(&mut world, HOME, "evil");
        (0..8).for_each(|id| ask(&mut world, key, &format!("lobby.{id}"), id));
        let what = match by {
            "user" => shown(&world, key),
            _ => "192.0.2.1".to_owned(),
        };
        world.see_end(key, false);
        assert_eq!(
            cut(&mut world, &format!(r#"{{"{by}":"{what}"}}"#)),
            0,
            "it is gone"
        );
        assert_eq!(answer_all(&mut world), ["lobby.0"], "{by}");
        assert_eq!(stats.messages_forgotten.get(), 7, "{by}");
        assert!(world.hub.gateway().is_idle());
    }
}

#[test]
fn a_call_in_line_for_a_slot_leaves_the_line_to_others() {
    for is_gone in [false, true] {
        let (mut world, stats) = rig(2);
        let keys = [
            (HOME, "one"),
            (HOME, "two"),
            (OTHER, "three"),
            (OTHER, "four"),
        ];
        let keys = keys.map(|(ip, device)| connect(&mut world, ip, device));
        for (n, key) in (0..).zip(keys) {
            ask(&mut world, key, &format!("lobby.{n}"), n);
        }
        assert_eq!(world.outputs.len(), 2, "one for each address");
        let two = shown(&world, keys[1]);
        if is_gone {
            world.see_end(keys[1], false);
        }
        cut(&mut world, &format!(r#"{{"user":"{two}"}}"#));
        let mut asked = answer_all(&mut world);
        asked.sort();
        assert_eq!(asked, ["lobby.0", "lobby.2", "lobby.3"], "{is_gone}");
        assert_eq!(stats.messages_forgotten.get(), 1, "{is_gone}");
        assert!(world.hub.gateway().is_idle());
    }
}

/// A device may say who it is, and leave, before its first message is looked at.
#[test]
fn a_device_that_says_who_it_is_after_its_end_is_asked_too() {
    let (mut world, _) = rig(100);
    let known = connect(&mut world, HOME, "evil");
    let evil = shown(&world, known);
    cut(&mut world, &format!(r#"{{"user":"{evil}"}}"#));
    let key = world.connect_from(HOME.into(), "/ws", None);
    world.text(key, r#"{"event":"identify","data":{"device_id":"evil"}}"#);
    ask(&mut world, key, "lobby.x", 1);
    assert!(world.outputs.is_empty());
    assert_eq!(push(&mut world, &["evil"], "{}"), 0);
}
