//! How many connections there are, and what they take together: who is refused, for which limit, and who ends for whom.

use weirgate_core::{CloseReason, Limits, Secured, SessionKey};
use weirgate_wire::admission::{ConnectionPermit, Rest, RestKind, Transport, TrustedProxies};

use super::symbols;
use crate::world::World;
use crate::world::client::{frame, request, request_with};
use crate::world::toys::Symbols;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Connections may take so much memory.
fn world(connection_bytes_max: u64) -> World<Symbols> {
    let mut world = symbols(Limits {
        connection_bytes_max,
        trusted_proxies: TrustedProxies::Networks(vec!["10.0.0.0/8".parse().expect("a network")]),
        ..Limits::default()
    });
    world.handed_over = Some(Vec::new());
    world
}

impl World<Symbols> {
    fn held(&self) -> u64 {
        self.hub.core().connections_held().held()
    }

    /// The status of a client that comes from `ip` with this request.
    fn ask(&mut self, ip: &str, request: &[u8]) -> (SessionKey, Option<u16>) {
        let key = self.accept_from(ip.parse().expect("an address"), usize::MAX);
        if self.client(key).status().is_none() {
            self.send(key, request);
        }
        (key, self.client(key).status())
    }

    fn ws(&mut self, ip: &str) -> Option<u16> {
        self.ask(ip, &request("/ws", None)).1
    }

    /// The permit of a connection that serves HTTP now.
    fn http(&mut self, ip: &str) -> Option<ConnectionPermit> {
        self.ask(ip, GET);
        self.handed_over.as_mut().expect("kept").pop()
    }

    fn count_of(&self, reason: CloseReason) -> u64 {
        self.hub.stats().closes_for(reason)
    }
}

fn rest(permit: &ConnectionPermit) {
    permit.held().rest(Rest {
        kind: RestKind::Idle,
        since_us: 0,
    });
}

#[test]
fn a_connection_counts_with_what_it_takes_until_it_ends() {
    let mut world = world(1 << 30);
    let (key, _) = world.ask("192.0.2.1", &request("/ws", None));
    assert_eq!(world.held(), ConnectionPermit::LOOP_BYTES);
    let permit = world.http("192.0.2.1").expect("handed over");
    assert_eq!(
        world.held(),
        ConnectionPermit::LOOP_BYTES + ConnectionPermit::HTTP_BYTES
    );
    let back = world.come_back(permit, usize::MAX);
    assert_eq!(world.held(), 2 * ConnectionPermit::LOOP_BYTES);
    let peer = std::net::SocketAddr::from(([192, 0, 2, 2], 1));
    let tls = world.hub.handle_accepted(world.now, peer, Transport::Tls);
    assert_eq!(
        world.held(),
        3 * ConnectionPermit::LOOP_BYTES + ConnectionPermit::TLS_BYTES
    );
    let secured = Secured {
        version: "1.3",
        user: None,
        certificate_bytes: 29_000,
    };
    world.hub.handle_secured(world.now, tls, secured);
    assert_eq!(
        world.held(),
        3 * ConnectionPermit::LOOP_BYTES + ConnectionPermit::TLS_BYTES + 29_000
    );
    world.socket(tls, usize::MAX);
    world.end(tls, true);
    assert_eq!(world.held(), 2 * ConnectionPermit::LOOP_BYTES);
    world.end(key, false);
    world.end(back, false);
    assert_eq!((world.held(), world.hub.core().connections()), (0, 0));
}

#[test]
fn connections_are_refused_over_their_memory_and_an_address_has_a_share() {
    let mut world = world(10 * ConnectionPermit::LOOP_BYTES);
    for _ in 0..5 {
        assert_eq!(world.ws("192.0.2.1"), Some(101));
    }
    assert_eq!(world.ws("192.0.2.1"), Some(503), "half");
    assert_eq!(world.count_of(CloseReason::ConnectionMemory), 1);
    // The refused one takes no room of others.
    for ip in [
        "192.0.2.2",
        "192.0.2.2",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.4",
    ] {
        assert_eq!(world.ws(ip), Some(101));
    }
    assert_eq!(world.ws("192.0.2.5"), Some(503), "all");
    assert_eq!(world.count_of(CloseReason::ConnectionMemory), 2);
    assert_eq!(world.hub.core().connections_held().counts().refused, 2);
}

#[test]
fn refusals_have_room_for_some_and_the_others_are_closed() {
    let mut world = world(ConnectionPermit::LOOP_BYTES);
    let (first, status) = world.ask("192.0.2.1", &request("/ws", None));
    assert_eq!(status, Some(101));
    let refused: Vec<_> = (0..10)
        .map(|_| world.ask("192.0.2.2", &request("/ws", None)))
        .collect();
    let with_response = refused.iter().filter(|(_, status)| status.is_some());
    assert_eq!(with_response.count(), 8, "half of the room for refusals");
    assert_eq!(world.count_of(CloseReason::ConnectionMemory), 10);
    assert_eq!(world.hub.core().connections(), 9);
    world.end(first, false);
    assert_eq!(world.ws("192.0.2.2"), Some(101), "they take no room");
}

