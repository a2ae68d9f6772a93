//! The HTTP threads over real sockets: every connection is handed over as the reactor does it.

mod admin;
mod bodies;
mod fixture;
mod gateway;
mod limits;
mod turns;
mod upgrades;

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use self::fixture::{Fixture, LARGE, get, request};
use crate::http::Handover;
use weirgate_test_support::patient;
use weirgate_wire::admission::{ConnectionPermit, HeldBytes, Peer, Transport};

#[test]
fn pipelined_requests_in_the_bytes_read_before_are_all_answered_in_order() {
    let fixture = Fixture::new();
    let path = |i: usize| ["/health", "/nothing"][i % 2];
    // Together more than one head may have, and more than one read takes.
    let pipelined: String = (0..800).map(|i| get(path(i))).collect();
    assert!(pipelined.len() > 16 * 1024);
    let mut client = fixture.connect(&pipelined);
    for i in 0..800 {
        assert_eq!(client.reply().status, [200, 404][i % 2], "answer {i}");
    }
    assert_eq!(client.ask(&get("/health")).status, 200);
}

#[test]
fn a_request_handed_over_half_is_answered_when_the_rest_comes() {
    let fixture = Fixture::new();
    let whole = get("/health");
    for cut in [1, 5, whole.len() - 1, whole.len()] {
        let (first, rest) = whole.split_at(cut);
        let mut client = fixture.connect(first);
        for byte in rest.as_bytes() {
            client.send([*byte]);
        }
        assert_eq!(client.reply().status, 200, "cut at {cut}");
    }
}

#[test]
fn a_connection_serves_a_thousand_requests_and_gives_its_place_back() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("");
    let start = r#"{"service":"gateway","status":"healthy","#;
    for i in 0..1_000 {
        let reply = client.ask(&get("/health"));
        assert_eq!(reply.status, 200, "request {i}");
        assert!(reply.text().starts_with(start));
    }
    assert_eq!(fixture.taken(), 1);
    drop(client);
    fixture.wait_for_permits(0);
}

#[test]
fn unknown_paths_and_wrong_methods_are_told_apart() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("");
    let reply = client.ask(&get("/ws/stream"));
    assert_eq!(
        (reply.status, reply.text()),
        (404, r#"{"detail":"Not Found"}"#)
    );
    for method in ["BREW", "POST", "DELETE", "OPTIONS"] {
        let reply = client.ask(&request(method, "/health"));
        let detail = r#"{"detail":"Method Not Allowed"}"#;
        assert_eq!((reply.status, reply.text()), (405, detail), "{method}");
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("");
    for path in ["/", "/health", "/nothing"] {
        let full = client.ask(&get(path));
        client.send(request("HEAD", path));
        let head = client.head();
        assert_eq!(head.status, full.status);
        assert_eq!(head.header("content-length"), full.header("content-length"));
        assert_eq!(head.header("content-type"), full.header("content-type"));
    }
    // A body would have been taken for the next answer.
    assert_eq!(client.ask(&get("/health")).status, 200);
}

#[test]
fn the_pages_say_what_they_are() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("");
    let page = client.ask(&get("/"));
    let html = "text/html; charset=utf-8";
    assert_eq!(page.header("content-type"), Some(html));
    assert!(page.header("content-security-policy").is_some());
    let metrics = client.ask(&get("/metrics"));
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(metrics.header("content-type"), Some(open_metrics));
    assert!(metrics.text().ends_with("# EOF\n"));
    let accept = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain;version=0.0.4\r\n\r\n";
    let metrics = client.ask(accept);
    let prometheus_text = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(metrics.header("content-type"), Some(prometheus_text));
    assert!(
        metrics
            .text()
            .contains("\n# TYPE weirgate_build_info gauge\n")
    );
    assert!(!metrics.text().contains("# EOF"));
    assert_eq!(client.ask(&get("/ready")).status, 503);
    fixture.telemetry.event_loop.set_caught_up();
    let ready = client.ask(&get("/ready"));
    let all_good = r#"{"ready":true,"reasons":[]}"#;
    assert_eq!((ready.status, ready.text()), (200, all_good));
    for path in ["/health", "/ready", "/stats", "/metrics"] {
        let reply = client.ask(&get(path));
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
}

#[test]
fn an_origin_may_read_answers_and_ask_before() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("");
    let with = |method: &str, headers: &str| {
        format!("{method} /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
    };
    let allowed = "access-control-allow-origin";
    assert_eq!(client.ask(&with("GET", "")).header(allowed), None);
    let asked = client.ask(&with("GET", "Origin: https://a.example\r\n"));
    assert_eq!(asked.header(allowed), Some("*"));
    let preflight = client.ask(&with(
        "OPTIONS",
        "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n",
    ));
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header(allowed), Some("*"));
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(client.reply().status, 200);
    assert_eq!(client.end(), b"");
}

