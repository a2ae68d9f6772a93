//! Budgets of a turn and the backlog, with values so small that every turn meets them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use weirgate_server::run::CommonSettings;

use crate::world::client::frame;
use crate::{Client, Everybody, NAP, Publishes, Refuses, Toy, WORK, port, start_toy};

#[test]
fn a_full_backlog_is_served_once_there_is_time() {
    let mut common = CommonSettings::default();
    common.reactor.listen.options.backlog = 1;
    let (listening, _burst) = start_toy(common, Refuses::default(), Toy);
    let mut sleeper = Client::connect(port(&listening));
    sleeper.send("nap");
    let addr = port(&listening).into();
    let sockets: Vec<Socket> = (0..8)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            // In progress, and not refused.
            let _ = socket.connect(&addr);
            socket
        })
        .collect();
    thread::sleep(NAP / 4);
    let are_connected = || sockets.iter().filter(|one| one.peer_addr().is_ok()).count();
    assert!(are_connected() < sockets.len(), "more than the backlog");
    let until = Instant::now() + Duration::from_secs(20);
    while are_connected() < sockets.len() {
        assert!(Instant::now() < until, "{} of 8", are_connected());
        thread::sleep(WORK);
    }
    for socket in sockets {
        socket.set_nonblocking(false).expect("a socket");
        Client::begin(TcpStream::from(socket)).round_trip();
    }
}

/// What the flooder sends while the loop sleeps lies in the kernel, so that only the budget cuts it into turns.
fn turns_of_a_flood(change: impl FnOnce(&mut CommonSettings)) -> u64 {
    const MESSAGES: usize = 1_000;
    let mut common = CommonSettings::default();
    change(&mut common);
    let (listening, _burst) = start_toy(common, Refuses::default(), Toy);
    let (mut flooder, mut other) = (
        Client::connect(port(&listening)),
        Client::connect(port(&listening)),
    );
    let durations = &listening.telemetry.event_loop.durations;
    let turns = || durations.turns.counts().count();
    // On a busy machine the loop may wake up before all is sent.
    let before = turns();
    flooder.send("nap");
    let text = frame(0x81, &[b'x'; 100]).repeat(MESSAGES);
    flooder.0.write_all(&text).expect("sent");
    other.round_trip();
    let mut echoes = 0;
    while echoes < MESSAGES {
        echoes += usize::from(flooder.text().len() == 100);
    }
    other.round_trip();
    turns() - before
}

#[test]
fn a_client_that_floods_has_its_share_of_messages_and_no_more() {
    let turns = turns_of_a_flood(|common| common.limits.share_us = 0);
    assert!(turns >= 1_000, "{turns}");
}

#[test]
fn a_client_that_floods_has_its_share_of_reads_and_no_more() {
    let turns = turns_of_a_flood(|common| common.reactor.budgets.read_bytes_max = 1_024);
    assert!(turns >= 100, "{turns}");
}

#[test]
fn small_budgets_lose_nothing() {
    const CLIENTS: usize = 20;
    const MESSAGES: usize = 8;
    const FRAME_BYTES: usize = 64 * 1024 + 10;
    let mut common = CommonSettings::default();
    common.reactor.budgets.read_us = 0;
    common.reactor.budgets.inputs_us = 0;
    common.reactor.budgets.bus_us = 0;
    common.reactor.budgets.effects_us = 0;
    common.limits.share_us = 0;
    common.limits.work_us = 0;
    common.reactor.budgets.read_bytes_max = 1_024;
    common.reactor.budgets.publication_bytes_max = 1_024;
    common.limits.write_bytes_max = 1_024;
    common.bus_queue_messages_max = 1;
    let toy = Everybody(Arc::default());
    let (listening, burst) = start_toy(common, Publishes::default(), toy);
    let addr = port(&listening);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(addr)).collect();
    burst.send(MESSAGES).expect("it runs");
    let mut bytes = vec![0; MESSAGES * FRAME_BYTES];
    for client in &mut clients {
        client.0.read_exact(&mut bytes).expect("all messages");
    }
    // The numbers are those at the end of a turn.
    let all = (CLIENTS * MESSAGES) as u64;
    let numbers = || listening.telemetry.event_loop.numbers().hub;
    while numbers().messages_sent < all {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((numbers().open, numbers().messages_sent), (20, all));
}
