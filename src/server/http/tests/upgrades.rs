//! A WebSocket upgrade on a connection that has served plain HTTP goes back to the reactor.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::fixture::{Client, Fixture, LARGE, get, request};
use super::gateway::Running;
use weirgate_core::Limits;

/// Of RFC 6455 §1.3: its accept key is known.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn upgrade(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// A masked text frame; the mask is zero, which is a mask too.
fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn expect_open(client: &mut Client) {
    let reply = client.head();
    assert_eq!(reply.status, 101, "{}", reply.head);
    assert_eq!(reply.header("sec-websocket-accept"), Some(ACCEPT));
}

fn expect_text(client: &mut Client, text: &str) {
    let header = client.take(2);
    assert_eq!(header, [0x81, u8::try_from(text.len()).unwrap()]);
    assert_eq!(client.take(text.len()), text.as_bytes());
}

fn expect_echo(client: &mut Client, text: &str) {
    client.send(text_frame(text));
    expect_text(client, text);
}

#[test]
fn an_upgrade_after_plain_requests_opens_and_counts_once() {
    let gateway = Running::start(Limits::default());
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(client.ask(&get("/health")).status, 200);
    }
    gateway.wait_for("weirgate_connections{phase=\"http\"}", 1);
    client.send(upgrade("/ws", ""));
    expect_open(&mut client);
    expect_echo(&mut client, "hello");
    for (name, value) in [
        ("weirgate_connections{phase=\"http\"}", 0),
        ("weirgate_connections{phase=\"head\"}", 0),
        ("weirgate_connections{phase=\"open\"}", 1),
        ("weirgate_clients", 1),
        ("weirgate_connections_accepted_total", 1),
        ("weirgate_connections_returned_total", 1),
    ] {
        gateway.wait_for(name, value);
    }
    drop(client);
    gateway.wait_for("weirgate_clients", 0);
    gateway.wait_for("weirgate_client_closes_total{reason=\"peer_gone\"}", 1);
}

#[test]
fn the_loop_reads_a_head_and_a_little_of_what_http_gets() {
    let gateway = Running::start(Limits::default());
    for head in [0, 6_000] {
        let head = format!("X: {}\r\nContent-Length: 60000", "x".repeat(head));
        let post = format!("POST /health HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n");
        let mut client = gateway.connect();
        client.send(post.clone() + &"y".repeat(60_000));
        assert_eq!(client.reply().status, 405);
        let read = gateway.handed_over.load(Relaxed);
        assert!(read > post.len() && read <= post.len() + 2 * 1024, "{read}");
    }
}

#[test]
fn answers_before_the_upgrade_come_first_and_frames_behind_it_are_served() {
    let gateway = Running::start(Limits::default());
    let path = |i: usize| ["/health", "/nothing", "/"][i % 3];
    for plain in [1, 2, 300] {
        let mut bytes = Vec::new();
        (0..plain).for_each(|i| bytes.extend(get(path(i)).bytes()));
        bytes.extend(upgrade("/ws", "").bytes());
        bytes.extend(text_frame("first"));
        bytes.extend(text_frame("second"));
        let mut client = gateway.connect();
        client.send(bytes);
        for i in 0..plain {
            assert_eq!(client.reply().status, [200, 404, 200][i % 3], "answer {i}");
        }
        expect_open(&mut client);
        expect_text(&mut client, "first");
        expect_text(&mut client, "second");
        expect_echo(&mut client, "third");
    }
}

#[test]
fn an_upgrade_may_come_byte_by_byte_and_be_cut_anywhere() {
    let gateway = Running::start(Limits::default());
    let whole = upgrade("/ws", "");
    let mut slow = gateway.connect();
    assert_eq!(slow.ask(&get("/health")).status, 200);
    for byte in whole.as_bytes() {
        slow.send([*byte]);
    }
    expect_open(&mut slow);
    for cut in [1, 3, 4, 30, whole.len() - 2, whole.len() - 1] {
        let (first, rest) = whole.split_at(cut);
        let mut client = gateway.connect();
        client.send(get("/health") + first);
        assert_eq!(client.reply().status, 200);
        let mut rest = rest.as_bytes().to_vec();
        rest.extend(text_frame("x"));
        client.send(rest);
        expect_open(&mut client);
        expect_text(&mut client, "x");
    }
}

