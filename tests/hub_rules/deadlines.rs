//! Pings, pongs, stalls, handshakes: what is due when, and not before.

use std::collections::VecDeque;
use std::convert::Infallible;

use weirgate_core::{
    Accepted, Admission, ByClient, CloseReason, Core, DrainPlan, Gateway, Limits, SessionKey,
    SocketEnd,
};
use weirgate_wire::RequestHead;

use super::{SECOND, small_queue, state, symbols};
use crate::world::World;
use crate::world::client::{frame, request};
use crate::world::toys::{Devices, In, Numbered};

pub(super) fn pinged() -> Limits {
    Limits {
        ping_interval_us: 20 * SECOND,
        pong_timeout_us: 5 * SECOND,
        ..Limits::default()
    }
}

#[test]
fn first_pings_are_spread_over_half_an_interval() {
    let mut world = symbols(pinged());
    let keys: Vec<_> = (0..200).map(|_| world.reader(None, usize::MAX)).collect();
    let pinged = |world: &World<_>| {
        let pinged = |key: &&_| world.client(**key).pings > 0;
        keys.iter().filter(pinged).count()
    };
    world.advance(10 * SECOND - 1);
    assert_eq!(pinged(&world), 0);
    let mut last = 0;
    for tenth in 1..=10 {
        world.advance(SECOND);
        let now = pinged(&world);
        assert!(
            (5..40).contains(&(now - last)),
            "{} in second {tenth}",
            now - last
        );
        last = now;
    }
    world.advance(1);
    assert_eq!(pinged(&world), 200);
}

#[test]
fn pings_that_a_long_turn_delayed_are_spread_again() {
    let mut world = symbols(Limits {
        pong_timeout_us: 600 * SECOND,
        ..pinged()
    });
    let keys: Vec<_> = (0..200).map(|_| world.reader(None, usize::MAX)).collect();
    // A turn in which all first pings are late, and one that misses several.
    world.advance(20 * SECOND);
    for key in &keys {
        world.send(*key, &frame(0x8a, b""));
    }
    world.advance(70 * SECOND);
    for key in &keys {
        world.send(*key, &frame(0x8a, b""));
    }
    let pings =
        |world: &World<_>| -> usize { keys.iter().map(|key| world.client(*key).pings).sum() };
    assert_eq!(pings(&world), 2 * 200, "one for those that were missed");
    let mut last = pings(&world);
    for tenth in 1..=10 {
        world.advance(2 * SECOND);
        let now = pings(&world);
        assert!(now - last < 60, "{} in tenth {tenth}", now - last);
        last = now;
    }
    assert_eq!(last, 3 * 200);
}

#[test]
fn very_many_clients_get_2500_pings_a_second() {
    const CLIENTS: usize = 1_000;
    const TENTH: u64 = SECOND / 10;
    let mut world = symbols(Limits {
        ping_interval_us: TENTH,
        pong_timeout_us: 600 * SECOND,
        ..Limits::default()
    });
    let keys: Vec<_> = (0..CLIENTS)
        .map(|_| world.reader(None, usize::MAX))
        .collect();
    let pings =
        |world: &World<_>| -> usize { keys.iter().map(|key| world.client(*key).pings).sum() };
    let answer = |world: &mut World<_>| {
        for key in &keys {
            world.send(*key, &frame(0x8a, b""));
        }
    };
    world.advance(TENTH);
    assert_eq!(pings(&world), CLIENTS, "the first as they open");
    answer(&mut world);
    world.advance(2 * TENTH);
    assert_eq!(pings(&world), CLIENTS, "the next are due after 400 ms");
    world.advance(2 * TENTH);
    assert_eq!(pings(&world), 2 * CLIENTS);
    for key in &keys[100..] {
        world.send(*key, &frame(0x88, b""));
    }
    for _ in 0..6 {
        answer(&mut world);
        world.advance(TENTH);
    }
    let last: usize = keys[..100].iter().map(|key| world.client(*key).pings).sum();
    assert!(last >= 4 * 100, "{last} pings of the hundred that are left");
}

#[test]
fn a_client_without_a_pong_is_closed_when_its_time_is_over() {
    let mut world = symbols(pinged());
    let key = world.reader(None, usize::MAX);
    while world.client(key).pings == 0 {
        world.advance(SECOND / 10);
    }
    world.advance(5 * SECOND - 1);
    assert_eq!(world.reason(key), None);
    world.advance(1);
    assert_eq!(world.reason(key), Some(CloseReason::PongTimeout));
    let close = world.client(key).close.clone();
    assert_eq!(close, Some((1011, "keepalive ping timeout".to_owned())));
}

