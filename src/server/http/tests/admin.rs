//! The admin listener: which pages are where, and that it answers when the loop does not.

use std::future::pending;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::Notify;

use super::bodies::routes;
use super::fixture::{Client, get, request};
use super::gateway::{Running, tcp};
use crate::http::{Admin, Answer, Cors, Handler, HttpPlane, HttpSettings, Route, Site, StatusCode};
use crate::listening::{ListenAddr, ListenOptions};
use weirgate_core::Limits;
use weirgate_runtime::Clock;
use weirgate_test_support::patient;

fn status(addr: SocketAddr, path: &str) -> u16 {
    Client::connect(addr).ask(&get(path)).status
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[test]
fn the_operators_pages_are_on_the_admin_address_alone() {
    let gateway = Running::start(Limits::default());
    for (path, public, admin) in [
        ("/health", 200, 200),
        ("/", 200, 307),
        ("/operator/", 404, 200),
        ("/metrics", 404, 200),
        ("/stats", 404, 200),
        ("/internal/none", 404, 404),
    ] {
        assert_eq!(status(gateway.addr, path), public, "{path}");
        assert_eq!(status(gateway.admin, path), admin, "{path}, admin");
    }
    assert_eq!(status(gateway.addr, "/ready"), 404);
    let mut probe = Client::connect(gateway.admin);
    let end = Instant::now() + Duration::from_secs(30);
    while probe.ask(&get("/ready")).status != 200 {
        assert!(Instant::now() < end, "not ready");
    }
    let wrong = probe.ask(&request("POST", "/stats"));
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[test]
fn there_is_no_websocket_on_the_admin_address() {
    let gateway = Running::start(Limits::default());
    let mut fresh = Client::connect(gateway.admin);
    let mut kept = Client::connect(gateway.admin);
    assert_eq!(kept.ask(&get("/health")).status, 200);
    for client in [&mut fresh, &mut kept] {
        let reply = client.ask(UPGRADE);
        assert_eq!(
            (reply.status, reply.text()),
            (403, r#"{"detail":"No WebSocket here"}"#)
        );
        assert_eq!(client.end(), b"");
    }
    gateway.wait_for("weirgate_connections_returned_total", 0);
}

#[test]
fn ready_tells_that_the_loop_hangs_and_that_it_turns_again() {
    let gateway = Running::start(Limits::default());
    let mut client = gateway.connect();
    client.send(UPGRADE);
    assert_eq!(client.head().status, 101);
    let mut probe = Client::connect(gateway.admin);
    let wait_for = |probe: &mut Client, status: u16| {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let reply = probe.ask(&get("/ready"));
            if reply.status == status {
                break reply;
            }
            assert!(Instant::now() < end, "/ready is {}", reply.text());
            thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for(&mut probe, 200);
    let hang = "hang 3000";
    let mut frame = vec![0x81, 0x80 | hang.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(hang.as_bytes());
    client.send(frame);
    let hangs = wait_for(&mut probe, 503);
    let stalled = r#"{"ready":false,"reasons":["loop_stalled"]}"#;
    assert_eq!(hangs.text(), stalled);
    // A new connection is answered too, and what the process counts can be read.
    assert_eq!(status(gateway.admin, "/metrics"), 200);
    wait_for(&mut probe, 200);
}

#[test]
fn a_page_that_reads_while_turns_end_does_not_hold_up_the_loop() {
    let gateway = Running::start(Limits::default());
    let event_loop = &gateway.telemetry.event_loop;
    let turns = || event_loop.durations.turns.counts().count();
    gateway.wait_for("weirgate_clients ", 0);
    let (before, mut client) = (turns(), gateway.connect());
    event_loop.read(|numbers| {
        client.send(UPGRADE);
        assert_eq!(client.head().status, 101);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(numbers.hub.open, 0, "changed under a reader");
    });
    gateway.wait_for("weirgate_clients ", 1);
    // The loop did not wait for an event, nor for its next idle turn.
    assert!(turns() - before > 20, "{} turns", turns() - before);
}

/// An admin listener with these routes and those of `bodies`.
fn serve(more: impl IntoIterator<Item = Route>) -> (HttpPlane, SocketAddr) {
    let site = Site {
        routes: routes().into_iter().chain(more).collect(),
        ..Site::default()
    };
    let admin = bind("127.0.0.1:0", site).unwrap();
    let addr = tcp(&admin.local_addr().unwrap().unwrap());
    let settings = HttpSettings::default();
    let plane = HttpPlane::start(Site::default(), Some(admin), settings, Clock::start());
    (plane.unwrap(), addr)
}

/// A client at 127.0.0.`last`.
fn connect_from(last: u8, addr: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source = SocketAddr::from(([127, 0, 0, last], 0));
    socket.bind(&source.into()).unwrap();
    socket.connect(&addr.into()).unwrap();
    Client::new(socket.into())
}

/// Requests that wait: `/held` until the end of the test, `/change` until they are told to go on.
#[derive(Clone, Default)]
struct Held {
    begun: Arc<AtomicUsize>,
    go_on: Arc<Notify>,
}

impl Held {
    fn routes(&self) -> [Route; 2] {
        let (held, change) = (self.clone(), self.clone());
        let held = Handler::later(move |_, _| {
            held.begun.fetch_add(1, Relaxed);
            pending()
        });
        let change = Handler::later(move |_, body| {
            let held = change.clone();
            async move {
                let _ = body.read(100).await;
                held.begun.fetch_add(1, Relaxed);
                held.go_on.notified().await;
                Answer::empty(StatusCode::NO_CONTENT).into()
            }
        });
        [("/held", held), ("/change", change)].map(|(path, answer)| Route {
            path,
            methods: Route::ANY_METHOD,
            answer,
        })
    }

    fn wait_for_begun(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.begun.load(Relaxed) < count {
            assert!(Instant::now() < end, "{} begun", self.begun.load(Relaxed));
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn more_connections_than_there_are_places_wait_while_all_have_a_request() {
    let (_plane, addr) = serve([]);
    let mut held: Vec<Client> = (0..64).map(|_| Client::connect(addr)).collect();
    let (slow, never) = held.split_at_mut(1);
    never
        .iter_mut()
        .for_each(|client| client.send(get("/never")));
    thread::sleep(Duration::from_millis(200));
    slow[0].send(get("/slow"));
    thread::sleep(Duration::from_millis(100));
    let mut waiting = Client::connect(addr);
    waiting.send(get("/deaf"));
    let soon = Some(Duration::from_millis(100));
    waiting.stream.set_read_timeout(soon).unwrap();
    assert!(waiting.stream.peek(&mut [0; 1]).is_err(), "served at once");
    // The slow answer is not cut; behind it the connection is idle.
    assert_eq!(slow[0].reply().status, 200);
    let patience = Some(Duration::from_secs(30));
    waiting.stream.set_read_timeout(patience).unwrap();
    assert_eq!(waiting.reply().status, 413);
    assert_eq!(slow[0].end(), b"");
}

#[test]
fn silent_connections_make_room_the_oldest_first() {
    let gateway = Running::start(Limits::default());
    let mut silent: Vec<Client> = (0..64).map(|_| Client::connect(gateway.admin)).collect();
    for client in &mut silent[..32] {
        client.send("GET /health HTTP/1.1\r\n");
    }
    for oldest in 0..3 {
        let mut probe = Client::connect(gateway.admin);
        let soon = Some(patient(Duration::from_secs(3)));
        probe.stream.set_read_timeout(soon).unwrap();
        assert_eq!(probe.ask(&get("/health")).status, 200);
        // The probe keeps its connection, so one of the silent ones ends for each.
        assert_eq!(silent[oldest].end(), b"");
        silent.push(probe);
    }
    for client in &mut silent[60..] {
        assert_eq!(client.ask(&get("/health")).status, 200);
    }
}

#[test]
fn connections_between_two_requests_make_room_and_those_with_a_request_do_not() {
    let gateway = Running::start(Limits::default());
    let mut kept: Vec<Client> = (0..64).map(|_| Client::connect(gateway.admin)).collect();
    for client in &mut kept {
        assert_eq!(client.ask(&get("/health")).status, 200);
    }
    // The one that asked first has asked again since.
    assert_eq!(kept[0].ask(&get("/health")).status, 200);
    for oldest in 1..4 {
        let mut probe = Client::connect(gateway.admin);
        let soon = Some(patient(Duration::from_secs(3)));
        probe.stream.set_read_timeout(soon).unwrap();
        assert_eq!(probe.ask(&get("/ready")).status, 200);
        assert_eq!(kept[oldest].end(), b"");
        kept.push(probe);
    }
    assert_eq!(kept[0].ask(&get("/health")).status, 200);
}

/// A body that does not come, and an answer that is not read, hold a place for two seconds.
#[test]
fn requests_whose_clients_owe_bytes_make_room() {
    let gateway = Running::start(Limits::default());
    let owed = "POST /operator/disconnect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
        Content-Length: 16000\r\n\r\n{";
    let mut clients: Vec<Client> = (0..64).map(|_| Client::connect(gateway.admin)).collect();
    for client in &mut clients {
        client.send(owed);
    }
    let mut probes: Vec<Client> = (0..3)
        .map(|_| {
            let mut probe = Client::connect(gateway.admin);
            let soon = Some(patient(Duration::from_secs(5)));
            probe.stream.set_read_timeout(soon).unwrap();
            assert_eq!(probe.ask(&get("/ready")).status, 200);
            probe
        })
        .collect();
    // The probes are idle, so they make room before requests do.
    assert_eq!(status(gateway.admin, "/health"), 200);
    assert_eq!(probes[0].end(), b"");
}

/// A client that has its next request there before each answer has none under way for no moment.
#[test]
fn clients_that_pipeline_make_room() {
    let (_plane, addr) = serve([]);
    let of_one: fn(u8) -> u8 = |_| 2;
    for source in [of_one, |n| 2 + n] {
        let clients = (0..64).map(|n| connect_from(source(n), addr));
        let mut clients: Vec<Client> = clients.collect();
        for client in &mut clients {
            client.send(get("/slow").repeat(1_000));
        }
        for client in &mut clients {
            assert_eq!(client.reply().status, 200);
        }
        // Also for one of an address of theirs.
        for probe in [99, 2] {
            let mut probe = connect_from(probe, addr);
            assert_eq!(probe.ask(&get("/deaf")).status, 413);
        }
    }
}

/// A few bytes of a body now and then, just above the least speed, hold no place.
#[test]
fn clients_that_trickle_a_body_make_room() {
    let (_plane, addr) = serve([]);
    let mut clients: Vec<Client> = (0..64).map(|_| connect_from(2, addr)).collect();
    for client in &mut clients {
        client.send("POST /whole/x HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n");
    }
    let (stop, stopped) = mpsc::channel::<()>();
    let trickle = thread::spawn(move || {
        let pause = Duration::from_millis(50);
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            for client in &mut clients {
                // Some have ended.
                let _ = client.stream.write(&[b'x'; 64]);
            }
        }
    });
    for probe in [3, 2] {
        let mut probe = connect_from(probe, addr);
        assert_eq!(probe.ask(&get("/deaf")).status, 413);
    }
    drop(stop);
    trickle.join().unwrap();
}

/// All have their first request under way. The change is the oldest, and is answered all the same.
#[test]
fn of_an_address_with_more_connections_a_question_ends_and_not_a_change() {
    let held = Held::default();
    let (_plane, addr) = serve(held.routes());
    let mut change = connect_from(2, addr);
    change.send(request("POST", "/change"));
    held.wait_for_begun(1);
    let mut oldest = connect_from(2, addr);
    oldest.send(get("/held"));
    held.wait_for_begun(2);
    let mut clients: Vec<Client> = (2..64).map(|_| connect_from(2, addr)).collect();
    for client in &mut clients {
        client.send(get("/held"));
    }
    held.wait_for_begun(64);
    let mut probe = connect_from(3, addr);
    assert_eq!(probe.ask(&get("/deaf")).status, 413);
    assert_eq!(oldest.end(), b"");
    held.go_on.notify_one();
    assert_eq!(change.head().status, 204);
}

/// Those that wait for a place keep nobody of another address waiting, however many there are.
#[test]
fn of_those_that_wait_the_newest_of_the_address_with_the_most_ends() {
    let held = Held::default();
    let (_plane, addr) = serve(held.routes());
    let connect = |count| (0..count).map(|_| connect_from(2, addr)).collect();
    let mut clients: Vec<Client> = connect(Admin::CONNECTIONS_MAX);
    for client in &mut clients {
        client.send(get("/held"));
    }
    held.wait_for_begun(64);
    let mut waiting: Vec<Client> = connect(Admin::WAITING_MAX);
    for client in &mut waiting {
        client.send(get("/deaf"));
    }
    let mut too_many: Vec<Client> = connect(3);
    for client in &mut too_many {
        assert_eq!(client.end(), b"");
    }
    let mut probe = connect_from(3, addr);
    assert_eq!(probe.ask(&get("/deaf")).status, 413);
    // A place that is given back is for the first that waits.
    clients.clear();
    for mut client in waiting {
        assert_eq!(client.reply().status, 413);
    }
}

/// However a client leaves, its connection waits no longer, and its request is not carried out.
#[test]
fn connections_that_wait_and_whose_clients_have_left_give_way() {
    let held = Held::default();
    let (_plane, addr) = serve(held.routes());
    let connect = |count, path| -> Vec<Client> {
        let mut clients: Vec<Client> = (0..count).map(|_| connect_from(2, addr)).collect();
        clients.iter_mut().for_each(|client| client.send(get(path)));
        clients
    };
    let clients = connect(Admin::CONNECTIONS_MAX, "/held");
    held.wait_for_begun(64);
    let [closed, reset, half_closed] = [(); 3].map(|()| connect(1, "/held").remove(0));
    let waiting = connect(Admin::WAITING_MAX - 3, "/deaf");
    drop(closed);
    SockRef::from(&reset.stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(reset);
    half_closed.stream.shutdown(Shutdown::Write).unwrap();
    let late = connect(3, "/deaf");
    // Without room for them, the newest would end by now.
    thread::sleep(Duration::from_millis(200));
    drop(clients);
    for mut client in waiting.into_iter().chain(late) {
        assert_eq!(client.reply().status, 413);
    }
    assert_eq!(held.begun.load(Relaxed), 64);
}

/// `/never` never answers: whoever reaches it holds a place.
#[test]
fn pages_of_other_origins_hold_no_place() {
    let site = Site {
        routes: routes(),
        cors: Cors::Listed(vec!["https://ops.example".to_owned()]),
        ..Site::default()
    };
    let admin = bind("127.0.0.1:0", site).unwrap();
    let addr = tcp(&admin.local_addr().unwrap().unwrap());
    let settings = HttpSettings::default();
    let _plane = HttpPlane::start(Site::default(), Some(admin), settings, Clock::start()).unwrap();
    let with = |path: &str, lines: &str| {
        get(path).replacen("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"), 1)
    };
    for lines in [
        "Origin: https://elsewhere.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site\r\nSec-Fetch-Dest: image",
        "Origin: https://elsewhere.example\r\nSec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: iframe",
    ] {
        for _ in 0..Admin::CONNECTIONS_MAX {
            let mut client = Client::connect(addr);
            assert_eq!(client.ask(&with("/never", lines)).status, 403, "{lines}");
            assert_eq!(client.end(), b"", "{lines}");
        }
    }
    for lines in [
        "Origin: https://ops.example",
        "Origin: http://127.0.0.1\r\nSec-Fetch-Site: same-origin",
        "Sec-Fetch-Site: none",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: document",
    ] {
        assert_eq!(
            Client::connect(addr).ask(&with("/none", lines)).status,
            404,
            "{lines}"
        );
    }
}

fn bind(addr: &str, site: Site) -> std::io::Result<Admin> {
    let addr = ListenAddr::Tcp(addr.parse().unwrap());
    let options = ListenOptions::default();
    Admin::bind(&addr, &options, site, Clock::start())
}

#[test]
fn a_silent_connection_has_the_time_of_a_head() {
    let admin = bind("127.0.0.1:0", Site::default()).unwrap();
    let addr = tcp(&admin.local_addr().unwrap().unwrap());
    let settings = HttpSettings {
        head_timeout_ms: 300,
        ..HttpSettings::default()
    };
    let _plane = HttpPlane::start(Site::default(), Some(admin), settings, Clock::start()).unwrap();
    let mut silent = Client::connect(addr);
    let mut kept = Client::connect(addr);
    assert_eq!(kept.ask(&get("/x")).status, 404);
    assert_eq!(silent.end(), b"");
    // Behind its first request a connection may idle.
    assert_eq!(kept.ask(&get("/x")).status, 404);
}

#[test]
fn an_address_in_use_is_told_at_the_start() {
    let first = bind("127.0.0.1:0", Site::default()).unwrap();
    let second = bind(
        &first.local_addr().unwrap().unwrap().to_string(),
        Site::default(),
    );
    let error = second.err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