#[test]
fn http_1_0_keeps_the_connection_if_asked_while_requests_are_read_to_their_end() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("");
    for _ in 0..3 {
        let reply = client.ask("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(reply.header("connection"), Some("keep-alive"));
    }
    // Its body stays unread.
    let unread = "POST /deaf HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 100\r\n\r\na";
    assert_eq!(client.ask(unread).header("connection"), Some("close"));
    assert_eq!(client.end(), b"");
}

#[test]
fn a_client_that_ends_its_half_still_gets_its_answers() {
    let fixture = Fixture::new();
    let mut client = fixture.connect("");
    client.send(get("/health") + &get("/large"));
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply().status, 200);
    assert_eq!(client.reply().body.len(), LARGE);
    assert_eq!(client.end(), b"");
}

#[test]
fn resets_leave_nothing_behind() {
    let fixture = Fixture::new();
    for i in 0..200 {
        let client = fixture.connect(get(["/large", "/health", "/"][i % 3]));
        let socket = socket2::Socket::from(client.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    fixture.wait_for_permits(0);
    assert_eq!(fixture.connect(get("/health")).reply().status, 200);
}

#[test]
fn stopping_ends_idle_connections_at_once() {
    let fixture = Fixture::new();
    let mut idle = fixture.connect(get("/health"));
    idle.reply();
    let mut fresh = fixture.connect("");
    // Behind `fresh` in the queue: once it is answered, both are in the thread's hands.
    let mut last = fixture.connect(get("/health"));
    last.reply();
    let began = Instant::now();
    fixture.plane.stop(Duration::from_secs(300));
    let took = began.elapsed();
    assert!(took < patient(Duration::from_secs(2)), "{took:?}");
    for client in [&mut idle, &mut fresh, &mut last] {
        assert_eq!(client.end(), b"");
    }
    assert_eq!(fixture.permits.holders(), 0);
}

#[test]
fn stopping_ends_what_does_not_end_itself_at_the_deadline() {
    let fixture = Fixture::new();
    // More than the kernel's buffers hold, and nobody reads it.
    let mut stuck = fixture.connect(get("/large").repeat(3));
    stuck.head();
    let began = Instant::now();
    fixture.plane.stop(Duration::from_millis(300));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(250), "{took:?}");
    assert!(took < patient(Duration::from_secs(2)), "{took:?}");
    stuck.end();
    assert_eq!(fixture.permits.holders(), 0);
}

#[test]
fn a_hand_over_after_the_stop_closes_the_connection_and_frees_its_place() {
    let fixture = Fixture::new();
    fixture.plane.stop(Duration::ZERO);
    let mut late = TcpStream::connect(fixture.listener.local_addr().unwrap()).unwrap();
    let (stream, peer) = fixture.listener.accept().unwrap();
    fixture.handle.serve(Handover {
        stream,
        tls: None,
        read: HeldBytes::new(
            &fixture.held,
            Peer::from(peer).client(),
            get("/health").into_bytes(),
            0,
        ),
        peer: peer.into(),
        permit: ConnectionPermit::new(
            &fixture.permits,
            Peer::from(peer).client(),
            Transport::Plain,
            0,
        ),
    });
    assert_eq!(fixture.permits.holders(), 0);
    assert_eq!(late.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn an_answer_on_its_way_is_finished_before_the_stop() {
    let fixture = Fixture::new();
    let mut client = fixture.connect(get("/large"));
    client.head();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        client.take(LARGE).len()
    });
    fixture.plane.stop(Duration::from_secs(60));
    assert_eq!(reader.join().unwrap(), LARGE);
}