#[test]
fn a_missing_pong_is_due_once_though_data_waits_in_the_same_turn() {
    let mut world = symbols(pinged());
    let key = world.reader(None, usize::MAX);
    while world.client(key).pings == 0 {
        world.advance(SECOND / 10);
    }
    // The turn at which the pong is due: messages are queued, then time is looked at, then all
    // is flushed.
    world.now = world.now.plus_us(5 * SECOND);
    let message = In::Publish("A".to_owned(), "last".to_owned());
    world.hub.handle_input(world.now, message);
    world.hub.handle_timeout(world.now);
    world.settle();
    assert_eq!(world.texts(key), ["last"]);
    assert_eq!(world.reason(key), Some(CloseReason::PongTimeout));
}

#[test]
fn deadlines_of_many_clients_take_turns() {
    let mut world = symbols(Limits {
        work_us: 10,
        ..pinged()
    });
    let keys: Vec<_> = (0..40).map(|_| world.reader(None, usize::MAX)).collect();
    // All first pings are late.
    world.now = world.now.plus_us(20 * SECOND);
    world.held = true;
    for turns in 1..=3 {
        world.advance(0);
        world.flush();
        let pinged = keys.iter().filter(|key| world.client(**key).pings > 0);
        let pinged = pinged.count();
        assert!(pinged <= 12 * turns && pinged > 0, "{pinged}");
        assert!(world.hub.poll_timeout() <= Some(world.now.mono_us));
    }
    for _ in 0..4 {
        world.advance(0);
    }
    world.held = false;
    world.settle();
    assert!(keys.iter().all(|key| world.client(*key).pings == 1));
}

#[test]
fn a_pong_in_time_keeps_the_client_for_ever() {
    let mut world = symbols(pinged());
    let key = world.reader(None, usize::MAX);
    let mut pings = 0;
    for _ in 0..400 {
        world.advance(SECOND);
        if world.client(key).pings > pings {
            pings = world.client(key).pings;
            world.advance(4 * SECOND);
            world.send(key, &frame(0x8a, b""));
        }
    }
    assert!((15..=40).contains(&pings), "{pings}");
    assert_eq!(world.reason(key), None);
}

#[test]
fn the_pong_clock_starts_when_the_ping_has_left() {
    let mut world = symbols(pinged());
    let key = world.reader(None, 1);
    world.publish(1_000);
    world.advance(29 * SECOND);
    assert_eq!(
        world.reason(key),
        None,
        "its ping stands behind a frame that was begun"
    );
    world.open_window(key, 1_000);
    world.advance(4 * SECOND);
    assert_eq!(world.reason(key), None, "half the ping is out");
    world.open_window(key, 1);
    assert_eq!(world.client(key).pings, 1);
    world.advance(5 * SECOND - 1);
    assert_eq!(world.reason(key), None);
    world.advance(1);
    assert_eq!(world.reason(key), Some(CloseReason::PongTimeout));
}

#[test]
fn who_is_not_read_is_not_late_with_a_pong() {
    let mut world = World::new(pinged(), Devices::default(), 1);
    let key = world.connect("/ws", None);
    world.text(key, "device d");
    (0..20).for_each(|n| world.text(key, &format!("q{n}")));
    assert!(!world.hub.wants_read(key));
    while world.client(key).pings == 0 {
        world.advance(SECOND);
    }
    world.send(key, &frame(0x8a, b""));
    world.advance(30 * SECOND);
    assert_eq!(world.hub.gateway().closed, []);
}

/// Its pong stands behind what is read first when reading goes on.
#[test]
fn who_was_not_read_has_time_for_its_pong() {
    let mut world = World::new(pinged(), Devices::default(), 1);
    let key = world.connect("/ws", None);
    world.text(key, "device d");
    (0..20).for_each(|n| world.text(key, &format!("q{n}")));
    while world.client(key).pings == 0 {
        world.advance(SECOND);
    }
    world.advance(5 * SECOND - 1);
    while !world.hub.wants_read(key) {
        let call = world.outputs.calls.pop().expect("one call");
        world.hub.handle_input(world.now, call.echo());
        while let Some(output) = world.hub.poll_output() {
            crate::world::Output::keep(output, &mut world.outputs);
        }
    }
    // The deadline comes before the socket has been read.
    world.now = world.now.plus_us(5 * SECOND - 1);
    world.hub.handle_timeout(world.now);
    world.send(key, &frame(0x8a, b""));
    assert_eq!(world.hub.gateway().closed, []);
    world.advance(5 * SECOND);
    assert_eq!(world.hub.gateway().closed, []);
}

