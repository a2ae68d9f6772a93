//! One client address with many requests delays neither other addresses nor the admin address.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::fixture::{Client, Fixture, get};
use super::gateway::tcp;
use crate::http::caller::ClientAccess;
use crate::http::{Admin, Answer, HttpSettings, Route, Site, StatusCode};
use crate::listening::{ListenAddr, ListenOptions};
use weirgate_runtime::Clock;
use weirgate_wire::admission::{Peer, TrustedProxies};

/// The most answers to others between a request and its answer: those that the thread makes until it looks at its sockets,
/// a few times.
const ANSWERS_TO_OTHERS_MAX: usize = 400;

/// The connections of a flood, and the requests that each sends at once.
const CONNECTIONS: usize = 300;
const REQUESTS: usize = 300;

fn peer(last: u8) -> Peer {
    SocketAddr::from(([192, 0, 2, last], 9)).into()
}

/// A request at `/count` of a client behind a proxy.
fn count_for(last: u8) -> String {
    format!("GET /count HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.{last}\r\n\r\n")
}

/// How many answers others get between a request and its answer, at best: on a busy machine the test itself may have to wait
/// between the two.
fn answers_to_others(fixture: &Fixture, mut client: Client, request: &str) -> usize {
    let between = |client: &mut Client| {
        let before = fixture.counted.load(Relaxed);
        let count: usize = client.ask(request).text().parse().unwrap();
        count - before
    };
    let least = (0..5).map(|_| between(&mut client)).min();
    let all = fixture.counted.load(Relaxed);
    assert!(all < CONNECTIONS * REQUESTS, "the flood has ended");
    least.unwrap()
}

/// Connections from this peer, each with as many of these requests at once.
fn flood(fixture: &Fixture, peer: Peer, request: &str) -> Vec<Client> {
    let requests = request.repeat(REQUESTS);
    let flood = |_| {
        let mut client = fixture.connect_as(peer, "");
        client.send(&requests);
        client
    };
    (0..CONNECTIONS).map(flood).collect()
}

#[test]
fn an_address_that_pipelines_on_many_connections_delays_no_other_address() {
    let fixture = Fixture::new();
    let other = fixture.connect_as(peer(2), "");
    let flood = flood(&fixture, peer(1), &get("/count"));
    let others = answers_to_others(&fixture, other, &get("/count"));
    assert!(others < ANSWERS_TO_OTHERS_MAX, "{others} answers");
    drop(flood);
}

/// All connections are the proxy's.
#[test]
fn a_client_of_a_proxy_that_sends_many_requests_delays_no_other_client_of_it() {
    let access = ClientAccess {
        trusted_proxies: TrustedProxies::Any,
        ..ClientAccess::default()
    };
    let fixture = Fixture::with(HttpSettings {
        access: Arc::new(access),
        ..HttpSettings::default()
    });
    let other = fixture.connect_as(peer(1), "");
    let flood = flood(&fixture, peer(1), &count_for(1));
    let others = answers_to_others(&fixture, other, &count_for(2));
    assert!(others < 2 * ANSWERS_TO_OTHERS_MAX, "{others} answers");
    drop(flood);
}

/// A page of the public port may take as long as it likes.
#[test]
fn the_admin_address_does_not_wait_for_the_public_port() {
    let (admin_has_answered, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let (has_begun, begun) = mpsc::channel();
    let long = Route::get("/long", move |_| {
        has_begun.send(()).unwrap();
        let waited = wait.lock().unwrap().recv_timeout(Duration::from_secs(20));
        match waited {
            Ok(()) => Answer::empty(StatusCode::NO_CONTENT),
            Err(_) => Answer::empty(StatusCode::GATEWAY_TIMEOUT),
        }
    });
    let any = ListenAddr::Tcp(([127, 0, 0, 1], 0).into());
    let probe = Route::get("/probe", |_| Answer::empty(StatusCode::NO_CONTENT));
    let site = Site {
        routes: vec![probe],
        ..Site::default()
    };
    let admin = Admin::bind(&any, &ListenOptions::default(), site, Clock::start()).unwrap();
    let admin_addr = tcp(&admin.local_addr().unwrap().unwrap());
    let fixture = Fixture::of(HttpSettings::default(), [long], Some(admin));
    let mut public = fixture.connect_as(peer(1), get("/long"));
    begun.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(Client::connect(admin_addr).ask(&get("/probe")).status, 204);
    admin_has_answered.send(()).unwrap();
    assert_eq!(public.reply().status, 204);
}
