//! What messages of all devices hold while they wait.

use std::net::IpAddr;

use weirgate_core::{CloseReason, Gateway as _};

use super::*;

/// Room for a dozen messages of `ask_much`.
const LIMIT: usize = 12 * MESSAGE_BYTES;
/// Memory of a message of `ask_much`, at most.
const MESSAGE_BYTES: usize = 320;
const HOG: [u8; 4] = [192, 0, 2, 1];
const OTHER: [u8; 4] = [192, 0, 2, 2];

/// Little room for messages, and much for those of devices that have gone.
fn narrow(orphans_max: usize) -> (Events, Arc<EventsStats>) {
    with_room(LIMIT, orphans_max)
}

fn with_room(waiting_bytes_max: usize, orphans_max: usize) -> (Events, Arc<EventsStats>) {
    let stats = Arc::<EventsStats>::default();
    let settings = EventsGatewaySettings {
        waiting_bytes_max,
        orphans_max,
        ..settings()
    };
    (world_with(settings, Arc::clone(&stats)), stats)
}

fn connect(world: &mut Events, ip: impl Into<IpAddr>, device: &str) -> SessionKey {
    world.connect_from(ip.into(), &format!("/ws?device_id={device}"), None)
}

fn devices(world: &mut Events, ip: [u8; 4], count: usize) -> Vec<SessionKey> {
    let connect = |n| connect(world, ip, &format!("d{n}"));
    (0..count).map(connect).collect()
}

/// A message with a text of some 150 bytes.
fn ask_much(world: &mut Events, key: SessionKey, id: u32) {
    ask(world, key, &format!("lobby.{}", "x".repeat(100)), id);
}

fn waits(world: &Events) -> usize {
    world.hub.gateway().waiting_bytes().held() as usize
}

fn paused(world: &Events) -> u64 {
    let mut paused = world.hub.stats().paused_clients();
    let room = paused.find(|(why, _)| *why == "room");
    room.expect("a reason").1
}

/// Answers every call, also those that follow; how many there were.
fn answer_all(world: &mut Events) -> usize {
    let mut answered = 0;
    while !world.outputs.is_empty() {
        let call = world.outputs.remove(0);
        answer(world, &call, "1");
        answered += 1;
    }
    answered
}

#[test]
fn what_waits_is_bounded_over_all_connections() {
    let (mut world, _) = narrow(1_000);
    let mut keys = devices(&mut world, HOG, 40);
    keys.extend(devices(&mut world, OTHER, 40));
    for (id, key) in (0..10).flat_map(|id| keys.iter().map(move |key| (id, *key))) {
        ask_much(&mut world, key, id);
        assert!(
            waits(&world) <= LIMIT + MESSAGE_BYTES,
            "{} bytes",
            waits(&world)
        );
    }
    assert!(waits(&world) > LIMIT / 3, "{} bytes", waits(&world));
    assert!(paused(&world) > 60, "{} clients", paused(&world));
    // Not even a first message, and nothing but what stands in the sockets is kept of the clients.
    let late = connect(&mut world, HOG, "late");
    ask_much(&mut world, late, 0);
    assert!(!world.hub.wants_read(late));
    assert_eq!(answer_all(&mut world), 801, "all in the end");
    assert_eq!((waits(&world), paused(&world)), (0, 0));
    for key in keys {
        assert_eq!(world.texts(key).len(), 10);
    }
    assert_eq!(world.texts(late).len(), 1);
}

#[test]
fn an_address_has_room_however_much_the_others_send() {
    let (mut world, _) = narrow(1_000);
    for (address, share) in [(1, 2), (2, 3), (3, 4)] {
        let before = waits(&world);
        let keys = devices(&mut world, [192, 0, 2, address], 40);
        keys.iter().for_each(|key| ask_much(&mut world, *key, 0));
        let own = waits(&world) - before;
        let fair = (LIMIT - before) / 2;
        assert!(
            own >= fair && own <= fair + MESSAGE_BYTES,
            "1/{share}: {own} bytes"
        );
    }
}