#[test]
fn a_thousand_requests_and_upgrades_take_turns() {
    let gateway = Running::start(Limits::default());
    let mut opened = 0;
    let mut client = gateway.connect();
    for i in 0..1_000 {
        match i % 10 {
            3 => {
                client.send(request("HEAD", "/health"));
                assert_eq!(client.head().status, 200);
            }
            5 => assert_eq!(client.ask(&request("BREW", "/health")).status, 405),
            9 => {
                client.send(upgrade("/ws", ""));
                expect_open(&mut client);
                expect_echo(&mut client, &format!("message {i}"));
                opened += 1;
                client = gateway.connect();
            }
            _ => assert_eq!(client.ask(&get("/health")).status, 200, "request {i}"),
        }
    }
    drop(client);
    gateway.wait_for("weirgate_connections_returned_total", opened);
    gateway.wait_for("weirgate_connections_accepted_total", opened + 1);
    let gone = "weirgate_client_closes_total{reason=\"peer_gone\"}";
    gateway.wait_for(gone, opened + 1);
    for phase in ["head", "open", "closing", "http"] {
        gateway.wait_for(&format!("weirgate_connections{{phase=\"{phase}\"}}"), 0);
    }
}

#[test]
fn the_reactor_refuses_what_it_would_have_refused_at_first() {
    let gateway = Running::start(Limits::default());
    let old = upgrade("/ws", "").replace("Version: 13", "Version: 8");
    let post = upgrade("/ws", "").replacen("GET", "POST", 1);
    let body = upgrade("/ws", "Content-Length: 4\r\n") + "body";
    for (what, bytes, status) in [
        ("elsewhere", upgrade("/elsewhere", ""), 403),
        ("version 8", old, 426),
        ("POST", post, 405),
        ("with a body", body, 400),
    ] {
        let mut fresh = gateway.connect();
        fresh.send(&bytes);
        let mut kept = gateway.connect();
        assert_eq!(kept.ask(&get("/health")).status, 200);
        kept.send(&bytes);
        let (fresh, kept_reply) = (fresh.reply(), kept.reply());
        assert_eq!(fresh.status, status, "{what}");
        assert_eq!(
            (fresh.head, fresh.body),
            (kept_reply.head, kept_reply.body),
            "{what}"
        );
        assert_eq!(kept.end(), b"", "{what}");
    }
}

#[test]
fn bodies_are_no_place_for_an_upgrade() {
    let gateway = Running::start(Limits::default());
    let upgrade = upgrade("/ws", "");
    let length = upgrade.len();
    for framing in [
        format!("Content-Length: {length}\r\n"),
        "Transfer-Encoding: chunked\r\n".to_owned(),
        "Content-Length: 3\r\n".to_owned(),
    ] {
        for asks_upgrade in ["", "Upgrade: websocket\r\nConnection: Upgrade\r\n"] {
            let mut client = gateway.connect();
            let headers = format!("Host: x\r\n{asks_upgrade}{framing}");
            client.send(format!("POST /http HTTP/1.1\r\n{headers}\r\n{upgrade}"));
            assert_eq!(client.reply().status, 404, "{framing}");
            assert_eq!(client.end(), b"", "{framing}");
        }
    }
    gateway.wait_for("weirgate_connections_returned_total", 0);
}

#[test]
fn an_upgrade_that_the_gateway_wants_served_as_http_does_not_go_round_and_round() {
    let gateway = Running::start(Limits::default());
    let mut client = gateway.connect();
    client.send(upgrade("/http", ""));
    assert_eq!(client.reply().status, 404);
    client.send(upgrade("/http", "").repeat(2));
    assert_eq!(client.reply().status, 404);
    assert_eq!(client.reply().status, 404);
    client.send(upgrade("/ws", ""));
    expect_open(&mut client);
    gateway.wait_for("weirgate_connections_returned_total", 3);
}

