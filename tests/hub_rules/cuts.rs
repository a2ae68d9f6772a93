//! Clients that an operator cuts off.

use super::symbols;
use crate::world::World;
use crate::world::toys::Numbered;
use std::net::IpAddr;
use std::sync::mpsc;
use weirgate_core::{CloseReason, Cut, CutRequest, DrainPlan, Limits, PhaseKind, Whom};

#[test]
fn a_cut_takes_its_turns_and_nobody_of_it_comes_in_meanwhile() {
    let limits = Limits {
        // Eight clients in a turn.
        work_us: 8,
        ..Limits::default()
    };
    let revoked = limits.revoked.clone();
    let mut world = World::new(limits, Numbered::default(), 1);
    let [theirs, other] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
    let connect = |world: &mut World<Numbered>, ip| world.connect_from(ip, "/ws", None);
    let keys: Vec<_> = (0..100)
        .map(|n| connect(&mut world, if n % 2 == 0 { theirs } else { other }))
        .collect();
    let cut = Cut::read(br#"{"address": "192.0.2.1"}"#).expect("a cut");
    revoked.add(&cut, world.now.unix_ms()).expect("room");
    let (tell, told) = mpsc::channel();
    let request = CutRequest {
        whom: Whom::Chosen(cut),
        tell: Box::new(move |done| tell.send(done).expect("the test waits")),
    };
    world.hub.begin_part(8);
    world.hub.cut(world.now, request);
    let is_open =
        |world: &World<Numbered>, key| world.hub.core().phase(key) == Some(PhaseKind::Open);
    let left = keys.iter().filter(|key| is_open(&world, **key)).count();
    assert!((90..100).contains(&left), "{left} are open after a turn");
    assert!(told.try_recv().is_err(), "the walk goes on");
    assert_eq!(world.hub.poll_timeout(), Some(0));
    // Behind the walk and before it alike.
    let late = connect(&mut world, theirs);
    assert!(!is_open(&world, late));
    world.settle();
    while told
        .try_recv()
        .map(|done| assert_eq!(done.clients, 50))
        .is_err()
    {
        world.advance(1);
    }
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(is_open(&world, *key), n % 2 == 1, "client {n}");
    }
    let close = (1008, "revoked".to_owned());
    assert_eq!(world.client(keys[0]).close, Some(close.clone()));
    assert_eq!(world.client(late).close, Some(close));
    let stats = world.hub.stats();
    assert_eq!(stats.closes_for(CloseReason::Revoked), 51);
}

/// Some of the clients of a process that has too many go to others, spread over a time, and are not refused.
#[test]
fn so_many_clients_are_moved_over_a_time_and_may_come_back() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let ip = IpAddr::from([192, 0, 2, 1]);
    let keys: Vec<_> = (0..100)
        .map(|_| world.connect_from(ip, "/ws", None))
        .collect();
    let (tell, told) = mpsc::channel();
    let request = CutRequest {
        whom: Whom::Any {
            clients: 30,
            spread_us: 10_000_000,
        },
        tell: Box::new(move |done| tell.send(done).expect("the test waits")),
    };
    world.hub.cut(world.now, request);
    assert_eq!(told.try_recv().map(|done| done.clients), Ok(30));
    let open = |world: &World<Numbered>| {
        let is_open = |key| world.hub.core().phase(key) == Some(PhaseKind::Open);
        keys.iter().filter(|key| is_open(**key)).count()
    };
    world.advance(5_000_000);
    let half_way = open(&world);
    assert!(
        (75..95).contains(&half_way),
        "{half_way} after half of the time"
    );
    world.advance(6_000_000);
    assert_eq!(open(&world), 70);
    let stats = world.hub.stats();
    assert_eq!(stats.closes_for(CloseReason::Moved), 30);
    let back = world.connect_from(ip, "/ws", None);
    assert_eq!(world.hub.core().phase(back), Some(PhaseKind::Open));
}

/// Moves as many, at once or over a time, and returns how many were chosen.
fn moved(world: &mut World<Numbered>, clients: u64, spread_us: u64) -> u64 {
    let (tell, told) = mpsc::channel();
    let request = CutRequest {
        whom: Whom::Any { clients, spread_us },
        tell: Box::new(move |done| tell.send(done.clients).expect("the test waits")),
    };
    world.hub.cut(world.now, request);
    told.try_recv().expect("there is time for all")
}

#[test]
fn a_move_chooses_no_client_that_leaves_anyway() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let ip = IpAddr::from([192, 0, 2, 1]);
    for _ in 0..100 {
        world.connect_from(ip, "/ws", None);
    }
    let asked = [(40, 10_000_000), (30, 1_000_000), (20, 0), (50, 5_000_000)];
    let chosen = asked.map(|(clients, spread_us)| moved(&mut world, clients, spread_us));
    assert_eq!(chosen, [40, 30, 20, 10]);
    world.advance(10_100_000);
    assert_eq!(world.hub.stats().closes_for(CloseReason::Moved), 100);
}

fn cut_all<G: weirgate_core::Gateway<Out: crate::world::Output>>(world: &mut World<G>) {
    let request = CutRequest {
        whom: Whom::Chosen(Cut::read(br#"{"address": "127.0.0.1"}"#).expect("a cut")),
        tell: Box::new(|done| assert_eq!(done.clients, 1)),
    };
    world.hub.cut(world.now, request);
}

/// Neither what was queued in the same turn, nor what an earlier close waits for.
#[test]
fn nothing_that_waits_goes_out_after_a_cut() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, usize::MAX);
    world.held = true;
    world.publish(1_000);
    cut_all(&mut world);
    world.held = false;
    world.settle();
    assert!(world.texts(key).is_empty());
    assert_eq!(world.client(key).close, Some((1008, "revoked".to_owned())));
    assert_eq!(world.hub.stats().messages_dropped, 1);

    let mut world = symbols(Limits::default());
    let key = world.reader(None, 7);
    let begun = world.publish(1_000);
    world.publish(2_000);
    world.hub.drain(world.now, DrainPlan::default());
    world.settle();
    assert_eq!(
        world.reason(key),
        None,
        "the stop waits for the client to read"
    );
    cut_all(&mut world);
    world.settle();
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), [begun]);
    assert_eq!(world.client(key).close, Some((1008, "revoked".to_owned())));
    assert_eq!(world.reason(key), Some(CloseReason::Revoked));
}
