//! Services that fail, clients that leave, and what the others see of it.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use socket2::SockRef;
use weirgate_test_support::patient;
use weirgate_wire::admission::{Quota, TrustedProxies};

use crate::rig::{Client, Rig, accept, assert_ends, get, ok, post};

const UNREACHABLE: (u16, &str) = (502, r#"{"detail":"Upstream unreachable"}"#);
const TIMEOUT: (u16, &str) = (504, r#"{"detail":"Upstream timeout"}"#);

fn impatient() -> Rig {
    impatient_after(400)
}

fn impatient_after(silence_timeout_ms: u64) -> Rig {
    Rig::with(|settings| settings.limits.silence_timeout_ms = silence_timeout_ms)
}

#[test]
fn a_service_that_is_away_is_unreachable() {
    let mut rig = Rig::new();
    rig.measurement = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = rig.connect("");
    for _ in 0..3 {
        let reply = client.ask(&get("/v1/jobs/x"));
        assert_eq!((reply.status, reply.text()), UNREACHABLE);
        assert_eq!(reply.header("connection"), None);
    }
}

#[test]
fn what_is_no_answer_is_unreachable() {
    let rig = Rig::new();
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    ] {
        let mut client = rig.connect(get("/v1/jobs/x"));
        let mut service = rig.accept();
        service.head_text();
        service.send(answer);
        drop(service);
        let reply = client.reply();
        assert_eq!((reply.status, reply.text()), UNREACHABLE, "{answer:?}");
    }
}

#[test]
fn a_service_that_breaks_off_breaks_the_answer_off() {
    let rig = Rig::new();
    for (head, part) in [
        ("Content-Length: 10", "hello"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked", "ff\r\nhello"),
    ] {
        let mut client = rig.connect(get("/v1/jobs/x"));
        let mut service = rig.accept();
        service.head_text();
        service.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{part}"));
        assert_eq!(client.head().status, 200);
        drop(service);
        let rest = client.end();
        // Neither ten bytes nor a last chunk: nobody takes it for the whole.
        assert!(
            rest.len() < 20 && !rest.ends_with(b"0\r\n\r\n"),
            "{head}: {}",
            rest.escape_ascii()
        );
    }
    rig.wait_for_permits(0);
}

fn text_to_the_end(client: &mut Client) -> String {
    String::from_utf8(client.end()).expect("text")
}

/// A client that gets not one byte of an answer may send the request again. A browser does so by itself, also a POST.
#[test]
fn a_head_that_a_service_has_sent_arrives_whatever_follows() {
    let chunked = "Transfer-Encoding: chunked";
    let long = "x".repeat(200_000);
    let rig = Rig::new();
    for (head, body, sent) in [
        ("Content-Length: 50", "", ""),
        ("Content-Length: 50", "part", "part"),
        ("Content-Length: 300000", &*long, &*long),
        (chunked, "", ""),
        (chunked, "4\r\npart\r\n", "part"),
        (chunked, "4\r\npart\r\nno size\r\n", "part"),
        (chunked, "4\r\npart\r\n5;", "part"),
        (chunked, "ffffffffffffffffff\r\n", ""),
        (chunked, "4\r\npartXX", "part"),
    ] {
        for (is_reset, version) in [(false, 1), (true, 1), (false, 0)] {
            for _ in 0..15 {
                let request = post("/v1/jobs/x", "Content-Length: 2", "{}");
                let request = request.replace("HTTP/1.1", &format!("HTTP/1.{version}"));
                let mut client = rig.connect(request);
                let mut service = rig.accept();
                service.head_text();
                service.take(2);
                service.send(format!("HTTP/1.1 201 Created\r\n{head}\r\n\r\n{body}"));
                if is_reset {
                    let linger = Some(Duration::ZERO);
                    SockRef::from(&service.stream).set_linger(linger).unwrap();
                }
                drop(service);
                let got = text_to_the_end(&mut client);
                let is_broken_off = got.starts_with("HTTP/1.") && got.contains(" 201 Created\r\n");
                // A reset may destroy what has come, so the service has given no answer.
                let is_none = is_reset && got.contains(" 502 Bad Gateway\r\n");
                assert!(
                    is_broken_off || is_none,
                    "{head} {body:.20?} {is_reset}: {got:.200?}"
                );
                let ends = ["0\r\n\r\n"].map(|end| got.ends_with(end));
                assert!(is_none || ends == [false], "{head}: {got:.200?}");
                if !is_reset && version == 1 {
                    let part = &sent[..sent.len().min(4)];
                    assert!(got.contains(part), "{head} {body:.20?}: {got:.200?}");
                }
            }
        }
    }
    rig.wait_for_permits(0);
}

/// The first answer is whole, the second breaks off, and nobody gets the third.
#[test]
fn a_head_arrives_on_a_kept_connection_too() {
    let rig = Rig::new();
    for _ in 0..15 {
        let requests = [1, 2, 3].map(|n| post(&format!("/v1/jobs/{n}"), "Content-Length: 2", "{}"));
        let mut client = rig.connect(requests.concat());
        let mut service = rig.accept();
        service.head_text();
        service.take(2);
        service.send(ok("first"));
        service.head_text();
        service.take(2);
        service.send("HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n");
        drop(service);
        assert_eq!(client.reply().text(), "first");
        let rest = text_to_the_end(&mut client);
        assert!(rest.starts_with("HTTP/1.1 201 Created\r\n"), "{rest:?}");
        assert_eq!(rest.matches("HTTP/1.1").count(), 1, "{rest:?}");
    }
}

#[test]
fn a_service_that_says_nothing_is_a_timeout() {
    let rig = impatient();
    let mut client = rig.connect(get("/v1/jobs/x"));
    let mut service = rig.accept();
    let begun = Instant::now();
    let reply = client.reply();
    assert_eq!((reply.status, reply.text()), TIMEOUT);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_ends(&mut service);
    // The client's connection goes on.
    client.send(get("/v1/jobs/x"));
    let mut service = rig.accept();
    service.head_text();
    service.send(ok("1"));
    assert_eq!(client.reply().text(), "1");
}

#[test]
fn a_service_that_falls_silent_breaks_the_answer_off() {
    let rig = impatient();
    let mut client = rig.connect(get("/v1/jobs/x"));
    let mut service = rig.accept();
    service.head_text();
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhe");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.take(2), b"he");
    assert_eq!(client.end(), b"");
    assert_ends(&mut service);
}

#[test]
fn slow_is_not_silent() {
    let rig = impatient_after(2_000);
    let pause = || std::thread::sleep(Duration::from_millis(500));
    let mut client = rig.connect(post("/v1/jobs/x", "Content-Length: 100000", ""));
    let mut service = rig.accept();
    service.head_text();
    // The client takes longer than a service may.
    std::thread::sleep(Duration::from_millis(3_000));
    for byte in b"slowly" {
        client.send([*byte]);
        assert_eq!(service.take(1), [*byte]);
        pause();
    }
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
    assert_eq!(client.head().status, 200);
    for byte in b"slowly" {
        service.send([*byte]);
        assert_eq!(client.take(1), [*byte]);
        pause();
    }
}

#[test]
fn a_client_that_goes_takes_its_request_with_it() {
    let rig = Rig::new();
    let leave: [fn(Client); 3] = [
        drop,
        |client| client.stream.shutdown(Shutdown::Write).unwrap(),
        |client| {
            let socket = socket2::Socket::from(client.stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        },
    ];
    for leave in leave {
        for begun in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe",
        ] {
            let client = rig.connect(get("/v1/jobs/x"));
            let mut service = rig.accept();
            service.head_text();
            service.send(begun);
            leave(client);
            assert_ends(&mut service);
        }
        let client = rig.connect(post("/v1/jobs/x", "Content-Length: 100000", "he"));
        let mut service = rig.accept();
        service.head_text();
        assert_eq!(service.take(2), b"he");
        leave(client);
        assert_ends(&mut service);
    }
    rig.wait_for_permits(0);
}

#[test]
fn requests_beyond_the_connections_of_a_service_wait_for_one() {
    let rig = Rig::with(|settings| {
        settings.limits.service_connections_max = 2;
        settings.limits.silence_timeout_ms = 1_500;
    });
    let connect = |client: u8| rig.connect_as([192, 0, 2, client].into(), get("/v1/jobs/x"));
    let mut clients: Vec<_> = (0..3).map(connect).collect();
    let mut first = rig.accept();
    let mut second = rig.accept();
    // The other service has permits of its own.
    let mut other = rig.connect(get("/v1/simulation/x"));
    let mut simulation = accept(&rig.simulation);
    simulation.head_text();
    simulation.send(ok("other"));
    assert_eq!(other.reply().text(), "other");
    first.head_text();
    first.send(ok("1"));
    // The third comes where the first was answered, on the very connection.
    first.head_text();
    first.send(ok("1"));
    second.head_text();
    second.send(ok("1"));
    for client in &mut clients {
        assert_eq!(client.reply().text(), "1");
    }
    // Who waits for too long gets no answer from the service.
    let mut clients: Vec<_> = (0..3).map(connect).collect();
    std::thread::sleep(Duration::from_millis(700));
    for service in [&mut first, &mut second] {
        service.head_text();
        service.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe");
    }
    let reply = clients[2].reply();
    assert_eq!((reply.status, reply.text()), TIMEOUT);
    let ended = r#"service="measurement",outcome="no_connection""#;
    rig.wait_for(&format!("weirgate_proxy_requests_total{{{ended}}}"), 1.0);
}

#[test]
fn chunks_without_a_clear_end_end_the_request() {
    let rig = Rig::new();
    for bad in ["x\r\n", "5\nhello", "3\r\nhello\r\n", "0\r\n\n"] {
        let smuggled = bad.to_owned() + &get("/v1/jobs/smuggled");
        let chunked = "Transfer-Encoding: chunked";
        let mut client = rig.connect(post(
            "/v1/jobs/x",
            chunked,
            &format!("2\r\nhe\r\n{smuggled}"),
        ));
        let mut service = rig.accept();
        assert_eq!(client.reply().status, 400, "{bad:?}");
        assert_eq!(client.end(), b"");
        let got = service.end();
        let got = got.escape_ascii().to_string();
        assert!(
            !got.contains("smuggled") && !got.ends_with("0\\r\\n\\r\\n"),
            "{got}"
        );
    }
}

#[test]
fn a_stop_lets_an_answer_finish() {
    let rig = Rig::new();
    let mut client = rig.connect(get("/v1/jobs/x"));
    let mut service = rig.accept();
    service.head_text();
    let stop = rig.stop(Duration::from_secs(60));
    std::thread::sleep(Duration::from_millis(100));
    service.stream.write_all(ok("1").as_bytes()).unwrap();
    assert_eq!(client.reply().text(), "1");
    stop.join().unwrap();
}

#[test]
fn a_client_that_goes_is_seen_behind_what_it_pipelined() {
    let rig = Rig::new();
    let next = get("/v1/jobs/next");
    let half = "GET /v1/jobs/next HTTP/1.1\r\nHost: x\r\nX: ".to_owned() + &"y".repeat(15_000);
    for behind in [
        "G".to_owned(),
        "G".repeat(9_000),
        half,
        next.repeat(5_000),
        next,
    ] {
        for resets in [false, true] {
            let mut client = rig.connect(get("/v1/jobs/x"));
            let mut service = rig.accept();
            service.head_text();
            client.send(&behind);
            std::thread::sleep(Duration::from_millis(50));
            if resets {
                let socket = SockRef::from(&client.stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
            let left = Instant::now();
            drop(client);
            assert_ends(&mut service);
            assert!(
                left.elapsed() < patient(Duration::from_secs(3)),
                "seen late"
            );
        }
    }
    // More than the gateway reads ahead: a reset comes through all the same.
    let mut client = rig.connect(get("/v1/jobs/x"));
    let mut service = rig.accept();
    service.head_text();
    client.stream.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        if client.stream.write(&[b'G'; 64 * 1024]).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let socket = SockRef::from(&client.stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let left = Instant::now();
    assert_ends(&mut service);
    assert!(
        left.elapsed() < patient(Duration::from_secs(3)),
        "seen late"
    );
    rig.wait_for_permits(0);
}

#[test]
fn over_their_limit_small_bodies_take_a_connection_first() {
    let rig = Rig::with(|settings| settings.held = Quota::new("http", 100_000));
    let half = post("/v1/jobs/x", "Content-Length: 60000", "x");
    let mut first = rig.connect(&half);
    rig.wait_for(
        "weirgate_proxy_requests_in_flight{service=\"measurement\"}",
        1.0,
    );
    let over = "weirgate_proxy_ungathered_bodies_total{service=\"measurement\"}";
    assert_eq!(rig.metric(over), 0.0);
    let rest = "y".repeat(59_999);
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n";
    let finish = |client: &mut Client, mut service: Client, text: &str| {
        client.send(&rest);
        assert_eq!(service.take(60_000), format!("x{rest}").as_bytes());
        service.send(format!("{answer}{text}"));
        assert_eq!(client.reply().text(), text);
    };
    let mut second = rig.connect(&half);
    let mut service = rig.accept();
    let head = service.head_text().to_lowercase();
    assert!(head.contains("content-length: 60000\r\n"), "{head}");
    assert_eq!(rig.metric(over), 1.0);
    finish(&mut second, service, "2");
    // The room is free again once a body is on its way.
    first.send(&rest);
    let mut service = rig.accept();
    service.head_text();
    assert_eq!(service.take(60_000).len(), 60_000);
    let mut third = rig.connect(&half);
    rig.wait_for(
        "weirgate_proxy_requests_in_flight{service=\"measurement\"}",
        2.0,
    );
    assert_eq!(rig.metric(over), 1.0);
    service.send(format!("{answer}1"));
    assert_eq!(first.reply().text(), "1");
    third.send(&rest);
    let mut service = rig.accept();
    service.head_text();
    assert_eq!(service.take(60_000).len(), 60_000);
}

#[test]
fn a_small_body_is_whole_before_it_takes_a_connection() {
    let rig = Rig::with(|settings| settings.limits.service_connections_max = 1);
    let mut slow: Vec<_> = (0..3)
        .map(|_| rig.connect(post("/v1/jobs/slow", "Content-Length: 65536", "x")))
        .collect();
    let mut client = rig.connect("");
    let mut ask = |text: &str| {
        client.send(get("/v1/jobs/x"));
        let mut service = rig.accept();
        assert!(service.head_text().starts_with("GET "));
        service.send(format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{text}"
        ));
        assert_eq!(client.reply().text(), text);
    };
    ask("1");
    for client in &mut slow {
        client.send("y");
    }
    ask("2");
    for mut client in slow {
        client.send("z".repeat(65_534));
        let mut service = rig.accept();
        let head = service.head_text().to_lowercase();
        assert!(head.contains("content-length: 65536\r\n"), "{head}");
        let body = service.take(65_536);
        assert_eq!((&body[..3], body.last()), (&b"xyz"[..], Some(&b'z')));
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n3");
        assert_eq!(client.reply().text(), "3");
    }
    // A client that asks before it sends is told to go on.
    let expects = "Content-Length: 2\r\nExpect: 100-continue";
    let mut client = rig.connect(post("/v1/jobs/x", expects, ""));
    assert_eq!(client.head().status, 100);
    client.send("ok");
    let mut service = rig.accept();
    service.head_text();
    assert_eq!(service.take(2), b"ok");
    service.send(ok("4"));
    assert_eq!(client.reply().text(), "4");
}

#[test]
fn an_address_holds_as_many_connections_as_are_free_and_no_more() {
    let waits = r#"weirgate_proxy_address_waits_total{service="measurement"}"#;
    for trusted_proxies in [TrustedProxies::None, TrustedProxies::Any] {
        let is_behind_proxy = trusted_proxies == TrustedProxies::Any;
        let rig = Rig::behind(trusted_proxies, |settings| {
            settings.limits.service_connections_max = 3;
            settings.limits.silence_timeout_ms = 2_000;
        });
        let connect = |client: &str, path: &str, framing: &str| {
            let peer = if is_behind_proxy { "127.0.0.1" } else { client };
            let headers = format!("X-Forwarded-For: {client}{framing}");
            rig.connect_as(peer.parse().unwrap(), post(path, &headers, ""))
        };
        let [greedy, other] = ["192.0.2.1", "192.0.2.2"];
        // An upload and a download, both slow: neither is silent on the service's side.
        let mut upload = connect(greedy, "/v1/jobs/up", "\r\nContent-Length: 100000");
        let mut first = rig.accept();
        first.head_text();
        let mut download = connect(greedy, "/v1/jobs/down", "");
        let mut second = rig.accept();
        second.head_text();
        second.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhe");
        download.head();
        let _third = connect(greedy, "/v1/jobs/third", "\r\nContent-Length: 100000");
        rig.wait_for(waits, 1.0);
        // Another address is served at once.
        let mut client = connect(other, "/v1/jobs/other", "");
        let mut service = rig.accept();
        assert!(service.head_text().starts_with("POST /v1/jobs/other "));
        service.send(ok("1"));
        assert_eq!(client.reply().text(), "1");
        // One that ends makes room for the next of its address.
        drop(download);
        assert!(service.head_text().starts_with("POST /v1/jobs/third "));
        assert_eq!(rig.metric(waits), 1.0);
        // An upload that crawls gives way to another request of its address.
        let mut fourth = connect(greedy, "/v1/jobs/fourth", "");
        let mut service = rig.accept();
        assert!(service.head_text().starts_with("POST /v1/jobs/fourth "));
        assert_eq!(upload.reply().status, 408);
        service.send(ok("4"));
        assert_eq!(fourth.reply().text(), "4");
        rig.wait_for(waits, 2.0);
    }
}

#[test]
fn an_answer_with_too_many_headers_is_told_apart() {
    let rig = Rig::new();
    let answer = |lines: usize| {
        let more: String = (1..lines).map(|n| format!("X-{n}: 1\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{more}\r\n")
    };
    let too_large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(400_000));
    let told = (502, r#"{"detail":"Upstream answer head too large"}"#);
    for (answer, (status, text)) in [
        (answer(100), (200, "")),
        (answer(101), told),
        (too_large, told),
    ] {
        let mut client = rig.connect(get("/v1/jobs/x"));
        let mut service = rig.accept();
        service.head_text();
        service.send(answer);
        let reply = client.reply();
        assert_eq!((reply.status, reply.text()), (status, text));
        drop(service);
    }
    let labels = r#"service="measurement",outcome="answer_head_too_large""#;
    rig.wait_for(&format!("weirgate_proxy_requests_total{{{labels}}}"), 2.0);
}