#[test]
fn a_proxy_has_no_share_and_its_clients_have() {
    let mut world = world(10 * ConnectionPermit::LOOP_BYTES);
    let behind = |client: u8| {
        let line = format!("\r\nX-Forwarded-For: 192.0.2.{client}\r\n\r\n");
        let request = String::from_utf8(request("/ws", None)).expect("text");
        request.replace("\r\n\r\n", &line).into_bytes()
    };
    let statuses: Vec<_> = [1, 1, 1, 1, 1, 1, 2]
        .map(|client| world.ask("10.0.0.1", &behind(client)).1)
        .into();
    let expected = [101, 101, 101, 101, 101, 503, 101].map(Some);
    assert_eq!(statuses, expected);
    let waiting = world.accept_from("10.0.0.1".parse().expect("an address"), usize::MAX);
    assert_eq!(world.client(waiting).status(), None, "no head yet");
}

#[test]
fn plain_http_without_a_request_ends_for_a_new_connection() {
    let mut world = world(4 * ConnectionPermit::HTTP_BYTES);
    let first = world.http("192.0.2.1").expect("handed over");
    let busy = world.http("192.0.2.2").expect("handed over");
    let last = world.http("192.0.2.3").expect("handed over");
    rest(&last);
    let more = world.http("192.0.2.4").expect("room for four");
    let is_evicted = [&first, &busy, &last, &more].map(|permit| permit.held().is_evicted());
    assert_eq!(is_evicted, [false, false, true, false], "before it is full");
    // It has not ended, and a part of the limit is for what ends.
    let fifth = world.http("192.0.2.5").expect("a place of what ends");
    assert!(world.http("192.0.2.6").is_none(), "that is used up");
    drop((last, fifth));
    rest(&first);
    rest(&more);
    let _own = world.http("192.0.2.1").expect("its own one ends");
    assert!(first.held().is_evicted() && !more.held().is_evicted());
    assert_eq!(world.count_of(CloseReason::ConnectionMemory), 1);
}

#[test]
fn the_refusal_names_the_limit_that_counts() {
    for (reason, detail) in [
        (CloseReason::ConnectionLimit, "Too many connections"),
        (
            CloseReason::OpenFiles,
            "Too many connections for the limit on open files",
        ),
        (
            CloseReason::ConnectionMemory,
            "Too many connections for their memory",
        ),
    ] {
        let mut world = symbols(Limits {
            connections_max: 1,
            connections_max_is: reason,
            ..Limits::default()
        });
        world.connect("/ws", None);
        let refused = world.accept(usize::MAX);
        assert_eq!(world.client(refused).status(), None, "it may be a probe");
        world.send(refused, &request("/ws", None));
        assert_eq!(world.client(refused).status(), Some(503));
        let socket = world.net.sockets.get_mut(&refused).expect("a socket");
        let answer = socket.client.take_rest();
        assert!(
            answer.contains(&format!("{{\"detail\":\"{detail}\"}}")),
            "{answer}"
        );
        assert_eq!(world.count_of(reason), 1, "{reason:?}");
    }
}

#[test]
fn pongs_that_a_client_does_not_take_count_with_its_input() {
    let mut world = symbols(Limits {
        ping_interval_us: 0,
        ..Limits::default()
    });
    let key = world.reader(None, 0);
    let received = |world: &World<Symbols>| world.hub.core().received().held();
    world.send(key, &frame(0x89, &[b'x'; 125]));
    assert_eq!(received(&world), 0, "a little counts with the connection");
    for _ in 0..9 {
        world.send(key, &frame(0x89, &[b'x'; 125]));
    }
    assert!(
        (1_270..2_100).contains(&received(&world)),
        "{}",
        received(&world)
    );
    world.open_window(key, usize::MAX);
    assert_eq!(received(&world), 0, "they are out");
    let compressed = world.accept(usize::MAX);
    world.send(compressed, &request_with("/ws", Some("permessage-deflate")));
    assert_eq!(received(&world), 0);
}

#[test]
fn a_probe_is_answered_without_room() {
    let mut world = symbols(Limits {
        connections_max: 1,
        ..Limits::default()
    });
    world.connect("/ws", None);
    for path in ["/health", "/healthz", "/ready"] {
        let probe = world.accept(usize::MAX);
        let served = world.hub.stats().to_http;
        world.send(
            probe,
            format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
        );
        assert_eq!(world.hub.stats().to_http, served + 1, "{path}");
    }
    for head in ["GET /stats HTTP/1.1", "POST /health HTTP/1.1"] {
        let other = world.accept(usize::MAX);
        world.send(other, format!("{head}\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(world.client(other).status(), Some(503), "{head}");
    }
    let clients = world.accept(usize::MAX);
    world.send(clients, &request("/health", None));
    assert_eq!(
        world.client(clients).status(),
        Some(503),
        "a WebSocket is no probe"
    );
    assert_eq!(world.count_of(CloseReason::ConnectionLimit), 3);
}

#[test]
fn probes_without_room_stay_within_the_memory_of_refusals() {
    let mut world = world(100 * ConnectionPermit::HTTP_BYTES);
    while world.ws("10.0.0.1") == Some(101) {}
    world.last_requests = Some(Vec::new());
    let refused_max = 100 * ConnectionPermit::HTTP_BYTES / 16;
    let probe = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    for n in 0..20 {
        world.ask(&format!("192.0.2.{n}"), probe);
        let answered = world.last_requests.iter().flatten();
        let held: u64 = answered.map(|it| it.held().amount()).sum();
        assert!(held <= refused_max, "{held} of {refused_max}");
    }
    let answered = world.last_requests.replace(Vec::new());
    let answered = answered.map_or(0, |all| all.len());
    assert_eq!(answered, 6, "the others are closed");
    world.ask("192.0.2.1", probe);
    assert_eq!(world.last_requests.map_or(0, |all| all.len()), 1);
}