#[test]
fn who_holds_room_without_reading_its_answers_starves_nobody() {
    let (mut world, _) = narrow(1_000);
    // Its answers wait, so its messages are not looked at: nothing of them becomes free by itself.
    for key in devices(&mut world, HOG, 40) {
        world.net.sockets.get_mut(&key).expect("it").room = 0;
        ask_much(&mut world, key, 0);
        let Some(call) = world.outputs.pop() else {
            continue;
        };
        (1..4).for_each(|id| ask_much(&mut world, key, id));
        answer(&mut world, &call, &format!("\"{}\"", "y".repeat(100_000)));
    }
    answer_all(&mut world);
    assert!(paused(&world) > 0);
    let other = connect(&mut world, OTHER, "other");
    for id in 0..10 {
        ask(&mut world, other, "lobby.x", id);
        assert_eq!(answer_all(&mut world), 1);
    }
    assert_eq!(world.texts(other).len(), 10);
}

#[test]
fn addresses_take_turns_in_what_becomes_free() {
    let (mut world, _) = narrow(1_000);
    let hogs = devices(&mut world, HOG, 200);
    hogs.iter().for_each(|key| ask_much(&mut world, *key, 0));
    // Addresses of one message each leave no room for another.
    for n in 0..100 {
        let key = connect(&mut world, [198, 51, 100, n], "small");
        ask_much(&mut world, key, 0);
    }
    let other = connect(&mut world, OTHER, "other");
    ask_much(&mut world, other, 0);
    assert!(!world.hub.wants_read(other), "no room at all");
    let mut answered = 0;
    while world.texts(other).is_empty() {
        let call = world.outputs.remove(0);
        answer(&mut world, &call, "1");
        answered += 1;
    }
    assert!(answered <= 120, "after {answered} of 301");
}

/// Calls of one address that take long leave slots to others, and do not make the service unreachable for them.
#[test]
fn calls_that_take_long_are_the_matter_of_their_address() {
    let mut world = world(settings());
    let mut opened = 0;
    for round in 0..60 {
        let hogs = devices(&mut world, HOG, 60);
        hogs.iter().for_each(|key| ask_much(&mut world, *key, 0));
        assert!(world.outputs.len() <= 40, "half of the slots of a service");
        while !world.outputs.is_empty() {
            world.advance(3_000_000);
            for call in std::mem::take(&mut world.outputs) {
                reply(&mut world, &call, Err(CallFailure::Timeout));
            }
        }
        hogs.iter().for_each(|key| world.end(*key, true));
        opened += u32::from(world.hub.gateway().circuit_is_open(EventsService::LOBBY));
        // For long no other address calls, so nothing shows that the service answers.
        if round % 25 == 24 {
            for n in 1..4 {
                let other = connect(&mut world, [198, 51, 100, n], "other");
                ask(&mut world, other, "lobby.other", 0);
                assert_eq!(answer_all(&mut world), 1, "in round {round}");
                world.end(other, true);
            }
        }
    }
    assert!(opened > 0, "for the one address");
}

/// If a service is not called any more, those in its line are told in several turns.
#[test]
fn a_long_line_is_told_over_several_turns() {
    let mut world = world(EventsGatewaySettings {
        calls_max: 1,
        ..settings()
    });
    let services = world.hub.gateway().service_stats();
    let keys = devices(&mut world, HOG, 101);
    let fail = |world: &mut Events| {
        let call = world.outputs.remove(0);
        reply(world, &call, Err(CallFailure::Unreachable));
    };
    for id in 0..19 {
        ask(&mut world, keys[0], "lobby.x", id);
        fail(&mut world);
    }
    keys.iter()
        .for_each(|key| ask(&mut world, *key, "lobby.x", 99));
    let skipped = services.iter().map(|(_, stats)| stats.skipped.get());
    let told = || skipped.clone().sum::<u64>();
    assert_eq!((told(), world.outputs.len()), (0, 1));
    let last = world.outputs.remove(0);
    let last = last.reader.reply(last.id, Err(CallFailure::Unreachable));
    world.hub.begin_part(20);
    world.hub.handle_input(world.now, Input::Reply(last));
    let first = told();
    assert!(first > 0 && first < 40, "{first}");
    let due_us = world.hub.poll_timeout();
    assert!(due_us.is_some_and(|at_us| at_us <= world.now.mono_us));
    world.advance(1);
    assert_eq!(told(), 100);
    assert!(keys[1..].iter().all(|key| world.texts(*key).len() == 1));
}

