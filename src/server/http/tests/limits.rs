//! What is cut, refused or let go, and when.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::fixture::{Fixture, LARGE, get};
use crate::http::HttpSettings;
use weirgate_core::CloseReason;
use weirgate_test_support::patient;
use weirgate_wire::admission::Quota;

#[test]
fn a_body_that_never_comes_does_not_hold_the_connection() {
    let fixture = Fixture::new();
    let began = Instant::now();
    let post = "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx";
    let mut client = fixture.connect(post);
    let reply = client.reply();
    assert_eq!(reply.status, 405);
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(client.end(), b"");
    // The client does not hang up: the place is free all the same.
    fixture.wait_for_permits(0);
    assert!(began.elapsed() < patient(Duration::from_secs(3)));
}

#[test]
fn bytes_after_a_body_that_nobody_reads_are_no_second_request() {
    let fixture = Fixture::new();
    for framing in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Transfer-Encoding: chunked",
        "Content-Length: 5",
    ] {
        let smuggled = get("/health");
        let first = format!("GET /health HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n0\r\n\r\n");
        let mut client = fixture.connect(first + &smuggled);
        client.reply();
        assert_eq!(client.end(), b"", "{framing}");
    }
}

#[test]
fn a_slow_head_is_cut_however_it_dribbles_and_an_idle_connection_is_not() {
    let fixture = Fixture::with(HttpSettings {
        head_timeout_ms: 300,
        idle_timeout_ms: 60_000,
        ..HttpSettings::default()
    });
    let mut idle = fixture.connect("");
    let mut slow = fixture.connect("GET /health HTTP/1.1\r\nX-Slow: ");
    let patience = Some(Duration::from_millis(20));
    slow.stream.set_read_timeout(patience).unwrap();
    let began = Instant::now();
    loop {
        let _ = slow.stream.write_all(b"a");
        match slow.stream.read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => break,
            Ok(_) => panic!("an answer to half a head"),
        }
        assert!(began.elapsed() < Duration::from_secs(30), "still open");
    }
    assert!(began.elapsed() >= Duration::from_millis(250));
    fixture.wait_for_permits(1);
    assert_eq!(idle.ask(&get("/health")).status, 200);
}

#[test]
fn an_idle_connection_ends_and_a_busy_one_does_not() {
    let fixture = Fixture::with(HttpSettings {
        idle_timeout_ms: 1_500,
        ..HttpSettings::default()
    });
    let mut silent = fixture.connect("");
    let mut served = fixture.connect(get("/health"));
    let mut busy = fixture.connect("");
    for _ in 0..40 {
        assert_eq!(busy.ask(&get("/health")).status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(silent.end(), b"");
    served.reply();
    assert_eq!(served.end(), b"");
    assert_eq!(busy.ask(&get("/health")).status, 200);
    fixture.wait_for_permits(1);
}

#[test]
fn heads_that_are_too_large_and_what_is_no_head_are_refused() {
    let fixture = Fixture::new();
    let large = "a".repeat(20 * 1024);
    let headers = |n: usize| -> String { (0..n).map(|i| format!("X-{i}: a\r\n")).collect() };
    let head = |headers: &str| format!("GET /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    for (name, bytes, status) in [
        ("20 KiB header", head(&format!("X: {large}\r\n")), 431),
        ("20 KiB target", get(&format!("/{large}")), 414),
        ("101 headers", head(&headers(100)), 431),
        ("100 headers", head(&headers(99)), 200),
        ("no Host", "GET /health HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("two Hosts", head("Host: y\r\n"), 400),
        ("space before the colon", head("X-A : b\r\n"), 400),
        ("NUL in a value", head("X-A: a\0b\r\n"), 400),
        ("no version", "GET /\r\n\r\n".to_owned(), 400),
        (
            "HTTP/9.9",
            "GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(),
            505,
        ),
        ("TLS hello", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400),
    ] {
        let mut over_socket = fixture.connect("");
        over_socket.send(&bytes);
        assert_eq!(over_socket.reply().status, status, "{name}");
        let mut read_before = fixture.connect(&bytes);
        assert_eq!(read_before.reply().status, status, "{name}, read before");
    }
}

#[test]
fn a_head_without_end_is_cut_early() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("GET /health HTTP/1.1\r\nHost: x\r\nX: ");
    let chunk = [b'a'; 64 * 1024];
    let patience = Some(Duration::from_secs(30));
    client.stream.set_write_timeout(patience).unwrap();
    let mut sent = 0;
    while sent < 64 << 20 && client.stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    // Beyond our limits only what the kernel's buffers hold.
    assert!(sent < 32 << 20, "took {sent} bytes");
    fixture.wait_for_permits(0);
}

#[test]
fn over_their_limit_bytes_that_came_with_connections_give_way() {
    let held = Quota::new("http", 20_000);
    let fixture = Fixture::with(HttpSettings {
        held: held.clone(),
        ..HttpSettings::default()
    });
    let small = fixture.connect(get("/never") + "G");
    let mut clients: Vec<_> = (0..5)
        .map(|_| fixture.connect(get("/never") + &"G".repeat(9_000)))
        .collect();
    let end = Instant::now() + Duration::from_secs(30);
    while fixture.handle.next_end() != Some(CloseReason::HttpMemory) {
        assert!(Instant::now() < end, "{held:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    while fixture.taken() > 2 || held.held() > 20_000 {
        assert!(Instant::now() < end, "{held:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    // The one that holds little stays.
    small.stream.set_nonblocking(true).unwrap();
    let read = (&small.stream).read(&mut [0; 1]);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(clients[0].stream.read(&mut [0; 1]).is_err(), "reset");
    drop((small, clients));
    fixture.wait_for_permits(0);
    assert_eq!(held.held(), 0);
}

#[test]
fn a_slow_reader_may_take_longer_than_the_idle_limit() {
    let fixture = Fixture::with(HttpSettings {
        idle_timeout_ms: 500,
        ..HttpSettings::default()
    });
    // More than the client's receive buffer can hold.
    let mut client = fixture.connect(get("/large").repeat(4));
    let began = Instant::now();
    for _ in 0..4 {
        client.head();
        let mut left = LARGE;
        while left > 0 {
            let part = left.min(200_000);
            client.take(part);
            left -= part;
            std::thread::sleep(Duration::from_millis(25));
        }
    }
    assert!(began.elapsed() > Duration::from_millis(1_000));
}

#[test]
fn a_client_that_never_reads_is_let_go() {
    let fixture = Fixture::with(HttpSettings {
        idle_timeout_ms: 300,
        ..HttpSettings::default()
    });
    let _client = fixture.connect(get("/large").repeat(20));
    fixture.wait_for_permits(0);
}