#[test]
fn a_client_that_ends_its_half_behind_an_upgrade_is_let_go() {
    let gateway = Running::start(Limits::default());
    let mut client = gateway.connect();
    assert_eq!(client.ask(&get("/health")).status, 200);
    client.send(upgrade("/ws", ""));
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.end();
    let mut half = gateway.connect();
    assert_eq!(half.ask(&get("/health")).status, 200);
    half.send(&upgrade("/ws", "")[..60]);
    half.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.end(), b"");
    for phase in ["head", "open", "closing", "http"] {
        gateway.wait_for(&format!("weirgate_connections{{phase=\"{phase}\"}}"), 0);
    }
}

#[test]
fn a_connection_keeps_its_place_in_the_limits_on_its_way_back() {
    let gateway = Running::start(Limits {
        connections_max: 1,
        ..Limits::default()
    });
    let mut client = gateway.connect();
    assert_eq!(client.ask(&get("/health")).status, 200);
    client.send(upgrade("/ws", ""));
    expect_open(&mut client);
    let mut second = gateway.connect();
    second.send(upgrade("/ws", ""));
    assert_eq!(second.reply().status, 503);
    // A probe is answered without room, and its connection ends.
    let mut probe = gateway.connect();
    assert_eq!(probe.ask(&get("/health")).status, 200);
    assert_eq!(probe.end(), b"");
    expect_echo(&mut client, "still here");
    drop(client);
    drop(second);
    gateway.wait_for("weirgate_connections{phase=\"open\"}", 0);
    gateway.wait_for("weirgate_connections{phase=\"closing\"}", 0);
    assert_eq!(gateway.connect().ask(&get("/health")).status, 200);
}

#[test]
fn the_deadline_of_a_handshake_starts_with_its_own_head() {
    let gateway = Running::start(Limits {
        handshake_us: 500_000,
        ..Limits::default()
    });
    let mut client = gateway.connect();
    assert_eq!(client.ask(&get("/health")).status, 200);
    // Longer than a fresh connection may take.
    thread::sleep(Duration::from_millis(700));
    client.send(upgrade("/ws", ""));
    expect_open(&mut client);
    expect_echo(&mut client, "late");
}

#[test]
fn an_answer_that_the_client_takes_slowly_is_out_before_the_socket_goes_back() {
    let fixture = Fixture::new();
    let mut client = fixture.connect(get("/large") + &upgrade("/ws", "") + "frames");
    client.head();
    thread::sleep(Duration::from_millis(200));
    assert!(fixture.returned.try_recv().is_err(), "back too early");
    client.take(LARGE);
    let returned = fixture.returned.recv_timeout(Duration::from_secs(30));
    let mut returned = returned.unwrap();
    assert_eq!(*returned.read, *(upgrade("/ws", "") + "frames").as_bytes());
    assert_eq!(fixture.taken(), 1);
    // The socket is as the reactor wants it, and nothing was shut down.
    returned.stream.write_all(b"from the reactor").unwrap();
    assert_eq!(client.take(16), b"from the reactor");
    client.send("to it");
    let mut bytes = [0; 8];
    let began = Instant::now();
    let read = loop {
        match std::io::Read::read(&mut returned.stream, &mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(began.elapsed() < Duration::from_secs(30));
                thread::sleep(Duration::from_millis(1));
            }
            read => break read.unwrap(),
        }
    };
    assert_eq!(&bytes[..read], b"to it");
    drop(returned);
    fixture.wait_for_permits(0);
    assert_eq!(client.end(), b"");
}

#[test]
fn a_connection_on_its_way_back_when_nobody_takes_it_is_closed() {
    let fixture = Fixture::new();
    let mut client = fixture.connect(get("/health"));
    assert_eq!(client.reply().status, 200);
    let Fixture {
        plane,
        permits,
        returned,
        ..
    } = fixture;
    drop(returned);
    client.send(upgrade("/ws", ""));
    assert_eq!(client.end(), b"");
    let end = Instant::now() + Duration::from_secs(30);
    while permits.holders() != 0 {
        assert!(Instant::now() < end, "the place is taken");
        thread::sleep(Duration::from_millis(2));
    }
    plane.stop(Duration::ZERO);
}