/// Messages that the gateway itself answers wait behind one that a service answers.
#[test]
fn messages_behind_a_call_are_answered_over_several_turns() {
    let mut world = world(settings());
    let [key] = devices(&mut world, HOG, 1)[..] else {
        panic!("one device");
    };
    ask(&mut world, key, "lobby.x", 1);
    (0..60).for_each(|_| world.text(key, r#"{"event":"unknown.x","data":{}}"#));
    assert_eq!(world.texts(key), [""; 0]);
    let call = world.outputs.remove(0);
    let call = call.reader.reply(call.id, Err(CallFailure::Timeout));
    world.hub.begin_part(20);
    world.hub.handle_input(world.now, Input::Reply(call));
    world.flush();
    let first = world.texts(key).len();
    assert!((5..40).contains(&first), "{first}");
    assert_eq!(world.hub.poll_timeout(), Some(0));
    world.settle();
    assert_eq!(first + world.texts(key).len(), 61);
}

/// A slot that becomes free goes to the address whose turn has come.
#[test]
fn a_call_does_not_wait_for_all_those_of_another_address() {
    let mut world = world(EventsGatewaySettings {
        calls_max: 3,
        ..settings()
    });
    let hogs = devices(&mut world, HOG, 50);
    hogs.iter().for_each(|key| ask_much(&mut world, *key, 0));
    let third = connect(&mut world, [192, 0, 2, 3], "third");
    ask(&mut world, third, "lobby.third", 0);
    let other = connect(&mut world, OTHER, "other");
    ask(&mut world, other, "lobby.other", 0);
    assert_eq!(world.outputs.len(), 3);
    let call = world.outputs.remove(0);
    answer(&mut world, &call, "1");
    let is_other = |call: &Call| String::from_utf8_lossy(&call.body).contains("lobby.other");
    assert!(world.outputs.iter().any(is_other));
}

#[test]
fn a_device_that_goes_leaves_no_more_than_may_wait() {
    for orphans_max in [10, 1_000] {
        let (mut world, stats) = narrow(orphans_max);
        let mut sent = 0;
        for n in 0..3_000 {
            let key = connect(&mut world, HOG, &format!("d{n}"));
            ask_much(&mut world, key, 0);
            world.see_end(key, false);
            sent += 1;
        }
        assert_eq!(world.hub.core().connections(), 0, "nothing of clients");
        assert_eq!(paused(&world), 0);
        assert!(
            waits(&world) <= LIMIT / 2 + MESSAGE_BYTES,
            "{}",
            waits(&world)
        );
        let unread = world.hub.stats().ended_unread;
        let calls = answer_all(&mut world) as u64;
        // The last message may pass the limit: its device has nothing unread, and is paused.
        let taken = calls + stats.messages_forgotten.get();
        assert!(taken <= sent && taken + unread >= sent, "{taken}, {unread}");
        assert!(calls >= 6 && unread > 2_000, "{calls}, {unread}");
        assert_eq!(waits(&world), 0);
        assert!(world.hub.gateway().is_idle());
    }
}

#[test]
fn a_call_that_waits_for_a_slot_goes_with_its_device_if_too_many_wait() {
    let stats = Arc::<EventsStats>::default();
    let settings = EventsGatewaySettings {
        calls_max: 2,
        orphans_max: 3,
        ..settings()
    };
    let mut world = world_with(settings, Arc::clone(&stats));
    for n in 0..20 {
        let key = connect(&mut world, HOG, &format!("d{n}"));
        ask(&mut world, key, "lobby.x", n);
        world.see_end(key, false);
    }
    assert_eq!(world.outputs.len(), 1, "calls in flight");
    assert_eq!(stats.messages_forgotten.get(), 20 - 1 - 2);
    // Slots are not lost for those that have left the line.
    let late = connect(&mut world, OTHER, "late");
    ask(&mut world, late, "lobby.late", 0);
    assert_eq!(answer_all(&mut world), 1 + 2 + 1);
    assert_eq!(world.texts(late).len(), 1);
    assert!(world.hub.gateway().is_idle() && waits(&world) == 0);
}

/// However many devices of other addresses have gone, an address may leave messages.
#[test]
fn devices_that_have_gone_leave_room_for_the_messages_of_other_addresses() {
    let (mut world, stats) = with_room(5_000_000, 10_000);
    let hang = |world: &mut Events, ip: [u8; 4], count: usize| {
        for n in 0..count {
            let key = connect(world, ip, &format!("d{n}"));
            (0..60).for_each(|id| ask(world, key, "lobby.x", id));
            world.see_end(key, false);
        }
    };
    for address in 1..4 {
        hang(&mut world, [198, 51, 100, address], 190);
    }
    let forgotten = stats.messages_forgotten.get();
    assert!(forgotten > 10_000);
    let key = connect(&mut world, OTHER, "other");
    (0..5).for_each(|id| ask(&mut world, key, "lobby.other", id));
    world.see_end(key, false);
    assert_eq!(stats.messages_forgotten.get(), forgotten);
    let left = |(world, address): (&Events, u8)| {
        let holdings = world.hub.gateway().holdings();
        let orphans = holdings
            .iter()
            .find(|holding| holding.counts().name == "orphans");
        let address = std::net::IpAddr::from([198, 51, 100, address]);
        orphans.expect("it").of(address.into())
    };
    assert_eq!([1, 2, 3].map(|n| left((&world, n))), [5_000, 2_500, 1_250]);
    answer_all(&mut world);
    assert!(world.hub.gateway().is_idle());
}

#[test]
fn what_a_device_sent_before_its_end_is_read_and_forwarded() {
    let (mut world, stats) = with_room(1_000_000, 1_000);
    let key = connect(&mut world, HOG, "d");
    for id in 0..100 {
        world.text(key, &format!(r#"{{"event":"lobby.{id}"}}"#));
    }
    assert!(!world.hub.wants_read(key), "64 wait, and one is answered");
    world.see_end(key, false);
    assert_eq!(world.hub.core().connections(), 0, "read to its end");
    assert_eq!(answer_all(&mut world), 100);
    assert_eq!((stats.messages_forgotten.get(), waits(&world)), (0, 0));
}

#[test]
fn a_paused_device_that_fails_ends_at_once() {
    let (mut world, _) = with_room(1_000_000, 1_000);
    let key = connect(&mut world, HOG, "d");
    for id in 0..100 {
        world.text(key, &format!(r#"{{"event":"lobby.{id}"}}"#));
    }
    world.see_end(key, true);
    assert_eq!(world.hub.core().connections(), 0);
    assert_eq!(world.hub.stats().closes_for(CloseReason::SocketError), 1);
    assert_eq!(answer_all(&mut world), 65, "what it was read of");
}

/// The same limits hold for what is read of a device that has ended its side.
#[test]
fn a_device_that_is_read_to_its_end_may_not_leave_more_than_others() {
    for (waiting_bytes_max, orphans_max) in [(1_000_000, 140), (40_000, 1_000_000)] {
        let (mut world, _) = with_room(waiting_bytes_max, orphans_max);
        let key = connect(&mut world, HOG, "d");
        for id in 0..500 {
            let pad = "x".repeat(100);
            world.text(key, &format!(r#"{{"event":"lobby.{id}{pad}"}}"#));
        }
        world.see_end(key, false);
        assert_eq!(world.hub.core().connections(), 0);
        assert_eq!(world.hub.stats().ended_unread, 1);
        assert!(waits(&world) <= 20_000 + MESSAGE_BYTES, "{}", waits(&world));
        let calls = answer_all(&mut world);
        assert!(calls > 65 && calls <= 90, "{calls}");
    }
}

#[test]
fn a_stop_does_not_wait_for_what_stands_in_sockets() {
    let (mut world, _) = narrow(1_000);
    let keys = devices(&mut world, HOG, 40);
    keys.iter().for_each(|key| ask_much(&mut world, *key, 0));
    let unread: Vec<_> = keys
        .iter()
        .filter(|key| !world.hub.wants_read(**key))
        .copied()
        .collect();
    assert!(unread.len() > 20);
    let plan = DrainPlan {
        busy_us: 3_000_000,
        ..DrainPlan::default()
    };
    world.hub.drain(world.now, plan);
    world.settle();
    for key in &unread {
        let close = world.client(*key).close.as_ref();
        assert_eq!(close.map(|(code, _)| *code), Some(1012));
    }
    assert_eq!(paused(&world), 0);
    assert_eq!(answer_all(&mut world), keys.len() - unread.len());
    keys.iter().for_each(|key| world.end(*key, false));
    assert!(world.hub.is_drained());
}

#[test]
fn a_device_without_room_is_not_late_with_its_pong() {
    let (mut world, _) = narrow(1_000);
    let keys = devices(&mut world, HOG, 40);
    keys.iter().for_each(|key| ask_much(&mut world, *key, 0));
    for _ in 0..20 {
        world.advance(10_000_000);
        for key in &keys {
            if world.client(*key).pings > 0 {
                world.send(*key, &frame(0x8a, b""));
            }
        }
    }
    assert_eq!(world.hub.stats().open, 40);
    answer_all(&mut world);
    assert!(keys.iter().all(|key| world.texts(*key).len() == 1));
}

/// The messages of an event stream stand in its request, not in its socket.
#[test]
fn an_event_stream_waits_for_room_too() {
    let gateway = EventsGateway::new(
        EventsGatewaySettings {
            waiting_bytes_max: LIMIT,
            ..settings()
        },
        Origins::new([]),
        Arc::default(),
    );
    let limits = Limits {
        event_stream: true,
        ..Limits::default()
    };
    let mut world = World::new(limits, gateway, 1);
    for n in 0..40 {
        let key = world.accept_from(HOG.into(), usize::MAX);
        let message = format!("%7B%22event%22%3A%22lobby.{}%22%7D", "x".repeat(100));
        let request = format!(
            "GET /ws?device_id=d{n}&send={message} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
        );
        world.send(key, request.as_bytes());
    }
    assert_eq!(world.hub.stats().open_other, 40);
    assert!(
        waits(&world) <= LIMIT / 2 + MESSAGE_BYTES,
        "{}",
        waits(&world)
    );
    assert!(paused(&world) > 20);
    assert_eq!(answer_all(&mut world), 40);
    assert_eq!((waits(&world), paused(&world)), (0, 0));
}

/// Those who stay get the room of those who have gone.
#[test]
fn what_a_device_left_makes_room_when_another_address_needs_it() {
    let (mut world, stats) = narrow(1_000);
    let gone = connect(&mut world, HOG, "gone");
    let stays = connect(&mut world, HOG, "stays");
    (0..7).for_each(|id| ask_much(&mut world, gone, id));
    let others: Vec<_> = (10..13)
        .map(|n| {
            let key = connect(&mut world, [192, 0, 2, n], "other");
            (0..3).for_each(|id| ask_much(&mut world, key, id));
            key
        })
        .collect();
    world.end(gone, false);
    assert!(
        stats.messages_forgotten.get() >= 3,
        "{}",
        stats.messages_forgotten.get()
    );
    ask_much(&mut world, others[0], 9);
    ask_much(&mut world, stays, 0);
    let forwarded = 7 - stats.messages_forgotten.get() as usize;
    assert_eq!(answer_all(&mut world), forwarded + 3 * 3 + 2);
}