#[test]
fn a_stall_is_counted_from_the_last_byte() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 10);
    world.publish(900);
    for _ in 0..20 {
        world.advance(29 * SECOND);
        world.open_window(key, 1);
    }
    assert_eq!(world.reason(key), None, "slow, but alive");
    world.advance(30 * SECOND - 1);
    assert_eq!(world.reason(key), None);
    world.advance(1);
    assert_eq!(world.reason(key), Some(CloseReason::SendStalled));
}

#[test]
fn an_idle_client_is_not_stalled_when_its_next_message_waits() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 0);
    world.advance(100 * SECOND);
    world.publish(100);
    world.advance(29 * SECOND);
    assert_eq!(world.reason(key), None);
    world.advance(SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::SendStalled));
}

#[test]
fn conflation_is_no_progress() {
    let mut world = state(small_queue());
    let key = world.viewer(0);
    for n in 0..29 {
        world.publish("levels/1", &format!("{n}{}", "x".repeat(2_000)));
        world.advance(SECOND);
    }
    assert_eq!(world.reason(key), None);
    world.advance(SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::SendStalled));
}

#[test]
fn a_head_has_its_time_whatever_dribbles_in() {
    let mut world = symbols(Limits::default());
    let key = world.accept(usize::MAX);
    for byte in request("/ws", None).iter().take(99) {
        world.send(key, &[*byte]);
        world.advance(SECOND / 10);
    }
    assert_eq!(world.client(key).status(), None);
    world.advance(SECOND / 10);
    assert_eq!(world.client(key).status(), Some(408));
    assert_eq!(
        world.hub.stats().closes_for(CloseReason::HandshakeTimeout),
        1
    );
    world.advance(5 * SECOND);
    assert_eq!(world.net.sockets[&key].released, Some(SocketEnd::Close));
}

/// The loop was too late to read, not the client to send.
#[test]
fn a_head_that_waits_unread_at_its_deadline_is_served() {
    let mut world = symbols(Limits::default());
    let (whole, part) = (world.accept(usize::MAX), world.accept(usize::MAX));
    let request = request("/ws", None);
    for (key, bytes) in [(whole, &request[..]), (part, &request[..20])] {
        let socket = world.net.sockets.get_mut(&key).expect("a socket");
        socket.unread.extend(bytes);
    }
    world.advance(11 * SECOND);
    assert_eq!(world.client(whole).status(), Some(101));
    assert_eq!(world.client(part).status(), Some(408));
    world.hub.check_invariants();
}

#[test]
fn a_soft_limit_is_not_due_for_a_client_that_closes() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 5);
    for bytes in [10, 1_200, 10] {
        world.publish(bytes);
    }
    world.advance(9 * SECOND);
    world.send(key, &frame(0x88, b""));
    world.advance(2 * SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::PeerClosed));
    world.advance(3 * SECOND);
    assert_eq!(world.net.sockets[&key].released, Some(SocketEnd::Reset));
}

#[test]
fn a_stop_waits_for_answers_that_are_owed_and_not_for_ever() {
    let mut world = World::new(Limits::default(), Devices::default(), 1);
    let [idle, asks, hangs] = ["i", "a", "h"].map(|text| {
        let key = world.connect("/ws", None);
        world.text(key, "device d");
        if text != "i" {
            world.text(key, text);
        }
        key
    });
    let plan = DrainPlan {
        busy_us: 4 * SECOND,
        ..DrainPlan::default()
    };
    world.hub.drain(world.now, plan);
    world.settle();
    let closes = |world: &World<Devices>| {
        [idle, asks, hangs].map(|key| world.client(key).close.as_ref().map(|(code, _)| *code))
    };
    assert_eq!(closes(&world), [Some(1012), None, None]);
    assert!(!world.hub.wants_read(asks), "nothing is taken on any more");
    let call = world.outputs.calls.remove(0);
    world.hub.handle_input(world.now, call.time_out());
    world.advance(SECOND);
    assert_eq!(world.texts(asks), ["Timeout"]);
    assert_eq!(closes(&world), [Some(1012), Some(1012), None]);
    world.advance(3 * SECOND - 1);
    assert_eq!(closes(&world)[2], None);
    world.advance(1);
    assert_eq!(closes(&world)[2], Some(1012));
    for key in [idle, asks, hangs] {
        world.end(key, false);
    }
    assert!(!world.hub.is_drained(), "what was asked has no answer yet");
    let call = world.outputs.calls.remove(0);
    world.hub.handle_input(world.now, call.echo());
    assert!(world.hub.is_drained());
}

#[test]
fn a_gateways_deadline_is_over_once_the_client_closes_gracefully() {
    let limits = Limits {
        close_timeout_us: 60 * SECOND,
        ..small_queue()
    };
    let mut world = World::new(limits, Devices::default(), 1);
    let key = world.connect("/ws", None);
    world.net.sockets.get_mut(&key).expect("it").room = 0;
    world.text(key, "q1");
    let call = world.outputs.calls.pop().expect("a call");
    world.hub.handle_input(world.now, call.time_out());
    world.hub.drain(world.now, DrainPlan::default());
    world.settle();
    // "Identify first" was due after ten seconds.
    world.advance(20 * SECOND);
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), ["Timeout"]);
    assert_eq!(world.client(key).close, Some((1012, String::new())));
}

#[test]
fn a_stop_does_not_shorten_a_graceful_close() {
    let limits = Limits {
        close_timeout_us: 60 * SECOND,
        ..small_queue()
    };
    let mut world = World::new(limits, Numbered::default(), 1);
    let key = world.connect("/ws", None);
    world.net.sockets.get_mut(&key).expect("it").room = 0;
    world.text(key, "bye now");
    let plan = DrainPlan {
        delay_us: 0,
        spread_us: SECOND,
        ..DrainPlan::default()
    };
    world.hub.drain(world.now, plan);
    world.advance(2 * SECOND);
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key).len(), 2, "hello, bye");
    assert_eq!(world.client(key).close, Some((1000, String::new())));
}

#[test]
fn a_client_has_one_deadline_whichever_way_it_moves() {
    let mut world = symbols(Limits {
        ping_interval_us: 3_600 * SECOND,
        ..Limits::default()
    });
    let key = world.connect("/ws", None);
    for pings in 1..20 {
        while world.client(key).pings < pings {
            world.advance(100 * SECOND);
        }
        world.send(key, &frame(0x8a, b""));
        assert_eq!(world.hub.core().deadline_entries(), 1, "{pings} pings");
    }
}

#[test]
fn the_deadline_of_a_client_that_has_ended_is_gone() {
    let limits = Limits {
        ping_interval_us: 3_600 * SECOND,
        ..Limits::default()
    };
    let mut world = World::new(limits, Numbered::default(), 1);
    let stays = world.connect("/ws", None);
    for _ in 0..30 {
        let key = world.connect("/ws", None);
        world.end(key, false);
        world.net.sockets.remove(&key);
        // So fast that none of these deadlines is over meanwhile.
        world.advance(SECOND / 1_000);
        assert_eq!(world.hub.core().deadline_entries(), 1);
    }
    world.advance(3_600 * SECOND);
    assert_eq!(world.client(stays).pings, 1);
}

/// A gateway with work of its own at these moments.
#[derive(Default)]
struct Ticks {
    due: VecDeque<u64>,
    called: Vec<u64>,
}

impl Gateway for Ticks {
    type Client = ();
    type In = Infallible;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn poll_timeout(&self) -> Option<u64> {
        self.due.front().copied()
    }

    fn handle_timeout(&mut self, core: &mut Core, _: &mut ByClient<()>) {
        self.called.push(core.now().mono_us);
        self.due.pop_front();
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }
}

#[test]
fn a_gateway_is_called_at_its_own_moments_and_at_no_other() {
    let mut gateway = Ticks::default();
    gateway.due.extend([3 * SECOND, 7 * SECOND]);
    let mut world = World::new(Limits::default(), gateway, 1);
    assert_eq!(world.hub.poll_timeout(), Some(3 * SECOND));
    world.advance(2 * SECOND - 1);
    assert!(world.hub.gateway().called.is_empty());
    world.advance(1);
    assert_eq!(world.hub.gateway().called, [3 * SECOND]);
    assert_eq!(world.hub.poll_timeout(), Some(7 * SECOND));
    world.advance(9 * SECOND);
    assert_eq!(world.hub.gateway().called, [3 * SECOND, 12 * SECOND]);
    assert_eq!(world.hub.poll_timeout(), None, "nothing wakes the loop");
    world.advance(9 * SECOND);
    assert_eq!(world.hub.gateway().called.len(), 2);
}
